/* test_gguf.c - reading and refusing GGUF files.
 *
 * kinds.gguf and llama.gguf were written by the `gguf` package (tests/format/gguf/make_gguf.py).
 * Broken files are put together here, field by field. */
#include "base/file.h"
#include "format/gguf.h"
#include "format/gguf_write.h"
#include "format/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KINDS "tests/format/gguf/kinds.gguf"
#define LLAMA "tests/format/gguf/llama.gguf"
#define REAL "data/model/SmolLM2-135M-Instruct.Q4_1.gguf"

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static void put32(zb_buf *b, uint32_t v) { zb_buf_add(b, &v, 4); }
static void put64(zb_buf *b, uint64_t v) { zb_buf_add(b, &v, 8); }

static void put_str(zb_buf *b, const char *s) {
    put64(b, strlen(s));
    zb_buf_adds(b, s);
}

static void head(zb_buf *b, uint32_t version, uint64_t tensors, uint64_t keys) {
    zb_buf_init(b, 1 << 24);
    zb_buf_adds(b, "GGUF");
    put32(b, version);
    put64(b, tensors);
    put64(b, keys);
}

static void put_key(zb_buf *b, const char *key, uint32_t type) {
    put_str(b, key);
    put32(b, type);
}

static void put_tensor(zb_buf *b, const char *name, uint32_t dims, const uint64_t *ne,
                       uint32_t type, uint64_t offset) {
    put_str(b, name);
    put32(b, dims);
    for (uint32_t i = 0; i < dims; i++) put64(b, ne[i]);
    put32(b, type);
    put64(b, offset);
}

static void pad(zb_buf *b, size_t alignment) {
    while (b->n % alignment) zb_buf_addc(b, 0);
}

static void put_zeros(zb_buf *b, size_t n) {
    for (size_t i = 0; i < n; i++) zb_buf_addc(b, 0);
}

/* Parses a copy that ends where its memory ends, so that the sanitizer sees a read beyond it. */
static zb_status parse(zb_str file, zb_gguf **g, zb_err *err, uint8_t **memory) {
    *memory = zb_heap_resize(NULL, file.n + 1);
    memcpy(*memory + 1, file.p, file.n);
    return zb_gguf_parse(g, *memory + 1, file.n, "t.gguf", err);
}

/* The file in b is refused with this message; b is freed. */
static void refuses(zb_buf *b, const char *message) {
    zb_gguf *g;
    zb_err err = {0};
    uint8_t *memory;
    zb_status s = parse(zb_buf_str(b), &g, &err, &memory);
    if (s == ZB_OK || !strstr(err.msg, message))
        print_error("expected: %s\nfound: %s\n", message, err.msg);
    assert_int_not_equal(s, ZB_OK);
    assert_null(g);
    assert_non_null(strstr(err.msg, message));
    assert_memory_equal(err.msg, "t.gguf: ", 8);
    zb_heap_resize(memory, 0);
    zb_buf_free(b);
}

static void refuses_wrong_heads(void **state) {
    (void)state;
    zb_buf b;
    zb_buf_init(&b, 100);
    refuses(&b, "expected a GGUF file");
    zb_buf_adds(&b, "GGU");
    refuses(&b, "expected a GGUF file");
    zb_buf_adds(&b, "GGML........");
    refuses(&b, "expected a GGUF file");
    zb_buf_adds(&b, "GGUF");
    refuses(&b, "cut short: expected 4 bytes at byte 4, found 0");
    head(&b, 1, 0, 0);
    refuses(&b, "expected GGUF version 2 or 3, found 1");
    head(&b, 4, 0, 0);
    refuses(&b, "expected GGUF version 2 or 3, found 4");
    head(&b, 0x03000000, 0, 0);
    refuses(&b, "(a big-endian file)");
    head(&b, 3, 1, 0);
    refuses(&b, "cut short: expected 1 tensors, found 0 bytes");
    head(&b, 3, UINT64_MAX, 0);
    refuses(&b, "cut short: expected 18446744073709551615 tensors");
    head(&b, 3, 0, UINT64_MAX);
    refuses(&b, "cut short: expected 18446744073709551615 keys");
    head(&b, 3, 0, 1ull << 60);
    put_zeros(&b, 100);
    refuses(&b, "cut short: expected 1152921504606846976 keys, found 100 bytes");
}

