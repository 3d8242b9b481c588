/* quant_fit.h - the best scale (and minimum) of a few weights for given integer codes.
 *
 * Weighted least squares: Σ w (x - d·q)² or Σ w (x - (d·q + m))², searched over candidate scales
 * and improved by alternating between rounding and solving. Private to quant.c and quant_k.c. n is
 * a multiple of 8; w holds positive weights. Pure functions. */
#ifndef ZB_TENSOR_QUANT_FIT_H
#define ZB_TENSOR_QUANT_FIT_H

#include <stdbool.h>

enum { ZB_FIT_MAX = 256 };

/* The nearest integer in [lo, hi]; x finite, |lo|, |hi| < 2^22. */
static inline float zb_fit_round(float x, float lo, float hi) {
    const float big = 12582912.0f; /* 1.5·2^23: adding it leaves no bits behind the point */
    x = x > lo ? x : lo;
    x = x < hi ? x : hi;
    return (x + big) - big;
}

typedef struct zb_fit {
    float d, m;   /* scale; what is added (0 in a symmetric fit) */
    double error; /* Σ w (x - (d·q + m))² */
} zb_fit;

/* Codes q (as floats) of x for a scale and minimum, and the error they leave. d = 0: all codes are
 * those of 0. */
double zb_fit_codes(int n, const float *x, const float *w, zb_fit f, float lo, float hi, float *q);

/* Symmetric codes in [lo, hi], lo < 0 < hi. `plain`: the largest value takes the outermost code,
 * nothing is searched. All zero: d = 0. */
zb_fit zb_fit_scale(int n, const float *x, const float *w, float lo, float hi, bool plain);

/* Codes in [0, hi] with a minimum; `below`: the minimum is not above 0. */
zb_fit zb_fit_affine(int n, const float *x, const float *w, float hi, bool below, bool plain);

#endif
