/* Recall tests: prompts are the same for the same numbers, fit their length to the last unit, and
 * hide what they ask for where they should; pairs come again at exact distances; what is reported
 * is what was answered; texts whose beginning is shared are those of prompts passed alone. */
#include "../golden/golden.h"

#include "eval_folder.h"

#include "base/rng.h"
#include "eval/model_scorer.h"
#include "eval/recall.h"
#include "eval/recall_pairs.h"
#include "eval/recall_prompt.h"

#include <signal.h>

static const char *const tests[] = {"niah_single_1",   "niah_single_2",   "niah_single_3",
                                    "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
                                    "niah_multivalue", "niah_multiquery", "ruler_vt"};
enum { N_TESTS = sizeof tests / sizeof tests[0] };

static zb_recall_words words;
static zb_recall_source source;
static const char essay[] =
    "The first bridge over the river was made of wood. It stood for forty years! Who built it? "
    "Nobody wrote that \"down.\" Later a second one, of stone, took its place; it had three arches "
    "and carried the road to the market, where on Tuesdays the farmers of the valley met. In the "
    "end it was too narrow. A third was planned but never begun, because the money went elsewhere.";

static int open_words(void **state) {
    if (set_up(state) != 0) return -1;
    if (zb_recall_words_read("tasks/recall", &arena, &words, NULL) != ZB_OK) return -1;
    source.words = &words;
    return zb_recall_text_split(ZB_STR(essay), "essay", &arena, &source, NULL) == ZB_OK ? 0 : -1;
}

static zb_recall_reader reader(void) {
    return (zb_recall_reader){
        .maker = {.tokenizer = tokenizer, .bos = -1, .prefix = -1, .arena = &arena}};
}

static void read_task(const char *name, zb_recall_task *t) {
    CHECK(zb_recall_task_read("tasks/recall", name, &arena, t, &err));
}

static int count_of(const char *needle, zb_str text) {
    int count = 0;
    for (size_t i = 0; i + strlen(needle) <= text.n; i++)
        count += !memcmp(text.p + i, needle, strlen(needle));
    return count;
}

/* Tokens of a plain prompt. */
static size_t tokens(const zb_recall_prompt *p) {
    zb_ids ids;
    const char *text = zb_asprintf(&arena, "%.*s %.*s", (int)p->question.n, p->question.p,
                                   (int)p->prefix.n, p->prefix.p);
    CHECK(zb_tokenizer_encode(tokenizer, zb_str_from(text), false, true, &arena, &ids, &err));
    return ids.n;
}

static void check_fit(const zb_recall_task *t, int length, int depth, int sample) {
    zb_recall_reader r = reader();
    zb_recall_prompt p, q, longer;
    zb_recall_place at = {.seed = 7, .depth = depth};
    CHECK(zb_recall_fit_example(t, &r, length, &at.example_units, &err));
    at.stream = zb_recall_stream(t->name, length, depth, sample);
    CHECK(zb_recall_fit(t, &source, &at, &r, length, &p, &err));
    CHECK(zb_recall_fit(t, &source, &at, &r, length, &q, &err));
    assert_true(zb_str_eq(p.question, q.question) && zb_str_eq(p.prefix, q.prefix));
    assert_int_equal(p.ids.n, tokens(&p));
    /* prompt and answer fit, with one more unit they would not */
    size_t answer = p.tail.n > (size_t)t->max_tokens ? p.tail.n : (size_t)t->max_tokens;
    assert_true(p.ids.n + answer <= (size_t)length);
    CHECK(zb_recall_prompt_write(t, &source, &at, p.units + 1, &arena, &longer, &err));
    assert_true(tokens(&longer) + answer > (size_t)length);
    /* what is asked for is there, once, in the order of the answer */
    assert_int_equal(p.n_expected, zb_recall_task_expected(t));
    const char *last = p.question.p;
    for (int i = 0; i < p.n_expected; i++) {
        const char *found = strstr(p.question.p, p.expected[i]);
        assert_non_null(found);
        assert_true(found >= last);
        last = found;
        if (!strcmp(t->kind, "needle")) assert_int_equal(count_of(p.expected[i], p.question), 1);
        assert_int_equal(longer.n_expected, p.n_expected);
        assert_string_equal(longer.expected[i], p.expected[i]); /* whatever the size */
        for (int k = 0; k < i; k++) assert_string_not_equal(p.expected[i], p.expected[k]);
    }
    assert_true(zb_recall_score(p.expected, p.n_expected, p.answer) == 1);
    at.stream++;
    CHECK(zb_recall_prompt_write(t, &source, &at, p.units, &arena, &q, &err));
    assert_false(zb_str_eq(p.question, q.question));
}

