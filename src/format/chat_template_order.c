/* chat_template_order.c - filters of templates that compare members with each other: sort,
 * dictsort, unique, min, max; and sum (contract in chat_template_impl.h).
 *
 * As in Jinja a text is compared without regard to case unless the filter is told otherwise, and
 * what is equal keeps its order. */
#include "format/chat_template_impl.h"

#include <string.h>

typedef zb_jinja_eval eval;
typedef zb_jinja_value value;
typedef zb_jinja_args args;

typedef struct keyed {
    value item, key; /* key: what is compared */
} keyed;

static zb_status add_keys(eval *e, value list, const value *attribute, bool case_sensitive,
                          keyed **out) {
    static const args none = {0};
    size_t n = list.list->n;
    keyed *all = *out = ZB_NEW_ARRAY(&e->arena, keyed, n + 1);
    for (size_t i = 0; i < n; i++) {
        value key = list.list->item[i];
        if (attribute) ZB_TRY(zb_jinja_attribute(e, key, attribute->s, &key));
        if (!case_sensitive && key.type == ZB_JINJA_STR)
            ZB_TRY(zb_jinja_filter(e, ZB_STR("lower"), key, &none, &key));
        all[i] = (keyed){list.list->item[i], key};
    }
    return zb_jinja_charge(e, n);
}

/* Members of v with their keys; the filter's arguments case_sensitive and attribute stand at `at`
 * and behind it. */
static zb_status read_keyed(eval *e, value v, const args *a, size_t at, keyed **out, size_t *n) {
    value list, attribute = zb_jinja_arg(a, at + 1, "attribute");
    bool named = attribute.type == ZB_JINJA_STR;
    if ((!named && attribute.type != ZB_JINJA_UNDEFINED && attribute.type != ZB_JINJA_NONE) ||
        (named && memchr(attribute.s.p, ',', attribute.s.n)))
        return zb_jinja_fail(e, "expected the name of one attribute to compare");
    ZB_TRY(zb_jinja_iterate(e, v, &list));
    *n = list.list->n;
    bool case_sensitive = zb_jinja_true(zb_jinja_arg(a, at, "case_sensitive"));
    return add_keys(e, list, named ? &attribute : NULL, case_sensitive, out);
}

/* Merge sort; `spare` has room for n. */
static zb_status sort_keyed(eval *e, keyed *all, keyed *spare, size_t n, bool reverse) {
    size_t half = n / 2, left = 0, right = half;
    if (n < 2) return ZB_OK;
    ZB_TRY(sort_keyed(e, all, spare, half, reverse));
    ZB_TRY(sort_keyed(e, all + half, spare, n - half, reverse));
    ZB_TRY(zb_jinja_charge(e, n));
    for (size_t i = 0; i < n; i++) {
        bool swap = left == half;
        if (!swap && right < n) {
            value a = all[reverse ? left : right].key, b = all[reverse ? right : left].key;
            ZB_TRY(zb_jinja_less(e, a, b, &swap));
        }
        spare[i] = all[swap ? right++ : left++];
    }
    memcpy(all, spare, n * sizeof *all);
    return ZB_OK;
}

static zb_status sorted(eval *e, keyed *all, size_t n, value reverse, value *out) {
    keyed *spare = ZB_NEW_ARRAY(&e->arena, keyed, n + 1);
    ZB_TRY(sort_keyed(e, all, spare, n, zb_jinja_true(reverse)));
    *out = zb_jinja_list_new(e);
    for (size_t i = 0; i < n; i++) zb_jinja_list_add(e, *out, all[i].item);
    return ZB_OK;
}

static zb_status filter_sort(eval *e, value v, const args *a, value *out) {
    keyed *all = NULL;
    size_t n = 0;
    ZB_TRY(read_keyed(e, v, a, 1, &all, &n));
    return sorted(e, all, n, zb_jinja_arg(a, 0, "reverse"), out);
}

