/* score.h - how probable a model finds each token of a given sequence. */
#ifndef ZB_GENERATE_SCORE_H
#define ZB_GENERATE_SCORE_H

#include "generate/engine.h"

typedef struct zb_token_score {
    double logprob;      /* log p(token | all before it), nats; 0 for the first token, which nothing
                            predicts */
    double best_logprob; /* of the most probable token there */
    int32_t best;        /* its id; -1 for the first token */
} zb_token_score;

/* Fills out[n] for ids[n], n ≥ 1. Log-sum-exps are f32 sums of f32 logits. */
zb_status zb_score(zb_engine *e, const int32_t *ids, int n, zb_token_score *out, zb_err *err);

#endif
