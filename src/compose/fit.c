/* fit.c - descent of one mixer (contract in fit.h).
 *
 * AdamW moves every weight by about the learning rate, whatever its gradient. Tensors of a mixer
 * differ by orders of magnitude (a convolution's taps are 1, D of a scan 1e-4), so each has its own
 * rate: a share of its root mean square. */
#include "compose/fit.h"

#include "base/log.h"
#include "kernels/kernels.h"
#include "model/optim.h"

#include <math.h>

enum { HELD_SHARE = 8 };
static const double BETA1 = 0.9, BETA2 = 0.95, EPS = 1e-12, PI = 3.14159265358979323846;

typedef struct descent {
    zb_calibration *c;
    zb_optim optim;
    zb_matmul *mm;
    zb_arena a; /* gradients */
} descent;

static void open_descent(descent *d, double rate) {
    zb_param **layer = zb_runner_run(d->c->student)->params->layer[d->c->layer];
    const zb_kernels *kn = zb_kernels_get();
    zb_optim_init(&d->optim, BETA1, BETA2, EPS);
    for (int i = ZB_P_MIXER; i < ZB_SLOTS; i++) {
        zb_param *p = layer[i];
        if (!p) continue;
        size_t n = (size_t)zb_param_count(p);
        double size = sqrt(kn->sum_squares((int64_t)n, p->w) / (double)n);
        if (size == 0) size = 1 / sqrt((double)p->cols); /* zeros: outputs as large as inputs */
        p->grad = ZB_NEW_ARRAY(&d->a, float, n);
        zb_optim_add(&d->optim, p, rate * size, 0);
    }
}

static void close_descent(descent *d) {
    for (int i = 0; i < d->optim.n; i++) d->optim.slot[i].param->grad = NULL;
    zb_optim_free(&d->optim);
    zb_matmul_free(d->mm);
    zb_arena_free(&d->a);
}

typedef struct sums {
    double error, all;
} sums;

/* Σ w ‖y - m‖² and Σ w ‖m‖² of a batch; y [n, D] becomes the first one's slope. `row`: [n]. Rows
 * are added in their order, whatever the threads. */
static void compare(const zb_calibration *c, int n, size_t first, float *y, sums *row, sums *out) {
    const zb_kernels *kn = zb_kernels_get();
    size_t D = (size_t)c->D;
    const float *target = c->target + first * D;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++) {
        float w = c->weight[first + (size_t)i], *yi = y + (size_t)i * D;
        const float *want = target + (size_t)i * D;
        kn->axpy((int)D, -1, want, yi);
        row[i].error = (double)w * kn->sum_squares((int64_t)D, yi);
        row[i].all = (double)w * kn->sum_squares((int64_t)D, want);
        kn->scale((int)D, w, yi);
    }
    *out = (sums){0};
    for (int i = 0; i < n; i++) {
        out->error += row[i].error;
        out->all += row[i].all;
    }
}

/* An error as a share of the target's energy; of a target of zeros, which has none, the error
 * itself: it is weighted by the residual's size anyway. */
static double share(double error, double energy) { return energy > 0 ? error / energy : error; }

/* The mixer on batch `at`: its error and the target's energy are added; `train`: gradients of their
 * ratio, too. */
