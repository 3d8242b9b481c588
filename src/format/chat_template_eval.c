/* chat_template_eval.c - rendering (contract in chat_template.h).
 *
 * Walks the tree. Names are looked up from the innermost scope outward (a loop's body is a scope of
 * its own for every round, a macro's for every call, as in Jinja), then among the variables given,
 * then among the functions; what is nowhere is undefined: it prints as nothing, is false and has no
 * members to loop over, but reading a member of it is an error. A hostile template is stopped by a
 * budget of steps, of memory and of output, and by a limit on depth. */
#include "format/chat_template_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { EVAL_DEPTH = 1500 };
static const uint64_t STEPS_MAX = 20000000;
static const size_t MEMORY_MAX = (size_t)256 << 20, OUTPUT_MAX = (size_t)32 << 20;

typedef zb_jinja_eval eval;
typedef zb_jinja_node node;
typedef zb_jinja_value value;

#undef zb_jinja_fail /* for the analyzer a macro */
zb_status zb_jinja_fail(eval *e, const char *fmt, ...) {
    char text[384];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return zb_fail(e->err, ZB_ERR_FORMAT, "chat template:%d: %s", e->line, text);
}
#ifdef __clang_analyzer__
#define zb_jinja_fail zb_jinja_fail_seen
#endif

zb_status zb_jinja_charge(eval *e, size_t n) {
    e->steps += n;
    if (e->steps > STEPS_MAX)
        return zb_jinja_fail(e, "the template takes too long (it may not end)");
    if (e->arena.bytes > MEMORY_MAX)
        return zb_jinja_fail(e, "the template takes more than %zu MiB", MEMORY_MAX >> 20);
    return ZB_OK;
}

static zb_status run(eval *e, const node *n, value *out);

/* Variables. */

static value *find_variable(const zb_jinja_scope *s, zb_str name) {
    for (size_t i = s->n; i > 0; i--)
        if (zb_str_eq(s->variable[i - 1].name, name)) return &s->variable[i - 1].value;
    return NULL;
}

/* Makes a new scope the innermost; returns the one that was, to be set again. */
static zb_jinja_scope *open_scope(eval *e, zb_jinja_scope *outer) {
    zb_jinja_scope *before = e->scope;
    e->scope = ZB_NEW(&e->arena, zb_jinja_scope);
    e->scope->outer = outer;
    return before;
}

/* In the innermost scope. */
static zb_status set_variable(eval *e, zb_str name, value v) {
    zb_jinja_scope *s = e->scope;
    ZB_TRY(zb_jinja_charge(e, s->n / 8));
    value *known = find_variable(s, name);
    if (known) {
        *known = v;
        return ZB_OK;
    }
    s->variable = zb_grow(&e->arena, s->variable, &s->cap, s->n + 1, sizeof *s->variable);
    s->variable[s->n++] = (zb_jinja_variable){name, v};
    return ZB_OK;
}

static zb_status get_name(eval *e, zb_str name, value *out) {
    const value *known = NULL;
    size_t seen = e->given->n;
    for (const zb_jinja_scope *s = e->scope; s && !known; s = s->outer) {
        known = find_variable(s, name);
        seen += s->n;
    }
    ZB_TRY(zb_jinja_charge(e, seen / 8));
    if (known) {
        *out = *known;
        return ZB_OK;
    }
    if (zb_jinja_dict_get(e->given, name, out)) return ZB_OK;
    *out = zb_jinja_undefined(name);
    if (zb_jinja_is_function(name)) *out = (value){ZB_JINJA_FUNCTION, {.s = name}};
    return ZB_OK;
}

/* Targets of "for" and "set": one takes the value, several take its members. */
static zb_status assign(eval *e, const node *n, value v) {
    if (n->n == 1) return set_variable(e, n->label[0], v);
    value list = {0};
    ZB_TRY(zb_jinja_iterate(e, v, &list));
    if (list.list->n != n->n)
        return zb_jinja_fail(e, "expected %zu values to unpack, found %zu", n->n, list.list->n);
    for (size_t i = 0; i < n->n; i++) ZB_TRY(set_variable(e, n->label[i], list.list->item[i]));
    return ZB_OK;
}

