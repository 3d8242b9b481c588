/* answers.c - reading examples and laying out batches (contract in answers.h).
 *
 * An item is a list of pieces, given and learnt in turn. Pieces of a conversation are what the
 * template adds when it writes one message more, so the text before a piece must be the beginning
 * of the text with it. */
#include "data/answers.h"

#include "base/json.h"
#include "base/log.h"
#include "base/rng.h"
#include "data/corpus.h"
#include "format/conversation.h"

#include <string.h>

enum { LINE_MAX_BYTES = 64 << 20 };

typedef struct reader {
    zb_answers *out;
    const zb_answers_form *f;
    const zb_tokenizer *t;
    zb_conversation chat;
    const char *where;
    zb_arena *a, scratch; /* scratch: of a line */
    size_t cap_ids, cap_learnt, cap_items;
    int64_t left_out;
} reader;

/* ---- items ---- */

static void add_ids(reader *r, const int32_t *ids, size_t n, bool learnt) {
    zb_answers *o = r->out;
    size_t at = (size_t)o->n_ids;
    if (n == 0) return;
    o->id = zb_grow(r->a, o->id, &r->cap_ids, at + n, sizeof *o->id);
    o->learnt = zb_grow(r->a, o->learnt, &r->cap_learnt, at + n, sizeof *o->learnt);
    memcpy(o->id + at, ids, n * sizeof *ids);
    memset(o->learnt + at, learnt, n);
    o->n_ids += (int64_t)n;
}

/* `special`: the text is a template's, whose marks are tokens. */
static zb_status add_piece(reader *r, zb_str text, bool special, bool learnt, zb_err *err) {
    zb_ids ids;
    ZB_TRY(zb_tokenizer_encode(r->t, text, false, special, &r->scratch, &ids, err));
    add_ids(r, ids.id, ids.n, learnt);
    return ZB_OK;
}

static void add_one(reader *r, int32_t id, bool learnt) {
    if (id >= 0) add_ids(r, &id, 1, learnt);
}

/* Item number `item` begins where ids stand now. */
static void begin_item(reader *r, int64_t item) {
    zb_answers *o = r->out;
    o->start = zb_grow(r->a, o->start, &r->cap_items, (size_t)item + 3, sizeof *o->start);
    o->start[item] = o->start[item + 1] = o->n_ids;
}

/* The beginning of the item up to now is a prompt: it keeps BOS and its last ids. */
static void cut_prompt(reader *r, int64_t item) {
    zb_answers *o = r->out;
    int64_t from = o->start[item], n = o->n_ids - from, most = r->f->prompt_max;
    if (n <= most) return;
    int64_t head = r->t && o->id[from] == zb_tokenizer_bos(r->t);
    memmove(o->id + from + head, o->id + o->n_ids - (most - head),
            (size_t)(most - head) * sizeof *o->id);
    o->n_ids = from + most;
}

/* Ends the item; false where nothing of it is learnt. The first id has nothing before it. */
static bool end_item(reader *r, int64_t item) {
    zb_answers *o = r->out;
    int64_t from = o->start[item], n = o->n_ids - from;
    if (n > r->f->length_max) n = r->f->length_max;
    o->n_ids = o->start[item + 1] = from + n;
    if (n > 0) o->learnt[from] = 0;
    for (int64_t i = from; i < from + n; i++)
        if (o->learnt[i]) return true;
    return false;
}

/* ---- conversations ---- */

static zb_status write_messages(reader *r, json_t *messages, size_t n, bool reply, zb_str *out,
                                zb_err *err) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append(list, json_array_get(messages, i));
    zb_status s = zb_conversation_write(&r->chat, list, reply, &r->scratch, out, err);
    json_decref(list);
    return s == ZB_OK ? s : zb_err_wrap(err, s, "%s", r->where);
}

static zb_status check_messages(const reader *r, const json_t *list, const char *key, zb_err *err) {
    size_t i;
    json_t *m;
    if (!r->chat.template)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: %s: messages need a model with a chat template, found none", r->where,
                       key);
    json_array_foreach(list, i, m) {
        if (!json_is_string(json_object_get(m, "role")) ||
            !json_is_string(json_object_get(m, "content")))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: %s[%zu]: expected an object with the texts role and content",
                           r->where, key, i);
    }
    if (i == 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: %s: expected messages, found none", r->where, key);
    return ZB_OK;
}

