/* kern_ref_quant.c - the scalar reference of the kernels on packed weights: the specification that
 * all other versions are checked against.
 *
 * Two ways to multiply a packed row W_j with a vector x:
 *
 *   gemv_*   widens the weights and sums in f32: y_j = Σ_p W_jp x_p.
 */
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

void kern_ref_quant_fill(zb_kernels *k) {
    k->gemv_f32 = gemv_f32;
    k->gemv_bf16 = gemv_bf16;
    k->gemv_f16 = gemv_f16;
    k->gemv_q8_0 = gemv_q8_0;
    k->gemv_q4_0 = gemv_q4_0;
    k->gemv_q4_1 = gemv_q4_1;
    k->quantize_q8 = quantize_q8;
}
