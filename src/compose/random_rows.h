/* random_rows.h - rows of random weights, for models that only their speed is measured of.
 *
 * Values are of the size that trained weights have (normal, variance 1 / columns; norms 1; decays
 * and step sizes as Mamba2 starts with), so nothing overflows and nothing is denormal. Packed rows
 * are put together from a pool of encoded blocks, which is as fast as copying. The same seed gives
 * the same file. One thread calls at a time. */
#ifndef ZB_COMPOSE_RANDOM_ROWS_H
#define ZB_COMPOSE_RANDOM_ROWS_H

#include "model/params.h"

typedef struct zb_random_rows {
    uint64_t seed;
    const zb_param_table *params;
    const zb_param *of; /* what the pool was made for */
    zb_dtype type;
    zb_arena arena; /* of the pool */
    uint8_t *pool;
    int chunk; /* elements per entry */
    size_t bytes;
} zb_random_rows;

/* A row function of zb_gguf_save; user: zb_random_rows. */
zb_status zb_random_rows_make(void *user, const zb_param *p, zb_dtype type, const int *row, int n,
                              void *out, zb_err *err);

#endif
