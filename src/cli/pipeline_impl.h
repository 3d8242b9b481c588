/* pipeline_impl.h - the pipeline's plan, shared by pipeline_recipe.c (reading and checks),
 * pipeline.c (order, records) and pipeline_stages.c (what each stage does). */
#ifndef ZB_CLI_PIPELINE_IMPL_H
#define ZB_CLI_PIPELINE_IMPL_H

#include "base/opts.h"
#include "compose/compose.h"
#include "compose/prune.h"
#include "compose/quantize.h"
#include "compose/select.h"
#include "eval/recall.h"
#include "eval/suite.h"
#include "train/align.h"
#include "train/distill.h"
#include "train/tune.h"

typedef struct zb_recipe_opts {
    const char *output, *teacher, *title, *precision, *memory_limit;
    int64_t seed;
} zb_recipe_opts;

typedef struct zb_samples_opts { /* section `generate` */
    const char *prompts;         /* JSONL file of {"prompt"} */
    int64_t tokens;
    bool chat;
    double temperature, top_p, repeat_penalty;
    int64_t top_k, seed;
} zb_samples_opts;

typedef struct zb_speed_opts { /* section `bench` */
    const char *prefill, *decode;
    int64_t tokens, runs;
} zb_speed_opts;

typedef struct zb_plan {
    zb_arena *arena;
    const char *recipe;          /* path */
    const char *const *settings; /* of the command line */
    int n_settings;
    zb_recipe_opts r;
    zb_compose_opts compose;
    zb_align_opts align;
    zb_stage_opts align_stage, distill_stage, tune_stage;
    zb_select_opts select;
    zb_prune_opts prune;
    zb_distill_opts distill;
    zb_tune_opts tune;
    zb_quantize_opts quantize;
    zb_eval_opts eval;
    zb_suite_opts suite;
    zb_recall_opts recall;
    zb_samples_opts samples;
    zb_speed_opts speed;
    bool has_compose, has_align, has_select, has_prune, has_distill, has_tune, has_quantize,
        has_eval, has_recall, has_samples, has_speed, has_report;
    const char *mla, *mamba2; /* pure students as they are handed on: composed, or aligned */
    const char *composed;     /* the hybrid before training, pruned where the recipe says so */
    const char *distilled;    /* the same behind distillation */
    const char *trained;      /* the hybrid behind the last stage that changes weights */
    const char *student;      /* the same, packed where the recipe says so: what is measured */
    json_t *seconds;          /* {stage: s} */
    zb_buf *table;
    const char *page;
} zb_plan;

extern const zb_opt zb_samples_opt_table[], zb_speed_opt_table[];

/* Fills the plan from its recipe and settings. What can be known to fail before the first stage is
 * an error here. */
zb_status zb_plan_read(zb_plan *p, zb_err *err);

char *zb_plan_path(const zb_plan *p, const char *name); /* <output>/name */

/* Whether there are prompts to answer, and lengths to measure. */
zb_status zb_samples_check(const zb_plan *p, zb_err *err);
zb_status zb_speed_check(const zb_plan *p, zb_err *err);

/* The stages, in the order of pipeline.c. */
zb_status zb_stage_students(zb_plan *p, zb_err *err);
zb_status zb_stage_align(zb_plan *p, zb_err *err);
zb_status zb_stage_select(zb_plan *p, zb_err *err);
zb_status zb_stage_assemble(zb_plan *p, zb_err *err);
zb_status zb_stage_prune(zb_plan *p, zb_err *err);
zb_status zb_stage_distill(zb_plan *p, zb_err *err);
zb_status zb_stage_tune(zb_plan *p, zb_err *err);
zb_status zb_stage_quantize(zb_plan *p, zb_err *err);
zb_status zb_stage_eval_teacher(zb_plan *p, zb_err *err);
zb_status zb_stage_eval_student(zb_plan *p, zb_err *err);
zb_status zb_stage_recall_teacher(zb_plan *p, zb_err *err);
zb_status zb_stage_recall_student(zb_plan *p, zb_err *err);
zb_status zb_stage_samples(zb_plan *p, zb_err *err);
zb_status zb_stage_speed(zb_plan *p, zb_err *err);
zb_status zb_stage_report(zb_plan *p, zb_err *err);

#endif
