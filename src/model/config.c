/* config.c - reading, checking and sizing a model's description (contract in config.h).
 *
 * The published hybrid layout gives one set of MLA sizes for all MLA layers, and their ranks one by
 * one in layer_rank_list. Keys of ours, which the original code refuses and which are written only
 * where a model needs them: `attention_layers` (layers kept from the base),
 * `sliding_window_layers`, `windowed_mamba2_layers`, `gated_deltanet_layers`,
 * `windowed_deltanet_layers`, `retrieval_heads` (with `retrieval_key_dim` and
 * `retrieval_value_dim`), `sliding_window` (tokens) and
 * `attention_sinks`, `latent_norm_eps` (1e-6 in the original). Read but no longer written:
 * `kv_lora_ranks` and `q_lora_ranks` (one per entry of mla_layers). */
#include "model/config.h"

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "model/config_ecomla.h"
#include "model/rope.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { HEADS_MAX = 64 };      /* of layers with retrieval heads */
enum { WINDOW_USUAL = 4096 }; /* of Mistral's and Qwen2's classes, where a file names none */
enum { SIZE_MAX_ANY = 1 << 20, VOCAB_MAX = 1 << 22, JSON_MAX = 1 << 24, OLD_CONTEXT_MAX = 1 << 30 };

static const char *const kind_names[ZB_KIND_COUNT] = {
    "attention",        "mla", "mamba2", "sliding_window", "windowed_mamba2", "gated_deltanet",
    "windowed_deltanet"};

const char *zb_kind_name(zb_kind k) { return kind_names[k]; }

bool zb_kind_has_window(zb_kind k) {
    return k == ZB_SLIDING_WINDOW || k == ZB_WINDOWED_MAMBA2 || k == ZB_WINDOWED_DELTANET;
}

bool zb_kind_has_deltanet(zb_kind k) { return k == ZB_GATED_DELTANET || k == ZB_WINDOWED_DELTANET; }

bool zb_kind_has_mamba2(zb_kind k) { return k == ZB_MAMBA2 || k == ZB_WINDOWED_MAMBA2; }

bool zb_kind_find(const char *name, zb_kind *out) {
    for (int k = 0; k < ZB_KIND_COUNT; k++)
        if (!strcmp(kind_names[k], name)) {
            *out = (zb_kind)k;
            return true;
        }
    return false;
}

static zb_status read_size(const json_t *o, const char *where, const char *key, bool required,
                           int max, int *out, zb_err *err) {
    int64_t v = *out;
    ZB_TRY(zb_json_int(o, where, key, required, 1, max, &v, err));
    *out = (int)v;
    return ZB_OK;
}

void zb_rope_defaults(zb_rope *r) {
    *r = (zb_rope){.theta = 10000, .factor = 1, .beta_fast = 32, .beta_slow = 1, .mscale = 1};
}

/* rope_scaling of a configuration file; absent or null: plain. `beside`: a type given next to
 * rope_scaling, or NULL: the published hybrids copy the teacher's rope_scaling as it is (llama3)
 * and name yarn beside it, which they then compute from the same factor and context. */
static zb_status read_rope(const json_t *o, const char *where, const char *beside, zb_rope *r,
                           zb_err *err) {
    json_t *s = NULL;
    ZB_TRY(zb_json_f64(o, where, "rope_theta", false, &r->theta, err));
    ZB_TRY(zb_json_object(o, where, "rope_scaling", false, &s, err));
    if (!s) ZB_TRY(zb_json_object(o, where, "rope_parameters", false, &s, err));
    if (!s) return ZB_OK;
    ZB_TRY(zb_json_f64(s, where, "rope_theta", false, &r->theta, err));
    const char *type = "";
    ZB_TRY(zb_json_str(s, where, "type", false, &type, err));
    ZB_TRY(zb_json_str(s, where, "rope_type", false, &type, err));
    bool copied = !*type || !strcmp(type, "llama3");
    if (beside && copied && !strcmp(beside, "yarn")) type = beside;
    if (!*type) type = "default";
    /* dynamic scaling changes nothing within the trained context */
    if (!strcmp(type, "default") || !strcmp(type, "dynamic")) return ZB_OK;
    if (!strcmp(type, "linear"))
        r->type = ZB_ROPE_LINEAR;
    else if (!strcmp(type, "llama3"))
        r->type = ZB_ROPE_LLAMA3;
    else if (!strcmp(type, "yarn"))
        r->type = ZB_ROPE_YARN;
    else
        return zb_fail(
            err, ZB_ERR_UNSUPPORTED,
            "%s: rope_scaling: expected default, dynamic, linear, llama3 or yarn, found \"%s\"",
            where, type);
    ZB_TRY(zb_json_f64(s, where, "factor", true, &r->factor, err));
    bool old = r->type != ZB_ROPE_LINEAR;
    ZB_TRY(zb_json_f64(s, where, "original_max_position_embeddings", old, &r->old_context, err));
    ZB_TRY(zb_json_f64(s, where, "low_freq_factor", r->type == ZB_ROPE_LLAMA3, &r->low, err));
    ZB_TRY(zb_json_f64(s, where, "high_freq_factor", r->type == ZB_ROPE_LLAMA3, &r->high, err));
    ZB_TRY(zb_json_f64(s, where, "beta_fast", false, &r->beta_fast, err));
    ZB_TRY(zb_json_f64(s, where, "beta_slow", false, &r->beta_slow, err));
    ZB_TRY(zb_json_f64(s, where, "mscale", false, &r->mscale, err));
    ZB_TRY(zb_json_f64(s, where, "mscale_all_dim", false, &r->mscale_all_dim, err));
    if (r->type == ZB_ROPE_YARN)
        ZB_TRY(zb_json_f64(s, where, "attention_factor", false, &r->attention_factor, err));
    return ZB_OK;
}

