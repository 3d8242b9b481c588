/* Single mixers against tests/golden/layers.safetensors: Mamba2, MLA and gated DeltaNet over 150
 * tokens in two rows, the second holding two documents. Output and final state, chunked and step by
 * step, expanded and absorbed, in one pass and continued through copied states; gradients of gated
 * DeltaNet. */
#include "golden.h"

#include "model/product.h"

enum { B = 2, T = 150, N = B * T, D = 48, H = 6, G = 2, DH = 16, DOCS = 3 };

typedef struct layer_fixture {
    zb_model *model;
    zb_runner *runner;
    zb_safetensors *want;
    const float *x;
    zb_span span[8];
    int32_t ids[N];
    float y[N * D];
    zb_arena arena;
    const char *output; /* name of the reference output */
} layer_fixture;

/* Sizes of make_golden.py: base_config and hybrid_config. */
static zb_config layer_config(zb_kind kind) {
    zb_config c = {.model_type = "llama",
                   .D = D,
                   .L = 1,
                   .H = H,
                   .G = G,
                   .dh = DH,
                   .F = 80,
                   .V = 97,
                   .context_max = 256,
                   .eps = 1e-5,
                   .tied = true,
                   .bos = 1,
                   .hybrid = true};
    c.rope = (zb_rope){.theta = 10000, .factor = 1, .beta_fast = 32, .beta_slow = 1, .mscale = 1};
    c.mla_rope = c.rope;
    c.layer[0].kind = kind;
    if (kind == ZB_MLA)
        c.layer[0] = (zb_layer_config){.kind = ZB_MLA,
                                       .r_q = 20,
                                       .r_kv = 12,
                                       .d_nope = 8,
                                       .d_rope = 8,
                                       .d_v = DH,
                                       .full_kv_head = true};
    return c;
}

static void open_layer(layer_fixture *f, zb_kind kind) {
    memset(f, 0, sizeof *f);
    CHECK(zb_safetensors_open(&f->want, "tests/golden/layers.safetensors", &err));
    zb_config c = layer_config(kind);
    CHECK(zb_model_new(&f->model, &c, &err));
    CHECK(zb_runner_new(&f->runner, f->model, ZB_PREC_F32, &err));
    bool delta = kind == ZB_GATED_DELTANET;
    f->output = kind == ZB_MLA ? "mla_y" : delta ? "gdn_y" : "mamba2_y";
    f->x = golden_f32(f->want, "x", N * D);
    assert_int_equal(golden_spans(golden_i32(f->want, "segment", N), B, T, f->span), DOCS);
    const char *part = kind == ZB_MLA ? "mla."
                       : delta        ? "linear_attn."
                                      : "mamba.",
               *prefix = kind == ZB_MLA ? "mla."
                         : delta        ? "gdn."
                                        : "mamba2.";
    int copied = 0;
    zb_param_table *t = zb_model_params(f->model);
    for (int i = 0; i < t->n; i++) {
        const char *tail = strstr(t->item[i].name, part);
        if (!tail) continue;
        char name[96];
        snprintf(name, sizeof name, "%s%s", prefix, tail + strlen(part));
        memcpy(t->item[i].w, golden_f32(f->want, name, zb_param_count(&t->item[i])),
               (size_t)zb_param_count(&t->item[i]) * sizeof(float));
        copied++;
    }
    assert_int_equal(copied, kind == ZB_MLA ? 5 : delta ? 13 : 8);
}

static void close_layer(layer_fixture *f) {
    zb_runner_free(f->runner);
    zb_model_free(f->model);
    zb_safetensors_close(f->want);
    zb_arena_free(&f->arena);
}

static const zb_config *config_of(const layer_fixture *f) { return zb_model_config(f->model); }

/* The mixer alone over n tokens that start at token `first` of the fixture. */
static void mix(layer_fixture *f, const zb_span *span, int n_spans, int first, int n) {
    zb_batch batch = {f->ids, n, span, n_spans};
    CHECK(zb_runner_begin(f->runner, &batch, &err));
    zb_run *run = zb_runner_run(f->runner);
    zb_mark mark = zb_arena_mark(run->arena);
    zb_mixer_of(config_of(f)->layer[0].kind)
        ->forward(run, 0, f->x + (size_t)first * D, f->y + (size_t)first * D, NULL);
    zb_arena_pop(run->arena, mark);
    for (int s = 0; s < n_spans; s++)
        if (span[s].state)
            span[s].state->len += span[s].n; /* as zb_runner_forward does behind all layers */
}

static void output_matches(layer_fixture *f) {
    compare(f->output, f->y, golden_f32(f->want, f->output, N * D), N * D, f32_tolerance(1, T));
}

static zb_state *new_state(layer_fixture *f, int tokens) {
    return zb_state_init(zb_alloc(&f->arena, zb_state_size(config_of(f), tokens)), config_of(f),
                         tokens);
}

/* Recurrent matrix of the states of the two last documents, behind the convolutions' tails: [H, n,
 * p] of Mamba2, where the golden file has [H, p, n]; [H, dk, dv] of gated DeltaNet. */
