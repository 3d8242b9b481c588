/* quant_k.c - super-blocks of 256: Q4_K, Q5_K, Q6_K (contract in quant.h, layouts in dtype.c).
 *
 * Each sub-block is fitted alone in f32; its scale (and minimum) then becomes a small integer times
 * a scale of the whole super-block. Three steps make good what that rounding spoils:
 *   1. every sub-block tries the integers beside the nearest ones, with new codes;
 *   2. for all codes and integers held fixed, the scales of the super-block are solved for by least
 *      squares: x ≈ d·(sc·q) - dmin·mn is linear in d and dmin;
 *   3. step 1 again for the new scales.
 * A result replaces an earlier one only if its error is smaller, and plain rounding is tried, too.
 */
#include "tensor/quant.h"

#include "tensor/quant_fit.h"

#include <math.h>
#include <string.h>

enum { QK_K = 256, SUB = 32, N_SUB = QK_K / SUB, SUB6 = 16, N_SUB6 = QK_K / SUB6 };

static void store16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static float half(float f) { return zb_f16_to_f32(zb_f32_to_f16(f)); }

/* ---- Q4_K and Q5_K ---- */

/* What is packed: values, their weights, and the outermost code. */
typedef struct source {
    const float *x, *w;
    float hi;
} source;

typedef struct super {
    float d, dmin;             /* values of f16 */
    int sc[N_SUB], mn[N_SUB];  /* 0..63 */
    float q[QK_K];             /* 0..hi */
    double part[N_SUB], error; /* of each sub-block; their sum */
} super;

static int six_bits(float v) { return (int)zb_fit_round(v, 0, 63); }

/* Sub-block k: the best integers within `reach` of sc and mn. */
static void choose(super *s, int k, int sc, int mn, int reach, const source *from) {
    s->part[k] = HUGE_VAL;
    for (int a = sc - reach; a <= sc + reach; a++)
        for (int b = mn - reach; b <= mn + reach; b++) {
            if (a < 0 || a > 63 || b < 0 || b > 63) continue;
            float q[SUB];
            zb_fit f = {.d = s->d * (float)a, .m = -(s->dmin * (float)b)};
            double e = zb_fit_codes(SUB, from->x + k * SUB, from->w + k * SUB, f, 0, from->hi, q);
            if (!(e < s->part[k])) continue;
            s->part[k] = e;
            s->sc[k] = a;
            s->mn[k] = b;
            memcpy(s->q + k * SUB, q, sizeof q);
        }
}

/* Integers for scales and minima given as real numbers. */
static super round_super(const float *scale, const float *least, float d, float dmin, int reach,
                         const source *from) {
    super s = {.d = half(d), .dmin = half(dmin)};
    for (int k = 0; k < N_SUB; k++) {
        int sc = s.d > 0 ? six_bits(scale[k] / s.d) : 0;
        int mn = s.dmin > 0 ? six_bits(least[k] / s.dmin) : 0;
        choose(&s, k, sc, mn, reach, from);
    }
    for (int k = 0; k < N_SUB; k++) s.error += s.part[k];
    return s;
}

/* d and dmin for codes and integers held fixed. */
static bool solve_super(const super *s, const float *x, const float *w, float *d, float *dmin) {
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    for (int i = 0; i < QK_K; i++) {
        int k = i / SUB;
        double a = (double)s->sc[k] * (double)s->q[i], b = -s->mn[k];
        double wi = (double)w[i], xi = (double)x[i];
        aa += wi * a * a;
        ab += wi * a * b;
        bb += wi * b * b;
        xa += wi * xi * a;
        xb += wi * xi * b;
    }
    double det = aa * bb - ab * ab;
    if (!(aa > 0)) return false;
    *d = (float)(det > 1e-9 * aa * bb ? (bb * xa - ab * xb) / det : xa / aa);
    *dmin = (float)(det > 1e-9 * aa * bb ? (aa * xb - ab * xa) / det : 0);
    return *d > 0 && *dmin >= 0 && isfinite(*d) && isfinite(*dmin);
}

static super fit_super(const source *from, bool plain) {
    const float *x = from->x, *w = from->w;
    float scale[N_SUB], least[N_SUB], d = 0, dmin = 0;
    for (int k = 0; k < N_SUB; k++) {
        zb_fit f = zb_fit_affine(SUB, x + k * SUB, w + k * SUB, from->hi, true, plain);
        scale[k] = f.d;
        least[k] = -f.m;
        if (scale[k] > d) d = scale[k];
        if (least[k] > dmin) dmin = least[k];
    }
    super best = round_super(scale, least, d / 63, dmin / 63, plain ? 0 : 1, from);
    for (int r = 0; r < 2 && !plain && solve_super(&best, x, w, &d, &dmin); r++) {
        for (int k = 0; k < N_SUB; k++) {
            scale[k] = half(d) * (float)best.sc[k];
            least[k] = half(dmin) * (float)best.mn[k];
        }
        super next = round_super(scale, least, d, dmin, 1, from);
        if (!(next.error < best.error)) break;
        best = next;
    }
    return best;
}

