/* measuring.c - passes that start at the changed layer (contract in measuring.h).
 *
 * Text and recall are pieces: a batch, the teacher's hidden states before each layer, its mixers'
 * outputs, and what a model's last hidden rows are judged by: the teacher's logits (text), or
 * labels at some rows (recall). With x the teacher's hidden states before layer l, a candidate
 * gives y = layer_l(x); the teacher's layers l+1.. and head follow.
 *
 * Composed candidates stand as folders beside the table, made by zb_compose_run with all layers of
 * the kind, fitted on the teacher's inputs. They are models like any other. */
#include "compose/measuring.h"

#include "base/contents.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "compose/calibrate.h"
#include "compose/pairs.h"
#include "compose/regression.h"
#include "data/corpus.h"
#include "model/footprint.h"
#include "model/loss.h"

#include <math.h>
#include <string.h>

enum { HEAD_ROWS = 256 };
static const double LINEAR_RIDGE = 1e-2; /* of linear maps, where composing chooses its own */

typedef struct piece {
    zb_batch b;
    float **hidden, **mix; /* [L] each: [n, D] before the layer, and its mixer's output */
    float *logits;         /* [n, V] the teacher's; NULL: a piece of recall */
    int *row;              /* [answers] rows that predict an answer */
    int32_t *label;        /* [answers] */
    int answers;
} piece;

typedef struct opened { /* a candidate's model */
    zb_model *model;
    zb_runner *runner;
} opened;

struct zb_measuring {
    const zb_measuring_opts *o;
    zb_arena arena;
    zb_model *teacher;
    zb_runner *rt;
    zb_precision precision;
    int L, D, V, pieces;
    piece *piece;
    double teacher_recall, teacher_ce;
    float **linear; /* [L] [D, D] best linear maps; NULL: not fitted yet */
};

typedef struct sums {
    double kl, recall, error, power;
    int64_t tokens, answers;
} sums;

/* ---- pieces ---- */

static zb_status pass_teacher(zb_measuring *m, piece *p, zb_err *err) {
    zb_arena *a = zb_runner_arena(m->rt);
    zb_mark mark = zb_arena_mark(a);
    size_t size = (size_t)p->b.n * m->D;
    p->hidden = zb_alloc_array(&m->arena, (size_t)m->L + 1, sizeof *p->hidden);
    p->mix = zb_alloc_array(&m->arena, (size_t)m->L, sizeof *p->mix);
    for (int l = 0; l < m->L; l++) {
        p->hidden[l] = ZB_RAW_ARRAY(&m->arena, float, size);
        p->mix[l] = ZB_RAW_ARRAY(&m->arena, float, size);
    }
    ZB_TRY(zb_runner_begin(m->rt, &p->b, err));
    float *out = ZB_RAW_ARRAY(a, float, size);
    zb_runner_forward(m->rt, out, &(zb_capture){.hidden = p->hidden, .mixer = p->mix});
    if (!p->answers) {
        int32_t *next = ZB_NEW_ARRAY(a, int32_t, p->b.n);
        zb_vocab_sums s = {0};
        zb_labels_next(&p->b, next);
        zb_vocab_loss_run(
            &(zb_vocab_loss){
                .student = m->rt, .hidden = out, .labels = next, .n = p->b.n, .weights = {.ce = 1}},
            &s);
        m->teacher_ce += s.predicted ? s.ce / (double)s.predicted : 0;
        p->logits = ZB_RAW_ARRAY(&m->arena, float, (size_t)p->b.n * m->V);
        for (int i = 0; i < p->b.n; i += HEAD_ROWS) {
            int n = p->b.n - i < HEAD_ROWS ? p->b.n - i : HEAD_ROWS;
            zb_runner_logits(m->rt, out + (size_t)i * m->D, n, p->logits + (size_t)i * m->V);
        }
    }
    zb_arena_pop(a, mark);
    return ZB_OK;
}

