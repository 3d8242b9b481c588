/* compare.c - paired comparison (contract in compare.h).
 *
 * With d_i = b_i - a_i over the n documents that both files hold: difference = mean(d), its error
 * sqrt(sum (d_i - mean)^2 / (n - 1) / n). Sign test: of the documents with d_i != 0, p = 2 min(P(X
 * <= better), P(X <= worse)), X binomial with one half, at most 1. A group's row is of the
 * documents of all its tasks, by their first metrics. The last row is the mean over first metrics,
 * where a group counts once and its tasks do not, with the error of independent tasks, sqrt(sum
 * se^2) / k.
 *
 * Documents belong together by task, number and filter, and must have the same digest: two files
 * made from different data are refused. */
#include "eval/compare.h"

#include "base/file.h"
#include "base/json.h"
#include "eval/metric.h"

#include <math.h>
#include <string.h>

enum { LINE_MAX_BYTES = 1 << 26, RESULTS_MAX = 1 << 28, METRICS_MAX = 32 };

double zb_compare_sign_test(int64_t wins, int64_t losses) {
    int64_t n = wins + losses, least = wins < losses ? wins : losses;
    double p = 0;
    for (int64_t k = 0; k <= least; k++)
        p += exp(lgamma((double)n + 1) - lgamma((double)k + 1) - lgamma((double)(n - k) + 1) -
                 (double)n * log(2));
    return 2 * p < 1 ? 2 * p : 1;
}

/* One side: a folder of samples files, and of a results file the tasks it has: the folder may hold
 * those of an earlier evaluation. */
typedef struct side {
    const char *folder;
    json_t *tasks;  /* their names are keys; NULL: all of the folder */
    json_t *groups; /* {group: [what is directly below it]}; NULL: unknown */
    char **name;    /* [n] files */
    size_t n;
} side;

/* The folder of the samples files that belong to `path`. */
static zb_status find_samples(const char *path, zb_arena *a, side *out, zb_err *err) {
    out->folder = path;
    if (zb_dir_exists(path)) return ZB_OK;
    json_t *file;
    ZB_TRY(zb_json_read(path, RESULTS_MAX, &file, err));
    const char *named =
        json_string_value(json_object_get(json_object_get(file, "config"), "log_samples"));
    const char *own = zb_strndup(a, path, (size_t)(zb_path_base(path) - path));
    if (!*own) own = ".";
    out->folder = named && zb_dir_exists(named) ? zb_strdup(a, named) : NULL;
    /* beside the file, also where both were moved together */
    for (int i = 0; i < 2 && named && !out->folder; i++) {
        const char *beside = zb_path_join(a, own, i ? zb_path_base(named) : named);
        if ((i || named[0] != '/') && zb_dir_exists(beside)) out->folder = beside;
    }
    if (!out->folder) out->folder = own;
    json_t *results = json_object_get(file, "results");
    out->tasks = json_is_object(results) ? json_incref(results) : NULL;
    out->groups = json_incref(json_object_get(file, "group_subtasks"));
    json_decref(file);
    return ZB_OK;
}

/* "samples_piqa_2026-01-31T10-00-00.123.jsonl" and "samples_piqa.jsonl" are of the task piqa. */
static const char *task_of(const char *name, zb_arena *a) {
    static const char head[] = "samples_", tail[] = ".jsonl";
    zb_str s = zb_str_from(name);
    if (!zb_str_starts(s, zb_str_from(head)) || !zb_str_ends(s, zb_str_from(tail))) return NULL;
    s = (zb_str){s.p + sizeof head - 1, s.n - (sizeof head - 1) - (sizeof tail - 1)};
    for (size_t i = 0; i + 11 < s.n; i++)
        if (s.p[i] == '_' && s.p[i + 5] == '-' && s.p[i + 8] == '-' && s.p[i + 11] == 'T') s.n = i;
    return zb_strndup(a, s.p, s.n);
}

