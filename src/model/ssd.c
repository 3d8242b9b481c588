/* ssd.c - chunked state-space scan of one head (contract in ssd.h).
 *
 * With a_t = Σ_{s<=t} Δ_s·A inside a chunk of Q tokens, S the state before it ([n, p]): M_ts =
 * (C_t·B_s)·exp(a_t - a_s)·Δ_s  for s <= t,           Y = M X + diag(exp a_t) C S + D X S'   =
 * exp(a_Q)·S + Σ_s exp(a_Q - a_s)·Δ_s·B_s ⊗ x_s All exponents are <= 0, so nothing can overflow.
 * Backward walks the chunks from the last, with dS the gradient of the state behind the chunk, and
 * the states before each chunk recomputed by a forward sweep: W = dY Xᵀ ∘ mask (gradient of M),  G
 * = C Bᵀ,  E_ts = exp(a_t - a_s),  v_s = exp(a_Q - a_s) dX_s = Σ_t M_ts dY_t + v_s Δ_s (B_s dS) + D
 * dY_s dC   = (W∘E∘Δ_s) B + diag(exp a_t) dY Sᵀ dB   = (W∘E∘Δ_s)ᵀ C + v_s Δ_s X dSᵀ dS_before =
 * exp(a_Q) dS + Cᵀ diag(exp a_t) dY da_t collects Σ_s W_ts M_ts (rows +, columns −), the terms of
 * exp a_t, of v_s and of exp a_Q; dΔ_s = A·Σ_{t>=s} da_t + Σ_t W_ts G_ts E_ts + v_s x_s·(B_s dS),
 * dA = Σ_s Δ_s·Σ_{t>=s} da_t,   dD = Σ x·dY. */
#include "model/ssd.h"

#include "kernels/kernels.h"
#include "model/product.h"

#include <math.h>
#include <string.h>

enum { Q = ZB_SSD_CHUNK };

/* Of any product: two of the sizes are dim at most, or one is and two are Q. */
static size_t room_floats(int dim) {
    int most = dim > Q ? dim : Q;
    return zb_product_floats(most, most, most);
}

size_t zb_ssd_work(int T, int dim) {
    size_t chunks = (size_t)(T + Q - 1) / Q, square = (size_t)dim * dim;
    size_t chunked =
        room_floats(dim) + (chunks + 1) * square + 4 * (size_t)Q * Q + 2 * (size_t)Q * dim + 8 * Q;
    size_t steps = square + 2 * (size_t)ZB_SCAN_TOKENS * (size_t)dim;
    size_t most = chunked > steps ? chunked : steps;
    return (most + 15) / 16 * 16; /* the next thread's begins at a line, too */
}

/* a_t of one chunk. */
static void log_decay(const zb_ssd *s, int t0, int q, double *a) {
    double sum = 0;
    for (int t = 0; t < q; t++) {
        sum += (double)(s->delta[(t0 + t) * s->d_row] * s->A);
        a[t] = sum;
    }
}

static float decay(double log) { return expf((float)log); }

void zb_decay_matrix(int q, const double *a, float *e) {
    const zb_kernels *kn = zb_kernels_get();
    for (int t = 0; t < q; t++) {
        float *row = e + (size_t)t * q;
        for (int j = 0; j <= t; j++) row[j] = (float)(a[t] - a[j]);
        kn->exp(t + 1, row, row);
        memset(row + t + 1, 0, (size_t)(q - t - 1) * sizeof(float));
    }
}

/* S' from S, in place. bx [q, dim] is scratch for the weighted x rows. */
static void carry(const zb_product_room *room, const zb_ssd *s, int t0, int q, const double *a,
                  float *S, float *bx) {
    const zb_kernels *kn = zb_kernels_get();
    int d = s->dim;
    kn->scale(d * d, decay(a[q - 1]), S);
    for (int t = 0; t < q; t++) {
        float f = decay(a[q - 1] - a[t]) * s->delta[(t0 + t) * s->d_row];
        const float *x = s->x + (t0 + t) * s->u_row;
        for (int i = 0; i < d; i++) bx[t * d + i] = f * x[i];
    }
    zb_product_in(room, (zb_shape){d, d, q}, zb_columns(s->B + t0 * s->u_row, s->u_row),
                  (zb_right){bx, d}, false, (zb_out){S, d}, true);
}

