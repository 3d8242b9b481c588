/* Rotary frequencies and tables: every scaling against its published definition at points computed
 * by hand, the limits where a scaling must change nothing, growth of the tables, and the softmax
 * scale of MLA. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/json.h"
#include "model/config.h"
#include "model/rope.h"

static const double pi = 3.14159265358979323846;

static void near(double got, double want, const char *what, int i) {
    if (!(fabs(got - want) <= 1e-13 * fabs(want)))
        fail_msg("%s[%d]: got %.17g, want %.17g", what, i, got, want);
}

static void test_plain_and_linear(void **state) {
    (void)state;
    double f[32];
    zb_rope r = {.theta = 10000, .factor = 4};
    assert_true(zb_rope_frequencies(&r, 64, f) == 1);
    near(f[0], 1, "plain", 0);
    near(f[16], 0.01, "plain", 16); /* 10000^(-1/2) */
    for (int i = 0; i < 32; i++) near(f[i], exp(-i / 32.0 * log(10000.0)), "plain", i);
    r.type = ZB_ROPE_LINEAR;
    assert_true(zb_rope_frequencies(&r, 64, f) == 1);
    for (int i = 0; i < 32; i++) near(f[i], exp(-i / 32.0 * log(10000.0)) / 4, "linear", i);
}

/* Llama 3.2: dimension 64, theta 500000, factor 32. Fast pairs are kept, slow ones divided, the
 * blend is monotonous and meets both ends. Pair 16: wavelength 2 pi 500000^(1/2) = 4442.88, between
 * 8192/4 and 8192/1: s = (8192/4442.88 - 1)/3 = 0.281283. */
static void test_llama3(void **state) {
    (void)state;
    double f[32], plain[32];
    zb_rope p = {.theta = 500000, .factor = 1}, r = {.type = ZB_ROPE_LLAMA3,
                                                     .theta = 500000,
                                                     .factor = 32,
                                                     .low = 1,
                                                     .high = 4,
                                                     .old_context = 8192};
    zb_rope_frequencies(&p, 64, plain);
    assert_true(zb_rope_frequencies(&r, 64, f) == 1);
    int kept = 0, slowed = 0, between = 0;
    for (int i = 0; i < 32; i++) {
        double wave = 2 * pi / plain[i], divisor = plain[i] / f[i];
        if (wave < 2048)
            near(divisor, 1, "kept", i), kept++;
        else if (wave > 8192)
            near(divisor, 32, "slowed", i), slowed++;
        else
            assert_true(divisor > 1 && divisor < 32), between++;
        if (i) assert_true(f[i] < f[i - 1]);
    }
    assert_true(kept == 15 && between == 3 && slowed == 14);
    double s = (8192 / (2 * pi * sqrt(500000.0)) - 1) / 3;
    assert_true(fabs(s - 0.281283) < 1e-6);
    near(f[16], plain[16] * ((1 - s) / 32 + s), "blend", 16);
}

/* YaRN with the published checkpoints' settings: dimension 32, theta 500000, factor 32, old context
 * 8192. Pairs that turn more often than beta_fast within the old context are kept, those that turn
 * less than beta_slow divided; cos and sin carry 0.1 ln(32) + 1. */
static void test_yarn(void **state) {
    (void)state;
    double f[16], plain[16];
    zb_rope p = {.theta = 500000, .factor = 1};
    zb_rope r = {.type = ZB_ROPE_YARN,
                 .theta = 500000,
                 .factor = 32,
                 .old_context = 8192,
                 .beta_fast = 32,
                 .beta_slow = 1,
                 .mscale = 1};
    zb_rope_frequencies(&p, 32, plain);
    near(zb_rope_frequencies(&r, 32, f), 0.1 * log(32.0) + 1, "factor on cos and sin", 0);
    /* dimension of n turns: 32 ln(8192/(2 pi n)) / (2 ln 500000): 4.52 for 32 turns, 8.75 for one:
     * ramp from 4 to 9 */
    for (int i = 0; i < 16; i++) {
        double ramp = i <= 4 ? 0 : i >= 9 ? 1 : (i - 4) / 5.0;
        near(f[i], plain[i] * (1 - ramp) + plain[i] / 32 * ramp, "yarn", i);
    }
    r.attention_factor = 1.25; /* of a file goes first */
    assert_true(zb_rope_frequencies(&r, 32, f) == 1.25);
    r.attention_factor = 0;
    r.mscale_all_dim = 1; /* moves the factor from cos and sin into the softmax */
    assert_true(fabs(zb_rope_frequencies(&r, 32, f) - 1) < 1e-15);
    double m = 0.1 * log(32.0) + 1;
    near(zb_mla_scale(&r, 32, 32), m * m / 8, "scale", 0);
    r.mscale_all_dim = 0;
    near(zb_mla_scale(&r, 32, 32), 1 / 8.0, "scale", 0);
    zb_rope shrunk = r; /* a factor below 1 scales nothing, as in the tables */
    shrunk.factor = 0.5;
    shrunk.mscale_all_dim = 1;
    near(zb_mla_scale(&shrunk, 32, 32), 1 / 8.0, "scale", 0);
    near(zb_mla_scale(&p, 20, 5), 1 / 5.0, "scale", 0);
    /* a factor of 1 changes nothing */
    r.factor = 1;
    assert_true(zb_rope_frequencies(&r, 32, f) == 1);
    for (int i = 0; i < 16; i++) near(f[i], plain[i], "yarn of factor 1", i);
}

