/* cmd_tune.c - `zebra tune`. */
#include "cli/work.h"

#include "train/tune.h"

static const zb_cli_about about = {
    "--student DIR --train EXAMPLES.jsonl --out DIR [options]",
    "Tunes a model to preferred answers (DPO), or to answers (SFT).",
    "Examples are JSONL lines, of texts or of lists of {\"role\", \"content\"}, which the model's "
    "chat template writes:\n"
    "  dpo: {\"prompt\", \"chosen\", \"rejected\"}; without a prompt, what both answers begin "
    "with\n"
    "  sft: {\"messages\"}, {\"prompt\", \"completion\"} or {\"text\"}",
};

int zb_cmd_tune(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_tune_opts o = {0};
    zb_stage_opts st = {0};
    zb_work_opts w = {0};
    zb_opt_group g[] = {{"tuning", zb_tune_opt_table, &o},
                        {"training", zb_loop_opt_table, &st},
                        {"files", zb_work_opt_table, &w},
                        {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    const char *work;
    zb_status s = zb_work_folder(&cli, &w, o.out, &work);
    if (s == ZB_OK) s = zb_tune_run(&o, &st, work, &cli.err);
    return zb_cli_end(&cli, s);
}
