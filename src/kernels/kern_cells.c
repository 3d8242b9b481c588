/* kern_cells.c - the two products of attention with rows as a cache keeps them: scores S = Q Kᵀ and
 * weighted values O = keep·O + P V (contract in kernels.h).
 *
 * What is widened, and when, depends on how many rows of Q meet each row of the cache:
 *
 *   few         (heads that share a key/value head, one token) rows of the cache are converted in
 *               registers on their way into the multiply-adds. Scores are ROWS x COLS dot products
 *               that walk along both operands and add up across lanes at the end; values keep
 *               ROWS x VECS vectors of O in registers and walk over the keys.
 *   more        (MLA's absorbed heads, prompts) a panel of NR keys or columns is widened once onto
 *               the stack, keys transposed in registers on the way, and kern_gemm.c multiplies all
 *               rows with it. A panel stays in the first cache.
 *
 * A sum runs over its terms in one order whatever rows come with it, as long as their number stays
 * on one side of the limit. Where a row's width is no multiple of a vector, the last vector ends at
 * the row's end and overlaps the one before; lanes that were there already are left out. */
#include "kernels/simd_cells.h"

/* 12 sums, 3 vectors of Q and one of K: the 16 registers of AVX2. */
enum { FEW_KEYS = 6, FEW_VALUES = 15, ROWS = 3, COLS = 4, VECS = 4, NR = 2 * VW, KC = 4096 / NR };

static const int32_t lane_numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

/* Lanes first.. of x, zeros (or `other`) in those before. */
SIMD_INLINE vf lanes_from(int first, vf x, vf other) {
    vi lane;
    memcpy(&lane, lane_numbers, sizeof lane);
    return vf_select(lane >= first, x, other);
}

/* Up to VW values from i on, zeros behind them: for rows shorter than a vector. */
SIMD_INLINE vf cell_load_n(zb_cell type, const uint8_t *row, int i, int n) {
    float part[VW] = {0};
    for (int l = 0; l < VW && l < n; l++) part[l] = cell_one(type, row, i + l);
    return vf_load(part);
}

SIMD_INLINE const uint8_t *cell_row(const zb_cell_rows *c, int j) {
    return c->p + (size_t)j * c->row_bytes;
}

/* ---- few rows: scores ---- */

/* The values that are left when whole vectors have been taken, for one key. */
SIMD_INLINE void dots_rest(zb_cell type, const zb_scores_args *a, int rows, int at,
                           const uint8_t *key, vf *sum) {
    int width = a->k.width, from = at, left = width - at;
    vf b;
    if (type == ZB_CELL_Q8_0) { /* zeros of q meet what fills up the block */
        b = cell_load(type, cell_at(type, key, at)) * cell_scale(type, key, at);
    } else if (width >= VW) {
        from = width - VW;
        b = cell_load(type, cell_at(type, key, from));
    } else {
        b = cell_load_n(type, key, at, left);
    }
    SIMD_UNROLL
    for (int i = 0; i < rows; i++) {
        const float *q = a->q + i * a->q_row;
        vf x = from == at ? vf_load_n(q + at, left)
                          : lanes_from(at - from, vf_load(q + from), vf_set1(0));
        sum[i * COLS] = vf_fma(x, b, sum[i * COLS]);
    }
}

