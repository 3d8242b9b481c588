/* chat_template_filter.c - filters, tests, methods and functions of templates (contract in
 * chat_template_impl.h).
 *
 * One table each; a name that is in none of them is an error that says so. Text is handled as
 * Python does: white space and case by Unicode, positions by code point. */
#include "format/chat_template_impl.h"

#include "format/unicode.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef zb_jinja_eval eval;
typedef zb_jinja_value value;
typedef zb_jinja_args args;

enum { RANGE_MAX = 100000 };

value zb_jinja_arg(const args *a, size_t at, const char *keyword) {
    for (size_t i = 0; i < a->n; i++)
        if (a->keyword[i].p ? keyword && zb_str_is(a->keyword[i], keyword) : i == at)
            return a->value[i];
    return zb_jinja_undefined(ZB_STR("(an argument)"));
}

static bool given(value v) { return v.type != ZB_JINJA_UNDEFINED; }
static bool is_text(value v) { return v.type == ZB_JINJA_STR; }

static zb_status text_arg(eval *e, const args *a, size_t at, const char *keyword, zb_str *out) {
    value v = zb_jinja_arg(a, at, keyword);
    if (!is_text(v))
        return zb_jinja_fail(e, "argument %zu: expected a string, found %s", at + 1,
                             zb_jinja_type_name(v));
    *out = v.s;
    return ZB_OK;
}

static zb_status int_arg(eval *e, const args *a, size_t at, const char *keyword, int64_t absent,
                         int64_t *out) {
    value v = zb_jinja_arg(a, at, keyword);
    *out = v.type == ZB_JINJA_INT ? v.i : v.type == ZB_JINJA_BOOL ? v.b : absent;
    if (given(v) && v.type != ZB_JINJA_INT && v.type != ZB_JINJA_BOOL && v.type != ZB_JINJA_NONE)
        return zb_jinja_fail(e, "argument %zu: expected an integer, found %s", at + 1,
                             zb_jinja_type_name(v));
    return ZB_OK;
}

/* Text. */

/* Is the code point at s one to strip: white space, or one of `chars` when given. */
static bool strippable(zb_str one, const zb_str *chars) {
    uint32_t cp = 0;
    if (!chars) return zb_utf8_decode(one.p, one.n, &cp) && zb_jinja_space(cp);
    return memmem(chars->p, chars->n, one.p, one.n) != NULL;
}

static zb_str strip(zb_str s, const zb_str *chars, bool left, bool right) {
    if (chars && !chars->n) return s;
    while (left && s.n) {
        size_t len = zb_jinja_offset(s, 1);
        if (!strippable((zb_str){s.p, len}, chars)) break;
        s.p += len, s.n -= len;
    }
    while (right && s.n) {
        size_t len = 1;
        while (len < s.n && len < 4 && ((unsigned char)s.p[s.n - len] & 0xC0) == 0x80) len++;
        if (!strippable((zb_str){s.p + s.n - len, len}, chars)) break;
        s.n -= len;
    }
    return s;
}

/* Every character that goes may be looked for among all of `chars`. */
static zb_status charged_strip(eval *e, zb_str s, const zb_str *chars, bool left, bool right,
                               value *out) {
    if (chars) ZB_TRY(zb_jinja_charge(e, s.n * chars->n / 64));
    *out = zb_jinja_str(strip(s, chars, left, right));
    return ZB_OK;
}

/* upper, lower; 'c' capitalize; 't' str.title; 'j' Jinja's title: a new word only behind blanks and
 * brackets. */
static zb_status change_case(eval *e, zb_str s, char how, value *out) {
    zb_buf b;
    zb_str text;
    bool first = true;
    zb_buf_init(&b, s.n * 4 + 16);
    for (size_t i = 0; i < s.n;) {
        uint32_t cp = 0, to;
        char utf8[4];
        size_t len = zb_utf8_decode(s.p + i, s.n - i, &cp);
        if (!len) cp = 0xFFFD, len = 1;
        bool up = how == 'u' || (how != 'l' && first);
        to = !up                        ? zb_char_lower(cp)
             : how == 'u' || how == 'j' ? zb_char_upper(cp)
                                        : zb_char_title(cp);
        if (how == 't') first = !zb_char_is_letter(cp);
        if (how == 'c') first = false;
        if (how == 'j') first = zb_jinja_space(cp) || (cp < 128 && cp && strchr("-({[<", (int)cp));
        if (up && cp == 0xDF) {
            zb_buf_adds(&b, how == 'u' || how == 'j'
                                ? "SS"
                                : "Ss"); /* the one common letter with two capitals */
        } else {
            zb_buf_add(&b, utf8, zb_utf8_encode(to, utf8));
        }
        i += len;
    }
    ZB_TRY(zb_jinja_charge(e, s.n));
    ZB_TRY(zb_jinja_take(e, &b, &text));
    *out = zb_jinja_str(text);
    return ZB_OK;
}

