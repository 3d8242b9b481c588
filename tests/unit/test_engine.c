/* Sessions over the tiny golden models: whatever way a session reaches a sequence, it must stand
 * where a fresh pass stands. */
#define KINDS TEST_OUT "/test-engine-kinds"
#define ALONE TEST_OUT "/test-engine-kind"
#include "kinds_model.h"

#include "base/arena.h"
#include "base/log.h"
#include "generate/bench.h"
#include "generate/bench_layer.h"
#include "generate/score.h"
#include "generate/session.h"
#include "generate/stream.h"
#include "zebra.h"

#include <signal.h>

static const char *const dirs[] = {
    "llama",         "qwen2-bias",    "llama3-rope-untied", "hybrid", "hybrid-yarn-attention",
    "mamba2-repeat", "mla-norm-yarn", "hybrid-odd-sizes",   KINDS};
enum { N_DIRS = sizeof dirs / sizeof dirs[0], CONTEXT = 1500 };

typedef struct fixture {
    zb_engine *e;
    zb_arena arena;
    int V;
    bool recurrent;
} fixture;

static const char *cache_type = "f32"; /* of the engines that are opened next */

static void open_threads(fixture *f, const char *dir, int threads) {
    char path[512];
    zb_err err = {0};
    memset(f, 0, sizeof *f);
    bool made = !strcmp(dir, KINDS) || !strcmp(dir, ALONE);
    snprintf(path, sizeof path, "%s%s", made ? "" : "tests/golden/", dir);
    zb_engine_opts o = {
        .threads = threads, .context = CONTEXT, .precision = "f32", .cache = cache_type};
    if (zb_engine_open(&f->e, path, &o, &err) != ZB_OK) fail_msg("%s", err.msg);
    f->V = zb_engine_vocab(f->e);
    const zb_config *c = zb_model_config(zb_engine_model(f->e));
    for (int l = 0; l < c->L; l++)
        f->recurrent |= c->layer[l].kind != ZB_ATTENTION && c->layer[l].kind != ZB_MLA;
}

/* One thread: these models are too small to share, and the machine may be busy. */
static void open_fixture(fixture *f, const char *dir) { open_threads(f, dir, 1); }

static void close_fixture(fixture *f) {
    zb_engine_close(f->e);
    zb_arena_free(&f->arena);
}

static int32_t *random_ids(fixture *f, int n, uint64_t seed) {
    int32_t *ids = ZB_NEW_ARRAY(&f->arena, int32_t, n);
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)zb_rng_below(seed, ZB_RNG_TEST, (uint64_t)i, (uint32_t)f->V);
    return ids;
}

static zb_session *new_session(fixture *f, int max) {
    zb_session *s;
    zb_err err = {0};
    if (zb_session_new(&s, f->e, max, &err) != ZB_OK) fail_msg("%s", err.msg);
    return s;
}

/* The session's logits against one pass over the whole sequence without any state. */
static void stands_at(fixture *f, const zb_session *s, const int32_t *ids, int n) {
    int held;
    const int32_t *tokens = zb_session_tokens(s, &held);
    assert_int_equal(held, n);
    assert_memory_equal(tokens, ids, (size_t)n * sizeof *ids);
    zb_runner *r = zb_engine_runner(f->e);
    const zb_config *c = zb_model_config(zb_engine_model(f->e));
    zb_mark mark = zb_arena_mark(&f->arena);
    float *hidden = ZB_NEW_ARRAY(&f->arena, float, n * c->D),
          *want = ZB_NEW_ARRAY(&f->arena, float, c->V);
    zb_span span = {.start = 0, .n = n};
    zb_batch batch = {ids, n, &span, 1};
    CHECK(zb_runner_begin(r, &batch, &err));
    zb_runner_forward(r, hidden, NULL);
    zb_runner_logits(r, hidden + (size_t)(n - 1) * c->D, 1, want);
    assert_non_null(zb_session_logits(s));
    /* two computations in f32, each with its own rounding */
    compare("logits", zb_session_logits(s), want, c->V,
            2 * f32_tolerance(c->L, n > c->F ? n : c->F));
    zb_arena_pop(&f->arena, mark);
}

