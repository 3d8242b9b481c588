/* test_mla_paper.c - the paper's MLA start against golden products, and its exact cases.
 *
 * Singular vectors are free up to sign and rotation, so only products are compared. */
#include "base/rng.h"
#include "compose/mla_paper.h"
#include "format/safetensors.h"
#include "tensor/linalg.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static zb_arena arena;
static zb_err err;
static zb_safetensors *model, *golden;

static int open_files(void **state) {
    (void)state;
    if (zb_safetensors_open(&model, "tests/golden/llama/model.safetensors", &err)) return -1;
    return zb_safetensors_open(&golden, "tests/golden/init_paper.safetensors", &err) ? -1 : 0;
}

static int close_files(void **state) {
    (void)state;
    zb_safetensors_close(model);
    zb_safetensors_close(golden);
    return 0;
}

static int clear(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return 0;
}

static const zb_tensor *find(const zb_safetensors *file, const char *name) {
    const zb_tensor *t = zb_safetensors_find(file, name);
    assert_non_null(t);
    return t;
}

/* A tensor as f32, whatever its type in the file. */
static float *values(const zb_safetensors *file, const char *format, int layer, const char *name) {
    const zb_tensor *t = find(file, zb_asprintf(&arena, format, layer, name));
    float *x = ZB_NEW_ARRAY(&arena, float, zb_tensor_count(t));
    zb_dtype_to_f32(t->dtype, t->data, x, zb_tensor_count(t));
    return x;
}

static zb_mla_paper_in layer_of(int layer) {
    const char *format = "model.layers.%d.self_attn.%s_proj.weight";
    return (zb_mla_paper_in){values(model, format, layer, "q"), values(model, format, layer, "k"),
                             values(model, format, layer, "v"), values(model, format, layer, "o")};
}

static float *room(int rows, int cols) {
    float *x = ZB_NEW_ARRAY(&arena, float, (int64_t)rows *cols);
    for (int64_t i = 0; i < (int64_t)rows * cols; i++)
        x[i] = NAN; /* every element must be written */
    return x;
}

static zb_mla_paper_out outputs(const zb_mla_paper_dims *d) {
    int per_head = d->nope_dim + d->rope_dim, heads = d->full_kv_head ? d->heads : d->kv_heads;
    return (zb_mla_paper_out){room(d->q_rank, d->hidden),
                              room(d->heads * per_head, d->q_rank),
                              room(d->heads * per_head, d->hidden),
                              room(d->kv_rank + d->rope_dim, d->hidden),
                              room(heads * (d->nope_dim + d->v_dim), d->kv_rank),
                              room(d->hidden, d->heads * d->v_dim)};
}

static void check_product(const float *a, const float *b, int m, int n, int k, const float *want) {
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0, size = 0;
            for (int p = 0; p < k; p++) {
                double x = (double)a[i * k + p] * (double)b[p * n + j];
                sum += x;
                size += fabs(x);
            }
            /* factors and golden value are rounded to f32 once each */
            if (!(fabs(sum - (double)want[i * n + j]) <= 4 * 0x1p-24 * (size + fabs(sum))))
                fail_msg("[%d,%d]: %.9g, want %.9g", i, j, sum, (double)want[i * n + j]);
        }
}

/* Sizes from the file's own shapes and the golden README. */
static zb_mla_paper_dims golden_dims(void) {
    return (zb_mla_paper_dims){
        .hidden = (int)find(model, "model.layers.0.self_attn.q_proj.weight")->shape[1],
        .heads = 6,
        .kv_heads = 2,
        .head_dim = 16,
        .q_rank = 20,
        .kv_rank = 12,
        .nope_dim = 8,
        .rope_dim = 8,
        .v_dim = 16,
        .full_kv_head = true};
}

