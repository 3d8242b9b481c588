/* budget.h - the layer plan under a byte budget: measures, methods, verification.
 *
 * Each candidate is measured alone in each layer (measuring.h) into a table (measures.h); a method
 * turns the table into a plan (knapsack.h); the best few are measured as whole models and the best
 * of those is the result. Methods: `plan` minimises the sum of the layers' divergences (plus
 * recall_weight times what recall loses), `error` that of their relative errors, `recall` that of
 * what recall loses, all exactly; `kl` goes step by step by divergence per byte; `smart` and
 * `uniform` place two kinds. */
#ifndef ZB_COMPOSE_BUDGET_H
#define ZB_COMPOSE_BUDGET_H

#include "compose/select.h"

/* With method and tokens resolved. Writes `out`: the plan with its figures, alternatives, and the
 * comparison where one is asked for. */
zb_status zb_budget_run(const zb_select_opts *o, zb_err *err);

#endif
