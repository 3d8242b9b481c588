/* gguf_write.c - writing GGUF (contract in gguf_write.h; the layout is told in gguf.c).
 *
 * Keys and tensor rows grow in two buffers until begin, which knows all offsets by then: tensor i
 * starts at the sum of the sizes before it, each rounded up to the alignment. While data comes, the
 * writer counts down what is left of the current tensor and pads when it is full. */
#include "format/gguf_write.h"

#include "base/file.h"
#include "format/gguf.h"

#include <string.h>

enum { ALIGNMENT = 32, VERSION = 3, NAME_MAX_BYTES = 63 };
enum { V_U32 = 4, V_I32 = 5, V_F32 = 6, V_BOOL = 7, V_STRING = 8, V_ARRAY = 9, V_F64 = 12 };

struct zb_gguf_writer {
    zb_arena arena;
    char *path;
    zb_writer file;
    zb_buf keys, rows; /* as they stand in the file */
    uint64_t n_keys;
    size_t *bytes; /* of each tensor */
    size_t n, cap, offset;
    size_t at, left; /* the tensor being written, and what is missing of it */
};

static void put32(zb_buf *b, uint32_t v) { zb_buf_add(b, &v, 4); }
static void put64(zb_buf *b, uint64_t v) { zb_buf_add(b, &v, 8); }

static void put_text(zb_buf *b, zb_str s) {
    put64(b, s.n);
    if (s.n) zb_buf_add(b, s.p, s.n);
}

static size_t padding(size_t n) { return (ALIGNMENT - n % ALIGNMENT) % ALIGNMENT; }

zb_gguf_writer *zb_gguf_writer_new(const char *path) {
    zb_arena a = {0};
    zb_gguf_writer *w = ZB_NEW(&a, zb_gguf_writer);
    w->path = zb_strdup(&a, path);
    zb_buf_init(&w->keys, SIZE_MAX / 4);
    zb_buf_init(&w->rows, SIZE_MAX / 4);
    w->arena = a; /* the arena holds its own owner */
    return w;
}

void zb_gguf_writer_free(zb_gguf_writer *w) {
    if (!w) return;
    zb_writer_abort(&w->file);
    zb_buf_free(&w->keys);
    zb_buf_free(&w->rows);
    zb_arena a = w->arena;
    zb_arena_free(&a);
}

static zb_buf *begin_key(zb_gguf_writer *w, const char *key, uint32_t type) {
    ZB_ASSERT(!w->file.f);
    w->n_keys++;
    put_text(&w->keys, zb_str_from(key));
    put32(&w->keys, type);
    return &w->keys;
}

void zb_gguf_put_u32(zb_gguf_writer *w, const char *key, int64_t v) {
    ZB_ASSERT(v >= 0 && v <= UINT32_MAX);
    put32(begin_key(w, key, V_U32), (uint32_t)v);
}

void zb_gguf_put_f32(zb_gguf_writer *w, const char *key, double v) {
    float f = (float)v;
    zb_buf_add(begin_key(w, key, V_F32), &f, 4);
}

void zb_gguf_put_f64(zb_gguf_writer *w, const char *key, double v) {
    zb_buf_add(begin_key(w, key, V_F64), &v, 8);
}

void zb_gguf_put_bool(zb_gguf_writer *w, const char *key, bool v) {
    zb_buf_addc(begin_key(w, key, V_BOOL), v ? 1 : 0);
}

void zb_gguf_put_str(zb_gguf_writer *w, const char *key, zb_str v) {
    put_text(begin_key(w, key, V_STRING), v);
}

static zb_buf *begin_array(zb_gguf_writer *w, const char *key, uint32_t item, size_t n) {
    zb_buf *b = begin_key(w, key, V_ARRAY);
    put32(b, item);
    put64(b, n);
    return b;
}

void zb_gguf_put_i32s(zb_gguf_writer *w, const char *key, const int32_t *v, size_t n) {
    zb_buf *b = begin_array(w, key, V_I32, n);
    if (n) zb_buf_add(b, v, n * sizeof *v);
}

void zb_gguf_put_strs(zb_gguf_writer *w, const char *key, const zb_str *v, size_t n) {
    zb_buf *b = begin_array(w, key, V_STRING, n);
    for (size_t i = 0; i < n; i++) put_text(b, v[i]);
}

void zb_gguf_put_tensor(zb_gguf_writer *w, const zb_tensor *t) {
    size_t bytes = 0;
    int type = zb_gguf_type(t->dtype);
    bool ok = zb_dtype_size(t->dtype, zb_tensor_count(t), &bytes);
    ZB_ASSERT(!w->file.f && ok && type >= 0 && t->n_dims <= ZB_DIMS_MAX);
    ZB_ASSERT(strlen(t->name) > 0 && strlen(t->name) <= NAME_MAX_BYTES);
    int block = zb_dtype_get(t->dtype)->block;
    ZB_ASSERT(block == 1 || (t->n_dims > 0 && t->shape[t->n_dims - 1] % block == 0));
    put_text(&w->rows, zb_str_from(t->name));
    put32(&w->rows, (uint32_t)t->n_dims);
    for (int i = t->n_dims; i-- > 0;) put64(&w->rows, (uint64_t)t->shape[i]);
    put32(&w->rows, (uint32_t)type);
    put64(&w->rows, w->offset);
    w->bytes = zb_grow(&w->arena, w->bytes, &w->cap, w->n + 1, sizeof *w->bytes);
    w->bytes[w->n++] = bytes;
    w->offset += bytes + padding(bytes);
}

static zb_status pad(zb_gguf_writer *w, zb_err *err) {
    static const char zeros[ALIGNMENT];
    return zb_writer_add(&w->file, zeros, padding((size_t)w->file.written), err);
}

/* Moves behind full (or empty) tensors, each padded. */
static zb_status next_tensor(zb_gguf_writer *w, zb_err *err) {
    while (w->left == 0 && w->at < w->n) {
        ZB_TRY(pad(w, err));
        if (++w->at < w->n) w->left = w->bytes[w->at];
    }
    return ZB_OK;
}

zb_status zb_gguf_writer_begin(zb_gguf_writer *w, zb_err *err) {
    zb_buf head;
    zb_buf_init(&head, 64);
    zb_buf_adds(&head, "GGUF");
    put32(&head, VERSION);
    put64(&head, w->n);
    put64(&head, w->n_keys);
    zb_status s = zb_writer_open(&w->file, w->path, &w->arena, err);
    if (s == ZB_OK) s = zb_writer_add(&w->file, head.p, head.n, err);
    if (s == ZB_OK) s = zb_writer_add(&w->file, w->keys.p, w->keys.n, err);
    if (s == ZB_OK) s = zb_writer_add(&w->file, w->rows.p, w->rows.n, err);
    zb_buf_free(&head);
    if (s == ZB_OK && w->n) {
        s = pad(w, err);
        w->left = w->bytes[0];
    }
    return s == ZB_OK ? next_tensor(w, err) : s;
}

zb_status zb_gguf_writer_add(zb_gguf_writer *w, const void *bytes, size_t n, zb_err *err) {
    ZB_ASSERT(w->file.f && n <= w->left);
    ZB_TRY(zb_writer_add(&w->file, bytes, n, err));
    w->left -= n;
    return next_tensor(w, err);
}

zb_status zb_gguf_writer_close(zb_gguf_writer *w, zb_err *err) {
    ZB_ASSERT(w->file.f && w->at == w->n);
    return zb_writer_close(&w->file, err);
}
