/* simd.h - one vector type and its helpers, so that each fast kernel is written once; private to
 * src/kernels.
 *
 * `vf` holds VW floats: 16 with AVX-512, 8 with AVX2, 4 with NEON. Arithmetic and comparison are
 * the compiler's vector extensions (a comparison gives `vi`, all bits set where true). Intrinsics
 * appear only here, where the extensions have no word for it or compile to something slow. Every
 * load and store takes any alignment; the `_n` forms touch only the first n floats, n >= VW
 * meaning all of them. */
#ifndef ZB_KERNELS_SIMD_H
#define ZB_KERNELS_SIMD_H

#include "kernels/kernels_impl.h"

#include <math.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define VW 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define VW 8
#elif defined(__aarch64__)
#include <arm_neon.h>
#define VW 4
#else
#error "simd.h needs AVX2, AVX-512 or NEON"
#endif

typedef float vf __attribute__((vector_size(4 * VW)));
typedef int32_t vi __attribute__((vector_size(4 * VW)));
typedef uint32_t vu __attribute__((vector_size(4 * VW)));
typedef float vf_any __attribute__((vector_size(4 * VW), aligned(1), may_alias));

#define SIMD_INLINE static inline __attribute__((always_inline))

/* Before a loop over registers: it must disappear, or its arrays live in memory. */
#if defined(__clang__)
#define SIMD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SIMD_UNROLL _Pragma("GCC unroll 16")
#endif

SIMD_INLINE vf vf_set1(float x) { return (vf){0} + x; } /* vf_splat: the broadcast alone */
SIMD_INLINE vf vf_load(const void *p) { return *(const vf_any *)p; }
SIMD_INLINE void vf_store(void *p, vf x) { *(vf_any *)p = x; }

#if defined(__AVX512F__)

SIMD_INLINE __mmask16 vf_first(int n) { return (__mmask16)((1u << n) - 1); }
SIMD_INLINE vf vf_load_part(const float *p, int n, vf fill) {
    return (vf)_mm512_mask_loadu_ps((__m512)fill, vf_first(n), p);
}
SIMD_INLINE void vf_store_part(float *p, int n, vf x) {
    _mm512_mask_storeu_ps(p, vf_first(n), (__m512)x);
}
SIMD_INLINE vf vf_select(vi mask, vf yes, vf no) {
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); /* one vpternlog */
}
SIMD_INLINE vf vf_splat(float x) { return (vf)_mm512_set1_ps(x); }
SIMD_INLINE vf vf_fma(vf a, vf b, vf c) {
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
SIMD_INLINE vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
SIMD_INLINE float vf_sum(vf x) { return _mm512_reduce_add_ps((__m512)x); }
SIMD_INLINE float vf_hmax(vf x) { return _mm512_reduce_max_ps((__m512)x); }
SIMD_INLINE vf vf_load_bf16(const void *p) {
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16);
}
SIMD_INLINE vf vf_load_f16(const void *p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256(p)); }
SIMD_INLINE void vf_store_f16(void *p, vf x) {
    _mm256_storeu_si256(p, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
}
SIMD_INLINE vf vf_load_i8(const void *p) {
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
SIMD_INLINE float f32_load_f16(const void *p) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(kern_load_u16(p))));
}
/* The first two halves of each of four blocks as floats: one conversion instead of eight, which
 * would be the bottleneck. They go through memory, from where a scalar is broadcast for free. */
