/* align.h - intermediate-layer distillation (ILD; Zebra-Llama section 3.2, method.md 4).
 *
 * Every layer of every student is fed the teacher's hidden state (in the last `student_inputs` of
 * the steps: the student's own) and trained to give the teacher's mixer output and the teacher's
 * next hidden state; layers learn independently, each with its own AdamW and clipping. One pass of
 * the teacher serves all layers of all students. */
#ifndef ZB_TRAIN_ALIGN_H
#define ZB_TRAIN_ALIGN_H

#include "train/stage.h"

typedef struct zb_align_opts {
    const char *teacher;        /* model folder or .gguf */
    const char *students, *out; /* comma-separated model folders, as many outputs */
    const char *trainable;      /* mixer | layer */
    int64_t early_stop;    /* validations in a row without a lower error of a layer, after which
                              it goes back to its best weights and stays so; 0: off */
    double student_inputs; /* share of the steps, the last, with the student's own states */
    const char *loss;      /* norm | squared */
    double hidden_weight, mixer_weight;
    const char *precision; /* auto | f32 | bf16 */
} zb_align_opts;

extern const zb_opt zb_align_opt_table[];

/* Options that contradict each other, seen before anything is read. */
zb_status zb_align_check(const zb_align_opts *o, const zb_stage_opts *s, zb_err *err);

/* `dir` receives log and checkpoints. */
zb_status zb_align_run(const zb_align_opts *o, const zb_stage_opts *s, const char *dir,
                       zb_err *err);

/* m->steps steps on random tokens; outputs are not needed. */
zb_status zb_align_measure(const zb_align_opts *o, const zb_stage_opts *s, zb_step_measure *m,
                           zb_err *err);

#endif
