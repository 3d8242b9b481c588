/* request_run.c - the order of the questions, and who answers them (contract in request.h).
 *
 * Contexts that begin alike (a subject's introduction, examples) become neighbours, and what they
 * share is passed once for all of them. Requests are put into calls of about CALL_TOKENS tokens.
 * What is shared and the calls depend on the requests alone, so any number of processes and any
 * cache lead to the same calls, and to the same numbers: call k belongs to process k mod size, and
 * of a call that the cache holds in part only the missing groups are computed. */
#include "eval/request.h"

#include "base/log.h"
#include "eval/digest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    CALL_TOKENS = 4096, /* of one call of the scorer: seconds of work, so that progress and Ctrl-C
                            stay alive */
    CALL_REQUESTS = 4096,
    WRITE_REQUESTS = 16, /* texts are written side by side */
    SHARED_MIN = 8,      /* fewer shared tokens are not worth a state to copy */
    SHARED_GAIN = 128,   /* tokens saved that are worth a batch of their own */
};

/* Neighbouring requests with one context: requests [first, first + n). */
typedef struct group {
    size_t first, n;
    const int32_t *context;
    size_t n_context, tokens; /* the context once and all continuations, without what is shared */
    size_t alike;             /* tokens in common with the group before, at most all but the last */
} group;

static int by_context(const void *a, const void *b) {
    const group *x = a, *y = b;
    size_t n = x->n_context < y->n_context ? x->n_context : y->n_context;
    int order = memcmp(x->context, y->context, n * sizeof *x->context);
    if (order) return order;
    if (x->n_context != y->n_context) return x->n_context < y->n_context ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

static size_t make_groups(zb_loglik_request *r, size_t n, group *groups) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        bool same =
            i > 0 && r[i].context == r[i - 1].context && r[i].n_context == r[i - 1].n_context;
        size_t context = (size_t)r[i].n_context;
        if (!same)
            groups[count++] = (group){
                .first = i, .context = r[i].context, .n_context = context, .tokens = context};
        groups[count - 1].n++;
        groups[count - 1].tokens += (size_t)r[i].n_continuation;
        r[i].group = (int64_t)count - 1;
    }
    return count;
}

static void sort_groups(group *groups, size_t count) {
    qsort(groups, count, sizeof *groups, by_context);
    for (size_t i = 1; i < count; i++) {
        const group *x = &groups[i - 1], *y = &groups[i];
        size_t k = 0, most = (x->n_context < y->n_context ? x->n_context : y->n_context) - 1;
        while (k < most && x->context[k] == y->context[k]) k++;
        groups[i].alike = k;
    }
}

/* Whether groups from `start` on, passed for themselves, would share enough beyond `shared`. */
static bool better_apart(const group *groups, size_t count, size_t start, size_t shared) {
    size_t common = SIZE_MAX;
    for (size_t i = start + 1; i < count; i++) {
        if (groups[i].alike < common) common = groups[i].alike;
        if (common <= shared) return false;
        if ((common - shared) * (i - start) > SHARED_GAIN) return true;
    }
    return false;
}

/* The end of the run of groups from `from` on that pass a beginning together, of *shared tokens: it
 * goes on until a group would cost the others too much of it, or does better without them. */
static size_t run_end(const group *groups, size_t count, size_t from, size_t *shared) {
    size_t to = from + 1, common = SIZE_MAX;
    for (; to < count; to++) {
        size_t left = groups[to].alike < common ? groups[to].alike : common, saved = to - from - 1;
        if (saved > 0 && (common - left) * saved > SHARED_GAIN) break;
        if (better_apart(groups, count, to, left)) break;
        common = left;
    }
    *shared = to > from + 1 && common >= SHARED_MIN ? common : 0;
    return to;
}

static void share_beginnings(zb_loglik_request *r, group *groups, size_t count) {
    for (size_t from = 0, to; from < count; from = to) {
        size_t shared;
        to = run_end(groups, count, from, &shared);
        for (size_t i = from; i < to; i++) {
            groups[i].tokens -= shared;
            for (size_t q = 0; q < groups[i].n; q++) r[groups[i].first + q].n_shared = (int)shared;
        }
    }
}

/* The end of the groups that go into one call together with group `from`; *n counts their
 * requests. */
static size_t call_end(const group *groups, size_t count, size_t from, size_t *n) {
    size_t to = from, tokens = 0;
    for (*n = 0; to < count; to++) {
        tokens += groups[to].tokens;
        if (to > from && (tokens > CALL_TOKENS || *n + groups[to].n > CALL_REQUESTS)) break;
        *n += groups[to].n;
    }
    return to;
}

