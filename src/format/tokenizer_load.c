/* tokenizer_load.c - a tokenizer from a Hugging Face folder (contract in tokenizer.h).
 *
 * tokenizer.json holds the algorithm: model (vocabulary, merges), added tokens, normaliser,
 * pre-tokenizer, post-processor. tokenizer_config.json names the BOS and EOS tokens and may hold
 * the chat template, which chat_template.jinja overrides when it is there. The vocabulary's ids
 * decide how much memory is taken, so they must lie below the number of tokens plus a fixed
 * allowance for gaps. */
#include "format/tokenizer_impl.h"

#include "base/file.h"
#include "base/json.h"
#include "format/tokenizer_json.h"

#include <string.h>

enum { TEMPLATE_MAX = 1 << 20, CONFIG_MAX = 1 << 24, ID_GAPS_MAX = 1 << 16, TOKEN_MAX = 1 << 16 };
static const size_t FILE_MAX = (size_t)256 << 20;

static zb_status check_id(int64_t id, const char *where, zb_str token, size_t limit, zb_err *err) {
    if (id >= 0 && (size_t)id < limit) return ZB_OK;
    int shown = token.n > 60 ? (int)zb_utf8_complete(token.p, 60) : (int)token.n;
    return zb_fail(err, ZB_ERR_FORMAT, "%s: id of \"%.*s\": expected 0 to %zu, found %lld", where,
                   shown, token.p, limit - 1, (long long)id);
}

/* The next "token": id of the vocabulary; *more = false at its end. */
static zb_status next_token(zb_json_cursor *c, bool first, zb_buf *tmp, zb_str *text, int64_t *id,
                            bool *more, zb_err *err) {
    *more = false;
    if (first) {
        ZB_TRY(zb_json_cursor_expect(c, '{', err));
        if (zb_json_cursor_skip(c, '}')) return ZB_OK;
    } else if (!zb_json_cursor_skip(c, ',')) {
        return zb_json_cursor_expect(c, '}', err);
    }
    ZB_TRY(zb_json_cursor_string(c, tmp, text, err));
    ZB_TRY(zb_json_cursor_expect(c, ':', err));
    ZB_TRY(zb_json_cursor_int(c, id, err));
    *more = true;
    return ZB_OK;
}

/* Number of entries and highest id of the vocabulary. */
static zb_status count_vocab(zb_json_cursor c, zb_buf *tmp, size_t *n, int64_t *most, zb_err *err) {
    zb_str text = {0};
    int64_t id = -1;
    bool more = true;
    for (*n = 0; more; *n += more) {
        ZB_TRY(next_token(&c, *n == 0, tmp, &text, &id, &more, err));
        if (!more) break;
        /* The limit over all entries is not known yet; this one keeps the sum in range. */
        ZB_TRY(check_id(id, c.where, text, INT32_MAX / 2, err));
        if (id > *most) *most = id;
    }
    return ZB_OK;
}

/* Highest id of vocabulary and added tokens, plus one; all ids are checked on the way. */
static zb_status count_ids(const zb_json_cursor *vocab, const json_t *added, zb_buf *tmp,
                           int32_t *n, zb_err *err) {
    size_t count, i;
    json_t *v;
    int64_t most = -1, id = -1;
    ZB_TRY(count_vocab(*vocab, tmp, &count, &most, err));
    size_t limit = count + json_array_size(added) + ID_GAPS_MAX;
    if (most >= 0) ZB_TRY(check_id(most, vocab->where, ZB_STR("(the highest)"), limit, err));
    json_array_foreach((json_t *)added, i, v) {
        const char *content = "";
        ZB_TRY(zb_json_str(v, vocab->where, "content", true, &content, err));
        ZB_TRY(zb_json_int(v, vocab->where, "id", true, 0, (int64_t)limit - 1, &id, err));
        if (id > most) most = id;
    }
    if (most < 0) return zb_fail(err, ZB_ERR_FORMAT, "%s: the vocabulary is empty", vocab->where);
    *n = (int32_t)most + 1;
    return ZB_OK;
}

