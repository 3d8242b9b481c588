/* test_chat_template.c - chat templates against what Python's jinja2 made of them.
 *
 * The fixtures and the script that wrote them are in tests/format/chat_template. */
#include "base/file.h"
#include "base/json.h"
#include "format/chat_template.h"
#include "format/conversation.h"
#include "format/gguf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define DIR "tests/format/chat_template/"
#define MODEL "data/model/SmolLM2-135M-Instruct.Q4_1.gguf"

static json_t *read_json(const char *path) {
    json_t *v;
    zb_err err;
    if (zb_json_read(path, (size_t)64 << 20, &v, &err) != ZB_OK) fail_msg("%s", err.msg);
    return v;
}

/* Parses and renders; the message of a failure goes to err. */
static zb_status render(zb_str source, const json_t *variables, zb_buf *out, zb_err *err) {
    zb_arena a = {0};
    zb_chat_template *t;
    zb_status s = zb_chat_template_parse(&t, source, &a, err);
    if (s == ZB_OK) s = zb_chat_template_render(t, variables, out, err);
    zb_arena_free(&a);
    return s;
}

/* One row of a fixture: {"expected": text} or {"error": any}. */
static void check_row(zb_str source, const json_t *variables, const json_t *row, const char *name,
                      size_t i) {
    const json_t *expected = json_object_get(row, "expected");
    zb_err err = {0};
    zb_buf out;
    zb_buf_init(&out, (size_t)1 << 20);
    zb_status s = render(source, variables, &out, &err);
    if (!expected) {
        if (s == ZB_OK)
            fail_msg("%s %zu: jinja2 refuses \"%.*s\", we give \"%s\"", name, i, (int)source.n,
                     source.p, zb_buf_str(&out).p);
        assert_non_null(strstr(err.msg, "chat template"));
        assert_null(strchr(err.msg, '\n'));
        assert_int_equal(out.n, 0);
    } else {
        zb_str want = {json_string_value(expected), json_string_length(expected)};
        if (s != ZB_OK) fail_msg("%s %zu: \"%.*s\": %s", name, i, (int)source.n, source.p, err.msg);
        if (!zb_str_eq(zb_buf_str(&out), want))
            fail_msg("%s %zu: \"%.*s\"\nexpected \"%s\"\nfound    \"%s\"", name, i, (int)source.n,
                     source.p, want.p, zb_buf_str(&out).p);
    }
    zb_buf_free(&out);
}

static void check_conversations(zb_str source, const char *fixture) {
    json_t *rows = read_json(fixture), *row;
    size_t i;
    assert_true(json_array_size(rows) >= 14);
    json_array_foreach(rows, i, row)
        check_row(source, json_object_get(row, "variables"), row, fixture, i);
    json_decref(rows);
}

static void check_template_file(const char *path, const char *fixture) {
    zb_arena a = {0};
    zb_str source;
    zb_err err;
    if (zb_file_read(path, 1 << 20, &a, &source, &err) != ZB_OK) fail_msg("%s", err.msg);
    check_conversations(source, fixture);
    zb_arena_free(&a);
}

static void test_constructs(void **state) {
    (void)state;
    json_t *rows = read_json(DIR "constructs.json"), *row;
    const json_t *variables = json_object_get(json_array_get(rows, 0), "variables");
    size_t i;
    assert_true(json_array_size(rows) > 100);
    json_array_foreach(rows, i, row) {
        const json_t *t = json_object_get(row, "template");
        if (t)
            check_row((zb_str){json_string_value(t), json_string_length(t)}, variables, row,
                      "constructs", i);
    }
    json_decref(rows);
}

static void test_chatml(void **state) {
    (void)state;
    check_template_file(DIR "chatml.jinja", DIR "chatml.json");
}

static void test_llama3(void **state) {
    (void)state;
    check_template_file(DIR "llama3.jinja", DIR "llama3.json");
}

static void test_smollm2(void **state) {
    (void)state;
    if (!zb_file_exists(MODEL)) {
        printf("          SKIPPED: %s is not there (./run fetches it)\n", MODEL);
        skip();
    }
    zb_gguf *g;
    zb_str source;
    zb_err err;
    if (zb_gguf_open(&g, MODEL, &err) != ZB_OK) fail_msg("%s", err.msg);
    if (zb_gguf_str(g, "tokenizer.chat_template", true, &source, &err) != ZB_OK)
        fail_msg("%s", err.msg);
    check_conversations(source, DIR "smollm2.json");
    zb_gguf_close(g);
}

