/* cmd_distill.c - `zebra distill`. */
#include "cli/cli.h"

#include "train/distill.h"

static const zb_cli_about about = {
    "--teacher MODEL --student DIR --out DIR [options]",
    "Trains all weights of a student against the teacher (end-to-end distillation).",
    NULL,
};

/* Log and checkpoints stand beside the result unless a folder is given. */
typedef struct options {
    const char *work;
} options;

static const zb_opt table[] = {
    {ZB_OPT_STR, "work", 'w', offsetof(options, work), NULL, 0, 0, NULL,
     "folder for log and checkpoints; default: the first output's name with .train"},
    {0},
};

static const char *work_folder(zb_cli *cli, const options *w, const char *out) {
    int n;
    char **list = zb_list_split(out, &cli->arena, &n);
    return w->work ? w->work : zb_asprintf(&cli->arena, "%s.train", n ? list[0] : "out");
}

int zb_cmd_distill(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_distill_opts o = {0};
    zb_stage_opts st = {0};
    options w = {0};
    zb_opt_group g[] = {{"distillation", zb_distill_opt_table, &o},
                        {"training", zb_stage_opt_table, &st},
                        {"files", table, &w},
                        {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    zb_status s = zb_distill_run(&o, &st, work_folder(&cli, &w, o.out), &cli.err);
    return zb_cli_end(&cli, s);
}
