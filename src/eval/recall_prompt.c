/* recall_prompt.c - prompts of recall tests (contract in recall_prompt.h).
 *
 * After RULER (Hsieh et al. 2024; scripts/data/synthetic/{niah,variable_tracking}.py). Needles:
 * keys and values are drawn, the sentences shuffled, and put between the lines of a noise or the
 * sentences of a text of which the first `units` words are taken. Where one value is asked for it
 * can be put at a chosen depth: in front of sentence int(sentences * depth / 100). All other places
 * are uniform. Chain: X1 = number, X2 = X1, ... in order among the lines; in front a solved example
 * with shorter names.
 *
 * Differences from RULER: other random numbers (so other samples of the same kind), own word lists,
 * sentences end where a word ends in . ? or !, and any text instead of the essays.
 *
 * The number of tokens grows with the units, but for a merge or two at the edges, so the size is
 * found by doubling and halving; the size taken was itself measured. */
#include "eval/recall_prompt.h"

#include "base/rng.h"

#include <string.h>

enum { DRAWS_MAX = 1000, PROMPT_BYTES = 1 << 26, NAME = 5, EXAMPLE_NAME = 3, UUID = 37 };

/* Random numbers in the order in which they are asked for. */
typedef struct draws {
    uint64_t seed, stream, at;
} draws;

static uint32_t below(draws *d, uint32_t n) { return zb_rng_below(d->seed, d->stream, d->at++, n); }

uint64_t zb_recall_stream(const char *test, int length, int depth, int sample) {
    char text[160];
    snprintf(text, sizeof text, "%s/%d/%d/%d", test, length, depth, sample);
    uint64_t h = 14695981039346656037u; /* FNV-1a */
    for (const char *c = text; *c; c++) h = (h ^ (unsigned char)*c) * 1099511628211u;
    return h;
}

zb_status zb_recall_text_split(zb_str text, const char *path, zb_arena *a, zb_recall_source *out,
                               zb_err *err) {
    zb_str *word = NULL;
    size_t n = 0, cap = 0, start = 0;
    bool inside = false;
    for (size_t i = 0; i <= text.n;) {
        uint32_t c = ' ';
        size_t step = i < text.n ? zb_utf8_decode(text.p + i, text.n - i, &c) : 1;
        if (step == 0)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: byte %zu: expected UTF-8 text", path, i);
        bool space = zb_text_is_space(c);
        if (space && inside) {
            word = zb_grow(a, word, &cap, n + 1, sizeof *word);
            word[n++] = (zb_str){text.p + start, i - start};
        }
        if (!space && !inside) start = i;
        inside = !space;
        i += step;
    }
    if (n == 0) return zb_fail(err, ZB_ERR_FORMAT, "%s: expected a text, found no words", path);
    out->text = word;
    out->n_text = n;
    return ZB_OK;
}

static const char *random_text(const char *form, const zb_recall_words *w, draws *d, zb_arena *a) {
    if (!strcmp(form, "words"))
        return zb_asprintf(a, "%s-%s", w->adjective[below(d, (uint32_t)w->n_adjectives)],
                           w->noun[below(d, (uint32_t)w->n_nouns)]);
    if (!strcmp(form, "numbers")) return zb_asprintf(a, "%u", 1000000 + below(d, 9000000));
    uint32_t u[4];
    for (int i = 0; i < 4; i++) u[i] = zb_rng_u32(d->seed, d->stream, d->at++);
    return zb_asprintf(a, "%08x-%04x-4%03x-%04x-%04x%08x", u[0], u[1] >> 16, u[1] & 0xfff,
                       (u[2] >> 16 & 0x3fff) | 0x8000, u[2] & 0xffff, u[3]); /* version 4 */
}

/* Another text than those of `used`; false: the form has too few. */
static bool fresh_text(const char *form, const zb_recall_words *w, draws *d, const char **used,
                       int n, zb_arena *a, const char **out) {
    for (int tries = 0; tries < DRAWS_MAX; tries++) {
        bool taken = false;
        *out = random_text(form, w, d, a);
        for (int i = 0; i < n; i++) taken |= !strcmp(used[i], *out);
        if (!taken) return true;
    }
    return false;
}

