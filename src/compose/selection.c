/* selection.c - reading select.json (contract in selection.h). */
#include "compose/selection.h"

#include "base/json.h"

enum { FILE_MAX = 1 << 24 };

static zb_status read_plan(zb_selection *s, const json_t *list, const char *path, int layers,
                           zb_arena *a, zb_err *err) {
    json_t *v;
    size_t i;
    int rotary = 0;
    if (json_array_size(list) != (size_t)layers)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: plan: expected %d layers, found %zu", path, layers,
                       json_array_size(list));
    s->plan = ZB_NEW_ARRAY(a, zb_candidate, layers);
    json_array_foreach(list, i, v) {
        const char *name, *where = zb_asprintf(a, "%s: plan[%zu]", path, i);
        zb_candidate *c = &s->plan[i];
        if (!json_is_object(v))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                           zb_json_type(v));
        ZB_TRY(zb_json_str(v, where, "candidate", true, &name, err));
        ZB_TRY(zb_candidate_parse(c, name, where, a, err));
        if (c->what != ZB_CANDIDATE_KIND)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: %s is no kind of layer", where, name);
        if (c->kind != ZB_MLA || c->from) continue;
        if (rotary && rotary != c->more)
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: expected the rotary size %d of earlier layers, found %d", where,
                           rotary, c->more);
        rotary = c->more;
    }
    return ZB_OK;
}

static zb_status read_all(zb_selection *s, const json_t *o, const char *path, int layers,
                          zb_arena *a, zb_err *err) {
    json_t *list = NULL, *v;
    size_t i;
    if (!json_is_object(o))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", path,
                       zb_json_type(o));
    ZB_TRY(zb_json_array(o, path, "plan", false, &list, err));
    if (list) return read_plan(s, list, path, layers, a, err);
    ZB_TRY(zb_json_str(o, path, "retrieval_heads", false, &s->heads, err));
    if (s->heads) s->heads = zb_strdup(a, s->heads);
    ZB_TRY(zb_json_array(o, path, "layers", !s->heads, &list, err));
    if (!list) return ZB_OK;
    s->layers = "";
    json_array_foreach(list, i, v) s->layers =
        zb_asprintf(a, "%s%s%lld", s->layers, i ? "," : "",
                    json_is_integer(v) ? (long long)json_integer_value(v) : -1LL);
    return ZB_OK;
}

zb_status zb_selection_read(zb_selection *s, const char *path, int layers, zb_arena *a,
                            zb_err *err) {
    json_t *o;
    *s = (zb_selection){0};
    ZB_TRY(zb_json_read(path, FILE_MAX, &o, err));
    zb_status st = read_all(s, o, path, layers, a, err);
    json_decref(o);
    return st;
}
