/* attention.c - grouped-query attention kept from the base model.
 *
 *   q = Wq x + bq [H·dh],  k = Wk x + bk [G·dh],  v = Wv x + bv [G·dh],  q and k rotated in the
 * half layout (pairs i, i + dh/2), head h attends with key/value head h / (H/G), scale dh^-1/2;  y
 * = Wo concat_h(o) (+ bo). (Touvron et al. 2023; method.md 1.) State: keys [tokens_max, G·dh],
 * rotated, then values [tokens_max, G·dh]. */
#include "kernels/kernels.h"
#include "model/attend.h"
#include "model/mixer.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { WQ = ZB_P_MIXER, WK, WV, WO, BQ, BK, BV, BO };

typedef struct tape {
    float *q, *k, *v, *o,
        *lse; /* [N,H·dh], [N,G·dh] twice, [N,H·dh], [H,N]; q and k after rotation */
} tape;

static void params(const zb_config *c, int l, zb_param_table *t) {
    int hq = c->H * c->dh, hk = c->G * c->dh;
    zb_params_add(t, l, WQ, ZB_ROLE_MIXER, "self_attn.q_proj.weight", hq, c->D);
    zb_params_add(t, l, WK, ZB_ROLE_MIXER, "self_attn.k_proj.weight", hk, c->D);
    zb_params_add(t, l, WV, ZB_ROLE_MIXER, "self_attn.v_proj.weight", hk, c->D);
    zb_params_add(t, l, WO, ZB_ROLE_MIXER, "self_attn.o_proj.weight", c->D, hq);
    if (c->qkv_bias) {
        zb_params_add(t, l, BQ, ZB_ROLE_MIXER, "self_attn.q_proj.bias", hq, 0);
        zb_params_add(t, l, BK, ZB_ROLE_MIXER, "self_attn.k_proj.bias", hk, 0);
        zb_params_add(t, l, BV, ZB_ROLE_MIXER, "self_attn.v_proj.bias", hk, 0);
    }
    if (c->o_bias) zb_params_add(t, l, BO, ZB_ROLE_MIXER, "self_attn.o_proj.bias", c->D, 0);
}

/* Turns every head of rows [n, heads·dh] by its position (backwards when inverse). */
static void rotate(zb_run *run, float *x, int heads, bool inverse) {
    const zb_kernels *kn = zb_kernels_get();
    const zb_config *c = run->config;
    int half = c->dh / 2;
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        int past = zb_span_past(sp);
#pragma omp parallel for schedule(static)
        for (int i = 0; i < sp->n; i++) {
            const float *cs = run->rope.cos + (size_t)(past + i) * half,
                        *sn = run->rope.sin + (size_t)(past + i) * half;
            float *row = x + (size_t)(sp->start + i) * heads * c->dh;
            for (int h = 0; h < heads; h++) kn->rope_halves(half, cs, sn, inverse, row + h * c->dh);
        }
    }
}

/* Appends the span's keys and values to its state. */
static void remember(const zb_run *run, int layer, const zb_span *sp, const float *k,
                     const float *v) {
    const zb_config *c = run->config;
    size_t width = (size_t)c->G * c->dh;
    float *cache = zb_state_layer(sp->state, c, layer);
    float *keys = cache + (size_t)sp->state->len * width;
    float *values = keys + (size_t)sp->state->tokens_max * width;
    memcpy(keys, k + (size_t)sp->start * width, (size_t)sp->n * width * sizeof(float));
    memcpy(values, v + (size_t)sp->start * width, (size_t)sp->n * width * sizeof(float));
}

static zb_attend head_args(const zb_run *run, int layer, const zb_span *sp, int h, const tape *t) {
    const zb_config *c = run->config;
    size_t hq = (size_t)c->H * c->dh, hk = (size_t)c->G * c->dh,
           kv = (size_t)(h / (c->H / c->G)) * c->dh;
    zb_attend a = {.T = sp->n,
                   .past = zb_span_past(sp),
                   .dk = c->dh,
                   .dv = c->dh,
                   .scale = (float)(1 / sqrt((double)c->dh))};
    a.q = t->q + sp->start * hq + (size_t)h * c->dh;
    a.o = t->o + sp->start * hq + (size_t)h * c->dh;
    a.q_row = a.o_row = (ptrdiff_t)hq;
    a.k_row = a.v_row = (ptrdiff_t)hk;
    if (sp->state) {
        a.k = zb_state_layer(sp->state, c, layer) + kv;
        a.v = a.k + (size_t)sp->state->tokens_max * hk;
    } else {
        a.k = t->k + sp->start * hk + kv;
        a.v = t->v + sp->start * hk + kv;
    }
    if (t->lse) a.lse = t->lse + (size_t)h * run->batch->n + sp->start;
    return a;
}

