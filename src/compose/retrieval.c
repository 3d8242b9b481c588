/* retrieval.c - see retrieval.h. */
#include "compose/retrieval.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "compose/pairs.h"
#include "model/layer.h"
#include "model/loss.h"

#include <string.h>

enum { MORE = 12 }; /* heads beside `count` that the search begins with */

typedef struct head {
    int layer, g;
    double recall; /* without it alone */
} head;

typedef struct search {
    const zb_select_opts *o;
    zb_arena arena;
    zb_model *teacher;
    zb_runner *runner;
    zb_config config; /* the teacher's with windows in all layers and some heads that see all */
    zb_pairs pairs;
    float **hidden; /* [L] [n, D] before each layer, with the heads as they were set last */
    head *head;     /* [n] all kv heads, later the worst first */
    int n;
    double teacher_recall, window_recall;
    json_t *trace;
} search;

static void set_head(search *s, const head *h, bool far) {
    uint64_t bit = (uint64_t)1 << h->g, *mask = &s->config.layer[h->layer].retrieval;
    *mask = far ? *mask | bit : *mask & ~bit;
}

/* Cross-entropy of the answers, per answer, for last hidden rows x [n, D] behind the final norm. */
static double judge(search *s, const float *x) {
    zb_arena *a = zb_runner_arena(s->runner);
    zb_mark mark = zb_arena_mark(a);
    const zb_pairs *p = &s->pairs;
    zb_vocab_sums sums = {0};
    int D = s->config.D;
    float *picked = ZB_RAW_ARRAY(a, float, (size_t)p->answers *D);
    for (int i = 0; i < p->answers; i++)
        memcpy(picked + (size_t)i * D, x + (size_t)p->row[i] * D, (size_t)D * sizeof *x);
    zb_vocab_loss_run(&(zb_vocab_loss){.student = s->runner,
                                       .hidden = picked,
                                       .labels = p->label,
                                       .n = p->answers,
                                       .weights = {.ce = 1}},
                      &sums);
    zb_arena_pop(a, mark);
    return sums.ce / p->answers;
}

/* A pass with the heads as they are set, which keeps the hidden states before each layer (layer
 * -1), or one that starts from them at a layer behind which nothing else has changed. */
static zb_status measure(search *s, int layer, double *recall, zb_err *err) {
    zb_arena *a = zb_runner_arena(s->runner);
    zb_mark mark = zb_arena_mark(a);
    size_t bytes = (size_t)s->pairs.b.n * (size_t)s->config.D * sizeof(float);
    ZB_TRY(zb_runner_begin(s->runner, &s->pairs.b, err));
    zb_run *run = zb_runner_run(s->runner);
    const zb_config *own = run->config;
    float *x = zb_alloc_raw(a, bytes);
    run->config = &s->config;
    if (layer < 0) {
        zb_runner_forward(s->runner, x, &(zb_capture){.hidden = s->hidden});
    } else {
        float *y = memcpy(zb_alloc_raw(a, bytes), s->hidden[layer], bytes);
        for (int l = layer; l < s->config.L; l++) zb_layer_forward(run, l, y, y, NULL, NULL);
        zb_norm(run, run->params->norm, y, s->pairs.b.n, s->config.D, x, NULL);
    }
    *recall = judge(s, x);
    run->config = own;
    zb_arena_pop(a, mark);
    return zb_interrupted() ? zb_fail(err, ZB_ERR_INTERRUPTED, "select: interrupted") : ZB_OK;
}

/* Recall without one of the heads that see all. */
static zb_status measure_without(search *s, const head *h, double *recall, zb_err *err) {
    set_head(s, h, false);
    zb_status st = measure(s, h->layer, recall, err);
    set_head(s, h, true);
    return st;
}

/* Worst loss first. */
static void sort_heads(search *s) {
    for (int i = 1; i < s->n; i++) {
        head h = s->head[i];
        int at = i;
        for (; at > 0 && s->head[at - 1].recall < h.recall; at--) s->head[at] = s->head[at - 1];
        s->head[at] = h;
    }
}

static zb_status measure_alone(search *s, zb_progress *bar, zb_err *err) {
    ZB_TRY(measure(s, -1, &s->window_recall, err));
    for (int i = 0; i < s->n; i++) set_head(s, &s->head[i], true);
    ZB_TRY(measure(s, -1, &s->teacher_recall, err));
    for (int i = 0; i < s->n; i++) {
        ZB_TRY(measure_without(s, &s->head[i], &s->head[i].recall, err));
        zb_progress_update(bar, i + 1, NULL);
    }
    sort_heads(s);
    return ZB_OK;
}

