/* attention.c - grouped-query attention kept from the base model, to all tokens or to a window.
 *
 *   q = Wq x + bq [H·dh],  k = Wk x + bk [G·dh],  v = Wv x + bv [G·dh],  q and k rotated in the
 * half layout (pairs i, i + dh/2), head h attends with key/value head h / (H/G), scale dh^-1/2;  y
 * = Wo concat_h(o) (+ bo). (Touvron et al. 2023; method.md 1.) State: planes of the
 * rotated keys of each kv head, then of the values of each.
 *
 * A layer with a window (kind sliding_window) has the same parameters and computes the same, but in
 * its near heads a token sees the last `window` and the first `sinks` tokens alone (window.h).
 * Their state is rings instead of planes, of a size that the context does not change. Rows that
 * came before the batch are read back from the rings, new ones are rounded as the rings will hold
 * them, so that a token sees the same keys however the document is cut. A single new token attends
 * to the rings themselves, which then hold what it sees and nothing else. Far heads, the retrieval
 * heads of the config, see all tokens as in plain attention and have planes (Xiao et al. 2024,
 * DuoAttention: few heads of a model ever look far back). Heads here are kv heads with the query
 * heads that share them.
 *
 * Where less than all of a far head's keys and values is kept, it has a window like the near ones,
 * and narrow.c adds what lies beyond. */
#include "model/attend.h"
#include "model/mixer.h"
#include "model/narrow.h"
#include "model/rope.h"
#include "model/window.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { WQ = ZB_P_MIXER, WK, WV, WO, BQ, BK, BV, BO };

typedef zb_heads tape;

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

/* Attention of one span to the far head at a place among them. */
static zb_attend group_args(const zb_run *run, int layer, const zb_span *sp, int place,
                            const tape *t) {
    const zb_config *c = run->config;
    int per = c->H / c->G, hq = c->H * c->dh, hk = c->G * c->dh;
    int g = zb_config_far_head(c, layer, place), far = zb_config_far_heads(c, layer);
    zb_attend a = {.T = sp->n,
                   .heads = per,
                   .past = zb_span_past(sp),
                   .dk = c->dh,
                   .dv = c->dh,
                   .scale = (float)(1 / sqrt((double)c->dh)),
                   .q_row = hq,
                   .q_head = c->dh,
                   .o_row = hq,
                   .o_head = c->dh,
                   .bf16 = zb_run_rounds(run, t->training)};
    size_t at_q = (size_t)sp->start * hq + (size_t)g * per * c->dh,
           at_k = (size_t)sp->start * hk + (size_t)g * c->dh;
    a.q = t->q + at_q;
    a.o = t->o + at_q;
    if (sp->state) {
        a.k = zb_state_plane(sp->state, c, layer, place);
        a.v = zb_state_plane(sp->state, c, layer, far + place);
    } else {
        a.k = zb_cells_f32(t->k + at_k, hk, a.dk);
        a.v = zb_cells_f32(t->v + at_k, hk, a.dv);
    }
    a.lse_head = run->batch->n;
    if (t->lse) a.lse = t->lse + (size_t)g * per * run->batch->n + sp->start;
    return a;
}

/* All spans and far heads of the batch; n receives how many. */
static zb_attend *all_groups(const zb_run *run, int layer, const tape *t, int *n) {
    int far = zb_config_far_heads(run->config, layer);
    *n = run->batch->n_spans * far;
    zb_attend *a = zb_alloc_raw_array(run->arena, (size_t)*n, sizeof *a);
    for (int i = 0; i < *n; i++)
        a[i] = group_args(run, layer, &run->batch->span[i / far], i % far, t);
    return a;
}

static void attend_all(zb_run *run, int layer, const tape *t) {
    int n;
    if (!zb_config_far_heads(run->config, layer)) return;
    if (zb_config_narrow(run->config, layer)) {
        zb_narrow_forward(run, layer, t);
        return;
    }
    zb_far_remember(run, layer, t->k, false, t->v);
    zb_mark mark = zb_arena_mark(run->arena);
    const zb_attend *a = all_groups(run, layer, t, &n);
    zb_attend_forward(run->arena, run->threads, a, n);
    zb_arena_pop(run->arena, mark);
}

