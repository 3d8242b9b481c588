/* bench.c - measures a model and the machine under it (contract in bench.h).
 *
 * The least time that the machine's limits allow, the measure of "how much of the machine":
 *
 *   prompt token    2 · (weights of all matrices but embedding and head) flop at the rate of the
 *                   largest product; attention's own products come on top and are not counted
 *   decoded token   the greater of bytes / read rate, bytes = weights / batch + cache of the
 *                   average context + states read and written, and 2 · (weights of all matrices)
 *                   flop at the rate of the largest product, which a large batch meets first
 *
 * A random context is bytes of 0x2C to 0x2F or, with the sign bit, 0xAC to 0xAF: read as f32, bf16,
 * f16 or a scale with 8-bit values, none of them is large, denormal or no number. */
#include "generate/bench.h"

#include "base/log.h"
#include "base/rng.h"
#include "generate/session.h"
#include "kernels/kernels.h"

#include <math.h>
#include <omp.h>
#include <string.h>
#include <unistd.h>

enum { READ_MB = 512, PRODUCT = 1536, REPEATS = 5, RUNS_MAX = 1000, WARM_STEPS = 4 };
enum { FILL_BYTES = 1 << 16 };

/* Xor of all words: as fast as memory delivers them, and no compiler may leave it out. */
static uint64_t read_all(const uint64_t *p, int64_t n) {
    uint64_t x = 0;
#pragma omp parallel for schedule(static) reduction(^ : x)
    for (int64_t i = 0; i < n; i++) x ^= p[i];
    return x;
}

static double read_rate(zb_arena *a) {
    int64_t n = (int64_t)READ_MB << 17;
    uint64_t *p = ZB_NEW_ARRAY(a, uint64_t, n);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) p[i] = (uint64_t)i;
    double best = 0;
    volatile uint64_t sink = 0;
    for (int i = 0; i < REPEATS; i++) {
        double t = zb_seconds();
        sink = sink ^ read_all(p, n);
        double rate = (double)n * 8 / (zb_seconds() - t);
        if (rate > best) best = rate;
    }
    return best;
}

/* 0 where `precision` is not native. */
static zb_status product_rate(zb_precision precision, double *rate, zb_arena *a, zb_err *err) {
    zb_matmul *mm;
    *rate = 0;
    ZB_TRY(zb_matmul_new(&mm, precision, err));
    if (precision == ZB_PREC_F32 || zb_matmul_bf16_native(mm)) {
        size_t n = (size_t)PRODUCT * PRODUCT;
        float *x = ZB_NEW_ARRAY(a, float, n), *w = ZB_NEW_ARRAY(a, float, n),
              *y = ZB_NEW_ARRAY(a, float, n);
        for (size_t i = 0; i < n; i++) x[i] = w[i] = (float)(i % 17) * 0.125f - 1;
        zb_mm_args g = {.m = PRODUCT,
                        .n = PRODUCT,
                        .k = PRODUCT,
                        .a = x,
                        .lda = PRODUCT,
                        .b = w,
                        .ldb = PRODUCT,
                        .b_t = true,
                        .c = y,
                        .ldc = PRODUCT};
        for (int i = 0; i <= REPEATS; i++) {
            double t = zb_seconds();
            zb_matmul_run(mm, &g);
            double r = 2.0 * PRODUCT * PRODUCT * PRODUCT / (zb_seconds() - t);
            if (i > 0 && r > *rate) *rate = r;
        }
    }
    zb_matmul_free(mm);
    return ZB_OK;
}

/* Packed weights times as many tokens, by the tiles that prompts run through: codes of 4 bits, with
 * which every instruction set is at its best. */
