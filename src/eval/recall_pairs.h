/* recall_pairs.h - associative recall: sequences of random words in which a key comes again.
 *
 *     [BOS] k1 v1 k2 v2 ... kN vN  filler  k1 v1 x y k3 v3 ...
 *
 * N pairs, filler, and a second round in which about half of the pairs come again in their places,
 * the others replaced by new ones, so that neither the order nor the place gives the value away.
 * Words are one token each; in lines a pair is four, " k: v\n". Behind a key of the second round
 * the model should expect its value; key and query are exactly `distance` tokens apart, whichever
 * pair it is: a window of less cannot know the answer. Pure functions; memory in the arena given.
 */
#ifndef ZB_EVAL_RECALL_PAIRS_H
#define ZB_EVAL_RECALL_PAIRS_H

#include "eval/scorer.h"
#include "format/tokenizer.h"

typedef struct zb_recall_vocab {
    int32_t *id; /* tokens that are a space and three or more small letters */
    int n;
    int32_t colon, newline; /* -1: not one token */
} zb_recall_vocab;

/* `limit`: rows of the model's embedding. */
zb_status zb_recall_vocab_find(const zb_tokenizer *t, int limit, zb_arena *a, zb_recall_vocab *out,
                               zb_err *err);

typedef struct zb_recall_pairs {
    int pairs, distance; /* tokens; at least zb_recall_pairs_least() */
    bool lines;          /* " k: v\n" instead of " k v" */
    const int32_t *text; /* filler: a piece of this text, else (NULL) random words */
    int n_text;
    uint64_t seed, stream;
    int32_t bos; /* -1: none */
} zb_recall_pairs;

/* The least distance: the tokens of the pairs themselves. */
int zb_recall_pairs_least(int pairs, bool lines);

/* A request with memory for its answers: ids, the places of the queries, and the values as
 * candidates. ZB_ERR_CONFIG if the vocabulary is too small. */
zb_status zb_recall_pairs_make(const zb_recall_pairs *p, const zb_recall_vocab *v, zb_arena *a,
                               zb_probe_request *out, zb_err *err);

#endif
