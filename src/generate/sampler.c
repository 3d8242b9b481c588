/* sampler.c - chooses the next token (contract in zebra.h).
 *
 * With the tokens in order of falling logit, top_k, top_p and min_p each keep a prefix of that
 * order:
 *
 *   top_k   the first k
 *   top_p   the fewest whose probabilities, among what top_k kept, add up to p
 *   min_p   those with probability ≥ min_p · that of the first, that is logit ≥ first + ln min_p
 *
 * so one heap gives the tokens in order until the shortest prefix ends, without sorting the
 * vocabulary. The choice is then drawn from softmax(logit / temperature) over the prefix, with
 * random number i of the stream (seed, sample). */
#include "base/arena.h"
#include "base/err.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "zebra.h"

#include <math.h>
#include <string.h>

enum { WINDOW_DEFAULT = 64 };

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

struct zb_sampler {
    zb_arena arena;
    zb_sampling set;
    int V;
    uint64_t drawn;
    float *logits;   /* [V] after penalties */
    float *weights;  /* [V] */
    candidate *heap; /* [V] */
    uint8_t *seen;   /* [V] penalised already */
};

static zb_status check(const zb_sampling *p, int vocab, zb_err *err) {
    if (vocab < 1)
        return zb_fail(err, ZB_ERR_CONFIG, "sampler: expected a vocabulary of 1 or more, found %d",
                       vocab);
    if (!(p->temperature >= 0 && p->temperature <= 1e6))
        return zb_fail(err, ZB_ERR_CONFIG, "temperature: expected 0 to 1e6, found %g",
                       p->temperature);
    if (p->top_k < 0)
        return zb_fail(err, ZB_ERR_CONFIG, "top_k: expected 0 or more, found %d", p->top_k);
    if (!(p->top_p >= 0 && p->top_p <= 1))
        return zb_fail(err, ZB_ERR_CONFIG, "top_p: expected 0 to 1, found %g", p->top_p);
    if (!(p->min_p >= 0 && p->min_p <= 1))
        return zb_fail(err, ZB_ERR_CONFIG, "min_p: expected 0 to 1, found %g", p->min_p);
    if (!(p->repeat_penalty >= 0 && p->repeat_penalty <= 1e6))
        return zb_fail(err, ZB_ERR_CONFIG, "repeat_penalty: expected 0 to 1e6, found %g",
                       p->repeat_penalty);
    return ZB_OK;
}

zb_status zb_sampler_new(zb_sampler **out, const zb_sampling *settings, int vocab, zb_err *err) {
    *out = NULL;
    ZB_TRY(check(settings, vocab, err));
    zb_arena first = {0};
    zb_sampler *s = ZB_NEW(&first, zb_sampler);
    s->set = *settings;
    s->V = vocab;
    s->logits = ZB_NEW_ARRAY(&first, float, vocab);
    s->weights = ZB_NEW_ARRAY(&first, float, vocab);
    s->heap = ZB_NEW_ARRAY(&first, candidate, vocab);
    s->seen = ZB_NEW_ARRAY(&first, uint8_t, vocab);
    s->arena = first;
    *out = s;
    return ZB_OK;
}

void zb_sampler_free(zb_sampler *s) {
    if (!s) return;
    zb_arena a = s->arena;
    zb_arena_free(&a);
}

/* Each token of the window once, however often it occurs (Keskar et al. 2019). */
static void penalise(zb_sampler *s, const int32_t *history, int n) {
    double p = s->set.repeat_penalty;
    if (p == 0 || p == 1) return;
    int window = s->set.repeat_window ? s->set.repeat_window : WINDOW_DEFAULT;
    int from = window < 0 || window > n ? 0 : n - window;
    for (int i = from; i < n; i++) {
        int32_t id = history[i];
        if (id < 0 || id >= s->V || s->seen[id]) continue;
        s->seen[id] = 1;
        float l = s->logits[id];
        s->logits[id] = (float)(l > 0 ? (double)l / p : (double)l * p);
    }
    for (int i = from; i < n; i++)
        if (history[i] >= 0 && history[i] < s->V) s->seen[history[i]] = 0;
}