/* One document's answer, by number and filter. */
static zb_status take_sample(void *user, json_t *v, const char *where, bool *enough, zb_err *err) {
    int64_t id = 0;
    const char *filter = "none";
    char key[128];
    (void)enough;
    ZB_TRY(zb_json_int(v, where, "doc_id", true, 0, INT64_MAX, &id, err));
    ZB_TRY(zb_json_str(v, where, "filter", false, &filter, err));
    snprintf(key, sizeof key, "%lld,%.90s", (long long)id, filter);
    json_object_del(v, "doc");
    json_object_del(v, "arguments");
    json_object_set(user, key, v);
    return ZB_OK;
}

static zb_status read_samples(const char *path, json_t **out, zb_err *err) {
    *out = json_object();
    return zb_json_lines(path, LINE_MAX_BYTES, take_sample, *out, err);
}

/* One metric of one task: its pairs. */
typedef struct pairs {
    char name[128]; /* "acc" or "exact_match,strict-match" */
    double *a, *b;
    int64_t n;
} pairs;

static double number(const json_t *v) {
    return json_is_true(v) ? 1 : json_is_false(v) ? 0 : json_number_value(v);
}

static pairs *pairs_of(pairs *list, int *n, const char *metric, const char *filter, size_t cap,
                       zb_arena *arena) {
    char name[128];
    snprintf(name, sizeof name, "%.60s%s%.60s", metric, strcmp(filter, "none") ? "," : "",
             strcmp(filter, "none") ? filter : "");
    for (int i = 0; i < *n; i++)
        if (!strcmp(list[i].name, name)) return &list[i];
    if (*n == METRICS_MAX) return NULL;
    pairs *p = &list[(*n)++];
    memcpy(p->name, name, sizeof name);
    p->a = ZB_NEW_ARRAY(arena, double, cap);
    p->b = ZB_NEW_ARRAY(arena, double, cap);
    return p;
}

/* The values of all metrics that are numbers in both. */
static zb_status pair_up(json_t *a, const json_t *b, const char *where, pairs *list, int *n,
                         zb_arena *arena, zb_err *err) {
    const char *key;
    json_t *x, *metric;
    size_t i, cap = json_object_size(a) + 1;
    json_object_foreach(a, key, x) {
        const json_t *y = json_object_get(b, key);
        const char *ha = json_string_value(json_object_get(x, "doc_hash"));
        const char *hb = json_string_value(json_object_get(y, "doc_hash"));
        const char *filter = json_string_value(json_object_get(x, "filter"));
        if (!y) continue;
        if (ha && hb && strcmp(ha, hb) != 0)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: document %s: the two evaluations saw different data", where, key);
        json_array_foreach(json_object_get(x, "metrics"), i, metric) {
            const char *name = json_string_value(metric);
            const json_t *vx = name ? json_object_get(x, name) : NULL;
            const json_t *vy = name ? json_object_get(y, name) : NULL;
            if (!(json_is_number(vx) || json_is_boolean(vx)) ||
                !(json_is_number(vy) || json_is_boolean(vy)))
                continue;
            pairs *p = pairs_of(list, n, name, filter ? filter : "none", cap, arena);
            if (!p) continue;
            p->a[p->n] = number(vx);
            p->b[p->n++] = number(vy);
        }
    }
    return ZB_OK;
}

static zb_metric difference(const pairs *p) {
    zb_arena a = {0};
    double *d = ZB_NEW_ARRAY(&a, double, p->n);
    for (int64_t i = 0; i < p->n; i++) d[i] = p->b[i] - p->a[i];
    zb_metric m = zb_metric_mean(d, p->n);
    zb_arena_free(&a);
    return m;
}

static void add_row(zb_comparison *c, const char *task, bool group, const pairs *p) {
    zb_compared r = {.task = zb_strdup(&c->arena, task),
                     .metric = zb_strdup(&c->arena, p->name),
                     .group = group,
                     .n = p->n,
                     .a = zb_metric_mean(p->a, p->n).value,
                     .b = zb_metric_mean(p->b, p->n).value,
                     .difference = difference(p)};
    for (int64_t i = 0; i < p->n; i++) {
        r.better += p->b[i] > p->a[i];
        r.worse += p->b[i] < p->a[i];
    }
    c->row = zb_grow(&c->arena, c->row, &c->cap, c->n + 1, sizeof *c->row);
    c->row[c->n++] = r;
}

