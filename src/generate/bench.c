/* bench.c - measures a model and the machine under it (contract in bench.h).
 *
 * Work per token, the measure of "how much of the machine":
 *
 *   prefill   2 · (weights of all matrices but embedding and head) flop; attention's own products
 * come on top and are not counted decode    bytes of all weights (of an untied embedding one row) +
 * cache of the average context + states read and written */
#include "generate/bench.h"

#include "base/log.h"
#include "base/rng.h"
#include "generate/session.h"
#include "kernels/kernels.h"

#include <math.h>
#include <omp.h>

enum { READ_MB = 512, PRODUCT = 1536, REPEATS = 5, RUNS_MAX = 1000 };

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

zb_status zb_bench_machine_measure(zb_bench_machine *m, zb_err *err) {
    zb_arena a = {0};
    *m = (zb_bench_machine){.threads = omp_get_max_threads(), .kernels = zb_kernels_get()->name};
    m->read_rate = read_rate(&a);
    zb_status s = product_rate(ZB_PREC_F32, &m->f32_rate, &a, err);
    if (s == ZB_OK) s = product_rate(ZB_PREC_BF16, &m->bf16_rate, &a, err);
    zb_arena_free(&a);
    return s;
}

static double work_per_token(const zb_engine *e, const zb_bench_case *b) {
    const zb_config *c = zb_model_config(zb_engine_model(e));
    const zb_param_table *t = zb_model_params(zb_engine_model(e));
    double flop = 0, bytes = 0;
    for (int i = 0; i < t->n; i++) {
        const zb_param *p = &t->item[i];
        size_t size = 0;
        if (p->layer >= 0 && p->n_dims == 2) flop += 2.0 * (double)zb_param_count(p);
        if (zb_dtype_size(p->dtype, p == t->embed && t->head != p ? p->cols : zb_param_count(p),
                          &size))
            bytes += (double)size;
    }
    if (!b->decode) return flop;
    double context = b->depth + 0.5 * b->tokens;
    for (int l = 0; l < c->L; l++)
        bytes += 4.0 * (zb_config_cache(c, l) * context + 2.0 * (double)zb_config_state(c, l));
    return bytes;
}

/* One measurement on a session that holds `ids` up to depth; seconds in *t. */
static zb_status measure(zb_session *s, const int32_t *ids, const zb_bench_case *c, double *t,
                         zb_err *err) {
    ZB_TRY(zb_session_sync(s, ids, c->depth, err));
    double start = zb_seconds();
    if (c->decode)
        for (int i = 0; i < c->tokens; i++) ZB_TRY(zb_session_step(s, ids[c->depth + i], err));
    else
        ZB_TRY(zb_session_sync(s, ids, c->depth + c->tokens, err));
    *t = zb_seconds() - start;
    return ZB_OK;
}

static zb_status run_all(zb_session *s, const int32_t *ids, int runs, zb_bench_case *c,
                         zb_err *err) {
    double sum = 0, squares = 0;
    for (int i = -1; i < runs; i++) { /* the first warms up */
        double t = 0;
        if (zb_interrupted()) return zb_fail(err, ZB_ERR_INTERRUPTED, "interrupted");
        ZB_TRY(measure(s, ids, c, &t, err));
        if (i < 0) continue;
        double rate = c->tokens / t, off = rate - sum / (i ? i : 1); /* Welford's update */
        squares += i ? off * off * i / (i + 1) : 0;
        sum += rate;
    }
    c->runs = runs;
    c->mean = sum / runs;
    c->sd = runs > 1 ? sqrt(squares / (runs - 1)) : 0;
    return ZB_OK;
}

zb_status zb_bench_run(zb_engine *e, const zb_bench_machine *m, int runs, zb_bench_case *c,
                       zb_err *err) {
    if (runs < 1 || runs > RUNS_MAX)
        return zb_fail(err, ZB_ERR_CONFIG, "bench: expected 1 to %d runs, found %d", RUNS_MAX,
                       runs);
    int64_t n = (int64_t)c->depth + c->tokens;
    if (c->tokens < 1 || c->depth < 0 || n > zb_engine_context(e))
        return zb_fail(err, ZB_ERR_CONFIG,
                       "bench: expected 1 or more tokens and at most %d with the depth (raise the "
                       "context), found %d at depth %d",
                       zb_engine_context(e), c->tokens, c->depth);
    zb_session *s;
    ZB_TRY(zb_session_new(&s, e, (int)n, err));
    zb_arena a = {0};
    int32_t *ids = ZB_NEW_ARRAY(&a, int32_t, n);
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)zb_rng_below(1, ZB_RNG_TEST, (uint64_t)i, (uint32_t)zb_engine_vocab(e));
    zb_status status = run_all(s, ids, runs, c, err);
    zb_arena_free(&a);
    zb_session_free(s);
    if (status != ZB_OK) return status;
    double peak = c->decode                                                    ? m->read_rate
                  : zb_engine_precision(e) == ZB_PREC_BF16 && m->bf16_rate > 0 ? m->bf16_rate
                                                                               : m->f32_rate;
    c->work = work_per_token(e, c);
    c->share = peak > 0 ? c->work * c->mean / peak : 0;
    return ZB_OK;
}