static zb_status render(const zb_template *t, const char *where, json_t *row, zb_arena *a,
                        zb_str *out, zb_err *err) {
    zb_status s = row ? zb_template_render(t, row, where, a, out, err)
                      : zb_fail(err, ZB_ERR_FORMAT, "%s: a prompt is not valid UTF-8", where);
    json_decref(row);
    return s;
}

/* ---- needles ---- */

typedef struct needle {
    zb_str text;
    const char *value;
    double place; /* share of the haystack before it */
    bool wanted;
} needle;

/* A prompt with needles that is being written. */
typedef struct hiding {
    const zb_recall_task *t;
    const zb_recall_source *s;
    const zb_recall_place *p;
    int units;
    zb_arena *a;
    zb_err *err;
    draws d;
    needle x[ZB_RECALL_NEEDLES_MAX]; /* [n] */
    int n;
    const char *query; /* the wanted keys */
    zb_buf context;
} hiding;

/* The keys that are asked for, "A, B, and C"; wanted[k] says which they are. */
static void draw_query(hiding *h, const char *const *key, bool *wanted) {
    h->query = "";
    for (int left = (int)h->t->queries, named = 0; left > 0;) {
        uint32_t k = below(&h->d, (uint32_t)h->t->keys);
        if (wanted[k]) continue;
        wanted[k] = true;
        left--;
        const char *join = named++ == 0 ? "" : left == 0 ? ", and " : ", ";
        h->query = zb_asprintf(h->a, "%s%s%s", h->query, join, key[k]);
    }
}

/* Draws keys, values and places; the needles come in shuffled order. */
static zb_status draw_needles(hiding *h) {
    const zb_recall_task *t = h->t;
    const char *key[ZB_RECALL_NEEDLES_MAX] = {0}, *value[ZB_RECALL_NEEDLES_MAX] = {0};
    bool wanted[ZB_RECALL_NEEDLES_MAX] = {0};
    int values = (int)t->values;
    for (int i = 0; i < h->n; i++) {
        int k = i / values;
        if (i % values == 0 && !fresh_text(t->key, h->s->words, &h->d, key, k, h->a, &key[k]))
            return zb_fail(h->err, ZB_ERR_CONFIG, "%s: too few different keys", t->file);
        if (!fresh_text(t->value, h->s->words, &h->d, value, i, h->a, &value[i]))
            return zb_fail(h->err, ZB_ERR_CONFIG, "%s: too few different values", t->file);
    }
    draw_query(h, key, wanted);
    for (int i = 0; i < h->n; i++) {
        int at = (int)below(&h->d, (uint32_t)i + 1); /* shuffled as they come */
        h->x[i] = h->x[at];
        h->x[at] = (needle){.value = value[i], .wanted = wanted[i / values]};
        ZB_TRY(render(&t->needle, t->file,
                      json_pack("{s:s,s:s}", "key", key[i / values], "value", value[i]), h->a,
                      &h->x[at].text, h->err));
    }
    for (int i = 0; i < h->n; i++) {
        h->x[i].place = zb_rng_uniform(h->d.seed, h->d.stream, h->d.at++);
        if (h->x[i].wanted && h->p->depth >= 0) h->x[i].place = h->p->depth / 100.0;
    }
    return ZB_OK;
}

/* Smallest place first; equal ones keep their order. */
static void sort_needles(needle *x, int n) {
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && x[k].place < x[k - 1].place; k--) {
            needle other = x[k];
            x[k] = x[k - 1];
            x[k - 1] = other;
        }
}

/* Whether a sentence ends with this word: . ? or !, behind which may stand quotes and brackets. */
static bool ends_sentence(zb_str w) {
    while (w.n > 0 && strchr("\"')]", w.p[w.n - 1])) w.n--;
    return w.n > 0 && strchr(".?!", w.p[w.n - 1]);
}

/* Starts of the sentences of the first `units` words, and `units` behind them. */
static int *sentence_starts(const zb_recall_source *s, int units, zb_arena *a, int *n) {
    int *start = ZB_NEW_ARRAY(a, int, units + 1);
    *n = 0;
    for (int i = 0; i < units; i++)
        if (i == 0 || ends_sentence(s->text[(size_t)(i - 1) % s->n_text])) start[(*n)++] = i;
    start[*n] = units;
    return start;
}

