/* test_text.c - views, the growable buffer, UTF-8, numbers. */
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void views(void **state) {
    (void)state;
    zb_str s = ZB_STR("hello"), none = {NULL, 0};
    assert_true(zb_str_is(s, "hello") && !zb_str_is(s, "hell") && !zb_str_is(s, "hellO"));
    assert_true(zb_str_eq(none, ZB_STR("")) && zb_str_eq(none, none) && !zb_str_eq(none, s));
    assert_true(zb_str_starts(s, ZB_STR("he")) && zb_str_starts(s, none) &&
                !zb_str_starts(s, ZB_STR("hello!")));
    assert_true(zb_str_ends(s, ZB_STR("lo")) && zb_str_ends(s, none) &&
                !zb_str_ends(ZB_STR("o"), ZB_STR("lo")));
    assert_true(zb_str_is(zb_str_trim(ZB_STR("\t\v a b \r\n\f")), "a b"));
    assert_int_equal(zb_str_trim(ZB_STR(" \n ")).n, 0);
    assert_int_equal(zb_str_trim(none).n, 0);
}

static void buffer_grows(void **state) {
    (void)state;
    zb_buf b;
    zb_buf_init(&b, 1 << 20);
    assert_true(zb_str_is(zb_buf_str(&b), ""));
    zb_buf_add(&b, NULL, 0);
    for (int i = 0; i < 5000; i++) {
        zb_buf_addf(&b, "%d,", i);
        assert_int_equal(b.p[b.n], 0);
    }
    assert_memory_equal(b.p, "0,1,2,3,", 8);
    assert_string_equal(b.p + b.n - 10, "4998,4999,");
    zb_buf_clear(&b);
    zb_buf_adds(&b, "ab");
    zb_buf_addc(&b, 0);
    zb_buf_addc(&b, 'c');
    assert_int_equal(b.n, 4);
    assert_memory_equal(b.p, "ab\0c", 5);
    zb_buf_free(&b);
    zb_buf_free(&b);
}

static void buffer_stops_at_its_limit(void **state) {
    (void)state;
    zb_buf b;
    zb_buf_init(&b, 5);
    zb_buf_adds(&b, "12345");
    assert_false(b.overflow);
    zb_buf_addc(&b, '6');
    assert_true(b.overflow);
    assert_string_equal(b.p, "12345");
    zb_buf_clear(&b);
    zb_buf_addf(&b, "%d", 123456);
    assert_true(b.overflow);
    assert_int_equal(b.n, 0);
    zb_buf_add(&b, "", 0); /* stays an overflow until cleared */
    assert_true(b.overflow);
    zb_buf_clear(&b);
    zb_buf_add(&b, "x", SIZE_MAX); /* must not be looked at */
    assert_true(b.overflow);
    zb_buf_free(&b);
}

/* Every code point, and its length. */
static void utf8_round_trip(void **state) {
    (void)state;
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        char s[4];
        uint32_t back = 0xFFFFFFFF;
        size_t n = zb_utf8_encode(c, s);
        if (n != (c < 0x80      ? 1
                  : c < 0x800   ? 2
                  : c < 0x10000 ? 3
                                : 4) ||
            zb_utf8_decode(s, n, &back) != n || back != c)
            fail_msg("U+%04X", c);
        if (n > 1 && zb_utf8_decode(s, n - 1, &back) != 0) fail_msg("cut U+%04X", c);
    }
}

static void utf8_refuses(void **state) {
    (void)state;
    const char *const bad[] = {
        "\x80",         "\xBF",         "\xC0\x80",         "\xC1\xBF",         "\xE0\x9F\xBF",
        "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80",
        "\xFF",         "\xC3(",        "\xE2\x82(",        "\xE2(\xAC"};
    uint32_t c;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (zb_utf8_decode(bad[i], strlen(bad[i]), &c) != 0) fail_msg("case %zu", i);
    assert_int_equal(zb_utf8_decode("", 0, &c), 0);
    assert_int_equal(zb_utf8_length("a\u00fc\u20ac\U0001F600", 10), 4);
    assert_int_equal(zb_utf8_length("\xFFz\xE2\x82", 4), 4);
}

