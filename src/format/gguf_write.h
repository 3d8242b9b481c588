/* gguf_write.h - write a GGUF file (version 3) piece by piece.
 *
 * Three steps: keys and tensors are declared in the order in which they shall stand in the file;
 * begin writes the header; then the tensors' bytes follow in the order declared, in pieces of any
 * size (rows as they are made), so that no tensor need be held whole. Padding is the writer's
 * business. The file appears under its name only at close. One thread uses a writer. */
#ifndef ZB_FORMAT_GGUF_WRITE_H
#define ZB_FORMAT_GGUF_WRITE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"
#include "tensor/dtype.h"

typedef struct zb_gguf_writer zb_gguf_writer;

zb_gguf_writer *zb_gguf_writer_new(const char *path);
void zb_gguf_writer_free(zb_gguf_writer *w); /* drops an unfinished file; NULL is legal */

/* A key may be given once. Numbers are stored as u32 (0 <= v < 2^32), f32, f64 or bool. */
void zb_gguf_put_u32(zb_gguf_writer *w, const char *key, int64_t v);
void zb_gguf_put_f32(zb_gguf_writer *w, const char *key, double v);
void zb_gguf_put_f64(zb_gguf_writer *w, const char *key, double v);
void zb_gguf_put_bool(zb_gguf_writer *w, const char *key, bool v);
void zb_gguf_put_str(zb_gguf_writer *w, const char *key, zb_str v);
void zb_gguf_put_i32s(zb_gguf_writer *w, const char *key, const int32_t *v, size_t n);
void zb_gguf_put_strs(zb_gguf_writer *w, const char *key, const zb_str *v, size_t n);

/* Declares a tensor: its name, dtype and shape are copied, its data is not looked at. The name has
 * at most 63 bytes and the last axis whole blocks. */
void zb_gguf_put_tensor(zb_gguf_writer *w, const zb_tensor *t);

zb_status zb_gguf_writer_begin(zb_gguf_writer *w, zb_err *err);
/* The next n bytes of tensor data; they must not cross the end of a tensor. */
zb_status zb_gguf_writer_add(zb_gguf_writer *w, const void *bytes, size_t n, zb_err *err);
/* All bytes of all tensors must have come. */
zb_status zb_gguf_writer_close(zb_gguf_writer *w, zb_err *err);

#endif
