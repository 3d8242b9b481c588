/* quant.c - blocks of 32, and the loop over rows (contract in quant.h; super-blocks in quant_k.c).
 *
 * A block is fitted in f32 (quant_fit.h), its scale and minimum are rounded to f16, and the codes
 * are taken anew for the rounded values. The fit and the plain one are both carried that far and
 * the better one is stored: rounding to f16 can turn the order around. */
#include "tensor/quant.h"

#include "tensor/quant_fit.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { QK = 32, ROW_MAX_BLOCK = 256 };
static const float f16_max = 65504;

static void store16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* The fit with f16 scale and minimum: `fit` or the plain one, whichever leaves less; codes in q. */
static zb_fit settle(zb_fit fit, zb_fit plain, const float *x, const float *w, float lo, float hi,
                     float q[QK]) {
    zb_fit best = {0};
    for (int i = 0; i < 2; i++) {
        zb_fit f = i ? fit : plain;
        float codes[QK];
        f.d = zb_f16_to_f32(zb_f32_to_f16(f.d));
        f.m = zb_f16_to_f32(zb_f32_to_f16(f.m));
        f.error = zb_fit_codes(QK, x, w, f, lo, hi, codes);
        if (i && !(f.error < best.error)) continue;
        best = f;
        memcpy(q, codes, sizeof codes);
    }
    return best;
}

static void symmetric(const float *x, const float *w, bool plain, float lo, float hi, uint8_t *out,
                      float q[QK]) {
    zb_fit simple = zb_fit_scale(QK, x, w, lo, hi, true);
    zb_fit fit = plain ? simple : zb_fit_scale(QK, x, w, lo, hi, false);
    store16(out, zb_f32_to_f16(settle(fit, simple, x, w, lo, hi, q).d));
}

static void affine(const float *x, const float *w, bool plain, float hi, uint8_t *out,
                   float q[QK]) {
    zb_fit simple = zb_fit_affine(QK, x, w, hi, false, true);
    zb_fit fit = plain ? simple : zb_fit_affine(QK, x, w, hi, false, false);
    fit = settle(fit, simple, x, w, 0, hi, q);
    store16(out, zb_f32_to_f16(fit.d));
    store16(out + 2, zb_f32_to_f16(fit.m));
}

/* Low four bits of the codes as 16 bytes: element j in the low, j + 16 in the high half. */
static void store_nibbles(const float *q, int offset, uint8_t *out) {
    for (int j = 0; j < QK / 2; j++) {
        int low = (int)q[j] + offset, high = (int)q[j + QK / 2] + offset;
        out[j] = (uint8_t)((low & 15) | (high & 15) << 4);
    }
}

static void store_fifth_bits(const float *q, int offset, uint8_t *out) {
    uint32_t bits = 0;
    for (int j = 0; j < QK; j++) bits |= (uint32_t)(((int)q[j] + offset) >> 4 & 1) << j;
    store16(out, (uint16_t)bits);
    store16(out + 2, (uint16_t)(bits >> 16));
}

/* Codes stay within ±127: kernels may take their absolute value. */
static void q8_0(const float *x, const float *w, bool plain, uint8_t *out) {
    float q[QK];
    symmetric(x, w, plain, -127, 127, out, q);
    for (int j = 0; j < QK; j++) out[2 + j] = (uint8_t)(int8_t)q[j];
}

static void q4_0(const float *x, const float *w, bool plain, uint8_t *out) {
    float q[QK];
    symmetric(x, w, plain, -8, 7, out, q);
    store_nibbles(q, 8, out + 2);
}

static void q4_1(const float *x, const float *w, bool plain, uint8_t *out) {
    float q[QK];
    affine(x, w, plain, 15, out, q);
    store_nibbles(q, 0, out + 4);
}

static void q5_0(const float *x, const float *w, bool plain, uint8_t *out) {
    float q[QK];
    symmetric(x, w, plain, -16, 15, out, q);
    store_fifth_bits(q, 16, out + 2);
    store_nibbles(q, 16, out + 6);
}

static void q5_1(const float *x, const float *w, bool plain, uint8_t *out) {
    float q[QK];
    affine(x, w, plain, 31, out, q);
    store_fifth_bits(q, 0, out + 4);
    store_nibbles(q, 0, out + 8);
}

