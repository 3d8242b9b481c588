/* opts.c - the option table at work (contract in opts.h). */
#include "base/opts.h"

#include "base/json.h"
#include "base/text.h"

#include <string.h>

static void *field(const zb_opt_group *g, const zb_opt *o) { return (char *)g->dst + o->offset; }

/* '-' and '_' are the same letter in option names. */
static bool same_name(const char *a, const char *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((a[i] == '-' ? '_' : a[i]) != (b[i] == '-' ? '_' : b[i])) return false;
    return b[n] == 0;
}

static const zb_opt *find(const zb_opt_group *g, const char *name, size_t n,
                          const zb_opt_group **in) {
    for (; g->table; g++)
        for (const zb_opt *o = g->table; o->type; o++)
            if (same_name(name, o->name, n)) {
                *in = g;
                return o;
            }
    return NULL;
}

static zb_status unknown(const zb_opt_group *g, const char *name, const char *where, zb_err *err) {
    const char *near = NULL;
    int best = 4;
    for (; g->table; g++)
        for (const zb_opt *o = g->table; o->type; o++) {
            int d = zb_edit_distance(name, o->name);
            if (d < best) {
                best = d;
                near = o->name;
            }
        }
    if (near)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: unknown option \"%s\" (did you mean \"%s\"?)",
                       where, name, near);
    return zb_fail(err, ZB_ERR_CONFIG, "%s: unknown option \"%s\"", where, name);
}

static bool in_choices(const char *choices, const char *v) {
    size_t n = strlen(v);
    for (const char *p = choices; *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && !memcmp(p, v, n)) return true;
        p += len + (p[len] == '|');
    }
    return false;
}

static bool in_range(const zb_opt *o, double v) {
    return (o->min == 0 && o->max == 0) || (v >= o->min && v <= o->max);
}

static zb_status bad(const zb_opt *o, const char *where, const char *value, zb_err *err) {
    char expected[160];
    if (o->type == ZB_OPT_BOOL)
        snprintf(expected, sizeof expected, "true or false");
    else if (o->type == ZB_OPT_CHOICE)
        snprintf(expected, sizeof expected, "one of %s", o->choices);
    else if (o->min != 0 || o->max != 0)
        snprintf(expected, sizeof expected, "%s from %g to %g",
                 o->type == ZB_OPT_INT ? "an integer" : "a number", o->min, o->max);
    else
        snprintf(expected, sizeof expected, "%s",
                 o->type == ZB_OPT_INT ? "an integer" : "a number");
    return zb_fail(err, ZB_ERR_CONFIG, "%s: %s: expected %s, found \"%s\"", where, o->name,
                   expected, value);
}

static zb_status set_value(const zb_opt_group *g, const zb_opt *o, const char *v, const char *where,
                           zb_arena *a, zb_err *err) {
    ZB_ASSERT(v);
    void *dst = field(g, o);
    int64_t i;
    double d;
    switch (o->type) {
    case ZB_OPT_BOOL:
        if (!strcmp(v, "true") || !strcmp(v, "yes") || !strcmp(v, "on") || !strcmp(v, "1"))
            *(bool *)dst = true;
        else if (!strcmp(v, "false") || !strcmp(v, "no") || !strcmp(v, "off") || !strcmp(v, "0"))
            *(bool *)dst = false;
        else
            return bad(o, where, v, err);
        return ZB_OK;
    case ZB_OPT_INT:
        if (!zb_parse_i64(v, &i)) { /* 2e5 is a fine count of tokens */
            if (!zb_parse_f64(v, &d) || d < -9e15 || d > 9e15 || d != (double)(int64_t)d)
                return bad(o, where, v, err);
            i = (int64_t)d;
        }
        if (!in_range(o, (double)i)) return bad(o, where, v, err);
        *(int64_t *)dst = i;
        return ZB_OK;
    case ZB_OPT_F64:
        if (!zb_parse_f64(v, &d) || !in_range(o, d)) return bad(o, where, v, err);
        *(double *)dst = d;
        return ZB_OK;
    case ZB_OPT_CHOICE:
        if (!in_choices(o->choices, v)) return bad(o, where, v, err);
        *(const char **)dst = zb_strdup(a, v);
        return ZB_OK;
    case ZB_OPT_STR: *(const char **)dst = zb_strdup(a, v); return ZB_OK;
    case ZB_OPT_END: break;
    }
    return zb_fail(err, ZB_ERR_INTERNAL, "%s: option without a type", o->name);
}