/* ---- with a window ---- */

/* Rows that a span with a state attends to, of one kv head: the sinks, then the window. */
typedef struct rows {
    int sinks, first, n; /* positions 0..sinks-1 (none if first is 0), then first..first+n-1 */
} rows;

static rows rows_of(const zb_layer_config *m, const zb_span *sp) {
    int past = zb_span_past(sp), end = past + sp->n;
    rows r = {.first = past >= m->window ? past - m->window + 1 : 0};
    r.sinks = r.first == 0 ? 0 : m->sinks < end ? m->sinks : end;
    r.n = end - r.first;
    return r;
}

/* One ring of a span and the span's new rows for it [n, G·dh]; room for one packed row. */
typedef struct source {
    const zb_span *span;
    zb_cells ring;
    const float *x;
    uint8_t *packed;
} source;

/* The row of a position as f32: read back from the ring, or a new one rounded as the ring does. */
static void read_row(const zb_config *c, int layer, const source *from, int position, float *out) {
    int past = zb_span_past(from->span);
    zb_cells one = from->ring;
    if (position < past) {
        zb_cells_read(&one, zb_state_ring_row(c, layer, position), 1, out, c->dh);
        return;
    }
    const float *x = from->x + (size_t)(position - past) * (size_t)c->G * (size_t)c->dh;
    zb_cells_write(one.type, c->dh, x, from->packed);
    one.p = from->packed;
    zb_cells_read(&one, 0, 1, out, c->dh);
}

/* New rows into the ring: those that stay, which are the sinks and the last of the window. */
static void fill_ring(const zb_config *c, int layer, const source *from) {
    const zb_layer_config *m = &c->layer[layer];
    const zb_span *sp = from->span;
    int past = zb_span_past(sp), row = c->G * c->dh;
    for (int i = 0; i < sp->n; i++)
        if (past + i < m->sinks || i >= sp->n - m->window)
            zb_state_put(sp->state, &from->ring, zb_state_ring_row(c, layer, past + i),
                         from->x + (size_t)i * row);
}

/* Gathers the rows of a ring of a span with a state to [rows.sinks + rows.n, dh], and leaves the
 * new ones in the ring. */
static void gather(const zb_run *run, int layer, const zb_span *sp, int ring, const tape *t,
                   uint8_t *packed, float *out) {
    const zb_config *c = run->config;
    rows r = rows_of(&c->layer[layer], sp);
    source from = {.span = sp, .ring = zb_state_ring(sp->state, c, layer, ring), .packed = packed};
    int windows = zb_config_ring_heads(c, layer), g = zb_config_ring_head(c, layer, ring % windows);
    from.x = (ring < windows ? t->k : t->v) + ((size_t)sp->start * c->G + g) * c->dh;
    for (int i = 0; i < r.sinks + r.n; i++)
        read_row(c, layer, &from, i < r.sinks ? i : r.first + i - r.sinks, out + (size_t)i * c->dh);
    fill_ring(c, layer, &from);
}

/* Window of one span and the head with a window at a place among them. `own` holds what gather()
 * gives for the span's rings, NULL in a fresh span, whose rows stand in the tape. */
static zb_window window_args(const zb_run *run, int layer, const zb_span *sp, int place,
                             const tape *t, float *const *own) {
    const zb_config *c = run->config;
    const zb_layer_config *m = &c->layer[layer];
    int per = c->H / c->G, hq = c->H * c->dh, hk = c->G * c->dh;
    int g = zb_config_ring_head(c, layer, place), windows = zb_config_ring_heads(c, layer);
    zb_window a = {.T = sp->n,
                   .heads = per,
                   .dh = c->dh,
                   .window = m->window,
                   .sinks = m->sinks,
                   .past = zb_span_past(sp),
                   .scale = (float)(1 / sqrt((double)c->dh)),
                   .q_row = hq,
                   .lse_head = run->batch->n,
                   .bf16 = zb_run_rounds(run, t->training)};
    size_t at_q = (size_t)sp->start * hq + (size_t)g * per * c->dh,
           at_k = (size_t)sp->start * hk + (size_t)g * c->dh;
    a.q = t->q + at_q;
    a.o = t->o + at_q;
    if (t->lse) a.lse = t->lse + (size_t)g * per * run->batch->n + sp->start;
    a.k = a.sink_k = t->k + at_k;
    a.v = a.sink_v = t->v + at_k;
    a.kv_row = hk;
    if (!sp->state) return a;
    rows r = rows_of(m, sp);
    a.first = r.first;
    a.kv_row = c->dh;
    a.sink_k = own[place];
    a.sink_v = own[windows + place];
    a.k = a.sink_k + (size_t)r.sinks * c->dh;
    a.v = a.sink_v + (size_t)r.sinks * c->dh;
    return a;
}

