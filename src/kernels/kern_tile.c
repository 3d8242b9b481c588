/* kern_tile.c - products of bf16 by tiles in the matrix registers of AMX (layout in kernels.h).
 *
 * A step multiplies two strips of A with two of B: four sums stay in registers, and every tile that
 * is loaded is used twice. Even so the caches are the limit, not the multiplier: the strips of A
 * are to stay in the first one while B passes. A product goes through all of the sum at once, since
 * storing sums and fetching them again costs more than strips of A that have left it. */
#include "kernels/kernels_impl.h"

#include <immintrin.h>

enum { ROW_BYTES = 64 };

/* ---- packing ---- */

/* r[i] word j <-> r[j] word i of 16 rows of 16 words. */
static inline void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* r[i+j]: word j of each 128 bits, of four rows */
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        __m512i even = _mm512_shuffle_i32x4(r[j], r[j + 4], 0x88),
                odd = _mm512_shuffle_i32x4(r[j], r[j + 4], 0xdd),
                even2 = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0x88),
                odd2 = _mm512_shuffle_i32x4(r[j + 8], r[j + 12], 0xdd);
        t[j] = _mm512_shuffle_i32x4(even, even2, 0x88);
        t[j + 8] = _mm512_shuffle_i32x4(even, even2, 0xdd);
        t[j + 4] = _mm512_shuffle_i32x4(odd, odd2, 0x88);
        t[j + 12] = _mm512_shuffle_i32x4(odd, odd2, 0xdd);
    }
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

static inline __mmask16 first(int n) {
    return (__mmask16)(n >= 16 ? 0xffff : n > 0 ? (1u << n) - 1 : 0);
}

static inline __m512i rounded(__m512 low, __m512 high) {
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Rows as they stand: word p of row r holds values 2p and 2p+1. */
static inline void load_rows(const zb_tile_strip *s, int d, __m512i r[16]) {
    __mmask16 low = first(s->depth - d), high = first(s->depth - d - 16);
    for (int i = 0; i < 16; i++) {
        const float *x = s->x + i * s->row + d;
        r[i] = i < s->rows
                   ? rounded(_mm512_maskz_loadu_ps(low, x), _mm512_maskz_loadu_ps(high, x + 16))
                   : _mm512_setzero_si512();
    }
}

/* Values of all rows side by side: word r of pair p holds values 2p and 2p+1 of row r. */
static inline void load_pairs(const zb_tile_strip *s, int d, __m512i r[16]) {
    const __m512i halves =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __mmask16 rows = first(s->rows);
    for (int p = 0; p < 16; p++) {
        int at = d + 2 * p;
        const float *x = s->x + at * s->step;
        __m512 even = at < s->depth ? _mm512_maskz_loadu_ps(rows, x) : _mm512_setzero_ps(),
               odd = at + 1 < s->depth ? _mm512_maskz_loadu_ps(rows, x + s->step)
                                       : _mm512_setzero_ps();
        r[p] = _mm512_permutexvar_epi16(halves, rounded(even, odd));
    }
}

static void tile_pack(const zb_tile_strip *s) {
    bool is_by_rows = s->step == 1;
    uint16_t *out = s->out;
    for (int d = 0; d < s->depth; d += ZB_TILE_DEPTH, out += ZB_TILE) {
        __m512i r[16];
        if (is_by_rows)
            load_rows(s, d, r);
        else
            load_pairs(s, d, r);
        if (is_by_rows == s->right) transpose(r);
        for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + 32 * i, r[i]);
    }
}

/* ---- multiplying ---- */

/* All eight registers are 16 rows of 64 bytes. */
static void configure(void) {
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.row_bytes[i] = ROW_BYTES;
        c.rows[i] = 16;
    }
    _tile_loadconfig(&c);
}

/* The four registers of sums, 32 x 32 values. */
static inline void store_sums(float *c, ptrdiff_t ldc) {
    ptrdiff_t bytes = ldc * (ptrdiff_t)sizeof *c;
    _tile_stored(0, c, bytes);
    _tile_stored(1, c + 16, bytes);
    _tile_stored(2, c + 16 * ldc, bytes);
    _tile_stored(3, c + 16 * ldc + 16, bytes);
}

/* The same past the caches: a line that is written whole need not be fetched before. */
static inline void stream_sums(float *c, ptrdiff_t ldc) {
    _Alignas(64) float s[32 * 32];
    store_sums(s, 32);
    for (int r = 0; r < 32; r++, c += ldc) {
        _mm512_stream_ps(c, _mm512_load_ps(s + 32 * r));
        _mm512_stream_ps(c + 16, _mm512_load_ps(s + 32 * r + 16));
    }
}

/* Sums of C[32,32] (+)= two strips of A times two of B. The next product has these strips of A
 * again: those of B are loaded so that they do not drive them out of the first cache. */
static inline void multiply_four(const uint16_t *a, const uint16_t *b, int tiles, bool add,
                                 const float *c, ptrdiff_t ldc) {
    ptrdiff_t strip = (ptrdiff_t)tiles * ZB_TILE;
    ptrdiff_t bytes = ldc * (ptrdiff_t)sizeof *c;
    if (add) {
        _tile_loadd(0, c, bytes);
        _tile_loadd(1, c + 16, bytes);
        _tile_loadd(2, c + 16 * ldc, bytes);
        _tile_loadd(3, c + 16 * ldc + 16, bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (ptrdiff_t at = 0; at < (ptrdiff_t)tiles * ZB_TILE; at += ZB_TILE) {
        _tile_loadd(4, a + at, ROW_BYTES);
        _tile_stream_loadd(6, b + at, ROW_BYTES);
        _tile_stream_loadd(7, b + strip + at, ROW_BYTES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, a + strip + at, ROW_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* The same where C ends within the 32 x 32. */
static void multiply_edge(const uint16_t *a, const uint16_t *b, const zb_tile_product *g, int i,
                          int j) {
    float spare[32 * 32] = {0};
    int rows = g->m - i < 32 ? g->m - i : 32, cols = g->n - j < 32 ? g->n - j : 32;
    size_t bytes = (size_t)cols * sizeof *spare;
    float *c = g->c + i * g->ldc + j;
    for (int r = 0; r < rows && g->add; r++) memcpy(spare + 32 * r, c + r * g->ldc, bytes);
    multiply_four(a, b, g->tiles, g->add, spare, 32);
    store_sums(spare, 32);
    for (int r = 0; r < rows; r++) memcpy(c + r * g->ldc, spare + 32 * r, bytes);
}

static void tile_product(const zb_tile_product *g) {
    ptrdiff_t strip = (ptrdiff_t)g->tiles * ZB_TILE;
    bool lines = (uintptr_t)g->c % ROW_BYTES == 0 && g->ldc % 16 == 0;
    configure();
    for (int i = 0; i < g->m; i += 32)
        for (int j = 0; j < g->n; j += 32) {
            const uint16_t *a = g->a + i / 16 * strip, *b = g->b + j / 16 * strip;
            float *c = g->c + i * g->ldc + j;
            if (i + 32 > g->m || j + 32 > g->n) {
                multiply_edge(a, b, g, i, j);
                continue;
            }
            multiply_four(a, b, g->tiles, g->add, c, g->ldc);
            if (g->far && !g->add && lines)
                stream_sums(c, g->ldc);
            else
                store_sums(c, g->ldc);
        }
    _tile_release();
    _mm_sfence(); /* other threads may read now */
}

void kern_tile_fill_amx(zb_kernels *k) {
    k->tile_pack = tile_pack;
    k->tile_product = tile_product;
    k->tiles = true;
}
