/* dtype.c - facts about element types and exact conversion to f32 (contract in dtype.h).
 *
 * Packed types store blocks: a scale d (and for some a minimum m) as f16, then small integers q.
 * With ggml's layouts (llama.cpp's ggml-common.h), j counting inside a block:
 *   Q8_0  x = d·q                      Q4_0  x = d·(q-8)         Q4_1  x = d·q + m
 *   Q5_0  x = d·(q-16)                 Q5_1  x = d·q + m         (fifth bits in a 32-bit word)
 *   Q4_K, Q5_K  256 elements in 8 sub-blocks: x = (d·sc)·q - (dmin·mn), sc and mn 6-bit
 *   Q6_K  256 elements in 16 sub-blocks: x = (d·s)·(q-32), s 8-bit signed
 *   Q2_K  256 elements in 16 sub-blocks: x = (d·sc)·q - (dmin·mn), sc and mn 4-bit
 *   Q3_K  256 elements in 16 sub-blocks: x = (d·(s-32))·(q-4), s 6-bit
 *   IQ4_NL  x = d·v[q], v a table of 16 values
 *   IQ4_XS  256 elements in 8 sub-blocks: x = (d·(s-32))·v[q], s 6-bit
 *   TQ1_0, TQ2_0  256 elements: x = d·(q-1), q one of 0, 1, 2, in base 3 or two bits
 * Products are taken in the order shown, in f32, so the values are bit for bit those of ggml's
 * scalar code. All loads go through memcpy or bytes: sources may have any alignment. */
#include "tensor/dtype.h"

#include "kernels/kernels.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { QK = 32, QK_K = 256 }; /* elements per block, per super-block */

static float f32_of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t bits_of_f32(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

float zb_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u,
             mantissa = h & 0x3FFu;
    if (exponent == 31) return f32_of_bits(sign | 0x7F800000u | mantissa << 13);
    if (exponent != 0) return f32_of_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
    float tiny = (float)mantissa * 0x1p-24f; /* subnormal half: exact in f32 */
    return sign ? -tiny : tiny;
}

uint16_t zb_f32_to_f16(float f) {
    uint32_t u = bits_of_f32(f), a = u & 0x7FFFFFFFu;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (a >> 13 & 0x3FFu)); /* quiet NaN */
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); /* 65520 and above round to infinity */
    if (a < 0x38800000u) { /* below 2^-14: adding 1/2 leaves |f|·2^24, rounded, in the low bits */
        return (uint16_t)(sign | (bits_of_f32(f32_of_bits(a) + 0.5f) - bits_of_f32(0.5f)));
    }
    a += 0xFFFu + (a >> 13 & 1u); /* nearest even; a carry runs into the exponent, as it should */
    return (uint16_t)(sign | (a - 0x38000000u) >> 13);
}

uint16_t zb_f32_to_bf16(float f) {
    uint32_t u = bits_of_f32(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1u)) >> 16);
}

static uint16_t load16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static float load_f16(const uint8_t *p) { return zb_f16_to_f32(load16(p)); }

static void from_f32(const uint8_t *p, float *y) { memcpy(y, p, 4); }
static void from_f16(const uint8_t *p, float *y) { *y = load_f16(p); }
static void from_bf16(const uint8_t *p, float *y) { *y = zb_bf16_to_f32(load16(p)); }

static void from_f64(const uint8_t *p, float *y) {
    double d;
    memcpy(&d, p, 8);
    *y = (float)d;
}

static void from_q8_0(const uint8_t *p, float *y) {
    float d = load_f16(p);
    for (int j = 0; j < QK; j++) y[j] = d * (float)(int8_t)p[2 + j];
}

static void from_q4_0(const uint8_t *p, float *y) {
    float d = load_f16(p);
    for (int j = 0; j < QK / 2; j++) {
        y[j] = d * (float)((p[2 + j] & 15) - 8);
        y[j + QK / 2] = d * (float)((p[2 + j] >> 4) - 8);
    }
}

static void from_q4_1(const uint8_t *p, float *y) {
    float d = load_f16(p), m = load_f16(p + 2);
    for (int j = 0; j < QK / 2; j++) {
        y[j] = d * (float)(p[4 + j] & 15) + m;
        y[j + QK / 2] = d * (float)(p[4 + j] >> 4) + m;
    }
}

