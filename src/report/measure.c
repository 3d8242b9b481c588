/* measure.c - reading the files of a report (contract in measure.h).
 *
 * Each file has one reader, which checks what it takes: type, range, count. Files are made by the
 * program itself or by others with the same keys, and may be of any age, so unknown keys are
 * ignored and every key that is not needed to place a number may be absent.
 *
 * Tasks: a harness file lists wholes, groups and parts side by side. The tasks of a report are the
 * rows that no other row counts among its parts ("group_subtasks"); a table of 57 parts of MMLU
 * would bury the others. The number of documents is "sample_len" of the row, else the effective
 * "n-samples", summed over the parts for a group. */
#include "report/measure.h"

#include "base/file.h"
#include "base/json.h"
#include "report/recall.h"
#include "report/training.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    FILE_MAX = 64 << 20, /* bytes of one JSON file */
    ROWS_MAX = 4096,     /* tasks, bench rows, layers, samples */
    GROUP_DEPTH = 8
};

const char *const zb_report_average_rule = "unweighted mean over tasks of acc_norm for "
                                           "arc_challenge, hellaswag and openbookqa, of acc for "
                                           "all others";

void zb_report_measures_free(zb_report_measures *m) {
    zb_arena_free(&m->arena);
    *m = (zb_report_measures){0};
}

void zb_report_miss(zb_report_measures *m, const char *fmt, ...) {
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    m->missing =
        zb_grow(&m->arena, m->missing, &m->missing_cap, m->n_missing + 1, sizeof *m->missing);
    m->missing[m->n_missing++] = zb_strdup(&m->arena, text);
}

/* True when the file is there; else notes what the report lacks. */
static bool present(zb_report_measures *m, const char *path, const char *whose, const char *what) {
    if (path && zb_file_exists(path)) return true;
    const char *of = whose ? whose : "", *colon = whose ? ": " : "";
    if (path)
        zb_report_miss(m, "%s%s%s: no file %s", of, colon, what, path);
    else
        zb_report_miss(m, "%s%s%s: not measured", of, colon, what);
    return false;
}

static zb_status ranged(const json_t *o, const char *where, const char *key, double low,
                        double high, double *out, zb_err *err) {
    ZB_TRY(zb_json_f64(o, where, key, false, out, err));
    if (*out < low || *out > high) /* NAN (absent) compares false */
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected %g to %g, found %g", where,
                       key, low, high, *out);
    return ZB_OK;
}

/* A standard error: the harness writes "N/A" where there is none. */
static zb_status error_of(const json_t *o, const char *where, const char *key, double *out,
                          zb_err *err) {
    if (json_is_string(json_object_get(o, key))) return ZB_OK;
    return ranged(o, where, key, 0, 1, out, err);
}

/* The names that some group counts among its parts, as the keys of an object: new reference. */
static json_t *part_names(const json_t *subtasks) {
    json_t *names = json_object(), *parts, *part;
    const char *whole;
    size_t i;
    json_object_foreach((json_t *)subtasks, whole, parts) {
        json_array_foreach(parts, i, part) {
            const char *s = json_string_value(part);
            if (s && strcmp(whole, s)) json_object_set_new(names, s, json_true());
        }
    }
    return names;
}

/* Documents of a row; *budget bounds the walk over groups that name each other. */
static int64_t documents(const json_t *file, const char *name, int depth, int *budget) {
    const json_t *row = json_object_get(json_object_get(file, "results"), name);
    const json_t *n = json_object_get(row, "sample_len");
    if (!json_is_integer(n))
        n = json_object_get(json_object_get(json_object_get(file, "n-samples"), name), "effective");
    if (json_is_integer(n) && json_integer_value(n) >= 0) return json_integer_value(n);
    const json_t *parts = json_object_get(json_object_get(file, "group_subtasks"), name), *part;
    int64_t sum = -1;
    size_t i;
    json_array_foreach(parts, i, part) {
        if (!json_is_string(part) || depth >= GROUP_DEPTH || --*budget < 0) return -1;
        int64_t k = documents(file, json_string_value(part), depth + 1, budget);
        if (k < 0 || k > INT64_MAX / ROWS_MAX) return -1;
        sum = (sum < 0 ? 0 : sum) + k;
    }
    return sum;
}

