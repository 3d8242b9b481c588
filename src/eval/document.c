/* document.c - from rows to questions (contract in document.h).
 *
 * As in the LM Evaluation Harness (ecosystem.md 3.2): context = description + prompt, continuation
 * = one space + choice, nothing is stripped from a choice beyond what the task file says, and the
 * length of a choice is Python's len(), the number of code points. */
#include "eval/document.h"

#include "base/file.h"
#include "base/json.h"

#include <math.h>
#include <string.h>

enum { LINE_MAX_BYTES = 1 << 22 };

/* File and line of the row that is being read; jansson's objects know neither. */
typedef struct source {
    const zb_task *task;
    const char *path;
    const char *where; /* "path:line" */
    zb_arena *arena;
    zb_err *err;
} source;

static const char *at_line(const char *path, int64_t line, zb_arena *a) {
    return zb_asprintf(a, "%s:%lld", path, (long long)line);
}

static zb_status parse_row(zb_str line, const char *where, json_t **row, zb_err *err) {
    /* The parser's own line and column would follow `where`; only the column is news, so the
     * message is remade. */
    json_error_t je;
    *row = json_loadb(line.p, line.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
    if (!*row)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: column %d: invalid JSON: %s", where, je.column,
                       je.text);
    if (json_is_object(*row)) return ZB_OK;
    zb_status s =
        zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where, zb_json_type(*row));
    json_decref(*row);
    return s;
}

/* All lines of the file; the array of line numbers matches the rows (blank lines are skipped). */
static zb_status read_rows(const source *s, json_t *rows, int64_t **line_of) {
    zb_lines *lines;
    ZB_TRY(zb_lines_open(&lines, s->path, LINE_MAX_BYTES, s->err));
    size_t cap = 0;
    zb_status status;
    for (;;) {
        zb_str line;
        bool more;
        status = zb_lines_next(lines, &line, &more, s->err);
        if (status != ZB_OK || !more) break;
        if (zb_str_trim(line).n == 0) continue;
        int64_t number = zb_lines_number(lines);
        char where[512];
        snprintf(where, sizeof where, "%.480s:%lld", s->path, (long long)number);
        json_t *row;
        status = parse_row(line, where, &row, s->err);
        if (status != ZB_OK) break;
        size_t n = json_array_size(rows);
        *line_of = zb_grow(s->arena, *line_of, &cap, n + 1, sizeof **line_of);
        (*line_of)[n] = number;
        json_array_append_new(rows, row);
    }
    zb_lines_close(lines);
    return status;
}

static zb_status list_item(const source *s, const json_t *list, const char *path, size_t i,
                           zb_str *out) {
    const json_t *v = json_array_get(list, i);
    if (!json_is_string(v))
        return zb_fail(s->err, ZB_ERR_FORMAT,
                       "%s: field \"%s\", item %zu: expected a string, found %s", s->where, path, i,
                       zb_json_type(v));
    *out = (zb_str){json_string_value(v), json_string_length(v)};
    return ZB_OK;
}

/* The texts of a zb_task_list for this row. */
static zb_status list_texts(const source *s, const zb_task_list *l, const json_t *row, zb_str **out,
                            int *n) {
    if (!l->path) {
        *out = ZB_NEW_ARRAY(s->arena, zb_str, l->n);
        *n = l->n;
        for (int i = 0; i < l->n; i++)
            ZB_TRY(zb_template_render(&l->item[i], row, s->where, s->arena, &(*out)[i], s->err));
        return ZB_OK;
    }
    const json_t *list;
    ZB_TRY(zb_template_lookup(row, l->path, s->where, &list, s->err));
    if (!json_is_array(list))
        return zb_fail(s->err, ZB_ERR_FORMAT, "%s: field \"%s\": expected an array, found %s",
                       s->where, l->path, zb_json_type(list));
    size_t count = json_array_size(list);
    if (count == 0 || count > ZB_CHOICES_MAX)
        return zb_fail(s->err, ZB_ERR_FORMAT, "%s: field \"%s\": expected 1 to %d items, found %zu",
                       s->where, l->path, ZB_CHOICES_MAX, count);
    *out = ZB_NEW_ARRAY(s->arena, zb_str, count);
    *n = (int)count;
    for (size_t i = 0; i < count; i++) ZB_TRY(list_item(s, list, l->path, i, &(*out)[i]));
    return ZB_OK;
}

