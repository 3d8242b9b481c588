/* kern_attend.c - vector versions of what attention over a cache needs besides kern_gemm.c:
 * products with rows on both sides, the step of an online softmax, and cached rows in and out of
 * their storage types (formulas in kern_ref.c).
 *
 * gemm_bt holds the sums of ROWS x COLS dot products in registers and walks k along both operands,
 * so keys are multiplied where they lie, without a transposed copy. What that costs is a sum
 * across lanes at the end; four of them share their shuffles. Every sum runs over k in the same
 * order whatever the size of the block it is in, so a row's result does not depend on how many
 * rows come with it; the fused steps are spelt out, since a compiler left to itself may fuse them
 * in one block size and not in another. */
#include "kernels/simd.h"

/* 12 sums, 3 vectors of A and one of B: the 16 registers of AVX2. */
enum { ROWS = 3, COLS = 4 };

SIMD_INLINE void dots(const zb_gemm_args *g, int rows, int cols) {
    vf sum[ROWS][COLS];
    SIMD_UNROLL
    for (int i = 0; i < ROWS; i++) SIMD_UNROLL
    for (int j = 0; j < COLS; j++) sum[i][j] = vf_set1(0);
    int p = 0;
    for (; p + VW <= g->k; p += VW) {
        vf a[ROWS];
        SIMD_UNROLL
        for (int i = 0; i < rows; i++) a[i] = vf_load(g->a + i * g->a_row + p);
        SIMD_UNROLL
        for (int j = 0; j < cols; j++) {
            vf b = vf_load(g->b + j * g->ldb + p);
            SIMD_UNROLL
            for (int i = 0; i < rows; i++) sum[i][j] = vf_fma(a[i], b, sum[i][j]);
        }
    }
    for (; p < g->k; p += VW)
        for (int j = 0; j < cols; j++) {
            vf b = vf_load_n(g->b + j * g->ldb + p, g->k - p);
            for (int i = 0; i < rows; i++)
                sum[i][j] = vf_fma(vf_load_n(g->a + i * g->a_row + p, g->k - p), b, sum[i][j]);
        }
    SIMD_UNROLL
    for (int i = 0; i < rows; i++) {
        float out[COLS], *c = g->c + i * g->ldc;
        vf_sum4(sum[i][0], sum[i][1], sum[i][2], sum[i][3], out);
        for (int j = 0; j < cols; j++) c[j] = fmaf(g->alpha, out[j], g->add ? c[j] : 0);
    }
}

static void dots_3x4(const zb_gemm_args *g) { dots(g, 3, 4); }
static void dots_2x4(const zb_gemm_args *g) { dots(g, 2, 4); }
static void dots_1x4(const zb_gemm_args *g) { dots(g, 1, 4); }
static void dots_3x1(const zb_gemm_args *g) { dots(g, 3, 1); }
static void dots_1x1(const zb_gemm_args *g) { dots(g, 1, 1); }

/* COLS rows of B stay in the first cache while all rows of A pass by. */
static void gemm_bt(const zb_gemm_args *g) {
    zb_gemm_args t = *g;
    for (int j = 0; j < g->n; j += t.n) {
        t.n = g->n - j >= COLS ? COLS : 1;
        t.b = g->b + j * g->ldb;
        for (int i = 0; i < g->m; i += t.m) {
            t.m = g->m - i >= 3 ? 3 : t.n == COLS && g->m - i == 2 ? 2 : 1;
            t.a = g->a + i * g->a_row;
            t.c = g->c + i * g->ldc + j;
            if (t.n == COLS)
                (t.m == 3 ? dots_3x4 : t.m == 2 ? dots_2x4 : dots_1x4)(&t);
            else
                (t.m == 3 ? dots_3x1 : dots_1x1)(&t);
        }
    }
}

static float softmax_step(int n, float *max, float *x) {
    vf m = vf_set1(*max);
    int i = 0;
    for (; i + VW <= n; i += VW) m = vf_max(vf_load(x + i), m);
    if (i < n) m = vf_max(vf_load_fill(x + i, n - i, -INFINITY), m);
    *max = vf_hmax(m);
    float shift = *max == -INFINITY ? 0 : *max;
    vf sum = vf_set1(0);
    for (i = 0; i < n; i += VW) {
        vf e = vf_exp(vf_load_fill(x + i, n - i, -INFINITY) - shift);
        vf_store_n(x + i, n - i, e);
        sum += e;
    }
    return vf_sum(sum);
}

static void f16_to_f32(int64_t n, const uint16_t *x, float *y) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vf_store(y + i, vf_load_f16(x + i));
    for (; i < n; i++) y[i] = kern_f32_of_f16(x[i]);
}

static void f32_to_f16(int64_t n, const float *x, uint16_t *y) {
    int64_t i = 0;
    for (; i + VW <= n; i += VW) vf_store_f16(y + i, vf_load(x + i));
    for (; i < n; i++) y[i] = kern_f16_of_f32(x[i]);
}

static void q8_0_to_f32(int64_t n, const uint8_t *b, float *y) {
    for (; n >= KERN_BLOCK; n -= KERN_BLOCK, b += KERN_Q8_0, y += KERN_BLOCK) {
        float d = kern_f32_of_f16(kern_load_u16(b));
        for (int i = 0; i < KERN_BLOCK; i += VW) vf_store(y + i, vf_load_i8(b + 2 + i) * d);
    }
    for (int i = 0; i < n; i++) y[i] = kern_f32_of_f16(kern_load_u16(b)) * (float)(int8_t)b[2 + i];
}

void KERN_SYMBOL(kern_attend_fill_)(zb_kernels *k) {
    k->gemm_bt = gemm_bt;
    k->softmax_step = softmax_step;
    k->f16_to_f32 = f16_to_f32;
    k->f32_to_f16 = f32_to_f16;
    k->q8_0_to_f32 = q8_0_to_f32;
}
