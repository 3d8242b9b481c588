/* tokenizer_split.c - pre-tokenizer patterns (contract in tokenizer_split.h).
 *
 * The patterns in tokenizer.json are written for the Oniguruma engine (Ruby syntax). PCRE2 reads
 * the same text with the same meaning for a subset, and `translate` accepts just that subset:
 * Unicode properties, classes, groups, repetition, look-around. What the two engines read
 * differently is either rewritten (\s: PCRE2 counts U+180E in, Unicode no longer does; names of
 * scripts: PCRE2 adds what those share with others; {,n}: PCRE2 reads it as text) or refused by
 * name (a sign behind an interval, flags in the middle); a tokenizer that splits a little
 * differently would be worse than none.
 *
 * A pattern comes from a file and may be hostile: its length is limited, and each match may take a
 * number of steps in proportion to the text (a well-behaved pattern looks at each character a few
 * times). */
#include "format/tokenizer_split.h"

#include "base/json.h"

#include <string.h>

/* GPT-2 (Radford et al. 2019, the published encoder), Llama 3 and Qwen2 (their tokenizer.json). */
const char zb_pattern_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char zb_pattern_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
                                 "{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
                                 "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char zb_pattern_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
                                " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
                                "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

enum { PATTERN_MAX = 4096, PARENS_MAX = 50 };

/* White_Space as the inside of a class. */
static const char space_class[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}"
    "\\x{202f}\\x{205f}\\x{3000}";

static zb_status refuse(const char *where, zb_str what, size_t at, zb_err *err) {
    return zb_fail(
        err, ZB_ERR_UNSUPPORTED,
        "%s: pattern, byte %zu: \"%.*s\" is not in the supported subset of regular expressions",
        where, at, (int)(what.n < 40 ? what.n : 40), what.p);
}

/* Is it the name of a script? Only PCRE2 itself knows them all. */
static bool is_script(zb_str name) {
    char pattern[64];
    int code;
    PCRE2_SIZE at;
    if (name.n > 40) return false;
    snprintf(pattern, sizeof pattern, "\\p{sc:%.*s}", (int)name.n, name.p);
    pcre2_code *made =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    pcre2_code_free(made);
    return made != NULL;
}

/* Behind \p, \P or \x: {name}, moving *i behind it; nothing where no brace follows. Characters
 * that several scripts use belong to PCRE2's \p{Han}, but not to Oniguruma's. */
static void translate_braces(zb_str p, size_t *i, zb_buf *out) {
    size_t start = *i, sign = start + 1 < p.n && p.p[start + 1] == '^' ? 1 : 0;
    const char *end =
        start < p.n && p.p[start] == '{' ? memchr(p.p + start, '}', p.n - start) : NULL;
    if (!end) return;
    zb_str name = {p.p + start + 1 + sign, (size_t)(end - p.p) - start - 1 - sign};
    zb_buf_adds(out, sign ? "{^" : "{");
    if (p.p[start - 1] != 'x' && is_script(name)) zb_buf_adds(out, "sc:");
    zb_buf_add(out, name.p, name.n);
    zb_buf_addc(out, '}');
    *i = (size_t)(end - p.p) + 1;
}

/* One escape at p[i] = '\\'; moves *i behind it. */
static zb_status translate_escape(zb_str p, size_t *i, bool in_class, zb_buf *out,
                                  const char *where, zb_err *err) {
    size_t at = *i;
    if (at + 1 >= p.n) return refuse(where, (zb_str){p.p + at, 1}, at, err);
    char c = p.p[at + 1];
    *i = at + 2;
    if (c == 's' || (c == 'S' && !in_class)) {
        if (!in_class) zb_buf_adds(out, c == 's' ? "[" : "[^");
        zb_buf_adds(out, space_class);
        if (!in_class) zb_buf_adds(out, "]");
        return ZB_OK;
    }
    bool punctuation =
        c > ' ' && c < 127 && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z');
    if (!punctuation && (c == 0 || !strchr("pPdDrntfxu", c)))
        return refuse(where, (zb_str){p.p + at, 2}, at, err);
    if (c == 'u') { /* \uXXXX: PCRE2 writes \x{XXXX} */
        if (at + 6 > p.n) return refuse(where, (zb_str){p.p + at, p.n - at}, at, err);
        zb_buf_addf(out, "\\x{%.4s}", p.p + at + 2);
        *i = at + 6;
        return ZB_OK;
    }
    zb_buf_add(out, p.p + at, 2);
    if (c == 'p' || c == 'P' || c == 'x') translate_braces(p, i, out);
    return ZB_OK;
}

/* {n}, {n,}, {n,m} and {,m} at p[*i] = '{'; any other brace is text to both engines. A question
 * mark makes {n} optional there and lazy here, a plus repeats an interval there and makes it
 * possessive here. */
