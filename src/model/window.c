/* window.c - sliding window attention with sinks, by blocks of queries (contract in window.h).
 *
 * A block of BLOCK tokens sees one short run of keys, at most window + BLOCK - 1 of them, and the
 * sinks. So all its scores stand side by side in one small matrix, sinks first:
 *
 *   S [M, n] = scale·Q Kᵀ,   n = n_sinks + n_keys,   P = softmax over what each row may see,  O = P
 * V
 *
 * (M rows: the block's tokens times the heads of the group). A row sees an interval of its keys and
 * those sinks that lie before this interval; the rest of its weights is zero. The keys a token sees
 * are the same ones as in full attention, with the same rotary positions, so with a window of the
 * document's length this is full attention (Beltagy et al. 2020; sinks: Xiao et al. 2023).
 *
 * Backward recomputes P from the log-sum-exp L, block by block and head by head:
 *   P = exp(S - L),  dV += Pᵀ dO,  dP = dO Vᵀ,  dS = scale·P ∘ (dP - rowsum(dO ∘ O)),
 *   dQ = dS K,  dK += dSᵀ Q. */
#include "model/window.h"

#include "base/err.h"
#include "model/product.h"

#include <math.h>
#include <omp.h>
#include <string.h>

/* BLOCK: tokens of a block. Below FEW rows it does not pay to transpose the keys; up to ALONE
 * blocks threads cost more than they save. */
enum { BLOCK = 32, FEW = 12, ALONE = 8 };

/* Queries t0 .. t0+n-1 and what they see together. */
typedef struct block {
    int t0, n;
    int from, keys; /* rows of k from position `from` on */
    int sinks;      /* rows of sink_k */
    int cols;       /* sinks + keys */
} block;

typedef struct work {
    zb_product_room room;
    float *q, *s, *dp, *o, *kt, *vt; /* [M,dh] [M,cols] [BLOCK,cols] [M,dh] [dh,cols] twice */
} work;

static int lowest(const zb_window *a, int position) {
    return position >= a->window ? position - a->window + 1 : 0;
}

static block block_at(const zb_window *a, int t0) {
    block b = {.t0 = t0, .n = a->T - t0 < BLOCK ? a->T - t0 : BLOCK};
    int end = a->past + t0 + b.n, last = lowest(a, end - 1);
    b.from = lowest(a, a->past + t0);
    b.keys = end - b.from;
    b.sinks = last < a->sinks ? last : a->sinks;
    b.cols = b.sinks + b.keys;
    return b;
}

static const float *key_rows(const zb_window *a, const block *b, const float *run) {
    return run + (b->from - a->first) * a->kv_row;
}

/* Columns of the block that token t sees: sinks 0..sinks-1, keys at..at+n-1 behind them. */
typedef struct sight {
    int sinks, at, n;
} sight;

static sight sight_of(const zb_window *a, const block *b, int t) {
    int position = a->past + t, low = lowest(a, position);
    return (sight){.sinks = low < b->sinks ? low : b->sinks,
                   .at = b->sinks + low - b->from,
                   .n = position - low + 1};
}

/* out [dh, cols]: the sinks and keys of the block, turned. */
static void turn(const zb_window *a, const block *b, const float *sinks, const float *keys,
                 float *out) {
    for (int part = 0; part < 2; part++) {
        const float *in = part ? key_rows(a, b, keys) : sinks;
        int n = part ? b->keys : b->sinks, at = part ? b->sinks : 0;
        for (int j0 = 0; j0 < n; j0 += 16) { /* strips of rows that stay in the cache */
            int j1 = j0 + 16 < n ? j0 + 16 : n;
            for (int c = 0; c < a->dh; c++)
                for (int j = j0; j < j1; j++)
                    out[(size_t)c * b->cols + at + j] = in[j * a->kv_row + c];
        }
    }
}

/* s [M, cols] = q [M, dh] Kᵀ without turning the keys. */
static void few_scores(const zb_window *a, const block *b, int M, const work *w) {
    zb_gemm_args g = {
        .m = M, .k = a->dh, .a = w->q, .a_row = a->dh, .a_col = 1, .ldb = a->kv_row, .alpha = 1};
    g.ldc = b->cols;
    if (b->sinks) {
        g.n = b->sinks;
        g.b = a->sink_k;
        g.c = w->s;
        zb_kernels_get()->gemm_bt(&g);
    }
    g.n = b->keys;
    g.b = key_rows(a, b, a->k);
    g.c = w->s + b->sinks;
    zb_kernels_get()->gemm_bt(&g);
}

/* Scores of a row become weights that sum to *sum; what the token does not see becomes 0. Returns
 * the largest score. */
static float soften(const block *b, sight v, float *s, float *sum) {
    const zb_kernels *kn = zb_kernels_get();
    float max = -INFINITY;
    *sum = kn->softmax_step(v.n, &max, s + v.at);
    if (v.sinks) {
        float before = max, sinks = kn->softmax_step(v.sinks, &max, s);
        if (max > before) {
            kn->scale(v.n, expf(before - max), s + v.at);
            *sum *= expf(before - max);
        }
        *sum += sinks;
    }
    memset(s + v.sinks, 0, (size_t)(v.at - v.sinks) * sizeof *s);
    memset(s + v.at + v.n, 0, (size_t)(b->cols - v.at - v.n) * sizeof *s);
    return max;
}