static double int8_rate(zb_arena *a) {
    enum { TILES = PRODUCT / ZB_IGEMM_ROWS, PART = 256 };
    const zb_kernels *kn = zb_kernels_get();
    size_t n = (size_t)PRODUCT * PRODUCT, row = (size_t)PRODUCT / 32 * 18;
    uint8_t *w = zb_alloc(a, row * PRODUCT);
    float *x = ZB_NEW_ARRAY(a, float, PRODUCT), *y = ZB_NEW_ARRAY(a, float, n),
          *d = ZB_NEW_ARRAY(a, float, n / 32), *sum = ZB_NEW_ARRAY(a, float, n / 32);
    int8_t *q = ZB_NEW_ARRAY(a, int8_t, n);
    int16_t *half = ZB_NEW_ARRAY(a, int16_t, n / 16);
    memset(w, 0x2c, row * PRODUCT);
    for (int i = 0; i < PRODUCT; i++) x[i] = (float)(i % 17) * 0.125f - 1;
    for (size_t t = 0; t < PRODUCT; t++) {
        kn->quantize_q8(PRODUCT, x, q + t * PRODUCT, d + t * PRODUCT / 32, sum + t * PRODUCT / 32);
        kn->sum_halves(PRODUCT, q + t * PRODUCT, half + t * PRODUCT / 16);
    }
    double best = 0;
    for (int i = 0; i <= REPEATS; i++) {
        double t = zb_seconds();
#pragma omp parallel for schedule(dynamic)
        for (int j = 0; j < TILES * (PRODUCT / PART); j++) {
            size_t first = (size_t)(j / TILES * PART), r = (size_t)(j % TILES * ZB_IGEMM_ROWS);
            kn->igemm(&(zb_igemm_args){.type = ZB_PACKING_Q4_0,
                                       .rows = ZB_IGEMM_ROWS,
                                       .n = PART,
                                       .k = PRODUCT,
                                       .w = w + r * row,
                                       .row_bytes = row,
                                       .q = q + first * PRODUCT,
                                       .d = d + first * PRODUCT / 32,
                                       .sum = sum + first * PRODUCT / 32,
                                       .half = half + first * PRODUCT / 16,
                                       .y = y + first * PRODUCT + r,
                                       .ldy = PRODUCT});
        }
        double r = 2.0 * PRODUCT * PRODUCT * PRODUCT / (zb_seconds() - t);
        if (i > 0 && r > best) best = r;
    }
    return best;
}

zb_status zb_bench_machine_measure(zb_bench_machine *m, zb_err *err) {
    zb_arena a = {0};
    *m = (zb_bench_machine){.threads = omp_get_max_threads(), .kernels = zb_kernels_get()->name};
    m->read_rate = read_rate(&a);
    m->int8_rate = int8_rate(&a);
    zb_status s = product_rate(ZB_PREC_F32, &m->f32_rate, &a, err);
    if (s == ZB_OK) s = product_rate(ZB_PREC_BF16, &m->bf16_rate, &a, err);
    zb_arena_free(&a);
    return s;
}

struct zb_bench {
    zb_arena arena; /* this struct */
    zb_arena case_arena;
    zb_engine *engine;
    zb_bench_machine machine;
    zb_bench_opts opts;
    zb_session *base; /* a computed context; NULL: none yet */
};

/* The sequences of one case. */
typedef struct job {
    zb_bench *b;
    const zb_bench_case *c;
    int batch;
    zb_session **session; /* [batch] */
    zb_step_item *item;   /* [batch] */
    uint8_t *recurrent;   /* what the recurrent parts were at the depth */
    int32_t *ids;         /* [depth + prompt + tokens]: the same for every sequence */
} job;

static const zb_config *config_of(const zb_bench *b) {
    return zb_model_config(zb_engine_model(b->engine));
}

zb_status zb_bench_new(zb_bench **out, zb_engine *e, const zb_bench_machine *m,
                       const zb_bench_opts *o, zb_err *err) {
    *out = NULL;
    if (o->runs < 1 || o->runs > RUNS_MAX)
        return zb_fail(err, ZB_ERR_CONFIG, "bench: expected 1 to %d runs, found %d", RUNS_MAX,
                       o->runs);
    zb_arena first = {0};
    zb_bench *b = ZB_NEW(&first, zb_bench);
    *b = (zb_bench){.arena = first, .engine = e, .machine = *m, .opts = *o};
    *out = b;
    return ZB_OK;
}

void zb_bench_free(zb_bench *b) {
    if (!b) return;
    zb_session_free(b->base);
    zb_arena_free(&b->case_arena);
    zb_arena a = b->arena;
    zb_arena_free(&a);
}

int64_t zb_bench_batch(const zb_engine *e, uint64_t budget, int tokens) {
    uint64_t weights = zb_model_bytes(zb_engine_model(e)),
             state = zb_state_size(zb_model_config(zb_engine_model(e)), tokens);
    return budget > weights ? (int64_t)((budget - weights) / state) : 0;
}

/* Work of the weights per token: flop of a prompt's and of a decoded token, bytes of a step. */
typedef struct weights {
    double prompt_flop, step_flop, step_bytes;
} weights;

