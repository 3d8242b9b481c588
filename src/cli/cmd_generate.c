/* cmd_generate.c - `zebra generate`: continues a text, or answers one message with --chat. */
#include "cli/sampling.h"

#include "generate/prompt.h"
#include "generate/stream.h"

#include <stdio.h>

typedef struct options {
    const char *model, *prompt, *file, *prompt_ids, *system;
    int64_t n, context;
    bool chat, ids, json, ignore_eos;
    zb_cli_sampling sampling;
} options;

#define ROW(type, name, letter, field, def, lo, hi, help) {type, name, letter, offsetof(options, field), def, lo, hi, NULL, help}

static const zb_opt table[] = {
    ROW(ZB_OPT_STR, "model", 'm', model, NULL, 0, 0, "model folder or .gguf file"),
    ROW(ZB_OPT_STR, "prompt", 'p', prompt, NULL, 0, 0, "text to continue; else -f, else standard input"),
    ROW(ZB_OPT_STR, "file", 'f', file, NULL, 0, 0, "read the prompt from a file"),
    ROW(ZB_OPT_STR, "prompt_ids", 0, prompt_ids, NULL, 0, 0, "prompt as token ids (1,2,3); needs no tokenizer"),
    ROW(ZB_OPT_INT, "tokens", 'n', n, "128", -1, 1e9, "most tokens to generate; -1: as many as the context holds"),
    ROW(ZB_OPT_INT, "context", 'c', context, "0", 0, 4194304, "most tokens of prompt and answer; 0: what the model was made for"),
    ROW(ZB_OPT_BOOL, "chat", 0, chat, NULL, 0, 0, "the prompt is a user's message: apply the model's chat template"),
    ROW(ZB_OPT_STR, "system", 0, system, NULL, 0, 0, "system message for --chat"),
    ROW(ZB_OPT_BOOL, "ids", 0, ids, NULL, 0, 0, "print token ids, one per line, instead of text"),
    ROW(ZB_OPT_BOOL, "ignore_eos", 0, ignore_eos, NULL, 0, 0, "go on behind an end token"),
    ROW(ZB_OPT_BOOL, "json", 'j', json, NULL, 0, 0, "one JSON object at the end instead of streaming"),
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [-p TEXT | -f FILE | --prompt-ids IDS] [options]",
    "Continues a text, streaming to standard output; timings go to standard error.",
    "Options work in this order: repeat penalty, top-k, top-p, min-p, temperature.",
};

/* Where chosen tokens go. */
typedef struct sink {
    zb_cli *cli;
    const options *o;
    bool text;        /* the model has a tokenizer */
    zb_stream stream;
    zb_buf all;       /* --json: the text */
    json_t *ids;
    zb_status status;
} sink;

static bool on_token(void *user, int32_t id) {
    sink *k = user;
    zb_str text = {0};
    json_array_append_new(k->ids, json_integer(id));
    if (k->text) k->status = zb_stream_push(&k->stream, id, &text, &k->cli->err);
    if (k->status != ZB_OK) return false;
    if (k->o->json) {
        zb_buf_add(&k->all, text.p, text.n);
    } else if (k->o->ids || !k->text) {
        char line[16];
        k->status = zb_cli_print(k->cli, line, (size_t)snprintf(line, sizeof line, "%d\n", id));
    } else if (text.n) {
        k->status = zb_cli_print(k->cli, text.p, text.n);
    }
    return k->status == ZB_OK;
}

