/* cmd_align.c - `zebra align`. */
#include "cli/work.h"

#include "train/align.h"

static const zb_cli_about about = {
    "--teacher MODEL --students A,B --out C,D [options]",
    "Trains each layer of the students to do what the teacher does there (intermediate-layer "
    "distillation).",
    NULL,
};

int zb_cmd_align(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_align_opts o = {0};
    zb_stage_opts st = {0};
    zb_work_opts w = {0};
    zb_opt_group g[] = {{"alignment", zb_align_opt_table, &o},
                        {"text and rates", zb_stage_opt_table, &st},
                        {"training", zb_loop_opt_table, &st},
                        {"files", zb_work_opt_table, &w},
                        {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    const char *work;
    zb_status s = zb_work_folder(&cli, &w, o.out, &work);
    if (s == ZB_OK) s = zb_align_run(&o, &st, work, &cli.err);
    return zb_cli_end(&cli, s);
}
