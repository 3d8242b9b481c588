/* text_rule.c - small functions on text, as Python has them (contract in text_rule.h).
 *
 *   strip, lstrip   remove Unicode white space at both ends, at the start
 *   capitalize      first code point in title case, all others in lower case. Python maps a
 *                   few letters to two (German sharp s at the start, I with a dot); here the
 *                   one-to-one mapping of utf8proc is used, which gives the same text for
 *                   every document of HellaSwag
 *   spaces          each underscore becomes a space
 *   before:X        what stands before the first X
 *   after:X         what stands behind the first X
 *   before_last:X, after_last:X    the same with the last X
 *   hellaswag       HellaSwag's clean-up: strip; " [title]" becomes ". "; shortest spans [...]
 *                   on one line go; each pair of spaces becomes one, in a single pass
 *                   (lm_eval/tasks/hellaswag/utils.py) */
#include "eval/text_rule.h"

#include <string.h>
#include <utf8proc.h>

bool zb_text_is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

static size_t leading_space(zb_str s) {
    size_t i = 0;
    uint32_t c;
    for (size_t n;
         i < s.n && (n = zb_utf8_decode(s.p + i, s.n - i, &c)) > 0 && zb_text_is_space(c);)
        i += n;
    return i;
}

size_t zb_text_trailing_space(zb_str s) {
    size_t end = s.n;
    while (end > 0) {
        size_t at = end - 1;
        while (at > 0 && end - at < 4 && ((unsigned char)s.p[at] & 0xc0) == 0x80) at--;
        uint32_t c;
        if (zb_utf8_decode(s.p + at, end - at, &c) != end - at || !zb_text_is_space(c)) break;
        end = at;
    }
    return s.n - end;
}

static bool lstrip(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    (void)arg, (void)a;
    size_t lead = leading_space(in);
    *out = (zb_str){in.p + lead, in.n - lead};
    return true;
}

static bool strip(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    lstrip(in, arg, a, out);
    out->n -= zb_text_trailing_space(*out);
    return true;
}

static bool capitalize(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    (void)arg;
    /* A changed letter may need more bytes, but never more than four for one. */
    char *p = zb_alloc_array(a, in.n + 1, 4);
    size_t written = 0;
    for (size_t i = 0; i < in.n;) {
        uint32_t c;
        size_t n = zb_utf8_decode(in.p + i, in.n - i, &c);
        if (n == 0) {
            p[written++] = in.p[i++];
            continue;
        }
        utf8proc_int32_t cp = (utf8proc_int32_t)c;
        cp = i == 0 ? utf8proc_totitle(cp) : utf8proc_tolower(cp);
        written += zb_utf8_encode((uint32_t)cp, p + written);
        i += n;
    }
    *out = (zb_str){p, written};
    return true;
}

static bool spaces(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    (void)arg;
    char *p = zb_strndup(a, in.p, in.n);
    for (size_t i = 0; i < in.n; i++)
        if (p[i] == '_') p[i] = ' ';
    *out = (zb_str){p, in.n};
    return true;
}

static bool before(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    (void)a;
    const char *at = in.n ? memmem(in.p, in.n, arg.p, arg.n) : NULL;
    if (!at) return false;
    *out = (zb_str){in.p, (size_t)(at - in.p)};
    return true;
}

static bool after(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    zb_str head;
    if (!before(in, arg, a, &head)) return false;
    size_t skip = head.n + arg.n;
    *out = (zb_str){in.p + skip, in.n - skip};
    return true;
}

static bool before_last(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    (void)a;
    for (size_t i = in.n < arg.n ? 0 : in.n - arg.n + 1; i-- > 0;)
        if (!memcmp(in.p + i, arg.p, arg.n)) {
            *out = (zb_str){in.p, i};
            return true;
        }
    return false;
}

static bool after_last(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    zb_str head;
    if (!before_last(in, arg, a, &head)) return false;
    *out = (zb_str){in.p + head.n + arg.n, in.n - head.n - arg.n};
    return true;
}

/* Length of the span "[...]" that starts at p, 0 if none: it ends at the first ']' and crosses no
 * line end. */
static size_t bracket_span(const char *p, size_t n) {
    if (p[0] != '[') return 0;
    for (size_t i = 1; i < n && p[i] != '\n'; i++)
        if (p[i] == ']') return i + 1;
    return 0;
}

/* Each step works on the whole text before the next begins, as the order of the replacements
 * matters; none makes the text longer, so they all run in place. */
static bool hellaswag(zb_str in, zb_str arg, zb_arena *a, zb_str *out) {
    static const char title[] = " [title]";
    strip(in, arg, a, &in);
    char *p = zb_strndup(a, in.p, in.n);
    size_t n = 0;
    for (size_t i = 0; i < in.n;) {
        if (in.n - i >= sizeof title - 1 && !memcmp(p + i, title, sizeof title - 1)) {
            p[n++] = '.';
            p[n++] = ' ';
            i += sizeof title - 1;
        } else {
            p[n++] = p[i++];
        }
    }
    size_t kept = 0;
    /* A '[' whose line has no ']' is looked at only once per line: without this, a row of opening
     * brackets would take quadratic time. */
    size_t open_until = 0;
    for (size_t i = 0; i < n;) {
        size_t span = i >= open_until ? bracket_span(p + i, n - i) : 0;
        if (p[i] == '[' && span == 0 && i >= open_until) {
            const char *end = memchr(p + i, '\n', n - i);
            open_until = end ? (size_t)(end - p) : n;
        }
        if (span)
            i += span;
        else
            p[kept++] = p[i++];
    }
    n = 0;
    for (size_t i = 0; i < kept; i++) {
        if (p[i] == ' ' && i + 1 < kept && p[i + 1] == ' ') i++;
        p[n++] = p[i];
    }
    *out = (zb_str){p, n};
    return true;
}

static const zb_text_rule rules[] = {
    {"strip", false, strip},
    {"lstrip", false, lstrip},
    {"capitalize", false, capitalize},
    {"spaces", false, spaces},
    {"before", true, before},
    {"after", true, after},
    {"before_last", true, before_last},
    {"after_last", true, after_last},
    {"hellaswag", false, hellaswag},
};

const zb_text_rule *zb_text_rule_find(zb_str name) {
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (zb_str_is(name, rules[i].name)) return &rules[i];
    return NULL;
}

const char *zb_text_rule_names(void) {
    return "strip, lstrip, capitalize, spaces, before:X, after:X, before_last:X, after_last:X, "
           "hellaswag";
}
