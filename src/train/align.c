/* align.c - the alignment stage (contract in align.h).
 *
 * For layer l with teacher states h_l, h_{l+1} and mixer output m_l:
 *   loss_l = w_hidden·d(layer_l(h_l), h_{l+1}) + w_mixer·d(mixer_l(h_l), m_l),   mean over tokens,
 * summed over layers, d the norm of the difference (the paper's) or its mean square. Gradients of
 * both terms meet at the mixer's output.
 *
 * In the last student_inputs of the steps a layer is given what the student's layers before it make
 * of the text, x_l with x_0 = h_0 and x_{l+1} = layer_l(x_l), in place of h_l: it learns to bring
 * their errors back to the teacher's states. Gradients still end at the layer's input.
 *
 * Layers learn alone, so each can stop alone: early_stop judges a layer by its own held-out loss.
 */
#include "train/align.h"

#include "base/file.h"
#include "base/output.h"
#include "model/loss.h"
#include "train/memory.h"

#include <math.h>
#include <string.h>

#define AT(field) offsetof(zb_align_opts, field)
const zb_opt zb_align_opt_table[] = {
    {ZB_OPT_STR, "teacher", 't', AT(teacher), NULL, 0, 0, NULL,
     "the base Transformer: model folder or .gguf"},
    {ZB_OPT_STR, "students", 0, AT(students), NULL, 0, 0, NULL, "student folders, comma-separated"},
    {ZB_OPT_STR, "out", 'o', AT(out), NULL, 0, 0, NULL,
     "folders for the aligned students, comma-separated"},
    {ZB_OPT_CHOICE, "trainable", 0, AT(trainable), "layer", 0, 0, "mixer|layer",
     "what is trained of each layer"},
    {ZB_OPT_F64, "student_inputs", 0, AT(student_inputs), "0", 0, 1, NULL,
     "share of the steps, the last, in which layers are given the student's own states"},
    {ZB_OPT_INT, "early_stop", 0, AT(early_stop), "0", 0, 1000, NULL,
     "validations without a lower held-out loss after which a layer keeps its best weights (0: "
     "off)"},
    {ZB_OPT_CHOICE, "loss", 0, AT(loss), "norm", 0, 0, "norm|squared",
     "distance: L2 norm of the difference, or mean square"},
    {ZB_OPT_F64, "hidden_weight", 0, AT(hidden_weight), "1", 0, 1e6, NULL,
     "weight of the layer-output term"},
    {ZB_OPT_F64, "mixer_weight", 0, AT(mixer_weight), "1", 0, 1e6, NULL,
     "weight of the mixer-output term"},
    {ZB_OPT_CHOICE, "precision", 0, AT(precision), "auto", 0, 0, "auto|f32|bf16",
     "matrix products; auto: bf16 where the CPU has it"},
    {0},
};

enum { STUDENTS_MAX = 4 };

typedef struct student {
    const char *out, *name; /* what the log calls it */
    zb_model *model;
    zb_runner *runner;
    zb_optim optim[ZB_LAYERS_MAX];
    double hidden[ZB_LAYERS_MAX],
        mixer[ZB_LAYERS_MAX]; /* sums over the tokens of a step or validation */
    double error[ZB_LAYERS_MAX], energy[ZB_LAYERS_MAX]; /* ‖m_s - m_t‖², ‖m_t‖² */
} student;

typedef struct align {
    const zb_align_opts *o;
    const zb_stage_opts *so;
    zb_arena arena;
    zb_model *teacher;
    zb_runner *runner;
    zb_tokenizer *tokenizer;
    student *s[STUDENTS_MAX];
    zb_step_times times;
    int n, L, D;
    bool own;                /* layers are given the student's states */
    float **hidden, **mixer; /* captures of one pass: [L+1][N,D], [L][N,D] */
} align;

static bool is_trained(const void *arg, const zb_param *p) {
    const align *a = arg;
    if (p->layer < 0) return false;
    return zb_param_in_mixer(p) || !strcmp(a->o->trainable, "layer");
}

/* ---- memory ---- */

typedef struct sizes {
    const align *a;
    zb_config teacher, student[STUDENTS_MAX];
    int n;
    size_t stored, student_stored[STUDENTS_MAX];
    zb_precision precision;
} sizes;

