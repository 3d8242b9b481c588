/* task.c - reading task files (contract in task.h).
 *
 *   data: piqa.jsonl            file in the data folder, one JSON object a line (.gz too)
 *   rows: 1838                  how many it must have
 *   version: 1.0                of the task in the LM Evaluation Harness, shown in tables
 *   description: TEMPLATE       stands once before the prompt
 *   prompt: TEMPLATE            the context of every choice, or:
 *   prompts: [TEMPLATE, ...]    one context per choice, all with the same
 *   continuation: TEMPLATE
 *   choices: PATH | [TEMPLATE, ...]    texts of the choices
 *   gold: {value: TEMPLATE, from: 1}   position of the right choice, counted from `from` (0), or
 *   gold: {value: TEMPLATE, among: PATH | [TEMPLATE, ...]}   the position of that text in a list
 *   target: TEMPLATE            how the harness writes the answer in samples
 *   clean: RULE                 text rule for the prompt and each choice
 *   metrics: [acc, acc_norm]
 *   split_by: FIELD             rows with the same value form a leaf; all values are named in
 *   groups: {stem: [anatomy, ...], ...}
 *   group_version: 2
 *   fewshot: {data: mmlu_dev.jsonl, sampler: first_n | random}   pool of examples, told in results
 *
 * The leaf "anatomy" of mmlu.yaml is called mmlu_anatomy, the group mmlu_stem, the whole mmlu. */
#include "eval/task.h"

#include "base/file.h"
#include "base/opts.h"
#include "base/yaml.h"

#include <stdlib.h>
#include <string.h>

enum { TEMPLATES_MAX = 32, LEAVES_MAX = 1024, ROWS_MAX = 100000000 };

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

/* acc is always computed, so it must be in the list; acc_norm is the task's choice. */
static zb_status read_metrics(const reader *r, const zb_yaml *root, zb_task *t) {
    const zb_yaml *list = zb_yaml_get(root, "metrics");
    if (!list) return missing(r, "metrics");
    bool acc = false;
    if (list->kind != ZB_YAML_LIST) return wrong(r, list, "a list of acc and acc_norm");
    for (const zb_yaml *c = list->child; c; c = c->next) {
        if (c->kind == ZB_YAML_SCALAR && !strcmp(c->text, "acc"))
            acc = true;
        else if (c->kind == ZB_YAML_SCALAR && !strcmp(c->text, "acc_norm"))
            t->acc_norm = true;
        else
            return wrong(r, c, "acc or acc_norm");
    }
    return acc ? ZB_OK : wrong(r, list, "a list with acc");
}

/* How the contexts and continuations are written: one prompt and choices, or prompts and one
 * continuation. */
static zb_status read_question(const reader *r, const zb_yaml *root, zb_task *t) {
    ZB_TRY(read_template(r, root, "description", &t->description));
    ZB_TRY(read_template(r, root, "prompt", &t->prompt));
    ZB_TRY(read_template(r, root, "continuation", &t->continuation));
    ZB_TRY(read_list(r, root, "choices", &t->choices));
    const zb_yaml *prompts = zb_yaml_get(root, "prompts");
    if (prompts) {
        if (prompts->kind != ZB_YAML_LIST) return wrong(r, prompts, "a list of texts");
        ZB_TRY(read_templates(r, prompts, &t->prompts, &t->n_prompts));
    }
    bool choices = zb_yaml_get(root, "choices") != NULL;
    bool one = t->prompt.source && choices && !prompts && !t->continuation.source;
    bool many = prompts && t->continuation.source && !t->prompt.source && !choices;
    if (!one && !many)
        return zb_fail(r->err, ZB_ERR_CONFIG,
                       "%s: expected prompt and choices, or prompts and continuation", r->file);
    const char *clean = NULL;
    ZB_TRY(read_text(r, root, "clean", &clean));
    if (!clean) return ZB_OK;
    t->clean = zb_text_rule_find(zb_str_from(clean));
    if (!t->clean || t->clean->takes_arg)
        return wrong(r, zb_yaml_get(root, "clean"), "a text rule without argument");
    return ZB_OK;
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

/* Checked, kept and reported; the prompts are zero-shot. */
static zb_status read_fewshot(const reader *r, const zb_yaml *root, zb_task *t) {
    static const char *const known[] = {"data", "sampler", NULL};
    const zb_yaml *few = zb_yaml_get(root, "fewshot");
    if (!few) return ZB_OK;
    if (few->kind != ZB_YAML_MAP) return wrong(r, few, "a mapping with data and sampler");
    ZB_TRY(check_keys(r, few, known));
    ZB_TRY(read_text(r, few, "data", &t->fewshot_data));
    ZB_TRY(read_text(r, few, "sampler", &t->fewshot_sampler));
    if (!t->fewshot_data || !t->fewshot_sampler)
        return wrong(r, few, "a mapping with data and sampler");
    if (strchr(t->fewshot_data, '/'))
        return wrong(r, zb_yaml_get(few, "data"), "a file name without folder");
    if (strcmp(t->fewshot_sampler, "first_n") != 0 && strcmp(t->fewshot_sampler, "random") != 0)
        return wrong(r, zb_yaml_get(few, "sampler"), "first_n or random");
    return ZB_OK;
}

zb_status zb_task_read(const char *path, const char *name, zb_arena *a, zb_task *out, zb_err *err) {
    static const char *const known[] = {
        "data",         "rows",    "version",       "description", "prompt", "prompts",
        "continuation", "choices", "gold",          "target",      "clean",  "metrics",
        "split_by",     "groups",  "group_version", "fewshot",     NULL};
    zb_yaml *root;
    ZB_TRY(zb_yaml_read(path, a, &root, err));
    reader r = {.file = zb_strdup(a, path), .arena = a, .err = err};
    *out =
        (zb_task){.name = zb_strdup(a, name), .file = r.file, .version = "0", .group_version = "0"};
    if (root->kind != ZB_YAML_MAP)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected keys and values, found %s", path,
                       zb_yaml_kind_name(root));
    ZB_TRY(check_keys(&r, root, known));
    ZB_TRY(read_text(&r, root, "data", &out->data));
    if (!out->data) return missing(&r, "data");
    if (strchr(out->data, '/'))
        return wrong(&r, zb_yaml_get(root, "data"), "a file name without folder");
    ZB_TRY(read_int(&r, root, "rows", ROWS_MAX, &out->rows));
    ZB_TRY(read_text(&r, root, "version", &out->version));
    ZB_TRY(read_text(&r, root, "group_version", &out->group_version));
    ZB_TRY(read_question(&r, root, out));
    ZB_TRY(read_gold(&r, root, out));
    ZB_TRY(read_template(&r, root, "target", &out->target));
    ZB_TRY(read_metrics(&r, root, out));
    ZB_TRY(read_fewshot(&r, root, out));
    return read_groups(&r, root, out);
}

