/* delta.c - the gated delta rule by chunks and by steps (contract in delta.h).
 *
 * Steps. With a = e^g and p = a·Sᵀk, r = a·Sᵀq of the old state:  x = β(v - p),  S' = a·S + k ⊗ x,
 * o = r + (k·q) x.  One product of [k; q] with S, one scaling, one outer product per token.
 *
 * Chunks of Q tokens, b_i = Σ_{t<=i} g_t inside the chunk, E_ij = e^(b_i - b_j) for i >= j, S the
 * state before it. What token i writes, x_i, depends on what the chunk's earlier tokens wrote:
 *   A_ij = β_i E_ij (k_i·k_j) for j < i,        (I + A) X = β ∘ (V - e^b ∘ K S)
 *   O = e^b ∘ Q S + (Q Kᵀ ∘ E) X,               S' = e^b_Q S + Kᵀ (e^(b_Q - b) ∘ X)
 * (the WY form of Yang et al. 2024, with the two right sides U and W S of their (I + A)⁻¹ solved as
 * one). All exponents are <= 0, so nothing can overflow.
 *
 * Backward walks the chunks from the last, with dS the gradient of the state behind the chunk and
 * the states before each chunk recomputed by a forward sweep. M = Q Kᵀ ∘ E, R = V - e^b ∘ K S,
 * w_i = e^(b_Q - b_i):
 *   dX = Mᵀ dO + w ∘ K dS,    Λ = (I + A)⁻ᵀ dX,    dM = dO Xᵀ,   dA = -Λ Xᵀ (j < i)
 *   dV = β ∘ Λ,   dβ_i = Λ_i·R_i + Σ_j dA_ij E_ij k_i·k_j
 *   dQ = e^b ∘ dO Sᵀ + (dM∘E) K
 *   dK = (dM∘E)ᵀ Q + w ∘ X dSᵀ - e^b ∘ dV Sᵀ + (F + Fᵀ) K,   F_ij = dA_ij β_i E_ij
 *   dS_before = e^b_Q dS + Qᵀ(e^b ∘ dO) - Kᵀ(e^b ∘ dV)
 * db collects every e^b, dg_t = Σ_{i>=t} db_i. */
#include "model/delta.h"

#include "kernels/kernels.h"
#include "model/product.h"
#include "model/ssd.h"

#include <math.h>
#include <string.h>

enum { Q = ZB_DELTA_CHUNK };

/* Scratch of one chunk; sums behind it only backward uses. */
typedef struct chunk {
    int t0, q;
    double b[Q];
    float *S;                /* [dk,dv] before the chunk */
    float *kt;               /* [dk,Q] */
    float *eb, *w, *db;      /* [Q]: e^b, e^(b_Q - b), gradient of b */
    float *e, *a, *m;        /* [Q,Q]: E, A, M */
    float *ks, *x, *rows;    /* [Q,d]: K S, X, whatever is weighted by rows */
    float *dS, *turned, *dx; /* [dk,dv], a transpose of it, [Q,d] */
    float *dm, *da;          /* [Q,Q] */
    float *states;           /* [chunks,dk,dv] */
} chunk;

static size_t lay_out(int T, int dim, float *at, chunk *c) {
    size_t chunks = (size_t)(T + Q - 1) / Q, dd = (size_t)dim * (size_t)dim,
           qd = (size_t)Q * (size_t)dim, qq = (size_t)Q * Q, turned = dd > qd ? dd : qd, used = 0;
    float **part[] = {&c->S,  &c->kt, &c->eb, &c->w,  &c->db,    &c->e,
                      &c->a,  &c->m,  &c->ks, &c->x,  &c->rows,  &c->turned,
                      &c->dS, &c->dx, &c->dm, &c->da, &c->states};
    size_t size[] = {dd, qd, Q, Q, Q, qq, qq, qq, qd, qd, qd, turned, dd, qd, qq, qq, chunks * dd};
    for (int i = 0; i < 17; i++) {
        *part[i] = at ? at + used : NULL;
        used += size[i];
    }
    return used;
}

size_t zb_delta_work(int T, int dim) {
    chunk none;
    return lay_out(T, dim, NULL, &none);
}