/* YaRN as transformers computes it for the base architectures: mscale and mscale_all_dim count
 * where both are given and not 0, for cos and sin alone. What they come to is kept as
 * attention_factor, so that MLA layers with these rotations, where mscale_all_dim also scales the
 * softmax, do the same. */
static zb_status read_base_rope(const json_t *o, const char *where, zb_rope *r, zb_err *err) {
    r->mscale = 0;
    ZB_TRY(read_rope(o, where, NULL, r, err));
    if (r->type == ZB_ROPE_YARN && r->attention_factor == 0 && r->mscale != 0 &&
        r->mscale_all_dim != 0)
        r->attention_factor =
            zb_yarn_m(r->factor, r->mscale) / zb_yarn_m(r->factor, r->mscale_all_dim);
    r->mscale = 1;
    r->mscale_all_dim = 0;
    return ZB_OK;
}

/* eos_token_id is a number or a list of numbers. */
static zb_status read_eos(const json_t *o, const char *where, zb_config *c, zb_err *err) {
    json_t *v = json_object_get(o, "eos_token_id");
    if (!v || json_is_null(v)) return ZB_OK;
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > ZB_EOS_MAX) /* with some left out a text would run on past its end */
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: eos_token_id: expected at most %d token ids, found %zu", where,
                       ZB_EOS_MAX, n);
    for (size_t i = 0; i < n; i++) {
        json_t *x = json_is_array(v) ? json_array_get(v, i) : v;
        json_int_t id = json_integer_value(x);
        if (!json_is_integer(x))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: eos_token_id: expected token ids, found %s",
                           where, zb_json_type(x));
        if (id < 0 || id >= VOCAB_MAX)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: eos_token_id: expected token ids from 0 to %d, found %lld", where,
                           VOCAB_MAX - 1, (long long)id);
        c->eos[c->n_eos++] = (int)id;
    }
    return ZB_OK;
}

/* Heads that are rotated in part are none of ours. */
static zb_status check_rotary_part(const json_t *o, const char *where, zb_err *err) {
    static const char *const places[] = {NULL, "rope_parameters", "rope_scaling"};
    for (int i = 0; i < 3; i++) {
        double part = 1;
        json_t *at = places[i] ? json_object_get(o, places[i]) : (json_t *)(uintptr_t)o;
        if (!json_is_object(at)) continue;
        ZB_TRY(zb_json_f64(at, where, "partial_rotary_factor", false, &part, err));
        if (part != 1)
            return zb_fail(err, ZB_ERR_UNSUPPORTED,
                           "%s: partial_rotary_factor: expected 1, found %g", where, part);
    }
    return ZB_OK;
}

static zb_status read_layer_types(const zb_config *c, const json_t *o, const char *where,
                                  bool *windowed, zb_err *err) {
    json_t *types = NULL;
    ZB_TRY(zb_json_array(o, where, "layer_types", false, &types, err));
    if (!types) return ZB_OK;
    if (json_array_size(types) != (size_t)c->L)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: layer_types: expected %d names, found %zu", where,
                       c->L, json_array_size(types));
    for (int l = 0; l < c->L; l++) {
        const char *name = json_string_value(json_array_get(types, (size_t)l));
        windowed[l] = name && !strcmp(name, "sliding_attention");
        if (!windowed[l] && (!name || strcmp(name, "full_attention")))
            return zb_fail(err, ZB_ERR_UNSUPPORTED,
                           "%s: layer_types[%d]: expected full_attention or sliding_attention",
                           where, l);
    }
    return ZB_OK;
}

/* The base's own windows: in all layers of a Mistral, in a Qwen2 only where switched on, and from
 * max_window_layers on or as listed. One as long as the context changes nothing. */
static zb_status read_base_windows(zb_config *c, const json_t *o, const char *where, zb_err *err) {
    bool qwen = !strcmp(c->model_type, "qwen2"), on = !qwen, windowed[ZB_LAYERS_MAX];
    int64_t window = 0, from = qwen ? 28 : 0;
    if (!strcmp(c->model_type, "llama")) return ZB_OK;
    if (qwen) {
        ZB_TRY(zb_json_bool(o, where, "use_sliding_window", false, &on, err));
        ZB_TRY(zb_json_int(o, where, "max_window_layers", false, 0, SIZE_MAX_ANY, &from, err));
    }
    for (int l = 0; l < c->L; l++) windowed[l] = l >= from;
    if (qwen) ZB_TRY(read_layer_types(c, o, where, windowed, err));
    if (on && !json_object_get(o, "sliding_window")) window = WINDOW_USUAL; /* null is none */
    if (on) ZB_TRY(zb_json_int(o, where, "sliding_window", false, 1, 1 << 24, &window, err));
    if (window >= c->context_max) return ZB_OK;
    for (int l = 0; window && l < c->L; l++)
        if (windowed[l]) {
            c->layer[l].kind = ZB_SLIDING_WINDOW;
            c->layer[l].window = (int)window;
        }
    return ZB_OK;
}

