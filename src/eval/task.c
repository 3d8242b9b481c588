/* task.c - reading task files (contract in task.h).
 *
 *   data: piqa.jsonl            file in the data folder, one JSON object a line (.gz too)
 *   rows: 1838                  how many it must have
 *   version: 1.0                of the task in the LM Evaluation Harness, shown in tables
 *   output: multiple_choice     or loglikelihood, loglikelihood_rolling, generate_until
 *   process: RULE               row rule (row_rule.h) that makes further fields
 *   description: TEMPLATE       stands once before the prompt
 *   prompt: TEMPLATE            the context of every choice, or:
 *   prompts: [TEMPLATE, ...]    one context per choice, all with the same
 *   continuation: TEMPLATE      (also what loglikelihood and loglikelihood_rolling score)
 *   choices: PATH | [TEMPLATE, ...]    texts of the choices
 *   gold: {value: TEMPLATE, from: 1}   position of the right choice, counted from `from` (0), or
 *   gold: {value: TEMPLATE, among: PATH | [TEMPLATE, ...]}   the position of that text in a list
 *   labels: PATH                list of 0 and 1, one per choice, for mc2
 *   target: TEMPLATE            how the harness writes the answer in samples; what a generated
 *                               text must equal
 *   count: TEMPLATE             text whose words and bytes divide in perplexities
 *   clean: RULE                 text rule for the prompt and each choice
 *   generation: {until: [TEXT, ...], max_tokens: 256}
 *   filters: {NAME: {regex: PATTERN, select: -1}}    what of a generated text is compared
 *   ignore: [PATTERN, ...], ignore_case: true        what the comparison does not see
 *   metrics: [acc, acc_norm]    names of score.c
 *   split_by: FIELD             rows with the same value form a leaf; all values are named in
 *   groups: {stem: [anatomy, ...], ...}
 *   group_version: 2
 *   fewshot: {data: mmlu_dev.jsonl, rows: 285, sampler: first_n | random, shots: 0,
 *             drop_self: true}
 *   fewshot: none               never examples
 *   profiles: {zebra-paper: {KEY: VALUE, ...}}       keys that another profile replaces
 *
 * The leaf "anatomy" of mmlu.yaml is called mmlu_anatomy, the group mmlu_stem, the whole mmlu. */
#include "eval/task.h"

#include "base/file.h"
#include "base/opts.h"
#include "base/yaml.h"
#include "eval/score.h"

#include <string.h>

enum { TEMPLATES_MAX = 32, LEAVES_MAX = 1024, ROWS_MAX = 100000000, METRICS_MAX = 32 };

typedef struct reader {
    const char *file;
    zb_arena *arena;
    zb_err *err;
} reader;

/* Every message names file, line and key, what was expected and what stands there. */
static zb_status wrong(const reader *r, const zb_yaml *at, const char *expected) {
    return zb_fail(r->err, ZB_ERR_CONFIG, "%s:%d: %s: expected %s, found %s", r->file, at->line,
                   at->key ? at->key : "item", expected,
                   at->kind == ZB_YAML_SCALAR ? zb_asprintf(r->arena, "\"%.60s\"", at->text)
                                              : zb_yaml_kind_name(at));
}

static zb_status missing(const reader *r, const char *key) {
    return zb_fail(r->err, ZB_ERR_CONFIG, "%s: key \"%s\" is missing", r->file, key);
}

static const char *place(const reader *r, const zb_yaml *at) {
    return zb_asprintf(r->arena, "%s:%d: %s", r->file, at->line, at->key ? at->key : "item");
}

static zb_status check_keys(const reader *r, const zb_yaml *map, const char *const *known) {
    for (const zb_yaml *c = map->child; c; c = c->next) {
        int i = 0;
        while (known[i] && strcmp(known[i], c->key)) i++;
        if (!known[i])
            return zb_fail(r->err, ZB_ERR_CONFIG, "%s:%d: unknown key \"%.60s\"", r->file, c->line,
                           c->key);
    }
    return ZB_OK;
}