/* Streaming: what may be printed of each prefix. */
/* What Python says: bytes.decode("utf-8", "replace"). */
static void utf8_lossy(void **state) {
    (void)state;
#define BAD "\xef\xbf\xbd"
    static const char *const cases[][2] = {
        {"", ""},
        {"a\u00fc\u20ac", "a\u00fc\u20ac"},
        {"1\xff 2", "1" BAD " 2"},
        {"\xf0\x9f\x98", BAD}, /* cut: one piece */
        {"\xf0\x9f\x98z\xe2\x82", BAD "z" BAD},
        {"\xed\xa0\x80", BAD BAD BAD}, /* a surrogate: no byte begins anything */
        {"\xe0\x80\x80\xc0\xaf", BAD BAD BAD BAD BAD},
        {"\xf4\x90\x80\x80", BAD BAD BAD BAD},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zb_buf b;
        zb_buf_init(&b, 64);
        zb_utf8_lossy(&b, cases[i][0], strlen(cases[i][0]));
        assert_string_equal(b.p ? b.p : "", cases[i][1]);
        zb_buf_free(&b);
    }
}

static void utf8_complete(void **state) {
    (void)state;
    const char *s = "a\u00fc\u20ac\U0001F600";
    const size_t want[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10};
    for (size_t n = 0; n <= 10; n++) assert_int_equal(zb_utf8_complete(s, n), want[n]);
    assert_int_equal(zb_utf8_complete("\x80\x80\x80\x80\x80", 5), 5); /* never held for ever */
    assert_int_equal(zb_utf8_complete("a\x80", 2), 2);
}

static void numbers(void **state) {
    (void)state;
    int64_t i = 5;
    double d = 5;
    assert_true(zb_parse_i64("-9223372036854775808", &i) && i == INT64_MIN);
    assert_true(zb_parse_i64("+12", &i) && i == 12);
    const char *const not_int[] = {"",    " 1", "1 ", "1.0", "0x10", "9223372036854775808",
                                   "1e3", "-",  "one"};
    for (size_t k = 0; k < sizeof not_int / sizeof *not_int; k++)
        assert_false(zb_parse_i64(not_int[k], &i));
    assert_int_equal(i, 12);
    assert_true(zb_parse_f64("-1.5e-3", &d) && d == -1.5e-3);
    assert_true(zb_parse_f64(".5", &d) && d == 0.5);
    assert_true(zb_parse_f64("1e-400", &d) && d >= 0 && d < 1e-300);
    d = 7;
    const char *const not_real[] = {"",      " 1",    "1 ",     "nan", "inf", "-infinity",
                                    "0x1p3", "1e999", "-1e999", "1,5", "1e",  "."};
    for (size_t k = 0; k < sizeof not_real / sizeof *not_real; k++)
        assert_false(zb_parse_f64(not_real[k], &d));
    assert_true(d == 7);
    uint64_t b;
    assert_true(zb_parse_bytes("4096", &b) && b == 4096);
    assert_true(zb_parse_bytes("1.5K", &b) && b == 1536);
    assert_true(zb_parse_bytes("8GiB", &b) && b == (uint64_t)8 << 30);
    assert_true(zb_parse_bytes("2TB", &b) && b == (uint64_t)2 << 40);
    assert_true(zb_parse_bytes("0", &b) && b == 0);
    const char *const not_bytes[] = {"", "G", "-1", "1g", "1 G", "1GG", "1iB", "1.2.3", "9999999T"};
    for (size_t k = 0; k < sizeof not_bytes / sizeof *not_bytes; k++)
        assert_false(zb_parse_bytes(not_bytes[k], &b));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views),
        cmocka_unit_test(buffer_grows),
        cmocka_unit_test(buffer_stops_at_its_limit),
        cmocka_unit_test(utf8_round_trip),
        cmocka_unit_test(utf8_refuses),
        cmocka_unit_test(utf8_lossy),
        cmocka_unit_test(utf8_complete),
        cmocka_unit_test(numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
