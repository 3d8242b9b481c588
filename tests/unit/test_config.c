/* Model descriptions: published files of every family read to the right values, broken ones refused
 * with a message that names the place, what was expected and what was found, and the writer's files
 * read back to the same struct. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "model/config.h"

/* Llama-3.2-1B-Instruct's config.json, keys that matter and some that do not. */
static const char llama32[] = "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,"
                              "\"attention_dropout\":0.0,\"bos_token_id\":128000,"
                              "\"eos_token_id\":[128001,128008,128009],\"head_dim\":64,\"hidden_"
                              "act\":\"silu\",\"hidden_size\":2048,"
                              "\"initializer_range\":0.02,\"intermediate_size\":8192,\"max_"
                              "position_embeddings\":131072,\"mlp_bias\":false,"
                              "\"model_type\":\"llama\",\"num_attention_heads\":32,\"num_hidden_"
                              "layers\":16,\"num_key_value_heads\":8,"
                              "\"pretraining_tp\":1,\"rms_norm_eps\":1e-05,\"rope_scaling\":{"
                              "\"factor\":32.0,\"high_freq_factor\":4.0,"
                              "\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,"
                              "\"rope_type\":\"llama3\"},\"rope_theta\":500000.0,"
                              "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"use_"
                              "cache\":true,\"vocab_size\":128256}";

/* hybrid_config.json as the published training code writes it for that base with four MLA layers.
 */
static const char zebra[] =
    "{\"hidden_size\":2048,\"intermediate_size\":8192,\"hidden_act\":\"silu\",\"n_layer\":16,\"mla_"
    "layers\":[0,5,10,14],"
    "\"rms_norm_eps\":1e-05,\"num_attention_heads\":32,\"num_key_value_heads\":8,\"kv_lora_rank\":"
    "128,\"q_lora_rank\":1344,"
    "\"use_lora_layer_norm\":false,\"use_fixed_rank_for_first_and_last_block\":false,\"use_full_kv_"
    "head\":false,"
    "\"layer_rank_list\":{},\"qk_rope_head_dim\":32,\"v_head_dim\":64,\"qk_nope_head_dim\":32,\"q_"
    "energy_ratio\":null,"
    "\"kv_energy_ratio\":null,\"qkv_rank_divisor\":8,\"max_position_embeddings\":131072,\"rope_"
    "theta\":500000.0,"
    "\"rope_scaling\":{\"factor\":32.0,\"original_max_position_embeddings\":8192,\"rope_type\":"
    "\"yarn\"},"
    "\"attention_bias\":false,\"attention_dropout\":0.0,\"rope_type\":\"yarn\",\"d_model\":2048,"
    "\"ssm_cfg\":{\"expand\":1,"
    "\"ngroups\":32,\"d_state\":64,\"repeat_kv_before_conv\":false},\"d_inner\":2048,\"d_xb\":512}";

/* mamba_config.json of MambaInLlama: attention kept in some layers, Mamba2 elsewhere. */
static const char mamba_in_llama[] =
    "{\"d_model\":2048,\"ssm_cfg\":{\"expand\":1,\"ngroups\":32,\"d_state\":64,\"repeat_kv_before_"
    "conv\":true},"
    "\"rms_norm_eps\":1e-05,\"vocab_size\":null,\"d_inner\":2048,\"d_xb\":512,\"intermediate_"
    "size\":8192,"
    "\"hidden_act\":\"silu\",\"n_layer\":16,\"attn_layers\":[1,5,9,13]}";

static json_t *tree(const char *text) {
    json_t *o;
    zb_err err = {0};
    if (zb_json_parse(text, strlen(text), "test", &o, &err) != ZB_OK) fail_msg("%s", err.msg);
    return o;
}

static zb_config parsed(const char *base, const char *hybrid) {
    zb_config c;
    zb_err err = {0};
    json_t *b = tree(base), *h = hybrid ? tree(hybrid) : NULL;
    if (zb_config_parse(&c, b, h, "test", &err) != ZB_OK) fail_msg("%s", err.msg);
    json_decref(b);
    json_decref(h);
    return c;
}

static void test_llama(void **state) {
    (void)state;
    zb_config c = parsed(llama32, NULL);
    assert_string_equal(c.model_type, "llama");
    assert_true(c.D == 2048 && c.L == 16 && c.H == 32 && c.G == 8 && c.dh == 64 && c.F == 8192 &&
                c.V == 128256);
    assert_true(c.eps == 1e-5 && c.tied && !c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.hybrid &&
                c.context_max == 131072);
    assert_true(c.bos == 128000 && c.n_eos == 3 && c.eos[0] == 128001 && c.eos[2] == 128009);
    assert_true(c.rope.type == ZB_ROPE_LLAMA3 && c.rope.theta == 500000 && c.rope.factor == 32 &&
                c.rope.low == 1 && c.rope.high == 4 && c.rope.old_context == 8192);
    for (int l = 0; l < 16; l++) assert_int_equal(c.layer[l].kind, ZB_ATTENTION);
    assert_true(zb_config_kv_percent(&c) == 100);
}

