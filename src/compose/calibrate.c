/* calibrate.c - layer by layer passes over calibration text, and regressions on the way (contract
 * in calibrate.h).
 *
 * What feeds a map is read through the run's observer; the mixer's features are kept from its
 * regression until the layer is left, so that the mixer runs once. The MLP behind a mixer that is
 * not quite the teacher's sees other inputs than it was trained for: its down map is solved anew,
 * towards the teacher's. */
#include "compose/calibrate.h"

#include "base/log.h"
#include "compose/regression.h"
#include "kernels/kernels.h"
#include "tensor/linalg.h"

#include <limits.h>
#include <string.h>

/* TEXT_SHARE: tokens that are read for each one used, so that the order of documents matters. */
enum { PIECE_TOKENS = 4096, TEXT_SHARE = 4 };
static const double MLP_RIDGE = 0.3, RIDGES[] = {3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1};
enum { N_RIDGES = sizeof RIDGES / sizeof RIDGES[0] };

struct zb_calibration_state {
    zb_arena arena;
    zb_corpus corpus;
    zb_packer packer;
    bool own, choose_mlp_ridge;
    float *teacher_h, *next_h, *student_h; /* [n, D]; next_h: the teacher's behind the layer */
    float *x, *teacher_x, *target, *weight;
    zb_matmul *mm;
    zb_arena kept;         /* per layer */
    const zb_param *out;   /* map of the features, NULL: none kept */
    const float *features; /* [n, out->cols] */
};

/* Batches of `per` rows over all rows; their number. */
static int cut(zb_calibration *c, int rows, int length, int per, const zb_batch **out,
               const int **start) {
    struct zb_calibration_state *s = c->state;
    int pieces = rows / per + (rows % per > 0);
    zb_batch *piece = ZB_NEW_ARRAY(&s->arena, zb_batch, pieces);
    int *first = ZB_NEW_ARRAY(&s->arena, int, pieces);
    for (int p = 0; p < pieces; p++) {
        int n = rows - p * per < per ? rows - p * per : per;
        piece[p] = zb_packer_batch(&s->packer, (int64_t)p * per, n, &s->arena);
        first[p] = p * per * length;
    }
    *out = piece;
    *start = first;
    return pieces;
}

static int rows_of(int64_t tokens, int length) {
    int64_t rows = tokens / length;
    return rows < 1 ? 1 : rows > INT_MAX ? INT_MAX : (int)rows;
}

static void plan_pieces(zb_calibration *c, int rows, int length, int64_t batch) {
    c->pieces = cut(c, rows, length, rows_of(PIECE_TOKENS, length), &c->piece, &c->first);
    c->batches = cut(c, rows, length, rows_of(batch, length), &c->batch, &c->batch_first);
    c->n = rows * length;
}

static zb_status embed(zb_calibration *c, zb_err *err) {
    struct zb_calibration_state *s = c->state;
    for (int p = 0; p < c->pieces; p++) {
        size_t at = (size_t)c->first[p] * c->D;
        ZB_TRY(zb_runner_begin(c->teacher, &c->piece[p], err));
        zb_runner_embed(c->teacher, s->teacher_h + at);
        if (!s->own) continue;
        ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
        zb_runner_embed(c->student, s->student_h + at);
    }
    return ZB_OK;
}

static zb_status open_all(zb_calibration *c, zb_model *teacher, zb_model *student,
                          const zb_tokenizer *t, const zb_calibration_opts *o, zb_err *err) {
    struct zb_calibration_state *s = c->state;
    int64_t rows = o->tokens / o->length;
    if (rows < 1)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "calibration: expected at least one row of %lld tokens, found %lld tokens",
                       (long long)o->length, (long long)o->tokens);
    ZB_TRY(zb_corpus_read(&s->corpus, o->text, t, zb_model_config(teacher)->V,
                          TEXT_SHARE * o->tokens, &s->arena, err));
    ZB_TRY(zb_packer_init(&s->packer, &s->corpus, (int)o->length, true, o->seed, &s->arena, err));
    if (rows > s->packer.rows)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: calibration: expected 1 to %lld rows of %lld tokens, found %lld",
                       o->text, (long long)s->packer.rows, (long long)o->length, (long long)rows);
    plan_pieces(c, (int)rows, (int)o->length, o->batch);
    size_t size = (size_t)c->n * c->D;
    s->own = o->own_inputs;
    s->choose_mlp_ridge = o->choose_mlp_ridge;
    s->teacher_h = ZB_NEW_ARRAY(&s->arena, float, size);
    s->next_h = ZB_NEW_ARRAY(&s->arena, float, size);
    s->teacher_x = ZB_NEW_ARRAY(&s->arena, float, size);
    s->target = ZB_NEW_ARRAY(&s->arena, float, size);
    s->weight = ZB_NEW_ARRAY(&s->arena, float, c->n);
    s->student_h = s->own ? ZB_NEW_ARRAY(&s->arena, float, size) : s->teacher_h;
    s->x = s->own ? ZB_NEW_ARRAY(&s->arena, float, size) : s->teacher_x;
    c->x = s->x;
    c->teacher_x = s->teacher_x;
    c->target = s->target;
    c->weight = s->weight;
    ZB_TRY(zb_matmul_new(&s->mm, ZB_PREC_F32, err));
    ZB_TRY(zb_runner_new(&c->teacher, teacher, ZB_PREC_F32, err));
    ZB_TRY(zb_runner_new(&c->student, student, ZB_PREC_F32, err));
    return embed(c, err);
}

