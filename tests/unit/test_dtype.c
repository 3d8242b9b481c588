/* test_dtype.c - the table, sizes, unpacking and rounding of element types.
 *
 * Expected values are those of the `gguf` package and numpy (tests/format/dtype/make_blocks.py),
 * and exact. */
#include "base/file.h"
#include "base/text.h"
#include "format/safetensors.h"
#include "tensor/dtype.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define BLOCKS "tests/format/dtype/blocks.safetensors"

static void table_is_complete(void **state) {
    (void)state;
    for (int t = 0; t < ZB_DTYPE_COUNT; t++) {
        const zb_dtype_info *d = zb_dtype_get((zb_dtype)t);
        zb_dtype found;
        assert_non_null(d->name);
        assert_true(d->block > 0 && d->bytes > 0);
        assert_true(zb_dtype_find(d->name, &found));
        assert_int_equal(found, t);
    }
    zb_dtype unused;
    assert_false(zb_dtype_find("F8_E4M3", &unused));
    assert_false(zb_dtype_find("", &unused));
    assert_false(zb_dtype_find("f32", &unused));
}

static void sizes(void **state) {
    (void)state;
    size_t n;
    assert_true(zb_dtype_size(ZB_F32, 10, &n) && n == 40);
    assert_true(zb_dtype_size(ZB_Q4_1, 64, &n) && n == 40);
    assert_true(zb_dtype_size(ZB_Q6_K, 512, &n) && n == 420);
    assert_true(zb_dtype_size(ZB_Q6_K, 0, &n) && n == 0);
    assert_false(zb_dtype_size(ZB_Q4_1, 33, &n));
    assert_false(zb_dtype_size(ZB_Q4_K, 32, &n));
    assert_false(zb_dtype_size(ZB_U8, -1, &n));
    assert_false(zb_dtype_size(ZB_F64, INT64_MAX, &n));
}

/* Unpacks from an odd address into guarded memory and compares bit for bit. */
static void check_blocks(const zb_safetensors *s, zb_dtype t) {
    char name[32];
    snprintf(name, sizeof name, "%s.packed", zb_dtype_get(t)->name);
    const zb_tensor *packed = zb_safetensors_find(s, name);
    snprintf(name, sizeof name, "%s.values", zb_dtype_get(t)->name);
    const zb_tensor *values = zb_safetensors_find(s, name);
    assert_non_null(packed);
    assert_non_null(values);
    int64_t n = zb_tensor_count(values);
    size_t bytes;
    assert_true(zb_dtype_size(t, n, &bytes) && bytes == packed->bytes);
    zb_arena a = {0};
    uint8_t *odd = zb_alloc(&a, bytes + 1);
    memcpy(odd + 1, packed->data, bytes);
    float *got = ZB_NEW_ARRAY(&a, float, n + 1);
    got[n] = 42;
    zb_dtype_to_f32(t, odd + 1, got, n);
    assert_memory_equal(got, values->data, (size_t)n * 4);
    assert_true(got[n] == 42);
    zb_arena_free(&a);
}

static void blocks_match_gguf(void **state) {
    (void)state;
    zb_safetensors *s;
    zb_err err;
    assert_int_equal(zb_safetensors_open(&s, BLOCKS, &err), ZB_OK);
    for (int t = ZB_Q8_0; t < ZB_DTYPE_COUNT; t++) check_blocks(s, (zb_dtype)t);
    zb_safetensors_close(s);
}

static void rounding_matches_numpy(void **state) {
    (void)state;
    zb_safetensors *s;
    assert_int_equal(zb_safetensors_open(&s, BLOCKS, NULL), ZB_OK);
    const zb_tensor *in = zb_safetensors_find(s, "round.f32");
    int64_t n = zb_tensor_count(in);
    zb_arena a = {0};
    float *f = ZB_NEW_ARRAY(&a, float, n);
    memcpy(f, in->data, in->bytes);
    uint16_t *h = ZB_NEW_ARRAY(&a, uint16_t, n);
    const zb_dtype types[] = {ZB_F16, ZB_BF16};
    const char *const names[] = {"round.f16", "round.bf16"};
    for (int k = 0; k < 2; k++) {
        const uint8_t *want = zb_safetensors_find(s, names[k])->data;
        zb_dtype_from_f32(types[k], f, h, n);
        for (int64_t i = 0; i < n; i++) {
            int expected = want[2 * i] | want[2 * i + 1] << 8;
            if (h[i] != expected)
                print_error("%s of %a: %04x, expected %04x\n", names[k], (double)f[i], h[i],
                            expected);
            assert_int_equal(h[i], expected);
        }
    }
    zb_arena_free(&a);
    zb_safetensors_close(s);
}

/* All 65536 halves: the value by definition, and back to the same bits. */
static void every_half_returns(void **state) {
    (void)state;
    for (uint32_t u = 0; u < 65536; u++) {
        uint16_t h = (uint16_t)u;
        int e = h >> 10 & 31, m = h & 1023;
        float f = zb_f16_to_f32(h), b = zb_bf16_to_f32(h);
        if (e == 31 && m) {
            assert_true(isnan(f));
            assert_int_equal(zb_f32_to_f16(f), h | 0x200);
        } else {
            double want = e == 31 ? (double)INFINITY : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
            assert_true((double)f == (h & 0x8000 ? -want : want) && !signbit(f) == !(h & 0x8000));
            assert_int_equal(zb_f32_to_f16(f), h);
        }
        assert_int_equal(zb_f32_to_bf16(b), isnan(b) ? h | 0x40 : h);
    }
}

static void shape_text(void **state) {
    (void)state;
    char text[96];
    zb_tensor t = {.dtype = ZB_BF16, .n_dims = 2, .shape = {1344, 2048}};
    assert_string_equal(zb_tensor_shape_text(&t, text), "BF16 [1344,2048]");
    assert_int_equal(zb_tensor_count(&t), 1344 * 2048);
    t = (zb_tensor){.dtype = ZB_F32};
    assert_string_equal(zb_tensor_shape_text(&t, text), "F32 []");
    assert_int_equal(zb_tensor_count(&t), 1);
    t = (zb_tensor){.dtype = ZB_F32, .n_dims = 3, .shape = {INT64_MAX, INT64_MAX, 0}};
    assert_int_equal(zb_tensor_count(&t), 0);
    t = (zb_tensor){
        .dtype = ZB_BOOL, .n_dims = 4, .shape = {INT64_MAX, INT64_MAX, INT64_MAX, INT64_MAX}};
    assert_int_equal(strlen(zb_tensor_shape_text(&t, text)), 4 + 2 + 4 * 19 + 3 + 1);
}

static void empty_and_f64(void **state) {
    (void)state;
    double d[2] = {0.1, -1e300};
    float f[2] = {7, 7};
    zb_dtype_to_f32(ZB_F64, d, f, 0);
    assert_true(f[0] == 7);
    zb_dtype_to_f32(ZB_F64, d, f, 2);
    assert_true(f[0] == 0.1f && f[1] == -INFINITY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_complete),  cmocka_unit_test(sizes),
        cmocka_unit_test(blocks_match_gguf),  cmocka_unit_test(rounding_matches_numpy),
        cmocka_unit_test(every_half_returns), cmocka_unit_test(shape_text),
        cmocka_unit_test(empty_and_f64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