static zb_status replace(eval *e, zb_str s, const args *a, value *out) {
    zb_str from = {0}, to = {0}, text;
    int64_t times;
    ZB_TRY(text_arg(e, a, 0, "old", &from));
    ZB_TRY(text_arg(e, a, 1, "new", &to));
    ZB_TRY(int_arg(e, a, 2, "count", -1, &times));
    zb_buf b;
    zb_buf_init(&b, e->out->limit);
    size_t at = 0;
    while (times != 0 && at <= s.n && !b.overflow) {
        /* An empty pattern stands before every code point and at the end. */
        const char *found =
            from.n ? (s.n > at ? memmem(s.p + at, s.n - at, from.p, from.n) : NULL) : s.p + at;
        if (!found) break;
        zb_buf_add(&b, s.p + at, (size_t)(found - s.p) - at);
        zb_buf_add(&b, to.p, to.n);
        at = (size_t)(found - s.p) + from.n;
        if (!from.n) {
            size_t len = at < s.n ? zb_jinja_offset((zb_str){s.p + at, s.n - at}, 1) : 1;
            if (at < s.n) zb_buf_add(&b, s.p + at, len);
            at += len;
        }
        times--;
    }
    if (at < s.n) zb_buf_add(&b, s.p + at, s.n - at);
    ZB_TRY(zb_jinja_take(e, &b, &text));
    *out = zb_jinja_str(text);
    return zb_jinja_charge(e, s.n / 8);
}

static zb_status split_space(eval *e, zb_str s, int64_t times, value list) {
    for (;; times--) {
        s = strip(s, NULL, true, false);
        if (!s.n) return ZB_OK;
        size_t end = 0;
        while (end < s.n && times != 0) {
            size_t len = zb_jinja_offset((zb_str){s.p + end, s.n - end}, 1);
            if (strippable((zb_str){s.p + end, len}, NULL)) break;
            end += len;
        }
        if (times == 0) end = s.n;
        zb_jinja_list_add(e, list, zb_jinja_str((zb_str){s.p, end}));
        s.p += end, s.n -= end;
        ZB_TRY(zb_jinja_charge(e, 1 + end / 8));
    }
}

static zb_status split(eval *e, zb_str s, const args *a, value *out) {
    value by = zb_jinja_arg(a, 0, "sep");
    int64_t times;
    ZB_TRY(int_arg(e, a, 1, "maxsplit", -1, &times));
    *out = zb_jinja_list_new(e);
    if (!given(by) || by.type == ZB_JINJA_NONE) return split_space(e, s, times, *out);
    if (!is_text(by) || !by.s.n)
        return zb_jinja_fail(e, "split: expected a separator that is not empty");
    for (const char *found; times != 0 && s.n && (found = memmem(s.p, s.n, by.s.p, by.s.n));
         times--) {
        zb_jinja_list_add(e, *out, zb_jinja_str((zb_str){s.p, (size_t)(found - s.p)}));
        s.n -= (size_t)(found - s.p) + by.s.n;
        s.p = found + by.s.n;
        ZB_TRY(zb_jinja_charge(e, 1));
    }
    zb_jinja_list_add(e, *out, zb_jinja_str(s));
    return zb_jinja_charge(e, s.n / 8);
}

static zb_status join(eval *e, zb_str by, value v, const zb_str *attribute, value *out) {
    value list;
    zb_buf b;
    zb_str text;
    ZB_TRY(zb_jinja_iterate(e, v, &list));
    zb_buf_init(&b, e->out->limit);
    zb_status s = ZB_OK;
    for (size_t i = 0; i < list.list->n && s == ZB_OK && !b.overflow; i++) {
        value item = list.list->item[i];
        if (attribute) s = zb_jinja_attribute(e, item, *attribute, &item);
        if (s == ZB_OK) s = zb_jinja_text(e, item, &text);
        if (s != ZB_OK) break;
        if (i) zb_buf_add(&b, by.p, by.n);
        zb_buf_add(&b, text.p, text.n);
    }
    if (s != ZB_OK) zb_buf_free(&b);
    ZB_TRY(s);
    ZB_TRY(zb_jinja_take(e, &b, &text));
    *out = zb_jinja_str(text);
    return ZB_OK;
}

