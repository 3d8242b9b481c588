/* narrow.c - one softmax over a whole window and narrow keys beyond it (contract in narrow.h).
 *
 * Kept are the slowest rotary pairs, because what fetches from afar matches contents, which slow
 * pairs carry; fast ones say how far away a token is. Queries and keys of these pairs are copied
 * to dense rows, on which plain causal attention works: the query at position p sees the rows
 * sinks .. p-window, so the queries of a span from position window+sinks on see one row more each
 * (attend.h, resumed from the window's sums: a window whose values are o and whose log-sum-exp is
 * lse is a piece of the keys with maximum lse and sum 1). Values that are not kept are 0 beyond the
 * window, so these parts of o shrink by the window's share of the softmax, exp(lse_window - lse).
 *
 * Backward needs no more than o and lse of the whole: each key's weight is exp(s - lse), whichever
 * piece it stands in (attend.c, window.c). */
#include "model/narrow.h"

#include "model/attend.h"

#include <math.h>
#include <string.h>

/* The first token of a span that sees anything beyond its window (its n: none does). */
static int first_query(const zb_layer_config *m, const zb_span *sp) {
    int t = m->window + m->sinks - zb_span_past(sp);
    return t < 0 ? 0 : t < sp->n ? t : sp->n;
}

/* Kept pairs of the far heads from x [N, heads·dh], as dense rows [N, far·per, far_k] with `per`
 * heads to each kv head. Pairs are i, i + dh/2: the slowest end each half. */
static float *pick(const zb_run *run, int layer, int heads, const float *x) {
    const zb_config *c = run->config;
    int dh = c->dh, per = heads / c->G, far = zb_config_far_heads(c, layer) * per;
    size_t kept = (size_t)zb_config_far_key(c, layer), p = kept / 2, f = sizeof(float);
    float *out = ZB_RAW_ARRAY(run->arena, float, (size_t)run->batch->n *far *kept);
#pragma omp parallel for schedule(static) if (run->batch->n > ZB_FEW_TOKENS)
    for (int i = 0; i < run->batch->n; i++)
        for (int k = 0; k < far; k++) {
            int h = zb_config_far_head(c, layer, k / per) * per + k % per;
            const float *from = x + ((size_t)i * heads + h) * dh;
            float *to = out + ((size_t)i * far + k) * kept;
            memcpy(to, from + (size_t)dh / 2 - p, p * f);
            memcpy(to + p, from + (size_t)dh - p, p * f);
        }
    return out;
}

/* The way back: rows like those of pick() are added to x. */
static void put_back(const zb_run *run, int layer, int heads, const float *rows, float *x) {
    const zb_config *c = run->config;
    const zb_kernels *kn = zb_kernels_get();
    int dh = c->dh, per = heads / c->G, far = zb_config_far_heads(c, layer) * per,
        kept = zb_config_far_key(c, layer), p = kept / 2;
#pragma omp parallel for schedule(static) if (run->batch->n > ZB_FEW_TOKENS)
    for (int i = 0; i < run->batch->n; i++)
        for (int k = 0; k < far; k++) {
            int h = zb_config_far_head(c, layer, k / per) * per + k % per;
            const float *from = rows + ((size_t)i * far + k) * kept;
            float *to = x + ((size_t)i * heads + h) * dh;
            kn->add(p, from, to + dh / 2 - p);
            kn->add(p, from + p, to + dh - p);
        }
}

