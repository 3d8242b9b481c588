/* test_eval_text.c - text rules, templates, metrics, SHA-256 of src/eval. */
#include "base/json.h"
#include "eval/digest.h"
#include "eval/metric.h"
#include "eval/template.h"
#include "eval/text_rule.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static zb_arena arena;

static void check_near(double have, double expected, double tolerance) {
    if (!(fabs(have - expected) <= tolerance))
        fail_msg("expected %.17g, found %.17g", expected, have);
}

static int free_arena(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return 0;
}

static void check_rule(const char *rule, const char *arg, const char *in, const char *expected) {
    const zb_text_rule *r = zb_text_rule_find(zb_str_from(rule));
    assert_non_null(r);
    zb_str out;
    assert_true(r->apply(zb_str_from(in), zb_str_from(arg), &arena, &out));
    assert_string_equal(zb_strndup(&arena, out.p, out.n), expected);
}

/* Expected values come from the Python functions themselves. */
static void test_rules(void **state) {
    (void)state;
    check_rule("strip", "", " \t\n\xc2\xa0 a b \xe2\x80\x83\r", "a b");
    check_rule("strip", "", "\xc2\x85\x1c\xe3\x80\x80", "");
    check_rule("strip", "", "\xe2\x80\x8bz",
               "\xe2\x80\x8bz"); /* a zero-width space is no space to Python */
    check_rule("lstrip", "", "  a ", "a ");
    check_rule("capitalize", "", "he Said THAT", "He said that");
    check_rule("capitalize", "", "\xc3\xa9T\xc3\x89 \xd0\x96", "\xc3\x89t\xc3\xa9 \xd0\xb6");
    check_rule("capitalize", "", "\xc7\x86",
               "\xc7\x85"); /* title case of the digraph, not upper case */
    check_rule("capitalize", "", "", "");
    check_rule("spaces", "", "high_school_us", "high school us");
    check_rule("before", "_", "a _ b _", "a ");
    check_rule("after", "_", "a _ b _", " b _");
    check_rule("hellaswag", "", "  [header] How to. [title] Do  it. [step] Now   go ",
               " How to.. Do it. Now  go");
    check_rule("hellaswag", "", "a [x\ny] [z]b", "a [x\ny] b");
    check_rule("hellaswag", "", "[[a]b] c]", "b] c]");
    check_rule("hellaswag", "", "x [title] y", "x. y");
    assert_null(zb_text_rule_find(ZB_STR("strips")));
    zb_str out;
    assert_false(
        zb_text_rule_find(ZB_STR("before"))->apply(ZB_STR("abc"), ZB_STR("_"), &arena, &out));
    assert_int_equal(zb_text_trailing_space(ZB_STR("a \n")), 2);
    assert_int_equal(zb_text_trailing_space(ZB_STR("a\xc2\xa0")), 2);
    assert_int_equal(zb_text_trailing_space(ZB_STR(" \t")), 2);
    assert_int_equal(zb_text_trailing_space(ZB_STR("\xa0")), 0); /* a stray byte is no space */
}

/* Many opening brackets must not take quadratic time: this would need minutes. */
static void test_hellaswag_is_linear(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    char *text = zb_alloc(&arena, N + 1);
    memset(text, '[', N);
    zb_str out;
    assert_true(
        zb_text_rule_find(ZB_STR("hellaswag"))->apply((zb_str){text, N}, ZB_STR(""), &arena, &out));
    assert_int_equal(out.n, N);
}

static json_t *row(const char *text) {
    json_t *v;
    assert_int_equal(zb_json_parse(text, strlen(text), "row", &v, NULL), ZB_OK);
    return v;
}

static zb_status fill(const char *source, json_t *v, zb_str *out, zb_err *err) {
    zb_template t;
    ZB_TRY(zb_template_compile(source, "t.yaml:3", &arena, &t, err));
    return zb_template_render(&t, v, "d.jsonl:7", &arena, out, err);
}

