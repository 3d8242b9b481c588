/* The real model, SmolLM2-135M in Q4_1 and Q8_0, against tests/golden/smollm2/logits.json: token
 * ids, every next-token log-probability, the eight best at each position and the greedy
 * continuation, with packed and with f32 weights, whole prompts and one token at a time. Skipped
 * where the model has not been fetched. */
#include "golden.h"

#include "base/file.h"
#include "base/json.h"
#include "format/tokenizer.h"

#define MODEL_PATH "data/model/SmolLM2-135M-Instruct.Q4_1.gguf"
#define WANT_PATH "tests/golden/smollm2/logits.json"

/* What the task demands; the reference multiplied the same dequantised weights in f32, so agreement
 * is far closer. */
static const double tolerance = 1e-3;
enum { TOP = 8, PROMPT_MAX = 256 };

typedef struct smol {
    zb_model *model;
    zb_runner *runner;
    zb_arena arena;
    json_t *want;
    float *hidden, *logits; /* [PROMPT_MAX, D], [PROMPT_MAX, V] */
} smol;

static bool absent(void) {
    if (zb_file_exists(MODEL_PATH)) return false;
    print_message("skip: %s is not there (./run demo fetches it)\n", MODEL_PATH);
    return true;
}

static void open_smol(smol *s, zb_model_mode mode) {
    memset(s, 0, sizeof *s);
    CHECK(zb_model_open(&s->model, MODEL_PATH, mode, &err));
    CHECK(zb_runner_new(&s->runner, s->model, ZB_PREC_F32, &err));
    CHECK(zb_json_read(WANT_PATH, 1 << 24, &s->want, &err));
    assert_true(json_array_size(s->want) > 0);
    const zb_config *c = zb_model_config(s->model);
    s->hidden = ZB_NEW_ARRAY(&s->arena, float, (size_t)PROMPT_MAX *(size_t)c->D);
    s->logits = ZB_NEW_ARRAY(&s->arena, float, (size_t)PROMPT_MAX *(size_t)c->V);
}

static void close_smol(smol *s) {
    zb_runner_free(s->runner);
    zb_model_free(s->model);
    json_decref(s->want);
    zb_arena_free(&s->arena);
}

static json_t *list(const json_t *o, const char *key) {
    json_t *a = NULL;
    CHECK(zb_json_array(o, WANT_PATH, key, true, &a, &err));
    return a;
}

static int id_at(const json_t *a, int i) {
    return (int)json_integer_value(json_array_get(a, (size_t)i));
}
static double real_at(const json_t *a, int i) {
    return json_number_value(json_array_get(a, (size_t)i));
}

/* Logits of n tokens, as a batch (fresh, or continuing `state`) or one at a time. */
static void feed(smol *s, zb_state *state, const int32_t *ids, int n, bool singly) {
    const zb_config *c = zb_model_config(s->model);
    int step = singly ? 1 : n;
    for (int at = 0; at < n; at += step) {
        zb_span span = {.start = 0, .n = step, .state = state};
        zb_batch batch = {ids + at, step, &span, 1};
        CHECK(zb_runner_begin(s->runner, &batch, &err));
        zb_runner_forward(s->runner, s->hidden + (size_t)at * (size_t)c->D, NULL);
        zb_runner_logits(s->runner, s->hidden + (size_t)at * (size_t)c->D, step,
                         s->logits + (size_t)at * (size_t)c->V);
    }
}

/* log softmax of one row, summed in f64 */
static void log_softmax(const float *x, int V, double *out) {
    double max = (double)x[0], sum = 0;
    for (int i = 1; i < V; i++) max = fmax(max, (double)x[i]);
    for (int i = 0; i < V; i++) sum += exp((double)x[i] - max);
    for (int i = 0; i < V; i++) out[i] = (double)x[i] - max - log(sum);
}

/* Ours best first must be the reference's, except that neighbours closer than the tolerance may
 * change places. */
static void top_matches(const json_t *ids, const json_t *logprobs, const double *lp, int V,
                        int position) {
    bool taken[1 << 17] = {false};
    assert_true(V <= 1 << 17);
    for (int k = 0; k < TOP; k++) {
        int best = -1, id = id_at(ids, k);
        for (int i = 0; i < V; i++)
            if (!taken[i] && (best < 0 || lp[i] > lp[best])) best = i;
        taken[best] = true;
        if (!(fabs(lp[id] - real_at(logprobs, k)) <= tolerance))
            fail_msg("position %d, rank %d, token %d: got %.7f, want %.7f", position, k, id, lp[id],
                     real_at(logprobs, k));
        if (best != id && !(lp[best] - lp[id] <= 2 * tolerance))
            fail_msg("position %d, rank %d: got token %d (%.6f), want %d (%.6f)", position, k, best,
                     lp[best], id, lp[id]);
    }
}

