/* gated_deltanet.c - the gated DeltaNet mixer shaped like the attention it replaces (Yang, Kautz
 * and Hatamizadeh 2024; layers of this kind stand in Qwen3-Next).
 *
 *   [q|k|v] = Wq u, Wk u, Wv u, each H·dh, then silu(conv4(·)) without a bias
 *   q, k of each head divided by √(Σ x² + 1e-6), q also by √dh
 *   g = -exp(A_log)·softplus(Wa u + dt_bias),  β = sigmoid(Wb u)          per head
 *   o = gated delta rule (delta.h)
 *   out = Wo( rmsnorm_dh(o) ∘ w ∘ silu(Wg u) )      norm first, then the gate; w [dh] for all heads
 *
 * Key and value heads of the teacher are repeated to H heads in the weights, not at run time. Two
 * variations for starts that copy more of the attention, as in mamba2.c: no silu behind the
 * convolution (conv_identity), and silu(Wg u + g_bias) (gate_bias).
 *
 * State: the last 3 inputs of the three convolutions, q, k, v, [3, H·dh] each, then S [H, dk, dv]
 * (delta.h). */
#include "kernels/kernels.h"
#include "model/conv.h"
#include "model/delta.h"
#include "model/mixer.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { WQ = ZB_P_MIXER, WK, WV, WG, WA, WB, CONVQ, CONVK, CONVV, ALOG, DTB, NORMW, WO, GBIAS };
enum { ALONE = 1 << 16 }; /* values of state below which one thread is quicker */
static const float unit_eps = 1e-6f;

typedef struct tape {
    float *in[3], *pre[3], *u[3]; /* q, k, v [N,di]: outputs of the maps, of the convolutions,
                                     behind silu, where q and k then lose their length */
    float *r[2];                  /* [N,H] factors that took it */
    float *gate;                  /* [N,di] Wg u (+ bias) */
    float *a, *b;                 /* [N,H] Wa u, Wb u */
    float *g, *beta;              /* [N,H] */
    float *o, *f;                 /* [N,di] output of the recurrence, input of Wo */
} tape;

static void params(const zb_config *c, int l, zb_param_table *t) {
    int di = c->H * c->dh;
    static const char *const maps[] = {"q", "k", "v", "g"};
    char name[64];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "linear_attn.%s_proj.weight", maps[i]);
        zb_params_add(t, l, WQ + i, ZB_ROLE_MIXER, name, di, c->D);
    }
    zb_params_add(t, l, WA, ZB_ROLE_GATE, "linear_attn.a_proj.weight", c->H, c->D);
    zb_params_add(t, l, WB, ZB_ROLE_GATE, "linear_attn.b_proj.weight", c->H, c->D);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "linear_attn.%s_conv1d.weight", maps[i]);
        zb_conv_param(t, l, CONVQ + i, name, di);
    }
    zb_params_add(t, l, ALOG, ZB_ROLE_GATE, "linear_attn.A_log", c->H, 0);
    zb_params_add(t, l, DTB, ZB_ROLE_GATE, "linear_attn.dt_bias", c->H, 0);
    zb_params_add(t, l, NORMW, ZB_ROLE_GATE, "linear_attn.o_norm.weight", c->dh, 0);
    zb_params_add(t, l, WO, ZB_ROLE_MIXER, "linear_attn.o_proj.weight", c->D, di);
    if (c->layer[l].gate_bias)
        zb_params_add(t, l, GBIAS, ZB_ROLE_GATE, "linear_attn.g_bias", di, 0);
}

static zb_conv conv_of(const zb_config *c, int layer, zb_param **p, const tape *t, int i) {
    int di = c->H * c->dh;
    return (zb_conv){.C = di,
                     .w = p[CONVQ + i],
                     .in = t->in[i],
                     .in_row = (size_t)di,
                     .tail = (size_t)i * (ZB_CONV_K - 1) * (size_t)di,
                     .identity = c->layer[layer].conv_identity};
}

/* Heads of q (i = 0) and k (1) to length 1, q also by 1/√dh. */
static void normalise(zb_run *run, const tape *t, int i) {
    const zb_kernels *kn = zb_kernels_get();
    int H = run->config->H, dh = run->config->dh, n = run->batch->n;
    float scale = i == 0 ? 1 / sqrtf((float)dh) : 1;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int j = 0; j < n * H; j++) {
        float *x = t->u[i] + (size_t)j * dh;
        t->r[i][j] = 1 / sqrtf(kn->dot(dh, x, x) + unit_eps);
        kn->scale(dh, t->r[i][j] * scale, x);
    }
}

