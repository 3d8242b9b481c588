/* mla_paper.c - the paper's start of an MLA layer (contract in mla_paper.h).
 *
 * Queries. q_proj [H·dh, D] = U S Vᵀ, cut at r_q: q_a = S_r V_rᵀ, q_b = U_r, so q_b·q_a is the
 * best approximation of that rank. Of each head's dh rows q_b keeps the first d_nope (the part
 * without position) and the last d_rope (the rotated part); they overlap where d_nope + d_rope >
 * dh.
 *
 * Keys and values. k_proj and v_proj, their heads repeated to G' (head g of G' is kv head g /
 * (G'/G)), stacked [2·G'·dh, D] = U S Vᵀ, cut at r_kv: kv_a = S_r V_rᵀ, and below it the one
 * rotated key that all heads share, the mean over kv heads of the last d_rope rows of k_proj.
 * kv_b holds per head the first d_nope rows of its key block of U_r, then its value block.
 *
 * Known weakness, kept on purpose: halves against interleaved pairs of the rotation, and keys
 * averaged over heads, are as the authors' code has them; this is the baseline that other starts
 * are measured against. */
#include "compose/mla_paper.h"

#include "tensor/linalg.h"

#include <string.h>

static int kv_heads_out(const zb_mla_paper_dims *d) {
    return d->full_kv_head ? d->heads : d->kv_heads;
}
static int smaller(int a, int b) { return a < b ? a : b; }

static zb_status check_layer(const zb_mla_paper_dims *d, zb_err *err) {
    if (d->hidden < 1 || d->heads < 1 || d->kv_heads < 1 || d->head_dim < 1 ||
        d->heads % d->kv_heads)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "attention: expected positive sizes and heads a multiple of kv heads, found "
                       "hidden %d, heads %d, "
                       "kv heads %d, head size %d",
                       d->hidden, d->heads, d->kv_heads, d->head_dim);
    return ZB_OK;
}

static zb_status check_range(const char *name, int value, int low, int high, zb_err *err) {
    if (value < low || value > high)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "MLA from attention: expected %s from %d to %d, found %d", name, low, high,
                       value);
    return ZB_OK;
}

zb_status zb_mla_paper_check(const zb_mla_paper_dims *d, zb_err *err) {
    ZB_TRY(check_layer(d, err));
    ZB_TRY(
        check_range("q_lora_rank", d->q_rank, 0, smaller(d->heads * d->head_dim, d->hidden), err));
    ZB_TRY(check_range("kv_lora_rank", d->kv_rank, 1,
                       smaller(2 * kv_heads_out(d) * d->head_dim, d->hidden), err));
    ZB_TRY(check_range("qk_nope_head_dim", d->nope_dim, 0, d->head_dim, err));
    ZB_TRY(check_range("qk_rope_head_dim", d->rope_dim, 0, d->head_dim, err));
    if (d->v_dim != d->head_dim)
        return zb_fail(
            err, ZB_ERR_CONFIG,
            "MLA from attention: expected v_head_dim %d as the attention's heads, found %d",
            d->head_dim, d->v_dim);
    return ZB_OK;
}

/* Where row `r` of a head's new query map comes from: the first d_nope rows, then the last
 * d_rope. */
static int query_row(const zb_mla_paper_dims *d, int r) {
    return r < d->nope_dim ? r : d->head_dim - d->rope_dim + r - d->nope_dim;
}

/* rows x cols of a double matrix (row distance ld) to f32. */
static void narrow(float *to, const double *from, int rows, int cols, int ld) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++)
            to[(size_t)i * (size_t)cols + (size_t)j] =
                (float)from[(size_t)i * (size_t)ld + (size_t)j];
}

/* The first `rank` rows of S·Vᵀ. */
static void store_down(float *to, const zb_svd *f, int rank) {
    for (int i = 0; i < rank; i++)
        for (int j = 0; j < f->n; j++) {
            size_t at = (size_t)i * (size_t)f->n + (size_t)j;
            to[at] = (float)(f->s[i] * f->vt[at]);
        }
}

/* Keys above values, [2·G'·dh, D], each kv head repeated G'/G times. */
static double *stack_keys_values(const zb_mla_paper_dims *d, const zb_mla_paper_in *in,
                                 zb_arena *arena) {
    int heads = kv_heads_out(d), repeat = heads / d->kv_heads;
    int64_t block = (int64_t)d->head_dim * d->hidden;
    double *a = ZB_NEW_ARRAY(arena, double, 2 * heads * block);
    for (int h = 0; h < 2 * heads; h++) {
        const float *from = (h < heads ? in->k : in->v) + h % heads / repeat * block;
        for (int64_t i = 0; i < block; i++) a[h * block + i] = (double)from[i];
    }
    return a;
}

