/* report.c - the whole report, and its input from a file (contract in report.h).
 *
 * Order: read all measures, so that a broken file ends the report before anything is written; then
 * pictures, which may add to what is missing; then report.json and report.html, each whole or not
 * at all. */
#include "report/report.h"

#include "base/file.h"
#include "base/json.h"
#include "report/measure.h"
#include "report/page.h"
#include "report/plot.h"
#include "report/summary.h"

#include <string.h>

#define REPORT_FILE "report.json"
enum { INPUT_MAX = 4 << 20, PAGE_MAX = 512 << 20, LIST_MAX = 64 };

static zb_status write_files(zb_report_measures *m, zb_err *err) {
    zb_arena a = {0};
    zb_buf page;
    zb_report_plots plots;
    const char *dir = m->in->out_dir;
    zb_buf_init(&page, PAGE_MAX);
    zb_status s = zb_report_plots_make(m, &plots, &a, err);
    if (s == ZB_OK) {
        json_t *json = zb_report_json(m);
        s = zb_json_write(zb_path_join(&a, dir, REPORT_FILE), json, err);
        json_decref(json);
    }
    const char *path = zb_path_join(&a, dir, "report.html");
    if (s == ZB_OK) {
        zb_report_page(m, &plots, &page);
        s = page.overflow
                ? zb_fail(err, ZB_ERR_FORMAT, "%s: expected at most %d MiB", path, PAGE_MAX >> 20)
                : zb_file_write(path, page.p, page.n, err);
    }
    zb_buf_free(&page);
    zb_arena_free(&a);
    return s;
}

zb_status zb_report_write(const zb_report_input *in, zb_buf *table, zb_err *err) {
    ZB_ASSERT(in->out_dir);
    zb_report_measures m;
    zb_status s = zb_report_measure(&m, in, err);
    if (s == ZB_OK) s = zb_dir_make(in->out_dir, err);
    if (s == ZB_OK) s = write_files(&m, err);
    if (s == ZB_OK && table) zb_report_markdown(&m, table);
    zb_report_measures_free(&m);
    return s;
}

/* A reader of the input file: strings are copied, paths are put behind the folder. */
typedef struct source {
    const char *path, *dir;
    zb_arena *a;
    zb_err *err;
} source;

static zb_status take_text(const source *f, const json_t *o, const char *where, const char *key,
                           bool required, const char **out) {
    const char *s = NULL;
    ZB_TRY(zb_json_str(o, where, key, required, &s, f->err));
    if (s) *out = zb_strdup(f->a, s);
    return ZB_OK;
}

static zb_status take_path(const source *f, const json_t *o, const char *where, const char *key,
                           const char **out) {
    ZB_TRY(take_text(f, o, where, key, false, out));
    if (*out && **out != '/') *out = zb_path_join(f->a, f->dir, *out);
    return ZB_OK;
}

/* The list `key` of objects, with at most LIST_MAX items. */
static zb_status take_list(const source *f, const json_t *o, const char *key, bool required,
                           json_t **list) {
    *list = NULL;
    ZB_TRY(zb_json_array(o, f->path, key, required, list, f->err));
    size_t i, n = json_array_size(*list);
    json_t *v;
    if (n > LIST_MAX)
        return zb_fail(f->err, ZB_ERR_FORMAT, "%s: %s: expected at most %d items, found %zu",
                       f->path, key, LIST_MAX, n);
    json_array_foreach(*list, i, v) if (!json_is_object(v)) return zb_fail(
        f->err, ZB_ERR_FORMAT, "%s: %s[%zu]: expected an object, found %s", f->path, key, i,
        zb_json_type(v));
    return ZB_OK;
}

static zb_status take_seconds(const source *f, const json_t *o, const char *where,
                              zb_report_model *model) {
    json_t *seconds = NULL, *v;
    const char *stage;
    ZB_TRY(zb_json_object(o, where, "seconds", false, &seconds, f->err));
    zb_report_time *time = ZB_NEW_ARRAY(f->a, zb_report_time, json_object_size(seconds));
    json_object_foreach(seconds, stage, v) {
        if (!json_is_number(v) || json_number_value(v) < 0)
            return zb_fail(f->err, ZB_ERR_FORMAT,
                           "%s: seconds.%s: expected a number from 0, found %s", where, stage,
                           json_is_number(v) ? "less" : zb_json_type(v));
        time[model->n_seconds++] =
            (zb_report_time){.stage = zb_strdup(f->a, stage), .seconds = json_number_value(v)};
    }
    model->seconds = time;
    return ZB_OK;
}