/* What a minimal or older file leaves out. */
static void test_defaults(void **state) {
    (void)state;
    zb_config c = parsed("{\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
                         "\"intermediate_size\":96,\"vocab_size\":50}",
                         NULL);
    assert_true(c.G == 4 && c.dh == 16 && !c.tied && c.bos == -1 && c.n_eos == 0 && c.eps == 1e-6 &&
                c.context_max == 2048);
    assert_true(c.rope.type == ZB_ROPE_PLAIN && c.rope.theta == 10000);
    c = parsed("{\"model_type\":\"qwen2\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_"
               "attention_heads\":4,\"num_key_value_heads\":null,"
               "\"intermediate_size\":96,\"vocab_size\":50,\"rope_scaling\":null,\"eos_token_id\":"
               "null,\"bos_token_id\":null,\"head_dim\":20}",
               NULL);
    assert_true(c.qkv_bias && !c.o_bias && c.dh == 20 && c.G == 4 && c.context_max == 32768);
    c = parsed(
        "{\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_"
        "size\":96,\"vocab_size\":50,\"attention_bias\":true,\"mlp_bias\":true,\"eos_token_id\":7,"
        "\"rope_parameters\":{\"rope_theta\":5000,\"rope_type\":\"linear\",\"factor\":4}}",
        NULL);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias && c.n_eos == 1 && c.eos[0] == 7);
    assert_true(c.rope.type == ZB_ROPE_LINEAR && c.rope.theta == 5000 && c.rope.factor == 4);
    c = parsed(
        "{\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_"
        "size\":96,\"vocab_size\":50,\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}",
        NULL);
    assert_int_equal(c.rope.type, ZB_ROPE_PLAIN);
}

static void test_zebra(void **state) {
    (void)state;
    zb_config c = parsed(llama32, zebra);
    assert_true(c.hybrid);
    for (int l = 0; l < 16; l++) {
        const zb_layer_config *m = &c.layer[l];
        bool mla = l == 0 || l == 5 || l == 10 || l == 14;
        assert_int_equal(m->kind, mla ? ZB_MLA : ZB_MAMBA2);
        if (mla)
            assert_true(m->r_q == 1344 && m->r_kv == 128 && m->d_rope == 32 && m->d_nope == 32 &&
                        m->d_v == 64 && !m->lora_norm && !m->full_kv_head);
    }
    assert_true(c.rope.type == ZB_ROPE_LLAMA3 && c.mla_rope.type == ZB_ROPE_YARN &&
                c.mla_rope.factor == 32 && c.mla_rope.theta == 500000);
    assert_true(c.mla_rope.old_context == 8192 && c.mla_rope.beta_fast == 32 &&
                c.mla_rope.beta_slow == 1 && c.mla_rope.mscale == 1 &&
                c.mla_rope.mscale_all_dim == 0);
    assert_true(zb_config_kv_percent(&c) == 3.90625);
    assert_int_equal(zb_config_cache(&c, 0), 160);
    assert_int_equal(zb_config_cache(&c, 1), 0);
    assert_int_equal(zb_config_state(&c, 0), 0);
    assert_int_equal(zb_config_state(&c, 1), 32 * 64 * 64 + (2 * 512 + 2048) * 3);
    assert_int_equal(zb_mamba2_channels(&c, 1), 2 * 512 + 2048);
    assert_int_equal(zb_mamba2_in_rows(&c, 1), 2 * 2048 + 2 * 512 + 32);
}

/* The zebra configuration with this rope_scaling, and rope_type beside it. */
static zb_rope rope_beside(const char *scaling, const char *type) {
    zb_config c;
    zb_err err = {0};
    json_t *b = tree(llama32), *h = tree(zebra);
    json_object_set_new(h, "rope_scaling", scaling ? tree(scaling) : json_null());
    json_object_set_new(h, "rope_type", json_string(type));
    if (zb_config_parse(&c, b, h, "test", &err) != ZB_OK) fail_msg("%s", err.msg);
    json_decref(b);
    json_decref(h);
    return c.mla_rope;
}

/* The teacher's rope_scaling copied as it is, and yarn named beside it; null stays plain. */
static void test_zebra_rope_beside(void **state) {
    (void)state;
    static const char llama3[] =
        "{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
        "\"original_max_position_embeddings\":8192,\"rope_type\":"
        "\"llama3\"}";
    static const char untyped[] = "{\"factor\":32.0,\"original_max_position_embeddings\":8192}";
    zb_config inside = parsed(llama32, zebra);
    zb_rope rope[] = {rope_beside(llama3, "yarn"), rope_beside(untyped, "yarn")};
    for (int i = 0; i < 2; i++)
        assert_true(rope[i].type == ZB_ROPE_YARN && rope[i].factor == 32 &&
                    rope[i].old_context == 8192 && rope[i].mscale == inside.mla_rope.mscale);
    assert_int_equal(rope_beside(NULL, "yarn").type, ZB_ROPE_PLAIN);
    assert_int_equal(rope_beside(llama3, "default").type, ZB_ROPE_LLAMA3); /* as we write it */
}

static void test_mamba_in_llama(void **state) {
    (void)state;
    zb_config c = parsed(llama32, mamba_in_llama);
    for (int l = 0; l < 16; l++) {
        assert_int_equal(c.layer[l].kind, l % 4 == 1 ? ZB_ATTENTION : ZB_MAMBA2);
        assert_int_equal(c.layer[l].repeat_before_conv, l % 4 != 1);
    }
    assert_true(zb_config_kv_percent(&c) == 25);
    assert_int_equal(zb_mamba2_channels(&c, 0), 3 * 2048);
}

