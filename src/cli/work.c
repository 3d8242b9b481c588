/* work.c - see work.h. */
#include "cli/work.h"

const zb_opt zb_work_opt_table[] = {
    {ZB_OPT_STR, "work", 'w', offsetof(zb_work_opts, work), NULL, 0, 0, NULL,
     "folder for log and checkpoints; default: the first output's name with .train"},
    {0},
};

const char *zb_work_folder(zb_cli *cli, const zb_work_opts *w, const char *outputs) {
    int n;
    char **list = zb_list_split(outputs, &cli->arena, &n);
    return w->work ? w->work : zb_asprintf(&cli->arena, "%s.train", n ? list[0] : "out");
}
