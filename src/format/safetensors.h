/* safetensors.h - read and write safetensors files, alone or as shards with an index.
 *
 * Reading maps the files; tensors are borrowed views into the mapping (any alignment), valid until
 * close. The header is checked completely first (size, JSON, dtypes, shapes against byte ranges,
 * gaps, overlaps, duplicates). A directory is opened through `model.safetensors` or
 * `model.safetensors.index.json`. Reading is thread-safe once open. */
#ifndef ZB_FORMAT_SAFETENSORS_H
#define ZB_FORMAT_SAFETENSORS_H

#include "base/arena.h"
#include "base/err.h"
#include "tensor/dtype.h"

typedef struct zb_safetensors zb_safetensors;

/* One file, or a model folder. */
zb_status zb_safetensors_open(zb_safetensors **out, const char *path, zb_err *err);
zb_status zb_safetensors_open_dir(zb_safetensors **out, const char *dir, zb_err *err);
/* A whole file in memory, borrowed until close; `where` starts the messages. */
zb_status zb_safetensors_parse(zb_safetensors **out, const void *bytes, size_t n, const char *where,
                               zb_err *err);
void zb_safetensors_close(zb_safetensors *s);        /* NULL is legal */
void zb_safetensors_forget(const zb_safetensors *s); /* zb_map_forget; NULL is legal */

size_t zb_safetensors_count(const zb_safetensors *s);
/* By number (sorted by name); by name (NULL if absent). */
const zb_tensor *zb_safetensors_at(const zb_safetensors *s, size_t i);
const zb_tensor *zb_safetensors_find(const zb_safetensors *s, const char *name);
/* "__metadata__" entry of the first file, or NULL. */
const char *zb_safetensors_metadata(const zb_safetensors *s, const char *key);

/* Writes atomically; tensors in any order (the file sorts them by alignment, then name). metadata:
 * pairs key, value, ..., NULL, or NULL for {"format":"pt"}. */
zb_status zb_safetensors_write(const char *path, const zb_tensor *tensors, size_t n,
                               const char *const *metadata, zb_err *err);

/* Values of tensors whose `data` is NULL, asked for when their turn comes, so that converted
 * weights need no second copy of a model: n elements from `first`, whole rows of the last axis. */
typedef struct zb_tensor_source {
    void (*fill)(void *context, const zb_tensor *t, int64_t first, int64_t n, void *out);
    void *context;
} zb_tensor_source;

/* The same into `dir`, as model.safetensors, or as shards with an index where it exceeds
 * shard_bytes. Shards take the tensors in the order given. Model files of an earlier write are
 * removed afterwards. source: NULL where all tensors have data. */
zb_status zb_safetensors_write_dir(const char *dir, const zb_tensor *tensors, size_t n,
                                   size_t shard_bytes, const zb_tensor_source *source, zb_err *err);

#endif
