/* tiles.c - large products on matrix registers (contract in tiles.h).
 *
 * Matrix registers multiply a hundred times as fast as a core reads its last cache, so what counts
 * is how often an operand comes from beyond the second one. A task holds a block of one operand
 * packed in the second cache and lets a range of the other pass by in small chunks, each of which
 * is packed, multiplied with the whole block and forgotten. What a thread packs it uses itself;
 * nothing goes from core to core. Which operand is held, and into how many blocks and ranges the
 * two are cut, is what reads the fewest values; a deep sum goes in pieces, so that a block is wide
 * enough. */
#include "tensor/tiles.h"

#include "kernels/kernels.h"
#include "tensor/dtype.h"

#include <omp.h>

enum {
    TILE_BYTES = ZB_TILE * 2,
    PAIR = 2 * ZB_TILE_ROWS, /* rows that are multiplied together */
    HELD_BYTES = 5 << 18,    /* of a second cache of 2 MiB or more */
    CHUNK_BYTES = 5 << 15,
    FAR_BYTES = 1 << 24, /* results of each thread */
    UNIT = 256,          /* values: pieces of a sum begin between stored blocks */
    DEEPEST = 8          /* units of a piece */
};

/* Value d of row r (column of B) at x[r*row + d*step], or as stored in rows of that many bytes. */
typedef struct operand {
    const float *x;
    ptrdiff_t row, step;
    int rows;
    bool right;
    zb_dtype type;
    const uint8_t *stored;
    size_t stored_row;
} operand;

typedef struct plan {
    operand held, passing;
    int units, pieces, deepest; /* along the sum; values of the deepest piece */
    bool far;                   /* results will have left all caches when they are read */
    int blocks, ranges;         /* of held and of passing */
    int held_pairs, passing_pairs, chunk_pairs;
    /* Of a packed pair; then of a thread's block, chunk and all, with the rows it widens. */
    size_t pair_bytes, block_bytes, chunk_bytes, thread_bytes;
} plan;

static int up(int n, int by) { return (n + by - 1) / by; }
static int cut(int n, int i, int of) { return (int)((int64_t)n * i / of); }
static int least(int a, int b) { return a < b ? a : b; }

/* Blocks and ranges of one choice of what is held; returns values read, with idle threads counted
 * as if they read, too. */
static double choose_cuts(plan *p, int threads) {
    int fewest = up(p->held_pairs, (int)(HELD_BYTES / p->pair_bytes));
    double best = 0;
    for (int blocks = fewest; blocks <= least(p->held_pairs, fewest + threads); blocks++)
        for (int wanted = 1; wanted <= 3; wanted++) { /* tasks of each thread */
            int ranges = least(p->passing_pairs, wanted * threads / blocks);
            if (ranges < 1) ranges = 1;
            int tasks = blocks * ranges, rounds = up(tasks, threads);
            double read = (double)ranges * p->held.rows + (double)blocks * p->passing.rows,
                   cost = read * rounds * threads / tasks;
            if (best > 0 && cost >= best) continue;
            best = cost;
            p->blocks = blocks;
            p->ranges = ranges;
        }
    return best;
}

static operand right_of(const zb_mm_args *g) {
    operand o = {.x = g->b, .rows = g->n, .right = true};
    o.row = g->b_t ? g->ldb : 1;
    o.step = g->b_t ? 1 : g->ldb;
    if (!g->b_stored) return o;
    const zb_dtype_info *t = zb_dtype_get(g->b_type);
    o.type = g->b_type;
    o.stored = g->b_stored;
    o.stored_row = (size_t)(g->k / t->block * t->bytes);
    return o;
}

static plan plan_of(const zb_mm_args *g) {
    operand a = {.x = g->a, .row = g->lda, .step = 1, .rows = g->m}, b = right_of(g);
    if (g->a_t) a.row = 1, a.step = g->lda;
    int units = up(g->k, UNIT), pieces = up(units, DEEPEST), threads = omp_get_max_threads();
    plan p = {.units = units, .pieces = pieces, .deepest = least(up(units, pieces) * UNIT, g->k)};
    p.pair_bytes = (size_t)up(p.deepest, ZB_TILE_DEPTH) * 2 * TILE_BYTES;
    p.far = pieces == 1 && (size_t)g->m * (size_t)g->n * sizeof *g->c / (size_t)threads > FAR_BYTES;
    plan hold_a = p, hold_b = p;
    hold_a.held = hold_b.passing = a;
    hold_b.held = hold_a.passing = b;
    hold_a.held_pairs = hold_b.passing_pairs = up(g->m, PAIR);
    hold_b.held_pairs = hold_a.passing_pairs = up(g->n, PAIR);
    p = choose_cuts(&hold_a, threads) < choose_cuts(&hold_b, threads) ? hold_a : hold_b;
    int chunk = (int)(CHUNK_BYTES / p.pair_bytes);
    p.chunk_pairs = chunk < 1 ? 1 : least(chunk, up(p.passing_pairs, p.ranges));
    p.block_bytes = p.pair_bytes * (size_t)up(p.held_pairs, p.blocks);
    p.chunk_bytes = p.pair_bytes * (size_t)p.chunk_pairs;
    size_t wide = b.stored ? sizeof(float) * PAIR * (size_t)p.deepest : 0;
    p.thread_bytes = p.block_bytes + p.chunk_bytes + (wide + 63) / 64 * 64;
    return p;
}

