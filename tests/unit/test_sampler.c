/* The sampler against distributions known in closed form, its order of truncations, and its edges.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "zebra.h"

enum { V = 6, DRAWS = 20000 };
static const double p0[V] = {0.05, 0.50, 0.02, 0.30, 0.03, 0.10}; /* in order: ids 1 3 5 0 4 2 */

static void fill(float *logits) {
    for (int i = 0; i < V; i++)
        logits[i] = (float)log(p0[i]) + 1.5f; /* a constant must not matter */
}

static zb_sampler *make(zb_sampling set) {
    zb_sampler *s;
    zb_err err = {0};
    if (zb_sampler_new(&s, &set, V, &err) != ZB_OK) fail_msg("%s", err.msg);
    return s;
}

/* Draws many times and compares each frequency with its probability: within five standard
 * deviations, and exactly never where p is 0. */
static void expect(zb_sampling set, const double *weight) {
    float logits[V];
    fill(logits);
    zb_sampler *s = make(set);
    int count[V] = {0};
    for (int i = 0; i < DRAWS; i++) count[zb_sampler_pick(s, logits, NULL, 0)]++;
    zb_sampler_free(s);
    double sum = 0;
    for (int i = 0; i < V; i++) sum += weight[i];
    for (int i = 0; i < V; i++) {
        double p = weight[i] / sum, sd = sqrt(DRAWS * p * (1 - p));
        if (p == 0) assert_int_equal(count[i], 0);
        if (!(fabs(count[i] - DRAWS * p) <= 5 * sd + 1e-9))
            fail_msg("id %d: %d of %d draws, expected %.1f ± %.1f", i, count[i], DRAWS, DRAWS * p,
                     sd);
    }
}

static void test_plain(void **unused) {
    (void)unused;
    expect((zb_sampling){.temperature = 1}, p0);
    expect((zb_sampling){.temperature = 1, .top_k = 100, .top_p = 1, .seed = 7}, p0);
    expect((zb_sampling){.temperature = 1, .top_k = V, .top_p = 0, .min_p = 0, .seed = 8}, p0);
    double half[V], twice[V];
    for (int i = 0; i < V; i++) {
        half[i] = sqrt(p0[i]);
        twice[i] = p0[i] * p0[i];
    }
    expect((zb_sampling){.temperature = 2}, half);
    expect((zb_sampling){.temperature = 0.5}, twice);
}

static void test_truncations(void **unused) {
    (void)unused;
    const double two[V] = {0, 0.5, 0, 0.3, 0, 0}, one[V] = {0, 1},
                 three[V] = {0, 0.5, 0, 0.3, 0, 0.1};
    expect((zb_sampling){.temperature = 1, .top_k = 2}, two);
    expect((zb_sampling){.temperature = 1, .top_k = 1}, one);
    expect((zb_sampling){.temperature = 1, .top_p = 0.79}, two);
    expect((zb_sampling){.temperature = 1, .top_p = 0.81}, three);
    expect((zb_sampling){.temperature = 1, .top_p = 1e-9}, one);
    expect((zb_sampling){.temperature = 1, .min_p = 0.5}, two);
    expect((zb_sampling){.temperature = 1, .min_p = 0.19}, three);
    expect((zb_sampling){.temperature = 1, .min_p = 1}, one);
}

static void test_order(void **unused) {
    (void)unused;
    const double two[V] = {0, 0.5, 0, 0.3, 0, 0}, one[V] = {0, 1};
    const double flat[V] = {0, pow(0.5, 0.1), 0, pow(0.3, 0.1), 0, 0};
    /* top_p looks at what top_k leaves: 0.5 of 0.8 is 0.625 */
    expect((zb_sampling){.temperature = 1, .top_p = 0.6}, two);
    expect((zb_sampling){.temperature = 1, .top_p = 0.6, .top_k = 2}, one);
    expect((zb_sampling){.temperature = 1, .top_p = 0.7, .top_k = 2}, two);
    /* the shorter of top_p and min_p holds */
    expect((zb_sampling){.temperature = 1, .top_p = 0.99, .min_p = 0.5}, two);
    expect((zb_sampling){.temperature = 1, .top_p = 0.4, .min_p = 0.1}, one);
    /* truncation before temperature */
    expect((zb_sampling){.temperature = 10, .top_p = 0.79}, flat);
    expect((zb_sampling){.temperature = 10, .min_p = 0.5}, flat);
}

static int32_t greedy(const float *logits, double penalty, int window, const int32_t *history,
                      int n) {
    zb_sampler *s = make((zb_sampling){.repeat_penalty = penalty, .repeat_window = window});
    int32_t id = zb_sampler_pick(s, logits, history, n);
    assert_int_equal(zb_sampler_pick(s, logits, history, n),
                     id); /* the marks of the first pick are gone */
    zb_sampler_free(s);
    return id;
}

static void test_penalty(void **unused) {
    (void)unused;
    const float up[V] = {1.0f, 3.0f, 0.5f, 2.0f, -1.0f, -2.0f},
                down[V] = {-3.0f, -1.0f, -1.5f, -9.0f, -9.0f, -9.0f};
    const int32_t h[] = {3, 1, 1, 1, 0};
    assert_int_equal(greedy(up, 1, 0, h, 5), 1);
    assert_int_equal(greedy(up, 0, 0, h, 5), 1);
    assert_int_equal(greedy(up, 1.4, 0, h, 5),
                     1); /* 3/1.4 > 2/1.4: once, however often it occurs */
    assert_int_equal(greedy(up, 1.6, 4, h, 5), 3); /* 3 has left the window: 2 > 3/1.6 */
    assert_int_equal(greedy(up, 1.6, 1, h, 5), 1);
    assert_int_equal(greedy(up, 1.6, -1, h, 5), 1);  /* all of it */
    assert_int_equal(greedy(down, 1.4, 0, h, 5), 1); /* -1.4 still above -1.5 */
    assert_int_equal(greedy(down, 1.6, 0, h, 5), 2); /* -1.6 below */
    const int32_t odd[] = {-1, V, 1000000};
    assert_int_equal(greedy(up, 1.6, 0, odd, 3), 1); /* ids outside the vocabulary mean nothing */
}

