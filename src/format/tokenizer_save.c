/* tokenizer_save.c - a tokenizer as a Hugging Face folder (contract in tokenizer.h).
 *
 * The normaliser, pre-tokenizer and post-processor are written as they were read, the rest from our
 * tables. Merges are written as "a b", which every version of the `tokenizers` package reads,
 * unless a token holds a blank. */
#include "format/tokenizer_impl.h"

#include "base/file.h"
#include "base/json.h"

static json_t *text_json(const zb_tokenizer *t, int32_t id) {
    zb_buf text;
    zb_buf_init(&text, SIZE_MAX / 4);
    zb_tokenizer_text(t, id, &text);
    json_t *v = json_stringn(zb_buf_str(&text).p, text.n);
    zb_buf_free(&text);
    return v;
}

static json_t *vocab_json(const zb_tokenizer *t) {
    json_t *o = json_object();
    for (int32_t id = 0; id < t->vocab.n; id++) {
        if (!(t->vocab.token[id].flags & ZB_TOKEN_MODEL)) continue;
        json_t *text = text_json(t, id);
        json_object_set_new(o, json_string_value(text), json_integer(id));
        json_decref(text);
    }
    return o;
}

/* Tokens that take part in merges are written in the byte alphabet, which has no blank. */
static json_t *merges_json(const zb_tokenizer *t) {
    json_t *list = json_array();
    zb_buf text;
    zb_buf_init(&text, SIZE_MAX / 4);
    for (size_t i = 0; i < t->vocab.n_merges; i++) {
        zb_buf_clear(&text);
        zb_tokenizer_text(t, (int32_t)(t->vocab.pair[i] >> 32), &text);
        zb_buf_addc(&text, ' ');
        zb_tokenizer_text(t, (int32_t)(t->vocab.pair[i] & UINT32_MAX), &text);
        json_array_append_new(list, json_stringn(text.p, text.n));
    }
    zb_buf_free(&text);
    return list;
}

static json_t *added_json(const zb_tokenizer *t) {
    json_t *list = json_array();
    for (size_t i = 0; i < t->n_added; i++) {
        const zb_added_token *a = &t->added[i];
        json_array_append_new(
            list, json_pack("{s:i, s:s%, s:b, s:b, s:b, s:b, s:b}", "id", (int)a->id, "content",
                            a->text.p, a->text.n, "single_word", (int)a->single_word, "lstrip",
                            (int)a->lstrip, "rstrip", (int)a->rstrip, "normalized",
                            (int)a->normalized, "special", (int)a->special));
    }
    return list;
}

static json_t *model_json(const zb_tokenizer *t) {
    json_t *unk = t->vocab.unk < 0 ? json_null() : text_json(t, t->vocab.unk);
    return json_pack("{s:s, s:n, s:o, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                     "unk_token", unk, "continuing_subword_prefix", "end_of_word_suffix",
                     "fuse_unk", (int)t->vocab.fuse_unk, "byte_fallback", 0, "ignore_merges",
                     (int)t->vocab.ignore_merges, "vocab", vocab_json(t), "merges", merges_json(t));
}

/* The entry as read; null where there was none. */
static json_t *copy_of(const json_t *v) { return v ? json_deep_copy(v) : json_null(); }

json_t *zb_tokenizer_json(const zb_tokenizer *t) {
    json_t *decoder = json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                                "trim_offsets", 1, "use_regex", 1);
    return json_pack("{s:s, s:n, s:n, s:o, s:o, s:o, s:o, s:o, s:o}", "version", "1.0",
                     "truncation", "padding", "added_tokens", added_json(t), "normalizer",
                     copy_of(t->normalizer), "pre_tokenizer", copy_of(t->pre_tokenizer),
                     "post_processor", copy_of(t->post_processor), "decoder", decoder, "model",
                     model_json(t));
}

json_t *zb_tokenizer_config_json(const zb_tokenizer *t) {
    json_t *o = json_pack("{s:s, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                          "clean_up_tokenization_spaces", 0);
    for (int role = 0; role < ZB_ROLES; role++)
        if (t->role[role] >= 0)
            json_object_set_new(o, zb_role_name[role], text_json(t, t->role[role]));
    if (t->chat_template) json_object_set_new(o, "chat_template", json_string(t->chat_template));
    return o;
}

static zb_status write_json(const char *dir, const char *name, json_t *v, zb_arena *a,
                            zb_err *err) {
    const char *path = zb_path_join(a, dir, name);
    if (!v)
        return zb_fail(err, ZB_ERR_INTERNAL, "%s: a text of the tokenizer is not valid UTF-8",
                       path);
    zb_status s = zb_json_write(path, v, err);
    json_decref(v);
    return s;
}

zb_status zb_tokenizer_save(const zb_tokenizer *t, const char *dir, zb_err *err) {
    zb_arena a = {0};
    zb_status s = zb_dir_make(dir, err);
    if (s == ZB_OK) s = write_json(dir, "tokenizer.json", zb_tokenizer_json(t), &a, err);
    if (s == ZB_OK)
        s = write_json(dir, "tokenizer_config.json", zb_tokenizer_config_json(t), &a, err);
    zb_arena_free(&a);
    return s;
}
