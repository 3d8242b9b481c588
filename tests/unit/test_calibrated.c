/* test_calibrated.c - starts that look at data: exact where they can be, and honest about what they
 * lose. */
#include "base/rng.h"
#include "compose/calibrate.h"
#include "compose/compose.h"
#include "compose/fit.h"
#include "compose/mla_calibrated.h"
#include "compose/regression.h"
#include "model/rope.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "text_folder.h"

static zb_arena arena;
static zb_err err;

static int open_folder(void **state) {
    (void)state;
    return text_folder_open("calibrated");
}

static int remove_folder(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return text_folder_remove();
}

static float *normal(int n, double scale, uint64_t seed) {
    float *x = ZB_NEW_ARRAY(&arena, float, n);
    for (int i = 0; i < n; i++)
        x[i] = (float)(scale * zb_rng_normal(seed, ZB_RNG_TEST, (uint64_t)i));
    return x;
}

/* One layer: sizes, the teacher's matrices, inputs and their moment. */
enum { D = 40, DH = 16, H = 6, N = 300 };

typedef struct layer {
    zb_mla_paper_dims d;
    zb_mla_paper_in w;
    float *x; /* [N, D] */
    double moment[D * D], frequency[DH / 2];
    zb_mla_paper_out out;
} layer;

static layer *make_layer(int G, int rank, int nope, int rope) {
    layer *l = ZB_NEW(&arena, layer);
    l->d = (zb_mla_paper_dims){.hidden = D,
                               .heads = H,
                               .kv_heads = G,
                               .head_dim = DH,
                               .kv_rank = rank,
                               .nope_dim = nope,
                               .rope_dim = rope,
                               .v_dim = DH};
    l->w = (zb_mla_paper_in){normal(H * DH * D, 0.2, 1), normal(G * DH * D, 0.2, 2),
                             normal(G * DH * D, 0.2, 3), normal(D * H * DH, 0.2, 4)};
    l->x = normal(N * D, 1, 5);
    for (int i = 0; i < N * D; i++) l->x[i] *= (float)(1 + i % D % 7); /* uneven inputs */
    for (int t = 0; t < N; t++)
        for (int i = 0; i < D; i++)
            for (int j = 0; j < D; j++)
                l->moment[i * D + j] += (double)l->x[t * D + i] * (double)l->x[t * D + j] / N;
    for (int i = 0; i < DH / 2; i++) l->frequency[i] = pow(10000, -2.0 * i / DH);
    l->out.q = ZB_NEW_ARRAY(&arena, float, H *(nope + rope) * D);
    l->out.kv_a = ZB_NEW_ARRAY(&arena, float, (rank + rope) * D);
    l->out.kv_b = ZB_NEW_ARRAY(&arena, float, (size_t)G *(nope + DH) * rank);
    l->out.out = ZB_NEW_ARRAY(&arena, float, D *H *DH);
    return l;
}

/* Each latent's row down and column up have weights of like size: a power of two apart at most,
 * counted in root mean squares. */
static void check_even(const layer *l) {
    int r = l->d.kv_rank, n = l->d.kv_heads * (l->d.nope_dim + DH);
    for (int c = 0; c < r; c++) {
        double down = 0, up = 0;
        for (int i = 0; i < D; i++) down += pow((double)l->out.kv_a[c * D + i], 2) / D;
        for (int i = 0; i < n; i++) up += pow((double)l->out.kv_b[i * r + c], 2) / n;
        if (down > 1e-20 && up > 1e-20) assert_true(fabs(log2(down / up)) <= 2.001);
    }
}

static double start(layer *l, double key_weight) {
    zb_mla_calibrated_in in = {.weights = l->w,
                               .moment = l->moment,
                               .frequency = l->frequency,
                               .scale = 1 / sqrt((double)(l->d.nope_dim + l->d.rope_dim)),
                               .key_weight = key_weight};
    double lost = -1;
    assert_int_equal(zb_mla_calibrated_init(&l->d, &in, &l->out, &lost, &arena, &err), ZB_OK);
    check_even(l);
    return lost;
}

static double row_dot(const float *w, const float *x) {
    double s = 0;
    for (int i = 0; i < D; i++) s += (double)w[i] * (double)x[i];
    return s;
}

