/* test_safetensors.c - reading, refusing and writing safetensors files.
 *
 * python.safetensors was written by the reference library (make_python.py beside it). */
#include "base/file.h"
#include "base/text.h"
#include "format/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define PYTHON "tests/format/safetensors/python.safetensors"

/* A file of this header and `data` bytes of zeros, in a buffer exactly as long (so that a read
 * beyond it is seen by the sanitizer). */
static zb_status parse(const char *header, size_t header_n, size_t data, zb_safetensors **out,
                       zb_err *err) {
    size_t n = 8 + header_n + data;
    uint8_t *file = zb_heap_resize(NULL, n);
    memset(file, 0, n);
    uint64_t length = header_n;
    memcpy(file, &length, 8);
    memcpy(file + 8, header, header_n);
    zb_status s = zb_safetensors_parse(out, file, n, "t.safetensors", err);
    zb_heap_resize(file, 0);
    return s;
}

static void refuses(const char *header, size_t data, const char *message) {
    zb_safetensors *s;
    zb_err err = {0};
    zb_status st = parse(header, strlen(header), data, &s, &err);
    if (st == ZB_OK || !strstr(err.msg, message)) print_error("%s\n  %s\n", header, err.msg);
    assert_int_not_equal(st, ZB_OK);
    assert_null(s);
    assert_non_null(strstr(err.msg, message));
    assert_memory_equal(err.msg, "t.safetensors", 13);
}

#define ENTRY(dtype, shape, offsets)                                                               \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void refuses_wrong_entries(void **state) {
    (void)state;
    refuses("{\"a\":" ENTRY("F8_E4M3", "[1]", "[0,1]") "}", 1,
            "tensor \"a\": dtype \"F8_E4M3\" is not supported");
    refuses("{\"a\":" ENTRY("Q4_0", "[32]", "[0,18]") "}", 18, "dtype \"Q4_0\" is not supported");
    refuses("{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
            "dtype: expected a string, found an integer");
    refuses("{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
            "dtype: expected a string, found nothing");
    refuses("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4,
            "shape: expected an array, found nothing");
    refuses("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4,
            "data_offsets: expected an array, found nothing");
    refuses("{\"a\":[1,2]}", 0, "tensor \"a\": expected an object, found an array");
    refuses("{\"a\":" ENTRY("F32", "[1.0]", "[0,4]") "}", 4,
            "shape: expected integers, found a real number");
    refuses("{\"a\":" ENTRY("F32", "[\"1\"]", "[0,4]") "}", 4,
            "shape: expected integers, found a string");
    refuses("{\"a\":" ENTRY("F32", "[-1]", "[0,4]") "}", 4,
            "shape: expected no negative number, found -1");
    refuses("{\"a\":" ENTRY("F32", "[1,1,1,1,1]", "[0,4]") "}", 4,
            "shape: expected at most 4 numbers, found 5");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0]") "}", 4,
            "data_offsets: expected 2 numbers, found 1");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0,4,8]") "}", 4,
            "data_offsets: expected at most 2 numbers, found 3");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0.0,4]") "}", 4,
            "data_offsets: expected integers, found a real");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0,8]") "}", 4,
            "within the 4 bytes of data, found 0 to 8");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[4,0]") "}", 4,
            "within the 4 bytes of data, found 4 to 0");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[-4,0]") "}", 4, "no negative number, found -4");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0,99999999999999999999]") "}", 4,
            "invalid JSON: too big integer");
    refuses("{\"a\":" ENTRY("F32", "[2]", "[0,4]") "}", 4,
            "F32 [2] needs 8 bytes, found 4 in data_offsets");
    refuses("{\"a\":" ENTRY("F32", "[4294967296,4294967296]", "[0,4]") "}", 4,
            "shape F32 [4294967296,4294967296] is too large");
    refuses("{\"a\":" ENTRY("F64", "[4611686018427387904]", "[0,0]") "}", 0, "is too large");
    refuses("{\"a\":" ENTRY("F64", "[2305843009213693952]", "[0,0]") "}", 0, "is too large");
}

