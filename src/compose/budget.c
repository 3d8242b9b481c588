/* budget.c - from a table of measurements to a plan (contract in budget.h).
 *
 * The memory of a sequence of N tokens is Σ_l state_l + N · cache_l, in f32, as `zebra inspect`
 * counts it; shares are of the teacher's N · cache. Sums of single-layer divergences are an
 * estimate: errors of layers add up, cancel or feed each other, hence the verification. */
#include "compose/budget.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/output.h"
#include "compose/measuring.h"
#include "model/footprint.h"

#include <math.h>
#include <string.h>

static const char *const methods[] = {"plan", "kl", "recall", "error", "smart", "uniform"};
enum { METHODS = sizeof methods / sizeof methods[0], BUDGETS_MAX = 64, VERIFIED_MAX = 1024 };

/* A plan with its figures; kl and recall as measured, NaN where they were not. */
typedef struct plan {
    zb_allotment p;
    double predicted, kl, recall; /* predicted: sum of the layers' divergences */
    int64_t cache, state;         /* bytes per token; of a fixed size */
} plan;

/* What is asked of a method. */
typedef struct task {
    const char *method;
    int64_t context, budget; /* tokens, bytes */
} task;

typedef struct budgeter {
    const zb_select_opts *o;
    zb_arena arena;
    zb_compose_opts compose;
    zb_measuring_opts how;
    zb_measuring *measuring; /* opened when first needed */
    zb_measures table;
    bool renew;                  /* what is stale; else it is an error */
    bool chosen[ZB_CHOICES_MAX]; /* candidates of the table that take part */
    plan verified[VERIFIED_MAX];
    int n_verified;
} budgeter;

/* ---- the table ---- */

static const char *without_json(const char *path, zb_arena *a) {
    zb_str s = zb_str_from(path);
    return zb_strndup(a, s.p, zb_str_ends(s, ZB_STR(".json")) ? s.n - 5 : s.n);
}

static void set_up(budgeter *b) {
    const zb_select_opts *o = b->o;
    if (o->compose) {
        b->compose = *o->compose;
    } else {
        zb_opt_group g[] = {{"", zb_compose_opt_table, &b->compose}, {0}};
        zb_opts_defaults(g);
        b->compose.init = o->init;
        b->compose.calibration = o->calibration;
        b->compose.calibration_tokens = o->calibration_tokens;
        b->compose.seed = o->seed;
    }
    b->renew = o->renew && !o->measures && !o->students;
    const char *stem = without_json(o->out, &b->arena);
    b->table.path = o->measures ? o->measures : zb_asprintf(&b->arena, "%s.measures.json", stem);
    const char *beside = without_json(b->table.path, &b->arena);
    b->how = (zb_measuring_opts){
        .teacher = o->teacher,
        .text = o->text,
        .students = o->students ? o->students : zb_asprintf(&b->arena, "%s.students", beside),
        .precision = o->precision,
        .tokens = o->tokens,
        .length = o->sequence_length,
        .batch = o->batch,
        .recall_rows = o->recall_rows,
        .seed = o->seed,
        .compose = &b->compose,
        .renew = b->renew};
}

static zb_status open_measuring(budgeter *b, zb_err *err) {
    if (b->measuring) return ZB_OK;
    if (!b->o->teacher) return zb_fail(err, ZB_ERR_CONFIG, "teacher: needed to measure");
    ZB_TRY(zb_measuring_new(&b->measuring, &b->how, err));
    return zb_measuring_describe(b->measuring, &b->table, err);
}

/* A few of all kinds: latents at about an eighth, a fifth and a third of the teacher's cache. */
static zb_status default_candidates(budgeter *b, const char **list, zb_err *err) {
    zb_config c;
    size_t stored;
    if (!b->o->teacher) return zb_fail(err, ZB_ERR_CONFIG, "teacher: needed to measure");
    ZB_TRY(zb_model_peek(b->o->teacher, &c, &stored, err));
    int rotary = c.dh * 3 / 16 * 2, cache = 2 * c.G * c.dh;
    *list = "attention,zero,linear,sliding_window:96+4,mamba2";
    for (int part = 8; part >= 3; part -= part == 8 ? 3 : 2)
        if (cache / part > rotary)
            *list = zb_asprintf(&b->arena, "%s,mla:%d+%d", *list, cache / part - rotary, rotary);
    return ZB_OK;
}

