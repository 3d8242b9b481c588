/* recall_task.c - reading the file of a recall test (contract in recall_task.h).
 *
 * The keys are an option table, so types, bounds and unknown names are checked as everywhere. */
#include "eval/recall_task.h"

#include "base/file.h"
#include "base/opts.h"

#include <string.h>

#define FIELD(name) offsetof(zb_recall_task, name)
static const zb_opt table[] = {
    {ZB_OPT_CHOICE, "kind", 0, FIELD(kind), "needle", 0, 0, "needle|chain", "what is hidden"},
    {ZB_OPT_CHOICE, "haystack", 0, FIELD(haystack), "text", 0, 0, "noise|text|needles",
     "what it is hidden in"},
    {ZB_OPT_STR, "noise", 0, FIELD(noise), NULL, 0, 0, NULL, "the line that is repeated"},
    {ZB_OPT_CHOICE, "key", 0, FIELD(key), "words", 0, 0, "words|numbers|uuids", "form of keys"},
    {ZB_OPT_CHOICE, "value", 0, FIELD(value), "numbers", 0, 0, "words|numbers|uuids",
     "form of values"},
    {ZB_OPT_INT, "keys", 0, FIELD(keys), "1", 1, ZB_RECALL_NEEDLES_MAX, NULL, "hidden keys"},
    {ZB_OPT_INT, "values", 0, FIELD(values), "1", 1, ZB_RECALL_NEEDLES_MAX, NULL,
     "values of each key"},
    {ZB_OPT_INT, "queries", 0, FIELD(queries), "1", 1, ZB_RECALL_NEEDLES_MAX, NULL,
     "keys that are asked for"},
    {ZB_OPT_INT, "hops", 0, FIELD(hops), "4", 1, ZB_RECALL_NEEDLES_MAX - 1, NULL,
     "assignments behind the first"},
    {ZB_OPT_INT, "example", 0, FIELD(example), "0", 0, 1 << 16, NULL,
     "most tokens of a solved example"},
    {ZB_OPT_INT, "max_tokens", 0, FIELD(max_tokens), "128", 1, 4096, NULL,
     "tokens of a generated answer"},
    {ZB_OPT_STR, "needle", 0, FIELD(needle_text), NULL, 0, 0, NULL, "sentence that is hidden"},
    {ZB_OPT_STR, "prompt", 0, FIELD(prompt_text), NULL, 0, 0, NULL, "the whole question"},
    {ZB_OPT_STR, "answer", 0, FIELD(answer_text), NULL, 0, 0, NULL, "how the answer begins"},
    {ZB_OPT_STR, "lead", 0, FIELD(lead), " ", 0, 0, NULL, "before the first expected value"},
    {ZB_OPT_STR, "join", 0, FIELD(join), ", ", 0, 0, NULL, "between expected values"},
    {0},
};

/* A name becomes a file name: letters, digits, "_" and "-". */
static bool good_name(const char *name) {
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n > 0 && n <= 64 && !name[n];
}

static zb_status compile(const zb_recall_task *t, const char *key, const char *text, bool needed,
                         zb_arena *a, zb_template *out, zb_err *err) {
    if (!text && !needed) return ZB_OK;
    if (!text) return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the key \"%s\"", t->file, key);
    return zb_template_compile(text, zb_asprintf(a, "%s: %s", t->file, key), a, out, err);
}

static zb_status check(const zb_recall_task *t, zb_err *err) {
    bool needles = !strcmp(t->kind, "needle");
    if (!needles && strcmp(t->haystack, "noise") != 0)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: haystack: a chain stands in noise, found \"%s\"",
                       t->file, t->haystack);
    if (!strcmp(t->haystack, "noise") && (!t->noise || !*t->noise))
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected the key \"noise\"", t->file);
    if (t->queries > t->keys)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: queries: expected at most %lld (keys), found %lld",
                       t->file, (long long)t->keys, (long long)t->queries);
    if (t->keys * t->values > ZB_RECALL_NEEDLES_MAX)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected at most %d needles, found %lld", t->file,
                       ZB_RECALL_NEEDLES_MAX, (long long)(t->keys * t->values));
    return ZB_OK;
}