SIMD_INLINE void load_heads(const uint8_t *const block[4], float out[8]) {
    __m128i b0 = _mm_loadu_si32(block[0]), b1 = _mm_loadu_si32(block[1]);
    __m128i b2 = _mm_loadu_si32(block[2]), b3 = _mm_loadu_si32(block[3]);
    __m128i halves = _mm_unpacklo_epi64(_mm_unpacklo_epi32(b0, b1), _mm_unpacklo_epi32(b2, b3));
    _mm256_storeu_ps(out, _mm256_cvtph_ps(halves));
    __asm__("" : "+m"(*(float(*)[8])out)); /* or the compiler shuffles registers after all */
}
SIMD_INLINE vi vi_load_u8(const void *p) { return (vi)_mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
SIMD_INLINE vf vf_of_vi(vi x) { return (vf)_mm512_cvtepi32_ps((__m512i)x); }

/* Nearest integers, ties to even (the rounding mode nobody changes). */
SIMD_INLINE vi vi_nearest(vf x) { return (vi)_mm512_cvtps_epi32((__m512)x); }
SIMD_INLINE int vi_sum(vi x) { return _mm512_reduce_add_epi32((__m512i)x); }
SIMD_INLINE uint32_t vu_hmax(vu x) { return _mm512_reduce_max_epu32((__m512i)x); }
SIMD_INLINE vu vu_max(vu a, vu b) { return (vu)_mm512_max_epu32((__m512i)a, (__m512i)b); }
/* 32 integers of -128..127 as bytes. */
SIMD_INLINE void store_i8(int8_t *p, const vi x[32 / VW]) {
    for (int v = 0; v < 2; v++)
        _mm_storeu_si128((__m128i *)(void *)(p + v * VW), _mm512_cvtepi32_epi8((__m512i)x[v]));
}

typedef __m512d vd; /* half of a vf, in double */
SIMD_INLINE vd vd_zero(void) { return _mm512_setzero_pd(); }
SIMD_INLINE vd vd_square_add(vd sum, vf x) {
    vd lo = _mm512_cvtps_pd(_mm512_castps512_ps256((__m512)x));
    vd hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)x, 1));
    return _mm512_fmadd_pd(hi, hi, _mm512_fmadd_pd(lo, lo, sum));
}
SIMD_INLINE double vd_sum(vd x) { return _mm512_reduce_add_pd(x); }

#elif defined(__AVX2__)

