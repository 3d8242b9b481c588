/* kern_int8.c - activations in 8 bits, and packed weights times them (formulas and layouts in
 * kern_ref_quant.c).
 *
 * Decoding reads every weight once per step, so a row's bytes must be turned into products as fast
 * as memory delivers them. Integers do that: a block's codes meet the activations' bytes in
 * multiply-adds of 32 values each, the exact sums become floats once per block and are scaled by
 * both scales. Tokens are taken up to TOKENS at a time and meet the unpacked codes in registers;
 * further tokens come back to rows that the first-level cache still holds. `n` and `rows` are
 * constants wherever the tiles are inlined, so their loops disappear.
 *
 * The next bytes of the stream are asked for AHEAD of use: rows are short (some hundred bytes), and
 * the processor's own prefetcher starts anew with each. */
#include "kernels/simd8.h"

enum { BLOCK_VECTORS = KERN_BLOCK / VW, ROWS = 4, TOKENS = 4, AHEAD = 4096 };

static void quantize_q8(int k, const float *x, int8_t *q, float *d, float *sum) {
    for (int b = 0; b < k / KERN_BLOCK; b++, x += KERN_BLOCK, q += KERN_BLOCK) {
        vf v[BLOCK_VECTORS];
        vu most = {0};
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            v[i] = vf_load(x + i * VW);
            most = vu_max(most, (vu)v[i] & 0x7fffffffu);
        }
        kern_q8_scale s = kern_q8_scale_of(vu_hmax(most));
        vi n[BLOCK_VECTORS], total = {0}, zero = {0};
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            n[i] = s.inverse == 0 ? zero : vi_nearest(v[i] * s.inverse);
            total += n[i];
        }
        store_i8(q, n);
        d[b] = s.d;
        sum[b] = s.d * (float)vi_sum(total);
    }
}

typedef zb_gemv8_args args;
typedef void tile_fn(const args *g, int j, int rows, int n);

/* Tiles of ROWS rows, each with all tokens in turn. A tile at the end may have fewer rows: it
 * computes its last row several times and stores it once. */
SIMD_INLINE void run(const args *g, tile_fn *tile) {
    for (int j = g->first; j < g->last; j += ROWS) {
        int rows = g->last - j < ROWS ? g->last - j : ROWS, left;
        args t = *g;
        for (; t.n > 0; t.n -= left) {
            left = t.n < TOKENS ? t.n : TOKENS;
            switch (left) {
            case 1: tile(&t, j, rows, 1); break;
            case 2: tile(&t, j, rows, 2); break;
            case 3: tile(&t, j, rows, 3); break;
            default: tile(&t, j, rows, TOKENS); break;
            }
            t.q += (size_t)left * t.k;
            t.d += left * (t.k / KERN_BLOCK);
            t.sum += left * (t.k / KERN_BLOCK);
            t.y += left * t.y_row;
        }
    }
}

SIMD_INLINE void rows_of(const args *g, int j, int rows, const uint8_t *row[ROWS]) {
    for (int r = 0; r < ROWS; r++)
        row[r] = g->w + (size_t)(j + (r < rows ? r : rows - 1)) * g->row_bytes;
}

/* What a token's bytes, scales and sums start at. */
SIMD_INLINE const int8_t *bytes_of(const args *g, int t) { return g->q + (size_t)t * g->k; }
SIMD_INLINE const float *scales_of(const args *g, int t) { return g->d + t * (g->k / KERN_BLOCK); }
SIMD_INLINE const float *sums_of(const args *g, int t) { return g->sum + t * (g->k / KERN_BLOCK); }

SIMD_INLINE void store_rows(const args *g, int j, int rows, int t, const float y[ROWS]) {
    float *to = g->y + t * g->y_row + j;
    for (int r = 0; r < ROWS; r++)
        if (r < rows) to[r] = y[r];
}

/* Blocks of 32 four-bit codes behind `skip` bytes of head. Two rows share a register, one in each
 * half: low nibbles meet the block's first 16 activations, high nibbles the other 16. The
 * constant of a block meets the activations' sum: Σ (d q + m) x = d Σ q x + m Σ x; in Q4_0
 * m = -8 d, applied at the end. `least` holds head·sum in the order of f8_heads: d and m by turns,
 * of which one is wanted. */
