/* recall.c - recall tests from options to cells (contract in recall.h).
 *
 * The prompts of a test stand in the order length, depth, sample: what they have in common, from
 * their beginning to the shallowest needle still to come, grows along that order, and the scorer
 * passes it once. A text ends as soon as all expected strings stand in it, since no later token can
 * change its score. */
#include "eval/recall.h"

#include "base/file.h"
#include "base/log.h"
#include "base/output.h"
#include "eval/recall_pairs.h"
#include "eval/recall_prompt.h"

#include <math.h>
#include <string.h>

enum {
    LENGTH_MIN = 64,
    LENGTH_MAX = 1 << 20,
    LIST_MAX = 64,
    HAYSTACK_MAX = 1 << 28,
    TEXT_MAX = 1 << 26,
};

#define FIELD(name) offsetof(zb_recall_opts, name)
const zb_opt zb_recall_opt_table[] = {
    {ZB_OPT_STR, "tests", 't', FIELD(tests),
     "niah_single_1,niah_single_2,niah_multikey_1,niah_multivalue,ruler_vt,associative", 0, 0, NULL,
     "tests, separated by commas"},
    {ZB_OPT_STR, "lengths", 0, FIELD(lengths), "512,1024,2048", 0, 0, NULL,
     "tokens of prompt and answer"},
    {ZB_OPT_STR, "depths", 0, FIELD(depths), "0,25,50,75,100", 0, 0, NULL,
     "percent of the text before the needle; random: drawn, as RULER does"},
    {ZB_OPT_INT, "samples", 'n', FIELD(samples), "10", 1, 100000, NULL,
     "prompts of each length and depth, sequences of each distance"},
    {ZB_OPT_INT, "seed", 0, FIELD(seed), "42", 0, 9e15, NULL, "of all prompts"},
    {ZB_OPT_BOOL, "generate", 0, FIELD(generate), "true", 0, 0, NULL,
     "write answers; without, only the right answer's log-probability is measured"},
    {ZB_OPT_BOOL, "apply_chat_template", 0, FIELD(apply_chat_template), NULL, 0, 0, NULL,
     "write prompts in the model's chat form"},
    {ZB_OPT_CHOICE, "add_bos", 0, FIELD(add_bos), "auto", 0, 0, "auto|on|off",
     "begin each text with BOS; auto: as the tokenizer says"},
    {ZB_OPT_STR, "haystack", 0, FIELD(haystack), "data/text/valid.txt", 0, 0, NULL,
     "text that sentences are hidden in: one the model was not trained on"},
    {ZB_OPT_STR, "pairs", 0, FIELD(pairs), "8,64", 0, 0, NULL,
     "associative: pairs of words in a sequence"},
    {ZB_OPT_STR, "distances", 0, FIELD(distances), "128,256,512,1024,2048", 0, 0, NULL,
     "associative: tokens from a key to its query"},
    {ZB_OPT_INT, "window", 0, FIELD(window), "0", 0, LENGTH_MAX, NULL,
     "associative: distances of 0.5, 1, 2, 4 and 8 times this (0: as given)"},
    {ZB_OPT_CHOICE, "pair_form", 0, FIELD(pair_form), "lines", 0, 0, "lines|plain",
     "associative: a pair is \" key: value\" on a line, or \" key value\""},
    {ZB_OPT_CHOICE, "filler", 0, FIELD(filler), "text", 0, 0, "text|words",
     "associative: between pairs and queries stands running text, or random words"},
    {ZB_OPT_STR, "tasks_dir", 0, FIELD(tasks_dir), "tasks/recall", 0, 0, NULL,
     "folder of the tests' files"},
    {ZB_OPT_STR, "output", 'o', FIELD(output), NULL, 0, 0, NULL, "file for the results as JSON"},
    {ZB_OPT_STR, "log_samples", 's', FIELD(log_samples), NULL, 0, 0, NULL,
     "folder for one file of prompts and answers per test"},
    {ZB_OPT_STR, "cache", 0, FIELD(cache), NULL, 0, 0, NULL,
     "folder of answers: interrupted tests resume from there"},
    {0},
};

