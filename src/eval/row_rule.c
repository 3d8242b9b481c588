/* row_rule.c - further fields of data rows (contract in row_rule.h).
 *
 *   hellaswag    query, choices, gold (lm_eval/tasks/hellaswag/utils.py)
 *   race         history: the article's problems but the last, with their answers; last: the last
 *                problem (lm_eval/tasks/race/preprocess_race.py)
 *   race_pinned  the same as the harness had it in 2023, when a gap's question kept only its last
 *                five characters; the published tables were made so
 *   wikitext     text: the page without the tokeniser's blanks (tasks/wikitext)
 *   ones_first   no field; refuses a row whose mc2 labels are not ones before zeros: the harness
 *                of 2023 scored such rows differently */
#include "eval/row_rule.h"

#include "base/json.h"
#include "eval/python_literal.h"
#include "eval/template.h"
#include "eval/text_rule.h"

#include <string.h>

enum { TEXT_MAX = 1 << 24 };

static zb_status get_text(const json_t *row, const char *key, const char *where, zb_str *out,
                          zb_err *err) {
    const json_t *v = NULL;
    *out = (zb_str){"", 0};
    ZB_TRY(zb_template_lookup(row, key, where, &v, err));
    if (!json_is_string(v))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: field \"%s\": expected a string, found %s", where,
                       key, zb_json_type(v));
    *out = (zb_str){json_string_value(v), json_string_length(v)};
    return ZB_OK;
}

static json_t *json_text(zb_str s) { return json_stringn(s.n ? s.p : "", s.n); }

static zb_str applied(const char *rule, zb_str text, zb_arena *a) {
    zb_text_rule_find(zb_str_from(rule))->apply(text, ZB_STR(""), a, &text);
    return text;
}

static zb_status hellaswag(json_t *row, const char *where, zb_arena *a, zb_err *err) {
    zb_str activity = {0}, head = {0}, tail = {0}, label = {0};
    json_t *endings = NULL, *choices;
    ZB_TRY(get_text(row, "activity_label", where, &activity, err));
    ZB_TRY(get_text(row, "ctx_a", where, &head, err));
    ZB_TRY(get_text(row, "ctx_b", where, &tail, err));
    ZB_TRY(get_text(row, "label", where, &label, err));
    ZB_TRY(zb_json_array(row, where, "endings", true, &endings, err));
    tail = applied("capitalize", tail, a);
    const char *query = zb_asprintf(a, "%.*s: %.*s %.*s", (int)activity.n, activity.p, (int)head.n,
                                    head.p, (int)tail.n, tail.p);
    size_t i;
    json_t *v;
    json_object_set_new(row, "query", json_text(applied("hellaswag", zb_str_from(query), a)));
    json_object_set_new(row, "choices", choices = json_array());
    json_array_foreach(endings, i, v) {
        if (!json_is_string(v))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: field \"endings\": expected strings", where);
        zb_str text = {json_string_value(v), json_string_length(v)};
        json_array_append_new(choices, json_text(applied("hellaswag", text, a)));
    }
    int64_t gold;
    if (!zb_parse_i64(zb_strndup(a, label.p, label.n), &gold))
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: field \"label\": expected an integer, found "
                       "\"%.40s\"",
                       where, label.p);
    json_object_set_new(row, "gold", json_integer(gold));
    return ZB_OK;
}

/* A problem's question and the text of its right option. */
static zb_status race_problem(const json_t *problem, const char *where, zb_str *question,
                              zb_str *answer, zb_err *err) {
    zb_str letter = {0};
    if (!json_is_object(problem))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: field \"problems\": expected dictionaries", where);
    ZB_TRY(get_text(problem, "question", where, question, err));
    ZB_TRY(get_text(problem, "answer", where, &letter, err));
    if (letter.n != 1 || letter.p[0] < 'A' || letter.p[0] > 'D')
        return zb_fail(err, ZB_ERR_FORMAT, "%s: field \"answer\": expected A to D, found \"%.40s\"",
                       where, letter.p);
    const char *key =
        (const char *[]){"options.0", "options.1", "options.2", "options.3"}[letter.p[0] - 'A'];
    return get_text(problem, key, where, answer, err);
}

static zb_status race_history(const json_t *problems, size_t n, bool pinned, const char *where,
                              zb_buf *out, zb_err *err) {
    for (size_t i = 0; i < n; i++) {
        zb_str q = {0}, answer = {0};
        ZB_TRY(race_problem(json_array_get(problems, i), where, &q, &answer, err));
        if (zb_str_ends(q, ZB_STR("  _  ."))) {
            zb_buf_add(out, pinned ? q.p + q.n - 5 : q.p, pinned ? 5 : q.n - 5);
            zb_buf_addf(out, "%.*s\n", (int)answer.n, answer.p);
        } else {
            zb_buf_addf(out, "Question: %.*s\nAnswer: %.*s\n", (int)q.n, q.p, (int)answer.n,
                        answer.p);
        }
    }
    return ZB_OK;
}