/* What counts once in the mean: a task, or all tasks of a group together. */
typedef struct counted {
    const char *name;
    bool group;
    pairs p;
    size_t cap[2];
} counted;

typedef struct summary {
    counted *item;
    size_t n, cap;
    const json_t *groups;
    zb_arena *arena;
} summary;

/* The group directly above, or NULL. */
static const char *group_of(const json_t *groups, const char *name) {
    const char *group;
    json_t *list, *part;
    size_t i;
    json_object_foreach((json_t *)(uintptr_t)groups, group, list) {
        json_array_foreach(list, i, part) {
            const char *is = json_string_value(part);
            if (is && !strcmp(is, name) && strcmp(group, name) != 0) return group;
        }
    }
    return NULL;
}

/* Adds the pairs to those of the outermost group that has the task, or to the task's own. */
static void count(summary *s, const char *task, const pairs *p) {
    const char *name = task, *above;
    size_t depth = json_object_size(s->groups), at = 0; /* a broken file may go round in circles */
    while (depth-- > 0 && (above = group_of(s->groups, name))) name = above;
    while (at < s->n && strcmp(s->item[at].name, name) != 0) at++;
    if (at == s->n) {
        s->item = zb_grow(s->arena, s->item, &s->cap, s->n + 1, sizeof *s->item);
        s->item[s->n++] = (counted){.name = zb_strdup(s->arena, name), .group = name != task};
        memcpy(s->item[at].p.name, p->name, sizeof p->name);
    }
    counted *c = &s->item[at];
    size_t n = (size_t)c->p.n, more = (size_t)p->n;
    c->p.a = zb_grow(s->arena, c->p.a, &c->cap[0], n + more, sizeof *c->p.a);
    c->p.b = zb_grow(s->arena, c->p.b, &c->cap[1], n + more, sizeof *c->p.b);
    memcpy(c->p.a + n, p->a, more * sizeof *p->a);
    memcpy(c->p.b + n, p->b, more * sizeof *p->b);
    c->p.n += p->n;
}

static zb_status compare_files(const char *task, const char *path_a, const char *path_b,
                               summary *sum, zb_comparison *out, zb_err *err) {
    zb_arena arena = {0};
    json_t *a = NULL, *b = NULL;
    pairs list[METRICS_MAX] = {0};
    int n = 0;
    zb_status s = read_samples(path_a, &a, err);
    if (s == ZB_OK) s = read_samples(path_b, &b, err);
    if (s == ZB_OK) s = pair_up(a, b, path_b, list, &n, &arena, err);
    for (int m = 0; m < n && s == ZB_OK; m++) add_row(out, task, false, &list[m]);
    if (n > 0 && s == ZB_OK) count(sum, task, &list[0]);
    json_decref(a);
    json_decref(b);
    zb_arena_free(&arena);
    return s;
}

/* Groups, and the mean of all that counts. */
static void sum_up(zb_comparison *c, const summary *s) {
    double variance = 0, k = (double)s->n;
    for (size_t i = 0; i < s->n; i++) {
        const pairs *p = &s->item[i].p;
        if (s->item[i].group) add_row(c, s->item[i].name, true, p);
        zb_metric m = difference(p);
        c->a += zb_metric_mean(p->a, p->n).value / k;
        c->b += zb_metric_mean(p->b, p->n).value / k;
        c->difference.value += m.value / k;
        variance += m.stderr_of * m.stderr_of;
    }
    c->difference.stderr_of = sqrt(variance) / k;
    c->counted = (int)s->n;
}

/* The newest file of the task (their names end in the time). */
static const char *find_task(const side *s, const char *task, zb_arena *a) {
    if (s->tasks && !json_object_get(s->tasks, task)) return NULL;
    for (size_t i = s->n; i-- > 0;) {
        const char *found = task_of(s->name[i], a);
        if (found && !strcmp(found, task)) return s->name[i];
    }
    return NULL;
}

