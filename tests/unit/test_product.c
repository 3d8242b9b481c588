/* Small products with a room: operands by rows, by columns and turned, exact and rounded to bf16,
 * against sums in double precision; nothing beyond C is touched, nor more room than stated. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/rng.h"
#include "model/product.h"
#include "tensor/dtype.h"

enum { GAP = 3 };
static const float MARK = 1234.5F;

static float *numbers(zb_arena *a, int64_t n, uint64_t seed) {
    float *x = ZB_NEW_ARRAY(a, float, n);
    for (int64_t i = 0; i < n; i++) x[i] = (float)zb_rng_normal(seed, ZB_RNG_TEST, (uint64_t)i);
    return x;
}

static double operand(float x, bool bf16) {
    return (double)(bf16 ? zb_bf16_to_f32(zb_f32_to_bf16(x)) : x);
}

/* form: bit 0 A by columns, 1 B turned, 2 added, 3 rounded. */
static void check(zb_shape s, int form) {
    bool columns = form & 1, turned = form & 2, add = form & 4, bf16 = form & 8;
    zb_arena arena = {0};
    int a_row = (columns ? s.m : s.k) + GAP, b_row = (turned ? s.k : s.n) + GAP, c_row = s.n + GAP;
    float *a = numbers(&arena, (int64_t)(columns ? s.k : s.m) * a_row, 1),
          *b = numbers(&arena, (int64_t)(turned ? s.n : s.k) * b_row, 2),
          *c = numbers(&arena, (int64_t)s.m * c_row, 3),
          *before = ZB_NEW_ARRAY(&arena, float, (int64_t)s.m *c_row);
    for (int i = 0; i < s.m; i++)
        for (int j = s.n; j < c_row; j++) c[i * c_row + j] = MARK;
    memcpy(before, c, (size_t)s.m * (size_t)c_row * sizeof *c);
    size_t floats = zb_product_floats(s.m, s.n, s.k);
    float *at = zb_alloc(&arena, (floats + 16) * sizeof *at);
    assert_true((uintptr_t)at % 64 == 0);
    for (int i = 0; i < 16; i++) at[floats + (size_t)i] = MARK;
    zb_product_room room = {at, bf16};
    zb_product_in(&room, s, columns ? zb_columns(a, a_row) : zb_rows(a, a_row),
                  (zb_right){b, b_row}, turned, (zb_out){c, c_row}, add);
    for (int i = 0; i < 16; i++) assert_true(at[floats + (size_t)i] == MARK);
    for (int i = 0; i < s.m; i++)
        for (int j = 0; j < c_row; j++) {
            double want = j >= s.n || add ? (double)before[i * c_row + j] : 0, size = fabs(want);
            for (int k = 0; k < s.k && j < s.n; k++) {
                double x = operand(columns ? a[k * a_row + i] : a[i * a_row + k], bf16) *
                           operand(turned ? b[j * b_row + k] : b[k * b_row + j], bf16);
                want += x;
                size += fabs(x);
            }
            double allowed = j < s.n ? 0x1p-24 * (s.k + 2) * size : 0;
            double got = (double)c[i * c_row + j];
            if (!(fabs(got - want) <= allowed))
                fail_msg("%d x %d x %d, form %d, at %d, %d: got %.9g, want %.9g", s.m, s.n, s.k,
                         form, i, j, got, want);
        }
    zb_arena_free(&arena);
}

static void test_products(void **state) {
    (void)state;
    static const zb_shape shapes[] = {{1, 1, 1},    {32, 32, 32},  {64, 64, 32}, {33, 31, 65},
                                      {7, 100, 64}, {100, 13, 40}, {96, 99, 64}, {64, 160, 17}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int form = 0; form < 16; form++) check(shapes[i], form);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