/* Keys j0 .. j0+cols-1. */
SIMD_INLINE void dots(zb_cell type, const zb_scores_args *a, int rows, int cols, int j0) {
    vf sum[ROWS][COLS];
    const uint8_t *key[COLS];
    SIMD_UNROLL
    for (int j = 0; j < COLS; j++) {
        SIMD_UNROLL
        for (int i = 0; i < ROWS; i++) sum[i][j] = vf_set1(0);
        key[j] = cell_row(&a->k, j0 + (j < cols ? j : 0));
        if (j < cols) cell_ask(type, &a->k, j0 + j, 0, a->k.width);
    }
    int p = 0;
    vf d[COLS]; /* of q8_0: kept in memory, since sums, q and b fill the registers */
    for (; p + VW <= a->k.width; p += VW) {
        vf q[ROWS];
        SIMD_UNROLL
        for (int i = 0; i < rows; i++) q[i] = vf_load(a->q + i * a->q_row + p);
        if (type == ZB_CELL_Q8_0 && p % KERN_BLOCK == 0) {
            for (int j = 0; j < cols; j++) d[j] = vf_splat(cell_scale(type, key[j], p));
            __asm__("" : "+m"(d));
        }
        SIMD_UNROLL
        for (int j = 0; j < cols; j++) {
            vf b = cell_load(type, cell_at(type, key[j], p));
            if (type == ZB_CELL_Q8_0) b *= d[j];
            SIMD_UNROLL
            for (int i = 0; i < rows; i++) sum[i][j] = vf_fma(q[i], b, sum[i][j]);
        }
    }
    if (p < a->k.width) {
        SIMD_UNROLL
        for (int j = 0; j < cols; j++) dots_rest(type, a, rows, p, key[j], &sum[0][j]);
    }
    SIMD_UNROLL
    for (int i = 0; i < rows; i++) {
        float out[COLS], *s = a->s + i * a->s_row + j0;
        vf_sum4(sum[i][0], sum[i][1], sum[i][2], sum[i][3], out);
        for (int j = 0; j < cols; j++) s[j] = out[j] + (a->add ? s[j] : 0);
    }
}

/* All keys for some rows. */
SIMD_INLINE void dots_rows(zb_cell type, const zb_scores_args *a, int rows) {
    int j = 0;
    for (; j + COLS <= a->k.n; j += COLS) dots(type, a, rows, COLS, j);
    for (; j < a->k.n; j++) dots(type, a, rows, 1, j);
}

/* ---- few rows: values ---- */

/* Columns j0 .. j0+vecs·VW-1 of O, of which those before `done` are left as they are. */
SIMD_INLINE void weigh(zb_cell type, const zb_values_args *a, int rows, int vecs, int j0,
                       int done) {
    vf sum[ROWS][VECS];
    SIMD_UNROLL
    for (int i = 0; i < rows; i++) SIMD_UNROLL
    for (int v = 0; v < vecs; v++) sum[i][v] = vf_set1(0);
    for (int j = 0; j < a->v.n; j++) {
        const uint8_t *row = cell_row(&a->v, j);
        float x[ROWS];
        cell_ask(type, &a->v, j, j0, vecs * VW);
        SIMD_UNROLL
        for (int v = 0; v < vecs; v++) { /* one vector at a time: sums and x fill the registers */
            if (v * VW % KERN_BLOCK == 0) {
                float d = cell_scale(type, row, j0 + v * VW);
                SIMD_UNROLL
                for (int i = 0; i < rows; i++) x[i] = a->p[i * a->p_row + j] * d;
            }
            vf y = cell_load(type, cell_at(type, row, j0 + v * VW));
            SIMD_UNROLL
            for (int i = 0; i < rows; i++) sum[i][v] = vf_fma(vf_splat(x[i]), y, sum[i][v]);
        }
    }
    if (done == j0 && j0 + vecs * VW <= a->v.width) {
        SIMD_UNROLL
        for (int i = 0; i < rows; i++) {
            float *o = a->o + i * a->o_row + j0, keep = a->keep[i];
            SIMD_UNROLL
            for (int v = 0; v < vecs; v++)
                vf_store(o + v * VW, vf_fma(vf_load(o + v * VW), vf_splat(keep), sum[i][v]));
        }
        return;
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vecs; v++) {
            int at = j0 + v * VW, left = a->v.width - at;
            float *o = a->o + i * a->o_row + at;
            vf old = vf_load_n(o, left);
            vf kept = vf_fma(old, vf_splat(a->keep[i]), sum[i][v]);
            vf_store_n(o, left, lanes_from(done - at, kept, old));
        }
}

