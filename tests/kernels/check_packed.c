/* check_packed.c - products of weights as they are stored with few tokens, and the rounding of
 * tokens to 8 bits, against their formulas in double precision (rules and tolerances of check.c).
 */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double half_value(uint16_t h) {
    int e = h >> 10 & 31, f = h & 1023;
    double v = e == 31 ? (f ? nan("") : HUGE_VAL) : e ? ldexp(1024 + f, e - 25) : ldexp(f, -24);
    return h & 0x8000 ? -v : v;
}

typedef enum packing { PLAIN_F32, PLAIN_BF16, PLAIN_F16, Q8_0, Q4_0, Q4_1, PACKINGS } packing;
static const struct {
    int block, bytes, halves;
} packings[PACKINGS] = {{1, 4, 0}, {1, 2, 0}, {1, 2, 1}, {32, 34, 1}, {32, 18, 1}, {32, 20, 2}};

static uint16_t u16_at(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

/* Weight p of a row, and in *size the magnitude that may be rounded on the way to it (d·8 and m
 * are added separately). */
static double weight(packing t, const uint8_t *row, int p, double *size) {
    const uint8_t *b = row + (size_t)(p / packings[t].block) * (size_t)packings[t].bytes;
    int i = p % 32, nibble = 0;
    float f;
    double d = half_value(u16_at(b)), m = 0, v = 0;
    if (t == Q4_0 || t == Q4_1) {
        const uint8_t *q = b + (t == Q4_0 ? 2 : 4);
        nibble = i < 16 ? q[i] & 15 : q[i - 16] >> 4;
        m = t == Q4_0 ? -8 * d : half_value(u16_at(b + 2));
    }
    switch (t) {
    case PLAIN_F32:
        memcpy(&f, b, 4);
        v = (double)f;
        break;
    case PLAIN_BF16: {
        uint32_t u = (uint32_t)u16_at(b) << 16;
        memcpy(&f, &u, 4);
        v = (double)f;
        break;
    }
    case PLAIN_F16: v = d; break;
    case Q8_0: v = d * (int8_t)b[2 + i]; break;
    default: v = d * nibble; break;
    }
    *size = fabs(v) + fabs(m);
    return v + m;
}

static void gemv_call(const zb_kernels *k, packing t, const zb_gemv_args *g) {
    void (*const fn[PACKINGS])(const zb_gemv_args *) = {k->gemv_f32,  k->gemv_bf16, k->gemv_f16,
                                                        k->gemv_q8_0, k->gemv_q4_0, k->gemv_q4_1};
    fn[t](g);
}

static void check_gemv_one(const zb_kernels *k, packing t, int rows, int p) {
    static const char *const names[PACKINGS] = {"gemv_f32",  "gemv_bf16", "gemv_f16",
                                                "gemv_q8_0", "gemv_q4_0", "gemv_q4_1"};
    name_kernel(names[t]);
    int first = draw_below(rows + 1), last = first + draw_below(rows + 1 - first);
    size_t blocks = (size_t)(p / packings[t].block), used = blocks * (size_t)packings[t].bytes,
           stride = used;
    if (rows > 1 && t >= Q8_0)
        stride += (size_t)draw_below(5); /* odd distances: no alignment is promised */
    uint8_t *w = guard_take(0, rows ? stride * (size_t)(rows - 1) + used : 0);
    for (int j = 0; j < rows; j++) {
        uint8_t *row = w + stride * (size_t)j;
        if (t == PLAIN_F32) {
            for (int i = 0; i < p; i++) memcpy(row + 4 * i, &(float){(float)draw()}, 4);
        } else if (t == PLAIN_BF16) {
            for (int i = 0; i < p; i++)
                memcpy(row + 2 * i, &(uint16_t){(uint16_t)(0x3f00 + draw_below(256))}, 2);
        } else {
            draw_packed(row, blocks, packings[t].bytes, packings[t].halves);
        }
    }
    float *x = take_random(1, p, 1), *y = take_random(2, rows, 1), *y0 = copy_of(y, rows);
    zb_gemv_args g = {w, stride, first, last, p, x, y};
    gemv_call(k, t, &g);
    for (int j = 0; j < rows; j++) {
        double want = 0, size = 0, part;
        for (int i = 0; i < p; i++) {
            want += weight(t, w + stride * (size_t)j, i, &part) * (double)x[i];
            size += part * fabs((double)x[i]);
        }
        bool inside = j >= first && j < last;
        near(rows * 10000 + p, j, (double)y[j], inside ? want : (double)y0[j],
             inside ? sum_tolerance(p, size) : 0);
    }
    guards(rows);
    free(y0);
}

void check_gemv(const zb_kernels *k) {
    for (packing t = 0; t < PACKINGS; t++)
        for (int r = 0; r < 60; r++) {
            int p =
                packings[t].block == 1 ? row_sizes[draw_below(N_SIZES - 1)] : 32 * draw_below(20);
            check_gemv_one(k, t, draw_below(14), p);
        }
}

/* Weight p of a row of super-blocks, from the bits as the format describes them, element by
 * element; *size as above. */
static double weight_k(int type, const uint8_t *row, int p, double *size) {
    const uint8_t *b = row + (size_t)(p / 256) * (type == 4 ? 144u : type == 5 ? 176u : 210u);
    int e = p % 256, k = e / 32, l = e % 32;
    if (type == 6) {
        int half = e / 128, quarter = e % 128 / 32;
        int low = b[64 * half + 32 * (quarter % 2) + l] >> (quarter / 2 ? 4 : 0) & 15;
        int high = b[128 + 32 * half + l] >> 2 * quarter & 3;
        double v = half_value(u16_at(b + 208)) * (int8_t)b[192 + e / 16] * (low + 16 * high - 32);
        *size = fabs(v);
        return v;
    }
    const uint8_t *s = b + 4, *q = b + (type == 4 ? 16 : 48);
    int scale = k < 4 ? s[k] & 63 : (s[k + 4] & 15) + (s[k - 4] >> 6) * 16;
    int least = k < 4 ? s[k + 4] & 63 : (s[k + 4] >> 4) + (s[k] >> 6) * 16;
    int code = k % 2 ? q[32 * (k / 2) + l] >> 4 : q[32 * (k / 2) + l] & 15;
    if (type == 5) code += (b[16 + l] >> k & 1) * 16;
    double v = half_value(u16_at(b)) * scale * code, m = half_value(u16_at(b + 2)) * least;
    *size = fabs(v) + fabs(m);
    return v - m;
}

static const struct gemv8_type {
    const char *name;
    int packing, super, block, bytes, halves; /* of weight() or of weight_k() */
} gemv8_types[] = {{"gemv8_q8_0", Q8_0, 0, 32, 34, 1}, {"gemv8_q4_0", Q4_0, 0, 32, 18, 1},
                   {"gemv8_q4_1", Q4_1, 0, 32, 20, 2}, {"gemv8_q4_k", 0, 4, 256, 144, 2},
                   {"gemv8_q5_k", 0, 5, 256, 176, 2},  {"gemv8_q6_k", 0, 6, 256, 210, 0}};

/* Σ w·d·q in double; the rounding allowed is that of a sum over the blocks' parts (integers are
 * exact), each of which adds a product with the scales and one with the sum of the activations. */
static void check_gemv8_one(const zb_kernels *k, const struct gemv8_type *t, int rows, int p,
                            int n) {
    name_kernel(t->name);
    void (*const fn[])(const zb_gemv8_args *) = {k->gemv8_q8_0, k->gemv8_q4_0, k->gemv8_q4_1,
                                                 k->gemv8_q4_k, k->gemv8_q5_k, k->gemv8_q6_k};
    int first = draw_below(rows + 1), last = first + draw_below(rows + 1 - first);
    size_t blocks = (size_t)(p / t->block), used = blocks * (size_t)t->bytes;
    size_t stride = used + (rows > 1 ? (size_t)draw_below(5) : 0);
    uint8_t *w = guard_take(0, rows ? stride * (size_t)(rows - 1) + used : 0);
    for (int j = 0; j < rows; j++) {
        draw_packed(w + stride * (size_t)j, blocks, t->bytes, t->halves);
        for (size_t b = 0; t->super == 6 && b < blocks; b++)
            draw_packed(w + stride * (size_t)j + b * 210 + 208, 1, 2, 1);
        if (rows && !draw_below(4)) /* the extremes of every code */
            for (size_t i = 0; i < used; i++)
                if ((int)(i % (size_t)t->bytes) >= 2 * t->halves &&
                    (t->super != 6 || i % 210 < 208))
                    w[stride * (size_t)j + i] = draw_below(2) ? 0x80 : 0xff;
    }
    int y_row = rows + draw_below(4), scales = p / 32;
    float *x = take_random(1, (int64_t)n * p, 1), *y = take_random(5, (int64_t)n * y_row, 1);
    for (int i = 0; i < n * p; i++)
        if (!draw_below(3)) x[i] = draw_below(2) ? 1 : -1; /* many at ±127 */
    int8_t *q = guard_take(2, (size_t)(n * p));
    float *d = take(3, (int64_t)n * scales), *sum = take(4, (int64_t)n * scales);
    const zb_kernels *ref = zb_kernels_find("ref");
    for (int i = 0; i < n; i++)
        ref->quantize_q8(p, x + i * p, q + i * p, d + i * scales, sum + i * scales);
    float *y0 = copy_of(y, (int64_t)n * y_row);
    zb_gemv8_args g = {w, stride, first, last, p, n, q, d, sum, y, y_row};
    fn[t - gemv8_types](&g);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < y_row; j++) {
            double want = 0, size = 0, part;
            bool inside = j >= first && j < last;
            const uint8_t *row = w + stride * (size_t)j;
            for (int c = 0; inside && c < p; c++) {
                double v = (double)d[i * scales + c / 32] * q[i * p + c];
                want += v * (t->super ? weight_k(t->super, row, c, &part)
                                      : weight((packing)t->packing, row, c, &part));
                size += part * fabs(v);
            }
            near(rows * 10000 + p, i * 1000 + j, (double)y[i * y_row + j],
                 inside ? want : (double)y0[i * y_row + j], inside ? sum_tolerance(p, size) : 0);
        }
    guards(rows);
    free(y0);
}

