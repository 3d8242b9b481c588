/* test_eval_run.c - the whole path of an evaluation with a scorer that answers from a list.
 *
 * The golden test takes the documents that lm-eval 0.4.13 logged (tests/golden/lm-eval), lets our
 * tasks make prompts of them, answers each with the logged log-likelihood, and expects the logged
 * prompts byte for byte and the logged scores. The answer is looked up by the text that the token
 * ids decode to, so a wrong prompt or a wrong split has no answer. The tokenizer
 * (tests/unit/eval/tokenizer) has the 256 bytes, the merges "the", " the", " a", " A", "in", BOS
 * 262 and EOS 263. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "eval/eval.h"
#include "eval/request.h"
#include "eval/table.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

#include "eval_folder.h"

static void write_text(const char *name, const char *text) {
    assert_int_equal(zb_file_write(in_folder(name), text, strlen(text), NULL), ZB_OK);
}

static zb_eval_opts options(const char *tasks) {
    zb_eval_opts o = {0};
    zb_opt_group g[] = {{"eval", zb_eval_opt_table, &o}, {0}};
    zb_opts_defaults(g);
    o.tasks = tasks;
    o.tasks_dir = folder;
    o.data_dir = folder;
    return o;
}

/* A scorer that knows (whole text, continuation) -> log-probability, and checks what it is given.
 */
typedef struct answer {
    const char *whole, *continuation;
    double logprob;
} answer;

typedef struct answers {
    answer *item;
    size_t n, cap;
    size_t asked;
} answers;

static void add_answer(answers *list, const char *context, const char *continuation,
                       double logprob) {
    list->item = zb_grow(&arena, list->item, &list->cap, list->n + 1, sizeof *list->item);
    list->item[list->n++] = (answer){zb_asprintf(&arena, "%s%s", context, continuation),
                                     zb_strdup(&arena, continuation), logprob};
}

static zb_status decode(const int32_t *ids, int n, zb_buf *out) {
    return zb_tokenizer_decode(tokenizer, ids, (size_t)n, false, out, NULL);
}

static zb_status look_up(void *self, const zb_loglik_request *r, int n, zb_loglik *out,
                         zb_err *err) {
    answers *list = self;
    zb_buf whole, tail;
    zb_buf_init(&whole, 1 << 20);
    zb_buf_init(&tail, 1 << 20);
    zb_status s = ZB_OK;
    for (int i = 0; i < n && s == ZB_OK; i++) {
        if (i > 0 && (r[i].group == r[i - 1].group) != (r[i].context == r[i - 1].context))
            s = zb_fail(err, ZB_ERR_INTERNAL, "group and context disagree");
        zb_buf_clear(&whole);
        zb_buf_clear(&tail);
        decode(r[i].context, r[i].n_context, &whole);
        decode(r[i].continuation, r[i].n_continuation, &whole);
        decode(r[i].continuation, r[i].n_continuation, &tail);
        size_t k = 0;
        while (k < list->n && (strcmp(list->item[k].whole, whole.p) != 0 ||
                               strcmp(list->item[k].continuation, tail.p) != 0))
            k++;
        if (k == list->n)
            s = zb_fail(err, ZB_ERR_INTERNAL, "no answer for \"%.200s\" / \"%.80s\"", whole.p,
                        tail.p);
        else
            out[i] = (zb_loglik){.logprob = list->item[k].logprob, .greedy = k == 0};
    }
    list->asked += (size_t)n;
    zb_buf_free(&whole);
    zb_buf_free(&tail);
    return s;
}

/* A scorer whose answer is minus the number of tokens of the continuation. */
static zb_status count(void *self, const zb_loglik_request *r, int n, zb_loglik *out, zb_err *err) {
    (void)err;
    if (self) *(size_t *)self += (size_t)n;
    for (int i = 0; i < n; i++) out[i].logprob = -r[i].n_continuation;
    return ZB_OK;
}

static const zb_scorer counting = {.max_length = 4096, .prefix_token = -1, .loglik = count};

/* The lines of a JSONL file as an array. */
static json_t *read_lines(const char *path) {
    zb_lines *lines;
    json_t *all = json_array(), *v;
    zb_str line;
    bool more = true;
    assert_int_equal(zb_lines_open(&lines, path, 1 << 20, NULL), ZB_OK);
    while (zb_lines_next(lines, &line, &more, NULL) == ZB_OK && more) {
        assert_int_equal(zb_json_parse(line.p, line.n, path, &v, NULL), ZB_OK);
        json_array_append_new(all, v);
    }
    zb_lines_close(lines);
    return all;
}

static const char *get_text(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    assert_non_null(s);
    return s;
}

/* The task file without its number of rows, as the golden files hold the first documents only. */
static void copy_task(const char *task) {
    zb_str text;
    assert_int_equal(
        zb_file_read(zb_asprintf(&arena, "tasks/%s.yaml", task), 1 << 20, &arena, &text, NULL),
        ZB_OK);
    const char *rows = strstr(text.p, "\nrows:");
    assert_non_null(rows);
    write_text(zb_asprintf(&arena, "%s.yaml", task),
               zb_asprintf(&arena, "%.*s%s", (int)(rows - text.p), text.p, strchr(rows + 1, '\n')));
}