static zb_status read_base(zb_config *c, const json_t *o, const char *where, zb_err *err) {
    const char *type = "llama", *act = "silu";
    ZB_TRY(zb_json_str(o, where, "model_type", false, &type, err));
    if (strcmp(type, "llama") && strcmp(type, "qwen2") && strcmp(type, "mistral"))
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: model_type: expected llama, mistral or qwen2, found \"%s\"", where,
                       type);
    ZB_TRY(zb_json_str(o, where, "hidden_act", false, &act, err));
    if (strcmp(act, "silu"))
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: hidden_act: expected silu, found \"%s\"",
                       where, act);
    snprintf(c->model_type, sizeof c->model_type, "%s", type);
    ZB_TRY(read_size(o, where, "hidden_size", true, SIZE_MAX_ANY, &c->D, err));
    ZB_TRY(read_size(o, where, "num_hidden_layers", true, ZB_LAYERS_MAX, &c->L, err));
    ZB_TRY(read_size(o, where, "num_attention_heads", true, 4096, &c->H, err));
    c->G = c->H;
    ZB_TRY(read_size(o, where, "num_key_value_heads", false, 4096, &c->G, err));
    c->dh = c->D / c->H;
    ZB_TRY(read_size(o, where, "head_dim", false, 4096, &c->dh, err));
    ZB_TRY(read_size(o, where, "intermediate_size", true, SIZE_MAX_ANY, &c->F, err));
    ZB_TRY(read_size(o, where, "vocab_size", true, VOCAB_MAX, &c->V, err));
    c->context_max = !strcmp(type, "llama") ? 2048 : !strcmp(type, "qwen2") ? 32768 : 131072;
    ZB_TRY(read_size(o, where, "max_position_embeddings", false, 1 << 24, &c->context_max, err));
    c->eps = 1e-6;
    ZB_TRY(zb_json_f64(o, where, "rms_norm_eps", false, &c->eps, err));
    ZB_TRY(zb_json_bool(o, where, "tie_word_embeddings", false, &c->tied, err));
    bool bias = false;
    ZB_TRY(zb_json_bool(o, where, "attention_bias", false, &bias, err));
    /* Qwen2 has biases on q, k and v only; Llama's attention_bias covers the output map too */
    c->qkv_bias = bias || !strcmp(type, "qwen2");
    c->o_bias = bias && strcmp(type, "qwen2");
    ZB_TRY(zb_json_bool(o, where, "mlp_bias", false, &c->mlp_bias, err));
    int64_t bos = -1;
    ZB_TRY(zb_json_int(o, where, "bos_token_id", false, 0, VOCAB_MAX, &bos, err));
    c->bos = (int)bos;
    ZB_TRY(read_eos(o, where, c, err));
    ZB_TRY(check_rotary_part(o, where, err));
    ZB_TRY(read_base_windows(c, o, where, err));
    return read_base_rope(o, where, &c->rope, err);
}

/* Marks the listed layers with a kind; returns how many there were. */
static zb_status read_layers(zb_config *c, const json_t *o, const char *where, const char *key,
                             zb_kind kind, int *list, int *n, zb_err *err) {
    json_t *a = NULL;
    *n = 0;
    ZB_TRY(zb_json_array(o, where, key, false, &a, err));
    for (size_t i = 0; a && i < json_array_size(a); i++) {
        json_t *v = json_array_get(a, i);
        int64_t l = json_is_integer(v) ? json_integer_value(v) : -1;
        if (l < 0 || l >= c->L)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: %s[%zu]: expected a layer from 0 to %d, found %s %lld", where, key,
                           i, c->L - 1, zb_json_type(v), (long long)l);
        if (c->layer[l].kind != ZB_MAMBA2)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: %s[%zu]: layer %lld is listed twice", where,
                           key, i, (long long)l);
        c->layer[l].kind = kind;
        list[(*n)++] = (int)l;
    }
    return ZB_OK;
}

static zb_status read_ranks(const json_t *o, const char *where, const char *key, int n, int *out,
                            zb_err *err) {
    json_t *a = NULL;
    ZB_TRY(zb_json_array(o, where, key, false, &a, err));
    if (!a) return ZB_OK;
    if (json_array_size(a) != (size_t)n)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: %s: expected %d values (one per MLA layer), found %zu", where, key, n,
                       json_array_size(a));
    for (int i = 0; i < n; i++) {
        json_t *v = json_array_get(a, (size_t)i);
        if (!json_is_integer(v) || json_integer_value(v) < 1 ||
            json_integer_value(v) > SIZE_MAX_ANY)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: %s[%d]: expected a rank, found %s", where, key,
                           i, zb_json_type(v));
        out[i] = (int)json_integer_value(v);
    }
    return ZB_OK;
}

