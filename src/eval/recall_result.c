/* recall_result.c - see recall_result.h. */
#include "eval/recall_result.h"

#include <math.h>
#include <string.h>

void zb_recall_result_free(zb_recall_result *r) {
    zb_arena_free(&r->arena);
    *r = (zb_recall_result){0};
}

void zb_recall_add(zb_recall_result *r, const zb_recall_cell *c) {
    r->cell = zb_grow(&r->arena, r->cell, &r->cap_cells, r->n_cells + 1, sizeof *r->cell);
    r->cell[r->n_cells] = *c;
    r->cell[r->n_cells++].test = zb_strdup(&r->arena, c->test);
}

void zb_recall_add_pair(zb_recall_result *r, const zb_recall_pair_cell *c) {
    r->pair = zb_grow(&r->arena, r->pair, &r->cap_pairs, r->n_pairs + 1, sizeof *r->pair);
    r->pair[r->n_pairs++] = *c;
}

/* Whether cell i is the first of its test (and, where asked for, of its length). */
static bool first_of(const zb_recall_result *r, size_t i, bool length) {
    for (size_t k = 0; k < i; k++)
        if (!strcmp(r->cell[k].test, r->cell[i].test) &&
            (!length || r->cell[k].length == r->cell[i].length))
            return false;
    return true;
}

/* What stands for a cell: the score, or without generated texts the share of sure answers. */
static const zb_metric *shown(const zb_recall_result *r, const zb_recall_cell *c) {
    return r->generated ? &c->score : &c->greedy;
}

/* A test at one length over the samples of all depths; *logprob is the mean likewise. A cell's
 * squares are found again from its error: sum x^2 = se^2 n (n - 1) + n mean^2. */
static zb_metric over_depths(const zb_recall_result *r, const char *test, int length,
                             double *logprob) {
    double n = 0, sum = 0, squares = 0, logs = 0;
    for (size_t i = 0; i < r->n_cells; i++) {
        const zb_recall_cell *c = &r->cell[i];
        if (strcmp(c->test, test) != 0 || c->length != length) continue;
        zb_metric m = *shown(r, c);
        double e = c->n > 1 ? m.stderr_of : 0, k = c->n;
        n += k;
        sum += k * m.value;
        squares += e * e * k * (k - 1) + k * m.value * m.value;
        logs += k * c->logprob.value;
    }
    *logprob = logs / n;
    double mean = sum / n, spread = squares - n * mean * mean;
    return (zb_metric){.value = mean,
                       .stderr_of =
                           n > 1 ? sqrt(spread > 0 ? spread / (n - 1) / n : 0) : (double)NAN};
}

/* JSON has no NAN: null. */
static void put(json_t *o, const char *key, double x) {
    json_object_set_new(o, key, isfinite(x) ? json_real(x) : json_null());
}

static void put_metric(json_t *o, const char *name, zb_metric m) {
    char key[64];
    put(o, name, m.value);
    snprintf(key, sizeof key, "%s_stderr", name);
    put(o, key, m.stderr_of);
}

static json_t *harness_json(const zb_recall_result *r) {
    json_t *all = json_object();
    for (size_t i = 0; i < r->n_cells; i++) {
        const zb_recall_cell *c = &r->cell[i];
        if (first_of(r, i, false))
            json_object_set_new(all, c->test, json_pack("{s:s}", "alias", c->test));
        if (!first_of(r, i, true)) continue;
        json_t *row = json_object_get(all, c->test);
        char key[64];
        double logprob;
        zb_metric m = over_depths(r, c->test, c->length, &logprob);
        snprintf(key, sizeof key, "%d,none", c->length);
        put(row, key, m.value);
        snprintf(key, sizeof key, "%d_stderr,none", c->length);
        put(row, key, m.stderr_of);
    }
    return all;
}

