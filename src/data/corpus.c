/* corpus.c - reading and packing (contract in corpus.h). */
#include "data/corpus.h"

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"

#include <string.h>
#include <sys/stat.h>

enum { LINE_MAX_BYTES = 64 << 20, ID_MAX = 1 << 24, EXPECTED_MAX = 1 << 30 };

typedef struct reader {
    zb_corpus *c;
    const zb_tokenizer *t;
    zb_arena *a;
    int32_t separator;
    int vocabulary;     /* 0: unknown */
    int64_t tokens_max; /* 0: all */
    size_t cap_tokens, cap_docs;
} reader;

int32_t zb_corpus_separator(const zb_tokenizer *t) {
    static const char *const names[] = {"<|endoftext|>", "<|end_of_text|>", "</s>"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int32_t id = zb_tokenizer_find(t, zb_str_from(names[i]));
        if (id >= 0) return id;
    }
    return zb_tokenizer_eos(t);
}

/* Room for n more tokens. What is ahead of the tokens is not cleared, so that the system need not
 * give it before it is used. */
static void reserve_tokens(reader *r, size_t n) {
    zb_corpus *c = r->c;
    size_t have = (size_t)c->n_tokens, cap = r->cap_tokens;
    if (have + n <= cap) return;
    cap = 2 * cap > have + n ? 2 * cap : have + n;
    int32_t *token = ZB_RAW_ARRAY(r->a, int32_t, cap);
    if (have) memcpy(token, c->token, have * sizeof *token);
    c->token = token;
    r->cap_tokens = cap;
}

/* first: a token before the ids, -1: none */
static void add_document(reader *r, int32_t first, const int32_t *ids, size_t n) {
    zb_corpus *c = r->c;
    bool sep = r->separator >= 0;
    bool begin = first >= 0;
    if (n == 0) return;
    reserve_tokens(r, begin + n + sep);
    c->doc = zb_grow(r->a, c->doc, &r->cap_docs, (size_t)c->n_docs + 2, sizeof *c->doc);
    if (begin) c->token[c->n_tokens++] = first;
    memcpy(c->token + c->n_tokens, ids, n * sizeof *ids);
    c->n_tokens += (int64_t)n;
    if (sep) c->token[c->n_tokens++] = r->separator;
    c->doc[++c->n_docs] = c->n_tokens;
}

/* The tokens from `first` on, of the document at `where`. */
static zb_status check_ids(const reader *r, int64_t first, const char *where, zb_err *err) {
    for (int64_t i = first; r->vocabulary > 0 && i < r->c->n_tokens; i++)
        if (r->c->token[i] >= r->vocabulary)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: expected token ids below %d, the size of the model's vocabulary, "
                           "found %d",
                           where, r->vocabulary, (int)r->c->token[i]);
    return ZB_OK;
}

static zb_status add_text(reader *r, zb_str text, const char *where, zb_err *err) {
    zb_arena scratch = {0};
    zb_ids ids;
    int64_t first = r->c->n_tokens;
    zb_status s = zb_tokenizer_encode(r->t, text, false, false, &scratch, &ids, err);
    if (s == ZB_OK) add_document(r, r->c->bos, ids.id, ids.n);
    zb_arena_free(&scratch);
    return s == ZB_OK ? check_ids(r, first, where, err) : s;
}

bool zb_corpus_id(const json_t *v, int32_t *id) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= ID_MAX)
        return false;
    *id = (int32_t)json_integer_value(v);
    return true;
}

static zb_status add_ids(reader *r, const json_t *list, const char *where, zb_err *err) {
    zb_arena scratch = {0};
    size_t n = json_array_size(list);
    int32_t *ids = ZB_NEW_ARRAY(&scratch, int32_t, n);
    int64_t first = r->c->n_tokens;
    zb_status s = ZB_OK;
    for (size_t i = 0; i < n && s == ZB_OK; i++) {
        json_t *v = json_array_get(list, i);
        if (!zb_corpus_id(v, &ids[i]))
            s = zb_fail(err, ZB_ERR_FORMAT, "%s: input_ids[%zu]: expected a token id, found %s",
                        where, i, zb_json_type(v));
    }
    if (s == ZB_OK) add_document(r, -1, ids, n);
    zb_arena_free(&scratch);
    return s == ZB_OK ? check_ids(r, first, where, err) : s;
}

static zb_status add_line(void *user, json_t *o, const char *where, bool *enough, zb_err *err) {
    reader *r = user;
    json_t *ids = json_object_get(o, "input_ids"), *text = json_object_get(o, "text");
    if (json_is_array(ids)) {
        ZB_TRY(add_ids(r, ids, where, err));
    } else if (json_is_string(text)) {
        if (!r->t)
            return zb_fail(err, ZB_ERR_CONFIG, "%s: text needs a model with a tokenizer", where);
        ZB_TRY(
            add_text(r, (zb_str){json_string_value(text), json_string_length(text)}, where, err));
    } else {
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object with \"text\" or \"input_ids\"",
                       where);
    }
    *enough = r->tokens_max > 0 && r->c->n_tokens >= r->tokens_max;
    return ZB_OK;
}

static zb_status read_plain(reader *r, const char *path, zb_err *err) {
    zb_arena scratch = {0};
    zb_str text;
    zb_status s = zb_file_read(path, (size_t)1 << 30, &scratch, &text, err);
    if (s == ZB_OK)
        s = r->t ? add_text(r, text, path, err)
                 : zb_fail(err, ZB_ERR_CONFIG, "%s: text needs a model with a tokenizer", path);
    zb_arena_free(&scratch);
    return s;
}