/* One token of a sequence: it attends to the rings. */
static bool is_step(const zb_span *sp) { return sp->state && sp->n == 1; }

/* All other spans and heads with windows; the states' rows are gathered first. */
static zb_window *all_windows(zb_run *run, int layer, const tape *t, int *n) {
    const zb_config *c = run->config;
    int windows = zb_config_ring_heads(c, layer), rings = run->batch->n_spans * 2 * windows;
    zb_window *a =
        zb_alloc_raw_array(run->arena, (size_t)(run->batch->n_spans * windows), sizeof *a);
    float **own = ZB_NEW_ARRAY(run->arena, float *, rings);
    for (int i = 0; i < rings; i++) {
        const zb_span *sp = &run->batch->span[i / (2 * windows)];
        rows r = rows_of(&c->layer[layer], sp);
        if (sp->state && !is_step(sp))
            own[i] = ZB_RAW_ARRAY(run->arena, float, (size_t)(r.sinks + r.n) * (size_t)c->dh);
    }
    size_t row = (zb_cells_row(c->cache, c->dh) + 63) / 64 * 64;
    uint8_t *packed = zb_alloc_raw(run->arena, row * (size_t)run->threads);
#pragma omp parallel for schedule(static)                                                          \
    num_threads(run->threads) if (run->batch->n > ZB_FEW_TOKENS)
    for (int i = 0; i < rings; i++)
        if (own[i])
            gather(run, layer, &run->batch->span[i / (2 * windows)], i % (2 * windows), t,
                   packed + row * (size_t)omp_get_thread_num(), own[i]);
    *n = 0;
    for (int i = 0; i < run->batch->n_spans * windows; i++)
        if (!is_step(&run->batch->span[i / windows]))
            a[(*n)++] = window_args(run, layer, &run->batch->span[i / windows], i % windows, t,
                                    own + (size_t)(i / windows) * 2 * windows);
    return a;
}

/* A step's token into both rings of the head at a place, and its attention to them: the sinks and
 * the last `window` tokens, itself among them, in whatever order they stand. */
static zb_attend step_args(const zb_run *run, int layer, const zb_span *sp, int place,
                           const tape *t) {
    const zb_config *c = run->config;
    const zb_layer_config *m = &c->layer[layer];
    int per = c->H / c->G, hq = c->H * c->dh, past = zb_span_past(sp), most = m->window + m->sinks;
    int g = zb_config_ring_head(c, layer, place), windows = zb_config_ring_heads(c, layer);
    size_t at_q = (size_t)sp->start * hq + (size_t)g * per * c->dh,
           at_k = ((size_t)sp->start * c->G + g) * c->dh;
    zb_attend a = {.T = 1,
                   .heads = per,
                   .past = past < most ? past : most - 1,
                   .dk = c->dh,
                   .dv = c->dh,
                   .scale = (float)(1 / sqrt((double)c->dh)),
                   .q = t->q + at_q,
                   .q_row = hq,
                   .q_head = c->dh,
                   .o = t->o + at_q,
                   .o_row = hq,
                   .o_head = c->dh,
                   .lse_head = run->batch->n};
    if (t->lse) a.lse = t->lse + (size_t)g * per * run->batch->n + sp->start;
    a.k = zb_state_ring(sp->state, c, layer, place);
    a.v = zb_state_ring(sp->state, c, layer, windows + place);
    zb_state_put(sp->state, &a.k, zb_state_ring_row(c, layer, past), t->k + at_k);
    zb_state_put(sp->state, &a.v, zb_state_ring_row(c, layer, past), t->v + at_k);
    return a;
}

