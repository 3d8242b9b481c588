/* bench.c - the speed of each kernel beside what the machine can do (`check --bench`).
 *
 * First the ceilings of one core: fused multiply-adds on registers, and the rate of summing a
 * buffer far larger than the caches. Then each kernel of the table in use (ZB_CPU chooses): sizes
 * as attention, scans and decoding of small models have them; time is the best of several runs of
 * about 30 ms, since anything slower was disturbed. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Time of this thread on the processor: what other programs take is not ours. */
static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Best seconds per call of five runs of about 30 ms. Calls are counted in growing batches, since
 * reading the clock takes longer than a small kernel. */
static double best_seconds(void (*fn)(void *), void *ctx) {
    double best = 1e30;
    long batch = 1;
    fn(ctx);
    for (int run = 0; run < 5; run++) {
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

/* What one timed call needs; every bench fills what its kernel reads. */
typedef struct job {
    const zb_kernels *k;
    zb_gemm_args gemm;
    zb_gemv_args gemv;
    void (*gemv_fn)(const zb_gemv_args *);
    zb_adamw_args adamw;
    int n, kind;
    float *x, *y, *z;
    volatile double sink;
} job;

static void *buffer(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) abort();
    memset(p, 0, bytes);
    return p;
}

static float *floats(int64_t n) {
    float *x = buffer((size_t)n * sizeof(float));
    draw_floats(x, n, 1);
    return x;
}

/* Twelve independent chains of multiply-adds, 8 lanes each: more than latency times units. */
#if defined(__x86_64__)
__attribute__((target("avx2,fma")))
#endif
static void
fma_chains(void *ctx) {
    typedef float v8 __attribute__((vector_size(32)));
    job *j = ctx;
    v8 a[12], m = (v8){0} + 0.999f, c = (v8){0} + 0.001f;
    for (int i = 0; i < 12; i++) a[i] = (v8){0} + (float)i;
    for (int r = 0; r < 100000; r++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++) {
#if defined(__x86_64__)
            a[i] = __builtin_ia32_vfmaddps256(a[i], m, c);
#else
            a[i] = a[i] * m + c;
#endif
        }
    }
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += a[i][0];
    j->sink = (double)sum;
}

static void read_all(void *ctx) {
    job *j = ctx;
    j->sink = (double)j->k->dot(j->n, j->x, j->x);
}

static void run_gemm(void *ctx) {
    job *j = ctx;
    j->k->gemm(&j->gemm);
}

static void run_gemv(void *ctx) {
    job *j = ctx;
    j->gemv_fn(&j->gemv);
}

static void bench_gemm(const zb_kernels *k, int m, int n, int p, bool a_t, double peak) {
    job j = {.k = k};
    float *a = floats((int64_t)m * p), *b = floats((int64_t)p * n), *c = floats((int64_t)m * n);
    j.gemm = (zb_gemm_args){m, n, p, a, a_t ? 1 : p, a_t ? m : 1, b, n, c, n, 1, true};
    double rate = 2e-9 * m * n * p / best_seconds(run_gemm, &j);
    printf("  gemm %4d x %4d x %4d%s %8.1f GFLOP/s  %3.0f %% of peak\n", m, n, p,
           a_t ? " A^T" : "    ", rate, 100 * rate / peak);
    free(a);
    free(b);
    free(c);
}