void zb_ssd_chunked(const zb_ssd *s, float *work) {
    const zb_kernels *kn = zb_kernels_get();
    int d = s->dim;
    zb_product_room room = {.at = work};
    float *S = work + room_floats(d), *g = S + d * d, *e = g + Q * Q, *rows = e + Q * Q;
    double a[Q];
    if (s->state)
        S = s->state;
    else
        memset(S, 0, (size_t)d * d * sizeof(float));
    for (int t0 = 0; t0 < s->T; t0 += Q) {
        int q = s->T - t0 < Q ? s->T - t0 : Q;
        log_decay(s, t0, q, a);
        zb_decay_matrix(q, a, e);
        zb_product_in(&room, (zb_shape){q, q, d}, zb_rows(s->C + t0 * s->u_row, s->u_row),
                      (zb_right){s->B + t0 * s->u_row, s->u_row}, true, (zb_out){g, q}, false);
        for (int t = 0; t < q; t++) {
            for (int j = 0; j <= t; j++)
                g[t * q + j] *= e[t * q + j] * s->delta[(t0 + j) * s->d_row];
            memset(g + t * q + t + 1, 0, (size_t)(q - t - 1) * sizeof(float));
        }
        float *y = s->y + t0 * s->y_row;
        zb_product((zb_shape){q, d, q}, zb_rows(g, q), (zb_right){s->x + t0 * s->u_row, s->u_row},
                   (zb_out){y, s->y_row});
        for (int t = 0; t < q; t++) {
            float f = decay(a[t]);
            const float *c = s->C + (t0 + t) * s->u_row;
            for (int i = 0; i < d; i++) rows[t * d + i] = f * c[i];
            kn->axpy(d, s->D, s->x + (t0 + t) * s->u_row, y + t * s->y_row);
        }
        zb_product_add((zb_shape){q, d, d}, zb_rows(rows, d), (zb_right){S, d},
                       (zb_out){y, s->y_row});
        carry(&room, s, t0, q, a, S, rows);
    }
}

/* Rows of B and C of q tokens side by side: their rows may lie a multiple of a page apart, where
 * they would push each other out of the cache. */
static void gather(const zb_ssd *s, int t0, int q, float *B, float *C) {
    size_t bytes = (size_t)s->dim * sizeof(float);
    for (int t = 0; t < q; t++) {
        memcpy(B + t * s->dim, s->B + (t0 + t) * s->u_row, bytes);
        memcpy(C + t * s->dim, s->C + (t0 + t) * s->u_row, bytes);
    }
}

void zb_ssd_steps(const zb_ssd *s, float *work) {
    const zb_kernels *kn = zb_kernels_get();
    int d = s->dim;
    float *B = work + d * d, *C = B + ZB_SCAN_TOKENS * d, keep[ZB_SCAN_TOKENS],
          delta[ZB_SCAN_TOKENS];
    zb_scan_args g = {.n = d, .p = d, .keep = keep, .delta = delta, .row_x = s->u_row};
    g.D = s->D;
    g.row_y = s->y_row;
    g.state = s->state ? s->state : work;
    if (!s->state) memset(work, 0, (size_t)d * d * sizeof(float));
    for (int t0 = 0; t0 < s->T; t0 += ZB_SCAN_TOKENS) {
        g.T = s->T - t0 < ZB_SCAN_TOKENS ? s->T - t0 : ZB_SCAN_TOKENS;
        for (int t = 0; t < g.T; t++) {
            delta[t] = s->delta[(t0 + t) * s->d_row];
            keep[t] = delta[t] * s->A;
        }
        kn->exp(g.T, keep, keep);
        g.B = s->B + t0 * s->u_row;
        g.C = s->C + t0 * s->u_row;
        g.row = s->u_row;
        if (g.T > 1) {
            gather(s, t0, g.T, B, C);
            g.B = B, g.C = C, g.row = d;
        }
        g.x = s->x + t0 * s->u_row;
        g.y = s->y + t0 * s->y_row;
        kn->scan(&g);
    }
}

