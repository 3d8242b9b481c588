/* The optimiser beyond the reference steps of tests/golden/test_losses.c: slots, rates, decay,
 * clipping, pieces, the schedule. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "model/optim.h"

/* A parameter of n values in `a`, with values and gradients of the given streams. */
static zb_param make(zb_arena *a, int n, uint64_t seed) {
    zb_param p = {.name = "p", .dtype = ZB_F32, .n_dims = 1, .shape = {n}, .rows = 1, .cols = n};
    p.w = ZB_NEW_ARRAY(a, float, n);
    p.grad = ZB_NEW_ARRAY(a, float, n);
    p.data = p.w;
    for (int i = 0; i < n; i++) {
        p.w[i] = (float)zb_rng_normal(seed, ZB_RNG_TEST, (uint64_t)i);
        p.grad[i] = (float)zb_rng_normal(seed + 1, ZB_RNG_TEST, (uint64_t)i);
    }
    return p;
}

/* One value's AdamW in f64 (Loshchilov & Hutter 2019, algorithm 2, decay times rate as in torch).
 */
typedef struct one {
    double w, m, v;
} one;

static void step_one(one *o, double g, double lr, double decay, int64_t t) {
    const double b1 = 0.9, b2 = 0.95, eps = 1e-8;
    o->w -= lr * decay * o->w;
    o->m = b1 * o->m + (1 - b1) * g;
    o->v = b2 * o->v + (1 - b2) * g * g;
    o->w -= lr * (o->m / (1 - pow(b1, (double)t))) / (sqrt(o->v / (1 - pow(b2, (double)t))) + eps);
}

/* Two slots with their own rates and decays, one longer than a piece of work, against f64. */
static void test_slots(void **state) {
    (void)state;
    enum { SMALL = 5, LARGE = (1 << 16) + 77, STEPS = 3 };
    zb_arena a = {0};
    zb_param p[2] = {make(&a, SMALL, 10), make(&a, LARGE, 20)};
    const double rate[2] = {2, 0.5}, decay[2] = {0, 0.1}, lr = 1e-2, scale = 0.25;
    one *want[2] = {ZB_NEW_ARRAY(&a, one, SMALL), ZB_NEW_ARRAY(&a, one, LARGE)};
    float *grad[2] = {ZB_NEW_ARRAY(&a, float, SMALL), ZB_NEW_ARRAY(&a, float, LARGE)};
    zb_optim o;
    zb_optim_init(&o, 0.9, 0.95, 1e-8);
    p[0].rate = 4; /* the parameter's own factor */
    for (int k = 0; k < 2; k++) {
        zb_optim_add(&o, &p[k], rate[k] / (k ? 1 : 4), decay[k]);
        for (int i = 0; i < p[k].cols; i++) {
            want[k][i].w = (double)p[k].w[i];
            grad[k][i] = p[k].grad[i];
        }
    }
    for (int t = 1; t <= STEPS; t++) {
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < p[k].cols; i++) {
                p[k].grad[i] = grad[k][i];
                step_one(&want[k][i], (double)grad[k][i] * scale, lr * rate[k], decay[k], t);
            }
        zb_optim_step(&o, lr, scale);
        assert_int_equal(o.step, t);
        for (int k = 0; k < 2; k++) /* ready for the next step */
            for (int i = 0; i < p[k].cols; i++) assert_true(p[k].grad[i] == 0);
    }
    /* two roundings of the weight per step, and the update's own few (2^-24 each) times its size of
     * at most 2 lr */
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < p[k].cols; i++) {
            double tol = STEPS * 0x1p-24 * (2 * (fabs(want[k][i].w) + 0.1) + 32 * lr * rate[k]);
            if (!(fabs((double)p[k].w[i] - want[k][i].w) <= tol))
                fail_msg("slot %d, value %d: got %.9g, want %.9g", k, i, (double)p[k].w[i],
                         want[k][i].w);
        }
    zb_optim_free(&o);
    zb_arena_free(&a);
}

