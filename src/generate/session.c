/* session.c - one timeline of tokens (contract in zebra.h).
 *
 * sync(tokens) compares the wanted tokens with those the state stands behind and goes back to the
 * longest prefix it can use:
 *
 *   caches (keys, values, latents)   rows of the common prefix stay right, so going back is
 *                                    forgetting the rows behind it
 *   recurrent parts (Mamba2)         cannot be undone: they come from the nearest snapshot at or
 *                                    before that place
 *
 * A snapshot is therefore a position and a copy of the recurrent block only; it is right as long as
 * the tokens before its position have not changed. Snapshots are taken where a sync starts, every
 * ZB_CHUNK tokens, shortly before its end (a chat's next prompt often differs in the last few
 * tokens) and at its end. When all are in use, the one whose neighbours stand closest together is
 * replaced, which keeps the others spread over the sequence. Models without recurrent layers need
 * none.
 *
 * The state grows by doubling, so that a long context costs memory only when it is used. */
#include "generate/session.h"

#include "base/log.h"

#include <string.h>
#include <unistd.h>

enum { SNAPSHOTS = 6, TAIL = 16, TOKENS_MIN = 256, PASS_TOKENS = 2 * ZB_CHUNK };

typedef struct snapshot {
    int at; /* tokens seen; 0: unused */
    uint8_t *recurrent;
} snapshot;

struct zb_session {
    zb_arena arena; /* this struct, logits, snapshots */
    zb_arena grown; /* the state and the tokens: replaced as a whole when they grow */
    zb_engine *engine;
    zb_state *state;
    int32_t *tokens; /* [state->tokens_max], those before state->len are in the state */
    int tokens_max;
    int64_t computed;
    float *logits; /* [V] */
    bool has_logits;
    snapshot snap[SNAPSHOTS];
};

static const zb_config *config_of(const zb_session *s) {
    return zb_model_config(zb_engine_model(s->engine));
}
zb_engine *zb_session_engine(const zb_session *s) { return s->engine; }
int zb_session_max(const zb_session *s) { return s->tokens_max; }
int64_t zb_session_computed(const zb_session *s) { return s->computed; }
const float *zb_session_logits(const zb_session *s) { return s->has_logits ? s->logits : NULL; }
zb_state *zb_session_state(zb_session *s) { return s->state; }
size_t zb_session_bytes(const zb_session *s) { return s->arena.bytes + s->grown.bytes; }

const int32_t *zb_session_tokens(const zb_session *s, int *n) {
    *n = s->state->len;
    return s->tokens;
}

static zb_status no_room(const zb_session *s, int64_t n, zb_err *err) {
    return zb_fail(err, ZB_ERR_CONFIG,
                   "the sequence has %lld tokens, but the context holds %d: shorten it or raise "
                   "the context",
                   (long long)n, s->tokens_max);
}

/* Room for n tokens; refused where the machine could never hold it. */
static zb_status reserve(zb_session *s, int n, zb_err *err) {
    if (n > s->tokens_max) return no_room(s, n, err);
    int64_t cap = s->state ? s->state->tokens_max : 0;
    if (n <= cap && s->state) return ZB_OK;
    cap = cap * 2 > n ? cap * 2 : n;
    if (cap < TOKENS_MIN) cap = TOKENS_MIN;
    if (cap > s->tokens_max) cap = s->tokens_max;
    size_t bytes = zb_state_size(config_of(s), (int)cap);
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (have > 0 && (double)bytes > have)
        return zb_fail(err, ZB_ERR_MEMORY,
                       "%lld tokens of context need %.1f GB, this machine has %.1f GB",
                       (long long)cap, (double)bytes * 1e-9, have * 1e-9);
    zb_arena a = {0};
    zb_state *state = zb_state_init(zb_alloc(&a, bytes), config_of(s), (int)cap);
    int32_t *tokens = ZB_NEW_ARRAY(&a, int32_t, cap);
    if (s->state) {
        zb_state_copy(state, s->state, config_of(s));
        memcpy(tokens, s->tokens, (size_t)s->state->len * sizeof *tokens);
    }
    zb_arena_free(&s->grown);
    s->grown = a;
    s->state = state;
    s->tokens = tokens;
    return ZB_OK;
}

zb_status zb_session_hold(zb_session *s, int n, zb_err *err) { return reserve(s, n, err); }

zb_status zb_session_new(zb_session **out, zb_engine *e, int tokens_max, zb_err *err) {
    *out = NULL;
    if (tokens_max < 0 || tokens_max > zb_engine_context(e))
        return zb_fail(err, ZB_ERR_CONFIG, "session: expected 0 to %d tokens, found %d",
                       zb_engine_context(e), tokens_max);
    zb_arena first = {0};
    zb_session *s = ZB_NEW(&first, zb_session);
    s->arena = first;
    s->engine = e;
    s->tokens_max = tokens_max ? tokens_max : zb_engine_context(e);
    s->logits = ZB_NEW_ARRAY(&s->arena, float, zb_engine_vocab(e));
    zb_status r = reserve(s, 0, err);
    if (r == ZB_OK)
        *out = s;
    else
        zb_session_free(s);
    return r;
}