static zb_status filter_dictsort(eval *e, value v, const args *a, value *out) {
    value list = {0}, by = zb_jinja_arg(a, 1, "by"), at = zb_jinja_str(ZB_STR("0"));
    keyed *all = NULL;
    if (by.type == ZB_JINJA_STR && zb_str_is(by.s, "value")) {
        at.s = ZB_STR("1");
    } else if (by.type != ZB_JINJA_UNDEFINED &&
               !(by.type == ZB_JINJA_STR && zb_str_is(by.s, "key"))) {
        return zb_jinja_fail(e, "filter \"dictsort\": expected by=\"key\" or by=\"value\"");
    }
    if (v.type != ZB_JINJA_DICT)
        return zb_jinja_fail(e, "%s has no items to sort", zb_jinja_type_name(v));
    ZB_TRY(zb_jinja_pairs(e, v, &list));
    ZB_TRY(add_keys(e, list, &at, zb_jinja_true(zb_jinja_arg(a, 0, "case_sensitive")), &all));
    return sorted(e, all, list.list->n, zb_jinja_arg(a, 2, "reverse"), out);
}

static zb_status filter_unique(eval *e, value v, const args *a, value *out) {
    keyed *all = NULL;
    size_t n = 0, kept = 0;
    ZB_TRY(read_keyed(e, v, a, 0, &all, &n));
    *out = zb_jinja_list_new(e);
    for (size_t i = 0; i < n; i++) {
        value key = all[i].key;
        bool known = false;
        if (key.type == ZB_JINJA_DICT || (key.type == ZB_JINJA_LIST && !key.list->tuple))
            return zb_jinja_fail(e, "filter \"unique\" does not take %s", zb_jinja_type_name(key));
        for (size_t k = 0; k < kept && !known; k++)
            ZB_TRY(zb_jinja_equal(e, all[k].key, key, 0, &known));
        if (known) continue;
        zb_jinja_list_add(e, *out, all[i].item);
        all[kept++] = all[i];
    }
    return ZB_OK;
}

static zb_status filter_extreme(eval *e, value v, const args *a, bool max, value *out) {
    keyed *all = NULL;
    size_t n = 0, best = 0;
    ZB_TRY(read_keyed(e, v, a, 0, &all, &n));
    for (size_t i = 1; i < n; i++) {
        bool better;
        ZB_TRY(zb_jinja_less(e, all[max ? best : i].key, all[max ? i : best].key, &better));
        if (better) best = i;
    }
    *out = n ? all[best].item : zb_jinja_undefined(ZB_STR("(an element)"));
    return ZB_OK;
}

static zb_status filter_sum(eval *e, value v, const args *a, value *out) {
    value list, attribute = zb_jinja_arg(a, 0, "attribute"), start = zb_jinja_arg(a, 1, "start");
    ZB_TRY(zb_jinja_iterate(e, v, &list));
    *out = start.type == ZB_JINJA_UNDEFINED ? zb_jinja_int(0) : start;
    if (out->type == ZB_JINJA_STR)
        return zb_jinja_fail(e, "filter \"sum\" does not add texts; \"join\" does");
    for (size_t i = 0; i < list.list->n; i++) {
        value item = list.list->item[i];
        if (attribute.type == ZB_JINJA_STR) ZB_TRY(zb_jinja_attribute(e, item, attribute.s, &item));
        ZB_TRY(zb_jinja_binary(e, ZB_STR("+"), *out, item, out));
    }
    return zb_jinja_charge(e, list.list->n);
}

zb_status zb_jinja_order_filter(eval *e, zb_str name, value v, const args *a, value *out) {
    if (zb_str_is(name, "sort")) return filter_sort(e, v, a, out);
    if (zb_str_is(name, "dictsort")) return filter_dictsort(e, v, a, out);
    if (zb_str_is(name, "unique")) return filter_unique(e, v, a, out);
    if (zb_str_is(name, "min")) return filter_extreme(e, v, a, false, out);
    if (zb_str_is(name, "max")) return filter_extreme(e, v, a, true, out);
    if (zb_str_is(name, "sum")) return filter_sum(e, v, a, out);
    return zb_jinja_fail(e, "filter \"%.*s\" is not supported", name.n > 60 ? 60 : (int)name.n,
                         name.p);
}
