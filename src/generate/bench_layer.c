/* bench_layer.c - times one Mamba2 layer (contract in bench_layer.h).
 *
 * A model of one layer with a vocabulary of one token gives the pass its context; only the mixer
 * runs. Weights have the size of trained ones, so that decays are neither 0 nor 1 and no value is
 * denormal. */
#include "generate/bench_layer.h"

#include "base/log.h"
#include "base/rng.h"
#include "base/text.h"
#include "model/attend.h"
#include "model/model.h"
#include "model/ssd.h"

#include <math.h>
#include <omp.h>
#include <string.h>
#include <unistd.h>

typedef struct bench {
    zb_model *model;
    zb_runner *runner;
    zb_arena arena; /* inputs, outputs, state */
    int T;
    float *x, *y, *dx;
    int32_t *ids;
    zb_state *state;
} bench;

int zb_bench_layer_sizes(zb_bench_layer *out, int cap) {
    static const zb_bench_layer known[] = {
        {.name = "SmolLM2-135M", .D = 576, .H = 9, .G = 3, .dh = 64},
        {.name = "Llama-3.2-1B", .D = 2048, .H = 32, .G = 8, .dh = 64},
    };
    int n = (int)(sizeof known / sizeof known[0]);
    for (int i = 0; i < n && i < cap; i++) out[i] = known[i];
    return n;
}

static void fill(float *x, int64_t n, double scale, double base, uint64_t seed) {
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(base + scale * (2 * zb_rng_uniform(seed, ZB_RNG_TEST, (uint64_t)i) - 1));
}

static void fill_weights(zb_model *m) {
    static const struct {
        const char *tail;
        double scale, base;
    } special[] = {{"norm.weight", 0.1, 1},
                   {"A_log", 1.5, 1},
                   {"dt_bias", 1, -4},
                   {"mamba.D", 0.5, 1},
                   {"conv1d.weight", 0.5, 0}};
    zb_param_table *t = zb_model_params(m);
    for (int i = 0; i < t->n; i++) {
        zb_param *p = &t->item[i];
        double scale = 1.7 / sqrt((double)p->cols), base = 0;
        for (size_t k = 0; k < sizeof special / sizeof special[0]; k++)
            if (zb_str_ends(zb_str_from(p->name), zb_str_from(special[k].tail)))
                scale = special[k].scale, base = special[k].base;
        fill(p->w, zb_param_count(p), scale, base, (uint64_t)i);
    }
}

static zb_status prepare(bench *k, const zb_bench_layer *b, zb_err *err) {
    zb_config c = {.model_type = "llama", .D = b->D, .L = 1, .H = b->H, .G = b->G, .dh = b->dh};
    c.F = 32;
    c.V = 2;
    c.context_max = b->tokens;
    c.eps = 1e-5;
    c.tied = c.hybrid = true;
    c.rope = c.mla_rope = (zb_rope){.theta = 1e4, .factor = 1};
    c.layer[0].kind = ZB_MAMBA2;
    k->T = b->tokens;
    ZB_TRY(zb_model_new(&k->model, &c, err));
    fill_weights(k->model);
    zb_model_add_grads(k->model);
    ZB_TRY(zb_runner_new(&k->runner, k->model, ZB_PREC_F32, err));
    size_t n = (size_t)k->T * (size_t)b->D;
    k->x = ZB_NEW_ARRAY(&k->arena, float, n);
    k->y = ZB_NEW_ARRAY(&k->arena, float, n);
    k->dx = ZB_NEW_ARRAY(&k->arena, float, n);
    k->ids = ZB_NEW_ARRAY(&k->arena, int32_t, k->T);
    fill(k->x, (int64_t)n, 1.7, 0, 99);
    k->state = zb_state_init(zb_alloc(&k->arena, zb_state_size(&c, k->T)), &c, k->T);
    return ZB_OK;
}

static void release(bench *k) {
    zb_runner_free(k->runner);
    zb_model_free(k->model);
    zb_arena_free(&k->arena);
}

/* Shorter of *best and the time since `start`; 0 means none yet. */
static void keep_best(double *best, double start) {
    double t = zb_seconds() - start;
    if (*best == 0 || t < *best) *best = t;
}

