/* igemm_pack.h - stored blocks of 16 weight rows to one panel that a multi-token product reads
 * straight through; private to kern_igemm.c.
 *
 * A panel holds up to PANEL_K columns of ROWS rows. Its codes stand as [k/STEP][ROWS][STEP]: the
 * STEP neighbours in k of one row fill a 32-bit lane, so that one vector holds the same columns of
 * as many rows as it has lanes. STEP is 4 with codes of a byte, 2 with codes of 16 bits (`wide`).
 * Scales are f32, [k/32][ROWS] (Q6_K in bytes: [k/16][ROWS]; wide, its codes are multiplied by
 * their 8-bit scales, |32·128| = 4,096). A weight is d·code + m for the types of 4 and 5 bits,
 * whose codes are unsigned, and d·(code - offset) for the others. Missing rows of a tile repeat its
 * last.
 */
#ifndef ZB_KERNELS_IGEMM_PACK_H
#define ZB_KERNELS_IGEMM_PACK_H

#include "kernels/simd.h"

enum { ROWS = ZB_IGEMM_ROWS, VECS = ROWS / VW, PANEL_K = 1024 };

/* Products of a signed byte and an unsigned code above 5 bits overflow the 16-bit sums of AVX2 and
 * AVX-512BW: there such weights are widened to 16 bits. */
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__aarch64__)
enum { CAN_WIDE = 0 };
#else
enum { CAN_WIDE = 1 };
#endif
/* dpbusd wants unsigned codes; everywhere else the codes of 6 and 8 bits stay signed. */
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
enum { OFFSET_CODES = 1 };
#else
enum { OFFSET_CODES = 0 };
#endif

typedef struct panel {
    uint8_t code[PANEL_K * ROWS] __attribute__((aligned(64))); /* wide: int16_t, half the columns */
    float d[PANEL_K / 16 * ROWS] __attribute__((aligned(64)));
    float m[PANEL_K / 32 * ROWS] __attribute__((aligned(64)));
} panel;

/* What is constant per type: weights and bytes of a block, weights per scale, codes' bits. */
typedef struct traits {
    int block, bytes, scaled, bits;
    bool min, wide;
    int offset;
} traits;

SIMD_INLINE traits traits_of(zb_packing t) {
    switch (t) {
    case ZB_PACKING_Q8_0: return (traits){32, 34, 32, 8, false, CAN_WIDE, OFFSET_CODES * 128};
    case ZB_PACKING_Q4_0: return (traits){32, 18, 32, 4, true, false, 0};
    case ZB_PACKING_Q4_1: return (traits){32, 20, 32, 4, true, false, 0};
    case ZB_PACKING_Q5_0: return (traits){32, 22, 32, 5, true, false, 0};
    case ZB_PACKING_Q5_1: return (traits){32, 24, 32, 5, true, false, 0};
    case ZB_PACKING_Q4_K: return (traits){256, 144, 32, 4, true, false, 0};
    case ZB_PACKING_Q5_K: return (traits){256, 176, 32, 5, true, false, 0};
    case ZB_PACKING_Q6_K:
        return (traits){256, 210, CAN_WIDE ? 32 : 16, 6, false, CAN_WIDE, OFFSET_CODES * 32};
    case ZB_PACKINGS: break;
    }
    return (traits){0};
}

#define ONE_BYTES 0x0101010101010101
#define BITS_OF_BYTE 0x8040201008040201u

typedef uint8_t v32 __attribute__((vector_size(32)));
typedef uint8_t v16 __attribute__((vector_size(16)));
typedef union v32_parts {
    v32 all;
    v16 half[2];
    uint64_t word[4];
} v32_parts;

SIMD_INLINE v32 load_32(const uint8_t *p) {
    v32 x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Sixteen bytes: low nibbles are codes 0..15, high nibbles 16..31. */
SIMD_INLINE v32 nibbles(const uint8_t *p) {
#if defined(__x86_64__)
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)p);
    return (v32)_mm256_set_m128i(_mm_srli_epi16(x, 4), x) & 15;
#else
    v16 x;
    memcpy(&x, p, sizeof x);
    v32_parts y = {.half = {x & 15, x >> 4}};
    return y.all;
#endif
}