typedef struct numbers {
    int v[LIST_MAX], n;
} numbers;

/* What all tests share. */
typedef struct work {
    const zb_recall_opts *o;
    const zb_tokenizer *tokenizer;
    const zb_scorer *scorer;
    zb_shard shard;
    zb_arena arena;
    zb_prompt_style style;
    int32_t bos;
    zb_recall_words words;
    zb_recall_source source;
    zb_ids filler;                             /* of associative recall: empty for random words */
    numbers lengths, depths, pairs, distances; /* depths empty: drawn */
    zb_recall_result *out;
} work;

/* Ascending numbers, at least one. */
static zb_status read_numbers(const char *list, const char *what, int low, int high, numbers *out,
                              zb_err *err) {
    ZB_TRY(zb_list_ints(list, what, low, high, out->v, LIST_MAX, &out->n, err));
    if (out->n == 0)
        return zb_fail(err, ZB_ERR_USAGE, "%s: expected numbers separated by commas, found none",
                       what);
    for (int i = 1; i < out->n; i++)
        if (out->v[i] <= out->v[i - 1])
            return zb_fail(err, ZB_ERR_USAGE, "%s: expected ascending numbers, found %d before %d",
                           what, out->v[i - 1], out->v[i]);
    return ZB_OK;
}

static zb_status read_sizes(work *w, zb_err *err) {
    const zb_recall_opts *o = w->o;
    ZB_TRY(read_numbers(o->lengths, "lengths", LENGTH_MIN, LENGTH_MAX, &w->lengths, err));
    if (!o->depths || strcmp(o->depths, "random") != 0)
        ZB_TRY(read_numbers(o->depths, "depths", 0, 100, &w->depths, err));
    ZB_TRY(read_numbers(o->pairs, "pairs", 1, LENGTH_MAX / 2, &w->pairs, err));
    if (o->window > 0) {
        static const double times[] = {0.5, 1, 2, 4, 8};
        for (int i = 0; i < 5; i++)
            w->distances.v[w->distances.n++] = (int)(times[i] * (double)o->window);
    } else {
        ZB_TRY(read_numbers(o->distances, "distances", 2, LENGTH_MAX, &w->distances, err));
    }
    return ZB_OK;
}

static zb_status read_options(work *w, zb_err *err) {
    const zb_recall_opts *o = w->o;
    ZB_TRY(read_sizes(w, err));
    int32_t bos = zb_tokenizer_bos(w->tokenizer);
    bool on = !strcmp(o->add_bos, "on");
    if (on && bos < 0)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "add_bos: expected auto or off, found \"on\": the tokenizer has no BOS");
    bool asked = on || (!strcmp(o->add_bos, "auto") && zb_tokenizer_adds_bos(w->tokenizer));
    w->bos = asked ? bos : -1;
    if (!o->apply_chat_template) return ZB_OK;
    return zb_prompt_style_chat(w->tokenizer, false, &w->arena, &w->style, err);
}

/* The text is read when the first test needs it. */
static zb_status need_text(work *w, zb_err *err) {
    zb_str text;
    if (w->source.text) return ZB_OK;
    if (!w->o->haystack || !*w->o->haystack)
        return zb_fail(err, ZB_ERR_USAGE, "haystack: expected a text file");
    ZB_TRY(zb_file_read(w->o->haystack, HAYSTACK_MAX, &w->arena, &text, err));
    return zb_recall_text_split(text, w->o->haystack, &w->arena, &w->source, err);
}

/* ---- questions ---- */

typedef struct item {
    zb_recall_prompt prompt;
    int length, depth, sample;
    zb_str reply;
    double score;
    zb_write_request *request;
    /* for the end of the text: */
    const zb_tokenizer *tokenizer;
    zb_buf *text;
} item;

static zb_status decode(item *x, const int32_t *ids, int n) {
    zb_buf_clear(x->text);
    return zb_tokenizer_decode(x->tokenizer, ids, (size_t)n, false, x->text, NULL);
}

