/* attend.c - softmax attention by tiles of queries and keys (contract in attend.h).
 *
 * Forward, per block of queries (all heads of the group, a few tokens each, gathered to rows and
 * scaled) and tile of TILE keys, with the running maximum m, sum l and values o of each row:
 *
 *   S = Q Kᵀ,  m' = max(m, max S),  P = exp(S - m'),  l = l·exp(m - m') + ΣP,  o = o·exp(m - m') +
 * P V
 *
 * and o/l at the end (Milakov and Gimelshein 2018; Dao et al. 2022, algorithm 1). The keys of a
 * group are read once for all its heads and tokens, as they are stored (kern_cells.c), or packed
 * for matrix registers. Many
 * queries: each block walks over all its keys. Few queries (one block, as in decoding): the keys
 * are cut into chunks of a fixed length, which are jobs of their own, and their (m, l, o) are
 * joined in the order of the chunks. What is a job depends on the attention alone, so threads and
 * neighbours do not change a sum.
 *
 * Backward recomputes P from the log-sum-exp (Dao et al. 2022, algorithm 4): per tile of keys and
 * block of queries  P = exp(scale·Q Kᵀ - lse),  dV += Pᵀ dO,  dP = dO Vᵀ,  dS = scale·P ∘ (dP −
 * rowsum(dO ∘ O)),  dQ += dS K,  dK += dSᵀ Q. */
#include "model/attend.h"

#include "model/product.h"
#include "tensor/tiles.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { ROWS = 96, TILE = 64 }; /* queries of a block; keys of a tile */

typedef struct job {
    const zb_attend *a;
    int t0, t1, key0, key1; /* tokens; rows of k */
    float *partial;         /* m [M], l [M], o [M,dv] of a chunk; NULL: the job finishes its rows */
} job;

/* One thread's scratch. For matrix registers, beside it: packed queries, weights, keys and values,
 * and rows of keys and values as f32 where they are stored otherwise. */
typedef struct work {
    float *q, *s, *o, *max, *sum, *keep; /* [M,dk] [M,TILE] [M,dv] [M] [M] [M] */
    uint16_t *packed_q, *packed_p, *packed_k, *packed_v;
    float *wide_k, *wide_v; /* [TILE,dk] [TILE,dv] */
} work;

static int block_tokens(const zb_attend *a) {
    int t = ROWS / a->heads;
    if (t < 1) t = 1;
    return t < a->T ? t : a->T;
}

static int keys_of(const zb_attend *a) { return a->n_keys ? a->n_keys : a->past + a->T - a->first; }

/* Key rows that token t sees. */
static int visible(const zb_attend *a, int t) {
    int keys = keys_of(a), seen = a->past + t + 1 - a->first;
    return seen < 0 ? 0 : seen < keys ? seen : keys;
}

/* Queries from which on packing keys and values pays. */
enum { TILED_ROWS = 32 };

static bool is_tiled(const zb_attend *a) {
    return a->bf16 && block_tokens(a) * a->heads >= TILED_ROWS && zb_kernels_get()->tiles;
}

static bool is_split(const zb_attend *a) {
    return block_tokens(a) == a->T && keys_of(a) > ZB_ATTEND_CHUNK;
}

static int chunks_of(const zb_attend *a) {
    return (keys_of(a) + ZB_ATTEND_CHUNK - 1) / ZB_ATTEND_CHUNK;
}

static size_t partial_floats(const zb_attend *a) {
    return (size_t)a->T * (size_t)a->heads * (size_t)(a->dv + 2);
}

static const float *row_f32(const zb_cells *c, int at) {
    return (const float *)(const void *)((const uint8_t *)c->p + (size_t)at * c->row);
}

static void load_queries(const zb_attend *a, int t0, int t1, float *out) {
    for (int t = t0; t < t1; t++)
        for (int h = 0; h < a->heads; h++, out += a->dk) {
            const float *q = a->q + t * a->q_row + h * a->q_head;
            for (int i = 0; i < a->dk; i++) out[i] = q[i] * a->scale;
        }
}

