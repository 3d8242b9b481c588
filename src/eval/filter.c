/* filter.c - regular expressions on generated texts (contract in filter.h; source: the harness's
 * filters/extraction.py and exact_match of api/metrics.py).
 *
 * PCRE2 takes its memory from the arena, so nothing has to be freed. A generated text may be
 * hostile to a pattern: the match limit makes a search that backtracks without end a miss. */
#include "eval/filter.h"

#include "eval/text_rule.h"

#include <string.h>
#include <utf8proc.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

enum { MATCH_LIMIT = 1000000, GROUPS_MAX = 32 };

static void *take(PCRE2_SIZE n, void *arena) { return zb_alloc(arena, n ? n : 1); }

static void leave(void *p, void *arena) { (void)p, (void)arena; }

static zb_status compile(const char *pattern, const char *where, zb_arena *a, void **out,
                         zb_err *err) {
    pcre2_general_context *memory = pcre2_general_context_create(take, leave, a);
    pcre2_compile_context *context = pcre2_compile_context_create(memory);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int code;
    PCRE2_SIZE at;
    *out =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, context);
    if (*out) return ZB_OK;
    char why[160];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return zb_fail(err, ZB_ERR_CONFIG, "%s: \"%.80s\" is no regular expression: %s (at byte %zu)",
                   where, pattern, why, at);
}

zb_status zb_filter_compile(const char *name, const char *pattern, bool last, const char *where,
                            zb_arena *a, zb_filter *out, zb_err *err) {
    *out = (zb_filter){.name = zb_strdup(a, name), .pattern = zb_strdup(a, pattern), .last = last};
    return compile(pattern, where, a, &out->code, err);
}

/* One search from *at; moves *at behind the match (past one character after an empty one). */
static bool search(const void *code, zb_str text, size_t *at, pcre2_match_data *found,
                   pcre2_match_context *limits) {
    if (*at > text.n) return false;
    if (pcre2_match(code, (PCRE2_SPTR)text.p, text.n, *at, 0, found, limits) < 1) return false;
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(found);
    *at = range[1];
    if (range[1] > range[0]) return true;
    do ++*at;
    while (*at < text.n && ((unsigned char)text.p[*at] & 0xc0) == 0x80);
    return true;
}

typedef struct work {
    pcre2_match_data *found;
    pcre2_match_context *limits;
} work;

static work make_work(const void *code, zb_arena *a) {
    pcre2_general_context *memory = pcre2_general_context_create(take, leave, a);
    work w = {pcre2_match_data_create_from_pattern(code, memory),
              pcre2_match_context_create(memory)};
    pcre2_set_match_limit(w.limits, MATCH_LIMIT);
    return w;
}

/* What Python's findall lists for this match, of several groups the first with text. */
static zb_str chosen(zb_str text, const pcre2_match_data *found) {
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer((pcre2_match_data *)found);
    uint32_t groups = pcre2_get_ovector_count((pcre2_match_data *)found);
    if (groups == 1) return (zb_str){text.p + range[0], range[1] - range[0]};
    for (uint32_t i = 1; i < groups; i++)
        if (range[2 * i] != PCRE2_UNSET && range[2 * i + 1] > range[2 * i])
            return (zb_str){text.p + range[2 * i], range[2 * i + 1] - range[2 * i]};
    return (zb_str){text.p, 0};
}

zb_str zb_filter_apply(const zb_filter *f, zb_str text, zb_arena *a) {
    work w = make_work(f->code, a);
    size_t at = 0;
    bool any = false;
    zb_str best = {NULL, 0};
    while (search(f->code, text, &at, w.found, w.limits)) {
        best = chosen(text, w.found);
        any = true;
        if (!f->last) break;
    }
    /* With one group an empty match stays empty, with several it counts as none. */
    if (!any || (best.n == 0 && pcre2_get_ovector_count(w.found) > 2)) return ZB_STR("[invalid]");
    zb_text_rule_find(ZB_STR("strip"))->apply(best, ZB_STR(""), a, &best);
    return best;
}

zb_status zb_exact_match_compile(const char *const *pattern, int n, bool ignore_case,
                                 const char *where, zb_arena *a, zb_exact_match *out, zb_err *err) {
    *out = (zb_exact_match){
        .code = ZB_NEW_ARRAY(a, void *, n + 1), .n = n, .ignore_case = ignore_case};
    for (int i = 0; i < n; i++) ZB_TRY(compile(pattern[i], where, a, &out->code[i], err));
    return ZB_OK;
}

static zb_str without(const void *code, zb_str text, zb_arena *a) {
    work w = make_work(code, a);
    char *p = zb_alloc(a, text.n + 1);
    size_t at = 0, from = 0, n = 0;
    while (search(code, text, &at, w.found, w.limits)) {
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(w.found);
        memcpy(p + n, text.p + from, range[0] - from);
        n += range[0] - from;
        from = range[1];
    }
    memcpy(p + n, text.p + from, text.n - from);
    return (zb_str){p, n + text.n - from};
}

static zb_str lower(zb_str text, zb_arena *a) {
    char *p = zb_alloc_array(a, text.n + 1, 4);
    size_t n = 0;
    for (size_t i = 0; i < text.n;) {
        uint32_t c;
        size_t k = zb_utf8_decode(text.p + i, text.n - i, &c);
        if (k)
            n += zb_utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)c), p + n);
        else
            p[n++] = text.p[i];
        i += k ? k : 1;
    }
    return (zb_str){p, n};
}

bool zb_exact_match_test(const zb_exact_match *m, zb_str a, zb_str b, zb_arena *scratch) {
    zb_mark mark = zb_arena_mark(scratch);
    for (int i = 0; i < m->n; i++) {
        a = without(m->code[i], a, scratch);
        b = without(m->code[i], b, scratch);
    }
    if (m->ignore_case) {
        a = lower(a, scratch);
        b = lower(b, scratch);
    }
    bool same = zb_str_eq(a, b);
    zb_arena_pop(scratch, mark);
    return same;
}
