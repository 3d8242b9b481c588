/* windowed.c - a window of exact attention, and beside it a recurrent memory of all that came.
 *
 *   y = window(x) + g ∘ memory(x)        g [D], one factor per channel
 *
 * window is attention.c with the teacher's own weights, memory a mixer of constant state (Mamba2,
 * or gated DeltaNet) with parameters of its own. The memory reads every token, not only those that
 * have left the window: the recurrence then stays the plain one, and what the window already gives
 * is a sum that training can take back.
 *
 * The gate starts closed, g = 0: the layer is then exactly its window, whatever the memory does,
 * which no closed form fitted so far could claim to improve (a fit of the layer's error raised the
 * model's divergence). dg = Σ dy ∘ memory(x) is not 0, so the first step opens it and from the
 * second on the memory learns, too. AdamW moves a weight by about the learning rate, and a gate has
 * to come from 0 to the order of 1 within some hundred steps of 5e-4: it learns at a faster rate.
 *
 * Both mixers run as if each were alone: the memory through a copy of the run whose table of
 * parameters shows its rows (zb_param_table.second) in their usual slots. State: the window's rings
 * and the memory's recurrent part, which do not meet. */
#include "kernels/kernels.h"
#include "model/mixer.h"

#include <omp.h>
#include <string.h>

enum { GATE = ZB_SLOTS - 1 }; /* in the second table, behind the memory's own rows */
enum { GATE_RATE = 16 };      /* times the learning rate */

typedef struct tape {
    void *window, *memory;
    float *m; /* [N, D] output of the memory */
} tape;

/* The run as the memory sees it. */
typedef struct inner {
    zb_run run;
    zb_param_table table;
} inner;

static zb_run *inside(inner *in, const zb_run *run) {
    in->table = *run->params;
    in->table.layer = in->table.second;
    in->run = *run;
    in->run.params = &in->table;
    return &in->run;
}

static void params(const zb_config *c, int l, zb_param_table *t, const zb_mixer *memory) {
    zb_mixer_sliding_window.params(c, l, t);
    zb_param *(*first)[ZB_SLOTS] = t->layer;
    t->layer = t->second;
    memory->params(c, l, t);
    zb_params_add(t, l, GATE, ZB_ROLE_GATE, "memory_gate", c->D, 0)->rate = GATE_RATE;
    t->layer = first;
}

static void forward(zb_run *run, int layer, const float *x, float *y, void **tape_out,
                    const zb_mixer *memory) {
    const zb_config *c = run->config;
    const float *g = run->params->second[layer][GATE]->data;
    int n = run->batch->n, D = c->D;
    inner in;
    zb_mark mark = zb_arena_mark(run->arena);
    tape *t = ZB_NEW(run->arena, tape);
    if (tape_out) *tape_out = t;
    zb_mixer_sliding_window.forward(run, layer, x, y, &t->window);
    t->m = ZB_RAW_ARRAY(run->arena, float, (size_t)n *D);
    memory->forward(inside(&in, run), layer, x, t->m, &t->memory);
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++)
        for (int d = 0; d < D; d++) y[(size_t)i * D + d] += g[d] * t->m[(size_t)i * D + d];
    if (!tape_out) zb_arena_pop(run->arena, mark);
}

/* dm = g ∘ dy, and the gate's gradient. */
static void backward_gate(zb_run *run, zb_param *gate, const float *m, const float *dy, float *dm) {
    const float *g = gate->data;
    int n = run->batch->n, D = run->config->D;
    zb_mark mark = zb_arena_mark(run->arena);
    float *part = zb_scratch(run, (size_t)D);
#pragma omp parallel num_threads(run->threads)
    {
        float *dg = part + (size_t)omp_get_thread_num() * D;
#pragma omp for schedule(static)
        for (int i = 0; i < n; i++) {
            size_t at = (size_t)i * D;
            for (int d = 0; d < D; d++) {
                dm[at + d] = g[d] * dy[at + d];
                dg[d] += m[at + d] * dy[at + d];
            }
        }
    }
    for (int th = 0; gate->grad && th < run->threads; th++)
        zb_kernels_get()->add(D, part + (size_t)th * D, gate->grad);
    zb_arena_pop(run->arena, mark);
}

static void backward(zb_run *run, int layer, const float *x, const float *dy, float *dx,
                     void *tape_in, const zb_mixer *memory) {
    const tape *t = tape_in;
    int n = run->batch->n, D = run->config->D;
    inner in;
    zb_mark mark = zb_arena_mark(run->arena);
    float *dm = ZB_RAW_ARRAY(run->arena, float, (size_t)n *D);
    backward_gate(run, run->params->second[layer][GATE], t->m, dy, dm);
    zb_mixer_sliding_window.backward(run, layer, x, dy, dx, t->window);
    memory->backward(inside(&in, run), layer, x, dm, dx, t->memory);
    zb_arena_pop(run->arena, mark);
}

static size_t most(size_t a, size_t b) { return a > b ? a : b; }

static zb_room room(const zb_config *c, int layer, const zb_load *load, const zb_mixer *memory) {
    zb_room w = zb_mixer_sliding_window.room(c, layer, load), m = memory->room(c, layer, load);
    size_t row = zb_room_of((size_t)load->n * c->D), behind = row + m.tape,
           gate = zb_room_of((size_t)load->threads * c->D);
    return (zb_room){.tape = (sizeof(tape) + 63) / 64 * 64 + w.tape + behind,
                     .forward = most(m.forward, w.forward > behind ? w.forward - behind : 0),
                     .backward = row + most(gate, most(w.backward, m.backward))};
}

/* One mixer per memory. */
#define WINDOWED(kind, memory)                                                                     \
    static void kind##_params(const zb_config *c, int l, zb_param_table *t) {                      \
        params(c, l, t, &memory);                                                                  \
    }                                                                                              \
    static void kind##_forward(zb_run *run, int l, const float *x, float *y, void **tape_out) {    \
        forward(run, l, x, y, tape_out, &memory);                                                  \
    }                                                                                              \
    static void kind##_backward(zb_run *run, int l, const float *x, const float *dy, float *dx,    \
                                void *tape_in) {                                                   \
        backward(run, l, x, dy, dx, tape_in, &memory);                                             \
    }                                                                                              \
    static zb_room kind##_room(const zb_config *c, int l, const zb_load *load) {                   \
        return room(c, l, load, &memory);                                                          \
    }                                                                                              \
    const zb_mixer zb_mixer_##kind = {#kind, kind##_params, kind##_forward, kind##_backward,       \
                                      kind##_room};

WINDOWED(windowed_mamba2, zb_mixer_mamba2)
WINDOWED(windowed_deltanet, zb_mixer_gated_deltanet)
