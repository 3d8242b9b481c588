/* test_report.c - the report: exact values, missing and broken parts, hostile text, pictures.
 *
 * The fixture tests/format/report is two tiny models with all files; each case of a broken part
 * replaces one file. Averages are checked by hand: teacher (0.35 + 0.5 + 0.25) / 3. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "report/gnuplot.h"
#include "report/label.h"
#include "report/measure.h"
#include "report/report.h"
#include "report/summary.h"
#include "report/training.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define FIXTURE "tests/format/report/"

typedef struct fixture {
    zb_arena a;
    zb_report_input in;
    zb_report_model model[2];
    char dir[64];
} fixture;

static int setup(void **state) {
    zb_err err = {0};
    fixture *f = test_calloc(1, sizeof *f);
    strcpy(f->dir, "/tmp/zb_report_XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    zb_log_set(ZB_LOG_QUIET);
    if (zb_report_input_read(&f->in, FIXTURE "report-input.json", &f->a, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(f->in.n_models, 2);
    memcpy(f->model, f->in.model, sizeof f->model);
    f->in.model = f->model;
    f->in.out_dir = f->dir;
    f->in.gnuplot = "/nonexistent/gnuplot";
    *state = f;
    return 0;
}

static int teardown(void **state) {
    fixture *f = *state;
    zb_dir_remove(f->dir, NULL);
    zb_arena_free(&f->a);
    test_free(f);
    return 0;
}

static const char *put_file(fixture *f, const char *name, const char *text) {
    const char *path = zb_path_join(&f->a, f->dir, name);
    assert_int_equal(zb_file_write(path, text, strlen(text), NULL), ZB_OK);
    return path;
}

static char *get_file(fixture *f, const char *name) {
    zb_str text;
    zb_err err = {0};
    if (zb_file_read(zb_path_join(&f->a, f->dir, name), 1 << 24, &f->a, &text, &err))
        fail_msg("%s", err.msg);
    return (char *)text.p;
}

static void write_report(fixture *f, zb_buf *table) {
    zb_err err = {0};
    if (zb_report_write(&f->in, table, &err)) fail_msg("%s", err.msg);
}

static json_t *written_json(fixture *f) {
    json_t *o;
    zb_err err = {0};
    if (zb_json_read(zb_path_join(&f->a, f->dir, "report.json"), 1 << 24, &o, &err))
        fail_msg("%s", err.msg);
    return o;
}

static double number(const json_t *o, const char *model, const char *a, const char *b,
                     const char *c) {
    const json_t *v = json_object_get(json_object_get(o, model), a);
    if (b) v = json_object_get(v, b);
    if (c) v = json_object_get(v, c);
    if (!json_is_number(v)) fail_msg("%s.%s.%s.%s is no number", model, a, b ? b : "", c ? c : "");
    return json_number_value(v);
}

#define NEAR(x, y) assert_true(fabs((x) - (y)) < 1e-9)

/* Errors of 0.02, 0.03, 0.06 over three tasks; differences are those of the fixture's scores. */
static const char *paired(fixture *f, const char *arc) {
    return put_file(
        f, "paired.json",
        zb_asprintf(&f->a,
                    "{\"tasks\": {\"arc_challenge\": {\"acc\": {\"difference\": 0.5}, "
                    "\"acc_norm\": {\"difference\": %s, \"stderr\": 0.02}}, \"arc_easy\": "
                    "{\"acc\": {\"difference\": -0.1, \"stderr\": 0.03}}}, "
                    "\"groups\": {\"mmlu\": {\"acc\": {\"difference\": -0.01, "
                    "\"stderr\": 0.06}}}}",
                    arc));
}

static void differences_by_document(void **state) {
    fixture *f = *state;
    zb_buf table;
    zb_err err = {0};
    zb_buf_init(&table, 1 << 20);
    write_report(f, NULL);
    json_t *o = written_json(f);
    assert_null(json_object_get(json_object_get(o, "student"), "average_difference"));
    assert_non_null(strstr(get_file(f, "report.html"), "means taken as independent"));
    json_decref(o);
    f->model[1].paired = paired(f, "-0.05");
    write_report(f, &table);
    o = written_json(f);
    NEAR(number(o, "student", "average_difference", NULL, NULL), -0.16 / 3);
    NEAR(number(o, "student", "average_difference_stderr", NULL, NULL), 0.07 / 3);
    assert_null(json_object_get(json_object_get(o, "teacher"), "average_difference"));
    assert_non_null(strstr(table.p, "the average of student is -5.3 \xc2\xb1 2.3 points"));
    assert_non_null(strstr(get_file(f, "report.html"), "2.3 points (document by document)"));
    json_decref(o);
    f->model[1].paired = paired(f, "-0.04");
    assert_int_equal(zb_report_write(&f->in, NULL, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "arc_challenge: difference: expected that of the scores"));
    zb_buf_free(&table);
}