static weights weights_of(zb_model *m) {
    const zb_param_table *t = zb_model_params(m);
    weights w = {0};
    for (int i = 0; i < t->n; i++) {
        const zb_param *p = &t->item[i];
        bool row_only = p == t->embed && t->head != p;
        double flop = p->n_dims == 2 ? 2.0 * (double)zb_param_count(p) : 0;
        size_t size = 0;
        if (p->layer >= 0) w.prompt_flop += flop;
        if (p->layer >= 0 || p == t->head) w.step_flop += flop;
        if (zb_dtype_size(p->dtype, row_only ? p->cols : zb_param_count(p), &size))
            w.step_bytes += (double)size;
    }
    return w;
}

/* Fills in what a decoded token moves, and the share of the machine that was reached. */
static void account(const zb_bench *b, zb_bench_case *c) {
    const zb_config *cfg = config_of(b);
    weights w = weights_of(zb_engine_model(b->engine));
    int batch = c->batch;
    int64_t far = 1 << 20;
    double fixed = 0; /* states are read and written, windows read */
    for (int l = 0; l < cfg->L; l++)
        fixed += (double)zb_state_fixed_bytes(cfg, l) +
                 (double)sizeof(float) * (double)zb_config_state(cfg, l);
    double row = (double)(zb_state_size(cfg, (int)far) - zb_state_size(cfg, 0)) / (double)far;
    c->weight_bytes = w.step_bytes / batch;
    c->cache_bytes = row * (c->depth + c->prompt + 0.5 * c->tokens);
    c->state_bytes = fixed;
    const zb_bench_machine *m = &b->machine;
    zb_precision p = zb_engine_precision(b->engine);
    double flop_rate = p == ZB_PREC_INT8                       ? m->int8_rate
                       : p == ZB_PREC_BF16 && m->bf16_rate > 0 ? m->bf16_rate
                                                               : m->f32_rate;
    double bytes = c->weight_bytes + c->cache_bytes + c->state_bytes;
    double step = fmax(bytes / m->read_rate, batch > 1 ? w.step_flop / flop_rate : 0);
    double least = c->prompt * w.prompt_flop / flop_rate + c->tokens * step;
    c->share = least * c->mean / (c->prompt + c->tokens);
}

static uint64_t round64(uint64_t n) { return (n + 63) / 64 * 64; }

/* A context of random values; the pattern is drawn once and repeated. */
static void fill_random(zb_state *s, const zb_config *c, int len) {
    uint8_t pattern[FILL_BYTES], *p = (uint8_t *)s->data;
    for (int i = 0; i < FILL_BYTES; i++)
        pattern[i] = (uint8_t)(0x2C ^ (zb_rng_u32(1, ZB_RNG_TEST, (uint64_t)i) & 0x83));
    size_t n = zb_state_size(c, s->tokens_max) - sizeof *s;
    for (size_t at = 0; at < n; at += FILL_BYTES)
        memcpy(p + at, pattern, n - at < FILL_BYTES ? n - at : FILL_BYTES);
    s->len = len;
}

static zb_status new_session(const job *j, int tokens, zb_session **out, zb_err *err) {
    ZB_TRY(zb_session_new(out, j->b->engine, tokens, err));
    return zb_session_hold(*out, tokens, err);
}

/* A sequence computes its tokens from where it stands up to `end`. */
static zb_status read_prompt(const job *j, zb_session *s, int end, zb_err *err) {
    int at = zb_session_state(s)->len;
    zb_step_item item = {.session = s, .tokens = j->ids + at, .n = end - at};
    return item.n > 0 ? zb_step(&item, 1, err) : ZB_OK;
}

/* Brings the context of the case into the base, from what is there already if that is a part of
 * it. */
static zb_status compute_base(const job *j, zb_err *err) {
    zb_bench *b = j->b;
    int depth = j->c->depth, have = b->base ? zb_session_state(b->base)->len : 0;
    if (!b->base || have > depth || zb_session_max(b->base) < depth) {
        zb_session *old = b->base, *s = NULL;
        zb_status status = new_session(j, depth, &s, err);
        if (status == ZB_OK && old && have <= depth)
            zb_state_copy(zb_session_state(s), zb_session_state(old), config_of(b));
        zb_session_free(old);
        b->base = s;
        ZB_TRY(status);
    }
    return read_prompt(j, b->base, depth, err);
}

