/* kern_igemm.c - packed weights times many tokens in 8-bit integers, the work of reading a prompt
 * (formula in kernels.h and kern_ref_igemm.c).
 *
 * A tile of 16 rows is first brought to a panel on the stack (igemm_pack.h): codes of neighbouring
 * columns interleaved by rows, scales as floats. Then TOKENS tokens at a time walk through it: a
 * vector of codes, four columns of VW rows, meets four values of a token broadcast to all lanes.
 * What the instruction sets do with them:
 *
 *   dpbusd (VNNI), NEON   four products per lane straight into 32-bit sums
 *   AVX2, AVX-512BW       maddubs: two products per 16-bit sum. |q| <= 127, so a pair of products
 *                         with 4-bit codes stays within 2·15·127 = 3,810 and eight of them within
 *                         30,480; with 5-bit codes four of them within 31,496: the whole block of
 *                         32 columns, or half of it, fits in 16 bits before it has to be widened.
 *                         Codes of 6 and 8 bits would overflow and are multiplied as 16-bit
 *                         numbers instead (pmaddwd), still twice the rate of f32.
 *
 * All integer sums are exact, so instruction sets differ only by the rounding of the f32 sums over
 * blocks. VNNI takes codes of 6 and 8 bits with an offset that makes them unsigned; offset·Σq is
 * taken off the integer sum, exactly.
 *
 * Long rows go in pieces of PANEL_K columns, so that the panel stays in the first cache; y is
 * added to from the second piece on. */
#include "kernels/igemm_pack.h"

#if VW == 8
enum { TOKENS = 4 }; /* times two vectors of rows: 8 sums of 16 registers */
#elif VW == 16
enum { TOKENS = 8 };
#else
enum { TOKENS = 2 };
#endif

/* Before a loop that must stay one: unrolled, its products are computed ahead and spilled. */
#if defined(__clang__)
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define ROLLED _Pragma("GCC unroll 1")
#endif

/* One tile's view of TOKENS tokens from column k0 on; past the last token the last repeats. */
typedef struct tokens {
    const int8_t *q[TOKENS];
    const float *d[TOKENS], *sum[TOKENS];
    const int16_t *half[TOKENS]; /* only read where codes have an offset */
} tokens;

typedef int16_t vs __attribute__((vector_size(4 * VW))); /* 16-bit lanes of a vf */
typedef int8_t vb __attribute__((vector_size(4 * VW)));

SIMD_INLINE vb load_codes(const uint8_t *p) {
    vb x;
    memcpy(&x, __builtin_assume_aligned(p, 4 * VW), sizeof x);
    return x;
}

/* Four bytes to every lane. */
SIMD_INLINE vi spread(const void *p) {
    int32_t x;
    memcpy(&x, p, 4);
    return (vi){0} + x;
}

#if defined(__AVX512VNNI__)
SIMD_INLINE vi dot4(vi sum, vb code, vb q) {
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)code, (__m512i)q);
}
#elif defined(__AVXVNNI__)
SIMD_INLINE vi dot4(vi sum, vb code, vb q) {
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)code, (__m256i)q);
}
#elif defined(__ARM_FEATURE_DOTPROD)
SIMD_INLINE vi dot4(vi sum, vb code, vb q) {
    return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)code, (int8x16_t)q);
}
#elif defined(__aarch64__)
/* Pairs of products, |code| <= 128: 2·128·127 = 32,512 fits in 16 bits. */
SIMD_INLINE vi dot4(vi sum, vb code, vb q) {
    int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)code), vget_low_s8((int8x16_t)q));
    int16x8_t high = vmull_high_s8((int8x16_t)code, (int8x16_t)q);
    return (vi)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
}
#elif defined(__AVX512F__)
SIMD_INLINE vs maddubs(vb code, vb q) {
    return (vs)_mm512_maddubs_epi16((__m512i)code, (__m512i)q);
}
SIMD_INLINE vi madd(vs x, vs y) { return (vi)_mm512_madd_epi16((__m512i)x, (__m512i)y); }
#elif defined(__AVX2__)
SIMD_INLINE vs maddubs(vb code, vb q) {
    return (vs)_mm256_maddubs_epi16((__m256i)code, (__m256i)q);
}
SIMD_INLINE vi madd(vs x, vs y) { return (vi)_mm256_madd_epi16((__m256i)x, (__m256i)y); }
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__aarch64__)