json_t *zb_recall_json(const zb_recall_result *r) {
    json_t *o = json_object(), *cells = json_array(), *pairs = json_array();
    for (size_t i = 0; i < r->n_cells; i++) {
        const zb_recall_cell *c = &r->cell[i];
        json_t *x = json_pack("{s:s,s:i}", "test", c->test, "length", c->length);
        json_object_set_new(x, "depth", c->depth < 0 ? json_null() : json_integer(c->depth));
        json_object_set_new(x, "n", json_integer(c->n));
        put_metric(x, "score", c->score);
        put_metric(x, "logprob", c->logprob);
        put_metric(x, "greedy", c->greedy);
        put(x, "tokens", c->tokens);
        json_array_append_new(cells, x);
    }
    for (size_t i = 0; i < r->n_pairs; i++) {
        const zb_recall_pair_cell *c = &r->pair[i];
        json_t *x =
            json_pack("{s:i,s:i,s:i}", "pairs", c->pairs, "distance", c->distance, "n", c->n);
        put_metric(x, "acc", c->acc);
        put_metric(x, "acc_values", c->acc_values);
        put_metric(x, "logprob", c->logprob);
        json_array_append_new(pairs, x);
    }
    json_object_set_new(o, "results", harness_json(r));
    json_object_set_new(o, "cells", cells);
    json_object_set_new(o, "associative", pairs);
    json_object_set_new(o, "config",
                        json_pack("{s:s?,s:s?,s:s?,s:s?,s:I,s:I,s:b,s:b,s:b}", "model", r->model,
                                  "precision", r->precision, "cache_type", r->cache_type,
                                  "haystack", r->haystack, "seed", (json_int_t)r->seed, "samples",
                                  (json_int_t)r->samples, "chat_template", r->chat, "bos", r->bos,
                                  "generated", r->generated));
    put(o, "total_evaluation_time_seconds", r->seconds);
    json_object_set_new(o, "zebra_version", json_string(ZB_VERSION));
    return o;
}

static void put_number(zb_buf *out, zb_metric m, double logprob) {
    zb_buf_addf(out, " %5.1f (%6.3f) |", 100 * m.value, logprob);
}

/* The cells of test `first` as a table: a row per depth and one over all, a column per length. */
static void test_table(const zb_recall_result *r, size_t first, zb_buf *out) {
    const char *test = r->cell[first].test;
    zb_buf_addf(out, "|%s|depth|", test);
    for (size_t i = first; i < r->n_cells; i++)
        if (!strcmp(r->cell[i].test, test) && first_of(r, i, true))
            zb_buf_addf(out, "%15d |", r->cell[i].length);
    zb_buf_adds(out, "\n|---|----:|");
    for (size_t i = first; i < r->n_cells; i++)
        if (!strcmp(r->cell[i].test, test) && first_of(r, i, true))
            zb_buf_adds(out, "---------------:|");
    int rows = 0;
    for (size_t i = first; i < r->n_cells; i++) {
        const zb_recall_cell *c = &r->cell[i];
        if (strcmp(c->test, test) != 0 || c->length != r->cell[first].length) continue;
        rows++;
        if (c->depth < 0)
            zb_buf_adds(out, "\n||drawn|");
        else
            zb_buf_addf(out, "\n||%d %%|", c->depth);
        for (size_t k = first; k < r->n_cells; k++)
            if (!strcmp(r->cell[k].test, test) && r->cell[k].depth == c->depth)
                put_number(out, *shown(r, &r->cell[k]), r->cell[k].logprob.value);
    }
    if (rows > 1) zb_buf_adds(out, "\n||all|");
    for (size_t i = first; rows > 1 && i < r->n_cells; i++) {
        double logprob;
        if (strcmp(r->cell[i].test, test) != 0 || !first_of(r, i, true)) continue;
        zb_metric m = over_depths(r, test, r->cell[i].length, &logprob);
        put_number(out, m, logprob);
    }
    zb_buf_adds(out, "\n\n");
}

void zb_recall_table(const zb_recall_result *r, zb_buf *out) {
    if (r->n_cells)
        zb_buf_addf(out,
                    "%s (mean log-probability of a token of the right answer), %lld samples a "
                    "cell\n\n",
                    r->generated ? "Share of values found in the generated text, %"
                                 : "Answers of which each token is the most probable one, %",
                    (long long)r->samples);
    for (size_t i = 0; i < r->n_cells; i++)
        if (first_of(r, i, false)) test_table(r, i, out);
    if (!r->n_pairs) return;
    zb_buf_adds(out, "|associative: pairs|distance|queries|right, %|among the values, %|nats per "
                     "value|\n|---:|---:|---:|---:|---:|---:|\n");
    for (size_t i = 0; i < r->n_pairs; i++) {
        const zb_recall_pair_cell *c = &r->pair[i];
        zb_buf_addf(out, "|%d|%d|%d|%.1f ± %.1f|%.1f|%.3f|\n", c->pairs, c->distance, c->n,
                    100 * c->acc.value, isnan(c->acc.stderr_of) ? 0.0 : 100 * c->acc.stderr_of,
                    100 * c->acc_values.value, c->logprob.value);
    }
}
