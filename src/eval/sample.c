/* sample.c - samples files (contract in sample.h).
 *
 * Keys and their forms are the harness's: arguments.gen_args_<i>.{arg_0 context, arg_1
 * continuation}, resps and filtered_resps with numbers as text, SHA-256 of the row (indented by
 * two, UTF-8), of the first choice's context and of the target. For HellaSwag the harness adds
 * fields of its own to the row before it hashes it; ours is the row as it stands in the data file.
 */
#include "eval/sample.h"

#include "base/file.h"
#include "base/json.h"
#include "eval/digest.h"
#include "eval/result.h"

#include <string.h>

static int into_buf(const char *bytes, size_t n, void *buf) {
    zb_buf_add(buf, bytes, n);
    return 0;
}

static json_t *text(zb_str s) { return json_stringn(s.p, s.n); }

static json_t *digest(zb_str s) {
    char hex[65];
    zb_digest_sha256(s.p, s.n, hex);
    return json_string(hex);
}

/* 17 digits give the same double back; "True" and "False" are Python's. */
static json_t *response(const zb_loglik *l) {
    char number[40];
    snprintf(number, sizeof number, "%.17g", l->logprob);
    return json_pack("[s,s]", number, l->greedy ? "True" : "False");
}

/* One line of the file as an object; `scratch` holds the row's text for its hash. */
static json_t *sample_json(const zb_task *t, const zb_document *d, zb_buf *scratch) {
    json_t *o = json_object(), *arguments = json_object(), *resps = json_array(),
           *filtered = json_array();
    zb_buf_clear(scratch);
    json_dump_callback(d->row, into_buf, scratch, JSON_INDENT(2));
    for (int i = 0; i < d->n_choices; i++) {
        const zb_choice *c = &d->choice[i];
        char key[32];
        snprintf(key, sizeof key, "gen_args_%d", i);
        json_object_set_new(
            arguments, key,
            json_pack("{s:o,s:o}", "arg_0", text(c->context), "arg_1", text(c->continuation)));
        json_array_append_new(resps, json_pack("[o]", response(&c->score)));
        json_array_append_new(filtered, response(&c->score));
    }
    json_object_set_new(o, "doc_id", json_integer(d->id));
    json_object_set(o, "doc", d->row);
    json_object_set_new(o, "target", json_string(d->target));
    json_object_set_new(o, "arguments", arguments);
    json_object_set_new(o, "resps", resps);
    json_object_set_new(o, "filtered_resps", filtered);
    json_object_set_new(o, "filter", json_string("none"));
    json_object_set_new(o, "metrics",
                        t->acc_norm ? json_pack("[s,s]", "acc", "acc_norm")
                                    : json_pack("[s]", "acc"));
    json_object_set_new(o, "doc_hash", digest(zb_buf_str(scratch)));
    json_object_set_new(o, "prompt_hash", digest(d->choice[0].context));
    json_object_set_new(o, "target_hash", digest(zb_str_from(d->target)));
    json_object_set_new(o, "acc", json_real(zb_document_acc(d, false)));
    if (t->acc_norm) json_object_set_new(o, "acc_norm", json_real(zb_document_acc(d, true)));
    return o;
}

/* Documents of other parts are passed over: they have files of their own. */
static zb_status write_leaf(zb_writer *w, const zb_task *t, int leaf, const zb_document_set *docs,
                            zb_buf *line, zb_err *err) {
    for (size_t i = 0; i < docs->n; i++) {
        if (docs->doc[i].leaf != leaf) continue;
        json_t *o = sample_json(t, &docs->doc[i], line);
        zb_buf_clear(line);
        json_dump_callback(o, into_buf, line, 0);
        zb_buf_addc(line, '\n');
        json_decref(o);
        if (line->overflow)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: the sample is too long", docs->doc[i].where);
        ZB_TRY(zb_writer_add(w, line->p, line->n, err));
    }
    return ZB_OK;
}

static zb_status write_file(const char *dir, const zb_task *t, int leaf,
                            const zb_document_set *docs, zb_arena *a, zb_err *err) {
    zb_writer w;
    zb_buf line;
    const char *path = zb_path_join(a, dir, zb_asprintf(a, "samples_%s.jsonl", t->leaf[leaf].name));
    zb_status s = zb_writer_open(&w, path, a, err);
    if (s != ZB_OK) return s;
    zb_buf_init(&line, 1u << 30);
    s = write_leaf(&w, t, leaf, docs, &line, err);
    if (s == ZB_OK) s = zb_writer_close(&w, err);
    zb_writer_abort(&w);
    zb_buf_free(&line);
    return s;
}

zb_status zb_samples_write(const char *dir, const zb_task *t, const zb_document_set *docs,
                           zb_err *err) {
    zb_arena a = {0};
    zb_status s = zb_dir_make(dir, err);
    for (int i = 0; i < t->n_leaves && s == ZB_OK; i++)
        if (t->leaf[i].selected) s = write_file(dir, t, i, docs, &a, err);
    zb_arena_free(&a);
    return s;
}
