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

enum { K = 1280, TOKENS = 16, TYPES = 9 }; /* K: more than one tile on the stack */

static const zb_dtype types[TYPES] = {ZB_F32,  ZB_BF16, ZB_F16,  ZB_Q8_0, ZB_Q4_0,
                                      ZB_Q4_1, ZB_Q4_K, ZB_Q5_K, ZB_Q6_K};
static const int rows[TYPES] = {7, 64, 33, 130, 64, 97, 40, 31, 66};

typedef struct fixture {
    zb_arena arena;
    zb_run run;
    zb_param w[TYPES], bias;
    float *x;
} fixture;

static double draw(uint64_t *at) { return 2 * zb_rng_uniform(5, ZB_RNG_TEST, (*at)++) - 1; }

/* Random bytes with sane numbers where a type has f16 scales. */
static void fill(zb_param *p, uint8_t *w, size_t bytes, uint64_t *at) {
    const zb_dtype_info *t = zb_dtype_get(p->dtype);
    for (size_t i = 0; i < bytes; i++) w[i] = (uint8_t)zb_rng_below(5, ZB_RNG_TEST, (*at)++, 256);
    for (size_t b = 0; b + (size_t)t->bytes <= bytes; b += (size_t)t->bytes) {
        if (p->dtype == ZB_F32) {
            float f = (float)draw(at);
            memcpy(w + b, &f, 4);
        } else if (p->dtype == ZB_BF16) {
            w[b + 1] = (uint8_t)((w[b + 1] & 0x80) | 0x3e);
        } else {
            size_t first = p->dtype == ZB_Q6_K ? 208 : 0;
            size_t halves =
                t->bytes - first >= 4 && p->dtype != ZB_Q8_0 && p->dtype != ZB_Q4_0 ? 2 : 1;
            for (size_t h = 0; h < halves; h++)
                w[b + first + 2 * h + 1] = (uint8_t)((w[b + first + 2 * h + 1] & 0x83) | 0x20);
        }
    }
}

static void open_fixture(fixture *f, zb_precision p) {
    *f = (fixture){0};
    uint64_t at = 0;
    zb_err err;
    assert_int_equal(zb_matmul_new(&f->run.mm, p, &err), ZB_OK);
    f->run.arena = &f->arena;
    f->run.threads = 2;
    for (int t = 0; t < TYPES; t++) {
        size_t bytes = 0;
        f->w[t] = (zb_param){.dtype = types[t], .n_dims = 2, .rows = rows[t], .cols = K};
        assert_true(zb_dtype_size(types[t], (int64_t)rows[t] * K, &bytes));
        uint8_t *w = zb_alloc(&f->arena, bytes);
        fill(&f->w[t], w, bytes, &at);
        f->w[t].data = w;
    }
    float *b = ZB_NEW_ARRAY(&f->arena, float, 200);
    for (int i = 0; i < 200; i++) b[i] = (float)draw(&at);
    f->bias = (zb_param){.dtype = ZB_F32, .n_dims = 1, .rows = 1, .cols = 200, .data = b};
    f->x = ZB_NEW_ARRAY(&f->arena, float, TOKENS *K);
    for (int i = 0; i < TOKENS * K; i++) f->x[i] = (float)draw(&at);
}

static void close_fixture(fixture *f) {
    zb_matmul_free(f->run.mm);
    zb_arena_free(&f->arena);
}

/* y_j in double and the magnitudes of its terms, from the widened row. */
static double product(const zb_param *w, int j, const float *x, double *size) {
    float row[K];
    size_t bytes = 0;
    assert_true(zb_dtype_size(w->dtype, K, &bytes));
    zb_dtype_to_f32(w->dtype, (const uint8_t *)w->data + bytes * (size_t)j, row, K);
    double y = 0;
    *size = 0;
    for (int p = 0; p < K; p++) {
        y += (double)row[p] * (double)x[p];
        *size += fabs((double)row[p] * (double)x[p]);
    }
    return y;
}

/* Σ_p |w_jp| d_b/2: the most that rounding the activations can do, d_b = max|x|/127 of the block.
 * For weights with a constant part this is what the widened weights see, too. */
static double rounding(const zb_param *w, int j, const float *x) {
    float row[K];
    size_t bytes = 0;
    assert_true(zb_dtype_size(w->dtype, K, &bytes));
    zb_dtype_to_f32(w->dtype, (const uint8_t *)w->data + bytes * (size_t)j, row, K);
    double sum = 0;
    for (int b = 0; b < K; b += 32) {
        double most = 0, weights = 0;
        for (int i = b; i < b + 32; i++) {
            most = fmax(most, fabs((double)x[i]));
            weights += fabs((double)row[i]);
        }
        sum += weights * most / 127 / 2;
    }
    return sum;
}

/* All types at once, as one set of maps; n tokens. */
static void run_all(fixture *f, int n, float *y[TYPES]) {
    zb_linear_map maps[TYPES];
    for (int t = 0; t < TYPES; t++) {
        y[t] = ZB_NEW_ARRAY(&f->arena, float, n *rows[t]);
        maps[t] = (zb_linear_map){&f->w[t], t % 2 ? &f->bias : NULL, y[t]};
    }
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
            bool int8 = p == ZB_PREC_INT8 && zb_dtype_get(types[t])->block > 1;
            double size, want = product(&f.w[t], j, x, &size);
            if (t % 2) want += (double)((const float *)f.bias.data)[j];
            /* codes and constants of blocks cancel in the widened weight: ten times its rounding */
            double tolerance = 10 * 4 * sqrt(K) * 0x1p-24 * size;
            if (int8) tolerance += rounding(&f.w[t], j, x);
            assert_float_equal((double)many[t][i], want, tolerance);
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

/* A token's result depends neither on its company nor on the number of threads nor on which maps
 * are given together: bit for bit. */
static void test_alone(void **state) {
    (void)state;
    for (int p = 0; p < 2; p++) {
        fixture f;
        float *many[TYPES], *one[TYPES];
        open_fixture(&f, p ? ZB_PREC_INT8 : ZB_PREC_F32);
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
    float *exact[TYPES], *int8[TYPES];
    open_fixture(&f, ZB_PREC_F32);
    open_fixture(&g, ZB_PREC_INT8);
    run_all(&f, 2, exact);
    run_all(&g, 2, int8);
    for (int t = 0; t < TYPES; t++) {
        bool same = !memcmp(exact[t], int8[t], 2 * (size_t)rows[t] * sizeof(float));
        assert_int_equal(same, zb_dtype_get(types[t])->block == 1);
        bool wide = types[t] == ZB_Q8_0 || types[t] == ZB_Q6_K;
        assert_true(zb_stream_wants(&f.run, &f.w[t], 4) && !zb_stream_wants(&f.run, &f.w[t], 5));
        assert_int_equal(zb_stream_wants(&g.run, &g.w[t], 5), wide);
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