void zb_opts_defaults(const zb_opt_group *g) {
    for (; g->table; g++)
        for (const zb_opt *o = g->table; o->type; o++) {
            void *dst = field(g, o);
            if (o->type == ZB_OPT_STR || o->type == ZB_OPT_CHOICE) {
                *(const char **)dst = o->def;
            } else if (o->def) {
                zb_status s = set_value(g, o, o->def, "default", NULL, NULL);
                ZB_ASSERT(s == ZB_OK);
            } else if (o->type == ZB_OPT_BOOL) {
                *(bool *)dst = false;
            } else {
                memset(dst, 0, 8);
            }
        }
}

zb_status zb_opts_set(const zb_opt_group *g, const char *name, const char *value, const char *where,
                      zb_arena *a, zb_err *err) {
    const zb_opt_group *in;
    const zb_opt *o = find(g, name, strlen(name), &in);
    return o ? set_value(in, o, value, where, a, err) : unknown(g, name, where, err);
}

/* A long option: --name=value, --name value, --flag, --no-flag. */
static zb_status long_option(const zb_opt_group *g, int argc, char **argv, int *i, zb_arena *a,
                             zb_err *err) {
    const char *arg = argv[*i] + 2;
    size_t n = strcspn(arg, "=");
    const char *value = arg[n] ? arg + n + 1 : NULL;
    const zb_opt_group *in;
    const zb_opt *o = find(g, arg, n, &in);
    if (!o && !value && !strncmp(arg, "no-", 3)) {
        const zb_opt *turned_off = find(g, arg + 3, n - 3, &in);
        if (turned_off && turned_off->type == ZB_OPT_BOOL)
            return set_value(in, turned_off, "false", arg, a, err);
    }
    if (!o) return unknown(g, zb_strndup(a, arg, n), "command line", err);
    if (!value) {
        if (o->type == ZB_OPT_BOOL)
            value = "true";
        else if (++*i < argc)
            value = argv[*i];
        else
            return zb_fail(err, ZB_ERR_USAGE, "--%s: expected a value", o->name);
    }
    return set_value(in, o, value, "command line", a, err);
}

static zb_status short_option(const zb_opt_group *g, int argc, char **argv, int *i, zb_arena *a,
                              zb_err *err) {
    const char *arg = argv[*i];
    for (const zb_opt_group *in = g; in->table; in++)
        for (const zb_opt *o = in->table; o->type; o++) {
            if (!o->letter || o->letter != arg[1]) continue;
            const char *value = arg[2] ? arg + 2 : NULL;
            if (!value && o->type == ZB_OPT_BOOL) value = "true";
            if (!value && ++*i >= argc)
                return zb_fail(err, ZB_ERR_USAGE, "-%c: expected a value", o->letter);
            return set_value(in, o, value ? value : argv[*i], "command line", a, err);
        }
    return unknown(g, arg, "command line", err);
}

zb_status zb_opts_argv(const zb_opt_group *g, int argc, char **argv, const char **pos, int pos_max,
                       int *n_pos, zb_arena *a, zb_err *err) {
    bool options = true;
    *n_pos = 0;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (options && !strcmp(arg, "--")) {
            options = false;
        } else if (options && arg[0] == '-' && arg[1] == '-') {
            ZB_TRY(long_option(g, argc, argv, &i, a, err));
        } else if (options && arg[0] == '-' && arg[1]) {
            ZB_TRY(short_option(g, argc, argv, &i, a, err));
        } else if (*n_pos < pos_max) {
            pos[(*n_pos)++] = arg;
        } else {
            return zb_fail(err, ZB_ERR_USAGE, "unexpected argument \"%s\"", arg);
        }
    }
    return ZB_OK;
}

