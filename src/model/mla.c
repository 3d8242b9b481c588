/* mla.c - multi-head latent attention (DeepSeek-V2; method.md 2.1; X-EcoMLA section 3).
 *
 *   q = Wqb norm?(Wqa x)  (or Wq x) -> per head [q_nope d_nope | q_pe d_rope]
 *   [c | k_pe] = Wkva x,  c <- norm?(c)     c: r_kv values, k_pe: d_rope values shared by all heads
 *   [k_nope | v] = Wkvb c per kv head       head h uses kv head h / (H/G')
 *   score = (q_nope·k_nope + rope(q_pe)·rope(k_pe)) · scale,  y = Wo concat_h Σ softmax · v
 *
 * Rotary pairs are interleaved (2i, 2i+1). Only c (after its norm) and the rotated k_pe are cached:
 * [tokens_max, r_kv+d_rope]. Two forms that agree: expanded builds keys and values of every head;
 * absorbed carries W_uk over to the query, q' = [q_nope·W_uk | q_pe], and attends to the cached
 * rows themselves (keys c|k_pe, values c), then maps the sum by W_uv. Each span takes the form that
 * needs fewer products. */
#include "kernels/kernels.h"
#include "model/attend.h"
#include "model/mixer.h"
#include "model/product.h"
#include "model/rope.h"

#include <omp.h>
#include <string.h>

enum { WQA = ZB_P_MIXER, WQB, WQ, WKVA, WKVB, WO, NQ, NKV };

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
    if (d.rq) {
        zb_params_add(t, l, WQA, ZB_ROLE_MIXER, "mla.q_a_proj.weight", d.rq, c->D);
        if (norm) zb_params_add(t, l, NQ, ZB_ROLE_NORM, "mla.q_a_layernorm.weight", d.rq, 0);
        zb_params_add(t, l, WQB, ZB_ROLE_MIXER, "mla.q_b_proj.weight", d.H * d.dk, d.rq);
    } else {
        zb_params_add(t, l, WQ, ZB_ROLE_MIXER, "mla.q_proj.weight", d.H * d.dk, c->D);
    }
    zb_params_add(t, l, WKVA, ZB_ROLE_MIXER, "mla.kv_a_proj_with_mqa.weight", d.r + d.dr, c->D);
    if (norm) zb_params_add(t, l, NKV, ZB_ROLE_NORM, "mla.kv_a_layernorm.weight", d.r, 0);
    zb_params_add(t, l, WKVB, ZB_ROLE_MIXER, "mla.kv_b_proj.weight", d.G * (d.dn + d.dv), d.r);
    zb_params_add(t, l, WO, ZB_ROLE_MIXER, "mla.out_proj.weight", c->D, d.H * d.dv);
}

/* Turns the last dr of every `width` values of rows [n, heads·width]. */
static void rotate(zb_run *run, float *x, int heads, int width, int dr, bool inverse) {
    const zb_kernels *kn = zb_kernels_get();
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        int past = zb_span_past(sp);
#pragma omp parallel for schedule(static)
        for (int i = 0; i < sp->n; i++) {
            size_t at = (size_t)(past + i) * (dr / 2);
            float *row = x + (size_t)(sp->start + i) * heads * width + (width - dr);
            for (int h = 0; h < heads; h++)
                kn->rope_interleaved(dr / 2, run->mla_rope.cos + at, run->mla_rope.sin + at,
                                     inverse, row + h * width);
        }
    }
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

/* Keys [n, G·dk] of latents already mapped by kv_b; pe [n, dr] stands pe_row floats apart. */
static void join_keys(const dims *d, int n, const float *kvb, const float *pe, int pe_row,
                      float *k) {
#pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++)
        for (int g = 0; g < d->G; g++) {
            float *to = k + ((size_t)i * d->G + g) * d->dk;
            memcpy(to, kvb + ((size_t)i * d->G + g) * (d->dn + d->dv),
                   (size_t)d->dn * sizeof(float));
            memcpy(to + d->dn, pe + (size_t)i * pe_row, (size_t)d->dr * sizeof(float));
        }
}