static bool has_ended(void *user, const int32_t *ids, int n) {
    item *x = user;
    if (n > 0 && ids[n - 1] == zb_tokenizer_eos(x->tokenizer)) return true;
    if (decode(x, ids, n) != ZB_OK) return false;
    return zb_recall_score(x->prompt.expected, x->prompt.n_expected, zb_buf_str(x->text)) >= 1;
}

/* The prompts of one test, in the order of recall.c's essay. */
static zb_status make_items(work *w, const zb_recall_task *t, zb_arena *a, item **out, size_t *n,
                            zb_err *err) {
    static const numbers drawn = {.v = {-1}, .n = 1};
    const numbers *depths = zb_recall_task_has_depth(t) && w->depths.n ? &w->depths : &drawn;
    zb_recall_reader r = {
        .maker = {.tokenizer = w->tokenizer, .bos = w->bos, .prefix = -1, .arena = a},
        .style = w->style};
    int samples = (int)w->o->samples;
    *n = 0;
    *out = ZB_NEW_ARRAY(a, item, (size_t)w->lengths.n * (size_t)depths->n * (size_t)samples);
    for (int l = 0; l < w->lengths.n; l++) {
        zb_recall_place p = {.seed = (uint64_t)w->o->seed};
        ZB_TRY(zb_recall_fit_example(t, &r, w->lengths.v[l], &p.example_units, err));
        for (int d = 0; d < depths->n; d++)
            for (int i = 0; i < samples; i++) {
                item *x = &(*out)[(*n)++];
                *x = (item){.length = w->lengths.v[l], .depth = depths->v[d], .sample = i};
                p.depth = x->depth;
                p.stream = zb_recall_stream(t->name, x->length, x->depth, i);
                ZB_TRY(zb_recall_fit(t, &w->source, &p, &r, x->length, &x->prompt, err));
                if (zb_interrupted())
                    return zb_fail(err, ZB_ERR_INTERRUPTED, "%s: interrupted", t->name);
            }
    }
    return ZB_OK;
}

/* A text that ends inside a character reads as in eval.c. */
static void take_reply(item *x, zb_arena *a) {
    if (decode(x, x->request->ids, x->request->n_ids) != ZB_OK) return;
    zb_buf text;
    zb_buf_init(&text, 3 * x->text->n + 1);
    zb_utf8_lossy(&text, x->text->p, x->text->n);
    x->reply = (zb_str){zb_strndup(a, text.n ? text.p : "", text.n), text.n};
    x->score = zb_recall_score(x->prompt.expected, x->prompt.n_expected, x->reply);
    zb_buf_free(&text);
}

static zb_status ask(work *w, const zb_recall_task *t, item *x, size_t n, zb_arena *a,
                     zb_err *err) {
    zb_buf text;
    int max = w->o->generate ? (int)t->max_tokens : 0;
    zb_write_request *r = ZB_NEW_ARRAY(a, zb_write_request, n);
    zb_request_run run = {.scorer = w->scorer, .shard = &w->shard, .what = t->name, .arena = a};
    zb_buf_init(&text, TEXT_MAX);
    for (size_t i = 0; i < n; i++) {
        const zb_recall_prompt *p = &x[i].prompt;
        r[i] = (zb_write_request){.context = p->ids.id,
                                  .n_context = (int)p->ids.n,
                                  .max = max,
                                  .answer = p->tail.id,
                                  .n_answer = (int)p->tail.n,
                                  .stop = has_ended,
                                  .user = &x[i],
                                  .ids = ZB_NEW_ARRAY(a, int32_t, max + 1)};
        x[i].request = &r[i];
        x[i].tokenizer = w->tokenizer;
        x[i].text = &text;
    }
    zb_status s = ZB_OK;
    if (w->o->cache && *w->o->cache) {
        ZB_ASSERT(w->o->model_key);
        s = zb_cache_open(&run.cache, w->o->cache, w->o->model_key,
                          zb_asprintf(a, "recall-%s", t->name), w->shard.rank, err);
    }
    if (s == ZB_OK) s = zb_request_write(&run, r, n, ZB_STR("recall"), err);
    zb_cache_close(run.cache);
    for (size_t i = 0; i < n && s == ZB_OK && max > 0; i++) take_reply(&x[i], a);
    zb_buf_free(&text);
    return s;
}