static void test_ranks_per_layer(void **state) {
    (void)state;
    json_t *b = tree(llama32), *h = tree(zebra);
    zb_config c;
    json_object_set_new(h, "kv_lora_ranks", tree("[96,128,160,32]"));
    json_object_set_new(h, "q_lora_ranks", tree("[1344,8,16,24]"));
    json_object_set_new(h, "attention_layers", tree("[3,15]"));
    assert_int_equal(zb_config_parse(&c, b, h, "test", NULL), ZB_OK);
    assert_true(c.layer[5].r_kv == 128 && c.layer[10].r_kv == 160 && c.layer[14].r_kv == 32 &&
                c.layer[14].r_q == 24 && c.layer[0].r_kv == 96);
    assert_true(c.layer[3].kind == ZB_ATTENTION && c.layer[15].kind == ZB_ATTENTION &&
                c.layer[4].kind == ZB_MAMBA2);
    /* the published form */
    json_object_del(h, "kv_lora_ranks");
    json_object_del(h, "q_lora_ranks");
    json_object_set_new(
        h, "layer_rank_list",
        tree("{\"5\":{\"q_rank\":800,\"kv_rank\":56},\"14\":{\"q_rank\":808,\"kv_rank\":64}}"));
    assert_int_equal(zb_config_parse(&c, b, h, "test", NULL), ZB_OK);
    assert_true(c.layer[0].r_kv == 128 && c.layer[5].r_kv == 56 && c.layer[5].r_q == 800 &&
                c.layer[10].r_q == 1344 && c.layer[14].r_kv == 64 && c.layer[14].r_q == 808);
    json_decref(b);
    json_decref(h);
}

/* Written and read back: the same struct, byte for byte. */
static void round_trip(const zb_config *c, const char *name) {
    const char *dir = TEST_OUT "/test-config";
    zb_config back;
    zb_err err = {0};
    zb_dir_remove(dir, NULL);
    if (zb_dir_make(dir, &err) != ZB_OK || zb_config_write(c, dir, ZB_F32, NULL, &err) != ZB_OK ||
        zb_config_read(&back, dir, &err) != ZB_OK)
        fail_msg("%s: %s", name, err.msg);
    if (memcmp(c, &back, sizeof back)) fail_msg("%s: not the same struct", name);
    zb_dir_remove(dir, NULL);
}

/* The original's latents have an epsilon of their own; models we trained before knew but one, and
 * had their provenance in the hybrid's file. */
