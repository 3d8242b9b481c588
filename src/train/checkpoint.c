/* checkpoint.c - saving, finding and restoring (contract in checkpoint.h). */
#include "train/checkpoint.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/opts.h"
#include "format/safetensors.h"

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char prefix[] = "checkpoint-";

static int total_slots(const zb_checkpoint *k) {
    int n = 0;
    for (int i = 0; i < k->n_optims; i++) n += k->optim[i]->n;
    return n;
}

static zb_tensor view(const zb_param *p, const char *name, const float *data) {
    return (zb_tensor){.name = name,
                       .dtype = ZB_F32,
                       .n_dims = 1,
                       .shape = {zb_param_count(p)},
                       .data = data,
                       .bytes = (size_t)zb_param_count(p) * sizeof(float)};
}

static zb_status write_tensors(const zb_checkpoint *k, const char *dir, zb_arena *a, zb_err *err) {
    int n = total_slots(k), at = 0, more = 0;
    zb_tensor *w = ZB_NEW_ARRAY(a, zb_tensor, n), *mv = ZB_NEW_ARRAY(a, zb_tensor, 3 * n);
    for (int i = 0; i < k->n_optims; i++)
        for (int j = 0; j < k->optim[i]->n; j++) {
            const zb_optim_slot *s = &k->optim[i]->slot[j];
            const char *name = s->param->name;
            w[at++] = view(s->param, zb_asprintf(a, "%d.%s", i, name), s->param->w);
            mv[more++] = view(s->param, zb_asprintf(a, "%d.%s.m", i, name), s->m);
            mv[more++] = view(s->param, zb_asprintf(a, "%d.%s.v", i, name), s->v);
            if (s->best)
                mv[more++] = view(s->param, zb_asprintf(a, "%d.%s.best", i, name), s->best);
        }
    ZB_TRY(
        zb_safetensors_write(zb_path_join(a, dir, "model.safetensors"), w, (size_t)n, NULL, err));
    return zb_safetensors_write(zb_path_join(a, dir, "optimizer.safetensors"), mv, (size_t)more,
                                NULL, err);
}

/* Step of "checkpoint-<step>", -1 for anything else (temporaries included). */
static int64_t step_of(const char *name) {
    int64_t v;
    return !strncmp(name, prefix, sizeof prefix - 1) &&
                   zb_parse_i64(name + sizeof prefix - 1, &v) && v >= 0
               ? v
               : -1;
}

/* All checkpoint steps, ascending. */
static zb_status list_steps(const char *run_dir, zb_arena *a, int64_t **steps, int *n,
                            zb_err *err) {
    char **names;
    size_t count;
    *n = 0;
    *steps = NULL;
    if (!zb_dir_exists(run_dir)) return ZB_OK;
    ZB_TRY(zb_dir_list(run_dir, prefix, a, &names, &count, err));
    *steps = ZB_NEW_ARRAY(a, int64_t, count);
    for (size_t i = 0; i < count; i++) {
        int64_t s = step_of(names[i]);
        if (s < 0) continue;
        int j = (*n)++;
        for (; j > 0 && (*steps)[j - 1] > s; j--) (*steps)[j] = (*steps)[j - 1];
        (*steps)[j] = s;
    }
    return ZB_OK;
}

static const json_t *options_at(const zb_checkpoint *k, int64_t step) {
    return k->trunk && step <= k->trunk_steps ? k->trunk : k->options;
}

/* A checkpoint goes at once, by a name that the sweep knows: with its first files gone it would
 * still look like one. */
static zb_status discard(const char *path, zb_arena *a, zb_err *err) {
    if (!zb_dir_exists(path)) return ZB_OK;
    const char *old = zb_asprintf(a, "%s.old%d", path, (int)getpid());
    ZB_TRY(zb_dir_remove(old, err));
    ZB_TRY(zb_path_rename(path, old, err));
    return zb_dir_remove(old, err);
}

/* Leaves the last keep_last of those up to `step`, and the end of the trunk. */
static zb_status remove_others(const zb_checkpoint *k, int64_t step, int keep_last, zb_arena *a,
                               zb_err *err) {
    int64_t *steps;
    int n, kept = 0;
    ZB_TRY(list_steps(k->run_dir, a, &steps, &n, err));
    for (int i = n - 1; i >= 0; i--) {
        bool trunk = k->trunk && steps[i] == k->trunk_steps;
        if (trunk || (steps[i] <= step && kept++ < keep_last)) continue;
        ZB_TRY(discard(zb_asprintf(a, "%s/%s%" PRId64, k->run_dir, prefix, steps[i]), a, err));
    }
    return ZB_OK;
}

/* Per optimiser what early stopping remembers besides the weights: least error, errors waited,
 * stopped. */
