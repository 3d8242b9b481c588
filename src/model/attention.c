/* attention.c - grouped-query attention kept from the base model.
 *
 *   q = Wq x + bq [H·dh],  k = Wk x + bk [G·dh],  v = Wv x + bv [G·dh],  q and k rotated in the
 * half layout (pairs i, i + dh/2), head h attends with key/value head h / (H/G), scale dh^-1/2;  y
 * = Wo concat_h(o) (+ bo). (Touvron et al. 2023; method.md 1.) State: planes of the
 * rotated keys of each kv head, then of the values of each. */
#include "model/attend.h"
#include "model/mixer.h"
#include "model/rope.h"

#include <math.h>

enum { WQ = ZB_P_MIXER, WK, WV, WO, BQ, BK, BV, BO };
enum { FEW = 8 }; /* tokens up to which starting threads costs more than they save */

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

/* Appends the keys and values of every span to its state. */
static void remember(const zb_run *run, int layer, const tape *t) {
    const zb_config *c = run->config;
    int G = c->G, dh = c->dh;
#pragma omp parallel if (run->batch->n > FEW)
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        for (int g = 0; sp->state && g < 2 * G; g++) {
            zb_cells plane = zb_state_plane(sp->state, c, layer, g);
            const float *x = (g < G ? t->k : t->v) + ((size_t)sp->start * G + g % G) * dh;
#pragma omp for schedule(static) nowait
            for (int i = 0; i < sp->n; i++)
                zb_state_put(sp->state, &plane, sp->state->len + i, x + (size_t)i * G * dh);
        }
    }
}

/* Attention of one span to kv head g. */
static zb_attend group_args(const zb_run *run, int layer, const zb_span *sp, int g, const tape *t) {
    const zb_config *c = run->config;
    int per = c->H / c->G, hq = c->H * c->dh, hk = c->G * c->dh;
    zb_attend a = {.T = sp->n,
                   .heads = per,
                   .past = zb_span_past(sp),
                   .dk = c->dh,
                   .dv = c->dh,
                   .scale = (float)(1 / sqrt((double)c->dh)),
                   .q_row = hq,
                   .q_head = c->dh,
                   .o_row = hq,
                   .o_head = c->dh};
    size_t at_q = (size_t)sp->start * hq + (size_t)g * per * c->dh,
           at_k = (size_t)sp->start * hk + (size_t)g * c->dh;
    a.q = t->q + at_q;
    a.o = t->o + at_q;
    if (sp->state) {
        a.k = zb_state_plane(sp->state, c, layer, g);
        a.v = zb_state_plane(sp->state, c, layer, c->G + g);
    } else {
        a.k = zb_cells_f32(t->k + at_k, hk, c->dh);
        a.v = zb_cells_f32(t->v + at_k, hk, c->dh);
    }
    a.lse_head = run->batch->n;
    if (t->lse) a.lse = t->lse + (size_t)g * per * run->batch->n + sp->start;
    return a;
}

/* All spans and kv heads of the batch; n receives how many. */
static zb_attend *all_groups(const zb_run *run, int layer, const tape *t, int *n) {
    int G = run->config->G;
    *n = run->batch->n_spans * G;
    zb_attend *a = zb_alloc_raw_array(run->arena, (size_t)*n, sizeof *a);
    for (int i = 0; i < *n; i++) a[i] = group_args(run, layer, &run->batch->span[i / G], i % G, t);
    return a;
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
    const zb_linear_map maps[] = {{p[WQ], p[BQ], t->q}, {p[WK], p[BK], t->k}, {p[WV], p[BV], t->v}};
    zb_linear_many(run, maps, 3, x, n);
    zb_rope_turn(run, t->q, c->H, false);
    zb_rope_turn(run, t->k, c->G, false);
    remember(run, layer, t);
    zb_mark keep = zb_arena_mark(run->arena);
    int groups;
    const zb_attend *a = all_groups(run, layer, t, &groups);
    zb_attend_forward(run->arena, run->threads, a, groups);
    zb_arena_pop(run->arena, keep);
    zb_linear(run, p[WO], p[BO], t->o, n, y);
    if (!tape_out) zb_arena_pop(run->arena, mark);
}

static void backward(zb_run *run, int layer, const float *x, const float *dy, float *dx,
                     void *tape_in) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    const tape *t = tape_in;
    int n = run->batch->n, hq = c->H * c->dh, hk = c->G * c->dh;
    zb_mark mark = zb_arena_mark(run->arena);
    float *d_o = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq),
          *dq = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq);
    float *dk = ZB_NEW_ARRAY(run->arena, float, (size_t)n *hk),
          *dv = ZB_NEW_ARRAY(run->arena, float, (size_t)n *hk);
    zb_linear_backward_to(run, p[WO], p[BO], t->o, dy, n, d_o);
    int groups;
    const zb_attend *a = all_groups(run, layer, t, &groups);
    zb_attend_grad *g = zb_alloc_raw_array(run->arena, (size_t)groups, sizeof *g);
    for (int i = 0; i < groups; i++) {
        size_t at_q = (size_t)(a[i].q - t->q), at_k = (size_t)((const float *)a[i].k.p - t->k);
        g[i] =
            (zb_attend_grad){.d_o = d_o + at_q, .dq = dq + at_q, .dk = dk + at_k, .dv = dv + at_k};
    }
    zb_attend_backward(run->arena, run->threads, a, g, groups);
    zb_rope_turn(run, dq, c->H, true);
    zb_rope_turn(run, dk, c->G, true);
    zb_linear_backward(run, p[WQ], p[BQ], x, dq, n, dx);
    zb_linear_backward(run, p[WK], p[BK], x, dk, n, dx);
    zb_linear_backward(run, p[WV], p[BV], x, dv, n, dx);
    zb_arena_pop(run->arena, mark);
}

static zb_room room(const zb_config *c, int layer, const zb_load *load) {
    (void)layer;
    size_t n = (size_t)load->n, q = zb_room_of(n * c->H * c->dh), k = zb_room_of(n * c->G * c->dh);
    zb_attend like = {.T = load->longest, .heads = c->H / c->G, .dk = c->dh, .dv = c->dh};
    int groups = load->spans * c->G;
    size_t args = (size_t)groups * sizeof like, grads = (size_t)groups * sizeof(zb_attend_grad);
    return (zb_room){.tape = (sizeof(tape) + 63) / 64 * 64 + 2 * q + 2 * k + zb_room_of(n * c->H),
                     .forward = args + zb_attend_room(&like, groups, load->threads, false),
                     .backward = 2 * q + 2 * k + args + grads +
                                 zb_attend_room(&like, groups, load->threads, true)};
}

const zb_mixer zb_mixer_attention = {"attention", params, forward, backward, room};
