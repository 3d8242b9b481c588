/* Whole tiny models against reference values: logits, hidden states, mixer outputs, loss and all
 * gradients, in f32 and with bf16 products; then the same logits in pieces, token by token, and
 * with either form of MLA and Mamba2. */
#include "golden.h"

#include "base/file.h"
#include "kernels/kernels.h"
#include "model/loss.h"

static const char *const dirs[] = {
    "llama",         "llama-packed",    "llama3-rope-untied",    "qwen2-bias",
    "hybrid",        "hybrid-packed",   "hybrid-yarn-attention", "mamba2-repeat",
    "mla-norm-yarn", "hybrid-odd-sizes"};
enum { N_DIRS = sizeof dirs / sizeof dirs[0] };

typedef struct fixture {
    zb_model *model;
    zb_runner *runner;
    zb_safetensors *want, *reference; /* inputs; what is compared (another file for bf16) */
    int B, T, N;
    const int32_t *ids;
    zb_span span[64];
    zb_batch batch;
    zb_arena arena;
    double tol; /* of forward values */
    void (*compare)(const char *what, const float *got, const float *want, int64_t n, double tol);
} fixture;

/* In f32 a bound on every value, by the longest sum. With bf16 operands the reference rounds at the
 * same places (make_golden_bf16.py), so only values that f32 puts on the other side of a rounding
 * edge differ: about 2^-24·16/2^-9 of them per product, by 2^-8 each, and what the layers make of
 * that. */
static double tolerance(const zb_config *c, zb_precision p, int T) {
    if (p == ZB_PREC_BF16) return 5e-3;
    int longest = T > c->F ? T : c->F;
    return f32_tolerance(c->L, longest);
}
enum {
    BACKWARD = 8
}; /* a gradient passes every layer twice and divides by norms: this much looser */

static void open_fixture(fixture *f, const char *dir, zb_precision p) {
    memset(f, 0, sizeof *f);
    char path[256];
    snprintf(path, sizeof path, "tests/golden/%s", dir);
    CHECK(zb_model_open(&f->model, path, ZB_MODEL_TRAIN, &err));
    CHECK(zb_runner_new(&f->runner, f->model, p, &err));
    strcat(path, "/golden.safetensors");
    CHECK(zb_safetensors_open(&f->want, path, &err));
    f->reference = f->want;
    if (p == ZB_PREC_BF16) {
        snprintf(path, sizeof path, "tests/golden/%s/bf16.safetensors", dir);
        CHECK(zb_safetensors_open(&f->reference, path, &err));
    }
    const zb_tensor *ids = zb_safetensors_find(f->want, "input_ids");
    f->B = (int)ids->shape[0];
    f->T = (int)ids->shape[1];
    f->N = f->B * f->T;
    f->ids = ids->data;
    int n = golden_spans(golden_i32(f->want, "segment", f->N), f->B, f->T, f->span);
    f->batch = (zb_batch){f->ids, f->N, f->span, n};
    f->tol = tolerance(zb_model_config(f->model), p, f->T);
    f->compare = p == ZB_PREC_BF16 ? compare_rms : compare;
}

static void close_fixture(fixture *f) {
    zb_runner_free(f->runner);
    zb_model_free(f->model);
    if (f->reference != f->want) zb_safetensors_close(f->reference);
    zb_safetensors_close(f->want);
    zb_arena_free(&f->arena);
}

static void forward_matches(fixture *f) {
    double tol = f->tol;
    const zb_config *c = zb_model_config(f->model);
    float *hidden[64], *mixer[64], *out = ZB_NEW_ARRAY(&f->arena, float, f->N * c->D),
                                   *logits = ZB_NEW_ARRAY(&f->arena, float, f->N * c->V);
    for (int l = 0; l <= c->L; l++) {
        hidden[l] = ZB_NEW_ARRAY(&f->arena, float, f->N * c->D);
        mixer[l] = ZB_NEW_ARRAY(&f->arena, float, f->N * c->D);
    }
    CHECK(zb_runner_begin(f->runner, &f->batch, &err));
    zb_runner_forward(f->runner, out, &(zb_capture){hidden, mixer});
    zb_runner_logits(f->runner, out, f->N, logits);
    for (int l = 0; l <= c->L; l++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%d", l);
        f->compare(name, hidden[l], golden_f32(f->want, name, f->N * c->D), f->N * c->D, tol);
        snprintf(name, sizeof name, "mixer.%d", l);
        if (l < c->L)
            f->compare(name, mixer[l], golden_f32(f->want, name, f->N * c->D), f->N * c->D, tol);
    }
    f->compare("logits", logits, golden_f32(f->want, "logits", f->N * c->V), f->N * c->V, tol);
}