static void test_golden_logits(void **unused) {
    (void)unused;
    fixture f;
    open_fixture(&f, "llama");
    zb_safetensors *want;
    CHECK(zb_safetensors_open(&want, "tests/golden/llama/golden.safetensors", &err));
    const zb_tensor *t = zb_safetensors_find(want, "input_ids");
    int B = (int)t->shape[0], T = (int)t->shape[1];
    const int32_t *ids = t->data;
    const float *logits = golden_f32(want, "logits", (int64_t)B * T * f.V);
    zb_session *s = new_session(&f, 0);
    for (int b = 0; b < B; b++) {
        CHECK(zb_session_sync(s, ids + b * T, T - 1, &err));
        CHECK(zb_session_step(s, ids[b * T + T - 1], &err));
        compare("logits", zb_session_logits(s), logits + (int64_t)((b + 1) * T - 1) * f.V, f.V,
                f32_tolerance(zb_model_config(zb_engine_model(f.e))->L, 160));
    }
    zb_session_free(s);
    zb_safetensors_close(want);
    close_fixture(&f);
}

static void test_sync(void **unused) {
    (void)unused;
    for (int d = 0; d < N_DIRS; d++) {
        print_message("%s\n", dirs[d]);
        fixture f;
        open_fixture(&f, dirs[d]);
        enum { LONG = 1100 };
        int32_t *a = random_ids(&f, LONG, 1), *b = random_ids(&f, LONG, 2);
        zb_session *s = new_session(&f, 0);
        CHECK(zb_session_sync(s, a, 200, &err));
        stands_at(&f, s, a, 200);
        CHECK(zb_session_sync(s, a, 200, &err)); /* nothing to do */
        assert_int_equal(zb_session_computed(s), 200);
        for (int i = 200; i < 230; i++) CHECK(zb_session_step(s, a[i], &err));
        stands_at(&f, s, a, 230);
        CHECK(zb_session_sync(s, a, LONG, &err)); /* an extension in several chunks, with growth */
        assert_int_equal(zb_session_computed(s), LONG);
        stands_at(&f, s, a, LONG);
        static const int common[] = {790, 513, 512, 3, 0};
        for (size_t i = 0; i < sizeof common / sizeof common[0];
             i++) { /* diverge, and back to the first */
            int n = common[i] + 60;
            int32_t *mixed = ZB_NEW_ARRAY(&f.arena, int32_t, n);
            memcpy(mixed, a, (size_t)common[i] * sizeof *a);
            memcpy(mixed + common[i], b, 60 * sizeof *b);
            if (mixed[common[i]] == a[common[i]]) mixed[common[i]] = (a[common[i]] + 1) % f.V;
            CHECK(zb_session_sync(s, mixed, n, &err));
            stands_at(&f, s, mixed, n);
            CHECK(zb_session_sync(s, mixed, n - 20, &err)); /* shorter */
            stands_at(&f, s, mixed, n - 20);
            CHECK(zb_session_sync(s, a, 800, &err));
            stands_at(&f, s, a, 800);
        }
        CHECK(zb_session_sync(s, NULL, 0, &err));
        assert_null(zb_session_logits(s));
        CHECK(zb_session_step(s, b[0], &err)); /* from nothing */
        stands_at(&f, s, b, 1);
        zb_session_free(s);
        close_fixture(&f);
    }
}

/* A chat's next turn: the last few tokens of the prompt differ, an answer was generated behind
 * them. */