static void refuses_wrong_keys(void **state) {
    (void)state;
    zb_buf b;
    head(&b, 3, 0, 1);
    put64(&b, 1ull << 62);
    put_zeros(&b, 20);
    refuses(&b, "cut short: expected 4611686018427387904 bytes at byte 32, found 20");
    head(&b, 3, 0, 1);
    put_key(&b, "", U8);
    put_zeros(&b, 20);
    refuses(&b, "a key at byte 24: expected 1 to 65535 bytes without NUL, found 0");
    head(&b, 3, 0, 1);
    put64(&b, 70000);
    put_zeros(&b, 80000);
    refuses(&b, "expected 1 to 65535 bytes without NUL, found 70000");
    head(&b, 3, 0, 1);
    put_key(&b, "kind", 13);
    put_zeros(&b, 20);
    refuses(&b, "key \"kind\": expected a value type below 13, found 13");
    head(&b, 3, 0, 1);
    put_key(&b, "long", F64);
    put32(&b, 0);
    refuses(&b, "cut short: expected 8 bytes");
    head(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        put_key(&b, "same", U32);
        put32(&b, 1);
    }
    refuses(&b, "key \"same\" is given twice");
}

static void refuses_wrong_arrays(void **state) {
    (void)state;
    zb_buf b;
    const uint32_t items[] = {U8, U32, F64, STRING, ARRAY};
    for (int i = 0; i < 5; i++) {
        head(&b, 3, 0, 1);
        put_key(&b, "list", ARRAY);
        put32(&b, items[i]);
        put64(&b, UINT64_MAX);
        put_zeros(&b, 40);
        refuses(&b, "key \"list\": cut short: expected 18446744073709551615 items, found 40 bytes");
    }
    head(&b, 3, 0, 1);
    put_key(&b, "list", ARRAY);
    put32(&b, 99);
    put64(&b, 1);
    put_zeros(&b, 40);
    refuses(&b, "expected a value type below 13, found 99");
    head(&b, 3, 0, 1);
    put_key(&b, "texts", ARRAY);
    put32(&b, STRING);
    put64(&b, 2);
    put_str(&b, "one");
    put64(&b, 1000);
    refuses(&b, "cut short: expected 1000 bytes");
    head(&b, 3, 0, 1);
    put_key(&b, "deep", ARRAY);
    for (int i = 0; i < 100000; i++) {
        put32(&b, ARRAY);
        put64(&b, 1);
    }
    refuses(&b, "key \"deep\": expected at most 4 nested arrays");
}

static void refuses_wrong_tensors(void **state) {
    (void)state;
    zb_buf b;
    const uint64_t ne[5] = {4, 2, 1, 1, 1}, huge[4] = {1ull << 40, 1ull << 40, 1, 1},
                   negative[1] = {UINT64_MAX}, wide[2] = {1ull << 61, 2}, odd[2] = {33, 2};
    head(&b, 3, 1, 0);
    put_tensor(&b, "", 1, ne, 0, 0);
    refuses(&b, "a tensor name at byte 24: expected 1 to 64 bytes without NUL, found 0");
    head(&b, 3, 1, 0);
    put_tensor(&b, "12345678901234567890123456789012345678901234567890123456789012345", 1, ne, 0,
               0);
    refuses(&b, "expected 1 to 64 bytes without NUL, found 65");
    head(&b, 3, 1, 0);
    put_tensor(&b, "w", 5, ne, 0, 0);
    refuses(&b, "tensor \"w\": expected at most 4 dimensions, found 5");
    head(&b, 3, 1, 0);
    put_tensor(&b, "w", 2, huge, 0, 0);
    refuses(&b, "tensor \"w\": the shape is too large");
    head(&b, 3, 1, 0);
    put_tensor(&b, "w", 1, negative, 0, 0);
    refuses(&b, "tensor \"w\": the shape is too large");
    head(&b, 3, 1, 0);
    put_tensor(&b, "w", 2, wide, 28, 0);
    refuses(&b, "tensor \"w\": the shape is too large");
    head(&b, 3, 1, 0);
    put_tensor(&b, "w", 2, ne, 16, 0);
    refuses(&b,
            "tensor \"w\": type 16 (IQ2_XXS) is not supported (known: F32 F16 Q4_0 Q4_1 Q5_0 "
            "Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS I8 I32 I64 F64 BF16 TQ1_0 TQ2_0)");
    head(&b, 3, 1, 0);
    put_tensor(&b, "w", 2, ne, 4000000000u, 0);
    refuses(&b, "tensor \"w\": type 4000000000 (unknown) is not supported");
    head(&b, 3, 1, 0);
    put_tensor(&b, "w", 2, odd, 3, 0);
    refuses(&b, "tensor \"w\": Q4_1 [2,33]: expected rows of a multiple of 32 elements");
    head(&b, 3, 1, 0);
    put_tensor(&b, "w", 0, ne, 3, 0);
    refuses(&b, "tensor \"w\": Q4_1 []: expected rows of a multiple of 32 elements");
}

