/* config_write.c - config.json and hybrid_config.json in the published layout (contract in
 * config.h).
 *
 * Written so that the reader of config.c gives back the same struct: a test compares them byte for
 * byte. And so that the original code takes hybrid_config.json, whose class knows a fixed set of
 * keys and refuses any other: provenance stands in config.json, keys of ours (config.c) only where
 * a model needs them. A model of MLA and Mamba2 layers with plain, linear or YaRN rotary embedding
 * needs none, unless its Mamba2 layers have a calibrated start (conv_activation, gate_bias). What
 * the original cannot say, our keys do: kept attention beside MLA or Mamba2, windows, retrieval
 * heads, gated DeltaNet, another epsilon of the latents' norms. It has no Llama 3 scaling in MLA
 * layers either. */
#include "base/file.h"
#include "base/json.h"
#include "model/config.h"

#include <stdio.h>
#include <string.h>

static const char *const rope_names[] = {"default", "linear", "llama3", "yarn"};

static json_t *rope_json(const zb_rope *r) {
    if (r->type == ZB_ROPE_PLAIN) return json_null();
    json_t *o = json_object();
    json_object_set_new(o, "rope_type", json_string(rope_names[r->type]));
    json_object_set_new(o, "type", json_string(rope_names[r->type]));
    json_object_set_new(o, "factor", json_real(r->factor));
    if (r->type == ZB_ROPE_LLAMA3) {
        json_object_set_new(o, "low_freq_factor", json_real(r->low));
        json_object_set_new(o, "high_freq_factor", json_real(r->high));
    }
    if (r->type == ZB_ROPE_YARN) {
        json_object_set_new(o, "beta_fast", json_real(r->beta_fast));
        json_object_set_new(o, "beta_slow", json_real(r->beta_slow));
        json_object_set_new(o, "mscale", json_real(r->mscale));
        json_object_set_new(o, "mscale_all_dim", json_real(r->mscale_all_dim));
        if (r->attention_factor > 0)
            json_object_set_new(o, "attention_factor", json_real(r->attention_factor));
    }
    if (r->type != ZB_ROPE_LINEAR)
        json_object_set_new(o, "original_max_position_embeddings",
                            json_integer((json_int_t)r->old_context));
    return o;
}

/* Windows of the base's own layers, in the words of its family. Mistral's class has a window where
 * the key is missing. */
static void add_base_windows(json_t *o, const zb_config *c) {
    bool mistral = !strcmp(c->model_type, "mistral");
    int first = c->L;
    json_t *types = json_array();
    for (int l = c->L - 1; l >= 0; l--) {
        bool windowed = !c->hybrid && c->layer[l].window;
        if (windowed) first = l;
        json_array_insert_new(types, 0,
                              json_string(windowed ? "sliding_attention" : "full_attention"));
    }
    bool any = first < c->L;
    if (mistral || any)
        json_object_set_new(o, "sliding_window",
                            any ? json_integer(c->layer[first].window) : json_null());
    if (any && !mistral) {
        json_object_set_new(o, "use_sliding_window", json_true());
        json_object_set_new(o, "max_window_layers", json_integer(first));
        json_object_set(o, "layer_types", types);
    }
    json_decref(types);
}

json_t *zb_config_base_json(const zb_config *c) {
    bool qwen = !strcmp(c->model_type, "qwen2");
    json_t *o = json_object();
    json_object_set_new(o, "architectures",
                        json_pack("[s]", qwen                                ? "Qwen2ForCausalLM"
                                         : !strcmp(c->model_type, "mistral") ? "MistralForCausalLM"
                                                                             : "LlamaForCausalLM"));
    json_object_set_new(o, "model_type", json_string(c->model_type));
    json_object_set_new(o, "hidden_size", json_integer(c->D));
    json_object_set_new(o, "intermediate_size", json_integer(c->F));
    json_object_set_new(o, "num_hidden_layers", json_integer(c->L));
    json_object_set_new(o, "num_attention_heads", json_integer(c->H));
    json_object_set_new(o, "num_key_value_heads", json_integer(c->G));
    json_object_set_new(o, "head_dim", json_integer(c->dh));
    json_object_set_new(o, "vocab_size", json_integer(c->V));
    json_object_set_new(o, "hidden_act", json_string("silu"));
    json_object_set_new(o, "rms_norm_eps", json_real(c->eps));
    json_object_set_new(o, "rope_theta", json_real(c->rope.theta));
    json_object_set_new(o, "rope_scaling", rope_json(&c->rope));
    json_object_set_new(o, "tie_word_embeddings", json_boolean(c->tied));
    json_object_set_new(o, "max_position_embeddings", json_integer(c->context_max));
    if (!qwen) json_object_set_new(o, "attention_bias", json_boolean(c->qkv_bias));
    json_object_set_new(o, "mlp_bias", json_boolean(c->mlp_bias));
    if (c->bos >= 0) json_object_set_new(o, "bos_token_id", json_integer(c->bos));
    if (c->n_eos == 1) json_object_set_new(o, "eos_token_id", json_integer(c->eos[0]));
    if (c->n_eos > 1) {
        json_t *eos = json_array();
        for (int i = 0; i < c->n_eos; i++) json_array_append_new(eos, json_integer(c->eos[i]));
        json_object_set_new(o, "eos_token_id", eos);
    }
    add_base_windows(o, c);
    json_object_set_new(o, "torch_dtype", json_string("float32"));
    return o;
}