static void attend_rings(zb_run *run, int layer, const tape *t) {
    int windows = zb_config_ring_heads(run->config, layer), n = 0;
    zb_attend *a =
        zb_alloc_raw_array(run->arena, (size_t)(run->batch->n_spans * windows), sizeof *a);
    for (int s = 0; s < run->batch->n_spans; s++)
        for (int i = 0; is_step(&run->batch->span[s]) && i < windows; i++)
            a[n++] = step_args(run, layer, &run->batch->span[s], i, t);
    if (n > 0) zb_attend_forward(run->arena, run->threads, a, n);
}

static void attend_windows(zb_run *run, int layer, const tape *t) {
    int n;
    if (!zb_config_ring_heads(run->config, layer)) return;
    zb_mark mark = zb_arena_mark(run->arena);
    const zb_window *a = all_windows(run, layer, t, &n);
    if (n > 0) zb_window_forward(run->arena, run->threads, a, n);
    zb_arena_pop(run->arena, mark);
    attend_rings(run, layer, t);
    zb_arena_pop(run->arena, mark);
}

/* ---- both ---- */

static void forward(zb_run *run, int layer, const float *x, float *y, void **tape_out) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    int n = run->batch->n, hq = c->H * c->dh, hk = c->G * c->dh;
    tape local, *t = tape_out ? ZB_NEW(run->arena, tape) : &local;
    if (tape_out) *tape_out = t;
    t->training = tape_out != NULL;
    zb_mark mark = zb_arena_mark(run->arena);
    t->q = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq);
    t->k = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hk);
    t->v = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hk);
    t->o = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq);
    bool lse = tape_out || zb_config_narrow(c, layer);
    t->lse = lse ? ZB_RAW_ARRAY(run->arena, float, (size_t)n * c->H) : NULL;
    const zb_linear_map maps[] = {{p[WQ], p[BQ], t->q}, {p[WK], p[BK], t->k}, {p[WV], p[BV], t->v}};
    zb_linear_many(run, maps, 3, x, n);
    zb_rope_turn(run, t->q, c->H, false);
    zb_rope_turn(run, t->k, c->G, false);
    attend_windows(run, layer, t);
    attend_all(run, layer, t);
    zb_linear(run, p[WO], p[BO], t->o, n, y);
    if (!tape_out) zb_arena_pop(run->arena, mark);
}

/* Gradients of q, k and v (rotated), from that of o. */
typedef zb_heads_grad slopes;

static void backward_all(zb_run *run, int layer, const tape *t, const slopes *d) {
    int n;
    if (!zb_config_far_heads(run->config, layer)) return;
    if (zb_config_narrow(run->config, layer)) {
        zb_narrow_backward(run, layer, t, d);
        return;
    }
    zb_mark mark = zb_arena_mark(run->arena);
    const zb_attend *a = all_groups(run, layer, t, &n);
    zb_attend_grad *g = zb_alloc_raw_array(run->arena, (size_t)n, sizeof *g);
    for (int i = 0; i < n; i++) {
        size_t at_q = (size_t)(a[i].q - t->q), at_k = (size_t)((const float *)a[i].k.p - t->k);
        g[i] = (zb_attend_grad){d->d_o + at_q, d->dq + at_q, d->dk + at_k, d->dv + at_k};
    }
    zb_attend_backward(run->arena, run->threads, a, g, n);
    zb_arena_pop(run->arena, mark);
}

static void backward_windows(zb_run *run, int layer, const tape *t, const slopes *d) {
    int n;
    if (!zb_config_ring_heads(run->config, layer)) return;
    zb_mark mark = zb_arena_mark(run->arena);
    const zb_window *a = all_windows(run, layer, t, &n);
    zb_window_grad *g = zb_alloc_raw_array(run->arena, (size_t)n, sizeof *g);
    for (int i = 0; i < n; i++) {
        size_t at_q = (size_t)(a[i].q - t->q), at_k = (size_t)(a[i].k - t->k);
        g[i] = (zb_window_grad){d->d_o + at_q, d->dq + at_q, d->dk + at_k, d->dv + at_k};
    }
    zb_window_backward(run->arena, run->threads, a, g, n);
    zb_arena_pop(run->arena, mark);
}

