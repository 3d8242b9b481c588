/* check.c - every kernel of every instruction set of this processor against its formula in double
 * precision.
 *
 * The scalar reference goes through the same checks as the vector versions, so that agreement
 * with it is agreement with the formula. Sizes cover 0, 1, all tails and the blocks of the long
 * rows; buffers begin or end at a trapping page and have guarded margins on the other side. Special
 * values (infinity, NaN, denormals) must come out exactly as from the reference.
 *
 * Tolerances. One rounding is EPS = 2^-24 relative. A sum of n terms in any order is allowed SUM
 * * sqrt(n) roundings of the sum of magnitudes; an elementwise formula OPS roundings of the
 * magnitudes it adds. exp adds 2e-7 (its contract), and what its argument lost before: one
 * rounding of the largest magnitude that was added there. No other constants are used.
 *
 * `check` exits 1 after printing each failure; `check --bench` times them instead
 * (kernels/timing.h). */
#include "check.h"

#include "base/rng.h"
#include "kernels/timing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SUM 4.0
#define OPS 8.0
#define TINY 0x1p-126 /* below the smallest normal number only absolute accuracy is asked */

enum { SLOT_BYTES = 4 << 20, PAGE = 4096, MARGIN = 256, MARGIN_BYTE = 0xA5 };

static struct { uint8_t *base, *margin; } slots[SLOTS];
static uint64_t rng_at;
static const char *isa, *kernel;
static int failures, checks;

void *guard_take(int slot, size_t bytes) {
    if (bytes + MARGIN > SLOT_BYTES) abort();
    if (!slots[slot].base) {
        uint8_t *p = mmap(NULL, SLOT_BYTES + 2 * PAGE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) abort();
        if (mprotect(p, PAGE, PROT_NONE) || mprotect(p + PAGE + SLOT_BYTES, PAGE, PROT_NONE))
            abort();
        slots[slot].base = p + PAGE;
    }
    bool first = draw_below(2); /* behind the first trapping page, or before the second one */
    uint8_t *p = slots[slot].base + (first ? 0 : SLOT_BYTES - bytes);
    slots[slot].margin = first ? p + bytes : p - MARGIN;
    memset(slots[slot].margin, MARGIN_BYTE, MARGIN);
    return p;
}

bool guard_ok(void) {
    for (int s = 0; s < SLOTS; s++)
        for (int i = 0; slots[s].margin && i < MARGIN; i++)
            if (slots[s].margin[i] != MARGIN_BYTE) return false;
    return true;
}

double draw(void) { return 2 * zb_rng_uniform(1, ZB_RNG_TEST, rng_at++) - 1; }
int draw_below(int n) { return (int)zb_rng_below(1, ZB_RNG_TEST, rng_at++, (uint32_t)n); }

void draw_floats(float *x, int64_t n, double scale) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)(scale * draw());
}

void draw_packed(uint8_t *w, size_t blocks, int block_bytes, int halves) {
    for (size_t b = 0; b < blocks; b++, w += block_bytes) {
        for (int i = 0; i < block_bytes; i++) w[i] = (uint8_t)draw_below(256);
        for (int h = 0; h < halves; h++)
            w[2 * h + 1] = (uint8_t)((w[2 * h + 1] & 0x83) | 0x20); /* about ±0.01 */
    }
}

float *take(int slot, int64_t n) { return guard_take(slot, (size_t)n * sizeof(float)); }

float *take_random(int slot, int64_t n, double scale) {
    float *x = take(slot, n);
    draw_floats(x, n, scale);
    return x;
}

float *copy_of(const float *x, int64_t n) {
    if (n < 0) abort();
    float *y = calloc((size_t)n + 1, sizeof(float));
    if (!y) abort();
    if (n) memcpy(y, x, (size_t)n * sizeof(float));
    return y;
}

static void fail(int n, int64_t at, double got, double want, double tolerance) {
    if (failures++ < 40)
        printf("FAIL %s %s size %d at %lld: got %.9g, want %.9g, tolerance %.3g\n", isa, kernel, n,
               (long long)at, got, want, tolerance);
}

void name_kernel(const char *name) { kernel = name; }

