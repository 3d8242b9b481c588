/* tokenizer_impl.h - private to the tokenizer's files: the struct and the pieces loading is made
 * of. */
#ifndef ZB_FORMAT_TOKENIZER_IMPL_H
#define ZB_FORMAT_TOKENIZER_IMPL_H

#include "format/tokenizer.h"
#include "format/tokenizer_added.h"
#include "format/tokenizer_split.h"
#include "format/tokenizer_vocab.h"

#include <jansson.h>

enum { ZB_ROLE_BOS, ZB_ROLE_EOS, ZB_ROLE_PAD, ZB_ROLE_UNK, ZB_ROLES };
extern const char *const zb_role_name[ZB_ROLES]; /* "bos_token", ... */

struct zb_tokenizer {
    zb_arena arena; /* everything below but what PCRE2 and jansson own */
    zb_vocab vocab;
    zb_splitter splitter;
    zb_added_token *added; /* in file order */
    size_t n_added;
    zb_added raw, normalized; /* tries: before and after normalisation */
    int32_t *prefix, *suffix; /* what add_special puts around a text */
    size_t n_prefix, n_suffix;
    int32_t role[ZB_ROLES]; /* ids, -1: none */
    const char *chat_template;
    /* The entries of tokenizer.json as read (or as they would be, for a GGUF), for writing them
     * again. */
    json_t *normalizer, *pre_tokenizer, *post_processor;
};

zb_tokenizer *zb_tokenizer_new(void);

/* Marks id as an added token with this text (kept by reference); checks it against the vocabulary.
 */
zb_status zb_tokenizer_add(zb_tokenizer *t, const zb_added_token *token, const char *where,
                           zb_err *err);

/* After vocabulary, merges, added tokens and the three JSON entries are set: patterns, tries,
 * prefix, suffix. */
zb_status zb_tokenizer_finish(zb_tokenizer *t, const char *where, zb_err *err);

/* Id of a token's text, added or not; -1 if there is none. */
int32_t zb_tokenizer_text_id(const zb_tokenizer *t, zb_str text);

/* What tokenizer.json and tokenizer_config.json hold; new references, NULL where a text is no
 * UTF-8. */
json_t *zb_tokenizer_json(const zb_tokenizer *t);
json_t *zb_tokenizer_config_json(const zb_tokenizer *t);

/* The name GGUF has for this tokenizer's cuts and normalisation; NULL: none. */
const char *zb_tokenizer_gguf_name(const zb_tokenizer *t);

/* Text of a token as the files write it, appended. */
void zb_tokenizer_text(const zb_tokenizer *t, int32_t id, zb_buf *out);

#endif