/* ---- results ---- */

static double per_token(const item *x) {
    return x->request->answer_score.logprob / (double)x->prompt.tail.n;
}

/* Cells are runs of items with the same length and depth. */
static void add_cells(work *w, const zb_recall_task *t, const item *x, size_t n, zb_arena *a) {
    size_t count = (size_t)w->o->samples;
    double *score = ZB_NEW_ARRAY(a, double, count), *logprob = ZB_NEW_ARRAY(a, double, count),
           *greedy = ZB_NEW_ARRAY(a, double, count);
    for (size_t from = 0; from < n; from += count) {
        zb_recall_cell c = {.test = t->name,
                            .length = x[from].length,
                            .depth = x[from].depth,
                            .n = (int)count,
                            .score = {(double)NAN, (double)NAN}};
        for (size_t i = 0; i < count; i++) {
            const item *y = &x[from + i];
            score[i] = y->score;
            logprob[i] = per_token(y);
            greedy[i] = y->request->answer_score.greedy ? 1 : 0;
            int64_t answer = (int64_t)y->prompt.tail.n > t->max_tokens ? (int64_t)y->prompt.tail.n
                                                                       : t->max_tokens;
            c.tokens += (double)((int64_t)y->prompt.ids.n + answer) / (double)count;
        }
        if (w->o->generate) c.score = zb_metric_mean(score, (int64_t)count);
        c.logprob = zb_metric_mean(logprob, (int64_t)count);
        c.greedy = zb_metric_mean(greedy, (int64_t)count);
        zb_recall_add(w->out, &c);
    }
}

static json_t *text_json(zb_str s) { return json_stringn(s.n ? s.p : "", s.n); }

static json_t *item_json(const work *w, const item *x, size_t id) {
    json_t *o = json_pack("{s:I,s:i,s:i}", "doc_id", (json_int_t)id, "max_length", x->length,
                          "index", x->sample);
    json_t *expected = json_array();
    for (int i = 0; i < x->prompt.n_expected; i++)
        json_array_append_new(expected, json_string(x->prompt.expected[i]));
    json_object_set_new(o, "depth", x->depth < 0 ? json_null() : json_integer(x->depth));
    json_object_set_new(o, "input", text_json(x->prompt.question));
    json_object_set_new(o, "gen_prefix", text_json(x->prompt.prefix));
    json_object_set_new(o, "outputs", expected);
    json_object_set_new(o, "prompt_tokens", json_integer((json_int_t)x->prompt.ids.n));
    json_object_set_new(o, "haystack_units", json_integer(x->prompt.units));
    json_object_set_new(o, "answer", text_json(x->prompt.answer));
    json_object_set_new(o, "answer_tokens", json_integer((json_int_t)x->prompt.tail.n));
    json_object_set_new(o, "answer_logprob", json_real(x->request->answer_score.logprob));
    json_object_set_new(o, "answer_greedy", json_boolean(x->request->answer_score.greedy));
    if (!w->o->generate) return o;
    json_object_set_new(o, "resp", text_json(x->reply));
    json_object_set_new(o, "score", json_real(x->score));
    return o;
}

static zb_status samples_open(const work *w, const char *test, zb_arena *a, zb_writer *out,
                              zb_err *err) {
    ZB_TRY(zb_dir_make(w->o->log_samples, err));
    return zb_writer_open(
        out, zb_path_join(a, w->o->log_samples, zb_asprintf(a, "samples_%s.jsonl", test)), a, err);
}

/* Steals the object. */
static zb_status add_line(zb_writer *f, json_t *o, zb_err *err) {
    zb_arena a = {0};
    char *line = zb_json_text(o, &a);
    json_decref(o);
    zb_status s = line ? zb_writer_add(f, line, strlen(line), err)
                       : zb_fail(err, ZB_ERR_FORMAT, "%s: a sample is not valid UTF-8", f->path);
    if (s == ZB_OK) s = zb_writer_add(f, "\n", 1, err);
    zb_arena_free(&a);
    return s;
}