static void test_reuse(void **unused) {
    (void)unused;
    for (int d = 0; d < N_DIRS; d++) {
        fixture f;
        open_fixture(&f, dirs[d]);
        int32_t *a = random_ids(&f, 1400, 1);
        zb_session *s = new_session(&f, 0);
        CHECK(zb_session_sync(s, a, 1000, &err));
        for (int i = 0; i < 50; i++) CHECK(zb_session_step(s, a[i], &err));
        int64_t before = zb_session_computed(s);
        a[995] = (a[995] + 1) % f.V;
        CHECK(zb_session_sync(s, a, 1100, &err));
        int64_t done = zb_session_computed(s) - before;
        assert_in_range(done, 105,
                        f.recurrent ? 116 : 105); /* recurrent: from the snapshot before the tail */
        stands_at(&f, s, a, 1100);
        before = zb_session_computed(s);
        a[700] = (a[700] + 1) % f.V; /* in the middle: from the last chunk before it */
        CHECK(zb_session_sync(s, a, 1100, &err));
        done = zb_session_computed(s) - before;
        assert_in_range(done, 400, f.recurrent ? 1100 - ZB_CHUNK : 400);
        stands_at(&f, s, a, 1100);
        zb_session_free(s);
        close_fixture(&f);
    }
}

static void test_batch(void **unused) {
    (void)unused;
    enum { N = 6, STEPS = 5 };
    for (int d = 0; d < N_DIRS; d++) {
        fixture f;
        open_threads(&f, dirs[d], 2);
        assert_int_equal(zb_engine_threads(f.e), 2);
        zb_session *s[N];
        int32_t *ids[N];
        for (int i = 0; i < N; i++) {
            ids[i] = random_ids(&f, 100, (uint64_t)i + 10);
            s[i] = new_session(&f, 100);
            CHECK(zb_session_sync(s[i], ids[i], 7 * i,
                                  &err)); /* different lengths, the first empty */
        }
        for (int k = 0; k < STEPS; k++) {
            zb_step_item next[N];
            for (int i = 0; i < N; i++) next[i] = (zb_step_item){s[i], ids[i] + 7 * i + k, 1};
            CHECK(zb_step(next, N, &err));
        }
        for (int i = 0; i < N; i++) {
            stands_at(&f, s[i], ids[i], 7 * i + STEPS);
            zb_session_free(s[i]);
        }
        close_fixture(&f);
    }
}

static void says(zb_status got, zb_status want, const zb_err *err, const char *text) {
    assert_int_equal(got, want);
    if (!strstr(err->msg, text)) fail_msg("expected \"...%s...\", found \"%s\"", text, err->msg);
}

