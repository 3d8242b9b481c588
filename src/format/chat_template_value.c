/* chat_template_value.c - values of a template (contract in chat_template_impl.h).
 *
 * What Python does, templates expect: truth, equality across number types, containment, and the
 * texts of str(), repr() and json.dumps(ensure_ascii=False). All values of a rendering live in its
 * arena; a list or dict is never changed once a second name may see it, except namespaces. */
#include "format/chat_template_impl.h"

#include "format/unicode.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *zb_jinja_type_name(zb_jinja_value v) {
    static const char *const names[] = {
        "an undefined value", "none",     "a boolean",  "an integer",
        "a real number",      "a string", "a list",     "a mapping",
        "a namespace",        "a loop",   "a function", "a macro"};
    return names[v.type];
}

bool zb_jinja_true(zb_jinja_value v) {
    switch (v.type) {
    case ZB_JINJA_UNDEFINED:
    case ZB_JINJA_NONE: return false;
    case ZB_JINJA_BOOL: return v.b;
    case ZB_JINJA_INT: return v.i != 0;
    case ZB_JINJA_FLOAT: return v.f != 0;
    case ZB_JINJA_STR: return v.s.n > 0;
    case ZB_JINJA_LIST: return v.list->n > 0;
    case ZB_JINJA_DICT: return v.dict->n > 0;
    default: return true;
    }
}

zb_jinja_value zb_jinja_list_new(zb_jinja_eval *e) {
    return (zb_jinja_value){ZB_JINJA_LIST, {.list = ZB_NEW(&e->arena, zb_jinja_list)}};
}

void zb_jinja_list_add(zb_jinja_eval *e, zb_jinja_value list, zb_jinja_value item) {
    zb_jinja_list *l = list.list;
    l->item = zb_grow(&e->arena, l->item, &l->cap, l->n + 1, sizeof(zb_jinja_value));
    l->item[l->n++] = item;
}

zb_jinja_value zb_jinja_dict_new(zb_jinja_eval *e) {
    return (zb_jinja_value){ZB_JINJA_DICT, {.dict = ZB_NEW(&e->arena, zb_jinja_dict)}};
}

bool zb_jinja_dict_get(const zb_jinja_dict *d, zb_str key, zb_jinja_value *v) {
    for (size_t i = 0; i < d->n; i++)
        if (zb_str_eq(d->key[i], key)) {
            *v = d->value[i];
            return true;
        }
    return false;
}

static void dict_append(zb_jinja_eval *e, zb_jinja_dict *d, zb_str key, zb_jinja_value v) {
    d->key = zb_grow(&e->arena, d->key, &d->cap_key, d->n + 1, sizeof(zb_str));
    d->value = zb_grow(&e->arena, d->value, &d->cap_value, d->n + 1, sizeof(zb_jinja_value));
    d->key[d->n] = key;
    d->value[d->n++] = v;
}

void zb_jinja_dict_set(zb_jinja_eval *e, zb_jinja_dict *d, zb_str key, zb_jinja_value v) {
    for (size_t i = 0; i < d->n; i++)
        if (zb_str_eq(d->key[i], key)) {
            d->value[i] = v;
            return;
        }
    dict_append(e, d, key, v);
}

static zb_status too_deep(zb_jinja_eval *e) {
    return zb_jinja_fail(e, "a value is nested more than %d deep", (int)ZB_JINJA_DEPTH);
}

