/* model_scorer.c - log-probabilities by batches of contexts and continuations, texts from prompts
 * that share their beginning, and probes of long sequences (contract in model_scorer.h). */
#include "eval/model_scorer.h"

#include "base/log.h"
#include "kernels/kernels.h"

#include <string.h>

enum {
    TOKENS = 2048,
    STATE_BYTES = 1 << 30,
    LOGIT_ROWS = 256
}; /* limits of one batch, and of one tile of logits */

struct zb_model_scorer {
    zb_arena arena; /* holds this struct */
    zb_arena pass;  /* states and batches */
    zb_arena kept;  /* the trunk, from which the contexts of many batches go on */
    zb_mark kept_none;
    zb_state *trunk; /* NULL: none */
    int32_t *trunk_ids;
    zb_runner *runner;
    int max_length;
};

/* A wanted log-probability: row of hidden states, token, where it is added. */
typedef struct want {
    int row;
    int32_t token;
    zb_loglik *out;
} want;

typedef struct plan {
    const zb_loglik_request *r;
    zb_loglik *out;
    int n, groups;
    int *first;       /* [groups+1] first request of each group */
    zb_state **state; /* [groups] behind the context; NULL where no continuation needs it */
} plan;

/* Adds log p of every wanted token; rows of hidden states are taken in tiles. */
static void read_logits(zb_model_scorer *m, const float *hidden, const want *w, int n) {
    const zb_kernels *kn = zb_kernels_get();
    zb_arena *a = zb_runner_arena(m->runner);
    zb_mark mark = zb_arena_mark(a);
    int D = zb_runner_run(m->runner)->config->D, V = zb_runner_run(m->runner)->config->V;
    float *x = ZB_NEW_ARRAY(a, float, (size_t)LOGIT_ROWS *D),
          *logits = ZB_NEW_ARRAY(a, float, (size_t)LOGIT_ROWS *V);
    int *slot = ZB_NEW_ARRAY(a, int, n);
    for (int i = 0; i < n;) {
        int rows = 0, j = i;
        for (; j < n; j++) { /* neighbours that want the same row share it */
            if (j == i || w[j].row != w[j - 1].row) {
                if (rows == LOGIT_ROWS) break;
                memcpy(x + (size_t)rows * D, hidden + (size_t)w[j].row * D,
                       (size_t)D * sizeof(float));
                rows++;
            }
            slot[j] = rows - 1;
        }
        zb_runner_logits(m->runner, x, rows, logits);
        float lse[LOGIT_ROWS];
        int best[LOGIT_ROWS];
#pragma omp parallel for schedule(static)
        for (int k = 0; k < rows; k++) {
            lse[k] = kn->logsumexp(V, logits + (size_t)k * V);
            best[k] = kn->argmax(V, logits + (size_t)k * V);
        }
        for (; i < j; i++) {
            w[i].out->logprob +=
                (double)logits[(size_t)slot[i] * V + w[i].token] - (double)lse[slot[i]];
            if (best[slot[i]] != w[i].token) w[i].out->greedy = false;
        }
    }
    zb_arena_pop(a, mark);
}

static zb_status run_batch(zb_model_scorer *m, const zb_batch *b, const want *w, int n_want,
                           zb_err *err) {
    zb_arena *a = zb_runner_arena(m->runner);
    zb_mark mark = zb_arena_mark(a);
    zb_status s = zb_runner_begin(m->runner, b, err);
    if (s == ZB_OK) {
        float *h = ZB_NEW_ARRAY(a, float, (size_t)b->n *zb_runner_run(m->runner)->config->D);
        zb_runner_forward(m->runner, h, NULL);
        read_logits(m, h, w, n_want);
    }
    zb_arena_pop(a, mark);
    return s;
}

static zb_state *new_state(zb_model_scorer *m, int tokens) {
    const zb_config *c = zb_runner_run(m->runner)->config;
    return zb_state_init(zb_alloc(&m->pass, zb_state_size(c, tokens)), c, tokens);
}

/* Passes n tokens behind what `state` holds, at most TOKENS at a time, so that memory does not grow
 * with the length and a long text can be interrupted. Row i of `out` [n_rows, D] becomes the final
 * hidden row of token row[i] (ascending). */
