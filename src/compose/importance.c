/* importance.c - which columns of each matrix matter (zb_quantize_calibrate in quantize.h).
 *
 * The error that rounding W to V makes in y = Wx is Σ_c (W-V)[r,c]·x[c]; with uncorrelated inputs
 * its mean square is Σ_c E[x_c²]·(W-V)[r,c]². E[x_c²] is gathered by an observer of all linear maps
 * of a pass over text. The embedding is looked up, not multiplied: its columns count by what it
 * meets as the head, where it is the head. */
#include "compose/quantize.h"

#include "base/log.h"
#include "data/corpus.h"

enum { SEQUENCE = 512 };

typedef struct gather {
    const zb_param_table *params;
    double **sum; /* by parameter, [cols] */
    int64_t *n;   /* tokens seen */
    zb_arena *arena;
} gather;

static void observe(void *user, const zb_param *w, const float *x, int n) {
    gather *g = user;
    ptrdiff_t i = w - g->params->item;
    if (i < 0 || i >= g->params->n) return; /* not a parameter of the table */
    if (!g->sum[i]) g->sum[i] = ZB_NEW_ARRAY(g->arena, double, w->cols);
    g->n[i] += n;
    double *sum = g->sum[i];
#pragma omp parallel for schedule(static)
    for (int c = 0; c < w->cols; c++)
        for (int r = 0; r < n; r++) {
            double v = (double)x[(size_t)r * w->cols + c];
            sum[c] += v * v;
        }
}

static zb_status pass_over(zb_runner *r, const zb_tokenizer *tok, const zb_quantize_opts *o,
                           gather *g, zb_arena *a, zb_err *err) {
    zb_corpus corpus;
    zb_packer p;
    ZB_TRY(zb_corpus_read(&corpus, o->calibrate, tok, zb_model_config(zb_runner_model(r))->V,
                          o->calibrate_tokens, a, err));
    int length = corpus.n_tokens < SEQUENCE ? (int)corpus.n_tokens : SEQUENCE;
    ZB_TRY(zb_packer_init(&p, &corpus, length, false, 0, a, err));
    zb_progress bar;
    zb_progress_begin(&bar, "calibrate", "tokens", 0, (double)(p.rows * length));
    zb_arena *step = zb_runner_arena(r);
    for (int64_t row = 0; row < p.rows; row++) {
        zb_mark mark = zb_arena_mark(a), m = zb_arena_mark(step);
        zb_batch b = zb_packer_batch(&p, row, 1, a);
        float *h = ZB_NEW_ARRAY(step, float, (size_t)b.n *zb_runner_run(r)->config->D);
        zb_status s = zb_runner_begin(r, &b, err);
        if (s == ZB_OK) {
            zb_runner_forward(r, h, NULL);
            observe(g, g->params->head, h, b.n);
        }
        zb_arena_pop(step, m);
        zb_arena_pop(a, mark);
        ZB_TRY(s);
        zb_progress_update(&bar, (double)((row + 1) * length), NULL);
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "calibrate: interrupted");
    }
    zb_progress_end(&bar, (double)(p.rows * length), NULL);
    return ZB_OK;
}

zb_status zb_quantize_calibrate(const zb_quantize_opts *o, zb_model *m, zb_arena *a,
                                const float ***importance, zb_err *err) {
    zb_param_table *t = zb_model_params(m);
    zb_tokenizer *tok = NULL;
    zb_runner *r = NULL;
    zb_arena sums = {0}, tmp = {0};
    gather g = {.params = t, .arena = &sums};
    g.sum = zb_alloc_array(&sums, (size_t)t->n, sizeof *g.sum);
    g.n = ZB_NEW_ARRAY(&sums, int64_t, t->n);
    zb_status s = zb_model_tokenizer(&tok, o->model, err);
    if (s == ZB_OK && !tok)
        s = zb_fail(err, ZB_ERR_CONFIG, "%s: calibrate needs the model's tokenizer", o->model);
    if (s == ZB_OK) s = zb_runner_new(&r, m, ZB_PREC_F32, err);
    if (s == ZB_OK) {
        zb_runner_run(r)->observe = observe;
        zb_runner_run(r)->observer = &g;
        s = pass_over(r, tok, o, &g, &tmp, err);
    }
    const float **out = zb_alloc_array(a, (size_t)t->n, sizeof *out);
    for (int i = 0; i < t->n && s == ZB_OK; i++) {
        if (!g.sum[i]) continue;
        float *mean = ZB_NEW_ARRAY(a, float, t->item[i].cols);
        for (int c = 0; c < t->item[i].cols; c++) mean[c] = (float)(g.sum[i][c] / (double)g.n[i]);
        out[i] = mean;
    }
    *importance = out;
    zb_runner_free(r);
    zb_tokenizer_close(tok);
    zb_arena_free(&tmp);
    zb_arena_free(&sums);
    return s;
}
