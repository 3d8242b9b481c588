/* cmd_distill.c - `zebra distill`. */
#include "cli/work.h"

#include "train/distill.h"

static const zb_cli_about about = {
    "--teacher MODEL --student DIR --out DIR [options]",
    "Trains all weights of a student against the teacher (end-to-end distillation).",
    NULL,
};

int zb_cmd_distill(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_distill_opts o = {0};
    zb_stage_opts st = {0};
    zb_work_opts w = {0};
    zb_opt_group g[] = {{"distillation", zb_distill_opt_table, &o},
                        {"text and rates", zb_stage_opt_table, &st},
                        {"training", zb_loop_opt_table, &st},
                        {"files", zb_work_opt_table, &w},
                        {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    const char *work;
    zb_status s = zb_work_folder(&cli, &w, o.out, &work);
    if (s == ZB_OK) s = zb_distill_run(&o, &st, work, &cli.err);
    return zb_cli_end(&cli, s);
}
