/* kern_ref_quant.c - the scalar reference of the kernels on packed weights: the specification that
 * all other versions are checked against.
 *
 * Two ways to multiply a packed row W_j with a vector x:
 *
 *   gemv_*    widens the weights and sums in f32: y_j = Σ_p W_jp x_p.
 *   gemv8_*   takes x = d·q in 8 bits. Over a block of 32 the codes c of the weights meet q in an
 *             integer sum, which both scales turn into a number; a constant of the weights' block
 *             meets the activations' sum s = d Σ q:
 *               Q8_0  d_w d Σ c q             Q4_0  d_w (d Σ c q - 8 s)    Q4_1  d_w d Σ c q + m s
 *               Q4_K, Q5_K  per sub-block k   (d_w scale_k) d Σ c q - (dmin least_k) s
 *               Q6_K  per 16 values           (d_w scale) d Σ (c - 32) q
 *
 * Layouts of super-blocks of 256 (GGUF): Q4_K  f16 d, dmin; 12 bytes of scales (kern_scales_k);
 * 128 bytes of nibbles, byte l of the p-th 32 holding element l of sub-blocks 2p (low) and 2p+1
 * (high). Q5_K  the same with 32 bytes before the nibbles: bit k of byte l is the fifth bit of
 * element l of sub-block k. Q6_K  128 bytes ql, 64 bytes qh, 16 signed scales, f16 d; in each half
 * of 128 elements, quarter t has its low bits in ql[l + 32 (t odd)], nibble t/2, the upper two in
 * qh[l] at 2t. */
#include "kernels/kernels_impl.h"

#include <math.h>

static void gemv_f32(const zb_gemv_args *g) {
    for (int j = g->first; j < g->last; j++) {
        const uint8_t *row = g->w + (size_t)j * g->row_bytes;
        float sum = 0;
        for (int p = 0; p < g->k; p++) {
            float w;
            memcpy(&w, row + 4 * (size_t)p, 4);
            sum += w * g->x[p];
        }
        g->y[j] = sum;
    }
}

static void gemv_bf16(const zb_gemv_args *g) {
    for (int j = g->first; j < g->last; j++) {
        const uint8_t *row = g->w + (size_t)j * g->row_bytes;
        float sum = 0;
        for (int p = 0; p < g->k; p++)
            sum += kern_f32_of_bits((uint32_t)kern_load_u16(row + 2 * (size_t)p) << 16) * g->x[p];
        g->y[j] = sum;
    }
}

static void gemv_f16(const zb_gemv_args *g) {
    for (int j = g->first; j < g->last; j++) {
        const uint8_t *row = g->w + (size_t)j * g->row_bytes;
        float sum = 0;
        for (int p = 0; p < g->k; p++)
            sum += kern_f32_of_f16(kern_load_u16(row + 2 * (size_t)p)) * g->x[p];
        g->y[j] = sum;
    }
}

/* Block: f16 d; i8 q[32]. Weight d·q. */
static void gemv_q8_0(const zb_gemv_args *g) {
    for (int j = g->first; j < g->last; j++) {
        const uint8_t *b = g->w + (size_t)j * g->row_bytes;
        float sum = 0;
        for (int p = 0; p < g->k; p += KERN_BLOCK, b += KERN_Q8_0) {
            float part = 0;
            for (int i = 0; i < KERN_BLOCK; i++) part += (float)(int8_t)b[2 + i] * g->x[p + i];
            sum += kern_f32_of_f16(kern_load_u16(b)) * part;
        }
        g->y[j] = sum;
    }
}

/* Block: f16 d; u8 q[16], low nibbles are weights 0..15, high nibbles 16..31. Weight d·(q - 8). */
static void gemv_q4_0(const zb_gemv_args *g) {
    for (int j = g->first; j < g->last; j++) {
        const uint8_t *b = g->w + (size_t)j * g->row_bytes;
        float sum = 0;
        for (int p = 0; p < g->k; p += KERN_BLOCK, b += KERN_Q4_0) {
            float part = 0;
            for (int i = 0; i < KERN_BLOCK / 2; i++) {
                part += (float)((b[2 + i] & 15) - 8) * g->x[p + i];
                part += (float)((b[2 + i] >> 4) - 8) * g->x[p + i + KERN_BLOCK / 2];
            }
            sum += kern_f32_of_f16(kern_load_u16(b)) * part;
        }
        g->y[j] = sum;
    }
}

