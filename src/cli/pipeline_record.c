/* pipeline_record.c - see pipeline_record.h. */
#include "cli/pipeline_record.h"

#include "base/contents.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "train/stage.h"

#include <string.h>

enum { RECORD_MAX = 1 << 20 };

/* A path may be no UTF-8, which JSON cannot hold. */
static json_t *text_of(const char *s, zb_arena *a) {
    json_t *v = json_string(s);
    return v ? v : json_string(zb_digest(a, s));
}

static bool same_text(const json_t *record, const char *key, const char *is, zb_arena *a) {
    json_t *now = text_of(is, a);
    bool same = json_equal(json_object_get(record, key), now);
    json_decref(now);
    return same;
}

/* Why the record does not hold; NULL: it does. */
static const char *change_of(const zb_record *r, const json_t *record, zb_arena *a) {
    const json_t *old = json_object_get(record, "options");
    if (!json_is_object(old)) return "its record cannot be read";
    if (!same_text(record, "teacher", r->teacher, a)) return "the teacher was another";
    const char *was = json_string_value(json_object_get(record, "teacher_contents"));
    if (was && r->contents && strcmp(was, r->contents) != 0)
        return zb_asprintf(a, "the teacher's contents were \"%.60s\", are \"%s\"", was,
                           r->contents);
    json_t *defaults = zb_opts_default_json(r->options);
    zb_contents_assume(defaults, r->values);
    const char *change = zb_opts_change(old, r->values, defaults, a);
    json_decref(defaults);
    if (!change && r->from && !same_text(record, "from", r->from, a))
        change = "the model that it starts from was another";
    return change;
}

static const char *id_of(const zb_record *r, zb_arena *a) {
    const char *values = zb_json_text(r->values, a);
    const char *from = r->from ? r->from : "";
    const char *contents = r->contents ? r->contents : ""; /* ids of earlier records stay */
    return zb_digest(a,
                     zb_asprintf(a, "%s|%s|%s%s|%s", r->name, from, r->teacher, contents, values));
}

void zb_record_read(zb_record *r, zb_arena *a) {
    json_t *record = NULL;
    r->values = zb_opts_json(r->options);
    zb_stage_remove_free(r->values);
    r->seconds = 0;
    r->why = "not run yet";
    bool there = zb_file_exists(r->path);
    if (there) (void)zb_json_read(r->path, RECORD_MAX, &record, NULL);
    zb_contents_add(r->values, json_object_get(record, "options"));
    json_object_del(r->values, "measures (contents)"); /* selecting itself adds to it */
    if (there) r->why = change_of(r, record, a);
    r->finished = json_is_true(json_object_get(record, "done"));
    if (!r->why) {
        r->seconds = json_number_value(json_object_get(record, "seconds"));
        json_decref(r->values); /* as it was made: later records name it so */
        r->values = json_incref(json_object_get(record, "options"));
        const char *contents = json_string_value(json_object_get(record, "teacher_contents"));
        r->contents = contents ? zb_strdup(a, contents) : NULL;
        if (!r->finished) r->why = "begun before";
    }
    json_decref(record);
    r->id = id_of(r, a);
}

zb_status zb_record_write(const zb_record *r, double seconds, bool done, zb_err *err) {
    zb_arena a = {0};
    json_t *o = json_pack("{s:o, s:s*, s:s, s:O, s:f, s:b}", "teacher", text_of(r->teacher, &a),
                          "teacher_contents", r->contents, "from", r->from ? r->from : "",
                          "options", r->values, "seconds", seconds, "done", done);
    zb_status s = zb_json_write_exact(r->path, o, err);
    json_decref(o);
    zb_arena_free(&a);
    return s;
}

void zb_record_free(zb_record *r) { json_decref(r->values); }
