/* tune.h - tuning of a student to answers: preference (DPO) and supervised (SFT).
 *
 * DPO (Rafailov et al. 2023, eq. 7; the last stage of Zebra-Llama, method.md 6) raises the chosen
 * answer of a pair over the rejected one, relative to a reference, which is the student as it was:
 *   -log σ(β((log π_c - log π_r) - (log ref_c - log ref_r))), mean over pairs,
 * log-probabilities summed over an answer. SFT minimises the cross-entropy of what is learnt, mean
 * over those tokens of a step. Examples are passed whole, each a span of its own, without padding;
 * the last step takes what is left of the last epoch. */
#ifndef ZB_TRAIN_TUNE_H
#define ZB_TRAIN_TUNE_H

#include "train/stage.h"

typedef struct zb_tune_opts {
    const char *student, *reference, *out; /* reference NULL: the student */
    const char *method;                    /* dpo | sft */
    const char *train, *valid;             /* files of examples (data/answers.h) */
    double epochs, beta, lr, warmup;       /* lr 0: by method */
    int64_t batch, length, prompt_length, valid_examples;
    bool recompute, keep_best;
    const char *dtype, *precision;
} zb_tune_opts;

extern const zb_opt zb_tune_opt_table[];

/* Options that contradict each other, seen before anything is read. */
zb_status zb_tune_check(const zb_tune_opts *o, const zb_stage_opts *loop, zb_err *err);

/* `loop`: the options of zb_loop_opt_table. `dir` receives log and checkpoints. */
zb_status zb_tune_run(const zb_tune_opts *o, const zb_stage_opts *loop, const char *dir,
                      zb_err *err);

#endif
