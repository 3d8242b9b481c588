/* test_linalg.c - known answers, reconstruction errors up to the sizes of real layers, and every
 * error. */
#include "base/rng.h"
#include "tensor/linalg.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static zb_arena arena;
static zb_err err;

static int clear(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return 0;
}

static double *random_matrix(int m, int n, uint64_t seed) {
    double *a = ZB_NEW_ARRAY(&arena, double, (int64_t)m *n);
    for (int64_t i = 0; i < (int64_t)m * n; i++)
        a[i] = zb_rng_normal(seed, ZB_RNG_TEST, (uint64_t)i);
    return a;
}

static double *product(int m, int n, int k, const double *a, bool a_t, const double *b, bool b_t) {
    double *c = ZB_NEW_ARRAY(&arena, double, (int64_t)m *n);
    zb_linalg_matmul(&(zb_dmm_args){m, n, k, a, b, a_t, b_t, c});
    return c;
}

static double largest_difference(const double *a, const double *b, int64_t n) {
    double max = 0;
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(a[i]) && isfinite(b[i]));
        max = fmax(max, fabs(a[i] - b[i]));
    }
    return max;
}

static const double *identity(int n) {
    double *a = ZB_NEW_ARRAY(&arena, double, (int64_t)n *n);
    for (int64_t i = 0; i < n; i++) a[i * n + i] = 1;
    return a;
}

/* Backward stable algorithms: errors of a few roundings times the size and the norm. */
static double tolerance(int m, int n, double norm) {
    return 8 * DBL_EPSILON * (m > n ? m : n) * norm;
}

static void test_matmul(void **state) {
    (void)state;
    const double a[6] = {1, 2, 3, 4, 5, 6}, b[6] = {1, 0, 2, 1, 0, 3}; /* a [2,3], b [3,2] */
    const double want[4] = {5, 11, 14, 23};
    assert_memory_equal(product(2, 2, 3, a, false, b, false), want, sizeof want);
    const double bt[6] = {1, 2, 0, 0, 1, 3}, at[6] = {1, 4, 2, 5, 3, 6};
    assert_memory_equal(product(2, 2, 3, at, true, bt, true), want, sizeof want);
    const double c[4] = {2, 1, 1, 3}, d[4] = {3, 2, 1, 12};
    const double cd[4] = {7, 16, 6, 38}; /* [2 1; 1 3]·[3 2; 1 12] */
    assert_memory_equal(product(2, 2, 2, c, false, d, false), cd, sizeof cd);
    double e[4] = {9, 9, 9, 9};
    const double zero[4] = {0};
    zb_linalg_matmul(&(zb_dmm_args){2, 2, 0, a, b, false, false, e});
    assert_memory_equal(e, zero, sizeof zero);
}

static void check_svd(int m, int n, uint64_t seed) {
    double *a = random_matrix(m, n, seed);
    zb_svd f;
    assert_int_equal(zb_linalg_svd(&f, m, n, a, &arena, &err), ZB_OK);
    int k = m < n ? m : n;
    assert_true(f.m == m && f.n == n && f.k == k);
    for (int i = 0; i < k; i++) assert_true(f.s[i] >= 0 && (i == 0 || f.s[i] <= f.s[i - 1]));
    double tol = tolerance(m, n, 1);
    const double *uu = product(k, k, m, f.u, true, f.u, false);
    const double *vv = product(k, k, n, f.vt, false, f.vt, true);
    assert_true(largest_difference(uu, identity(k), (int64_t)k * k) < tol);
    assert_true(largest_difference(vv, identity(k), (int64_t)k * k) < tol);
    for (int64_t i = 0; i < (int64_t)m * k; i++) f.u[i] *= f.s[i % k];
    assert_true(largest_difference(product(m, n, k, f.u, false, f.vt, false), a, (int64_t)m * n) <
                tol * f.s[0]);
}