/* Appends text to the context, behind `join` unless it is the first. */
static void put_piece(hiding *h, zb_str text, char join) {
    if (h->context.n) zb_buf_addc(&h->context, join);
    zb_buf_add(&h->context, text.p, text.n);
}

/* Appends the needles from *next on that belong in front of part k of n. */
static void put_needles(hiding *h, int *next, int k, int n, char join) {
    for (; *next < h->n && (k == n || (int)(n * h->x[*next].place) <= k); ++*next)
        put_piece(h, h->x[*next].text, join);
}

static void fill_text(hiding *h) {
    int sentences, next = 0, k = 0;
    const int *start = sentence_starts(h->s, h->units, h->a, &sentences);
    for (int i = 0; i <= h->units; i++) {
        if (k <= sentences && i == start[k]) put_needles(h, &next, k++, sentences, ' ');
        if (i < h->units) put_piece(h, h->s->text[(size_t)i % h->s->n_text], ' ');
    }
}

static zb_status fill_lines(hiding *h) {
    const zb_recall_task *t = h->t;
    zb_str line = zb_str_from(t->noise ? t->noise : "");
    int next = 0;
    for (int i = 0; i <= h->units; i++) {
        put_needles(h, &next, i, h->units, '\n');
        if (i == h->units) break;
        if (!strcmp(t->haystack, "needles")) { /* in this order: arguments have none */
            const char *key = random_text(t->key, h->s->words, &h->d, h->a);
            const char *value = random_text(t->value, h->s->words, &h->d, h->a);
            ZB_TRY(render(&t->needle, t->file, json_pack("{s:s,s:s}", "key", key, "value", value),
                          h->a, &line, h->err));
        }
        put_piece(h, line, '\n');
    }
    return ZB_OK;
}

/* The expected values, as a list and as the text of an answer. */
static void set_answer(const zb_recall_task *t, const char **value, int n, zb_arena *a,
                       zb_recall_prompt *out) {
    const char *text = t->lead;
    for (int i = 0; i < n; i++) text = zb_asprintf(a, "%s%s%s", text, i ? t->join : "", value[i]);
    out->expected = value;
    out->n_expected = n;
    out->answer = zb_str_from(text);
}

static zb_status write_needles(hiding *h, zb_recall_prompt *out) {
    const zb_recall_task *t = h->t;
    ZB_TRY(draw_needles(h));
    sort_needles(h->x, h->n);
    if (!strcmp(t->haystack, "text"))
        fill_text(h);
    else
        ZB_TRY(fill_lines(h));
    if (h->context.overflow)
        return zb_fail(h->err, ZB_ERR_CONFIG, "%s: the prompt is too long", t->file);
    const char **value = ZB_NEW_ARRAY(h->a, const char *, h->n);
    int k = 0;
    for (int i = 0; i < h->n; i++)
        if (h->x[i].wanted) value[k++] = h->x[i].value;
    set_answer(t, value, k, h->a, out);
    zb_str context = zb_buf_str(&h->context);
    ZB_TRY(render(&t->prompt, t->file,
                  json_pack("{s:s%,s:s}", "context", context.p, context.n, "query", h->query), h->a,
                  &out->question, h->err));
    return render(&t->answer, t->file, json_pack("{s:s,s:i}", "query", h->query, "count", k), h->a,
                  &out->prefix, h->err);
}

/* ---- chains ---- */

/* Names X1 .. Xn of `letters` capitals, all different. */
static const char **draw_names(draws *d, int n, int letters, zb_arena *a) {
    const char **name = ZB_NEW_ARRAY(a, const char *, n);
    for (int i = 0; i < n;) {
        char text[NAME + 1] = {0};
        bool taken = false;
        for (int k = 0; k < letters; k++) text[k] = (char)('A' + below(d, 26));
        for (int k = 0; k < i; k++) taken |= !strcmp(name[k], text);
        if (!taken) name[i++] = zb_strdup(a, text);
    }
    return name;
}

static void sort_doubles(double *x, int n) {
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && x[k] < x[k - 1]; k--) {
            double other = x[k];
            x[k] = x[k - 1];
            x[k - 1] = other;
        }
}

