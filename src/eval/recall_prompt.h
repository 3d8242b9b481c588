/* recall_prompt.h - the text of one recall question, computed from numbers alone.
 *
 * A prompt is a pure function of the test, a seed, its number (a stream of random numbers) and the
 * size of its haystack: the same numbers give the same bytes, and another size gives the same keys
 * and values at the same relative places. zb_recall_fit finds the largest haystack with which
 * prompt and answer fit a length in tokens. Texts live in the arena given; sources are borrowed. */
#ifndef ZB_EVAL_RECALL_PROMPT_H
#define ZB_EVAL_RECALL_PROMPT_H

#include "eval/prompt.h"
#include "eval/recall_task.h"
#include "eval/request.h"

/* What prompts are made of. */
typedef struct zb_recall_source {
    const zb_recall_words *words;
    const zb_str *text; /* words of the running text; repeated where more are asked for */
    size_t n_text;
} zb_recall_source;

/* Splits a text into words at white space. An error names `path` if it is no UTF-8 or empty. */
zb_status zb_recall_text_split(zb_str text, const char *path, zb_arena *a, zb_recall_source *out,
                               zb_err *err);

/* Which prompt of a test. */
typedef struct zb_recall_place {
    uint64_t seed, stream; /* zb_recall_stream() */
    int depth;             /* percent of the haystack before the needle; -1: drawn */
    int example_units;     /* haystack of the solved example; -1: no example */
} zb_recall_place;

/* The stream of a sample: differs with each argument. */
uint64_t zb_recall_stream(const char *test, int length, int depth, int sample);

typedef struct zb_recall_prompt {
    zb_str question, prefix; /* the prompt, and how the answer begins */
    zb_str answer;           /* expected behind the prefix: lead and values */
    const char **expected;   /* [n_expected] in the order in which they stand in the text */
    int n_expected;
    int units;   /* words or lines of haystack */
    zb_ids ids;  /* of question and prefix as the model reads them */
    zb_ids tail; /* of the answer behind them */
} zb_recall_prompt;

/* Texts only; units >= 1. */
zb_status zb_recall_prompt_write(const zb_recall_task *t, const zb_recall_source *s,
                                 const zb_recall_place *p, int units, zb_arena *a,
                                 zb_recall_prompt *out, zb_err *err);

/* How text becomes what the model reads. */
typedef struct zb_recall_reader {
    zb_request_maker maker; /* its arena receives ids; max_length does not matter */
    zb_prompt_style style;
} zb_recall_reader;

/* Everything, with the most units for which ids and max_tokens of the answer fit `length`. An error
 * if not even one does. */
zb_status zb_recall_fit(const zb_recall_task *t, const zb_recall_source *s,
                        const zb_recall_place *p, zb_recall_reader *r, int length,
                        zb_recall_prompt *out, zb_err *err);

/* Units of the solved example for prompts of `length` tokens: at most t->example tokens and a
 * quarter of the length; -1: the test has none. */
zb_status zb_recall_fit_example(const zb_recall_task *t, zb_recall_reader *r, int length,
                                int *units, zb_err *err);

/* RULER's string_match_all: the share of expected strings that occur in the reply, whatever their
 * case. */
double zb_recall_score(const char *const *expected, int n, zb_str reply);

#endif
