/* pairs.c - see pairs.h. */
#include "compose/pairs.h"

#include "base/rng.h"

enum { PAIRS = 64 };

/* The different tokens of the corpus, in the order in which they come. */
static int32_t *words_of(const zb_corpus *c, int V, const zb_pairs_form *form, int *n,
                         zb_arena *a) {
    uint8_t *met = ZB_NEW_ARRAY(a, uint8_t, V);
    int32_t *word = ZB_NEW_ARRAY(a, int32_t, V);
    *n = 0;
    for (int64_t i = 0; i < c->n_tokens; i++) {
        int32_t id = c->token[i];
        if (id < 0 || id >= V || id == form->without || id == c->bos || met[id]) continue;
        if (form->marks && (id == form->begin || id == form->middle)) continue;
        met[id] = 1;
        word[(*n)++] = id;
    }
    return word;
}

/* Writes one pair, with its marks; returns how many tokens that are. */
static int put_pair(const zb_pairs_form *form, const int32_t *pair, int32_t *to) {
    int n = 0;
    if (form->marks) to[n++] = form->begin;
    to[n++] = pair[0];
    if (form->marks) to[n++] = form->middle;
    to[n++] = pair[1];
    return n;
}

void zb_pairs_make(zb_pairs *p, const zb_corpus *c, int V, const zb_pairs_form *form, int rows,
                   uint64_t seed, zb_arena *a) {
    int words;
    const int32_t *word = words_of(c, V, form, &words, a);
    int pairs = words / 2 < PAIRS ? words / 2 : PAIRS, width = form->marks ? 4 : 2,
        length = 2 * pairs * width;
    *p = (zb_pairs){0};
    if (pairs < 2 || rows < 1) return;
    int32_t *ids = ZB_NEW_ARRAY(a, int32_t, (size_t)rows * length);
    int64_t *order = ZB_NEW_ARRAY(a, int64_t, words), *again = ZB_NEW_ARRAY(a, int64_t, pairs);
    zb_span *span = ZB_NEW_ARRAY(a, zb_span, rows);
    p->row = ZB_NEW_ARRAY(a, int, (size_t)rows *pairs);
    p->label = ZB_NEW_ARRAY(a, int32_t, (size_t)rows * pairs);
    for (int r = 0; r < rows; r++) {
        int32_t *id = ids + (size_t)r * length;
        span[r] = (zb_span){.start = r * length, .n = length};
        zb_rng_permute(seed, ZB_RNG_DATA, 2 * (uint64_t)r, words, order);
        zb_rng_permute(seed, ZB_RNG_DATA, 2 * (uint64_t)r + 1, pairs, again);
        for (int i = 0; i < 2 * pairs; i++) { /* pair i, and pair again[i] in the second half */
            int64_t k = 2 * (i < pairs ? i : again[i - pairs]);
            int32_t pair[] = {word[order[k]], word[order[k + 1]]};
            int end = i * width + put_pair(form, pair, id + i * width);
            if (i < pairs) continue;
            p->row[p->answers] = r * length + end - 2;
            p->label[p->answers++] = pair[1];
        }
    }
    p->b = (zb_batch){.ids = ids, .n = rows * length, .span = span, .n_spans = rows};
}