/* One chain in `units` lines of noise: question and prefix in `out`. */
static zb_status write_chain(const zb_recall_task *t, draws *d, int letters, int units, zb_arena *a,
                             zb_recall_prompt *out, zb_err *err) {
    int n = (int)t->hops + 1, next = 0;
    double place[ZB_RECALL_NEEDLES_MAX];
    const char **name = draw_names(d, n, letters, a);
    char value[16];
    snprintf(value, sizeof value, "%u", 10000 + below(d, 89999));
    for (int i = 0; i < n; i++) place[i] = zb_rng_uniform(d->seed, d->stream, d->at++);
    sort_doubles(place, n);
    zb_buf text;
    zb_buf_init(&text, PROMPT_BYTES);
    for (int i = 0; i <= units; i++) {
        for (; next < n && (i == units || (int)(units * place[next]) <= i); next++) {
            if (text.n) zb_buf_addc(&text, ' ');
            zb_buf_addf(&text, next ? "VAR %s = VAR %s " : "VAR %s = %s", name[next],
                        next ? name[next - 1] : value);
        }
        if (i < units) zb_buf_addf(&text, "%s%s\n", text.n ? " " : "", t->noise);
    }
    set_answer(t, name, n, a, out);
    zb_status s = text.overflow ? zb_fail(err, ZB_ERR_CONFIG, "%s: the prompt is too long", t->file)
                                : render(&t->prompt, t->file,
                                         json_pack("{s:s%,s:s}", "context", text.p ? text.p : "",
                                                   text.n, "query", value),
                                         a, &out->question, err);
    zb_buf_free(&text);
    ZB_TRY(s);
    return render(&t->answer, t->file, json_pack("{s:s,s:i}", "query", value, "count", n), a,
                  &out->prefix, err);
}

/* The solved example as text, empty where there is none. */
static zb_status write_example(const zb_recall_task *t, const zb_recall_place *p, zb_arena *a,
                               const char **out, zb_err *err) {
    *out = "";
    if (p->example_units < 0) return ZB_OK;
    zb_recall_prompt e = {0};
    draws d = {p->seed, p->stream, (uint64_t)1 << 32}; /* far from those of the question */
    ZB_TRY(write_chain(t, &d, EXAMPLE_NAME, p->example_units, a, &e, err));
    *out = zb_asprintf(a, "%.*s %.*s%.*s\n\n\n\n", (int)e.question.n, e.question.p, (int)e.prefix.n,
                       e.prefix.p, (int)e.answer.n, e.answer.p);
    return ZB_OK;
}

static zb_status write_chains(const zb_recall_task *t, const zb_recall_place *p, int units,
                              zb_arena *a, zb_recall_prompt *out, zb_err *err) {
    draws d = {p->seed, p->stream, 0};
    const char *example;
    ZB_TRY(write_example(t, p, a, &example, err));
    ZB_TRY(write_chain(t, &d, NAME, units, a, out, err));
    out->question =
        zb_str_from(zb_asprintf(a, "%s%.*s", example, (int)out->question.n, out->question.p));
    return ZB_OK;
}

zb_status zb_recall_prompt_write(const zb_recall_task *t, const zb_recall_source *s,
                                 const zb_recall_place *p, int units, zb_arena *a,
                                 zb_recall_prompt *out, zb_err *err) {
    ZB_ASSERT(units >= 0);
    *out = (zb_recall_prompt){.units = units};
    if (!strcmp(t->kind, "chain")) return write_chains(t, p, units, a, out, err);
    hiding h = {.t = t,
                .s = s,
                .p = p,
                .units = units,
                .a = a,
                .err = err,
                .d = {p->seed, p->stream, 0},
                .n = (int)(t->keys * t->values)};
    zb_buf_init(&h.context, PROMPT_BYTES);
    zb_status st = write_needles(&h, out);
    zb_buf_free(&h.context);
    return st;
}

/* ---- length ---- */

/* The text before the answer's values, as the model reads it. */
static zb_status whole_context(const zb_recall_reader *r, const zb_recall_prompt *p, zb_arena *a,
                               zb_str *out, zb_err *err) {
    zb_str text;
    zb_turn turn = {.role = "user", .text = p->question, .delimiter = " "};
    ZB_TRY(zb_prompt_write(&r->style, &turn, 1, a, &text, err));
    *out =
        zb_str_from(zb_asprintf(a, "%.*s%.*s", (int)text.n, text.p, (int)p->prefix.n, p->prefix.p));
    return ZB_OK;
}

