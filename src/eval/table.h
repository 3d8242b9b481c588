/* table.h - results as the LM Evaluation Harness prints them: a Markdown table of tasks, a second
 * one of groups. */
#ifndef ZB_EVAL_TABLE_H
#define ZB_EVAL_TABLE_H

#include "eval/result.h"

/* Appends the table (UTF-8, each line ended by a newline) to `out`. */
void zb_eval_table(const zb_eval_result *r, zb_buf *out);

#endif
