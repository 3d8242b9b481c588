/* Models through GGUF files: every golden model comes back bit for bit in f32, close to itself when
 * packed, with the same answers whether opened for running or training; step-size rows stay exact;
 * random models; what is broken or cannot be is refused. */
#include "logits.h"

#include "base/file.h"
#include "compose/quantize.h"
#include "format/gguf.h"
#include "model/save_gguf.h"

#include <math.h>

#define OUT TEST_OUT "/test-quantize"

enum { V = 97, COUNT = TOKENS * V };

static const char *const models[] = {"llama",         "llama3-rope-untied", "qwen2-bias",
                                     "hybrid",        "hybrid-odd-sizes",   "hybrid-yarn-attention",
                                     "mamba2-repeat", "mla-norm-yarn"};
enum { MODELS = sizeof models / sizeof *models };

static zb_quantize_opts options(const char *model, const char *out, const char *type) {
    zb_quantize_opts o = {0};
    zb_opts_defaults((zb_opt_group[]){{"", zb_quantize_opt_table, &o}, {0}});
    o.model = model;
    o.out = out;
    o.type = type;
    return o;
}

static json_t *quantize(const zb_quantize_opts *o) {
    json_t *report = NULL;
    CHECK(zb_dir_make(OUT, &err));
    CHECK(zb_quantize_run(o, &report, &err));
    return report;
}

/* A file next to the golden folder `name`, in `type`; its path. */
static const char *make(const char *name, const char *type, zb_arena *a) {
    char *from = zb_asprintf(a, "tests/golden/%s", name),
         *to = zb_asprintf(a, OUT "/%s.%s.gguf", name, type);
    zb_quantize_opts o = options(from, to, type);
    o.embedding = type;
    json_decref(quantize(&o));
    return to;
}

static int vocabulary(const char *path) {
    zb_model *m;
    CHECK(zb_model_open(&m, path, ZB_MODEL_RUN, &err));
    int v = zb_model_config(m)->V;
    zb_model_free(m);
    return v;
}

static double distance(const float *a, const float *b, int n) {
    double d = 0, size = 0;
    for (int i = 0; i < n; i++) {
        d += pow((double)a[i] - (double)b[i], 2);
        size += pow((double)b[i], 2);
    }
    return sqrt(d / size);
}

static void f32_is_exact(void **state) {
    (void)state;
    for (int k = 0; k < MODELS; k++) {
        zb_arena a = {0};
        const char *from = zb_asprintf(&a, "tests/golden/%s", models[k]),
                   *to = make(models[k], "f32", &a);
        zb_config *want = ZB_NEW(&a, zb_config), *got = ZB_NEW(&a, zb_config);
        zb_model *m;
        CHECK(zb_config_read(want, from, &err));
        CHECK(zb_model_open(&m, to, ZB_MODEL_RUN, &err));
        *got = *zb_model_config(m);
        zb_model_free(m);
        CHECK(zb_model_open(&m, from, ZB_MODEL_RUN, &err));
        want->tied = zb_model_config(m)->tied; /* may follow from the head's absence */
        zb_model_free(m);
        if (memcmp(got, want, sizeof *got)) fail_msg("%s: another configuration", models[k]);
        for (int mode = 0; mode < 2; mode++) {
            zb_model_mode how = mode ? ZB_MODEL_TRAIN : ZB_MODEL_RUN;
            float *x = logits_of(from, how, false, &a), *y = logits_of(to, how, false, &a);
            assert_memory_equal(x, y, (size_t)TOKENS * want->V * sizeof *x);
        }
        zb_arena_free(&a);
    }
}

static void packed_is_close(void **state) {
    (void)state;
    static const struct {
        const char *type;
        double most; /* relative distance of logits: rounding (0.5 %, 8 %) times what four layers of
                        random weights make of it; rows of 48 and 80 columns fall back to F16 */
    } types[] = {{"q8_0", 0.05}, {"q4_1", 0.4}, {"bf16", 0.05}, {"f16", 0.003}};
    for (int k = 0; k < MODELS; k++)
        for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
            zb_arena a = {0};
            const char *from = zb_asprintf(&a, "tests/golden/%s", models[k]),
                       *to = make(models[k], types[t].type, &a);
            int n = TOKENS * vocabulary(from);
            float *want = logits_of(from, ZB_MODEL_RUN, false, &a),
                  *run = logits_of(to, ZB_MODEL_RUN, false, &a),
                  *step = logits_of(to, ZB_MODEL_RUN, true, &a),
                  *train = logits_of(to, ZB_MODEL_TRAIN, false, &a);
            double d = distance(run, want, n);
            if (!(d > 0 && d < types[t].most))
                fail_msg("%s in %s: distance %g", models[k], types[t].type, d);
            /* one set of weights, however it is opened; kernels may round the activations */
            assert_true(distance(train, run, n) < 1e-5);
            assert_true(distance(step, run, n) < 0.01);
            zb_arena_free(&a);
        }
}

