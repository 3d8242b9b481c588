/* test_config_gguf.c - the rotary scaling that the keys of a GGUF file describe: what is read, and
 * what is refused. Whole models come in test_load.c. */
#include "base/file.h"
#include "format/gguf.h"
#include "format/gguf_write.h"
#include "model/config.h"
#include "model/rope.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char folder[] = "/tmp/zebra-config-gguf-XXXXXX", path[64];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    return zb_dir_remove(folder, NULL) == ZB_OK ? 0 : -1;
}

typedef struct setting {
    const char *key; /* behind llama.rope.scaling; NULL: none */
    double value;
} setting;

/* The configuration of a file with this type of scaling (NULL: no key), factor 8, context 64 before
 * it, and these settings. */
static zb_status read(zb_config *c, const char *type, setting a, setting b, zb_err *err) {
    static const struct {
        const char *key;
        int value;
    } sizes[] = {{"context_length", 512},
                 {"embedding_length", 32},
                 {"block_count", 1},
                 {"feed_forward_length", 64},
                 {"attention.head_count", 2}};
    char key[96];
    float zeros[8 * 32] = {0};
    zb_gguf_writer *w = zb_gguf_writer_new(path);
    zb_gguf_put_str(w, "general.architecture", ZB_STR("llama"));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        snprintf(key, sizeof key, "llama.%s", sizes[i].key);
        zb_gguf_put_u32(w, key, sizes[i].value);
    }
    if (type) {
        zb_gguf_put_str(w, "llama.rope.scaling.type", zb_str_from(type));
        zb_gguf_put_f32(w, "llama.rope.scaling.factor", 8);
        zb_gguf_put_u32(w, "llama.rope.scaling.original_context_length", 64);
    }
    for (int i = 0; i < 2; i++) {
        setting s = i ? b : a;
        snprintf(key, sizeof key, "llama.rope.scaling.%s", s.key ? s.key : "");
        if (s.key) zb_gguf_put_f32(w, key, s.value);
    }
    zb_gguf_put_tensor(
        w,
        &(zb_tensor){.name = "token_embd.weight", .dtype = ZB_F32, .n_dims = 2, .shape = {8, 32}});
    assert_int_equal(zb_gguf_writer_begin(w, err), ZB_OK);
    assert_int_equal(zb_gguf_writer_add(w, zeros, sizeof zeros, err), ZB_OK);
    assert_int_equal(zb_gguf_writer_close(w, err), ZB_OK);
    zb_gguf_writer_free(w);
    zb_gguf *g;
    assert_int_equal(zb_gguf_open(&g, path, err), ZB_OK);
    zb_status s = zb_config_from_gguf(c, g, err);
    zb_gguf_close(g);
    assert_int_equal(remove(path), 0);
    return s;
}

static zb_rope rope_of(const char *type, setting a, setting b) {
    zb_config c;
    zb_err err = {0};
    if (read(&c, type, a, b, &err) != ZB_OK) fail_msg("%s", err.msg);
    assert_memory_equal(&c.rope, &c.mla_rope, sizeof c.rope);
    return c.rope;
}

static void refuses(const char *type, setting s, zb_status status, const char *message) {
    zb_config c;
    zb_err err = {0};
    zb_status got = read(&c, type, s, (setting){0}, &err);
    if (got != status || !strstr(err.msg, message))
        fail_msg("status %d, \"%s\"; expected %d, \"%s\"", got, err.msg, status, message);
}

static const setting none = {0};

/* The factor on cos and sin is this. */
static void stretches(zb_rope r, double want) {
    double f[8], got = zb_rope_frequencies(&r, 16, f);
    if (!(fabs(got - want) <= 1e-15)) fail_msg("%.17g, expected %.17g", got, want);
}

