/* cmd_prune.c - `zebra prune`: a smaller model out of a larger one. */
#include "cli/cli.h"

#include "compose/prune.h"

#include <stdio.h>

typedef struct options {
    bool json;
} options;

static const zb_opt table[] = {
    {ZB_OPT_BOOL, "json", 'j', offsetof(options, json), NULL, 0, 0, NULL, "JSON instead of text"},
    {0},
};

static const zb_cli_about about = {
    "-m MODEL -o DIR [--layers N] [--mlp N] [--heads N] [--kv-heads N] [--hidden N]",
    "Takes out layers, MLP neurons, heads and channels that matter least on some text (Minitron).",
    "Widths are the same in all layers; which neurons and heads stay is chosen for each. Distil "
    "the "
    "result against the model it\n"
    "came from: `zebra distill --teacher MODEL --student DIR --out OUT`.",
};

static void print_report(json_t *r) {
    double now = (double)json_integer_value(json_object_get(r, "parameters")),
           before = (double)json_integer_value(json_object_get(r, "parameters_before"));
    printf("%.1f M of %.1f M parameters (%.1f %%), %.1f %% of the cache\n", now / 1e6, before / 1e6,
           100 * now / before, json_real_value(json_object_get(r, "cache_percent")));
    static const char *const sizes[] = {"mlp", "heads", "kv_heads", "hidden"};
    for (int i = 0; i < 4; i++)
        printf("%s %lld%s", sizes[i], json_integer_value(json_object_get(r, sizes[i])),
               i < 3 ? ", " : "\nlayers");
    size_t i;
    json_t *layer;
    json_array_foreach(json_object_get(r, "layers"), i, layer)
        printf("%s %lld", i ? "," : "", json_integer_value(layer));
    putchar('\n');
}

int zb_cmd_prune(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_prune_opts o = {0};
    options own;
    const zb_opt_group g[] = {{"pruning", zb_prune_opt_table, &o}, {"output", table, &own}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    json_t *report = NULL;
    zb_status s = zb_prune_run(&o, &report, &cli.err);
    if (s == ZB_OK && own.json)
        s = zb_cli_print_json(&cli, json_incref(report), true);
    else if (s == ZB_OK)
        print_report(report);
    json_decref(report);
    return zb_cli_end(&cli, s);
}