/* The step sizes' rows of in_proj are exact in a packed file, and what a copy of it says, too. */
static void step_rows_stay_wide(void **state) {
    (void)state;
    zb_arena a = {0};
    zb_model *wide, *packed;
    const char *file = make("hybrid-packed", "q8_0", &a);
    CHECK(zb_model_open(&wide, "tests/golden/hybrid-packed", ZB_MODEL_TRAIN, &err));
    int seen = 0;
    for (int mode = 0; mode < 2; mode++) {
        CHECK(zb_model_open(&packed, file, mode ? ZB_MODEL_TRAIN : ZB_MODEL_RUN, &err));
        zb_param_table *t = zb_model_params(packed);
        for (int i = 0; i < t->n; i++) {
            const zb_param *p = &t->item[i], *w = zb_params_find(zb_model_params(wide), p->name);
            if (!p->wide_rows) continue;
            seen++;
            assert_true(mode ? !p->wide : p->wide && p->dtype == ZB_F16);
            int first = p->rows - p->wide_rows, n = p->wide_rows * p->cols;
            float *got = ZB_NEW_ARRAY(&a, float, (p->rows * p->cols)),
                  *other = ZB_NEW_ARRAY(&a, float, n);
            zb_param_to_f32(p, 0, p->rows, got);
            zb_param_to_f32(p, first, p->wide_rows, other);
            assert_memory_equal(got + first * p->cols, w->w + first * p->cols, n * sizeof *got);
            assert_memory_equal(other, got + first * p->cols, n * sizeof *got);
            assert_memory_not_equal(got, w->w, first * p->cols * sizeof *got);
        }
        zb_model_free(packed);
    }
    assert_true(seen >= 2);
    zb_model_free(wide);
    zb_arena_free(&a);
}

/* A packed file as a folder again: the same values in f32. */
static void unpacks_to_a_folder(void **state) {
    (void)state;
    zb_arena a = {0};
    const char *file = make("hybrid", "q8_0", &a);
    zb_quantize_opts o = options(file, OUT "/folder", "f32");
    json_decref(quantize(&o));
    float *x = logits_of(file, ZB_MODEL_TRAIN, false, &a),
          *y = logits_of(OUT "/folder", ZB_MODEL_TRAIN, false, &a);
    assert_memory_equal(x, y, COUNT * sizeof *x);
    zb_arena_free(&a);
}

static void report_says_what_was_done(void **state) {
    (void)state;
    zb_quantize_opts o = options("tests/golden/hybrid-packed", OUT "/dry.gguf", "q4_k");
    o.dry_run = true;
    json_t *r = quantize(&o), *row;
    assert_false(zb_file_exists(o.out));
    size_t i;
    json_int_t sum = 0, fell_back = 0, wide = 0;
    json_array_foreach(json_object_get(r, "tensors"), i, row) {
        const char *name = json_string_value(json_object_get(row, "name")),
                   *to = json_string_value(json_object_get(row, "to")),
                   *note = json_string_value(json_object_get(row, "note"));
        sum += json_integer_value(json_object_get(row, "bytes"));
        if (strstr(name, "norm") || strstr(name, "A_log") || strstr(name, "conv1d"))
            assert_string_equal(to, "F32");
        if (note && strstr(note, "no whole blocks of")) fell_back++;
        if (note && strstr(note, "also as F32")) wide++;
        if (strstr(name, "embed_tokens")) assert_string_equal(to, "F16");
    }
    assert_int_equal(sum, json_integer_value(json_object_get(r, "bytes")));
    assert_true(fell_back > 0);
    json_decref(r);
    o.dry_run = false;
    r = quantize(&o);
    zb_model *m;
    CHECK(zb_model_open(&m, o.out, ZB_MODEL_RUN, &err));
    assert_int_equal(zb_model_bytes(m), sum);
    zb_model_free(m);
    json_decref(r);
}