/* The original wants one pair of ranks that are multiples of 8, and takes what a layer really has,
 * any number, from layer_rank_list. */
static int rounded(int rank) { return rank ? (rank + 7) / 8 * 8 : 8; }

/* {"q_rank": ..., "kv_rank": ...}; a null q_rank is a query map without a low rank. */
static json_t *ranks_json(const zb_layer_config *m) {
    json_t *o = json_object();
    json_object_set_new(o, "q_rank", m->r_q ? json_integer(m->r_q) : json_null());
    json_object_set_new(o, "kv_rank", json_integer(m->r_kv));
    return o;
}

/* Sizes shared by all MLA layers, and per-layer ranks where those do not say them. */
static void add_mla(json_t *o, const zb_config *c) {
    const zb_layer_config none = {.r_q = 8, .r_kv = 8, .d_nope = c->dh, .d_rope = 2, .d_v = c->dh},
                          *first = NULL;
    json_t *list = json_object();
    bool listed = false;
    for (int l = 0; l < c->L; l++) {
        const zb_layer_config *m = &c->layer[l];
        char name[16];
        if (m->kind != ZB_MLA) continue;
        if (!first) first = m;
        listed = listed || m->r_kv != rounded(first->r_kv) || m->r_q != rounded(first->r_q);
        snprintf(name, sizeof name, "%d", l);
        json_object_set_new(list, name, ranks_json(m));
    }
    const zb_layer_config *m = first ? first : &none;
    json_object_set_new(o, "kv_lora_rank", json_integer(rounded(m->r_kv)));
    json_object_set_new(o, "q_lora_rank", json_integer(rounded(m->r_q)));
    json_object_set_new(o, "qkv_rank_divisor", json_integer(8));
    json_object_set_new(o, "use_lora_layer_norm", json_boolean(m->lora_norm));
    if (m->lora_norm && m->latent_eps != ZB_LATENT_EPS)
        json_object_set_new(o, "latent_norm_eps", json_real(m->latent_eps));
    json_object_set_new(o, "use_full_kv_head", json_boolean(m->full_kv_head));
    json_object_set_new(o, "num_key_value_heads", json_integer(m->full_kv_head ? c->H : c->G));
    json_object_set_new(o, "qk_rope_head_dim", json_integer(m->d_rope));
    json_object_set_new(o, "v_head_dim", json_integer(m->d_v));
    json_object_set_new(o, "qk_nope_head_dim", json_integer(m->d_nope));
    if (listed) json_object_set(o, "layer_rank_list", list);
    json_decref(list);
}

json_t *zb_config_retrieval_json(const zb_config *c, int l) {
    json_t *heads = json_array();
    for (int i = 0; i < zb_config_far_heads(c, l); i++)
        json_array_append_new(heads, json_integer(zb_config_far_head(c, l, i)));
    return heads;
}

/* Lists of key/value heads by layer, and their sizes, which the layer m has like all others. */
static void add_retrieval(json_t *o, const zb_config *c, const zb_layer_config *m) {
    json_t *layers = json_object();
    for (int l = 0; l < c->L; l++) {
        if (!c->layer[l].retrieval) continue;
        char name[16];
        snprintf(name, sizeof name, "%d", l);
        json_object_set_new(layers, name, zb_config_retrieval_json(c, l));
    }
    if (json_object_size(layers)) json_object_set(o, "retrieval_heads", layers);
    if (m->far_k) json_object_set_new(o, "retrieval_key_dim", json_integer(m->far_k));
    if (m->far_v) json_object_set_new(o, "retrieval_value_dim", json_integer(m->far_v));
    json_decref(layers);
}

/* Layers with a window, and their one window. */
static void add_window(json_t *o, const zb_config *c) {
    const zb_layer_config *m = NULL;
    for (int l = 0; l < c->L; l++)
        if (c->layer[l].window) m = &c->layer[l];
    if (!m) return;
    json_object_set_new(o, "sliding_window", json_integer(m->window));
    json_object_set_new(o, "attention_sinks", json_integer(m->sinks));
    add_retrieval(o, c, m);
}

static void add_deltanet(json_t *o, const zb_config *c) {
    const zb_layer_config *m = NULL;
    for (int l = 0; l < c->L; l++)
        if (zb_kind_has_deltanet(c->layer[l].kind)) m = &c->layer[l];
    if (!m) return;
    json_object_set_new(o, "linear_num_key_heads", json_integer(c->H));
    json_object_set_new(o, "linear_num_value_heads", json_integer(c->H));
    json_object_set_new(o, "linear_key_head_dim", json_integer(c->dh));
    json_object_set_new(o, "linear_value_head_dim", json_integer(c->dh));
    json_object_set_new(o, "linear_conv_kernel_dim", json_integer(ZB_CONV_K));
    if (m->conv_identity) json_object_set_new(o, "linear_conv_activation", json_string("identity"));
    if (m->gate_bias) json_object_set_new(o, "linear_gate_bias", json_true());
}

