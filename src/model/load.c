/* load.c - weights from a Hugging Face folder or a GGUF file into the parameter table
 * (zb_model_open in model.h).
 *
 * Every declared parameter must be there with its shape. Matrices stay as they are stored when the
 * model is opened for running; vectors and the small gate parameters always become f32, as do all
 * parameters for training. A GGUF file of the llama architecture has the rows of q and k of each
 * head permuted from halves to interleaved pairs (row 2i+s holds the base's row s·dh/2 + i); whole
 * rows are moved back, packed or not. Its Llama-3 rotary scaling comes as divisors per frequency
 * (rope_freqs.weight), from which factor and bounds are recovered. */
#include "base/file.h"
#include "model/model_impl.h"

#include <math.h>
#include <string.h>

static zb_status check_shape(const zb_param *p, const zb_tensor *t, const char *path, zb_err *err) {
    char found[96];
    bool ok = t->n_dims == p->n_dims;
    for (int i = 0; ok && i < p->n_dims; i++) ok = t->shape[i] == p->shape[i];
    /* a convolution may be stored without its middle axis of 1 */
    if (!ok && p->n_dims == 3 && t->n_dims == 2)
        ok = t->shape[0] == p->shape[0] && t->shape[1] == p->shape[2];
    if (!ok) {
        char want[64] = "";
        for (int i = 0; i < p->n_dims; i++)
            snprintf(want + strlen(want), sizeof want - strlen(want), "%s%lld", i ? "," : "",
                     (long long)p->shape[i]);
        return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor %s: expected [%s], found %s", path, t->name,
                       want, zb_tensor_shape_text(t, found));
    }
    if (!zb_dtype_get(t->dtype)->real)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: tensor %s: expected floating-point values, found %s", path, t->name,
                       zb_tensor_shape_text(t, found));
    return ZB_OK;
}

static bool wants_f32(const zb_param *p, zb_model_mode mode) {
    return mode == ZB_MODEL_TRAIN || p->n_dims != 2 || p->role == ZB_ROLE_GATE ||
           p->role == ZB_ROLE_NORM;
}

/* Value of one parameter; `source` gives the row of the file for each row, NULL: the same. */
static void take(zb_model *m, zb_param *p, const zb_tensor *t, const int *source,
                 zb_model_mode mode) {
    size_t bytes = 0;
    bool ok = zb_dtype_size(t->dtype, p->cols, &bytes);
    const uint8_t *from = t->data;
    if (wants_f32(p, mode) || !ok) {
        zb_param_own(m, p);
        if (!source) {
            zb_dtype_to_f32(t->dtype, from, p->w, zb_param_count(p));
            return;
        }
        for (int r = 0; r < p->rows; r++)
            zb_dtype_to_f32(t->dtype, from + (size_t)source[r] * bytes, p->w + (size_t)r * p->cols,
                            p->cols);
        return;
    }
    p->dtype = t->dtype;
    p->data = from;
    if (!source) return;
    uint8_t *moved = zb_alloc_array(&m->arena, (size_t)p->rows, bytes);
    for (int r = 0; r < p->rows; r++)
        memcpy(moved + (size_t)r * bytes, from + (size_t)source[r] * bytes, bytes);
    p->data = moved;
}

/* Buffers that some exporters write beside the weights. */
static bool is_known_buffer(const char *name) {
    return strstr(name, "rotary_emb.inv_freq") != NULL;
}

