/* config_gguf.c - a model's description as the keys of a GGUF file (contract in config.h).
 *
 * Two architectures. `llama` has the keys that other programs know; what they cannot say (several
 * end tokens) stands in keys zebra.* beside them, which others ignore. `zebra` is ours, for hybrids
 * and whatever llama's keys cannot describe: zebra.config and zebra.hybrid_config are the texts of
 * config.json and hybrid_config.json, so that one reader, one writer and one set of checks serve
 * folders and files, and a new mixer kind needs nothing here. */
#include "base/file.h"
#include "base/json.h"
#include "model/config.h"
#include "model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE_MAX_ANY = 1 << 20, VOCAB_MAX = 1 << 22 };

/* Keys begin with the name of the architecture. */
typedef struct keys {
    const zb_gguf *g;
    const char *arch;
    char name[96];
} keys;

static const char *key_of(keys *k, const char *tail) {
    snprintf(k->name, sizeof k->name, "%s.%s", k->arch, tail);
    return k->name;
}

static zb_status gguf_size(keys *k, const char *tail, bool required, int max, int *out,
                           zb_err *err) {
    int64_t v = *out;
    ZB_TRY(zb_gguf_int(k->g, key_of(k, tail), required, &v, err));
    if (v < 0 || v > max)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: %s: expected 0 to %d, found %lld",
                       zb_gguf_path(k->g), k->name, max, (long long)v);
    *out = (int)v;
    return ZB_OK;
}

/* GGUF keeps these as f32: 1e-5 comes as 9.99999975e-06. The shortest decimal that means the same
 * f32 is what the model's maker wrote, and what survives being written to JSON. */
static double shortest(double v) {
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if ((float)strtod(text, NULL) == (float)v) return strtod(text, NULL);
    }
    return v;
}

/* Head sizes that our attention does not have must not be read past. */
static zb_status gguf_head_sizes(const zb_config *c, keys *k, zb_err *err) {
    static const char *const tails[] = {"attention.value_length", "rope.dimension_count"};
    for (int i = 0; i < 2; i++) {
        int size = c->dh;
        ZB_TRY(gguf_size(k, tails[i], false, 4096, &size, err));
        if (size != c->dh)
            return zb_fail(err, ZB_ERR_UNSUPPORTED,
                           "%s: %s: expected %d as the head size, found %d", zb_gguf_path(k->g),
                           k->name, c->dh, size);
    }
    return ZB_OK;
}

/* Begin and end tokens: ours say them exactly, those of the tokenizer know one begin and two ends,
 * of a text and of a turn. Ids beyond the vocabulary are ignored, as they never occur. */
static zb_status read_ends(zb_config *c, const zb_gguf *g, zb_err *err) {
    int64_t id = -1, eos[ZB_EOS_MAX];
    size_t n = 0;
    ZB_TRY(zb_gguf_int(g, "tokenizer.ggml.bos_token_id", false, &id, err));
    ZB_TRY(zb_gguf_int(g, "zebra.bos_token_id", false, &id, err));
    c->bos = id >= 0 && id < c->V ? (int)id : -1;
    ZB_TRY(zb_gguf_array(g, "zebra.eos_token_ids", false, &n, err));
    if (n > ZB_EOS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: key \"zebra.eos_token_ids\": expected at most %d ids, found %zu",
                       zb_gguf_path(g), ZB_EOS_MAX, n);
    if (n) ZB_TRY(zb_gguf_array_int(g, "zebra.eos_token_ids", eos, n, err));
    if (!n) {
        int64_t turn = -1;
        id = -1;
        ZB_TRY(zb_gguf_int(g, "tokenizer.ggml.eos_token_id", false, &id, err));
        ZB_TRY(zb_gguf_int(g, "tokenizer.ggml.eot_token_id", false, &turn, err));
        eos[n++] = id;
        if (turn != id) eos[n++] = turn;
    }
    for (size_t i = 0; i < n; i++)
        if (eos[i] >= 0 && eos[i] < c->V) c->eos[c->n_eos++] = (int)eos[i];
    return ZB_OK;
}

/* A real number above 0 where the key is there; what *out holds already passes, too. */
static zb_status gguf_positive(keys *k, const char *tail, double *out, zb_err *err) {
    double v = *out;
    ZB_TRY(zb_gguf_f64(k->g, key_of(k, tail), false, &v, err));
    if (v == *out) return ZB_OK;
    if (!isfinite(v) || v <= 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: %s: expected a finite number above 0, found %g",
                       zb_gguf_path(k->g), k->name, v);
    *out = shortest(v);
    return ZB_OK;
}

