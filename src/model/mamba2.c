/* mamba2.c - the Mamba2 mixer shaped like the attention it replaces (MambaInLlama; method.md 2.2).
 *
 *   [z|x|B|C|dt] = Win u          z, C: H·dh   x, B: G·dh   dt: H
 *   [x|B|C] = silu(conv([x|B|C]) + b)     depthwise, causal, 4 taps; x and B repeated to H heads
 * before it where the checkpoint says so Δ = softplus(dt + dt_bias),  A = -exp(A_log),  y = scan
 * (model/ssd.h) per head; head h uses x and B of group h / (H/G) out = Wout( rmsnorm_dh(y ∘
 * silu(z)) ∘ w )     gate first, then the norm over each head's dh values, eps 1e-5
 *
 * Two variations for starts that copy more of the attention: no silu behind the convolution
 * (conv_identity), and z + z_bias in the gate (gate_bias), with which a gate can start open.
 *
 * State: the last 3 inputs of the convolution [3, C], oldest first, then S [H, dh, dh] (ssd.h). */
#include "kernels/kernels.h"
#include "model/conv.h"
#include "model/mixer.h"
#include "model/ssd.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { WIN = ZB_P_MIXER, CONVW, CONVB, DTB, ALOG, DSKIP, NORMW, WOUT, ZBIAS };
enum { TAPS = ZB_CONV_K, ALONE = 1 << 16 }; /* values of state below which one thread is quicker */
static const float norm_eps = 1e-5f;

typedef struct dims {
    int H, G, dh, di, dx, C,
        in; /* di = H·dh, dx = G·dh, C channels of the convolution, in rows of in_proj */
    int nx; /* channels of x (and of B) behind the convolution: dx or di */
    bool repeat, identity; /* identity: no silu behind the convolution */
} dims;

typedef struct tape {
    float *zx;        /* [N,in] output of in_proj */
    const float *xbc; /* [N,C] inputs of the convolution, rows xbc_row apart: part of zx unless x
                         and B are repeated */
    size_t xbc_row;
    float *pre;   /* [N,C] behind it, before silu */
    float *u;     /* [N,C] silu(pre) */
    float *delta; /* [N,H] */
    float *y;     /* [N,di] output of the scan */
    float *g;     /* [N,di] gated and normed: input of out_proj */
} tape;

static dims dims_of(const zb_config *c, int l) {
    dims d = {.H = c->H,
              .G = c->G,
              .dh = c->dh,
              .di = c->H * c->dh,
              .dx = c->G * c->dh,
              .repeat = c->layer[l].repeat_before_conv,
              .identity = c->layer[l].conv_identity};
    d.C = zb_mamba2_channels(c, l);
    d.in = zb_mamba2_in_rows(c, l);
    d.nx = d.repeat ? d.di : d.dx;
    return d;
}

static void params(const zb_config *c, int l, zb_param_table *t) {
    dims d = dims_of(c, l);
    zb_params_add(t, l, WIN, ZB_ROLE_MIXER, "mamba.in_proj.weight", d.in, c->D)->wide_rows = d.H;
    zb_conv_param(t, l, CONVW, "mamba.conv1d.weight", d.C);
    zb_params_add(t, l, CONVB, ZB_ROLE_GATE, "mamba.conv1d.bias", d.C, 0);
    zb_params_add(t, l, DTB, ZB_ROLE_GATE, "mamba.dt_bias", d.H, 0);
    zb_params_add(t, l, ALOG, ZB_ROLE_GATE, "mamba.A_log", d.H, 0);
    zb_params_add(t, l, DSKIP, ZB_ROLE_GATE, "mamba.D", d.H, 0);
    zb_params_add(t, l, NORMW, ZB_ROLE_GATE, "mamba.norm.weight", d.di, 0);
    zb_params_add(t, l, WOUT, ZB_ROLE_MIXER, "mamba.out_proj.weight", c->D, d.di);
    if (c->layer[l].gate_bias) zb_params_add(t, l, ZBIAS, ZB_ROLE_GATE, "mamba.z_bias", d.di, 0);
}

/* Row of in_proj's output to the convolution's input where x and B are repeated per head. */
static void gather_row(const dims *d, const float *zx, float *to) {
    const float *from = zx + d->di;
    int per = d->H / d->G;
    for (int part = 0; part < 2; part++)
        for (int h = 0; h < d->H; h++)
            memcpy(to + part * d->di + h * d->dh, from + part * d->dx + h / per * d->dh,
                   (size_t)d->dh * sizeof(float));
    memcpy(to + 2 * d->di, from + 2 * d->dx, (size_t)d->di * sizeof(float));
}