/* Types that are read alone: [2,cols] of them with so many bytes of data. */
static void one(zb_buf *b, uint32_t type, uint64_t cols, size_t data) {
    const uint64_t ne[2] = {cols, 2};
    head(b, 3, 1, 0);
    put_tensor(b, "w", 2, ne, type, 0);
    pad(b, 32);
    put_zeros(b, data);
}

static void reads_blocks_of_others(void **state) {
    (void)state;
    static const struct {
        uint32_t type;
        const char *name;
        int block, bytes;
    } others[] = {{10, "Q2_K", 256, 84},    {11, "Q3_K", 256, 110}, {20, "IQ4_NL", 32, 18},
                  {23, "IQ4_XS", 256, 136}, {34, "TQ1_0", 256, 54}, {35, "TQ2_0", 256, 66}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        zb_buf b;
        zb_gguf *g;
        zb_err err = {0};
        uint8_t *memory;
        char text[96];
        int block = others[i].block, bytes = others[i].bytes;
        one(&b, others[i].type, 2 * (uint64_t)block, 4 * (size_t)bytes);
        if (parse(zb_buf_str(&b), &g, &err, &memory) != ZB_OK) fail_msg("%s", err.msg);
        const zb_tensor *t = zb_gguf_find(g, "w");
        assert_string_equal(zb_dtype_get(t->dtype)->name, others[i].name);
        assert_true(t->bytes == 4 * (size_t)bytes && t->shape[1] == 2 * block);
        assert_int_equal(zb_gguf_type(t->dtype), others[i].type);
        float y[4 * 256];
        zb_dtype_to_f32(t->dtype, t->data, y, 4 * block); /* to the last byte of the file */
        for (int j = 0; j < 4 * block; j++) assert_true(y[j] == 0);
        zb_gguf_close(g);
        zb_heap_resize(memory, 0);
        zb_buf_free(&b);
        snprintf(text, sizeof text, "tensor \"w\": %d bytes at offset 0 reach beyond the %d bytes",
                 4 * bytes, 4 * bytes - 1);
        one(&b, others[i].type, 2 * (uint64_t)block, 4 * (size_t)bytes - 1);
        refuses(&b, text);
        snprintf(text, sizeof text, "%s [2,%d]: expected rows of a multiple of %d elements",
                 others[i].name, 2 * block - 16, block);
        one(&b, others[i].type, 2 * (uint64_t)block - 16, 4 * (size_t)bytes);
        refuses(&b, text);
    }
}

/* Two tensors of 32 bytes at these offsets, with `data` bytes behind the padding. */
static void two(zb_buf *b, const char *second, uint64_t at0, uint64_t at1, size_t data) {
    const uint64_t ne[2] = {4, 2};
    head(b, 3, 2, 0);
    put_tensor(b, "w", 2, ne, 0, at0);
    put_tensor(b, second, 2, ne, 0, at1);
    pad(b, 32);
    put_zeros(b, data);
}

