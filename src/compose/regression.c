/* regression.c - ridge regression of a map (contract in regression.h). */
#include "compose/regression.h"

#include "tensor/linalg.h"

#include <math.h>
#include <string.h>

void zb_regression_init(zb_regression *r, int K, int D, int rows_max, zb_matmul *mm, zb_arena *a) {
    *r = (zb_regression){.K = K, .D = D, .rows_max = rows_max, .mm_run = mm};
    for (int i = 0; i < 2; i++) {
        r->fold[i].ff = ZB_NEW_ARRAY(a, double, (size_t)K *K);
        r->fold[i].fm = ZB_NEW_ARRAY(a, double, (size_t)K *D);
    }
    r->wf = ZB_RAW_ARRAY(a, float, (size_t)rows_max *K);
    r->wm = ZB_RAW_ARRAY(a, float, (size_t)rows_max *D);
    r->part = ZB_RAW_ARRAY(a, float, (size_t)K *(K > D ? K : D));
}

/* sum [K, cols] += wfᵀ b, b [n, cols] */
static void add_product(zb_regression *r, int n, int cols, const float *b, double *sum) {
    zb_matmul_run(r->mm_run, &(zb_mm_args){.m = r->K,
                                           .n = cols,
                                           .k = n,
                                           .a = r->wf,
                                           .lda = r->K,
                                           .a_t = true,
                                           .b = b,
                                           .ldb = cols,
                                           .c = r->part,
                                           .ldc = cols});
    for (size_t i = 0; i < (size_t)r->K * cols; i++) sum[i] += (double)r->part[i];
}

void zb_regression_add(zb_regression *r, int n, const float *f, const float *m, const float *w) {
    ZB_ASSERT(n <= r->rows_max);
    struct zb_regression_sums *to = &r->fold[r->pieces++ % 2];
    for (int i = 0; i < n; i++) {
        float root = sqrtf(w[i]);
        for (int k = 0; k < r->K; k++) r->wf[(size_t)i * r->K + k] = root * f[(size_t)i * r->K + k];
        for (int d = 0; d < r->D; d++) {
            float v = r->wm[(size_t)i * r->D + d] = root * m[(size_t)i * r->D + d];
            to->mm += (double)v * (double)v;
        }
    }
    add_product(r, n, r->K, r->wf, to->ff);
    add_product(r, n, r->D, r->wm, to->fm);
}

/* Both folds together. */
static struct zb_regression_sums total(const zb_regression *r, zb_arena *a) {
    size_t kk = (size_t)r->K * r->K, kd = (size_t)r->K * r->D;
    const struct zb_regression_sums *x = &r->fold[0], *y = &r->fold[1];
    struct zb_regression_sums t = {ZB_RAW_ARRAY(a, double, kk), ZB_RAW_ARRAY(a, double, kd),
                                   x->mm + y->mm};
    for (size_t i = 0; i < kk; i++) t.ff[i] = x->ff[i] + y->ff[i];
    for (size_t i = 0; i < kd; i++) t.fm[i] = x->fm[i] + y->fm[i];
    return t;
}

/* Wᵀ x [K, D] from the sums s. The ridge is a share of the features' power in all data, so that it
 * means the same for a part of them. */
static zb_status fit(const zb_regression *r, const struct zb_regression_sums *s, double ridge,
                     const float *W0, double *x, zb_arena *scratch, zb_err *err) {
    int K = r->K, D = r->D;
    zb_mark mark = zb_arena_mark(scratch);
    double mean = 0, *a = ZB_RAW_ARRAY(scratch, double, (size_t)K *K);
    const double *p = r->fold[0].ff, *q = r->fold[1].ff;
    for (size_t k = 0; k < (size_t)K * K; k += (size_t)K + 1) mean += (p[k] + q[k]) / K;
    memcpy(a, s->ff, (size_t)K * K * sizeof(double));
    for (int k = 0; k < K; k++) {
        size_t at = (size_t)k * K + k;
        double lambda = ridge * (p[at] + q[at] + mean) / 2;
        a[at] += lambda;
        for (int d = 0; d < D; d++)
            x[(size_t)k * D + d] =
                s->fm[(size_t)k * D + d] + (W0 ? lambda * (double)W0[(size_t)d * K + k] : 0);
    }
    zb_status st = zb_linalg_solve_spd(K, D, a, 0, x, scratch, err);
    zb_arena_pop(scratch, mark);
    return st;
}

