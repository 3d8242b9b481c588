/* watch.c - attention by lag and by what it finds (contract in watch.h).
 *
 * p_ts = softmax_s(q_t·k_s / √dh) of each head, s <= t, per document. The first token of a document
 * is where attention goes that finds nothing: it is left out of the profile and its complement is
 * `awake`. */
#include "compose/watch.h"

#include "kernels/kernels.h"

#include <math.h>

/* One head over one span, rotated rows q and k `*_row` apart. Adds the attention of queries
 * ZB_LAGS+1 .. to sum [ZB_LAGS+1], by lag; token 0 is left out, since it collects what no other
 * token wants. awake [T], `H` apart: what is left for the others. Returns the number of queries
 * summed. */
static int watch_head(int T, int dh, const float *q, size_t q_row, const float *k, size_t k_row,
                      float *p, double *sum, float *awake, int H) {
    const zb_kernels *kn = zb_kernels_get();
    int rows = 0;
    for (int i = 0; i < T; i++) {
        for (int s = 0; s <= i; s++) p[s] = kn->dot(dh, q + i * q_row, k + s * k_row);
        kn->softmax(i + 1, (float)(1 / sqrt((double)dh)), p);
        awake[(size_t)i * H] = i ? 1 - p[0] : -1; /* the first token says nothing about it */
        if (i <= ZB_LAGS) continue;
        for (int lag = 0; lag <= ZB_LAGS; lag++) sum[lag] += (double)p[i - lag];
        rows++;
    }
    return rows;
}

/* y [n, rows] = x Wᵀ turned to its positions, heads of dh values. */
static float *rotated(zb_run *run, const float *W, int heads, const float *x, zb_arena *a) {
    const zb_kernels *kn = zb_kernels_get();
    int n = run->batch->n, dh = run->config->dh, width = heads * dh;
    float *y = ZB_NEW_ARRAY(a, float, (size_t)n *width);
    zb_param w = {.dtype = ZB_F32, .data = W, .rows = width, .cols = run->config->D};
    zb_linear(run, &w, NULL, x, n, y);
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        for (int i = 0; i < sp->n; i++)
            for (int h = 0; h < heads; h++) {
                size_t at = (size_t)i * (dh / 2);
                kn->rope_halves(dh / 2, run->rope.cos + at, run->rope.sin + at, false,
                                y + (size_t)(sp->start + i) * width + (size_t)h * dh);
            }
    }
    return y;
}

zb_status zb_watch(zb_watched *w, const zb_init_job *j, int tokens_max, zb_arena *a, zb_err *err) {
    *w = (zb_watched){0};
    const zb_config *c = j->config;
    zb_calibration *cal = j->calibration;
    zb_run *run = zb_runner_run(cal->teacher);
    int H = c->H, R = H / c->G, rows = 0;
    w->profile = ZB_NEW_ARRAY(a, double, (size_t)H *(ZB_LAGS + 1));
    w->awake = ZB_NEW_ARRAY(a, float, (size_t)cal->n *H);
    for (int p = 0; p < cal->pieces && w->n < tokens_max; p++) {
        zb_mark mark = zb_arena_mark(a);
        const zb_batch *b = &cal->piece[p];
        const float *x = cal->teacher_x + (size_t)cal->first[p] * c->D;
        ZB_TRY(zb_runner_begin(cal->teacher, b, err));
        const float *q = rotated(run, j->q, H, x, a), *k = rotated(run, j->k, c->G, x, a);
        size_t q_row = (size_t)H * c->dh, k_row = (size_t)c->G * c->dh;
        float *prob = ZB_NEW_ARRAY(a, float, (size_t)H * b->n);
        for (int s = 0; s < b->n_spans; s++) {
            const zb_span *sp = &b->span[s];
            int some = 0;
#pragma omp parallel for schedule(static) reduction(max : some)
            for (int h = 0; h < H; h++)
                some = watch_head(sp->n, c->dh, q + sp->start * q_row + (size_t)h * c->dh, q_row,
                                  k + sp->start * k_row + (size_t)(h / R) * c->dh, k_row,
                                  prob + (size_t)h * b->n, w->profile + (size_t)h * (ZB_LAGS + 1),
                                  w->awake + (size_t)(cal->first[p] + sp->start) * H + h, H);
            rows += some;
        }
        w->n = cal->first[p] + b->n;
        zb_arena_pop(a, mark);
    }
    if (!rows)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "calibration: expected documents of more than %d tokens, found none",
                       ZB_LAGS + 1);
    for (int i = 0; i < H * (ZB_LAGS + 1); i++) w->profile[i] /= rows;
    return ZB_OK;
}
