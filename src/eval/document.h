/* document.h - rows of a data file as questions with contexts, continuations and the right answer.
 *
 * A leaf's documents are its first `limit` rows in file order, or those that are picked by number.
 * Text lives in the arena; the rows stay with the set until it is freed, as samples files repeat
 * them. A broken row is an error that names file, line and field. */
#ifndef ZB_EVAL_DOCUMENT_H
#define ZB_EVAL_DOCUMENT_H

#include "eval/prompt.h"
#include "eval/rows.h"
#include "eval/scorer.h"

enum { ZB_CHOICES_MAX = 256 }; /* of one document */

typedef struct zb_choice {
    zb_str
        context; /* description and prompt; shared bytes (same pointer) if the choices share it */
    zb_str continuation; /* " " and the choice; of a rolling task the whole text */
    int64_t length;      /* code points of the choice without the delimiter: divides in acc_norm */
    int64_t bytes;       /* of the same: divides in acc_bytes */
    zb_loglik score;     /* filled in by the evaluation */
} zb_choice;

typedef struct zb_document {
    int64_t id; /* position in its leaf, from 0 */
    int leaf;
    const char *where; /* "data/eval/piqa.jsonl:12" */
    const json_t *row; /* as samples show it; borrowed from the set */
    zb_choice *choice; /* one of the outputs without choices */
    int n_choices;
    int gold;
    const bool *label;    /* per choice: is it right (mc2); NULL without */
    int64_t words, bytes; /* of the text that divides in perplexities */
    const char *target;   /* as the harness's samples have it */
    zb_str reply;         /* the generated text, filled in by the evaluation */
} zb_document;

/* Which documents, and how their contexts are written. */
typedef struct zb_document_opts {
    const char *data_dir;
    double limit;         /* 0: all; below 1: that share of each leaf, rounded up; else so many */
    const json_t *picked; /* {"leaf": [numbers]}; NULL, or a leaf that is not in it: by limit */
    int64_t shots;        /* examples; negative: as the task says */
    zb_prompt_style style;
} zb_document_opts;

typedef struct zb_document_set {
    zb_arena *arena;
    zb_rows rows, pool; /* pool: of examples, empty without */
    zb_document *doc;
    size_t n;
    int shots;
    int64_t *total; /* per leaf: rows in the file */
    int64_t *used;  /* per leaf: documents taken */
} zb_document_set;

/* Only selected leaves are taken. zb_document_set_free must be called, also after an error. */
zb_status zb_document_set_read(const zb_task *t, const zb_document_opts *o, zb_arena *a,
                               zb_document_set *out, zb_err *err);
void zb_document_set_free(zb_document_set *s);

#endif
