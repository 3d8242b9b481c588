/* measures.c - the table's file (contract in measures.h). */
#include "compose/measures.h"

#include "base/contents.h"
#include "base/json.h"
#include "base/log.h"

#include <math.h>
#include <string.h>

enum { FILE_MAX = 1 << 26 };
static const int64_t bytes_max = (int64_t)1 << 40;
static const char format[] = "zebra-measures-1";

int zb_measures_find(const zb_measures *m, const char *name) {
    for (int i = 0; i < m->n; i++)
        if (!strcmp(m->candidate[i].name, name)) return i;
    return -1;
}

zb_status zb_measures_add(zb_measures *m, const zb_candidate *c, int *index, zb_arena *a,
                          zb_err *err) {
    if (m->n == ZB_CHOICES_MAX)
        return zb_fail(err, ZB_ERR_CONFIG, "%s: expected at most %d candidates", m->path,
                       ZB_CHOICES_MAX);
    m->candidate[m->n] = *c;
    m->row[m->n] = ZB_NEW_ARRAY(a, zb_measure, m->layers);
    *index = m->n++;
    return ZB_OK;
}

static zb_status read_number(const json_t *o, const char *where, const char *key, double least,
                             double *out, zb_err *err) {
    ZB_TRY(zb_json_f64(o, where, key, true, out, err));
    if (isfinite(*out) && *out >= least) return ZB_OK;
    return zb_fail(err, ZB_ERR_FORMAT, "%s: %s: expected a number from %g, found %g", where, key,
                   least, *out);
}

/* What is a wrong setting on a command line is a broken file here. */
static zb_status as_format(zb_err *err) {
    if (err) err->code = ZB_ERR_FORMAT;
    return ZB_ERR_FORMAT;
}

static zb_status read_candidate(zb_measures *m, const json_t *o, const char *where, zb_arena *a,
                                zb_err *err) {
    const char *name;
    zb_candidate c;
    int i = 0;
    if (!json_is_object(o))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                       zb_json_type(o));
    ZB_TRY(zb_json_str(o, where, "name", true, &name, err));
    if (zb_candidate_parse(&c, name, where, a, err) != ZB_OK) return as_format(err);
    if (zb_measures_find(m, name) >= 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: %.60s is listed twice", where, name);
    ZB_TRY(zb_measures_add(m, &c, &i, a, err));
    ZB_TRY(zb_json_int(o, where, "rotary", false, 0, bytes_max, &m->common[i][0], err));
    ZB_TRY(zb_json_int(o, where, "window", false, 0, INT64_MAX, &m->common[i][1], err));
    return zb_json_f64(o, where, "weights", false, &m->weights[i], err);
}

static zb_status read_row(zb_measures *m, const json_t *o, const char *where, zb_err *err) {
    int64_t layer;
    const char *name;
    if (!json_is_object(o))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                       zb_json_type(o));
    ZB_TRY(zb_json_int(o, where, "layer", true, 0, m->layers - 1, &layer, err));
    ZB_TRY(zb_json_str(o, where, "candidate", true, &name, err));
    int i = zb_measures_find(m, name);
    if (i < 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected a candidate of the table, found \"%.60s\"",
                       where, name);
    zb_measure *r = &m->row[i][layer];
    if (r->done)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: %.60s in layer %lld is there twice", where, name,
                       (long long)layer);
    /* rounding may take a divergence below 0, not far */
    ZB_TRY(read_number(o, where, "kl", -1e-2, &r->kl, err));
    ZB_TRY(read_number(o, where, "error", 0, &r->error, err));
    ZB_TRY(read_number(o, where, "recall", 0, &r->recall, err));
    ZB_TRY(
        zb_json_int(o, where, "cache_bytes_per_token", true, 0, bytes_max, &r->cache_bytes, err));
    ZB_TRY(zb_json_int(o, where, "state_bytes", true, 0, bytes_max, &r->state_bytes, err));
    r->done = true;
    return ZB_OK;
}

