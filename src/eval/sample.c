/* sample.c - samples files (contract in sample.h).
 *
 * Keys and their forms are the harness's: arguments.gen_args_<i>.{arg_0 context, arg_1
 * continuation}, resps and filtered_resps with numbers as text, SHA-256 of the row (indented by
 * two, UTF-8), of the first context and of the target. A task with filters has one line per
 * document and filter. */
#include "eval/sample.h"

#include "base/file.h"
#include "base/json.h"
#include "eval/digest.h"
#include "eval/result.h"

#include <math.h>
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

/* Context and continuation of every choice, and the answers; a rolling task has only the text, a
 * generated one the prompt and how the text ends. */
static void put_answers(json_t *o, const zb_task *t, const zb_document *d, const zb_filter *f,
                        zb_arena *a) {
    json_t *arguments = json_object(), *resps = json_array(), *filtered = json_array();
    for (int i = 0; i < d->n_choices; i++) {
        const zb_choice *c = &d->choice[i];
        json_t *args = json_object(), *until = json_array();
        bool rolling = t->output == ZB_TASK_ROLLING, generate = t->output == ZB_TASK_GENERATE;
        json_object_set_new(args, "arg_0", text(rolling ? c->continuation : c->context));
        for (int k = 0; k < t->n_until; k++) json_array_append_new(until, json_string(t->until[k]));
        if (generate)
            json_object_set_new(
                args, "arg_1",
                json_pack("{s:O, s:b, s:f}", "until", until, "do_sample", 0, "temperature", 0.0));
        else if (!rolling)
            json_object_set_new(args, "arg_1", text(c->continuation));
        json_decref(until);
        json_object_set_new(arguments, zb_asprintf(a, "gen_args_%d", i), args);
        json_array_append_new(resps,
                              json_pack("[o]", generate ? text(d->reply) : response(&c->score)));
        json_array_append_new(filtered, generate
                                            ? text(f ? zb_filter_apply(f, d->reply, a) : d->reply)
                                            : response(&c->score));
    }
    json_object_set_new(o, "arguments", arguments);
    json_object_set_new(o, "resps", resps);
    json_object_set_new(o, "filtered_resps", filtered);
}

/* A weighted metric is a pair, as in the harness; what is no number is null. */
static json_t *value_json(const zb_score_kind *k, zb_score_value v) {
    if (k->sum == ZB_SCORE_RATIO || k->sum == ZB_SCORE_BITS)
        return json_pack("[f, I]", v.x, (json_int_t)v.weight);
    return isfinite(v.x) ? json_real(v.x) : json_null();
}

/* One line of the file as an object; `scratch` holds the row's text for its hash. */
static json_t *sample_json(const zb_task *t, const zb_document *d, const zb_filter *f,
                           zb_buf *scratch, zb_arena *a) {
    json_t *o = json_object(), *metrics = json_array();
    zb_buf_clear(scratch);
    json_dump_callback(d->row, into_buf, scratch, JSON_INDENT(2));
    json_object_set_new(o, "doc_id", json_integer(d->id));
    json_object_set(o, "doc", (json_t *)d->row);
    json_object_set_new(o, "target", json_string(d->target));
    put_answers(o, t, d, f, a);
    json_object_set_new(o, "filter", json_string(f ? f->name : "none"));
    json_object_set_new(o, "metrics", metrics);
    json_object_set_new(o, "doc_hash", digest(zb_buf_str(scratch)));
    json_object_set_new(
        o, "prompt_hash",
        digest(t->output == ZB_TASK_ROLLING ? d->choice[0].continuation : d->choice[0].context));
    json_object_set_new(o, "target_hash", digest(zb_str_from(d->target)));
    for (int i = 0; i < t->n_metrics; i++) {
        const zb_score_kind *k = t->metric[i].kind;
        if (t->metric[i].filter != f) continue;
        json_array_append_new(metrics, json_string(k->name));
        json_object_set_new(o, k->name, value_json(k, k->of(t, d, f, a)));
    }
    return o;
}

static zb_status write_line(zb_writer *w, const zb_task *t, const zb_document *d,
                            const zb_filter *f, zb_buf *line, zb_arena *a, zb_err *err) {
    zb_mark mark = zb_arena_mark(a);
    json_t *o = sample_json(t, d, f, line, a);
    zb_arena_pop(a, mark);
    zb_buf_clear(line);
    json_dump_callback(o, into_buf, line, 0);
    zb_buf_addc(line, '\n');
    json_decref(o);
    if (line->overflow) return zb_fail(err, ZB_ERR_FORMAT, "%s: the sample is too long", d->where);
    return zb_writer_add(w, line->p, line->n, err);
}

/* Documents of other parts are passed over: they have files of their own. The filters come one
 * after another, each with all documents, as metrics of one kind stand side by side. */
static zb_status write_leaf(zb_writer *w, const zb_task *t, int leaf, const zb_document_set *docs,
                            zb_buf *line, zb_arena *a, zb_err *err) {
    for (int m = 0; m < t->n_metrics && t->metric[m].kind == t->metric[0].kind; m++)
        for (size_t i = 0; i < docs->n; i++)
            if (docs->doc[i].leaf == leaf)
                ZB_TRY(write_line(w, t, &docs->doc[i], t->metric[m].filter, line, a, err));
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
    s = write_leaf(&w, t, leaf, docs, &line, a, err);
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
