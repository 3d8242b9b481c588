/* distill.c - the distillation stage (contract in distill.h).
 *
 *   loss = kl·KL(teacher‖student) + reverse_kl·KL(student‖teacher) + ce·CE + hidden·d
 *   d    = mean over layers of r / (1 + r), r = ‖x - t‖² / ‖t‖² of their outputs, student's x
 * mean per token.
 *
 * The last term costs nothing, since the teacher passes anyway, and tells each layer directly what
 * the vocabulary only tells the last one (as TinyBERT does, arXiv 1909.10351).
 *
 * The teacher may be larger than the student's base if it has the same vocabulary. Everything is
 * trained; groups with a rate of 0 are frozen, and outside mixers then stay as the student's file
 * has them, so that a large model's mixers train in a part of its memory. */
#include "train/distill.h"

#include "base/json.h"
#include "model/loss.h"
#include "train/loop.h"
#include "train/memory.h"

#include <math.h>
#include <string.h>

#define AT(field) offsetof(zb_distill_opts, field)
const zb_opt zb_distill_opt_table[] = {
    {ZB_OPT_STR, "teacher", 't', AT(teacher), NULL, 0, 0, NULL,
     "teacher: model folder or .gguf with the student's vocabulary"},
    {ZB_OPT_STR, "student", 0, AT(student), NULL, 0, 0, NULL, "student: model folder"},
    {ZB_OPT_STR, "out", 'o', AT(out), NULL, 0, 0, NULL, "folder for the distilled student"},
    {ZB_OPT_F64, "kl_weight", 0, AT(kl_weight), "1", 0, 1e6, NULL,
     "weight of KL(teacher || student)"},
    {ZB_OPT_F64, "reverse_kl_weight", 0, AT(reverse_kl_weight), "0", 0, 1e6, NULL,
     "weight of KL(student || teacher)"},
    {ZB_OPT_F64, "ce_weight", 0, AT(ce_weight), "0", 0, 1e6, NULL,
     "weight of the cross-entropy of the text"},
    {ZB_OPT_F64, "hidden_weight", 0, AT(hidden_weight), "0", 0, 1e6, NULL,
     "weight of the relative squared distance of all layers' outputs from the teacher's"},
    {ZB_OPT_F64, "mixer_rate", 0, AT(mixer_rate), "1", 0, 1e4, NULL,
     "learning-rate factor of mixer weights"},
    {ZB_OPT_F64, "other_rate", 0, AT(other_rate), "1", 0, 1e4, NULL,
     "learning-rate factor of norms, MLPs, embedding and head (0: frozen)"},
    {ZB_OPT_BOOL, "untie", 0, AT(untie), "false", 0, 0, NULL,
     "give a tied head a matrix of its own first, unless it is frozen"},
    {ZB_OPT_BOOL, "recompute", 0, AT(recompute), "false", 0, 0, NULL,
     "keep only layer inputs for backward: less memory, a third more time"},
    {ZB_OPT_BOOL, "keep_best", 0, AT(keep_best), "false", 0, 0, NULL,
     "also keep the student of the best validation in <stage>/best"},
    {ZB_OPT_CHOICE, "dtype", 0, AT(dtype), "f32", 0, 0, "f32|bf16", "type of the saved weights"},
    {ZB_OPT_CHOICE, "precision", 0, AT(precision), "auto", 0, 0, "auto|f32|bf16",
     "matrix products; auto: bf16 where the CPU has it"},
    {ZB_OPT_CHOICE, "teacher_precision", 0, AT(teacher_precision), "same", 0, 0,
     "same|f32|bf16|int8",
     "the teacher's products; int8: a quantised teacher's in 8-bit integers, as in generation"},
    {0},
};

typedef struct distill {
    const zb_distill_opts *o;
    const zb_stage_opts *so;
    zb_model *teacher, *student;
    zb_runner *tr, *sr;
    zb_tokenizer *tokenizer;
    zb_optim optim;
    zb_step_times times;
    double hidden; /* of the step so far: distance of layers' outputs, summed over tokens */
    json_t *how;
} distill;

static double rate_of(const distill *d, const zb_param *p) {
    if (p->role == ZB_ROLE_GATE) return d->o->mixer_rate * d->so->gate_rate;
    bool in_mixer = p->role == ZB_ROLE_MIXER || strstr(p->name, ".mla.");
    return in_mixer ? d->o->mixer_rate : d->o->other_rate;
}