/* b and everything that depends on keys and decays alone. */
static void open_chunk(const zb_delta *d, int t0, chunk *c) {
    int q = c->q = d->T - t0 < Q ? d->T - t0 : Q;
    double sum = 0;
    c->t0 = t0;
    for (int t = 0; t < q; t++) c->b[t] = sum += (double)d->g[(t0 + t) * d->g_row];
    for (int t = 0; t < q; t++) {
        c->eb[t] = expf((float)c->b[t]);
        c->w[t] = expf((float)(sum - c->b[t]));
    }
    zb_decay_matrix(q, c->b, c->e);
    const float *k = d->k + t0 * d->row;
    zb_transpose(k, d->row, q, d->dim, c->kt);
    zb_product((zb_shape){q, q, d->dim}, zb_rows(k, d->row), (zb_right){c->kt, q},
               (zb_out){c->a, q});
    for (int i = 0; i < q; i++) {
        float beta = d->beta[(t0 + i) * d->g_row];
        for (int j = 0; j < i; j++) c->a[i * q + j] *= beta * c->e[i * q + j];
    }
}

/* X, by forward substitution; ks keeps K S. */
static void write_values(const zb_delta *d, const float *S, const chunk *c) {
    const zb_kernels *kn = zb_kernels_get();
    int n = d->dim, q = c->q;
    zb_product((zb_shape){q, n, n}, zb_rows(d->k + c->t0 * d->row, d->row), (zb_right){S, n},
               (zb_out){c->ks, n});
    for (int i = 0; i < q; i++) {
        const float *v = d->v + (c->t0 + i) * d->row, *ks = c->ks + i * n;
        float *x = c->x + i * n, beta = d->beta[(c->t0 + i) * d->g_row];
        for (int p = 0; p < n; p++) x[p] = beta * (v[p] - c->eb[i] * ks[p]);
        for (int j = 0; j < i; j++) kn->axpy(n, -c->a[i * q + j], c->x + j * n, x);
    }
}

/* rows [q, n] = f_i · x_i */
static void weigh(int q, int n, const float *f, const float *x, ptrdiff_t row, float *rows) {
    for (int i = 0; i < q; i++)
        for (int p = 0; p < n; p++) rows[i * n + p] = f[i] * x[i * row + p];
}

/* M = Q Kᵀ ∘ E; E is 0 above the diagonal. */
static void meet(const zb_delta *d, const chunk *c) {
    int q = c->q;
    zb_product((zb_shape){q, q, d->dim}, zb_rows(d->q + c->t0 * d->row, d->row),
               (zb_right){c->kt, q}, (zb_out){c->m, q});
    for (int i = 0; i < q * q; i++) c->m[i] *= c->e[i];
}

/* S' from S, in place. */
static void carry(const zb_delta *d, float *S, const chunk *c) {
    int n = d->dim;
    zb_kernels_get()->scale(n * n, c->eb[c->q - 1], S);
    weigh(c->q, n, c->w, c->x, n, c->rows);
    zb_product_add((zb_shape){n, n, c->q}, zb_columns(d->k + c->t0 * d->row, d->row),
                   (zb_right){c->rows, n}, (zb_out){S, n});
}

void zb_delta_chunked(const zb_delta *d, float *work) {
    chunk c;
    int n = d->dim;
    lay_out(d->T, n, work, &c);
    float *S = d->state ? d->state : c.S;
    if (!d->state) memset(S, 0, (size_t)n * n * sizeof(float));
    for (int t0 = 0; t0 < d->T; t0 += Q) {
        open_chunk(d, t0, &c);
        write_values(d, S, &c);
        meet(d, &c);
        zb_out o = {d->o + t0 * d->row, d->row};
        zb_product((zb_shape){c.q, n, c.q}, zb_rows(c.m, c.q), (zb_right){c.x, n}, o);
        weigh(c.q, n, c.eb, d->q + t0 * d->row, d->row, c.rows);
        zb_product_add((zb_shape){c.q, n, n}, zb_rows(c.rows, n), (zb_right){S, n}, o);
        carry(d, S, &c);
    }
}