static zb_status pass_long(zb_model_scorer *m, zb_state *state, const int32_t *ids, int n,
                           const int *row, int n_rows, float *out, zb_err *err) {
    zb_arena *a = zb_runner_arena(m->runner);
    size_t D = (size_t)zb_runner_run(m->runner)->config->D;
    for (int at = 0, k = 0; at < n; at += TOKENS) {
        if (zb_interrupted())
            return zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted after %d of %d tokens", at, n);
        int count = n - at < TOKENS ? n - at : TOKENS;
        zb_mark mark = zb_arena_mark(a);
        zb_span all = {0, count, state};
        zb_status s = zb_runner_begin(m->runner, &(zb_batch){ids + at, count, &all, 1}, err);
        if (s == ZB_OK) {
            float *h = ZB_NEW_ARRAY(a, float, (size_t)count *D);
            zb_runner_forward(m->runner, h, NULL);
            for (; k < n_rows && row[k] < at + count; k++)
                memcpy(out + (size_t)k * D, h + (size_t)(row[k] - at) * D, D * sizeof(float));
        }
        zb_arena_pop(a, mark);
        ZB_TRY(s);
    }
    return ZB_OK;
}

/* Makes the state behind n tokens the trunk, unless it is. */
static zb_status grow_trunk(zb_model_scorer *m, const int32_t *ids, int n, zb_err *err) {
    size_t bytes = (size_t)n * sizeof *ids;
    if (m->trunk && m->trunk->len == n && !memcmp(m->trunk_ids, ids, bytes)) return ZB_OK;
    const zb_config *c = zb_runner_run(m->runner)->config;
    zb_arena_pop(&m->kept, m->kept_none);
    m->trunk = NULL;
    zb_state *s = zb_state_init(zb_alloc(&m->kept, zb_state_size(c, n)), c, n);
    ZB_TRY(pass_long(m, s, ids, n, NULL, 0, NULL, err));
    m->trunk_ids = ZB_NEW_ARRAY(&m->kept, int32_t, n);
    memcpy(m->trunk_ids, ids, bytes);
    m->trunk = s;
    return ZB_OK;
}

/* What the contexts of all groups share, from the trunk; the rest of them in one batch; first
 * tokens of all continuations are read from their last rows. */
static zb_status pass_contexts(zb_model_scorer *m, plan *p, zb_err *err) {
    const zb_config *c = zb_runner_run(m->runner)->config;
    int total = 0, at = 0, n_want = 0, shared = p->r[0].n_shared;
    if (shared > 0) ZB_TRY(grow_trunk(m, p->r[0].context, shared, err));
    for (int g = 0; g < p->groups; g++) total += p->r[p->first[g]].n_context - shared;
    int32_t *ids = ZB_NEW_ARRAY(&m->pass, int32_t, total);
    zb_span *span = ZB_NEW_ARRAY(&m->pass, zb_span, p->groups);
    want *w = ZB_NEW_ARRAY(&m->pass, want, p->n);
    for (int g = 0; g < p->groups; g++) {
        const zb_loglik_request *r = &p->r[p->first[g]];
        int rest = r->n_context - shared;
        /* a state that rounds what it keeps is part of what is measured */
        bool more = c->cache != ZB_F32 || shared > 0;
        for (int i = p->first[g]; i < p->first[g + 1]; i++) {
            p->out[i] = (zb_loglik){0, true};
            more = more || p->r[i].n_continuation > 1;
            w[n_want++] = (want){at + rest - 1, p->r[i].continuation[0], &p->out[i]};
        }
        if (more) p->state[g] = new_state(m, r->n_context);
        if (shared > 0) zb_state_copy(p->state[g], m->trunk, c);
        span[g] = (zb_span){at, rest, p->state[g]};
        memcpy(ids + at, r->context + shared, (size_t)rest * sizeof *ids);
        at += rest;
    }
    return run_batch(m, &(zb_batch){ids, total, span, p->groups}, w, n_want, err);
}

/* Tokens 0 .. n-2 of every longer continuation from a copy of its context's state; each row
 * predicts the next token. */
