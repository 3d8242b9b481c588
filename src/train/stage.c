/* stage.c - bookkeeping of training loops (contract in stage.h). */
#include "train/stage.h"

#include "base/contents.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#define AT(field) offsetof(zb_stage_opts, field)
const zb_opt zb_stage_opt_table[] = {
    {ZB_OPT_STR, "train", 0, AT(train), "data/text/train.jsonl", 0, 0, NULL,
     "training text: JSONL with \"text\" or \"input_ids\", or .txt"},
    {ZB_OPT_STR, "valid", 0, AT(valid), "data/text/valid.jsonl", 0, 0, NULL, "held-out text"},
    {ZB_OPT_INT, "tokens", 0, AT(tokens), "200000", 0, 1e13, NULL, "tokens to train on"},
    {ZB_OPT_INT, "sequence_length", 0, AT(sequence_length), "512", 2, 1 << 20, NULL,
     "tokens per packed row"},
    {ZB_OPT_INT, "min_document", 0, AT(min_document), "0", 0, 1 << 30, NULL,
     "training leaves out documents of fewer tokens: short ones say nothing of what is far back"},
    {ZB_OPT_INT, "short_length", 0, AT(short_length), "128", 2, 1 << 20, NULL,
     "tokens of a sequence in the first steps, whose rows are cut into short ones"},
    {ZB_OPT_F64, "short_share", 0, AT(short_share), "0", 0, 1, NULL,
     "share of the steps with short sequences"},
    {ZB_OPT_INT, "batch", 0, AT(batch), "4", 1, 1 << 20, NULL, "rows per optimiser step"},
    {ZB_OPT_F64, "lr", 0, AT(lr), "2e-4", 0, 1, NULL, "peak learning rate"},
    {ZB_OPT_F64, "warmup", 0, AT(warmup), "0.01", 0, 1e9, NULL,
     "share of the steps spent on linear warm-up; above 1: their number"},
    {ZB_OPT_F64, "scale_below", 0, AT(scale_below), "0.05", 0, 1e6, NULL,
     "tensors whose root mean square is below this step in proportion to it (0: off)"},
    {ZB_OPT_F64, "gate_rate", 0, AT(gate_rate), "1", 0, 1e4, NULL,
     "learning-rate factor of decays, step sizes, gates and convolutions"},
    {ZB_OPT_INT, "valid_tokens", 0, AT(valid_tokens), "8192", 0, 1e9, NULL,
     "held-out tokens of a validation (0: none)"},
    {0},
};

const zb_opt zb_loop_opt_table[] = {
    {ZB_OPT_INT, "micro_batch", 0, AT(micro_batch), "0", 0, 1 << 20, NULL,
     "rows or examples per pass; gradients add up over the passes of a step (0: all at once)"},
    {ZB_OPT_F64, "decay", 0, AT(decay), "1", 0, 1, NULL,
     "share of the steps, the last, in which the rate falls; below 1 a run can be lengthened "
     "later"},
    {ZB_OPT_F64, "lr_floor", 0, AT(lr_floor), "0", 0, 1, NULL,
     "final learning rate as a share of the peak"},
    {ZB_OPT_F64, "clip", 0, AT(clip), "1", 0, 1e9, NULL, "largest gradient norm (0: no clipping)"},
    {ZB_OPT_F64, "weight_decay", 0, AT(weight_decay), "0", 0, 1, NULL,
     "AdamW's decoupled decay of matrices"},
    {ZB_OPT_F64, "beta1", 0, AT(beta1), "0.9", 0, 1, NULL, "AdamW's first decay rate"},
    {ZB_OPT_F64, "beta2", 0, AT(beta2), "0.999", 0, 1, NULL, "AdamW's second decay rate"},
    {ZB_OPT_F64, "eps", 0, AT(eps), "1e-8", 0, 1, NULL, "AdamW's epsilon"},
    {ZB_OPT_INT, "seed", 's', AT(seed), "42", 0, 9e15, NULL, "order of the documents or examples"},
    {ZB_OPT_INT, "eval_every", 0, AT(eval_every), "0", 0, 1e9, NULL,
     "steps between validations (0: only before the first and after the last)"},
    {ZB_OPT_INT, "save_every", 0, AT(save_every), "50", 0, 1e9, NULL,
     "steps between checkpoints (0: only when interrupted)"},
    {ZB_OPT_INT, "log_every", 0, AT(log_every), "1", 1, 1e9, NULL,
     "steps between lines of the log"},
    {ZB_OPT_INT, "keep_last", 0, AT(keep_last), "1", 1, 1000, NULL,
     "checkpoints kept besides the best"},
    {ZB_OPT_CHOICE, "resume", 0, AT(resume), "auto", 0, 0, "auto|never",
     "continue from the newest checkpoint"},
    {ZB_OPT_STR, "memory_limit", 0, AT(memory_limit), "auto", 0, 0, NULL,
     "memory to stay within, like 24G; auto: what the machine has"},
    {ZB_OPT_BOOL, "dry_run", 0, AT(dry_run), "false", 0, 0, NULL,
     "only print the memory plan; models may be configurations without weights"},
    {0},
};