/* Operators. */

static zb_status concat(eval *e, zb_str a, zb_str b, value *out) {
    if (a.n > OUTPUT_MAX || b.n > OUTPUT_MAX - a.n)
        return zb_jinja_fail(e, "a text grows beyond %zu bytes", OUTPUT_MAX);
    ZB_TRY(zb_jinja_charge(e, (a.n + b.n) / 8));
    char *both = zb_alloc(&e->arena, a.n + b.n + 1);
    if (a.n) memcpy(both, a.p, a.n);
    if (b.n) memcpy(both + a.n, b.p, b.n);
    *out = zb_jinja_str((zb_str){both, a.n + b.n});
    return ZB_OK;
}

static zb_status repeat(eval *e, zb_str s, int64_t times, value *out) {
    if (times < 0) times = 0;
    if (s.n && (uint64_t)times > OUTPUT_MAX / s.n)
        return zb_jinja_fail(e, "a text grows beyond %zu bytes", OUTPUT_MAX);
    ZB_TRY(zb_jinja_charge(e, s.n * (size_t)times / 8));
    char *all = zb_alloc(&e->arena, s.n * (size_t)times + 1);
    for (int64_t i = 0; i < times && s.n; i++) memcpy(all + (size_t)i * s.n, s.p, s.n);
    *out = zb_jinja_str((zb_str){all, s.n * (size_t)times});
    return ZB_OK;
}

static zb_status join_lists(eval *e, value a, value b, value *out) {
    *out = zb_jinja_list_new(e);
    out->list->tuple = a.list->tuple;
    ZB_TRY(zb_jinja_charge(e, a.list->n + b.list->n));
    for (size_t i = 0; i < a.list->n; i++) zb_jinja_list_add(e, *out, a.list->item[i]);
    for (size_t i = 0; i < b.list->n; i++) zb_jinja_list_add(e, *out, b.list->item[i]);
    return ZB_OK;
}

static bool to_int(value v, int64_t *i) {
    *i = v.type == ZB_JINJA_BOOL ? v.b : v.type == ZB_JINJA_INT ? v.i : 0;
    return v.type == ZB_JINJA_BOOL || v.type == ZB_JINJA_INT;
}

static bool to_real(value v, double *f) {
    int64_t i;
    bool integer = to_int(v, &i);
    *f = integer ? (double)i : v.type == ZB_JINJA_FLOAT ? v.f : 0;
    return integer || v.type == ZB_JINJA_FLOAT;
}

/* Python rounds integer division down, and the remainder has the divisor's sign. */
static zb_status int_operator(eval *e, char op, bool twice, int64_t a, int64_t b, value *out) {
    int64_t r = 0;
    bool over = false;
    if ((op == '/' || op == '%') && b == 0) return zb_jinja_fail(e, "division by zero");
    if (op == '/' && !twice) {
        *out = (value){ZB_JINJA_FLOAT, {.f = (double)a / (double)b}};
        return ZB_OK;
    }
    if (op == '+') over = __builtin_add_overflow(a, b, &r);
    if (op == '-') over = __builtin_sub_overflow(a, b, &r);
    if (op == '*') over = __builtin_mul_overflow(a, b, &r);
    if (op == '/' || op == '%') {
        over = a == INT64_MIN && b == -1;
        if (!over) {
            int64_t quotient = a / b, rest = a % b;
            if (rest && (rest < 0) != (b < 0)) quotient--, rest += b;
            r = op == '/' ? quotient : rest;
        }
    }
    *out = zb_jinja_int(r);
    return over ? zb_jinja_fail(e, "an integer grows beyond 64 bits") : ZB_OK;
}

static zb_status real_operator(eval *e, char op, bool twice, double a, double b, value *out) {
    if ((op == '/' || op == '%') && b == 0) return zb_jinja_fail(e, "division by zero");
    double r = op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b;
    if (op == '/' && twice) r = floor(r);
    if (op == '%') {
        r = fmod(a, b);
        if (r != 0 && (r < 0) != (b < 0)) r += b;
    }
    *out = (value){ZB_JINJA_FLOAT, {.f = r}};
    return ZB_OK;
}