static void refuses_wrong_places(void **state) {
    (void)state;
    zb_buf b;
    two(&b, "v", 0, 8, 64);
    refuses(&b, "tensor \"v\": expected an offset that is a multiple of 32, found 8");
    two(&b, "v", 0, 64, 64);
    refuses(&b, "tensor \"v\": 32 bytes at offset 64 reach beyond the 64 bytes of data");
    two(&b, "v", 0, 32, 63);
    refuses(&b, "tensor \"v\": 32 bytes at offset 32 reach beyond the 63 bytes of data");
    two(&b, "v", 0, UINT64_MAX - 31, 64);
    refuses(&b, "reach beyond the 64 bytes of data");
    two(&b, "v", 32, 32, 64);
    refuses(&b, "overlap");
    two(&b, "w", 0, 32, 64);
    refuses(&b, "tensor \"w\" is given twice");
    const uint64_t wrong[] = {0, 3, 24, 1ull << 31};
    for (int i = 0; i < 4; i++) {
        head(&b, 3, 0, 1);
        put_key(&b, "general.alignment", U32);
        put32(&b, (uint32_t)wrong[i]);
        refuses(&b, "general.alignment: expected a power of two, found");
    }
    head(&b, 3, 0, 1);
    put_key(&b, "general.alignment", STRING);
    put_str(&b, "32");
    refuses(&b, "key \"general.alignment\": expected an integer, found string");
}

static void refuses_every_prefix(void **state) {
    (void)state;
    zb_map m;
    assert_int_equal(zb_map_open(&m, KINDS, NULL), ZB_OK);
    zb_gguf *g;
    zb_err err;
    size_t last = 0; /* the end of the last tensor: what follows is padding and may be cut */
    assert_int_equal(zb_gguf_parse(&g, m.data, m.size, KINDS, &err), ZB_OK);
    for (size_t i = 0; i < zb_gguf_count(g); i++) {
        const zb_tensor *t = zb_gguf_at(g, i);
        size_t end = (size_t)((const uint8_t *)t->data - m.data) + t->bytes;
        if (end > last) last = end;
    }
    zb_gguf_close(g);
    for (size_t n = 0; n <= last; n++) {
        uint8_t *memory;
        zb_status s = parse((zb_str){(const char *)m.data, n}, &g, &err, &memory);
        assert_true((s == ZB_OK) == (n == last));
        zb_gguf_close(g);
        zb_heap_resize(memory, 0);
    }
    zb_map_close(&m);
}

static void reads_alignment_and_gaps(void **state) {
    (void)state;
    zb_buf b;
    const uint64_t ne[1] = {1};
    head(&b, 2, 2, 1);
    put_key(&b, "general.alignment", U32);
    put32(&b, 128);
    put_tensor(&b, "late", 1, ne, 0, 256);
    put_tensor(&b, "none", 0, ne, 0, 0);
    pad(&b, 128);
    put_zeros(&b, 256);
    float x = 3;
    zb_buf_add(&b, &x, 4);
    zb_gguf *g;
    zb_err err;
    assert_int_equal(zb_gguf_parse(&g, b.p, b.n, "t", &err), ZB_OK);
    memcpy(&x, zb_gguf_find(g, "late")->data, 4);
    assert_true(x == 3);
    assert_int_equal(zb_gguf_find(g, "none")->n_dims, 0);
    zb_gguf_close(g);
    zb_buf_free(&b);
}