static void json_has_exact_values(void **state) {
    fixture *f = *state;
    write_report(f, NULL);
    json_t *o = written_json(f);
    NEAR(number(o, "teacher", "kv_percent", NULL, NULL), 100);
    NEAR(number(o, "student", "kv_percent", NULL, NULL), 6.25);
    NEAR(number(o, "student", "kv_bytes_per_token", NULL, NULL), 256);
    NEAR(number(o, "student", "state_bytes", NULL, NULL), 65536);
    NEAR(number(o, "student", "parameters", NULL, NULL), 1050000);
    NEAR(number(o, "teacher", "perplexity", NULL, NULL), 20.5);
    NEAR(number(o, "student", "kl_to_teacher", NULL, NULL), 0.75);
    NEAR(number(o, "teacher", "tasks", "arc_challenge", "acc"), 0.25);
    NEAR(number(o, "teacher", "tasks", "arc_challenge", "acc_norm"), 0.35);
    NEAR(number(o, "teacher", "tasks", "arc_challenge", "acc_stderr"), 0.03);
    NEAR(number(o, "teacher", "tasks", "arc_challenge", "n"), 100);
    NEAR(number(o, "teacher", "tasks", "mmlu", "n"), 50); /* 20 by n-samples + 30 by sample_len */
    NEAR(number(o, "teacher", "average", NULL, NULL), (0.35 + 0.5 + 0.25) / 3);
    NEAR(number(o, "student", "average", NULL, NULL), (0.3 + 0.4 + 0.24) / 3);
    NEAR(number(o, "teacher", "recall", "niah_single_1", "512"), 0.875);
    NEAR(number(o, "teacher", "recall", "ruler_vt", "512"), 0.5); /* no text: sure answers */
    NEAR(number(o, "student", "recall", "niah_single_1", "1024"), 0);
    NEAR(number(o, "teacher", "associative", "8", "512"), 0.5);
    NEAR(number(o, "student", "associative", "16", "128"), 0.125);
    NEAR(number(o, "teacher", "decode_tokens_per_second", "1024", NULL), 50);
    NEAR(number(o, "student", "decode_tokens_per_second", "1024", NULL), 80);
    NEAR(number(o, "teacher", "prefill_tokens_per_second", "512", NULL),
         400);                                                   /* not the deep one */
    NEAR(number(o, "student", "train_tokens", NULL, NULL), 750); /* 150 align + 600 distill */
    NEAR(number(o, "student", "seconds", "align", NULL), 12.5);
    const json_t *teacher = json_object_get(o, "teacher");
    assert_null(json_object_get(teacher, "kl_to_teacher"));
    assert_null(json_object_get(teacher, "train_tokens"));
    assert_int_equal(json_object_size(json_object_get(teacher, "tasks")), 3); /* no parts of mmlu */
    assert_non_null(strstr(json_string_value(json_object_get(o, "average_rule")), "openbookqa"));
    json_decref(o);
}

static void table_is_markdown(void **state) {
    fixture *f = *state;
    zb_buf t;
    zb_buf_init(&t, 1 << 20);
    write_report(f, &t);
    assert_non_null(strstr(t.p, "student / teacher |"));
    assert_non_null(strstr(
        t.p, "arc_challenge, acc_norm, % (n = 100)  | 35.0 \xc2\xb1 4.0 | 30.0 \xc2\xb1 4.0 |"));
    assert_non_null(strstr(t.p, "arc_easy, acc, % (n = 100)"));
    assert_non_null(strstr(t.p, "niah_single_1, 512 tokens, %"));
    assert_non_null(strstr(t.p, "ruler_vt, 512 tokens, sure answers, %"));
    assert_non_null(strstr(t.p, "1.60")); /* decode at 1024: 80 / 50 */
    zb_str line = {t.p, (size_t)(strchr(t.p, '\n') - t.p)};
    size_t width = zb_utf8_length(line.p, line.n), bars = 0;
    for (size_t i = 0; i < line.n; i++) bars += line.p[i] == '|';
    assert_int_equal(bars, 5);
    const char *third = strstr(t.p, "| parameters");
    assert_int_equal(zb_utf8_length(third, (size_t)(strchr(third, '\n') - third)), width);
    zb_buf_free(&t);
}

/* As many tasks, but others, and one of them on fewer documents. */
static void different_tasks_are_not_compared(void **state) {
    fixture *f = *state;
    zb_buf t;
    zb_buf_init(&t, 1 << 20);
#define TASK(name, acc, n)                                                                         \
    "\"" name "\": {\"acc,none\": " acc ", \"acc_stderr,none\": 0.01, \"sample_len\": " n "}"
    f->model[0].eval =
        put_file(f, "a.json",
                 "{\"results\": {" TASK("piqa", "0.6", "100") ", " TASK("sciq", "0.5", "100") "}}");
    f->model[1].eval =
        put_file(f, "b.json",
                 "{\"results\": {" TASK("piqa", "0.3", "10") ", " TASK("boolq", "0.9", "100") "}}");
    write_report(f, &t);
    assert_non_null(strstr(t.p, " 60.0 \xc2\xb1 1.0 |"));
    assert_non_null(strstr(t.p, " 30.0 \xc2\xb1 1.0 (n = 10) |"));
    const char *average = strstr(t.p, "average of 2 tasks, %");
    assert_non_null(average);
    average = zb_strndup(&f->a, average, strcspn(average, "\n"));
    assert_non_null(strstr(average, " 60.0 \xc2\xb1 0.7 (of others) |"));
    assert_non_null(strstr(average, " \xe2\x80\x93 |")); /* no ratio */
    const char *page = get_file(f, "report.html");
    assert_null(strstr(page, "The averages differ by"));
    assert_null(strstr(page, "; teacher: 55.0"));
    zb_buf_free(&t);
}