/* {"3": {"q_rank": 8, "kv_rank": 16}, ...}; q_rank null: no low rank there. */
static zb_status read_rank_list(const json_t *o, const char *where, const int *mla, int n, int *r_q,
                                int *r_kv, zb_err *err) {
    json_t *list = NULL;
    ZB_TRY(zb_json_object(o, where, "layer_rank_list", false, &list, err));
    for (int i = 0; list && i < n; i++) {
        char key[16];
        json_t *ranks = NULL;
        snprintf(key, sizeof key, "%d", mla[i]);
        ZB_TRY(zb_json_object(list, where, key, false, &ranks, err));
        if (!ranks) continue;
        ZB_TRY(read_size(ranks, where, "kv_rank", true, SIZE_MAX_ANY, &r_kv[i], err));
        if (json_is_null(json_object_get(ranks, "q_rank")))
            r_q[i] = 0;
        else if (r_q[i])
            ZB_TRY(read_size(ranks, where, "q_rank", true, SIZE_MAX_ANY, &r_q[i], err));
    }
    return ZB_OK;
}

static zb_status read_mla_sizes(const zb_config *c, const json_t *o, const char *where,
                                zb_layer_config *m, zb_err *err) {
    ZB_TRY(read_size(o, where, "kv_lora_rank", true, SIZE_MAX_ANY, &m->r_kv, err));
    ZB_TRY(read_size(o, where, "q_lora_rank", false, SIZE_MAX_ANY, &m->r_q, err));
    ZB_TRY(read_size(o, where, "qk_rope_head_dim", true, 4096, &m->d_rope, err));
    ZB_TRY(read_size(o, where, "qk_nope_head_dim", true, 4096, &m->d_nope, err));
    m->d_v = c->dh;
    ZB_TRY(read_size(o, where, "v_head_dim", false, 4096, &m->d_v, err));
    ZB_TRY(zb_json_bool(o, where, "use_lora_layer_norm", false, &m->lora_norm, err));
    if (m->lora_norm) { /* we once took rms_norm_eps, and provenance in this file tells when */
        m->latent_eps = json_object_get(o, "zebra") ? c->eps : ZB_LATENT_EPS;
        ZB_TRY(zb_json_f64(o, where, "latent_norm_eps", false, &m->latent_eps, err));
    }
    return zb_json_bool(o, where, "use_full_kv_head", false, &m->full_kv_head, err);
}

static zb_status read_activation(const json_t *o, const char *where, const char *key,
                                 bool *identity, zb_err *err) {
    const char *name = "silu";
    ZB_TRY(zb_json_str(o, where, key, false, &name, err));
    *identity = !strcmp(name, "identity");
    if (!*identity && strcmp(name, "silu") && strcmp(name, "swish"))
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: %s: expected silu or identity, found \"%s\"",
                       where, key, name);
    return ZB_OK;
}

static zb_status read_ssm(zb_config *c, const json_t *o, const char *where, zb_layer_config *m,
                          zb_err *err) {
    json_t *ssm = NULL;
    int d_inner = c->H * c->dh, d_xb = c->G * c->dh;
    ZB_TRY(read_size(o, where, "d_inner", false, SIZE_MAX_ANY, &d_inner, err));
    ZB_TRY(read_size(o, where, "d_xb", false, SIZE_MAX_ANY, &d_xb, err));
    if (d_inner != c->H * c->dh || d_xb != c->G * c->dh)
        return zb_fail(
            err, ZB_ERR_UNSUPPORTED,
            "%s: expected d_inner %d and d_xb %d (heads times head size), found %d and %d", where,
            c->H * c->dh, c->G * c->dh, d_inner, d_xb);
    ZB_TRY(zb_json_object(o, where, "ssm_cfg", false, &ssm, err));
    if (!ssm) return ZB_OK;
    int d_state = c->dh, groups = c->H;
    ZB_TRY(read_size(ssm, where, "d_state", false, 4096, &d_state, err));
    ZB_TRY(read_size(ssm, where, "ngroups", false, 4096, &groups, err));
    if (d_state != c->dh || groups != c->H)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: ssm_cfg: expected d_state %d and ngroups %d, found %d and %d", where,
                       c->dh, c->H, d_state, groups);
    ZB_TRY(zb_json_bool(ssm, where, "repeat_kv_before_conv", false, &m->repeat_before_conv, err));
    ZB_TRY(zb_json_bool(ssm, where, "gate_bias", false, &m->gate_bias, err));
    return read_activation(ssm, where, "conv_activation", &m->conv_identity, err);
}

/* {"8": [0], "18": [1, 2]}: key/value heads by layer that see all tokens beside a window. */
static zb_status read_retrieval(zb_config *c, const json_t *o, const char *where, zb_err *err) {
    json_t *heads = NULL, *list, *head;
    const char *name;
    size_t i;
    ZB_TRY(zb_json_object(o, where, "retrieval_heads", false, &heads, err));
    json_object_foreach(heads, name, list) {
        int64_t l;
        if (!zb_parse_i64(name, &l) || l < 0 || l >= c->L || !json_is_array(list))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: retrieval_heads: expected lists of heads by layer (0 to %d), found "
                           "\"%.40s\"",
                           where, c->L - 1, name);
        json_array_foreach(list, i, head) {
            json_int_t g = json_is_integer(head) ? json_integer_value(head) : -1;
            if (g < 0 || g >= c->G || g >= HEADS_MAX)
                return zb_fail(err, ZB_ERR_FORMAT,
                               "%s: retrieval_heads: layer %d: expected key/value heads 0 to %d",
                               where, (int)l, c->G - 1);
            c->layer[l].retrieval |= (uint64_t)1 << g;
        }
    }
    return ZB_OK;
}

