/* knapsack.c - the multiple-choice knapsack and its rivals (contract in knapsack.h).
 *
 * Choose c_l for every layer l: minimise Σ loss[l][c_l] with Σ bytes[l][c_l] <= budget. Each layer
 * pays its cheapest choice anyway, so what is left is a budget for the extra costs e[l][c] =
 * bytes[l][c] - min_c bytes[l][c]. With these in whole units, from layer to layer
 *   best_l(w) = min_c best_{l-1}(w - e[l][c]) + loss[l][c]
 * over plans that spend exactly w units; keeping the K smallest instead of one gives the K best
 * plans, all different, since a plan spends one sum only. Work: layers × choices × units × K.
 *
 * Sizes that a model has once (the rotary size of its MLA layers, its window) are met by solving
 * once for each combination of them, with all other choices forbidden. */
#include "compose/knapsack.h"

#include "compose/smart.h"

#include <math.h>
#include <string.h>

enum { UNITS_MAX = 1 << 15 };

/* A table with the choices of one combination. */
typedef struct family {
    const zb_knapsack *k;
    bool allowed[ZB_CHOICES_MAX];
    int64_t *least; /* [layers] bytes of the cheapest choice */
    int *cheapest;  /* [layers] the best of those */
    int64_t total;  /* Σ least; -1: a layer has no choice */
} family;

static bool may(const family *f, int l, int c) {
    return f->allowed[c] && isfinite(f->k->loss[l * f->k->choices + c]);
}

static double loss_of(const zb_knapsack *k, int l, int c) { return k->loss[l * k->choices + c]; }
static int64_t bytes_of(const zb_knapsack *k, int l, int c) { return k->bytes[l * k->choices + c]; }

static void find_least(family *f, zb_arena *a) {
    const zb_knapsack *k = f->k;
    f->least = ZB_NEW_ARRAY(a, int64_t, k->layers);
    f->cheapest = ZB_NEW_ARRAY(a, int, k->layers);
    f->total = 0;
    for (int l = 0; l < k->layers; l++) {
        int best = -1;
        for (int c = 0; c < k->choices; c++) {
            if (!may(f, l, c)) continue;
            int64_t b = bytes_of(k, l, c), least = best < 0 ? INT64_MAX : bytes_of(k, l, best);
            if (b < least || (b == least && loss_of(k, l, c) < loss_of(k, l, best))) best = c;
        }
        f->cheapest[l] = best;
        if (best < 0) {
            f->total = -1;
            return;
        }
        f->least[l] = bytes_of(k, l, best);
        f->total += f->least[l];
    }
}

/* The sizes of one column that occur, 0 where there are none; at most `choices`. */
static int sizes_of(const zb_knapsack *k, int column, int64_t *size) {
    int n = 0;
    for (int c = 0; c < k->choices; c++) {
        int64_t v = k->common ? k->common[2 * c + column] : 0;
        bool known = v <= 0;
        for (int i = 0; i < n; i++) known = known || size[i] == v;
        if (!known) size[n++] = v;
    }
    if (n == 0) size[n++] = 0;
    return n;
}

/* All combinations of common sizes. */
static family *families(const zb_knapsack *k, int *n, zb_arena *a) {
    int64_t first[ZB_CHOICES_MAX], second[ZB_CHOICES_MAX];
    ZB_ASSERT(k->choices <= ZB_CHOICES_MAX);
    int n_first = sizes_of(k, 0, first), n_second = sizes_of(k, 1, second);
    family *f = zb_alloc_array(a, (size_t)n_first * (size_t)n_second, sizeof *f);
    *n = 0;
    for (int i = 0; i < n_first; i++)
        for (int j = 0; j < n_second; j++) {
            family *g = &f[(*n)++];
            g->k = k;
            for (int c = 0; c < k->choices; c++) {
                const int64_t *v = k->common ? k->common + 2 * c : NULL;
                g->allowed[c] =
                    !v || ((v[0] <= 0 || v[0] == first[i]) && (v[1] <= 0 || v[1] == second[j]));
            }
            find_least(g, a);
        }
    return f;
}

int64_t zb_knapsack_least(const zb_knapsack *k, zb_arena *a) {
    int n;
    int64_t least = -1;
    zb_mark mark = zb_arena_mark(a);
    const family *f = families(k, &n, a);
    for (int i = 0; i < n; i++)
        if (f[i].total >= 0 && (least < 0 || f[i].total < least)) least = f[i].total;
    zb_arena_pop(a, mark);
    return least;
}

zb_status zb_knapsack_check(const zb_knapsack *k, int64_t budget, zb_arena *a, zb_err *err) {
    int64_t least = zb_knapsack_least(k, a);
    if (least < 0)
        return zb_fail(err, ZB_ERR_CONFIG, "budget: some layer has no candidate to choose");
    if (budget >= least) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG,
                   "budget: expected at least %lld bytes, which the cheapest plan of these "
                   "candidates takes, found %lld",
                   (long long)least, (long long)budget);
}

