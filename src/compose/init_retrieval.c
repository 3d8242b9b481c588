/* init_retrieval.c - the values of narrow retrieval heads (zb_init_retrieval in init.h).
 *
 * Of a far head's value v [dh] the model keeps the first r = far_v. The query heads h that share it
 * give Σ_h Wo_h (weights of attention · v), so what a value lacks costs ‖Wo (v - v')‖² with M = Σ_h
 * Wo_hᵀ Wo_h = L Lᵀ. With C = Wv X Wvᵀ the second moment of values (X that of the layer's inputs)
 * and Lᵀ C L = U Λ Uᵀ, eigenvalues descending, the coordinates z = Uᵀ Lᵀ v carry the output's power
 * in this order: the first r are the best r there are (Eckart and Young 1936). All dh coordinates
 * together are the same head:
 *
 *   Wv <- s Uᵀ Lᵀ Wv,   Wo_h <- Wo_h L^-ᵀ U / s        s keeps the size of Wv
 *
 * Without data X is that of normalised inputs with independent values: diag of the norm's squared
 * weights. */
#include "compose/init.h"

#include "tensor/linalg.h"

#include <math.h>

static const double RIDGE = 1e-9; /* of M, as a share of its mean diagonal */

/* X [D, D] */
static double *inputs_moment(const zb_init_job *j, zb_arena *a) {
    int D = j->config->D;
    double *X = ZB_NEW_ARRAY(a, double, (size_t)D *D);
    if (j->calibration) {
        zb_calibration_moment(j->calibration, j->calibration->x, X, a);
        return X;
    }
    const float *w = zb_init_weights(j, "input_layernorm.weight");
    for (int i = 0; i < D; i++) X[(size_t)i * D + i] = (double)w[i] * (double)w[i];
    return X;
}

/* c [m, n] = a [m, k] (or aᵀ of [k, m]) times b [k, n] (or bᵀ of [n, k]) */
static double *product(int m, int n, int k, const double *x, bool x_t, const double *y, bool y_t,
                       zb_arena *a) {
    double *c = ZB_NEW_ARRAY(a, double, (size_t)m *n);
    zb_linalg_matmul(
        &(zb_dmm_args){.m = m, .n = n, .k = k, .a = x, .a_t = x_t, .b = y, .b_t = y_t, .c = c});
    return c;
}

static double size_of(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i];
    return sqrt(sum);
}

/* Columns of query head h of the output map as [D, dh]. */
static double *columns(const zb_config *c, const float *o, int h, zb_arena *a) {
    double *out = ZB_NEW_ARRAY(a, double, (size_t)c->D * c->dh);
    for (int d = 0; d < c->D; d++)
        for (int i = 0; i < c->dh; i++)
            out[(size_t)d * c->dh + i] = (double)o[((size_t)d * c->H + h) * c->dh + i];
    return out;
}

/* L [dh, dh] of kv head g. */
static zb_status output_metric(const zb_config *c, const float *o, int g, double *L, zb_arena *a,
                               zb_err *err) {
    int dh = c->dh, per = c->H / c->G;
    double trace = 0, *M = ZB_NEW_ARRAY(a, double, (size_t)dh *dh);
    for (int h = g * per; h < (g + 1) * per; h++) {
        const double *w = columns(c, o, h, a), *part = product(dh, dh, c->D, w, true, w, false, a);
        for (int i = 0; i < dh * dh; i++) M[i] += part[i];
    }
    for (int i = 0; i < dh; i++) trace += M[i * dh + i];
    for (int i = 0; i < dh; i++) M[i * dh + i] += RIDGE * trace / dh;
    return zb_linalg_cholesky(dh, M, L, err);
}

static zb_status turn_head(const zb_init_job *j, int g, const double *X, zb_arena *a, zb_err *err) {
    const zb_config *c = j->config;
    int dh = c->dh, D = c->D, per = c->H / c->G;
    size_t square = (size_t)dh * dh;
    float *v = zb_init_weights(j, "self_attn.v_proj.weight") + (size_t)g * dh * D,
          *o = zb_init_weights(j, "self_attn.o_proj.weight"),
          *bias = zb_init_weights(j, "self_attn.v_proj.bias");
    double *L = ZB_NEW_ARRAY(a, double, square), *power = ZB_NEW_ARRAY(a, double, dh),
           *vectors = ZB_NEW_ARRAY(a, double, square), *U = ZB_NEW_ARRAY(a, double, square);
    ZB_TRY(output_metric(c, o, g, L, a, err));
    double *W = zb_linalg_widen(a, v, (int64_t)dh * D),
           *LW = product(dh, D, dh, L, true, W, false, a), /* Lᵀ Wv */
               *A = product(dh, dh, D, product(dh, D, D, LW, false, X, false, a), false, LW, true,
                            a);
    ZB_TRY(zb_linalg_eigen(dh, A, power, vectors, a, err));
    for (int i = 0; i < dh; i++) /* the largest first; U by columns */
        for (int k = 0; k < dh; k++) U[(size_t)k * dh + i] = vectors[(size_t)(dh - 1 - i) * dh + k];
    double *turned = product(dh, D, dh, U, true, LW, false, a),
           s = size_of(W, (int64_t)dh * D) / size_of(turned, (int64_t)dh * D);
    for (size_t i = 0; i < (size_t)dh * D; i++) v[i] = (float)(s * turned[i]);
    if (bias) {
        double *b = zb_linalg_widen(a, bias + (size_t)g * dh, dh),
               *z = product(dh, 1, dh, U, true, product(dh, 1, dh, L, true, b, false, a), false, a);
        for (int i = 0; i < dh; i++) bias[(size_t)g * dh + i] = (float)(s * z[i]);
    }
    ZB_TRY(zb_linalg_solve_triangular(dh, dh, L, true, U, err)); /* L^-ᵀ U */
    for (int h = g * per; h < (g + 1) * per; h++) {
        double *to = product(D, dh, dh, columns(c, o, h, a), false, U, false, a);
        for (int d = 0; d < D; d++)
            for (int i = 0; i < dh; i++)
                o[((size_t)d * c->H + h) * dh + i] = (float)(to[(size_t)d * dh + i] / s);
    }
    return ZB_OK;
}

zb_status zb_init_retrieval(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    const double *X = inputs_moment(j, scratch);
    for (int i = 0; i < zb_config_far_heads(j->config, j->layer); i++) {
        zb_mark mark = zb_arena_mark(scratch);
        ZB_TRY(turn_head(j, zb_config_far_head(j->config, j->layer, i), X, scratch, err));
        zb_arena_pop(scratch, mark);
    }
    return ZB_OK;
}