static void test_small_tensors(void **state) {
    (void)state;
    zb_arena a = {0};
    zb_param p = make(&a, 4, 7);
    const float w[4] = {3e-3f, -4e-3f, 0, 0}; /* root mean square 2.5e-3 */
    memcpy(p.w, w, sizeof w);
    assert_true(fabs(zb_optim_size_rate(&p, 0.05) - 0.05) < 1e-7);
    assert_true(zb_optim_size_rate(&p, 2e-3) == 1); /* large enough */
    assert_true(zb_optim_size_rate(&p, 0) == 1);    /* off */
    memset(p.w, 0, sizeof w);
    assert_true(zb_optim_size_rate(&p, 0.05) == 1); /* zeros have to start */
    zb_arena_free(&a);
}

static void test_norm(void **state) {
    (void)state;
    enum { SMALL = 3, LARGE = (1 << 16) * 2 + 1 };
    zb_arena a = {0};
    zb_param p[2] = {make(&a, SMALL, 30), make(&a, LARGE, 40)};
    zb_optim o;
    zb_optim_init(&o, 0.9, 0.95, 1e-8);
    assert_true(zb_optim_grad_norm(&o) == 0);
    double sum = 0;
    for (int k = 0; k < 2; k++) {
        zb_optim_add(&o, &p[k], 1, 0);
        for (int i = 0; i < p[k].cols; i++) sum += (double)p[k].grad[i] * (double)p[k].grad[i];
    }
    double got = zb_optim_grad_norm(&o);
    assert_true(fabs(got - sqrt(sum)) <= 1e-12 * sqrt(sum));
    assert_true(zb_optim_grad_norm(&o) == got);
    /* large gradients do not overflow: the sum is f64 */
    for (int i = 0; i < SMALL; i++) p[0].grad[i] = 1e30f;
    assert_true(isfinite(zb_optim_grad_norm(&o)) && zb_optim_grad_norm(&o) > 1e30);
    p[0].grad[1] = NAN;
    assert_true(isnan(zb_optim_grad_norm(&o)));
    zb_optim_free(&o);
    zb_arena_free(&a);
}

/* Clipping scales the whole gradient; gradients that are not finite change nothing and are gone. */
static void test_clipped(void **state) {
    (void)state;
    enum { N = 5 };
    zb_arena a = {0};
    zb_param p = make(&a, N, 50), q = make(&a, N, 50);
    zb_optim o, same;
    zb_optim_init(&o, 0.9, 0.95, 1e-8);
    zb_optim_init(&same, 0.9, 0.95, 1e-8);
    zb_optim_add(&o, &p, 1, 0);
    zb_optim_add(&same, &q, 1, 0);
    double norm = zb_optim_grad_norm(&o), clip = norm / 3;
    assert_true(zb_optim_step_clipped(&o, 0.1, clip) == norm);
    zb_optim_step(&same, 0.1, clip / norm);
    assert_memory_equal(p.w, q.w, sizeof(float) * N);
    float bad[] = {INFINITY, NAN};
    for (int i = 0; i < 2; i++) {
        p.grad[2] = bad[i];
        assert_false(isfinite(zb_optim_step_clipped(&o, 0.1, clip)));
        assert_memory_equal(p.w, q.w, sizeof(float) * N);
        assert_true(p.grad[2] == 0);
    }
    zb_optim_free(&o);
    zb_optim_free(&same);
    zb_arena_free(&a);
}

