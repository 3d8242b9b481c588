/* Gradients of whole hybrid models. The loss is what distillation minimises: a mixture of KL and
 * reverse KL to a teacher of another width and of cross-entropy, over packed documents, and the
 * distance of all layers' outputs from given states. Noise of
 * the mean over n tokens: logits of size about 1 carry errors of some 16 · 2^-24 (several layers of
 * short sums), independent between tokens, so 16 · 2^-24 / sqrt(n). Then what must not change a
 * gradient: recomputing the layers, the number of threads, and passing documents together or one by
 * one. */
#include "grad.h"

#include <omp.h>

typedef struct trial {
    zb_model *student, *teacher;
    zb_runner *run, *teach;
    int n, D;
    zb_batch batch;
    int32_t ids[GRAD_TOKENS], labels[GRAD_TOKENS];
    uint8_t mask[GRAD_TOKENS];
    zb_vocab_weights weights;
    float scale;
    const float *teacher_hidden; /* [GRAD_TOKENS, D'] */
    float *target[5];            /* [GRAD_TOKENS, D] for each layer's output */
    double match;                /* weight of the distance from them */
    int first;                   /* first token of the batch within the arrays */
    zb_arena arena;
} trial;

static zb_config student_config(bool tied) {
    static const int kinds[] = {
        5, 3, 1, 6}; /* mamba2, mla with norms, attention, mamba2 repeated; see grad_cases */
    zb_layer_config layers[4];
    for (int l = 0; l < 4; l++) layers[l] = grad_cases[kinds[l]].layer;
    zb_config c = grad_config(4, 12, layers);
    /* a model has one way of repeating */
    c.layer[3] = c.layer[0];
    c.tied = tied;
    c.qkv_bias = true;
    return c;
}

static void new_model(zb_model **m, zb_runner **r, const zb_config *c, uint64_t seed) {
    CHECK(zb_model_new(m, c, &err));
    randomise(*m, seed);
    CHECK(zb_runner_new(r, *m, ZB_PREC_F32, &err));
}

static void open_trial(trial *t, bool tied) {
    memset(t, 0, sizeof *t);
    zb_config c = student_config(tied);
    new_model(&t->student, &t->run, &c, 21);
    zb_model_add_grads(t->student);
    static const zb_layer_config plain[2] = {{.kind = ZB_ATTENTION}, {.kind = ZB_ATTENTION}};
    zb_config w = grad_config(2, 20, plain);
    new_model(&t->teacher, &t->teach, &w, 22);
    t->n = GRAD_TOKENS;
    t->D = c.D;
    for (int i = 0; i < t->n; i++) {
        t->ids[i] = (int32_t)zb_rng_below(5, ZB_RNG_TEST, (uint64_t)i, (uint32_t)c.V);
        t->mask[i] = i % 7 != 3;
    }
    t->batch = (zb_batch){t->ids, t->n, grad_spans, GRAD_SPANS};
    zb_labels_next(&t->batch, t->labels);
    t->weights = (zb_vocab_weights){.kl = 0.7, .reverse_kl = 0.4, .ce = 0.5};
    t->scale = 1.0f / (float)t->n;
    float *hidden = ZB_NEW_ARRAY(&t->arena, float, t->n *w.D);
    CHECK(zb_runner_begin(t->teach, &t->batch, &err));
    zb_runner_forward(t->teach, hidden, NULL);
    t->teacher_hidden = hidden;
    t->match = 0.3;
    for (int l = 1; l <= c.L; l++) {
        t->target[l] = ZB_NEW_ARRAY(&t->arena, float, t->n * t->D);
        for (int i = 0; i < t->n * t->D; i++)
            t->target[l][i] = (float)zb_rng_normal(6, ZB_RNG_TEST, (uint64_t)(l * 10000 + i));
    }
    CHECK(zb_runner_begin(t->run, &t->batch, &err));
}

static void close_trial(trial *t) {
    zb_runner_free(t->run);
    zb_runner_free(t->teach);
    zb_model_free(t->student);
    zb_model_free(t->teacher);
    zb_arena_free(&t->arena);
}