static zb_status one_pass(bench *k, enum zb_ssd_form form, double *forward, double *backward,
                          zb_err *err) {
    zb_span span = {.start = 0, .n = k->T};
    zb_batch batch = {.ids = k->ids, .n = k->T, .span = &span, .n_spans = 1};
    ZB_TRY(zb_runner_begin(k->runner, &batch, err));
    zb_run *run = zb_runner_run(k->runner);
    zb_mark mark = zb_arena_mark(run->arena);
    void *tape = NULL;
    run->ssd_form = form;
    double start = zb_seconds();
    zb_mixer_of(ZB_MAMBA2)->forward(run, 0, k->x, k->y, backward ? &tape : NULL);
    if (forward) keep_best(forward, start);
    start = zb_seconds();
    if (backward) {
        zb_mixer_of(ZB_MAMBA2)->backward(run, 0, k->x, k->y, k->dx, tape);
        keep_best(backward, start);
    }
    zb_arena_pop(run->arena, mark);
    return ZB_OK;
}

static zb_status by_tokens(bench *k, double *best, zb_err *err) {
    zb_span span = {.start = 0, .n = 1, .state = k->state};
    zb_batch batch = {.ids = k->ids, .n = 1, .span = &span, .n_spans = 1};
    zb_run *run = zb_runner_run(k->runner);
    size_t D = (size_t)run->config->D;
    run->ssd_form = ZB_SSD_AUTO;
    zb_state_reset(k->state);
    double start = zb_seconds();
    for (int t = 0; t < k->T; t++) {
        ZB_TRY(zb_runner_begin(k->runner, &batch, err));
        zb_mixer_of(ZB_MAMBA2)->forward(run, 0, k->x + (size_t)t * D, k->y + (size_t)t * D, NULL);
        k->state->len++;
    }
    keep_best(best, start);
    return ZB_OK;
}

/* One head's scan, forward in both forms and backward. */
static void scans(bench *k, zb_bench_layer *b) {
    zb_mark mark = zb_arena_mark(&k->arena);
    int T = k->T, d = b->dh;
    size_t n = (size_t)T * (size_t)d;
    float *v[8], *delta = ZB_NEW_ARRAY(&k->arena, float, T),
                 *ddelta = ZB_NEW_ARRAY(&k->arena, float, T),
                 *work = ZB_NEW_ARRAY(&k->arena, float, zb_ssd_work(T, d));
    for (int i = 0; i < 8; i++) v[i] = ZB_NEW_ARRAY(&k->arena, float, n);
    for (int i = 0; i < 4; i++) fill(v[i], (int64_t)n, 1, 0, 200 + (uint64_t)i);
    fill(delta, T, 0.02, 0.025, 300);
    zb_ssd s = {.T = T, .dim = d, .A = -3, .D = 1, .u_row = d, .d_row = 1, .y_row = d};
    s.x = v[0], s.B = v[1], s.C = v[2], s.delta = delta, s.y = v[4];
    zb_ssd_grad g = {.dy = v[3], .dx = v[5], .dB = v[6], .dC = v[7], .ddelta = ddelta};
    for (int r = 0; r < b->runs; r++) {
        double start = zb_seconds();
        zb_ssd_chunked(&s, work);
        keep_best(&b->scan[0], start);
        start = zb_seconds();
        zb_ssd_steps(&s, work);
        keep_best(&b->scan[1], start);
        start = zb_seconds();
        zb_ssd_backward(&s, &g, work);
        keep_best(&b->scan[2], start);
    }
    zb_arena_pop(&k->arena, mark);
}

static zb_status measure(bench *k, zb_bench_layer *b, zb_err *err) {
    ZB_TRY(prepare(k, b, err));
    for (int i = 0; i <= b->runs; i++) { /* the first warms up */
        double unused = 0;
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted");
        ZB_TRY(one_pass(k, ZB_SSD_CHUNKED, i ? &b->chunked : &unused, NULL, err));
        ZB_TRY(one_pass(k, ZB_SSD_STEPS, i ? &b->steps : &unused, NULL, err));
        if (i) ZB_TRY(one_pass(k, ZB_SSD_CHUNKED, NULL, &b->backward, err));
    }
    ZB_TRY(by_tokens(k, &b->decode, err));
    scans(k, b);
    return ZB_OK;
}

zb_status zb_bench_layer_run(zb_bench_layer *b, zb_err *err) {
    if (b->tokens < 1 || b->runs < 1)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "bench: expected 1 or more tokens and runs, found %d and %d", b->tokens,
                       b->runs);
    bench k = {0};
    zb_status s = measure(&k, b, err);
    release(&k);
    return s;
}

/* ---- attention over a cache ---- */

