/* optim.c - AdamW (Loshchilov & Hutter 2019) and its schedule (contract in optim.h). */
#include "model/optim.h"

#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

/* Weights per task: large enough to stream, small enough that the gradient is still in the cache
 * when it is cleared behind the update. */
enum { PIECE = 1 << 14 };

void zb_optim_init(zb_optim *o, double beta1, double beta2, double eps) {
    *o = (zb_optim){.beta1 = beta1, .beta2 = beta2, .eps = eps, .least = -1};
}

void zb_optim_add(zb_optim *o, zb_param *p, double rate, double decay) {
    ZB_ASSERT(p->w && p->grad);
    size_t cap = (size_t)o->cap, n = (size_t)zb_param_count(p);
    o->slot = zb_grow(&o->arena, o->slot, &cap, (size_t)o->n + 1, sizeof *o->slot);
    o->cap = (int)cap;
    if (p->rate > 0) rate *= (double)p->rate;
    o->slot[o->n++] = (zb_optim_slot){.param = p,
                                      .m = ZB_NEW_ARRAY(&o->arena, float, n),
                                      .v = ZB_NEW_ARRAY(&o->arena, float, n),
                                      .rate = (float)rate,
                                      .decay = (float)decay};
}

void zb_optim_free(zb_optim *o) { zb_arena_free(&o->arena); }

double zb_optim_size_rate(const zb_param *p, double below) {
    double sum = 0;
    int64_t n = zb_param_count(p);
    for (int64_t i = 0; i < n; i++) sum += (double)p->w[i] * (double)p->w[i];
    double rms = sqrt(sum / (double)n);
    return rms > 0 && rms < below ? rms / below : 1;
}

void zb_optim_watch(zb_optim *o) {
    o->watched = true;
    for (int i = 0; i < o->n; i++)
        o->slot[i].best = ZB_NEW_ARRAY(&o->arena, float, (size_t)zb_param_count(o->slot[i].param));
}

static size_t bytes_of(const zb_optim_slot *s) {
    return (size_t)zb_param_count(s->param) * sizeof(float);
}

void zb_optim_judge(zb_optim *o, double error, int patience) {
    ZB_ASSERT(o->watched);
    if (o->stopped) return;
    if (o->least < 0 || error < o->least) {
        o->least = error;
        o->waited = 0;
        for (int i = 0; i < o->n; i++)
            memcpy(o->slot[i].best, o->slot[i].param->w, bytes_of(&o->slot[i]));
    } else if (++o->waited >= patience) {
        zb_optim_back(o);
        o->stopped = true;
    }
}

void zb_optim_back(zb_optim *o) {
    if (o->least < 0) return;
    for (int i = 0; i < o->n; i++)
        memcpy(o->slot[i].param->w, o->slot[i].best, bytes_of(&o->slot[i]));
}

void zb_optim_forget(zb_optim *o) {
    if (o->stopped) return;
    o->least = -1;
    o->waited = 0;
}

double zb_optim_grad_norm(const zb_optim *o) {
    const zb_kernels *kn = zb_kernels_get();
    double total = 0;
    for (int i = 0; i < o->n; i++) {
        const zb_param *p = o->slot[i].param;
        int64_t n = zb_param_count(p), pieces = (n + PIECE - 1) / PIECE;
        double sum = 0;
        if (pieces == 1) {
            sum = kn->sum_squares(n, p->grad);
        } else {
            double part[1024];
            for (int64_t first = 0; first < pieces; first += 1024) {
                int64_t now = pieces - first < 1024 ? pieces - first : 1024;
#pragma omp parallel for schedule(static)
                for (int64_t k = 0; k < now; k++) {
                    int64_t at = (first + k) * PIECE;
                    part[k] = kn->sum_squares(n - at < PIECE ? n - at : PIECE, p->grad + at);
                }
                for (int64_t k = 0; k < now; k++) sum += part[k];
            }
        }
        total += sum;
    }
    return sqrt(total);
}

void zb_optim_step(zb_optim *o, double lr, double grad_scale) {
    const zb_kernels *kn = zb_kernels_get();
    if (o->stopped) {
        zb_optim_clear_grads(o);
        return;
    }
    o->step++;
    zb_adamw_args base = {.grad_scale = (float)grad_scale,
                          .beta1 = (float)o->beta1,
                          .beta2 = (float)o->beta2,
                          .eps = (float)o->eps};
    base.bias1 = (float)(1 - pow(o->beta1, (double)o->step));
    base.bias2 = (float)(1 - pow(o->beta2, (double)o->step));
    for (int i = 0; i < o->n; i++) {
        const zb_optim_slot *s = &o->slot[i];
        int64_t n = zb_param_count(s->param), pieces = (n + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) if (pieces > 1)
        for (int64_t k = 0; k < pieces; k++) {
            zb_adamw_args a = base;
            int64_t at = k * PIECE;
            a.n = n - at < PIECE ? n - at : PIECE;
            a.w = s->param->w + at;
            a.m = s->m + at;
            a.v = s->v + at;
            a.grad = s->param->grad + at;
            a.lr = (float)lr * s->rate;
            a.decay = s->decay;
            kn->adamw(&a);
            memset(s->param->grad + at, 0, (size_t)a.n * sizeof(float));
        }
    }
}

void zb_optim_clear_grads(zb_optim *o) {
    for (int i = 0; i < o->n; i++)
        memset(o->slot[i].param->grad, 0, (size_t)zb_param_count(o->slot[i].param) * sizeof(float));
}

double zb_optim_step_clipped(zb_optim *o, double lr, double clip) {
    double norm = zb_optim_grad_norm(o);
    if (isfinite(norm))
        zb_optim_step(o, lr, clip > 0 && norm > clip ? clip / norm : 1);
    else
        zb_optim_clear_grads(o);
    return norm;
}

double zb_schedule_cosine(int64_t i, int64_t warmup, int64_t total, double floor) {
    if (i < warmup) return (double)i / (double)(warmup > 1 ? warmup : 1);
    double span = (double)(total - warmup > 1 ? total - warmup : 1),
           at = fmin((double)(i - warmup) / span, 1);
    return floor + (1 - floor) * 0.5 * (1 + cos(3.14159265358979323846 * at));
}
