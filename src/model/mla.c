/* mla.c - multi-head latent attention (DeepSeek-V2; method.md 2.1; X-EcoMLA section 3).
 *
 *   q = Wqb norm?(Wqa x)  (or Wq x) -> per head [q_nope d_nope | q_pe d_rope]
 *   [c | k_pe] = Wkva x,  c <- norm?(c)     c: r_kv values, k_pe: d_rope values shared by all heads
 *   [k_nope | v] = Wkvb c per kv head       head h uses kv head h / (H/G')
 *   score = (q_nope·k_nope + rope(q_pe)·rope(k_pe)) · scale,  y = Wo concat_h Σ softmax · v
 *
 * Rotary pairs are interleaved (2i, 2i+1). Only c (after its norm) and the rotated k_pe are cached:
 * a plane of each. Two forms that agree: expanded builds keys and values of every head;
 * absorbed carries W_uk over to the query, q' = [q_nope·W_uk | q_pe], and attends to the cached
 * rows themselves (keys c|k_pe, values c; one kv head for all query heads), then maps the sum by
 * W_uv. Each span takes the form that costs less. */
#include "kernels/kernels.h"
#include "model/attend.h"
#include "model/mixer.h"
#include "model/product.h"
#include "model/rope.h"

#include <omp.h>
#include <string.h>

enum { WQA = ZB_P_MIXER, WQB, WQ, WKVA, WKVB, WO, NQ, NKV };

enum { PIECE = 1024 }; /* keys that are expanded at once */

typedef struct dims {
    int H, G, dn, dr, dk, dv, r, rq; /* G: kv heads of kv_b; dk = dn + dr */
    float scale;
} dims;

typedef struct tape {
    float *qa, *qa_r,
        *qan; /* [N,rq] before the norm, factors [N], after it (qa itself without a norm) */
    float *q; /* [N,H·dk], rotated */
    float *c, *c_r, *cn; /* [N,r] latent before the norm, factors, after it */
    float *pe;           /* [N,dr] rotated shared key */
    float *kvb, *k;      /* [N,G·(dn+dv)], [N,G·dk] */
    float *o, *lse;      /* [N,H·dv], [H,N] */
} tape;

static dims dims_of(const zb_config *c, int l) {
    const zb_layer_config *m = &c->layer[l];
    return (dims){.H = c->H,
                  .G = m->full_kv_head ? c->H : c->G,
                  .dn = m->d_nope,
                  .dr = m->d_rope,
                  .dk = m->d_nope + m->d_rope,
                  .dv = m->d_v,
                  .r = m->r_kv,
                  .rq = m->r_q,
                  .scale = (float)zb_mla_scale(&c->mla_rope, m->d_nope, m->d_rope)};
}

static void params(const zb_config *c, int l, zb_param_table *t) {
    dims d = dims_of(c, l);
    bool norm = c->layer[l].lora_norm;
    float eps = (float)c->layer[l].latent_eps;
    if (d.rq) {
        zb_params_add(t, l, WQA, ZB_ROLE_MIXER, "mla.q_a_proj.weight", d.rq, c->D);
        if (norm)
            zb_params_add(t, l, NQ, ZB_ROLE_NORM, "mla.q_a_layernorm.weight", d.rq, 0)->eps = eps;
        zb_params_add(t, l, WQB, ZB_ROLE_MIXER, "mla.q_b_proj.weight", d.H * d.dk, d.rq);
    } else {
        zb_params_add(t, l, WQ, ZB_ROLE_MIXER, "mla.q_proj.weight", d.H * d.dk, c->D);
    }
    zb_params_add(t, l, WKVA, ZB_ROLE_MIXER, "mla.kv_a_proj_with_mqa.weight", d.r + d.dr, c->D);
    if (norm)
        zb_params_add(t, l, NKV, ZB_ROLE_NORM, "mla.kv_a_layernorm.weight", d.r, 0)->eps = eps;
    zb_params_add(t, l, WKVB, ZB_ROLE_MIXER, "mla.kv_b_proj.weight", d.G * (d.dn + d.dv), d.r);
    zb_params_add(t, l, WO, ZB_ROLE_MIXER, "mla.out_proj.weight", c->D, d.H * d.dv);
}