static zb_status read_vocab(zb_tokenizer *t, zb_json_cursor c, zb_buf *tmp, zb_err *err) {
    zb_str text = {0};
    int64_t id = 0;
    bool more = true;
    for (bool first = true; more; first = false) {
        ZB_TRY(next_token(&c, first, tmp, &text, &id, &more, err));
        if (more) ZB_TRY(zb_vocab_set(&t->vocab, (int32_t)id, text, &t->arena, c.where, err));
    }
    return ZB_OK;
}

/* Upper bound of the number of merges: the commas between the elements of the list, plus one. */
static size_t bound_merges(const zb_json_cursor *c) {
    size_t n = 1, depth = 0;
    for (const char *p = c->p; p < c->end; p++) {
        if (*p == '"') {
            for (p++; p < c->end && *p != '"'; p++)
                if (*p == '\\') p++;
        } else if (*p == '[') {
            depth++;
        } else if (*p == ']' && --depth == 0) {
            break;
        }
        n += *p == ',' && depth == 1;
    }
    return n;
}

/* "a b" or ["a", "b"]. */
static zb_status read_merge(zb_tokenizer *t, zb_json_cursor *c, zb_buf tmp[2], zb_err *err) {
    zb_str left = {0}, right = {0};
    if (zb_json_cursor_skip(c, '[')) {
        ZB_TRY(zb_json_cursor_string(c, &tmp[0], &left, err));
        ZB_TRY(zb_json_cursor_expect(c, ',', err));
        ZB_TRY(zb_json_cursor_string(c, &tmp[1], &right, err));
        ZB_TRY(zb_json_cursor_expect(c, ']', err));
    } else {
        ZB_TRY(zb_json_cursor_string(c, &tmp[0], &left, err));
        const char *blank = left.n ? memchr(left.p, ' ', left.n) : NULL;
        if (!blank)
            return zb_json_cursor_fail(c, "two tokens with a blank between them before this", err);
        right = (zb_str){blank + 1, left.n - (size_t)(blank + 1 - left.p)};
        left.n = (size_t)(blank - left.p);
    }
    return zb_vocab_merge(&t->vocab, left, right, &t->arena, c->where, err);
}

static zb_status read_merges(zb_tokenizer *t, zb_json_cursor c, zb_buf tmp[2], zb_err *err) {
    ZB_TRY(zb_json_cursor_expect(&c, '[', err));
    if (zb_json_cursor_skip(&c, ']')) return ZB_OK;
    do ZB_TRY(read_merge(t, &c, tmp, err));
    while (zb_json_cursor_skip(&c, ','));
    return zb_json_cursor_expect(&c, ']', err);
}

/* What this reader does not do must be absent: doing it half would change the ids. */
static zb_status refuse_options(const json_t *model, const char *where, zb_err *err) {
    static const char *const keys[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = "BPE";
    double dropout = 0;
    ZB_TRY(zb_json_str(model, where, "type", false, &type, err));
    if (strcmp(type, "BPE") != 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: type: expected \"BPE\", found \"%.40s\"",
                       where, type);
    for (int i = 0; i < 2; i++) {
        const char *text = "";
        ZB_TRY(zb_json_str(model, where, keys[i], false, &text, err));
        if (*text)
            return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: %s: expected none, found \"%.40s\"", where,
                           keys[i], text);
    }
    ZB_TRY(zb_json_f64(model, where, "dropout", false, &dropout, err));
    if (dropout != 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: dropout: expected none, found %g", where,
                       dropout);
    return ZB_OK;
}

/* tokenizer.json as cut: the two large values and the tree of the rest. */
typedef struct parts {
    zb_json_cursor vocab, merges;
    json_t *root;
} parts;

