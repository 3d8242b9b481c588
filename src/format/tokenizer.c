/* tokenizer.c - encode and decode (contract in tokenizer.h; loading in tokenizer_load.c and
 * tokenizer_gguf.c).
 *
 * A text goes through these steps, in the order of the `tokenizers` package:
 *   1. cut out added tokens that are looked for in the raw text          tokenizer_added.c
 *   2. normalise what lies between (Qwen2: NFC; most: nothing)           unicode.c
 *   3. cut out added tokens that are looked for in normalised text
 *   4. cut the rest into pre-tokens by the chain of patterns             tokenizer_split.c
 *   5. byte-pair encoding of each pre-token                              tokenizer_bpe.c
 *   6. put the template's tokens (BOS) around the ids
 * Bytes that are not UTF-8 take no part in 2 to 4: each is a cut and goes to step 5 alone, so that
 * decoding gives exactly the bytes that were encoded. */
#include "format/tokenizer_impl.h"

#include "base/json.h"

#include <string.h>

const char *const zb_role_name[ZB_ROLES] = {"bos_token", "eos_token", "pad_token", "unk_token"};

zb_tokenizer *zb_tokenizer_new(void) {
    zb_tokenizer *t = zb_heap_resize(NULL, sizeof *t);
    *t = (zb_tokenizer){0};
    for (int i = 0; i < ZB_ROLES; i++) t->role[i] = -1;
    return t;
}

void zb_tokenizer_close(zb_tokenizer *t) {
    if (!t) return;
    zb_splitter_free(&t->splitter);
    json_decref(t->normalizer);
    json_decref(t->pre_tokenizer);
    json_decref(t->post_processor);
    zb_arena_free(&t->arena);
    zb_heap_resize(t, 0);
}

zb_status zb_tokenizer_add(zb_tokenizer *t, const zb_added_token *token, const char *where,
                           zb_err *err) {
    ZB_ASSERT(token->id >= 0 && token->id < t->vocab.n);
    zb_token *known = &t->vocab.token[token->id];
    int shown = token->text.n > 60 ? (int)zb_utf8_complete(token->text.p, 60) : (int)token->text.n;
    if (known->flags & ZB_TOKEN_ADDED)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: id %d is given to two added tokens, the second is \"%.*s\"", where,
                       (int)token->id, shown, token->text.p);
    if (known->flags & ZB_TOKEN_PRESENT) {
        zb_str bytes;
        zb_alphabet_bytes(token->text, zb_alloc(&t->arena, token->text.n + 1), &bytes);
        if (!zb_str_eq(bytes, known->bytes))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: id %d is another token in the vocabulary than the added \"%.*s\"",
                           where, (int)token->id, shown, token->text.p);
    } else {
        known->bytes = token->text;
        known->flags |= ZB_TOKEN_PRESENT | ZB_TOKEN_RAW;
    }
    known->flags |= ZB_TOKEN_ADDED | (token->special ? ZB_TOKEN_SPECIAL : 0);
    t->added[t->n_added++] = *token;
    return ZB_OK;
}

static zb_status check_template_id(const zb_tokenizer *t, const json_t *v, const char *where,
                                   int32_t *out, zb_err *err) {
    json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
    if (id < 0 || id >= t->vocab.n || !(t->vocab.token[id].flags & ZB_TOKEN_PRESENT))
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: special_tokens: expected ids of tokens (below %d), found %s %lld",
                       where, (int)t->vocab.n, zb_json_type(v), (long long)id);
    *out = (int32_t)id;
    return ZB_OK;
}

/* One {"SpecialToken": {"id": name}} of a template: its ids go to the list. */
static zb_status template_token(const zb_tokenizer *t, const json_t *item, const json_t *specials,
                                const char *where, zb_id_list *to, zb_err *err) {
    const char *name;
    json_t *token, *entry, *ids, *v;
    size_t i;
    ZB_TRY(zb_json_object(item, where, "SpecialToken", true, &token, err));
    ZB_TRY(zb_json_str(token, where, "id", true, &name, err));
    ZB_TRY(zb_json_object(specials, where, name, true, &entry, err));
    ZB_TRY(zb_json_array(entry, where, "ids", true, &ids, err));
    json_array_foreach(ids, i, v) {
        int32_t id = -1;
        ZB_TRY(check_template_id(t, v, where, &id, err));
        zb_id_list_add(to, id);
    }
    return ZB_OK;
}