static zb_status pass_continuations(zb_model_scorer *m, plan *p, zb_err *err) {
    const zb_config *c = zb_runner_run(m->runner)->config;
    int total = 0, at = 0, n_spans = 0, n_want = 0;
    for (int i = 0; i < p->n; i++) total += p->r[i].n_continuation - 1;
    if (total == 0) return ZB_OK;
    int32_t *ids = ZB_NEW_ARRAY(&m->pass, int32_t, total);
    zb_span *span = ZB_NEW_ARRAY(&m->pass, zb_span, p->n);
    want *w = ZB_NEW_ARRAY(&m->pass, want, total);
    for (int g = 0; g < p->groups; g++)
        for (int i = p->first[g]; i < p->first[g + 1]; i++) {
            int n = p->r[i].n_continuation - 1;
            if (n == 0) continue;
            zb_state *s = new_state(m, p->r[i].n_context + n);
            zb_state_copy(s, p->state[g], c);
            span[n_spans++] = (zb_span){at, n, s};
            memcpy(ids + at, p->r[i].continuation, (size_t)n * sizeof *ids);
            for (int k = 0; k < n; k++)
                w[n_want++] = (want){at + k, p->r[i].continuation[k + 1], &p->out[i]};
            at += n;
        }
    return run_batch(m, &(zb_batch){ids, total, span, n_spans}, w, n_want, err);
}

/* Whether request i starts a group. */
static bool starts_group(const zb_loglik_request *r, int i) {
    return i == 0 || r[i].group != r[i - 1].group || r[i].n_context != r[i - 1].n_context;
}

static bool same_trunk(const zb_loglik_request *x, const zb_loglik_request *y) {
    return x->n_shared == y->n_shared &&
           !memcmp(x->context, y->context, (size_t)x->n_shared * sizeof *x->context);
}

/* What batches are made up by. */
typedef struct need {
    size_t bytes, tokens; /* of states; of contexts beyond what is shared, and continuations */
} need;

static bool fits(need x) { return x.bytes <= STATE_BYTES && x.tokens <= TOKENS; }

/* Adds the group at r[i]; returns the end of it. */
static int add_group(const zb_model_scorer *m, const zb_loglik_request *r, int i, int n, need *x) {
    const zb_config *c = zb_runner_run(m->runner)->config;
    int j = i;
    x->bytes += zb_state_size(c, r[i].n_context);
    x->tokens += (size_t)(r[i].n_context - r[i].n_shared);
    do {
        x->bytes += zb_state_size(c, r[j].n_context + r[j].n_continuation);
        x->tokens += (size_t)r[j].n_continuation;
        j++;
    } while (j < n && !starts_group(r, j));
    return j;
}

/* Requests from `from` that fit one batch, in whole groups with one trunk. The first group is taken
 * in any case; *whole says whether it fits. */
static int batch_end(const zb_model_scorer *m, const zb_loglik_request *r, int from, int n,
                     bool *whole) {
    need sum = {0};
    int end = add_group(m, r, from, n, &sum);
    *whole = fits(sum);
    while (end < n) {
        int next = add_group(m, r, end, n, &sum);
        if (!fits(sum) || !same_trunk(&r[from], &r[end])) break;
        end = next;
    }
    return end;
}

/* The answers of whole groups in one batch. */
static zb_status score_batch(zb_model_scorer *m, const zb_loglik_request *r, int n, zb_loglik *out,
                             zb_err *err) {
    plan p = {.r = r, .out = out, .n = n};
    p.first = ZB_NEW_ARRAY(&m->pass, int, n + 1);
    for (int k = 0; k < n; k++)
        if (k == 0 || starts_group(r, k)) p.first[p.groups++] = k;
    p.first[p.groups] = n;
    p.state = zb_alloc_array(&m->pass, (size_t)p.groups, sizeof *p.state);
    ZB_TRY(pass_contexts(m, &p, err));
    return pass_continuations(m, &p, err);
}

/* Passes n tokens behind `state`, at most TOKENS at a time; the row of token i predicts next[i]. */
static zb_status pass_scored(zb_model_scorer *m, zb_state *state, const int32_t *ids,
                             const int32_t *next, int n, zb_loglik *out, zb_err *err) {
    for (int at = 0; at < n; at += TOKENS) {
        if (zb_interrupted())
            return zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted after %d of %d tokens", at, n);
        int count = n - at < TOKENS ? n - at : TOKENS;
        zb_mark mark = zb_arena_mark(&m->pass);
        want *w = ZB_NEW_ARRAY(&m->pass, want, count);
        for (int i = 0; i < count; i++) w[i] = (want){i, next[at + i], out};
        zb_span all = {0, count, state};
        zb_status s = run_batch(m, &(zb_batch){ids + at, count, &all, 1}, w, count, err);
        zb_arena_pop(&m->pass, mark);
        ZB_TRY(s);
    }
    return ZB_OK;
}

/* One group that is too large for a batch: its context in pieces, then each continuation, so that
 * memory is that of states and does not grow with the length. */
