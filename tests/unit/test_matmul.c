/* zb_matmul against a product in f64: all four transpositions, adding or not, odd sizes, row
 * distances larger than the width.
 *
 * An f32 sum of k products has an error of at most about k·2^-24·Σ|a·b|; it grows in practice with
 * the square root of k, so the bound here is 4·sqrt(k+1)·2^-24·(Σ|a·b| + |c|). With bf16 the same
 * bound holds for the product of the rounded operands. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "tensor/dtype.h"
#include "tensor/matmul.h"

static const float edge = 12345.5f; /* between the width and the row distance of C: must survive */

/* `seed` counts on, so that every array differs. */
static float *random_values(zb_arena *a, uint64_t *seed, int64_t n) {
    float *v = ZB_NEW_ARRAY(a, float, n + 1);
    for (int64_t i = 0; i < n; i++) v[i] = (float)zb_rng_normal(*seed, ZB_RNG_TEST, (uint64_t)i);
    ++*seed;
    return v;
}

static double rounded(float v, zb_precision p) {
    return (double)(p == ZB_PREC_BF16 ? zb_bf16_to_f32(zb_f32_to_bf16(v)) : v);
}

static void one(zb_matmul *mm, int m, int n, int k, int pad, int flags, uint64_t *seed) {
    zb_precision p = zb_matmul_precision(mm);
    zb_arena arena = {0};
    zb_mm_args g = {.m = m, .n = n, .k = k, .a_t = flags & 1, .b_t = flags & 2, .add = flags & 4};
    g.lda = (g.a_t ? m : k) + pad;
    g.ldb = (g.b_t ? k : n) + 2 * pad;
    g.ldc = n + 3 * pad;
    int64_t a_n = (g.a_t ? k : m) * g.lda, b_n = (g.b_t ? n : k) * g.ldb, c_n = m * g.ldc;
    float *a = random_values(&arena, seed, a_n), *b = random_values(&arena, seed, b_n),
          *c = random_values(&arena, seed, c_n);
    for (int i = 0; i < m; i++)
        for (int64_t j = n; j < g.ldc; j++) c[i * g.ldc + j] = edge;
    float *before = ZB_NEW_ARRAY(&arena, float, c_n + 1);
    memcpy(before, c, (size_t)c_n * sizeof *c);
    g.a = a;
    g.b = b;
    g.c = c;
    zb_matmul_run(mm, &g);
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double sum = g.add ? (double)before[i * g.ldc + j] : 0, size = fabs(sum);
            for (int q = 0; q < k; q++) {
                double x = rounded(a[g.a_t ? q * g.lda + i : i * g.lda + q], p) *
                           rounded(b[g.b_t ? j * g.ldb + q : q * g.ldb + j], p);
                sum += x;
                size += fabs(x);
            }
            double got = (double)c[i * g.ldc + j], bound = 4 * sqrt(k + 1.0) * 0x1p-24 * size;
            if (!(fabs(got - sum) <= bound))
                fail_msg(
                    "%s m %d n %d k %d pad %d flags %d at %d,%d: got %.9g, want %.9g, bound %.3g",
                    p == ZB_PREC_BF16 ? "bf16" : "f32", m, n, k, pad, flags, i, j, got, sum, bound);
        }
        for (int64_t j = n; j < g.ldc; j++) assert_true(c[i * g.ldc + j] == edge);
    }
    zb_arena_free(&arena);
}

static const int sizes[][3] = {
    {1, 1, 1}, {1, 33, 64}, {3, 5, 7}, {17, 1, 129},  {64, 64, 64},  {31, 97, 48}, {130, 67, 255},
    {0, 5, 3}, {5, 0, 3},   {4, 9, 0}, {9, 40, 4133}, {700, 18, 37}, {21, 690, 35}};

static void all_sizes(zb_precision p) {
    zb_matmul *mm;
    zb_err err = {0};
    if (zb_matmul_new(&mm, p, &err) != ZB_OK) fail_msg("%s", err.msg);
    assert_int_equal(zb_matmul_precision(mm), p);
    if (p == ZB_PREC_F32) assert_false(zb_matmul_bf16_native(mm));
    uint64_t seed = 1;
    for (int round = 0; round < 2; round++) /* the second time from the cache */
        for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
            for (int flags = 0; flags < 8; flags++)
                for (int pad = 0; pad < 6; pad += 5)
                    one(mm, sizes[s][0], sizes[s][1], sizes[s][2], pad, flags, &seed);
    zb_matmul_free(mm);
}

static void test_f32(void **state) {
    (void)state;
    all_sizes(ZB_PREC_F32);
}

static void test_bf16(void **state) {
    (void)state;
    all_sizes(ZB_PREC_BF16);
}

/* More shapes than the cache of primitives holds: an evicted shape still gives the right product.
 */
static void test_many_shapes(void **state) {
    (void)state;
    zb_matmul *mm;
    zb_err err = {0};
    if (zb_matmul_new(&mm, ZB_PREC_BF16, &err) != ZB_OK) fail_msg("%s", err.msg);
    uint64_t seed = 1;
    for (int round = 0; round < 2; round++)
        for (int n = 1; n <= 300; n++) one(mm, 2, n, 3, 0, n % 8, &seed);
    zb_matmul_free(mm);
}

/* bf16 really rounds: 1 + 2^-9 becomes 1, so that a product of it with 1 is exact only in f32. */
static void test_rounding_happens(void **state) {
    (void)state;
    for (int p = 0; p < 2; p++) {
        zb_matmul *mm;
        zb_err err = {0};
        if (zb_matmul_new(&mm, p ? ZB_PREC_BF16 : ZB_PREC_F32, &err) != ZB_OK)
            fail_msg("%s", err.msg);
        float a = 1 + 0x1p-9f, b = 1, c = 7;
        zb_matmul_run(
            mm,
            &(zb_mm_args){
                .m = 1, .n = 1, .k = 1, .a = &a, .lda = 1, .b = &b, .ldb = 1, .c = &c, .ldc = 1});
        assert_true(c == (p ? 1.0f : a));
        zb_matmul_free(mm);
    }
    zb_matmul_free(NULL);
}

