/* summary.c - report.json and the table of results (contract in summary.h).
 *
 * Ratios are value / value of the first model. A difference of scores is to be read against the
 * standard errors printed beside them; both models answer the same documents, so the error of a
 * difference is smaller than that of two independent means, and quoting both is the careful side.
 */
#include "report/summary.h"

#include "report/label.h"
#include "report/recall.h"

#include <math.h>
#include <string.h>

/* arXiv 2505.17272 and the released models' pages: ARC-C, HellaSwag, OpenBookQA acc_norm; ARC-E,
 * MMLU, PIQA, RACE, WinoGrande acc. */
const zb_report_published zb_report_published_list[] = {
    {"Zebra-Llama 1B", "8 MLA + 8 Mamba2", "7 B", 7.81, 51.87, 52.94},
    {"Zebra-Llama 1B", "4 MLA + 12 Mamba2", "7 B", 3.91, 51.87, 52.03},
    {"Zebra-Llama 3B", "6 MLA + 22 Mamba2", "9 B", 2.01, 58.13, 59.75},
    {"Zebra-Llama 8B", "8 MLA + 24 Mamba2", "11 B", 2.73, 65.53, 64.12},
};
const int zb_report_n_published =
    sizeof zb_report_published_list / sizeof *zb_report_published_list;

static const char memory[] = "Memory", quality[] = "Quality", recall[] = "Recall",
                  speed[] = "Speed", cost[] = "Cost";

static zb_report_row *new_row(zb_report_rows *rows, const zb_report_measures *m,
                              const char *section, const char *label, zb_arena *a) {
    rows->row = zb_grow(a, rows->row, &rows->cap, rows->n + 1, sizeof *rows->row);
    zb_report_row *r = &rows->row[rows->n++];
    *r = (zb_report_row){.section = section, .label = label, .ratio = true};
    r->cell = ZB_NEW_ARRAY(a, const char *, m->n_models);
    r->value = ZB_NEW_ARRAY(a, double, m->n_models);
    for (int i = 0; i < m->n_models; i++) {
        r->value[i] = (double)NAN;
        r->cell[i] = "\xe2\x80\x93";
    }
    return r;
}

/* Takes the newest row away again when no model has a value. */
static void drop_empty(zb_report_rows *rows, int n_models) {
    const zb_report_row *r = &rows->row[rows->n - 1];
    for (int i = 0; i < n_models; i++)
        if (!isnan(r->value[i])) return;
    rows->n--;
}

typedef void format_fn(double x, char out[ZB_LABEL]);

static void as_percent(double x, char out[ZB_LABEL]) { snprintf(out, ZB_LABEL, "%.2f", x); }
static void as_perplexity(double x, char out[ZB_LABEL]) {
    snprintf(out, ZB_LABEL, x < 1000 ? "%.2f" : "%.4g", x);
}
static void as_kl(double x, char out[ZB_LABEL]) { snprintf(out, ZB_LABEL, "%.3f", x); }

/* A row of one number per model, found at `offset` of zb_report_measured. */
static zb_report_row *add_field(zb_report_rows *rows, const zb_report_measures *m,
                                const char *section, const char *label, size_t offset,
                                format_fn *format, zb_arena *a) {
    zb_report_row *r = new_row(rows, m, section, label, a);
    for (int i = 0; i < m->n_models; i++) {
        double x;
        memcpy(&x, (const char *)&m->model[i] + offset, sizeof x);
        if (isnan(x)) continue;
        char text[ZB_LABEL];
        format(x, text);
        r->value[i] = x;
        r->cell[i] = zb_strdup(a, text);
    }
    drop_empty(rows, m->n_models);
    return r;
}

static const char *score_text(double share, double error, zb_arena *a) {
    if (isnan(error)) return zb_asprintf(a, "%.1f", 100 * share);
    return zb_asprintf(a, "%.1f \xc2\xb1 %.1f", 100 * share, 100 * error);
}

