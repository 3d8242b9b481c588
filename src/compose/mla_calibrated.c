/* mla_calibrated.c - the calibrated start of an MLA layer (contract in mla_calibrated.h).
 *
 * Pairs. Dimensions i and i + dh/2 of a head are one complex number; rotation by position p is a
 * product with e^{jpθ_i}, a score is Re(conj(q) k) summed over pairs. C is the inputs' second
 * moment.
 *
 * Rotary part, per kept pair i. Over kv heads g the keys k_g = w_g x, weighted by p_g = root of the
 * summed power of the queries that meet them, have the moment M_ab = p_a p_b conj(w_a) C w_bᵀ. Its
 * principal eigenvector u makes the shared key s = Σ p_g u_g k_g, of which k_g ≈ conj(u_g)/p_g · s
 * is the least-squares image; so query head h of group g is multiplied by u_g/p_g. Complex factors
 * commute with the rotation.
 *
 * Unrotated part. A pair that loses its rotation is multiplied by ρ_i = Σ_τ w_τ e^{-jτθ_i}, τ = 1
 * .. 128, w_τ ∝ 1/τ: right on average for the lags that matter.
 *
 * Latents. Rows of keys are weighted by A_g = (Σ_h W_q,h C W_q,hᵀ)^½ / √dh (errors in scores),
 * values by B_g = (Σ_h W_o,hᵀ W_o,h)^½ (errors in outputs), columns by the Cholesky factor L of C:
 *   [a·A_g K_g; B_g V_g] L = U S Vᵀ,   latents = S_r V_rᵀ L^-1,   up maps = weights^-1 U_r,
 * where a balances both energies, times key_weight. */
#include "compose/mla_calibrated.h"

#include "tensor/linalg.h"

#include <complex.h>
#include <math.h>
#include <string.h>

enum { LAGS = 128 };

typedef struct work {
    const zb_mla_paper_dims *d;
    const zb_mla_calibrated_in *in;
    zb_arena *a;
    int D, H, G, R, dh, half, pairs; /* R: query heads of a group */
    double *q, *k, *v, *o;           /* the teacher's maps in f64 */
    double *qc, *kc;                 /* q·C [H·dh, D], k·C [G·dh, D] */
    double *chol;                    /* L [D, D] */
    int *dim;                        /* [d_nope] head dimensions of the unrotated part */
    double *new_q;                   /* [H·(d_nope + d_rope), D] */
    double *rope_k;                  /* [d_rope, D] */
} work;

static double *new_matrix(zb_arena *a, int rows, int cols) {
    return ZB_NEW_ARRAY(a, double, (size_t)rows *cols);
}

/* CMPLX of complex.h, which clang does not have. */
static double complex number(double re, double im) {
    double parts[2] = {re, im};
    double complex z;
    memcpy(&z, parts, sizeof z);
    return z;
}

static double dot(int n, const double *x, const double *y) {
    double s = 0;
    for (int i = 0; i < n; i++) s += x[i] * y[i];
    return s;
}

static void multiply(int m, int n, int k, const double *a, const double *b, double *c) {
    zb_linalg_matmul(&(zb_dmm_args){.m = m, .n = n, .k = k, .a = a, .b = b, .c = c});
}

/* Roots of a symmetric positive A [n, n]: root = A^½, inverse = A^-½, eigenvalues floored at 1e-8
 * of the largest. */
static zb_status square_root(int n, const double *A, double *root, double *inverse, zb_arena *a,
                             zb_err *err) {
    zb_mark mark = zb_arena_mark(a);
    double *value = new_matrix(a, n, 1), *vector = new_matrix(a, n, n);
    zb_status s = zb_linalg_eigen(n, A, value, vector, a, err);
    double floor = s == ZB_OK ? fmax(1e-8 * value[n - 1], 1e-300) : 1;
    for (int i = 0; s == ZB_OK && i < n; i++)
        for (int j = 0; j < n; j++) {
            double r = 0, v = 0;
            for (int e = 0; e < n; e++) {
                double w = sqrt(fmax(value[e], floor));
                double x = vector[(size_t)e * n + i] * vector[(size_t)e * n + j];
                r += x * w;
                v += x / w;
            }
            root[(size_t)i * n + j] = r;
            inverse[(size_t)i * n + j] = v;
        }
    zb_arena_pop(a, mark);
    return s;
}