static zb_status score_group(zb_model_scorer *m, const zb_loglik_request *r, int n, zb_loglik *out,
                             zb_err *err) {
    const zb_config *c = zb_runner_run(m->runner)->config;
    int shared = r->n_shared, rest = r->n_context - shared, last = rest - 1;
    zb_state *state = new_state(m, r->n_context);
    float *h = ZB_NEW_ARRAY(&m->pass, float, c->D);
    want *w = ZB_NEW_ARRAY(&m->pass, want, n);
    if (shared > 0) {
        ZB_TRY(grow_trunk(m, r->context, shared, err));
        zb_state_copy(state, m->trunk, c);
    }
    ZB_TRY(pass_long(m, state, r->context + shared, rest, &last, 1, h, err));
    for (int i = 0; i < n; i++) {
        out[i] = (zb_loglik){0, true};
        w[i] = (want){0, r[i].continuation[0], &out[i]};
    }
    read_logits(m, h, w, n);
    for (int i = 0; i < n; i++) {
        int more = r[i].n_continuation - 1;
        if (more == 0) continue;
        zb_mark mark = zb_arena_mark(&m->pass);
        zb_state *own = new_state(m, r[i].n_context + more);
        zb_state_copy(own, state, c);
        zb_status s =
            pass_scored(m, own, r[i].continuation, r[i].continuation + 1, more, &out[i], err);
        zb_arena_pop(&m->pass, mark);
        ZB_TRY(s);
    }
    return ZB_OK;
}

static zb_status loglik(void *self, const zb_loglik_request *r, int n, zb_loglik *out,
                        zb_err *err) {
    zb_model_scorer *m = self;
    for (int i = 0; i < n;) {
        bool whole;
        int end = batch_end(m, r, i, n, &whole);
        zb_mark mark = zb_arena_mark(&m->pass);
        zb_status s = (whole ? score_batch : score_group)(m, r + i, end - i, out + i, err);
        zb_arena_pop(&m->pass, mark);
        if (s != ZB_OK) return s;
        i = end;
    }
    return ZB_OK;
}

/* Most probable next token of each of n final hidden rows [n, D]. */
static void best_tokens(zb_model_scorer *m, const float *hidden, int n, int32_t *out) {
    const zb_kernels *kn = zb_kernels_get();
    zb_arena *a = zb_runner_arena(m->runner);
    zb_mark mark = zb_arena_mark(a);
    int V = zb_runner_run(m->runner)->config->V;
    float *logits = ZB_NEW_ARRAY(a, float, (size_t)n *V);
    zb_runner_logits(m->runner, hidden, n, logits);
    for (int i = 0; i < n; i++) out[i] = kn->argmax(V, logits + (size_t)i * V);
    zb_arena_pop(a, mark);
}

/* One pass over the spans of `b`; next[i] follows the last token of span i. */
static zb_status pass_next(zb_model_scorer *m, const zb_batch *b, int32_t *next, zb_err *err) {
    zb_arena *a = zb_runner_arena(m->runner);
    zb_mark mark = zb_arena_mark(a);
    size_t D = (size_t)zb_runner_run(m->runner)->config->D;
    zb_status s = zb_runner_begin(m->runner, b, err);
    if (s == ZB_OK) {
        float *h = ZB_NEW_ARRAY(a, float, (size_t)b->n *D);
        float *last = ZB_NEW_ARRAY(a, float, (size_t)b->n_spans *D);
        zb_runner_forward(m->runner, h, NULL);
        for (int i = 0; i < b->n_spans; i++)
            memcpy(last + (size_t)i * D, h + (size_t)(b->span[i].start + b->span[i].n - 1) * D,
                   D * sizeof(float));
        best_tokens(m, last, b->n_spans, next);
    }
    zb_arena_pop(a, mark);
    return s;
}

/* Appends a token; false if the text has ended. */
static bool append(zb_write_request *r, int32_t id) {
    r->ids[r->n_ids++] = id;
    return r->n_ids < r->max && !r->stop(r->user, r->ids, r->n_ids);
}

/* Tokens with which all of r[0 .. n-1] begin; of each context at least one stays out. */
static int common_start(const zb_write_request *r, int n) {
    int common = r[0].n_context - 1;
    for (int i = 1; i < n; i++) {
        int k = 0, most = r[i].n_context - 1;
        while (k < common && k < most && r[i].context[k] == r[0].context[k]) k++;
        common = k;
    }
    return common;
}

/* The log-probability of r's answer: `last` is the hidden row behind the context, `state` the
 * sequence there; it is left as it is if a text will be written from it. */