static bool is_null(const zb_yaml *n) {
    static const char *const forms[] = {"~", "null", "Null", "NULL"};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (!n->quoted && !strcmp(n->text, forms[i])) return true;
    return false;
}

/* A scalar, or a list of scalars joined by commas. */
static zb_status yaml_value(const zb_yaml *n, const char *where, zb_arena *a, const char **out,
                            zb_err *err) {
    if (n->kind == ZB_YAML_SCALAR) {
        if (is_null(n))
            return zb_fail(err, ZB_ERR_CONFIG,
                           "%s: %s: expected a value, found %s (without the key its default holds)",
                           where, n->key, n->text);
        *out = n->text;
        return ZB_OK;
    }
    bool flat = n->kind == ZB_YAML_LIST;
    size_t bytes = 1;
    for (const zb_yaml *c = n->child; c && flat; c = c->next) {
        flat = c->kind == ZB_YAML_SCALAR;
        if (flat) bytes += strlen(c->text) + 1;
    }
    if (flat) {
        char *joined = zb_alloc(a, bytes), *end = joined;
        for (const zb_yaml *c = n->child; c; c = c->next) {
            if (c != n->child) *end++ = ',';
            end = stpcpy(end, c->text);
        }
        *out = joined;
        return ZB_OK;
    }
    return zb_fail(err, ZB_ERR_CONFIG, "%s: %s: expected a value or a list of values, found %s",
                   where, n->key, zb_yaml_kind_name(n));
}

zb_status zb_opts_node(const zb_opt_group *g, const zb_yaml *node, const char *file, zb_arena *a,
                       zb_err *err) {
    const char *value = NULL, *where = zb_asprintf(a, "%s:%d", file, node->line);
    ZB_TRY(yaml_value(node, where, a, &value, err));
    return zb_opts_set(g, node->key, value, where, a, err);
}

zb_status zb_opts_yaml(const zb_opt_group *g, const zb_yaml *map, const char *file, zb_arena *a,
                       zb_err *err) {
    if (map->kind == ZB_YAML_SCALAR && (!map->text[0] || is_null(map)))
        return ZB_OK; /* "stage:" with nothing under it */
    if (map->kind != ZB_YAML_MAP)
        return zb_fail(err, ZB_ERR_CONFIG, "%s:%d: expected keys and values, found %s", file,
                       map->line, zb_yaml_kind_name(map));
    for (const zb_yaml *c = map->child; c; c = c->next) ZB_TRY(zb_opts_node(g, c, file, a, err));
    return ZB_OK;
}

/* Whether an earlier group, which wins, has the name; the letter likewise (letter 0: none). */
static bool taken(const zb_opt_group *first, const zb_opt_group *g, const char *name, char letter) {
    for (; first != g; first++)
        for (const zb_opt *o = first->table; o->type; o++)
            if ((name && !strcmp(o->name, name)) || (letter && o->letter == letter)) return true;
    return false;
}

static void help_row(const zb_opt *o, char letter, FILE *out) {
    static const char *const values[] = {"", "", " N", " X", " TEXT", ""};
    char left[128], name[64], flag[8] = "    ";
    snprintf(name, sizeof name, "%s", o->name);
    for (char *p = name; *p; p++)
        if (*p == '_') *p = '-';
    if (letter) snprintf(flag, sizeof flag, "-%c, ", letter);
    snprintf(left, sizeof left, "  %s--%s%s%s", flag, name,
             o->type == ZB_OPT_CHOICE ? " " : values[o->type],
             o->type == ZB_OPT_CHOICE ? o->choices : "");
    fprintf(out, "%-34s %s", left, o->help);
    if (o->def && *o->def) fprintf(out, " [%s]", o->def);
    fputc('\n', out);
}

