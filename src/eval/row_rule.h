/* row_rule.h - the named functions that make further fields of a data row, for what a template
 * cannot say: {process: race} in a task file.
 *
 * Each follows the process_docs or preprocess function of the LM Evaluation Harness it stands for.
 * Pure functions; the fields go into a shallow copy of the row. */
#ifndef ZB_EVAL_ROW_RULE_H
#define ZB_EVAL_ROW_RULE_H

#include "base/arena.h"
#include "base/err.h"

#include <jansson.h>

typedef struct zb_row_rule {
    const char *name;
    bool in_samples; /* samples files and their hashes show the new fields, as the harness's do */
    /* Adds fields to `row`; `where` ("race.jsonl:12") starts the message of an error. */
    zb_status (*apply)(json_t *row, const char *where, zb_arena *a, zb_err *err);
} zb_row_rule;

const zb_row_rule *zb_row_rule_find(const char *name); /* NULL: unknown */
const char *zb_row_rule_names(void);                   /* for messages */

#endif
