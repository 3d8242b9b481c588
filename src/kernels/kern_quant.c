/* kern_quant.c - packed weights times one vector, the work of decoding (formulas and layouts in
 * kern_ref.c).
 *
 * Decoding is bound by reading weights, so the weights are widened in registers and summed in
 * f32; nothing is unpacked to memory. Rows are taken ROWS at a time: they share the loads of x
 * and, being independent, hide the latency of the sums. `rows` is a constant wherever these
 * functions are inlined, so the loops over it disappear. */
#include "kernels/simd.h"

enum { ROWS = 4, BLOCK_VECTORS = KERN_BLOCK / VW };

typedef void tile_fn(const zb_gemv_args *g, int j, int rows);

/* Runs the tile over all rows, then over what remains one by one. */
SIMD_INLINE void run(const zb_gemv_args *g, tile_fn *tile) {
    int j = g->first;
    for (; j + ROWS <= g->last; j += ROWS) tile(g, j, ROWS);
    for (; j < g->last; j++) tile(g, j, 1);
}

SIMD_INLINE const uint8_t *row_of(const zb_gemv_args *g, int j) {
    return g->w + (size_t)j * g->row_bytes;
}

enum plain { F32, BF16, F16 };

SIMD_INLINE vf load_plain(enum plain type, const uint8_t *row, int p) {
    if (type == F32) return vf_load(row + 4 * (size_t)p);
    if (type == BF16) return vf_load_bf16(row + 2 * (size_t)p);
    return vf_load_f16(row + 2 * (size_t)p);
}

SIMD_INLINE float value_plain(enum plain type, const uint8_t *row, int p) {
    float f;
    if (type == F32) return memcpy(&f, row + 4 * (size_t)p, 4), f;
    uint16_t h = kern_load_u16(row + 2 * (size_t)p);
    return type == BF16 ? kern_f32_of_bits((uint32_t)h << 16) : kern_f32_of_f16(h);
}

/* Two vectors per row and turn: with one row at a time there is still some overlap. */
SIMD_INLINE void tile_plain(const zb_gemv_args *g, int j, int rows, enum plain type) {
    const uint8_t *row[ROWS];
    size_t ahead = (size_t)rows * g->row_bytes;
    vf s0[ROWS], s1[ROWS];
    for (int r = 0; r < rows; r++) {
        row[r] = row_of(g, j + r);
        s0[r] = s1[r] = vf_set1(0);
    }
    int p = 0;
    for (; p + 2 * VW <= g->k; p += 2 * VW) {
        vf x0 = vf_load(g->x + p), x1 = vf_load(g->x + p + VW);
        for (int r = 0; r < rows; r++) {
            __builtin_prefetch(row[r] + (size_t)p * (type == F32 ? 4 : 2) + ahead);
            s0[r] += load_plain(type, row[r], p) * x0;
            s1[r] += load_plain(type, row[r], p + VW) * x1;
        }
    }
    for (int r = 0; r < rows; r++) {
        float sum = vf_sum(s0[r] + s1[r]);
        for (int q = p; q < g->k; q++) sum += value_plain(type, row[r], q) * g->x[q];
        g->y[j + r] = sum;
    }
}

SIMD_INLINE void tile_f32(const zb_gemv_args *g, int j, int rows) { tile_plain(g, j, rows, F32); }
SIMD_INLINE void tile_bf16(const zb_gemv_args *g, int j, int rows) { tile_plain(g, j, rows, BF16); }
SIMD_INLINE void tile_f16(const zb_gemv_args *g, int j, int rows) { tile_plain(g, j, rows, F16); }

static void gemv_f32(const zb_gemv_args *g) { run(g, tile_f32); }
static void gemv_bf16(const zb_gemv_args *g) { run(g, tile_bf16); }
static void gemv_f16(const zb_gemv_args *g) { run(g, tile_f16); }

/* Where block b of each row of the tile lies, and its scales: head[2r] is d, head[2r+1] what
 * follows (m in Q4_1, else no number that means anything). The rows that come next are asked for
 * meanwhile. */