SIMD_INLINE void tile_q4(const args *g, int j, int rows, int n, bool min) {
    size_t block_bytes = min ? KERN_Q4_1 : KERN_Q4_0, skip = min ? 4 : 2, at = 0;
    const uint8_t *row[ROWS];
    rows_of(g, j, rows, row);
    const b32 low = b32_set1(15);
    f8 s01[TOKENS], s23[TOKENS], least[TOKENS];
    SIMD_UNROLL
    for (int t = 0; t < n; t++) s01[t] = s23[t] = least[t] = f8_zero();
    const uint8_t *ahead = row[0] + AHEAD;
    for (int b = 0; b < g->k / KERN_BLOCK; b++, at += block_bytes) {
        const uint8_t *block[ROWS];
        for (int r = 0; r < ROWS; r++) block[r] = row[r] + at;
        __builtin_prefetch(ahead + 4 * at);
        if (b & 1) __builtin_prefetch(ahead + 4 * at + 64);
        f8 head = f8_heads(block), d01 = f8_spread0(head), d23 = f8_spread2(head);
        b32 w01 = b32_load2(block[0] + skip, block[1] + skip);
        b32 w23 = b32_load2(block[2] + skip, block[3] + skip);
        b32 lo01 = b32_and(w01, low), hi01 = b32_and(b32_right(w01, 4), low);
        b32 lo23 = b32_and(w23, low), hi23 = b32_and(b32_right(w23, 4), low);
        SIMD_UNROLL
        for (int t = 0; t < n; t++) {
            const int8_t *q = bytes_of(g, t) + b * KERN_BLOCK;
            b32 x0 = b32_load_both(q), x1 = b32_load_both(q + KERN_BLOCK / 2);
            f8 d = f8_set1(scales_of(g, t)[b]);
            f8 p01 = f8_of_i32x8(dot_codes2(lo01, x0, hi01, x1));
            f8 p23 = f8_of_i32x8(dot_codes2(lo23, x0, hi23, x1));
            s01[t] = f8_fma(s01[t], p01, f8_mul(d01, d));
            s23[t] = f8_fma(s23[t], p23, f8_mul(d23, d));
            least[t] = f8_fma(least[t], head, f8_set1(sums_of(g, t)[b]));
        }
    }
    static const int order[ROWS] = {0, 4, 2, 6}; /* of rows in f8_heads */
    SIMD_UNROLL
    for (int t = 0; t < n; t++) {
        float a[8], c[8], m[8], y[ROWS];
        f8_store(a, s01[t]);
        f8_store(c, s23[t]);
        f8_store(m, least[t]);
        for (int r = 0; r < ROWS; r++) {
            const float *s = (r < 2 ? a : c) + 4 * (r & 1);
            y[r] = (s[0] + s[1]) + (s[2] + s[3]);
            y[r] += min ? m[order[r] + 1] : -8 * m[order[r]];
        }
        store_rows(g, j, rows, t, y);
    }
}

SIMD_INLINE void tile_q4_0(const args *g, int j, int rows, int n) { tile_q4(g, j, rows, n, false); }
SIMD_INLINE void tile_q4_1(const args *g, int j, int rows, int n) { tile_q4(g, j, rows, n, true); }

