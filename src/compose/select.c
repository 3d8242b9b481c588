/* select.c - the sensitivity table and the choice (contract in select.h). */
#include "compose/select.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/output.h"
#include "compose/budget.h"
#include "compose/smart.h"
#include "compose/init.h"
#include "compose/measuring.h"
#include "compose/retrieval.h"
#include "data/corpus.h"
#include "model/loss.h"

#include <string.h>

#define AT(field) offsetof(zb_select_opts, field)
const zb_opt zb_select_opt_table[] = {
    {ZB_OPT_STR, "teacher", 't', AT(teacher), NULL, 0, 0, NULL,
     "the base Transformer: model folder or .gguf"},
    {ZB_OPT_STR, "mamba2", 0, AT(mamba2), NULL, 0, 0, NULL, "student with all layers Mamba2"},
    {ZB_OPT_STR, "mla", 0, AT(mla), NULL, 0, 0, NULL, "student with all layers MLA"},
    {ZB_OPT_STR, "text", 0, AT(text), "data/text/valid.jsonl", 0, 0, NULL, "held-out text"},
    {ZB_OPT_STR, "out", 'o', AT(out), NULL, 0, 0, NULL, "result (JSON)"},
    {ZB_OPT_CHOICE, "method", 0, AT(method), "auto", 0, 0,
     "auto|plan|kl|recall|error|smart|uniform|given|heads",
     "auto: plan under a budget, else smart; heads: which heads see all"},
    {ZB_OPT_STR, "layers", 0, AT(layers), NULL, 0, 0, NULL, "the layers of method `given`"},
    {ZB_OPT_INT, "count", 'n', AT(count), "4", 0, ZB_LAYERS_MAX, NULL,
     "how many layers stay MLA; method heads: how many heads see all"},
    {ZB_OPT_INT, "tokens", 0, AT(tokens), "0", 0, 1e9, NULL,
     "held-out tokens to measure on (0: 2048 under a budget, else 8192)"},
    {ZB_OPT_INT, "sequence_length", 0, AT(sequence_length), "512", 2, 1 << 20, NULL,
     "tokens per packed row"},
    {ZB_OPT_INT, "batch", 0, AT(batch), "4", 1, 1 << 20, NULL, "rows per pass"},
    {ZB_OPT_BOOL, "measure", 0, AT(measure), "false", 0, 0, NULL,
     "measure sensitivities also where the method does not need them"},
    {ZB_OPT_CHOICE, "precision", 0, AT(precision), "auto", 0, 0, "auto|f32|bf16",
     "matrix products; auto: bf16 where the CPU has it"},
    {ZB_OPT_F64, "cache_percent", 0, AT(cache_percent), "0", 0, 1e4, NULL,
     "budget: memory of a sequence at `context` tokens, as a share of the teacher's"},
    {ZB_OPT_STR, "budget", 0, AT(budget), NULL, 0, 0, NULL, "the same in bytes, like 60M"},
    {ZB_OPT_INT, "context", 0, AT(context), "2048", 1, 1 << 30, NULL,
     "budget: tokens of the sequence"},
    {ZB_OPT_INT, "window", 0, AT(window), "96", 1, 1 << 20, NULL,
     "heads: tokens that the other heads see, the own among them"},
    {ZB_OPT_INT, "sinks", 0, AT(sinks), "4", 0, 1 << 20, NULL,
     "heads: first tokens that they see, too"},
    {ZB_OPT_STR, "candidates", 0, AT(candidates), NULL, 0, 0, NULL,
     "budget: what may stand in a layer, like attention,mla:51+24,mamba2,mamba2=FOLDER"},
    {ZB_OPT_STR, "measures", 0, AT(measures), NULL, 0, 0, NULL,
     "budget: table of measurements, continued where it exists (default: beside `out`)"},
    {ZB_OPT_STR, "students", 0, AT(students), NULL, 0, 0, NULL,
     "budget: folder for candidates that are composed (default: beside `measures`)"},
    {ZB_OPT_INT, "verify", 0, AT(verify), "3", 0, 16, NULL,
     "budget: this many best plans are measured as a whole (0: none)"},
    {ZB_OPT_STR, "compare", 0, AT(compare), NULL, 0, 0, NULL,
     "budget: all methods side by side at these shares of the teacher's memory, like 2,4,8"},
    {ZB_OPT_STR, "contexts", 0, AT(contexts), "2048,32768", 0, 0, NULL,
     "budget: and at these contexts"},
    {ZB_OPT_INT, "recall_rows", 0, AT(recall_rows), "2", 0, 1024, NULL,
     "budget, heads: rows of 64 random pairs to be recalled (0: none)"},
    {ZB_OPT_F64, "recall_weight", 0, AT(recall_weight), "0", 0, 1e6, NULL,
     "budget: method plan minimises divergence + this times the nats that recall loses"},
    {ZB_OPT_CHOICE, "init", 0, AT(init), "calibrated", 0, 0, ZB_INIT_NAMES,
     "budget: start of composed candidates"},
    {ZB_OPT_STR, "calibration", 0, AT(calibration), "data/text/train.jsonl", 0, 0, NULL,
     "budget: text that composed candidates are fitted to"},
    {ZB_OPT_INT, "calibration_tokens", 0, AT(calibration_tokens), "8192", 1, 1 << 28, NULL,
     "budget: tokens of it"},
    {ZB_OPT_INT, "seed", 's', AT(seed), "42", 0, 9e15, NULL, "budget, heads: random parts"},
    {0},
};

