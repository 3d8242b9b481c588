/* stream.c - linear maps of few tokens (contract in stream.h).
 *
 * Four ways to multiply packed rows, by type and precision:
 *   8 bits   at precision int8 a quantised matrix meets activations in blocks of 32 signed bytes
 *            (kernels.h: quantize_q8, gemv8_*), quantised once for all maps that share them;
 *   stored   f32 activations and rows of a type that caches have, too: several tokens meet several
 *            rows in registers (attend_scores, whose keys are the rows of the matrix);
 *   exact    f32 activations and a kernel for the type (gemv_*), a token at a time over a few rows
 *            that stay in the cache: one token alone, and deterministic passes;
 *   widened  f32 activations and no such kernel: a row goes through a tile on the stack.
 * The rows of all maps together are dealt to the threads by bytes, so that threads finish
 * together; a thread's share does not depend on timing, and every row is summed by one thread. */
#include "model/stream.h"

#include "kernels/kernels.h"
#include "model/cells.h"
#include "model/integer.h"

#include <omp.h>

/* Up to so many tokens, as measured: beyond, products in cache blocks win over streams. Codes of 8
 * bits gain less from these (integer.c), so their streams win for longer, most so where bytes are
 * multiplied at twice the rate. */
enum { FEW_INT8 = 4, FEW_WIDE = 6, FEW_WIDE_VNNI = 12, FEW_EXACT = 4 };
/* Packed rows that need no copy in f32: such a copy costs as much as multiplying 32 tokens, or 6
 * where the processor then multiplies in bf16. */
enum { FEW_STORED = 32, FEW_STORED_NATIVE = 6 };
enum { BLOCK = 32, TILE = 1024, ROWS = 4, EXACT_ROWS = 16, STORED_ROWS = 16 };

/* Bytes below which a second thread costs more than it brings. */
static const size_t parallel_bytes = 32 << 10;

typedef void (*exact_fn)(const zb_gemv_args *);
typedef void (*int8_fn)(const zb_gemv8_args *);

static exact_fn exact_of(zb_dtype t) {
    const zb_kernels *kn = zb_kernels_get();
    switch (t) {
    case ZB_F32: return kn->gemv_f32;
    case ZB_BF16: return kn->gemv_bf16;
    case ZB_F16: return kn->gemv_f16;
    case ZB_Q8_0: return kn->gemv_q8_0;
    case ZB_Q4_0: return kn->gemv_q4_0;
    case ZB_Q4_1: return kn->gemv_q4_1;
    default: return NULL;
    }
}

static int8_fn int8_of(const zb_run *run, zb_dtype t) {
    const zb_kernels *kn = zb_kernels_get();
    if (zb_matmul_precision(run->mm) != ZB_PREC_INT8) return NULL;
    switch (t) {
    case ZB_Q8_0: return kn->gemv8_q8_0;
    case ZB_Q4_0: return kn->gemv8_q4_0;
    case ZB_Q4_1: return kn->gemv8_q4_1;
    case ZB_Q4_K: return kn->gemv8_q4_k;
    case ZB_Q5_K: return kn->gemv8_q5_k;
    case ZB_Q6_K: return kn->gemv8_q6_k;
    default: return NULL;
    }
}

/* Several tokens at once: a token's sum then depends on their number. */
static bool is_stored(const zb_run *run, zb_dtype t) {
    return !run->deterministic && (t == ZB_F32 || t == ZB_BF16 || t == ZB_F16 || t == ZB_Q8_0);
}

bool zb_stream_wants(const zb_run *run, const zb_param *w, int n) {
    if (!int8_of(run, w->dtype)) {
        bool stored = is_stored(run, w->dtype) && w->dtype != ZB_F32;
        int few_stored = zb_matmul_bf16_native(run->mm) ? FEW_STORED_NATIVE : FEW_STORED;
        return n <= (stored ? few_stored : FEW_EXACT) && !zb_integer_wants(run, w, n);
    }
    bool wide = w->dtype == ZB_Q8_0 || w->dtype == ZB_Q6_K;
    int few_wide = zb_kernels_get()->igemm_vnni ? FEW_WIDE_VNNI : FEW_WIDE;
    return n <= (wide ? few_wide : FEW_INT8);
}

/* What all threads share. */
typedef struct job {
    const zb_run *run;
    const zb_linear_map *maps;
    int n_maps, n, k;
    size_t bytes; /* of all maps */
    const float *x;
    int8_t *q; /* [n, k], with d and sum [n, k/32]; NULL where no map wants them */
    float *d, *sum;
} job;

static void rows_exact(const job *j, const zb_linear_map *m, exact_fn f, int first, int last) {
    zb_gemv_args g = {.w = m->w->data, .row_bytes = zb_param_row_bytes(m->w), .k = j->k};
    for (g.first = first; g.first < last; g.first = g.last) {
        g.last = g.first + EXACT_ROWS < last ? g.first + EXACT_ROWS : last;
        for (int t = 0; t < j->n; t++) {
            g.x = j->x + (size_t)t * j->k;
            g.y = m->y + (size_t)t * m->w->rows;
            f(&g);
        }
    }
}

