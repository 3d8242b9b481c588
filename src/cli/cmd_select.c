/* cmd_select.c - `zebra select`. */
#include "cli/cli.h"

#include "compose/select.h"

static const zb_cli_about about = {
    "--teacher MODEL --out FILE [options]",
    "Chooses what stands in each layer: a plan under a byte budget (--cache-percent, --budget), or "
    "which layers stay MLA (--mamba2 DIR --mla DIR --count N).",
    "Under a budget every candidate is measured alone in every layer; the table of measurements is "
    "continued after an interruption and serves all methods and budgets.\n"
    "Candidates: attention, mla:RANK+ROTARY, mamba2, sliding_window:WINDOW+SINKS, other kinds, "
    "KIND=FOLDER for layers of a model; zero and linear are measured only.",
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