static zb_status pass_batch(descent *d, int at, bool train, double *error, double *all,
                            zb_err *err) {
    zb_calibration *c = d->c;
    const zb_batch *b = &c->batch[at];
    size_t D = (size_t)c->D, first = (size_t)c->batch_first[at];
    ZB_TRY(zb_runner_begin(c->student, b, err));
    zb_run *run = zb_runner_run(c->student);
    zb_matmul *exact = run->mm;
    run->mm = d->mm;
    run->rounds = true;
    const zb_mixer *mixer = zb_mixer_of(run->config->layer[c->layer].kind);
    zb_mark mark = zb_arena_mark(run->arena);
    const float *x = c->x + first * D;
    float *y = ZB_RAW_ARRAY(run->arena, float, (size_t)b->n *D);
    void *tape;
    sums s;
    mixer->forward(run, c->layer, x, y, train ? &tape : NULL);
    compare(c, b->n, first, y, ZB_NEW_ARRAY(run->arena, sums, b->n), &s);
    if (train) {
        float *dx = ZB_NEW_ARRAY(run->arena, float, (size_t)b->n *D);
        zb_kernels_get()->scale(b->n * (int)D, (float)share(1, s.all), y);
        mixer->backward(run, c->layer, x, y, dx, tape);
    }
    zb_arena_pop(run->arena, mark);
    run->mm = exact;
    run->rounds = false;
    *error += s.error;
    *all += s.all;
    return ZB_OK;
}

/* The relative error of the batches from `from` on, which descent does not see, judges the weights;
 * where there are none, nothing does. */
static zb_status judge(descent *d, int from, int passes, zb_err *err) {
    double e = 0, all = 0;
    for (int b = from; b < d->c->batches; b++) ZB_TRY(pass_batch(d, b, false, &e, &all, err));
    if (from < d->c->batches) zb_optim_judge(&d->optim, share(e, all), passes);
    return ZB_OK;
}

/* Warm-up over five steps, then a cosine down to a twentieth. */
static double schedule(int i, int steps) {
    double fall = 0.5 * (1 + cos(PI * i / steps));
    return fmin(1, (i + 1) / 5.0) * (0.05 + 0.95 * fall);
}

static zb_status one_pass(descent *d, int pass, int passes, int seen, zb_err *err) {
    double sum = 0;
    for (int b = 0; b < seen; b++) {
        double error = 0, all = 0;
        ZB_TRY(pass_batch(d, b, true, &error, &all, err));
        zb_optim_step(&d->optim, schedule(pass * seen + b, passes * seen), 1);
        sum += share(error, all);
    }
    if (isfinite(sum)) return ZB_OK;
    return zb_fail(err, ZB_ERR_INTERNAL, "calibration: the fit of layer %d diverged", d->c->layer);
}

/* An eighth of the text is held out, and the weights of the pass that served it best stay; of a
 * short text all is used, and the last pass. */
static zb_status descend_all(zb_calibration *c, const zb_fit_opts *o, zb_err *err) {
    descent d = {.c = c};
    int held = c->batches / HELD_SHARE, seen = c->batches - held, passes = (int)o->passes;
    ZB_TRY(zb_matmul_new(&d.mm, o->precision, err));
    open_descent(&d, o->rate);
    if (held) zb_optim_watch(&d.optim);
    zb_status s = judge(&d, seen, passes, err);
    for (int i = 0; s == ZB_OK && i < passes; i++) {
        s = one_pass(&d, i, passes, seen, err);
        if (s == ZB_OK) s = judge(&d, seen, passes, err);
    }
    zb_optim_back(&d.optim);
    if (s == ZB_OK && held)
        zb_debug("calibration: layer %d: pass %d of %d is best, held-out error %.4f", c->layer,
                 passes - d.optim.waited, passes, d.optim.least);
    close_descent(&d);
    zb_calibration_touch(c);
    return s;
}

zb_status zb_fit_mixer(zb_calibration *c, zb_param *out, const zb_fit_opts *o, zb_err *err) {
    double closed = 0, error = 0;
    ZB_TRY(zb_calibration_refit(c, out, o->block, o->ridge, &closed, err));
    if (o->passes > 0) {
        ZB_TRY(descend_all(c, o, err));
        ZB_TRY(zb_calibration_refit(c, out, 0, o->ridge, &error, err));
    }
    zb_debug("calibration: layer %d: relative error %.4f in closed form, %.4f behind %lld passes",
             c->layer, closed, o->passes > 0 ? error : closed, (long long)o->passes);
    return ZB_OK;
}
