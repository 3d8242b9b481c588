/* tokenizer_gguf.c - a tokenizer from a GGUF file's keys (contract in tokenizer.h).
 *
 * GGUF keeps the tokens as a list (index = id), the merges as "a b" and a type per token, but only
 * a name for the pre-tokenizer. The name is turned into the entries tokenizer.json would have, and
 * from there on both files take the same way; so a tokenizer read here can be written as a Hugging
 * Face folder. */
#include "format/tokenizer_impl.h"

#include "base/json.h"

#include <string.h>

/* Token types of GGUF that matter here; 1 is an ordinary token, 5 an unused one. */
enum {
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER = 4,
    TOKENS_MAX = 1 << 24,
    TOKEN_MAX = 1 << 16,
    TEMPLATE_MAX = 1 << 20
};

typedef struct pre_kind {
    const char *name;
    const char *pattern;          /* NULL: GPT-2's, which ByteLevel applies itself */
    bool digits;                  /* each digit alone, before the pattern */
    bool nfc;                     /* normalised first */
    bool ignore_merges, adds_bos; /* when the file does not say */
} pre_kind;

static const pre_kind kinds[] = {
    {"smollm", NULL, true, false, false, false},
    {"gpt-2", NULL, false, false, false, false},
    {"llama-bpe", zb_pattern_llama3, false, false, true, true},
    {"llama3", zb_pattern_llama3, false, false, true, true},
    {"llama-v3", zb_pattern_llama3, false, false, true, true},
    {"qwen2", zb_pattern_qwen2, false, true, false, false},
};

static zb_status find_kind(const zb_gguf *g, const pre_kind **out, zb_err *err) {
    zb_str model, pre;
    ZB_TRY(zb_gguf_str(g, "tokenizer.ggml.model", true, &model, err));
    if (!zb_str_is(model, "gpt2"))
        return zb_fail(
            err, ZB_ERR_UNSUPPORTED,
            "%s: key \"tokenizer.ggml.model\": expected gpt2 (byte-level BPE), found \"%.*s\"",
            zb_gguf_path(g), model.n > 40 ? 40 : (int)model.n, model.p);
    ZB_TRY(zb_gguf_str(g, "tokenizer.ggml.pre", true, &pre, err));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (zb_str_is(pre, kinds[i].name)) {
            *out = &kinds[i];
            return ZB_OK;
        }
    return zb_fail(err, ZB_ERR_UNSUPPORTED,
                   "%s: key \"tokenizer.ggml.pre\": expected smollm, gpt-2, llama-bpe or qwen2, "
                   "found \"%.*s\"",
                   zb_gguf_path(g), pre.n > 40 ? 40 : (int)pre.n, pre.p);
}

/* The array's strings, in the tokenizer's arena's care only as views: the file stays mapped while
 * loading. */
static zb_status strings(const zb_gguf *g, const char *key, size_t limit, zb_arena *a, zb_str **out,
                         size_t *n, zb_err *err) {
    ZB_TRY(zb_gguf_array(g, key, true, n, err));
    if (*n == 0 || *n > limit)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected 1 to %zu entries, found %zu",
                       zb_gguf_path(g), key, limit, *n);
    *out = ZB_NEW_ARRAY(a, zb_str, *n);
    return zb_gguf_array_str(g, key, *out, *n, err);
}

/* Texts are written to JSON later and compared as text: they must be UTF-8 without NUL. */
static bool is_text(zb_str s) {
    uint32_t cp;
    for (size_t i = 0, len; i < s.n; i += len) {
        len = zb_utf8_decode(s.p + i, s.n - i, &cp);
        if (!len || !cp) return false;
    }
    return s.n > 0 && s.n <= TOKEN_MAX;
}

static zb_status read_tokens(zb_tokenizer *t, const zb_gguf *g, const zb_str *tokens, zb_arena *tmp,
                             zb_err *err) {
    const char *where = zb_gguf_path(g), *key = "tokenizer.ggml.token_type";
    size_t n = (size_t)t->vocab.n, n_types;
    int64_t *type = ZB_NEW_ARRAY(tmp, int64_t, n);
    ZB_TRY(zb_gguf_array(g, key, false, &n_types, err));
    if (n_types != 0 && n_types != n)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected %zu entries, found %zu", where,
                       key, n, n_types);
    if (n_types) ZB_TRY(zb_gguf_array_int(g, key, type, n, err));
    t->added = ZB_NEW_ARRAY(&t->arena, zb_added_token, n);
    for (size_t i = 0; i < n; i++) {
        if (!is_text(tokens[i]))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: token %zu: expected 1 to %d bytes of UTF-8 without NUL", where, i,
                           (int)TOKEN_MAX);
        ZB_TRY(zb_vocab_set(&t->vocab, (int32_t)i, tokens[i], &t->arena, where, err));
        if (type[i] < TYPE_UNKNOWN || type[i] > TYPE_USER) continue;
        zb_added_token token = {.id = (int32_t)i, .special = type[i] != TYPE_USER};
        token.text = (zb_str){zb_strndup(&t->arena, tokens[i].p, tokens[i].n), tokens[i].n};
        ZB_TRY(zb_tokenizer_add(t, &token, where, err));
    }
    return ZB_OK;
}

