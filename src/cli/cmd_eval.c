/* cmd_eval.c - `zebra eval`: harness tasks, perplexity and divergence from a teacher. */
#include "cli/cli.h"

#include "eval/suite.h"

static const zb_cli_about about = {
    "-m MODEL [--tasks LIST] [--text FILE [--teacher MODEL]] [options]",
    "Scores a model by the rules of the LM Evaluation Harness, and its perplexity and divergence "
    "on a text.",
    "An empty --tasks leaves the tasks out; without --text no perplexity is measured.",
};

int zb_cmd_eval(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_eval_opts e = {0};
    zb_suite_opts m = {0};
    zb_opt_group g[] = {
        {"model and text", zb_suite_opt_table, &m}, {"tasks", zb_eval_opt_table, &e}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    zb_buf table;
    zb_buf_init(&table, 1 << 22);
    zb_status s = zb_cli_need(&cli, m.model, "-m MODEL");
    if (s == ZB_OK) s = zb_suite_run(&m, &e, &table, &cli.err);
    if (s == ZB_OK && table.n) s = zb_cli_print(&cli, table.p, table.n);
    zb_buf_free(&table);
    return zb_cli_end(&cli, s);
}