/* Score of query token a against key token b, `lag` apart, in head h: the teacher's, then ours. */
static double teacher_score(const layer *l, int h, int a, int b, int lag) {
    const float *q = l->w.q + h * DH * D, *k = l->w.k + h / (H / l->d.kv_heads) * DH * D;
    double s = 0;
    for (int i = 0; i < DH / 2; i++) {
        double c = cos(lag * l->frequency[i]), n = sin(lag * l->frequency[i]);
        double qr = row_dot(q + i * D, l->x + a * D),
               qi = row_dot(q + (i + DH / 2) * D, l->x + a * D);
        double kr = row_dot(k + i * D, l->x + b * D),
               ki = row_dot(k + (i + DH / 2) * D, l->x + b * D);
        s += (qr * kr + qi * ki) * c + (qr * ki - qi * kr) * n;
    }
    return s / sqrt((double)DH);
}

static double student_score(const layer *l, int h, int a, int b, int lag) {
    int dn = l->d.nope_dim, dr = l->d.rope_dim, r = l->d.kv_rank;
    const float *q = l->out.q + (size_t)h * (dn + dr) * D;
    const float *up = l->out.kv_b + (size_t)(h / (H / l->d.kv_heads)) * (dn + DH) * r;
    double s = 0;
    for (int i = 0; i < dn; i++) {
        double k = 0;
        for (int c = 0; c < r; c++)
            k += (double)up[i * r + c] * row_dot(l->out.kv_a + c * D, l->x + b * D);
        s += k * row_dot(q + i * D, l->x + a * D);
    }
    for (int i = 0; i < dr / 2; i++) {
        double c = cos(lag * l->frequency[i]), n = sin(lag * l->frequency[i]);
        const float *qp = q + (dn + 2 * i) * D, *kp = l->out.kv_a + (r + 2 * i) * D;
        double qr = row_dot(qp, l->x + a * D), qi = row_dot(qp + D, l->x + a * D);
        double kr = row_dot(kp, l->x + b * D), ki = row_dot(kp + D, l->x + b * D);
        s += (qr * kr + qi * ki) * c + (qr * ki - qi * kr) * n;
    }
    return s / sqrt((double)(dn + dr));
}

/* With one kv head, all pairs rotary and room for all values nothing is lost. */
static void test_exact(void **state) {
    (void)state;
    layer *l = make_layer(1, DH, 2, DH);
    assert_true(start(l, 2) < 1e-9);
    for (int h = 0; h < H; h++)
        for (int i = 0; i < 20; i++) {
            double want = teacher_score(l, h, 7 * i, 3 * i, i),
                   got = student_score(l, h, 7 * i, 3 * i, i);
            assert_true(fabs(want - got) < 1e-3 * (1 + fabs(want)));
        }
}

/* Mean over tokens of the weighted errors of keys (scores at lag 0 of unrotated pairs) and values
 * (outputs): what the decomposition promised. Only the 1e-4 that it adds to the inputs' moment
 * stands between. */
