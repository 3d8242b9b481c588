/* attend.c - softmax attention by blocks of queries (contract in attend.h).
 *
 * For a block of queries i0 .. i0+b-1 only keys 0 .. past+i0+b-1 matter:
 *   S = scale·Q Kᵀ,  P = softmax(S) with the causal mask,  O = P V.
 * Backward recomputes P from the saved log-sum-exp (Dao et al. 2022, algorithm 4, without tiling
 * over keys): dV += Pᵀ dO,  dP = dO Vᵀ,  dS = scale·P ∘ (dP − rowsum(dO ∘ O)),  dQ = dS K,  dK +=
 * dSᵀ Q. K and V are transposed once per head so that the products read rows. */
#include "model/attend.h"

#include "kernels/kernels.h"
#include "model/product.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 64 };

size_t zb_attend_work(int keys, int dk, int dv) {
    return (size_t)keys * (size_t)(dk + dv + 2 * BLOCK);
}

/* One query: dot products are cheaper than a transposed copy of all keys. */
static void forward_one(const zb_attend *a, float *p) {
    const zb_kernels *kn = zb_kernels_get();
    int keys = a->past + 1;
    for (int j = 0; j < keys; j++) p[j] = kn->dot(a->dk, a->q, a->k + j * a->k_row);
    float lse = kn->softmax(keys, a->scale, p);
    if (a->lse) a->lse[0] = lse;
    memset(a->o, 0, (size_t)a->dv * sizeof(float));
    for (int j = 0; j < keys; j++) kn->axpy(a->dv, p[j], a->v + j * a->v_row, a->o);
}

void zb_attend_forward(const zb_attend *a, float *work) {
    if (a->T == 1) {
        forward_one(a, work);
        return;
    }
    const zb_kernels *kn = zb_kernels_get();
    int keys = a->past + a->T;
    float *kt = work, *s = work + (size_t)keys * a->dk;
    zb_transpose(a->k, a->k_row, keys, a->dk, kt);
    for (int i0 = 0; i0 < a->T; i0 += BLOCK) {
        int b = a->T - i0 < BLOCK ? a->T - i0 : BLOCK, seen = a->past + i0 + b;
        zb_product((zb_shape){b, seen, a->dk}, zb_rows(a->q + i0 * a->q_row, a->q_row),
                   (zb_right){kt, keys}, (zb_out){s, seen});
        for (int i = 0; i < b; i++) {
            float *row = s + (size_t)i * seen;
            int visible = a->past + i0 + i + 1;
            float lse = kn->softmax(visible, a->scale, row);
            if (a->lse) a->lse[i0 + i] = lse;
            memset(row + visible, 0, (size_t)(seen - visible) * sizeof(float));
        }
        zb_product((zb_shape){b, a->dv, seen}, zb_rows(s, seen), (zb_right){a->v, a->v_row},
                   (zb_out){a->o + i0 * a->o_row, a->o_row});
    }
}

/* P of one block from scores and log-sum-exp, in place; masked entries 0. */
static void probabilities(const zb_attend *a, int i0, int b, int seen, float *s) {
    const zb_kernels *kn = zb_kernels_get();
    for (int i = 0; i < b; i++) {
        float *row = s + (size_t)i * seen, lse = a->lse[i0 + i];
        int visible = i0 + i + 1;
        for (int j = 0; j < visible; j++) row[j] = row[j] * a->scale - lse;
        kn->exp(visible, row, row);
        memset(row + visible, 0, (size_t)(seen - visible) * sizeof(float));
    }
}

void zb_attend_backward(const zb_attend *a, const zb_attend_grad *g, float *work) {
    const zb_kernels *kn = zb_kernels_get();
    int keys = a->T;
    float *kt = work, *vt = kt + (size_t)keys * a->dk, *p = vt + (size_t)keys * a->dv,
          *dp = p + (size_t)keys * BLOCK;
    zb_transpose(a->k, a->k_row, keys, a->dk, kt);
    zb_transpose(a->v, a->v_row, keys, a->dv, vt);
    for (int i0 = 0; i0 < a->T; i0 += BLOCK) {
        int b = a->T - i0 < BLOCK ? a->T - i0 : BLOCK, seen = i0 + b;
        const float *d_o = g->d_o + i0 * a->o_row;
        zb_product((zb_shape){b, seen, a->dk}, zb_rows(a->q + i0 * a->q_row, a->q_row),
                   (zb_right){kt, keys}, (zb_out){p, seen});
        probabilities(a, i0, b, seen, p);
        zb_product((zb_shape){b, seen, a->dv}, zb_rows(d_o, a->o_row), (zb_right){vt, keys},
                   (zb_out){dp, seen});
        zb_product_add((zb_shape){seen, a->dv, b}, zb_columns(p, seen), (zb_right){d_o, a->o_row},
                       (zb_out){g->dv, a->v_row});
        for (int i = 0; i < b; i++) {
            float delta = kn->dot(a->dv, d_o + i * a->o_row, a->o + (i0 + i) * a->o_row);
            float *row = p + (size_t)i * seen;
            const float *dr = dp + (size_t)i * seen;
            for (int j = 0; j < seen; j++) row[j] *= (dr[j] - delta) * a->scale;
        }
        zb_product((zb_shape){b, a->dk, seen}, zb_rows(p, seen), (zb_right){a->k, a->k_row},
                   (zb_out){g->dq + i0 * a->q_row, a->q_row});
        zb_product_add((zb_shape){seen, a->dk, b}, zb_columns(p, seen),
                       (zb_right){a->q + i0 * a->q_row, a->q_row}, (zb_out){g->dk, a->k_row});
    }
}