static zb_status read_gold(const source *s, const json_t *row, zb_document *d) {
    const zb_task *t = s->task;
    zb_str value;
    ZB_TRY(zb_template_render(&t->gold, row, s->where, s->arena, &value, s->err));
    if (t->gold_among.path || t->gold_among.item) {
        zb_str *text = NULL;
        int n = 0;
        ZB_TRY(list_texts(s, &t->gold_among, row, &text, &n));
        for (d->gold = 0; d->gold < n; d->gold++)
            if (zb_str_eq(text[d->gold], value)) break;
        if (d->gold == n || d->gold >= d->n_choices)
            return zb_fail(s->err, ZB_ERR_FORMAT,
                           "%s: answer \"%.40s\" (%s): expected the label of one of %d choices",
                           s->where, value.p, t->gold.source, d->n_choices);
        return ZB_OK;
    }
    /* Data sets disagree whether a label is a number or its text: the template gives text for both.
     */
    int64_t position;
    zb_str digits = zb_str_trim(value);
    if (!zb_parse_i64(zb_strndup(s->arena, digits.p, digits.n), &position) ||
        position < t->gold_from || position - t->gold_from >= d->n_choices)
        return zb_fail(s->err, ZB_ERR_FORMAT,
                       "%s: answer \"%.40s\" (%s): expected an integer from %lld to %lld", s->where,
                       value.p, t->gold.source, (long long)t->gold_from,
                       (long long)(t->gold_from + d->n_choices - 1));
    d->gold = (int)(position - t->gold_from);
    return ZB_OK;
}

/* The task's rule on a prompt or choice; rules without argument apply to any text. */
static zb_str clean(const source *s, zb_str text) {
    if (s->task->clean) s->task->clean->apply(text, ZB_STR(""), s->arena, &text);
    return text;
}

static zb_str join(const source *s, zb_str head, zb_str tail) {
    char *p = zb_alloc(s->arena, head.n + tail.n + 1);
    if (head.n) memcpy(p, head.p, head.n);
    if (tail.n) memcpy(p + head.n, tail.p, tail.n);
    return (zb_str){p, head.n + tail.n};
}

/* description + prompt. The description is not cleaned: it is ours, not the data set's. */
static zb_status render_context(const source *s, const zb_template *prompt, const json_t *row,
                                zb_str *out) {
    zb_str description = {"", 0}, text;
    if (s->task->description.source)
        ZB_TRY(zb_template_render(&s->task->description, row, s->where, s->arena, &description,
                                  s->err));
    ZB_TRY(zb_template_render(prompt, row, s->where, s->arena, &text, s->err));
    *out = join(s, description, clean(s, text));
    return ZB_OK;
}

/* The length that divides in acc_norm leaves the delimiter out. */
static void set_continuation(const source *s, zb_choice *c, zb_str text) {
    c->continuation = join(s, ZB_STR(" "), text);
    c->length = (int64_t)zb_utf8_length(text.p, text.n);
}

static zb_status read_choices(const source *s, const json_t *row, zb_document *d) {
    const zb_task *t = s->task;
    zb_str *text = NULL, context;
    if (t->prompts) {
        zb_str tail;
        ZB_TRY(zb_template_render(&t->continuation, row, s->where, s->arena, &tail, s->err));
        d->n_choices = t->n_prompts;
        d->choice = ZB_NEW_ARRAY(s->arena, zb_choice, d->n_choices);
        for (int i = 0; i < d->n_choices; i++) {
            ZB_TRY(render_context(s, &t->prompts[i], row, &d->choice[i].context));
            set_continuation(s, &d->choice[i], tail);
        }
        d->target = zb_strndup(s->arena, tail.p, tail.n);
        return ZB_OK;
    }
    ZB_TRY(render_context(s, &t->prompt, row, &context));
    ZB_TRY(list_texts(s, &t->choices, row, &text, &d->n_choices));
    ZB_ASSERT(text);
    d->choice = ZB_NEW_ARRAY(s->arena, zb_choice, d->n_choices);
    for (int i = 0; i < d->n_choices; i++) {
        d->choice[i].context = context;
        set_continuation(s, &d->choice[i], clean(s, text[i]));
        /* Division by a length of 0 has no meaning; the harness would stop with an error, too. */
        if (t->acc_norm && d->choice[i].length == 0)
            return zb_fail(s->err, ZB_ERR_FORMAT, "%s: choice %d: expected text, found none",
                           s->where, i);
    }
    return ZB_OK;
}