static zb_status read_model(zb_tokenizer *t, const parts *p, const json_t *model,
                            const json_t *added, zb_buf tmp[2], zb_err *err) {
    const char *where = p->vocab.where, *unk = NULL;
    json_t *unused;
    int32_t n = 0;
    ZB_TRY(refuse_options(model, where, err));
    ZB_TRY(zb_json_object(model, where, "vocab", true, &unused, err));
    ZB_TRY(zb_json_array(model, where, "merges", true, &unused, err));
    ZB_TRY(count_ids(&p->vocab, added, &tmp[0], &n, err));
    zb_vocab_init(&t->vocab, n, bound_merges(&p->merges), &t->arena);
    ZB_TRY(read_vocab(t, p->vocab, &tmp[0], err));
    ZB_TRY(read_merges(t, p->merges, tmp, err));
    ZB_TRY(zb_json_bool(model, where, "ignore_merges", false, &t->vocab.ignore_merges, err));
    ZB_TRY(zb_json_bool(model, where, "fuse_unk", false, &t->vocab.fuse_unk, err));
    ZB_TRY(zb_json_str(model, where, "unk_token", false, &unk, err));
    if (!unk) return ZB_OK;
    t->vocab.unk = zb_tokenizer_text_id(t, zb_str_from(unk));
    if (t->vocab.unk < 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: unk_token: \"%.60s\" is not in the vocabulary",
                       where, unk);
    return ZB_OK;
}

static zb_status read_added(zb_tokenizer *t, const json_t *added, const char *where, zb_err *err) {
    json_t *o;
    size_t i;
    t->added = ZB_NEW_ARRAY(&t->arena, zb_added_token, json_array_size(added));
    json_array_foreach((json_t *)added, i, o) {
        zb_added_token token = {0};
        const char *content;
        ZB_TRY(zb_json_str(o, where, "content", true, &content, err));
        size_t n = strlen(content);
        if (n == 0 || n > TOKEN_MAX)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: entry %zu: expected 1 to %d bytes, found %zu",
                           where, i, (int)TOKEN_MAX, n);
        token.text = (zb_str){zb_strndup(&t->arena, content, n), n};
        token.id = (int32_t)json_integer_value(json_object_get(o, "id")); /* checked by count_ids */
        ZB_TRY(zb_json_bool(o, where, "special", false, &token.special, err));
        token.normalized = !token.special;
        ZB_TRY(zb_json_bool(o, where, "normalized", false, &token.normalized, err));
        ZB_TRY(zb_json_bool(o, where, "lstrip", false, &token.lstrip, err));
        ZB_TRY(zb_json_bool(o, where, "rstrip", false, &token.rstrip, err));
        ZB_TRY(zb_json_bool(o, where, "single_word", false, &token.single_word, err));
        ZB_TRY(zb_tokenizer_add(t, &token, where, err));
    }
    return ZB_OK;
}

/* Only a decoder that turns the byte alphabet back is understood. */
static zb_status check_decoder(const json_t *o, const char *where, zb_err *err) {
    const char *type;
    if (!o || json_is_null(o)) return ZB_OK;
    if (!json_is_object(o))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: decoder: expected an object, found %s", where,
                       zb_json_type(o));
    ZB_TRY(zb_json_str(o, where, "type", true, &type, err));
    const json_t *list = strcmp(type, "Sequence") == 0 ? json_object_get(o, "decoders") : NULL;
    if (json_array_size(list) == 1) { /* one level: what is not an object in it has no type */
        const char *inner = json_string_value(json_object_get(json_array_get(list, 0), "type"));
        type = inner ? inner : "Sequence";
    }
    if (strcmp(type, "ByteLevel") != 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: decoder: expected ByteLevel, found \"%.40s\"",
                       where, type);
    return ZB_OK;
}

