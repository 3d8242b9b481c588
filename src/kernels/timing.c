/* timing.c - times the kernels of the table in use (contract in timing.h).
 *
 * Ceilings of one core: fused multiply-adds on registers, in the widest lanes that the table's
 * instruction set has; and the rate of summing a buffer far larger than the caches. The time of a
 * kernel is the best of several runs of about 30 ms, since anything slower was disturbed, counted
 * on the clock of this thread: what other programs take is not ours. */
#include "kernels/timing.h"

#include "base/arena.h"
#include "base/log.h"
#include "base/rng.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { RUNS = 5, CHAINS = 12, CHAIN_LENGTH = 100000, READ_FLOATS = 32 << 20 };

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best seconds per call. Calls are counted in growing batches, since reading the clock takes
 * longer than a small kernel. */
static double best_seconds(void (*fn)(void *), void *ctx) {
    double best = 1e30;
    long batch = 1;
    fn(ctx);
    for (int run = 0; run < RUNS && !zb_interrupted(); run++) {
        double t0, t;
        for (;; batch *= 2) {
            t0 = seconds();
            for (long c = 0; c < batch; c++) fn(ctx);
            t = seconds() - t0;
            if (t >= 0.02) break;
        }
        best = fmin(best, t / (double)batch);
    }
    return best;
}

/* What one timed call needs; every measurement fills what its kernel reads. */
typedef struct job {
    const zb_kernels *k;
    zb_gemm_args gemm;
    zb_gemv_args gemv;
    void (*gemv_fn)(const zb_gemv_args *);
    zb_gemv8_args gemv8;
    void (*gemv8_fn)(const zb_gemv8_args *);
    zb_adamw_args adamw;
    int n, kind;
    float *x, *y, *z;
    volatile double sink;
} job;

/* The whole run. */
typedef struct timing {
    const zb_kernels *k;
    zb_arena arena; /* popped after each measurement */
    double peak, read;
    zb_kernel_timing_fn row;
    void *ctx;
} timing;

static float *floats(timing *t, int64_t n) {
    float *x = ZB_NEW_ARRAY(&t->arena, float, n);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(2 * zb_rng_uniform(1, ZB_RNG_TEST, (uint64_t)i) - 1);
    return x;
}

/* Packed blocks of random bytes with `halves` f16 of about 0.01 (their scales) at `at`. The first
 * 64 KiB are drawn, the others are copies: drawing all would take longer than measuring. */
static uint8_t *packed(timing *t, size_t bytes, int block, int at, int halves) {
    uint8_t *w = zb_alloc(&t->arena, bytes);
    size_t unit = (size_t)(1 << 16) / (size_t)block * (size_t)block;
    if (unit > bytes) unit = bytes;
    for (size_t i = 0; i < unit; i++) {
        size_t in_block = i % (size_t)block - (size_t)at; /* huge before `at` */
        w[i] = (uint8_t)zb_rng_below(1, ZB_RNG_TEST, i, 256);
        if (in_block < 2 * (size_t)halves && in_block % 2) w[i] = (uint8_t)((w[i] & 0x83) | 0x20);
    }
    for (size_t i = unit; i < bytes; i += unit)
        memcpy(w + i, w, bytes - i < unit ? bytes - i : unit);
    return w;
}

/* Independent chains of multiply-adds: more than latency times units, few enough for registers. */
#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void chains_512(void *ctx) {
    __m512 a[CHAINS], m = _mm512_set1_ps(0.999f), c = _mm512_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm512_set1_ps((float)i);
    for (int r = 0; r < CHAIN_LENGTH; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) a[i] = _mm512_fmadd_ps(a[i], m, c);
    }
    for (int i = 1; i < CHAINS; i++) a[0] = _mm512_add_ps(a[0], a[i]);
    ((job *)ctx)->sink = (double)_mm512_cvtss_f32(a[0]);
}

__attribute__((target("avx2,fma"))) static void chains_256(void *ctx) {
    __m256 a[CHAINS], m = _mm256_set1_ps(0.999f), c = _mm256_set1_ps(0.001f);
    for (int i = 0; i < CHAINS; i++) a[i] = _mm256_set1_ps((float)i);
    for (int r = 0; r < CHAIN_LENGTH; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) a[i] = _mm256_fmadd_ps(a[i], m, c);
    }
    for (int i = 1; i < CHAINS; i++) a[0] = _mm256_add_ps(a[0], a[i]);
    ((job *)ctx)->sink = (double)_mm256_cvtss_f32(a[0]);
}
#endif