zb_status zb_jinja_binary(eval *e, zb_str name, value a, value b, value *out) {
    char op = name.p[0];
    int64_t ai, bi;
    double af, bf;
    if (op == '~') {
        zb_str as, bs;
        ZB_TRY(zb_jinja_text(e, a, &as));
        ZB_TRY(zb_jinja_text(e, b, &bs));
        return concat(e, as, bs, out);
    }
    if (to_int(a, &ai) && to_int(b, &bi)) return int_operator(e, op, name.n == 2, ai, bi, out);
    if (to_real(a, &af) && to_real(b, &bf)) return real_operator(e, op, name.n == 2, af, bf, out);
    if (op == '+' && a.type == ZB_JINJA_STR && b.type == ZB_JINJA_STR)
        return concat(e, a.s, b.s, out);
    if (op == '+' && a.type == ZB_JINJA_LIST && b.type == ZB_JINJA_LIST &&
        a.list->tuple == b.list->tuple)
        return join_lists(e, a, b, out);
    if (op == '*' && a.type == ZB_JINJA_STR && to_int(b, &bi)) return repeat(e, a.s, bi, out);
    if (op == '*' && b.type == ZB_JINJA_STR && to_int(a, &ai)) return repeat(e, b.s, ai, out);
    if (a.type == ZB_JINJA_UNDEFINED || b.type == ZB_JINJA_UNDEFINED) {
        zb_str missing = a.type == ZB_JINJA_UNDEFINED ? a.s : b.s;
        return zb_jinja_fail(e, "\"%.*s\" is undefined", missing.n > 60 ? 60 : (int)missing.n,
                             missing.p);
    }
    return zb_jinja_fail(e, "\"%.*s\" does not take %s and %s", (int)name.n, name.p,
                         zb_jinja_type_name(a), zb_jinja_type_name(b));
}

static zb_status compare_once(eval *e, zb_str op, value a, value b, bool *out) {
    bool negated = zb_str_is(op, "!=") || zb_str_is(op, "not in");
    if (zb_str_is(op, "==") || zb_str_is(op, "!=")) {
        ZB_TRY(zb_jinja_equal(e, a, b, 0, out));
    } else if (zb_str_ends(op, ZB_STR("in"))) {
        ZB_TRY(zb_jinja_contains(e, b, a, out));
    } else if (op.n == 1) {
        ZB_TRY(op.p[0] == '<' ? zb_jinja_less(e, a, b, out) : zb_jinja_less(e, b, a, out));
    } else {
        bool equal;
        ZB_TRY(op.p[0] == '<' ? zb_jinja_less(e, a, b, out) : zb_jinja_less(e, b, a, out));
        ZB_TRY(zb_jinja_equal(e, a, b, 0, &equal));
        *out = *out || equal;
    }
    if (negated) *out = !*out;
    return ZB_OK;
}

static zb_status compare(eval *e, const node *n, value *out) {
    value left = {0}, right = {0};
    bool holds = true;
    ZB_TRY(run(e, n->a, &left));
    for (size_t i = 0; i < n->n && holds; i++, left = right) {
        ZB_TRY(run(e, n->item[i], &right));
        ZB_TRY(compare_once(e, n->label[i], left, right, &holds));
    }
    *out = zb_jinja_bool(holds);
    return ZB_OK;
}

/* Subscripts. */

static size_t length_of(value v) {
    return v.type == ZB_JINJA_LIST ? v.list->n : zb_utf8_length(v.s.p, v.s.n);
}

static value element(value v, size_t i) {
    if (v.type == ZB_JINJA_LIST) return v.list->item[i];
    size_t at = zb_jinja_offset(v.s, i);
    return zb_jinja_str((zb_str){v.s.p + at, zb_jinja_offset((zb_str){v.s.p + at, v.s.n - at}, 1)});
}

