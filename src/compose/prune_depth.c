/* prune_depth.c - layers taken out one by one, the least missed first (contract in prune.h).
 *
 * Without layer j the states before it are those of the model so far, so each trial passes only the
 * layers behind. */
#include "compose/prune.h"

#include "base/log.h"
#include "model/loss.h"

#include <math.h>
#include <string.h>

typedef struct depth {
    zb_runner *run;
    zb_batch batch;
    int D, n; /* hidden size, layers kept */
    int *kept;
    float **before;  /* [n+1] states before each kept layer, and at the end */
    float *original; /* [tokens, D] final rows of the whole model */
    zb_arena *a;
} depth;

/* States x [tokens, D] through kept layers from..n-1; into d->before on the way where `keep`. */
static void pass_from(depth *d, int from, float *x, bool keep) {
    size_t bytes = (size_t)d->batch.n * d->D * sizeof *x;
    for (int j = from; j < d->n; j++) {
        if (keep) memcpy(d->before[j], x, bytes);
        zb_layer_forward(zb_runner_run(d->run), d->kept[j], x, x, NULL, NULL);
    }
    if (keep) memcpy(d->before[d->n], x, bytes);
}

static double divergence(depth *d, const float *x) {
    zb_run *run = zb_runner_run(d->run);
    zb_mark mark = zb_arena_mark(run->arena);
    float *out = ZB_RAW_ARRAY(run->arena, float, (size_t)d->batch.n * d->D);
    zb_norm(run, run->params->norm, x, d->batch.n, d->D, out, NULL);
    zb_vocab_sums sums = {0};
    zb_vocab_loss l = {.student = d->run,
                       .teacher = d->run,
                       .hidden = out,
                       .teacher_hidden = d->original,
                       .n = d->batch.n,
                       .weights = {.kl = 1}};
    zb_vocab_loss_run(&l, &sums);
    zb_arena_pop(run->arena, mark);
    return sums.kl / (double)sums.tokens;
}

static void start(depth *d, float *x) {
    zb_run *run = zb_runner_run(d->run);
    zb_runner_embed(d->run, x);
    pass_from(d, 0, x, true);
    if (!d->original) {
        d->original = ZB_RAW_ARRAY(d->a, float, (size_t)d->batch.n * d->D);
        zb_norm(run, run->params->norm, x, d->batch.n, d->D, d->original, NULL);
    }
}

/* Removes the kept layer that is missed least. */
static zb_status remove_one(depth *d, float *x, zb_progress *bar, double *trials, zb_err *err) {
    double least = (double)INFINITY;
    int best = 0;
    start(d, x);
    for (int j = 0; j < d->n; j++) {
        memcpy(x, d->before[j], (size_t)d->batch.n * d->D * sizeof *x);
        pass_from(d, j + 1, x, false);
        double kl = divergence(d, x);
        if (kl < least) least = kl, best = j;
        zb_progress_update(bar, ++*trials, NULL);
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "prune: interrupted");
    }
    if (!isfinite(least))
        return zb_fail(err, ZB_ERR_FORMAT,
                       "prune: no layer can be left out: the divergence is not finite without any "
                       "of %d: look at the model's weights",
                       d->n);
    zb_info("prune: without layer %d: KL %.4f", d->kept[best], least);
    d->n--;
    memmove(d->kept + best, d->kept + best + 1, (size_t)(d->n - best) * sizeof *d->kept);
    return ZB_OK;
}

zb_status zb_prune_depth(int *kept, int *n, int want, zb_model *m, const zb_prune_text *t,
                         zb_err *err) {
    zb_arena a = {0};
    depth d = {.D = zb_model_config(m)->D, .n = *n, .kept = kept, .a = &a};
    double total = 0, trials = 0;
    for (int k = *n; k > want; k--) total += k;
    ZB_TRY(zb_runner_new(&d.run, m, ZB_PREC_F32, err));
    d.batch = zb_packer_batch(t->packer, 0, t->rows, &a);
    size_t size = (size_t)d.batch.n * d.D;
    float *x = ZB_RAW_ARRAY(&a, float, size);
    d.before = ZB_NEW_ARRAY(&a, float *, *n + 1);
    for (int j = 0; j <= *n; j++) d.before[j] = ZB_RAW_ARRAY(&a, float, size);
    zb_status s = zb_runner_begin(d.run, &d.batch, err);
    zb_progress bar;
    zb_progress_begin(&bar, "prune", "trials", 0, total);
    while (s == ZB_OK && d.n > want) s = remove_one(&d, x, &bar, &trials, err);
    if (s == ZB_OK) zb_progress_end(&bar, total, NULL);
    *n = d.n;
    zb_runner_free(d.run);
    zb_arena_free(&a);
    return s;
}
