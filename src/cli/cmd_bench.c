/* cmd_bench.c - `zebra bench`: speed of prompts and of generation, beside what the machine can do.
 *
 * Every combination of the lists given becomes a row, ordered so that a context once computed
 * serves all tests at its depth: threads, depth, then tests, then batches. A batch concerns
 * generation: its sequences read their prompts one after the other and are then decoded in one pass
 * per step.
 * `--kernels` measures the inner loops instead, on one core and without a model. */
#include "cli/cli.h"

#include "base/file.h"
#include "base/log.h"
#include "generate/bench.h"
#include "generate/bench_layer.h"
#include "kernels/timing.h"
#include "train/bench.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

enum { LIST_MAX = 32, BATCH_MAX = 4096, LENGTH_MAX = 1 << 22 };

typedef struct options {
    const char *model, *prompt, *tokens, *pg, *depth, *batch, *thread_counts, *fill, *budget;
    const char *output, *cache_type, *precision;
    int64_t runs, context, batch_max;
    bool kernels, layers;
} options;

#define ROW(type, name, letter, field, def, lo, hi, help)                                          \
    { type, name, letter, offsetof(options, field), def, lo, hi, NULL, help }

static const zb_opt table[] = {
    ROW(ZB_OPT_STR, "model", 'm', model, NULL, 0, 0, "model folder or .gguf file"),
    ROW(ZB_OPT_STR, "prompt", 'p', prompt, "512", 0, 0,
        "pp: lengths of prompts to measure; empty: none"),
    ROW(ZB_OPT_STR, "tokens", 'n', tokens, "128", 0, 0,
        "tg: counts of tokens to generate; empty: none"),
    ROW(ZB_OPT_STR, "pg", 0, pg, "", 0, 0,
        "pp+tg: prompts with tokens generated behind them, such as 512+128"),
    ROW(ZB_OPT_STR, "depth", 'd', depth, "0", 0, 0, "tokens in the context before each test"),
    ROW(ZB_OPT_STR, "batch", 'b', batch, NULL, 0, 0,
        "sequences decoded together; default: 1, or what --budget has room for"),
    ROW(ZB_OPT_STR, "budget", 0, budget, NULL, 0, 0,
        "memory such as 8G: at each depth the largest batch whose caches and states fit beside the "
        "weights"),
    ROW(ZB_OPT_INT, "batch_max", 0, batch_max, "4096", 1, BATCH_MAX,
        "with a budget: at most so many sequences"),
    ROW(ZB_OPT_STR, "thread_counts", 0, thread_counts, NULL, 0, 0,
        "numbers of threads to measure with, in place of -t"),
    {ZB_OPT_CHOICE, "fill", 0, offsetof(options, fill), "computed", 0, 0, "computed|random",
     "how contexts come about; random values take no time and read as fast"},
    ROW(ZB_OPT_INT, "runs", 'r', runs, "3", 1, 1000, "runs of each, after one that is not counted"),
    ROW(ZB_OPT_INT, "context", 'c', context, "0", 0, 4194304,
        "most tokens; 0: what the model was made for"),
    ZB_CLI_PRECISION_OPTION(options, precision),
    ZB_CELLS_OPTION(options, cache_type, "f16"),
    ROW(ZB_OPT_BOOL, "kernels", 0, kernels, NULL, 0, 0,
        "measure the inner loops on one core, without a model"),
    ROW(ZB_OPT_BOOL, "layers", 0, layers, NULL, 0, 0,
        "measure Mamba2 layers, and attention over caches (--depth, --cache-type), without a "
        "model"),
    {ZB_OPT_CHOICE, "output", 'o', offsetof(options, output), "md", 0, 0, "md|csv|json",
     "form of the table"},
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [options] | --kernels [options] | --layers [options]",
    "Measures prompts (ppN: N tokens), generation (tgN) and both (ppN+tgM), @ dD behind D other "
    "tokens: tokens/s, mean ± deviation.",
    "All lists are separated by commas. weights, cache and state: MB moved per generated token. "
    "share: least time that the\n"
    "machine's limits allow (largest matrix product for prompts, read bandwidth for generation, "
    "both measured first) as\n"
    "a part of the time taken. Let nothing else run meanwhile.",
};

/* The tests of one run of the program. */
typedef struct plan {
    int depth[LIST_MAX], batch[LIST_MAX], threads[LIST_MAX], n_depth, n_batch, n_threads;
    struct {
        int prompt, tokens;
    } test[3 * LIST_MAX];
    int n_tests;
    uint64_t budget; /* 0: none, the batches are given */
    int batch_max;   /* with a budget */
} plan;

