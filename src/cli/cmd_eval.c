/* cmd_eval.c - `zebra eval`: harness tasks, perplexity and divergence from a teacher; comparison of
 * two evaluations. */
#include "cli/cli.h"

#include "base/json.h"
#include "base/log.h"
#include "base/output.h"
#include "eval/compare.h"
#include "eval/suite.h"

typedef struct options {
    bool compare;
} options;

static const zb_opt table[] = {
    {ZB_OPT_BOOL, "compare", 0, offsetof(options, compare), NULL, 0, 0, NULL,
     "two results files of evaluations with --log-samples, or two such folders: paired differences "
     "by document"},
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [--tasks LIST] [--text FILE [--teacher MODEL]] [options] | "
    "--compare A.json B.json [-o FILE]",
    "Scores a model by the rules of the LM Evaluation Harness, and its perplexity and divergence "
    "on a text.",
    "An empty --tasks leaves the tasks out; without --text no perplexity is measured.\n"
    "In several processes: mpirun -n N zebra eval ... gives the same scores.",
};

static zb_status compare(zb_cli *cli, const zb_suite_opts *m, const zb_eval_opts *e, zb_buf *out) {
    if (m->model || m->text || e->log_samples || e->samples)
        return zb_fail(&cli->err, ZB_ERR_USAGE,
                       "--compare: leave -m, --text, --log-samples and --samples out (nothing is "
                       "measured; the table goes to standard output, with -o FILE also there)");
    if (cli->n_pos != 2)
        return zb_fail(&cli->err, ZB_ERR_USAGE,
                       "--compare: expected two results files or folders, found %d", cli->n_pos);
    ZB_TRY(zb_output_file(e->output, ZB_INPUTS(cli->pos[0], cli->pos[1]), &cli->err));
    zb_comparison c;
    zb_status s = zb_compare_run(cli->pos[0], cli->pos[1], &c, &cli->err);
    if (s == ZB_OK) {
        zb_comparison_text(&c, out);
        json_t *o = zb_comparison_json(&c);
        if (e->output && *e->output) s = zb_json_write(e->output, o, &cli->err);
        json_decref(o);
    }
    zb_comparison_free(&c);
    return s;
}

/* What would be done is nothing, or less than the options say. */
static zb_status check(zb_cli *cli, const zb_suite_opts *m, const zb_eval_opts *e) {
    if (cli->n_pos > 0)
        return zb_fail(&cli->err, ZB_ERR_USAGE, "expected options only, found \"%s\"", cli->pos[0]);
    ZB_TRY(zb_cli_need(cli, m->model, "-m MODEL"));
    bool tasks = e->tasks && *e->tasks;
    if (!tasks && (e->output || e->log_samples || e->samples))
        return zb_fail(&cli->err, ZB_ERR_USAGE,
                       "%s: expected --tasks, which it is about (--perplexity-out takes what is "
                       "measured on a text)",
                       e->output        ? "--output"
                       : e->log_samples ? "--log-samples"
                                        : "--samples");
    if (m->text) return ZB_OK;
    if (!tasks)
        return zb_fail(&cli->err, ZB_ERR_USAGE, "expected --tasks or --text, found neither");
    if (m->teacher || m->perplexity_out)
        return zb_fail(&cli->err, ZB_ERR_USAGE, "%s: expected --text, on which it is measured",
                       m->teacher ? "--teacher" : "--perplexity-out");
    return ZB_OK;
}

static zb_status evaluate(zb_cli *cli, const zb_suite_opts *m, zb_eval_opts *e, zb_buf *out) {
    ZB_TRY(check(cli, m, e));
    ZB_TRY(zb_shard_begin(&e->shard, &cli->err));
    if (e->shard.rank > 0) zb_log_set(ZB_LOG_QUIET);
    return zb_suite_run(m, e, out, &cli->err);
}

int zb_cmd_eval(int argc, char **argv) {
    zb_cli cli;
    int status;
    options o = {0};
    zb_eval_opts e = {0};
    zb_suite_opts m = {0};
    zb_opt_group g[] = {{"model and text", zb_suite_opt_table, &m},
                        {"tasks", zb_eval_opt_table, &e},
                        {"comparison", table, &o},
                        {0}};
    if (!zb_cli_begin(&cli, argc, argv, g, 2, &about, &status)) return status;
    zb_buf out;
    zb_buf_init(&out, 1 << 24);
    zb_status s = o.compare ? compare(&cli, &m, &e, &out) : evaluate(&cli, &m, &e, &out);
    if (out.n) { /* also where only the files of the results could not be written */
        zb_status printed = zb_cli_print(&cli, out.p, out.n);
        if (s == ZB_OK) s = printed;
    }
    zb_buf_free(&out);
    status = zb_cli_end(&cli, s);
    zb_shard_end(&e.shard, s != ZB_OK);
    return status;
}