static void memory_parts(const void *arg, zb_memory_plan *p) {
    const sizes *z = arg;
    const zb_config *t = &z->teacher;
    zb_load load = zb_memory_load(z->a->so, p->rows);
    size_t row = zb_room_of((size_t)load.n * t->D), students = 0,
           operands =
               zb_memory_operands(t, load.n, zb_memory_teacher_use(t, z->stored), z->precision),
           frozen = 0;
    zb_memory_weights w = {0};
    for (int i = 0; i < z->n; i++) {
        zb_memory_weights one = zb_memory_count(&z->student[i], false, is_trained, z->a);
        frozen += zb_memory_frozen(&z->student[i], z->student_stored[i], &one);
        w.wide += one.wide;
        w.trained += one.trained;
        operands += zb_memory_operands(&z->student[i], load.n, ZB_USE_WIDE, z->precision);
        size_t most = 0;
        for (int l = 0; l < z->student[i].L; l++) {
            size_t alone;
            zb_room r = zb_layer_room(&z->student[i], l, &load, true, &alone);
            size_t here = r.tape + (r.forward > r.backward ? r.forward : r.backward);
            if (here > most) most = here;
        }
        if (one.wide < one.all) most += zb_unpack_room(&z->student[i], load.n);
        students += 4 * row + most; /* y, m and their gradients; each student has an arena */
        if (z->a->o->student_inputs > 0) students += 2 * row;
    }
    zb_memory_add(p, "students' weights, f32", 4 * (size_t)w.wide);
    zb_memory_add(p, "students' frozen weights as stored", frozen);
    zb_memory_add(p, "gradients, f32", 4 * (size_t)w.trained);
    zb_memory_add(p, "moments, f32", 8 * (size_t)w.trained);
    if (z->a->o->early_stop) zb_memory_add(p, "best weights, f32", 4 * (size_t)w.trained);
    zb_memory_add(p, "teacher's weights as stored", zb_memory_stored(t, z->stored));
    zb_memory_add(p, "teacher's states and mixer outputs", (2 * (size_t)t->L + 2) * row);
    zb_memory_add(p, "teacher's pass", zb_forward_room(t, &load) + zb_unpack_room(t, load.n));
    zb_memory_add(p, "students' layer at work", students);
    zb_memory_add(p, "operands in bf16", operands);
}

/* Sets rows per pass in the caller's copy of the options. */
static zb_status plan_memory(align *a, zb_stage_opts *so, zb_memory_plan *p, zb_err *err) {
    const zb_align_opts *o = a->o;
    if (!o->teacher)
        return zb_fail(err, ZB_ERR_CONFIG, "teacher: expected a model folder or .gguf");
    zb_arena scratch = {0};
    sizes *z = ZB_NEW(&scratch, sizes); /* configurations are large for a stack */
    z->a = a;
    char **in = zb_list_split(o->students, &scratch, &z->n);
    zb_status s = zb_precision_choose(o->precision, &z->precision, err);
    if (s == ZB_OK && (z->n < 1 || z->n > STUDENTS_MAX))
        s = zb_fail(err, ZB_ERR_CONFIG, "students: expected 1 to %d folders, found %d",
                    STUDENTS_MAX, z->n);
    if (s == ZB_OK) s = zb_model_peek(o->teacher, &z->teacher, &z->stored, err);
    for (int i = 0; i < z->n && s == ZB_OK; i++)
        s = zb_model_peek(in[i], &z->student[i], &z->student_stored[i], err);
    zb_memory_ask ask = {.stage = "align",
                         .less = "train fewer weights, shorten sequence_length",
                         .o = so,
                         .parts = memory_parts,
                         .arg = z};
    if (s == ZB_OK) s = zb_memory_choose(&ask, p, err);
    if (s == ZB_OK && p->rows < so->batch) so->micro_batch = p->rows;
    zb_arena_free(&scratch);
    return s;
}

/* ---- the stage ---- */