/* Its adjoint in place: with y = scale·r·x and ŷ = r·x,  dx = scale·r (dy - ŷ (ŷ·dy)). */
static void normalise_backward(zb_run *run, const tape *t, int i, float *du) {
    const zb_kernels *kn = zb_kernels_get();
    int H = run->config->H, dh = run->config->dh, n = run->batch->n;
    float scale = i == 0 ? 1 / sqrtf((float)dh) : 1;
#pragma omp parallel for schedule(static)
    for (int j = 0; j < n * H; j++) {
        const float *y = t->u[i] + (size_t)j * dh; /* scale·ŷ */
        float *d = du + (size_t)j * dh, along = kn->dot(dh, y, d) / (scale * scale);
        kn->axpy(dh, -along, y, d);
        kn->scale(dh, scale * t->r[i][j], d);
    }
}

static float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }
static float sigmoid(float x) { return 1 / (1 + expf(-x)); }

/* g and β. */
static void open_gates(zb_run *run, zb_param **p, const tape *t) {
    const float *bias = p[DTB]->data, *a_log = p[ALOG]->data;
    int H = run->config->H;
    for (int i = 0; i < run->batch->n * H; i++) {
        t->g[i] = -expf(a_log[i % H]) * softplus(t->a[i] + bias[i % H]);
        t->beta[i] = sigmoid(t->b[i]);
    }
}

static zb_delta head_args(const zb_run *run, int layer, const zb_span *sp, int h, const tape *t) {
    const zb_config *c = run->config;
    int di = c->H * c->dh;
    size_t at = (size_t)sp->start * di + (size_t)h * c->dh,
           gate = (size_t)sp->start * c->H + (size_t)h;
    zb_delta d = {.T = sp->n, .dim = c->dh, .row = di, .g_row = c->H};
    d.q = t->u[0] + at;
    d.k = t->u[1] + at;
    d.v = t->u[2] + at;
    d.o = t->o + at;
    d.g = t->g + gate;
    d.beta = t->beta + gate;
    if (sp->state)
        d.state = zb_state_layer(sp->state, c, layer) + (size_t)3 * (ZB_CONV_K - 1) * di +
                  (size_t)h * c->dh * c->dh;
    return d;
}

static size_t scan_work(const zb_run *run) {
    int most = 0;
    for (int s = 0; s < run->batch->n_spans; s++)
        if (run->batch->span[s].n > most) most = run->batch->span[s].n;
    return zb_delta_work(most, run->config->dh);
}

/* Already for two tokens a chunk is quicker: 1.1 against 1.3 us a token at head size 64, 0.6 from
 * eight on (one token: 1.8 against 1.2). */
static bool by_steps(const zb_run *run, int tokens) {
    return run->ssd_form == ZB_SSD_STEPS || (run->ssd_form == ZB_SSD_AUTO && tokens == 1);
}

static void scan(zb_run *run, int layer, const tape *t) {
    const zb_config *c = run->config;
    zb_mark mark = zb_arena_mark(run->arena);
    size_t size = scan_work(run);
    float *work = ZB_RAW_ARRAY(run->arena, float, size *(size_t)run->threads);
    int jobs = run->batch->n_spans * c->H;
    int64_t values = (int64_t)run->batch->n * c->H * c->dh * c->dh;
#pragma omp parallel for schedule(dynamic) num_threads(run->threads) if (values > ALONE)
    for (int j = 0; j < jobs; j++) {
        const zb_span *sp = &run->batch->span[j / c->H];
        zb_delta d = head_args(run, layer, sp, j % c->H, t);
        float *w = work + size * (size_t)omp_get_thread_num();
        if (by_steps(run, sp->n))
            zb_delta_steps(&d, w);
        else
            zb_delta_chunked(&d, w);
    }
    zb_arena_pop(run->arena, mark);
}

static void norm_and_gate(zb_run *run, zb_param **p, const tape *t) {
    const zb_kernels *kn = zb_kernels_get();
    const zb_config *c = run->config;
    const float *w = p[NORMW]->data, *bias = p[GBIAS] ? p[GBIAS]->data : NULL;
    int n = run->batch->n, di = c->H * c->dh;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)i * di;
        if (bias) kn->add(di, bias, t->gate + at);
        for (int h = 0; h < c->H; h++)
            kn->rmsnorm(c->dh, t->o + at + h * c->dh, w, (float)c->eps, t->f + at + h * c->dh);
        kn->silu_mul(di, t->gate + at, t->f + at, t->f + at);
    }
}

