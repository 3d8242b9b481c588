/* narrow.h - what the narrow far heads of a layer see beyond their window.
 *
 * A far head (retrieval head of the config) of which only the slowest rotary pairs of each key and
 * the first values are cached (far_k, far_v) has its window whole, like the layer's other heads,
 * and of the tokens that have left it what is kept of them. Over both there is one softmax: of the
 * query at position p,
 *
 *   s_j = q·k_j / sqrt(dh)                   j in p-window+1 .. p, and the sinks
 *   s_j = sum over kept pairs / sqrt(dh)     sinks <= j <= p-window
 *   o   = sum_j softmax(s)_j v_j             values behind the first far_v: 0 beyond the window
 *
 * A document that fits into the window is attended to exactly. */
#ifndef ZB_MODEL_NARROW_H
#define ZB_MODEL_NARROW_H

#include "model/mixer.h"

/* Queries and keys after rotation, values, outputs of all heads of the batch: [N,H·dh], [N,G·dh]
 * twice, [N,H·dh]; log-sum-exp of the scores [H,N]. */
typedef struct zb_heads {
    float *q, *k, *v, *o, *lse;
    bool training; /* kept for the way back */
} zb_heads;

/* Appends keys and values of a layer's far heads, narrow or whole, to the spans' states. Rows are
 * those of all heads [N,G·dh]; `dense` keys are rows of what is kept, [N, far heads, far_k]. */
void zb_far_remember(const zb_run *run, int layer, const float *keys, bool dense,
                     const float *values);

/* For layers that have such heads (zb_config_narrow). Caches what is kept of the batch's keys and
 * values in the spans' states, and takes what lies beyond the window into o and lse, which hold the
 * window's. */
void zb_narrow_forward(zb_run *run, int layer, const zb_heads *t);

/* Gradients by what lies beyond the window, added to those of the window: dq, dk, dv from d_o; rows
 * as q, k, v, o. Fresh spans; o and lse are those of the whole softmax. */
typedef struct zb_heads_grad {
    float *d_o, *dq, *dk, *dv;
} zb_heads_grad;
void zb_narrow_backward(zb_run *run, int layer, const zb_heads *t, const zb_heads_grad *g);

/* Bytes that both take meanwhile (zb_room, without a tape). */
zb_room zb_narrow_room(const zb_config *c, int layer, const zb_load *load);

#endif
