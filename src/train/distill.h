/* distill.h - end-to-end distillation (KD; Zebra-Llama section 3.4, method.md 6): all weights of a
 * student against the teacher's logits. */
#ifndef ZB_TRAIN_DISTILL_H
#define ZB_TRAIN_DISTILL_H

#include "train/stage.h"

typedef struct zb_distill_opts {
    const char *teacher, *student, *out;
    double kl_weight, reverse_kl_weight, ce_weight, hidden_weight;
    double mixer_rate,
        other_rate; /* learning-rate factors of mixers, and of norms, MLPs, embedding and head */
    bool untie, recompute, keep_best;
    const char *dtype; /* f32 | bf16: of the saved result */
    const char *precision, *teacher_precision;
} zb_distill_opts;

extern const zb_opt zb_distill_opt_table[];

/* What zb_distill_run would refuse whatever the files hold. */
zb_status zb_distill_check(const zb_distill_opts *o, const zb_stage_opts *s, zb_err *err);

zb_status zb_distill_run(const zb_distill_opts *o, const zb_stage_opts *s, const char *dir,
                         zb_err *err);

/* m->steps steps on random tokens; out is not needed. */
zb_status zb_distill_measure(const zb_distill_opts *o, const zb_stage_opts *s, zb_step_measure *m,
                             zb_err *err);

#endif