static void test_edges(void **unused) {
    (void)unused;
    const float inf = INFINITY, n = NAN;
    const float none[V] = {-inf, -inf, -inf, -inf, -inf, -inf}, nan[V] = {n, n, n, n, n, n},
                top[V] = {0, 1, inf, 5, inf, 2}, holes[V] = {n, -inf, n, 0, -inf, n};
    const float tied[V] = {1, 2, 2, 2, 1, 2};
    const zb_sampling sets[] = {{0},
                                {.temperature = 1},
                                {.temperature = 1, .top_k = 3, .top_p = 0.5, .min_p = 0.1},
                                {.temperature = 1e-6},
                                {.temperature = 1e6, .top_p = 0.999},
                                {.temperature = 1, .repeat_penalty = 2, .repeat_window = -1}};
    const int32_t h[] = {0, 1, 2, 3, 4, 5};
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++) {
        zb_sampler *s = make(sets[i]);
        for (int k = 0; k < 50; k++) {
            assert_int_equal(zb_sampler_pick(s, none, h, 6), 0);
            assert_int_equal(zb_sampler_pick(s, nan, h, 6), 0);
            assert_int_equal(zb_sampler_pick(s, top, h, 6), 2);
            assert_int_equal(zb_sampler_pick(s, holes, h, 6), 3);
        }
        zb_sampler_free(s);
    }
    zb_sampler *s = make((zb_sampling){.temperature = 0});
    assert_int_equal(zb_sampler_pick(s, tied, NULL, 0), 1);
    zb_sampler_free(s);
    s = make((zb_sampling){.temperature = 1, .top_k = 2}); /* ties: the lower ids stay */
    for (int k = 0; k < 200; k++) assert_in_range(zb_sampler_pick(s, tied, NULL, 0), 1, 2);
    zb_sampler_free(s);
    s = make((zb_sampling){.temperature = 1, .min_p = 1}); /* as probable as the best: all four */
    int seen = 0;
    for (int k = 0; k < 200; k++) seen |= 1 << zb_sampler_pick(s, tied, NULL, 0);
    assert_int_equal(seen, 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5);
    zb_sampler_free(s);
}

static void test_seeds(void **unused) {
    (void)unused;
    float logits[V];
    fill(logits);
    int32_t a[64], b[64];
    int same = 0;
    for (int round = 0; round < 2; round++) {
        zb_sampler *s = make((zb_sampling){.temperature = 1, .seed = 42}),
                   *t = make((zb_sampling){.temperature = 1, .seed = 43});
        for (int i = 0; i < 64; i++) {
            int32_t id = zb_sampler_pick(s, logits, NULL, 0);
            if (round) assert_int_equal(id, a[i]);
            a[i] = id;
            b[i] = zb_sampler_pick(t, logits, NULL, 0);
            same += a[i] == b[i];
        }
        zb_sampler_free(s);
        zb_sampler_free(t);
    }
    assert_in_range(same, 1, 100);
    /* the i-th choice does not depend on the choices before it */
    const float fixed[V] = {0, 9, 0, 0, 0, 0};
    zb_sampler *s = make((zb_sampling){.temperature = 1, .seed = 42});
    for (int i = 0; i < 64; i++) {
        bool skip = i % 3 == 0;
        int32_t id = zb_sampler_pick(s, skip ? fixed : logits, NULL, 0);
        if (!skip) assert_int_equal(id, a[i]);
    }
    zb_sampler_free(s);
}

static void test_one_token(void **unused) {
    (void)unused;
    zb_sampler *s;
    const float only = -3;
    zb_sampling set = {.temperature = 1, .top_k = 5, .top_p = 0.3, .min_p = 0.9};
    assert_int_equal(zb_sampler_new(&s, &set, 1, NULL), ZB_OK);
    assert_int_equal(zb_sampler_pick(s, &only, NULL, 0), 0);
    zb_sampler_free(s);
    zb_sampler_free(NULL);
}

static void test_refusals(void **unused) {
    (void)unused;
    const struct {
        zb_sampling set;
        const char *says;
    } bad[] = {
        {{.temperature = -1}, "temperature: expected"},
        {{.temperature = (double)NAN}, "temperature: expected"},
        {{.top_k = -1}, "top_k: expected"},
        {{.top_p = 1.5}, "top_p: expected"},
        {{.top_p = (double)NAN}, "top_p: expected"},
        {{.min_p = -0.1}, "min_p: expected"},
        {{.min_p = 2}, "min_p: expected"},
        {{.repeat_penalty = -1}, "repeat_penalty: expected"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        zb_sampler *s = (zb_sampler *)&i;
        zb_err err = {0};
        assert_int_equal(zb_sampler_new(&s, &bad[i].set, V, &err), ZB_ERR_CONFIG);
        assert_null(s);
        assert_non_null(strstr(err.msg, bad[i].says));
    }
    zb_sampler *s;
    assert_int_equal(zb_sampler_new(&s, &(zb_sampling){0}, 0, NULL), ZB_ERR_CONFIG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),     cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_order),     cmocka_unit_test(test_penalty),
        cmocka_unit_test(test_edges),     cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_one_token), cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
