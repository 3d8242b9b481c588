/* rope.c - frequencies and tables (contract in rope.h).
 *
 * Plain: f_i = theta^(-2i/dim). linear: f/factor. llama3 (Llama 3.1): wavelengths beyond old/low
 * are slowed by the factor, those below old/high are kept, between them a linear blend in
 * old/wavelength. YaRN (Peng et al. 2023): a blend over the pair index between the dimensions that
 * turn beta_fast and beta_slow times within the old context, and cos and sin scaled by
 * m(mscale)/m(mscale_all_dim), m(s) = 0.1·s·ln(factor)+1, or by the attention_factor of a file. */
#include "model/rope.h"

#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

static const double pi = 3.14159265358979323846;

double zb_yarn_m(double factor, double s) { return factor <= 1 ? 1 : 0.1 * s * log(factor) + 1; }

static double yarn_dim(const zb_rope *r, int dim, double turns) {
    return dim * log(r->old_context / (turns * 2 * pi)) / (2 * log(r->theta));
}

static double yarn(const zb_rope *r, int dim, double *f) {
    double low = fmax(floor(yarn_dim(r, dim, r->beta_fast)), 0);
    double high = fmin(ceil(yarn_dim(r, dim, r->beta_slow)), dim - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < dim / 2; i++) {
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        f[i] = f[i] / r->factor * ramp + f[i] * (1 - ramp);
    }
    if (r->attention_factor > 0) return r->attention_factor;
    return zb_yarn_m(r->factor, r->mscale) / zb_yarn_m(r->factor, r->mscale_all_dim);
}

static void llama3(const zb_rope *r, int dim, double *f) {
    for (int i = 0; i < dim / 2; i++) {
        double wave = 2 * pi / f[i], blend = (r->old_context / wave - r->low) / (r->high - r->low);
        if (wave > r->old_context / r->low)
            f[i] /= r->factor;
        else if (wave >= r->old_context / r->high)
            f[i] = (1 - blend) * f[i] / r->factor + blend * f[i];
    }
}

double zb_rope_frequencies(const zb_rope *r, int dim, double *out) {
    for (int i = 0; i < dim / 2; i++) out[i] = pow(r->theta, -2.0 * i / dim);
    if (r->type == ZB_ROPE_LINEAR)
        for (int i = 0; i < dim / 2; i++) out[i] /= r->factor;
    if (r->type == ZB_ROPE_LLAMA3) llama3(r, dim, out);
    return r->type == ZB_ROPE_YARN ? yarn(r, dim, out) : 1;
}

void zb_rope_reserve(zb_rope_table *t, const zb_rope *r, int dim, int rows, zb_arena *a) {
    int half = dim / 2;
    if (rows <= t->rows && t->half == half) return;
    int want = t->half == half && t->rows * 2 > rows ? t->rows * 2 : rows;
    if (want < 64) want = 64;
    double *f = ZB_NEW_ARRAY(a, double, half);
    double m = zb_rope_frequencies(r, dim, f);
    t->cos = ZB_NEW_ARRAY(a, float, (size_t)want *half);
    t->sin = ZB_NEW_ARRAY(a, float, (size_t)want *half);
    for (int p = 0; p < want; p++)
        for (int i = 0; i < half; i++) {
            t->cos[(size_t)p * half + i] = (float)(cos(p * f[i]) * m);
            t->sin[(size_t)p * half + i] = (float)(sin(p * f[i]) * m);
        }
    t->rows = want;
    t->half = half;
}

const int *zb_rope_positions(const zb_run *run) {
    int *at = ZB_RAW_ARRAY(run->arena, int, run->batch->n);
    for (int s = 0; s < run->batch->n_spans; s++) {
        const zb_span *sp = &run->batch->span[s];
        for (int i = 0; i < sp->n; i++) at[sp->start + i] = zb_span_past(sp) + i;
    }
    return at;
}

void zb_rope_turn(zb_run *run, float *x, int heads, bool inverse) {
    const zb_kernels *kn = zb_kernels_get();
    int n = run->batch->n, dh = run->config->dh, half = dh / 2;
    zb_mark mark = zb_arena_mark(run->arena);
    const int *position = zb_rope_positions(run);
#pragma omp parallel for schedule(static) if (n > ZB_FEW_TOKENS)
    for (int i = 0; i < n; i++) {
        size_t at = (size_t)position[i] * half;
        float *row = x + (size_t)i * heads * dh;
        for (int h = 0; h < heads; h++)
            kn->rope_halves(half, run->rope.cos + at, run->rope.sin + at, inverse, row + h * dh);
    }
    zb_arena_pop(run->arena, mark);
}

double zb_mla_scale(const zb_rope *r, int d_nope, int d_rope) {
    double scale = 1 / sqrt((double)(d_nope + d_rope));
    if (r->type == ZB_ROPE_YARN && r->mscale_all_dim != 0) {
        double m = zb_yarn_m(r->factor, r->mscale_all_dim);
        scale *= m * m;
    }
    return scale;
}