zb_status zb_calibration_new(zb_calibration **out, zb_model *teacher, zb_model *student,
                             const zb_tokenizer *t, const zb_calibration_opts *o, zb_err *err) {
    zb_arena a = {0};
    struct zb_calibration_state *s = ZB_NEW(&a, struct zb_calibration_state);
    zb_calibration *c = ZB_NEW(&a, zb_calibration);
    s->arena = a; /* both live in it */
    c->state = s;
    c->D = zb_model_config(teacher)->D;
    c->layer = -1;
    zb_status st = open_all(c, teacher, student, t, o, err);
    if (st != ZB_OK) {
        zb_calibration_free(c);
        c = NULL;
    }
    *out = c;
    return st;
}

void zb_calibration_free(zb_calibration *c) {
    if (!c) return;
    zb_runner_free(c->teacher);
    zb_runner_free(c->student);
    zb_matmul_free(c->state->mm);
    zb_arena_free(&c->state->kept);
    zb_arena a = c->state->arena;
    zb_arena_free(&a);
}

static void normalise(zb_runner *r, int layer, const float *h, int n, int D, float *x) {
    zb_run *run = zb_runner_run(r);
    zb_norm(run, run->params->layer[layer][ZB_P_NORM1], h, n, D, x, NULL);
}

/* Of a + b, never 0. */
static float mean_square(int D, const float *a, const float *b) {
    double sum = 0;
    for (int k = 0; k < D; k++) {
        double v = (double)a[k] + (double)b[k];
        sum += v * v;
    }
    return (float)(sum / D + 1e-20);
}

zb_status zb_calibration_enter(zb_calibration *c, int layer, zb_err *err) {
    struct zb_calibration_state *s = c->state;
    ZB_ASSERT(layer == c->layer + 1);
    c->layer = layer;
    for (int p = 0; p < c->pieces; p++) {
        int n = c->piece[p].n, i0 = c->first[p];
        size_t at = (size_t)i0 * c->D;
        ZB_TRY(zb_runner_begin(c->teacher, &c->piece[p], err));
        normalise(c->teacher, layer, s->teacher_h + at, n, c->D, s->teacher_x + at);
        zb_layer_forward(zb_runner_run(c->teacher), layer, s->teacher_h + at, s->next_h + at,
                         s->target + at, NULL);
        for (int i = 0; i < n; i++)
            s->weight[i0 + i] = 1 / mean_square(c->D, s->teacher_h + at + (size_t)i * c->D,
                                                s->target + at + (size_t)i * c->D);
        if (!s->own) continue;
        ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
        normalise(c->student, layer, s->student_h + at, n, c->D, s->x + at);
    }
    return ZB_OK;
}

void zb_calibration_touch(zb_calibration *c) {
    zb_arena_free(&c->state->kept);
    c->state->out = NULL;
}

/* Features of `out` are copied as they pass. */
typedef struct watcher {
    const zb_param *out;
    float *to;
} watcher;

static void watch_map(void *observer, const zb_param *w, const float *x, int n) {
    watcher *k = observer;
    if (w == k->out) memcpy(k->to, x, (size_t)n * w->cols * sizeof(float));
}

/* Runs the student's mixer over a piece: output m [n, D], and what feeds `out` (NULL: none). */
static zb_status mix(zb_calibration *c, int p, const zb_param *out, float *features, float *m,
                     zb_err *err) {
    ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
    zb_run *run = zb_runner_run(c->student);
    watcher k = {out, features};
    run->observe = out ? watch_map : NULL;
    run->observer = &k;
    zb_mixer_of(run->config->layer[c->layer].kind)
        ->forward(run, c->layer, c->x + (size_t)c->first[p] * c->D, m, NULL);
    run->observe = NULL;
    return ZB_OK;
}