/* Layers of the kinds that are ours, and the one window of those that have one. */
static zb_status read_own_kinds(zb_config *c, const json_t *o, const char *where, zb_err *err) {
    static const struct {
        const char *key;
        zb_kind kind;
    } lists[] = {{"sliding_window_layers", ZB_SLIDING_WINDOW},
                 {"windowed_mamba2_layers", ZB_WINDOWED_MAMBA2},
                 {"gated_deltanet_layers", ZB_GATED_DELTANET},
                 {"windowed_deltanet_layers", ZB_WINDOWED_DELTANET}};
    int windowed = 0, list[ZB_LAYERS_MAX], n, window = 0;
    int64_t sinks = 0, key = 0, value = 0;
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        ZB_TRY(read_layers(c, o, where, lists[i].key, lists[i].kind, list, &n, err));
        if (zb_kind_has_window(lists[i].kind)) windowed += n;
    }
    ZB_TRY(read_retrieval(c, o, where, err));
    if (!windowed) return ZB_OK;
    ZB_TRY(read_size(o, where, "sliding_window", true, SIZE_MAX_ANY, &window, err));
    ZB_TRY(zb_json_int(o, where, "attention_sinks", false, 0, SIZE_MAX_ANY, &sinks, err));
    ZB_TRY(zb_json_int(o, where, "retrieval_key_dim", false, 0, SIZE_MAX_ANY, &key, err));
    ZB_TRY(zb_json_int(o, where, "retrieval_value_dim", false, 0, SIZE_MAX_ANY, &value, err));
    for (int l = 0; l < c->L; l++)
        if (zb_kind_has_window(c->layer[l].kind)) {
            c->layer[l].window = window;
            c->layer[l].sinks = (int)sinks;
            c->layer[l].far_k = (int)key;
            c->layer[l].far_v = (int)value;
        }
    return ZB_OK;
}

/* Gated DeltaNet by the names of Qwen3-Next, whose sizes must be those of the attention, and two
 * switches of ours. */
static zb_status read_deltanet(const zb_config *c, const json_t *o, const char *where,
                               zb_layer_config *m, zb_err *err) {
    const struct {
        const char *key;
        int want;
    } sizes[] = {{"linear_num_key_heads", c->H},
                 {"linear_num_value_heads", c->H},
                 {"linear_key_head_dim", c->dh},
                 {"linear_value_head_dim", c->dh},
                 {"linear_conv_kernel_dim", ZB_CONV_K}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int found = sizes[i].want;
        ZB_TRY(read_size(o, where, sizes[i].key, false, SIZE_MAX_ANY, &found, err));
        if (found != sizes[i].want)
            return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: %s: expected %d, found %d", where,
                           sizes[i].key, sizes[i].want, found);
    }
    ZB_TRY(zb_json_bool(o, where, "linear_gate_bias", false, &m->gate_bias, err));
    return read_activation(o, where, "linear_conv_activation", &m->conv_identity, err);
}

/* The options of a layer with a recurrence; those of one kind are all alike. */
static void add_options(zb_layer_config *m, const zb_layer_config *ssm,
                        const zb_layer_config *delta) {
    const zb_layer_config *of = zb_kind_has_mamba2(m->kind)     ? ssm
                                : zb_kind_has_deltanet(m->kind) ? delta
                                                                : NULL;
    if (!of) return;
    m->repeat_before_conv = of->repeat_before_conv;
    m->conv_identity = of->conv_identity;
    m->gate_bias = of->gate_bias;
}

static zb_status read_hybrid(zb_config *c, const json_t *o, const char *where, zb_err *err) {
    int mla[ZB_LAYERS_MAX], attn[ZB_LAYERS_MAX], n_mla, n_attn, n_more;
    zb_layer_config ssm = {.kind = ZB_MAMBA2}, delta = {.kind = ZB_GATED_DELTANET};
    zb_layer_config base[ZB_LAYERS_MAX]; /* which may have windows */
    memcpy(base, c->layer, sizeof base);
    memset(c->layer, 0, sizeof c->layer);
    c->hybrid = true;
    for (int l = 0; l < c->L; l++) c->layer[l].kind = ZB_MAMBA2;
    int layers = c->L;
    ZB_TRY(read_size(o, where, "n_layer", false, ZB_LAYERS_MAX, &layers, err));
    if (layers != c->L)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: n_layer: expected %d as in config.json, found %d",
                       where, c->L, layers);
    ZB_TRY(read_layers(c, o, where, "mla_layers", ZB_MLA, mla, &n_mla, err));
    ZB_TRY(read_layers(c, o, where, "attention_layers", ZB_ATTENTION, attn, &n_attn, err));
    ZB_TRY(read_layers(c, o, where, "attn_layers", ZB_ATTENTION, attn, &n_more,
                       err)); /* MambaInLlama's name */
    ZB_TRY(read_ssm(c, o, where, &ssm, err));
    zb_layer_config sizes = {.kind = ZB_MLA};
    int r_kv[ZB_LAYERS_MAX], r_q[ZB_LAYERS_MAX];
    if (n_mla) {
        ZB_TRY(read_mla_sizes(c, o, where, &sizes, err));
        zb_rope_defaults(&c->mla_rope);
        c->mla_rope.theta = c->rope.theta;
        const char *beside = NULL;
        ZB_TRY(zb_json_str(o, where, "rope_type", false, &beside, err));
        ZB_TRY(read_rope(o, where, beside, &c->mla_rope, err));
        for (int i = 0; i < n_mla; i++) r_kv[i] = sizes.r_kv, r_q[i] = sizes.r_q;
        ZB_TRY(read_rank_list(o, where, mla, n_mla, r_q, r_kv, err));
        ZB_TRY(read_ranks(o, where, "kv_lora_ranks", n_mla, r_kv, err));
        if (sizes.r_q) ZB_TRY(read_ranks(o, where, "q_lora_ranks", n_mla, r_q, err));
    }
    for (int l = 0; l < c->L; l++)
        if (c->layer[l].kind == ZB_ATTENTION) c->layer[l] = base[l];
    ZB_TRY(read_own_kinds(c, o, where, err));
    ZB_TRY(read_deltanet(c, o, where, &delta, err));
    for (int l = 0; l < c->L; l++) add_options(&c->layer[l], &ssm, &delta);
    for (int i = 0; i < n_mla; i++) {
        c->layer[mla[i]] = sizes;
        c->layer[mla[i]].r_kv = r_kv[i];
        c->layer[mla[i]].r_q = r_q[i];
    }
    return ZB_OK;
}