static zb_status read_parts(zb_tokenizer *t, const parts *p, const char *path, zb_buf tmp[2],
                            zb_err *err) {
    char where[256];
    json_t *model, *added = NULL;
    if (!json_is_object(p->root))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", path,
                       zb_json_type(p->root));
    ZB_TRY(zb_json_object(p->root, path, "model", true, &model, err));
    ZB_TRY(zb_json_array(p->root, path, "added_tokens", false, &added, err));
    ZB_TRY(read_model(t, p, model, added, tmp, err));
    snprintf(where, sizeof where, "%.200s: added_tokens", path);
    ZB_TRY(read_added(t, added, where, err));
    ZB_TRY(check_decoder(json_object_get(p->root, "decoder"), path, err));
    t->normalizer = json_incref(json_object_get(p->root, "normalizer"));
    t->pre_tokenizer = json_incref(json_object_get(p->root, "pre_tokenizer"));
    t->post_processor = json_incref(json_object_get(p->root, "post_processor"));
    return zb_tokenizer_finish(t, path, err);
}

static zb_status parse_parts(zb_str text, const char *path, parts *p, zb_err *err) {
    zb_buf rest;
    zb_buf_init(&rest, text.n + 16);
    zb_status s = zb_tokenizer_json_cut(text, path, &rest, &p->vocab, &p->merges, err);
    if (s == ZB_OK) s = zb_json_parse(zb_buf_str(&rest).p, rest.n, path, &p->root, err);
    p->vocab.where = p->merges.where = path; /* also when they were not found */
    zb_buf_free(&rest);
    return s;
}

static zb_status read_tokenizer_json(zb_tokenizer *t, zb_str text, const char *path, zb_err *err) {
    parts p = {0};
    zb_buf tmp[2];
    zb_buf_init(&tmp[0], text.n + 1);
    zb_buf_init(&tmp[1], text.n + 1);
    zb_status s = parse_parts(text, path, &p, err);
    if (s == ZB_OK) s = read_parts(t, &p, path, tmp, err);
    json_decref(p.root);
    zb_buf_free(&tmp[0]);
    zb_buf_free(&tmp[1]);
    return s;
}

/* "bos_token": "text", {"content": "text"} or null. */
static zb_status read_role(zb_tokenizer *t, const json_t *config, int role, const char *path,
                           zb_err *err) {
    const json_t *v = json_object_get(config, zb_role_name[role]);
    if (!v || json_is_null(v)) return ZB_OK;
    if (json_is_object(v)) v = json_object_get(v, "content");
    if (!json_is_string(v))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected a string, found %s", path,
                       zb_role_name[role], zb_json_type(v));
    t->role[role] = zb_tokenizer_text_id(t, (zb_str){json_string_value(v), json_string_length(v)});
    if (t->role[role] < 0)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: key \"%s\": \"%.60s\" is not a token of the vocabulary", path,
                       zb_role_name[role], json_string_value(v));
    return ZB_OK;
}

/* A string, or a list of named templates: "default", else the first. */
static zb_status read_template_key(zb_tokenizer *t, const json_t *config, const char *path,
                                   zb_err *err) {
    const json_t *v = json_object_get(config, "chat_template");
    if (json_is_array(v)) {
        const json_t *chosen = json_array_get(v, 0), *item;
        size_t i;
        json_array_foreach((json_t *)v, i, item) {
            const char *name = json_string_value(json_object_get(item, "name"));
            if (name && strcmp(name, "default") == 0) chosen = item;
        }
        v = json_object_get(chosen, "template");
    }
    if (!v || json_is_null(v)) return ZB_OK;
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"chat_template\": expected a text, found %s",
                       path, json_is_string(v) ? "one with a NUL" : zb_json_type(v));
    if (json_string_length(v) > TEMPLATE_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"chat_template\": more than %d bytes", path,
                       (int)TEMPLATE_MAX);
    t->chat_template = zb_strdup(&t->arena, json_string_value(v));
    return ZB_OK;
}

