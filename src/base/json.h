/* json.h - jansson with our errors.
 *
 * Parsing rejects duplicate keys, deep nesting and files over the limit, and reports
 * file:line:column. The typed getters name the file (or any `where` text), the key, what was
 * expected and what was found. An absent key leaves *out untouched when `required` is false, so
 * callers put the default there first; a JSON null counts as absent. Values are owned by the
 * jansson tree (json_decref). */
#ifndef ZB_BASE_JSON_H
#define ZB_BASE_JSON_H

#include "base/arena.h"
#include "base/err.h"

#include <jansson.h>

zb_status zb_json_read(const char *path, size_t limit, json_t **out, zb_err *err);
zb_status zb_json_parse(const char *text, size_t n, const char *where, json_t **out, zb_err *err);
/* The values of a file's lines, one after the other, to `take`: borrowed, with "path:line". Blank
 * lines are passed over. *enough: no more are read. A line over the limit is an error. */
typedef zb_status (*zb_json_take)(void *user, json_t *value, const char *where, bool *enough,
                                  zb_err *err);
zb_status zb_json_lines(const char *path, size_t line_limit, zb_json_take take, void *user,
                        zb_err *err);
/* Indented, atomic; numbers of ten digits, or such that the same double is read again. */
zb_status zb_json_write(const char *path, const json_t *value, zb_err *err);
zb_status zb_json_write_exact(const char *path, const json_t *value, zb_err *err);

zb_status zb_json_int(const json_t *o, const char *where, const char *key, bool required,
                      int64_t min, int64_t max, int64_t *out, zb_err *err);
zb_status zb_json_f64(const json_t *o, const char *where, const char *key, bool required,
                      double *out, zb_err *err);
zb_status zb_json_bool(const json_t *o, const char *where, const char *key, bool required,
                       bool *out, zb_err *err);
/* Borrowed from the tree; a string with an embedded NUL is an error. */
zb_status zb_json_str(const json_t *o, const char *where, const char *key, bool required,
                      const char **out, zb_err *err);
zb_status zb_json_array(const json_t *o, const char *where, const char *key, bool required,
                        json_t **out, zb_err *err);
zb_status zb_json_object(const json_t *o, const char *where, const char *key, bool required,
                         json_t **out, zb_err *err);
json_t *zb_json_real(double v); /* null where it is not finite, for which JSON has no number */
/* Compact text in the arena, numbers exact; NULL where a string is no UTF-8. */
char *zb_json_text(const json_t *value, zb_arena *a);
const char *zb_json_type(const json_t *v); /* "string", "object", ... for messages */

#endif