static void chains_128(void *ctx) {
    typedef float v4 __attribute__((vector_size(16)));
    v4 a[CHAINS], m = (v4){0} + 0.999f, c = (v4){0} + 0.001f;
    for (int i = 0; i < CHAINS; i++) a[i] = (v4){0} + (float)i;
    for (int r = 0; r < CHAIN_LENGTH; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++) a[i] = a[i] * m + c;
    }
    for (int i = 1; i < CHAINS; i++) a[0] += a[i];
    ((job *)ctx)->sink = (double)a[0][0];
}

static void read_all(void *ctx) {
    job *j = ctx;
    j->sink = (double)j->k->dot(j->n, j->x, j->x);
}

static void run_gemm(void *ctx) {
    job *j = ctx;
    j->k->gemm(&j->gemm);
}

static void run_gemm_bt(void *ctx) {
    job *j = ctx;
    j->k->gemm_bt(&j->gemm);
}

static void run_gemv8(void *ctx) {
    job *j = ctx;
    j->gemv8_fn(&j->gemv8);
}

static void run_gemv(void *ctx) {
    job *j = ctx;
    j->gemv_fn(&j->gemv);
}

static void report(timing *t, const char *kernel, const char *size, zb_kernel_timing r) {
    snprintf(r.kernel, sizeof r.kernel, "%s", kernel);
    snprintf(r.size, sizeof r.size, "%s", size);
    if (!zb_interrupted()) t->row(t->ctx, &r);
}

enum transposed { NONE, A_T, B_T };

static void time_gemm(timing *t, int m, int n, int p, enum transposed which) {
    static const char *const mark_of[] = {"", " A^T", " B^T"};
    bool a_t = which == A_T, b_t = which == B_T;
    zb_mark mark = zb_arena_mark(&t->arena);
    job j = {.k = t->k};
    j.gemm = (zb_gemm_args){.m = m,
                            .n = n,
                            .k = p,
                            .a = floats(t, (int64_t)m * p),
                            .a_row = a_t ? 1 : p,
                            .a_col = a_t ? m : 1,
                            .b = floats(t, (int64_t)p * n),
                            .ldb = b_t ? p : n,
                            .c = floats(t, (int64_t)m * n),
                            .ldc = n,
                            .alpha = 1,
                            .add = true};
    double s = best_seconds(b_t ? run_gemm_bt : run_gemm, &j), rate = 2.0 * m * n * p / s;
    char size[40];
    snprintf(size, sizeof size, "%d x %d x %d%s", m, n, p, mark_of[which]);
    report(
        t, "gemm", size,
        (zb_kernel_timing){.rate = rate, .share = rate / t->peak, .unit = "flop/s", .ns = 1e9 * s});
    zb_arena_pop(&t->arena, mark);
}

enum { GEMV_TYPES = 6 };

static void time_gemv(timing *t, int type, int rows, int p) {
    static const struct {
        const char *name;
        int block, bytes, halves;
    } types[GEMV_TYPES] = {{"f32", 1, 4, 0},    {"bf16", 1, 2, 0},   {"f16", 1, 2, 1},
                           {"q8_0", 32, 34, 1}, {"q4_0", 32, 18, 1}, {"q4_1", 32, 20, 2}};
    const zb_kernels *k = t->k;
    void (*const fn[])(const zb_gemv_args *) = {k->gemv_f32,  k->gemv_bf16, k->gemv_f16,
                                                k->gemv_q8_0, k->gemv_q4_0, k->gemv_q4_1};
    zb_mark mark = zb_arena_mark(&t->arena);
    size_t row = (size_t)(p / types[type].block * types[type].bytes), bytes = row * (size_t)rows;
    uint8_t *w = packed(t, bytes, types[type].bytes, 0, types[type].halves);
    if (type < 2) memset(w, 0x3c, bytes); /* random bits would be infinities, too */
    job j = {
        .k = k, .gemv = {w, row, 0, rows, p, floats(t, p), floats(t, rows)}, .gemv_fn = fn[type]};
    double s = best_seconds(run_gemv, &j), rate = (double)bytes / s;
    char name[24], size[40];
    snprintf(name, sizeof name, "gemv %s", types[type].name);
    snprintf(size, sizeof size, "%d x %d", rows, p);
    report(t, name, size,
           (zb_kernel_timing){.rate = rate, .share = rate / t->read, .unit = "B/s", .ns = 1e9 * s});
    zb_arena_pop(&t->arena, mark);
}

enum { GEMV8_TYPES = 6 };