static zb_status read_config(zb_tokenizer *t, zb_str text, const char *path, zb_err *err) {
    json_t *config;
    ZB_TRY(zb_json_parse(text.p, text.n, path, &config, err));
    zb_status s = ZB_OK;
    if (!json_is_object(config))
        s = zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", path,
                    zb_json_type(config));
    for (int role = 0; role < ZB_ROLES && s == ZB_OK; role++)
        s = read_role(t, config, role, path, err);
    if (s == ZB_OK) s = read_template_key(t, config, path, err);
    json_decref(config);
    return s;
}

typedef struct sources {
    zb_str tokenizer, config, jinja; /* p = NULL: the file is absent */
    const char *tokenizer_path, *config_path, *jinja_path;
} sources;

static zb_status load(zb_tokenizer *t, const sources *from, zb_err *err) {
    ZB_TRY(read_tokenizer_json(t, from->tokenizer, from->tokenizer_path, err));
    if (t->n_prefix) t->role[ZB_ROLE_BOS] = t->prefix[0]; /* if no file says otherwise */
    if (from->config.p) ZB_TRY(read_config(t, from->config, from->config_path, err));
    if (!from->jinja.p) return ZB_OK;
    if (memchr(from->jinja.p, 0, from->jinja.n))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected a text, found a NUL", from->jinja_path);
    t->chat_template = zb_strndup(&t->arena, from->jinja.p, from->jinja.n);
    return ZB_OK;
}

static zb_status open_sources(zb_tokenizer **out, const sources *from, zb_err *err) {
    zb_tokenizer *t = zb_tokenizer_new();
    zb_status s = load(t, from, err);
    if (s == ZB_OK) {
        *out = t;
    } else {
        zb_tokenizer_close(t);
    }
    return s;
}

zb_status zb_tokenizer_parse(zb_tokenizer **out, zb_str tokenizer, zb_str config, const char *where,
                             zb_err *err) {
    *out = NULL;
    sources from = {
        .tokenizer = tokenizer, .config = config, .tokenizer_path = where, .config_path = where};
    if (config.n == 0) from.config.p = NULL;
    return open_sources(out, &from, err);
}

/* A small file of the folder if it is there. */
static zb_status read_optional(const char *path, size_t limit, zb_arena *a, zb_str *out,
                               zb_err *err) {
    return zb_file_exists(path) ? zb_file_read(path, limit, a, out, err) : ZB_OK;
}

static zb_status open_folder(zb_tokenizer **out, const char *dir, zb_arena *tmp, zb_err *err) {
    sources from = {.tokenizer_path = zb_path_join(tmp, dir, "tokenizer.json"),
                    .config_path = zb_path_join(tmp, dir, "tokenizer_config.json"),
                    .jinja_path = zb_path_join(tmp, dir, "chat_template.jinja")};
    ZB_TRY(read_optional(from.config_path, CONFIG_MAX, tmp, &from.config, err));
    ZB_TRY(read_optional(from.jinja_path, TEMPLATE_MAX, tmp, &from.jinja, err));
    zb_map map;
    ZB_TRY(zb_map_open(&map, from.tokenizer_path, err));
    from.tokenizer = (zb_str){map.data ? (const char *)map.data : "", map.size};
    zb_status s = map.size <= FILE_MAX
                      ? open_sources(out, &from, err)
                      : zb_fail(err, ZB_ERR_FORMAT, "%s: expected at most %zu bytes, found %zu",
                                from.tokenizer_path, FILE_MAX, map.size);
    zb_map_close(&map);
    return s;
}

zb_status zb_tokenizer_open(zb_tokenizer **out, const char *dir, zb_err *err) {
    *out = NULL;
    zb_arena tmp = {0};
    zb_status s = open_folder(out, dir, &tmp, err);
    zb_arena_free(&tmp);
    return s;
}
