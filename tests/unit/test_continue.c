/* Every mixer kind whose state has parts of a fixed size, cut anywhere: documents in one pass,
 * fresh and with states, in pieces through copied states, side by side with others, after going
 * back to a snapshot and with either form of a scan give the same outputs. (Attention, MLA and
 * Mamba2: tests/golden.) */
#include "../grad/grad.h"

#include "model/delta.h"
#include "model/ssd.h"
#include "model/state.h"

enum { TOKENS = 90, D = 12, BATCH = 3 };

static const grad_case kinds[] = {
    {"window 7, sinks 3", {.kind = ZB_SLIDING_WINDOW, .window = 7, .sinks = 3}, false, false},
    {"window 40, no sinks", {.kind = ZB_SLIDING_WINDOW, .window = 40}, true, false},
    {"window 2, sinks 9", {.kind = ZB_SLIDING_WINDOW, .window = 2, .sinks = 9}, false, false},
    {"windowed mamba2", {.kind = ZB_WINDOWED_MAMBA2, .window = 7, .sinks = 3}, false, false},
    {"windowed mamba2, repeated before the convolution",
     {.kind = ZB_WINDOWED_MAMBA2, .window = 40, .repeat_before_conv = true},
     true,
     false},
    {"gated deltanet", {.kind = ZB_GATED_DELTANET}, false, false},
    {"windowed deltanet",
     {.kind = ZB_WINDOWED_DELTANET,
      .window = 7,
      .sinks = 3,
      .conv_identity = true,
      .gate_bias = true},
     false,
     false},
    {"window 120, sinks 4", {.kind = ZB_SLIDING_WINDOW, .window = 120, .sinks = 4}, false, false},
    {"window 7, second head sees all",
     {.kind = ZB_SLIDING_WINDOW, .window = 7, .sinks = 3, .retrieval = 2},
     true,
     false},
    {"window 7, all heads see all",
     {.kind = ZB_SLIDING_WINDOW, .window = 7, .retrieval = 3},
     false,
     false},
    {"window 7, narrow heads see all",
     {.kind = ZB_SLIDING_WINDOW, .window = 7, .sinks = 3, .retrieval = 3, .far_k = 2, .far_v = 7},
     false,
     false},
    {"windowed mamba2, first head sees all",
     {.kind = ZB_WINDOWED_MAMBA2, .window = 7, .sinks = 3, .retrieval = 1},
     false,
     false},
};
enum { KINDS = sizeof kinds / sizeof kinds[0] };
static const zb_dtype types[] = {ZB_F32, ZB_BF16, ZB_F16, ZB_Q8_0};
static const double tolerance = 0x1p-24 * 16 * 9.5; /* f32_tolerance(1, TOKENS) */

typedef struct fixture {
    zb_model *m;
    zb_runner *r;
    zb_arena arena;
    int32_t ids[BATCH * TOKENS];
    float x[BATCH * TOKENS * D], y[BATCH * TOKENS * D], want[BATCH * TOKENS * D];
    char name[96];
} fixture;

static void open_fixture(fixture *f, const grad_case *kind, zb_dtype type) {
    static const char *const names[] = {"f32", "bf16", "f16", "q8_0"};
    memset(f, 0, sizeof *f);
    zb_config c = case_config(kind);
    c.cache = type;
    snprintf(f->name, sizeof f->name, "%s, cache %s", kind->name,
             type == ZB_F32    ? names[0]
             : type == ZB_BF16 ? names[1]
             : type == ZB_F16  ? names[2]
                               : names[3]);
    CHECK(zb_model_new(&f->m, &c, &err));
    randomise(f->m, 5);
    zb_model_set_cache(f->m, type);
    CHECK(zb_runner_new(&f->r, f->m, ZB_PREC_F32, &err));
    fill(f->x, BATCH * TOKENS * D, 1, 0, 21);
}

static void close_fixture(fixture *f) {
    zb_runner_free(f->r);
    zb_model_free(f->m);
    zb_arena_free(&f->arena);
}

static const zb_config *config_of(const fixture *f) { return zb_model_config(f->m); }

/* Keys are rounded as they enter a cache: one whose f32 sum differs in its last bit, as sums of
 * batches of other lengths do, may fall to the next value of the type. That is rare and far below
 * the error of a wrong row, which is of the size of the outputs. */
static void same(const fixture *f, const float *got, const float *want, int rows, double times) {
    if (config_of(f)->cache == ZB_F32)
        compare(f->name, got, want, rows * D, times * tolerance);
    else
        compare_rms(f->name, got, want, rows * D, 0.002);
}

/* The mixer over spans whose first token is token `first` of x. */
static void mix(fixture *f, const zb_span *span, int n_spans, int first, float *y) {
    int n = span[n_spans - 1].start + span[n_spans - 1].n;
    zb_batch batch = {f->ids, n, span, n_spans};
    CHECK(zb_runner_begin(f->r, &batch, &err));
    zb_run *run = zb_runner_run(f->r);
    zb_mark mark = zb_arena_mark(run->arena);
    zb_mixer_of(config_of(f)->layer[0].kind)
        ->forward(run, 0, f->x + (size_t)first * D, y + (size_t)first * D, NULL);
    zb_arena_pop(run->arena, mark);
    for (int s = 0; s < n_spans; s++)
        if (span[s].state) span[s].state->len += span[s].n;
}