static void measure(const layer *l, double *key_error, double *key_power, double *value_error,
                    double *value_power) {
    int dn = l->d.nope_dim, r = l->d.kv_rank, G = l->d.kv_heads, pairs = l->d.rope_dim / 2;
    *key_error = *key_power = *value_error = *value_power = 0;
    for (int b = 0; b < N; b++) {
        double c[D];
        for (int j = 0; j < r; j++) c[j] = row_dot(l->out.kv_a + j * D, l->x + b * D);
        for (int g = 0; g < G; g++) {
            const float *up = l->out.kv_b + (size_t)g * (dn + DH) * r;
            double dv[DH], v[DH], dk[DH], k[DH];
            for (int i = 0; i < DH; i++) {
                v[i] = dv[i] = row_dot(l->w.v + (g * DH + i) * D, l->x + b * D);
                for (int j = 0; j < r; j++) dv[i] -= (double)up[(dn + i) * r + j] * c[j];
            }
            for (int i = 0; i < dn; i++) {
                int half = dn / 2, pair = pairs + i % half; /* slow pairs, real parts first */
                double re = 0, im = 0, total = 0;
                for (int t = 1; t <= 128; t++) {
                    re += cos(t * l->frequency[pair]) / t;
                    im -= sin(t * l->frequency[pair]) / t;
                    total += 1.0 / t;
                }
                const float *w = l->w.k + g * DH * D;
                double kr = row_dot(w + pair * D, l->x + b * D),
                       ki = row_dot(w + (pair + DH / 2) * D, l->x + b * D);
                k[i] = dk[i] = (i < half ? re * kr - im * ki : re * ki + im * kr) / total;
                for (int j = 0; j < r; j++) dk[i] -= (double)up[i * r + j] * c[j];
            }
            for (int h = g * (H / G); h < (g + 1) * (H / G); h++) {
                for (int d = 0; d < D; d++) {
                    double e = 0, p = 0;
                    for (int i = 0; i < DH; i++) {
                        double o = (double)l->w.o[d * H * DH + h * DH + i];
                        e += o * dv[i];
                        p += o * v[i];
                    }
                    *value_error += e * e / N;
                    *value_power += p * p / N;
                }
                for (int a = 0; a < N; a++) {
                    double e = 0, p = 0;
                    for (int i = 0; i < dn; i++) {
                        int half = dn / 2, dim = pairs + i % half + (i < half ? 0 : DH / 2);
                        double q = row_dot(l->w.q + (h * DH + dim) * D, l->x + a * D);
                        e += q * dk[i];
                        p += q * k[i];
                    }
                    *key_error += e * e / N / N / DH;
                    *key_power += p * p / N / N / DH;
                }
            }
        }
    }
}

static void test_promise(void **state) {
    (void)state;
    const double weight = 1.7;
    layer *l = make_layer(2, 11, 10, 6);
    double lost = start(l, weight), ke, kp, ve, vp;
    measure(l, &ke, &kp, &ve, &vp);
    double balance = vp / kp * weight * weight; /* squared */
    double found = (balance * ke + ve) / (balance * kp + vp);
    assert_true(lost > 0.02 && lost < 0.6);
    assert_true(fabs(found - lost) < 5e-3 * lost);
}

/* A low-rank query map of full rank changes nothing. */
static void test_query_rank(void **state) {
    (void)state;
    layer *l = make_layer(1, DH, 2, DH);
    start(l, 1);
    float *q = l->out.q;
    l->d.q_rank = D;
    l->out.q = NULL;
    l->out.q_a = ZB_NEW_ARRAY(&arena, float, D *D);
    l->out.q_b = ZB_NEW_ARRAY(&arena, float, H *(DH + 2) * D);
    start(l, 1);
    for (int r = 0; r < H * (DH + 2); r++)
        for (int c = 0; c < D; c++) {
            double s = 0;
            for (int k = 0; k < D; k++)
                s += (double)l->out.q_b[r * D + k] * (double)l->out.q_a[k * D + c];
            assert_true(fabs(s - (double)q[r * D + c]) < 1e-4);
        }
}

static void test_refusals(void **state) {
    (void)state;
    layer *l = make_layer(2, 11, 8, 6); /* 8 + 6 < 16 */
    zb_mla_calibrated_in in = {l->w, l->moment, l->frequency, 0.25, 2};
    assert_int_equal(zb_mla_calibrated_init(&l->d, &in, &l->out, NULL, &arena, &err),
                     ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "nope_dim 8, rope_dim 6"));
    l->d.nope_dim = 10;
    l->d.kv_rank = 400;
    assert_int_equal(zb_mla_calibrated_init(&l->d, &in, &l->out, NULL, &arena, &err),
                     ZB_ERR_CONFIG);
}

/* A teacher, a copy of it as the student, and their calibration. */
static zb_calibration *open_pair(zb_model **teacher, zb_model **student, int64_t tokens) {
    zb_calibration *c;
    assert_int_equal(zb_model_open(teacher, "tests/golden/llama", ZB_MODEL_TRAIN, &err), ZB_OK);
    assert_int_equal(zb_model_open(student, "tests/golden/llama", ZB_MODEL_TRAIN, &err), ZB_OK);
    zb_calibration_opts o = {
        .text = text, .tokens = tokens, .length = 64, .batch = 1024, .own_inputs = true, .seed = 3};
    assert_int_equal(zb_calibration_new(&c, *teacher, *student, NULL, &o, &err), ZB_OK);
    return c;
}

