/* work.h - where a training command keeps its log and checkpoints. */
#ifndef ZB_CLI_WORK_H
#define ZB_CLI_WORK_H

#include "cli/cli.h"

typedef struct zb_work_opts {
    const char *work;
} zb_work_opts;

extern const zb_opt zb_work_opt_table[];

/* The folder given, else the first of the outputs (comma-separated) with ".train" behind it; never
 * one in an output, which is replaced as a whole. */
zb_status zb_work_folder(zb_cli *cli, const zb_work_opts *w, const char *outputs,
                         const char **folder);

#endif