/* Most examples before a question of the row, or of its parts: groups have no number. */
static int64_t shots(const json_t *file, const char *name, int depth, int *budget) {
    const json_t *n = json_object_get(json_object_get(file, "n-shot"), name);
    if (json_is_integer(n)) return json_integer_value(n) > 0 ? json_integer_value(n) : 0;
    const json_t *parts = json_object_get(json_object_get(file, "group_subtasks"), name), *part;
    int64_t most = 0;
    size_t i;
    json_array_foreach(parts, i, part) {
        if (!json_is_string(part) || depth >= GROUP_DEPTH || --*budget < 0) return most;
        int64_t k = shots(file, json_string_value(part), depth + 1, budget);
        if (k > most) most = k;
    }
    return most;
}

static bool takes_norm(const char *task) {
    return !strcmp(task, "arc_challenge") || !strcmp(task, "hellaswag") ||
           !strcmp(task, "openbookqa");
}

static zb_status read_task(const json_t *file, const char *path, const char *name,
                           const json_t *row, zb_report_task *t, zb_err *err) {
    double none = (double)NAN;
    *t = (zb_report_task){.name = name,
                          .acc = none,
                          .acc_stderr = none,
                          .acc_norm = none,
                          .acc_norm_stderr = none,
                          .paired_stderr = none};
    char where[512];
    snprintf(where, sizeof where, "%s: results.%s", path, name);
    ZB_TRY(ranged(row, where, "acc,none", 0, 1, &t->acc, err));
    ZB_TRY(ranged(row, where, "acc_norm,none", 0, 1, &t->acc_norm, err));
    ZB_TRY(error_of(row, where, "acc_stderr,none", &t->acc_stderr, err));
    ZB_TRY(error_of(row, where, "acc_norm_stderr,none", &t->acc_norm_stderr, err));
    int budget = ROWS_MAX;
    t->n = documents(file, name, 0, &budget);
    budget = ROWS_MAX;
    t->shots = shots(file, name, 0, &budget);
    t->norm = takes_norm(name) && !isnan(t->acc_norm);
    return ZB_OK;
}

static zb_status read_tasks(zb_report_measures *m, zb_report_measured *r, const json_t *file,
                            const char *path, const json_t *parts, zb_err *err) {
    json_t *results, *row;
    const char *name;
    ZB_TRY(zb_json_object(file, path, "results", true, &results, err));
    if (json_object_size(results) > ROWS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: results: expected at most %d tasks, found %zu",
                       path, ROWS_MAX, json_object_size(results));
    r->task = ZB_NEW_ARRAY(&m->arena, zb_report_task, json_object_size(results));
    json_object_foreach(results, name, row) {
        if (!json_is_object(row))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: results.%s: expected an object, found %s", path,
                           name, zb_json_type(row));
        if (json_object_get(parts, name)) continue;
        zb_report_task t;
        ZB_TRY(read_task(file, path, zb_strdup(&m->arena, name), row, &t, err));
        if (!isnan(zb_report_score(&t))) r->task[r->n_tasks++] = t;
    }
    if (!r->n_tasks) zb_report_miss(m, "%s: evaluation: %s holds no accuracy", r->name, path);
    return ZB_OK;
}

static zb_status read_eval(zb_report_measures *m, zb_report_measured *r, const json_t *file,
                           const char *path, zb_err *err) {
    json_t *subtasks = NULL;
    ZB_TRY(zb_json_object(file, path, "group_subtasks", false, &subtasks, err));
    json_t *parts = part_names(subtasks);
    zb_status s = read_tasks(m, r, file, path, parts, err);
    json_decref(parts);
    return s;
}

