/* Sequences that run together: within rounding as one at a time, in a deterministic engine the same
 * bits; and the batcher that keeps them running. */
#define KINDS TEST_OUT "/test-batch-kinds"
#include "kinds_model.h"

#include "generate/batcher.h"

#define GOLDEN "tests/golden/"
static const char *const dirs[] = {GOLDEN "llama",
                                   GOLDEN "hybrid",
                                   KINDS,
                                   GOLDEN "hybrid-odd-sizes",
                                   GOLDEN "mamba2-repeat",
                                   GOLDEN "hybrid-yarn-attention"};
static const char real_model[] = "data/model/SmolLM2-135M-Instruct.Q4_1.gguf";
enum { N_DIRS = sizeof dirs / sizeof dirs[0], CONTEXT = 1400, SEQUENCES = 12 };

/* One sequence of a mix: how many tokens each round brings. 0 ends it. */
typedef struct course {
    int round[6];
} course;

/* Prompts whole, in pieces, beside single tokens; more tokens than one pass takes. */
static const course courses[SEQUENCES] = {
    {{5, 1, 1, 1, 1, 1}},   {{1, 1, 1, 1, 1, 1}},     {{40, 33, 1, 1, 7, 1}},
    {{2, 2, 2, 2, 2, 2}},   {{700, 1, 1, 513, 1, 1}}, {{17, 1, 1, 1, 1, 1}},
    {{3, 1, 4, 1, 5, 1}},   {{1, 64, 1, 65, 1, 1}},   {{9, 1, 1, 1, 1, 1}},
    {{512, 1, 1, 1, 1, 1}}, {{31, 32, 33, 1, 1, 1}},  {{8, 1, 1, 1, 1, 1}},
};

typedef struct fixture {
    zb_engine *e;
    zb_arena arena;
    int V;
    int32_t *ids[SEQUENCES];
} fixture;

/* Two threads only where the model is worth sharing or the test is about them: waiting threads are
 * slow on a busy machine. */
static void open_fixture(fixture *f, const char *path, const char *precision, bool deterministic) {
    memset(f, 0, sizeof *f);
    int threads =
        deterministic && (strstr(path, "hybrid-odd") || !strcmp(path, KINDS) || path == real_model)
            ? 2
            : 1;
    zb_engine_opts o = {
        .threads = threads, .context = CONTEXT, .precision = precision, .cache = "f32"};
    o.deterministic = deterministic;
    CHECK(zb_engine_open(&f->e, path, &o, &err));
    f->V = zb_engine_vocab(f->e);
    for (int i = 0; i < SEQUENCES; i++) {
        f->ids[i] = ZB_NEW_ARRAY(&f->arena, int32_t, CONTEXT);
        for (int t = 0; t < CONTEXT; t++)
            f->ids[i][t] =
                (int32_t)zb_rng_below((uint64_t)i + 1, ZB_RNG_TEST, (uint64_t)t, (uint32_t)f->V);
    }
}

static void close_fixture(fixture *f) {
    zb_engine_close(f->e);
    zb_arena_free(&f->arena);
}

/* Runs the sequences named in `who` together for `rounds` rounds; logits [n][rounds][V]. Sequence
 * who[k] starts in round `late[k]`. */
static float *run_together(fixture *f, const int *who, const int *late, int n, int rounds) {
    zb_session *s[SEQUENCES];
    int at[SEQUENCES] = {0};
    float *out = ZB_NEW_ARRAY(&f->arena, float, (size_t)n *(size_t)rounds * f->V);
    for (int k = 0; k < n; k++) CHECK(zb_session_new(&s[k], f->e, 0, &err));
    for (int r = 0, busy = 1; busy; r++) {
        zb_step_item items[SEQUENCES];
        int index[SEQUENCES], taken = 0;
        busy = 0;
        for (int k = 0; k < n; k++) {
            busy |= r < late[k] + rounds;
            if (r < late[k] || r >= late[k] + rounds) continue;
            int size = courses[who[k]].round[r - late[k]];
            items[taken] = (zb_step_item){s[k], f->ids[who[k]] + at[k], size};
            index[taken++] = k;
            at[k] += size;
        }
        if (taken) CHECK(zb_step(items, taken, &err));
        for (int i = 0; i < taken; i++)
            memcpy(out + ((size_t)index[i] * (size_t)rounds + (size_t)(r - late[index[i]])) *
                             (size_t)f->V,
                   zb_session_logits(s[index[i]]), (size_t)f->V * sizeof *out);
    }
    for (int k = 0; k < n; k++) zb_session_free(s[k]);
    return out;
}