static zb_status race_fields(json_t *row, bool pinned, const char *where, zb_err *err) {
    zb_str text = {0}, question, answer;
    json_t *problems = NULL;
    ZB_TRY(get_text(row, "problems", where, &text, err));
    ZB_TRY(zb_python_literal_parse(text, where, &problems, err));
    size_t n = json_array_size(problems);
    zb_buf history;
    zb_buf_init(&history, TEXT_MAX);
    zb_status s =
        n ? ZB_OK
          : zb_fail(err, ZB_ERR_FORMAT, "%s: field \"problems\": expected at least one", where);
    json_t *last = n ? json_array_get(problems, n - 1) : NULL;
    if (s == ZB_OK) s = race_problem(last, where, &question, &answer, err);
    if (s == ZB_OK) s = race_history(problems, n - 1, pinned, where, &history, err);
    if (s == ZB_OK) {
        json_object_set_new(row, "history", json_text(zb_buf_str(&history)));
        json_object_set(row, "last", last);
    }
    zb_buf_free(&history);
    json_decref(problems);
    return s;
}

static zb_status race(json_t *row, const char *where, zb_arena *a, zb_err *err) {
    (void)a;
    return race_fields(row, false, where, err);
}

static zb_status race_pinned(json_t *row, const char *where, zb_arena *a, zb_err *err) {
    (void)a;
    return race_fields(row, true, where, err);
}

static zb_str replaced(zb_str in, const char *from, const char *to, zb_arena *a) {
    size_t f = strlen(from), t = strlen(to), n = 0;
    char *p = zb_alloc(a, in.n * (t > f ? t : 1) + 1);
    for (size_t i = 0; i < in.n;) {
        if (in.n - i >= f && !memcmp(in.p + i, from, f)) {
            for (size_t k = 0; k < t; k++) p[n++] = to[k];
            i += f;
        } else {
            p[n++] = in.p[i++];
        }
    }
    return (zb_str){p, n};
}

/* White space just inside a pair of marks goes: "( a )" becomes "(a)". */
static zb_str tightened(zb_str in, char open, char close, zb_arena *a) {
    char *p = zb_alloc(a, in.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < in.n;) {
        p[n++] = in.p[i];
        if (in.p[i++] != open) continue;
        const char *end = memchr(in.p + i, close, in.n - i);
        if (!end) continue;
        zb_str inner = applied("strip", (zb_str){in.p + i, (size_t)(end - in.p) - i}, a);
        if (inner.n) memcpy(p + n, inner.p, inner.n);
        n += inner.n;
        p[n++] = close;
        i = (size_t)(end - in.p) + 1;
    }
    return (zb_str){p, n};
}

static zb_status wikitext(json_t *row, const char *where, zb_arena *a, zb_err *err) {
    static const char *const first[][2] = {{"s '", "s'"}},
                             *const middle[][2] = {{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."},
                                                   {" : ", ": "},  {" ; ", "; "},  {" . ", ". "},
                                                   {" ! ", "! "},  {" ? ", "? "},  {" , ", ", "}},
                             *const last[][2] = {{"= = = =", "===="}, {"= = =", "==="},
                                                 {"= =", "=="},       {" \xc2\xb0 ", "\xc2\xb0"},
                                                 {" \n", "\n"},       {"\n ", "\n"},
                                                 {" N ", " 1 "},      {" 's", "'s"}};
    static const char digit[] = "0123456789";
    zb_str s = {0};
    ZB_TRY(get_text(row, "page", where, &s, err));
    s = replaced(s, first[0][0], first[0][1], a);
    /* The harness's own replacement, a pattern where a digit was meant, is kept. */
    for (int i = 0; digit[i]; i++)
        s = replaced(s, zb_asprintf(a, "/' %c/", digit[i]), "/'[0-9]/", a);
    for (size_t i = 0; i < sizeof middle / sizeof middle[0]; i++)
        s = replaced(s, middle[i][0], middle[i][1], a);
    s = tightened(s, '(', ')', a);
    s = tightened(s, '[', ']', a);
    s = tightened(s, '{', '}', a);
    s = tightened(s, '"', '"', a);
    s = tightened(s, '\'', '\'', a);
    for (size_t i = 0; i < sizeof last / sizeof last[0]; i++)
        s = replaced(s, last[i][0], last[i][1], a);
    json_object_set_new(row, "text", json_text(s));
    return ZB_OK;
}

static zb_status ones_first(json_t *row, const char *where, zb_arena *a, zb_err *err) {
    (void)a;
    const json_t *labels = NULL;
    ZB_TRY(zb_template_lookup(row, "mc2_targets.labels", where, &labels, err));
    for (size_t i = 1; i < json_array_size(labels); i++)
        if (json_integer_value(json_array_get(labels, i)) >
            json_integer_value(json_array_get(labels, i - 1)))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: field \"mc2_targets.labels\": expected ones before zeros", where);
    return ZB_OK;
}

static const zb_row_rule rules[] = {
    {"hellaswag", true, hellaswag},      {"race", false, race},
    {"race_pinned", false, race_pinned}, {"wikitext", false, wikitext},
    {"ones_first", false, ones_first},
};

const zb_row_rule *zb_row_rule_find(const char *name) {
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (!strcmp(rules[i].name, name)) return &rules[i];
    return NULL;
}

const char *zb_row_rule_names(void) {
    return "hellaswag, race, race_pinned, wikitext or ones_first";
}