/* Relative error of x [K, D] on the sums s. */
static double error_of(const zb_regression *r, const struct zb_regression_sums *s, const double *x,
                       zb_arena *scratch) {
    int K = r->K, D = r->D;
    zb_mark mark = zb_arena_mark(scratch);
    double *fx = ZB_RAW_ARRAY(scratch, double, (size_t)K *D), e = s->mm;
    zb_linalg_matmul(&(zb_dmm_args){.m = K, .n = D, .k = K, .a = s->ff, .b = x, .c = fx});
    for (size_t i = 0; i < (size_t)K * D; i++) e += x[i] * (fx[i] - 2 * s->fm[i]);
    zb_arena_pop(scratch, mark);
    return s->mm > 0 ? e / s->mm : 0;
}

zb_status zb_regression_scale(zb_regression *r, int block, float *W, zb_arena *scratch,
                              zb_err *err) {
    int K = r->K, D = r->D, n = K / block;
    zb_mark mark = zb_arena_mark(scratch);
    struct zb_regression_sums t = total(r, scratch);
    double *G = ZB_NEW_ARRAY(scratch, double, n *n), *b = ZB_NEW_ARRAY(scratch, double, n),
           *WW = ZB_RAW_ARRAY(scratch, double, (size_t)K *K), mean = 0;
    const double *wide = zb_linalg_widen(scratch, W, (int64_t)D * K);
    zb_linalg_matmul(
        &(zb_dmm_args){.m = K, .n = K, .k = D, .a = wide, .b = wide, .a_t = true, .c = WW});
    for (int k = 0; k < K; k++) {
        for (int j = 0; j < K; j++)
            G[k / block * n + j / block] += WW[(size_t)k * K + j] * t.ff[(size_t)k * K + j];
        for (int d = 0; d < D; d++)
            b[k / block] += wide[(size_t)d * K + k] * t.fm[(size_t)k * D + d];
    }
    for (int h = 0; h < n; h++) mean += G[h * n + h] / n;
    zb_status s = zb_linalg_solve_spd(n, 1, G, 1e-4 * mean + 1e-300, b, scratch, err);
    for (int d = 0; s == ZB_OK && d < D; d++)
        for (int k = 0; k < K; k++) W[(size_t)d * K + k] *= (float)b[k / block];
    zb_arena_pop(scratch, mark);
    return s;
}

zb_status zb_regression_choose(const zb_regression *r, const double *list, int n, const float *W0,
                               double *ridge, zb_arena *scratch, zb_err *err) {
    zb_mark mark = zb_arena_mark(scratch);
    double *x = ZB_RAW_ARRAY(scratch, double, (size_t)r->K * r->D), best = 1e300;
    zb_status s = ZB_OK;
    *ridge = list[0];
    for (int i = 0; s == ZB_OK && i < n && r->pieces > 1; i++) {
        s = fit(r, &r->fold[0], list[i], W0, x, scratch, err);
        double e = s == ZB_OK ? error_of(r, &r->fold[1], x, scratch) : best;
        if (e < best) best = e, *ridge = list[i];
    }
    zb_arena_pop(scratch, mark);
    return s;
}

zb_status zb_regression_solve(zb_regression *r, double ridge, bool toward, float *W, double *error,
                              zb_arena *scratch, zb_err *err) {
    int K = r->K, D = r->D;
    zb_mark mark = zb_arena_mark(scratch);
    struct zb_regression_sums t = total(r, scratch);
    double *x = ZB_RAW_ARRAY(scratch, double, (size_t)K *D);
    zb_status s = fit(r, &t, ridge, toward ? W : NULL, x, scratch, err);
    if (s == ZB_OK && error) *error = error_of(r, &t, x, scratch);
    for (int d = 0; s == ZB_OK && d < D; d++)
        for (int k = 0; k < K; k++) W[(size_t)d * K + k] = (float)x[(size_t)k * D + d];
    zb_arena_pop(scratch, mark);
    return s;
}
