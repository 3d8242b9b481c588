/* Linear maps of many tokens at precision int8: within the rounding of activations of the exact
 * product, the same as one token at a time, whatever the number of threads and of tokens. */
#include "base/rng.h"
#include "model/footprint.h"
#include "model/integer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

/* More than one piece and chunk; FEW: integers on any processor. */
enum { K = 1280, TOKENS = 301, TYPES = 8, FEW = 32 };

static const zb_dtype types[TYPES] = {ZB_Q8_0, ZB_Q4_0, ZB_Q4_1, ZB_Q5_0,
                                      ZB_Q5_1, ZB_Q4_K, ZB_Q5_K, ZB_Q6_K};
static const int rows[TYPES] = {1, 64, 33, 130, 16, 97, 40, 31};

#include "linear_fixture.h"

/* All matrices together over tokens first..first+n-1. */
static void run_all(fixture *f, int first, int n, float *y[TYPES]) {
    zb_linear_map maps[TYPES];
    all_maps(f, n, maps, y);
    zb_linear_many(&f->run, maps, TYPES, f->x + (size_t)first * K, n);
}

static void test_exact(void **state) {
    (void)state;
    fixture f, g;
    float *plain[TYPES], *rounded[TYPES];
    open_fixture(&f, ZB_PREC_F32);
    open_fixture(&g, ZB_PREC_INT8);
    run_all(&f, 0, TOKENS, plain);
    run_all(&g, 0, TOKENS, rounded);
    for (int t = 0; t < TYPES; t++) {
        assert_false(zb_integer_wants(&f.run, &f.w[t], TOKENS));
        assert_memory_not_equal(plain[t], rounded[t], TOKENS * (size_t)rows[t] * sizeof(float));
        for (int i = 0; i < TOKENS * rows[t]; i += 1 + t) {
            exact e = exact_product(&f.w[t], i % rows[t], f.x + i / rows[t] * K);
            assert_true(fabs((double)plain[t][i] - (double)rounded[t][i]) <=
                        e.rounding + noise(e.size));
        }
    }
    close_fixture(&f);
    close_fixture(&g);
}

/* What the maps take beyond their results is what the plan of memory says. */
static void test_room(void **state) {
    (void)state;
    fixture f;
    float *y[TYPES];
    open_fixture(&f, ZB_PREC_INT8);
    zb_linear_map maps[TYPES];
    all_maps(&f, FEW, maps, y);
    size_t from = f.run.arena->bytes;
    zb_linear_many(&f.run, maps, TYPES, f.x, FEW);
    zb_config c = {.D = K};
    size_t taken = f.run.arena->peak - from, many = 1000;
    assert_true(zb_unpack_room(&c, FEW) >= taken);
    double ratio = (double)zb_unpack_room(&c, (int)many * FEW) / (double)(many * taken);
    assert_true(ratio > 0.99 && ratio < 1.01);
    close_fixture(&f);
}

/* Alone a token takes the other way, a stream over the weights: float noise. In company and with
 * any number of threads it takes the same: bit for bit. Matrix registers multiply large companies
 * in bf16, and are that near. */
static void test_company(void **state) {
    (void)state;
    fixture f;
    float *all[TYPES], *some[TYPES];
    open_fixture(&f, ZB_PREC_INT8);
    for (int t = 0; t < TYPES; t++) all[t] = ZB_NEW_ARRAY(&f.arena, float, TOKENS *rows[t]);
    for (int first = 0; first < TOKENS; first += FEW) {
        int n = TOKENS - first < FEW ? TOKENS - first : FEW;
        run_all(&f, first, n, some);
        for (int t = 0; t < TYPES; t++)
            memcpy(all[t] + first * rows[t], some[t], (size_t)(n * rows[t]) * sizeof(float));
    }
    static const int counts[] = {1, 2, 5, 9, 17, 31, 64, 257};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        int first = 3 + (int)c * 5, n = counts[c];
        f.run.threads = 1 + (int)c % 3;
        run_all(&f, first, n, some);
        for (int t = 0; t < TYPES; t++)
            for (int i = 0; i < n * rows[t]; i++) {
                double got = (double)some[t][i], want = (double)all[t][first * rows[t] + i];
                if (n > 16 && zb_integer_wants(&f.run, &f.w[t], n)) {
                    assert_true(got == want);
                } else {
                    exact e = exact_product(&f.w[t], i % rows[t], f.x + (first + i / rows[t]) * K);
                    double apart = n > FEW ? 2 * e.rounding : 0;
                    assert_true(fabs(got - want) <= apart + noise(e.size));
                }
            }
    }
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_company),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