static void prompts_fit_and_hold_the_answer(void **state) {
    (void)state;
    for (int i = 0; i < N_TESTS; i++) {
        zb_recall_task t;
        read_task(tests[i], &t);
        bool chosen = zb_recall_task_has_depth(&t);
        for (int length = 2500; length <= 4000; length += 1500) {
            zb_mark mark = zb_arena_mark(&arena);
            for (int depth = chosen ? 0 : -1; depth <= (chosen ? 100 : -1); depth += 50)
                check_fit(&t, length, depth, length + i);
            zb_arena_pop(&arena, mark);
        }
    }
}

/* The needle stands behind int(lines * depth / 100) lines, or as many sentences. */
static void needles_stand_at_their_depth(void **state) {
    (void)state;
    zb_recall_task noise, text;
    read_task("niah_single_1", &noise);
    read_task("niah_single_2", &text);
    for (int depth = 0; depth <= 100; depth += 10) {
        zb_recall_prompt p;
        zb_recall_place at = {.seed = 3, .stream = 9, .depth = depth, .example_units = -1};
        CHECK(zb_recall_prompt_write(&noise, &source, &at, 37, &arena, &p, &err));
        const char *needle = strstr(p.question.p, "One of the special");
        assert_non_null(needle);
        zb_str before = {p.question.p, (size_t)(needle - p.question.p)};
        assert_int_equal(count_of(noise.noise, before), 37 * depth / 100);
        assert_int_equal(count_of(noise.noise, p.question), 37);
        /* the essay has 7 sentences; its third ends with "down."" */
        CHECK(zb_recall_prompt_write(&text, &source, &at, (int)source.n_text, &arena, &p, &err));
        needle = strstr(p.question.p, "One of the special");
        assert_non_null(needle);
        static const char *const next[] = {"The first bridge", "It stood", "Who built",
                                           "Nobody",           "Later a",  "In the end",
                                           "A third",          "\nWhat is"};
        const char *behind = strchr(needle, ':');
        behind = behind ? strchr(behind, '.') : NULL;
        assert_non_null(behind);
        const char *expected = next[7 * depth / 100];
        behind += 1 + (behind[1] == ' ');
        assert_memory_equal(behind, expected, strlen(expected));
    }
}

