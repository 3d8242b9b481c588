/* tokenizer_json.h - private to the tokenizer: the two huge parts of tokenizer.json, read without a
 * tree.
 *
 * "model.vocab" and "model.merges" make up nearly all of the file and hold only strings and
 * integers. They are cut out of the text, read by the cursor below, and jansson reads the small
 * rest. A cursor borrows the text. */
#ifndef ZB_FORMAT_TOKENIZER_JSON_H
#define ZB_FORMAT_TOKENIZER_JSON_H

#include "base/err.h"
#include "base/text.h"

typedef struct zb_json_cursor {
    const char *p, *end, *begin; /* begin: of the file, for line numbers */
    const char *where;
} zb_json_cursor;

/* *rest: the text with {} and [] in place of the two values; *vocab and *merges stand on the values
 * (p = NULL: absent or of another type, which the rest then shows). */
zb_status zb_tokenizer_json_cut(zb_str text, const char *where, zb_buf *rest, zb_json_cursor *vocab,
                                zb_json_cursor *merges, zb_err *err);

bool zb_json_cursor_skip(zb_json_cursor *c,
                         char expected); /* white space and then this character, if it is next */
zb_status zb_json_cursor_expect(zb_json_cursor *c, char expected, zb_err *err);
/* A string, unescaped: in `out` (cleared first) or a view of the text if it has no escapes. No NUL
 * inside. */
zb_status zb_json_cursor_string(zb_json_cursor *c, zb_buf *out, zb_str *s, zb_err *err);
zb_status zb_json_cursor_int(zb_json_cursor *c, int64_t *out, zb_err *err);
zb_status zb_json_cursor_fail(const zb_json_cursor *c, const char *expected, zb_err *err);

#endif
