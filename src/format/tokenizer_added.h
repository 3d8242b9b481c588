/* tokenizer_added.h - private to the tokenizer: added tokens cut out of the text before anything
 * else.
 *
 * A trie over the tokens' bytes, its edges in one hash table; the longest token at the leftmost
 * place wins. Costs at most the longest token's length per byte of text. Immutable once built. */
#ifndef ZB_FORMAT_TOKENIZER_ADDED_H
#define ZB_FORMAT_TOKENIZER_ADDED_H

#include "base/arena.h"
#include "base/text.h"

typedef struct zb_added_token {
    zb_str text;
    int32_t id;
    bool special, normalized;         /* normalized: looked for after normalisation */
    bool lstrip, rstrip, single_word; /* swallow white space on a side; only as a whole word */
} zb_added_token;

typedef struct zb_added_edge {
    uint64_t key; /* node << 8 | byte, plus one; 0 marks an empty slot */
    uint32_t node;
} zb_added_edge;

typedef struct zb_added {
    uint64_t secret; /* of the table */
    zb_added_edge *edge;
    size_t slots;
    const zb_added_token **token; /* by node; NULL where none ends */
    uint32_t nodes;
} zb_added;

/* The tokens given by pointer; they must outlive the trie. Empty texts are ignored. */
void zb_added_build(zb_added *t, const zb_added_token *const *tokens, size_t n, zb_arena *a);

typedef struct zb_added_match {
    const zb_added_token *token;
    size_t start, end; /* white space taken by lstrip and rstrip included */
} zb_added_match;

/* The next match whose text starts at or after *at; false if there is none. *at moves behind that
 * text. *m is the match before ({0} at the beginning): what it took is not taken again, but a token
 * within the white space it swallowed is a match all the same, as in the package, and starts before
 * its end. With `specials` false the special tokens are passed over as ordinary text. */
bool zb_added_next(const zb_added *t, zb_str text, bool specials, size_t *at, zb_added_match *m);

#endif