/* What a request is found by. */
static zb_cache_key loglik_key(const zb_loglik_request *r, zb_arena *a) {
    size_t n = (size_t)r->n_context + (size_t)r->n_continuation;
    zb_mark mark = zb_arena_mark(a);
    int32_t *all = ZB_NEW_ARRAY(a, int32_t, n + 2);
    all[0] = 'L';
    all[1] = r->n_context;
    memcpy(all + 2, r->context, (size_t)r->n_context * sizeof *all);
    memcpy(all + 2 + r->n_context, r->continuation, (size_t)r->n_continuation * sizeof *all);
    zb_cache_key key = {{0}};
    zb_digest_sha256(all, (n + 2) * sizeof *all, key.hex);
    zb_arena_pop(a, mark);
    return key;
}

/* A record: the double, then one byte for greedy. */
enum { ANSWER = sizeof(double) + 1 };

static bool cached(const zb_request_run *run, const zb_loglik_request *r, zb_loglik *out) {
    if (!run->cache) return false;
    zb_cache_key key = loglik_key(r, run->arena);
    zb_str value;
    if (!zb_cache_find(run->cache, &key, &value) || value.n != ANSWER) return false;
    memcpy(&out->logprob, value.p, sizeof(double));
    out->greedy = value.p[sizeof(double)] != 0;
    return true;
}

static zb_status keep(const zb_request_run *run, const zb_loglik_request *r, const zb_loglik *l,
                      zb_err *err) {
    if (!run->cache) return ZB_OK;
    char value[ANSWER];
    memcpy(value, &l->logprob, sizeof(double));
    value[sizeof(double)] = l->greedy ? 1 : 0;
    zb_cache_key key = loglik_key(r, run->arena);
    return zb_cache_add(run->cache, &key, (zb_str){value, ANSWER}, err);
}

/* Answers `count` groups; the answers go to their requests' places in out. */
static zb_status call(const zb_request_run *run, const zb_loglik_request *r, const group *groups,
                      size_t count, zb_loglik *out, zb_err *err) {
    size_t n = 0, k = 0;
    for (size_t i = 0; i < count; i++) n += groups[i].n;
    zb_loglik_request *batch = ZB_NEW_ARRAY(run->arena, zb_loglik_request, n);
    zb_loglik *answer = ZB_NEW_ARRAY(run->arena, zb_loglik, n);
    size_t *place = ZB_NEW_ARRAY(run->arena, size_t, n);
    for (size_t i = 0; i < count; i++) {
        const group *g = &groups[i];
        bool known = true;
        for (size_t q = g->first; q < g->first + g->n && known; q++)
            known = cached(run, &r[q], &out[q]);
        for (size_t q = g->first; q < g->first + g->n && !known; q++) {
            place[k] = q;
            batch[k++] = r[q];
        }
    }
    if (k == 0) return ZB_OK;
    ZB_TRY(run->scorer->loglik(run->scorer->self, batch, (int)k, answer, err));
    for (size_t i = 0; i < k; i++) {
        if (isnan(answer[i].logprob))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "the model gives a log-probability that is not a number");
        out[place[i]] = answer[i];
        ZB_TRY(keep(run, &batch[i], &answer[i], err));
    }
    return run->cache ? zb_cache_flush(run->cache, err) : ZB_OK;
}

/* Every process receives the answers of the others' calls. */
static void share(const zb_request_run *run, const group *groups, size_t count, zb_loglik *out) {
    if (run->shard->size == 1) return;
    size_t k = 0, requests;
    for (size_t from = 0, to; from < count; from = to, k++) {
        to = call_end(groups, count, from, &requests);
        for (size_t i = from; i < to; i++)
            zb_shard_share(run->shard, (int)(k % (size_t)run->shard->size), out + groups[i].first,
                           groups[i].n * sizeof *out);
    }
}

static zb_status stopped(const zb_request_run *run, size_t done, size_t n, zb_err *err) {
    return zb_fail(err, ZB_ERR_INTERRUPTED, "%s: interrupted after %zu of %zu requests", run->what,
                   done, n);
}

zb_status zb_request_score(const zb_request_run *run, zb_loglik_request *r, size_t n,
                           zb_loglik *out, zb_err *err) {
    group *groups = ZB_NEW_ARRAY(run->arena, group, n + 1);
    size_t count = make_groups(r, n, groups), done = 0, k = 0;
    sort_groups(groups, count);
    share_beginnings(r, groups, count);
    zb_progress progress;
    zb_progress_begin(&progress, run->what, "requests", 0, (double)n);
    zb_status status = ZB_OK;
    for (size_t from = 0; from < count && status == ZB_OK; k++) {
        if (zb_interrupted()) {
            status = stopped(run, done, n, err);
            break;
        }
        size_t requests, to = call_end(groups, count, from, &requests);
        zb_mark mark = zb_arena_mark(run->arena);
        if (k % (size_t)run->shard->size == (size_t)run->shard->rank)
            status = call(run, r, groups + from, to - from, out, err);
        zb_arena_pop(run->arena, mark);
        done += requests;
        zb_progress_update(&progress, (double)done, NULL);
        from = to;
    }
    zb_progress_end(&progress, (double)done, NULL);
    ZB_TRY(zb_shard_agree(run->shard, status, err));
    share(run, groups, count, out);
    return ZB_OK;
}