/* Prefix or suffix; a tuple of them: any. */
static zb_status has_edge(eval *e, zb_str s, const args *a, bool end, value *out) {
    value v = zb_jinja_arg(a, 0, "prefix");
    bool any = v.type == ZB_JINJA_LIST, holds = false;
    for (size_t i = 0; i < (any ? v.list->n : 1) && !holds; i++) {
        value one = any ? v.list->item[i] : v;
        if (!is_text(one))
            return zb_jinja_fail(e, "expected a string to compare with, found %s",
                                 zb_jinja_type_name(one));
        holds = end ? zb_str_ends(s, one.s) : zb_str_starts(s, one.s);
    }
    *out = zb_jinja_bool(holds);
    return ZB_OK;
}

static zb_status find_text(eval *e, zb_str s, const args *a, bool count, value *out) {
    zb_str part = {0};
    int64_t n = 0;
    ZB_TRY(text_arg(e, a, 0, NULL, &part));
    ZB_TRY(zb_jinja_charge(e, s.n / 8));
    const char *found = part.n && s.n ? memmem(s.p, s.n, part.p, part.n) : NULL;
    if (!count) {
        n = !part.n ? 0 : found ? (int64_t)zb_utf8_length(s.p, (size_t)(found - s.p)) : -1;
    } else {
        for (; found; n++) {
            size_t at = (size_t)(found - s.p) + part.n;
            found = at < s.n ? memmem(s.p + at, s.n - at, part.p, part.n) : NULL;
        }
        if (!part.n) n = (int64_t)zb_utf8_length(s.p, s.n) + 1;
    }
    *out = zb_jinja_int(n);
    return ZB_OK;
}

/* Sequences. */

static zb_status length(eval *e, value v, value *out) {
    size_t n = 0;
    switch (v.type) {
    case ZB_JINJA_UNDEFINED: break;
    case ZB_JINJA_STR: n = zb_utf8_length(v.s.p, v.s.n); break;
    case ZB_JINJA_LIST: n = v.list->n; break;
    case ZB_JINJA_DICT: n = v.dict->n; break;
    default: return zb_jinja_fail(e, "%s has no length", zb_jinja_type_name(v));
    }
    *out = zb_jinja_int((int64_t)n);
    return zb_jinja_charge(e, is_text(v) ? v.s.n / 8 : 0);
}

zb_status zb_jinja_pairs(eval *e, value v, value *out) {
    *out = zb_jinja_list_new(e);
    if (v.type == ZB_JINJA_UNDEFINED) return ZB_OK;
    if (v.type != ZB_JINJA_DICT) return zb_jinja_fail(e, "%s has no items", zb_jinja_type_name(v));
    for (size_t i = 0; i < v.dict->n; i++) {
        value pair = zb_jinja_list_new(e);
        pair.list->tuple = true;
        zb_jinja_list_add(e, pair, zb_jinja_str(v.dict->key[i]));
        zb_jinja_list_add(e, pair, v.dict->value[i]);
        zb_jinja_list_add(e, *out, pair);
    }
    return zb_jinja_charge(e, v.dict->n);
}

static zb_status copy_list(eval *e, value v, bool backwards, value *out) {
    value list;
    ZB_TRY(zb_jinja_iterate(e, v, &list));
    *out = zb_jinja_list_new(e);
    size_t n = list.list->n;
    for (size_t i = 0; i < n; i++)
        zb_jinja_list_add(e, *out, list.list->item[backwards ? n - 1 - i : i]);
    return zb_jinja_charge(e, n);
}

/* The filter or test named by the first positional argument from `at` on takes the rest. */
static zb_status rest_of(eval *e, const args *a, size_t at, zb_str *name, args *rest) {
    ZB_TRY(text_arg(e, a, at, NULL, name));
    *rest = (args){a->value + at + 1, a->keyword + at + 1, a->n - at - 1};
    return ZB_OK;
}

/* As zb_jinja_iterate, but nothing of whatever is false, such as none. */
static zb_status iterate_true(eval *e, value v, value *list) {
    return zb_jinja_iterate(e, zb_jinja_true(v) ? v : zb_jinja_undefined((zb_str){0}), list);
}

static zb_status map(eval *e, value v, const args *a, value *out) {
    value list = {0}, attribute = zb_jinja_arg(a, SIZE_MAX, "attribute"),
          fallback = zb_jinja_arg(a, SIZE_MAX, "default");
    zb_str name = {0};
    args rest = {0};
    ZB_TRY(iterate_true(e, v, &list));
    if (!is_text(attribute)) ZB_TRY(rest_of(e, a, 0, &name, &rest));
    *out = zb_jinja_list_new(e);
    for (size_t i = 0; i < list.list->n; i++) {
        value item = list.list->item[i], made = {0};
        ZB_TRY(zb_jinja_charge(e, 1));
        ZB_TRY(is_text(attribute) ? zb_jinja_attribute(e, item, attribute.s, &made)
                                  : zb_jinja_filter(e, name, item, &rest, &made));
        zb_jinja_list_add(e, *out, given(made) ? made : fallback);
    }
    return ZB_OK;
}

