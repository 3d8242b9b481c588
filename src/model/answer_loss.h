/* answer_loss.h - log-probabilities of answers, and their gradient.
 *
 * Of each span of a batch: the sum over its learnt tokens of log p(token | all before it), as
 * preference losses take it (Rafailov et al. 2023, section 4) and as supervised training maximises
 * it. Only rows that predict a learnt token meet the vocabulary. */
#ifndef ZB_MODEL_ANSWER_LOSS_H
#define ZB_MODEL_ANSWER_LOSS_H

#include "model/model.h"

typedef struct zb_answer_pass {
    zb_runner *runner; /* in a pass over the batch */
    const zb_batch *batch;
    const uint8_t *learnt; /* [n]; 0 for the first token of a span */
    const float *hidden;   /* [n, D] final rows */
    double *logp;          /* [n_spans], assigned, in nats */
    const double *slope;   /* [n_spans] d loss / d logp; NULL: no gradient */
    float *dhidden;        /* [n, D], added to with `slope`; the head's gradient as well */
} zb_answer_pass;
void zb_answer_logp(const zb_answer_pass *p);

/* Tokens of the batch that are learnt. */
int64_t zb_answer_count(const zb_batch *b, const uint8_t *learnt);

/* Bytes it takes from the runner's arena for a batch of n tokens. */
size_t zb_answer_room(const zb_config *c, int n, int threads);

#endif
