/* err.h - errors are values.
 *
 * Everything that can fail for a reason outside the program returns a zb_status and takes a
 * `zb_err *err` last (NULL is legal: the caller only wants the code). The message is one line that
 * says what was expected, what was found and where. One list gives each code its name, the exit
 * status of the program and the HTTP status of a server, so that they cannot disagree.
 * Mistakes of our own are ZB_ASSERTs; input never reaches one. Thread-safe: no shared state. */
#ifndef ZB_BASE_ERR_H
#define ZB_BASE_ERR_H

#include <stdarg.h>

/*        code            exit  http  text */
#define ZB_STATUS_LIST(X)                                                                          \
    X(ZB_OK, 0, 200, "ok")                                                                         \
    X(ZB_ERR_INTERNAL, 1, 500, "internal error")                                                   \
    X(ZB_ERR_USAGE, 2, 400, "wrong usage")                                                         \
    X(ZB_ERR_IO, 3, 500, "cannot read or write")                                                   \
    X(ZB_ERR_FORMAT, 4, 400, "broken or unknown file")                                             \
    X(ZB_ERR_CONFIG, 5, 400, "wrong setting")                                                      \
    X(ZB_ERR_MEMORY, 6, 507, "not enough memory")                                                  \
    X(ZB_ERR_UNSUPPORTED, 7, 501, "not supported")                                                 \
    X(ZB_ERR_INTERRUPTED, 130, 503, "interrupted")

typedef enum zb_status {
#define ZB_X(code, exit_status, http, text) code,
    ZB_STATUS_LIST(ZB_X)
#undef ZB_X
} zb_status;

typedef struct zb_err {
    zb_status code;
    char msg[512]; /* one line, no trailing newline */
} zb_err;

#define ZB_PRINTF(fmt_index, first) __attribute__((format(printf, fmt_index, first)))

/* Stores the message (err may be NULL) and returns `code`, so that `return zb_fail(...)` reads
 * well. */
zb_status zb_fail(zb_err *err, zb_status code, const char *fmt, ...) ZB_PRINTF(3, 4);

/* The static analyzer sees one file at a time: show it that a failure is never ZB_OK. */
#ifdef __clang_analyzer__
static inline zb_status zb_fail_seen(zb_err *err, zb_status code, const char *fmt, ...) {
    (void)err;
    (void)fmt;
    return code;
}
#define zb_fail zb_fail_seen
#endif

/* Prepends "context: " to the message of an error that is being passed on; returns `code`. */
zb_status zb_err_wrap(zb_err *err, zb_status code, const char *fmt, ...) ZB_PRINTF(3, 4);

const char *zb_status_text(zb_status code);
int zb_status_exit(zb_status code);
int zb_status_http(zb_status code);

/* Forwards a failure to the caller. */
#define ZB_TRY(expr)                                                                               \
    do {                                                                                           \
        zb_status zb_try_status_ = (expr);                                                         \
        if (zb_try_status_ != ZB_OK) return zb_try_status_;                                        \
    } while (0)

/* Our own mistakes: prints the place and aborts. Never guards input. */
_Noreturn void zb_assert_failed(const char *expr, const char *file, int line);
#define ZB_ASSERT(expr) ((expr) ? (void)0 : zb_assert_failed(#expr, __FILE__, __LINE__))

#endif