void zb_session_free(zb_session *s) {
    if (!s) return;
    zb_arena_free(&s->grown);
    zb_arena a = s->arena;
    zb_arena_free(&a);
}

/* The snapshot to replace: an unused one, else the one whose neighbours in the sequence are
 * closest. */
static snapshot *replaceable(zb_session *s) {
    snapshot *best = NULL;
    int best_gap = 0;
    for (int i = 0; i < SNAPSHOTS; i++) {
        if (!s->snap[i].at) return &s->snap[i];
        int before = 0, after = s->state->len;
        for (int j = 0; j < SNAPSHOTS; j++) {
            if (s->snap[j].at < s->snap[i].at && s->snap[j].at > before) before = s->snap[j].at;
            if (s->snap[j].at > s->snap[i].at && s->snap[j].at < after) after = s->snap[j].at;
        }
        if (!best || after - before < best_gap) {
            best = &s->snap[i];
            best_gap = after - before;
        }
    }
    return best;
}

/* Remembers the recurrent parts as they are now. */
static void take_snapshot(zb_session *s) {
    if (s->state->bytes == 0 || s->state->len == 0) return;
    for (int i = 0; i < SNAPSHOTS; i++)
        if (s->snap[i].at == s->state->len) return;
    snapshot *p = replaceable(s);
    if (!p->recurrent) p->recurrent = zb_alloc(&s->arena, s->state->bytes);
    memcpy(p->recurrent, s->state->data, s->state->bytes);
    p->at = s->state->len;
}

/* Goes back to at most n tokens: as far as needed for the recurrent parts to be known. */
static void rewind_to(zb_session *s, int n) {
    if (n >= s->state->len) return;
    s->has_logits = false;
    if (s->state->bytes > 0) {
        const snapshot *best = NULL;
        for (int i = 0; i < SNAPSHOTS; i++) {
            if (s->snap[i].at > n) s->snap[i].at = 0; /* its tokens are about to change */
            if (s->snap[i].at && (!best || s->snap[i].at > best->at)) best = &s->snap[i];
        }
        n = best ? best->at : 0;
        if (best) memcpy(s->state->data, best->recurrent, s->state->bytes);
    }
    if (n == 0)
        zb_state_reset(s->state);
    else
        s->state->len = n;
}

/* The next n tokens of one session; with `last` the logits behind them. */
typedef struct piece {
    zb_session *session;
    const int32_t *tokens;
    int n;
    bool last;
} piece;

/* Logits behind the last token of each piece that wants them, from final rows [.., D]. One row at a
 * time in a deterministic engine, where the shape of a product may not depend on its company. */
static void take_logits(zb_engine *e, const piece *p, int n, const float *hidden) {
    zb_runner *r = zb_engine_runner(e);
    const zb_config *c = zb_model_config(zb_engine_model(e));
    size_t D = (size_t)c->D, V = (size_t)c->V;
    float *rows = ZB_RAW_ARRAY(zb_runner_arena(r), float, (size_t)n *D);
    int wanted = 0, end = 0;
    for (int i = 0; i < n; i++) {
        end += p[i].n;
        if (!p[i].last) continue;
        memcpy(rows + (size_t)wanted++ * D, hidden + (size_t)(end - 1) * D, D * sizeof *rows);
    }
    bool alone = wanted <= 1 || zb_runner_run(r)->deterministic;
    float *logits = alone ? NULL : ZB_RAW_ARRAY(zb_runner_arena(r), float, (size_t)wanted *V);
    if (!alone) zb_runner_logits(r, rows, wanted, logits);
    for (int i = 0, at = 0; i < n; i++) {
        if (!p[i].last) continue;
        float *own = p[i].session->logits;
        if (alone)
            zb_runner_logits(r, rows + (size_t)at * D, 1, own);
        else
            memcpy(own, logits + (size_t)at * V, V * sizeof *own);
        at++;
    }
}

/* One pass over all pieces; their sessions are different and have room. */
static zb_status pass(zb_engine *e, const piece *p, int n, zb_err *err) {
    zb_runner *r = zb_engine_runner(e);
    zb_arena *a = zb_runner_arena(r);
    zb_mark mark = zb_arena_mark(a);
    int total = 0;
    for (int i = 0; i < n; i++) total += p[i].n;
    int32_t *ids = ZB_RAW_ARRAY(a, int32_t, total);
    zb_span *span = ZB_RAW_ARRAY(a, zb_span, n);
    for (int i = 0, at = 0; i < n; at += p[i++].n) {
        zb_session *s = p[i].session;
        size_t bytes = (size_t)p[i].n * sizeof *ids;
        memcpy(ids + at, p[i].tokens, bytes);
        memcpy(s->tokens + s->state->len, p[i].tokens, bytes);
        span[i] = (zb_span){.start = at, .n = p[i].n, .state = s->state};
    }
    zb_batch batch = {.ids = ids, .n = total, .span = span, .n_spans = n};
    zb_status status = zb_runner_begin(r, &batch, err);
    if (status == ZB_OK) {
        size_t D = (size_t)zb_model_config(zb_engine_model(e))->D;
        float *hidden = ZB_RAW_ARRAY(a, float, (size_t)total *D);
        zb_runner_forward(r, hidden, NULL);
        take_logits(e, p, n, hidden);
        for (int i = 0; i < n; i++) {
            p[i].session->has_logits = p[i].last;
            p[i].session->computed += p[i].n;
        }
    }
    zb_arena_pop(a, mark);
    return status;
}

