/* cmd_chat.c - `zebra chat`: a conversation, line by line.
 *
 * Each turn renders the whole conversation and hands it to the session, which computes only what is new. */
#include "cli/sampling.h"

#include "base/log.h"
#include "generate/prompt.h"
#include "generate/stream.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct options {
    const char *model, *system;
    int64_t n, context;
    zb_cli_sampling sampling;
} options;

#define ROW(type, name, letter, field, def, lo, hi, help) {type, name, letter, offsetof(options, field), def, lo, hi, NULL, help}

static const zb_opt table[] = {
    ROW(ZB_OPT_STR, "model", 'm', model, NULL, 0, 0, "model folder or .gguf file with a chat template"),
    ROW(ZB_OPT_STR, "system", 0, system, NULL, 0, 0, "system message"),
    ROW(ZB_OPT_INT, "tokens", 'n', n, "512", -1, 1e9, "most tokens of an answer; -1: as many as the context holds"),
    ROW(ZB_OPT_INT, "context", 'c', context, "0", 0, 4194304, "most tokens of the conversation; 0: what the model was made for"),
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [options]",
    "Talks with a model: one message per line, from the terminal or from standard input.",
    "/reset starts anew, /exit (or the end of input) ends.",
};

typedef struct turn {
    zb_cli *cli;
    zb_stream stream;
    zb_buf answer;
    zb_status status;
} turn;

static zb_status say(turn *t, zb_str text) {
    zb_buf_add(&t->answer, text.p, text.n);
    return text.n ? zb_cli_print(t->cli, text.p, text.n) : ZB_OK;
}

static bool on_token(void *user, int32_t id) {
    turn *t = user;
    zb_str text;
    t->status = zb_stream_push(&t->stream, id, &text, &t->cli->err);
    if (t->status == ZB_OK) t->status = say(t, text);
    return t->status == ZB_OK;
}

/* Appends the answer to `messages`. */
static zb_status answer(zb_cli *cli, const options *o, zb_session *session, const zb_engine *e, zb_sampler *sampler, json_t *messages) {
    zb_ids prompt;
    zb_mark mark = zb_arena_mark(&cli->arena);
    zb_status s = zb_prompt_chat(e, messages, true, &cli->arena, &prompt, &cli->err);
    if (s != ZB_OK) return s;
    turn t = {.cli = cli};
    zb_stream_init(&t.stream, zb_engine_tokenizer(e), false);
    zb_buf_init(&t.answer, (size_t)1 << 28);
    zb_generate_request r = {.prompt = prompt.id, .n = (int)prompt.n, .max = (int)o->n, .on_token = on_token, .user = &t};
    zb_generation g;
    s = zb_generate(session, sampler, &r, &g, &cli->err);
    if (s == ZB_OK) s = t.status;
    if (s == ZB_OK) s = say(&t, zb_stream_end(&t.stream));
    if (s == ZB_OK) s = zb_cli_print(cli, "\n", 1);
    if (s == ZB_OK) {
        json_array_append_new(messages, json_pack("{s:s, s:o}", "role", "assistant", "content", json_stringn(t.answer.n ? t.answer.p : "", t.answer.n)));
        zb_cli_timings(&g);
    }
    zb_stream_free(&t.stream);
    zb_buf_free(&t.answer);
    zb_arena_pop(&cli->arena, mark);
    return s;
}

static json_t *opening(const options *o) {
    return o->system ? json_pack("[{s:s, s:s}]", "role", "system", "content", o->system) : json_array();
}

static zb_status converse(zb_cli *cli, const options *o, zb_session *session, const zb_engine *e, zb_sampler *sampler) {
    json_t *messages = opening(o);
    char *line = NULL;
    size_t cap = 0;
    bool prompt = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    zb_status s = messages ? ZB_OK : zb_fail(&cli->err, ZB_ERR_CONFIG, "--system: expected valid UTF-8");
    while (s == ZB_OK) {
        if (prompt) s = zb_cli_print(cli, "> ", 2);
        ssize_t n = getline(&line, &cap, stdin);
        if (n < 0 || zb_interrupted()) break;
        zb_str text = zb_str_trim((zb_str){line, (size_t)n});
        if (text.n == 0) continue;
        if (zb_str_is(text, "/exit")) break;
        if (zb_str_is(text, "/reset")) {
            json_decref(messages);
            messages = opening(o);
            continue;
        }
        json_t *message = json_pack("{s:s, s:o}", "role", "user", "content", json_stringn(text.p, text.n));
        if (!message) {
            s = zb_fail(&cli->err, ZB_ERR_CONFIG, "the message is not valid UTF-8");
            break;
        }
        json_array_append_new(messages, message);
        s = answer(cli, o, session, e, sampler, messages);
    }
    zb_heap_resize(line, 0); /* getline's memory is the heap's */
    json_decref(messages);
    return s;
}

static zb_status run(zb_cli *cli, const options *o) {
    zb_engine *e;
    zb_session *session = NULL;
    zb_sampler *sampler = NULL;
    ZB_TRY(zb_cli_engine(cli, o->model, o->context, &e));
    zb_status s = zb_session_new(&session, e, 0, &cli->err);
    if (s == ZB_OK) s = zb_cli_sampler(cli, &o->sampling, e, &sampler);
    if (s == ZB_OK) s = converse(cli, o, session, e, sampler);
    zb_sampler_free(sampler);
    zb_session_free(session);
    zb_engine_close(e);
    return s;
}

int zb_cmd_chat(int argc, char **argv) {
    options o;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {{"options", table, &o}, {"sampling", zb_cli_sampling_table, &o.sampling}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 0, &about, &status)) return status;
    return zb_cli_end(&cli, run(&cli, &o));
}