zb_status zb_jinja_from_json(zb_jinja_eval *e, const json_t *j, int depth, zb_jinja_value *out) {
    if (depth > ZB_JINJA_DEPTH) return too_deep(e);
    ZB_TRY(zb_jinja_charge(e, 1));
    switch (json_typeof(j)) {
    case JSON_NULL: *out = zb_jinja_none(); return ZB_OK;
    case JSON_TRUE:
    case JSON_FALSE: *out = zb_jinja_bool(json_is_true(j)); return ZB_OK;
    case JSON_INTEGER: *out = zb_jinja_int(json_integer_value(j)); return ZB_OK;
    case JSON_REAL:
        *out = (zb_jinja_value){ZB_JINJA_FLOAT, {.f = json_real_value(j)}};
        return ZB_OK;
    case JSON_STRING:
        *out = zb_jinja_str((zb_str){json_string_value(j), json_string_length(j)});
        return ZB_OK;
    case JSON_ARRAY: {
        *out = zb_jinja_list_new(e);
        for (size_t i = 0; i < json_array_size(j); i++) {
            zb_jinja_value item;
            ZB_TRY(zb_jinja_from_json(e, json_array_get(j, i), depth + 1, &item));
            zb_jinja_list_add(e, *out, item);
        }
        return ZB_OK;
    }
    default: break;
    }
    const char *key;
    json_t *v;
    *out = zb_jinja_dict_new(e);
    json_object_foreach((json_t *)j, key, v) {
        zb_jinja_value item;
        ZB_TRY(zb_jinja_from_json(e, v, depth + 1, &item));
        dict_append(e, out->dict, zb_str_from(key), item);
    }
    return ZB_OK;
}

static bool is_number(zb_jinja_value v) {
    return v.type == ZB_JINJA_BOOL || v.type == ZB_JINJA_INT || v.type == ZB_JINJA_FLOAT;
}

static double as_real(zb_jinja_value v) {
    return v.type == ZB_JINJA_FLOAT ? v.f : v.type == ZB_JINJA_INT ? (double)v.i : v.b ? 1 : 0;
}

static int64_t as_int(zb_jinja_value v) { return v.type == ZB_JINJA_INT ? v.i : v.b; }

static bool number_less(zb_jinja_value a, zb_jinja_value b) {
    if (a.type == ZB_JINJA_FLOAT || b.type == ZB_JINJA_FLOAT) return as_real(a) < as_real(b);
    return as_int(a) < as_int(b);
}

static zb_status equal_lists(zb_jinja_eval *e, const zb_jinja_list *a, const zb_jinja_list *b,
                             int depth, bool *out) {
    *out = a->n == b->n && a->tuple == b->tuple;
    for (size_t i = 0; i < a->n && *out; i++)
        ZB_TRY(zb_jinja_equal(e, a->item[i], b->item[i], depth + 1, out));
    return ZB_OK;
}

static zb_status equal_dicts(zb_jinja_eval *e, const zb_jinja_dict *a, const zb_jinja_dict *b,
                             int depth, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; i < a->n && *out; i++) {
        zb_jinja_value other;
        ZB_TRY(zb_jinja_charge(e, b->n));
        *out = zb_jinja_dict_get(b, a->key[i], &other);
        if (*out) ZB_TRY(zb_jinja_equal(e, a->value[i], other, depth + 1, out));
    }
    return ZB_OK;
}

zb_status zb_jinja_equal(zb_jinja_eval *e, zb_jinja_value a, zb_jinja_value b, int depth,
                         bool *out) {
    if (depth > ZB_JINJA_DEPTH) return too_deep(e);
    ZB_TRY(zb_jinja_charge(e, 1));
    if (is_number(a) && is_number(b)) {
        *out = !number_less(a, b) && !number_less(b, a);
        return ZB_OK;
    }
    *out = false;
    if (a.type != b.type) return ZB_OK;
    switch (a.type) {
    case ZB_JINJA_STR: *out = zb_str_eq(a.s, b.s); return zb_jinja_charge(e, a.s.n / 8);
    case ZB_JINJA_LIST: return equal_lists(e, a.list, b.list, depth, out);
    case ZB_JINJA_DICT: return equal_dicts(e, a.dict, b.dict, depth, out);
    case ZB_JINJA_NAMESPACE: *out = a.dict == b.dict; return ZB_OK;
    case ZB_JINJA_FUNCTION: *out = zb_str_eq(a.s, b.s); return ZB_OK;
    case ZB_JINJA_MACRO: *out = a.macro == b.macro; return ZB_OK;
    case ZB_JINJA_LOOP: *out = a.loop == b.loop; return ZB_OK;
    default: *out = true; return ZB_OK; /* none and none, undefined and undefined */
    }
}