/* The five-bit code of element j from 16 bytes of nibbles and a word of fifth bits. */
static int code5(const uint8_t *nibbles, uint32_t high, int j) {
    int low = j < QK / 2 ? nibbles[j] & 15 : nibbles[j - QK / 2] >> 4;
    return low | (int)(high >> j & 1u) << 4;
}

static void from_q5_0(const uint8_t *p, float *y) {
    float d = load_f16(p);
    uint32_t high = load16(p + 2) | (uint32_t)load16(p + 4) << 16;
    for (int j = 0; j < QK; j++) y[j] = d * (float)(code5(p + 6, high, j) - 16);
}

static void from_q5_1(const uint8_t *p, float *y) {
    float d = load_f16(p), m = load_f16(p + 2);
    uint32_t high = load16(p + 4) | (uint32_t)load16(p + 6) << 16;
    for (int j = 0; j < QK; j++) y[j] = d * (float)code5(p + 8, high, j) + m;
}

/* Scale and minimum of sub-block k: 6 bits each, eight pairs in 12 bytes. */
static void unpack_scale(const uint8_t s[12], int k, int *sc, int *mn) {
    if (k < 4) {
        *sc = s[k] & 63;
        *mn = s[k + 4] & 63;
    } else {
        *sc = (s[k + 4] & 15) | s[k - 4] >> 6 << 4;
        *mn = s[k + 4] >> 4 | s[k] >> 6 << 4;
    }
}

/* Q4_K, and Q5_K when `high` points to its 32 bytes of fifth bits: bit k of high[l] belongs to
 * element l of sub-block k. */
static void from_k45(const uint8_t *p, const uint8_t *high, const uint8_t *nibbles, float *y) {
    float d = load_f16(p), dmin = load_f16(p + 2);
    for (int k = 0; k < QK_K / 32; k++) {
        int sc, mn, shift = k & 1 ? 4 : 0;
        unpack_scale(p + 4, k, &sc, &mn);
        float scale = d * (float)sc, least = dmin * (float)mn;
        const uint8_t *q = nibbles + 32 * (k / 2);
        for (int l = 0; l < 32; l++) {
            int code = q[l] >> shift & 15;
            if (high) code |= (high[l] >> k & 1) << 4;
            *y++ = scale * (float)code - least;
        }
    }
}

static void from_q4_k(const uint8_t *p, float *y) { from_k45(p, NULL, p + 16, y); }
static void from_q5_k(const uint8_t *p, float *y) { from_k45(p, p + 16, p + 48, y); }

/* Per half of 128 elements, quarter t = 0..3: low four bits from ql[l + 32·(t odd)], nibble t/2;
 * upper two bits from qh[l] at 2t; scale s[l/16 + 2t]. */
static void from_q6_k(const uint8_t *p, float *y) {
    float d = load_f16(p + 208);
    for (int h = 0; h < 2; h++) {
        const uint8_t *ql = p + 64 * h, *qh = p + 128 + 32 * h, *s = p + 192 + 8 * h;
        for (int t = 0; t < 4; t++)
            for (int l = 0; l < 32; l++) {
                int low = ql[l + 32 * (t & 1)] >> (t & 2 ? 4 : 0) & 15;
                int code = (low | (qh[l] >> 2 * t & 3) << 4) - 32;
                *y++ = d * (float)(int8_t)s[l / 16 + 2 * t] * (float)code;
            }
    }
}

/* The two-bit code of element i of a super-block from 64 bytes: four codes a byte, 32 elements
 * apart, each half of 128 elements in 32 bytes of its own. */
