/* test_opts.c - one table read from defaults, command line and recipe; help; lists. */
#include "base/opts.h"
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct common {
    bool verbose, cache;
} common;

typedef struct train {
    int64_t steps, tokens;
    double lr;
    const char *data, *layers, *mode;
} train;

static const zb_opt common_table[] = {
    {ZB_OPT_BOOL, "verbose", 'v', offsetof(common, verbose), NULL, 0, 0, NULL, "say more"},
    {ZB_OPT_BOOL, "use_cache", 0, offsetof(common, cache), "true", 0, 0, NULL, "keep results"},
    {0},
};

static const zb_opt train_table[] = {
    {ZB_OPT_INT, "steps", 's', offsetof(train, steps), "10", 1, 1000, NULL, "optimiser steps"},
    {ZB_OPT_INT, "max_tokens", 0, offsetof(train, tokens), NULL, 0, 0, NULL, "tokens to train on"},
    {ZB_OPT_F64, "lr", 0, offsetof(train, lr), "2e-4", 0, 1, NULL, "peak learning rate"},
    {ZB_OPT_STR, "data", 'd', offsetof(train, data), NULL, 0, 0, NULL, "text to train on"},
    {ZB_OPT_STR, "layers", 0, offsetof(train, layers), "all", 0, 0, NULL, "layers to train"},
    {ZB_OPT_CHOICE, "mode", 0, offsetof(train, mode), "kl", 0, 0, "kl|reverse_kl|ce", "loss"},
    {0},
};

static common c;
static train t;
static const zb_opt_group groups[] = {
    {"Common", common_table, &c}, {"Training", train_table, &t}, {0}};
static zb_arena arena;

static int reset(void **state) {
    (void)state;
    memset(&c, 0xEE, sizeof c);
    memset(&t, 0xEE, sizeof t);
    zb_opts_defaults(groups);
    return 0;
}

static int release(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return 0;
}

static void defaults(void **state) {
    (void)state;
    assert_true(!c.verbose && c.cache && t.steps == 10 && t.tokens == 0 && t.lr == 2e-4);
    assert_null(t.data);
    assert_string_equal(t.layers, "all");
    assert_string_equal(t.mode, "kl");
    json_t *set_nothing = zb_opts_default_json(groups), *now = zb_opts_json(groups);
    assert_true(json_equal(set_nothing, now) && json_object_size(now) == 8);
    json_decref(now);
    t.steps = 11;
    c.cache = false;
    now = zb_opts_json(groups);
    assert_false(json_equal(set_nothing, now));
    json_decref(set_nothing);
    set_nothing = zb_opts_default_json(groups); /* and not what is set */
    assert_int_equal(json_integer_value(json_object_get(set_nothing, "steps")), 10);
    assert_true(json_is_true(json_object_get(set_nothing, "use_cache")));
    json_decref(set_nothing);
    json_decref(now);
}

enum { POS = 2 };
static const char *pos[POS];
static int n_pos;

/* Runs a command line given as words separated by spaces; "_" stands for an empty word. */
static zb_status line(const char *words, zb_err *err) {
    static char empty[1];
    char *argv[32] = {"zebra"}, *text = zb_strdup(&arena, words);
    int argc = 1;
    for (char *w = strtok(text, " "); w; w = strtok(NULL, " "))
        argv[argc++] = strcmp(w, "_") ? w : empty;
    return zb_opts_argv(groups, argc, argv, pos, POS, &n_pos, &arena, err);
}

static void command_line(void **state) {
    (void)state;
    zb_err err = {0};
    zb_status s = line("-v in --steps 20 --lr=0.5 --no-use-cache --max_tokens 2e5 -d a.txt --mode "
                       "reverse_kl -- --out",
                       &err);
    if (s != ZB_OK) fail_msg("%s", err.msg);
    assert_true(c.verbose && !c.cache && t.steps == 20 && t.lr == 0.5 && t.tokens == 200000);
    assert_string_equal(t.data, "a.txt");
    assert_string_equal(t.mode, "reverse_kl");
    assert_int_equal(n_pos, 2);
    assert_string_equal(pos[0], "in");
    assert_string_equal(pos[1], "--out");
    assert_int_equal(line("-s30 --use-cache --verbose=false --max-tokens -5 -", &err), ZB_OK);
    assert_true(t.steps == 30 && c.cache && !c.verbose && t.tokens == -5 && n_pos == 1);
    assert_string_equal(pos[0], "-"); /* standard input by custom */
    assert_int_equal(line("--data=", &err), ZB_OK);
    assert_string_equal(t.data, "");
}

static void refuses(const char *words, const char *message) {
    zb_err err = {0};
    zb_status s = line(words, &err);
    if (s == ZB_OK || !strstr(err.msg, message)) print_error("%s: %s\n", words, err.msg);
    assert_int_not_equal(s, ZB_OK);
    assert_non_null(strstr(err.msg, message));
}