static void refuses_wrong_cover(void **state) {
    (void)state;
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0,4]") ",\"b\":" ENTRY("F32", "[1]", "[2,6]") "}", 6,
            "tensor \"b\" begins at byte 2 of the data, expected 4 (overlap)");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0,4]") ",\"b\":" ENTRY("F32", "[1]", "[0,4]") "}", 4,
            "(overlap)");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0,4]") ",\"b\":" ENTRY("F32", "[1]", "[6,10]") "}", 10,
            "tensor \"b\" begins at byte 6 of the data, expected 4 (gap)");
    refuses("{\"b\":" ENTRY("F32", "[1]", "[4,8]") "}", 8,
            "begins at byte 4 of the data, expected 0 (gap)");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0,4]") "}", 5,
            "the tensors take 4 bytes of data, found 5");
    refuses("{}", 1, "the tensors take 0 bytes of data, found 1");
    refuses("{\"a\":" ENTRY("F32", "[2]", "[0,8]") ",\"z\":" ENTRY("F32", "[0]", "[4,4]") "}", 8,
            "(overlap)");
}

static void refuses_wrong_headers(void **state) {
    (void)state;
    refuses("", 0, "expected a header that starts with '{'");
    refuses(" {}", 0, "expected a header that starts with '{'");
    refuses("[]", 0, "expected a header that starts with '{'");
    refuses("{\"a\":", 0, ":1:5: invalid JSON");
    refuses("{} x", 0, "invalid JSON");
    refuses("{\"a\xff\":1}", 0, "invalid JSON");
    refuses("{\"a\":" ENTRY("F32", "[1]", "[0,4]") ",\"a\":" ENTRY("F32", "[1]", "[4,8]") "}", 8,
            "invalid JSON: duplicate object key");
    refuses("{\"__metadata__\":3}", 0, "__metadata__: expected an object, found an integer");
    refuses("{\"__metadata__\":{\"k\":3}}", 0,
            "__metadata__: \"k\": expected a string, found an integer");
    zb_arena a = {0};
    size_t depth = 100000;
    char *deep = zb_alloc(&a, depth + 10);
    memcpy(deep, "{\"a\":", 5);
    memset(deep + 5, '[', depth);
    refuses(deep, 0, "invalid JSON: maximum parsing depth");
    zb_arena_free(&a);
}

static void refuses_cut_and_huge(void **state) {
    (void)state;
    zb_safetensors *s;
    zb_err err;
    uint64_t file[2] = {0, 0};
    for (size_t n = 0; n < 8; n++) {
        assert_int_equal(zb_safetensors_parse(&s, file, n, "f", &err), ZB_ERR_FORMAT);
        assert_non_null(strstr(err.msg, "expected a safetensors file, found only"));
    }
    const uint64_t lengths[] = {9, 100000001, 1ull << 40, UINT64_MAX, UINT64_MAX - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        file[0] = lengths[i];
        assert_int_equal(zb_safetensors_parse(&s, file, 16, "f", &err), ZB_ERR_FORMAT);
        assert_non_null(strstr(err.msg, "expected a header of at most 8 bytes, found"));
    }
}

/* Every proper prefix of a good file is refused. */
static void refuses_every_prefix(void **state) {
    (void)state;
    zb_map m;
    zb_err err;
    assert_int_equal(zb_map_open(&m, PYTHON, &err), ZB_OK);
    for (size_t n = 0; n < m.size; n++) {
        uint8_t *cut = zb_heap_resize(NULL, n + 1);
        uint8_t *end = cut + 1; /* the cut file ends where the memory ends */
        if (n) memcpy(end, m.data, n);
        zb_safetensors *s;
        assert_int_not_equal(zb_safetensors_parse(&s, end, n, "cut", &err), ZB_OK);
        zb_heap_resize(cut, 0);
    }
    zb_map_close(&m);
}

static void reads_scalars_and_empty(void **state) {
    (void)state;
    zb_safetensors *s;
    zb_err err;
    const char *h = "{\"s\":" ENTRY("F32", "[]", "[0,4]") ",\"z\":" ENTRY(
        "F32", "[0,9223372036854775807]", "[4,4]") ",\"__metadata__\":{\"k\":\"v\"}}   ";
    assert_int_equal(parse(h, strlen(h), 4, &s, &err), ZB_OK);
    assert_int_equal(zb_safetensors_count(s), 2);
    assert_int_equal(zb_safetensors_find(s, "s")->n_dims, 0);
    assert_int_equal(zb_safetensors_find(s, "z")->bytes, 0);
    assert_string_equal(zb_safetensors_metadata(s, "k"), "v");
    assert_null(zb_safetensors_metadata(s, "format"));
    zb_safetensors_close(s);
    assert_int_equal(parse("{}", 2, 0, &s, &err), ZB_OK);
    assert_int_equal(zb_safetensors_count(s), 0);
    assert_null(zb_safetensors_find(s, "s"));
    assert_null(zb_safetensors_metadata(s, "k"));
    zb_safetensors_close(s);
    zb_safetensors_close(NULL);
}