/* Prompts as RULER writes them. */
static void prompts_have_their_words(void **state) {
    (void)state;
    zb_recall_task t;
    zb_recall_prompt p;
    zb_recall_place at = {.seed = 3, .stream = 9, .depth = 0, .example_units = -1};
    read_task("niah_multivalue", &t);
    CHECK(zb_recall_prompt_write(&t, &source, &at, 20, &arena, &p, &err));
    assert_int_equal(count_of("One of the special magic numbers for ", p.question), 4);
    assert_true(zb_str_starts(p.question, ZB_STR("Some special magic numbers are hidden within")));
    assert_true(zb_str_starts(p.prefix, ZB_STR("The special magic numbers for ")));
    assert_true(zb_str_ends(p.prefix, ZB_STR(" mentioned in the provided text are")));
    read_task("niah_multiquery", &t);
    CHECK(zb_recall_prompt_write(&t, &source, &at, 20, &arena, &p, &err));
    assert_int_equal(count_of(", and ", p.prefix), 1);
    read_task("ruler_vt", &t);
    at.example_units = 0;
    CHECK(zb_recall_prompt_write(&t, &source, &at, 20, &arena, &p, &err));
    assert_int_equal(count_of("VAR ", p.question), 2 * 9);
    assert_int_equal(count_of("Memorize and track", p.question), 2);
    assert_int_equal(count_of(t.noise, p.question), 20);
    assert_int_equal(strlen(p.expected[0]), 5);
    assert_true(zb_str_ends(p.prefix, ZB_STR("they are:")));
    read_task("niah_single_3", &t);
    CHECK(zb_recall_prompt_write(&t, &source, &at, 20, &arena, &p, &err));
    assert_int_equal(strlen(p.expected[0]), 36);
    assert_int_equal(p.expected[0][14], '4'); /* the version of the UUID */
}

static void scores_are_shares_found(void **state) {
    (void)state;
    const char *two[] = {"1234567", "Ab-cD"};
    check_near(zb_recall_score(two, 2, ZB_STR("")), 0, 0);
    check_near(zb_recall_score(two, 2, ZB_STR("it is 1234567.")), 0.5, 0);
    check_near(zb_recall_score(two, 2, ZB_STR("123456 7, aB-Cd")), 0.5, 0);
    check_near(zb_recall_score(two, 2, ZB_STR("xAB-CDx91234567")), 1, 0);
}

/* ---- pairs ---- */

enum { WORDS = 900 };

static zb_recall_vocab vocab(void) {
    zb_recall_vocab v = {
        .id = ZB_NEW_ARRAY(&arena, int32_t, WORDS), .n = WORDS, .colon = 5, .newline = 6};
    for (int i = 0; i < WORDS; i++) v.id[i] = 100 + i;
    return v;
}

static void pairs_come_again_at_their_distance(void **state) {
    (void)state;
    zb_recall_vocab v = vocab();
    for (int kind = 0; kind < 4; kind++)
        for (int distance = 64; distance <= 515; distance = 2 * distance + 1) {
            bool lines = kind & 1;
            int32_t text[50];
            for (int i = 0; i < 50; i++) text[i] = 2000 + i;
            zb_recall_pairs p = {.pairs = 16,
                                 .distance = distance,
                                 .lines = lines,
                                 .text = kind & 2 ? text : NULL,
                                 .n_text = 50,
                                 .seed = 1,
                                 .stream = (uint64_t)kind,
                                 .bos = kind == 1 ? 1 : -1};
            zb_probe_request r, again;
            CHECK(zb_recall_pairs_make(&p, &v, &arena, &r, &err));
            CHECK(zb_recall_pairs_make(&p, &v, &arena, &again, &err));
            assert_int_equal(r.n, (kind == 1) + distance + zb_recall_pairs_least(16, lines));
            assert_memory_equal(r.ids, again.ids, (size_t)r.n * sizeof *r.ids);
            assert_int_equal(r.n_at, 8);
            assert_int_equal(r.n_candidates, 16);
            for (int i = 0; i < r.n_at; i++) {
                int query = r.at[i] - (lines ? 1 : 0), found = 0, listed = 0;
                int32_t value = r.ids[r.at[i] + 1];
                assert_true(i == 0 || r.at[i] > r.at[i - 1]);
                for (int k = 0; k < r.n; k++) found += r.ids[k] == r.ids[query];
                for (int k = 0; k < 16; k++) listed += r.candidate[k] == value;
                assert_int_equal(found, 2); /* the pair and its query */
                assert_int_equal(listed, 1);
                assert_int_equal(r.ids[query - distance], r.ids[query]);
                assert_int_equal(r.ids[r.at[i] + 1 - distance], value);
                if (lines) assert_int_equal(r.ids[r.at[i]], 5);
            }
        }
    zb_recall_vocab small = {.id = v.id, .n = 40, .colon = 5, .newline = 6};
    zb_recall_pairs p = {.pairs = 16, .distance = 64, .bos = -1};
    zb_probe_request r;
    zb_err err = {0};
    assert_int_equal(zb_recall_pairs_make(&p, &small, &arena, &r, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "40"));
}

