/* prune.c - options, what is kept, repair (contract in prune.h). */
#include "compose/prune.h"

#include "base/log.h"
#include "compose/calibrate.h"
#include "model/loss.h"

#include <string.h>

enum { HELD_TOKENS = 4096 }; /* that a repair is judged by */

#define AT(field) offsetof(zb_prune_opts, field)
const zb_opt zb_prune_opt_table[] = {
    {ZB_OPT_STR, "model", 'm', AT(model), NULL, 0, 0, NULL, "model to prune: folder or .gguf"},
    {ZB_OPT_STR, "out", 'o', AT(out), NULL, 0, 0, NULL, "folder for the pruned model"},
    {ZB_OPT_INT, "layers", 0, AT(layers), "0", 0, ZB_LAYERS_MAX, NULL, "layers to keep (0: all)"},
    {ZB_OPT_INT, "mlp", 0, AT(mlp), "0", 0, 1 << 20, NULL, "neurons of each MLP to keep (0: all)"},
    {ZB_OPT_INT, "heads", 0, AT(heads), "0", 0, 1 << 16, NULL,
     "query heads of each layer to keep, as many of each group (0: all of the kept groups)"},
    {ZB_OPT_INT, "kv_heads", 0, AT(kv_heads), "0", 0, 1 << 16, NULL,
     "key/value heads of each layer to keep, with their query heads (0: all)"},
    {ZB_OPT_INT, "hidden", 0, AT(hidden), "0", 0, 1 << 20, NULL,
     "channels of the hidden states to keep (0: all)"},
    {ZB_OPT_CHOICE, "depth", 0, AT(depth), "divergence", 0, 0, "divergence|influence",
     "which layers go: those least missed, tried one by one, or those that turn their input least"},
    {ZB_OPT_STR, "text", 0, AT(text), "data/text/train.jsonl", 0, 0, NULL,
     "text that parts are judged by and repaired on"},
    {ZB_OPT_INT, "tokens", 0, AT(tokens), "16384", 2, 1e9, NULL, "tokens of it"},
    {ZB_OPT_INT, "depth_tokens", 0, AT(depth_tokens), "1024", 2, 1e9, NULL,
     "tokens of it for each trial without a layer"},
    {ZB_OPT_INT, "length", 0, AT(length), "512", 2, 1 << 20, NULL, "tokens of a row"},
    {ZB_OPT_BOOL, "repair", 0, AT(repair), "true", 0, 0, NULL,
     "solve the last maps of attention and MLP anew where heads or neurons went, if that helps"},
    {ZB_OPT_F64, "ridge", 0, AT(ridge), "0", 0, 1e6, NULL,
     "of attention's repaired maps (0: chosen on half of the text)"},
    {ZB_OPT_INT, "seed", 's', AT(seed), "42", 0, 9e15, NULL, "order of the documents"},
    {ZB_OPT_CHOICE, "dtype", 0, AT(dtype), "f32", 0, 0, "f32|bf16", "type of the saved weights"},
    {0},
};

typedef struct pruner {
    const zb_prune_opts *o;
    zb_model *from, *shallow,
        *small; /* as it is; with fewer layers; with smaller ones (NULL: not) */
    zb_tokenizer *tokenizer;
    zb_arena arena;
    zb_corpus corpus;
    zb_packer packer;
    zb_kept kept;           /* of the model with fewer layers */
    int *layers;            /* [L] of the original */
    double plain, repaired; /* divergence without and with repair; 0: not measured */
} pruner;

static zb_model *present(const pruner *p) { return p->shallow ? p->shallow : p->from; }

static zb_status check_count(const char *name, int64_t want, int have, zb_err *err) {
    if (want <= have) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG, "%s: expected at most the model's %d, found %lld", name,
                   have, (long long)want);
}

