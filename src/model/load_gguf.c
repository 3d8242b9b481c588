/* load_gguf.c - weights from a GGUF file into the parameter table (zb_model_open in model.h; names
 * and rows in gguf_layout.h).
 *
 * Whole rows of q and k are moved back, packed or not. A packed matrix whose last rows must stay
 * wide comes with a second tensor that holds them: kept beside it for running, written over it for
 * training. */
#include "model/gguf_layout.h"
#include "model/model_impl.h"

#include <math.h>
#include <string.h>

/* Recovers the parameters of a llama3 rope from the divisors. */
static zb_status read_rope_freqs(zb_config *c, const zb_gguf *g, zb_err *err) {
    const zb_tensor *t = zb_gguf_find(g, zb_gguf_rope_freqs);
    if (!t) return ZB_OK;
    if (c->rope.type != ZB_ROPE_PLAIN) /* both would act on the angles */
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: rope_freqs.weight: expected no scaling in the keys beside it, found "
                       "that of %s.rope.scaling",
                       zb_gguf_path(g), c->model_type);
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
        double want = zb_gguf_rope_divisor(c, i);
        if (!(fabs((double)have - want) <= 1e-3 * want))
            return zb_fail(
                err, ZB_ERR_UNSUPPORTED,
                "%s: rope_freqs.weight[%d]: expected %g as in Llama 3's scaling, found %g",
                zb_gguf_path(g), i, want, (double)have);
    }
    c->mla_rope = c->rope;
    return zb_config_check(c, zb_gguf_path(g), err); /* the factor may be 0 or negative */
}

/* The wide rows of a matrix, if the file has them; *used counts the tensor. */
static zb_status take_wide(zb_model *m, zb_param *p, const char *path, size_t *used, zb_err *err) {
    char name[ZB_GGUF_NAME_MAX], found[96];
    const zb_tensor *t = p->wide_rows ? zb_gguf_find(m->gguf, zb_gguf_wide_name(p, name)) : NULL;
    if (!t) return ZB_OK;
    if (t->dtype != ZB_F32 || t->n_dims != 2 || t->shape[0] != p->wide_rows ||
        t->shape[1] != p->cols)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor %s: expected F32 [%d,%d], found %s", path,
                       name, p->wide_rows, p->cols, zb_tensor_shape_text(t, found));
    *used += 1;
    if (p->w) {
        memcpy(p->w + (size_t)(p->rows - p->wide_rows) * p->cols, t->data, t->bytes);
        return ZB_OK;
    }
    float *wide = ZB_NEW_ARRAY(&m->arena, float, (size_t)p->wide_rows * p->cols);
    memcpy(wide, t->data, t->bytes); /* aligned, whatever the file's alignment is */
    p->wide = wide;
    return ZB_OK;
}

/* llama: names of that architecture; moved: and its order of rotary pairs. */
static zb_status take_one(zb_model *m, zb_param *p, bool llama, bool moved, bool wide, size_t *used,
                          zb_err *err) {
    const char *path = zb_gguf_path(m->gguf);
    char buf[ZB_GGUF_NAME_MAX];
    const char *name = zb_gguf_name(p, llama, buf);
    const zb_tensor *t = name ? zb_gguf_find(m->gguf, name) : NULL;
    if (!t)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor %s is missing", path, name ? name : p->name);
    ZB_TRY(zb_param_check(p, t, path, err));
    *used += 1;
    zb_arena scratch = {0};
    int *source = zb_gguf_rows(&m->config, p, moved, &scratch);
    if (source && p->n_dims == 1) { /* a bias: move single values */
        zb_param_own(m, p);
        float *v = ZB_NEW_ARRAY(&scratch, float, p->cols);
        zb_dtype_to_f32(t->dtype, t->data, v, p->cols);
        for (int j = 0; j < p->cols; j++) p->w[j] = v[source[j]];
    } else {
        zb_param_take(m, p, t, source, wide);
    }
    zb_arena_free(&scratch);
    return take_wide(m, p, path, used, err);
}

/* Names the first tensor that no parameter has asked for. */
static zb_status refuse_rest(const zb_model *m, bool llama, zb_err *err) {
    for (size_t i = 0; i < zb_gguf_count(m->gguf); i++) {
        const char *name = zb_gguf_at(m->gguf, i)->name;
        bool known = llama && !strcmp(name, zb_gguf_rope_freqs);
        for (int k = 0; k < m->params.n && !known; k++) {
            const zb_param *p = &m->params.item[k];
            char buf[ZB_GGUF_NAME_MAX];
            known = !strcmp(name, zb_gguf_name(p, llama, buf)) ||
                    (p->wide_rows && !strcmp(name, zb_gguf_wide_name(p, buf)));
        }
        if (!known)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: tensor %s does not belong to the model that the file's keys "
                           "describe",
                           zb_gguf_path(m->gguf), name);
    }
    return ZB_OK;
}

zb_status zb_model_load_gguf(zb_model *m, const char *path, const zb_wide *wide, zb_err *err) {
    zb_str arch;
    ZB_TRY(zb_gguf_open(&m->gguf, path, err));
    ZB_TRY(zb_config_from_gguf(&m->config, m->gguf, err));
    ZB_TRY(zb_gguf_str(m->gguf, "general.architecture", true, &arch, err));
    bool moved = zb_str_is(arch, "llama"), llama = moved || zb_str_is(arch, "qwen2");
    size_t used = 0;
    if (llama && zb_gguf_find(m->gguf, zb_gguf_rope_freqs)) {
        ZB_TRY(read_rope_freqs(&m->config, m->gguf, err));
        used++;
    }
    zb_params_declare(&m->params, &m->config, &m->arena);
    for (int i = 0; i < m->params.n; i++) {
        zb_param *p = &m->params.item[i];
        ZB_TRY(take_one(m, p, llama, moved, wide->test(wide->arg, p), &used, err));
    }
    return used == zb_gguf_count(m->gguf) ? ZB_OK : refuse_rest(m, llama, err);
}