static zb_status read_all(zb_measures *m, const json_t *o, zb_arena *a, zb_err *err) {
    const char *found = "";
    json_t *list, *v, *teacher;
    int64_t layers;
    size_t i;
    char where[512];
    if (!json_is_object(o))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", m->path,
                       zb_json_type(o));
    ZB_TRY(zb_json_str(o, m->path, "format", true, &found, err));
    if (strcmp(found, format))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: format: expected %s, found \"%.60s\"", m->path,
                       format, found);
    ZB_TRY(zb_json_int(o, m->path, "layers", true, 1, ZB_LAYERS_MAX, &layers, err));
    m->layers = (int)layers;
    ZB_TRY(zb_json_object(o, m->path, "teacher", true, &teacher, err));
    ZB_TRY(zb_json_int(teacher, m->path, "cache_bytes_per_token", true, 1, bytes_max,
                       &m->teacher_cache_bytes, err));
    ZB_TRY(read_number(teacher, m->path, "recall", 0, &m->teacher_recall, err));
    ZB_TRY(read_number(teacher, m->path, "cross_entropy", 0, &m->teacher_ce, err));
    ZB_TRY(zb_json_object(o, m->path, "setup", true, &m->setup, err));
    ZB_TRY(zb_json_array(o, m->path, "candidates", true, &list, err));
    json_array_foreach(list, i, v) {
        snprintf(where, sizeof where, "%s: candidates[%zu]", m->path, i);
        ZB_TRY(read_candidate(m, v, where, a, err));
    }
    ZB_TRY(zb_json_array(o, m->path, "measures", true, &list, err));
    json_array_foreach(list, i, v) {
        snprintf(where, sizeof where, "%s: measures[%zu]", m->path, i);
        ZB_TRY(read_row(m, v, where, err));
    }
    return ZB_OK;
}

zb_status zb_measures_read(zb_measures *m, const char *path, zb_arena *a, zb_err *err) {
    json_t *o;
    *m = (zb_measures){.path = path};
    ZB_TRY(zb_json_read(path, FILE_MAX, &o, err));
    zb_status s = read_all(m, o, a, err);
    if (s == ZB_OK)
        json_incref(m->setup);
    else
        m->setup = NULL;
    json_decref(o);
    return s;
}

zb_status zb_setup_match(const char *path, const json_t *was, const json_t *now, zb_err *err) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)now, key, v) {
        json_t *w = json_object_get(was, key);
        if (json_is_object(v) && json_is_object(w)) {
            ZB_TRY(zb_setup_match(path, w, v, err));
            continue;
        }
        if (w ? json_equal(v, w) : zb_contents_is(key)) continue; /* earlier versions kept none */
        zb_arena a = {0};
        const char *before = w ? zb_json_text(w, &a) : "nothing", *wanted = zb_json_text(v, &a);
        zb_status s = zb_fail(err, ZB_ERR_CONFIG, "%s: made with %s %.80s, found %.80s", path, key,
                              before ? before : "?", wanted ? wanted : "?");
        zb_arena_free(&a);
        return s;
    }
    return ZB_OK;
}

zb_status zb_setup_stale(const zb_err *why, bool renew, zb_err *err) {
    if (why->code == ZB_ERR_CONFIG && renew) {
        zb_info("select: %s: to be made again", why->msg);
        return ZB_OK;
    }
    bool other = why->code != ZB_ERR_CONFIG;
    return zb_fail(err, why->code, "%s%s", why->msg, other ? "" : ": remove it, or name another");
}

zb_status zb_measures_write(const zb_measures *m, zb_err *err) {
    json_t *candidates = json_array(), *rows = json_array();
    for (int c = 0; c < m->n; c++)
        json_array_append_new(candidates,
                              json_pack("{s:s,s:I,s:I,s:f}", "name", m->candidate[c].name, "rotary",
                                        (json_int_t)m->common[c][0], "window",
                                        (json_int_t)m->common[c][1], "weights", m->weights[c]));
    for (int l = 0; l < m->layers; l++)
        for (int c = 0; c < m->n; c++) {
            const zb_measure *r = &m->row[c][l];
            if (!r->done) continue;
            json_array_append_new(
                rows, json_pack("{s:i,s:s,s:f,s:f,s:f,s:I,s:I}", "layer", l, "candidate",
                                m->candidate[c].name, "kl", r->kl, "error", r->error, "recall",
                                r->recall, "cache_bytes_per_token", (json_int_t)r->cache_bytes,
                                "state_bytes", (json_int_t)r->state_bytes));
        }
    json_t *o =
        json_pack("{s:s,s:O,s:i,s:{s:I,s:f,s:f},s:o,s:o}", "format", format, "setup", m->setup,
                  "layers", m->layers, "teacher", "cache_bytes_per_token",
                  (json_int_t)m->teacher_cache_bytes, "recall", m->teacher_recall, "cross_entropy",
                  m->teacher_ce, "candidates", candidates, "measures", rows);
    zb_status s = zb_json_write(m->path, o, err);
    json_decref(o);
    return s;
}
