/* Packing: error bounds, never worse than plain rounding, odd blocks, values that do not fit. */
#include "base/arena.h"
#include "base/rng.h"
#include "tensor/quant.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

enum { ROWS = 24, COLS = 512, N = ROWS * COLS };

/* Steps between neighbouring values of a block relative to its range, and codes of the type. */
static const struct {
    zb_dtype type;
    double codes; /* outermost code: plain rounding errs by at most range / codes / 2 */
} packed[] = {{ZB_Q8_0, 127}, {ZB_Q4_0, 7},  {ZB_Q4_1, 15}, {ZB_Q5_0, 15},
              {ZB_Q5_1, 31},  {ZB_Q4_K, 15}, {ZB_Q5_K, 31}, {ZB_Q6_K, 31}};
enum { TYPES = sizeof packed / sizeof *packed };

/* Row r is of kind r % 6: normal, uniform, all above zero, all below, with one outlier per 64, and
 * one of very small values. */
static float *values(zb_arena *a) {
    float *x = ZB_NEW_ARRAY(a, float, N);
    for (int i = 0; i < N; i++) {
        double u = zb_rng_uniform(5, ZB_RNG_TEST, (uint64_t)i),
               g = zb_rng_normal(6, ZB_RNG_TEST, (uint64_t)i);
        switch (i / COLS % 6) {
        case 0: x[i] = (float)g; break;
        case 1: x[i] = (float)(2 * u - 1); break;
        case 2: x[i] = (float)(3 + u); break;
        case 3: x[i] = (float)(-0.02 * u); break;
        case 4: x[i] = (float)(i % 64 == 7 ? 40 * g : 0.3 * g); break;
        default: x[i] = (float)(1e-3 * g);
        }
    }
    return x;
}

static uint8_t *pack(const zb_quant_job *j, zb_arena *a) {
    size_t bytes;
    zb_err err = {0};
    assert_true(zb_dtype_size(j->type, j->rows * j->cols, &bytes));
    uint8_t *out = zb_alloc(a, bytes + 64);
    memset(out + bytes, 0xAB, 64);
    if (zb_quant_run(j, out, &err) != ZB_OK) fail_msg("%s", err.msg);
    for (int i = 0; i < 64; i++) assert_int_equal(out[bytes + (size_t)i], 0xAB);
    return out;
}

static void errors_are_bounded(void **state) {
    (void)state;
    zb_arena a = {0};
    float *x = values(&a), *y = ZB_NEW_ARRAY(&a, float, N);
    for (int t = 0; t < TYPES; t++) {
        zb_quant_job j = {packed[t].type, x, NULL, ROWS, COLS, true, "x"};
        zb_dtype_to_f32(j.type, pack(&j, &a), y, N);
        int block = zb_dtype_get(j.type)->block;
        for (int i = 0; i < N; i += block) {
            double least = 0, most = 0, worst = 0;
            for (int k = i; k < i + block; k++) {
                least = fmin(least, (double)x[k]);
                most = fmax(most, (double)x[k]);
                assert_true(isfinite(y[k]));
                worst = fmax(worst, fabs((double)x[k] - (double)y[k]));
            }
            /* half a step, one more step for the side that symmetric codes lack, and 6-bit scales
             */
            double step = (most - least) / packed[t].codes;
            if (worst > 1.6 * step + 1e-7)
                fail_msg("%s: %g at %d, step %g", zb_dtype_get(j.type)->name, worst, i, step);
        }
    }
    zb_arena_free(&a);
}

/* The search pays: never worse than plain rounding in any row, weighted or not, and better by a
 * fair part for bell-shaped values where codes are few. */
static void search_beats_plain(void **state) {
    (void)state;
    zb_arena a = {0};
    float *x = values(&a), *importance = ZB_NEW_ARRAY(&a, float, COLS);
    for (int c = 0; c < COLS; c++)
        importance[c] = (float)exp(2 * zb_rng_normal(7, ZB_RNG_TEST, (uint64_t)c));
    for (int t = 0; t < TYPES; t++)
        for (int weighted = 0; weighted < 2; weighted++) {
            double normal = 0, plain_normal = 0;
            for (int r = 0; r < ROWS; r++) {
                zb_quant_job j = {
                    packed[t].type, x + r * COLS, weighted ? importance : NULL, 1, COLS, true, "x"};
                double plain = zb_quant_error(&j, pack(&j, &a));
                j.plain = false;
                double found = zb_quant_error(&j, pack(&j, &a));
                assert_true(found <= plain * (1 + 1e-5));
                if (r % 6 == 0) normal += found, plain_normal += plain;
            }
            double want = packed[t].codes < 20 ? 0.9 : packed[t].codes < 100 ? 0.97 : 1;
            if (!(normal <= want * plain_normal))
                fail_msg("%s: %g of plain rounding's error", zb_dtype_get(packed[t].type)->name,
                         normal / plain_normal);
        }
    zb_arena_free(&a);
}

/* Columns that matter come out better than when all count alike. */
static void importance_matters(void **state) {
    (void)state;
    zb_arena a = {0};
    float *x = values(&a), *importance = ZB_NEW_ARRAY(&a, float, COLS);
    for (int c = 0; c < COLS; c++) importance[c] = c % 4 ? 0.01f : 10;
    for (int t = 0; t < TYPES; t++) {
        zb_quant_job j = {packed[t].type, x, importance, 1, COLS, false, "x"}, alike = j;
        alike.importance = NULL;
        double with = zb_quant_error(&j, pack(&j, &a)),
               without = zb_quant_error(&j, pack(&alike, &a));
        assert_true(with <= without);
        if (packed[t].codes < 100) assert_true(with < 0.95 * without);
    }
    zb_arena_free(&a);
}