/* Rows of the golden file as data file, and its log-likelihoods as answers. */
static void use_golden(const char *task, const json_t *golden, answers *list) {
    zb_buf rows;
    zb_buf_init(&rows, 1 << 24);
    size_t i, k;
    json_t *g, *r;
    json_array_foreach((json_t *)golden, i, g) {
        char *row = json_dumps(json_object_get(g, "doc"), 0);
        zb_buf_addf(&rows, "%s\n", row);
        free(row);
        json_array_foreach(json_object_get(g, "requests"), k, r) {
            const json_t *context = json_object_get(r, "context") ? r : g;
            add_answer(list, get_text(context, "context"), get_text(r, "continuation"),
                       json_real_value(json_object_get(r, "loglikelihood")));
        }
    }
    copy_task(task);
    write_text(zb_asprintf(&arena, "%s.jsonl", task), rows.p);
    zb_buf_free(&rows);
}

static void check_sample(const json_t *golden, const json_t *sample) {
    static const char *const metric[] = {"acc", "acc_norm"};
    size_t i;
    json_t *r;
    assert_int_equal(json_integer_value(json_object_get(golden, "doc_id")),
                     json_integer_value(json_object_get(sample, "doc_id")));
    assert_string_equal(get_text(golden, "target"), get_text(sample, "target"));
    json_array_foreach(json_object_get(golden, "requests"), i, r) {
        const json_t *context = json_object_get(r, "context") ? r : golden;
        const json_t *ours = json_object_get(json_object_get(sample, "arguments"),
                                             zb_asprintf(&arena, "gen_args_%zu", i));
        assert_string_equal(get_text(context, "context"), get_text(ours, "arg_0"));
        assert_string_equal(get_text(r, "continuation"), get_text(ours, "arg_1"));
    }
    for (i = 0; i < 2; i++) {
        const json_t *want = json_object_get(golden, metric[i]),
                     *have = json_object_get(sample, metric[i]);
        assert_int_equal(json_is_real(want), json_is_real(have));
        if (have) check_near(json_real_value(want), json_real_value(have), 0);
    }
}

/* Mean and error of a 0/1 metric from the golden file, by the closed form (ours sums squares). */
static void check_mean(const json_t *golden, const char *task, const char *metric, zb_metric have) {
    double sum = 0, n = 0;
    size_t i;
    json_t *g;
    json_array_foreach((json_t *)golden, i, g) {
        if (strcmp(get_text(g, "task"), task) != 0) continue;
        sum += json_real_value(json_object_get(g, metric));
        n++;
    }
    assert_true(n > 1);
    double p = sum / n;
    check_near(have.value, p, 1e-12);
    check_near(have.stderr_of, sqrt(p * (1 - p) / (n - 1)), 1e-12);
}

static void check_golden(const char *task) {
    answers list = {0};
    json_t *golden = read_lines(zb_asprintf(&arena, "tests/golden/lm-eval/%s_0shot.jsonl", task));
    use_golden(task, golden, &list);
    zb_eval_opts o = options(task);
    o.add_bos = "off";
    o.log_samples = in_folder("samples");
    o.output = in_folder("results.json");
    zb_scorer s = {.self = &list, .max_length = 100000, .prefix_token = -1, .loglik = look_up};
    zb_eval_result result;
    zb_err err = {0};
    if (zb_eval_run(&o, tokenizer, &s, &result, &err) != ZB_OK) fail_msg("%s: %s", task, err.msg);
    assert_int_equal(list.asked, list.n);

    size_t i;
    json_t *g, *samples = NULL;
    const char *open = "";
    json_array_foreach(golden, i, g) {
        const char *leaf = get_text(g, "task");
        if (strcmp(leaf, open) != 0) {
            json_decref(samples);
            samples = read_lines(zb_asprintf(&arena, "%s/samples_%s.jsonl", o.log_samples, leaf));
            open = leaf;
        }
        check_sample(
            g, json_array_get(samples, (size_t)json_integer_value(json_object_get(g, "doc_id"))));
        const zb_eval_row *row = zb_eval_find(&result, leaf);
        assert_non_null(row);
        check_mean(golden, leaf, "acc", *zb_eval_metric(row, "acc"));
        if (zb_eval_metric(row, "acc_norm"))
            check_mean(golden, leaf, "acc_norm", *zb_eval_metric(row, "acc_norm"));
    }
    json_t *file;
    assert_int_equal(zb_json_read(o.output, 1 << 24, &file, NULL), ZB_OK);
    const json_t *entry = json_object_get(json_object_get(file, "results"), task);
    check_near(json_real_value(json_object_get(entry, "acc,none")),
               zb_eval_metric(zb_eval_find(&result, task), "acc")->value, 1e-9);
    json_decref(file);
    json_decref(samples);
    json_decref(golden);
    zb_eval_result_free(&result);
}

