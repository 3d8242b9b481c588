/* dtype.h - element types of tensors: one row of facts per type.
 *
 * A quantised type stores a row as whole blocks; `block` elements take `bytes` bytes. Shapes are
 * row-major, the last axis is the fastest and is the one that is blocked. Pure functions. */
#ifndef ZB_TENSOR_DTYPE_H
#define ZB_TENSOR_DTYPE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum zb_dtype {
    ZB_F32,
    ZB_F16,
    ZB_BF16,
    ZB_F64,
    ZB_I8,
    ZB_U8,
    ZB_I32,
    ZB_I64,
    ZB_BOOL,
    ZB_Q8_0,
    ZB_Q4_0,
    ZB_Q4_1,
    ZB_Q5_0,
    ZB_Q5_1,
    ZB_Q4_K,
    ZB_Q5_K,
    ZB_Q6_K,
    ZB_Q2_K, /* this one and those below are read, but not written */
    ZB_Q3_K,
    ZB_IQ4_NL,
    ZB_IQ4_XS,
    ZB_TQ1_0,
    ZB_TQ2_0,
    ZB_DTYPE_COUNT
} zb_dtype;

typedef struct zb_dtype_info {
    const char *name; /* as safetensors writes it ("F32", "BF16", ...), or GGUF's name ("Q4_K") */
    int block;        /* elements per block: 1 for plain types */
    int bytes;        /* bytes per block */
    bool real;        /* can be turned into f32 by zb_dtype_to_f32 */
} zb_dtype_info;

const zb_dtype_info *zb_dtype_get(zb_dtype t);
bool zb_dtype_find(const char *name, zb_dtype *out);

/* Bytes of n elements; false on overflow or when n is not a multiple of the block. */
bool zb_dtype_size(zb_dtype t, int64_t n, size_t *out);

/* n elements (a multiple of the block) from packed bytes to f32; any alignment. `t` must be
 * real. */
void zb_dtype_to_f32(zb_dtype t, const void *src, float *dst, int64_t n);
/* F32, F16, BF16 only (round to nearest even); quantisers live in tensor/quant.h. */
void zb_dtype_from_f32(zb_dtype t, const float *src, void *dst, int64_t n);

float zb_f16_to_f32(uint16_t h);
uint16_t zb_f32_to_f16(float f);
static inline float zb_bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } x = {(uint32_t)h << 16};
    return x.f;
}
uint16_t zb_f32_to_bf16(float f); /* nearest even, NaN kept quiet */

/* A borrowed tensor: shape and bytes, owned by whoever mapped or allocated them. */
enum { ZB_DIMS_MAX = 4 };
typedef struct zb_tensor {
    const char *name;
    zb_dtype dtype;
    int n_dims;
    int64_t shape[ZB_DIMS_MAX]; /* row-major: shape[n_dims-1] is the fastest axis */
    const void *data;
    size_t bytes;
} zb_tensor;

int64_t zb_tensor_count(const zb_tensor *t);                        /* elements */
const char *zb_tensor_shape_text(const zb_tensor *t, char out[96]); /* "BF16 [1344,2048]" */

#endif