/* A text has some four bytes a token: room for all of them at once, since an array that grows
 * leaves its smaller ones in the arena, together up to twice the tokens. */
static size_t tokens_expected(const char *path, int64_t tokens_max) {
    struct stat s;
    int64_t n = stat(path, &s) == 0 ? (int64_t)s.st_size / 3 : 0;
    if (n > EXPECTED_MAX) n = EXPECTED_MAX;
    return (size_t)(tokens_max > 0 && n > tokens_max ? tokens_max : n);
}

zb_status zb_corpus_read(zb_corpus *c, const char *path, const zb_tokenizer *t, int vocabulary,
                         int64_t tokens_max, zb_arena *a, zb_err *err) {
    *c = (zb_corpus){.bos = t && zb_tokenizer_adds_bos(t) ? zb_tokenizer_bos(t) : -1};
    reader r = {.c = c,
                .t = t,
                .a = a,
                .vocabulary = vocabulary,
                .tokens_max = tokens_max,
                .separator = t ? zb_corpus_separator(t) : -1};
    c->doc = zb_grow(a, NULL, &r.cap_docs, 2, sizeof *c->doc);
    reserve_tokens(&r, tokens_expected(path, tokens_max));
    zb_str name = zb_str_from(path);
    ZB_TRY(zb_str_ends(name, ZB_STR(".txt"))
               ? read_plain(&r, path, err)
               : zb_json_lines(path, LINE_MAX_BYTES, add_line, &r, err));
    if (tokens_max > 0 && c->n_tokens > tokens_max) { /* cut the last document */
        c->n_tokens = tokens_max;
        c->doc[c->n_docs] = tokens_max;
    }
    if (c->n_tokens == 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected at least one document, found none", path);
    return ZB_OK;
}

zb_status zb_corpus_keep_long(zb_corpus *c, const char *path, int64_t shortest, zb_err *err) {
    int64_t docs = 0, at = 0, longest = 0;
    for (int64_t i = 0; i < c->n_docs; i++) {
        int64_t first = c->doc[i], n = c->doc[i + 1] - first;
        if (n > longest) longest = n;
        if (n < shortest) continue;
        memmove(c->token + at, c->token + first, (size_t)n * sizeof *c->token);
        c->doc[docs++] = at;
        at += n;
    }
    if (docs == 0)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: expected documents of at least %lld tokens, found none longer than "
                       "%lld",
                       path, (long long)shortest, (long long)longest);
    c->doc[docs] = c->n_tokens = at;
    c->n_docs = docs;
    return ZB_OK;
}

zb_status zb_packer_init(zb_packer *p, const zb_corpus *c, int length, bool shuffle, uint64_t seed,
                         zb_arena *a, zb_err *err) {
    *p = (zb_packer){.corpus = c,
                     .seed = seed,
                     .length = length,
                     .shuffle = shuffle,
                     .rows = c->n_tokens / length,
                     .epoch = -1};
    if (p->rows == 0)
        return zb_fail(err, ZB_ERR_CONFIG, "the text has %lld tokens, less than one sequence of %d",
                       (long long)c->n_tokens, length);
    p->order = ZB_NEW_ARRAY(a, int64_t, c->n_docs);
    p->start = ZB_NEW_ARRAY(a, int64_t, c->n_docs + 1);
    return ZB_OK;
}

static void lay_out(zb_packer *p, int64_t epoch) {
    const zb_corpus *c = p->corpus;
    if (p->epoch == epoch) return;
    for (int64_t i = 0; i < c->n_docs; i++) p->order[i] = i;
    if (p->shuffle) zb_rng_permute(p->seed, ZB_RNG_DATA, (uint64_t)epoch, c->n_docs, p->order);
    for (int64_t i = 0; i < c->n_docs; i++)
        p->start[i + 1] = p->start[i] + c->doc[p->order[i] + 1] - c->doc[p->order[i]];
    p->epoch = epoch;
}

/* Position in the epoch's order of the document that holds stream position `at`. */
static int64_t document_at(const zb_packer *p, int64_t at) {
    int64_t lo = 0, hi = p->corpus->n_docs - 1;
    while (lo < hi) {
        int64_t mid = (lo + hi + 1) / 2;
        if (p->start[mid] <= at)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

zb_batch zb_packer_batch(zb_packer *p, int64_t first, int n, zb_arena *a) {
    int32_t *ids = ZB_NEW_ARRAY(a, int32_t, (size_t)n * p->length);
    zb_span *span = NULL;
    size_t cap = 0;
    int n_spans = 0, at = 0;
    for (int64_t r = first; r < first + n; r++) {
        lay_out(p, r / p->rows);
        int64_t pos = r % p->rows * p->length, end = pos + p->length;
        for (int64_t d = document_at(p, pos); pos < end; d += pos == p->start[d + 1]) {
            int64_t doc = p->order[d], within = pos - p->start[d];
            int64_t have = p->start[d + 1] - pos, take = have < end - pos ? have : end - pos;
            if (p->longest > 0 && take > p->longest) take = p->longest;
            memcpy(ids + at, p->corpus->token + p->corpus->doc[doc] + within,
                   (size_t)take * sizeof *ids);
            span = zb_grow(a, span, &cap, (size_t)n_spans + 1, sizeof *span);
            span[n_spans++] = (zb_span){.start = at, .n = (int)take};
            at += (int)take;
            pos += take;
        }
    }
    return (zb_batch){ids, at, span, n_spans};
}