static zb_status translate_interval(zb_str p, size_t *i, zb_buf *out, const char *where,
                                    zb_err *err) {
    size_t at = *i, n = at + 1;
    while (n < p.n && p.p[n] >= '0' && p.p[n] <= '9') n++;
    size_t low = n - at - 1;
    bool exact = n >= p.n || p.p[n] != ',';
    if (!exact) n++;
    size_t high = n;
    while (!exact && n < p.n && p.p[n] >= '0' && p.p[n] <= '9') n++;
    bool interval = n < p.n && p.p[n] == '}' && (low || (!exact && n > high));
    if (!interval) {
        zb_buf_addc(out, '{');
        *i = at + 1;
        return ZB_OK;
    }
    n++;
    if (n < p.n && (p.p[n] == '+' || (exact && p.p[n] == '?')))
        return refuse(where, (zb_str){p.p + at, n + 1 - at}, at, err);
    zb_buf_adds(out, low ? "{" : "{0");
    zb_buf_add(out, p.p + at + 1, n - at - 1);
    *i = n;
    return ZB_OK;
}

/* "(?" at p[i]: what may follow. Flags are i alone (Ruby's m is another one), and those without a
 * group of their own stand first: further on they would take all that is left of the group, other
 * alternatives included, for one group there. */
static zb_status check_group(zb_str p, size_t i, const char *where, zb_err *err) {
    size_t n = i + 2;
    if (n < p.n && p.p[n] && strchr(":!=<>", p.p[n])) return ZB_OK;
    while (n < p.n && (p.p[n] == 'i' || p.p[n] == '-')) n++;
    bool flags = n > i + 2 && n < p.n && (p.p[n] == ':' || (p.p[n] == ')' && i == 0));
    size_t shown = n < p.n && zb_utf8_complete(p.p + i, n + 1 - i) == n + 1 - i ? n + 1 - i : n - i;
    return flags ? ZB_OK : refuse(where, (zb_str){p.p + i, shown}, i, err);
}

static zb_status translate(zb_str p, zb_buf *out, const char *where, zb_err *err) {
    bool in_class = false;
    for (size_t i = 0; i < p.n;) {
        char c = p.p[i];
        if (c == '\\') {
            ZB_TRY(translate_escape(p, &i, in_class, out, where, err));
            continue;
        }
        /* Sets of sets and intersections, verbs, callouts, recursion, named groups, comments. */
        if (in_class && (c == '[' || (c == '&' && i + 1 < p.n && p.p[i + 1] == '&')))
            return refuse(where, (zb_str){p.p + i, 1}, i, err);
        if (!in_class && c == '(' && i + 1 < p.n && p.p[i + 1] == '*')
            return refuse(where, (zb_str){p.p + i, 2}, i, err);
        if (!in_class && c == '(' && i + 1 < p.n && p.p[i + 1] == '?')
            ZB_TRY(check_group(p, i, where, err));
        if (!in_class && c == '{') {
            ZB_TRY(translate_interval(p, &i, out, where, err));
            continue;
        }
        if (!in_class && c == '[') { /* a first ']' would be a member, not the end */
            size_t first = i + 1 < p.n && p.p[i + 1] == '^' ? i + 2 : i + 1;
            if (first < p.n && p.p[first] == ']')
                return refuse(where, (zb_str){p.p + i, first + 1 - i}, i, err);
            in_class = true;
        }
        if (c == ']') in_class = false;
        zb_buf_addc(out, c);
        i++;
    }
    return ZB_OK;
}

static zb_status compile_with(pcre2_compile_context *context, zb_str pattern, pcre2_code **out,
                              const char *where, zb_err *err) {
    int code;
    PCRE2_SIZE at;
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(context, PARENS_MAX);
    *out = pcre2_compile((PCRE2_SPTR)pattern.p, pattern.n,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &code,
                         &at, context);
    if (!*out) {
        char why[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: the pattern is no regular expression: %s (at byte %zu)", where, why,
                       at);
    }
    /* Without a JIT on this machine the interpreter does the same, slower. */
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);
    return ZB_OK;
}

static zb_status compile(zb_str pattern, pcre2_code **out, const char *where, zb_err *err) {
    if (pattern.n > PATTERN_MAX)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: pattern of %zu bytes: expected at most %d",
                       where, pattern.n, PATTERN_MAX);
    zb_buf text;
    zb_buf_init(&text, PATTERN_MAX * sizeof space_class + 1);
    zb_status s = translate(pattern, &text, where, err);
    pcre2_compile_context *context = s == ZB_OK ? pcre2_compile_context_create(NULL) : NULL;
    if (s == ZB_OK && !context)
        s = zb_fail(err, ZB_ERR_MEMORY, "%s: no memory for the pattern", where);
    if (s == ZB_OK) s = compile_with(context, zb_buf_str(&text), out, where, err);
    pcre2_compile_context_free(context);
    zb_buf_free(&text);
    return s;
}