static json_t *watched(const zb_checkpoint *k) {
    json_t *out = json_array();
    for (int i = 0; i < k->n_optims; i++) {
        const zb_optim *o = k->optim[i];
        if (o->watched)
            json_array_append_new(out, json_pack("[f,i,b]", o->least, o->waited, (int)o->stopped));
    }
    return out;
}

zb_status zb_checkpoint_save(const zb_checkpoint *k, int64_t step, const json_t *extra,
                             int keep_last, zb_err *err) {
    zb_arena a = {0};
    char *final = zb_asprintf(&a, "%s/%s%" PRId64, k->run_dir, prefix, step),
         *tmp = zb_asprintf(&a, "%s.tmp%d", final, (int)getpid());
    zb_status s = zb_dir_make(tmp, err);
    if (s == ZB_OK) s = write_tensors(k, tmp, &a, err);
    json_t *o = json_pack("{s:I,s:O}", "step", (json_int_t)step, "options", options_at(k, step));
    if (extra) json_object_set(o, "extra", (json_t *)(uintptr_t)extra);
    json_t *optim_steps = json_array();
    for (int i = 0; i < k->n_optims; i++)
        json_array_append_new(optim_steps, json_integer(k->optim[i]->step));
    json_object_set_new(o, "optimizer_steps", optim_steps);
    json_object_set_new(o, "early_stopping", watched(k));
    if (s == ZB_OK) s = zb_json_write_exact(zb_path_join(&a, tmp, "trainer_state.json"), o, err);
    json_decref(o);
    if (s == ZB_OK) s = discard(final, &a, err);
    if (s == ZB_OK) s = zb_path_rename(tmp, final, err);
    if (s == ZB_OK) s = remove_others(k, step, keep_last > 0 ? keep_last : 1, &a, err);
    if (s != ZB_OK) zb_dir_remove(tmp, NULL);
    zb_arena_free(&a);
    return s;
}

static zb_status restore(const zb_safetensors *f, const char *path, const char *name, int64_t n,
                         float *to, zb_err *err) {
    const zb_tensor *t = zb_safetensors_find(f, name);
    if (!t || t->dtype != ZB_F32 || zb_tensor_count(t) != n)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected tensor %s of %lld F32 values", path, name,
                       (long long)n);
    memcpy(to, t->data, (size_t)n * sizeof(float));
    return ZB_OK;
}

static zb_status restore_all(const zb_checkpoint *k, const char *dir, zb_arena *a, zb_err *err) {
    zb_safetensors *w = NULL, *mv = NULL;
    char *wp = zb_path_join(a, dir, "model.safetensors"),
         *mp = zb_path_join(a, dir, "optimizer.safetensors");
    zb_status s = zb_safetensors_open(&w, wp, err);
    if (s == ZB_OK) s = zb_safetensors_open(&mv, mp, err);
    for (int i = 0; i < k->n_optims && s == ZB_OK; i++)
        for (int j = 0; j < k->optim[i]->n && s == ZB_OK; j++) {
            const zb_optim_slot *o = &k->optim[i]->slot[j];
            int64_t n = zb_param_count(o->param);
            s = restore(w, wp, zb_asprintf(a, "%d.%s", i, o->param->name), n, o->param->w, err);
            if (s == ZB_OK)
                s = restore(mv, mp, zb_asprintf(a, "%d.%s.m", i, o->param->name), n, o->m, err);
            if (s == ZB_OK)
                s = restore(mv, mp, zb_asprintf(a, "%d.%s.v", i, o->param->name), n, o->v, err);
            if (s == ZB_OK && o->best)
                s = restore(mv, mp, zb_asprintf(a, "%d.%s.best", i, o->param->name), n, o->best,
                            err);
        }
    zb_safetensors_close(w);
    zb_safetensors_close(mv);
    return s;
}

static zb_status restore_watched(const zb_checkpoint *k, const json_t *in, const char *path,
                                 zb_err *err) {
    size_t at = 0;
    for (int i = 0; i < k->n_optims; i++) {
        zb_optim *o = k->optim[i];
        if (!o->watched) continue;
        const json_t *j = json_array_get(in, at++), *least = json_array_get(j, 0),
                     *waited = json_array_get(j, 1), *stopped = json_array_get(j, 2);
        int64_t count = json_integer_value(waited);
        if (!json_is_number(least) || !json_is_integer(waited) || !json_is_boolean(stopped) ||
            count < 0 || count > INT_MAX)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: early_stopping: expected [number, count, boolean] of optimiser "
                           "%d",
                           path, i);
        o->least = json_number_value(least);
        o->waited = (int)count;
        o->stopped = json_is_true(stopped);
    }
    return ZB_OK;
}