/* The loss of the batch in `t`, whose tokens stand at t->first of the arrays. */
static zb_vocab_loss loss_of(const trial *t, const float *out, float *dout) {
    int at = t->first;
    return (zb_vocab_loss){.student = t->run,
                           .teacher = t->teach,
                           .hidden = out,
                           .teacher_hidden = t->teacher_hidden + at * 20,
                           .dhidden = dout,
                           .labels = t->labels + at,
                           .mask = t->mask + at,
                           .n = t->batch.n,
                           .weights = t->weights,
                           .scale = t->scale};
}

static float *target_of(const trial *t, int l) { return t->target[l] + (size_t)t->first * t->D; }

static double total_of(const trial *t, const zb_vocab_sums *s, double distance) {
    return (double)t->scale * (t->weights.kl * s->kl + t->weights.reverse_kl * s->reverse_kl +
                               t->weights.ce * s->ce + t->match * distance);
}

static double trial_value(void *arg, double *noise) {
    trial *t = arg;
    zb_arena *a = zb_runner_arena(t->run);
    zb_mark mark = zb_arena_mark(a);
    float *out = ZB_NEW_ARRAY(a, float, t->batch.n * t->D), *hidden[5] = {0};
    for (int l = 1; l < 5; l++) hidden[l] = ZB_NEW_ARRAY(a, float, t->batch.n * t->D);
    zb_runner_forward(t->run, out, &(zb_capture){.hidden = hidden});
    double distance = 0;
    for (int l = 1; l < 5; l++)
        distance += zb_hidden_loss(t->batch.n, t->D, hidden[l], target_of(t, l), 0, NULL);
    zb_vocab_loss l = loss_of(t, out, NULL);
    zb_vocab_sums s = {0};
    zb_vocab_loss_run(&l, &s);
    zb_arena_pop(a, mark);
    *noise = 16 * 0x1p-24 / sqrt((double)t->n);
    return total_of(t, &s, distance);
}

/* Adds the gradients of the batch; returns the loss. */
static double trial_backward(trial *t, bool recompute) {
    zb_arena *a = zb_runner_arena(t->run);
    zb_mark mark = zb_arena_mark(a);
    float *out = ZB_NEW_ARRAY(a, float, t->batch.n * t->D),
          *dout = ZB_NEW_ARRAY(a, float, t->batch.n * t->D);
    zb_tape *tape = zb_runner_forward_train(t->run, out, recompute);
    zb_vocab_loss l = loss_of(t, out, dout);
    zb_vocab_sums s = {0};
    zb_vocab_loss_run(&l, &s);
    float *target[5];
    for (int i = 1; i < 5; i++) target[i] = target_of(t, i);
    zb_hidden_match match = {target, (float)t->match * t->scale, 0};
    zb_runner_backward(t->run, tape, dout, &match);
    zb_arena_pop(a, mark);
    return total_of(t, &s, match.sum);
}

static void test_differences(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        trial t;
        open_trial(&t, tied);
        double noise, value = trial_value(&t, &noise), same = trial_backward(&t, false);
        assert_true(fabs(value - same) < 4 * noise);
        grad_loss loss = {trial_value, &t, 0x1p-9};
        zb_param_table *p = zb_model_params(t.student);
        for (int i = 0; i < p->n; i++) {
            /* a key's bias cancels in the softmax but for the rotation: its slope drowns;
             * golden/qwen2-bias holds it */
            if (ends_with(p->item[i].name, "k_proj.bias")) continue;
            check_gradient(p->item[i].name, &loss, p->item[i].w, p->item[i].grad,
                           zb_param_count(&p->item[i]));
        }
        close_trial(&t);
    }
}

/* Untied heads only add a matrix: with equal values, embedding and head share the gradient of the
 * tied one. */
