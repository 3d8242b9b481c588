/* attend.c - softmax attention by blocks of queries (contract in attend.h).
 *
 * For a block of queries i0 .. i0+b-1 only keys 0 .. past+i0+b-1 matter:
 *   S = scale·Q Kᵀ,  P = softmax(S) with the causal mask,  O = P V.
 * Backward recomputes P from the saved log-sum-exp (Dao et al. 2022, algorithm 4, without tiling
 * over keys): dV += Pᵀ dO,  dP = dO Vᵀ,  dS = scale·P ∘ (dP − rowsum(dO ∘ O)),  dQ = dS K,  dK +=
 * dSᵀ Q. K and V are transposed once per head so that the products read rows. */
#include "model/attend.h"

#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 64 };

size_t zb_attend_work(int keys, int dk, int dv) {
    return (size_t)keys * (size_t)(dk + dv + 2 * BLOCK);
}

/* out [cols, rows] from rows of `in` */
static void transpose(const float *in, ptrdiff_t row, int rows, int cols, float *out) {
    for (int r0 = 0; r0 < rows; r0 += 16) {
        int r1 = r0 + 16 < rows ? r0 + 16 : rows;
        for (int c = 0; c < cols; c++)
            for (int r = r0; r < r1; r++) out[(size_t)c * rows + r] = in[r * row + c];
    }
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
    transpose(a->k, a->k_row, keys, a->dk, kt);
    for (int i0 = 0; i0 < a->T; i0 += BLOCK) {
        int b = a->T - i0 < BLOCK ? a->T - i0 : BLOCK, seen = a->past + i0 + b;
        kn->gemm(&(zb_gemm_args){.m = b,
                                 .n = seen,
                                 .k = a->dk,
                                 .a = a->q + i0 * a->q_row,
                                 .a_row = a->q_row,
                                 .a_col = 1,
                                 .b = kt,
                                 .ldb = keys,
                                 .c = s,
                                 .ldc = seen,
                                 .alpha = 1});
        for (int i = 0; i < b; i++) {
            float *row = s + (size_t)i * seen;
            int visible = a->past + i0 + i + 1;
            float lse = kn->softmax(visible, a->scale, row);
            if (a->lse) a->lse[i0 + i] = lse;
            memset(row + visible, 0, (size_t)(seen - visible) * sizeof(float));
        }
        kn->gemm(&(zb_gemm_args){.m = b,
                                 .n = a->dv,
                                 .k = seen,
                                 .a = s,
                                 .a_row = seen,
                                 .a_col = 1,
                                 .b = a->v,
                                 .ldb = a->v_row,
                                 .c = a->o + i0 * a->o_row,
                                 .ldc = a->o_row,
                                 .alpha = 1});
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
    transpose(a->k, a->k_row, keys, a->dk, kt);
    transpose(a->v, a->v_row, keys, a->dv, vt);
    for (int i0 = 0; i0 < a->T; i0 += BLOCK) {
        int b = a->T - i0 < BLOCK ? a->T - i0 : BLOCK, seen = i0 + b;
        const float *d_o = g->d_o + i0 * a->o_row;
        kn->gemm(&(zb_gemm_args){.m = b,
                                 .n = seen,
                                 .k = a->dk,
                                 .a = a->q + i0 * a->q_row,
                                 .a_row = a->q_row,
                                 .a_col = 1,
                                 .b = kt,
                                 .ldb = keys,
                                 .c = p,
                                 .ldc = seen,
                                 .alpha = 1});
        probabilities(a, i0, b, seen, p);
        kn->gemm(&(zb_gemm_args){.m = b,
                                 .n = seen,
                                 .k = a->dv,
                                 .a = d_o,
                                 .a_row = a->o_row,
                                 .a_col = 1,
                                 .b = vt,
                                 .ldb = keys,
                                 .c = dp,
                                 .ldc = seen,
                                 .alpha = 1});
        kn->gemm(&(zb_gemm_args){.m = seen,
                                 .n = a->dv,
                                 .k = b,
                                 .a = p,
                                 .a_row = 1,
                                 .a_col = seen,
                                 .b = d_o,
                                 .ldb = a->o_row,
                                 .c = g->dv,
                                 .ldc = a->v_row,
                                 .alpha = 1,
                                 .add = true});
        for (int i = 0; i < b; i++) {
            float delta = kn->dot(a->dv, d_o + i * a->o_row, a->o + (i0 + i) * a->o_row);
            float *row = p + (size_t)i * seen;
            const float *dr = dp + (size_t)i * seen;
            for (int j = 0; j < seen; j++) row[j] *= (dr[j] - delta) * a->scale;
        }
        kn->gemm(&(zb_gemm_args){.m = b,
                                 .n = a->dk,
                                 .k = seen,
                                 .a = p,
                                 .a_row = seen,
                                 .a_col = 1,
                                 .b = a->k,
                                 .ldb = a->k_row,
                                 .c = g->dq + i0 * a->q_row,
                                 .ldc = a->q_row,
                                 .alpha = 1});
        kn->gemm(&(zb_gemm_args){.m = seen,
                                 .n = a->dk,
                                 .k = b,
                                 .a = p,
                                 .a_row = 1,
                                 .a_col = seen,
                                 .b = a->q + i0 * a->q_row,
                                 .ldb = a->q_row,
                                 .c = g->dk,
                                 .ldc = a->k_row,
                                 .alpha = 1,
                                 .add = true});
    }
}