/* Values narrower than a vector. */
SIMD_INLINE void weigh_narrow(zb_cell type, const zb_values_args *a) {
    for (int i = 0; i < a->m; i++) {
        vf sum = vf_set1(0);
        float *o = a->o + i * a->o_row;
        for (int j = 0; j < a->v.n; j++)
            sum += a->p[i * a->p_row + j] * cell_load_n(type, cell_row(&a->v, j), 0, a->v.width);
        vf_store_n(o, a->v.width, a->keep[i] * vf_load_n(o, a->v.width) + sum);
    }
}

/* ---- the tiles of each type ---- */

typedef void dots_fn(const zb_scores_args *a);
typedef void weigh_fn(const zb_values_args *a, int j0, int done);

/* Functions of their own: inlined into each other, their constants take the registers of sums. */
#define TILE static __attribute__((noinline)) void
#define WEIGH(name, type, rows)                                                                    \
    TILE weigh_##rows##x1_##name(const zb_values_args *a, int j0, int done) {                      \
        weigh(type, a, rows, 1, j0, done);                                                         \
    }                                                                                              \
    TILE weigh_##rows##x2_##name(const zb_values_args *a, int j0, int done) {                      \
        weigh(type, a, rows, 2, j0, done);                                                         \
    }                                                                                              \
    TILE weigh_##rows##x3_##name(const zb_values_args *a, int j0, int done) {                      \
        weigh(type, a, rows, 3, j0, done);                                                         \
    }                                                                                              \
    TILE weigh_##rows##x4_##name(const zb_values_args *a, int j0, int done) {                      \
        weigh(type, a, rows, 4, j0, done);                                                         \
    }
#define TILES(name, type)                                                                          \
    TILE dots_3_##name(const zb_scores_args *a) { dots_rows(type, a, 3); }                         \
    TILE dots_2_##name(const zb_scores_args *a) { dots_rows(type, a, 2); }                         \
    TILE dots_1_##name(const zb_scores_args *a) { dots_rows(type, a, 1); }                         \
    TILE narrow_##name(const zb_values_args *a) { weigh_narrow(type, a); }                         \
    WEIGH(name, type, 1) WEIGH(name, type, 2) WEIGH(name, type, 3)
TILES(f32, ZB_CELL_F32)
TILES(bf16, ZB_CELL_BF16)
TILES(f16, ZB_CELL_F16)
TILES(q8_0, ZB_CELL_Q8_0)

typedef struct tiles { /* by rows - 1, by vectors - 1 */
    dots_fn *dots[ROWS];
    weigh_fn *weigh[ROWS][VECS];
    void (*narrow)(const zb_values_args *);
} tiles;

#define WEIGH_OF(name, rows)                                                                       \
    {                                                                                              \
        weigh_##rows##x1_##name, weigh_##rows##x2_##name, weigh_##rows##x3_##name,                 \
            weigh_##rows##x4_##name                                                                \
    }
