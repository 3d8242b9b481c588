/* request.h - from text to token ids: what is the context, what the continuation, what of it fits.
 *
 * The rules are those of the LM Evaluation Harness. A maker remembers the ids of
 * the last context, so choices that share a context get the same ids, by pointer. Ids live in the
 * maker's arena. A maker belongs to one thread. */
#ifndef ZB_EVAL_REQUEST_H
#define ZB_EVAL_REQUEST_H

#include "base/arena.h"
#include "eval/cache.h"
#include "eval/scorer.h"
#include "eval/shard.h"
#include "format/tokenizer.h"

typedef struct zb_request_maker {
    const zb_tokenizer *tokenizer;
    int32_t bos;    /* put before each text; -1: none */
    int32_t prefix; /* stands in for an empty context; -1: an empty context is an error */
    int max_length; /* most tokens of one model input */
    zb_arena *arena;
    zb_str context; /* the last one, and its ids */
    zb_ids ids;
} zb_request_maker;

/* Fills all of *out but the group. `where` starts the message of an error. */
zb_status zb_request_make(zb_request_maker *m, zb_str context, zb_str continuation,
                          const char *where, zb_loglik_request *out, zb_err *err);

/* The windows of a text that is scored from its first token on, as the harness cuts it: the first
 * predicts up to max_length tokens behind the prefix token, later ones go on behind the last token
 * of the one before. *n requests in the arena. */
zb_status zb_request_windows(zb_request_maker *m, zb_str text, const char *where,
                             zb_loglik_request **out, int *n, zb_err *err);

/* The ids of a context that is continued by at most `max` tokens, cut on the left. */
zb_status zb_request_context(zb_request_maker *m, zb_str context, int max, const char *where,
                             zb_ids *out, zb_err *err);

/* How all requests of a task are answered. */
typedef struct zb_request_run {
    const zb_scorer *scorer;
    const zb_shard *shard;
    zb_cache *cache;  /* NULL: none */
    const char *what; /* name of the progress */
    zb_arena *arena;
} zb_request_run;

/* Answers all n requests in an order that suits a model (groups together, contexts that begin alike
 * side by side), in calls of limited size. out[i] belongs to r[i]. Sets the groups (neighbours with
 * the same context) and what they share with others. What the cache holds is not asked again; the
 * calls are the same with it and without. */
zb_status zb_request_score(const zb_request_run *run, zb_loglik_request *r, size_t n,
                           zb_loglik *out, zb_err *err);

/* The same for texts; `salt` is what else decides where they end, for the cache. */
zb_status zb_request_write(const zb_request_run *run, zb_write_request *r, size_t n, zb_str salt,
                           zb_err *err);

#endif
