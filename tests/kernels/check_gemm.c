/* check_gemm.c - both small matrix products against their formula in double precision (rules and
 * tolerances of check.c). */
#include "check.h"

#include <math.h>
#include <stdlib.h>

typedef struct sizes {
    int m, n, p;
} sizes;

/* B as [p, n], or transposed as [n, p]: gemm_bt. A may be transposed where the kernel takes it. */
static void check_one(const zb_kernels *k, bool bt, sizes s) {
    int m = s.m, n = s.n, p = s.p;
    bool t = !bt && draw_below(2), add = draw_below(2);
    int lda = (t ? m : p) + draw_below(4), ldb = (bt ? p : n) + draw_below(9),
        ldc = n + draw_below(9), b_rows = bt ? n : p;
    float alpha = draw_below(3) ? (float)draw() : 1.0f;
    /* a transposed B ends with its last row's last value, so that reading past it is caught */
    int64_t b_size = bt ? (b_rows ? (int64_t)(b_rows - 1) * ldb + p : 0) : (int64_t)b_rows * ldb;
    int64_t a_size = bt ? (m ? (int64_t)(m - 1) * lda + p : 0) : (int64_t)(t ? p : m) * lda;
    const float *a = take_random(0, a_size, 1), *b = take_random(1, b_size, 1);
    float *c = take_random(2, (int64_t)m * ldc, 1);
    for (int i = 0; i < m && !add; i++)
        for (int j = 0; j < n; j++) c[i * ldc + j] = NAN; /* proves that C is not read */
    float *before = copy_of(c, (int64_t)m * ldc);
    zb_gemm_args g = {m, n, p, a, t ? 1 : lda, t ? lda : 1, b, ldb, c, ldc, alpha, add};
    (bt ? k->gemm_bt : k->gemm)(&g);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < ldc; j++) {
            double want = 0, size = 0, old = (double)before[i * ldc + j];
            for (int q = 0; q < p && j < n; q++) {
                double x = (double)a[i * g.a_row + q * g.a_col] *
                           (double)b[bt ? j * ldb + q : q * ldb + j];
                want += x;
                size += fabs(x);
            }
            want = j >= n ? old : (double)alpha * want + (add ? old : 0);
            size = fabs((double)alpha) * size + (add ? fabs(old) : 0);
            near(m * 1000000 + n * 1000 + p, i * ldc + j, (double)c[i * ldc + j], want,
                 j < n ? sum_tolerance(p, size) : 0);
        }
    guards(m);
    free(before);
}

static void check_sizes(const zb_kernels *k, bool bt, int rounds) {
    static const int dims[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  11, 12, 13,
                               15, 16, 17, 24, 25, 31, 32, 33, 63, 64, 65, 90};
    enum { N_DIMS = sizeof dims / sizeof *dims };
    for (int r = 0; r < rounds; r++)
        check_one(
            k, bt,
            (sizes){dims[draw_below(N_DIMS)], dims[draw_below(N_DIMS)], dims[draw_below(N_DIMS)]});
}

void check_gemm(const zb_kernels *k) {
    check_sizes(k, false, 600);
    for (int r = 0; r < 12; r++)
        check_one(k, false, (sizes){1 + draw_below(70), 1 + draw_below(70), 200 + draw_below(400)});
}

/* A row's result must not depend on the rows beside it: batches of any size give the same bits. */
static void rows_alone(const zb_kernels *k, bool transposed) {
    enum { M = 13, N = 70, P = 300 };
    const float *a = take_random(0, M * P, 1), *b = take_random(1, P * N, 1);
    float *c = take(2, M * N), *one = take(3, N);
    for (int m = 1; m <= M; m++) {
        zb_gemm_args g = {m, N, P, a, P, 1, b, transposed ? P : N, c, N, 1, false};
        (transposed ? k->gemm_bt : k->gemm)(&g);
        for (int i = 0; i < m; i++) {
            g.m = 1;
            g.a = a + i * P;
            g.c = one;
            (transposed ? k->gemm_bt : k->gemm)(&g);
            for (int j = 0; j < N; j++) near(m, j, (double)c[i * N + j], (double)one[j], 0);
        }
    }
}

void check_gemm_bt(const zb_kernels *k) {
    check_sizes(k, true, 500);
    for (int r = 0; r < 8; r++)
        check_one(k, true, (sizes){1 + draw_below(40), 1 + draw_below(70), 100 + draw_below(500)});
    rows_alone(k, false);
    rows_alone(k, true);
}