static void one_task_is_one(void **state) {
    fixture *f = *state;
    zb_buf t;
    zb_buf_init(&t, 1 << 20);
    f->model[0].eval = put_file(f, "a.json", "{\"results\": {\"piqa\": {\"acc,none\": 0.5}}}");
    f->model[1].eval = put_file(f, "b.json", "{\"results\": {\"piqa\": {\"acc,none\": 0.4}}}");
    write_report(f, &t);
    assert_non_null(strstr(t.p, "| average of 1 task, % "));
    zb_buf_free(&t);
}

/* Groups have no number of their own. */
static void examples_are_named(void **state) {
    fixture *f = *state;
    zb_buf t;
    zb_buf_init(&t, 1 << 20);
    f->model[0].eval =
        put_file(f, "a.json",
                 "{\"results\": {\"mmlu\": {\"acc,none\": 0.5}, \"piqa\": {\"acc,none\": 0.5}},"
                 "\"group_subtasks\": {\"mmlu\": [\"mmlu_law\"]},"
                 "\"n-shot\": {\"mmlu_law\": 5, \"piqa\": 0}}");
    f->model[1].eval = put_file(f, "b.json",
                                "{\"results\": {\"mmlu\": {\"acc,none\": 0.4}},"
                                "\"n-shot\": {\"mmlu\": 0}}");
    write_report(f, &t);
    assert_non_null(strstr(t.p, "| mmlu, acc, 5-shot, % "));
    assert_non_null(strstr(t.p, " 40.0 (0-shot) |"));
    assert_non_null(strstr(t.p, "| piqa, acc, % "));
    assert_null(strstr(t.p, "zero-shot"));
    assert_null(strstr(get_file(f, "report.html"), "zero-shot"));
    zb_buf_free(&t);
}

/* Texts of one model, and sure answers of the other, are two measures. */
static void recall_of_two_kinds(void **state) {
    fixture *f = *state;
    zb_buf t;
    zb_buf_init(&t, 1 << 20);
#define CELL(key) "{\"cells\": [{\"test\": \"x\", \"length\": 512, \"n\": 4, \"" key "\": 0.5}]}"
    f->model[0].recall = put_file(f, "a.json", CELL("score"));
    f->model[1].recall = put_file(f, "b.json", CELL("greedy"));
    write_report(f, &t);
    const char *row = strstr(t.p, "| x, 512 tokens, %");
    assert_non_null(row);
    row = zb_strndup(&f->a, row, strcspn(row, "\n"));
    assert_non_null(strstr(row, " 50.0 (sure answers) |"));
    assert_non_null(strstr(row, " \xe2\x80\x93 |")); /* no ratio */
    zb_buf_free(&t);
}

static void missing_parts_are_named(void **state) {
    fixture *f = *state;
    zb_buf t;
    zb_buf_init(&t, 1 << 20);
    f->model[1].bench = "/nonexistent/bench.json";
    f->model[1].eval = f->model[1].recall = NULL;
    f->in.samples = f->in.select = f->in.recipe = NULL;
    f->in.n_logs = 0;
    write_report(f, &t);
    json_t *o = written_json(f), *student = json_object_get(o, "student");
    assert_null(json_object_get(student, "tasks"));
    assert_null(json_object_get(student, "average"));
    assert_null(json_object_get(student, "decode_tokens_per_second"));
    assert_null(json_object_get(student, "train_tokens"));
    NEAR(number(o, "student", "perplexity", NULL, NULL), 41);
    /* speed, evaluation, recall, layer choice, samples, recipe, pictures */
    assert_int_equal(json_array_size(json_object_get(o, "missing")), 7);
    assert_non_null(strstr(t.p, "Left out: student: speed: no file /nonexistent/bench.json."));
    assert_non_null(strstr(t.p, "Left out: student: evaluation: not measured."));
    char *page = get_file(f, "report.html");
    assert_non_null(strstr(page, "Left out: student: speed: no file /nonexistent/bench.json."));
    assert_null(strstr(page, "id=\"samples\""));
    json_decref(o);
    zb_buf_free(&t);
}