/* h [n, D] += the student's mixer output on a piece; act [n, F]: what then feeds the down map. */
static zb_status through_mixer(zb_calibration *c, int p, float *h, float *act, zb_err *err) {
    struct zb_calibration_state *s = c->state;
    zb_run *run = zb_runner_run(c->student);
    zb_param **w = run->params->layer[c->layer];
    const zb_kernels *kn = zb_kernels_get();
    int n = c->piece[p].n, F = run->config->F;
    ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
    zb_mark mark = zb_arena_mark(run->arena);
    float *m = ZB_RAW_ARRAY(run->arena, float, (size_t)n * c->D),
          *up = ZB_RAW_ARRAY(run->arena, float, (size_t)n *F);
    if (s->out)
        zb_linear(run, s->out, NULL, s->features + (size_t)c->first[p] * s->out->cols, n, m);
    else
        ZB_TRY(mix(c, p, NULL, NULL, m, err));
    for (size_t i = 0; i < (size_t)n * c->D; i++) h[i] += m[i];
    zb_norm(run, w[ZB_P_NORM2], h, n, c->D, m, NULL);
    zb_linear_many(
        run, (zb_linear_map[]){{w[ZB_P_GATE], w[ZB_P_GATE_B], act}, {w[ZB_P_UP], w[ZB_P_UP_B], up}},
        2, m, n);
#pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++)
        kn->silu_mul(F, act + (size_t)i * F, up + (size_t)i * F, act + (size_t)i * F);
    zb_arena_pop(run->arena, mark);
    return ZB_OK;
}

/* A piece's tokens to both folds. */
static void add_halves(zb_regression *r, int n, const float *f, const float *m, const float *w) {
    int h = n / 2;
    zb_regression_add(r, h, f, m, w);
    zb_regression_add(r, n - h, f + (size_t)h * r->K, m + (size_t)h * r->D, w + h);
}

static zb_status refit_mlp(zb_calibration *c, const float *act, zb_err *err) {
    struct zb_calibration_state *s = c->state;
    zb_param **w = zb_runner_run(c->student)->params->layer[c->layer];
    zb_arena a = {0};
    zb_regression r;
    int most = c->piece[0].n, F = w[ZB_P_DOWN]->cols, D = c->D;
    const float *bias = w[ZB_P_DOWN_B] ? w[ZB_P_DOWN_B]->w : NULL;
    double error = 0;
    zb_regression_init(&r, F, D, most, s->mm, &a);
    float *goal = ZB_RAW_ARRAY(&a, float, (size_t)most *D);
    for (int p = 0; p < c->pieces; p++) {
        int n = c->piece[p].n;
        size_t at = (size_t)c->first[p] * D;
        for (size_t i = 0; i < (size_t)n * D; i++) /* the teacher's MLP output */
            goal[i] = s->next_h[at + i] - s->teacher_h[at + i] - s->target[at + i] -
                      (bias ? bias[i % (size_t)D] : 0);
        const float *f = act + (size_t)c->first[p] * F, *weight = s->weight + c->first[p];
        if (s->choose_mlp_ridge)
            add_halves(&r, n, f, goal, weight);
        else
            zb_regression_add(&r, n, f, goal, weight);
    }
    double ridge = MLP_RIDGE;
    zb_status st = ZB_OK;
    if (s->choose_mlp_ridge)
        st = zb_regression_choose(&r, RIDGES, N_RIDGES, w[ZB_P_DOWN]->w, &ridge, &a, err);
    if (st == ZB_OK) st = zb_regression_solve(&r, ridge, true, w[ZB_P_DOWN]->w, &error, &a, err);
    zb_arena_free(&a);
    zb_debug("calibration: layer %d: MLP's relative error %.4f", c->layer, error);
    return st;
}

/* The student's states move behind the layer. */
static zb_status pass_student(zb_calibration *c, bool solve_mlp, zb_err *err) {
    struct zb_calibration_state *s = c->state;
    zb_param **w = zb_runner_run(c->student)->params->layer[c->layer];
    size_t D = (size_t)c->D, F = (size_t)w[ZB_P_DOWN]->cols;
    float *act = ZB_RAW_ARRAY(&s->kept, float, (size_t)c->n *F);
    for (int p = 0; p < c->pieces; p++)
        ZB_TRY(through_mixer(c, p, s->student_h + (size_t)c->first[p] * D,
                             act + (size_t)c->first[p] * F, err));
    if (solve_mlp) ZB_TRY(refit_mlp(c, act, err));
    for (int p = 0; p < c->pieces; p++) {
        int n = c->piece[p].n;
        float *h = s->student_h + (size_t)c->first[p] * D;
        ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
        zb_run *run = zb_runner_run(c->student);
        zb_mark mark = zb_arena_mark(run->arena);
        float *y = ZB_RAW_ARRAY(run->arena, float, (size_t)n *D);
        zb_linear(run, w[ZB_P_DOWN], w[ZB_P_DOWN_B], act + (size_t)c->first[p] * F, n, y);
        for (size_t i = 0; i < (size_t)n * D; i++) h[i] += y[i];
        zb_arena_pop(run->arena, mark);
    }
    return ZB_OK;
}