void zb_delta_steps(const zb_delta *d, float *work) {
    const zb_kernels *kn = zb_kernels_get();
    int n = d->dim;
    float *S = d->state ? d->state : work, *pair = work + (size_t)n * n, *found = pair + 2 * n;
    if (!d->state) memset(S, 0, (size_t)n * n * sizeof(float));
    for (int t = 0; t < d->T; t++) {
        const float *q = d->q + t * d->row, *k = d->k + t * d->row, *v = d->v + t * d->row;
        float a = expf(d->g[t * d->g_row]), beta = d->beta[t * d->g_row], kq = kn->dot(n, k, q),
              *o = d->o + t * d->row, *x = pair;
        memcpy(pair, k, (size_t)n * sizeof(float));
        memcpy(pair + n, q, (size_t)n * sizeof(float));
        zb_product((zb_shape){2, n, n}, zb_rows(pair, n), (zb_right){S, n}, (zb_out){found, n});
        for (int p = 0; p < n; p++) x[p] = beta * (v[p] - a * found[p]);
        for (int p = 0; p < n; p++) o[p] = a * found[n + p] + kq * x[p];
        kn->scale(n * n, a, S);
        zb_product_add((zb_shape){n, n, 1}, zb_rows(k, 1), (zb_right){x, n}, (zb_out){S, n});
    }
}

/* ---- backward ---- */

/* dX, then Λ by backward substitution, in c->dx; the gradients of M and A. */
static void backward_solve(const zb_delta *d, const zb_delta_grad *gr, const chunk *c) {
    const zb_kernels *kn = zb_kernels_get();
    int n = d->dim, q = c->q;
    const float *d_o = gr->d_o + c->t0 * d->row;
    zb_product((zb_shape){q, n, n}, zb_rows(d->k + c->t0 * d->row, d->row), (zb_right){c->dS, n},
               (zb_out){c->dx, n});
    for (int i = 0; i < q; i++) kn->scale(n, c->w[i], c->dx + i * n);
    zb_product_add((zb_shape){q, n, q}, zb_columns(c->m, q), (zb_right){d_o, d->row},
                   (zb_out){c->dx, n});
    for (int i = q - 1; i >= 0; i--)
        for (int j = 0; j < i; j++) kn->axpy(n, -c->a[i * q + j], c->dx + i * n, c->dx + j * n);
    float *xt = c->turned; /* [n, q] */
    zb_transpose(c->x, n, q, n, xt);
    zb_product((zb_shape){q, q, n}, zb_rows(d_o, d->row), (zb_right){xt, q}, (zb_out){c->dm, q});
    zb_product((zb_shape){q, q, n}, zb_rows(c->dx, n), (zb_right){xt, q}, (zb_out){c->da, q});
}

/* dβ, db and the gradients of the products of rows: dm becomes dM∘E, da becomes F. */
static void backward_weights(const zb_delta *d, const zb_delta_grad *gr, const chunk *c) {
    const zb_kernels *kn = zb_kernels_get();
    int n = d->dim, q = c->q;
    for (int i = 0; i < q; i++) {
        ptrdiff_t at = (c->t0 + i) * d->g_row;
        const float *v = d->v + (c->t0 + i) * d->row, *ks = c->ks + i * n, *lambda = c->dx + i * n;
        float beta = d->beta[at], found = kn->dot(n, lambda, ks), sum = 0;
        for (int j = 0; j < q; j++) {
            int ij = i * q + j;
            float by_m = j <= i ? c->dm[ij] * c->m[ij] : 0,
                  by_a = j < i ? -c->da[ij] * c->a[ij] : 0; /* a holds β E k·k */
            c->db[i] += by_m + by_a;
            c->db[j] -= by_m + by_a;
            sum += by_a;
            c->dm[ij] = j <= i ? c->dm[ij] * c->e[ij] : 0;
            c->da[ij] = j < i ? -c->da[ij] * beta * c->e[ij] : 0;
        }
        gr->dbeta[at] = kn->dot(n, lambda, v) - c->eb[i] * found + (beta > 0 ? sum / beta : 0);
        c->db[i] -= c->eb[i] * beta * found;
    }
}