static zb_status add_step(zb_splitter *s, zb_str pattern, bool keep_match, bool keep_gap,
                          const char *where, zb_err *err) {
    if (s->n_steps == ZB_SPLIT_STEPS_MAX)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: more than %d steps", where,
                       ZB_SPLIT_STEPS_MAX);
    pcre2_code *code;
    ZB_TRY(compile(pattern, &code, where, err));
    s->step[s->n_steps++] = (zb_split_step){code, keep_match, keep_gap};
    return ZB_OK;
}

static zb_status build_split(zb_splitter *s, const json_t *o, const char *where, zb_err *err) {
    json_t *pattern;
    const char *behavior;
    bool invert = false;
    ZB_TRY(zb_json_object(o, where, "pattern", true, &pattern, err));
    ZB_TRY(zb_json_str(o, where, "behavior", true, &behavior, err));
    ZB_TRY(zb_json_bool(o, where, "invert", false, &invert, err));
    const json_t *text = json_object_get(pattern, "Regex");
    if (!json_is_string(text))
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: key \"pattern\": expected an object with the string \"Regex\"", where);
    bool isolated = strcmp(behavior, "Isolated") == 0;
    if (!isolated && strcmp(behavior, "Removed") != 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: key \"behavior\": expected Isolated or Removed, found \"%.40s\"", where,
                       behavior);
    return add_step(s, (zb_str){json_string_value(text), json_string_length(text)},
                    isolated || invert, isolated || !invert, where, err);
}

static zb_status build_byte_level(zb_splitter *s, const json_t *o, const char *where, zb_err *err) {
    bool prefix = true, regex = true; /* the package's defaults */
    ZB_TRY(zb_json_bool(o, where, "add_prefix_space", false, &prefix, err));
    ZB_TRY(zb_json_bool(o, where, "use_regex", false, &regex, err));
    if (prefix)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: ByteLevel with add_prefix_space true (the default) is not supported",
                       where);
    s->byte_level = true;
    return regex ? add_step(s, zb_str_from(zb_pattern_gpt2), true, true, where, err) : ZB_OK;
}

static zb_status build_pre_tokenizer(zb_splitter *s, const json_t *o, const char *where, int depth,
                                     zb_err *err) {
    const char *type;
    if (!json_is_object(o))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                       zb_json_type(o));
    ZB_TRY(zb_json_str(o, where, "type", true, &type, err));
    if (s->byte_level)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: \"%.40s\" behind ByteLevel is not supported",
                       where, type);
    if (strcmp(type, "Split") == 0) return build_split(s, o, where, err);
    if (strcmp(type, "ByteLevel") == 0) return build_byte_level(s, o, where, err);
    if (strcmp(type, "Digits") == 0) {
        bool single = false;
        ZB_TRY(zb_json_bool(o, where, "individual_digits", false, &single, err));
        return add_step(s, single ? ZB_STR("\\p{N}") : ZB_STR("\\p{N}+"), true, true, where, err);
    }
    if (strcmp(type, "Sequence") != 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: type \"%.40s\": expected Sequence, Split, Digits or ByteLevel", where,
                       type);
    if (depth == 4)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: sequences nested too deeply", where);
    json_t *list, *item;
    size_t i;
    ZB_TRY(zb_json_array(o, where, "pretokenizers", true, &list, err));
    json_array_foreach(list, i, item) ZB_TRY(build_pre_tokenizer(s, item, where, depth + 1, err));
    return ZB_OK;
}

static zb_status build_normalizer(zb_splitter *s, const json_t *o, const char *where, int depth,
                                  zb_err *err) {
    static const char *const names[] = {"NFC", "NFD", "NFKC", "NFKD"}; /* by zb_normal_form */
    const char *type;
    if (!json_is_object(o))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                       zb_json_type(o));
    ZB_TRY(zb_json_str(o, where, "type", true, &type, err));
    for (int i = 0; i < 4; i++)
        if (strcmp(type, names[i]) == 0) {
            if (s->n_forms == ZB_SPLIT_STEPS_MAX)
                return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: more than %d steps", where,
                               ZB_SPLIT_STEPS_MAX);
            s->form[s->n_forms++] = (zb_normal_form)i;
            return ZB_OK;
        }
    if (strcmp(type, "Sequence") != 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: type \"%.40s\": expected Sequence, NFC, NFD, NFKC or NFKD", where,
                       type);
    if (depth == 4)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: sequences nested too deeply", where);
    json_t *list, *item;
    size_t i;
    ZB_TRY(zb_json_array(o, where, "normalizers", true, &list, err));
    json_array_foreach(list, i, item) ZB_TRY(build_normalizer(s, item, where, depth + 1, err));
    return ZB_OK;
}

