/* golden.h - shared by the golden tests: reading reference tensors and comparing with a stated
 * tolerance. */
#ifndef ZB_TESTS_GOLDEN_H
#define ZB_TESTS_GOLDEN_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "format/safetensors.h"
#include "model/model.h"

#define CHECK(expr)                                                                                \
    do {                                                                                           \
        zb_err err = {0};                                                                          \
        if ((expr) != ZB_OK) fail_msg("%s: %s", #expr, err.msg);                                   \
    } while (0)

static inline const float *golden_f32(const zb_safetensors *s, const char *name, int64_t n) {
    const zb_tensor *t = zb_safetensors_find(s, name);
    if (!t) fail_msg("no reference tensor %s", name);
    assert_int_equal(t->dtype, ZB_F32);
    if (n >= 0) assert_int_equal(zb_tensor_count(t), n);
    return t->data;
}

static inline const int32_t *golden_i32(const zb_safetensors *s, const char *name, int64_t n) {
    const zb_tensor *t = zb_safetensors_find(s, name);
    if (!t) fail_msg("no reference tensor %s", name);
    assert_int_equal(t->dtype, ZB_I32);
    if (n >= 0) assert_int_equal(zb_tensor_count(t), n);
    return t->data;
}

/* |got - want| <= tol * (rms of want + tiny): relative to the tensor's own size, so that sums of
 * many products are judged alike. */
static inline void compare(const char *what, const float *got, const float *want, int64_t n,
                           double tol) {
    double rms = 0, worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) rms += (double)want[i] * (double)want[i];
    rms = sqrt(rms / (n ? (double)n : 1));
    for (int64_t i = 0; i < n && !isnan(worst); i++) { /* NaN is worst and stays it */
        double e = fabs((double)got[i] - (double)want[i]) / (rms + fabs((double)want[i]) + 1e-12);
        if (!(e <= worst)) worst = e, at = i;
    }
    if (!(worst <= tol))
        fail_msg("%s[%lld]: got %.8g, want %.8g, error %.3g of %.3g allowed (rms %.4g)", what,
                 (long long)at, (double)got[at], (double)want[at], worst, tol, rms);
}

/* Tolerance of a chain of f32 sums: rounding of one product (2^-24) grows with the square root of
 * the longest sum, and about 16 such sums follow each other in a layer, in the worst case in the
 * same direction. */
static inline double f32_tolerance(int layers, int longest) {
    return 0x1p-24 * 16 * layers * sqrt((double)longest);
}

/* Root mean square of the error relative to that of the reference. */
static inline void compare_rms(const char *what, const float *got, const float *want, int64_t n,
                               double tol) {
    double e = 0, w = 0;
    for (int64_t i = 0; i < n; i++) {
        e += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        w += (double)want[i] * (double)want[i];
    }
    double r = sqrt(e / (w + 1e-30));
    if (!(r <= tol)) fail_msg("%s: relative error %.3g of %.3g allowed", what, r, tol);
}

/* Spans of packed rows [B, T] by document number. Returns how many. */
static inline int golden_spans(const int32_t *seg, int B, int T, zb_span *span) {
    int n = 0;
    for (int b = 0; b < B; b++)
        for (int t = 0; t < T; t++) {
            int i = b * T + t;
            if (t == 0 || seg[i] != seg[i - 1])
                span[n++] = (zb_span){.start = i, .n = 1};
            else
                span[n - 1].n++;
        }
    return n;
}

#endif