/* The row of a task's score in a file of paired differences; NULL: it has none. */
static zb_status find_paired(const json_t *file, const char *path, const zb_report_task *t,
                             json_t **row, zb_err *err) {
    static const char *const parts[] = {"groups", "tasks"};
    *row = NULL;
    for (int i = 0; i < 2 && !*row; i++) {
        json_t *part = NULL, *task = NULL;
        ZB_TRY(zb_json_object(file, path, parts[i], false, &part, err));
        if (part) ZB_TRY(zb_json_object(part, path, t->name, false, &task, err));
        if (task) ZB_TRY(zb_json_object(task, path, t->norm ? "acc_norm" : "acc", false, row, err));
    }
    return ZB_OK;
}

static zb_status read_paired(zb_report_measures *m, zb_report_measured *r, const json_t *file,
                             const char *path, zb_err *err) {
    for (int i = 0; i < r->n_tasks; i++) {
        zb_report_task *t = &r->task[i];
        const zb_report_task *first = zb_report_task_find(&m->model[0], t->name);
        json_t *row = NULL;
        if (first) ZB_TRY(find_paired(file, path, t, &row, err));
        if (!row) continue;
        double found = (double)NAN, expected = zb_report_score(t) - zb_report_score(first);
        char where[512];
        snprintf(where, sizeof where, "%s: %s", path, t->name);
        ZB_TRY(ranged(row, where, "difference", -1, 1, &found, err));
        if (!(fabs(found - expected) < 1e-6))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: difference: expected that of the scores, %.6f, found %.6f: of "
                           "other evaluations",
                           where, expected, found);
        ZB_TRY(ranged(row, where, "stderr", 0, 1, &t->paired_stderr, err));
    }
    return ZB_OK;
}

static zb_status read_perplexity(zb_report_measures *m, zb_report_measured *r, const json_t *file,
                                 const char *path, zb_err *err) {
    (void)m;
    ZB_TRY(ranged(file, path, "perplexity", 1, (double)INFINITY, &r->perplexity, err));
    ZB_TRY(ranged(file, path, "kl_to_teacher", -1e-3, (double)INFINITY, &r->kl_to_teacher, err));
    return zb_json_int(file, path, "tokens", false, 0, INT64_MAX, &r->perplexity_tokens, err);
}

static int by_place(const void *a, const void *b) {
    int64_t x = ((const zb_report_speed *)a)->at, y = ((const zb_report_speed *)b)->at;
    return (x > y) - (x < y);
}

/* "pp512" is a prompt of 512 tokens, "tg32" or "tg32 @ d1024" are 32 tokens decoded after `depth`
 * tokens of context. */
static zb_status read_bench_row(zb_report_measured *r, const json_t *row, const char *where,
                                zb_err *err) {
    const char *test;
    int64_t depth = 0, batch = 1, length;
    zb_report_speed s = {.rate = (double)NAN, .sd = (double)NAN};
    ZB_TRY(zb_json_str(row, where, "test", true, &test, err));
    ZB_TRY(zb_json_int(row, where, "depth", false, 0, INT64_MAX, &depth, err));
    ZB_TRY(zb_json_int(row, where, "batch", false, 1, INT64_MAX, &batch, err));
    ZB_TRY(ranged(row, where, "tokens_per_second", 0, 1e12, &s.rate, err));
    ZB_TRY(
        ranged(row, where, json_object_get(row, "sd") ? "sd" : "deviation", 0, 1e12, &s.sd, err));
    bool prefill = !strncmp(test, "pp", 2), decode = !strncmp(test, "tg", 2);
    if ((!prefill && !decode) || strchr(test, '+') || batch > 1)
        return ZB_OK; /* another kind of test */
    char count[24];
    snprintf(count, sizeof count, "%.*s", (int)strcspn(test + 2, " "), test + 2);
    if (!zb_parse_i64(count, &length) || length <= 0)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: key \"test\": expected pp or tg and a count of tokens, found %.40s",
                       where, test);
    if (isnan(s.rate))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"tokens_per_second\" is missing", where);
    if (prefill && depth > 0) return ZB_OK; /* the table is of prompts from the start */
    s.at = prefill ? length : depth;
    zb_report_speed *list = prefill ? r->prefill : r->decode;
    int *n = prefill ? &r->n_prefill : &r->n_decode;
    if (!isnan(zb_report_speed_at(list, *n, s.at))) return ZB_OK; /* the first of its place holds */
    list[(*n)++] = s;
    return ZB_OK;
}

