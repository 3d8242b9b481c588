/* test_knapsack.c - plans under a budget against all plans there are. */
#include "base/rng.h"
#include "compose/knapsack.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static zb_arena arena;
static zb_err err;

static int clean(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return 0;
}

enum { L = 5, C = 6, ALL = 7776 /* C^L */ };

typedef struct instance {
    double loss[L * C];
    int64_t bytes[L * C], common[C * 2];
    zb_knapsack k;
} instance;

/* Losses and costs at random; some choices forbidden, some tied to a common size. `step`: all costs
 * are multiples of it. */
static void draw(instance *x, uint64_t seed, int64_t step) {
    for (int i = 0; i < L * C; i++) {
        uint64_t at = 4 * (uint64_t)i;
        x->loss[i] = zb_rng_uniform(seed, ZB_RNG_TEST, at);
        if (i % C && zb_rng_below(seed, ZB_RNG_TEST, at + 1, 8) == 0) x->loss[i] = HUGE_VAL;
        x->bytes[i] = step * (int64_t)zb_rng_below(seed, ZB_RNG_TEST, at + 2, 30);
    }
    for (int c = 0; c < C; c++) {
        x->common[2 * c] = c ? zb_rng_below(seed, ZB_RNG_TEST, 500 + (uint64_t)c, 3) : 0;
        x->common[2 * c + 1] = c ? zb_rng_below(seed, ZB_RNG_TEST, 600 + (uint64_t)c, 2) : 0;
    }
    x->k = (zb_knapsack){
        .layers = L, .choices = C, .loss = x->loss, .bytes = x->bytes, .common = x->common};
}

/* The plan with a number, and whether it may be. */
static bool plan_at(const instance *x, int number, int *choice, double *loss, int64_t *bytes) {
    *loss = 0;
    *bytes = 0;
    for (int l = 0; l < L; l++, number /= C) {
        choice[l] = number % C;
        if (!isfinite(x->loss[l * C + choice[l]])) return false;
        *loss += x->loss[l * C + choice[l]];
        *bytes += x->bytes[l * C + choice[l]];
    }
    for (int i = 0; i < L; i++)
        for (int j = 0; j < i; j++)
            for (int s = 0; s < 2; s++) {
                int64_t a = x->common[2 * choice[i] + s], b = x->common[2 * choice[j] + s];
                if (a > 0 && b > 0 && a != b) return false;
            }
    return true;
}

/* The smallest losses within the budget, ascending; how many plans fit; the cheapest of all. */
static int enumerate(const instance *x, int64_t budget, double *best, int n, int64_t *least) {
    int choice[L], fit = 0;
    double loss;
    int64_t bytes;
    *least = INT64_MAX;
    for (int i = 0; i < n; i++) best[i] = HUGE_VAL;
    for (int p = 0; p < ALL; p++) {
        if (!plan_at(x, p, choice, &loss, &bytes)) continue;
        if (bytes < *least) *least = bytes;
        if (bytes > budget) continue;
        fit++;
        for (int i = 0; i < n; i++)
            if (loss < best[i]) {
                double t = best[i];
                best[i] = loss;
                loss = t;
            }
    }
    return fit;
}

static int64_t check_allowed(const instance *x, const zb_allotment *p, int64_t budget) {
    int number = 0, choice[L];
    double loss;
    int64_t bytes;
    for (int l = L - 1; l >= 0; l--) number = number * C + p->choice[l];
    assert_true(plan_at(x, number, choice, &loss, &bytes));
    assert_true(fabs(loss - p->loss) < 1e-12);
    assert_int_equal(bytes, p->bytes);
    assert_true(bytes <= budget);
    return number;
}

static void test_best_against_all(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        instance x;
        draw(&x, seed, 4096);
        int64_t budget = 4096 * (int64_t)zb_rng_below(seed, ZB_RNG_TEST, 999, 120), least;
        double want[ZB_PLANS_MAX];
        int fit = enumerate(&x, budget, want, ZB_PLANS_MAX, &least), n = ZB_PLANS_MAX;
        zb_allotment got[ZB_PLANS_MAX];
        assert_int_equal(zb_knapsack_least(&x.k, &arena), least);
        zb_status s = zb_knapsack_best(&x.k, budget, got, &n, &arena, &err);
        if (!fit) {
            assert_int_equal(s, ZB_ERR_CONFIG);
            continue;
        }
        assert_int_equal(s, ZB_OK);
        assert_int_equal(n, fit < ZB_PLANS_MAX ? fit : ZB_PLANS_MAX);
        int64_t seen[ZB_PLANS_MAX];
        for (int i = 0; i < n; i++) {
            assert_true(fabs(got[i].loss - want[i]) < 1e-12);
            seen[i] = check_allowed(&x, &got[i], budget);
            for (int j = 0; j < i; j++) assert_int_not_equal(seen[i], seen[j]);
        }
    }
}

