/* calibrate.c - layer by layer passes over calibration text, and the output map's regression
 * (contract in calibrate.h).
 *
 * The features in front of an output map are read without knowing the mixer: the map is replaced by
 * rows of the identity, D of them at a time, and the mixer run. */
#include "compose/calibrate.h"

#include "tensor/linalg.h"

#include <string.h>

enum { PIECE_TOKENS = 4096 };

struct zb_calibration_state {
    zb_arena arena;
    zb_corpus corpus;
    zb_packer packer;
    bool own;
    float *teacher_h, *next_h, *student_h; /* [n, D]; next_h: the teacher's behind the layer */
    float *x, *teacher_x, *target, *weight;
};

static void plan_pieces(zb_calibration *c, int rows, int length) {
    struct zb_calibration_state *s = c->state;
    int per = PIECE_TOKENS / length > 0 ? PIECE_TOKENS / length : 1;
    c->pieces = (rows + per - 1) / per;
    zb_batch *piece = ZB_NEW_ARRAY(&s->arena, zb_batch, c->pieces);
    int *first = ZB_NEW_ARRAY(&s->arena, int, c->pieces);
    for (int p = 0; p < c->pieces; p++) {
        int n = rows - p * per < per ? rows - p * per : per;
        piece[p] = zb_packer_batch(&s->packer, (int64_t)p * per, n, &s->arena);
        first[p] = p * per * length;
    }
    c->piece = piece;
    c->first = first;
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
    ZB_TRY(zb_corpus_read(&s->corpus, o->text, t, 0, &s->arena, err));
    ZB_TRY(zb_packer_init(&s->packer, &s->corpus, (int)o->length, true, o->seed, &s->arena, err));
    int64_t rows = o->tokens / o->length;
    if (rows < 1 || rows > s->packer.rows)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: calibration: expected 1 to %lld rows of %lld tokens, found %lld",
                       o->text, (long long)s->packer.rows, (long long)o->length, (long long)rows);
    plan_pieces(c, (int)rows, (int)o->length);
    size_t size = (size_t)c->n * c->D;
    s->own = o->own_inputs;
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
    zb_arena a = c->state->arena;
    zb_arena_free(&a);
}

static void normalise(zb_runner *r, int layer, const float *h, int n, int D, float *x) {
    zb_run *run = zb_runner_run(r);
    zb_norm(run, run->params->layer[layer][ZB_P_NORM1], h, n, D, x, NULL);
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
        for (int i = 0; i < n; i++) {
            const float *h = s->teacher_h + at + (size_t)i * c->D,
                        *m = s->target + at + (size_t)i * c->D;
            double sum = 0;
            for (int k = 0; k < c->D; k++) {
                double v = (double)h[k] + (double)m[k];
                sum += v * v;
            }
            s->weight[i0 + i] = (float)(c->D / (sum + 1e-20));
        }
        if (!s->own) continue;
        ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
        normalise(c->student, layer, s->student_h + at, n, c->D, s->x + at);
    }
    return ZB_OK;
}

