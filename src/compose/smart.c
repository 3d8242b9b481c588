/* smart.c - the choice of MLA layers (contract in smart.h).
 *
 * Let q = ⌊L/N⌋. The end layers f < q and l >= L - q are fixed first. Between them stand R = l -
 * f - N + 1 other layers in N - 1 gaps, each of ⌊R/(N-1)⌋ or one more. R >= 0: l - f >= L - 2q +
 * 1 >= N - 1, since 2q <= 2L/N and L(1 - 2/N) is at least N - 2 for L >= N >= 2. R split into N -
 * 1 nearly equal whole gaps is therefore always possible, and no rule for failure is needed.
 *
 * The best split is found exactly, from the back: best(j, p) is the largest sum of the layers
 * j..N-1 when the j-th stands at p; best(j, p) = s_p + max over the two allowed gaps of best(j+1,
 * p + 1 + gap), best(N-1, l) = s_l. Going forward from best(0, f) and taking the smaller gap on a
 * tie gives the choice that is earliest in order. */
#include "compose/smart.h"

#include <math.h>

static zb_status check_count(int total, int count, zb_err *err) {
    if (total < 0 || count < 0 || count > total)
        return zb_fail(err, ZB_ERR_CONFIG, "MLA layers: expected a count from 0 to %d, found %d",
                       total, count);
    return ZB_OK;
}

/* The first of the largest of s[from..to-1]. */
static int peak(const double *s, int from, int to) {
    int best = from;
    for (int i = from + 1; i < to; i++)
        if (s[i] > s[best]) best = i;
    return best;
}

zb_status zb_smart_select(const double *sensitivity, int total, int count, int *layers,
                          zb_arena *arena, zb_err *err) {
    ZB_TRY(check_count(total, count, err));
    for (int i = 0; i < total; i++)
        if (!isfinite(sensitivity[i]))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "sensitivity of layer %d: expected a finite number, found %g", i,
                           sensitivity[i]);
    if (count == 0) return ZB_OK;
    if (count == 1) {
        layers[0] = peak(sensitivity, 0, total);
        return ZB_OK;
    }
    int window = total / count, first = peak(sensitivity, 0, window),
        last = peak(sensitivity, total - window, total);
    int rest = last - first - count + 1, low = rest / (count - 1),
        high = low + (rest % (count - 1) != 0);

    /* best[j * total + p], -inf where no allowed choice continues */
    zb_mark mark = zb_arena_mark(arena);
    double *best = ZB_NEW_ARRAY(arena, double, total *(int64_t)count);
    for (int64_t i = 0; i < (int64_t)count * total; i++) best[i] = -HUGE_VAL;
    best[(count - 1) * total + last] = sensitivity[last];
    for (int j = count - 2; j >= 0; j--) {
        const double *next = best + (int64_t)(j + 1) * total;
        for (int p = first; p + 1 + low <= last; p++) {
            double tail = next[p + 1 + low];
            if (p + 1 + high <= last) tail = fmax(tail, next[p + 1 + high]);
            best[j * total + p] = sensitivity[p] + tail;
        }
    }
    layers[0] = first;
    for (int j = 1; j < count; j++) {
        const double *next = best + (int64_t)j * total;
        int near = layers[j - 1] + 1 + low, far = layers[j - 1] + 1 + high;
        layers[j] = far <= last && next[far] > next[near] ? far : near;
    }
    zb_arena_pop(arena, mark);
    ZB_ASSERT(layers[count - 1] == last);
    return ZB_OK;
}

zb_status zb_smart_uniform(int total, int count, int *layers, zb_err *err) {
    ZB_TRY(check_count(total, count, err));
    if (count == 1) layers[0] = (total - 1) / 2;
    for (int i = 0; i < count && count > 1; i++)
        layers[i] = (int)((int64_t)i * (total - 1) / (count - 1));
    return ZB_OK;
}