/* The state must be one that this run can be in: its step says where in the data to go on. */
static zb_status check_state(const zb_checkpoint *k, const json_t *o, int64_t step,
                             const char *path, zb_err *err) {
    int64_t found = 0;
    json_t *counts = NULL, *extra = NULL;
    ZB_TRY(zb_json_int(o, path, "step", true, 0, k->steps, &found, err));
    if (found != step)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: step: expected %" PRId64 " as in the folder's name, found %" PRId64,
                       path, step, found);
    ZB_TRY(zb_json_array(o, path, "optimizer_steps", true, &counts, err));
    bool right = json_array_size(counts) == (size_t)k->n_optims;
    for (int i = 0; i < k->n_optims && right; i++) {
        const json_t *n = json_array_get(counts, (size_t)i);
        right = json_is_integer(n) && json_integer_value(n) >= 0 && json_integer_value(n) <= step;
    }
    if (!right)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: optimizer_steps: expected %d counts up to %" PRId64,
                       path, k->n_optims, step);
    return zb_json_object(o, path, "extra", false, &extra, err);
}

/* The checkpoint at `step`: whether it fits (*other: why not), and then what it holds. */
static zb_status resume_at(const zb_checkpoint *k, int64_t step, const char **other, json_t **extra,
                           zb_arena *a, zb_err *err) {
    char *dir = zb_asprintf(a, "%s/%s%" PRId64, k->run_dir, prefix, step),
         *path = zb_path_join(a, dir, "trainer_state.json");
    json_t *o = NULL, *old = NULL;
    zb_status s = zb_json_read(path, 1 << 24, &o, err);
    if (s == ZB_OK) s = zb_json_object(o, path, "options", false, &old, err);
    *other = s != ZB_OK ? NULL
             : old      ? zb_opts_change(old, options_at(k, step), k->defaults, a)
                        : "it names none";
    if (s == ZB_OK && !*other) {
        s = check_state(k, o, step, path, err);
        if (s == ZB_OK) s = restore_all(k, dir, a, err);
        json_t *os = json_object_get(o, "optimizer_steps");
        for (int i = 0; i < k->n_optims; i++)
            k->optim[i]->step = json_integer_value(json_array_get(os, (size_t)i));
        if (s == ZB_OK) s = restore_watched(k, json_object_get(o, "early_stopping"), path, err);
        if (s == ZB_OK) *extra = json_incref(json_object_get(o, "extra"));
    }
    json_decref(o);
    return s;
}

zb_status zb_checkpoint_resume(const zb_checkpoint *k, int64_t *step, json_t **extra, zb_err *err) {
    zb_arena a = {0};
    int64_t *steps;
    int n;
    const char *other = NULL, *newest = NULL; /* why the newest is not of this run */
    *step = -1;
    *extra = NULL;
    zb_status s = list_steps(k->run_dir, &a, &steps, &n, err);
    for (int i = n - 1; i >= 0 && s == ZB_OK && *step < 0; i--) {
        s = resume_at(k, steps[i], &other, extra, &a, err);
        if (s == ZB_OK && !other) *step = steps[i];
        if (i == n - 1) newest = other;
    }
    if (s == ZB_OK && n > 0 && *step < 0)
        zb_warn("%s/%s%" PRId64 " was made with other settings (%s); starting from the beginning",
                k->run_dir, prefix, steps[n - 1], newest);
    zb_arena_free(&a);
    return s;
}

/* "<name>.tmp<process>" or "<name>.old<process>": halves of a replacement. */
static bool is_left_over(const char *name) {
    const char *end = strrchr(name, '.');
    int64_t process;
    return end && (!strncmp(end, ".tmp", 4) || !strncmp(end, ".old", 4)) &&
           zb_parse_i64(end + 4, &process);
}

zb_status zb_checkpoint_sweep(const char *run_dir, zb_err *err) {
    static const char *const of[] = {prefix, "best."};
    zb_arena a = {0};
    zb_status s = ZB_OK;
    for (int i = 0; i < 2 && s == ZB_OK; i++) {
        char **names;
        size_t n;
        s = zb_dir_list(run_dir, of[i], &a, &names, &n, err);
        for (size_t j = 0; s == ZB_OK && j < n; j++)
            if (is_left_over(names[j])) s = zb_dir_remove(zb_path_join(&a, run_dir, names[j]), err);
    }
    zb_arena_free(&a);
    return s;
}

zb_status zb_checkpoint_clear(const zb_checkpoint *k, zb_err *err) {
    zb_arena a = {0};
    zb_status s = remove_others(k, INT64_MAX, 0, &a, err);
    zb_arena_free(&a);
    return s;
}
