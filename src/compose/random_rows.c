/* random_rows.c - see random_rows.h. */
#include "compose/random_rows.h"

#include "base/rng.h"
#include "tensor/quant.h"

#include <math.h>
#include <string.h>

enum { POOL = 512, CHUNK = 256 };

static bool ends_with(const char *s, const char *tail) {
    return zb_str_ends(zb_str_from(s), zb_str_from(tail));
}

/* Value i of a parameter that is never packed. */
static float small_value(const zb_param *p, uint64_t seed, uint64_t stream, uint64_t i) {
    double u = zb_rng_uniform(seed, stream, i);
    if (p->role == ZB_ROLE_NORM || ends_with(p->name, "norm.weight")) return 1;
    if (ends_with(p->name, ".A_log")) return (float)log(1 + 15 * u);
    if (ends_with(p->name, ".D")) return 1;
    if (ends_with(p->name, ".dt_bias")) { /* softplus of it: 0.001 to 0.1 */
        double step = exp(log(0.001) + u * (log(0.1) - log(0.001)));
        return (float)log(expm1(step));
    }
    return (float)((2 * u - 1) / sqrt(ZB_CONV_K));
}

static zb_status make_pool(zb_random_rows *s, const zb_param *p, zb_dtype type, uint64_t stream,
                           zb_err *err) {
    zb_arena_free(&s->arena);
    s->of = p;
    s->type = type;
    s->chunk = p->cols % CHUNK ? p->cols : CHUNK;
    bool ok = zb_dtype_size(type, s->chunk, &s->bytes);
    ZB_ASSERT(ok);
    s->pool = zb_alloc_array(&s->arena, POOL, s->bytes);
    float *x = ZB_NEW_ARRAY(&s->arena, float, (size_t)POOL * s->chunk);
    double size = 1 / sqrt(p->cols);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < (int64_t)POOL * s->chunk; i++)
        x[i] = (float)(size * zb_rng_normal(s->seed, stream, (uint64_t)i));
    return zb_quant_run(
        &(zb_quant_job){
            .type = type, .x = x, .rows = POOL, .cols = s->chunk, .plain = true, .name = p->name},
        s->pool, err);
}

zb_status zb_random_rows_make(void *user, const zb_param *p, zb_dtype type, const int *row, int n,
                              void *out, zb_err *err) {
    zb_random_rows *s = user;
    uint64_t index = (uint64_t)(p - s->params->item),
             stream = zb_rng_substream(ZB_RNG_INIT, index, 1);
    if (p->n_dims != 2 || p->role == ZB_ROLE_GATE || p->role == ZB_ROLE_NORM) {
        ZB_ASSERT(type == ZB_F32);
        float *y = out;
        for (int r = 0; r < n; r++)
            for (int c = 0; c < p->cols; c++) {
                uint64_t i = (uint64_t)row[r] * (uint64_t)p->cols + (uint64_t)c;
                y[(size_t)r * p->cols + c] = small_value(p, s->seed, stream, i);
            }
        return ZB_OK;
    }
    if (s->of != p || s->type != type) ZB_TRY(make_pool(s, p, type, stream, err));
    int per_row = p->cols / s->chunk;
    uint64_t draw = zb_rng_substream(ZB_RNG_INIT, index, 2);
#pragma omp parallel for schedule(static)
    for (int r = 0; r < n; r++)
        for (int k = 0; k < per_row; k++) {
            uint64_t i = (uint64_t)row[r] * (uint64_t)per_row + (uint64_t)k;
            size_t from = zb_rng_below(s->seed, draw, i, POOL);
            memcpy((uint8_t *)out + ((size_t)r * (size_t)per_row + (size_t)k) * s->bytes,
                   s->pool + from * s->bytes, s->bytes);
        }
    return ZB_OK;
}
