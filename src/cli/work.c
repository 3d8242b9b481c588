/* work.c - see work.h. */
#include "cli/work.h"

#include "base/file.h"

const zb_opt zb_work_opt_table[] = {
    {ZB_OPT_STR, "work", 'w', offsetof(zb_work_opts, work), NULL, 0, 0, NULL,
     "folder for log and checkpoints; default: the first output's name with .train"},
    {0},
};

zb_status zb_work_folder(zb_cli *cli, const zb_work_opts *w, const char *outputs,
                         const char **folder) {
    int n;
    zb_arena *a = &cli->arena;
    char **out = zb_list_split(outputs, a, &n);
    for (int i = 0; i < n; i++) out[i] = zb_path_plain(a, out[i]);
    *folder = w->work ? w->work : zb_asprintf(a, "%s.train", n ? out[0] : "out");
    for (int i = 0; i < n; i++)
        if (zb_path_holds(out[i], *folder))
            return zb_fail(&cli->err, ZB_ERR_CONFIG,
                           "work: expected a folder outside of the output %s, found %s", out[i],
                           *folder);
    return ZB_OK;
}