static void note(search *s, int left, double recall, const head *without) {
    json_t *row = json_pack("{s:i,s:f}", "heads", left, "recall", recall);
    if (without)
        json_object_update_new(row, json_pack("{s:i,s:i}", "without_layer", without->layer,
                                              "without_head", without->g));
    json_array_append_new(s->trace, row);
}

/* The head of the first `left` without which recall stays best goes behind the others. */
static zb_status drop_one(search *s, int left, double *recall, zb_err *err) {
    int best = 0;
    double least = 0;
    for (int i = 0; i < left; i++) {
        double without;
        ZB_TRY(measure_without(s, &s->head[i], &without, err));
        if (i == 0 || without < least) {
            least = without;
            best = i;
        }
    }
    head gone = s->head[best];
    set_head(s, &gone, false);
    for (int i = best; i < left - 1; i++) s->head[i] = s->head[i + 1];
    s->head[left - 1] = gone;
    return measure(s, -1, recall, err);
}

static zb_status find(search *s, double *recall, zb_err *err) {
    int count = (int)s->o->count, left = count + MORE < s->n ? count + MORE : s->n;
    zb_progress bar;
    zb_progress_begin(&bar, "select", "heads alone", 0, s->n);
    ZB_TRY(measure_alone(s, &bar, err));
    zb_progress_end(&bar, s->n, NULL);
    for (int i = left; i < s->n; i++) set_head(s, &s->head[i], false);
    ZB_TRY(measure(s, -1, recall, err));
    note(s, left, *recall, NULL);
    zb_progress_begin(&bar, "select", "heads less", 0, left - count);
    for (int first = left; left > count; left--) {
        ZB_TRY(drop_one(s, left, recall, err));
        note(s, left - 1, *recall, &s->head[left - 1]);
        zb_progress_update(&bar, first - left + 1, NULL);
        if (left - 1 == count) zb_progress_end(&bar, first - count, NULL);
    }
    return ZB_OK;
}

static zb_status write_result(search *s, double recall, zb_err *err) {
    const zb_select_opts *o = s->o;
    const char *list = "";
    json_t *alone = json_array();
    for (int l = 0; l < s->config.L; l++)
        for (int i = 0; s->config.layer[l].window && i < zb_config_far_heads(&s->config, l); i++)
            list = zb_asprintf(&s->arena, "%s%s%d:%d", list, *list ? "," : "", l,
                               zb_config_far_head(&s->config, l, i));
    for (int i = 0; i < s->n; i++)
        json_array_append_new(alone, json_pack("{s:i,s:i,s:f}", "layer", s->head[i].layer, "head",
                                               s->head[i].g, "recall", s->head[i].recall));
    json_t *r =
        json_pack("{s:s,s:I,s:s,s:I,s:I,s:f,s:f,s:f,s:f,s:O,s:o}", "method", "heads", "count",
                  (json_int_t)o->count, "retrieval_heads", list, "window", (json_int_t)o->window,
                  "sinks", (json_int_t)o->sinks, "kv_percent", zb_config_kv_percent(&s->config),
                  "teacher_recall", s->teacher_recall, "window_recall", s->window_recall, "recall",
                  recall, "steps", s->trace, "without_head", alone);
    zb_status st = zb_json_write(o->out, r, err);
    json_decref(r);
    if (st == ZB_OK)
        zb_info("select: %s: recall %.3f nats, the teacher %.3f, windows alone %.3f", list, recall,
                s->teacher_recall, s->window_recall);
    return st;
}

/* Before the search: whether `count` heads, whichever they are, will be too many for the recipe's
 * limit. */
static zb_status check_limit(search *s, zb_err *err) {
    zb_compose_opts o = *s->o->compose;
    zb_config ignored;
    const char *list = "";
    for (int i = 0; i < (int)s->o->count; i++)
        list =
            zb_asprintf(&s->arena, "%s%s%d:%d", list, i ? "," : "", s->head[i].layer, s->head[i].g);
    o.retrieval_heads = list;
    o.selection = NULL; /* what is being made */
    zb_status st = zb_compose_config(&o, s->teacher, &ignored, err);
    return st == ZB_OK ? st : zb_err_wrap(err, st, "%lld heads", (long long)s->o->count);
}

/* The teacher's configuration with a window in every layer, or in those that a recipe's plan gives
 * one; the heads of these. */