/* Plain `mla` and `mamba2` are the layers of the models given as such. */
static const char *with_donor(const budgeter *b, const char *word, zb_arena *a) {
    if (!strcmp(word, "mla") && b->o->mla) return zb_asprintf(a, "mla=%s", b->o->mla);
    if (!strcmp(word, "mamba2") && b->o->mamba2) return zb_asprintf(a, "mamba2=%s", b->o->mamba2);
    return word;
}

static zb_status list_candidates(budgeter *b, zb_err *err) {
    const char *list = b->o->candidates, *full = "";
    zb_candidate c[ZB_CHOICES_MAX];
    int n, words;
    if (!list && b->table.n) {
        for (int i = 0; i < b->table.n; i++) b->chosen[i] = true;
        return ZB_OK;
    }
    if (!list) ZB_TRY(default_candidates(b, &list, err));
    char **word = zb_list_split(list, &b->arena, &words);
    for (int i = 0; i < words; i++)
        full =
            zb_asprintf(&b->arena, "%s%s%s", full, i ? "," : "", with_donor(b, word[i], &b->arena));
    ZB_TRY(zb_candidates_parse(c, ZB_CHOICES_MAX, &n, full, "candidates", &b->arena, err));
    for (int i = 0; i < n; i++) {
        int at = zb_measures_find(&b->table, c[i].name);
        if (at < 0) {
            if (!b->table.layers) ZB_TRY(open_measuring(b, err));
            ZB_TRY(zb_measures_add(&b->table, &c[i], &at, &b->arena, err));
        }
        b->chosen[at] = true;
    }
    return ZB_OK;
}

static bool complete(const zb_measures *t, int c) {
    for (int l = 0; l < t->layers; l++)
        if (!t->row[c][l].done) return false;
    return true;
}

/* The table of an earlier run, where there is one that was measured as is asked for now; a stale
 * one goes aside. */
static zb_status read_table(budgeter *b, json_t *setup, zb_err *err) {
    zb_err why;
    const char *path = b->table.path, *old = zb_asprintf(&b->arena, "%s.old", path);
    if (zb_file_exists(path)) {
        ZB_TRY(zb_measures_read(&b->table, path, &b->arena, err));
        if (!setup || zb_setup_match(path, b->table.setup, setup, &why) == ZB_OK) return ZB_OK;
        ZB_TRY(zb_setup_stale(&why, b->renew, err));
        ZB_TRY(zb_path_rename(path, old, err));
        json_decref(b->table.setup);
        b->table = (zb_measures){.path = path};
    }
    b->table.setup = json_incref(setup);
    return ZB_OK;
}

/* A candidate that is not what was measured has no rows. */
static zb_status check_rows(budgeter *b, int c, zb_err *err) {
    zb_err why;
    if (zb_measuring_check(&b->compose, &b->table, c, &why) == ZB_OK) return ZB_OK;
    ZB_TRY(zb_setup_stale(&why, b->renew, err));
    memset(b->table.row[c], 0, (size_t)b->table.layers * sizeof *b->table.row[c]);
    return ZB_OK;
}

/* The table as a knapsack; the method decides what is lost. Recall better than the teacher's is
 * chance, not merit: it counts as the teacher's, and the divergence decides between equals. */
static zb_knapsack knapsack_of(const budgeter *b, const task *k, zb_arena *a) {
    const zb_measures *t = &b->table;
    size_t cells = (size_t)t->layers * (size_t)t->n;
    double *loss = ZB_NEW_ARRAY(a, double, cells);
    int64_t *bytes = ZB_NEW_ARRAY(a, int64_t, cells), *common = ZB_NEW_ARRAY(a, int64_t, 2 * t->n);
    for (int c = 0; c < t->n; c++) {
        common[2 * c] = t->common[c][0];
        common[2 * c + 1] = t->common[c][1];
        bool part = b->chosen[c] && t->candidate[c].what == ZB_CANDIDATE_KIND;
        for (int l = 0; l < t->layers; l++) {
            const zb_measure *r = &t->row[c][l];
            int i = l * t->n + c;
            double lost = fmax(0, r->recall - t->teacher_recall);
            loss[i] = !part                          ? HUGE_VAL
                      : !strcmp(k->method, "recall") ? lost + 1e-6 * r->kl
                      : !strcmp(k->method, "error")  ? r->error
                      : !strcmp(k->method, "plan")   ? r->kl + b->o->recall_weight * lost
                                                     : r->kl;
            bytes[i] = r->state_bytes + r->cache_bytes * k->context;
        }
    }
    return (zb_knapsack){
        .layers = t->layers, .choices = t->n, .loss = loss, .bytes = bytes, .common = common};
}

