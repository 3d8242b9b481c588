/* fewshot.h - which rows of a pool stand as examples before each document.
 *
 * Each part of a task has a sampler of its own, as each task of the harness has: the first rows of
 * the pool, or draws of CPython's generator with the harness's seed, one after another in the order
 * of the documents. So the examples of a document depend on how many were asked before it; all are
 * drawn before the work is shared among processes. */
#ifndef ZB_EVAL_FEWSHOT_H
#define ZB_EVAL_FEWSHOT_H

#include "eval/python_random.h"
#include "eval/rows.h"

typedef struct zb_fewshot {
    const zb_task *task;
    const zb_rows *pool;
    int shots;
    zb_python_random *random; /* [n_leaves] */
    int **member;             /* [n_leaves] rows of the pool that belong to the leaf */
    int *n_members;
    zb_arena *arena;
} zb_fewshot;

/* ZB_ERR_CONFIG if a selected part has too few rows in the pool. */
zb_status zb_fewshot_init(zb_fewshot *f, const zb_task *t, const zb_rows *pool, int shots,
                          zb_arena *a, zb_err *err);

/* Rows of the pool for the next document of `leaf`, `row` as templates see it. */
zb_status zb_fewshot_next(zb_fewshot *f, int leaf, const json_t *row, int *out, zb_err *err);

#endif
