/* label.c - numbers with units and cleaned strings (contract in label.h). */
#include "report/label.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char dash[] = "\xe2\x80\x93"; /* U+2013 */
static const char bad[] = "\xef\xbf\xbd";  /* U+FFFD */

static void scaled(double x, double base, const char *const *unit, int n, char out[ZB_LABEL]) {
    if (isnan(x) || x < 0) {
        snprintf(out, ZB_LABEL, "%s", dash);
        return;
    }
    int k = 0;
    /* 999.95 would be printed as 1000.0 of the smaller unit */
    while (k + 1 < n && x >= (k ? base - 0.05 : base)) {
        x /= base;
        k++;
    }
    snprintf(out, ZB_LABEL, k || x != floor(x) ? "%.1f%s" : "%.0f%s", x, unit[k]);
}

void zb_label_count(double x, char out[ZB_LABEL]) {
    static const char *const unit[] = {"", " k", " M", " B"};
    scaled(x, 1000, unit, 4, out);
}

void zb_label_bytes(double x, char out[ZB_LABEL]) {
    static const char *const unit[] = {" B", " KiB", " MiB", " GiB", " TiB"};
    scaled(x, 1024, unit, 5, out);
}

void zb_label_seconds(double x, char out[ZB_LABEL]) {
    if (isnan(x) || x < 0)
        snprintf(out, ZB_LABEL, "%s", dash);
    else if (x < 9.95)
        snprintf(out, ZB_LABEL, "%.1f s", x);
    else if (x < 90)
        snprintf(out, ZB_LABEL, "%.0f s", x);
    else if (x < 5400)
        snprintf(out, ZB_LABEL, "%.1f min", x / 60);
    else
        snprintf(out, ZB_LABEL, "%.1f h", x / 3600);
}

void zb_label_ratio(double x, char out[ZB_LABEL]) {
    if (!isfinite(x))
        snprintf(out, ZB_LABEL, "%s", dash);
    else if (fabs(x) < 0.1)
        snprintf(out, ZB_LABEL, "%.3f", x);
    else if (fabs(x) < 10)
        snprintf(out, ZB_LABEL, "%.2f", x);
    else if (fabs(x) < 100)
        snprintf(out, ZB_LABEL, "%.1f", x);
    else
        snprintf(out, ZB_LABEL, "%.0f", x);
}

/* The next character of s[0..n): its length, at least 1, and whether it may be written as it is. */
static size_t next(const char *s, size_t n, uint32_t *cp, bool *fine) {
    size_t k = zb_utf8_decode(s, n, cp);
    bool noncharacter = k && (*cp & 0xfffe) == 0xfffe;
    bool control = k && (*cp < 32 || (*cp >= 0x7f && *cp < 0xa0));
    *fine = k && !noncharacter && (!control || *cp == '\n' || *cp == '\t');
    return k ? k : 1;
}

void zb_label_text(zb_buf *out, const char *s, size_t n) {
    for (size_t i = 0, k; i < n; i += k) {
        uint32_t cp;
        bool fine;
        k = next(s + i, n - i, &cp, &fine);
        if (fine)
            zb_buf_add(out, s + i, k);
        else
            zb_buf_adds(out, bad);
    }
}

void zb_label_html(zb_buf *out, const char *s, size_t n) {
    for (size_t i = 0, k; i < n; i += k) {
        uint32_t cp;
        bool fine;
        k = next(s + i, n - i, &cp, &fine);
        if (!fine)
            zb_buf_adds(out, bad);
        else if (cp == '&')
            zb_buf_adds(out, "&amp;");
        else if (cp == '<')
            zb_buf_adds(out, "&lt;");
        else if (cp == '>')
            zb_buf_adds(out, "&gt;");
        else if (cp == '"')
            zb_buf_adds(out, "&quot;");
        else if (cp == '\'')
            zb_buf_adds(out, "&#39;");
        else
            zb_buf_add(out, s + i, k);
    }
}

char *zb_label_cell(zb_arena *a, const char *s) {
    size_t n = strlen(s), at = 0;
    char *out = zb_alloc(a, n * 3 + 1); /* a bad byte becomes three */
    for (size_t i = 0, k; i < n; i += k) {
        uint32_t cp;
        bool fine;
        k = next(s + i, n - i, &cp, &fine);
        if (!fine) {
            memcpy(out + at, bad, sizeof bad - 1);
            at += sizeof bad - 1;
        } else if (k == 1) {
            out[at++] = strchr("|<>`\\\n\t", s[i]) ? '/' : s[i];
        } else {
            memcpy(out + at, s + i, k);
            at += k;
        }
    }
    return out;
}

char *zb_label_plot(zb_arena *a, const char *s, size_t max) {
    size_t n = strlen(s), at = 0, count = 0;
    char *out = zb_alloc(a, n + 1);
    for (size_t i = 0, k; i < n && count < max; i += k, count++) {
        uint32_t cp;
        bool fine;
        k = next(s + i, n - i, &cp, &fine);
        bool letter =
            (cp >= '0' && cp <= '9') || (cp >= 'a' && cp <= 'z') || (cp >= 'A' && cp <= 'Z');
        bool keep = fine && (k > 1 || letter || strchr(" _.-+()/:%", s[i]));
        if (keep) memcpy(out + at, s + i, k);
        if (!keep) out[at] = '_';
        at += keep ? k : 1;
    }
    return out;
}
