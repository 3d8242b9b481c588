/* logits.h - what a model file says, for tests that compare files with each other. */
#ifndef ZB_TESTS_UNIT_LOGITS_H
#define ZB_TESTS_UNIT_LOGITS_H

#include "../golden/golden.h"

enum { TOKENS = 21 };

/* Logits [TOKENS, V] of fixed ids, as a batch or one token at a time. */
static inline float *logits_of(const char *path, zb_model_mode mode, bool singly, zb_arena *a) {
    zb_model *m;
    zb_runner *r;
    CHECK(zb_model_open(&m, path, mode, &err));
    CHECK(zb_runner_new(&r, m, ZB_PREC_F32, &err));
    const zb_config *c = zb_model_config(m);
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++) ids[i] = (i * 37 + 5) % c->V;
    float *hidden = ZB_NEW_ARRAY(a, float, TOKENS * c->D),
          *logits = ZB_NEW_ARRAY(a, float, TOKENS * c->V);
    zb_state *state = zb_state_init(zb_alloc(a, zb_state_size(c, TOKENS)), c, TOKENS);
    int step = singly ? 1 : TOKENS;
    for (int at = 0; at < TOKENS; at += step) {
        zb_span span = {0, step, state};
        zb_batch batch = {ids + at, step, &span, 1};
        CHECK(zb_runner_begin(r, &batch, &err));
        zb_runner_forward(r, hidden + at * c->D, NULL);
        zb_runner_logits(r, hidden + at * c->D, step, logits + at * c->V);
    }
    zb_runner_free(r);
    zb_model_free(m);
    return logits;
}

#endif