static void reads_python(void **state) {
    (void)state;
    zb_safetensors *s;
    zb_err err;
    assert_int_equal(zb_safetensors_open(&s, PYTHON, &err), ZB_OK);
    assert_int_equal(zb_safetensors_count(s), 11);
    assert_string_equal(zb_safetensors_metadata(s, "format"), "pt");
    for (size_t i = 1; i < 11; i++)
        assert_true(strcmp(zb_safetensors_at(s, i - 1)->name, zb_safetensors_at(s, i)->name) < 0);
    const zb_tensor *t = zb_safetensors_find(s, "w.f32");
    assert_true(t->dtype == ZB_F32 && t->n_dims == 2 && t->shape[0] == 2 && t->shape[1] == 3);
    float f[6];
    zb_dtype_to_f32(t->dtype, t->data, f, 6);
    for (int i = 0; i < 6; i++) assert_true(f[i] == (float)i);
    for (int k = 0; k < 2; k++) {
        t = zb_safetensors_find(s, k ? "w.f16" : "w.bf16");
        zb_dtype_to_f32(t->dtype, t->data, f, 6);
        for (int i = 0; i < 6; i++) assert_true(f[i] == (float)i);
    }
    t = zb_safetensors_find(s, "a \"quoted\"\n\u00fc");
    zb_dtype_to_f32(t->dtype, t->data, f, 1);
    assert_true(f[0] == 2.5f);
    int64_t big[2];
    memcpy(big, zb_safetensors_find(s, "w.i64")->data, 16);
    assert_true(big[0] == 0 && big[1] == 1);
    zb_safetensors_close(s);
}

