/* test_json.c - parsing, its refusals, and the typed getters. */
#include "base/file.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *parse(const char *text) {
    json_t *v;
    zb_err err;
    if (zb_json_parse(text, strlen(text), "t", &v, &err) != ZB_OK) fail_msg("%s", err.msg);
    return v;
}

static void refuses(const char *text, size_t n, const char *message) {
    json_t *v;
    zb_err err;
    assert_int_equal(zb_json_parse(text, n, "t", &v, &err), ZB_ERR_FORMAT);
    assert_null(v);
    if (!strstr(err.msg, message)) print_error("%s\n", err.msg);
    assert_non_null(strstr(err.msg, message));
}

static void refuses_broken_text(void **state) {
    (void)state;
    refuses("", 0, "t:1:0: invalid JSON");
    refuses("{\n \"a\": }", 9, "t:2:7: invalid JSON");
    refuses("{\"a\":1,\"a\":2}", 13, "duplicate object key");
    refuses("{} {}", 5, "end of file expected");
    refuses("[1,]", 4, "invalid JSON");
    refuses("[\"\xff\"]", 5, "invalid JSON");
    refuses("[1e999]", 7, "real number overflow");
    refuses("[99999999999999999999]", 22, "too big integer");
    refuses("{\"a\0b\":1}", 9, "invalid JSON");
    char deep[10000];
    memset(deep, '[', sizeof deep);
    refuses(deep, sizeof deep, "maximum parsing depth");
}

static void getters_read(void **state) {
    (void)state;
    json_t *o = parse("{\"i\":-3,\"d\":0.5,\"b\":true,\"s\":\"x\",\"a\":[1],\"o\":{},\"n\":null}");
    zb_err err;
    int64_t i;
    double d;
    bool b;
    const char *s;
    json_t *v;
    assert_int_equal(zb_json_int(o, "t", "i", true, -3, 0, &i, &err), ZB_OK);
    assert_int_equal(i, -3);
    assert_int_equal(zb_json_f64(o, "t", "d", true, &d, &err), ZB_OK);
    assert_true(d == 0.5);
    assert_int_equal(zb_json_f64(o, "t", "i", true, &d, &err), ZB_OK);
    assert_true(d == -3);
    assert_int_equal(zb_json_bool(o, "t", "b", true, &b, &err), ZB_OK);
    assert_true(b);
    assert_int_equal(zb_json_str(o, "t", "s", true, &s, &err), ZB_OK);
    assert_string_equal(s, "x");
    assert_int_equal(zb_json_array(o, "t", "a", true, &v, &err), ZB_OK);
    assert_int_equal(json_array_size(v), 1);
    assert_int_equal(zb_json_object(o, "t", "o", true, &v, &err), ZB_OK);
    assert_true(json_is_object(v));
    json_decref(o);
}

static void getters_keep_defaults(void **state) {
    (void)state;
    json_t *o = parse("{\"n\":null}");
    int64_t i = 9;
    double d = 9;
    bool b = true;
    const char *s = "kept";
    json_t *v = o;
    const char *const keys[] = {"n", "absent"};
    for (int k = 0; k < 2; k++) {
        assert_int_equal(zb_json_int(o, "t", keys[k], false, 0, 1, &i, NULL), ZB_OK);
        assert_int_equal(zb_json_f64(o, "t", keys[k], false, &d, NULL), ZB_OK);
        assert_int_equal(zb_json_bool(o, "t", keys[k], false, &b, NULL), ZB_OK);
        assert_int_equal(zb_json_str(o, "t", keys[k], false, &s, NULL), ZB_OK);
        assert_int_equal(zb_json_array(o, "t", keys[k], false, &v, NULL), ZB_OK);
        assert_int_equal(zb_json_object(o, "t", keys[k], false, &v, NULL), ZB_OK);
        assert_true(i == 9 && d == 9 && b && !strcmp(s, "kept") && v == o);
        zb_err err;
        assert_int_equal(zb_json_int(o, "t", keys[k], true, 0, 1, &i, &err), ZB_ERR_FORMAT);
        assert_non_null(strstr(err.msg, "is missing"));
    }
    json_decref(o);
}

static void getters_refuse(void **state) {
    (void)state;
    json_t *o = parse("{\"i\":7,\"d\":1.0,\"s\":\"a\\u0000b\",\"a\":[]}");
    zb_err err;
    int64_t i = 9;
    double d;
    bool b;
    const char *s = "kept";
    json_t *v;
    assert_int_equal(zb_json_int(o, "f.json", "i", true, 1, 6, &i, &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "f.json: key \"i\": expected 1 to 6, found 7");
    assert_int_equal(zb_json_int(o, "f.json", "d", true, 0, 9, &i, &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "f.json: key \"d\": expected an integer, found a real number");
    assert_int_equal(zb_json_f64(o, "t", "s", true, &d, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_json_bool(o, "t", "i", true, &b, &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "t: key \"i\": expected true or false, found an integer");
    assert_int_equal(zb_json_str(o, "t", "a", true, &s, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_json_str(o, "t", "s", true, &s, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "without NUL"));
    assert_int_equal(zb_json_array(o, "t", "i", true, &v, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_json_object(o, "t", "a", true, &v, &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "t: key \"a\": expected an object, found an array");
    assert_true(i == 9 && !strcmp(s, "kept"));
    json_decref(o);
}

static void files(void **state) {
    (void)state;
    zb_arena a = {0};
    char *dir = zb_strdup(&a, "/tmp/zb_json_XXXXXX");
    assert_non_null(mkdtemp(dir));
    char *path = zb_path_join(&a, dir, "x.json");
    zb_err err;
    json_t *o = parse("{\"eps\":1e-05,\"text\":\"\u00fc\",\"list\":[1,2]}"), *back;
    assert_int_equal(zb_json_write(path, o, &err), ZB_OK);
    assert_int_equal(zb_json_read(path, 1000, &back, &err), ZB_OK);
    assert_true(json_equal(o, back));
    json_decref(back);
    assert_int_equal(zb_json_read(path, 10, &back, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "x.json: expected at most 10 bytes"));
    assert_int_equal(zb_json_read("/nonexistent", 10, &back, &err), ZB_ERR_IO);
    assert_null(back);
    json_decref(o);
    zb_dir_remove(dir, NULL);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_broken_text),
        cmocka_unit_test(getters_read),
        cmocka_unit_test(getters_keep_defaults),
        cmocka_unit_test(getters_refuse),
        cmocka_unit_test(files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