void near(int n, int64_t at, double got, double want, double tolerance) {
    checks++;
    bool same = (isnan(got) && isnan(want)) || got == want;
    if (!same && !(isfinite(want) && fabs(got - want) <= tolerance))
        fail(n, at, got, want, tolerance);
}

void guards(int n) {
    checks++;
    if (!guard_ok()) fail(n, -1, nan(""), 0, 0);
}

double sum_tolerance(int64_t n, double magnitude) {
    return SUM * sqrt((double)(n + 1)) * EPS * magnitude + TINY;
}
static double op_tolerance(double magnitude) { return OPS * EPS * magnitude + TINY; }
/* Relative error of exp(x) where x came from adding numbers of that magnitude. */
static double exp_relative(double magnitude) { return 2e-7 + OPS * EPS * (1 + magnitude); }

const int row_sizes[N_SIZES] = {0,  1,   2,   3,   4,   5,   7,   8,   9,   12,   15,
                                16, 17,  23,  31,  32,  33,  47,  48,  63,  64,   65,
                                96, 100, 127, 128, 129, 255, 256, 257, 576, 1000, 4099};

static void check_dot(const zb_kernels *k) {
    for (int s = 0; s < N_SIZES; s++) {
        int n = row_sizes[s];
        float *x = take_random(0, n, 1), *y = take_random(1, n, 1);
        double want = 0, size = 0, squares = 0;
        for (int i = 0; i < n; i++) {
            want += (double)x[i] * (double)y[i];
            size += fabs((double)x[i] * (double)y[i]);
            squares += (double)x[i] * (double)x[i];
        }
        near(n, 0, (double)k->dot(n, x, y), want, sum_tolerance(n, size));
        near(n, 1, k->sum_squares(n, x), squares, squares * n * 0x1p-53);
    }
    float big[3] = {3e19f, 4e19f, 1e-30f}; /* their squares leave the range of f32 */
    near(3, 2, k->sum_squares(3, big), 2.5e39, 2.5e39 * 1e-6);
}

static void check_axpy(const zb_kernels *k) {
    for (int s = 0; s < N_SIZES; s++) {
        int n = row_sizes[s];
        float *x = take_random(0, n, 1), *y = take_random(1, n, 1), *z = take_random(2, n, 1),
              a = (float)draw();
        float *y0 = copy_of(y, n), *z0 = copy_of(z, n);
        k->axpy(n, a, x, y);
        k->scale(n, a, z);
        for (int i = 0; i < n; i++) {
            double ax = (double)a * (double)x[i];
            near(n, i, (double)y[i], ax + (double)y0[i],
                 op_tolerance(fabs(ax) + fabs((double)y0[i])));
            near(n, i, (double)z[i], (double)(a * z0[i]), 0);
        }
        k->add(n, x, z);
        for (int i = 0; i < n; i++)
            near(n, i, (double)z[i], (double)(a * z0[i] + x[i]), op_tolerance(2));
        guards(n);
        free(y0);
        free(z0);
    }
}