SIMD_INLINE void heads(const zb_gemv_args *g, int j, int rows, size_t at,
                       const uint8_t *block[ROWS], float head[2 * ROWS]) {
    block[0] = row_of(g, j) + at; /* there is at least one row */
    for (int r = 0; r < rows; r++) {
        block[r] = row_of(g, j + r) + at;
        __builtin_prefetch(block[r] + (size_t)rows * g->row_bytes);
    }
    if (rows == ROWS) {
        load_heads(block, head);
    } else {
        head[0] = f32_load_f16(block[0]);
        head[1] = f32_load_f16(block[0] + 2);
    }
}

/* Per block the products of the bare integers are summed in vector lanes, then scaled by d into
 * the row's sum. */
SIMD_INLINE void tile_q8_0(const zb_gemv_args *g, int j, int rows) {
    vf sum[ROWS];
    for (int r = 0; r < rows; r++) sum[r] = vf_set1(0);
    size_t at = 0;
    for (int p = 0; p < g->k; p += KERN_BLOCK, at += KERN_Q8_0) {
        const uint8_t *block[ROWS];
        float head[2 * ROWS];
        heads(g, j, rows, at, block, head);
        for (int r = 0; r < rows; r++) {
            vf part = {0};
            for (int v = 0; v < BLOCK_VECTORS; v++)
                part += vf_load_i8(block[r] + 2 + v * VW) * vf_load(g->x + p + v * VW);
            sum[r] += part * head[2 * r];
        }
    }
    for (int r = 0; r < rows; r++) g->y[j + r] = vf_sum(sum[r]);
}

/* Σ d(q - 8)x = d (Σ q x - 8 Σ x), and Q4_1's Σ (d q + m) x = d Σ q x + m Σ x: one loop, since
 * the sum of x is shared by all rows; `min` tells whether the block carries m, otherwise m = -8
 * d. */
SIMD_INLINE void tile_q4(const zb_gemv_args *g, int j, int rows, bool min) {
    size_t block_bytes = min ? KERN_Q4_1 : KERN_Q4_0, skip = min ? 4 : 2, at = 0;
    vf sum[ROWS];
    for (int r = 0; r < rows; r++) sum[r] = vf_set1(0);
    for (int p = 0; p < g->k; p += KERN_BLOCK, at += block_bytes) {
        const float *lower = g->x + p, *upper = lower + KERN_BLOCK / 2;
        vf x0[BLOCK_VECTORS / 2], x1[BLOCK_VECTORS / 2], total = {0};
        for (int v = 0; v < BLOCK_VECTORS / 2; v++) {
            x0[v] = vf_load(lower + v * VW);
            x1[v] = vf_load(upper + v * VW);
            total += x0[v] + x1[v];
        }
        const uint8_t *block[ROWS];
        float head[2 * ROWS];
        heads(g, j, rows, at, block, head);
        for (int r = 0; r < rows; r++) {
            vf part = {0};
            for (int v = 0; v < BLOCK_VECTORS / 2; v++) {
                vi q = vi_load_u8(block[r] + skip + v * VW);
                part += vf_of_vi(q & 15) * x0[v];
                part += vf_of_vi(q >> 4) * x1[v];
            }
            if (!min) part -= total * 8.0f;
            sum[r] += part * head[2 * r];
            if (min) sum[r] += total * head[2 * r + 1];
        }
    }
    for (int r = 0; r < rows; r++) g->y[j + r] = vf_sum(sum[r]);
}

SIMD_INLINE void tile_q4_0(const zb_gemv_args *g, int j, int rows) { tile_q4(g, j, rows, false); }
SIMD_INLINE void tile_q4_1(const zb_gemv_args *g, int j, int rows) { tile_q4(g, j, rows, true); }

static void gemv_q8_0(const zb_gemv_args *g) { run(g, tile_q8_0); }
static void gemv_q4_0(const zb_gemv_args *g) { run(g, tile_q4_0); }
static void gemv_q4_1(const zb_gemv_args *g) { run(g, tile_q4_1); }

void KERN_SYMBOL(kern_quant_fill_)(zb_kernels *k) {
    k->gemv_f32 = gemv_f32;
    k->gemv_bf16 = gemv_bf16;
    k->gemv_f16 = gemv_f16;
    k->gemv_q8_0 = gemv_q8_0;
    k->gemv_q4_0 = gemv_q4_0;
    k->gemv_q4_1 = gemv_q4_1;
}