static zb_status compare_sides(side *a, side *b, zb_arena *arena, zb_comparison *out, zb_err *err) {
    summary sum = {.groups = a->groups ? a->groups : b->groups, .arena = arena};
    ZB_TRY(zb_dir_list(a->folder, "samples_", arena, &a->name, &a->n, err));
    ZB_TRY(zb_dir_list(b->folder, "samples_", arena, &b->name, &b->n, err));
    for (size_t i = 0; i < a->n; i++) {
        const char *task = task_of(a->name[i], arena);
        const char *newest = task ? find_task(a, task, arena) : NULL;
        const char *other = newest ? find_task(b, task, arena) : NULL;
        if (!other || strcmp(newest, a->name[i]) != 0) continue;
        const char *path_a = zb_path_join(arena, a->folder, newest),
                   *path_b = zb_path_join(arena, b->folder, other);
        if (zb_path_same(path_a, path_b))
            return zb_fail(err, ZB_ERR_USAGE,
                           "%s: both evaluations have this samples file, which the later one "
                           "wrote: give each a folder of its own (--log-samples)",
                           path_a);
        ZB_TRY(compare_files(task, path_a, path_b, &sum, out, err));
    }
    if (sum.n == 0)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s, %s: expected samples files of the same tasks (--log-samples), found "
                       "none",
                       a->folder, b->folder);
    sum_up(out, &sum);
    return ZB_OK;
}

void zb_comparison_free(zb_comparison *c) {
    zb_arena_free(&c->arena);
    *c = (zb_comparison){0};
}

zb_status zb_compare_run(const char *a, const char *b, zb_comparison *out, zb_err *err) {
    zb_arena arena = {0};
    *out = (zb_comparison){0};
    side sa = {0}, sb = {0};
    zb_status s = find_samples(a, &arena, &sa, err);
    if (s == ZB_OK) s = find_samples(b, &arena, &sb, err);
    if (s == ZB_OK) s = compare_sides(&sa, &sb, &arena, out, err);
    json_decref(sa.tasks);
    json_decref(sb.tasks);
    json_decref(sa.groups);
    json_decref(sb.groups);
    zb_arena_free(&arena);
    return s;
}

void zb_comparison_text(const zb_comparison *c, zb_buf *out) {
    zb_buf_adds(out, "|Task|Metric|Documents|A|B|B - A|Stderr|Better|Worse|Sign test|\n"
                     "|----|------|--------:|--:|--:|----:|-----:|-----:|----:|--------:|\n");
    for (size_t i = 0; i < c->n; i++) {
        const zb_compared *r = &c->row[i];
        zb_buf_addf(out, "|%s|%s|%lld|%.4f|%.4f|%+.4f|%.4f|%lld|%lld|%.4g|\n", r->task, r->metric,
                    (long long)r->n, r->a, r->b, r->difference.value, r->difference.stderr_of,
                    (long long)r->better, (long long)r->worse,
                    zb_compare_sign_test(r->better, r->worse));
    }
    if (c->counted > 1)
        zb_buf_addf(out, "|mean of %d tasks|||%.4f|%.4f|%+.4f|%.4f||||\n", c->counted, c->a, c->b,
                    c->difference.value, c->difference.stderr_of);
}

json_t *zb_comparison_json(const zb_comparison *c) {
    json_t *tasks = json_object(), *groups = json_object();
    for (size_t i = 0; i < c->n; i++) {
        const zb_compared *r = &c->row[i];
        json_t *in = r->group ? groups : tasks, *metrics = json_object_get(in, r->task);
        if (!metrics) json_object_set_new(in, r->task, metrics = json_object());
        json_object_set_new(metrics, r->metric,
                            json_pack("{s:I,s:o,s:o,s:o,s:o,s:I,s:I,s:f}", "n", (json_int_t)r->n,
                                      "a", zb_json_real(r->a), "b", zb_json_real(r->b),
                                      "difference", zb_json_real(r->difference.value), "stderr",
                                      zb_json_real(r->difference.stderr_of), "better",
                                      (json_int_t)r->better, "worse", (json_int_t)r->worse,
                                      "sign_test", zb_compare_sign_test(r->better, r->worse)));
    }
    return json_pack("{s:o,s:o,s:{s:i,s:o,s:o,s:o,s:o}}", "tasks", tasks, "groups", groups, "mean",
                     "tasks", c->counted, "a", zb_json_real(c->a), "b", zb_json_real(c->b),
                     "difference", zb_json_real(c->difference.value), "stderr",
                     zb_json_real(c->difference.stderr_of));
}