static void check_rmsnorm_one(const zb_kernels *k, int n, bool weighted) {
    float *x = take_random(0, n, 3), *w = take_random(1, n, 1), *y = take(2, n), eps = 1e-5f;
    double squares = 0;
    for (int i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    double r = 1 / sqrt(squares / (n ? n : 1) + (double)eps),
           rel = OPS * EPS + SUM * EPS * sqrt(n + 1.0);
    near(n, -1, (double)k->rmsnorm(n, x, weighted ? w : NULL, eps, y), r, r * rel);
    for (int i = 0; i < n; i++) {
        double want = (double)x[i] * r * (weighted ? (double)w[i] : 1);
        near(n, i, (double)y[i], want, fabs(want) * rel + TINY);
    }
    float *dy = take_random(3, n, 1), *dx = take_random(4, n, 1), *dw = take_random(5, n, 1);
    float *dx0 = copy_of(dx, n), *dw0 = copy_of(dw, n);
    k->rmsnorm_backward(n, x, weighted ? w : NULL, (float)r, dy, dx, weighted ? dw : NULL);
    double gx = 0, size = 0;
    for (int i = 0; i < n; i++) {
        double v = (double)dy[i] * (weighted ? (double)w[i] : 1) * (double)x[i];
        gx += v;
        size += fabs(v);
    }
    r = (double)(float)r;
    for (int i = 0; i < n; i++) {
        double direct = r * (double)dy[i] * (weighted ? (double)w[i] : 1),
               back = r * r * r / n * (double)x[i];
        double dw_i = weighted ? (double)dy[i] * (double)x[i] * r : 0;
        near(n, i, (double)dx[i], (double)dx0[i] + direct - back * gx,
             op_tolerance(fabs((double)dx0[i]) + fabs(direct) + fabs(back * gx)) +
                 sum_tolerance(n, fabs(back) * size));
        near(n, i, (double)dw[i], (double)dw0[i] + dw_i,
             op_tolerance(fabs((double)dw0[i]) + fabs(dw_i)));
    }
    guards(n);
    free(dx0);
    free(dw0);
}

static void check_rmsnorm(const zb_kernels *k) {
    for (int s = 0; s < N_SIZES; s++) {
        check_rmsnorm_one(k, row_sizes[s], true);
        check_rmsnorm_one(k, row_sizes[s], false);
    }
}

static void check_silu(const zb_kernels *k) {
    for (int s = 0; s < N_SIZES; s++) {
        int n = row_sizes[s];
        float *x = take_random(0, n, s % 3 ? 6 : 120), *u = take_random(1, n, 2),
              *d = take_random(2, n, 1);
        float *y = take(3, n), *dx = take(4, n), *z = take(5, n), *dg = take(6, n),
              *du = take(7, n);
        k->silu(n, x, y);
        k->silu_backward(n, x, d, dx);
        k->silu_mul(n, x, u, z);
        k->silu_mul_backward(n, x, u, d, dg, du);
        for (int i = 0; i < n; i++) {
            double v = (double)x[i], p = 1 / (1 + exp(-v)), f = v * p, rel = exp_relative(0);
            double slope = p * (1 + v * (1 - p)), slope_size = p * (1 + fabs(v) * (1 - p)),
                   di = (double)d[i], ui = (double)u[i];
            double floor = 150 * TINY; /* where exp(-x) leaves the range */
            near(n, i, (double)y[i], f, fabs(f) * rel + floor);
            near(n, i, (double)z[i], f * ui, fabs(f * ui) * rel + floor);
            near(n, i, (double)dx[i], di * slope, fabs(di) * (slope_size * 4 * rel + floor));
            near(n, i, (double)dg[i], di * ui * slope,
                 fabs(di * ui) * (slope_size * 4 * rel + floor));
            near(n, i, (double)du[i], di * f, fabs(di * f) * rel + floor);
        }
        guards(n);
    }
}

/* All of the range in equal steps, which also meets every tail; then the ends and what lies
 * beyond them. */
static void check_exp(const zb_kernels *k) {
    enum { N = 100000 };
    float *x = take(0, N), *y = take(1, N);
    for (int round = 0; round < 12; round++) {
        int n = N - round;
        for (int i = 0; i < n; i++) x[i] = (float)(-87.3 + 176.0 * (i + draw()) / N);
        k->exp(n, x, y);
        for (int i = 0; i < n; i++) {
            double want = x[i] < -87.3f ? 0 : x[i] > 88.7f ? HUGE_VAL : exp((double)x[i]);
            near(n, i, (double)y[i], want, 2e-7 * want);
        }
    }
    static const float special[] = {
        0,     -0.0f,   1e-45f,   -1e-45f, 1e-30f,    INFINITY,   -INFINITY, NAN,
        88.7f, 88.8f,   1e30f,    -87.3f,  -87.4f,    -1e30f,     -103.9f,   128,
        -128,  3.4e38f, -3.4e38f, 1.0f,    88.72284f, -87.33655f, 88.70001f, -87.30001f};
    enum { N_SPECIAL = sizeof special / sizeof *special };
    float *in = take(2, N_SPECIAL), *out = take(3, N_SPECIAL), *want = take(4, N_SPECIAL);
    memcpy(in, special, sizeof special);
    k->exp(N_SPECIAL, in, out);
    zb_kernels_find("ref")->exp(N_SPECIAL, in, want);
    for (int i = 0; i < N_SPECIAL; i++)
        near(N_SPECIAL, i, (double)out[i], (double)want[i], 4e-7 * fabs((double)want[i]));
    guards(N_SPECIAL);
}

/* Rows with the given share (of 8) of -inf; all of them where it is 8. */
static void mask_row(float *x, int n, int share) {
    for (int i = 0; i < n; i++)
        if (draw_below(8) < share) x[i] = -INFINITY;
}

static void check_softmax_one(const zb_kernels *k, int n, double range, float s, int masked) {
    float *x = take_random(0, n, range), *x1 = take(1, n);
    mask_row(x, n, masked);
    if (n) memcpy(x1, x, (size_t)n * sizeof(float));
    double max = -HUGE_VAL, max1 = -HUGE_VAL, sum = 0, sum1 = 0, size = 0;
    for (int i = 0; i < n; i++) {
        max = fmax(max, (double)x[i] * (double)s);
        max1 = fmax(max1, (double)x[i]);
        if (isfinite(x[i])) size = fmax(size, fabs((double)x[i]) * fmax(1, (double)s));
    }
    for (int i = 0; i < n; i++) {
        if (x[i] == -INFINITY) continue;
        sum += exp((double)x[i] * (double)s - max);
        sum1 += exp((double)x[i] - max1);
    }
    float *before = copy_of(x, n), lse = k->softmax(n, s, x), lse1 = k->logsumexp(n, x1);
    double rel = exp_relative(2 * size) + SUM * EPS * sqrt(n + 1.0);
    near(n, -1, (double)lse, sum > 0 ? max + log(sum) : -HUGE_VAL,
         rel + op_tolerance(size + log(n + 1.0)));
    near(n, -2, (double)lse1, sum1 > 0 ? max1 + log(sum1) : -HUGE_VAL,
         rel + op_tolerance(size + log(n + 1.0)));
    for (int i = 0; i < n; i++) {
        double want = before[i] == -INFINITY ? 0 : exp((double)before[i] * (double)s - max) / sum;
        near(n, i, (double)x[i], want, want * rel + TINY);
    }
    guards(n);
    free(before);
}

static void check_softmax(const zb_kernels *k) {
    for (int s = 1; s < N_SIZES; s++) {
        check_softmax_one(k, row_sizes[s], 4, 1, 0);
        check_softmax_one(k, row_sizes[s], 30, 0.125f, 3);
        check_softmax_one(k, row_sizes[s], 1e4, 1, 1);
        check_softmax_one(k, row_sizes[s], 1e4, 0.5f, 0);
        check_softmax_one(k, row_sizes[s], 1, 1, 8);
    }
    check_softmax_one(k, 130000, 6, 1, 0);
    check_softmax_one(k, 128257, 0, 1, 0);
    float *x = take_random(0, 40, 1); /* NaN is not hidden */
    x[33] = NAN;
    near(40, -3, (double)k->logsumexp(40, x), nan(""), 0);
    near(40, -4, (double)k->softmax(40, 1, x), nan(""), 0);
    near(40, 7, (double)x[7], nan(""), 0);
}

static void check_argmax(const zb_kernels *k) {
    for (int round = 0; round < 8; round++)
        for (int s = 1; s < N_SIZES; s++) {
            int n = row_sizes[s], want = -1;
            float *x = take(0, n);
            for (int i = 0; i < n; i++) x[i] = (float)draw_below(n / 2 + 1); /* many ties */
            for (int i = 0; i < n; i++)
                if (draw_below(8) < round) x[i] = round % 2 ? NAN : -INFINITY;
            if (round == 7)
                for (int i = 0; i < n; i++) x[i] = NAN;
            for (int i = 0; i < n; i++)
                if (!isnan(x[i]) && (want < 0 || x[i] > x[want])) want = i;
            near(n, round, k->argmax(n, x), want < 0 ? 0 : want, 0);
        }
}

static void check_rope(const zb_kernels *k) {
    for (int s = 0; s < 28; s++)
        for (int kind = 0; kind < 4; kind++) {
            int half = row_sizes[s];
            bool halves = kind & 1, inverse = kind & 2;
            float *c = take(0, half), *sn = take(1, half), *x = take_random(2, 2 * half, 3),
                  *x0 = copy_of(x, 2 * half);
            for (int i = 0; i < half; i++) {
                double angle = 3 * draw();
                c[i] = (float)cos(angle);
                sn[i] = (float)sin(angle);
            }
            (halves ? k->rope_halves : k->rope_interleaved)(half, c, sn, inverse, x);
            for (int i = 0; i < half; i++) {
                int ia = halves ? i : 2 * i, ib = halves ? i + half : 2 * i + 1;
                double a = (double)x0[ia], b = (double)x0[ib],
                       si = inverse ? -(double)sn[i] : (double)sn[i];
                near(half, ia, (double)x[ia], a * (double)c[i] - b * si,
                     op_tolerance(fabs(a) + fabs(b)));
                near(half, ib, (double)x[ib], b * (double)c[i] + a * si,
                     op_tolerance(fabs(a) + fabs(b)));
            }
            guards(half);
            free(x0);
        }
}

/* Log-sum-exp in double, then as f32, as a caller has it. */
static float lse_of(int n, const float *x) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += exp((double)x[i]);
    return (float)log(sum);
}

