/* linalg.c - LAPACK behind row-major calls (contract in linalg.h).
 *
 * LAPACK is column-major, and a row-major matrix read column-major is its transpose. So instead
 * of copying, each call asks for the transposed problem: Aᵀ = V·S·Uᵀ has the same singular
 * values, and its factors, read row-major again, are just the Vt and U that are wanted; a lower
 * triangle is the upper one of the transpose. The `_work` forms are used, since the others
 * allocate and, given NaN, only return a number. */
#include "tensor/linalg.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

double *zb_linalg_widen(zb_arena *arena, const float *x, int64_t n) {
    double *y = ZB_NEW_ARRAY(arena, double, n);
    for (int64_t i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

/* LAPACK loops for ever or returns nonsense on NaN, so it never sees one. */
static zb_status check_finite(const char *what, int m, int n, const double *a, zb_err *err) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double x = a[(size_t)i * (size_t)n + (size_t)j];
            if (!isfinite(x))
                return zb_fail(
                    err, ZB_ERR_FORMAT,
                    "%s of a matrix [%d,%d]: expected finite numbers, found %g at [%d,%d]", what, m,
                    n, x, i, j);
        }
    return ZB_OK;
}

static double *copy(zb_arena *arena, const double *a, int m, int n) {
    double *b = ZB_NEW_ARRAY(arena, double, m *(int64_t)n);
    if (m && n) memcpy(b, a, (size_t)m * (size_t)n * sizeof *b);
    return b;
}

/* Divide and conquer first; where it does not converge (rare, seen with graded values) the slower
 * QR iteration. Both take Aᵀ as column-major [n,m] and destroy it. */
static lapack_int svd_run(bool quick, const zb_svd *f, double *a, zb_arena *arena) {
    int m = f->m, n = f->n, k = f->k;
    lapack_int *iwork = ZB_NEW_ARRAY(arena, lapack_int, 8 * (int64_t)k), info, size = -1;
    double best = 0, *work = &best;
    do { /* the first round asks for the best size of the workspace */
        if (quick)
            info = LAPACKE_dgesdd_work(LAPACK_COL_MAJOR, 'S', n, m, a, n, f->s, f->vt, n, f->u, k,
                                       work, size, iwork);
        else
            info = LAPACKE_dgesvd_work(LAPACK_COL_MAJOR, 'S', 'S', n, m, a, n, f->s, f->vt, n, f->u,
                                       k, work, size);
        if (info || size >= 0) return info;
        size = (lapack_int)best;
        work = ZB_NEW_ARRAY(arena, double, size);
    } while (true);
}

zb_status zb_linalg_svd(zb_svd *out, int m, int n, const double *a, zb_arena *arena, zb_err *err) {
    *out = (zb_svd){.m = m, .n = n, .k = m < n ? m : n};
    if (out->k == 0) return ZB_OK;
    ZB_TRY(check_finite("singular values", m, n, a, err));
    out->u = ZB_NEW_ARRAY(arena, double, out->k *(int64_t)m);
    out->s = ZB_NEW_ARRAY(arena, double, out->k);
    out->vt = ZB_NEW_ARRAY(arena, double, out->k *(int64_t)n);
    zb_mark mark = zb_arena_mark(arena);
    lapack_int info = svd_run(true, out, copy(arena, a, m, n), arena);
    if (info > 0) info = svd_run(false, out, copy(arena, a, m, n), arena);
    zb_arena_pop(arena, mark);
    if (info)
        return zb_fail(err, ZB_ERR_INTERNAL,
                       "singular values of a matrix [%d,%d] do not converge (LAPACK %d)", m, n,
                       (int)info);
    return ZB_OK;
}

zb_status zb_linalg_eigen(int n, const double *a, double *values, double *vectors, zb_arena *arena,
                          zb_err *err) {
    if (n == 0) return ZB_OK;
    ZB_TRY(check_finite("eigenvalues", n, n, a, err));
    memcpy(vectors, a, (size_t)n * (size_t)n * sizeof *a);
    zb_mark mark = zb_arena_mark(arena);
    double best = 0;
    lapack_int best_int = 0;
    lapack_int info = LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, 'V', 'U', n, vectors, n, values, &best,
                                          -1, &best_int, -1);
    if (!info) {
        double *work = ZB_NEW_ARRAY(arena, double, best);
        lapack_int *iwork = ZB_NEW_ARRAY(arena, lapack_int, best_int);
        info = LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, 'V', 'U', n, vectors, n, values, work,
                                   (lapack_int)best, iwork, best_int);
    }
    zb_arena_pop(arena, mark);
    if (info)
        return zb_fail(err, ZB_ERR_INTERNAL,
                       "eigenvalues of a matrix [%d,%d] do not converge (LAPACK %d)", n, n,
                       (int)info);
    return ZB_OK;
}

