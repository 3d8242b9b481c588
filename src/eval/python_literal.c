/* python_literal.c - a recursive descent over Python's literals (contract in python_literal.h).
 *
 *   value  = list | tuple | dict | string | integer | None | True | False
 *   string = '...' or "..." with \\ \' \" \n \r \t \xhh \uhhhh \Uhhhhhhhh; no prefixes, no joins
 * A dictionary's keys are strings. Depth is bounded, as the text comes from a data file. */
#include "eval/python_literal.h"

#include <string.h>

enum { DEPTH_MAX = 16, TEXT_MAX = 1 << 22 };

typedef struct parser {
    const char *start, *p, *end;
    const char *where;
    int depth;
    zb_err *err;
} parser;

static zb_status wrong(const parser *s, const char *expected) {
    return zb_fail(s->err, ZB_ERR_FORMAT, "%s: Python literal, byte %zu: expected %s", s->where,
                   (size_t)(s->p - s->start), expected);
}

static void skip_space(parser *s) {
    while (s->p < s->end && strchr(" \t\r\n", *s->p) && *s->p) s->p++;
}

static bool take(parser *s, char c) {
    skip_space(s);
    if (s->p == s->end || *s->p != c) return false;
    s->p++;
    return true;
}

static zb_status hex(parser *s, int digits, zb_buf *out) {
    uint32_t c = 0;
    for (int i = 0; i < digits; i++, s->p++) {
        static const char all[] = "0123456789abcdef";
        const char *at = s->p < s->end && *s->p ? strchr(all, *s->p | 0x20) : NULL;
        if (!at) return wrong(s, "a hexadecimal digit");
        c = c << 4 | (uint32_t)(at - all);
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return wrong(s, "a code point");
    char bytes[4];
    zb_buf_add(out, bytes, zb_utf8_encode(c, bytes));
    return ZB_OK;
}

static zb_status escape(parser *s, zb_buf *out) {
    static const char from[] = "\\'\"nrt", to[] = "\\'\"\n\r\t";
    if (s->p == s->end) return wrong(s, "a character behind the backslash");
    char c = *s->p++;
    if (c == 'x') return hex(s, 2, out);
    if (c == 'u') return hex(s, 4, out);
    if (c == 'U') return hex(s, 8, out);
    const char *at = c ? strchr(from, c) : NULL;
    if (!at) return wrong(s, "a known escape");
    zb_buf_addc(out, to[at - from]);
    return ZB_OK;
}

static zb_status string(parser *s, char quote, json_t **out) {
    zb_buf text;
    zb_buf_init(&text, TEXT_MAX);
    zb_status status = ZB_OK;
    for (;;) {
        if (s->p == s->end || *s->p == '\n') {
            status = wrong(s, "the end of the string");
            break;
        }
        char c = *s->p++;
        if (c == quote) break;
        if (c != '\\')
            zb_buf_addc(&text, c);
        else if ((status = escape(s, &text)) != ZB_OK)
            break;
    }
    if (status == ZB_OK) {
        *out = json_stringn(text.n ? text.p : "", text.n);
        if (!*out || text.overflow) status = wrong(s, "a string of valid UTF-8");
    }
    zb_buf_free(&text);
    return status;
}

static zb_status value(parser *s, json_t **out);

static zb_status list(parser *s, char close, json_t **out) {
    *out = json_array();
    while (!take(s, close)) {
        json_t *item = NULL;
        if (json_array_size(*out) && !take(s, ',')) return wrong(s, "a comma or the end of a list");
        if (json_array_size(*out) && take(s, close)) return ZB_OK;
        zb_status status = value(s, &item);
        if (item) json_array_append_new(*out, item);
        ZB_TRY(status);
    }
    return ZB_OK;
}

static zb_status dict(parser *s, json_t **out) {
    *out = json_object();
    while (!take(s, '}')) {
        json_t *key = NULL, *item = NULL;
        if (json_object_size(*out) && !take(s, ','))
            return wrong(s, "a comma or the end of a dictionary");
        if (json_object_size(*out) && take(s, '}')) return ZB_OK;
        zb_status status = value(s, &key);
        if (status == ZB_OK && !json_is_string(key)) status = wrong(s, "a string as key");
        if (status == ZB_OK && !take(s, ':')) status = wrong(s, "a colon");
        if (status == ZB_OK) status = value(s, &item);
        if (status == ZB_OK && json_object_set(*out, json_string_value(key), item) != 0)
            status = wrong(s, "a key without NUL");
        json_decref(key);
        json_decref(item);
        ZB_TRY(status);
    }
    return ZB_OK;
}

/* None, True, False, integers. */
static zb_status word(parser *s, json_t **out) {
    char text[24];
    size_t n = 0;
    while (s->p < s->end && n < sizeof text - 1 && *s->p && !strchr(",]})(: \t\r\n", *s->p))
        text[n++] = *s->p++;
    text[n] = 0;
    int64_t number;
    if (!strcmp(text, "None"))
        *out = json_null();
    else if (!strcmp(text, "True") || !strcmp(text, "False"))
        *out = json_boolean(text[0] == 'T');
    else if (zb_parse_i64(text, &number))
        *out = json_integer(number);
    else
        return wrong(s, "a list, a dictionary, a string or an integer");
    return ZB_OK;
}

static zb_status value(parser *s, json_t **out) {
    if (s->depth == DEPTH_MAX) return wrong(s, "less nesting");
    s->depth++;
    zb_status status;
    if (take(s, '['))
        status = list(s, ']', out);
    else if (take(s, '('))
        status = list(s, ')', out);
    else if (take(s, '{'))
        status = dict(s, out);
    else if (take(s, '\''))
        status = string(s, '\'', out);
    else if (take(s, '"'))
        status = string(s, '"', out);
    else
        status = word(s, out);
    s->depth--;
    return status;
}

zb_status zb_python_literal_parse(zb_str text, const char *where, json_t **out, zb_err *err) {
    parser s = {.start = text.p, .p = text.p, .end = text.p + text.n, .where = where, .err = err};
    *out = NULL;
    zb_status status = value(&s, out);
    skip_space(&s);
    if (status == ZB_OK && s.p != s.end) status = wrong(&s, "the end of the text");
    if (status == ZB_OK) return ZB_OK;
    json_decref(*out);
    *out = NULL;
    return status;
}
