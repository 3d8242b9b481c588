/* conv.c - depthwise causal convolution (contract in conv.h).
 *
 * Backward: dpre = du ∘ silu'(pre),  din_t = Σ_j w_j dpre_{t+j},  dw_j = Σ_t dpre_t in_{t-j},
 * db = Σ_t dpre_t; sums over tokens per thread, joined in the order of the threads. */
#include "model/conv.h"

#include "kernels/kernels.h"

#include <omp.h>
#include <string.h>

enum { TAPS = ZB_CONV_K };

zb_param *zb_conv_param(zb_param_table *t, int layer, int slot, const char *name, int C) {
    zb_param *p = zb_params_add(t, layer, slot, ZB_ROLE_GATE, name, C, TAPS);
    p->n_dims = 3; /* stored [C,1,4] */
    p->shape[1] = 1;
    p->shape[2] = TAPS;
    return p;
}

/* Taps as rows [4, C], tap j looking j tokens back. */
static float *taps_of(zb_run *run, const zb_conv *v) {
    float *t = ZB_NEW_ARRAY(run->arena, float, (size_t)TAPS * v->C);
    const float *w = v->w->data;
    for (int c = 0; c < v->C; c++)
        for (int j = 0; j < TAPS; j++) t[j * v->C + c] = w[c * TAPS + TAPS - 1 - j];
    return t;
}

/* Input j tokens before token i of a span: from the span itself, its state's tail, or zeros before
 * the document. `first` is the span's first input. */
static const float *look_back(const zb_conv *v, const float *first, const float *tail,
                              const float *zeros, int i, int j) {
    if (i >= j) return first + (size_t)(i - j) * v->in_row;
    return tail ? tail + (size_t)(TAPS - 1 + i - j) * v->C : zeros;
}

/* Span of each token of the batch. */
static const zb_span **spans_of(zb_run *run) {
    const zb_batch *b = run->batch;
    const zb_span **of = zb_alloc_array(run->arena, (size_t)b->n, sizeof *of);
    for (int s = 0; s < b->n_spans; s++)
        for (int i = 0; i < b->span[s].n; i++) of[b->span[s].start + i] = &b->span[s];
    return of;
}

static float *tail_of(const zb_run *run, int layer, const zb_conv *v, const zb_span *sp) {
    return sp->state ? zb_state_layer(sp->state, run->config, layer) + v->tail : NULL;
}

void zb_conv_forward(zb_run *run, int layer, const zb_conv *v, float *pre_out, float *u_out) {
    const zb_kernels *kn = zb_kernels_get();
    zb_mark mark = zb_arena_mark(run->arena);
    const float *w = taps_of(run, v), *zeros = ZB_NEW_ARRAY(run->arena, float, v->C);
    const float *bias = v->bias ? v->bias->data : zeros;
    const zb_span **span = spans_of(run);
    int n = run->batch->n, C = v->C;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++) {
        const zb_span *sp = span[i];
        const float *first = v->in + (size_t)sp->start * v->in_row, *in[TAPS];
        const float *tail = tail_of(run, layer, v, sp);
        for (int j = 0; j < TAPS; j++) in[j] = look_back(v, first, tail, zeros, i - sp->start, j);
        float *restrict pre = pre_out + (size_t)i * C;
        for (int c = 0; c < C; c++)
            pre[c] = bias[c] + w[c] * in[0][c] + w[C + c] * in[1][c] + w[2 * C + c] * in[2][c] +
                     w[3 * C + c] * in[3][c];
        float *u = u_out + (size_t)i * C;
        if (v->identity)
            memcpy(u, pre, (size_t)C * sizeof(float));
        else
            kn->silu(C, pre, u);
    }
    zb_arena_pop(run->arena, mark);
}

void zb_conv_remember(const zb_run *run, int layer, const zb_conv *v) {
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        float *tail = tail_of(run, layer, v, sp);
        if (!tail) continue;
        int keep = sp->n < TAPS - 1 ? TAPS - 1 - sp->n : 0;
        memmove(tail, tail + (size_t)(TAPS - 1 - keep) * v->C, (size_t)keep * v->C * sizeof(float));
        for (int j = keep; j < TAPS - 1; j++)
            memcpy(tail + (size_t)j * v->C,
                   v->in + (size_t)(sp->start + sp->n - (TAPS - 1) + j) * v->in_row,
                   (size_t)v->C * sizeof(float));
    }
}

/* Sums of the threads into the gradients; part: four tap rows and the bias of each. */
static void add_gradients(const zb_run *run, const zb_conv *v, const float *part, size_t rows) {
    for (int th = 0; th < run->threads; th++) {
        const float *dw = part + rows * (size_t)th;
        for (int c = 0; v->w->grad && c < v->C; c++)
            for (int j = 0; j < TAPS; j++) v->w->grad[c * TAPS + TAPS - 1 - j] += dw[j * v->C + c];
        if (v->bias && v->bias->grad)
            zb_kernels_get()->add(v->C, dw + (size_t)TAPS * v->C, v->bias->grad);
    }
}

void zb_conv_backward(zb_run *run, const zb_conv *v, const float *pre, float *du, float *din,
                      size_t din_row) {
    const zb_kernels *kn = zb_kernels_get();
    int n = run->batch->n, C = v->C;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < (v->identity ? 0 : n); i++)
        kn->silu_backward(C, pre + (size_t)i * C, du + (size_t)i * C, du + (size_t)i * C);
    zb_mark mark = zb_arena_mark(run->arena);
    const float *taps = taps_of(run, v);
    size_t rows = (size_t)(TAPS + 1) * C;
    float *part = zb_scratch(run, rows);
    const zb_span **span = spans_of(run);
#pragma omp parallel num_threads(run->threads)
    {
        float *dw = part + rows * (size_t)omp_get_thread_num();
#pragma omp for schedule(static)
        for (int i = 0; i < n; i++) {
            const zb_span *sp = span[i];
            int left = sp->start + sp->n - i, seen = i - sp->start;
            const float *dp = du + (size_t)i * C;
            float *restrict dx = din + (size_t)i * din_row;
            for (int c = 0; c < C; c++) dx[c] = taps[c] * dp[c];
            for (int j = 1; j < TAPS && j < left; j++) /* input i is tap j of token i+j */
                for (int c = 0; c < C; c++) dx[c] += taps[j * C + c] * dp[(size_t)j * C + c];
            for (int j = 0; j < TAPS && j <= seen; j++) {
                const float *in = v->in + (size_t)(i - j) * v->in_row;
                float *restrict to = dw + j * C;
                for (int c = 0; c < C; c++) to[c] += dp[c] * in[c];
            }
            kn->add(C, dp, dw + (size_t)TAPS * C);
        }
    }
    add_gradients(run, v, part, rows);
    zb_arena_pop(run->arena, mark);
}

size_t zb_conv_room(int C, const zb_load *load, bool backward) {
    size_t taps = zb_room_of((size_t)TAPS * C),
           spans = ((size_t)load->n * sizeof(void *) + 63) / 64 * 64;
    return taps + spans +
           (backward ? zb_room_of((size_t)(TAPS + 1) * C * (size_t)load->threads) : zb_room_of(C));
}