/* conj(w_a) C w_bᵀ of pair i for rows a, b of heads, given the rows times C. */
static double complex pair_moment(const work *k, const double *wc_a, const double *w_b, int i) {
    size_t re = (size_t)i * k->D, im = (size_t)(i + k->half) * k->D;
    double rr = dot(k->D, wc_a + re, w_b + re), ii = dot(k->D, wc_a + im, w_b + im);
    double ri = dot(k->D, wc_a + re, w_b + im), ir = dot(k->D, wc_a + im, w_b + re);
    return number(rr + ii, ri - ir);
}

/* to = Re, to + step = Im of f · (row pair i of `head`), times `by`. */
static void put_pair(const work *k, const double *head, int i, double complex f, double by,
                     double *re_to, double *im_to) {
    const double *re = head + (size_t)i * k->D, *im = head + (size_t)(i + k->half) * k->D;
    double fr = creal(f), fi = cimag(f);
    for (int c = 0; c < k->D; c++) {
        re_to[c] += by * (fr * re[c] - fi * im[c]);
        im_to[c] += by * (fr * im[c] + fi * re[c]);
    }
}

/* Principal eigenvector of a Hermitian M [G, G] by the real symmetric [[Re, -Im], [Im, Re]]. */
static zb_status principal(int G, const double complex *M, double complex *u, zb_arena *a,
                           zb_err *err) {
    int n = 2 * G;
    double *S = new_matrix(a, n, n), *value = new_matrix(a, n, 1), *vector = new_matrix(a, n, n);
    for (int i = 0; i < G; i++)
        for (int j = 0; j < G; j++) {
            double re = creal(M[i * G + j]), im = cimag(M[i * G + j]);
            S[i * n + j] = S[(i + G) * n + j + G] = re;
            S[i * n + j + G] = -im;
            S[(i + G) * n + j] = im;
        }
    ZB_TRY(zb_linalg_eigen(n, S, value, vector, a, err));
    const double *top = vector + (size_t)(n - 1) * n;
    for (int g = 0; g < G; g++) u[g] = number(top[g], top[g + G]);
    return ZB_OK;
}

static zb_status rotary_pair(work *k, int i, zb_err *err) {
    int G = k->G, D = k->D, dk = k->d->nope_dim + k->d->rope_dim;
    double complex *M = zb_alloc_array(k->a, (size_t)G * G, sizeof *M),
                   *u = zb_alloc_array(k->a, (size_t)G, sizeof *u);
    double *p = new_matrix(k->a, G, 1), most = 0;
    for (int h = 0; h < k->H; h++) {
        size_t at = (size_t)h * k->dh * D;
        p[h / k->R] += creal(pair_moment(k, k->qc + at, k->q + at, i));
    }
    for (int g = 0; g < G; g++) p[g] = sqrt(fmax(p[g], 0)), most = fmax(most, p[g]);
    for (int g = 0; g < G; g++) p[g] = fmax(p[g], 1e-6 * most + 1e-30);
    for (int a = 0; a < G; a++)
        for (int b = 0; b < G; b++)
            M[a * G + b] =
                p[a] * p[b] *
                pair_moment(k, k->kc + (size_t)a * k->dh * D, k->k + (size_t)b * k->dh * D, i);
    ZB_TRY(principal(G, M, u, k->a, err));
    double *re = k->rope_k + (size_t)2 * i * D, *im = re + D;
    for (int g = 0; g < G; g++) put_pair(k, k->k + (size_t)g * k->dh * D, i, u[g], p[g], re, im);
    double size = sqrt(dot(D, re, re) + dot(D, im, im)) + 1e-300;
    for (int c = 0; c < 2 * D; c++) re[c] /= size; /* im stands behind re */
    for (int h = 0; h < k->H; h++) {
        double *to = k->new_q + ((size_t)h * dk + k->d->nope_dim + 2 * i) * D;
        put_pair(k, k->q + (size_t)h * k->dh * D, i, u[h / k->R], size / p[h / k->R], to, to + D);
    }
    return ZB_OK;
}

/* Keys of one kv head without rotation, its rows dim[0..d_nope): [d_nope, D]. */
static void mean_keys(const work *k, int g, double *out) {
    double total = 0;
    for (int t = 1; t <= LAGS; t++) total += 1.0 / t;
    const double *head = k->k + (size_t)g * k->dh * k->D;
    double *all = new_matrix(k->a, k->dh, k->D);
    for (int i = k->pairs; i < k->half; i++) {
        double complex rho = 0;
        for (int t = 1; t <= LAGS; t++) {
            double angle = t * k->in->frequency[i];
            rho += number(cos(angle), -sin(angle)) / (t * total);
        }
        put_pair(k, head, i, rho, 1, all + (size_t)i * k->D, all + (size_t)(i + k->half) * k->D);
    }
    for (int r = 0; r < k->d->nope_dim; r++)
        memcpy(out + (size_t)r * k->D, all + (size_t)k->dim[r] * k->D,
               (size_t)k->D * sizeof(double));
}

