/* save_gguf.c - writing a model as GGUF (contract in save_gguf.h; names and rows in gguf_layout.h).
 *
 * Rows go through one buffer of a few megabytes: the writer asks for those that come next in the
 * file's order and adds them to the file. */
#include "model/save_gguf.h"

#include "base/log.h"
#include "model/gguf_layout.h"

#include <string.h>

enum { BUFFER_BYTES = 8 << 20 };

size_t zb_gguf_wide_bytes(const zb_param *p, zb_dtype type) {
    return type == ZB_F32 ? 0 : (size_t)p->wide_rows * p->cols * sizeof(float);
}

/* general.file_type: which type most weights have, by the numbers other programs use. */
static int file_type(const zb_gguf_save *s) {
    static const int number[ZB_DTYPE_COUNT] = {
        [ZB_F32] = 0,  [ZB_F16] = 1,  [ZB_BF16] = 32, [ZB_Q4_0] = 2,  [ZB_Q4_1] = 3, [ZB_Q5_0] = 8,
        [ZB_Q5_1] = 9, [ZB_Q8_0] = 7, [ZB_Q4_K] = 15, [ZB_Q5_K] = 17, [ZB_Q6_K] = 18};
    int64_t count[ZB_DTYPE_COUNT] = {0};
    int best = ZB_F32;
    for (int i = 0; i < s->params->n; i++) count[s->type[i]] += zb_param_count(&s->params->item[i]);
    for (int t = 0; t < ZB_DTYPE_COUNT; t++)
        if (count[t] > count[best]) best = t;
    return number[best];
}

static void declare(const zb_gguf_save *s, bool llama, zb_gguf_writer *w) {
    char buf[ZB_GGUF_NAME_MAX];
    if (llama && s->config->rope.type == ZB_ROPE_LLAMA3)
        zb_gguf_put_tensor(w, &(zb_tensor){.name = zb_gguf_rope_freqs,
                                           .dtype = ZB_F32,
                                           .n_dims = 1,
                                           .shape = {s->config->dh / 2}});
    for (int i = 0; i < s->params->n; i++) {
        const zb_param *p = &s->params->item[i];
        zb_tensor t = {
            .name = zb_gguf_name(p, llama, buf), .dtype = s->type[i], .n_dims = p->n_dims};
        ZB_ASSERT(t.name);
        for (int d = 0; d < p->n_dims; d++) t.shape[d] = p->shape[d];
        zb_gguf_put_tensor(w, &t);
        if (!zb_gguf_wide_bytes(p, s->type[i])) continue;
        t = (zb_tensor){.name = zb_gguf_wide_name(p, buf),
                        .dtype = ZB_F32,
                        .n_dims = 2,
                        .shape = {p->wide_rows, p->cols}};
        zb_gguf_put_tensor(w, &t);
    }
}

static zb_status add_rope_freqs(const zb_config *c, zb_gguf_writer *w, zb_err *err) {
    for (int i = 0; i < c->dh / 2; i++) {
        float d = (float)zb_gguf_rope_divisor(c, i);
        ZB_TRY(zb_gguf_writer_add(w, &d, sizeof d, err));
    }
    return ZB_OK;
}

/* Rows row[0..n) of p in `type`, as many at a time as the buffer holds. */
static zb_status add_rows(const zb_gguf_save *s, zb_gguf_writer *w, const zb_param *p,
                          zb_dtype type, const int *row, int n, zb_err *err) {
    size_t bytes = 0;
    bool ok = zb_dtype_size(type, p->cols, &bytes);
    ZB_ASSERT(ok && bytes);
    int each = bytes < BUFFER_BYTES ? (int)(BUFFER_BYTES / bytes) : 1;
    if (each > n) each = n;
    zb_arena a = {0};
    uint8_t *buffer = zb_alloc_array(&a, (size_t)each, bytes);
    zb_status st = ZB_OK;
    for (int at = 0; at < n && st == ZB_OK; at += each) {
        int some = n - at < each ? n - at : each;
        st = s->rows(s->user, p, type, row + at, some, buffer, err);
        if (st == ZB_OK) st = zb_gguf_writer_add(w, buffer, (size_t)some * bytes, err);
        if (st == ZB_OK && zb_interrupted())
            st = zb_fail(err, ZB_ERR_INTERRUPTED, "%s: interrupted", p->name);
    }
    zb_arena_free(&a);
    return st;
}