static zb_status read_bench(zb_report_measures *m, zb_report_measured *r, const json_t *file,
                            const char *path, zb_err *err) {
    json_t *rows = (json_t *)file, *row;
    size_t i;
    if (json_is_object(file)) ZB_TRY(zb_json_array(file, path, "results", true, &rows, err));
    if (!json_is_array(rows) || json_array_size(rows) > ROWS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an array of at most %d rows, found %s",
                       path, ROWS_MAX, zb_json_type(rows));
    r->prefill = ZB_NEW_ARRAY(&m->arena, zb_report_speed, json_array_size(rows));
    r->decode = ZB_NEW_ARRAY(&m->arena, zb_report_speed, json_array_size(rows));
    json_array_foreach(rows, i, row) {
        char where[512];
        snprintf(where, sizeof where, "%s: row %zu", path, i);
        if (!json_is_object(row))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                           zb_json_type(row));
        ZB_TRY(read_bench_row(r, row, where, err));
    }
    qsort(r->prefill, (size_t)r->n_prefill, sizeof *r->prefill, by_place);
    qsort(r->decode, (size_t)r->n_decode, sizeof *r->decode, by_place);
    return ZB_OK;
}

static zb_status read_inspect(zb_report_measures *m, zb_report_measured *r, const json_t *file,
                              const char *path, zb_err *err) {
    ZB_TRY(ranged(file, path, "kv_percent", 0, 1e6, &r->kv_percent, err));
    ZB_TRY(ranged(file, path, "kv_bytes_per_token", 0, 1e15, &r->kv_bytes_per_token, err));
    ZB_TRY(ranged(file, path, "state_bytes", 0, 1e15, &r->state_bytes, err));
    ZB_TRY(ranged(file, path, "parameters", 0, 1e15, &r->parameters, err));
    json_t *layers = NULL, *layer;
    size_t i;
    ZB_TRY(zb_json_array(file, path, "layers", false, &layers, err));
    if (json_array_size(layers) > ROWS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: layers: expected at most %d, found %zu", path,
                       ROWS_MAX, json_array_size(layers));
    r->layer = ZB_NEW_ARRAY(&m->arena, const char *, json_array_size(layers));
    json_array_foreach(layers, i, layer) {
        char where[512];
        const char *kind;
        snprintf(where, sizeof where, "%s: layers[%zu]", path, i);
        if (!json_is_object(layer))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                           zb_json_type(layer));
        ZB_TRY(zb_json_str(layer, where, "kind", true, &kind, err));
        r->layer[r->n_layers++] = zb_strdup(&m->arena, kind);
    }
    return ZB_OK;
}

static zb_status read_choice(zb_report_measures *m, const json_t *file, const char *path,
                             zb_err *err) {
    json_t *values = NULL, *layers = NULL, *v;
    size_t i;
    const char *method = NULL;
    ZB_TRY(zb_json_str(file, path, "method", false, &method, err));
    ZB_TRY(zb_json_array(file, path, "sensitivity", false, &values, err));
    ZB_TRY(zb_json_array(file, path, "layers", false, &layers, err));
    if (json_array_size(values) > ROWS_MAX || json_array_size(layers) > ROWS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected at most %d layers", path, ROWS_MAX);
    if (method) m->method = zb_strdup(&m->arena, method);
    m->sensitivity = ZB_NEW_ARRAY(&m->arena, double, json_array_size(values));
    m->chosen = ZB_NEW_ARRAY(&m->arena, bool, json_array_size(values));
    m->chosen_layer = ZB_NEW_ARRAY(&m->arena, int, json_array_size(layers));
    json_array_foreach(values, i, v) {
        if (!json_is_number(v))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: sensitivity[%zu]: expected a number, found %s",
                           path, i, zb_json_type(v));
        m->sensitivity[m->n_sensitivity++] = json_number_value(v);
    }
    json_array_foreach(layers, i, v) {
        json_int_t limit = values ? m->n_sensitivity : ROWS_MAX, k = json_integer_value(v);
        if (!json_is_integer(v) || k < 0 || k >= limit)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: layers[%zu]: expected a layer from 0 to %lld, found %s", path, i,
                           (long long)limit - 1,
                           json_is_integer(v) ? "another number" : zb_json_type(v));
        m->chosen_layer[m->n_chosen++] = (int)k;
        if (k < m->n_sensitivity) m->chosen[k] = true;
    }
    return ZB_OK;
}

