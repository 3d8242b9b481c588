/* tune.c - preference and supervised tuning (contract in tune.h).
 *
 * A pair's gradient depends on both answers' sums, so logits are formed twice: for the sums, and
 * for the gradient with the slopes that follow from them. */
#include "train/tune.h"

#include "base/json.h"
#include "data/answers.h"
#include "model/answer_loss.h"
#include "model/loss.h"
#include "train/loop.h"
#include "train/memory.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#define AT(field) offsetof(zb_tune_opts, field)
const zb_opt zb_tune_opt_table[] = {
    {ZB_OPT_STR, "student", 0, AT(student), NULL, 0, 0, NULL, "model folder to tune"},
    {ZB_OPT_STR, "reference", 0, AT(reference), NULL, 0, 0, NULL,
     "dpo: model that answers are compared with; default: the student as it is"},
    {ZB_OPT_STR, "out", 'o', AT(out), NULL, 0, 0, NULL, "folder for the tuned model"},
    {ZB_OPT_CHOICE, "method", 0, AT(method), "dpo", 0, 0, "dpo|sft",
     "dpo: chosen over rejected answers; sft: cross-entropy of answers"},
    {ZB_OPT_STR, "train", 0, AT(train), NULL, 0, 0, NULL,
     "JSONL of prompt, chosen, rejected (dpo); messages, prompt and completion, or text (sft)"},
    {ZB_OPT_STR, "valid", 0, AT(valid), NULL, 0, 0, NULL, "held-out examples of the same form"},
    {ZB_OPT_INT, "valid_examples", 0, AT(valid_examples), "200", 0, 1e9, NULL,
     "held-out examples of a validation (0: all)"},
    {ZB_OPT_F64, "epochs", 0, AT(epochs), "1", 0, 1e6, NULL, "passes over the examples"},
    {ZB_OPT_INT, "batch", 0, AT(batch), "16", 1, 1 << 20, NULL, "examples per optimiser step"},
    {ZB_OPT_INT, "length", 0, AT(length), "1024", 2, 1 << 20, NULL,
     "tokens of prompt and answer, cut at the end"},
    {ZB_OPT_INT, "prompt_length", 0, AT(prompt_length), "512", 1, 1 << 20, NULL,
     "tokens of a prompt, cut at the beginning"},
    {ZB_OPT_F64, "beta", 0, AT(beta), "0.01", 1e-9, 1e3, NULL,
     "dpo: how far answers may leave the reference, the smaller the farther"},
    {ZB_OPT_F64, "lr", 0, AT(lr), "0", 0, 1, NULL,
     "peak learning rate (0: 5e-7 for dpo, 2e-5 for sft)"},
    {ZB_OPT_F64, "warmup", 0, AT(warmup), "0.1", 0, 1e9, NULL,
     "share of the steps spent on linear warm-up; above 1: their number"},
    {ZB_OPT_BOOL, "recompute", 0, AT(recompute), "false", 0, 0, NULL,
     "keep only layer inputs for backward: less memory, a third more time"},
    {ZB_OPT_BOOL, "keep_best", 0, AT(keep_best), "false", 0, 0, NULL,
     "also keep the model of the best validation in <stage>/best"},
    {ZB_OPT_CHOICE, "dtype", 0, AT(dtype), "f32", 0, 0, "f32|bf16", "type of the saved weights"},
    {ZB_OPT_CHOICE, "precision", 0, AT(precision), "auto", 0, 0, "auto|f32|bf16",
     "matrix products; auto: bf16 where the CPU has it"},
    {0},
};

typedef struct tuner {
    const zb_tune_opts *o;
    const zb_stage_opts *so;
    zb_model *student, *reference; /* the latter for pairs alone */
    zb_runner *run, *ref;
    zb_tokenizer *tokenizer;
    zb_optim optim;
    zb_answers train, valid;
    json_t *how;
} tuner;

static bool has_pairs(const zb_tune_opts *o) { return !strcmp(o->method, "dpo"); }

/* Sums over the examples of a step or of a validation. */
typedef struct sums {
    double loss, chosen, rejected, reward_chosen, reward_rejected;
    int64_t examples, right, learnt;
} sums;

/* ---- memory ---- */

