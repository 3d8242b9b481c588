/* suite.h - everything that is measured of a model's quality in one go: tasks, perplexity,
 * divergence from a teacher. */
#ifndef ZB_EVAL_SUITE_H
#define ZB_EVAL_SUITE_H

#include "eval/eval.h"
#include "eval/perplexity.h"

typedef struct zb_suite_opts {
    const char *model, *teacher, *text; /* text NULL: no perplexity; teacher NULL: no divergence */
    int64_t text_tokens, sequence_length;
    const char *perplexity_out; /* JSON; NULL: none */
    const char *precision;
    const char *cache_type; /* of the model, not the teacher */
} zb_suite_opts;

extern const zb_opt zb_suite_opt_table[];

/* The table of scores and the line of perplexity are appended to `table`. Empty e->tasks: no tasks.
 */
zb_status zb_suite_run(const zb_suite_opts *o, const zb_eval_opts *e, zb_buf *table, zb_err *err);

#endif