static bool is_trained(const void *arg, const zb_param *p) { return rate_of(arg, p) != 0; }

static bool unties(const distill *d) { return d->o->untie && d->o->other_rate != 0; }

/* ---- memory ---- */

typedef struct sizes {
    const distill *d;
    zb_config teacher, student;
    size_t stored, student_stored; /* bytes of weights */
    zb_precision precision;
} sizes;

static void memory_parts(const void *arg, zb_memory_plan *p) {
    const sizes *z = arg;
    zb_load load = zb_memory_load(z->d->so, p->rows);
    size_t n = (size_t)load.n;
    zb_memory_weights w = zb_memory_count(&z->student, unties(z->d), is_trained, z->d);
    zb_train_room room = zb_train_room_of(&z->student, &load, p->recompute);
    size_t ends = 2 * zb_room_of(n * z->student.D) + zb_room_of(n); /* hs, dh, labels */
    zb_memory_add(p, "student's weights, f32", 4 * (size_t)w.wide);
    zb_memory_add(p, "student's frozen weights as stored",
                  zb_memory_frozen(&z->student, z->student_stored, &w));
    zb_memory_add(p, "gradients, f32", 4 * (size_t)w.trained);
    zb_memory_add(p, "moments, f32", 8 * (size_t)w.trained);
    zb_memory_add(p, "teacher's weights as stored", zb_memory_stored(&z->teacher, z->stored));
    zb_memory_add(p, "activations kept", room.kept + ends);
    zb_memory_add(p, "layer or logits at work",
                  room.peak - room.kept +
                      (w.wide < w.all ? zb_unpack_room(&z->student, load.n) : 0));
    zb_memory_add(p, "teacher's pass",
                  zb_room_of(n * z->teacher.D) *
                          (z->d->o->hidden_weight > 0 ? 1 + (size_t)z->teacher.L : 1) +
                      zb_forward_room(&z->teacher, &load) + zb_unpack_room(&z->teacher, load.n));
    zb_memory_add(p, "operands in bf16",
                  zb_memory_operands(&z->teacher, load.n,
                                     zb_memory_teacher_use(&z->teacher, z->stored), z->precision) +
                      zb_memory_operands(&z->student, load.n, ZB_USE_LOSS, z->precision));
}

/* Sets rows per pass and recompute in the caller's copies of the options. */
static zb_status plan_memory(const distill *d, zb_distill_opts *o, zb_stage_opts *so,
                             zb_memory_plan *p, zb_err *err) {
    sizes z = {.d = d};
    if (!o->teacher || !o->student)
        return zb_fail(err, ZB_ERR_CONFIG, "teacher and student are needed");
    ZB_TRY(zb_precision_choose(o->precision, &z.precision, err));
    ZB_TRY(zb_model_peek(o->teacher, &z.teacher, &z.stored, err));
    ZB_TRY(zb_model_peek(o->student, &z.student, &z.student_stored, err));
    zb_memory_ask ask = {.stage = "distill",
                         .less = "train fewer weights, shorten sequence_length",
                         .o = so,
                         .recompute = o->recompute,
                         .may_recompute = true,
                         .parts = memory_parts,
                         .arg = &z};
    ZB_TRY(zb_memory_choose(&ask, p, err));
    o->recompute = p->recompute;
    if (p->rows < so->batch) so->micro_batch = p->rows;
    return ZB_OK;
}

/* ---- the stage ---- */