static void expect_failure(const char *source, const char *message) {
    json_t *variables = json_pack("{s:s, s:[i, i]}", "s", "text", "l", 1, 2);
    zb_err err = {0};
    zb_buf out;
    zb_buf_init(&out, (size_t)1 << 26);
    zb_status s = render(zb_str_from(source), variables, &out, &err);
    if (s == ZB_OK) fail_msg("\"%.80s\" should fail", source);
    if (!strstr(err.msg, message))
        fail_msg("\"%.80s\": expected \"%s\" in \"%s\"", source, message, err.msg);
    zb_buf_free(&out);
    json_decref(variables);
}

/* What is outside the subset is named, with its line. */
static void test_unsupported(void **state) {
    (void)state;
    expect_failure("a\nb\n{% call x() %}{% endcall %}",
                   "chat template:3: expected if, for, set, macro, generation, or break and "
                   "continue inside a loop, found \"call\"");
    expect_failure("{{ s | groupby }}", "filter \"groupby\" is not supported");
    expect_failure("{{ s is upper_case }}", "test \"upper_case\" is not supported");
    expect_failure("{{ s.encode('utf8') }}", "a string has no method \"encode\" that is supported");
    expect_failure("\n{{ s.x.y }}", "chat template:2: \"x\" is undefined");
    expect_failure("{{ cycler(1) }}", "function \"cycler\" is not known");
    expect_failure("{{ 2 ** 3 }}", "an operator other than a power");
    expect_failure("{{ l | tojson(2) }}", "indent=");
    expect_failure("{% for x in l recursive %}{% endfor %}", "recursive");
    expect_failure("{% macro m(a) %}{{ kwargs }}{% endmacro %}", "its parameters only");
    expect_failure("{% macro m(a) %}{% endmacro %}{{ m(1, b=2) }}",
                   "macro \"m\" has no parameter for one of these arguments");
    expect_failure("{{ l | sort(attribute='a,b') }}", "the name of one attribute");
    expect_failure("{% if s %}x", "a block has no end");
    expect_failure("{% macro m() %}x", "expected {% endmacro %}");
    expect_failure("{% raw %}x", "expected {% endraw %}");
    expect_failure("{{ raise_exception('Roles must\nalternate') }}", "Roles must alternate");
    expect_failure("{{ s\xff }}", "expected UTF-8");
}