static bool logs(const work *w) {
    return w->o->log_samples && *w->o->log_samples && w->shard.rank == 0;
}

static zb_status write_items(const work *w, const zb_recall_task *t, const item *x, size_t n,
                             zb_arena *a, zb_err *err) {
    zb_writer f;
    if (!logs(w)) return ZB_OK;
    ZB_TRY(samples_open(w, t->name, a, &f, err));
    zb_status s = ZB_OK;
    for (size_t i = 0; i < n && s == ZB_OK; i++) s = add_line(&f, item_json(w, &x[i], i), err);
    if (s == ZB_OK) s = zb_writer_close(&f, err);
    zb_writer_abort(&f);
    return s;
}

static zb_status run_test(work *w, const zb_recall_task *t, zb_arena *a, zb_err *err) {
    item *x;
    size_t n;
    if (!strcmp(t->haystack, "text")) ZB_TRY(need_text(w, err));
    ZB_TRY(make_items(w, t, a, &x, &n, err));
    ZB_TRY(ask(w, t, x, n, a, err));
    ZB_TRY(write_items(w, t, x, n, a, err));
    add_cells(w, t, x, n, a);
    return ZB_OK;
}

/* ---- associative recall ---- */

static json_t *sequence_json(const zb_recall_pairs *p, int sample, const zb_probe_request *r,
                             const zb_tokenizer *t) {
    json_t *o = json_pack("{s:i,s:i,s:i,s:i}", "pairs", p->pairs, "distance", p->distance, "index",
                          sample, "tokens", r->n);
    json_t *list = json_array();
    for (int i = 0; i < r->n_at; i++) {
        const zb_probe *q = &r->out[i];
        json_t *x = json_pack("{s:i,s:f,s:b,s:b}", "at", r->at[i], "logprob", q->logprob, "best",
                              q->best, "best_of_values", q->best_of_some);
        json_object_set_new(x, "key", text_json(zb_tokenizer_piece(t, r->ids[r->at[i]])));
        json_object_set_new(x, "value", text_json(zb_tokenizer_piece(t, r->ids[r->at[i] + 1])));
        json_array_append_new(list, x);
    }
    json_object_set_new(o, "queries", list);
    return o;
}

typedef struct totals {
    double *best, *best_of_values, *logprob;
    int n;
} totals;

static void add_probes(totals *x, const zb_probe_request *r) {
    for (int i = 0; i < r->n_at; i++, x->n++) {
        x->best[x->n] = r->out[i].best;
        x->best_of_values[x->n] = r->out[i].best_of_some;
        x->logprob[x->n] = r->out[i].logprob;
    }
}

/* Sequence i belongs to process i mod size. */
static zb_status probe(const work *w, const zb_probe_request *r, int i, zb_err *err) {
    int owner = i % w->shard.size;
    zb_status s = ZB_OK;
    if (zb_interrupted()) s = zb_fail(err, ZB_ERR_INTERRUPTED, "associative: interrupted");
    if (s == ZB_OK && owner == w->shard.rank) s = w->scorer->probe(w->scorer->self, r, err);
    ZB_TRY(zb_shard_agree(&w->shard, s, err));
    zb_shard_share(&w->shard, owner, r->out, (size_t)r->n_at * sizeof *r->out);
    for (int k = 0; k < r->n_at; k++)
        if (isnan(r->out[k].logprob))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "the model gives a log-probability that is not a number");
    return ZB_OK;
}