static void command_line_refuses(void **state) {
    (void)state;
    refuses("--step 3", "unknown option \"step\" (did you mean \"steps\"?)");
    refuses("--zzzzzzzzzzzz", "unknown option \"zzzzzzzzzzzz\"");
    refuses("-x", "unknown option \"-x\"");
    refuses("--no-steps 3", "unknown option \"no-steps\"");
    refuses("--steps", "--steps: expected a value");
    refuses("-d", "-d: expected a value");
    refuses("--steps 0", "steps: expected an integer from 1 to 1000, found \"0\"");
    refuses("--steps 1001", "found \"1001\"");
    refuses("--steps 1.5", "expected an integer from 1 to 1000, found \"1.5\"");
    refuses("--steps 1e300", "expected an integer");
    refuses("--max-tokens 99999999999999999999", "max_tokens: expected an integer, found");
    refuses("--lr nan", "lr: expected a number from 0 to 1, found \"nan\"");
    refuses("--lr 1.01", "lr: expected a number from 0 to 1");
    refuses("--use-cache=maybe", "use_cache: expected true or false, found \"maybe\"");
    refuses("--mode k", "mode: expected one of kl|reverse_kl|ce, found \"k\"");
    refuses("--mode _", "mode: expected one of");
    refuses("a b c", "unexpected argument \"c\"");
    assert_true(t.steps == 10 && t.lr == 2e-4 && c.cache);
}

static zb_status recipe(const char *text, zb_err *err) {
    zb_yaml *root;
    ZB_TRY(zb_yaml_parse(text, strlen(text), "r.yaml", &arena, &root, err));
    return zb_opts_yaml(groups, root, "r.yaml", &arena, err);
}

static void recipes(void **state) {
    (void)state;
    zb_err err = {0};
    assert_int_equal(
        recipe("steps: 7\nlr: 1e-3\nlayers: [0, 5, 11]\nuse_cache: no\nverbose: yes\n", &err),
        ZB_OK);
    assert_true(t.steps == 7 && t.lr == 1e-3 && !c.cache && c.verbose);
    assert_string_equal(t.layers, "0,5,11");
    assert_int_equal(recipe("layers: []\n", &err), ZB_OK);
    assert_string_equal(t.layers, "");
    assert_int_equal(recipe("\"\"\n", &err), ZB_OK);
    assert_int_equal(recipe("steps: 5\nstepz: 7\n", &err), ZB_ERR_CONFIG);
    assert_string_equal(err.msg, "r.yaml:2: unknown option \"stepz\" (did you mean \"steps\"?)");
    assert_int_equal(recipe("data: ~\n", &err), ZB_ERR_CONFIG);
    assert_memory_equal(err.msg, "r.yaml:1: data: expected a value, found ~ (", 43);
    assert_int_equal(recipe("steps: 5\ndata: null\n", &err), ZB_ERR_CONFIG);
    assert_int_equal(recipe("data: 'null'\n", &err), ZB_OK);
    assert_string_equal(t.data, "null");
    assert_int_equal(recipe("null\n", &err), ZB_OK);
    assert_int_equal(recipe("lr:\n  a: 1\n", &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "lr: expected a value or a list of values, found a mapping"));
    assert_int_equal(recipe("layers: [1, [2]]\n", &err), ZB_ERR_CONFIG);
    assert_int_equal(recipe("- steps\n", &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "r.yaml:1: expected keys and values, found a list"));
    assert_int_equal(zb_opts_set(groups, "lr", "2", "here", &arena, &err), ZB_ERR_CONFIG);
    assert_memory_equal(err.msg, "here: lr: ", 10);
}

static void resolved_values(void **state) {
    (void)state;
    json_t *v = zb_opts_json(groups);
    assert_int_equal(json_object_size(v), 8);
    assert_int_equal(json_integer_value(json_object_get(v, "steps")), 10);
    assert_true(json_real_value(json_object_get(v, "lr")) == 2e-4);
    assert_true(json_is_true(json_object_get(v, "use_cache")));
    assert_true(json_is_null(json_object_get(v, "data")));
    assert_string_equal(json_string_value(json_object_get(v, "mode")), "kl");
    json_decref(v);
}

static void help(void **state) {
    (void)state;
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    zb_opts_help(groups, f);
    fclose(f);
    assert_non_null(strstr(text, "\nTraining:\n"));
    assert_non_null(strstr(text, "-s, --steps N"));
    assert_non_null(strstr(text, "optimiser steps [10]"));
    assert_non_null(strstr(text, "--mode kl|reverse_kl|ce"));
    assert_non_null(strstr(text, "--use-cache"));
    free(text);
}

static void lists(void **state) {
    (void)state;
    int v[3], n;
    zb_err err = {0};
    assert_int_equal(zb_list_ints("0, 5,11,", "layers", 0, 11, v, 3, &n, &err), ZB_OK);
    assert_true(n == 3 && v[0] == 0 && v[1] == 5 && v[2] == 11);
    assert_int_equal(zb_list_ints("", "layers", 0, 11, v, 3, &n, &err), ZB_OK);
    assert_int_equal(n, 0);
    assert_int_equal(zb_list_ints(NULL, "layers", 0, 11, v, 3, &n, &err), ZB_OK);
    assert_int_equal(zb_list_ints("12", "layers", 0, 11, v, 3, &n, &err), ZB_ERR_CONFIG);
    assert_string_equal(err.msg, "layers: expected integers from 0 to 11, found \"12\"");
    assert_int_equal(zb_list_ints("1,x", "layers", 0, 11, v, 3, &n, &err), ZB_ERR_CONFIG);
    assert_int_equal(zb_list_ints("1,2,3,4", "layers", 0, 11, v, 3, &n, &err), ZB_ERR_CONFIG);
    assert_string_equal(err.msg, "layers: expected at most 3 values");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(defaults, reset),
        cmocka_unit_test_setup(command_line, reset),
        cmocka_unit_test_setup(command_line_refuses, reset),
        cmocka_unit_test_setup(recipes, reset),
        cmocka_unit_test_setup(resolved_values, reset),
        cmocka_unit_test_setup(help, reset),
        cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