/* Lines of the log up to the resumed step stay; what a killed run wrote beyond it would appear
 * twice. */
static zb_status cut_log(zb_stage *s, int64_t step, zb_err *err) {
    zb_lines *l;
    if (!zb_file_exists(s->log_path)) return ZB_OK;
    ZB_TRY(zb_lines_open(&l, s->log_path, 1 << 20, err));
    zb_buf keep;
    zb_buf_init(&keep, (size_t)1 << 30);
    zb_str line;
    bool more;
    zb_status st;
    while ((st = zb_lines_next(l, &line, &more, err)) == ZB_OK && more) {
        json_t *o = json_loadb(line.p, line.n, 0, NULL);
        int64_t at = json_integer_value(json_object_get(o, "step"));
        if (o && (at < step ||
                  (at == step &&
                   json_object_get(o, "loss")))) { /* the validation at `step` will be done again */
            zb_buf_add(&keep, line.p, line.n);
            zb_buf_addc(&keep, '\n');
        }
        json_decref(o);
    }
    zb_lines_close(l);
    if (st == ZB_OK) st = zb_file_write(s->log_path, keep.p ? keep.p : "", keep.n, err);
    zb_buf_free(&keep);
    return st;
}

static zb_status take_best(zb_stage *s, const json_t *extra, zb_err *err) {
    char *where = zb_asprintf(&s->arena, "%s/checkpoint-%lld: best", s->dir, (long long)s->step);
    int64_t step;
    double value;
    json_t *best = NULL;
    ZB_TRY(zb_json_object(extra, where, "best", false, &best, err));
    if (!best) return ZB_OK;
    ZB_TRY(zb_json_int(best, where, "step", true, 0, s->step, &step, err));
    ZB_TRY(zb_json_f64(best, where, "value", true, &value, err));
    s->best = json_incref(best);
    return ZB_OK;
}

/* The best model of a run before. */
static zb_status forget_best(zb_stage *s, zb_err *err) {
    return zb_dir_remove(zb_path_join(&s->arena, s->dir, "best"), err);
}

/* <stage>/best is of the state's best step, unless the run had gone on behind this state, as one
 * does that is lengthened; the next validation makes another then. Without a step it is of a
 * version that did not write one. */
static zb_status check_best(zb_stage *s, zb_err *err) {
    const char *path = zb_path_join(&s->arena, s->dir, "best/config.json");
    int64_t best = json_integer_value(json_object_get(s->best, "step"));
    json_t *o = NULL;
    if (!zb_file_exists(path)) return ZB_OK;
    ZB_TRY(zb_json_read(path, 1 << 20, &o, err));
    const json_t *step = json_object_get(json_object_get(o, "zebra"), "step");
    bool other = step && json_integer_value(step) != best;
    json_decref(o);
    if (!other) return best == 0 ? forget_best(s, err) : ZB_OK; /* that of step 0 is not kept */
    json_decref(s->best);
    s->best = NULL;
    return forget_best(s, err);
}

static zb_status resume(zb_stage *s, zb_err *err) {
    int64_t step = -1;
    json_t *extra = NULL;
    if (!strcmp(s->o->resume, "auto"))
        ZB_TRY(zb_checkpoint_resume(&s->checkpoint, &step, &extra, err));
    if (step < 0) {
        unlink(s->log_path);
        return forget_best(s, err);
    }
    s->step = step;
    zb_status st = take_best(s, extra, err);
    json_decref(extra);
    ZB_TRY(st);
    ZB_TRY(check_best(s, err));
    zb_info("%s: resuming at step %lld of %lld", s->name, (long long)step, (long long)s->steps);
    return cut_log(s, step, err);
}