zb_status zb_linalg_cholesky(int n, const double *a, double *l, zb_err *err) {
    if (n == 0) return ZB_OK;
    for (int i = 0; i < n;
         i++) { /* the lower triangle only: what stands above is nobody's business */
        size_t row = (size_t)i * (size_t)n;
        ZB_TRY(check_finite("Cholesky factor", 1, i + 1, a + row, err));
        if (l != a) memcpy(l + row, a + row, ((size_t)i + 1) * sizeof *l);
        memset(l + row + i + 1, 0, (size_t)(n - 1 - i) * sizeof *l);
    }
    lapack_int info = LAPACKE_dpotrf_work(LAPACK_COL_MAJOR, 'U', n, l, n);
    if (info)
        return zb_fail(err, ZB_ERR_INTERNAL,
                       "Cholesky factor of a matrix [%d,%d]: not positive definite from row %d on",
                       n, n, (int)info - 1);
    return ZB_OK;
}

zb_status zb_linalg_solve_triangular(int n, int r, const double *l, bool transposed, double *b,
                                     zb_err *err) {
    if (n == 0 || r == 0) return ZB_OK;
    ZB_TRY(check_finite("triangular system", n, r, b, err));
    for (int i = 0; i < n; i++) {
        const double *row = l + (size_t)i * (size_t)n;
        ZB_TRY(check_finite("triangular system", 1, i + 1, row, err));
        if (row[i] == 0)
            return zb_fail(err, ZB_ERR_INTERNAL,
                           "triangular system of %d rows is singular: diagonal element %d is 0", n,
                           i);
    }
    cblas_dtrsm(CblasRowMajor, CblasLeft, CblasLower, transposed ? CblasTrans : CblasNoTrans,
                CblasNonUnit, n, r, 1.0, l, n, b, r);
    return ZB_OK;
}

zb_status zb_linalg_solve_spd(int n, int r, const double *a, double ridge, double *b,
                              zb_arena *arena, zb_err *err) {
    if (n == 0) return ZB_OK;
    zb_mark mark = zb_arena_mark(arena);
    double *l = copy(arena, a, n, n);
    for (int i = 0; i < n; i++) l[(size_t)i * (size_t)n + (size_t)i] += ridge;
    zb_status s = zb_linalg_cholesky(n, l, l, err);
    if (!s) s = zb_linalg_solve_triangular(n, r, l, false, b, err);
    if (!s) s = zb_linalg_solve_triangular(n, r, l, true, b, err);
    zb_arena_pop(arena, mark);
    return s;
}

zb_status zb_linalg_ridge(const zb_ridge_args *g, zb_arena *arena, zb_err *err) {
    int m = g->m, n = g->n, r = g->r;
    ZB_TRY(check_finite("least squares", m, n, g->a, err));
    ZB_TRY(check_finite("least squares", m, r, g->b, err));
    zb_mark mark = zb_arena_mark(arena);
    double *gram = ZB_NEW_ARRAY(arena, double, n *(int64_t)n);
    zb_linalg_matmul(&(zb_dmm_args){n, n, m, g->a, g->a, true, false, gram});
    zb_linalg_matmul(&(zb_dmm_args){n, r, m, g->a, g->b, true, false, g->x});
    zb_status s = zb_linalg_solve_spd(n, r, gram, g->ridge, g->x, arena, err);
    zb_arena_pop(arena, mark);
    return s;
}

void zb_linalg_matmul(const zb_dmm_args *g) {
    if (g->m == 0 || g->n == 0) return;
    if (g->k == 0) {
        memset(g->c, 0, (size_t)g->m * (size_t)g->n * sizeof *g->c);
        return;
    }
    cblas_dgemm(CblasRowMajor, g->a_t ? CblasTrans : CblasNoTrans,
                g->b_t ? CblasTrans : CblasNoTrans, g->m, g->n, g->k, 1.0, g->a,
                g->a_t ? g->m : g->k, g->b, g->b_t ? g->k : g->n, 0.0, g->c, g->n);
}