static zb_status describe(search *s, zb_err *err) {
    const zb_select_opts *o = s->o;
    zb_config *c = &s->config;
    *c = *zb_model_config(s->teacher);
    if (c->hybrid)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: expected a Transformer as the teacher, found a hybrid", o->teacher);
    c->hybrid = true;
    zb_kind kind[ZB_LAYERS_MAX];
    bool placed[ZB_LAYERS_MAX];
    if (o->compose) ZB_TRY(zb_compose_kinds(o->compose, c->L, kind, placed, err));
    s->head = ZB_NEW_ARRAY(&s->arena, head, c->L * c->G);
    for (int l = 0; l < c->L; l++) {
        if (o->compose && !zb_kind_has_window(kind[l])) continue;
        c->layer[l] = (zb_layer_config){
            .kind = ZB_SLIDING_WINDOW, .window = (int)o->window, .sinks = (int)o->sinks};
        for (int g = 0; g < c->G; g++) s->head[s->n++] = (head){.layer = l, .g = g};
    }
    if (o->count > s->n)
        return zb_fail(err, ZB_ERR_CONFIG, "count: expected at most %d heads, found %lld", s->n,
                       (long long)o->count);
    if (c->G > 64)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: expected at most 64 key/value heads, found %d",
                       o->teacher, c->G);
    if (o->compose) ZB_TRY(check_limit(s, err));
    return zb_config_check(c, o->teacher, err);
}

/* "\n" before a key and ":" before a value, where each is one token. */
static zb_status marks_of(const zb_tokenizer *t, zb_pairs_form *form, zb_arena *a, zb_err *err) {
    zb_ids begin = {0}, middle = {0};
    ZB_TRY(zb_tokenizer_encode(t, ZB_STR("\n"), false, false, a, &begin, err));
    ZB_TRY(zb_tokenizer_encode(t, ZB_STR(":"), false, false, a, &middle, err));
    form->marks = begin.n == 1 && middle.n == 1;
    if (!form->marks) return ZB_OK;
    form->begin = begin.id[0];
    form->middle = middle.id[0];
    return ZB_OK;
}

static zb_status read_pairs(search *s, zb_err *err) {
    const zb_select_opts *o = s->o;
    zb_tokenizer *t;
    zb_corpus c;
    ZB_TRY(zb_model_tokenizer(&t, o->teacher, err));
    zb_status st =
        zb_corpus_read(&c, o->text, t, zb_model_config(s->teacher)->V, o->tokens, &s->arena, err);
    zb_pairs_form form = {.without = t ? zb_corpus_separator(t) : -1};
    if (st == ZB_OK && t) st = marks_of(t, &form, &s->arena, err);
    if (st == ZB_OK)
        zb_pairs_make(&s->pairs, &c, s->config.V, &form, (int)o->recall_rows, (uint64_t)o->seed,
                      &s->arena);
    zb_tokenizer_close(t);
    if (st == ZB_OK && !s->pairs.answers)
        st = zb_fail(err, ZB_ERR_CONFIG,
                     "recall_rows, text: expected at least one row and four different tokens");
    return st;
}

static void keep_states(search *s) {
    s->hidden = zb_alloc_array(&s->arena, (size_t)s->config.L + 1, sizeof *s->hidden);
    for (int l = 0; l < s->config.L; l++)
        s->hidden[l] = ZB_RAW_ARRAY(&s->arena, float, (size_t)s->pairs.b.n * s->config.D);
}

zb_status zb_retrieval_run(const zb_select_opts *o, zb_err *err) {
    if (!o->teacher || !o->out) return zb_fail(err, ZB_ERR_CONFIG, "teacher and out are needed");
    search s = {.o = o, .trace = json_array()};
    zb_precision p;
    double recall = 0;
    zb_status st = zb_precision_choose(o->precision, &p, err);
    if (st == ZB_OK) st = zb_model_open(&s.teacher, o->teacher, ZB_MODEL_RUN, err);
    if (st == ZB_OK) st = describe(&s, err);
    if (st == ZB_OK) st = read_pairs(&s, err);
    if (st == ZB_OK) st = zb_runner_new(&s.runner, s.teacher, p, err);
    if (st == ZB_OK) keep_states(&s);
    if (st == ZB_OK) st = find(&s, &recall, err);
    if (st == ZB_OK) st = write_result(&s, recall, err);
    json_decref(s.trace);
    zb_runner_free(s.runner);
    zb_model_free(s.teacher);
    zb_arena_free(&s.arena);
    return st;
}