static char *temp_dir(zb_arena *a) {
    char *dir = zb_strdup(a, "/tmp/zb_safetensors_XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static void assert_same_file(const char *x, const char *y) {
    zb_map m, n;
    assert_int_equal(zb_map_open(&m, x, NULL), ZB_OK);
    assert_int_equal(zb_map_open(&n, y, NULL), ZB_OK);
    assert_int_equal(m.size, n.size);
    assert_memory_equal(m.data, n.data, m.size);
    zb_map_close(&m);
    zb_map_close(&n);
}

/* Reading what Python wrote and writing it again gives Python's bytes, whatever the order. */
static void writes_as_python(void **state) {
    (void)state;
    zb_arena a = {0};
    char *dir = temp_dir(&a), *path = zb_path_join(&a, dir, "x.safetensors");
    zb_safetensors *s;
    zb_err err;
    assert_int_equal(zb_safetensors_open(&s, PYTHON, &err), ZB_OK);
    size_t n = zb_safetensors_count(s);
    zb_tensor *t = ZB_NEW_ARRAY(&a, zb_tensor, n);
    for (size_t i = 0; i < n; i++) t[n - 1 - i] = *zb_safetensors_at(s, i);
    assert_int_equal(zb_safetensors_write(path, t, n, NULL, &err), ZB_OK);
    assert_same_file(PYTHON, path);
    zb_safetensors_close(s);
    assert_int_equal(zb_dir_remove(dir, &err), ZB_OK);
    zb_arena_free(&a);
}

static void writes_metadata_and_refuses_names(void **state) {
    (void)state;
    zb_arena a = {0};
    char *dir = temp_dir(&a), *path = zb_path_join(&a, dir, "x.safetensors");
    float v[2] = {1, 2};
    zb_tensor t[2] = {{"a", ZB_F32, 1, {2}, v, 8}, {"a", ZB_F32, 1, {2}, v, 8}};
    const char *meta[] = {"step", "12", "tab\t", "\"", NULL};
    zb_err err;
    assert_int_equal(zb_safetensors_write(path, t, 1, meta, &err), ZB_OK);
    zb_safetensors *s;
    assert_int_equal(zb_safetensors_open(&s, path, &err), ZB_OK);
    assert_string_equal(zb_safetensors_metadata(s, "step"), "12");
    assert_string_equal(zb_safetensors_metadata(s, "tab\t"), "\"");
    assert_int_equal((uintptr_t)zb_safetensors_at(s, 0)->data % 8, 0);
    zb_safetensors_close(s);
    assert_int_equal(zb_safetensors_write(path, t, 2, NULL, &err), ZB_ERR_INTERNAL);
    assert_non_null(strstr(err.msg, "tensor \"a\" cannot be written under this name"));
    t[0].name = "__metadata__";
    assert_int_equal(zb_safetensors_write(path, t, 1, NULL, &err), ZB_ERR_INTERNAL);
    t[0].name = "a\xff";
    assert_int_equal(zb_safetensors_write(path, t, 1, NULL, &err), ZB_ERR_INTERNAL);
    assert_non_null(strstr(err.msg, "not UTF-8"));
    assert_int_equal(zb_safetensors_write("/nonexistent/x", t + 1, 1, NULL, &err), ZB_ERR_IO);
    assert_non_null(strstr(err.msg, "/nonexistent/x"));
    /* A failed write leaves the good file and nothing beside it. */
    char **names;
    size_t n;
    assert_int_equal(zb_dir_list(dir, "", &a, &names, &n, &err), ZB_OK);
    assert_int_equal(n, 1);
    assert_int_equal(zb_safetensors_open(&s, path, &err), ZB_OK);
    zb_safetensors_close(s);
    zb_dir_remove(dir, NULL);
    zb_arena_free(&a);
}

enum { MANY = 10 };
static void make_many(zb_tensor *t, float *v, char (*names)[8]) {
    for (int i = 0; i < MANY; i++) {
        snprintf(names[i], 8, "t%d", i);
        v[i] = (float)i;
        t[i] = (zb_tensor){names[i], ZB_F32, 1, {1}, &v[i], 4};
    }
}

static void check_many(const char *dir) {
    zb_safetensors *s;
    zb_err err;
    assert_int_equal(zb_safetensors_open_dir(&s, dir, &err), ZB_OK);
    assert_int_equal(zb_safetensors_count(s), MANY);
    for (int i = 0; i < MANY; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", i);
        float f;
        memcpy(&f, zb_safetensors_find(s, name)->data, 4);
        assert_true(f == (float)i);
    }
    assert_string_equal(zb_safetensors_metadata(s, "format"), "pt");
    zb_safetensors_close(s);
}

static void shards_return(void **state) {
    (void)state;
    zb_arena a = {0};
    char *dir = temp_dir(&a), names[MANY][8];
    float v[MANY];
    zb_tensor t[MANY];
    make_many(t, v, names);
    zb_err err;
    struct {
        size_t limit;
        size_t files;
    } cases[] = {{12, 4 + 1}, {1, MANY + 1}, {40, 1}, {39, 2 + 1}, {SIZE_MAX, 1}};
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        assert_int_equal(zb_safetensors_write_dir(dir, t, MANY, cases[k].limit, NULL, &err), ZB_OK);
        char **files;
        size_t n;
        assert_int_equal(zb_dir_list(dir, "", &a, &files, &n, &err), ZB_OK);
        assert_int_equal(n, cases[k].files); /* those of the write before are gone */
        check_many(dir);
    }
    zb_dir_remove(dir, NULL);
    zb_arena_free(&a);
}

/* Values of tensor "wide" are 0, 1, 2, ... as I32. */
static void count_up(void *context, const zb_tensor *t, int64_t first, int64_t n, void *out) {
    int *calls = context;
    assert_string_equal(t->name, "wide");
    assert_int_equal(first % t->shape[1], 0);
    assert_int_equal(n % t->shape[1], 0);
    for (int64_t i = 0; i < n; i++) ((int32_t *)out)[i] = (int32_t)(first + i);
    ++*calls;
}