/* Units done after the given number of steps. */
static int64_t done_at(const zb_stage *s, int64_t step) {
    int64_t done = step * s->work.per_step;
    return done < s->work.total ? done : s->work.total;
}

zb_status zb_stage_check(const zb_stage_opts *o, zb_err *err) {
    const struct {
        const char *name;
        double value;
    } beta[] = {{"beta1", o->beta1}, {"beta2", o->beta2}};
    for (int i = 0; i < 2; i++) /* 1 - beta^step divides the moments */
        if (!(beta[i].value < 1))
            return zb_fail(err, ZB_ERR_CONFIG, "%s: expected less than 1, found %g", beta[i].name,
                           beta[i].value);
    if (!(o->eps > 0)) /* a weight without a gradient has no moment */
        return zb_fail(err, ZB_ERR_CONFIG, "eps: expected more than 0, found %g", o->eps);
    return ZB_OK;
}

zb_status zb_stage_begin(zb_stage *s, const zb_stage_opts *o, const zb_stage_run *run,
                         zb_err *err) {
    *s = (zb_stage){0};
    zb_arena *a = &s->arena;
    const zb_tokenizer *t = run->tokenizer;
    ZB_TRY(zb_corpus_read(&s->train, o->train, t, run->vocabulary, 0, a, err));
    ZB_TRY(zb_corpus_keep_long(&s->train, o->train, o->min_document, err));
    ZB_TRY(zb_packer_init(&s->packer, &s->train, (int)o->sequence_length, true, (uint64_t)o->seed,
                          a, err));
    if (o->valid_tokens > 0) {
        ZB_TRY(zb_corpus_read(&s->valid, o->valid, t, run->vocabulary, o->valid_tokens, a, err));
        int length =
            (int)(s->valid.n_tokens < o->sequence_length ? s->valid.n_tokens : o->sequence_length);
        ZB_TRY(zb_packer_init(&s->valid_packer, &s->valid, length, false, 0, a, err));
        s->valid_rows = s->valid_packer.rows;
    }
    zb_stage_work w = {.unit = "tokens", .per_step = o->batch * o->sequence_length};
    w.total = (o->tokens + w.per_step - 1) / w.per_step * w.per_step;
    w.validates = s->valid_rows > 0;
    return zb_stage_start(s, o, run, &w, err);
}

/* Linear warm-up, then constant, then a cosine down (with decay 1 at once): Hu et al. 2024,
 * MiniCPM, section 4. */
static void plan_rates(zb_stage *s) {
    double w = s->o->warmup, n = (double)s->steps;
    s->warm = (int64_t)fmin(ceil(w > 1 ? w : w * n), n);
    s->fall = (int64_t)fmax(n - ceil(s->o->decay * n), (double)s->warm);
}

static void remove_keys(json_t *o, const char *const *keys, int n) {
    for (int i = 0; i < n; i++) json_object_del(o, keys[i]);
}

void zb_stage_remove_free(json_t *options) {
    static const char *const writing[] = {"out", "resume", "save_every", "log_every", "keep_last"},
                             *const memory[] = {"memory_limit", "dry_run", "recompute"};
    remove_keys(options, writing, 5);
    remove_keys(options, memory, 3);
}

/* While the rate is constant, and nothing else is a share of all steps, the run's length changes no
 * number: the options without it, NULL where it does. */
static json_t *without_length(const zb_stage *s, const json_t *options) {
    static const char *const length_keys[] = {"tokens", "epochs", "warmup", "decay", "lr_floor"},
                             *const shares[] = {"short_share", "student_inputs"};
    bool any_length = s->o->decay < 1;
    for (int i = 0; i < 2; i++)
        any_length = any_length && json_number_value(json_object_get(options, shares[i])) == 0;
    if (!any_length) return NULL;
    json_t *o = json_copy((json_t *)(uintptr_t)options);
    remove_keys(o, length_keys, 5);
    json_object_set_new(o, "warm", json_integer((json_int_t)s->warm));
    return o;
}

