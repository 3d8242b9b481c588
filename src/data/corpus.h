/* corpus.h - text files as one array of tokens with document edges, and packed batches from it.
 *
 * A corpus is read from JSONL ({"text": ...} or {"input_ids": [...]} per line, .gz allowed) or from
 * a plain .txt file (one document). Each document ends with the separator token, and one of text
 * begins with BOS where the tokenizer's own rules put it before a text, as before every prompt.
 * Packing lays the documents of an epoch, in an order that depends on (seed, epoch) only, end to
 * end and cuts rows of `sequence_length` tokens; every document piece of a row is a span of its
 * own, so nothing crosses a document's edge. Row r is computed from r alone: resuming needs only
 * the number of rows consumed. */
#ifndef ZB_DATA_CORPUS_H
#define ZB_DATA_CORPUS_H

#include "base/arena.h"
#include "base/err.h"
#include "format/tokenizer.h"
#include "tensor/batch.h"

#include <jansson.h>

typedef struct zb_corpus {
    int32_t *token;
    int64_t n_tokens;
    int64_t *doc; /* [n_docs+1] first token of each document */
    int64_t n_docs;
    int32_t bos; /* with which documents of text begin; -1: none */
} zb_corpus;

/* tokens_max 0: all. The file's path is in every message; a line that is not such an object, or has
 * tokens that are none of the model's `vocabulary` (0: unknown), is an error with its number. */
zb_status zb_corpus_read(zb_corpus *c, const char *path, const zb_tokenizer *t, int vocabulary,
                         int64_t tokens_max, zb_arena *a, zb_err *err);

/* Drops documents of fewer than `shortest` tokens, the separator among them; an error, naming the
 * path, where none is left. */
zb_status zb_corpus_keep_long(zb_corpus *c, const char *path, int64_t shortest, zb_err *err);

/* False where the value is no token id. */
bool zb_corpus_id(const json_t *v, int32_t *id);

/* <|endoftext|> or its like where the vocabulary has it, else EOS, else -1. */
int32_t zb_corpus_separator(const zb_tokenizer *t);

typedef struct zb_packer {
    const zb_corpus *corpus;
    uint64_t seed;
    int length; /* tokens per row */
    bool shuffle;
    int64_t rows;           /* full rows of an epoch */
    int64_t epoch;          /* whose order is held below; -1: none */
    int64_t *order, *start; /* [n_docs] document order, [n_docs+1] first stream position of each in
                               that order */
    int longest; /* tokens of a span: longer pieces of a document are cut into several; 0: not */
} zb_packer;

/* An error where the corpus has less than one row. */
zb_status zb_packer_init(zb_packer *p, const zb_corpus *c, int length, bool shuffle, uint64_t seed,
                         zb_arena *a, zb_err *err);

/* Rows first .. first+n-1 (over epochs without end) as a batch; ids and spans in the arena. */
zb_batch zb_packer_batch(zb_packer *p, int64_t first, int n, zb_arena *a);

#endif
