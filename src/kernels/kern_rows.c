/* kern_rows.c - vector versions of the kernels that reduce a row: norms, softmax, vocabulary
 * losses (formulas in kern_ref.c).
 *
 * Rows may be a vocabulary long (130,000), so sums run in f32 vectors over BLOCK elements and the
 * blocks are added in double: the error stays that of a sum of BLOCK / VW terms. The last,
 * incomplete vector is filled with a value that the sum does not feel (0, or -inf before an exp).
 */
#include "kernels/simd.h"

enum { BLOCK = 64 * VW };

static int block_end(int at, int n) { return n - at > BLOCK ? at + BLOCK : n; }

static float sum_of_squares(int n, const float *x) {
    vf s0 = {0}, s1 = {0};
    int i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        vf a = vf_load(x + i), b = vf_load(x + i + VW);
        s0 += a * a;
        s1 += b * b;
    }
    for (; i < n; i += VW) {
        vf a = vf_load_n(x + i, n - i);
        s0 += a * a;
    }
    return vf_sum(s0 + s1);
}

static float rmsnorm(int n, const float *x, const float *w, float eps, float *y) {
    float r = 1 / sqrtf(sum_of_squares(n, x) / (float)(n ? n : 1) + eps);
    for (int i = 0; i < n; i += VW) {
        vf v = vf_load_n(x + i, n - i) * r;
        vf_store_n(y + i, n - i, w ? v * vf_load_n(w + i, n - i) : v);
    }
    return r;
}

static void rmsnorm_backward(int n, const float *x, const float *w, float r, const float *dy,
                             float *dx, float *dw) {
    vf sum = {0};
    for (int i = 0; i < n; i += VW) {
        vf g = vf_load_n(dy + i, n - i) * vf_load_n(x + i, n - i);
        sum += w ? g * vf_load_n(w + i, n - i) : g;
    }
    float back = n ? r * r * r * vf_sum(sum) / (float)n : 0;
    for (int i = 0; i < n; i += VW) {
        int left = n - i;
        vf v = vf_load_n(x + i, left), d = vf_load_n(dy + i, left);
        vf g = w ? d * vf_load_n(w + i, left) : d;
        vf_store_n(dx + i, left, vf_load_n(dx + i, left) + r * g - back * v);
        if (dw) vf_store_n(dw + i, left, vf_load_n(dw + i, left) + d * v * r);
    }
}

/* Largest of x*s without NaN; -inf for an empty row. */
static float max_of(int n, float s, const float *x) {
    vf m0 = vf_set1(-INFINITY), m1 = m0;
    int i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        m0 = vf_max(vf_load(x + i) * s, m0);
        m1 = vf_max(vf_load(x + i + VW) * s, m1);
    }
    float max = vf_hmax(vf_max(m0, m1));
    for (; i < n; i++)
        if (x[i] * s > max) max = x[i] * s;
    return max;
}

static float shift_of(int n, float s, const float *x) {
    float max = max_of(n, s, x);
    return max == -INFINITY ? 0 : max;
}

static float softmax(int n, float s, float *x) {
    float shift = shift_of(n, s, x);
    double sum = 0;
    for (int at = 0; at < n; at = block_end(at, n)) {
        vf part = {0};
        for (int i = at, end = block_end(at, n); i < end; i += VW) {
            vf e = vf_exp(vf_load_n(x + i, n - i) * s - shift);
            vf_store_n(x + i, n - i, e);
            part += n - i >= VW ? e : vf_load_part(x + i, n - i, vf_set1(0));
        }
        sum += (double)vf_sum(part);
    }
    float inv = sum == 0 ? 0 : (float)(1 / sum);
    for (int i = 0; i < n; i += VW) vf_store_n(x + i, n - i, vf_load_n(x + i, n - i) * inv);
    return shift + (float)log(sum);
}

static float logsumexp(int n, const float *x) {
    float shift = shift_of(n, 1, x);
    double sum = 0;
    for (int at = 0; at < n; at = block_end(at, n)) {
        vf part = {0};
        for (int i = at, end = block_end(at, n); i < end; i += VW)
            part += vf_exp(vf_load_fill(x + i, n - i, -INFINITY) - shift);
        sum += (double)vf_sum(part);
    }
    return shift + (float)log(sum);
}

/* The largest number first, then the first place that holds it; none where all is NaN. */
static int argmax(int n, const float *x) {
    float max = max_of(n, 1, x);
    for (int i = 0; i < n; i++)
        if (x[i] == max) return i;
    return 0;
}

static double kl_row(int n, float *student, float lse_s, const float *teacher, float lse_t,
                     float scale) {
    double sum = 0;
    for (int at = 0; at < n; at = block_end(at, n)) {
        vf part = {0};
        for (int i = at, end = block_end(at, n); i < end; i += VW) {
            vf log_s = vf_load_fill(student + i, n - i, -INFINITY) - lse_s;
            vf log_t = vf_load_fill(teacher + i, n - i, -INFINITY) - lse_t, p_t = vf_exp(log_t);
            part += vf_select(p_t == 0.0f, vf_set1(0), p_t * (log_t - log_s));
            vf_store_n(student + i, n - i, scale * (vf_exp(log_s) - p_t));
        }
        sum += (double)vf_sum(part);
    }
    return sum;
}

static double reverse_kl_row(int n, float *student, float lse_s, const float *teacher, float lse_t,
                             float scale) {
    double sum = 0;
    for (int at = 0; at < n; at = block_end(at, n)) {
        vf part = {0};
        for (int i = at, end = block_end(at, n); i < end; i += VW) {
            vf log_s = vf_load_fill(student + i, n - i, -INFINITY) - lse_s, p_s = vf_exp(log_s);
            vf log_t = vf_load_n(teacher + i, n - i) - lse_t;
            part += vf_select(p_s == 0.0f, vf_set1(0), p_s * (log_s - log_t));
        }
        sum += (double)vf_sum(part);
    }
    for (int i = 0; i < n; i += VW) {
        vf log_s = vf_load_n(student + i, n - i) - lse_s, p_s = vf_exp(log_s);
        vf log_t = vf_load_n(teacher + i, n - i) - lse_t;
        vf grad = scale * p_s * (log_s - log_t - (float)sum);
        vf_store_n(student + i, n - i, vf_select(p_s == 0.0f, vf_set1(0), grad));
    }
    return sum;
}

static void ce_row(int n, float *x, float lse, int label, float scale) {
    for (int i = 0; i < n; i += VW)
        vf_store_n(x + i, n - i, scale * vf_exp(vf_load_n(x + i, n - i) - lse));
    if (label >= 0 && label < n) x[label] -= scale;
}

void KERN_SYMBOL(kern_rows_fill_)(zb_kernels *k) {
    k->rmsnorm = rmsnorm;
    k->rmsnorm_backward = rmsnorm_backward;
    k->softmax = softmax;
    k->logsumexp = logsumexp;
    k->argmax = argmax;
    k->kl_row = kl_row;
    k->reverse_kl_row = reverse_kl_row;
    k->ce_row = ce_row;
}