static zb_status read_pieces(zb_measuring *m, const zb_tokenizer *t, zb_err *err) {
    const zb_measuring_opts *o = m->o;
    zb_corpus c;
    zb_packer packer;
    ZB_TRY(zb_corpus_read(&c, o->text, t, m->V, o->tokens, &m->arena, err));
    int length = (int)(c.n_tokens < o->length ? c.n_tokens : o->length);
    ZB_TRY(zb_packer_init(&packer, &c, length, false, 0, &m->arena, err));
    int64_t passes = (packer.rows + o->batch - 1) / o->batch;
    m->piece = ZB_NEW_ARRAY(&m->arena, piece, passes + 1);
    for (int64_t r = 0; r < packer.rows; r += o->batch) {
        int64_t rows = packer.rows - r < o->batch ? packer.rows - r : o->batch;
        m->piece[m->pieces++].b = zb_packer_batch(&packer, r, (int)rows, &m->arena);
    }
    zb_pairs pairs;
    zb_pairs_form form = {.without = t ? zb_corpus_separator(t) : -1};
    zb_pairs_make(&pairs, &c, m->V, &form, (int)o->recall_rows, (uint64_t)o->seed, &m->arena);
    if (pairs.answers)
        m->piece[m->pieces++] =
            (piece){.b = pairs.b, .row = pairs.row, .label = pairs.label, .answers = pairs.answers};
    return ZB_OK;
}

/* ---- judging ---- */

/* Adds what a model with last hidden states h [n, D] (before the final norm) is worth. */
static void judge(zb_measuring *m, const piece *p, const float *h, sums *s) {
    zb_arena *a = zb_runner_arena(m->rt);
    zb_mark mark = zb_arena_mark(a);
    zb_run *run = zb_runner_run(m->rt);
    float *out = ZB_RAW_ARRAY(a, float, (size_t)p->b.n * m->D);
    zb_vocab_sums v = {0};
    zb_norm(run, run->params->norm, h, p->b.n, m->D, out, NULL);
    if (p->answers) {
        float *picked = ZB_RAW_ARRAY(a, float, (size_t)p->answers * m->D);
        for (int i = 0; i < p->answers; i++)
            memcpy(picked + (size_t)i * m->D, out + (size_t)p->row[i] * m->D,
                   (size_t)m->D * sizeof(float));
        zb_vocab_loss_run(&(zb_vocab_loss){.student = m->rt,
                                           .hidden = picked,
                                           .labels = p->label,
                                           .n = p->answers,
                                           .weights = {.ce = 1}},
                          &v);
        s->recall += v.ce;
        s->answers += p->answers;
    }
    float *logits = ZB_RAW_ARRAY(a, float, (size_t)HEAD_ROWS * m->V);
    for (int i = 0; p->logits && i < p->b.n; i += HEAD_ROWS) {
        int n = p->b.n - i < HEAD_ROWS ? p->b.n - i : HEAD_ROWS;
        zb_runner_logits(m->rt, out + (size_t)i * m->D, n, logits);
        zb_vocab_tile_run(&(zb_vocab_tile){.n = n,
                                           .V = m->V,
                                           .student = logits,
                                           .teacher = p->logits + (size_t)i * m->V,
                                           .weights = {.kl = 1}},
                          &v, a);
    }
    s->kl += v.kl;
    s->tokens += p->logits ? p->b.n : 0;
    zb_arena_pop(a, mark);
}

static void compare_mixers(const zb_measuring *m, const piece *p, int layer, const float *mix,
                           sums *s) {
    if (!p->logits) return; /* the error is that on text */
    const float *want = p->mix[layer];
    for (size_t i = 0; i < (size_t)p->b.n * m->D; i++) {
        double d = (double)mix[i] - (double)want[i];
        s->error += d * d;
        s->power += (double)want[i] * (double)want[i];
    }
}

