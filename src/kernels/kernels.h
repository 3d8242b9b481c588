/* kernels.h - the table of inner loops.
 *
 * Filled from the scalar reference (kern_ref.c, the specification) and overridden per instruction
 * set at first use; ZB_CPU=ref|avx2|avx512|neon lowers it. Kernels see raw pointers, sizes and
 * strides; they do not allocate, fail, lock or start threads, and accept any alignment and any
 * size >= 0 (tails included). Sums are f32 unless said otherwise; every instruction set agrees
 * with the reference within the rounding of a sum of that length. `+=` in a comment means that
 * the kernel accumulates into that output. */
#ifndef ZB_KERNELS_KERNELS_H
#define ZB_KERNELS_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* C[m,n] = alpha * A·B (+ C when `add`). Element (i,p) of A stands at a[i*a_row + p*a_col], so A
 * may be transposed; rows of B and C are contiguous, ldb and ldc elements apart. Small and middle
 * sizes (attention tiles, scan chunks), one thread; large products belong to tensor/matmul.h. */
typedef struct zb_gemm_args {
    int m, n, k;
    const float *a;
    ptrdiff_t a_row, a_col;
    const float *b;
    ptrdiff_t ldb;
    float *c;
    ptrdiff_t ldc;
    float alpha;
    bool add;
} zb_gemm_args;

/* Large products of bf16 with f32 sums, by tiles, for processors with matrix registers. Both
 * operands are packed first, then multiplied; a strip is 16 rows of the left or 16 columns of the
 * right one, cut into tiles of ZB_TILE_DEPTH along the sum. Packed, a tile is 512 bf16:
 *   left  [16 rows][32 values];   right  [16 pairs of values][16 columns][2].
 * What stands beyond an edge is 0 in the packed form, and nothing is read there. */
enum { ZB_TILE_ROWS = 16, ZB_TILE_DEPTH = 32, ZB_TILE = ZB_TILE_ROWS * ZB_TILE_DEPTH };
/* One strip of `rows` <= 16 rows (columns of the right operand) and `depth` values each: value d of
 * row r stands at x[r*row + d*step], where row or step is 1. out: [ceil(depth/32)][ZB_TILE]. */
typedef struct zb_tile_strip {
    int rows, depth;
    const float *x;
    ptrdiff_t row, step;
    bool right;
    uint16_t *out;
} zb_tile_strip;
/* C[m,n] (+)= the product of packed strips: those of A and B follow one another, `tiles` tiles
 * each, and there is an even number of both (one of zeros behind an odd one). One thread. */
typedef struct zb_tile_product {
    int m, n, tiles;
    const uint16_t *a, *b;
    float *c;
    ptrdiff_t ldc;
    bool add;
    bool far; /* C will not be found in a cache when it is read: it may go past them */
} zb_tile_product;

/* n rows of `width` values as caches keep them, row_bytes apart. q8_0: blocks of 32 behind an f16
 * scale; a last block that is not full is filled up with any codes. `next`: the n rows behind these
 * are asked for meanwhile (only a hint: they need not exist). */
typedef enum zb_cell { ZB_CELL_F32, ZB_CELL_BF16, ZB_CELL_F16, ZB_CELL_Q8_0 } zb_cell;
typedef struct zb_cell_rows {
    zb_cell type;
    int n, width;
    const uint8_t *p;
    size_t row_bytes;
    bool next;
} zb_cell_rows;

/* s[i,j] = q_i · k_j (+ s[i,j] when `add`) for m rows of q [m, k.width]; rows q_row and s_row
 * floats apart. */
typedef struct zb_scores_args {
    int m;
    const float *q;
    ptrdiff_t q_row;
    zb_cell_rows k;
    float *s;
    ptrdiff_t s_row;
    bool add;
} zb_scores_args;

/* o_i = keep[i]·o_i + Σ_j p[i,j] v_j for m rows of o [m, v.width] and p [m, v.n]. */
typedef struct zb_values_args {
    int m;
    const float *p;
    ptrdiff_t p_row;
    const float *keep;
    zb_cell_rows v;
    float *o;
    ptrdiff_t o_row;
} zb_values_args;

/* One AdamW step over n weights (decoupled decay; torch.optim.AdamW's formula):
 *   w -= lr*decay*w;  m = b1*m + (1-b1)*g;  v = b2*v + (1-b2)*g²;
 *   w -= lr/bias1 * m / (sqrt(v/bias2) + eps),  g = grad*grad_scale,  bias_i = 1 - beta_i^step. */
typedef struct zb_adamw_args {
    int64_t n;
    float *w, *m, *v;
    const float *grad;
    float grad_scale, lr, beta1, beta2, eps, decay, bias1, bias2;
} zb_adamw_args;

/* T tokens (at most ZB_SCAN_TOKENS) of the recurrence of one state-space head:
 *   S[i,j] = keep_t S[i,j] + B_t[i] delta_t x_t[j],   y_t[j] = D x_t[j] + sum_i C_t[i] S[i,j].
 * Rows of B and C stand `row` floats apart, those of x and y `row_x` and `row_y`. */
