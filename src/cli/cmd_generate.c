/* cmd_generate.c - `zebra generate`: continues a text, or answers one message with --chat. */
#include "cli/generate_many.h"
#include "cli/reply.h"

#include "base/log.h"
#include "generate/prompt.h"

typedef struct options {
    const char *model, *prompt, *file, *prompt_ids, *system, *cache_type, *precision;
    int64_t n, context;
    bool chat, ids, json, ignore_eos;
    zb_cli_sampling sampling;
    /* many prompts */
    const char *prompts;
    int64_t parallel;
    bool deterministic;
} options;

#define ROW(type, name, letter, field, def, lo, hi, help)                                          \
    { type, name, letter, offsetof(options, field), def, lo, hi, NULL, help }

static const zb_opt table[] = {
    ROW(ZB_OPT_STR, "model", 'm', model, NULL, 0, 0, "model folder or .gguf file"),
    ROW(ZB_OPT_STR, "prompt", 'p', prompt, NULL, 0, 0,
        "text to continue; else -f, else standard input"),
    ROW(ZB_OPT_STR, "file", 'f', file, NULL, 0, 0, "read the prompt from a file"),
    ROW(ZB_OPT_STR, "prompts", 0, prompts, NULL, 0, 0,
        "JSON Lines file of prompts (\"prompt\", \"messages\" or \"ids\" in each object); JSON "
        "Lines out, in its order"),
    ROW(ZB_OPT_INT, "parallel", 0, parallel, "8", 1, 4096,
        "most sequences of --prompts that run together"),
    ROW(ZB_OPT_BOOL, "deterministic", 0, deterministic, NULL, 0, 0,
        "an answer does not depend, to the bit, on what runs beside it"),
    ROW(ZB_OPT_STR, "prompt_ids", 0, prompt_ids, NULL, 0, 0,
        "prompt as token ids (1,2,3); needs no tokenizer"),
    ROW(ZB_OPT_INT, "tokens", 'n', n, "128", -1, 1e9,
        "most tokens to generate; -1: as many as the context holds"),
    ROW(ZB_OPT_INT, "context", 'c', context, "0", 0, 4194304,
        "most tokens of prompt and answer; 0: what the model was made for"),
    ZB_CLI_PRECISION_OPTION(options, precision),
    ZB_CELLS_OPTION(options, cache_type, "f16"),
    ROW(ZB_OPT_BOOL, "chat", 0, chat, NULL, 0, 0,
        "the prompt is a user's message: apply the model's chat template"),
    ROW(ZB_OPT_STR, "system", 0, system, NULL, 0, 0, "system message for --chat"),
    ROW(ZB_OPT_BOOL, "ids", 0, ids, NULL, 0, 0, "print token ids, one per line, instead of text"),
    ROW(ZB_OPT_BOOL, "ignore_eos", 0, ignore_eos, NULL, 0, 0, "go on behind an end token"),
    ROW(ZB_OPT_BOOL, "json", 'j', json, NULL, 0, 0,
        "one JSON object at the end instead of streaming"),
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [-p TEXT | -f FILE | --prompt-ids IDS] [options]",
    "Continues a text, streaming to standard output; timings go to standard error.",
    "Options work in this order: repeat penalty, top-k, top-p, min-p, temperature.",
};

static zb_status read_prompt(zb_cli *cli, const options *o, const zb_engine *e, zb_ids *ids) {
    zb_err *err = &cli->err;
    if (o->prompt_ids && (o->prompt || o->file || o->chat))
        return zb_fail(err, ZB_ERR_USAGE, "--prompt-ids stands alone: leave -p, -f and --chat out");
    if (o->system && !o->chat) return zb_fail(err, ZB_ERR_USAGE, "--system needs --chat");
    if (o->prompt_ids)
        return zb_cli_ids(cli, o->prompt_ids, "--prompt-ids", zb_engine_vocab(e), ids);
    zb_str text;
    ZB_TRY(zb_engine_need_tokenizer(e, err));
    ZB_TRY(zb_cli_text(cli, o->prompt, o->file, &text.p, &text.n));
    if (o->chat) return zb_prompt_message(e, o->system, text, &cli->arena, ids, err);
    ZB_TRY(zb_tokenizer_encode(zb_engine_tokenizer(e), text, true, true, &cli->arena, ids, err));
    return ids->n ? ZB_OK : zb_fail(err, ZB_ERR_USAGE, "the prompt is empty");
}