/* y, mix [n, D] of a layer without a mixer, or with a linear map W [D, D] of its inputs. */
static void probe_layer(zb_measuring *m, const piece *p, int layer, const float *W, float *y,
                        float *mix) {
    zb_run *run = zb_runner_run(m->rt);
    zb_mark mark = zb_arena_mark(run->arena);
    size_t size = (size_t)p->b.n * m->D;
    const float *x = p->hidden[layer];
    memset(mix, 0, size * sizeof *mix);
    if (W) {
        float *u = ZB_RAW_ARRAY(run->arena, float, size);
        zb_norm(run, run->params->layer[layer][ZB_P_NORM1], x, p->b.n, m->D, u, NULL);
        zb_matmul_run(run->mm, &(zb_mm_args){.m = p->b.n,
                                             .n = m->D,
                                             .k = m->D,
                                             .a = u,
                                             .lda = m->D,
                                             .b = W,
                                             .ldb = m->D,
                                             .b_t = true,
                                             .c = mix,
                                             .ldc = m->D});
    }
    zb_layer_finish(run, layer, x, mix, y);
    zb_arena_pop(run->arena, mark);
}

static zb_status measure_piece(zb_measuring *m, const zb_candidate *c, const opened *with,
                               int layer, const piece *p, sums *s, zb_err *err) {
    zb_arena *at = zb_runner_arena(m->rt),
             *ac = with->runner ? zb_runner_arena(with->runner) : NULL;
    zb_mark mt = zb_arena_mark(at), mc = ac ? zb_arena_mark(ac) : mt;
    size_t size = (size_t)p->b.n * m->D;
    zb_status st = zb_runner_begin(m->rt, &p->b, err);
    if (st == ZB_OK && ac) st = zb_runner_begin(with->runner, &p->b, err);
    if (st == ZB_OK) {
        float *y = ZB_RAW_ARRAY(at, float, size), *mix = ZB_RAW_ARRAY(at, float, size);
        if (ac)
            zb_layer_forward(zb_runner_run(with->runner), layer, p->hidden[layer], y, mix, NULL);
        else
            probe_layer(m, p, layer, c->what == ZB_CANDIDATE_LINEAR ? m->linear[layer] : NULL, y,
                        mix);
        compare_mixers(m, p, layer, mix, s);
        for (int l = layer + 1; l < m->L; l++)
            zb_layer_forward(zb_runner_run(m->rt), l, y, y, NULL, NULL);
        judge(m, p, y, s);
    }
    if (ac) zb_arena_pop(ac, mc);
    zb_arena_pop(at, mt);
    return st;
}

/* ---- candidates ---- */

/* The best linear map in place of the entered layer's mixer (regression.h), on the text that
 * composed candidates are fitted to, weighted as they are. */
static zb_status solve_linear(const zb_calibration *c, double ridge, zb_matmul *mm, float *W,
                              zb_err *err) {
    zb_arena a = {0};
    zb_regression r;
    zb_regression_init(&r, c->D, c->D, c->piece[0].n, mm, &a);
    for (int p = 0; p < c->pieces; p++) {
        size_t at = (size_t)c->first[p];
        zb_regression_add(&r, c->piece[p].n, c->teacher_x + at * c->D, c->target + at * c->D,
                          c->weight + at);
    }
    zb_status s = zb_regression_solve(&r, ridge, false, W, NULL, &a, err);
    zb_arena_free(&a);
    return s;
}

static zb_status fit_linear(zb_measuring *m, zb_err *err) {
    const zb_compose_opts *o = m->o->compose;
    zb_tokenizer *t;
    zb_calibration *c = NULL;
    if (m->linear) return ZB_OK;
    float **map = zb_alloc_array(&m->arena, (size_t)m->L, sizeof *map);
    ZB_TRY(zb_model_tokenizer(&t, m->o->teacher, err));
    zb_calibration_opts how = {.text = o->calibration,
                               .tokens = o->calibration_tokens,
                               .length = o->calibration_length,
                               .seed = (uint64_t)o->seed};
    zb_matmul *mm = NULL;
    double ridge = o->ridge > 0 ? o->ridge : LINEAR_RIDGE;
    zb_status s = zb_calibration_new(&c, m->teacher, m->teacher, t, &how, err);
    if (s == ZB_OK) s = zb_matmul_new(&mm, ZB_PREC_F32, err);
    zb_tokenizer_close(t);
    for (int l = 0; l < m->L && s == ZB_OK; l++) {
        map[l] = ZB_NEW_ARRAY(&m->arena, float, (size_t)m->D * m->D);
        s = zb_calibration_enter(c, l, err);
        if (s == ZB_OK) s = solve_linear(c, ridge, mm, map[l], err);
        if (s == ZB_OK) s = zb_calibration_leave(c, false, err);
        if (s == ZB_OK && zb_interrupted())
            s = zb_fail(err, ZB_ERR_INTERRUPTED, "select: interrupted");
    }
    zb_calibration_free(c);
    zb_matmul_free(mm);
    if (s == ZB_OK) m->linear = map;
    return s;
}

