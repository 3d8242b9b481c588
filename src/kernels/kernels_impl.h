/* kernels_impl.h - what the kernel files share with the table builder; private to src/kernels.
 *
 * Each file fills its own entries of a table. The vector files are compiled once per instruction
 * set with -DZB_ISA=<level>, which gives their one public symbol its suffix. */
#ifndef ZB_KERNELS_KERNELS_IMPL_H
#define ZB_KERNELS_KERNELS_IMPL_H

#include "kernels/kernels.h"

#include <string.h>

/* Range in which exp is computed: below it is 0, above it is infinite, on every instruction set
 * alike. exp(-87.3) is still a normal number, exp(88.7) still finite. */
#define KERN_EXP_MIN (-87.3f)
#define KERN_EXP_MAX 88.7f

/* Packed blocks of 32 weights and super-blocks of 256 (layouts of GGUF; sizes in bytes). */
enum { KERN_BLOCK = 32, KERN_Q8_0 = 34, KERN_Q4_0 = 18, KERN_Q4_1 = 20 };
enum { KERN_SUPER = 256, KERN_Q4_K = 144, KERN_Q5_K = 176, KERN_Q6_K = 210 };

#define KERN_PASTE_(a, b) a##b
#define KERN_PASTE(a, b) KERN_PASTE_(a, b)
#define KERN_SYMBOL(stem) KERN_PASTE(stem, ZB_ISA) /* kern_vec_fill_ + avx2 */

void kern_ref_fill(zb_kernels *k); /* every entry and the name "ref" */
void kern_ref_quant_fill(zb_kernels *k);
void kern_ref_igemm_fill(zb_kernels *k);
void kern_ref_tile_fill(zb_kernels *k);

#define KERN_DECLARE(isa)                                                                          \
    void kern_vec_fill_##isa(zb_kernels *k);                                                       \
    void kern_rows_fill_##isa(zb_kernels *k);                                                      \
    void kern_gemm_fill_##isa(zb_kernels *k);                                                      \
    void kern_quant_fill_##isa(zb_kernels *k);                                                     \
    void kern_scan_fill_##isa(zb_kernels *k);                                                      \
    void kern_int8_fill_##isa(zb_kernels *k);                                                      \
    void kern_attend_fill_##isa(zb_kernels *k);                                                    \
    void kern_cells_fill_##isa(zb_kernels *k);                                                     \
    void kern_gemm_##isa(const zb_gemm_args *g);                                                   \
    void kern_igemm_fill_##isa(zb_kernels *k);
KERN_DECLARE(avx2)
KERN_DECLARE(avx512)
KERN_DECLARE(neon)
/* With byte products into 32-bit sums, where the processor of a level has them on top. */
void kern_igemm_fill_avx2vnni(zb_kernels *k);
void kern_igemm_fill_avx512vnni(zb_kernels *k);
void kern_int8_fill_avx2vnni(zb_kernels *k);
void kern_int8_fill_avx512vnni(zb_kernels *k);
void kern_tile_fill_amx(zb_kernels *k);

static inline float kern_f32_of_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t kern_bits_of_f32(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Half precision widened exactly: exponent and mantissa moved to f32's place, the bias (15
 * against 127) corrected by a product with 2^112, which also normalises subnormals; infinity and
 * NaN get the full exponent. */
static inline float kern_f32_of_f16(uint16_t h) {
    uint32_t rest = (uint32_t)(h & 0x7fffu) << 13, sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t value = kern_bits_of_f32(kern_f32_of_bits(rest) * 0x1p112f);
    if (rest >= 0x7c00u << 13) value = rest | 0x7f800000u;
    return kern_f32_of_bits(value | sign);
}

/* Nearest bf16, ties to even: add half of the last kept place, one less where that place is even.
 * NaN keeps its upper bits and turns quiet, since adding could carry it into infinity. */
static inline uint16_t kern_bf16_of_f32(float f) {
    uint32_t u = kern_bits_of_f32(f);
    if (f != f) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

/* Scale of a block in 8 bits from the bits of its largest magnitude; inverse 0: all q are 0. */
typedef struct kern_q8_scale {
    float d, inverse;
} kern_q8_scale;

static inline kern_q8_scale kern_q8_scale_of(uint32_t most) {
    if (most >= 0x7f800000u) return (kern_q8_scale){kern_f32_of_bits(0x7fc00000u), 0};
    float d = kern_f32_of_bits(most) / 127;
    return d < 0x1p-126f ? (kern_q8_scale){0, 0} : (kern_q8_scale){d, 1 / d};
}

/* Nearest half, ties to even. Below the normal range the value is added to 2^-1, whose last place
 * is the step of the subnormal halves, so that the addition rounds; above it half of the last kept
 * place is added in integers, as for bf16. */
static inline uint16_t kern_f16_of_f32(float f) {
    uint32_t u = kern_bits_of_f32(f), sign = u >> 16 & 0x8000u, rest = u & 0x7fffffffu;
    if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520: halfway to 65536 */
    if (rest < 0x38800000u)
        return (uint16_t)(sign | (kern_bits_of_f32(kern_f32_of_bits(rest) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | ((rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13));
}

/* Scales and minima of the eight sub-blocks of a Q4_K or Q5_K super-block: 6 bits each in the 12
 * bytes s. Those of sub-blocks 0..3 are the low six bits of bytes 0..3 and 4..7; those of 4..7 have
 * their low four bits in the nibbles of bytes 8..11, their upper two in the upper bits of bytes
 * 0..3 and 4..7. Byte k of each result belongs to sub-block k. */
static inline void kern_scales_k(const uint8_t *s, uint64_t *scale, uint64_t *least) {
    uint32_t a, b, c;
    memcpy(&a, s, 4);
    memcpy(&b, s + 4, 4);
    memcpy(&c, s + 8, 4);
    uint32_t upper_scale = (c & 0x0f0f0f0fu) | (a >> 6 & 0x03030303u) << 4;
    uint32_t upper_least = (c >> 4 & 0x0f0f0f0fu) | (b >> 6 & 0x03030303u) << 4;
    *scale = (a & 0x3f3f3f3fu) | (uint64_t)upper_scale << 32;
    *least = (b & 0x3f3f3f3fu) | (uint64_t)upper_least << 32;
}

static inline uint16_t kern_load_u16(const void *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