typedef struct row {
    int threads;
    zb_bench_case c;
} row;

typedef struct report {
    const char *model, *precision, *fill, *budget;
    double mib, millions; /* weights */
    zb_bench_machine machine;
    row *rows;
    size_t n, cap;
} report;

/* ---- what to measure ---- */

static zb_status parse_pg(zb_cli *cli, const char *list, plan *p) {
    int n;
    char **items = zb_list_split(list, &cli->arena, &n);
    for (int i = 0; i < n; i++) {
        char *plus = strchr(items[i], '+');
        int64_t prompt = 0, tokens = 0;
        if (plus) *plus = 0;
        bool ok = plus && zb_parse_i64(items[i], &prompt) && zb_parse_i64(plus + 1, &tokens) &&
                  prompt >= 1 && prompt <= LENGTH_MAX && tokens >= 1 && tokens <= LENGTH_MAX;
        if (plus) *plus = '+';
        if (!ok || i == LIST_MAX)
            return zb_fail(
                &cli->err, ZB_ERR_USAGE,
                "--pg: expected at most %d items such as 512+128 (prompt+tokens), found \"%s\"",
                LIST_MAX, items[i]);
        p->test[p->n_tests].prompt = (int)prompt;
        p->test[p->n_tests++].tokens = (int)tokens;
    }
    return ZB_OK;
}

static zb_status parse_plan(zb_cli *cli, const options *o, plan *p) {
    int list[LIST_MAX], n;
    zb_err *err = &cli->err;
    ZB_TRY(zb_list_ints(o->prompt, "--prompt", 1, LENGTH_MAX, list, LIST_MAX, &n, err));
    for (int i = 0; i < n; i++) p->test[p->n_tests++].prompt = list[i];
    ZB_TRY(zb_list_ints(o->tokens, "--tokens", 1, LENGTH_MAX, list, LIST_MAX, &n, err));
    for (int i = 0; i < n; i++) p->test[p->n_tests++].tokens = list[i];
    ZB_TRY(parse_pg(cli, o->pg, p));
    ZB_TRY(zb_list_ints(o->depth, "--depth", 0, LENGTH_MAX, p->depth, LIST_MAX, &p->n_depth, err));
    if (o->budget && o->batch)
        return zb_fail(
            err, ZB_ERR_USAGE,
            "--budget: chooses the batches: leave --batch out (--batch-max bounds them)");
    const char *batch = o->batch ? o->batch : "1";
    ZB_TRY(zb_list_ints(batch, "--batch", 1, BATCH_MAX, p->batch, LIST_MAX, &p->n_batch, err));
    ZB_TRY(zb_list_ints(o->thread_counts, "--thread-counts", 1, 1024, p->threads, LIST_MAX,
                        &p->n_threads, err));
    if (!p->n_threads) p->threads[p->n_threads++] = omp_get_max_threads();
    if (!p->n_tests || !p->n_depth || !p->n_batch)
        return zb_fail(
            err, ZB_ERR_USAGE,
            "expected lengths for --prompt, --tokens or --pg, and a --depth and --batch, "
            "found none");
    p->batch_max = o->budget ? (int)o->batch_max : BATCH_MAX;
    if (o->budget && (!zb_parse_bytes(o->budget, &p->budget) || !p->budget))
        return zb_fail(err, ZB_ERR_USAGE, "--budget: expected bytes such as 8G, found \"%s\"",
                       o->budget);
    return ZB_OK;
}

/* ---- measuring ---- */

static zb_status run_case(zb_cli *cli, zb_bench *b, zb_bench_case c, int threads, report *r) {
    ZB_TRY(zb_bench_run(b, &c, &cli->err));
    r->rows = zb_grow(&cli->arena, r->rows, &r->cap, r->n + 1, sizeof *r->rows);
    r->rows[r->n++] = (row){threads, c};
    return ZB_OK;
}

