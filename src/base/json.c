/* json.c - reading, writing and typed access (contract in json.h). */
#include "base/json.h"

#include "base/file.h"

#include <math.h>

const char *zb_json_type(const json_t *v) {
    if (!v) return "nothing";
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "an unknown type";
}

zb_status zb_json_parse(const char *text, size_t n, const char *where, json_t **out, zb_err *err) {
    json_error_t je;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!*out)
        return zb_fail(err, ZB_ERR_FORMAT, "%s:%d:%d: invalid JSON: %s", where, je.line, je.column,
                       je.text);
    return ZB_OK;
}

zb_status zb_json_read(const char *path, size_t limit, json_t **out, zb_err *err) {
    *out = NULL;
    zb_arena a = {0};
    zb_str text;
    zb_status s = zb_file_read(path, limit, &a, &text, err);
    if (s == ZB_OK) s = zb_json_parse(text.p, text.n, path, out, err);
    zb_arena_free(&a);
    return s;
}

/* A line is the whole text, so of the parser's place only the column is news. */
static zb_status parse_line(zb_str line, const char *where, json_t **out, zb_err *err) {
    json_error_t je;
    *out = json_loadb(line.p, line.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (*out) return ZB_OK;
    return zb_fail(err, ZB_ERR_FORMAT, "%s: column %d: invalid JSON: %s", where, je.column,
                   je.text);
}

zb_status zb_json_lines(const char *path, size_t line_limit, zb_json_take take, void *user,
                        zb_err *err) {
    zb_lines *l;
    ZB_TRY(zb_lines_open(&l, path, line_limit, err));
    zb_status s;
    zb_str line;
    bool more, enough = false;
    while (!enough && (s = zb_lines_next(l, &line, &more, err)) == ZB_OK && more) {
        char where[512];
        json_t *value = NULL;
        if (zb_str_trim(line).n == 0) continue;
        snprintf(where, sizeof where, "%.480s:%lld", path, (long long)zb_lines_number(l));
        s = parse_line(line, where, &value, err);
        if (s == ZB_OK) s = take(user, value, where, &enough, err);
        json_decref(value);
        if (s != ZB_OK) break;
    }
    zb_lines_close(l);
    return s;
}

static zb_status write_text(const char *path, const json_t *value, int digits, zb_err *err) {
    char *text =
        json_dumps(value, JSON_INDENT(1) | JSON_ENCODE_ANY | JSON_REAL_PRECISION((size_t)digits));
    if (!text) return zb_fail(err, ZB_ERR_INTERNAL, "%s: value cannot be written as JSON", path);
    zb_buf b;
    zb_buf_init(&b, SIZE_MAX / 4);
    zb_buf_adds(&b, text);
    zb_buf_addc(&b, '\n');
    void (*release)(void *);
    json_get_alloc_funcs(NULL, &release);
    release(text);
    zb_status s = zb_file_write(path, b.p, b.n, err);
    zb_buf_free(&b);
    return s;
}

zb_status zb_json_write(const char *path, const json_t *value, zb_err *err) {
    return write_text(path, value, 10, err);
}

zb_status zb_json_write_exact(const char *path, const json_t *value, zb_err *err) {
    return write_text(path, value, 17, err);
}

json_t *zb_json_real(double v) { return isfinite(v) ? json_real(v) : json_null(); }

char *zb_json_text(const json_t *value, zb_arena *a) {
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    if (!text) return NULL;
    char *copy = zb_strdup(a, text);
    void (*release)(void *);
    json_get_alloc_funcs(NULL, &release);
    release(text);
    return copy;
}

/* The value, or NULL when it is absent or null and that is allowed. */
static zb_status find(const json_t *o, const char *where, const char *key, bool required,
                      json_t **v, zb_err *err) {
    *v = json_object_get(o, key);
    if (json_is_null(*v)) *v = NULL;
    if (!*v && required)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\" is missing", where, key);
    return ZB_OK;
}

static zb_status wrong(const json_t *v, const char *where, const char *key, const char *expected,
                       zb_err *err) {
    return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected %s, found %s", where, key,
                   expected, zb_json_type(v));
}

zb_status zb_json_int(const json_t *o, const char *where, const char *key, bool required,
                      int64_t min, int64_t max, int64_t *out, zb_err *err) {
    json_t *v;
    ZB_TRY(find(o, where, key, required, &v, err));
    if (!v) return ZB_OK;
    if (!json_is_integer(v)) return wrong(v, where, key, "an integer", err);
    int64_t x = json_integer_value(v);
    if (x < min || x > max)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected %lld to %lld, found %lld",
                       where, key, (long long)min, (long long)max, (long long)x);
    *out = x;
    return ZB_OK;
}

zb_status zb_json_f64(const json_t *o, const char *where, const char *key, bool required,
                      double *out, zb_err *err) {
    json_t *v;
    ZB_TRY(find(o, where, key, required, &v, err));
    if (!v) return ZB_OK;
    if (!json_is_number(v)) return wrong(v, where, key, "a number", err);
    *out = json_number_value(v);
    return ZB_OK;
}

zb_status zb_json_bool(const json_t *o, const char *where, const char *key, bool required,
                       bool *out, zb_err *err) {
    json_t *v;
    ZB_TRY(find(o, where, key, required, &v, err));
    if (!v) return ZB_OK;
    if (!json_is_boolean(v)) return wrong(v, where, key, "true or false", err);
    *out = json_is_true(v);
    return ZB_OK;
}

zb_status zb_json_str(const json_t *o, const char *where, const char *key, bool required,
                      const char **out, zb_err *err) {
    json_t *v;
    ZB_TRY(find(o, where, key, required, &v, err));
    if (!v) return ZB_OK;
    if (!json_is_string(v)) return wrong(v, where, key, "a string", err);
    const char *s = json_string_value(v);
    for (size_t i = 0; i < json_string_length(v); i++)
        if (s[i] == 0) return wrong(v, where, key, "a string without NUL bytes", err);
    *out = s;
    return ZB_OK;
}

zb_status zb_json_array(const json_t *o, const char *where, const char *key, bool required,
                        json_t **out, zb_err *err) {
    json_t *v;
    ZB_TRY(find(o, where, key, required, &v, err));
    if (!v) return ZB_OK;
    if (!json_is_array(v)) return wrong(v, where, key, "an array", err);
    *out = v;
    return ZB_OK;
}

zb_status zb_json_object(const json_t *o, const char *where, const char *key, bool required,
                         json_t **out, zb_err *err) {
    json_t *v;
    ZB_TRY(find(o, where, key, required, &v, err));
    if (!v) return ZB_OK;
    if (!json_is_object(v)) return wrong(v, where, key, "an object", err);
    *out = v;
    return ZB_OK;
}