/* Which checkpoints are of this run: those made with the same options, but for what changes no
 * number. keep_best changes none, but what stands in <stage>/best. */
static void name_run(zb_stage *s, const zb_opt_group *options) {
    zb_checkpoint *k = &s->checkpoint;
    int64_t whole = s->work.total / s->work.per_step; /* the last step may be a smaller one */
    k->options = zb_opts_json(options);
    k->defaults = zb_opts_default_json(options);
    zb_stage_remove_free(k->options);
    zb_contents_add(k->options, NULL);
    zb_contents_assume(k->defaults, k->options);
    k->trunk = without_length(s, k->options);
    k->trunk_steps = s->fall < whole ? s->fall : whole;
}

zb_status zb_stage_start(zb_stage *s, const zb_stage_opts *o, const zb_stage_run *run,
                         const zb_stage_work *work, zb_err *err) {
    s->o = o;
    s->name = run->name;
    s->dir = run->dir;
    s->work = *work;
    s->steps = (work->total + work->per_step - 1) / work->per_step;
    ZB_TRY(zb_dir_make(s->dir, err));
    s->log_path = zb_path_join(&s->arena, s->dir, "log.jsonl");
    plan_rates(s);
    s->checkpoint = (zb_checkpoint){
        .run_dir = s->dir, .steps = s->steps, .optim = run->optim, .n_optims = run->n_optims};
    name_run(s, run->options);
    ZB_TRY(zb_checkpoint_sweep(s->dir, err));
    ZB_TRY(resume(s, err));
    zb_progress_begin(&s->progress, s->name, work->unit, (double)done_at(s, s->step),
                      (double)work->total);
    s->t_step = zb_seconds();
    return ZB_OK;
}

int zb_stage_per_pass(const zb_stage_opts *o) {
    return (int)(o->micro_batch > 0 ? o->micro_batch : o->batch);
}

double zb_stage_lr(const zb_stage *s) {
    double factor = 1;
    if (s->step < s->warm) /* step i+1's rate, so that the first step is not lost at rate 0 */
        factor = (double)(s->step + 1) / (double)s->warm;
    else if (s->step >= s->fall)
        factor = zb_schedule_cosine(s->step, s->fall, s->steps, s->o->lr_floor);
    return s->o->lr * factor;
}

int zb_stage_longest(const zb_stage *s) {
    return (double)s->step < s->o->short_share * (double)s->steps ? (int)s->o->short_length : 0;
}

static zb_status diverged(const zb_stage *s, const char *what, zb_err *err) {
    return zb_fail(err, ZB_ERR_CONFIG,
                   "%s: %s not finite at step %lld of %lld: lower lr (%g), or look at the model it "
                   "started from",
                   s->name, what, (long long)s->step, (long long)s->steps, s->o->lr);
}

static zb_status check_param(const zb_stage *s, const zb_param *p, zb_err *err) {
    char what[256];
    if (!p->w || zb_param_is_finite(p)) return ZB_OK; /* frozen ones are as they were */
    snprintf(what, sizeof what, "%s is", p->name);
    return diverged(s, what, err);
}

zb_status zb_stage_check_model(const zb_stage *s, zb_model *m, zb_err *err) {
    const zb_param_table *t = zb_model_params(m);
    for (int i = 0; i < t->n; i++) ZB_TRY(check_param(s, &t->item[i], err));
    return ZB_OK;
}

static zb_status save(zb_stage *s, zb_err *err) {
    for (int i = 0; i < s->checkpoint.n_optims; i++)
        for (int j = 0; j < s->checkpoint.optim[i]->n; j++)
            ZB_TRY(check_param(s, s->checkpoint.optim[i]->slot[j].param, err));
    json_t *extra = json_object();
    if (s->best) json_object_set(extra, "best", s->best);
    zb_status st = zb_checkpoint_save(&s->checkpoint, s->step, extra, (int)s->o->keep_last, err);
    json_decref(extra);
    return st;
}