/* All batches of one test at one depth; a test without generation knows one batch. */
static zb_status run_batches(zb_cli *cli, const plan *p, zb_engine *e, zb_bench *b, zb_bench_case c,
                             report *r) {
    int threads = zb_engine_threads(e);
    c.batch = 1;
    if (c.tokens == 0) return run_case(cli, b, c, threads, r);
    for (int i = 0; i < (p->budget ? 1 : p->n_batch); i++) {
        int64_t fits =
            p->budget ? zb_bench_batch(e, p->budget, c.depth + c.prompt + c.tokens) : p->batch[i];
        if (fits < 1)
            return zb_fail(&cli->err, ZB_ERR_MEMORY,
                           "--budget: weights of %.2f GiB and one sequence of %d tokens do not fit "
                           "into %.2f GiB",
                           r->mib / 1024, c.depth + c.prompt + c.tokens,
                           (double)p->budget / 0x1p30);
        c.batch = fits < p->batch_max ? (int)fits : p->batch_max;
        ZB_TRY(run_case(cli, b, c, threads, r));
    }
    return ZB_OK;
}

static zb_status run_tests(zb_cli *cli, const options *o, const plan *p, zb_engine *e, report *r) {
    zb_model *m = zb_engine_model(e);
    r->model = zb_path_base(zb_path_plain(&cli->arena, o->model));
    r->mib = (double)zb_model_bytes(m) / 0x1p20;
    r->millions = (double)zb_params_total(zb_model_params(m)) * 1e-6;
    r->precision = zb_precision_name(zb_engine_precision(e));
    ZB_TRY(zb_bench_machine_measure(&r->machine, &cli->err));
    zb_bench *b;
    zb_bench_opts opts = {.runs = (int)o->runs, .random_fill = !strcmp(o->fill, "random")};
    ZB_TRY(zb_bench_new(&b, e, &r->machine, &opts, &cli->err));
    zb_status s = ZB_OK;
    for (int d = 0; d < p->n_depth && s == ZB_OK; d++)
        for (int t = 0; t < p->n_tests && s == ZB_OK; t++)
            s = run_batches(cli, p, e, b,
                            (zb_bench_case){.prompt = p->test[t].prompt,
                                            .tokens = p->test[t].tokens,
                                            .depth = p->depth[d]},
                            r);
    zb_bench_free(b);
    return s;
}

/* ---- the table ---- */

static void test_name(const zb_bench_case *c, char out[64]) {
    int n = 0;
    if (c->prompt) n = snprintf(out, 64, "pp%d", c->prompt);
    if (c->tokens)
        n += snprintf(out + n, (size_t)(64 - n), "%stg%d", c->prompt ? "+" : "", c->tokens);
    if (c->depth) snprintf(out + n, (size_t)(64 - n), " @ d%d", c->depth);
}

static void print_machine(const zb_bench_machine *m, const char *fill) {
    printf(
        "machine: %d threads, %s kernels, read %.1f GB/s, f32 %.0f GFLOP/s, int8 %.0f G/s, bf16 ",
        m->threads, m->kernels, m->read_rate * 1e-9, m->f32_rate * 1e-9, m->int8_rate * 1e-9);
    printf(m->bf16_rate > 0 ? "%.0f GFLOP/s" : "not native", m->bf16_rate * 1e-9);
    printf("; contexts %s\n\n", fill);
}

static void print_md(const report *r) {
    print_machine(&r->machine, r->fill);
    puts("| model | size | params | backend | threads | batch | test | t/s | weights | cache | "
         "state "
         "| share |\n|---|--:|--:|---|--:|--:|---|--:|--:|--:|--:|--:|");
    for (size_t i = 0; i < r->n; i++) {
        const zb_bench_case *c = &r->rows[i].c;
        char name[64];
        test_name(c, name);
        printf("| %s | %.2f MiB | %.2f M | %s %s | %d | %d | %s | %.2f ± %.2f |", r->model, r->mib,
               r->millions, r->machine.kernels, r->precision, r->rows[i].threads, c->batch, name,
               c->mean, c->sd);
        if (c->tokens)
            printf(" %.2f MB | %.2f MB | %.2f MB |", c->weight_bytes * 1e-6, c->cache_bytes * 1e-6,
                   c->state_bytes * 1e-6);
        else
            printf(" | | |");
        printf(" %.3f |\n", c->share);
    }
}