enum { ZB_SCAN_TOKENS = 32 };
typedef struct zb_scan_args {
    int T, n, p;
    const float *keep, *delta; /* [T] */
    const float *B, *C, *x;    /* [T,n] twice, [T,p] */
    ptrdiff_t row, row_x, row_y;
    float D;
    float *state; /* [n,p], dense; read and written */
    float *y;     /* [T,p], assigned; not x */
} zb_scan_args;

/* Partial product of packed weights: y[j] = row_j · x for rows first..last-1 of W[rows, k] as
 * stored; k is a multiple of the type's block, row_bytes the distance of rows. */
typedef struct zb_gemv_args {
    const uint8_t *w;
    size_t row_bytes;
    int first, last, k;
    const float *x; /* [k] */
    float *y;       /* indexed by row number */
} zb_gemv_args;

/* Stored block formats whose products with 8-bit tokens are computed in integers. */
typedef enum zb_packing {
    ZB_PACKING_Q8_0,
    ZB_PACKING_Q4_0,
    ZB_PACKING_Q4_1,
    ZB_PACKING_Q5_0,
    ZB_PACKING_Q5_1,
    ZB_PACKING_Q4_K,
    ZB_PACKING_Q5_K,
    ZB_PACKING_Q6_K,
    ZB_PACKINGS
} zb_packing;

/* Tile of the product of packed weights and many tokens: y[t*ldy + j] = row_j · x_t for `rows`
 * <= ZB_IGEMM_ROWS rows of k stored weights, row_bytes apart, and n tokens as quantize_q8 leaves
 * them: q [n,k], d and sum [n,k/32], and their sums over 16 values, half [n,k/16]. k is a multiple
 * of the packing's block. With weights w = scale·code + min of a block,
 *   y = Σ_blocks scale·d · Σ code·q  +  min·sum,
 * integer sums exact; codes are unsigned where the packing has 4 or 5 bits (min = -8·scale in
 * Q4_0, -16·scale in Q5_0), else signed without min. */
enum { ZB_IGEMM_ROWS = 16 };
typedef struct zb_igemm_args {
    zb_packing type;
    int rows, n, k;
    const uint8_t *w;
    size_t row_bytes;
    const int8_t *q;
    const float *d, *sum;
    const int16_t *half;
    float *y;
    ptrdiff_t ldy;
} zb_igemm_args;

/* The same for n tokens whose activations are in 8 bits (see quantize_q8): y[t][j] = row_j · x_t
 * with x = d·q. Sums of integers within a block are exact, so instruction sets differ only in the
 * rounding of the sum over blocks. */
typedef struct zb_gemv8_args {
    const uint8_t *w;
    size_t row_bytes;
    int first, last, k, n;
    const int8_t *q;      /* [n, k] */
    const float *d, *sum; /* [n, k/32] */
    float *y;             /* [n rows y_row apart], indexed by row number */
    ptrdiff_t y_row;
} zb_gemv8_args;

