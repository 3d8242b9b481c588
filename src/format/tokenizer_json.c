/* tokenizer_json.c - a cursor over JSON text (contract in tokenizer_json.h).
 *
 * A vocabulary of 128,000 tokens with 280,000 merges takes jansson a third of a second, most of it
 * in small allocations; the cursor reads it in a tenth. Cutting only finds where values end
 * (strings and brackets); whatever is malformed is found by the one that reads the part afterwards:
 * the cursor for the two values, jansson for the rest. */
#include "format/tokenizer_json.h"

#include <string.h>

zb_status zb_json_cursor_fail(const zb_json_cursor *c, const char *expected, zb_err *err) {
    size_t line = 1;
    for (const char *p = c->begin; p < c->p; p++) line += *p == '\n';
    if (c->p >= c->end)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s:%zu: invalid JSON: expected %s, found the end of the file", c->where,
                       line, expected);
    size_t n = (size_t)(c->end - c->p) < 12 ? (size_t)(c->end - c->p) : 12, shown = 0;
    while (shown < n && (unsigned char)c->p[shown] >= ' ' && (unsigned char)c->p[shown] < 127)
        shown++;
    return zb_fail(err, ZB_ERR_FORMAT, "%s:%zu: invalid JSON: expected %s, found \"%.*s\"",
                   c->where, line, expected, (int)shown, c->p);
}

static void skip_space(zb_json_cursor *c) {
    while (c->p < c->end && (*c->p == ' ' || *c->p == '\n' || *c->p == '\t' || *c->p == '\r'))
        c->p++;
}

bool zb_json_cursor_skip(zb_json_cursor *c, char expected) {
    skip_space(c);
    if (c->p >= c->end || *c->p != expected) return false;
    c->p++;
    return true;
}

zb_status zb_json_cursor_expect(zb_json_cursor *c, char expected, zb_err *err) {
    if (zb_json_cursor_skip(c, expected)) return ZB_OK;
    char text[4] = {'"', expected, '"', 0};
    return zb_json_cursor_fail(c, text, err);
}

static bool read_hex4(zb_json_cursor *c, uint32_t *out) {
    if (c->end - c->p < 4) return false;
    *out = 0;
    for (int i = 0; i < 4; i++) {
        char h = c->p[i], low = (char)(h | 32);
        uint32_t digit = h >= '0' && h <= '9'       ? (uint32_t)(h - '0')
                         : low >= 'a' && low <= 'f' ? (uint32_t)(low - 'a' + 10)
                                                    : 16;
        if (digit > 15) return false;
        *out = *out << 4 | digit;
    }
    c->p += 4;
    return true;
}

/* Behind the backslash: one escape to `out`. */
static zb_status read_escape(zb_json_cursor *c, zb_buf *out, zb_err *err) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char utf8[4];
    uint32_t cp, low;
    if (c->p >= c->end) return zb_json_cursor_fail(c, "an escape", err);
    const char *known = *c->p ? strchr(from, *c->p) : NULL;
    if (known) {
        zb_buf_addc(out, to[known - from]);
        c->p++;
        return ZB_OK;
    }
    if (*c->p != 'u') return zb_json_cursor_fail(c, "an escape", err);
    c->p++;
    if (!read_hex4(c, &cp) || cp == 0)
        return zb_json_cursor_fail(c, "four hexadecimal digits other than 0000", err);
    if (cp >= 0xD800 && cp < 0xDC00) {
        bool second = c->end - c->p >= 2 && c->p[0] == '\\' && c->p[1] == 'u';
        if (second) c->p += 2;
        if (!second || !read_hex4(c, &low) || low < 0xDC00 || low > 0xDFFF)
            return zb_json_cursor_fail(c, "the second half of a surrogate pair", err);
        cp = 0x10000 + ((cp - 0xD800) << 10) + (low - 0xDC00);
    } else if (cp >= 0xDC00 && cp <= 0xDFFF) {
        return zb_json_cursor_fail(c, "the first half of a surrogate pair", err);
    }
    zb_buf_add(out, utf8, zb_utf8_encode(cp, utf8));
    return ZB_OK;
}