static void remember(const zb_run *run, int layer, const dims *d, const zb_span *sp,
                     const tape *t) {
    size_t width = (size_t)(d->r + d->dr);
    float *cache = zb_state_layer(sp->state, run->config, layer) + (size_t)sp->state->len * width;
    for (int i = 0; i < sp->n; i++) {
        memcpy(cache + i * width, t->cn + (size_t)(sp->start + i) * d->r,
               (size_t)d->r * sizeof(float));
        memcpy(cache + i * width + d->r, t->pe + (size_t)(sp->start + i) * d->dr,
               (size_t)d->dr * sizeof(float));
    }
}

/* Products of either form over one span; see the essay. */
static bool absorbed_is_cheaper(const zb_run *run, const dims *d, const zb_span *sp) {
    if (!sp->state) return false;
    if (run->mla_form != ZB_MLA_AUTO) return run->mla_form == ZB_MLA_ABSORBED;
    double T = sp->n, keys = sp->state->len + sp->n;
    double absorbed = T * d->H * d->r * (d->dn + d->dv) + T * keys * d->H * (2 * d->r + d->dr);
    double expanded = keys * d->r * d->G * (d->dn + d->dv) + T * keys * d->H * (d->dk + d->dv);
    return absorbed < expanded;
}

static zb_attend expanded_args(const zb_run *run, const dims *d, const zb_span *sp, int h,
                               const tape *t) {
    size_t g = (size_t)(h / (d->H / d->G)), kv_row = (size_t)d->G * (d->dn + d->dv);
    zb_attend a = {
        .T = sp->n, .past = zb_span_past(sp), .dk = d->dk, .dv = d->dv, .scale = d->scale};
    a.q_row = (ptrdiff_t)d->H * d->dk;
    a.o_row = (ptrdiff_t)d->H * d->dv;
    a.k_row = (ptrdiff_t)d->G * d->dk;
    a.v_row = (ptrdiff_t)kv_row;
    a.q = t->q + (size_t)sp->start * d->H * d->dk + (size_t)h * d->dk;
    a.o = t->o + (size_t)sp->start * d->H * d->dv + (size_t)h * d->dv;
    a.k = t->k + (size_t)sp->start * d->G * d->dk + g * d->dk;
    a.v = t->kvb + (size_t)sp->start * kv_row + g * (d->dn + d->dv) + d->dn;
    if (t->lse) a.lse = t->lse + (size_t)h * run->batch->n + sp->start;
    return a;
}

/* Attention of one span whose keys and values are those of `t` (span offsets already apply). */
static void attend_expanded(zb_run *run, const dims *d, const zb_span *sp, const tape *t) {
    zb_mark mark = zb_arena_mark(run->arena);
    size_t size = zb_attend_work(zb_span_past(sp) + sp->n, d->dk, d->dv);
    float *work = zb_scratch(run, size);
#pragma omp parallel for schedule(dynamic) num_threads(run->threads)
    for (int h = 0; h < d->H; h++) {
        zb_attend a = expanded_args(run, d, sp, h, t);
        zb_attend_forward(&a, work + size * (size_t)omp_get_thread_num());
    }
    zb_arena_pop(run->arena, mark);
}