/* Sizes against the model's; what the options leave open is filled in. */
static zb_status check_sizes(const zb_config *c, zb_prune_opts *o, zb_err *err) {
    ZB_TRY(check_count("layers", o->layers, c->L, err));
    ZB_TRY(check_count("mlp", o->mlp, c->F, err));
    ZB_TRY(check_count("heads", o->heads, c->H, err));
    ZB_TRY(check_count("kv_heads", o->kv_heads, c->G, err));
    ZB_TRY(check_count("hidden", o->hidden, c->D, err));
    if (!o->layers) o->layers = c->L;
    if (!o->mlp) o->mlp = c->F;
    if (!o->hidden) o->hidden = c->D;
    if (!o->kv_heads) o->kv_heads = c->G;
    if (!o->heads) o->heads = c->H / c->G * o->kv_heads;
    if (o->heads % o->kv_heads || o->heads / o->kv_heads > c->H / c->G)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "heads: expected a multiple of %lld key/value heads, at most %d of each, "
                       "found %lld",
                       (long long)o->kv_heads, c->H / c->G, (long long)o->heads);
    bool same = o->layers == c->L && o->mlp == c->F && o->hidden == c->D && o->heads == c->H;
    if (same)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "layers, mlp, heads, kv_heads, hidden: expected a smaller size of one of "
                       "them, found none");
    if (o->hidden == c->D && o->heads == c->H) return ZB_OK;
    for (int l = 0; l < c->L; l++) {
        const zb_layer_config *k = &c->layer[l];
        if (k->kind == ZB_ATTENTION || (k->kind == ZB_SLIDING_WINDOW && !k->retrieval)) continue;
        return zb_fail(err, ZB_ERR_CONFIG,
                       "heads, kv_heads, hidden: expected layers of attention or windows alone, "
                       "found %s%s in layer %d",
                       zb_kind_name(k->kind), k->retrieval ? " with retrieval heads" : "", l);
    }
    return ZB_OK;
}

/* ---- what is kept ---- */

/* Indices of the `want` largest of n scores, ascending; equal ones in order. */
static int *largest(const double *score, int n, int want, zb_arena *a) {
    int *list = ZB_NEW_ARRAY(a, int, want), at = 0;
    for (int i = 0; i < n; i++) {
        int before = 0;
        for (int j = 0; j < n; j++)
            before += score[j] > score[i] || (score[j] == score[i] && j < i);
        if (before < want) list[at++] = i;
    }
    return list;
}

/* Groups by the sum of their heads; of each as many of its best heads. */
static void keep_heads(zb_kept *k, const zb_config *c, int l, const double *score, zb_arena *a) {
    int per = c->H / c->G, keep = k->H / k->G;
    double *group = ZB_NEW_ARRAY(a, double, c->G);
    for (int h = 0; h < c->H; h++) group[h / per] += score[h];
    k->group[l] = largest(group, c->G, k->G, a);
    k->head[l] = ZB_NEW_ARRAY(a, int, k->H);
    for (int g = 0; g < k->G; g++) {
        const int *best = largest(score + k->group[l][g] * per, per, keep, a);
        for (int i = 0; i < keep; i++) k->head[l][g * keep + i] = k->group[l][g] * per + best[i];
    }
}

static zb_status keep_widths(pruner *p, const zb_prune_text *t, zb_err *err) {
    const zb_config *c = zb_model_config(present(p));
    const zb_prune_opts *o = p->o;
    zb_kept *k = &p->kept;
    zb_prune_scores s;
    *k = zb_kept_all(c, &p->arena);
    ZB_TRY(zb_prune_score(&s, present(p), t, &p->arena, err));
    k->F = (int)o->mlp;
    k->D = (int)o->hidden;
    k->G = (int)o->kv_heads;
    k->H = (int)o->heads;
    k->hidden = largest(s.hidden, c->D, k->D, &p->arena);
    for (int l = 0; l < c->L; l++) {
        k->mlp[l] = largest(s.mlp[l], c->F, k->F, &p->arena);
        if (k->H < c->H) keep_heads(k, c, l, s.head[l], &p->arena);
    }
    return ZB_OK;
}