static void test_tied_is_the_sum(void **state) {
    (void)state;
    trial t;
    open_trial(&t, true);
    trial_backward(&t, false);
    zb_param_table *p = zb_model_params(t.student);
    int64_t n = zb_param_count(p->embed);
    float *tied = ZB_NEW_ARRAY(&t.arena, float, n), *sum = ZB_NEW_ARRAY(&t.arena, float, n);
    memcpy(tied, p->embed->grad, (size_t)n * sizeof(float));
    zb_model_untie(t.student);
    zb_model_untie(t.student); /* nothing left to do */
    assert_false(zb_model_config(t.student)->tied);
    assert_ptr_not_equal(p->head, p->embed);
    assert_string_equal(p->head->name, "lm_head.weight");
    zb_model_add_grads(t.student);
    zb_model_zero_grads(t.student);
    trial_backward(&t, false);
    for (int64_t i = 0; i < n; i++) sum[i] = p->embed->grad[i] + p->head->grad[i];
    compare("embedding + head", sum, tied, n, f32_tolerance(1, GRAD_TOKENS));
    close_trial(&t);
}

static void test_recompute(void **state) {
    (void)state;
    trial t;
    int64_t n;
    open_trial(&t, true);
    double kept = trial_backward(&t, false);
    float *want = all_gradients(t.student, &t.arena, &n);
    zb_model_zero_grads(t.student);
    assert_true(trial_backward(&t, true) == kept);
    assert_memory_equal(all_gradients(t.student, &t.arena, &n), want, (size_t)n * sizeof(float));
    /* and again: the same pass gives the same bits */
    zb_model_zero_grads(t.student);
    trial_backward(&t, false);
    assert_memory_equal(all_gradients(t.student, &t.arena, &n), want, (size_t)n * sizeof(float));
    close_trial(&t);
}

/* Sums over tokens are cut differently: equal up to the rounding of sums of that length. */
static void test_threads(void **state) {
    (void)state;
    int before = omp_get_max_threads();
    float *g[2];
    trial t[2];
    int64_t n;
    for (int k = 0; k < 2; k++) {
        omp_set_num_threads(k + 1);
        open_trial(&t[k], true);
        assert_int_equal(zb_runner_run(t[k].run)->threads, k + 1);
        trial_backward(&t[k], false);
        g[k] = all_gradients(t[k].student, &t[k].arena, &n);
    }
    compare_rms("gradients with two threads", g[1], g[0], n, f32_tolerance(4, GRAD_TOKENS));
    for (int k = 0; k < 2; k++) close_trial(&t[k]);
    omp_set_num_threads(before);
}

/* Documents passed one by one add up to the gradient of the batch: nothing crosses a document's
 * edge, backward neither. */
static void test_spans_add_up(void **state) {
    (void)state;
    trial t;
    int64_t n;
    open_trial(&t, true);
    double whole = trial_backward(&t, false), parts = 0;
    float *want = all_gradients(t.student, &t.arena, &n);
    zb_model_zero_grads(t.student);
    for (int s = 0; s < GRAD_SPANS; s++) {
        zb_span one = {0, grad_spans[s].n, NULL};
        t.first = grad_spans[s].start;
        t.batch = (zb_batch){t.ids + t.first, one.n, &one, 1};
        CHECK(zb_runner_begin(t.run, &t.batch, &err));
        parts += trial_backward(&t, s % 2);
    }
    assert_true(fabs(whole - parts) < 1e-6 * whole);
    compare_rms("gradients of single documents", all_gradients(t.student, &t.arena, &n), want, n,
                f32_tolerance(4, GRAD_TOKENS));
    close_trial(&t);
}

/* The order of documents in a batch does not matter to any of them. */
static void test_gradient_of_one_document_alone(void **state) {
    (void)state;
    trial t;
    int64_t n;
    open_trial(&t, true);
    t.match = 0; /* has no mask */
    /* only the third document counts */
    for (int i = 0; i < t.n; i++) {
        bool in = i >= grad_spans[2].start && i < grad_spans[2].start + grad_spans[2].n;
        if (!in) t.mask[i] = 0, t.labels[i] = -1;
    }
    trial_backward(&t, false);
    float *packed = all_gradients(t.student, &t.arena, &n);
    zb_model_zero_grads(t.student);
    zb_span one = {0, grad_spans[2].n, NULL};
    t.first = grad_spans[2].start;
    t.batch = (zb_batch){t.ids + t.first, one.n, &one, 1};
    CHECK(zb_runner_begin(t.run, &t.batch, &err));
    trial_backward(&t, false);
    compare_rms("gradients of the document alone", packed, all_gradients(t.student, &t.arena, &n),
                n, f32_tolerance(4, GRAD_TOKENS));
    close_trial(&t);
}