typedef struct selector {
    const zb_select_opts *o;
    zb_arena arena;
    zb_model *teacher, *mamba2, *mla;
    zb_runner *rt, *r2, *rm;
    int L, D;
    double kl2, *kl; /* all Mamba2; with MLA in layer l: means per token */
    int64_t tokens;
} selector;

static zb_status open_model(zb_model **m, zb_runner **r, const char *path, const char *what,
                            zb_precision p, zb_err *err) {
    if (!path) return zb_fail(err, ZB_ERR_CONFIG, "%s: needed to measure sensitivities", what);
    ZB_TRY(zb_measuring_open(m, path, err));
    return zb_runner_new(r, *m, p, err);
}

static zb_status check_student(const selector *s, zb_model *m, const char *path, zb_kind kind,
                               zb_err *err) {
    const zb_config *c = zb_model_config(m), *t = zb_model_config(s->teacher);
    if (c->L != t->L || c->D != t->D || c->V != t->V)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the teacher's sizes", path);
    for (int l = 0; l < c->L; l++)
        if (c->layer[l].kind != kind)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: layer %d: expected %s, found %s", path, l,
                           zb_kind_name(kind), zb_kind_name(c->layer[l].kind));
    return ZB_OK;
}

/* Sum over the batch of KL(teacher‖student) for a student whose last hidden states are x. */
static double kl_of(selector *s, const float *teacher_hidden, const float *x, int n) {
    zb_run *run = zb_runner_run(s->r2);
    float *out = ZB_NEW_ARRAY(zb_runner_arena(s->r2), float, (size_t)n * s->D);
    zb_norm(run, run->params->norm, x, n, s->D, out, NULL);
    zb_vocab_sums sums = {0};
    zb_vocab_loss_run(&(zb_vocab_loss){.student = s->r2,
                                       .teacher = s->rt,
                                       .hidden = out,
                                       .teacher_hidden = teacher_hidden,
                                       .n = n,
                                       .weights = {.kl = 1}},
                      &sums);
    return sums.kl;
}

