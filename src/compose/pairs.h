/* pairs.h - associative recall on random tokens: rows of pairs, then the same pairs in another
 * order.
 *
 * A row is k1 v1 k2 v2 ..., all different tokens drawn from those of a text, and then every pair
 * once more in an order of its own. The cross-entropy of each second v says whether a model still
 * finds what stood far back; nothing in the weights can know it. Between them may stand marks, as
 * between the words of a list ("\n k : v"), with which small models know better what is asked.
 * Everything lives in the arena. */
#ifndef ZB_COMPOSE_PAIRS_H
#define ZB_COMPOSE_PAIRS_H

#include "data/corpus.h"
#include "tensor/batch.h"

#include <stdbool.h>

typedef struct zb_pairs {
    zb_batch b;     /* one span per row */
    int answers;    /* 0: none could be made (too few different tokens, or no rows) */
    int *row;       /* [answers] token of the batch that predicts an answer */
    int32_t *label; /* [answers] */
} zb_pairs;

typedef struct zb_pairs_form {
    int32_t without; /* a token that is no word; -1: none */
    bool marks;      /* begin and middle are no words, but stand before k and before v */
    int32_t begin, middle;
} zb_pairs_form;

/* `rows` rows of up to 64 pairs of tokens below V that occur in the corpus. The same for the same
 * seed. */
void zb_pairs_make(zb_pairs *p, const zb_corpus *c, int V, const zb_pairs_form *form, int rows,
                   uint64_t seed, zb_arena *a);

#endif