int zb_bench_attend_sizes(zb_bench_attend *out, int cap) {
    static const zb_bench_attend known[] = {
        {.name = "SmolLM2-135M attention", .heads = 9, .groups = 3, .dk = 64, .dv = 64},
        {.name = "SmolLM2-135M MLA 4 %", .heads = 9, .groups = 1, .dk = 76, .dv = 44, .tail = 32},
        {.name = "Llama-3.2-1B attention", .heads = 32, .groups = 8, .dk = 64, .dv = 64},
        {.name = "Zebra 8B MLA", .heads = 32, .groups = 1, .dk = 224, .dv = 160, .tail = 64},
    };
    int n = (int)(sizeof known / sizeof known[0]);
    for (int i = 0; i < n && i < cap; i++) out[i] = known[i];
    return n;
}

/* n random rows in a storage type. */
static zb_cells random_rows(zb_arena *a, zb_dtype type, int n, int width, uint64_t seed) {
    enum { DRAWN = 64 }; /* rows that are drawn, the others repeat them */
    zb_cells c = {type, width, zb_cells_row(type, width), NULL};
    uint8_t *p = zb_alloc(a, (size_t)n * c.row);
    float *x = ZB_NEW_ARRAY(a, float, DRAWN *width);
    fill(x, (int64_t)DRAWN * width, 1, 0, seed);
    for (int i = 0; i < n; i++) {
        uint8_t *to = p + (size_t)i * c.row;
        if (i < DRAWN)
            zb_cells_write(type, width, x + (size_t)i * width, to);
        else
            memcpy(to, to - DRAWN * c.row, c.row);
    }
    c.p = p;
    return c;
}

/* As states keep rotary keys. */
static zb_dtype tail_type(zb_dtype type) { return type == ZB_Q8_0 ? ZB_BF16 : type; }

/* Bytes of the caches of all key/value heads. */
static double cache_bytes(const zb_bench_attend *b, zb_dtype type) {
    size_t row = zb_cells_row(type, b->dk - b->tail);
    row += b->tail ? zb_cells_row(tail_type(type), b->tail) : zb_cells_row(type, b->dv);
    return (double)b->groups * b->depth * (double)row;
}

/* The caches of all key/value heads, and what one token asks of them. */
static zb_attend *attends_of(zb_arena *a, const zb_bench_attend *b, zb_dtype type) {
    int per = b->heads / b->groups;
    zb_attend *all = ZB_NEW_ARRAY(a, zb_attend, b->groups);
    float *q = ZB_NEW_ARRAY(a, float, b->heads * b->dk),
          *o = ZB_NEW_ARRAY(a, float, b->heads * b->dv);
    fill(q, (int64_t)b->heads * b->dk, 1, 0, 1);
    for (int g = 0; g < b->groups; g++) {
        uint64_t seed = 10 + 3 * (uint64_t)g;
        all[g] = (zb_attend){.T = 1,
                             .heads = per,
                             .past = b->depth - 1,
                             .dk = b->dk,
                             .dv = b->dv,
                             .scale = (float)(1 / sqrt((double)b->dk)),
                             .q = q + g * per * b->dk,
                             .q_head = b->dk,
                             .o = o + g * per * b->dv,
                             .o_head = b->dv,
                             .k = random_rows(a, type, b->depth, b->dk - b->tail, seed)};
        if (b->tail)
            all[g].k_tail = random_rows(a, tail_type(type), b->depth, b->tail, seed + 1);
        else
            all[g].v = random_rows(a, type, b->depth, b->dv, seed + 2);
    }
    return all;
}

zb_status zb_bench_attend_run(zb_bench_attend *b, zb_err *err) {
    zb_dtype type;
    ZB_TRY(zb_cells_type(b->cache, &type, err));
    if (b->depth < 1 || b->runs < 1)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "bench: expected 1 or more tokens and runs, found %d and %d", b->depth,
                       b->runs);
    zb_arena data = {0}, work = {0};
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    zb_status s = ZB_OK;
    b->seconds = 0;
    b->bytes = cache_bytes(b, type);
    if (have > 0 && b->bytes > have)
        return zb_fail(err, ZB_ERR_MEMORY,
                       "bench: %s: caches of %d tokens need %.1f GB, this machine has %.1f GB",
                       b->name, b->depth, b->bytes * 1e-9, have * 1e-9);
    b->flop = 2.0 * b->heads * (b->dk + b->dv) * b->depth;
    const zb_attend *all = attends_of(&data, b, type);
    for (int i = 0; i <= b->runs && s == ZB_OK; i++) { /* the first warms up */
        double start = zb_seconds();
        zb_attend_forward(&work, omp_get_max_threads(), all, b->groups);
        if (i) keep_best(&b->seconds, start);
        if (zb_interrupted()) s = zb_fail(err, ZB_ERR_INTERRUPTED, "bench: interrupted");
    }
    zb_arena_free(&work);
    zb_arena_free(&data);
    return s;
}
