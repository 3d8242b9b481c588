/* States: sizes by layer kind and cache type, layout without overlap, emptiness after init and
 * reset, copies between capacities. (That a copied state continues a sequence exactly is shown by
 * tests/golden/test_models.c and test_layers.c.) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "model/state.h"

enum { L = 5 };

/* attention, mamba2, mla, mamba2, mla with another rank */
static zb_config mixed(void) {
    zb_config c = {.model_type = "llama",
                   .D = 24,
                   .L = L,
                   .H = 4,
                   .G = 2,
                   .dh = 8,
                   .F = 32,
                   .V = 16,
                   .eps = 1e-5,
                   .hybrid = true};
    c.rope = c.mla_rope = (zb_rope){.theta = 10000, .factor = 1};
    c.layer[1].kind = c.layer[3].kind = ZB_MAMBA2;
    c.layer[2] = (zb_layer_config){.kind = ZB_MLA, .r_kv = 5, .d_nope = 4, .d_rope = 2, .d_v = 8};
    c.layer[4] = c.layer[2];
    c.layer[4].r_kv = 9;
    return c;
}

enum { SSM = 4 * 8 * 8, TAIL = 3 * (2 * 2 * 8 + 4 * 8) };
static const zb_dtype types[] = {ZB_F32, ZB_BF16, ZB_F16, ZB_Q8_0};
enum { TYPES = 4 };

static size_t up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/* Bytes of a row of 8, 5, 9 and 2 values: q8_0 rounds up to a block of 32, but leaves the rotary
 * keys (2) in bf16. */
static const size_t row_bytes[TYPES][4] = {
    {32, 20, 36, 8}, {16, 10, 18, 4}, {16, 10, 18, 4}, {34, 34, 34, 4}};

static void test_sizes(void **state) {
    (void)state;
    for (int i = 0; i < TYPES; i++) {
        zb_config c = mixed();
        c.cache = types[i];
        const size_t *r = row_bytes[i];
        for (size_t tokens = 0; tokens < 40; tokens += 13) {
            size_t bytes = sizeof(zb_state) + up(2 * (SSM + TAIL) * 4) + 4 * up(r[0] * tokens) +
                           up(r[1] * tokens) + up(r[2] * tokens) + 2 * up(r[3] * tokens);
            assert_int_equal(zb_state_size(&c, (int)tokens), bytes);
        }
        assert_int_equal(zb_state_token_bytes(&c, 0), 4 * r[0]);
        assert_int_equal(zb_state_token_bytes(&c, 1), 0);
        assert_int_equal(zb_state_token_bytes(&c, 4), r[2] + r[3]);
    }
    assert_int_equal(sizeof(zb_state) % 64, 0);
    zb_config c = mixed();
    /* large: 8B-like sizes do not overflow */
    c.layer[0].kind = ZB_ATTENTION;
    c.G = 1024;
    c.dh = 1024;
    c.H = 1024;
    assert_true(zb_state_size(&c, 1 << 22) > (size_t)1 << 42);
}

/* Marks the bytes of one part as owned; none may be owned before. */
static void own(uint8_t *owner, size_t total, size_t at, size_t bytes) {
    for (size_t i = at; i < at + bytes; i++) {
        assert_true(i < total);
        assert_int_equal(owner[i], 0);
        owner[i] = 1;
    }
}

/* Every part lies inside the block, planes at multiples of 64, and no two share a byte. */
static void test_layout(void **unused) {
    (void)unused;
    enum { TOKENS = 11 };
    for (int i = 0; i < TYPES; i++) {
        zb_arena a = {0};
        zb_config c = mixed();
        c.cache = types[i];
        size_t bytes = zb_state_size(&c, TOKENS), total = bytes - sizeof(zb_state);
        uint8_t *mem = zb_alloc(&a, bytes), *owner = zb_alloc(&a, total);
        memset(mem, 0xff, bytes); /* not zero: init must empty what is read before it is written */
        zb_state *s = zb_state_init(mem, &c, TOKENS);
        assert_true(s->len == 0 && s->tokens_max == TOKENS);
        for (int l = 0; l < L; l++) {
            for (int p = 0; p < zb_state_planes(&c, l); p++) {
                zb_cells plane = zb_state_plane(s, &c, l, p);
                size_t at = (size_t)((const uint8_t *)plane.p - (const uint8_t *)s->data);
                assert_int_equal(at % 64, 0);
                own(owner, total, at, TOKENS * plane.row);
            }
            if (c.layer[l].kind != ZB_MAMBA2) continue;
            float *x = zb_state_layer(s, &c, l);
            own(owner, total, (size_t)(x - s->data) * 4, (size_t)zb_config_state(&c, l) * 4);
            for (int64_t k = 0; k < zb_config_state(&c, l); k++) assert_true(x[k] == 0);
        }
        assert_int_equal(zb_state_planes(&c, 0), 4);
        assert_int_equal(zb_state_planes(&c, 1), 0);
        assert_int_equal(zb_state_planes(&c, 2), 2);
        /* recurrent parts first: they do not move with the capacity */
        zb_state *larger = zb_state_init(zb_alloc(&a, zb_state_size(&c, 50)), &c, 50);
        for (int l = 1; l < 4; l += 2)
            assert_int_equal(zb_state_layer(larger, &c, l) - larger->data,
                             zb_state_layer(s, &c, l) - s->data);
        zb_arena_free(&a);
    }
}