SIMD_INLINE void tile_q8_0(const args *g, int j, int rows, int n) {
    const uint8_t *row[ROWS];
    rows_of(g, j, rows, row);
    f8 s[TOKENS][ROWS];
    SIMD_UNROLL
    for (int t = 0; t < n; t++)
        for (int r = 0; r < ROWS; r++) s[t][r] = f8_zero();
    const uint8_t *ahead = row[0] + AHEAD;
    size_t at = 0;
    for (int b = 0; b < g->k / KERN_BLOCK; b++, at += KERN_Q8_0) {
        const uint8_t *block[ROWS];
        for (int r = 0; r < ROWS; r++) block[r] = row[r] + at;
        __builtin_prefetch(ahead + 4 * at);
        __builtin_prefetch(ahead + 4 * at + 64);
        static const int order[ROWS] = {0, 4, 2, 6};
        float head[8];
        f8_store(head, f8_heads(block));
        SIMD_UNROLL
        for (int r = 0; r < ROWS; r++) {
            b32 w = b32_load(block[r] + 2), magnitude = b32_magnitude(w);
            SIMD_UNROLL
            for (int t = 0; t < n; t++) {
                b32 x = b32_load(bytes_of(g, t) + b * KERN_BLOCK);
                f8 d = f8_set1(scales_of(g, t)[b] * head[order[r]]);
                s[t][r] = f8_fma(s[t][r], f8_of_i32x8(dot_signed(w, magnitude, x)), d);
            }
        }
    }
    SIMD_UNROLL
    for (int t = 0; t < n; t++) {
        float y[ROWS];
        for (int r = 0; r < ROWS; r++) y[r] = f8_sum(s[t][r]);
        store_rows(g, j, rows, t, y);
    }
}

enum { GROUPS = KERN_SUPER / KERN_BLOCK };

/* Fifth bits of sub-block k, moved to the place of a nibble's fifth bit. */
SIMD_INLINE b32 fifth(b32 high, int k) {
    return b32_and(k < 4 ? b32_left(high, 4 - k) : b32_right(high, k - 4), b32_set1(16));
}

/* One super-block of one row in Q4_K or Q5_K: 32 bytes hold the low four bits of two sub-blocks.
 * The scales of all eight sub-blocks are made at once, and so is the part of their minima, each
 * lane of `least` gathering its sub-block. */
SIMD_INLINE void super_k45(const args *g, const uint8_t *b, int at, int n, bool five,
                           f8 sum[TOKENS][2], f8 least[TOKENS]) {
    uint64_t scale, least_of;
    float by[TOKENS][GROUPS];
    kern_scales_k(b + 4, &scale, &least_of);
    f8 d = f8_mul(f8_of_u8(scale), f8_set1(f32_load_f16(b)));
    f8 m = f8_mul(f8_of_u8(least_of), f8_set1(f32_load_f16(b + 2)));
    SIMD_UNROLL
    for (int t = 0; t < n; t++) {
        f8_store(by[t], f8_mul(d, f8_load(scales_of(g, t) + at)));
        least[t] = f8_fma(least[t], m, f8_load(sums_of(g, t) + at));
    }
    const uint8_t *nibbles = b + (five ? 48 : 16);
    b32 low = b32_set1(15), high = b32_load(b + 16); /* Q4_K has nibbles there, left unused */
    SIMD_UNROLL
    for (int p = 0; p < GROUPS / 2; p++) {
        b32 w = b32_load(nibbles + p * KERN_BLOCK);
        b32 w0 = b32_and(w, low), w1 = b32_and(b32_right(w, 4), low);
        if (five) {
            w0 = b32_or(w0, fifth(high, 2 * p));
            w1 = b32_or(w1, fifth(high, 2 * p + 1));
        }
        SIMD_UNROLL
        for (int t = 0; t < n; t++) {
            const int8_t *q = bytes_of(g, t) + (at + 2 * p) * KERN_BLOCK;
            f8 s0 = f8_of_i32x8(dot_codes(i32x8_zero(), w0, b32_load(q)));
            f8 s1 = f8_of_i32x8(dot_codes(i32x8_zero(), w1, b32_load(q + KERN_BLOCK)));
            sum[t][0] = f8_fma(sum[t][0], s0, f8_set1(by[t][2 * p]));
            sum[t][1] = f8_fma(sum[t][1], s1, f8_set1(by[t][2 * p + 1]));
        }
    }
}

