/* Gradients of answers' log-probabilities through a whole hybrid: the preference loss of two pairs
 * against finite differences, and supervised slopes against the cross-entropy of the same tokens.
 * Noise of the preference loss: a token's log-probability carries some 16 · 2^-24 (as in
 * test_model.c), M of them enter with slopes of at most beta. */
#include "grad.h"

#include "model/answer_loss.h"

static const double BETA = 0.3;

typedef struct trial {
    zb_model *model;
    zb_runner *run;
    int D;
    zb_batch batch;
    int32_t ids[GRAD_TOKENS];
    uint8_t learnt[GRAD_TOKENS];
    double ref[GRAD_SPANS]; /* of the preference */
    zb_arena arena;
} trial;

static void logp_of(trial *t, double *logp) {
    zb_arena *a = zb_runner_arena(t->run);
    zb_mark mark = zb_arena_mark(a);
    float *hidden = ZB_NEW_ARRAY(a, float, GRAD_TOKENS * t->D);
    zb_runner_forward(t->run, hidden, NULL);
    zb_answer_logp(&(zb_answer_pass){
        .runner = t->run, .batch = &t->batch, .learnt = t->learnt, .hidden = hidden, .logp = logp});
    zb_arena_pop(a, mark);
}

static void open_trial(trial *t) {
    static const int kinds[] = {5, 3, 1, 9}; /* mamba2, mla with norms, attention, window */
    zb_layer_config layers[4];
    memset(t, 0, sizeof *t);
    for (int l = 0; l < 4; l++) layers[l] = grad_cases[kinds[l]].layer;
    zb_config c = grad_config(4, 12, layers);
    c.qkv_bias = true;
    CHECK(zb_model_new(&t->model, &c, &err));
    randomise(t->model, 31);
    zb_model_add_grads(t->model);
    CHECK(zb_runner_new(&t->run, t->model, ZB_PREC_F32, &err));
    t->D = c.D;
    for (int i = 0; i < GRAD_TOKENS; i++) {
        t->ids[i] = (int32_t)zb_rng_below(8, ZB_RNG_TEST, (uint64_t)i, (uint32_t)c.V);
        t->learnt[i] = i % 7 != 3;
    }
    for (int s = 0; s < GRAD_SPANS; s++) t->learnt[grad_spans[s].start] = 0;
    t->batch = (zb_batch){t->ids, GRAD_TOKENS, grad_spans, GRAD_SPANS};
    CHECK(zb_runner_begin(t->run, &t->batch, &err));
    static const double moved_by[GRAD_SPANS] = {2, -3, -6, 1}; /* one pair up, one down */
    logp_of(t, t->ref);
    for (int s = 0; s < GRAD_SPANS; s++) t->ref[s] -= moved_by[s];
}

static void close_trial(trial *t) {
    zb_runner_free(t->run);
    zb_model_free(t->model);
    zb_arena_free(&t->arena);
}

/* Spans 0 and 1 are a pair, 2 and 3 another. */
static double preference(const trial *t, const double *logp, double *slope) {
    double chosen[2], rejected[2], d_chosen[2], d_rejected[2], rc[2], rr[2];
    for (int i = 0; i < 2; i++) {
        chosen[i] = logp[2 * i], rejected[i] = logp[2 * i + 1];
        rc[i] = t->ref[2 * i], rr[i] = t->ref[2 * i + 1];
    }
    double loss = zb_dpo_loss(2, BETA, chosen, rejected, rc, rr, d_chosen, d_rejected);
    for (int i = 0; i < 2 && slope; i++) {
        slope[2 * i] = d_chosen[i];
        slope[2 * i + 1] = d_rejected[i];
    }
    return loss;
}

static double noise_of(const trial *t) {
    return BETA * 16 * 0x1p-24 * sqrt((double)zb_answer_count(&t->batch, t->learnt));
}

static double trial_value(void *arg, double *noise) {
    trial *t = arg;
    double logp[GRAD_SPANS];
    logp_of(t, logp);
    *noise = noise_of(t);
    return preference(t, logp, NULL);
}