bool zb_measuring_depends(const char *compose_option) {
    static const char *const left_out[] = {"teacher",
                                           "out",
                                           "default_kind",
                                           "selection",
                                           "kv_rank",
                                           "dtype",
                                           "calibration_precision",
                                           "calibration_inputs",
                                           "rope_dim",
                                           "window",
                                           "sinks",
                                           "kv_percent_max",
                                           "retrieval_heads",
                                           "retrieval_key_dim",
                                           "retrieval_value_dim"};
    for (size_t i = 0; i < sizeof left_out / sizeof left_out[0]; i++)
        if (!strcmp(compose_option, left_out[i])) return false;
    zb_str name = zb_str_from(compose_option);
    return !zb_str_ends(name, ZB_STR("_layers")) && !zb_str_ends(name, ZB_STR("_from"));
}

static json_t *compose_setup(const zb_compose_opts *c) {
    zb_compose_opts copy = *c; /* the JSON writer reads through non-const groups */
    zb_opt_group g[] = {{"", zb_compose_opt_table, &copy}, {0}};
    json_t *o = zb_opts_json(g), *v;
    const char *key;
    void *next;
    json_object_foreach_safe(o, next, key, v) {
        if (!zb_measuring_depends(key)) json_object_del(o, key);
    }
    zb_contents_add(o, NULL);
    return o;
}

static json_t *candidate_setup(const zb_measuring *m) {
    json_t *o =
        json_pack("{s:s,s:o}", "teacher", m->o->teacher, "compose", compose_setup(m->o->compose));
    zb_contents_add(o, NULL);
    return o;
}

/* Composes all layers of the candidate's kind into its folder, which appears when it is whole. */
static zb_status compose_candidate(const zb_measuring *m, const zb_candidate *c, const char *dir,
                                   zb_arena *a, zb_err *err) {
    zb_compose_opts o = *m->o->compose;
    const char *part = zb_asprintf(a, "%s.part", dir);
    zb_compose_all_of(&o, c);
    o.teacher = m->o->teacher;
    o.out = part;
    zb_info("select: composing %s", c->name);
    ZB_TRY(zb_dir_make(m->o->students, err));
    ZB_TRY(zb_dir_remove(part, err));
    zb_status s = zb_compose_run(&o, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "candidate %s", c->name);
    json_t *setup = candidate_setup(m);
    s = zb_json_write(zb_path_join(a, part, "candidate.json"), setup, err);
    json_decref(setup);
    return s == ZB_OK ? zb_path_rename(part, dir, err) : s;
}

/* Window and sinks as a table has them; 0: none. */
static int64_t window_of(int64_t window, int64_t sinks) {
    return window ? (window << 24) + sinks : 0;
}

/* An error, which names `where`, if a candidate without a donor has been made with another window
 * than composing would give it now, by its name or o. found: as zb_measures.common; 0: unknown. */
static zb_status check_window(const zb_compose_opts *o, const zb_candidate *c, int64_t found,
                              const char *where, zb_err *err) {
    if (c->what != ZB_CANDIDATE_KIND || c->from || !zb_kind_has_window(c->kind) || !found)
        return ZB_OK;
    int64_t wanted =
        window_of(c->size ? c->size : o->window, c->size && c->more >= 0 ? c->more : o->sinks);
    if (found == wanted) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG,
                   "%s: %s: made with a window of %d and %d sinks, composing takes %d and %d",
                   where, c->name, (int)(found >> 24), (int)(found & 0xffffff), (int)(wanted >> 24),
                   (int)(wanted & 0xffffff));
}

