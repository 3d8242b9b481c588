/* gguf.h - read GGUF files (versions 2 and 3, little-endian).
 *
 * The file is mapped; strings and tensors are borrowed views, valid until close. Everything is
 * bounds-checked at open: counts, string lengths, nesting, alignment, tensor ranges and overlaps.
 * Shapes are turned around to row-major (the file stores the fastest axis first). Thread-safe once
 * open. */
#ifndef ZB_FORMAT_GGUF_H
#define ZB_FORMAT_GGUF_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"
#include "tensor/dtype.h"

typedef struct zb_gguf zb_gguf;

zb_status zb_gguf_open(zb_gguf **out, const char *path, zb_err *err);
/* A whole file in memory, borrowed until close; `where` starts the messages. */
zb_status zb_gguf_parse(zb_gguf **out, const void *bytes, size_t n, const char *where, zb_err *err);
void zb_gguf_close(zb_gguf *g);        /* NULL is legal */
void zb_gguf_forget(const zb_gguf *g); /* zb_map_forget; NULL is legal */
const char *zb_gguf_path(const zb_gguf *g);

size_t zb_gguf_count(const zb_gguf *g);
const zb_tensor *zb_gguf_at(const zb_gguf *g, size_t i);           /* sorted by name */
const zb_tensor *zb_gguf_find(const zb_gguf *g, const char *name); /* NULL if absent */

/* Typed key access; ints may have any integer type, reals may be ints. An absent key is an error if
 * required, else *out stays untouched. */
zb_status zb_gguf_int(const zb_gguf *g, const char *key, bool required, int64_t *out, zb_err *err);
zb_status zb_gguf_f64(const zb_gguf *g, const char *key, bool required, double *out, zb_err *err);
zb_status zb_gguf_bool(const zb_gguf *g, const char *key, bool required, bool *out, zb_err *err);
zb_status zb_gguf_str(const zb_gguf *g, const char *key, bool required, zb_str *out, zb_err *err);
/* Arrays: element count (n = 0 if absent and not required). The elements are fetched all at once,
 * and n must be that count. Ints may also be stored as booleans. */
zb_status zb_gguf_array(const zb_gguf *g, const char *key, bool required, size_t *n, zb_err *err);
zb_status zb_gguf_array_str(const zb_gguf *g, const char *key, zb_str *out, size_t n, zb_err *err);
zb_status zb_gguf_array_int(const zb_gguf *g, const char *key, int64_t *out, size_t n, zb_err *err);

int zb_gguf_type(zb_dtype t); /* number of a type in the file; -1: the format does not have it */

#endif