static void add_task(zb_report_rows *rows, const zb_report_measures *m, const zb_report_task *first,
                     zb_arena *a) {
    const char *metric = first->norm ? "acc_norm" : "acc";
    const char *label = zb_asprintf(a, "%s, %s, %%", first->name, metric);
    if (first->shots > 0)
        label =
            zb_asprintf(a, "%s, %s, %lld-shot, %%", first->name, metric, (long long)first->shots);
    if (first->n >= 0) label = zb_asprintf(a, "%s (n = %lld)", label, (long long)first->n);
    zb_report_row *r = new_row(rows, m, quality, label, a);
    for (int i = 0; i < m->n_models; i++) {
        const zb_report_task *t = zb_report_task_find(&m->model[i], first->name);
        if (!t) continue;
        r->value[i] = zb_report_score(t);
        r->cell[i] = score_text(r->value[i], zb_report_score_stderr(t), a);
        if (t->n >= 0 && t->n != first->n)
            r->cell[i] = zb_asprintf(a, "%s (n = %lld)", r->cell[i], (long long)t->n);
        if (t->shots != first->shots)
            r->cell[i] = zb_asprintf(a, "%s (%lld-shot)", r->cell[i], (long long)t->shots);
    }
}

/* Means over different tasks are shown, but not divided: `widest` has most of them. */
static void add_average(zb_report_rows *rows, const zb_report_measures *m,
                        const zb_report_measured *widest, zb_arena *a) {
    int n = widest->n_tasks;
    const char *label = zb_asprintf(a, "average of %d task%s, %%", n, n == 1 ? "" : "s");
    zb_report_row *r = new_row(rows, m, quality, label, a);
    for (int i = 0; i < m->n_models; i++) {
        double error;
        r->value[i] = zb_report_average(&m->model[i], &error);
        bool same = zb_report_same_tasks(&m->model[i], widest);
        if (!same && (i == 0 || !isnan(r->value[i]))) r->ratio = false;
        if (isnan(r->value[i])) continue;
        r->cell[i] = score_text(r->value[i], error, a);
        if (same) continue;
        r->cell[i] = m->model[i].n_tasks == widest->n_tasks
                         ? zb_asprintf(a, "%s (of others)", r->cell[i])
                         : zb_asprintf(a, "%s (of %d)", r->cell[i], m->model[i].n_tasks);
    }
}

static void add_tasks(zb_report_rows *rows, const zb_report_measures *m, zb_arena *a) {
    const zb_report_measured *widest = &m->model[0];
    for (int i = 0; i < m->n_models; i++) {
        if (m->model[i].n_tasks > widest->n_tasks) widest = &m->model[i];
        for (int k = 0; k < m->model[i].n_tasks; k++) {
            const zb_report_task *t = &m->model[i].task[k];
            bool seen = false;
            for (int j = 0; j < i; j++) seen |= zb_report_task_find(&m->model[j], t->name) != NULL;
            if (!seen) add_task(rows, m, t, a);
        }
    }
    if (widest->n_tasks) add_average(rows, m, widest, a);
}

/* A row for each test and length that some model has. */
static void add_recall(zb_report_rows *rows, const zb_report_measures *m, zb_arena *a) {
    for (int i = 0; i < m->n_models; i++)
        for (int k = 0; k < m->model[i].n_recall; k++) {
            const zb_report_recall *c = &m->model[i].recall[k];
            bool seen = !zb_report_recall_first(&m->model[i], k, true);
            for (int j = 0; j < i; j++)
                seen |= !isnan(zb_report_recall_mean(&m->model[j], c->test, c->length));
            if (seen) continue;
            bool sure = zb_report_recall_sure(&m->model[i], c->test, c->length);
            zb_report_row *r =
                new_row(rows, m, recall,
                        zb_asprintf(a, "%s, %lld tokens, %s%%", c->test, (long long)c->length,
                                    sure ? "sure answers, " : ""),
                        a);
            for (int j = 0; j < m->n_models; j++) {
                double x = zb_report_recall_mean(&m->model[j], c->test, c->length);
                if (isnan(x)) continue;
                r->value[j] = x;
                r->cell[j] = score_text(x, (double)NAN, a);
                bool own = zb_report_recall_sure(&m->model[j], c->test, c->length);
                if (own == sure) continue;
                r->cell[j] =
                    zb_asprintf(a, "%s (%s)", r->cell[j], own ? "sure answers" : "found in texts");
                r->ratio = false; /* another measure */
            }
        }
}

