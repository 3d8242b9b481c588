/* kern_ref_igemm.c - scalar reference of the product of packed weights and many 8-bit tokens.
 *
 * Per block of one scale, columns c..c+n-1 (n = 32, or 16 in Q6_K):
 *   y += scale·d · Σ code·q  +  min·sum
 * with the codes, scales and minima of ggml's layouts (tensor/dtype.c describes them). The integer
 * sum is exact; the rest is f32 in this order. */
#include "kernels/kernels_impl.h"

/* One row's block: unsigned or signed codes, then scale and min of each group of `scaled`. */
typedef struct block {
    int codes[256];
    float scale[16], min[16];
} block;

static float half_at(const uint8_t *p) { return kern_f32_of_f16(kern_load_u16(p)); }

static int nibble(const uint8_t *q, int i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }

static void unpack_k45(const uint8_t *b, bool five, block *out) {
    const uint8_t *s = b + 4, *high = b + 16, *q = b + (five ? 48 : 16);
    for (int g = 0; g < 8; g++) {
        int scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        int least = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | s[g] >> 6 << 4;
        out->scale[g] = half_at(b) * (float)scale;
        out->min[g] = -half_at(b + 2) * (float)least;
        for (int i = 0; i < 32; i++) {
            int code = g & 1 ? q[32 * (g / 2) + i] >> 4 : q[32 * (g / 2) + i] & 15;
            out->codes[32 * g + i] = five ? code | (high[i] >> g & 1) << 4 : code;
        }
    }
}

static void unpack_q6_k(const uint8_t *b, block *out) {
    for (int g = 0; g < 16; g++) {
        out->scale[g] = half_at(b + 208) * (float)(int8_t)b[192 + g];
        out->min[g] = 0;
    }
    for (int i = 0; i < 256; i++) {
        int half = i / 128, quarter = i / 32 & 3, l = i & 31;
        int low = b[64 * half + 32 * (quarter & 1) + l] >> (quarter & 2 ? 4 : 0) & 15;
        int high = b[128 + 32 * half + l] >> 2 * quarter & 3;
        out->codes[i] = (low | high << 4) - 32;
    }
}

/* Types of blocks of 32: scale, then min where there is one, then fifth bits, then codes. */
static void unpack_32(zb_packing t, const uint8_t *b, block *out) {
    bool has_min = t == ZB_PACKING_Q4_1 || t == ZB_PACKING_Q5_1;
    bool five = t == ZB_PACKING_Q5_0 || t == ZB_PACKING_Q5_1;
    const uint8_t *high = b + (has_min ? 4 : 2), *q = high + (five ? 4 : 0);
    out->scale[0] = half_at(b);
    out->min[0] = has_min ? half_at(b + 2) : out->scale[0] * (five ? -16.0f : -8.0f);
    if (t == ZB_PACKING_Q8_0) out->min[0] = 0;
    for (int i = 0; i < 32; i++) {
        if (t == ZB_PACKING_Q8_0)
            out->codes[i] = (int8_t)b[2 + i];
        else
            out->codes[i] = nibble(q, i) | (five ? (high[i / 8] >> i % 8 & 1) << 4 : 0);
    }
}

static void unpack(zb_packing t, const uint8_t *b, block *out) {
    if (t == ZB_PACKING_Q4_K || t == ZB_PACKING_Q5_K)
        unpack_k45(b, t == ZB_PACKING_Q5_K, out);
    else if (t == ZB_PACKING_Q6_K)
        unpack_q6_k(b, out);
    else
        unpack_32(t, b, out);
}

static void igemm(const zb_igemm_args *g) {
    static const int sizes[ZB_PACKINGS][2] = {{32, 34}, {32, 18},   {32, 20},   {32, 22},
                                              {32, 24}, {256, 144}, {256, 176}, {256, 210}};
    int columns = sizes[g->type][0], bytes = sizes[g->type][1];
    int scaled = g->type == ZB_PACKING_Q6_K ? 16 : 32;
    for (int j = 0; j < g->rows; j++) {
        for (int t = 0; t < g->n; t++) g->y[t * g->ldy + j] = 0;
        for (int k0 = 0; k0 < g->k; k0 += columns) {
            block b;
            unpack(g->type, g->w + (size_t)j * g->row_bytes + (size_t)(k0 / columns * bytes), &b);
            for (int t = 0; t < g->n; t++)
                for (int c = 0; c < columns; c += scaled) {
                    const int8_t *q = g->q + (ptrdiff_t)t * g->k + k0 + c;
                    ptrdiff_t at = (ptrdiff_t)t * (g->k / 32) + (k0 + c) / 32;
                    int sum = 0;
                    for (int i = 0; i < scaled; i++) sum += b.codes[c + i] * q[i];
                    float scale = b.scale[c / scaled] * g->d[at], min = b.min[c / scaled];
                    float *y = g->y + t * g->ldy + j;
                    *y += scale * (float)sum;
                    if (scaled == 32) *y += min * g->sum[at];
                }
        }
    }
}

static void sum_halves(int k, const int8_t *q, int16_t *half) {
    for (int i = 0; i < k / 16; i++) {
        int sum = 0;
        for (int j = 0; j < 16; j++) sum += q[16 * i + j];
        half[i] = (int16_t)sum;
    }
}

void kern_ref_igemm_fill(zb_kernels *k) {
    k->igemm = igemm;
    k->sum_halves = sum_halves;
}
