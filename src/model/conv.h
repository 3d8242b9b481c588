/* conv.h - the short causal convolution in front of a recurrence, over the spans of a batch.
 *
 *   pre_t[c] = b[c] + Σ_j w[c, 3-j]·in_{t-j}[c]   for j = 0..3,     u = silu(pre), or pre
 *
 * Depthwise, ZB_CONV_K taps stored oldest first. Inputs before a document are zeros; a span with a
 * state finds the last three inputs there, [3, C], oldest first, `tail` values into the layer's
 * recurrent part. */
#ifndef ZB_MODEL_CONV_H
#define ZB_MODEL_CONV_H

#include "model/mixer.h"

typedef struct zb_conv {
    int C;
    const zb_param *w, *bias; /* [C,1,4], [C] (NULL: none) */
    const float *in;          /* [N, C], rows in_row apart */
    size_t in_row, tail;
    bool identity; /* no silu */
} zb_conv;

/* The weight's row in a table of parameters. */
zb_param *zb_conv_param(zb_param_table *t, int layer, int slot, const char *name, int C);

void zb_conv_forward(zb_run *run, int layer, const zb_conv *v, float *pre, float *u); /* [N, C] */

/* The last inputs of every span with a state become its tail; after zb_conv_forward. */
void zb_conv_remember(const zb_run *run, int layer, const zb_conv *v);

/* du [N, C] becomes the gradient of pre; din is assigned (rows din_row apart); w and bias gain
 * theirs. Fresh spans only. */
void zb_conv_backward(zb_run *run, const zb_conv *v, const float *pre, float *du, float *din,
                      size_t din_row);

/* Bytes taken meanwhile. */
size_t zb_conv_room(int C, const zb_load *load, bool backward);

#endif