typedef struct sizes {
    const tuner *t;
    zb_config student, reference;
    size_t stored; /* bytes of the reference's weights */
    zb_precision precision;
} sizes;

static bool all_trained(const void *arg, const zb_param *p) {
    (void)arg;
    (void)p;
    return true;
}

static void memory_parts(const void *arg, zb_memory_plan *p) {
    const sizes *z = arg;
    int items = p->rows * (has_pairs(z->t->o) ? 2 : 1), length = (int)z->t->o->length;
    zb_load load = {.n = items * length,
                    .longest = length,
                    .spans = items,
                    .threads = omp_get_max_threads(),
                    .bf16 = true};
    zb_memory_weights w = zb_memory_count(&z->student, false, all_trained, NULL);
    zb_train_room room = zb_train_room_of(&z->student, &load, p->recompute);
    size_t row = zb_room_of((size_t)load.n * z->student.D);
    zb_memory_add(p, "student's weights, f32", 4 * (size_t)w.all);
    zb_memory_add(p, "gradients, f32", 4 * (size_t)w.trained);
    zb_memory_add(p, "moments, f32", 8 * (size_t)w.trained);
    zb_memory_add(p, "activations kept", room.kept + 2 * row);
    zb_memory_add(p, "layer or logits at work",
                  room.peak - room.kept + zb_answer_room(&z->student, load.n, load.threads));
    zb_memory_add(p, "operands in bf16",
                  zb_memory_operands(&z->student, load.n, ZB_USE_LOSS, z->precision));
    if (!has_pairs(z->t->o)) return;
    zb_memory_add(p, "reference's weights as stored", zb_memory_stored(&z->reference, z->stored));
    zb_memory_add(p, "reference's pass",
                  zb_room_of((size_t)load.n * z->reference.D) +
                      zb_forward_room(&z->reference, &load) +
                      zb_unpack_room(&z->reference, load.n) +
                      zb_answer_room(&z->reference, load.n, load.threads));
}

/* Sets examples per pass and recompute in the caller's copies of the options. */
static zb_status plan_memory(const tuner *t, zb_tune_opts *o, zb_stage_opts *so, zb_err *err) {
    sizes z = {.t = t};
    size_t unused;
    zb_memory_plan plan = {0};
    ZB_TRY(zb_precision_choose(o->precision, &z.precision, err));
    ZB_TRY(zb_model_peek(o->student, &z.student, &unused, err));
    if (has_pairs(o))
        ZB_TRY(
            zb_model_peek(o->reference ? o->reference : o->student, &z.reference, &z.stored, err));
    zb_memory_ask ask = {.stage = "tune",
                         .less = "shorten length",
                         .o = so,
                         .recompute = o->recompute,
                         .may_recompute = true,
                         .parts = memory_parts,
                         .arg = &z};
    ZB_TRY(zb_memory_choose(&ask, &plan, err));
    o->recompute = plan.recompute;
    if (plan.rows < so->batch) so->micro_batch = plan.rows;
    return ZB_OK;
}

/* ---- the stage ---- */

static zb_status open_reference(tuner *t, zb_precision prec, zb_err *err) {
    const char *path = t->o->reference ? t->o->reference : t->o->student;
    ZB_TRY(zb_model_open(&t->reference, path, ZB_MODEL_RUN, err));
    int want = zb_model_config(t->student)->V, found = zb_model_config(t->reference)->V;
    if (want != found)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the student's vocabulary of %d, found %d",
                       path, want, found);
    return zb_runner_new(&t->ref, t->reference, prec, err);
}

static zb_status open_models(tuner *t, zb_err *err) {
    const zb_tune_opts *o = t->o;
    zb_precision prec;
    ZB_TRY(zb_precision_choose(o->precision, &prec, err));
    ZB_TRY(zb_model_open(&t->student, o->student, ZB_MODEL_TRAIN, err));
    ZB_TRY(zb_runner_new(&t->run, t->student, prec, err));
    zb_runner_run(t->run)->rounds = true;
    if (has_pairs(o)) ZB_TRY(open_reference(t, prec, err));
    ZB_TRY(zb_model_tokenizer(&t->tokenizer, o->student, err));
    zb_optim_init(&t->optim, t->so->beta1, t->so->beta2, t->so->eps);
    zb_model_add_grads(t->student);
    zb_param_table *p = zb_model_params(t->student);
    for (int i = 0; i < p->n; i++) {
        bool matrix = p->item[i].n_dims == 2 && p->item[i].role != ZB_ROLE_GATE;
        zb_optim_add(&t->optim, &p->item[i], 1, matrix ? t->so->weight_decay : 0);
    }
    return ZB_OK;
}