static void check_losses_one(const zb_kernels *k, int n, int masked) {
    float *t = take_random(0, n, 8), *s = take_random(1, n, 8), *s2 = take(2, n), *s3 = take(3, n),
          scale = 0.37f;
    mask_row(t, n, masked);
    float *s0 = copy_of(s, n), lt = lse_of(n, t), ls = lse_of(n, s);
    memcpy(s2, s, (size_t)n * sizeof(float));
    memcpy(s3, s, (size_t)n * sizeof(float));
    int label = draw_below(n);
    double kl = 0, kl_size = 0, rkl = 0, rkl_size = 0, rel = exp_relative(40);
    for (int i = 0; i < n; i++) {
        double a = (double)t[i] - (double)lt, b = (double)s0[i] - (double)ls, pt = exp(a),
               ps = exp(b);
        kl += pt > 0 ? pt * (a - b) : 0;
        kl_size += pt > 0 ? pt * (fabs(a - b) + 40) : 0;
        rkl += ps * (b - a);
        rkl_size += ps * (fabs(b - a) + 40);
    }
    near(n, -1, k->kl_row(n, s, ls, t, lt, scale), kl, kl_size * rel + sum_tolerance(n, kl_size));
    near(n, -2, k->reverse_kl_row(n, s2, ls, t, lt, scale), rkl,
         rkl_size * rel + sum_tolerance(n, rkl_size));
    k->ce_row(n, s3, ls, label, scale);
    double value_error = isfinite(rkl) ? rkl_size * rel + sum_tolerance(n, rkl_size) : 0;
    for (int i = 0; i < n; i++) {
        double a = (double)t[i] - (double)lt, b = (double)s0[i] - (double)ls, pt = exp(a),
               ps = exp(b), f = (double)scale;
        near(n, i, (double)s[i], f * (ps - pt), f * (ps + pt) * rel + TINY);
        near(n, i, (double)s2[i], f * ps * (b - a - rkl),
             f * ps * ((fabs(b - a) + fabs(rkl) + 40) * rel + value_error));
        near(n, i, (double)s3[i], f * (ps - (i == label)), f * ((ps + (i == label)) * rel) + TINY);
    }
    guards(n);
    free(s0);
}