zb_status zb_jinja_index(eval *e, value v, value at, value *out) {
    int64_t i;
    if (at.type == ZB_JINJA_STR) return zb_jinja_member(e, v, at.s, out);
    bool sequence = v.type == ZB_JINJA_LIST || v.type == ZB_JINJA_STR;
    if (v.type == ZB_JINJA_UNDEFINED)
        return zb_jinja_fail(e, "\"%.*s\" is undefined", v.s.n > 60 ? 60 : (int)v.s.n, v.s.p);
    *out = zb_jinja_undefined(ZB_STR("(an element)"));
    if (!sequence || !to_int(at, &i)) return ZB_OK;
    if (v.type == ZB_JINJA_STR) ZB_TRY(zb_jinja_charge(e, v.s.n / 8));
    int64_t n = (int64_t)length_of(v);
    if (i < 0) i += n;
    if (i >= 0 && i < n) *out = element(v, (size_t)i);
    return ZB_OK;
}

static zb_status slice_bound(eval *e, const node *n, int64_t absent, int64_t *out) {
    *out = absent;
    if (!n) return ZB_OK;
    value v = {0};
    ZB_TRY(run(e, n, &v));
    if (v.type == ZB_JINJA_NONE || to_int(v, out)) {
        if (v.type == ZB_JINJA_NONE) *out = absent;
        return ZB_OK;
    }
    return zb_jinja_fail(e, "a slice takes integers, not %s", zb_jinja_type_name(v));
}

/* Python's slice.indices: bounds clipped to the sequence, negative ones counted from its end. */
static int64_t clip(int64_t i, int64_t n, int64_t low, int64_t high) {
    if (i < 0) i = i < -n ? low : i + n;
    return i < low ? low : i > high ? high : i;
}

