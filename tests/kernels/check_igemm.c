/* check_igemm.c - the product of packed weights and many 8-bit tokens against its formula in double
 * precision (rules and tolerances of check.c); weights as tensor/dtype.c widens them. */
#include "check.h"

#include "tensor/dtype.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Stored formats of the multi-token product; `codes` is the byte of a block where the codes begin
 * (in Q6_K they come first and end before `scales`). */
static const struct {
    zb_dtype dtype;
    int codes, scales, half[2]; /* half: where f16 numbers stand, -1 none */
} stored[ZB_PACKINGS] = {
    [ZB_PACKING_Q8_0] = {ZB_Q8_0, 2, 34, {0, -1}},
    [ZB_PACKING_Q4_0] = {ZB_Q4_0, 2, 18, {0, -1}},
    [ZB_PACKING_Q4_1] = {ZB_Q4_1, 4, 20, {0, 2}},
    [ZB_PACKING_Q5_0] = {ZB_Q5_0, 2, 22, {0, -1}},
    [ZB_PACKING_Q5_1] = {ZB_Q5_1, 4, 24, {0, 2}},
    [ZB_PACKING_Q4_K] = {ZB_Q4_K, 16, 144, {0, 2}},
    [ZB_PACKING_Q5_K] = {ZB_Q5_K, 16, 176, {0, 2}},
    [ZB_PACKING_Q6_K] = {ZB_Q6_K, 0, 192, {208, -1}},
};

/* Random blocks; `full`: with all code bits set, the largest sums there are. */
static void draw_stored(zb_packing t, uint8_t *w, size_t blocks, bool full) {
    int bytes = zb_dtype_get(stored[t].dtype)->bytes;
    for (size_t b = 0; b < blocks; b++, w += bytes) {
        for (int i = 0; i < bytes; i++) w[i] = (uint8_t)draw_below(256);
        if (full) memset(w + stored[t].codes, 255, (size_t)(stored[t].scales - stored[t].codes));
        for (int h = 0; h < 2; h++) {
            uint8_t *high = w + stored[t].half[h] + 1;
            if (stored[t].half[h] >= 0) *high = (uint8_t)((*high & 0x83) | 0x20);
        }
    }
}

/* Tokens as quantize_q8 leaves them; `full`: all q at the ends of their range. */
static void draw_tokens(zb_igemm_args *g, bool full) {
    int8_t *q = guard_take(1, (size_t)(g->n * g->k));
    float *d = take(2, g->n * (g->k / 32)), *sum = take(3, g->n * (g->k / 32));
    int16_t *half = guard_take(4, (size_t)(g->n * (g->k / 16)) * sizeof *half);
    memset(half, 0, (size_t)(g->n * (g->k / 16)) * sizeof *half);
    for (int b = 0; b < g->n * (g->k / 32); b++) {
        int total = 0, end = draw_below(2) ? 127 : -127;
        for (int i = 32 * b; i < 32 * b + 32; i++) {
            q[i] = (int8_t)(full ? end : draw_below(255) - 127);
            total += q[i];
            half[i / 16] = (int16_t)(half[i / 16] + q[i]);
        }
        d[b] = (float)draw();
        sum[b] = d[b] * (float)total;
    }
    g->q = q;
    g->d = d;
    g->sum = sum;
    g->half = half;
}

/* Magnitudes: a weight is min + scale·code, and both parts are rounded; the weight of code 0 is
 * the first. */