/* Weighted rows of all kv heads and what undoes the weights: keys [G·dn, D], values [G·dh, D]. */
typedef struct rows {
    double *key, *value, *undo_key, *undo_value; /* undo: [G][dn, dn], [G][dh, dh] */
} rows;

static zb_status weigh_keys(work *k, int g, rows *r, zb_err *err) {
    int dn = k->d->nope_dim, D = k->D, dh = k->dh;
    double *A = new_matrix(k->a, dn, dn), *root = new_matrix(k->a, dn, dn),
           *K = new_matrix(k->a, dn, D), *undo = r->undo_key + (size_t)g * dn * dn;
    for (int h = g * k->R; h < (g + 1) * k->R; h++)
        for (int i = 0; i < dn; i++)
            for (int j = 0; j < dn; j++)
                A[(size_t)i * dn + j] += dot(D, k->qc + ((size_t)h * dh + k->dim[i]) * D,
                                             k->q + ((size_t)h * dh + k->dim[j]) * D) /
                                         dh;
    ZB_TRY(square_root(dn, A, root, undo, k->a, err));
    mean_keys(k, g, K);
    multiply(dn, D, dn, root, K, r->key + (size_t)g * dn * D);
    return ZB_OK;
}

static zb_status weigh_values(work *k, int g, rows *r, zb_err *err) {
    int D = k->D, dh = k->dh, width = k->H * dh;
    double *B = new_matrix(k->a, dh, dh), *root = new_matrix(k->a, dh, dh);
    for (int h = g * k->R; h < (g + 1) * k->R; h++)
        for (int c = 0; c < D; c++) {
            const double *row = k->o + (size_t)c * width + (size_t)h * dh;
            for (int i = 0; i < dh; i++)
                for (int j = 0; j < dh; j++) B[(size_t)i * dh + j] += row[i] * row[j];
        }
    ZB_TRY(square_root(dh, B, root, r->undo_value + (size_t)g * dh * dh, k->a, err));
    multiply(dh, D, dh, root, k->v + (size_t)g * dh * D, r->value + (size_t)g * dh * D);
    return ZB_OK;
}

/* kv_b: per head the undone rows of U_r, keys first. */
static void write_up(const work *k, const rows *r, const zb_svd *svd, double balance,
                     const zb_mla_paper_out *out) {
    int dn = k->d->nope_dim, dh = k->dh, rank = k->d->kv_rank, n = svd->k;
    int heads = k->d->full_kv_head ? k->H : k->G, per = heads / k->G;
    for (int h = 0; h < heads; h++) {
        int g = h / per;
        float *to = out->kv_b + (size_t)h * (dn + dh) * rank;
        for (int i = 0; i < dn + dh; i++) {
            bool key = i < dn;
            int size = key ? dn : dh, row = key ? i : i - dn;
            const double *undo =
                (key ? r->undo_key : r->undo_value) + (size_t)g * size * size + (size_t)row * size;
            const double *u =
                svd->u + (key ? (size_t)g * dn : (size_t)k->G * dn + (size_t)g * dh) * n;
            for (int c = 0; c < rank; c++) {
                double sum = 0;
                for (int e = 0; e < size; e++) sum += undo[e] * u[(size_t)e * n + c];
                to[(size_t)i * rank + c] = (float)(key ? sum / balance : sum);
            }
        }
    }
}

static double weighted_energy(const work *k, const double *m, int n) {
    double *t = new_matrix(k->a, n, k->D);
    multiply(n, k->D, k->D, m, k->chol, t);
    return dot(n * k->D, t, t);
}

/* First `rank` rows of S Vᵀ L^-1 as f32 [rank, D]. */
static zb_status write_down(const work *k, const zb_svd *svd, int rank, float *out, zb_err *err) {
    int D = k->D;
    double *t = new_matrix(k->a, D, rank); /* Lᵀ X = (S Vᵀ)ᵀ */
    for (int c = 0; c < rank; c++)
        for (int i = 0; i < D; i++)
            t[(size_t)i * rank + c] = svd->s[c] * svd->vt[(size_t)c * D + i];
    ZB_TRY(zb_linalg_solve_triangular(D, rank, k->chol, true, t, err));
    for (int c = 0; c < rank; c++)
        for (int i = 0; i < D; i++) out[(size_t)c * D + i] = (float)t[(size_t)i * rank + c];
    return ZB_OK;
}