static zb_status read_prompt(zb_cli *cli, const options *o, const zb_engine *e, zb_ids *ids) {
    if (o->prompt_ids && (o->prompt || o->file || o->chat)) return zb_fail(&cli->err, ZB_ERR_USAGE, "--prompt-ids stands alone: leave -p, -f and --chat out");
    if (o->system && !o->chat) return zb_fail(&cli->err, ZB_ERR_USAGE, "--system needs --chat");
    if (o->prompt_ids) return zb_cli_ids(cli, o->prompt_ids, "--prompt-ids", zb_engine_vocab(e), ids);
    const char *text;
    size_t n;
    ZB_TRY(zb_engine_need_tokenizer(e, &cli->err));
    ZB_TRY(zb_cli_text(cli, o->prompt, o->file, &text, &n));
    if (!o->chat) {
        ZB_TRY(zb_tokenizer_encode(zb_engine_tokenizer(e), (zb_str){text, n}, true, true, &cli->arena, ids, &cli->err));
        return ids->n ? ZB_OK : zb_fail(&cli->err, ZB_ERR_USAGE, "the prompt is empty");
    }
    json_t *messages = json_array(), *content = json_stringn(text, n);
    if (!content) {
        json_decref(messages);
        return zb_fail(&cli->err, ZB_ERR_CONFIG, "the message is not valid UTF-8");
    }
    if (o->system) json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", o->system));
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", "user", "content", content));
    zb_status s = zb_prompt_chat(e, messages, true, &cli->arena, ids, &cli->err);
    json_decref(messages);
    return s;
}

static zb_status finish(sink *k, const zb_generation *g) {
    zb_str rest = k->text ? zb_stream_end(&k->stream) : (zb_str){0};
    if (!k->o->json && (k->o->ids || !k->text)) return ZB_OK;
    if (!k->o->json) {
        ZB_TRY(zb_cli_print(k->cli, rest.p, rest.n));
        return zb_cli_print(k->cli, "\n", 1);
    }
    zb_buf_add(&k->all, rest.p, rest.n);
    json_t *text = k->text ? json_stringn(k->all.n ? k->all.p : "", k->all.n) : json_null();
    return zb_cli_print_json(k->cli, json_pack("{s:i, s:i, s:o*, s:O, s:s, s:f, s:f}", "prompt_tokens", g->prompt_tokens, "tokens", g->tokens, "text", text,
                             "ids", k->ids, "finish", g->finish == ZB_FINISH_END ? "end" : "length", "prompt_seconds", g->prompt_seconds, "seconds", g->seconds), false);
}

static zb_status run_session(zb_cli *cli, const options *o, zb_engine *e, zb_session *session) {
    zb_ids prompt;
    zb_sampler *sampler;
    zb_generation g;
    ZB_TRY(read_prompt(cli, o, e, &prompt));
    ZB_TRY(zb_cli_sampler(cli, &o->sampling, e, &sampler));
    sink k = {.cli = cli, .o = o, .text = zb_engine_has_tokenizer(e), .ids = json_array()};
    zb_stream_init(&k.stream, zb_engine_tokenizer(e), false);
    zb_buf_init(&k.all, (size_t)1 << 30);
    zb_generate_request r = {.prompt = prompt.id, .n = (int)prompt.n, .max = (int)o->n, .ignore_end = o->ignore_eos, .on_token = on_token, .user = &k};
    zb_status s = zb_generate(session, sampler, &r, &g, &cli->err);
    if (s == ZB_OK) s = k.status;
    if (s == ZB_OK) s = finish(&k, &g);
    if (s == ZB_OK) zb_cli_timings(&g);
    json_decref(k.ids);
    zb_stream_free(&k.stream);
    zb_buf_free(&k.all);
    zb_sampler_free(sampler);
    return s;
}

static zb_status run(zb_cli *cli, const options *o) {
    zb_engine *e;
    zb_session *session;
    ZB_TRY(zb_cli_engine(cli, o->model, o->context, &e));
    zb_status s = zb_session_new(&session, e, 0, &cli->err);
    if (s == ZB_OK) {
        s = run_session(cli, o, e, session);
        zb_session_free(session);
    }
    zb_engine_close(e);
    return s;
}

int zb_cmd_generate(int argc, char **argv) {
    options o;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {{"options", table, &o}, {"sampling", zb_cli_sampling_table, &o.sampling}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 0, &about, &status)) return status;
    return zb_cli_end(&cli, run(&cli, &o));
}
