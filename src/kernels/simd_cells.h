/* simd_cells.h - rows of a cache as vectors, for kern_cells.c; private to src/kernels.
 *
 * A row is read where it lies: f32, bf16 and f16 as consecutive values, q8_0 as blocks of 32 with a
 * scale in front. `type` is a constant wherever these are called. Vectors never leave the row's
 * bytes; those of q8_0 may start at any multiple of VW, since its last block is whole. */
#ifndef ZB_KERNELS_SIMD_CELLS_H
#define ZB_KERNELS_SIMD_CELLS_H

#include "kernels/simd.h"

/* Where value i of a row stands, and the scale of its block. */
SIMD_INLINE const uint8_t *cell_at(zb_cell type, const uint8_t *row, int i) {
    if (type == ZB_CELL_Q8_0) return row + i / KERN_BLOCK * KERN_Q8_0 + 2 + i % KERN_BLOCK;
    return row + (size_t)i * (type == ZB_CELL_F32 ? 4 : 2);
}

SIMD_INLINE float cell_scale(zb_cell type, const uint8_t *row, int i) {
    return type == ZB_CELL_Q8_0 ? f32_load_f16(row + i / KERN_BLOCK * KERN_Q8_0) : 1;
}

/* VW values from p on; those of q8_0 without their scale. */
SIMD_INLINE vf cell_load(zb_cell type, const uint8_t *p) {
    if (type == ZB_CELL_F32) return vf_load(p);
    if (type == ZB_CELL_BF16) return vf_load_bf16(p);
    if (type == ZB_CELL_F16) return vf_load_f16(p);
    return vf_load_i8(p);
}

static inline float cell_one(zb_cell type, const uint8_t *row, int i) {
    const uint8_t *p = cell_at(type, row, i);
    float x;
    if (type == ZB_CELL_F32) return memcpy(&x, p, sizeof x), x;
    if (type == ZB_CELL_BF16) return kern_f32_of_bits((uint32_t)kern_load_u16(p) << 16);
    if (type == ZB_CELL_F16) return f32_load_f16(p);
    return cell_scale(type, row, i) * (float)(int8_t)*p;
}

/* Asks for `count` values from i on of the row that stands n rows behind row j. */
SIMD_INLINE void cell_ask(zb_cell type, const zb_cell_rows *c, int j, int i, int count) {
    if (!c->next) return;
    const uint8_t *row = c->p + (size_t)(j + c->n) * c->row_bytes;
    const uint8_t *p = cell_at(type, row, i), *end = cell_at(type, row, i + count);
    for (; p < end; p += 64) __builtin_prefetch(p);
}

/* Blocks of CELLS x CELLS values are transposed in registers. */
#if defined(__aarch64__)

enum { CELLS = 4 };
typedef vf vc;
SIMD_INLINE vc vc_load(zb_cell type, const uint8_t *p, float d) {
    return type == ZB_CELL_Q8_0 ? cell_load(type, p) * d : cell_load(type, p);
}
SIMD_INLINE void vc_transpose(const vc in[CELLS], float *out, ptrdiff_t row) {
    float32x4x2_t a = vtrnq_f32((float32x4_t)in[0], (float32x4_t)in[1]);
    float32x4x2_t b = vtrnq_f32((float32x4_t)in[2], (float32x4_t)in[3]);
    for (int i = 0; i < 2; i++) {
        vst1q_f32(out + i * row, vcombine_f32(vget_low_f32(a.val[i]), vget_low_f32(b.val[i])));
        vst1q_f32(out + (i + 2) * row,
                  vcombine_f32(vget_high_f32(a.val[i]), vget_high_f32(b.val[i])));
    }
}

#else

enum { CELLS = 8 };
typedef __m256 vc; /* with AVX-512, too */
SIMD_INLINE vc vc_load(zb_cell type, const uint8_t *p, float d) {
    if (type == ZB_CELL_F32) return _mm256_loadu_ps((const float *)(const void *)p);
    if (type == ZB_CELL_BF16) {
        __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
    }
    if (type == ZB_CELL_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
    __m256i q = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(q), _mm256_set1_ps(d));
}
/* Pairs of values, then pairs of pairs, then halves of registers change places. */
SIMD_INLINE void vc_transpose(const vc in[CELLS], float *out, ptrdiff_t row) {
    __m256 pair[CELLS], four[CELLS];
    SIMD_UNROLL
    for (int i = 0; i < CELLS; i += 2) {
        pair[i] = _mm256_unpacklo_ps(in[i], in[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps(in[i], in[i + 1]);
    }
    SIMD_UNROLL
    for (int i = 0; i < CELLS; i += 4) {
        four[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
        four[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
        four[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
        four[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
    SIMD_UNROLL
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + i * row, _mm256_permute2f128_ps(four[i], four[i + 4], 0x20));
        _mm256_storeu_ps(out + (i + 4) * row, _mm256_permute2f128_ps(four[i], four[i + 4], 0x31));
    }
}

#endif

#endif