zb_status zb_calibration_leave(zb_calibration *c, bool refit, zb_err *err) {
    struct zb_calibration_state *s = c->state;
    zb_status st = s->own ? pass_student(c, refit, err) : ZB_OK;
    zb_arena_free(&s->kept);
    s->out = NULL;
    float *past = s->teacher_h;
    s->teacher_h = s->next_h;
    s->next_h = past;
    return st;
}

/* sum [m, k] += Aᵀ B over n rows; A [n, m], B [n, k]. */
static void add_product(int n, int m, int k, const double *a, const double *b, double *sum,
                        zb_arena *scratch) {
    zb_mark mark = zb_arena_mark(scratch);
    double *part = ZB_NEW_ARRAY(scratch, double, (size_t)m *k);
    zb_linalg_matmul(
        &(zb_dmm_args){.m = m, .n = k, .k = n, .a = a, .b = b, .a_t = true, .c = part});
    for (size_t i = 0; i < (size_t)m * k; i++) sum[i] += part[i];
    zb_arena_pop(scratch, mark);
}

void zb_calibration_moment(const zb_calibration *c, const float *x, double *C, zb_arena *scratch) {
    size_t size = (size_t)c->D * c->D;
    memset(C, 0, size * sizeof(double));
    for (int p = 0; p < c->pieces; p++) {
        zb_mark mark = zb_arena_mark(scratch);
        int n = c->piece[p].n;
        const double *wide =
            zb_linalg_widen(scratch, x + (size_t)c->first[p] * c->D, (int64_t)n * c->D);
        add_product(n, c->D, c->D, wide, wide, C, scratch);
        zb_arena_pop(scratch, mark);
    }
    for (size_t i = 0; i < size; i++) C[i] /= c->n;
}

zb_status zb_calibration_head_power(zb_calibration *c, zb_param *out, int dh, double eps,
                                    double *power, zb_err *err) {
    zb_arena a = {0};
    int K = out->cols, n = c->piece[0].n;
    float *f = ZB_RAW_ARRAY(&a, float, (size_t)n *K),
          *m = ZB_RAW_ARRAY(&a, float, (size_t)n * c->D);
    zb_status s = mix(c, 0, out, f, m, err);
    for (int h = 0; s == ZB_OK && h < K / dh; h++) {
        power[h] = 0;
        for (int i = 0; i < n; i++) {
            double y = 0;
            for (int k = h * dh; k < (h + 1) * dh; k++) {
                double v = (double)f[(size_t)i * K + k];
                y += v * v / dh;
            }
            power[h] += y < 1 ? eps * y / (1 - y) / n : 1e-3;
        }
    }
    zb_arena_free(&a);
    return s;
}

zb_status zb_calibration_refit(zb_calibration *c, zb_param *out, int block, double ridge,
                               double *error, zb_err *err) {
    ZB_ASSERT(out && out->w);
    struct zb_calibration_state *s = c->state;
    zb_arena a = {0};
    zb_calibration_touch(c);
    float *f = ZB_RAW_ARRAY(&s->kept, float, (size_t)c->n * out->cols),
          *m = ZB_RAW_ARRAY(&a, float, (size_t)c->piece[0].n * c->D);
    zb_regression r;
    zb_regression_init(&r, out->cols, c->D, c->piece[0].n, s->mm, &a);
    zb_status st = ZB_OK;
    for (int p = 0; st == ZB_OK && p < c->pieces; p++) {
        size_t at = (size_t)c->first[p];
        st = mix(c, p, out, f + at * out->cols, m, err);
        if (st == ZB_OK)
            add_halves(&r, c->piece[p].n, f + at * out->cols, c->target + at * c->D,
                       c->weight + at);
    }
    if (st == ZB_OK && block) st = zb_regression_scale(&r, block, out->w, &a, err);
    if (st == ZB_OK && ridge == 0)
        st = zb_regression_choose(&r, RIDGES, N_RIDGES, out->w, &ridge, &a, err);
    if (st == ZB_OK) st = zb_regression_solve(&r, ridge, true, out->w, error, &a, err);
    s->out = out;
    s->features = f;
    zb_arena_free(&a);
    return st;
}