static void reads_values(void **state) {
    (void)state;
    zb_gguf *g;
    zb_err err;
    assert_int_equal(zb_gguf_open(&g, KINDS, &err), ZB_OK);
    assert_string_equal(zb_gguf_path(g), KINDS);
    const char *const ints[] = {"int8", "int16", "int32", "int64"};
    for (int i = 0; i < 8; i++) {
        char key[32];
        snprintf(key, sizeof key, "int.%s%s", i < 4 ? "" : "u", ints[i % 4]);
        int64_t v = 0;
        assert_int_equal(zb_gguf_int(g, key, true, &v, &err), ZB_OK);
        assert_int_equal(v, i < 4 ? -5 : 200);
    }
    double d;
    assert_int_equal(zb_gguf_f64(g, "real.f32", true, &d, &err), ZB_OK);
    assert_true(d == 1.5);
    assert_int_equal(zb_gguf_f64(g, "real.f64", true, &d, &err), ZB_OK);
    assert_true(d == 0.1);
    assert_int_equal(zb_gguf_f64(g, "int.int8", true, &d, &err), ZB_OK);
    assert_true(d == -5);
    bool yes = false, no = true;
    assert_int_equal(zb_gguf_bool(g, "flag.yes", true, &yes, &err), ZB_OK);
    assert_int_equal(zb_gguf_bool(g, "flag.no", true, &no, &err), ZB_OK);
    assert_true(yes && !no);
    zb_str s;
    assert_int_equal(zb_gguf_str(g, "text", true, &s, &err), ZB_OK);
    assert_true(zb_str_is(s, "gr\u00fc\u00dfe"));
    zb_gguf_close(g);
    zb_gguf_close(NULL);
}

static void reads_arrays(void **state) {
    (void)state;
    zb_gguf *g;
    zb_err err;
    assert_int_equal(zb_gguf_open(&g, KINDS, &err), ZB_OK);
    size_t n;
    zb_str text[3];
    int64_t ints[3];
    assert_int_equal(zb_gguf_array(g, "list.text", true, &n, &err), ZB_OK);
    assert_int_equal(n, 3);
    assert_int_equal(zb_gguf_array_str(g, "list.text", text, 3, &err), ZB_OK);
    assert_true(zb_str_is(text[0], "a") && text[1].n == 0 && zb_str_is(text[2], "\u20ac b"));
    assert_int_equal(zb_gguf_array_int(g, "list.int", ints, 3, &err), ZB_OK);
    assert_true(ints[0] == 3 && ints[1] == -1 && ints[2] == 70000);
    assert_int_equal(zb_gguf_array_int(g, "list.bool", ints, 3, &err), ZB_OK);
    assert_true(ints[0] == 1 && ints[1] == 0 && ints[2] == 1);
    assert_int_equal(zb_gguf_array(g, "absent", false, &n, &err), ZB_OK);
    assert_int_equal(n, 0);
    assert_int_not_equal(zb_gguf_array_int(g, "list.int", ints, 2, &err), ZB_OK);
    assert_string_equal(err.msg, KINDS ": key \"list.int\": expected 2 items, found 3");
    assert_int_not_equal(zb_gguf_array_int(g, "list.text", ints, 3, &err), ZB_OK);
    assert_string_equal(
        err.msg,
        KINDS ": key \"list.text\": expected an array of integers below 2^63, found string");
    assert_int_not_equal(zb_gguf_array_int(g, "list.real", ints, 2, &err), ZB_OK);
    assert_int_not_equal(zb_gguf_array_int(g, "list.nested", ints, 2, &err), ZB_OK);
    assert_int_not_equal(zb_gguf_array_str(g, "list.nested", text, 2, &err), ZB_OK);
    assert_int_not_equal(zb_gguf_array_str(g, "list.int", text, 3, &err), ZB_OK);
    assert_string_equal(err.msg,
                        KINDS ": key \"list.int\": expected an array of string, found i32");
    zb_gguf_close(g);
}