/* Turns the last dr of every `width` values of rows [n, heads·width]. */
static void rotate(zb_run *run, float *x, int heads, int width, int dr, bool inverse) {
    const zb_kernels *kn = zb_kernels_get();
    int n = run->batch->n;
    zb_mark mark = zb_arena_mark(run->arena);
    const int *position = zb_rope_positions(run);
#pragma omp parallel for schedule(static) if (n > ZB_FEW_TOKENS)
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)position[i] * (dr / 2);
        float *row = x + (size_t)i * heads * width + (width - dr);
        for (int h = 0; h < heads; h++)
            kn->rope_interleaved(dr / 2, run->mla_rope.cos + at, run->mla_rope.sin + at, inverse,
                                 row + h * width);
    }
    zb_arena_pop(run->arena, mark);
}

static void project_queries(zb_run *run, zb_param **p, const dims *d, const float *x, tape *t) {
    int n = run->batch->n;
    t->q = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->H * d->dk);
    if (!d->rq) {
        zb_linear(run, p[WQ], NULL, x, n, t->q);
    } else {
        t->qa = t->qan = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->rq);
        zb_linear(run, p[WQA], NULL, x, n, t->qa);
        if (p[NQ]) {
            t->qan = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->rq);
            t->qa_r = ZB_RAW_ARRAY(run->arena, float, n);
            zb_norm(run, p[NQ], t->qa, n, d->rq, t->qan, t->qa_r);
        }
        zb_linear(run, p[WQB], NULL, t->qan, n, t->q);
    }
    rotate(run, t->q, d->H, d->dk, d->dr, false);
}

static void project_latents(zb_run *run, zb_param **p, const dims *d, const float *x, tape *t) {
    int n = run->batch->n, width = d->r + d->dr;
    t->c = t->cn = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->r);
    t->pe = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->dr);
    float *kv = ZB_RAW_ARRAY(run->arena, float, (size_t)n *width);
    zb_linear(run, p[WKVA], NULL, x, n, kv);
    for (int i = 0; i < n; i++) {
        memcpy(t->c + (size_t)i * d->r, kv + (size_t)i * width, (size_t)d->r * sizeof(float));
        memcpy(t->pe + (size_t)i * d->dr, kv + (size_t)i * width + d->r,
               (size_t)d->dr * sizeof(float));
    }
    rotate(run, t->pe, 1, d->dr, d->dr, false);
    if (!p[NKV]) return;
    t->cn = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->r);
    t->c_r = ZB_RAW_ARRAY(run->arena, float, n);
    zb_norm(run, p[NKV], t->c, n, d->r, t->cn, t->c_r);
}

/* Keys [n, G·dk] of latents already mapped by kv_b and rotary keys pe [n, dr]. */
static void join_keys(const dims *d, int n, const float *kvb, const float *pe, float *k) {
#pragma omp parallel for schedule(static) if (n > ZB_FEW_TOKENS)
    for (int i = 0; i < n; i++)
        for (int g = 0; g < d->G; g++) {
            float *to = k + ((size_t)i * d->G + g) * d->dk;
            memcpy(to, kvb + ((size_t)i * d->G + g) * (d->dn + d->dv),
                   (size_t)d->dn * sizeof(float));
            memcpy(to + d->dn, pe + (size_t)i * d->dr, (size_t)d->dr * sizeof(float));
        }
}

/* Appends the latents and rotary keys of every span to its state. The batch goes on with the rows
 * as the state holds them: a token sees the same keys whether they came with it or before it. */
static void remember(const zb_run *run, int layer, const dims *d, const tape *t) {
    const zb_config *c = run->config;
#pragma omp parallel if (run->batch->n > ZB_FEW_TOKENS)
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        if (!sp->state) continue;
        zb_cells latent = zb_state_plane(sp->state, c, layer, 0),
                 rotary = zb_state_plane(sp->state, c, layer, 1);
#pragma omp for schedule(static) nowait
        for (int i = 0; i < sp->n; i++) {
            int at = sp->state->len + i;
            float *row = t->cn + (size_t)(sp->start + i) * d->r,
                  *pe = t->pe + (size_t)(sp->start + i) * d->dr;
            zb_state_put(sp->state, &latent, at, row);
            zb_state_put(sp->state, &rotary, at, pe);
            if (c->cache == ZB_F32) continue;
            zb_cells_read(&latent, at, 1, row, d->r);
            zb_cells_read(&rotary, at, 1, pe, d->dr);
        }
    }
}

