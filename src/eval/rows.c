/* rows.c - reading data files (contract in rows.h). */
#include "eval/rows.h"

#include "base/file.h"
#include "base/json.h"

#include <string.h>

enum { LINE_MAX_BYTES = 1 << 22 };

/* Which part of the task the row belongs to. A value that no group names means that data and task
 * file do not fit together, so it is an error and not a row to skip. */
static zb_status leaf_of(const zb_task *t, const json_t *row, const char *where, int *leaf,
                         zb_err *err) {
    *leaf = 0;
    if (!t->split_by) return ZB_OK;
    const char *name;
    ZB_TRY(zb_json_str(row, where, t->split_by, true, &name, err));
    for (; *leaf < t->n_leaves; ++*leaf)
        if (!strcmp(t->leaf[*leaf].alias, name)) return ZB_OK;
    return zb_fail(err, ZB_ERR_FORMAT, "%s: field \"%s\": \"%.60s\" is in no group of %s", where,
                   t->split_by, name, t->file);
}

typedef struct reader {
    const zb_task *task;
    zb_rows *rows;
    size_t where_cap, leaf_cap;
    zb_arena *arena;
    zb_err *err;
} reader;

static zb_status add(reader *r, json_t *row, const char *where) {
    zb_rows *x = r->rows;
    size_t n = x->n;
    x->where = zb_grow(r->arena, x->where, &r->where_cap, n + 1, sizeof *x->where);
    x->leaf = zb_grow(r->arena, x->leaf, &r->leaf_cap, n + 1, sizeof *x->leaf);
    x->where[n] = zb_strdup(r->arena, where);
    json_array_append(x->list, row);
    ZB_TRY(leaf_of(r->task, row, where, &x->leaf[n], r->err));
    if (r->task->process) {
        json_t *fields = json_copy(row);
        json_array_append_new(x->fields, fields);
        ZB_TRY(r->task->process->apply(fields, where, r->arena, r->err));
    }
    x->n++;
    return ZB_OK;
}

static zb_status add_line(void *user, json_t *row, const char *where, bool *enough, zb_err *err) {
    (void)enough;
    if (!json_is_object(row))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                       zb_json_type(row));
    return add(user, row, where);
}

static zb_status read_text(reader *r) {
    zb_str text;
    ZB_TRY(zb_file_read(r->rows->path, (size_t)1 << 30, r->arena, &text, r->err));
    json_t *value = json_stringn(text.n ? text.p : "", text.n);
    if (!value) return zb_fail(r->err, ZB_ERR_FORMAT, "%s: expected text in UTF-8", r->rows->path);
    json_t *row = json_pack("{s:o}", "text", value);
    zb_status s = add(r, row, r->rows->path);
    json_decref(row);
    return s;
}

zb_status zb_rows_read(const zb_task *t, const char *dir, const char *file, int64_t expected,
                       zb_arena *a, zb_rows *out, zb_err *err) {
    *out = (zb_rows){.path = zb_path_join(a, dir, file),
                     .list = json_array(),
                     .fields = t->process ? json_array() : NULL};
    const char *gz = zb_asprintf(a, "%s.gz", out->path);
    if (!zb_file_exists(out->path) && zb_file_exists(gz)) out->path = gz;
    if (!zb_file_exists(out->path))
        return zb_fail(err, ZB_ERR_IO,
                       "%s: data of task %s not found: run ./run prepare, or put the file there as "
                       "%s says",
                       out->path, t->name, t->file);
    reader r = {.task = t, .rows = out, .arena = a, .err = err};
    ZB_TRY(zb_str_ends(zb_str_from(file), ZB_STR(".txt"))
               ? read_text(&r)
               : zb_json_lines(out->path, LINE_MAX_BYTES, add_line, &r, err));
    /* A data set that lost rows on its way here would still give a number, only a wrong one. */
    if (expected && out->n != (size_t)expected)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: expected %lld rows (%s), found %zu: make the file again with "
                       "tools/prepare_data.py",
                       out->path, (long long)expected, t->file, out->n);
    return ZB_OK;
}

void zb_rows_free(zb_rows *r) {
    json_decref(r->list);
    json_decref(r->fields);
    *r = (zb_rows){0};
}

const json_t *zb_rows_fields(const zb_rows *r, size_t i) {
    return json_array_get(r->fields ? r->fields : r->list, i);
}

const json_t *zb_rows_shown(const zb_rows *r, const zb_task *t, size_t i) {
    return json_array_get(t->process && t->process->in_samples ? r->fields : r->list, i);
}
