/* recall.h - recall tests: what does a model still know of a long text?
 *
 * Two families. RULER's tests hide sentences in text of a given length and ask for them: the answer
 * is generated and searched for the expected strings, and the log-probability of the right answer
 * is measured behind the same prompt, which grades models that cannot answer in words. Associative
 * recall asks for the partners of random words at exact distances. All is made from a seed, sized
 * with the model's own tokenizer, and never part of any training or calibration. One call makes the
 * prompts, asks the scorer and returns cells. One thread; tokenizer and scorer are borrowed. */
#ifndef ZB_EVAL_RECALL_H
#define ZB_EVAL_RECALL_H

#include "base/opts.h"
#include "eval/recall_result.h"
#include "eval/scorer.h"
#include "eval/shard.h"
#include "format/tokenizer.h"

typedef struct zb_recall_opts {
    const char *tests; /* files of tasks_dir, and "associative" */
    const char *lengths, *depths;
    int64_t samples, seed;
    bool generate, apply_chat_template;
    const char *add_bos;  /* auto | on | off */
    const char *haystack; /* running text, .txt */
    const char *pairs, *distances;
    const char *pair_form; /* lines | plain */
    const char *filler;    /* text | words */
    int64_t window;        /* tokens; above 0: distances are multiples of it */
    const char *tasks_dir;
    const char *output, *log_samples, *cache; /* NULL or "": none */
    /* no options: */
    const char *model;                  /* a name for the results, may be NULL */
    const char *precision, *cache_type; /* of the model, for the results; may be NULL */
    const char *model_key;              /* digest for the cache; needed with one */
    int vocab;                          /* rows of the model's embedding */
    zb_shard shard;                     /* size 0: one process */
} zb_recall_opts;

/* Start from {0} and zb_opts_defaults(). */
extern const zb_opt zb_recall_opt_table[];

/* What zb_recall_run would refuse before its first test: names, sizes, places of outputs. */
zb_status zb_recall_check(const zb_recall_opts *o, zb_err *err);

/* zb_recall_result_free must be called, also after an error. */
zb_status zb_recall_run(const zb_recall_opts *o, const zb_tokenizer *t, const zb_scorer *s,
                        zb_recall_result *out, zb_err *err);

/* The same for a model that is opened for it, as `zebra recall` and the pipeline do; appends the
 * tables. */
zb_status zb_recall_model(const zb_recall_opts *o, const char *model, const char *precision,
                          const char *cache_type, zb_buf *table, zb_err *err);

#endif