/* A bias of q or k: its values move instead of rows. */
static zb_status add_moved_values(const zb_gguf_save *s, zb_gguf_writer *w, const zb_param *p,
                                  const int *at, zb_arena *a, zb_err *err) {
    float *ours = ZB_NEW_ARRAY(a, float, p->cols), *theirs = ZB_NEW_ARRAY(a, float, p->cols);
    int first = 0;
    ZB_TRY(s->rows(s->user, p, ZB_F32, &first, 1, ours, err));
    for (int i = 0; i < p->cols; i++) theirs[at[i]] = ours[i];
    return zb_gguf_writer_add(w, theirs, (size_t)p->cols * sizeof *theirs, err);
}

static zb_status add_param(const zb_gguf_save *s, zb_gguf_writer *w, const zb_param *p, bool llama,
                           zb_err *err) {
    zb_arena a = {0};
    zb_dtype type = s->type[p - s->params->item];
    int *at = zb_gguf_rows(s->config, p, llama, &a), *row = ZB_NEW_ARRAY(&a, int, p->rows);
    zb_status st;
    if (at && p->n_dims == 1) {
        st = add_moved_values(s, w, p, at, &a, err);
    } else {
        for (int r = 0; r < p->rows; r++) row[at ? at[r] : r] = r;
        st = add_rows(s, w, p, type, row, p->rows, err);
        if (st == ZB_OK && zb_gguf_wide_bytes(p, type))
            st = add_rows(s, w, p, ZB_F32, row + p->rows - p->wide_rows, p->wide_rows, err);
    }
    zb_arena_free(&a);
    return st;
}

static zb_status add_all(const zb_gguf_save *s, zb_gguf_writer *w, bool llama, zb_err *err) {
    zb_progress bar;
    double done = 0, total = (double)zb_params_total(s->params);
    zb_progress_begin(&bar, "writing", "weights", 0, total);
    if (llama && s->config->rope.type == ZB_ROPE_LLAMA3) ZB_TRY(add_rope_freqs(s->config, w, err));
    for (int i = 0; i < s->params->n; i++) {
        const zb_param *p = &s->params->item[i];
        ZB_TRY(add_param(s, w, p, llama, err));
        zb_progress_update(&bar, done += (double)zb_param_count(p), NULL);
    }
    zb_progress_end(&bar, total, NULL);
    return ZB_OK;
}

zb_status zb_gguf_save_model(const char *path, const zb_gguf_save *s, zb_err *err) {
    bool llama = zb_config_is_llama(s->config);
    zb_gguf_writer *w = zb_gguf_writer_new(path);
    zb_status st = zb_config_to_gguf(s->config, w, s->provenance, err);
    if (st == ZB_OK) {
        zb_gguf_put_u32(w, "general.file_type", file_type(s));
        zb_gguf_put_u32(w, "general.quantization_version", 2);
        if (s->name) zb_gguf_put_str(w, "general.name", zb_str_from(s->name));
        if (s->tokenizer) st = zb_tokenizer_to_gguf(s->tokenizer, w, llama ? s->config->V : 0, err);
    }
    if (st == ZB_OK) declare(s, llama, w);
    if (st == ZB_OK) st = zb_gguf_writer_begin(w, err);
    if (st == ZB_OK) st = add_all(s, w, llama, err);
    if (st == ZB_OK) st = zb_gguf_writer_close(w, err);
    zb_gguf_writer_free(w);
    return st;
}
