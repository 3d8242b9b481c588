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

#include <omp.h>

enum {
    TILE_BYTES = ZB_TILE * 2,
    PAIR = 2 * ZB_TILE_ROWS, /* rows that are multiplied together */
    HELD_BYTES = 5 << 18,    /* of a second cache of 2 MiB or more */
    CHUNK_BYTES = 5 << 15,
    DEEPEST = 64 /* tiles of a piece: 2,048 values */
};

/* Value d of row r (column of B) at x[r*row + d*step]. */
typedef struct operand {
    const float *x;
    ptrdiff_t row, step;
    int rows;
    bool right;
} operand;

typedef struct plan {
    operand held, passing;
    int tiles, pieces;  /* along the sum, and of those the number of pieces */
    int blocks, ranges; /* of held and of passing */
    int held_pairs, passing_pairs, chunk_pairs;
} plan;

static int up(int n, int by) { return (n + by - 1) / by; }
static int cut(int n, int i, int of) { return (int)((int64_t)n * i / of); }
static int least(int a, int b) { return a < b ? a : b; }

/* Blocks and ranges of one choice of what is held; returns values read, with idle threads counted
 * as if they read, too. */
static double choose_cuts(plan *p, int threads) {
    int piece = up(p->tiles, p->pieces), most = HELD_BYTES / (2 * TILE_BYTES * piece);
    int fewest = up(p->held_pairs, most);
    double best = 0;
    for (int blocks = fewest; blocks <= least(p->held_pairs, fewest + threads); blocks++)
        for (int ranges = 1; ranges <= least(p->passing_pairs, threads); ranges++) {
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

static plan plan_of(const zb_mm_args *g) {
    operand a = {g->a, g->a_t ? 1 : g->lda, g->a_t ? g->lda : 1, g->m, false};
    operand b = {g->b, g->b_t ? g->ldb : 1, g->b_t ? 1 : g->ldb, g->n, true};
    int tiles = up(g->k, ZB_TILE_DEPTH), pieces = up(tiles, DEEPEST);
    int a_pairs = up(g->m, PAIR), b_pairs = up(g->n, PAIR), threads = omp_get_max_threads();
    plan hold_a = {a, b, tiles, pieces, 1, 1, a_pairs, b_pairs, 1},
         hold_b = {b, a, tiles, pieces, 1, 1, b_pairs, a_pairs, 1};
    plan p = choose_cuts(&hold_a, threads) < choose_cuts(&hold_b, threads) ? hold_a : hold_b;
    int chunk = CHUNK_BYTES / (2 * TILE_BYTES * up(tiles, pieces));
    p.chunk_pairs = chunk < 1 ? 1 : least(chunk, up(p.passing_pairs, p.ranges));
    return p;
}

/* Of one thread: the block, then the chunk. */
static size_t block_bytes(const plan *p) {
    return (size_t)2 * TILE_BYTES * (size_t)up(p->tiles, p->pieces) *
           (size_t)up(p->held_pairs, p->blocks);
}

static size_t thread_bytes(const plan *p) {
    return block_bytes(p) +
           (size_t)2 * TILE_BYTES * (size_t)up(p->tiles, p->pieces) * (size_t)p->chunk_pairs;
}

size_t zb_tiles_room(const zb_mm_args *g) {
    plan p = plan_of(g);
    return thread_bytes(&p) * (size_t)omp_get_max_threads();
}

/* Values d0 .. d1-1 of pairs first .. last-1. */
static void pack(const operand *o, int first, int last, int d0, int d1, uint16_t *out) {
    const zb_kernels *kn = zb_kernels_get();
    int tiles = up(d1 - d0, ZB_TILE_DEPTH);
    for (int s = 2 * first; s < 2 * last; s++, out += (ptrdiff_t)tiles * ZB_TILE) {
        int row = s * ZB_TILE_ROWS, rows = least(o->rows - row, ZB_TILE_ROWS);
        if (rows < 0) rows = 0, row = 0;
        kn->tile_pack(&(zb_tile_strip){.rows = rows,
                                       .depth = d1 - d0,
                                       .x = o->x + row * o->row + d0 * o->step,
                                       .row = o->row,
                                       .step = o->step,
                                       .right = o->right,
                                       .out = out});
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

static void multiply(const zb_mm_args *g, packed a, packed b, int tiles, bool add) {
    zb_kernels_get()->tile_product(&(zb_tile_product){.m = a.rows,
                                                      .n = b.rows,
                                                      .tiles = tiles,
                                                      .a = a.values,
                                                      .b = b.values,
                                                      .c = g->c + a.row * g->ldc + b.row,
                                                      .ldc = g->ldc,
                                                      .add = add});
}

static void run_task(const zb_mm_args *g, const plan *p, int task, char *room) {
    int block = task / p->ranges, range = task % p->ranges;
    int h0 = cut(p->held_pairs, block, p->blocks), h1 = cut(p->held_pairs, block + 1, p->blocks);
    int s0 = cut(p->passing_pairs, range, p->ranges),
        s1 = cut(p->passing_pairs, range + 1, p->ranges);
    uint16_t *held = (uint16_t *)(void *)room, *chunk = held + block_bytes(p) / sizeof *held;
    for (int piece = 0; piece < p->pieces; piece++) {
        int d0 = cut(p->tiles, piece, p->pieces) * ZB_TILE_DEPTH,
            d1 = least(cut(p->tiles, piece + 1, p->pieces) * ZB_TILE_DEPTH, g->k);
        pack(&p->held, h0, h1, d0, d1, held);
        packed h = packed_of(&p->held, h0, h1, held);
        for (int s = s0; s < s1; s += p->chunk_pairs) {
            int end = least(s + p->chunk_pairs, s1);
            pack(&p->passing, s, end, d0, d1, chunk);
            packed c = packed_of(&p->passing, s, end, chunk);
            multiply(g, p->held.right ? c : h, p->held.right ? h : c, up(d1 - d0, ZB_TILE_DEPTH),
                     g->add || piece > 0);
        }
    }
}

void zb_tiles_run(const zb_mm_args *g, void *room) {
    plan p = plan_of(g);
    size_t bytes = thread_bytes(&p);
#pragma omp parallel for schedule(dynamic)
    for (int t = 0; t < p.blocks * p.ranges; t++)
        run_task(g, &p, t, (char *)room + bytes * (size_t)omp_get_thread_num());
}