static void test_template(void **state) {
    (void)state;
    static const struct {
        const char *source, *text;
    } good[] = {
        {"Q: {q}\nA:", "Q: why? \nA:"},
        {"{q|strip}{n}{yes}", "why?-3true"},
        {"{c.1.t|capitalize} {{x}}", "Bee {x}"},
        {"{q|strip|after:h|before:?}", "y"},
        {"", ""},
    };
    json_t *v = row("{\"q\": \"why? \", \"n\": -3, \"yes\": true, \"c\": [1, {\"t\": \"bEE\"}], "
                    "\"o\": {}, \"x\": null}");
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        zb_str out;
        zb_err err = {0};
        assert_int_equal(fill(good[i].source, v, &out, &err), ZB_OK);
        assert_string_equal(out.p, good[i].text);
    }
    static const struct {
        const char *source, *message;
    } bad[] = {
        {"{q", "t.yaml:3: { without }"},
        {"q}", "t.yaml:3: } without {"},
        {"{}", "t.yaml:3: expected a field name"},
        {"{q|upper}", "t.yaml:3: unknown text rule \"upper\""},
        {"{q|before}", "t.yaml:3: text rule \"before\" takes an argument"},
        {"{q|strip:x}", "t.yaml:3: text rule \"strip\" takes no argument"},
        {"{q|strip|strip|strip|strip|strip}", "at most 4 text rules"},
        {"{z}", "d.jsonl:7: field \"z\" is missing"},
        {"{c.9.t}", "d.jsonl:7: field \"c.9\" is missing"},
        {"{c.-1}", "d.jsonl:7: field \"c.-1\" is missing"},
        {"{q.r}", "d.jsonl:7: field \"q.r\" is missing"},
        {"{o}", "d.jsonl:7: field \"o\": expected text, an integer or a boolean, found an object"},
        {"{x}", "found null"},
        {"{q|before:_}", "d.jsonl:7: field \"q\": expected text with \"_\", found none"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        zb_str out;
        zb_err err = {0};
        assert_int_not_equal(fill(bad[i].source, v, &out, &err), ZB_OK);
        if (!strstr(err.msg, bad[i].message)) fail_msg("\"%s\": \"%s\"", bad[i].source, err.msg);
    }
    json_decref(v);
}

static void test_metrics(void **state) {
    (void)state;
    const double score[] = {-4, -2, -2, -9};
    const int64_t length[] = {10, 1, 1, 90};
    assert_int_equal(zb_metric_best(score, NULL, 4), 1); /* the first wins a tie */
    assert_int_equal(zb_metric_best(score, length, 4), 3);
    const double lost[] = {-(double)INFINITY, -(double)INFINITY};
    assert_int_equal(zb_metric_best(lost, NULL, 2), 0);

    const double x[] = {1, 0, 0, 1, 1};
    zb_metric m = zb_metric_mean(x, 5);
    check_near(m.value, 0.6, 1e-15);
    check_near(m.stderr_of, sqrt(0.6 * 0.4 / 4), 1e-15);
    assert_true(isnan(zb_metric_mean(x, 1).stderr_of));

    /* (9 * 0.01 * 10 + 19 * 0.04 * 20) / 28 / 30, by hand. */
    const zb_metric part[] = {{0.5, 0.1}, {0.2, 0.2}};
    const int64_t size[] = {10, 20};
    m = zb_metric_pool(part, size, 2);
    check_near(m.value, 0.3, 1e-15);
    check_near(m.stderr_of, sqrt(16.1 / 28 / 30), 1e-15);
    const zb_metric single[] = {{0.5, 0.1}, {1, (double)NAN}};
    assert_true(isnan(zb_metric_pool(single, size, 2).stderr_of));
}

/* Messages of FIPS 180-4's examples and of every padding case. */
static void test_sha256(void **state) {
    (void)state;
    static const struct {
        const char *text, *hex;
    } known[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
         "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb"},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        char hex[65];
        zb_digest_sha256(known[i].text, strlen(known[i].text), hex);
        assert_string_equal(hex, known[i].hex);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_rules, free_arena),
        cmocka_unit_test_teardown(test_hellaswag_is_linear, free_arena),
        cmocka_unit_test_teardown(test_template, free_arena),
        cmocka_unit_test_teardown(test_metrics, free_arena),
        cmocka_unit_test(test_sha256),
    };
    return cmocka_run_group_tests_name("eval text", tests, NULL, NULL);
}
