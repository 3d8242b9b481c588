/* perplexity.h - perplexity of a text file, and divergence from a teacher on it.
 *
 * The text's documents are packed into rows of `sequence_length` tokens; every token behind the
 * first of its piece of a row is predicted. */
#ifndef ZB_EVAL_PERPLEXITY_H
#define ZB_EVAL_PERPLEXITY_H

#include "model/model.h"

typedef struct zb_perplexity_job {
    zb_runner *model, *teacher; /* teacher NULL: no divergence */
    const zb_tokenizer *tokenizer;
    const char *text;   /* JSONL or .txt */
    int64_t tokens_max; /* 0: all */
    int sequence_length;
} zb_perplexity_job;

typedef struct zb_perplexity {
    double perplexity, nats; /* exp of nats; mean per predicted token */
    double nats_error;       /* standard error of that mean over rows; NAN: there is only one */
    double kl, agreement;    /* nats per token; share of tokens with the teacher's best id */
    int64_t predicted, tokens;
} zb_perplexity;

/* A text of which nothing is predicted is an error. */
zb_status zb_perplexity_run(const zb_perplexity_job *j, zb_perplexity *out, zb_err *err);
json_t *zb_perplexity_json(const zb_perplexity *p, bool with_teacher);

#endif