/* A key whose other values mean what we cannot compute. */
static zb_status gguf_only(keys *k, const char *tail, double only, zb_err *err) {
    double v = only;
    ZB_TRY(zb_gguf_f64(k->g, key_of(k, tail), false, &v, err));
    if (v != only)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: %s: expected %g, found %g", zb_gguf_path(k->g),
                       k->name, only, v);
    return ZB_OK;
}

/* YaRN beyond factor and context. yarn_attn_factor is what converters make of attention_factor in
 * config.json: all of the factor on cos and sin (0: not given). attn_factor multiplies that, or
 * else the formula's value (llama.cpp's llama-context.cpp). yarn_log_multiplier is mscale_all_dim
 * in some files and a tenth of it in others, so only its absence is clear. */
static zb_status read_yarn(zb_rope *r, keys *k, zb_err *err) {
    double times = 1;
    ZB_TRY(gguf_only(k, "rope.scaling.yarn_ext_factor", 1, err));
    ZB_TRY(gguf_only(k, "rope.scaling.yarn_log_multiplier", 0, err));
    ZB_TRY(gguf_positive(k, "rope.scaling.yarn_beta_fast", &r->beta_fast, err));
    ZB_TRY(gguf_positive(k, "rope.scaling.yarn_beta_slow", &r->beta_slow, err));
    ZB_TRY(gguf_positive(k, "rope.scaling.yarn_attn_factor", &r->attention_factor, err));
    ZB_TRY(gguf_positive(k, "rope.scaling.attn_factor", &times, err));
    if (times == 1) return ZB_OK;
    r->attention_factor =
        times * (r->attention_factor > 0 ? r->attention_factor : zb_yarn_m(r->factor, r->mscale));
    return ZB_OK;
}

/* A factor without a type is linear, and older files have it under a key of its own. */
static zb_status read_scaling(zb_rope *r, int context, keys *k, zb_err *err) {
    const zb_gguf *g = k->g;
    zb_str type = {0};
    double factor = 0;
    ZB_TRY(zb_gguf_str(g, key_of(k, "rope.scaling.type"), false, &type, err));
    ZB_TRY(zb_gguf_f64(g, key_of(k, "rope.scale_linear"), false, &factor, err));
    ZB_TRY(zb_gguf_f64(g, key_of(k, "rope.scaling.factor"), false, &factor, err));
    bool named = type.p != NULL, yarn = zb_str_is(type, "yarn"), linear = zb_str_is(type, "linear");
    if (named && !yarn && !linear && !zb_str_is(type, "none"))
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: %s: expected none, linear or yarn, found \"%.*s\"", zb_gguf_path(g),
                       key_of(k, "rope.scaling.type"), (int)(type.n < 60 ? type.n : 60), type.p);
    if (!yarn) ZB_TRY(gguf_only(k, "rope.scaling.attn_factor", 1, err));
    if (!yarn && !linear && (named || factor == 0)) return ZB_OK;
    r->type = yarn ? ZB_ROPE_YARN : ZB_ROPE_LINEAR;
    r->factor = factor;
    r->old_context = context;
    if (factor == 0) /* a type without a factor */
        return zb_gguf_f64(g, key_of(k, "rope.scaling.factor"), true, &r->factor, err);
    ZB_TRY(zb_gguf_f64(g, key_of(k, "rope.scaling.original_context_length"), false, &r->old_context,
                       err));
    return yarn ? read_yarn(r, k, err) : ZB_OK;
}

static zb_status read_sizes(zb_config *c, keys *k, zb_err *err) {
    ZB_TRY(gguf_size(k, "embedding_length", true, SIZE_MAX_ANY, &c->D, err));
    ZB_TRY(gguf_size(k, "block_count", true, ZB_LAYERS_MAX, &c->L, err));
    ZB_TRY(gguf_size(k, "feed_forward_length", true, SIZE_MAX_ANY, &c->F, err));
    ZB_TRY(gguf_size(k, "attention.head_count", true, 4096, &c->H, err));
    c->G = c->H;
    ZB_TRY(gguf_size(k, "attention.head_count_kv", false, 4096, &c->G, err));
    c->dh = c->H ? c->D / c->H : 0;
    ZB_TRY(gguf_size(k, "attention.key_length", false, 4096, &c->dh, err));
    ZB_TRY(gguf_head_sizes(c, k, err));
    c->context_max = 2048;
    return gguf_size(k, "context_length", false, 1 << 24, &c->context_max, err);
}