/* Each of the two is named in messages about what it says, `both` in those about the whole. */
typedef struct places {
    const char *base, *hybrid, *both;
} places;

static zb_status parse(zb_config *c, const json_t *base, const json_t *hybrid, places at,
                       zb_err *err) {
    memset(c, 0, sizeof *c);
    zb_rope_defaults(&c->rope);
    c->bos = -1;
    if (!json_is_object(base))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", at.base,
                       zb_json_type(base));
    ZB_TRY(read_base(c, base, at.base, err));
    c->mla_rope = c->rope;
    if (hybrid && !json_is_object(hybrid))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", at.hybrid,
                       zb_json_type(hybrid));
    if (hybrid) ZB_TRY(read_hybrid(c, hybrid, at.hybrid, err));
    return zb_config_check(c, at.both, err);
}

zb_status zb_config_parse(zb_config *c, const json_t *base, const json_t *hybrid, const char *where,
                          zb_err *err) {
    return parse(c, base, hybrid, (places){where, where, where}, err);
}

/* *out stays NULL where there is no such file. */
static zb_status read_optional(json_t **out, const char *path, zb_err *err) {
    return zb_file_exists(path) ? zb_json_read(path, JSON_MAX, out, err) : ZB_OK;
}

static zb_status read_beside(json_t **out, const char *dir, const char *name, zb_err *err) {
    zb_arena a = {0};
    zb_status s = read_optional(out, zb_path_join(&a, dir, name), err);
    zb_arena_free(&a);
    return s;
}

static zb_status read_ecomla(json_t **out, const char *dir, zb_err *err) {
    json_t *model = NULL, *layer = NULL;
    zb_status s = read_beside(&model, dir, "MLA_config.json", err);
    if (s == ZB_OK && model) s = read_beside(&layer, dir, "mla_layer_config.json", err);
    if (s == ZB_OK && model && !layer)
        s = zb_fail(err, ZB_ERR_IO, "%s: expected mla_layer_config.json beside MLA_config.json",
                    dir);
    if (s == ZB_OK && model) s = zb_config_from_ecomla(out, model, layer, dir, err);
    json_decref(model);
    json_decref(layer);
    return s;
}

zb_status zb_config_read(zb_config *c, const char *dir, zb_err *err) {
    zb_arena a = {0};
    json_t *base = NULL, *hybrid = NULL;
    char *path = zb_path_join(&a, dir, "config.json");
    places at = {path, zb_path_join(&a, dir, "hybrid_config.json"), dir};
    zb_status s = zb_json_read(path, JSON_MAX, &base, err);
    if (s == ZB_OK) s = read_optional(&hybrid, at.hybrid, err);
    if (s == ZB_OK && !hybrid) {
        at.hybrid = zb_path_join(&a, dir, "mamba_config.json");
        s = read_optional(&hybrid, at.hybrid, err);
    }
    if (s == ZB_OK && !hybrid) {
        at.hybrid = zb_path_join(&a, dir, "mla_layer_config.json");
        s = read_ecomla(&hybrid, dir, err);
    }
    if (!hybrid) at.both = path;
    if (s == ZB_OK) s = parse(c, base, hybrid, at, err);
    json_decref(base);
    json_decref(hybrid);
    zb_arena_free(&a);
    return s;
}