static void print_csv(const report *r) {
    puts(
        "model,size_mib,params_m,kernels,precision,threads,batch,test,depth,fill,tokens_per_second,"
        "deviation,weight_bytes,cache_bytes,state_bytes,share");
    for (size_t i = 0; i < r->n; i++) {
        const zb_bench_case *c = &r->rows[i].c;
        char name[64];
        test_name(c, name);
        printf("\"%s\",%.2f,%.2f,%s,%s,%d,%d,%s,%d,%s,%.3f,%.3f,%.0f,%.0f,%.0f,%.4f\n", r->model,
               r->mib, r->millions, r->machine.kernels, r->precision, r->rows[i].threads, c->batch,
               name, c->depth, r->fill, c->mean, c->sd, c->tokens ? c->weight_bytes : 0,
               c->tokens ? c->cache_bytes : 0, c->tokens ? c->state_bytes : 0, c->share);
    }
}

static json_t *machine_json(const zb_bench_machine *m) {
    return json_pack("{s:i, s:s, s:f, s:f, s:f, s:f}", "threads", m->threads, "kernels", m->kernels,
                     "read_bytes_per_second", m->read_rate, "f32_flop_per_second", m->f32_rate,
                     "bf16_flop_per_second", m->bf16_rate, "int8_op_per_second", m->int8_rate);
}

static json_t *case_json(const row *r) {
    char name[64];
    const zb_bench_case *c = &r->c;
    test_name(c, name);
    json_t *o = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:f}", "test", name,
                          "threads", r->threads, "batch", c->batch, "prompt", c->prompt, "tokens",
                          c->tokens, "depth", c->depth, "runs", c->runs, "tokens_per_second",
                          c->mean, "deviation", c->sd, "share", c->share);
    if (c->tokens)
        json_object_set_new(o, "bytes_per_token",
                            json_pack("{s:f, s:f, s:f}", "weights", c->weight_bytes, "cache",
                                      c->cache_bytes, "state", c->state_bytes));
    return o;
}

static json_t *report_json(const report *r) {
    json_t *rows = json_array();
    for (size_t i = 0; i < r->n; i++) json_array_append_new(rows, case_json(&r->rows[i]));
    json_t *o = json_pack("{s:s, s:f, s:f, s:s, s:s, s:o, s:o}", "model", r->model, "size_mib",
                          r->mib, "params_m", r->millions, "precision", r->precision, "fill",
                          r->fill, "machine", machine_json(&r->machine), "results", rows);
    if (r->budget) json_object_set_new(o, "budget", json_string(r->budget));
    return o;
}

/* ---- kernels ---- */

enum { TIMINGS_MAX = 256 };
typedef struct timings {
    zb_kernel_timing item[TIMINGS_MAX];
    int n;
} timings;

static void keep_timing(void *ctx, const zb_kernel_timing *t) {
    timings *all = ctx;
    if (all->n < TIMINGS_MAX) all->item[all->n++] = *t;
}

static void print_timing(const zb_kernel_timing *t, bool csv) {
    bool flop = !strcmp(t->unit, "flop/s");
    if (csv) {
        printf("%s,%s,%.4g,%s,%.4f,%.4g\n", t->kernel, t->size, t->rate, t->unit, t->share, t->ns);
        return;
    }
    printf("| %s | %s | %.1f %s |", t->kernel, t->size, 1e-9 * t->rate, flop ? "GFLOP/s" : "GB/s");
    printf(t->share > 0 ? " %.2f |" : " |", t->share);
    printf(" %.3g ns |\n", t->ns);
}

static json_t *timings_json(const timings *all, const zb_bench_machine *m) {
    json_t *rows = json_array();
    for (int i = 0; i < all->n; i++) {
        const zb_kernel_timing *t = &all->item[i];
        json_array_append_new(rows, json_pack("{s:s, s:s, s:f, s:s, s:f, s:f}", "kernel", t->kernel,
                                              "size", t->size, "rate", t->rate, "unit", t->unit,
                                              "share", t->share, "ns", t->ns));
    }
    return json_pack("{s:o, s:o}", "machine", machine_json(m), "kernels", rows);
}

static zb_status run_kernels(zb_cli *cli, const options *o) {
    timings *all = ZB_NEW(&cli->arena, timings);
    zb_bench_machine m;
    ZB_TRY(zb_bench_machine_measure(&m, &cli->err));
    zb_kernels_time(keep_timing, all);
    if (zb_interrupted()) return zb_fail(&cli->err, ZB_ERR_INTERRUPTED, "--kernels: interrupted");
    if (!strcmp(o->output, "json")) return zb_cli_print_json(cli, timings_json(all, &m), true);
    bool csv = !strcmp(o->output, "csv");
    if (!csv) print_machine(&m, "none");
    puts(csv ? "kernel,size,rate,unit,share,ns"
             : "| kernel (one core) | size | rate | share | time |\n|---|---|--:|--:|--:|");
    for (int i = 0; i < all->n; i++) print_timing(&all->item[i], csv);
    return ZB_OK;
}