/* The layers of a kind; the key is left out where there are none. */
static void add_layers(json_t *o, const zb_config *c, const char *key, zb_kind kind) {
    json_t *list = json_array();
    for (int l = 0; l < c->L; l++)
        if (c->layer[l].kind == kind) json_array_append_new(list, json_integer(l));
    if (json_array_size(list)) json_object_set(o, key, list);
    json_decref(list);
}

json_t *zb_config_hybrid_json(const zb_config *c) {
    json_t *o = json_object(), *mla = json_array();
    zb_layer_config ssm = {0}; /* of the Mamba2 layers, which are all alike */
    for (int l = 0; l < c->L; l++) {
        if (c->layer[l].kind == ZB_MLA) json_array_append_new(mla, json_integer(l));
        if (zb_kind_has_mamba2(c->layer[l].kind)) ssm = c->layer[l];
    }
    json_object_set_new(o, "hidden_size", json_integer(c->D));
    json_object_set_new(o, "intermediate_size", json_integer(c->F));
    json_object_set_new(o, "hidden_act", json_string("silu"));
    json_object_set_new(o, "n_layer", json_integer(c->L));
    json_object_set_new(o, "mla_layers", mla);
    add_layers(o, c, "attention_layers", ZB_ATTENTION);
    add_layers(o, c, "sliding_window_layers", ZB_SLIDING_WINDOW);
    add_layers(o, c, "windowed_mamba2_layers", ZB_WINDOWED_MAMBA2);
    add_layers(o, c, "gated_deltanet_layers", ZB_GATED_DELTANET);
    add_layers(o, c, "windowed_deltanet_layers", ZB_WINDOWED_DELTANET);
    add_window(o, c);
    add_deltanet(o, c);
    json_object_set_new(o, "rms_norm_eps", json_real(c->eps));
    json_object_set_new(o, "num_attention_heads", json_integer(c->H));
    add_mla(o, c);
    json_object_set_new(o, "max_position_embeddings", json_integer(c->context_max));
    json_object_set_new(o, "rope_theta", json_real(c->mla_rope.theta));
    json_object_set_new(o, "rope_scaling", rope_json(&c->mla_rope));
    json_object_set_new(o, "rope_type", json_string(rope_names[c->mla_rope.type]));
    /* of the MLA layers, which never have one; attention layers follow config.json */
    json_object_set_new(o, "attention_bias", json_false());
    json_object_set_new(o, "attention_dropout", json_real(0));
    json_object_set_new(o, "d_model", json_integer(c->D));
    json_t *cfg = json_pack("{s:i,s:i,s:i,s:b}", "expand", 1, "ngroups", c->H, "d_state", c->dh,
                            "repeat_kv_before_conv", ssm.repeat_before_conv);
    /* the original asks that it divides d_inner, and takes 64 where the key is missing */
    if (c->H * c->dh % 64) json_object_set_new(cfg, "headdim", json_integer(c->dh));
    if (ssm.conv_identity) json_object_set_new(cfg, "conv_activation", json_string("identity"));
    if (ssm.gate_bias) json_object_set_new(cfg, "gate_bias", json_true());
    json_object_set_new(o, "ssm_cfg", cfg);
    json_object_set_new(o, "d_inner", json_integer(c->H * c->dh));
    json_object_set_new(o, "d_xb", json_integer(c->G * c->dh));
    return o;
}

bool zb_config_is_published(const zb_config *c) {
    for (int l = 0; l < c->L; l++) {
        const zb_layer_config *m = &c->layer[l];
        bool mla = m->kind == ZB_MLA;
        if (!mla && m->kind != ZB_MAMBA2) return false;
        if (m->conv_identity || m->gate_bias) return false;
        if (mla && m->lora_norm && m->latent_eps != ZB_LATENT_EPS) return false;
        if (mla && (c->mla_rope.type == ZB_ROPE_LLAMA3 || c->mla_rope.attention_factor > 0))
            return false;
    }
    return c->hybrid;
}

zb_status zb_config_write(const zb_config *c, const char *dir, zb_dtype stored,
                          const json_t *provenance, zb_err *err) {
    const char *type = stored == ZB_BF16 ? "bfloat16" : stored == ZB_F16 ? "float16" : "float32";
    zb_arena a = {0};
    json_t *base = zb_config_base_json(c), *hybrid = c->hybrid ? zb_config_hybrid_json(c) : NULL;
    json_object_set_new(base, "torch_dtype", json_string(type));
    if (provenance) json_object_set(base, "zebra", (json_t *)(uintptr_t)provenance);
    zb_status s = zb_json_write(zb_path_join(&a, dir, "config.json"), base, err);
    if (s == ZB_OK && hybrid)
        s = zb_json_write(zb_path_join(&a, dir, "hybrid_config.json"), hybrid, err);
    json_decref(base);
    json_decref(hybrid);
    zb_arena_free(&a);
    return s;
}