static zb_status open_all(distill *d, zb_err *err) {
    const zb_distill_opts *o = d->o;
    zb_precision prec, teacher_prec;
    bool same = !strcmp(o->teacher_precision, "same");
    ZB_TRY(zb_precision_choose(o->precision, &prec, err));
    ZB_TRY(zb_precision_choose(same ? o->precision : o->teacher_precision, &teacher_prec, err));
    ZB_TRY(zb_model_open(&d->teacher, o->teacher, ZB_MODEL_RUN, err));
    ZB_TRY(zb_model_open_part(&d->student, o->student, is_trained, d, err));
    int Vt = zb_model_config(d->teacher)->V, Vs = zb_model_config(d->student)->V;
    if (Vt != Vs)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the teacher's vocabulary of %d, found %d",
                       o->student, Vt, Vs);
    const zb_config *ct = zb_model_config(d->teacher), *cs = zb_model_config(d->student);
    if (o->hidden_weight > 0 && (ct->D != cs->D || ct->L != cs->L))
        return zb_fail(
            err, ZB_ERR_CONFIG,
            "%s: hidden_weight: expected the teacher's %d layers of width %d, found %d of %d",
            o->student, ct->L, ct->D, cs->L, cs->D);
    if (unties(d)) zb_model_untie(d->student);
    ZB_TRY(zb_runner_new(&d->tr, d->teacher, teacher_prec, err));
    ZB_TRY(zb_runner_new(&d->sr, d->student, prec, err));
    zb_runner_run(d->sr)->rounds = true;
    ZB_TRY(zb_model_tokenizer(&d->tokenizer, o->teacher, err));
    zb_optim_init(&d->optim, d->so->beta1, d->so->beta2, d->so->eps);
    zb_param_table *t = zb_model_params(d->student);
    for (int i = 0; i < t->n; i++) {
        zb_param *p = &t->item[i];
        double rate = rate_of(d, p);
        if (rate == 0) continue;
        zb_model_add_grad(d->student, p);
        zb_optim_add(&d->optim, p, rate * zb_optim_size_rate(p, d->so->scale_below),
                     p->n_dims == 2 && p->role != ZB_ROLE_GATE ? d->so->weight_decay : 0);
    }
    return ZB_OK;
}

static void close_all(distill *d) {
    zb_optim_free(&d->optim);
    zb_runner_free(d->sr);
    zb_runner_free(d->tr);
    zb_model_free(d->student);
    zb_model_free(d->teacher);
    zb_tokenizer_close(d->tokenizer);
    json_decref(d->how);
}

static void add_times(zb_step_times *s, const double t[5]) {
    s->teacher += t[1] - t[0];
    s->forward += t[2] - t[1];
    s->loss += t[3] - t[2];
    s->backward += t[4] - t[3];
}

/* Room for the teacher's states behind each layer, where they are matched. */
static zb_capture capture_of(const distill *d, zb_arena *a, int n) {
    zb_capture cap = {0};
    const zb_config *c = zb_model_config(d->teacher);
    if (d->o->hidden_weight == 0) return cap;
    cap.hidden = ZB_NEW_ARRAY(a, float *, c->L + 1);
    for (int l = 1; l <= c->L; l++) cap.hidden[l] = ZB_RAW_ARRAY(a, float, (size_t)n * c->D);
    return cap;
}

/* One pass; scale 0: evaluation. Sums are added to. */
static zb_status pass(distill *d, const zb_batch *b, float scale, zb_vocab_sums *sums,
                      zb_err *err) {
    zb_arena *ta = zb_runner_arena(d->tr), *sa = zb_runner_arena(d->sr);
    zb_mark tm = zb_arena_mark(ta), sm = zb_arena_mark(sa);
    float *ht = ZB_RAW_ARRAY(ta, float, (size_t)b->n *zb_model_config(d->teacher)->D);
    size_t size = (size_t)b->n * zb_model_config(d->student)->D;
    float *hs = ZB_RAW_ARRAY(sa, float, size),
          *dh = scale > 0 ? ZB_NEW_ARRAY(sa, float, size) : NULL;
    int32_t *labels = ZB_NEW_ARRAY(sa, int32_t, b->n);
    zb_labels_next(b, labels);
    zb_status st = zb_runner_begin(d->tr, b, err);
    if (st == ZB_OK) st = zb_runner_begin(d->sr, b, err);
    if (st == ZB_OK) {
        zb_tape *tape = NULL;
        double t[5] = {zb_seconds()};
        zb_capture cap = scale > 0 ? capture_of(d, ta, b->n) : (zb_capture){0};
        zb_runner_forward(d->tr, ht, &cap);
        t[1] = zb_seconds();
        if (scale > 0)
            tape = zb_runner_forward_train(d->sr, hs, d->o->recompute);
        else
            zb_runner_forward(d->sr, hs, NULL);
        t[2] = zb_seconds();
        zb_vocab_loss l = {.student = d->sr,
                           .teacher = d->tr,
                           .hidden = hs,
                           .teacher_hidden = ht,
                           .dhidden = dh,
                           .labels = labels,
                           .n = b->n,
                           .scale = scale};
        l.weights = (zb_vocab_weights){d->o->kl_weight, d->o->reverse_kl_weight, d->o->ce_weight};
        zb_vocab_loss_run(&l, sums);
        t[3] = zb_seconds();
        int L = zb_model_config(d->student)->L;
        zb_hidden_match m = {cap.hidden, (float)(d->o->hidden_weight / L) * scale, 0};
        if (tape) zb_runner_backward(d->sr, tape, dh, cap.hidden ? &m : NULL);
        d->hidden += m.sum / L;
        t[4] = zb_seconds();
        add_times(&d->times, t);
    }
    zb_arena_pop(sa, sm);
    zb_arena_pop(ta, tm);
    return st;
}