static zb_status read_plans(zb_report_measures *m, const json_t *file, const char *path,
                            zb_err *err) {
    json_t *rows = NULL, *v;
    size_t i;
    ZB_TRY(zb_json_array(file, path, "compare", false, &rows, err));
    if (json_array_size(rows) > ROWS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: compare: expected at most %d plans", path,
                       ROWS_MAX);
    m->plan = ZB_NEW_ARRAY(&m->arena, zb_report_plan, json_array_size(rows));
    m->teacher_recall = (double)NAN;
    ZB_TRY(ranged(file, path, "teacher_recall", 0, 1e6, &m->teacher_recall, err));
    json_array_foreach(rows, i, v) {
        char where[512];
        const char *method;
        const double none = (double)NAN;
        zb_report_plan p = {.bytes = none, .predicted = none, .kl = none, .recall = none};
        snprintf(where, sizeof where, "%s: compare[%zu]", path, i);
        if (!json_is_object(v))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                           zb_json_type(v));
        ZB_TRY(zb_json_str(v, where, "method", true, &method, err));
        p.method = zb_strdup(&m->arena, method);
        ZB_TRY(zb_json_f64(v, where, "context", true, &p.context, err));
        ZB_TRY(zb_json_f64(v, where, "percent", true, &p.percent, err));
        ZB_TRY(ranged(v, where, "context", 1, 1e12, &p.context, err));
        ZB_TRY(ranged(v, where, "percent", 0, 1e6, &p.percent, err));
        ZB_TRY(ranged(v, where, "bytes", 0, 1e18, &p.bytes, err));
        ZB_TRY(ranged(v, where, "predicted_kl", -1, 1e9, &p.predicted, err));
        ZB_TRY(ranged(v, where, "kl", -1, 1e9, &p.kl, err));
        ZB_TRY(ranged(v, where, "recall", 0, 1e9, &p.recall, err));
        m->plan[m->n_plans++] = p;
    }
    return ZB_OK;
}

static zb_status read_samples(zb_report_measures *m, const json_t *file, const char *path,
                              zb_err *err) {
    const json_t *row;
    size_t i;
    if (!json_is_array(file) || json_array_size(file) > ROWS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an array of at most %d samples, found %s",
                       path, ROWS_MAX, zb_json_type(file));
    m->sample = ZB_NEW_ARRAY(&m->arena, zb_report_sample, json_array_size(file));
    json_array_foreach(file, i, row) {
        char where[512];
        snprintf(where, sizeof where, "%s: sample %zu", path, i);
        if (!json_is_object(row))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                           zb_json_type(row));
        const char *text;
        zb_report_sample *s = &m->sample[m->n_samples];
        ZB_TRY(zb_json_str(row, where, "prompt", true, &text, err));
        s->prompt = zb_strdup(&m->arena, text);
        s->text = ZB_NEW_ARRAY(&m->arena, const char *, m->n_models);
        for (int k = 0; k < m->n_models; k++) {
            text = NULL;
            ZB_TRY(zb_json_str(row, where, m->model[k].name, false, &text, err));
            if (text) s->text[k] = zb_strdup(&m->arena, text);
        }
        m->n_samples++;
    }
    return ZB_OK;
}

typedef zb_status model_reader(zb_report_measures *, zb_report_measured *, const json_t *,
                               const char *, zb_err *);

static zb_status read_part(zb_report_measures *m, zb_report_measured *r, const char *path,
                           const char *what, model_reader *read, zb_err *err) {
    if (!present(m, path, r->name, what)) return ZB_OK;
    json_t *file;
    ZB_TRY(zb_json_read(path, FILE_MAX, &file, err));
    zb_status s = ZB_OK;
    if (!json_is_object(file) && read != read_bench)
        s = zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", path,
                    zb_json_type(file));
    if (s == ZB_OK) s = read(m, r, file, path, err);
    json_decref(file);
    return s;
}