static void test_svd(void **state) {
    (void)state;
    const double a[6] = {3, 0, 0, -4, 0, 0}; /* [3,2]: singular values 4 and 3 */
    zb_svd f;
    assert_int_equal(zb_linalg_svd(&f, 3, 2, a, &arena, &err), ZB_OK);
    assert_true(fabs(f.s[0] - 4) < 1e-14 && fabs(f.s[1] - 3) < 1e-14);
    assert_true(fabs(f.vt[0]) < 1e-14 && fabs(fabs(f.vt[1]) - 1) < 1e-14);
    assert_true(fabs(f.u[2] * f.s[0] * f.vt[1] + 4) < 1e-14); /* U[1,0] s0 Vt[0,1] = A[1,1] */
    static const int sizes[][2] = {{1, 1},   {1, 7},   {7, 1},     {5, 5},
                                   {40, 17}, {17, 40}, {130, 128}, {64, 300}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_svd(sizes[i][0], sizes[i][1], i);
    assert_int_equal(zb_linalg_svd(&f, 0, 5, NULL, &arena, &err), ZB_OK);
    assert_int_equal(f.k, 0);
}

/* Rank 2 of 30: values that ought to be 0 are. */
static void test_svd_low_rank(void **state) {
    (void)state;
    double *l = random_matrix(50, 2, 3), *r = random_matrix(2, 30, 4);
    zb_svd f;
    assert_int_equal(
        zb_linalg_svd(&f, 50, 30, product(50, 30, 2, l, false, r, false), &arena, &err), ZB_OK);
    assert_true(f.s[1] > 1);
    for (int i = 2; i < 30; i++) assert_true(f.s[i] < tolerance(50, 30, f.s[0]));
}

/* The sizes of a real layer: some versions of the library have wrong kernels for processors newer
 * than themselves. */
static void test_svd_large(void **state) {
    (void)state;
    check_svd(1500, 576, 11);
    check_svd(576, 1152, 12);
}

static void test_eigen(void **state) {
    (void)state;
    const double a[4] = {2, 99, 1, 2}; /* upper triangle is not read: eigenvalues 1 and 3 */
    double values[2], vectors[4];
    assert_int_equal(zb_linalg_eigen(2, a, values, vectors, &arena, &err), ZB_OK);
    assert_true(fabs(values[0] - 1) < 1e-14 && fabs(values[1] - 3) < 1e-14);
    assert_true(fabs(vectors[0] + vectors[1]) < 1e-14 && fabs(vectors[2] - vectors[3]) < 1e-14);
    enum { N = 300 };
    double *x = random_matrix(N, N, 5), *sym = product(N, N, N, x, true, x, false),
           *w = random_matrix(1, N, 1), *v = random_matrix(N, N, 1);
    assert_int_equal(zb_linalg_eigen(N, sym, w, v, &arena, &err), ZB_OK);
    double *wv = ZB_NEW_ARRAY(&arena, double, N *N);
    for (int i = 0; i < N; i++) {
        assert_true(i == 0 || w[i] >= w[i - 1]);
        for (int j = 0; j < N; j++) wv[i * N + j] = w[i] * v[i * N + j];
    }
    assert_true(largest_difference(product(N, N, N, v, true, wv, false), sym, N * N) <
                tolerance(N, N, w[N - 1]));
    assert_true(largest_difference(product(N, N, N, v, false, v, true), identity(N), N * N) <
                tolerance(N, N, 1));
}

static void test_cholesky(void **state) {
    (void)state;
    double a[9] = {4,  77, 77, 2, 5,
                   77, 6,  7,  19}; /* lower triangle read, upper replaced by zeros */
    const double want[9] = {2, 0, 0, 1, 2, 0, 3, 2, 2.449489742783178};
    assert_int_equal(zb_linalg_cholesky(3, a, a, &err), ZB_OK);
    assert_true(largest_difference(a, want, 9) < 1e-14);
    double not_positive[4] = {1, 0, 2, 1};
    assert_int_equal(zb_linalg_cholesky(2, not_positive, not_positive, &err), ZB_ERR_INTERNAL);
    assert_non_null(strstr(err.msg, "not positive definite"));
    enum { N = 577 };
    double *x = random_matrix(N + 40, N, 6), *spd = product(N, N, N + 40, x, true, x, false),
           *l = random_matrix(N, N, 1);
    assert_int_equal(zb_linalg_cholesky(N, spd, l, &err), ZB_OK);
    for (int i = 0; i < N; i++)
        for (int j = i + 1; j < N; j++) assert_true(l[i * N + j] == 0);
    assert_true(largest_difference(product(N, N, N, l, false, l, true), spd, N * N) <
                tolerance(N, N, 4.0 * N));
}

static void test_solve(void **state) {
    (void)state;
    const double l[4] = {2, 55, 1, 4};
    double b[4] = {2, 4, 9, 6}; /* two right sides: L X = B */
    const double want[4] = {1, 2, 2, 1};
    assert_int_equal(zb_linalg_solve_triangular(2, 2, l, false, b, &err), ZB_OK);
    assert_true(largest_difference(b, want, 4) < 1e-15);
    double c[2] = {4, 8}; /* Lᵀ x = c */
    const double want_c[2] = {1, 2};
    assert_int_equal(zb_linalg_solve_triangular(2, 1, l, true, c, &err), ZB_OK);
    assert_true(largest_difference(c, want_c, 2) < 1e-15);
    const double singular[4] = {1, 0, 1, 0};
    assert_int_equal(zb_linalg_solve_triangular(2, 1, singular, false, c, &err), ZB_ERR_INTERNAL);

    enum { N = 120, R = 7 };
    double *x = random_matrix(2 * N, N, 7), *a = product(N, N, 2 * N, x, true, x, false),
           *truth = random_matrix(N, R, 8);
    double *rhs = product(N, R, N, a, false, truth, false);
    for (int i = 0; i < N * R; i++) rhs[i] += 0.5 * truth[i];
    assert_int_equal(zb_linalg_solve_spd(N, R, a, 0.5, rhs, &arena, &err), ZB_OK);
    assert_true(largest_difference(rhs, truth, N * R) < 1e-11);
}

/* Without ridge an exact fit is found again; with it the gradient Aᵀ(AX - B) + ridge X vanishes;
 * more columns than rows work only with it. */
static void test_ridge(void **state) {
    (void)state;
    enum { M = 200, N = 60, R = 5 };
    double *a = random_matrix(M, N, 9), *truth = random_matrix(N, R, 10),
           *b = product(M, R, N, a, false, truth, false);
    double *x = random_matrix(N, R, 1);
    assert_int_equal(zb_linalg_ridge(&(zb_ridge_args){M, N, R, a, b, 0, x}, &arena, &err), ZB_OK);
    assert_true(largest_difference(x, truth, N * R) < 1e-12);
    b = random_matrix(M, R, 11);
    assert_int_equal(zb_linalg_ridge(&(zb_ridge_args){M, N, R, a, b, 3.5, x}, &arena, &err), ZB_OK);
    double *rest = product(M, R, N, a, false, x, false);
    for (int i = 0; i < M * R; i++) rest[i] -= b[i];
    double *gradient = product(N, R, M, a, true, rest, false);
    for (int i = 0; i < N * R; i++) assert_true(fabs(gradient[i] + 3.5 * x[i]) < 1e-10);
    assert_int_equal(zb_linalg_ridge(&(zb_ridge_args){10, N, R, a, b, 0.1, x}, &arena, &err),
                     ZB_OK);
    double zero[6] = {0, 0, 0, 0, 0, 0};
    assert_int_equal(zb_linalg_ridge(&(zb_ridge_args){3, 2, 1, zero, zero, 0, x}, &arena, &err),
                     ZB_ERR_INTERNAL);
}

static void test_not_finite(void **state) {
    (void)state;
    double a[4] = {1, 0, nan(""), 1}, out[4], s[2];
    zb_svd f;
    assert_int_equal(zb_linalg_svd(&f, 2, 2, a, &arena, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "[1,0]"));
    assert_int_equal(zb_linalg_eigen(2, a, s, out, &arena, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_linalg_cholesky(2, a, out, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_linalg_solve_triangular(2, 1, a, false, s, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_linalg_ridge(&(zb_ridge_args){2, 2, 1, a, s, 1, out}, &arena, &err),
                     ZB_ERR_FORMAT);
    a[2] = HUGE_VAL;
    assert_int_equal(zb_linalg_svd(&f, 2, 2, a, NULL, &err), ZB_ERR_FORMAT);
}

static void test_workspace_is_popped(void **state) {
    (void)state;
    double *a = random_matrix(30, 20, 1), *b = random_matrix(30, 2, 2),
           *x = random_matrix(20, 2, 2);
    size_t before = arena.bytes;
    zb_svd svd;
    assert_int_equal(zb_linalg_svd(&svd, 30, 20, a, &arena, &err), ZB_OK);
    size_t results = (30 * 20 + 20 + 20 * 20) * sizeof(double);
    assert_true(arena.bytes - before >= results && arena.bytes - before < results + 3 * 64);
    before = arena.bytes;
    assert_int_equal(zb_linalg_ridge(&(zb_ridge_args){30, 20, 2, a, b, 1, x}, &arena, &err), ZB_OK);
    assert_int_equal(arena.bytes, before);
    float f[2] = {0.5f, -3};
    double *w = zb_linalg_widen(&arena, f, 2);
    assert_true(w[0] == 0.5 && w[1] == -3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_matmul, clear),
        cmocka_unit_test_teardown(test_svd, clear),
        cmocka_unit_test_teardown(test_svd_low_rank, clear),
        cmocka_unit_test_teardown(test_svd_large, clear),
        cmocka_unit_test_teardown(test_eigen, clear),
        cmocka_unit_test_teardown(test_cholesky, clear),
        cmocka_unit_test_teardown(test_solve, clear),
        cmocka_unit_test_teardown(test_ridge, clear),
        cmocka_unit_test_teardown(test_not_finite, clear),
        cmocka_unit_test_teardown(test_workspace_is_popped, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