static zb_status print_json(zb_cli *cli, const zb_reply *r, bool has_text) {
    const zb_generation *g = &r->g;
    json_t *text = has_text ? zb_cli_json_text(zb_buf_str(&r->text)) : json_null();
    json_t *o = json_pack("{s:o, s:O, s:s}", "text", text, "ids", r->ids, "finish",
                          g->finish == ZB_FINISH_END ? "end" : "length");
    json_object_update_new(o, json_pack("{s:i, s:i, s:f, s:f}", "prompt_tokens", g->prompt_tokens,
                                        "tokens", g->tokens, "prompt_seconds", g->prompt_seconds,
                                        "seconds", g->seconds));
    return zb_cli_print_json(cli, o, false);
}

static zb_status generate(zb_cli *cli, const options *o, zb_engine *e, zb_session *session) {
    zb_ids prompt;
    zb_sampler *sampler;
    zb_reply reply;
    ZB_TRY(read_prompt(cli, o, e, &prompt));
    ZB_TRY(zb_cli_sampler(cli, &o->sampling, e, &sampler));
    zb_generate_request r = {
        .prompt = prompt.id, .n = (int)prompt.n, .max = (int)o->n, .ignore_end = o->ignore_eos};
    zb_show show = o->json ? ZB_SHOW_NOTHING : o->ids ? ZB_SHOW_IDS : ZB_SHOW_TEXT;
    zb_status s = zb_cli_reply(cli, session, sampler, &r, show, &reply);
    if (s == ZB_ERR_INTERRUPTED && show == ZB_SHOW_TEXT && reply.text.n) { /* ends its line, too */
        zb_status ended = zb_cli_print(cli, "\n", 1);
        if (ended != ZB_OK) s = ended;
    }
    if (s == ZB_OK && o->json) s = print_json(cli, &reply, zb_engine_has_tokenizer(e));
    if (s == ZB_OK) {
        char note[160];
        zb_cli_timings(&reply.g, note);
        zb_info("%s", note);
    }
    zb_reply_free(&reply);
    zb_sampler_free(sampler);
    return s;
}

static zb_status many(zb_cli *cli, const options *o, zb_engine *e) {
    zb_many m = {.path = o->prompts,
                 .parallel = (int)o->parallel,
                 .tokens = (int)o->n,
                 .ignore_end = o->ignore_eos,
                 .sampling = &o->sampling};
    return zb_generate_many(cli, &m, e);
}

static zb_status run(zb_cli *cli, const options *o) {
    zb_engine *e;
    zb_session *session;
    cli->cache_type = o->cache_type;
    cli->precision = o->precision;
    ZB_TRY(zb_cli_engine(cli, o->model, o->context, &e));
    zb_runner_run(zb_engine_runner(e))->deterministic = o->deterministic;
    if (o->prompts) {
        zb_status all = many(cli, o, e);
        zb_engine_close(e);
        return all;
    }
    zb_status s = zb_session_new(&session, e, 0, &cli->err);
    if (s == ZB_OK) {
        s = generate(cli, o, e, session);
        zb_session_free(session);
    }
    zb_engine_close(e);
    return s;
}

static zb_status check(zb_cli *cli, const options *o) {
    bool other = o->prompt || o->file || o->prompt_ids || o->chat || o->system || o->ids;
    if (!o->prompts || !other) return ZB_OK;
    return zb_fail(&cli->err, ZB_ERR_USAGE,
                   "--prompts stands alone: leave -p, -f, --prompt-ids, --chat, --system and --ids "
                   "out (a line may have \"messages\"; ids are in every answer)");
}

int zb_cmd_generate(int argc, char **argv) {
    options o;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {
        {"options", table, &o}, {"sampling", zb_cli_sampling_table, &o.sampling}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 0, &about, &status)) return status;
    zb_status s = check(&cli, &o);
    return zb_cli_end(&cli, s == ZB_OK ? run(&cli, &o) : s);
}
