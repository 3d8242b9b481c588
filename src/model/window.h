/* window.h - causal softmax attention to the last `window` tokens and the first `sinks` tokens of a
 * document: forward and backward over spans of any length.
 *
 * One zb_window is one span and one kv head with the query heads that share it. The token at
 * position p sees positions p-window+1 .. p, and of 0 .. sinks-1 those before that. Keys and values
 * are f32 rows in two runs: `k`, `v` begin at position `first`, sink_k and sink_v at position 0
 * (the same rows where first is 0). Work and memory grow with window + sinks per token, not with
 * the length. A result does not depend on threads or on what else is in the call. */
#ifndef ZB_MODEL_WINDOW_H
#define ZB_MODEL_WINDOW_H

#include "base/arena.h"

#include <stdbool.h>

typedef struct zb_window {
    int T, heads, dh;
    int window, sinks;
    int past, first; /* position of the first query; of row 0 of k and v */
    float scale;
    const float *q; /* token t, head h: dh floats at q + t·q_row + h·dh; o likewise */
    float *o;
    ptrdiff_t q_row;
    const float *k, *v, *sink_k, *sink_v;
    ptrdiff_t kv_row;
    float *lse; /* log-sum-exp of the scaled scores at lse + h·lse_head + t; NULL: not kept */
    ptrdiff_t lse_head;
    bool bf16; /* operands may be rounded to bf16 (sums are of f32): on matrix registers */
} zb_window;

void zb_window_forward(zb_arena *arena, int threads, const zb_window *a, int n);

/* Gradients of fresh spans (past and first 0, lse kept): dq assigned; dk, dv accumulated. Rows as
 * q, k, v, o. Each zb_window runs on one thread. */
typedef struct zb_window_grad {
    const float *d_o;
    float *dq, *dk, *dv;
} zb_window_grad;
void zb_window_backward(zb_arena *arena, int threads, const zb_window *a, const zb_window_grad *g,
                        int n);

/* Bytes that a call takes meanwhile for windows of this one's T, heads, dh, window, sinks and bf16.
 */
size_t zb_window_room(const zb_window *like, int n, int threads, bool backward);

#endif
