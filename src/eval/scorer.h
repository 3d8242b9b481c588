/* scorer.h - what the evaluation asks of a model: log-probabilities of continuations, and texts.
 *
 * A request for a log-probability is a context of at least one token and a continuation of at least
 * one token, together at most max_length + 1 tokens; the answer is the sum over the continuation of
 * log p(token | all before it), in nats, and whether each of its tokens was the most probable one.
 * Requests of one group have the same context ids and stand next to each other, so that a scorer
 * can compute the context once. A request for a text is continued greedily. Memory of a request is
 * borrowed for the call. The evaluation calls from one thread; `self` belongs to whoever made the
 * scorer. */
#ifndef ZB_EVAL_SCORER_H
#define ZB_EVAL_SCORER_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct zb_loglik {
    double logprob; /* nats, summed over the continuation */
    bool greedy;
} zb_loglik;

typedef struct zb_loglik_request {
    const int32_t *context;
    int n_context;
    const int32_t *continuation;
    int n_continuation;
    int64_t group; /* same group = same context */
} zb_loglik_request;

/* Tokens are chosen until `stop` says so, at most `max`; together at most max_length. */
typedef struct zb_write_request {
    const int32_t *context;
    int n_context, max;
    bool (*stop)(void *user, const int32_t *ids, int n); /* asked behind each token */
    void *user;
    int32_t *ids; /* [max] receives the tokens, the last one included */
    int n_ids;
} zb_write_request;

typedef struct zb_scorer {
    void *self;
    int max_length; /* most tokens of one model input */
    int32_t
        prefix_token; /* stands in for an empty context; -1: the tokenizer's BOS, else its EOS */
    zb_status (*loglik)(void *self, const zb_loglik_request *r, int n, zb_loglik *out, zb_err *err);
    zb_status (*write)(void *self, zb_write_request *r, int n, zb_err *err); /* NULL: cannot */
} zb_scorer;

#endif