/* Expanded form over the cache of a continued span. */
static void attend_cached(zb_run *run, int layer, const dims *d, zb_param **p, const zb_span *sp,
                          const tape *t) {
    zb_mark mark = zb_arena_mark(run->arena);
    int keys = sp->state->len + sp->n, width = d->r + d->dr;
    const float *cache = zb_state_layer(sp->state, run->config, layer);
    float *c = ZB_NEW_ARRAY(run->arena, float, (size_t)keys * d->r);
    for (int i = 0; i < keys; i++)
        memcpy(c + (size_t)i * d->r, cache + (size_t)i * width, (size_t)d->r * sizeof(float));
    tape all = *t;
    all.kvb = ZB_NEW_ARRAY(run->arena, float, (size_t)keys * d->G * (d->dn + d->dv));
    all.k = ZB_NEW_ARRAY(run->arena, float, (size_t)keys * d->G * d->dk);
    zb_linear(run, p[WKVB], NULL, c, keys, all.kvb);
    join_keys(d, keys, all.kvb, cache + d->r, width, all.k);
    all.q = t->q + (size_t)sp->start * d->H * d->dk; /* keys start at row 0, so queries must too */
    all.o = t->o + (size_t)sp->start * d->H * d->dv;
    all.lse = NULL;
    zb_span at_zero = *sp;
    at_zero.start = 0;
    attend_expanded(run, d, &at_zero, &all);
    zb_arena_pop(run->arena, mark);
}

/* kv_b as f32 rows, unpacked into the arena where it is stored otherwise. */
static const float *wide_kv_b(zb_run *run, const zb_param *w) {
    if (w->dtype == ZB_F32) return w->data;
    float *out = ZB_NEW_ARRAY(run->arena, float, (size_t)w->rows * w->cols);
    size_t bytes;
    bool ok = zb_dtype_size(w->dtype, w->cols, &bytes);
    ZB_ASSERT(ok);
    for (int r = 0; r < w->rows; r++)
        zb_dtype_to_f32(w->dtype, (const uint8_t *)w->data + (size_t)r * bytes,
                        out + (size_t)r * w->cols, w->cols);
    return out;
}

/* One head of the absorbed form. work: q' [T,r+dr], o' [T,r], W_uvᵀ [r,dv], then the attention's
 * own. */
static void absorbed_head(const dims *d, const zb_span *sp, int h, const float *kvb,
                          const float *cache, const tape *t, float *work) {
    int T = sp->n, width = d->r + d->dr;
    float *qc = work, *oc = qc + (size_t)T * width, *uv = oc + (size_t)T * d->r,
          *rest = uv + (size_t)d->r * d->dv;
    const float *uk = kvb + (size_t)(h / (d->H / d->G)) * (d->dn + d->dv) * d->r,
                *uv_rows = uk + (size_t)d->dn * d->r;
    const float *q = t->q + ((size_t)sp->start * d->H + h) * d->dk;
    float *o = t->o + ((size_t)sp->start * d->H + h) * d->dv;
    zb_product((zb_shape){T, d->r, d->dn}, zb_rows(q, (ptrdiff_t)d->H * d->dk),
               (zb_right){uk, d->r}, (zb_out){qc, width});
    for (int i = 0; i < T; i++)
        memcpy(qc + (size_t)i * width + d->r, q + (size_t)i * d->H * d->dk + d->dn,
               (size_t)d->dr * sizeof(float));
    zb_attend a = {.T = T,
                   .past = sp->state->len,
                   .dk = width,
                   .dv = d->r,
                   .scale = d->scale,
                   .q = qc,
                   .q_row = width,
                   .k = cache,
                   .k_row = width,
                   .v = cache,
                   .v_row = width,
                   .o = oc,
                   .o_row = d->r};
    zb_attend_forward(&a, rest);
    for (int j = 0; j < d->dv; j++)
        for (int i = 0; i < d->r; i++) uv[(size_t)i * d->dv + j] = uv_rows[(size_t)j * d->r + i];
    zb_product((zb_shape){T, d->dv, d->r}, zb_rows(oc, d->r), (zb_right){uv, d->dv},
               (zb_out){o, (ptrdiff_t)d->H * d->dv});
}

