/* Linear maps of many tokens at precision int8: within the rounding of activations of the exact
 * product, the same as one token at a time, whatever the number of threads and of tokens. */
#include "base/rng.h"
#include "model/integer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { K = 1280, TOKENS = 301, TYPES = 8, ROWS_MAX = 130 }; /* more than one piece and chunk */

static const zb_dtype types[TYPES] = {ZB_Q8_0, ZB_Q4_0, ZB_Q4_1, ZB_Q5_0,
                                      ZB_Q5_1, ZB_Q4_K, ZB_Q5_K, ZB_Q6_K};
static const int rows[TYPES] = {1, 64, 33, 130, 16, 97, 40, 31};

typedef struct fixture {
    zb_arena arena;
    zb_run run;
    zb_param w[TYPES], bias;
    float *x;
} fixture;

static float draw(uint64_t *at) { return (float)(2 * zb_rng_uniform(6, ZB_RNG_TEST, (*at)++) - 1); }

/* Random bytes; the upper bytes of scales and minima are made numbers of about 0.01. */
static void *random_blocks(zb_arena *a, const zb_param *p, uint64_t *at) {
    const zb_dtype_info *t = zb_dtype_get(p->dtype);
    size_t bytes = 0;
    assert_true(zb_dtype_size(p->dtype, (int64_t)p->rows * p->cols, &bytes));
    uint8_t *w = zb_alloc(a, bytes);
    for (size_t i = 0; i < bytes; i++) w[i] = (uint8_t)zb_rng_below(6, ZB_RNG_TEST, (*at)++, 256);
    bool min =
        p->dtype == ZB_Q4_1 || p->dtype == ZB_Q5_1 || p->dtype == ZB_Q4_K || p->dtype == ZB_Q5_K;
    for (uint8_t *b = w; b < w + bytes; b += t->bytes) {
        uint8_t *d = p->dtype == ZB_Q6_K ? b + 208 : b;
        d[1] = (uint8_t)((d[1] & 0x83) | 0x20);
        if (min) d[3] = (uint8_t)((d[3] & 0x83) | 0x20);
    }
    return w;
}

static void open_fixture(fixture *f, zb_precision p) {
    *f = (fixture){0};
    uint64_t at = 0;
    zb_err err;
    assert_int_equal(zb_matmul_new(&f->run.mm, p, &err), ZB_OK);
    f->run.arena = &f->arena;
    f->run.threads = 2;
    for (int t = 0; t < TYPES; t++) {
        f->w[t] = (zb_param){.dtype = types[t], .n_dims = 2, .rows = rows[t], .cols = K};
        f->w[t].data = random_blocks(&f->arena, &f->w[t], &at);
    }
    float *b = ZB_NEW_ARRAY(&f->arena, float, ROWS_MAX);
    for (int i = 0; i < ROWS_MAX; i++) b[i] = draw(&at);
    f->bias = (zb_param){.dtype = ZB_F32, .n_dims = 1, .rows = 1, .cols = ROWS_MAX, .data = b};
    f->x = ZB_NEW_ARRAY(&f->arena, float, TOKENS *K);
    for (int i = 0; i < TOKENS * K; i++) f->x[i] = draw(&at) * (i / K % 7 ? 1.0f : 100.0f);
}

static void close_fixture(fixture *f) {
    zb_matmul_free(f->run.mm);
    zb_arena_free(&f->arena);
}

/* All matrices together over tokens first..first+n-1, every other with a bias. */
static void run_all(fixture *f, int first, int n, float *y[TYPES]) {
    zb_linear_map maps[TYPES];
    for (int t = 0; t < TYPES; t++) {
        y[t] = ZB_NEW_ARRAY(&f->arena, float, n *rows[t]);
        maps[t] = (zb_linear_map){&f->w[t], t % 2 ? &f->bias : NULL, y[t]};
    }
    zb_linear_many(&f->run, maps, TYPES, f->x + (size_t)first * K, n);
}

/* What rounding the token to blocks of 32 may change in row j, Σ |w| max|x|/127/2; in *size the
 * sum of magnitudes of the products. */
static double rounding(const zb_param *w, int j, const float *x, double *size) {
    float row[K];
    size_t bytes = 0;
    assert_true(zb_dtype_size(w->dtype, K, &bytes));
    zb_dtype_to_f32(w->dtype, (const uint8_t *)w->data + bytes * (size_t)j, row, K);
    double sum = 0;
    *size = 0;
    for (int b = 0; b < K; b += 32) {
        double most = 0, weights = 0;
        for (int i = b; i < b + 32; i++) {
            most = fmax(most, fabs((double)x[i]));
            weights += fabs((double)row[i]);
            *size += fabs((double)row[i] * (double)x[i]);
        }
        sum += weights * most / 127 / 2;
    }
    return sum;
}

/* Codes and constants of blocks cancel in the weight itself: ten times its rounding. */
static double noise(double size) { return 10 * 4 * sqrt(K) * 0x1p-24 * size; }

static void test_exact(void **state) {
    (void)state;
    fixture f, g;
    float *exact[TYPES], *rounded[TYPES];
    open_fixture(&f, ZB_PREC_F32);
    open_fixture(&g, ZB_PREC_INT8);
    run_all(&f, 0, TOKENS, exact);
    run_all(&g, 0, TOKENS, rounded);
    for (int t = 0; t < TYPES; t++) {
        assert_false(zb_integer_wants(&f.run, &f.w[t]));
        assert_memory_not_equal(exact[t], rounded[t], TOKENS * (size_t)rows[t] * sizeof(float));
        for (int i = 0; i < TOKENS * rows[t]; i += 1 + t) {
            double size, most = rounding(&f.w[t], i % rows[t], f.x + i / rows[t] * K, &size);
            assert_true(fabs((double)exact[t][i] - (double)rounded[t][i]) <= most + noise(size));
        }
    }
    close_fixture(&f);
    close_fixture(&g);
}

/* Alone a token takes the other way, a stream over the weights: float noise. In company and with
 * any number of threads it takes the same: bit for bit. */
static void test_company(void **state) {
    (void)state;
    fixture f;
    float *all[TYPES], *some[TYPES];
    open_fixture(&f, ZB_PREC_INT8);
    run_all(&f, 0, TOKENS, all);
    static const int counts[] = {1, 2, 5, 9, 17, 31, 64, 257};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        int first = 3 + (int)c * 5, n = counts[c];
        f.run.threads = 1 + (int)c % 3;
        run_all(&f, first, n, some);
        for (int t = 0; t < TYPES; t++)
            for (int i = 0; i < n * rows[t]; i++) {
                double size, got = (double)some[t][i], want = (double)all[t][first * rows[t] + i];
                if (n > 16) {
                    assert_true(got == want);
                } else {
                    rounding(&f.w[t], i % rows[t], f.x + (first + i / rows[t]) * K, &size);
                    assert_true(fabs(got - want) <= noise(size));
                }
            }
    }
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
