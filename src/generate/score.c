/* score.c - log-probabilities of a sequence (contract in score.h).
 *
 *   logprob[i] = logits[i-1][ids[i]] - log Σ_v exp(logits[i-1][v])
 *
 * The sequence passes in chunks through one state (a short one needs none), and logits exist for
 * TILE tokens at a time. */
#include "generate/score.h"

#include "base/log.h"
#include "kernels/kernels.h"

enum { TILE = 128 };

/* Scores of the tokens behind rows first..first+rows-1: `logits` [rows, V] predict ids[first+1...].
 */
static void score_rows(const float *logits, int V, const int32_t *next, int rows,
                       zb_token_score *out) {
    const zb_kernels *kn = zb_kernels_get();
#pragma omp parallel for schedule(static)
    for (int i = 0; i < rows; i++) {
        const float *row = logits + (size_t)i * V;
        double lse = (double)kn->logsumexp(V, row);
        int best = kn->argmax(V, row);
        out[i] = (zb_token_score){.logprob = (double)row[next[i]] - lse,
                                  .best_logprob = (double)row[best] - lse,
                                  .best = best};
    }
}

static zb_status score_chunk(zb_runner *r, const int32_t *ids, int n, int at, zb_state *state,
                             zb_token_score *out, zb_err *err) {
    const zb_config *c = zb_model_config(zb_runner_model(r));
    zb_arena *a = zb_runner_arena(r);
    int count = n - at < ZB_CHUNK ? n - at : ZB_CHUNK;
    zb_span span = {.start = 0, .n = count, .state = state};
    zb_batch batch = {.ids = ids + at, .n = count, .span = &span, .n_spans = 1};
    ZB_TRY(zb_runner_begin(r, &batch, err));
    float *hidden = ZB_NEW_ARRAY(a, float, (size_t)count * c->D);
    zb_runner_forward(r, hidden, NULL);
    int predict = at + count == n ? count - 1 : count; /* nothing stands behind the last token */
    for (int t = 0; t < predict; t += TILE) {
        zb_mark mark = zb_arena_mark(a);
        int rows = predict - t < TILE ? predict - t : TILE;
        float *logits = ZB_NEW_ARRAY(a, float, (size_t)rows * c->V);
        zb_runner_logits(r, hidden + (size_t)t * c->D, rows, logits);
        score_rows(logits, c->V, ids + at + t + 1, rows, out + at + t + 1);
        zb_arena_pop(a, mark);
    }
    return ZB_OK;
}

zb_status zb_score(zb_engine *e, const int32_t *ids, int n, zb_token_score *out, zb_err *err) {
    if (n < 1) return zb_fail(err, ZB_ERR_CONFIG, "score: expected at least one token, found none");
    if (n > zb_engine_context(e))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "score: expected at most %d tokens (the context), found %d",
                       zb_engine_context(e), n);
    zb_runner *r = zb_engine_runner(e);
    const zb_config *c = zb_model_config(zb_engine_model(e));
    for (int i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->V)
            return zb_fail(err, ZB_ERR_CONFIG, "token %d: expected an id from 0 to %d, found %d", i,
                           c->V - 1, ids[i]);
    zb_arena own = {0};
    zb_state *state = n > ZB_CHUNK || c->cache != ZB_F32
                          ? zb_state_init(zb_alloc(&own, zb_state_size(c, n)), c, n)
                          : NULL;
    out[0] = (zb_token_score){.best = -1};
    zb_status s = ZB_OK;
    for (int at = 0; at < n && s == ZB_OK; at += ZB_CHUNK) {
        zb_mark mark = zb_arena_mark(zb_runner_arena(r));
        s = zb_interrupted()
                ? zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted after %d of %d tokens", at, n)
                : score_chunk(r, ids, n, at, state, out, err);
        zb_arena_pop(zb_runner_arena(r), mark);
    }
    zb_arena_free(&own);
    return s;
}