/* An absent key leaves *out as it is. */
static zb_status read_text(const reader *r, const zb_yaml *map, const char *key, const char **out) {
    const zb_yaml *v = zb_yaml_get(map, key);
    if (!v) return ZB_OK;
    if (v->kind != ZB_YAML_SCALAR || !*v->text) return wrong(r, v, "a text");
    *out = v->text;
    return ZB_OK;
}

static zb_status read_int(const reader *r, const zb_yaml *map, const char *key, int64_t max,
                          int64_t *out) {
    const zb_yaml *v = zb_yaml_get(map, key);
    if (!v) return ZB_OK;
    if (v->kind != ZB_YAML_SCALAR || !zb_parse_i64(v->text, out) || *out < 0 || *out > max)
        return wrong(r, v, zb_asprintf(r->arena, "an integer from 0 to %lld", (long long)max));
    return ZB_OK;
}

static zb_status read_template(const reader *r, const zb_yaml *map, const char *key,
                               zb_template *out) {
    const zb_yaml *v = zb_yaml_get(map, key);
    if (!v) return ZB_OK;
    if (v->kind != ZB_YAML_SCALAR) return wrong(r, v, "a text");
    return zb_template_compile(v->text, place(r, v), r->arena, out, r->err);
}

static zb_status read_templates(const reader *r, const zb_yaml *list, zb_template **out, int *n) {
    *n = 0;
    *out = ZB_NEW_ARRAY(r->arena, zb_template, TEMPLATES_MAX);
    for (const zb_yaml *c = list->child; c; c = c->next) {
        if (c->kind != ZB_YAML_SCALAR) return wrong(r, c, "a text");
        if (*n == TEMPLATES_MAX)
            return wrong(r, c, zb_asprintf(r->arena, "at most %d items", TEMPLATES_MAX));
        ZB_TRY(zb_template_compile(c->text, place(r, c), r->arena, &(*out)[(*n)++], r->err));
    }
    return *n ? ZB_OK : wrong(r, list, "at least one item");
}

static zb_status read_list(const reader *r, const zb_yaml *map, const char *key,
                           zb_task_list *out) {
    const zb_yaml *v = zb_yaml_get(map, key);
    if (!v) return ZB_OK;
    if (v->kind == ZB_YAML_LIST) return read_templates(r, v, &out->item, &out->n);
    if (v->kind != ZB_YAML_SCALAR || !*v->text)
        return wrong(r, v, "the name of a field that holds a list, or a list");
    out->path = v->text;
    return ZB_OK;
}

/* gold: {value, from} or {value, among}. */
static zb_status read_gold(const reader *r, const zb_yaml *root, zb_task *t) {
    static const char *const known[] = {"value", "from", "among", NULL};
    const zb_yaml *gold = zb_yaml_get(root, "gold");
    if (!gold) return missing(r, "gold");
    if (gold->kind != ZB_YAML_MAP) return wrong(r, gold, "a mapping with value and from or among");
    ZB_TRY(check_keys(r, gold, known));
    ZB_TRY(read_template(r, gold, "value", &t->gold));
    ZB_TRY(read_int(r, gold, "from", 1000, &t->gold_from));
    ZB_TRY(read_list(r, gold, "among", &t->gold_among));
    if (!t->gold.source) return wrong(r, gold, "a mapping with the key value");
    if (zb_yaml_get(gold, "from") && zb_yaml_get(gold, "among"))
        return wrong(r, gold, "either from or among");
    return ZB_OK;
}

/* Names of the output's metrics; of a generated text each metric is given once per filter. */
static zb_status read_metrics(const reader *r, const zb_yaml *root, const zb_filter *filter,
                              int n_filters, zb_task *t) {
    const zb_yaml *list = zb_yaml_get(root, "metrics");
    if (!list) return missing(r, "metrics");
    const char *names = zb_score_names(t->output, r->arena);
    if (list->kind != ZB_YAML_LIST || !list->child)
        return wrong(r, list, zb_asprintf(r->arena, "a list of %s", names));
    t->metric = ZB_NEW_ARRAY(r->arena, zb_task_metric, METRICS_MAX);
    for (const zb_yaml *c = list->child; c; c = c->next) {
        const zb_score_kind *kind =
            c->kind == ZB_YAML_SCALAR ? zb_score_find(t->output, c->text) : NULL;
        if (!kind) return wrong(r, c, names);
        if (kind->needs_labels && !t->labels) return missing(r, "labels");
        for (int i = 0; i < (n_filters ? n_filters : 1); i++) {
            if (t->n_metrics == METRICS_MAX)
                return wrong(r, list, zb_asprintf(r->arena, "at most %d metrics", METRICS_MAX));
            t->metric[t->n_metrics++] = (zb_task_metric){kind, n_filters ? &filter[i] : NULL};
        }
    }
    return ZB_OK;
}

