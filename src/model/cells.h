/* cells.h - rows of numbers kept in a storage type: what caches of keys, values and latents are
 * made of.
 *
 * A row of `width` values takes zb_cells_row() bytes in one of four types: f32, bf16, f16, or q8_0
 * (blocks of 32 with one scale; the last block of a row may be filled up). Rows of one zb_cells
 * stand `row` bytes apart. The memory is borrowed. */
#ifndef ZB_MODEL_CELLS_H
#define ZB_MODEL_CELLS_H

#include "base/opts.h"
#include "kernels/kernels.h"
#include "tensor/dtype.h"

typedef struct zb_cells {
    zb_dtype type;
    int width;
    size_t row; /* bytes from row to row */
    const void *p;
} zb_cells;

/* ZB_F32, ZB_BF16, ZB_F16 or ZB_Q8_0 by their names in lower case; others are an error. */
zb_status zb_cells_type(const char *name, zb_dtype *out, zb_err *err);

/* The row of an option table for the cache type. */
#define ZB_CELLS_OPTION(type, field, def)                                                          \
    {                                                                                              \
        ZB_OPT_CHOICE, "cache_type", 0, offsetof(type, field), def, 0, 0, "f32|bf16|f16|q8_0",     \
            "how keys, values and latents of a sequence are kept"                                  \
    }

size_t zb_cells_row(zb_dtype type, int width); /* bytes of one row */

/* f32 rows that already stand somewhere, `row` floats apart. */
static inline zb_cells zb_cells_f32(const float *p, ptrdiff_t row, int width) {
    return (zb_cells){ZB_F32, width, (size_t)row * sizeof(float), p};
}

/* n rows from row `at` on as kernels see them. */
zb_cell_rows zb_cells_rows(const zb_cells *c, int at, int n);

/* n rows from row `at` on as f32, `out_row` floats apart. */
void zb_cells_read(const zb_cells *c, int at, int n, float *out, ptrdiff_t out_row);

/* One row of `width` values into memory of zb_cells_row() bytes, rounded to the type. */
void zb_cells_write(zb_dtype type, int width, const float *x, void *to);

#endif