static void gradients_match(fixture *f, bool recompute) {
    double tol = f->tol * BACKWARD;
    const zb_config *c = zb_model_config(f->model);
    zb_model_add_grads(f->model);
    zb_model_zero_grads(f->model);
    float *out = ZB_NEW_ARRAY(&f->arena, float, f->N * c->D),
          *dout = ZB_NEW_ARRAY(&f->arena, float, f->N * c->D);
    int32_t *labels = ZB_NEW_ARRAY(&f->arena, int32_t, f->N);
    CHECK(zb_runner_begin(f->runner, &f->batch, &err));
    zb_mark mark = zb_arena_mark(zb_runner_arena(f->runner));
    zb_tape *tape = zb_runner_forward_train(f->runner, out, recompute);
    zb_labels_next(&f->batch, labels);
    const int32_t *target = golden_i32(f->want, "target", f->N);
    int predicted = 0;
    for (int i = 0; i < f->N; i++) {
        assert_int_equal(labels[i] < 0 ? -100 : labels[i], target[i]);
        predicted += labels[i] >= 0;
    }
    zb_vocab_sums sums = {0};
    zb_vocab_loss loss = {.student = f->runner,
                          .hidden = out,
                          .dhidden = dout,
                          .labels = labels,
                          .n = f->N,
                          .weights = {.ce = 1},
                          .scale = 1.0f / (float)predicted};
    zb_vocab_loss_run(&loss, &sums);
    assert_int_equal(sums.predicted, predicted);
    float mean = (float)(sums.ce / predicted);
    f->compare("loss", &mean, golden_f32(f->reference, "loss", 1), 1, tol);
    zb_runner_backward(f->runner, tape, dout, NULL);
    zb_arena_pop(zb_runner_arena(f->runner), mark);
    zb_param_table *t = zb_model_params(f->model);
    for (int i = 0; i < t->n; i++) {
        char name[128];
        snprintf(name, sizeof name, "grad.%s", t->item[i].name);
        int64_t n = zb_param_count(&t->item[i]);
        f->compare(name, t->item[i].grad, golden_f32(f->reference, name, n), n, tol);
    }
}

static void test_f32(void **state) {
    (void)state;
    for (int d = 0; d < N_DIRS; d++) {
        print_message("%s\n", dirs[d]);
        fixture f;
        open_fixture(&f, dirs[d], ZB_PREC_F32);
        forward_matches(&f);
        gradients_match(&f, false);
        gradients_match(&f, true);
        close_fixture(&f);
    }
}

static void test_bf16(void **state) {
    (void)state;
    static const char *const rounded[] = {"qwen2-bias", "hybrid-packed", "hybrid-yarn-attention"};
    for (size_t d = 0; d < sizeof rounded / sizeof rounded[0]; d++) {
        print_message("%s\n", rounded[d]);
        fixture f;
        open_fixture(&f, rounded[d], ZB_PREC_BF16);
        const zb_config *c = zb_model_config(f.model);
        float *out = ZB_NEW_ARRAY(&f.arena, float, f.N * c->D);
        float *logits = ZB_NEW_ARRAY(&f.arena, float, f.N * c->V);
        CHECK(zb_runner_begin(f.runner, &f.batch, &err));
        zb_runner_forward(f.runner, out, NULL);
        zb_runner_logits(f.runner, out, f.N, logits);
        compare_rms("logits", logits, golden_f32(f.reference, "logits", f.N * c->V), f.N * c->V,
                    f.tol);
        gradients_match(&f, false);
        close_fixture(&f);
    }
}

/* Each document fed through a state in pieces of `piece` tokens must give the logits of one pass.
 */
static void in_pieces(fixture *f, int piece) {
    const zb_config *c = zb_model_config(f->model);
    float *out = ZB_NEW_ARRAY(&f->arena, float, f->N * c->D),
          *logits = ZB_NEW_ARRAY(&f->arena, float, f->N * c->V);
    for (int s = 0; s < f->batch.n_spans; s++) {
        const zb_span *doc = &f->span[s];
        zb_state *state = zb_state_init(zb_alloc(&f->arena, zb_state_size(c, doc->n)), c, doc->n);
        for (int at = 0; at < doc->n; at += piece) {
            int n = doc->n - at < piece ? doc->n - at : piece, first = doc->start + at;
            zb_span span = {.start = 0, .n = n, .state = state};
            zb_batch batch = {f->ids + first, n, &span, 1};
            CHECK(zb_runner_begin(f->runner, &batch, &err));
            zb_runner_forward(f->runner, out + first * c->D, NULL);
            zb_runner_logits(f->runner, out + first * c->D, n, logits + first * c->V);
        }
        assert_int_equal(state->len, doc->n);
    }
    compare("logits in pieces", logits, golden_f32(f->want, "logits", f->N * c->V), f->N * c->V,
            f->tol);
}

