/* delta.h - the gated delta rule of one head: chunked forward, step by step, and backward.
 *
 *   S_t = e^g_t·S_{t-1} + k_t ⊗ β_t (v_t - e^g_t·S_{t-1}ᵀ k_t),    o_t = S_tᵀ q_t
 *
 * S [dk, dv], dk = dv = `dim`; g_t <= 0, keys of length 1 at most. (Yang, Kautz and Hatamizadeh
 * 2024.) A token first takes out what its key finds, then writes its value there. Rows of q, k, v
 * and o stand `row` floats apart, g and β `g_row`. One thread; the caller loops over spans and
 * heads. */
#ifndef ZB_MODEL_DELTA_H
#define ZB_MODEL_DELTA_H

#include <stddef.h>

enum { ZB_DELTA_CHUNK = 32 };

typedef struct zb_delta {
    int T, dim;
    const float *q, *k, *v, *g, *beta;
    ptrdiff_t row, g_row;
    float *o;
    float *state; /* [dk, dv]: read as S before the first token, left as S after the last; NULL:
                     starts at 0, not kept */
} zb_delta;

size_t zb_delta_work(int T, int dim); /* floats of workspace for any of the three */
void zb_delta_chunked(const zb_delta *d, float *work);
void zb_delta_steps(const zb_delta *d, float *work);

/* Gradients, all assigned; rows as q, k, v and g. state must be NULL. */
typedef struct zb_delta_grad {
    const float *d_o;
    float *dq, *dk, *dv, *dg, *dbeta;
} zb_delta_grad;
void zb_delta_backward(const zb_delta *d, const zb_delta_grad *gr, float *work);

#endif
