/* result.c - rows of scores (contract in result.h).
 *
 * acc: the choice with the greatest summed log-probability is the right one; acc_norm: the same
 * after division by the number of code points of the choice. A row of a part is the mean over its
 * documents, a row of a group the mean of its parts weighted by their sizes with the pooled error
 * (metric.h). */
#include "eval/result.h"

#include <math.h>
#include <string.h>
#include <time.h>

void zb_eval_result_free(zb_eval_result *r) {
    zb_arena_free(&r->arena);
    *r = (zb_eval_result){0};
}

double zb_document_acc(const zb_document *d, bool norm) {
    double score[ZB_CHOICES_MAX];
    int64_t length[ZB_CHOICES_MAX];
    ZB_ASSERT(d->n_choices <= ZB_CHOICES_MAX);
    for (int i = 0; i < d->n_choices; i++) {
        score[i] = d->choice[i].score.logprob;
        length[i] = d->choice[i].length;
    }
    return zb_metric_best(score, norm ? length : NULL, d->n_choices) == d->gold ? 1 : 0;
}

static zb_eval_row *new_row(zb_eval_result *r) {
    r->row = zb_grow(&r->arena, r->row, &r->cap, (size_t)r->n_rows + 1, sizeof *r->row);
    return &r->row[r->n_rows++];
}

static const char *indent(zb_eval_result *r, int depth, const char *alias) {
    return depth ? zb_asprintf(&r->arena, "%*s- %s", depth, "", alias) : alias;
}

/* The row of one part: means over its documents, which carry their position as id. */
static zb_eval_row leaf_row(const zb_task *t, int leaf, const zb_document_set *docs,
                            zb_arena *scratch) {
    zb_eval_row row = {.name = t->leaf[leaf].name,
                       .alias = t->leaf[leaf].alias,
                       .task = t,
                       .has_norm = t->acc_norm};
    row.n = docs->used[leaf];
    row.total = docs->total[leaf];
    double *acc = ZB_NEW_ARRAY(scratch, double, row.n),
           *norm = ZB_NEW_ARRAY(scratch, double, row.n);
    for (size_t i = 0; i < docs->n; i++) {
        const zb_document *d = &docs->doc[i];
        if (d->leaf != leaf) continue;
        acc[d->id] = zb_document_acc(d, false);
        if (row.has_norm) norm[d->id] = zb_document_acc(d, true);
    }
    row.acc = zb_metric_mean(acc, row.n);
    if (row.has_norm) row.acc_norm = zb_metric_mean(norm, row.n);
    return row;
}

/* The row over all selected leaves of `group` (-1: of all groups). */
static zb_eval_row pool_row(const zb_task *t, int group, const zb_eval_row *leaf,
                            zb_arena *scratch) {
    zb_eval_row row = {
        .name = t->name, .alias = t->name, .group = true, .task = t, .has_norm = t->acc_norm};
    if (group >= 0) {
        row.name = t->group[group].name;
        row.alias = t->group[group].alias;
    }
    zb_metric *acc = ZB_NEW_ARRAY(scratch, zb_metric, t->n_leaves),
              *norm = ZB_NEW_ARRAY(scratch, zb_metric, t->n_leaves);
    int64_t *size = ZB_NEW_ARRAY(scratch, int64_t, t->n_leaves);
    int k = 0;
    for (int i = 0; i < t->n_leaves; i++) {
        if (!t->leaf[i].selected || (group >= 0 && t->leaf[i].group != group)) continue;
        acc[k] = leaf[i].acc;
        norm[k] = leaf[i].acc_norm;
        size[k++] = leaf[i].n;
        row.n += leaf[i].n;
        row.total += leaf[i].total;
    }
    row.acc = zb_metric_pool(acc, size, k);
    if (row.has_norm) row.acc_norm = zb_metric_pool(norm, size, k);
    return row;
}

/* Copies the row into the result, its alias indented as the harness does it (" - humanities"). */
static void push(zb_eval_result *r, zb_eval_row row, int depth) {
    row.depth = depth;
    row.alias = indent(r, depth, row.alias);
    *new_row(r) = row;
}

void zb_eval_result_add(zb_eval_result *r, const zb_task *t, const zb_document_set *docs,
                        zb_arena *scratch) {
    zb_eval_row *leaf = ZB_NEW_ARRAY(scratch, zb_eval_row, t->n_leaves);
    for (int i = 0; i < t->n_leaves; i++)
        if (t->leaf[i].selected) leaf[i] = leaf_row(t, i, docs, scratch);
    if (!t->split_by) {
        push(r, leaf[0], 0);
        return;
    }
    int depth = 0;
    if (t->total) push(r, pool_row(t, -1, leaf, scratch), depth++);
    for (int g = 0; g < t->n_groups; g++) {
        bool selected = t->group[g].selected;
        if (selected) push(r, pool_row(t, g, leaf, scratch), depth);
        for (int i = 0; i < t->n_leaves; i++)
            if (t->leaf[i].group == g && t->leaf[i].selected) push(r, leaf[i], depth + selected);
    }
}

