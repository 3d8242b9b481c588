/* unicode.c - character classes and normal forms (contract in unicode.h).
 *
 * Normalising is decompose, order the marks of each run by combining class (stable), compose
 * (Unicode annex 15). utf8proc offers all three in one call, but orders by swapping neighbours,
 * which is quadratic in the number of marks on one letter; a text may hold a million of them. So
 * each character is decomposed by utf8proc, the marks are ordered here by counting, and utf8proc
 * composes. */
#include "format/unicode.h"

#include "base/err.h"

#include <string.h>
#include <utf8proc.h>

bool zb_char_is_space(uint32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= '\t' && cp <= '\r');
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

bool zb_char_is_letter(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

bool zb_char_is_word(uint32_t cp) {
    if (cp == 0x200C || cp == 0x200D) return true; /* joiners */
    /* Alphabetic symbols: circled and squared letters. */
    if ((cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
        (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189))
        return true;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return zb_char_is_letter(cp);
    }
}

bool zb_char_is_printable(uint32_t cp) {
    if (cp == ' ') return true;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c != UTF8PROC_CATEGORY_CN && !(c >= UTF8PROC_CATEGORY_ZS && c <= UTF8PROC_CATEGORY_CO);
}

uint32_t zb_char_upper(uint32_t cp) { return (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp); }
uint32_t zb_char_lower(uint32_t cp) { return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp); }
uint32_t zb_char_title(uint32_t cp) { return (uint32_t)utf8proc_totitle((utf8proc_int32_t)cp); }

static unsigned combining_class(int32_t cp) {
    return (unsigned)utf8proc_get_property(cp)->combining_class & 0xFF;
}

/* Stable order by combining class of a run of marks, through `tmp` of the same length. */
static void order_run(int32_t *cp, int32_t *tmp, size_t n) {
    size_t begin[257] = {0};
    if (n < 2) return;
    for (size_t i = 0; i < n; i++) begin[combining_class(cp[i]) + 1]++;
    for (int c = 0; c < 256; c++) begin[c + 1] += begin[c];
    for (size_t i = 0; i < n; i++) tmp[begin[combining_class(cp[i])]++] = cp[i];
    memcpy(cp, tmp, n * sizeof *cp);
}

static void order_marks(int32_t *cp, int32_t *tmp, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t j = i;
        while (j < n && combining_class(cp[j])) j++;
        order_run(cp + i, tmp, j - i);
        i = j + 1;
    }
}

zb_str zb_normalize(zb_str text, zb_normal_form form, zb_arena *a) {
    bool ascii = true; /* in every normal form already */
    for (size_t i = 0; i < text.n && ascii; i++) ascii = (unsigned char)text.p[i] < 0x80;
    if (ascii) return text;
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (form == ZB_NFKC || form == ZB_NFKD) options |= UTF8PROC_COMPAT;
    size_t cap = text.n + 32, n = 0;
    int32_t *cp = zb_alloc_array(a, cap, sizeof(int32_t));
    for (size_t i = 0; i < text.n;) {
        uint32_t c = 0;
        size_t len = zb_utf8_decode(text.p + i, text.n - i, &c);
        ZB_ASSERT(len > 0);
        int boundary = 0;
        cp = zb_grow(a, cp, &cap, n + 32, sizeof(int32_t)); /* no character becomes more than 18 */
        utf8proc_ssize_t got = utf8proc_decompose_char(
            (utf8proc_int32_t)c, cp + n, (utf8proc_ssize_t)(cap - n), options, &boundary);
        ZB_ASSERT(got >= 0 && (size_t)got <= cap - n);
        n += (size_t)got;
        i += len;
    }
    order_marks(cp, zb_alloc_array(a, n + 1, sizeof(int32_t)), n);
    if (form == ZB_NFC || form == ZB_NFKC) {
        utf8proc_ssize_t left =
            utf8proc_normalize_utf32(cp, (utf8proc_ssize_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        ZB_ASSERT(left >= 0);
        n = (size_t)left;
    }
    char *out = zb_alloc_array(a, n + 1, 4);
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += zb_utf8_encode((uint32_t)cp[i], out + bytes);
    return (zb_str){out, bytes};
}
