/* Attention against its formula in double precision: chunk and block edges, groups of heads, cache
 * types, tails, keys in pieces; the same bits alone and among others, on one thread and on several;
 * memory that does not grow with the square of the length. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "model/attend.h"

enum { CHUNK = ZB_ATTEND_CHUNK };
static const zb_dtype types[] = {ZB_F32, ZB_BF16, ZB_F16, ZB_Q8_0};

/* One attention with everything it points to. */
typedef struct fixture {
    zb_attend a;
    int keys;
    float *k, *v; /* [keys, dk] and [keys, dv] as attention sees them (rounded to the type) */
    float *o, *lse;
} fixture;

static float *numbers(zb_arena *arena, int64_t n, double scale, uint64_t seed) {
    float *x = ZB_NEW_ARRAY(arena, float, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(scale * zb_rng_normal(seed, ZB_RNG_TEST, (uint64_t)i));
    return x;
}

/* Rows of x [n, width] in a type; x becomes what the type holds. */
static zb_cells pack(zb_arena *arena, zb_dtype type, float *x, int n, int width) {
    size_t row = zb_cells_row(type, width);
    uint8_t *p = zb_alloc(arena, (size_t)n * row);
    for (int i = 0; i < n; i++)
        zb_cells_write(type, width, x + (size_t)i * width, p + (size_t)i * row);
    zb_cells c = {type, width, row, p};
    zb_cells_read(&c, 0, n, x, width);
    return c;
}

typedef struct shape {
    int T, past, heads, dk, dv, tail; /* tail > 0: values are the first dv of each key */
} shape;

static fixture make(zb_arena *arena, shape s, zb_dtype type, uint64_t seed) {
    fixture f = {.keys = s.past + s.T};
    int body = s.dk - s.tail;
    f.k = numbers(arena, (int64_t)f.keys * s.dk, 1, seed);
    f.v = numbers(arena, (int64_t)f.keys * s.dv, 1, seed + 1);
    float *q = numbers(arena, (int64_t)s.T * s.heads * s.dk, 1, seed + 2);
    f.o = ZB_NEW_ARRAY(arena, float, (int64_t)s.T *s.heads *s.dv);
    f.lse = ZB_NEW_ARRAY(arena, float, (int64_t)s.T *s.heads);
    f.a = (zb_attend){.T = s.T,
                      .heads = s.heads,
                      .past = s.past,
                      .dk = s.dk,
                      .dv = s.dv,
                      .scale = (float)(1 / sqrt((double)s.dk)),
                      .q = q,
                      .q_row = (ptrdiff_t)s.heads * s.dk,
                      .q_head = s.dk,
                      .o = f.o,
                      .o_row = (ptrdiff_t)s.heads * s.dv,
                      .o_head = s.dv,
                      .lse = f.lse,
                      .lse_head = s.T};
    if (!s.tail) {
        f.a.k = pack(arena, type, f.k, f.keys, s.dk);
        f.a.v = pack(arena, type, f.v, f.keys, s.dv);
        return f;
    }
    float *latent = ZB_NEW_ARRAY(arena, float, (int64_t)f.keys *body),
          *rotary = ZB_NEW_ARRAY(arena, float, (int64_t)f.keys *s.tail);
    for (int j = 0; j < f.keys; j++) {
        memcpy(latent + (size_t)j * body, f.k + (size_t)j * s.dk, (size_t)body * sizeof(float));
        memcpy(rotary + (size_t)j * s.tail, f.k + (size_t)j * s.dk + body,
               (size_t)s.tail * sizeof(float));
    }
    f.a.k = pack(arena, type, latent, f.keys, body);
    f.a.k_tail = pack(arena, type == ZB_Q8_0 ? ZB_BF16 : type, rotary, f.keys, s.tail);
    for (int j = 0; j < f.keys; j++) {
        memcpy(f.k + (size_t)j * s.dk, latent + (size_t)j * body, (size_t)body * sizeof(float));
        memcpy(f.k + (size_t)j * s.dk + body, rotary + (size_t)j * s.tail,
               (size_t)s.tail * sizeof(float));
        memcpy(f.v + (size_t)j * s.dv, latent + (size_t)j * body, (size_t)s.dv * sizeof(float));
    }
    return f;
}

/* On matrix registers, where there are some: no lse, operands rounded to bf16. */
static void round_operands(fixture *f) {
    f->a.bf16 = true;
    f->a.lse = NULL;
}

/* The formula for one query. Errors: a weight is wrong by its exponent's absolute error, a few
 * roundings of the score's magnitude sum, and sums of `keys` terms in blocks of 64. With operands
 * in bf16 each term of a score is off by up to 2^-8, at random, and so are weights and values. */
static void check_query(const fixture *f, int t, int h) {
    const zb_attend *a = &f->a;
    int seen = a->past + t + 1;
    double max = -HUGE_VAL, sum = 0, most = 0, *s = test_calloc((size_t)seen, sizeof *s);
    const float *q = a->q + t * a->q_row + h * a->q_head;
    for (int j = 0; j < seen; j++) {
        double magnitude = 0;
        for (int i = 0; i < a->dk; i++) {
            double x = (double)q[i] * (double)f->k[(size_t)j * a->dk + i] * (double)a->scale;
            s[j] += x;
            magnitude += fabs(x);
        }
        most = fmax(most, magnitude);
        max = fmax(max, s[j]);
    }
    for (int j = 0; j < seen; j++) sum += s[j] = exp(s[j] - max);
    double rel = 0x1p-24 * (8 + 2 * sqrt(a->dk) * most + 4 * sqrt(seen));
    if (a->bf16) rel += 0x1p-8 * (2 + 4 * most / sqrt(a->dk));
    for (int i = 0; i < a->dv; i++) {
        double want = 0, size = 0;
        for (int j = 0; j < seen; j++) {
            double x = s[j] / sum * (double)f->v[(size_t)j * a->dv + i];
            want += x;
            size += fabs(x);
        }
        double got = (double)a->o[t * a->o_row + h * a->o_head + i];
        if (!(fabs(got - want) <= rel * size))
            fail_msg(
                "T %d past %d heads %d dk %d type %d: token %d head %d value %d: got %.9g, want "
                "%.9g, allowed %.3g",
                a->T, a->past, a->heads, a->dk, (int)a->k.type, t, h, i, got, want, rel * size);
    }
    if (a->lse)
        assert_true(fabs((double)a->lse[h * a->lse_head + t] - max - log(sum)) <=
                    rel * (1 + fabs(max)));
    test_free(s);
}

static void check(const fixture *f) {
    int step = f->a.T > 40 ? 17 : 1; /* long ones: some tokens, the last among them */
    for (int t = f->a.T - 1; t >= 0; t -= step)
        for (int h = 0; h < f->a.heads; h++) check_query(f, t, h);
}

static const shape shapes[] = {
    {1, 0, 1, 8, 8, 0},
    {1, CHUNK - 2, 3, 16, 16, 0},    /* keys = chunk - 1 */
    {1, CHUNK - 1, 3, 16, 16, 0},    /* chunk */
    {1, CHUNK, 3, 16, 16, 0},        /* chunk + 1 */
    {1, 2 * CHUNK, 4, 64, 64, 0},    /* 2 chunks + 1 */
    {5, 3 * CHUNK - 3, 3, 24, 8, 0}, /* the edge runs through the span */
    {32, 300, 3, 16, 16, 0},         /* the largest span that is cut */
    {33, 300, 3, 16, 16, 0},         /* the smallest that is not */
    {64, 0, 1, 64, 64, 0},
    {65, 0, 2, 8, 24, 0},
    {200, 71, 3, 40, 32, 0},
    {1, 700, 9, 13, 9, 4}, /* latents 9, rotary part 4 */
    {7, 250, 4, 48, 32, 16},
    {130, 5, 4, 34, 32, 2},
    {2, 300, 130, 8, 8, 0}, /* more heads than a block has rows */
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static void test_formula(void **unused) {
    (void)unused;
    for (int i = 0; i < SHAPES; i++)
        for (int t = 0; t < 4; t++) {
            zb_arena arena = {0};
            fixture f = make(&arena, shapes[i], types[t], (uint64_t)(100 + i));
            zb_attend_forward(&arena, 2, &f.a, 1);
            check(&f);
            round_operands(&f);
            zb_attend_forward(&arena, 2, &f.a, 1);
            check(&f);
            zb_arena_free(&arena);
        }
}

/* What the type costs: outputs stay within its precision of those of f32. Keys are off by u of
 * their size, so scores by u·|q||k|·scale and weights by as much; values by u. */
static void test_types(void **unused) {
    (void)unused;
    static const double unit[] = {0, 0x1p-8, 0x1p-11, 1.0 / 254 + 0x1p-11};
    shape s = {3, 600, 3, 64, 64, 0};
    zb_arena arena = {0};
    fixture exact = make(&arena, s, ZB_F32, 5);
    zb_attend_forward(&arena, 2, &exact.a, 1);
    for (int t = 1; t < 4; t++) {
        fixture f = make(&arena, s, types[t], 5);
        zb_attend_forward(&arena, 2, &f.a, 1);
        double worst = 0;
        for (int i = 0; i < s.T * s.heads * s.dv; i++) {
            assert_true(isfinite(f.o[i]));
            worst = fmax(worst, fabs((double)f.o[i] - (double)exact.o[i]));
        }
        /* a q8_0 block's step belongs to its largest value, about 2.2 standard deviations */
        double u = unit[t] * (types[t] == ZB_Q8_0 ? 2.2 : 1);
        assert_true(worst > 0 && worst < 4 * u);
    }
    zb_arena_free(&arena);
}

/* Alone, among others, on one thread, on three: the same bits. */
static void test_company(void **unused) {
    (void)unused;
    for (int t = 0; t < 4; t++) {
        zb_arena arena = {0};
        zb_attend all[SHAPES];
        fixture f[SHAPES];
        float *alone[SHAPES];
        for (int i = 0; i < SHAPES; i++) {
            f[i] = make(&arena, shapes[i], types[t], (uint64_t)(300 + i));
            if (i % 3) round_operands(&f[i]);
            size_t bytes = (size_t)f[i].a.T * (size_t)f[i].a.heads * (size_t)f[i].a.dv * 4;
            zb_attend_forward(&arena, 1, &f[i].a, 1);
            alone[i] = memcpy(zb_alloc(&arena, bytes), f[i].o, bytes);
            memset(f[i].o, 0xff, bytes);
            all[i] = f[i].a;
        }
        zb_attend_forward(&arena, 3, all, SHAPES);
        for (int i = 0; i < SHAPES; i++)
            assert_memory_equal(f[i].o, alone[i],
                                (size_t)f[i].a.T * (size_t)f[i].a.heads * (size_t)f[i].a.dv * 4);
        zb_arena_free(&arena);
    }
}

/* Keys in pieces of any length, each call on top of the last. */
static void test_pieces(void **unused) {
    (void)unused;
    static const shape some[] = {
        {1, 700, 3, 16, 16, 0}, {40, 333, 3, 16, 16, 0}, {130, 0, 2, 24, 8, 0}};
    for (int i = 0; i < 3; i++)
        for (int piece = 50; piece < 700; piece += 211) {
            zb_arena arena = {0};
            fixture f = make(&arena, some[i], ZB_F32, (uint64_t)(500 + i));
            if (piece % 2) round_operands(&f);
            zb_attend a = f.a;
            a.running = ZB_NEW_ARRAY(&arena, float, a.T *a.heads * 2);
            for (int at = 0; at < f.keys; at += piece) {
                a.first = at;
                a.n_keys = f.keys - at < piece ? f.keys - at : piece;
                a.last = at + a.n_keys == f.keys;
                a.k = zb_cells_f32(f.k + (size_t)at * a.dk, a.dk, a.dk);
                a.v = zb_cells_f32(f.v + (size_t)at * a.dv, a.dv, a.dv);
                zb_attend_forward(&arena, 2, &a, 1);
            }
            check(&f);
            zb_arena_free(&arena);
        }
}

/* 16,384 tokens of one head: the scores would take 1 GB. */
static void test_memory(void **unused) {
    (void)unused;
    enum { T = 16384, D = 8 };
    zb_arena arena = {0};
    fixture f = make(&arena, (shape){T, 0, 1, D, D, 0}, ZB_F32, 7);
    float *d_o = numbers(&arena, (int64_t)T * D, 1, 8),
          *grad = ZB_NEW_ARRAY(&arena, float, 3 * T * D);
    size_t before = arena.bytes;
    arena.peak = before;
    zb_attend_forward(&arena, 2, &f.a, 1);
    zb_attend_grad g = {d_o, grad, grad + T * D, grad + 2 * T * D};
    zb_attend_backward(&arena, 2, &f.a, &g, 1);
    assert_true(arena.bytes == before);
    assert_true(arena.peak - before < 1 << 20);
    for (int t = 0; t < T; t += 5461) check_query(&f, t, 0);
    zb_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formula), cmocka_unit_test(test_types),
                                       cmocka_unit_test(test_company),
                                       cmocka_unit_test(test_pieces),
                                       cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