static zb_status init_queries(const zb_mla_paper_dims *d, const zb_mla_paper_in *in,
                              const zb_mla_paper_out *out, zb_arena *arena, zb_err *err) {
    int per_head = d->nope_dim + d->rope_dim;
    size_t hidden = (size_t)d->hidden, rank = (size_t)d->q_rank;
    zb_svd f = {0};
    if (rank) {
        const double *q =
            zb_linalg_widen(arena, in->q, (int64_t)d->heads * d->head_dim * d->hidden);
        zb_status status = zb_linalg_svd(&f, d->heads * d->head_dim, d->hidden, q, arena, err);
        if (status) return zb_err_wrap(err, status, "q_proj");
        store_down(out->q_a, &f, d->q_rank);
    }
    for (int h = 0; h < d->heads; h++)
        for (int r = 0; r < per_head; r++) {
            size_t to = (size_t)(h * per_head + r),
                   from = (size_t)(h * d->head_dim + query_row(d, r));
            if (rank)
                narrow(out->q_b + to * rank, f.u + from * (size_t)f.k, 1, d->q_rank, f.k);
            else
                memcpy(out->q + to * hidden, in->q + from * hidden, hidden * sizeof(float));
        }
    return ZB_OK;
}

static zb_status init_keys_values(const zb_mla_paper_dims *d, const zb_mla_paper_in *in,
                                  const zb_mla_paper_out *out, zb_arena *arena, zb_err *err) {
    int heads = kv_heads_out(d), per_head = d->nope_dim + d->v_dim;
    size_t hidden = (size_t)d->hidden, rank = (size_t)d->kv_rank;
    zb_svd f;
    const double *stacked = stack_keys_values(d, in, arena);
    zb_status status = zb_linalg_svd(&f, 2 * heads * d->head_dim, d->hidden, stacked, arena, err);
    if (status) return zb_err_wrap(err, status, "k_proj and v_proj");
    store_down(out->kv_a, &f, d->kv_rank);
    for (int r = 0; r < d->rope_dim; r++)
        for (size_t j = 0; j < hidden; j++) {
            double sum = 0;
            for (int g = 0; g < d->kv_heads; g++)
                sum +=
                    (double)in->k[(size_t)((g + 1) * d->head_dim - d->rope_dim + r) * hidden + j];
            out->kv_a[(rank + (size_t)r) * hidden + j] = (float)(sum / d->kv_heads);
        }
    for (int h = 0; h < heads; h++) {
        float *to = out->kv_b + (size_t)(h * per_head) * rank;
        const double *key = f.u + (size_t)(h * d->head_dim) * (size_t)f.k;
        const double *value = f.u + (size_t)((heads + h) * d->head_dim) * (size_t)f.k;
        narrow(to, key, d->nope_dim, d->kv_rank, f.k);
        narrow(to + (size_t)d->nope_dim * rank, value, d->v_dim, d->kv_rank, f.k);
    }
    return ZB_OK;
}

zb_status zb_mla_paper_init(const zb_mla_paper_dims *d, const zb_mla_paper_in *in,
                            const zb_mla_paper_out *out, zb_arena *arena, zb_err *err) {
    ZB_TRY(zb_mla_paper_check(d, err));
    zb_mark mark = zb_arena_mark(arena);
    zb_status s = init_queries(d, in, out, arena, err);
    zb_arena_pop(arena, mark);
    if (!s) s = init_keys_values(d, in, out, arena, err);
    zb_arena_pop(arena, mark);
    if (!s)
        memcpy(out->out, in->o,
               (size_t)d->hidden * (size_t)d->heads * (size_t)d->v_dim * sizeof(float));
    return s;
}

int zb_energy_rank(const double *s, int n, double share, int cap) {
    int limit = cap > 0 ? smaller(cap, n) : n, rank = 0;
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++) total += s[i] * s[i];
    while (rank < n && (sum += s[rank] * s[rank]) <= share * total) rank++;
    if (rank < 1 || !(total > 0)) rank = 1;
    return smaller((rank + 7) / 8 * 8, limit);
}

static zb_status check_share(const char *what, double share, zb_err *err) {
    if (!(share > 0 && share <= 1))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "energy share of %s: expected above 0 and at most 1, found %g", what, share);
    return ZB_OK;
}

zb_status zb_mla_paper_ranks(const zb_mla_paper_dims *d, const zb_mla_paper_in *in,
                             const zb_mla_paper_energy *e, int *q_rank, int *kv_rank,
                             zb_arena *arena, zb_err *err) {
    ZB_TRY(check_layer(d, err));
    if (q_rank) ZB_TRY(check_share("queries", e->q_share, err));
    if (kv_rank) ZB_TRY(check_share("keys and values", e->kv_share, err));
    zb_mark mark = zb_arena_mark(arena);
    zb_status s = ZB_OK;
    zb_svd f;
    if (q_rank) {
        const double *q =
            zb_linalg_widen(arena, in->q, (int64_t)d->heads * d->head_dim * d->hidden);
        s = zb_linalg_svd(&f, d->heads * d->head_dim, d->hidden, q, arena, err);
        if (s) zb_err_wrap(err, s, "q_proj");
        if (!s) *q_rank = zb_energy_rank(f.s, f.k, e->q_share, e->q_cap);
    }
    if (kv_rank && !s) {
        s = zb_linalg_svd(&f, 2 * kv_heads_out(d) * d->head_dim, d->hidden,
                          stack_keys_values(d, in, arena), arena, err);
        if (s) zb_err_wrap(err, s, "k_proj and v_proj");
        if (!s) *kv_rank = zb_energy_rank(f.s, f.k, e->kv_share, e->kv_cap);
    }
    zb_arena_pop(arena, mark);
    return s;
}