/* Whether a folder from an earlier run is what would be composed now. */
static zb_status check_composed(const zb_measuring *m, const zb_candidate *c, const char *dir,
                                zb_arena *a, zb_err *err) {
    json_t *was, *now;
    size_t stored;
    zb_config *k = ZB_NEW(a, zb_config);
    ZB_TRY(zb_json_read(zb_path_join(a, dir, "candidate.json"), 1 << 20, &was, err));
    now = candidate_setup(m);
    zb_status s = zb_setup_match(dir, was, now, err);
    json_decref(now);
    json_decref(was);
    ZB_TRY(s);
    ZB_TRY(zb_model_peek(dir, k, &stored, err));
    int64_t window = window_of(k->layer[0].window, k->layer[0].sinks);
    return check_window(m->o->compose, c, window, dir, err);
}

/* The candidate's folder as it would be composed now. */
static zb_status find_composed(const zb_measuring *m, const zb_candidate *c, const char *dir,
                               zb_arena *a, zb_err *err) {
    zb_err why;
    if (zb_dir_exists(dir)) {
        if (check_composed(m, c, dir, a, &why) == ZB_OK) return ZB_OK;
        ZB_TRY(zb_setup_stale(&why, m->o->renew, err));
        ZB_TRY(zb_dir_remove(dir, err));
    }
    return compose_candidate(m, c, dir, a, err);
}

static bool is_teachers(const zb_candidate *c) {
    return c->what == ZB_CANDIDATE_KIND && c->kind == ZB_ATTENTION && !c->from;
}

static zb_status check_donor(const zb_measuring *m, const zb_candidate *c, const zb_config *k,
                             zb_err *err) {
    const zb_config *t = zb_model_config(m->teacher);
    if (k->L != t->L || k->D != t->D || k->V != t->V)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the teacher's sizes", c->name);
    for (int l = 0; l < k->L; l++)
        if (k->layer[l].kind != c->kind)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: layer %d: expected %s, found %s", c->name, l,
                           zb_kind_name(c->kind), zb_kind_name(k->layer[l].kind));
    return ZB_OK;
}

/* Opens the candidate's model. Probes have none; plain attention is the teacher's. */
static zb_status open_candidate(const zb_measuring *m, const zb_candidate *c, opened *with,
                                zb_err *err) {
    *with = (opened){0};
    if (c->what != ZB_CANDIDATE_KIND) return ZB_OK;
    if (is_teachers(c)) {
        *with = (opened){m->teacher, m->rt};
        return ZB_OK;
    }
    zb_arena a = {0};
    const char *dir = c->from;
    zb_status s = ZB_OK;
    if (!dir) {
        char *name = zb_strdup(&a, c->name), *colon = strchr(name, ':');
        if (colon) *colon = '-';
        dir = zb_path_join(&a, m->o->students, name);
        s = find_composed(m, c, dir, &a, err);
    }
    if (s == ZB_OK) s = zb_model_open(&with->model, dir, ZB_MODEL_RUN, err);
    if (s == ZB_OK) s = check_donor(m, c, zb_model_config(with->model), err);
    if (s == ZB_OK) s = zb_runner_new(&with->runner, with->model, m->precision, err);
    zb_arena_free(&a);
    return s;
}

static void close_candidate(const zb_measuring *m, opened *with) {
    if (with->model == m->teacher) return;
    zb_runner_free(with->runner);
    zb_model_free(with->model);
    *with = (opened){0};
}

/* A donor may be trained on between two runs: the sum of its mixers' absolute weights tells. */
static double weights_of(zb_model *model) {
    zb_param_table *t = zb_model_params(model);
    double sum = 0;
    for (int i = 0; i < t->n; i++) {
        const zb_param *p = &t->item[i];
        if (p->role != ZB_ROLE_MIXER && p->role != ZB_ROLE_GATE) continue;
        zb_arena a = {0};
        float *w = ZB_RAW_ARRAY(&a, float, zb_param_count(p));
        zb_param_to_f32(p, 0, p->rows, w);
        for (int64_t k = 0; k < zb_param_count(p); k++) sum += fabs((double)w[k]);
        zb_arena_free(&a);
    }
    return sum;
}