zb_status zb_json_cursor_string(zb_json_cursor *c, zb_buf *out, zb_str *s, zb_err *err) {
    skip_space(c);
    if (c->p >= c->end || *c->p != '"') return zb_json_cursor_fail(c, "a string", err);
    const char *run = ++c->p;
    bool escaped = false;
    zb_buf_clear(out);
    while (c->p < c->end && *c->p != '"') {
        unsigned char byte = (unsigned char)*c->p;
        uint32_t cp;
        size_t len = byte < 0x80 ? byte >= ' ' : zb_utf8_decode(c->p, (size_t)(c->end - c->p), &cp);
        if (!len)
            return zb_json_cursor_fail(c, "UTF-8 without control characters in a string", err);
        if (byte != '\\') {
            c->p += len;
            continue;
        }
        escaped = true;
        zb_buf_add(out, run, (size_t)(c->p - run));
        c->p++;
        ZB_TRY(read_escape(c, out, err));
        run = c->p;
    }
    if (c->p >= c->end) return zb_json_cursor_fail(c, "the end of a string", err);
    *s = (zb_str){run, (size_t)(c->p - run)};
    c->p++;
    if (escaped) {
        zb_buf_add(out, s->p, s->n);
        *s = zb_buf_str(out);
    }
    return ZB_OK;
}

zb_status zb_json_cursor_int(zb_json_cursor *c, int64_t *out, zb_err *err) {
    skip_space(c);
    const char *start = c->p;
    bool negative = c->p < c->end && *c->p == '-';
    if (negative) c->p++;
    const char *digits = c->p;
    int64_t v = 0;
    while (c->p < c->end && *c->p >= '0' && *c->p <= '9' && c->p - digits < 18)
        v = 10 * v + (*c->p++ - '0');
    /* A fraction, an exponent, a 19th digit: no integer that could be an id. */
    bool ends = c->p < c->end && (*c->p == ',' || *c->p == '}' || *c->p == ']' || *c->p <= ' ');
    if (c->p == digits || !ends || (*digits == '0' && c->p - digits > 1)) {
        c->p = start;
        return zb_json_cursor_fail(c, "an integer", err);
    }
    *out = negative ? -v : v;
    return ZB_OK;
}

/* Behind the value at the cursor, whatever it is; brackets are counted, not matched. */
static void skip_value(zb_json_cursor *c) {
    size_t depth = 0;
    for (; c->p < c->end; c->p++) {
        char b = *c->p;
        if (b == '"') {
            for (c->p++; c->p < c->end && *c->p != '"'; c->p++)
                if (*c->p == '\\' && c->p + 1 < c->end) c->p++;
        } else if (b == '{' || b == '[') {
            depth++;
        } else if (b == '}' || b == ']' || b == ',') {
            if (depth == 0) return;
            if (b != ',' && --depth == 0) {
                c->p++;
                return;
            }
        }
    }
    if (c->p > c->end) c->p = c->end;
}

/* The members of the object at the cursor, one per call: key, and the cursor before its value. */
static bool next_member(zb_json_cursor *c, bool first, zb_buf *tmp, zb_str *key) {
    if (!zb_json_cursor_skip(c, first ? '{' : ',')) return false;
    return zb_json_cursor_string(c, tmp, key, NULL) == ZB_OK && zb_json_cursor_skip(c, ':');
}

static void cut_value(zb_json_cursor *c, char open, zb_json_cursor *value, const char **copied,
                      zb_buf *rest) {
    skip_space(c);
    if (value->p || c->p >= c->end ||
        *c->p != open) { /* a second one, or another type: jansson will see it */
        skip_value(c);
        return;
    }
    *value = *c;
    zb_buf_add(rest, *copied, (size_t)(c->p - *copied));
    zb_buf_adds(rest, open == '{' ? "{}" : "[]");
    skip_value(c);
    *copied = c->p;
}

zb_status zb_tokenizer_json_cut(zb_str text, const char *where, zb_buf *rest, zb_json_cursor *vocab,
                                zb_json_cursor *merges, zb_err *err) {
    zb_json_cursor c = {text.p, text.p + text.n, text.p, where};
    const char *copied = text.p; /* what lies before it is in `rest` or cut out */
    zb_buf tmp;
    zb_str key;
    zb_buf_init(&tmp, text.n);
    *vocab = *merges = (zb_json_cursor){0};
    for (bool first = true; next_member(&c, first, &tmp, &key); first = false) {
        if (!zb_str_is(key, "model")) {
            skip_value(&c);
            continue;
        }
        for (bool inner = true; next_member(&c, inner, &tmp, &key); inner = false) {
            if (zb_str_is(key, "vocab")) {
                cut_value(&c, '{', vocab, &copied, rest);
            } else if (zb_str_is(key, "merges")) {
                cut_value(&c, '[', merges, &copied, rest);
            } else {
                skip_value(&c);
            }
        }
        if (!zb_json_cursor_skip(&c, '}')) break;
    }
    zb_buf_add(rest, copied, (size_t)(text.p + text.n - copied));
    zb_buf_free(&tmp);
    return rest->overflow ? zb_fail(err, ZB_ERR_FORMAT, "%s: the file is too large", where) : ZB_OK;
}