/* Mixes of sequences against each of them alone; tolerance < 0: the same bits. */
static void check_mixes(fixture *f, int rounds, double tolerance) {
    static const struct {
        int n, who[SEQUENCES], late[SEQUENCES];
    } mixes[] = {
        {12, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {0}},
        {2, {4, 9}, {0}},
        {5, {11, 3, 0, 7, 2}, {0, 0, 1, 2, 3}},
        {8, {0, 1, 5, 8, 11, 6, 3, 10}, {0, 0, 0, 0, 0, 1, 1, 4}},
    };
    size_t row = (size_t)rounds * (size_t)f->V;
    float *alone[SEQUENCES];
    for (int i = 0; i < SEQUENCES; i++) alone[i] = run_together(f, &i, (int[]){0}, 1, rounds);
    for (size_t m = 0; m < sizeof mixes / sizeof mixes[0]; m++) {
        float *got = run_together(f, mixes[m].who, mixes[m].late, mixes[m].n, rounds);
        for (int k = 0; k < mixes[m].n; k++) {
            const float *want = alone[mixes[m].who[k]], *have = got + (size_t)k * row;
            if (tolerance >= 0)
                compare("logits", have, want, (int64_t)row, tolerance);
            else if (memcmp(have, want, row * sizeof *want) != 0)
                fail_msg("mix %zu, sequence %d: other bits than alone", m, mixes[m].who[k]);
        }
    }
}

static void test_mixes(void **unused) {
    (void)unused;
    for (int d = 0; d < N_DIRS; d++) {
        fixture f;
        print_message("%s\n", dirs[d]);
        open_fixture(&f, dirs[d], "f32", false);
        const zb_config *c = zb_model_config(zb_engine_model(f.e));
        check_mixes(&f, 6, 2 * f32_tolerance(c->L, CONTEXT));
        close_fixture(&f);
    }
}

static void test_deterministic(void **unused) {
    (void)unused;
    static const char *const precisions[] = {"f32", "bf16"};
    for (int d = 0; d < N_DIRS; d++)
        for (int p = 0; p < (d < 3 ? 2 : 1); p++) {
            fixture f;
            print_message("%s %s\n", dirs[d], precisions[p]);
            open_fixture(&f, dirs[d], precisions[p], true);
            check_mixes(&f, 6, -1);
            close_fixture(&f);
        }
}

/* Packed weights and 8-bit activations, where the real model is at hand; short courses. */
static void test_deterministic_packed(void **unused) {
    (void)unused;
    if (!zb_file_exists(real_model)) skip();
    static const char *const precisions[] = {"f32", "int8"};
    for (int p = 0; p < 2; p++) {
        fixture f;
        open_fixture(&f, real_model, precisions[p], true);
        static const int few[] = {0, 1, 11}, late[] = {0, 0, 0};
        float *got = run_together(&f, few, late, 3, 2);
        for (int k = 0; k < 3; k++) {
            float *want = run_together(&f, &few[k], (int[]){0}, 1, 2);
            if (memcmp(got + (size_t)k * 2 * (size_t)f.V, want, 2 * (size_t)f.V * sizeof *want))
                fail_msg("%s, sequence %d: other bits than alone", precisions[p], few[k]);
        }
        close_fixture(&f);
    }
}

typedef struct heard {
    int32_t id[64];
    int n, stop_after, order;
    zb_generation g;
    bool over;
} heard;

static int ended; /* how many answers are over: the order of ends */

static bool hear(void *user, int32_t id) {
    heard *h = user;
    h->id[h->n++] = id;
    return h->n != h->stop_after;
}

static void end(void *user, const zb_generation *g) {
    heard *h = user;
    assert_false(h->over);
    h->g = *g;
    h->over = true;
    h->order = ended++;
}

static int answer_length(int i) { return i == 2 ? 0 : i == 4 ? 50 : 5 + 3 * i; }