size_t zb_tiles_room(const zb_mm_args *g) {
    return plan_of(g).thread_bytes * (size_t)omp_get_max_threads();
}

/* Values d0 .. d1-1 of `rows` rows from `row` on, widened. */
static void widen(const operand *o, int row, int rows, int d0, int d1, float *wide) {
    const zb_dtype_info *t = zb_dtype_get(o->type);
    const uint8_t *at = o->stored + (size_t)row * o->stored_row + d0 / t->block * t->bytes;
    for (int r = 0; r < rows; r++, at += o->stored_row, wide += d1 - d0)
        zb_dtype_to_f32(o->type, at, wide, d1 - d0);
}

/* Values d0 .. d1-1 of all strips. */
static void pack_strips(const zb_tile_strip *like, int rows, int d0, int d1, uint16_t *out) {
    zb_tile_strip s = *like;
    s.depth = d1 - d0;
    s.out = out + (ptrdiff_t)(d0 / ZB_TILE_DEPTH) * ZB_TILE;
    for (int r = 0; r < up(rows, PAIR) * PAIR; r += ZB_TILE_ROWS) {
        s.rows = r < rows ? least(rows - r, ZB_TILE_ROWS) : 0;
        s.x = like->x + d0 * s.step + (r < rows ? r * s.row : 0);
        zb_kernels_get()->tile_pack(&s);
        s.out += (ptrdiff_t)up(like->depth, ZB_TILE_DEPTH) * ZB_TILE;
    }
}

void zb_tiles_pack(zb_tile_strip like, int rows, uint16_t *out) {
    /* Memory is read as it lies: where that is across the strips, a tile of each at a time. */
    int depth = like.step == 1 ? like.depth : ZB_TILE_DEPTH;
    for (int d = 0; d < like.depth; d += depth)
        pack_strips(&like, rows, d, least(d + depth, like.depth), out);
}

/* Values d0 .. d1-1 of pairs first .. last-1. */
static void pack(const operand *o, int first, int last, int d0, int d1, uint16_t *out,
                 float *wide) {
    zb_tile_strip s = {.depth = d1 - d0, .row = o->row, .step = o->step, .right = o->right};
    if (!o->stored) {
        s.x = o->x + first * PAIR * o->row + d0 * o->step;
        zb_tiles_pack(s, least(last * PAIR, o->rows) - first * PAIR, out);
        return;
    }
    s.x = wide, s.row = d1 - d0, s.step = 1;
    for (int p = first; p < last; p++, out += (ptrdiff_t)up(s.depth, ZB_TILE_DEPTH) * 2 * ZB_TILE) {
        int row = p * PAIR, rows = least(o->rows - row, PAIR);
        widen(o, row, rows, d0, d1, wide);
        zb_tiles_pack(s, rows, out);
    }
}

/* A packed run of pairs, at `row` of its operand. */
typedef struct packed {
    const uint16_t *values;
    int row, rows;
} packed;

static packed packed_of(const operand *o, int first, int last, const uint16_t *values) {
    return (packed){values, first * PAIR, least(last * PAIR, o->rows) - first * PAIR};
}

static void multiply(const zb_mm_args *g, const plan *p, packed a, packed b, int tiles, bool add) {
    zb_kernels_get()->tile_product(&(zb_tile_product){.m = a.rows,
                                                      .n = b.rows,
                                                      .tiles = tiles,
                                                      .a = a.values,
                                                      .b = b.values,
                                                      .c = g->c + a.row * g->ldc + b.row,
                                                      .ldc = g->ldc,
                                                      .add = add,
                                                      .far = p->far});
}

static void run_task(const zb_mm_args *g, const plan *p, int task, char *room) {
    int block = task / p->ranges, range = task % p->ranges;
    int h0 = cut(p->held_pairs, block, p->blocks), h1 = cut(p->held_pairs, block + 1, p->blocks);
    int s0 = cut(p->passing_pairs, range, p->ranges),
        s1 = cut(p->passing_pairs, range + 1, p->ranges);
    uint16_t *held = (void *)room, *chunk = (void *)(room + p->block_bytes);
    float *wide = (void *)(room + p->block_bytes + p->chunk_bytes);
    for (int piece = 0; piece < p->pieces; piece++) {
        int d0 = cut(p->units, piece, p->pieces) * UNIT,
            d1 = least(cut(p->units, piece + 1, p->pieces) * UNIT, g->k);
        pack(&p->held, h0, h1, d0, d1, held, wide);
        packed h = packed_of(&p->held, h0, h1, held);
        for (int s = s0; s < s1; s += p->chunk_pairs) {
            int end = least(s + p->chunk_pairs, s1);
            pack(&p->passing, s, end, d0, d1, chunk, wide);
            packed c = packed_of(&p->passing, s, end, chunk);
            multiply(g, p, p->held.right ? c : h, p->held.right ? h : c, up(d1 - d0, ZB_TILE_DEPTH),
                     g->add || piece > 0);
        }
    }
}

void zb_tiles_run(const zb_mm_args *g, void *room) {
    plan p = plan_of(g);
#pragma omp parallel for schedule(dynamic)
    for (int t = 0; t < p.blocks * p.ranges; t++)
        run_task(g, &p, t, (char *)room + p.thread_bytes * (size_t)omp_get_thread_num());
}
