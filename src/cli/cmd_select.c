/* cmd_select.c - `zebra select`. */
#include "cli/cli.h"

#include "compose/select.h"

static const zb_cli_about about = {
    "--teacher MODEL --mamba2 DIR --mla DIR --out FILE [options]",
    "Chooses the layers that stay MLA by how much each lowers the divergence from the teacher.",
    NULL,
};

int zb_cmd_select(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_select_opts o = {0};
    zb_opt_group g[] = {{"selection", zb_select_opt_table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    zb_status s = zb_select_run(&o, &cli.err);
    return zb_cli_end(&cli, s);
}