static void check_losses(const zb_kernels *k) {
    for (int s = 1; s < N_SIZES; s++) {
        check_losses_one(k, row_sizes[s], 0);
        check_losses_one(k, row_sizes[s], 2);
    }
    check_losses_one(k, 130001, 0);
}

/* The state after T tokens and every y, in double, with the sum of magnitudes of each. */
static void check_scan_one(const zb_kernels *k, int T, int n, int p) {
    int row = n + draw_below(3), row_x = p + draw_below(3), row_y = p + draw_below(3);
    float *keep = take(0, T), *delta = take(1, T), *B = take_random(2, T * row, 1),
          *C = take_random(3, T * row, 1), *x = take_random(4, T * row_x, 1),
          *S = take_random(5, n * p, 1), *y = take_random(6, T * row_y, 1);
    for (int t = 0; t < T; t++) keep[t] = (float)(0.5 + 0.5 * draw()), delta[t] = (float)draw();
    float *S0 = copy_of(S, n * p), *y0 = copy_of(y, T * row_y), D = (float)draw();
    zb_scan_args g = {.T = T, .n = n, .p = p, .keep = keep, .delta = delta, .B = B, .C = C, .x = x};
    g.row = row, g.row_x = row_x, g.row_y = row_y, g.D = D, g.state = S, g.y = y;
    k->scan(&g);
    for (int j = 0; j < p; j++) {
        double out[ZB_SCAN_TOKENS] = {0}, size[ZB_SCAN_TOKENS] = {0};
        for (int i = 0; i < n; i++) {
            double s = (double)S0[i * p + j], m = fabs(s);
            for (int t = 0; t < T; t++) {
                double in = (double)B[t * row + i] * (double)delta[t] * (double)x[t * row_x + j];
                s = (double)keep[t] * s + in;
                m = (double)keep[t] * m + fabs(in);
                out[t] += (double)C[t * row + i] * s;
                size[t] += fabs((double)C[t * row + i]) * m;
            }
            near(n, i * p + j, (double)S[i * p + j], s, sum_tolerance(T, m) + op_tolerance(m));
        }
        for (int t = 0; t < T; t++) {
            double skip = (double)D * (double)x[t * row_x + j];
            near(p, t * p + j, (double)y[t * row_y + j], out[t] + skip,
                 sum_tolerance(n + T, size[t]) + op_tolerance(fabs(skip) + size[t]));
        }
    }
    for (int t = 0; t < T; t++) /* what stands between the rows of y is not ours */
        for (int j = p; j < row_y; j++)
            near(p, t, (double)y[t * row_y + j], (double)y0[t * row_y + j], 0);
    guards(n);
    free(S0);
    free(y0);
}

