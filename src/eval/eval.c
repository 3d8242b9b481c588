/* eval.c - an evaluation from options to rows (contract in eval.h).
 *
 * Profiles. lm-eval: the current harness; BOS as the tokenizer's own settings say, the model's full
 * length, an empty context is BOS, else EOS. zebra-paper: as the published tables were made; no
 * BOS, 2,048 tokens, an empty context is EOS, and what task files say under `profiles`. An option
 * that is given wins over the profile.
 *
 * Each task file is read, scored and forgotten before the next, so memory holds one task's rows and
 * tokens. */
#include "eval/eval.h"

#include "base/file.h"
#include "base/log.h"
#include "base/output.h"
#include "eval/request.h"
#include "eval/sample.h"

#include <string.h>

enum { SAMPLES_MAX = 1 << 26 };

#define FIELD(name) offsetof(zb_eval_opts, name)

const zb_opt zb_eval_opt_table[] = {
    {ZB_OPT_STR, "tasks", 't', FIELD(tasks),
     "arc_challenge,arc_easy,hellaswag,mmlu,openbookqa,piqa,winogrande", 0, 0, NULL,
     "tasks, groups or parts, separated by commas"},
    {ZB_OPT_F64, "limit", 'L', FIELD(limit), "0", 0, 1e9, NULL,
     "documents of each task (of each part of mmlu); below 1: a share of them; 0: all"},
    {ZB_OPT_F64, "part_limit", 0, FIELD(part_limit), "0", 0, 1e9, NULL,
     "documents of each part of a task that has parts (0: as limit)"},
    {ZB_OPT_STR, "samples", 0, FIELD(samples), NULL, 0, 0, NULL,
     "documents by number: {\"piqa\": [0, 7]} or a .json file of it; other tasks by limit"},
    {ZB_OPT_STR, "data_dir", 0, FIELD(data_dir), "data/eval", 0, 0, NULL,
     "folder of the data files"},
    {ZB_OPT_STR, "tasks_dir", 0, FIELD(tasks_dir), "tasks", 0, 0, NULL, "folder of the task files"},
    {ZB_OPT_INT, "num_fewshot", 'f', FIELD(num_fewshot), "-1", -1, 1000, NULL,
     "examples before each question; -1: as each task says"},
    {ZB_OPT_CHOICE, "profile", 0, FIELD(profile), "lm-eval", 0, 0, "lm-eval|zebra-paper",
     "rules of the current harness or of the published tables"},
    {ZB_OPT_CHOICE, "add_bos", 0, FIELD(add_bos), "auto", 0, 0, "auto|on|off",
     "begin each text with BOS; auto: as profile and tokenizer say"},
    {ZB_OPT_INT, "max_length", 0, FIELD(max_length), "0", 0, 1e9, NULL,
     "tokens of one input, longer ones are cut on the left; 0: as profile and model say"},
    {ZB_OPT_BOOL, "apply_chat_template", 0, FIELD(apply_chat_template), NULL, 0, 0, NULL,
     "write prompts in the model's chat form"},
    {ZB_OPT_BOOL, "fewshot_as_multiturn", 0, FIELD(fewshot_as_multiturn), "true", 0, 0, NULL,
     "in chat form each example is a turn of its own"},
    {ZB_OPT_STR, "log_samples", 's', FIELD(log_samples), NULL, 0, 0, NULL,
     "folder for one file of answers per task"},
    {ZB_OPT_STR, "output", 'o', FIELD(output), NULL, 0, 0, NULL, "file for the results as JSON"},
    {ZB_OPT_STR, "cache", 0, FIELD(cache), NULL, 0, 0, NULL,
     "folder of answers: an interrupted evaluation resumes from there"},
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

/* What all tasks of an evaluation share. */
typedef struct work {
    const zb_eval_opts *opts;
    const zb_scorer *scorer;
    zb_request_maker rules;
    zb_document_opts documents;
    json_t *picked;
} work;

/* Tokens of every choice, the scorer's answers, and these back to their choices. A rolling task's
 * text is several requests, whose answers are added. */
static zb_status score_documents(work *w, const zb_task *t, const zb_request_run *run,
                                 zb_document_set *docs, zb_err *err) {
    zb_request_maker maker = w->rules;
    maker.arena = docs->arena;
    size_t n = 0, cap = 0, owner_cap = 0;
    zb_loglik_request *r = NULL;
    zb_loglik **owner = NULL; /* whose answer each request is */
    for (size_t i = 0; i < docs->n; i++) {
        zb_document *d = &docs->doc[i];
        for (int c = 0; c < d->n_choices; c++) {
            zb_loglik_request *more, one;
            int count = 1;
            more = &one;
            if (t->output == ZB_TASK_ROLLING)
                ZB_TRY(zb_request_windows(&maker, d->choice[c].continuation, d->where, &more,
                                          &count, err));
            else
                ZB_TRY(zb_request_make(&maker, d->choice[c].context, d->choice[c].continuation,
                                       d->where, &one, err));
            r = zb_grow(docs->arena, r, &cap, n + (size_t)count, sizeof *r);
            memcpy(r + n, more, (size_t)count * sizeof *r);
            owner = zb_grow(docs->arena, owner, &owner_cap, n + (size_t)count, sizeof *owner);
            for (int k = 0; k < count; k++) owner[n + (size_t)k] = &d->choice[c].score;
            n += (size_t)count;
            d->choice[c].score = (zb_loglik){0, true};
        }
    }
    zb_loglik *answer = ZB_NEW_ARRAY(docs->arena, zb_loglik, n);
    ZB_TRY(zb_request_score(run, r, n, answer, err));
    for (size_t i = 0; i < n; i++) {
        owner[i]->logprob += answer[i].logprob;
        owner[i]->greedy = owner[i]->greedy && answer[i].greedy;
    }
    return ZB_OK;
}

/* Whether a text has ended. */
typedef struct ending {
    const zb_tokenizer *tokenizer;
    const zb_task *task;
    zb_buf text;
} ending;

static zb_status decode(ending *e, const int32_t *ids, int n, bool special, zb_err *err) {
    zb_buf_clear(&e->text);
    return zb_tokenizer_decode(e->tokenizer, ids, (size_t)n, special, &e->text, err);
}

static bool has_ended(void *user, const int32_t *ids, int n) {
    ending *e = user;
    if (n > 0 && ids[n - 1] == zb_tokenizer_eos(e->tokenizer)) return true;
    if (decode(e, ids, n, true, NULL) != ZB_OK || e->text.n == 0) return false;
    for (int i = 0; i < e->task->n_until; i++)
        if (memmem(e->text.p, e->text.n, e->task->until[i], strlen(e->task->until[i]))) return true;
    return false;
}

/* The text up to the first end mark, special tokens left out; what is no UTF-8 (a text may end
 * inside a character) reads as Python's decoder writes it. */
static zb_status take_reply(ending *e, const zb_write_request *r, zb_document *d, zb_arena *a,
                            zb_err *err) {
    ZB_TRY(decode(e, r->ids, r->n_ids, false, err));
    size_t n = e->text.n;
    for (int i = 0; i < e->task->n_until; i++) {
        const char *at = n ? memmem(e->text.p, n, e->task->until[i], strlen(e->task->until[i])) : 0;
        if (at) n = (size_t)(at - e->text.p);
    }
    zb_buf text;
    zb_buf_init(&text, 3 * n + 1);
    zb_utf8_lossy(&text, e->text.p, n);
    d->reply = (zb_str){zb_strndup(a, text.n ? text.p : "", text.n), text.n};
    zb_buf_free(&text);
    return ZB_OK;
}

static zb_status write_documents(work *w, const zb_task *t, const zb_request_run *run,
                                 zb_document_set *docs, zb_err *err) {
    zb_request_maker maker = w->rules;
    maker.arena = docs->arena;
    ending e = {.tokenizer = maker.tokenizer, .task = t};
    zb_buf_init(&e.text, (size_t)1 << 26);
    zb_write_request *r = ZB_NEW_ARRAY(docs->arena, zb_write_request, docs->n);
    const char *salt = "";
    for (int i = 0; i < t->n_until; i++)
        salt = zb_asprintf(docs->arena, "%s\n%s", salt, t->until[i]);
    zb_status s = ZB_OK;
    for (size_t i = 0; i < docs->n && s == ZB_OK; i++) {
        zb_ids ids = {0};
        s = zb_request_context(&maker, docs->doc[i].choice[0].context, (int)t->max_tokens,
                               docs->doc[i].where, &ids, err);
        r[i] = (zb_write_request){.context = ids.id,
                                  .n_context = (int)ids.n,
                                  .max = (int)t->max_tokens,
                                  .stop = has_ended,
                                  .user = &e,
                                  .ids = ZB_NEW_ARRAY(docs->arena, int32_t, t->max_tokens)};
    }
    if (s == ZB_OK) s = zb_request_write(run, r, docs->n, zb_str_from(salt), err);
    for (size_t i = 0; i < docs->n && s == ZB_OK; i++)
        s = take_reply(&e, &r[i], &docs->doc[i], docs->arena, err);
    zb_buf_free(&e.text);
    return s;
}

static zb_status answer(work *w, const zb_task *t, zb_document_set *docs, zb_err *err) {
    const zb_eval_opts *o = w->opts;
    zb_shard shard = o->shard.size ? o->shard : (zb_shard){0, 1};
    zb_request_run run = {
        .scorer = w->scorer, .shard = &shard, .what = t->name, .arena = docs->arena};
    if (o->cache && *o->cache) {
        ZB_ASSERT(o->model_key);
        ZB_TRY(zb_cache_open(&run.cache, o->cache, o->model_key, t->name, shard.rank, err));
    }
    zb_status s = t->output == ZB_TASK_GENERATE ? write_documents(w, t, &run, docs, err)
                                                : score_documents(w, t, &run, docs, err);
    zb_cache_close(run.cache);
    return s;
}

/* Samples are written before the row is added, so a task counts only when its files are there. */
static zb_status run_task(work *w, const zb_task *t, zb_eval_result *out, zb_err *err) {
    zb_arena a = {0};
    zb_document_set docs;
    const zb_eval_opts *o = w->opts;
    zb_document_opts d = w->documents;
    d.limit = t->n_leaves > 1 && o->part_limit > 0 ? o->part_limit : o->limit;
    if (t->fewshot.fixed && o->num_fewshot > 0)
        zb_info("%s: always %lld examples", t->name, (long long)t->fewshot.shots);
    zb_status status = zb_document_set_read(t, &d, &a, &docs, err);
    if (status == ZB_OK) status = answer(w, t, &docs, err);
    if (status == ZB_OK && o->log_samples && *o->log_samples && o->shard.rank == 0)
        status = zb_samples_write(o->log_samples, t, &docs, err);
    if (status == ZB_OK) status = zb_eval_result_add(out, t, &docs, &a, err);
    zb_document_set_free(&docs);
    zb_arena_free(&a);
    return status;
}

static int into_buf(const char *bytes, size_t n, void *buf) {
    zb_buf_add(buf, bytes, n);
    return 0;
}

/* With all digits of every number, so that nothing is lost between a score and its reader. */
static zb_status write_results(const char *path, const zb_eval_result *r, zb_err *err) {
    json_t *json = zb_eval_json(r);
    zb_buf text;
    zb_buf_init(&text, (size_t)1 << 30);
    json_dump_callback(json, into_buf, &text, JSON_INDENT(1));
    zb_buf_addc(&text, '\n');
    zb_status s = zb_file_write(path, text.p, text.n, err);
    zb_buf_free(&text);
    json_decref(json);
    return s;
}

/* The JSON of --samples: an object, or a file of one. */
static zb_status read_picked(const char *samples, json_t **out, zb_err *err) {
    zb_str text = zb_str_trim(zb_str_from(samples ? samples : ""));
    if (text.n == 0) return ZB_OK;
    if (text.p[0] == '{')
        ZB_TRY(zb_json_parse(text.p, text.n, "samples", out, err));
    else if (zb_str_ends(text, ZB_STR(".json")))
        ZB_TRY(zb_json_read(samples, SAMPLES_MAX, out, err));
    else
        return zb_fail(
            err, ZB_ERR_USAGE,
            "samples: expected {\"task\": [numbers]} or a .json file, found \"%.80s\" (a "
            "folder for answers is --log-samples)",
            samples);
    return json_is_object(*out)
               ? ZB_OK
               : zb_fail(err, ZB_ERR_USAGE, "samples: expected an object, found %s",
                         zb_json_type(*out));
}

/* Every task that has numbers must be one of those that run. */
static zb_status check_picked(const json_t *picked, const zb_task *task, int n, zb_err *err) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)picked, name, v) {
        bool found = false;
        for (int i = 0; i < n && !found; i++)
            for (int l = 0; l < task[i].n_leaves && !found; l++)
                found = task[i].leaf[l].selected && !strcmp(task[i].leaf[l].name, name);
        if (!found)
            return zb_fail(err, ZB_ERR_USAGE,
                           "samples: expected names of the tasks that run, found \"%.64s\"", name);
    }
    return ZB_OK;
}

