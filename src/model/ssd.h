/* ssd.h - the recurrence of one Mamba2 head: chunked forward, step by step, and backward.
 *
 *   h_t = exp(Δ_t·A)·h_{t-1} + Δ_t·x_t ⊗ B_t   [p, n],    y_t = h_t·C_t + D·x_t   [p]
 *
 * (Dao & Gu 2024, section 6; method.md 2.2.) Here p = n = `dim`, and h is kept
 * transposed, S [n, p], so that vectors run along p and sums along n need no rearranging. Rows of
 * x, B, C stand `u_row` floats apart, rows of y and its gradient `y_row`, Δ `d_row`. The chunked
 * form cuts the sequence into pieces of ZB_SSD_CHUNK tokens: inside a piece a masked matrix
 * product, between pieces only the state. One thread; the caller loops over spans and heads. */
#ifndef ZB_MODEL_SSD_H
#define ZB_MODEL_SSD_H

#include <stdbool.h>
#include <stddef.h>

enum { ZB_SSD_CHUNK = 32 };

typedef struct zb_ssd {
    int T, dim;
    float A, D;
    const float *x, *B, *C, *delta;
    ptrdiff_t u_row, d_row, y_row;
    float *y;
    float *state; /* [n, p]: read as h before the first token, left as h after the last; NULL:
                     starts at 0, not kept */
    bool bf16;    /* backward: operands of products may be rounded (model/product.h) */
} zb_ssd;

/* Floats of workspace for any of the three, which begins at a multiple of 64 bytes. */
size_t zb_ssd_work(int T, int dim);
void zb_ssd_chunked(const zb_ssd *s, float *work);
void zb_ssd_steps(const zb_ssd *s, float *work);

/* Gradients: dx, dB, dC, ddelta accumulated (heads of a group share x and B); *dA and *dD set.
 * state must be NULL. */
typedef struct zb_ssd_grad {
    const float *dy;
    float *dx, *dB, *dC, *ddelta;
    double dA, dD;
} zb_ssd_grad;
void zb_ssd_backward(const zb_ssd *s, zb_ssd_grad *g, float *work);

/* e [q,q]: exp(a_t - a_s) for s <= t, else 0. Sums of logarithms are f64: behind a token that
 * forgets all (a step of -1000) the small steps would be lost in f32. */
void zb_decay_matrix(int q, const double *a, float *e);

#endif
