/* cache.h - answers of a model on disk, so that an interrupted evaluation resumes.
 *
 * A file per model and task; a record is found by the digest of what was asked (the token ids), so
 * a changed prompt, data row or task file asks anew and an old record is never taken for another.
 * Records are appended as they come and carry a check sum: what a kill has cut off is dropped, a
 * record that was altered is an error. Each process, also of evaluations that run at the same time,
 * appends to a file of its own and reads those of all. */
#ifndef ZB_EVAL_CACHE_H
#define ZB_EVAL_CACHE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"

typedef struct zb_cache zb_cache;
typedef struct zb_cache_key {
    char hex[65];
} zb_cache_key;

/* `model`: digest of the model and of all else that changes its answers. */
zb_status zb_cache_open(zb_cache **out, const char *dir, const char *model, const char *task,
                        int rank, zb_err *err);
void zb_cache_close(zb_cache *c); /* NULL is legal */

bool zb_cache_find(const zb_cache *c, const zb_cache_key *key, zb_str *value);
/* Reaches the file with the next flush. */
zb_status zb_cache_add(zb_cache *c, const zb_cache_key *key, zb_str value, zb_err *err);
zb_status zb_cache_flush(zb_cache *c, zb_err *err);

/* Digest of what answers depend on: a model's weights and configuration (a .gguf file, or the
 * folder's files), the precision of products, and how keys and values are kept (NULL: f32). */
zb_status zb_cache_model_digest(const char *path, const char *precision, const char *cache_type,
                                char hex[65], zb_err *err);

#endif