/* The base's rope_scaling with these keys beside factor 8 and its context. */
static zb_rope base_yarn(const char *keys) {
    char text[512];
    snprintf(text, sizeof text,
             "{\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"intermediate_"
             "size\":96,\"vocab_size\":50,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8,"
             "\"original_max_position_embeddings\":1024%s}}",
             keys);
    zb_config c;
    json_t *o = json_loads(text, 0, NULL);
    zb_err err = {0};
    if (zb_config_parse(&c, o, NULL, "test", &err) != ZB_OK) fail_msg("%s", err.msg);
    json_decref(o);
    return c.rope;
}

/* transformers' rule: mscale and mscale_all_dim count together or not at all, and never in the
 * softmax. */
static void test_base_yarn(void **state) {
    (void)state;
    const double plain = 0.1 * log(8.0) + 1,
                 both = (0.1 * 0.5 * log(8.0) + 1) / (0.1 * 2 * log(8.0) + 1);
    const struct {
        const char *keys;
        double factor;
    } rows[] = {{"", plain},
                {",\"mscale\":0.5", plain},
                {",\"mscale_all_dim\":2", plain},
                {",\"mscale\":0.5,\"mscale_all_dim\":0", plain},
                {",\"mscale\":0,\"mscale_all_dim\":2", plain},
                {",\"mscale\":0.5,\"mscale_all_dim\":2", both},
                {",\"mscale\":1,\"mscale_all_dim\":1", 1},
                {",\"mscale\":0.5,\"mscale_all_dim\":2,\"attention_factor\":1.25", 1.25}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        zb_rope r = base_yarn(rows[i].keys);
        double f[8];
        assert_true(fabs(zb_rope_frequencies(&r, 16, f) - rows[i].factor) < 1e-15);
        assert_true(fabs(zb_mla_scale(&r, 8, 8) - 0.25) < 1e-15);
    }
}

static void table_is(const zb_rope_table *t, int rows, int half, const double *f, double m) {
    assert_true(t->rows >= rows && t->half == half);
    for (int p = 0; p < t->rows; p++)
        for (int i = 0; i < half; i++) {
            assert_true(t->cos[p * half + i] == (float)(cos(p * f[i]) * m));
            assert_true(t->sin[p * half + i] == (float)(sin(p * f[i]) * m));
        }
}

static void test_table(void **state) {
    (void)state;
    zb_arena a = {0};
    zb_rope_table t = {0};
    zb_rope r = {.type = ZB_ROPE_YARN,
                 .theta = 10000,
                 .factor = 8,
                 .old_context = 16,
                 .beta_fast = 32,
                 .beta_slow = 1,
                 .mscale = 1};
    double f[8];
    double m = zb_rope_frequencies(&r, 16, f);
    assert_true(m > 1);
    zb_rope_reserve(&t, &r, 16, 1, &a);
    table_is(&t, 1, 8, f, m);
    int rows = t.rows;
    const float *before = t.cos;
    zb_rope_reserve(&t, &r, 16, rows, &a); /* enough already */
    assert_ptr_equal(t.cos, before);
    zb_rope_reserve(&t, &r, 16, rows + 1, &a);
    assert_true(t.rows >= 2 * rows); /* growth is geometric */
    table_is(&t, rows + 1, 8, f, m);
    zb_rope_reserve(&t, &r, 16, 1000, &a);
    table_is(&t, 1000, 8, f, m);
    /* another head size is another table */
    m = zb_rope_frequencies(&r, 8, f);
    zb_rope_reserve(&t, &r, 8, 10, &a);
    table_is(&t, 10, 4, f, m);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain_and_linear),
                                       cmocka_unit_test(test_llama3), cmocka_unit_test(test_yarn),
                                       cmocka_unit_test(test_base_yarn),
                                       cmocka_unit_test(test_table)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