/* part[i][v] = Σ code·q - offset·Σq over n columns (32 or 16), for every token and row. */
SIMD_INLINE void multiply(traits x, const uint8_t *code, const tokens *t, int c, int n,
                          vi part[TOKENS][VECS]) {
    SIMD_UNROLL
    for (int i = 0; i < TOKENS; i++) {
        int less = 0;
        if (x.offset) less = t->half[i][c / 16] + (n == 32 ? t->half[i][c / 16 + 1] : 0);
        for (int v = 0; v < VECS; v++) part[i][v] = (vi){0} - x.offset * less;
    }
    ROLLED
    for (int p = 0; p < n; p += 4, code += 4 * ROWS) {
        vb w[VECS];
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++) w[v] = load_codes(code + v * 4 * VW);
        SIMD_UNROLL
        for (int i = 0; i < TOKENS; i++) {
            vb q = (vb)spread(t->q[i] + c + p);
            SIMD_UNROLL
            for (int v = 0; v < VECS; v++) part[i][v] = dot4(part[i][v], w[v], q);
        }
    }
}

#else

/* Codes of 4 and 5 bits, 32 columns: sums of `run` quadruples in 16 bits, then widened. */
SIMD_INLINE void multiply_narrow(traits x, const uint8_t *code, const tokens *t, int c,
                                 vi part[TOKENS][VECS]) {
    const vs ones = (vs){0} + 1;
    const int run = x.bits == 4 ? 8 : 4;
    SIMD_UNROLL
    for (int first = 0; first < 8; first += run) {
        vs s[TOKENS][VECS];
        SIMD_UNROLL
        for (int i = 0; i < TOKENS; i++)
            for (int v = 0; v < VECS; v++) s[i][v] = (vs){0};
        ROLLED
        for (int j = first; j < first + run; j++) {
            vb w[VECS];
            SIMD_UNROLL
            for (int v = 0; v < VECS; v++) w[v] = load_codes(code + (j * VECS + v) * 4 * VW);
            SIMD_UNROLL
            for (int i = 0; i < TOKENS; i++) {
                vb q = (vb)spread(t->q[i] + c + 4 * j);
                SIMD_UNROLL
                for (int v = 0; v < VECS; v++) s[i][v] += maddubs(w[v], q);
            }
        }
        SIMD_UNROLL
        for (int i = 0; i < TOKENS; i++)
            for (int v = 0; v < VECS; v++) {
                vi four = madd(s[i][v], ones);
                part[i][v] = first == 0 ? four : part[i][v] + four;
            }
    }
}

/* Codes and tokens in 16 bits, n columns; `wide` holds TOKENS rows of PANEL_K values. */
SIMD_INLINE void multiply_wide(const uint8_t *code, const int16_t *wide, int c, int n,
                               vi part[TOKENS][VECS]) {
    SIMD_UNROLL
    for (int i = 0; i < TOKENS; i++)
        for (int v = 0; v < VECS; v++) part[i][v] = (vi){0};
    ROLLED
    for (int p = 0; p < n; p += 2, code += 4 * ROWS) {
        vb w[VECS];
        SIMD_UNROLL
        for (int v = 0; v < VECS; v++) w[v] = load_codes(code + v * 4 * VW);
        SIMD_UNROLL
        for (int i = 0; i < TOKENS; i++) {
            vs q = (vs)spread(wide + i * (PANEL_K / 2) + c + p);
            SIMD_UNROLL
            for (int v = 0; v < VECS; v++) part[i][v] += madd((vs)w[v], q);
        }
    }
}

#endif

/* The panel's k columns times the tokens, into sums [TOKENS][VECS]: per block
 * sum += Σ code·q · (d · d_token) + m · sum_token. */
