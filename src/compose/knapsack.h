/* knapsack.h - one choice per layer under a byte budget: the best plan, and simpler ways to one.
 *
 * Pure functions on a table of losses and costs, layers × choices. Losses are taken to add up over
 * layers: an estimate, so callers verify the few best plans. Everything returned lives in the
 * arena. */
#ifndef ZB_COMPOSE_KNAPSACK_H
#define ZB_COMPOSE_KNAPSACK_H

#include "base/arena.h"
#include "base/err.h"

enum { ZB_CHOICES_MAX = 64, ZB_PLANS_MAX = 16 };

typedef struct zb_knapsack {
    int layers, choices;   /* at most ZB_CHOICES_MAX choices */
    const double *loss;    /* [layers, choices]; not finite: not to be chosen */
    const int64_t *bytes;  /* [layers, choices], >= 0 */
    const int64_t *common; /* [choices, 2]: sizes that a model has once. A plan holds no two
                              choices that differ in a column where both are positive */
} zb_knapsack;

typedef struct zb_allotment { /* a plan */
    int *choice;              /* [layers] */
    double loss;
    int64_t bytes;
} zb_allotment;

/* Bytes of the cheapest plan there is; -1: some layer has nothing to choose. */
int64_t zb_knapsack_least(const zb_knapsack *k, zb_arena *a);

/* ZB_ERR_CONFIG where the budget is below that, which the message names, or nothing can be chosen.
 */
zb_status zb_knapsack_check(const zb_knapsack *k, int64_t budget, zb_arena *a, zb_err *err);

/* The *n <= ZB_PLANS_MAX plans of the smallest loss within the budget, best first (fewer where
 * there are no more). *n holds the number wanted. Costs above the cheapest choice of each layer are
 * counted in units of their greatest common divisor, or, where the budget has more than 2^15 of
 * those, of budget / 2^15, rounded up: never above the budget, and exact in the first case. Errors:
 * those of zb_knapsack_check. */
zb_status zb_knapsack_best(const zb_knapsack *k, int64_t budget, zb_allotment *out, int *n,
                           zb_arena *a, zb_err *err);

/* From the cheapest plan, always the change of one layer that lowers the loss most per byte, until
 * none fits. */
zb_status zb_knapsack_greedy(const zb_knapsack *k, int64_t budget, zb_allotment *out, zb_arena *a,
                             zb_err *err);

/* Two kinds only: one choice for all layers but some, another one there, placed evenly or as SMART
 * does by the loss it saves (smart.h). Of all pairs and numbers that fit the one with the smallest
 * loss. */
zb_status zb_knapsack_two(const zb_knapsack *k, int64_t budget, bool smart, zb_allotment *out,
                          zb_arena *a, zb_err *err);

#endif
