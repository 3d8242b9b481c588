/* kern_scan.c - the recurrence of a state-space head, token by token, on one core.
 *
 *   S_i,j = keep_t S_i,j + B_t,i (delta_t x_t,j),   y_t,j = D x_t,j + Σ_i C_t,i S_i,j
 *
 * The columns j of the state do not depend on each other, and neither do its rows i but for the
 * sum, so vectors run along j and no sum across a vector is needed. One token is one pass over the
 * state: each row is read, updated, written and added to y, which stays in registers. For several
 * tokens a tile of RN rows and two vectors of the state stays in registers while the tokens pass
 * by, so that the state is read and written once a call. */
#include "kernels/simd.h"

#if VW == 8
enum { RN = 4 }; /* 8 sums, 2 of x, 2 of y and one for what is at hand: 13 of 16 registers */
#else
enum { RN = 8 };
#endif
enum { TOKENS = ZB_SCAN_TOKENS, PW = 2 * VW };

/* Two vectors of a row of which `left` floats remain (the rest reads as 0 and is not stored). */
typedef struct pair {
    vf a, b;
} pair;

SIMD_INLINE pair load2(const float *p, int left) {
    pair r = {vf_load_n(p, left), vf_set1(0)};
    if (left > VW) r.b = vf_load_n(p + VW, left - VW);
    return r;
}

SIMD_INLINE void store2(float *p, int left, pair v) {
    vf_store_n(p, left, v.a);
    if (left > VW) vf_store_n(p + VW, left - VW, v.b);
}

/* One token, columns j..j+left (left <= PW). */
SIMD_INLINE void step_columns(const zb_scan_args *g, int j, int left) {
    pair x = load2(g->x + j, left), y = {g->D * x.a, g->D * x.b};
    float keep = g->keep[0], delta = g->delta[0];
    x.a *= delta;
    x.b *= delta;
    float *s = g->state + j;
    for (int i = 0; i < g->n; i++, s += g->p) {
        pair h = load2(s, left);
        h.a = h.a * keep + g->B[i] * x.a;
        h.b = h.b * keep + g->B[i] * x.b;
        store2(s, left, h);
        y.a += g->C[i] * h.a;
        y.b += g->C[i] * h.b;
    }
    store2(g->y + j, left, y);
}

static void step(const zb_scan_args *g) {
    int j = 0;
    for (; j + PW <= g->p; j += PW) step_columns(g, j, PW);
    if (j < g->p) step_columns(g, j, g->p - j);
}

/* delta x and y of the columns at hand, dense. */
typedef struct strip {
    float x[TOKENS][PW], y[TOKENS][PW];
} strip;

/* `rows` rows of the state from row i, columns j..j+left: all tokens pass by. */
SIMD_INLINE void tile(const zb_scan_args *g, strip *k, int rows, int i, int j, int left) {
    vf h[RN][2];
    float *s = g->state + (ptrdiff_t)i * g->p + j;
    SIMD_UNROLL
    for (int r = 0; r < rows; r++) {
        pair v = load2(s + (ptrdiff_t)r * g->p, left);
        h[r][0] = v.a;
        h[r][1] = v.b;
    }
    const float *B = g->B + i, *C = g->C + i;
    for (int t = 0; t < g->T; t++, B += g->row, C += g->row) {
        vf x0 = vf_load(k->x[t]), x1 = vf_load(k->x[t] + VW);
        vf y0 = vf_load(k->y[t]), y1 = vf_load(k->y[t] + VW);
        float keep = g->keep[t];
        SIMD_UNROLL
        for (int r = 0; r < rows; r++) {
            h[r][0] = h[r][0] * keep + B[r] * x0;
            h[r][1] = h[r][1] * keep + B[r] * x1;
            y0 += C[r] * h[r][0];
            y1 += C[r] * h[r][1];
        }
        vf_store(k->y[t], y0);
        vf_store(k->y[t] + VW, y1);
    }
    SIMD_UNROLL
    for (int r = 0; r < rows; r++) store2(s + (ptrdiff_t)r * g->p, left, (pair){h[r][0], h[r][1]});
}

SIMD_INLINE void strip_of(const zb_scan_args *g, strip *k, int j, int left) {
    for (int t = 0; t < g->T; t++) {
        pair x = load2(g->x + t * g->row_x + j, left);
        float delta = g->delta[t];
        vf_store(k->x[t], delta * x.a);
        vf_store(k->x[t] + VW, delta * x.b);
        vf_store(k->y[t], g->D * x.a);
        vf_store(k->y[t] + VW, g->D * x.b);
    }
    int i = 0;
    for (; i + RN <= g->n; i += RN) tile(g, k, RN, i, j, left);
    for (; i < g->n; i++) tile(g, k, 1, i, j, left);
    for (int t = 0; t < g->T; t++)
        store2(g->y + t * g->row_y + j, left, (pair){vf_load(k->y[t]), vf_load(k->y[t] + VW)});
}

static void scan(const zb_scan_args *g) {
    if (g->T == 1) {
        step(g);
        return;
    }
    strip k;
    int j = 0;
    for (; j + PW <= g->p; j += PW) strip_of(g, &k, j, PW);
    if (j < g->p) strip_of(g, &k, j, g->p - j);
}

void KERN_SYMBOL(kern_scan_fill_)(zb_kernels *k) { k->scan = scan; }