void zb_far_remember(const zb_run *run, int layer, const float *keys, bool dense,
                     const float *values) {
    const zb_config *c = run->config;
    int far = zb_config_far_heads(c, layer), kept = zb_config_far_key(c, layer), G = c->G;
#pragma omp parallel if (run->batch->n > ZB_FEW_TOKENS)
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        for (int i = 0; sp->state && i < 2 * far; i++) {
            zb_cells plane = zb_state_plane(sp->state, c, layer, i);
            bool packed = dense && i < far;
            int place = i % far, row = packed ? far * kept : G * c->dh;
            int at = packed ? place * kept : zb_config_far_head(c, layer, place) * c->dh;
            const float *x = (i < far ? keys : values) + (size_t)sp->start * row + at;
#pragma omp for schedule(static) nowait
            for (int r = 0; r < sp->n; r++)
                zb_state_put(sp->state, &plane, sp->state->len + r, x + (size_t)r * row);
        }
    }
}

/* Queries and keys as dense rows; what each query's window has given ([N, far·per, 2]). */
typedef struct dense {
    const float *q, *k;
    float *window;
} dense;

/* Attention of the queries of one span to what lies beyond the window, for the far head at a
 * place. */
static zb_attend beyond(const zb_run *run, int layer, const zb_span *sp, int place,
                        const zb_heads *t, const dense *d) {
    const zb_config *c = run->config;
    const zb_layer_config *m = &c->layer[layer];
    int per = c->H / c->G, hq = c->H * c->dh, hk = c->G * c->dh;
    int far = zb_config_far_heads(c, layer), g = zb_config_far_head(c, layer, place);
    int kept = zb_config_far_key(c, layer), first = first_query(m, sp), at = sp->start + first;
    zb_attend a = {.T = sp->n - first,
                   .heads = per,
                   .past = zb_span_past(sp) + first - m->window - m->sinks,
                   .dk = kept,
                   .dv = zb_config_far_value(c, layer),
                   .scale = (float)(1 / sqrt((double)c->dh)),
                   .q = d->q + ((size_t)at * far + place) * per * kept,
                   .q_row = (ptrdiff_t)far * per * kept,
                   .q_head = kept,
                   .o_row = hq,
                   .o_head = c->dh};
    a.o = t->o + (size_t)at * hq + (size_t)g * per * c->dh;
    a.o_rest = c->dh - a.dv;
    a.lse = t->lse + (size_t)g * per * run->batch->n + at;
    a.lse_head = run->batch->n;
    if (sp->state) {
        a.k = zb_state_plane(sp->state, c, layer, place);
        a.v = zb_state_plane(sp->state, c, layer, far + place);
        a.k.p = (const uint8_t *)a.k.p + (size_t)m->sinks * a.k.row;
        a.v.p = (const uint8_t *)a.v.p + (size_t)m->sinks * a.v.row;
    } else {
        size_t row = (size_t)sp->start + (size_t)m->sinks;
        a.k = zb_cells_f32(d->k + (row * far + place) * kept, (ptrdiff_t)far * kept, kept);
        a.v = zb_cells_f32(t->v + row * hk + (size_t)g * c->dh, hk, a.dv);
    }
    if (!d->window) return a;
    a.resumed = a.last = true;
    a.running = d->window + ((size_t)place * run->batch->n + at) * per * 2;
    for (int i = 0; i < a.T; i++)
        for (int h = 0; h < per; h++) {
            a.running[((size_t)i * per + h) * 2] = a.lse[h * a.lse_head + i];
            a.running[((size_t)i * per + h) * 2 + 1] = 1;
        }
    return a;
}

/* All spans and far heads with anything beyond the window; n receives how many. */
static zb_attend *all_beyond(const zb_run *run, int layer, const zb_heads *t, const dense *d,
                             int *n) {
    const zb_config *c = run->config;
    int far = zb_config_far_heads(c, layer);
    zb_attend *a = zb_alloc_raw_array(run->arena, (size_t)(run->batch->n_spans * far), sizeof *a);
    *n = 0;
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        if (first_query(&c->layer[layer], sp) == sp->n) continue;
        for (int i = 0; i < far; i++) a[(*n)++] = beyond(run, layer, sp, i, t, d);
    }
    return a;
}

