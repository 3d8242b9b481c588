/* task.h - one evaluation task: a YAML file that says how rows of a data set become questions.
 *
 * tasks/<name>.yaml holds the data file's name and row count, the prompt and choices (templates of
 * template.h), where the right answer stands, the metrics, and, for a task made of parts (MMLU's
 * subjects), the field that names the part and the groups of parts. A part is a leaf: the unit that
 * has its own score. A task without parts is its own only leaf. Nothing is compiled in: a new file
 * is a new task. The keys: task.c and tasks/README.md. Everything lives in the arena given. */
#ifndef ZB_EVAL_TASK_H
#define ZB_EVAL_TASK_H

#include "base/arena.h"
#include "base/err.h"
#include "eval/filter.h"
#include "eval/row_rule.h"
#include "eval/template.h"

typedef struct zb_task_leaf {
    const char *name;  /* "mmlu_anatomy"; of a task without parts, the task's name */
    const char *alias; /* "anatomy" */
    int group;         /* index, -1 none */
    bool selected;
} zb_task_leaf;

typedef struct zb_task_group {
    const char *name;  /* "mmlu_social_sciences" */
    const char *alias; /* "social sciences" */
    bool selected;
} zb_task_group;

typedef struct zb_score_kind zb_score_kind; /* eval/score.h */

/* Choices and reference lists: the strings of a list in the row, or templates. */
typedef struct zb_task_list {
    const char *path; /* else NULL and: */
    zb_template *item;
    int n;
} zb_task_list;

/* What is asked of the model, by the harness's names. */
typedef enum zb_task_output {
    ZB_TASK_CHOICE,     /* multiple_choice: log-probabilities of choices */
    ZB_TASK_LIKELIHOOD, /* loglikelihood: of one continuation */
    ZB_TASK_ROLLING,    /* loglikelihood_rolling: of a whole text */
    ZB_TASK_GENERATE,   /* generate_until: a text is written and compared */
} zb_task_output;

typedef struct zb_task_fewshot {
    const char *data; /* file of the pool; NULL: no examples can be had */
    int64_t rows;     /* expected in it; 0: not checked */
    bool first_n;     /* the first rows of the pool, else drawn by zb_python_random */
    bool drop_self;   /* draw one more than asked for, and drop the document itself */
    int64_t shots;    /* unless an option says otherwise */
    bool fixed;       /* `shots` cannot be changed */
} zb_task_fewshot;

typedef struct zb_task_metric {
    const zb_score_kind *kind;
    const zb_filter *filter; /* NULL: "none" */
} zb_task_metric;

typedef struct zb_task {
    const char *name, *file; /* file: for messages */
    const char *data;        /* name of the data file in the data folder */
    int64_t rows;            /* expected in it; 0: not checked */
    const char *version, *group_version;
    zb_task_output output;
    const zb_row_rule *process; /* makes further fields of a row; NULL none */
    zb_template description, prompt;
    zb_template
        *prompts; /* instead of prompt: one context per choice, all with the same continuation */
    int n_prompts;
    zb_template continuation;
    zb_task_list choices;
    zb_template
        gold; /* position of the right choice, counted from gold_from, or a text of gold_among */
    int64_t gold_from;
    zb_task_list gold_among;
    const char *labels; /* list of 0 and 1: several right choices (metric mc2); NULL none */
    zb_template target; /* what the samples file calls the target; none: the position */
    zb_template count; /* text whose words and bytes divide in perplexities; none: the scored one */
    const zb_text_rule *clean; /* applied to the prompt and to each choice; NULL none */
    const char **until;        /* strings that end a generated text */
    int n_until;
    int64_t max_tokens;   /* of a generated text */
    zb_exact_match match; /* how a generated text is compared with the target */
    zb_task_metric *metric;
    int n_metrics;
    const char *split_by; /* field that names the leaf; NULL: one leaf */
    zb_task_leaf *leaf;
    int n_leaves;
    zb_task_group *group;
    int n_groups;
    bool total; /* the row over all leaves is wanted */
    zb_task_fewshot fewshot;
} zb_task;

/* `profile` names the keys of the task's `profiles` that replace others. */
zb_status zb_task_read(const char *path, const char *name, const char *profile, zb_arena *a,
                       zb_task *out, zb_err *err);

/* The harness's name: "multiple_choice". */
const char *zb_task_output_name(zb_task_output o);

/* The number of examples before each question when `asked` (negative: not given). */
int zb_task_shots(const zb_task *t, int64_t asked);

/* Tasks named in a list "piqa,mmlu_stem,mmlu_anatomy" found in `dir`, sorted by name, each task
 * once with its leaves and groups marked as selected. */
zb_status zb_task_select(const char *list, const char *dir, const char *profile, zb_arena *a,
                         zb_task **out, int *n, zb_err *err);

#endif