/* Costs without a common divisor: rounding may cost a little budget, never break it. */
static void test_rounded_costs(void **state) {
    (void)state;
    for (uint64_t seed = 100; seed < 120; seed++) {
        instance x;
        draw(&x, seed, 1000003);
        for (int i = 0; i < L * C; i++)
            x.bytes[i] += zb_rng_below(seed, ZB_RNG_TEST, 2000 + (uint64_t)i, 999);
        int64_t budget = 1000003LL * 70, least;
        double tight, loose;
        zb_allotment got;
        int n = 1;
        if (!enumerate(&x, budget - budget / 4096, &tight, 1, &least)) continue;
        enumerate(&x, budget, &loose, 1, &least);
        assert_int_equal(zb_knapsack_best(&x.k, budget, &got, &n, &arena, &err), ZB_OK);
        check_allowed(&x, &got, budget);
        assert_true(got.loss <= tight + 1e-12 && got.loss >= loose - 1e-12);
    }
}

static void test_other_methods(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        instance x;
        draw(&x, seed, 64);
        int64_t budget = 64 * 75, least;
        double best;
        zb_allotment p;
        if (!enumerate(&x, budget, &best, 1, &least)) continue;
        assert_int_equal(zb_knapsack_greedy(&x.k, budget, &p, &arena, &err), ZB_OK);
        check_allowed(&x, &p, budget);
        assert_true(p.loss >= best - 1e-12);
        for (int smart = 0; smart < 2; smart++) {
            if (zb_knapsack_two(&x.k, budget, smart, &p, &arena, &err) != ZB_OK) continue;
            check_allowed(&x, &p, budget);
            assert_true(p.loss >= best - 1e-12);
            int kinds = 0;
            bool met[C] = {0};
            for (int l = 0; l < L; l++)
                if (!met[p.choice[l]]) met[p.choice[l]] = true, kinds++;
            assert_true(kinds <= 2);
        }
    }
}

static void test_edges_of_the_budget(void **state) {
    (void)state;
    const double loss[] = {3, 1, 3, 0};
    const int64_t bytes[] = {10, 30, 20, 50};
    zb_knapsack k = {.layers = 2, .choices = 2, .loss = loss, .bytes = bytes};
    zb_allotment p;
    int n = 1;
    assert_int_equal(zb_knapsack_best(&k, 29, &p, &n, &arena, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "at least 30 bytes"));
    assert_int_equal(zb_knapsack_greedy(&k, 29, &p, &arena, &err), ZB_ERR_CONFIG);
    assert_int_equal(zb_knapsack_two(&k, 29, true, &p, &arena, &err), ZB_ERR_CONFIG);
    const struct {
        int64_t budget;
        int first, second;
    } want[] = {{30, 0, 0}, {49, 0, 0}, {50, 1, 0}, {59, 1, 0},
                {60, 0, 1}, {79, 0, 1}, {80, 1, 1}, {INT64_MAX / 2, 1, 1}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        n = 1;
        assert_int_equal(zb_knapsack_best(&k, want[i].budget, &p, &n, &arena, &err), ZB_OK);
        assert_int_equal(p.choice[0], want[i].first);
        assert_int_equal(p.choice[1], want[i].second);
    }
    const double none[] = {(double)NAN, HUGE_VAL, 1, 1};
    k.loss = none;
    assert_int_equal(zb_knapsack_least(&k, &arena), -1);
    n = 1;
    assert_int_equal(zb_knapsack_best(&k, 1000, &p, &n, &arena, &err), ZB_ERR_CONFIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_best_against_all),
        cmocka_unit_test(test_rounded_costs),
        cmocka_unit_test(test_other_methods),
        cmocka_unit_test(test_edges_of_the_budget),
    };
    return cmocka_run_group_tests(tests, NULL, clean);
}