/* How a span meets its keys. OWN: expanded, all of them stand in the batch. */
typedef enum form { OWN, EXPANDED, ABSORBED } form;

/* The form with fewer multiply-adds. That is also the faster one: timed on one core over 512 to
 * 8,192 keys of an f16 cache (9 heads, latents of 44 and 128, spans of 16 to 256 tokens), the times
 * of the two forms stood to each other as their products did, within a tenth where they are close
 * (latents of 128: equal at about 75 tokens by products, between 64 and 96 by time). Bytes need no
 * term of their own: either form reads the cache once, and where that is the limit (a few tokens)
 * absorbed wins by far. */
static form form_of(const zb_run *run, const dims *d, const zb_span *sp) {
    if (!sp->state) return OWN;
    double T = sp->n, keys = sp->state->len + sp->n;
    double absorbed = T * d->H * d->r * (d->dn + d->dv) + T * keys * d->H * (2 * d->r + d->dr);
    double expanded = keys * d->r * d->G * (d->dn + d->dv) + T * keys * d->H * (d->dk + d->dv);
    bool absorb =
        run->mla_form == ZB_MLA_AUTO ? absorbed < expanded : run->mla_form == ZB_MLA_ABSORBED;
    return absorb ? ABSORBED : sp->state->len ? EXPANDED : OWN;
}

/* Attention of one span to kv head g with keys k [·, G·dk] and mapped latents kvb [·, G·(dn+dv)],
 * whose first rows are those of the span's first key. */
static zb_attend expanded_args(const zb_run *run, const dims *d, const zb_span *sp, int g,
                               const tape *t, const float *k, const float *kvb) {
    int per = d->H / d->G, kv_row = d->G * (d->dn + d->dv);
    zb_attend a = {.T = sp->n,
                   .heads = per,
                   .past = zb_span_past(sp),
                   .dk = d->dk,
                   .dv = d->dv,
                   .scale = d->scale,
                   .q_row = (ptrdiff_t)d->H * d->dk,
                   .q_head = d->dk,
                   .o_row = (ptrdiff_t)d->H * d->dv,
                   .o_head = d->dv,
                   .bf16 = zb_run_rounds(run, t->lse != NULL),
                   .lse_head = run->batch->n};
    a.q = t->q + (size_t)sp->start * a.q_row + (size_t)g * per * d->dk;
    a.o = t->o + (size_t)sp->start * a.o_row + (size_t)g * per * d->dv;
    a.k = zb_cells_f32(k + (size_t)g * d->dk, (ptrdiff_t)d->G * d->dk, d->dk);
    a.v = zb_cells_f32(kvb + (size_t)g * (d->dn + d->dv) + d->dn, kv_row, d->dv);
    if (t->lse) a.lse = t->lse + (size_t)g * per * run->batch->n + sp->start;
    return a;
}

/* The attentions of all OWN spans and their kv heads; t->k and t->kvb hold the rows of the batch
 * from token `first` on. */
static zb_attend *own_args(const zb_run *run, const dims *d, const form *forms, const tape *t,
                           int first, int *n) {
    const zb_batch *b = run->batch;
    zb_attend *a = zb_alloc_raw_array(run->arena, (size_t)b->n_spans * (size_t)d->G, sizeof *a);
    *n = 0;
    for (int s = 0; s < b->n_spans; s++) {
        size_t row = (size_t)(b->span[s].start - first) * (size_t)d->G;
        for (int g = 0; forms[s] == OWN && g < d->G; g++)
            a[(*n)++] = expanded_args(run, d, &b->span[s], g, t, t->k + row * d->dk,
                                      t->kvb + row * (d->dn + d->dv));
    }
    return a;
}

/* Keys and values of the rows first .. first+n-1 of the batch, whole spans; a deterministic pass
 * takes them span by span (see zb_linear_many). */
static void expand_rows(zb_run *run, const dims *d, const zb_param *kvb, tape *t, int first,
                        int n) {
    const zb_batch *b = run->batch;
    zb_run part = *run;
    part.deterministic = false; /* the rows given are those of one span */
    size_t width = (size_t)d->G * (size_t)(d->dn + d->dv);
    if (!run->deterministic) zb_linear(run, kvb, NULL, t->cn + (size_t)first * d->r, n, t->kvb);
    for (int s = 0; run->deterministic && s < b->n_spans; s++) {
        int at = b->span[s].start - first;
        if (at < 0 || at >= n) continue;
        zb_linear(&part, kvb, NULL, t->cn + (size_t)b->span[s].start * d->r, b->span[s].n,
                  t->kvb + (size_t)at * width);
    }
}

