/* optim.h - AdamW over a list of parameters, clipping, and the learning-rate schedule.
 *
 * Masters, moments and gradients are f32. A zb_optim owns the moments (one arena); parameters are
 * borrowed. Frozen parameters (no gradient, rate factor 0) take no moments. One thread calls; the
 * work is shared inside. */
#ifndef ZB_MODEL_OPTIM_H
#define ZB_MODEL_OPTIM_H

#include "base/arena.h"
#include "model/params.h"

typedef struct zb_optim_slot {
    zb_param *param;
    float *m, *v;
    float *best; /* weights of the least held-out error; NULL: not watched */
    float rate;  /* factor on the learning rate */
    float decay; /* weight decay; 0 for vectors */
} zb_optim_slot;

typedef struct zb_optim {
    zb_arena arena;
    zb_optim_slot *slot;
    int n, cap;
    double beta1, beta2, eps;
    int64_t step; /* steps done */
    double least; /* held-out error of the best weights; below 0: none judged so far */
    int waited;   /* errors in a row that were no lower */
    bool watched, stopped;
} zb_optim;

void zb_optim_init(zb_optim *o, double beta1, double beta2, double eps);
/* rate: factor on the learning rate, beside the parameter's own. */
void zb_optim_add(zb_optim *o, zb_param *p, double rate, double decay);
void zb_optim_free(zb_optim *o);

/* Factor on the learning rate of a tensor whose weights are small: rms / below where its root mean
 * square is less than `below`, else 1; 1 as well for a tensor of zeros, which has to start somehow.
 * AdamW moves every weight by about the learning rate, so a tensor of weights of 5e-4 would be
 * another one after a step of 5e-4 (compare Adafactor's relative steps, arXiv 1804.04235). */
double zb_optim_size_rate(const zb_param *p, double below);

/* Early stopping on held-out errors. Watching makes room for the best weights, after the last
 * parameter was added. Judge takes an error (at least 0): weights that lower it are kept; after
 * `patience` errors in a row that do not, the best ones come back and the optimiser stops, whose
 * steps then change nothing. Back brings the best weights back without stopping; forget starts the
 * comparison anew, because errors will mean something else. */
void zb_optim_watch(zb_optim *o);
void zb_optim_judge(zb_optim *o, double error, int patience);
void zb_optim_back(zb_optim *o);
void zb_optim_forget(zb_optim *o);

/* Global norm of the slots' gradients (f64 sum, fixed order). */
double zb_optim_grad_norm(const zb_optim *o);
/* One step with gradients multiplied by grad_scale; leaves them zero for the next step. */
void zb_optim_step(zb_optim *o, double lr, double grad_scale);
void zb_optim_clear_grads(zb_optim *o);
/* One step with the global norm clipped to `clip` (0: not); gradients that are not finite are
 * dropped. Returns the norm. */
double zb_optim_step_clipped(zb_optim *o, double lr, double clip);

/* Cosine with linear warm-up, as transformers' get_cosine_schedule_with_warmup: factor of step i of
 * `total`. `floor` is the final factor (0 there). */
double zb_schedule_cosine(int64_t i, int64_t warmup, int64_t total, double floor);

#endif