/* Zeros stay zeros; a block of one value, and values that are exact codes, come back exactly. */
static void special_blocks(void **state) {
    (void)state;
    zb_arena a = {0};
    float *x = ZB_NEW_ARRAY(&a, float, COLS), *y = ZB_NEW_ARRAY(&a, float, COLS);
    for (int t = 0; t < TYPES; t++) {
        zb_quant_job j = {packed[t].type, x, NULL, 1, COLS, false, "x"};
        memset(x, 0, COLS * sizeof *x);
        zb_dtype_to_f32(j.type, pack(&j, &a), y, COLS);
        for (int i = 0; i < COLS; i++) assert_true(y[i] == 0);
        for (int i = 0; i < COLS; i++) x[i] = 0.5f;
        zb_dtype_to_f32(j.type, pack(&j, &a), y, COLS);
        for (int i = 0; i < COLS; i++) assert_true(fabsf(y[i] - 0.5f) <= 0.5f * 0x1p-9f);
        for (int i = 0; i < COLS; i++) x[i] = 0.25f * (float)(i % 8);
        zb_dtype_to_f32(j.type, pack(&j, &a), y, COLS);
        double codes = packed[t].codes;
        for (int i = 0; i < COLS; i++)
            assert_true(fabs((double)(y[i] - x[i])) <= 1.75 / codes / 2 + 1e-3);
    }
    zb_arena_free(&a);
}

static void extreme_values(void **state) {
    (void)state;
    zb_arena a = {0};
    float *x = ZB_NEW_ARRAY(&a, float, COLS), *y = ZB_NEW_ARRAY(&a, float, COLS);
    static const float sizes[] = {65504, 1e-6f, 1e-12f, 1e-38f, 1e-42f};
    for (int t = 0; t < TYPES; t++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (int i = 0; i < COLS; i++)
                x[i] = (float)(i % 2 ? -1 : 1) * sizes[s] * (float)(i % 31) / 31;
            x[3] = -sizes[s], x[4] = sizes[s];
            zb_quant_job j = {packed[t].type, x, NULL, 1, COLS, false, "x"};
            zb_dtype_to_f32(j.type, pack(&j, &a), y, COLS);
            for (int i = 0; i < COLS; i++) {
                /* scales below f16's smallest vanish: then the error is the value itself */
                double bound = (double)sizes[s] * 2.4 / packed[t].codes + 64e-7;
                assert_true(isfinite(y[i]) && fabs((double)(x[i] - y[i])) <= bound);
            }
        }
    zb_arena_free(&a);
}

static void refuses(zb_dtype type, float bad, const char *message) {
    zb_arena a = {0};
    float *x = ZB_NEW_ARRAY(&a, float, 2 * COLS);
    uint8_t *out = zb_alloc(&a, 2 * COLS * 4);
    zb_err err = {0};
    x[COLS + 77] = bad;
    x[COLS + 99] = bad;
    zb_quant_job j = {type, x, NULL, 2, COLS, false, "model.norm"};
    zb_status s = zb_quant_run(&j, out, &err);
    if (!message) {
        assert_int_equal(s, ZB_OK);
    } else {
        assert_int_equal(s, ZB_ERR_FORMAT);
        assert_string_equal(err.msg, message);
    }
    zb_arena_free(&a);
}

static void refuses_what_does_not_fit(void **state) {
    (void)state;
    const char *nan =
        "tensor model.norm: row 1, column 77: expected finite values up to 65504, found nan";
    refuses(ZB_Q4_K, NAN, nan);
    refuses(ZB_Q8_0, NAN, nan);
    refuses(ZB_F32, -INFINITY,
            "tensor model.norm: row 1, column 77: expected finite values, found -inf");
    refuses(
        ZB_F16, 1e5f,
        "tensor model.norm: row 1, column 77: expected finite values up to 65504, found 100000");
    refuses(
        ZB_Q4_0, -1e5f,
        "tensor model.norm: row 1, column 77: expected finite values up to 65504, found -100000");
    refuses(ZB_BF16, 1e30f, NULL);
    refuses(ZB_F32, 1e30f, NULL);
}

static void next_type_that_fits(void **state) {
    (void)state;
    assert_int_equal(zb_quant_fit(ZB_Q4_K, 512), ZB_Q4_K);
    assert_int_equal(zb_quant_fit(ZB_Q4_K, 576), ZB_Q4_1);
    assert_int_equal(zb_quant_fit(ZB_Q5_K, 576), ZB_Q5_1);
    assert_int_equal(zb_quant_fit(ZB_Q6_K, 576), ZB_Q8_0);
    assert_int_equal(zb_quant_fit(ZB_Q6_K, 48), ZB_F16);
    assert_int_equal(zb_quant_fit(ZB_Q4_0, 80), ZB_F16);
    assert_int_equal(zb_quant_fit(ZB_F32, 7), ZB_F32);
    assert_true(zb_quant_has(ZB_Q4_K) && !zb_quant_has(ZB_I32));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_are_bounded),  cmocka_unit_test(search_beats_plain),
        cmocka_unit_test(importance_matters),  cmocka_unit_test(special_blocks),
        cmocka_unit_test(extreme_values),      cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(next_type_that_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
