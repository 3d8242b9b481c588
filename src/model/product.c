/* product.c - see product.h. */
#include "model/product.h"

#include "tensor/tiles.h"

static int up(int n, int by) { return (n + by - 1) / by; }

static void packed_product(float *room, zb_shape s, zb_left a, zb_right b, bool turned, zb_out c,
                           bool add) {
    int tiles = up(s.k, ZB_TILE_DEPTH), pairs = up(s.m, 2 * ZB_TILE_ROWS);
    uint16_t *left = (void *)room, *right = left + (size_t)pairs * 2 * (size_t)tiles * ZB_TILE;
    zb_tile_strip rows = {.depth = s.k, .x = a.p, .row = a.row, .step = a.column},
                  columns = {.depth = s.k, .x = b.p, .row = 1, .step = b.row, .right = true};
    if (turned) columns.row = b.row, columns.step = 1;
    zb_tiles_pack(rows, s.m, left);
    zb_tiles_pack(columns, s.n, right);
    zb_kernels_get()->tile_product(
        &(zb_tile_product){s.m, s.n, tiles, left, right, c.p, c.row, add, false});
}

void zb_product_in(const zb_product_room *room, zb_shape s, zb_left a, zb_right b, bool turned,
                   zb_out c, bool add) {
    if (room->bf16) {
        packed_product(room->at, s, a, b, turned, c, add);
        return;
    }
    if (turned) {
        zb_transpose(b.p, b.row, s.n, s.k, room->at);
        b = (zb_right){room->at, s.n};
    }
    zb_product_to(s, a, b, c, add);
}