/* By the first members that differ; a list that ends before that is less. */
static zb_status less_lists(zb_jinja_eval *e, const zb_jinja_list *a, const zb_jinja_list *b,
                            bool *out) {
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        bool equal;
        ZB_TRY(zb_jinja_equal(e, a->item[i], b->item[i], 1, &equal));
        if (!equal) return zb_jinja_less(e, a->item[i], b->item[i], out);
    }
    *out = a->n < b->n;
    return ZB_OK;
}

zb_status zb_jinja_less(zb_jinja_eval *e, zb_jinja_value a, zb_jinja_value b, bool *out) {
    if (a.type == ZB_JINJA_LIST && b.type == ZB_JINJA_LIST && a.list->tuple == b.list->tuple)
        return less_lists(e, a.list, b.list, out);
    if (is_number(a) && is_number(b)) {
        *out = number_less(a, b);
        return ZB_OK;
    }
    if (a.type != ZB_JINJA_STR || b.type != ZB_JINJA_STR)
        return zb_jinja_fail(e, "%s and %s cannot be ordered", zb_jinja_type_name(a),
                             zb_jinja_type_name(b));
    size_t n = a.s.n < b.s.n ? a.s.n : b.s.n;
    int order = n ? memcmp(a.s.p, b.s.p, n) : 0; /* UTF-8 sorts by code point */
    *out = order < 0 || (order == 0 && a.s.n < b.s.n);
    return zb_jinja_charge(e, n / 8);
}

zb_status zb_jinja_contains(zb_jinja_eval *e, zb_jinja_value box, zb_jinja_value v, bool *out) {
    *out = false;
    if (box.type == ZB_JINJA_UNDEFINED) return ZB_OK;
    if (box.type == ZB_JINJA_LIST) {
        for (size_t i = 0; i < box.list->n && !*out; i++)
            ZB_TRY(zb_jinja_equal(e, box.list->item[i], v, 0, out));
        return ZB_OK;
    }
    if (box.type == ZB_JINJA_DICT) {
        zb_jinja_value unused;
        *out = v.type == ZB_JINJA_STR && zb_jinja_dict_get(box.dict, v.s, &unused);
        return zb_jinja_charge(e, box.dict->n);
    }
    if (box.type != ZB_JINJA_STR || v.type != ZB_JINJA_STR)
        return zb_jinja_fail(e, "\"in\" cannot look for %s in %s", zb_jinja_type_name(v),
                             zb_jinja_type_name(box));
    *out = v.s.n == 0 || (box.s.n && memmem(box.s.p, box.s.n, v.s.p, v.s.n));
    return zb_jinja_charge(e, box.s.n / 8);
}

size_t zb_jinja_offset(zb_str s, size_t i) {
    size_t at = 0;
    uint32_t cp;
    for (; i > 0 && at < s.n; i--) {
        size_t len = zb_utf8_decode(s.p + at, s.n - at, &cp);
        at += len ? len : 1;
    }
    return at;
}

zb_status zb_jinja_iterate(zb_jinja_eval *e, zb_jinja_value v, zb_jinja_value *list) {
    if (v.type == ZB_JINJA_LIST) {
        *list = v;
        return ZB_OK;
    }
    *list = zb_jinja_list_new(e);
    if (v.type == ZB_JINJA_UNDEFINED) return ZB_OK;
    if (v.type == ZB_JINJA_DICT) {
        for (size_t i = 0; i < v.dict->n; i++)
            zb_jinja_list_add(e, *list, zb_jinja_str(v.dict->key[i]));
        return zb_jinja_charge(e, v.dict->n);
    }
    if (v.type != ZB_JINJA_STR)
        return zb_jinja_fail(e, "%s is not something to loop over", zb_jinja_type_name(v));
    for (size_t at = 0; at < v.s.n;) {
        size_t len = zb_jinja_offset((zb_str){v.s.p + at, v.s.n - at}, 1);
        zb_jinja_list_add(e, *list, zb_jinja_str((zb_str){v.s.p + at, len}));
        at += len;
        ZB_TRY(zb_jinja_charge(e, 1));
    }
    return ZB_OK;
}