/* Block: f16 d; f16 m; u8 q[16] as in Q4_0. Weight d·q + m, so the block's part is d Σ q x + m Σ
 * x. */
static void gemv_q4_1(const zb_gemv_args *g) {
    for (int j = g->first; j < g->last; j++) {
        const uint8_t *b = g->w + (size_t)j * g->row_bytes;
        float sum = 0;
        for (int p = 0; p < g->k; p += KERN_BLOCK, b += KERN_Q4_1) {
            float part = 0, total = 0;
            for (int i = 0; i < KERN_BLOCK / 2; i++) {
                float lo = g->x[p + i], hi = g->x[p + i + KERN_BLOCK / 2];
                part += (float)(b[4 + i] & 15) * lo + (float)(b[4 + i] >> 4) * hi;
                total += lo + hi;
            }
            sum += kern_f32_of_f16(kern_load_u16(b)) * part +
                   kern_f32_of_f16(kern_load_u16(b + 2)) * total;
        }
        g->y[j] = sum;
    }
}

/* The largest magnitude is found among bit patterns, in which infinity and NaN are the largest. */
static void quantize_q8(int k, const float *x, int8_t *q, float *d, float *sum) {
    for (int b = 0; b < k / KERN_BLOCK; b++, x += KERN_BLOCK, q += KERN_BLOCK) {
        uint32_t most = 0;
        for (int i = 0; i < KERN_BLOCK; i++) {
            uint32_t u = kern_bits_of_f32(x[i]) & 0x7fffffffu;
            if (u > most) most = u;
        }
        kern_q8_scale s = kern_q8_scale_of(most);
        int total = 0;
        for (int i = 0; i < KERN_BLOCK; i++)
            total += q[i] = s.inverse == 0 ? 0 : (int8_t)lrintf(x[i] * s.inverse);
        d[b] = s.d;
        sum[b] = s.d * (float)total;
    }
}

/* The codes of one block of 32 against the activations, exactly. */
static int dot_block(const int *code, const int8_t *q, int n) {
    int sum = 0;
    for (int i = 0; i < n; i++) sum += code[i] * q[i];
    return sum;
}

/* What the types have in common: part(b, ...) adds all of block b of a row (a block or super-block
 * of `block` elements in `bytes` bytes). */
typedef float part_fn(const uint8_t *b, const int8_t *q, const float *d, const float *sum);

static void gemv8(const zb_gemv8_args *g, int block, size_t bytes, part_fn *part) {
    int scales = g->k / KERN_BLOCK;
    for (int t = 0; t < g->n; t++)
        for (int j = g->first; j < g->last; j++) {
            const uint8_t *b = g->w + (size_t)j * g->row_bytes;
            float y = 0;
            for (int p = 0; p < g->k; p += block, b += bytes) {
                int at = t * scales + p / KERN_BLOCK;
                y += part(b, g->q + (size_t)t * g->k + p, g->d + at, g->sum + at);
            }
            g->y[t * g->y_row + j] = y;
        }
}

static float part_q8_0(const uint8_t *b, const int8_t *q, const float *d, const float *sum) {
    int code[KERN_BLOCK];
    (void)sum;
    for (int i = 0; i < KERN_BLOCK; i++) code[i] = (int8_t)b[2 + i];
    return kern_f32_of_f16(kern_load_u16(b)) * d[0] * (float)dot_block(code, q, KERN_BLOCK);
}

static void nibbles(const uint8_t *b, int code[KERN_BLOCK]) {
    for (int i = 0; i < KERN_BLOCK / 2; i++) {
        code[i] = b[i] & 15;
        code[i + KERN_BLOCK / 2] = b[i] >> 4;
    }
}

static float part_q4_0(const uint8_t *b, const int8_t *q, const float *d, const float *sum) {
    int code[KERN_BLOCK];
    nibbles(b + 2, code);
    float dw = kern_f32_of_f16(kern_load_u16(b));
    return dw * d[0] * (float)dot_block(code, q, KERN_BLOCK) - dw * 8 * sum[0];
}

static float part_q4_1(const uint8_t *b, const int8_t *q, const float *d, const float *sum) {
    int code[KERN_BLOCK];
    nibbles(b + 4, code);
    float dw = kern_f32_of_f16(kern_load_u16(b)), m = kern_f32_of_f16(kern_load_u16(b + 2));
    return dw * d[0] * (float)dot_block(code, q, KERN_BLOCK) + m * sum[0];
}

