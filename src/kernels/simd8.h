/* simd8.h - 32 bytes at once and their dot products, so that each kernel on 8-bit activations is
 * written once; private to src/kernels.
 *
 * `b32` holds 32 bytes in two halves of 16, `i8x32`'s products are summed by fours into `i32x8`,
 * lane i from bytes 4i..4i+3, so each half of the sums belongs to one half of the bytes. `f8` holds
 * the eight sums as floats. x86: one AVX2 register each, also with AVX-512, whose wider registers
 * would gain nothing on a stream from memory; the dot-product instructions (dpbusd) are used where
 * the file is compiled for them. NEON: two registers each. */
#ifndef ZB_KERNELS_SIMD8_H
#define ZB_KERNELS_SIMD8_H

#include "kernels/simd.h"

#if defined(__AVX2__)

typedef __m256i b32;
typedef __m256i i32x8;
typedef __m256 f8;

SIMD_INLINE b32 b32_load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
SIMD_INLINE b32 b32_load2(const void *lower, const void *upper) { /* 16 bytes from each */
    __m128i lo = _mm_loadu_si128((const __m128i *)lower);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(lo),
                                   _mm_loadu_si128((const __m128i *)upper), 1);
}
SIMD_INLINE b32 b32_load_both(const void *p) { /* the same 16 bytes in both halves */
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}
SIMD_INLINE b32 b32_set1(int x) { return _mm256_set1_epi8((char)x); }
SIMD_INLINE b32 b32_and(b32 a, b32 b) { return _mm256_and_si256(a, b); }
SIMD_INLINE b32 b32_or(b32 a, b32 b) { return _mm256_or_si256(a, b); }
SIMD_INLINE b32 b32_sub(b32 a, b32 b) { return _mm256_sub_epi8(a, b); }
/* Bits of 16-bit units: what comes in from the neighbouring byte must be masked off. */
#define b32_right(x, n) _mm256_srli_epi16(x, n)
#define b32_left(x, n) _mm256_slli_epi16(x, n)

SIMD_INLINE i32x8 i32x8_zero(void) { return _mm256_setzero_si256(); }
/* sum + u·s by fours, u 0..127, s -127..127. Two such products fit 16 bits with room for their
 * pair: 2·127·127 < 2^15. */
SIMD_INLINE i32x8 dot_codes(i32x8 sum, b32 u, b32 s) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    return _mm256_dpbusd_epi32(sum, u, s);
#elif defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sum, u, s);
#else
    __m256i pairs = _mm256_maddubs_epi16(u, s);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
/* The same for two pairs of operands with u 0..63: their 16-bit sums still fit together. */
SIMD_INLINE i32x8 dot_codes2(b32 u0, b32 s0, b32 u1, b32 s1) {
#if (defined(__AVX512VNNI__) && defined(__AVX512VL__)) || defined(__AVXVNNI__)
    return dot_codes(dot_codes(i32x8_zero(), u0, s0), u1, s1);
#else
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(u0, s0), _mm256_maddubs_epi16(u1, s1));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#endif
}
/* w·s by fours, w -128..127, s -127..127: |w| is unsigned and s takes over w's sign. |w| is
 * computed once for all s. */
SIMD_INLINE b32 b32_magnitude(b32 w) { return _mm256_abs_epi8(w); }
SIMD_INLINE i32x8 dot_signed(b32 w, b32 magnitude, b32 s) {
    b32 turned = _mm256_sign_epi8(s, w);
#if (defined(__AVX512VNNI__) && defined(__AVX512VL__)) || defined(__AVXVNNI__)
    return dot_codes(i32x8_zero(), magnitude, turned);
#else
    return _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, turned), _mm256_set1_epi16(1));
#endif
}

