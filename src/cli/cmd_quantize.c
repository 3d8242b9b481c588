/* cmd_quantize.c - `zebra quantize`: a model with packed weights, as a GGUF file. */
#include "cli/cli.h"

#include "eval/quantize_measure.h"

#include <stdio.h>

typedef struct options {
    bool json;
} options;

static const zb_opt table[] = {
    {ZB_OPT_BOOL, "json", 'j', offsetof(options, json), NULL, 0, 0, NULL, "JSON instead of text"},
    {0},
};

static const zb_cli_about about = {
    "-m MODEL -o OUT.gguf [--type TYPE] [options]",
    "Writes a model with its matrices in a packed type; norms, gates, convolutions and step sizes "
    "stay wide.",
    "Transformers become files of the llama architecture, which other programs read; hybrids have "
    "an architecture of\n"
    "their own. docs/QUANTIZE.md lists names and keys. `--random DIR -o OUT.gguf` writes random "
    "weights for DIR/config.json\n"
    "(and hybrid_config.json): for measuring speed.",
};

static void print_report(const json_t *r, bool tensors) {
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(r, "tensors"), i, row) {
        if (!tensors) break;
        char *shape = json_dumps(json_object_get(row, "shape"), JSON_COMPACT);
        const char *note = json_string_value(json_object_get(row, "note"));
        printf("%-52s %-9s %-14s %-6s -> %-5s %12lld%s%s\n",
               json_string_value(json_object_get(row, "name")),
               json_string_value(json_object_get(row, "class")), shape ? shape : "",
               json_string_value(json_object_get(row, "from")),
               json_string_value(json_object_get(row, "to")),
               json_integer_value(json_object_get(row, "bytes")), note ? "  " : "",
               note ? note : "");
        void (*release)(void *);
        json_get_alloc_funcs(NULL, &release);
        release(shape);
    }
    double bytes = (double)json_integer_value(json_object_get(r, "bytes"));
    printf("%lld weights, %.2f MiB, %.3f bits per weight\n",
           json_integer_value(json_object_get(r, "parameters")), bytes / 1048576,
           json_real_value(json_object_get(r, "bits_per_weight")));
}

static void print_measure(const json_t *m) {
    printf("\nperplexity of the wide model on %lld tokens of %s: %.4f\n\n",
           json_integer_value(json_object_get(m, "tokens")),
           json_string_value(json_object_get(m, "text")),
           json_real_value(json_object_get(m, "perplexity")));
    puts(
        "| packed | tensors | MiB | bits per weight | KL | perplexity | ratio | same best token |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|");
    size_t i;
    json_t *row;
    json_array_foreach(json_object_get(m, "classes"), i, row) {
        printf("| %s | %lld | %.2f | %.3f | %.5f | %.4f | %.4f | %.2f %% |\n",
               json_string_value(json_object_get(row, "class")),
               json_integer_value(json_object_get(row, "tensors")),
               (double)json_integer_value(json_object_get(row, "bytes")) / 1048576,
               json_real_value(json_object_get(row, "bits_per_weight")),
               json_real_value(json_object_get(row, "kl")),
               json_real_value(json_object_get(row, "perplexity")),
               json_real_value(json_object_get(row, "perplexity_ratio")),
               100 * json_real_value(json_object_get(row, "agreement")));
    }
}

int zb_cmd_quantize(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_quantize_opts o = {0};
    zb_quantize_measure_opts m = {0};
    options own;
    const zb_opt_group g[] = {{"quantisation", zb_quantize_opt_table, &o},
                              {"measurement", zb_quantize_measure_opt_table, &m},
                              {"output", table, &own},
                              {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    json_t *report = NULL, *measured = NULL;
    zb_status s = zb_quantize_run(&o, &report, &cli.err);
    if (s == ZB_OK && m.measure) s = zb_quantize_measure(&o, &m, &measured, &cli.err);
    if (s == ZB_OK && measured) json_object_set_new(report, "measure", measured);
    if (s == ZB_OK && own.json) {
        s = zb_cli_print_json(&cli, json_incref(report), true);
    } else if (s == ZB_OK) {
        print_report(report, o.dry_run);
        if (measured) print_measure(measured);
    }
    json_decref(report);
    return zb_cli_end(&cli, s);
}
