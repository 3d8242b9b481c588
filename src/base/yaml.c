/* yaml.c - libyaml's events to a tree (contract in yaml.h). */
#include "base/yaml.h"

#include "base/file.h"

#include <string.h>
#include <yaml.h>

enum { DEPTH_MAX = 16, FILE_MAX = 1 << 20, SCALAR_MAX = 1 << 16, NODES_MAX = 10000 };

typedef struct builder {
    yaml_parser_t parser;
    zb_arena *arena;
    const char *where;
    zb_err *err;
    int nodes;
} builder;

const char *zb_yaml_kind_name(const zb_yaml *n) {
    if (!n) return "nothing";
    return n->kind == ZB_YAML_SCALAR ? "a single value"
           : n->kind == ZB_YAML_LIST ? "a list"
                                     : "a mapping";
}

const zb_yaml *zb_yaml_get(const zb_yaml *map, const char *key) {
    if (!map || map->kind != ZB_YAML_MAP) return NULL;
    for (const zb_yaml *c = map->child; c; c = c->next)
        if (!strcmp(c->key, key)) return c;
    return NULL;
}

static zb_status fail_at(builder *b, yaml_mark_t m, const char *what) {
    return zb_fail(b->err, ZB_ERR_CONFIG, "%s:%zu:%zu: %s", b->where, m.line + 1, m.column + 1,
                   what);
}

static zb_status next_event(builder *b, yaml_event_t *e) {
    if (!yaml_parser_parse(&b->parser, e))
        return fail_at(b, b->parser.problem_mark,
                       b->parser.problem ? b->parser.problem : "invalid YAML");
    return ZB_OK;
}

static zb_status build(builder *b, yaml_event_t *e, int depth, zb_yaml **out);

/* Anchors and tags ("&name", "!!type") of a scalar, list or map. */
static zb_status refuse_properties(builder *b, const yaml_event_t *e) {
    const void *anchor = NULL, *tag = NULL;
    if (e->type == YAML_SCALAR_EVENT) {
        anchor = e->data.scalar.anchor;
        tag = e->data.scalar.tag;
    } else if (e->type == YAML_SEQUENCE_START_EVENT) {
        anchor = e->data.sequence_start.anchor;
        tag = e->data.sequence_start.tag;
    } else if (e->type == YAML_MAPPING_START_EVENT) {
        anchor = e->data.mapping_start.anchor;
        tag = e->data.mapping_start.tag;
    }
    if (anchor) return fail_at(b, e->start_mark, "anchors are not supported");
    if (tag) return fail_at(b, e->start_mark, "tags are not supported");
    return ZB_OK;
}

static zb_status scalar_text(builder *b, const yaml_event_t *e, const char **out) {
    const char *v = (const char *)e->data.scalar.value;
    size_t n = e->data.scalar.length;
    if (n > SCALAR_MAX || memchr(v, 0, n))
        return fail_at(b, e->start_mark, "value too long or with a NUL byte");
    *out = zb_strndup(b->arena, v, n);
    return ZB_OK;
}

/* Reads the children of a list or map up to its end event. */
static zb_status build_children(builder *b, zb_yaml *parent, yaml_event_type_t end, int depth) {
    zb_yaml **tail = &parent->child;
    for (;;) {
        yaml_event_t e;
        ZB_TRY(next_event(b, &e));
        if (e.type == end) {
            yaml_event_delete(&e);
            return ZB_OK;
        }
        const char *key = NULL;
        zb_status s = ZB_OK;
        if (parent->kind == ZB_YAML_MAP) {
            if (e.type != YAML_SCALAR_EVENT)
                s = fail_at(b, e.start_mark, "expected a plain key");
            else if ((s = refuse_properties(b, &e)) == ZB_OK)
                s = scalar_text(b, &e, &key);
            if (s == ZB_OK && zb_yaml_get(parent, key))
                s = fail_at(b, e.start_mark,
                            zb_asprintf(b->arena, "key \"%s\" is given twice", key));
            yaml_event_delete(&e);
            if (s != ZB_OK) return s;
            ZB_TRY(next_event(b, &e));
        }
        zb_yaml *child = NULL;
        s = build(b, &e, depth + 1, &child);
        yaml_event_delete(&e);
        if (s != ZB_OK) return s;
        child->key = key;
        *tail = child;
        tail = &child->next;
    }
}

static zb_status build(builder *b, yaml_event_t *e, int depth, zb_yaml **out) {
    if (depth > DEPTH_MAX) return fail_at(b, e->start_mark, "nested too deeply");
    if (++b->nodes > NODES_MAX) return fail_at(b, e->start_mark, "too many values");
    ZB_TRY(refuse_properties(b, e));
    zb_yaml *n = ZB_NEW(b->arena, zb_yaml);
    n->line = (int)e->start_mark.line + 1;
    n->column = (int)e->start_mark.column + 1;
    *out = n;
    switch (e->type) {
    case YAML_SCALAR_EVENT:
        n->kind = ZB_YAML_SCALAR;
        n->quoted = e->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        return scalar_text(b, e, &n->text);
    case YAML_SEQUENCE_START_EVENT:
        n->kind = ZB_YAML_LIST;
        return build_children(b, n, YAML_SEQUENCE_END_EVENT, depth);
    case YAML_MAPPING_START_EVENT:
        n->kind = ZB_YAML_MAP;
        return build_children(b, n, YAML_MAPPING_END_EVENT, depth);
    default: return fail_at(b, e->start_mark, "aliases are not supported");
    }
}

static zb_status build_document(builder *b, zb_yaml **root) {
    bool have = false;
    for (;;) {
        yaml_event_t e;
        ZB_TRY(next_event(b, &e));
        zb_status s = ZB_OK;
        bool end = e.type == YAML_STREAM_END_EVENT;
        if (e.type == YAML_DOCUMENT_START_EVENT && have)
            s = fail_at(b, e.start_mark, "expected one document");
        else if (e.type != YAML_STREAM_START_EVENT && e.type != YAML_DOCUMENT_START_EVENT &&
                 e.type != YAML_DOCUMENT_END_EVENT && !end) {
            s = build(b, &e, 0, root);
            have = true;
        }
        yaml_event_delete(&e);
        if (s != ZB_OK) return s;
        if (end) break;
    }
    return have ? ZB_OK : zb_fail(b->err, ZB_ERR_CONFIG, "%s: the file is empty", b->where);
}

zb_status zb_yaml_parse(const char *text, size_t n, const char *where, zb_arena *a, zb_yaml **root,
                        zb_err *err) {
    builder b = {.arena = a, .where = where, .err = err};
    if (n > FILE_MAX)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected at most %d bytes", where, FILE_MAX);
    if (!yaml_parser_initialize(&b.parser))
        return zb_fail(err, ZB_ERR_MEMORY, "%s: no memory", where);
    yaml_parser_set_input_string(&b.parser, (const unsigned char *)text, n);
    zb_status s = build_document(&b, root);
    yaml_parser_delete(&b.parser);
    return s;
}

zb_status zb_yaml_read(const char *path, zb_arena *a, zb_yaml **root, zb_err *err) {
    zb_str text;
    ZB_TRY(zb_file_read(path, FILE_MAX, a, &text, err));
    return zb_yaml_parse(text.p, text.n, path, a, root, err);
}