static bool better(candidate a, candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(candidate *h, int n, int i) {
    candidate moved = h[i];
    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && better(h[child + 1], h[child])) child++;
        if (!better(h[child], moved)) break;
        h[i] = h[child];
    }
    h[i] = moved;
}

/* The best of h[0..n) goes to h[n-1]; the rest stays a heap. So popped candidates lie at the end,
 * best last. */
static candidate pop(candidate *h, int n) {
    candidate best = h[0];
    h[0] = h[n - 1];
    sift_down(h, n - 1, 0);
    h[n - 1] = best;
    return best;
}

/* Σ exp(logit - max) over c[0..n). */
static double mass(zb_sampler *s, const candidate *c, int n, float max) {
    for (int i = 0; i < n; i++) s->weights[i] = c[i].logit - max;
    zb_kernels_get()->exp(n, s->weights, s->weights);
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)s->weights[i];
    return sum;
}

/* Length of the prefix that top_k, top_p and min_p leave of the n candidates; it is popped to the
 * end of the heap. */
static int truncate_prefix(zb_sampler *s, int n, float max) {
    int keep = s->set.top_k > 0 && s->set.top_k < n ? s->set.top_k : n, popped = 0;
    bool by_p = s->set.top_p > 0 && s->set.top_p < 1;
    double floor_logit = s->set.min_p > 0 ? (double)max + log(s->set.min_p) : -(double)INFINITY;
    if (keep == n && !by_p && s->set.min_p == 0) return n;
    for (int i = n / 2 - 1; i >= 0; i--) sift_down(s->heap, n, i);
    double reached = 0, target = (double)INFINITY;
    if (by_p && keep < n) { /* the sum runs over what top_k keeps */
        for (; popped < keep; popped++) pop(s->heap, n - popped);
        target = s->set.top_p * mass(s, s->heap + n - keep, keep, max);
    } else if (by_p) {
        target = s->set.top_p * mass(s, s->heap, n, max);
    }
    int i = 0;
    while (i < keep && reached < target) {
        candidate c = i < popped ? s->heap[n - 1 - i] : pop(s->heap, n - i);
        if (i > 0 && (double)c.logit < floor_logit) break;
        reached += exp((double)(c.logit - max));
        i++;
    }
    return i;
}

static int32_t draw(zb_sampler *s, const candidate *c, int n, float max) {
    for (int i = 0; i < n; i++)
        s->weights[i] = (float)((double)(c[i].logit - max) / s->set.temperature);
    zb_kernels_get()->exp(n, s->weights, s->weights);
    double sum = 0, up_to = 0;
    for (int i = 0; i < n; i++) sum += (double)s->weights[i];
    double u = zb_rng_uniform(s->set.seed, ZB_RNG_SAMPLE, s->drawn) * sum;
    int last = -1;
    for (int i = 0; i < n; i++) {
        if (!(s->weights[i] > 0)) continue;
        last = i;
        up_to += (double)s->weights[i];
        if (u < up_to) break;
    }
    ZB_ASSERT(last >= 0); /* the best has weight 1 */
    return c[last].id;
}

int32_t zb_sampler_pick(zb_sampler *s, const float *logits, const int32_t *history, int n) {
    memcpy(s->logits, logits, (size_t)s->V * sizeof *logits);
    penalise(s, history, n);
    int best = zb_kernels_get()->argmax(s->V, s->logits), count = 0;
    float max = s->logits[best];
    int32_t chosen = best;
    if (s->set.temperature > 0 &&
        isfinite(max)) { /* else nothing to choose from, or one that beats all */
        for (int i = 0; i < s->V; i++)
            if (s->logits[i] > -INFINITY) s->heap[count++] = (candidate){s->logits[i], i};
        int kept = truncate_prefix(s, count, max);
        chosen = draw(s, s->heap + count - kept, kept, max);
    }
    s->drawn++;
    return chosen;
}