/* Lane i of the mask for n floats is set where i < n. */
SIMD_INLINE __m256i vf_first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SIMD_INLINE vf vf_load_part(const float *p, int n, vf fill) {
    __m256i m = vf_first(n);
    return (vf)_mm256_blendv_ps((__m256)fill, _mm256_maskload_ps(p, m), (__m256)m);
}
SIMD_INLINE void vf_store_part(float *p, int n, vf x) {
    _mm256_maskstore_ps(p, vf_first(n), (__m256)x);
}
SIMD_INLINE vf vf_select(vi mask, vf yes, vf no) {
    return (vf)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
}
SIMD_INLINE vf vf_splat(float x) { return (vf)_mm256_set1_ps(x); }
SIMD_INLINE vf vf_fma(vf a, vf b, vf c) {
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
SIMD_INLINE vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
SIMD_INLINE float vf_sum(vf x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
SIMD_INLINE float vf_hmax(vf x) {
    __m128 s = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
SIMD_INLINE vf vf_load_bf16(const void *p) {
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16);
}
SIMD_INLINE vf vf_load_f16(const void *p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128(p)); }
SIMD_INLINE void vf_store_f16(void *p, vf x) {
    _mm_storeu_si128(p, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
}
SIMD_INLINE vf vf_load_i8(const void *p) {
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
SIMD_INLINE float f32_load_f16(const void *p) {
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(kern_load_u16(p))));
}
/* The first two halves of each of four blocks as floats: one conversion instead of eight, which
 * would be the bottleneck. They go through memory, from where a scalar is broadcast for free. */
SIMD_INLINE void load_heads(const uint8_t *const block[4], float out[8]) {
    __m128i b0 = _mm_loadu_si32(block[0]), b1 = _mm_loadu_si32(block[1]);
    __m128i b2 = _mm_loadu_si32(block[2]), b3 = _mm_loadu_si32(block[3]);
    __m128i halves = _mm_unpacklo_epi64(_mm_unpacklo_epi32(b0, b1), _mm_unpacklo_epi32(b2, b3));
    _mm256_storeu_ps(out, _mm256_cvtph_ps(halves));
    __asm__("" : "+m"(*(float(*)[8])out)); /* or the compiler shuffles registers after all */
}
SIMD_INLINE vi vi_load_u8(const void *p) { return (vi)_mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
SIMD_INLINE vf vf_of_vi(vi x) { return (vf)_mm256_cvtepi32_ps((__m256i)x); }

/* Nearest integers, ties to even (the rounding mode nobody changes). */
SIMD_INLINE vi vi_nearest(vf x) { return (vi)_mm256_cvtps_epi32((__m256)x); }
SIMD_INLINE int vi_sum(vi x) {
    __m128i s =
        _mm_add_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
SIMD_INLINE uint32_t vu_hmax(vu x) {
    __m128i s =
        _mm_max_epu32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    s = _mm_max_epu32(s, _mm_shuffle_epi32(s, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(s, _mm_shuffle_epi32(s, 0xb1)));
}
SIMD_INLINE vu vu_max(vu a, vu b) { return (vu)_mm256_max_epu32((__m256i)a, (__m256i)b); }
/* 32 integers of -128..127 as bytes. Packing works within halves of registers: the permutation
 * puts the groups of four back in order. */
SIMD_INLINE void store_i8(int8_t *p, const vi x[32 / VW]) {
    __m256i lo = _mm256_packs_epi32((__m256i)x[0], (__m256i)x[1]);
    __m256i hi = _mm256_packs_epi32((__m256i)x[2], (__m256i)x[3]);
    __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i all = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(lo, hi), order);
    _mm256_storeu_si256((__m256i *)(void *)p, all);
}

typedef __m256d vd; /* half of a vf, in double */
SIMD_INLINE vd vd_zero(void) { return _mm256_setzero_pd(); }
SIMD_INLINE vd vd_square_add(vd sum, vf x) {
    vd lo = _mm256_cvtps_pd(_mm256_castps256_ps128((__m256)x));
    vd hi = _mm256_cvtps_pd(_mm256_extractf128_ps((__m256)x, 1));
    return _mm256_fmadd_pd(hi, hi, _mm256_fmadd_pd(lo, lo, sum));
}
SIMD_INLINE double vd_sum(vd x) { return (x[0] + x[2]) + (x[1] + x[3]); }

#else /* NEON */

SIMD_INLINE vf vf_load_part(const float *p, int n, vf fill) {
    memcpy(&fill, p, 4 * (size_t)n);
    return fill;
}
SIMD_INLINE void vf_store_part(float *p, int n, vf x) { memcpy(p, &x, 4 * (size_t)n); }
SIMD_INLINE vf vf_select(vi mask, vf yes, vf no) {
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}
SIMD_INLINE vf vf_splat(float x) { return (vf)vdupq_n_f32(x); }
SIMD_INLINE vf vf_fma(vf a, vf b, vf c) {
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
SIMD_INLINE vf vf_max(vf a, vf b) {
    return vf_select(a > b, a, b);
} /* as on x86: a NaN in `a` is passed over */
SIMD_INLINE float vf_sum(vf x) { return vaddvq_f32((float32x4_t)x); }
SIMD_INLINE float vf_hmax(vf x) { return vmaxvq_f32((float32x4_t)x); }
SIMD_INLINE vf vf_load_bf16(const void *p) {
    uint16x4_t h;
    memcpy(&h, p, sizeof h);
    return (vf)vshll_n_u16(h, 16);
}
SIMD_INLINE vf vf_load_f16(const void *p) {
    float16x4_t h;
    memcpy(&h, p, sizeof h);
    return (vf)vcvt_f32_f16(h);
}
SIMD_INLINE void vf_store_f16(void *p, vf x) {
    float16x4_t h = vcvt_f16_f32((float32x4_t)x);
    memcpy(p, &h, sizeof h);
}
SIMD_INLINE vf vf_load_i8(const void *p) {
    int8x8_t q = vdup_n_s8(0);
    memcpy(&q, p, 4);
    return (vf)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(q))));
}
SIMD_INLINE vi vi_load_u8(const void *p) {
    uint8x8_t q = vdup_n_u8(0);
    memcpy(&q, p, 4);
    return (vi)vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(q))));
}
SIMD_INLINE vf vf_of_vi(vi x) { return (vf)vcvtq_f32_s32((int32x4_t)x); }
SIMD_INLINE float f32_load_f16(const void *p) { return kern_f32_of_f16(kern_load_u16(p)); }
/* The first two halves of each of four blocks as floats. */
SIMD_INLINE void load_heads(const uint8_t *const block[4], float out[8]) {
    for (int b = 0; b < 4; b++) {
        out[2 * b] = f32_load_f16(block[b]);
        out[2 * b + 1] = f32_load_f16(block[b] + 2);
    }
}
/* Nearest integers, ties to even. */
SIMD_INLINE vi vi_nearest(vf x) { return (vi)vcvtnq_s32_f32((float32x4_t)x); }
SIMD_INLINE int vi_sum(vi x) { return vaddvq_s32((int32x4_t)x); }
SIMD_INLINE uint32_t vu_hmax(vu x) { return vmaxvq_u32((uint32x4_t)x); }
SIMD_INLINE vu vu_max(vu a, vu b) { return (vu)vmaxq_u32((uint32x4_t)a, (uint32x4_t)b); }
/* 32 integers of -128..127 as bytes. */
SIMD_INLINE void store_i8(int8_t *p, const vi x[32 / VW]) {
    for (int v = 0; v < 8; v += 2) {
        int16x8_t h = vcombine_s16(vmovn_s32((int32x4_t)x[v]), vmovn_s32((int32x4_t)x[v + 1]));
        vst1_s8(p + v * VW, vmovn_s16(h));
    }
}