static zb_status read_examples(tuner *t, zb_arena *a, zb_err *err) {
    const zb_tune_opts *o = t->o;
    zb_answers_form f = {.pairs = has_pairs(o),
                         .length_max = (int)o->length,
                         .prompt_max = (int)o->prompt_length,
                         .vocabulary = zb_model_config(t->student)->V,
                         .seed = t->so->seed};
    ZB_TRY(zb_answers_read(&t->train, o->train, t->tokenizer, &f, a, err));
    f.n_max = o->valid_examples;
    return o->valid ? zb_answers_read(&t->valid, o->valid, t->tokenizer, &f, a, err) : ZB_OK;
}

static void close_all(tuner *t) {
    zb_optim_free(&t->optim);
    zb_runner_free(t->run);
    zb_runner_free(t->ref);
    zb_model_free(t->student);
    zb_model_free(t->reference);
    zb_tokenizer_close(t->tokenizer);
    json_decref(t->how);
}

/* ---- a pass ---- */

/* Loss of the batch's pairs, added to `s`, and its slope by each answer's log-probability, divided
 * by the pairs of the whole step. policy, ref, slope [2 n]: chosen and rejected in turn. */
static void compare_pairs(const tuner *t, int n, const double *policy, const double *ref,
                          double step_pairs, double *slope, sums *s) {
    double beta = t->o->beta;
    for (int i = 0; i < n; i++) {
        const double *p = policy + 2 * i, *r = ref + 2 * i;
        double *d = slope + 2 * i, better = p[0] - r[0], worse = p[1] - r[1];
        s->loss += zb_dpo_loss(1, beta, &p[0], &p[1], &r[0], &r[1], &d[0], &d[1]);
        s->chosen += p[0];
        s->rejected += p[1];
        s->reward_chosen += beta * better;
        s->reward_rejected += beta * worse;
        s->right += better > worse;
        d[0] /= step_pairs;
        d[1] /= step_pairs;
    }
}

/* logp [n_spans] of the batch by a model in a pass of its own. */
static zb_status reference_logp(tuner *t, const zb_batch *b, const uint8_t *learnt, double *logp,
                                zb_err *err) {
    zb_arena *a = zb_runner_arena(t->ref);
    zb_mark mark = zb_arena_mark(a);
    float *hidden = ZB_RAW_ARRAY(a, float, (size_t)b->n *zb_model_config(t->reference)->D);
    zb_status s = zb_runner_begin(t->ref, b, err);
    if (s == ZB_OK) {
        zb_runner_forward(t->ref, hidden, NULL);
        zb_answer_logp(&(zb_answer_pass){
            .runner = t->ref, .batch = b, .learnt = learnt, .hidden = hidden, .logp = logp});
    }
    zb_arena_pop(a, mark);
    return s;
}

/* Pairs: both answers' sums give the slopes, with which the gradient is taken. */
static zb_status learn_pairs(tuner *t, zb_answer_pass *p, double whole, double *slope, sums *out,
                             zb_err *err) {
    zb_arena *a = zb_runner_arena(t->run);
    double *ref = ZB_NEW_ARRAY(a, double, p->batch->n_spans);
    ZB_TRY(reference_logp(t, p->batch, p->learnt, ref, err));
    zb_answer_logp(p);
    compare_pairs(t, p->batch->n_spans / 2, p->logp, ref, whole, slope, out);
    if (!p->dhidden) return ZB_OK;
    p->slope = slope;
    zb_answer_logp(p);
    return ZB_OK;
}

/* Answers: every slope is known before. */
static void learn_answers(zb_answer_pass *p, double whole, double *slope, sums *out) {
    int n = p->batch->n_spans;
    for (int i = 0; i < n; i++) slope[i] = -1 / whole;
    p->slope = p->dhidden ? slope : NULL;
    zb_answer_logp(p);
    for (int i = 0; i < n; i++) out->loss -= p->logp[i];
}

