/* quant_fit.c - see quant_fit.h.
 *
 * For codes q that are held fixed the best scale is d = Σwxq / Σwq², which leaves
 * Σwx² - (Σwxq)²/Σwq²; with a minimum, d and m solve the two normal equations. For a scale that is
 * held fixed the best codes are the nearest. Neither step can make the error larger, so alternating
 * them descends; where it ends depends on the start, so a grid of starts around the plain scale is
 * tried and the best one refined. Sums run in eight lanes: the same result on every machine, and
 * the compiler can keep the lanes in vectors. */
#include "tensor/quant_fit.h"

#include <math.h>

enum { LANES = 8, ROUNDS = 3 };

typedef struct sums {
    float w, x, xx, q, qq, xq; /* Σ of w times this */
} sums;

static float total(const float lane[LANES]) {
    float s = 0;
    for (int l = 0; l < LANES; l++) s += lane[l];
    return s;
}

double zb_fit_codes(int n, const float *x, const float *w, zb_fit f, float lo, float hi, float *q) {
    float lane[LANES] = {0};
    float inverse = f.d != 0 ? 1 / f.d : 0;
    if (!isfinite(inverse)) inverse = 0;
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            int j = i + l;
            q[j] = zb_fit_round((x[j] - f.m) * inverse, lo, hi);
            float e = x[j] - (f.d * q[j] + f.m);
            lane[l] += w[j] * e * e;
        }
    return (double)total(lane);
}

/* Σwxq and Σwq² of the codes of x·inverse. */
static void product_sums(int n, const float *x, const float *w, float inverse, float lo, float hi,
                         sums *s) {
    float xq[LANES] = {0}, qq[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float q = zb_fit_round(x[i + l] * inverse, lo, hi), wq = w[i + l] * q;
            xq[l] += wq * x[i + l];
            qq[l] += wq * q;
        }
    s->xq = total(xq);
    s->qq = total(qq);
}

zb_fit zb_fit_scale(int n, const float *x, const float *w, float lo, float hi, bool plain) {
    float extreme = 0, q[ZB_FIT_MAX];
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(extreme)) extreme = x[i];
    zb_fit best = {.d = -lo > hi ? extreme / lo : fabsf(extreme) / hi};
    best.error = zb_fit_codes(n, x, w, best, lo, hi, q);
    if (plain || extreme == 0 || !isfinite(1 / extreme)) return best;
    /* starts: the largest value up to 1.6 codes off either outermost one (where there are many
     * codes the start hardly matters, and both sides are the same when they are equally far) */
    float gain = 0, d = 0;
    int around = hi > 100 ? 2 : 8;
    for (int side = -lo > hi ? 0 : 1; side < 2; side++)
        for (int k = -around; k <= around; k++) {
            sums s;
            float at = side ? hi + 0.2f * (float)k : lo - 0.2f * (float)k;
            product_sums(n, x, w, at / extreme, lo, hi, &s);
            if (!(s.qq > 0) || !(s.xq * s.xq / s.qq > gain)) continue;
            gain = s.xq * s.xq / s.qq;
            d = s.xq / s.qq;
        }
    for (int r = 0; r < ROUNDS && d != 0 && isfinite(1 / d); r++) {
        sums s;
        zb_fit f = {.d = d};
        f.error = zb_fit_codes(n, x, w, f, lo, hi, q);
        if (f.error < best.error) best = f;
        product_sums(n, x, w, 1 / d, lo, hi, &s);
        if (!(s.qq > 0) || s.xq / s.qq == d) break;
        d = s.xq / s.qq;
    }
    return best;
}

/* Sums of the codes of (x - m)·inverse. */
static void affine_sums(int n, const float *x, const float *w, float m, float inverse, float hi,
                        sums *s) {
    float sq[LANES] = {0}, xq[LANES] = {0}, qq[LANES] = {0};
    for (int i = 0; i < n; i += LANES)
        for (int l = 0; l < LANES; l++) {
            float q = zb_fit_round((x[i + l] - m) * inverse, 0, hi), wq = w[i + l] * q;
            sq[l] += wq;
            xq[l] += wq * x[i + l];
            qq[l] += wq * q;
        }
    s->q = total(sq);
    s->xq = total(xq);
    s->qq = total(qq);
}

/* The best scale and minimum for codes with these sums; false if they do not determine them. */
static bool solve(const sums *s, bool below, zb_fit *f) {
    double det = (double)s->w * (double)s->qq - (double)s->q * (double)s->q;
    if (!(det > 0)) return false;
    f->d = (float)(((double)s->w * (double)s->xq - (double)s->q * (double)s->x) / det);
    f->m = (float)(((double)s->qq * (double)s->x - (double)s->q * (double)s->xq) / det);
    if (below && f->m > 0) *f = (zb_fit){.d = s->xq / s->qq};
    f->error = (double)s->xx - (double)f->d * (double)s->xq - (double)f->m * (double)s->x;
    return f->d > 0 && isfinite(1 / f->d);
}

zb_fit zb_fit_affine(int n, const float *x, const float *w, float hi, bool below, bool plain) {
    float least = x[0], most = x[0], q[ZB_FIT_MAX];
    sums s = {0};
    for (int i = 0; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
        s.w += w[i];
        s.x += w[i] * x[i];
        s.xx += w[i] * x[i] * x[i];
    }
    if (below && least > 0) least = 0;
    if (below && most < 0) most = 0;
    float range = most - least;
    zb_fit best = {.d = range / hi, .m = least}, start = {.error = HUGE_VAL};
    best.error = zb_fit_codes(n, x, w, best, 0, hi, q);
    if (plain || range == 0 || !isfinite(1 / range)) return best;
    for (int k = -4; k <= 10; k++) { /* starts: steps from 1.1 times the plain one down to 0.8 */
        zb_fit f;
        affine_sums(n, x, w, least, (hi * (1 + 0.025f * (float)k)) / range, hi, &s);
        if (solve(&s, below, &f) && f.error < start.error) start = f;
    }
    for (int r = 0; r < ROUNDS && isfinite(start.error); r++) {
        start.error = zb_fit_codes(n, x, w, start, 0, hi, q);
        if (start.error < best.error) best = start;
        affine_sums(n, x, w, start.m, 1 / start.d, hi, &s);
        if (!solve(&s, below, &start)) break;
    }
    return best;
}