/* Adds one batch to the sums of all variants. */
static zb_status measure_batch(selector *s, const zb_batch *b, zb_progress *bar, int64_t done,
                               zb_err *err) {
    zb_arena *at = zb_runner_arena(s->rt), *a2 = zb_runner_arena(s->r2);
    size_t size = (size_t)b->n * s->D;
    ZB_TRY(zb_runner_begin(s->rt, b, err));
    ZB_TRY(zb_runner_begin(s->r2, b, err));
    ZB_TRY(zb_runner_begin(s->rm, b, err));
    float *ht = ZB_NEW_ARRAY(at, float, size);
    zb_runner_forward(s->rt, ht, NULL);
    float **hidden = zb_alloc_array(a2, (size_t)s->L + 1, sizeof *hidden),
          *x = ZB_NEW_ARRAY(a2, float, size);
    for (int l = 0; l <= s->L; l++) hidden[l] = ZB_NEW_ARRAY(a2, float, size);
    zb_runner_forward(s->r2, x, &(zb_capture){.hidden = hidden});
    s->kl2 += kl_of(s, ht, hidden[s->L], b->n);
    for (int l = 0; l < s->L; l++) {
        zb_mark mark = zb_arena_mark(a2);
        zb_layer_forward(zb_runner_run(s->rm), l, hidden[l], x, NULL, NULL);
        for (int k = l + 1; k < s->L; k++)
            zb_layer_forward(zb_runner_run(s->r2), k, x, x, NULL, NULL);
        s->kl[l] += kl_of(s, ht, x, b->n);
        zb_arena_pop(a2, mark);
        zb_progress_update(bar, (double)done + (double)b->n * (l + 1) / s->L, NULL);
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "select: interrupted");
    }
    return ZB_OK;
}

static zb_status measure_all(selector *s, zb_packer *p, zb_err *err) {
    zb_progress bar;
    zb_progress_begin(&bar, "select", "tokens", 0, (double)(p->rows * p->length));
    zb_status st = ZB_OK;
    for (int64_t r = 0; r < p->rows && st == ZB_OK; r += s->o->batch) {
        int64_t rows = p->rows - r < s->o->batch ? p->rows - r : s->o->batch;
        zb_mark mark = zb_arena_mark(&s->arena), mt = zb_arena_mark(zb_runner_arena(s->rt)),
                m2 = zb_arena_mark(zb_runner_arena(s->r2));
        zb_batch b = zb_packer_batch(p, r, (int)rows, &s->arena);
        st = measure_batch(s, &b, &bar, s->tokens, err);
        s->tokens += b.n;
        zb_arena_pop(zb_runner_arena(s->r2), m2);
        zb_arena_pop(zb_runner_arena(s->rt), mt);
        zb_arena_pop(&s->arena, mark);
    }
    if (st != ZB_OK) return st;
    zb_progress_end(&bar, (double)s->tokens, NULL);
    s->kl2 /= (double)s->tokens;
    for (int l = 0; l < s->L; l++) s->kl[l] /= (double)s->tokens;
    return ZB_OK;
}

static zb_status measure(selector *s, zb_err *err) {
    const zb_select_opts *o = s->o;
    zb_precision p;
    ZB_TRY(zb_precision_choose(o->precision, &p, err));
    ZB_TRY(zb_runner_new(&s->rt, s->teacher, p, err));
    ZB_TRY(open_model(&s->mamba2, &s->r2, o->mamba2, "mamba2", p, err));
    ZB_TRY(open_model(&s->mla, &s->rm, o->mla, "mla", p, err));
    ZB_TRY(check_student(s, s->mamba2, o->mamba2, ZB_MAMBA2, err));
    ZB_TRY(check_student(s, s->mla, o->mla, ZB_MLA, err));
    zb_tokenizer *t;
    ZB_TRY(zb_model_tokenizer(&t, o->teacher, err));
    zb_corpus c;
    zb_packer packer;
    zb_status st =
        zb_corpus_read(&c, o->text, t, zb_model_config(s->teacher)->V, o->tokens, &s->arena, err);
    zb_tokenizer_close(t);
    if (st == ZB_OK)
        st = zb_packer_init(
            &packer, &c, (int)(c.n_tokens < o->sequence_length ? c.n_tokens : o->sequence_length),
            false, 0, &s->arena, err);
    return st == ZB_OK ? measure_all(s, &packer, err) : st;
}

static zb_status choose(selector *s, int *layers, int *count, double *sensitivity, zb_err *err) {
    const zb_select_opts *o = s->o;
    *count = (int)o->count;
    if (!strcmp(o->method, "given"))
        return zb_list_ints(o->layers, "layers", 0, s->L - 1, layers, s->L, count, err);
    if (!strcmp(o->method, "uniform")) return zb_smart_uniform(s->L, *count, layers, err);
    return zb_smart_select(sensitivity, s->L, *count, layers, &s->arena, err);
}