void check_gemv8(const zb_kernels *k) {
    for (size_t t = 0; t < sizeof gemv8_types / sizeof *gemv8_types; t++)
        for (int r = 0; r < 60; r++) {
            int block = gemv8_types[t].block, p = block * draw_below(block == 32 ? 20 : 5);
            check_gemv8_one(k, &gemv8_types[t], draw_below(14), p, draw_below(11));
        }
}

/* Exact: the scale from the largest magnitude, the nearest integers of the f32 products, their
 * sum. Blocks of ordinary numbers, of zeros, of numbers too small for a scale, with exact ties
 * (largest 127, so d = 1, and halves), with an infinity, with a NaN. */
void check_quantize_q8(const zb_kernels *k) {
    for (int blocks = 0; blocks < 40; blocks++) {
        int n = 32 * blocks;
        float *x = take_random(0, n, 3), *d = take(2, blocks), *sum = take(3, blocks);
        int8_t *q = guard_take(1, (size_t)n);
        for (int b = 0; b < blocks; b++) {
            float *at = x + 32 * b;
            int kind = draw_below(10);
            for (int i = 0; i < 32 && kind < 3; i++)
                at[i] *= kind == 0 ? 0 : kind == 1 ? 1e-40f : (float)exp(30 * draw());
            for (int i = 0; i < 32 && kind == 3; i++) at[i] = (float)draw_below(254) - 126.5f;
            if (kind == 3) at[draw_below(32)] = -127;
            if (kind == 4) at[draw_below(32)] = draw_below(2) ? INFINITY : -INFINITY;
            if (kind == 5) at[draw_below(32)] = NAN;
        }
        k->quantize_q8(n, x, q, d, sum);
        for (int b = 0; b < blocks; b++) {
            float most = 0;
            bool finite = true;
            for (int i = 32 * b; i < 32 * b + 32; i++) {
                finite = finite && isfinite(x[i]);
                if (fabsf(x[i]) > most) most = fabsf(x[i]);
            }
            float scale = finite ? most / 127 : NAN;
            if (scale < 0x1p-126f) scale = 0;
            int total = 0;
            for (int i = 32 * b; i < 32 * b + 32; i++) {
                float inverse = scale > 0 ? 1 / scale : 0, t = inverse * x[i];
                int want = scale > 0 ? (int)nearbyint((double)t) : 0;
                near(n, i, q[i], want, 0);
                total += want;
            }
            near(n, b, (double)d[b], (double)scale, 0);
            near(n, b, (double)sum[b], (double)(scale * (float)total), 0);
        }
        guards(n);
    }
}

/* Each of the 65,536 halves times 1, in the vector part of a row and in its tail; infinity and
 * NaN among them. */
void check_halves(const zb_kernels *k) {
    enum { K = 33 };
    uint16_t *w = guard_take(0, K * sizeof(uint16_t));
    float *x = take(1, K), y = 0;
    for (int at = 0; at < K; at += 8) {
        memset(w, 0, K * sizeof(uint16_t));
        for (int i = 0; i < K; i++) x[i] = i == at;
        for (int h = 0; h < 65536; h++) {
            w[at] = (uint16_t)h;
            zb_gemv_args g = {(const uint8_t *)w, K * sizeof(uint16_t), 0, 1, K, x, &y};
            k->gemv_f16(&g);
            near(K, h, (double)y, half_value((uint16_t)h), 0);
        }
    }
}
