/* result.c - rows of scores (contract in result.h).
 *
 * A row of a part aggregates its documents (score.h), a row of a group the means of its parts
 * weighted by their sizes with the pooled error (metric.h). */
#include "eval/result.h"

#include <math.h>
#include <string.h>
#include <time.h>

void zb_eval_result_free(zb_eval_result *r) {
    zb_arena_free(&r->arena);
    *r = (zb_eval_result){0};
}

static zb_eval_row *new_row(zb_eval_result *r) {
    r->row = zb_grow(&r->arena, r->row, &r->cap, (size_t)r->n_rows + 1, sizeof *r->row);
    return &r->row[r->n_rows++];
}

static const char *indent(zb_eval_result *r, int depth, const char *alias) {
    return depth ? zb_asprintf(&r->arena, "%*s- %s", depth, "", alias) : alias;
}

static zb_eval_score *new_scores(zb_eval_result *r, const zb_task *t) {
    zb_eval_score *s = ZB_NEW_ARRAY(&r->arena, zb_eval_score, t->n_metrics);
    for (int i = 0; i < t->n_metrics; i++) {
        const zb_filter *f = t->metric[i].filter;
        s[i] = (zb_eval_score){.kind = t->metric[i].kind, .filter = f ? f->name : "none"};
    }
    return s;
}

/* Counts a document whose choices are the letters A, B, ... */
static void count_letters(const zb_document *d, zb_eval_letters *l) {
    double score[ZB_LETTERS_MAX];
    if (d->n_choices < 2 || d->n_choices > ZB_LETTERS_MAX) return;
    for (int i = 0; i < d->n_choices; i++) {
        zb_str c = d->choice[i].continuation;
        if (d->choice[i].length != 1 || c.n == 0 || c.p[c.n - 1] != 'A' + i) return;
        score[i] = d->choice[i].score.logprob;
    }
    if (d->n_choices > l->n) l->n = d->n_choices;
    l->chosen[zb_metric_best(score, NULL, d->n_choices)]++;
    l->right[d->gold]++;
}

/* The row of one part: aggregates of its documents. */
static zb_eval_row leaf_row(zb_eval_result *r, const zb_task *t, int leaf,
                            const zb_document_set *docs, zb_arena *scratch) {
    zb_eval_row row = {.name = t->leaf[leaf].name,
                       .alias = t->leaf[leaf].alias,
                       .task = t,
                       .shots = docs->shots,
                       .n = docs->used[leaf],
                       .total = docs->total[leaf],
                       .score = new_scores(r, t),
                       .n_scores = t->n_metrics};
    zb_score_value *x = ZB_NEW_ARRAY(scratch, zb_score_value, row.n);
    for (int m = 0; m < t->n_metrics && row.n; m++) {
        int64_t k = 0;
        for (size_t i = 0; i < docs->n; i++)
            if (docs->doc[i].leaf == leaf)
                x[k++] = t->metric[m].kind->of(t, &docs->doc[i], t->metric[m].filter, scratch);
        row.score[m].m = zb_score_total(t->metric[m].kind, x, k, scratch);
    }
    for (size_t i = 0; i < docs->n; i++)
        if (docs->doc[i].leaf == leaf && t->output == ZB_TASK_CHOICE)
            count_letters(&docs->doc[i], &row.letters);
    return row;
}

static void add_letters(zb_eval_letters *sum, const zb_eval_letters *more) {
    if (more->n > sum->n) sum->n = more->n;
    for (int i = 0; i < more->n; i++) {
        sum->chosen[i] += more->chosen[i];
        sum->right[i] += more->right[i];
    }
}

/* The row over all selected leaves of `group` (-1: of all groups). */
static zb_eval_row pool_row(zb_eval_result *r, const zb_task *t, int group, const zb_eval_row *leaf,
                            zb_arena *scratch) {
    zb_eval_row row = {.name = t->name,
                       .alias = t->name,
                       .group = true,
                       .task = t,
                       .score = new_scores(r, t),
                       .n_scores = t->n_metrics};
    if (group >= 0) {
        row.name = t->group[group].name;
        row.alias = t->group[group].alias;
    }
    zb_metric *part = ZB_NEW_ARRAY(scratch, zb_metric, t->n_leaves);
    int64_t *size = ZB_NEW_ARRAY(scratch, int64_t, t->n_leaves);
    for (int m = 0; m < t->n_metrics; m++) {
        int k = 0;
        for (int i = 0; i < t->n_leaves; i++) {
            if (!t->leaf[i].selected || (group >= 0 && t->leaf[i].group != group)) continue;
            part[k] = leaf[i].score[m].m;
            size[k++] = leaf[i].n;
            if (m > 0) continue;
            row.n += leaf[i].n;
            row.total += leaf[i].total;
            add_letters(&row.letters, &leaf[i].letters);
        }
        row.score[m].m = zb_metric_pool(part, size, k);
    }
    return row;
}

/* Copies the row into the result, its alias indented as the harness does it (" - humanities"). */
static void push(zb_eval_result *r, zb_eval_row row, int depth) {
    row.depth = depth;
    row.alias = indent(r, depth, row.alias);
    *new_row(r) = row;
}

