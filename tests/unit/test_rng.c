/* test_rng.c - Philox against its published vectors, distributions, permutations. */
#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <cmocka.h>

/* Known answers of philox4x32-10 (Random123, kat_vectors): counter = index, stream; key = seed;
 * first word. */
static void known_answers(void **state) {
    (void)state;
    assert_int_equal(zb_rng_u32(0, 0, 0), 0x6627e8d5u);
    assert_int_equal(zb_rng_u32(UINT64_MAX, UINT64_MAX, UINT64_MAX), 0x408f276du);
    /* counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0 */
    assert_int_equal(zb_rng_u32(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u),
                     0xd16cfe09u);
}

static void uniform_is_uniform(void **state) {
    (void)state;
    enum { N = 100000 };
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = zb_rng_uniform(3, ZB_RNG_TEST, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        squares += u * u;
    }
    assert_true(fabs(sum / N - 0.5) < 5 * sqrt(1.0 / 12 / N)); /* five standard errors */
    assert_true(fabs(squares / N - 1.0 / 3) < 5 * sqrt(4.0 / 45 / N));
}

static void normal_is_normal(void **state) {
    (void)state;
    enum { N = 100000 };
    double sum = 0, squares = 0;
    int inside = 0;
    for (uint64_t i = 0; i < N; i++) {
        double x = zb_rng_normal(3, ZB_RNG_TEST, i);
        assert_true(isfinite(x));
        sum += x;
        squares += x * x;
        inside += fabs(x) < 1;
    }
    assert_true(fabs(sum / N) < 5 / sqrt(N));
    assert_true(fabs(squares / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(inside / (double)N - 0.682689492) < 5 * sqrt(0.2166 / N));
}

static void below_covers_its_range(void **state) {
    (void)state;
    int count[7] = {0};
    for (uint64_t i = 0; i < 7000; i++) {
        uint32_t x = zb_rng_below(1, ZB_RNG_TEST, i, 7);
        assert_true(x < 7);
        count[x]++;
    }
    for (int k = 0; k < 7; k++) assert_true(count[k] > 850 && count[k] < 1150); /* sigma 29 */
    assert_int_equal(zb_rng_below(1, 2, 3, 1), 0);
}

static void permutations(void **state) {
    (void)state;
    enum { N = 500 };
    int64_t p[N], q[N];
    zb_rng_permute(1, ZB_RNG_DATA, 0, N, p);
    zb_rng_permute(1, ZB_RNG_DATA, 0, N, q);
    bool seen[N] = {false};
    int fixed = 0, same = 0;
    for (int i = 0; i < N; i++) {
        assert_int_equal(p[i], q[i]);
        assert_true(p[i] >= 0 && p[i] < N && !seen[p[i]]);
        seen[p[i]] = true;
        fixed += p[i] == i;
    }
    assert_true(fixed < 10);
    zb_rng_permute(1, ZB_RNG_DATA, 1, N, q);
    for (int i = 0; i < N; i++) same += p[i] == q[i];
    assert_true(same < 10);
    zb_rng_permute(1, ZB_RNG_DATA, 1, 0, q);
    zb_rng_permute(1, ZB_RNG_DATA, 1, 1, q);
    assert_int_equal(q[0], 0);
}

static void streams_differ(void **state) {
    (void)state;
    uint64_t a = zb_rng_substream(ZB_RNG_INIT, 3, 1), b = zb_rng_substream(ZB_RNG_INIT, 1, 3);
    assert_true(a != b && a != zb_rng_substream(ZB_RNG_DATA, 3, 1));
    int same = 0;
    for (uint64_t i = 0; i < 1000; i++)
        same += zb_rng_u32(1, a, i) == zb_rng_u32(1, b, i) ||
                zb_rng_u32(1, a, i) == zb_rng_u32(2, a, i);
    assert_int_equal(same, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),    cmocka_unit_test(uniform_is_uniform),
        cmocka_unit_test(normal_is_normal), cmocka_unit_test(below_covers_its_range),
        cmocka_unit_test(permutations),     cmocka_unit_test(streams_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