/* Random weights: a file that loads, the same for the same seed, with finite logits. */
static void random_models(void **state) {
    (void)state;
    zb_arena a = {0};
    static const char *const types[] = {"q8_0", "q4_k", "f32"};
    for (int k = 0; k < MODELS; k++)
        for (int t = 0; t < 3; t++) {
            zb_quantize_opts o = options(NULL, OUT "/random.gguf", types[t]);
            o.random = zb_asprintf(&a, "tests/golden/%s", models[k]);
            json_decref(quantize(&o));
            int n = TOKENS * vocabulary(o.out);
            float *x = logits_of(o.out, ZB_MODEL_RUN, false, &a);
            double size = 0;
            for (int i = 0; i < n; i++) size += pow((double)x[i], 2) / n;
            assert_true(isfinite(size) && size > 1e-4 && size < 1e4);
            json_decref(quantize(&o));
            float *y = logits_of(o.out, ZB_MODEL_RUN, false, &a);
            assert_memory_equal(x, y, n * sizeof *x);
            o.seed = 7;
            json_decref(quantize(&o));
            y = logits_of(o.out, ZB_MODEL_RUN, false, &a);
            assert_memory_not_equal(x, y, n * sizeof *x);
        }
    zb_arena_free(&a);
}

static void refused(zb_quantize_opts o, zb_status status, const char *message) {
    json_t *report = (json_t *)1;
    zb_err err = {0};
    zb_status s = zb_quantize_run(&o, &report, &err);
    if (s != status || !strstr(err.msg, message))
        fail_msg("status %d, \"%s\"; expected %d, \"%s\"", s, err.msg, status, message);
    assert_null(report);
}

static void refuses_what_cannot_be(void **state) {
    (void)state;
    zb_quantize_opts o = options("tests/golden/hybrid", OUT "/folder2", "q8_0");
    refused(o, ZB_ERR_CONFIG, "expected a name that ends in .gguf: folders hold f32 or bf16");
    o.out = NULL;
    refused(o, ZB_ERR_CONFIG, "out is needed");
    o.out = OUT "/x.gguf";
    o.random = "tests/golden/llama";
    refused(o, ZB_ERR_USAGE, "expected a model or random, one of them");
    o.random = NULL;
    o.head = "f16";
    refused(o, ZB_ERR_CONFIG, "the head of this model is its embedding");
    o = options("tests/golden/none", OUT "/x.gguf", "q8_0");
    refused(o, ZB_ERR_IO, "no such model folder");
    zb_model *m; /* a value that is no number, named */
    CHECK(zb_model_open(&m, "tests/golden/hybrid", ZB_MODEL_TRAIN, &err));
    zb_params_find(zb_model_params(m), "model.layers.1.mlp.up_proj.weight")->w[5] = NAN;
    CHECK(zb_model_save(m, OUT "/nan", ZB_F32, NULL, NULL, &err));
    zb_model_free(m);
    o = options(OUT "/nan", OUT "/nan.gguf", "q8_0");
    refused(o, ZB_ERR_FORMAT, "tensor model.layers.1.mlp.up_proj.weight: row 0, column 5");
    assert_false(zb_file_exists(o.out));
    char **names;
    size_t n;
    zb_arena a = {0};
    CHECK(zb_dir_list(OUT, "nan.gguf", &a, &names, &n, &err));
    assert_int_equal(n, 0); /* no half file is left */
    zb_arena_free(&a);
}

/* ---- broken files of our architecture ---- */

/* Tensors of a good file, keys as wanted; `skip` and `shape` spoil one tensor. */
typedef struct broken {
    const char *config, *hybrid; /* NULL: no key; "": the good text */
    const char *skip;            /* tensor left out */
    const char *odd;             /* tensor stored with another first axis */
    bool integer_config;
} broken;

