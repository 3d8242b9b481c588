/* measure.h - what the files of a report say, read and checked.
 *
 * Every number that no file gave is NAN (counts: -1), every list may be empty; writers of tables,
 * plots and pages look here and never at files. The measures own an arena with all they hold and
 * borrow the strings of the input they were read for. */
#ifndef ZB_REPORT_MEASURE_H
#define ZB_REPORT_MEASURE_H

#include "report/report.h"

#include <stdbool.h>

typedef struct zb_report_task {
    const char *name;
    double acc, acc_stderr, acc_norm, acc_norm_stderr; /* shares, 0 to 1 */
    double paired_stderr; /* of the difference from the first model's score, by document */
    int64_t n;            /* documents */
    bool norm;            /* the average takes acc_norm */
    int64_t shots;        /* most examples before a question; 0: none, or the file does not say */
} zb_report_task;

typedef struct zb_report_speed {
    int64_t at;      /* tokens: prompt length (prefill) or context already read (decode) */
    double rate, sd; /* tokens per second */
} zb_report_speed;

/* A recall test at one length and depth: the share of values found, or where no text was written,
 * of answers each of whose tokens was the most probable one. */
typedef struct zb_report_recall {
    const char *test;
    int64_t length, depth, n; /* tokens; percent, -1: drawn; samples */
    double score;
    bool sure; /* no text was written */
} zb_report_recall;

/* Associative recall: share of values that were the most probable of all tokens. */
typedef struct zb_report_pairs {
    int64_t pairs, distance;
    double acc, acc_stderr;
} zb_report_pairs;

typedef struct zb_report_measured {
    const char *name, *title;
    double kv_percent, kv_bytes_per_token, state_bytes, parameters;
    double perplexity, kl_to_teacher;
    int64_t perplexity_tokens, train_tokens;
    zb_report_task *task;
    zb_report_speed *decode, *prefill; /* ascending in `at` */
    zb_report_recall *recall;          /* as in the file: lengths ascend, in each the depths */
    zb_report_pairs *pairs;
    int n_recall, n_pairs;
    int n_tasks, n_decode, n_prefill;
    const char **layer; /* kind of each layer */
    int n_layers;
    const zb_report_time *seconds;
    int n_seconds;
} zb_report_measured;

/* One column of a training log against tokens: ascending, gaps left out. */
typedef struct zb_report_curve {
    double *x, *y;
    size_t n, cap;
} zb_report_curve;

typedef struct zb_report_stage {
    const char *name;
    const char *unit; /* of the curves' x: "tokens", or "examples" where a stage counts those */
    zb_report_curve loss, valid_kl, valid_perplexity; /* the latter two over tokens alone */
    int64_t done;                                     /* last count */
    double rate; /* median of units per second, NAN: not logged */
} zb_report_stage;

typedef struct zb_report_sample {
    const char *prompt;
    const char **text; /* by model; NULL: no text */
} zb_report_sample;

/* What a method makes of a budget: a row of the comparison in select.json. */
typedef struct zb_report_plan {
    const char *method;
    double context, percent;     /* tokens; share of the teacher's memory allowed */
    double bytes, predicted, kl; /* NAN: refused; kl: not measured */
    double recall;
} zb_report_plan;

typedef struct zb_report_measures {
    zb_arena arena;
    const zb_report_input *in;
    zb_report_measured *model;
    int n_models;
    zb_report_stage *stage;
    int n_stages;
    const char *method; /* of the layer choice; NULL */
    double *sensitivity;
    bool *chosen; /* by layer */
    int n_sensitivity, n_chosen;
    int *chosen_layer;    /* as listed */
    zb_report_plan *plan; /* in the file's order */
    int n_plans;
    double teacher_recall;
    zb_report_sample *sample;
    int n_samples;
    zb_str recipe;
    const char **missing; /* sentences: what was left out and why */
    size_t n_missing, missing_cap;
} zb_report_measures;

zb_status zb_report_measure(zb_report_measures *m, const zb_report_input *in, zb_err *err);
void zb_report_measures_free(zb_report_measures *m); /* also after an error */
void zb_report_miss(zb_report_measures *m, const char *fmt, ...) ZB_PRINTF(2, 3);

double zb_report_score(const zb_report_task *t); /* acc_norm or acc, as the average takes it */
double zb_report_score_stderr(const zb_report_task *t); /* of that score */
const zb_report_task *zb_report_task_find(const zb_report_measured *m, const char *name);

bool zb_report_zero_shot(const zb_report_measures *m); /* no task of any model had examples */
bool zb_report_same_tasks(const zb_report_measured *a, const zb_report_measured *b);

/* Unweighted mean of the scores, NAN without tasks; *stderr_of (NULL: not wanted) is that of the
 * mean of independent tasks, sqrt(sum of squares) / tasks, NAN when a task has none. */
double zb_report_average(const zb_report_measured *m, double *stderr_of);

/* b's average less a's, NAN where their tasks differ, and its standard error: document by document
 * where b's paired file said it of all tasks (*paired), else that of independent averages. */
double zb_report_difference(const zb_report_measured *a, const zb_report_measured *b,
                            double *stderr_of, bool *paired);
extern const char *const zb_report_average_rule;

double zb_report_chance(const char *task); /* share right by guessing, NAN: not known */
double zb_report_speed_at(const zb_report_speed *s, int n, int64_t at); /* NAN: not measured */
double zb_report_seconds(const zb_report_measured *m); /* sum of the stages, NAN without */

#endif
