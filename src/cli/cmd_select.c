/* cmd_select.c - `zebra select`. */
#include "cli/cli.h"

#include "base/json.h"
#include "compose/select.h"

static const zb_cli_about about = {
    "--teacher MODEL --out FILE [options]",
    "Chooses what stands in each layer: a plan under a byte budget (--cache-percent, --budget), or "
    "which layers stay MLA (--mamba2 DIR --mla DIR --count N).",
    "Under a budget every candidate is measured alone in every layer; the table of measurements is "
    "continued after an interruption and serves all methods.\n"
    "Candidates: attention, mla:RANK+ROTARY, mamba2, sliding_window:WINDOW+SINKS, other kinds, "
    "KIND=FOLDER for layers of a model; zero and linear are measured only.\n"
    "--method heads --count N finds the key/value heads that must see all tokens where all others "
    "get a window.",
};

/* The comparison as a table: one line per budget and method. */
static zb_status print_comparison(zb_cli *cli, const char *path) {
    json_t *file, *row;
    size_t i;
    zb_buf out;
    ZB_TRY(zb_json_read(path, 1 << 26, &file, &cli->err));
    zb_buf_init(&out, 1 << 22);
    zb_buf_adds(&out,
                "context  budget%  method            bytes  KL predicted  measured    recall\n");
    json_array_foreach(json_object_get(file, "compare"), i, row) {
        zb_buf_addf(&out, "%7lld  %7g  %-8s",
                    (long long)json_integer_value(json_object_get(row, "context")),
                    json_number_value(json_object_get(row, "percent")),
                    json_string_value(json_object_get(row, "method")));
        if (json_object_get(row, "refused")) {
            zb_buf_addf(&out, "  %s\n", json_string_value(json_object_get(row, "refused")));
            continue;
        }
        zb_buf_addf(&out, "  %13lld  %12.4f",
                    (long long)json_integer_value(json_object_get(row, "bytes")),
                    json_number_value(json_object_get(row, "predicted_kl")));
        if (json_is_real(json_object_get(row, "kl")))
            zb_buf_addf(&out, "  %8.4f  %8.4f", json_number_value(json_object_get(row, "kl")),
                        json_number_value(json_object_get(row, "recall")));
        zb_buf_addc(&out, '\n');
    }
    json_decref(file);
    zb_status s = zb_cli_print(cli, out.p, out.n);
    zb_buf_free(&out);
    return s;
}

int zb_cmd_select(int argc, char **argv) {
    zb_cli cli;
    int status;
    zb_select_opts o = {0};
    zb_opt_group g[] = {{"selection", zb_select_opt_table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 0, &about, &status)) return status;
    zb_status s = zb_select_run(&o, &cli.err);
    if (s == ZB_OK && o.compare) s = print_comparison(&cli, o.out);
    return zb_cli_end(&cli, s);
}