/* Values that only the window has take its share of the softmax. */
static void shrink_rest(const zb_attend *a) {
    const zb_kernels *kn = zb_kernels_get();
    for (int i = 0; i < a->T; i++)
        for (int h = 0; h < a->heads; h++) {
            float window = a->running[((size_t)i * a->heads + h) * 2],
                  all = a->lse[h * a->lse_head + i];
            kn->scale(a->o_rest, expf(window - all), a->o + i * a->o_row + h * a->o_head + a->dv);
        }
}

void zb_narrow_forward(zb_run *run, int layer, const zb_heads *t) {
    const zb_config *c = run->config;
    int n, far = zb_config_far_heads(c, layer), per = c->H / c->G;
    zb_mark mark = zb_arena_mark(run->arena);
    dense d = {.q = pick(run, layer, c->H, t->q), .k = pick(run, layer, c->G, t->k)};
    d.window = ZB_RAW_ARRAY(run->arena, float, (size_t)run->batch->n *far *per * 2);
    zb_far_remember(run, layer, d.k, true, t->v);
    const zb_attend *a = all_beyond(run, layer, t, &d, &n);
    if (n > 0) zb_attend_forward(run->arena, run->threads, a, n);
#pragma omp parallel for schedule(static) if (run->batch->n > ZB_FEW_TOKENS)
    for (int i = 0; i < n; i++) shrink_rest(&a[i]);
    zb_arena_pop(run->arena, mark);
}

void zb_narrow_backward(zb_run *run, int layer, const zb_heads *t, const zb_heads_grad *g) {
    const zb_config *c = run->config;
    int n, far = zb_config_far_heads(c, layer), kept = zb_config_far_key(c, layer);
    size_t keys = (size_t)run->batch->n * (size_t)far * (size_t)kept,
           queries = keys * (size_t)(c->H / c->G);
    zb_mark mark = zb_arena_mark(run->arena);
    dense d = {.q = pick(run, layer, c->H, t->q), .k = pick(run, layer, c->G, t->k)};
    float *dq = ZB_NEW_ARRAY(run->arena, float, queries),
          *dk = ZB_NEW_ARRAY(run->arena, float, keys);
    const zb_attend *a = all_beyond(run, layer, t, &d, &n);
    zb_attend_grad *grads = zb_alloc_raw_array(run->arena, (size_t)n, sizeof *grads);
    for (int i = 0; i < n; i++)
        grads[i] = (zb_attend_grad){.d_o = g->d_o + (a[i].o - t->o),
                                    .dq = dq + (a[i].q - d.q),
                                    .dk = dk + ((const float *)a[i].k.p - d.k),
                                    .dv = g->dv + ((const float *)a[i].v.p - t->v)};
    if (n > 0) zb_attend_backward(run->arena, run->threads, a, grads, n);
    put_back(run, layer, c->H, dq, g->dq);
    put_back(run, layer, c->G, dk, g->dk);
    zb_arena_pop(run->arena, mark);
}

zb_room zb_narrow_room(const zb_config *c, int layer, const zb_load *load) {
    int far = zb_config_far_heads(c, layer), groups = load->spans * far, per = c->H / c->G;
    size_t rows = (size_t)load->n * (size_t)far, kept = (size_t)zb_config_far_key(c, layer),
           k = zb_room_of(rows * kept), q = zb_room_of(rows * (size_t)per * kept);
    zb_attend like = {.T = load->longest, .heads = per, .dk = (int)kept};
    like.dv = zb_config_far_value(c, layer);
    size_t args = ((size_t)groups * sizeof like + 63) / 64 * 64,
           grads = ((size_t)groups * sizeof(zb_attend_grad) + 63) / 64 * 64;
    return (zb_room){.forward = q + k + zb_room_of(rows * (size_t)per * 2) + args +
                                zb_attend_room(&like, groups, load->threads, false),
                     .backward = 2 * (q + k) + args + grads +
                                 zb_attend_room(&like, groups, load->threads, true)};
}