/* Packed weights times n tokens in 8 bits: what decoding does. */
static void time_gemv8(timing *t, int type, int rows, int k, int n) {
    static const struct {
        const char *name;
        int block, bytes, at, halves;
    } types[GEMV8_TYPES] = {{"q8_0", 32, 34, 0, 1},   {"q4_0", 32, 18, 0, 1},
                            {"q4_1", 32, 20, 0, 2},   {"q4_k", 256, 144, 0, 2},
                            {"q5_k", 256, 176, 0, 2}, {"q6_k", 256, 210, 208, 1}};
    const zb_kernels *table = t->k;
    void (*const fn[])(const zb_gemv8_args *) = {table->gemv8_q8_0, table->gemv8_q4_0,
                                                 table->gemv8_q4_1, table->gemv8_q4_k,
                                                 table->gemv8_q5_k, table->gemv8_q6_k};
    zb_mark mark = zb_arena_mark(&t->arena);
    size_t row = (size_t)(k / types[type].block * types[type].bytes), bytes = row * (size_t)rows;
    int8_t *q = ZB_NEW_ARRAY(&t->arena, int8_t, n * k);
    float *d = floats(t, n * k / 32), *sum = floats(t, n * k / 32), *x = floats(t, k);
    for (int i = 0; i < n; i++)
        table->quantize_q8(k, x, q + (size_t)i * k, d + (size_t)i * k / 32,
                           sum + (size_t)i * k / 32);
    job j = {.k = table, .gemv8_fn = fn[type]};
    j.gemv8 = (zb_gemv8_args){
        .w = packed(t, bytes, types[type].bytes, types[type].at, types[type].halves),
        .row_bytes = row,
        .last = rows,
        .k = k,
        .n = n,
        .q = q,
        .d = d,
        .sum = sum,
        .y = floats(t, (int64_t)n * rows),
        .y_row = rows};
    double s = best_seconds(run_gemv8, &j), rate = (double)bytes / s;
    char name[24], size[40];
    snprintf(name, sizeof name, "gemv8 %s", types[type].name);
    snprintf(size, sizeof size, "%d x %d x %d", rows, k, n);
    report(t, name, size,
           (zb_kernel_timing){.rate = rate, .share = rate / t->read, .unit = "B/s", .ns = 1e9 * s});
    zb_arena_pop(&t->arena, mark);
}

enum kind {
    DOT,
    SUM_SQUARES,
    AXPY,
    RMSNORM,
    RMSNORM_BACK,
    SILU_MUL,
    SILU_MUL_BACK,
    EXP,
    SOFTMAX,
    LSE,
    ARGMAX,
    ROPE_H,
    ROPE_I,
    KL,
    RKL,
    CE,
    TO_BF16,
    ROUND_BF16,
    KINDS
};
static const struct {
    const char *name;
    int n, bytes;
} rows[KINDS] = {{"dot", 1024, 8},
                 {"sum_squares", 1024, 4},
                 {"axpy", 1024, 12},
                 {"rmsnorm", 576, 12},
                 {"rmsnorm_backward", 576, 20},
                 {"silu_mul", 1536, 12},
                 {"silu_mul_backward", 1536, 20},
                 {"exp", 1024, 8},
                 {"softmax", 1024, 8},
                 {"logsumexp", 49152, 4},
                 {"argmax", 49152, 4},
                 {"rope_halves", 32, 16},
                 {"rope_interleaved", 32, 16},
                 {"kl_row", 49152, 12},
                 {"reverse_kl_row", 49152, 12},
                 {"ce_row", 49152, 8},
                 {"f32_to_bf16", 4096, 6},
                 {"round_bf16", 4096, 8}};

static void run_row(void *ctx) {
    job *j = ctx;
    const zb_kernels *k = j->k;
    int n = j->n;
    float *x = j->x, *y = j->y, *z = j->z;
    switch ((enum kind)j->kind) {
    case DOT: j->sink = (double)k->dot(n, x, y); break;
    case SUM_SQUARES: j->sink = k->sum_squares(n, x); break;
    case AXPY: k->axpy(n, 1e-9f, x, y); break;
    case RMSNORM: j->sink = (double)k->rmsnorm(n, x, x, 1e-5f, y); break;
    case RMSNORM_BACK: k->rmsnorm_backward(n, x, x, 1e-9f, x, y, z); break;
    case SILU_MUL: k->silu_mul(n, x, x, y); break;
    case SILU_MUL_BACK: k->silu_mul_backward(n, x, x, x, y, z); break;
    case EXP: k->exp(n, x, y); break;
    case SOFTMAX: j->sink = (double)k->softmax(n, 1, y); break;
    case LSE: j->sink = (double)k->logsumexp(n, x); break;
    case ARGMAX: j->sink = k->argmax(n, x); break;
    case ROPE_H: k->rope_halves(n, x, x, false, y); break;
    case ROPE_I: k->rope_interleaved(n, x, x, false, y); break;
    case KL: j->sink = k->kl_row(n, y, 10, x, 10, 1); break;
    case RKL: j->sink = k->reverse_kl_row(n, y, 10, x, 10, 1); break;
    case CE: k->ce_row(n, y, 10, 3, 1); break;
    case TO_BF16: k->f32_to_bf16(n, x, (uint16_t *)(void *)y); break;
    case ROUND_BF16: k->round_bf16(n, x, y); break;
    case KINDS: break;
    }
}