static void describe_plan(const budgeter *b, plan *p) {
    const zb_measures *t = &b->table;
    p->predicted = 0;
    p->kl = p->recall = (double)NAN;
    p->cache = p->state = 0;
    for (int l = 0; l < t->layers; l++) {
        const zb_measure *r = &t->row[p->p.choice[l]][l];
        p->predicted += r->kl;
        p->cache += r->cache_bytes;
        p->state += r->state_bytes;
    }
}

/* ---- filling ---- */

static int64_t share(const budgeter *b, double percent, int64_t context) {
    return (int64_t)(percent / 100 * (double)b->table.teacher_cache_bytes * (double)context);
}

/* 0 without one. */
static zb_status read_budget(const zb_select_opts *o, int64_t *bytes, zb_err *err) {
    uint64_t n = 0;
    if (o->budget && o->cache_percent > 0)
        return zb_fail(err, ZB_ERR_CONFIG, "expected one of budget and cache_percent");
    if (o->budget && (!zb_parse_bytes(o->budget, &n) || n < 1 || n > INT64_MAX / 2))
        return zb_fail(err, ZB_ERR_CONFIG, "budget: expected bytes like 60M, found \"%.40s\"",
                       o->budget);
    *bytes = (int64_t)n;
    return ZB_OK;
}

static zb_status check_recall(const budgeter *b, const char *method, zb_err *err) {
    if (strcmp(method, "recall") || b->table.teacher_recall > 0) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG, "%s: holds no recall: measure with recall_rows",
                   b->table.path);
}

/* The sizes of all candidates are known before any is measured, and with them whether a plan fits.
 */
static zb_status check_fits(budgeter *b, zb_err *err) {
    const zb_select_opts *o = b->o;
    int64_t budget;
    for (int c = 0; c < b->table.n; c++) {
        if (!b->chosen[c]) continue;
        if (o->teacher) ZB_TRY(check_rows(b, c, err));
        if (complete(&b->table, c)) continue;
        ZB_TRY(open_measuring(b, err));
        ZB_TRY(zb_measuring_sizes(b->measuring, &b->table, c, err));
    }
    ZB_TRY(read_budget(o, &budget, err));
    if (!budget && o->cache_percent <= 0) return ZB_OK;
    ZB_TRY(check_recall(b, o->method, err));
    if (!budget) budget = share(b, o->cache_percent, o->context);
    zb_knapsack k = knapsack_of(b, &(task){o->method, o->context, budget}, &b->arena);
    return zb_knapsack_check(&k, budget, &b->arena, err);
}

static zb_status fill_table(budgeter *b, zb_err *err) {
    json_t *setup = b->o->teacher ? zb_measuring_setup(&b->how) : NULL;
    zb_status s = read_table(b, setup, err);
    json_decref(setup);
    ZB_TRY(s);
    ZB_TRY(list_candidates(b, err));
    ZB_TRY(check_fits(b, err));
    for (int c = 0; c < b->table.n; c++)
        if (b->chosen[c] && !complete(&b->table, c))
            ZB_TRY(zb_measuring_fill(b->measuring, &b->table, c, err));
    return ZB_OK;
}

/* ---- plans ---- */

/* The *n best plans of a method (one, where the method knows one only). */
static zb_status solve(budgeter *b, const task *t, plan *out, int *n, zb_err *err) {
    zb_allotment found[ZB_PLANS_MAX];
    zb_arena *a = &b->arena;
    const char *method = t->method;
    zb_knapsack k = knapsack_of(b, t, a);
    bool one = !strcmp(method, "kl") || !strcmp(method, "smart") || !strcmp(method, "uniform");
    if (one) *n = 1;
    ZB_TRY(check_recall(b, method, err));
    if (!strcmp(method, "kl"))
        ZB_TRY(zb_knapsack_greedy(&k, t->budget, found, a, err));
    else if (one)
        ZB_TRY(zb_knapsack_two(&k, t->budget, !strcmp(method, "smart"), found, a, err));
    else
        ZB_TRY(zb_knapsack_best(&k, t->budget, found, n, a, err));
    for (int i = 0; i < *n; i++) {
        out[i].p = found[i];
        describe_plan(b, &out[i]);
    }
    return ZB_OK;
}

/* Measures a plan as a whole, once. */
static zb_status verify(budgeter *b, plan *p, zb_err *err) {
    size_t size = (size_t)b->table.layers * sizeof(int);
    for (int i = 0; i < b->n_verified; i++)
        if (!memcmp(b->verified[i].p.choice, p->p.choice, size)) {
            p->kl = b->verified[i].kl;
            p->recall = b->verified[i].recall;
            return ZB_OK;
        }
    ZB_TRY(open_measuring(b, err));
    ZB_TRY(zb_measuring_plan(b->measuring, &b->table, p->p.choice, &p->kl, &p->recall, err));
    if (b->n_verified < VERIFIED_MAX) b->verified[b->n_verified++] = *p;
    if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "select: interrupted");
    return ZB_OK;
}