static void add_speeds(zb_report_rows *rows, const zb_report_measures *m, bool decode,
                       zb_arena *a) {
    int64_t last = -1;
    for (;;) { /* the places of all models in ascending order */
        int64_t at = INT64_MAX;
        for (int i = 0; i < m->n_models; i++) {
            const zb_report_measured *r = &m->model[i];
            const zb_report_speed *s = decode ? r->decode : r->prefill;
            for (int k = 0; k < (decode ? r->n_decode : r->n_prefill); k++)
                if (s[k].at > last && s[k].at < at) at = s[k].at;
        }
        if (at == INT64_MAX) return;
        const char *what =
            decode ? "decode at context %lld, tokens/s" : "prefill of %lld, tokens/s";
        char label[80];
        snprintf(label, sizeof label, what, (long long)at);
        zb_report_row *row = new_row(rows, m, speed, zb_strdup(a, label), a);
        for (int i = 0; i < m->n_models; i++) {
            const zb_report_measured *r = &m->model[i];
            double x = decode ? zb_report_speed_at(r->decode, r->n_decode, at)
                              : zb_report_speed_at(r->prefill, r->n_prefill, at);
            if (isnan(x)) continue;
            row->value[i] = x;
            row->cell[i] = zb_asprintf(a, x < 100 ? "%.1f" : "%.0f", x);
        }
        last = at;
    }
}

static void add_cost(zb_report_rows *rows, const zb_report_measures *m, zb_arena *a) {
    zb_report_row *r = new_row(rows, m, cost, "training tokens", a);
    char text[ZB_LABEL];
    r->ratio = false;
    for (int i = 0; i < m->n_models; i++) {
        if (m->model[i].train_tokens < 0) continue;
        r->value[i] = (double)m->model[i].train_tokens;
        zb_label_count(r->value[i], text);
        r->cell[i] = zb_strdup(a, text);
    }
    drop_empty(rows, m->n_models);
    r = new_row(rows, m, cost, "time, all stages", a);
    r->ratio = false;
    for (int i = 0; i < m->n_models; i++) {
        r->value[i] = zb_report_seconds(&m->model[i]);
        if (isnan(r->value[i])) continue;
        zb_label_seconds(r->value[i], text);
        r->cell[i] = zb_strdup(a, text);
    }
    drop_empty(rows, m->n_models);
}

zb_report_rows zb_report_rows_make(const zb_report_measures *m, zb_arena *a) {
    zb_report_rows rows = {0};
#define ZB_FIELD(section, label, field, format)                                                    \
    add_field(&rows, m, section, label, offsetof(zb_report_measured, field), format, a)
    ZB_FIELD(memory, "parameters", parameters, zb_label_count);
    ZB_FIELD(memory, "key/value cache, % of the original", kv_percent, as_percent)->ratio = false;
    ZB_FIELD(memory, "cache per token", kv_bytes_per_token, zb_label_bytes);
    ZB_FIELD(memory, "fixed state per sequence", state_bytes, zb_label_bytes);
    ZB_FIELD(quality, "perplexity", perplexity, as_perplexity);
    ZB_FIELD(quality, "KL to the teacher, nats/token", kl_to_teacher, as_kl)->ratio = false;
#undef ZB_FIELD
    add_tasks(&rows, m, a);
    add_recall(&rows, m, a);
    add_speeds(&rows, m, false, a);
    add_speeds(&rows, m, true, a);
    add_cost(&rows, m, a);
    return rows;
}

static void pad(zb_buf *out, const char *text, size_t width, bool right) {
    size_t n = strlen(text), length = zb_utf8_length(text, n);
    for (size_t i = length; right && i < width; i++) zb_buf_addc(out, ' ');
    zb_buf_adds(out, text);
    for (size_t i = length; !right && i < width; i++) zb_buf_addc(out, ' ');
}

