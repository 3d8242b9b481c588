/* suite.c - see suite.h. */
#include "eval/suite.h"

#include "base/json.h"
#include "base/output.h"
#include "eval/cache.h"
#include "eval/model_scorer.h"
#include "eval/subject.h"
#include "eval/table.h"

#include <math.h>

#define AT(field) offsetof(zb_suite_opts, field)
const zb_opt zb_suite_opt_table[] = {
    {ZB_OPT_STR, "model", 'm', AT(model), NULL, 0, 0, NULL, "model folder or .gguf"},
    {ZB_OPT_STR, "text", 0, AT(text), NULL, 0, 0, NULL,
     "text for perplexity: .txt, or JSONL with \"text\""},
    {ZB_OPT_STR, "teacher", 0, AT(teacher), NULL, 0, 0, NULL,
     "model whose divergence is measured on the text"},
    {ZB_OPT_INT, "text_tokens", 0, AT(text_tokens), "0", 0, 1e12, NULL,
     "tokens of the text to use (0: all)"},
    {ZB_OPT_INT, "sequence_length", 0, AT(sequence_length), "512", 2, 1 << 22, NULL,
     "tokens per row of the text"},
    {ZB_OPT_STR, "perplexity_out", 0, AT(perplexity_out), NULL, 0, 0, NULL,
     "file for the perplexity as JSON"},
    {ZB_OPT_CHOICE, "precision", 0, AT(precision), "auto", 0, 0, "auto|f32|bf16|int8",
     "matrix products; auto: bf16 where the CPU has it; int8: as generation has quantised weights"},
    ZB_CELLS_OPTION(zb_suite_opts, cache_type, "f32"),
    {0},
};

typedef struct opened {
    zb_subject model, teacher;
} opened;

static zb_status open_all(const zb_suite_opts *o, opened *x, zb_err *err) {
    zb_precision p;
    ZB_TRY(zb_precision_choose(o->precision, &p, err));
    ZB_TRY(zb_subject_open(&x->model, o->model, p, o->cache_type, err));
    if (!o->text || !o->teacher) return ZB_OK;
    if (p == ZB_PREC_INT8) ZB_TRY(zb_precision_choose("auto", &p, err)); /* measure against exact */
    ZB_TRY(zb_subject_open_model(&x->teacher, o->teacher, p, NULL, err));
    int V = zb_model_config(x->model.model)->V, own = zb_model_config(x->teacher.model)->V;
    if (own == V) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the model's vocabulary of %d, found %d",
                   o->teacher, V, own);
}

static zb_status run_text(const zb_suite_opts *o, const opened *x, zb_buf *table, zb_err *err) {
    zb_perplexity_job j = {.model = x->model.runner,
                           .teacher = x->teacher.runner,
                           .tokenizer = x->model.tokenizer,
                           .text = o->text,
                           .tokens_max = o->text_tokens,
                           .sequence_length = (int)o->sequence_length};
    zb_perplexity p;
    ZB_TRY(zb_perplexity_run(&j, &p, err));
    zb_buf_addf(table, "perplexity %.4f (%.4f", p.perplexity, p.nats);
    if (isfinite(p.nats_error)) zb_buf_addf(table, " +- %.4f", p.nats_error);
    zb_buf_addf(table, " nats per token, %lld tokens predicted)\n", (long long)p.predicted);
    if (j.teacher)
        zb_buf_addf(table, "KL(teacher || model) %.4f nats per token, same best token %.1f %%\n",
                    p.kl, 100 * p.agreement);
    if (!o->perplexity_out) return ZB_OK;
    json_t *v = zb_perplexity_json(&p, j.teacher != NULL);
    zb_status s = zb_json_write(o->perplexity_out, v, err);
    json_decref(v);
    return s;
}

static zb_status run_tasks(const zb_suite_opts *o, const zb_eval_opts *e, const opened *x,
                           zb_buf *table, zb_err *err) {
    zb_model_scorer *m;
    if (!x->model.tokenizer)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: tasks need a model with a tokenizer.json",
                       o->model);
    zb_eval_opts known = *e;
    zb_precision p;
    char key[65];
    ZB_TRY(zb_precision_choose(o->precision, &p, err));
    known.precision = zb_precision_name(p);
    known.cache_type = o->cache_type;
    if (e->cache && *e->cache) {
        ZB_TRY(zb_cache_model_digest(o->model, known.precision, o->cache_type, key, err));
        known.model_key = key;
    }
    ZB_TRY(zb_model_scorer_new(&m, x->model.runner, 0, err));
    zb_scorer scorer = zb_model_scorer_get(m);
    zb_eval_result r = {0};
    zb_status s = zb_eval_run(&known, x->model.tokenizer, &scorer, &r, err);
    if ((s == ZB_OK || r.seconds > 0) && e->shard.rank == 0) zb_eval_table(&r, table);
    zb_eval_result_free(&r);
    zb_model_scorer_free(m);
    return s;
}

zb_status zb_suite_run(const zb_suite_opts *o, const zb_eval_opts *e, zb_buf *table, zb_err *err) {
    opened x = {0};
    bool tasks = e->tasks && e->tasks[0];
    zb_eval_opts named = *e;
    named.model = o->model;
    zb_inputs inputs = ZB_INPUTS(o->text, o->model, o->teacher);
    ZB_TRY(zb_outputs_apart(ZB_INPUTS(e->output, o->perplexity_out), err));
    if (tasks) ZB_TRY(zb_eval_check(&named, err));
    if (tasks && e->shard.rank == 0) ZB_TRY(zb_output_file(e->output, inputs, err));
    if (e->shard.rank == 0) ZB_TRY(zb_output_file(o->perplexity_out, inputs, err));
    zb_status s = open_all(o, &x, err);
    if (s == ZB_OK && o->text && e->shard.rank == 0) s = run_text(o, &x, table, err);
    if (s == ZB_OK && tasks) s = run_tasks(o, &named, &x, table, err);
    zb_subject_close(&x.model);
    zb_subject_close(&x.teacher);
    return s;
}
