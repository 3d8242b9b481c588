/* generate_many.c - a file of prompts through the batcher (contract in generate_many.h).
 *
 * Answers end in any order and leave in the order of the prompts: a finished one waits for those
 * before it. */
#include "cli/generate_many.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "generate/batcher.h"
#include "generate/prompt.h"
#include "generate/stream.h"

#include <stdio.h>

enum { LINE_MAX_BYTES = 1 << 24 };

typedef struct answer {
    json_t *id;  /* as given; NULL: none */
    json_t *ids; /* chosen so far */
    zb_generation g;
    bool over;
    struct answer *after;
} answer;

typedef struct many {
    zb_cli *cli;
    const zb_many *m;
    zb_engine *e;
    zb_batcher *batcher;
    answer *first, *last;
    int n, tokens;
} many;

static bool on_token(void *user, int32_t id) {
    answer *a = user;
    json_array_append_new(a->ids, json_integer(id));
    return true;
}

static void on_end(void *user, const zb_generation *g) {
    answer *a = user;
    a->g = *g;
    a->over = true;
}

static zb_status given_ids(many *k, const json_t *list, const char *where, zb_ids *out) {
    size_t n = json_array_size(list);
    int32_t *id = ZB_NEW_ARRAY(&k->cli->arena, int32_t, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t value = json_is_integer(v) ? json_integer_value(v) : -1;
        if (value < 0 || value >= zb_engine_vocab(k->e))
            return zb_fail(&k->cli->err, ZB_ERR_FORMAT,
                           "%s: ids[%zu]: expected an id from 0 to %d, found %s", where, i,
                           zb_engine_vocab(k->e) - 1,
                           json_is_integer(v) ? "another" : zb_json_type(v));
        id[i] = (int32_t)value;
    }
    *out = (zb_ids){.id = id, .n = n};
    return ZB_OK;
}

/* The prompt of one object: a text, a conversation or ids. */
static zb_status prompt_of(many *k, const json_t *row, const char *where, zb_ids *out) {
    zb_err *err = &k->cli->err;
    zb_arena *a = &k->cli->arena;
    const char *text = NULL;
    json_t *messages = NULL, *ids = NULL;
    ZB_TRY(zb_json_str(row, where, "prompt", false, &text, err));
    ZB_TRY(zb_json_array(row, where, "messages", false, &messages, err));
    ZB_TRY(zb_json_array(row, where, "ids", false, &ids, err));
    if ((text != NULL) + (messages != NULL) + (ids != NULL) != 1)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: expected one of the keys prompt, messages and ids, found %s", where,
                       text || messages || ids ? "several" : "none");
    if (ids) return given_ids(k, ids, where, out);
    zb_status s = zb_engine_need_tokenizer(k->e, err);
    if (s == ZB_OK && messages)
        s = zb_prompt_chat(k->e, messages, true, a, out, err);
    else if (s == ZB_OK)
        s = zb_tokenizer_encode(zb_engine_tokenizer(k->e), zb_str_from(text), true, true, a, out,
                                err);
    return s == ZB_OK ? s : zb_err_wrap(err, s, "%s", where);
}

static zb_status add_row(many *k, const json_t *row, const char *where) {
    zb_err *err = &k->cli->err;
    zb_ids ids = {0};
    ZB_TRY(prompt_of(k, row, where, &ids));
    answer *a = ZB_NEW(&k->cli->arena, answer);
    zb_batch_request r = {.prompt = ids.id, .n = (int)ids.n, .max = k->m->tokens};
    r.ignore_end = k->m->ignore_end;
    r.sampling = zb_cli_sampling_settings(k->m->sampling);
    r.sampling.seed += (uint64_t)k->n;
    r.on_token = on_token;
    r.on_end = on_end;
    r.user = a;
    zb_status s = zb_batcher_add(k->batcher, &r, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s", where);
    a->id = json_incref(json_object_get(row, "id"));
    a->ids = json_array();
    if (k->last)
        k->last->after = a;
    else
        k->first = a;
    k->last = a;
    k->n++;
    return ZB_OK;
}

static zb_status add_line(void *user, json_t *row, const char *where, bool *enough, zb_err *err) {
    (void)enough;
    if (json_is_object(row)) return add_row(user, row, where);
    return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                   zb_json_type(row));
}

static zb_status read_all(many *k) {
    zb_err *err = &k->cli->err;
    ZB_TRY(zb_json_lines(k->m->path, LINE_MAX_BYTES, add_line, k, err));
    if (k->n > 0) return ZB_OK;
    return zb_fail(err, ZB_ERR_FORMAT, "%s: expected prompts, found none", k->m->path);
}

/* Text of all chosen tokens as a JSON string. */
static zb_status text_of(many *k, const json_t *ids, json_t **out) {
    zb_stream stream;
    zb_buf text;
    zb_buf_init(&text, (size_t)1 << 30);
    zb_stream_init(&stream, zb_engine_tokenizer(k->e), false);
    zb_status s = ZB_OK;
    zb_str part;
    for (size_t i = 0; i < json_array_size(ids) && s == ZB_OK; i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        s = zb_stream_push(&stream, id, &part, &k->cli->err);
        if (s == ZB_OK) zb_buf_add(&text, part.p, part.n);
    }
    part = zb_stream_end(&stream);
    zb_buf_add(&text, part.p, part.n);
    if (s == ZB_OK) *out = zb_cli_json_text(zb_buf_str(&text));
    zb_stream_free(&stream);
    zb_buf_free(&text);
    return s;
}

static zb_status print_answer(many *k, const answer *a) {
    json_t *text = NULL;
    if (zb_engine_has_tokenizer(k->e)) ZB_TRY(text_of(k, a->ids, &text));
    json_t *o = json_object();
    if (a->id) json_object_set(o, "id", a->id);
    if (text) json_object_set_new(o, "text", text);
    json_object_update_new(o,
                           json_pack("{s:O, s:s, s:i, s:i}", "ids", a->ids, "finish",
                                     a->g.finish == ZB_FINISH_END ? "end" : "length",
                                     "prompt_tokens", a->g.prompt_tokens, "tokens", a->g.tokens));
    return zb_cli_print_json(k->cli, o, false);
}

static zb_status answer_all(many *k) {
    int left = 1;
    while (left) {
        ZB_TRY(zb_batcher_round(k->batcher, &left, &k->cli->err));
        while (k->first && k->first->over) {
            ZB_TRY(print_answer(k, k->first));
            k->tokens += k->first->g.tokens;
            json_decref(k->first->id);
            json_decref(k->first->ids);
            k->first = k->first->after;
        }
    }
    return ZB_OK;
}

zb_status zb_generate_many(zb_cli *cli, const zb_many *m, zb_engine *e) {
    many k = {.cli = cli, .m = m, .e = e};
    ZB_TRY(zb_batcher_new(&k.batcher, e, m->parallel, &cli->err));
    zb_status s = read_all(&k);
    double start = zb_seconds();
    if (s == ZB_OK) s = answer_all(&k);
    double seconds = zb_seconds() - start;
    if (s == ZB_OK)
        zb_info("%d prompts, %d tokens in %.1f s: %.1f tokens/s", k.n, k.tokens, seconds,
                seconds > 0 ? k.tokens / seconds : 0);
    zb_batcher_free(k.batcher);
    for (answer *a = k.first; a; a = a->after) { /* those that an error left over */
        json_decref(a->id);
        json_decref(a->ids);
    }
    return s;
}