/* dq, dk, dv, and dS before the chunk. */
static void backward_rows(const zb_delta *d, const zb_delta_grad *gr, const float *S,
                          const chunk *c) {
    const zb_kernels *kn = zb_kernels_get();
    int n = d->dim, q = c->q;
    ptrdiff_t at = c->t0 * d->row;
    const float *k = d->k + at, *qs = d->q + at;
    zb_out dq = {gr->dq + at, d->row}, dk = {gr->dk + at, d->row}, dv = {gr->dv + at, d->row};
    /* through the state behind: w ∘ X dSᵀ */
    zb_transpose(c->dS, n, n, n, c->turned);
    zb_product((zb_shape){q, n, n}, zb_rows(c->x, n), (zb_right){c->turned, n}, dk);
    for (int i = 0; i < q; i++) {
        kn->scale(n, c->w[i], dk.p + i * d->row);
        float by_w = kn->dot(n, dk.p + i * d->row, k + i * d->row);
        c->db[i] -= by_w;
        c->db[q - 1] += by_w;
    }
    c->db[q - 1] += c->eb[q - 1] * kn->dot(n * n, S, c->dS);
    kn->scale(n * n, c->eb[q - 1], c->dS);
    /* through the state before: Q S and K S */
    zb_transpose(S, n, n, n, c->turned);
    weigh(q, n, c->eb, gr->d_o + at, d->row, c->rows);
    zb_product((zb_shape){q, n, n}, zb_rows(c->rows, n), (zb_right){c->turned, n}, dq);
    for (int i = 0; i < q; i++) c->db[i] += kn->dot(n, dq.p + i * d->row, qs + i * d->row);
    zb_product_add((zb_shape){n, n, q}, zb_columns(qs, d->row), (zb_right){c->rows, n},
                   (zb_out){c->dS, n});
    for (int i = 0; i < q; i++) {
        float beta = d->beta[(c->t0 + i) * d->g_row];
        for (int p = 0; p < n; p++) {
            dv.p[i * d->row + p] = beta * c->dx[i * n + p];
            c->rows[i * n + p] = -c->eb[i] * dv.p[i * d->row + p];
        }
    }
    zb_product_add((zb_shape){q, n, n}, zb_rows(c->rows, n), (zb_right){c->turned, n}, dk);
    zb_product_add((zb_shape){n, n, q}, zb_columns(k, d->row), (zb_right){c->rows, n},
                   (zb_out){c->dS, n});
    /* inside the chunk */
    zb_right keys = {k, d->row};
    zb_product_add((zb_shape){q, n, q}, zb_rows(c->dm, q), keys, dq);
    zb_product_add((zb_shape){q, n, q}, zb_columns(c->dm, q), (zb_right){qs, d->row}, dk);
    zb_product_add((zb_shape){q, n, q}, zb_rows(c->da, q), keys, dk);
    zb_product_add((zb_shape){q, n, q}, zb_columns(c->da, q), keys, dk);
}

void zb_delta_backward(const zb_delta *d, const zb_delta_grad *gr, float *work) {
    chunk c;
    int n = d->dim, chunks = (d->T + Q - 1) / Q;
    size_t square = (size_t)n * (size_t)n;
    lay_out(d->T, n, work, &c);
    memset(c.states, 0, square * sizeof(float));
    for (int i = 0; i + 1 < chunks; i++) { /* states before each chunk */
        float *next = c.states + (size_t)(i + 1) * square;
        memcpy(next, c.states + (size_t)i * square, square * sizeof(float));
        open_chunk(d, i * Q, &c);
        write_values(d, next, &c);
        carry(d, next, &c);
    }
    memset(c.dS, 0, square * sizeof(float));
    for (int i = chunks - 1; i >= 0; i--) {
        const float *S = c.states + (size_t)i * square;
        open_chunk(d, i * Q, &c);
        write_values(d, S, &c);
        meet(d, &c);
        memset(c.db, 0, Q * sizeof(float));
        backward_solve(d, gr, &c);
        backward_weights(d, gr, &c);
        backward_rows(d, gr, S, &c);
        float sum = 0;
        for (int t = c.q - 1; t >= 0; t--) gr->dg[(c.t0 + t) * d->g_row] = sum += c.db[t];
    }
}