static void check_igemm_one(const zb_kernels *k, zb_packing t, int rows, int n, int blocks) {
    const zb_dtype_info *type = zb_dtype_get(stored[t].dtype);
    bool full = draw_below(3) == 0;
    size_t used = (size_t)(blocks * type->bytes), stride = used + (size_t)draw_below(5);
    uint8_t *w = guard_take(0, stride * (size_t)(rows - 1) + used);
    int columns = blocks * type->block;
    zb_igemm_args g = {.type = t, .rows = rows, .n = n, .k = columns, .w = w, .row_bytes = stride};
    for (int j = 0; j < rows; j++) draw_stored(t, w + stride * (size_t)j, (size_t)blocks, full);
    draw_tokens(&g, full);
    g.ldy = rows + draw_below(7);
    g.y = take_random(5, (n - 1) * g.ldy + rows, 1);
    float *before = copy_of(g.y, (n - 1) * g.ldy + rows);
    float *wide = calloc((size_t)columns + 1, sizeof *wide);
    float *least = calloc((size_t)columns + 1, sizeof *least);
    uint8_t *bare = calloc(used + 1, 1);
    if (!wide || !least || !bare) abort();
    k->igemm(&g);
    for (int j = 0; j < rows; j++) {
        memcpy(bare, w + stride * (size_t)j, used);
        for (int b = 0; b < blocks; b++)
            memset(bare + b * type->bytes + stored[t].codes, 0,
                   (size_t)(stored[t].scales - stored[t].codes));
        zb_dtype_to_f32(stored[t].dtype, w + stride * (size_t)j, wide, columns);
        zb_dtype_to_f32(stored[t].dtype, bare, least, columns);
        for (int i = 0; i < n; i++) {
            double want = 0, size = 0;
            for (int c = 0; c < columns; c++) {
                double x = (double)g.q[i * columns + c] * (double)g.d[i * (columns / 32) + c / 32];
                want += (double)wide[c] * x;
                size +=
                    (fabs((double)wide[c] - (double)least[c]) + fabs((double)least[c])) * fabs(x);
            }
            near(columns, i * rows + j, (double)g.y[i * g.ldy + j], want,
                 sum_tolerance(columns, size));
        }
    }
    for (int i = 0; i + 1 < n; i++) /* nothing between the rows of y is touched */
        for (int j = rows; j < g.ldy; j++)
            near(columns, j, (double)g.y[i * g.ldy + j], (double)before[i * g.ldy + j], 0);
    guards(columns);
    free(before);
    free(wide);
    free(least);
    free(bare);
}

/* A token's result must not depend on the tokens beside it: alone it has the same bits. */
static void check_igemm_company(const zb_kernels *k, zb_packing t) {
    enum { N = 17, ROWS = 13 };
    const zb_dtype_info *type = zb_dtype_get(stored[t].dtype);
    int blocks = 1056 / type->block + 1, columns = blocks * type->block;
    size_t bytes = (size_t)(blocks * type->bytes);
    uint8_t *w = guard_take(0, bytes * ROWS);
    draw_stored(t, w, (size_t)blocks * ROWS, false);
    zb_igemm_args g = {.type = t, .rows = ROWS, .k = columns, .w = w, .row_bytes = bytes};
    g.n = N;
    g.ldy = ROWS;
    draw_tokens(&g, false);
    g.y = take_random(5, N * ROWS, 1);
    k->igemm(&g);
    for (int i = 0; i < N; i++) {
        zb_igemm_args one = g;
        float y[ROWS];
        one.n = 1;
        one.q += i * columns;
        one.d += i * (columns / 32);
        one.sum += i * (columns / 32);
        one.half += i * (columns / 16);
        one.y = y;
        k->igemm(&one);
        for (int j = 0; j < ROWS; j++) near(columns, j, (double)g.y[i * ROWS + j], (double)y[j], 0);
    }
}

void check_igemm(const zb_kernels *k) {
    for (zb_packing t = 0; t < ZB_PACKINGS; t++) {
        check_igemm_company(k, t);
        int most = t >= ZB_PACKING_Q4_K ? 10 : 80; /* beyond two pieces of a panel */
        for (int round = 0; round < 40; round++)
            check_igemm_one(k, t, 1 + draw_below(ZB_IGEMM_ROWS), 1 + draw_below(18),
                            round < 3 ? round : draw_below(round < 10 ? most : most / 8));
    }
    int8_t *q = guard_take(1, 4096);
    int16_t *half = guard_take(4, 512);
    for (int i = 0; i < 4096; i++)
        q[i] = (int8_t)(i < 64 ? (i & 16 ? 127 : -127) : draw_below(255) - 127);
    k->sum_halves(4096, q, half);
    for (int i = 0; i < 256; i++) {
        int total = 0;
        for (int j = 0; j < 16; j++) total += q[16 * i + j];
        near(4096, i, half[i], total, 0);
    }
    guards(4096);
}