/* Marks what `name` means in the task; false if the task has no such part. */
static bool mark(zb_task *t, const char *name) {
    bool found = false;
    if (!strcmp(name, t->name)) {
        t->total = found = true;
        for (int i = 0; i < t->n_groups; i++) t->group[i].selected = true;
        for (int i = 0; i < t->n_leaves; i++) t->leaf[i].selected = true;
    }
    for (int g = 0; g < t->n_groups; g++) {
        if (strcmp(name, t->group[g].name)) continue;
        t->group[g].selected = found = true;
        for (int i = 0; i < t->n_leaves; i++)
            if (t->leaf[i].group == g) t->leaf[i].selected = true;
    }
    for (int i = 0; i < t->n_leaves; i++)
        if (!strcmp(name, t->leaf[i].name)) t->leaf[i].selected = found = true;
    return found;
}

/* The names of the task files in `dir`, for the message about an unknown task. */
static const char *known_tasks(const char *dir, zb_arena *a) {
    char **names;
    size_t n;
    const char *all = "";
    if (zb_dir_list(dir, "", a, &names, &n, NULL) != ZB_OK) return "none";
    for (size_t i = 0; i < n; i++) {
        size_t len = strlen(names[i]);
        if (len > 5 && !strcmp(names[i] + len - 5, ".yaml"))
            all = zb_asprintf(a, "%s%s%.*s", all, *all ? ", " : "", (int)(len - 5), names[i]);
    }
    return *all ? all : "none";
}

static zb_task *find_or_null(zb_task *t, int n, const char *name) {
    for (int i = 0; i < n; i++)
        if (!strcmp(t[i].name, name)) return &t[i];
    return NULL;
}

/* "mmlu_high_school_biology" is looked for in mmlu_high_school_biology.yaml, mmlu_high_school.yaml,
 * mmlu_high.yaml, mmlu.yaml. */
static zb_status select_one(const char *name, const char *dir, zb_arena *a, zb_task *tasks, int *n,
                            zb_err *err) {
    if (strchr(name, '/'))
        return zb_fail(err, ZB_ERR_USAGE, "tasks: expected a task's name, found \"%.80s\"", name);
    for (size_t len = strlen(name); len > 0;) {
        const char *stem = zb_strndup(a, name, len);
        zb_task *t = find_or_null(tasks, *n, stem);
        const char *path = zb_path_join(a, dir, zb_asprintf(a, "%s.yaml", stem));
        if (!t && zb_file_exists(path)) {
            t = &tasks[*n];
            ZB_TRY(zb_task_read(path, stem, a, t, err));
            if (mark(t, name)) {
                ++*n;
                return ZB_OK;
            }
        } else if (t && mark(t, name)) {
            return ZB_OK;
        }
        while (len > 0 && name[--len] != '_') {}
    }
    return zb_fail(err, ZB_ERR_USAGE, "tasks: unknown task \"%.80s\": %s has %s", name, dir,
                   known_tasks(dir, a));
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const zb_task *)a)->name, ((const zb_task *)b)->name);
}

zb_status zb_task_select(const char *list, const char *dir, zb_arena *a, zb_task **out, int *n,
                         zb_err *err) {
    int names;
    char **name = zb_list_split(list, a, &names);
    *n = 0;
    if (names == 0)
        return zb_fail(err, ZB_ERR_USAGE,
                       "tasks: expected names of tasks separated by commas, found none");
    if (!zb_dir_exists(dir))
        return zb_fail(err, ZB_ERR_IO, "%s: folder of task files not found (set --tasks-dir)", dir);
    *out = ZB_NEW_ARRAY(a, zb_task, names);
    for (int i = 0; i < names; i++) ZB_TRY(select_one(name[i], dir, a, *out, n, err));
    qsort(*out, (size_t)*n, sizeof **out, by_name);
    return ZB_OK;
}
