/* metric.h - from per-choice scores to a number with its standard error. Pure functions. */
#ifndef ZB_EVAL_METRIC_H
#define ZB_EVAL_METRIC_H

#include <stdint.h>

typedef struct zb_metric {
    double value;
    double stderr_of; /* NAN with fewer than two values: it cannot be estimated */
} zb_metric;

/* Index of the greatest score[i] / length[i] (length NULL: score[i]); the first wins a tie. n >= 1,
 * no NAN. */
int zb_metric_best(const double *score, const int64_t *length, int n);

/* Mean of n >= 1 values; standard error = sqrt(sum (x - mean)^2 / (n - 1)) / sqrt(n). */
zb_metric zb_metric_mean(const double *x, int64_t n);

/* Mean of k parts weighted by their sizes n_i; stderr = sqrt( (sum (n_i - 1) se_i^2 n_i) / (sum n_i
 * - k) / sum n_i ). */
zb_metric zb_metric_pool(const zb_metric *part, const int64_t *size, int k);

#endif