static zb_state *new_state(fixture *f, int tokens) {
    size_t bytes = zb_state_size(config_of(f), tokens);
    uint8_t *mem = zb_alloc(&f->arena, bytes);
    memset(mem, 0xff, bytes); /* NaN wherever something is read before it was written */
    return zb_state_init((zb_state *)(void *)mem, config_of(f), tokens);
}

/* The first document in pieces; every piece continues a copy of the state before it. */
static void check_pieces(fixture *f, int piece) {
    zb_state *state = new_state(f, TOKENS);
    memset(f->y, 0, sizeof f->y);
    for (int at = 0; at < TOKENS; at += piece) {
        int n = TOKENS - at < piece ? TOKENS - at : piece;
        zb_state *copy = new_state(f, at + n + at % 5);
        zb_state_copy(copy, state, config_of(f));
        state = copy;
        zb_span one = {.n = n, .state = state};
        mix(f, &one, 1, at, f->y);
    }
    same(f, f->y, f->want, TOKENS, 1);
}

/* Three documents that have come differently far, token by token beside each other. */
static void check_batch(fixture *f) {
    static const int start[BATCH] = {0, 13, 61};
    zb_span span[BATCH];
    zb_state *state[BATCH];
    float y[BATCH * D];
    memset(f->y, 0, sizeof f->y);
    for (int b = 0; b < BATCH; b++) {
        state[b] = new_state(f, TOKENS);
        zb_span head = {.n = start[b], .state = state[b]};
        if (start[b]) mix(f, &head, 1, b * TOKENS, f->y);
    }
    for (int t = 0; t < TOKENS - 61; t++) {
        float x[BATCH * D];
        for (int b = 0; b < BATCH; b++) {
            span[b] = (zb_span){.start = b, .n = 1, .state = state[b]};
            memcpy(x + (size_t)b * D, f->x + (size_t)(b * TOKENS + start[b] + t) * D, D * 4);
        }
        zb_batch batch = {f->ids, BATCH, span, BATCH};
        CHECK(zb_runner_begin(f->r, &batch, &err));
        zb_run *run = zb_runner_run(f->r);
        zb_mixer_of(config_of(f)->layer[0].kind)->forward(run, 0, x, y, NULL);
        for (int b = 0; b < BATCH; b++) {
            state[b]->len++;
            memcpy(f->y + (size_t)(b * TOKENS + start[b] + t) * D, y + (size_t)b * D, D * 4);
        }
    }
    for (int b = 0; b < BATCH; b++) {
        size_t at = (size_t)b * TOKENS * D;
        same(f, f->y + at, f->want + at, start[b] + TOKENS - 61, 1);
    }
}

/* Back from token 70 to token 30 by putting the fixed parts back, then forward again. */
static void check_snapshot(fixture *f) {
    zb_state *s = new_state(f, TOKENS);
    memset(f->y, 0, sizeof f->y);
    zb_span head = {.n = 30, .state = s}, rest = {.n = 40, .state = s},
            again = {.n = 60, .state = s};
    mix(f, &head, 1, 0, f->y);
    uint8_t *kept = zb_alloc(&f->arena, s->bytes);
    memcpy(kept, s->data, s->bytes);
    mix(f, &rest, 1, 30, f->y);
    memcpy(s->data, kept, s->bytes);
    s->len = 30;
    mix(f, &again, 1, 30, f->y);
    same(f, f->y, f->want, TOKENS, 1);
}

/* `want` is one pass with states, which keep keys and values rounded to the cache's type; in f32
 * that must be the same as fresh documents without states. */
static void check_kind(const grad_case *kind, zb_dtype type) {
    fixture f;
    open_fixture(&f, kind, type);
    zb_span fresh[BATCH], with[BATCH];
    for (int b = 0; b < BATCH; b++) {
        fresh[b] = (zb_span){.start = b * TOKENS, .n = TOKENS};
        with[b] = fresh[b];
        with[b].state = new_state(&f, TOKENS);
    }
    mix(&f, with, BATCH, 0, f.want);
    mix(&f, fresh, BATCH, 0, f.y);
    if (type == ZB_F32) {
        compare(f.name, f.y, f.want, BATCH * TOKENS * D, tolerance);
    } else { /* a cache of 8 bits costs below 2 % here; 0 would mean that nothing was rounded */
        bool stores = zb_state_rings(config_of(&f), 0) + zb_state_planes(config_of(&f), 0) > 0;
        compare_rms(f.name, f.y, f.want, BATCH * TOKENS * D, 0.02);
        assert_int_equal(stores, memcmp(f.y, f.want, sizeof f.y) != 0);
    }
    for (int b = 0; b < BATCH; b++) {
        zb_span alone = {.n = TOKENS};
        mix(&f, &alone, 1, b * TOKENS, f.y);
    }
    if (type == ZB_F32) compare(f.name, f.y, f.want, BATCH * TOKENS * D, tolerance);
    static const int pieces[] = {1, 2, 3, 6, 7, 8, 31, 32, 33, 89};
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) check_pieces(&f, pieces[i]);
    check_batch(&f);
    check_snapshot(&f);
    static const enum zb_ssd_form forms[] = {ZB_SSD_CHUNKED, ZB_SSD_STEPS};
    for (int i = 0; i < 2 && type == ZB_F32; i++) { /* the scans that the kind has, if any */
        zb_runner_run(f.r)->ssd_form = forms[i];
        mix(&f, fresh, BATCH, 0, f.y);
        compare(f.name, f.y, f.want, BATCH * TOKENS * D, tolerance);
        check_pieces(&f, 33);
        check_batch(&f);
    }
    close_fixture(&f);
}