static void test_golden(void **state) {
    (void)state;
    static const char *const tasks[] = {"arc_easy",   "arc_challenge", "hellaswag",
                                        "openbookqa", "piqa",          "winogrande",
                                        "sciq",       "social_iqa",    "commonsense_qa"};
    for (size_t i = 0; i < sizeof tasks / sizeof tasks[0]; i++) check_golden(tasks[i]);
}

/* 57 subjects with two documents each: every part's error is 0 or 0.5, the groups pool them. */
static void test_golden_mmlu(void **state) {
    (void)state;
    check_golden("mmlu");
    zb_eval_opts o = options("mmlu_stem,mmlu_marketing");
    size_t asked = 0;
    zb_scorer s = counting;
    s.self = &asked;
    zb_eval_result r;
    assert_int_equal(zb_eval_run(&o, tokenizer, &s, &r, NULL), ZB_OK);
    assert_int_equal(asked, 20 * 2 * 4);
    assert_int_equal(r.n_rows, 1 + 19 + 1);
    assert_null(zb_eval_find(&r, "mmlu"));
    const zb_eval_row *stem = zb_eval_find(&r, "mmlu_stem"),
                      *marketing = zb_eval_find(&r, "mmlu_marketing");
    assert_int_equal(stem->n, 38);
    assert_int_equal(stem->depth, 0);
    assert_int_equal(marketing->depth, 0);
    double spread = 0, right = 0;
    for (int i = 0; i < r.n_rows; i++) {
        if (r.row[i].group || &r.row[i] == marketing) continue;
        right += 2 * zb_eval_metric(&r.row[i], "acc")->value;
        spread += 1 * zb_eval_metric(&r.row[i], "acc")->stderr_of *
                  zb_eval_metric(&r.row[i], "acc")->stderr_of * 2;
    }
    check_near(zb_eval_metric(stem, "acc")->value, right / 38, 1e-12);
    check_near(zb_eval_metric(stem, "acc")->stderr_of, sqrt(spread / (38 - 19) / 38), 1e-12);
    check_near(zb_eval_average(&r, true),
               (zb_eval_metric(stem, "acc")->value + zb_eval_metric(marketing, "acc")->value) / 2,
               1e-12);
    zb_eval_result_free(&r);
}

static const char toy[] = "data: toy.jsonl\n"
                          "version: 1.0\n"
                          "prompt: \"{q}\"\n"
                          "choices: c\n"
                          "gold: {value: \"{g}\"}\n"
                          "metrics: [acc, acc_norm]\n";

/* Right by acc: the shorter choice. By acc_norm: all "in" merged, 1 token for 2 letters. */
static const char toy_rows[] = "{\"q\": \"the\", \"c\": [\"b\", \"inin\"], \"g\": 0}\n"
                               "\n"
                               "{\"q\": \"the\", \"c\": [\"inin\", \"b\"], \"g\": \"1\"}\n"
                               "{\"q\": \"the\", \"c\": [\"b\", \"inin\"], \"g\": 1}\n"
                               "{\"q\": \"the\", \"c\": [\"b\", \"bb\"], \"g\": 1}\n"
                               "{\"q\": \"the\", \"c\": [\"b\", \"bb\"], \"g\": 0}\n";

static void check_count(double limit, int64_t n, double acc, double norm) {
    zb_eval_opts o = options("toy");
    o.limit = limit;
    zb_eval_result r;
    zb_err err = {0};
    if (zb_eval_run(&o, tokenizer, &counting, &r, &err) != ZB_OK) fail_msg("%s", err.msg);
    assert_int_equal(r.row[0].n, n);
    assert_int_equal(r.row[0].total, 5);
    check_near(zb_eval_metric(&r.row[0], "acc")->value, acc, 1e-12);
    check_near(zb_eval_metric(&r.row[0], "acc_norm")->value, norm, 1e-12);
    zb_eval_result_free(&r);
}

/* Log-probabilities: " b" -2 (1 letter), " inin" -3 (4 letters), " bb" -3 (2 letters). */
static void test_limit_and_scores(void **state) {
    (void)state;
    write_text("toy.yaml", toy);
    write_text("toy.jsonl", toy_rows);
    check_count(0, 5, 3.0 / 5, 2.0 / 5);
    check_count(2, 2, 1, 0);
    check_count(2.9, 2, 1, 0);
    check_count(0.5, 3, 2.0 / 3, 1.0 / 3); /* rounded up */
    check_count(0.01, 1, 1, 0);
    check_count(99, 5, 3.0 / 5, 2.0 / 5);

    /* Lengths are code points: -7 / 3 is worse than -2 / 1, though -7 / 6 (bytes) would be better.
     */
    write_text("toy.jsonl",
               "{\"q\": \"the\", \"c\": [\"\\u00e9\\u00e9\\u00e9\", \"b\"], \"g\": 1}\n");
    zb_eval_opts o = options("toy");
    zb_eval_result r;
    assert_int_equal(zb_eval_run(&o, tokenizer, &counting, &r, NULL), ZB_OK);
    check_near(zb_eval_metric(&r.row[0], "acc_norm")->value, 1, 0);
    zb_eval_result_free(&r);
}

