/* tokenizer_vocab.c - tokens and merges of a byte-level BPE (contract in tokenizer_vocab.h).
 *
 * GPT-2's files write every token in a printable alphabet: byte b is the character of code b when
 * that is a visible character (33-126, 161-172, 174-255), else the character 256 + k where b is the
 * k-th byte that is not. Reading turns the text into bytes once, so that encoding and decoding work
 * on bytes only. A token whose text leaves the alphabet (an added token such as one with a blank in
 * it) stands for its own UTF-8.
 *
 * Both tables are open-addressed with linear probing and at most half full. */
#include "format/tokenizer_vocab.h"

#include "base/rng.h"

#include <string.h>

enum { ALPHABET_END = 256 + 68, POOL_BLOCK = 1 << 16 };
static const uint64_t MERGE_NONE = UINT64_MAX;

void zb_id_list_add(zb_id_list *l, int32_t id) {
    if (l->n == l->cap) l->id = zb_grow(l->arena, l->id, &l->cap, l->n + 1, sizeof(int32_t));
    l->id[l->n++] = id;
}

static bool is_visible(unsigned byte) {
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
}

uint32_t zb_byte_alphabet(unsigned char byte) {
    if (is_visible(byte)) return byte;
    /* The bytes that are not visible: 0-32, 127-160, 173. */
    if (byte <= 32) return 256u + byte;
    return byte == 173 ? 256u + 67 : 256u + 33 + (byte - 127u);
}

/* The byte of an alphabet character; -1 outside. Inverse of zb_byte_alphabet. */
static int alphabet_byte(uint32_t cp) {
    if (cp < 256) return is_visible(cp) ? (int)cp : -1;
    if (cp >= ALPHABET_END) return -1;
    uint32_t k = cp - 256;
    return k <= 32 ? (int)k : k == 67 ? 173 : (int)(k - 33 + 127);
}

bool zb_alphabet_bytes(zb_str text, char *room, zb_str *out) {
    size_t n = 0;
    for (size_t i = 0; i < text.n;) {
        uint32_t cp = (unsigned char)text.p[i];
        size_t len = cp < 0x80 ? 1 : zb_utf8_decode(text.p + i, text.n - i, &cp);
        int byte = len ? alphabet_byte(cp) : -1;
        if (byte < 0) {
            memcpy(room, text.p, text.n);
            *out = (zb_str){room, text.n};
            return false;
        }
        room[n++] = (char)byte;
        i += len;
    }
    *out = (zb_str){room, n};
    return true;
}

void zb_alphabet_text(zb_str bytes, zb_buf *out) {
    for (size_t i = 0; i < bytes.n; i++) {
        char utf8[4];
        zb_buf_add(out, utf8, zb_utf8_encode(zb_byte_alphabet((unsigned char)bytes.p[i]), utf8));
    }
}

static uint64_t mix(uint64_t h) {
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;
    h ^= h >> 29;
    return h;
}

static uint64_t hash_bytes(zb_str s, uint64_t secret) {
    uint64_t h = secret ^ s.n;
    size_t i = 0;
    for (; i + 8 <= s.n; i += 8) {
        uint64_t word;
        memcpy(&word, s.p + i, 8);
        h = mix(h ^ word) * 0x9E3779B97F4A7C15u;
    }
    uint64_t rest = 0;
    if (s.n > i) memcpy(&rest, s.p + i, s.n - i);
    return mix(mix(h ^ rest) * 0x9E3779B97F4A7C15u);
}

static size_t slots_for(size_t n) {
    size_t slots = 64;
    while (slots < 2 * n + 2) slots *= 2;
    return slots;
}

void zb_vocab_init(zb_vocab *v, int32_t n, size_t n_merges, zb_arena *a) {
    *v = (zb_vocab){.n = n, .unk = -1, .secret = zb_rng_secret()};
    v->token = ZB_NEW_ARRAY(a, zb_token, n);
    v->slots = slots_for((size_t)n);
    v->slot = ZB_NEW_ARRAY(a, zb_vocab_slot, v->slots);
    memset(v->slot, 0xFF, v->slots * sizeof(zb_vocab_slot));
    v->merge_slots = slots_for(n_merges);
    v->merge = ZB_NEW_ARRAY(a, zb_merge, v->merge_slots);
    memset(v->merge, 0xFF, v->merge_slots * sizeof(zb_merge));
    v->pair = ZB_NEW_ARRAY(a, uint64_t, n_merges);
    memset(v->byte_id, 0xFF, sizeof v->byte_id);
}

