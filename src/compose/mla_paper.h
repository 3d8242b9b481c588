/* mla_paper.h - the paper's start of an MLA layer from the attention it replaces, as a function
 * on matrices.
 *
 * Zebra-Llama (arXiv 2505.17272) and X-EcoMLA (arXiv 2503.11132): truncated singular value
 * decompositions of the query map and of the stacked key and value maps. All weights are f32,
 * row-major [out, in]; the caller owns every buffer; decompositions run in f64 in the arena and
 * are popped before return. Pure apart from that. */
#ifndef ZB_COMPOSE_MLA_PAPER_H
#define ZB_COMPOSE_MLA_PAPER_H

#include "base/arena.h"
#include "base/err.h"

#include <stdbool.h>

typedef struct zb_mla_paper_dims {
    int hidden, heads, kv_heads, head_dim; /* D, H, G, dh; H % G == 0 */
    int q_rank;             /* r_q <= min(H·dh, D); 0: one query map without a low rank */
    int kv_rank;            /* r_kv <= min(2·G'·dh, D) */
    int nope_dim, rope_dim; /* d_nope, d_rope, each <= dh */
    int v_dim;              /* must equal dh: out_proj is o_proj */
    bool full_kv_head;      /* G' = H (keys and values repeated), else G' = G */
} zb_mla_paper_dims;

typedef struct zb_mla_paper_in {
    const float *q; /* q_proj [H·dh, D] */
    const float *k; /* k_proj [G·dh, D] */
    const float *v; /* v_proj [G·dh, D] */
    const float *o; /* o_proj [D, H·dh] */
} zb_mla_paper_in;

typedef struct zb_mla_paper_out {
    float *q_a;  /* [r_q, D]                   only where r_q > 0 */
    float *q_b;  /* [H·(d_nope+d_rope), r_q]   only where r_q > 0 */
    float *q;    /* [H·(d_nope+d_rope), D]     only where r_q = 0 */
    float *kv_a; /* [r_kv + d_rope, D] */
    float *kv_b; /* [G'·(d_nope+d_v), r_kv] */
    float *out;  /* [D, H·d_v] */
} zb_mla_paper_out;

/* ZB_ERR_CONFIG for dimensions that do not fit; asked by zb_mla_paper_init, too. */
zb_status zb_mla_paper_check(const zb_mla_paper_dims *d, zb_err *err);

/* ZB_ERR_CONFIG for dimensions that do not fit, ZB_ERR_FORMAT for weights that are not finite. */
zb_status zb_mla_paper_init(const zb_mla_paper_dims *d, const zb_mla_paper_in *in,
                            const zb_mla_paper_out *out, zb_arena *arena, zb_err *err);

/* Largest rank r <= n with Σ_{i<r} s_i² <= share · Σ s_i², as the published code counts (the paper
 * says the smallest with >=, one more), at least 1, rounded up to a multiple of 8, at most n and at
 * most `cap` (0: no further limit). s[n] descending; share in (0, 1]. All zero: the smallest rank.
 */
int zb_energy_rank(const double *s, int n, double share, int cap);

/* Energy ranks of this layer (X-EcoMLA's dynamic ranks) by the singular values of the query map
 * and of the stacked key and value maps; d's ranks are not read. q_rank or kv_rank may be NULL:
 * not wanted. */
typedef struct zb_mla_paper_energy {
    double q_share, kv_share;
    int q_cap, kv_cap; /* 0: no limit beyond the matrix */
} zb_mla_paper_energy;
zb_status zb_mla_paper_ranks(const zb_mla_paper_dims *d, const zb_mla_paper_in *in,
                             const zb_mla_paper_energy *e, int *q_rank, int *kv_rank,
                             zb_arena *arena, zb_err *err);

#endif