/* `whole`: pairs of the step (dpo), learnt tokens of the step (sft), which gradients are divided
 * by; train false: evaluation. Sums are added to. */
static zb_status pass(tuner *t, const zb_batch *b, const uint8_t *learnt, bool train, double whole,
                      sums *out, zb_err *err) {
    zb_arena *a = zb_runner_arena(t->run);
    bool pairs = has_pairs(t->o);
    size_t size = (size_t)b->n * zb_model_config(t->student)->D;
    float *hidden = ZB_RAW_ARRAY(a, float, size);
    double *slope = ZB_NEW_ARRAY(a, double, b->n_spans);
    zb_answer_pass p = {.runner = t->run,
                        .batch = b,
                        .learnt = learnt,
                        .hidden = hidden,
                        .logp = ZB_NEW_ARRAY(a, double, b->n_spans),
                        .dhidden = train ? ZB_NEW_ARRAY(a, float, size) : NULL};
    zb_tape *tape = NULL;
    ZB_TRY(zb_runner_begin(t->run, b, err));
    if (train)
        tape = zb_runner_forward_train(t->run, hidden, t->o->recompute);
    else
        zb_runner_forward(t->run, hidden, NULL);
    if (pairs)
        ZB_TRY(learn_pairs(t, &p, whole, slope, out, err));
    else
        learn_answers(&p, whole, slope, out);
    if (train) zb_runner_backward(t->run, tape, p.dhidden, NULL);
    out->examples += b->n_spans / (pairs ? 2 : 1);
    out->learnt += zb_answer_count(b, learnt);
    return ZB_OK;
}

/* Examples first .. first+n-1 of `from` in passes. */
static zb_status passes(tuner *t, zb_answers *from, int64_t first, int64_t n, bool train, sums *out,
                        zb_err *err) {
    zb_arena scratch = {0}, *a = zb_runner_arena(t->run);
    uint8_t *learnt;
    zb_status s = ZB_OK;
    int64_t most = zb_stage_per_pass(t->so);
    double whole = (double)n;
    if (train && !has_pairs(t->o)) whole = (double)zb_answers_learnt(from, first, n, true);
    for (int64_t at = 0; at < n && s == ZB_OK; at += most) {
        zb_mark mark = zb_arena_mark(&scratch), inner = zb_arena_mark(a);
        int now = (int)(n - at < most ? n - at : most);
        zb_batch b = zb_answers_batch(from, first + at, now, train, &learnt, &scratch);
        s = pass(t, &b, learnt, train, whole, out, err);
        zb_arena_pop(a, inner);
        zb_arena_pop(&scratch, mark);
    }
    zb_arena_free(&scratch);
    return s;
}

/* ---- steps ---- */

/* What the loss is a mean over. */
static double mean_of(const tuner *t, const sums *s) {
    return s->loss / (double)(has_pairs(t->o) ? s->examples : s->learnt);
}

static json_t *pair_numbers(const sums *s) {
    double n = (double)s->examples;
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f}", "reward_chosen", s->reward_chosen / n,
                     "reward_rejected", s->reward_rejected / n, "margin",
                     (s->reward_chosen - s->reward_rejected) / n, "accuracy", (double)s->right / n,
                     "logp_chosen", s->chosen / n, "logp_rejected", s->rejected / n);
}

static zb_status train_step(void *user, zb_stage *st, zb_err *err) {
    tuner *t = user;
    int64_t first = st->step * t->o->batch, left = st->work.total - first;
    sums s = {0};
    ZB_TRY(passes(t, &t->train, first, left < t->o->batch ? left : t->o->batch, true, &s, err));
    double norm = zb_optim_step_clipped(&t->optim, zb_stage_lr(st), t->so->clip);
    json_t *o = has_pairs(t->o) ? pair_numbers(&s) : json_object();
    json_object_set_new(o, "grad_norm", json_real(norm));
    json_object_set_new(o, "learnt", json_integer((json_int_t)s.learnt));
    return zb_stage_step_done(st, o, mean_of(t, &s), norm, err);
}