const zb_eval_row *zb_eval_find(const zb_eval_result *r, const char *name) {
    for (int i = 0; i < r->n_rows; i++)
        if (!strcmp(r->row[i].name, name)) return &r->row[i];
    return NULL;
}

double zb_eval_average(const zb_eval_result *r, bool norm) {
    double sum = 0;
    int n = 0;
    for (int i = 0; i < r->n_rows; i++) {
        if (r->row[i].depth > 0) continue;
        sum += norm && r->row[i].has_norm ? r->row[i].acc_norm.value : r->row[i].acc.value;
        n++;
    }
    return n ? sum / n : (double)NAN;
}

/* "none" is the harness's name for no answer filter. */
static void put_metric(json_t *o, const char *name, zb_metric m) {
    char key[64];
    snprintf(key, sizeof key, "%s,none", name);
    json_object_set_new(o, key, json_real(m.value));
    snprintf(key, sizeof key, "%s_stderr,none", name);
    json_object_set_new(o, key, isnan(m.stderr_of) ? json_string("N/A") : json_real(m.stderr_of));
}

static json_t *row_json(const zb_eval_row *row) {
    json_t *o = json_object();
    json_object_set_new(o, "alias", json_string(row->alias));
    json_object_set_new(o, "name", json_string(row->name));
    json_object_set_new(o, "sample_len", json_integer(row->n));
    put_metric(o, "acc", row->acc);
    if (row->has_norm) put_metric(o, "acc_norm", row->acc_norm);
    return o;
}

/* How the row was made, under the harness's names; templates stand as they do in the task file. */
static json_t *config_json(const zb_eval_row *row) {
    const zb_task *t = row->task;
    json_t *o = json_object(), *metrics = json_array();
    json_object_set_new(o, "task", json_string(row->name));
    json_object_set_new(o, "dataset_path", json_string(t->data));
    if (t->description.source)
        json_object_set_new(o, "description", json_string(t->description.source));
    if (t->prompt.source) json_object_set_new(o, "doc_to_text", json_string(t->prompt.source));
    for (int i = 0; i < t->n_prompts; i++) {
        if (i == 0) json_object_set_new(o, "doc_to_text", json_array());
        json_array_append_new(json_object_get(o, "doc_to_text"), json_string(t->prompts[i].source));
    }
    json_object_set_new(o, "doc_to_target", json_string(t->gold.source));
    json_object_set_new(o, "target_delimiter", json_string(" "));
    json_object_set_new(o, "output_type", json_string("multiple_choice"));
    json_object_set_new(o, "num_fewshot", json_integer(0));
    if (t->fewshot_data)
        json_object_set_new(
            o, "fewshot_config",
            json_pack("{s:s,s:s}", "path", t->fewshot_data, "sampler", t->fewshot_sampler));
    json_array_append_new(metrics, json_pack("{s:s,s:s,s:b}", "metric", "acc", "aggregation",
                                             "mean", "higher_is_better", 1));
    if (row->has_norm)
        json_array_append_new(metrics, json_pack("{s:s,s:s,s:b}", "metric", "acc_norm",
                                                 "aggregation", "mean", "higher_is_better", 1));
    json_object_set_new(o, "metric_list", metrics);
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
    json_object_set_new(o, "device", json_string("cpu"));
    json_object_set_new(o, "profile", json_string(r->profile));
    json_object_set_new(o, "add_bos_token", json_boolean(r->bos));
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
        json_t *higher = json_pack("{s:b}", "acc", 1);
        if (row->has_norm) json_object_set_new(higher, "acc_norm", json_true());
        json_object_set_new(o[RESULTS], row->name, row_json(row));
        json_object_set_new(o[SUBTASKS], row->name, children(r, i));
        json_object_set_new(o[VERSIONS], row->name, version_json(row));
        json_object_set_new(o[HIGHER], row->name, higher);
        if (row->group) {
            json_object_set_new(o[GROUPS], row->name, row_json(row));
            continue;
        }
        json_object_set_new(o[CONFIGS], row->name, config_json(row));
        json_object_set_new(o[SHOTS], row->name, json_integer(0));
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
