/* load.c - opening models: weights from a Hugging Face folder into the parameter table
 * (zb_model_open in model.h; GGUF files in load_gguf.c).
 *
 * Every declared parameter must be there with its shape. Matrices stay as they are stored when the
 * model is opened for running; vectors and the small gate parameters always become f32, as do all
 * parameters that are trained. */
#include "base/file.h"
#include "model/model_impl.h"

#include <string.h>

zb_status zb_param_check(const zb_param *p, const zb_tensor *t, const char *path, zb_err *err) {
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

static bool is_small(const zb_param *p) {
    return p->n_dims != 2 || p->role == ZB_ROLE_GATE || p->role == ZB_ROLE_NORM;
}

void zb_param_take(zb_model *m, zb_param *p, const zb_tensor *t, const int *source, bool wide) {
    size_t bytes = 0;
    bool ok = zb_dtype_size(t->dtype, p->cols, &bytes);
    const uint8_t *from = t->data;
    if (wide || is_small(p) || !ok) {
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

bool zb_head_is_own(const zb_config *c, const zb_safetensors *file) {
    const zb_tensor *head = zb_safetensors_find(file, "lm_head.weight"),
                    *embed = zb_safetensors_find(file, "model.embed_tokens.weight");
    if (!head || !c->tied) return head != NULL;
    if (!c->hybrid || !embed) return false;
    return head->dtype != embed->dtype || head->bytes != embed->bytes ||
           memcmp(head->data, embed->data, head->bytes);
}

static zb_status load_folder(zb_model *m, const char *dir, const zb_wide *wide, zb_err *err) {
    ZB_TRY(zb_config_read(&m->config, dir, err));
    ZB_TRY(zb_safetensors_open_dir(&m->file, dir, err));
    m->config.tied = !zb_head_is_own(&m->config, m->file);
    zb_params_declare(&m->params, &m->config, &m->arena);
    size_t used = 0;
    for (int i = 0; i < m->params.n; i++) {
        zb_param *p = &m->params.item[i];
        const zb_tensor *t = zb_safetensors_find(m->file, p->name);
        if (!t) return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor %s is missing", dir, p->name);
        ZB_TRY(zb_param_check(p, t, dir, err));
        zb_param_take(m, p, t, NULL, wide->test(wide->arg, p));
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

static zb_status no_model(const char *path, zb_err *err) {
    return zb_fail(err, ZB_ERR_IO, "%s: no such model folder or .gguf file", path);
}

static zb_status open_model(zb_model **out, const char *path, const zb_wide *wide, zb_err *err) {
    *out = NULL;
    zb_model *m = zb_model_alloc();
    m->path = zb_strdup(&m->arena, path);
    zb_status s;
    if (zb_dir_exists(path))
        s = load_folder(m, path, wide, err);
    else if (zb_file_exists(path))
        s = zb_model_load_gguf(m, path, wide, err);
    else
        s = no_model(path, err);
    if (s == ZB_OK)
        *out = m;
    else
        zb_model_free(m);
    return s;
}

bool zb_param_is_wide(const zb_param *p, bool trained) {
    return trained || is_small(p) || zb_param_in_mixer(p);
}

static bool is_wide(const void *arg, const zb_param *p) {
    const zb_wide *trained = arg;
    return zb_param_is_wide(p, trained->test(trained->arg, p));
}

zb_status zb_model_open_part(zb_model **out, const char *path, zb_param_test trained,
                             const void *arg, zb_err *err) {
    zb_wide which = {trained, arg};
    ZB_TRY(open_model(out, path, &(zb_wide){is_wide, &which}, err));
    zb_safetensors_forget((*out)->file); /* what was copied must not be held twice */
    zb_gguf_forget((*out)->gguf);
    return ZB_OK;
}

static bool none(const void *unused, const zb_param *p) {
    (void)unused;
    return p == NULL;
}

zb_status zb_model_open(zb_model **out, const char *path, zb_model_mode mode, zb_err *err) {
    if (mode == ZB_MODEL_TRAIN) return zb_model_open_part(out, path, zb_param_every, NULL, err);
    return open_model(out, path, &(zb_wide){none, NULL}, err);
}

static zb_status tokenizer_of_gguf(zb_tokenizer **out, const char *path, zb_err *err) {
    zb_gguf *g;
    zb_str model = {0}, json = {0};
    ZB_TRY(zb_gguf_open(&g, path, err));
    zb_status s = zb_gguf_str(g, "tokenizer.ggml.model", false, &model, err);
    if (s == ZB_OK) s = zb_gguf_str(g, "zebra.tokenizer_config", false, &json, err);
    if (s == ZB_OK && (model.p || json.p)) s = zb_tokenizer_from_gguf(out, g, err);
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
