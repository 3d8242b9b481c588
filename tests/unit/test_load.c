/* Opening models: folders (whole, in shards, in F16 and BF16, with what may be there or not) and
 * GGUF files (rows of q and k moved, biases, Llama 3's rotary divisors) give the same logits as the
 * plain f32 folder they were made from; broken ones one clear error. */
#include "logits.h"

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "model/footprint.h"

#define LLAMA "tests/golden/llama"
#define HYBRID "tests/golden/hybrid"
#define GGUF "tests/format/gguf/llama.gguf" /* of LLAMA, by the gguf package */
#define OUT TEST_OUT "/test-load"

enum { LIST = 96 };

/* The tensors of a model folder as a list that may be changed and written again. */
typedef struct model_files {
    zb_safetensors *file;
    json_t *config, *hybrid;
    zb_tensor item[LIST];
    size_t n;
    zb_arena arena;
} model_files;

static void files_open(model_files *f, const char *dir) {
    memset(f, 0, sizeof *f);
    CHECK(zb_safetensors_open_dir(&f->file, dir, &err));
    f->n = zb_safetensors_count(f->file);
    assert_in_range(f->n, 1, LIST - 8);
    for (size_t i = 0; i < f->n; i++) f->item[i] = *zb_safetensors_at(f->file, i);
    CHECK(zb_json_read(zb_path_join(&f->arena, dir, "config.json"), 1 << 20, &f->config, &err));
    char *hybrid = zb_path_join(&f->arena, dir, "hybrid_config.json");
    if (zb_file_exists(hybrid)) CHECK(zb_json_read(hybrid, 1 << 20, &f->hybrid, &err));
}

static void files_close(model_files *f) {
    zb_safetensors_close(f->file);
    json_decref(f->config);
    json_decref(f->hybrid);
    zb_arena_free(&f->arena);
}

static void files_write(model_files *f, size_t shard_bytes) {
    CHECK(zb_dir_remove(OUT, &err));
    CHECK(zb_dir_make(OUT, &err));
    CHECK(zb_json_write(OUT "/config.json", f->config, &err));
    if (f->hybrid) CHECK(zb_json_write(OUT "/hybrid_config.json", f->hybrid, &err));
    CHECK(zb_safetensors_write_dir(OUT, f->item, f->n, shard_bytes, NULL, &err));
}