/* One super-block of one row in Q6_K. A scale belongs to 16 values, one half of a register. */
SIMD_INLINE void super_q6_k(const args *g, const uint8_t *b, int at, int n, f8 sum[TOKENS][2]) {
    float scale[2 * GROUPS];
    f8 d = f8_set1(f32_load_f16(b + 208));
    f8_store(scale, f8_mul(f8_of_i8(b + 192), d));
    f8_store(scale + GROUPS, f8_mul(f8_of_i8(b + 192 + GROUPS), d));
    b32 low = b32_set1(15), upper = b32_set1(0x30), middle = b32_set1(32);
    SIMD_UNROLL
    for (int k = 0; k < GROUPS; k++) {
        int quarter = k % 4;
        b32 l = b32_load(b + 64 * (k / 4) + 32 * (quarter & 1));
        b32 h = b32_load(b + 128 + 32 * (k / 4));
        l = b32_and(quarter & 2 ? b32_right(l, 4) : l, low);
        h = quarter < 2 ? b32_left(h, 4 - 2 * quarter) : b32_right(h, 2 * quarter - 4);
        b32 w = b32_sub(b32_or(l, b32_and(h, upper)), middle), magnitude = b32_magnitude(w);
        f8 by = f8_set2(&scale[2 * k], &scale[2 * k + 1]);
        SIMD_UNROLL
        for (int t = 0; t < n; t++) {
            b32 x = b32_load(bytes_of(g, t) + (at + k) * KERN_BLOCK);
            f8 s = f8_of_i32x8(dot_signed(w, magnitude, x));
            f8 by_t = f8_mul(by, f8_set1(scales_of(g, t)[at + k]));
            sum[t][k & 1] = f8_fma(sum[t][k & 1], s, by_t);
        }
    }
}

enum super_type { Q4_K, Q5_K, Q6_K };

/* Super-blocks are long enough to be taken row by row, in the order of memory. */
SIMD_INLINE void tile_super(const args *g, int j, int rows, int n, enum super_type type) {
    size_t bytes = type == Q4_K ? KERN_Q4_K : type == Q5_K ? KERN_Q5_K : KERN_Q6_K;
    float y[TOKENS][ROWS];
    for (int r = 0; r < rows; r++) {
        const uint8_t *b = g->w + (size_t)(j + r) * g->row_bytes;
        f8 sum[TOKENS][2], least[TOKENS];
        SIMD_UNROLL
        for (int t = 0; t < n; t++) sum[t][0] = sum[t][1] = least[t] = f8_zero();
        for (int at = 0; at < g->k / KERN_BLOCK; at += GROUPS, b += bytes) {
            for (size_t line = 0; line < bytes; line += 64) __builtin_prefetch(b + AHEAD + line);
            if (type == Q6_K)
                super_q6_k(g, b, at, n, sum);
            else
                super_k45(g, b, at, n, type == Q5_K, sum, least);
        }
        SIMD_UNROLL
        for (int t = 0; t < n; t++)
            y[t][r] = f8_sum(f8_add(sum[t][0], sum[t][1])) - f8_sum(least[t]);
    }
    for (int t = 0; t < n; t++)
        for (int r = 0; r < rows; r++) g->y[t * g->y_row + j + r] = y[t][r];
}

SIMD_INLINE void tile_q4_k(const args *g, int j, int rows, int n) {
    tile_super(g, j, rows, n, Q4_K);
}
SIMD_INLINE void tile_q5_k(const args *g, int j, int rows, int n) {
    tile_super(g, j, rows, n, Q5_K);
}
SIMD_INLINE void tile_q6_k(const args *g, int j, int rows, int n) {
    tile_super(g, j, rows, n, Q6_K);
}

static void gemv8_q8_0(const args *g) { run(g, tile_q8_0); }
static void gemv8_q4_0(const args *g) { run(g, tile_q4_0); }
static void gemv8_q4_1(const args *g) { run(g, tile_q4_1); }
static void gemv8_q4_k(const args *g) { run(g, tile_q4_k); }
static void gemv8_q5_k(const args *g) { run(g, tile_q5_k); }
static void gemv8_q6_k(const args *g) { run(g, tile_q6_k); }

void KERN_SYMBOL(kern_int8_fill_)(zb_kernels *k) {
    k->quantize_q8 = quantize_q8;
    k->gemv8_q8_0 = gemv8_q8_0;
    k->gemv8_q4_0 = gemv8_q4_0;
    k->gemv8_q4_1 = gemv8_q4_1;
    k->gemv8_q4_k = gemv8_q4_k;
    k->gemv8_q5_k = gemv8_q5_k;
    k->gemv8_q6_k = gemv8_q6_k;
}
