/* text.c - views, buffer, UTF-8, strict numbers (contract in text.h). */
#include "base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

zb_str zb_str_from(const char *s) { return (zb_str){s, strlen(s)}; }
bool zb_str_eq(zb_str a, zb_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
bool zb_str_is(zb_str a, const char *s) { return zb_str_eq(a, zb_str_from(s)); }

bool zb_str_starts(zb_str a, zb_str prefix) {
    return a.n >= prefix.n && (prefix.n == 0 || memcmp(a.p, prefix.p, prefix.n) == 0);
}

bool zb_str_ends(zb_str a, zb_str suffix) {
    return a.n >= suffix.n &&
           (suffix.n == 0 || memcmp(a.p + a.n - suffix.n, suffix.p, suffix.n) == 0);
}

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

zb_str zb_str_trim(zb_str a) {
    while (a.n && is_space(a.p[0])) a.p++, a.n--;
    while (a.n && is_space(a.p[a.n - 1])) a.n--;
    return a;
}

void zb_buf_init(zb_buf *b, size_t limit) { *b = (zb_buf){.limit = limit}; }

void zb_buf_free(zb_buf *b) {
    zb_heap_resize(b->p, 0);
    *b = (zb_buf){.limit = b->limit};
}

void zb_buf_clear(zb_buf *b) {
    b->n = 0;
    b->overflow = false;
    if (b->p) b->p[0] = 0;
}

static bool buf_reserve(zb_buf *b, size_t more) {
    if (b->overflow || more > b->limit || b->n > b->limit - more) {
        b->overflow = true;
        return false;
    }
    if (b->n + more + 1 > b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 256;
        while (cap < b->n + more + 1) cap *= 2;
        b->p = zb_heap_resize(b->p, cap);
        b->cap = cap;
    }
    return true;
}

void zb_buf_add(zb_buf *b, const void *bytes, size_t n) {
    if (!buf_reserve(b, n)) return;
    if (n) memcpy(b->p + b->n, bytes, n);
    b->n += n;
    b->p[b->n] = 0;
}

void zb_buf_adds(zb_buf *b, const char *s) { zb_buf_add(b, s, strlen(s)); }
void zb_buf_addc(zb_buf *b, char c) { zb_buf_add(b, &c, 1); }

void zb_buf_addf(zb_buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n >= 0 && buf_reserve(b, (size_t)n)) {
        vsnprintf(b->p + b->n, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
}

zb_str zb_buf_str(const zb_buf *b) { return (zb_str){b->p ? b->p : "", b->n}; }

size_t zb_utf8_decode(const char *s, size_t n, uint32_t *cp) {
    const unsigned char *u = (const unsigned char *)s;
    if (n == 0) return 0;
    if (u[0] < 0x80) {
        *cp = u[0];
        return 1;
    }
    size_t len = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2;
    if (u[0] < 0xC2 || u[0] > 0xF4 || n < len) return 0;
    uint32_t c = u[0] & (0x7Fu >> len);
    for (size_t i = 1; i < len; i++) {
        if ((u[i] & 0xC0) != 0x80) return 0;
        c = c << 6 | (u[i] & 0x3F);
    }
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) return 0;
    *cp = c;
    return len;
}

size_t zb_utf8_encode(uint32_t c, char out[4]) {
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t len = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = len - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)((0xF00u >> len) | c);
    return len;
}

size_t zb_utf8_length(const char *s, size_t n) {
    size_t count = 0;
    uint32_t cp;
    for (size_t i = 0; i < n; count++) {
        size_t len = zb_utf8_decode(s + i, n - i, &cp);
        i += len ? len : 1;
    }
    return count;
}

size_t zb_utf8_complete(const char *s, size_t n) {
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        unsigned char c = (unsigned char)s[n - back];
        if (c < 0x80) return n;
        if (c >= 0xC0) {
            size_t len = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
            return len > back ? n - back : n;
        }
    }
    return n;
}

/* Bytes at s[0..n), at least one, that begin a code point which does not go on behind them. */
static size_t broken_piece(const char *s, size_t n) {
    const unsigned char *u = (const unsigned char *)s;
    if (u[0] < 0xC2 || u[0] > 0xF4) return 1;
    size_t len = u[0] >= 0xF0 ? 4 : u[0] >= 0xE0 ? 3 : 2, k = 1;
    /* the second byte excludes overlong forms, surrogates and what lies beyond the last plane */
    unsigned low = u[0] == 0xE0 ? 0xA0 : u[0] == 0xF0 ? 0x90 : 0x80;
    unsigned high = u[0] == 0xED ? 0x9F : u[0] == 0xF4 ? 0x8F : 0xBF;
    for (; k < len && k < n && u[k] >= low && u[k] <= high; k++) low = 0x80, high = 0xBF;
    return k;
}

void zb_utf8_lossy(zb_buf *out, const char *s, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        size_t len = zb_utf8_decode(s + i, n - i, &cp);
        if (len)
            zb_buf_add(out, s + i, len);
        else
            zb_buf_adds(out, "\xef\xbf\xbd");
        i += len ? len : broken_piece(s + i, n - i);
    }
}

bool zb_parse_i64(const char *s, int64_t *out) {
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (*s == 0 || is_space(*s) || *end != 0 || errno != 0) return false;
    *out = v;
    return true;
}

bool zb_parse_f64(const char *s, double *out) {
    char *end;
    errno = 0;
    double v = strtod(s, &end); /* also knows hexadecimal, inf and nan, which are no numbers here */
    if (*s == 0 || is_space(*s) || *end != 0 || s[strspn(s, "+-.0123456789eE")] != 0) return false;
    if (errno == ERANGE && (v > 1 || v < -1))
        return false; /* too large; too small is as good as zero */
    *out = v;
    return true;
}

bool zb_parse_bytes(const char *s, uint64_t *out) {
    static const char units[] = "KMGT";
    char number[64];
    size_t n = strspn(s, "0123456789.");
    double value;
    if (n >= sizeof number) return false;
    memcpy(number, s, n);
    number[n] = 0;
    if (!zb_parse_f64(number, &value)) return false;
    const char *end = s + n, *unit = *end ? strchr(units, *end) : NULL;
    for (const char *u = units; unit && u <= unit; u++) value *= 1024;
    if (unit) end++;
    if (unit && !strcmp(end, "iB")) end += 2;
    if (*end == 'B') end++;
    if (*end || value >= 0x1p63) return false;
    *out = (uint64_t)value;
    return true;
}

int zb_edit_distance(const char *a, const char *b) {
    int row[64], la = (int)strlen(a), lb = (int)strlen(b);
    if (la > 60 || lb > 60) return 99;
    for (int j = 0; j <= lb; j++) row[j] = j;
    for (int i = 1; i <= la; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= lb; j++) {
            int up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[lb];
}

char *zb_digest(zb_arena *a, const char *text) {
    uint64_t h = 0xcbf29ce484222325u;
    for (const char *p = text; *p; p++) h = (h ^ (unsigned char)*p) * 0x100000001b3u;
    return zb_asprintf(a, "%016" PRIx64, h);
}
