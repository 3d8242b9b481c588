/* tokenizer.h - byte-level BPE: text to token ids and back.
 *
 * Built from a GGUF file or a Hugging Face folder (tokenizer.json, tokenizer_config.json). Owns its
 * tables; immutable after loading, so any thread may encode and decode. The pre-tokenizer is taken
 * by its structure (a chain of Digits, Split and ByteLevel), whatever the model is called; what the
 * chain cannot express is an error. Ids are those of the `tokenizers` package. */
#ifndef ZB_FORMAT_TOKENIZER_H
#define ZB_FORMAT_TOKENIZER_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"
#include "format/gguf.h"
#include "format/gguf_write.h"

typedef struct zb_tokenizer zb_tokenizer;

zb_status zb_tokenizer_open(zb_tokenizer **out, const char *dir,
                            zb_err *err); /* Hugging Face folder */
/* The same from the text of tokenizer.json and of tokenizer_config.json (may be empty); `where`
 * names them. */
zb_status zb_tokenizer_parse(zb_tokenizer **out, zb_str tokenizer, zb_str config, const char *where,
                             zb_err *err);
zb_status zb_tokenizer_from_gguf(zb_tokenizer **out, const zb_gguf *g, zb_err *err);
void zb_tokenizer_close(zb_tokenizer *t);

typedef struct zb_ids {
    int32_t *id; /* in the arena */
    size_t n;
} zb_ids;

/* add_special: put BOS (and EOS) where the tokenizer's own settings say so; parse_special: text
 * such as "<|im_end|>" becomes its token (chat templates), else it is ordinary text. Invalid UTF-8
 * is encoded byte by byte. */
zb_status zb_tokenizer_encode(const zb_tokenizer *t, zb_str text, bool add_special,
                              bool parse_special, zb_arena *a, zb_ids *out, zb_err *err);
/* Bytes of ids appended to `out`; special tokens are skipped unless `special`. Ids out of range are
 * an error. */
zb_status zb_tokenizer_decode(const zb_tokenizer *t, const int32_t *ids, size_t n, bool special,
                              zb_buf *out, zb_err *err);

int zb_tokenizer_vocab(const zb_tokenizer *t);   /* number of ids, added tokens included */
int32_t zb_tokenizer_bos(const zb_tokenizer *t); /* -1: none */
int32_t zb_tokenizer_eos(const zb_tokenizer *t); /* -1: none */
bool zb_tokenizer_adds_bos(const zb_tokenizer *t);
bool zb_tokenizer_is_special(const zb_tokenizer *t, int32_t id);
int32_t zb_tokenizer_find(const zb_tokenizer *t,
                          zb_str token); /* exact token text of an added token; -1 */
zb_str zb_tokenizer_piece(const zb_tokenizer *t, int32_t id); /* raw bytes of one id */
const char *
zb_tokenizer_chat_template(const zb_tokenizer *t); /* Jinja text, NULL if the model has none */

/* Writes tokenizer.json and tokenizer_config.json (with the chat template) into dir, in a form that
 * this reader and the `tokenizers` package both read to the same ids. */
zb_status zb_tokenizer_save(const zb_tokenizer *t, const char *dir, zb_err *err);
/* The keys tokenizer.* of a GGUF file, from which zb_tokenizer_from_gguf makes the same ids again.
 * `vocab`: rows of the embedding; ids without a token up to there get a name, as other programs
 * expect. A tokenizer that those keys cannot describe is kept as tokenizer.huggingface.json. */
zb_status zb_tokenizer_to_gguf(const zb_tokenizer *t, zb_gguf_writer *w, int vocab, zb_err *err);

#endif