/* ---- stages ---- */

static zb_prune_text rows_of(pruner *p, int64_t tokens) {
    int64_t rows = tokens / p->o->length;
    if (rows < 1) rows = 1;
    if (rows > p->packer.rows) rows = p->packer.rows;
    return (zb_prune_text){&p->packer, (int)rows, (int)p->o->length};
}

static zb_status read_text(pruner *p, zb_err *err) {
    const zb_prune_opts *o = p->o;
    ZB_TRY(zb_model_tokenizer(&p->tokenizer, o->model, err));
    /* as much as a calibration reads, so that its rows are known and others are held out */
    ZB_TRY(zb_corpus_read(&p->corpus, o->text, p->tokenizer, zb_model_config(p->from)->V,
                          4 * o->tokens, &p->arena, err));
    return zb_packer_init(&p->packer, &p->corpus, (int)o->length, true, (uint64_t)o->seed,
                          &p->arena, err);
}

static zb_status drop_layers(pruner *p, zb_err *err) {
    const zb_config *c = zb_model_config(p->from);
    int n = c->L, want = (int)p->o->layers;
    p->layers = ZB_NEW_ARRAY(&p->arena, int, n);
    for (int l = 0; l < n; l++) p->layers[l] = l;
    if (want == n) return ZB_OK;
    if (!strcmp(p->o->depth, "divergence")) {
        zb_prune_text t = rows_of(p, p->o->depth_tokens);
        ZB_TRY(zb_prune_depth(p->layers, &n, want, p->from, &t, err));
    } else {
        zb_prune_text t = rows_of(p, p->o->tokens);
        zb_prune_scores s;
        ZB_TRY(zb_prune_score(&s, p->from, &t, &p->arena, err));
        p->layers = largest(s.influence, n, want, &p->arena);
    }
    zb_kept k = zb_kept_all(c, &p->arena);
    k.L = want;
    k.layer = p->layers;
    return zb_prune_cut(&p->shallow, p->from, &k, NULL, err);
}

/* Each layer in turn, on the states that the smaller layers before it really give. */
static zb_status repair(pruner *p, zb_err *err) {
    const zb_config *c = zb_model_config(present(p)), *small = zb_model_config(p->small);
    const zb_prune_text t = rows_of(p, p->o->tokens);
    bool heads = small->H < c->H && !c->o_bias;
    zb_calibration *cal;
    zb_calibration_opts o = {.text = p->o->text,
                             .tokens = (int64_t)t.rows * t.length,
                             .length = t.length,
                             .own_inputs = true,
                             .choose_mlp_ridge = true,
                             .seed = (uint64_t)p->o->seed};
    ZB_TRY(zb_calibration_new(&cal, present(p), p->small, p->tokenizer, &o, err));
    zb_progress bar;
    zb_status s = ZB_OK;
    zb_progress_begin(&bar, "prune: repair", "layers", 0, c->L);
    for (int l = 0; l < c->L && s == ZB_OK; l++) {
        char name[64];
        double error;
        snprintf(name, sizeof name, "model.layers.%d.self_attn.o_proj.weight", l);
        s = zb_calibration_enter(cal, l, err);
        if (s == ZB_OK && heads)
            s = zb_calibration_refit(cal, zb_params_find(zb_model_params(p->small), name), 0,
                                     p->o->ridge, &error, err);
        if (s == ZB_OK) s = zb_calibration_leave(cal, small->F < c->F, err);
        if (s == ZB_OK && zb_interrupted())
            s = zb_fail(err, ZB_ERR_INTERRUPTED, "prune: interrupted");
        zb_progress_update(&bar, l + 1, NULL);
    }
    if (s == ZB_OK) zb_progress_end(&bar, c->L, NULL);
    zb_calibration_free(cal);
    return s;
}