static zb_tensor *item_of(model_files *f, const char *name) {
    for (size_t i = 0; i < f->n; i++)
        if (!strcmp(f->item[i].name, name)) return &f->item[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

/* A new tensor of the list; values NULL: zeros. */
static zb_tensor *item_add(model_files *f, const char *name, zb_dtype type, int rows, int cols,
                           const float *values) {
    zb_tensor *t = &f->item[f->n++];
    *t = (zb_tensor){.name = name, .dtype = type, .n_dims = cols ? 2 : 1, .shape = {rows, cols}};
    assert_true(zb_dtype_size(type, zb_tensor_count(t), &t->bytes));
    t->data = values ? (const void *)values : zb_alloc(&f->arena, t->bytes);
    return t;
}

static void convert_all(model_files *f, zb_dtype type) {
    for (size_t i = 0; i < f->n; i++) {
        zb_tensor *t = &f->item[i];
        size_t bytes;
        assert_true(zb_dtype_size(type, zb_tensor_count(t), &bytes));
        void *to = zb_alloc(&f->arena, bytes);
        zb_dtype_from_f32(type, t->data, to, zb_tensor_count(t));
        t->dtype = type;
        t->data = to;
        t->bytes = bytes;
    }
}

enum { V = 97, COUNT = TOKENS * V }; /* vocabulary of the golden models */

static void same_logits(const char *path, const char *as, zb_model_mode mode) {
    zb_arena a = {0};
    float *want = logits_of(as, ZB_MODEL_TRAIN, false, &a), *got = logits_of(path, mode, false, &a);
    assert_memory_equal(got, want, COUNT * sizeof *got);
    zb_arena_free(&a);
}

static void refused(const char *path, zb_status status, const char *message) {
    zb_model *m = (zb_model *)1;
    for (int mode = 0; mode < 2; mode++) {
        zb_err err = {0};
        zb_status s = zb_model_open(&m, path, mode ? ZB_MODEL_TRAIN : ZB_MODEL_RUN, &err);
        if (s != status || !strstr(err.msg, message))
            fail_msg("status %d, \"%s\"; expected %d, \"%s\"", s, err.msg, status, message);
        assert_true(!strncmp(err.msg, path, strlen(path)));
        assert_null(m);
    }
}

static void test_folder_errors(void **state) {
    (void)state;
    refused("tests/golden/none", ZB_ERR_IO, "no such model folder or .gguf file");
    model_files f;
    files_open(&f, LLAMA);
    zb_tensor *t = item_of(&f, "model.layers.2.mlp.up_proj.weight"), keep = *t;

    *t = f.item[--f.n]; /* the last one takes its place */
    files_write(&f, (size_t)1 << 30);
    refused(OUT, ZB_ERR_FORMAT, "tensor model.layers.2.mlp.up_proj.weight is missing");
    f.item[f.n++] = *t;

    *t = keep;
    t->shape[0] = keep.shape[1];
    t->shape[1] = keep.shape[0];
    files_write(&f, (size_t)1 << 30);
    refused(OUT, ZB_ERR_FORMAT,
            "tensor model.layers.2.mlp.up_proj.weight: expected [80,48], found F32 [48,80]");

    *t = keep;
    t->n_dims = 1;
    t->shape[0] = keep.shape[0] * keep.shape[1];
    files_write(&f, (size_t)1 << 30);
    refused(OUT, ZB_ERR_FORMAT, "expected [80,48], found F32 [3840]");

    *t = keep;
    t->dtype = ZB_I64;
    t->bytes *= 2;
    t->data = zb_alloc(&f.arena, t->bytes);
    files_write(&f, (size_t)1 << 30);
    refused(OUT, ZB_ERR_FORMAT,
            "tensor model.layers.2.mlp.up_proj.weight: expected floating-point values, found I64 "
            "[80,48]");

    *t = keep;
    item_add(&f, "model.layers.0.self_attn.rotary_emb.inv_freq", ZB_F32, 8, 0,
             NULL); /* a known buffer */
    files_write(&f, (size_t)1 << 30);
    same_logits(OUT, LLAMA, ZB_MODEL_RUN);
    item_add(&f, "model.layers.4.input_layernorm.weight", ZB_F32, 48, 0,
             NULL); /* there is no layer 4 */
    files_write(&f, (size_t)1 << 30);
    refused(OUT, ZB_ERR_FORMAT,
            "tensor model.layers.4.input_layernorm.weight does not belong to the model that "
            "config.json describes");
    files_close(&f);

    files_open(&f, HYBRID);
    f.item[f.n] = *item_of(&f, "model.layers.1.mla.kv_b_proj.weight");
    f.item[f.n++].name = "model.layers.0.mla.kv_b_proj.weight"; /* layer 0 is Mamba2 */
    files_write(&f, (size_t)1 << 30);
    refused(OUT, ZB_ERR_FORMAT, "tensor model.layers.0.mla.kv_b_proj.weight does not belong");
    files_close(&f);
}

static void test_shards(void **state) {
    (void)state;
    model_files f;
    files_open(&f, HYBRID);
    files_write(&f, 40000);
    assert_true(zb_file_exists(OUT "/model.safetensors.index.json") &&
                !zb_file_exists(OUT "/model.safetensors"));
    for (int mode = 0; mode < 2; mode++)
        same_logits(OUT, HYBRID, mode ? ZB_MODEL_TRAIN : ZB_MODEL_RUN);
    char **names;
    size_t n;
    CHECK(zb_dir_list(OUT, "model-00002", &f.arena, &names, &n, &err));
    assert_int_equal(n, 1);
    char *shard = zb_path_join(&f.arena, OUT, names[0]);
    assert_int_equal(remove(shard), 0);
    zb_model *m;
    zb_err err = {0};
    assert_int_equal(zb_model_open(&m, OUT, ZB_MODEL_RUN, &err), ZB_ERR_IO);
    assert_non_null(strstr(err.msg, names[0]));
    files_close(&f);
}

/* 16-bit weights: kept as stored for running, widened for training. Widening is exact, so both
 * forms, batches and single tokens, agree up to the order of f32 sums; with the f32 folder they
 * agree up to the rounding of the weights, and not exactly. */
static void test_narrow_weights(void **state) {
    (void)state;
    static const struct {
        const char *dir;
        zb_dtype type;
    } cases[] = {{LLAMA, ZB_F16}, {LLAMA, ZB_BF16}, {HYBRID, ZB_F16}, {HYBRID, ZB_BF16}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        model_files f;
        files_open(&f, cases[i].dir);
        convert_all(&f, cases[i].type);
        files_write(&f, (size_t)1 << 30);
        zb_model *m;
        CHECK(zb_model_open(&m, OUT, ZB_MODEL_RUN, &err));
        const zb_param *p =
            zb_params_find(zb_model_params(m), "model.layers.3.mlp.down_proj.weight");
        assert_true(p->dtype == cases[i].type && !p->w);
        assert_int_equal(zb_params_find(zb_model_params(m), "model.norm.weight")->dtype,
                         ZB_F32); /* vectors are wide */
        zb_model_free(m);
        zb_arena a = {0};
        float *wide = logits_of(OUT, ZB_MODEL_TRAIN, false, &a),
              *f32 = logits_of(cases[i].dir, ZB_MODEL_TRAIN, false, &a);
        double tol = f32_tolerance(4, 96);
        compare("packed, batch", logits_of(OUT, ZB_MODEL_RUN, false, &a), wide, COUNT, tol);
        compare("packed, single tokens", logits_of(OUT, ZB_MODEL_RUN, true, &a), wide, COUNT, tol);
        compare("wide, single tokens", logits_of(OUT, ZB_MODEL_TRAIN, true, &a), wide, COUNT, tol);
        /* rounding of the weights, 2^-9 or 2^-12 relative, in about seven products of each of four
         * layers: golden/test_models.c */
        compare_rms("against f32", wide, f32, COUNT,
                    4 * (cases[i].type == ZB_F16 ? 0x1p-12 : 0x1p-9) / sqrt(3.0) * sqrt(7.0 * 4));
        assert_true(memcmp(wide, f32, COUNT * sizeof *f32) != 0);
        zb_arena_free(&a);
        files_close(&f);
    }
}

static void test_heads(void **state) {
    (void)state;
    model_files f;
    zb_model *m;
    files_open(&f, LLAMA);
    /* tied, and yet stored: the copy is not read */
    item_add(&f, "lm_head.weight", ZB_F32, V, 48, NULL);
    files_write(&f, (size_t)1 << 30);
    same_logits(OUT, LLAMA, ZB_MODEL_RUN);
    CHECK(zb_model_open(&m, OUT, ZB_MODEL_TRAIN, &err));
    assert_true(zb_model_config(m)->tied && zb_model_params(m)->head == zb_model_params(m)->embed);
    zb_model_free(m);
    /* untied: it is read, and these zeros give zero logits */
    json_object_set_new(f.config, "tie_word_embeddings", json_false());
    files_write(&f, (size_t)1 << 30);
    zb_arena a = {0};
    const float *zero = logits_of(OUT, ZB_MODEL_RUN, false, &a);
    for (int i = 0; i < COUNT; i++) assert_true(zero[i] == 0);
    zb_arena_free(&a);
    /* said to be untied, but without a head: the embedding serves */
    f.n--;
    files_write(&f, (size_t)1 << 30);
    same_logits(OUT, LLAMA, ZB_MODEL_TRAIN);
    files_close(&f);
}

/* What the original code trains on has a head of its own under a configuration that says "tied":
 * the head of a hybrid is read where it differs. */
static void test_hybrid_heads(void **state) {
    (void)state;
    model_files f;
    zb_model *m;
    zb_config c;
    size_t stored;
    files_open(&f, HYBRID);
    assert_true(json_is_true(json_object_get(f.config, "tie_word_embeddings")));
    const float *embed = item_of(&f, "model.embed_tokens.weight")->data;
    zb_tensor *head = item_add(&f, "lm_head.weight", ZB_F32, V, 48, embed);
    files_write(&f, (size_t)1 << 30);
    same_logits(OUT, HYBRID, ZB_MODEL_RUN);
    CHECK(zb_model_open(&m, OUT, ZB_MODEL_TRAIN, &err));
    assert_true(zb_model_config(m)->tied && zb_model_params(m)->head == zb_model_params(m)->embed);
    zb_model_free(m);
    CHECK(zb_model_peek(OUT, &c, &stored, &err));
    assert_true(c.tied);

    float *other = ZB_NEW_ARRAY(&f.arena, float, V * 48);
    memcpy(other, embed, V * 48 * sizeof *other);
    for (int i = 0; i < 48; i++)
        other[(V - 1) * 48 + i] = 0; /* of the last token: its logit is 0 */
    head->data = other;
    files_write(&f, (size_t)1 << 30);
    zb_arena a = {0};
    const float *got = logits_of(OUT, ZB_MODEL_RUN, false, &a),
                *tied = logits_of(HYBRID, ZB_MODEL_RUN, false, &a);
    for (int i = 0; i < COUNT; i++) assert_true(got[i] == (i % V == V - 1 ? 0 : tied[i]));
    zb_arena_free(&a);
    CHECK(zb_model_peek(OUT, &c, &stored, &err));
    assert_false(c.tied);
    files_close(&f);
}

/* The norms of latents have an epsilon of their own, which shows where the latents are small. */
static void test_latent_norm(void **state) {
    (void)state;
    model_files f;
    files_open(&f, "tests/golden/mla-norm-yarn");
    json_object_set_new(f.hybrid, "latent_norm_eps", json_real(3e-6));
    files_write(&f, 1 << 20);
    zb_model *m;
    zb_runner *r;
    CHECK(zb_model_open(&m, OUT, ZB_MODEL_RUN, &err));
    CHECK(zb_runner_new(&r, m, ZB_PREC_F32, &err));
    static const char *const names[] = {"model.layers.0.mla.kv_a_layernorm.weight",
                                        "model.layers.3.mla.q_a_layernorm.weight",
                                        "model.layers.0.input_layernorm.weight"};
    for (int i = 0; i < 3; i++) {
        const zb_param *p = zb_params_find(zb_model_params(m), names[i]);
        float x[64], y[64], eps = i < 2 ? 3e-6f : 1e-5f;
        for (int k = 0; k < 64; k++) x[k] = 1e-3f;
        zb_norm(zb_runner_run(r), p, x, 1, p->cols, y, NULL);
        for (int k = 0; k < p->cols; k++) {
            float want = ((const float *)p->data)[k] * 1e-3f / sqrtf(1e-6f + eps);
            assert_true(fabsf(y[k] - want) <= 1e-5f * fabsf(want));
        }
    }
    zb_runner_free(r);
    zb_model_free(m);
    files_close(&f);
}

static void test_convolution_of_two_axes(void **state) {
    (void)state;
    model_files f;
    files_open(&f, HYBRID);
    zb_tensor *t = item_of(&f, "model.layers.0.mamba.conv1d.weight");
    assert_true(t->n_dims == 3 && t->shape[1] == 1 && t->shape[2] == 4);
    t->n_dims = 2;
    t->shape[1] = 4;
    files_write(&f, (size_t)1 << 30);
    same_logits(OUT, HYBRID, ZB_MODEL_RUN);
    t->shape[0] /= 2;
    t->shape[1] = 8;
    files_write(&f, (size_t)1 << 30);
    refused(OUT, ZB_ERR_FORMAT,
            "tensor model.layers.0.mamba.conv1d.weight: expected [160,1,4], found F32 [80,8]");
    files_close(&f);
}

/* Saved in BF16: gates and norms stay wide, the rest is rounded once, and saving again changes
 * nothing. */
static void test_save_narrow(void **state) {
    (void)state;
    zb_model *a, *b, *c;
    CHECK(zb_model_open(&a, HYBRID, ZB_MODEL_TRAIN, &err));
    CHECK(zb_model_save(a, OUT, ZB_BF16, NULL, NULL, &err));
    json_t *config, *stored;
    CHECK(zb_json_read(OUT "/config.json", 1 << 20, &config, &err));
    stored = json_object_get(config, "torch_dtype");
    assert_string_equal(json_string_value(stored), "bfloat16");
    json_decref(config);
    CHECK(zb_model_open(&b, OUT, ZB_MODEL_RUN, &err));
    CHECK(zb_model_save(b, OUT "-again", ZB_BF16, NULL, NULL, &err));
    CHECK(zb_model_open(&c, OUT "-again/", ZB_MODEL_RUN, &err));
    for (int i = 0; i < zb_model_params(a)->n; i++) {
        const zb_param *p = &zb_model_params(a)->item[i], *q = &zb_model_params(b)->item[i],
                       *r = &zb_model_params(c)->item[i];
        bool wide = p->role == ZB_ROLE_GATE || p->role == ZB_ROLE_NORM;
        assert_int_equal(q->dtype, wide ? ZB_F32 : ZB_BF16);
        for (int64_t k = 0; k < zb_param_count(p); k++) {
            if (wide)
                assert_true(((const float *)q->data)[k] == p->w[k]);
            else
                assert_int_equal(((const uint16_t *)q->data)[k], zb_f32_to_bf16(p->w[k]));
        }
        assert_memory_equal(q->data, r->data, (size_t)zb_param_count(p) * (wide ? 4 : 2));
    }
    zb_model_free(a);
    zb_model_free(b);
    zb_model_free(c);
    CHECK(zb_dir_remove(OUT "-again", &err));
}

/* A GGUF file made of keys and tensors, version 3, alignment 32. */
typedef struct gguf_file {
    const char *arch, *scaling; /* scaling NULL: no key */
    const char *real, *integer; /* keys with these values; NULL: none */
    float real_value;
    uint32_t integer_value;
    int rope_dim; /* 0: no key */
    size_t cut;   /* bytes left off at the end */
} gguf_file;

static void put_text(zb_buf *b, const char *s) {
    uint64_t n = strlen(s);
    zb_buf_add(b, &n, 8);
    zb_buf_add(b, s, n);
}

static void put_value(zb_buf *b, const char *key, uint32_t type, const void *v) {
    put_text(b, key);
    zb_buf_add(b, &type, 4);
    zb_buf_add(b, v, 4);
}

static void put_key_text(zb_buf *b, const char *key, const char *v) {
    uint32_t type = 8;
    put_text(b, key);
    zb_buf_add(b, &type, 4);
    put_text(b, v);
}

static uint32_t gguf_type(zb_dtype t) {
    return t == ZB_F32 ? 0 : t == ZB_F16 ? 1 : t == ZB_Q8_0 ? 8 : t == ZB_BF16 ? 30 : 27;
}

static void gguf_write(const model_files *f, const gguf_file *g) {
    static const struct {
        const char *key;
        uint32_t value;
    } sizes[] = {{"embedding_length", 48},       {"block_count", 4},
                 {"feed_forward_length", 80},    {"attention.head_count", 6},
                 {"attention.head_count_kv", 2}, {"attention.key_length", 16},
                 {"context_length", 256}};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    zb_buf b;
    zb_buf_init(&b, 1 << 24);
    uint32_t version = 3, f32 = 6, u32 = 4;
    uint64_t tensors = f->n, keys = 1 + SIZES + 1 + (g->scaling ? 2 : 0) + (g->rope_dim ? 1 : 0) +
                                    (g->real ? 1 : 0) + (g->integer ? 1 : 0);
    zb_arena a = {0};
    float eps = 1e-5f, factor = 8;
    zb_buf_adds(&b, "GGUF");
    zb_buf_add(&b, &version, 4);
    zb_buf_add(&b, &tensors, 8);
    zb_buf_add(&b, &keys, 8);
    put_key_text(&b, "general.architecture", g->arch);
    for (int i = 0; i < SIZES; i++)
        put_value(&b, zb_asprintf(&a, "%s.%s", g->arch, sizes[i].key), u32, &sizes[i].value);
    put_value(&b, zb_asprintf(&a, "%s.attention.layer_norm_rms_epsilon", g->arch), f32, &eps);
    if (g->real) put_value(&b, g->real, f32, &g->real_value);
    if (g->integer) put_value(&b, g->integer, u32, &g->integer_value);
    if (g->scaling) {
        put_key_text(&b, "llama.rope.scaling.type", g->scaling);
        put_value(&b, "llama.rope.scaling.factor", f32, &factor);
    }
    if (g->rope_dim) put_value(&b, "llama.rope.dimension_count", u32, &g->rope_dim);
    uint64_t at = 0;
    for (size_t i = 0; i < f->n; i++) {
        const zb_tensor *t = &f->item[i];
        uint32_t dims = (uint32_t)t->n_dims, type = gguf_type(t->dtype);
        put_text(&b, t->name);
        zb_buf_add(&b, &dims, 4);
        for (int d = t->n_dims; d-- > 0;) zb_buf_add(&b, &t->shape[d], 8);
        zb_buf_add(&b, &type, 4);
        zb_buf_add(&b, &at, 8);
        at = (at + t->bytes + 31) / 32 * 32;
    }
    for (size_t i = 0; i < f->n; i++) {
        while (b.n % 32) zb_buf_addc(&b, 0);
        zb_buf_add(&b, f->item[i].data, f->item[i].bytes);
    }
    while (b.n % 32) zb_buf_addc(&b, 0);
    CHECK(zb_dir_make(OUT, &err));
    CHECK(zb_file_write(OUT "/model.gguf", b.p, b.n - g->cut, &err));
    zb_buf_free(&b);
    zb_arena_free(&a);
}

static const gguf_file plain_gguf = {.arch = "llama"};
static const char made[] = OUT "/model.gguf";

/* The tensors of a folder under GGUF's names, rows (or values) of q and k moved to adjacent rotary
 * pairs: new row 2i+s of a head <- row s·dh/2 + i. Any 16-bit or f32 type. */
static void to_gguf(model_files *f, bool moves) {
    static const char *const names[][2] = {
        {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
        {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},       {"self_attn.q_proj", "attn_q"},
        {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
        {"self_attn.o_proj", "attn_output"}, {"model.embed_tokens", "token_embd"},
        {"model.norm", "output_norm"},       {"lm_head", "output"}};
    for (size_t i = 0; i < f->n; i++) {
        zb_tensor *t = &f->item[i];
        const char *name = t->name, *tail = strrchr(name, '.');
        int layer = -1, used = 0;
        if (sscanf(name, "model.layers.%d.%n", &layer, &used) == 1) name += used;
        for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
            if (!strncmp(name, names[k][0], (size_t)(tail - name)) &&
                strlen(names[k][0]) == (size_t)(tail - name))
                t->name = layer < 0
                              ? zb_asprintf(&f->arena, "%s%s", names[k][1], tail)
                              : zb_asprintf(&f->arena, "blk.%d.%s%s", layer, names[k][1], tail);
        if (!moves) continue;
        if (!strstr(t->name, "attn_q.") && !strstr(t->name, "attn_k.")) continue;
        size_t row = t->bytes / (size_t)t->shape[0];
        char *moved = zb_alloc(&f->arena, t->bytes);
        for (int r = 0; r < t->shape[0]; r++) {
            int old = r / 16 * 16 + r % 2 * 8 + r % 16 / 2;
            memcpy(moved + (size_t)r * row, (const char *)t->data + (size_t)old * row, row);
        }
        t->data = moved;
    }
}

static void test_gguf(void **state) {
    (void)state;
    for (int mode = 0; mode < 2; mode++)
        same_logits(GGUF, LLAMA, mode ? ZB_MODEL_TRAIN : ZB_MODEL_RUN);
    zb_model *g, *d;
    CHECK(zb_model_open(&g, GGUF, ZB_MODEL_TRAIN, &err));
    CHECK(zb_model_open(&d, LLAMA, ZB_MODEL_TRAIN, &err));
    assert_true(zb_model_config(g)->eps == zb_model_config(d)->eps &&
                zb_model_config(g)->rope.theta == zb_model_config(d)->rope.theta);
    assert_string_equal(zb_model_path(g), GGUF);
    /* saved as a folder it is read back to the same description and the same logits */
    CHECK(zb_model_save(g, OUT, ZB_F32, NULL, NULL, &err));
    same_logits(OUT, LLAMA, ZB_MODEL_RUN);
    zb_model *again;
    CHECK(zb_model_open(&again, OUT, ZB_MODEL_RUN, &err));
    assert_memory_equal(zb_model_config(again), zb_model_config(g), sizeof(zb_config));
    zb_model_free(again);
    zb_model_free(g);
    zb_model_free(d);
}

/* Adds what Llama 3.2 and biased models have: a head, biases on q, k, v (and o), the llama3 scaling
 * of factor 32. */
static void enrich(model_files *f, bool o_bias) {
    static float values[4][4][96], head[V * 48];
    static const struct {
        const char *name;
        int n;
    } biases[4] = {{"q", 96}, {"k", 32}, {"v", 32}, {"o", 48}};
    for (int i = 0; i < V * 48; i++)
        head[i] = (float)zb_rng_normal(1, ZB_RNG_TEST, (uint64_t)i) / 7;
    item_add(f, "lm_head.weight", ZB_F32, V, 48, head);
    json_object_set_new(f->config, "tie_word_embeddings", json_false());
    for (int l = 0; l < 4; l++)
        for (int k = 0; k < (o_bias ? 4 : 3); k++) {
            for (int i = 0; i < biases[k].n; i++)
                values[l][k][i] =
                    (float)zb_rng_normal((uint64_t)(10 + l * 4 + k), ZB_RNG_TEST, (uint64_t)i);
            item_add(
                f,
                zb_asprintf(&f->arena, "model.layers.%d.self_attn.%s_proj.bias", l, biases[k].name),
                ZB_F32, biases[k].n, 0, values[l][k]);
        }
    if (o_bias)
        json_object_set_new(f->config, "attention_bias", json_true());
    else
        json_object_set_new(f->config, "model_type", json_string("qwen2"));
    json_object_set_new(f->config, "rope_scaling",
                        json_pack("{s:s,s:f,s:f,s:f,s:i}", "rope_type", "llama3", "factor", 32.0,
                                  "low_freq_factor", 1.0, "high_freq_factor", 4.0,
                                  "original_max_position_embeddings", 8192));
}

/* The divisors of rope_freqs.weight for head size 16, theta 10000 (ecosystem notes on GGUF;
 * llama.cpp's converter). */
static void divisors(float d[8]) {
    for (int i = 0; i < 8; i++) {
        double wave = 2 * 3.14159265358979323846 * pow(10000, i / 8.0), s = (8192 / wave - 1) / 3;
        d[i] = wave < 2048 ? 1 : wave > 8192 ? 32 : (float)(1 / ((1 - s) / 32 + s));
    }
}

static void test_gguf_llama3(void **state) {
    (void)state;
    static const zb_dtype types[] = {ZB_F32, ZB_F16, ZB_BF16};
    for (int o_bias = 0; o_bias < 2; o_bias++)
        for (size_t k = 0; k < sizeof types / sizeof types[0]; k++) {
            model_files f;
            files_open(&f, LLAMA);
            enrich(&f, o_bias);
            if (types[k] != ZB_F32) convert_all(&f, types[k]);
            files_write(&f, (size_t)1 << 30);
            to_gguf(&f, true);
            float d[8];
            divisors(d);
            assert_true(d[5] == 1 && d[6] > 1 && d[6] < 32 &&
                        d[7] == 32); /* all three regions occur */
            item_add(&f, "rope_freqs.weight", ZB_F32, 8, 0, d);
            gguf_write(&f, &plain_gguf);
            zb_model *m;
            CHECK(zb_model_open(&m, made, ZB_MODEL_RUN, &err));
            const zb_config *c = zb_model_config(m);
            assert_true(c->rope.type == ZB_ROPE_LLAMA3 && c->rope.factor == 32 && !c->tied &&
                        c->qkv_bias && c->o_bias == (o_bias == 1));
            assert_string_equal(c->model_type, o_bias ? "llama" : "qwen2");
            zb_model_free(m);
            for (int mode = 0; mode < 2; mode++) {
                zb_arena a = {0};
                zb_model_mode how = mode ? ZB_MODEL_TRAIN : ZB_MODEL_RUN;
                for (int singly = 0; singly < 2; singly++) {
                    float *want = logits_of(OUT, how, singly, &a),
                          *got = logits_of(made, how, singly, &a);
                    assert_memory_equal(got, want, COUNT * sizeof *got);
                }
                zb_arena_free(&a);
            }
            files_close(&f);
        }
}

static zb_config gguf_config(const model_files *f, const gguf_file *g) {
    zb_model *m;
    gguf_write(f, g);
    CHECK(zb_model_open(&m, made, ZB_MODEL_RUN, &err));
    zb_config c = *zb_model_config(m);
    zb_model_free(m);
    return c;
}

/* The end of a turn ends an answer, too; a factor alone, by its new name or its old, is linear. */
static void test_gguf_keys(void **state) {
    (void)state;
    model_files f;
    files_open(&f, LLAMA);
    to_gguf(&f, true);
    gguf_file g = {.arch = "llama", .integer = "tokenizer.ggml.eos_token_id", .integer_value = 2};
    zb_config c = gguf_config(&f, &g);
    assert_true(c.n_eos == 1 && c.eos[0] == 2 && c.rope.type == ZB_ROPE_PLAIN);
    g.integer = "tokenizer.ggml.eot_token_id";
    g.integer_value = 7;
    c = gguf_config(&f, &g);
    assert_true(c.n_eos == 1 && c.eos[0] == 7);
    static const char *const names[] = {"llama.rope.scale_linear", "llama.rope.scaling.factor"};
    for (int i = 0; i < 2; i++) {
        g = (gguf_file){.arch = "llama", .real = names[i], .real_value = 4};
        c = gguf_config(&f, &g);
        assert_true(c.rope.type == ZB_ROPE_LINEAR && c.rope.factor == 4);
    }
    g = (gguf_file){.arch = "llama", .scaling = "none"};
    assert_int_equal(gguf_config(&f, &g).rope.type, ZB_ROPE_PLAIN);
    files_close(&f);
}

/* The same tensors without moved rows, and biases. */
static void test_gguf_qwen2(void **state) {
    (void)state;
    model_files f;
    files_open(&f, "tests/golden/qwen2-bias");
    to_gguf(&f, false);
    gguf_file g = {.arch = "qwen2", .real = "qwen2.rope.freq_base"};
    g.real_value = (float)json_number_value(json_object_get(f.config, "rope_theta"));
    zb_config c = gguf_config(&f, &g);
    assert_string_equal(c.model_type, "qwen2");
    assert_true(c.qkv_bias && !c.o_bias);
    same_logits(made, "tests/golden/qwen2-bias", ZB_MODEL_RUN);
    files_close(&f);
}

static void test_gguf_errors(void **state) {
    (void)state;
    model_files f;
    files_open(&f, LLAMA);
    to_gguf(&f, true);
    CHECK(zb_dir_remove(OUT, &err));
    gguf_write(&f, &plain_gguf);
    same_logits(made, LLAMA, ZB_MODEL_RUN);

    gguf_write(&f, &(gguf_file){.arch = "gemma"});
    refused(made, ZB_ERR_UNSUPPORTED,
            "general.architecture: expected llama, qwen2 or zebra, found \"gemma\"");
    gguf_write(&f, &(gguf_file){.arch = "llama", .scaling = "longrope"});
    refused(made, ZB_ERR_UNSUPPORTED, "llama.rope.scaling.type: expected none, linear or yarn");
    gguf_write(&f, &(gguf_file){.arch = "llama", .integer = "split.count", .integer_value = 3});
    refused(made, ZB_ERR_UNSUPPORTED, "expected a whole model, found one of 3 parts");
    gguf_write(&f, &(gguf_file){.arch = "llama", .rope_dim = 8});
    refused(made, ZB_ERR_UNSUPPORTED,
            "llama.rope.dimension_count: expected 16 as the head size, found 8");
    gguf_write(&f, &(gguf_file){.arch = "llama", .cut = 4096});
    refused(made, ZB_ERR_FORMAT, "");

    zb_tensor *t = item_of(&f, "blk.1.attn_k.weight"), keep = *t;
    t->name = "blk.1.attn_kk.weight";
    gguf_write(&f, &plain_gguf);
    refused(made, ZB_ERR_FORMAT, "tensor blk.1.attn_k.weight is missing");
    *t = keep;
    t->shape[0] = 48;
    t->shape[1] = 32;
    gguf_write(&f, &plain_gguf);
    refused(made, ZB_ERR_FORMAT, "tensor blk.1.attn_k.weight: expected [32,48], found F32 [48,32]");
    *t = keep;
    t->dtype = ZB_I64;
    t->bytes *= 2;
    t->data = zb_alloc(&f.arena, t->bytes);
    gguf_write(&f, &plain_gguf);
    refused(made, ZB_ERR_FORMAT,
            "blk.1.attn_k.weight: expected floating-point values, found I64 [32,48]");
    *t = keep;

    item_add(&f, "blk.0.ffn_gate_inp.weight", ZB_F32, 4, 48,
             NULL); /* a router: not our architecture */
    gguf_write(&f, &plain_gguf);
    refused(made, ZB_ERR_FORMAT, "tensor blk.0.ffn_gate_inp.weight does not belong to the model");
    f.n--;
    files_close(&f);
}

/* Divisors that are not Llama 3's, or have a factor nobody can divide by. */
static void test_gguf_divisors(void **state) {
    (void)state;
    model_files f;
    files_open(&f, LLAMA);
    to_gguf(&f, true);
    float d[8];
    divisors(d);
    zb_tensor *r = item_add(&f, "rope_freqs.weight", ZB_F32, 8, 0, d);
    gguf_write(&f, &plain_gguf);
    zb_model *m;
    CHECK(zb_model_open(&m, made, ZB_MODEL_RUN, &err));
    zb_model_free(m);
    gguf_write(&f,
               &(gguf_file){.arch = "llama", .real = "llama.rope.scaling.factor", .real_value = 4});
    refused(made, ZB_ERR_UNSUPPORTED, "rope_freqs.weight: expected no scaling in the keys beside");
    r->shape[0] = 4;
    r->bytes = 16;
    gguf_write(&f, &plain_gguf);
    refused(made, ZB_ERR_FORMAT, "rope_freqs.weight: expected F32 [8]");
    r->shape[0] = 8;
    r->bytes = 32;
    d[2] = 2;
    gguf_write(&f, &plain_gguf);
    refused(made, ZB_ERR_UNSUPPORTED,
            "rope_freqs.weight[2]: expected 1 as in Llama 3's scaling, found 2");
    d[2] = NAN;
    gguf_write(&f, &plain_gguf);
    refused(made, ZB_ERR_UNSUPPORTED, "rope_freqs.weight[2]: expected 1");
    static const float odd[] = {0, -32, INFINITY, NAN};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) { /* a factor nobody can divide by */
        divisors(d);
        double wave = 2 * 3.14159265358979323846 * pow(10000, 6 / 8.0), s = (8192 / wave - 1) / 3;
        d[7] = odd[i];
        d[6] = (float)(1 / ((1 - s) / (double)odd[i] + s));
        gguf_write(&f, &plain_gguf);
        zb_err err = {0};
        zb_status status = zb_model_open(&m, made, ZB_MODEL_RUN, &err);
        if (status == ZB_OK) fail_msg("a factor of %g was accepted", (double)odd[i]);
    }
    files_close(&f);
}

/* KiB of files with this name that the process holds in memory. */
static long held_of(const char *name) {
    FILE *f = fopen("/proc/self/smaps", "re");
    char line[4096];
    bool here = false;
    unsigned long from, to;
    long kib, sum = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) here = strstr(line, name) != NULL;
        if (here && sscanf(line, "Rss: %ld kB", &kib) == 1) sum += kib;
    }
    fclose(f);
    return sum;
}

static bool in_mixer(const void *unused, const zb_param *p) {
    (void)unused;
    return zb_param_in_mixer(p);
}

/* What training copies is not held a second time as the file's pages. */
static void test_pages_are_given_back(void **state) {
    (void)state;
    zb_model *m;
    CHECK(zb_model_open(&m, LLAMA, ZB_MODEL_RUN, &err));
    assert_true(held_of(LLAMA) > 0);
    zb_model_free(m);
    CHECK(zb_model_open(&m, LLAMA, ZB_MODEL_TRAIN, &err));
    assert_int_equal(held_of(LLAMA), 0);
    zb_model_free(m);
    CHECK(zb_model_open_part(&m, GGUF, in_mixer, NULL, &err));
    assert_int_equal(held_of(GGUF), 0);
    zb_model_free(m);
    CHECK(zb_model_open_part(&m, LLAMA, in_mixer, NULL, &err));
    assert_int_equal(held_of(LLAMA), 0);
    assert_true(zb_param_is_finite(zb_model_params(m)->embed));
    assert_true(held_of(LLAMA) > 0);
    zb_model_free(m);
}

static int remove_files(void **state) {
    (void)state;
    return zb_dir_remove(OUT, NULL) == ZB_OK ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folder_errors),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_narrow_weights),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_hybrid_heads),
        cmocka_unit_test(test_latent_norm),
        cmocka_unit_test(test_convolution_of_two_axes),
        cmocka_unit_test(test_save_narrow),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_gguf_llama3),
        cmocka_unit_test(test_gguf_errors),
        cmocka_unit_test(test_gguf_divisors),
        cmocka_unit_test(test_gguf_keys),
        cmocka_unit_test(test_gguf_qwen2),
        cmocka_unit_test(test_pages_are_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, remove_files);
}
