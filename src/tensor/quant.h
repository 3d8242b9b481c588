/* quant.h - f32 to the packed types whose layouts dtype.c reads.
 *
 * Scales (and minima) are searched so that the weighted squared error of each block is small, and
 * never larger than that of plain rounding. The weight of a column, if given, is how much an error
 * there counts: the mean square of the activation it is multiplied with. Deterministic whatever the
 * number of threads. */
#ifndef ZB_TENSOR_QUANT_H
#define ZB_TENSOR_QUANT_H

#include "tensor/dtype.h"

/* F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K. */
bool zb_quant_has(zb_dtype t);

/* The type itself where rows of `cols` are whole blocks of it, else the next wider one that fits:
 * Q4_K: Q4_1, Q5_K: Q5_1, Q6_K: Q8_0, and F16 at the end. */
zb_dtype zb_quant_fit(zb_dtype t, int64_t cols);

typedef struct zb_quant_job {
    zb_dtype type;           /* rows must be whole blocks */
    const float *x;          /* [rows, cols] */
    const float *importance; /* [cols], finite and not negative; NULL: all columns count alike */
    int64_t rows, cols;
    bool plain;       /* no search: for comparison */
    const char *name; /* of the tensor, for messages */
} zb_quant_job;

/* Writes rows · bytes per row to `out`. Values that are not finite, or beyond 65504 where the type
 * has f16 scales, are an error. */
zb_status zb_quant_run(const zb_quant_job *j, void *out, zb_err *err);

/* Σ importance · (x - what `packed` holds)² over all rows. */
double zb_quant_error(const zb_quant_job *j, const void *packed);

/* Private: one super-block of 256 (quant_k.c). */
typedef void zb_quant_block(const float *x, const float *w, bool plain, uint8_t *out);
zb_quant_block zb_quant_q4_k, zb_quant_q5_k, zb_quant_q6_k;

#endif