static void test_refusals(void **unused) {
    (void)unused;
    fixture f, g;
    zb_err told = {0};
    open_fixture(&f, "hybrid");
    open_fixture(&g, "llama");
    int32_t *a = random_ids(&f, 100, 1), bad[] = {1, 2, f.V, 3};
    zb_session *s = new_session(&f, 50), *t = new_session(&g, 50), *none;
    CHECK(zb_session_sync(s, a, 40, &err));
    says(zb_session_sync(s, bad, 4, &told), ZB_ERR_CONFIG, &told,
         "token 2: expected an id from 0 to");
    says(zb_session_step(s, -1, &told), ZB_ERR_CONFIG, &told, "expected an id from 0 to");
    says(zb_session_sync(s, a, 51, &told), ZB_ERR_CONFIG, &told,
         "51 tokens, but the context holds 50");
    says(zb_session_sync(s, a, -1, &told), ZB_ERR_CONFIG, &told, "found -1");
    stands_at(&f, s, a, 40); /* nothing of this has changed it */
    zb_step_item twice[] = {{s, a, 1}, {s, a, 1}}, mixed[] = {{s, a, 1}, {t, a, 1}};
    zb_step_item none_new = {s, a, 0}, long_one = {s, a, 11}, bad_one = {s, bad, 4};
    says(zb_step(twice, 2, &told), ZB_ERR_CONFIG, &told, "sessions 0 and 1 are the same");
    says(zb_step(mixed, 2, &told), ZB_ERR_CONFIG, &told, "session 1 belongs to another engine");
    says(zb_step(mixed, 0, &told), ZB_ERR_CONFIG, &told, "expected 1 or more sessions");
    says(zb_step(&none_new, 1, &told), ZB_ERR_CONFIG, &told, "expected 1 or more tokens, found 0");
    says(zb_step(&long_one, 1, &told), ZB_ERR_CONFIG, &told, "51 tokens, but the context holds 50");
    says(zb_step(&bad_one, 1, &told), ZB_ERR_CONFIG, &told, "token 2: expected an id from 0 to");
    for (int i = 40; i < 50; i++) CHECK(zb_session_step(s, a[i], &err));
    says(zb_session_step(s, a[50], &told), ZB_ERR_CONFIG, &told, "the context holds 50");
    stands_at(&f, s, a, 50);
    says(zb_session_new(&none, f.e, CONTEXT + 1, &told), ZB_ERR_CONFIG, &told,
         "expected 0 to 1500 tokens");
    assert_null(none);
    zb_session_free(s);
    zb_session_free(t);
    zb_session_free(NULL);
    size_t n;
    says(zb_engine_encode(f.e, "text", 0, NULL, 0, &n, &told), ZB_ERR_CONFIG, &told,
         "expected a tokenizer");
    close_fixture(&f);
    close_fixture(&g);
    zb_engine *e;
    says(zb_engine_open(&e, "tests/golden/no-such-model", NULL, &told), ZB_ERR_IO, &told,
         "expected a model folder or a .gguf file");
    assert_null(e);
    says(zb_engine_open(&e, "tests/golden/llama", &(zb_engine_opts){.precision = "f8"}, &told),
         ZB_ERR_CONFIG, &told, "expected auto, f32, bf16 or int8");
    says(zb_engine_open(&e, "tests/golden/llama", &(zb_engine_opts){.context = -1}, &told),
         ZB_ERR_CONFIG, &told, "context: expected");
    assert_int_equal(zb_engine_open(&e, "tests/golden/no-such.gguf", NULL, &told), ZB_ERR_IO);
}

/* Decoding takes no memory from the system while the session's capacity lasts. */
static void test_steps_allocate_nothing(void **unused) {
    (void)unused;
    for (int d = 0; d < N_DIRS; d++) {
        fixture f;
        open_fixture(&f, dirs[d]);
        int32_t *a = random_ids(&f, 200, 1);
        zb_session *s = new_session(&f, 200);
        CHECK(zb_session_sync(s, a, 60, &err));
        for (int i = 60; i < 70; i++) CHECK(zb_session_step(s, a[i], &err));
        uint64_t before = zb_heap_count();
        for (int i = 70; i < 120; i++) CHECK(zb_session_step(s, a[i], &err));
        assert_int_equal(zb_heap_count(), before);
        zb_session_free(s);
        close_fixture(&f);
    }
}

static void test_score(void **unused) {
    (void)unused;
    fixture f;
    open_fixture(&f, "hybrid");
    enum { N = 1200 };
    int32_t *a = random_ids(&f, N, 3);
    zb_token_score *all = ZB_NEW_ARRAY(&f.arena, zb_token_score, N);
    CHECK(zb_score(f.e, a, N, all, &err));
    zb_session *s = new_session(&f, 0);
    assert_int_equal(all[0].best, -1);
    static const int at[] = {1, 2, 127, 128, 129, 511, 512, 513, 1199};
    for (size_t k = 0; k < sizeof at / sizeof at[0]; k++) {
        CHECK(zb_session_sync(s, a, at[k], &err));
        const float *l = zb_session_logits(s);
        double sum = 0;
        int best = 0;
        for (int v = 0; v < f.V; v++) {
            sum += exp((double)l[v]);
            if (l[v] > l[best]) best = v;
        }
        const zb_token_score *got = &all[at[k]];
        assert_true(fabs(got->logprob - ((double)l[a[at[k]]] - log(sum))) < 1e-4);
        assert_true(fabs(got->best_logprob - ((double)l[best] - log(sum))) < 1e-4);
        assert_int_equal(got->best, best);
    }
    zb_session_free(s);
    zb_err told = {0};
    says(zb_score(f.e, a, 0, all, &told), ZB_ERR_CONFIG, &told, "at least one token");
    close_fixture(&f);
}