static void test_golden(void **state) {
    (void)state;
    zb_mla_paper_dims d = golden_dims();
    for (int layer = 0; layer < 4; layer++) {
        zb_mla_paper_in in = layer_of(layer);
        zb_mla_paper_out out = outputs(&d);
        assert_int_equal(zb_mla_paper_init(&d, &in, &out, &arena, &err), ZB_OK);
        check_product(out.q_b, out.q_a, 6 * 16, d.hidden, 20, values(golden, "%d.%s", layer, "q"));
        check_product(out.kv_b, out.kv_a, 6 * 24, d.hidden, 12,
                      values(golden, "%d.%s", layer, "kv"));
        const float *rope = values(golden, "%d.%s", layer, "k_rope");
        for (int i = 0; i < 8 * d.hidden; i++)
            assert_true(fabsf(out.kv_a[12 * d.hidden + i] - rope[i]) <= 0x1p-23f * fabsf(rope[i]));
        assert_memory_equal(out.out, in.o, (size_t)(d.hidden * 96) * sizeof(float));
    }
}

static void test_golden_ranks(void **state) {
    (void)state;
    zb_mla_paper_dims d = golden_dims();
    static const char *const shares[] = {"0.8", "0.9", "0.95"};
    for (int layer = 0; layer < 4; layer++)
        for (int i = 0; i < 3; i++) {
            zb_mla_paper_in in = layer_of(layer);
            const zb_tensor *want =
                find(golden, zb_asprintf(&arena, "%d.rank_%s", layer, shares[i]));
            int32_t rank;
            memcpy(&rank, want->data, sizeof rank);
            zb_mla_paper_energy e = {.q_share = 1, .kv_share = i == 0 ? 0.8 : i == 1 ? 0.9 : 0.95};
            int q = 0, kv = 0;
            assert_int_equal(zb_mla_paper_ranks(&d, &in, &e, &q, &kv, &arena, &err), ZB_OK);
            assert_int_equal(kv, rank);
            assert_int_equal(q, d.hidden); /* all of the energy needs all of a random matrix */
            e.kv_cap = 9;
            assert_int_equal(zb_mla_paper_ranks(&d, &in, &e, NULL, &kv, &arena, &err), ZB_OK);
            assert_int_equal(kv, 9);
        }
    zb_mla_paper_energy wrong = {.q_share = 1.5, .kv_share = 0.9};
    zb_mla_paper_in in = layer_of(0);
    int q;
    assert_int_equal(zb_mla_paper_ranks(&d, &in, &wrong, &q, NULL, &arena, &err), ZB_ERR_CONFIG);
}

/* Full ranks lose nothing: the products are the original rows, for repeated and for grouped kv
 * heads. */
static void test_full_rank(void **state) {
    (void)state;
    for (int full = 0; full < 2; full++) {
        zb_mla_paper_dims d = golden_dims();
        d.full_kv_head = full;
        d.nope_dim = 10; /* overlaps with the rotated part */
        d.q_rank = d.hidden < 96 ? d.hidden : 96;
        int heads = full ? 6 : 2;
        d.kv_rank = d.hidden < 2 * heads * 16 ? d.hidden : 2 * heads * 16;
        zb_mla_paper_in in = layer_of(1);
        zb_mla_paper_out out = outputs(&d), direct = outputs(&d);
        assert_int_equal(zb_mla_paper_init(&d, &in, &out, &arena, &err), ZB_OK);
        zb_mla_paper_dims no_low_rank = d;
        no_low_rank.q_rank = 0;
        assert_int_equal(zb_mla_paper_init(&no_low_rank, &in, &direct, &arena, &err), ZB_OK);
        size_t row = (size_t)d.hidden, bytes = row * sizeof(float);
        for (int h = 0; h < 6; h++) { /* query rows 0..9 and 8..15 of each head */
            assert_memory_equal(direct.q + (size_t)(h * 18) * row, in.q + (size_t)(h * 16) * row,
                                10 * bytes);
            assert_memory_equal(direct.q + (size_t)(h * 18 + 10) * row,
                                in.q + (size_t)(h * 16 + 8) * row, 8 * bytes);
        }
        check_product(out.q_b, out.q_a, 6 * 18, d.hidden, d.q_rank, direct.q);
        float *want = room(heads * 26, d.hidden);
        for (int h = 0; h < heads; h++) {
            size_t from = (size_t)(h / (heads / 2) * 16) * row;
            memcpy(want + (size_t)(h * 26) * row, in.k + from, 10 * bytes);
            memcpy(want + (size_t)(h * 26 + 10) * row, in.v + from, 16 * bytes);
        }
        check_product(out.kv_b, out.kv_a, heads * 26, d.hidden, d.kv_rank, want);
    }
}