static zb_status open_student(align *a, const char *path, const char *out, zb_precision prec,
                              zb_err *err) {
    student *s = a->s[a->n++] = ZB_NEW(&a->arena, student);
    s->out = out ? zb_path_plain(&a->arena, out) : NULL;
    ZB_TRY(zb_model_open_part(&s->model, path, is_trained, a, err));
    const zb_config *c = zb_model_config(s->model), *t = zb_model_config(a->teacher);
    if (c->L != t->L || c->D != t->D)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: expected %d layers of size %d as in the teacher, found %d of %d", path,
                       t->L, t->D, c->L, c->D);
    ZB_TRY(zb_runner_new(&s->runner, s->model, prec, err));
    zb_runner_run(s->runner)->rounds = true;
    zb_param_table *p = zb_model_params(s->model);
    for (int l = 0; l < c->L; l++)
        zb_optim_init(&s->optim[l], a->so->beta1, a->so->beta2, a->so->eps);
    for (int i = 0; i < p->n; i++) {
        zb_param *x = &p->item[i];
        if (!is_trained(a, x)) continue;
        zb_model_add_grad(s->model, x);
        zb_optim_add(&s->optim[x->layer], x,
                     (x->role == ZB_ROLE_GATE ? a->so->gate_rate : 1) *
                         zb_optim_size_rate(x, a->so->scale_below),
                     x->n_dims == 2 && x->role != ZB_ROLE_GATE ? a->so->weight_decay : 0);
    }
    for (int l = 0; l < c->L && a->o->early_stop; l++) zb_optim_watch(&s->optim[l]);
    return ZB_OK;
}

/* Whether the path of another student ends with this one's name, too. */
static bool is_ambiguous(align *a, const student *s) {
    zb_str end = zb_str_from(zb_asprintf(&a->arena, "/%s", s->name));
    for (int i = 0; i < a->n; i++)
        if (a->s[i] != s &&
            zb_str_ends(zb_str_from(zb_asprintf(&a->arena, "/%s", a->s[i]->out)), end))
            return true;
    return false;
}

/* As short as it can be: "x", but "a/x" beside "b/x". */
static void name_student(align *a, student *s) {
    s->name = zb_path_base(s->out);
    while (s->name > s->out && is_ambiguous(a, s)) {
        s->name--;
        while (s->name > s->out && s->name[-1] != '/') s->name--;
    }
}

static zb_status open_all(align *a, zb_err *err) {
    int n_in, n_out;
    char **in = zb_list_split(a->o->students, &a->arena, &n_in),
         **out = zb_list_split(a->o->out, &a->arena, &n_out);
    if (n_in < 1 || n_in > STUDENTS_MAX || (n_in != n_out && a->o->out))
        return zb_fail(
            err, ZB_ERR_CONFIG,
            "students, out: expected 1 to %d folders and as many outputs, found %d and %d",
            STUDENTS_MAX, n_in, n_out);
    zb_inputs students = {(const char *const *)in, n_in},
              outputs = {(const char *const *)out, n_out};
    for (int i = 0; i < n_out; i++) {
        ZB_TRY(zb_model_save_check(out[i], students, err));
        ZB_TRY(zb_model_save_check(out[i], ZB_INPUTS(a->o->teacher), err));
    }
    ZB_TRY(zb_outputs_apart(outputs, err));
    zb_precision prec;
    ZB_TRY(zb_precision_choose(a->o->precision, &prec, err));
    ZB_TRY(zb_model_open(&a->teacher, a->o->teacher, ZB_MODEL_RUN, err));
    ZB_TRY(zb_runner_new(&a->runner, a->teacher, prec, err));
    ZB_TRY(zb_model_tokenizer(&a->tokenizer, a->o->teacher, err));
    a->L = zb_model_config(a->teacher)->L;
    a->D = zb_model_config(a->teacher)->D;
    for (int i = 0; i < n_in; i++) ZB_TRY(open_student(a, in[i], n_out ? out[i] : NULL, prec, err));
    for (int i = 0; i < n_out; i++) name_student(a, a->s[i]);
    return ZB_OK;
}

static void close_all(align *a) {
    for (int i = 0; i < a->n; i++) {
        for (int l = 0; l < a->L; l++) zb_optim_free(&a->s[i]->optim[l]);
        zb_runner_free(a->s[i]->runner);
        zb_model_free(a->s[i]->model);
    }
    zb_runner_free(a->runner);
    zb_model_free(a->teacher);
    zb_tokenizer_close(a->tokenizer);
    zb_arena_free(&a->arena);
}

