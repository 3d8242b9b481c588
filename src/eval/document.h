/* document.h - rows of a data file as questions with contexts, continuations and the right answer.
 *
 * A leaf's documents are its first `limit` rows in file order. Text lives in the arena; the rows
 * stay with the set until it is freed, as samples files repeat them. A broken row is an error that
 * names file, line and field. */
#ifndef ZB_EVAL_DOCUMENT_H
#define ZB_EVAL_DOCUMENT_H

#include "eval/scorer.h"
#include "eval/task.h"

enum { ZB_CHOICES_MAX = 256 }; /* of one document */

typedef struct zb_choice {
    zb_str
        context; /* description and prompt; shared bytes (same pointer) if the choices share it */
    zb_str continuation; /* " " and the choice */
    int64_t length;      /* code points of the choice without the delimiter: divides in acc_norm */
    zb_loglik score;     /* filled in by the evaluation */
} zb_choice;

typedef struct zb_document {
    int64_t id; /* position in its leaf, from 0 */
    int leaf;
    const char *where; /* "data/eval/piqa.jsonl:12" */
    json_t *row;       /* borrowed from the set */
    zb_choice *choice;
    int n_choices;
    int gold;
    const char *target; /* as the harness's samples have it */
} zb_document;

typedef struct zb_document_set {
    zb_arena *arena;
    json_t *rows; /* array of all rows of the file */
    zb_document *doc;
    size_t n;
    int64_t *total; /* per leaf: rows in the file */
    int64_t *used;  /* per leaf: documents taken */
} zb_document_set;

/* limit 0: all; below 1: that share of each leaf, rounded up; else so many of each leaf. Only
 * selected leaves are taken. zb_document_set_free must be called, also after an error. */
zb_status zb_document_set_read(const zb_task *t, const char *data_dir, double limit, zb_arena *a,
                               zb_document_set *out, zb_err *err);
void zb_document_set_free(zb_document_set *s);

#endif