typedef struct heard {
    int32_t id[64];
    int n, stop_after;
} heard;

static bool hear(void *user, int32_t id) {
    heard *h = user;
    h->id[h->n++] = id;
    return h->n != h->stop_after;
}

static void test_generate(void **unused) {
    (void)unused;
    fixture f;
    open_fixture(&f, "hybrid");
    int32_t *a = random_ids(&f, 100, 5), first[64];
    zb_session *s = new_session(&f, 40);
    zb_sampler *greedy;
    CHECK(zb_sampler_new(&greedy, &(zb_sampling){0}, f.V, &err));
    heard h = {.stop_after = -1};
    zb_generation g;
    zb_generate_request r = {
        .prompt = a, .n = 10, .max = 8, .ignore_end = true, .on_token = hear, .user = &h};
    CHECK(zb_generate(s, greedy, &r, &g, &err));
    assert_int_equal(h.n, 8);
    assert_int_equal(g.tokens, 8);
    assert_int_equal(g.computed, 10);
    assert_int_equal(g.steps, 7);
    assert_int_equal(g.finish, ZB_FINISH_LENGTH);
    memcpy(first, h.id, sizeof first);
    for (int i = 0; i < 8; i++) { /* each is the best behind those before it */
        CHECK(zb_session_sync(s, a, 10 + i, &err));
        const float *l = zb_session_logits(s);
        for (int v = 0; v < f.V; v++) assert_true(l[v] <= l[first[i]]);
        a[10 + i] = first[i];
    }
    h = (heard){.stop_after = 3};
    CHECK(zb_generate(s, greedy, &r, &g, &err));
    assert_int_equal(g.finish, ZB_FINISH_CALLER);
    assert_int_equal(g.tokens, 3);
    assert_memory_equal(h.id, first, 3 * sizeof *first);
    h = (heard){.stop_after = -1};
    r.max = -1; /* as many as fit: the last chosen token needs no room */
    CHECK(zb_generate(s, greedy, &r, &g, &err));
    assert_int_equal(g.tokens, 31);
    assert_memory_equal(h.id, first, 8 * sizeof *first);
    r.n = 0;
    zb_err err = {0};
    says(zb_generate(s, greedy, &r, &g, &err), ZB_ERR_CONFIG, &err, "at least one token");
    zb_sampler_free(greedy);
    zb_session_free(s);
    close_fixture(&f);
}

/* A prompt whose best next token is an end token. */
static void test_generate_stops(void **unused) {
    (void)unused;
    fixture f;
    open_fixture(&f, "llama");
    const zb_config *c = zb_model_config(zb_engine_model(f.e));
    if (c->n_eos == 0) fail_msg("the fixture names no end token");
    int32_t a[] = {1, 2, 3};
    zb_session *s = new_session(&f, 0);
    /* the end token is the best choice behind few prompts: look for one */
    zb_sampler *greedy;
    CHECK(zb_sampler_new(&greedy, &(zb_sampling){0}, f.V, &err));
    bool found = false;
    for (int x = 0; x < f.V * f.V && !found; x++) {
        a[0] = x % f.V;
        a[1] = x / f.V;
        CHECK(zb_session_sync(s, a, 2, &err));
        if (!zb_engine_is_end(f.e, zb_sampler_pick(greedy, zb_session_logits(s), a, 2))) continue;
        found = true;
        heard h = {.stop_after = -1};
        zb_generation g;
        zb_generate_request r = {.prompt = a, .n = 2, .max = 5, .on_token = hear, .user = &h};
        CHECK(zb_generate(s, greedy, &r, &g, &err));
        assert_int_equal(g.finish, ZB_FINISH_END);
        assert_int_equal(h.n, 0);
        r.ignore_end = true;
        CHECK(zb_generate(s, greedy, &r, &g, &err));
        assert_int_equal(g.finish, ZB_FINISH_LENGTH);
        assert_int_equal(h.n, 5);
        assert_true(zb_engine_is_end(f.e, h.id[0]));
    }
    assert_true(found);
    zb_sampler_free(greedy);
    zb_session_free(s);
    close_fixture(&f);
}

