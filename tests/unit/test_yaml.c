/* test_yaml.c - the tree with its places, and what is refused. */
#include "base/text.h"
#include "base/yaml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void reads_a_tree(void **state) {
    (void)state;
    const char *text = "# recipe\n"
                       "train:\n"
                       "  lr: 2e-4\n"
                       "  layers: [0, 5, 'x y']\n"
                       "eval:\n"
                       "  - {task: piqa, limit: \"10\"}\n"
                       "empty:\n"
                       "block: |\n"
                       "  one\n"
                       "  two\n";
    zb_arena a = {0};
    zb_yaml *root;
    zb_err err;
    if (zb_yaml_parse(text, strlen(text), "t", &a, &root, &err) != ZB_OK) fail_msg("%s", err.msg);
    assert_int_equal(root->kind, ZB_YAML_MAP);
    const zb_yaml *train = zb_yaml_get(root, "train"), *lr = zb_yaml_get(train, "lr");
    assert_string_equal(lr->text, "2e-4");
    assert_string_equal(lr->key, "lr");
    assert_true(lr->line == 3 && lr->column == 7 && !lr->quoted);
    const zb_yaml *layers = zb_yaml_get(train, "layers");
    assert_int_equal(layers->kind, ZB_YAML_LIST);
    assert_string_equal(layers->child->next->next->text, "x y");
    assert_true(layers->child->next->next->quoted && !layers->child->next->next->next);
    assert_null(layers->child->key);
    const zb_yaml *task = zb_yaml_get(root, "eval")->child;
    assert_string_equal(zb_yaml_get(task, "task")->text, "piqa");
    assert_true(zb_yaml_get(task, "limit")->quoted);
    assert_string_equal(zb_yaml_get(root, "empty")->text, "");
    assert_string_equal(zb_yaml_get(root, "block")->text, "one\ntwo\n");
    assert_null(zb_yaml_get(root, "lr"));
    assert_null(zb_yaml_get(lr, "x"));
    assert_null(zb_yaml_get(NULL, "x"));
    assert_string_equal(zb_yaml_kind_name(layers), "a list");
    assert_string_equal(zb_yaml_kind_name(NULL), "nothing");
    zb_arena_free(&a);
}

static void refuses(const char *text, const char *message) {
    zb_arena a = {0};
    zb_yaml *root;
    zb_err err = {0};
    zb_status s = zb_yaml_parse(text, strlen(text), "t.yaml", &a, &root, &err);
    if (s != ZB_ERR_CONFIG || !strstr(err.msg, message)) print_error("%.60s: %s\n", text, err.msg);
    assert_int_equal(s, ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, message));
    zb_arena_free(&a);
}

static void refuses_what_is_unclear(void **state) {
    (void)state;
    refuses("", "t.yaml: the file is empty");
    refuses("# only a comment\n", "t.yaml: the file is empty");
    refuses("a: 1\nb: 2\na: 3\n", "t.yaml:3:1: key \"a\" is given twice");
    refuses("a: &x 1\n", "t.yaml:1:4: anchors are not supported");
    refuses("a: &x [1]\n", "t.yaml:1:4: anchors are not supported");
    refuses("a: &x {b: 1}\n", "anchors are not supported");
    refuses("&x a: 1\n", "anchors are not supported");
    refuses("a: *x\n", "t.yaml:1:4: aliases are not supported");
    refuses("a: !!str 1\n", "t.yaml:1:4: tags are not supported");
    refuses("a: !mine [1]\n", "tags are not supported");
    refuses("a: 1\n---\nb: 2\n", "t.yaml:2:1: expected one document");
    refuses("[a, b]: 1\n", "expected a plain key");
    refuses("a: \"open\n", "t.yaml:");
    refuses("a:\n\t- 1\n", "t.yaml:2:");
    refuses("a: \"x\\0y\"\n", "NUL byte");
    refuses("a: \xff\n", "t.yaml:");
}

static void refuses_what_is_large(void **state) {
    (void)state;
    zb_buf b;
    zb_buf_init(&b, 4 << 20);
    for (int i = 0; i < 100000; i++) zb_buf_addc(&b, '[');
    refuses(b.p, "nested too deeply");
    zb_buf_clear(&b);
    for (int i = 0; i < 100000; i++) zb_buf_addf(&b, "k%d: 1\n", i);
    refuses(b.p, "too many values");
    zb_buf_clear(&b);
    zb_buf_adds(&b, "a: ");
    for (int i = 0; i < 100000; i++) zb_buf_addc(&b, 'x');
    refuses(b.p, "value too long");
    zb_buf_clear(&b);
    for (int i = 0; i < (1 << 20) + 1; i++) zb_buf_addc(&b, ' ');
    refuses(b.p, "expected at most 1048576 bytes");
    zb_buf_free(&b);
}

static void sixteen_levels_are_fine(void **state) {
    (void)state;
    const char *text = "[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]";
    zb_arena a = {0};
    zb_yaml *n;
    assert_int_equal(zb_yaml_parse(text, strlen(text), "t", &a, &n, NULL), ZB_OK);
    int depth = 0;
    for (const zb_yaml *c = n; c->child; c = c->child) depth++;
    assert_int_equal(depth, 16);
    zb_err err;
    assert_int_equal(zb_yaml_read("/nonexistent.yaml", &a, &n, &err), ZB_ERR_IO);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_a_tree),
        cmocka_unit_test(refuses_what_is_unclear),
        cmocka_unit_test(refuses_what_is_large),
        cmocka_unit_test(sixteen_levels_are_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