/* Batches of descent hold whole rows, and all of them; at least one row, at most the text. */
static void test_batches(void **state) {
    (void)state;
    static const struct {
        int64_t batch;
        int batches, last;
    } cases[] = {{192, 11, 128}, {200, 11, 128}, {1, 32, 64}, {0, 32, 64}, {INT64_MAX, 1, 2048}};
    zb_model *model;
    assert_int_equal(zb_model_open(&model, "tests/golden/llama", ZB_MODEL_TRAIN, &err), ZB_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zb_calibration *c;
        zb_calibration_opts o = {
            .text = text, .tokens = 2048, .length = 64, .batch = cases[i].batch, .seed = 3};
        assert_int_equal(zb_calibration_new(&c, model, model, NULL, &o, &err), ZB_OK);
        assert_int_equal(c->batches, cases[i].batches);
        assert_int_equal(c->batch[c->batches - 1].n, cases[i].last);
        assert_int_equal(c->batch_first[c->batches - 1] + cases[i].last, c->n);
        zb_calibration_free(c);
    }
    zb_model_free(model);
}

/* A copy of the teacher whose output map was spoilt gets it back, on its own inputs. */
static void test_refit(void **state) {
    (void)state;
    zb_model *teacher, *student;
    zb_calibration *c = open_pair(&teacher, &student, 2048);
    assert_int_equal(c->n, 2048);
    for (int l = 0; l < zb_model_config(teacher)->L; l++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.self_attn.o_proj.weight", l);
        zb_param *p = zb_params_find(zb_model_params(student), name);
        const float *want = zb_params_find(zb_model_params(teacher), name)->w;
        for (int64_t i = 0; i < zb_param_count(p); i++) p->w[i] = 0.5f;
        double error = 1;
        assert_int_equal(zb_calibration_enter(c, l, &err), ZB_OK);
        assert_int_equal(zb_calibration_refit(c, p, 0, 1e-9, &error, &err), ZB_OK);
        assert_true(error < 1e-6);
        for (int64_t i = 0; i < zb_param_count(p); i++)
            assert_true(fabsf(p->w[i] - want[i]) < 2e-2f);
        assert_int_equal(zb_calibration_leave(c, true, &err), ZB_OK);
    }
    zb_calibration_free(c);
    zb_calibration_opts more = {.text = text, .tokens = 1 << 20, .length = 64};
    assert_int_equal(zb_calibration_new(&c, teacher, student, NULL, &more, &err), ZB_ERR_CONFIG);
    zb_model_free(student);
    zb_model_free(teacher);
}

/* A map is found again; a strong ridge leaves the prior, whose blocks can be scaled first; the
 * ridge that is chosen suits the noise. */