static tape *new_tape(zb_run *run, tape *t) {
    size_t n = (size_t)run->batch->n, H = (size_t)run->config->H, di = H * (size_t)run->config->dh;
    float **wide[] = {&t->in[0], &t->in[1], &t->in[2], &t->pre[0], &t->pre[1], &t->pre[2],
                      &t->u[0],  &t->u[1],  &t->u[2],  &t->gate,   &t->o,      &t->f};
    float **narrow[] = {&t->r[0], &t->r[1], &t->a, &t->b, &t->g, &t->beta};
    for (int i = 0; i < 12; i++) *wide[i] = ZB_RAW_ARRAY(run->arena, float, n *di);
    for (int i = 0; i < 6; i++) *narrow[i] = ZB_RAW_ARRAY(run->arena, float, n *H);
    return t;
}

static void forward(zb_run *run, int layer, const float *x, float *y, void **tape_out) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    int n = run->batch->n;
    tape local = {0}, *t = tape_out ? ZB_NEW(run->arena, tape) : &local;
    if (tape_out) *tape_out = t;
    zb_mark mark = zb_arena_mark(run->arena);
    new_tape(run, t);
    const zb_linear_map wide[] = {{p[WQ], NULL, t->in[0]},
                                  {p[WK], NULL, t->in[1]},
                                  {p[WV], NULL, t->in[2]},
                                  {p[WG], NULL, t->gate}};
    const zb_linear_map narrow[] = {{p[WA], NULL, t->a}, {p[WB], NULL, t->b}};
    zb_linear_many(run, wide, 4, x, n);
    zb_linear_many(run, narrow, 2, x, n);
    for (int i = 0; i < 3; i++) {
        zb_conv conv = conv_of(c, layer, p, t, i);
        zb_conv_forward(run, layer, &conv, t->pre[i], t->u[i]);
        zb_conv_remember(run, layer, &conv);
        if (i < 2) normalise(run, t, i);
    }
    open_gates(run, p, t);
    scan(run, layer, t);
    norm_and_gate(run, p, t);
    zb_linear(run, p[WO], NULL, t->f, n, y);
    if (!tape_out) zb_arena_pop(run->arena, mark);
}

/* df -> d_o and the gate's gradient, dgate; the norm's weight. */
static void backward_gate(zb_run *run, zb_param **p, const tape *t, const float *df, float *d_o,
                          float *dgate) {
    const zb_kernels *kn = zb_kernels_get();
    const zb_config *c = run->config;
    zb_mark mark = zb_arena_mark(run->arena);
    const float *w = p[NORMW]->data;
    int di = c->H * c->dh, dh = c->dh;
    size_t floats = (size_t)(dh + 2 * di);
    float *part = zb_scratch(run, floats); /* per thread: dw [dh], normed, its gradient [di] */
#pragma omp parallel num_threads(run->threads)
    {
        float *dw = part + (size_t)omp_get_thread_num() * floats, *v = dw + dh, *dv = v + di;
#pragma omp for schedule(static)
        for (int i = 0; i < run->batch->n; i++) {
            size_t at = (size_t)i * di;
            const float *o = t->o + at;
            for (int h = 0; h < c->H; h++)
                kn->rmsnorm(dh, o + h * dh, w, (float)c->eps, v + h * dh);
            kn->silu_mul_backward(di, t->gate + at, v, df + at, dgate + at, dv);
            memset(d_o + at, 0, (size_t)di * sizeof(float));
            for (int h = 0; h < c->H; h++) {
                int k = h * dh;
                float r = 1 / sqrtf(kn->dot(dh, o + k, o + k) / (float)dh + (float)c->eps);
                kn->rmsnorm_backward(dh, o + k, w, r, dv + k, d_o + at + k, dw);
            }
        }
    }
    for (int th = 0; p[NORMW]->grad && th < run->threads; th++)
        kn->add(dh, part + (size_t)th * floats, p[NORMW]->grad);
    for (int i = 0; p[GBIAS] && p[GBIAS]->grad && i < run->batch->n; i++)
        kn->add(di, dgate + (size_t)i * di, p[GBIAS]->grad);
    zb_arena_pop(run->arena, mark);
}

/* Gradients of the recurrence's inputs. */
typedef struct slopes {
    float *u[3], *g, *beta; /* [N,di] of q, k, v; [N,H] */
} slopes;