/* Rows first .. last-1, which the repair does not see. */
static void held_out(pruner *p, int64_t *first, int64_t *last) {
    int64_t rows = HELD_TOKENS / p->o->length;
    *first = rows_of(p, p->o->tokens).rows;
    *last = *first + (rows > 0 ? rows : 1);
    if (*last > p->packer.rows) *last = p->packer.rows;
}

/* Without such rows nothing could tell whether a repair helps. */
static zb_status check_held_out(pruner *p, zb_err *err) {
    int64_t first, last;
    held_out(p, &first, &last);
    if (first < last) return ZB_OK;
    return zb_fail(
        err, ZB_ERR_CONFIG,
        "%s: expected rows of %lld tokens beyond the %lld that are repaired on, to judge "
        "the repair by, found %lld in all: lower tokens, or turn repair off",
        p->o->text, (long long)p->o->length, (long long)first, (long long)p->packer.rows);
}

static zb_status pass(zb_runner *r, const zb_batch *b, float *out, zb_err *err) {
    ZB_TRY(zb_runner_begin(r, b, err));
    zb_runner_forward(r, out, NULL);
    return ZB_OK;
}

/* KL(present || small), nats per token, on rows that the repair has not seen. */
static zb_status divergence(pruner *p, double *kl, zb_err *err) {
    zb_runner *big = NULL, *small = NULL;
    int64_t first, last;
    held_out(p, &first, &last);
    int D = zb_model_config(present(p))->D, d = zb_model_config(p->small)->D;
    zb_vocab_sums sums = {0};
    zb_arena a = {0};
    zb_status s = zb_runner_new(&big, present(p), ZB_PREC_F32, err);
    if (s == ZB_OK) s = zb_runner_new(&small, p->small, ZB_PREC_F32, err);
    for (int64_t r = first; r < last && s == ZB_OK; r++) {
        zb_mark mark = zb_arena_mark(&a);
        zb_batch b = zb_packer_batch(&p->packer, r, 1, &a);
        float *x = ZB_RAW_ARRAY(&a, float, (size_t)b.n *D),
              *y = ZB_RAW_ARRAY(&a, float, (size_t)b.n *d);
        s = pass(big, &b, x, err);
        if (s == ZB_OK) s = pass(small, &b, y, err);
        if (s == ZB_OK)
            zb_vocab_loss_run(&(zb_vocab_loss){.student = small,
                                               .teacher = big,
                                               .hidden = y,
                                               .teacher_hidden = x,
                                               .n = b.n,
                                               .weights = {.kl = 1}},
                              &sums);
        zb_arena_pop(&a, mark);
    }
    *kl = sums.kl / (double)sums.tokens;
    zb_runner_free(big);
    zb_runner_free(small);
    zb_arena_free(&a);
    return s;
}

/* A layer that errs less need not make a better model: the repair stays if the divergence falls. */
static zb_status try_repair(pruner *p, zb_err *err) {
    ZB_TRY(divergence(p, &p->plain, err));
    ZB_TRY(repair(p, err));
    ZB_TRY(divergence(p, &p->repaired, err));
    bool better = p->repaired <= p->plain;
    zb_info("prune: KL %.4f, with last maps solved anew %.4f: %s", p->plain, p->repaired,
            better ? "these are kept" : "they are left as they were");
    if (better) return ZB_OK;
    zb_model_free(p->small);
    p->small = NULL;
    return zb_prune_cut(&p->small, present(p), &p->kept, NULL, err);
}

