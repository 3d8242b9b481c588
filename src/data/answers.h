/* answers.h - what a model should learn to answer, as token ids with a mark on each that is learnt.
 *
 * JSONL, one example per line, in the forms of TRL's data sets:
 *   {"text": T}                                  all of it
 *   {"messages": [...]}                          every message of the assistant
 *   {"prompt": P, "completion": C}               C
 *   {"prompt": P, "chosen": C, "rejected": R}    both answers, as a pair
 *   {"chosen": C, "rejected": R}                 the same; the prompt is what both begin with
 * P, C and R are texts, or lists of messages that the model's chat template writes, or lists of ids
 * (which need no tokenizer). Where answers are messages a text P is the user's message, or is
 * passed over if the answers repeat it. Behind an answer that is a text stands EOS; ids of given
 * and learnt text are made apart, as in generation. */
#ifndef ZB_DATA_ANSWERS_H
#define ZB_DATA_ANSWERS_H

#include "base/arena.h"
#include "base/err.h"
#include "format/tokenizer.h"
#include "tensor/batch.h"

typedef struct zb_answers {
    int32_t *id;
    uint8_t *learnt; /* [n_ids] 1: to be predicted from what stands before it */
    int64_t n_ids;
    int64_t *start; /* [n * per + 1] first id of each item */
    int64_t n;      /* examples */
    int per;        /* items of an example: 1, or 2 (chosen, rejected) */
    int64_t seed;   /* of the order */
    int64_t epoch;  /* whose order is held below; -1: none */
    int64_t *order; /* [n] */
} zb_answers;

typedef struct zb_answers_form {
    bool pairs;                 /* chosen and rejected answers */
    int length_max, prompt_max; /* ids of an item, cut at its end; of a prompt before a chosen,
                                   rejected or completion, cut at its beginning */
    int vocabulary;             /* ids must be below; 0: unknown */
    int64_t n_max;              /* examples (0: all) */
    int64_t seed;
} zb_answers_form;

/* t NULL: ids alone. Examples of which nothing is learnt, and pairs of equal answers, are left out
 * and counted in a warning; an error where none is left. Messages name file and line. */
zb_status zb_answers_read(zb_answers *out, const char *path, const zb_tokenizer *t,
                          const zb_answers_form *f, zb_arena *a, zb_err *err);

/* Examples first .. first+n-1 (over epochs without end, each in an order of its own; in the file's
 * order where not shuffled) as a batch of items; ids, spans and marks in the arena. */
zb_batch zb_answers_batch(zb_answers *s, int64_t first, int n, bool shuffle, uint8_t **learnt,
                          zb_arena *a);
/* Ids that are learnt in these examples. */
int64_t zb_answers_learnt(zb_answers *s, int64_t first, int64_t n, bool shuffle);

#endif