static zb_status prepare(job *j, zb_err *err) {
    zb_bench *b = j->b;
    zb_arena *a = &b->case_arena;
    const zb_config *c = config_of(b);
    int depth = j->c->depth, total = depth + j->c->prompt + j->c->tokens;
    j->session = ZB_NEW_ARRAY(a, zb_session *, j->batch);
    j->item = ZB_NEW_ARRAY(a, zb_step_item, j->batch);
    j->ids = ZB_NEW_ARRAY(a, int32_t, total);
    for (int i = 0; i < total; i++)
        j->ids[i] = (int32_t)zb_rng_below(1, ZB_RNG_TEST, (uint64_t)i, (uint32_t)c->V);
    if (depth && !b->opts.random_fill) ZB_TRY(compute_base(j, err));
    for (int i = 0; i < j->batch; i++) {
        ZB_TRY(new_session(j, total, &j->session[i], err));
        zb_state *s = zb_session_state(j->session[i]);
        if (b->opts.random_fill)
            fill_random(s, c, depth);
        else if (depth)
            zb_state_copy(s, zb_session_state(b->base), c);
    }
    zb_state *first = zb_session_state(j->session[0]);
    j->recurrent = zb_alloc(a, round64(first->bytes));
    memcpy(j->recurrent, first->data, first->bytes);
    return ZB_OK;
}

/* One measurement from the depth on, at most `steps` tokens decoded; seconds in *t. */
static zb_status measure(const job *j, int steps, double *t, zb_err *err) {
    int depth = j->c->depth, at = depth + j->c->prompt;
    for (int i = 0; i < j->batch; i++) { /* back to the depth: rows behind it are overwritten */
        zb_state *s = zb_session_state(j->session[i]);
        memcpy(s->data, j->recurrent, s->bytes);
        s->len = depth;
    }
    double start = zb_seconds();
    for (int i = 0; i < j->batch; i++) ZB_TRY(read_prompt(j, j->session[i], at, err));
    for (int s = 0; s < steps; s++) {
        for (int i = 0; i < j->batch; i++)
            j->item[i] = (zb_step_item){j->session[i], &j->ids[at + s], 1};
        ZB_TRY(zb_step(j->item, j->batch, err));
    }
    *t = zb_seconds() - start;
    return ZB_OK;
}

static zb_status measure_all(const job *j, zb_bench_case *c, zb_err *err) {
    int runs = j->b->opts.runs;
    double sum = 0, squares = 0, t;
    ZB_TRY(measure(j, c->tokens < WARM_STEPS ? c->tokens : WARM_STEPS, &t, err));
    for (int i = 0; i < runs; i++) {
        ZB_TRY(measure(j, c->tokens, &t, err));
        double rate = j->batch * (double)(c->prompt + c->tokens) / t;
        double off = rate - sum / (i ? i : 1); /* Welford's update */
        squares += i ? off * off * i / (i + 1) : 0;
        sum += rate;
    }
    c->runs = runs;
    c->mean = sum / runs;
    c->sd = runs > 1 ? sqrt(squares / (runs - 1)) : 0;
    return ZB_OK;
}

static zb_status check_case(const zb_bench *b, const zb_bench_case *c, zb_err *err) {
    int64_t n = (int64_t)c->depth + c->prompt + c->tokens;
    if (c->prompt < 0 || c->tokens < 0 || c->depth < 0 || c->prompt + c->tokens < 1 ||
        n > zb_engine_context(b->engine))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "bench: expected 1 or more tokens and at most %d with the depth (raise the "
                       "context), found %d at depth %d",
                       zb_engine_context(b->engine), c->prompt + c->tokens, c->depth);
    double need = (double)zb_state_size(config_of(b), (int)n) * c->batch,
           have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (have > 0 && need > have)
        return zb_fail(err, ZB_ERR_MEMORY,
                       "bench: %d sequences of %lld tokens need %.1f GB, this machine has %.1f GB",
                       c->batch, (long long)n, need * 1e-9, have * 1e-9);
    return ZB_OK;
}

zb_status zb_bench_run(zb_bench *b, zb_bench_case *c, zb_err *err) {
    if (c->batch < 1) c->batch = 1;
    ZB_TRY(check_case(b, c, err));
    job j = {.b = b, .c = c, .batch = c->batch};
    zb_status s = prepare(&j, err);
    if (s == ZB_OK) s = measure_all(&j, c, err);
    for (int i = 0; j.session && i < j.batch; i++) zb_session_free(j.session[i]);
    zb_arena_free(&b->case_arena);
    if (s == ZB_OK) account(b, c);
    return s;
}
