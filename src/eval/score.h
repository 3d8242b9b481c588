/* score.h - the metrics: what one document contributes, and how the contributions become a number.
 *
 * A document gives each of its task's metrics a value, and perplexities also a weight (words or
 * bytes); an aggregation makes of these a zb_metric. The names and formulas are those of the LM
 * Evaluation Harness. Pure functions. */
#ifndef ZB_EVAL_SCORE_H
#define ZB_EVAL_SCORE_H

#include "eval/document.h"
#include "eval/metric.h"

typedef enum zb_score_sum {
    ZB_SCORE_MEAN,       /* mean of the values */
    ZB_SCORE_PERPLEXITY, /* exp(-mean); error by bootstrap */
    ZB_SCORE_RATIO,      /* exp(-sum of values / sum of weights); no error */
    ZB_SCORE_BITS,       /* -sum of values / sum of weights / ln 2; no error */
} zb_score_sum;

typedef struct zb_score_value {
    double x, weight;
} zb_score_value;

struct zb_score_kind {
    zb_task_output output;
    const char *key;  /* in task files: "mc2" */
    const char *name; /* in tables and results: "acc" */
    bool higher_is_better, needs_labels;
    zb_score_sum sum;
    zb_score_value (*of)(const zb_task *t, const zb_document *d, const zb_filter *f,
                         zb_arena *scratch);
};

const zb_score_kind *zb_score_find(zb_task_output output, const char *key); /* NULL: unknown */
const char *zb_score_names(zb_task_output output, zb_arena *a);             /* for messages */

/* n >= 1 values of one metric. */
zb_metric zb_score_total(const zb_score_kind *k, const zb_score_value *x, int64_t n,
                         zb_arena *scratch);

#endif
