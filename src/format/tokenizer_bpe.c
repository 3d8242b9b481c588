/* tokenizer_bpe.c - byte-pair encoding of one piece (contract in tokenizer_vocab.h).
 *
 * Start with one symbol per byte; while any two neighbours form a merge, apply the one of lowest
 * rank, the leftmost first (Sennrich et al. 2016, in the order of the `tokenizers` package). Pieces
 * are mostly words, so short ones are merged in a plain array, which is faster than anything
 * clever; long ones (a text without blanks) use a linked list and a heap of candidates, O(n log n).
 * Both give the same ids. A candidate in the heap is stale once its left symbol is swallowed or
 * forms another merge; it is then skipped. */
#include "format/tokenizer_vocab.h"

#include <string.h>

enum { SHORT = 40 };

/* One symbol per byte that has a token; see zb_vocab.unk for the others. Returns the count. */
static size_t first_symbols(const zb_vocab *v, zb_str piece, int32_t *sym) {
    size_t n = 0;
    bool after_unk = false;
    for (size_t i = 0; i < piece.n; i++) {
        int32_t id = v->byte_id[(unsigned char)piece.p[i]];
        bool unk = id < 0;
        if (unk && (v->unk < 0 || (v->fuse_unk && after_unk))) continue;
        sym[n++] = unk ? v->unk : id;
        after_unk = unk;
    }
    return n;
}

static void merge_short(const zb_vocab *v, int32_t *sym, size_t n, zb_id_list *out) {
    const zb_merge *pair[SHORT]; /* pair[i]: the merge of sym[i] and sym[i + 1] */
    for (size_t i = 0; i + 1 < n; i++) pair[i] = zb_vocab_merge_find(v, sym[i], sym[i + 1]);
    while (n > 1) {
        const zb_merge *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (pair[i] && (!best || pair[i]->rank < best->rank)) best = pair[i], at = i;
        if (!best) break;
        sym[at] = best->id;
        memmove(&sym[at + 1], &sym[at + 2], (n - at - 2) * sizeof *sym);
        for (size_t i = at; i + 2 < n; i++) pair[i] = pair[i + 1];
        n--;
        if (at > 0) pair[at - 1] = zb_vocab_merge_find(v, sym[at - 1], sym[at]);
        if (at + 1 < n) pair[at] = zb_vocab_merge_find(v, sym[at], sym[at + 1]);
    }
    for (size_t i = 0; i < n; i++) zb_id_list_add(out, sym[i]);
}

typedef struct candidate {
    int32_t rank, id;
    size_t left;
} candidate;

typedef struct heap {
    candidate *item;
    size_t n;
} heap;

static bool before(candidate a, candidate b) {
    return a.rank < b.rank || (a.rank == b.rank && a.left < b.left);
}

static void heap_push(heap *h, candidate c) {
    size_t i = h->n++;
    for (size_t up; i > 0 && before(c, h->item[up = (i - 1) / 2]); i = up) h->item[i] = h->item[up];
    h->item[i] = c;
}

static candidate heap_pop(heap *h) {
    candidate top = h->item[0], last = h->item[--h->n];
    size_t i = 0;
    for (size_t child = 1; child < h->n; child = 2 * i + 1) {
        if (child + 1 < h->n && before(h->item[child + 1], h->item[child])) child++;
        if (!before(h->item[child], last)) break;
        h->item[i] = h->item[child];
        i = child;
    }
    h->item[i] = last;
    return top;
}

static void push_pair(const zb_vocab *v, heap *h, const int32_t *sym, size_t left, size_t right) {
    const zb_merge *m = zb_vocab_merge_find(v, sym[left], sym[right]);
    if (m) heap_push(h, (candidate){m->rank, m->id, left});
}

static void merge_long(const zb_vocab *v, int32_t *sym, size_t n, zb_id_list *out) {
    size_t *next = zb_alloc_array(out->arena, n, sizeof(size_t)); /* n: no neighbour */
    size_t *prev = zb_alloc_array(out->arena, n, sizeof(size_t));
    /* Each of the at most n - 1 merges makes at most two new candidates. */
    heap h = {zb_alloc_array(out->arena, 3 * n, sizeof(candidate)), 0};
    for (size_t i = 0; i < n; i++) {
        next[i] = i + 1;
        prev[i] = i ? i - 1 : n;
    }
    for (size_t i = 0; i + 1 < n; i++) push_pair(v, &h, sym, i, i + 1);
    while (h.n) {
        candidate c = heap_pop(&h);
        size_t l = c.left, r = sym[l] < 0 ? n : next[l]; /* -1 marks a swallowed symbol */
        if (r == n) continue;
        const zb_merge *m = zb_vocab_merge_find(v, sym[l], sym[r]);
        if (!m || m->id != c.id) continue;
        sym[l] = c.id;
        sym[r] = -1;
        next[l] = next[r];
        if (next[l] < n) {
            prev[next[l]] = l;
            push_pair(v, &h, sym, l, next[l]);
        }
        if (prev[l] < n) push_pair(v, &h, sym, prev[l], l);
    }
    for (size_t i = 0; i < n; i = next[i]) zb_id_list_add(out, sym[i]);
}

void zb_bpe_encode(const zb_vocab *v, zb_str piece, zb_id_list *out) {
    if (v->ignore_merges) {
        int32_t whole = zb_vocab_find(v, piece);
        if (whole >= 0) {
            zb_id_list_add(out, whole);
            return;
        }
    }
    if (piece.n <= SHORT) {
        int32_t sym[SHORT];
        merge_short(v, sym, first_symbols(v, piece, sym), out);
        return;
    }
    /* Room for the result first, so that the scratch memory can go back as one. */
    size_t need = out->n + piece.n;
    if (need > out->cap) out->id = zb_grow(out->arena, out->id, &out->cap, need, sizeof(int32_t));
    zb_mark mark = zb_arena_mark(out->arena);
    int32_t *sym = zb_alloc_array(out->arena, piece.n, sizeof(int32_t));
    size_t n = first_symbols(v, piece, sym);
    if (n) merge_long(v, sym, n, out);
    zb_arena_pop(out->arena, mark);
}