/* The candidate's weights, where they may change. */
static void note_candidate(const zb_measuring *m, zb_measures *t, int index, const opened *with) {
    const zb_candidate *c = &t->candidate[index];
    if (!with->model) return;
    const zb_layer_config *k = &zb_model_config(with->model)->layer[0];
    if (k->window && m->o->length < 2 * (int64_t)k->window)
        zb_warn("%s: rows of %lld tokens hardly show what a window of %d misses", c->name,
                (long long)m->o->length, k->window);
    t->weights[index] = c->from ? weights_of(with->model) : 0;
}

/* Whether a donor is still what was measured; one that is gone cannot be asked. */
static zb_status check_weights(const zb_measures *t, int index, zb_err *err) {
    const zb_candidate *c = &t->candidate[index];
    bool any = false;
    for (int l = 0; l < t->layers; l++) any = any || t->row[index][l].done;
    if (!c->from || !any || !(zb_dir_exists(c->from) || zb_file_exists(c->from))) return ZB_OK;
    zb_model *donor;
    ZB_TRY(zb_model_open(&donor, c->from, ZB_MODEL_RUN, err));
    double weights = weights_of(donor);
    zb_model_free(donor);
    if (fabs(t->weights[index] - weights) <= 1e-7 * weights) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG,
                   "%s: %s has other weights than when its layers were measured", t->path, c->name);
}

zb_status zb_measuring_check(const zb_compose_opts *o, const zb_measures *t, int index,
                             zb_err *err) {
    ZB_TRY(check_window(o, &t->candidate[index], t->common[index][1], t->path, err));
    return check_weights(t, index, err);
}

/* As the table's file keeps it: a plan must not depend on whether a figure was read or measured. */
static double kept(double v) {
    char digits[40];
    snprintf(digits, sizeof digits, "%.9e", v);
    return zb_parse_f64(digits, &v) ? v : (double)NAN;
}

static zb_status measure_layer(zb_measuring *m, const zb_candidate *c, const opened *with, int l,
                               zb_measure *r, zb_err *err) {
    sums total = {0};
    for (int p = 0; p < m->pieces && !is_teachers(c); p++) {
        ZB_TRY(measure_piece(m, c, with, l, &m->piece[p], &total, err));
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "select: interrupted");
    }
    r->kl = kept(total.tokens ? total.kl / (double)total.tokens : 0);
    r->error = kept(total.power > 0 ? total.error / total.power : 0);
    r->recall = kept(total.answers ? total.recall / (double)total.answers : m->teacher_recall);
    r->done = true;
    return ZB_OK;
}

/* The model whose layers the candidate stands for. */
static zb_status configure(const zb_measuring *m, const zb_candidate *c, zb_config *k,
                           zb_err *err) {
    size_t stored;
    if (is_teachers(c)) {
        *k = *zb_model_config(m->teacher);
        return ZB_OK;
    }
    if (c->from) {
        ZB_TRY(zb_model_peek(c->from, k, &stored, err));
        return check_donor(m, c, k, err);
    }
    zb_compose_opts o = *m->o->compose;
    zb_compose_all_of(&o, c);
    zb_status s = zb_compose_config(&o, m->teacher, k, err);
    return s == ZB_OK ? s : zb_err_wrap(err, s, "candidate %s", c->name);
}

zb_status zb_measuring_sizes(const zb_measuring *m, zb_measures *t, int index, zb_err *err) {
    const zb_candidate *c = &t->candidate[index];
    zb_config k;
    if (c->what != ZB_CANDIDATE_KIND) return ZB_OK;
    ZB_TRY(configure(m, c, &k, err));
    const zb_layer_config *first = &k.layer[0];
    t->common[index][0] = c->kind == ZB_MLA ? first->d_rope : 0;
    t->common[index][1] = window_of(first->window, first->sinks);
    for (int l = 0; l < m->L; l++) {
        zb_measure *r = &t->row[index][l];
        if (r->done) continue;
        r->cache_bytes = (int64_t)sizeof(float) * zb_config_cache(&k, l);
        r->state_bytes =
            (int64_t)sizeof(float) * (zb_config_state(&k, l) + zb_config_window(&k, l));
    }
    return ZB_OK;
}

