/* filter.h - what of a generated text is compared with the answer, and how.
 *
 * A filter takes one match of a regular expression out of a text, as the harness's regex filter
 * does with Python's findall; an exact match compares two texts after removing patterns from both.
 * Patterns are PCRE2's, which agree with Python's re on what task files need. Compiled patterns
 * live in the arena; texts are compared by one thread at a time. */
#ifndef ZB_EVAL_FILTER_H
#define ZB_EVAL_FILTER_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"

typedef struct zb_filter {
    const char *name, *pattern;
    bool last;  /* the last match, else the first */
    void *code; /* compiled */
} zb_filter;

/* `where` starts the message of an error. */
zb_status zb_filter_compile(const char *name, const char *pattern, bool last, const char *where,
                            zb_arena *a, zb_filter *out, zb_err *err);

/* The match: its first group that took part and is not empty, or all of it if the pattern has no
 * groups, stripped; "[invalid]" without a match. */
zb_str zb_filter_apply(const zb_filter *f, zb_str text, zb_arena *a);

typedef struct zb_exact_match {
    void **code; /* patterns whose matches are removed, in this order */
    int n;
    bool ignore_case;
} zb_exact_match;

zb_status zb_exact_match_compile(const char *const *pattern, int n, bool ignore_case,
                                 const char *where, zb_arena *a, zb_exact_match *out, zb_err *err);
bool zb_exact_match_test(const zb_exact_match *m, zb_str a, zb_str b, zb_arena *scratch);

#endif