static zb_status validate(void *user, zb_stage *st, bool *is_best, zb_err *err) {
    distill *d = user;
    zb_arena scratch = {0};
    zb_vocab_sums sums = {0};
    zb_status s = ZB_OK;
    int64_t most = zb_stage_per_pass(d->so);
    for (int64_t r = 0; r < st->valid_rows && s == ZB_OK; r += most) {
        int64_t rows = st->valid_rows - r < most ? st->valid_rows - r : most;
        zb_mark mark = zb_arena_mark(&scratch);
        zb_batch b = zb_packer_batch(&st->valid_packer, r, (int)rows, &scratch);
        s = pass(d, &b, 0, &sums, err);
        zb_arena_pop(&scratch, mark);
    }
    zb_arena_free(&scratch);
    if (s != ZB_OK) return s;
    double kl = sums.kl / (double)sums.tokens, ppl = exp(sums.ce / (double)sums.predicted),
           agree = (double)sums.agree / (double)sums.tokens;
    zb_info("distill: step %lld: validation KL %.4f, perplexity %.2f, same best token %.1f %%",
            (long long)st->step, kl, ppl, 100 * agree);
    /* a poor start's perplexity may be beyond any double */
    json_t *o = json_pack("{s:o,s:o,s:f,s:I}", "valid_kl", zb_json_real(kl), "valid_perplexity",
                          zb_json_real(ppl), "valid_agreement", agree, "valid_tokens",
                          (json_int_t)sums.tokens);
    return zb_stage_log_eval(st, o, kl, is_best, err);
}

/* Rows first .. first+batch-1 through both models, and one step of the optimiser. */
static zb_status step(distill *d, zb_packer *packer, int64_t first, double lr, zb_vocab_sums *sums,
                      double *norm, zb_err *err) {
    zb_arena scratch = {0};
    const zb_stage_opts *so = d->so;
    int rows = zb_stage_per_pass(so);
    double tokens = (double)(so->batch * so->sequence_length);
    zb_status s = ZB_OK;
    for (int r = 0; r < so->batch && s == ZB_OK; r += rows) {
        zb_mark mark = zb_arena_mark(&scratch);
        zb_batch b = zb_packer_batch(packer, first + r, rows, &scratch);
        s = pass(d, &b, (float)(1 / tokens), sums, err);
        zb_arena_pop(&scratch, mark);
    }
    zb_arena_free(&scratch);
    if (s != ZB_OK) return s;
    double start = zb_seconds();
    *norm = zb_optim_step_clipped(&d->optim, lr, so->clip);
    d->times.update += zb_seconds() - start;
    return ZB_OK;
}

static zb_status train_step(void *user, zb_stage *st, zb_err *err) {
    distill *d = user;
    const zb_stage_opts *so = d->so;
    double tokens = (double)(so->batch * so->sequence_length), norm = 0;
    zb_vocab_sums sums = {0};
    d->hidden = 0;
    st->packer.longest = zb_stage_longest(st);
    ZB_TRY(step(d, &st->packer, st->step * so->batch, zb_stage_lr(st), &sums, &norm, err));
    double loss = (d->o->kl_weight * sums.kl + d->o->reverse_kl_weight * sums.reverse_kl +
                   d->o->ce_weight * sums.ce + d->o->hidden_weight * d->hidden) /
                  tokens;
    json_t *o = json_pack("{s:f,s:f,s:f}", "kl", sums.kl / tokens, "ce",
                          sums.ce / fmax(1, (double)sums.predicted), "grad_norm", norm);
    if (d->o->hidden_weight > 0) json_object_set_new(o, "hidden", json_real(d->hidden / tokens));
    return zb_stage_step_done(st, o, loss, norm, err);
}