static void write_broken(const zb_gguf *g, const broken *b) {
    zb_gguf_writer *w = zb_gguf_writer_new(OUT "/broken.gguf");
    zb_str config, hybrid;
    CHECK(zb_gguf_str(g, "zebra.config", true, &config, &err));
    CHECK(zb_gguf_str(g, "zebra.hybrid_config", true, &hybrid, &err));
    zb_gguf_put_str(w, "general.architecture", ZB_STR("zebra"));
    if (b->integer_config) zb_gguf_put_u32(w, "zebra.config", 7);
    if (b->config) zb_gguf_put_str(w, "zebra.config", *b->config ? zb_str_from(b->config) : config);
    if (b->hybrid)
        zb_gguf_put_str(w, "zebra.hybrid_config", *b->hybrid ? zb_str_from(b->hybrid) : hybrid);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < zb_gguf_count(g); i++) {
            zb_tensor t = *zb_gguf_at(g, i);
            if (b->skip && !strcmp(t.name, b->skip)) continue;
            if (b->odd && !strcmp(t.name, b->odd)) {
                t.bytes = t.bytes / (size_t)t.shape[0];
                t.shape[0] = 1;
            }
            if (pass)
                CHECK(zb_gguf_writer_add(w, t.data, t.bytes, &err));
            else
                zb_gguf_put_tensor(w, &t);
        }
        if (!pass) CHECK(zb_gguf_writer_begin(w, &err));
    }
    CHECK(zb_gguf_writer_close(w, &err));
    zb_gguf_writer_free(w);
}

static void refuses_broken_hybrids(void **state) {
    (void)state;
    static const struct {
        broken how;
        const char *message;
    } cases[] = {
        {{.hybrid = ""}, "key \"zebra.config\" is missing"},
        {{.hybrid = "", .integer_config = true}, "\"zebra.config\": expected a string, found u32"},
        {{.config = "{", .hybrid = ""}, "key \"zebra.config\":1:1: invalid JSON"},
        {{.config = "[]", .hybrid = ""}, "expected an object, found an array"},
        {{.config = "{\"hidden_size\":48}", .hybrid = ""}, "num_hidden_layers"},
        {{.config = "", .hybrid = "3"}, "invalid JSON"},
        {{.config = "", .hybrid = "{\"mla_layers\":[99]}"}, "mla_layers[0]: expected a layer"},
        {{.config = "", .hybrid = "{\"mla_layers\":[1,1],\"kv_lora_rank\":4}"}, "listed twice"},
        {{.config = "", .hybrid = "{\"mla_layers\":[1],\"kv_lora_rank\":99999999}"},
         "kv_lora_rank"},
        {{.config = "", .hybrid = "{\"mla_layers\":[1],\"kv_lora_rank\":4}"}, "qk_rope_head_dim"},
        {{.config = "",
          .hybrid = "{\"mla_layers\":[0,1,2,3],\"kv_lora_rank\":4,"
                    "\"qk_rope_head_dim\":8,\"qk_nope_head_dim\":8}"},
         "is missing"},
        {{.config = ""}, "tensor model.layers.0.self_attn.q_proj.weight is missing"},
        {{.config = "", .hybrid = "", .skip = "model.norm.weight"},
         "tensor model.norm.weight is missing"},
        {{.config = "", .hybrid = "", .odd = "model.layers.0.mlp.up_proj.weight"},
         "tensor model.layers.0.mlp.up_proj.weight: expected [80,48], found F32 [1,48]"},
    };
    zb_arena a = {0};
    zb_gguf *g;
    CHECK(zb_gguf_open(&g, make("hybrid", "f32", &a), &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_broken(g, &cases[i].how);
        for (int mode = 0; mode < 2; mode++) {
            zb_model *m;
            zb_err err = {0};
            zb_status s =
                zb_model_open(&m, OUT "/broken.gguf", mode ? ZB_MODEL_TRAIN : ZB_MODEL_RUN, &err);
            if (s == ZB_OK || !strstr(err.msg, cases[i].message))
                fail_msg("case %zu: \"%s\", expected \"%s\"", i, err.msg, cases[i].message);
            assert_true(!strncmp(err.msg, OUT "/broken.gguf: ", strlen(OUT) + 14));
        }
    }
    zb_gguf_close(g);
    zb_arena_free(&a);
}

static int remove_files(void **state) {
    (void)state;
    return zb_dir_remove(OUT, NULL) == ZB_OK ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_is_exact),
        cmocka_unit_test(packed_is_close),
        cmocka_unit_test(step_rows_stay_wide),
        cmocka_unit_test(unpacks_to_a_folder),
        cmocka_unit_test(report_says_what_was_done),
        cmocka_unit_test(random_models),
        cmocka_unit_test(refuses_what_cannot_be),
        cmocka_unit_test(refuses_broken_hybrids),
    };
    return cmocka_run_group_tests(tests, NULL, remove_files);
}
