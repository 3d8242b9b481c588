/* linear.c - linear maps and norms of a pass, over all threads (contract in mixer.h).
 *
 * Few tokens are a stream over the weights as they are stored (stream.c). For many, quantised
 * weights at precision int8 are multiplied in integers (integer.c), weights in f32 go straight to
 * the matrix product, and other packed ones are unpacked by tiles of rows (by the product itself
 * where it can), so that no wide copy of a model is ever held. Norm gradients are summed per thread
 * and then in thread order: same threads, same bits. */
#include "kernels/kernels.h"
#include "model/integer.h"
#include "model/mixer.h"
#include "model/stream.h"

#include <omp.h>
#include <string.h>

/* A tile of unpacked rows: small enough to stay in the last cache, large enough for the product. */
enum { TILE_FLOATS = 1 << 21, TILE_ROWS_MIN = 512 };

static void product(zb_matmul *mm, const float *x, const float *w, int n, int rows, int cols,
                    float *y, int ldy) {
    zb_mm_args g = {.m = n,
                    .n = rows,
                    .k = cols,
                    .a = x,
                    .lda = cols,
                    .b = w,
                    .ldb = cols,
                    .b_t = true,
                    .c = y,
                    .ldc = ldy};
    zb_matmul_run(mm, &g);
}

int zb_linear_wide_rows(int rows, int cols) {
    int most = TILE_FLOATS / cols < TILE_ROWS_MIN ? TILE_ROWS_MIN : TILE_FLOATS / cols;
    return rows < most ? rows : most;
}

/* Tiles of one matrix are about equal: a small rest would be slow. */
static int tile_rows(const zb_param *w) {
    int most = zb_linear_wide_rows(w->rows, w->cols), tiles = (w->rows + most - 1) / most;
    return (w->rows + tiles - 1) / tiles;
}

/* Rows first .. first+n-1 of a packed matrix as f32. */
static void unpack(const zb_param *w, int first, int n, float *wide) {
    size_t bytes = zb_param_row_bytes(w);
#pragma omp parallel for schedule(static)
    for (int r = 0; r < n; r++)
        zb_dtype_to_f32(w->dtype, (const uint8_t *)w->data + (size_t)(first + r) * bytes,
                        wide + (size_t)r * w->cols, w->cols);
}

static void unpack_and_multiply(zb_run *run, const zb_param *w, const float *x, int n, float *y) {
    if (zb_matmul_on_tiles(run->mm)) {
        zb_mm_args g = {.m = n, .n = w->rows, .k = w->cols, .a = x, .lda = w->cols};
        g.b_type = w->dtype;
        g.b_stored = w->data;
        g.c = y;
        g.ldc = w->rows;
        zb_matmul_run(run->mm, &g);
        return;
    }
    zb_mark mark = zb_arena_mark(run->arena);
    int tile = tile_rows(w);
    float *wide = ZB_RAW_ARRAY(run->arena, float, (size_t)tile * w->cols);
    for (int r0 = 0; r0 < w->rows; r0 += tile) {
        int rows = w->rows - r0 < tile ? w->rows - r0 : tile;
        unpack(w, r0, rows, wide);
        product(run->mm, x, wide, n, rows, w->cols, y + r0, w->rows);
    }
    zb_arena_pop(run->arena, mark);
}

/* Many tokens: a matrix product of floats. */
static void multiply(zb_run *run, const zb_linear_map *m, const float *x, int n) {
    const zb_param *w = m->w;
    if (w->dtype == ZB_F32)
        product(run->mm, x, w->data, n, w->rows, w->cols, m->y, w->rows);
    else
        unpack_and_multiply(run, w, x, n, m->y);
    if (!m->bias) return;
    const zb_kernels *kn = zb_kernels_get();
    const float *b = m->bias->data; /* vectors are always loaded as f32 */
#pragma omp parallel for schedule(static)
    for (int i = 0; i < n; i++) kn->add(w->rows, b, m->y + (size_t)i * w->rows);
}