/* Eight pairs of 6-bit integers in 12 bytes. */
static void pack_scales(const super *s, uint8_t *out) {
    memset(out, 0, 12);
    for (int k = 0; k < 4; k++) {
        out[k] = (uint8_t)(s->sc[k] | s->sc[k + 4] >> 4 << 6);
        out[k + 4] = (uint8_t)(s->mn[k] | s->mn[k + 4] >> 4 << 6);
        out[k + 8] = (uint8_t)((s->sc[k + 4] & 15) | (s->mn[k + 4] & 15) << 4);
    }
}

/* Q4_K, and Q5_K, which has its fifth bits before the others. */
static void encode_k45(const float *x, const float *w, bool plain, bool five, uint8_t *out) {
    uint8_t *high = out + 16, *nibbles = five ? high + SUB : high;
    source from = {x, w, five ? 31 : 15};
    super s = fit_super(&from, true);
    if (!plain) {
        super t = fit_super(&from, false);
        if (t.error < s.error) s = t;
    }
    store16(out, zb_f32_to_f16(s.d));
    store16(out + 2, zb_f32_to_f16(s.dmin));
    pack_scales(&s, out + 4);
    memset(nibbles, 0, QK_K / 2);
    if (five) memset(high, 0, SUB);
    for (int i = 0; i < QK_K; i++) {
        int code = (int)s.q[i], k = i / SUB, l = i % SUB;
        nibbles[SUB * (k / 2) + l] |= (uint8_t)((code & 15) << (k & 1 ? 4 : 0));
        if (five) high[l] |= (uint8_t)((code >> 4) << k);
    }
}

void zb_quant_q4_k(const float *x, const float *w, bool plain, uint8_t *out) {
    encode_k45(x, w, plain, false, out);
}

void zb_quant_q5_k(const float *x, const float *w, bool plain, uint8_t *out) {
    encode_k45(x, w, plain, true, out);
}

/* ---- Q6_K ---- */

typedef struct super6 {
    float d;
    int s[N_SUB6];
    float q[QK_K];
    double error;
} super6;

static super6 round_super6(const float *scale, float d, int reach, const float *x, const float *w) {
    super6 s = {.d = half(d)};
    for (int k = 0; k < N_SUB6; k++) {
        int mid = s.d != 0 ? (int)zb_fit_round(scale[k] / s.d, -128, 127) : 0;
        double least = HUGE_VAL;
        for (int a = mid - reach; a <= mid + reach; a++) {
            if (a < -128 || a > 127) continue;
            float q[SUB6];
            zb_fit f = {.d = s.d * (float)a};
            double e = zb_fit_codes(SUB6, x + k * SUB6, w + k * SUB6, f, -32, 31, q);
            if (!(e < least)) continue;
            least = e;
            s.s[k] = a;
            memcpy(s.q + k * SUB6, q, sizeof q);
        }
        s.error += least;
    }
    return s;
}

static float solve_super6(const super6 *s, const float *x, const float *w) {
    double xa = 0, aa = 0;
    for (int i = 0; i < QK_K; i++) {
        int k = i / SUB6;
        double a = (double)s->s[k] * (double)s->q[i];
        xa += (double)w[i] * (double)x[i] * a;
        aa += (double)w[i] * a * a;
    }
    return aa > 0 ? (float)(xa / aa) : 0;
}

static super6 fit_super6(const float *x, const float *w, bool plain) {
    float scale[N_SUB6], extreme = 0;
    for (int k = 0; k < N_SUB6; k++) {
        scale[k] = zb_fit_scale(SUB6, x + k * SUB6, w + k * SUB6, -32, 31, plain).d;
        if (fabsf(scale[k]) > fabsf(extreme)) extreme = scale[k];
    }
    super6 best = round_super6(scale, extreme / -128, plain ? 0 : 1, x, w);
    for (int r = 0; r < 2 && !plain; r++) {
        float d = solve_super6(&best, x, w);
        if (d == 0 || !isfinite(d)) break;
        for (int k = 0; k < N_SUB6; k++) scale[k] = half(d) * (float)best.s[k];
        super6 next = round_super6(scale, d, 1, x, w);
        if (!(next.error < best.error)) break;
        best = next;
    }
    return best;
}

void zb_quant_q6_k(const float *x, const float *w, bool plain, uint8_t *out) {
    super6 s = fit_super6(x, w, true);
    if (!plain) {
        super6 t = fit_super6(x, w, false);
        if (t.error < s.error) s = t;
    }
    memset(out, 0, 192);
    for (int i = 0; i < QK_K; i++) {
        int code = (int)s.q[i] + 32, h = i / 128, t = i % 128 / 32, l = i % 32;
        out[64 * h + l + 32 * (t & 1)] |= (uint8_t)((code & 15) << (t & 2 ? 4 : 0));
        out[128 + 32 * h + l] |= (uint8_t)((code >> 4) << 2 * t);
        out[192 + 8 * h + l / 16 + 2 * t] = (uint8_t)(int8_t)s.s[i / SUB6];
    }
    store16(out + 208, zb_f32_to_f16(s.d));
}
