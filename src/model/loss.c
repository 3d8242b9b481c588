/* loss.c - losses and their gradients (contract in loss.h).
 *
 *   CE = -log p_s[label];                    d/dlogit = p_s - onehot
 *   KL = Σ p_t (log p_t - log p_s);          d/dlogit = p_s - p_t
 *   reverse KL = Σ p_s (log p_s - log p_t);  d/dlogit = p_s (log p_s - log p_t - reverse KL)
 * A mixture adds the gradients; rows are independent, so threads share a tile by rows and sums are
 * added in row order. */
#include "model/loss.h"

#include "kernels/kernels.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum { SUMMED_ROWS = 1024 }; /* rows whose losses wait on the stack to be summed in order */

typedef struct row_sums {
    double kl, reverse_kl, ce;
    bool has_kl, has_ce, agree;
} row_sums;

/* Gradient of the row into `s` (its logits on entry); `extra` and `keep` are [V] scratch, used
 * where losses are mixed. */
static void row_run(const zb_vocab_tile *t, int i, float *extra, float *keep, row_sums *out) {
    const zb_kernels *kn = zb_kernels_get();
    size_t V = (size_t)t->V, bytes = V * sizeof(float);
    float *s = t->student + (size_t)i * V, *te = t->teacher ? t->teacher + (size_t)i * V : NULL;
    int label = t->labels ? t->labels[i] : -1;
    out->has_kl = te && (!t->mask || t->mask[i]);
    out->has_ce = label >= 0;
    float lse = kn->logsumexp(t->V, s);
    if (out->has_ce) out->ce = (double)lse - (double)s[label];
    if (out->has_ce && t->row_ce) t->row_ce[i] = out->ce;
    if (!out->has_kl && !out->has_ce) {
        if (t->grad) memset(s, 0, bytes);
        return;
    }
    float lse_t = out->has_kl ? kn->logsumexp(t->V, te) : 0;
    if (out->has_kl) out->agree = kn->argmax(t->V, s) == kn->argmax(t->V, te);
    bool forward_only = t->weights.reverse_kl == 0 && (t->weights.ce == 0 || !out->has_ce);
    if (out->has_kl && forward_only) {
        out->kl = kn->kl_row(t->V, s, lse, te, lse_t, (float)t->weights.kl * t->scale);
        return;
    }
    memcpy(keep, s, bytes);
    memset(s, 0, bytes);
    if (out->has_kl) {
        memcpy(extra, keep, bytes);
        out->kl = kn->kl_row(t->V, extra, lse, te, lse_t, (float)t->weights.kl * t->scale);
        kn->add(t->V, extra, s);
        if (t->weights.reverse_kl != 0) {
            memcpy(extra, keep, bytes);
            out->reverse_kl = kn->reverse_kl_row(t->V, extra, lse, te, lse_t,
                                                 (float)t->weights.reverse_kl * t->scale);
            kn->add(t->V, extra, s);
        }
    }
    if (out->has_ce && t->weights.ce != 0) {
        float weight = (float)t->weights.ce * t->scale * (t->row_weight ? t->row_weight[i] : 1);
        kn->ce_row(t->V, keep, lse, label, weight);
        kn->add(t->V, keep, s);
    }
}

void zb_vocab_tile_run(const zb_vocab_tile *t, zb_vocab_sums *sums, zb_arena *scratch) {
    zb_mark mark = zb_arena_mark(scratch);
    row_sums *rows = ZB_NEW_ARRAY(scratch, row_sums, t->n);
    int threads = omp_get_max_threads();
    float *work = ZB_RAW_ARRAY(scratch, float, (size_t)2 * t->V * threads);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < t->n; i++) {
        float *extra = work + (size_t)2 * omp_get_thread_num() * t->V;
        row_run(t, i, extra, extra + t->V, &rows[i]);
    }
    for (int i = 0; i < t->n; i++) {
        sums->kl += rows[i].kl;
        sums->reverse_kl += rows[i].reverse_kl;
        sums->ce += rows[i].ce;
        sums->tokens += rows[i].has_kl;
        sums->predicted += rows[i].has_ce;
        sums->agree += rows[i].agree;
    }
    zb_arena_pop(scratch, mark);
}

/* Rows per tile: two buffers of logits near 100 MB. Each tile reads the heads again, and unpacks a
 * packed one, so few large tiles are better than many small ones. */
static int tile_rows(int V, int n) {
    int rows = (24 << 20) / V;
    if (rows < 64) rows = 64;
    if (rows > 1024) rows = 1024;
    return rows < n ? rows : n;
}

size_t zb_vocab_loss_tile(int V, int n) { return (size_t)tile_rows(V, n); }

size_t zb_vocab_loss_room(int V, int n, bool teacher, int threads) {
    int tile = tile_rows(V, n);
    return (teacher ? 2 : 1) * zb_room_of((size_t)tile * V) + zb_room_of((size_t)2 * V * threads) +
           (sizeof(row_sums) * (size_t)tile + 63) / 64 * 64;
}