/* What a verified plan is judged by; less is better. */
static double worth(const budgeter *b, const char *method, const plan *p) {
    if (!strcmp(method, "recall")) return p->recall;
    return p->kl + (strcmp(method, "plan") ? 0 : b->o->recall_weight * p->recall);
}

/* The method's plans, the best first where they are verified. */
static zb_status best_plans(budgeter *b, const task *t, plan *out, int *n, zb_err *err) {
    int count = (int)b->o->verify;
    *n = count > 0 ? count : 1;
    ZB_TRY(solve(b, t, out, n, err));
    for (int i = 0; i < *n && count > 0; i++) {
        ZB_TRY(verify(b, &out[i], err));
        for (int k = i; k > 0; k--) {
            if (worth(b, t->method, &out[k]) >= worth(b, t->method, &out[k - 1])) break;
            plan better = out[k];
            out[k] = out[k - 1];
            out[k - 1] = better;
        }
    }
    return ZB_OK;
}

/* ---- results ---- */

static json_t *number(double v) { return isfinite(v) ? json_real(v) : json_null(); }

static json_t *plan_figures(const plan *p, int64_t context) {
    return json_pack("{s:I,s:I,s:I,s:f,s:o,s:o}", "bytes",
                     (json_int_t)(p->state + p->cache * context), "cache_bytes_per_token",
                     (json_int_t)p->cache, "state_bytes", (json_int_t)p->state, "predicted_kl",
                     p->predicted, "kl", number(p->kl), "recall", number(p->recall));
}

static json_t *plan_names(const budgeter *b, const plan *p) {
    json_t *list = json_array();
    for (int l = 0; l < b->table.layers; l++)
        json_array_append_new(list, json_string(b->table.candidate[p->p.choice[l]].name));
    return list;
}

static json_t *plan_rows(const budgeter *b, const plan *p) {
    json_t *list = json_array();
    for (int l = 0; l < b->table.layers; l++) {
        int c = p->p.choice[l];
        const zb_measure *r = &b->table.row[c][l];
        json_array_append_new(list, json_pack("{s:i,s:s,s:s,s:f,s:f,s:f,s:I,s:I}", "layer", l,
                                              "candidate", b->table.candidate[c].name, "kind",
                                              zb_kind_name(b->table.candidate[c].kind), "kl", r->kl,
                                              "error", r->error, "recall", r->recall,
                                              "cache_bytes_per_token", (json_int_t)r->cache_bytes,
                                              "state_bytes", (json_int_t)r->state_bytes));
    }
    return list;
}

/* What is asked of the table, as numbers. */
typedef struct comparison {
    double *percent;
    int context[BUDGETS_MAX], percents, contexts;
} comparison;

static zb_status read_comparison(budgeter *b, comparison *c, zb_err *err) {
    char **word = zb_list_split(b->o->compare, &b->arena, &c->percents);
    c->percent = ZB_NEW_ARRAY(&b->arena, double, c->percents);
    for (int i = 0; i < c->percents; i++)
        if (!zb_parse_f64(word[i], &c->percent[i]) || c->percent[i] <= 0 || c->percent[i] > 1e4)
            return zb_fail(err, ZB_ERR_CONFIG, "compare: expected shares, found \"%.40s\"",
                           word[i]);
    return zb_list_ints(b->o->contexts, "contexts", 1, 1 << 30, c->context, BUDGETS_MAX,
                        &c->contexts, err);
}