static void one_model_with_nothing(void **state) {
    fixture *f = *state;
    const zb_report_model bare = {.name = "alone"};
    f->in =
        (zb_report_input){.model = &bare, .n_models = 1, .out_dir = f->dir, .gnuplot = "/none/g"};
    zb_buf t;
    zb_buf_init(&t, 1 << 20);
    write_report(f, &t);
    json_t *o = written_json(f);
    assert_int_equal(json_object_size(json_object_get(o, "alone")), 0);
    assert_int_equal(json_array_size(json_object_get(o, "missing")), 8);
    assert_non_null(strstr(get_file(f, "report.html"), "</html>"));
    json_decref(o);
    zb_buf_free(&t);
}

static void pages_escape_everything(void **state) {
    fixture *f = *state;
    const zb_report_fact fact[] = {{"<machine>", "bad \xff\xc0\x80 \"bytes\""}};
    f->in.fact = fact;
    f->in.n_facts = 1;
    f->in.recipe = put_file(f, "recipe.yaml", "a: <b>\x01\xfe</b>\n");
    f->model[1].title = "</title><script>x</script>";
    write_report(f, NULL);
    char *page = get_file(f, "report.html");
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "<img"));
    assert_null(strstr(page, "<machine"));
    assert_null(strstr(page, "<i>")); /* of the title */
    assert_null(strstr(page, "http:"));
    assert_null(strstr(page, "https:"));
    assert_non_null(
        strstr(page, "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;x&#39;"));
    assert_non_null(strstr(page, "&lt;/pre&gt;&lt;img src=x onerror=alert(2)&gt;\xef\xbf\xbd"));
    assert_non_null(strstr(page, "a: &lt;b&gt;\xef\xbf\xbd\xef\xbf\xbd&lt;/b&gt;"));
    assert_non_null(strstr(page, "&lt;machine&gt;"));
    for (size_t i = 0, n = strlen(page), k; i < n; i += k) {
        uint32_t cp;
        k = zb_utf8_decode(page + i, n - i, &cp);
        assert_true(k > 0 && (cp >= 32 || cp == '\n'));
    }
}

/* Writes `text` as the file of one part and expects an error that holds `words`; nothing may have
 * been written. */
static void expect_broken(fixture *f, const char **part, const char *text, const char *words) {
    const char *old = *part;
    zb_err err = {0};
    *part = put_file(f, "broken.json", text);
    assert_int_equal(zb_report_write(&f->in, NULL, &err), ZB_ERR_FORMAT);
    if (!strstr(err.msg, "broken.json") || !strstr(err.msg, words))
        fail_msg("expected \"%s\", found \"%s\"", words, err.msg);
    assert_false(zb_file_exists(zb_path_join(&f->a, f->dir, "report.json")));
    *part = old;
}

static void broken_files_are_named(void **state) {
    fixture *f = *state;
    zb_report_model *s = &f->model[1];
    expect_broken(f, &s->eval, "{\"results\": {", "invalid JSON");
    expect_broken(f, &s->eval, "[]", "expected an object, found an array");
    expect_broken(f, &s->eval, "{}", "\"results\" is missing");
    expect_broken(f, &s->eval, "{\"results\": {\"piqa\": 3}}", "results.piqa: expected an object");
    expect_broken(f, &s->eval, "{\"results\": {\"piqa\": {\"acc,none\": 1.5}}}",
                  "results.piqa: key \"acc,none\": expected 0 to 1, found 1.5");
    expect_broken(f, &s->eval, "{\"results\": {\"piqa\": {\"acc,none\": \"x\"}}}",
                  "expected a number");
    expect_broken(f, &s->perplexity, "{\"perplexity\": 0.5}", "expected 1 to inf, found 0.5");
    expect_broken(f, &s->perplexity, "{\"tokens\": -1}", "\"tokens\"");
    expect_broken(f, &s->bench, "{\"results\": 3}", "expected an array, found an integer");
    expect_broken(f, &s->bench, "{}", "\"results\" is missing");
    expect_broken(f, &s->bench, "[{\"test\": \"tg\", \"tokens_per_second\": 1}]",
                  "row 0: key \"test\"");
    expect_broken(f, &s->bench, "[{\"test\": \"pp5\"}]", "\"tokens_per_second\" is missing");
    expect_broken(f, &s->bench, "[{\"test\": \"pp5\", \"tokens_per_second\": -1}]", "found -1");
    expect_broken(f, &s->recall, "{\"cells\": [3]}", "cells[0]: expected an object");
    expect_broken(f, &s->recall, "{\"cells\": [{\"test\": \"a\", \"length\": 5, \"n\": 1}]}",
                  "cells[0]: expected a key \"score\"");
    expect_broken(f, &s->recall,
                  "{\"cells\": [{\"test\": \"a\", \"length\": 5, \"n\": 1, \"score\": 2}]}",
                  "expected 0 to 1, found 2");
    expect_broken(f, &s->recall, "{\"cells\": [{\"test\": \"a\", \"length\": 0, \"n\": 1}]}",
                  "\"length\"");
    expect_broken(f, &s->recall,
                  "{\"cells\": [{\"test\": \"a\", \"length\": 5, \"depth\": 101, \"n\": 1}]}",
                  "\"depth\"");
    expect_broken(f, &s->recall, "{\"associative\": [{\"pairs\": 8}]}", "\"distance\" is missing");
    expect_broken(f, &s->recall, "{\"associative\": [{\"pairs\": 8, \"distance\": 9}]}",
                  "\"acc\" is missing");
    expect_broken(f, &s->inspect, "{\"layers\": [{}]}", "layers[0]: key \"kind\" is missing");
    expect_broken(f, &s->inspect, "{\"kv_percent\": \"4\"}", "expected a number, found a string");
    expect_broken(f, &f->in.select, "{\"sensitivity\": [1, null]}", "sensitivity[1]");
    expect_broken(f, &f->in.select, "{\"sensitivity\": [1, 2], \"layers\": [2]}", "from 0 to 1");
    expect_broken(f, &f->in.select, "{\"layers\": [-1]}", "layers[0]");
    expect_broken(f, &f->in.select, "{\"compare\": [1]}", "compare[0]: expected an object");
    expect_broken(f, &f->in.select, "{\"compare\": [{\"method\": \"kl\"}]}",
                  "\"context\" is missing");
    expect_broken(f, &f->in.select,
                  "{\"compare\": [{\"method\": \"kl\", \"context\": 0, \"percent\": 4}]}",
                  "context");
    expect_broken(f, &f->in.samples, "{}", "expected an array");
    expect_broken(f, &f->in.samples, "[{\"prompt\": 1}]", "sample 0: key \"prompt\"");
    zb_report_log log = {.stage = "x"};
    f->in.log = &log;
    f->in.n_logs = 1;
    expect_broken(f, &log.path, "{\"tokens\": 1}\n\n{\"tokens\":", "broken.json:3");
    expect_broken(f, &log.path, "{\"loss\": 1}\n", "broken.json:1: key \"tokens\" is missing");
    expect_broken(f, &log.path, "{\"tokens\": 1, \"loss\": \"low\"}\n",
                  "\"loss\": expected a number");
    expect_broken(f, &log.path, "[7]\n", "broken.json:1: expected an object, found an array");
}