/* Once shapes are known a product takes no memory. */
/* A held operand gives the same bits as one that is rounded on the way, in both of the places a
 * gradient has; it is what was held that counts, and only where products round at all. */
static void test_held(void **state) {
    (void)state;
    enum { N = 9, ROWS = 7, COLS = 5 };
    zb_arena a = {0};
    uint64_t seed = 50;
    float *dy = random_values(&a, &seed, N * ROWS), *w = random_values(&a, &seed, ROWS * COLS),
          *x = random_values(&a, &seed, N * COLS), out[2][N * COLS + ROWS * COLS];
    for (int p = 0; p < 2; p++) {
        zb_err err = {0};
        zb_matmul *mm;
        if (zb_matmul_new(&mm, p ? ZB_PREC_BF16 : ZB_PREC_F32, &err) != ZB_OK)
            fail_msg("%s", err.msg);
        for (int held = 0; held < 3; held++) {
            float *c = out[held > 0];
            zb_mm_args dx = {.m = N, .n = COLS, .k = ROWS, .a = dy, .lda = ROWS, .b = w};
            dx.ldb = dx.ldc = COLS;
            dx.c = c;
            zb_mm_args dw = {.m = ROWS, .n = COLS, .k = N, .a = dy, .lda = ROWS, .a_t = true};
            dw.b = x;
            dw.ldb = dw.ldc = COLS;
            dw.c = c + N * COLS;
            if (held) {
                zb_matmul_hold(mm, ZB_HOLD_GRADIENT, dy, N, ROWS);
                zb_matmul_hold(mm, ZB_HOLD_HEAD, w, ROWS, COLS);
            }
            float kept = w[3];
            if (held == 2) w[3] = 1000; /* only the copy counts, if there is one */
            zb_matmul_run(mm, &dx);
            zb_matmul_run(mm, &dw);
            w[3] = kept;
            zb_matmul_release(mm, ZB_HOLD_GRADIENT);
            zb_matmul_release(mm, ZB_HOLD_HEAD);
            bool copied = p && !zb_kernels_get()->tiles; /* tiles are packed for one product */
            if (held == 1 || (held == 2 && copied))
                assert_memory_equal(out[0], out[1], sizeof out[0]);
            if (held == 2 && !copied) assert_memory_not_equal(out[0], out[1], sizeof out[0]);
        }
        zb_matmul_free(mm);
    }
    zb_arena_free(&a);
}

static void test_no_memory(void **state) {
    (void)state;
    for (int p = 0; p < 2; p++) {
        zb_matmul *mm;
        zb_err err = {0};
        if (zb_matmul_new(&mm, p ? ZB_PREC_BF16 : ZB_PREC_F32, &err) != ZB_OK)
            fail_msg("%s", err.msg);
        float a[64] = {0}, b[64] = {0}, c[64];
        zb_mm_args g = {
            .m = 8, .n = 8, .k = 8, .a = a, .lda = 8, .b = b, .ldb = 8, .c = c, .ldc = 8};
        zb_matmul_run(mm, &g);
        uint64_t before = zb_heap_count();
        for (int i = 0; i < 10; i++) zb_matmul_run(mm, &g);
        assert_int_equal(zb_heap_count(), before);
        zb_matmul_free(mm);
    }
}

/* A matrix as a file has it gives the same bits as its copy in f32. */
static void test_stored(void **state) {
    (void)state;
    enum { M = 37, N = 50, K = 4352 }; /* more than one piece of a sum */
    zb_arena a = {0};
    zb_matmul *mm;
    zb_err err = {0};
    if (zb_matmul_new(&mm, ZB_PREC_BF16, &err) != ZB_OK) fail_msg("%s", err.msg);
    if (!zb_matmul_on_tiles(mm)) {
        zb_matmul_free(mm);
        skip();
    }
    static const zb_dtype types[] = {ZB_BF16, ZB_F16, ZB_Q8_0, ZB_Q4_1, ZB_Q6_K};
    uint64_t seed = 90;
    float *x = random_values(&a, &seed, M * K), *c = ZB_NEW_ARRAY(&a, float, 2 * M * N);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        size_t bytes = 0;
        assert_true(zb_dtype_size(types[t], (int64_t)N * K, &bytes));
        uint8_t *w = zb_alloc(&a, bytes);
        for (size_t i = 0; i < bytes; i++) /* small exponents of halves, anything else */
            w[i] = (uint8_t)(zb_rng_below(7, ZB_RNG_TEST, i, 256) & 0x3b);
        float *wide = ZB_NEW_ARRAY(&a, float, N *K);
        zb_dtype_to_f32(types[t], w, wide, (int64_t)N * K);
        zb_mm_args g = {.m = M, .n = N, .k = K, .a = x, .lda = K, .c = c, .ldc = N};
        g.b_type = types[t];
        g.b_stored = w;
        zb_matmul_run(mm, &g);
        g = (zb_mm_args){.m = M, .n = N, .k = K, .a = x, .lda = K, .b = wide, .ldb = K};
        g.b_t = true;
        g.c = c + M * N;
        g.ldc = N;
        zb_matmul_run(mm, &g);
        assert_memory_equal(c, c + M * N, M * N * sizeof *c);
    }
    zb_matmul_free(mm);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),         cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_many_shapes), cmocka_unit_test(test_rounding_happens),
        cmocka_unit_test(test_held),        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_stored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