/* select, reject, selectattr, rejectattr: those whose value (or attribute) passes the test; without
 * one, is true. */
static zb_status pick(eval *e, value v, const args *a, bool attribute, bool wanted, value *out) {
    value list;
    zb_str member = {0}, test = {0};
    args rest = {0};
    size_t at = attribute ? 1 : 0;
    ZB_TRY(iterate_true(e, v, &list));
    if (attribute) ZB_TRY(text_arg(e, a, 0, NULL, &member));
    if (a->n > at) ZB_TRY(rest_of(e, a, at, &test, &rest));
    *out = zb_jinja_list_new(e);
    for (size_t i = 0; i < list.list->n; i++) {
        value item = list.list->item[i], of = item;
        ZB_TRY(zb_jinja_charge(e, 1));
        if (attribute) ZB_TRY(zb_jinja_attribute(e, item, member, &of));
        bool holds = zb_jinja_true(of);
        if (test.p) ZB_TRY(zb_jinja_test(e, test, of, &rest, &holds));
        if (holds == wanted) zb_jinja_list_add(e, *out, item);
    }
    return ZB_OK;
}

/* Filters. */

static zb_status filter_tojson(eval *e, value v, const args *a, value *out) {
    int64_t indent;
    zb_str text;
    for (size_t i = 0; i < a->n; i++)
        if (!a->keyword[i].p ||
            !(zb_str_is(a->keyword[i], "indent") || zb_str_is(a->keyword[i], "ensure_ascii")) ||
            (zb_str_is(a->keyword[i], "ensure_ascii") && zb_jinja_true(a->value[i])))
            return zb_jinja_fail(e, "filter \"tojson\": expected indent=... as its only argument");
    ZB_TRY(int_arg(e, a, SIZE_MAX, "indent", -1, &indent));
    if (indent > 16) return zb_jinja_fail(e, "filter \"tojson\": expected an indent of at most 16");
    ZB_TRY(zb_jinja_to_json(e, v, indent < 0 ? -1 : (int)indent, &text));
    *out = zb_jinja_str(text);
    return ZB_OK;
}

static zb_status filter_default(eval *e, value v, const args *a, value *out) {
    value fallback = zb_jinja_arg(a, 0, "default_value");
    bool falsy = zb_jinja_true(zb_jinja_arg(a, 1, "boolean"));
    (void)e;
    *out = v;
    if (!given(v) || (falsy && !zb_jinja_true(v)))
        *out = given(fallback) ? fallback : zb_jinja_str((zb_str){"", 0});
    return ZB_OK;
}

static zb_status filter_join(eval *e, value v, const args *a, value *out) {
    value by = zb_jinja_arg(a, 0, "d"), attribute = zb_jinja_arg(a, 1, "attribute");
    zb_str text = {"", 0};
    if (given(by)) ZB_TRY(zb_jinja_text(e, by, &text));
    return join(e, text, v, is_text(attribute) ? &attribute.s : NULL, out);
}

static zb_status filter_edge(eval *e, value v, bool last, value *out) {
    value list;
    ZB_TRY(zb_jinja_iterate(e, v, &list));
    size_t n = list.list->n;
    *out = n ? list.list->item[last ? n - 1 : 0] : zb_jinja_undefined(ZB_STR("(an element)"));
    return ZB_OK;
}

static zb_status filter_number(eval *e, value v, const args *a, bool real, value *out) {
    value fallback = zb_jinja_arg(a, 0, "default");
    double f = v.type == ZB_JINJA_FLOAT ? v.f
               : v.type == ZB_JINJA_INT ? (double)v.i
                                        : v.type == ZB_JINJA_BOOL && v.b;
    int64_t i = v.type == ZB_JINJA_INT ? v.i : v.type == ZB_JINJA_BOOL && v.b;
    bool known = v.type == ZB_JINJA_INT || v.type == ZB_JINJA_BOOL || v.type == ZB_JINJA_FLOAT;
    if (is_text(v) && v.s.n < 64) {
        zb_str s = strip(v.s, NULL, true, true);
        char text[64];
        memcpy(text, s.p, s.n);
        text[s.n] = 0;
        bool exact = zb_parse_i64(text, &i);
        known = zb_parse_f64(text, &f);
        if (exact && !real) {
            *out = zb_jinja_int(i);
            return ZB_OK;
        }
    }
    if ((v.type == ZB_JINJA_FLOAT || is_text(v)) && known && !real) {
        known = fabs(f) < 9e18;
        if (known) i = (int64_t)f;
    }
    *out = real ? (value){ZB_JINJA_FLOAT, {.f = f}} : zb_jinja_int(i);
    if (known) return ZB_OK;
    *out = given(fallback) ? fallback : real ? (value){ZB_JINJA_FLOAT, {.f = 0}} : zb_jinja_int(0);
    return zb_jinja_charge(e, 1);
}

