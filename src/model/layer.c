/* layer.c - the decoder layer (contract in layer.h).
 *
 * Backward: with d' the gradient at x', first through the MLP,
 *   dact = dy·Wdown, (dgate, dup) by silu·mul, du = dgate·Wgate + dup·Wup, d' = dy + rmsnorm'(du),
 * then through the mixer, whose output's gradient is d' + dmix:  dx = d' + rmsnorm'(mixer'(d' +
 * dmix)). */
#include "model/layer.h"

#include "kernels/kernels.h"

#include <string.h>

struct zb_layer_tape {
    const float *x;
    float *r1, *u1, *mid, *r2, *u2, *gate,
        *up; /* factors [N], [N,D], x' [N,D], factors, [N,D], [N,F] twice */
    bool has_mlp;
    void *mixer;
};

/* [N, width], not cleared */
static float *rows(zb_run *run, int width) {
    return ZB_RAW_ARRAY(run->arena, float, (size_t)run->batch->n *(size_t)width);
}

static void activate(zb_run *run, const float *gate, const float *up, float *out) {
    const zb_kernels *kn = zb_kernels_get();
    int n = run->batch->n, F = run->config->F;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++)
        kn->silu_mul(F, gate + (size_t)i * F, up + (size_t)i * F, out + (size_t)i * F);
}

/* out = a + b over [N, D] */
static void add_rows(zb_run *run, const float *a, const float *b, float *out) {
    int n = run->batch->n, D = run->config->D;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++)
        for (int j = 0; j < D; j++)
            out[(size_t)i * D + j] = a[(size_t)i * D + j] + b[(size_t)i * D + j];
}

static void mlp_forward(zb_run *run, zb_param **p, zb_layer_tape *t, float *y) {
    const zb_config *c = run->config;
    int n = run->batch->n;
    t->r2 = ZB_RAW_ARRAY(run->arena, float, n);
    t->u2 = rows(run, c->D);
    t->gate = rows(run, c->F);
    t->up = rows(run, c->F);
    zb_norm(run, p[ZB_P_NORM2], t->mid, n, c->D, t->u2, t->r2);
    const zb_linear_map maps[] = {{p[ZB_P_GATE], p[ZB_P_GATE_B], t->gate},
                                  {p[ZB_P_UP], p[ZB_P_UP_B], t->up}};
    zb_linear_many(run, maps, 2, t->u2, n);
    zb_mark mark = zb_arena_mark(run->arena);
    float *act = rows(run, c->F), *down = rows(run, c->D);
    activate(run, t->gate, t->up, act);
    zb_linear(run, p[ZB_P_DOWN], p[ZB_P_DOWN_B], act, n, down);
    add_rows(run, t->mid, down, y);
    zb_arena_pop(run->arena, mark);
}

void zb_layer_forward(zb_run *run, int layer, const float *x, float *y, float *mix,
                      zb_layer_tape **tape) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    int n = run->batch->n;
    zb_layer_tape local = {0}, *t = tape ? ZB_NEW(run->arena, zb_layer_tape) : &local;
    if (tape) *tape = t;
    zb_mark mark = zb_arena_mark(run->arena);
    t->x = x;
    t->has_mlp = y != NULL;
    t->r1 = ZB_RAW_ARRAY(run->arena, float, n);
    t->u1 = rows(run, c->D);
    t->mid = rows(run, c->D);
    float *m = mix ? mix : rows(run, c->D);
    zb_norm(run, p[ZB_P_NORM1], x, n, c->D, t->u1, t->r1);
    zb_mixer_of(c->layer[layer].kind)->forward(run, layer, t->u1, m, tape ? &t->mixer : NULL);
    if (y) {
        add_rows(run, x, m, t->mid);
        mlp_forward(run, p, t, y);
    }
    if (!tape) zb_arena_pop(run->arena, mark);
}

