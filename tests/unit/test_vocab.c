/* test_vocab.c - tables of a tokenizer whose file was made to let everything fall into one place.
 *
 * The texts are found by inverting the hash functions as they are without their seed. What the
 * tables then cost is compared with tables of ordinary texts of the same number. */
#include "format/tokenizer_added.h"
#include "format/tokenizer_vocab.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static const uint64_t GOLDEN = 0x9E3779B97F4A7C15u, FACTOR = 0xD6E8FEB86659FD93u;

/* a * inverse(a) = 1 (mod 2^64), a odd. */
static uint64_t inverse(uint64_t a) {
    uint64_t x = a;
    for (int i = 0; i < 6; i++) x *= 2 - a * x;
    return x;
}

static uint64_t unmix(uint64_t h) {
    h ^= h >> 29 ^ h >> 58;
    h *= inverse(FACTOR);
    return h ^ h >> 32;
}

/* Eight bytes whose unseeded hash is `hash`. */
static uint64_t text_of(uint64_t hash) {
    uint64_t h = unmix(hash) * inverse(GOLDEN);
    h = unmix(h) * inverse(GOLDEN);
    return unmix(h) ^ GOLDEN ^ 8;
}

/* Seconds to fill a vocabulary of n tokens and find them. */
static double fill_vocab(int n, bool hostile) {
    zb_arena a = {0};
    zb_vocab v;
    zb_buf text;
    zb_err err;
    clock_t start = clock();
    zb_vocab_init(&v, n, 0, &a);
    zb_buf_init(&text, 64);
    for (int i = 0; i < n; i++) {
        uint64_t word = text_of(hostile ? (uint64_t)i << 32 : (uint64_t)i * GOLDEN);
        text.n = 0;
        zb_alphabet_text((zb_str){(const char *)&word, 8}, &text);
        if (zb_vocab_set(&v, i, zb_buf_str(&text), &a, "test", &err) != ZB_OK)
            fail_msg("%s", err.msg);
        assert_int_equal(zb_vocab_find(&v, (zb_str){(const char *)&word, 8}), i);
    }
    zb_buf_free(&text);
    zb_arena_free(&a);
    return (double)(clock() - start) / CLOCKS_PER_SEC;
}

/* Seconds to build the table of one long added token. */
static double fill_added(size_t n, bool hostile) {
    zb_arena a = {0};
    char *text = zb_alloc(&a, n);
    size_t slots = 64;
    while (slots < 2 * n) slots *= 2;
    for (size_t i = 0; i < n; i++) {
        size_t least = SIZE_MAX;
        for (uint64_t byte = 1; byte < 256; byte++) {
            uint64_t h = ((i << 8 | byte) + 1) * GOLDEN;
            size_t slot = hostile ? (h ^ h >> 32) & (slots - 1) : byte ^ (i & 63);
            if (slot < least) text[i] = (char)byte, least = slot;
        }
    }
    zb_added_token token = {.text = {text, n}};
    const zb_added_token *list = &token;
    zb_added t;
    clock_t start = clock();
    zb_added_build(&t, &list, 1, &a);
    double took = (double)(clock() - start) / CLOCKS_PER_SEC;
    assert_int_equal(t.nodes, n + 1);
    zb_arena_free(&a);
    return took;
}

static void check(double ordinary, double hostile) {
    if (hostile > 20 * ordinary + 0.02)
        fail_msg("%.4f s instead of %.4f: the table degenerates", hostile, ordinary);
}

static void test_tokens(void **state) {
    (void)state;
    check(fill_vocab(50000, false), fill_vocab(50000, true));
}

static void test_added(void **state) {
    (void)state;
    check(fill_added(50000, false), fill_added(50000, true));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tokens), cmocka_unit_test(test_added)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