static void state_matches(layer_fixture *f, zb_state *first_row, zb_state *second_row) {
    bool delta = config_of(f)->layer[0].kind == ZB_GATED_DELTANET;
    const char *name = delta ? "gdn_state" : "mamba2_state";
    const float *want = golden_f32(f->want, name, B * H * DH * DH);
    int channels = delta ? 3 * H * DH : zb_mamba2_channels(config_of(f), 0);
    zb_state *state[B] = {first_row, second_row};
    for (int b = 0; b < B; b++) {
        const float *h =
            zb_state_layer(state[b], config_of(f), 0) + (size_t)(ZB_CONV_K - 1) * channels;
        float turned[H * DH * DH];
        for (int k = 0; k < H; k++) zb_transpose(h + k * DH * DH, DH, DH, DH, turned + k * DH * DH);
        compare(name, delta ? h : turned, want + b * H * DH * DH, H * DH * DH, f32_tolerance(1, T));
    }
}

static bool recurrent(const layer_fixture *f) { return config_of(f)->layer[0].kind != ZB_MLA; }

/* All documents in one pass, fresh and with states. */
static void whole(layer_fixture *f) {
    memset(f->y, 0, sizeof f->y);
    mix(f, f->span, DOCS, 0, N);
    output_matches(f);
    zb_span with[DOCS];
    for (int s = 0; s < DOCS; s++) {
        with[s] = f->span[s];
        with[s].state = new_state(f, with[s].n);
    }
    memset(f->y, 0, sizeof f->y);
    mix(f, with, DOCS, 0, N);
    output_matches(f);
    if (recurrent(f)) state_matches(f, with[0].state, with[2].state);
}

/* Every document in pieces of `piece` tokens, each piece with a state that is a copy of the one
 * before. */
static void pieces(layer_fixture *f, int piece) {
    zb_state *last[DOCS];
    memset(f->y, 0, sizeof f->y);
    for (int s = 0; s < DOCS; s++) {
        const zb_span *doc = &f->span[s];
        zb_state *state = new_state(f, doc->n);
        for (int at = 0; at < doc->n; at += piece) {
            int n = doc->n - at < piece ? doc->n - at : piece;
            zb_state *copy = new_state(f, at + n + at % 5); /* other capacities */
            zb_state_copy(copy, state, config_of(f));
            state = copy;
            zb_span one = {.start = 0, .n = n, .state = state};
            mix(f, &one, 1, doc->start + at, n);
        }
        assert_int_equal(state->len, doc->n);
        last[s] = state;
    }
    output_matches(f);
    if (recurrent(f)) state_matches(f, last[0], last[2]);
}

static void check_recurrence(zb_kind kind) {
    static const enum zb_ssd_form forms[] = {ZB_SSD_AUTO, ZB_SSD_CHUNKED, ZB_SSD_STEPS};
    for (int i = 0; i < 3; i++) {
        layer_fixture f;
        open_layer(&f, kind);
        zb_runner_run(f.runner)->ssd_form = forms[i];
        whole(&f);
        static const int sizes[] = {1, 2, 3, 5, 31, 32, 33, 63, 64, 65, 100};
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) pieces(&f, sizes[k]);
        close_layer(&f);
    }
}

static void test_mamba2(void **unused) {
    (void)unused;
    check_recurrence(ZB_MAMBA2);
}

static void test_gated_deltanet(void **unused) {
    (void)unused;
    check_recurrence(ZB_GATED_DELTANET);
}

/* Gradients for gdn_dy. Sums over the tokens of the batch, so the tolerance is that of N terms. */
static void test_deltanet_gradients(void **unused) {
    (void)unused;
    layer_fixture f;
    open_layer(&f, ZB_GATED_DELTANET);
    zb_model_add_grads(f.model);
    zb_batch batch = {f.ids, N, f.span, DOCS};
    CHECK(zb_runner_begin(f.runner, &batch, &err));
    zb_run *run = zb_runner_run(f.runner);
    float *dx = ZB_NEW_ARRAY(&f.arena, float, N *D);
    void *tape;
    zb_mixer_gated_deltanet.forward(run, 0, f.x, f.y, &tape);
    zb_mixer_gated_deltanet.backward(run, 0, f.x, golden_f32(f.want, "gdn_dy", N * D), dx, tape);
    compare("gdn_dx", dx, golden_f32(f.want, "gdn_dx", N * D), N * D, f32_tolerance(1, N));
    zb_param_table *t = zb_model_params(f.model);
    int checked = 0;
    for (int i = 0; i < t->n; i++) {
        const char *tail = strstr(t->item[i].name, "linear_attn.");
        char name[96];
        if (!tail) continue;
        int64_t n = zb_param_count(&t->item[i]);
        snprintf(name, sizeof name, "gdn_grad.%s", tail + strlen("linear_attn."));
        compare(name, t->item[i].grad, golden_f32(f.want, name, n), n, f32_tolerance(1, N));
        checked++;
    }
    assert_int_equal(checked, 13);
    close_layer(&f);
}

static void test_mla(void **unused) {
    (void)unused;
    static const enum zb_mla_form forms[] = {ZB_MLA_AUTO, ZB_MLA_EXPANDED, ZB_MLA_ABSORBED};
    for (int i = 0; i < 3; i++) {
        layer_fixture f;
        open_layer(&f, ZB_MLA);
        zb_runner_run(f.runner)->mla_form = forms[i];
        whole(&f);
        static const int sizes[] = {1, 7, 64, 149};
        for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) pieces(&f, sizes[k]);
        close_layer(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mamba2), cmocka_unit_test(test_mla),
                                       cmocka_unit_test(test_gated_deltanet),
                                       cmocka_unit_test(test_deltanet_gradients)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
