/* pipeline.h - all stages of a recipe, in order, resuming where an earlier run stopped.
 *
 * A recipe (YAML) names a teacher and an output folder and has one section per stage; the keys of a
 * section are the options of the command of that name. Stages without a section, and training
 * of no tokens, are left out. A finished stage leaves <output>/stages/<name>.json with its options
 * and what it started from (pipeline_record.h); a later run skips it as long as that holds, and the
 * stage that was interrupted resumes from its own checkpoints. The whole recipe is checked
 * before work begins. */
#ifndef ZB_CLI_PIPELINE_H
#define ZB_CLI_PIPELINE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"

#include <stdbool.h>

typedef struct zb_pipeline_job {
    const char *recipe;          /* YAML file */
    const char *const *settings; /* "key=value" or "section.key=value", over the recipe's own */
    int n_settings;
    bool dry_run; /* only check the recipe and list the stages; nothing is written */
} zb_pipeline_job;

/* `table` receives the results, or the list of stages; *page the path of the report (in the arena;
 * NULL without a report stage). */
zb_status zb_pipeline_run(const zb_pipeline_job *job, zb_buf *table, const char **page, zb_arena *a,
                          zb_err *err);

#endif
