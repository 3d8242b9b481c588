/* test_split.c - cuts before byte-pair encoding against those of the `tokenizers` package. */
#include "format/tokenizer_split.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

/* What Oniguruma and PCRE2 read alike only in other words: a text and the ends of its pieces, as
 * the package cuts it. */
static const struct {
    const char *pattern, *text;
    size_t end[8];
} cut_rows[] = {
    {"a{,2}b", "aaab", {1, 4}},
    {"a{2,3}?", "aaaa", {2, 4}},
    {"x{a}", "x{a}b", {4, 5}},
    {"[a{2}]+", "a2}b", {3, 4}},
    {"\\x{61}+", "aab", {2, 3}},
    {"(?i)A|b", "aB", {1, 2}},
    {"\\p{Han}+", "\u65e5\u3001", {3, 6}}, /* the comma is in other scripts, too */
    {"[\\p{Greek}\\p{Han}]+", "\u03b1\u65e5\u3002", {5, 8}},
    {"\\p{^Han}+", "\u3001\u65e5", {3, 6}},
    {"\\p{Lu}\\p{L}{2}", "Abcd", {3, 4}},
};

typedef struct cuts {
    const char *begin;
    size_t end[8], n;
} cuts;

static void note_cut(void *ctx, zb_str piece) {
    cuts *c = ctx;
    assert_true(c->n < 8);
    c->end[c->n++] = (size_t)(piece.p + piece.n - c->begin);
}

/* {"type": "Split"} with the pattern, then ByteLevel without one. */
static json_t *chain_of(const char *pattern) {
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s}, {s:s, s:b, s:b}]}", "type", "Sequence",
                     "pretokenizers", "type", "Split", "pattern", "Regex", pattern, "behavior",
                     "Isolated", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0);
}

static void test_cuts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cut_rows / sizeof *cut_rows; i++) {
        zb_err err;
        zb_splitter s;
        zb_split_work work;
        cuts found = {.begin = cut_rows[i].text};
        json_t *chain = chain_of(cut_rows[i].pattern);
        if (zb_splitter_build(&s, NULL, chain, "chain", &err) != ZB_OK) fail_msg("%s", err.msg);
        zb_split_work_init(&work);
        zb_str all = zb_str_from(cut_rows[i].text);
        assert_int_equal(zb_splitter_run(&s, &work, all, note_cut, &found, &err), ZB_OK);
        for (size_t k = 0; k < 8; k++)
            if (found.end[k] != cut_rows[i].end[k])
                fail_msg("%s: piece %zu: expected to end at %zu, found %zu", cut_rows[i].pattern, k,
                         cut_rows[i].end[k], found.end[k]);
        zb_split_work_free(&work);
        zb_splitter_free(&s);
        json_decref(chain);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_cuts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
