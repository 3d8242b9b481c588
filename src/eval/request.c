/* request.c - tokens of a question and the order of the questions (contract in request.h).
 *
 * Boundary. Trailing white space of the context moves to the front of the continuation. Then
 *     ids_c = ids(context),   ids_w = ids(context + continuation),   continuation =
 * ids_w[len(ids_c):] and the model reads ids_c + continuation. (A merge across the boundary makes
 * ids_w no extension of ids_c; the harness scores it in this way all the same, and so do we.) An
 * empty context becomes the prefix token; if the continuation itself starts with that token, this
 * one is the context and is not scored. Length. The input is the last max_length + 1 ids without
 * the last one: cut on the left, the continuation is never cut. BOS. Put before the text unless the
 * text begins with it already. */
#include "eval/request.h"

#include "base/log.h"
#include "eval/text_rule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CALL_TOKENS = 4096, /* of one call of the scorer: seconds of work, so that progress and Ctrl-C
                            stay alive */
    CALL_REQUESTS = 4096,
};

/* Text inside a document that spells a special token becomes that token, as in the harness. */
static zb_status encode(const zb_request_maker *m, zb_str text, bool with_bos, zb_ids *out,
                        zb_err *err) {
    zb_ids ids;
    ZB_TRY(zb_tokenizer_encode(m->tokenizer, text, false, true, m->arena, &ids, err));
    *out = ids;
    if (!with_bos || m->bos < 0) return ZB_OK;
    zb_str bos = zb_tokenizer_piece(m->tokenizer, m->bos);
    if (bos.n > 0 && zb_str_starts(text, bos)) return ZB_OK;
    out->n = ids.n + 1;
    out->id = ZB_NEW_ARRAY(m->arena, int32_t, out->n);
    out->id[0] = m->bos;
    if (ids.n) memcpy(out->id + 1, ids.id, ids.n * sizeof *ids.id);
    return ZB_OK;
}

static zb_str concat(zb_arena *a, zb_str head, zb_str tail) {
    char *p = zb_alloc(a, head.n + tail.n + 1);
    if (head.n) memcpy(p, head.p, head.n);
    if (tail.n) memcpy(p + head.n, tail.p, tail.n);
    return (zb_str){p, head.n + tail.n};
}

/* An empty context: m->ids becomes the prefix token, *tail the continuation. */
static zb_status split_prefix(zb_request_maker *m, zb_str continuation, zb_ids *tail, zb_err *err) {
    if (m->prefix < 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "the context is empty and the tokenizer has neither BOS nor EOS");
    ZB_TRY(encode(m, continuation, false, tail, err));
    if (m->context.n > 0 || !m->ids.id) {
        m->ids = (zb_ids){.id = ZB_NEW(m->arena, int32_t), .n = 1};
        m->ids.id[0] = m->prefix;
        m->context = (zb_str){NULL, 0};
    }
    if (tail->n && tail->id[0] == m->prefix) *tail = (zb_ids){tail->id + 1, tail->n - 1};
    return ZB_OK;
}

/* The ids before truncation: m->ids those of the context, *tail those of the continuation. */
static zb_status split(zb_request_maker *m, zb_str context, zb_str continuation, zb_ids *tail,
                       zb_err *err) {
    if (context.n == 0) return split_prefix(m, continuation, tail, err);
    zb_ids whole;
    ZB_TRY(encode(m, concat(m->arena, context, continuation), true, &whole, err));
    if (m->context.p != context.p || m->context.n != context.n) {
        ZB_TRY(encode(m, context, true, &m->ids, err));
        m->context = context;
    }
    size_t skip = m->ids.n < whole.n ? m->ids.n : whole.n;
    *tail = (zb_ids){whole.id + skip, whole.n - skip};
    return ZB_OK;
}