/* Adjoint of gather_row, into the [x|B|C] part of dzx. */
static void scatter_row(const dims *d, const float *dxbc, float *dzx) {
    const zb_kernels *kn = zb_kernels_get();
    float *to = dzx + d->di;
    int per = d->H / d->G;
    memset(to, 0, (size_t)(2 * d->dx) * sizeof(float));
    for (int part = 0; part < 2; part++)
        for (int h = 0; h < d->H; h++)
            kn->add(d->dh, dxbc + part * d->di + h * d->dh, to + part * d->dx + h / per * d->dh);
    memcpy(to + 2 * d->dx, dxbc + 2 * d->di, (size_t)d->di * sizeof(float));
}

static float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

static zb_conv conv_of(const dims *d, zb_param **p, const tape *t) {
    return (zb_conv){.C = d->C,
                     .w = p[CONVW],
                     .bias = p[CONVB],
                     .in = t->xbc,
                     .in_row = t->xbc_row,
                     .identity = d->identity};
}

/* Δ, and the rows of the convolution's input. */
static void split_inputs(zb_run *run, const dims *d, zb_param **p, tape *t, float *repeated) {
    const zb_kernels *kn = zb_kernels_get();
    const float *bias = p[DTB]->data, *z_bias = p[ZBIAS] ? p[ZBIAS]->data : NULL;
    int n = run->batch->n;
    t->xbc = repeated ? repeated : t->zx + d->di;
    t->xbc_row = (size_t)(repeated ? d->C : d->in);
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++) {
        float *zx = t->zx + (size_t)i * d->in;
        if (z_bias) kn->add(d->di, z_bias, zx);
        if (repeated) gather_row(d, zx, repeated + (size_t)i * d->C);
        for (int h = 0; h < d->H; h++)
            t->delta[(size_t)i * d->H + h] = softplus(zx[d->in - d->H + h] + bias[h]);
    }
}

static zb_ssd head_args(const zb_run *run, int layer, const dims *d, zb_param **p,
                        const zb_span *sp, int h, const tape *t) {
    int kv = d->repeat ? h : h / (d->H / d->G);
    size_t u = (size_t)sp->start * d->C;
    zb_ssd s = {.T = sp->n, .dim = d->dh, .u_row = d->C, .d_row = d->H, .y_row = d->di};
    s.A = -expf(((const float *)p[ALOG]->data)[h]);
    s.D = ((const float *)p[DSKIP]->data)[h];
    s.x = t->u + u + kv * d->dh;
    s.B = t->u + u + d->nx + kv * d->dh;
    s.C = t->u + u + 2 * d->nx + h * d->dh;
    s.delta = t->delta + (size_t)sp->start * d->H + h;
    s.y = t->y + (size_t)sp->start * d->di + h * d->dh;
    if (sp->state)
        s.state = zb_state_layer(sp->state, run->config, layer) + (size_t)(TAPS - 1) * d->C +
                  (size_t)h * d->dh * d->dh;
    return s;
}

static size_t scan_work(const zb_run *run, const dims *d) {
    int most = 0;
    for (int s = 0; s < run->batch->n_spans; s++)
        if (run->batch->span[s].n > most) most = run->batch->span[s].n;
    return zb_ssd_work(most, d->dh);
}

/* By steps unless the chunked form is asked for: with the state of 32 tokens' steps in registers
 * it needs 3 d² multiply-adds per token against 2 d² + Q d of the chunked form, but in one stream
 * without exponentials of Q x Q, transposes or partial products. Measured on AVX2 at head size 32,
 * 64 and 128 it takes 0.38, 0.55 and 0.73 of the time (Q = 32). */
static void scan(zb_run *run, int layer, const dims *d, zb_param **p, const tape *t) {
    zb_mark mark = zb_arena_mark(run->arena);
    size_t size = scan_work(run, d);
    float *work = ZB_RAW_ARRAY(run->arena, float, size *(size_t)run->threads);
    int jobs = run->batch->n_spans * d->H;
    int64_t values = (int64_t)run->batch->n * d->H * d->dh * d->dh;
#pragma omp parallel for schedule(dynamic) num_threads(run->threads) if (values > ALONE)
    for (int j = 0; j < jobs; j++) {
        const zb_span *sp = &run->batch->span[j / d->H];
        zb_ssd s = head_args(run, layer, d, p, sp, j % d->H, t);
        float *w = work + size * (size_t)omp_get_thread_num();
        if (run->ssd_form == ZB_SSD_CHUNKED)
            zb_ssd_chunked(&s, w);
        else
            zb_ssd_steps(&s, w);
    }
    zb_arena_pop(run->arena, mark);
}

static void gate_and_norm(zb_run *run, const dims *d, zb_param **p, const tape *t) {
    const zb_kernels *kn = zb_kernels_get();
    const float *w = p[NORMW]->data;
    int n = run->batch->n;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++) {
        const float *z = t->zx + (size_t)i * d->in;
        float *y = t->y + (size_t)i * d->di, *g = t->g + (size_t)i * d->di;
        kn->silu_mul(d->di, z, y, g);
        for (int h = 0; h < d->H; h++)
            kn->rmsnorm(d->dh, g + h * d->dh, w + h * d->dh, norm_eps, g + h * d->dh);
    }
}