/* What `whole` has beyond `before`. */
static zb_status beyond(const reader *r, zb_str before, zb_str whole, zb_str *rest, zb_err *err) {
    if (whole.n < before.n || memcmp(whole.p, before.p, before.n) != 0)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: the chat template writes the prompt of an answer differently once the "
                       "answer stands behind it",
                       r->where);
    *rest = (zb_str){whole.p + before.n, whole.n - before.n};
    return ZB_OK;
}

static bool is_assistant(const json_t *message) {
    return !strcmp(json_string_value(json_object_get(message, "role")), "assistant");
}

/* A conversation in which the assistant's messages are learnt. */
static zb_status add_conversation(reader *r, json_t *messages, zb_err *err) {
    zb_str written = ZB_STR(""), to, piece;
    ZB_TRY(check_messages(r, messages, "messages", err));
    for (size_t i = 0; i < json_array_size(messages); i++) {
        if (!is_assistant(json_array_get(messages, i))) continue;
        ZB_TRY(write_messages(r, messages, i, true, &to, err));
        ZB_TRY(beyond(r, written, to, &piece, err));
        ZB_TRY(add_piece(r, piece, true, false, err));
        written = to;
        ZB_TRY(write_messages(r, messages, i + 1, false, &to, err));
        ZB_TRY(beyond(r, written, to, &piece, err));
        ZB_TRY(add_piece(r, piece, true, true, err));
        written = to;
    }
    return ZB_OK;
}

/* The messages' first `given` are the prompt, the others the answer. */
static zb_status add_reply(reader *r, int64_t item, json_t *messages, size_t given, zb_err *err) {
    zb_str before, whole, answer;
    ZB_TRY(write_messages(r, messages, given, true, &before, err));
    ZB_TRY(write_messages(r, messages, json_array_size(messages), false, &whole, err));
    ZB_TRY(beyond(r, before, whole, &answer, err));
    ZB_TRY(add_piece(r, before, true, false, err));
    cut_prompt(r, item);
    return add_piece(r, answer, true, true, err);
}

/* ---- texts and ids ---- */

static zb_str text_of(const json_t *v) {
    return (zb_str){json_string_value(v), json_string_length(v)};
}

static zb_status add_text(reader *r, int64_t item, zb_str prompt, zb_str answer, zb_err *err) {
    if (!r->t)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: text needs a model with a tokenizer", r->where);
    if (zb_tokenizer_adds_bos(r->t)) add_one(r, zb_tokenizer_bos(r->t), false);
    ZB_TRY(add_piece(r, prompt, false, false, err));
    cut_prompt(r, item);
    ZB_TRY(add_piece(r, answer, false, true, err));
    add_one(r, zb_tokenizer_eos(r->t), true);
    return ZB_OK;
}

/* Entries from `from` on of a list of ids. */
static zb_status add_list(reader *r, const json_t *list, size_t from, size_t to, bool learnt,
                          zb_err *err) {
    for (size_t i = from; i < to; i++) {
        int32_t id;
        json_t *v = json_array_get(list, i);
        if (!zb_corpus_id(v, &id))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: entry %zu: expected a token id, found %s",
                           r->where, i, zb_json_type(v));
        add_one(r, id, learnt);
    }
    return ZB_OK;
}

/* ---- examples ---- */

/* Messages of the prompt and of an answer, together; how many are the prompt. */
static json_t *join_messages(const json_t *prompt, json_t *answer, size_t *given) {
    json_t *all = json_array();
    if (json_is_string(prompt))
        json_array_append_new(all, json_pack("{s:s,s:O}", "role", "user", "content", prompt));
    else
        json_array_extend(all, (json_t *)(uintptr_t)prompt);
    *given = json_array_size(all);
    json_array_extend(all, answer);
    return all;
}

/* Entries that both lists begin with. */
static size_t common_entries(const json_t *a, const json_t *b) {
    size_t n = 0, na = json_array_size(a), nb = json_array_size(b);
    while (n < na && n < nb && json_equal(json_array_get(a, n), json_array_get(b, n))) n++;
    return n;
}

/* Bytes that both begin with, up to a whole character, without blanks at the end: those belong to
 * the answers, whose first token they start. */