/* Without its place for the haystack a prompt has no length, without the value none is hidden. */
static zb_status needs_place(const zb_recall_task *t, const char *key, const zb_template *x,
                             const char *field, zb_err *err) {
    for (int i = 0; i < x->n; i++)
        if (x->piece[i].path && !strcmp(x->piece[i].path, field)) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG, "%s: %s: expected a place for {%s}, found \"%.60s\"",
                   t->file, key, field, x->source);
}

zb_status zb_recall_task_read(const char *dir, const char *name, zb_arena *a, zb_recall_task *out,
                              zb_err *err) {
    zb_yaml *root;
    if (!good_name(name) || !strcmp(name, "words"))
        return zb_fail(err, ZB_ERR_USAGE, "tests: expected a test's name, found \"%.80s\"", name);
    *out = (zb_recall_task){.name = zb_strdup(a, name)};
    out->file = zb_path_join(a, dir, zb_asprintf(a, "%s.yaml", name));
    if (!zb_file_exists(out->file))
        return zb_fail(err, ZB_ERR_USAGE,
                       "tests: unknown test \"%s\": no file %s (and not \"associative\")", name,
                       out->file);
    zb_opt_group g[] = {{"", table, out}, {0}};
    zb_opts_defaults(g);
    ZB_TRY(zb_yaml_read(out->file, a, &root, err));
    ZB_TRY(zb_opts_yaml(g, root, out->file, a, err));
    ZB_TRY(check(out, err));
    bool needles = !strcmp(out->kind, "needle");
    ZB_TRY(compile(out, "needle", out->needle_text, needles, a, &out->needle, err));
    ZB_TRY(compile(out, "prompt", out->prompt_text, true, a, &out->prompt, err));
    ZB_TRY(compile(out, "answer", out->answer_text, true, a, &out->answer, err));
    ZB_TRY(needs_place(out, "prompt", &out->prompt, "context", err));
    return needles ? needs_place(out, "needle", &out->needle, "value", err) : ZB_OK;
}

int zb_recall_task_expected(const zb_recall_task *t) {
    return (int)(strcmp(t->kind, "needle") ? t->hops + 1 : t->queries * t->values);
}

bool zb_recall_task_has_depth(const zb_recall_task *t) {
    return !strcmp(t->kind, "needle") && zb_recall_task_expected(t) == 1;
}

static zb_status read_list(const zb_yaml *root, const char *key, const char *file, zb_arena *a,
                           const char ***out, int *n, zb_err *err) {
    const zb_yaml *list = zb_yaml_get(root, key);
    size_t cap = 0;
    for (const zb_yaml *c = list ? list->child : NULL; c; c = c->next) {
        if (c->kind != ZB_YAML_SCALAR || !*c->text)
            return zb_fail(err, ZB_ERR_CONFIG, "%s:%d: expected a word, found %s", file, c->line,
                           zb_yaml_kind_name(c));
        *out = zb_grow(a, *out, &cap, (size_t)*n + 1, sizeof **out);
        (*out)[(*n)++] = c->text;
    }
    if (*n >= 2) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG, "%s: expected a list \"%s\" of two words or more", file,
                   key);
}

zb_status zb_recall_words_read(const char *dir, zb_arena *a, zb_recall_words *out, zb_err *err) {
    const char *file = zb_path_join(a, dir, "words.yaml");
    zb_yaml *root;
    *out = (zb_recall_words){0};
    ZB_TRY(zb_yaml_read(file, a, &root, err));
    ZB_TRY(read_list(root, "adjectives", file, a, &out->adjective, &out->n_adjectives, err));
    return read_list(root, "nouns", file, a, &out->noun, &out->n_nouns, err);
}
