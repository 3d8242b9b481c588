/* cmd_compose.c - `zebra compose`. */
#include "cli/cli.h"

#include "compose/compose.h"

static const zb_cli_about about = {
    "--teacher MODEL --out DIR --kv-rank N [options]",
    "Makes a student folder from a teacher, a layer plan and an initialisation or donors.",
    NULL,
};

int zb_cmd_compose(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_compose_opts o = {0};
    zb_opt_group g[] = {{"plan and initialisation", zb_compose_opt_table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    zb_status s = zb_compose_run(&o, &cli.err);
    return zb_cli_end(&cli, s);
}
