/* err.c - status texts, messages with context, failed assertions (contract in err.h). */
#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int exit_status, http;
    const char *text;
} rows[] = {
#define ZB_X(code, exit_status, http, text) {exit_status, http, text},
    ZB_STATUS_LIST(ZB_X)
#undef ZB_X
};

static int row_of(zb_status code) {
    return (unsigned)code < sizeof rows / sizeof rows[0] ? (int)code : (int)ZB_ERR_INTERNAL;
}

const char *zb_status_text(zb_status code) { return rows[row_of(code)].text; }
int zb_status_exit(zb_status code) { return rows[row_of(code)].exit_status; }
int zb_status_http(zb_status code) { return rows[row_of(code)].http; }

/* Messages go to terminals and JSON: a control character from a hostile file must not. */
static void make_one_line(char *s) {
    for (; *s; s++)
        if ((unsigned char)*s < 32 || *s == 127) *s = ' ';
}

#undef zb_fail /* for the analyzer a macro */
zb_status zb_fail(zb_err *err, zb_status code, const char *fmt, ...) {
    if (!err) return code;
    err->code = code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    make_one_line(err->msg);
    return code;
}

zb_status zb_err_wrap(zb_err *err, zb_status code, const char *fmt, ...) {
    if (!err) return code;
    char old[sizeof err->msg];
    memcpy(old, err->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof err->msg)
        snprintf(err->msg + n, sizeof err->msg - (size_t)n, ": %s", old);
    err->code = code;
    make_one_line(err->msg);
    return code;
}

_Noreturn void zb_assert_failed(const char *expr, const char *file, int line) {
    fprintf(stderr, "zebra: internal error: %s:%d: assertion failed: %s\n", file, line, expr);
    abort();
}