zb_status zb_measuring_fill(zb_measuring *m, zb_measures *t, int index, zb_err *err) {
    const zb_candidate *c = &t->candidate[index];
    int done = 0;
    for (int l = 0; l < m->L; l++) done += t->row[index][l].done;
    if (done == m->L) return ZB_OK;
    opened with = {0};
    zb_progress bar;
    zb_status s = c->what == ZB_CANDIDATE_LINEAR ? fit_linear(m, err) : ZB_OK;
    if (s == ZB_OK) s = open_candidate(m, c, &with, err);
    if (s == ZB_OK) note_candidate(m, t, index, &with);
    zb_progress_begin(&bar, c->name, "layers", done, m->L);
    for (int l = 0; l < m->L && s == ZB_OK; l++) {
        if (t->row[index][l].done) continue;
        s = measure_layer(m, c, &with, l, &t->row[index][l], err);
        if (s == ZB_OK) s = zb_measures_write(t, err);
        zb_progress_update(&bar, ++done, NULL);
    }
    if (s == ZB_OK) zb_progress_end(&bar, done, NULL);
    close_candidate(m, &with);
    return s;
}

/* ---- plans ---- */

static zb_status plan_piece(zb_measuring *m, const piece *p, const int *choice, const opened *with,
                            int n, sums *s, zb_err *err) {
    zb_arena *at = zb_runner_arena(m->rt);
    zb_mark mt = zb_arena_mark(at), mark[ZB_CHOICES_MAX];
    zb_status st = zb_runner_begin(m->rt, &p->b, err);
    for (int i = 0; i < n; i++) {
        if (!with[i].runner) continue;
        mark[i] = zb_arena_mark(zb_runner_arena(with[i].runner));
        if (st == ZB_OK) st = zb_runner_begin(with[i].runner, &p->b, err);
    }
    if (st == ZB_OK) {
        size_t size = (size_t)p->b.n * m->D;
        float *x = memcpy(ZB_RAW_ARRAY(at, float, size), p->hidden[0], size * sizeof *x);
        for (int l = 0; l < m->L; l++)
            zb_layer_forward(zb_runner_run(with[choice[l]].runner), l, x, x, NULL, NULL);
        judge(m, p, x, s);
    }
    for (int i = 0; i < n; i++)
        if (with[i].runner) zb_arena_pop(zb_runner_arena(with[i].runner), mark[i]);
    zb_arena_pop(at, mt);
    return st;
}

zb_status zb_measuring_plan(zb_measuring *m, const zb_measures *t, const int *choice, double *kl,
                            double *recall, zb_err *err) {
    opened with[ZB_CHOICES_MAX] = {0};
    zb_status s = ZB_OK;
    sums total = {0};
    for (int l = 0; l < m->L && s == ZB_OK; l++) {
        ZB_ASSERT(t->candidate[choice[l]].what == ZB_CANDIDATE_KIND);
        opened *w = &with[choice[l]];
        if (!w->runner) s = open_candidate(m, &t->candidate[choice[l]], w, err);
    }
    for (int p = 0; p < m->pieces && s == ZB_OK; p++)
        s = plan_piece(m, &m->piece[p], choice, with, t->n, &total, err);
    for (int i = 0; i < t->n; i++) close_candidate(m, &with[i]);
    *kl = total.tokens ? total.kl / (double)total.tokens : 0;
    *recall = total.answers ? total.recall / (double)total.answers : 0;
    return s;
}

/* ---- opening ---- */