/* 16 where bit i of `high` is set, for i = 0..31. */
SIMD_INLINE v32 fifth_bits(const uint8_t *high) {
    const v32_parts bit = {.word = {BITS_OF_BYTE, BITS_OF_BYTE, BITS_OF_BYTE, BITS_OF_BYTE}};
#if defined(__x86_64__)
    int32_t word;
    memcpy(&word, high, 4);
    const __m256i byte_of = _mm256_setr_epi64x(0, ONE_BYTES, 2 * ONE_BYTES, 3 * ONE_BYTES);
    v32 spread = (v32)_mm256_shuffle_epi8(_mm256_set1_epi32(word), byte_of);
#else
    v32_parts y = {.word = {high[0] * ONE_BYTES, high[1] * ONE_BYTES, high[2] * ONE_BYTES,
                            high[3] * ONE_BYTES}};
    v32 spread = y.all;
#endif
    return (v32)((spread & bit.all) != 0) & 16;
}

/* The 32 codes at columns c..c+31 of a block, c a multiple of 32 (layouts: tensor/dtype.c). */
SIMD_INLINE v32 codes_of(zb_packing t, const uint8_t *b, int c) {
    switch (t) {
    case ZB_PACKING_Q8_0: return load_32(b + 2) ^ (uint8_t)(OFFSET_CODES * 128);
    case ZB_PACKING_Q4_0: return nibbles(b + 2);
    case ZB_PACKING_Q4_1: return nibbles(b + 4);
    case ZB_PACKING_Q5_0: return nibbles(b + 6) | fifth_bits(b + 2);
    case ZB_PACKING_Q5_1: return nibbles(b + 8) | fifth_bits(b + 4);
    case ZB_PACKING_Q4_K: {
        v32 q = load_32(b + 16 + c / 64 * 32);
        return c & 32 ? q >> 4 : q & 15;
    }
    case ZB_PACKING_Q5_K: {
        v32 q = load_32(b + 48 + c / 64 * 32), high = load_32(b + 16) >> (uint8_t)(c / 32);
        return (c & 32 ? q >> 4 : q & 15) | (high & 1) << 4;
    }
    case ZB_PACKING_Q6_K: {
        int quarter = c / 32 & 3;
        v32 q = load_32(b + c / 128 * 64 + (quarter & 1) * 32);
        v32 high = load_32(b + 128 + c / 128 * 32) >> (uint8_t)(2 * quarter);
        v32 code = (quarter & 2 ? q >> 4 : q & 15) | (high & 3) << 4;
        return OFFSET_CODES ? code : code - 32;
    }
    case ZB_PACKINGS: break;
    }
    return (v32){0};
}

/* The first two halves of eight blocks: d, and what follows as m. */
SIMD_INLINE void heads_of(const uint8_t *const row[8], size_t at, float *d, float *m) {
#if defined(__x86_64__)
    const __m128i sort = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    __m128i four[2];
    for (int i = 0; i < 2; i++) {
        const uint8_t *const *r = row + 4 * i;
        __m128i low = _mm_unpacklo_epi32(_mm_loadu_si32(r[0] + at), _mm_loadu_si32(r[1] + at));
        __m128i high = _mm_unpacklo_epi32(_mm_loadu_si32(r[2] + at), _mm_loadu_si32(r[3] + at));
        four[i] = _mm_shuffle_epi8(_mm_unpacklo_epi64(low, high), sort);
    }
    _mm256_storeu_ps(d, _mm256_cvtph_ps(_mm_unpacklo_epi64(four[0], four[1])));
    _mm256_storeu_ps(m, _mm256_cvtph_ps(_mm_unpackhi_epi64(four[0], four[1])));
#else
    for (int i = 0; i < 8; i++) {
        d[i] = f32_load_f16(row[i] + at);
        m[i] = f32_load_f16(row[i] + at + 2);
    }
#endif
}