static void forward_block(const zb_window *a, int t0, const work *w) {
    block b = block_at(a, t0);
    int M = b.n * a->heads, dh = a->dh;
    for (int m = 0; m < M; m++) {
        const float *q = a->q + (t0 + m / a->heads) * a->q_row + m % a->heads * dh;
        for (int i = 0; i < dh; i++) w->q[(size_t)m * dh + i] = q[i] * a->scale;
    }
    if (M < FEW) {
        few_scores(a, &b, M, w);
    } else {
        turn(a, &b, a->sink_k, a->k, w->kt);
        zb_product_in(&w->room, (zb_shape){M, b.cols, dh}, zb_rows(w->q, dh),
                      (zb_right){w->kt, b.cols}, false, (zb_out){w->s, b.cols}, false);
    }
    for (int m = 0; m < M; m++) {
        int t = t0 + m / a->heads;
        float *s = w->s + (size_t)m * b.cols, sum, max = soften(&b, sight_of(a, &b, t), s, &sum);
        zb_kernels_get()->scale(b.cols, 1 / sum, s);
        if (a->lse) a->lse[m % a->heads * a->lse_head + t] = max + logf(sum);
    }
    zb_product_in(&w->room, (zb_shape){M, dh, b.keys}, zb_rows(w->s + b.sinks, b.cols),
                  (zb_right){key_rows(a, &b, a->v), a->kv_row}, false, (zb_out){w->o, dh}, false);
    if (b.sinks)
        zb_product_add((zb_shape){M, dh, b.sinks}, zb_rows(w->s, b.cols),
                       (zb_right){a->sink_v, a->kv_row}, (zb_out){w->o, dh});
    for (int m = 0; m < M; m++)
        memcpy(a->o + (t0 + m / a->heads) * a->q_row + m % a->heads * dh, w->o + (size_t)m * dh,
               (size_t)dh * sizeof(float));
}

/* A multiple of 16 floats, so that every part of the scratch is aligned like its beginning. */
static size_t rounded(size_t floats) { return (floats + 15) / 16 * 16; }

/* Most columns of a block. */
static size_t columns(const zb_window *a) {
    int keys = a->window + BLOCK - 1, all = a->past + a->T;
    return (size_t)((keys < all ? keys : all) + (a->sinks < all ? a->sinks : all));
}

/* Of any product of a block: M rows of q or s (one head's tokens backward), n columns. */
static size_t room_floats(size_t M, size_t n, int dh) {
    size_t scores = zb_product_floats((int)M, (int)n, dh),
           values = zb_product_floats((int)M, dh, (int)n),
           back = zb_product_floats((int)n, dh, (int)M), most = scores > values ? scores : values;
    return back > most ? back : most;
}

/* A full block's rows must be worth packing what they meet. */
static bool is_rounded(const zb_window *a) {
    int tokens = a->T < BLOCK ? a->T : BLOCK;
    return a->bf16 && tokens * a->heads >= BLOCK && zb_kernels_get()->tiles;
}

/* Lays out the scratch that fits a; returns its floats. */
static size_t lay_out(const zb_window *a, bool backward, float *at, work *w) {
    size_t tokens = (size_t)(a->T < BLOCK ? a->T : BLOCK), M = tokens * (size_t)a->heads,
           n = columns(a), dh = (size_t)a->dh, used = 0;
    float **part[] = {&w->room.at, &w->q, &w->o, &w->s, &w->kt, &w->vt, &w->dp};
    size_t rows = backward ? tokens : M;
    size_t size[] = {is_rounded(a) ? room_floats(rows, n, a->dh) : 0,
                     backward ? 0 : M * dh,
                     backward ? 0 : M * dh,
                     rows * n,
                     dh * n,
                     backward ? dh * n : 0,
                     backward ? tokens * n : 0};
    w->room.bf16 = is_rounded(a);
    for (int i = 0; i < 7; i++) {
        *part[i] = at ? at + used : NULL;
        used += rounded(size[i]);
    }
    return used;
}

static size_t largest(const zb_window *a, int n, bool backward) {
    size_t most = 0;
    work none;
    for (int i = 0; i < n; i++) {
        size_t size = lay_out(&a[i], backward, NULL, &none);
        if (size > most) most = size;
    }
    return most;
}

typedef struct job {
    const zb_window *a;
    int t0;
} job;