/* With no plain file the compressed one is read; what is wrong in it is told by line all the same.
 */
static void test_compressed_data(void **state) {
    (void)state;
    write_text("packed.yaml", zb_asprintf(&arena, "data: packed.jsonl%s", strchr(toy, '\n')));
    gzFile f = gzopen(in_folder("packed.jsonl.gz"), "w");
    gzputs(f, toy_rows);
    gzclose(f);
    zb_eval_opts o = options("packed");
    zb_eval_result r;
    assert_int_equal(zb_eval_run(&o, tokenizer, &counting, &r, NULL), ZB_OK);
    assert_int_equal(r.row[0].n, 5);
    zb_eval_result_free(&r);
    f = gzopen(in_folder("packed.jsonl.gz"), "w");
    gzputs(f, "\n{");
    gzclose(f);
    zb_err err = {0};
    assert_int_equal(zb_eval_run(&o, tokenizer, &counting, &r, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "packed.jsonl.gz:2: column"));
    zb_eval_result_free(&r);
}

static void test_table(void **state) {
    (void)state;
    write_text("toy.yaml", toy);
    write_text("toy.jsonl", toy_rows);
    write_text(
        "parts.yaml",
        "data: parts.jsonl\nversion: 0.0\ngroup_version: 2\nprompt: \"{q}\"\nchoices: [b, bb]\n"
        "gold: {value: \"{g}\"}\nmetrics: [acc]\nsplit_by: s\ngroups: {big_one: [x, y]}\n");
    write_text("parts.jsonl", "{\"q\":\"k\",\"g\":0,\"s\":\"y\"}\n{\"q\":\"k\",\"g\":1,\"s\":\"y\"}"
                              "\n{\"q\":\"k\",\"g\":0,\"s\":\"x\"}\n");
    zb_eval_opts o = options("toy,parts");
    zb_eval_result r;
    zb_buf out;
    zb_buf_init(&out, 1 << 16);
    assert_int_equal(zb_eval_run(&o, tokenizer, &counting, &r, NULL), ZB_OK);
    zb_eval_table(&r, &out);
    assert_string_equal(out.p, "|  Tasks   |Version|Filter|n-shot| Metric |   |Value |   |Stderr|\n"
                               "|----------|------:|------|-----:|--------|---|-----:|---|-----:|\n"
                               "|parts     |      2|none  |      |acc     |↑  |0.6667|±  |   N/A|\n"
                               "| - big one|      2|none  |      |acc     |↑  |0.6667|±  |   N/A|\n"
                               "|  - x     |      0|none  |     0|acc     |↑  |1.0000|±  |   N/A|\n"
                               "|  - y     |      0|none  |     0|acc     |↑  |0.5000|±  |0.5000|\n"
                               "|toy       |      1|none  |     0|acc     |↑  |0.6000|±  |0.2449|\n"
                               "|          |       |none  |     0|acc_norm|↑  |0.4000|±  |0.2449|\n"
                               "\n"
                               "|  Groups  |Version|Filter|n-shot|Metric|   |Value |   |Stderr|\n"
                               "|----------|------:|------|------|------|---|-----:|---|-----:|\n"
                               "|parts     |      2|none  |      |acc   |↑  |0.6667|±  |   N/A|\n"
                               "| - big one|      2|none  |      |acc   |↑  |0.6667|±  |   N/A|\n");
    json_t *json = zb_eval_json(&r);
    const char *group = json_string_value(
        json_array_get(json_object_get(json_object_get(json, "group_subtasks"), "parts"), 0));
    assert_string_equal(group, "parts_big_one");
    assert_string_equal(
        get_text(json_object_get(json_object_get(json, "groups"), "parts"), "acc_stderr,none"),
        "N/A");
    json_t *samples = json_object_get(json_object_get(json, "n-samples"), "parts_y");
    assert_int_equal(json_integer_value(json_object_get(samples, "effective")), 2);
    check_near(zb_eval_average(&r, true), (2.0 / 3 + 0.4) / 2, 1e-12);
    check_near(zb_eval_average(&r, false), (2.0 / 3 + 0.6) / 2, 1e-12);
    json_decref(json);
    zb_buf_free(&out);
    zb_eval_result_free(&r);
}

static void check_ids(const int32_t *have, int n, const char *expected) {
    const char *text = "";
    for (int i = 0; i < n; i++)
        text = zb_asprintf(&arena, "%s%s%d", text, i ? " " : "", (int)have[i]);
    assert_string_equal(text, expected);
}