/* ---- layers ---- */

enum { LAYERS_MAX = 4, LAYER_TOKENS = 2048, ATTEND_DEPTH = 8192 };

static void print_layer(const zb_bench_layer *b, bool csv) {
    double us = 1e6 / b->tokens;
    printf(csv ? "%s,%d,%.3f,%.3f,%.3f,%.3f,%.2f\n"
               : "| %s | %d | %.2f | %.2f | %.2f | %.2f | %.1f |\n",
           b->name, b->tokens, b->chunked * us, b->steps * us, b->backward * us, b->decode * us,
           b->decode / fmin(b->chunked, b->steps));
}

static json_t *layer_json(const zb_bench_layer *b) {
    return json_pack("{s:s, s:i, s:f, s:f, s:f, s:f, s:{s:f, s:f, s:f}}", "name", b->name, "tokens",
                     b->tokens, "chunked_seconds", b->chunked, "steps_seconds", b->steps,
                     "backward_seconds", b->backward, "decode_seconds", b->decode,
                     "scan_of_one_head_seconds", "chunked", b->scan[0], "steps", b->scan[1],
                     "backward", b->scan[2]);
}

static void print_attend(const zb_bench_attend *a, bool csv) {
    printf(csv ? "%s,%d,%s,%.3f,%.2f,%.2f\n" : "| %s | %d | %s | %.1f | %.1f | %.1f |\n", a->name,
           a->depth, a->cache, 1e6 * a->seconds, 1e-9 * a->flop / a->seconds,
           1e-9 * a->bytes / a->seconds);
}

/* Attention at every depth; without one at 8,192 tokens. */
static zb_status run_attends(zb_cli *cli, const options *o, zb_bench_attend *out, int *n) {
    zb_bench_attend sizes[LAYERS_MAX];
    int depth[LIST_MAX], depths, kinds = zb_bench_attend_sizes(sizes, LAYERS_MAX);
    ZB_TRY(zb_list_ints(o->depth, "--depth", 0, LENGTH_MAX, depth, LIST_MAX, &depths, &cli->err));
    for (int d = 0; d < depths; d++)
        for (int i = 0; i < kinds; i++) {
            zb_bench_attend *a = &out[(*n)++];
            *a = sizes[i];
            a->depth = depth[d] ? depth[d] : ATTEND_DEPTH;
            a->runs = 4 * (int)o->runs;
            a->cache = o->cache_type;
            ZB_TRY(zb_bench_attend_run(a, &cli->err));
        }
    return ZB_OK;
}

static zb_status print_layers(zb_cli *cli, const options *o, const zb_bench_layer *b, int n,
                              const zb_bench_attend *a, int n_a) {
    bool csv = !strcmp(o->output, "csv");
    if (!strcmp(o->output, "json")) {
        json_t *rows = json_array(), *attends = json_array();
        for (int i = 0; i < n; i++) json_array_append_new(rows, layer_json(&b[i]));
        for (int i = 0; i < n_a; i++)
            json_array_append_new(attends,
                                  json_pack("{s:s, s:i, s:s, s:f, s:f, s:f}", "name", a[i].name,
                                            "depth", a[i].depth, "cache", a[i].cache, "seconds",
                                            a[i].seconds, "flop", a[i].flop, "bytes", a[i].bytes));
        json_t *all = json_pack("{s:o, s:o}", "layers", rows, "attention", attends);
        return zb_cli_print_json(cli, all, true);
    }
    puts(csv ? "layer,tokens,chunked_us,steps_us,backward_us,decode_us,ratio"
             : "| Mamba2 layer, us per token | tokens | one pass, chunked | one pass, steps | "
               "backward | token by token | ratio |\n|---|--:|--:|--:|--:|--:|--:|");
    for (int i = 0; i < n; i++) print_layer(&b[i], csv);
    puts(csv ? "\nattention,depth,cache,us,gflop_per_second,gb_per_second"
             : "\n| attention of one token | depth | cache | us | GFLOP/s | GB/s |\n"
               "|---|--:|---|--:|--:|--:|");
    for (int i = 0; i < n_a; i++) print_attend(&a[i], csv);
    return ZB_OK;
}