static zb_status write_result(const selector *s, const int *layers, int count,
                              const double *sensitivity, bool measured, zb_err *err) {
    json_t *r = json_object(), *list = json_array(), *sens = json_array(), *kl = json_array();
    for (int i = 0; i < count; i++) json_array_append_new(list, json_integer(layers[i]));
    json_object_set_new(r, "method", json_string(s->o->method));
    json_object_set_new(r, "count", json_integer(count));
    json_object_set_new(r, "layers", list);
    if (measured) {
        for (int l = 0; l < s->L; l++) {
            json_array_append_new(sens, json_real(sensitivity[l]));
            json_array_append_new(kl, json_real(s->kl[l]));
        }
        json_object_set(r, "sensitivity", sens);
        json_object_set(r, "kl_with_mla", kl);
        json_object_set_new(r, "kl_all_mamba2", json_real(s->kl2));
        json_object_set_new(r, "tokens", json_integer(s->tokens));
    }
    json_decref(sens);
    json_decref(kl);
    zb_status st = zb_json_write(s->o->out, r, err);
    json_decref(r);
    return st;
}

bool zb_select_by_budget(const zb_select_opts *o) {
    static const char *const table_methods[] = {"plan", "kl", "recall", "error"};
    for (size_t i = 0; i < sizeof table_methods / sizeof table_methods[0]; i++)
        if (!strcmp(o->method, table_methods[i])) return true;
    return o->budget || o->cache_percent > 0 || o->compare;
}

bool zb_select_heads(const zb_select_opts *o) { return !strcmp(o->method, "heads"); }

bool zb_select_depends(const zb_select_opts *o, const char *compose_option) {
    bool window = !strcmp(compose_option, "window") || !strcmp(compose_option, "sinks");
    if (zb_select_by_budget(o)) return window || zb_measuring_depends(compose_option);
    return zb_select_heads(o) && (window || !strcmp(compose_option, "default_kind") ||
                                  zb_str_ends(zb_str_from(compose_option), ZB_STR("_layers")));
}

static zb_status select_layers(const zb_select_opts *o, zb_err *err) {
    if (!o->teacher || !o->out) return zb_fail(err, ZB_ERR_CONFIG, "teacher and out are needed");
    selector s = {.o = o};
    bool measured = o->measure || !strcmp(o->method, "smart");
    zb_status st = measured ? zb_measuring_open(&s.teacher, o->teacher, err)
                            : zb_model_open(&s.teacher, o->teacher, ZB_MODEL_RUN, err);
    if (st == ZB_OK) {
        s.L = zb_model_config(s.teacher)->L;
        s.D = zb_model_config(s.teacher)->D;
        s.kl = ZB_NEW_ARRAY(&s.arena, double, s.L);
        if (o->count > s.L)
            st = zb_fail(err, ZB_ERR_CONFIG, "count: expected at most %d layers, found %lld", s.L,
                         (long long)o->count);
    }
    if (st == ZB_OK && measured) st = measure(&s, err);
    if (st == ZB_OK) {
        int *layers = ZB_NEW_ARRAY(&s.arena, int, s.L), count;
        double *sensitivity = ZB_NEW_ARRAY(&s.arena, double, s.L);
        for (int l = 0; l < s.L; l++) sensitivity[l] = s.kl2 - s.kl[l];
        st = choose(&s, layers, &count, sensitivity, err);
        if (st == ZB_OK) st = write_result(&s, layers, count, sensitivity, measured, err);
    }
    zb_runner_free(s.rt);
    zb_runner_free(s.r2);
    zb_runner_free(s.rm);
    zb_model_free(s.teacher);
    zb_model_free(s.mamba2);
    zb_model_free(s.mla);
    zb_arena_free(&s.arena);
    return st;
}

zb_status zb_select_run(const zb_select_opts *o, zb_err *err) {
    ZB_TRY(zb_output_file(o->out, ZB_INPUTS(o->teacher, o->text), err));
    zb_select_opts full = *o;
    bool budget = zb_select_by_budget(o), auto_method = !strcmp(o->method, "auto");
    if (auto_method) full.method = budget ? "plan" : "smart";
    if (!o->tokens) full.tokens = budget ? 2048 : 8192;
    if (zb_select_heads(o)) return zb_retrieval_run(&full, err);
    return budget ? zb_budget_run(&full, err) : select_layers(&full, err);
}