/* Only what the keys of the llama and qwen2 architectures can say; Llama 3's scaling comes as the
 * tensor rope_freqs, which the loader of weights turns into the parameters of a llama3 rope
 * (model/load_gguf.c). */
static zb_status read_llama(zb_config *c, const zb_gguf *g, const char *arch, zb_err *err) {
    keys k = {.g = g, .arch = arch};
    memset(c, 0, sizeof *c);
    zb_rope_defaults(&c->rope);
    c->eps = 1e-5;
    snprintf(c->model_type, sizeof c->model_type, "llama");
    ZB_TRY(read_sizes(c, &k, err));
    ZB_TRY(zb_gguf_f64(g, key_of(&k, "attention.layer_norm_rms_epsilon"), false, &c->eps, err));
    ZB_TRY(zb_gguf_f64(g, key_of(&k, "rope.freq_base"), false, &c->rope.theta, err));
    c->eps = shortest(c->eps);
    c->rope.theta = shortest(c->rope.theta);
    ZB_TRY(read_scaling(&c->rope, c->context_max, &k, err));
    const zb_tensor *embed = zb_gguf_find(g, "token_embd.weight");
    if (!embed || embed->n_dims != 2 || embed->shape[0] > VOCAB_MAX)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: expected a tensor token_embd.weight of two dimensions",
                       zb_gguf_path(g));
    c->V = (int)embed->shape[0];
    c->tied = !zb_gguf_find(g, "output.weight");
    c->qkv_bias = zb_gguf_find(g, "blk.0.attn_q.bias") != NULL;
    c->o_bias = zb_gguf_find(g, "blk.0.attn_output.bias") != NULL;
    /* biases on q, k and v alone are Qwen2's way: a config.json can say it only by that name */
    if (c->qkv_bias && !c->o_bias) snprintf(c->model_type, sizeof c->model_type, "qwen2");
    ZB_TRY(read_ends(c, g, err));
    c->mla_rope = c->rope;
    return zb_config_check(c, zb_gguf_path(g), err);
}

static zb_status parse_text(const zb_gguf *g, const char *key, bool required, json_t **out,
                            zb_err *err) {
    zb_str text = {0};
    ZB_TRY(zb_gguf_str(g, key, required, &text, err));
    if (!text.p) return ZB_OK;
    zb_arena a = {0};
    char *where = zb_asprintf(&a, "%s: key \"%s\"", zb_gguf_path(g), key);
    zb_status s = zb_json_parse(text.p, text.n, where, out, err);
    zb_arena_free(&a);
    return s;
}

static zb_status read_zebra(zb_config *c, const zb_gguf *g, zb_err *err) {
    json_t *base = NULL, *hybrid = NULL;
    zb_status s = parse_text(g, "zebra.config", true, &base, err);
    if (s == ZB_OK) s = parse_text(g, "zebra.hybrid_config", false, &hybrid, err);
    /* files from before the key hold models that were trained with the one epsilon */
    json_t *eps = json_object_get(base, "rms_norm_eps");
    if (hybrid && eps && !json_object_get(hybrid, "latent_norm_eps"))
        json_object_set(hybrid, "latent_norm_eps", eps);
    if (s == ZB_OK) s = zb_config_parse(c, base, hybrid, zb_gguf_path(g), err);
    json_decref(base);
    json_decref(hybrid);
    if (s == ZB_OK && !zb_gguf_find(g, "lm_head.weight")) c->tied = true;
    return s;
}

zb_status zb_config_from_gguf(zb_config *c, const zb_gguf *g, zb_err *err) {
    zb_str arch;
    int64_t parts = 1;
    ZB_TRY(zb_gguf_int(g, "split.count", false, &parts, err));
    if (parts > 1)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: expected a whole model, found one of %lld parts: join them first "
                       "(llama-gguf-split --merge)",
                       zb_gguf_path(g), (long long)parts);
    ZB_TRY(zb_gguf_str(g, "general.architecture", true, &arch, err));
    if (zb_str_is(arch, "zebra")) return read_zebra(c, g, err);
    if (zb_str_is(arch, "llama")) return read_llama(c, g, "llama", err);
    if (zb_str_is(arch, "qwen2")) return read_llama(c, g, "qwen2", err);
    return zb_fail(err, ZB_ERR_UNSUPPORTED,
                   "%s: general.architecture: expected llama, qwen2 or zebra, found \"%.*s\"",
                   zb_gguf_path(g), (int)(arch.n < 60 ? arch.n : 60), arch.p);
}

