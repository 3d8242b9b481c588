/* tokenizer_added.c - added tokens in a text (contract in tokenizer_added.h).
 *
 * The rules are those of the `tokenizers` package: of the tokens that begin leftmost the longest is
 * taken, and a match that fails its conditions is passed over whole. single_word asks that no word
 * character touch the token; lstrip and rstrip let it swallow the white space before and behind it,
 * but not what an earlier token took. */
#include "format/tokenizer_added.h"

#include "base/err.h"
#include "base/rng.h"
#include "format/unicode.h"

#include <string.h>

static zb_added_edge *find_edge(const zb_added *t, uint32_t node, char byte) {
    uint64_t key = ((uint64_t)node << 8 | (unsigned char)byte) + 1;
    uint64_t h = (key ^ t->secret) * 0x9E3779B97F4A7C15u;
    size_t i = (h ^ h >> 32) & (t->slots - 1);
    while (t->edge[i].key && t->edge[i].key != key) i = (i + 1) & (t->slots - 1);
    return &t->edge[i];
}

static void insert(zb_added *t, const zb_added_token *token) {
    uint32_t node = 0;
    for (size_t i = 0; i < token->text.n; i++) {
        zb_added_edge *e = find_edge(t, node, token->text.p[i]);
        if (!e->key) {
            e->key = ((uint64_t)node << 8 | (unsigned char)token->text.p[i]) + 1;
            e->node = t->nodes++;
        }
        node = e->node;
    }
    t->token[node] = token;
}

void zb_added_build(zb_added *t, const zb_added_token *const *tokens, size_t n, zb_arena *a) {
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += tokens[i]->text.n;
    ZB_ASSERT(bytes < UINT32_MAX - 1);
    *t = (zb_added){.nodes = 1, .slots = 64, .secret = zb_rng_secret()};
    while (t->slots < 2 * bytes) t->slots *= 2;
    t->edge = ZB_NEW_ARRAY(a, zb_added_edge, t->slots);
    t->token = ZB_NEW_ARRAY(a, const zb_added_token *, bytes + 1);
    for (size_t i = 0; i < n; i++)
        if (tokens[i]->text.n) insert(t, tokens[i]);
}

/* The longest token that starts at text[at], or NULL. */
static const zb_added_token *longest(const zb_added *t, zb_str text, size_t at) {
    const zb_added_token *best = NULL;
    uint32_t node = 0;
    for (size_t i = at; i < text.n; i++) {
        const zb_added_edge *e = find_edge(t, node, text.p[i]);
        if (!e->key) break;
        node = e->node;
        if (t->token[node]) best = t->token[node];
    }
    return best;
}

/* The code point that ends at s[end), 0 bytes long if there is none or the bytes are invalid. */
static size_t decode_before(zb_str s, size_t end, uint32_t *cp) {
    for (size_t len = 1; len <= 4 && len <= end; len++) {
        if (((unsigned char)s.p[end - len] & 0xC0) == 0x80) continue;
        return zb_utf8_decode(s.p + end - len, len, cp) == len ? len : 0;
    }
    return 0;
}

static bool is_whole_word(zb_str text, size_t start, size_t end) {
    uint32_t cp = 0;
    if (decode_before(text, start, &cp) && zb_char_is_word(cp)) return false;
    return !(zb_utf8_decode(text.p + end, text.n - end, &cp) && zb_char_is_word(cp));
}

bool zb_added_next(const zb_added *t, zb_str text, bool specials, size_t *at, zb_added_match *m) {
    size_t floor = m->end, len;
    uint32_t cp = 0;
    if (t->nodes == 1) return false;
    for (size_t i = *at; i < text.n;) {
        const zb_added_token *token = longest(t, text, i);
        if (!token) {
            i++;
            continue;
        }
        size_t start = i, end = i + token->text.n;
        i = end;
        if (token->special && !specials) continue;
        if (token->single_word && !is_whole_word(text, start, end)) continue;
        if (token->lstrip)
            while (start > floor && (len = decode_before(text, start, &cp)) && zb_char_is_space(cp))
                start -= len;
        if (token->rstrip)
            while ((len = zb_utf8_decode(text.p + end, text.n - end, &cp)) && zb_char_is_space(cp))
                end += len;
        *m = (zb_added_match){token, start, end};
        *at = i;
        return true;
    }
    return false;
}