zb_status zb_eval_result_add(zb_eval_result *r, const zb_task *t, const zb_document_set *docs,
                             zb_arena *scratch, zb_err *err) {
    zb_eval_row *leaf = ZB_NEW_ARRAY(scratch, zb_eval_row, t->n_leaves);
    for (int i = 0; i < t->n_leaves; i++) {
        if (!t->leaf[i].selected) continue;
        if (docs->used[i] == 0)
            return zb_fail(err, ZB_ERR_USAGE, "samples: %s: expected at least one document",
                           t->leaf[i].name);
        leaf[i] = leaf_row(r, t, i, docs, scratch);
    }
    if (!t->split_by) {
        push(r, leaf[0], 0);
        return ZB_OK;
    }
    int depth = 0;
    if (t->total) push(r, pool_row(r, t, -1, leaf, scratch), depth++);
    for (int g = 0; g < t->n_groups; g++) {
        bool selected = t->group[g].selected;
        if (selected) push(r, pool_row(r, t, g, leaf, scratch), depth);
        for (int i = 0; i < t->n_leaves; i++)
            if (t->leaf[i].group == g && t->leaf[i].selected) push(r, leaf[i], depth + selected);
    }
    return ZB_OK;
}

const zb_eval_row *zb_eval_find(const zb_eval_result *r, const char *name) {
    for (int i = 0; i < r->n_rows; i++)
        if (!strcmp(r->row[i].name, name)) return &r->row[i];
    return NULL;
}

const zb_metric *zb_eval_metric(const zb_eval_row *row, const char *name) {
    for (int i = 0; i < row->n_scores; i++)
        if (!strcmp(row->score[i].kind->name, name)) return &row->score[i].m;
    return NULL;
}

double zb_eval_average(const zb_eval_result *r, bool norm) {
    double sum = 0;
    int n = 0;
    for (int i = 0; i < r->n_rows; i++) {
        if (r->row[i].depth > 0) continue;
        const zb_metric *m = norm ? zb_eval_metric(&r->row[i], "acc_norm") : NULL;
        if (!m) m = zb_eval_metric(&r->row[i], "acc");
        if (!m) continue;
        sum += m->value;
        n++;
    }
    return n ? sum / n : (double)NAN;
}

/* "none" is the harness's name for no answer filter. A value that is no number (the perplexity of a
 * text of one long word is beyond a double's range) stays as null, as JSON has no other word. */
static void put_score(json_t *o, const zb_eval_score *s) {
    char key[128];
    snprintf(key, sizeof key, "%s,%s", s->kind->name, s->filter);
    json_object_set_new(o, key, isfinite(s->m.value) ? json_real(s->m.value) : json_null());
    snprintf(key, sizeof key, "%s_stderr,%s", s->kind->name, s->filter);
    json_object_set_new(o, key,
                        isnan(s->m.stderr_of) ? json_string("N/A") : json_real(s->m.stderr_of));
}

/* Our own key beside the harness's. */
static json_t *letters_json(const zb_eval_letters *l) {
    json_t *o = json_object();
    for (int i = 0; i < l->n; i++) {
        char letter[2] = {(char)('A' + i), 0};
        json_object_set_new(o, letter,
                            json_pack("{s:I, s:I}", "chosen", (json_int_t)l->chosen[i], "right",
                                      (json_int_t)l->right[i]));
    }
    return o;
}

static json_t *row_json(const zb_eval_row *row) {
    json_t *o = json_object();
    json_object_set_new(o, "alias", json_string(row->alias));
    json_object_set_new(o, "name", json_string(row->name));
    json_object_set_new(o, "sample_len", json_integer(row->n));
    for (int i = 0; i < row->n_scores; i++) put_score(o, &row->score[i]);
    if (row->letters.n) json_object_set_new(o, "letters", letters_json(&row->letters));
    return o;
}

static const char *sum_name(zb_score_sum s) {
    static const char *const names[] = {"mean", "perplexity", "weighted_perplexity",
                                        "bits_per_byte"};
    return names[s];
}

static json_t *metrics_json(const zb_task *t) {
    json_t *list = json_array();
    for (int i = 0; i < t->n_metrics; i++) {
        const zb_score_kind *k = t->metric[i].kind;
        if (i > 0 && k == t->metric[i - 1].kind) continue;
        json_array_append_new(list,
                              json_pack("{s:s,s:s,s:b}", "metric", k->name, "aggregation",
                                        sum_name(k->sum), "higher_is_better", k->higher_is_better));
    }
    return list;
}