static int keys_max(const zb_batch *b) {
    int most = 0;
    for (int s = 0; s < b->n_spans; s++) {
        int keys = zb_span_past(&b->span[s]) + b->span[s].n;
        if (keys > most) most = keys;
    }
    return most;
}

static void forward(zb_run *run, int layer, const float *x, float *y, void **tape_out) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    int n = run->batch->n, hq = c->H * c->dh, hk = c->G * c->dh;
    tape local, *t = tape_out ? ZB_NEW(run->arena, tape) : &local;
    if (tape_out) *tape_out = t;
    zb_mark mark = zb_arena_mark(run->arena);
    t->q = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq);
    t->k = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hk);
    t->v = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hk);
    t->o = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq);
    t->lse = tape_out ? ZB_RAW_ARRAY(run->arena, float, (size_t)n * c->H) : NULL;
    zb_linear(run, p[WQ], p[BQ], x, n, t->q);
    zb_linear(run, p[WK], p[BK], x, n, t->k);
    zb_linear(run, p[WV], p[BV], x, n, t->v);
    rotate(run, t->q, c->H, false);
    rotate(run, t->k, c->G, false);
    for (int s = 0; s < run->batch->n_spans; s++)
        if (run->batch->span[s].state) remember(run, layer, &run->batch->span[s], t->k, t->v);
    zb_mark keep = zb_arena_mark(run->arena);
    size_t work_size = zb_attend_work(keys_max(run->batch), c->dh, c->dh);
    float *work = zb_scratch(run, work_size);
    int jobs = run->batch->n_spans * c->H;
#pragma omp parallel for schedule(dynamic) num_threads(run->threads)
    for (int j = 0; j < jobs; j++) {
        zb_attend a = head_args(run, layer, &run->batch->span[j / c->H], j % c->H, t);
        zb_attend_forward(&a, work + work_size * (size_t)omp_get_thread_num());
    }
    zb_arena_pop(run->arena, keep);
    zb_linear(run, p[WO], p[BO], t->o, n, y);
    if (!tape_out) zb_arena_pop(run->arena, mark);
}

static void backward(zb_run *run, int layer, const float *x, const float *dy, float *dx,
                     void *tape_in) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    const tape *t = tape_in;
    int n = run->batch->n, hq = c->H * c->dh, hk = c->G * c->dh, per = c->H / c->G;
    zb_mark mark = zb_arena_mark(run->arena);
    float *d_o = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq),
          *dq = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq);
    float *dk = ZB_NEW_ARRAY(run->arena, float, (size_t)n *hk),
          *dv = ZB_NEW_ARRAY(run->arena, float, (size_t)n *hk);
    zb_linear_backward_to(run, p[WO], p[BO], t->o, dy, n, d_o);
    size_t work_size = zb_attend_work(keys_max(run->batch), c->dh, c->dh);
    float *work = zb_scratch(run, work_size);
    int jobs = run->batch->n_spans * c->G; /* heads of one group share dk and dv */
#pragma omp parallel for schedule(dynamic) num_threads(run->threads)
    for (int j = 0; j < jobs; j++) {
        const zb_span *sp = &run->batch->span[j / c->G];
        for (int h = j % c->G * per; h < (j % c->G + 1) * per; h++) {
            zb_attend a = head_args(run, layer, sp, h, t);
            size_t at_q = (size_t)(a.q - t->q), at_k = (size_t)(a.k - t->k);
            zb_attend_grad g = {
                .d_o = d_o + at_q, .dq = dq + at_q, .dk = dk + at_k, .dv = dv + at_k};
            zb_attend_backward(&a, &g, work + work_size * (size_t)omp_get_thread_num());
        }
    }
    rotate(run, dq, c->H, true);
    rotate(run, dk, c->G, true);
    zb_linear_backward(run, p[WQ], p[BQ], x, dq, n, dx);
    zb_linear_backward(run, p[WK], p[BK], x, dk, n, dx);
    zb_linear_backward(run, p[WV], p[BV], x, dv, n, dx);
    zb_arena_pop(run->arena, mark);
}

static zb_room room(const zb_config *c, int layer, const zb_load *load) {
    (void)layer;
    size_t n = (size_t)load->n, q = zb_room_of(n * c->H * c->dh), k = zb_room_of(n * c->G * c->dh),
           work = zb_room_of(zb_attend_work(load->longest, c->dh, c->dh) * load->threads);
    return (zb_room){.tape = (sizeof(tape) + 63) / 64 * 64 + 2 * q + 2 * k + zb_room_of(n * c->H),
                     .forward = work,
                     .backward = 2 * q + 2 * k + work};
}

const zb_mixer zb_mixer_attention = {"attention", params, forward, backward, room};