/* Teacher's states and mixer outputs of the batch, in its runner's arena. */
static zb_status teach(align *a, const zb_batch *b, zb_err *err) {
    zb_arena *ar = zb_runner_arena(a->runner);
    size_t n = (size_t)b->n * a->D;
    a->hidden = zb_alloc_array(ar, (size_t)a->L + 1, sizeof *a->hidden);
    a->mixer = zb_alloc_array(ar, (size_t)a->L, sizeof *a->mixer);
    for (int l = 0; l <= a->L; l++) a->hidden[l] = ZB_RAW_ARRAY(ar, float, n);
    for (int l = 0; l < a->L; l++) a->mixer[l] = ZB_RAW_ARRAY(ar, float, n);
    ZB_TRY(zb_runner_begin(a->runner, b, err));
    zb_runner_forward(a->runner, ZB_RAW_ARRAY(ar, float, n), &(zb_capture){a->hidden, a->mixer});
    return ZB_OK;
}

static void add_error(student *s, int l, size_t n, const float *got, const float *want) {
    double e = 0, w = 0;
    for (size_t i = 0; i < n; i++) {
        e += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        w += (double)want[i] * (double)want[i];
    }
    s->error[l] += e;
    s->energy[l] += w;
}

/* One layer on input x [n, D]; scale 0: measure only. Its output goes to `next` where that is not
 * NULL. */
static void layer_pass(align *a, student *s, int l, int n, float scale, const float *x,
                       float *next) {
    zb_run *run = zb_runner_run(s->runner);
    zb_arena *ar = zb_runner_arena(s->runner);
    zb_mark mark = zb_arena_mark(ar);
    size_t size = (size_t)n * a->D;
    bool squared = !strcmp(a->o->loss, "squared"), train = scale > 0;
    bool hidden = a->o->hidden_weight > 0;
    float *y = next, *m = ZB_RAW_ARRAY(ar, float, size);
    if (hidden && !y) y = ZB_RAW_ARRAY(ar, float, size);
    float *dy = hidden && train ? ZB_NEW_ARRAY(ar, float, size) : NULL,
          *dm = train ? ZB_NEW_ARRAY(ar, float, size) : NULL;
    zb_layer_tape *tape;
    double t[3] = {zb_seconds()};
    zb_layer_forward(run, l, x, y, m, train ? &tape : NULL);
    if (hidden)
        s->hidden[l] += zb_ild_loss(n, a->D, y, a->hidden[l + 1], squared, NULL,
                                    scale * (float)a->o->hidden_weight, dy);
    if (a->o->mixer_weight > 0 || !train)
        s->mixer[l] += zb_ild_loss(n, a->D, m, a->mixer[l], squared, NULL,
                                   scale * (float)a->o->mixer_weight, dm);
    t[1] = zb_seconds();
    if (train)
        zb_layer_backward(run, l, dy, dm, NULL, tape);
    else
        add_error(s, l, size, m, a->mixer[l]);
    t[2] = zb_seconds();
    a->times.forward += t[1] - t[0];
    a->times.backward += t[2] - t[1];
    zb_arena_pop(ar, mark);
}

static void layers_pass(align *a, student *s, int n, float scale) {
    zb_arena *ar = zb_runner_arena(s->runner);
    zb_mark mark = zb_arena_mark(ar);
    size_t size = (size_t)n * a->D;
    float *x = a->own ? ZB_RAW_ARRAY(ar, float, size) : NULL,
          *next = a->own ? ZB_RAW_ARRAY(ar, float, size) : NULL;
    if (a->own) memcpy(x, a->hidden[0], size * sizeof *x);
    for (int l = 0; l < a->L; l++) {
        layer_pass(a, s, l, n, s->optim[l].stopped ? 0 : scale, a->own ? x : a->hidden[l], next);
        float *done = x;
        x = next;
        next = done;
    }
    zb_arena_pop(ar, mark);
}

