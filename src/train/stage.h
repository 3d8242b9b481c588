/* stage.h - what all training stages share: options, data, schedule, log lines, checkpoints,
 * interruption.
 *
 * A stage is a loop over optimiser steps; each step takes `batch` rows (in micro-batches) of packed
 * text, or as many examples. zb_stage holds the loop's bookkeeping, the stage supplies what happens
 * in a step. */
#ifndef ZB_TRAIN_STAGE_H
#define ZB_TRAIN_STAGE_H

#include "base/log.h"
#include "base/opts.h"
#include "data/corpus.h"
#include "model/model.h"
#include "train/checkpoint.h"

/* Common options. */
typedef struct zb_stage_opts {
    const char *train, *valid;                   /* text files */
    int64_t tokens;                              /* of training */
    int64_t sequence_length, batch, micro_batch; /* rows per step; rows per pass */
    int64_t min_document;                        /* of training: shorter ones are left out */
    int64_t short_length;                        /* of sequences in the first short_share */
    double short_share;                          /* of the steps; 0: off */
    double lr, warmup, decay, lr_floor, clip, weight_decay, beta1, beta2, eps;
    int64_t seed, eval_every, valid_tokens, save_every, log_every, keep_last;
    const char *resume;       /* auto | never */
    double gate_rate;         /* learning-rate factor of decays, steps, gates and convolutions */
    double scale_below;       /* zb_optim_size_rate; 0: off */
    const char *memory_limit; /* auto, or bytes ("24G") */
    bool dry_run;             /* only plan */
} zb_stage_opts;

/* For a zb_stage_opts: packed text, how much of it and at what rates; the loop of any stage. */
extern const zb_opt zb_stage_opt_table[];
extern const zb_opt zb_loop_opt_table[];

/* Seconds of the parts of training steps, added up: the teacher's pass, the student's way forward,
 * the losses, the way back, the optimiser. Alignment's losses count as its way forward. */
typedef struct zb_step_times {
    double teacher, forward, loss, backward, update;
} zb_step_times;

/* What a stage counts: "tokens" of packed text; the last step may have fewer. */
typedef struct zb_stage_work {
    const char *unit;
    int64_t per_step, total;
    bool validates;
} zb_stage_work;

typedef struct zb_stage {
    const zb_stage_opts *o;
    zb_stage_work work;
    const char *name, *dir; /* "align"; the stage's output folder (log, checkpoints) */
    zb_arena arena;
    zb_corpus train, valid;
    zb_packer packer, valid_packer;
    int64_t steps, step, valid_rows;
    int64_t warm, fall; /* steps of the warm-up; the first step at a falling rate */
    zb_checkpoint checkpoint;
    char *log_path;
    json_t *best; /* {"step","value"} of the best validation, or NULL */
    zb_progress progress;
    double t_step;
} zb_stage;

/* What runs: name and folder, what it depends on, what it trains. */
typedef struct zb_stage_run {
    const char *name, *dir;
    const zb_opt_group *options; /* everything the result depends on */
    zb_optim **optim;            /* hold their parameters already */
    int n_optims;
    const zb_tokenizer *tokenizer; /* of text that is packed */
    int vocabulary;                /* which its ids must be of */
} zb_stage_run;

/* Reads the text, plans the steps, resumes from a checkpoint if allowed. A stage that starts afresh
 * begins its log anew and removes the best model of a run before; what a killed run was writing is
 * removed as well. */
zb_status zb_stage_begin(zb_stage *s, const zb_stage_opts *o, const zb_stage_run *run, zb_err *err);

/* The same for a stage that has read its data itself, into s->arena (s zeroed before). */
zb_status zb_stage_start(zb_stage *s, const zb_stage_opts *o, const zb_stage_run *run,
                         const zb_stage_work *work, zb_err *err);

/* Rates under which AdamW divides by zero are refused; to be called before anything is read. */
zb_status zb_stage_check(const zb_stage_opts *o, zb_err *err);

/* Removes the options that change no result: where and how often a run writes, and how much memory
 * it may take. */
void zb_stage_remove_free(json_t *options);

int zb_stage_per_pass(const zb_stage_opts *o); /* rows or examples that pass at once */
double zb_stage_lr(const zb_stage *s);         /* of the current step */

/* Tokens of the longest sequence of the current step, for the packer; 0: whole rows. */
int zb_stage_longest(const zb_stage *s);

/* After a step: one line of the log with the given numbers (stolen; step, units done, lr and speed
 * are added), progress, checkpoint when due. A loss or norm of the gradient that is not finite ends
 * the run, and so do such weights before they are saved: the last checkpoint stays good.
 * ZB_ERR_INTERRUPTED after saving when the user asked to stop. */
zb_status zb_stage_step_done(zb_stage *s, json_t *numbers, double loss, double norm, zb_err *err);
/* An error where a trained model holds weights that are not finite. */
zb_status zb_stage_check_model(const zb_stage *s, zb_model *m, zb_err *err);
bool zb_stage_eval_due(
    const zb_stage *s); /* before the first and after the last step, and every eval_every steps */
zb_status zb_stage_log_eval(zb_stage *s, json_t *numbers, double value, bool *is_best,
                            zb_err *err); /* lower is better; it must be finite */

/* Ends progress and removes checkpoints, whose purpose is over once the result is saved. */
zb_status zb_stage_finish(zb_stage *s, zb_err *err);
void zb_stage_free(zb_stage *s);

/* Steps of the real thing on random tokens, for measurements: nothing is read but the models and
 * nothing is written. Documents are one row long. */
typedef struct zb_step_measure {
    int steps;       /* after one that is not counted */
    double *seconds; /* [steps] */
    zb_step_times times;
    double flop; /* of a step: 2 per weight and token of a pass forward, 4 of one back; products
                    of attention and scan with themselves come on top and are not counted */
    size_t teacher_peak, student_peak; /* bytes of the runners' arenas */
    size_t planned;                    /* of everything, without text */
} zb_step_measure;
void zb_stage_random(zb_corpus *c, int rows, int length, int vocab, zb_arena *a);

#endif
