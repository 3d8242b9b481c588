/* recall_result.h - what recall tests gave, cell by cell, and its forms: JSON and tables.
 *
 * A cell is one test at one length and depth, or one number of pairs at one distance. Owns an arena
 * with all of it. */
#ifndef ZB_EVAL_RECALL_RESULT_H
#define ZB_EVAL_RECALL_RESULT_H

#include "base/json.h"
#include "base/text.h"
#include "eval/metric.h"

typedef struct zb_recall_cell {
    const char *test;
    int length, depth; /* tokens; percent, -1: drawn for each sample */
    int n;             /* samples */
    zb_metric score;   /* share of expected values in the generated text; NAN: none was generated */
    zb_metric logprob; /* nats per token of the expected answer */
    zb_metric greedy;  /* share of answers each of whose tokens was the most probable one */
    double tokens;     /* of prompt and answer, mean */
} zb_recall_cell;

typedef struct zb_recall_pair_cell {
    int pairs, distance, n; /* n: queries */
    zb_metric acc;          /* value most probable of all tokens */
    zb_metric acc_values;   /* of all values of the sequence; guessing gives 1 / pairs */
    zb_metric logprob;      /* nats of the value */
} zb_recall_pair_cell;

typedef struct zb_recall_result {
    zb_arena arena;
    zb_recall_cell *cell;
    zb_recall_pair_cell *pair;
    size_t n_cells, cap_cells, n_pairs, cap_pairs;
    const char *model, *haystack;
    const char *precision, *cache_type; /* may be NULL */
    int64_t seed, samples;
    bool chat, bos, generated;
    double seconds;
} zb_recall_result;

void zb_recall_result_free(zb_recall_result *r);
void zb_recall_add(zb_recall_result *r, const zb_recall_cell *c); /* the name is copied */
void zb_recall_add_pair(zb_recall_result *r, const zb_recall_pair_cell *c);

/* {"results": {test: {"512,none", "512_stderr,none", ...}} with the mean over depths as the harness
 * writes it, "cells": [...], "associative": [...], ...}: new reference. */
json_t *zb_recall_json(const zb_recall_result *r);

/* Appends Markdown tables: per test depth by length, and pairs by distance. */
void zb_recall_table(const zb_recall_result *r, zb_buf *out);

#endif
