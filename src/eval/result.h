/* result.h - scores of an evaluation: one row per task, group and part, and their JSON form.
 *
 * Rows stand in the order of the table: a whole, below it its groups, below each its parts. The
 * result owns an arena with all of it. The JSON has the keys of the LM Evaluation Harness, so that
 * tools made for its files read ours; keys that would describe nothing here (batch sizes, seeds of
 * numpy and torch) are left out. */
#ifndef ZB_EVAL_RESULT_H
#define ZB_EVAL_RESULT_H

#include "base/json.h"
#include "eval/document.h"
#include "eval/score.h"

enum { ZB_LETTERS_MAX = 10 };

typedef struct zb_eval_score {
    const zb_score_kind *kind;
    const char *filter; /* "none" */
    zb_metric m;
} zb_eval_score;

/* Of tasks answered by a letter: how often each was chosen, and how often it was right. A model
 * that cannot do the task shows here that it always says the same. */
typedef struct zb_eval_letters {
    int n; /* 0: not answered by letters */
    int64_t chosen[ZB_LETTERS_MAX], right[ZB_LETTERS_MAX];
} zb_eval_letters;

typedef struct zb_eval_row {
    const char *name;  /* "mmlu_anatomy" */
    const char *alias; /* "  - anatomy" */
    int depth;         /* 0: counts in the average; parts of a row above it have a greater one */
    bool group;
    const zb_task *task;
    int64_t n, total;     /* documents scored; documents in the data */
    int shots;            /* examples before each question */
    zb_eval_score *score; /* one per metric of the task, in its order */
    int n_scores;
    zb_eval_letters letters;
} zb_eval_row;

typedef struct zb_eval_result {
    zb_arena arena;
    zb_eval_row *row;
    int n_rows;
    size_t cap;
    const char *model, *profile, *log_samples; /* as given; the last may be NULL */
    const char *precision, *cache_type;        /* may be NULL */
    double limit, part_limit;
    bool bos;       /* texts began with the BOS token */
    bool chat;      /* prompts were written in the model's chat form */
    bool multiturn; /* each example as a turn of its own */
    int max_length;
    double seconds;
} zb_eval_result;

void zb_eval_result_free(zb_eval_result *r); /* also after an error of zb_eval_run */

/* Adds the rows of one task from its answered documents. */
zb_status zb_eval_result_add(zb_eval_result *r, const zb_task *t, const zb_document_set *docs,
                             zb_arena *scratch, zb_err *err);

const zb_eval_row *zb_eval_find(const zb_eval_result *r, const char *name); /* NULL: no such row */

/* The score called `name` ("acc"); NULL: the row has none. */
const zb_metric *zb_eval_metric(const zb_eval_row *row, const char *name);

/* Unweighted mean over the rows of depth 0 that have an accuracy; `norm` takes acc_norm where a
 * task has it, else acc. NAN without rows. */
double zb_eval_average(const zb_eval_result *r, bool norm);

json_t *zb_eval_json(const zb_eval_result *r); /* new reference */

#endif
