/* model_scorer.h - a scorer (eval/scorer.h) that runs a model.
 *
 * Documents share their context's computation: a batch of contexts is passed once, each leaving a
 * state; the continuations of more than one token are then passed from copies of those states, all
 * in one batch. A single-token continuation costs nothing beyond its context. Contexts that begin
 * alike, as those behind the same examples do, go on from copies of one state behind what they
 * share; it is kept from call to call, so the model must not change meanwhile. Prompts of texts
 * share their beginning in the same way. They, probes, and documents too long for a batch are
 * passed in pieces, so their length is bounded by the memory of two states. */
#ifndef ZB_EVAL_MODEL_SCORER_H
#define ZB_EVAL_MODEL_SCORER_H

#include "eval/scorer.h"
#include "model/model.h"

typedef struct zb_model_scorer zb_model_scorer;

/* The runner is borrowed. max_length 0: the model's context. */
zb_status zb_model_scorer_new(zb_model_scorer **out, zb_runner *r, int max_length, zb_err *err);
void zb_model_scorer_free(zb_model_scorer *m);
zb_scorer zb_model_scorer_get(zb_model_scorer *m); /* valid while m lives */

#endif