static size_t common_text(zb_str a, zb_str b) {
    size_t n = 0, most = a.n < b.n ? a.n : b.n;
    while (n < most && a.p[n] == b.p[n]) n++;
    while (n > 0 && n < a.n && ((unsigned char)a.p[n] & 0xC0) == 0x80) n--;
    while (n > 0 && a.p[n - 1] == ' ') n--;
    return n;
}

typedef enum form { NONE, TEXT, MESSAGES, IDS } form;

static form form_of(const json_t *v) {
    if (json_is_string(v)) return TEXT;
    if (!json_is_array(v)) return NONE;
    return json_is_object(json_array_get(v, 0)) ? MESSAGES : IDS;
}

static zb_status wrong_form(const reader *r, zb_err *err) {
    return zb_fail(err, ZB_ERR_FORMAT, "%s: expected %s: texts, lists of messages, or lists of ids",
                   r->where,
                   r->f->pairs ? "an object with chosen and rejected, with or without prompt"
                               : "an object with text, messages, or prompt and completion");
}

static zb_status add_messages(reader *r, int64_t item, const json_t *prompt, json_t *answer,
                              const json_t *other, const char *key, zb_err *err) {
    size_t given = form_of(prompt) == MESSAGES ? 0 : common_entries(answer, other);
    ZB_TRY(check_messages(r, answer, key, err));
    if (form_of(prompt) == MESSAGES) ZB_TRY(check_messages(r, prompt, "prompt", err));
    if (given > 0) return add_reply(r, item, answer, given, err);
    if (!prompt)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: expected a prompt, or answers that begin with the same messages",
                       r->where);
    json_t *all = join_messages(prompt, answer, &given);
    zb_status s = add_reply(r, item, all, given, err);
    json_decref(all);
    return s;
}

/* One answer of an example. `other`: the other of a pair, with which a prompt is found that is not
 * there, or repeated. */
static zb_status add_answer(reader *r, int64_t item, const json_t *prompt, json_t *answer,
                            const json_t *other, const char *key, zb_err *err) {
    form f = form_of(answer), p = form_of(prompt);
    if (f == MESSAGES && p != IDS) return add_messages(r, item, prompt, answer, other, key, err);
    if (prompt && p != f) return wrong_form(r, err);
    if (f == TEXT) {
        zb_str text = text_of(answer);
        size_t n = prompt ? 0 : common_text(text, text_of(other));
        zb_str before = prompt ? text_of(prompt) : (zb_str){text.p, n};
        return add_text(r, item, before, (zb_str){text.p + n, text.n - n}, err);
    }
    size_t n = prompt ? 0 : common_entries(answer, other);
    ZB_TRY(
        add_list(r, prompt ? prompt : answer, 0, prompt ? json_array_size(prompt) : n, false, err));
    cut_prompt(r, item);
    return add_list(r, answer, n, json_array_size(answer), true, err);
}

static zb_status add_single(reader *r, int64_t item, const json_t *o, zb_err *err) {
    const json_t *prompt = json_object_get(o, "prompt"), *text = json_object_get(o, "text");
    json_t *messages = json_object_get(o, "messages"), *answer = json_object_get(o, "completion");
    if (json_is_array(messages)) return add_conversation(r, messages, err);
    if (json_is_string(text)) return add_text(r, item, ZB_STR(""), text_of(text), err);
    if (!form_of(prompt) || !form_of(answer)) return wrong_form(r, err);
    return add_answer(r, item, prompt, answer, NULL, "completion", err);
}

static zb_status add_pair(reader *r, int64_t item, const json_t *o, bool *kept, zb_err *err) {
    const json_t *prompt = json_object_get(o, "prompt");
    json_t *chosen = json_object_get(o, "chosen"), *rejected = json_object_get(o, "rejected");
    if (!form_of(chosen) || form_of(chosen) != form_of(rejected) || (prompt && !form_of(prompt)))
        return wrong_form(r, err);
    if (json_equal(chosen, rejected)) {
        *kept = false;
        return ZB_OK;
    }
    ZB_TRY(add_answer(r, item, prompt, chosen, rejected, "chosen", err));
    *kept = end_item(r, item);
    begin_item(r, item + 1);
    ZB_TRY(add_answer(r, item + 1, prompt, rejected, chosen, "rejected", err));
    *kept = end_item(r, item + 1) && *kept;
    return ZB_OK;
}