static zb_status pass(align *a, const zb_batch *b, float scale, zb_err *err) {
    zb_mark mark = zb_arena_mark(zb_runner_arena(a->runner));
    double start = zb_seconds();
    zb_status st = teach(a, b, err);
    a->times.teacher += zb_seconds() - start;
    for (int i = 0; i < a->n && st == ZB_OK; i++) {
        st = zb_runner_begin(a->s[i]->runner, b, err);
        if (st == ZB_OK) layers_pass(a, a->s[i], b->n, scale);
    }
    zb_arena_pop(zb_runner_arena(a->runner), mark);
    return st;
}

static void clear_sums(align *a) {
    for (int i = 0; i < a->n; i++) {
        student *s = a->s[i];
        memset(s->hidden, 0, sizeof s->hidden);
        memset(s->mixer, 0, sizeof s->mixer);
        memset(s->error, 0, sizeof s->error);
        memset(s->energy, 0, sizeof s->energy);
    }
}

/* A layer's loss, summed over tokens. */
static double loss_of(const align *a, const student *s, int l) {
    return a->o->hidden_weight * s->hidden[l] + a->o->mixer_weight * s->mixer[l];
}

/* Per-layer means as JSON lists, one pair per student; returns the total loss. */
static double report(const align *a, double tokens, json_t *out) {
    double total = 0;
    for (int i = 0; i < a->n; i++) {
        const student *s = a->s[i];
        json_t *h = json_array(), *m = json_array();
        for (int l = 0; l < a->L; l++) {
            json_array_append_new(h, json_real(s->hidden[l] / tokens));
            json_array_append_new(m, json_real(s->mixer[l] / tokens));
            total += loss_of(a, s, l) / tokens;
        }
        zb_arena scratch = {0};
        json_object_set_new(out, zb_asprintf(&scratch, "ild_hidden.%s", s->name), h);
        json_object_set_new(out, zb_asprintf(&scratch, "ild_mixer.%s", s->name), m);
        zb_arena_free(&scratch);
    }
    return total;
}

/* The largest norm of a layer's gradient, or one that is not finite. */
static double update(align *a, double lr) {
    double start = zb_seconds(), most = 0;
    for (int i = 0; i < a->n; i++)
        for (int l = 0; l < a->L; l++) {
            double norm = zb_optim_step_clipped(&a->s[i]->optim[l], lr, a->so->clip);
            if (norm > most || !isfinite(norm)) most = norm;
        }
    a->times.update += zb_seconds() - start;
    return most;
}

/* Are layers given the student's states at this step? */
static bool takes_own(const align *a, const zb_stage *st, int64_t step) {
    return (double)step >= (1 - a->o->student_inputs) * (double)st->steps;
}

/* Each layer's held-out loss to its optimiser; what a layer is given changes what a loss means. */
static void judge(align *a, const zb_stage *st, double tokens) {
    int64_t every = a->so->eval_every, before = (st->step - 1) / every * every;
    bool anew = a->own && !takes_own(a, st, before); /* the first validation of its kind */
    for (int i = 0; i < a->n; i++)
        for (int l = 0; l < a->L; l++) {
            student *s = a->s[i];
            zb_optim *o = &s->optim[l];
            if (anew) zb_optim_forget(o);
            bool stopped = o->stopped;
            zb_optim_judge(o, loss_of(a, s, l) / tokens, (int)a->o->early_stop);
            if (o->stopped && !stopped)
                zb_info("align: %s: layer %d stops at its best weights", s->name, l);
        }
}

static zb_status validate(align *a, zb_stage *st, zb_err *err) {
    zb_arena scratch = {0};
    clear_sums(a);
    double tokens = 0;
    int64_t most = zb_stage_per_pass(a->so);
    zb_status s = ZB_OK;
    for (int64_t r = 0; r < st->valid_rows && s == ZB_OK; r += most) {
        int64_t rows = st->valid_rows - r < most ? st->valid_rows - r : most;
        zb_mark mark = zb_arena_mark(&scratch);
        zb_batch b = zb_packer_batch(&st->valid_packer, r, (int)rows, &scratch);
        s = pass(a, &b, 0, err);
        tokens += b.n;
        zb_arena_pop(&scratch, mark);
    }
    json_t *o = json_object();
    double total = report(a, tokens, o);
    json_object_set_new(o, "valid_loss", json_real(total));
    for (int i = 0; i < a->n && s == ZB_OK; i++) {
        double mean = 0, own = 0;
        json_t *e = json_array();
        for (int l = 0; l < a->L; l++) {
            double r = a->s[i]->error[l] / fmax(a->s[i]->energy[l], 1e-30);
            json_array_append_new(e, json_real(r));
            mean += r / a->L;
            own += loss_of(a, a->s[i], l) / tokens;
        }
        json_object_set_new(o, zb_asprintf(&scratch, "relative_error.%s", a->s[i]->name), e);
        zb_info(
            "align: step %lld, %s: validation loss %.4g, mean relative error of mixer outputs %.4f",
            (long long)st->step, a->s[i]->name, own, mean);
    }
    if (s == ZB_OK && a->o->early_stop) judge(a, st, tokens);
    bool best;
    if (s == ZB_OK)
        s = zb_stage_log_eval(st, o, total, &best, err);
    else
        json_decref(o);
    zb_arena_free(&scratch);
    return s;
}