static zb_status read_template(zb_tokenizer *t, const json_t *o, const char *where, zb_err *err) {
    json_t *single, *specials, *item;
    size_t i;
    bool after = false; /* behind the text's own place */
    if (t->prefix || t->suffix)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: more than one TemplateProcessing", where);
    ZB_TRY(zb_json_array(o, where, "single", true, &single, err));
    ZB_TRY(zb_json_object(o, where, "special_tokens", true, &specials, err));
    zb_id_list prefix = {.arena = &t->arena}, suffix = {.arena = &t->arena};
    json_array_foreach(single, i, item) {
        if (json_object_get(item, "Sequence")) {
            if (after)
                return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: \"single\" names the text twice",
                               where);
            after = true;
        } else {
            ZB_TRY(template_token(t, item, specials, where, after ? &suffix : &prefix, err));
        }
    }
    if (!after)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: \"single\" has no place for the text (Sequence)",
                       where);
    t->prefix = prefix.id, t->n_prefix = prefix.n;
    t->suffix = suffix.id, t->n_suffix = suffix.n;
    return ZB_OK;
}

static zb_status read_post_processor(zb_tokenizer *t, const json_t *o, const char *where, int depth,
                                     zb_err *err) {
    const char *type;
    if (!json_is_object(o))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                       zb_json_type(o));
    ZB_TRY(zb_json_str(o, where, "type", true, &type, err));
    if (strcmp(type, "ByteLevel") == 0) return ZB_OK; /* only moves offsets */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(t, o, where, err);
    if (strcmp(type, "Sequence") != 0 || depth == 4)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: type \"%.40s\": expected ByteLevel, TemplateProcessing or a "
                       "Sequence of them",
                       where, type);
    json_t *list, *item;
    size_t i;
    ZB_TRY(zb_json_array(o, where, "processors", true, &list, err));
    json_array_foreach(list, i, item) ZB_TRY(read_post_processor(t, item, where, depth + 1, err));
    return ZB_OK;
}

/* The two tries. A token looked for in normalised text is normalised itself. */
static void build_tries(zb_tokenizer *t) {
    const zb_added_token **list = ZB_NEW_ARRAY(&t->arena, const zb_added_token *, t->n_added);
    size_t n = 0;
    for (size_t i = 0; i < t->n_added; i++)
        if (!t->added[i].normalized) list[n++] = &t->added[i];
    zb_added_build(&t->raw, list, n, &t->arena);
    n = 0;
    for (size_t i = 0; i < t->n_added; i++) {
        if (!t->added[i].normalized) continue;
        zb_added_token *copy = ZB_NEW(&t->arena, zb_added_token);
        *copy = t->added[i];
        copy->text = zb_splitter_normalize(&t->splitter, copy->text, &t->arena);
        list[n++] = copy;
    }
    zb_added_build(&t->normalized, list, n, &t->arena);
}

zb_status zb_tokenizer_finish(zb_tokenizer *t, const char *where, zb_err *err) {
    zb_vocab_finish(&t->vocab);
    ZB_TRY(zb_splitter_build(&t->splitter, t->normalizer, t->pre_tokenizer, where, err));
    build_tries(t);
    if (!t->post_processor || json_is_null(t->post_processor)) return ZB_OK;
    char place[256];
    snprintf(place, sizeof place, "%.200s: post_processor", where);
    return read_post_processor(t, t->post_processor, place, 0, err);
}

/* What one call of encode carries along. */
typedef struct encoding {
    const zb_tokenizer *t;
    zb_arena scratch;
    zb_id_list ids;
    zb_split_work work;
    bool specials;
} encoding;

static void encode_piece(void *ctx, zb_str piece) {
    encoding *e = ctx;
    zb_bpe_encode(&e->t->vocab, piece, &e->ids);
}

/* Valid UTF-8 without raw added tokens. */
static zb_status encode_valid(encoding *e, zb_str text, zb_err *err) {
    text = zb_splitter_normalize(&e->t->splitter, text, &e->scratch);
    size_t done = 0, at = 0;
    zb_added_match m = {0};
    while (zb_added_next(&e->t->normalized, text, e->specials, &at, &m)) {
        zb_str before = {text.p + done, m.start > done ? m.start - done : 0};
        ZB_TRY(zb_splitter_run(&e->t->splitter, &e->work, before, encode_piece, e, err));
        zb_id_list_add(&e->ids, m.token->id);
        done = m.end;
    }
    zb_str rest = {text.p + done, text.n - done};
    return zb_splitter_run(&e->t->splitter, &e->work, rest, encode_piece, e, err);
}

/* Any bytes without raw added tokens: runs of valid UTF-8, and stray bytes one by one. */
static zb_status encode_bytes(encoding *e, zb_str text, zb_err *err) {
    size_t start = 0;
    for (size_t i = 0; i < text.n;) {
        uint32_t cp;
        size_t len = zb_utf8_decode(text.p + i, text.n - i, &cp);
        if (len) {
            i += len;
            continue;
        }
        if (i > start) ZB_TRY(encode_valid(e, (zb_str){text.p + start, i - start}, err));
        encode_piece(e, (zb_str){text.p + i, 1});
        start = ++i;
    }
    return start < text.n ? encode_valid(e, (zb_str){text.p + start, text.n - start}, err) : ZB_OK;
}