/* All spans whose keys stand in the batch. */
static void attend_own(zb_run *run, const dims *d, zb_param **p, const form *forms, tape *t) {
    const zb_batch *b = run->batch;
    int first = b->n, end = 0, groups;
    for (int s = 0; s < b->n_spans; s++) {
        if (forms[s] != OWN) continue;
        if (b->span[s].start < first) first = b->span[s].start;
        end = b->span[s].start + b->span[s].n;
    }
    if (end == 0) return;
    int n = end - first;
    t->kvb = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->G * (d->dn + d->dv));
    t->k = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->G * d->dk);
    expand_rows(run, d, p[WKVB], t, first, n);
    join_keys(d, n, t->kvb, t->pe + (size_t)first * d->dr, t->k);
    zb_mark mark = zb_arena_mark(run->arena);
    const zb_attend *a = own_args(run, d, forms, t, first, &groups);
    zb_attend_forward(run->arena, run->threads, a, groups);
    zb_arena_pop(run->arena, mark);
}

/* Expanded form over the cache of a continued span: keys and values are built a piece at a time. */
static void attend_expanded(zb_run *run, int layer, const dims *d, zb_param **p, const zb_span *sp,
                            const tape *t) {
    zb_mark mark = zb_arena_mark(run->arena);
    int keys = sp->state->len + sp->n, most = keys < PIECE ? keys : PIECE;
    zb_run whole = *run; /* rows of one sequence's cache are not the spans of the batch */
    whole.deterministic = false;
    zb_cells latent = zb_state_plane(sp->state, run->config, layer, 0),
             rotary = zb_state_plane(sp->state, run->config, layer, 1);
    float *c = ZB_RAW_ARRAY(run->arena, float, (size_t)most * d->r),
          *pe = ZB_RAW_ARRAY(run->arena, float, (size_t)most * d->dr),
          *kvb = ZB_RAW_ARRAY(run->arena, float, (size_t)most * d->G * (d->dn + d->dv)),
          *k = ZB_RAW_ARRAY(run->arena, float, (size_t)most * d->G * d->dk),
          *running = ZB_RAW_ARRAY(run->arena, float, (size_t)sp->n * d->H * 2);
    zb_attend *a = zb_alloc_raw_array(run->arena, (size_t)d->G, sizeof *a);
    for (int first = 0; first < keys; first += PIECE) {
        int n = keys - first < PIECE ? keys - first : PIECE;
        zb_cells_read(&latent, first, n, c, d->r);
        zb_cells_read(&rotary, first, n, pe, d->dr);
        zb_linear(&whole, p[WKVB], NULL, c, n, kvb);
        join_keys(d, n, kvb, pe, k);
        for (int g = 0; g < d->G; g++) {
            a[g] = expanded_args(run, d, sp, g, t, k, kvb);
            a[g].first = first;
            a[g].n_keys = n;
            a[g].running = running + (size_t)g * sp->n * (d->H / d->G) * 2;
            a[g].last = first + n == keys;
        }
        zb_attend_forward(run->arena, run->threads, a, d->G);
    }
    zb_arena_pop(run->arena, mark);
}

/* n rows of kv_b from row `at` on as f32: where they lie, or unpacked into `out`. */
static const float *map_rows(const zb_param *w, int at, int n, float *out) {
    size_t bytes = zb_param_row_bytes(w);
    const uint8_t *from = (const uint8_t *)w->data + (size_t)at * bytes;
    if (w->dtype == ZB_F32) return (const float *)(const void *)from;
    if (w->dtype == ZB_BF16 || w->dtype == ZB_F16 || w->dtype == ZB_Q8_0)
        zb_cells_read(&(zb_cells){w->dtype, w->cols, bytes, from}, 0, n, out, w->cols);
    else
        zb_param_to_f32(w, at, n, out);
    return out;
}

