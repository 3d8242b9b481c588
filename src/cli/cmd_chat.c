/* cmd_chat.c - `zebra chat`: a conversation, line by line.
 *
 * Each turn renders the whole conversation and hands it to the session, which computes only what is
 * new. On a terminal a signal ends the answer, not the conversation, and a message that has no room
 * is taken back; where messages come from elsewhere, both are errors. */
#include "cli/reply.h"

#include "base/log.h"
#include "generate/prompt.h"
#include "generate/session.h"

#include <poll.h>
#include <stdio.h>
#include <unistd.h>

typedef struct options {
    const char *model, *system, *cache_type, *precision;
    int64_t n, context;
    zb_cli_sampling sampling;
} options;

#define ROW(type, name, letter, field, def, lo, hi, help)                                          \
    { type, name, letter, offsetof(options, field), def, lo, hi, NULL, help }

static const zb_opt table[] = {
    ROW(ZB_OPT_STR, "model", 'm', model, NULL, 0, 0,
        "model folder or .gguf file with a chat template"),
    ROW(ZB_OPT_STR, "system", 0, system, NULL, 0, 0, "system message"),
    ROW(ZB_OPT_INT, "tokens", 'n', n, "512", -1, 1e9,
        "most tokens of an answer; -1: as many as the context holds"),
    ROW(ZB_OPT_INT, "context", 'c', context, "0", 0, 4194304,
        "most tokens of the conversation; 0: what the model was made for"),
    ZB_CLI_PRECISION_OPTION(options, precision),
    ZB_CELLS_OPTION(options, cache_type, "f16"),
    {0},
};

static const zb_cli_about about = {
    "-m MODEL [options]",
    "Talks with a model: one message per line, from the terminal or from standard input.",
    "/reset starts anew, /exit (or the end of input) ends; Ctrl-C ends an answer.",
};

static void say(json_t *messages, const char *role, zb_str text) {
    json_array_append_new(messages,
                          json_pack("{s:s, s:o}", "role", role, "content", zb_cli_json_text(text)));
}

/* Appends the answer to `messages`, also one that a signal cut short. */
static zb_status answer(zb_cli *cli, const options *o, zb_session *session, zb_sampler *sampler,
                        json_t *messages) {
    zb_ids prompt;
    zb_reply reply;
    char note[160];
    zb_mark mark = zb_arena_mark(&cli->arena);
    ZB_TRY(zb_prompt_chat(zb_session_engine(session), messages, true, &cli->arena, &prompt,
                          &cli->err));
    zb_generate_request r = {.prompt = prompt.id, .n = (int)prompt.n, .max = (int)o->n};
    zb_status s = zb_cli_reply(cli, session, sampler, &r, ZB_SHOW_TEXT, &reply);
    if (s == ZB_OK || (s == ZB_ERR_INTERRUPTED && reply.text.n)) {
        say(messages, "assistant", zb_buf_str(&reply.text));
        zb_cli_timings(&reply.g, note);
        zb_debug("%s", note);
    }
    zb_reply_free(&reply);
    zb_arena_pop(&cli->arena, mark);
    return s;
}

static json_t *opening(const options *o) {
    return o->system ? json_pack("[{s:s, s:s}]", "role", "system", "content", o->system)
                     : json_array();
}

/* The next line of stdin, without white space around it; false at the end or when interrupted. On a
 * terminal it waits in poll, which a signal ends (reading is restarted). */
static bool next_line(char **line, size_t *cap, bool terminal, zb_str *text) {
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    if (terminal && poll(&in, 1, -1) < 0) return false;
    ssize_t n = getline(line, cap, stdin);
    if (n < 0 || zb_interrupted()) return false;
    *text = zb_str_trim((zb_str){*line, (size_t)n});
    return true;
}

/* What an error means to somebody at the terminal: the conversation goes on where it can. */
static zb_status recover(zb_cli *cli, zb_status s, json_t *messages, size_t before) {
    if (s != ZB_ERR_INTERRUPTED && s != ZB_ERR_CONFIG) return s;
    if (json_array_size(messages) == before + 1) json_array_remove(messages, before);
    if (s == ZB_ERR_INTERRUPTED) {
        zb_interrupt_clear();
        return zb_cli_print(cli, "\n", 1);
    }
    zb_warn("%s; the message is taken back, /reset starts anew", cli->err.msg);
    return ZB_OK;
}

static zb_status converse(zb_cli *cli, const options *o, zb_session *session, zb_sampler *sampler) {
    json_t *messages = opening(o);
    if (!messages) return zb_fail(&cli->err, ZB_ERR_CONFIG, "--system: expected valid UTF-8");
    bool terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    char *line = NULL;
    size_t cap = 0;
    zb_str text;
    zb_status s = ZB_OK;
    while (s == ZB_OK) {
        if (terminal) s = zb_cli_print(cli, "> ", 2);
        if (s != ZB_OK || !next_line(&line, &cap, terminal, &text) || zb_str_is(text, "/exit"))
            break;
        if (text.n == 0) continue;
        if (zb_str_is(text, "/reset")) {
            json_decref(messages);
            messages = opening(o);
            continue;
        }
        size_t before = json_array_size(messages);
        say(messages, "user", text);
        s = answer(cli, o, session, sampler, messages);
        if (s != ZB_OK && terminal) s = recover(cli, s, messages, before);
    }
    zb_heap_resize(line, 0); /* getline's memory is the heap's */
    json_decref(messages);
    return s;
}

static zb_status run(zb_cli *cli, const options *o) {
    zb_engine *e;
    zb_session *session = NULL;
    zb_sampler *sampler = NULL;
    cli->cache_type = o->cache_type;
    cli->precision = o->precision;
    ZB_TRY(zb_cli_engine(cli, o->model, o->context, &e));
    zb_status s = zb_engine_need_tokenizer(e, &cli->err);
    if (s == ZB_OK && !zb_tokenizer_chat_template(zb_engine_tokenizer(e)))
        s = zb_fail(&cli->err, ZB_ERR_CONFIG,
                    "%s: expected a chat template, found none: this model completes text (zebra "
                    "generate)",
                    o->model);
    if (s == ZB_OK) s = zb_session_new(&session, e, 0, &cli->err);
    if (s == ZB_OK) s = zb_cli_sampler(cli, &o->sampling, e, &sampler);
    if (s == ZB_OK) s = converse(cli, o, session, sampler);
    zb_sampler_free(sampler);
    zb_session_free(session);
    zb_engine_close(e);
    return s;
}

int zb_cmd_chat(int argc, char **argv) {
    options o;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {
        {"options", table, &o}, {"sampling", zb_cli_sampling_table, &o.sampling}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 0, &about, &status)) return status;
    return zb_cli_end(&cli, run(&cli, &o));
}