/* `high`: the fifth bits, NULL for Q4_K. */
static float part_k45(const uint8_t *b, const uint8_t *high, const uint8_t *low, const int8_t *q,
                      const float *d, const float *sum) {
    uint64_t scale, least;
    kern_scales_k(b + 4, &scale, &least);
    float dw = kern_f32_of_f16(kern_load_u16(b)), dmin = kern_f32_of_f16(kern_load_u16(b + 2));
    float y = 0;
    for (int k = 0; k < KERN_SUPER / KERN_BLOCK; k++, q += KERN_BLOCK) {
        int code[KERN_BLOCK];
        for (int l = 0; l < KERN_BLOCK; l++) {
            code[l] = low[KERN_BLOCK * (k / 2) + l] >> (k & 1 ? 4 : 0) & 15;
            if (high) code[l] += (high[l] >> k & 1) * 16;
        }
        y += dw * (float)(scale >> 8 * k & 63) * d[k] * (float)dot_block(code, q, KERN_BLOCK);
        y -= dmin * (float)(least >> 8 * k & 63) * sum[k];
    }
    return y;
}

static float part_q4_k(const uint8_t *b, const int8_t *q, const float *d, const float *sum) {
    return part_k45(b, NULL, b + 16, q, d, sum);
}

static float part_q5_k(const uint8_t *b, const int8_t *q, const float *d, const float *sum) {
    return part_k45(b, b + 16, b + 48, q, d, sum);
}

static float part_q6_k(const uint8_t *b, const int8_t *q, const float *d, const float *sum) {
    float dw = kern_f32_of_f16(kern_load_u16(b + 208)), y = 0;
    (void)sum;
    for (int k = 0; k < KERN_SUPER / KERN_BLOCK; k++) {
        int t = k % 4, code[KERN_BLOCK];
        const uint8_t *ql = b + 64 * (k / 4), *qh = b + 128 + 32 * (k / 4), *s = b + 192 + 2 * k;
        for (int l = 0; l < KERN_BLOCK; l++) {
            int low = ql[l + 32 * (t & 1)] >> (t & 2 ? 4 : 0) & 15;
            code[l] = (low | (qh[l] >> 2 * t & 3) << 4) - 32;
        }
        for (int h = 0; h < 2; h++, q += 16)
            y += dw * (float)(int8_t)s[h] * d[k] * (float)dot_block(code + 16 * h, q, 16);
    }
    return y;
}

static void gemv8_q8_0(const zb_gemv8_args *g) { gemv8(g, KERN_BLOCK, KERN_Q8_0, part_q8_0); }
static void gemv8_q4_0(const zb_gemv8_args *g) { gemv8(g, KERN_BLOCK, KERN_Q4_0, part_q4_0); }
static void gemv8_q4_1(const zb_gemv8_args *g) { gemv8(g, KERN_BLOCK, KERN_Q4_1, part_q4_1); }
static void gemv8_q4_k(const zb_gemv8_args *g) { gemv8(g, KERN_SUPER, KERN_Q4_K, part_q4_k); }
static void gemv8_q5_k(const zb_gemv8_args *g) { gemv8(g, KERN_SUPER, KERN_Q5_K, part_q5_k); }
static void gemv8_q6_k(const zb_gemv8_args *g) { gemv8(g, KERN_SUPER, KERN_Q6_K, part_q6_k); }

void kern_ref_quant_fill(zb_kernels *k) {
    k->gemv_f32 = gemv_f32;
    k->gemv_bf16 = gemv_bf16;
    k->gemv_f16 = gemv_f16;
    k->gemv_q8_0 = gemv_q8_0;
    k->gemv_q4_0 = gemv_q4_0;
    k->gemv_q4_1 = gemv_q4_1;
    k->quantize_q8 = quantize_q8;
    k->gemv8_q8_0 = gemv8_q8_0;
    k->gemv8_q4_0 = gemv8_q4_0;
    k->gemv8_q4_1 = gemv8_q4_1;
    k->gemv8_q4_k = gemv8_q4_k;
    k->gemv8_q5_k = gemv8_q5_k;
    k->gemv8_q6_k = gemv8_q6_k;
}