/* Scratch of backward for one chunk. */
typedef struct chunk_work {
    zb_product_room room;
    float *states, *dS, *e, *g, *m, *w, *rows, *da;
    double a[Q];
} chunk_work;

static chunk_work split_work(const zb_ssd *s, float *work) {
    int d = s->dim, chunks = (s->T + Q - 1) / Q;
    chunk_work k = {.room = {work, s->bf16}};
    k.states = work + room_floats(d);
    k.dS = k.states + (size_t)chunks * d * d;
    k.e = k.dS + d * d;
    k.g = k.e + Q * Q;
    k.m = k.g + Q * Q;
    k.w = k.m + Q * Q;
    k.rows = k.w + Q * Q;
    k.da = k.rows + Q * d;
    return k;
}

/* From G and W of the chunk: M, the gradient of C·Bᵀ in place of W, what they add to da and dΔ. */
static void through_masks(const zb_ssd *s, zb_ssd_grad *gr, int t0, int q, const chunk_work *k) {
    float dt[Q], ddt[Q] = {0};
    for (int t = 0; t < q; t++) dt[t] = s->delta[(t0 + t) * s->d_row];
    for (int t = 0; t < q; t++) {
        const float *restrict e = k->e + t * q, *restrict g = k->g + t * q;
        float *restrict m = k->m + t * q, *restrict w = k->w + t * q, *restrict da = k->da;
        for (int j = 0; j < q; j++) {
            float ge = g[j] * e[j], wge = w[j] * ge;
            m[j] = ge * dt[j];
            ddt[j] += wge;
            da[j] -= wge * dt[j];
        }
        da[t] += zb_kernels_get()->dot(q, w, m);
        for (int j = 0; j < q; j++) w[j] *= e[j] * dt[j];
    }
    for (int t = 0; t < q; t++) gr->ddelta[(t0 + t) * s->d_row] += ddt[t];
}

/* Terms inside the chunk: through M. Leaves the gradient of C·Bᵀ in w and adds to da. */
static void backward_inside(const zb_ssd *s, zb_ssd_grad *gr, int t0, int q, const chunk_work *k) {
    zb_shape square = {q, q, s->dim}, wide = {q, s->dim, q};
    ptrdiff_t u = s->u_row, at = t0 * u;
    zb_right x = {s->x + at, u}, B = {s->B + at, u}, C = {s->C + at, u},
             dy = {gr->dy + t0 * s->y_row, s->y_row};
    zb_out dx = {gr->dx + at, u}, dB = {gr->dB + at, u}, dC = {gr->dC + at, u}, g = {k->g, q},
           w = {k->w, q};
    zb_product_in(&k->room, square, zb_rows(C.p, u), B, true, g, false);
    zb_product_in(&k->room, square, zb_rows(dy.p, dy.row), x, true, w, false);
    through_masks(s, gr, t0, q, k);
    zb_product_in(&k->room, wide, zb_columns(k->m, q), dy, false, dx, true);
    zb_product_in(&k->room, wide, zb_rows(k->w, q), B, false, dC, true);
    zb_product_in(&k->room, wide, zb_columns(k->w, q), C, false, dB, true);
}

