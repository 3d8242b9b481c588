/* Linear maps of few tokens: every stored type, alone and together, one token and several, exact
 * and with activations in 8 bits. */
#include "base/rng.h"
#include "kernels/kernels.h"
#include "model/mixer.h"
#include "model/stream.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { K = 1280, TOKENS = 16, TYPES = 11 }; /* K: more than one tile on the stack */

static const zb_dtype types[TYPES] = {ZB_F32,  ZB_BF16, ZB_F16,  ZB_Q8_0, ZB_Q4_0,  ZB_Q4_1,
                                      ZB_Q4_K, ZB_Q5_K, ZB_Q6_K, ZB_Q2_K, ZB_IQ4_XS};
static const int rows[TYPES] = {7, 64, 33, 130, 64, 97, 40, 31, 66, 35, 18};

/* Types without a kernel of their own: rows are widened and met exactly at any precision. */
static bool is_widened(zb_dtype t) { return t == ZB_Q2_K || t == ZB_IQ4_XS; }

#include "linear_fixture.h"

/* All types at once, as one set of maps; n tokens. */
static void run_all(fixture *f, int n, float *y[TYPES]) {
    zb_linear_map maps[TYPES];
    all_maps(f, n, maps, y);
    zb_stream_maps(&f->run, maps, TYPES, f->x, n);
}

static void check(zb_precision p) {
    fixture f;
    open_fixture(&f, p);
    float *many[TYPES];
    run_all(&f, TOKENS, many);
    for (int t = 0; t < TYPES; t++)
        for (int i = 0; i < TOKENS * rows[t]; i++) {
            int j = i % rows[t];
            const float *x = f.x + (size_t)(i / rows[t]) * K;
            bool int8 =
                p == ZB_PREC_INT8 && zb_dtype_get(types[t])->block > 1 && !is_widened(types[t]);
            exact e = exact_product(&f.w[t], j, x);
            double want = e.value, tolerance = noise(e.size);
            if (t % 2) want += (double)((const float *)f.bias.data)[j];
            if (int8) tolerance += e.rounding;
            assert_true(fabs((double)many[t][i] - want) <= tolerance);
        }
    close_fixture(&f);
}

static void test_exact(void **state) {
    (void)state;
    check(ZB_PREC_F32);
}

static void test_int8(void **state) {
    (void)state;
    check(ZB_PREC_INT8);
}

/* In a deterministic pass a token's result depends neither on its company nor on the number of
 * threads nor on which maps are given together: bit for bit. */
static void test_alone(void **state) {
    (void)state;
    for (int p = 0; p < 2; p++) {
        fixture f;
        float *many[TYPES], *one[TYPES];
        open_fixture(&f, p ? ZB_PREC_INT8 : ZB_PREC_F32);
        f.run.deterministic = true;
        const float *x = f.x;
        for (int n = 1; n <= TOKENS; n++) {
            f.x = (float *)(uintptr_t)x;
            run_all(&f, n, many);
            f.run.threads = 1 + n % 3;
            f.x += (size_t)(n - 1) * K;
            run_all(&f, 1, one);
            for (int t = 0; t < TYPES; t++) {
                assert_memory_equal(one[t], many[t] + (size_t)(n - 1) * rows[t],
                                    (size_t)rows[t] * sizeof(float));
                zb_linear_map alone = {&f.w[t], t % 2 ? &f.bias : NULL, many[t]};
                zb_stream_maps(&f.run, &alone, 1, f.x, 1);
                assert_memory_equal(one[t], many[t], (size_t)rows[t] * sizeof(float));
            }
        }
        close_fixture(&f);
    }
}

/* Quantised matrices meet 8 bits only at that precision: f32 stays what it was, and what is not
 * quantised is exact at both. */
static void test_precision(void **state) {
    (void)state;
    fixture f, g;
    float *plain[TYPES], *int8[TYPES];
    open_fixture(&f, ZB_PREC_F32);
    open_fixture(&g, ZB_PREC_INT8);
    run_all(&f, 2, plain);
    run_all(&g, 2, int8);
    for (int t = 0; t < TYPES; t++) {
        bool same = !memcmp(plain[t], int8[t], 2 * (size_t)rows[t] * sizeof(float));
        assert_int_equal(same, zb_dtype_get(types[t])->block == 1 || is_widened(types[t]));
        bool wide = types[t] == ZB_Q8_0 || types[t] == ZB_Q6_K;
        bool stored = types[t] == ZB_BF16 || types[t] == ZB_F16 || types[t] == ZB_Q8_0;
        int most = stored ? 32 : 4; /* packed rows that need no copy in f32 */
        assert_true(zb_stream_wants(&f.run, &f.w[t], most));
        assert_false(zb_stream_wants(&f.run, &f.w[t], most + 1));
        assert_int_equal(zb_stream_wants(&g.run, &g.w[t], 5), wide || stored);
    }
    close_fixture(&f);
    close_fixture(&g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
