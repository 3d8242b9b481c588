/* cmd_bench.c - `zebra bench`: tokens per second of prompts and of generation, beside what the
 * machine can do. */
#include "cli/cli.h"

#include "base/file.h"
#include "generate/bench.h"

#include <stdio.h>
#include <string.h>

typedef struct options {
    const char *model, *prefill, *decode, *output;
    int64_t n, runs, context;
} options;

#define ROW(type, name, letter, field, def, lo, hi, help)                                          \
    { type, name, letter, offsetof(options, field), def, lo, hi, NULL, help }

static const zb_opt table[] = {
    ROW(ZB_OPT_STR, "model", 'm', model, NULL, 0, 0, "model folder or .gguf file"),
    ROW(ZB_OPT_STR, "prefill", 'p', prefill, "128,512", 0, 0,
        "lengths of prompts to measure; empty: none"),
    ROW(ZB_OPT_STR, "decode", 'd', decode, "0,1024", 0, 0,
        "depths of context at which to measure generation; empty: none"),
    ROW(ZB_OPT_INT, "tokens", 'n', n, "32", 1, 1000000, "tokens to generate per run"),
    ROW(ZB_OPT_INT, "runs", 'r', runs, "3", 1, 1000, "runs of each, after one that is not counted"),
    ROW(ZB_OPT_INT, "context", 'c', context, "0", 0, 4194304,
        "most tokens; 0: what the model was made for"),
    {ZB_OPT_CHOICE, "output", 'o', offsetof(options, output), "md", 0, 0, "md|csv|json",
     "form of the table"},
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [options]",
    "Measures prompts (ppN: N tokens) and generation (tgN @ dD: N tokens behind D others), mean ± "
    "standard deviation.",
    "share: prompts as a part of the largest matrix product's speed (products with weights only), "
    "generation as a part of\n"
    "the read bandwidth (weights, caches and states), both measured first. Let nothing else run "
    "meanwhile.",
};

enum { CASES_MAX = 32 };

typedef struct report {
    const char *model;
    double megabytes, millions; /* weights */
    const char *precision;
    int state_kb;
    zb_bench_machine machine;
    zb_bench_case cases[2 * CASES_MAX];
    int n;
} report;

static void test_name(const zb_bench_case *c, char out[64]) {
    int n = snprintf(out, 64, "%s%d", c->decode ? "tg" : "pp", c->tokens);
    if (c->depth) snprintf(out + n, (size_t)(64 - n), " @ d%d", c->depth);
}

static void print_table(const report *r, bool csv) {
    const zb_bench_machine *m = &r->machine;
    if (!csv) {
        printf("machine: %d threads, %s kernels, read %.1f GB/s, f32 %.0f GFLOP/s, bf16 ",
               m->threads, m->kernels, m->read_rate * 1e-9, m->f32_rate * 1e-9);
        printf(m->bf16_rate > 0 ? "%.0f GFLOP/s\n\n" : "not native\n\n", m->bf16_rate * 1e-9);
    }
    puts(csv ? "model,size_mib,params_m,threads,precision,state_kib,test,tokens_per_second,"
               "deviation,share"
             : "| model | size | params | threads | precision | state | test | t/s | share "
               "|\n|---|--:|--:|--:|---|--:|--:|--:|--:|");
    for (int i = 0; i < r->n; i++) {
        char name[64];
        const zb_bench_case *c = &r->cases[i];
        test_name(c, name);
        printf(csv ? "\"%s\",%.2f,%.2f,%d,%s,%d,%s,%.3f,%.3f,%.4f\n"
                   : "| %s | %.2f MiB | %.2f M | %d | %s | %d KiB | %s | %.2f ± %.2f | %.3f |\n",
               r->model, r->megabytes, r->millions, m->threads, r->precision, r->state_kb, name,
               c->mean, c->sd, c->share);
    }
}

static json_t *report_json(const report *r) {
    json_t *rows = json_array();
    for (int i = 0; i < r->n; i++) {
        char name[64];
        const zb_bench_case *c = &r->cases[i];
        test_name(c, name);
        json_array_append_new(rows, json_pack("{s:s, s:i, s:i, s:i, s:f, s:f, s:f}", "test", name,
                                              "tokens", c->tokens, "depth", c->depth, "runs",
                                              c->runs, "tokens_per_second", c->mean, "deviation",
                                              c->sd, "share", c->share));
    }
    const zb_bench_machine *m = &r->machine;
    return json_pack("{s:s, s:f, s:f, s:s, s:i, s:{s:i, s:s, s:f, s:f, s:f}, s:o}", "model",
                     r->model, "size_mib", r->megabytes, "params_m", r->millions, "precision",
                     r->precision, "state_kib", r->state_kb, "machine", "threads", m->threads,
                     "kernels", m->kernels, "read_bytes_per_second", m->read_rate,
                     "f32_flop_per_second", m->f32_rate, "bf16_flop_per_second", m->bf16_rate,
                     "results", rows);
}

static zb_status plan(zb_cli *cli, const options *o, report *r) {
    int list[CASES_MAX], n;
    ZB_TRY(zb_list_ints(o->prefill, "--prefill", 1, 1 << 22, list, CASES_MAX, &n, &cli->err));
    for (int i = 0; i < n; i++) r->cases[r->n++] = (zb_bench_case){.tokens = list[i]};
    ZB_TRY(zb_list_ints(o->decode, "--decode", 0, 1 << 22, list, CASES_MAX, &n, &cli->err));
    for (int i = 0; i < n; i++)
        r->cases[r->n++] = (zb_bench_case){.decode = true, .tokens = (int)o->n, .depth = list[i]};
    return r->n ? ZB_OK
                : zb_fail(&cli->err, ZB_ERR_USAGE,
                          "expected lengths for --prefill or depths for --decode, found none");
}

static zb_status measure(zb_cli *cli, const options *o, zb_engine *e, report *r) {
    zb_model *m = zb_engine_model(e);
    const zb_config *c = zb_model_config(m);
    int64_t state = 0;
    for (int l = 0; l < c->L; l++) state += 4 * zb_config_state(c, l);
    r->model = zb_path_base(o->model);
    r->megabytes = (double)zb_model_bytes(m) / 1048576;
    r->millions = (double)zb_params_total(zb_model_params(m)) * 1e-6;
    r->precision = zb_engine_precision(e) == ZB_PREC_BF16 ? "bf16" : "f32";
    r->state_kb = (int)(state / 1024);
    ZB_TRY(zb_bench_machine_measure(&r->machine, &cli->err));
    for (int i = 0; i < r->n; i++)
        ZB_TRY(zb_bench_run(e, &r->machine, (int)o->runs, &r->cases[i], &cli->err));
    if (!strcmp(o->output, "json")) return zb_cli_print_json(cli, report_json(r), true);
    print_table(r, !strcmp(o->output, "csv"));
    return ZB_OK;
}

static zb_status run(zb_cli *cli, const options *o) {
    zb_engine *e;
    report *r = ZB_NEW(&cli->arena, report);
    ZB_TRY(plan(cli, o, r));
    ZB_TRY(zb_cli_engine(cli, o->model, o->context, &e));
    zb_status s = measure(cli, o, e, r);
    zb_engine_close(e);
    return s;
}

int zb_cmd_bench(int argc, char **argv) {
    options o;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {{"options", table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 0, &about, &status)) return status;
    return zb_cli_end(&cli, run(&cli, &o));
}