/* Ids as the `tokenizers` package gives them for the two texts of each pair. */
static void test_boundary(void **state) {
    (void)state;
    static const struct {
        const char *context, *continuation;
        int32_t bos;
        int max_length;
        const char *ids, *tail;
    } cases[] = {
        {"x", " the", -1, 100, "120", "258"},
        {"x \n", " the", -1, 100, "120", "32 10 258"},      /* white space moves over */
        {"x\xc2\xa0", " a", -1, 100, "120", "194 160 259"}, /* Unicode white space, too */
        {"th", "e the", -1, 100, "256", "258"}, /* "the" is one token: the rule loses the "e" */
        {"", " the", -1, 100, "262", "258"},    /* empty: the prefix token */
        {"  ", "x", -1, 100, "262", "32 32 120"},
        {"", "<|bos|> the", -1, 100, "262", "258"}, /* which may come from the continuation */
        {"x", " the", 262, 100, "262 120", "258"},
        {"<|bos|>x", " the", 262, 100, "262 120", "258"}, /* BOS is not doubled */
        {"abcd", " the", -1, 3, "98 99 100", "258"},      /* cut on the left */
        {"abcd", "efg", -1, 3, "100", "101 102 103"},
        {"x", " 12", -1, 100, "120", "32 49 50"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zb_request_maker m = {.tokenizer = tokenizer,
                              .bos = cases[i].bos,
                              .prefix = 262,
                              .max_length = cases[i].max_length,
                              .arena = &arena};
        zb_loglik_request r;
        zb_err err = {0};
        zb_status s = zb_request_make(&m, zb_str_from(cases[i].context),
                                      zb_str_from(cases[i].continuation), "w", &r, &err);
        if (s != ZB_OK) fail_msg("case %zu: %s", i, err.msg);
        check_ids(r.context, r.n_context, cases[i].ids);
        check_ids(r.continuation, r.n_continuation, cases[i].tail);
    }
    zb_request_maker m = {
        .tokenizer = tokenizer, .bos = -1, .prefix = -1, .max_length = 2, .arena = &arena};
    zb_loglik_request r;
    zb_err err = {0};
    assert_int_equal(zb_request_make(&m, ZB_STR("x"), ZB_STR("abc"), "f:1", &r, &err),
                     ZB_ERR_UNSUPPORTED);
    assert_string_equal(err.msg, "f:1: a choice has 3 tokens, expected at most 2 (max_length)");
    assert_int_equal(zb_request_make(&m, ZB_STR("x"), ZB_STR(""), "f:1", &r, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_request_make(&m, ZB_STR(" "), ZB_STR("x"), "f:1", &r, &err),
                     ZB_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "neither BOS nor EOS"));
}

/* Notes what is asked: group, length, what is shared; a call ends with a bar. */
static zb_status note_order(void *self, const zb_loglik_request *r, int n, zb_loglik *out,
                            zb_err *err) {
    (void)err;
    zb_buf *b = self;
    for (int i = 0; i < n; i++) {
        zb_buf_addf(b, "%lld:%d/%d ", (long long)r[i].group, r[i].n_context + r[i].n_continuation,
                    r[i].n_shared);
        out[i].logprob = (double)r[i].group * 100 - r[i].n_continuation;
    }
    zb_buf_addf(b, "| ");
    return ZB_OK;
}

/* Returns the number of calls. */
static int check_order(zb_loglik_request *r, size_t n, const char *expected) {
    zb_loglik out[600];
    zb_buf order;
    zb_buf_init(&order, 1 << 16);
    zb_scorer s = {.self = &order, .max_length = 9999, .loglik = note_order};
    zb_shard alone = {0, 1};
    zb_request_run run = {.scorer = &s, .shard = &alone, .what = "order", .arena = &arena};
    assert_int_equal(zb_request_score(&run, r, n, out, NULL), ZB_OK);
    if (expected) assert_string_equal(order.p, expected);
    for (size_t i = 0; i < n; i++)
        check_near(out[i].logprob, (double)r[i].group * 100 - r[i].n_continuation, 0);
    int calls = 0;
    for (const char *p = order.p; (p = strchr(p, '|')); p++) calls++;
    zb_buf_free(&order);
    return calls;
}

/* Groups stay whole, contexts that begin alike are neighbours, the shorter one first. */
static void test_order(void **state) {
    (void)state;
    static const int32_t ids[16] = {1, 2}, other[8] = {1, 3};
    zb_loglik_request r[] = {
        {ids, 2, ids, 1, 0, 0},     {ids, 2, ids, 5, 0, 0},     {other, 8, ids, 1, 0, 0},
        {ids + 2, 1, ids, 2, 0, 0}, {ids + 2, 1, ids, 1, 0, 0}, {ids, 6, ids, 1, 0, 0},
    };
    check_order(r, 6, "2:3/0 2:2/0 0:3/0 0:7/0 3:7/0 1:9/0 | ");
    assert_int_equal(r[2].group, 1);
}

/* What neighbours share is theirs to pass once: two families with introductions of 60 and 30 tokens
 * after a common start of 20, a third of two members, for which a state does not pay, and
 * strangers. */
static void test_shared_beginnings(void **state) {
    (void)state;
    enum { N = 100, LONG = 90 };
    static int32_t ids[N][LONG];
    zb_loglik_request r[N];
    for (int i = 0; i < N; i++) {
        int family = i % 4, begin = family == 0 ? 60 : family == 1 ? 30 : family == 2 ? 20 : 0;
        for (int k = 0; k < LONG; k++)
            ids[i][k] = k < begin ? (k < 20 ? 7 : 70 + family) : 1000 * (i + 1) + k;
        bool few = family == 2 && i > 8; /* two of them are left */
        r[i] = (zb_loglik_request){ids[i], few ? 1 : LONG, ids[i], 1, 0, 0};
    }
    check_order(r, N, NULL);
    int shared[4] = {0};
    for (int i = 0; i < N; i++) {
        assert_in_range(r[i].n_shared, 0, r[i].n_context - 1);
        for (int k = 0; k < r[i].n_shared; k++) assert_int_equal(ids[i][k], ids[i % 4][k]);
        shared[i % 4] += r[i].n_shared;
    }
    assert_int_equal(shared[0], 25 * 60);
    assert_int_equal(shared[1], 25 * 30);
    assert_int_equal(shared[2], 0);
    assert_int_equal(shared[3], 0);
}

/* 300 questions of 120 tokens behind 100 common ones are 6,000 tokens of work, not 36,000: two
 * calls. */
static void test_calls_count_what_is_left(void **state) {
    (void)state;
    enum { N = 300, LONG = 120 };
    static int32_t ids[N][LONG];
    zb_loglik_request r[N];
    int32_t tail = 1;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < LONG; k++) ids[i][k] = k < 100 ? 5 : 1000 * (i + 1) + k;
        r[i] = (zb_loglik_request){ids[i], LONG, &tail, 1, 0, 0};
    }
    assert_int_equal(check_order(r, N, NULL), 2);
    assert_int_equal(r[N - 1].n_shared, 100);
}