static void test_latent_eps(void **state) {
    (void)state;
    zb_config c;
    json_t *b = tree(llama32), *h = tree(zebra);
    assert_true(parsed(llama32, zebra).layer[0].latent_eps == 0);
    json_object_set_new(h, "use_lora_layer_norm", json_true());
    assert_int_equal(zb_config_parse(&c, b, h, "test", NULL), ZB_OK);
    assert_true(c.layer[0].latent_eps == 1e-6 && c.layer[1].latent_eps == 0 && c.eps == 1e-5);
    round_trip(&c, "the original's epsilon");
    json_object_set_new(h, "zebra", tree("{\"command\":\"compose\"}"));
    assert_int_equal(zb_config_parse(&c, b, h, "test", NULL), ZB_OK);
    assert_true(c.layer[14].latent_eps == 1e-5);
    round_trip(&c, "one epsilon");
    json_object_set_new(h, "latent_norm_eps", json_real(1e-4));
    assert_int_equal(zb_config_parse(&c, b, h, "test", NULL), ZB_OK);
    assert_true(c.layer[14].latent_eps == 1e-4);
    json_object_set_new(h, "latent_norm_eps", json_real(0));
    zb_err err = {0};
    assert_int_equal(zb_config_parse(&c, b, h, "test", &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "test: layer 0: latent_norm_eps: expected 0 to 1, found 0");
    json_decref(b);
    json_decref(h);
}

/* An X-EcoMLA folder for the Llama base: what its training code writes, with two layers kept. */
static const char ecomla_model[] =
    "{\"d_model\":2048,\"rms_norm_eps\":1e-05,\"vocab_size\":null,\"d_inner\":2048,\"d_xb\":512,"
    "\"intermediate_size\":8192,\"hidden_act\":\"silu\",\"n_layer\":16,\"attn_layers\":[3,8]}";
static const char ecomla_layer[] =
    "{\"hidden_size\":2048,\"num_attention_heads\":32,\"llama_num_key_value_heads\":8,"
    "\"mla_num_key_value_heads\":32,\"kv_lora_rank\":72,\"q_lora_rank\":864,"
    "\"use_lora_layer_norm\":false,\"qk_rope_head_dim\":32,\"v_head_dim\":64,"
    "\"qk_nope_head_dim\":32,\"qkv_rank_divisor\":8,\"max_position_embeddings\":131072,"
    "\"layer_rank_list\":{\"0\":{\"q_rank\":664,\"kv_rank\":48},"
    "\"15\":{\"q_rank\":864,\"kv_rank\":72}},\"rope_theta\":500000.0,"
    "\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},\"rope_type\":\"yarn\"}";

static void put(const char *dir, const char *name, const char *text) {
    zb_arena a = {0};
    zb_err err = {0};
    json_t *o = tree(text);
    if (zb_json_write(zb_path_join(&a, dir, name), o, &err) != ZB_OK) fail_msg("%s", err.msg);
    json_decref(o);
    zb_arena_free(&a);
}

static void test_ecomla(void **state) {
    (void)state;
    const char *dir = TEST_OUT "/test-config-ecomla";
    zb_config c;
    zb_err err = {0};
    zb_dir_remove(dir, NULL);
    assert_int_equal(zb_dir_make(dir, &err), ZB_OK);
    put(dir, "config.json", llama32);
    put(dir, "MLA_config.json", ecomla_model);
    assert_int_equal(zb_config_read(&c, dir, &err), ZB_ERR_IO);
    assert_non_null(strstr(err.msg, "expected mla_layer_config.json beside MLA_config.json"));
    put(dir, "mla_layer_config.json", ecomla_layer);
    if (zb_config_read(&c, dir, &err) != ZB_OK) fail_msg("%s", err.msg);
    assert_true(c.hybrid);
    for (int l = 0; l < 16; l++) {
        const zb_layer_config *m = &c.layer[l];
        assert_int_equal(m->kind, l == 3 || l == 8 ? ZB_ATTENTION : ZB_MLA);
        if (m->kind == ZB_MLA)
            assert_true(m->r_q == (l ? 864 : 664) && m->r_kv == (l ? 72 : 48) && m->d_rope == 32 &&
                        m->d_nope == 32 && m->d_v == 64 && m->full_kv_head && !m->lora_norm);
    }
    assert_true(c.rope.type == ZB_ROPE_LLAMA3 && c.mla_rope.type == ZB_ROPE_YARN &&
                c.mla_rope.factor == 32 && c.mla_rope.old_context == 8192 &&
                c.mla_rope.theta == 500000);
    json_t *layer = tree(ecomla_layer); /* its type goes before the teacher's, whatever that is */
    json_object_set_new(layer, "rope_type", json_string("linear"));
    char *text = json_dumps(layer, 0);
    put(dir, "mla_layer_config.json", text);
    assert_int_equal(zb_config_read(&c, dir, &err), ZB_OK);
    assert_int_equal(c.mla_rope.type, ZB_ROPE_LINEAR);
    free(text);
    json_decref(layer);
    zb_dir_remove(dir, NULL);
}

/* Written files as JSON. */
static json_t *written(const zb_config *c, const char *name, const json_t *note) {
    const char *dir = TEST_OUT "/test-config-written";
    zb_arena a = {0};
    zb_err err = {0};
    json_t *o = NULL;
    if (zb_dir_make(dir, &err) != ZB_OK || zb_config_write(c, dir, ZB_F32, note, &err) != ZB_OK ||
        zb_json_read(zb_path_join(&a, dir, name), 1 << 20, &o, &err) != ZB_OK)
        fail_msg("%s", err.msg);
    zb_dir_remove(dir, NULL);
    zb_arena_free(&a);
    return o;
}

/* A small base of this family with more keys. */
static zb_status base_of(zb_config *c, const char *more, zb_err *err) {
    json_t *b = tree("{\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":4,"
                     "\"intermediate_size\":96,\"vocab_size\":50,\"max_position_embeddings\":128}"),
           *m = tree(more);
    json_object_update(b, m);
    zb_status s = zb_config_parse(c, b, NULL, "test", err);
    json_decref(b);
    json_decref(m);
    return s;
}

/* Layers with a window, as digits of 0 and 1; "" where reading failed. */
static const char *windows_of(const char *more, int window) {
    static char text[8];
    zb_config c;
    memset(text, 0, sizeof text);
    if (base_of(&c, more, NULL) != ZB_OK) return "";
    for (int l = 0; l < c.L; l++) {
        bool has = c.layer[l].kind == ZB_SLIDING_WINDOW;
        assert_true(has ? c.layer[l].window == window && !c.layer[l].sinks : !c.layer[l].window);
        text[l] = has ? '1' : '0';
    }
    assert_false(c.hybrid);
    round_trip(&c, more);
    return text;
}

static void test_base_windows(void **state) {
    (void)state;
#define QWEN "{\"model_type\":\"qwen2\",\"sliding_window\":32,\"use_sliding_window\":"
    assert_string_equal(windows_of("{\"model_type\":\"mistral\",\"sliding_window\":32}", 32),
                        "1111");
    assert_string_equal(windows_of("{\"model_type\":\"mistral\",\"sliding_window\":null}", 0),
                        "0000");
    assert_string_equal(windows_of("{\"model_type\":\"mistral\",\"sliding_window\":128}", 0),
                        "0000");
    /* a file that names none has the class's */
    assert_string_equal(
        windows_of("{\"model_type\":\"mistral\",\"max_position_embeddings\":8192}", 4096), "1111");
    assert_string_equal(windows_of("{\"model_type\":\"qwen2\",\"use_sliding_window\":true,"
                                   "\"max_window_layers\":2,\"max_position_embeddings\":8192}",
                                   4096),
                        "0011");
    assert_string_equal(windows_of("{\"model_type\":\"llama\",\"sliding_window\":32}", 0), "0000");
    assert_string_equal(windows_of(QWEN "false,\"max_window_layers\":0}", 0), "0000");
    assert_string_equal(windows_of(QWEN "true,\"max_window_layers\":3}", 32), "0001");
    assert_string_equal(windows_of(QWEN "true}", 0), "0000"); /* from layer 28 on */
    assert_string_equal(windows_of(QWEN "true,\"layer_types\":[\"sliding_attention\","
                                        "\"full_attention\",\"sliding_attention\","
                                        "\"full_attention\"]}",
                                   32),
                        "1010");
    assert_string_equal(windows_of(QWEN "true,\"layer_types\":[\"full_attention\"]}", 0), "");
    assert_string_equal(windows_of(QWEN "true,\"layer_types\":[1,2,3,4]}", 0), "");
    /* a hybrid that keeps attention keeps its window; Mistral's must be told of none */
    zb_config c;
    json_t *b = tree(llama32), *h = tree(mamba_in_llama), *o;
    json_object_set_new(b, "model_type", json_string("mistral"));
    json_object_set_new(b, "sliding_window", json_integer(4096));
    assert_int_equal(zb_config_parse(&c, b, h, "test", NULL), ZB_OK);
    assert_true(c.layer[1].kind == ZB_SLIDING_WINDOW && c.layer[1].window == 4096 &&
                c.layer[0].kind == ZB_MAMBA2 && !c.layer[0].window);
    round_trip(&c, "kept attention with a window");
    o = written(&c, "config.json", NULL);
    assert_true(json_is_null(json_object_get(o, "sliding_window")));
    json_decref(o);
    json_decref(b);
    json_decref(h);
}

static void test_base_rope(void **state) {
    (void)state;
    zb_config c;
    zb_err err = {0};
    assert_int_equal(base_of(&c, "{\"partial_rotary_factor\":1.0}", &err), ZB_OK);
    assert_int_equal(base_of(&c, "{\"partial_rotary_factor\":0.5}", &err), ZB_ERR_UNSUPPORTED);
    assert_string_equal(err.msg, "test: partial_rotary_factor: expected 1, found 0.5");
    static const char nested[] = "{\"rope_parameters\":{\"partial_rotary_factor\":0.25}}";
    assert_int_equal(base_of(&c, nested, &err), ZB_ERR_UNSUPPORTED);
    static const char yarn[] = "{\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,"
                               "\"original_max_position_embeddings\":32,\"attention_factor\":1.5}}";
    assert_int_equal(base_of(&c, yarn, &err), ZB_OK);
    assert_true(c.rope.attention_factor == 1.5);
    round_trip(&c, "attention factor");
}

/* One key set to a JSON text (NULL: removed) in the base or the hybrid, and the message that must
 * follow. */
typedef struct broken {
    bool hybrid;
    const char *key, *value, *message;
} broken;

static const broken cases[] = {
    {false, "hidden_size", NULL, "test: key \"hidden_size\" is missing"},
    {false, "num_hidden_layers", NULL, "test: key \"num_hidden_layers\" is missing"},
    {false, "num_attention_heads", NULL, "test: key \"num_attention_heads\" is missing"},
    {false, "intermediate_size", NULL, "test: key \"intermediate_size\" is missing"},
    {false, "vocab_size", NULL, "test: key \"vocab_size\" is missing"},
    {false, "hidden_size", "\"2048\"",
     "test: key \"hidden_size\": expected an integer, found a string"},
    {false, "hidden_size", "2048.5",
     "test: key \"hidden_size\": expected an integer, found a real number"},
    {false, "hidden_size", "-1", "test: key \"hidden_size\": expected 1 to 1048576, found -1"},
    {false, "hidden_size", "0", "test: key \"hidden_size\": expected 1 to 1048576, found 0"},
    {false, "hidden_size", "9223372036854775807",
     "test: key \"hidden_size\": expected 1 to 1048576, found 9223372036854775807"},
    {false, "num_hidden_layers", "257",
     "test: key \"num_hidden_layers\": expected 1 to 256, found 257"},
    {false, "num_attention_heads", "99999",
     "test: key \"num_attention_heads\": expected 1 to 4096, found 99999"},
    {false, "vocab_size", "1000000000",
     "test: key \"vocab_size\": expected 1 to 4194304, found 1000000000"},
    {false, "num_key_value_heads", "5",
     "test: expected heads to be a multiple of key/value heads, found 32 and 5"},
    {false, "num_key_value_heads", "0",
     "test: key \"num_key_value_heads\": expected 1 to 4096, found 0"},
    {false, "head_dim", "5000", "test: key \"head_dim\": expected 1 to 4096, found 5000"},
    {false, "head_dim", "63", "test: layer 0: expected an even head size, found 63"},
    {false, "model_type", "\"gpt2\"",
     "test: model_type: expected llama, mistral or qwen2, found \"gpt2\""},
    {false, "model_type", "7", "test: key \"model_type\": expected a string, found an integer"},
    {false, "hidden_act", "\"gelu\"", "test: hidden_act: expected silu, found \"gelu\""},
    {false, "rms_norm_eps", "0", "test: rms_norm_eps: expected 0 to 1, found 0"},
    {false, "rms_norm_eps", "-1e-5", "test: rms_norm_eps: expected 0 to 1, found -1e-05"},
    {false, "rms_norm_eps", "true",
     "test: key \"rms_norm_eps\": expected a number, found a boolean"},
    {false, "tie_word_embeddings", "1",
     "test: key \"tie_word_embeddings\": expected true or false, found an integer"},
    {false, "eos_token_id", "\"</s>\"", "test: eos_token_id: expected token ids, found a string"},
    {false, "eos_token_id", "[1,-2]",
     "test: eos_token_id: expected token ids from 0 to 4194303, found -2"},
    {false, "eos_token_id", "[1,2,3,4,5,6,7,8,9]",
     "test: eos_token_id: expected at most 8 token ids, found 9"},
    {false, "rope_theta", "0",
     "test: the rotary embedding's settings are out of range (theta 0, factor 32)"},
    {false, "rope_scaling", "[]", "test: key \"rope_scaling\": expected an object, found an array"},
    {false, "rope_scaling", "{\"rope_type\":\"su\"}",
     "test: rope_scaling: expected default, dynamic, linear, llama3 or yarn, found \"su\""},
    {false, "rope_scaling", "{\"rope_type\":\"linear\"}", "test: key \"factor\" is missing"},
    {false, "rope_scaling", "{\"rope_type\":\"linear\",\"factor\":0}",
     "test: the rotary embedding's settings are out of range (theta 500000, factor 0)"},
    {false, "rope_scaling", "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1}",
     "test: key \"original_max_position_embeddings\" is missing"},
    {false, "rope_scaling",
     "{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4,"
     "\"original_max_position_embeddings\":64}",
     "test: the rotary embedding's settings are out of range"},
    {false, "rope_scaling",
     "{\"rope_type\":\"yarn\",\"factor\":8,\"original_max_position_embeddings\":1e300}",
     "test: the rotary embedding's settings are out of range"},
    {true, "mla_layers", "[0,5,5]", "test: mla_layers[2]: layer 5 is listed twice"},
    {true, "mla_layers", "[0,16]",
     "test: mla_layers[1]: expected a layer from 0 to 15, found an integer 16"},
    {true, "mla_layers", "[-1]",
     "test: mla_layers[0]: expected a layer from 0 to 15, found an integer -1"},
    {true, "mla_layers", "[\"0\"]",
     "test: mla_layers[0]: expected a layer from 0 to 15, found a string"},
    {true, "mla_layers", "{}", "test: key \"mla_layers\": expected an array, found an object"},
    {true, "attention_layers", "[5]", "test: attention_layers[0]: layer 5 is listed twice"},
    {true, "sliding_window_layers", "[5]",
     "test: sliding_window_layers[0]: layer 5 is listed twice"},
    {true, "linear_key_head_dim", "128", "test: linear_key_head_dim: expected 64, found 128"},
    {true, "linear_conv_activation", "\"gelu\"",
     "test: linear_conv_activation: expected silu or identity, found \"gelu\""},
    {true, "sliding_window_layers", "[1]", "test: key \"sliding_window\" is missing"},
    {true, "kv_lora_ranks", "[1,2,3]",
     "test: kv_lora_ranks: expected 4 values (one per MLA layer), found 3"},
    {true, "kv_lora_ranks", "[1,2,3,0]",
     "test: kv_lora_ranks[3]: expected a rank, found an integer"},
    {true, "q_lora_ranks", "[1,2,3,null]", "test: q_lora_ranks[3]: expected a rank, found null"},
    {true, "layer_rank_list", "{\"5\":{\"q_rank\":8}}", "test: key \"kv_rank\" is missing"},
    {true, "layer_rank_list", "{\"5\":{\"q_rank\":8,\"kv_rank\":0}}",
     "test: key \"kv_rank\": expected 1 to 1048576, found 0"},
    {true, "kv_lora_rank", NULL, "test: key \"kv_lora_rank\" is missing"},
    {true, "qk_rope_head_dim", "31", "test: layer 0: MLA sizes out of range"},
    {true, "qk_rope_head_dim", NULL, "test: key \"qk_rope_head_dim\" is missing"},
    {true, "qk_nope_head_dim", "0", "test: key \"qk_nope_head_dim\": expected 1 to 4096, found 0"},
    {true, "n_layer", "28", "test: n_layer: expected 16 as in config.json, found 28"},
    {true, "d_inner", "4096",
     "test: expected d_inner 2048 and d_xb 512 (heads times head size), found 4096 and 512"},
    {true, "ssm_cfg", "{\"d_state\":128,\"ngroups\":32}",
     "test: ssm_cfg: expected d_state 64 and ngroups 32, found 128 and 32"},
    {true, "ssm_cfg", "{\"repeat_kv_before_conv\":\"no\"}",
     "test: key \"repeat_kv_before_conv\": expected true or false, found a string"},
    {true, "use_full_kv_head", "0",
     "test: key \"use_full_kv_head\": expected true or false, found an integer"},
};

static void test_broken(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const broken *k = &cases[i];
        json_t *b = tree(llama32), *h = tree(zebra), *o = k->hybrid ? h : b;
        if (k->value) {
            json_t *v = json_loads(k->value, JSON_DECODE_ANY, NULL);
            assert_non_null(v);
            json_object_set_new(o, k->key, v);
        } else {
            json_object_del(o, k->key);
        }
        zb_config c;
        zb_err err = {0};
        zb_status s = zb_config_parse(&c, b, k->hybrid ? h : NULL, "test", &err);
        if (s != ZB_ERR_FORMAT && s != ZB_ERR_UNSUPPORTED)
            fail_msg("case %zu (%s): status %d", i, k->key, s);
        if (strncmp(err.msg, k->message, strlen(k->message)))
            fail_msg("case %zu (%s): \"%s\", expected \"%s\"", i, k->key, err.msg, k->message);
        json_decref(b);
        json_decref(h);
    }
    zb_err err = {0};
    zb_config c;
    json_t *list = tree("[]"), *b = tree(llama32);
    assert_int_equal(zb_config_parse(&c, list, NULL, "test", &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "test: expected an object, found an array");
    assert_int_equal(zb_config_parse(&c, b, list, "test", &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "test: expected an object, found an array");
    json_decref(list);
    json_decref(b);
}

/* What the files cannot say must not pass the check of a configuration made by hand. */
static void test_check(void **state) {
    (void)state;
    zb_config good = parsed(llama32, zebra), c;
    assert_int_equal(zb_config_check(&good, "test", NULL), ZB_OK);
    zb_err err = {0};
    c = good;
    c.layer[5].d_rope = 16;
    assert_int_equal(zb_config_check(&c, "test", &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "test: layer 5: expected the sizes and options of the other mla "
                                 "layers (only ranks may differ)");
    c = good;
    c.layer[10].r_q = 0;
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    c = good;
    c.layer[3].repeat_before_conv = true;
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    c = good;
    c.layer[10].r_q = 8;
    c.layer[10].r_kv = 24;
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_OK);
    c = good;
    c.hybrid = false;
    assert_int_equal(zb_config_check(&c, "test", &err), ZB_ERR_FORMAT);
    assert_string_equal(
        err.msg, "test: layer 0: expected attention, found mla in a model that is no hybrid");
    c = good;
    c.dh = 63; /* Mamba2 does not mind, attention does */
    c.layer[3] = (zb_layer_config){.kind = ZB_ATTENTION};
    assert_int_equal(zb_config_check(&c, "test", &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, "test: layer 3: expected an even head size, found 63");
}

static void test_write_and_read(void **state) {
    (void)state;
    static const char *const dirs[] = {
        "llama",         "llama-packed",    "llama3-rope-untied",    "qwen2-bias",
        "hybrid",        "hybrid-packed",   "hybrid-yarn-attention", "mamba2-repeat",
        "mla-norm-yarn", "hybrid-odd-sizes"};
    for (size_t i = 0; i < sizeof dirs / sizeof dirs[0]; i++) {
        char path[128];
        zb_config c;
        zb_err err = {0};
        snprintf(path, sizeof path, "tests/golden/%s", dirs[i]);
        if (zb_config_read(&c, path, &err) != ZB_OK) fail_msg("%s", err.msg);
        round_trip(&c, dirs[i]);
    }
    zb_config c = parsed(llama32, NULL);
    round_trip(&c, "llama 3.2");
    c = parsed(llama32, mamba_in_llama);
    round_trip(&c, "MambaInLlama");
    c = parsed(llama32, zebra);
    round_trip(&c, "Zebra-Llama");
    int rank = 8;
    for (int l = 0; l < c.L; l++)
        if (c.layer[l].kind == ZB_MLA) c.layer[l].r_kv = rank, c.layer[l].r_q = 3 * rank, rank += 8;
    c.layer[2] = (zb_layer_config){.kind = ZB_ATTENTION};
    c.layer[15] = (zb_layer_config){.kind = ZB_ATTENTION};
    round_trip(&c, "ranks per layer and kept attention");
    for (int l = 0; l < c.L; l++)
        if (c.layer[l].kind == ZB_MLA)
            c.layer[l].r_q = 0, c.layer[l].lora_norm = c.layer[l].full_kv_head = true,
            c.layer[l].latent_eps = ZB_LATENT_EPS;
    round_trip(&c, "ranks of kv only");
    c.layer[1] = (zb_layer_config){.kind = ZB_SLIDING_WINDOW, .window = 96, .sinks = 4};
    c.layer[12] = c.layer[1];
    round_trip(&c, "windows");
    c.layer[3] = (zb_layer_config){.kind = ZB_WINDOWED_MAMBA2, .window = 96, .sinks = 4};
    round_trip(&c, "windows and memories");
    c.layer[3].conv_identity = true;
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    for (int l = 0; l < c.L; l++) c.layer[l].conv_identity = zb_kind_has_mamba2(c.layer[l].kind);
    round_trip(&c, "memories without silu");
    c.layer[4] = (zb_layer_config){.kind = ZB_GATED_DELTANET, .gate_bias = true};
    c.layer[6] = (zb_layer_config){.kind = ZB_WINDOWED_DELTANET, .gate_bias = true};
    c.layer[6].window = 96, c.layer[6].sinks = 4;
    round_trip(&c, "DeltaNet");
    c.layer[6].gate_bias = false;
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    c.layer[6].gate_bias = true;
    c.layer[12].window = 64;
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    c.layer[12] = (zb_layer_config){.kind = ZB_SLIDING_WINDOW};
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
}

static void test_retrieval_heads(void **state) {
    (void)state;
    zb_config c = parsed(llama32, zebra);
    c.layer[2] = (zb_layer_config){.kind = ZB_ATTENTION};
    c.layer[1] = (zb_layer_config){.kind = ZB_SLIDING_WINDOW, .window = 96, .sinks = 4};
    c.layer[12] = c.layer[1];
    c.layer[1].retrieval = 1 | 1 << 7;
    c.layer[12].retrieval = 1 << 3;
    round_trip(&c, "windows with retrieval heads");
    assert_int_equal(zb_config_far_heads(&c, 1), 2);
    assert_int_equal(zb_config_ring_heads(&c, 1), 6);
    assert_int_equal(zb_config_far_head(&c, 1, 1), 7);
    assert_int_equal(zb_config_ring_head(&c, 1, 0), 1);
    assert_int_equal(zb_config_cache(&c, 1), 2 * 2 * 64);
    assert_int_equal(zb_config_window(&c, 1), 2 * 6 * 64 * 100);
    for (int l = 1; l <= 12; l += 11) c.layer[l].far_k = 32, c.layer[l].far_v = 60;
    round_trip(&c, "narrow retrieval heads");
    assert_int_equal(zb_config_cache(&c, 1), 2 * (32 + 60));
    for (int l = 1; l <= 12; l += 11) c.layer[l].far_k = 31;
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    for (int l = 1; l <= 12; l += 11) c.layer[l].far_k = 0, c.layer[l].far_v = 65;
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    for (int l = 1; l <= 12; l += 11) c.layer[l].far_v = 0;
    c.layer[12].far_v = 5; /* one size for all layers */
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    c.layer[12].far_v = 0;
    c.layer[1].retrieval = 1 << 8; /* there is no ninth head */
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    c.layer[1].retrieval = 0;
    c.layer[2].retrieval = 1; /* attention has no window */
    assert_int_equal(zb_config_check(&c, "test", NULL), ZB_ERR_FORMAT);
    c.layer[2].retrieval = 0;
}

/* The original's class of the hybrid's file refuses keys it does not know. */
static void test_provenance(void **state) {
    (void)state;
    zb_config c = parsed(llama32, zebra);
    json_t *note = tree("{\"teacher\":\"x\"}"), *o = written(&c, "config.json", note);
    assert_true(json_equal(json_object_get(o, "zebra"), note));
    json_decref(o);
    o = written(&c, "hybrid_config.json", note);
    assert_null(json_object_get(o, "zebra"));
    json_decref(o);
    json_decref(note);
}

static json_int_t number(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}

/* What the original divides by 8 is a multiple of it, whatever the layers' own ranks are. */
static void test_written_ranks(void **state) {
    (void)state;
    zb_config c = parsed(llama32, zebra);
    json_t *o = written(&c, "hybrid_config.json", NULL);
    assert_true(number(o, "kv_lora_rank") == 128 && number(o, "q_lora_rank") == 1344 &&
                number(o, "num_key_value_heads") == 8);
    assert_null(json_object_get(o, "layer_rank_list"));
    json_decref(o);
    for (int l = 0; l < c.L; l++)
        if (c.layer[l].kind == ZB_MLA) c.layer[l].r_q = 0, c.layer[l].full_kv_head = true;
    c.layer[5].r_kv = 30;
    o = written(&c, "hybrid_config.json", NULL);
    assert_true(number(o, "kv_lora_rank") == 128 && number(o, "q_lora_rank") == 8 &&
                number(o, "qkv_rank_divisor") == 8 && number(o, "num_key_value_heads") == 32);
    json_t *list = json_object_get(o, "layer_rank_list"), *of = json_object_get(list, "5");
    assert_int_equal(json_object_size(list), 4);
    assert_true(json_is_null(json_object_get(of, "q_rank")) && number(of, "kv_rank") == 30);
    json_decref(o);
    round_trip(&c, "no low rank of queries");
}

static void test_missing_files(void **state) {
    (void)state;
    zb_config c;
    zb_err err = {0};
    assert_int_equal(zb_config_read(&c, "tests/golden/no-such-model", &err), ZB_ERR_IO);
    assert_non_null(strstr(err.msg, "tests/golden/no-such-model/config.json"));
}

/* A hybrid has two files, and a message names the one that is wrong. */
static void test_named_files(void **state) {
    (void)state;
    char dir[] = "/tmp/zebra-config-XXXXXX", path[64];
    static const char *const names[] = {"config.json", "hybrid_config.json"};
    assert_non_null(mkdtemp(dir));
    for (int wrong = 0; wrong < 2; wrong++) {
        zb_config c;
        zb_err err = {0};
        json_t *file[] = {tree(llama32), tree(mamba_in_llama)};
        json_object_set_new(file[wrong], wrong ? "d_xb" : "hidden_size", json_string("x"));
        for (int i = 0; i < 2; i++) {
            snprintf(path, sizeof path, "%s/%s", dir, names[i]);
            assert_int_equal(zb_json_write(path, file[i], &err), ZB_OK);
            json_decref(file[i]);
        }
        assert_int_equal(zb_config_read(&c, dir, &err), ZB_ERR_FORMAT);
        snprintf(path, sizeof path, "%s/%s: key ", dir, names[wrong]);
        if (strncmp(err.msg, path, strlen(path))) fail_msg("%s", err.msg);
    }
    assert_int_equal(zb_dir_remove(dir, NULL), ZB_OK);
}

static void test_kinds(void **state) {
    (void)state;
    for (int k = 0; k < ZB_KIND_COUNT; k++) {
        zb_kind found;
        assert_true(zb_kind_find(zb_kind_name((zb_kind)k), &found));
        assert_int_equal(found, k);
    }
    zb_kind same = ZB_MLA;
    assert_false(zb_kind_find("rwkv", &same));
    assert_int_equal(same, ZB_MLA);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),          cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_zebra),          cmocka_unit_test(test_zebra_rope_beside),
        cmocka_unit_test(test_mamba_in_llama), cmocka_unit_test(test_ranks_per_layer),
        cmocka_unit_test(test_ecomla),         cmocka_unit_test(test_latent_eps),
        cmocka_unit_test(test_base_windows),   cmocka_unit_test(test_base_rope),
        cmocka_unit_test(test_broken),         cmocka_unit_test(test_check),
        cmocka_unit_test(test_write_and_read), cmocka_unit_test(test_retrieval_heads),
        cmocka_unit_test(test_provenance),     cmocka_unit_test(test_written_ranks),
        cmocka_unit_test(test_missing_files),  cmocka_unit_test(test_named_files),
        cmocka_unit_test(test_kinds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