static void backward(zb_run *run, int layer, const float *x, const float *dy, float *dx,
                     void *tape_in) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    const tape *t = tape_in;
    int n = run->batch->n, hq = c->H * c->dh, hk = c->G * c->dh;
    zb_mark mark = zb_arena_mark(run->arena);
    slopes d = {.d_o = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq),
                .dq = ZB_RAW_ARRAY(run->arena, float, (size_t)n *hq),
                .dk = ZB_NEW_ARRAY(run->arena, float, (size_t)n *hk),
                .dv = ZB_NEW_ARRAY(run->arena, float, (size_t)n *hk)};
    zb_linear_backward_to(run, p[WO], p[BO], t->o, dy, n, d.d_o);
    backward_windows(run, layer, t, &d);
    backward_all(run, layer, t, &d);
    zb_rope_turn(run, d.dq, c->H, true);
    zb_rope_turn(run, d.dk, c->G, true);
    zb_linear_backward(run, p[WQ], p[BQ], x, d.dq, n, dx);
    zb_linear_backward(run, p[WK], p[BK], x, d.dk, n, dx);
    zb_linear_backward(run, p[WV], p[BV], x, d.dv, n, dx);
    zb_arena_pop(run->arena, mark);
}

/* What the far heads take beyond the tape, and the near heads: of each the arguments and the most
 * that its kernel takes. */
static zb_room far_room(const zb_config *c, int layer, const zb_load *load) {
    int groups = load->spans * zb_config_far_heads(c, layer);
    if (!groups) return (zb_room){0};
    if (zb_config_narrow(c, layer)) return zb_narrow_room(c, layer, load);
    zb_attend like = {.T = load->longest, .heads = c->H / c->G, .dk = c->dh, .dv = c->dh};
    like.bf16 = load->bf16;
    size_t args = (size_t)groups * sizeof like, grads = (size_t)groups * sizeof(zb_attend_grad);
    return (zb_room){.forward = args + zb_attend_room(&like, groups, load->threads, false),
                     .backward = args + grads + zb_attend_room(&like, groups, load->threads, true)};
}

static zb_room near_room(const zb_config *c, int layer, const zb_load *load) {
    const zb_layer_config *m = &c->layer[layer];
    int groups = load->spans * zb_config_ring_heads(c, layer);
    if (!groups) return (zb_room){0};
    zb_window like = {.T = load->longest, .heads = c->H / c->G, .dh = c->dh, .window = m->window};
    like.sinks = m->sinks;
    like.bf16 = load->bf16;
    size_t args = (size_t)groups * (sizeof like + 2 * sizeof(float *)) +
                  (zb_cells_row(c->cache, c->dh) + 63) / 64 * 64 * (size_t)load->threads,
           grads = (size_t)groups * sizeof(zb_window_grad);
    return (zb_room){.forward = args + zb_window_room(&like, groups, load->threads, false),
                     .backward = args + grads + zb_window_room(&like, groups, load->threads, true)};
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static zb_room room(const zb_config *c, int layer, const zb_load *load) {
    size_t n = (size_t)load->n, q = zb_room_of(n * c->H * c->dh), k = zb_room_of(n * c->G * c->dh);
    zb_room far = far_room(c, layer, load), ring = near_room(c, layer, load);
    return (zb_room){.tape = (sizeof(tape) + 63) / 64 * 64 + 2 * q + 2 * k + zb_room_of(n * c->H),
                     .forward = most(far.forward, ring.forward),
                     .backward = 2 * q + 2 * k + most(far.backward, ring.backward)};
}

const zb_mixer zb_mixer_attention = {"attention", params, forward, backward, room};
const zb_mixer zb_mixer_sliding_window = {"sliding_window", params, forward, backward, room};
