/* batcher.c - continuous batching (contract in batcher.h).
 *
 * A request is waiting, then a prompt of which `done` tokens are computed, then an answer. The list
 * is kept in order of arrival, so that "the oldest first" is its order; slots are the first
 * `slots` entries that are not over. Prompts are cut every ZB_CHUNK tokens from their own start,
 * and a piece runs whole or not at all in a round: the cuts never depend on the company. The oldest
 * prompt always gets its piece, so nobody waits for ever behind a stream of answers. */
#include "generate/batcher.h"

#include "base/log.h"

#include <string.h>

typedef struct job {
    zb_batch_request r;
    int32_t *prompt;
    zb_session *session; /* NULL: waiting */
    zb_sampler *sampler;
    zb_generation g;
    int done; /* of the prompt */
    int32_t next;
    double start, answer; /* of the first round; of the first token */
    struct job *after;
} job;

struct zb_batcher {
    zb_engine *engine;
    int slots, n; /* n: running and waiting */
    job *first, *last;
    zb_step_item *items; /* [slots] */
    job **running;       /* [slots] */
};

zb_status zb_batcher_new(zb_batcher **out, zb_engine *e, int slots, zb_err *err) {
    *out = NULL;
    if (slots < 1 || slots > ZB_BATCHER_SLOTS)
        return zb_fail(err, ZB_ERR_CONFIG, "batch: expected 1 to %d sequences at once, found %d",
                       ZB_BATCHER_SLOTS, slots);
    zb_batcher *b = zb_heap_resize(NULL, sizeof *b);
    *b = (zb_batcher){.engine = e, .slots = slots};
    b->items = zb_heap_resize(NULL, (size_t)slots * sizeof *b->items);
    b->running = zb_heap_resize(NULL, (size_t)slots * sizeof *b->running);
    *out = b;
    return ZB_OK;
}

static void job_free(job *j) {
    zb_session_free(j->session);
    zb_sampler_free(j->sampler);
    zb_heap_resize(j->prompt, 0);
    zb_heap_resize(j, 0);
}

void zb_batcher_free(zb_batcher *b) {
    if (!b) return;
    for (job *j = b->first, *after; j; j = after) {
        after = j->after;
        job_free(j);
    }
    zb_heap_resize(b->items, 0);
    zb_heap_resize(b->running, 0);
    zb_heap_resize(b, 0);
}

zb_status zb_batcher_add(zb_batcher *b, const zb_batch_request *r, zb_err *err) {
    int context = zb_engine_context(b->engine), vocab = zb_engine_vocab(b->engine);
    if (r->n < 1 || r->n > context)
        return zb_fail(err, ZB_ERR_CONFIG, "prompt: expected 1 to %d tokens, found %d", context,
                       r->n);
    for (int i = 0; i < r->n; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= vocab)
            return zb_fail(err, ZB_ERR_CONFIG,
                           "prompt: token %d: expected an id from 0 to %d, "
                           "found %d",
                           i, vocab - 1, r->prompt[i]);
    zb_sampler *sampler;
    ZB_TRY(zb_sampler_new(&sampler, &r->sampling, vocab, err));
    job *j = zb_heap_resize(NULL, sizeof *j);
    *j = (job){.r = *r, .sampler = sampler, .g = {.prompt_tokens = r->n}};
    j->prompt = zb_heap_resize(NULL, (size_t)r->n * sizeof *j->prompt);
    memcpy(j->prompt, r->prompt, (size_t)r->n * sizeof *j->prompt);
    int room = context - r->n + 1;
    if (r->max < 0 || r->max > room) j->r.max = room;
    if (b->last)
        b->last->after = j;
    else
        b->first = j;
    b->last = j;
    b->n++;
    return ZB_OK;
}

/* Gives the oldest waiting requests the free slots; returns how many run. */
static zb_status admit(zb_batcher *b, int *n, zb_err *err) {
    *n = 0;
    for (job *j = b->first; j && *n < b->slots; j = j->after) {
        if (!j->session) {
            int most = j->r.n + (j->r.max > 0 ? j->r.max : 1) - 1;
            ZB_TRY(zb_session_new(&j->session, b->engine, most, err));
            j->start = zb_seconds();
        }
        b->running[(*n)++] = j;
    }
    return ZB_OK;
}

/* What each running job gets in this round, in the order of `running`; n 0: nothing. */
static void share_out(zb_batcher *b, int n) {
    int room = ZB_CHUNK;
    bool fed = false;
    for (int i = 0; i < n; i++) {
        job *j = b->running[i];
        b->items[i] = (zb_step_item){.session = j->session, .tokens = &j->next, .n = 1};
        if (j->done == j->r.n) room--;
    }
    for (int i = 0; i < n; i++) {
        job *j = b->running[i];
        int left = j->r.n - j->done, size = left < ZB_CHUNK ? left : ZB_CHUNK;
        if (left == 0) continue;
        b->items[i].tokens = j->prompt + j->done;
        b->items[i].n = !fed || size <= room ? size : 0;
        room -= b->items[i].n;
        fed = true;
    }
}

/* Chooses the next token behind new logits; true: the answer is complete. */
static bool choose(zb_batcher *b, job *j) {
    zb_generation *g = &j->g;
    int n;
    if (j->r.max == 0) return true;
    const int32_t *so_far = zb_session_tokens(j->session, &n);
    int32_t id = zb_sampler_pick(j->sampler, zb_session_logits(j->session), so_far, n);
    if (!j->r.ignore_end && zb_engine_is_end(b->engine, id)) {
        g->finish = ZB_FINISH_END;
        return true;
    }
    g->tokens++;
    j->next = id;
    if (j->r.on_token && !j->r.on_token(j->r.user, id)) {
        g->finish = ZB_FINISH_CALLER;
        return true;
    }
    return g->tokens == j->r.max;
}

/* Takes note of what the round computed; true: the job is over. */
static bool advance(zb_batcher *b, job *j, int n) {
    double now = zb_seconds();
    if (j->done < j->r.n) {
        j->done += n;
        if (j->done < j->r.n) return false;
        j->answer = now;
        j->g.prompt_seconds = now - j->start;
        j->g.computed = j->r.n;
        j->g.finish = ZB_FINISH_LENGTH;
    } else {
        j->g.steps++;
    }
    bool over = choose(b, j);
    j->g.seconds = zb_seconds() - j->answer;
    return over;
}

static void remove_job(zb_batcher *b, job *j) {
    job *before = NULL;
    for (job *k = b->first; k != j; k = k->after) before = k;
    if (before)
        before->after = j->after;
    else
        b->first = j->after;
    if (b->last == j) b->last = before;
    b->n--;
    job_free(j);
}

zb_status zb_batcher_round(zb_batcher *b, int *left, zb_err *err) {
    int n, items = 0;
    ZB_TRY(admit(b, &n, err));
    share_out(b, n);
    for (int i = 0; i < n; i++) { /* jobs without work leave the list of this round */
        if (b->items[i].n == 0) continue;
        b->items[items] = b->items[i];
        b->running[items++] = b->running[i];
    }
    if (items) ZB_TRY(zb_step(b->items, items, err));
    for (int i = 0; i < items; i++) {
        job *j = b->running[i];
        if (!advance(b, j, b->items[i].n)) continue;
        if (j->r.on_end) j->r.on_end(j->r.user, &j->g);
        remove_job(b, j);
    }
    *left = b->n;
    return ZB_OK;
}