static void bench_gemv(const zb_kernels *k, int type, int rows, int p, double read) {
    static const struct {
        const char *name;
        int block, bytes, halves;
    } types[] = {{"f32", 1, 4, 0},    {"bf16", 1, 2, 0},   {"f16", 1, 2, 1},
                 {"q8_0", 32, 34, 1}, {"q4_0", 32, 18, 1}, {"q4_1", 32, 20, 2}};
    void (*const fn[])(const zb_gemv_args *) = {k->gemv_f32,  k->gemv_bf16, k->gemv_f16,
                                                k->gemv_q8_0, k->gemv_q4_0, k->gemv_q4_1};
    size_t row = (size_t)(p / types[type].block * types[type].bytes), bytes = row * (size_t)rows;
    uint8_t *w = buffer(bytes);
    size_t unit = 1 << 16; /* random bytes for the first rows, then copies: drawing all would take
                              longer than measuring */
    draw_packed(w, (bytes < unit ? bytes : unit) / (size_t)types[type].bytes, types[type].bytes,
                types[type].halves);
    if (type < 2) memset(w, 0x3c, unit < bytes ? unit : bytes);
    unit -= unit % (size_t)types[type].bytes;
    for (size_t at = unit; at < bytes; at += unit)
        memcpy(w + at, w, bytes - at < unit ? bytes - at : unit);
    float *x = floats(p), *y = floats(rows);
    job j = {.k = k, .gemv = {w, row, 0, rows, p, x, y}, .gemv_fn = fn[type]};
    double rate = 1e-9 * (double)bytes / best_seconds(run_gemv, &j);
    printf("  gemv %-5s %6d x %5d %8.1f GB/s  %3.0f %% of read rate\n", types[type].name, rows, p,
           rate, 100 * rate / read);
    free(w);
    free(x);
    free(y);
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

static void bench_rows(const zb_kernels *k) {
    for (int kind = 0; kind < KINDS; kind++) {
        int n = rows[kind].n;
        job j = {.k = k,
                 .kind = kind,
                 .n = n,
                 .x = floats(2 * n),
                 .y = floats(2 * n),
                 .z = floats(2 * n)};
        double t = best_seconds(run_row, &j);
        printf("  %-18s n %6d %8.3f ns each %8.1f GB/s\n", rows[kind].name, n, 1e9 * t / n,
               1e-9 * n * rows[kind].bytes / t);
        free(j.x);
        free(j.y);
        free(j.z);
    }
    int64_t n = 1 << 22;
    job j = {.k = k,
             .adamw = {n, floats(n), floats(n), floats(n), floats(n), 1, 1e-3f, 0.9f, 0.99f, 1e-8f,
                       0.1f, 1, 1}};
    double t = best_seconds(run_adamw, &j);
    printf("  %-18s n %6d %8.3f ns each %8.1f GB/s\n", "adamw", (int)n, 1e9 * t / (double)n,
           28e-9 * (double)n / t);
    free(j.adamw.w);
    free(j.adamw.m);
    free(j.adamw.v);
    free((void *)(uintptr_t)j.adamw.grad);
}

int bench_run(void) {
    const zb_kernels *k = zb_kernels_get();
    job j = {.k = k};
    double peak = 100000.0 * 12 * 8 * 2 * 1e-9 / best_seconds(fma_chains, &j);
    j.n = 32 << 20;
    j.x = floats(1 << 20);
    free(j.x);
    j.x = buffer((size_t)j.n * sizeof(float));
    double read = 4e-9 * j.n / best_seconds(read_all, &j);
    free(j.x);
    printf("kernels %s; one core: %.1f GFLOP/s of multiply-add (8 lanes), %.1f GB/s read\n",
           k->name, peak, read);
    for (int n = 64; n <= 512; n *= 2) bench_gemm(k, 64, n, 64, false, peak);
    for (int p = 128; p <= 512; p *= 2) bench_gemm(k, 64, 64, p, false, peak);
    bench_gemm(k, 64, 64, 64, true, peak);
    bench_gemm(k, 64, 64, 512, true, peak);
    bench_gemm(k, 512, 576, 576, false, peak);
    bench_gemm(k, 1, 64, 1024, false, peak);
    bench_gemm(k, 9, 64, 256, false, peak);
    for (int t = 0; t < 6; t++) bench_gemv(k, t, 49152, 576, read);
    bench_gemv(k, 3, 576, 576, read);
    bench_gemv(k, 5, 576, 576, read);
    bench_rows(k);
    return 0;
}