static zb_status check_ids(const reader *r, int64_t item, zb_err *err) {
    const zb_answers *out = r->out;
    for (int64_t i = out->start[item]; i < out->n_ids && r->f->vocabulary > 0; i++)
        if (out->id[i] >= r->f->vocabulary)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: expected token ids below %d, the size of the model's vocabulary, "
                           "found %d",
                           r->where, r->f->vocabulary, (int)out->id[i]);
    return ZB_OK;
}

static zb_status add_example(void *user, json_t *o, const char *where, bool *enough, zb_err *err) {
    reader *r = user;
    zb_answers *out = r->out;
    int64_t item = out->n * out->per;
    bool kept = true;
    r->where = where;
    begin_item(r, item);
    zb_status s = r->f->pairs ? add_pair(r, item, o, &kept, err) : add_single(r, item, o, err);
    zb_arena_free(&r->scratch);
    if (s == ZB_OK) s = check_ids(r, item, err);
    if (s != ZB_OK) return s;
    if (!r->f->pairs) kept = end_item(r, item);
    if (kept) {
        out->n++;
    } else {
        out->n_ids = out->start[item];
        r->left_out++;
    }
    *enough = r->f->n_max > 0 && out->n >= r->f->n_max;
    return ZB_OK;
}

zb_status zb_answers_read(zb_answers *out, const char *path, const zb_tokenizer *t,
                          const zb_answers_form *f, zb_arena *a, zb_err *err) {
    *out = (zb_answers){.per = f->pairs ? 2 : 1, .seed = f->seed, .epoch = -1};
    reader r = {.out = out, .f = f, .t = t, .a = a};
    if (t) ZB_TRY(zb_conversation_open(&r.chat, t, a, err));
    ZB_TRY(zb_json_lines(path, LINE_MAX_BYTES, add_example, &r, err));
    if (r.left_out)
        zb_warn("%s: left out, because nothing is learnt from them or both answers are equal: %lld",
                path, (long long)r.left_out);
    if (out->n == 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected examples, found none to learn from", path);
    out->order = ZB_NEW_ARRAY(a, int64_t, out->n);
    return ZB_OK;
}

/* ---- batches ---- */

static int64_t example_at(zb_answers *s, int64_t at, bool shuffle) {
    int64_t epoch = at / s->n;
    if (!shuffle) return at % s->n;
    if (s->epoch != epoch)
        zb_rng_permute((uint64_t)s->seed, ZB_RNG_DATA, (uint64_t)epoch, s->n, s->order);
    s->epoch = epoch;
    return s->order[at % s->n];
}

zb_batch zb_answers_batch(zb_answers *s, int64_t first, int n, bool shuffle, uint8_t **learnt,
                          zb_arena *a) {
    zb_span *span = ZB_NEW_ARRAY(a, zb_span, (size_t)n * s->per);
    int total = 0, spans = 0;
    for (int i = 0; i < n; i++) {
        const int64_t *from = s->start + example_at(s, first + i, shuffle) * s->per;
        for (int k = 0; k < s->per; k++, spans++) {
            span[spans] = (zb_span){.start = total, .n = (int)(from[k + 1] - from[k])};
            total += span[spans].n;
        }
    }
    int32_t *ids = ZB_NEW_ARRAY(a, int32_t, total);
    *learnt = ZB_NEW_ARRAY(a, uint8_t, total);
    spans = 0;
    for (int i = 0; i < n; i++) {
        const int64_t *from = s->start + example_at(s, first + i, shuffle) * s->per;
        for (int k = 0; k < s->per; k++, spans++) {
            size_t count = (size_t)span[spans].n;
            memcpy(ids + span[spans].start, s->id + from[k], count * sizeof *ids);
            memcpy(*learnt + span[spans].start, s->learnt + from[k], count);
        }
    }
    return (zb_batch){ids, total, span, spans};
}

int64_t zb_answers_learnt(zb_answers *s, int64_t first, int64_t n, bool shuffle) {
    int64_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t *from = s->start + example_at(s, first + i, shuffle) * s->per;
        for (int64_t k = from[0]; k < from[s->per]; k++) sum += s->learnt[k];
    }
    return sum;
}