/* A tensor without data is made piece by piece, beside one that has some. */
static void values_made_on_the_way(void **state) {
    (void)state;
    enum { ROWS = 3000, COLS = 3001 };
    zb_arena a = {0};
    char *dir = temp_dir(&a);
    float v[2] = {1, 2};
    zb_tensor t[2] = {{"wide", ZB_I32, 2, {ROWS, COLS}, NULL, (size_t)ROWS * COLS * 4},
                      {"some", ZB_F32, 1, {2}, v, sizeof v}};
    int calls = 0;
    zb_err err;
    assert_int_equal(
        zb_safetensors_write_dir(dir, t, 2, SIZE_MAX, &(zb_tensor_source){count_up, &calls}, &err),
        ZB_OK);
    assert_in_range(calls, 2, ROWS);
    zb_safetensors *s;
    assert_int_equal(zb_safetensors_open_dir(&s, dir, &err), ZB_OK);
    const int32_t *got = zb_safetensors_find(s, "wide")->data;
    for (int i = 0; i < ROWS * COLS; i++)
        if (got[i] != i) fail_msg("value %d: %d", i, got[i]);
    assert_memory_equal(zb_safetensors_find(s, "some")->data, v, sizeof v);
    zb_safetensors_close(s);
    zb_dir_remove(dir, NULL);
    zb_arena_free(&a);
}

static void refuses_dir(const char *dir, const char *index, const char *message) {
    zb_arena a = {0};
    zb_err err = {0};
    zb_safetensors *s;
    char *path = zb_path_join(&a, dir, "model.safetensors.index.json");
    if (index) assert_int_equal(zb_file_write(path, index, strlen(index), &err), ZB_OK);
    assert_int_not_equal(zb_safetensors_open_dir(&s, dir, &err), ZB_OK);
    if (!strstr(err.msg, message)) print_error("%s\n", err.msg);
    assert_non_null(strstr(err.msg, message));
    assert_null(s);
    zb_arena_free(&a);
}

static void refuses_wrong_indexes(void **state) {
    (void)state;
    zb_arena a = {0};
    char *dir = temp_dir(&a), names[MANY][8];
    float v[MANY];
    zb_tensor t[MANY];
    make_many(t, v, names);
    refuses_dir(dir, NULL,
                "expected a folder with model.safetensors or model.safetensors.index.json");
    const char *bin = zb_path_join(&a, dir, "pytorch_model.bin");
    zb_err err = {0};
    assert_int_equal(zb_file_write(bin, "x", 1, &err), ZB_OK);
    refuses_dir(dir, NULL, "expected model.safetensors, found pytorch_model.bin");
    remove(bin);
    zb_safetensors_write(zb_path_join(&a, dir, "a.safetensors"), t, 2, NULL, NULL);
    zb_safetensors_write(zb_path_join(&a, dir, "b.safetensors"), t + 1, 1, NULL, NULL);
    refuses_dir(dir, "[]", "key \"weight_map\" is missing");
    refuses_dir(dir, "{\"weight_map\":[]}",
                "key \"weight_map\": expected an object, found an array");
    refuses_dir(dir, "{\"weight_map\":{\"t0\":1}}",
                "weight_map: \"t0\": expected a file name, found an integer");
    refuses_dir(dir, "{\"weight_map\":{\"t0\":\"../a.safetensors\"}}",
                "expected a file name, found the path ../a");
    refuses_dir(dir, "{\"weight_map\":{\"t0\":\"..\"}}", "expected a file name");
    refuses_dir(dir, "{\"weight_map\":{\"t0\":\"\"}}", "expected a file name");
    refuses_dir(dir, "{\"weight_map\":{\"t0\":\"c.safetensors\"}}", "c.safetensors: cannot open");
    refuses_dir(dir, "{\"weight_map\":{\"t9\":\"a.safetensors\"}}",
                "tensor \"t9\" is missing in a.safetensors");
    refuses_dir(dir, "{\"weight_map\":{\"t0\":\"a.safetensors\",\"t1\":\"b.safetensors\"}}",
                "tensor \"t1\" stands in two files");
    refuses_dir(dir, "{", "index.json:1:1: invalid JSON");
    zb_dir_remove(dir, NULL);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_wrong_entries),
        cmocka_unit_test(refuses_wrong_cover),
        cmocka_unit_test(refuses_wrong_headers),
        cmocka_unit_test(refuses_cut_and_huge),
        cmocka_unit_test(refuses_every_prefix),
        cmocka_unit_test(reads_scalars_and_empty),
        cmocka_unit_test(reads_python),
        cmocka_unit_test(writes_as_python),
        cmocka_unit_test(writes_metadata_and_refuses_names),
        cmocka_unit_test(shards_return),
        cmocka_unit_test(values_made_on_the_way),
        cmocka_unit_test(refuses_wrong_indexes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