/* S [M, TILE] = Q Kᵀ for keys key .. key+n-1. */
static void scores(const zb_attend *a, int M, int key, int n, const work *w) {
    zb_scores_args g = {.m = M, .q = w->q, .q_row = a->dk, .s = w->s, .s_row = TILE};
    g.k = zb_cells_rows(&a->k, key, n);
    g.k.next = a->v.p != NULL; /* MLA's rows meet many heads: asking for more is in the way */
    zb_kernels_get()->attend_scores(&g);
    if (!a->k_tail.width) return;
    g.q += a->k.width;
    g.k = zb_cells_rows(&a->k_tail, key, n);
    g.add = true;
    zb_kernels_get()->attend_scores(&g);
}

/* Takes the tile's scores of row m, of which the first `seen` count, into its maximum and sum; they
 * become weights, and keep[m] what the row's values so far are to be multiplied by. */
static void soften(int m, int seen, int n, const work *w) {
    float *s = w->s + (size_t)m * TILE, old = w->max[m];
    if (seen < 0) seen = 0;
    float sum = seen > 0 ? zb_kernels_get()->softmax_step(seen, &w->max[m], s) : 0;
    if (seen < n) memset(s + seen, 0, (size_t)(n - seen) * sizeof *s);
    w->keep[m] = w->max[m] > old && w->sum[m] != 0 ? expf(old - w->max[m]) : 1;
    w->sum[m] = w->sum[m] * w->keep[m] + sum;
}

/* O [M, dv] = keep O + P V */
static void add_values(const zb_attend *a, int M, int key, int n, const work *w) {
    zb_values_args g = {.m = M, .p = w->s, .p_row = TILE, .keep = w->keep};
    g.v = zb_cells_rows(a->v.p ? &a->v : &a->k, key, n);
    g.v.width = a->dv;
    g.v.next = a->v.p != NULL; /* else the keys' own, asked for already */
    g.o = w->o;
    g.o_row = a->dv;
    zb_kernels_get()->attend_values(&g);
}

/* ---- on matrix registers ---- */

static void multiply(int m, int n, int depth, const uint16_t *a, const uint16_t *b, float *c,
                     int ldc, bool add) {
    int tiles = (depth + ZB_TILE_DEPTH - 1) / ZB_TILE_DEPTH;
    zb_kernels_get()->tile_product(&(zb_tile_product){m, n, tiles, a, b, c, ldc, add, false});
}

/* n rows as f32, `row` floats apart: where they stand, or read into `wide`. */
typedef struct strided {
    const float *p;
    ptrdiff_t row;
} strided;

static strided rows_of(const zb_cells *c, const zb_cells *tail, int key, int n, float *wide) {
    if (c->type == ZB_F32 && !tail->width)
        return (strided){row_f32(c, key), (ptrdiff_t)(c->row / sizeof(float))};
    int width = c->width + tail->width;
    zb_cells_read(c, key, n, wide, width);
    if (tail->width) zb_cells_read(tail, key, n, wide + c->width, width);
    return (strided){wide, width};
}

/* S and O as scores() and add_values() make them. */
static strided tiled_scores(const zb_attend *a, int M, int key, int n, const work *w) {
    strided k = rows_of(&a->k, &a->k_tail, key, n, w->wide_k);
    zb_tiles_pack((zb_tile_strip){.depth = a->dk, .x = k.p, .row = k.row, .step = 1, .right = true},
                  n, w->packed_k);
    multiply(M, n, a->dk, w->packed_q, w->packed_k, w->s, TILE, false);
    return k;
}