/* One grid of cells, heading first: columns padded to their widest cell, numbers to the right. */
static void put_grid(char ***grid, size_t n, int columns, zb_buf *out) {
    size_t width[2 * ZB_REPORT_MODELS_MAX];
    for (int c = 0; c < columns; c++) {
        width[c] = 3;
        for (size_t i = 0; i < n; i++) {
            size_t length = zb_utf8_length(grid[i][c], strlen(grid[i][c]));
            if (length > width[c]) width[c] = length;
        }
    }
    for (size_t i = 0; i < n; i++) {
        for (int c = 0; c < columns; c++) {
            zb_buf_adds(out, c ? " | " : "| ");
            pad(out, grid[i][c], width[c], c > 0);
        }
        zb_buf_adds(out, " |\n");
        if (i > 0) continue;
        for (int c = 0; c < columns; c++) zb_buf_adds(out, c ? "---:|" : "|---|");
        zb_buf_addc(out, '\n');
    }
}

void zb_report_markdown(const zb_report_measures *m, zb_buf *out) {
    zb_arena a = {0};
    zb_report_rows rows = zb_report_rows_make(m, &a);
    int columns = 2 * m->n_models; /* label, models, ratios of all but the first */
    char ***grid = ZB_NEW_ARRAY(&a, char **, rows.n + 1);
    for (size_t i = 0; i <= rows.n; i++) {
        const zb_report_row *r = i ? &rows.row[i - 1] : NULL;
        grid[i] = ZB_NEW_ARRAY(&a, char *, columns);
        grid[i][0] = r ? zb_label_cell(&a, r->label) : "";
        for (int k = 0; k < m->n_models; k++) {
            grid[i][1 + k] = zb_label_cell(&a, r ? r->cell[k] : m->model[k].name);
            if (k == 0) continue;
            char ratio[ZB_LABEL];
            zb_label_ratio(r && r->ratio ? r->value[k] / r->value[0] : (double)NAN, ratio);
            grid[i][m->n_models + k] =
                r ? zb_strdup(&a, ratio)
                  : zb_label_cell(&a,
                                  zb_asprintf(&a, "%s / %s", m->model[k].name, m->model[0].name));
        }
    }
    put_grid(grid, rows.n + 1, columns, out);
    const zb_report_published *p = &zb_report_published_list[1];
    zb_buf_addf(out, "\nScores: %saccuracy \xc2\xb1 one standard error; average: %s.\n",
                zb_report_zero_shot(m) ? "zero-shot " : "", zb_report_average_rule);
    for (int k = 1; k < m->n_models; k++) {
        bool paired;
        double e, d = zb_report_difference(&m->model[0], &m->model[k], &e, &paired);
        if (paired && !isnan(d))
            zb_buf_addf(out,
                        "Document by document the average of %s is %+.1f \xc2\xb1 %.1f points from "
                        "that of %s.\n",
                        m->model[k].name, 100 * d, 100 * e, m->model[0].name);
    }
    zb_buf_addf(out,
                "Published, for scale: %s, %s, %s training tokens: %.2f %% of the cache, average "
                "%.2f after and %.2f before, over eight tasks.\n",
                p->name, p->layers, p->tokens, p->kv_percent, p->converted, p->original);
    for (size_t i = 0; i < m->n_missing; i++)
        zb_buf_addf(out, "Left out: %s.\n", zb_label_cell(&a, m->missing[i]));
    zb_arena_free(&a);
}

static json_t *text_json(const char *s) {
    zb_buf b;
    zb_buf_init(&b, SIZE_MAX / 4);
    zb_label_text(&b, s, strlen(s));
    json_t *v = json_stringn(b.p ? b.p : "", b.n);
    zb_buf_free(&b);
    return v;
}

/* A number as measured, whole ones as integers; absent ones leave no key. */
static void put(json_t *o, const char *key, double x) {
    if (!isfinite(x)) return;
    bool whole = x == floor(x) && fabs(x) < 9e15;
    json_object_set_new(o, key, whole ? json_integer((json_int_t)x) : json_real(x));
}

static void put_real(json_t *o, const char *key, double x) {
    if (isfinite(x)) json_object_set_new(o, key, json_real(x));
}

static void put_speeds(json_t *o, const char *key, const zb_report_speed *s, int n) {
    if (!n) return;
    json_t *speeds = json_object();
    for (int i = 0; i < n; i++) {
        char at[32];
        snprintf(at, sizeof at, "%lld", (long long)s[i].at);
        put_real(speeds, at, s[i].rate);
    }
    json_object_set_new(o, key, speeds);
}