/* Rows first .. first+batch-1 through all layers, and one step of every optimiser. */
static zb_status step(align *a, zb_packer *packer, int64_t first, double lr, double *norm,
                      zb_err *err) {
    zb_arena scratch = {0};
    const zb_stage_opts *so = a->so;
    int rows = zb_stage_per_pass(so);
    double tokens = (double)(so->batch * so->sequence_length);
    clear_sums(a);
    zb_status s = ZB_OK;
    for (int r = 0; r < so->batch && s == ZB_OK; r += rows) {
        zb_mark mark = zb_arena_mark(&scratch);
        zb_batch b = zb_packer_batch(packer, first + r, rows, &scratch);
        s = pass(a, &b, (float)(1 / tokens), err);
        zb_arena_pop(&scratch, mark);
    }
    zb_arena_free(&scratch);
    if (s != ZB_OK) return s;
    *norm = update(a, lr);
    return ZB_OK;
}

static zb_status train_step(align *a, zb_stage *st, zb_err *err) {
    double tokens = (double)(a->so->batch * a->so->sequence_length), norm = 0;
    st->packer.longest = zb_stage_longest(st);
    ZB_TRY(step(a, &st->packer, st->step * a->so->batch, zb_stage_lr(st), &norm, err));
    json_t *o = json_object();
    double loss = report(a, tokens, o);
    return zb_stage_step_done(st, o, loss, norm, err);
}

static zb_status loop(align *a, zb_stage *st, zb_err *err) {
    while (st->step < st->steps) {
        a->own = takes_own(a, st, st->step);
        if (zb_stage_eval_due(st)) ZB_TRY(validate(a, st, err));
        ZB_TRY(train_step(a, st, err));
    }
    a->own = takes_own(a, st, st->steps - 1); /* a run resumed here has seen no step */
    if (zb_stage_eval_due(st)) ZB_TRY(validate(a, st, err));
    for (int i = 0; i < a->n * a->L && a->o->early_stop; i++)
        zb_optim_back(&a->s[i / a->L]->optim[i % a->L]);
    return ZB_OK;
}

static zb_status save_all(align *a, const zb_stage *st, const json_t *how, zb_err *err) {
    for (int i = 0; i < a->n; i++) ZB_TRY(zb_stage_check_model(st, a->s[i]->model, err));
    for (int i = 0; i < a->n; i++) {
        json_t *p = json_pack("{s:s,s:O}", "stage", "align", "options", how);
        zb_status s = zb_model_save(a->s[i]->model, a->s[i]->out, ZB_F32, a->o->teacher, p, err);
        json_decref(p);
        if (s != ZB_OK) return s;
    }
    return ZB_OK;
}

zb_status zb_align_check(const zb_align_opts *o, const zb_stage_opts *s, zb_err *err) {
    ZB_TRY(zb_stage_check(s, err));
    if (!o->early_stop || (s->eval_every > 0 && s->valid_tokens > 0)) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG,
                   "early_stop: expected validations to judge by, found eval_every %lld and "
                   "valid_tokens %lld",
                   (long long)s->eval_every, (long long)s->valid_tokens);
}