void zb_opts_help(const zb_opt_group *g, FILE *out) {
    for (const zb_opt_group *first = g; g->table; g++) {
        fprintf(out, "\n%s:\n", g->title);
        for (const zb_opt *o = g->table; o->type; o++)
            if (!taken(first, g, o->name, 0))
                help_row(o, taken(first, g, NULL, o->letter) ? 0 : o->letter, out);
    }
}

static json_t *value_json(const zb_opt *o, const void *p) {
    const char *s;
    switch (o->type) {
    case ZB_OPT_BOOL: return json_boolean(*(const bool *)p);
    case ZB_OPT_INT: return json_integer(*(const int64_t *)p);
    case ZB_OPT_F64: return json_real(*(const double *)p);
    case ZB_OPT_STR:
    case ZB_OPT_CHOICE: s = *(const char *const *)p; return s ? json_string(s) : json_null();
    case ZB_OPT_END: break;
    }
    return NULL;
}

json_t *zb_opts_json(const zb_opt_group *g) {
    json_t *out = json_object();
    for (; g->table; g++)
        for (const zb_opt *o = g->table; o->type; o++)
            json_object_set_new(out, o->name, value_json(o, field(g, o)));
    return out;
}

json_t *zb_opts_default_json(const zb_opt_group *g) {
    json_t *out = json_object();
    for (; g->table; g++)
        for (const zb_opt *o = g->table; o->type; o++) {
            union {
                int64_t i;
                double d;
                const char *s;
            } value = {0};
            zb_opt alone[] = {*o, {0}};
            alone[0].offset = 0;
            zb_opts_defaults((const zb_opt_group[]){{"", alone, &value}, {0}});
            json_object_set_new(out, o->name, value_json(o, &value));
        }
    return out;
}

static const char *shown(const json_t *v, zb_arena *a) {
    const char *text = !v                ? "not given"
                       : json_is_real(v) ? zb_asprintf(a, "%.10g", json_real_value(v))
                                         : zb_json_text(v, a);
    return text ? text : "?";
}

const char *zb_opts_change(const json_t *old, const json_t *now, const json_t *defaults,
                           zb_arena *a) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)now, key, v) {
        const json_t *was = json_object_get(old, key);
        if (!was) was = json_object_get(defaults, key);
        if (!json_equal(was, v))
            return zb_asprintf(a, "%s was %s, is %s", key, shown(was, a), shown(v, a));
    }
    json_object_foreach((json_t *)(uintptr_t)old, key, v) {
        if (json_object_get(now, key)) continue;
        return zb_asprintf(a, "%s was %s, is not given", key, shown(v, a));
    }
    return NULL;
}

zb_status zb_list_ints(const char *list, const char *what, int lo, int hi, int *out, int max,
                       int *n, zb_err *err) {
    *n = 0;
    zb_arena a = {0};
    int count;
    char **items = zb_list_split(list, &a, &count);
    zb_status s = ZB_OK;
    for (int i = 0; i < count && s == ZB_OK; i++) {
        int64_t v;
        if (!zb_parse_i64(items[i], &v) || v < lo || v > hi)
            s = zb_fail(err, ZB_ERR_CONFIG, "%s: expected integers from %d to %d, found \"%s\"",
                        what, lo, hi, items[i]);
        else if (*n == max)
            s = zb_fail(err, ZB_ERR_CONFIG, "%s: expected at most %d values", what, max);
        else
            out[(*n)++] = (int)v;
    }
    zb_arena_free(&a);
    return s;
}

char **zb_list_split(const char *list, zb_arena *a, int *n) {
    size_t cap = 0;
    char **items = NULL;
    *n = 0;
    for (const char *p = list ? list : ""; *p;) {
        size_t len = strcspn(p, ",");
        zb_str item = zb_str_trim((zb_str){p, len});
        if (item.n) {
            items = zb_grow(a, items, &cap, (size_t)*n + 1, sizeof *items);
            items[(*n)++] = zb_strndup(a, item.p, item.n);
        }
        p += len + (p[len] == ',');
    }
    return items;
}