static zb_status read_output(const reader *r, const zb_yaml *root, zb_task *t) {
    static const char expected[] =
        "multiple_choice, loglikelihood, loglikelihood_rolling or generate_until";
    const char *name = NULL;
    ZB_TRY(read_text(r, root, "output", &name));
    for (zb_task_output o = ZB_TASK_CHOICE; name; o++) {
        if (o > ZB_TASK_GENERATE) return wrong(r, zb_yaml_get(root, "output"), expected);
        if (strcmp(name, zb_task_output_name(o)) != 0) continue;
        t->output = o;
        break;
    }
    const char *rule = NULL;
    ZB_TRY(read_text(r, root, "process", &rule));
    if (!rule) return ZB_OK;
    t->process = zb_row_rule_find(rule);
    return t->process ? ZB_OK : wrong(r, zb_yaml_get(root, "process"), zb_row_rule_names());
}

/* Which of prompt, prompts, continuation, choices must be there: one prompt and choices, or prompts
 * and one continuation; of the other outputs a prompt, a text, or both. */
static zb_status check_question(const reader *r, const zb_yaml *root, const zb_task *t) {
    bool choices = zb_yaml_get(root, "choices") != NULL, prompts = t->prompts != NULL;
    bool prompt = t->prompt.source != NULL, continuation = t->continuation.source != NULL;
    const char *expected = NULL;
    switch (t->output) {
    case ZB_TASK_CHOICE:
        if (!(prompt && choices && !prompts && !continuation) &&
            !(prompts && continuation && !prompt && !choices))
            expected = "prompt and choices, or prompts and continuation";
        break;
    case ZB_TASK_LIKELIHOOD:
        if (!prompt || !continuation || choices || prompts) expected = "prompt and continuation";
        break;
    case ZB_TASK_ROLLING:
        if (prompt || !continuation || choices || prompts)
            expected = "continuation and neither prompt nor choices";
        break;
    case ZB_TASK_GENERATE:
        if (!prompt || continuation || choices || prompts || !t->target.source)
            expected = "prompt and target";
        break;
    }
    return expected ? zb_fail(r->err, ZB_ERR_CONFIG, "%s: expected %s", r->file, expected) : ZB_OK;
}

static zb_status read_question(const reader *r, const zb_yaml *root, zb_task *t) {
    ZB_TRY(read_template(r, root, "description", &t->description));
    ZB_TRY(read_template(r, root, "prompt", &t->prompt));
    ZB_TRY(read_template(r, root, "continuation", &t->continuation));
    ZB_TRY(read_template(r, root, "target", &t->target));
    ZB_TRY(read_template(r, root, "count", &t->count));
    ZB_TRY(read_list(r, root, "choices", &t->choices));
    ZB_TRY(read_text(r, root, "labels", &t->labels));
    const zb_yaml *prompts = zb_yaml_get(root, "prompts");
    if (prompts) {
        if (prompts->kind != ZB_YAML_LIST) return wrong(r, prompts, "a list of texts");
        ZB_TRY(read_templates(r, prompts, &t->prompts, &t->n_prompts));
    }
    ZB_TRY(check_question(r, root, t));
    const char *clean = NULL;
    ZB_TRY(read_text(r, root, "clean", &clean));
    if (!clean) return ZB_OK;
    t->clean = zb_text_rule_find(zb_str_from(clean));
    if (!t->clean || t->clean->takes_arg)
        return wrong(r, zb_yaml_get(root, "clean"), "a text rule without argument");
    return ZB_OK;
}

