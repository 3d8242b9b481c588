/* tokenizer_vocab.h - private to the tokenizer: tokens, merges and byte-pair encoding of one piece.
 *
 * Tokens are kept as the bytes they stand for, not in the printable alphabet of the files. Two hash
 * tables, both in the vocabulary's arena: bytes -> id (only what byte-pair encoding may produce)
 * and (left id, right id) -> (rank, merged id). Immutable once built, so any thread may encode. */
#ifndef ZB_FORMAT_TOKENIZER_VOCAB_H
#define ZB_FORMAT_TOKENIZER_VOCAB_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"

enum {
    ZB_TOKEN_PRESENT = 1, /* ids may have gaps */
    ZB_TOKEN_RAW = 2,     /* text is not written in the byte alphabet */
    ZB_TOKEN_ADDED = 4,
    ZB_TOKEN_SPECIAL = 8,
    ZB_TOKEN_MODEL = 16 /* listed in the model's vocabulary (an added token need not be) */
};

typedef struct zb_token {
    zb_str bytes;
    unsigned flags;
} zb_token;

typedef struct zb_merge {
    uint64_t pair; /* left id << 32 | right id; all ones in an empty slot */
    int32_t rank, id;
} zb_merge;

typedef struct zb_vocab_slot {
    uint32_t tag; /* upper half of the hash: tells most strangers without touching their bytes */
    int32_t id;   /* -1: empty */
} zb_vocab_slot;

typedef struct zb_vocab {
    uint64_t secret; /* of both tables: no file can fill one place of them */
    zb_token *token; /* [n] by id */
    int32_t n;
    char *pool; /* the tokens' bytes stand side by side: what is left of the newest block */
    size_t pool_left;
    zb_vocab_slot *slot; /* [slots] */
    size_t slots;
    zb_merge *merge; /* [merge_slots] */
    size_t merge_slots;
    uint64_t *pair; /* [n_merges] by rank, for writing the file again */
    size_t n_merges;
    int32_t byte_id[256];
    int32_t unk;        /* id for a byte that has no token of its own; -1: such bytes vanish */
    bool fuse_unk;      /* one unk for a run of them */
    bool ignore_merges; /* a piece that is a token as a whole is taken at once */
} zb_vocab;

/* Ids out of byte-pair encoding, growing in an arena. */
typedef struct zb_id_list {
    int32_t *id;
    size_t n, cap;
    zb_arena *arena;
} zb_id_list;

void zb_id_list_add(zb_id_list *l, int32_t id);

/* The alphabet: printable ASCII and Latin-1 stand for themselves, the other 68 bytes for U+0100...
 * in order. */
uint32_t zb_byte_alphabet(unsigned char byte);
/* Bytes of a token's text, written to `room` (text.n bytes); false if a character is outside the
 * alphabet, then they are the text itself. */
bool zb_alphabet_bytes(zb_str text, char *room, zb_str *out);
/* Text of bytes in the alphabet, appended. */
void zb_alphabet_text(zb_str bytes, zb_buf *out);

void zb_vocab_init(zb_vocab *v, int32_t n, size_t n_merges, zb_arena *a);
zb_status zb_vocab_set(zb_vocab *v, int32_t id, zb_str text, zb_arena *a, const char *where,
                       zb_err *err);
/* The id of bytes, -1 if none. */
int32_t zb_vocab_find(const zb_vocab *v, zb_str bytes);
/* Appends the merge of two texts of the alphabet at the next rank. */
zb_status zb_vocab_merge(zb_vocab *v, zb_str left, zb_str right, zb_arena *a, const char *where,
                         zb_err *err);
/* The merge of two neighbours, NULL if they form none. */
const zb_merge *zb_vocab_merge_find(const zb_vocab *v, int32_t left, int32_t right);
/* Fills byte_id; call after the last zb_vocab_set. */
void zb_vocab_finish(zb_vocab *v);

/* Byte-pair encoding of one pre-token; scratch memory comes from out->arena. */
void zb_bpe_encode(const zb_vocab *v, zb_str piece, zb_id_list *out);

#endif
