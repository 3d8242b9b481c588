/* check_cells.c - both products of attention over stored rows against their formula in double
 * precision (rules and tolerances of check.c). */
#include "check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 32, BLOCK_BYTES = 34 };

static size_t bytes_of(zb_cell type, int width) {
    if (type == ZB_CELL_Q8_0) return (size_t)(width + BLOCK - 1) / BLOCK * BLOCK_BYTES;
    return (size_t)width * (type == ZB_CELL_F32 ? 4 : 2);
}

/* n rows in slot 0, a few bytes apart; the last one ends at the trapping page. */
static zb_cell_rows draw_rows(const zb_kernels *k, zb_cell type, int n, int width) {
    size_t row = bytes_of(type, width), gap = (size_t)draw_below(3) * 4;
    zb_cell_rows c = {type, n, width, NULL, row + gap, draw_below(2)};
    uint8_t *p = guard_take(0, n ? (size_t)(n - 1) * c.row_bytes + row : 0);
    c.p = p;
    for (int j = 0; j < n; j++, p += c.row_bytes) {
        float *x = take_random(1, width, 1);
        switch (type) {
        case ZB_CELL_F32: memcpy(p, x, row); break;
        case ZB_CELL_BF16: k->f32_to_bf16(width, x, (void *)p); break;
        case ZB_CELL_F16: k->f32_to_f16(width, x, (void *)p); break;
        case ZB_CELL_Q8_0:
            draw_packed(p, row / BLOCK_BYTES, BLOCK_BYTES, 1); /* what fills up may be any codes */
            break;
        }
        if (gap && j + 1 < n) memset(p + row, 0xff, gap); /* NaN between the rows */
    }
    return c;
}

static double value(const zb_cell_rows *c, int row, int i) {
    const uint8_t *p = c->p + (size_t)row * c->row_bytes;
    uint16_t h;
    uint32_t bits;
    float x;
    switch (c->type) {
    case ZB_CELL_F32: memcpy(&x, p + 4 * i, 4); return (double)x;
    case ZB_CELL_BF16:
        memcpy(&h, p + 2 * i, 2);
        bits = (uint32_t)h << 16;
        memcpy(&x, &bits, 4);
        return (double)x;
    case ZB_CELL_F16: memcpy(&h, p + 2 * i, 2); return half_value(h);
    default: p += i / BLOCK * BLOCK_BYTES; memcpy(&h, p, 2);
    }
    return half_value(h) * (int8_t)p[2 + i % BLOCK];
}

static void check_scores(const zb_kernels *k, zb_cell type, int m, int n, int width) {
    zb_cell_rows c = draw_rows(k, type, n, width);
    int q_row = width + draw_below(5), s_row = n + draw_below(9);
    bool add = draw_below(2);
    float *q = take_random(2, m ? (int64_t)(m - 1) * q_row + width : 0, 1);
    float *s = take_random(3, (int64_t)m * s_row, 1);
    for (int i = 0; i < m && !add; i++)
        for (int j = 0; j < n; j++) s[i * s_row + j] = NAN; /* proves that S is not read */
    float *before = copy_of(s, (int64_t)m * s_row);
    zb_scores_args a = {m, q, q_row, c, s, s_row, add};
    k->attend_scores(&a);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < s_row; j++) {
            double old = (double)before[i * s_row + j], want = add ? old : 0,
                   size = add ? fabs(old) : 0;
            for (int p = 0; p < width && j < n; p++) {
                double x = (double)q[i * q_row + p] * value(&c, j, p);
                want += x;
                size += fabs(x);
            }
            near(m * 1000000 + n * 1000 + width, i * s_row + j, (double)s[i * s_row + j],
                 j < n ? want : old, j < n ? sum_tolerance(width, size) : 0);
        }
    guards(m);
    free(before);
}

static void check_values(const zb_kernels *k, zb_cell type, int m, int n, int width) {
    zb_cell_rows c = draw_rows(k, type, n, width);
    int p_row = n + draw_below(5), o_row = width + draw_below(9);
    float *p = take_random(2, m ? (int64_t)(m - 1) * p_row + n : 0, 1),
          *keep = take_random(4, m, 1);
    float *o = take_random(3, m ? (int64_t)(m - 1) * o_row + width : 0, 1);
    for (int i = 0; i < m; i++)
        if (draw_below(2)) keep[i] = 1;
    int64_t count = m ? (int64_t)(m - 1) * o_row + width : 0;
    float *before = copy_of(o, count);
    zb_values_args a = {m, p, p_row, keep, c, o, o_row};
    k->attend_values(&a);
    for (int64_t at = 0; at < count; at++) {
        int i = (int)(at / o_row), col = (int)(at % o_row);
        double old = (double)before[at], want = (double)keep[i] * old, size = fabs(want);
        for (int j = 0; j < n && col < width; j++) {
            double x = (double)p[i * p_row + j] * value(&c, j, col);
            want += x;
            size += fabs(x);
        }
        near(m * 1000000 + n * 1000 + width, at, (double)o[at], col < width ? want : old,
             col < width ? sum_tolerance(n, size) : 0);
    }
    guards(m);
    free(before);
}

/* As many rows as on the same side of the kernel's threshold: the same bits for each. */
static void check_company(const zb_kernels *k, zb_cell type) {
    enum { M = 12, N = 37, W = 44 };
    zb_cell_rows c = draw_rows(k, type, N, W);
    float *q = take_random(2, M * W, 1), *s = take(3, M * N), *one = take(4, N);
    for (int m = 1; m <= M; m++) {
        int least = m <= 6 ? 1 : 7; /* the limit of scores */
        k->attend_scores(&(zb_scores_args){m, q, W, c, s, N, false});
        for (int i = 0; i + least <= m; i++) {
            float *few = least == 1 ? one : take(5, 7 * N);
            k->attend_scores(&(zb_scores_args){least, q + i * W, W, c, few, N, false});
            for (int j = 0; j < N; j++) near(m, j, (double)s[i * N + j], (double)few[j], 0);
        }
    }
}

void check_cells(const zb_kernels *k) {
    static const int rows[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 32, 97},
                     widths[] = {0,  1,  3,  4,  7,  8,  9,  12, 15, 16, 17,  24,
                                 31, 32, 33, 44, 63, 64, 65, 76, 80, 96, 100, 128},
                     keys[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64};
    enum { N_ROWS = sizeof rows / sizeof *rows, N_KEYS = sizeof keys / sizeof *keys };
    enum { N_WIDTHS = sizeof widths / sizeof *widths };
    for (int t = ZB_CELL_F32; t <= ZB_CELL_Q8_0; t++) {
        for (int i = 0; i < 500; i++) {
            int m = rows[draw_below(N_ROWS)], n = keys[draw_below(N_KEYS)],
                w = widths[draw_below(N_WIDTHS)];
            check_scores(k, (zb_cell)t, m, n, w);
            check_values(k, (zb_cell)t, m, n, w);
        }
        for (int i = 0; i < 6; i++) { /* beyond one panel of the kernel */
            check_scores(k, (zb_cell)t, 1 + draw_below(20), 40, 250 + draw_below(20));
            check_values(k, (zb_cell)t, 1 + draw_below(20), 250 + draw_below(20), 40);
        }
        check_company(k, (zb_cell)t);
    }
}