zb_status zb_request_make(zb_request_maker *m, zb_str context, zb_str continuation,
                          const char *where, zb_loglik_request *out, zb_err *err) {
    size_t spaces = zb_text_trailing_space(context);
    if (spaces) {
        context.n -= spaces;
        continuation = concat(m->arena, (zb_str){context.p + context.n, spaces}, continuation);
    }
    zb_ids tail = {0};
    zb_status s = split(m, context, continuation, &tail, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s", where);
    if (tail.n == 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: a choice adds no token to its context", where);
    if (tail.n > (size_t)m->max_length)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: a choice has %zu tokens, expected at most %d (max_length)", where,
                       tail.n, m->max_length);
    size_t room = (size_t)m->max_length + 1 - tail.n;
    size_t kept = m->ids.n < room ? m->ids.n : room;
    *out = (zb_loglik_request){
        .context = m->ids.id + (m->ids.n - kept),
        .n_context = (int)kept,
        .continuation = tail.id,
        .n_continuation = (int)tail.n,
    };
    return ZB_OK;
}

/* Neighbouring requests with one context: requests [first, first + n). */
typedef struct run {
    size_t first, n;
    size_t longest, tokens; /* of its longest request; the context once and all continuations */
} run;

static int longest_first(const void *a, const void *b) {
    const run *x = a, *y = b;
    if (x->longest != y->longest) return x->longest < y->longest ? 1 : -1;
    return x->first < y->first ? -1 : x->first > y->first;
}

static size_t make_runs(zb_loglik_request *r, size_t n, run *runs) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        bool same =
            i > 0 && r[i].context == r[i - 1].context && r[i].n_context == r[i - 1].n_context;
        if (!same) runs[count++] = (run){.first = i, .tokens = (size_t)r[i].n_context};
        run *u = &runs[count - 1];
        size_t length = (size_t)r[i].n_context + (size_t)r[i].n_continuation;
        u->n++;
        u->tokens += (size_t)r[i].n_continuation;
        if (length > u->longest) u->longest = length;
        r[i].group = (int64_t)count - 1;
    }
    return count;
}

/* All that a call of the scorer needs: requests, their runs in order, and where the answers go. */
typedef struct job {
    const zb_scorer *scorer;
    const zb_loglik_request *request;
    const run *runs;
    zb_loglik *out;
    zb_arena *arena;
} job;

/* One call for runs [from, to) with n requests; the answers go back to their requests' places. */
static zb_status call(const job *j, size_t from, size_t to, size_t n, zb_err *err) {
    zb_loglik_request *batch = ZB_NEW_ARRAY(j->arena, zb_loglik_request, n);
    zb_loglik *answer = ZB_NEW_ARRAY(j->arena, zb_loglik, n);
    size_t k = 0;
    for (size_t i = from; i < to; i++)
        for (size_t q = 0; q < j->runs[i].n; q++) batch[k++] = j->request[j->runs[i].first + q];
    ZB_TRY(j->scorer->loglik(j->scorer->self, batch, (int)n, answer, err));
    for (size_t i = 0; i < n; i++)
        if (isnan(answer[i].logprob))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "the model gives a log-probability that is not a number");
    k = 0;
    for (size_t i = from; i < to; i++)
        for (size_t q = 0; q < j->runs[i].n; q++) j->out[j->runs[i].first + q] = answer[k++];
    return ZB_OK;
}

/* The end of the runs that go into one call together with run `from`; *n counts their requests. */
static size_t call_end(const run *runs, size_t count, size_t from, size_t *n) {
    size_t to = from, tokens = 0;
    for (*n = 0; to < count; to++) {
        tokens += runs[to].tokens;
        if (to > from && (tokens > CALL_TOKENS || *n + runs[to].n > CALL_REQUESTS)) break;
        *n += runs[to].n;
    }
    return to;
}

zb_status zb_request_score(const zb_scorer *s, zb_loglik_request *r, size_t n, const char *what,
                           zb_arena *a, zb_loglik *out, zb_err *err) {
    run *runs = ZB_NEW_ARRAY(a, run, n + 1);
    size_t count = make_runs(r, n, runs), done = 0;
    qsort(runs, count, sizeof *runs, longest_first);
    job j = {.scorer = s, .request = r, .runs = runs, .out = out, .arena = a};
    zb_progress progress;
    zb_progress_begin(&progress, what, "requests", 0, (double)n);
    zb_status status = ZB_OK;
    for (size_t from = 0; from < count && status == ZB_OK;) {
        if (zb_interrupted()) {
            status = zb_fail(err, ZB_ERR_INTERRUPTED, "%s: interrupted after %zu of %zu requests",
                             what, done, n);
            break;
        }
        size_t requests, to = call_end(runs, count, from, &requests);
        zb_mark mark = zb_arena_mark(a);
        status = call(&j, from, to, requests, err);
        zb_arena_pop(a, mark);
        done += requests;
        zb_progress_update(&progress, (double)done, NULL);
        from = to;
    }
    zb_progress_end(&progress, (double)done, NULL);
    return status;
}