void zb_window_forward(zb_arena *arena, int threads, const zb_window *a, int n) {
    zb_mark mark = zb_arena_mark(arena);
    int jobs = 0, most = 0;
    for (int i = 0; i < n; i++) most += (a[i].T + BLOCK - 1) / BLOCK;
    job *list = zb_alloc_raw_array(arena, (size_t)most, sizeof *list);
    for (int i = 0; i < n; i++)
        for (int t = 0; t < a[i].T; t += BLOCK) list[jobs++] = (job){&a[i], t};
    size_t size = largest(a, n, false);
    float *scratch = ZB_RAW_ARRAY(arena, float, size *(size_t)threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (jobs > ALONE)
    for (int j = 0; j < jobs; j++) {
        work w;
        lay_out(list[j].a, false, scratch + size * (size_t)omp_get_thread_num(), &w);
        forward_block(list[j].a, list[j].t0, &w);
    }
    zb_arena_pop(arena, mark);
}

/* s: scores of head h become P; dp: dP becomes dS. */
static void slopes(const zb_window *a, const block *b, const zb_window_grad *g, int h,
                   const work *w) {
    const zb_kernels *kn = zb_kernels_get();
    for (int i = 0; i < b->n; i++) {
        int t = b->t0 + i;
        float *p = w->s + (size_t)i * b->cols, *dp = w->dp + (size_t)i * b->cols;
        sight v = sight_of(a, b, t);
        ptrdiff_t at = t * a->q_row + h * a->dh;
        float lse = a->lse[h * a->lse_head + t], delta = kn->dot(a->dh, g->d_o + at, a->o + at);
        for (int j = 0; j < b->cols; j++) {
            bool seen = j < v.sinks || (j >= v.at && j < v.at + v.n);
            p[j] = seen ? p[j] * a->scale - lse : -100; /* whatever exp takes; unseen is cleared */
        }
        kn->exp(b->cols, p, p);
        memset(p + v.sinks, 0, (size_t)(v.at - v.sinks) * sizeof *p);
        memset(p + v.at + v.n, 0, (size_t)(b->cols - v.at - v.n) * sizeof *p);
        for (int j = 0; j < b->cols; j++) dp[j] = p[j] * (dp[j] - delta) * a->scale;
    }
}

static void backward_head(const zb_window *a, const block *b, const zb_window_grad *g, int h,
                          const work *w) {
    int n = b->n, dh = a->dh, cols = b->cols;
    ptrdiff_t at = b->t0 * a->q_row + h * dh, keys = (b->from - a->first) * a->kv_row;
    zb_right q = {a->q + at, a->q_row}, d_o = {g->d_o + at, a->q_row};
    zb_shape scores = {n, cols, dh}, values = {b->keys, dh, n};
    zb_product_in(&w->room, scores, zb_rows(q.p, q.row), (zb_right){w->kt, cols}, false,
                  (zb_out){w->s, cols}, false);
    zb_product_in(&w->room, scores, zb_rows(d_o.p, d_o.row), (zb_right){w->vt, cols}, false,
                  (zb_out){w->dp, cols}, false);
    slopes(a, b, g, h, w);
    const float *p = w->s + b->sinks, *ds = w->dp + b->sinks;
    zb_out dq = {g->dq + at, a->q_row};
    zb_product_in(&w->room, values, zb_columns(p, cols), d_o, false,
                  (zb_out){g->dv + keys, a->kv_row}, true);
    zb_product_in(&w->room, values, zb_columns(ds, cols), q, false,
                  (zb_out){g->dk + keys, a->kv_row}, true);
    zb_product_in(&w->room, (zb_shape){n, dh, b->keys}, zb_rows(ds, cols),
                  (zb_right){a->k + keys, a->kv_row}, false, dq, false);
    if (!b->sinks) return;
    zb_product_add((zb_shape){b->sinks, dh, n}, zb_columns(w->s, cols), d_o,
                   (zb_out){g->dv, a->kv_row});
    zb_product_add((zb_shape){b->sinks, dh, n}, zb_columns(w->dp, cols), q,
                   (zb_out){g->dk, a->kv_row});
    zb_product_add((zb_shape){n, dh, b->sinks}, zb_rows(w->dp, cols),
                   (zb_right){a->sink_k, a->kv_row}, dq);
}

void zb_window_backward(zb_arena *arena, int threads, const zb_window *a, const zb_window_grad *g,
                        int n) {
    zb_mark mark = zb_arena_mark(arena);
    size_t size = largest(a, n, true);
    float *scratch = ZB_RAW_ARRAY(arena, float, size *(size_t)threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < n; i++) {
        ZB_ASSERT(a[i].past == 0 && a[i].first == 0 && a[i].lse);
        work w;
        lay_out(&a[i], true, scratch + size * (size_t)omp_get_thread_num(), &w);
        for (int t0 = 0; t0 < a[i].T; t0 += BLOCK) {
            block b = block_at(&a[i], t0);
            turn(&a[i], &b, a[i].sink_k, a[i].k, w.kt);
            turn(&a[i], &b, a[i].sink_v, a[i].v, w.vt);
            for (int h = 0; h < a[i].heads; h++) backward_head(&a[i], &b, &g[i], h, &w);
        }
    }
    zb_arena_pop(arena, mark);
}

size_t zb_window_room(const zb_window *like, int n, int threads, bool backward) {
    work none;
    size_t jobs = (size_t)n * (size_t)((like->T + BLOCK - 1) / BLOCK) * sizeof(job),
           scratch = lay_out(like, backward, NULL, &none) * (size_t)threads * sizeof(float);
    return (backward ? 0 : (jobs + 63) / 64 * 64) + (scratch + 63) / 64 * 64;
}
