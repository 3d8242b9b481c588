/* request.h - from text to token ids: what is the context, what the continuation, what of it fits.
 *
 * The rules are those of the LM Evaluation Harness (ecosystem.md 3.3). A maker remembers the ids of
 * the last context, so choices that share a context get the same ids, by pointer. Ids live in the
 * maker's arena. A maker belongs to one thread. */
#ifndef ZB_EVAL_REQUEST_H
#define ZB_EVAL_REQUEST_H

#include "base/arena.h"
#include "eval/scorer.h"
#include "format/tokenizer.h"

typedef struct zb_request_maker {
    const zb_tokenizer *tokenizer;
    int32_t bos;    /* put before each text; -1: none */
    int32_t prefix; /* stands in for an empty context; -1: an empty context is an error */
    int max_length; /* most tokens of one model input */
    zb_arena *arena;
    zb_str context; /* the last one, and its ids */
    zb_ids ids;
} zb_request_maker;

/* Fills all of *out but the group. `where` starts the message of an error. */
zb_status zb_request_make(zb_request_maker *m, zb_str context, zb_str continuation,
                          const char *where, zb_loglik_request *out, zb_err *err);

/* Answers all n requests in an order that suits a model (groups together, long ones first), in
 * calls of limited size, with progress under the name `what`. out[i] belongs to r[i]. Sets the
 * groups: neighbours with the same context. */
zb_status zb_request_score(const zb_scorer *s, zb_loglik_request *r, size_t n, const char *what,
                           zb_arena *a, zb_loglik *out, zb_err *err);

#endif
