/* kern_ref_tile.c - scalar reference of products by packed tiles (layout and formula in kernels.h).
 */
#include "kernels/kernels_impl.h"

static void tile_pack(const zb_tile_strip *s) {
    int tiles = (s->depth + ZB_TILE_DEPTH - 1) / ZB_TILE_DEPTH;
    for (int d = 0; d < tiles * ZB_TILE_DEPTH; d++)
        for (int r = 0; r < ZB_TILE_ROWS; r++) {
            bool inside = r < s->rows && d < s->depth;
            int at = d % ZB_TILE_DEPTH, pair = at / 2 * ZB_TILE_ROWS + r;
            uint16_t *tile = s->out + (ptrdiff_t)(d / ZB_TILE_DEPTH) * ZB_TILE;
            tile[s->right ? 2 * pair + at % 2 : r * ZB_TILE_DEPTH + at] =
                inside ? kern_bf16_of_f32(s->x[r * s->row + d * s->step]) : 0;
        }
}

static float value(uint16_t bf16) { return kern_f32_of_bits((uint32_t)bf16 << 16); }

static void tile_product(const zb_tile_product *p) {
    ptrdiff_t strip = (ptrdiff_t)p->tiles * ZB_TILE;
    for (int i = 0; i < p->m; i++)
        for (int j = 0; j < p->n; j++) {
            const uint16_t *a = p->a + i / ZB_TILE_ROWS * strip + i % ZB_TILE_ROWS * ZB_TILE_DEPTH;
            const uint16_t *b = p->b + j / ZB_TILE_ROWS * strip + j % ZB_TILE_ROWS * 2;
            float sum = p->add ? p->c[i * p->ldc + j] : 0;
            for (int t = 0; t < p->tiles; t++, a += ZB_TILE, b += ZB_TILE)
                for (int d = 0; d < ZB_TILE_DEPTH; d++)
                    sum += value(a[d]) * value(b[d / 2 * 2 * ZB_TILE_ROWS + d % 2]);
            p->c[i * p->ldc + j] = sum;
        }
}

void kern_ref_tile_fill(zb_kernels *k) {
    k->tile_pack = tile_pack;
    k->tile_product = tile_product;
}