static void tiled_values(const zb_attend *a, int M, int key, int n, strided k, const work *w) {
    strided v = a->v.p ? rows_of(&a->v, &(zb_cells){0}, key, n, w->wide_v) : k;
    for (int m = 0; m < M; m++)
        if (w->keep[m] != 1) zb_kernels_get()->scale(a->dv, w->keep[m], w->o + (size_t)m * a->dv);
    zb_tiles_pack((zb_tile_strip){.depth = n, .x = w->s, .row = TILE, .step = 1}, M, w->packed_p);
    zb_tiles_pack((zb_tile_strip){.depth = n, .x = v.p, .row = 1, .step = v.row, .right = true},
                  a->dv, w->packed_v);
    multiply(M, a->dv, n, w->packed_p, w->packed_v, w->o, a->dv, true);
}

/* ---- one job ---- */

/* Maximum, sum and values of one query: carried on if more keys come, else divided and done. */
static void finish(const zb_attend *a, int t, int h, float max, float sum, const float *o) {
    float *out = a->o + t * a->o_row + h * a->o_head;
    bool done = !a->running || a->last;
    float f = !done ? 1 : sum == 0 ? 0 : 1 / sum;
    for (int i = 0; i < a->dv; i++) out[i] = o[i] * f;
    if (!done) {
        float *r = a->running + ((size_t)t * a->heads + h) * 2;
        r[0] = max;
        r[1] = sum;
    } else if (a->lse) {
        a->lse[h * a->lse_head + t] = max + logf(sum);
    }
}

/* What earlier pieces of the keys have left of a query; nothing before the first. */
static void resume(const zb_attend *a, int t, int h, float *max, float *sum, float *o) {
    *max = -INFINITY;
    *sum = 0;
    if (!a->running || (a->first == 0 && !a->resumed)) {
        memset(o, 0, (size_t)a->dv * sizeof *o);
        return;
    }
    const float *r = a->running + ((size_t)t * a->heads + h) * 2,
                *from = a->o + t * a->o_row + h * a->o_head;
    *max = r[0];
    *sum = r[1];
    if (o != from) memcpy(o, from, (size_t)a->dv * sizeof *o);
}

static void run_job(const job *j, const work *w) {
    const zb_attend *a = j->a;
    int M = (j->t1 - j->t0) * a->heads, end = visible(a, j->t1 - 1);
    load_queries(a, j->t0, j->t1, w->q);
    for (int m = 0; m < M; m++) {
        float *o = w->o + (size_t)m * a->dv;
        w->max[m] = -INFINITY;
        w->sum[m] = 0;
        if (j->partial)
            memset(o, 0, (size_t)a->dv * sizeof *o);
        else
            resume(a, j->t0 + m / a->heads, m % a->heads, &w->max[m], &w->sum[m], o);
    }
    if (end > j->key1) end = j->key1;
    bool tiled = is_tiled(a);
    if (tiled)
        zb_tiles_pack((zb_tile_strip){.depth = a->dk, .x = w->q, .row = a->dk, .step = 1}, M,
                      w->packed_q);
    for (int key = j->key0; key < end; key += TILE) {
        int n = end - key < TILE ? end - key : TILE;
        strided k = {0};
        if (tiled)
            k = tiled_scores(a, M, key, n, w);
        else
            scores(a, M, key, n, w);
        for (int m = 0; m < M; m++) {
            int seen = visible(a, j->t0 + m / a->heads) - key;
            soften(m, seen < n ? seen : n, n, w);
        }
        if (tiled)
            tiled_values(a, M, key, n, k, w);
        else
            add_values(a, M, key, n, w);
    }
    if (j->partial) {
        memcpy(j->partial, w->max, (size_t)M * sizeof(float));
        memcpy(j->partial + M, w->sum, (size_t)M * sizeof(float));
        memcpy(j->partial + 2 * M, w->o, (size_t)M * a->dv * sizeof(float));
        return;
    }
    for (int m = 0; m < M; m++)
        finish(a, j->t0 + m / a->heads, m % a->heads, w->max[m], w->sum[m],
               w->o + (size_t)m * a->dv);
}