static zb_status read_texts(const reader *r, const zb_yaml *list, const char ***out, int *n) {
    if (list->kind != ZB_YAML_LIST) return wrong(r, list, "a list of texts");
    *out = ZB_NEW_ARRAY(r->arena, const char *, TEMPLATES_MAX);
    for (const zb_yaml *c = list->child; c; c = c->next) {
        if (c->kind != ZB_YAML_SCALAR || !*c->text) return wrong(r, c, "a text");
        if (*n == TEMPLATES_MAX)
            return wrong(r, c, zb_asprintf(r->arena, "at most %d items", TEMPLATES_MAX));
        (*out)[(*n)++] = c->text;
    }
    return ZB_OK;
}

/* filters: {NAME: {regex, select}, ...}. */
static zb_status read_filters(const reader *r, const zb_yaml *root, zb_filter **out, int *n) {
    static const char *const known[] = {"regex", "select", NULL};
    const zb_yaml *map = zb_yaml_get(root, "filters");
    *n = 0;
    if (!map) return ZB_OK;
    if (map->kind != ZB_YAML_MAP || !map->child)
        return wrong(r, map, "a mapping of names to filters");
    *out = ZB_NEW_ARRAY(r->arena, zb_filter, TEMPLATES_MAX);
    for (const zb_yaml *c = map->child; c; c = c->next) {
        const char *pattern = NULL, *select = NULL;
        int64_t which = 0;
        if (c->kind != ZB_YAML_MAP || *n == TEMPLATES_MAX)
            return wrong(r, c, "a mapping with regex and select");
        ZB_TRY(check_keys(r, c, known));
        ZB_TRY(read_text(r, c, "regex", &pattern));
        ZB_TRY(read_text(r, c, "select", &select));
        if (!pattern) return wrong(r, c, "a mapping with the key regex");
        if (select && (!zb_parse_i64(select, &which) || (which != 0 && which != -1)))
            return wrong(r, zb_yaml_get(c, "select"), "0 (the first match) or -1 (the last)");
        ZB_TRY(zb_filter_compile(c->key, pattern, which < 0, place(r, c), r->arena, &(*out)[*n],
                                 r->err));
        ++*n;
    }
    return ZB_OK;
}

/* What concerns generated texts: where they end and what of them is compared. */
static zb_status read_generation(const reader *r, const zb_yaml *root, zb_filter **filter,
                                 int *n_filters, zb_task *t) {
    static const char *const known[] = {"until", "max_tokens", NULL};
    const zb_yaml *g = zb_yaml_get(root, "generation"), *ignore = zb_yaml_get(root, "ignore"), *v;
    t->max_tokens = 256; /* the harness's default */
    if ((g || ignore || zb_yaml_get(root, "filters")) && t->output != ZB_TASK_GENERATE)
        return wrong(r,
                     g        ? g
                     : ignore ? ignore
                              : zb_yaml_get(root, "filters"),
                     "only beside output: generate_until");
    if (g) {
        if (g->kind != ZB_YAML_MAP) return wrong(r, g, "a mapping with until and max_tokens");
        ZB_TRY(check_keys(r, g, known));
        if ((v = zb_yaml_get(g, "until"))) ZB_TRY(read_texts(r, v, &t->until, &t->n_until));
        ZB_TRY(read_int(r, g, "max_tokens", 1 << 20, &t->max_tokens));
        if (t->max_tokens < 1) return wrong(r, g, "max_tokens of at least 1");
    }
    ZB_TRY(read_filters(r, root, filter, n_filters));
    const char **pattern = NULL, *ignore_case = NULL;
    int n = 0;
    if (ignore) ZB_TRY(read_texts(r, ignore, &pattern, &n));
    ZB_TRY(read_text(r, root, "ignore_case", &ignore_case));
    if (ignore_case && strcmp(ignore_case, "true") != 0 && strcmp(ignore_case, "false") != 0)
        return wrong(r, zb_yaml_get(root, "ignore_case"), "true or false");
    bool fold = ignore_case && !strcmp(ignore_case, "true");
    return zb_exact_match_compile(pattern, n, fold, r->file, r->arena, &t->match, r->err);
}