static zb_status take_models(const source *f, const json_t *file, zb_report_input *in) {
    json_t *list, *o;
    size_t i;
    ZB_TRY(take_list(f, file, "models", true, &list));
    zb_report_model *model = ZB_NEW_ARRAY(f->a, zb_report_model, json_array_size(list));
    json_array_foreach(list, i, o) {
        zb_report_model *r = &model[i];
        char where[512];
        snprintf(where, sizeof where, "%s: models[%zu]", f->path, i);
        ZB_TRY(take_text(f, o, where, "name", true, &r->name));
        ZB_TRY(take_text(f, o, where, "title", false, &r->title));
        ZB_TRY(take_path(f, o, where, "eval", &r->eval));
        ZB_TRY(take_path(f, o, where, "recall", &r->recall));
        ZB_TRY(take_path(f, o, where, "perplexity", &r->perplexity));
        ZB_TRY(take_path(f, o, where, "bench", &r->bench));
        ZB_TRY(take_path(f, o, where, "inspect", &r->inspect));
        ZB_TRY(take_path(f, o, where, "paired", &r->paired));
        ZB_TRY(
            zb_json_int(o, where, "train_tokens", false, 0, INT64_MAX, &r->train_tokens, f->err));
        ZB_TRY(take_seconds(f, o, where, r));
    }
    in->model = model;
    in->n_models = (int)json_array_size(list);
    return ZB_OK;
}

static zb_status take_logs(const source *f, const json_t *file, zb_report_input *in) {
    json_t *list, *o;
    size_t i;
    ZB_TRY(take_list(f, file, "logs", false, &list));
    zb_report_log *log = ZB_NEW_ARRAY(f->a, zb_report_log, json_array_size(list));
    json_array_foreach(list, i, o) {
        char where[512];
        snprintf(where, sizeof where, "%s: logs[%zu]", f->path, i);
        ZB_TRY(take_text(f, o, where, "stage", true, &log[i].stage));
        ZB_TRY(take_path(f, o, where, "path", &log[i].path));
    }
    in->log = log;
    in->n_logs = (int)json_array_size(list);
    return ZB_OK;
}

static zb_status take_facts(const source *f, const json_t *file, zb_report_input *in) {
    json_t *facts = NULL, *v;
    const char *name;
    ZB_TRY(zb_json_object(file, f->path, "facts", false, &facts, f->err));
    zb_report_fact *fact = ZB_NEW_ARRAY(f->a, zb_report_fact, json_object_size(facts));
    json_object_foreach(facts, name, v) {
        ZB_TRY(take_text(f, facts, f->path, name, true, &fact[in->n_facts].value));
        fact[in->n_facts++].name = zb_strdup(f->a, name);
    }
    in->fact = fact;
    return ZB_OK;
}

static zb_status take_all(const source *f, const json_t *file, zb_report_input *in) {
    if (!json_is_object(file))
        return zb_fail(f->err, ZB_ERR_FORMAT, "%s: expected an object, found %s", f->path,
                       zb_json_type(file));
    ZB_TRY(take_text(f, file, f->path, "title", false, &in->title));
    ZB_TRY(take_models(f, file, in));
    ZB_TRY(take_logs(f, file, in));
    ZB_TRY(take_path(f, file, f->path, "select", &in->select));
    ZB_TRY(take_path(f, file, f->path, "samples", &in->samples));
    ZB_TRY(take_path(f, file, f->path, "recipe", &in->recipe));
    return take_facts(f, file, in);
}

zb_status zb_report_input_read(zb_report_input *in, const char *path, zb_arena *a, zb_err *err) {
    const char *base = zb_path_base(path);
    size_t n = (size_t)(base - path);
    while (n > 1 && path[n - 1] == '/') n--;
    source f = {.path = path, .dir = n ? zb_strndup(a, path, n) : ".", .a = a, .err = err};
    *in = (zb_report_input){.out_dir = f.dir};
    if (!strcmp(base, REPORT_FILE))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: expected an input of another name: the report is written there", path);
    json_t *file;
    ZB_TRY(zb_json_read(path, INPUT_MAX, &file, err));
    zb_status s = take_all(&f, file, in);
    json_decref(file);
    return s;
}
