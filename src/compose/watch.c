/* watch.c - attention by lag and by what it finds (contract in watch.h).
 *
 * p_ts = softmax_s(q_t·k_s / √dh) of each head, s <= t, per document. The first token of a document
 * is where attention goes that finds nothing: it is left out of the profile and its complement is
 * `awake`. */
#include "compose/watch.h"

#include "kernels/kernels.h"
#include "model/rope.h"

#include <math.h>

/* One head over one span. */
typedef struct view {
    int T, dh;
    const float *q, *k; /* rotated rows, q_row and k_row apart */
    size_t q_row, k_row;
    float *p;     /* [T] scratch */
    double *sum;  /* [ZB_LAGS+1] attention by lag, of queries beyond ZB_LAGS; without token 0 */
    float *awake; /* [T], awake_row apart */
    int awake_row;
} view;

static void watch_head(const view *v) {
    const zb_kernels *kn = zb_kernels_get();
    for (int i = 0; i < v->T; i++) {
        for (int s = 0; s <= i; s++)
            v->p[s] = kn->dot(v->dh, v->q + i * v->q_row, v->k + s * v->k_row);
        kn->softmax(i + 1, (float)(1 / sqrt((double)v->dh)), v->p);
        /* the first token says nothing about what it leaves for others */
        v->awake[(size_t)i * v->awake_row] = i ? 1 - v->p[0] : -1;
        for (int lag = 0; i > ZB_LAGS && lag <= ZB_LAGS; lag++)
            v->sum[lag] += (double)v->p[i - lag];
    }
}

/* All heads over the spans of piece p; q and k are its rotated rows. Returns the queries summed. */
static int watch_piece(zb_watched *w, const zb_init_job *j, int p, const float *q, const float *k,
                       zb_arena *a) {
    const zb_config *c = j->config;
    const zb_batch *b = &j->calibration->piece[p];
    int H = c->H, rows = 0;
    size_t q_row = (size_t)H * c->dh, k_row = (size_t)c->G * c->dh;
    float *scratch = ZB_NEW_ARRAY(a, float, (size_t)H * b->n);
    for (int s = 0; s < b->n_spans; s++) {
        const zb_span *sp = &b->span[s];
        size_t start = (size_t)sp->start;
#pragma omp parallel for schedule(static)
        for (int h = 0; h < H; h++)
            watch_head(
                &(view){.T = sp->n,
                        .dh = c->dh,
                        .q = q + start * q_row + (size_t)h * c->dh,
                        .k = k + start * k_row + (size_t)(h / (c->H / c->G)) * c->dh,
                        .q_row = q_row,
                        .k_row = k_row,
                        .p = scratch + (size_t)h * b->n,
                        .sum = w->profile + (size_t)h * (ZB_LAGS + 1),
                        .awake = w->awake + ((size_t)j->calibration->first[p] + start) * H + h,
                        .awake_row = H});
        if (sp->n > ZB_LAGS + 1) rows += sp->n - ZB_LAGS - 1;
    }
    return rows;
}

/* y [n, heads·dh] = x Wᵀ, every head turned to its position. */
static float *rotated(zb_run *run, const float *W, int heads, const float *x, zb_arena *a) {
    int n = run->batch->n, width = heads * run->config->dh;
    float *y = ZB_NEW_ARRAY(a, float, (size_t)n *width);
    zb_param w = {.dtype = ZB_F32, .data = W, .rows = width, .cols = run->config->D};
    zb_linear(run, &w, NULL, x, n, y);
    zb_rope_turn(run, y, heads, false);
    return y;
}

zb_status zb_watch(zb_watched *w, const zb_init_job *j, int tokens_max, zb_arena *a, zb_err *err) {
    *w = (zb_watched){0};
    const zb_config *c = j->config;
    zb_calibration *cal = j->calibration;
    zb_run *run = zb_runner_run(cal->teacher);
    int rows = 0;
    w->profile = ZB_NEW_ARRAY(a, double, (size_t)c->H *(ZB_LAGS + 1));
    w->awake = ZB_NEW_ARRAY(a, float, (size_t)cal->n * c->H);
    for (int p = 0; p < cal->pieces && w->n < tokens_max; p++) {
        zb_mark mark = zb_arena_mark(a);
        const float *x = cal->teacher_x + (size_t)cal->first[p] * c->D;
        ZB_TRY(zb_runner_begin(cal->teacher, &cal->piece[p], err));
        const float *q = rotated(run, j->q, c->H, x, a), *k = rotated(run, j->k, c->G, x, a);
        rows += watch_piece(w, j, p, q, k, a);
        w->n = cal->first[p] + cal->piece[p].n;
        zb_arena_pop(a, mark);
    }
    if (!rows)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "calibration: expected rows that hold more than %d tokens of one document, "
                       "found none: raise calibration_length, or take longer documents",
                       ZB_LAGS + 1);
    for (int i = 0; i < c->H * (ZB_LAGS + 1); i++) w->profile[i] /= rows;
    return ZB_OK;
}

static const double DECAY_MIN = 1e-3, DECAY_MAX = 2, SELF_MAX = 1e3;

zb_lag_fit zb_lag_fit_of(const double *profile) {
    double w = 0, wt = 0, wy = 0, wtt = 0, wty = 0;
    for (int lag = 1; lag <= ZB_LAGS; lag++) {
        double y = log(profile[lag] + 1e-8), u = 1.0 / lag;
        w += u;
        wt += u * lag;
        wy += u * y;
        wtt += u * lag * lag;
        wty += u * lag * y;
    }
    double slope = (wty - wt * wy / w) / (wtt - wt * wt / w);
    double decay = fmin(fmax(-slope, DECAY_MIN), DECAY_MAX);
    double level = wy / w + decay * wt / w;
    return (zb_lag_fit){decay, fmin(profile[0] / exp(level) - 1, SELF_MAX)};
}