/* Many slots: the list grows and keeps its moments. */
static void test_growth(void **state) {
    (void)state;
    enum { N = 50 };
    zb_arena a = {0};
    zb_param p[N];
    float grad[N][2];
    zb_optim o;
    zb_optim_init(&o, 0.9, 0.95, 1e-8);
    for (int i = 0; i < N; i++) {
        p[i] = make(&a, 2, 100 + (uint64_t)i);
        zb_optim_add(&o, &p[i], 1, 0);
        for (int j = 0; j < 2; j++) grad[i][j] = p[i].grad[j];
    }
    assert_int_equal(o.n, N);
    zb_optim_step(&o, 1, 1);
    for (int i = 0; i < N; i++) {
        assert_ptr_equal(o.slot[i].param, &p[i]);
        for (int j = 0; j < 2; j++) /* the first moment of the first step */
            assert_true(fabs((double)o.slot[i].m[j] - 0.1 * (double)grad[i][j]) <= 1e-7);
    }
    zb_optim_free(&o);
    zb_arena_free(&a);
}

static void test_schedule(void **state) {
    (void)state;
    assert_true(zb_schedule_cosine(0, 0, 10, 0) == 1); /* no warm-up: full rate at once */
    assert_true(zb_schedule_cosine(0, 4, 10, 0) == 0);
    assert_true(zb_schedule_cosine(1, 4, 10, 0) == 0.25);
    assert_true(zb_schedule_cosine(4, 4, 10, 0) == 1);
    assert_true(fabs(zb_schedule_cosine(7, 4, 10, 0) - 0.5) < 1e-15);
    assert_true(fabs(zb_schedule_cosine(10, 4, 10, 0)) < 1e-15);
    assert_true(fabs(zb_schedule_cosine(10, 4, 10, 0.1) - 0.1) < 1e-15);
    assert_true(fabs(zb_schedule_cosine(7, 4, 10, 0.1) - 0.55) < 1e-15);
    assert_true(fabs(zb_schedule_cosine(99, 4, 10, 0.1) - 0.1) <
                1e-15); /* past the end: the floor, no new wave */
    assert_true(isfinite(zb_schedule_cosine(3, 3, 3, 0))); /* nothing but warm-up */
    for (int i = 5; i < 10; i++)
        assert_true(zb_schedule_cosine(i, 4, 10, 0) < zb_schedule_cosine(i - 1, 4, 10, 0));
}

/* The best weights come back after as many worse errors as patience has, and stay. */
static void test_early_stop(void **state) {
    (void)state;
    zb_arena a = {0};
    zb_param p = make(&a, 3, 60);
    zb_optim o;
    zb_optim_init(&o, 0.9, 0.95, 1e-8);
    zb_optim_add(&o, &p, 1, 0);
    zb_optim_watch(&o);
    const double error[] = {3, 2, 2.5, 1, 1, 4};
    float best[3] = {0};
    for (int i = 0; i < 6; i++) {
        assert_false(o.stopped);
        zb_optim_judge(&o, error[i], 2);
        if (i == 3) memcpy(best, p.w, sizeof best);
        for (int k = 0; k < 3; k++) p.grad[k] = 1;
        zb_optim_step(&o, 0.1, 1);
        assert_true(p.grad[0] == 0);
    }
    assert_true(o.stopped);
    assert_int_equal(o.step, 5);
    assert_memory_equal(p.w, best, sizeof best);
    zb_optim_judge(&o, 0, 2); /* too late */
    zb_optim_forget(&o);
    assert_true(o.stopped && o.least == 1);
    zb_optim_free(&o);

    zb_optim_init(&o, 0.9, 0.95, 1e-8); /* without stopping: the best is at hand, or forgotten */
    zb_optim_add(&o, &p, 1, 0);
    zb_optim_watch(&o);
    zb_optim_judge(&o, 5, 9);
    p.w[0] = 77;
    zb_optim_judge(&o, 6, 9);
    zb_optim_back(&o);
    assert_memory_equal(p.w, best, sizeof best);
    p.w[0] = 78;
    zb_optim_forget(&o);
    zb_optim_back(&o);
    assert_true(p.w[0] == 78);
    zb_optim_free(&o);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots),     cmocka_unit_test(test_small_tensors),
        cmocka_unit_test(test_norm),      cmocka_unit_test(test_clipped),
        cmocka_unit_test(test_growth),    cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_early_stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