static zb_status check_ids(const zb_session *s, const int32_t *tokens, int n, zb_err *err) {
    int V = zb_engine_vocab(s->engine);
    for (int i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= V)
            return zb_fail(err, ZB_ERR_CONFIG, "token %d: expected an id from 0 to %d, found %d", i,
                           V - 1, tokens[i]);
    return ZB_OK;
}

zb_status zb_session_sync(zb_session *s, const int32_t *tokens, int n, zb_err *err) {
    if (n < 0) return zb_fail(err, ZB_ERR_CONFIG, "sync: expected 0 or more tokens, found %d", n);
    ZB_TRY(check_ids(s, tokens, n, err));
    ZB_TRY(reserve(s, n, err));
    int common = 0, len = s->state->len;
    while (common < len && common < n && tokens[common] == s->tokens[common]) common++;
    if (common == n && len == n && (n == 0 || s->has_logits)) return ZB_OK;
    /* the last token is always computed, since its logits are wanted */
    rewind_to(s, common < n ? common : n > 0 ? n - 1 : 0);
    take_snapshot(s);
    int tail = n - TAIL;
    while (s->state->len < n) {
        if (zb_interrupted())
            return zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted after %d of %d prompt tokens",
                           s->state->len, n);
        int end = s->state->len + ZB_CHUNK;
        if (end > n) end = n;
        if (s->state->bytes > 0 && tail > s->state->len && tail < end) end = tail;
        int at = s->state->len;
        piece next = {.session = s, .tokens = tokens + at, .n = end - at, .last = end == n};
        ZB_TRY(pass(s->engine, &next, 1, err));
        take_snapshot(s);
    }
    return ZB_OK;
}

zb_status zb_session_step(zb_session *s, int32_t token, zb_err *err) {
    return zb_step(&(zb_step_item){.session = s, .tokens = &token, .n = 1}, 1, err);
}

/* Everything that can fail, before anything changes. */
static zb_status step_check(const zb_step_item *items, int n, zb_err *err) {
    if (n < 1) return zb_fail(err, ZB_ERR_CONFIG, "step: expected 1 or more sessions, found %d", n);
    for (int i = 0; i < n; i++) {
        const zb_step_item *it = &items[i];
        if (it->session->engine != items[0].session->engine)
            return zb_fail(err, ZB_ERR_CONFIG, "step: session %d belongs to another engine", i);
        for (int j = 0; j < i; j++)
            if (it->session == items[j].session)
                return zb_fail(err, ZB_ERR_CONFIG, "step: sessions %d and %d are the same", j, i);
        if (it->n < 1)
            return zb_fail(err, ZB_ERR_CONFIG,
                           "step: session %d: expected 1 or more tokens, found %d", i, it->n);
        ZB_TRY(check_ids(it->session, it->tokens, it->n, err));
        if (it->n > it->session->tokens_max - it->session->state->len)
            return no_room(it->session, it->session->state->len + (int64_t)it->n, err);
    }
    for (int i = 0; i < n; i++)
        ZB_TRY(reserve(items[i].session, items[i].session->state->len + items[i].n, err));
    return ZB_OK;
}

/* Each item is cut into pieces of ZB_CHUNK tokens from its own start, and a pass takes whole pieces
 * while they are at most PASS_TOKENS together: where a sequence is cut never depends on what
 * runs beside it. */
zb_status zb_step(const zb_step_item *items, int n, zb_err *err) {
    ZB_TRY(step_check(items, n, err));
    zb_arena *a = zb_runner_arena(zb_engine_runner(items[0].session->engine));
    zb_mark mark = zb_arena_mark(a);
    piece *now = ZB_NEW_ARRAY(a, piece, n);
    int *done = ZB_NEW_ARRAY(a, int, n);
    zb_status status = ZB_OK;
    for (bool more = true; more && status == ZB_OK;) {
        int taken = 0, total = 0;
        more = false;
        for (int i = 0; i < n; i++) {
            int left = items[i].n - done[i], size = left < ZB_CHUNK ? left : ZB_CHUNK;
            if (left == 0) continue;
            if (total > 0 && total + size > PASS_TOKENS) {
                more = true;
                continue;
            }
            now[taken++] = (piece){.session = items[i].session,
                                   .tokens = items[i].tokens + done[i],
                                   .n = size,
                                   .last = size == left};
            done[i] += size;
            total += size;
            if (size < left) more = true;
        }
        status = zb_interrupted() ? zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted within a step")
                                  : pass(items[0].session->engine, now, taken, err);
    }
    zb_arena_pop(a, mark);
    return status;
}