/* Terms through the state before the chunk (S) and behind it (dS). */
static void backward_between(const zb_ssd *s, zb_ssd_grad *gr, int t0, int q, const float *S,
                             const chunk_work *k) {
    const zb_kernels *kn = zb_kernels_get();
    int d = s->dim;
    double last = k->a[q - 1];
    /* dC_t += exp(a_t) S dY_t; the same product gives the gradient of exp(a_t) */
    zb_out rows = {k->rows, d};
    zb_product_in(&k->room, (zb_shape){q, d, d}, zb_rows(gr->dy + t0 * s->y_row, s->y_row),
                  (zb_right){S, d}, true, rows, false);
    for (int t = 0; t < q; t++) {
        float f = decay(k->a[t]), *row = k->rows + t * d;
        k->da[t] += f * kn->dot(d, row, s->C + (t0 + t) * s->u_row);
        kn->axpy(d, f, row, gr->dC + (t0 + t) * s->u_row);
    }
    /* B_s dS [p]: reaches x, Δ and the decay to the chunk's end */
    zb_product_in(&k->room, (zb_shape){q, d, d}, zb_rows(s->B + t0 * s->u_row, s->u_row),
                  (zb_right){k->dS, d}, false, rows, false);
    for (int t = 0; t < q; t++) {
        float v = decay(last - k->a[t]), dt = s->delta[(t0 + t) * s->d_row];
        float xb = v * kn->dot(d, k->rows + t * d, s->x + (t0 + t) * s->u_row);
        kn->axpy(d, v * dt, k->rows + t * d, gr->dx + (t0 + t) * s->u_row);
        gr->ddelta[(t0 + t) * s->d_row] += xb;
        k->da[t] -= dt * xb;
        k->da[q - 1] += dt * xb;
    }
    /* dB_s += v_s Δ_s dS x_s */
    for (int t = 0; t < q; t++) {
        float f = decay(last - k->a[t]) * s->delta[(t0 + t) * s->d_row];
        for (int i = 0; i < d; i++) k->rows[t * d + i] = f * s->x[(t0 + t) * s->u_row + i];
    }
    zb_product_in(&k->room, (zb_shape){q, d, d}, zb_rows(k->rows, d), (zb_right){k->dS, d}, true,
                  (zb_out){gr->dB + t0 * s->u_row, s->u_row}, true);
    /* dS before the chunk */
    float f = decay(last);
    k->da[q - 1] += f * kn->dot(d * d, S, k->dS);
    kn->scale(d * d, f, k->dS);
    for (int t = 0; t < q; t++) {
        float ft = decay(k->a[t]);
        for (int i = 0; i < d; i++) k->rows[t * d + i] = ft * gr->dy[(t0 + t) * s->y_row + i];
    }
    zb_product_in(&k->room, (zb_shape){d, d, q}, zb_columns(s->C + t0 * s->u_row, s->u_row),
                  (zb_right){k->rows, d}, false, (zb_out){k->dS, d}, true);
}

void zb_ssd_backward(const zb_ssd *s, zb_ssd_grad *gr, float *work) {
    const zb_kernels *kn = zb_kernels_get();
    int d = s->dim, chunks = (s->T + Q - 1) / Q;
    size_t square = (size_t)d * d;
    chunk_work k = split_work(s, work);
    memset(k.states, 0, square * sizeof(float));
    for (int c = 0; c + 1 < chunks; c++) { /* states before each chunk */
        float *next = k.states + (size_t)(c + 1) * square;
        memcpy(next, k.states + (size_t)c * square, square * sizeof(float));
        log_decay(s, c * Q, Q, k.a);
        carry(&k.room, s, c * Q, Q, k.a, next, k.rows);
    }
    memset(k.dS, 0, square * sizeof(float));
    gr->dA = gr->dD = 0;
    for (int c = chunks - 1; c >= 0; c--) {
        int t0 = c * Q, q = s->T - t0 < Q ? s->T - t0 : Q;
        log_decay(s, t0, q, k.a);
        zb_decay_matrix(q, k.a, k.e);
        memset(k.da, 0, Q * sizeof(float));
        backward_inside(s, gr, t0, q, &k);
        backward_between(s, gr, t0, q, k.states + (size_t)c * square, &k);
        float sum = 0;
        for (int t = q - 1; t >= 0; t--) {
            const float *x = s->x + (t0 + t) * s->u_row, *dy = gr->dy + (t0 + t) * s->y_row;
            sum += k.da[t];
            gr->dA += (double)sum * (double)s->delta[(t0 + t) * s->d_row];
            gr->ddelta[(t0 + t) * s->d_row] += s->A * sum;
            gr->dD += (double)kn->dot(d, x, dy);
            kn->axpy(d, s->D, dy, gr->dx + (t0 + t) * s->u_row);
        }
    }
}