static void sum_up(const zb_knapsack *k, zb_allotment *p) {
    p->loss = 0;
    p->bytes = 0;
    for (int l = 0; l < k->layers; l++) {
        p->loss += loss_of(k, l, p->choice[l]);
        p->bytes += bytes_of(k, l, p->choice[l]);
    }
}

/* ---- the K best ---- */

typedef struct step {
    uint8_t choice, rank; /* of the layer, and which of the plans before it */
} step;

typedef struct table {
    int K;
    int64_t unit, units;
    double *now, *next; /* [units + 1, K] losses, infinite where there is no plan */
    step *back;         /* [layers, units + 1, K] */
} table;

static int64_t gcd(int64_t a, int64_t b) {
    while (b) {
        int64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}

static int64_t extra(const family *f, int l, int c) { return bytes_of(f->k, l, c) - f->least[l]; }

static void choose_units(const family *f, int64_t budget, table *t) {
    int64_t slack = budget - f->total, divisor = 0, most = 0;
    for (int l = 0; l < f->k->layers; l++) {
        int64_t dearest = 0;
        for (int c = 0; c < f->k->choices; c++) {
            if (!may(f, l, c)) continue;
            divisor = gcd(divisor, extra(f, l, c));
            if (extra(f, l, c) > dearest) dearest = extra(f, l, c);
        }
        most += dearest;
    }
    if (slack > most) slack = most;
    t->unit = divisor ? divisor : 1;
    if (slack / t->unit > UNITS_MAX) t->unit = (slack + UNITS_MAX - 1) / UNITS_MAX;
    t->units = slack / t->unit;
}

/* Puts a plan among the K of one sum; of equal ones the earlier stays first. */
static void insert(double *loss, step *back, int K, double value, int choice, int rank) {
    int at = K;
    while (at > 0 && value < loss[at - 1]) at--;
    if (at == K) return;
    for (int i = K - 1; i > at; i--) {
        loss[i] = loss[i - 1];
        back[i] = back[i - 1];
    }
    loss[at] = value;
    back[at] = (step){(uint8_t)choice, (uint8_t)rank};
}

static void add_layer(const family *f, int l, table *t) {
    int64_t n = (t->units + 1) * t->K;
    step *back = t->back + (int64_t)l * n;
    for (int64_t i = 0; i < n; i++) t->next[i] = HUGE_VAL;
    for (int c = 0; c < f->k->choices; c++) {
        if (!may(f, l, c)) continue;
        int64_t e = (extra(f, l, c) + t->unit - 1) / t->unit;
        double loss = loss_of(f->k, l, c);
        for (int64_t w = e; w <= t->units; w++)
            for (int r = 0; r < t->K; r++) {
                double before = t->now[(w - e) * t->K + r];
                if (before == HUGE_VAL) break;
                insert(t->next + w * t->K, back + w * t->K, t->K, before + loss, c, r);
            }
    }
    double *past = t->now;
    t->now = t->next;
    t->next = past;
}

/* The plan that ends at (w, rank). */
static void walk_back(const family *f, const table *t, int64_t w, int rank, int *choice) {
    int64_t n = (t->units + 1) * t->K;
    for (int l = f->k->layers - 1; l >= 0; l--) {
        step s = t->back[(int64_t)l * n + w * t->K + rank];
        choice[l] = s.choice;
        w -= (extra(f, l, s.choice) + t->unit - 1) / t->unit;
        rank = s.rank;
    }
}

/* Puts a plan among the best n of at most `wanted`, by loss, then bytes. */
static void keep(zb_allotment *list, int *n, int wanted, const zb_allotment *p) {
    int at = *n;
    while (at > 0 && (p->loss < list[at - 1].loss ||
                      (p->loss == list[at - 1].loss && p->bytes < list[at - 1].bytes)))
        at--;
    if (at == wanted) return;
    if (*n < wanted) (*n)++;
    for (int i = *n - 1; i > at; i--) list[i] = list[i - 1];
    list[at] = *p;
}

/* Choices without a common size belong to several combinations: the same plan may come twice. */
static bool listed(const zb_allotment *list, int n, const int *choice, int layers) {
    for (int i = 0; i < n; i++)
        if (!memcmp(list[i].choice, choice, (size_t)layers * sizeof *choice)) return true;
    return false;
}

static void best_of_family(const family *f, int64_t budget, int wanted, zb_allotment *out, int *n,
                           zb_arena *a) {
    zb_arena tmp = {0};
    int L = f->k->layers;
    table t = {.K = wanted};
    choose_units(f, budget, &t);
    int64_t cells = (t.units + 1) * t.K;
    t.now = ZB_NEW_ARRAY(&tmp, double, cells);
    t.next = ZB_NEW_ARRAY(&tmp, double, cells);
    t.back = ZB_NEW_ARRAY(&tmp, step, cells * L);
    for (int64_t i = 0; i < cells; i++) t.now[i] = HUGE_VAL;
    t.now[0] = 0;
    for (int l = 0; l < L; l++) add_layer(f, l, &t);
    /* of all sums, the smallest losses; the plans of one sum are in order */
    for (int i = 0; i < wanted; i++) {
        zb_allotment p = {.loss = HUGE_VAL};
        int64_t at = -1;
        for (int64_t j = 0; j < cells; j++)
            if (t.now[j] < p.loss) p.loss = t.now[at = j];
        if (at < 0) break;
        p.choice = ZB_NEW_ARRAY(a, int, L);
        walk_back(f, &t, at / t.K, (int)(at % t.K), p.choice);
        t.now[at] = HUGE_VAL;
        if (listed(out, *n, p.choice, L)) {
            i--;
            continue;
        }
        sum_up(f->k, &p);
        keep(out, n, wanted, &p);
    }
    zb_arena_free(&tmp);
}

zb_status zb_knapsack_best(const zb_knapsack *k, int64_t budget, zb_allotment *out, int *n,
                           zb_arena *a, zb_err *err) {
    int wanted = *n < ZB_PLANS_MAX ? *n : ZB_PLANS_MAX, n_families;
    *n = 0;
    ZB_TRY(zb_knapsack_check(k, budget, a, err));
    const family *f = families(k, &n_families, a);
    for (int i = 0; i < n_families; i++)
        if (f[i].total >= 0 && f[i].total <= budget)
            best_of_family(&f[i], budget, wanted, out, n, a);
    return ZB_OK;
}

/* ---- greedy ---- */

/* The change of one layer that lowers the loss most per byte and fits; false: none. A change that
 * costs nothing comes before all others. */
static bool best_change(const family *f, const zb_allotment *p, int64_t budget, int *layer,
                        int *choice) {
    double best = 0;
    bool found = false;
    for (int l = 0; l < f->k->layers; l++)
        for (int c = 0; c < f->k->choices; c++) {
            if (!may(f, l, c)) continue;
            double gain = loss_of(f->k, l, p->choice[l]) - loss_of(f->k, l, c);
            int64_t cost = bytes_of(f->k, l, c) - bytes_of(f->k, l, p->choice[l]);
            if (gain <= 0 || p->bytes + cost > budget) continue;
            double rate = cost > 0 ? gain / (double)cost : HUGE_VAL;
            if (rate <= best) continue;
            best = rate;
            *layer = l;
            *choice = c;
            found = true;
        }
    return found;
}

zb_status zb_knapsack_greedy(const zb_knapsack *k, int64_t budget, zb_allotment *out, zb_arena *a,
                             zb_err *err) {
    int n, layer, choice;
    ZB_TRY(zb_knapsack_check(k, budget, a, err));
    const family *f = families(k, &n, a);
    out->choice = NULL;
    for (int i = 0; i < n; i++) {
        if (f[i].total < 0 || f[i].total > budget) continue;
        zb_allotment p = {.choice = f[i].cheapest};
        sum_up(k, &p);
        while (best_change(&f[i], &p, budget, &layer, &choice)) {
            p.choice[layer] = choice;
            sum_up(k, &p);
        }
        if (!out->choice || p.loss < out->loss) *out = p;
    }
    return ZB_OK;
}

/* ---- two kinds ---- */

/* `dear` in some layers, `cheap` in the others; *out is replaced where a number of them that fits
 * is better. */
static zb_status place_pair(const zb_knapsack *k, const int pair[2], int64_t budget, bool smart,
                            zb_allotment *out, zb_arena *a, zb_err *err) {
    int L = k->layers, *layers = ZB_NEW_ARRAY(a, int, L), cheap = pair[0], dear = pair[1];
    double *saved = ZB_NEW_ARRAY(a, double, L);
    for (int l = 0; l < L; l++) saved[l] = loss_of(k, l, cheap) - loss_of(k, l, dear);
    for (int count = 0; count <= L; count++) {
        zb_allotment p = {.choice = ZB_NEW_ARRAY(a, int, L)};
        ZB_TRY(smart ? zb_smart_select(saved, L, count, layers, a, err)
                     : zb_smart_uniform(L, count, layers, err));
        for (int l = 0; l < L; l++) p.choice[l] = cheap;
        for (int i = 0; i < count; i++) p.choice[layers[i]] = dear;
        sum_up(k, &p);
        if (p.bytes <= budget && (!out->choice || p.loss < out->loss)) *out = p;
    }
    return ZB_OK;
}

zb_status zb_knapsack_two(const zb_knapsack *k, int64_t budget, bool smart, zb_allotment *out,
                          zb_arena *a, zb_err *err) {
    int n;
    const family *f = families(k, &n, a);
    out->choice = NULL;
    for (int i = 0; i < n; i++)
        for (int cheap = 0; cheap < k->choices; cheap++)
            for (int dear = 0; dear < k->choices; dear++) {
                bool both = cheap != dear;
                for (int l = 0; l < k->layers && both; l++)
                    both = may(&f[i], l, cheap) && may(&f[i], l, dear);
                if (both) ZB_TRY(place_pair(k, (int[]){cheap, dear}, budget, smart, out, a, err));
            }
    if (out->choice) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG,
                   "budget: no two candidates fit into %lld bytes in all layers",
                   (long long)budget);
}