/* The slot that holds the bytes, or the empty one where they belong; *tag is theirs. */
static zb_vocab_slot *vocab_slot(const zb_vocab *v, zb_str bytes, uint32_t *tag) {
    uint64_t hash = hash_bytes(bytes, v->secret);
    size_t i = hash & (v->slots - 1);
    *tag = (uint32_t)(hash >> 32);
    while (v->slot[i].id >= 0 &&
           (v->slot[i].tag != *tag || !zb_str_eq(v->token[v->slot[i].id].bytes, bytes)))
        i = (i + 1) & (v->slots - 1);
    return &v->slot[i];
}

int32_t zb_vocab_find(const zb_vocab *v, zb_str bytes) {
    uint32_t tag;
    return vocab_slot(v, bytes, &tag)->id;
}

/* Room for the bytes of one more token. */
static char *pool_take(zb_vocab *v, size_t n, zb_arena *a) {
    if (!v->pool || n > v->pool_left) {
        v->pool_left = n > POOL_BLOCK ? n : POOL_BLOCK;
        v->pool = zb_alloc(a, v->pool_left);
    }
    char *room = v->pool;
    v->pool += n;
    v->pool_left -= n;
    return room;
}

/* Texts in messages are cut so that the place and the reason always fit. */
static int shown(zb_str s) { return s.n > 60 ? (int)zb_utf8_complete(s.p, 60) : (int)s.n; }

zb_status zb_vocab_set(zb_vocab *v, int32_t id, zb_str text, zb_arena *a, const char *where,
                       zb_err *err) {
    ZB_ASSERT(id >= 0 && id < v->n);
    zb_token *t = &v->token[id];
    if (t->flags & ZB_TOKEN_PRESENT)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: id %d is given twice: to \"%.*s\" and before",
                       where, (int)id, shown(text), text.p);
    bool coded = zb_alphabet_bytes(text, pool_take(v, text.n, a), &t->bytes);
    t->flags = ZB_TOKEN_PRESENT | ZB_TOKEN_MODEL | (coded ? 0 : ZB_TOKEN_RAW);
    if (!coded) return ZB_OK; /* byte-pair encoding cannot reach it */
    uint32_t tag;
    zb_vocab_slot *slot = vocab_slot(v, t->bytes, &tag);
    if (slot->id >= 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: token \"%.*s\" has two ids, %d and %d", where,
                       shown(text), text.p, (int)slot->id, (int)id);
    *slot = (zb_vocab_slot){tag, id};
    return ZB_OK;
}

void zb_vocab_finish(zb_vocab *v) {
    for (int b = 0; b < 256; b++) {
        char c = (char)b;
        v->byte_id[b] = zb_vocab_find(v, (zb_str){&c, 1});
    }
}

static zb_merge *merge_slot(const zb_vocab *v, uint64_t pair) {
    size_t i = mix((pair ^ v->secret) * 0x9E3779B97F4A7C15u) & (v->merge_slots - 1);
    while (v->merge[i].pair != pair && v->merge[i].pair != MERGE_NONE)
        i = (i + 1) & (v->merge_slots - 1);
    return &v->merge[i];
}

const zb_merge *zb_vocab_merge_find(const zb_vocab *v, int32_t left, int32_t right) {
    const zb_merge *m = merge_slot(v, (uint64_t)left << 32 | (uint32_t)right);
    return m->pair == MERGE_NONE ? NULL : m;
}

zb_status zb_vocab_merge(zb_vocab *v, zb_str left, zb_str right, zb_arena *a, const char *where,
                         zb_err *err) {
    zb_mark mark = zb_arena_mark(a);
    char small[256], *both = small;
    if (left.n + right.n > sizeof small) both = zb_alloc(a, left.n + right.n);
    zb_str l, r;
    int32_t li = -1, ri = -1, id = -1;
    if (zb_alphabet_bytes(left, both, &l) && zb_alphabet_bytes(right, both + l.n, &r)) {
        li = zb_vocab_find(v, l);
        ri = zb_vocab_find(v, r);
        id = zb_vocab_find(v, (zb_str){both, l.n + r.n});
    }
    zb_arena_pop(a, mark);
    size_t rank = v->n_merges;
    if (li < 0 || ri < 0 || id < 0) {
        const char *what = li < 0 ? "its left part" : ri < 0 ? "its right part" : "their union";
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: merge %zu (\"%.*s\" and \"%.*s\"): expected tokens of the vocabulary, "
                       "but %s is none",
                       where, rank, shown(left), left.p, shown(right), right.p, what);
    }
    uint64_t pair = (uint64_t)li << 32 | (uint32_t)ri;
    *merge_slot(v, pair) =
        (zb_merge){pair, (int32_t)rank, id}; /* given twice: the later rank holds */
    v->pair[v->n_merges++] = pair;
    return ZB_OK;
}
