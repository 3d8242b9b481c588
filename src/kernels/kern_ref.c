/* kern_ref.c - the scalar reference of the kernels: the specification that all other versions are
 * checked against. (Those on packed weights are in kern_ref_quant.c.)
 *
 * Plain loops in the order of the formula, libm for exp and log, no tricks; compiled for the
 * baseline without contraction, so that its results are the same everywhere. Sums run in f32 as
 * in the fast versions, except over a vocabulary and where kernels.h promises f64.
 *
 * Special values. NaN in gives NaN out. A row of -inf is an empty distribution: softmax gives
 * zeros, its log-sum-exp is -inf. In the losses a probability of exactly 0 contributes 0,
 * whatever the other distribution says there (the limit of p log p). Elementwise kernels may run
 * in place (x == y). */
#include "kernels/kernels_impl.h"

#include <math.h>

/* C = alpha * A·B (+ C), one row of C at a time: row p of B, scaled by alpha * A[i,p], is added
 * to it. */
static void gemm(const zb_gemm_args *g) {
    for (int i = 0; i < g->m; i++) {
        float *restrict c = g->c + i * g->ldc;
        if (!g->add)
            for (int j = 0; j < g->n; j++) c[j] = 0;
        for (int p = 0; p < g->k; p++) {
            float a = g->alpha * g->a[i * g->a_row + p * g->a_col];
            const float *restrict b = g->b + p * g->ldb;
            for (int j = 0; j < g->n; j++) c[j] += a * b[j];
        }
    }
}

/* As gemm, element by element: B[p,j] stands at b[j*ldb + p]. */
static void gemm_bt(const zb_gemm_args *g) {
    for (int i = 0; i < g->m; i++)
        for (int j = 0; j < g->n; j++) {
            float sum = 0, *c = g->c + i * g->ldc + j;
            for (int p = 0; p < g->k; p++) sum += g->a[i * g->a_row + p] * g->b[j * g->ldb + p];
            *c = g->alpha * sum + (g->add ? *c : 0);
        }
}

static float cell(const zb_cell_rows *c, int row, int i) {
    const uint8_t *p = c->p + (size_t)row * c->row_bytes;
    float x;
    switch (c->type) {
    case ZB_CELL_F32: memcpy(&x, p + 4 * i, sizeof x); return x;
    case ZB_CELL_BF16: return kern_f32_of_bits((uint32_t)kern_load_u16(p + 2 * i) << 16);
    case ZB_CELL_F16: return kern_f32_of_f16(kern_load_u16(p + 2 * i));
    default: p += i / KERN_BLOCK * KERN_Q8_0;
    }
    return kern_f32_of_f16(kern_load_u16(p)) * (float)(int8_t)p[2 + i % KERN_BLOCK];
}

static void attend_scores(const zb_scores_args *a) {
    for (int i = 0; i < a->m; i++)
        for (int j = 0; j < a->k.n; j++) {
            float sum = 0, *s = a->s + i * a->s_row + j;
            for (int p = 0; p < a->k.width; p++) sum += a->q[i * a->q_row + p] * cell(&a->k, j, p);
            *s = sum + (a->add ? *s : 0);
        }
}

static void attend_values(const zb_values_args *a) {
    for (int i = 0; i < a->m; i++)
        for (int c = 0; c < a->v.width; c++) {
            float sum = 0, *o = a->o + i * a->o_row + c;
            for (int j = 0; j < a->v.n; j++) sum += a->p[i * a->p_row + j] * cell(&a->v, j, c);
            *o = a->keep[i] * *o + sum;
        }
}