/* Python's repr of a real number: the shortest digits that read back as the same number. */
static void real_text(double f, bool json, zb_buf *out) {
    char digits[32], *exponent;
    if (isnan(f) || isinf(f)) {
        zb_buf_adds(out, isnan(f) ? (json ? "NaN" : "nan")
                         : f < 0  ? (json ? "-Infinity" : "-inf")
                         : json   ? "Infinity"
                                  : "inf");
        return;
    }
    for (int precision = 0; precision < 17; precision++) {
        double back = 0;
        snprintf(digits, sizeof digits, "%.*e", precision, f);
        if (zb_parse_f64(digits, &back) && back == f) break;
    }
    exponent = strchr(digits, 'e');
    int64_t power = 0;
    zb_parse_i64(exponent[1] == '+' ? exponent + 2 : exponent + 1, &power);
    if (power < -4 || power >= 16) {
        zb_buf_add(out, digits, (size_t)(exponent - digits));
        zb_buf_addf(out, "e%c%02d", power < 0 ? '-' : '+', (int)(power < 0 ? -power : power));
        return;
    }
    int mantissa =
        (int)(exponent - digits) - (*digits == '-'); /* "1" or "1.25": digits and point */
    int places = (mantissa > 1 ? mantissa - 2 : 0) - (int)power;
    zb_buf_addf(out, "%.*f", places > 1 ? places : 1, f);
}

static void quote_python(zb_str s, zb_buf *out) {
    const char *p = s.p ? s.p : "";
    char quote = memchr(p, '\'', s.n) && !memchr(p, '"', s.n) ? '"' : '\'';
    zb_buf_addc(out, quote);
    for (size_t i = 0; i < s.n;) {
        uint32_t cp = 0xFFFD;
        size_t len = zb_utf8_decode(s.p + i, s.n - i, &cp);
        if (!len) len = 1;
        if (cp == '\n') {
            zb_buf_adds(out, "\\n");
        } else if (cp == '\r') {
            zb_buf_adds(out, "\\r");
        } else if (cp == '\t') {
            zb_buf_adds(out, "\\t");
        } else if (cp == '\\' || cp == (uint32_t)quote) {
            zb_buf_addf(out, "\\%c", (int)cp);
        } else if (zb_char_is_printable(cp)) {
            zb_buf_add(out, s.p + i, len);
        } else {
            zb_buf_addf(out, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        }
        i += len;
    }
    zb_buf_addc(out, quote);
}

static void quote_json(zb_str s, zb_buf *out) {
    zb_buf_addc(out, '"');
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
        const char *known = c ? strchr(from, (char)c) : NULL;
        if (known) {
            zb_buf_addf(out, "\\%c", to[known - from]);
        } else if (c < ' ') {
            zb_buf_addf(out, "\\u%04x", c);
        } else {
            zb_buf_addc(out, (char)c);
        }
    }
    zb_buf_addc(out, '"');
}

/* How a value is written: as Python's repr, or as JSON, on one line or indented. */
typedef struct writer {
    zb_jinja_eval *e;
    zb_buf *out;
    bool json;
    int indent;
} writer;

static zb_status write_value(const writer *w, zb_jinja_value v, int depth);

static void new_line(const writer *w, int depth) {
    if (w->indent < 0) return;
    zb_buf_addc(w->out, '\n');
    for (int i = 0; i < w->indent * depth; i++) zb_buf_addc(w->out, ' ');
}