/* Whatever a token ends in, only whole characters leave the stream, and together they are the text.
 */
static void test_stream(void **unused) {
    (void)unused;
    zb_tokenizer *t;
    zb_arena a = {0};
    zb_ids ids;
    zb_stream s;
    zb_str part;
    static const char text[] = "wörld 🙂 \u4f60\u597d, na\u00efve \U0001F9E0!";
    CHECK(zb_tokenizer_open(&t, "tests/format/tokenizer/gpt2_digits", &err));
    CHECK(zb_tokenizer_encode(t, zb_str_from(text), false, false, &a, &ids, &err));
    zb_stream_init(&s, t, false);
    zb_buf all;
    zb_buf_init(&all, 1000);
    int waited = 0;
    for (size_t i = 0; i < ids.n; i++) {
        CHECK(zb_stream_push(&s, ids.id[i], &part, &err));
        waited += part.n == 0;
        for (size_t at = 0; at < part.n;) {
            uint32_t cp;
            size_t n = zb_utf8_decode(part.p + at, part.n - at, &cp);
            assert_in_range(n, 1, 4);
            at += n;
        }
        zb_buf_add(&all, part.p, part.n);
    }
    assert_true(waited > 0); /* the case this is about: a small vocabulary splits characters */
    assert_int_equal(zb_stream_end(&s).n, 0);
    assert_string_equal(all.p, text);
    /* the first byte of a character alone: nothing yet, then its replacement */
    CHECK(zb_tokenizer_encode(t, ZB_STR("\xf0"), false, false, &a, &ids, &err));
    CHECK(zb_stream_push(&s, ids.id[0], &part, &err));
    assert_int_equal(part.n, 0);
    assert_true(zb_str_is(zb_stream_end(&s), "\xef\xbf\xbd"));
    CHECK(zb_stream_push(&s, zb_tokenizer_vocab(t), &part, &err)); /* only the embedding has it */
    assert_int_equal(part.n, 0);
    zb_buf_free(&all);
    zb_stream_free(&s);
    zb_tokenizer_close(t);
    zb_arena_free(&a);
}

