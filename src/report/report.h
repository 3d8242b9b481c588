/* report.h - one folder of measurements becomes report.json, report.html and plots.
 *
 * The caller names the files that earlier stages wrote; nothing is measured here. A path that is
 * NULL or leads to no file leaves its part out, and the report says so; a file that is there but
 * broken is an error naming file, place, expected and found. The first model is the one the others
 * are compared with (the teacher). Written under `out_dir`: report.json, report.html,
 * plots/<name>.{csv,gp,svg}. All strings are borrowed during the call. Gnuplot runs as a child
 * process; without it the report has no pictures and a warning is logged. */
#ifndef ZB_REPORT_REPORT_H
#define ZB_REPORT_REPORT_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"

#include <stdint.h>

typedef struct zb_report_time {
    const char *stage;
    double seconds;
} zb_report_time;

/* Files of one model, all JSON:
 *   eval        keys of the LM Evaluation Harness: results.<task>."acc,none" ..., group_subtasks
 *   paired      how it answered the first model's documents, as `zebra eval --compare` writes it:
 *               {"tasks": {name: {"acc": {"difference", "stderr"}}}, "groups": the same}
 *   perplexity  {"perplexity", "kl_to_teacher", "tokens"}
 *   bench       [{"test": "pp512" | "tg32", "depth", "tokens_per_second", "sd" or "deviation"}], or
 *               an object with that array under "results"
 *   recall      {"cells": [{"test", "length", "depth" or null, "n", "score" or null, "greedy"}],
 *                "associative": [{"pairs", "distance", "n", "acc", "acc_stderr"}]}
 *   inspect     {"kv_percent", "kv_bytes_per_token", "state_bytes", "parameters",
 *                "layers": [{"kind"}]} */
typedef struct zb_report_model {
    const char *name;  /* key in report.json and column heading: "teacher", "student" */
    const char *title; /* "SmolLM2-135M-Instruct"; NULL: the name */
    const char *eval, *paired, *recall, *perplexity, *bench, *inspect;
    int64_t
        train_tokens; /* 0: for the last model the sum of the logs' last counts, else left out */
    const zb_report_time *seconds;
    int n_seconds;
} zb_report_model;

/* JSON lines: {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "valid_kl",
 * "valid_perplexity"}; only "tokens" (counted from the start of the stage) is required. A run that
 * was resumed may repeat steps: the later lines hold. */
typedef struct zb_report_log {
    const char *stage, *path;
} zb_report_log;

typedef struct zb_report_fact {
    const char *name, *value; /* "machine", "AMD EPYC, 2 cores" */
} zb_report_fact;

typedef struct zb_report_input {
    const char *title;   /* heading of the page; NULL: "Conversion report" */
    const char *out_dir; /* made when absent */
    const zb_report_model *model;
    int n_models; /* 1 to ZB_REPORT_MODELS_MAX */
    const zb_report_log *log;
    int n_logs;
    const char *select;  /* {"method", "sensitivity": [per layer], "layers": [chosen], "kl_..."} */
    const char *samples; /* [{"prompt", "<name of a model>": "its text", ...}] */
    const char *recipe;  /* text file, shown as it is */
    const zb_report_fact *fact;
    int n_facts;
    const char *gnuplot; /* program; NULL: "gnuplot" of the PATH */
    double plot_seconds; /* limit for one plot; 0: 30 */
} zb_report_input;

enum { ZB_REPORT_MODELS_MAX = 6 };

/* Writes the whole report and appends its table of results (Markdown, padded to be read as plain
 * text) to `table` (NULL: not wanted). */
zb_status zb_report_write(const zb_report_input *in, zb_buf *table, zb_err *err);

/* Reads an input from a JSON file with the field names above: "title", "models": [{"name", "title",
 * "eval", "paired", "recall", "perplexity", "bench", "inspect", "train_tokens", "seconds": {stage:
 * s}}], "logs": [{"stage", "path"}], "select", "samples", "recipe", "facts": {name: value}. Paths
 * are relative to the file's folder, which becomes out_dir: a file called report.json is refused.
 * Everything lives in the arena. */
zb_status zb_report_input_read(zb_report_input *in, const char *path, zb_arena *a, zb_err *err);

#endif
