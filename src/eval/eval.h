/* eval.h - evaluation by the rules of the LM Evaluation Harness.
 *
 * One call reads the task files and data, asks a scorer (scorer.h) for log-probabilities and texts,
 * and returns rows of scores with standard errors; it can write the results as JSON and what was
 * answered to each document. Text becomes tokens here, so the scorer sees ids only. Nothing is
 * printed but progress. One thread; the tokenizer and scorer are borrowed for the call. */
#ifndef ZB_EVAL_EVAL_H
#define ZB_EVAL_EVAL_H

#include "base/opts.h"
#include "eval/result.h"
#include "eval/scorer.h"
#include "eval/shard.h"
#include "format/tokenizer.h"

typedef struct zb_eval_opts {
    const char *tasks; /* "piqa,mmlu_stem" */
    const char *tasks_dir, *data_dir;
    double limit;        /* documents of each task (of each part); below 1 a share of them; 0 all */
    double part_limit;   /* the same for tasks of several parts (mmlu); 0: limit */
    const char *samples; /* {"task": [numbers]} as JSON or a file of it; NULL or "": by limit */
    int64_t num_fewshot; /* negative: as each task says */
    const char *profile; /* lm-eval | zebra-paper */
    const char *add_bos; /* auto | on | off */
    int64_t max_length;  /* tokens; 0: the model's (zebra-paper: at most 2,048) */
    bool apply_chat_template, fewshot_as_multiturn;
    const char *log_samples; /* folder for samples files; NULL or "": none */
    const char *output;      /* results file; NULL or "": none */
    const char *cache;       /* folder for answers; NULL or "": none */
    /* no options: */
    const char *model;                  /* a name for the results file, may be NULL */
    const char *precision, *cache_type; /* of the model, for the results file; may be NULL */
    const char *model_key;              /* digest for the cache; needed with one */
    zb_shard shard;                     /* size 0: one process */
} zb_eval_opts;

/* Start from {0} and zb_opts_defaults(): the last ones are in no table. */
extern const zb_opt zb_eval_opt_table[];

/* What zb_eval_run would refuse before its first task: names of tasks, samples, places of outputs.
 */
zb_status zb_eval_check(const zb_eval_opts *o, zb_err *err);

/* Results that cannot be written are an error with *out complete (seconds > 0).
 * zb_eval_result_free must be called, also after an error. */
zb_status zb_eval_run(const zb_eval_opts *o, const zb_tokenizer *t, const zb_scorer *s,
                      zb_eval_result *out, zb_err *err);

#endif
