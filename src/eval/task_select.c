/* task_select.c - which task files, groups and parts a list of names means (contract in task.h). */
#include "eval/task.h"

#include "base/file.h"
#include "base/opts.h"

#include <stdlib.h>
#include <string.h>

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
static zb_status select_one(const char *name, const char *dir, const char *profile, zb_arena *a,
                            zb_task *tasks, int *n, zb_err *err) {
    if (strchr(name, '/'))
        return zb_fail(err, ZB_ERR_USAGE, "tasks: expected a task's name, found \"%.80s\"", name);
    for (size_t len = strlen(name); len > 0;) {
        const char *stem = zb_strndup(a, name, len);
        zb_task *t = find_or_null(tasks, *n, stem);
        const char *path = zb_path_join(a, dir, zb_asprintf(a, "%s.yaml", stem));
        if (!t && zb_file_exists(path)) {
            t = &tasks[*n];
            ZB_TRY(zb_task_read(path, stem, profile, a, t, err));
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

zb_status zb_task_select(const char *list, const char *dir, const char *profile, zb_arena *a,
                         zb_task **out, int *n, zb_err *err) {
    int names;
    char **name = zb_list_split(list, a, &names);
    *n = 0;
    if (names == 0)
        return zb_fail(err, ZB_ERR_USAGE,
                       "tasks: expected names of tasks separated by commas, found none");
    if (!zb_dir_exists(dir))
        return zb_fail(err, ZB_ERR_IO, "%s: folder of task files not found (set --tasks-dir)", dir);
    *out = ZB_NEW_ARRAY(a, zb_task, names);
    for (int i = 0; i < names; i++) ZB_TRY(select_one(name[i], dir, profile, a, *out, n, err));
    qsort(*out, (size_t)*n, sizeof **out, by_name);
    return ZB_OK;
}