static zb_status score_answer(zb_model_scorer *m, zb_write_request *r, zb_state *state,
                              const float *last, zb_err *err) {
    const zb_config *c = zb_runner_run(m->runner)->config;
    size_t D = (size_t)c->D;
    int more = r->n_answer - 1;
    zb_mark mark = zb_arena_mark(&m->pass);
    float *h = ZB_NEW_ARRAY(&m->pass, float, (size_t)r->n_answer *D);
    int *row = ZB_NEW_ARRAY(&m->pass, int, r->n_answer);
    want *w = ZB_NEW_ARRAY(&m->pass, want, r->n_answer);
    memcpy(h, last, D * sizeof(float));
    r->answer_score = (zb_loglik){0, true};
    for (int i = 0; i < r->n_answer; i++) {
        row[i] = i;
        w[i] = (want){i, r->answer[i], &r->answer_score};
    }
    zb_state *s = state;
    if (r->max > 0 && more > 0) {
        s = new_state(m, r->n_context + more);
        zb_state_copy(s, state, c);
    }
    zb_status status = pass_long(m, s, r->answer, more, row, more, h + D, err);
    if (status == ZB_OK) read_logits(m, h, w, r->n_answer);
    zb_arena_pop(&m->pass, mark);
    return status;
}

/* Passes the context of r, of which `trunk` (NULL: nothing) has the beginning, scores the answer,
 * and finds the first token of the text. */
static zb_status pass_prompt(zb_model_scorer *m, zb_write_request *r, const zb_state *trunk,
                             zb_state *state, int32_t *next, zb_err *err) {
    const zb_config *c = zb_runner_run(m->runner)->config;
    int from = trunk ? trunk->len : 0, last_row = r->n_context - from - 1;
    zb_mark mark = zb_arena_mark(&m->pass);
    float *last = ZB_NEW_ARRAY(&m->pass, float, c->D);
    if (trunk) zb_state_copy(state, trunk, c);
    zb_status s = pass_long(m, state, r->context + from, last_row + 1, &last_row, 1, last, err);
    if (s == ZB_OK && r->n_answer > 0) s = score_answer(m, r, state, last, err);
    if (s == ZB_OK && r->max > 0) best_tokens(m, last, 1, next);
    zb_arena_pop(&m->pass, mark);
    return s;
}

/* Prompts are passed one by one, because they are long. What all that are still to come have in
 * common is passed once, in the trunk, from whose copies they go on. who[] receives those that are
 * not at their end. */
static zb_status pass_prompts(zb_model_scorer *m, zb_write_request *r, int n, zb_state **state,
                              int *who, int *active, zb_err *err) {
    zb_state *trunk = NULL;
    int longest = 0;
    for (int i = 0; i < n; i++) longest = r[i].n_context > longest ? r[i].n_context : longest;
    if (n > 1 && common_start(r, n) > 0) trunk = new_state(m, longest);
    for (int i = 0; i < n; i++) {
        int32_t next = 0;
        int common = trunk && i < n - 1 ? common_start(r + i, n - i) : 0;
        if (trunk && common > trunk->len)
            ZB_TRY(pass_long(m, trunk, r[i].context + trunk->len, common - trunk->len, NULL, 0,
                             NULL, err));
        zb_mark mark = zb_arena_mark(&m->pass);
        int more = r[i].n_answer > r[i].max ? r[i].n_answer : r[i].max;
        state[i] = new_state(m, r[i].n_context + more);
        ZB_TRY(pass_prompt(m, &r[i], trunk, state[i], &next, err));
        r[i].n_ids = 0;
        if (r[i].max > 0 && append(&r[i], next))
            who[(*active)++] = i;
        else
            zb_arena_pop(&m->pass, mark);
    }
    return ZB_OK;
}

/* After the prompts the texts grow side by side, a token of each in every pass. */
static zb_status write_batch(zb_model_scorer *m, zb_write_request *r, int n, zb_err *err) {
    zb_state **state = zb_alloc_array(&m->pass, (size_t)n, sizeof *state);
    int32_t *next = ZB_NEW_ARRAY(&m->pass, int32_t, n), *ids = ZB_NEW_ARRAY(&m->pass, int32_t, n);
    zb_span *span = ZB_NEW_ARRAY(&m->pass, zb_span, n);
    int *who = ZB_NEW_ARRAY(&m->pass, int, n), active = 0;
    ZB_TRY(pass_prompts(m, r, n, state, who, &active, err));
    while (active > 0) {
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted in %d texts", n);
        for (int k = 0; k < active; k++) {
            const zb_write_request *q = &r[who[k]];
            ids[k] = q->ids[q->n_ids - 1];
            span[k] = (zb_span){k, 1, state[who[k]]};
        }
        ZB_TRY(pass_next(m, &(zb_batch){ids, active, span, active}, next, err));
        int kept = 0;
        for (int k = 0; k < active; k++)
            if (append(&r[who[k]], next[k])) who[kept++] = who[k];
        active = kept;
    }
    return ZB_OK;
}