static zb_status load_folder(zb_model *m, const char *dir, zb_model_mode mode, zb_err *err) {
    ZB_TRY(zb_config_read(&m->config, dir, err));
    ZB_TRY(zb_safetensors_open_dir(&m->file, dir, err));
    /* a tied model may store its head again, and a folder may leave the tie to the absence of the
     * head */
    if (!zb_safetensors_find(m->file, "lm_head.weight")) m->config.tied = true;
    zb_params_declare(&m->params, &m->config, &m->arena);
    size_t used = 0;
    for (int i = 0; i < m->params.n; i++) {
        zb_param *p = &m->params.item[i];
        const zb_tensor *t = zb_safetensors_find(m->file, p->name);
        if (!t) return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor %s is missing", dir, p->name);
        ZB_TRY(check_shape(p, t, dir, err));
        take(m, p, t, NULL, mode);
        used++;
    }
    for (size_t i = 0; used < zb_safetensors_count(m->file) && i < zb_safetensors_count(m->file);
         i++) {
        const char *name = zb_safetensors_at(m->file, i)->name;
        bool tied_head = m->config.tied && !strcmp(name, "lm_head.weight");
        if (!zb_params_find(&m->params, name) && !is_known_buffer(name) && !tied_head)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: tensor %s does not belong to the model that config.json describes",
                           dir, name);
    }
    return ZB_OK;
}

/* ---- GGUF ---- */

/* Name of a parameter in GGUF's llama architecture, or NULL. */
static const char *gguf_name(const zb_param *p, char out[96]) {
    static const char *const map[][2] = {
        {"input_layernorm.", "attn_norm."},    {"self_attn.q_proj.", "attn_q."},
        {"self_attn.k_proj.", "attn_k."},      {"self_attn.v_proj.", "attn_v."},
        {"self_attn.o_proj.", "attn_output."}, {"post_attention_layernorm.", "ffn_norm."},
        {"mlp.gate_proj.", "ffn_gate."},       {"mlp.up_proj.", "ffn_up."},
        {"mlp.down_proj.", "ffn_down."},
    };
    if (!strcmp(p->name, "model.embed_tokens.weight")) return "token_embd.weight";
    if (!strcmp(p->name, "model.norm.weight")) return "output_norm.weight";
    if (!strcmp(p->name, "lm_head.weight")) return "output.weight";
    const char *tail = strchr(p->name + strlen("model.layers."), '.') + 1;
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++) {
        size_t n = strlen(map[i][0]);
        if (strncmp(tail, map[i][0], n)) continue;
        snprintf(out, 96, "blk.%d.%s%s", p->layer, map[i][1], tail + n);
        return out;
    }
    return NULL;
}

/* For q and k: the file's row of each of our rows. */
static int *permuted_rows(const zb_config *c, const zb_param *p, zb_arena *a) {
    if (!strstr(p->name, "self_attn.q_proj.") && !strstr(p->name, "self_attn.k_proj.")) return NULL;
    int rows = p->n_dims == 1 ? p->cols : p->rows, half = c->dh / 2;
    int *source = ZB_NEW_ARRAY(a, int, rows);
    for (int r = 0; r < rows; r++) {
        int head = r / c->dh, within = r % c->dh;
        source[r] = head * c->dh + 2 * (within % half) + within / half;
    }
    return source;
}

/* Divisors are 1 for fast pairs, `factor` for slow ones, a blend between: recovers the parameters
 * of a llama3 rope from them. */
static zb_status read_rope_freqs(zb_config *c, const zb_gguf *g, zb_err *err) {
    const zb_tensor *t = zb_gguf_find(g, "rope_freqs.weight");
    if (!t) return ZB_OK;
    if (t->n_dims != 1 || t->shape[0] != c->dh / 2 || t->dtype != ZB_F32)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: rope_freqs.weight: expected F32 [%d]",
                       zb_gguf_path(g), c->dh / 2);
    float last;
    memcpy(&last, (const uint8_t *)t->data + (size_t)(c->dh / 2 - 1) * 4, 4);
    c->rope.type = ZB_ROPE_LLAMA3;
    c->rope.factor = (double)last;
    c->rope.low = 1; /* the values of every released model of the family; checked against the
                        divisors below */
    c->rope.high = 4;
    c->rope.old_context = 8192;
    for (int i = 0; i < c->dh / 2; i++) {
        float have;
        memcpy(&have, (const uint8_t *)t->data + (size_t)i * 4, 4);
        double wave = 2 * 3.14159265358979323846 * pow(c->rope.theta, 2.0 * i / c->dh),
               want = c->rope.factor;
        double s = (c->rope.old_context / wave - c->rope.low) / (c->rope.high - c->rope.low);
        if (wave < c->rope.old_context / c->rope.high)
            want = 1;
        else if (wave <= c->rope.old_context / c->rope.low)
            want = 1 / ((1 - s) / c->rope.factor + s);
        if (!(fabs((double)have - want) <= 1e-3 * want))
            return zb_fail(
                err, ZB_ERR_UNSUPPORTED,
                "%s: rope_freqs.weight[%d]: expected %g as in Llama 3's scaling, found %g",
                zb_gguf_path(g), i, want, (double)have);
    }
    return zb_config_check(c, zb_gguf_path(g), err); /* the factor may be 0 or negative */
}