/* Groups that contain each other must end, and lose only their count. */
static void circular_groups_end(void **state) {
    fixture *f = *state;
    f->model[1].eval =
        put_file(f, "ring.json",
                 "{\"results\": {\"a\": {\"acc,none\": 0.5}},"
                 "\"group_subtasks\": {\"a\": [\"a\", \"b\", \"b\"], \"b\": [\"b\", \"b\"]}}");
    write_report(f, NULL);
    json_t *o = written_json(f);
    NEAR(number(o, "student", "tasks", "a", "acc"), 0.5);
    assert_null(json_object_get(
        json_object_get(json_object_get(json_object_get(o, "student"), "tasks"), "a"), "n"));
    json_decref(o);
}

static void names_are_checked(void **state) {
    fixture *f = *state;
    zb_err err = {0};
    f->model[1].name = "teacher";
    assert_int_equal(zb_report_write(&f->in, NULL, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "already taken"));
    f->model[1].name = "a\nb";
    assert_int_equal(zb_report_write(&f->in, NULL, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "printable"));
    f->model[1].name = "missing";
    assert_int_equal(zb_report_write(&f->in, NULL, &err), ZB_ERR_CONFIG);
    f->in.n_models = 0;
    assert_int_equal(zb_report_write(&f->in, NULL, &err), ZB_ERR_CONFIG);
}

