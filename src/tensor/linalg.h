/* linalg.h - decompositions and least squares in f64, for initialisations that are computed once.
 *
 * All matrices are dense, row-major, double, without padding; zb_linalg_widen turns f32 weights
 * into such. Inputs are not changed unless said; outputs are given by the caller; workspace comes
 * from the arena and is popped before return. Errors: ZB_ERR_FORMAT where an input holds NaN or
 * infinity, ZB_ERR_INTERNAL where a matrix is not positive definite, is singular or an iteration
 * does not converge. Sizes of 0 are legal. Any thread with its own arena; the library underneath
 * uses several threads by itself. */
#ifndef ZB_TENSOR_LINALG_H
#define ZB_TENSOR_LINALG_H

#include "base/arena.h"
#include "base/err.h"

#include <stdbool.h>

/* [n] f32 as doubles, in the arena. */
double *zb_linalg_widen(zb_arena *arena, const float *x, int64_t n);

/* A[m,n] = U[m,k] · diag(s[k]) · Vt[k,n], k = min(m,n), s descending, U's columns and Vt's rows
 * orthonormal; all three in the arena. Singular vectors are free up to sign, and up to rotation
 * where values repeat. */
typedef struct zb_svd {
    int m, n, k;
    double *u, *s, *vt;
} zb_svd;
zb_status zb_linalg_svd(zb_svd *out, int m, int n, const double *a, zb_arena *arena, zb_err *err);

/* Symmetric A[n,n] (only its lower triangle is read) = Σ_i values[i] v_i v_iᵀ; values ascending,
 * v_i = row i of vectors[n,n]. */
zb_status zb_linalg_eigen(int n, const double *a, double *values, double *vectors, zb_arena *arena,
                          zb_err *err);

/* Symmetric positive definite A[n,n] (lower triangle read) = L·Lᵀ; L[n,n] with zeros above. l may
 * be a. */
zb_status zb_linalg_cholesky(int n, const double *a, double *l, zb_err *err);

/* X[n,r] with L·X = B, or Lᵀ·X = B where `transposed`; L[n,n] lower triangular, B[n,r] is
 * replaced by X. */
zb_status zb_linalg_solve_triangular(int n, int r, const double *l, bool transposed, double *b,
                                     zb_err *err);

/* X[n,r] with (A + ridge·I)·X = B for symmetric A[n,n] such that the sum is positive definite; B
 * is replaced by X. */
zb_status zb_linalg_solve_spd(int n, int r, const double *a, double ridge, double *b,
                              zb_arena *arena, zb_err *err);

/* X[n,r] that minimises ‖A·X - B‖² + ridge·‖X‖² for A[m,n], B[m,r], by the normal equations (in
 * double; the condition number is squared, so with ridge = 0 A needs full column rank). */
typedef struct zb_ridge_args {
    int m, n, r;
    const double *a, *b;
    double ridge;
    double *x;
} zb_ridge_args;
zb_status zb_linalg_ridge(const zb_ridge_args *g, zb_arena *arena, zb_err *err);

/* C[m,n] = op(A)·op(B), op(A) [m,k], op(B) [k,n]; *_t: the operand is stored transposed. No
 * finiteness check. */
typedef struct zb_dmm_args {
    int m, n, k;
    const double *a, *b;
    bool a_t, b_t;
    double *c;
} zb_dmm_args;
void zb_linalg_matmul(const zb_dmm_args *g);

#endif