static int code2(const uint8_t *q, int i) {
    return q[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
}

static void from_q2_k(const uint8_t *p, float *y) {
    float d = load_f16(p + 80), dmin = load_f16(p + 82);
    for (int k = 0; k < QK_K / 16; k++) {
        float scale = d * (float)(p[k] & 15), least = dmin * (float)(p[k] >> 4);
        for (int i = 16 * k; i < 16 * k + 16; i++) y[i] = scale * (float)code2(p + 16, i) - least;
    }
}

/* 32 bytes of third bits (bit i/32 of byte i%32), two-bit codes, scales: their low four bits in
 * eight bytes, sub-blocks k and k + 8 sharing one, the upper two in four bytes. */
static void from_q3_k(const uint8_t *p, float *y) {
    const uint8_t *s = p + 96;
    float d = load_f16(p + 108);
    for (int k = 0; k < QK_K / 16; k++) {
        int low = s[k % 8] >> k / 8 * 4 & 15, high = s[8 + k % 4] >> k / 4 * 2 & 3;
        float scale = d * (float)((low | high << 4) - 32);
        for (int i = 16 * k; i < 16 * k + 16; i++) {
            int third = p[i % 32] >> i / 32 & 1;
            y[i] = scale * (float)((code2(p + 32, i) | third << 2) - 4);
        }
    }
}

/* 32 codes of four bits (nibbles as in Q4_0) that stand for values spaced like those of a bell
 * curve, not evenly. */
static void from_curve(const uint8_t *q, float scale, float *y) {
    static const int8_t value[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
    for (int j = 0; j < QK / 2; j++) {
        y[j] = scale * (float)value[q[j] & 15];
        y[j + QK / 2] = scale * (float)value[q[j] >> 4];
    }
}

static void from_iq4_nl(const uint8_t *p, float *y) { from_curve(p + 2, load_f16(p), y); }

/* Scale of sub-block k: low four bits in nibble k of four bytes, upper two at 2k of a word. */
static void from_iq4_xs(const uint8_t *p, float *y) {
    float d = load_f16(p);
    for (int k = 0; k < QK_K / QK; k++) {
        int low = p[4 + k / 2] >> k % 2 * 4 & 15, high = load16(p + 2) >> 2 * k & 3;
        from_curve(p + 8 + 16 * k, d * (float)((low | high << 4) - 32), y + QK * k);
    }
}

/* `digits` codes a byte, `bytes` elements apart. A byte is a fraction of 256 whose first digits in
 * base 3 are the codes: multiplied by 3^n without what overflows, it begins with digit n. */
static float *from_base3(const uint8_t *q, int bytes, int digits, float d, float *y) {
    for (int n = 0, power = 1; n < digits; n++, power *= 3)
        for (int l = 0; l < bytes; l++) *y++ = d * (float)(((q[l] * power & 255) * 3 >> 8) - 1);
    return y;
}

/* 32 and 16 bytes of five codes, and 4 of four. */
static void from_tq1_0(const uint8_t *p, float *y) {
    float d = load_f16(p + 52);
    y = from_base3(p, 32, 5, d, y);
    y = from_base3(p + 32, 16, 5, d, y);
    from_base3(p + 48, 4, 4, d, y);
}

static void from_tq2_0(const uint8_t *p, float *y) {
    float d = load_f16(p + 64);
    for (int i = 0; i < QK_K; i++) y[i] = d * (float)(code2(p, i) - 1);
}

static const struct {
    zb_dtype_info info;
    void (*to_f32)(const uint8_t *block, float *y);
} types[ZB_DTYPE_COUNT] = {
    [ZB_F32] = {{"F32", 1, 4, true}, from_f32},
    [ZB_F16] = {{"F16", 1, 2, true}, from_f16},
    [ZB_BF16] = {{"BF16", 1, 2, true}, from_bf16},
    [ZB_F64] = {{"F64", 1, 8, true}, from_f64},
    [ZB_I8] = {{"I8", 1, 1, false}, NULL},
    [ZB_U8] = {{"U8", 1, 1, false}, NULL},
    [ZB_I32] = {{"I32", 1, 4, false}, NULL},
    [ZB_I64] = {{"I64", 1, 8, false}, NULL},
    [ZB_BOOL] = {{"BOOL", 1, 1, false}, NULL},
    [ZB_Q8_0] = {{"Q8_0", QK, 34, true}, from_q8_0},
    [ZB_Q4_0] = {{"Q4_0", QK, 18, true}, from_q4_0},
    [ZB_Q4_1] = {{"Q4_1", QK, 20, true}, from_q4_1},
    [ZB_Q5_0] = {{"Q5_0", QK, 22, true}, from_q5_0},
    [ZB_Q5_1] = {{"Q5_1", QK, 24, true}, from_q5_1},
    [ZB_Q4_K] = {{"Q4_K", QK_K, 144, true}, from_q4_k},
    [ZB_Q5_K] = {{"Q5_K", QK_K, 176, true}, from_q5_k},
    [ZB_Q6_K] = {{"Q6_K", QK_K, 210, true}, from_q6_k},
    [ZB_Q2_K] = {{"Q2_K", QK_K, 84, true}, from_q2_k},
    [ZB_Q3_K] = {{"Q3_K", QK_K, 110, true}, from_q3_k},
    [ZB_IQ4_NL] = {{"IQ4_NL", QK, 18, true}, from_iq4_nl},
    [ZB_IQ4_XS] = {{"IQ4_XS", QK_K, 136, true}, from_iq4_xs},
    [ZB_TQ1_0] = {{"TQ1_0", QK_K, 54, true}, from_tq1_0},
    [ZB_TQ2_0] = {{"TQ2_0", QK_K, 66, true}, from_tq2_0},
};

const zb_dtype_info *zb_dtype_get(zb_dtype t) {
    ZB_ASSERT((unsigned)t < ZB_DTYPE_COUNT);
    return &types[t].info;
}

bool zb_dtype_find(const char *name, zb_dtype *out) {
    for (int t = 0; t < ZB_DTYPE_COUNT; t++)
        if (!strcmp(types[t].info.name, name)) {
            *out = (zb_dtype)t;
            return true;
        }
    return false;
}

bool zb_dtype_size(zb_dtype t, int64_t n, size_t *out) {
    const zb_dtype_info *d = zb_dtype_get(t);
    if (n < 0 || n % d->block != 0) return false;
    return !__builtin_mul_overflow((size_t)(n / d->block), (size_t)d->bytes, out);
}

void zb_dtype_to_f32(zb_dtype t, const void *src, float *dst, int64_t n) {
    const zb_dtype_info *d = zb_dtype_get(t);
    ZB_ASSERT(d->real && n >= 0 && n % d->block == 0);
    if (n == 0) return;
    const uint8_t *p = src;
    bool odd = (uintptr_t)src % 2;                       /* kernels read whole halves */
    switch (odd && d->block == 1 ? ZB_DTYPE_COUNT : t) { /* exact: the processor does not matter */
    case ZB_F32: memcpy(dst, src, (size_t)n * 4); break;
    case ZB_BF16: zb_kernels_get()->bf16_to_f32(n, src, dst); break;
    case ZB_F16: zb_kernels_get()->f16_to_f32(n, src, dst); break;
    case ZB_Q8_0: zb_kernels_get()->q8_0_to_f32(n, src, dst); break;
    default:
        for (int64_t i = 0; i < n; i += d->block, p += d->bytes) types[t].to_f32(p, dst + i);
    }
}

void zb_dtype_from_f32(zb_dtype t, const float *src, void *dst, int64_t n) {
    ZB_ASSERT((t == ZB_F32 || t == ZB_F16 || t == ZB_BF16) && n >= 0);
    if (n == 0) return;
    if (t == ZB_F32) {
        memcpy(dst, src, (size_t)n * 4);
        return;
    }
    uint8_t *p = dst;
    for (int64_t i = 0; i < n; i++, p += 2) {
        uint16_t h = t == ZB_F16 ? zb_f32_to_f16(src[i]) : zb_f32_to_bf16(src[i]);
        memcpy(p, &h, 2);
    }
}

int64_t zb_tensor_count(const zb_tensor *t) {
    int64_t n = 1;
    /* [huge, huge, 0] is legal and empty: its product must not be taken. */
    for (int i = 0; i < t->n_dims; i++)
        if (t->shape[i] == 0) return 0;
    for (int i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

const char *zb_tensor_shape_text(const zb_tensor *t, char out[96]) {
    int at = snprintf(out, 96, "%s [", zb_dtype_get(t->dtype)->name);
    for (int i = 0; i < t->n_dims; i++)
        at += snprintf(out + at, (size_t)(96 - at), "%s%" PRId64, i ? "," : "", t->shape[i]);
    snprintf(out + at, (size_t)(96 - at), "]");
    return out;
}
