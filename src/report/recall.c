/* recall.c - see recall.h. */
#include "report/recall.h"

#include <math.h>
#include <string.h>

enum { CELLS_MAX = 4096 };

static zb_status share(const json_t *o, const char *where, const char *key, double *out,
                       zb_err *err) {
    *out = (double)NAN;
    ZB_TRY(zb_json_f64(o, where, key, false, out, err));
    if (*out < 0 || *out > 1)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected 0 to 1, found %g", where, key,
                       *out);
    return ZB_OK;
}

static zb_status read_cell(zb_report_measures *m, const json_t *o, const char *where,
                           zb_report_recall *c, zb_err *err) {
    double greedy;
    const char *test;
    *c = (zb_report_recall){.depth = -1};
    ZB_TRY(zb_json_str(o, where, "test", true, &test, err));
    ZB_TRY(zb_json_int(o, where, "length", true, 1, INT32_MAX, &c->length, err));
    ZB_TRY(zb_json_int(o, where, "depth", false, 0, 100, &c->depth, err));
    ZB_TRY(zb_json_int(o, where, "n", true, 1, INT32_MAX, &c->n, err));
    ZB_TRY(share(o, where, "score", &c->score, err));
    ZB_TRY(share(o, where, "greedy", &greedy, err));
    c->sure = isnan(c->score);
    if (c->sure) c->score = greedy;
    if (isnan(c->score))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected a key \"score\" or \"greedy\"", where);
    c->test = zb_strdup(&m->arena, test);
    return ZB_OK;
}

static zb_status read_pairs(const json_t *o, const char *where, zb_report_pairs *c, zb_err *err) {
    *c = (zb_report_pairs){0};
    ZB_TRY(zb_json_int(o, where, "pairs", true, 1, INT32_MAX, &c->pairs, err));
    ZB_TRY(zb_json_int(o, where, "distance", true, 1, INT32_MAX, &c->distance, err));
    ZB_TRY(share(o, where, "acc", &c->acc, err));
    ZB_TRY(share(o, where, "acc_stderr", &c->acc_stderr, err));
    return isnan(c->acc) ? zb_fail(err, ZB_ERR_FORMAT, "%s: key \"acc\" is missing", where) : ZB_OK;
}

/* The list `key` of objects. */
static zb_status take_list(const json_t *file, const char *path, const char *key, json_t **list,
                           zb_err *err) {
    json_t *v;
    size_t i;
    *list = NULL;
    ZB_TRY(zb_json_array(file, path, key, false, list, err));
    if (json_array_size(*list) > CELLS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: %s: expected at most %d items, found %zu", path,
                       key, CELLS_MAX, json_array_size(*list));
    json_array_foreach(*list, i, v) if (!json_is_object(v)) return zb_fail(
        err, ZB_ERR_FORMAT, "%s: %s[%zu]: expected an object, found %s", path, key, i,
        zb_json_type(v));
    return ZB_OK;
}

zb_status zb_report_recall_read(zb_report_measures *m, zb_report_measured *r, const json_t *file,
                                const char *path, zb_err *err) {
    json_t *cells, *pairs, *v;
    size_t i;
    char where[512];
    ZB_TRY(take_list(file, path, "cells", &cells, err));
    ZB_TRY(take_list(file, path, "associative", &pairs, err));
    r->recall = ZB_NEW_ARRAY(&m->arena, zb_report_recall, json_array_size(cells));
    r->pairs = ZB_NEW_ARRAY(&m->arena, zb_report_pairs, json_array_size(pairs));
    json_array_foreach(cells, i, v) {
        snprintf(where, sizeof where, "%s: cells[%zu]", path, i);
        ZB_TRY(read_cell(m, v, where, &r->recall[r->n_recall++], err));
    }
    json_array_foreach(pairs, i, v) {
        snprintf(where, sizeof where, "%s: associative[%zu]", path, i);
        ZB_TRY(read_pairs(v, where, &r->pairs[r->n_pairs++], err));
    }
    if (!r->n_recall && !r->n_pairs)
        zb_report_miss(m, "%s: %s holds no recall test", r->name, path);
    return ZB_OK;
}

bool zb_report_recall_first(const zb_report_measured *r, int i, bool length) {
    for (int k = 0; k < i; k++)
        if (!strcmp(r->recall[k].test, r->recall[i].test) &&
            (!length || r->recall[k].length == r->recall[i].length))
            return false;
    return true;
}

double zb_report_recall_mean(const zb_report_measured *r, const char *test, int64_t length) {
    double sum = 0, n = 0;
    for (int i = 0; i < r->n_recall; i++) {
        const zb_report_recall *c = &r->recall[i];
        if (strcmp(c->test, test) != 0 || c->length != length) continue;
        sum += c->score * (double)c->n;
        n += (double)c->n;
    }
    return n > 0 ? sum / n : (double)NAN;
}

bool zb_report_recall_sure(const zb_report_measured *r, const char *test, int64_t length) {
    for (int i = 0; i < r->n_recall; i++) {
        const zb_report_recall *c = &r->recall[i];
        if (!strcmp(c->test, test) && c->length == length && c->sure) return true;
    }
    return false;
}

const zb_report_recall *zb_report_recall_find(const zb_report_measured *r, const char *test,
                                              int64_t length, int64_t depth) {
    for (int i = 0; i < r->n_recall; i++) {
        const zb_report_recall *c = &r->recall[i];
        if (!strcmp(c->test, test) && c->length == length && c->depth == depth) return c;
    }
    return NULL;
}