/* Moves powers of two between the rows of a map down [rank, D] and the columns of the map up [n,
 * rank] behind it, so that both have weights of like size: the product stays the same bit by bit,
 * while an optimiser that moves all weights alike moves both maps alike. */
static void even_out(float *down, float *up, int rank, int D, int n) {
    for (int c = 0; c < rank; c++) {
        double d = 0, u = 0;
        for (int i = 0; i < D; i++) d += pow((double)down[(size_t)c * D + i], 2);
        for (int i = 0; i < n; i++) u += pow((double)up[(size_t)i * rank + c], 2);
        if (d <= 0 || u <= 0) continue;
        int by = (int)lrint(0.25 * log2((u / n) / (d / D)));
        for (int i = 0; i < D; i++) down[(size_t)c * D + i] = ldexpf(down[(size_t)c * D + i], by);
        for (int i = 0; i < n; i++)
            up[(size_t)i * rank + c] = ldexpf(up[(size_t)i * rank + c], -by);
    }
}

static zb_status latents(work *k, const zb_mla_paper_out *out, double *lost, zb_err *err) {
    int dn = k->d->nope_dim, dh = k->dh, G = k->G, D = k->D, nk = G * dn, nv = G * dh;
    double *both = new_matrix(k->a, nk + nv, D), *seen = new_matrix(k->a, nk + nv, D);
    rows r = {.key = both,
              .value = both + (size_t)nk * D,
              .undo_key = new_matrix(k->a, nk, dn),
              .undo_value = new_matrix(k->a, nv, dh)};
    for (int g = 0; g < G; g++) {
        ZB_TRY(weigh_keys(k, g, &r, err));
        ZB_TRY(weigh_values(k, g, &r, err));
    }
    double ek = weighted_energy(k, r.key, nk), ev = weighted_energy(k, r.value, nv);
    double balance = ek > 0 && ev > 0 ? sqrt(ev / ek) * k->in->key_weight : 1;
    for (size_t i = 0; i < (size_t)nk * D; i++) r.key[i] *= balance;
    multiply(nk + nv, D, D, both, k->chol, seen);
    zb_svd svd;
    ZB_TRY(zb_linalg_svd(&svd, nk + nv, D, seen, k->a, err));
    double kept = 0, all = 0;
    for (int i = 0; i < svd.k; i++) {
        all += svd.s[i] * svd.s[i];
        if (i < k->d->kv_rank) kept += svd.s[i] * svd.s[i];
    }
    if (lost) *lost = all > 0 ? 1 - kept / all : 0;
    write_up(k, &r, &svd, balance, out);
    ZB_TRY(write_down(k, &svd, k->d->kv_rank, out->kv_a, err));
    int heads = k->d->full_kv_head ? k->H : k->G;
    even_out(out->kv_a, out->kv_b, k->d->kv_rank, D, heads * (dn + dh));
    return ZB_OK;
}

/* The query map, full or cut at q_rank in the metric of the inputs. */
static zb_status write_queries(work *k, const zb_mla_paper_out *out, zb_err *err) {
    int n_rows = k->H * (k->d->nope_dim + k->d->rope_dim), D = k->D, rank = k->d->q_rank;
    double by = 1 / (sqrt((double)k->dh) * k->in->scale);
    size_t n = (size_t)n_rows * D;
    for (size_t i = 0; i < n; i++) k->new_q[i] *= by;
    if (!rank) {
        for (size_t i = 0; i < n; i++) out->q[i] = (float)k->new_q[i];
        return ZB_OK;
    }
    double *seen = new_matrix(k->a, n_rows, D);
    multiply(n_rows, D, D, k->new_q, k->chol, seen);
    zb_svd svd;
    ZB_TRY(zb_linalg_svd(&svd, n_rows, D, seen, k->a, err));
    for (int i = 0; i < n_rows; i++)
        for (int c = 0; c < rank; c++)
            out->q_b[(size_t)i * rank + c] = (float)svd.u[(size_t)i * svd.k + c];
    ZB_TRY(write_down(k, &svd, rank, out->q_a, err));
    even_out(out->q_a, out->q_b, rank, D, n_rows);
    return ZB_OK;
}