static zb_status filter_abs(eval *e, value v, value *out) {
    *out = v;
    if (v.type == ZB_JINJA_FLOAT) out->f = fabs(v.f);
    if (v.type == ZB_JINJA_INT && v.i < 0 && v.i > INT64_MIN) out->i = -v.i;
    if (v.type != ZB_JINJA_FLOAT && v.type != ZB_JINJA_INT)
        return zb_jinja_fail(e, "filter \"abs\" does not take %s", zb_jinja_type_name(v));
    return ZB_OK;
}

typedef enum filter_kind {
    F_TRIM,
    F_UPPER,
    F_LOWER,
    F_TITLE,
    F_CAPITALIZE,
    F_REPLACE,
    F_STRING,
    F_SAFE, /* of the value as text */
    F_TOJSON,
    F_LENGTH,
    F_DEFAULT,
    F_JOIN,
    F_FIRST,
    F_LAST,
    F_LIST,
    F_REVERSE,
    F_ITEMS,
    F_INT,
    F_FLOAT,
    F_ABS,
    F_MAP,
    F_SELECT,
    F_REJECT,
    F_SELECTATTR,
    F_REJECTATTR
} filter_kind;

static const struct {
    const char *name;
    filter_kind kind;
} filters[] = {{"trim", F_TRIM},
               {"upper", F_UPPER},
               {"lower", F_LOWER},
               {"title", F_TITLE},
               {"capitalize", F_CAPITALIZE},
               {"replace", F_REPLACE},
               {"string", F_STRING},
               {"safe", F_SAFE},
               {"tojson", F_TOJSON},
               {"length", F_LENGTH},
               {"count", F_LENGTH},
               {"default", F_DEFAULT},
               {"d", F_DEFAULT},
               {"join", F_JOIN},
               {"first", F_FIRST},
               {"last", F_LAST},
               {"list", F_LIST},
               {"reverse", F_REVERSE},
               {"items", F_ITEMS},
               {"int", F_INT},
               {"float", F_FLOAT},
               {"abs", F_ABS},
               {"map", F_MAP},
               {"select", F_SELECT},
               {"reject", F_REJECT},
               {"selectattr", F_SELECTATTR},
               {"rejectattr", F_REJECTATTR}};

static zb_status text_filter(eval *e, filter_kind kind, value v, const args *a, value *out) {
    zb_str s;
    value chars = zb_jinja_arg(a, 0, "chars");
    ZB_TRY(zb_jinja_text(e, v, &s));
    ZB_TRY(zb_jinja_charge(e, s.n / 8));
    switch (kind) {
    case F_TRIM: return charged_strip(e, s, is_text(chars) ? &chars.s : NULL, true, true, out);
    case F_UPPER: return change_case(e, s, 'u', out);
    case F_LOWER: return change_case(e, s, 'l', out);
    case F_TITLE: return change_case(e, s, 'j', out);
    case F_CAPITALIZE: return change_case(e, s, 'c', out);
    case F_REPLACE: return replace(e, s, a, out);
    default: *out = zb_jinja_str(s); return ZB_OK;
    }
}

static zb_status reverse(eval *e, value v, value *out) {
    value list;
    ZB_TRY(copy_list(e, v, true, &list));
    if (is_text(v)) return join(e, (zb_str){"", 0}, list, NULL, out);
    *out = list;
    return ZB_OK;
}

zb_status zb_jinja_filter(eval *e, zb_str name, value v, const args *a, value *out) {
    size_t i = 0, n = sizeof filters / sizeof *filters;
    while (i < n && !zb_str_is(name, filters[i].name)) i++;
    if (i == n) return zb_jinja_order_filter(e, name, v, a, out);
    filter_kind kind = filters[i].kind;
    if (kind <= F_SAFE) return text_filter(e, kind, v, a, out);
    switch (kind) {
    case F_TOJSON: return filter_tojson(e, v, a, out);
    case F_LENGTH: return length(e, v, out);
    case F_DEFAULT: return filter_default(e, v, a, out);
    case F_JOIN: return filter_join(e, v, a, out);
    case F_FIRST:
    case F_LAST: return filter_edge(e, v, kind == F_LAST, out);
    case F_LIST: return copy_list(e, v, false, out);
    case F_REVERSE: return reverse(e, v, out);
    case F_ITEMS: return zb_jinja_pairs(e, v, out);
    case F_INT:
    case F_FLOAT: return filter_number(e, v, a, kind == F_FLOAT, out);
    case F_ABS: return filter_abs(e, v, out);
    case F_MAP: return map(e, v, a, out);
    case F_SELECT:
    case F_REJECT: return pick(e, v, a, false, kind == F_SELECT, out);
    default: return pick(e, v, a, true, kind == F_SELECTATTR, out);
    }
}