static void test_bench(void **unused) {
    (void)unused;
    fixture f;
    open_fixture(&f, "hybrid");
    const zb_config *c = zb_model_config(zb_engine_model(f.e));
    zb_bench_machine m = {.threads = 1, .read_rate = 1e10, .f32_rate = 1e11, .int8_rate = 2e11};
    zb_bench_case pp = {.prompt = 64}, tg = {.tokens = 4, .depth = 32},
                  both = {.prompt = 16, .tokens = 4, .depth = 40, .batch = 3};
    zb_bench *b, *filled, *bad;
    CHECK(zb_bench_new(&b, f.e, &m, &(zb_bench_opts){.runs = 3}, &err));
    CHECK(zb_bench_new(&filled, f.e, &m, &(zb_bench_opts){1, true}, &err));
    CHECK(zb_bench_run(b, &pp, &err));
    CHECK(zb_bench_run(filled, &tg, &err));
    CHECK(zb_bench_run(b, &both, &err));
    assert_int_equal(pp.runs, 3);
    assert_true(pp.mean > 0 && pp.sd >= 0 && pp.sd < pp.mean * 2);
    assert_true(tg.mean > 0 && tg.sd == 0);
    double bytes = (double)zb_model_bytes(zb_engine_model(f.e)), cache = 0, state = 0;
    for (int l = 0; l < c->L; l++) {
        cache += 4.0 * zb_config_cache(c, l);
        state += 8.0 * (double)zb_config_state(c, l);
    }
    assert_true(fabs(tg.weight_bytes - bytes) < 1); /* tied: the head streams the embedding */
    assert_true(fabs(tg.cache_bytes - 34 * cache) < 1 && fabs(tg.state_bytes - state) < 1);
    double moved = tg.weight_bytes + tg.cache_bytes + tg.state_bytes;
    assert_true(fabs(tg.share - moved * tg.mean / 1e10) < 1e-9);
    assert_true(fabs(both.weight_bytes - bytes / 3) < 1);
    assert_true(fabs(both.cache_bytes - 58 * cache) < 1 && both.mean > 0 && both.share > 0);
    /* What fits into a budget: the weights and two and a half sequences hold two. */
    size_t one = zb_state_size(c, 100);
    assert_int_equal(zb_bench_batch(f.e, (uint64_t)bytes + one * 5 / 2, 100), 2);
    assert_int_equal(zb_bench_batch(f.e, 1000, 100), 0);
    zb_err err = {0};
    zb_bench_case far = {.tokens = 10, .depth = CONTEXT}, none = {.depth = 3};
    zb_bench_case wide = {.tokens = 1, .depth = 1000, .batch = INT32_MAX};
    says(zb_bench_run(b, &far, &err), ZB_ERR_CONFIG, &err, "at most 1500");
    says(zb_bench_run(b, &none, &err), ZB_ERR_CONFIG, &err, "found 0 at depth 3");
    says(zb_bench_run(b, &wide, &err), ZB_ERR_MEMORY, &err, "this machine has");
    says(zb_bench_new(&bad, f.e, &m, &(zb_bench_opts){0}, &err), ZB_ERR_CONFIG, &err, "found 0");
    zb_bench_free(b);
    zb_bench_free(filled);
    close_fixture(&f);
}

/* Logits of a prompt in pieces, of steps behind it and of a step beside another session. */
static void follow(fixture *f, const int32_t *ids, int n, float *out) {
    zb_session *s = new_session(f, 0), *other = new_session(f, 0);
    zb_step_item both[] = {{s, ids + n - 1, 1}, {other, ids + 5, 1}};
    CHECK(zb_session_sync(s, ids, n - 3, &err));
    CHECK(zb_session_step(s, ids[n - 3], &err));
    CHECK(zb_session_step(s, ids[n - 2], &err));
    CHECK(zb_session_sync(other, ids, 5, &err));
    CHECK(zb_step(both, 2, &err));
    memcpy(out, zb_session_logits(s), (size_t)f->V * sizeof *out);
    /* back into the caches, and the same way again; rotary keys and recurrent parts included */
    CHECK(zb_session_sync(s, ids, n / 2, &err));
    CHECK(zb_session_sync(s, ids, n, &err));
    double worst = 0, size = 0;
    for (int i = 0; i < f->V; i++) {
        assert_true(isfinite(zb_session_logits(s)[i]) && isfinite(out[i]));
        worst = fmax(worst, fabs((double)zb_session_logits(s)[i] - (double)out[i]));
        size = fmax(size, fabs((double)out[i]));
    }
    assert_true(worst < 1e-3 * size);
    zb_session_free(s);
    zb_session_free(other);
}

/* A cache type costs what its rounding costs: errors of the logits, by the root of their mean
 * square, are a small multiple of the type's unit; q8_0 keeps a unit of the largest of 32 values,
 * about 2.2 times their usual size. */
