/* answer_loss.c - see answer_loss.h. */
#include "model/answer_loss.h"

#include "kernels/kernels.h"
#include "model/loss.h"

#include <string.h>

/* The rows that predict a learnt token, side by side. */
typedef struct rows {
    int n, D;
    int *at, *span; /* [n] row of the batch, its span */
    int32_t *label;
    float *weight; /* minus the span's slope: of cross-entropy, which falls as logp rises */
    double *ce;
    float *x, *dx; /* [n, D] */
} rows;

int64_t zb_answer_count(const zb_batch *b, const uint8_t *learnt) {
    int64_t n = 0;
    for (int i = 0; i < b->n; i++) n += learnt[i] != 0;
    return n;
}

static rows gather(const zb_answer_pass *p, zb_arena *a) {
    const zb_batch *b = p->batch;
    rows r = {.D = zb_runner_run(p->runner)->config->D};
    int most = (int)zb_answer_count(b, p->learnt);
    r.at = ZB_NEW_ARRAY(a, int, most);
    r.span = ZB_NEW_ARRAY(a, int, most);
    r.label = ZB_NEW_ARRAY(a, int32_t, most);
    r.weight = ZB_NEW_ARRAY(a, float, most);
    r.ce = ZB_NEW_ARRAY(a, double, most);
    r.x = ZB_RAW_ARRAY(a, float, (size_t)most *r.D);
    if (p->slope) r.dx = ZB_NEW_ARRAY(a, float, (size_t)most *r.D);
    for (int s = 0; s < b->n_spans; s++) {
        int first = b->span[s].start, end = first + b->span[s].n;
        ZB_ASSERT(first == end || !p->learnt[first]);
        for (int i = first + 1; i < end; i++) {
            if (!p->learnt[i]) continue;
            r.at[r.n] = i - 1;
            r.span[r.n] = s;
            r.label[r.n] = b->ids[i];
            if (p->slope) r.weight[r.n] = (float)-p->slope[s];
            memcpy(r.x + (size_t)r.n * r.D, p->hidden + (size_t)(i - 1) * r.D,
                   (size_t)r.D * sizeof(float));
            r.n++;
        }
    }
    return r;
}

void zb_answer_logp(const zb_answer_pass *p) {
    const zb_kernels *kn = zb_kernels_get();
    zb_arena *a = zb_runner_arena(p->runner);
    zb_mark mark = zb_arena_mark(a);
    rows r = gather(p, a);
    zb_vocab_sums sums = {0};
    zb_vocab_loss l = {.student = p->runner,
                       .hidden = r.x,
                       .dhidden = r.dx,
                       .labels = r.label,
                       .row_weight = r.weight,
                       .row_ce = r.ce,
                       .n = r.n,
                       .weights = {.ce = 1},
                       .scale = 1};
    if (r.n > 0) zb_vocab_loss_run(&l, &sums);
    for (int s = 0; s < p->batch->n_spans; s++) p->logp[s] = 0;
    for (int i = 0; i < r.n; i++) {
        p->logp[r.span[i]] -= r.ce[i];
        if (p->slope) kn->add(r.D, r.dx + (size_t)i * r.D, p->dhidden + (size_t)r.at[i] * r.D);
    }
    zb_arena_pop(a, mark);
}

size_t zb_answer_room(const zb_config *c, int n, int threads) {
    size_t row = zb_room_of((size_t)n * c->D);
    return 2 * row + 7 * zb_room_of((size_t)n) + zb_vocab_loss_room(c->V, n, false, threads);
}