void zb_layer_finish(zb_run *run, int layer, const float *x, const float *m, float *y) {
    zb_mark mark = zb_arena_mark(run->arena);
    zb_layer_tape t = {.mid = rows(run, run->config->D)};
    add_rows(run, x, m, t.mid);
    mlp_forward(run, run->params->layer[layer], &t, y);
    zb_arena_pop(run->arena, mark);
}

/* dmid = dy + gradient through norm and MLP */
static void mlp_backward(zb_run *run, zb_param **p, const zb_layer_tape *t, const float *dy,
                         float *dmid) {
    const zb_kernels *kn = zb_kernels_get();
    const zb_config *c = run->config;
    int n = run->batch->n, F = c->F;
    float *act = rows(run, F), *dact = rows(run, F), *dgate = rows(run, F), *dup = rows(run, F),
          *du = rows(run, c->D);
    activate(run, t->gate, t->up, act);
    zb_linear_backward_to(run, p[ZB_P_DOWN], p[ZB_P_DOWN_B], act, dy, n, dact);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * F;
        kn->silu_mul_backward(F, t->gate + at, t->up + at, dact + at, dgate + at, dup + at);
    }
    zb_linear_backward_to(run, p[ZB_P_GATE], p[ZB_P_GATE_B], t->u2, dgate, n, du);
    zb_linear_backward(run, p[ZB_P_UP], p[ZB_P_UP_B], t->u2, dup, n, du);
    memcpy(dmid, dy, (size_t)n * c->D * sizeof(float));
    zb_norm_backward(run, p[ZB_P_NORM2], t->mid, t->r2, du, n, c->D, dmid);
}

void zb_layer_backward(zb_run *run, int layer, const float *dy, const float *dmix, float *dx,
                       zb_layer_tape *t) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    int n = run->batch->n;
    zb_mark mark = zb_arena_mark(run->arena);
    size_t bytes = (size_t)n * c->D * sizeof(float);
    float *dmid = rows(run, c->D), *du = memset(rows(run, c->D), 0, bytes);
    if (dy) {
        ZB_ASSERT(t->has_mlp);
        zb_mark inner = zb_arena_mark(run->arena);
        mlp_backward(run, p, t, dy, dmid);
        zb_arena_pop(run->arena, inner);
    } else {
        memset(dmid, 0, bytes);
    }
    const float *dm = dmid;
    if (dmix) {
        float *sum = rows(run, c->D);
        add_rows(run, dmid, dmix, sum);
        dm = sum;
    }
    zb_mixer_of(c->layer[layer].kind)->backward(run, layer, t->u1, dm, du, t->mixer);
    if (!dx) dx = rows(run, c->D); /* the norm's weight still wants its gradient */
    memcpy(dx, dmid, bytes);
    zb_norm_backward(run, p[ZB_P_NORM1], t->x, t->r1, du, n, c->D, dx);
    zb_arena_pop(run->arena, mark);
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

zb_room zb_layer_room(const zb_config *c, int layer, const zb_load *load, bool aligned,
                      size_t *alone) {
    size_t n = (size_t)load->n, D = zb_room_of(n * c->D), F = zb_room_of(n * c->F),
           factors = zb_room_of(n), parts = zb_room_of((size_t)load->threads * c->D);
    zb_room m = zb_mixer_of(c->layer[layer].kind)->room(c, layer, load);
    size_t before = factors + (aligned ? 2 : 3) * D, mlp = factors + D + 2 * F, passing = F + D;
    zb_room r = {.tape = (sizeof(zb_layer_tape) + 63) / 64 * 64 + before + m.tape + mlp};
    /* the mixer's scratch is gone when the MLP takes its memory */
    r.forward = most(passing, m.forward > mlp ? m.forward - mlp : 0);
    size_t mixing = aligned ? D + most(m.backward, D + parts) : most(m.backward, parts);
    r.backward = 2 * D + most(4 * F + D + parts, mixing);
    *alone = before + most(m.tape + m.forward, mlp + passing);
    return r;
}
