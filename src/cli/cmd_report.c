/* cmd_report.c - `zebra report`: measured files of an output folder to report.json, report.html and
 * plots. */
#include "cli/cli.h"

#include "report/report.h"

static const zb_cli_about about = {
    "INPUT.json",
    "Writes report.json, report.html and plots beside INPUT.json, which names the measured files, "
    "and prints the table of results.",
    "The pipeline writes such an input as report_input.json; docs/REPORT.md describes it.",
};

int zb_cmd_report(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_opt_group g[] = {{0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 1, &about, &status)) return status;
    zb_status s = zb_cli_need(&cli, cli.n_pos ? cli.pos[0] : NULL, "INPUT.json");
    zb_report_input in;
    zb_buf table;
    zb_buf_init(&table, 1 << 20);
    if (s == ZB_OK) s = zb_report_input_read(&in, cli.pos[0], &cli.arena, &cli.err);
    if (s == ZB_OK) s = zb_report_write(&in, &table, &cli.err);
    if (s == ZB_OK) s = zb_cli_print(&cli, table.p, table.n);
    zb_buf_free(&table);
    return zb_cli_end(&cli, s);
}