/* First ids of each request: what profile, add_bos and prefix make of "the" and of an empty
 * context. */
static zb_status note_first(void *self, const zb_loglik_request *r, int n, zb_loglik *out,
                            zb_err *err) {
    (void)out, (void)err, (void)n;
    *(int32_t *)self = r[0].context[0];
    return ZB_OK;
}

static void check_first(const char *profile, const char *add_bos, int32_t prefix, const char *q,
                        int32_t first, int max_length) {
    write_text("toy.yaml", toy);
    write_text("toy.jsonl",
               zb_asprintf(&arena, "{\"q\": \"%s\", \"c\": [\"b\", \"inin\"], \"g\": 0}\n", q));
    zb_eval_opts o = options("toy");
    o.profile = profile;
    o.add_bos = add_bos;
    int32_t have = -1;
    zb_scorer s = {.self = &have, .max_length = 4096, .prefix_token = prefix, .loglik = note_first};
    zb_eval_result r;
    assert_int_equal(zb_eval_run(&o, tokenizer, &s, &r, NULL), ZB_OK);
    assert_int_equal(have, first);
    assert_int_equal(r.max_length, max_length);
    zb_eval_result_free(&r);
}

static void test_profiles(void **state) {
    (void)state;
    check_first("lm-eval", "auto", -1, "xy", 262, 4096); /* the tokenizer's own setting */
    check_first("lm-eval", "off", -1, "xy", 'x', 4096);
    check_first("lm-eval", "off", -1, "", 262, 4096);
    check_first("lm-eval", "off", 7, "", 7, 4096);
    check_first("zebra-paper", "auto", -1, "xy", 'x', 2048);
    check_first("zebra-paper", "on", -1, "xy", 262, 2048);
    check_first("zebra-paper", "auto", -1, "", 263, 2048);
}

/* `files` are task, data; the message must contain `message`. */
static void check_error(const char *task, const char *data, zb_status status, const char *message) {
    write_text("toy.yaml", task);
    write_text("toy.jsonl", data);
    zb_eval_opts o = options("toy");
    zb_eval_result r;
    zb_err err = {0};
    zb_status s = zb_eval_run(&o, tokenizer, &counting, &r, &err);
    zb_eval_result_free(&r);
    if (s != status || !strstr(err.msg, message))
        fail_msg("expected %d \"%s\", found %d \"%s\"", status, message, s, err.msg);
    if (strncmp(err.msg, folder, strlen(folder)) != 0) fail_msg("no file named: %s", err.msg);
}