static void prompt_matches(smol *s, const json_t *row, bool singly) {
    const zb_config *c = zb_model_config(s->model);
    json_t *ids = list(row, "ids"), *next = list(row, "next_logprob"), *top = list(row, "top_ids"),
           *top_lp = list(row, "top_logprobs");
    json_t *greedy = list(row, "greedy_ids"), *margin = list(row, "greedy_margin");
    int n = (int)json_array_size(ids), more = (int)json_array_size(greedy);
    assert_in_range(n, 2, PROMPT_MAX);
    assert_int_equal(json_array_size(next), n - 1);
    assert_int_equal(json_array_size(top), n);
    int32_t prompt[PROMPT_MAX];
    for (int i = 0; i < n; i++) prompt[i] = id_at(ids, i);
    zb_mark mark = zb_arena_mark(&s->arena);
    double *lp = ZB_NEW_ARRAY(&s->arena, double, c->V), worst = 0;
    zb_state *state = zb_state_init(zb_alloc(&s->arena, zb_state_size(c, n + more)), c, n + more);
    feed(s, state, prompt, n, singly);
    for (int i = 0; i < n; i++) {
        log_softmax(s->logits + (size_t)i * (size_t)c->V, c->V, lp);
        top_matches(json_array_get(top, (size_t)i), json_array_get(top_lp, (size_t)i), lp, c->V, i);
        if (i + 1 == n) break;
        double e = fabs(lp[prompt[i + 1]] - real_at(next, i));
        if (!(e <= tolerance))
            fail_msg("log-probability of token %d: got %.9g, want %.9g", i + 1, lp[prompt[i + 1]],
                     real_at(next, i));
        worst = fmax(worst, e);
    }
    const float *last = s->logits + (size_t)(n - 1) * (size_t)c->V;
    for (int k = 0; k < more; k++) {
        int best = 0, want = id_at(greedy, k);
        for (int i = 1; i < c->V; i++)
            if (last[i] > last[best]) best = i;
        if (best != want && real_at(margin, k) > tolerance)
            fail_msg("greedy token %d: got %d, want %d (margin %.4f)", k, best, want,
                     real_at(margin, k));
        int32_t id = want;
        feed(s, state, &id, 1, true);
        last = s->logits;
    }
    print_message("  %d prompt tokens %s: largest error %.2g\n", n,
                  singly ? "singly" : "as a batch", worst);
    zb_arena_pop(&s->arena, mark);
}

static void all_prompts(zb_model_mode mode) {
    if (absent()) skip();
    smol s;
    open_smol(&s, mode);
    for (size_t i = 0; i < json_array_size(s.want); i++)
        for (int singly = 0; singly < 2; singly++)
            prompt_matches(&s, json_array_get(s.want, i), singly);
    close_smol(&s);
}

static void test_packed(void **state) {
    (void)state;
    all_prompts(ZB_MODEL_RUN);
}

static void test_f32(void **state) {
    (void)state;
    all_prompts(ZB_MODEL_TRAIN);
}

/* The ids of the prompts come out of the file's own tokenizer. */
static void test_ids(void **state) {
    (void)state;
    if (absent()) skip();
    zb_arena a = {0};
    zb_gguf *g;
    zb_tokenizer *t;
    json_t *want;
    CHECK(zb_gguf_open(&g, MODEL_PATH, &err));
    CHECK(zb_tokenizer_from_gguf(&t, g, &err));
    CHECK(zb_json_read(WANT_PATH, 1 << 24, &want, &err));
    for (size_t i = 0; i < json_array_size(want); i++) {
        const json_t *row = json_array_get(want, i);
        const char *text = NULL;
        CHECK(zb_json_str(row, WANT_PATH, "prompt", true, &text, &err));
        zb_ids ids;
        CHECK(zb_tokenizer_encode(t, (zb_str){text, strlen(text)}, false, true, &a, &ids, &err));
        json_t *expected = list(row, "ids");
        assert_int_equal(ids.n, json_array_size(expected));
        for (size_t k = 0; k < ids.n; k++) assert_int_equal(ids.id[k], id_at(expected, (int)k));
    }
    json_decref(want);
    zb_tokenizer_close(t);
    zb_gguf_close(g);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ids), cmocka_unit_test(test_packed),
                                       cmocka_unit_test(test_f32)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
