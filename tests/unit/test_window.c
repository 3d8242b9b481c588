/* Window attention against its formula in double precision: block edges, windows shorter and longer
 * than a block and than the document, sinks inside and outside of the window, keys that come in two
 * runs. (Gradients: tests/grad; rings and states: test_continue.c.) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "model/window.h"

typedef struct shape {
    int T, past, heads, dh, window, sinks;
} shape;

static const shape shapes[] = {
    {1, 0, 1, 8, 1, 0},     {1, 40, 3, 16, 8, 4}, {5, 3, 2, 8, 4, 6},     {31, 0, 3, 8, 10, 4},
    {32, 0, 3, 8, 32, 1},   {33, 0, 3, 8, 31, 0}, {100, 0, 2, 24, 7, 40}, {70, 25, 3, 16, 20, 4},
    {64, 500, 4, 8, 96, 4}, {70, 2, 1, 8, 5, 9},  {90, 0, 3, 8, 200, 4},  {1, 300, 9, 64, 96, 4},
    {40, 1, 3, 8, 1, 0},    {2, 1, 13, 8, 1, 1},
};

typedef struct fixture {
    zb_window a;
    const float *k, *v; /* [past + T, dh]: all positions */
} fixture;

static float *numbers(zb_arena *arena, int64_t n, uint64_t seed) {
    float *x = ZB_NEW_ARRAY(arena, float, n);
    for (int64_t i = 0; i < n; i++) x[i] = (float)zb_rng_normal(seed, ZB_RNG_TEST, (uint64_t)i);
    return x;
}

/* The keys that no query may see are not handed over: the run begins where the first query's window
 * does, and sinks stand on their own. */
static fixture make(zb_arena *arena, shape s, uint64_t seed) {
    int all = s.past + s.T, first = s.past >= s.window ? s.past - s.window + 1 : 0;
    size_t row = (size_t)s.dh, bytes = sizeof(float);
    fixture f = {.k = numbers(arena, (int64_t)all * s.dh, seed),
                 .v = numbers(arena, (int64_t)all * s.dh, seed + 1)};
    int64_t values = (int64_t)s.T * s.heads * s.dh;
    f.a = (zb_window){.T = s.T,
                      .heads = s.heads,
                      .dh = s.dh,
                      .window = s.window,
                      .sinks = s.sinks,
                      .past = s.past,
                      .first = first,
                      .scale = 0.3f,
                      .q = numbers(arena, values, seed + 2),
                      .o = ZB_NEW_ARRAY(arena, float, values),
                      .q_row = (ptrdiff_t)s.heads * s.dh,
                      .kv_row = s.dh,
                      .lse = ZB_NEW_ARRAY(arena, float, s.T *s.heads),
                      .lse_head = s.T};
    size_t kept = (size_t)(all - first) * row,
           front = (size_t)(s.sinks < all ? s.sinks : all) * row;
    float *k = zb_alloc(arena, kept * bytes), *v = zb_alloc(arena, kept * bytes),
          *sk = zb_alloc(arena, front * bytes), *sv = zb_alloc(arena, front * bytes);
    memcpy(k, f.k + (size_t)first * row, kept * bytes);
    memcpy(v, f.v + (size_t)first * row, kept * bytes);
    memcpy(sk, f.k, front * bytes);
    memcpy(sv, f.v, front * bytes);
    f.a.k = k;
    f.a.v = v;
    f.a.sink_k = sk;
    f.a.sink_v = sv;
    return f;
}

/* Rounding: of the products in a score (dh terms), which exp turns into a relative error of the
 * weights, and of the sums over the keys. */
static void check_query(const fixture *f, int t, int h) {
    const zb_window *a = &f->a;
    int position = a->past + t;
    const float *q = a->q + t * a->q_row + h * a->dh;
    zb_arena arena = {0};
    double *w = ZB_NEW_ARRAY(&arena, double, position + 1), sum = 0, most = 0;
    for (int s = 0; s <= position; s++) {
        double score = 0, size = 0;
        for (int i = 0; i < a->dh; i++) {
            double x = (double)q[i] * (double)f->k[(size_t)s * a->dh + i];
            score += x;
            size += fabs(x);
        }
        bool seen = s > position - a->window || s < a->sinks;
        w[s] = seen ? exp(score * (double)a->scale) : 0;
        sum += w[s];
        if (seen && size * (double)a->scale > most) most = size * (double)a->scale;
    }
    double rel = 0x1p-24 * (8 + 2 * sqrt(a->dh) * most + 4 * sqrt(a->window + a->sinks));
    for (int i = 0; i < a->dh; i++) {
        double want = 0, size = 0;
        for (int s = 0; s <= position; s++) {
            double x = w[s] / sum * (double)f->v[(size_t)s * a->dh + i];
            want += x;
            size += fabs(x);
        }
        double got = (double)a->o[t * a->q_row + h * a->dh + i];
        if (!(fabs(got - want) <= rel * size))
            fail_msg("T %d past %d window %d sinks %d: token %d head %d value %d: got %.9g, want "
                     "%.9g, allowed %.3g",
                     a->T, a->past, a->window, a->sinks, t, h, i, got, want, rel * size);
    }
    assert_true(fabs((double)a->lse[h * a->lse_head + t] - log(sum)) <=
                rel * (1 + fabs(log(sum)) + most));
    zb_arena_free(&arena);
}

static void test_formula(void **unused) {
    (void)unused;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        zb_arena arena = {0};
        fixture f = make(&arena, shapes[i], 100 + i);
        zb_window_forward(&arena, 2, &f.a, 1);
        for (int t = 0; t < f.a.T; t++)
            for (int h = 0; h < f.a.heads; h++) check_query(&f, t, h);
        zb_arena_free(&arena);
    }
}

/* Alone, among others, on one thread, on three: the same bits. */
static void test_company(void **unused) {
    (void)unused;
    enum { N = sizeof shapes / sizeof shapes[0] };
    zb_arena arena = {0};
    zb_window all[N];
    float *alone[N];
    for (int i = 0; i < N; i++) {
        fixture f = make(&arena, shapes[i], 300 + (uint64_t)i);
        size_t bytes = (size_t)f.a.T * (size_t)f.a.heads * (size_t)f.a.dh * sizeof(float);
        zb_window_forward(&arena, 1, &f.a, 1);
        alone[i] = memcpy(zb_alloc(&arena, bytes), f.a.o, bytes);
        memset(f.a.o, 0xff, bytes);
        all[i] = f.a;
    }
    zb_window_forward(&arena, 3, all, N);
    for (int i = 0; i < N; i++)
        assert_memory_equal(all[i].o, alone[i],
                            (size_t)all[i].T * (size_t)all[i].heads * (size_t)all[i].dh * 4);
    zb_arena_free(&arena);
}

/* 8,192 tokens: memory follows the window. */
static void test_memory(void **unused) {
    (void)unused;
    zb_arena arena = {0};
    fixture f = make(&arena, (shape){8192, 0, 2, 8, 96, 4}, 7);
    size_t before = arena.bytes;
    arena.peak = before;
    zb_window_forward(&arena, 2, &f.a, 1);
    assert_true(arena.bytes == before);
    assert_true(arena.peak - before < 1 << 18);
    for (int t = 0; t < 8192; t += 2047) check_query(&f, t, 1);
    zb_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formula),
                                       cmocka_unit_test(test_company),
                                       cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