static void check_scan(const zb_kernels *k) {
    static const int tokens[] = {1, 2, 3, 31, 32};
    for (int t = 0; t < 5; t++) {
        check_scan_one(k, tokens[t], 64, 64);
        check_scan_one(k, tokens[t], 128, 128);
        for (int round = 0; round < 12; round++)
            check_scan_one(k, tokens[t], 1 + draw_below(40), 1 + draw_below(70));
    }
}

static void check_adamw(const zb_kernels *k) {
    for (int s = 0; s < N_SIZES; s++) {
        int n = row_sizes[s], step = 1 + s;
        float *w = take_random(0, n, 1), *m = take_random(1, n, 0.01), *v = take(2, n),
              *g = take_random(3, n, 0.1);
        for (int i = 0; i < n; i++) v[i] = (float)(1e-4 * fabs(draw()));
        if (n) g[0] = v[0] = m[0] = 0;
        float *w0 = copy_of(w, n), *m0 = copy_of(m, n), *v0 = copy_of(v, n);
        zb_adamw_args a = {n, w, m, v, g, 0.7f, 1e-3f, 0.9f, 0.999f, 1e-8f, 0.1f, 0, 0};
        a.bias1 = (float)(1 - pow(0.9, step));
        a.bias2 = (float)(1 - pow(0.999, step));
        k->adamw(&a);
        for (int i = 0; i < n; i++) {
            double gi = (double)g[i] * (double)a.grad_scale, b1 = (double)a.beta1,
                   b2 = (double)a.beta2;
            double mi = b1 * (double)m0[i] + (1 - b1) * gi,
                   vi = b2 * (double)v0[i] + (1 - b2) * gi * gi;
            double keep = (double)w0[i] * (1 - (double)a.lr * (double)a.decay);
            double root = sqrt(vi / (double)a.bias2) + (double)a.eps,
                   by = (double)a.lr / (double)a.bias1 / root;
            /* (1 - beta) loses digits of beta: one rounding of 1 seen at the size of 1 - beta */
            double m_size = b1 * fabs((double)m0[i]) + fabs(gi),
                   v_size = b2 * (double)v0[i] + gi * gi;
            near(n, i, (double)m[i], mi, op_tolerance(m_size));
            near(n, i, (double)v[i], vi, op_tolerance(v_size));
            double v_part = vi > 0 ? fabs(mi) * by * v_size / vi : 0;
            near(n, i, (double)w[i], keep - by * mi,
                 op_tolerance(fabs((double)w0[i]) + by * m_size + v_part));
        }
        guards(n);
        free(w0);
        free(m0);
        free(v0);
    }
}