static zb_status validate(void *user, zb_stage *st, bool *is_best, zb_err *err) {
    tuner *t = user;
    sums s = {0};
    ZB_TRY(passes(t, &t->valid, 0, t->valid.n, false, &s, err));
    double loss = mean_of(t, &s);
    json_t *o =
        json_pack("{s:f,s:I}", "valid_loss", loss, "valid_examples", (json_int_t)s.examples);
    if (has_pairs(t->o)) {
        double n = (double)s.examples, margin = (s.reward_chosen - s.reward_rejected) / n,
               right = (double)s.right / n;
        json_object_set_new(o, "valid_accuracy", json_real(right));
        json_object_set_new(o, "valid_margin", json_real(margin));
        zb_info("tune: step %lld: validation loss %.4f, margin %.4f, chosen over rejected %.1f %%",
                (long long)st->step, loss, margin, 100 * right);
    } else {
        json_object_set_new(o, "valid_perplexity", zb_json_real(exp(loss)));
        zb_info("tune: step %lld: validation loss %.4f, perplexity %.2f", (long long)st->step, loss,
                exp(loss));
    }
    return zb_stage_log_eval(st, o, loss, is_best, err);
}

zb_status zb_tune_check(const zb_tune_opts *o, const zb_stage_opts *loop, zb_err *err) {
    ZB_TRY(zb_stage_check(loop, err));
    if (o->prompt_length >= o->length)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "prompt_length: expected less than length %lld, found %lld",
                       (long long)o->length, (long long)o->prompt_length);
    if (o->reference && !has_pairs(o))
        return zb_fail(err, ZB_ERR_CONFIG, "reference: method sft compares with none");
    if (o->keep_best && !o->valid)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "keep_best: expected held-out examples to judge by, found no valid");
    return ZB_OK;
}

/* The loop's options with those that this stage has itself; a row is an example. */
static zb_stage_opts stage_of(const zb_tune_opts *o, const zb_stage_opts *loop) {
    zb_stage_opts so = *loop;
    so.train = o->train;
    so.valid = o->valid;
    so.batch = o->batch;
    so.sequence_length = o->length * (has_pairs(o) ? 2 : 1);
    so.lr = o->lr > 0 ? o->lr : has_pairs(o) ? 5e-7 : 2e-5;
    so.warmup = o->warmup;
    return so;
}

zb_status zb_tune_run(const zb_tune_opts *o, const zb_stage_opts *loop_opts, const char *dir,
                      zb_err *err) {
    ZB_TRY(zb_tune_check(o, loop_opts, err));
    if (!o->student) return zb_fail(err, ZB_ERR_CONFIG, "student is needed");
    zb_tune_opts oc = *o; /* with what the plan of memory chooses */
    zb_stage_opts sc = stage_of(o, loop_opts);
    tuner t = {.o = &oc, .so = &sc};
    ZB_TRY(plan_memory(&t, &oc, &sc, err));
    if (sc.dry_run) return ZB_OK;
    if (!o->out || !o->train) return zb_fail(err, ZB_ERR_CONFIG, "train and out are needed");
    ZB_TRY(zb_model_save_check(o->out, ZB_INPUTS(o->student, o->reference), err));
    zb_opt_group g[] = {{"", zb_tune_opt_table, &oc}, {"", zb_loop_opt_table, &sc}, {0}};
    t.how = zb_opts_json(g);
    zb_stage st = {0};
    zb_optim *optim[] = {&t.optim};
    zb_status s = open_models(&t, err);
    if (s == ZB_OK) s = read_examples(&t, &st.arena, err);
    if (s == ZB_OK) {
        zb_stage_work w = {.unit = "examples",
                           .per_step = o->batch,
                           .total = (int64_t)ceil(o->epochs * (double)t.train.n),
                           .validates = o->valid != NULL};
        zb_stage_run run = {
            .name = "tune", .dir = dir, .options = g, .optim = optim, .n_optims = 1};
        s = zb_stage_start(&st, &sc, &run, &w, err);
    }
    zb_loop loop = {.validate = validate,
                    .step = train_step,
                    .user = &t,
                    .student = t.student,
                    .out = o->out,
                    .tokenizer_from = o->student,
                    .dtype = o->dtype,
                    .keep_best = o->keep_best,
                    .how = t.how};
    if (s == ZB_OK) s = zb_loop_run(&loop, &st, err);
    zb_stage_free(&st);
    close_all(&t);
    return s;
}