/* Matrices outside mixers, rounded to bf16; freeze: held so, without a gradient. */
static void round_frozen(trial *t, bool freeze) {
    zb_param_table *p = zb_model_params(t->student);
    for (int i = 0; i < p->n; i++) {
        zb_param *w = &p->item[i];
        if (w->n_dims != 2 || zb_param_in_mixer(w)) continue;
        int64_t n = zb_param_count(w);
        uint16_t *packed = ZB_NEW_ARRAY(&t->arena, uint16_t, n);
        zb_dtype_from_f32(ZB_BF16, w->w, packed, n);
        zb_dtype_to_f32(ZB_BF16, packed, w->w, n);
        if (!freeze) continue;
        w->dtype = ZB_BF16;
        w->data = packed;
        w->w = w->grad = NULL;
    }
}

/* A frozen part may stay as a file has it: all other gradients are the same. */
static void test_frozen_part_is_packed(void **state) {
    (void)state;
    trial t, wide;
    open_trial(&t, false);
    open_trial(&wide, false);
    round_frozen(&t, true);
    round_frozen(&wide, false);
    trial_backward(&wide, false);
    trial_backward(&t, false);
    zb_param_table *p = zb_model_params(t.student), *q = zb_model_params(wide.student);
    int compared = 0;
    for (int i = 0; i < p->n; i++) {
        if (!p->item[i].grad) continue;
        if (ends_with(p->item[i].name, "k_proj.bias")) continue; /* noise, see above */
        compare(p->item[i].name, p->item[i].grad, q->item[i].grad, zb_param_count(&p->item[i]),
                f32_tolerance(4, GRAD_TOKENS));
        compared += zb_param_in_mixer(&p->item[i]);
    }
    assert_true(compared > 20);
    close_trial(&t);
    close_trial(&wide);
}

/* More rows than are unpacked at a time; dx is added to, or made anew. */
static void test_packed_rows_in_tiles(void **state) {
    (void)state;
    enum { ROWS = 1300, COLS = 4352, N = 3 };
    zb_arena a = {0};
    zb_run run = {.arena = &a, .threads = 2};
    CHECK(zb_matmul_new(&run.mm, ZB_PREC_F32, &err));
    assert_true(zb_linear_wide_rows(ROWS, COLS) < ROWS);
    float *w = ZB_RAW_ARRAY(&a, float, ROWS *COLS), *dy = ZB_RAW_ARRAY(&a, float, N *ROWS),
          *dx = ZB_RAW_ARRAY(&a, float, N *COLS), *want = ZB_RAW_ARRAY(&a, float, N *COLS);
    uint16_t *packed = ZB_RAW_ARRAY(&a, uint16_t, ROWS * COLS);
    fill(dy, N * ROWS, 1, 0, 31);
    fill(w, ROWS * COLS, 1, 0, 32);
    zb_dtype_from_f32(ZB_BF16, w, packed, ROWS * COLS);
    zb_dtype_to_f32(ZB_BF16, packed, w, ROWS * COLS);
    zb_param f32 = {.dtype = ZB_F32, .data = w, .n_dims = 2, .rows = ROWS, .cols = COLS},
             bf16 = {.dtype = ZB_BF16, .data = packed, .n_dims = 2, .rows = ROWS, .cols = COLS};
    for (int add = 0; add < 2; add++) {
        fill(dx, N * COLS, 1, 0, 33);
        fill(want, N * COLS, 1, 0, 33);
        (add ? zb_linear_backward : zb_linear_backward_to)(&run, &bf16, NULL, NULL, dy, N, dx);
        (add ? zb_linear_backward : zb_linear_backward_to)(&run, &f32, NULL, NULL, dy, N, want);
        compare(add ? "added" : "new", dx, want, N * COLS, f32_tolerance(1, ROWS));
    }
    zb_matmul_free(run.mm);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_tied_is_the_sum),
        cmocka_unit_test(test_recompute),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_spans_add_up),
        cmocka_unit_test(test_gradient_of_one_document_alone),
        cmocka_unit_test(test_frozen_part_is_packed),
        cmocka_unit_test(test_packed_rows_in_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
