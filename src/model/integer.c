/* integer.c - linear maps of many tokens in 8-bit integers (contract in integer.h).
 *
 * The tokens are rounded to blocks of 32 signed bytes once for all maps that share them (kernels.h:
 * quantize_q8), then the maps' rows are dealt to the threads in tiles of 16, for at most CHUNK
 * tokens at a time, so that the bytes of these stay in the second cache: 256 of 1,536 are 384 KiB.
 * A tile is rearranged anew for every chunk, which costs as much as multiplying it with ten tokens.
 * Which thread takes a tile depends on timing; what it computes does not. */
#include "model/integer.h"

#include "kernels/cpu.h"
#include "kernels/kernels.h"

enum { TILE = ZB_IGEMM_ROWS, CHUNK = 256, CHUNK_LEAST = 32, TASKS_PER_THREAD = 4 };
enum { FEW_FOR_TILES = 40 }; /* tokens, as measured */

static bool packing_of(zb_dtype t, zb_packing *out) {
    switch (t) {
    case ZB_Q8_0: *out = ZB_PACKING_Q8_0; return true;
    case ZB_Q4_0: *out = ZB_PACKING_Q4_0; return true;
    case ZB_Q4_1: *out = ZB_PACKING_Q4_1; return true;
    case ZB_Q5_0: *out = ZB_PACKING_Q5_0; return true;
    case ZB_Q5_1: *out = ZB_PACKING_Q5_1; return true;
    case ZB_Q4_K: *out = ZB_PACKING_Q4_K; return true;
    case ZB_Q5_K: *out = ZB_PACKING_Q5_K; return true;
    case ZB_Q6_K: *out = ZB_PACKING_Q6_K; return true;
    default: return false;
    }
}

/* Integers lose only to bf16 on matrix registers (AMX), for which weights are unpacked: that pays
 * where many tokens share it. Beside plain AVX512-BF16 they win, since VNNI doubles its rate, and
 * where neither is at hand they beat f32 (kern_igemm.c). */
bool zb_integer_wants(const zb_run *run, const zb_param *w, int n) {
    zb_packing p;
    if (zb_matmul_precision(run->mm) != ZB_PREC_INT8 || !packing_of(w->dtype, &p)) return false;
    return n <= FEW_FOR_TILES || !zb_kernels_get()->tiles;
}

/* Tokens in 8 bits: q [n,k], d and sum [n,k/32], half [n,k/16]. */
typedef struct tokens {
    int n, k;
    int8_t *q;
    float *d, *sum;
    int16_t *half;
} tokens;

static tokens tokens_new(zb_run *run, int n, int k) {
    size_t values = (size_t)n * (size_t)k;
    return (tokens){.n = n,
                    .k = k,
                    .q = ZB_RAW_ARRAY(run->arena, int8_t, values),
                    .d = ZB_RAW_ARRAY(run->arena, float, values / 32),
                    .sum = ZB_RAW_ARRAY(run->arena, float, values / 32),
                    .half = ZB_RAW_ARRAY(run->arena, int16_t, values / 16)};
}

static void tokens_set(const tokens *t, int i, const float *x) {
    const zb_kernels *kn = zb_kernels_get();
    size_t at = (size_t)i * (size_t)t->k;
    kn->quantize_q8(t->k, x + at, t->q + at, t->d + at / 32, t->sum + at / 32);
    kn->sum_halves(t->k, t->q + at, t->half + at / 16);
}

/* Tile `tile` of a map times tokens first..last-1. */
static void multiply(const zb_linear_map *m, int tile, const tokens *t, int first, int last) {
    const zb_kernels *kn = zb_kernels_get();
    const zb_param *w = m->w;
    size_t row_bytes = zb_param_row_bytes(w), at = (size_t)first * (size_t)t->k;
    int row = tile * TILE, rows = w->rows - row < TILE ? w->rows - row : TILE;
    zb_packing packing = ZB_PACKING_Q8_0;
    bool ok = packing_of(w->dtype, &packing);
    ZB_ASSERT(ok);
    zb_igemm_args g = {.type = packing,
                       .rows = rows,
                       .n = last - first,
                       .k = t->k,
                       .w = (const uint8_t *)w->data + (size_t)row * row_bytes,
                       .row_bytes = row_bytes,
                       .q = t->q + at,
                       .d = t->d + at / 32,
                       .sum = t->sum + at / 32,
                       .half = t->half + at / 16,
                       .y = m->y + (size_t)first * (size_t)w->rows + row,
                       .ldy = w->rows};
    kn->igemm(&g);
    if (!m->bias) return;
    const float *b = m->bias->data; /* vectors are always loaded as f32 */
    for (int i = 0; i < g.n; i++) kn->add(rows, b + row, g.y + i * g.ldy);
}

static int tiles_of(const zb_param *w) { return (w->rows + TILE - 1) / TILE; }

/* Tokens per task: all up to CHUNK, fewer where there are too few tiles to occupy the threads. */
static int chunk_of(int tiles, int n, int threads) {
    int chunks = (TASKS_PER_THREAD * threads + tiles - 1) / tiles;
    int chunk = (n + chunks - 1) / chunks;
    if (chunk < CHUNK_LEAST) chunk = CHUNK_LEAST;
    if (chunk > CHUNK) chunk = CHUNK;
    return chunk + (-chunk & 7); /* whole groups of the kernel's tokens */
}

void zb_integer_maps(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x, int n) {
    int tiles = 0, k = maps[0].w->cols;
    for (int i = 0; i < n_maps; i++) {
        ZB_ASSERT(maps[i].w->cols == k);
        tiles += tiles_of(maps[i].w);
    }
    if (tiles == 0 || n == 0) return;
    zb_mark mark = zb_arena_mark(run->arena);
    tokens t = tokens_new(run, n, k);
    int chunk = chunk_of(tiles, n, run->threads), tasks = (n + chunk - 1) / chunk * tiles;
#pragma omp parallel num_threads(run->threads)
    {
#pragma omp for schedule(static)
        for (int i = 0; i < n; i++) tokens_set(&t, i, x);
#pragma omp for schedule(dynamic)
        for (int j = 0; j < tasks; j++) {
            int first = j / tiles * chunk, tile = j % tiles, i = 0;
            while (tile >= tiles_of(maps[i].w)) tile -= tiles_of(maps[i++].w);
            multiply(&maps[i], tile, &t, first, first + chunk < n ? first + chunk : n);
        }
    }
    zb_arena_pop(run->arena, mark);
}
