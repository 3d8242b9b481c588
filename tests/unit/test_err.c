/* test_err.c - messages, context, codes. */
#include "base/err.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void messages(void **state) {
    (void)state;
    zb_err err;
    assert_int_equal(zb_fail(&err, ZB_ERR_FORMAT, "%s: expected %d", "f", 3), ZB_ERR_FORMAT);
    assert_int_equal(err.code, ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "f: expected 3");
    assert_int_equal(zb_err_wrap(&err, ZB_ERR_IO, "layer %d", 2), ZB_ERR_IO);
    assert_int_equal(err.code, ZB_ERR_IO);
    assert_string_equal(err.msg, "layer 2: f: expected 3");
    assert_int_equal(zb_fail(NULL, ZB_ERR_IO, "x"), ZB_ERR_IO);
    assert_int_equal(zb_err_wrap(NULL, ZB_ERR_IO, "x"), ZB_ERR_IO);
}

/* Control characters of a hostile name reach neither terminal nor log; long texts are cut, not
 * overrun. */
static void messages_stay_one_line(void **state) {
    (void)state;
    struct {
        zb_err err;
        char guard[8];
    } x = {.guard = "guard"};
    zb_fail(&x.err, ZB_ERR_IO, "a\nb\x1b[31mc\x7f\t");
    assert_string_equal(x.err.msg, "a b [31mc  ");
    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    zb_fail(&x.err, ZB_ERR_IO, "%s", longer);
    assert_int_equal(strlen(x.err.msg), sizeof x.err.msg - 1);
    zb_err_wrap(&x.err, ZB_ERR_IO, "context");
    assert_int_equal(strlen(x.err.msg), sizeof x.err.msg - 1);
    assert_memory_equal(x.err.msg, "context: xxx", 12);
    zb_err_wrap(&x.err, ZB_ERR_IO, "%s", longer);
    assert_int_equal(strlen(x.err.msg), sizeof x.err.msg - 1);
    assert_string_equal(x.guard, "guard");
}

static void codes_have_rows(void **state) {
    (void)state;
    assert_int_equal(zb_status_exit(ZB_OK), 0);
    assert_int_equal(zb_status_exit(ZB_ERR_USAGE), 2);
    assert_int_equal(zb_status_exit(ZB_ERR_INTERRUPTED), 130);
    assert_int_equal(zb_status_http(ZB_ERR_FORMAT), 400);
    assert_int_equal(zb_status_http(ZB_ERR_UNSUPPORTED), 501);
    assert_string_equal(zb_status_text(ZB_ERR_MEMORY), "not enough memory");
    assert_int_equal(zb_status_exit((zb_status)99), 1);
    assert_string_equal(zb_status_text((zb_status)99), "internal error");
}

static int evaluations;
static zb_status counted(zb_status s) {
    evaluations++;
    return s;
}

static zb_status tries(zb_status s) {
    ZB_TRY(counted(s));
    return ZB_ERR_INTERNAL;
}

static void try_forwards_once(void **state) {
    (void)state;
    assert_int_equal(tries(ZB_ERR_IO), ZB_ERR_IO);
    assert_int_equal(tries(ZB_OK), ZB_ERR_INTERNAL);
    assert_int_equal(evaluations, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages),
        cmocka_unit_test(messages_stay_one_line),
        cmocka_unit_test(codes_have_rows),
        cmocka_unit_test(try_forwards_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
