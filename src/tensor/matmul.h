/* matmul.h - the large matrix products of prefill and training.
 *
 * C[m,n] = op(A)[m,k] · op(B)[k,n] (+ C), row-major, all threads. In f32, or with both operands
 * rounded to bf16 and f32 sums: natively (tiles.h, oneDNN) where the CPU has bf16 products, else by
 * rounding and an f32 product, which gives the same numbers up to the order of the sum, so that
 * results and tests do not depend on the machine. A zb_matmul holds the workspace and the cached
 * primitives; it belongs to one thread at a time. It takes memory only while shapes are new. */
#ifndef ZB_TENSOR_MATMUL_H
#define ZB_TENSOR_MATMUL_H

#include "base/err.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

/* INT8: a matrix that is stored quantised meets activations rounded to 8 bits per block of 32 (that
 * product is the caller's, see kernels.h; on matrix registers many tokens meet it in bf16); every
 * other product is bf16 where the CPU has it natively, else f32. */
typedef enum zb_precision { ZB_PREC_F32, ZB_PREC_BF16, ZB_PREC_INT8 } zb_precision;

typedef struct zb_matmul zb_matmul;

/* "f32", "bf16", "int8", or "auto": bf16 where the CPU has it natively, else f32. */
zb_status zb_precision_choose(const char *name, zb_precision *out, zb_err *err);

const char *zb_precision_name(zb_precision p);

zb_status zb_matmul_new(zb_matmul **out, zb_precision p, zb_err *err);
void zb_matmul_free(zb_matmul *mm);
zb_precision zb_matmul_precision(const zb_matmul *mm);
bool zb_matmul_bf16_native(const zb_matmul *mm); /* false: emulated or f32 */
/* Products that are not of weights may be rounded as well: int8 on matrix registers. */
bool zb_matmul_is_coarse(const zb_matmul *mm);
bool zb_matmul_on_tiles(const zb_matmul *mm); /* bf16 on matrix registers; takes stored weights */

typedef struct zb_mm_args {
    int m, n, k;
    const float *a;
    int64_t lda;
    bool a_t; /* A is stored [k,m] */
    const float *b;
    int64_t ldb;
    bool b_t; /* B is stored [n,k], as weights are */
    /* B as a file has it instead: n dense rows of k values of that type (b_t is implied). Only
     * where zb_matmul_on_tiles says so. */
    zb_dtype b_type;
    const void *b_stored;
    float *c;
    int64_t ldc;
    bool add;
} zb_mm_args;

/* Several products with one operand: holds its rounded copy, so that it is not rounded for each of
 * them. `x` is dense, stored [rows, cols], and must not change until the slot is released. Nothing
 * is done where products are in f32, or on tiles, which are packed for their place. */
enum { ZB_HOLD_GRADIENT, ZB_HOLD_HEAD, ZB_HOLDS };
void zb_matmul_hold(zb_matmul *mm, int slot, const float *x, int64_t rows, int64_t cols);
void zb_matmul_release(zb_matmul *mm, int slot);

/* Sizes of 0 are fine (k = 0 leaves C unchanged with `add`, else zeroes it). */
void zb_matmul_run(zb_matmul *mm, const zb_mm_args *g);

#endif