static void check_cache_types(const char *model) {
    static const struct {
        const char *name;
        double unit;
    } kinds[] = {{"bf16", 0x1p-8}, {"f16", 0x1p-11}, {"q8_0", 2.2 / 254 + 0x1p-11}};
    enum { N = 400 };
    fixture f;
    open_fixture(&f, model);
    int32_t *ids = random_ids(&f, N, 9);
    float *exact = ZB_NEW_ARRAY(&f.arena, float, f.V), *got = ZB_NEW_ARRAY(&f.arena, float, f.V);
    follow(&f, ids, N, exact);
    size_t f32_bytes = zb_state_size(zb_model_config(zb_engine_model(f.e)), N);
    for (int k = 0; k < 3; k++) {
        fixture g;
        cache_type = kinds[k].name;
        open_fixture(&g, model);
        cache_type = "f32";
        follow(&g, ids, N, got);
        double error = 0, size = 0;
        for (int i = 0; i < f.V; i++) {
            error += pow((double)got[i] - (double)exact[i], 2);
            size += pow((double)exact[i], 2);
        }
        double ratio = sqrt(error / size) / kinds[k].unit;
        if (!(ratio > 0.001 && ratio < 2))
            fail_msg("%s, %s: error of %.3g units", model, kinds[k].name, ratio);
        const zb_config *c = zb_model_config(zb_engine_model(g.e));
        /* a head of 8 values takes a q8_0 block of 32 */
        assert_true(zb_state_size(c, N) < f32_bytes || (k == 2 && c->dh == 8));
        close_fixture(&g);
    }
    close_fixture(&f);
}

/* Kinds alone: random layers behind one another multiply what the first ones err by, in any type,
 * and by how much depends on their weights alone. */
static void test_cache_types(void **unused) {
    (void)unused;
    check_cache_types("llama");
    check_cache_types("hybrid");
    check_cache_types("mla-norm-yarn");
    for (int l = 0; l < KINDS_LAYERS; l++) {
        if (kinds_layers[l].kind == ZB_GATED_DELTANET) continue; /* a state, no cache */
        save_kinds(ALONE, l, 1);
        check_cache_types(ALONE);
        CHECK(zb_dir_remove(ALONE, &err));
    }
    zb_engine *e;
    zb_err told = {0};
    says(zb_engine_open(&e, "tests/golden/llama", &(zb_engine_opts){.cache = "q4_0"}, &told),
         ZB_ERR_CONFIG, &told, "expected f32, bf16, f16 or q8_0");
}

/* Caches that no machine holds are refused, and a signal ends the runs. */
static void test_bench_attend(void **state) {
    (void)state;
    zb_err told = {0};
    zb_bench_attend a = {.name = "one", .heads = 4, .groups = 2, .dk = 8, .dv = 8, .runs = 1};
    a.cache = "f32";
    a.depth = 100;
    assert_int_equal(zb_bench_attend_run(&a, &told), ZB_OK);
    assert_true(a.seconds > 0 && a.bytes == 100 * 2 * (8 + 8) * 4);
    a.runs = 1 << 30;
    zb_interrupt_install();
    raise(SIGINT);
    says(zb_bench_attend_run(&a, &told), ZB_ERR_INTERRUPTED, &told, "interrupted");
    zb_interrupt_clear();
    a.groups = a.heads = 1 << 20;
    a.depth = 1 << 30;
    says(zb_bench_attend_run(&a, &told), ZB_ERR_MEMORY, &told,
         "one: caches of 1073741824 tokens need");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_logits),  cmocka_unit_test(test_sync),
        cmocka_unit_test(test_reuse),          cmocka_unit_test(test_batch),
        cmocka_unit_test(test_refusals),       cmocka_unit_test(test_steps_allocate_nothing),
        cmocka_unit_test(test_score),          cmocka_unit_test(test_generate),
        cmocka_unit_test(test_generate_stops), cmocka_unit_test(test_stream),
        cmocka_unit_test(test_bench),          cmocka_unit_test(test_cache_types),
        cmocka_unit_test(test_bench_attend),
    };
    return cmocka_run_group_tests(tests, make_kinds, remove_kinds);
}