static void refuses_wrong_access(void **state) {
    (void)state;
    zb_gguf *g;
    zb_err err;
    int64_t i = 77;
    double d = 77;
    bool b = true;
    zb_str s = ZB_STR("kept");
    size_t n;
    assert_int_equal(zb_gguf_open(&g, KINDS, &err), ZB_OK);
    assert_int_equal(zb_gguf_int(g, "absent", false, &i, &err), ZB_OK);
    assert_int_equal(zb_gguf_str(g, "absent", false, &s, &err), ZB_OK);
    assert_true(i == 77 && zb_str_is(s, "kept"));
    assert_int_equal(zb_gguf_int(g, "absent", true, &i, &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, KINDS ": key \"absent\" is missing");
    assert_int_equal(zb_gguf_int(g, "int.huge", true, &i, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_gguf_int(g, "text", true, &i, &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, KINDS ": key \"text\": expected an integer, found string");
    assert_int_equal(zb_gguf_int(g, "flag.yes", true, &i, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_gguf_int(g, "real.f32", true, &i, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_gguf_f64(g, "text", true, &d, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_gguf_bool(g, "int.uint8", true, &b, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_gguf_str(g, "int.uint8", true, &s, &err), ZB_ERR_FORMAT);
    assert_int_equal(zb_gguf_array(g, "text", true, &n, &err), ZB_ERR_FORMAT);
    assert_string_equal(err.msg, KINDS ": key \"text\": expected an array, found string");
    assert_true(i == 77 && d == 77 && b && zb_str_is(s, "kept"));
    zb_gguf_close(g);
    assert_int_equal(zb_gguf_open(&g, "tests/format/gguf/none.gguf", &err), ZB_ERR_IO);
    assert_null(g);
}

static void reads_tensors(void **state) {
    (void)state;
    zb_gguf *g;
    zb_err err;
    char text[96];
    assert_int_equal(zb_gguf_open(&g, KINDS, &err), ZB_OK);
    assert_int_equal(zb_gguf_count(g), 6);
    const zb_tensor *t = zb_gguf_find(g, "four");
    assert_string_equal(zb_tensor_shape_text(t, text), "I32 [2,3,1,4]");
    int32_t v[24];
    memcpy(v, t->data, sizeof v);
    for (int i = 0; i < 24; i++) assert_int_equal(v[i], i);
    assert_string_equal(zb_tensor_shape_text(zb_gguf_find(g, "q4_1"), text), "Q4_1 [4,64]");
    assert_string_equal(zb_tensor_shape_text(zb_gguf_find(g, "bf16"), text), "BF16 [4,64]");
    assert_null(zb_gguf_find(g, "fou"));
    /* Three precisions of one matrix agree within a step of each. */
    float q8[256], q4[256], bf[256];
    zb_dtype_to_f32(ZB_Q8_0, zb_gguf_find(g, "q8_0")->data, q8, 256);
    zb_dtype_to_f32(ZB_Q4_1, zb_gguf_find(g, "q4_1")->data, q4, 256);
    zb_dtype_to_f32(ZB_BF16, zb_gguf_find(g, "bf16")->data, bf, 256);
    for (int i = 0; i < 256; i++) {
        assert_true(q8[i] - bf[i] < 0.03f && bf[i] - q8[i] < 0.03f);
        assert_true(q4[i] - bf[i] < 0.3f && bf[i] - q4[i] < 0.3f);
    }
    zb_gguf_close(g);
}

/* llama.gguf holds tests/golden/llama; rows of attn_q are permuted within heads of 16. */
static void llama_matches_golden(void **state) {
    (void)state;
    zb_gguf *g;
    zb_safetensors *s;
    zb_err err;
    assert_int_equal(zb_gguf_open(&g, LLAMA, &err), ZB_OK);
    assert_int_equal(zb_safetensors_open_dir(&s, "tests/golden/llama", &err), ZB_OK);
    assert_int_equal(zb_gguf_count(g), zb_safetensors_count(s));
    const zb_tensor *t = zb_gguf_find(g, "blk.1.ffn_down.weight"),
                    *u = zb_safetensors_find(s, "model.layers.1.mlp.down_proj.weight");
    assert_true(t->shape[0] == u->shape[0] && t->shape[1] == u->shape[1] && t->bytes == u->bytes);
    assert_memory_equal(t->data, u->data, t->bytes);
    t = zb_gguf_find(g, "blk.2.attn_q.weight");
    u = zb_safetensors_find(s, "model.layers.2.self_attn.q_proj.weight");
    size_t row = (size_t)u->shape[1] * 4;
    for (int r = 0; r < u->shape[0]; r++) {
        int head_row = r / 16 * 16, old = head_row + r % 2 * 8 + r % 16 / 2;
        assert_memory_equal((const char *)t->data + r * row, (const char *)u->data + old * row,
                            row);
    }
    zb_safetensors_close(s);
    zb_gguf_close(g);
}

static void reads_smollm2(void **state) {
    (void)state;
    if (!zb_file_exists(REAL)) {
        print_message("skip: " REAL " is not there (./run fetches it)\n");
        skip();
    }
    zb_gguf *g;
    zb_err err;
    char text[96];
    int64_t v;
    size_t n;
    assert_int_equal(zb_gguf_open(&g, REAL, &err), ZB_OK);
    assert_int_equal(zb_gguf_count(g), 272);
    assert_string_equal(zb_tensor_shape_text(zb_gguf_find(g, "token_embd.weight"), text),
                        "Q8_0 [49152,576]");
    assert_string_equal(zb_tensor_shape_text(zb_gguf_find(g, "blk.29.ffn_down.weight"), text),
                        "Q4_1 [576,1536]");
    assert_null(zb_gguf_find(g, "output.weight"));
    assert_int_equal(zb_gguf_int(g, "llama.block_count", true, &v, &err), ZB_OK);
    assert_int_equal(v, 30);
    assert_int_equal(zb_gguf_array(g, "tokenizer.ggml.merges", true, &n, &err), ZB_OK);
    assert_int_equal(n, 48900);
    zb_gguf_close(g);
}

enum { PARTS = 7 };

/* Tensors of odd sizes, empty ones first, between and last. */
static const zb_tensor parts[PARTS] = {
    {.name = "none", .dtype = ZB_F32, .n_dims = 2, .shape = {0, 5}},
    {.name = "odd", .dtype = ZB_F16, .n_dims = 1, .shape = {7}},
    {.name = "packed", .dtype = ZB_Q4_K, .n_dims = 2, .shape = {3, 512}},
    {.name = "scalar", .dtype = ZB_F64, .n_dims = 0},
    {.name = "between", .dtype = ZB_F32, .n_dims = 1, .shape = {0}},
    {.name = "four", .dtype = ZB_I32, .n_dims = 4, .shape = {2, 3, 1, 4}},
    {.name = "empty", .dtype = ZB_Q8_0, .n_dims = 2, .shape = {0, 32}}};

static const int32_t some_ints[3] = {3, -1, 70000};

static void write_parts(const char *path, const uint8_t *bytes) {
    zb_err err = {0};
    zb_str texts[3] = {ZB_STR("a"), ZB_STR(""), ZB_STR("\u20ac b")};
    zb_gguf_writer *w = zb_gguf_writer_new(path);
    zb_gguf_put_u32(w, "int", 4294967295);
    zb_gguf_put_f32(w, "real", 0.1);
    zb_gguf_put_f64(w, "exact", 0.1);
    zb_gguf_put_bool(w, "yes", true);
    zb_gguf_put_str(w, "text", ZB_STR("gr\u00fc\u00dfe"));
    zb_gguf_put_i32s(w, "ints", some_ints, 3);
    zb_gguf_put_i32s(w, "no ints", NULL, 0);
    zb_gguf_put_strs(w, "texts", texts, 3);
    for (int i = 0; i < PARTS; i++) zb_gguf_put_tensor(w, &parts[i]);
    assert_int_equal(zb_gguf_writer_begin(w, &err), ZB_OK);
    assert_false(zb_file_exists(path)); /* not before close */
    for (int i = 0; i < PARTS; i++) {
        size_t n;
        assert_true(zb_dtype_size(parts[i].dtype, zb_tensor_count(&parts[i]), &n));
        for (size_t some; n; n -= some, bytes += some) { /* pieces that match nothing */
            some = n < 97 ? n : 97;
            assert_int_equal(zb_gguf_writer_add(w, bytes, some, &err), ZB_OK);
        }
    }
    assert_int_equal(zb_gguf_writer_close(w, &err), ZB_OK);
    zb_gguf_writer_free(w);
}

static void check_keys(const zb_gguf *g) {
    zb_err err = {0};
    int64_t v, back[3];
    double d, f;
    bool yes;
    zb_str s, got[3];
    size_t n;
    assert_int_equal(zb_gguf_int(g, "int", true, &v, &err), ZB_OK);
    assert_int_equal(zb_gguf_f64(g, "real", true, &f, &err), ZB_OK);
    assert_int_equal(zb_gguf_f64(g, "exact", true, &d, &err), ZB_OK);
    assert_int_equal(zb_gguf_bool(g, "yes", true, &yes, &err), ZB_OK);
    assert_int_equal(zb_gguf_str(g, "text", true, &s, &err), ZB_OK);
    assert_true(v == 4294967295 && f == (double)0.1f && d == 0.1 && yes);
    assert_true(zb_str_is(s, "gr\u00fc\u00dfe"));
    assert_int_equal(zb_gguf_array(g, "no ints", true, &n, &err), ZB_OK);
    assert_int_equal(n, 0);
    assert_int_equal(zb_gguf_array_int(g, "ints", back, 3, &err), ZB_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(back[i], some_ints[i]);
    assert_int_equal(zb_gguf_array_str(g, "texts", got, 3, &err), ZB_OK);
    assert_true(zb_str_is(got[0], "a") && got[1].n == 0 && zb_str_is(got[2], "\u20ac b"));
}

/* What the writer puts down, the reader gives back. */
static void writes_what_it_reads(void **state) {
    (void)state;
    char folder[] = "/tmp/zebra-gguf-XXXXXX", path[64];
    zb_gguf *g;
    zb_err err = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    uint8_t bytes[4096], *at = bytes;
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 7 + i / 256);
    write_parts(path, bytes);
    if (zb_gguf_open(&g, path, &err) != ZB_OK) fail_msg("%s", err.msg);
    check_keys(g);
    assert_int_equal(zb_gguf_count(g), PARTS);
    for (int i = 0; i < PARTS; i++) {
        const zb_tensor *t = zb_gguf_find(g, parts[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, parts[i].dtype);
        assert_int_equal(t->n_dims, parts[i].n_dims);
        for (int k = 0; k < t->n_dims; k++) assert_int_equal(t->shape[k], parts[i].shape[k]);
        if (t->bytes) assert_memory_equal(t->data, at, t->bytes);
        at += t->bytes;
    }
    zb_gguf_close(g);
    assert_int_equal(zb_dir_remove(folder, NULL), ZB_OK);
}

/* A file that is given up, or cannot be created, leaves nothing behind. */
static void gives_up_writing(void **state) {
    (void)state;
    char folder[] = "/tmp/zebra-gguf-XXXXXX", path[64];
    zb_err err = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/none/x.gguf", folder);
    zb_gguf_writer *w = zb_gguf_writer_new(path);
    assert_int_equal(zb_gguf_writer_begin(w, &err), ZB_ERR_IO);
    assert_non_null(strstr(err.msg, path));
    zb_gguf_writer_free(w);
    snprintf(path, sizeof path, "%s/x.gguf", folder);
    w = zb_gguf_writer_new(path);
    zb_gguf_put_tensor(w, &(zb_tensor){.name = "w", .dtype = ZB_F32, .n_dims = 1, .shape = {4}});
    assert_int_equal(zb_gguf_writer_begin(w, &err), ZB_OK);
    zb_gguf_writer_free(w);
    zb_arena a = {0};
    char **names;
    size_t n;
    assert_int_equal(zb_dir_list(folder, "", &a, &names, &n, &err), ZB_OK);
    assert_int_equal(n, 0);
    zb_arena_free(&a);
    assert_int_equal(zb_dir_remove(folder, NULL), ZB_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_wrong_heads),    cmocka_unit_test(refuses_wrong_keys),
        cmocka_unit_test(refuses_wrong_arrays),   cmocka_unit_test(refuses_wrong_tensors),
        cmocka_unit_test(reads_blocks_of_others), cmocka_unit_test(refuses_wrong_places),
        cmocka_unit_test(refuses_every_prefix),   cmocka_unit_test(reads_alignment_and_gaps),
        cmocka_unit_test(reads_values),           cmocka_unit_test(reads_arrays),
        cmocka_unit_test(refuses_wrong_access),   cmocka_unit_test(reads_tensors),
        cmocka_unit_test(llama_matches_golden),   cmocka_unit_test(reads_smollm2),
        cmocka_unit_test(writes_what_it_reads),   cmocka_unit_test(gives_up_writing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