static zb_status read_model(zb_report_measures *m, zb_report_measured *r, const zb_report_model *in,
                            zb_err *err) {
    double none = (double)NAN;
    *r = (zb_report_measured){.name = in->name,
                              .title = in->title ? in->title : in->name,
                              .kv_percent = none,
                              .kv_bytes_per_token = none,
                              .state_bytes = none,
                              .parameters = none,
                              .perplexity = none,
                              .kl_to_teacher = none,
                              .perplexity_tokens = -1,
                              .train_tokens = in->train_tokens > 0 ? in->train_tokens : -1,
                              .seconds = in->seconds,
                              .n_seconds = in->n_seconds};
    ZB_TRY(read_part(m, r, in->inspect, "sizes", read_inspect, err));
    ZB_TRY(read_part(m, r, in->perplexity, "perplexity", read_perplexity, err));
    ZB_TRY(read_part(m, r, in->bench, "speed", read_bench, err));
    ZB_TRY(read_part(m, r, in->recall, "recall tests", zb_report_recall_read, err));
    ZB_TRY(read_part(m, r, in->eval, "evaluation", read_eval, err));
    if (!in->paired || r == m->model) return ZB_OK;
    return read_part(m, r, in->paired, "paired differences", read_paired, err);
}

/* Names are keys of report.json and columns of tables. */
static zb_status check_names(const zb_report_input *in, zb_err *err) {
    if (in->n_models < 1 || in->n_models > ZB_REPORT_MODELS_MAX)
        return zb_fail(err, ZB_ERR_CONFIG, "report: expected 1 to %d models, found %d",
                       ZB_REPORT_MODELS_MAX, in->n_models);
    static const char *const taken[] = {"average_rule", "missing", "zebra_version", "prompt"};
    for (int i = 0; i < in->n_models; i++) {
        const char *name = in->model[i].name;
        bool bad = !name || !*name || strlen(name) > 64;
        for (const char *c = name; !bad && *c; c++)
            bad = (unsigned char)*c <= ' ' || (unsigned char)*c >= 127;
        if (bad)
            return zb_fail(
                err, ZB_ERR_CONFIG,
                "report: model %d: expected a name of 1 to 64 printable ASCII characters", i);
        for (size_t k = 0; k < sizeof taken / sizeof *taken; k++) bad |= !strcmp(name, taken[k]);
        for (int k = 0; k < i; k++) bad |= !strcmp(name, in->model[k].name);
        if (bad)
            return zb_fail(err, ZB_ERR_CONFIG, "report: model %d: the name \"%s\" is already taken",
                           i, name);
    }
    return ZB_OK;
}

static zb_status read_shared(zb_report_measures *m, zb_err *err) {
    const zb_report_input *in = m->in;
    json_t *file;
    zb_status s;
    if (present(m, in->select, NULL, "layer choice")) {
        ZB_TRY(zb_json_read(in->select, FILE_MAX, &file, err));
        s = json_is_object(file) ? read_choice(m, file, in->select, err)
                                 : zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s",
                                           in->select, zb_json_type(file));
        if (s == ZB_OK) s = read_plans(m, file, in->select, err);
        json_decref(file);
        ZB_TRY(s);
    }
    if (present(m, in->samples, NULL, "sample generations")) {
        ZB_TRY(zb_json_read(in->samples, FILE_MAX, &file, err));
        s = read_samples(m, file, in->samples, err);
        json_decref(file);
        ZB_TRY(s);
    }
    if (present(m, in->recipe, NULL, "recipe"))
        ZB_TRY(zb_file_read(in->recipe, 1 << 20, &m->arena, &m->recipe, err));
    m->stage = ZB_NEW_ARRAY(&m->arena, zb_report_stage, in->n_logs);
    for (int i = 0; i < in->n_logs; i++) {
        if (!present(m, in->log[i].path, in->log[i].stage, "training log")) continue;
        zb_report_stage *stage = &m->stage[m->n_stages];
        ZB_TRY(zb_report_stage_read(stage, in->log[i].stage, in->log[i].path, &m->arena, err));
        m->n_stages++;
    }
    return ZB_OK;
}