static zb_status run_cell(work *w, const zb_recall_vocab *v, int pairs, int distance, zb_writer *f,
                          zb_arena *a, zb_err *err) {
    bool lines = !strcmp(w->o->pair_form, "lines");
    size_t most = (size_t)w->o->samples * (size_t)(pairs + 1) / 2 + (size_t)w->o->samples;
    totals x = {.best = ZB_NEW_ARRAY(a, double, most),
                .best_of_values = ZB_NEW_ARRAY(a, double, most),
                .logprob = ZB_NEW_ARRAY(a, double, most)};
    for (int i = 0; i < (int)w->o->samples; i++) {
        zb_mark mark = zb_arena_mark(a);
        zb_probe_request r;
        zb_recall_pairs p = {.pairs = pairs,
                             .distance = distance,
                             .seed = (uint64_t)w->o->seed,
                             .stream = zb_recall_stream("associative", distance, pairs, i),
                             .lines = lines,
                             .text = w->filler.id,
                             .n_text = (int)w->filler.n,
                             .bos = w->bos};
        ZB_TRY(zb_recall_pairs_make(&p, v, a, &r, err));
        ZB_TRY(probe(w, &r, i, err));
        add_probes(&x, &r);
        if (f) ZB_TRY(add_line(f, sequence_json(&p, i, &r, w->tokenizer), err));
        zb_arena_pop(a, mark);
    }
    zb_recall_add_pair(w->out, &(zb_recall_pair_cell){
                                   .pairs = pairs,
                                   .distance = distance,
                                   .n = x.n,
                                   .acc = zb_metric_mean(x.best, x.n),
                                   .acc_values = zb_metric_mean(x.best_of_values, x.n),
                                   .logprob = zb_metric_mean(x.logprob, x.n),
                               });
    return ZB_OK;
}

static zb_status run_cells(work *w, const zb_recall_vocab *v, zb_writer *f, zb_arena *a,
                           zb_err *err) {
    bool lines = !strcmp(w->o->pair_form, "lines");
    int total = w->pairs.n * w->distances.n, done = 0, made = 0;
    zb_progress progress;
    zb_progress_begin(&progress, "associative", "cells", 0, total);
    zb_status s = ZB_OK;
    for (int p = 0; p < w->pairs.n; p++)
        for (int d = 0; d < w->distances.n && s == ZB_OK; d++, done++) {
            zb_progress_update(&progress, done, NULL);
            if (w->distances.v[d] < zb_recall_pairs_least(w->pairs.v[p], lines))
                continue; /* the pairs alone are longer */
            zb_mark mark = zb_arena_mark(a);
            s = run_cell(w, v, w->pairs.v[p], w->distances.v[d], f, a, err);
            zb_arena_pop(a, mark);
            made++;
        }
    zb_progress_end(&progress, done, NULL);
    ZB_TRY(s);
    if (made) return ZB_OK;
    return zb_fail(err, ZB_ERR_USAGE,
                   "distances: expected at least the tokens of the pairs, found no such");
}

/* The running text as tokens, its words joined by single spaces as in prompts. */
static zb_status read_filler(work *w, zb_arena *a, zb_err *err) {
    zb_buf text;
    ZB_TRY(need_text(w, err));
    zb_buf_init(&text, HAYSTACK_MAX);
    for (size_t i = 0; i < w->source.n_text; i++) {
        zb_buf_addc(&text, ' ');
        zb_buf_add(&text, w->source.text[i].p, w->source.text[i].n);
    }
    zb_status s =
        zb_tokenizer_encode(w->tokenizer, zb_buf_str(&text), false, false, a, &w->filler, err);
    zb_buf_free(&text);
    for (size_t i = 0; i < w->filler.n && s == ZB_OK; i++)
        if (w->filler.id[i] >= w->o->vocab)
            s = zb_fail(err, ZB_ERR_CONFIG, "%s: token %d is not in the model's vocabulary of %d",
                        w->o->haystack, w->filler.id[i], w->o->vocab);
    return s;
}

static zb_status run_associative(work *w, zb_arena *a, zb_err *err) {
    zb_recall_vocab v;
    zb_writer f;
    if (!w->scorer->probe)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "associative: this scorer cannot be probed");
    ZB_TRY(zb_recall_vocab_find(w->tokenizer, w->o->vocab, a, &v, err));
    if (!strcmp(w->o->filler, "text")) ZB_TRY(read_filler(w, a, err));
    if (!logs(w)) return run_cells(w, &v, NULL, a, err);
    ZB_TRY(samples_open(w, "associative", a, &f, err));
    zb_status s = run_cells(w, &v, &f, a, err);
    if (s == ZB_OK) s = zb_writer_close(&f, err);
    zb_writer_abort(&f);
    return s;
}