/* Tests. */

static zb_status test_with(eval *e, zb_str name, value v, value with, bool *out) {
    bool unequal = zb_str_is(name, "ne");
    if (zb_str_is(name, "in")) return zb_jinja_contains(e, with, v, out);
    if (zb_str_is(name, "eq") || zb_str_is(name, "equalto") || zb_str_is(name, "sameas") ||
        unequal) {
        ZB_TRY(zb_jinja_equal(e, v, with, 0, out));
        if (zb_str_is(name, "sameas") && v.type != with.type) *out = false;
        if (unequal) *out = !*out;
        return ZB_OK;
    }
    if (zb_str_is(name, "lt")) return zb_jinja_less(e, v, with, out);
    if (zb_str_is(name, "gt")) return zb_jinja_less(e, with, v, out);
    if (zb_str_is(name, "divisibleby") && v.type == ZB_JINJA_INT && with.type == ZB_JINJA_INT &&
        with.i) {
        *out = with.i == -1 || v.i % with.i == 0;
        return ZB_OK;
    }
    return zb_jinja_fail(e, "test \"%.*s\" is not supported here", name.n > 60 ? 60 : (int)name.n,
                         name.p);
}

zb_status zb_jinja_test(eval *e, zb_str name, value v, const args *a, bool *out) {
    zb_jinja_type t = v.type;
    bool integer = t == ZB_JINJA_INT, /* jinja2's undefined has a length, and nothing in it */
        sequence = t == ZB_JINJA_LIST || t == ZB_JINJA_STR || t == ZB_JINJA_DICT ||
                   t == ZB_JINJA_UNDEFINED;
    const struct {
        const char *name;
        bool holds;
    } plain[] = {{"defined", t != ZB_JINJA_UNDEFINED},
                 {"undefined", t == ZB_JINJA_UNDEFINED},
                 {"none", t == ZB_JINJA_NONE},
                 {"string", t == ZB_JINJA_STR},
                 {"mapping", t == ZB_JINJA_DICT},
                 {"sequence", sequence},
                 {"iterable", sequence},
                 {"boolean", t == ZB_JINJA_BOOL},
                 {"integer", integer},
                 {"float", t == ZB_JINJA_FLOAT},
                 {"number", integer || t == ZB_JINJA_FLOAT || t == ZB_JINJA_BOOL},
                 {"true", t == ZB_JINJA_BOOL && v.b},
                 {"false", t == ZB_JINJA_BOOL && !v.b},
                 {"callable", t == ZB_JINJA_FUNCTION || t == ZB_JINJA_MACRO},
                 {"odd", integer && v.i % 2},
                 {"even", integer && v.i % 2 == 0}};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (zb_str_is(name, plain[i].name)) {
            *out = plain[i].holds;
            return ZB_OK;
        }
    return test_with(e, name, v, zb_jinja_arg(a, 0, NULL), out);
}

/* Methods. */

static zb_status string_method(eval *e, zb_str s, zb_str name, const args *a, bool *known,
                               value *out) {
    value chars = zb_jinja_arg(a, 0, NULL);
    const zb_str *set = is_text(chars) ? &chars.s : NULL;
    bool left = zb_str_is(name, "lstrip"), right = zb_str_is(name, "rstrip");
    *known = true;
    ZB_TRY(zb_jinja_charge(e, s.n / 8));
    if (left || right || zb_str_is(name, "strip"))
        return charged_strip(e, s, set, !right, !left, out);
    if (zb_str_is(name, "split")) return split(e, s, a, out);
    if (zb_str_is(name, "startswith")) return has_edge(e, s, a, false, out);
    if (zb_str_is(name, "endswith")) return has_edge(e, s, a, true, out);
    if (zb_str_is(name, "upper")) return change_case(e, s, 'u', out);
    if (zb_str_is(name, "lower")) return change_case(e, s, 'l', out);
    if (zb_str_is(name, "title")) return change_case(e, s, 't', out);
    if (zb_str_is(name, "capitalize")) return change_case(e, s, 'c', out);
    if (zb_str_is(name, "replace")) return replace(e, s, a, out);
    if (zb_str_is(name, "find")) return find_text(e, s, a, false, out);
    if (zb_str_is(name, "count")) return find_text(e, s, a, true, out);
    if (zb_str_is(name, "join")) return join(e, s, chars, NULL, out);
    *known = false;
    return ZB_OK;
}