/* How the row was made, under the harness's names; templates stand as they do in the task file. */
static json_t *config_json(const zb_eval_row *row) {
    const zb_task *t = row->task;
    json_t *o = json_object();
    json_object_set_new(o, "task", json_string(row->name));
    json_object_set_new(o, "dataset_path", json_string(t->data));
    if (t->description.source)
        json_object_set_new(o, "description", json_string(t->description.source));
    if (t->prompt.source) json_object_set_new(o, "doc_to_text", json_string(t->prompt.source));
    for (int i = 0; i < t->n_prompts; i++) {
        if (i == 0) json_object_set_new(o, "doc_to_text", json_array());
        json_array_append_new(json_object_get(o, "doc_to_text"), json_string(t->prompts[i].source));
    }
    const char *target = t->output == ZB_TASK_CHOICE     ? t->gold.source
                         : t->output == ZB_TASK_GENERATE ? t->target.source
                                                         : t->continuation.source;
    json_object_set_new(o, "doc_to_target", json_string(target));
    json_object_set_new(o, "target_delimiter", json_string(" "));
    json_object_set_new(o, "fewshot_delimiter", json_string("\n\n"));
    json_object_set_new(o, "output_type", json_string(zb_task_output_name(t->output)));
    json_object_set_new(o, "num_fewshot", json_integer(row->shots));
    if (t->fewshot.data)
        json_object_set_new(o, "fewshot_config",
                            json_pack("{s:s,s:s}", "path", t->fewshot.data, "sampler",
                                      t->fewshot.first_n ? "first_n" : "default"));
    json_object_set_new(o, "metric_list", metrics_json(t));
    return o;
}

/* The names of the rows directly below row i. */
static json_t *children(const zb_eval_result *r, int i) {
    json_t *names = json_array();
    for (int j = i + 1; r->row[i].group && j < r->n_rows && r->row[j].depth > r->row[i].depth; j++)
        if (r->row[j].depth == r->row[i].depth + 1)
            json_array_append_new(names, json_string(r->row[j].name));
    return names;
}

/* A number where the text is one (the harness writes 1.0). */
static json_t *version_json(const zb_eval_row *row) {
    double number;
    const char *text = row->group ? row->task->group_version : row->task->version;
    return zb_parse_f64(text, &number) ? json_real(number) : json_string(text);
}

/* The settings of the whole run. */
static json_t *run_config_json(const zb_eval_result *r) {
    json_t *o = json_object();
    json_object_set_new(o, "model", json_string("zebra"));
    json_object_set_new(o, "model_args", r->model ? json_string(r->model) : json_null());
    json_object_set_new(o, "limit", r->limit > 0 ? json_real(r->limit) : json_null());
    json_object_set_new(o, "part_limit",
                        r->part_limit > 0 ? json_real(r->part_limit) : json_null());
    json_object_set_new(o, "device", json_string("cpu"));
    json_object_set_new(o, "precision", r->precision ? json_string(r->precision) : json_null());
    json_object_set_new(o, "cache_type", r->cache_type ? json_string(r->cache_type) : json_null());
    json_object_set_new(o, "profile", json_string(r->profile));
    json_object_set_new(o, "add_bos_token", json_boolean(r->bos));
    json_object_set_new(o, "apply_chat_template", json_boolean(r->chat));
    if (r->chat) json_object_set_new(o, "fewshot_as_multiturn", json_boolean(r->multiturn));
    json_object_set_new(o, "bootstrap_iters", json_integer(100000));
    json_object_set_new(o, "fewshot_seed", json_integer(1234));
    if (r->log_samples) json_object_set_new(o, "log_samples", json_string(r->log_samples));
    return o;
}

json_t *zb_eval_json(const zb_eval_result *r) {
    static const char *const keys[] = {"results",  "groups", "group_subtasks",   "configs",
                                       "versions", "n-shot", "higher_is_better", "n-samples"};
    enum { RESULTS, GROUPS, SUBTASKS, CONFIGS, VERSIONS, SHOTS, HIGHER, SAMPLES, N };
    json_t *out = json_object(), *o[N];
    for (int i = 0; i < N; i++) json_object_set_new(out, keys[i], o[i] = json_object());
    for (int i = 0; i < r->n_rows; i++) {
        const zb_eval_row *row = &r->row[i];
        json_t *higher = json_object();
        for (int k = 0; k < row->n_scores; k++)
            json_object_set_new(higher, row->score[k].kind->name,
                                json_boolean(row->score[k].kind->higher_is_better));
        json_object_set_new(o[RESULTS], row->name, row_json(row));
        json_object_set_new(o[SUBTASKS], row->name, children(r, i));
        json_object_set_new(o[VERSIONS], row->name, version_json(row));
        json_object_set_new(o[HIGHER], row->name, higher);
        if (row->group) {
            json_object_set_new(o[GROUPS], row->name, row_json(row));
            continue;
        }
        json_object_set_new(o[CONFIGS], row->name, config_json(row));
        json_object_set_new(o[SHOTS], row->name, json_integer(row->shots));
        json_object_set_new(o[SAMPLES], row->name,
                            json_pack("{s:I,s:I}", "original", (json_int_t)row->total, "effective",
                                      (json_int_t)row->n));
    }
    json_object_set_new(out, "config", run_config_json(r));
    json_object_set_new(out, "date", json_integer((json_int_t)time(NULL)));
    json_object_set_new(out, "zebra_version", json_string(ZB_VERSION));
    json_object_set_new(out, "model_name", r->model ? json_string(r->model) : json_null());
    json_object_set_new(out, "max_length", json_integer(r->max_length));
    json_object_set_new(out, "total_evaluation_time_seconds", json_real(r->seconds));
    return out;
}
