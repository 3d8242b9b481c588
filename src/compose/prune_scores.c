/* prune_scores.c - passes over text that tell which parts matter (contract in prune.h).
 *
 * What feeds the last maps of mixer and MLP is read through the run's observer; a row's means are
 * squared and added when the row is over. */
#include "compose/prune.h"

#include "base/log.h"
#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

typedef struct gather {
    const zb_config *c;
    const zb_param_table *params;
    double **mlp, **head; /* [L] of the row: sums over tokens */
} gather;

static bool is_output(const zb_param *w) { return strstr(w->name, ".self_attn.o_proj.weight"); }

static void observe(void *user, const zb_param *w, const float *x, int n) {
    gather *g = user;
    int dh = g->c->dh;
    if (w->layer < 0) return;
    if (w == g->params->layer[w->layer][ZB_P_DOWN]) {
        double *sum = g->mlp[w->layer];
        for (int i = 0; i < n; i++)
            for (int k = 0; k < w->cols; k++) sum[k] += fabs((double)x[(size_t)i * w->cols + k]);
    } else if (g->head && is_output(w)) {
        double *sum = g->head[w->layer];
        for (int i = 0; i < n; i++)
            for (int h = 0; h < g->c->H; h++)
                sum[h] += sqrt(zb_kernels_get()->sum_squares(dh, x + (size_t)i * w->cols + h * dh));
    }
}

/* What a row of text did: states before each layer and at the end, and behind each mixer. */
typedef struct states {
    int n;
    float **hidden, **middle; /* [L+1], [L] of [n, D] */
} states;

typedef struct walk {
    zb_runner *run;
    const zb_prune_text *text;
    const char *what; /* for progress */
    void (*row)(void *user, zb_runner *r, const states *s, zb_arena *a);
    void *user;
} walk;

static zb_status pass_row(const walk *w, int64_t row, zb_arena *a, zb_err *err) {
    const zb_config *c = zb_runner_run(w->run)->config;
    zb_batch b = zb_packer_batch(w->text->packer, row, 1, a);
    size_t size = (size_t)b.n * c->D;
    states s = {.n = b.n};
    s.hidden = ZB_NEW_ARRAY(a, float *, c->L + 1);
    s.middle = ZB_NEW_ARRAY(a, float *, c->L);
    for (int l = 0; l <= c->L; l++) s.hidden[l] = ZB_RAW_ARRAY(a, float, size);
    for (int l = 0; l < c->L; l++) s.middle[l] = ZB_RAW_ARRAY(a, float, size);
    float *out = ZB_RAW_ARRAY(a, float, size);
    ZB_TRY(zb_runner_begin(w->run, &b, err));
    zb_runner_forward(w->run, out, &(zb_capture){s.hidden, s.middle});
    for (int l = 0; l < c->L; l++)
        for (int i = 0; i < b.n; i++) {
            size_t at = (size_t)i * c->D;
            zb_kernels_get()->add(c->D, s.hidden[l] + at, s.middle[l] + at);
        }
    w->row(w->user, w->run, &s, a);
    return ZB_OK;
}

static zb_status walk_text(const walk *w, zb_err *err) {
    zb_arena a = {0};
    zb_progress bar;
    zb_status s = ZB_OK;
    double per_row = w->text->length;
    zb_progress_begin(&bar, w->what, "tokens", 0, per_row * w->text->rows);
    for (int r = 0; r < w->text->rows && s == ZB_OK; r++) {
        zb_mark mark = zb_arena_mark(&a);
        s = pass_row(w, r, &a, err);
        zb_arena_pop(&a, mark);
        zb_progress_update(&bar, per_row * (r + 1), NULL);
        if (s == ZB_OK && zb_interrupted())
            s = zb_fail(err, ZB_ERR_INTERRUPTED, "prune: interrupted");
    }
    if (s == ZB_OK) zb_progress_end(&bar, per_row * w->text->rows, NULL);
    zb_arena_free(&a);
    return s;
}

/* The norm at a place (each layer's two, then the last), and the states it is given. */
static const zb_param *norm_at(const zb_run *run, int place) {
    int l = place / 2;
    if (l == run->config->L) return run->params->norm;
    return run->params->layer[l][place % 2 ? ZB_P_NORM2 : ZB_P_NORM1];
}

static const float *input_at(const states *s, int place) {
    return place % 2 ? s->middle[place / 2] : s->hidden[place / 2];
}

/* ---- scores ---- */

typedef struct scoring {
    gather g;
    zb_prune_scores *out;
} scoring;

/* The row's sums become means, whose squares are added. */
static void add_row(double *row, int count, int n, double *score) {
    for (int i = 0; i < count; i++) {
        score[i] += (row[i] / n) * (row[i] / n);
        row[i] = 0;
    }
}

static double turn(int D, const float *x, const float *y) {
    double xy = 0, xx = 1e-30, yy = 1e-30;
    for (int k = 0; k < D; k++) {
        xy += (double)x[k] * (double)y[k];
        xx += (double)x[k] * (double)x[k];
        yy += (double)y[k] * (double)y[k];
    }
    return 1 - xy / sqrt(xx * yy);
}