static zb_status run_layers(zb_cli *cli, const options *o) {
    zb_bench_layer b[LAYERS_MAX];
    int n = zb_bench_layer_sizes(b, LAYERS_MAX), n_a = 0;
    zb_bench_attend *a = ZB_NEW_ARRAY(&cli->arena, zb_bench_attend, LIST_MAX * LAYERS_MAX);
    ZB_TRY(run_attends(cli, o, a, &n_a)); /* first, as its depths may be refused */
    for (int i = 0; i < n; i++) {
        b[i].tokens = LAYER_TOKENS;
        b[i].runs = (int)o->runs;
        ZB_TRY(zb_bench_layer_run(&b[i], &cli->err));
    }
    return print_layers(cli, o, b, n, a, n_a);
}

static zb_status run_model(zb_cli *cli, const options *o) {
    plan *p = ZB_NEW(&cli->arena, plan);
    report *r = ZB_NEW(&cli->arena, report);
    ZB_TRY(parse_plan(cli, o, p));
    r->fill = o->fill;
    r->budget = o->budget;
    for (int t = 0; t < p->n_threads; t++) {
        zb_engine *e;
        omp_set_num_threads(p->threads[t]);
        cli->threads = p->threads[t];
        cli->cache_type = o->cache_type;
        ZB_TRY(zb_cli_engine(cli, o->model, o->context, &e));
        zb_status s = run_tests(cli, o, p, e, r);
        zb_engine_close(e);
        ZB_TRY(s);
    }
    if (!strcmp(o->output, "json")) return zb_cli_print_json(cli, report_json(r), true);
    if (!strcmp(o->output, "csv"))
        print_csv(r);
    else
        print_md(r);
    return ZB_OK;
}

/* Steps of distillation or alignment; always JSON, since there is one result. */
static zb_status run_train(zb_cli *cli, const zb_train_bench *t) {
    zb_bench_machine m;
    zb_precision p;
    json_t *out = NULL;
    ZB_TRY(zb_cli_need(cli, t->teacher, "--teacher MODEL"));
    ZB_TRY(zb_cli_need(cli, t->student, "--student DIR"));
    ZB_TRY(zb_precision_choose(cli->precision, &p, &cli->err));
    ZB_TRY(zb_bench_machine_measure(&m, &cli->err));
    ZB_TRY(zb_train_bench_run(t, p == ZB_PREC_BF16 ? "bf16" : "f32",
                              p == ZB_PREC_BF16 && m.bf16_rate > 0 ? m.bf16_rate : m.f32_rate, &out,
                              &cli->err));
    return zb_cli_print_json(cli, out, true);
}

/* What is measured without -m knows few of the options: others must not look as if they held. */
static zb_status check_options(zb_cli *cli, const options *o, const char *what, const char *known) {
    int n;
    char **name = zb_list_split(known, &cli->arena, &n), *given = NULL;
    const char *key;
    options copy = *o;
    zb_opt_group g[] = {{"", table, &copy}, {0}};
    json_t *now = zb_opts_json(g), *defaults = zb_opts_default_json(g), *value;
    for (int i = 0; i < n; i++) json_object_del(now, name[i]);
    json_object_foreach(now, key, value) {
        if (!given && !json_equal(value, json_object_get(defaults, key)))
            given = zb_strdup(&cli->arena, key);
    }
    json_decref(now);
    json_decref(defaults);
    if (!given) return ZB_OK;
    for (char *p = given; *p; p++)
        if (*p == '_') *p = '-';
    return zb_fail(&cli->err, ZB_ERR_USAGE, "%s: takes no --%s: leave it out", what, given);
}

static zb_status run(zb_cli *cli, const options *o, const zb_train_bench *train) {
    if (strcmp(train->train, "none")) {
        ZB_TRY(check_options(cli, o, "--train", "precision,output"));
        return run_train(cli, train);
    }
    if (o->kernels) {
        ZB_TRY(check_options(cli, o, "--kernels", "kernels,output"));
        return run_kernels(cli, o);
    }
    if (o->layers) {
        ZB_TRY(check_options(cli, o, "--layers", "layers,depth,cache_type,runs,output"));
        return run_layers(cli, o);
    }
    return run_model(cli, o);
}

int zb_cmd_bench(int argc, char **argv) {
    options o;
    zb_train_bench train;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {
        {"options", table, &o}, {"training", zb_train_bench_table, &train}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 0, &about, &status)) return status;
    cli.precision = o.precision;
    return zb_cli_end(&cli, run(&cli, &o, &train));
}
