/* kern_gemm.c - small and middle matrix products on one core: C[m,n] = alpha * A·B (+ C).
 *
 * The inner tile keeps MR x NR sums in registers and walks k: per step it loads one row of NR
 * values of B and broadcasts MR values of A, so that arithmetic, not loading, is the limit. A is
 * read where it lies, by its two strides; MR rows of KC values stay in the first cache. B is
 * walked in panels of NR columns and KC rows, which fit there too; a panel is copied to the stack
 * where that pays: its rows lie far apart and are used often, or its last columns are missing
 * (they are filled with zeros, so the tile never reads past a row). Loops: k blocks, panels of B,
 * tiles of A. */
#include "kernels/simd.h"

#if VW == 16
enum { MR = 12 };
#elif VW == 8
enum { MR = 6 };
#else
enum { MR = 12 };
#endif
/* NR is two vectors: with MR rows that fills the registers (24 + 2 of 32, 12 + 2 of 16). */
enum { NR = 2 * VW, KC = 4096 / NR };

/* One tile; g->m is the constant `rows`, g->n <= NR columns are stored though NR are computed. */
SIMD_INLINE void tile(const zb_gemm_args *g, int rows) {
    vf sum[MR][2];
    const float *a[MR];
    SIMD_UNROLL
    for (int i = 0; i < rows; i++) {
        sum[i][0] = sum[i][1] = vf_set1(0);
        a[i] = g->a + i * g->a_row;
    }
    const float *b = g->b;
    ptrdiff_t at = 0, step = g->a_col, ldb = g->ldb;
    for (int p = 0; p < g->k; p++, at += step, b += ldb) {
        vf b0 = vf_load(b), b1 = vf_load(b + VW);
        SIMD_UNROLL
        for (int i = 0; i < rows; i++) {
            float x = a[i][at];
            sum[i][0] += x * b0;
            sum[i][1] += x * b1;
        }
    }
    SIMD_UNROLL
    for (int i = 0; i < rows; i++) {
        float *c = g->c + i * g->ldc;
        for (int v = 0; v < 2; v++) {
            int left = g->n - v * VW;
            if (left <= 0) break;
            vf y = sum[i][v] * g->alpha;
            if (g->add) y += vf_load_n(c + v * VW, left);
            vf_store_n(c + v * VW, left, y);
        }
    }
}

static void tile_full(const zb_gemm_args *g) { tile(g, MR); }
static void tile_4(const zb_gemm_args *g) { tile(g, 4); }
static void tile_2(const zb_gemm_args *g) { tile(g, 2); }
static void tile_1(const zb_gemm_args *g) { tile(g, 1); }

/* All rows of A against one panel of B (g->n <= NR): full tiles, then the rest in tiles of 4, 2
 * and 1 rows. */
static void panel(const zb_gemm_args *g) {
    zb_gemm_args t = *g;
    while (t.m > 0) {
        int rows = t.m >= MR ? MR : t.m >= 4 ? 4 : t.m >= 2 ? 2 : 1;
        (rows == MR ? tile_full : rows == 4 ? tile_4 : rows == 2 ? tile_2 : tile_1)(&t);
        t.m -= rows;
        t.a += rows * t.a_row;
        t.c += rows * t.ldc;
    }
}

/* A panel of k rows and n <= NR columns, dense and filled up with zeros. */
static void pack(int k, int n, const float *b, ptrdiff_t ldb, float *out) {
    for (int p = 0; p < k; p++, b += ldb, out += NR) {
        vf_store(out, vf_load_n(b, n));
        vf_store(out + VW, n > VW ? vf_load_n(b + VW, n - VW) : vf_set1(0));
    }
}

static void gemm(const zb_gemm_args *g) {
    float packed[KC * NR] __attribute__((aligned(64)));
    if (g->k <= 0 && !g->add)
        for (int i = 0; i < g->m; i++) memset(g->c + i * g->ldc, 0, (size_t)g->n * sizeof(float));
    bool far = g->ldb > 2 * NR && g->m >= 4 * MR;
    zb_gemm_args t = *g;
    for (int p = 0; p < g->k; p += KC) {
        t.k = g->k - p < KC ? g->k - p : KC;
        t.a = g->a + p * g->a_col;
        t.add = g->add || p > 0;
        for (int j = 0; j < g->n; j += NR) {
            t.n = g->n - j < NR ? g->n - j : NR;
            t.b = g->b + p * g->ldb + j;
            t.ldb = g->ldb;
            t.c = g->c + j;
            if (far || t.n < NR) {
                pack(t.k, t.n, t.b, t.ldb, packed);
                t.b = packed;
                t.ldb = NR;
            }
            panel(&t);
        }
    }
}

void KERN_SYMBOL(kern_gemm_fill_)(zb_kernels *k) { k->gemm = gemm; }