/* Adds gradients: of the preference loss, or (supervised) of minus the mean of log-probabilities,
 * which is returned. */
static double backward(trial *t, bool supervised) {
    zb_arena *a = zb_runner_arena(t->run);
    zb_mark mark = zb_arena_mark(a);
    float *hidden = ZB_NEW_ARRAY(a, float, GRAD_TOKENS * t->D),
          *dh = ZB_NEW_ARRAY(a, float, GRAD_TOKENS * t->D);
    double logp[GRAD_SPANS], slope[GRAD_SPANS],
        loss = 0, count = (double)zb_answer_count(&t->batch, t->learnt);
    zb_tape *tape = zb_runner_forward_train(t->run, hidden, false);
    zb_answer_pass p = {
        .runner = t->run, .batch = &t->batch, .learnt = t->learnt, .hidden = hidden, .logp = logp};
    if (supervised) {
        for (int s = 0; s < GRAD_SPANS; s++) slope[s] = -1 / count;
    } else {
        zb_answer_logp(&p);
        loss = preference(t, logp, slope);
    }
    p.slope = slope;
    p.dhidden = dh;
    zb_answer_logp(&p);
    for (int s = 0; s < GRAD_SPANS && supervised; s++) loss -= logp[s] / count;
    zb_runner_backward(t->run, tape, dh, NULL);
    zb_arena_pop(a, mark);
    return loss;
}

static void preference_by_differences(void **state) {
    (void)state;
    trial t;
    open_trial(&t);
    double noise, value = trial_value(&t, &noise);
    assert_true(fabs(value - backward(&t, false)) < 4 * noise);
    assert_true(value > 0.05 && value < 5); /* slopes are neither gone nor saturated */
    grad_loss loss = {trial_value, &t, 0x1p-9};
    zb_param_table *p = zb_model_params(t.model);
    for (int i = 0; i < p->n; i++) {
        if (ends_with(p->item[i].name, "k_proj.bias")) continue; /* drowns, as in test_model.c */
        check_gradient(p->item[i].name, &loss, p->item[i].w, p->item[i].grad,
                       zb_param_count(&p->item[i]));
    }
    close_trial(&t);
}

/* The vocabulary loss over all rows, most without a label. */
static double cross_entropy(trial *t) {
    zb_arena *a = zb_runner_arena(t->run);
    zb_mark mark = zb_arena_mark(a);
    float *hidden = ZB_NEW_ARRAY(a, float, GRAD_TOKENS * t->D),
          *dh = ZB_NEW_ARRAY(a, float, GRAD_TOKENS * t->D);
    int32_t labels[GRAD_TOKENS];
    zb_labels_next(&t->batch, labels);
    for (int i = 0; i < GRAD_TOKENS; i++)
        if (labels[i] >= 0 && !t->learnt[i + 1]) labels[i] = -1;
    double count = (double)zb_answer_count(&t->batch, t->learnt);
    zb_tape *tape = zb_runner_forward_train(t->run, hidden, false);
    zb_vocab_sums sums = {0};
    zb_vocab_loss l = {.student = t->run,
                       .hidden = hidden,
                       .dhidden = dh,
                       .labels = labels,
                       .n = GRAD_TOKENS,
                       .weights = {.ce = 1},
                       .scale = (float)(1 / count)};
    zb_vocab_loss_run(&l, &sums);
    assert_int_equal(sums.predicted, (int64_t)count);
    zb_runner_backward(t->run, tape, dh, NULL);
    zb_arena_pop(a, mark);
    return sums.ce / count;
}

static void supervised_is_cross_entropy(void **state) {
    (void)state;
    trial t;
    int64_t n;
    open_trial(&t);
    double want = cross_entropy(&t);
    float *g = all_gradients(t.model, &t.arena, &n);
    zb_model_zero_grads(t.model);
    assert_true(fabs(backward(&t, true) - want) < 1e-6 * want);
    compare_rms("supervised gradients", all_gradients(t.model, &t.arena, &n), g, n,
                f32_tolerance(4, GRAD_TOKENS));
    close_trial(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(preference_by_differences),
        cmocka_unit_test(supervised_is_cross_entropy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