/* Results of the rows that a packed matrix also has wide. */
static void multiply_wide_rows(zb_run *run, const zb_linear_map *m, const float *x, int n) {
    const zb_param *w = m->w;
    int first = w->rows - w->wide_rows;
    zb_param last = {.dtype = ZB_F32, .data = w->wide, .rows = w->wide_rows, .cols = w->cols};
    if (zb_stream_wants(run, &last, n))
        for (int i = 0; i < n; i++)
            zb_stream_maps(run, &(zb_linear_map){&last, NULL, m->y + (size_t)i * w->rows + first},
                           1, x + (size_t)i * w->cols, 1);
    else
        product(run->mm, x, w->wide, n, last.rows, w->cols, m->y + first, w->rows);
    if (!m->bias) return;
    const zb_kernels *kn = zb_kernels_get();
    const float *b = m->bias->data;
    for (int i = 0; i < n; i++) kn->add(last.rows, b + first, m->y + (size_t)i * w->rows + first);
}

/* All maps as they are stored, each in the way that suits it. */
static void stored_maps(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x, int n) {
    int few = 0, integer = 0;
    for (int i = 0; i < n_maps; i++) {
        bool is_few = zb_stream_wants(run, maps[i].w, n);
        few += is_few;
        integer += !is_few && zb_integer_wants(run, maps[i].w, n);
    }
    if (few == n_maps)
        zb_stream_maps(run, maps, n_maps, x, n);
    else if (integer == n_maps)
        zb_integer_maps(run, maps, n_maps, x, n);
    else if (n_maps > 1)
        for (int i = 0; i < n_maps; i++) stored_maps(run, &maps[i], 1, x, n);
    else if (n_maps == 1)
        multiply(run, maps, x, n);
}

/* The same, and rows that are also there wide. */
static void linear_maps(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x, int n) {
    stored_maps(run, maps, n_maps, x, n);
    for (int i = 0; i < n_maps; i++)
        if (maps[i].w->wide) multiply_wide_rows(run, &maps[i], x, n);
}

/* Each span on its own, so that nothing depends on what else is in the batch. Single tokens go
 * together where the kernel sums every token alone: f32 activations, few tokens. */
static void linear_apart(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x) {
    ZB_ASSERT(n_maps <= ZB_LINEAR_MAPS);
    const zb_batch *b = run->batch;
    bool alone = zb_matmul_precision(run->mm) == ZB_PREC_INT8;
    for (int s = 0; s < b->n_spans;) {
        const zb_span *sp = &b->span[s++];
        zb_linear_map part[ZB_LINEAR_MAPS];
        int n = sp->n;
        bool more = n == 1 && !alone;
        while (more && s < b->n_spans && b->span[s].n == 1) {
            for (int i = 0; i < n_maps; i++) more = more && zb_stream_wants(run, maps[i].w, n + 1);
            if (more) n++, s++;
        }
        for (int i = 0; i < n_maps; i++) {
            part[i] = maps[i];
            part[i].y += (size_t)sp->start * maps[i].w->rows;
        }
        linear_maps(run, part, n_maps, x + (size_t)sp->start * maps[0].w->cols, n);
    }
}

void zb_linear_many(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x, int n) {
    for (int i = 0; run->observe && i < n_maps; i++) run->observe(run->observer, maps[i].w, x, n);
    if (run->deterministic && run->batch->n_spans > 1 && n == run->batch->n)
        linear_apart(run, maps, n_maps, x);
    else
        linear_maps(run, maps, n_maps, x, n);
}

void zb_linear(zb_run *run, const zb_param *w, const zb_param *bias, const float *x, int n,
               float *y) {
    zb_linear_many(run, &(zb_linear_map){w, bias, y}, 1, x, n);
}