zb_status zb_calibration_leave(zb_calibration *c, zb_err *err) {
    struct zb_calibration_state *s = c->state;
    for (int p = 0; s->own && p < c->pieces; p++) {
        float *h = s->student_h + (size_t)c->first[p] * c->D;
        ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
        zb_layer_forward(zb_runner_run(c->student), c->layer, h, h, NULL, NULL);
    }
    float *past = s->teacher_h;
    s->teacher_h = s->next_h;
    s->next_h = past;
    return ZB_OK;
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

/* Features [n, K] of a piece as doubles, through the identity in place of the output map, whose
 * weights are only set aside. */
static void read_features(zb_calibration *c, int piece, zb_param *out, double *f,
                          zb_arena *scratch) {
    zb_run *run = zb_runner_run(c->student);
    const zb_mixer *mixer = zb_mixer_of(run->config->layer[c->layer].kind);
    int n = c->piece[piece].n, D = c->D, K = out->cols;
    const float *x = c->x + (size_t)c->first[piece] * D;
    float *y = ZB_NEW_ARRAY(scratch, float, (size_t)n *D),
          *identity = ZB_NEW_ARRAY(scratch, float, (size_t)D *K), *weights = out->w;
    out->data = out->w = identity;
    for (int k0 = 0; k0 < K; k0 += D) {
        int some = K - k0 < D ? K - k0 : D;
        memset(identity, 0, (size_t)D * K * sizeof(float));
        for (int k = 0; k < some; k++) identity[(size_t)k * K + k0 + k] = 1;
        mixer->forward(run, c->layer, x, y, NULL);
        for (int i = 0; i < n; i++)
            for (int k = 0; k < some; k++) f[(size_t)i * K + k0 + k] = (double)y[(size_t)i * D + k];
    }
    out->data = out->w = weights;
}

zb_status zb_calibration_head_power(zb_calibration *c, zb_param *out, int dh, double eps,
                                    double *power, zb_err *err) {
    zb_arena a = {0};
    int K = out->cols, n = c->piece[0].n;
    double *f = ZB_NEW_ARRAY(&a, double, (size_t)n *K);
    zb_status s = zb_runner_begin(c->student, &c->piece[0], err);
    if (s == ZB_OK) {
        read_features(c, 0, out, f, &a);
        for (int h = 0; h < K / dh; h++) {
            power[h] = 0;
            for (int i = 0; i < n; i++) {
                double m = 0;
                for (int k = h * dh; k < (h + 1) * dh; k++)
                    m += f[(size_t)i * K + k] * f[(size_t)i * K + k] / dh;
                power[h] += m < 1 ? eps * m / (1 - m) / n : 1e-3;
            }
        }
    }
    zb_arena_free(&a);
    return s;
}

typedef struct sums {
    double *ff, *fm; /* Σ w f fᵀ [K, K], Σ w f mᵀ [K, D] */
    double mm;       /* Σ w ‖m‖² */
} sums;

static zb_status gather(zb_calibration *c, zb_param *out, sums *s, zb_arena *a, zb_err *err) {
    int D = c->D, K = out->cols;
    s->ff = ZB_NEW_ARRAY(a, double, (size_t)K *K);
    s->fm = ZB_NEW_ARRAY(a, double, (size_t)K *D);
    for (int p = 0; p < c->pieces; p++) {
        zb_mark mark = zb_arena_mark(a);
        int n = c->piece[p].n;
        const float *m = c->target + (size_t)c->first[p] * D, *w = c->weight + c->first[p];
        double *f = ZB_NEW_ARRAY(a, double, (size_t)n *K),
               *wf = ZB_NEW_ARRAY(a, double, (size_t)n *K);
        ZB_TRY(zb_runner_begin(c->student, &c->piece[p], err));
        read_features(c, p, out, f, a);
        for (int i = 0; i < n; i++) {
            for (int k = 0; k < K; k++) wf[(size_t)i * K + k] = f[(size_t)i * K + k] * (double)w[i];
            for (int k = 0; k < D; k++) {
                double v = (double)m[(size_t)i * D + k];
                s->mm += (double)w[i] * v * v;
            }
        }
        add_product(n, K, K, wf, f, s->ff, a);
        add_product(n, K, D, wf, zb_linalg_widen(a, m, (int64_t)n * D), s->fm, a);
        zb_arena_pop(a, mark);
    }
    return ZB_OK;
}

static zb_status solve(zb_calibration *c, zb_param *out, const float *W0, double ridge,
                       double *error, zb_arena *a, zb_err *err) {
    int D = c->D, K = out->cols;
    sums s = {0};
    ZB_TRY(gather(c, out, &s, a, err));
    double lambda = 0;
    for (int k = 0; k < K; k++) lambda += ridge * s.ff[(size_t)k * K + k] / K;
    double *x = ZB_NEW_ARRAY(a, double, (size_t)K *D);
    for (int k = 0; k < K; k++)
        for (int d = 0; d < D; d++)
            x[(size_t)k * D + d] =
                s.fm[(size_t)k * D + d] + lambda * (W0 ? (double)W0[(size_t)d * K + k] : 0);
    ZB_TRY(zb_linalg_solve_spd(K, D, s.ff, lambda, x, a, err));
    double *fx = ZB_NEW_ARRAY(a, double, (size_t)K *D), e = s.mm;
    zb_linalg_matmul(&(zb_dmm_args){.m = K, .n = D, .k = K, .a = s.ff, .b = x, .c = fx});
    for (size_t i = 0; i < (size_t)K * D; i++) e += x[i] * (fx[i] - 2 * s.fm[i]);
    if (error) *error = s.mm > 0 ? e / s.mm : 0;
    for (int d = 0; d < D; d++)
        for (int k = 0; k < K; k++) out->w[(size_t)d * K + k] = (float)x[(size_t)k * D + d];
    return ZB_OK;
}

zb_status zb_calibration_refit(zb_calibration *c, zb_param *out, double ridge, bool toward,
                               double *error, zb_err *err) {
    ZB_ASSERT(out && out->w);
    zb_arena a = {0};
    zb_status s = solve(c, out, toward ? out->w : NULL, ridge, error, &a, err);
    zb_arena_free(&a);
    return s;
}
