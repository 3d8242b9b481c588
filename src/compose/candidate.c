/* candidate.c - the words of candidate.h. */
#include "compose/candidate.h"

#include "base/opts.h"

#include <string.h>

enum { SIZE_LARGEST = 1 << 20 };

/* "51+24" or "51" */
static bool parse_sizes(zb_candidate *c, const char *text, zb_arena *a) {
    char *first = zb_strdup(a, text), *plus = strchr(first, '+');
    int64_t size, more = -1;
    if (plus) *plus = 0;
    if (!zb_parse_i64(first, &size) || size < 1 || size > SIZE_LARGEST) return false;
    if (plus && (!zb_parse_i64(plus + 1, &more) || more < 0 || more > SIZE_LARGEST)) return false;
    c->size = (int)size;
    c->more = (int)more;
    return true;
}

zb_status zb_candidate_parse(zb_candidate *c, const char *text, const char *where, zb_arena *a,
                             zb_err *err) {
    char *word = zb_strdup(a, text), *from = strchr(word, '='), *sizes;
    *c = (zb_candidate){.name = zb_strdup(a, text), .more = -1};
    if (from) {
        *from = 0;
        c->from = from + 1;
    }
    sizes = strchr(word, ':');
    if (sizes) *sizes++ = 0;
    bool probe = !strcmp(word, "zero") || !strcmp(word, "linear");
    if (probe) c->what = strcmp(word, "zero") ? ZB_CANDIDATE_LINEAR : ZB_CANDIDATE_ZERO;
    if (!probe && !zb_kind_find(word, &c->kind))
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected a kind of layer, found \"%.60s\"", where,
                       text);
    if (from && (probe || sizes || !*c->from))
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected KIND=FOLDER, found \"%.60s\"", where,
                       text);
    if (from) return ZB_OK;
    bool sized = !probe && (c->kind == ZB_MLA || zb_kind_has_window(c->kind));
    if (sizes && (!sized || !parse_sizes(c, sizes, a)))
        return zb_fail(err, ZB_ERR_CONFIG, "%s: %s: expected %s, found \"%.60s\"", where, word,
                       !sized              ? "no sizes"
                       : c->kind == ZB_MLA ? "RANK+ROTARY"
                                           : "WINDOW+SINKS",
                       text);
    if (!probe && c->kind == ZB_MLA && (!c->size || c->more < 2 || c->more % 2))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: expected mla:RANK+ROTARY with an even rotary size, found \"%.60s\"",
                       where, text);
    return ZB_OK;
}

zb_status zb_candidates_parse(zb_candidate *list, int max, int *n, const char *text,
                              const char *where, zb_arena *a, zb_err *err) {
    int words;
    char **word = zb_list_split(text, a, &words);
    *n = 0;
    if (words < 1 || words > max)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected 1 to %d candidates, found %d", where, max,
                       words);
    for (int i = 0; i < words; i++) {
        ZB_TRY(zb_candidate_parse(&list[i], word[i], where, a, err));
        for (int k = 0; k < i; k++)
            if (!strcmp(list[k].name, list[i].name))
                return zb_fail(err, ZB_ERR_CONFIG, "%s: %.60s is listed twice", where,
                               list[i].name);
        (*n)++;
    }
    return ZB_OK;
}