/* ---- runs ---- */

/* A scorer that knows the answers: writes every second one, wrong case and all, else nothing. */
typedef struct knower {
    int texts, probes, longest;
} knower;

static zb_status write_known(void *self, zb_write_request *r, int n, zb_err *err) {
    knower *k = self;
    (void)err;
    for (int i = 0; i < n; i++, k->texts++) {
        bool knows = k->texts % 2 == 0;
        r[i].answer_score = (zb_loglik){knows ? -1.0 * r[i].n_answer : -3.0 * r[i].n_answer, knows};
        r[i].n_ids = 0;
        if (r[i].n_context + r[i].max > k->longest) k->longest = r[i].n_context + r[i].max;
        while (r[i].n_ids < r[i].max && r[i].n_ids < r[i].n_answer) {
            r[i].ids[r[i].n_ids] = knows ? r[i].answer[r[i].n_ids] : 40;
            if (r[i].stop(r[i].user, r[i].ids, ++r[i].n_ids)) break;
        }
    }
    return ZB_OK;
}

static zb_status write_nothing(void *self, zb_write_request *r, int n, zb_err *err) {
    (void)self, (void)r, (void)n;
    return zb_fail(err, ZB_ERR_INTERNAL, "asked again");
}

static zb_recall_opts options(void) {
    zb_recall_opts o = {.shard = {0, 1}, .vocab = 262};
    zb_opt_group g[] = {{"", zb_recall_opt_table, &o}, {0}};
    zb_opts_defaults(g);
    o.haystack = in_folder("essay.txt");
    o.tests = "niah_single_1,niah_multivalue";
    o.lengths = "2500,4000";
    o.depths = "0,100";
    o.samples = 4;
    CHECK(zb_file_write(o.haystack, essay, sizeof essay - 1, &err));
    return o;
}

static zb_status run(const zb_recall_opts *o, const zb_scorer *s, zb_recall_result *r,
                     zb_err *err) {
    return zb_recall_run(o, tokenizer, s, r, err);
}

static void a_run_reports_what_was_answered(void **state) {
    (void)state;
    knower k = {0};
    zb_scorer s = {.self = &k, .max_length = 100, .prefix_token = -1, .write = write_known};
    zb_recall_opts o = options();
    zb_recall_result r;
    o.output = in_folder("recall.json");
    o.log_samples = in_folder("samples");
    o.cache = in_folder("cache");
    o.model_key = "0123456789abcdef0123456789abcdef";
    CHECK(run(&o, &s, &r, &err));
    assert_int_equal(k.texts, 2 * 2 * 4 + 2 * 4);
    assert_true(k.longest <= 4000 && k.longest > 3900);
    assert_int_equal(r.n_cells, 2 * 2 + 2);
    for (size_t i = 0; i < r.n_cells; i++) {
        assert_int_equal(r.cell[i].depth, i < 4 ? (i % 2 ? 100 : 0) : -1);
        check_near(r.cell[i].score.value, 0.5, 0);
        check_near(r.cell[i].greedy.value, 0.5, 0);
        check_near(r.cell[i].logprob.value, -2, 1e-12);
    }
    json_t *first = zb_recall_json(&r), *row;
    zb_recall_result_free(&r);
    row = json_object_get(json_object_get(first, "results"), "niah_single_1");
    check_near(json_number_value(json_object_get(row, "2500,none")), 0.5, 0);
    check_near(json_number_value(json_object_get(row, "2500_stderr,none")), sqrt(0.25 / 7), 1e-12);
    /* a second run takes all from the cache */
    s.write = write_nothing;
    CHECK(run(&o, &s, &r, &err));
    json_t *second = zb_recall_json(&r);
    zb_buf table;
    zb_buf_init(&table, 1 << 20);
    zb_recall_table(&r, &table);
    assert_non_null(strstr(table.p, "|niah_single_1|depth|"));
    assert_non_null(strstr(table.p, "||drawn|  50.0 (-2.000) |"));
    zb_buf_free(&table);
    zb_recall_result_free(&r);
    assert_true(json_equal(json_object_get(first, "cells"), json_object_get(second, "cells")));
    json_decref(first);
    json_decref(second);
    zb_str lines;
    CHECK(zb_file_read(in_folder("samples/samples_niah_single_1.jsonl"), 1 << 24, &arena, &lines,
                       &err));
    assert_int_equal(count_of("\n", lines), 16);
    assert_int_equal(count_of("\"score\": 1.0", lines) + count_of("\"score\":1.0", lines), 8);
}