/* Scales and minima of one super-block of one row: group g of its row stands at [g*ROWS]. */
SIMD_INLINE void scales_of(zb_packing t, const uint8_t *b, float *d, float *m) {
    if (t == ZB_PACKING_Q6_K) {
        float scale = f32_load_f16(b + 208);
        const int groups = CAN_WIDE ? 8 : 16; /* wide codes carry the 8-bit scales themselves */
        for (int g = 0; g < groups; g++)
            d[g * ROWS] = CAN_WIDE ? scale : scale * (float)(int8_t)b[192 + g];
        return;
    }
    float scale = f32_load_f16(b), least = -f32_load_f16(b + 2);
    const uint8_t *s = b + 4;
    for (int g = 0; g < 4; g++) { /* 6 bits each: groups g and g + 4 */
        d[g * ROWS] = scale * (float)(s[g] & 63);
        m[g * ROWS] = least * (float)(s[g + 4] & 63);
        d[(g + 4) * ROWS] = scale * (float)((s[g + 8] & 15) | s[g] >> 6 << 4);
        m[(g + 4) * ROWS] = least * (float)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}

/* Scales of one block of eight rows. */
SIMD_INLINE void pack_scales(zb_packing t, const uint8_t *const row[8], size_t at, float *d,
                             float *m) {
    if (traits_of(t).block == 256) {
        for (int r = 0; r < 8; r++) scales_of(t, row[r] + at, d + r, m + r);
        return;
    }
    heads_of(row, at, d, m);
    for (int r = 0; r < 8 && (t == ZB_PACKING_Q4_0 || t == ZB_PACKING_Q5_0); r++)
        m[r] = d[r] * (t == ZB_PACKING_Q4_0 ? -8.0f : -16.0f);
}

/* Eight rows of eight 32-bit words to eight columns of eight words, ROWS words apart. */
SIMD_INLINE void transpose_8(const v32 row[8], uint8_t *out) {
#if defined(__x86_64__)
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32((__m256i)row[i], (__m256i)row[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32((__m256i)row[i], (__m256i)row[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m256i low = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        __m256i high = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
        memcpy(out + i * 4 * ROWS, &low, sizeof low);
        memcpy(out + (i + 4) * 4 * ROWS, &high, sizeof high);
    }
#else
    for (int r = 0; r < 8; r++)
        for (int i = 0; i < 8; i++)
            memcpy(out + (i * ROWS + r) * 4, (const uint8_t *)&row[r] + 4 * i, 4);
#endif
}

/* Signed codes 16*half..16*half+15 as 16 bits, times `scale`. */
SIMD_INLINE v32 widened(v32 x, int half, int scale) {
    typedef int8_t s16 __attribute__((vector_size(16)));
    typedef int16_t w16 __attribute__((vector_size(32)));
#if defined(__x86_64__)
    s16 part =
        (s16)(half ? _mm256_extracti128_si256((__m256i)x, 1) : _mm256_castsi256_si128((__m256i)x));
#else
    v32_parts y = {.all = x};
    s16 part = (s16)y.half[half];
#endif
    return (v32)(__builtin_convertvector(part, w16) * (int16_t)scale);
}

/* Eight rows of one block at `at`, columns k0.. of the panel, rows r.. of the panel. */
SIMD_INLINE void pack_block(zb_packing t, const uint8_t *const row[8], size_t at, int k0, int r,
                            panel *p) {
    const traits x = traits_of(t);
    pack_scales(t, row, at, p->d + k0 / x.scaled * ROWS + r, p->m + k0 / 32 * ROWS + r);
    for (int c = 0; c < x.block; c += 32) {
        v32 code[8], part[8];
        for (int i = 0; i < 8; i++) code[i] = codes_of(t, row[i] + at, c);
        uint8_t *out = p->code + (size_t)((k0 + c) * (x.wide ? 2 : 1) * ROWS + r * 4);
        for (int half = 0; half < 2 && x.wide; half++, out += 32 * ROWS) {
            for (int i = 0; i < 8; i++) {
                const uint8_t *scale = row[i] + at + 192 + c / 16 + half; /* read in Q6_K only */
                part[i] = widened(code[i], half, t == ZB_PACKING_Q6_K ? (int8_t)*scale : 1);
            }
            transpose_8(part, out);
        }
        if (!x.wide) transpose_8(code, out);
    }
}

/* Rows first.. of the tile (the last again for those that are missing) from column k0 on, which
 * begins a block: k columns. */
SIMD_INLINE void pack(const zb_igemm_args *g, zb_packing t, int k0, int k, panel *p) {
    const traits x = traits_of(t);
    const uint8_t *w = g->w + (size_t)(k0 / x.block) * (size_t)x.bytes;
    for (int r = 0; r < ROWS; r += 8) {
        const uint8_t *row[8];
        for (int i = 0; i < 8; i++)
            row[i] = w + (size_t)(r + i < g->rows ? r + i : g->rows - 1) * g->row_bytes;
        size_t at = 0;
        for (int c = 0; c < k; c += x.block, at += (size_t)x.bytes) pack_block(t, row, at, c, r, p);
    }
}

#endif