static zb_status narrow(pruner *p, zb_err *err) {
    const zb_config *c = zb_model_config(present(p));
    const zb_prune_opts *o = p->o;
    bool hidden = o->hidden < c->D;
    if (o->mlp == c->F && o->heads == c->H && !hidden) return ZB_OK;
    /* with other hidden channels there is no telling what a layer should give */
    bool mend = o->repair && !hidden;
    if (mend) ZB_TRY(check_held_out(p, err));
    zb_prune_text t = rows_of(p, o->tokens);
    ZB_TRY(keep_widths(p, &t, err));
    double *norm = hidden ? ZB_NEW_ARRAY(&p->arena, double, 2 * c->L + 1) : NULL;
    if (hidden) ZB_TRY(zb_prune_norms(norm, present(p), &p->kept, &t, err));
    ZB_TRY(zb_prune_cut(&p->small, present(p), &p->kept, norm, err));
    return mend ? try_repair(p, err) : ZB_OK;
}

static json_t *report_of(const pruner *p, zb_model *result) {
    const zb_config *c = zb_model_config(result);
    json_t *layers = json_array();
    for (int l = 0; l < c->L; l++) json_array_append_new(layers, json_integer(p->layers[l]));
    int64_t cache = 0, before = 0;
    for (int l = 0; l < c->L; l++) cache += zb_config_cache(c, l);
    const zb_config *b = zb_model_config(p->from);
    for (int l = 0; l < b->L; l++) before += zb_config_cache(b, l);
    json_t *o = json_pack("{s:s,s:I,s:I,s:o,s:i,s:i,s:i,s:i,s:f}", "out", p->o->out, "parameters",
                          (json_int_t)zb_params_total(zb_model_params(result)), "parameters_before",
                          (json_int_t)zb_params_total(zb_model_params(p->from)), "layers", layers,
                          "mlp", c->F, "heads", c->H, "kv_heads", c->G, "hidden", c->D,
                          "cache_percent", before ? 100.0 * (double)cache / (double)before : 0);
    if (p->repaired > 0) {
        json_object_set_new(o, "kl_plain", json_real(p->plain));
        json_object_set_new(o, "kl_repaired", json_real(p->repaired));
    }
    return o;
}

static zb_status check_finite(zb_model *m, zb_err *err) {
    const zb_param_table *t = zb_model_params(m);
    for (int i = 0; i < t->n; i++)
        if (!zb_param_is_finite(&t->item[i]))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "prune: %s is not finite: look at the model's weights", t->item[i].name);
    return ZB_OK;
}

static zb_status run(pruner *p, json_t **report, zb_err *err) {
    const zb_prune_opts *o = p->o;
    ZB_TRY(read_text(p, err));
    ZB_TRY(drop_layers(p, err));
    ZB_TRY(narrow(p, err));
    zb_model *result = p->small ? p->small : p->shallow;
    ZB_TRY(check_finite(result, err));
    zb_prune_opts copy = *o; /* the JSON writer reads through non-const groups */
    zb_opt_group g[] = {{"", zb_prune_opt_table, &copy}, {0}};
    json_t *how = json_pack("{s:s,s:o}", "stage", "prune", "options", zb_opts_json(g));
    zb_status s = zb_model_save(result, o->out, strcmp(o->dtype, "bf16") ? ZB_F32 : ZB_BF16,
                                o->model, how, err);
    json_decref(how);
    if (s == ZB_OK) *report = report_of(p, result);
    return s;
}

zb_status zb_prune_run(const zb_prune_opts *o, json_t **report, zb_err *err) {
    zb_prune_opts sized = *o;
    pruner p = {.o = &sized};
    *report = NULL;
    if (!o->model || !o->out) return zb_fail(err, ZB_ERR_CONFIG, "model and out are needed");
    ZB_TRY(zb_model_save_check(o->out, ZB_INPUTS(o->model), err));
    ZB_TRY(zb_model_open(&p.from, o->model, ZB_MODEL_RUN, err));
    zb_status s = check_sizes(zb_model_config(p.from), &sized, err);
    if (s == ZB_OK) s = run(&p, report, err);
    zb_model_free(p.small);
    zb_model_free(p.shallow);
    zb_model_free(p.from);
    zb_tokenizer_close(p.tokenizer);
    zb_arena_free(&p.arena);
    return s;
}
