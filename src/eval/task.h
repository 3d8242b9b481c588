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

/* Choices and reference lists: the strings of a list in the row, or templates. */
typedef struct zb_task_list {
    const char *path; /* else NULL and: */
    zb_template *item;
    int n;
} zb_task_list;

typedef struct zb_task {
    const char *name, *file; /* file: for messages */
    const char *data;        /* name of the data file in the data folder */
    int64_t rows;            /* expected in it; 0: not checked */
    const char *version, *group_version;
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
    zb_template target;        /* what the samples file calls the target; none: the position */
    const zb_text_rule *clean; /* applied to the prompt and to each choice; NULL none */
    bool acc_norm;             /* acc is always given */
    const char *split_by;      /* field that names the leaf; NULL: one leaf */
    zb_task_leaf *leaf;
    int n_leaves;
    zb_task_group *group;
    int n_groups;
    bool total;                                 /* the row over all leaves is wanted */
    const char *fewshot_data, *fewshot_sampler; /* where examples come from; NULL: nowhere */
} zb_task;

zb_status zb_task_read(const char *path, const char *name, zb_arena *a, zb_task *out, zb_err *err);

/* Tasks named in a list "piqa,mmlu_stem,mmlu_anatomy" found in `dir`, sorted by name, each task
 * once with its leaves and groups marked as selected. */
zb_status zb_task_select(const char *list, const char *dir, zb_arena *a, zb_task **out, int *n,
                         zb_err *err);

#endif