SIMD_INLINE void multiply_panel(traits x, const panel *p, const tokens *t, int k,
                                vf sum[TOKENS][VECS]) {
#if !(defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__aarch64__))
    int16_t wide[TOKENS * PANEL_K / 2] __attribute__((aligned(64)));
    for (int i = 0; i < TOKENS && x.wide; i++)
        for (int c = 0; c < k; c++) wide[i * (PANEL_K / 2) + c] = t->q[i][c];
#endif
    SIMD_UNROLL
    for (int i = 0; i < TOKENS; i++)
        for (int v = 0; v < VECS; v++) sum[i][v] = vf_set1(0);
    for (int c = 0; c < k; c += x.scaled) {
        vi part[TOKENS][VECS];
        const uint8_t *code = p->code + (size_t)(c * (x.wide ? 2 : 1)) * ROWS;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__) || defined(__aarch64__)
        multiply(x, code, t, c, x.scaled, part);
#else
        if (x.wide)
            multiply_wide(code, wide, c, x.scaled, part);
        else
            multiply_narrow(x, code, t, c, part);
#endif
        const float *d = p->d + c / x.scaled * ROWS, *m = p->m + c / 32 * ROWS;
        SIMD_UNROLL
        for (int i = 0; i < TOKENS; i++) {
            float dq = t->d[i][c / 32], total = t->sum[i][c / 32];
            SIMD_UNROLL
            for (int v = 0; v < VECS; v++) {
                sum[i][v] = vf_fma(vf_load(d + v * VW) * dq, vf_of_vi(part[i][v]), sum[i][v]);
                if (x.min) sum[i][v] = vf_fma(vf_load(m + v * VW), vf_splat(total), sum[i][v]);
            }
        }
    }
}

SIMD_INLINE tokens tokens_at(const zb_igemm_args *g, int first, int k0) {
    tokens t;
    for (int i = 0; i < TOKENS; i++) {
        ptrdiff_t at = first + i < g->n ? first + i : g->n - 1;
        t.q[i] = g->q + at * g->k + k0;
        t.d[i] = g->d + at * (g->k / 32) + k0 / 32;
        t.sum[i] = g->sum + at * (g->k / 32) + k0 / 32;
        t.half[i] = OFFSET_CODES ? g->half + at * (g->k / 16) + k0 / 16 : NULL;
    }
    return t;
}

/* Missing rows of the last tile repeat its last one and are not stored. */
SIMD_INLINE void run(const zb_igemm_args *g, zb_packing type) {
    const traits x = traits_of(type);
    const int step = x.wide ? PANEL_K / 2 : PANEL_K;
    panel p;
    for (int k0 = 0; k0 < g->k; k0 += step) {
        int k = g->k - k0 < step ? g->k - k0 : step;
        pack(g, type, k0, k, &p);
        for (int first = 0; first < g->n; first += TOKENS) {
            tokens t = tokens_at(g, first, k0);
            vf sum[TOKENS][VECS];
            multiply_panel(x, &p, &t, k, sum);
            for (int i = 0; i < TOKENS && first + i < g->n; i++)
                for (int v = 0; v < VECS; v++) {
                    float *y = g->y + (first + i) * g->ldy + v * VW;
                    int left = g->rows - v * VW;
                    if (left <= 0) break;
                    if (k0) sum[i][v] += vf_load_n(y, left);
                    vf_store_n(y, left, sum[i][v]);
                }
        }
    }
}

#define RUN(name, type)                                                                            \
    static void name(const zb_igemm_args *g) { run(g, type); }
RUN(run_q8_0, ZB_PACKING_Q8_0)
RUN(run_q4_0, ZB_PACKING_Q4_0)
RUN(run_q4_1, ZB_PACKING_Q4_1)
RUN(run_q5_0, ZB_PACKING_Q5_0)
RUN(run_q5_1, ZB_PACKING_Q5_1)
RUN(run_q4_k, ZB_PACKING_Q4_K)
RUN(run_q5_k, ZB_PACKING_Q5_K)
RUN(run_q6_k, ZB_PACKING_Q6_K)

static void igemm(const zb_igemm_args *g) {
    static void (*const of_type[ZB_PACKINGS])(const zb_igemm_args *) = {
        run_q8_0, run_q4_0, run_q4_1, run_q5_0, run_q5_1, run_q4_k, run_q5_k, run_q6_k};
    for (int i = 0; i < g->n && g->k == 0; i++)
        memset(g->y + i * g->ldy, 0, (size_t)g->rows * sizeof(float));
    if (g->rows > 0 && g->n > 0) of_type[g->type](g);
}

static void sum_halves(int k, const int8_t *q, int16_t *half) {
    for (int i = 0; i < k / 16; i++, q += 16) {
        int16_t sum = 0;
        for (int j = 0; j < 16; j++) sum = (int16_t)(sum + q[j]);
        half[i] = sum;
    }
}

void KERN_SYMBOL(kern_igemm_fill_)(zb_kernels *k) {
    k->igemm = igemm;
    k->igemm_vnni = OFFSET_CODES;
    k->sum_halves = sum_halves;
}
