/* cmd_score.c - `zebra score`: log-probability of each token of a text or of given ids, as JSON. */
#include "cli/cli.h"

#include "generate/score.h"

#include <math.h>

typedef struct options {
    const char *model, *prompt, *file, *ids, *cache_type, *precision;
    int64_t context;
    bool add_special, parse_special;
} options;

#define ROW(type, name, letter, field, def, lo, hi, help)                                          \
    { type, name, letter, offsetof(options, field), def, lo, hi, NULL, help }

static const zb_opt table[] = {
    ROW(ZB_OPT_STR, "model", 'm', model, NULL, 0, 0, "model folder or .gguf file"),
    ROW(ZB_OPT_STR, "prompt", 'p', prompt, NULL, 0, 0, "text; else -f, else standard input"),
    ROW(ZB_OPT_STR, "file", 'f', file, NULL, 0, 0, "read the text from a file"),
    ROW(ZB_OPT_STR, "ids", 0, ids, NULL, 0, 0,
        "token ids (1,2,3) instead of a text; needs no tokenizer"),
    ROW(ZB_OPT_BOOL, "add_special", 'b', add_special, "true", 0, 0,
        "put BOS or EOS where the tokenizer's settings say so"),
    ROW(ZB_OPT_BOOL, "parse_special", 0, parse_special, NULL, 0, 0,
        "text such as <|im_end|> becomes its token"),
    ROW(ZB_OPT_INT, "context", 'c', context, "0", 0, 4194304,
        "most tokens; 0: what the model was made for"),
    ZB_CLI_PRECISION_OPTION(options, precision),
    ZB_CELLS_OPTION(options, cache_type, "f32"),
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [-p TEXT | -f FILE | --ids IDS] [options]",
    "Prints how probable the model finds each token after those before it, as one JSON object.",
    "tokens: id, text (null without a tokenizer), logprob (natural logarithm; null for the first "
    "token, which nothing\n"
    "predicts), best and best_logprob (the most probable token there). sum, predicted and "
    "perplexity = exp(-sum / predicted).",
};

static zb_status read_ids(zb_cli *cli, const options *o, const zb_engine *e, zb_ids *ids) {
    if (o->ids && (o->prompt || o->file))
        return zb_fail(&cli->err, ZB_ERR_USAGE, "expected --ids or a text, found both");
    if (o->ids) return zb_cli_ids(cli, o->ids, "--ids", zb_engine_vocab(e), ids);
    const char *text;
    size_t n;
    ZB_TRY(zb_engine_need_tokenizer(e, &cli->err));
    ZB_TRY(zb_cli_text(cli, o->prompt, o->file, &text, &n));
    ZB_TRY(zb_tokenizer_encode(zb_engine_tokenizer(e), (zb_str){text, n}, o->add_special,
                               o->parse_special, &cli->arena, ids, &cli->err));
    return ids->n ? ZB_OK : zb_fail(&cli->err, ZB_ERR_USAGE, "the text is empty");
}

static zb_status score(zb_cli *cli, const options *o, zb_engine *e) {
    zb_ids ids = {0};
    ZB_TRY(read_ids(cli, o, e, &ids));
    if (ids.n > (size_t)zb_engine_context(e))
        return zb_fail(&cli->err, ZB_ERR_CONFIG,
                       "expected at most %d tokens, found %zu: shorten the text or raise --context",
                       zb_engine_context(e), ids.n);
    zb_token_score *scores = ZB_NEW_ARRAY(&cli->arena, zb_token_score, ids.n);
    ZB_TRY(zb_score(e, ids.id, (int)ids.n, scores, &cli->err));
    const zb_tokenizer *t = zb_engine_tokenizer(e);
    json_t *tokens = json_array();
    double sum = 0;
    for (size_t i = 0; i < ids.n; i++) {
        json_t *row = json_pack("{s:i, s:o}", "id", (int)ids.id[i], "text",
                                t ? zb_cli_piece(t, ids.id[i]) : json_null());
        json_object_set_new(row, "logprob", i ? json_real(scores[i].logprob) : json_null());
        json_object_set_new(row, "best", i ? json_integer(scores[i].best) : json_null());
        json_object_set_new(row, "best_logprob",
                            i ? json_real(scores[i].best_logprob) : json_null());
        json_array_append_new(tokens, row);
        sum += scores[i].logprob;
    }
    int predicted = (int)ids.n - 1;
    double ppl = predicted ? exp(-sum / predicted) : (double)NAN;
    json_t *out = json_pack("{s:o, s:i, s:o}", "tokens", tokens, "predicted", predicted, "sum",
                            isfinite(sum) ? json_real(sum) : json_null());
    json_object_set_new(out, "perplexity", isfinite(ppl) ? json_real(ppl) : json_null());
    return zb_cli_print_json(cli, out, false);
}

static zb_status run(zb_cli *cli, const options *o) {
    zb_engine *e;
    cli->cache_type = o->cache_type;
    cli->precision = o->precision;
    ZB_TRY(zb_cli_engine(cli, o->model, o->context, &e));
    zb_status s = score(cli, o, e);
    zb_engine_close(e);
    return s;
}

int zb_cmd_score(int argc, char **argv) {
    options o;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {{"options", table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 0, &about, &status)) return status;
    return zb_cli_end(&cli, run(&cli, &o));
}