SIMD_INLINE f8 f8_zero(void) { return _mm256_setzero_ps(); }
SIMD_INLINE f8 f8_set1(float x) { return _mm256_set1_ps(x); }
SIMD_INLINE f8 f8_load(const float *p) { return _mm256_loadu_ps(p); }
SIMD_INLINE void f8_store(float *p, f8 x) { _mm256_storeu_ps(p, x); }
SIMD_INLINE f8 f8_of_i32x8(i32x8 x) { return _mm256_cvtepi32_ps(x); }
SIMD_INLINE f8 f8_of_u8(uint64_t bytes) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)bytes)));
}
SIMD_INLINE f8 f8_of_i8(const uint8_t *p) { /* 8 signed bytes */
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
SIMD_INLINE f8 f8_mul(f8 a, f8 b) { return _mm256_mul_ps(a, b); }
SIMD_INLINE f8 f8_add(f8 a, f8 b) { return _mm256_add_ps(a, b); }
SIMD_INLINE f8 f8_fma(f8 sum, f8 a, f8 b) { return _mm256_fmadd_ps(a, b, sum); }
SIMD_INLINE float f8_sum(f8 x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
/* Lane 2i or 2i+1 of each half, everywhere in that half. */
SIMD_INLINE f8 f8_spread0(f8 x) { return _mm256_permute_ps(x, 0x00); }
SIMD_INLINE f8 f8_spread2(f8 x) { return _mm256_permute_ps(x, 0xaa); }
/* a everywhere in the lower half, b in the upper. */
SIMD_INLINE f8 f8_set2(const float *a, const float *b) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_broadcast_ss(a)), _mm_broadcast_ss(b),
                                1);
}
/* The first two halves of blocks 0..3 as floats a_i, b_i, in the order
 * a0 b0 a2 b2 | a1 b1 a3 b3: one conversion for four blocks. */
SIMD_INLINE f8 f8_heads(const uint8_t *const block[4]) {
    __m128i even = _mm_unpacklo_epi32(_mm_loadu_si32(block[0]), _mm_loadu_si32(block[2]));
    __m128i odd = _mm_unpacklo_epi32(_mm_loadu_si32(block[1]), _mm_loadu_si32(block[3]));
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(even, odd));
}

#else /* NEON */

typedef struct b32 {
    uint8x16_t lo, hi;
} b32;
typedef struct i32x8 {
    int32x4_t lo, hi;
} i32x8;
typedef struct f8 {
    float32x4_t lo, hi;
} f8;

SIMD_INLINE b32 b32_load2(const void *lower, const void *upper) {
    return (b32){vld1q_u8((const uint8_t *)lower), vld1q_u8((const uint8_t *)upper)};
}
SIMD_INLINE b32 b32_load(const void *p) { return b32_load2(p, (const uint8_t *)p + 16); }
SIMD_INLINE b32 b32_load_both(const void *p) { return b32_load2(p, p); }
SIMD_INLINE b32 b32_set1(int x) { return (b32){vdupq_n_u8((uint8_t)x), vdupq_n_u8((uint8_t)x)}; }
SIMD_INLINE b32 b32_and(b32 a, b32 b) { return (b32){vandq_u8(a.lo, b.lo), vandq_u8(a.hi, b.hi)}; }
SIMD_INLINE b32 b32_or(b32 a, b32 b) { return (b32){vorrq_u8(a.lo, b.lo), vorrq_u8(a.hi, b.hi)}; }
SIMD_INLINE b32 b32_sub(b32 a, b32 b) { return (b32){vsubq_u8(a.lo, b.lo), vsubq_u8(a.hi, b.hi)}; }
SIMD_INLINE b32 b32_right(b32 x, int n) {
    int8x16_t by = vdupq_n_s8((int8_t)-n);
    return (b32){vshlq_u8(x.lo, by), vshlq_u8(x.hi, by)};
}
SIMD_INLINE b32 b32_left(b32 x, int n) {
    int8x16_t by = vdupq_n_s8((int8_t)n);
    return (b32){vshlq_u8(x.lo, by), vshlq_u8(x.hi, by)};
}

SIMD_INLINE i32x8 i32x8_zero(void) { return (i32x8){vdupq_n_s32(0), vdupq_n_s32(0)}; }
/* sum + a·b by fours of signed bytes; without the dot-product extension through 16-bit products,
 * whose pairs are summed in 32 bits. */
