/* template.c - compiling and filling templates (contract and grammar in template.h). */
#include "eval/template.h"

#include "base/json.h"

#include <string.h>

enum { RENDER_MAX = 1 << 22, PATH_PART_MAX = 64 };

/* Parses "path|rule:arg|rule" (the text between braces). */
static zb_status compile_place(zb_str text, const char *where, zb_arena *a,
                               zb_template_piece *piece, zb_err *err) {
    const char *bar = memchr(text.p, '|', text.n);
    size_t n = bar ? (size_t)(bar - text.p) : text.n;
    piece->path = zb_strndup(a, text.p, n);
    if (n == 0)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected a field name between { and }", where);
    while (n < text.n) {
        const char *p = text.p + n + 1;
        size_t left = text.n - n - 1;
        bar = memchr(p, '|', left);
        zb_str part = {p, bar ? (size_t)(bar - p) : left};
        n += 1 + part.n;
        const char *colon = memchr(part.p, ':', part.n);
        zb_str name = {part.p, colon ? (size_t)(colon - part.p) : part.n};
        const zb_text_rule *rule = zb_text_rule_find(name);
        if (!rule)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: unknown text rule \"%.*s\": expected one of %s",
                           where, (int)name.n, name.p, zb_text_rule_names());
        size_t arg_n = colon ? part.n - name.n - 1 : 0;
        if (rule->takes_arg != (arg_n > 0))
            return zb_fail(err, ZB_ERR_CONFIG, "%s: text rule \"%s\" takes %s", where, rule->name,
                           rule->takes_arg ? "an argument (name:argument)" : "no argument");
        if (piece->n_rules == ZB_TEMPLATE_RULES)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: expected at most %d text rules for one field",
                           where, ZB_TEMPLATE_RULES);
        piece->rule[piece->n_rules] = rule;
        piece->arg[piece->n_rules++] = zb_strndup(a, arg_n ? colon + 1 : "", arg_n);
    }
    return ZB_OK;
}

/* The literal text up to the next place, with doubled braces made single; *at moves behind it. */
static zb_status compile_literal(const char *s, size_t *at, const char *where, zb_arena *a,
                                 const char **out, zb_err *err) {
    char *text = zb_strdup(a, s + *at);
    size_t n = 0;
    while (s[*at]) {
        char c = s[*at];
        if ((c == '{' || c == '}') && s[*at + 1] == c)
            ++*at;
        else if (c == '{')
            break;
        else if (c == '}')
            return zb_fail(err, ZB_ERR_CONFIG, "%s: } without { (write }} for a brace)", where);
        text[n++] = c;
        ++*at;
    }
    text[n] = 0;
    *out = text;
    return ZB_OK;
}

zb_status zb_template_compile(const char *source, const char *where, zb_arena *a, zb_template *out,
                              zb_err *err) {
    *out = (zb_template){.source = zb_strdup(a, source)};
    out->piece = ZB_NEW_ARRAY(a, zb_template_piece, ZB_TEMPLATE_PIECES);
    for (size_t at = 0; source[at];) {
        if (out->n == ZB_TEMPLATE_PIECES)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: expected at most %d pieces in a template",
                           where, ZB_TEMPLATE_PIECES);
        zb_template_piece *piece = &out->piece[out->n++];
        if (source[at] == '{' && source[at + 1] != '{') {
            const char *start = source + at + 1, *end = strchr(start, '}');
            if (!end)
                return zb_fail(err, ZB_ERR_CONFIG, "%s: { without } (write {{ for a brace)", where);
            ZB_TRY(compile_place((zb_str){start, (size_t)(end - start)}, where, a, piece, err));
            at = (size_t)(end - source) + 1;
        } else {
            ZB_TRY(compile_literal(source, &at, where, a, &piece->literal, err));
        }
    }
    return ZB_OK;
}

zb_status zb_template_lookup(const json_t *row, const char *path, const char *where,
                             const json_t **out, zb_err *err) {
    const json_t *v = row;
    for (const char *p = path; *p;) {
        size_t n = strcspn(p, ".");
        char part[PATH_PART_MAX];
        if (n >= sizeof part)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: field name too long in \"%.80s\"", where, path);
        memcpy(part, p, n);
        part[n] = 0;
        int64_t index;
        if (json_is_object(v))
            v = json_object_get(v, part);
        else if (json_is_array(v) && zb_parse_i64(part, &index) && index >= 0)
            v = json_array_get(v, (size_t)index);
        else
            v = NULL;
        if (!v) {
            int shown = (int)(p + n - path);
            return zb_fail(err, ZB_ERR_FORMAT, "%s: field \"%.*s\" is missing", where, shown, path);
        }
        p += n + (p[n] == '.');
    }
    *out = v;
    return ZB_OK;
}

/* Real numbers have no one text, so they are refused like lists and objects. */
static zb_status value_text(const json_t *v, const char *path, const char *where, zb_arena *a,
                            zb_str *out, zb_err *err) {
    if (json_is_string(v))
        *out = (zb_str){json_string_value(v), json_string_length(v)};
    else if (json_is_integer(v))
        *out = zb_str_from(zb_asprintf(a, "%lld", (long long)json_integer_value(v)));
    else if (json_is_boolean(v))
        *out = zb_str_from(json_is_true(v) ? "true" : "false");
    else
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: field \"%s\": expected text, an integer or a boolean, found %s", where,
                       path, zb_json_type(v));
    return ZB_OK;
}

/* The text of a literal, or of a field after its rules. */
static zb_status piece_text(const zb_template_piece *piece, const json_t *row, const char *where,
                            zb_arena *a, zb_str *out, zb_err *err) {
    if (piece->literal) {
        *out = zb_str_from(piece->literal);
        return ZB_OK;
    }
    const json_t *v = NULL;
    ZB_TRY(zb_template_lookup(row, piece->path, where, &v, err));
    ZB_TRY(value_text(v, piece->path, where, a, out, err));
    for (int i = 0; i < piece->n_rules; i++)
        if (!piece->rule[i]->apply(*out, zb_str_from(piece->arg[i]), a, out))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: field \"%s\": expected text with \"%s\", found none", where,
                           piece->path, piece->arg[i]);
    return ZB_OK;
}

zb_status zb_template_render(const zb_template *t, const json_t *row, const char *where,
                             zb_arena *a, zb_str *out, zb_err *err) {
    zb_str text[ZB_TEMPLATE_PIECES] = {0};
    size_t n = 0;
    for (int i = 0; i < t->n; i++) {
        ZB_TRY(piece_text(&t->piece[i], row, where, a, &text[i], err));
        n += text[i].n;
        if (n > RENDER_MAX)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: expected at most %d bytes of text", where,
                           RENDER_MAX);
    }
    char *p = zb_alloc(a, n + 1);
    *out = (zb_str){p, n};
    for (int i = 0; i < t->n; i++) {
        if (text[i].n) memcpy(p, text[i].p, text[i].n);
        p += text[i].n;
    }
    return ZB_OK;
}
