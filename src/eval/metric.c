/* metric.c - accuracy, standard error of a mean, pooled standard error of a group (contract and
 * formulas in metric.h; source: lm_eval/api/metrics.py).
 *
 * For the 0/1 values of acc the error of a mean is sqrt(p (1 - p) / (n - 1)). */
#include "eval/metric.h"

#include "base/err.h"

#include <math.h>
#include <stddef.h>

int zb_metric_best(const double *score, const int64_t *length, int n) {
    ZB_ASSERT(n >= 1);
    int best = 0;
    double best_score = -(double)INFINITY;
    for (int i = 0; i < n; i++) {
        double x = length ? score[i] / (double)length[i] : score[i];
        if (i > 0 && !(x > best_score)) continue;
        best = i;
        best_score = x;
    }
    return best;
}

zb_metric zb_metric_mean(const double *x, int64_t n) {
    ZB_ASSERT(n >= 1);
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    zb_metric m = {.value = sum / (double)n, .stderr_of = (double)NAN};
    if (n < 2) return m;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - m.value) * (x[i] - m.value);
    m.stderr_of = sqrt(squares / (double)(n - 1)) / sqrt((double)n);
    return m;
}

zb_metric zb_metric_pool(const zb_metric *part, const int64_t *size, int k) {
    ZB_ASSERT(k >= 1);
    double total = 0, mean = 0, variance = 0;
    for (int i = 0; i < k; i++) {
        double n = (double)size[i];
        total += n;
        mean += part[i].value * n;
        variance += (n - 1) * part[i].stderr_of * part[i].stderr_of * n;
    }
    zb_metric m = {.value = mean / total, .stderr_of = (double)NAN};
    /* A part with one value has no error of its own; NAN then passes through, as the harness's
     * "N/A" does. */
    if (total > (double)k) m.stderr_of = sqrt(variance / (total - (double)k) / total);
    return m;
}
