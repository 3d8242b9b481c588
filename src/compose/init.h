/* init.h - how a mixer of another kind starts from the teacher's attention layer.
 *
 * An initialisation is one row of a table: its name in recipes and one function per target kind.
 * `paper` is the published one (method.md 3); a further one is a file and a row. */
#ifndef ZB_COMPOSE_INIT_H
#define ZB_COMPOSE_INIT_H

#include "model/model.h"

/* One layer of the teacher as f32 matrices (row-major [out, in]), and the target layer's
 * parameters, which are to be filled. */
typedef struct zb_init_job {
    const zb_config *config; /* of the student; layer[layer] says kind and sizes */
    int layer;
    const float *q, *k, *v, *o; /* [H·dh, D], [G·dh, D] twice, [D, H·dh] */
    zb_param_table *params;     /* of the student */
    uint64_t seed;
} zb_init_job;

typedef struct zb_init {
    const char *name;
    zb_status (*mla)(const zb_init_job *j, zb_arena *scratch, zb_err *err);
    zb_status (*mamba2)(const zb_init_job *j, zb_arena *scratch, zb_err *err);
} zb_init;

const zb_init *zb_init_find(const char *name); /* NULL: unknown */
#define ZB_INIT_NAMES "paper"

#endif