static void forward(zb_run *run, int layer, const float *x, float *y, void **tape_out) {
    zb_param **p = run->params->layer[layer];
    dims d = dims_of(run->config, layer);
    size_t n = (size_t)run->batch->n;
    tape local, *t = tape_out ? ZB_NEW(run->arena, tape) : &local;
    if (tape_out) *tape_out = t;
    zb_mark mark = zb_arena_mark(run->arena);
    t->zx = ZB_RAW_ARRAY(run->arena, float, n *d.in);
    float *repeated = d.repeat ? ZB_RAW_ARRAY(run->arena, float, n *d.C) : NULL;
    t->pre = ZB_RAW_ARRAY(run->arena, float, n *d.C);
    t->u = ZB_RAW_ARRAY(run->arena, float, n *d.C);
    t->delta = ZB_RAW_ARRAY(run->arena, float, n *d.H);
    t->y = ZB_RAW_ARRAY(run->arena, float, n *d.di);
    t->g = ZB_RAW_ARRAY(run->arena, float, n *d.di);
    zb_linear(run, p[WIN], NULL, x, (int)n, t->zx);
    split_inputs(run, &d, p, t, repeated);
    zb_conv conv = conv_of(&d, p, t);
    zb_conv_forward(run, layer, &conv, t->pre, t->u);
    scan(run, layer, &d, p, t);
    zb_conv_remember(run, layer, &conv);
    gate_and_norm(run, &d, p, t);
    zb_linear(run, p[WOUT], NULL, t->g, (int)n, y);
    if (!tape_out) zb_arena_pop(run->arena, mark);
}

/* dg -> dy of the scan, z part of dzx, gradient of the norm's weight. */
static void backward_gate(zb_run *run, const dims *d, zb_param **p, const tape *t, const float *dg,
                          float *dy, float *dzx) {
    const zb_kernels *kn = zb_kernels_get();
    zb_mark mark = zb_arena_mark(run->arena);
    const float *w = p[NORMW]->data;
    float *part = zb_scratch(run, (size_t)3 * d->di); /* per thread: dw, v, dv */
#pragma omp parallel num_threads(run->threads)
    {
        float *dw = part + (size_t)omp_get_thread_num() * 3 * d->di, *v = dw + d->di,
              *dv = v + d->di;
#pragma omp for schedule(static)
        for (int i = 0; i < run->batch->n; i++) {
            const float *z = t->zx + (size_t)i * d->in, *y = t->y + (size_t)i * d->di;
            kn->silu_mul(d->di, z, y, v);
            memset(dv, 0, (size_t)d->di * sizeof(float));
            for (int h = 0; h < d->H; h++) {
                int at = h * d->dh;
                float r = 1 / sqrtf(kn->dot(d->dh, v + at, v + at) / (float)d->dh + norm_eps);
                kn->rmsnorm_backward(d->dh, v + at, w + at, r, dg + (size_t)i * d->di + at, dv + at,
                                     dw + at);
            }
            kn->silu_mul_backward(d->di, z, y, dv, dzx + (size_t)i * d->in, dy + (size_t)i * d->di);
        }
    }
    for (int th = 0; p[NORMW]->grad && th < run->threads; th++)
        kn->add(d->di, part + (size_t)th * 3 * d->di, p[NORMW]->grad);
    zb_arena_pop(run->arena, mark);
}

/* Through the scan: du [N,C], ddelta [N,H], gradients of A_log and D. */
static void backward_scan(zb_run *run, int layer, const dims *d, zb_param **p, const tape *t,
                          const float *dy, float *du, float *ddelta) {
    zb_mark mark = zb_arena_mark(run->arena);
    size_t size = scan_work(run, d);
    float *work = ZB_RAW_ARRAY(run->arena, float, size *(size_t)run->threads);
    int per = d->H / d->G, jobs = run->batch->n_spans * d->G; /* heads of a group share x and B */
    double *sums = ZB_NEW_ARRAY(run->arena, double, (size_t)run->batch->n_spans * d->H * 2);
#pragma omp parallel for schedule(dynamic) num_threads(run->threads)
    for (int j = 0; j < jobs; j++)
        for (int h = j % d->G * per; h < (j % d->G + 1) * per; h++) {
            const zb_span *sp = &run->batch->span[j / d->G];
            zb_ssd s = head_args(run, layer, d, p, sp, h, t);
            s.bf16 = zb_run_rounds(run, true);
            zb_ssd_grad g = {.dy = dy + (s.y - t->y),
                             .dx = du + (s.x - t->u),
                             .dB = du + (s.B - t->u),
                             .dC = du + (s.C - t->u),
                             .ddelta = ddelta + (s.delta - t->delta)};
            zb_ssd_backward(&s, &g, work + size * (size_t)omp_get_thread_num());
            sums[((size_t)(j / d->G) * d->H + h) * 2] =
                g.dA * (double)s.A; /* A = -exp(A_log): dA/dA_log = A */
            sums[((size_t)(j / d->G) * d->H + h) * 2 + 1] = g.dD;
        }
    for (int s = 0; s < run->batch->n_spans; s++)
        for (int h = 0; h < d->H; h++) {
            const double *v = sums + ((size_t)s * d->H + h) * 2;
            if (p[ALOG]->grad) p[ALOG]->grad[h] += (float)v[0];
            if (p[DSKIP]->grad) p[DSKIP]->grad[h] += (float)v[1];
        }
    zb_arena_pop(run->arena, mark);
}