/* All of the factor on cos and sin: the formula's value, or the file's. */
static void test_yarn_factors(void **state) {
    (void)state;
    double m = 0.1 * log(8.0) + 1;
    zb_rope r = rope_of("yarn", none, none);
    assert_true(r.type == ZB_ROPE_YARN && r.factor == 8 && r.old_context == 64);
    assert_true(r.beta_fast == 32 && r.beta_slow == 1);
    stretches(r, m);

    setting whole = {"yarn_attn_factor", 1.1}, times = {"attn_factor", 1.25};
    r = rope_of("yarn", whole, none);
    stretches(r, 1.1); /* as it was before it became f32 */
    r = rope_of("yarn", times, none);
    stretches(r, 1.25 * m);
    r = rope_of("yarn", whole, times);
    stretches(r, 1.25 * 1.1);
    r = rope_of("yarn", (setting){"attn_factor", 1}, none);
    stretches(r, m);
    r = rope_of("yarn", (setting){"yarn_attn_factor", 1}, none);
    stretches(r, 1);
}

static void test_yarn_ramp(void **state) {
    (void)state;
    zb_rope r = rope_of("yarn", (setting){"yarn_beta_fast", 16.1}, (setting){"yarn_beta_slow", 2});
    assert_true(r.beta_fast == 16.1 && r.beta_slow == 2);
    /* what says the usual is read past */
    r = rope_of("yarn", (setting){"yarn_ext_factor", 1}, (setting){"yarn_log_multiplier", 0});
    assert_true(r.type == ZB_ROPE_YARN && r.beta_fast == 32);
}

static void test_not_yarn(void **state) {
    (void)state;
    assert_int_equal(rope_of("none", none, none).type, ZB_ROPE_PLAIN);
    assert_int_equal(rope_of(NULL, (setting){"attn_factor", 1}, none).type, ZB_ROPE_PLAIN);
    zb_rope r = rope_of("linear", (setting){"yarn_attn_factor", 3}, (setting){"attn_factor", 1});
    assert_true(r.type == ZB_ROPE_LINEAR && r.attention_factor == 0);
    static const char *const types[] = {NULL, "none", "linear"};
    for (int i = 0; i < 3; i++)
        refuses(types[i], (setting){"attn_factor", 1.5}, ZB_ERR_UNSUPPORTED,
                "llama.rope.scaling.attn_factor: expected 1, found 1.5");
    refuses("longrope", none, ZB_ERR_UNSUPPORTED,
            "llama.rope.scaling.type: expected none, linear or yarn, found \"longrope\"");
}

static void test_refusals(void **state) {
    (void)state;
    static const char *const positive[] = {"attn_factor", "yarn_attn_factor", "yarn_beta_fast",
                                           "yarn_beta_slow"};
    static const double wrong[] = {-1, (double)INFINITY, (double)NAN};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 3; k++) {
            char message[128];
            snprintf(message, sizeof message,
                     "llama.rope.scaling.%s: expected a finite number above 0, found ",
                     positive[i]);
            refuses("yarn", (setting){positive[i], wrong[k]}, ZB_ERR_FORMAT, message);
        }
    refuses("yarn", (setting){"attn_factor", 0}, ZB_ERR_FORMAT, "above 0, found 0");
    refuses("yarn", (setting){"yarn_beta_slow", 0}, ZB_ERR_FORMAT, "above 0, found 0");
    refuses("yarn", (setting){"yarn_ext_factor", 0.5}, ZB_ERR_UNSUPPORTED,
            "llama.rope.scaling.yarn_ext_factor: expected 1, found 0.5");
    refuses("yarn", (setting){"yarn_ext_factor", (double)NAN}, ZB_ERR_UNSUPPORTED,
            "yarn_ext_factor: expected 1, found nan");
    refuses("yarn", (setting){"yarn_log_multiplier", 1}, ZB_ERR_UNSUPPORTED,
            "llama.rope.scaling.yarn_log_multiplier: expected 0, found 1");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_yarn_factors),
        cmocka_unit_test(test_yarn_ramp),
        cmocka_unit_test(test_not_yarn),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