zb_status zb_distill_check(const zb_distill_opts *o, const zb_stage_opts *so, zb_err *err) {
    ZB_TRY(zb_stage_check(so, err));
    if (!o->keep_best || so->valid_tokens > 0) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG,
                   "keep_best: expected held-out text to judge by, found valid_tokens 0");
}

zb_status zb_distill_run(const zb_distill_opts *o, const zb_stage_opts *so, const char *dir,
                         zb_err *err) {
    zb_stage st = {0};
    zb_distill_opts oc = *o; /* with what the plan of memory chooses */
    zb_stage_opts sc = *so;
    distill d = {.o = &oc, .so = &sc};
    zb_memory_plan plan = {0};
    ZB_TRY(zb_distill_check(o, so, err));
    ZB_TRY(plan_memory(&d, &oc, &sc, &plan, err));
    if (so->dry_run) return ZB_OK;
    zb_opt_group g[] = {{"", zb_distill_opt_table, &oc},
                        {"", zb_stage_opt_table, &sc},
                        {"", zb_loop_opt_table, &sc},
                        {0}};
    d.how = zb_opts_json(g);
    zb_optim *optim[] = {&d.optim};
    zb_status s = o->out ? zb_model_save_check(o->out, ZB_INPUTS(o->teacher, o->student), err)
                         : zb_fail(err, ZB_ERR_CONFIG, "out is needed");
    if (s == ZB_OK) s = open_all(&d, err);
    if (s == ZB_OK) {
        zb_stage_run run = {.name = "distill",
                            .dir = dir,
                            .options = g,
                            .optim = optim,
                            .n_optims = 1,
                            .tokenizer = d.tokenizer,
                            .vocabulary = zb_model_config(d.student)->V};
        s = zb_stage_begin(&st, &sc, &run, err);
    }
    zb_loop loop = {.validate = validate,
                    .step = train_step,
                    .user = &d,
                    .student = d.student,
                    .out = o->out,
                    .tokenizer_from = o->teacher,
                    .dtype = o->dtype,
                    .keep_best = o->keep_best,
                    .how = d.how};
    if (s == ZB_OK) s = zb_loop_run(&loop, &st, err);
    zb_stage_free(&st);
    close_all(&d);
    return s;
}

/* 2 operations per weight and token of the teacher's pass, 6 of the student's two. */
static double step_flop(const distill *d) {
    double tokens = (double)(d->so->batch * d->so->sequence_length);
    return tokens * (2 * zb_params_products(zb_model_params(d->teacher)) +
                     6 * zb_params_products(zb_model_params(d->student)));
}

zb_status zb_distill_measure(const zb_distill_opts *o, const zb_stage_opts *so, zb_step_measure *m,
                             zb_err *err) {
    zb_distill_opts oc = *o;
    zb_stage_opts sc = *so;
    distill d = {.o = &oc, .so = &sc};
    zb_memory_plan plan = {0};
    ZB_TRY(plan_memory(&d, &oc, &sc, &plan, err));
    zb_arena a = {0};
    zb_corpus corpus = {0};
    zb_packer packer;
    zb_status s = open_all(&d, err);
    if (s == ZB_OK) {
        zb_stage_random(&corpus, (int)so->batch, (int)so->sequence_length,
                        zb_model_config(d.student)->V, &a);
        s = zb_packer_init(&packer, &corpus, (int)so->sequence_length, false, 1, &a, err);
    }
    for (int i = -1; i < m->steps && s == ZB_OK; i++) {
        zb_vocab_sums sums = {0};
        double norm = 0, start = zb_seconds();
        if (i == 0) d.times = (zb_step_times){0};
        s = step(&d, &packer, 0, so->lr, &sums, &norm, err);
        if (i >= 0) m->seconds[i] = zb_seconds() - start;
        if (s == ZB_OK && zb_interrupted()) s = zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted");
    }
    m->times = d.times;
    if (s == ZB_OK) {
        m->flop = step_flop(&d);
        m->teacher_peak = zb_runner_arena(d.tr)->peak;
        m->student_peak = zb_runner_arena(d.sr)->peak;
        m->planned = plan.total;
    }
    close_all(&d);
    zb_arena_free(&a);
    return s;
}