/* Answers of the batcher are those of one generation after the other, however many run together. */
static void test_batcher(void **unused) {
    (void)unused;
    static const int slots[] = {1, 3, 8};
    for (int d = 0; d < 3; d++)
        for (size_t k = 0; k < 3; k++) {
            fixture f;
            open_fixture(&f, dirs[d], "f32", true);
            zb_batcher *b;
            heard h[SEQUENCES] = {0};
            CHECK(zb_batcher_new(&b, f.e, slots[k], &err));
            ended = 0;
            for (int i = 0; i < SEQUENCES; i++) {
                h[i].stop_after = i == 6 ? 4 : -1;
                zb_batch_request r = {.prompt = f.ids[i], .n = i == 4 ? 1300 : 3 + 9 * i};
                r.max = answer_length(i);
                r.ignore_end = true;
                r.sampling = (zb_sampling){.temperature = i % 2 ? 0.7 : 0, .seed = (uint64_t)i};
                r.on_token = hear;
                r.on_end = end;
                r.user = &h[i];
                CHECK(zb_batcher_add(b, &r, &err));
            }
            int left = 1, rounds = 0;
            while (left) {
                CHECK(zb_batcher_round(b, &left, &err));
                assert_true(++rounds < 1000);
            }
            zb_batcher_free(b);
            assert_int_equal(ended, SEQUENCES);
            for (int i = 0; i < SEQUENCES; i++) {
                zb_session *s;
                zb_sampler *sampler;
                heard want = {.stop_after = h[i].stop_after};
                zb_generation g;
                zb_sampling how = {.temperature = i % 2 ? 0.7 : 0, .seed = (uint64_t)i};
                zb_generate_request r = {.prompt = f.ids[i], .n = i == 4 ? 1300 : 3 + 9 * i};
                r.max = answer_length(i);
                r.ignore_end = true;
                r.on_token = hear;
                r.user = &want;
                CHECK(zb_session_new(&s, f.e, 0, &err));
                CHECK(zb_sampler_new(&sampler, &how, f.V, &err));
                CHECK(zb_generate(s, sampler, &r, &g, &err));
                assert_int_equal(h[i].n, want.n);
                assert_memory_equal(h[i].id, want.id, (size_t)want.n * sizeof *want.id);
                assert_int_equal(h[i].g.tokens, g.tokens);
                assert_int_equal(h[i].g.finish, g.finish);
                assert_int_equal(h[i].g.steps, g.steps);
                zb_sampler_free(sampler);
                zb_session_free(s);
            }
            if (slots[k] == 1) /* one at a time: in order of arrival */
                for (int i = 0; i < SEQUENCES; i++) assert_int_equal(h[i].order, i);
            if (slots[k] == 3) /* the long prompt does not hold up its neighbours */
                assert_true(h[5].order < h[4].order && h[6].order < h[4].order);
            close_fixture(&f);
        }
}

static void refused(zb_status got, const zb_err *err, const char *text) {
    assert_int_equal(got, ZB_ERR_CONFIG);
    if (!strstr(err->msg, text)) fail_msg("expected \"...%s...\", found \"%s\"", text, err->msg);
}

static void test_batcher_refuses(void **unused) {
    (void)unused;
    fixture f;
    zb_err told = {0};
    zb_batcher *b;
    open_fixture(&f, "tests/golden/llama", "f32", false);
    refused(zb_batcher_new(&b, f.e, 0, &told), &told, "expected 1 to 4096 sequences");
    assert_null(b);
    CHECK(zb_batcher_new(&b, f.e, 2, &err));
    zb_batch_request r = {.prompt = f.ids[0], .n = 0, .max = 4};
    refused(zb_batcher_add(b, &r, &told), &told, "expected 1 to 1400 tokens, found 0");
    r.n = CONTEXT + 1;
    refused(zb_batcher_add(b, &r, &told), &told, "found 1401");
    r.n = 2;
    r.prompt = (int32_t[]){0, f.V};
    refused(zb_batcher_add(b, &r, &told), &told, "token 1: expected an id from 0 to");
    int left = 1;
    CHECK(zb_batcher_round(b, &left, &err)); /* nothing to do is no error */
    assert_int_equal(left, 0);
    r.prompt = f.ids[0]; /* freed while it waits and while it runs */
    r.n = 900;
    for (int i = 0; i < 4; i++) CHECK(zb_batcher_add(b, &r, &err));
    CHECK(zb_batcher_round(b, &left, &err));
    assert_int_equal(left, 4);
    zb_batcher_free(b);
    zb_batcher_free(NULL);
    close_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixes),
        cmocka_unit_test(test_deterministic),
        cmocka_unit_test(test_deterministic_packed),
        cmocka_unit_test(test_batcher),
        cmocka_unit_test(test_batcher_refuses),
    };
    return cmocka_run_group_tests(tests, make_kinds, remove_kinds);
}