zb_status zb_align_run(const zb_align_opts *o, const zb_stage_opts *so, const char *dir,
                       zb_err *err) {
    zb_stage st = {0};
    zb_align_opts oc = *o;  /* the JSON writer reads through non-const groups */
    zb_stage_opts sc = *so; /* with what the plan of memory chooses */
    align a = {.o = o, .so = &sc};
    zb_memory_plan plan = {0};
    ZB_TRY(zb_align_check(o, so, err));
    ZB_TRY(plan_memory(&a, &sc, &plan, err));
    if (so->dry_run) return ZB_OK;
    zb_opt_group g[] = {{"", zb_align_opt_table, &oc},
                        {"", zb_stage_opt_table, &sc},
                        {"", zb_loop_opt_table, &sc},
                        {0}};
    json_t *how = zb_opts_json(g);
    zb_status s = o->out ? open_all(&a, err) : zb_fail(err, ZB_ERR_CONFIG, "out is needed");
    if (s == ZB_OK) {
        zb_optim **optim = zb_alloc_array(&a.arena, (size_t)a.n * a.L, sizeof *optim);
        for (int i = 0; i < a.n * a.L; i++) optim[i] = &a.s[i / a.L]->optim[i % a.L];
        zb_stage_run run = {.name = "align",
                            .dir = dir,
                            .options = g,
                            .optim = optim,
                            .n_optims = a.n * a.L,
                            .tokenizer = a.tokenizer,
                            .vocabulary = zb_model_config(a.teacher)->V};
        s = zb_stage_begin(&st, &sc, &run, err);
    }
    if (s == ZB_OK) s = loop(&a, &st, err);
    if (s == ZB_OK) s = save_all(&a, &st, how, err);
    if (s == ZB_OK) s = zb_stage_finish(&st, err);
    json_decref(how);
    zb_stage_free(&st);
    close_all(&a);
    return s;
}

/* 2 operations per weight and token of the teacher's layers; 6 of the students' trained weights, 4
 * of those that only pass gradients on. */
static double step_flop(const align *a) {
    double tokens = (double)(a->so->batch * a->so->sequence_length), per_token = 0;
    bool mlp = a->o->hidden_weight > 0;
    for (int k = -1; k < a->n; k++) {
        const zb_param_table *t = zb_model_params(k < 0 ? a->teacher : a->s[k]->model);
        for (int i = 0; i < t->n; i++) {
            const zb_param *p = &t->item[i];
            if (p->layer < 0 || p->n_dims != 2 || (k >= 0 && p->role == ZB_ROLE_MLP && !mlp))
                continue;
            per_token += (k < 0 ? 2 : p->grad ? 6 : 4) * (double)zb_param_count(p);
        }
    }
    return tokens * per_token;
}

zb_status zb_align_measure(const zb_align_opts *o, const zb_stage_opts *so, zb_step_measure *m,
                           zb_err *err) {
    zb_stage_opts sc = *so;
    align a = {.o = o, .so = &sc};
    zb_memory_plan plan = {0};
    ZB_TRY(plan_memory(&a, &sc, &plan, err));
    zb_arena scratch = {0};
    zb_corpus corpus = {0};
    zb_packer packer;
    zb_status s = open_all(&a, err);
    if (s == ZB_OK) {
        zb_stage_random(&corpus, (int)so->batch, (int)so->sequence_length,
                        zb_model_config(a.teacher)->V, &scratch);
        s = zb_packer_init(&packer, &corpus, (int)so->sequence_length, false, 1, &scratch, err);
    }
    for (int i = -1; i < m->steps && s == ZB_OK; i++) {
        double norm = 0, start = zb_seconds();
        if (i == 0) a.times = (zb_step_times){0};
        s = step(&a, &packer, 0, so->lr, &norm, err);
        if (i >= 0) m->seconds[i] = zb_seconds() - start;
        if (s == ZB_OK && zb_interrupted()) s = zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted");
    }
    m->times = a.times;
    if (s == ZB_OK) {
        m->flop = step_flop(&a);
        m->planned = plan.total;
        m->teacher_peak = zb_runner_arena(a.runner)->peak;
        for (int i = 0; i < a.n; i++) {
            size_t peak = zb_runner_arena(a.s[i]->runner)->peak;
            if (peak > m->student_peak) m->student_peak = peak;
        }
    }
    close_all(&a);
    zb_arena_free(&scratch);
    return s;
}