/* What is measured, for the results. */
static void describe(const work *w) {
    const zb_recall_opts *o = w->o;
    zb_recall_result *out = w->out;
    out->model = o->model ? zb_strdup(&out->arena, o->model) : NULL;
    out->haystack = o->haystack ? zb_strdup(&out->arena, o->haystack) : NULL;
    out->precision = o->precision ? zb_strdup(&out->arena, o->precision) : NULL;
    out->cache_type = o->cache_type ? zb_strdup(&out->arena, o->cache_type) : NULL;
    out->seed = o->seed;
    out->samples = o->samples;
    out->chat = o->apply_chat_template;
    out->bos = w->bos >= 0;
    out->generated = o->generate;
}

/* All files are read before the first test, which may take hours. Associative recall has none: its
 * task stays empty. */
static zb_status read_tests(work *w, zb_recall_task **out, int *n, zb_err *err) {
    char **name = zb_list_split(w->o->tests, &w->arena, n);
    if (*n == 0)
        return zb_fail(err, ZB_ERR_USAGE, "tests: expected names separated by commas, found none");
    *out = ZB_NEW_ARRAY(&w->arena, zb_recall_task, *n);
    for (int i = 0; i < *n; i++) {
        for (int k = 0; k < i; k++)
            if (!strcmp(name[k], name[i]))
                return zb_fail(err, ZB_ERR_USAGE, "tests: \"%.64s\" is named twice", name[i]);
        if (strcmp(name[i], "associative") != 0)
            ZB_TRY(zb_recall_task_read(w->o->tasks_dir, name[i], &w->arena, &(*out)[i], err));
    }
    return ZB_OK;
}

static zb_status run_all(work *w, zb_err *err) {
    zb_recall_task *task = NULL;
    int n;
    ZB_TRY(read_tests(w, &task, &n, err));
    ZB_TRY(read_options(w, err));
    ZB_TRY(zb_recall_words_read(w->o->tasks_dir, &w->arena, &w->words, err));
    w->source.words = &w->words;
    describe(w);
    for (int i = 0; i < n; i++) {
        zb_arena a = {0};
        zb_status s = task[i].name ? run_test(w, &task[i], &a, err) : run_associative(w, &a, err);
        zb_arena_free(&a);
        ZB_TRY(s);
    }
    return ZB_OK;
}

static zb_status check_outputs(const zb_recall_opts *o, zb_err *err) {
    if (o->shard.rank > 0) return ZB_OK; /* the first process alone writes */
    ZB_TRY(zb_output_file(o->output, ZB_INPUTS(o->haystack, o->model), err));
    ZB_TRY(zb_output_folder(o->log_samples, err));
    return zb_output_folder(o->cache, err);
}

zb_status zb_recall_check(const zb_recall_opts *o, zb_err *err) {
    work w = {.o = o};
    zb_recall_task *task;
    int n;
    zb_status s = check_outputs(o, err);
    if (s == ZB_OK) s = read_tests(&w, &task, &n, err);
    if (s == ZB_OK) s = read_sizes(&w, err);
    zb_arena_free(&w.arena);
    return s;
}

zb_status zb_recall_run(const zb_recall_opts *o, const zb_tokenizer *t, const zb_scorer *s,
                        zb_recall_result *out, zb_err *err) {
    double start = zb_seconds();
    *out = (zb_recall_result){0};
    work w = {.o = o, .tokenizer = t, .scorer = s, .out = out};
    w.shard = o->shard.size ? o->shard : (zb_shard){0, 1};
    zb_status status = check_outputs(o, err);
    if (status == ZB_OK) status = run_all(&w, err);
    zb_arena_free(&w.arena);
    ZB_TRY(status);
    out->seconds = zb_seconds() - start;
    if (!o->output || !*o->output || w.shard.rank > 0) return ZB_OK;
    json_t *json = zb_recall_json(out);
    status = zb_json_write(o->output, json, err);
    json_decref(json);
    return status;
}
