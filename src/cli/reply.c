/* reply.c - sampling options and streamed answers (contract in reply.h). */
#include "cli/reply.h"

#include "generate/session.h"
#include "generate/stream.h"

#include <stdio.h>

#define ROW(type, name, letter, field, def, lo, hi, help)                                          \
    { type, name, letter, offsetof(zb_cli_sampling, field), def, lo, hi, NULL, help }

const zb_opt zb_cli_sampling_table[] = {
    ROW(ZB_OPT_F64, "temp", 'T', temp, "0.8", 0, 100,
        "temperature; 0: always the most probable token"),
    ROW(ZB_OPT_INT, "top_k", 'k', top_k, "40", 0, 1e9, "only the k most probable tokens; 0: all"),
    ROW(ZB_OPT_F64, "top_p", 0, top_p, "0.95", 0, 1,
        "only the fewest tokens that reach this probability; 1: all"),
    ROW(ZB_OPT_F64, "min_p", 0, min_p, "0.05", 0, 1,
        "only tokens at least this fraction as probable as the best; 0: all"),
    ROW(ZB_OPT_F64, "repeat_penalty", 0, repeat_penalty, "1", 0, 100,
        "weakens tokens that have just occurred; 1: none"),
    ROW(ZB_OPT_INT, "repeat_window", 0, repeat_window, "64", -1, 1e9,
        "recent tokens it looks at; -1: all"),
    ROW(ZB_OPT_INT, "seed", 's', seed, "0", 0, 9e15, "the same seed gives the same text"),
    {0},
};

zb_sampling zb_cli_sampling_settings(const zb_cli_sampling *o) {
    zb_sampling s = {.temperature = o->temp,
                     .top_k = (int)o->top_k,
                     .top_p = o->top_p,
                     .min_p = o->min_p,
                     .repeat_penalty = o->repeat_penalty,
                     .repeat_window = (int)o->repeat_window,
                     .seed = (uint64_t)o->seed};
    if (o->repeat_window == 0)
        s.repeat_penalty = 0; /* a window of nothing; the library's 0 means its default */
    return s;
}

zb_status zb_cli_sampler(zb_cli *cli, const zb_cli_sampling *o, const zb_engine *e,
                         zb_sampler **out) {
    zb_sampling s = zb_cli_sampling_settings(o);
    return zb_sampler_new(out, &s, zb_engine_vocab(e), &cli->err);
}

/* The sink of a running generation. */
typedef struct sink {
    zb_cli *cli;
    zb_reply *out;
    zb_show show;
    zb_stream stream;
    zb_status status;
} sink;

static zb_status give(sink *k, zb_str text) {
    zb_buf_add(&k->out->text, text.p, text.n);
    return k->show == ZB_SHOW_TEXT && text.n ? zb_cli_print(k->cli, text.p, text.n) : ZB_OK;
}

static bool on_token(void *user, int32_t id) {
    sink *k = user;
    json_array_append_new(k->out->ids, json_integer(id));
    if (k->stream.tokenizer) {
        zb_str text;
        k->status = zb_stream_push(&k->stream, id, &text, &k->cli->err);
        if (k->status == ZB_OK) k->status = give(k, text);
    }
    if (k->status == ZB_OK && k->show == ZB_SHOW_IDS) {
        char line[16];
        int n = snprintf(line, sizeof line, "%d\n", (int)id);
        k->status = zb_cli_print(k->cli, line, (size_t)n);
    }
    return k->status == ZB_OK;
}

zb_status zb_cli_reply(zb_cli *cli, zb_session *s, zb_sampler *sampler, zb_generate_request *r,
                       zb_show show, zb_reply *out) {
    const zb_tokenizer *t = zb_engine_tokenizer(zb_session_engine(s));
    if (!t && show == ZB_SHOW_TEXT) show = ZB_SHOW_IDS;
    sink k = {.cli = cli, .out = out, .show = show};
    *out = (zb_reply){.ids = json_array()};
    zb_buf_init(&out->text, (size_t)1 << 30);
    zb_stream_init(&k.stream, t, false);
    r->on_token = on_token;
    r->user = &k;
    zb_status status = zb_generate(s, sampler, r, &out->g, &cli->err);
    if (status == ZB_OK) status = k.status;
    if (status == ZB_OK) status = give(&k, zb_stream_end(&k.stream));
    if (status == ZB_OK && show == ZB_SHOW_TEXT) status = zb_cli_print(cli, "\n", 1);
    zb_stream_free(&k.stream);
    r->on_token = NULL; /* the sink ends with this call */
    r->user = NULL;
    return status;
}

void zb_reply_free(zb_reply *r) {
    json_decref(r->ids);
    zb_buf_free(&r->text);
}

static double rate(int tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

void zb_cli_timings(const zb_generation *g, char out[160]) {
    snprintf(out, 160,
             "prompt: %d tokens (%d computed), %.1f tokens/s; generated: %d tokens, %.1f tokens/s",
             g->prompt_tokens, g->computed, rate(g->computed, g->prompt_seconds), g->tokens,
             rate(g->steps, g->seconds));
}