static void test_broken_data(void **state) {
    (void)state;
    static const char good[] =
        "{\"q\": \"the\", \"c\": [\"b\", \"a\"], \"g\": 0, \"a\": \"B\", \"s\": \"x\"}\n";
    static const struct {
        const char *row, *message;
    } bad[] = {
        {"{\"q\": \"the\", \"c\": [\"b\"", "toy.jsonl:2: column"},
        {"[1]", "toy.jsonl:2: expected an object, found an array"},
        {"{\"q\": \"a\", \"q\": \"b\"}", "toy.jsonl:2: column"},
        {"{\"c\": [\"b\"], \"g\": 0}", "toy.jsonl:2: field \"q\" is missing"},
        {"{\"q\": 1.5, \"c\": [\"b\"], \"g\": 0}", "toy.jsonl:2: field \"q\": expected text"},
        {"{\"q\": \"x\", \"c\": \"b\", \"g\": 0}",
         "toy.jsonl:2: field \"c\": expected an array, found a string"},
        {"{\"q\": \"x\", \"c\": [], \"g\": 0}",
         "toy.jsonl:2: field \"c\": expected 1 to 256 items, found 0"},
        {"{\"q\": \"x\", \"c\": [\"b\", 3], \"g\": 0}",
         "toy.jsonl:2: field \"c\", item 1: expected a string, found an integer"},
        {"{\"q\": \"x\", \"c\": [\"b\", \"\"], \"g\": 0}", "toy.jsonl:2: choice 1: expected text"},
        {"{\"q\": \"x\", \"c\": [\"b\", \"a\"], \"g\": 2}",
         "toy.jsonl:2: answer \"2\" ({g}): expected an integer from 0 to 1"},
        {"{\"q\": \"x\", \"c\": [\"b\", \"a\"], \"g\": -1}", "toy.jsonl:2: answer \"-1\""},
        {"{\"q\": \"x\", \"c\": [\"b\", \"a\"], \"g\": \"B\"}", "toy.jsonl:2: answer \"B\""},
        {"\xff\xfe", "toy.jsonl:2: column"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        check_error(toy, zb_asprintf(&arena, "%s%s\n", good, bad[i].row), ZB_ERR_FORMAT,
                    bad[i].message);
    check_error(toy, "", ZB_ERR_FORMAT, "toy.jsonl: no rows of toy");
    check_error(zb_asprintf(&arena, "rows: 3\n%s", toy), good, ZB_ERR_FORMAT,
                "toy.jsonl: expected 3 rows");
    static const char labelled[] = "data: toy.jsonl\nprompt: \"{q}\"\nchoices: c\ngold: {value: "
                                   "\"{a}\", among: [A, B]}\nmetrics: [acc]\n";
    check_error(labelled, "{\"q\": \"the\", \"c\": [\"b\"], \"a\": \"B\"}", ZB_ERR_FORMAT,
                "expected the label of one of 1 choices");
    check_error(labelled, "{\"q\": \"the\", \"c\": [\"b\", \"a\"], \"a\": \"b\"}", ZB_ERR_FORMAT,
                "answer \"b\" ({a}): expected the label");
    const char *parts = zb_asprintf(&arena, "%ssplit_by: s\ngroups: {one: [y, z]}\n", toy);
    check_error(parts, good, ZB_ERR_FORMAT, "toy.jsonl:1: field \"s\": \"x\" is in no group");
    char *deep = zb_alloc(&arena, 200001);
    memset(deep, '[', 200000);
    check_error(toy, deep, ZB_ERR_FORMAT, "toy.jsonl:1: column");
}

static void test_broken_task(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *message;
    } bad[] = {
        {"data: toy.jsonl", "dta: toy.jsonl", "toy.yaml:1: unknown key \"dta\""},
        {"data: toy.jsonl", "rows: 2", "toy.yaml: key \"data\" is missing"},
        {"data: toy.jsonl", "data: ../toy.jsonl",
         "toy.yaml:1: data: expected a file name without folder"},
        {"data: toy.jsonl", "data: toy.jsonl\nrows: -1",
         "toy.yaml:2: rows: expected an integer from 0"},
        {"data: toy.jsonl", "data: [a]", "toy.yaml:1: data: expected a text, found a list"},
        {"prompt: \"{q}\"", "prompt: \"{q\"", "toy.yaml:3: prompt: { without }"},
        {"prompt: \"{q}\"", "prompts: [\"{q}\"]",
         "toy.yaml: expected prompt and choices, or prompts and continuation"},
        {"choices: c", "choices: []", "toy.yaml:4: choices: expected at least one item"},
        {"choices: c", "choices: {a: b}", "toy.yaml:4: choices: expected the name of a field"},
        {"choices: c", "choices: c\nclean: wash",
         "toy.yaml:5: clean: expected a text rule without argument, found \"wash\""},
        {"choices: c", "choices: c\nclean: before",
         "toy.yaml:5: clean: expected a text rule without argument"},
        {"gold: {value: \"{g}\"}", "gold: 1", "toy.yaml:5: gold: expected a mapping"},
        {"gold: {value: \"{g}\"}", "gold: {value: \"{g}\", of: 1}",
         "toy.yaml:5: unknown key \"of\""},
        {"gold: {value: \"{g}\"}", "gold: {from: 1}",
         "toy.yaml:5: gold: expected a mapping with the key value"},
        {"gold: {value: \"{g}\"}", "gold: {value: a, from: 1, among: c}",
         "toy.yaml:5: gold: expected either from or among"},
        {"metrics: [acc, acc_norm]", "metrics: [acc, f1]",
         "toy.yaml:6: item: expected acc, acc_norm, acc_bytes, mc2, found \"f1\""},
        {"metrics: [acc, acc_norm]", "metrics: acc", "toy.yaml:6: metrics: expected a list"},
        {"metrics: [acc, acc_norm]", "metrics: [acc]\nsplit_by: s",
         "toy.yaml: split_by and groups go together"},
        {"metrics: [acc, acc_norm]", "metrics: [acc]\nsplit_by: s\ngroups: {a: [x, x]}",
         "toy.yaml:8: item: expected each part once"},
        {"metrics: [acc, acc_norm]", "metrics: [acc]\nfewshot: {data: a, sampler: best}",
         "toy.yaml:7: sampler: expected first_n or random"},
        {"metrics: [acc, acc_norm]", "metrics: [acc", "toy.yaml:"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *at = strstr(toy, bad[i].from);
        assert_non_null(at);
        const char *task = zb_asprintf(&arena, "%.*s%s%s", (int)(at - toy), toy, bad[i].to,
                                       at + strlen(bad[i].from));
        check_error(task, toy_rows, ZB_ERR_CONFIG, bad[i].message);
    }
}

static void check_options(const zb_eval_opts *o, zb_status status, const char *message) {
    zb_eval_result r;
    zb_err err = {0};
    zb_status s = zb_eval_run(o, tokenizer, &counting, &r, &err);
    zb_eval_result_free(&r);
    if (s != status || !strstr(err.msg, message))
        fail_msg("expected %d \"%s\", found %d \"%s\"", status, message, s, err.msg);
}

static zb_status broken(void *self, const zb_loglik_request *r, int n, zb_loglik *out,
                        zb_err *err) {
    (void)self, (void)r, (void)err;
    for (int i = 0; i < n; i++) out[i].logprob = (double)NAN;
    return ZB_OK;
}

static void test_wrong_options(void **state) {
    (void)state;
    write_text("toy.yaml", toy);
    write_text("toy.jsonl", toy_rows);
    zb_eval_opts o = options("toy,tow");
    check_options(&o, ZB_ERR_USAGE, "unknown task \"tow\"");
    o = options("toy_x");
    check_options(&o, ZB_ERR_USAGE, "unknown task \"toy_x\"");
    o = options("../toy");
    check_options(&o, ZB_ERR_USAGE, "expected a task's name");
    o = options(" , ");
    check_options(&o, ZB_ERR_USAGE, "expected names of tasks");
    o = options("toy");
    o.num_fewshot = 5;
    check_options(&o, ZB_ERR_CONFIG, "toy.yaml names no pool of examples (fewshot: data), found 5");
    o = options("toy");
    o.samples = "answers";
    check_options(&o, ZB_ERR_USAGE, "a folder for answers is --log-samples");
    o.samples = "{\"toy\": [5]}";
    check_options(&o, ZB_ERR_USAGE, "samples: toy: item 0: expected a number from 0 to 4, found 5");
    o.samples = "{\"toy\": [0, \"1\"]}";
    check_options(&o, ZB_ERR_USAGE, "item 1: expected a number from 0 to 4, found a string");
    o.samples = "{\"toy\": 1}";
    check_options(&o, ZB_ERR_USAGE, "samples: toy: expected a list of numbers, found an integer");
    o.samples = "{\"toy\": []}";
    check_options(&o, ZB_ERR_USAGE, "samples: toy: expected at least one document");
    o = options("toy");
    o.max_length = 5000;
    check_options(&o, ZB_ERR_CONFIG, "max_length: expected at most 4096");
    o = options("toy");
    o.tasks_dir = "/no/such/folder";
    check_options(&o, ZB_ERR_IO, "/no/such/folder: folder of task files not found");
    o = options("toy");
    o.data_dir = "/no/such/folder";
    check_options(&o, ZB_ERR_IO,
                  "/no/such/folder/toy.jsonl: data of task toy not found: run ./run prepare");
    o = options("toy");
    zb_scorer s = {.max_length = 99, .prefix_token = -1, .loglik = broken};
    zb_eval_result r;
    zb_err err = {0};
    assert_int_equal(zb_eval_run(&o, tokenizer, &s, &r, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "not a number"));
    zb_eval_result_free(&r);
}

/* Last, since the flag of an interruption stays set. */
static void test_interruption(void **state) {
    (void)state;
    write_text("toy.yaml", toy);
    write_text("toy.jsonl", toy_rows);
    zb_interrupt_install();
    raise(SIGINT);
    zb_eval_opts o = options("toy");
    o.output = in_folder("never.json");
    check_options(&o, ZB_ERR_INTERRUPTED, "toy: interrupted after 0 of 10 requests");
    assert_false(zb_file_exists(o.output));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_mmlu),
        cmocka_unit_test(test_limit_and_scores),
        cmocka_unit_test(test_compressed_data),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_boundary),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_shared_beginnings),
        cmocka_unit_test(test_calls_count_what_is_left),
        cmocka_unit_test(test_profiles),
        cmocka_unit_test(test_broken_data),
        cmocka_unit_test(test_broken_task),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_interruption),
    };
    return cmocka_run_group_tests_name("eval run", tests, set_up, tear_down);
}