zb_status zb_report_measure(zb_report_measures *m, const zb_report_input *in, zb_err *err) {
    *m = (zb_report_measures){.in = in};
    ZB_TRY(check_names(in, err));
    m->model = ZB_NEW_ARRAY(&m->arena, zb_report_measured, in->n_models);
    for (; m->n_models < in->n_models; m->n_models++)
        ZB_TRY(read_model(m, &m->model[m->n_models], &in->model[m->n_models], err));
    ZB_TRY(read_shared(m, err));
    zb_report_measured *last = &m->model[m->n_models - 1];
    if (last->train_tokens < 0 && m->n_models > 1 && m->n_stages > 0) {
        last->train_tokens = 0;
        for (int i = 0; i < m->n_stages; i++)
            if (!strcmp(m->stage[i].unit, "tokens")) last->train_tokens += m->stage[i].done;
    }
    return ZB_OK;
}

double zb_report_score(const zb_report_task *t) { return t->norm ? t->acc_norm : t->acc; }

double zb_report_score_stderr(const zb_report_task *t) {
    return t->norm ? t->acc_norm_stderr : t->acc_stderr;
}

const zb_report_task *zb_report_task_find(const zb_report_measured *m, const char *name) {
    for (int i = 0; i < m->n_tasks; i++)
        if (!strcmp(m->task[i].name, name)) return &m->task[i];
    return NULL;
}

bool zb_report_zero_shot(const zb_report_measures *m) {
    for (int i = 0; i < m->n_models; i++)
        for (int k = 0; k < m->model[i].n_tasks; k++)
            if (m->model[i].task[k].shots > 0) return false;
    return true;
}

bool zb_report_same_tasks(const zb_report_measured *a, const zb_report_measured *b) {
    for (int i = 0; i < a->n_tasks; i++)
        if (!zb_report_task_find(b, a->task[i].name)) return false;
    return a->n_tasks == b->n_tasks;
}

double zb_report_average(const zb_report_measured *m, double *stderr_of) {
    double sum = 0, squares = 0;
    for (int i = 0; i < m->n_tasks; i++) {
        double e = zb_report_score_stderr(&m->task[i]);
        sum += zb_report_score(&m->task[i]);
        squares += e * e;
    }
    if (stderr_of) *stderr_of = m->n_tasks ? sqrt(squares) / m->n_tasks : (double)NAN;
    return m->n_tasks ? sum / m->n_tasks : (double)NAN;
}

double zb_report_difference(const zb_report_measured *a, const zb_report_measured *b,
                            double *stderr_of, bool *paired) {
    double ea, eb, squares = 0, d = zb_report_average(b, &eb) - zb_report_average(a, &ea);
    for (int i = 0; i < b->n_tasks; i++)
        squares += b->task[i].paired_stderr * b->task[i].paired_stderr;
    *paired = b->n_tasks > 0 && !isnan(squares);
    *stderr_of = *paired ? sqrt(squares) / b->n_tasks : sqrt(ea * ea + eb * eb);
    return zb_report_same_tasks(a, b) ? d : (double)NAN;
}

double zb_report_chance(const char *task) {
    static const struct {
        const char *name;
        double share;
    } known[] = {{"arc_challenge", 0.25}, {"arc_easy", 0.25},   {"hellaswag", 0.25},
                 {"mmlu", 0.25},          {"openbookqa", 0.25}, {"race", 0.25},
                 {"piqa", 0.5},           {"winogrande", 0.5},  {"boolq", 0.5}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, task)) return known[i].share;
    return (double)NAN;
}

double zb_report_speed_at(const zb_report_speed *s, int n, int64_t at) {
    for (int i = 0; i < n; i++)
        if (s[i].at == at) return s[i].rate;
    return (double)NAN;
}

double zb_report_seconds(const zb_report_measured *m) {
    double sum = 0;
    for (int i = 0; i < m->n_seconds; i++) sum += m->seconds[i].seconds;
    return m->n_seconds ? sum : (double)NAN;
}