/* q' [N,H,r+dr] = [q_nope·W_uk | q_pe] of tokens t0 .. t0+N-1, one product per head. */
static void absorb_queries(zb_run *run, const dims *d, const zb_param *kvb, int t0, int N,
                           const float *q, float *qc) {
    int width = d->r + d->dr, per = d->H / d->G;
    zb_mark mark = zb_arena_mark(run->arena);
    size_t size = (size_t)d->dn * d->r;
    float *scratch = zb_scratch(run, size);
    q += (size_t)t0 * d->H * d->dk;
#pragma omp parallel for schedule(static) num_threads(run->threads)
    for (int g = 0; g < d->G; g++) {
        const float *uk = map_rows(kvb, g * (d->dn + d->dv), d->dn,
                                   scratch + size * (size_t)omp_get_thread_num());
        for (int h = g * per; h < (g + 1) * per; h++) {
            zb_product((zb_shape){N, d->r, d->dn}, zb_rows(q + h * d->dk, d->H * d->dk),
                       (zb_right){uk, d->r}, (zb_out){qc + h * width, d->H * width});
            for (int i = 0; i < N; i++)
                memcpy(qc + ((size_t)i * d->H + h) * width + d->r,
                       q + ((size_t)i * d->H + h) * d->dk + d->dn, (size_t)d->dr * sizeof(float));
        }
    }
    zb_arena_pop(run->arena, mark);
}

/* o [N,H,dv] = oc [N,H,r]·W_uvᵀ */
static void map_values(zb_run *run, const dims *d, const zb_param *kvb, int N, const float *oc,
                       float *o) {
    int per = d->H / d->G;
    zb_mark mark = zb_arena_mark(run->arena);
    size_t size = (size_t)d->dv * d->r;
    float *scratch = zb_scratch(run, size);
#pragma omp parallel for schedule(static) num_threads(run->threads)
    for (int g = 0; g < d->G; g++) {
        const float *uv = map_rows(kvb, g * (d->dn + d->dv) + d->dn, d->dv,
                                   scratch + size * (size_t)omp_get_thread_num());
        for (int h = g * per; h < (g + 1) * per; h++)
            zb_kernels_get()->gemm_bt(&(zb_gemm_args){.m = N,
                                                      .n = d->dv,
                                                      .k = d->r,
                                                      .a = oc + (size_t)h * d->r,
                                                      .a_row = (ptrdiff_t)d->H * d->r,
                                                      .a_col = 1,
                                                      .b = uv,
                                                      .ldb = d->r,
                                                      .c = o + (size_t)h * d->dv,
                                                      .ldc = (ptrdiff_t)d->H * d->dv,
                                                      .alpha = 1});
    }
    zb_arena_pop(run->arena, mark);
}

/* Absorbed form of spans s0 .. s1-1, which stand side by side: one kv head that all heads share,
 * and whose values are the latents themselves. */
static void attend_absorbed(zb_run *run, int layer, const dims *d, zb_param **p, int s0, int s1,
                            const tape *t) {
    zb_mark mark = zb_arena_mark(run->arena);
    const zb_span *span = run->batch->span;
    int t0 = span[s0].start, N = span[s1 - 1].start + span[s1 - 1].n - t0, width = d->r + d->dr;
    float *qc = ZB_RAW_ARRAY(run->arena, float, (size_t)N * d->H * width),
          *oc = ZB_RAW_ARRAY(run->arena, float, (size_t)N * d->H * d->r);
    zb_attend *a = zb_alloc_array(run->arena, (size_t)(s1 - s0), sizeof *a);
    absorb_queries(run, d, p[WKVB], t0, N, t->q, qc);
    for (int s = s0; s < s1; s++) {
        size_t at = (size_t)(span[s].start - t0) * (size_t)d->H;
        a[s - s0] = (zb_attend){.T = span[s].n,
                                .heads = d->H,
                                .past = zb_span_past(&span[s]),
                                .dk = width,
                                .dv = d->r,
                                .scale = d->scale,
                                .q = qc + at * width,
                                .q_row = (ptrdiff_t)d->H * width,
                                .q_head = width,
                                .o = oc + at * d->r,
                                .o_row = (ptrdiff_t)d->H * d->r,
                                .o_head = d->r,
                                .bf16 = zb_matmul_is_coarse(run->mm),
                                .k = zb_state_plane(span[s].state, run->config, layer, 0),
                                .k_tail = zb_state_plane(span[s].state, run->config, layer, 1)};
    }
    zb_attend_forward(run->arena, run->threads, a, s1 - s0);
    map_values(run, d, p[WKVB], N, oc, t->o + (size_t)t0 * d->H * d->dv);
    zb_arena_pop(run->arena, mark);
}