static void rows_stored(const job *j, const zb_linear_map *m, int first, int last) {
    zb_cells w = {m->w->dtype, m->w->cols, zb_param_row_bytes(m->w), m->w->data};
    for (int r = first; r < last; r += STORED_ROWS) {
        zb_scores_args g = {.m = j->n, .q = j->x, .q_row = j->k};
        g.k = zb_cells_rows(&w, r, last - r < STORED_ROWS ? last - r : STORED_ROWS);
        g.s = m->y + r;
        g.s_row = m->w->rows;
        zb_kernels_get()->attend_scores(&g);
    }
}

static void rows_widened(const job *j, const zb_linear_map *m, int first, int last) {
    const zb_kernels *kn = zb_kernels_get();
    const zb_dtype_info *type = zb_dtype_get(m->w->dtype);
    size_t bytes = zb_param_row_bytes(m->w);
    float tile[TILE];
    for (int r = first; r < last; r++) {
        const uint8_t *row = (const uint8_t *)m->w->data + (size_t)r * bytes;
        for (int p = 0; p < j->k; p += TILE) {
            int k = j->k - p < TILE ? j->k - p : TILE;
            zb_dtype_to_f32(m->w->dtype, row + (size_t)(p / type->block * type->bytes), tile, k);
            for (int t = 0; t < j->n; t++) {
                float *y = &m->y[(size_t)t * m->w->rows + r];
                float part = kn->dot(k, tile, j->x + (size_t)t * j->k + p);
                *y = p ? *y + part : part;
            }
        }
    }
}

static void rows_of_map(const job *j, const zb_linear_map *m, int first, int last) {
    const zb_kernels *kn = zb_kernels_get();
    const zb_param *w = m->w;
    int8_fn f8 = int8_of(j->run, w->dtype);
    exact_fn f = exact_of(w->dtype);
    if (f8) {
        zb_gemv8_args g = {.w = w->data,
                           .row_bytes = zb_param_row_bytes(w),
                           .first = first,
                           .last = last,
                           .k = j->k,
                           .n = j->n,
                           .q = j->q,
                           .d = j->d,
                           .sum = j->sum,
                           .y = m->y,
                           .y_row = w->rows};
        f8(&g);
    } else if (j->n > 1 && is_stored(j->run, w->dtype)) {
        rows_stored(j, m, first, last);
    } else if (f) {
        rows_exact(j, m, f, first, last);
    } else {
        rows_widened(j, m, first, last);
    }
    if (!m->bias) return;
    const float *b = m->bias->data; /* vectors are always loaded as f32 */
    for (int t = 0; t < j->n; t++)
        kn->add(last - first, b + first, m->y + (size_t)t * w->rows + first);
}

/* The part `at` of `of` of all bytes, cut at multiples of ROWS rows. */
static void share(const job *j, int at, int of) {
    size_t from = j->bytes * (size_t)at / (size_t)of, to = j->bytes * (size_t)(at + 1) / (size_t)of;
    size_t start = 0;
    for (int i = 0; i < j->n_maps; i++) {
        const zb_param *w = j->maps[i].w;
        size_t bytes = zb_param_row_bytes(w), end = start + bytes * (size_t)w->rows;
        size_t lo = from > start ? from - start : 0, hi = to < end ? to - start : end - start;
        if (from < end && to > start) {
            size_t unit = bytes * ROWS;
            int first = (int)((lo + unit - 1) / unit) * ROWS;
            int last = to < end ? (int)((hi + unit - 1) / unit) * ROWS : w->rows;
            if (last > w->rows) last = w->rows;
            if (first < last) rows_of_map(j, &j->maps[i], first, last);
        }
        start = end;
    }
}

static void quantise(zb_run *run, job *j) {
    const zb_kernels *kn = zb_kernels_get();
    int blocks = j->k / BLOCK, n = j->n, k = j->k;
    j->q = ZB_RAW_ARRAY(run->arena, int8_t, (size_t)n * k);
    j->d = ZB_RAW_ARRAY(run->arena, float, (size_t)n *blocks);
    j->sum = ZB_RAW_ARRAY(run->arena, float, (size_t)n *blocks);
    for (int t = 0; t < n; t++)
        kn->quantize_q8(k, j->x + (size_t)t * k, j->q + (size_t)t * k, j->d + (size_t)t * blocks,
                        j->sum + (size_t)t * blocks);
}

void zb_stream_maps(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x, int n) {
    zb_mark mark = zb_arena_mark(run->arena);
    job j = {.run = run, .maps = maps, .n_maps = n_maps, .n = n, .k = maps[0].w->cols, .x = x};
    bool int8 = false;
    for (int i = 0; i < n_maps; i++) {
        ZB_ASSERT(maps[i].w->cols == j.k);
        j.bytes += zb_param_row_bytes(maps[i].w) * (size_t)maps[i].w->rows;
        int8 = int8 || int8_of(run, maps[i].w->dtype);
    }
    if (int8) quantise(run, &j);
#pragma omp parallel num_threads(run->threads) if (j.bytes > parallel_bytes)
    share(&j, omp_get_thread_num(), omp_get_num_threads());
    zb_arena_pop(run->arena, mark);
}
