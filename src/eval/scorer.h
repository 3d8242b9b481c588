/* scorer.h - what the evaluation asks of a model: log-probabilities of continuations, and texts.
 *
 * A request for a log-probability is a context of at least one token and a continuation of at least
 * one token, together at most max_length + 1 tokens; the answer is the sum over the continuation of
 * log p(token | all before it), in nats, and whether each of its tokens was the most probable one.
 * Requests of one group have the same context ids and stand next to each other, so that a scorer
 * can compute the context once. A request for a text is continued greedily; texts whose contexts
 * begin alike are best asked for in one call, the longest common beginning last. Memory of a
 * request is borrowed for the call. The evaluation calls from one thread; `self` belongs to whoever
 * made the scorer. */
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
    int n_shared;  /* first tokens of the context to be passed once for all neighbours that begin
                      with the same; 0: none; less than n_context */
} zb_loglik_request;

/* Tokens are chosen until `stop` says so, at most `max` (0: none); together at most max_length.
 * Before that a known answer may be scored behind the same context, which is passed only once. */
typedef struct zb_write_request {
    const int32_t *context;
    int n_context, max;
    const int32_t *answer; /* [n_answer]; n_answer 0: nothing is scored */
    int n_answer;
    zb_loglik answer_score;
    bool (*stop)(void *user, const int32_t *ids, int n); /* asked behind each token */
    void *user;
    int32_t *ids; /* [max] receives the tokens, the last one included */
    int n_ids;
} zb_write_request;

/* Whether a sequence's own tokens are foreseen: at each place the token behind it is asked for. */
typedef struct zb_probe {
    double logprob;    /* nats, of that token */
    bool best;         /* it is the most probable one of all */
    bool best_of_some; /* of the candidates */
} zb_probe;

typedef struct zb_probe_request {
    const int32_t *ids;
    int n;
    const int *at; /* [n_at] ascending, at least one, below n - 1 */
    int n_at;
    const int32_t *candidate; /* [n_candidates] */
    int n_candidates;
    zb_probe *out; /* [n_at] */
} zb_probe_request;

typedef struct zb_scorer {
    void *self;
    int max_length; /* most tokens of one model input */
    int32_t
        prefix_token; /* stands in for an empty context; -1: the tokenizer's BOS, else its EOS */
    zb_status (*loglik)(void *self, const zb_loglik_request *r, int n, zb_loglik *out, zb_err *err);
    zb_status (*write)(void *self, zb_write_request *r, int n, zb_err *err); /* NULL: cannot */
    zb_status (*probe)(void *self, const zb_probe_request *r, zb_err *err);  /* NULL: cannot */
} zb_scorer;

#endif