static void test_regression(void **state) {
    (void)state;
    enum { K = 12, OUT = 7, ROWS = 200 };
    const double list[] = {1e-6, 1e-1, 1e6};
    zb_matmul *mm;
    zb_regression r;
    assert_int_equal(zb_matmul_new(&mm, ZB_PREC_F32, &err), ZB_OK);
    float *f = normal(ROWS * K, 1, 11), *truth = normal(OUT * K, 1, 12),
          *noise = normal(ROWS * OUT, 1, 13), *m = ZB_NEW_ARRAY(&arena, float, ROWS *OUT), w[ROWS];
    for (int part = 0; part < 2; part++) { /* exact, then noise alone */
        for (int i = 0; i < ROWS; i++) {
            w[i] = (float)(1 + i % 3);
            for (int d = 0; d < OUT; d++) {
                double y = part ? (double)noise[i * OUT + d] : 0;
                for (int k = 0; k < K && !part; k++)
                    y += (double)truth[d * K + k] * (double)f[i * K + k];
                m[i * OUT + d] = (float)y;
            }
        }
        zb_regression_init(&r, K, OUT, ROWS, mm, &arena);
        for (int i = 0; i < ROWS; i += ROWS / 4)
            zb_regression_add(&r, ROWS / 4, f + i * K, m + (size_t)i * OUT, w + i);
        double ridge, error;
        float W[OUT * K];
        memset(W, 0, sizeof W);
        assert_int_equal(zb_regression_choose(&r, list, 3, W, &ridge, &arena, &err), ZB_OK);
        assert_true(ridge == (part ? 1e6 : 1e-6));
        if (part) continue;
        assert_int_equal(zb_regression_solve(&r, ridge, true, W, &error, &arena, &err), ZB_OK);
        assert_true(error < 1e-5);
        for (int i = 0; i < OUT * K; i++) assert_true(fabsf(W[i] - truth[i]) < 1e-3f);
        for (int i = 0; i < OUT * K; i++) W[i] = truth[i] / (float)(1 + i % K / 4);
        assert_int_equal(zb_regression_scale(&r, 4, W, &arena, &err), ZB_OK);
        for (int i = 0; i < OUT * K; i++) assert_true(fabsf(W[i] - truth[i]) < 1e-2f);
        for (int i = 0; i < OUT * K; i++) W[i] = -truth[i];
        assert_int_equal(zb_regression_solve(&r, 1e9, true, W, &error, &arena, &err), ZB_OK);
        for (int i = 0; i < OUT * K; i++) assert_true(fabsf(W[i] + truth[i]) < 1e-3f);
        assert_true(fabs(error - 4) < 1e-3); /* twice the output away */
    }
    zb_matmul_free(mm);
}

static zb_param *layer_param(zb_model *m, int at, const char *name) {
    char full[96];
    snprintf(full, sizeof full, "model.layers.%d.%s", at, name);
    zb_param *p = zb_params_find(zb_model_params(m), full);
    assert_non_null(p);
    return p;
}

static void spoil(zb_param *p, uint64_t seed) {
    const float *by = normal((int)zb_param_count(p), 1, seed);
    double size = 0;
    for (int64_t i = 0; i < zb_param_count(p); i++) size += (double)p->w[i] * (double)p->w[i];
    size = sqrt(size / (double)zb_param_count(p));
    for (int64_t i = 0; i < zb_param_count(p); i++) p->w[i] += (float)(0.5 * size) * by[i];
}