static zb_status encode_text(encoding *e, zb_str text, zb_err *err) {
    size_t done = 0, at = 0;
    zb_added_match m = {0};
    while (zb_added_next(&e->t->raw, text, e->specials, &at, &m)) {
        size_t before = m.start > done ? m.start - done : 0;
        ZB_TRY(encode_bytes(e, (zb_str){text.p + done, before}, err));
        zb_id_list_add(&e->ids, m.token->id);
        done = m.end;
    }
    return encode_bytes(e, (zb_str){text.p + done, text.n - done}, err);
}

zb_status zb_tokenizer_encode(const zb_tokenizer *t, zb_str text, bool add_special,
                              bool parse_special, zb_arena *a, zb_ids *out, zb_err *err) {
    *out = (zb_ids){0};
    encoding e = {.t = t, .specials = parse_special};
    e.ids.arena = &e.scratch;
    zb_split_work_init(&e.work);
    for (size_t i = 0; add_special && i < t->n_prefix; i++) zb_id_list_add(&e.ids, t->prefix[i]);
    zb_status s = encode_text(&e, text, err);
    for (size_t i = 0; add_special && i < t->n_suffix; i++) zb_id_list_add(&e.ids, t->suffix[i]);
    if (s == ZB_OK) {
        *out = (zb_ids){zb_alloc_array(a, e.ids.n ? e.ids.n : 1, sizeof(int32_t)), e.ids.n};
        if (e.ids.n) memcpy(out->id, e.ids.id, e.ids.n * sizeof(int32_t));
    }
    zb_split_work_free(&e.work);
    zb_arena_free(&e.scratch);
    return s;
}

zb_status zb_tokenizer_decode(const zb_tokenizer *t, const int32_t *ids, size_t n, bool special,
                              zb_buf *out, zb_err *err) {
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->vocab.n)
            return zb_fail(err, ZB_ERR_USAGE, "token id %d: expected 0 to %d", (int)ids[i],
                           (int)t->vocab.n - 1);
        const zb_token *token = &t->vocab.token[ids[i]];
        if (special || !(token->flags & ZB_TOKEN_SPECIAL))
            zb_buf_add(out, token->bytes.p, token->bytes.n);
    }
    return ZB_OK;
}

int zb_tokenizer_vocab(const zb_tokenizer *t) { return t->vocab.n; }
int32_t zb_tokenizer_bos(const zb_tokenizer *t) { return t->role[ZB_ROLE_BOS]; }
int32_t zb_tokenizer_eos(const zb_tokenizer *t) { return t->role[ZB_ROLE_EOS]; }

bool zb_tokenizer_adds_bos(const zb_tokenizer *t) {
    return t->n_prefix > 0 && t->role[ZB_ROLE_BOS] >= 0 && t->prefix[0] == t->role[ZB_ROLE_BOS];
}

bool zb_tokenizer_is_special(const zb_tokenizer *t, int32_t id) {
    return id >= 0 && id < t->vocab.n && (t->vocab.token[id].flags & ZB_TOKEN_SPECIAL);
}

int32_t zb_tokenizer_find(const zb_tokenizer *t, zb_str token) {
    for (size_t i = 0; i < t->n_added; i++)
        if (zb_str_eq(t->added[i].text, token)) return t->added[i].id;
    return -1;
}

int32_t zb_tokenizer_text_id(const zb_tokenizer *t, zb_str text) {
    int32_t id = zb_tokenizer_find(t, text);
    if (id >= 0) return id;
    zb_arena a = {0};
    zb_str bytes;
    if (zb_alphabet_bytes(text, zb_alloc(&a, text.n + 1), &bytes))
        id = zb_vocab_find(&t->vocab, bytes);
    zb_arena_free(&a);
    return id;
}

void zb_tokenizer_text(const zb_tokenizer *t, int32_t id, zb_buf *out) {
    const zb_token *token = &t->vocab.token[id];
    if (token->flags & ZB_TOKEN_RAW) {
        zb_buf_add(out, token->bytes.p, token->bytes.n);
    } else {
        zb_alphabet_text(token->bytes, out);
    }
}

zb_str zb_tokenizer_piece(const zb_tokenizer *t, int32_t id) {
    ZB_ASSERT(id >= 0 && id < t->vocab.n);
    return t->vocab.token[id].bytes;
}

const char *zb_tokenizer_chat_template(const zb_tokenizer *t) { return t->chat_template; }