static zb_status build(work *k, const zb_mla_paper_out *out, double *lost, zb_err *err) {
    int D = k->D, dh = k->dh, dn = k->d->nope_dim, dk = dn + k->d->rope_dim;
    k->q = zb_linalg_widen(k->a, k->in->weights.q, (int64_t)k->H * dh * D);
    k->k = zb_linalg_widen(k->a, k->in->weights.k, (int64_t)k->G * dh * D);
    k->v = zb_linalg_widen(k->a, k->in->weights.v, (int64_t)k->G * dh * D);
    k->o = zb_linalg_widen(k->a, k->in->weights.o, (int64_t)D * k->H * dh);
    k->qc = new_matrix(k->a, k->H * dh, D);
    k->kc = new_matrix(k->a, k->G * dh, D);
    multiply(k->H * dh, D, D, k->q, k->in->moment, k->qc);
    multiply(k->G * dh, D, D, k->k, k->in->moment, k->kc);
    k->chol = new_matrix(k->a, D, D);
    double mean = 0;
    for (int i = 0; i < D; i++) mean += k->in->moment[(size_t)i * D + i] / D;
    memcpy(k->chol, k->in->moment, (size_t)D * D * sizeof(double));
    for (int i = 0; i < D; i++) k->chol[(size_t)i * D + i] += 1e-4 * mean + 1e-30;
    ZB_TRY(zb_linalg_cholesky(D, k->chol, k->chol, err));
    k->dim = ZB_NEW_ARRAY(k->a, int, dh); /* slow pairs first, then what else there is room for */
    int n = 0;
    for (int i = k->pairs; i < k->half; i++) k->dim[n++] = i;
    for (int i = k->pairs; i < k->half; i++) k->dim[n++] = i + k->half;
    for (int i = 0; i < k->pairs; i++) k->dim[n++] = i, k->dim[n++] = i + k->half;
    k->new_q = new_matrix(k->a, k->H * dk, D);
    k->rope_k = new_matrix(k->a, k->d->rope_dim, D);
    for (int h = 0; h < k->H; h++)
        for (int r = 0; r < dn; r++)
            memcpy(k->new_q + ((size_t)h * dk + r) * D, k->q + ((size_t)h * dh + k->dim[r]) * D,
                   (size_t)D * sizeof(double));
    for (int i = 0; i < k->pairs; i++) ZB_TRY(rotary_pair(k, i, err));
    ZB_TRY(latents(k, out, lost, err));
    float *rope = out->kv_a + (size_t)k->d->kv_rank * D;
    for (size_t i = 0; i < (size_t)k->d->rope_dim * D; i++) rope[i] = (float)k->rope_k[i];
    ZB_TRY(write_queries(k, out, err));
    memcpy(out->out, k->in->weights.o, (size_t)D * k->H * dh * sizeof(float));
    return ZB_OK;
}

zb_status zb_mla_calibrated_check(const zb_mla_paper_dims *d, zb_err *err) {
    int heads = d->full_kv_head ? d->heads : d->kv_heads, most = 2 * d->kv_heads * d->head_dim;
    if (d->head_dim % 2 || d->rope_dim % 2 || d->rope_dim > d->head_dim ||
        d->nope_dim > d->head_dim || d->nope_dim + d->rope_dim < d->head_dim)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "calibrated MLA: expected an even rope_dim, both dims at most %d and at "
                       "least that together, found nope_dim %d, rope_dim %d",
                       d->head_dim, d->nope_dim, d->rope_dim);
    if (d->kv_rank < 1 || d->kv_rank > most || d->kv_rank > d->hidden ||
        d->kv_rank > d->kv_heads * (d->nope_dim + d->head_dim) || heads % d->kv_heads)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "calibrated MLA: expected a kv_rank from 1 to %d, found %d",
                       most < d->hidden ? most : d->hidden, d->kv_rank);
    if (d->q_rank < 0 || d->q_rank > d->hidden ||
        d->q_rank > d->heads * (d->nope_dim + d->rope_dim))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "calibrated MLA: expected a q_rank from 0 to %d, found %d", d->hidden,
                       d->q_rank);
    if (d->v_dim != d->head_dim)
        return zb_fail(err, ZB_ERR_CONFIG, "calibrated MLA: expected a v_dim of %d, found %d",
                       d->head_dim, d->v_dim);
    return ZB_OK;
}

zb_status zb_mla_calibrated_init(const zb_mla_paper_dims *d, const zb_mla_calibrated_in *in,
                                 const zb_mla_paper_out *out, double *lost, zb_arena *arena,
                                 zb_err *err) {
    ZB_TRY(zb_mla_calibrated_check(d, err));
    zb_mark mark = zb_arena_mark(arena);
    work k = {.d = d,
              .in = in,
              .a = arena,
              .D = d->hidden,
              .H = d->heads,
              .G = d->kv_heads,
              .R = d->heads / d->kv_heads,
              .dh = d->head_dim,
              .half = d->head_dim / 2,
              .pairs = d->rope_dim / 2};
    zb_status s = build(&k, out, lost, err);
    zb_arena_pop(arena, mark);
    return s;
}