zb_status zb_splitter_build(zb_splitter *s, const json_t *normalizer, const json_t *pre_tokenizer,
                            const char *where, zb_err *err) {
    *s = (zb_splitter){0};
    char place[256];
    snprintf(place, sizeof place, "%.200s: pre_tokenizer", where);
    if (!pre_tokenizer || json_is_null(pre_tokenizer))
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s is missing: expected one that ends in ByteLevel", place);
    ZB_TRY(build_pre_tokenizer(s, pre_tokenizer, place, 0, err));
    if (!s->byte_level)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: expected a chain that ends in ByteLevel",
                       place);
    snprintf(place, sizeof place, "%.200s: normalizer", where);
    if (!normalizer || json_is_null(normalizer)) return ZB_OK;
    return build_normalizer(s, normalizer, place, 0, err);
}

void zb_splitter_free(zb_splitter *s) {
    for (int i = 0; i < s->n_steps; i++) pcre2_code_free(s->step[i].code);
    *s = (zb_splitter){0};
}

zb_str zb_splitter_normalize(const zb_splitter *s, zb_str text, zb_arena *a) {
    for (int i = 0; i < s->n_forms; i++) text = zb_normalize(text, s->form[i], a);
    return text;
}

void zb_split_work_init(zb_split_work *w) {
    w->data = pcre2_match_data_create(1, NULL);
    w->context = pcre2_match_context_create(NULL);
}

void zb_split_work_free(zb_split_work *w) {
    pcre2_match_data_free(w->data);
    pcre2_match_context_free(w->context);
    *w = (zb_split_work){0};
}

/* The next match at or after `from`: 1 found, 0 none. */
static zb_status find(const zb_split_step *step, zb_split_work *w, zb_str text, size_t from,
                      size_t range[2], zb_err *err) {
    size_t left = text.n - from;
    uint32_t limit = left > 100000000 ? 1600010000u : (uint32_t)(10000 + 16 * left);
    pcre2_set_match_limit(w->context, limit);
    pcre2_set_depth_limit(w->context, limit);
    int n = pcre2_match(step->code, (PCRE2_SPTR)text.p, text.n, from, PCRE2_NO_UTF_CHECK, w->data,
                        w->context);
    if (n == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its stack on the heap */
        n = pcre2_match(step->code, (PCRE2_SPTR)text.p, text.n, from,
                        PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->data, w->context);
    if (n == PCRE2_ERROR_NOMATCH) {
        range[0] = range[1] = text.n;
        return ZB_OK;
    }
    if (n < 0) {
        char why[160];
        pcre2_get_error_message(n, (PCRE2_UCHAR *)why, sizeof why);
        return zb_fail(err, ZB_ERR_FORMAT,
                       "tokenizer: the pre-tokenizer's pattern gave up on a text of %zu bytes: %s",
                       text.n, why);
    }
    const PCRE2_SIZE *found = pcre2_get_ovector_pointer(w->data);
    range[0] = found[0];
    range[1] = found[1];
    return ZB_OK;
}

typedef struct sink {
    void (*piece)(void *ctx, zb_str text);
    void *ctx;
} sink;

static zb_status run_step(const zb_splitter *s, int step, zb_split_work *w, zb_str text,
                          const sink *to, zb_err *err) {
    if (text.n == 0) return ZB_OK;
    if (step == s->n_steps) {
        to->piece(to->ctx, text);
        return ZB_OK;
    }
    const zb_split_step *p = &s->step[step];
    size_t gap = 0; /* start of what no match has covered */
    for (size_t from = 0; from < text.n;) {
        size_t match[2] = {text.n, text.n};
        ZB_TRY(find(p, w, text, from, match, err));
        if (p->keep_gap)
            ZB_TRY(run_step(s, step + 1, w, (zb_str){text.p + gap, match[0] - gap}, to, err));
        if (p->keep_match)
            ZB_TRY(run_step(s, step + 1, w, (zb_str){text.p + match[0], match[1] - match[0]}, to,
                            err));
        gap = from = match[1];
        if (match[0] == match[1] &&
            from < text.n) { /* an empty match cuts, and the search goes on */
            uint32_t cp;
            from += zb_utf8_decode(text.p + from, text.n - from, &cp);
        }
    }
    if (gap < text.n && p->keep_gap)
        return run_step(s, step + 1, w, (zb_str){text.p + gap, text.n - gap}, to, err);
    return ZB_OK;
}

zb_status zb_splitter_run(const zb_splitter *s, zb_split_work *w, zb_str text,
                          void (*piece)(void *ctx, zb_str text), void *ctx, zb_err *err) {
    if (!w->data || !w->context)
        return zb_fail(err, ZB_ERR_MEMORY, "tokenizer: no memory to match patterns");
    sink to = {piece, ctx};
    return run_step(s, 0, w, text, &to, err);
}