/* The nearer of the two bf16 neighbours; of equally near ones the even. Beyond the largest the
 * next would be 2^128. */
static float nearest_bf16(float f) {
    uint32_t u, below, above;
    memcpy(&u, &f, 4);
    if (isinf(f)) return f;
    below = u & 0xffff0000u;
    above = below + 0x10000u;
    float lo, hi;
    memcpy(&lo, &below, 4);
    memcpy(&hi, &above, 4);
    double high = isinf(hi) ? copysign(0x1p128, (double)hi) : (double)hi,
           to_lo = fabs((double)f - (double)lo), to_hi = fabs(high - (double)f);
    return to_lo < to_hi || (to_lo == to_hi && !(below >> 16 & 1)) ? lo : hi;
}

static void check_bf16(const zb_kernels *k) {
    for (int s = 0; s < N_SIZES; s++) {
        int n = row_sizes[s];
        float *x = take(0, n), *y = take(1, n), *z = take(3, n);
        uint16_t *h = guard_take(2, (size_t)n * 2);
        for (int i = 0; i < n; i++) { /* any bits, every fourth on a tie */
            uint32_t u = (uint32_t)draw_below(1 << 16) << 16 |
                         (i % 4 ? (uint32_t)draw_below(1 << 16) : 0x8000u);
            memcpy(&x[i], &u, 4);
        }
        k->round_bf16(n, x, y);
        k->f32_to_bf16(n, x, h);
        k->bf16_to_f32(n, h, z);
        for (int i = 0; i < n; i++) {
            double want = isnan(x[i]) ? nan("") : (double)nearest_bf16(x[i]);
            near(n, i, (double)y[i], want, 0);
            near(n, i, (double)z[i], want, 0);
            near(n, i, signbit(y[i]) != 0, signbit(x[i]) != 0, 0);
        }
        guards(n);
    }
}

static const struct {
    const char *name;
    void (*fn)(const zb_kernels *k);
} tests[] = {
    {"gemm", check_gemm},
    {"dot, sum_squares", check_dot},
    {"axpy, scale, add", check_axpy},
    {"rmsnorm", check_rmsnorm},
    {"silu", check_silu},
    {"exp", check_exp},
    {"softmax, logsumexp", check_softmax},
    {"argmax", check_argmax},
    {"rope", check_rope},
    {"losses", check_losses},
    {"adamw", check_adamw},
    {"scan", check_scan},
    {"gemv", check_gemv},
    {"halves", check_halves},
    {"quantize_q8", check_quantize_q8},
    {"igemm", check_igemm},
    {"tile", check_tile},
    {"gemv8", check_gemv8},
    {"bf16", check_bf16},
    {"gemm_bt", check_gemm_bt},
    {"softmax_step", check_softmax_step},
    {"f16", check_f16},
    {"q8_0", check_q8_0},
    {"attend_scores, attend_values", check_cells},
};

static void print_timing(void *ctx, const zb_kernel_timing *t) {
    (void)ctx;
    printf("%-18s %-20s %8.1f G%-6s", t->kernel, t->size, 1e-9 * t->rate, t->unit);
    printf(t->share > 0 ? " %4.0f %%\n" : "\n", 100 * t->share);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        zb_kernels_time(print_timing, NULL);
        return 0;
    }
    static const char *const isas[] = {"ref", "avx2", "avx512", "neon"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        const zb_kernels *k = zb_kernels_find(isas[i]);
        if (!k) {
            printf("%s: not on this processor\n", isas[i]);
            continue;
        }
        isa = isas[i];
        int checks0 = checks, failures0 = failures;
        for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
            kernel = tests[t].name;
            rng_at = (uint64_t)t << 32; /* the same numbers for every instruction set */
            tests[t].fn(k);
        }
        printf("%s: %d comparisons, %d failures\n", isa, checks - checks0, failures - failures0);
    }
    return failures ? 1 : 0;
}