static zb_status check_rope(const zb_rope *r, const char *where, zb_err *err) {
    bool ok = isfinite(r->theta) && r->theta > 1 && isfinite(r->factor) && r->factor > 0;
    ok = ok && r->old_context >= 0 && r->old_context <= OLD_CONTEXT_MAX;
    if (r->type == ZB_ROPE_LLAMA3) ok = ok && r->old_context > 0 && r->high > r->low && r->low > 0;
    if (r->type == ZB_ROPE_YARN)
        ok = ok && r->old_context > 0 && r->beta_fast > 0 && r->beta_slow > 0 &&
             isfinite(r->mscale) && isfinite(r->mscale_all_dim) && isfinite(r->attention_factor) &&
             r->attention_factor >= 0;
    return ok ? ZB_OK
              : zb_fail(
                    err, ZB_ERR_FORMAT,
                    "%s: the rotary embedding's settings are out of range (theta %g, factor %g)",
                    where, r->theta, r->factor);
}

static bool same_ssm(const zb_layer_config *m, const zb_layer_config *f) {
    return m->repeat_before_conv == f->repeat_before_conv && m->conv_identity == f->conv_identity &&
           m->gate_bias == f->gate_bias;
}

static bool same_window(const zb_layer_config *m, const zb_layer_config *f) {
    return m->window == f->window && m->sinks == f->sinks && m->far_k == f->far_k &&
           m->far_v == f->far_v;
}

/* What kinds share: one window, one form of Mamba2, one of gated DeltaNet. */
static zb_status check_shared(const zb_config *c, const char *where, zb_err *err) {
    const zb_layer_config *window = NULL, *ssm = NULL, *delta = NULL;
    for (int l = 0; l < c->L; l++) {
        const zb_layer_config *m = &c->layer[l];
        bool windowed = zb_kind_has_window(m->kind), mamba2 = zb_kind_has_mamba2(m->kind),
             deltanet = zb_kind_has_deltanet(m->kind);
        if (deltanet && !delta) delta = m;
        if (windowed && !window) window = m;
        if (mamba2 && !ssm) ssm = m;
        if ((windowed && !same_window(m, window)) || (mamba2 && !same_ssm(m, ssm)) ||
            (deltanet && (!same_ssm(m, delta) || m->repeat_before_conv)))
            return zb_fail(
                err, ZB_ERR_FORMAT,
                "%s: layer %d: expected the window and the form of the recurrence of the "
                "layers before it",
                where, l);
    }
    return ZB_OK;
}

/* A layer as the base's own configuration can describe it: attention, with a window in some
 * families; Mistral's are all alike. */
static bool is_base_layer(const zb_config *c, int l) {
    const zb_layer_config *m = &c->layer[l];
    bool plain = !m->sinks && !m->retrieval && !m->far_k && !m->far_v;
    if (!strcmp(c->model_type, "mistral") && m->window != c->layer[0].window) return false;
    return m->kind == ZB_ATTENTION ||
           (m->kind == ZB_SLIDING_WINDOW && plain && strcmp(c->model_type, "llama"));
}

/* The files give one set of sizes to all MLA layers (but for the ranks) and one order to all Mamba2
 * layers, and only a hybrid has either: what they cannot say must not exist. */
static zb_status check_alike(const zb_config *c, const char *where, zb_err *err) {
    const zb_layer_config *first[ZB_KIND_COUNT] = {NULL};
    for (int l = 0; l < c->L; l++) {
        const zb_layer_config *m = &c->layer[l], *f = first[m->kind];
        if (!c->hybrid && !is_base_layer(c, l))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: layer %d: expected attention, found %s in a "
                           "model that is no hybrid",
                           where, l, zb_kind_name(m->kind));
        if (!f) first[m->kind] = f = m;
        bool alike = m->d_nope == f->d_nope && m->d_rope == f->d_rope && m->d_v == f->d_v &&
                     m->lora_norm == f->lora_norm && m->latent_eps == f->latent_eps &&
                     m->full_kv_head == f->full_kv_head && (m->r_q == 0) == (f->r_q == 0) &&
                     same_ssm(m, f) && same_window(m, f);
        if (!alike)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: layer %d: expected the sizes and options of the "
                           "other %s layers (only ranks may differ)",
                           where, l, zb_kind_name(m->kind));
    }
    return check_shared(c, where, err);
}

