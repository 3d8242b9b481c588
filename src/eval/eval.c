/* eval.c - an evaluation from options to rows (contract in eval.h).
 *
 * Profiles. lm-eval: the current harness; BOS as the tokenizer's own settings say, the model's full
 * length, an empty context is BOS, else EOS. zebra-paper: as the published tables were made; no
 * BOS, 2,048 tokens, an empty context is EOS (ecosystem.md 3.3, 3.5). An option that is given wins
 * over the profile.
 *
 * Each task file is read, scored and forgotten before the next, so memory holds one task's rows and
 * tokens. */
#include "eval/eval.h"

#include "base/log.h"
#include "eval/request.h"
#include "eval/sample.h"

#include <string.h>

#define FIELD(name) offsetof(zb_eval_opts, name)

const zb_opt zb_eval_opt_table[] = {
    {ZB_OPT_STR, "tasks", 't', FIELD(tasks),
     "arc_challenge,arc_easy,hellaswag,mmlu,openbookqa,piqa,winogrande", 0, 0, NULL,
     "tasks, groups or parts, separated by commas"},
    {ZB_OPT_F64, "limit", 'L', FIELD(limit), "0", 0, 1e9, NULL,
     "documents of each task (of each part of mmlu); below 1: a share of them; 0: all"},
    {ZB_OPT_F64, "part_limit", 0, FIELD(part_limit), "0", 0, 1e9, NULL,
     "documents of each part of a task that has parts (0: as limit)"},
    {ZB_OPT_STR, "data_dir", 0, FIELD(data_dir), "data/eval", 0, 0, NULL,
     "folder of the data files"},
    {ZB_OPT_STR, "tasks_dir", 0, FIELD(tasks_dir), "tasks", 0, 0, NULL, "folder of the task files"},
    {ZB_OPT_INT, "num_fewshot", 'f', FIELD(num_fewshot), "0", 0, 0, NULL,
     "examples before each question; only 0 for now"},
    {ZB_OPT_CHOICE, "profile", 0, FIELD(profile), "lm-eval", 0, 0, "lm-eval|zebra-paper",
     "rules of the current harness or of the published tables"},
    {ZB_OPT_CHOICE, "add_bos", 0, FIELD(add_bos), "auto", 0, 0, "auto|on|off",
     "begin each text with BOS; auto: as profile and tokenizer say"},
    {ZB_OPT_INT, "max_length", 0, FIELD(max_length), "0", 0, 1e9, NULL,
     "tokens of one input, longer ones are cut on the left; 0: as profile and model say"},
    {ZB_OPT_STR, "samples", 's', FIELD(samples), NULL, 0, 0, NULL,
     "folder for one file of answers per task"},
    {ZB_OPT_STR, "output", 'o', FIELD(output), NULL, 0, 0, NULL, "file for the results as JSON"},
    {0},
};

/* What profile, options, tokenizer and model make of BOS, prefix and length. */
static zb_status make_maker(const zb_eval_opts *o, const zb_tokenizer *t, const zb_scorer *s,
                            zb_request_maker *out, zb_err *err) {
    bool paper = !strcmp(o->profile, "zebra-paper");
    int32_t bos = zb_tokenizer_bos(t), eos = zb_tokenizer_eos(t);
    *out = (zb_request_maker){
        .tokenizer = t, .bos = -1, .prefix = s->prefix_token, .max_length = s->max_length};
    if (!strcmp(o->add_bos, "on") && bos < 0)
        return zb_fail(
            err, ZB_ERR_CONFIG,
            "add_bos: expected auto or off, found \"on\": the tokenizer has no BOS token");
    if (!strcmp(o->add_bos, "on") ||
        (!strcmp(o->add_bos, "auto") && !paper && zb_tokenizer_adds_bos(t)))
        out->bos = bos;
    if (out->prefix < 0) out->prefix = bos >= 0 ? bos : eos;
    if (paper && eos >= 0) out->prefix = eos;
    if (paper && out->max_length > 2048) out->max_length = 2048;
    if (o->max_length > s->max_length)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "max_length: expected at most %d (the model's), found %lld", s->max_length,
                       (long long)o->max_length);
    if (o->max_length > 0) out->max_length = (int)o->max_length;
    return ZB_OK;
}