SIMD_INLINE int32x4_t dot16(int32x4_t sum, uint8x16_t ua, uint8x16_t ub) {
    int8x16_t a = vreinterpretq_s8_u8(ua), b = vreinterpretq_s8_u8(ub);
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, a, b);
#else
    int16x8_t lo = vmull_s8(vget_low_s8(a), vget_low_s8(b)), hi = vmull_high_s8(a, b);
    return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(lo), vpaddlq_s16(hi)));
#endif
}
SIMD_INLINE i32x8 dot_codes(i32x8 sum, b32 u, b32 s) { /* codes 0..127 are signed bytes too */
    return (i32x8){dot16(sum.lo, u.lo, s.lo), dot16(sum.hi, u.hi, s.hi)};
}
SIMD_INLINE i32x8 dot_codes2(b32 u0, b32 s0, b32 u1, b32 s1) {
    return dot_codes(dot_codes(i32x8_zero(), u0, s0), u1, s1);
}
SIMD_INLINE b32 b32_magnitude(b32 w) { return w; } /* of use on x86 only */
SIMD_INLINE i32x8 dot_signed(b32 w, b32 magnitude, b32 s) {
    (void)magnitude;
    return dot_codes(i32x8_zero(), w, s);
}

SIMD_INLINE f8 f8_set1(float x) { return (f8){vdupq_n_f32(x), vdupq_n_f32(x)}; }
SIMD_INLINE f8 f8_zero(void) { return f8_set1(0); }
SIMD_INLINE f8 f8_load(const float *p) { return (f8){vld1q_f32(p), vld1q_f32(p + 4)}; }
SIMD_INLINE void f8_store(float *p, f8 x) {
    vst1q_f32(p, x.lo);
    vst1q_f32(p + 4, x.hi);
}
SIMD_INLINE f8 f8_of_i32x8(i32x8 x) { return (f8){vcvtq_f32_s32(x.lo), vcvtq_f32_s32(x.hi)}; }
SIMD_INLINE f8 f8_of_u8(uint64_t bytes) {
    uint16x8_t w = vmovl_u8(vcreate_u8(bytes));
    return (f8){vcvtq_f32_u32(vmovl_u16(vget_low_u16(w))), vcvtq_f32_u32(vmovl_high_u16(w))};
}
SIMD_INLINE f8 f8_of_i8(const uint8_t *p) {
    int16x8_t w = vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)));
    return (f8){vcvtq_f32_s32(vmovl_s16(vget_low_s16(w))), vcvtq_f32_s32(vmovl_high_s16(w))};
}
SIMD_INLINE f8 f8_mul(f8 a, f8 b) { return (f8){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
SIMD_INLINE f8 f8_add(f8 a, f8 b) { return (f8){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
SIMD_INLINE f8 f8_fma(f8 sum, f8 a, f8 b) {
    return (f8){vfmaq_f32(sum.lo, a.lo, b.lo), vfmaq_f32(sum.hi, a.hi, b.hi)};
}
SIMD_INLINE float f8_sum(f8 x) { return vaddvq_f32(vaddq_f32(x.lo, x.hi)); }
SIMD_INLINE f8 f8_spread0(f8 x) { return (f8){vdupq_laneq_f32(x.lo, 0), vdupq_laneq_f32(x.hi, 0)}; }
SIMD_INLINE f8 f8_spread2(f8 x) { return (f8){vdupq_laneq_f32(x.lo, 2), vdupq_laneq_f32(x.hi, 2)}; }
SIMD_INLINE f8 f8_set2(const float *a, const float *b) {
    return (f8){vdupq_n_f32(*a), vdupq_n_f32(*b)};
}
SIMD_INLINE f8 f8_heads(const uint8_t *const block[4]) {
    static const int order[4] = {0, 2, 1, 3};
    float out[8];
    for (int i = 0; i < 4; i++) {
        out[2 * i] = f32_load_f16(block[order[i]]);
        out[2 * i + 1] = f32_load_f16(block[order[i]] + 2);
    }
    return f8_load(out);
}

#endif

#endif