typedef struct zb_kernels {
    const char *name; /* "ref", "avx2", "avx512", "neon": printed at start and in every report */

    void (*gemm)(const zb_gemm_args *g);
    /* The same with B given by its columns: row j of b [n, k] is column j of B. a_col must be 1. */
    void (*gemm_bt)(const zb_gemm_args *g);
    /* Products of any size in bf16; `tiles`: the processor has registers for them, so that they
     * beat products of f32. */
    void (*tile_pack)(const zb_tile_strip *s);
    void (*tile_product)(const zb_tile_product *p);
    bool tiles;
    /* Attention over a cache: a tile of keys, a tile of values. A row's result depends on the rows
     * beside it by their number alone. */
    void (*attend_scores)(const zb_scores_args *a);
    void (*attend_values)(const zb_values_args *a);
    float (*dot)(int n, const float *x, const float *y);
    double (*sum_squares)(int64_t n, const float *x);       /* f64 sum */
    void (*axpy)(int n, float a, const float *x, float *y); /* y += a*x */
    void (*scale)(int n, float a, float *x);                /* x *= a */
    void (*add)(int n, const float *x, float *y);           /* y += x */

    /* y = x * r * w,  r = 1/sqrt(mean(x²) + eps) is returned. w NULL: ones. */
    float (*rmsnorm)(int n, const float *x, const float *w, float eps, float *y);
    /* dx += gradient of rmsnorm, dw += dy*x*r (dw may be NULL, w NULL: ones). */
    void (*rmsnorm_backward)(int n, const float *x, const float *w, float r, const float *dy,
                             float *dx, float *dw);

    /* silu(x) = x * sigmoid(x); dx = dy * silu'(x); silu_mul: silu(gate) * up. All are assigned. */
    void (*silu)(int n, const float *x, float *y);
    void (*silu_backward)(int n, const float *x, const float *dy, float *dx);
    void (*silu_mul)(int n, const float *gate, const float *up, float *y);
    void (*silu_mul_backward)(int n, const float *gate, const float *up, const float *dy,
                              float *dgate, float *dup);
    /* Relative error <= 2e-7; 0 below -87.3, inf above 88.7. */
    void (*exp)(int n, const float *x, float *y);

    /* x -> exp(x*s - max)/sum in place; returns log of the sum of exp(x*s) (log-sum-exp). n >= 1.
     * A row of -inf alone gives zeros, and -inf as its log-sum-exp; NaN in gives NaN out. */
    float (*softmax)(int n, float s, float *x);
    float (*logsumexp)(int n, const float *x);
    /* A piece of a softmax that goes on: *max becomes the largest of itself and x, x -> exp(x -
     * *max) in place (0 where all is -inf); returns the f32 sum of these. */
    float (*softmax_step)(int n, float *max, float *x);
    /* First of the largest; NaN never wins against a number; 0 where there is none. */
    int (*argmax)(int n, const float *x);

    /* Rotary embedding of one head in place; cos, sin [half] for this position; inverse turns by
     * -angle. halves: pairs (i, i+half); interleaved: pairs (2i, 2i+1). */
    void (*rope_halves)(int half, const float *cos, const float *sin, bool inverse, float *x);
    void (*rope_interleaved)(int half, const float *cos, const float *sin, bool inverse, float *x);

    /* Rows of the vocabulary losses. lse_* = log-sum-exp of the row. A probability of 0 adds 0.
     * kl: returns Σ p_t (log p_t - log p_s); student logits become scale*(p_s - p_t). */
    double (*kl_row)(int n, float *student, float lse_s, const float *teacher, float lse_t,
                     float scale);
    /* reverse: returns v = Σ p_s (log p_s - log p_t); student logits become
     * scale*p_s*(log p_s - log p_t - v). */
    double (*reverse_kl_row)(int n, float *student, float lse_s, const float *teacher, float lse_t,
                             float scale);
    /* x = scale*(softmax(x) - onehot(label)) */
    void (*ce_row)(int n, float *x, float lse, int label, float scale);

    void (*adamw)(const zb_adamw_args *a);
    void (*scan)(const zb_scan_args *g);

    /* Decoding: packed weights times one f32 vector, by storage type (see tensor/dtype.h). */
    void (*gemv_f32)(const zb_gemv_args *g);
    void (*gemv_bf16)(const zb_gemv_args *g);
    void (*gemv_f16)(const zb_gemv_args *g);
    void (*gemv_q8_0)(const zb_gemv_args *g);
    void (*gemv_q4_0)(const zb_gemv_args *g);
    void (*gemv_q4_1)(const zb_gemv_args *g);

    /* Activations in 8 bits, per block of 32 (k a multiple of 32): with M = max|x|, d = M/127,
     * q = x·(1/d) to the nearest integer (ties to even), sum = d·Σq. Arrays: q [k], d and sum
     * [k/32]. A block whose d is below the smallest normal number becomes 0; one with an infinity
     * or a NaN has d = sum = NaN and q = 0, so that it cannot pass unseen. The same bits on every
     * instruction set. */
    void (*quantize_q8)(int k, const float *x, int8_t *q, float *d, float *sum);

    /* Prefill: a tile of packed weights times many tokens in 8 bits; takes 40 KiB of stack. */
    void (*igemm)(const zb_igemm_args *g);
    bool igemm_vnni; /* it multiplies bytes straight into 32-bit sums, at twice bf16's rate */
    /* half[i] = Σ q[16i .. 16i+15]; k a multiple of 16. */
    void (*sum_halves)(int k, const int8_t *q, int16_t *half);

    /* Decoding with them; the types with super-blocks need k to be a multiple of 256. */
    void (*gemv8_q8_0)(const zb_gemv8_args *g);
    void (*gemv8_q4_0)(const zb_gemv8_args *g);
    void (*gemv8_q4_1)(const zb_gemv8_args *g);
    void (*gemv8_q4_k)(const zb_gemv8_args *g);
    void (*gemv8_q5_k)(const zb_gemv8_args *g);
    void (*gemv8_q6_k)(const zb_gemv8_args *g);

    /* Nearest bf16, ties to even; round_bf16 keeps the value as f32. NaN stays NaN. */
    void (*round_bf16)(int64_t n, const float *x, float *y);
    void (*f32_to_bf16)(int64_t n, const float *x, uint16_t *y);
    void (*bf16_to_f32)(int64_t n, const uint16_t *x, float *y);
    /* Nearest half, ties to even; beyond 65504 infinity. */
    void (*f32_to_f16)(int64_t n, const float *x, uint16_t *y);
    void (*f16_to_f32)(int64_t n, const uint16_t *x, float *y);
    /* Blocks of 32 as gemv_q8_0 reads them: d = max|x|/127 rounded to f16 (at most 65504), q the
     * nearest integer to x/d. Any n: a last block that is not full is filled with zeros in memory
     * and read only as far as n. NaN among the values makes d NaN. */
    void (*f32_to_q8_0)(int64_t n, const float *x, uint8_t *blocks);
    void (*q8_0_to_f32)(int64_t n, const uint8_t *blocks, float *y);
} zb_kernels;

const zb_kernels *zb_kernels_get(void);              /* chosen once, thread-safe */
const zb_kernels *zb_kernels_find(const char *name); /* NULL where this CPU or build lacks it */

#endif