static zb_status get_slice(eval *e, const node *n, value *out) {
    value v = {0};
    int64_t step, from, to;
    ZB_TRY(run(e, n->a, &v));
    if (v.type != ZB_JINJA_LIST && v.type != ZB_JINJA_STR)
        return zb_jinja_fail(e, "%s cannot be sliced", zb_jinja_type_name(v));
    int64_t count = (int64_t)length_of(v);
    ZB_TRY(slice_bound(e, n->d, 1, &step));
    if (step == 0 || step == INT64_MIN) return zb_jinja_fail(e, "a slice cannot take this step");
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? count - 1 : count;
    ZB_TRY(slice_bound(e, n->b, step < 0 ? INT64_MAX : 0, &from));
    ZB_TRY(slice_bound(e, n->c, step < 0 ? INT64_MIN : INT64_MAX, &to));
    from = clip(from, count, low, high);
    to = clip(to, count, low, high);
    ZB_TRY(zb_jinja_charge(e, (size_t)count));
    if (v.type == ZB_JINJA_STR && step == 1) {
        size_t start = zb_jinja_offset(v.s, (size_t)from),
               end = to > from ? zb_jinja_offset(v.s, (size_t)to) : start;
        *out = zb_jinja_str((zb_str){v.s.p + start, end - start});
        return ZB_OK;
    }
    value list, result = zb_jinja_list_new(e);
    ZB_TRY(zb_jinja_iterate(e, v, &list));
    result.list->tuple = list.list->tuple;
    for (int64_t i = from; step > 0 ? i < to : i > to;) {
        zb_jinja_list_add(e, result, list.list->item[i]);
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    *out = result;
    if (v.type == ZB_JINJA_LIST) return ZB_OK;
    zb_buf text;
    zb_str joined;
    zb_buf_init(&text, OUTPUT_MAX);
    for (size_t i = 0; i < result.list->n; i++)
        zb_buf_add(&text, result.list->item[i].s.p, result.list->item[i].s.n);
    ZB_TRY(zb_jinja_take(e, &text, &joined));
    *out = zb_jinja_str(joined);
    return ZB_OK;
}

/* Calls. */

/* The members of the argument at `star` take its place. */
static zb_status spread(eval *e, zb_jinja_args *args, size_t star) {
    value list;
    ZB_TRY(zb_jinja_iterate(e, args->value[star], &list));
    size_t more = list.list->n, n = args->n - 1 + more, behind = args->n - star - 1;
    ZB_TRY(zb_jinja_charge(e, n));
    zb_jinja_args all = {ZB_NEW_ARRAY(&e->arena, value, n + 1),
                         ZB_NEW_ARRAY(&e->arena, zb_str, n + 1), n};
    for (size_t i = 0; i < star; i++) all.value[i] = args->value[i];
    for (size_t i = 0; i < more; i++) all.value[star + i] = list.list->item[i];
    for (size_t i = 0; i < behind; i++) {
        all.value[star + more + i] = args->value[star + 1 + i];
        all.keyword[star + more + i] = args->keyword[star + 1 + i];
    }
    *args = all;
    return ZB_OK;
}

static zb_status run_arguments(eval *e, const node *n, zb_jinja_args *args) {
    *args = (zb_jinja_args){ZB_NEW_ARRAY(&e->arena, value, n->n + 1), n->label, n->n};
    size_t star = n->n;
    for (size_t i = 0; i < n->n; i++) {
        ZB_TRY(run(e, n->item[i], &args->value[i]));
        if (zb_str_is(n->label[i], "*")) star = i;
    }
    return star < n->n ? spread(e, args, star) : ZB_OK;
}

static zb_status execute(eval *e, const node *n);

/* What statements write, as a text. */
static zb_status capture(eval *e, const node *n, value *out) {
    zb_buf inner, *outer = e->out;
    zb_str text;
    zb_buf_init(&inner, OUTPUT_MAX);
    e->out = &inner;
    zb_status s = execute(e, n);
    e->out = outer;
    if (s != ZB_OK) zb_buf_free(&inner);
    ZB_TRY(s);
    ZB_TRY(zb_jinja_take(e, &inner, &text));
    *out = zb_jinja_str(text);
    return ZB_OK;
}

/* The arguments of a call, then the defaults of the rest, as variables of the innermost scope. */
static zb_status set_parameters(eval *e, const node *macro, const zb_jinja_args *args) {
    size_t used = 0;
    for (size_t i = 0; i < macro->n; i++) {
        zb_str name = macro->label[i];
        value v = zb_jinja_undefined(name);
        bool given = false;
        for (size_t k = 0; k < args->n && !given; k++) {
            given = args->keyword[k].p ? zb_str_eq(args->keyword[k], name) : k == i;
            if (given) v = args->value[k];
        }
        used += given;
        if (!given && macro->item[i]) ZB_TRY(run(e, macro->item[i], &v));
        ZB_TRY(set_variable(e, name, v));
    }
    if (used == args->n) return ZB_OK;
    return zb_jinja_fail(e, "macro \"%.*s\" has no parameter for one of these arguments",
                         macro->name.n > 60 ? 60 : (int)macro->name.n, macro->name.p);
}

static zb_status call_macro(eval *e, const zb_jinja_macro *macro, const zb_jinja_args *args,
                            value *out) {
    zb_jinja_scope *before = open_scope(e, macro->home);
    ZB_TRY(set_parameters(e, macro->node, args));
    ZB_TRY(capture(e, macro->node->b, out));
    e->scope = before;
    return ZB_OK;
}

static zb_status call(eval *e, const node *n, value *out) {
    zb_jinja_args args;
    value of = {0};
    if (n->a->kind == ZB_NODE_ATTRIBUTE) {
        ZB_TRY(run(e, n->a->a, &of));
        ZB_TRY(run_arguments(e, n, &args));
        e->line = n->line;
        return zb_jinja_method(e, of, n->a->name, &args, out);
    }
    ZB_TRY(run(e, n->a, &of));
    ZB_TRY(run_arguments(e, n, &args));
    e->line = n->line;
    if (of.type == ZB_JINJA_UNDEFINED)
        return zb_jinja_fail(e, "function \"%.*s\" is not known", of.s.n > 60 ? 60 : (int)of.s.n,
                             of.s.p);
    if (of.type == ZB_JINJA_MACRO) return call_macro(e, of.macro, &args, out);
    if (of.type != ZB_JINJA_FUNCTION)
        return zb_jinja_fail(e, "%s cannot be called", zb_jinja_type_name(of));
    return zb_jinja_function(e, of.s, &args, out);
}

static zb_status run_list(eval *e, const node *n, value *out) {
    *out = zb_jinja_list_new(e);
    out->list->tuple = n->name.p != NULL;
    for (size_t i = 0; i < n->n; i++) {
        value item = {0};
        ZB_TRY(run(e, n->item[i], &item));
        zb_jinja_list_add(e, *out, item);
    }
    return ZB_OK;
}

static zb_status run_dict(eval *e, const node *n, value *out) {
    *out = zb_jinja_dict_new(e);
    for (size_t i = 0; i < n->n; i += 2) {
        value key = {0}, item = {0};
        ZB_TRY(run(e, n->item[i], &key));
        ZB_TRY(run(e, n->item[i + 1], &item));
        if (key.type != ZB_JINJA_STR)
            return zb_jinja_fail(e, "a key must be a string, not %s", zb_jinja_type_name(key));
        ZB_TRY(zb_jinja_charge(e, i / 2));
        zb_jinja_dict_set(e, out->dict, key.s, item);
    }
    return ZB_OK;
}

static zb_status run_negate(eval *e, const node *n, value *out) {
    value v = {0};
    int64_t i;
    ZB_TRY(run(e, n->a, &v));
    if (v.type == ZB_JINJA_FLOAT) {
        *out = (value){ZB_JINJA_FLOAT, {.f = -v.f}};
        return ZB_OK;
    }
    if (!to_int(v, &i))
        return zb_jinja_fail(e, "a minus sign does not take %s", zb_jinja_type_name(v));
    return int_operator(e, '-', false, 0, i, out);
}

static zb_status run_applied(eval *e, const node *n, value *out) {
    zb_jinja_args args;
    value v = {0};
    bool holds;
    ZB_TRY(run(e, n->a, &v));
    ZB_TRY(run_arguments(e, n, &args));
    e->line = n->line;
    if (n->kind == ZB_NODE_FILTER) return zb_jinja_filter(e, n->name, v, &args, out);
    ZB_TRY(zb_jinja_test(e, n->name, v, &args, &holds));
    *out = zb_jinja_bool(holds);
    return ZB_OK;
}

static zb_status run_pair(eval *e, const node *n, value *out) {
    value a = {0}, b = {0};
    ZB_TRY(run(e, n->a, &a));
    if (n->kind == ZB_NODE_AND || n->kind == ZB_NODE_OR) {
        *out = a;
        return zb_jinja_true(a) == (n->kind == ZB_NODE_OR) ? ZB_OK : run(e, n->b, out);
    }
    ZB_TRY(run(e, n->b, &b));
    e->line = n->line;
    return n->kind == ZB_NODE_INDEX ? zb_jinja_index(e, a, b, out)
                                    : zb_jinja_binary(e, n->name, a, b, out);
}

static zb_status run_choice(eval *e, const node *n, value *out) {
    value condition = {0};
    ZB_TRY(run(e, n->a, &condition));
    if (n->kind == ZB_NODE_NOT) {
        *out = zb_jinja_bool(!zb_jinja_true(condition));
        return ZB_OK;
    }
    if (zb_jinja_true(condition)) return run(e, n->b, out);
    *out = zb_jinja_undefined(ZB_STR("(an if without else)"));
    return n->c ? run(e, n->c, out) : ZB_OK;
}

static zb_status run_expression(eval *e, const node *n, value *out) {
    switch (n->kind) {
    case ZB_NODE_CONST: *out = n->constant; return ZB_OK;
    case ZB_NODE_NAME: return get_name(e, n->name, out);
    case ZB_NODE_ATTRIBUTE: {
        value of = {0};
        ZB_TRY(run(e, n->a, &of));
        e->line = n->line;
        return zb_jinja_member(e, of, n->name, out);
    }
    case ZB_NODE_SLICE: return get_slice(e, n, out);
    case ZB_NODE_CALL: return call(e, n, out);
    case ZB_NODE_FILTER:
    case ZB_NODE_TEST: return run_applied(e, n, out);
    case ZB_NODE_NEGATE: return run_negate(e, n, out);
    case ZB_NODE_NOT:
    case ZB_NODE_CONDITIONAL: return run_choice(e, n, out);
    case ZB_NODE_INDEX:
    case ZB_NODE_AND:
    case ZB_NODE_OR:
    case ZB_NODE_BINARY: return run_pair(e, n, out);
    case ZB_NODE_COMPARE: return compare(e, n, out);
    case ZB_NODE_LIST: return run_list(e, n, out);
    case ZB_NODE_DICT: return run_dict(e, n, out);
    default: return zb_fail(e->err, ZB_ERR_INTERNAL, "chat template: not an expression");
    }
}

/* Blocks, expressions and calls of macros alike: all of them use the stack. */
static zb_status enter(eval *e) {
    return ++e->depth > EVAL_DEPTH ? zb_jinja_fail(e, "the template is nested too deeply") : ZB_OK;
}

static zb_status run(eval *e, const node *n, value *out) {
    e->line = n->line;
    ZB_TRY(zb_jinja_charge(e, 1));
    ZB_TRY(enter(e));
    zb_status s = run_expression(e, n, out);
    e->depth--;
    return s;
}

/* Statements. */

/* The members of a loop that pass its filter; the filter sees the target, not the loop. */
static zb_status filter_items(eval *e, const node *n, value *list) {
    if (!n->d) return ZB_OK;
    value kept = zb_jinja_list_new(e), condition = {0};
    zb_jinja_scope *outer = open_scope(e, e->scope);
    for (size_t i = 0; i < list->list->n; i++) {
        ZB_TRY(assign(e, n, list->list->item[i]));
        ZB_TRY(run(e, n->d, &condition));
        if (zb_jinja_true(condition)) zb_jinja_list_add(e, kept, list->list->item[i]);
        e->scope->n = 0;
    }
    e->scope = outer;
    *list = kept;
    return ZB_OK;
}

static zb_status execute_for(eval *e, const node *n) {
    value of = {0}, list = {0};
    ZB_TRY(run(e, n->a, &of));
    ZB_TRY(zb_jinja_iterate(e, of, &list));
    ZB_TRY(filter_items(e, n, &list));
    if (list.list->n == 0) return n->c ? execute(e, n->c) : ZB_OK;
    zb_jinja_scope *outer = open_scope(e, e->scope);
    for (size_t i = 0; i < list.list->n && e->flow != ZB_FLOW_BREAK; i++) {
        zb_jinja_loop *loop = ZB_NEW(&e->arena, zb_jinja_loop);
        *loop = (zb_jinja_loop){i, list.list->n, list.list};
        ZB_TRY(zb_jinja_charge(e, 1));
        ZB_TRY(set_variable(e, ZB_STR("loop"), (value){ZB_JINJA_LOOP, {.loop = loop}}));
        ZB_TRY(assign(e, n, list.list->item[i]));
        ZB_TRY(execute(e, n->b));
        if (e->flow == ZB_FLOW_CONTINUE) e->flow = ZB_FLOW_ON;
        e->scope->n = 0;
    }
    e->flow = ZB_FLOW_ON;
    e->scope = outer;
    return ZB_OK;
}

static zb_status execute_set(eval *e, const node *n) {
    value v = {0};
    if (n->kind == ZB_NODE_SET_BLOCK) {
        zb_jinja_scope *before = open_scope(e, e->scope);
        ZB_TRY(capture(e, n->b, &v));
        e->scope = before;
        return assign(e, n, v);
    }
    ZB_TRY(run(e, n->a, &v));
    if (!n->name.p) return assign(e, n, v);
    value space = {0};
    ZB_TRY(get_name(e, n->label[0], &space));
    if (space.type != ZB_JINJA_NAMESPACE)
        return zb_jinja_fail(e, "only members of a namespace can be set, not of %s",
                             zb_jinja_type_name(space));
    ZB_TRY(zb_jinja_charge(e, space.dict->n));
    zb_jinja_dict_set(e, space.dict, n->name, v);
    return ZB_OK;
}

static zb_status execute_output(eval *e, const node *n) {
    value v = {0};
    zb_str text;
    ZB_TRY(run(e, n->a, &v));
    ZB_TRY(zb_jinja_text(e, v, &text));
    zb_buf_add(e->out, text.p, text.n);
    return e->out->overflow ? zb_jinja_fail(e, "the output grows beyond %zu bytes", e->out->limit)
                            : zb_jinja_charge(e, text.n / 8);
}

static zb_status execute_if(eval *e, const node *n) {
    for (; n && n->kind == ZB_NODE_IF; n = n->c) {
        value condition = {0};
        ZB_TRY(run(e, n->a, &condition));
        if (zb_jinja_true(condition)) return execute(e, n->b);
    }
    return n ? execute(e, n) : ZB_OK;
}

static zb_status execute_macro(eval *e, const node *n) {
    zb_jinja_macro *macro = ZB_NEW(&e->arena, zb_jinja_macro);
    *macro = (zb_jinja_macro){n, e->scope};
    return set_variable(e, n->name, (value){ZB_JINJA_MACRO, {.macro = macro}});
}

static zb_status execute_statement(eval *e, const node *n) {
    switch (n->kind) {
    case ZB_NODE_BLOCK:
        for (size_t i = 0; i < n->n && e->flow == ZB_FLOW_ON; i++) ZB_TRY(execute(e, n->item[i]));
        return ZB_OK;
    case ZB_NODE_TEXT:
        zb_buf_add(e->out, n->name.p, n->name.n);
        ZB_TRY(zb_jinja_charge(e, n->name.n / 8));
        return e->out->overflow
                   ? zb_jinja_fail(e, "the output grows beyond %zu bytes", e->out->limit)
                   : ZB_OK;
    case ZB_NODE_OUTPUT: return execute_output(e, n);
    case ZB_NODE_IF: return execute_if(e, n);
    case ZB_NODE_FOR: return execute_for(e, n);
    case ZB_NODE_SET:
    case ZB_NODE_SET_BLOCK: return execute_set(e, n);
    case ZB_NODE_MACRO: return execute_macro(e, n);
    case ZB_NODE_BREAK: e->flow = ZB_FLOW_BREAK; return ZB_OK;
    case ZB_NODE_CONTINUE: e->flow = ZB_FLOW_CONTINUE; return ZB_OK;
    default: return zb_fail(e->err, ZB_ERR_INTERNAL, "chat template: not a statement");
    }
}

static zb_status execute(eval *e, const node *n) {
    e->line = n->line;
    ZB_TRY(zb_jinja_charge(e, 1));
    ZB_TRY(enter(e));
    zb_status s = execute_statement(e, n);
    e->depth--;
    return s;
}

zb_status zb_chat_template_parse(zb_chat_template **out, zb_str text, zb_arena *a, zb_err *err) {
    *out = NULL;
    for (size_t i = 0, len; i < text.n; i += len) {
        uint32_t cp;
        len = zb_utf8_decode(text.p + i, text.n - i, &cp);
        if (!len || !cp)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "chat template: expected UTF-8 without NUL (byte %zu)", i);
    }
    zb_chat_template *t = ZB_NEW(a, zb_chat_template);
    ZB_TRY(zb_jinja_parse(text, a, &t->root, err));
    *out = t;
    return ZB_OK;
}

zb_status zb_chat_template_render(const zb_chat_template *t, const json_t *variables, zb_buf *out,
                                  zb_err *err) {
    if (!json_is_object(variables))
        return zb_fail(err, ZB_ERR_USAGE, "chat template: expected an object of variables");
    zb_buf text; /* apart, so that a failure leaves nothing in `out` */
    zb_buf_init(&text, OUTPUT_MAX);
    eval e = {.out = &text, .err = err};
    value given = {0};
    zb_status s = zb_jinja_from_json(&e, variables, 0, &given);
    e.given = given.dict;
    open_scope(&e, NULL);
    if (s == ZB_OK) s = execute(&e, t->root);
    if (s == ZB_OK) {
        zb_buf_add(out, zb_buf_str(&text).p, text.n);
        if (out->overflow)
            s = zb_fail(err, ZB_ERR_USAGE, "chat template: the result of %zu bytes does not fit",
                        text.n);
    }
    zb_buf_free(&text);
    zb_arena_free(&e.arena);
    return s;
}