static void attend_absorbed(zb_run *run, int layer, const dims *d, zb_param **p, const zb_span *sp,
                            const tape *t) {
    zb_mark mark = zb_arena_mark(run->arena);
    const float *kvb = wide_kv_b(run, p[WKVB]),
                *cache = zb_state_layer(sp->state, run->config, layer);
    int width = d->r + d->dr;
    size_t size = (size_t)sp->n * (width + d->r) + (size_t)d->r * d->dv +
                  zb_attend_work(sp->state->len + sp->n, width, d->r);
    float *work = zb_scratch(run, size);
#pragma omp parallel for schedule(dynamic) num_threads(run->threads)
    for (int h = 0; h < d->H; h++)
        absorbed_head(d, sp, h, kvb, cache, t, work + size * (size_t)omp_get_thread_num());
    zb_arena_pop(run->arena, mark);
}

/* Keys and values of the batch's own tokens are needed by fresh spans only. */
static bool any_fresh(const zb_batch *b) {
    for (int s = 0; s < b->n_spans; s++)
        if (!b->span[s].state) return true;
    return false;
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
    if (any_fresh(run->batch)) {
        t->kvb = ZB_RAW_ARRAY(run->arena, float, (size_t)n *d.G *(d.dn + d.dv));
        t->k = ZB_RAW_ARRAY(run->arena, float, (size_t)n *d.G *d.dk);
        zb_linear(run, p[WKVB], NULL, t->cn, n, t->kvb);
        join_keys(&d, n, t->kvb, t->pe, d.dr, t->k);
    }
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        if (sp->state) remember(run, layer, &d, sp, t);
        if (!sp->state)
            attend_expanded(run, &d, sp, t);
        else if (absorbed_is_cheaper(run, &d, sp))
            attend_absorbed(run, layer, &d, p, sp, t);
        else
            attend_cached(run, layer, &d, p, sp, t);
    }
    zb_linear(run, p[WO], NULL, t->o, n, y);
    if (!tape_out) zb_arena_pop(run->arena, mark);
}

/* Gradients of q [N,H·dk], k [N,G·dk] and, inside dkvb, of v. */
static void backward_attention(zb_run *run, const dims *d, const tape *t, const float *d_o,
                               float *dq, float *dk, float *dkvb) {
    zb_mark mark = zb_arena_mark(run->arena);
    int most = 0, per = d->H / d->G, jobs = run->batch->n_spans * d->G;
    for (int s = 0; s < run->batch->n_spans; s++)
        if (run->batch->span[s].n > most) most = run->batch->span[s].n;
    size_t size = zb_attend_work(most, d->dk, d->dv);
    float *work = zb_scratch(run, size);
#pragma omp parallel for schedule(dynamic) num_threads(run->threads)
    for (int j = 0; j < jobs; j++)
        for (int h = j % d->G * per; h < (j % d->G + 1) * per; h++) {
            zb_attend a = expanded_args(run, d, &run->batch->span[j / d->G], h, t);
            zb_attend_grad g = {.d_o = d_o + (a.o - t->o),
                                .dq = dq + (a.q - t->q),
                                .dk = dk + (a.k - t->k),
                                .dv = dkvb + (a.v - t->kvb)};
            zb_attend_backward(&a, &g, work + size * (size_t)omp_get_thread_num());
        }
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
           joined = zb_room_of(n * (d.r + d.dr)),
           work = zb_room_of(zb_attend_work(load->longest, d.dk, d.dv) * load->threads);
    size_t copies = norm ? 2 : 1; /* before and after a norm */
    zb_room r = {.tape = (sizeof(tape) + 63) / 64 * 64 + q + o + kvb + k + pe + joined +
                         copies * latent + zb_room_of(n * d.H),
                 .forward = work};
    if (d.rq) r.tape += copies * low;
    if (norm) r.tape += (d.rq ? 2 : 1) * zb_room_of(n);
    size_t later = (d.rq ? copies * low : 0) + pe + copies * latent + joined;
    r.backward = o + q + k + kvb + (later > work ? later : work);
    return r;
}

const zb_mixer zb_mixer_mla = {"mla", params, forward, backward, room};