static zb_status read_merges(zb_tokenizer *t, const zb_gguf *g, const zb_str *merges, size_t n,
                             zb_err *err) {
    for (size_t i = 0; i < n; i++) {
        const char *blank = merges[i].n ? memchr(merges[i].p, ' ', merges[i].n) : NULL;
        if (!blank)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: merge %zu: expected \"a b\", found no blank",
                           zb_gguf_path(g), i);
        size_t l = (size_t)(blank - merges[i].p);
        ZB_TRY(zb_vocab_merge(&t->vocab, (zb_str){merges[i].p, l},
                              (zb_str){blank + 1, merges[i].n - l - 1}, &t->arena, zb_gguf_path(g),
                              err));
    }
    return ZB_OK;
}

static zb_status read_role(zb_tokenizer *t, const zb_gguf *g, int role, zb_err *err) {
    static const char *const keys[ZB_ROLES] = {
        "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.padding_token_id", "tokenizer.ggml.unknown_token_id"};
    int64_t id = -1;
    ZB_TRY(zb_gguf_int(g, keys[role], false, &id, err));
    if (id < -1 || id >= t->vocab.n)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected an id below %d, found %lld",
                       zb_gguf_path(g), keys[role], (int)t->vocab.n, (long long)id);
    t->role[role] = (int32_t)id;
    return ZB_OK;
}

static json_t *byte_level(bool regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", (int)regex);
}

static json_t *make_pre_tokenizer(const pre_kind *kind) {
    json_t *first = NULL;
    if (kind->digits) first = json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1);
    if (kind->pattern)
        first = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                          kind->pattern, "behavior", "Isolated", "invert", 0);
    if (!first) return byte_level(true);
    return json_pack("{s:s, s:[o, o]}", "type", "Sequence", "pretokenizers", first,
                     byte_level(!kind->pattern));
}

/* What a chain of pre-tokenizers does, one line per step, so that two ways of writing the same
 * chain give the same text. */
static void describe_chain(const json_t *v, zb_buf *out) {
    const char *type = json_string_value(json_object_get(v, "type"));
    if (!type) return;
    size_t i;
    json_t *step;
    json_array_foreach(json_object_get(v, "pretokenizers"), i, step) describe_chain(step, out);
    if (!strcmp(type, "Sequence")) return;
    zb_buf_adds(out, type);
    const char *pattern =
                   json_string_value(json_object_get(json_object_get(v, "pattern"), "Regex")),
               *behaviour = json_string_value(json_object_get(v, "behavior"));
    if (pattern) zb_buf_addf(out, " %s %s", pattern, behaviour ? behaviour : "");
    static const char *const flags[] = {"individual_digits", "invert", "add_prefix_space"};
    for (size_t k = 0; k < sizeof flags / sizeof *flags; k++)
        if (json_is_true(json_object_get(v, flags[k]))) zb_buf_addf(out, " %s", flags[k]);
    if (json_is_false(json_object_get(v, "use_regex"))) zb_buf_adds(out, " no regex");
    zb_buf_addc(out, '\n');
}

static bool same_chain(const json_t *a, const json_t *b) {
    zb_buf x, y;
    zb_buf_init(&x, 1 << 20);
    zb_buf_init(&y, 1 << 20);
    describe_chain(a, &x);
    describe_chain(b, &y);
    bool same = !x.overflow && !y.overflow && zb_str_eq(zb_buf_str(&x), zb_buf_str(&y));
    zb_buf_free(&x);
    zb_buf_free(&y);
    return same;
}

const char *zb_tokenizer_gguf_name(const zb_tokenizer *t) {
    const char *name = NULL;
    const char *form = json_string_value(json_object_get(t->normalizer, "type"));
    bool nfc = form && !strcmp(form, "NFC");
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && !name; i++) {
        if (kinds[i].ignore_merges != t->vocab.ignore_merges || kinds[i].nfc != nfc) continue;
        if (form && !nfc) continue;
        json_t *chain = make_pre_tokenizer(&kinds[i]);
        if (same_chain(chain, t->pre_tokenizer)) name = kinds[i].name;
        json_decref(chain);
    }
    return name;
}

/* One token of a template: in the list "single", and its id in "special_tokens". */
static void template_token(const zb_tokenizer *t, int role, json_t *single, json_t *specials) {
    zb_buf text;
    zb_buf_init(&text, 4 * TOKEN_MAX);
    zb_tokenizer_text(t, t->role[role], &text);
    const char *name = zb_buf_str(&text).p;
    json_array_append_new(single,
                          json_pack("{s:{s:s, s:i}}", "SpecialToken", "id", name, "type_id", 0));
    json_object_set_new(
        specials, name,
        json_pack("{s:s, s:[i], s:[s]}", "id", name, "ids", (int)t->role[role], "tokens", name));
    zb_buf_free(&text);
}

