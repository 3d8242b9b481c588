/* regression.h - a linear map by weighted ridge regression, from rows that come in pieces.
 *
 * Features f [K] and goals m [D] of tokens with weights w are added piece by piece; then
 *   W = argmin Σ w ‖m - W f‖² + Σ_k λ_k ‖W_k - W0_k‖²,   λ_k = ridge · (mean + own power)/2,
 * W0 a map to shrink towards (zero where none is given), W_k its column of feature k. Products of a
 * piece in f32, sums and solution in f64. Memory in the caller's arena; one thread. */
#ifndef ZB_COMPOSE_REGRESSION_H
#define ZB_COMPOSE_REGRESSION_H

#include "base/arena.h"
#include "base/err.h"
#include "tensor/matmul.h"

typedef struct zb_regression {
    int K, D, rows_max; /* rows_max: of a piece */
    struct zb_regression_sums {
        double *ff, *fm; /* Σ w f fᵀ [K, K], Σ w f mᵀ [K, D] */
        double mm;       /* Σ w ‖m‖² */
    } fold[2];           /* pieces in turn */
    int pieces;
    zb_matmul *mm_run; /* borrowed; f32 */
    float *wf, *wm, *part;
} zb_regression;

void zb_regression_init(zb_regression *r, int K, int D, int rows_max, zb_matmul *mm, zb_arena *a);

/* n <= rows_max rows of features [n, K] and goals [n, D], weights [n]. */
void zb_regression_add(zb_regression *r, int n, const float *f, const float *m, const float *w);

/* Columns of W [D, K] come in blocks: multiplies each by the factor with which, together, they fit
 * best. */
zb_status zb_regression_scale(zb_regression *r, int block, float *W, zb_arena *scratch,
                              zb_err *err);

/* *ridge: the one of `list` that, fitted on the first fold, errs least on the second; W0 [D, K] or
 * NULL: what is shrunk towards. */
zb_status zb_regression_choose(const zb_regression *r, const double *list, int n, const float *W0,
                               double *ridge, zb_arena *scratch, zb_err *err);

/* W [D, K], row-major; holds W0 before where `toward`. *error (may be NULL): Σ w ‖m - W f‖² /
 * Σ w ‖m‖² over the rows added. */
zb_status zb_regression_solve(zb_regression *r, double ridge, bool toward, float *W, double *error,
                              zb_arena *scratch, zb_err *err);

#endif
