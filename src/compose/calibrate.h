/* calibrate.h - calibration text passing through teacher and student, one layer at a time.
 *
 * A start that looks at data needs, per layer, the inputs its mixer will see and the output it
 * should give. A calibration holds the hidden states of some thousands of tokens in both models
 * and moves them layer by layer: enter a layer, fit its mixer, leave it. With own inputs the
 * student's states come from the layers already fitted, so that each layer sees, and can mend,
 * what those before it got wrong. It owns its memory and its runners; one thread. */
#ifndef ZB_COMPOSE_CALIBRATE_H
#define ZB_COMPOSE_CALIBRATE_H

#include "data/corpus.h"
#include "model/model.h"

typedef struct zb_calibration_opts {
    const char *text;       /* JSONL or .txt */
    int64_t tokens, length; /* tokens in all, and of a row; whole rows are used */
    int64_t batch;          /* tokens of a step of descent, in whole rows, at least one */
    bool own_inputs;        /* the student's states, else the teacher's */
    bool choose_mlp_ridge;  /* of an MLP's down map, on half of the text; else a strong one */
    uint64_t seed;          /* order of the documents */
} zb_calibration_opts;

typedef struct zb_calibration {
    int n, D, layer;        /* tokens, hidden size, layer entered */
    const float *x;         /* [n, D] normalised inputs of the student's mixer */
    const float *teacher_x; /* [n, D] the teacher's */
    const float *target;    /* [n, D] the teacher's mixer output */
    const float *weight;    /* [n] 1 / mean square of the teacher's residual behind the mixer */
    int pieces;             /* the tokens in batches of whole rows */
    const zb_batch *piece;  /* [pieces]; piece p starts at token first[p] */
    const int *first;
    int batches; /* the tokens in batches for descent */
    const zb_batch *batch;
    const int *batch_first;
    zb_runner *teacher, *student;
    struct zb_calibration_state *state;
} zb_calibration;

/* Both models are borrowed; the student's weights may be written between enter and leave. An error
 * where the text has less than one row. */
zb_status zb_calibration_new(zb_calibration **out, zb_model *teacher, zb_model *student,
                             const zb_tokenizer *t, const zb_calibration_opts *o, zb_err *err);
void zb_calibration_free(zb_calibration *c); /* NULL is legal */

zb_status zb_calibration_enter(zb_calibration *c, int layer, zb_err *err); /* 0, 1, ... in turn */

/* refit (own inputs only): solves the MLP's down map anew, so that from the student's states it
 * gives the teacher's MLP output, towards its present weights; weighted as the mixers. */
zb_status zb_calibration_leave(zb_calibration *c, bool refit, zb_err *err);

/* C [D, D] = Σ x xᵀ / n over the tokens of `x` [n, D], in f64. */
void zb_calibration_moment(const zb_calibration *c, const float *x, double *C, zb_arena *scratch);

/* power [K/dh]: mean square, before an RMS norm with eps and weights 1 over groups of dh features,
 * of what feeds `out`; on the first piece. Far above eps the norm hides it. */
zb_status zb_calibration_head_power(zb_calibration *c, zb_param *out, int dh, double eps,
                                    double *power, zb_err *err);

/* Output map of the entered layer, `out` [D, K] over features f [K] (whatever feeds it), by the
 * ridge regression of regression.h on the target, towards its present weights; blocks of `block`
 * columns are scaled before (0: not). ridge 0: chosen by the error on half of the text. The
 * features are those of the student's mixer as it stands, on the inputs x; they are kept until the
 * layer is left, so that the mixer need not run again. *error: Σ w ‖m - W f‖² / Σ w ‖m‖² on the
 * same tokens. */
zb_status zb_calibration_refit(zb_calibration *c, zb_param *out, int block, double ridge,
                               double *error, zb_err *err);

/* To be called where the mixer's weights change behind a refit. */
void zb_calibration_touch(zb_calibration *c);

#endif