/* Options and files that are no good: one line that names what. */
static void bad_options_are_named(void **state) {
    (void)state;
    static const struct {
        const char *tests, *lengths, *depths, *pairs, *distances, *says;
    } bad[] = {
        {"", NULL, NULL, NULL, NULL, "tests"},
        {"nope", NULL, NULL, NULL, NULL, "nope"},
        {"../recall/niah_single_1", NULL, NULL, NULL, NULL, "test's name"},
        {"words", NULL, NULL, NULL, NULL, "test's name"},
        {"niah_single_1,niah_single_1", NULL, NULL, NULL, NULL, "twice"},
        {NULL, "abc", NULL, NULL, NULL, "lengths"},
        {NULL, "", NULL, NULL, NULL, "lengths"},
        {NULL, "4000,2500", NULL, NULL, NULL, "ascending"},
        {NULL, "63", NULL, NULL, NULL, "lengths"},
        {NULL, "128", NULL, NULL, NULL, "shortest prompt"},
        {NULL, NULL, "0,101", NULL, NULL, "depths"},
        {NULL, NULL, "0,0", NULL, NULL, "ascending"},
        {"associative", NULL, NULL, "0", NULL, "pairs"},
        {"associative", NULL, NULL, NULL, "1", "distances"},
        {"associative", NULL, NULL, NULL, NULL, "probed"},
    };
    knower k = {0};
    zb_scorer s = {.self = &k, .max_length = 100, .prefix_token = -1, .write = write_known};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        zb_recall_opts o = options();
        zb_recall_result r;
        zb_err err = {0};
        o.tests = bad[i].tests ? bad[i].tests : o.tests;
        o.lengths = bad[i].lengths ? bad[i].lengths : o.lengths;
        o.depths = bad[i].depths ? bad[i].depths : o.depths;
        o.pairs = bad[i].pairs ? bad[i].pairs : o.pairs;
        o.distances = bad[i].distances ? bad[i].distances : o.distances;
        assert_int_not_equal(run(&o, &s, &r, &err), ZB_OK);
        if (!strstr(err.msg, bad[i].says)) fail_msg("expected \"%s\" in: %s", bad[i].says, err.msg);
        zb_recall_result_free(&r);
    }
    assert_int_equal(k.texts, 0);
}

static void expect_text(const char *content, const char *says) {
    zb_recall_opts o = options();
    zb_recall_result r;
    zb_scorer s = {0};
    o.tests = "niah_single_2";
    if (content)
        CHECK(zb_file_write(o.haystack, content, strlen(content), &err));
    else
        o.haystack = in_folder("nowhere.txt");
    zb_err err = {0};
    assert_int_not_equal(run(&o, &s, &r, &err), ZB_OK);
    if (!strstr(err.msg, says)) fail_msg("expected \"%s\" in: %s", says, err.msg);
    zb_recall_result_free(&r);
}