/* A hostile template ends in an error: time, memory, output, depth. */
static void test_limits(void **state) {
    (void)state;
    expect_failure("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                   "chat template");
    expect_failure("{% set ns = namespace(x='0123456789') %}{% for a in range(60) %}{% set ns.x = "
                   "ns.x + ns.x %}{% endfor %}",
                   "grows beyond");
    expect_failure("{% for a in range(99999) %}{{ 'x' * 999999 }}{% endfor %}", "beyond");
    expect_failure("{{ 'x' * 999999999999 }}", "beyond");
    expect_failure("{{ range(999999999) }}", "more than 100000 numbers");
    expect_failure("{% set ns = namespace(x=[]) %}{% for a in range(200) %}{% set ns.x = [ns.x] "
                   "%}{% endfor %}{{ ns.x }}",
                   "nested");
    expect_failure("{% set ns = namespace(x=[], y=[]) %}{% for a in range(99) %}{% set ns.x = "
                   "[ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
                   "nested");
    expect_failure("{% set ns = namespace(x=[1]) %}{% for a in range(60) %}{% set ns.x = [ns.x, "
                   "ns.x] %}{% endfor %}{{ ns.x | tojson }}",
                   "chat template");
    expect_failure("{{ ('a' * 3000000).strip('b' * 3000000 ~ 'a') }}", "too long");
    expect_failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nested too deeply");
    expect_failure("{% macro m(a) %}{% for x in l %}{% if a %}{% set y %}{{ 1 + (m(a) | int) }}"
                   "{% endset %}{% endif %}{% endfor %}{% endmacro %}{{ m(1) }}",
                   "nested too deeply");
    expect_failure("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
                   "{{ m(60) }}",
                   "the template takes");
    expect_failure("{% macro m(n) %}{{ 'x' * 9999999 }}{{ m(n) }}{% endmacro %}{{ m(1) }}", "too");
    expect_failure("{{ range(100000) | unique | list }}", "too long");
    expect_failure("{{ 9223372036854775807 + 1 }}", "64 bits");
    expect_failure("{{ -9223372036854775807 - 2 }}", "64 bits");
    static char deep[20001];
    static const char *const openers[] = {"(", "[", "not ", "-", "{'a':", "l[", "s if s else "};
    for (size_t k = 0; k < sizeof openers / sizeof *openers; k++) {
        size_t n = strlen(openers[k]), at = 3;
        memcpy(deep, "{{ ", 3);
        for (int i = 0; i < 900; i++, at += n) memcpy(deep + at, openers[k], n);
        deep[at] = 0;
        expect_failure(deep, "deep");
    }
    size_t at = 0;
    for (int i = 0; i < 1500; i++, at += 11) memcpy(deep + at, "{% if s %}x", 11);
    deep[at] = 0;
    expect_failure(deep, "deep");
    /* many names in one scope: each "set" looks among all of them */
    zb_buf wide;
    zb_buf_init(&wide, (size_t)1 << 20);
    zb_buf_adds(&wide, "{% for i in range(99999) %}");
    for (int i = 0; i < 20000; i++) zb_buf_addf(&wide, "{%%set a%d=1%%}", i);
    zb_buf_adds(&wide, "{% endfor %}");
    expect_failure(zb_buf_str(&wide).p, "too long");
    zb_buf_free(&wide);
}

/* Long but ordinary templates and values are no trouble: chains, elif, many messages. */
static void test_large(void **state) {
    (void)state;
    json_t *messages = json_array(), *variables = json_object();
    for (int i = 0; i < 5000; i++)
        json_array_append_new(messages,
                              json_pack("{s:s, s:s}", "role", i % 2 ? "assistant" : "user",
                                        "content", "some words of a message"));
    json_object_set_new(variables, "messages", messages);
    zb_err err = {0};
    zb_buf out;
    zb_buf_init(&out, (size_t)1 << 22);
    zb_status s = render(ZB_STR("{% for m in messages %}{{ '<' + m.role + '>' + m['content'] | "
                                "trim + '\n' }}{% endfor %}"),
                         variables, &out, &err);
    if (s != ZB_OK) fail_msg("%s", err.msg);
    assert_int_equal(out.n, 2500 * (7 + 24) + 2500 * (12 + 24) - 5000 + 0);
    zb_buf_free(&out);
    json_decref(variables);
}

/* The date is fixed unless the caller gives one, and a template may be rendered again and again. */
static void test_dates_and_reuse(void **state) {
    (void)state;
    static const struct {
        const char *date, *expected;
    } rows[] = {{NULL, "26 Jul 2024 Friday"},
                {"1 Jan 2026", "01 Jan 2026 Thursday"},
                {"tomorrow", "tomorrow tomorrow"}};
    zb_arena a = {0};
    zb_chat_template *t;
    zb_err err;
    zb_str source = ZB_STR("{{ strftime_now('%d %b %Y') }} {{ strftime_now('%A') }}");
    assert_int_equal(zb_chat_template_parse(&t, source, &a, &err), ZB_OK);
    for (size_t i = 0; i < 3; i++) {
        json_t *variables = json_object();
        zb_buf out;
        zb_buf_init(&out, 100);
        if (rows[i].date) json_object_set_new(variables, "date_string", json_string(rows[i].date));
        assert_int_equal(zb_chat_template_render(t, variables, &out, &err), ZB_OK);
        assert_string_equal(zb_buf_str(&out).p, rows[i].expected);
        zb_buf_free(&out);
        json_decref(variables);
    }
    zb_arena_free(&a);
}

/* What transformers gives to every template, and what it does not. */
static void test_conversation(void **state) {
    (void)state;
    zb_arena a = {0};
    zb_chat_template *t;
    zb_err err;
    zb_str text = {0};
    zb_str source = ZB_STR("{{ tools is none }} {{ documents is none }} {{ other is none }} "
                           "{{ bos_token }}{{ messages[0].role }}{{ add_generation_prompt }}");
    assert_int_equal(zb_chat_template_parse(&t, source, &a, &err), ZB_OK);
    zb_conversation c = {.template = t, .bos = "<s>", .eos = "</s>"};
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", "hi");
    assert_int_equal(zb_conversation_write(&c, messages, true, &a, &text, &err), ZB_OK);
    assert_true(zb_str_is(text, "True True False <s>userTrue"));
    json_decref(messages);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_constructs),   cmocka_unit_test(test_chatml),
        cmocka_unit_test(test_llama3),       cmocka_unit_test(test_smollm2),
        cmocka_unit_test(test_unsupported),  cmocka_unit_test(test_limits),
        cmocka_unit_test(test_large),        cmocka_unit_test(test_dates_and_reuse),
        cmocka_unit_test(test_conversation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
