/* tokenizer_split.h - private to the tokenizer: normalisation and the cuts made before byte-pair
 * encoding.
 *
 * Built from the "normalizer" and "pre_tokenizer" entries of tokenizer.json. A pre-tokenizer is a
 * chain of patterns: each cuts every piece of the one before. Patterns are compiled once (PCRE2)
 * and are immutable; the scratch memory of a run belongs to the caller, so any thread may run one.
 */
#ifndef ZB_FORMAT_TOKENIZER_SPLIT_H
#define ZB_FORMAT_TOKENIZER_SPLIT_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"
#include "format/unicode.h"

#include <jansson.h>
#include <pcre2.h>

enum { ZB_SPLIT_STEPS_MAX = 8 };

typedef struct zb_split_step {
    pcre2_code *code;
    bool keep_match, keep_gap; /* which parts go on: the matches, what lies between them, or both */
} zb_split_step;

typedef struct zb_splitter {
    zb_split_step step[ZB_SPLIT_STEPS_MAX];
    int n_steps;
    zb_normal_form form[ZB_SPLIT_STEPS_MAX];
    int n_forms;
    bool byte_level; /* seen: the chain ends in the byte alphabet, as it must */
} zb_splitter;

extern const char zb_pattern_gpt2[], zb_pattern_llama3[], zb_pattern_qwen2[];

/* NULL or JSON null: no normaliser. On failure the splitter must still be freed. */
zb_status zb_splitter_build(zb_splitter *s, const json_t *normalizer, const json_t *pre_tokenizer,
                            const char *where, zb_err *err);
void zb_splitter_free(zb_splitter *s);

/* Valid UTF-8 in, normalised out (the input itself if there is nothing to do, else in the arena).
 */
zb_str zb_splitter_normalize(const zb_splitter *s, zb_str text, zb_arena *a);

typedef struct zb_split_work {
    pcre2_match_data *data;
    pcre2_match_context *context;
} zb_split_work;

void zb_split_work_init(zb_split_work *w);
void zb_split_work_free(zb_split_work *w);

/* Calls `piece` for each pre-token of `text` (valid UTF-8) in order. A pattern that needs more
 * steps than the length of the text justifies is an error. */
zb_status zb_splitter_run(const zb_splitter *s, zb_split_work *w, zb_str text,
                          void (*piece)(void *ctx, zb_str text), void *ctx, zb_err *err);

#endif