static void backward_scan(zb_run *run, int layer, const tape *t, const float *d_o,
                          const slopes *d) {
    const zb_config *c = run->config;
    zb_mark mark = zb_arena_mark(run->arena);
    size_t size = scan_work(run);
    float *work = ZB_RAW_ARRAY(run->arena, float, size *(size_t)run->threads);
    int jobs = run->batch->n_spans * c->H;
#pragma omp parallel for schedule(dynamic) num_threads(run->threads)
    for (int j = 0; j < jobs; j++) {
        zb_delta s = head_args(run, layer, &run->batch->span[j / c->H], j % c->H, t);
        size_t at = (size_t)(s.q - t->u[0]), gate = (size_t)(s.g - t->g);
        zb_delta_grad g = {.d_o = d_o + at,
                           .dq = d->u[0] + at,
                           .dk = d->u[1] + at,
                           .dv = d->u[2] + at,
                           .dg = d->g + gate,
                           .dbeta = d->beta + gate};
        zb_delta_backward(&s, &g, work + size * (size_t)omp_get_thread_num());
    }
    zb_arena_pop(run->arena, mark);
}

/* g and β become the gradients of Wa u and Wb u; those of A_log and dt_bias. */
static void backward_gates(zb_run *run, zb_param **p, const tape *t, const slopes *d) {
    const float *bias = p[DTB]->data, *a_log = p[ALOG]->data;
    int H = run->config->H;
    for (int i = 0; i < run->batch->n * H; i++) {
        int h = i % H;
        if (p[ALOG]->grad) p[ALOG]->grad[h] += d->g[i] * t->g[i];
        d->g[i] *= -expf(a_log[h]) * sigmoid(t->a[i] + bias[h]);
        if (p[DTB]->grad) p[DTB]->grad[h] += d->g[i];
        d->beta[i] *= t->beta[i] * (1 - t->beta[i]);
    }
}

static void backward(zb_run *run, int layer, const float *x, const float *dy, float *dx,
                     void *tape_in) {
    const zb_config *c = run->config;
    zb_param **p = run->params->layer[layer];
    const tape *t = tape_in;
    int n = run->batch->n, di = c->H * c->dh;
    size_t wide = (size_t)n * (size_t)di, narrow = (size_t)n * (size_t)c->H;
    zb_mark mark = zb_arena_mark(run->arena);
    float *df = ZB_RAW_ARRAY(run->arena, float, wide), *d_o = ZB_RAW_ARRAY(run->arena, float, wide),
          *dgate = ZB_RAW_ARRAY(run->arena, float, wide);
    slopes d = {.g = ZB_RAW_ARRAY(run->arena, float, narrow),
                .beta = ZB_RAW_ARRAY(run->arena, float, narrow)};
    for (int i = 0; i < 3; i++) d.u[i] = ZB_RAW_ARRAY(run->arena, float, wide);
    zb_linear_backward_to(run, p[WO], NULL, t->f, dy, n, df);
    backward_gate(run, p, t, df, d_o, dgate);
    backward_scan(run, layer, t, d_o, &d);
    backward_gates(run, p, t, &d);
    zb_linear_backward(run, p[WG], NULL, x, dgate, n, dx);
    zb_linear_backward(run, p[WA], NULL, x, d.g, n, dx);
    zb_linear_backward(run, p[WB], NULL, x, d.beta, n, dx);
    for (int i = 0; i < 3; i++) {
        zb_conv conv = conv_of(c, layer, p, t, i);
        if (i < 2) normalise_backward(run, t, i, d.u[i]);
        zb_conv_backward(run, &conv, t->pre[i], d.u[i], df, (size_t)di); /* df is free again */
        zb_linear_backward(run, p[WQ + i], NULL, x, df, n, dx);
    }
    zb_arena_pop(run->arena, mark);
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static zb_room room(const zb_config *c, int layer, const zb_load *load) {
    (void)layer;
    size_t n = (size_t)load->n, H = (size_t)c->H, dh = (size_t)c->dh, di = H * dh,
           threads = (size_t)load->threads, wide = zb_room_of(n * di), narrow = zb_room_of(n * H),
           scanning = zb_room_of(zb_delta_work(load->longest, c->dh) * threads),
           gating = zb_room_of((dh + 2 * di) * threads);
    return (zb_room){.tape = (sizeof(tape) + 63) / 64 * 64 + 12 * wide + 6 * narrow,
                     .forward = most(scanning, zb_conv_room((int)di, load, false)),
                     .backward = 6 * wide + 2 * narrow +
                                 most(gating, most(scanning, zb_conv_room((int)di, load, true)))};
}

const zb_mixer zb_mixer_gated_deltanet = {"gated_deltanet", params, forward, backward, room};