static void run_adamw(void *ctx) {
    job *j = ctx;
    j->k->adamw(&j->adamw);
}

static void time_rows(timing *t) {
    char size[40];
    for (int kind = 0; kind < KINDS; kind++) {
        zb_mark mark = zb_arena_mark(&t->arena);
        int n = rows[kind].n;
        job j = {.k = t->k,
                 .kind = kind,
                 .n = n,
                 .x = floats(t, 2 * n),
                 .y = floats(t, 2 * n),
                 .z = floats(t, 2 * n)};
        double s = best_seconds(run_row, &j) / n;
        snprintf(size, sizeof size, "%d", n);
        report(t, rows[kind].name, size,
               (zb_kernel_timing){.rate = rows[kind].bytes / s, .unit = "B/s", .ns = 1e9 * s});
        zb_arena_pop(&t->arena, mark);
    }
    int n = 1 << 22;
    zb_mark mark = zb_arena_mark(&t->arena);
    job j = {.k = t->k,
             .adamw = {n, floats(t, n), floats(t, n), floats(t, n), floats(t, n), 1, 1e-3f, 0.9f,
                       0.99f, 1e-8f, 0.1f, 1, 1}};
    for (int i = 0; i < n; i++) j.adamw.v[i] = fabsf(j.adamw.v[i]); /* a mean of squares */
    double s = best_seconds(run_adamw, &j) / n;
    snprintf(size, sizeof size, "%d", n);
    report(t, "adamw", size, (zb_kernel_timing){.rate = 28 / s, .unit = "B/s", .ns = 1e9 * s});
    zb_arena_pop(&t->arena, mark);
}

static void time_ceilings(timing *t) {
    job j = {.k = t->k};
    int lanes = 4;
    void (*chains)(void *) = chains_128;
#if defined(__x86_64__)
    if (!strcmp(t->k->name, "avx2")) lanes = 8, chains = chains_256;
    if (!strncmp(t->k->name, "avx512", 6)) lanes = 16, chains = chains_512;
#endif
    t->peak = 2.0 * CHAIN_LENGTH * CHAINS * lanes / best_seconds(chains, &j);
    char size[40];
    snprintf(size, sizeof size, "%d lanes", lanes);
    report(t, "multiply-add", size,
           (zb_kernel_timing){.rate = t->peak, .share = 1, .unit = "flop/s", .ns = 1e9 / t->peak});
    zb_mark mark = zb_arena_mark(&t->arena);
    j.n = READ_FLOATS;
    j.x = ZB_NEW_ARRAY(&t->arena, float, j.n);
    memset(j.x, 0x3c, (size_t)j.n * sizeof(float)); /* pages of its own, not the shared zero page */
    t->read = 4.0 * j.n / best_seconds(read_all, &j);
    zb_arena_pop(&t->arena, mark);
    snprintf(size, sizeof size, "%d MiB", READ_FLOATS >> 18);
    report(t, "read", size,
           (zb_kernel_timing){.rate = t->read, .share = 1, .unit = "B/s", .ns = 1e9 / t->read});
}

void zb_kernels_time(zb_kernel_timing_fn row, void *ctx) {
    timing t = {.k = zb_kernels_get(), .row = row, .ctx = ctx};
    time_ceilings(&t);
    for (int n = 64; n <= 512; n *= 2) time_gemm(&t, 64, n, 64, NONE);
    for (int p = 128; p <= 512; p *= 2) time_gemm(&t, 64, 64, p, NONE);
    time_gemm(&t, 64, 64, 64, A_T);
    time_gemm(&t, 64, 64, 512, A_T);
    time_gemm(&t, 512, 576, 576, NONE);
    time_gemm(&t, 1, 64, 1024, NONE);
    time_gemm(&t, 9, 64, 256, NONE);
    time_gemm(&t, 3, 64, 64, NONE);
    for (int m = 1; m <= 9; m *= 3) time_gemm(&t, m, 64, 64, B_T);
    time_gemm(&t, 9, 64, 160, B_T);
    for (int type = 0; type < GEMV_TYPES; type++) time_gemv(&t, type, 49152, 576);
    time_gemv(&t, 3, 576, 576);
    time_gemv(&t, 5, 576, 576);
    for (int type = 0; type < GEMV8_TYPES; type++) /* 1536: a multiple of both kinds of block */
        for (int n = 1; n <= 16; n *= 4) time_gemv8(&t, type, 32768, 1536, n);
    time_rows(&t);
    zb_arena_free(&t.arena);
}