static float dot(int n, const float *x, const float *y) {
    float sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

static double sum_squares(int64_t n, const float *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

static void axpy(int n, float a, const float *x, float *y) {
    for (int i = 0; i < n; i++) y[i] += a * x[i];
}

static void scale(int n, float a, float *x) {
    for (int i = 0; i < n; i++) x[i] *= a;
}

static void add(int n, const float *x, float *y) {
    for (int i = 0; i < n; i++) y[i] += x[i];
}

/* r = (mean x² + eps)^-1/2, y_i = x_i r w_i */
static float rmsnorm(int n, const float *x, const float *w, float eps, float *y) {
    float r = 1 / sqrtf(dot(n, x, x) / (float)(n ? n : 1) + eps);
    for (int i = 0; i < n; i++) y[i] = x[i] * r * (w ? w[i] : 1);
    return r;
}

/* With g_i = dy_i w_i: dL/dx_i = r g_i - x_i r³/n Σ_j g_j x_j;  dL/dw_i = dy_i x_i r. */
static void rmsnorm_backward(int n, const float *x, const float *w, float r, const float *dy,
                             float *dx, float *dw) {
    float gx = 0;
    for (int i = 0; i < n; i++) gx += dy[i] * (w ? w[i] : 1) * x[i];
    float back = n ? r * r * r * gx / (float)n : 0;
    for (int i = 0; i < n; i++) {
        dx[i] += r * dy[i] * (w ? w[i] : 1) - back * x[i];
        if (dw) dw[i] += dy[i] * x[i] * r;
    }
}

/* exp with the ends of the range fixed (see kernels_impl.h). NaN passes both comparisons and
 * reaches libm. */
static float exp_one(float x) {
    if (x < KERN_EXP_MIN) return 0;
    if (x > KERN_EXP_MAX) return INFINITY;
    return expf(x);
}

static void exp_row(int n, const float *x, float *y) {
    for (int i = 0; i < n; i++) y[i] = exp_one(x[i]);
}

static float sigmoid(float x) { return 1 / (1 + exp_one(-x)); }

static float silu_one(float x) { return x * sigmoid(x); }

/* silu'(x) = σ(x) (1 + x (1 - σ(x))) */
static float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1 + x * (1 - s));
}

static void silu(int n, const float *x, float *y) {
    for (int i = 0; i < n; i++) y[i] = silu_one(x[i]);
}

static void silu_backward(int n, const float *x, const float *dy, float *dx) {
    for (int i = 0; i < n; i++) dx[i] = dy[i] * silu_slope(x[i]);
}

static void silu_mul(int n, const float *gate, const float *up, float *y) {
    for (int i = 0; i < n; i++) y[i] = silu_one(gate[i]) * up[i];
}

static void silu_mul_backward(int n, const float *gate, const float *up, const float *dy,
                              float *dgate, float *dup) {
    for (int i = 0; i < n; i++) {
        float g = gate[i], u = up[i],
              d = dy[i]; /* read first: outputs may be the inputs' own memory */
        dgate[i] = d * u * silu_slope(g);
        dup[i] = d * silu_one(g);
    }
}

/* Largest of x*s, 0 in place of -inf: the shift that keeps exp in range, also for a row of -inf,
 * whose exps are then 0. */
static float shift_of(int n, float s, const float *x) {
    float max = -INFINITY;
    for (int i = 0; i < n; i++)
        if (x[i] * s > max) max = x[i] * s;
    return max == -INFINITY ? 0 : max;
}

static float softmax(int n, float s, float *x) {
    float shift = shift_of(n, s, x);
    double sum = 0; /* 130,000 terms of one sign: an f32 sum would lose four digits */
    for (int i = 0; i < n; i++) sum += (double)(x[i] = exp_one(x[i] * s - shift));
    float inv = sum == 0 ? 0 : (float)(1 / sum);
    for (int i = 0; i < n; i++) x[i] *= inv;
    return shift + (float)log(sum);
}

static float logsumexp(int n, const float *x) {
    float shift = shift_of(n, 1, x);
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)exp_one(x[i] - shift);
    return shift + (float)log(sum);
}

/* The shift is the largest value so far, which the caller carries from piece to piece; earlier
 * pieces are scaled by exp(old - new). */
