/* product.h - small matrix products and transposes, as attention tiles and scan chunks write them.
 *
 * A thin dress for the kernel table's gemm: an operand is a pointer with its row distance, the
 * first one may be read by columns (transposed). With a room, both may be, and operands may be
 * rounded to bf16 (sums are of f32), as training does on matrix registers. One thread; nothing is
 * checked beyond what the kernels state. */
#ifndef ZB_MODEL_PRODUCT_H
#define ZB_MODEL_PRODUCT_H

#include "kernels/kernels.h"

#include <stddef.h>

typedef struct zb_shape {
    int m, n, k; /* C[m,n] from A[m,k] and B[k,n] */
} zb_shape;

typedef struct zb_left {
    const float *p;
    ptrdiff_t row, column;
} zb_left;

typedef struct zb_right {
    const float *p;
    ptrdiff_t row;
} zb_right;

typedef struct zb_out {
    float *p;
    ptrdiff_t row;
} zb_out;

/* A as stored, or the transpose of what is stored with that row distance. */
static inline zb_left zb_rows(const float *p, ptrdiff_t row) { return (zb_left){p, row, 1}; }
static inline zb_left zb_columns(const float *p, ptrdiff_t row) { return (zb_left){p, 1, row}; }

static inline void zb_product_to(zb_shape s, zb_left a, zb_right b, zb_out c, bool add) {
    zb_gemm_args g = {.m = s.m, .n = s.n, .k = s.k, .alpha = 1, .add = add};
    g.a = a.p;
    g.a_row = a.row;
    g.a_col = a.column;
    g.b = b.p;
    g.ldb = b.row;
    g.c = c.p;
    g.ldc = c.row;
    zb_kernels_get()->gemm(&g);
}

/* C = A·B and C += A·B */
static inline void zb_product(zb_shape s, zb_left a, zb_right b, zb_out c) {
    zb_product_to(s, a, b, c, false);
}
static inline void zb_product_add(zb_shape s, zb_left a, zb_right b, zb_out c) {
    zb_product_to(s, a, b, c, true);
}

/* out [cols, rows] from rows of `in`, in strips of 16 rows that stay in the cache. */
static inline void zb_transpose(const float *in, ptrdiff_t row, int rows, int cols, float *out) {
    for (int r0 = 0; r0 < rows; r0 += 16) {
        int r1 = r0 + 16 < rows ? r0 + 16 : rows;
        for (int c = 0; c < cols; c++)
            for (int r = r0; r < r1; r++) out[(size_t)c * rows + r] = in[r * row + c];
    }
}

/* Floats that rows packed for matrix registers take: pairs of strips, of whole tiles. */
static inline size_t zb_packed_floats(size_t rows, size_t depth) {
    return (rows + 31) / 32 * 32 * ((depth + 31) / 32 * 32) / 2;
}

/* Scratch of products: packed operands, or a transpose. Of zb_product_floats for the largest of
 * each size, and begins at a multiple of 64 bytes. */
typedef struct zb_product_room {
    float *at;
    bool bf16; /* round operands: pays where zb_kernels.tiles */
} zb_product_room;

static inline size_t zb_product_floats(int m, int n, int k) {
    size_t packed = zb_packed_floats((size_t)m, (size_t)k) + zb_packed_floats((size_t)n, (size_t)k),
           turned = (size_t)n * (size_t)k;
    return packed > turned ? packed : turned;
}

/* C = A·B (+ C); b stored [k,n], or `turned` as [n,k] with that row distance. */
void zb_product_in(const zb_product_room *room, zb_shape s, zb_left a, zb_right b, bool turned,
                   zb_out c, bool add);

#endif