zb_status zb_measuring_open(zb_model **out, const char *path, zb_err *err) {
    enum { SHARE = 4 };
    zb_config c;
    zb_param_table t;
    zb_arena a = {0};
    size_t stored;
    ZB_TRY(zb_model_peek(path, &c, &stored, err));
    zb_params_declare(&t, &c, &a);
    bool wide = (size_t)zb_params_total(&t) * sizeof(float) <= zb_memory_total() / SHARE;
    zb_arena_free(&a);
    return zb_model_open(out, path, wide ? ZB_MODEL_TRAIN : ZB_MODEL_RUN, err);
}

json_t *zb_measuring_setup(const zb_measuring_opts *o) {
    json_t *s = json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:o}", "teacher", o->teacher, "text", o->text,
                          "tokens", (json_int_t)o->tokens, "sequence_length", (json_int_t)o->length,
                          "recall_rows", (json_int_t)o->recall_rows, "seed", (json_int_t)o->seed,
                          "compose", compose_setup(o->compose));
    zb_contents_add(s, NULL);
    return s;
}

static zb_status open_all(zb_measuring *m, zb_err *err) {
    const zb_measuring_opts *o = m->o;
    zb_tokenizer *t;
    ZB_TRY(zb_precision_choose(o->precision, &m->precision, err));
    ZB_TRY(zb_measuring_open(&m->teacher, o->teacher, err));
    ZB_TRY(zb_runner_new(&m->rt, m->teacher, m->precision, err));
    m->L = zb_model_config(m->teacher)->L;
    m->D = zb_model_config(m->teacher)->D;
    m->V = zb_model_config(m->teacher)->V;
    ZB_TRY(zb_model_tokenizer(&t, o->teacher, err));
    zb_status s = read_pieces(m, t, err);
    zb_tokenizer_close(t);
    ZB_TRY(s);
    sums own = {0};
    int text = 0;
    for (int p = 0; p < m->pieces; p++) {
        piece *q = &m->piece[p];
        ZB_TRY(pass_teacher(m, q, err));
        text += q->answers == 0;
        if (q->answers)
            ZB_TRY(measure_piece(m, &(zb_candidate){0}, &(opened){m->teacher, m->rt}, m->L - 1, q,
                                 &own, err));
    }
    m->teacher_ce /= text;
    m->teacher_recall = own.answers ? own.recall / (double)own.answers : 0;
    return ZB_OK;
}

zb_status zb_measuring_new(zb_measuring **out, const zb_measuring_opts *o, zb_err *err) {
    zb_arena a = {0};
    zb_measuring *m = ZB_NEW(&a, zb_measuring);
    m->arena = a; /* it lives in it */
    m->o = o;
    zb_status s = open_all(m, err);
    if (s != ZB_OK) {
        zb_measuring_free(m);
        m = NULL;
    }
    *out = m;
    return s;
}

void zb_measuring_free(zb_measuring *m) {
    if (!m) return;
    zb_runner_free(m->rt);
    zb_model_free(m->teacher);
    zb_arena a = m->arena;
    zb_arena_free(&a);
}

zb_status zb_measuring_describe(const zb_measuring *m, zb_measures *t, zb_err *err) {
    const zb_config *c = zb_model_config(m->teacher);
    int64_t cache = 0;
    for (int l = 0; l < m->L; l++) cache += (int64_t)sizeof(float) * zb_config_cache(c, l);
    bool fresh = t->n == 0;
    if (!fresh && (t->layers != m->L || t->teacher_cache_bytes != cache))
        return zb_fail(err, ZB_ERR_CONFIG, "%s: measured with a teacher of %d layers, found %d",
                       t->path, t->layers, m->L);
    /* sums differ in their last digits between machines, not more */
    if (!fresh && fabs(t->teacher_ce - m->teacher_ce) > 1e-3 * m->teacher_ce)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: measured with a teacher or text of cross-entropy %.6f, found %.6f",
                       t->path, t->teacher_ce, m->teacher_ce);
    if (!fresh) return ZB_OK;
    t->layers = m->L;
    t->teacher_cache_bytes = cache;
    t->teacher_ce = kept(m->teacher_ce);
    t->teacher_recall = kept(m->teacher_recall);
    return ZB_OK;
}
