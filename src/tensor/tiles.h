/* tiles.h - products of zb_matmul in bf16 by matrix registers (kernels.h: tile_pack, tile_product).
 *
 * For processors that have them (zb_kernels.tiles). Both operands are f32 and become bf16 on the
 * way; sums are f32, in an order that depends on k alone. */
#ifndef ZB_TENSOR_TILES_H
#define ZB_TENSOR_TILES_H

#include "kernels/kernels.h"
#include "tensor/matmul.h"

#include <stddef.h>

/* Bytes of workspace; it must begin at a multiple of 64. */
size_t zb_tiles_room(const zb_mm_args *g);

/* C = op(A)·op(B) (+ C) on all threads. All sizes are at least 1. */
void zb_tiles_run(const zb_mm_args *g, void *room);

/* Packs `rows` rows (columns of the right operand) in strips, an even number of them as
 * tile_product wants; `like`: depth, x, row, step and right of the first. */
void zb_tiles_pack(zb_tile_strip like, int rows, uint16_t *out);

#endif