/* dt part of dzx and gradient of dt_bias: softplus' = sigmoid. */
static void backward_delta(zb_run *run, const dims *d, zb_param **p, const tape *t,
                           const float *ddelta, float *dzx) {
    const float *bias = p[DTB]->data;
    for (int i = 0; i < run->batch->n; i++)
        for (int h = 0; h < d->H; h++) {
            size_t at = (size_t)i * d->in + (size_t)(d->in - d->H + h);
            dzx[at] = ddelta[(size_t)i * d->H + h] / (1 + expf(-(t->zx[at] + bias[h])));
            if (p[DTB]->grad) p[DTB]->grad[h] += dzx[at];
        }
}

static void backward(zb_run *run, int layer, const float *x, const float *dy, float *dx,
                     void *tape_in) {
    const zb_kernels *kn = zb_kernels_get();
    zb_param **p = run->params->layer[layer];
    const tape *t = tape_in;
    dims d = dims_of(run->config, layer);
    size_t n = (size_t)run->batch->n;
    zb_mark mark = zb_arena_mark(run->arena);
    float *dg = ZB_RAW_ARRAY(run->arena, float, n *d.di),
          *dscan = ZB_RAW_ARRAY(run->arena, float, n *d.di);
    float *dzx = ZB_RAW_ARRAY(run->arena, float, n *d.in),
          *ddelta = ZB_NEW_ARRAY(run->arena, float, n *d.H);
    float *du = ZB_NEW_ARRAY(run->arena, float, n *d.C);
    float *dxbc = d.repeat ? ZB_RAW_ARRAY(run->arena, float, n *d.C) : dzx + d.di;
    zb_linear_backward_to(run, p[WOUT], NULL, t->g, dy, (int)n, dg);
    backward_gate(run, &d, p, t, dg, dscan, dzx);
    backward_scan(run, layer, &d, p, t, dscan, du, ddelta);
    backward_delta(run, &d, p, t, ddelta, dzx);
    zb_conv conv = conv_of(&d, p, t);
    zb_conv_backward(run, &conv, t->pre, du, dxbc, (size_t)(d.repeat ? d.C : d.in));
#pragma omp parallel for schedule(static) if (d.repeat)
    for (int i = 0; i < (d.repeat ? (int)n : 0); i++)
        scatter_row(&d, dxbc + (size_t)i * d.C, dzx + (size_t)i * d.in);
    for (size_t i = 0; p[ZBIAS] && p[ZBIAS]->grad && i < n; i++)
        kn->add(d.di, dzx + i * (size_t)d.in, p[ZBIAS]->grad);
    zb_linear_backward(run, p[WIN], NULL, x, dzx, (int)n, dx);
    zb_arena_pop(run->arena, mark);
}

static zb_room room(const zb_config *c, int layer, const zb_load *load) {
    dims d = dims_of(c, layer);
    size_t n = (size_t)load->n, threads = (size_t)load->threads, in = zb_room_of(n * d.in),
           channels = zb_room_of(n * d.C), delta = zb_room_of(n * d.H),
           inner = zb_room_of(n * d.di);
    size_t copies = d.repeat ? channels : 0, conv = zb_conv_room(d.C, load, false);
    size_t scanning = zb_room_of(zb_ssd_work(load->longest, d.dh) * threads),
           back_scan = scanning + zb_room_of((size_t)load->spans * d.H * 4),
           back_conv = zb_conv_room(d.C, load, true),
           most = back_scan > back_conv ? back_scan : back_conv;
    return (zb_room){.tape = (sizeof(tape) + 63) / 64 * 64 + in + 2 * channels + copies + delta +
                             2 * inner,
                     .forward = scanning > conv ? scanning : conv,
                     .backward = 2 * inner + in + delta + channels + copies + most};
}

const zb_mixer zb_mixer_mamba2 = {"mamba2", params, forward, backward, room};