static zb_status read_document(const source *s, const json_t *row, zb_document *d) {
    ZB_TRY(read_choices(s, row, d));
    ZB_TRY(read_gold(s, row, d));
    if (s->task->target.source) {
        zb_str target;
        ZB_TRY(zb_template_render(&s->task->target, row, s->where, s->arena, &target, s->err));
        d->target = zb_strndup(s->arena, target.p, target.n);
    } else if (!d->target) {
        d->target = zb_asprintf(s->arena, "%d", d->gold);
    }
    return ZB_OK;
}

/* Which part of the task the row belongs to. A value that no group names means that data and task
 * file do not fit together, so it is an error and not a row to skip. */
static zb_status leaf_of(const source *s, const json_t *row, int *leaf) {
    const zb_task *t = s->task;
    *leaf = 0;
    if (!t->split_by) return ZB_OK;
    const char *name;
    ZB_TRY(zb_json_str(row, s->where, t->split_by, true, &name, s->err));
    for (; *leaf < t->n_leaves; ++*leaf)
        if (!strcmp(t->leaf[*leaf].alias, name)) return ZB_OK;
    return zb_fail(s->err, ZB_ERR_FORMAT, "%s: field \"%s\": \"%.60s\" is in no group of %s",
                   s->where, t->split_by, name, t->file);
}

/* Documents to take of `total`: a share is rounded up, as in the harness. */
static int64_t quota(double limit, int64_t total) {
    if (limit <= 0) return total;
    double n = limit < 1 ? ceil((double)total * limit) : floor(limit);
    return n < (double)total ? (int64_t)n : total;
}

/* A data set that lost rows on its way here would still give a number, only a wrong one. */
static zb_status check_counts(const source *s, const zb_document_set *set) {
    const zb_task *t = s->task;
    size_t n = json_array_size(set->rows);
    if (t->rows && n != (size_t)t->rows)
        return zb_fail(s->err, ZB_ERR_FORMAT,
                       "%s: expected %lld rows (%s), found %zu: make the file again with "
                       "tools/prepare_data.py",
                       s->path, (long long)t->rows, t->file, n);
    for (int i = 0; i < t->n_leaves; i++)
        if (t->leaf[i].selected && set->total[i] == 0)
            return zb_fail(s->err, ZB_ERR_FORMAT, "%s: no rows of %s", s->path, t->leaf[i].name);
    return ZB_OK;
}

/* All rows are parsed before any document is made: the counts of the parts decide how many to take,
 * and a broken line is found even if --limit would leave it out. */
static zb_status build(source *s, double limit, zb_document_set *set) {
    int64_t *line_of = NULL;
    ZB_TRY(read_rows(s, set->rows, &line_of));
    size_t n = json_array_size(set->rows);
    ZB_ASSERT(n == 0 || line_of);
    int *leaf = ZB_NEW_ARRAY(s->arena, int, n + 1);
    for (size_t i = 0; i < n; i++) {
        s->where = at_line(s->path, line_of[i], s->arena);
        ZB_TRY(leaf_of(s, json_array_get(set->rows, i), &leaf[i]));
        set->total[leaf[i]]++;
    }
    ZB_TRY(check_counts(s, set));
    set->doc = ZB_NEW_ARRAY(s->arena, zb_document, n + 1);
    for (size_t i = 0; i < n; i++) {
        int l = leaf[i];
        if (!s->task->leaf[l].selected || set->used[l] == quota(limit, set->total[l])) continue;
        zb_document *d = &set->doc[set->n++];
        d->id = set->used[l]++;
        d->leaf = l;
        d->row = json_array_get(set->rows, i);
        d->where = s->where = at_line(s->path, line_of[i], s->arena);
        ZB_TRY(read_document(s, d->row, d));
    }
    return ZB_OK;
}

zb_status zb_document_set_read(const zb_task *t, const char *data_dir, double limit, zb_arena *a,
                               zb_document_set *out, zb_err *err) {
    *out = (zb_document_set){.arena = a, .rows = json_array()};
    out->total = ZB_NEW_ARRAY(a, int64_t, t->n_leaves);
    out->used = ZB_NEW_ARRAY(a, int64_t, t->n_leaves);
    source s = {.task = t, .path = zb_path_join(a, data_dir, t->data), .arena = a, .err = err};
    const char *gz = zb_asprintf(a, "%s.gz", s.path);
    if (!zb_file_exists(s.path) && zb_file_exists(gz)) s.path = gz;
    if (!zb_file_exists(s.path))
        return zb_fail(err, ZB_ERR_IO,
                       "%s: data of task %s not found: run ./run test or tools/prepare_data.py",
                       s.path, t->name);
    return build(&s, limit, out);
}

void zb_document_set_free(zb_document_set *s) {
    json_decref(s->rows);
    *s = (zb_document_set){0};
}
