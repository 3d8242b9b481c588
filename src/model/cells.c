/* cells.c - rows in and out of their storage types (contract in cells.h).
 *
 * The conversions are kernels; here is only which one belongs to a type. */
#include "model/cells.h"

#include <string.h>

enum { Q8_BLOCK = 32, Q8_BYTES = 34 };

zb_status zb_cells_type(const char *name, zb_dtype *out, zb_err *err) {
    static const struct {
        const char *name;
        zb_dtype type;
    } types[] = {{"f32", ZB_F32}, {"bf16", ZB_BF16}, {"f16", ZB_F16}, {"q8_0", ZB_Q8_0}};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (!strcmp(name, types[i].name)) {
            *out = types[i].type;
            return ZB_OK;
        }
    return zb_fail(err, ZB_ERR_CONFIG, "cache type: expected f32, bf16, f16 or q8_0, found '%.20s'",
                   name);
}

size_t zb_cells_row(zb_dtype type, int width) {
    if (type == ZB_Q8_0) return (size_t)(width + Q8_BLOCK - 1) / Q8_BLOCK * Q8_BYTES;
    return (size_t)width * (type == ZB_F32 ? 4 : 2);
}

zb_cell_rows zb_cells_rows(const zb_cells *c, int at, int n) {
    zb_cell type = c->type == ZB_F32    ? ZB_CELL_F32
                   : c->type == ZB_BF16 ? ZB_CELL_BF16
                   : c->type == ZB_F16  ? ZB_CELL_F16
                                        : ZB_CELL_Q8_0;
    const uint8_t *p = c->p;
    return (zb_cell_rows){type, n, c->width, p + (size_t)at * c->row, c->row, false};
}

void zb_cells_read(const zb_cells *c, int at, int n, float *out, ptrdiff_t out_row) {
    const zb_kernels *kn = zb_kernels_get();
    const uint8_t *from = (const uint8_t *)c->p + (size_t)at * c->row;
    for (int i = 0; i < n; i++, from += c->row, out += out_row) {
        switch (c->type) {
        case ZB_F32: memcpy(out, from, (size_t)c->width * sizeof *out); break;
        case ZB_BF16: kn->bf16_to_f32(c->width, (const void *)from, out); break;
        case ZB_F16: kn->f16_to_f32(c->width, (const void *)from, out); break;
        default: kn->q8_0_to_f32(c->width, from, out); break;
        }
    }
}

void zb_cells_write(zb_dtype type, int width, const float *x, void *to) {
    const zb_kernels *kn = zb_kernels_get();
    switch (type) {
    case ZB_F32: memcpy(to, x, (size_t)width * sizeof *x); break;
    case ZB_BF16: kn->f32_to_bf16(width, x, to); break;
    case ZB_F16: kn->f32_to_f16(width, x, to); break;
    default: kn->f32_to_q8_0(width, x, to); break;
    }
}