/* Joins the chunks of query m in their order, straight into its place in o. */
static void join(const zb_attend *a, int m, const float *partial) {
    const zb_kernels *kn = zb_kernels_get();
    int M = a->T * a->heads, t = m / a->heads, h = m % a->heads;
    size_t step = partial_floats(a);
    float *o = a->o + t * a->o_row + h * a->o_head, old, max, sum;
    resume(a, t, h, &old, &sum, o);
    max = old;
    for (int c = 0; c < chunks_of(a); c++)
        if (partial[c * step + m] > max) max = partial[c * step + m];
    if (sum != 0 && max > old) {
        sum *= expf(old - max);
        kn->scale(a->dv, expf(old - max), o);
    }
    for (int c = 0; c < chunks_of(a); c++) {
        const float *p = partial + c * step;
        if (p[M + m] == 0) continue;
        float f = expf(p[m] - max);
        sum += f * p[M + m];
        kn->axpy(a->dv, f, p + 2 * (size_t)M + (size_t)m * a->dv, o);
    }
    finish(a, t, h, max, sum, o);
}

/* Work of all attentions: their jobs, and the chunks' results of those that are cut. */
typedef struct plan {
    job *jobs;
    int n_jobs;
    float **partial; /* [n] */
    size_t M, dk, dv;
    bool tiled; /* some of them */
} plan;

static plan make_plan(zb_arena *arena, const zb_attend *a, int n) {
    plan p = {.partial = zb_alloc_array(arena, (size_t)n, sizeof *p.partial)};
    int most = 0;
    for (int i = 0; i < n; i++)
        most += is_split(&a[i]) ? chunks_of(&a[i])
                                : (a[i].T + block_tokens(&a[i]) - 1) / block_tokens(&a[i]);
    p.jobs = zb_alloc_raw_array(arena, (size_t)most, sizeof *p.jobs);
    for (int i = 0; i < n; i++) {
        int step = block_tokens(&a[i]), keys = keys_of(&a[i]);
        size_t rows = (size_t)step * (size_t)a[i].heads, each = partial_floats(&a[i]);
        if (rows > p.M) p.M = rows;
        if ((size_t)a[i].dk > p.dk) p.dk = (size_t)a[i].dk;
        if ((size_t)a[i].dv > p.dv) p.dv = (size_t)a[i].dv;
        p.tiled = p.tiled || is_tiled(&a[i]);
        if (is_split(&a[i])) {
            p.partial[i] = ZB_RAW_ARRAY(arena, float, each *(size_t)chunks_of(&a[i]));
            for (int c = 0; c < chunks_of(&a[i]); c++)
                p.jobs[p.n_jobs++] = (job){&a[i],
                                           0,
                                           a[i].T,
                                           c * ZB_ATTEND_CHUNK,
                                           (c + 1) * ZB_ATTEND_CHUNK,
                                           p.partial[i] + (size_t)c * each};
        } else {
            for (int t = 0; t < a[i].T; t += step)
                p.jobs[p.n_jobs++] =
                    (job){&a[i], t, t + step < a[i].T ? t + step : a[i].T, 0, keys, NULL};
        }
    }
    ZB_ASSERT(p.n_jobs == most);
    return p;
}

/* Bytes of an allocation, which are whole lines of the cache. */
static size_t lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* A multiple of 16 floats, so that every part of the scratch is aligned like its beginning. */
static size_t rounded(size_t floats) { return (floats + 15) / 16 * 16; }

static size_t work_floats(const plan *p) {
    size_t plain =
        rounded(p->M * p->dk) + rounded(p->M * TILE) + rounded(p->M * p->dv) + 3 * rounded(p->M);
    if (!p->tiled) return plain;
    return plain + zb_packed_floats(p->M, p->dk) + zb_packed_floats(p->M, TILE) +
           zb_packed_floats(TILE, p->dk) + zb_packed_floats(p->dv, TILE) + TILE * (p->dk + p->dv);
}

