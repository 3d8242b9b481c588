/* measuring.h - candidates in single layers of a teacher, and whole plans, judged on text.
 *
 * The teacher passes over the text once and its hidden states are kept, so a candidate in layer l
 * costs layers l.. and the head. Beside the divergence on text it measures associative recall:
 * pairs of random tokens, then the same pairs in another order; the cross-entropy of each second
 * token says whether the model still finds what stood far back. Candidates are models whose layers
 * are taken out; those without a donor are composed into a folder first. One thread. */
#ifndef ZB_COMPOSE_MEASURING_H
#define ZB_COMPOSE_MEASURING_H

#include "compose/compose.h"
#include "compose/measures.h"

typedef struct zb_measuring_opts {
    const char *teacher, *text;     /* model; held-out text */
    const char *students;           /* folder for composed candidates */
    const char *precision;          /* of matrix products */
    int64_t tokens, length, batch;  /* of text; of a row; rows per pass */
    int64_t recall_rows;            /* rows of 64 pairs; 0: no recall */
    int64_t seed;                   /* of the pairs */
    const zb_compose_opts *compose; /* how candidates are composed: all but kind and sizes */
    bool renew;                     /* folders of candidates that are stale; else an error */
} zb_measuring_opts;

typedef struct zb_measuring zb_measuring;

/* Opens a model for many passes: unpacked once, by which small quantised models pass a third
 * faster, where its f32 weights take at most a quarter of the machine's memory; else as its file
 * has it. */
zb_status zb_measuring_open(zb_model **out, const char *path, zb_err *err);

/* Options are borrowed. Opens the teacher and passes over the text. */
zb_status zb_measuring_new(zb_measuring **out, const zb_measuring_opts *o, zb_err *err);
void zb_measuring_free(zb_measuring *m); /* NULL is legal */

/* Whether a candidate's weights depend on this option of composing; its kind and sizes are in its
 * name. */
bool zb_measuring_depends(const char *compose_option);

/* All that decides what a row of the table says, for measures.h; a new reference. */
json_t *zb_measuring_setup(const zb_measuring_opts *o);

/* Sizes and the teacher's own figures into an empty table; an error where a table that is not
 * empty has others. */
zb_status zb_measuring_describe(const zb_measuring *m, zb_measures *t, zb_err *err);

/* An error if the rows of candidate `index` are of another window than composing gives it now, or
 * of a donor that has been trained on. */
zb_status zb_measuring_check(const zb_compose_opts *o, const zb_measures *t, int index,
                             zb_err *err);

/* What candidate `index` takes in each layer, from its configuration alone, into rows that are not
 * done. What composing it would refuse before it looks at text, and a donor of other sizes, are
 * refused here. */
zb_status zb_measuring_sizes(const zb_measuring *m, zb_measures *t, int index, zb_err *err);

/* Fills the rows of candidate `index` that are not done (they have their sizes), writing the table
 * after each. */
zb_status zb_measuring_fill(zb_measuring *m, zb_measures *t, int index, zb_err *err);

/* A model with candidate choice[l] of the table in layer l, each as it was measured: its divergence
 * per token, and its cross-entropy of recalled answers. */
zb_status zb_measuring_plan(zb_measuring *m, const zb_measures *t, const int *choice, double *kl,
                            double *recall, zb_err *err);

#endif