/* Descent reaches what the output map alone cannot mend: spoilt queries, keys and values. */
static void test_fit(void **state) {
    (void)state;
    zb_model *teacher, *student;
    zb_calibration *c = open_pair(&teacher, &student, 2048);
    zb_param *out = layer_param(student, 0, "self_attn.o_proj.weight");
    static const char *const names[] = {"self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                        "self_attn.v_proj.weight"};
    for (int i = 0; i < 3; i++) spoil(layer_param(student, 0, names[i]), (uint64_t)i + 20);
    double closed, fitted;
    zb_fit_opts o = {.passes = 40, .rate = 0.03, .ridge = 1e-4};
    assert_int_equal(zb_calibration_enter(c, 0, &err), ZB_OK);
    assert_int_equal(zb_calibration_refit(c, out, 0, 1e-4, &closed, &err), ZB_OK);
    assert_int_equal(zb_fit_mixer(c, out, &o, &err), ZB_OK);
    assert_int_equal(zb_calibration_refit(c, out, 0, 1e-4, &fitted, &err), ZB_OK);
    assert_true(closed > 1e-3);
    assert_true(fitted < 0.1 * closed);
    for (int i = 0; i < 3; i++) assert_null(layer_param(student, 0, names[i])->grad);
    zb_calibration_free(c);
    zb_model_free(student);
    zb_model_free(teacher);
}

/* Steps that only harm what is held out are taken back: a copy of the teacher stays one. */
static void test_held_out(void **state) {
    (void)state;
    zb_model *teacher, *student;
    zb_calibration *c = open_pair(&teacher, &student, 8192);
    assert_int_equal(c->batches, 8); /* one of them held out */
    static const char name[] = "self_attn.q_proj.weight";
    zb_param *mine = layer_param(student, 0, name), *own = layer_param(teacher, 0, name),
             *out = layer_param(student, 0, "self_attn.o_proj.weight");
    zb_fit_opts f = {.passes = 2, .rate = 0.5, .ridge = 1e-4};
    assert_int_equal(zb_calibration_enter(c, 0, &err), ZB_OK);
    assert_int_equal(zb_fit_mixer(c, out, &f, &err), ZB_OK);
    for (int64_t i = 0; i < zb_param_count(mine); i++) assert_true(mine->w[i] == own->w[i]);
    zb_calibration_free(c);
    zb_model_free(student);
    zb_model_free(teacher);
}

/* A mixer that says nothing is fitted like any other: the student's falls silent, too. */
static void test_silent(void **state) {
    (void)state;
    zb_model *teacher, *student;
    zb_calibration *c = open_pair(&teacher, &student, 8192);
    zb_param *mine = layer_param(student, 0, "self_attn.o_proj.weight"),
             *own = layer_param(teacher, 0, "self_attn.o_proj.weight");
    double before = 0, after = 0;
    zb_fit_opts f = {.passes = 2, .rate = 0.03, .ridge = 1e-4};
    memset(own->w, 0, (size_t)zb_param_count(own) * sizeof(float));
    for (int64_t i = 0; i < zb_param_count(mine); i++) before += fabs((double)mine->w[i]);
    assert_int_equal(zb_calibration_enter(c, 0, &err), ZB_OK);
    if (zb_fit_mixer(c, mine, &f, &err) != ZB_OK) fail_msg("%s", err.msg);
    for (int64_t i = 0; i < zb_param_count(mine); i++) after += fabs((double)mine->w[i]);
    assert_true(after < 1e-2 * before);
    zb_calibration_free(c);
    zb_model_free(student);
    zb_model_free(teacher);
}

/* The states that walk from layer to layer are those of a whole pass; a healthy student's MLPs stay
 * as they are, and those of one with a spoilt mixer come closer to the teacher's output. */
static void test_states(void **state) {
    (void)state;
    for (int sick = 0; sick < 2; sick++) {
        zb_model *teacher, *student;
        zb_calibration *c = open_pair(&teacher, &student, 2048);
        const zb_config *k = zb_model_config(student);
        zb_param *down = layer_param(student, 0, "mlp.down_proj.weight"),
                 *before = layer_param(teacher, 0, "mlp.down_proj.weight"),
                 *out = layer_param(student, 0, "self_attn.o_proj.weight");
        if (sick) spoil(out, 31);
        double change = 0, size = 0;
        for (int l = 0; l < k->L; l++) {
            assert_int_equal(zb_calibration_enter(c, l, &err), ZB_OK);
            if (l == k->L - 1) break;
            assert_int_equal(zb_calibration_leave(c, true, &err), ZB_OK);
        }
        for (int64_t i = 0; i < zb_param_count(down); i++) {
            double d = (double)down->w[i] - (double)before->w[i];
            change += d * d;
            size += (double)before->w[i] * (double)before->w[i];
        }
        assert_true(sick ? change > 1e-4 * size : change < 1e-7 * size);
        int n = c->piece[0].n, last = k->L - 1;
        float *h = ZB_NEW_ARRAY(&arena, float, n * k->D),
              *y = ZB_NEW_ARRAY(&arena, float, n * k->D), *hidden[ZB_LAYERS_MAX + 1] = {0};
        hidden[last] = h;
        assert_int_equal(zb_runner_begin(c->student, &c->piece[0], &err), ZB_OK);
        zb_runner_forward(c->student, y, &(zb_capture){.hidden = hidden});
        zb_norm(zb_runner_run(c->student), layer_param(student, last, "input_layernorm.weight"), h,
                n, k->D, y, NULL);
        for (int i = 0; i < n * k->D; i++) assert_true(fabsf(y[i] - c->x[i]) < 1e-3f);
        zb_calibration_free(c);
        zb_model_free(student);
        zb_model_free(teacher);
    }
}

static zb_compose_opts compose_options(const char *out) {
    zb_compose_opts o;
    zb_opt_group g[] = {{"", zb_compose_opt_table, &o}, {0}};
    zb_opts_defaults(g);
    o.teacher = "tests/golden/llama";
    o.out = zb_path_join(&arena, folder, out);
    o.kv_rank = 8;
    o.rope_dim = 8;
    o.calibration = text;
    o.calibration_tokens = 4096;
    o.calibration_length = 64;
    o.calibration_batch = 1024; /* none of so few is held out */
    return o;
}

static zb_model *composed(const zb_compose_opts *o) {
    zb_model *m;
    if (zb_compose_run(o, &err) != ZB_OK) fail_msg("%s", err.msg);
    assert_int_equal(zb_model_open(&m, o->out, ZB_MODEL_TRAIN, &err), ZB_OK);
    return m;
}

/* ‖y - y_teacher‖² / ‖y_teacher‖² of the states behind the last layer. */
static double distance(zb_model *student) {
    zb_model *teacher, *copy;
    zb_calibration *c = open_pair(&teacher, &copy, 2048);
    zb_runner *r;
    int n = c->piece[0].n * zb_model_config(student)->D;
    float *want = ZB_NEW_ARRAY(&arena, float, n), *got = ZB_NEW_ARRAY(&arena, float, n);
    double error = 0, power = 0;
    assert_int_equal(zb_runner_new(&r, student, ZB_PREC_F32, &err), ZB_OK);
    assert_int_equal(zb_runner_begin(c->teacher, &c->piece[0], &err), ZB_OK);
    zb_runner_forward(c->teacher, want, NULL);
    assert_int_equal(zb_runner_begin(r, &c->piece[0], &err), ZB_OK);
    zb_runner_forward(r, got, NULL);
    for (int i = 0; i < n; i++) {
        error += pow((double)got[i] - (double)want[i], 2);
        power += pow((double)want[i], 2);
    }
    zb_runner_free(r);
    zb_calibration_free(c);
    zb_model_free(copy);
    zb_model_free(teacher);
    return error / power;
}

static bool same(zb_model *a, zb_model *b, int at, const char *name) {
    const zb_param *x = layer_param(a, at, name), *y = layer_param(b, at, name);
    return !memcmp(x->w, y->w, sizeof(float) * (size_t)zb_param_count(x));
}

/* Layers of other models, fitted where they come to stand: the output maps alone, all of the
 * mixers, the MLPs, too. Each brings the whole closer to the teacher; what is not to move stays. */
static void test_fit_donors(void **state) {
    (void)state;
    zb_compose_opts o = compose_options("mla");
    o.default_kind = "mla";
    zb_model_free(composed(&o));
    const char *mla = o.out;
    o = compose_options("mamba2");
    zb_model_free(composed(&o));
    const char *mamba2 = o.out;
    o = compose_options("hybrid");
    o.mla_layers = "1";
    o.attention_layers = "2";
    o.mla_from = mla;
    o.mamba2_from = mamba2;
    zb_model *plain = composed(&o);
    double before = distance(plain);
    for (int step = 0; step < 3; step++) {
        o.fit_donors = true;
        o.calibration_passes = step > 0 ? 4 : 0;
        o.calibration_mlp = step > 1;
        zb_model *fitted = composed(&o);
        double now = distance(fitted);
        assert_true(now < 0.98 * before);
        before = now;
        assert_false(same(plain, fitted, 0, "mamba.out_proj.weight"));
        assert_false(same(plain, fitted, 1, "mla.out_proj.weight"));
        assert_int_equal(same(plain, fitted, 0, "mamba.in_proj.weight"), step == 0);
        assert_int_equal(same(plain, fitted, 1, "mla.kv_b_proj.weight"), step == 0);
        assert_int_equal(same(plain, fitted, 0, "mlp.down_proj.weight"), step < 2);
        assert_true(same(plain, fitted, 2, "self_attn.o_proj.weight"));
        assert_true(same(plain, fitted, 2, "mlp.down_proj.weight"));
        zb_model_free(fitted);
    }
    zb_model_free(plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),      cmocka_unit_test(test_promise),
        cmocka_unit_test(test_query_rank), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_batches),    cmocka_unit_test(test_refit),
        cmocka_unit_test(test_regression), cmocka_unit_test(test_fit),
        cmocka_unit_test(test_held_out),   cmocka_unit_test(test_states),
        cmocka_unit_test(test_fit_donors), cmocka_unit_test(test_silent),
    };
    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