static work work_at(const plan *p, float *at) {
    work w = {.q = at};
    w.s = w.q + rounded(p->M * p->dk);
    w.o = w.s + rounded(p->M * TILE);
    w.max = w.o + rounded(p->M * p->dv);
    w.sum = w.max + rounded(p->M);
    w.keep = w.sum + rounded(p->M);
    if (!p->tiled) return w;
    at = w.keep + rounded(p->M);
    w.packed_q = (void *)at;
    w.packed_p = (void *)(at += zb_packed_floats(p->M, p->dk));
    w.packed_k = (void *)(at += zb_packed_floats(p->M, TILE));
    w.packed_v = (void *)(at += zb_packed_floats(TILE, p->dk));
    w.wide_k = at += zb_packed_floats(p->dv, TILE);
    w.wide_v = at + TILE * p->dk;
    return w;
}

void zb_attend_forward(zb_arena *arena, int threads, const zb_attend *a, int n) {
    zb_mark mark = zb_arena_mark(arena);
    plan p = make_plan(arena, a, n);
    size_t size = work_floats(&p);
    float *scratch = ZB_RAW_ARRAY(arena, float, size *(size_t)threads);
#pragma omp parallel num_threads(threads) if (p.n_jobs > 1)
    {
        work w = work_at(&p, scratch + size * (size_t)omp_get_thread_num());
#pragma omp for schedule(dynamic)
        for (int j = 0; j < p.n_jobs; j++) run_job(&p.jobs[j], &w);
        for (int i = 0; i < n; i++) {
            if (!p.partial[i]) continue;
#pragma omp for schedule(static) nowait
            for (int m = 0; m < a[i].T * a[i].heads; m++) join(&a[i], m, p.partial[i]);
        }
    }
    zb_arena_pop(arena, mark);
}

/* ---- backward ---- */

typedef struct back {
    zb_product_room room;
    float *kt, *vt, *p, *dp; /* [dk,TILE] [dv,TILE] [TILE,TILE] twice */
} back;

/* Of a product: two of its sizes are TILE at most, the third is dk or dv. */
static size_t back_room(int dk, int dv) {
    int wide = dk > dv ? dk : dv;
    size_t across = zb_product_floats(TILE, wide, TILE),
           along = zb_product_floats(TILE, TILE, wide);
    return rounded(across > along ? across : along);
}

static size_t back_floats(int dk, int dv) {
    return back_room(dk, dv) + TILE * (size_t)(dk + dv + 2 * TILE);
}

/* P in place of the scores [b, n] of queries i0.. and keys j0.., then dS in place of dP. */
static void slopes(const zb_attend *a, const zb_attend_grad *g, int h, int i0, int b, int j0, int n,
                   const back *w) {
    const zb_kernels *kn = zb_kernels_get();
    for (int i = 0; i < b; i++) {
        float *p = w->p + (size_t)i * TILE, *dp = w->dp + (size_t)i * TILE;
        int seen = i0 + i + 1 - j0 < n ? i0 + i + 1 - j0 : n;
        if (seen < 0) seen = 0;
        float lse = a->lse[h * a->lse_head + i0 + i];
        ptrdiff_t at = (i0 + i) * a->o_row + h * a->o_head;
        float delta = kn->dot(a->dv + a->o_rest, g->d_o + at, a->o + at);
        for (int j = 0; j < seen; j++) p[j] = p[j] * a->scale - lse;
        kn->exp(seen, p, p);
        for (int j = 0; j < seen; j++) dp[j] = p[j] * (dp[j] - delta) * a->scale;
        memset(p + seen, 0, (size_t)(n - seen) * sizeof(float));
        memset(dp + seen, 0, (size_t)(n - seen) * sizeof(float));
    }
}