/* dx = dy · W (+ dx); a frozen W may be packed. */
static void backward_input(zb_run *run, const zb_param *w, const float *dy, int n, float *dx,
                           bool add) {
    bool packed = w->dtype != ZB_F32;
    ZB_ASSERT(!w->wide);
    zb_mark mark = zb_arena_mark(run->arena);
    int tile = packed ? tile_rows(w) : w->rows;
    float *wide = packed ? ZB_RAW_ARRAY(run->arena, float, (size_t)tile * w->cols) : NULL;
    for (int r0 = 0; r0 < w->rows; r0 += tile) {
        int rows = w->rows - r0 < tile ? w->rows - r0 : tile;
        if (packed) unpack(w, r0, rows, wide);
        zb_mm_args g = {.m = n,
                        .n = w->cols,
                        .k = rows,
                        .a = dy + r0,
                        .lda = w->rows,
                        .b = packed ? wide : w->data,
                        .ldb = w->cols,
                        .c = dx,
                        .ldc = w->cols,
                        .add = add || r0 > 0};
        zb_matmul_run(run->mm, &g);
    }
    zb_arena_pop(run->arena, mark);
}

static void backward_weight(zb_run *run, const zb_param *w, const zb_param *bias, const float *x,
                            const float *dy, int n) {
    if (w->grad) {
        zb_mm_args g = {.m = w->rows,
                        .n = w->cols,
                        .k = n,
                        .a = dy,
                        .lda = w->rows,
                        .a_t = true,
                        .b = x,
                        .ldb = w->cols,
                        .c = w->grad,
                        .ldc = w->cols,
                        .add = true};
        zb_matmul_run(run->mm, &g);
    }
    if (bias && bias->grad) {
        const zb_kernels *kn = zb_kernels_get();
        for (int i = 0; i < n; i++) kn->add(w->rows, dy + (size_t)i * w->rows, bias->grad);
    }
}

/* dy meets the weights and the inputs: rounded once for both. */
static void backward(zb_run *run, const zb_param *w, const zb_param *bias, const float *x,
                     const float *dy, int n, float *dx, bool add) {
    zb_matmul_hold(run->mm, ZB_HOLD_GRADIENT, dy, n, w->rows);
    if (dx) backward_input(run, w, dy, n, dx, add);
    backward_weight(run, w, bias, x, dy, n);
    zb_matmul_release(run->mm, ZB_HOLD_GRADIENT);
}

void zb_linear_backward(zb_run *run, const zb_param *w, const zb_param *bias, const float *x,
                        const float *dy, int n, float *dx) {
    backward(run, w, bias, x, dy, n, dx, true);
}

void zb_linear_backward_to(zb_run *run, const zb_param *w, const zb_param *bias, const float *x,
                           const float *dy, int n, float *dx) {
    backward(run, w, bias, x, dy, n, dx, false);
}

void zb_norm(zb_run *run, const zb_param *w, const float *x, int n, int dim, float *y, float *r) {
    const zb_kernels *kn = zb_kernels_get();
    float eps = w && w->eps > 0 ? w->eps : (float)run->config->eps;
    const float *weight = w ? w->data : NULL;
#pragma omp parallel for schedule(static) if (n > 1)
    for (int i = 0; i < n; i++) {
        float f = kn->rmsnorm(dim, x + (size_t)i * dim, weight, eps, y + (size_t)i * dim);
        if (r) r[i] = f;
    }
}

void zb_norm_backward(zb_run *run, const zb_param *w, const float *x, const float *r,
                      const float *dy, int n, int dim, float *dx) {
    const zb_kernels *kn = zb_kernels_get();
    zb_mark mark = zb_arena_mark(run->arena);
    bool want = w && w->grad;
    float *part = want ? ZB_NEW_ARRAY(run->arena, float, (size_t)run->threads *dim) : NULL;
    const float *weight = w ? w->data : NULL;
#pragma omp parallel num_threads(run->threads)
    {
        float *dw = want ? part + (size_t)omp_get_thread_num() * dim : NULL;
#pragma omp for schedule(static)
        for (int i = 0; i < n; i++) {
            size_t at = (size_t)i * dim;
            kn->rmsnorm_backward(dim, x + at, weight, r[i], dy + at, dx + at, dw);
        }
    }
    for (int t = 0; want && t < run->threads; t++) kn->add(dim, part + (size_t)t * dim, w->grad);
    zb_arena_pop(run->arena, mark);
}

float *zb_scratch(zb_run *run, size_t floats) {
    return ZB_NEW_ARRAY(run->arena, float, floats *(size_t)run->threads);
}