void zb_vocab_loss_run(const zb_vocab_loss *l, zb_vocab_sums *sums) {
    zb_run *run = zb_runner_run(l->student);
    zb_arena *a = zb_runner_arena(l->student);
    const zb_param *head = run->params->head;
    int V = run->config->V, D = run->config->D, tile = tile_rows(V, l->n);
    int Dt = l->teacher ? zb_runner_run(l->teacher)->config->D : 0;
    zb_mark mark = zb_arena_mark(a);
    float *s = ZB_RAW_ARRAY(a, float, (size_t)tile *V),
          *t = l->teacher ? ZB_RAW_ARRAY(a, float, (size_t)tile *V) : NULL;
    bool held = head->dtype == ZB_F32; /* one rounding of the head for all tiles, both ways */
    if (held) zb_matmul_hold(run->mm, ZB_HOLD_HEAD, head->data, head->rows, head->cols);
    for (int i = 0; i < l->n; i += tile) {
        int n = l->n - i < tile ? l->n - i : tile;
        const float *x = l->hidden + (size_t)i * D;
        zb_runner_logits(l->student, x, n, s);
        if (t) zb_runner_logits(l->teacher, l->teacher_hidden + (size_t)i * Dt, n, t);
        zb_vocab_tile v = {.n = n,
                           .V = V,
                           .student = s,
                           .teacher = t,
                           .labels = l->labels ? l->labels + i : NULL,
                           .mask = l->mask ? l->mask + i : NULL,
                           .row_weight = l->row_weight ? l->row_weight + i : NULL,
                           .row_ce = l->row_ce ? l->row_ce + i : NULL,
                           .weights = l->weights,
                           .scale = l->scale,
                           .grad = l->dhidden != NULL};
        zb_vocab_tile_run(&v, sums, a);
        if (l->dhidden) zb_linear_backward(run, head, NULL, x, s, n, l->dhidden + (size_t)i * D);
    }
    if (held) zb_matmul_release(run->mm, ZB_HOLD_HEAD);
    zb_arena_pop(a, mark);
}

/* Losses of rows as they are asked for, in parallel, and their sum in the order of the rows. */
typedef struct row_loss {
    double (*of)(const struct row_loss *l, int i);
    int n, D;
    const float *a, *b;
    bool squared;
    const uint8_t *mask;
    float scale;
    float *da;
} row_loss;

static double sum_rows(const row_loss *l) {
    double total = 0, row[SUMMED_ROWS];
    for (int first = 0; first < l->n; first += SUMMED_ROWS) {
        int n = l->n - first < SUMMED_ROWS ? l->n - first : SUMMED_ROWS;
#pragma omp parallel for schedule(static)
        for (int i = 0; i < n; i++) row[i] = l->of(l, first + i);
        for (int i = 0; i < n; i++) total += row[i];
    }
    return total;
}

static double ild_row(const row_loss *l, int i) {
    int D = l->D;
    const float *x = l->a + (size_t)i * D, *y = l->b + (size_t)i * D;
    if (l->mask && !l->mask[i]) return 0;
    double sum = 0;
    for (int j = 0; j < D; j++)
        sum += ((double)x[j] - (double)y[j]) * ((double)x[j] - (double)y[j]);
    double norm = sqrt(sum);
    if (l->da && norm > 0) {
        float f = (float)((double)l->scale * (l->squared ? 2.0 / D : 1 / norm));
        for (int j = 0; j < D; j++) l->da[(size_t)i * D + j] += f * (x[j] - y[j]);
    }
    return l->squared ? sum / D : norm;
}

double zb_ild_loss(int n, int D, const float *a, const float *b, bool squared, const uint8_t *mask,
                   float scale, float *da) {
    return sum_rows(&(row_loss){ild_row, n, D, a, b, squared, mask, scale, da});
}

static double hidden_row(const row_loss *l, int i) {
    int D = l->D;
    const float *a = l->a + (size_t)i * D, *b = l->b + (size_t)i * D;
    double sum = 0, size = 1e-30;
    for (int j = 0; j < D; j++) {
        sum += ((double)a[j] - (double)b[j]) * ((double)a[j] - (double)b[j]);
        size += (double)b[j] * (double)b[j];
    }
    double r = sum / size;
    if (l->da) {
        float f = (float)(2 * (double)l->scale / (size * (1 + r) * (1 + r)));
        for (int j = 0; j < D; j++) l->da[(size_t)i * D + j] += f * (a[j] - b[j]);
    }
    return r / (1 + r);
}

double zb_hidden_loss(int n, int D, const float *x, const float *target, float scale, float *dx) {
    return sum_rows(&(row_loss){hidden_row, n, D, x, target, false, NULL, scale, dx});
}

double zb_dpo_loss(int n, double beta, const double *pc, const double *pr, const double *rc,
                   const double *rr, double *d_chosen, double *d_rejected) {
    double total = 0;
    for (int i = 0; i < n; i++) {
        double x = beta * ((pc[i] - pr[i]) - (rc[i] - rr[i]));
        total += x > 0 ? log1p(exp(-x)) : -x + log1p(exp(x)); /* -log σ(x) without overflow */
        double g = -beta / (1 + exp(x)) / n;
        d_chosen[i] = g;
        d_rejected[i] = -g;
    }
    return total / n;
}

void zb_labels_next(const zb_batch *b, int32_t *labels) {
    for (int s = 0; s < b->n_spans; s++)
        for (int i = 0; i < b->span[s].n; i++) {
            int at = b->span[s].start + i;
            labels[at] = i + 1 < b->span[s].n ? b->ids[at + 1] : -1;
        }
}