/* One block of queries against one tile of keys. */
static void backward_tile(const zb_attend *a, const zb_attend_grad *g, int h, int i0, int j0, int n,
                          const back *w) {
    int b = a->T - i0 < TILE ? a->T - i0 : TILE;
    ptrdiff_t at_q = i0 * a->q_row + h * a->q_head, at_o = i0 * a->o_row + h * a->o_head;
    ptrdiff_t k_row = (ptrdiff_t)(a->k.row / sizeof(float)),
              v_row = (ptrdiff_t)(a->v.row / sizeof(float));
    zb_right q = {a->q + at_q, a->q_row}, d_o = {g->d_o + at_o, a->o_row},
             k = {row_f32(&a->k, j0), k_row}, kt = {w->kt, n}, vt = {w->vt, n};
    zb_out p = {w->p, TILE}, dp = {w->dp, TILE}, dq = {g->dq + at_q, a->q_row},
           dk = {g->dk + j0 * k_row, k_row}, dv = {g->dv + j0 * v_row, v_row};
    const zb_product_room *r = &w->room;
    zb_product_in(r, (zb_shape){b, n, a->dk}, zb_rows(q.p, q.row), kt, false, p, false);
    zb_product_in(r, (zb_shape){b, n, a->dv}, zb_rows(d_o.p, d_o.row), vt, false, dp, false);
    slopes(a, g, h, i0, b, j0, n, w);
    zb_product_in(r, (zb_shape){n, a->dv, b}, zb_columns(w->p, TILE), d_o, false, dv, true);
    zb_product_in(r, (zb_shape){n, a->dk, b}, zb_columns(w->dp, TILE), q, false, dk, true);
    zb_product_in(r, (zb_shape){b, a->dk, n}, zb_rows(w->dp, TILE), k, false, dq, j0 > 0);
}

static void backward_one(const zb_attend *a, const zb_attend_grad *g, const back *w) {
    for (int j0 = 0; j0 < a->T; j0 += TILE) {
        int n = a->T - j0 < TILE ? a->T - j0 : TILE;
        zb_transpose(row_f32(&a->k, j0), (ptrdiff_t)(a->k.row / sizeof(float)), n, a->dk, w->kt);
        zb_transpose(row_f32(&a->v, j0), (ptrdiff_t)(a->v.row / sizeof(float)), n, a->dv, w->vt);
        for (int h = 0; h < a->heads; h++)
            for (int i0 = j0; i0 < a->T; i0 += TILE) backward_tile(a, g, h, i0, j0, n, w);
    }
}

void zb_attend_backward(zb_arena *arena, int threads, const zb_attend *a, const zb_attend_grad *g,
                        int n) {
    zb_mark mark = zb_arena_mark(arena);
    int dk = 0, dv = 0;
    for (int i = 0; i < n; i++) {
        ZB_ASSERT(a[i].past == 0 && a[i].lse && a[i].k_tail.width == 0 && a[i].v.p);
        if (a[i].dk > dk) dk = a[i].dk;
        if (a[i].dv > dv) dv = a[i].dv;
    }
    size_t size = rounded(back_floats(dk, dv));
    float *scratch = ZB_RAW_ARRAY(arena, float, size *(size_t)threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int i = 0; i < n; i++) {
        float *at = scratch + size * (size_t)omp_get_thread_num();
        back w = {.room = {at, a[i].bf16 && zb_kernels_get()->tiles}, .kt = at + back_room(dk, dv)};
        w.vt = w.kt + TILE * dk;
        w.p = w.vt + TILE * dv;
        w.dp = w.p + TILE * TILE;
        backward_one(&a[i], &g[i], &w);
    }
    zb_arena_pop(arena, mark);
}

size_t zb_attend_room(const zb_attend *like, int n, int threads, bool backward) {
    int step = block_tokens(like);
    size_t rows = (size_t)step * (size_t)like->heads, count = (size_t)n;
    plan p = {.M = rows, .dk = (size_t)like->dk, .dv = (size_t)like->dv};
    p.tiled = is_tiled(like);
    if (backward)
        return lines(rounded(back_floats(like->dk, like->dv)) * (size_t)threads * sizeof(float));
    return lines(count * sizeof *p.partial) +
           lines(count * (size_t)((like->T + step - 1) / step) * sizeof *p.jobs) +
           lines(work_floats(&p) * (size_t)threads * sizeof(float));
}