static void expect_task(const char *yaml, const char *says) {
    zb_recall_task t;
    CHECK(zb_file_write(in_folder("bad.yaml"), yaml, strlen(yaml), &err));
    zb_err err = {0};
    assert_int_not_equal(zb_recall_task_read(folder, "bad", &arena, &t, &err), ZB_OK);
    if (!strstr(err.msg, says)) fail_msg("expected \"%s\" in: %s", says, err.msg);
}

static void bad_files_are_named(void **state) {
    (void)state;
    expect_text(NULL, "nowhere.txt");
    expect_text("", "no words");
    expect_text(" \n\t ", "no words");
    expect_text("good text \xff bad", "byte 10");
    expect_task("needle: x\nprompt: y\n", "answer");
    expect_task("prompt: y\nanswer: x\n", "needle");
    expect_task("kind: chain\nprompt: y\nanswer: x\n", "haystack");
    expect_task("kind: chain\nhaystack: noise\nprompt: y\nanswer: x\n", "noise");
    expect_task("nedle: x\n", "nedle");
    expect_task("keys: 0\n", "keys");
    expect_task("keys: 2\nqueries: 3\nneedle: x\nprompt: y\nanswer: z\n", "queries");
    expect_task("keys: 64\nvalues: 64\nneedle: x\nprompt: y\nanswer: z\n", "64");
    expect_task("needle: \"{key}\"\nprompt: \"{context}\"\nanswer: z\n",
                "needle: expected a place for {value}");
    expect_task("needle: \"{value}\"\nprompt: \"{query}?\"\nanswer: z\n",
                "prompt: expected a place for {context}, found \"{query}?\"");
    expect_task("needle: \"{key\"\nprompt: y\nanswer: z\n", "}");
}

/* ---- with models ---- */

typedef struct machine {
    zb_model *model;
    zb_runner *runner;
    zb_model_scorer *scorer;
    zb_scorer s;
} machine;

static void start(machine *m, const char *dir) {
    CHECK(
        zb_model_open(&m->model, zb_asprintf(&arena, "tests/golden/%s", dir), ZB_MODEL_RUN, &err));
    CHECK(zb_runner_new(&m->runner, m->model, ZB_PREC_F32, &err));
    CHECK(zb_model_scorer_new(&m->scorer, m->runner, 0, &err));
    m->s = zb_model_scorer_get(m->scorer);
}

static void stop(machine *m) {
    zb_model_scorer_free(m->scorer);
    zb_runner_free(m->runner);
    zb_model_free(m->model);
}

static bool never(void *user, const int32_t *ids, int n) {
    (void)user, (void)ids, (void)n;
    return false;
}

enum { CONTEXT = 2300, ASKED = 4, TEXT = 5, ANSWER = 3 };

/* Contexts that begin alike for longer and longer, one of them longer than a piece. */
static zb_write_request *requests(int V) {
    zb_write_request *r = ZB_NEW_ARRAY(&arena, zb_write_request, ASKED);
    for (int i = 0; i < ASKED; i++) {
        int n = i == 2 ? CONTEXT : 60 + 10 * i, same = 10 * i;
        int32_t *ids = ZB_NEW_ARRAY(&arena, int32_t, n + ANSWER);
        for (int k = 0; k < n + ANSWER; k++)
            ids[k] =
                (int32_t)zb_rng_below(1, k < same ? 1 : 2 + (uint64_t)i, (uint64_t)k, (uint32_t)V);
        r[i] = (zb_write_request){.context = ids,
                                  .n_context = n,
                                  .answer = ids + n,
                                  .n_answer = ANSWER,
                                  .max = i == 1 ? 0 : TEXT,
                                  .stop = never,
                                  .ids = ZB_NEW_ARRAY(&arena, int32_t, TEXT)};
    }
    return r;
}