typedef float64x2_t vd; /* half of a vf, in double */
SIMD_INLINE vd vd_zero(void) { return vdupq_n_f64(0); }
SIMD_INLINE vd vd_square_add(vd sum, vf x) {
    vd lo = vcvt_f64_f32(vget_low_f32((float32x4_t)x)), hi = vcvt_high_f64_f32((float32x4_t)x);
    return vfmaq_f64(vfmaq_f64(sum, lo, lo), hi, hi);
}
SIMD_INLINE double vd_sum(vd x) { return vaddvq_f64(x); }

#endif

/* Sums of four vectors, which cost less together than one by one. */
SIMD_INLINE void vf_sum4(vf a, vf b, vf c, vf d, float out[4]) {
#if defined(__aarch64__)
    float32x4_t ab = vpaddq_f32((float32x4_t)a, (float32x4_t)b),
                cd = vpaddq_f32((float32x4_t)c, (float32x4_t)d);
    vst1q_f32(out, vpaddq_f32(ab, cd));
#else
#if defined(__AVX512F__)
    __m256 x[4];
    const vf in[4] = {a, b, c, d};
    SIMD_UNROLL
    for (int i = 0; i < 4; i++)
        x[i] = _mm256_add_ps(_mm512_castps512_ps256((__m512)in[i]),
                             _mm512_extractf32x8_ps((__m512)in[i], 1));
#else
    const __m256 x[4] = {(__m256)a, (__m256)b, (__m256)c, (__m256)d};
#endif
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
#endif
}

/* The first n floats (the rest `fill`, or 0): loops over rows run `for (i = 0; i < n; i += VW)`
 * on n - i. */
SIMD_INLINE vf vf_load_fill(const float *p, int n, float fill) {
    return n >= VW ? vf_load(p) : vf_load_part(p, n, vf_set1(fill));
}
SIMD_INLINE vf vf_load_n(const float *p, int n) { return vf_load_fill(p, n, 0); }
SIMD_INLINE void vf_store_n(float *p, int n, vf x) {
    if (n >= VW)
        vf_store(p, x);
    else
        vf_store_part(p, n, x);
}

/* exp with relative error below 1.5e-7 between KERN_EXP_MIN and KERN_EXP_MAX.
 *
 * x = k ln2 + r, |r| <= ln2/2. Adding 1.5·2^23 rounds x/ln2 to the integer k and leaves it in the
 * low mantissa bits. ln2 comes in two parts, the first short enough that k times it is exact. e^r
 * = 1 + r + r² q(r), q of degree 4 interpolated at Chebyshev nodes (1e-8). The result is scaled
 * by adding k to its exponent, which cannot leave the normal range here. */
SIMD_INLINE vf vf_exp(vf x) {
    const float shift = 0x1.8p23f;
    vf t = x * 1.44269504f + shift, k = t - shift;
    vf r = x - k * 0x1.62e4p-1f - k * 1.42860677e-6f;
    vf q = (((r * 0x1.6d118p-10f + 0x1.120be2p-7f) * r + 0x1.555518p-5f) * r + 0x1.5554dcp-3f) * r +
           0.5f;
    vf p = r * r * q + r + 1.0f;
    vf y = (vf)((vu)p + ((vu)t << 23)); /* may wrap in lanes that are replaced below */
    y = vf_select(x <= KERN_EXP_MAX, y, x * INFINITY); /* infinity above, NaN stays NaN */
    return vf_select(x < KERN_EXP_MIN, vf_set1(0), y);
}

#endif
