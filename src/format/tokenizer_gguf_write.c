/* tokenizer_gguf_write.c - a tokenizer as the keys of a GGUF file (contract in tokenizer.h; what
 * the keys mean is told in tokenizer_gguf.c).
 *
 * GGUF describes a byte-level BPE by its tokens, their types, the merges and a name for the cuts
 * made before byte-pair encoding. Names exist for the cuts of published models only, and around a
 * text only BOS and EOS can be put: what goes beyond is kept as the text of tokenizer.json. */
#include "format/tokenizer_impl.h"

#include "base/json.h"

enum { NORMAL = 1, CONTROL = 3, USER = 4, UNUSED = 5 };

/* Whether bytes can occur that become an unknown token: the keys do not say how many of them. */
static bool needs_unk(const zb_tokenizer *t) {
    for (int b = 0; b < 256; b++)
        if (t->vocab.byte_id[b] < 0) return t->vocab.unk >= 0;
    return false;
}

/* Added tokens that swallow white space, stand alone, or are looked for in normalised text: other
 * programs do without, we keep it. */
static bool has_odd_tokens(const zb_tokenizer *t) {
    for (size_t i = 0; i < t->n_added; i++) {
        const zb_added_token *a = &t->added[i];
        if (a->lstrip || a->rstrip || a->single_word || (a->normalized && t->splitter.n_forms))
            return true;
    }
    return false;
}

/* Only BOS before and EOS behind a text have keys. */
static bool plain_template(const zb_tokenizer *t) {
    bool bos = t->n_prefix == 0 || (t->n_prefix == 1 && t->prefix[0] == t->role[ZB_ROLE_BOS]);
    bool eos = t->n_suffix == 0 || (t->n_suffix == 1 && t->suffix[0] == t->role[ZB_ROLE_EOS]);
    return bos && eos;
}

static int32_t type_of(const zb_tokenizer *t, int32_t id) {
    unsigned flags = id < t->vocab.n ? t->vocab.token[id].flags : 0;
    if (!(flags & ZB_TOKEN_PRESENT)) return UNUSED;
    if (flags & ZB_TOKEN_SPECIAL) return CONTROL;
    return flags & ZB_TOKEN_ADDED ? USER : NORMAL;
}

static zb_str text_of(const zb_tokenizer *t, int32_t id, zb_arena *a) {
    zb_buf b;
    zb_buf_init(&b, SIZE_MAX / 4);
    if (type_of(t, id) == UNUSED)
        zb_buf_addf(&b, "[PAD%d]", (int)id);
    else
        zb_tokenizer_text(t, id, &b);
    zb_str s = zb_buf_str(&b);
    s.p = zb_strndup(a, s.p, s.n);
    zb_buf_free(&b);
    return s;
}

static void put_tokens(const zb_tokenizer *t, zb_gguf_writer *w, int vocab, zb_arena *a) {
    int32_t n = t->vocab.n > vocab ? t->vocab.n : vocab;
    zb_str *text = ZB_NEW_ARRAY(a, zb_str, n);
    int32_t *type = ZB_NEW_ARRAY(a, int32_t, n);
    for (int32_t id = 0; id < n; id++) {
        text[id] = text_of(t, id, a);
        type[id] = type_of(t, id);
    }
    zb_gguf_put_strs(w, "tokenizer.ggml.tokens", text, (size_t)n);
    zb_gguf_put_i32s(w, "tokenizer.ggml.token_type", type, (size_t)n);
}

static void put_merges(const zb_tokenizer *t, zb_gguf_writer *w, zb_arena *a) {
    size_t n = t->vocab.n_merges;
    zb_str *text = ZB_NEW_ARRAY(a, zb_str, n);
    zb_buf b;
    zb_buf_init(&b, SIZE_MAX / 4);
    for (size_t i = 0; i < n; i++) {
        zb_buf_clear(&b);
        zb_tokenizer_text(t, (int32_t)(t->vocab.pair[i] >> 32), &b);
        zb_buf_addc(&b, ' ');
        zb_tokenizer_text(t, (int32_t)(t->vocab.pair[i] & UINT32_MAX), &b);
        text[i] = (zb_str){zb_strndup(a, b.p, b.n), b.n};
    }
    zb_buf_free(&b);
    zb_gguf_put_strs(w, "tokenizer.ggml.merges", text, n);
}

static zb_status put_json(zb_gguf_writer *w, const char *key, json_t *v, zb_err *err) {
    zb_arena a = {0};
    char *text = v ? zb_json_text(v, &a) : NULL;
    json_decref(v);
    if (text) zb_gguf_put_str(w, key, zb_str_from(text));
    zb_arena_free(&a);
    return text
               ? ZB_OK
               : zb_fail(err, ZB_ERR_FORMAT, "%s: a text of the tokenizer is not valid UTF-8", key);
}

zb_status zb_tokenizer_to_gguf(const zb_tokenizer *t, zb_gguf_writer *w, int vocab, zb_err *err) {
    static const char *const keys[ZB_ROLES] = {
        "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.padding_token_id", "tokenizer.ggml.unknown_token_id"};
    const char *name = zb_tokenizer_gguf_name(t);
    bool named = name && plain_template(t) && !needs_unk(t) && t->vocab.n_merges;
    if (!named || has_odd_tokens(t)) {
        ZB_TRY(put_json(w, "tokenizer.huggingface.json", zb_tokenizer_json(t), err));
        ZB_TRY(put_json(w, "zebra.tokenizer_config", zb_tokenizer_config_json(t), err));
    }
    if (!named) return ZB_OK;
    zb_arena a = {0};
    zb_gguf_put_str(w, "tokenizer.ggml.model", ZB_STR("gpt2"));
    zb_gguf_put_str(w, "tokenizer.ggml.pre", zb_str_from(name));
    put_tokens(t, w, vocab, &a);
    put_merges(t, w, &a);
    for (int role = 0; role < ZB_ROLES; role++)
        if (t->role[role] >= 0) zb_gguf_put_u32(w, keys[role], t->role[role]);
    zb_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", t->n_prefix > 0);
    zb_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", t->n_suffix > 0);
    if (t->chat_template)
        zb_gguf_put_str(w, "tokenizer.chat_template", zb_str_from(t->chat_template));
    zb_arena_free(&a);
    return ZB_OK;
}