static void score_row(void *user, zb_runner *r, const states *s, zb_arena *a) {
    scoring *k = user;
    zb_run *run = zb_runner_run(r);
    const zb_config *c = run->config;
    float *normed = ZB_RAW_ARRAY(a, float, (size_t)s->n * c->D);
    double *sum = ZB_NEW_ARRAY(a, double, c->D);
    for (int l = 0; l < c->L; l++) {
        for (int i = 0; i < s->n; i++) {
            size_t at = (size_t)i * c->D;
            k->out->influence[l] += turn(c->D, s->hidden[l] + at, s->hidden[l + 1] + at) / s->n;
        }
        add_row(k->g.mlp[l], c->F, s->n, k->out->mlp[l]);
        if (k->g.head) add_row(k->g.head[l], c->H, s->n, k->out->head[l]);
    }
    for (int place = 0; place <= 2 * c->L; place++) {
        zb_norm(run, norm_at(run, place), input_at(s, place), s->n, c->D, normed, NULL);
        for (int i = 0; i < s->n; i++)
            for (int d = 0; d < c->D; d++) sum[d] += fabs((double)normed[(size_t)i * c->D + d]);
        add_row(sum, c->D, s->n, k->out->hidden);
    }
}

static double **new_rows(int rows, int cols, zb_arena *a) {
    double **out = ZB_NEW_ARRAY(a, double *, rows);
    for (int i = 0; i < rows; i++) out[i] = ZB_NEW_ARRAY(a, double, cols);
    return out;
}

/* Nothing can be ordered by numbers that are none. */
static zb_status check_finite(const double *score, int n, const char *what, zb_err *err) {
    for (int i = 0; i < n; i++)
        if (!isfinite(score[i]))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "prune: score %d of %s: expected a finite number, found %g: look at the "
                           "model's weights",
                           i, what, score[i]);
    return ZB_OK;
}

static zb_status check_scores(const zb_prune_scores *s, const zb_config *c, zb_err *err) {
    ZB_TRY(check_finite(s->influence, c->L, "layers", err));
    for (int l = 0; l < c->L; l++) {
        ZB_TRY(check_finite(s->mlp[l], c->F, "neurons", err));
        if (s->head) ZB_TRY(check_finite(s->head[l], c->H, "heads", err));
    }
    return check_finite(s->hidden, c->D, "channels", err);
}

zb_status zb_prune_score(zb_prune_scores *s, zb_model *m, const zb_prune_text *t, zb_arena *a,
                         zb_err *err) {
    const zb_config *c = zb_model_config(m);
    bool heads = true;
    for (int l = 0; l < c->L; l++)
        heads =
            heads && (c->layer[l].kind == ZB_ATTENTION || c->layer[l].kind == ZB_SLIDING_WINDOW);
    zb_arena rows = {0};
    *s = (zb_prune_scores){.influence = ZB_NEW_ARRAY(a, double, c->L),
                           .mlp = new_rows(c->L, c->F, a),
                           .head = heads ? new_rows(c->L, c->H, a) : NULL,
                           .hidden = ZB_NEW_ARRAY(a, double, c->D)};
    scoring k = {.g = {.c = c,
                       .params = zb_model_params(m),
                       .mlp = new_rows(c->L, c->F, &rows),
                       .head = heads ? new_rows(c->L, c->H, &rows) : NULL},
                 .out = s};
    zb_runner *r = NULL;
    zb_status st = zb_runner_new(&r, m, ZB_PREC_F32, err);
    if (st == ZB_OK) {
        zb_runner_run(r)->observe = observe;
        zb_runner_run(r)->observer = &k.g;
        st = walk_text(&(walk){r, t, "prune", score_row, &k}, err);
    }
    for (int l = 0; l < c->L; l++) s->influence[l] /= t->rows;
    if (st == ZB_OK) st = check_scores(s, c, err);
    zb_runner_free(r);
    zb_arena_free(&rows);
    return st;
}

/* ---- norms ---- */

typedef struct norming {
    const zb_kept *kept;
    double *sum; /* [2L+1] of logarithms */
    int64_t n;
} norming;

static void norm_row(void *user, zb_runner *r, const states *s, zb_arena *a) {
    norming *k = user;
    const zb_config *c = zb_runner_run(r)->config;
    (void)a;
    for (int place = 0; place <= 2 * c->L; place++)
        for (int i = 0; i < s->n; i++) {
            const float *x = input_at(s, place) + (size_t)i * c->D;
            double all = 0, kept = 0;
            for (int d = 0; d < c->D; d++) all += (double)x[d] * (double)x[d];
            for (int d = 0; d < k->kept->D; d++)
                kept += (double)x[k->kept->hidden[d]] * (double)x[k->kept->hidden[d]];
            k->sum[place] += 0.5 * log((kept / k->kept->D + c->eps) / (all / c->D + c->eps));
        }
    k->n += s->n;
}

zb_status zb_prune_norms(double *norm, zb_model *m, const zb_kept *k, const zb_prune_text *t,
                         zb_err *err) {
    int places = 2 * zb_model_config(m)->L + 1;
    norming w = {.kept = k, .sum = norm};
    zb_runner *r = NULL;
    memset(norm, 0, (size_t)places * sizeof *norm);
    ZB_TRY(zb_runner_new(&r, m, ZB_PREC_F32, err));
    zb_status s = walk_text(&(walk){r, t, "prune: norms", norm_row, &w}, err);
    for (int i = 0; i < places; i++) norm[i] = exp(norm[i] / (double)(w.n ? w.n : 1));
    zb_runner_free(r);
    return s;
}
