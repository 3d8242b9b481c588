/* rows.h - the rows of a data file, with the part each belongs to.
 *
 * One JSON object a line (.gz too), or a .txt file as one row {"text": ...}. Rows are kept as they
 * stand in the file and with the fields of the task's row rule. A broken row is an error that names
 * file and line. zb_rows_free must be called, also after an error; all but the JSON lives in the
 * arena. */
#ifndef ZB_EVAL_ROWS_H
#define ZB_EVAL_ROWS_H

#include "eval/task.h"

typedef struct zb_rows {
    const char *path;
    json_t *list, *fields; /* arrays of n objects; the second with the row rule's fields */
    const char **where;    /* [n] "data/eval/piqa.jsonl:12" */
    int *leaf;             /* [n] */
    size_t n;
} zb_rows;

/* `file` is one of the task's: its data or its few-shot pool; `expected` rows (0: not checked). */
zb_status zb_rows_read(const zb_task *t, const char *dir, const char *file, int64_t expected,
                       zb_arena *a, zb_rows *out, zb_err *err);
void zb_rows_free(zb_rows *r);

const json_t *zb_rows_fields(const zb_rows *r, size_t i);                  /* what templates see */
const json_t *zb_rows_shown(const zb_rows *r, const zb_task *t, size_t i); /* what samples show */

#endif
