/* config.h - what a model is made of: sizes, rotary embedding, the kind and sizes of each layer.
 *
 * Read from a Hugging Face folder (config.json, and for a hybrid hybrid_config.json,
 * mamba_config.json or the pair MLA_config.json and mla_layer_config.json) or from a GGUF file;
 * every value is checked before use. A plain struct without pointers: copy it freely. Letters are
 * those of the papers (design: D hidden, L layers, H query heads, G key/value heads, dh head size,
 * F MLP size, V vocabulary). */
#ifndef ZB_MODEL_CONFIG_H
#define ZB_MODEL_CONFIG_H

#include "base/err.h"
#include "format/gguf.h"
#include "tensor/dtype.h"
#include "format/gguf_write.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Epsilon of the norms on MLA's latents in the original code, whatever rms_norm_eps is. */
#define ZB_LATENT_EPS 1e-6

enum { ZB_LAYERS_MAX = 256, ZB_CONV_K = 4, ZB_EOS_MAX = 8 };

typedef enum zb_kind {
    ZB_ATTENTION,
    ZB_MLA,
    ZB_MAMBA2,
    ZB_SLIDING_WINDOW,  /* attention to the last tokens and the first */
    ZB_WINDOWED_MAMBA2, /* the same beside a Mamba2 state that a gate lets in */
    ZB_GATED_DELTANET,
    ZB_WINDOWED_DELTANET, /* as windowed_mamba2, with gated DeltaNet */
    ZB_KIND_COUNT
} zb_kind;

typedef enum zb_rope_type {
    ZB_ROPE_PLAIN,
    ZB_ROPE_LINEAR,
    ZB_ROPE_LLAMA3,
    ZB_ROPE_YARN
} zb_rope_type;

typedef struct zb_rope {
    zb_rope_type type;
    double theta, factor;
    double low, high, old_context;                       /* llama3; old_context also yarn */
    double beta_fast, beta_slow, mscale, mscale_all_dim; /* yarn */
    double attention_factor; /* yarn: of cos and sin, whatever mscale says; 0: not given */
} zb_rope;

typedef struct zb_layer_config {
    zb_kind kind;
    int r_q;  /* mla: 0 = one q_proj without a low rank */
    int r_kv; /* mla: latent size */
    int d_nope, d_rope, d_v;
    bool lora_norm;          /* mla: RMS norms on the latents */
    bool full_kv_head;       /* mla: kv_b has H heads, else G */
    bool repeat_before_conv; /* mamba2: x and B repeated to H heads before the convolution */
    /* mamba2, gated_deltanet, in calibrated starts: */
    bool conv_identity; /* no silu behind the convolution */
    bool gate_bias;     /* the gate is silu(z + mamba.z_bias), silu(Wg u + linear_attn.g_bias) */
    double latent_eps;  /* mla: epsilon of those norms; 0 without them */
    int window, sinks;  /* kinds with a window: tokens seen (the own among them), and first
                           tokens always seen; window 0: none */
    uint64_t retrieval; /* kinds with a window: bit g is set if kv head g sees all tokens all the
                           same (a retrieval head; Xiao et al. 2024, DuoAttention) */
    int far_k, far_v;   /* of those heads: values of a key (the slowest rotary pairs) and of a value
                           (the first) that are cached and used beyond the window; 0: all */
} zb_layer_config;

typedef struct zb_config {
    char model_type[32]; /* "llama", "qwen2" */
    int D, L, H, G, dh, F, V;
    int context_max;
    double eps;
    bool tied; /* lm_head is embed_tokens */
    bool qkv_bias, o_bias, mlp_bias;
    zb_rope rope, mla_rope;          /* base attention (halves); MLA layers (interleaved) */
    int bos, n_eos, eos[ZB_EOS_MAX]; /* -1: none */
    bool hybrid;
    zb_layer_config layer[ZB_LAYERS_MAX];
    zb_dtype cache; /* how states keep keys, values and latents (ZB_F32: exactly); a choice of who
                       runs the model, not part of any file */
} zb_config;

const char *zb_kind_name(zb_kind k);
bool zb_kind_find(const char *name, zb_kind *out);
bool zb_kind_has_window(zb_kind k);
bool zb_kind_has_mamba2(zb_kind k); /* alone or beside a window */
bool zb_kind_has_deltanet(zb_kind k);

/* `base` is config.json, `hybrid` hybrid_config.json, mamba_config.json or NULL; `where` names them
 * in messages. */
zb_status zb_config_parse(zb_config *c, const json_t *base, const json_t *hybrid, const char *where,
                          zb_err *err);
zb_status zb_config_read(zb_config *c, const char *dir, zb_err *err);
zb_status zb_config_from_gguf(zb_config *c, const zb_gguf *g, zb_err *err);

/* The keys of a GGUF file that zb_config_from_gguf reads back to the same model: those of the llama
 * architecture where they can say all of it, else our own. Provenance (may be NULL) becomes a key.
 */
bool zb_config_is_llama(const zb_config *c);
zb_status zb_config_to_gguf(const zb_config *c, zb_gguf_writer *w, const json_t *provenance,
                            zb_err *err);

/* Consistency of all sizes; every reader ends with it, and so must who builds a config by hand. */
zb_status zb_config_check(const zb_config *c, const char *where, zb_err *err);

/* config.json (and hybrid_config.json if hybrid) in the published layout; provenance, if given,
 * goes under the key "zebra" of config.json (borrowed). stored: type of the weights beside it, F32,
 * F16 or BF16. */
zb_status zb_config_write(const zb_config *c, const char *dir, zb_dtype stored,
                          const json_t *provenance, zb_err *err);

/* A hybrid without any of what only our keys can say: the original code computes the same. */
bool zb_config_is_published(const zb_config *c);

/* The far heads of a layer as a list; a new reference. */
json_t *zb_config_retrieval_json(const zb_config *c, int l);

/* The content of those two files; new references. */
json_t *zb_config_base_json(const zb_config *c);
json_t *zb_config_hybrid_json(const zb_config *c);

void zb_rope_defaults(zb_rope *r); /* plain, theta 10000 */

/* Values of layer l: cached per token; of its recurrent state, and of its window, which do not
 * grow. */
int zb_config_cache(const zb_config *c, int l);
int64_t zb_config_state(const zb_config *c, int l);
int64_t zb_config_window(const zb_config *c, int l);
/* kv heads of layer l that see all tokens, and those that keep a window of keys and values in
 * rings (narrow ones do both); the head at a place (from 0) among them. */
int zb_config_far_heads(const zb_config *c, int l);
int zb_config_ring_heads(const zb_config *c, int l);
int zb_config_far_head(const zb_config *c, int l, int place);
int zb_config_ring_head(const zb_config *c, int l, int place);
/* Cached values of a far head's key and of its value; whether that is less than all. */
int zb_config_far_key(const zb_config *c, int l);
int zb_config_far_value(const zb_config *c, int l);
bool zb_config_narrow(const zb_config *c, int l);
double zb_config_kv_percent(const zb_config *c); /* 100 · Σ cache / (L · 2·G·dh) */

/* Channels of the Mamba2 convolution of layer l, and rows of its in_proj. */
int zb_mamba2_channels(const zb_config *c, int l);
int zb_mamba2_in_rows(const zb_config *c, int l);

#endif