static zb_status load_gguf(zb_model *m, const char *path, zb_model_mode mode, zb_err *err) {
    ZB_TRY(zb_gguf_open(&m->gguf, path, err));
    ZB_TRY(zb_config_from_gguf(&m->config, m->gguf, err));
    ZB_TRY(read_rope_freqs(&m->config, m->gguf, err));
    zb_params_declare(&m->params, &m->config, &m->arena);
    size_t used = zb_gguf_find(m->gguf, "rope_freqs.weight") ? 1 : 0;
    for (int i = 0; i < m->params.n; i++) {
        zb_param *p = &m->params.item[i];
        char buf[96];
        const char *name = gguf_name(p, buf);
        const zb_tensor *t = name ? zb_gguf_find(m->gguf, name) : NULL;
        if (!t)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor %s is missing", path,
                           name ? name : p->name);
        ZB_TRY(check_shape(p, t, path, err));
        zb_arena scratch = {0};
        int *source = permuted_rows(&m->config, p, &scratch);
        if (source && p->n_dims == 1) { /* a bias: move single values */
            zb_param_own(m, p);
            float *v = ZB_NEW_ARRAY(&scratch, float, p->cols);
            zb_dtype_to_f32(t->dtype, t->data, v, p->cols);
            for (int j = 0; j < p->cols; j++) p->w[j] = v[source[j]];
        } else {
            take(m, p, t, source, mode);
        }
        zb_arena_free(&scratch);
        used++;
    }
    if (used != zb_gguf_count(m->gguf))
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: expected %zu tensors of the llama architecture, found %zu", path, used,
                       zb_gguf_count(m->gguf));
    return ZB_OK;
}

static zb_status no_model(const char *path, zb_err *err) {
    return zb_fail(err, ZB_ERR_IO, "%s: no such model folder or .gguf file", path);
}

zb_status zb_model_open(zb_model **out, const char *path, zb_model_mode mode, zb_err *err) {
    *out = NULL;
    zb_model *m = zb_model_alloc();
    m->path = zb_strdup(&m->arena, path);
    zb_status s;
    if (zb_dir_exists(path))
        s = load_folder(m, path, mode, err);
    else if (zb_file_exists(path))
        s = load_gguf(m, path, mode, err);
    else
        s = no_model(path, err);
    if (s != ZB_OK) {
        zb_model_free(m);
        return s;
    }
    *out = m;
    return ZB_OK;
}

static zb_status tokenizer_of_gguf(zb_tokenizer **out, const char *path, zb_err *err) {
    zb_gguf *g;
    zb_str model = {0};
    ZB_TRY(zb_gguf_open(&g, path, err));
    zb_status s = zb_gguf_str(g, "tokenizer.ggml.model", false, &model, err);
    if (s == ZB_OK && model.p) s = zb_tokenizer_from_gguf(out, g, err);
    zb_gguf_close(g);
    return s;
}

zb_status zb_model_tokenizer(zb_tokenizer **out, const char *path, zb_err *err) {
    *out = NULL;
    if (zb_file_exists(path)) return tokenizer_of_gguf(out, path, err);
    if (!zb_dir_exists(path)) return no_model(path, err);
    zb_arena a = {0};
    bool has = zb_file_exists(zb_path_join(&a, path, "tokenizer.json"));
    zb_arena_free(&a);
    return has ? zb_tokenizer_open(out, path, err) : ZB_OK;
}