static zb_quant_block *block_of(zb_dtype t) {
    switch (t) {
    case ZB_Q8_0: return q8_0;
    case ZB_Q4_0: return q4_0;
    case ZB_Q4_1: return q4_1;
    case ZB_Q5_0: return q5_0;
    case ZB_Q5_1: return q5_1;
    case ZB_Q4_K: return zb_quant_q4_k;
    case ZB_Q5_K: return zb_quant_q5_k;
    case ZB_Q6_K: return zb_quant_q6_k;
    default: return NULL;
    }
}

static bool is_plain(zb_dtype t) { return t == ZB_F32 || t == ZB_F16 || t == ZB_BF16; }

bool zb_quant_has(zb_dtype t) { return is_plain(t) || block_of(t); }

zb_dtype zb_quant_fit(zb_dtype t, int64_t cols) {
    static const zb_dtype next[ZB_DTYPE_COUNT] = {
        [ZB_Q4_K] = ZB_Q4_1, [ZB_Q5_K] = ZB_Q5_1, [ZB_Q6_K] = ZB_Q8_0};
    while (cols % zb_dtype_get(t)->block) t = next[t] ? next[t] : ZB_F16;
    return t;
}

/* Finite, and where scales are f16 within their range. */
static zb_status check(const zb_quant_job *j, zb_err *err) {
    bool half = j->type != ZB_F32 && j->type != ZB_BF16;
    int64_t n = j->rows * j->cols, bad = n;
#pragma omp parallel for schedule(static) reduction(min : bad)
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(j->x[i]) || (half && fabsf(j->x[i]) > f16_max)) bad = i < bad ? i : bad;
    if (bad == n) return ZB_OK;
    return zb_fail(
        err, ZB_ERR_FORMAT,
        "tensor %s: row %" PRId64 ", column %" PRId64 ": expected finite values%s, found %g",
        j->name, bad / j->cols, bad % j->cols, half ? " up to 65504" : "", (double)j->x[bad]);
}

/* Weights of the columns of a block: positive, so that no column is left to chance. */
static void weights_of(const zb_quant_job *j, int64_t at, int n, float mean, float *w) {
    for (int i = 0; i < n; i++)
        w[i] = j->importance && mean > 0 ? j->importance[at + i] / mean + 1e-4f : 1;
}

static float mean_importance(const zb_quant_job *j) {
    double sum = 0;
    for (int64_t c = 0; j->importance && c < j->cols; c++) sum += (double)j->importance[c];
    return (float)(sum / (double)(j->cols ? j->cols : 1));
}

zb_status zb_quant_run(const zb_quant_job *j, void *out, zb_err *err) {
    const zb_dtype_info *t = zb_dtype_get(j->type);
    zb_quant_block *block = block_of(j->type);
    ZB_ASSERT(zb_quant_has(j->type) && j->cols % t->block == 0);
    ZB_TRY(check(j, err));
    float mean = mean_importance(j);
    size_t bytes = (size_t)(j->cols / t->block) * (size_t)t->bytes;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t r = 0; r < j->rows; r++) {
        const float *x = j->x + r * j->cols;
        uint8_t *to = (uint8_t *)out + (size_t)r * bytes;
        if (!block) {
            zb_dtype_from_f32(j->type, x, to, j->cols);
            continue;
        }
        float w[ROW_MAX_BLOCK];
        for (int64_t c = 0; c < j->cols; c += t->block, to += t->bytes) {
            weights_of(j, c, t->block, mean, w);
            block(x + c, w, j->plain, to);
        }
    }
    return ZB_OK;
}

double zb_quant_error(const zb_quant_job *j, const void *packed) {
    const zb_dtype_info *t = zb_dtype_get(j->type);
    float mean = mean_importance(j);
    double sum = 0;
    const uint8_t *p = packed;
    for (int64_t r = 0; r < j->rows; r++)
        for (int64_t c = 0; c < j->cols; c += t->block, p += t->bytes) {
            float w[ROW_MAX_BLOCK], y[ROW_MAX_BLOCK];
            weights_of(j, c, t->block, mean, w);
            zb_dtype_to_f32(j->type, p, y, t->block);
            for (int i = 0; i < t->block; i++) {
                double e = (double)j->x[r * j->cols + c + i] - (double)y[i];
                sum += (double)w[i] * e * e;
            }
        }
    return sum;
}