static zb_status run_all(work *w, const zb_tokenizer *t, zb_eval_result *out, zb_err *err) {
    const zb_eval_opts *o = w->opts;
    zb_task *task;
    int n;
    ZB_TRY(make_maker(o, t, w->scorer, &w->rules, err));
    ZB_TRY(read_picked(o->samples, &w->picked, err));
    w->documents =
        (zb_document_opts){.data_dir = o->data_dir, .picked = w->picked, .shots = o->num_fewshot};
    if (o->apply_chat_template)
        ZB_TRY(zb_prompt_style_chat(t, !o->fewshot_as_multiturn, &out->arena, &w->documents.style,
                                    err));
    out->model = o->model ? zb_strdup(&out->arena, o->model) : NULL;
    out->profile = zb_strdup(&out->arena, o->profile);
    out->log_samples =
        o->log_samples && *o->log_samples ? zb_strdup(&out->arena, o->log_samples) : NULL;
    out->precision = o->precision ? zb_strdup(&out->arena, o->precision) : NULL;
    out->cache_type = o->cache_type ? zb_strdup(&out->arena, o->cache_type) : NULL;
    out->chat = o->apply_chat_template;
    out->multiturn = o->fewshot_as_multiturn;
    out->bos = w->rules.bos >= 0;
    out->max_length = w->rules.max_length;
    ZB_TRY(zb_task_select(o->tasks ? o->tasks : "", o->tasks_dir, o->profile, &out->arena, &task,
                          &n, err));
    ZB_TRY(check_picked(w->picked, task, n, err));
    for (int i = 0; i < n; i++) ZB_TRY(run_task(w, &task[i], out, err));
    return ZB_OK;
}

