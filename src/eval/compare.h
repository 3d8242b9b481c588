/* compare.h - two evaluations of the same documents, paired.
 *
 * What one model answered better than another is measured document by document: the error of the
 * mean difference is far smaller than that of two independent means. Reads samples files, ours or
 * those of the LM Evaluation Harness. */
#ifndef ZB_EVAL_COMPARE_H
#define ZB_EVAL_COMPARE_H

#include "base/err.h"
#include "base/text.h"

#include <stdint.h>

/* Two-sided probability that `wins` or a more lopsided number of wins + losses fair tosses falls.
 */
double zb_compare_sign_test(int64_t wins, int64_t losses);

/* a and b: folders with samples_<task>.jsonl, or results files that name one (config.log_samples)
 * or stand in one, of which the tasks of the results are taken. Appends a Markdown table: task,
 * metric, documents, both means, difference and its standard error, better and worse documents,
 * sign test. Groups, which results files know, follow the tasks. */
zb_status zb_compare_run(const char *a, const char *b, zb_buf *out, zb_err *err);

#endif
