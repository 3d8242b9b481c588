/* test_smart.c - the choice of layers against exhaustive search and against every published
 * choice. */
#include "base/rng.h"
#include "compose/smart.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static zb_arena arena;
static zb_err err;

enum { LAYERS_MAX = 40 };

/* The definition, written the other way round: does this ascending choice satisfy (a) and (b)? */
static bool allowed(const double *s, int total, const int *c, int count) {
    int window = total / count;
    if (c[0] >= window || c[count - 1] < total - window) return false;
    for (int i = 0; i < window; i++) {
        if (s[i] > s[c[0]] || (s[i] == s[c[0]] && i < c[0])) return false;
        int j = total - window + i;
        if (s[j] > s[c[count - 1]] || (s[j] == s[c[count - 1]] && j < c[count - 1])) return false;
    }
    if (count == 1) return true;
    double mean = (double)(c[count - 1] - c[0] - count + 1) / (count - 1);
    for (int i = 1; i < count; i++) {
        int gap = c[i] - c[i - 1] - 1;
        if (gap < floor(mean) || gap > ceil(mean)) return false;
    }
    return true;
}

static double total_of(const double *s, const int *c, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum += s[c[i]];
    return sum;
}

/* Largest sum over all subsets; how many subsets were allowed at all. */
static double exhaustive(const double *s, int total, int count, int *allowed_count) {
    double best = -HUGE_VAL;
    *allowed_count = 0;
    for (uint32_t set = 0; set < 1u << total; set++) {
        int c[LAYERS_MAX], n = 0;
        if (__builtin_popcount(set) != count) continue;
        for (int i = 0; i < total; i++)
            if (set >> i & 1) c[n++] = i;
        if (!allowed(s, total, c, count)) continue;
        ++*allowed_count;
        best = fmax(best, total_of(s, c, count));
    }
    return best;
}

static void test_exhaustive(void **state) {
    (void)state;
    uint64_t at = 0;
    int with_choice = 0;
    for (int total = 1; total <= 14; total++)
        for (int count = 1; count <= total; count++)
            for (int round = 0; round < 6; round++) {
                double s[LAYERS_MAX];
                for (int i = 0; i < total; i++) {
                    s[i] = zb_rng_normal(3, ZB_RNG_TEST, at++);
                    if (round == 5) s[i] = floor(s[i]); /* ties */
                }
                int c[LAYERS_MAX], n;
                assert_int_equal(zb_smart_select(s, total, count, c, &arena, &err), ZB_OK);
                double best = exhaustive(s, total, count, &n);
                assert_true(n >= 1);
                with_choice += n > 1;
                assert_true(allowed(s, total, c, count));
                assert_true(fabs(total_of(s, c, count) - best) < 1e-12);
            }
    assert_true(with_choice > 50); /* the search had something to decide */
}

static const struct published {
    int total, count, layers[LAYERS_MAX];
} published[] = {
    {16, 4, {0, 5, 10, 14}},
    {16, 6, {0, 2, 5, 8, 11, 14}},
    {16, 8, {0, 2, 4, 6, 8, 10, 12, 14}},
    {28, 6, {0, 5, 10, 16, 21, 26}},
    {32, 8, {0, 4, 8, 12, 16, 20, 25, 30}},
};

static void test_published(void **state) {
    (void)state;
    for (size_t p = 0; p < sizeof published / sizeof *published; p++)
        for (uint64_t round = 0; round < 20; round++) {
            const struct published *want = &published[p];
            double s[LAYERS_MAX];
            for (int i = 0; i < want->total; i++)
                s[i] = 0.05 * zb_rng_uniform(round, ZB_RNG_TEST, (uint64_t)i);
            for (int i = 0; i < want->count; i++) s[want->layers[i]] += 1;
            int c[LAYERS_MAX];
            assert_true(allowed(s, want->total, want->layers, want->count));
            assert_int_equal(zb_smart_select(s, want->total, want->count, c, &arena, &err), ZB_OK);
            assert_memory_equal(c, want->layers, (size_t)want->count * sizeof *c);
        }
}

static void test_edges(void **state) {
    (void)state;
    double s[6] = {1, 5, 2, 5, 0, 3};
    int c[6] = {-1, -1, -1, -1, -1, -1};
    assert_int_equal(zb_smart_select(s, 6, 0, c, &arena, &err), ZB_OK);
    assert_int_equal(c[0], -1);
    assert_int_equal(zb_smart_select(s, 6, 1, c, &arena, &err), ZB_OK);
    assert_int_equal(c[0], 1); /* of two equal layers the earlier */
    assert_int_equal(zb_smart_select(s, 6, 2, c, &arena, &err), ZB_OK);
    assert_int_equal(c[0], 1);
    assert_int_equal(c[1], 3);
    assert_int_equal(zb_smart_select(s, 6, 6, c, &arena, &err), ZB_OK);
    for (int i = 0; i < 6; i++) assert_int_equal(c[i], i);
    double flat[7] = {0}; /* 0, one of gaps 2 and 1 each, 4: the smaller gap first */
    assert_int_equal(zb_smart_select(flat, 7, 3, c, &arena, &err), ZB_OK);
    assert_int_equal(c[0], 0);
    assert_int_equal(c[1], 2);
    assert_int_equal(c[2], 5);
    assert_int_equal(zb_smart_select(s, 6, 7, c, &arena, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "0 to 6, found 7"));
    assert_int_equal(zb_smart_select(s, 6, -1, c, &arena, &err), ZB_ERR_CONFIG);
    s[4] = nan("");
    assert_int_equal(zb_smart_select(s, 6, 2, c, &arena, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "layer 4"));
}

static void test_uniform(void **state) {
    (void)state;
    int c[LAYERS_MAX];
    const int want[6] = {0, 5, 11, 17, 23, 29};
    assert_int_equal(zb_smart_uniform(30, 6, c, &err), ZB_OK);
    assert_memory_equal(c, want, sizeof want);
    assert_int_equal(zb_smart_uniform(30, 1, c, &err), ZB_OK);
    assert_int_equal(c[0], 14);
    assert_int_equal(zb_smart_uniform(0, 0, c, &err), ZB_OK);
    assert_int_equal(zb_smart_uniform(3, 4, c, &err), ZB_ERR_CONFIG);
    for (int total = 2; total <= LAYERS_MAX; total++)
        for (int count = 2; count <= total;
             count++) { /* ends included, gaps differ by at most one */
            assert_int_equal(zb_smart_uniform(total, count, c, &err), ZB_OK);
            assert_int_equal(c[0], 0);
            assert_int_equal(c[count - 1], total - 1);
            for (int i = 1; i < count; i++) {
                int gap = c[i] - c[i - 1] - 1, low = (total - count) / (count - 1);
                assert_true(gap == low || gap == low + 1);
            }
        }
}

static int clear(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_exhaustive, clear),
        cmocka_unit_test_teardown(test_published, clear),
        cmocka_unit_test_teardown(test_edges, clear),
        cmocka_unit_test_teardown(test_uniform, clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