/* ---- writing ---- */

/* Llama 3's scaling is a tensor of divisors there, from which a reader recovers the factor alone.
 */
static bool llama_says_rope(const zb_rope *r) {
    switch (r->type) {
    case ZB_ROPE_PLAIN:
    case ZB_ROPE_LINEAR: return true;
    case ZB_ROPE_LLAMA3: return r->low == 1 && r->high == 4 && r->old_context == 8192;
    case ZB_ROPE_YARN:
        return r->beta_fast == 32 && r->beta_slow == 1 && r->mscale == 1 &&
               r->mscale_all_dim == 0 && !(r->attention_factor > 0);
    }
    return false;
}

bool zb_config_is_llama(const zb_config *c) {
    bool biases = !c->mlp_bias && (c->qkv_bias || !c->o_bias);
    for (int l = 0; l < c->L; l++)
        if (c->layer[l].window) return false;
    return !c->hybrid && biases && llama_says_rope(&c->rope);
}

static void put_llama(const zb_config *c, zb_gguf_writer *w) {
    zb_gguf_put_u32(w, "llama.vocab_size", c->V);
    zb_gguf_put_u32(w, "llama.context_length", c->context_max);
    zb_gguf_put_u32(w, "llama.embedding_length", c->D);
    zb_gguf_put_u32(w, "llama.block_count", c->L);
    zb_gguf_put_u32(w, "llama.feed_forward_length", c->F);
    zb_gguf_put_u32(w, "llama.attention.head_count", c->H);
    zb_gguf_put_u32(w, "llama.attention.head_count_kv", c->G);
    zb_gguf_put_u32(w, "llama.attention.key_length", c->dh);
    zb_gguf_put_u32(w, "llama.attention.value_length", c->dh);
    zb_gguf_put_u32(w, "llama.rope.dimension_count", c->dh);
    zb_gguf_put_f32(w, "llama.rope.freq_base", c->rope.theta);
    zb_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", c->eps);
    bool yarn = c->rope.type == ZB_ROPE_YARN;
    if (yarn || c->rope.type == ZB_ROPE_LINEAR) {
        zb_gguf_put_str(w, "llama.rope.scaling.type", yarn ? ZB_STR("yarn") : ZB_STR("linear"));
        zb_gguf_put_f32(w, "llama.rope.scaling.factor", c->rope.factor);
    }
    if (yarn)
        zb_gguf_put_u32(w, "llama.rope.scaling.original_context_length",
                        (int64_t)c->rope.old_context);
    if (c->bos >= 0) zb_gguf_put_u32(w, "zebra.bos_token_id", c->bos);
    if (c->n_eos) zb_gguf_put_i32s(w, "zebra.eos_token_ids", c->eos, (size_t)c->n_eos);
}

static zb_status put_text(zb_gguf_writer *w, const char *key, json_t *v, zb_err *err) {
    zb_arena a = {0};
    char *text = zb_json_text(v, &a);
    if (text) zb_gguf_put_str(w, key, zb_str_from(text));
    zb_arena_free(&a);
    json_decref(v);
    return text ? ZB_OK : zb_fail(err, ZB_ERR_FORMAT, "%s: a text is not valid UTF-8", key);
}

static json_t *hybrid_json(const zb_config *c) {
    json_t *o = zb_config_hybrid_json(c);
    for (int l = 0; l < c->L; l++)
        if (c->layer[l].lora_norm)
            json_object_set_new(o, "latent_norm_eps", json_real(c->layer[l].latent_eps));
    return o;
}

zb_status zb_config_to_gguf(const zb_config *c, zb_gguf_writer *w, const json_t *provenance,
                            zb_err *err) {
    bool llama = zb_config_is_llama(c);
    zb_gguf_put_str(w, "general.architecture", llama ? ZB_STR("llama") : ZB_STR("zebra"));
    if (llama)
        put_llama(c, w);
    else
        ZB_TRY(put_text(w, "zebra.config", zb_config_base_json(c), err));
    if (c->hybrid) ZB_TRY(put_text(w, "zebra.hybrid_config", hybrid_json(c), err));
    if (provenance) ZB_TRY(put_text(w, "zebra.provenance", json_deep_copy(provenance), err));
    return ZB_OK;
}