zb_status zb_stage_step_done(zb_stage *s, json_t *numbers, double loss, double norm, zb_err *err) {
    double now = zb_seconds(), lr = zb_stage_lr(s);
    int64_t before = done_at(s, s->step), done = done_at(s, s->step + 1);
    char rate[32];
    snprintf(rate, sizeof rate, "%s_per_second", s->work.unit);
    s->step++;
    if (!isfinite(loss) || !isfinite(norm)) {
        json_decref(numbers);
        return diverged(s, isfinite(loss) ? "the gradient's norm is" : "the loss is", err);
    }
    json_object_set_new(numbers, "stage", json_string(s->name));
    json_object_set_new(numbers, "step", json_integer(s->step));
    json_object_set_new(numbers, s->work.unit, json_integer(done));
    json_object_set_new(numbers, "loss", json_real(loss));
    json_object_set_new(numbers, "lr", json_real(lr));
    json_object_set_new(numbers, "step_ms", json_real(1e3 * (now - s->t_step)));
    json_object_set_new(numbers, rate, json_real((double)(done - before) / (now - s->t_step)));
    json_object_set_new(numbers, "peak_rss_mib", json_real((double)zb_memory_peak() / (1 << 20)));
    s->t_step = now;
    if (s->step % s->o->log_every == 0 || s->step == s->steps)
        ZB_TRY(zb_log_event(s->log_path, numbers, err));
    else
        json_decref(numbers);
    char note[64];
    snprintf(note, sizeof note, "loss %.4g", loss);
    zb_progress_update(&s->progress, (double)done, note);
    bool stop = zb_interrupted();
    /* after the last step, too: what comes then, a validation and the result's save, may fail */
    bool due = s->o->save_every > 0 && (s->step % s->o->save_every == 0 || s->step == s->steps);
    bool trunk_ends = s->checkpoint.trunk && s->step == s->checkpoint.trunk_steps;
    if (due || stop || trunk_ends) ZB_TRY(save(s, err));
    if (stop)
        return zb_fail(err, ZB_ERR_INTERRUPTED,
                       "%s: interrupted at step %lld of %lld; run the same command again to go on",
                       s->name, (long long)s->step, (long long)s->steps);
    s->t_step = zb_seconds();
    return ZB_OK;
}

bool zb_stage_eval_due(const zb_stage *s) {
    if (!s->work.validates) return false;
    return s->step == 0 || s->step == s->steps ||
           (s->o->eval_every > 0 && s->step % s->o->eval_every == 0);
}

zb_status zb_stage_log_eval(zb_stage *s, json_t *numbers, double value, bool *is_best,
                            zb_err *err) {
    double best = json_number_value(json_object_get(s->best, "value"));
    if (!isfinite(value)) {
        json_decref(numbers);
        return diverged(s, "the held-out loss is", err);
    }
    *is_best = !s->best || value < best;
    if (*is_best) {
        json_decref(s->best);
        s->best = json_pack("{s:I,s:f}", "step", (json_int_t)s->step, "value", value);
    }
    json_object_set_new(numbers, "stage", json_string(s->name));
    json_object_set_new(numbers, "step", json_integer(s->step));
    json_object_set_new(numbers, s->work.unit, json_integer(done_at(s, s->step)));
    zb_status st = zb_log_event(s->log_path, numbers, err);
    s->t_step = zb_seconds();
    return st;
}

zb_status zb_stage_finish(zb_stage *s, zb_err *err) {
    zb_progress_end(&s->progress, (double)s->work.total, NULL);
    return zb_checkpoint_clear(&s->checkpoint, err);
}

void zb_stage_random(zb_corpus *c, int rows, int length, int vocab, zb_arena *a) {
    c->n_docs = rows;
    c->n_tokens = (int64_t)rows * length;
    c->token = ZB_NEW_ARRAY(a, int32_t, c->n_tokens);
    c->doc = ZB_NEW_ARRAY(a, int64_t, rows + 1);
    for (int64_t i = 0; i < c->n_tokens; i++)
        c->token[i] = (int32_t)zb_rng_below(1, ZB_RNG_TEST, (uint64_t)i, (uint32_t)vocab);
    for (int i = 0; i <= rows; i++) c->doc[i] = (int64_t)i * length;
}

void zb_stage_free(zb_stage *s) {
    json_decref(s->best);
    json_decref(s->checkpoint.options);
    json_decref(s->checkpoint.trunk);
    json_decref(s->checkpoint.defaults);
    zb_arena_free(&s->arena);
}