static zb_status dict_method(eval *e, value v, zb_str name, const args *a, bool *known,
                             value *out) {
    *known = true;
    if (zb_str_is(name, "items")) return zb_jinja_pairs(e, v, out);
    if (zb_str_is(name, "keys")) return zb_jinja_iterate(e, v, out);
    if (zb_str_is(name, "values")) {
        *out = zb_jinja_list_new(e);
        for (size_t i = 0; i < v.dict->n; i++) zb_jinja_list_add(e, *out, v.dict->value[i]);
        return zb_jinja_charge(e, v.dict->n);
    }
    *known = zb_str_is(name, "get");
    if (!*known) return ZB_OK;
    value key = zb_jinja_arg(a, 0, NULL), fallback = zb_jinja_arg(a, 1, NULL);
    ZB_TRY(zb_jinja_charge(e, v.dict->n));
    if (!is_text(key) || !zb_jinja_dict_get(v.dict, key.s, out))
        *out = a->n > 1 ? fallback : zb_jinja_none();
    return ZB_OK;
}

zb_status zb_jinja_method(eval *e, value v, zb_str name, const args *a, value *out) {
    bool known = false;
    int shown = name.n > 60 ? 60 : (int)name.n;
    if (v.type == ZB_JINJA_UNDEFINED)
        return zb_jinja_fail(e, "\"%.*s\" is undefined", v.s.n > 60 ? 60 : (int)v.s.n, v.s.p);
    if (v.type == ZB_JINJA_STR) ZB_TRY(string_method(e, v.s, name, a, &known, out));
    if (v.type == ZB_JINJA_DICT) ZB_TRY(dict_method(e, v, name, a, &known, out));
    return known ? ZB_OK
                 : zb_jinja_fail(e, "%s has no method \"%.*s\" that is supported",
                                 zb_jinja_type_name(v), shown, name.p);
}

zb_status zb_jinja_member(eval *e, value v, zb_str name, value *out) {
    if (v.type == ZB_JINJA_UNDEFINED)
        return zb_jinja_fail(e, "\"%.*s\" is undefined", v.s.n > 60 ? 60 : (int)v.s.n, v.s.p);
    *out = zb_jinja_undefined(name);
    if (v.type == ZB_JINJA_DICT || v.type == ZB_JINJA_NAMESPACE) {
        zb_jinja_dict_get(v.dict, name, out);
        return zb_jinja_charge(e, v.dict->n / 8);
    }
    if (v.type != ZB_JINJA_LOOP) return ZB_OK;
    size_t i = v.loop->index0, n = v.loop->n;
    if (zb_str_is(name, "index")) *out = zb_jinja_int((int64_t)i + 1);
    if (zb_str_is(name, "index0")) *out = zb_jinja_int((int64_t)i);
    if (zb_str_is(name, "revindex")) *out = zb_jinja_int((int64_t)(n - i));
    if (zb_str_is(name, "revindex0")) *out = zb_jinja_int((int64_t)(n - i - 1));
    if (zb_str_is(name, "length")) *out = zb_jinja_int((int64_t)n);
    if (zb_str_is(name, "first")) *out = zb_jinja_bool(i == 0);
    if (zb_str_is(name, "last")) *out = zb_jinja_bool(i + 1 == n);
    if (zb_str_is(name, "previtem") && i > 0) *out = v.loop->items->item[i - 1];
    if (zb_str_is(name, "nextitem") && i + 1 < n) *out = v.loop->items->item[i + 1];
    return ZB_OK;
}

zb_status zb_jinja_attribute(eval *e, value v, zb_str path, value *out) {
    *out = v;
    for (bool more = true; more;) {
        const char *dot = path.n ? memchr(path.p, '.', path.n) : NULL;
        zb_str part = {path.p, dot ? (size_t)(dot - path.p) : path.n};
        bool number = part.n > 0 && part.n < 10;
        int64_t at = 0;
        for (size_t i = 0; i < part.n && number; i++) {
            number = part.p[i] >= '0' && part.p[i] <= '9';
            at = at * 10 + part.p[i] - '0';
        }
        ZB_TRY(zb_jinja_index(e, *out, number ? zb_jinja_int(at) : zb_jinja_str(part), out));
        more = dot != NULL;
        if (more) path = (zb_str){dot + 1, path.n - part.n - 1};
    }
    return ZB_OK;
}

/* Functions. */

static const char default_date[] = "26 Jul 2024";