/* {test: {length: share}}, and {pairs: {distance: share}}. */
static void put_recall(json_t *o, const zb_report_measured *r) {
    char key[32];
    if (r->n_recall) {
        json_t *tests = json_object();
        for (int i = 0; i < r->n_recall; i++) {
            const zb_report_recall *c = &r->recall[i];
            if (zb_report_recall_first(r, i, false))
                json_object_set_new(tests, c->test, json_object());
            snprintf(key, sizeof key, "%lld", (long long)c->length);
            put_real(json_object_get(tests, c->test), key,
                     zb_report_recall_mean(r, c->test, c->length));
        }
        json_object_set_new(o, "recall", tests);
    }
    if (!r->n_pairs) return;
    json_t *pairs = json_object();
    for (int i = 0; i < r->n_pairs; i++) {
        snprintf(key, sizeof key, "%lld", (long long)r->pairs[i].pairs);
        if (!json_object_get(pairs, key)) json_object_set_new(pairs, key, json_object());
        json_t *row = json_object_get(pairs, key);
        snprintf(key, sizeof key, "%lld", (long long)r->pairs[i].distance);
        put_real(row, key, r->pairs[i].acc);
    }
    json_object_set_new(o, "associative", pairs);
}

/* Where it was measured document by document. */
static void put_difference(json_t *o, const zb_report_measured *first,
                           const zb_report_measured *r) {
    bool paired;
    double e, d = zb_report_difference(first, r, &e, &paired);
    if (first == r || !paired) return;
    put_real(o, "average_difference", d);
    put_real(o, "average_difference_stderr", e);
}

static json_t *model_json(const zb_report_measured *first, const zb_report_measured *r) {
    json_t *o = json_object();
    put_real(o, "kv_percent", r->kv_percent);
    put(o, "kv_bytes_per_token", r->kv_bytes_per_token);
    put(o, "state_bytes", r->state_bytes);
    put(o, "parameters", r->parameters);
    put_real(o, "perplexity", r->perplexity);
    put_real(o, "kl_to_teacher", r->kl_to_teacher);
    if (r->n_tasks) {
        json_t *tasks = json_object();
        for (int i = 0; i < r->n_tasks; i++) {
            const zb_report_task *t = &r->task[i];
            json_t *task = json_object();
            put_real(task, "acc", t->acc);
            put_real(task, "acc_norm", t->acc_norm);
            put_real(task, "acc_stderr", t->acc_stderr);
            put_real(task, "acc_norm_stderr", t->acc_norm_stderr);
            if (t->n >= 0) put(task, "n", (double)t->n);
            json_object_set_new(tasks, t->name, task);
        }
        json_object_set_new(o, "tasks", tasks);
        put_real(o, "average", zb_report_average(r, NULL));
        put_difference(o, first, r);
    }
    put_recall(o, r);
    put_speeds(o, "decode_tokens_per_second", r->decode, r->n_decode);
    put_speeds(o, "prefill_tokens_per_second", r->prefill, r->n_prefill);
    if (r->train_tokens >= 0) put(o, "train_tokens", (double)r->train_tokens);
    if (r->n_seconds) {
        json_t *seconds = json_object();
        for (int i = 0; i < r->n_seconds; i++)
            put_real(seconds, r->seconds[i].stage, r->seconds[i].seconds);
        json_object_set_new(o, "seconds", seconds);
    }
    return o;
}

json_t *zb_report_json(const zb_report_measures *m) {
    json_t *out = json_object(), *missing = json_array();
    for (int i = 0; i < m->n_models; i++)
        json_object_set_new(out, m->model[i].name, model_json(m->model, &m->model[i]));
    for (size_t i = 0; i < m->n_missing; i++)
        json_array_append_new(missing, text_json(m->missing[i]));
    json_object_set_new(out, "average_rule", json_string(zb_report_average_rule));
    json_object_set_new(out, "missing", missing);
    json_object_set_new(out, "zebra_version", json_string(ZB_VERSION));
    return out;
}
