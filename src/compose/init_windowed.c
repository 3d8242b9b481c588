/* init_windowed.c - the start of a layer with a window and a memory (zb_init_windowed in init.h).
 *
 * The window is the teacher's attention as it is, the gate is closed, so the layer starts as a
 * plain sliding window. What the memory would say when the gate opens should still mean something:
 * it starts as the initialisation starts a layer of its kind from the teacher's queries, keys and
 * values, with decays no faster than one window, since what lies inside the window is known.
 *
 * Where the start looks at data, the memory is fitted to what the window misses, the teacher's
 * output minus the window's on the student's inputs. The fit sees the layer's output and moves
 * nothing but the memory, so for its time the window is silent (an output map of zeros) and the
 * gate open. */
#include "compose/init.h"

#include <string.h>

/* A parameter whose weights are set aside and replaced by zeros. */
typedef struct silenced {
    zb_param *p;
    float *weights;
} silenced;

static silenced silence(const zb_init_job *j, const char *name, zb_arena *a) {
    silenced s = {.p = zb_init_param(j, name)};
    if (!s.p) return s;
    s.weights = s.p->w;
    s.p->w = ZB_NEW_ARRAY(a, float, zb_param_count(s.p));
    s.p->data = s.p->w;
    return s;
}

static void restore(const silenced *s) {
    if (s->p) s->p->data = s->p->w = s->weights;
}

/* rest [n, D] = target - the layer's output on the student's inputs, while the gate is closed. */
static zb_status missed(const zb_calibration *c, zb_kind kind, float *rest, zb_err *err) {
    zb_run *run = zb_runner_run(c->student);
    for (int p = 0; p < c->pieces; p++) {
        size_t at = (size_t)c->first[p] * (size_t)c->D, n = (size_t)c->piece[p].n * (size_t)c->D;
        ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
        zb_mixer_of(kind)->forward(run, c->layer, c->x + at, rest + at, NULL);
        for (size_t i = at; i < at + n; i++) rest[i] = c->target[i] - rest[i];
    }
    return ZB_OK;
}

zb_status zb_init_windowed(const zb_init_job *j, zb_init_mixer *memory, zb_arena *scratch,
                           zb_err *err) {
    const zb_layer_config *m = &j->config->layer[j->layer];
    float *gate = zb_init_weights(j, "memory_gate");
    zb_init_job own = *j;
    zb_calibration fitted;
    own.decay_max = 1.0 / m->window;
    zb_init_fill(gate, j->config->D, 0);
    if (j->calibration) {
        float *rest = ZB_NEW_ARRAY(scratch, float, (size_t)j->calibration->n * j->config->D);
        ZB_TRY(missed(j->calibration, m->kind, rest, err));
        fitted = *j->calibration;
        fitted.target = rest;
        own.calibration = &fitted;
        own.fit.passes = 0; /* descent would move the window, too */
    }
    silenced map = silence(j, "self_attn.o_proj.weight", scratch),
             bias = silence(j, "self_attn.o_proj.bias", scratch);
    zb_init_fill(gate, j->config->D, 1);
    zb_status s = memory(&own, scratch, err);
    zb_init_fill(gate, j->config->D, 0);
    restore(&map);
    restore(&bias);
    if (j->calibration) zb_calibration_touch(j->calibration);
    return s;
}
