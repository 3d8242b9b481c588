/* loop.h - the loop of stages that train one student whole: validations when they are due, steps,
 * the best student kept beside the checkpoints, the result saved at the end. */
#ifndef ZB_TRAIN_LOOP_H
#define ZB_TRAIN_LOOP_H

#include "model/model.h"
#include "train/stage.h"

typedef struct zb_loop {
    /* Both end with zb_stage_log_eval and zb_stage_step_done. */
    zb_status (*validate)(void *user, zb_stage *st, bool *is_best, zb_err *err);
    zb_status (*step)(void *user, zb_stage *st, zb_err *err);
    void *user;
    zb_model *student;
    const char *out, *tokenizer_from;
    const char *dtype; /* f32 | bf16: of saved weights */
    bool keep_best;    /* in <stage>/best, where a validation behind the first is best */
    const json_t *how; /* the options, for the saved model */
} zb_loop;

/* From the stage's present step to its end; `out` is then saved and the checkpoints are gone. */
zb_status zb_loop_run(const zb_loop *l, zb_stage *st, zb_err *err);

#endif