static zb_status add_result(budgeter *b, json_t *out, zb_err *err) {
    const zb_select_opts *o = b->o;
    int64_t budget = 0;
    plan p[ZB_PLANS_MAX];
    int n;
    ZB_TRY(read_budget(o, &budget, err));
    if (!budget) budget = share(b, o->cache_percent, o->context);
    ZB_TRY(best_plans(b, &(task){o->method, o->context, budget}, p, &n, err));
    json_t *layers = json_array(), *others = json_array(), *figures;
    for (int l = 0; l < b->table.layers; l++)
        if (b->table.candidate[p[0].p.choice[l]].kind == ZB_MLA)
            json_array_append_new(layers, json_integer(l));
    figures = plan_figures(&p[0], o->context);
    json_object_set_new(out, "context", json_integer(o->context));
    json_object_set_new(out, "budget_bytes", json_integer(budget));
    json_object_update(out, figures);
    json_decref(figures);
    json_object_set_new(out, "layers", layers);
    json_object_set_new(out, "plan", plan_rows(b, &p[0]));
    for (int i = 1; i < n; i++) {
        json_t *other = plan_figures(&p[i], o->context);
        json_object_set_new(other, "candidates", plan_names(b, &p[i]));
        json_array_append_new(others, other);
    }
    json_object_set_new(out, "alternatives", others);
    zb_info("select: %s: %lld of %lld bytes at %lld tokens, KL %.4f predicted, %.4f measured",
            o->method, (long long)p[0].p.bytes, (long long)budget, (long long)o->context,
            p[0].predicted, p[0].kl);
    return ZB_OK;
}

/* One row per method; a method that finds nothing within the budget says why. */
static zb_status compare_at(budgeter *b, double percent, int64_t context, json_t *rows,
                            zb_err *err) {
    for (int i = 0; i < METHODS; i++) {
        plan p[ZB_PLANS_MAX];
        int n;
        zb_err why = {0};
        int64_t budget = share(b, percent, context);
        zb_status s = best_plans(b, &(task){methods[i], context, budget}, p, &n, &why);
        json_t *row = json_pack("{s:I,s:f,s:I,s:s}", "context", (json_int_t)context, "percent",
                                percent, "budget_bytes", (json_int_t)budget, "method", methods[i]);
        json_array_append_new(rows, row);
        if (s == ZB_ERR_CONFIG) {
            json_object_set_new(row, "refused", json_string(why.msg));
            continue;
        }
        if (s != ZB_OK) {
            if (err) *err = why;
            return s;
        }
        json_t *figures = plan_figures(&p[0], context);
        json_object_update(row, figures);
        json_decref(figures);
        json_object_set_new(row, "candidates", plan_names(b, &p[0]));
    }
    return ZB_OK;
}

static zb_status add_comparison(budgeter *b, json_t *out, zb_err *err) {
    comparison c;
    json_t *rows = json_array();
    json_object_set_new(out, "compare", rows);
    ZB_TRY(read_comparison(b, &c, err));
    for (int k = 0; k < c.contexts; k++)
        for (int i = 0; i < c.percents; i++)
            ZB_TRY(compare_at(b, c.percent[i], c.context[k], rows, err));
    return ZB_OK;
}

/* Before hours of measuring, what would be refused behind them. */
static zb_status check_options(budgeter *b, zb_err *err) {
    int64_t budget;
    comparison c;
    ZB_TRY(read_budget(b->o, &budget, err));
    return b->o->compare ? read_comparison(b, &c, err) : ZB_OK;
}

static zb_status work(budgeter *b, json_t *out, zb_err *err) {
    const zb_select_opts *o = b->o;
    ZB_TRY(check_options(b, err));
    ZB_TRY(fill_table(b, err));
    json_object_set_new(out, "method", json_string(o->method));
    json_object_set_new(out, "measures", json_string(b->table.path));
    json_object_set_new(out, "teacher_recall", json_real(b->table.teacher_recall));
    json_object_set_new(out, "teacher_cache_bytes_per_token",
                        json_integer(b->table.teacher_cache_bytes));
    json_object_set_new(out, "tokens", json_integer(o->tokens));
    if (o->budget || o->cache_percent > 0) ZB_TRY(add_result(b, out, err));
    if (o->compare) ZB_TRY(add_comparison(b, out, err));
    return zb_json_write(o->out, out, err);
}

zb_status zb_budget_run(const zb_select_opts *o, zb_err *err) {
    if (!o->out) return zb_fail(err, ZB_ERR_CONFIG, "out is needed");
    if (!strcmp(o->method, "given"))
        return zb_fail(err, ZB_ERR_CONFIG, "method given: takes no budget");
    if (!o->budget && o->cache_percent <= 0 && !o->compare)
        return zb_fail(err, ZB_ERR_CONFIG, "method %s: expected budget, cache_percent or compare",
                       o->method);
    ZB_TRY(zb_outputs_apart(ZB_INPUTS(o->out, o->measures), err));
    zb_arena a = {0};
    budgeter *b = ZB_NEW(&a, budgeter);
    json_t *out = json_object();
    b->arena = a;
    b->o = o;
    set_up(b);
    zb_status s = work(b, out, err);
    json_decref(out);
    json_decref(b->table.setup);
    zb_measuring_free(b->measuring);
    a = b->arena;
    zb_arena_free(&a);
    return s;
}
