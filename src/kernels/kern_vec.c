/* kern_vec.c - vector versions of the elementwise kernels and plain sums (formulas in
 * kern_ref.c).
 *
 * Compiled once per instruction set. Loops that the compiler turns into vector code by itself
 * stay plain loops; those that need exp, several accumulators or double sums use simd.h. */
#include "kernels/simd.h"

/* Four accumulators hide the latency of the fused multiply-add. */
static float dot(int n, const float *x, const float *y) {
    vf s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
    int i = 0;
    for (; i + 4 * VW <= n; i += 4 * VW) {
        s0 += vf_load(x + i) * vf_load(y + i);
        s1 += vf_load(x + i + VW) * vf_load(y + i + VW);
        s2 += vf_load(x + i + 2 * VW) * vf_load(y + i + 2 * VW);
        s3 += vf_load(x + i + 3 * VW) * vf_load(y + i + 3 * VW);
    }
    for (; i < n; i += VW) s0 += vf_load_n(x + i, n - i) * vf_load_n(y + i, n - i);
    return vf_sum((s0 + s1) + (s2 + s3));
}

static double sum_squares(int64_t n, const float *x) {
    vd s0 = vd_zero(), s1 = vd_zero();
    int64_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        s0 = vd_square_add(s0, vf_load(x + i));
        s1 = vd_square_add(s1, vf_load(x + i + VW));
    }
    for (; i < n; i += VW) s0 = vd_square_add(s0, vf_load_n(x + i, (int)(n - i)));
    return vd_sum(s0) + vd_sum(s1);
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

SIMD_INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + vf_exp(-x)); }

static void silu(int n, const float *x, float *y) {
    for (int i = 0; i < n; i += VW) {
        vf v = vf_load_n(x + i, n - i);
        vf_store_n(y + i, n - i, v * sigmoid(v));
    }
}

static void silu_backward(int n, const float *x, const float *dy, float *dx) {
    for (int i = 0; i < n; i += VW) {
        vf v = vf_load_n(x + i, n - i), s = sigmoid(v);
        vf_store_n(dx + i, n - i, vf_load_n(dy + i, n - i) * (s * (1.0f + v * (1.0f - s))));
    }
}

static void silu_mul(int n, const float *gate, const float *up, float *y) {
    for (int i = 0; i < n; i += VW) {
        vf g = vf_load_n(gate + i, n - i), u = vf_load_n(up + i, n - i);
        vf_store_n(y + i, n - i, g * sigmoid(g) * u);
    }
}

static void silu_mul_backward(int n, const float *gate, const float *up, const float *dy,
                              float *dgate, float *dup) {
    for (int i = 0; i < n; i += VW) {
        vf g = vf_load_n(gate + i, n - i), u = vf_load_n(up + i, n - i),
           d = vf_load_n(dy + i, n - i);
        vf s = sigmoid(g);
        vf_store_n(dgate + i, n - i, d * u * (s * (1.0f + g * (1.0f - s))));
        vf_store_n(dup + i, n - i, d * (g * s));
    }
}

static void exp_row(int n, const float *x, float *y) {
    for (int i = 0; i < n; i += VW) vf_store_n(y + i, n - i, vf_exp(vf_load_n(x + i, n - i)));
}

static void rope_halves(int half, const float *cos, const float *sin, bool inverse, float *x) {
    float sign = inverse ? -1.0f : 1.0f, *upper = x + half;
    for (int i = 0; i < half; i++) {
        float a = x[i], b = upper[i], c = cos[i], s = sign * sin[i];
        x[i] = a * c - b * s;
        upper[i] = b * c + a * s;
    }
}

static void rope_interleaved(int half, const float *cos, const float *sin, bool inverse, float *x) {
    float sign = inverse ? -1.0f : 1.0f;
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1], c = cos[i], s = sign * sin[i];
        x[2 * i] = a * c - b * s;
        x[2 * i + 1] = b * c + a * s;
    }
}

static void adamw(const zb_adamw_args *args) {
    const zb_adamw_args a =
        *args; /* by value: the compiler need not fear that a store changes it */
    float *restrict w = a.w, *restrict m = a.m, *restrict v = a.v;
    const float *restrict grad = a.grad;
    float step = a.lr / a.bias1, keep = 1 - a.lr * a.decay;
    for (int64_t i = 0; i < a.n; i++) {
        float g = grad[i] * a.grad_scale;
        m[i] = a.beta1 * m[i] + (1 - a.beta1) * g;
        v[i] = a.beta2 * v[i] + (1 - a.beta2) * g * g;
        w[i] = w[i] * keep - step * m[i] / (sqrtf(v[i] / a.bias2) + a.eps);
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

void KERN_SYMBOL(kern_vec_fill_)(zb_kernels *k) {
    k->dot = dot;
    k->sum_squares = sum_squares;
    k->axpy = axpy;
    k->scale = scale;
    k->add = add;
    k->silu = silu;
    k->silu_backward = silu_backward;
    k->silu_mul = silu_mul;
    k->silu_mul_backward = silu_mul_backward;
    k->exp = exp_row;
    k->rope_halves = rope_halves;
    k->rope_interleaved = rope_interleaved;
    k->adamw = adamw;
    k->round_bf16 = round_bf16;
    k->f32_to_bf16 = f32_to_bf16;
    k->bf16_to_f32 = bf16_to_f32;
}