/* Tokens of every choice, the scorer's answers, and these back to their choices. */
static zb_status score_documents(const zb_request_maker *rules, const zb_scorer *s,
                                 const char *what, const zb_document_set *docs, zb_err *err) {
    zb_request_maker maker = *rules;
    maker.arena = docs->arena;
    size_t n = 0, k = 0;
    for (size_t i = 0; i < docs->n; i++) n += (size_t)docs->doc[i].n_choices;
    zb_loglik_request *r = ZB_NEW_ARRAY(docs->arena, zb_loglik_request, n);
    zb_loglik *answer = ZB_NEW_ARRAY(docs->arena, zb_loglik, n);
    for (size_t i = 0; i < docs->n; i++) {
        const zb_document *d = &docs->doc[i];
        for (int c = 0; c < d->n_choices; c++)
            ZB_TRY(zb_request_make(&maker, d->choice[c].context, d->choice[c].continuation,
                                   d->where, &r[k++], err));
    }
    ZB_TRY(zb_request_score(s, r, n, what, docs->arena, answer, err));
    for (size_t i = 0; i < docs->n; i++)
        for (int c = 0; c < docs->doc[i].n_choices; c++) docs->doc[i].choice[c].score = *answer++;
    return ZB_OK;
}

/* Samples are written before the row is added, so a task counts only when its files are there. */
static zb_status run_task(const zb_eval_opts *o, const zb_request_maker *rules, const zb_scorer *s,
                          const zb_task *t, zb_eval_result *out, zb_err *err) {
    zb_arena a = {0};
    zb_document_set docs;
    double limit = t->n_leaves > 1 && o->part_limit > 0 ? o->part_limit : o->limit;
    zb_status status = zb_document_set_read(t, o->data_dir, limit, &a, &docs, err);
    if (status == ZB_OK) status = score_documents(rules, s, t->name, &docs, err);
    if (status == ZB_OK && o->samples && *o->samples)
        status = zb_samples_write(o->samples, t, &docs, err);
    if (status == ZB_OK) zb_eval_result_add(out, t, &docs, &a);
    zb_document_set_free(&docs);
    zb_arena_free(&a);
    return status;
}

static zb_status write_results(const char *path, const zb_eval_result *r, zb_err *err) {
    json_t *json = zb_eval_json(r);
    zb_status s = zb_json_write(path, json, err);
    json_decref(json);
    return s;
}

zb_status zb_eval_run(const zb_eval_opts *o, const zb_tokenizer *t, const zb_scorer *s,
                      zb_eval_result *out, zb_err *err) {
    double start = zb_seconds();
    *out = (zb_eval_result){.limit = o->limit};
    if (o->num_fewshot != 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "num_fewshot: expected 0, found %lld: evaluation is zero-shot only",
                       (long long)o->num_fewshot);
    zb_request_maker rules;
    ZB_TRY(make_maker(o, t, s, &rules, err));
    out->model = o->model ? zb_strdup(&out->arena, o->model) : NULL;
    out->profile = zb_strdup(&out->arena, o->profile);
    out->bos = rules.bos >= 0;
    out->max_length = rules.max_length;
    zb_task *task;
    int n;
    ZB_TRY(zb_task_select(o->tasks ? o->tasks : "", o->tasks_dir, &out->arena, &task, &n, err));
    for (int i = 0; i < n; i++) ZB_TRY(run_task(o, &rules, s, &task[i], out, err));
    out->seconds = zb_seconds() - start;
    return o->output && *o->output ? write_results(o->output, out, err) : ZB_OK;
}
