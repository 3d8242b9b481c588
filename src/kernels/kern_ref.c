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

void kern_ref_fill(zb_kernels *k) {
    *k = (zb_kernels){
        .name = "ref",
        .gemm = gemm,
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
        .argmax = argmax,
        .rope_halves = rope_halves,
        .rope_interleaved = rope_interleaved,
        .kl_row = kl_row,
        .reverse_kl_row = reverse_kl_row,
        .ce_row = ce_row,
        .adamw = adamw,
        .round_bf16 = round_bf16,
        .f32_to_bf16 = f32_to_bf16,
        .bf16_to_f32 = bf16_to_f32,
    };
    kern_ref_quant_fill(k);
}