/* A value that names its layer, plane, row and column. */
static float mark(int l, int part, int row, int col) {
    return (float)(l * 100000 + part * 20000 + row * 100 + col + 1);
}

/* A row of marks as f32. */
static void row_of(int l, int part, int row, int width, float *x) {
    for (int k = 0; k < width; k++) x[k] = mark(l, part, row, k);
}

static void visit_plane(zb_state *s, const zb_config *c, int l, int p, bool check) {
    zb_cells plane = zb_state_plane(s, c, l, p);
    float x[64], got[64], want[64];
    uint8_t bytes[256];
    for (int r = 0; r < s->len; r++) {
        row_of(l, p, r, plane.width, x);
        if (!check) {
            zb_state_put(s, &plane, r, x);
            continue;
        }
        zb_cells_write(plane.type, plane.width, x, bytes);
        assert_memory_equal((const uint8_t *)plane.p + (size_t)r * plane.row, bytes, plane.row);
        zb_cells_read(&plane, r, 1, got, plane.width);
        zb_cells one = plane;
        one.p = bytes;
        zb_cells_read(&one, 0, 1, want, plane.width);
        assert_memory_equal(got, want, (size_t)plane.width * sizeof(float));
        /* the type's precision: exact, 2^-8, 2^-11, 1/254 of the row's largest and the
         * rounding of its scale */
        static const double of[ZB_DTYPE_COUNT] = {
            [ZB_BF16] = 0x1p-8, [ZB_F16] = 0x1p-11, [ZB_Q8_0] = 1.0 / 254 + 0x1p-11};
        for (int k = 0; k < plane.width && plane.type != ZB_F16; k++) /* marks leave f16's range */
            assert_true(fabs((double)got[k] - (double)x[k]) <=
                        of[plane.type] * (double)x[plane.width - 1] * (1 + 1e-6));
    }
}

/* Visits every value that s->len tokens have left behind; writes the marks or checks them. */
static void visit(zb_state *s, const zb_config *c, bool check) {
    for (int l = 0; l < L; l++) {
        for (int p = 0; p < zb_state_planes(c, l); p++) visit_plane(s, c, l, p, check);
        if (c->layer[l].kind != ZB_MAMBA2) continue;
        float *x = zb_state_layer(s, c, l);
        for (int k = 0; k < (int)zb_config_state(c, l); k++)
            if (!check)
                x[k] = mark(l, 0, 0, k);
            else
                assert_true(x[k] == mark(l, 0, 0, k));
    }
}

static void copy_one(zb_dtype type, int from, int to, int len) {
    zb_arena a = {0};
    zb_config c = mixed();
    c.cache = type;
    size_t bytes = zb_state_size(&c, to);
    zb_state *src = zb_state_init(zb_alloc(&a, zb_state_size(&c, from)), &c, from);
    uint8_t *mem = zb_alloc(&a, bytes + 64);
    memset(mem, 0x7f, bytes + 64);
    zb_state *dst = zb_state_init(mem, &c, to);
    src->len = len;
    visit(src, &c, false);
    zb_state_copy(dst, src, &c);
    assert_int_equal(dst->len, len);
    assert_int_equal(dst->tokens_max, to);
    visit(dst, &c, true);
    visit(src, &c, true);
    for (int k = 0; k < 64; k++)
        assert_int_equal(mem[bytes + (size_t)k], 0x7f); /* nothing written behind the block */
    zb_arena_free(&a);
}

static void test_copy(void **unused) {
    (void)unused;
    static const int capacities[][3] = {{7, 7, 7},  {7, 20, 7}, {20, 7, 7},
                                        {20, 5, 5}, {9, 9, 0},  {3, 64, 1}}; /* from, to, tokens */
    for (int t = 0; t < TYPES; t++)
        for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++)
            copy_one(types[t], capacities[i][0], capacities[i][1], capacities[i][2]);
}

static void test_reset(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_config c = mixed();
    zb_state *s = zb_state_init(zb_alloc(&a, zb_state_size(&c, 6)), &c, 6);
    s->len = 6;
    visit(s, &c, false);
    zb_state_reset(s);
    assert_true(s->len == 0 && s->tokens_max == 6);
    for (int l = 1; l < 4; l += 2)
        for (int64_t i = 0; i < zb_config_state(&c, l); i++)
            assert_true(zb_state_layer(s, &c, l)[i] == 0);
    zb_arena_free(&a);
}

static void test_names(void **unused) {
    (void)unused;
    static const char *const names[TYPES] = {"f32", "bf16", "f16", "q8_0"};
    zb_err err = {0};
    zb_dtype t;
    for (int i = 0; i < TYPES; i++) {
        assert_int_equal(zb_cells_type(names[i], &t, &err), ZB_OK);
        assert_int_equal(t, types[i]);
    }
    assert_int_equal(zb_cells_type("q4_1", &t, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "found 'q4_1'"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes), cmocka_unit_test(test_layout),
                                       cmocka_unit_test(test_copy), cmocka_unit_test(test_reset),
                                       cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
