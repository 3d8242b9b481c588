/* cmd_pipeline.c - `zebra pipeline`. */
#include "cli/cli.h"

#include "cli/pipeline.h"

typedef struct options {
    bool dry_run;
} options;

static const zb_opt table[] = {
    {ZB_OPT_BOOL, "dry_run", 0, offsetof(options, dry_run), "false", 0, 0, NULL,
     "only check the recipe and list its stages: what is done, what is to do and why"},
    {0},
};

static const zb_cli_about about = {
    "RECIPE.yaml [[SECTION.]KEY=VALUE]... [options]",
    "Runs all stages of a recipe, resuming where an earlier run stopped, and prints the table of "
    "results.",
    "A recipe has the keys output, teacher, title, seed, precision, memory_limit and the sections\n"
    "compose, align, select, prune, distill, tune, quantize, eval, recall, generate, bench, "
    "report.\n"
    "Keys of a section are the options of the command of that name; docs/RECIPES.md has those of\n"
    "generate and bench.\n"
    "What follows the recipe replaces its values:\n"
    "zebra pipeline recipes/zebra.yaml output=out/long distill.tokens=1000000",
};

int zb_cmd_pipeline(int argc, char **argv) {
    zb_cli cli;
    int status;
    options o = {0};
    zb_opt_group g[] = {{"options", table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, ZB_CLI_POS_MAX, &about, &status)) return status;
    zb_buf out;
    zb_buf_init(&out, 1 << 20);
    const char *page = NULL;
    zb_status s = zb_cli_need(&cli, cli.n_pos ? cli.pos[0] : NULL, "RECIPE.yaml");
    zb_pipeline_job job = {cli.pos[0], cli.pos + 1, cli.n_pos - 1, o.dry_run};
    if (s == ZB_OK) s = zb_pipeline_run(&job, &out, &page, &cli.arena, &cli.err);
    if (s == ZB_OK && page) zb_buf_addf(&out, "\nreport: %s\n", page);
    if (s == ZB_OK && out.n) s = zb_cli_print(&cli, out.p, out.n);
    zb_buf_free(&out);
    return zb_cli_end(&cli, s);
}
