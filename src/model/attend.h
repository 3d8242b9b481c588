/* attend.h - causal softmax attention to one key/value head by all query heads that share it:
 * forward and backward over spans of any length.
 *
 * One zb_attend is one span and one kv head. Queries are T tokens of `heads` heads; the query of
 * token t sees the keys of positions 0 .. past+t. Keys and values are rows in a storage type
 * (cells.h). A call takes many of them and runs them over all threads; memory beyond the operands
 * does not grow with the number of keys, except one partial sum per ZB_ATTEND_CHUNK keys where a
 * span has few queries. An attention's result is the same bits whatever stands beside it in the
 * call and however many threads there are. */
#ifndef ZB_MODEL_ATTEND_H
#define ZB_MODEL_ATTEND_H

#include "base/arena.h"
#include "model/cells.h"

#include <stddef.h>

enum { ZB_ATTEND_CHUNK = 256 };

typedef struct zb_attend {
    int T, heads, past, dk, dv;
    float scale;
    const float *q; /* token t, head h: dk floats at q + t·q_row + h·q_head; o likewise (dv) */
    ptrdiff_t q_row, q_head;
    float *o;
    ptrdiff_t o_row, o_head;
    float *lse; /* log-sum-exp of the scaled scores at lse + h·lse_head + t; NULL: not kept */
    ptrdiff_t lse_head;
    zb_cells k, k_tail; /* a key is a row of k and behind it one of k_tail (width 0: none) */
    zb_cells v;         /* p NULL: the values are the first dv of each key */

    /* Keys that come in pieces, call after call: rows are the positions first .. first+n_keys-1
     * (n_keys 0: all up to past+T-1), and running [T·heads·2] carries each query's largest score
     * and sum from piece to piece while o holds the sum of values. The last piece divides. NULL:
     * one call sees all keys. The first piece finds nothing there, unless it is `resumed`: then
     * other keys have been seen before, whatever they were. */
    int first, n_keys;
    float *running;
    bool resumed, last;

    /* Operands may be rounded to bf16 (sums are of f32): on matrix registers, where queries are
     * many. */
    bool bf16;

    int o_rest; /* backward: values of o behind the first dv that those other keys alone give */
} zb_attend;

/* n attentions; scratch comes from the arena and is given back. */
void zb_attend_forward(zb_arena *arena, int threads, const zb_attend *a, int n);

/* Gradients: dq assigned; dk, dv accumulated. Rows and heads as q, k, v, o (all f32, no tail); past
 * is 0 and lse kept. Each attention runs on one thread, its heads in order. */
typedef struct zb_attend_grad {
    const float *d_o;
    float *dq, *dk, *dv;
} zb_attend_grad;
void zb_attend_backward(zb_arena *arena, int threads, const zb_attend *a, const zb_attend_grad *g,
                        int n);

/* Bytes that a call with n fresh attentions of this one's T, heads, dk, dv and bf16 takes
 * meanwhile. */
size_t zb_attend_room(const zb_attend *like, int n, int threads, bool backward);

#endif