/* All documents continued at once, states copied into other capacities between the two halves. */
static void all_at_once(fixture *f) {
    const zb_config *c = zb_model_config(f->model);
    float *out = ZB_NEW_ARRAY(&f->arena, float, f->N * c->D),
          *logits = ZB_NEW_ARRAY(&f->arena, float, f->N * c->V);
    int32_t *ids = ZB_NEW_ARRAY(&f->arena, int32_t, f->N);
    zb_state *state[64];
    for (int s = 0; s < f->batch.n_spans; s++)
        state[s] = zb_state_init(zb_alloc(&f->arena, zb_state_size(c, f->span[s].n + 3)), c,
                                 f->span[s].n + 3);
    for (int half = 0; half < 2; half++) {
        zb_span span[64];
        int n = 0;
        for (int s = 0; s < f->batch.n_spans; s++) {
            int cut = f->span[s].n / 2 + 1, from = half ? cut : 0,
                len = half ? f->span[s].n - cut : cut;
            if (half) {
                zb_state *other = zb_state_init(zb_alloc(&f->arena, zb_state_size(c, f->span[s].n)),
                                                c, f->span[s].n);
                zb_state_copy(other, state[s], c);
                state[s] = other;
            }
            span[s] = (zb_span){n, len, state[s]};
            memcpy(ids + n, f->ids + f->span[s].start + from, (size_t)len * sizeof *ids);
            n += len;
        }
        zb_batch batch = {ids, n, span, f->batch.n_spans};
        CHECK(zb_runner_begin(f->runner, &batch, &err));
        zb_runner_forward(f->runner, out, NULL);
        for (int s = 0; s < f->batch.n_spans; s++) {
            int from = f->span[s].start + (half ? f->span[s].n / 2 + 1 : 0);
            zb_runner_logits(f->runner, out + span[s].start * c->D, span[s].n,
                             logits + from * c->V);
        }
    }
    compare("logits of a batch of states", logits, golden_f32(f->want, "logits", f->N * c->V),
            f->N * c->V, f->tol);
}

static void test_states(void **unused) {
    (void)unused;
    static const enum zb_mla_form mla[] = {ZB_MLA_AUTO, ZB_MLA_EXPANDED, ZB_MLA_ABSORBED};
    static const enum zb_ssd_form ssd[] = {ZB_SSD_AUTO, ZB_SSD_CHUNKED, ZB_SSD_STEPS};
    for (int d = 0; d < N_DIRS; d++)
        for (int form = 0; form < 3; form++) {
            fixture f;
            open_fixture(&f, dirs[d], ZB_PREC_F32);
            zb_runner_run(f.runner)->mla_form = mla[form];
            zb_runner_run(f.runner)->ssd_form = ssd[form];
            in_pieces(&f, 1);
            in_pieces(&f, 7);
            in_pieces(&f, 1000);
            all_at_once(&f);
            close_fixture(&f);
        }
}

/* A decode step takes no memory from the system once it is warm. */
static void test_decode_allocates_nothing(void **unused) {
    (void)unused;
    for (int d = 0; d < N_DIRS; d++) {
        fixture f;
        open_fixture(&f, dirs[d], ZB_PREC_F32);
        const zb_config *c = zb_model_config(f.model);
        zb_state *state = zb_state_init(zb_alloc(&f.arena, zb_state_size(c, 64)), c, 64);
        float *out = ZB_NEW_ARRAY(&f.arena, float, c->D),
              *logits = ZB_NEW_ARRAY(&f.arena, float, c->V);
        uint64_t before = 0;
        for (int i = 0; i < 20; i++) {
            if (i == 10) before = zb_heap_count();
            zb_span span = {.start = 0, .n = 1, .state = state};
            zb_batch batch = {f.ids + i, 1, &span, 1};
            CHECK(zb_runner_begin(f.runner, &batch, &err));
            zb_runner_forward(f.runner, out, NULL);
            zb_runner_logits(f.runner, out, 1, logits);
        }
        assert_int_equal(zb_heap_count(), before);
        close_fixture(&f);
    }
}

/* Saved and read back: the same bytes of configuration and weights. */
static void test_save_and_load(void **unused) {
    (void)unused;
    for (int d = 0; d < N_DIRS; d++) {
        fixture f;
        open_fixture(&f, dirs[d], ZB_PREC_F32);
        const char *dir = TEST_OUT "/test-save";
        CHECK(zb_model_save(f.model, dir, ZB_F32, NULL, NULL, &err));
        zb_model *again;
        CHECK(zb_model_open(&again, dir, ZB_MODEL_RUN, &err));
        assert_memory_equal(zb_model_config(again), zb_model_config(f.model), sizeof(zb_config));
        zb_param_table *a = zb_model_params(f.model), *b = zb_model_params(again);
        assert_int_equal(a->n, b->n);
        for (int i = 0; i < a->n; i++) {
            assert_string_equal(a->item[i].name, b->item[i].name);
            assert_memory_equal(a->item[i].data, b->item[i].data,
                                (size_t)zb_param_count(&a->item[i]) * 4);
        }
        zb_model_free(again);
        CHECK(zb_dir_remove(dir, &err));
        close_fixture(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32),
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_decode_allocates_nothing),
        cmocka_unit_test(test_save_and_load),
        cmocka_unit_test(test_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