/* Writes the prompt of so many units and its ids; the arena is the reader's. */
static zb_status measure(const zb_recall_task *t, const zb_recall_source *s,
                         const zb_recall_place *p, zb_recall_reader *r, int units,
                         zb_recall_prompt *out, zb_err *err) {
    zb_arena *a = r->maker.arena;
    zb_str context;
    zb_loglik_request q;
    ZB_TRY(zb_recall_prompt_write(t, s, p, units, a, out, err));
    ZB_TRY(whole_context(r, out, a, &context, err));
    r->maker.max_length = INT32_MAX - 1;
    r->maker.context = (zb_str){0}; /* memory of the last one may be gone */
    ZB_TRY(zb_request_make(&r->maker, context, out->answer, t->file, &q, err));
    out->ids = (zb_ids){(int32_t *)q.context, (size_t)q.n_context};
    out->tail = (zb_ids){(int32_t *)q.continuation, (size_t)q.n_continuation};
    return ZB_OK;
}

/* Tokens of a prompt; nothing stays in the arena. */
static zb_status tokens_of(const zb_recall_task *t, const zb_recall_source *s,
                           const zb_recall_place *p, zb_recall_reader *r, int units, int64_t *n,
                           zb_err *err) {
    zb_mark mark = zb_arena_mark(r->maker.arena);
    zb_recall_prompt q;
    zb_status st = measure(t, s, p, r, units, &q, err);
    if (st == ZB_OK) {
        int64_t answer = q.tail.n > (size_t)t->max_tokens ? (int64_t)q.tail.n : t->max_tokens;
        *n = (int64_t)q.ids.n + answer;
    }
    zb_arena_pop(r->maker.arena, mark);
    return st;
}

zb_status zb_recall_fit(const zb_recall_task *t, const zb_recall_source *s,
                        const zb_recall_place *p, zb_recall_reader *r, int length,
                        zb_recall_prompt *out, zb_err *err) {
    int good = 1, bad = 8;
    int64_t n;
    ZB_TRY(tokens_of(t, s, p, r, good, &n, err));
    if (n > length)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: lengths: the shortest prompt and answer take %lld tokens, found %d",
                       t->name, (long long)n, length);
    for (;; bad *= 2) {
        ZB_TRY(tokens_of(t, s, p, r, bad, &n, err));
        if (n > length) break;
        good = bad;
    }
    while (bad - good > 1) {
        int middle = good + (bad - good) / 2;
        ZB_TRY(tokens_of(t, s, p, r, middle, &n, err));
        *(n > length ? &bad : &good) = middle;
    }
    return measure(t, s, p, r, good, out, err);
}

zb_status zb_recall_fit_example(const zb_recall_task *t, zb_recall_reader *r, int length,
                                int *units, zb_err *err) {
    *units = -1;
    if (t->example == 0) return ZB_OK;
    int64_t most = t->example < length / 4 ? t->example : length / 4;
    zb_recall_place p = {.stream = zb_recall_stream(t->name, 0, 0, 0), .depth = -1};
    for (p.example_units = 0;; p.example_units++) {
        zb_mark mark = zb_arena_mark(r->maker.arena);
        const char *text;
        zb_ids ids = {0};
        zb_status s = write_example(t, &p, r->maker.arena, &text, err);
        if (s == ZB_OK)
            s = zb_tokenizer_encode(r->maker.tokenizer, zb_str_from(text), false, false,
                                    r->maker.arena, &ids, err);
        zb_arena_pop(r->maker.arena, mark);
        ZB_TRY(s);
        if ((int64_t)ids.n > most) break;
        *units = p.example_units;
    }
    if (*units < 0) *units = 0; /* the shortest example there is */
    return ZB_OK;
}

static bool occurs(const char *what, zb_str text) {
    size_t n = strlen(what);
    for (size_t i = 0; i + n <= text.n; i++)
        if (!strncasecmp(text.p + i, what, n)) return true;
    return false;
}

double zb_recall_score(const char *const *expected, int n, zb_str reply) {
    int found = 0;
    for (int i = 0; i < n; i++) found += occurs(expected[i], reply);
    return (double)found / n;
}