static zb_status write_list(const writer *w, const zb_jinja_list *l, int depth) {
    bool round = l->tuple && !w->json;
    zb_buf_addc(w->out, round ? '(' : '[');
    for (size_t i = 0; i < l->n; i++) {
        if (i) zb_buf_adds(w->out, w->indent < 0 ? ", " : ",");
        new_line(w, depth + 1);
        ZB_TRY(write_value(w, l->item[i], depth + 1));
    }
    if (l->n) new_line(w, depth);
    if (round && l->n == 1) zb_buf_addc(w->out, ',');
    zb_buf_addc(w->out, round ? ')' : ']');
    return ZB_OK;
}

static zb_status write_dict(const writer *w, const zb_jinja_dict *d, int depth) {
    zb_buf_addc(w->out, '{');
    for (size_t i = 0; i < d->n; i++) {
        if (i) zb_buf_adds(w->out, w->indent < 0 ? ", " : ",");
        new_line(w, depth + 1);
        ZB_TRY(write_value(w, zb_jinja_str(d->key[i]), depth + 1));
        zb_buf_adds(w->out, ": ");
        ZB_TRY(write_value(w, d->value[i], depth + 1));
    }
    if (d->n) new_line(w, depth);
    zb_buf_addc(w->out, '}');
    return ZB_OK;
}

static zb_status write_value(const writer *w, zb_jinja_value v, int depth) {
    if (depth > ZB_JINJA_DEPTH) return too_deep(w->e);
    ZB_TRY(zb_jinja_charge(w->e, 1));
    if (w->out->overflow)
        return zb_jinja_fail(w->e, "a text grows beyond %zu bytes", w->out->limit);
    switch (v.type) {
    case ZB_JINJA_NONE: zb_buf_adds(w->out, w->json ? "null" : "None"); return ZB_OK;
    case ZB_JINJA_BOOL:
        zb_buf_adds(w->out, w->json ? (v.b ? "true" : "false") : v.b ? "True" : "False");
        return ZB_OK;
    case ZB_JINJA_INT: zb_buf_addf(w->out, "%lld", (long long)v.i); return ZB_OK;
    case ZB_JINJA_FLOAT: real_text(v.f, w->json, w->out); return ZB_OK;
    case ZB_JINJA_STR:
        (w->json ? quote_json : quote_python)(v.s, w->out);
        return zb_jinja_charge(w->e, v.s.n);
    case ZB_JINJA_LIST: return write_list(w, v.list, depth);
    case ZB_JINJA_DICT: return write_dict(w, v.dict, depth);
    case ZB_JINJA_UNDEFINED:
        if (!w->json) {
            zb_buf_adds(w->out, depth ? "Undefined" : "");
            return ZB_OK;
        }
        break;
    default: break;
    }
    return zb_jinja_fail(w->e, "%s cannot be written as text", zb_jinja_type_name(v));
}

zb_status zb_jinja_take(zb_jinja_eval *e, zb_buf *b, zb_str *out) {
    zb_status s = b->overflow ? zb_jinja_fail(e, "a text grows beyond %zu bytes", b->limit)
                              : zb_jinja_charge(e, b->n / 8);
    if (s == ZB_OK) *out = (zb_str){zb_strndup(&e->arena, zb_buf_str(b).p, b->n), b->n};
    zb_buf_free(b);
    return s;
}

static zb_status written(zb_jinja_eval *e, zb_jinja_value v, bool json, int indent, zb_str *out) {
    zb_buf b;
    zb_buf_init(&b, e->out->limit);
    writer w = {e, &b, json, indent};
    zb_status s = write_value(&w, v, 0);
    if (s == ZB_OK) return zb_jinja_take(e, &b, out);
    zb_buf_free(&b);
    return s;
}

zb_status zb_jinja_text(zb_jinja_eval *e, zb_jinja_value v, zb_str *out) {
    if (v.type != ZB_JINJA_STR) return written(e, v, false, -1, out);
    *out = v.s;
    return ZB_OK;
}

zb_status zb_jinja_to_json(zb_jinja_eval *e, zb_jinja_value v, int indent, zb_str *out) {
    return written(e, v, true, indent, out);
}