static void inputs_are_checked(void **state) {
    fixture *f = *state;
    const struct {
        const char *text, *words;
    } bad[] = {{"[]", "expected an object"},
               {"{}", "\"models\" is missing"},
               {"{\"models\": [1]}", "models[0]: expected an object"},
               {"{\"models\": [{}]}", "models[0]: key \"name\" is missing"},
               {"{\"models\": [{\"name\": \"a\", \"seconds\": {\"x\": -1}}]}", "seconds.x"},
               {"{\"models\": [{\"name\": \"a\", \"train_tokens\": -1}]}", "train_tokens"},
               {"{\"models\": [], \"logs\": [{\"path\": \"x\"}]}", "\"stage\" is missing"},
               {"{\"models\": [], \"facts\": {\"x\": 1}}", "expected a string"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        zb_err err = {0};
        zb_report_input in;
        const char *path = put_file(f, "input.json", bad[i].text);
        assert_int_equal(zb_report_input_read(&in, path, &f->a, &err), ZB_ERR_FORMAT);
        if (!strstr(err.msg, bad[i].words)) fail_msg("\"%s\" in \"%s\"", bad[i].words, err.msg);
    }
    zb_report_input in;
    const char *path = put_file(f, "input.json",
                                "{\"models\": [{\"name\": \"a\", \"eval\": \"e.json\","
                                "\"bench\": \"/abs/b.json\"}]}");
    assert_int_equal(zb_report_input_read(&in, path, &f->a, NULL), ZB_OK);
    assert_string_equal(in.out_dir, f->dir);
    assert_string_equal(in.model[0].eval, zb_path_join(&f->a, f->dir, "e.json"));
    assert_string_equal(in.model[0].bench, "/abs/b.json");
}

static void input_is_not_replaced(void **state) {
    fixture *f = *state;
    zb_report_input in;
    zb_err err = {0};
    const char *path = put_file(f, "report.json", "{\"models\": [{\"name\": \"a\"}]}");
    assert_int_equal(zb_report_input_read(&in, path, &f->a, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "report.json: expected an input of another name"));
}

static void logs_of_resumed_runs(void **state) {
    fixture *f = *state;
    zb_report_stage s;
    assert_int_equal(zb_report_stage_read(&s, "distill", FIXTURE "distill.jsonl", &f->a, NULL),
                     ZB_OK);
    assert_int_equal(s.loss.n, 6);
    const double loss[] = {8, 4, 4.0 / 3, 1, 0.8, 4.0 / 6};
    for (size_t i = 0; i < 6; i++) {
        NEAR(s.loss.x[i], 100.0 * (double)(i + 1));
        NEAR(s.loss.y[i], loss[i]);
    }
    assert_int_equal(s.valid_kl.n, 1); /* that of step 4 went with its run */
    NEAR(s.valid_kl.y[0], 1.5);
    assert_int_equal(s.done, 600);
    assert_string_equal(s.unit, "tokens");
    NEAR(s.rate, 185); /* median of 160 170 180 190 200 210 */
}

/* A stage that learns from examples counts those; perplexity of answers is no perplexity of text.
 */
static void logs_of_examples(void **state) {
    fixture *f = *state;
    zb_report_stage s;
    const char *path = put_file(f, "tune.jsonl",
                                "{\"examples\": 0, \"valid_loss\": 0.7, \"valid_perplexity\": 2}\n"
                                "{\"examples\": 4, \"loss\": 0.6, \"examples_per_second\": 1.5}\n"
                                "{\"examples\": 8, \"loss\": 0.5, \"examples_per_second\": 2.5}\n");
    assert_int_equal(zb_report_stage_read(&s, "tune", path, &f->a, NULL), ZB_OK);
    assert_string_equal(s.unit, "examples");
    assert_int_equal(s.done, 8);
    assert_int_equal(s.loss.n, 2);
    assert_int_equal(s.valid_perplexity.n, 0);
    NEAR(s.rate, 2);
}

static void curves_thin_and_smooth(void **state) {
    fixture *f = *state;
    double x[10], y[10];
    for (int i = 0; i < 10; i++) {
        x[i] = i;
        y[i] = i * i;
    }
    zb_report_curve c = {.x = x, .y = y, .n = 10};
    zb_report_curve thin = zb_report_curve_thin(&c, 5, &f->a),
                    same = zb_report_curve_thin(&c, 10, &f->a);
    assert_int_equal(thin.n, 5);
    NEAR(thin.x[1], 2.5);
    NEAR(thin.y[1], 6.5); /* (4 + 9) / 2 */
    assert_int_equal(same.n, 10);
    zb_report_curve smooth = zb_report_curve_smooth(&c, 3, &f->a);
    NEAR(smooth.y[0], 0);
    NEAR(smooth.y[5], (16.0 + 25 + 36) / 3);
    NEAR(smooth.y[9], (64.0 + 81) / 2);
}

static void labels(void **state) {
    fixture *f = *state;
    char t[ZB_LABEL];
    const struct {
        double x;
        void (*format)(double, char *);
        const char *text;
    } cases[] = {{134515008, zb_label_count, "134.5 M"},
                 {999, zb_label_count, "999"},
                 {999960, zb_label_count, "1.0 M"},
                 {7e9, zb_label_count, "7.0 B"},
                 {46080, zb_label_bytes, "45.0 KiB"},
                 {0, zb_label_bytes, "0 B"},
                 {(double)NAN, zb_label_bytes, "\xe2\x80\x93"},
                 {-1, zb_label_count, "\xe2\x80\x93"},
                 {3.14, zb_label_seconds, "3.1 s"},
                 {600, zb_label_seconds, "10.0 min"},
                 {0.0391, zb_label_ratio, "0.039"},
                 {3.218, zb_label_ratio, "3.22"},
                 {(double)INFINITY, zb_label_ratio, "\xe2\x80\x93"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cases[i].format(cases[i].x, t);
        assert_string_equal(t, cases[i].text);
    }
    assert_string_equal(zb_label_cell(&f->a, "a|b<c>\n`d`\xff"), "a/b/c//\x2f"
                                                                 "d/\xef\xbf\xbd");
    assert_string_equal(zb_label_plot(&f->a, "a'b\"c`d`,\\n@e\x80\n", 99), "a_b_c_d___n_e__");
    assert_string_equal(zb_label_plot(&f->a, "Gr\xc3\xa9vy's zebra", 5), "Gr\xc3\xa9vy");
}

static bool gnuplot_works(fixture *f) {
    put_file(f, "nothing.gp", "exit\n");
    const zb_gnuplot g = {.program = "gnuplot", .seconds = 20};
    if (zb_gnuplot_run(&g, f->dir, "nothing.gp", NULL) == ZB_OK) return true;
    print_message("skip: gnuplot is not installed; pictures are not tested\n");
    return false;
}

static size_t count(const char *text, const char *what) {
    size_t n = 0;
    for (; (text = strstr(text, what)); text += strlen(what)) n++;
    return n;
}

static void pictures(void **state) {
    fixture *f = *state;
    if (!gnuplot_works(f)) skip();
    f->in.gnuplot = NULL;
    write_report(f, NULL);
    const struct {
        const char *file, *title, *second;
    } plot[] = {{"plots/memory.svg", "Memory of one sequence", ">student<"},
                {"plots/decode.svg", "Decoding", ">tokens/s<"},
                {"plots/prefill.svg", "Reading a prompt", ">teacher<"},
                {"plots/tasks.svg", "Zero-shot tasks", ">arc_challenge<"},
                {"plots/recall-1-1.svg", "niah_single_1: teacher", ">75<"},
                {"plots/recall-1-2.svg", "niah_single_1: student", ">1024<"},
                {"plots/recall-2-1.svg", "ruler_vt: teacher", ">drawn<"},
                {"plots/associative.svg", "Associative recall", ">student, 16 pairs<"},
                {"plots/loss-1.svg", "Loss of stage align", ">running mean<"},
                {"plots/loss-2.svg", "Loss of stage distill", ">running mean<"},
                {"plots/valid-kl.svg", "Validation: KL", ">nats per token<"},
                {"plots/valid-perplexity.svg", "Validation: perplexity", ">distill<"},
                {"plots/layers.svg", "Sensitivity of the layers", ">not chosen<"}};
    size_t n = sizeof plot / sizeof *plot;
    for (size_t i = 0; i < n; i++) {
        char *svg = get_file(f, plot[i].file);
        if (!strstr(svg, plot[i].title) || !strstr(svg, plot[i].second))
            fail_msg("%s: \"%s\" or \"%s\" is not in it", plot[i].file, plot[i].title,
                     plot[i].second);
    }
    char *page = get_file(f, "report.html"), *csv = get_file(f, "plots/memory.csv");
    assert_int_equal(count(page, "<figure>"), n);
    assert_int_equal(count(page, "<svg"), n);
    assert_int_equal(count(page, "<svg"), count(page, "</svg>"));
    assert_int_equal(count(page, "id=\"memory-gnuplot_canvas\""), 1);
    assert_null(strstr(page, "id=\"gnuplot"));
    /* 1024 * 4096 B = 4 MiB; 1024 * 256 + 65536 B = 0.3125 MiB */
    assert_non_null(strstr(csv, "\n1024,4,0.3125\n"));
    assert_non_null(strstr(csv, "\n131072,512,32.0625\n"));
    json_t *o = written_json(f);
    assert_int_equal(json_array_size(json_object_get(o, "missing")), 0);
    json_decref(o);
}

/* A comparison of plans: a row each, a picture per context, refusals and unmeasured ones too. */
static void plans(void **state) {
    fixture *f = *state;
    f->in.select = put_file(
        f, "plans.json",
        "{\"teacher_recall\": 5.5, \"compare\": ["
        "{\"method\": \"plan\", \"context\": 2048, \"percent\": 2, \"refused\": \"too little\"},"
        "{\"method\": \"plan\", \"context\": 2048, \"percent\": 4, \"bytes\": 1048576, "
        "\"predicted_kl\": 0.25, \"kl\": 0.125, \"recall\": 6},"
        "{\"method\": \"<b>'`\", \"context\": 2048, \"percent\": 4, \"bytes\": 1048576, "
        "\"predicted_kl\": 0.5, \"kl\": null, \"recall\": null},"
        "{\"method\": \"plan\", \"context\": 32768, \"percent\": 4, \"bytes\": 9, "
        "\"predicted_kl\": 0.75}]}");
    f->in.gnuplot = gnuplot_works(f) ? NULL : f->in.gnuplot;
    write_report(f, NULL);
    const char *page = get_file(f, "report.html");
    assert_non_null(strstr(page, "<td>2048</td><td>2 %</td><td>refused</td>"));
    assert_non_null(strstr(page, "<td>0.250</td><td>0.125</td><td>6.000</td>"));
    assert_non_null(strstr(page, "<td>0.500</td><td></td><td></td>"));
    assert_null(strstr(page, "<b>'`"));
    assert_non_null(strstr(get_file(f, "plots/plans-1.csv"), "0,4,0.125\n1,4,0.5\n"));
    assert_non_null(strstr(get_file(f, "plots/plans-2.csv"), "0,4,0.75\n"));
    if (f->in.gnuplot) return;
    assert_non_null(strstr(get_file(f, "plots/plans-1.svg"), "Plans at 2048 tokens"));
}

/* Names of checkpoints begin alike: their rows must not become one line. */
static void long_names_stay_apart(void **state) {
    fixture *f = *state;
    f->model[0].name = "SmolLM2-135M-Instruct-hybrid-calibrated-step-1000";
    f->model[1].name = "SmolLM2-135M-Instruct-hybrid-calibrated-step-2000";
    write_report(f, NULL);
    static const char *const plots[] = {"plots/decode.csv", "plots/associative.csv",
                                        "plots/decode.gp", "plots/associative.gp"};
    for (size_t i = 0; i < sizeof plots / sizeof plots[0]; i++) {
        const char *text = get_file(f, plots[i]);
        assert_non_null(strstr(text, "calibrated-step-1000"));
        assert_non_null(strstr(text, "calibrated-step-2000"));
    }
}

static void pictures_with_hostile_names(void **state) {
    fixture *f = *state;
    if (!gnuplot_works(f)) skip();
    const zb_report_log log = {.stage = "a'; system('touch /tmp/x') #`id`",
                               .path = FIXTURE "align.jsonl"};
    f->in.gnuplot = NULL;
    f->in.log = &log;
    f->in.n_logs = 1;
    f->model[1].name = "s'\"`<&,\\";
    f->model[1].eval =
        put_file(f, "e.json", "{\"results\": {\"x','y`<b>&\\n\": {\"acc,none\": 0.5}}}");
    f->model[1].recall = put_file(
        f, "r.json",
        "{\"cells\": [{\"test\": \"x','y`<b>&\\n\", \"length\": 5, \"n\": 1, \"score\": 1}],"
        "\"associative\": [{\"pairs\": 1, \"distance\": 2, \"acc\": 0}]}");
    write_report(f, NULL);
    json_t *o = written_json(f);
    assert_int_equal(json_array_size(json_object_get(o, "missing")), 0); /* all scripts ran */
    assert_null(strchr(get_file(f, "plots/loss-1.gp"), '`'));
    assert_null(strstr(get_file(f, "plots/tasks.svg"), "<b>"));
    json_decref(o);
}

static void gnuplot_fails_and_hangs(void **state) {
    fixture *f = *state;
    zb_err err = {0};
    zb_gnuplot g = {.program = "/nonexistent/gnuplot", .seconds = 20};
    assert_int_equal(zb_gnuplot_run(&g, f->dir, "x.gp", &err), ZB_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "install"));
    /* Any program that takes "-d <file>" will do to see failure and delay. */
    put_file(f, "fails", "#!/bin/sh\necho 'line one^' >&2\necho two >&2\nexit 3\n");
    put_file(f, "hangs", "#!/bin/sh\nexec 2>&-\nsleep 60 & wait\n");
    g.program = zb_path_join(&f->a, f->dir, "fails");
    assert_int_equal(chmod(g.program, 0700), 0);
    assert_int_equal(zb_gnuplot_run(&g, f->dir, "x.gp", &err), ZB_ERR_INTERNAL);
    assert_non_null(strstr(err.msg, "status 3: line one two"));
    g.program = zb_path_join(&f->a, f->dir, "hangs");
    g.seconds = 0.3;
    assert_int_equal(chmod(g.program, 0700), 0);
    double start = zb_seconds();
    assert_int_equal(zb_gnuplot_run(&g, f->dir, "x.gp", &err), ZB_ERR_INTERNAL);
    assert_non_null(strstr(err.msg, "not finished after 0.3 s"));
    assert_true(zb_seconds() - start < 10);
    /* and the report goes on without pictures */
    f->in.gnuplot = zb_path_join(&f->a, f->dir, "fails");
    write_report(f, NULL);
    char *page = get_file(f, "report.html");
    assert_null(strstr(page, "<figure"));
    assert_non_null(strstr(page, "a picture: memory.gp"));
}

int main(void) {
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {CASE(json_has_exact_values),
                                       CASE(differences_by_document),
                                       CASE(table_is_markdown),
                                       CASE(different_tasks_are_not_compared),
                                       CASE(one_task_is_one),
                                       CASE(examples_are_named),
                                       CASE(recall_of_two_kinds),
                                       CASE(missing_parts_are_named),
                                       CASE(one_model_with_nothing),
                                       CASE(pages_escape_everything),
                                       CASE(broken_files_are_named),
                                       CASE(circular_groups_end),
                                       CASE(names_are_checked),
                                       CASE(inputs_are_checked),
                                       CASE(input_is_not_replaced),
                                       CASE(logs_of_resumed_runs),
                                       CASE(logs_of_examples),
                                       CASE(curves_thin_and_smooth),
                                       CASE(labels),
                                       CASE(pictures),
                                       CASE(plans),
                                       CASE(long_names_stay_apart),
                                       CASE(pictures_with_hostile_names),
                                       CASE(gnuplot_fails_and_hangs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
