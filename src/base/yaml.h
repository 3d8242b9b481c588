/* yaml.h - a recipe file as a tree that remembers where each value stood.
 *
 * Scalars stay text; the option tables (base/opts.h) give them their types. Anchors, aliases, tags
 * and several documents in one file are refused, duplicate keys and deep nesting too. Nodes live in
 * the arena given at read. */
#ifndef ZB_BASE_YAML_H
#define ZB_BASE_YAML_H

#include "base/arena.h"
#include "base/err.h"

typedef enum zb_yaml_kind { ZB_YAML_SCALAR, ZB_YAML_LIST, ZB_YAML_MAP } zb_yaml_kind;

typedef struct zb_yaml {
    zb_yaml_kind kind;
    int line, column;      /* from 1 */
    const char *key;       /* in a map: its key; else NULL */
    const char *text;      /* scalar; "" for an empty value */
    bool quoted;           /* scalar in quotes: never a null, number or boolean by looks */
    struct zb_yaml *child; /* first item of a list or map */
    struct zb_yaml *next;  /* sibling */
} zb_yaml;

zb_status zb_yaml_read(const char *path, zb_arena *a, zb_yaml **root, zb_err *err);
zb_status zb_yaml_parse(const char *text, size_t n, const char *where, zb_arena *a, zb_yaml **root,
                        zb_err *err);
const zb_yaml *zb_yaml_get(const zb_yaml *map, const char *key); /* NULL if absent */
const char *zb_yaml_kind_name(const zb_yaml *n);

#endif