static json_t *make_post_processor(const zb_tokenizer *t, bool bos, bool eos) {
    if (!bos && !eos) return byte_level(true);
    json_t *single = json_array(), *specials = json_object();
    if (bos) template_token(t, ZB_ROLE_BOS, single, specials);
    json_array_append_new(single, json_pack("{s:{s:s, s:i}}", "Sequence", "id", "A", "type_id", 0));
    if (eos) template_token(t, ZB_ROLE_EOS, single, specials);
    /* The package asks for a pair as well: the same twice. */
    json_t *pair = json_deep_copy(single), *v;
    size_t i;
    json_array_foreach(single, i, v) {
        json_t *copy = json_deep_copy(v), *body = json_object_get(copy, "Sequence");
        if (body) json_object_set_new(body, "id", json_string("B"));
        body = json_object_iter_value(json_object_iter(copy));
        json_object_set_new(body, "type_id", json_integer(1));
        json_array_append_new(pair, copy);
    }
    return json_pack("{s:s, s:o, s:o, s:o}", "type", "TemplateProcessing", "single", single, "pair",
                     pair, "special_tokens", specials);
}

static zb_status read_template(zb_tokenizer *t, const zb_gguf *g, zb_err *err) {
    zb_str text = {0};
    ZB_TRY(zb_gguf_str(g, "tokenizer.chat_template", false, &text, err));
    if (!text.n) return ZB_OK;
    if (text.n > TEMPLATE_MAX || memchr(text.p, 0, text.n))
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: key \"tokenizer.chat_template\": expected at most %d bytes without NUL",
                       zb_gguf_path(g), (int)TEMPLATE_MAX);
    t->chat_template = zb_strndup(&t->arena, text.p, text.n);
    return ZB_OK;
}

static zb_status load(zb_tokenizer *t, const zb_gguf *g, zb_arena *tmp, zb_err *err) {
    const pre_kind *kind = NULL;
    zb_str *tokens = NULL, *merges = NULL;
    size_t n = 0, n_merges = 0;
    ZB_TRY(find_kind(g, &kind, err));
    ZB_TRY(strings(g, "tokenizer.ggml.tokens", TOKENS_MAX, tmp, &tokens, &n, err));
    ZB_TRY(strings(g, "tokenizer.ggml.merges", TOKENS_MAX, tmp, &merges, &n_merges, err));
    ZB_ASSERT(kind && tokens && merges);
    zb_vocab_init(&t->vocab, (int32_t)n, n_merges, &t->arena);
    t->vocab.ignore_merges = kind->ignore_merges;
    ZB_TRY(read_tokens(t, g, tokens, tmp, err));
    ZB_TRY(read_merges(t, g, merges, n_merges, err));
    for (int role = 0; role < ZB_ROLES; role++) ZB_TRY(read_role(t, g, role, err));
    bool bos = kind->adds_bos, eos = false;
    ZB_TRY(zb_gguf_bool(g, "tokenizer.ggml.add_bos_token", false, &bos, err));
    ZB_TRY(zb_gguf_bool(g, "tokenizer.ggml.add_eos_token", false, &eos, err));
    if ((bos && t->role[ZB_ROLE_BOS] < 0) || (eos && t->role[ZB_ROLE_EOS] < 0))
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: %s is to be added, but the file does not say which token it is",
                       zb_gguf_path(g), bos && t->role[ZB_ROLE_BOS] < 0 ? "BOS" : "EOS");
    t->normalizer = kind->nfc ? json_pack("{s:s}", "type", "NFC") : json_null();
    t->pre_tokenizer = make_pre_tokenizer(kind);
    t->post_processor = make_post_processor(t, bos, eos);
    ZB_TRY(read_template(t, g, err));
    return zb_tokenizer_finish(t, zb_gguf_path(g), err);
}

zb_status zb_tokenizer_from_gguf(zb_tokenizer **out, const zb_gguf *g, zb_err *err) {
    *out = NULL;
    /* our writer adds the text of tokenizer.json where the other keys lose something */
    zb_str text = {0}, config = {0};
    ZB_TRY(zb_gguf_str(g, "tokenizer.huggingface.json", false, &text, err));
    ZB_TRY(zb_gguf_str(g, "zebra.tokenizer_config", false, &config, err));
    if (text.p && config.p) return zb_tokenizer_parse(out, text, config, zb_gguf_path(g), err);
    zb_tokenizer *t = zb_tokenizer_new();
    zb_arena tmp = {0};
    zb_status s = load(t, g, &tmp, err);
    zb_arena_free(&tmp);
    if (s == ZB_OK) {
        *out = t;
    } else {
        zb_tokenizer_close(t);
    }
    return s;
}