static void test_kinds(void **unused) {
    (void)unused;
    for (int k = 0; k < KINDS; k++)
        for (int t = 0; t < 4; t++) check_kind(&kinds[k], types[t]);
}

/* States keep their size whatever the capacity, but for the planes of heads that see all, and the
 * parts say how large they are. */
static void test_size(void **unused) {
    (void)unused;
    for (int k = 0; k < KINDS; k++)
        for (int t = 0; t < 4; t++) {
            zb_config c = case_config(&kinds[k]);
            c.cache = types[t];
            int far = zb_config_far_heads(&c, 0);
            size_t token = (size_t)far * (zb_cells_row(c.cache, zb_config_far_key(&c, 0)) +
                                          zb_cells_row(c.cache, zb_config_far_value(&c, 0)));
            assert_int_equal(zb_state_token_bytes(&c, 0), token);
            assert_true(zb_state_size(&c, 128000) - zb_state_size(&c, 64000) == 64000 * token);
            int rings = zb_config_narrow(&c, 0) ? c.G : c.layer[0].window ? c.G - far : 0;
            assert_int_equal(zb_state_rings(&c, 0), 2 * rings);
            size_t held = zb_state_size(&c, 0) - sizeof(zb_state),
                   parts = zb_state_fixed_bytes(&c, 0);
            assert_true(held >= parts && held < parts + 64 * (1 + (size_t)zb_state_rings(&c, 0)));
        }
}

/* A window that holds the whole document is attention, and so are heads that see all. */
static void test_wide_window(void **unused) {
    (void)unused;
    fixture wide, all, far;
    grad_case attention = {"attention", {.kind = ZB_ATTENTION}, true, false},
              window = {"wide",
                        {.kind = ZB_SLIDING_WINDOW, .window = TOKENS, .sinks = 2},
                        true,
                        false},
              heads = {
                  "far", {.kind = ZB_SLIDING_WINDOW, .window = 3, .retrieval = 3}, true, false};
    open_fixture(&wide, &window, ZB_F32);
    open_fixture(&all, &attention, ZB_F32);
    open_fixture(&far, &heads, ZB_F32);
    zb_span span = {.n = TOKENS};
    mix(&wide, &span, 1, 0, wide.y);
    mix(&all, &span, 1, 0, all.y);
    mix(&far, &span, 1, 0, far.y);
    compare("wide window", wide.y, all.y, TOKENS * D, tolerance);
    compare("all heads see all", far.y, all.y, TOKENS * D, 0);
    close_fixture(&far);
    close_fixture(&wide);
    close_fixture(&all);
}

/* Tokens that forget all that came, between others that forget little: both forms of either scan
 * agree as they do without. */
static void test_resets(void **unused) {
    (void)unused;
    enum { T = 70, N = 8 };
    static const float resets[] = {0, -50, -1000, -1e5F};
    float q[T * N], k[T * N], v[T * N], g[T], step[T], beta[T], chunks[T * N], steps[T * N];
    zb_arena a = {0};
    float *work = ZB_NEW_ARRAY(&a, float, zb_delta_work(T, N) + zb_ssd_work(T, N));
    for (size_t i = 0; i < sizeof resets / sizeof *resets; i++) {
        fill(q, T * N, 1, 0, 31);
        fill(k, T * N, 0.25, 0, 32);
        fill(v, T * N, 1, 0, 33);
        for (int t = 0; t < T; t++) {
            g[t] = t % 19 == 3 ? resets[i] : -0.01F * (float)(1 + t % 5);
            step[t] = -g[t];
            beta[t] = 0.5F;
        }
        zb_delta d = {T, N, q, k, v, g, beta, N, 1, chunks, NULL};
        zb_delta_chunked(&d, work);
        d.o = steps;
        zb_delta_steps(&d, work);
        compare("delta", chunks, steps, T * N, tolerance);
        zb_ssd s = {T, N, -1, 0.5F, v, k, q, step, N, 1, N, chunks, NULL, false};
        zb_ssd_chunked(&s, work);
        s.y = steps;
        zb_ssd_steps(&s, work);
        compare("ssd", chunks, steps, T * N, tolerance);
    }
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kinds), cmocka_unit_test(test_size),
                                       cmocka_unit_test(test_wide_window),
                                       cmocka_unit_test(test_resets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
