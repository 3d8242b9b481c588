/* check_attend.c - kernels of kern_attend.c against their formulas in double precision (rules and
 * tolerances of check.c). */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Pieces of one row, one after the other, end at the softmax of the whole. */
void check_softmax_step(const zb_kernels *k) {
    for (int r = 0; r < 300; r++) {
        int n = 1 + draw_below(200), masked = r % 4 ? draw_below(8) : 0;
        float *x = take_random(0, n, r % 3 ? 5 : 60), *x0 = copy_of(x, n), max = -INFINITY;
        double sum = 0, top = -HUGE_VAL, want = 0;
        for (int i = 0; i < n; i++)
            if (draw_below(8) < masked) x[i] = x0[i] = -INFINITY;
        for (int at = 0; at < n;) {
            int piece = draw_below(n - at + 1);
            float before = max, part = k->softmax_step(piece, &max, x + at);
            for (int i = 0; i < piece; i++) {
                double v = (double)x0[at + i];
                top = fmax(top, v);
            }
            near(n, at, (double)max, top, 0);
            for (int i = 0; i < piece; i++) {
                double e = top > -HUGE_VAL ? exp((double)x0[at + i] - top) : 0;
                near(n, at + i, (double)x[at + i], e, e * (2e-7 + 200 * EPS) + exp(-87.3));
            }
            if (sum > 0) sum *= exp((double)before - (double)max);
            sum += (double)part;
            at += piece;
        }
        for (int i = 0; i < n; i++)
            if (top > -HUGE_VAL) want += exp((double)x0[i] - top);
        near(n, -1, sum, want, want * (4e-7 + 400 * EPS));
        guards(n);
        free(x0);
    }
    float x[20] = {0}, max = -INFINITY; /* NaN is not hidden */
    x[17] = NAN;
    near(20, -2, (double)k->softmax_step(20, &max, x), nan(""), 0);
}

/* The halves as a line of numbers: the bits of positive halves rise with their value. */
static double nearest_half(double v) {
    int lo = 0, hi = 0x7c00; /* infinity stands where 65536 would */
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (half_value((uint16_t)mid) <= v)
            lo = mid;
        else
            hi = mid;
    }
    double below = half_value((uint16_t)lo),
           above = hi == 0x7c00 ? 65536 : half_value((uint16_t)hi);
    bool down = v - below < above - v || (v - below == above - v && !(lo & 1));
    return down ? below : hi == 0x7c00 ? HUGE_VAL : above;
}

void check_f16(const zb_kernels *k) {
    enum { N = 4099 };
    for (int round = 0; round < 12; round++) {
        int n = round < 10 ? 1 + draw_below(70) : N - round;
        float *x = take(0, n), *y = take(1, n);
        uint16_t *h = guard_take(2, (size_t)n * 2);
        for (int i = 0; i < n; i++) {
            x[i] = (float)ldexp(draw(), draw_below(48) - 28);
            if (i % 3 == 0)
                x[i] = (float)(ldexp(draw_below(4096) + 0.5, draw_below(31) - 26)); /* ties */
            if (i % 7 == 0) x[i] = -x[i];
            if (i % 50 == 49) x[i] = i % 100 == 99 ? NAN : i % 3 ? INFINITY : 65520;
        }
        k->f32_to_f16(n, x, h);
        k->f16_to_f32(n, h, y);
        for (int i = 0; i < n; i++) {
            double want =
                isnan(x[i]) ? nan("") : copysign(nearest_half(fabs((double)x[i])), (double)x[i]);
            if (isinf(x[i])) want = (double)x[i];
            near(n, i, half_value(h[i]), want, 0);
            near(n, i, (double)y[i], want, 0);
        }
        guards(n);
    }
}

void check_q8_0(const zb_kernels *k) {
    for (int n = 0; n < 140; n++) {
        size_t bytes = (size_t)(n + 31) / 32 * 34;
        float *x = take_random(0, n, pow(10, draw_below(9) - 4)), *y = take(1, n);
        uint8_t *b = guard_take(2, bytes);
        if (n > 70) memset(x + 32, 0, 32 * sizeof *x); /* a block of nothing */
        memset(b, 0xff, bytes);
        k->f32_to_q8_0(n, x, b);
        k->q8_0_to_f32(n, b, y);
        for (int i = 0; i < n; i++) {
            double max = 0, d = half_value((uint16_t)(b[i / 32 * 34] | b[i / 32 * 34 + 1] << 8));
            for (int j = i / 32 * 32; j < n && j < i / 32 * 32 + 32; j++)
                max = fmax(max, fabs((double)x[j]));
            /* d is max/127 to the precision of a half (subnormal where it is tiny), so the ends of
             * the range may be cut by as much */
            double d_error = fmax(max / 127 * 0x1p-11, 0x1p-25);
            near(n, i, d, max / 127, d_error * (1 + 1e-6));
            near(n, i, (double)y[i], (double)x[i], d / 2 * (1 + 1e-5) + 127.5 * d_error);
            near(n, i, (double)y[i], d * (int8_t)b[i / 32 * 34 + 2 + i % 32], d * 127 * EPS);
        }
        for (int i = n; i % 32; i++) near(n, i, b[i / 32 * 34 + 2 + i % 32], 0, 0);
        guards(n);
    }
    float x[32] = {0}, y[32];
    uint8_t b[34];
    x[9] = NAN; /* NaN is not hidden */
    x[10] = 1;
    k->f32_to_q8_0(32, x, b);
    k->q8_0_to_f32(32, b, y);
    near(32, 10, (double)y[10], nan(""), 0);
    x[9] = 1e9f; /* beyond what a block can hold: the largest it can */
    k->f32_to_q8_0(32, x, b);
    k->q8_0_to_f32(32, b, y);
    near(32, 9, (double)y[9], 127.0 * 65504, 1);
}