static zb_status check_outputs(const zb_eval_opts *o, zb_err *err) {
    if (o->shard.rank > 0) return ZB_OK; /* the first process alone writes */
    ZB_TRY(zb_output_file(o->output, ZB_INPUTS(o->samples), err));
    ZB_TRY(zb_output_folder(o->log_samples, err));
    const char *folders[] = {o->log_samples, o->cache};
    for (int i = 0; i < 2; i++)
        if (o->output && *o->output && folders[i] && *folders[i] &&
            zb_path_holds(o->output, folders[i]))
            return zb_fail(err, ZB_ERR_USAGE, "%s: expected a file, and a folder elsewhere (%s)",
                           o->output, folders[i]);
    return zb_output_folder(o->cache, err);
}

zb_status zb_eval_check(const zb_eval_opts *o, zb_err *err) {
    zb_arena a = {0};
    json_t *picked = NULL;
    zb_task *task;
    int n;
    zb_status s = check_outputs(o, err);
    if (s == ZB_OK)
        s = zb_task_select(o->tasks ? o->tasks : "", o->tasks_dir, o->profile, &a, &task, &n, err);
    if (s == ZB_OK) s = read_picked(o->samples, &picked, err);
    if (s == ZB_OK) s = check_picked(picked, task, n, err);
    json_decref(picked);
    zb_arena_free(&a);
    return s;
}

zb_status zb_eval_run(const zb_eval_opts *o, const zb_tokenizer *t, const zb_scorer *s,
                      zb_eval_result *out, zb_err *err) {
    double start = zb_seconds();
    *out = (zb_eval_result){.limit = o->limit, .part_limit = o->part_limit};
    work w = {.opts = o, .scorer = s};
    zb_status status = check_outputs(o, err);
    if (status == ZB_OK) status = run_all(&w, t, out, err);
    json_decref(w.picked);
    ZB_TRY(status);
    out->seconds = zb_seconds() - start;
    if (!o->output || !*o->output || o->shard.rank > 0) return ZB_OK;
    return write_results(o->output, out, err);
}
