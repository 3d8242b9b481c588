/* batch.h - a batch of tokens: spans of documents laid end to end.
 *
 * Plain data between those who make batches (data, generation, evaluation) and the model that
 * passes over them. */
#ifndef ZB_TENSOR_BATCH_H
#define ZB_TENSOR_BATCH_H

#include <stdint.h>

struct zb_state; /* model/state.h */

typedef struct zb_span {
    int start, n;           /* tokens start .. start+n-1 of the batch */
    struct zb_state *state; /* NULL: fresh */
} zb_span;

typedef struct zb_batch {
    const int32_t *ids; /* [n] */
    int n;
    const zb_span *span; /* in order, covering 0..n-1 without gaps; states all different */
    int n_spans;
} zb_batch;

#endif
