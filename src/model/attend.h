/* attend.h - causal softmax attention of one head over one span: forward and backward.
 *
 * Shared by base attention and expanded MLA. Query i (of T) sees keys 0 .. past+i. Rows of q, k, v,
 * o stand `*_row` floats apart. Scores exist only for a block of queries at a time, never T x T.
 * One thread; the caller loops over spans and heads. */
#ifndef ZB_MODEL_ATTEND_H
#define ZB_MODEL_ATTEND_H

#include <stddef.h>

typedef struct zb_attend {
    int T, past, dk, dv;
    float scale;
    const float *q, *k, *v;
    ptrdiff_t q_row, k_row, v_row;
    float *o;
    ptrdiff_t o_row;
    float *lse; /* [T] log-sum-exp of each query's scaled scores; NULL: not kept */
} zb_attend;

size_t zb_attend_work(int keys, int dk, int dv); /* floats of workspace for either direction */
void zb_attend_forward(const zb_attend *a, float *work);

/* Gradients: dq assigned; dk, dv accumulated. Rows as q, k, v, o. past must be 0. */
typedef struct zb_attend_grad {
    const float *d_o;
    float *dq, *dk, *dv;
} zb_attend_grad;
void zb_attend_backward(const zb_attend *a, const zb_attend_grad *g, float *work);

#endif