static zb_cache_key write_key(const zb_write_request *r, zb_str salt) {
    zb_buf all;
    zb_cache_key key = {{0}};
    zb_buf_init(&all, (size_t)1 << 30);
    zb_buf_addf(&all, "W%d %d\n", r->max, r->n_context);
    zb_buf_add(&all, r->context, (size_t)r->n_context * sizeof *r->context);
    if (r->n_answer) {
        zb_buf_addf(&all, "A%d\n", r->n_answer);
        zb_buf_add(&all, r->answer, (size_t)r->n_answer * sizeof *r->answer);
    }
    zb_buf_add(&all, salt.p, salt.n);
    zb_digest_sha256(all.p, all.n, key.hex);
    zb_buf_free(&all);
    return key;
}

/* A record of a text: its ids; before them the score of the answer, if one was scored. */
static bool text_from(zb_write_request *r, zb_str value) {
    size_t head = r->n_answer ? ANSWER : 0;
    if (value.n < head || value.n - head > (size_t)r->max * sizeof *r->ids) return false;
    if (head) {
        memcpy(&r->answer_score.logprob, value.p, sizeof(double));
        r->answer_score.greedy = value.p[sizeof(double)] != 0;
    }
    if (value.n > head) memcpy(r->ids, value.p + head, value.n - head);
    r->n_ids = (int)((value.n - head) / sizeof *r->ids);
    return true;
}

static zb_status keep_text(const zb_request_run *run, const zb_write_request *r, zb_str salt,
                           zb_err *err) {
    zb_cache_key key = write_key(r, salt);
    zb_buf value;
    char greedy = r->answer_score.greedy ? 1 : 0;
    zb_buf_init(&value, (size_t)1 << 24);
    if (r->n_answer) {
        zb_buf_add(&value, &r->answer_score.logprob, sizeof(double));
        zb_buf_addc(&value, greedy);
    }
    zb_buf_add(&value, r->ids, (size_t)r->n_ids * sizeof *r->ids);
    zb_status s = zb_cache_add(run->cache, &key, zb_buf_str(&value), err);
    zb_buf_free(&value);
    return s;
}

/* Writes texts [from, from + n), those the cache lacks. */
static zb_status write_call(const zb_request_run *run, zb_write_request *r, size_t n, zb_str salt,
                            zb_err *err) {
    zb_write_request batch[WRITE_REQUESTS];
    size_t place[WRITE_REQUESTS], k = 0;
    for (size_t i = 0; i < n; i++) {
        zb_str value;
        zb_cache_key key = write_key(&r[i], salt);
        if (run->cache && zb_cache_find(run->cache, &key, &value) && text_from(&r[i], value))
            continue;
        place[k] = i;
        batch[k++] = r[i];
    }
    if (k == 0) return ZB_OK;
    ZB_TRY(run->scorer->write(run->scorer->self, batch, (int)k, err));
    for (size_t i = 0; i < k; i++) {
        r[place[i]] = batch[i];
        if (batch[i].n_answer && isnan(batch[i].answer_score.logprob))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "the model gives a log-probability that is not a number");
        if (run->cache) ZB_TRY(keep_text(run, &batch[i], salt, err));
    }
    return run->cache ? zb_cache_flush(run->cache, err) : ZB_OK;
}

zb_status zb_request_write(const zb_request_run *run, zb_write_request *r, size_t n, zb_str salt,
                           zb_err *err) {
    if (!run->scorer->write)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: this scorer cannot write texts", run->what);
    zb_progress progress;
    zb_progress_begin(&progress, run->what, "texts", 0, (double)n);
    zb_status status = ZB_OK;
    size_t size = (size_t)run->shard->size, done = 0;
    for (size_t k = 0; done < n && status == ZB_OK; k++) {
        if (zb_interrupted()) {
            status = stopped(run, done, n, err);
            break;
        }
        size_t count = n - done < WRITE_REQUESTS ? n - done : WRITE_REQUESTS;
        if (k % size == (size_t)run->shard->rank)
            status = write_call(run, r + done, count, salt, err);
        if (status == ZB_OK) done += count;
        zb_progress_update(&progress, (double)done, NULL);
    }
    zb_progress_end(&progress, (double)done, NULL);
    ZB_TRY(zb_shard_agree(run->shard, status, err));
    for (size_t i = 0; i < n; i++) {
        int owner = (int)(i / WRITE_REQUESTS % size);
        zb_shard_share(run->shard, owner, &r[i].answer_score, sizeof r[i].answer_score);
        zb_shard_share(run->shard, owner, &r[i].n_ids, sizeof r[i].n_ids);
        zb_shard_share(run->shard, owner, r[i].ids, (size_t)r[i].n_ids * sizeof *r[i].ids);
    }
    return ZB_OK;
}