static zb_status write_texts(void *self, zb_write_request *r, int n, zb_err *err) {
    zb_model_scorer *m = self;
    const zb_config *c = zb_runner_run(m->runner)->config;
    for (int i = 0; i < n;) {
        size_t bytes = 0;
        int end = i;
        for (; end < n; end++) {
            bytes += zb_state_size(c, r[end].n_context + r[end].max + r[end].n_answer);
            if (end > i && bytes > STATE_BYTES) break;
        }
        zb_mark mark = zb_arena_mark(&m->pass);
        zb_status s = write_batch(m, r + i, end - i, err);
        zb_arena_pop(&m->pass, mark);
        if (s != ZB_OK) return s;
        i = end;
    }
    return ZB_OK;
}

/* Answers of n probes from their hidden rows [n, D], in tiles. */
static void read_probes(zb_model_scorer *m, const zb_probe_request *r, const float *hidden) {
    const zb_kernels *kn = zb_kernels_get();
    zb_arena *a = zb_runner_arena(m->runner);
    zb_mark mark = zb_arena_mark(a);
    size_t D = (size_t)zb_runner_run(m->runner)->config->D;
    int V = zb_runner_run(m->runner)->config->V;
    float *logits = ZB_NEW_ARRAY(a, float, (size_t)LOGIT_ROWS *V);
    for (int from = 0; from < r->n_at; from += LOGIT_ROWS) {
        int rows = r->n_at - from < LOGIT_ROWS ? r->n_at - from : LOGIT_ROWS;
        zb_runner_logits(m->runner, hidden + (size_t)from * D, rows, logits);
        for (int i = 0; i < rows; i++) {
            const float *row = logits + (size_t)i * V;
            int32_t token = r->ids[r->at[from + i] + 1];
            bool best_of_some = true;
            for (int k = 0; k < r->n_candidates; k++)
                if (r->candidate[k] != token && row[r->candidate[k]] >= row[token])
                    best_of_some = false;
            r->out[from + i] = (zb_probe){(double)row[token] - (double)kn->logsumexp(V, row),
                                          kn->argmax(V, row) == token, best_of_some};
        }
    }
    zb_arena_pop(a, mark);
}

static zb_status probe(void *self, const zb_probe_request *r, zb_err *err) {
    zb_model_scorer *m = self;
    zb_mark mark = zb_arena_mark(&m->pass);
    size_t D = (size_t)zb_runner_run(m->runner)->config->D;
    float *h = ZB_NEW_ARRAY(&m->pass, float, (size_t)r->n_at *D);
    zb_status s = pass_long(m, new_state(m, r->n), r->ids, r->n, r->at, r->n_at, h, err);
    if (s == ZB_OK) read_probes(m, r, h);
    zb_arena_pop(&m->pass, mark);
    return s;
}

zb_status zb_model_scorer_new(zb_model_scorer **out, zb_runner *r, int max_length, zb_err *err) {
    (void)err;
    zb_arena first = {0};
    zb_model_scorer *m = ZB_NEW(&first, zb_model_scorer);
    m->arena = first;
    m->runner = r;
    m->max_length = max_length > 0 ? max_length : zb_runner_run(r)->config->context_max;
    zb_arena_reserve(&m->pass, (size_t)1 << 38);
    zb_arena_reserve(&m->kept, (size_t)1 << 38);
    m->kept_none = zb_arena_mark(&m->kept);
    *out = m;
    return ZB_OK;
}

void zb_model_scorer_free(zb_model_scorer *m) {
    if (!m) return;
    zb_arena_free(&m->pass);
    zb_arena_free(&m->kept);
    zb_arena a = m->arena;
    zb_arena_free(&a);
}

zb_scorer zb_model_scorer_get(zb_model_scorer *m) {
    return (zb_scorer){.self = m,
                       .max_length = m->max_length,
                       .prefix_token = -1,
                       .loglik = loglik,
                       .write = write_texts,
                       .probe = probe};
}