static float softmax_step(int n, float *max, float *x) {
    for (int i = 0; i < n; i++)
        if (x[i] > *max) *max = x[i];
    float shift = *max == -INFINITY ? 0 : *max, sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] = exp_one(x[i] - shift);
    return sum;
}

/* All NaN (or n = 0): 0. */
static int argmax(int n, const float *x) {
    int best = 0;
    for (int i = 1; i < n; i++)
        if (x[i] > x[best] || (x[best] != x[best] && x[i] == x[i])) best = i;
    return best;
}

/* (a, b) turned by the angle whose cosine and sine are given: (a cos - b sin, b cos + a sin). */
static void turn(float c, float s, float *a, float *b) {
    float x = *a, y = *b;
    *a = x * c - y * s;
    *b = y * c + x * s;
}

static void rope_halves(int half, const float *cos, const float *sin, bool inverse, float *x) {
    for (int i = 0; i < half; i++) turn(cos[i], inverse ? -sin[i] : sin[i], &x[i], &x[i + half]);
}

static void rope_interleaved(int half, const float *cos, const float *sin, bool inverse, float *x) {
    for (int i = 0; i < half; i++)
        turn(cos[i], inverse ? -sin[i] : sin[i], &x[2 * i], &x[2 * i + 1]);
}

/* KL(t ‖ s) = Σ p_t (log p_t - log p_s); its gradient by the student's logits is p_s - p_t. */
static double kl_row(int n, float *student, float lse_s, const float *teacher, float lse_t,
                     float scale) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        float log_s = student[i] - lse_s, log_t = teacher[i] - lse_t, p_t = exp_one(log_t);
        if (p_t != 0) sum += (double)(p_t * (log_t - log_s));
        student[i] = scale * (exp_one(log_s) - p_t);
    }
    return sum;
}

/* KL(s ‖ t) = Σ p_s (log p_s - log p_t) = v; its gradient by the student's logits is p_s (log p_s
 * - log p_t - v). */
static double reverse_kl_row(int n, float *student, float lse_s, const float *teacher, float lse_t,
                             float scale) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        float log_s = student[i] - lse_s, p_s = exp_one(log_s);
        if (p_s != 0) sum += (double)(p_s * (log_s - (teacher[i] - lse_t)));
    }
    for (int i = 0; i < n; i++) {
        float log_s = student[i] - lse_s, p_s = exp_one(log_s);
        student[i] = p_s != 0 ? scale * p_s * (log_s - (teacher[i] - lse_t) - (float)sum) : 0;
    }
    return sum;
}

static void ce_row(int n, float *x, float lse, int label, float scale_by) {
    for (int i = 0; i < n; i++)
        x[i] = scale_by * (exp_one(x[i] - lse) - (i == label ? 1.0f : 0.0f));
}

/* The recurrence of kernels.h, token by token, row by row. */
static void scan(const zb_scan_args *g) {
    for (int t = 0; t < g->T; t++) {
        const float *x = g->x + t * g->row_x, *B = g->B + t * g->row, *C = g->C + t * g->row;
        float *y = g->y + t * g->row_y;
        for (int j = 0; j < g->p; j++) y[j] = g->D * x[j];
        for (int i = 0; i < g->n; i++)
            for (int j = 0; j < g->p; j++) {
                float *s = g->state + (ptrdiff_t)i * g->p + j;
                *s = g->keep[t] * *s + B[i] * (g->delta[t] * x[j]);
                y[j] += C[i] * *s;
            }
    }
}

static void adamw(const zb_adamw_args *a) {
    float step = a->lr / a->bias1, keep = 1 - a->lr * a->decay;
    for (int64_t i = 0; i < a->n; i++) {
        float g = a->grad[i] * a->grad_scale;
        float m = a->m[i] = a->beta1 * a->m[i] + (1 - a->beta1) * g;
        float v = a->v[i] = a->beta2 * a->v[i] + (1 - a->beta2) * g * g;
        a->w[i] = a->w[i] * keep - step * m / (sqrtf(v / a->bias2) + a->eps);
    }
}

