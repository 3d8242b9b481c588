/* check_tile.c - products by packed tiles: packing to the bit, products against double precision
 * (rules and tolerances of check.c), edges of C untouched, sums that do not depend on company. */
#include "check.h"

#include "tensor/dtype.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int up(int n, int by) { return (n + by - 1) / by; }

/* Packed value d of row r of one strip. */
static uint16_t packed_at(const uint16_t *strip, bool right, int r, int d) {
    const uint16_t *tile = strip + d / ZB_TILE_DEPTH * ZB_TILE;
    d %= ZB_TILE_DEPTH;
    return right ? tile[(d / 2 * ZB_TILE_ROWS + r) * 2 + d % 2] : tile[r * ZB_TILE_DEPTH + d];
}

static void check_pack(const zb_kernels *k, int rows, int depth, bool by_rows, bool right) {
    int gap = draw_below(5), row = by_rows ? depth + gap : 1, step = by_rows ? 1 : rows + gap;
    int tiles = up(depth, ZB_TILE_DEPTH);
    int64_t n = rows && depth ? (int64_t)(rows - 1) * row + (int64_t)(depth - 1) * step + 1 : 0;
    float *x = take_random(0, n, 3);
    uint16_t *out = guard_take(1, (size_t)tiles * ZB_TILE * sizeof *out);
    memset(out, 0xff, (size_t)tiles * ZB_TILE * sizeof *out);
    k->tile_pack(&(zb_tile_strip){.rows = rows,
                                  .depth = depth,
                                  .x = x,
                                  .row = row,
                                  .step = step,
                                  .right = right,
                                  .out = out});
    for (int d = 0; d < tiles * ZB_TILE_DEPTH; d++)
        for (int r = 0; r < ZB_TILE_ROWS; r++) {
            bool inside = r < rows && d < depth;
            uint16_t want = inside ? zb_f32_to_bf16(x[r * row + d * step]) : 0;
            near(depth, r * depth + d, packed_at(out, right, r, d), want, 0);
        }
    guards(depth);
}

/* Random packed strips, an even number of them that holds `rows` rows. */
static uint16_t *strips(int slot, int rows, int tiles, bool right) {
    size_t count = (size_t)up(rows, 2 * ZB_TILE_ROWS) * 2, strip = (size_t)tiles * ZB_TILE;
    uint16_t *p = guard_take(slot, count * strip * sizeof *p);
    memset(p, 0, count * strip * sizeof *p);
    for (size_t s = 0; s < count; s++)
        for (int r = 0; r < ZB_TILE_ROWS && (int)s * ZB_TILE_ROWS + r < rows; r++)
            for (int d = 0; d < tiles * ZB_TILE_DEPTH; d++) {
                int in = d % ZB_TILE_DEPTH;
                p[s * strip + (size_t)(d / ZB_TILE_DEPTH * ZB_TILE +
                                       (right ? (in / 2 * ZB_TILE_ROWS + r) * 2 + in % 2
                                              : r * ZB_TILE_DEPTH + in))] =
                    zb_f32_to_bf16((float)draw());
            }
    return p;
}

static double value_at(const uint16_t *p, int tiles, bool right, int r, int d) {
    const uint16_t *strip = p + (size_t)(r / ZB_TILE_ROWS) * (size_t)tiles * ZB_TILE;
    return (double)zb_bf16_to_f32(packed_at(strip, right, r % ZB_TILE_ROWS, d));
}

/* far: results in whole lines, as they must be to go past the caches. */
static void check_product(const zb_kernels *k, int m, int n, int tiles, bool add, bool far) {
    enum { LINE = 64 / sizeof(float) };
    if (far) n = up(n, LINE) * LINE;
    int ldc = far ? n + draw_below(3) * LINE : n + draw_below(7);
    zb_tile_product g = {.m = m, .n = n, .tiles = tiles, .add = add, .far = far, .ldc = ldc};
    g.a = strips(0, m, tiles, false);
    g.b = strips(1, n, tiles, true);
    int64_t size = (m - 1) * g.ldc + n;
    g.c = take_random(2, size, 1);
    float *before = copy_of(g.c, size);
    k->tile_product(&g);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < g.ldc && i * g.ldc + j < size; j++) {
            double start = (double)before[i * g.ldc + j], got = (double)g.c[i * g.ldc + j];
            double want = add || j >= n ? start : 0, magnitude = fabs(want);
            for (int d = 0; d < tiles * ZB_TILE_DEPTH && j < n; d++) {
                double x = value_at(g.a, tiles, false, i, d) * value_at(g.b, tiles, true, j, d);
                want += x;
                magnitude += fabs(x);
            }
            int terms = tiles * ZB_TILE_DEPTH + 1;
            near(terms, i * n + j, got, want, j < n ? sum_tolerance(terms, magnitude) : 0);
        }
    guards(tiles);
    free(before);
}

/* A sum must not depend on what else is multiplied: alone it has the same bits. */
static void check_company(const zb_kernels *k) {
    enum { M = 70, N = 53, TILES = 5 };
    const uint16_t *a = strips(0, M, TILES, false), *b = strips(1, N, TILES, true);
    float *all = take(2, M * N), one[32 * 32];
    zb_tile_product g = {.m = M, .n = N, .tiles = TILES, .a = a, .b = b, .c = all, .ldc = N};
    k->tile_product(&g);
    for (int i = 0; i < M; i += 32)
        for (int j = 0; j < N; j += 32) {
            zb_tile_product part = g;
            part.m = 1;
            part.n = 1;
            part.a += i * TILES * ZB_TILE_DEPTH;
            part.b += j * TILES * ZB_TILE_DEPTH;
            part.c = one;
            k->tile_product(&part);
            near(TILES, i * N + j, (double)all[i * N + j], (double)one[0], 0);
        }
}

void check_tile(const zb_kernels *k) {
    for (int form = 0; form < 4; form++)
        for (int round = 0; round < 40; round++)
            check_pack(k, round < 4 ? 16 * (round & 1) : draw_below(ZB_TILE_ROWS + 1),
                       round < 4 ? 32 * round : 1 + draw_below(round < 20 ? 80 : 2100), form & 1,
                       form & 2);
    for (int round = 0; round < 80; round++)
        check_product(k, 1 + draw_below(round < 8 ? 33 : 100), 1 + draw_below(round < 8 ? 33 : 100),
                      1 + draw_below(round % 10 ? 6 : 64), round & 1, round & 2);
    check_company(k);
}
