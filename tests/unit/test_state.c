/* States: sizes by layer kind, layout without overlap, emptiness after init and reset, copies
 * between capacities. (That a copied state continues a sequence exactly is shown by
 * tests/golden/test_models.c and test_layers.c.) */
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

enum { SSM = 4 * 8 * 8, TAIL = 3 * (2 * 2 * 8 + 4 * 8), CACHE = 2 * 2 * 8 + (5 + 2) + (9 + 2) };

static int64_t values_of(const zb_config *c, int l, int tokens) {
    return c->layer[l].kind == ZB_MAMBA2 ? zb_config_state(c, l)
                                         : (int64_t)zb_config_cache(c, l) * tokens;
}

static void test_sizes(void **state) {
    (void)state;
    zb_config c = mixed();
    for (int tokens = 0; tokens < 40; tokens += 13) {
        size_t floats = (size_t)(2 * (SSM + TAIL) + CACHE * tokens);
        size_t bytes = (sizeof(zb_state) + floats * 4 + 63) / 64 * 64;
        assert_int_equal(zb_state_size(&c, tokens), bytes);
    }
    assert_int_equal(sizeof(zb_state), 64);
    /* large: 8B-like sizes do not overflow */
    c.layer[0].kind = ZB_ATTENTION;
    c.G = 1024;
    c.dh = 1024;
    c.H = 1024;
    assert_true(zb_state_size(&c, 1 << 22) > (size_t)1 << 42);
}

/* Every layer's values lie inside the block, aligned to floats, and no two layers share one. */
static void test_layout(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_config c = mixed();
    enum { TOKENS = 11 };
    size_t bytes = zb_state_size(&c, TOKENS);
    uint8_t *mem = zb_alloc(&a, bytes);
    memset(mem, 0xff, bytes); /* not zero: init must empty what is read before it is written */
    zb_state *s = zb_state_init(mem, &c, TOKENS);
    assert_true(s->len == 0 && s->tokens_max == TOKENS);
    int64_t total = ((int64_t)bytes - 64) / 4;
    uint8_t *owner = ZB_NEW_ARRAY(&a, uint8_t, total);
    for (int l = 0; l < L; l++) {
        int64_t at = zb_state_layer(s, &c, l) - s->data;
        for (int64_t i = at; i < at + values_of(&c, l, TOKENS); i++) {
            assert_in_range(i, 0, total - 1);
            assert_int_equal(owner[i], 0);
            owner[i] = 1;
        }
        for (int64_t i = 0; c.layer[l].kind == ZB_MAMBA2 && i < zb_config_state(&c, l); i++)
            assert_true(s->data[at + i] == 0);
    }
    /* recurrent parts first: they do not move with the capacity */
    zb_state *larger = zb_state_init(zb_alloc(&a, zb_state_size(&c, 50)), &c, 50);
    for (int l = 1; l < 4; l += 2)
        assert_int_equal(zb_state_layer(larger, &c, l) - larger->data,
                         zb_state_layer(s, &c, l) - s->data);
    zb_arena_free(&a);
}

/* A value that names its layer, block (keys or values), row and column. */
static float mark(int l, int part, int row, int col) {
    return (float)(l * 100000 + part * 50000 + row * 100 + col + 1);
}

/* Visits every value that `len` tokens have left behind; writes the marks or checks them. */
static void visit(zb_state *s, const zb_config *c, int len, bool check) {
    for (int l = 0; l < L; l++) {
        float *v = zb_state_layer(s, c, l);
        bool fixed = c->layer[l].kind == ZB_MAMBA2, two = c->layer[l].kind == ZB_ATTENTION;
        int parts = two ? 2 : 1,
            width = fixed ? (int)zb_config_state(c, l) : zb_config_cache(c, l) / parts,
            rows = fixed ? 1 : len;
        for (int p = 0; p < parts; p++)
            for (int r = 0; r < rows; r++)
                for (int k = 0; k < width; k++) {
                    float *x =
                        v + ((size_t)p * (size_t)s->tokens_max + (size_t)r) * (size_t)width + k;
                    if (!check)
                        *x = mark(l, p, r, k);
                    else if (*x != mark(l, p, r, k))
                        fail_msg("layer %d, part %d, row %d, column %d: got %g, want %g", l, p, r,
                                 k, (double)*x, (double)mark(l, p, r, k));
                }
    }
}

static void test_copy(void **unused) {
    (void)unused;
    zb_config c = mixed();
    static const int capacities[][3] = {{7, 7, 7},  {7, 20, 7}, {20, 7, 7},
                                        {20, 5, 5}, {9, 9, 0},  {3, 64, 1}}; /* from, to, tokens */
    for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++) {
        zb_arena a = {0};
        int from = capacities[i][0], to = capacities[i][1], len = capacities[i][2];
        size_t bytes = zb_state_size(&c, to);
        zb_state *src = zb_state_init(zb_alloc(&a, zb_state_size(&c, from)), &c, from);
        uint8_t *mem = zb_alloc(&a, bytes + 64);
        memset(mem, 0x7f, bytes + 64);
        zb_state *dst = zb_state_init(mem, &c, to);
        visit(src, &c, len, false);
        src->len = len;
        zb_state_copy(dst, src, &c);
        assert_int_equal(dst->len, len);
        assert_int_equal(dst->tokens_max, to);
        visit(dst, &c, len, true);
        visit(src, &c, len, true);
        for (int k = 0; k < 64; k++)
            assert_int_equal(mem[bytes + (size_t)k], 0x7f); /* nothing written behind the block */
        zb_arena_free(&a);
    }
}

static void test_reset(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_config c = mixed();
    zb_state *s = zb_state_init(zb_alloc(&a, zb_state_size(&c, 6)), &c, 6);
    visit(s, &c, 6, false);
    s->len = 6;
    zb_state_reset(s);
    assert_true(s->len == 0 && s->tokens_max == 6);
    for (int l = 1; l < 4; l += 2)
        for (int64_t i = 0; i < zb_config_state(&c, l); i++)
            assert_true(zb_state_layer(s, &c, l)[i] == 0);
    zb_arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes), cmocka_unit_test(test_layout),
                                       cmocka_unit_test(test_copy), cmocka_unit_test(test_reset)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
