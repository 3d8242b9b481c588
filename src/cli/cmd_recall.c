/* cmd_recall.c - `zebra recall`: needles in long texts, and partners of words at exact distances.
 */
#include "cli/cli.h"

#include "base/log.h"
#include "eval/recall.h"

typedef struct options {
    const char *model, *precision, *cache_type;
} options;

#define AT(field) offsetof(options, field)
static const zb_opt table[] = {
    {ZB_OPT_STR, "model", 'm', AT(model), NULL, 0, 0, NULL, "model folder or .gguf"},
    {ZB_OPT_CHOICE, "precision", 0, AT(precision), "auto", 0, 0, "auto|f32|bf16|int8",
     "matrix products; auto: bf16 where the CPU has it; int8: as generation has quantised weights"},
    ZB_CELLS_OPTION(options, cache_type, "f32"),
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [--tests LIST] [--lengths LIST] [--depths LIST] [options]",
    "Tests what a model still knows of a long text: RULER's needles and variable tracking, and "
    "associative recall.",
    "Tests are files in --tasks-dir, and \"associative\". Prompts are made from --seed and sized "
    "with the model's tokenizer.\n"
    "In several processes: mpirun -n N zebra recall ... gives the same scores.",
};

static zb_status run(zb_cli *cli, const options *m, zb_recall_opts *o, zb_buf *out) {
    if (cli->n_pos > 0)
        return zb_fail(&cli->err, ZB_ERR_USAGE, "expected options only, found \"%s\"", cli->pos[0]);
    ZB_TRY(zb_cli_need(cli, m->model, "-m MODEL"));
    ZB_TRY(zb_shard_begin(&o->shard, &cli->err));
    if (o->shard.rank > 0) zb_log_set(ZB_LOG_QUIET);
    return zb_recall_model(o, m->model, m->precision, m->cache_type, out, &cli->err);
}

int zb_cmd_recall(int argc, char **argv) {
    zb_cli cli;
    int status;
    options m = {0};
    zb_recall_opts o = {0};
    zb_opt_group g[] = {{"model", table, &m}, {"tests", zb_recall_opt_table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 1, &about, &status)) return status;
    zb_buf out;
    zb_buf_init(&out, 1 << 24);
    zb_status s = run(&cli, &m, &o, &out);
    if (out.n) { /* also where only the files of the results could not be written */
        zb_status printed = zb_cli_print(&cli, out.p, out.n);
        if (s == ZB_OK) s = printed;
    }
    zb_buf_free(&out);
    status = zb_cli_end(&cli, s);
    zb_shard_end(&o.shard, s != ZB_OK);
    return status;
}
