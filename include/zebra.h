/* zebra.h - the public interface of libzebra: run Transformers and hybrids of attention, MLA and
 * Mamba2 layers.
 *
 * An engine is a loaded model with its tokenizer; a session is one timeline of tokens in it, with
 * the memory of every layer. Callers hand a session the whole sequence they want (zb_session_sync)
 * and it computes what is new, or add tokens one by one (zb_session_step), or give many sessions
 * their new tokens at once (zb_step), and read the logits of the next token. Everything that can
 * fail for a reason outside the program returns a zb_status and explains it in a zb_err (NULL is
 * legal). One thread at a time uses an engine and its sessions; several engines may work side by
 * side. C11 and C++17. */
#ifndef ZEBRA_H
#define ZEBRA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*        code            exit  http  text */
#define ZB_STATUS_LIST(X)                                                                          \
    X(ZB_OK, 0, 200, "ok")                                                                         \
    X(ZB_ERR_INTERNAL, 1, 500, "internal error")                                                   \
    X(ZB_ERR_USAGE, 2, 400, "wrong usage")                                                         \
    X(ZB_ERR_IO, 3, 500, "cannot read or write")                                                   \
    X(ZB_ERR_FORMAT, 4, 400, "broken or unknown file")                                             \
    X(ZB_ERR_CONFIG, 5, 400, "wrong setting")                                                      \
    X(ZB_ERR_MEMORY, 6, 507, "not enough memory")                                                  \
    X(ZB_ERR_UNSUPPORTED, 7, 501, "not supported")                                                 \
    X(ZB_ERR_INTERRUPTED, 130, 503, "interrupted")

/* Inside the library these types come from base/err.h; the compiler compares the two lists. */
#ifndef ZB_BASE_ERR_H
typedef enum zb_status {
#define ZB_X(code, exit_status, http, text) code,
    ZB_STATUS_LIST(ZB_X)
#undef ZB_X
} zb_status;

typedef struct zb_err {
    zb_status code;
    char msg[512]; /* one line: where, what was expected, what was found */
} zb_err;

const char *zb_status_text(zb_status code);
#endif

const char *zb_version(void); /* "0.1.0" */

/* ---- engine ---- */

typedef struct zb_engine zb_engine;

typedef struct zb_engine_opts {
    int threads;        /* 0: one per processor. Set for the calling thread's OpenMP regions */
    int context;        /* most tokens of a session; 0: what the model was made for */
    bool deterministic; /* a session's numbers keep the same bits whatever else is computed in the
                           same pass (zb_step); batches cost more */
    const char *precision; /* "f32", "bf16" of matrix products, or "int8": quantised weights meet
                              activations in 8 bits; NULL or "auto": int8 where the model has
                              quantised weights, else bf16 where the processor has it */
    const char *cache; /* keys, values and latents of a sequence: "f32", "bf16", "f16" (NULL), or
                          "q8_0" */
} zb_engine_opts;

/* `path`: a Hugging Face folder or a .gguf file; the tokenizer is optional. o NULL: all defaults.
 */
zb_status zb_engine_open(zb_engine **out, const char *path, const zb_engine_opts *o, zb_err *err);
void zb_engine_close(zb_engine *e); /* after all its sessions; NULL is legal */

int zb_engine_vocab(const zb_engine *e);               /* V: number of logits */
int zb_engine_context(const zb_engine *e);             /* most tokens of a session */
bool zb_engine_is_end(const zb_engine *e, int32_t id); /* an id at which generation stops */
bool zb_engine_has_tokenizer(const zb_engine *e);

/* ADD: BOS and EOS where the tokenizer's settings say so; PARSE: "<|im_end|>" in the text becomes
 * its token. */
enum zb_encode_flags { ZB_ENCODE_PLAIN = 0, ZB_ENCODE_ADD = 1, ZB_ENCODE_PARSE = 2 };

/* Ids of a text (NUL-terminated UTF-8); *n receives how many there are, of which the first `cap`
 * are stored (cap 0 to ask). */
zb_status zb_engine_encode(const zb_engine *e, const char *text, int flags, int32_t *ids,
                           size_t cap, size_t *n, zb_err *err);

/* Bytes of n ids, special tokens left out; *n_bytes receives how many there are, of which the first
 * `cap` are stored. A character may be cut at either end. */
