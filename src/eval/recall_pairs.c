/* recall_pairs.c - sequences of associative recall (contract in recall_pairs.h).
 *
 * After the multi-query associative recall of Arora et al. 2023 ("Zoology"), with words of the
 * model's own vocabulary, so that a language model can be asked without training. Keys, values and
 * filler are disjoint sets of words drawn anew for each sequence; keys and values occur once before
 * the query (in filler from a text now and then once more), filler may repeat. */
#include "eval/recall_pairs.h"

#include "base/rng.h"

#include <string.h>

enum { LETTERS_MIN = 3, FILLER_MIN = 64 };

static bool is_word(zb_str piece) {
    if (piece.n < 1 + LETTERS_MIN || piece.p[0] != ' ') return false;
    for (size_t i = 1; i < piece.n; i++)
        if (piece.p[i] < 'a' || piece.p[i] > 'z') return false;
    return true;
}

/* The id of a text that is one token, else -1. */
static zb_status find_token(const zb_tokenizer *t, const char *text, zb_arena *a, int32_t *out,
                            zb_err *err) {
    zb_ids ids;
    ZB_TRY(zb_tokenizer_encode(t, zb_str_from(text), false, false, a, &ids, err));
    *out = ids.n == 1 ? ids.id[0] : -1;
    return ZB_OK;
}

zb_status zb_recall_vocab_find(const zb_tokenizer *t, int limit, zb_arena *a, zb_recall_vocab *out,
                               zb_err *err) {
    int n = zb_tokenizer_vocab(t) < limit ? zb_tokenizer_vocab(t) : limit;
    *out = (zb_recall_vocab){.id = ZB_NEW_ARRAY(a, int32_t, n)};
    for (int32_t i = 0; i < n; i++)
        if (!zb_tokenizer_is_special(t, i) && is_word(zb_tokenizer_piece(t, i)))
            out->id[out->n++] = i;
    ZB_TRY(find_token(t, ":", a, &out->colon, err));
    return find_token(t, "\n", a, &out->newline, err);
}

/* The first `n` of a random order of the vocabulary; *at counts random numbers. */
static void draw_words(const zb_recall_pairs *p, int32_t *word, int total, int n, uint64_t *at) {
    for (int i = 0; i < n; i++) {
        int k = i + (int)zb_rng_below(p->seed, p->stream, (*at)++, (uint32_t)(total - i));
        int32_t other = word[i];
        word[i] = word[k];
        word[k] = other;
    }
}

/* Half of the pairs (rounded up), each set equally likely. */
static bool *draw_asked(const zb_recall_pairs *p, zb_arena *a, uint64_t *at) {
    bool *asked = ZB_NEW_ARRAY(a, bool, p->pairs);
    int left = (p->pairs + 1) / 2;
    for (int i = 0; i < p->pairs; i++) {
        asked[i] = (int)zb_rng_below(p->seed, p->stream, (*at)++, (uint32_t)(p->pairs - i)) < left;
        left -= asked[i];
    }
    return asked;
}

int zb_recall_pairs_least(int pairs, bool lines) { return pairs * (lines ? 4 : 2); }

/* A sequence that is being written. */
typedef struct sequence {
    const zb_recall_pairs *p;
    const zb_recall_vocab *v;
    const int32_t *filler; /* words that are neither key nor value */
    int n_filler;
    int32_t *ids;
    uint64_t at; /* random numbers used */
} sequence;

static int32_t any_word(sequence *s) {
    return s->filler[zb_rng_below(s->p->seed, s->p->stream, s->at++, (uint32_t)s->n_filler)];
}

/* A pair at ids[at ..]; returns the place behind it. */
static int put_pair(sequence *s, int at, int32_t key, int32_t value) {
    s->ids[at++] = key;
    if (s->p->lines) s->ids[at++] = s->v->colon;
    s->ids[at++] = value;
    if (s->p->lines) s->ids[at++] = s->v->newline;
    return at;
}

/* n tokens of filler at ids[at ..], in lines the last one ends a line. */
static void put_filler(sequence *s, int at, int n) {
    const zb_recall_pairs *p = s->p;
    if (p->text) {
        int from = (int)zb_rng_below(p->seed, p->stream, s->at++, (uint32_t)p->n_text);
        for (int i = 0; i < n; i++) s->ids[at + i] = p->text[(from + i) % p->n_text];
        if (n > 0 && p->lines) s->ids[at + n - 1] = s->v->newline;
        return;
    }
    int width = zb_recall_pairs_least(1, p->lines), end = at + n;
    for (int odd = n % width; odd > 0; odd--) s->ids[at++] = any_word(s);
    while (at < end) {
        int32_t key = any_word(s);
        at = put_pair(s, at, key, any_word(s));
    }
}

zb_status zb_recall_pairs_make(const zb_recall_pairs *p, const zb_recall_vocab *v, zb_arena *a,
                               zb_probe_request *out, zb_err *err) {
    ZB_ASSERT(p->pairs >= 1);
    int N = p->pairs, head = p->bos >= 0, own = zb_recall_pairs_least(N, p->lines);
    int n = head + p->distance + own, width = own / N;
    ZB_ASSERT(p->distance >= own);
    if (v->n < 2 * N + FILLER_MIN)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "associative: %d pairs need %d words of one token, the vocabulary has %d", N,
                       2 * N + FILLER_MIN, v->n);
    if (p->lines && (v->colon < 0 || v->newline < 0))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "associative: lines need a token for \":\" and one for a new line");
    int32_t *word = ZB_NEW_ARRAY(a, int32_t, v->n);
    int *place = ZB_NEW_ARRAY(a, int, N);
    sequence s = {.p = p, .v = v, .ids = ZB_NEW_ARRAY(a, int32_t, n)};
    memcpy(word, v->id, (size_t)v->n * sizeof *word);
    draw_words(p, word, v->n, 2 * N, &s.at); /* keys, then values; the rest is filler */
    s.filler = word + 2 * N;
    s.n_filler = v->n - 2 * N;
    const bool *asked = draw_asked(p, a, &s.at);
    *out = (zb_probe_request){
        .ids = s.ids, .n = n, .at = place, .candidate = word + N, .n_candidates = N};
    if (head) s.ids[0] = p->bos;
    for (int i = 0; i < N; i++) put_pair(&s, head + width * i, word[i], word[N + i]);
    put_filler(&s, head + own, p->distance - own);
    for (int i = 0; i < N; i++) {
        int again = head + p->distance + width * i;
        int32_t key = asked[i] ? word[i] : any_word(&s),
                value = asked[i] ? word[N + i] : any_word(&s);
        put_pair(&s, again, key, value);
        if (asked[i]) place[out->n_at++] = again + (p->lines ? 1 : 0); /* what the value follows */
    }
    out->out = ZB_NEW_ARRAY(a, zb_probe, out->n_at);
    return ZB_OK;
}
