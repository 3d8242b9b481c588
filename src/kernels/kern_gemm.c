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
enum { NR = 2 * VW, KC = 4096 / NR, FEW = 3, FEW_VECS = 4 };

/* One tile; g->m is the constant `rows`, g->n <= vecs*VW columns are stored though all are
 * computed. */
SIMD_INLINE void tile(const zb_gemm_args *g, int rows, int vecs) {
    vf sum[MR][FEW_VECS];
    const float *a[MR];
    SIMD_UNROLL
    for (int i = 0; i < rows; i++) {
        SIMD_UNROLL
        for (int v = 0; v < vecs; v++) sum[i][v] = vf_set1(0);
        a[i] = g->a + i * g->a_row;
    }
    const float *b = g->b;
    ptrdiff_t at = 0, step = g->a_col, ldb = g->ldb;
    for (int p = 0; p < g->k; p++, at += step, b += ldb) {
        vf y[FEW_VECS];
        SIMD_UNROLL
        for (int v = 0; v < vecs; v++) y[v] = vf_load(b + v * VW);
        SIMD_UNROLL
        for (int i = 0; i < rows; i++) {
            vf x = vf_splat(a[i][at]);
            SIMD_UNROLL
            for (int v = 0; v < vecs; v++) sum[i][v] = vf_fma(x, y[v], sum[i][v]);
        }
    }
    SIMD_UNROLL
    for (int i = 0; i < rows; i++) {
        float *c = g->c + i * g->ldc;
        for (int v = 0; v < vecs; v++) {
            int left = g->n - v * VW;
            if (left <= 0) break;
            vf y = sum[i][v] * g->alpha;
            if (g->add) y = vf_fma(sum[i][v], vf_splat(g->alpha), vf_load_n(c + v * VW, left));
            vf_store_n(c + v * VW, left, y);
        }
    }
}

static void tile_full(const zb_gemm_args *g) { tile(g, MR, 2); }
static void tile_6(const zb_gemm_args *g) { tile(g, 6, 2); }
static void tile_5(const zb_gemm_args *g) { tile(g, 5, 2); }
static void tile_4(const zb_gemm_args *g) { tile(g, 4, 2); }
static void tile_3(const zb_gemm_args *g) { tile(g, 3, 2); }
static void tile_2(const zb_gemm_args *g) { tile(g, 2, 2); }
static void tile_1(const zb_gemm_args *g) { tile(g, 1, 2); }

/* Few rows leave registers free: twice the columns give enough independent sums to hide the
 * latency of the multiply-add. */
static void few_3(const zb_gemm_args *g) { tile(g, 3, FEW_VECS); }
static void few_2(const zb_gemm_args *g) { tile(g, 2, FEW_VECS); }
static void few_1(const zb_gemm_args *g) { tile(g, 1, FEW_VECS); }

/* Rows of the next tile: full ones, then the rest in equal halves, since a tile of one or two rows
 * waits for its sums. */
static int tile_rows(int m) {
    if (m >= 2 * MR || m == MR) return MR;
    int half = (m + 1) / 2;
    return m <= 6 ? m : half < 6 ? half : 6;
}

/* All rows of A against one panel of B (g->n <= NR). */
static void panel(const zb_gemm_args *g) {
    static void (*const small[])(const zb_gemm_args *) = {NULL,   tile_1, tile_2, tile_3,
                                                          tile_4, tile_5, tile_6};
    zb_gemm_args t = *g;
    while (t.m > 0) {
        int rows = tile_rows(t.m);
        (rows > 6 ? tile_full : small[rows])(&t);
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

void KERN_SYMBOL(kern_gemm_)(const zb_gemm_args *g) {
    float packed[KC * NR] __attribute__((aligned(64)));
    if (g->k <= 0 && !g->add)
        for (int i = 0; i < g->m; i++) memset(g->c + i * g->ldc, 0, (size_t)g->n * sizeof(float));
    bool far = g->ldb > 2 * NR && g->m >= 4 * MR;
    zb_gemm_args t = *g;
    for (int p = 0; p < g->k; p += KC) {
        t.k = g->k - p < KC ? g->k - p : KC;
        t.a = g->a + p * g->a_col;
        t.add = g->add || p > 0;
        int j = 0;
        t.ldb = g->ldb;
        for (; g->m <= FEW && j + FEW_VECS * VW <= g->n; j += FEW_VECS * VW) {
            t.n = FEW_VECS * VW;
            t.b = g->b + p * g->ldb + j;
            t.c = g->c + j;
            if (g->m > 0) (g->m == 3 ? few_3 : g->m == 2 ? few_2 : few_1)(&t);
        }
        for (; j < g->n; j += NR) {
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

void KERN_SYMBOL(kern_gemm_fill_)(zb_kernels *k) { k->gemm = KERN_SYMBOL(kern_gemm_); }