zb_status zb_engine_decode(const zb_engine *e, const int32_t *ids, size_t n, char *bytes,
                           size_t cap, size_t *n_bytes, zb_err *err);

/* ---- session ---- */

typedef struct zb_session zb_session;

/* Memory grows with the tokens seen. tokens_max 0: the engine's context. */
zb_status zb_session_new(zb_session **out, zb_engine *e, int tokens_max, zb_err *err);
void zb_session_free(zb_session *s); /* NULL is legal */

/* Makes the session stand behind exactly these n tokens. What it already holds of them is kept (a
 * recurrent state goes back to the nearest snapshot), the rest is computed in pieces. n 0 empties
 * it. After an error the session holds a prefix of the tokens and can be used again. */
zb_status zb_session_sync(zb_session *s, const int32_t *tokens, int n, zb_err *err);

/* Appends one token. */
zb_status zb_session_step(zb_session *s, int32_t token, zb_err *err);

/* What a session gets in a step: the next piece of its prompt, or one chosen token. */
typedef struct zb_step_item {
    zb_session *session;
    const int32_t *tokens; /* [n], n >= 1 */
    int n;
} zb_step_item;

/* Appends to each of n different sessions of one engine its new tokens, all in one pass (more
 * than 1,024 tokens together take several), and leaves the logits behind each session's last token.
 * Within rounding the same as one session at a time, and the same to the bit in a deterministic
 * engine. Nothing changes on ZB_ERR_CONFIG and ZB_ERR_MEMORY; after an interruption every session
 * holds a prefix of what it was to get. */
zb_status zb_step(const zb_step_item *items, int n, zb_err *err);

/* Logits [V] of the token after the last one; NULL in an empty session. Valid until the session
 * changes. */
const float *zb_session_logits(const zb_session *s);
const int32_t *zb_session_tokens(const zb_session *s, int *n); /* what it holds */
int zb_session_max(const zb_session *s);                       /* most tokens */
int64_t zb_session_computed(
    const zb_session *s); /* tokens computed since it was made: shows what was reused */

/* ---- sampling ---- */

/* Applied in this order: penalty, top_k, top_p, min_p, temperature. All zero: greedy. */
typedef struct zb_sampling {
    double temperature; /* 0: the most probable token */
    int top_k;          /* only the k most probable; 0: all */
    double top_p; /* the fewest most probable tokens that reach this probability; 0 or 1: all */
    double min_p; /* only tokens at least this fraction as probable as the best; 0: all */
    double repeat_penalty; /* divides positive, multiplies negative logits of recent tokens; 0 or 1:
                              none */
    int repeat_window;     /* how many recent tokens; 0: 64, negative: all */
    uint64_t seed;
} zb_sampling;

typedef struct zb_sampler zb_sampler;

/* The i-th choice depends only on seed, i, logits and history. */
zb_status zb_sampler_new(zb_sampler **out, const zb_sampling *settings, int vocab, zb_err *err);
void zb_sampler_free(zb_sampler *s);

/* Chooses from logits [V]; `history` are the n tokens so far, the most recent last. Ties go to the
 * lower id; a token whose logit is -inf or NaN is never chosen while another is left. */
int32_t zb_sampler_pick(zb_sampler *s, const float *logits, const int32_t *history, int n);

/* ---- generation ---- */

typedef struct zb_generation {
    int prompt_tokens, tokens; /* given; chosen, without the end token */
    int computed;              /* of the prompt: the others were still in the session */
    int steps;                 /* passes behind the prompt, which took `seconds` */
    double prompt_seconds, seconds;
    enum zb_finish { ZB_FINISH_LENGTH, ZB_FINISH_END, ZB_FINISH_CALLER } finish;
} zb_generation;

typedef struct zb_generate_request {
    const int32_t *prompt; /* the whole sequence so far */
    int n;
    int max;         /* most tokens to choose; negative: as many as the session holds */
    bool ignore_end; /* go on behind an end token and hand it over like any other */
    bool (*on_token)(void *user,
                     int32_t id); /* receives each chosen token; false stops. NULL: none */
    void *user;
} zb_generate_request;

/* Syncs the session to the prompt and appends chosen tokens until the limit, the session's capacity
 * or an end token. */
zb_status zb_generate(zb_session *s, zb_sampler *sampler, const zb_generate_request *r,
                      zb_generation *out, zb_err *err);

#ifdef __cplusplus
}
#endif

#endif