/* "26 Jul 2024". */
static bool parse_date(zb_str s, struct tm *tm) {
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    char text[32], month[4];
    int day, year, used = 0;
    if (s.n >= sizeof text) return false;
    memcpy(text, s.p, s.n);
    text[s.n] = 0;
    if (sscanf(text, "%2d %3s %4d%n", &day, month, &year, &used) != 3 || (size_t)used != s.n)
        return false;
    const char *found = strlen(month) == 3 ? strstr(months, month) : NULL;
    if (!found || (found - months) % 3 || day < 1 || day > 31 || year < 1000) return false;
    *tm = (struct tm){.tm_mday = day, .tm_mon = (int)(found - months) / 3, .tm_year = year - 1900};
    timegm(tm); /* fills in the day of the week and of the year */
    return true;
}

/* The same answer every day, so that a prompt can be reproduced: the date is the variable
 * date_string or a fixed one. */
static zb_status strftime_now(eval *e, const args *a, value *out) {
    zb_str format = {0}, text;
    value date;
    struct tm tm;
    char name[128], result[256];
    ZB_TRY(text_arg(e, a, 0, "format", &format));
    bool own = zb_jinja_dict_get(e->given, ZB_STR("date_string"), &date) && is_text(date);
    text = own ? date.s : zb_str_from(default_date);
    if (format.n == 0 || format.n >= sizeof name)
        return zb_jinja_fail(e, "strftime_now: expected a format of 1 to %zu bytes",
                             sizeof name - 1);
    if (!parse_date(text, &tm)) { /* a date in another form is taken as it is */
        *out = zb_jinja_str(text);
        return ZB_OK;
    }
    memcpy(name, format.p, format.n);
    name[format.n] = 0;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    size_t n = strftime(result, sizeof result, name, &tm);
#pragma GCC diagnostic pop
    if (n == 0)
        return zb_jinja_fail(e, "strftime_now: the format gives no text of at most %zu bytes",
                             sizeof result - 1);
    *out = zb_jinja_str((zb_str){zb_strndup(&e->arena, result, n), n});
    return ZB_OK;
}

static zb_status range(eval *e, const args *a, value *out) {
    int64_t from, to, step;
    ZB_TRY(int_arg(e, a, 0, NULL, 0, &from));
    ZB_TRY(int_arg(e, a, 1, NULL, from, &to));
    ZB_TRY(int_arg(e, a, 2, NULL, 1, &step));
    if (a->n < 2) to = from, from = 0;
    if (a->n == 0 || step == 0)
        return zb_jinja_fail(e, "range: expected one to three integers, the step not 0");
    *out = zb_jinja_list_new(e);
    for (int64_t i = from; step > 0 ? i < to : i > to;) {
        if (out->list->n == RANGE_MAX)
            return zb_jinja_fail(e, "range: more than %d numbers", (int)RANGE_MAX);
        zb_jinja_list_add(e, *out, zb_jinja_int(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return zb_jinja_charge(e, out->list->n);
}

/* namespace(a=1) and dict(a=1). */
static zb_status keywords(eval *e, const args *a, zb_jinja_type type, value *out) {
    *out = zb_jinja_dict_new(e);
    out->type = type;
    for (size_t i = 0; i < a->n; i++) {
        if (!a->keyword[i].p) return zb_jinja_fail(e, "expected arguments of the form name=value");
        zb_jinja_dict_set(e, out->dict, a->keyword[i], a->value[i]);
    }
    return ZB_OK;
}

static const char *const functions[] = {"raise_exception", "strftime_now", "range", "namespace",
                                        "dict"};

bool zb_jinja_is_function(zb_str name) {
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (zb_str_is(name, functions[i])) return true;
    return false;
}

zb_status zb_jinja_function(eval *e, zb_str name, const args *a, value *out) {
    if (zb_str_is(name, "strftime_now")) return strftime_now(e, a, out);
    if (zb_str_is(name, "range")) return range(e, a, out);
    if (zb_str_is(name, "namespace")) return keywords(e, a, ZB_JINJA_NAMESPACE, out);
    if (zb_str_is(name, "dict")) return keywords(e, a, ZB_JINJA_DICT, out);
    zb_str why = ZB_STR("(no reason given)");
    char line[300];
    if (a->n) ZB_TRY(zb_jinja_text(e, a->value[0], &why));
    size_t n = why.n < sizeof line ? why.n : zb_utf8_complete(why.p, sizeof line - 1);
    for (size_t i = 0; i < n; i++)
        line[i] = (unsigned char)why.p[i] < ' ' ? ' ' : why.p[i]; /* messages are one line */
    /* The template itself refuses these messages: the caller's mistake, not the file's. */
    return zb_fail(e->err, ZB_ERR_USAGE, "chat template:%d: %.*s", e->line, (int)n, line);
}
