/* compare.h - two evaluations of the same documents, paired.
 *
 * What one model answered better than another is measured document by document: the error of the
 * mean difference is far smaller than that of two independent means. Reads samples files, ours or
 * those of the LM Evaluation Harness. */
#ifndef ZB_EVAL_COMPARE_H
#define ZB_EVAL_COMPARE_H

#include "base/arena.h"
#include "base/json.h"
#include "base/text.h"
#include "eval/metric.h"

/* Two-sided probability that `wins` or a more lopsided number of wins + losses fair tosses falls.
 */
double zb_compare_sign_test(int64_t wins, int64_t losses);

/* One metric of one task, or of all documents of a group by its tasks' first metrics. */
typedef struct zb_compared {
    const char *task, *metric; /* "acc", or with its filter: "exact_match,strict-match" */
    bool group;
    int64_t n, better, worse; /* documents; of these, better and worse in b than in a */
    double a, b;              /* means */
    zb_metric difference;     /* of b - a: mean and its standard error */
} zb_compared;

typedef struct zb_comparison {
    zb_arena arena; /* of all names */
    zb_compared *row;
    size_t n, cap;
    int counted; /* tasks in the mean: a group counts once, its tasks do not */
    double a, b; /* unweighted means over first metrics */
    zb_metric difference;
} zb_comparison;

/* a and b: folders with samples_<task>.jsonl, or results files that name one (config.log_samples)
 * or stand in one, of which the tasks of the results are taken. Groups, which results files know,
 * follow the tasks. Free the comparison also after an error. */
zb_status zb_compare_run(const char *a, const char *b, zb_comparison *out, zb_err *err);
void zb_comparison_free(zb_comparison *c);

/* Appends a Markdown table: task, metric, documents, both means, difference and its standard error,
 * better and worse documents, sign test. */
void zb_comparison_text(const zb_comparison *c, zb_buf *out);

/* {"tasks": {task: {metric: {"n", "a", "b", "difference", "stderr", "better", "worse",
 * "sign_test"}}}, "groups": as tasks, "mean": {"tasks", "a", "b", "difference", "stderr"}}; a
 * standard error that cannot be estimated is null. A new reference. */
json_t *zb_comparison_json(const zb_comparison *c);

#endif