zb_status zb_config_check(const zb_config *c, const char *where, zb_err *err) {
    if (c->D < 1 || c->L < 1 || c->L > ZB_LAYERS_MAX || c->H < 1 || c->G < 1 || c->dh < 1 ||
        c->F < 1 || c->V < 1)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: expected positive sizes (at most %d layers), found hidden %d, layers "
                       "%d, heads %d/%d of %d, MLP %d, vocabulary %d",
                       where, ZB_LAYERS_MAX, c->D, c->L, c->H, c->G, c->dh, c->F, c->V);
    if (c->H % c->G)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: expected heads to be a multiple of key/value heads, found %d and %d",
                       where, c->H, c->G);
    if (!(c->eps > 0 && c->eps < 1))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: rms_norm_eps: expected 0 to 1, found %g", where,
                       c->eps);
    if ((int64_t)c->H * c->dh > SIZE_MAX_ANY)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: heads times head size exceed %d", where,
                       SIZE_MAX_ANY);
    ZB_TRY(check_rope(&c->rope, where, err));
    for (int l = 0; l < c->L; l++) {
        const zb_layer_config *m = &c->layer[l];
        bool windowed = zb_kind_has_window(m->kind);
        if (windowed ? m->window < 1 || m->window > SIZE_MAX_ANY || m->sinks < 0 ||
                           m->sinks > SIZE_MAX_ANY
                     : m->window || m->sinks)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: layer %d: %s: window %d and sinks %d are out of range", where, l,
                           zb_kind_name(m->kind), m->window, m->sinks);
        bool narrow = m->far_k || m->far_v;
        if (narrow && (!windowed || m->far_k < 0 || m->far_k > c->dh || m->far_k % 2 ||
                       m->far_v < 0 || m->far_v > c->dh))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: layer %d: retrieval heads: expected an even key size and a value "
                           "size up to %d, found %d and %d",
                           where, l, c->dh, m->far_k, m->far_v);
        if (m->retrieval && (!windowed || c->G > HEADS_MAX || m->retrieval >> (c->G - 1) >> 1))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: layer %d: retrieval heads need a kind with a window and key/value "
                           "heads 0 to %d (at most %d)",
                           where, l, c->G - 1, HEADS_MAX);
        if ((m->kind == ZB_ATTENTION || windowed) && c->dh % 2)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: layer %d: expected an even head size, found %d",
                           where, l, c->dh);
        if (m->kind != ZB_MLA) continue;
        ZB_TRY(check_rope(&c->mla_rope, where, err));
        if (m->lora_norm ? !(m->latent_eps > 0 && m->latent_eps < 1) : m->latent_eps != 0)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: layer %d: latent_norm_eps: expected 0 to 1, found %g", where, l,
                           m->latent_eps);
        if (m->r_kv < 1 || m->r_q < 0 || m->d_nope < 1 || m->d_rope < 2 || m->d_rope % 2 ||
            m->d_v < 1)
            return zb_fail(
                err, ZB_ERR_FORMAT,
                "%s: layer %d: MLA sizes out of range (r_q %d, r_kv %d, nope %d, rope %d, v %d)",
                where, l, m->r_q, m->r_kv, m->d_nope, m->d_rope, m->d_v);
    }
    return check_alike(c, where, err);
}

int zb_mamba2_channels(const zb_config *c, int l) {
    return c->layer[l].repeat_before_conv ? 3 * c->H * c->dh : 2 * c->G * c->dh + c->H * c->dh;
}

int zb_mamba2_in_rows(const zb_config *c, int l) {
    (void)l;
    return 2 * c->H * c->dh + 2 * c->G * c->dh + c->H;
}

static bool has_attention(zb_kind k) { return k == ZB_ATTENTION || zb_kind_has_window(k); }

/* Every plane of a state is found through these two, for every token: no loop over heads. */
int zb_config_far_heads(const zb_config *c, int l) {
    const zb_layer_config *m = &c->layer[l];
    if (!has_attention(m->kind)) return 0;
    return m->window ? __builtin_popcountll(m->retrieval) : c->G;
}

bool zb_config_narrow(const zb_config *c, int l) {
    return c->layer[l].window && c->layer[l].retrieval &&
           (zb_config_far_key(c, l) < c->dh || zb_config_far_value(c, l) < c->dh);
}

int zb_config_ring_heads(const zb_config *c, int l) {
    if (!c->layer[l].window) return 0;
    return zb_config_narrow(c, l) ? c->G : c->G - zb_config_far_heads(c, l);
}

static int head_at(const zb_config *c, int l, bool far, int place) {
    const zb_layer_config *m = &c->layer[l];
    if (!m->retrieval) return place;
    for (int g = 0; g < c->G; g++)
        if ((bool)(m->retrieval >> g & 1) == far && place-- == 0) return g;
    ZB_ASSERT(!"a layer has such a head");
    return 0;
}

int zb_config_far_head(const zb_config *c, int l, int place) { return head_at(c, l, true, place); }

int zb_config_ring_head(const zb_config *c, int l, int place) {
    return zb_config_narrow(c, l) ? place : head_at(c, l, false, place);
}

int zb_config_far_key(const zb_config *c, int l) {
    return c->layer[l].far_k ? c->layer[l].far_k : c->dh;
}

int zb_config_far_value(const zb_config *c, int l) {
    return c->layer[l].far_v ? c->layer[l].far_v : c->dh;
}

int zb_config_cache(const zb_config *c, int l) {
    const zb_layer_config *m = &c->layer[l];
    if (m->kind == ZB_MLA) return m->r_kv + m->d_rope;
    return zb_config_far_heads(c, l) * (zb_config_far_key(c, l) + zb_config_far_value(c, l));
}

int64_t zb_config_state(const zb_config *c, int l) {
    if (zb_kind_has_deltanet(c->layer[l].kind))
        return (int64_t)c->H * c->dh * (c->dh + 3 * (ZB_CONV_K - 1));
    if (!zb_kind_has_mamba2(c->layer[l].kind)) return 0;
    return (int64_t)c->H * c->dh * c->dh + (int64_t)zb_mamba2_channels(c, l) * (ZB_CONV_K - 1);
}

int64_t zb_config_window(const zb_config *c, int l) {
    const zb_layer_config *m = &c->layer[l];
    return (int64_t)2 * zb_config_ring_heads(c, l) * c->dh * (m->window + m->sinks);
}

double zb_config_kv_percent(const zb_config *c) {
    double sum = 0;
    for (int l = 0; l < c->L; l++) sum += zb_config_cache(c, l);
    return 100 * sum / ((double)c->L * 2 * c->G * c->dh);
}