static void shared_beginnings_change_nothing(void **state) {
    (void)state;
    static const char *const dirs[] = {"llama", "hybrid"};
    for (size_t d = 0; d < 2; d++) {
        machine m;
        start(&m, dirs[d]);
        int V = zb_model_config(m.model)->V;
        zb_write_request *together = requests(V), *alone = requests(V);
        CHECK(m.s.write(m.s.self, together, ASKED, &err));
        for (int i = 0; i < ASKED; i++) {
            zb_loglik l;
            zb_write_request *a = &alone[i], *b = &together[i];
            CHECK(m.s.write(m.s.self, a, 1, &err));
            assert_int_equal(b->n_ids, b->max);
            assert_int_equal(a->n_ids, b->n_ids);
            assert_memory_equal(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
            check_near(b->answer_score.logprob, a->answer_score.logprob, 1e-3);
            /* and the answer's score is that of any other request */
            zb_loglik_request q = {a->context, a->n_context, a->answer, a->n_answer, 0, 0};
            CHECK(m.s.loglik(m.s.self, &q, 1, &l, &err));
            check_near(a->answer_score.logprob, l.logprob, 1e-3);
            assert_int_equal(a->answer_score.greedy, l.greedy);
        }
        stop(&m);
    }
}

/* Two groups of three choices behind each of two beginnings, one of them longer than a piece: the
 * scores are those of contexts passed whole, whichever beginning was passed before. */
static void contexts_go_on_from_what_they_share(void **state) {
    (void)state;
    static const char *const dirs[] = {"llama", "hybrid"};
    enum { GROUPS = 4, CHOICES = 3, N = GROUPS * CHOICES };
    for (size_t d = 0; d < 2; d++) {
        machine m;
        start(&m, dirs[d]);
        int V = zb_model_config(m.model)->V;
        zb_loglik_request r[N];
        zb_loglik shared[N], again[N], whole[N];
        for (int i = 0; i < N; i++) {
            int g = i / CHOICES, begin = g / 2 ? 2100 : 40, n = begin + 1 + 3 * (g % 2);
            int32_t *ids = ZB_NEW_ARRAY(&arena, int32_t, n + ANSWER);
            for (int k = 0; k < n + ANSWER; k++) {
                uint64_t seed = (uint64_t)(k < begin ? g / 2 : k < n ? 10 + g : 20 + i);
                ids[k] = (int32_t)zb_rng_below(1, seed, (uint64_t)k, (uint32_t)V);
            }
            if (i % CHOICES) ids = memcpy(ids, r[i - 1].context, (size_t)n * sizeof *ids);
            r[i] = (zb_loglik_request){ids, n, ids + n, 1 + i % CHOICES, g, begin};
        }
        CHECK(m.s.loglik(m.s.self, r, N, shared, &err));
        CHECK(m.s.loglik(m.s.self, r, N, again, &err));
        for (int i = 0; i < N; i++) check_near(again[i].logprob, shared[i].logprob, 0);
        for (int i = 0; i < N; i++) r[i].n_shared = 0;
        CHECK(m.s.loglik(m.s.self, r, N, whole, &err));
        for (int i = 0; i < N; i++) {
            check_near(shared[i].logprob, whole[i].logprob, 1e-3);
            assert_int_equal(shared[i].greedy, whole[i].greedy);
        }
        stop(&m);
    }
}

/* A probe is a request for one token at each place. */
static void probes_are_log_probabilities(void **state) {
    (void)state;
    machine m;
    start(&m, "hybrid");
    int V = zb_model_config(m.model)->V;
    int32_t ids[CONTEXT], candidate[] = {3, 4, 5, 6};
    int at[70], best = 0, best_of_some = 0;
    zb_probe out[70];
    for (int k = 0; k < CONTEXT; k++)
        ids[k] = (int32_t)zb_rng_below(1, 1, (uint64_t)k, (uint32_t)V);
    for (int i = 0; i < 70; i++) {
        at[i] = 32 * i + 5;
        ids[at[i] + 1] = candidate[i % 4];
    }
    zb_probe_request r = {ids, CONTEXT, at, 70, candidate, 4, out};
    CHECK(m.s.probe(m.s.self, &r, &err));
    for (int i = 0; i < 70; i++) {
        zb_loglik l[4];
        if (i % 3) continue; /* each costs four passes */
        for (int k = 0; k < 4; k++) {
            zb_loglik_request q = {ids, at[i] + 1, &candidate[k], 1, 0, 0};
            CHECK(m.s.loglik(m.s.self, &q, 1, &l[k], &err));
        }
        check_near(out[i].logprob, l[i % 4].logprob, 1e-3);
        assert_int_equal(out[i].best, l[i % 4].greedy);
        bool first = true;
        for (int k = 0; k < 4; k++) first &= k == i % 4 || l[k].logprob < l[i % 4].logprob;
        assert_int_equal(out[i].best_of_some, first);
        best += out[i].best;
        best_of_some += first;
    }
    assert_true(best < 24 && best_of_some > 0 && best_of_some < 24); /* the test saw both */
    stop(&m);
}

/* Texts too long for a batch are passed in pieces: behind one token as a whole page is scored, and
 * two behind a long context. Their scores are the sums of those of probes, and they can be
 * interrupted. */
static void long_texts_pass_in_pieces(void **state) {
    (void)state;
    static const char *const dirs[] = {"llama", "hybrid"};
    enum { LONG = 4500, SPLIT = 2200 };
    static int32_t ids[LONG];
    static int at[LONG];
    static zb_probe out[LONG];
    for (size_t d = 0; d < 2; d++) {
        machine m;
        start(&m, dirs[d]);
        int V = zb_model_config(m.model)->V;
        for (int k = 0; k < LONG; k++) {
            ids[k] = (int32_t)zb_rng_below(1, 3, (uint64_t)k, (uint32_t)V);
            at[k] = k;
        }
        zb_probe_request q = {ids, LONG, at, LONG - 1, ids, 1, out};
        CHECK(m.s.probe(m.s.self, &q, &err));
        double page = 0, behind = 0;
        for (int k = 0; k < LONG - 1; k++) page += out[k].logprob;
        for (int k = SPLIT - 1; k < LONG - 1; k++) behind += out[k].logprob;
        zb_loglik_request r[] = {{ids, 1, ids + 1, LONG - 1, 0, 0},
                                 {ids, SPLIT, ids + SPLIT, LONG - SPLIT, 1, 100},
                                 {ids, SPLIT, ids + SPLIT, 1, 1, 100}};
        zb_loglik l[3];
        CHECK(m.s.loglik(m.s.self, r, 3, l, &err));
        check_near(l[0].logprob, page, 1e-6 * LONG);
        check_near(l[1].logprob, behind, 1e-6 * LONG);
        check_near(l[2].logprob, out[SPLIT - 1].logprob, 1e-4);
        zb_interrupt_install();
        raise(SIGINT);
        assert_int_equal(m.s.loglik(m.s.self, r, 1, l, NULL), ZB_ERR_INTERRUPTED);
        zb_interrupt_clear();
        stop(&m);
    }
}

int main(void) {
    const struct CMUnitTest list[] = {
        cmocka_unit_test(prompts_fit_and_hold_the_answer),
        cmocka_unit_test(needles_stand_at_their_depth),
        cmocka_unit_test(prompts_have_their_words),
        cmocka_unit_test(scores_are_shares_found),
        cmocka_unit_test(pairs_come_again_at_their_distance),
        cmocka_unit_test(a_run_reports_what_was_answered),
        cmocka_unit_test(bad_options_are_named),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(shared_beginnings_change_nothing),
        cmocka_unit_test(contexts_go_on_from_what_they_share),
        cmocka_unit_test(long_texts_pass_in_pieces),
        cmocka_unit_test(probes_are_log_probabilities),
    };
    return cmocka_run_group_tests(list, open_words, tear_down);
}