/* A part of the group read last. */
static zb_status add_leaf(const reader *r, zb_task *t, const zb_yaml *item, size_t *cap) {
    if (item->kind != ZB_YAML_SCALAR || !*item->text) return wrong(r, item, "the name of a part");
    for (int i = 0; i < t->n_leaves; i++)
        if (!strcmp(t->leaf[i].alias, item->text)) return wrong(r, item, "each part once");
    if (t->n_leaves == LEAVES_MAX)
        return wrong(r, item, zb_asprintf(r->arena, "at most %d parts", LEAVES_MAX));
    t->leaf = zb_grow(r->arena, t->leaf, cap, (size_t)t->n_leaves + 1, sizeof *t->leaf);
    const char *name = zb_asprintf(r->arena, "%s_%s", t->name, item->text);
    t->leaf[t->n_leaves++] =
        (zb_task_leaf){.name = name, .alias = item->text, .group = t->n_groups - 1};
    return ZB_OK;
}

/* Groups and parts, or the task itself as its only part. */
static zb_status read_groups(const reader *r, const zb_yaml *root, zb_task *t) {
    const zb_yaml *groups = zb_yaml_get(root, "groups");
    ZB_TRY(read_text(r, root, "split_by", &t->split_by));
    if (!t->split_by != !groups)
        return zb_fail(r->err, ZB_ERR_CONFIG, "%s: split_by and groups go together", r->file);
    if (!groups) {
        t->leaf = ZB_NEW(r->arena, zb_task_leaf);
        t->leaf[0] = (zb_task_leaf){.name = t->name, .alias = t->name, .group = -1};
        t->n_leaves = 1;
        return ZB_OK;
    }
    if (groups->kind != ZB_YAML_MAP)
        return wrong(r, groups, "a mapping of group names to lists of parts");
    size_t cap = 0, group_cap = 0;
    for (const zb_yaml *g = groups->child; g; g = g->next) {
        if (g->kind != ZB_YAML_LIST || !g->child) return wrong(r, g, "a list of parts");
        t->group =
            zb_grow(r->arena, t->group, &group_cap, (size_t)t->n_groups + 1, sizeof *t->group);
        char *alias = zb_strdup(r->arena, g->key);
        for (char *p = alias; *p; p++)
            if (*p == '_') *p = ' ';
        const char *name = zb_asprintf(r->arena, "%s_%s", t->name, g->key);
        t->group[t->n_groups++] = (zb_task_group){.name = name, .alias = alias};
        for (const zb_yaml *c = g->child; c; c = c->next) ZB_TRY(add_leaf(r, t, c, &cap));
    }
    return t->n_leaves ? ZB_OK : wrong(r, groups, "at least one group");
}

static zb_status read_fewshot(const reader *r, const zb_yaml *root, zb_task *t) {
    static const char *const known[] = {"data", "rows", "sampler", "shots", "drop_self", NULL};
    const zb_yaml *few = zb_yaml_get(root, "fewshot");
    zb_task_fewshot *f = &t->fewshot;
    const char *sampler = NULL, *drop = NULL;
    if (!few) return ZB_OK;
    if (few->kind == ZB_YAML_SCALAR && !strcmp(few->text, "none")) {
        f->fixed = true;
        return ZB_OK;
    }
    if (few->kind != ZB_YAML_MAP) return wrong(r, few, "none, or a mapping with data and sampler");
    ZB_TRY(check_keys(r, few, known));
    ZB_TRY(read_text(r, few, "data", &f->data));
    ZB_TRY(read_int(r, few, "rows", ROWS_MAX, &f->rows));
    ZB_TRY(read_text(r, few, "sampler", &sampler));
    ZB_TRY(read_int(r, few, "shots", 1000, &f->shots));
    ZB_TRY(read_text(r, few, "drop_self", &drop));
    if (!f->data || !sampler) return wrong(r, few, "a mapping with data and sampler");
    if (strchr(f->data, '/'))
        return wrong(r, zb_yaml_get(few, "data"), "a file name without folder");
    f->first_n = !strcmp(sampler, "first_n");
    if (!f->first_n && strcmp(sampler, "random") != 0)
        return wrong(r, zb_yaml_get(few, "sampler"), "first_n or random");
    f->drop_self = drop && !strcmp(drop, "true");
    if (drop && !f->drop_self && strcmp(drop, "false") != 0)
        return wrong(r, zb_yaml_get(few, "drop_self"), "true or false");
    return ZB_OK;
}