static form *choose_forms(const zb_run *run, const dims *d) {
    form *f = zb_alloc_raw_array(run->arena, (size_t)run->batch->n_spans, sizeof *f);
    for (int s = 0; s < run->batch->n_spans; s++) f[s] = form_of(run, d, &run->batch->span[s]);
    return f;
}

static void forward(zb_run *run, int layer, const float *x, float *y, void **tape_out) {
    zb_param **p = run->params->layer[layer];
    dims d = dims_of(run->config, layer);
    int n = run->batch->n;
    tape local = {0}, *t = tape_out ? ZB_NEW(run->arena, tape) : &local;
    if (tape_out) *tape_out = t;
    zb_mark mark = zb_arena_mark(run->arena);
    project_queries(run, p, &d, x, t);
    project_latents(run, p, &d, x, t);
    t->o = ZB_RAW_ARRAY(run->arena, float, (size_t)n *d.H *d.dv);
    if (tape_out) t->lse = ZB_RAW_ARRAY(run->arena, float, (size_t)n *d.H);
    remember(run, layer, &d, t);
    const form *forms = choose_forms(run, &d);
    attend_own(run, &d, p, forms, t);
    for (int s = 0, end; s < run->batch->n_spans; s = end) {
        end = s + 1;
        if (forms[s] == EXPANDED) attend_expanded(run, layer, &d, p, &run->batch->span[s], t);
        if (forms[s] != ABSORBED) continue;
        while (end < run->batch->n_spans && forms[end] == ABSORBED) end++;
        attend_absorbed(run, layer, &d, p, s, end, t);
    }
    zb_linear(run, p[WO], NULL, t->o, n, y);
    if (!tape_out) zb_arena_pop(run->arena, mark);
}

/* Gradients of q [N,H·dk], k [N,G·dk] and, inside dkvb, of v. */
static void backward_attention(zb_run *run, const dims *d, const tape *t, const float *d_o,
                               float *dq, float *dk, float *dkvb) {
    zb_mark mark = zb_arena_mark(run->arena);
    int n;
    const zb_attend *a = own_args(run, d, choose_forms(run, d), t, 0, &n);
    zb_attend_grad *g = zb_alloc_raw_array(run->arena, (size_t)n, sizeof *g);
    for (int i = 0; i < n; i++)
        g[i] = (zb_attend_grad){.d_o = d_o + (a[i].o - t->o),
                                .dq = dq + (a[i].q - t->q),
                                .dk = dk + ((const float *)a[i].k.p - t->k),
                                .dv = dkvb + ((const float *)a[i].v.p - t->kvb)};
    zb_attend_backward(run->arena, run->threads, a, g, n);
    zb_arena_pop(run->arena, mark);
}

/* dk [N,G·dk] -> its nope parts into dkvb, the sum over heads of its rotary parts into dpe [N,dr].
 */
static void split_keys(const dims *d, int n, const float *dk, float *dkvb, float *dpe) {
    const zb_kernels *kn = zb_kernels_get();
#pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++)
        for (int g = 0; g < d->G; g++) {
            const float *from = dk + ((size_t)i * d->G + g) * d->dk;
            memcpy(dkvb + ((size_t)i * d->G + g) * (d->dn + d->dv), from,
                   (size_t)d->dn * sizeof(float));
            kn->add(d->dr, from + d->dn, dpe + (size_t)i * d->dr);
        }
}

static void backward_queries(zb_run *run, zb_param **p, const dims *d, const float *x,
                             const tape *t, float *dq, float *dx) {
    int n = run->batch->n;
    rotate(run, dq, d->H, d->dk, d->dr, true);
    if (!d->rq) {
        zb_linear_backward(run, p[WQ], NULL, x, dq, n, dx);
        return;
    }
    float *dqan = ZB_RAW_ARRAY(run->arena, float, (size_t)n * d->rq), *dqa = dqan;
    zb_linear_backward_to(run, p[WQB], NULL, t->qan, dq, n, dqan);
    if (p[NQ]) {
        dqa = ZB_NEW_ARRAY(run->arena, float, (size_t)n * d->rq);
        zb_norm_backward(run, p[NQ], t->qa, t->qa_r, dqan, n, d->rq, dqa);
    }
    zb_linear_backward(run, p[WQA], NULL, x, dqa, n, dx);
}