static void round_bf16(int64_t n, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = kern_f32_of_bits((uint32_t)kern_bf16_of_f32(x[i]) << 16);
}

static void f32_to_bf16(int64_t n, const float *x, uint16_t *y) {
    for (int64_t i = 0; i < n; i++) y[i] = kern_bf16_of_f32(x[i]);
}

static void bf16_to_f32(int64_t n, const uint16_t *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = kern_f32_of_bits((uint32_t)x[i] << 16);
}

static void f32_to_f16(int64_t n, const float *x, uint16_t *y) {
    for (int64_t i = 0; i < n; i++) y[i] = kern_f16_of_f32(x[i]);
}

static void f16_to_f32(int64_t n, const uint16_t *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = kern_f32_of_f16(x[i]);
}

/* One block from n <= 32 values. The integers belong to d as it is stored. */
static void block_q8_0(int n, const float *x, uint8_t *b) {
    float max = 0, nan = 0;
    for (int i = 0; i < n; i++) {
        max = fmaxf(max, fabsf(x[i]));
        if (x[i] != x[i]) nan = x[i];
    }
    uint16_t h = kern_f16_of_f32(nan != 0 ? nan : fminf(max / 127, 65504));
    float d = kern_f32_of_f16(h), inverse = d > 0 ? 1 / d : 0;
    memcpy(b, &h, sizeof h);
    for (int i = 0; i < KERN_BLOCK; i++) {
        float q = i < n ? fminf(fmaxf(x[i] * inverse, -127), 127) : 0;
        b[2 + i] =
            (uint8_t)(int8_t)((q + 0x1.8p23f) - 0x1.8p23f); /* to the nearest, ties to even */
    }
}

static void f32_to_q8_0(int64_t n, const float *x, uint8_t *b) {
    for (; n > 0; n -= KERN_BLOCK, x += KERN_BLOCK, b += KERN_Q8_0)
        block_q8_0(n < KERN_BLOCK ? (int)n : KERN_BLOCK, x, b);
}

static void q8_0_to_f32(int64_t n, const uint8_t *b, float *y) {
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *block = b + i / KERN_BLOCK * KERN_Q8_0;
        y[i] = kern_f32_of_f16(kern_load_u16(block)) * (float)(int8_t)block[2 + i % KERN_BLOCK];
    }
}

void kern_ref_fill(zb_kernels *k) {
    *k = (zb_kernels){
        .name = "ref",
        .gemm = gemm,
        .gemm_bt = gemm_bt,
        .attend_scores = attend_scores,
        .attend_values = attend_values,
        .dot = dot,
        .sum_squares = sum_squares,
        .axpy = axpy,
        .scale = scale,
        .add = add,
        .rmsnorm = rmsnorm,
        .rmsnorm_backward = rmsnorm_backward,
        .silu = silu,
        .silu_backward = silu_backward,
        .silu_mul = silu_mul,
        .silu_mul_backward = silu_mul_backward,
        .exp = exp_row,
        .softmax = softmax,
        .logsumexp = logsumexp,
        .softmax_step = softmax_step,
        .argmax = argmax,
        .rope_halves = rope_halves,
        .rope_interleaved = rope_interleaved,
        .kl_row = kl_row,
        .reverse_kl_row = reverse_kl_row,
        .ce_row = ce_row,
        .adamw = adamw,
        .scan = scan,
        .round_bf16 = round_bf16,
        .f32_to_bf16 = f32_to_bf16,
        .bf16_to_f32 = bf16_to_f32,
        .f32_to_f16 = f32_to_f16,
        .f16_to_f32 = f16_to_f32,
        .f32_to_q8_0 = f32_to_q8_0,
        .q8_0_to_f32 = q8_0_to_f32,
    };
    kern_ref_quant_fill(k);
    kern_ref_igemm_fill(k);
    kern_ref_tile_fill(k);
}