/* The keys of `profile` instead of those of the same name at the top. */
static zb_status choose_profile(const reader *r, zb_yaml *root, const char *profile,
                                const char *const *known) {
    const zb_yaml *all = zb_yaml_get(root, "profiles");
    if (!all) return ZB_OK;
    if (all->kind != ZB_YAML_MAP) return wrong(r, all, "a mapping of profiles to keys");
    for (const zb_yaml *p = all->child; p; p = p->next) {
        if (strcmp(p->key, "lm-eval") != 0 && strcmp(p->key, "zebra-paper") != 0)
            return wrong(r, p, "the profile lm-eval or zebra-paper");
        if (p->kind != ZB_YAML_MAP) return wrong(r, p, "a mapping");
        ZB_TRY(check_keys(r, p, known));
        if (strcmp(p->key, profile) != 0) continue;
        for (zb_yaml **at = &root->child; *at;) {
            if (zb_yaml_get(p, (*at)->key))
                *at = (*at)->next;
            else
                at = &(*at)->next;
        }
        zb_yaml **end = &root->child;
        while (*end) end = &(*end)->next;
        for (const zb_yaml *c = p->child; c; c = c->next) {
            *end = ZB_NEW(r->arena, zb_yaml);
            **end = *c;
            (*end)->next = NULL;
            end = &(*end)->next;
        }
    }
    return ZB_OK;
}

zb_status zb_task_read(const char *path, const char *name, const char *profile, zb_arena *a,
                       zb_task *out, zb_err *err) {
    static const char *const known[] = {
        "data",    "rows",          "version", "output",   "process",     "description", "prompt",
        "prompts", "continuation",  "choices", "gold",     "labels",      "target",      "count",
        "clean",   "generation",    "filters", "ignore",   "ignore_case", "metrics",     "split_by",
        "groups",  "group_version", "fewshot", "profiles", NULL};
    zb_yaml *root;
    zb_filter *filter = NULL;
    int n_filters = 0;
    ZB_TRY(zb_yaml_read(path, a, &root, err));
    reader r = {.file = zb_strdup(a, path), .arena = a, .err = err};
    *out =
        (zb_task){.name = zb_strdup(a, name), .file = r.file, .version = "0", .group_version = "0"};
    if (root->kind != ZB_YAML_MAP)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected keys and values, found %s", path,
                       zb_yaml_kind_name(root));
    ZB_TRY(check_keys(&r, root, known));
    ZB_TRY(choose_profile(&r, root, profile, known));
    ZB_TRY(read_text(&r, root, "data", &out->data));
    if (!out->data) return missing(&r, "data");
    if (strchr(out->data, '/'))
        return wrong(&r, zb_yaml_get(root, "data"), "a file name without folder");
    ZB_TRY(read_int(&r, root, "rows", ROWS_MAX, &out->rows));
    ZB_TRY(read_text(&r, root, "version", &out->version));
    ZB_TRY(read_text(&r, root, "group_version", &out->group_version));
    ZB_TRY(read_output(&r, root, out));
    ZB_TRY(read_question(&r, root, out));
    if (out->output == ZB_TASK_CHOICE) ZB_TRY(read_gold(&r, root, out));
    ZB_TRY(read_generation(&r, root, &filter, &n_filters, out));
    ZB_TRY(read_metrics(&r, root, filter, n_filters, out));
    ZB_TRY(read_fewshot(&r, root, out));
    return read_groups(&r, root, out);
}

const char *zb_task_output_name(zb_task_output o) {
    static const char *const names[] = {"multiple_choice", "loglikelihood", "loglikelihood_rolling",
                                        "generate_until"};
    return names[o];
}

int zb_task_shots(const zb_task *t, int64_t asked) {
    return (int)(t->fewshot.fixed || asked < 0 ? t->fewshot.shots : asked);
}