static void test_energy_rank(void **state) {
    (void)state;
    const double s[20] = {3, 2, 1, 1, 1}; /* squares 9 4 1 1 1, total 16 */
    assert_int_equal(zb_energy_rank(s, 20, 0.5, 0), 8);
    assert_int_equal(zb_energy_rank(s, 20, 1.0, 0), 20); /* as there: zeros are below it, too */
    assert_int_equal(zb_energy_rank(s, 5, 0.5, 0), 5);   /* rounding up ends at the matrix */
    assert_int_equal(zb_energy_rank(s, 20, 0.5, 6), 6);
    double flat[40];
    for (int i = 0; i < 40; i++) flat[i] = 1;
    assert_int_equal(zb_energy_rank(flat, 40, 0.2, 0), 8);    /* exactly 8 */
    assert_int_equal(zb_energy_rank(flat, 40, 0.225, 0), 16); /* 9, rounded up */
    assert_int_equal(zb_energy_rank(flat, 40, 0.21, 0), 8);   /* 8 are below, 9 above */
    assert_int_equal(zb_energy_rank(flat, 40, 0.01, 0), 8);   /* at least 1 */
    assert_int_equal(zb_energy_rank(flat, 40, 1.0, 0), 40);
    const double zero[10] = {0};
    assert_int_equal(zb_energy_rank(zero, 10, 0.9, 0), 8);
}

static void expect_config_error(zb_mla_paper_dims d, const char *word) {
    zb_mla_paper_in in = layer_of(0);
    zb_mla_paper_out out = {0}; /* refused before anything is written */
    assert_int_equal(zb_mla_paper_init(&d, &in, &out, &arena, &err), ZB_ERR_CONFIG);
    if (!strstr(err.msg, word)) fail_msg("'%s' does not name %s", err.msg, word);
}

static void test_errors(void **state) {
    (void)state;
    zb_mla_paper_dims d = golden_dims();
#define WRONG(field, value, word)                                                                  \
    do {                                                                                           \
        zb_mla_paper_dims w = d;                                                                   \
        w.field = value;                                                                           \
        expect_config_error(w, word);                                                              \
    } while (0)
    WRONG(v_dim, 8, "v_head_dim 16");
    WRONG(nope_dim, 17, "qk_nope_head_dim");
    WRONG(rope_dim, 17, "qk_rope_head_dim");
    WRONG(rope_dim, -1, "qk_rope_head_dim");
    WRONG(q_rank, d.hidden + 1, "q_lora_rank");
    WRONG(kv_rank, d.hidden + 1, "kv_lora_rank");
    WRONG(kv_rank, 0, "kv_lora_rank");
    WRONG(kv_heads, 4, "multiple");
    WRONG(heads, 0, "positive");
    zb_mla_paper_in in = layer_of(0);
    zb_mla_paper_out out = outputs(&d);
    float *bad = room(32, d.hidden);
    in.k = bad;
    assert_int_equal(zb_mla_paper_init(&d, &in, &out, &arena, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "k_proj and v_proj: "));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_golden, clear),
        cmocka_unit_test_teardown(test_golden_ranks, clear),
        cmocka_unit_test_teardown(test_full_rank, clear),
        cmocka_unit_test_teardown(test_energy_rank, clear),
        cmocka_unit_test_teardown(test_errors, clear),
    };
    return cmocka_run_group_tests(tests, open_files, close_files);
}