static void backward(zb_run *run, int layer, const float *x, const float *dy, float *dx,
                     void *tape_in) {
    zb_param **p = run->params->layer[layer];
    const tape *t = tape_in;
    dims d = dims_of(run->config, layer);
    int n = run->batch->n, width = d.r + d.dr;
    zb_mark mark = zb_arena_mark(run->arena);
    float *d_o = ZB_RAW_ARRAY(run->arena, float, (size_t)n *d.H *d.dv),
          *dq = ZB_RAW_ARRAY(run->arena, float, (size_t)n *d.H *d.dk);
    float *dk = ZB_NEW_ARRAY(run->arena, float, (size_t)n *d.G *d.dk),
          *dkvb = ZB_NEW_ARRAY(run->arena, float, (size_t)n *d.G *(d.dn + d.dv));
    zb_linear_backward_to(run, p[WO], NULL, t->o, dy, n, d_o);
    backward_attention(run, &d, t, d_o, dq, dk, dkvb);
    backward_queries(run, p, &d, x, t, dq, dx);
    float *dpe = ZB_NEW_ARRAY(run->arena, float, (size_t)n *d.dr),
          *dcn = ZB_RAW_ARRAY(run->arena, float, (size_t)n *d.r), *dc = dcn;
    split_keys(&d, n, dk, dkvb, dpe);
    rotate(run, dpe, 1, d.dr, d.dr, true);
    zb_linear_backward_to(run, p[WKVB], NULL, t->cn, dkvb, n, dcn);
    if (p[NKV]) {
        dc = ZB_NEW_ARRAY(run->arena, float, (size_t)n *d.r);
        zb_norm_backward(run, p[NKV], t->c, t->c_r, dcn, n, d.r, dc);
    }
    float *dkv = ZB_RAW_ARRAY(run->arena, float, (size_t)n *width);
    for (int i = 0; i < n; i++) {
        memcpy(dkv + (size_t)i * width, dc + (size_t)i * d.r, (size_t)d.r * sizeof(float));
        memcpy(dkv + (size_t)i * width + d.r, dpe + (size_t)i * d.dr, (size_t)d.dr * sizeof(float));
    }
    zb_linear_backward(run, p[WKVA], NULL, x, dkv, n, dx);
    zb_arena_pop(run->arena, mark);
}

static zb_room room(const zb_config *c, int layer, const zb_load *load) {
    dims d = dims_of(c, layer);
    bool norm = c->layer[layer].lora_norm;
    size_t n = (size_t)load->n, q = zb_room_of(n * d.H * d.dk), o = zb_room_of(n * d.H * d.dv),
           kvb = zb_room_of(n * d.G * (d.dn + d.dv)), k = zb_room_of(n * d.G * d.dk),
           low = zb_room_of(n * d.rq), latent = zb_room_of(n * d.r), pe = zb_room_of(n * d.dr),
           joined = zb_room_of(n * (d.r + d.dr)), forms = zb_room_of((size_t)load->spans);
    zb_attend like = {.T = load->longest, .heads = d.H / d.G, .dk = d.dk, .dv = d.dv};
    like.bf16 = load->bf16;
    int groups = load->spans * d.G;
    size_t args = (size_t)groups * sizeof like, grads = (size_t)groups * sizeof(zb_attend_grad),
           work = args + grads + zb_attend_room(&like, groups, load->threads, true);
    size_t copies = norm ? 2 : 1; /* before and after a norm */
    zb_room r = {.tape = (sizeof(tape) + 63) / 64 * 64 + q + o + kvb + k + pe + joined +
                         copies * latent + zb_room_of(n * d.H) + forms,
                 .forward = args + zb_attend_room(&like, groups, load->threads, false)};
    if (d.rq) r.tape += copies * low;
    if (norm) r.tape += (d.rq ? 2 : 1) * zb_room_of(n);
    size_t later = (d.rq ? copies * low : 0) + pe + copies * latent + joined;
    r.backward = o + q + k + kvb + (later > work ? later : work);
    return r;
}

const zb_mixer zb_mixer_mla = {"mla", params, forward, backward, room};