#define TILES_OF(name)                                                                             \
    {                                                                                              \
        .dots = {dots_1_##name, dots_2_##name, dots_3_##name},                                     \
        .weigh = {WEIGH_OF(name, 1), WEIGH_OF(name, 2), WEIGH_OF(name, 3)},                        \
        .narrow = narrow_##name                                                                    \
    }
static const tiles tiles_of[] = {[ZB_CELL_F32] = TILES_OF(f32),
                                 [ZB_CELL_BF16] = TILES_OF(bf16),
                                 [ZB_CELL_F16] = TILES_OF(f16),
                                 [ZB_CELL_Q8_0] = TILES_OF(q8_0)};

/* Rows of the next tile: of four, two and two, since one row alone waits for its sums. */
static int tile_rows(int m) { return m <= 3 ? m : m == 4 ? 2 : 3; }

static void scores_few(const zb_scores_args *a) {
    zb_scores_args t = *a;
    for (int i = 0, rows; i < a->m; i += rows) {
        rows = tile_rows(a->m - i);
        t.q = a->q + i * a->q_row;
        t.s = a->s + i * a->s_row;
        t.k.next = a->k.next && i == 0;
        tiles_of[a->k.type].dots[rows - 1](&t);
    }
}

/* All columns of some rows, in tiles of VECS vectors; the last two alike, since a tile of one
 * vector waits for its sums (tiles of q8_0 begin with a block). The last one ends with the row, and
 * overlaps the one before; where there is none yet, whole vectors come first. */
static void weigh_rows(const zb_values_args *a, weigh_fn *const by_vecs[VECS]) {
    int width = a->v.width;
    bool blocks = a->v.type == ZB_CELL_Q8_0;
    for (int done = 0, vecs; done < width; done += vecs * VW) {
        int left = (width - done + VW - 1) / VW;
        vecs = left <= VECS ? left : left < 2 * VECS && !blocks ? (left + 1) / 2 : VECS;
        if (done == 0 && !blocks && vecs * VW > width) vecs--; /* one at least: width >= VW */
        int over = done + vecs * VW - width;
        by_vecs[vecs - 1](a, over > 0 && !blocks ? done - over : done, done);
    }
}

static void values_few(const zb_values_args *a) {
    const tiles *f = &tiles_of[a->v.type];
    if (a->v.width < VW && a->v.type != ZB_CELL_Q8_0) {
        f->narrow(a);
        return;
    }
    zb_values_args t = *a;
    for (int i = 0, rows; i < a->m; i += rows) {
        rows = tile_rows(a->m - i);
        t.p = a->p + i * a->p_row;
        t.keep = a->keep + i;
        t.o = a->o + i * a->o_row;
        t.v.next = a->v.next && i == 0;
        weigh_rows(&t, f->weigh[rows - 1]);
    }
}

/* ---- many rows ---- */

/* Values p0 .. p0+k-1 of keys j0 .. j0+NR-1 as out [k, NR] (rounded up to CELLS rows); in place of
 * keys that are not there the last one. */
SIMD_INLINE void pack_keys_of(zb_cell type, const zb_cell_rows *c, int j0, int p0, int k,
                              float *out) {
    for (int j = 0; j < NR; j += CELLS) {
        const uint8_t *key[CELLS];
        for (int l = 0; l < CELLS; l++) {
            key[l] = cell_row(c, j0 + j + l < c->n ? j0 + j + l : c->n - 1);
            cell_ask(type, c, j0 + j + l, p0, k);
        }
        for (int p = 0; p < k; p += CELLS) {
            bool over = p + CELLS > k && type != ZB_CELL_Q8_0;
            if (over && k < CELLS) {
                for (int i = 0; i < k; i++)
                    for (int l = 0; l < CELLS; l++)
                        out[i * NR + j + l] = cell_one(type, key[l], p0 + i);
                break;
            }
            int at = over ? k - CELLS : p; /* the last block overlaps the one before */
            vc in[CELLS];
            SIMD_UNROLL
            for (int l = 0; l < CELLS; l++)
                in[l] = vc_load(type, cell_at(type, key[l], p0 + at),
                                cell_scale(type, key[l], p0 + at));
            vc_transpose(in, out + at * NR + j, NR);
        }
    }
}

/* Columns j0 .. j0+NR-1 (as far as there are) of rows r0 .. r0+n-1 as out [n, NR]. */
SIMD_INLINE void pack_values_of(zb_cell type, const zb_cell_rows *c, int j0, int r0, int n,
                                float *out) {
    bool full = j0 + NR <= c->width || type == ZB_CELL_Q8_0;
    for (int r = 0; r < n; r++, out += NR) {
        const uint8_t *row = cell_row(c, r0 + r);
        cell_ask(type, c, r0 + r, j0, NR);
        SIMD_UNROLL
        for (int v = 0; v < NR; v += VW) {
            int left = c->width - j0 - v;
            if (full ? left > 0 : left >= VW)
                vf_store(out + v, cell_load(type, cell_at(type, row, j0 + v)) *
                                      cell_scale(type, row, j0 + v));
            else
                for (int l = 0; l < left; l++) out[v + l] = cell_one(type, row, j0 + v + l);
        }
    }
}

static void pack_keys(const zb_cell_rows *c, int j0, int p0, int k, float *out) {
    switch (c->type) {
    case ZB_CELL_F32: pack_keys_of(ZB_CELL_F32, c, j0, p0, k, out); break;
    case ZB_CELL_BF16: pack_keys_of(ZB_CELL_BF16, c, j0, p0, k, out); break;
    case ZB_CELL_F16: pack_keys_of(ZB_CELL_F16, c, j0, p0, k, out); break;
    case ZB_CELL_Q8_0: pack_keys_of(ZB_CELL_Q8_0, c, j0, p0, k, out); break;
    }
}

static void pack_values(const zb_cell_rows *c, int j0, int r0, int n, float *out) {
    switch (c->type) {
    case ZB_CELL_F32: pack_values_of(ZB_CELL_F32, c, j0, r0, n, out); break;
    case ZB_CELL_BF16: pack_values_of(ZB_CELL_BF16, c, j0, r0, n, out); break;
    case ZB_CELL_F16: pack_values_of(ZB_CELL_F16, c, j0, r0, n, out); break;
    case ZB_CELL_Q8_0: pack_values_of(ZB_CELL_Q8_0, c, j0, r0, n, out); break;
    }
}

static void scores_many(const zb_scores_args *a) {
    float panel[KC * NR] __attribute__((aligned(64)));
    zb_gemm_args g = {.m = a->m, .a_row = a->q_row, .a_col = 1, .b = panel, .ldb = NR};
    g.ldc = a->s_row;
    g.alpha = 1;
    for (int j = 0; j < a->k.n; j += NR) {
        g.n = a->k.n - j < NR ? a->k.n - j : NR;
        g.c = a->s + j;
        for (int p = 0; p < a->k.width; p += KC) {
            g.k = a->k.width - p < KC ? a->k.width - p : KC;
            pack_keys(&a->k, j, p, g.k, panel);
            g.a = a->q + p;
            g.add = a->add || p > 0;
            KERN_SYMBOL(kern_gemm_)(&g);
        }
    }
}

static void values_many(const zb_values_args *a) {
    float panel[KC * NR] __attribute__((aligned(64)));
    zb_gemm_args g = {.m = a->m, .a_row = a->p_row, .a_col = 1, .b = panel, .ldb = NR};
    g.ldc = a->o_row;
    g.alpha = 1;
    g.add = true;
    for (int i = 0; i < a->m; i++) {
        float *o = a->o + i * a->o_row;
        if (a->keep[i] == 1) continue;
        for (int j = 0; j < a->v.width; j += VW)
            vf_store_n(o + j, a->v.width - j, a->keep[i] * vf_load_n(o + j, a->v.width - j));
    }
    for (int j = 0; j < a->v.width; j += NR) {
        g.n = a->v.width - j < NR ? a->v.width - j : NR;
        g.c = a->o + j;
        for (int r = 0; r < a->v.n; r += KC) {
            g.k = a->v.n - r < KC ? a->v.n - r : KC;
            pack_values(&a->v, j, r, g.k, panel);
            g.a = a->p + r;
            KERN_SYMBOL(kern_gemm_)(&g);
        }
    }
}

static void attend_scores(const zb_scores_args *a) {
    if (a->k.width == 0 && !a->add)
        for (int i = 0; i < a->m; i++)
            memset(a->s + i * a->s_row, 0, (size_t)a->k.n * sizeof *a->s);
    if (a->k.width == 0) return;
    (a->m <= FEW_KEYS ? scores_few : scores_many)(a);
}

static void attend_values(const zb_values_args *a) {
    (a->m <= FEW_VALUES ? values_few : values_many)(a);
}

void KERN_SYMBOL(kern_cells_fill_)(zb_kernels *k) {
    k->attend_scores = attend_scores;
    k->attend_values = attend_values;
}
