/* checkpoint.h - the state of a training run on disk, so that killed and resumed gives the bytes of
 * the undisturbed run.
 *
 * A checkpoint folder `<run>/checkpoint-<step>` holds model.safetensors (trained parameters, f32),
 * optimizer.safetensors (moments, and best weights where early stopping watches) and
 * trainer_state.json (step, the options that must not change, what early stopping has
 * seen, free numbers of the stage). It is written beside its name and renamed; older ones beyond
 * keep_last, and later ones of a run before, are removed afterwards. Random numbers are
 * counter-based and data is addressed by row, so the step is all that has to be remembered of them.
 */
#ifndef ZB_TRAIN_CHECKPOINT_H
#define ZB_TRAIN_CHECKPOINT_H

#include "model/optim.h"

#include <jansson.h>

typedef struct zb_checkpoint {
    const char *run_dir; /* of the stage */
    json_t *options;     /* a checkpoint made with others is not resumed */
    json_t *trunk;       /* the same without what only says how long the run is; NULL: none */
    json_t *defaults;    /* of the options: what they were to versions that did not have them */
    int64_t trunk_steps; /* up to which runs of any length are one: checkpoints up to there carry
                            `trunk`, and the one at this step outlives the run */
    int64_t steps;       /* of the whole run */
    zb_optim **optim;    /* [n_optims] trained parameters and moments; names are prefixed "<i>." */
    int n_optims;
} zb_checkpoint;

zb_status zb_checkpoint_save(const zb_checkpoint *k, int64_t step, const json_t *extra,
                             int keep_last, zb_err *err);

/* Restores the newest checkpoint that fits; one whose state cannot be is an error. *step = -1 and
 * *extra = NULL if there is none (which is said where there are others). */
zb_status zb_checkpoint_resume(const zb_checkpoint *k, int64_t *step, json_t **extra, zb_err *err);

/* Removes all checkpoints of a finished run but the end of its trunk. */
zb_status zb_checkpoint_clear(const zb_checkpoint *k, zb_err *err);

/* Removes what killed runs were writing beside their checkpoints and best model. */
zb_status zb_checkpoint_sweep(const char *run_dir, zb_err *err);

#endif
