/* grad.h - shared by the gradient tests: tiny random models and the finite-difference check.
 *
 * The check moves one array (a parameter or an input) along a random direction d, every entry
 * normal with standard deviation s = step · (rms of the array), and compares the five-point
 * difference (8 (L(+d) - L(-d)) - (L(+2d) - L(-2d))) / 12 with the analytic slope g·d. g·d itself
 * is normal with standard deviation s·|g|, so that is the measure of the error: a small slope by
 * cancellation neither excuses nor condemns. Two errors are allowed. Truncation is of fourth order
 * in the step; Mamba2's gated norm divides by small groups, which makes it large: single mixers
 * were seen to reach 1.2 % of the measure at step 2^-5 and 0.3 % at 2^-6 (so 0.02 % at 2^-7, their
 * step), whole models 2.3 % at 2^-7 (0.01 % at 2^-9, theirs). TRUNCATION allows 2^-9. The rounding
 * of L, which callers estimate from the f32 values that L sums
 * (`noise`), enters twice 8/12 and twice 1/12 times, at random: below 1.2 times in all, taken
 * threefold. An array whose slope drowns in that noise is an error of the test: it can always fail.
 */
#ifndef ZB_TESTS_GRAD_H
#define ZB_TESTS_GRAD_H

#include "../golden/golden.h"

#include "base/rng.h"
#include "model/loss.h"

static const double TRUNCATION = 0x1p-9;
enum { DIRECTIONS = 3 };

/* Deterministic normal numbers: one stream per call site and array. */
static inline void fill(float *x, int64_t n, double scale, double base, uint64_t seed) {
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(base + scale * zb_rng_normal(seed, ZB_RNG_TEST, (uint64_t)i));
}

static inline bool ends_with(const char *s, const char *tail) {
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && !strcmp(s + n - m, tail);
}

/* Values of the size a trained model has, so that no part of it is saturated or dead. D is 3: the
 * scan's first output is (D + Δ B·C) x, and where that factor passes zero the norm behind it flips
 * the sign of a whole group within a tiny step, which no difference can follow. */
static inline void randomise(zb_model *m, uint64_t seed) {
    static const struct {
        const char *tail;
        double scale, base;
    } special[] = {
        {"norm.weight", 0.1, 1}, {"A_log", 0.7, 0},         {"dt_bias", 0.8, -1},
        {"mamba.D", 0.2, 3},     {"conv1d.weight", 0.4, 0}, {"embed_tokens.weight", 0.5, 0},
        {".bias", 0.3, 0},       {"z_bias", 0.3, 1},        {"g_bias", 0.3, 1},
    };
    zb_param_table *t = zb_model_params(m);
    for (int i = 0; i < t->n; i++) {
        zb_param *p = &t->item[i];
        double scale = 1 / sqrt((double)p->cols), base = 0;
        for (size_t k = sizeof special / sizeof special[0]; k-- > 0;)
            if (ends_with(p->name, special[k].tail))
                scale = special[k].scale, base = special[k].base;
        /* B and C without a silu between them and the scan are larger */
        bool large = p->layer >= 0 && zb_model_config(m)->layer[p->layer].conv_identity;
        if (large && ends_with(p->name, "mamba.D")) base += 1;
        /* The first output of gated DeltaNet is (k·q) β v, normed: without a silu that makes k·q
         * positive, queries must look where keys do, for the same reason as above. */
        uint64_t like = large && ends_with(p->name, "linear_attn.q_proj.weight");
        if (large && ends_with(p->name, "_conv1d.weight")) base += 0.5;
        fill(p->w, zb_param_count(p), scale, base, seed * 1000 + (uint64_t)i + like);
    }
}

/* A copy of all gradients, one after the other. */
static inline float *all_gradients(zb_model *m, zb_arena *a, int64_t *n) {
    const zb_param_table *p = zb_model_params(m);
    *n = zb_params_total(p);
    float *out = ZB_NEW_ARRAY(a, float, *n);
    int64_t at = 0;
    for (int i = 0; i < p->n; i++) {
        memcpy(out + at, p->item[i].grad, (size_t)zb_param_count(&p->item[i]) * sizeof(float));
        at += zb_param_count(&p->item[i]);
    }
    return out;
}

/* A loss to differentiate: value in f64 and the noise that f32 leaves in it. */
typedef struct grad_loss {
    double (*value)(void *arg, double *noise);
    void *arg;
    double step;
} grad_loss;

static inline double moved(const grad_loss *l, float *x, const float *origin, const float *d,
                           int64_t n, float by) {
    double noise;
    for (int64_t i = 0; i < n; i++) x[i] = origin[i] + by * d[i];
    return l->value(l->arg, &noise);
}

/* x [n] is restored; grad [n] is the analytic gradient at x. */
static inline void check_gradient(const char *what, const grad_loss *l, float *x, const float *grad,
                                  int64_t n) {
    zb_arena a = {0};
    float *origin = ZB_NEW_ARRAY(&a, float, n), *d = ZB_NEW_ARRAY(&a, float, n);
    memcpy(origin, x, (size_t)n * sizeof *x);
    double rms = 0, size = 0, noise;
    l->value(l->arg, &noise);
    for (int64_t i = 0; i < n; i++) {
        rms += (double)x[i] * (double)x[i];
        size += (double)grad[i] * (double)grad[i];
    }
    rms = sqrt(rms / (double)n);
    double measure = l->step * rms * sqrt(size), allowed = TRUNCATION * measure + 3 * 1.2 * noise;
    if (!(measure > 50 * noise))
        fail_msg("%s: slope %.3g, noise %.3g: no check", what, measure, noise);
    for (int k = 0; k < DIRECTIONS; k++) {
        fill(d, n, l->step * rms, 0, 77 + (uint64_t)k);
        double slope = 0;
        for (int64_t i = 0; i < n; i++) slope += (double)grad[i] * (double)d[i];
        double near = moved(l, x, origin, d, n, 1) - moved(l, x, origin, d, n, -1);
        double far = moved(l, x, origin, d, n, 2) - moved(l, x, origin, d, n, -2);
        memcpy(x, origin, (size_t)n * sizeof *x);
        double got = (8 * near - far) / 12;
        if (!(fabs(got - slope) <= allowed))
            fail_msg("%s, direction %d: difference %.8g, gradient %.8g, error %.3g of %.3g allowed "
                     "(measure %.3g)",
                     what, k, got, slope, fabs(got - slope), allowed, measure);
    }
    zb_arena_free(&a);
}

/* One mixer of each build in a model of one layer. */
typedef struct grad_case {
    const char *name;
    zb_layer_config layer;
    bool bias, yarn;
} grad_case;

static const grad_case grad_cases[] = {
    {"attention", {.kind = ZB_ATTENTION}, false, false},
    {"attention with biases", {.kind = ZB_ATTENTION}, true, false},
    {"mla",
     {.kind = ZB_MLA,
      .r_q = 9,
      .r_kv = 7,
      .d_nope = 6,
      .d_rope = 4,
      .d_v = 10,
      .full_kv_head = true},
     false,
     false},
    {"mla with norms",
     {.kind = ZB_MLA,
      .r_q = 9,
      .r_kv = 7,
      .d_nope = 6,
      .d_rope = 4,
      .d_v = 10,
      .lora_norm = true,
      .latent_eps = ZB_LATENT_EPS},
     false,
     true},
    {"mla, one query map",
     {.kind = ZB_MLA,
      .r_kv = 7,
      .d_nope = 6,
      .d_rope = 4,
      .d_v = 10,
      .lora_norm = true,
      .latent_eps = ZB_LATENT_EPS,
      .full_kv_head = true},
     false,
     false},
    {"mamba2", {.kind = ZB_MAMBA2}, false, false},
    {"mamba2, repeated before the convolution",
     {.kind = ZB_MAMBA2, .repeat_before_conv = true},
     false,
     false},
    {"mamba2, no silu behind the convolution, gate with a bias",
     {.kind = ZB_MAMBA2, .conv_identity = true, .gate_bias = true},
     false,
     false},
    {"window", {.kind = ZB_SLIDING_WINDOW, .window = 9, .sinks = 3}, false, false},
    {"window with biases", {.kind = ZB_SLIDING_WINDOW, .window = 40, .sinks = 50}, true, false},
    {"windowed mamba2",
     {.kind = ZB_WINDOWED_MAMBA2,
      .window = 9,
      .sinks = 3,
      .conv_identity = true,
      .gate_bias = true},
     true,
     false},
    {"window with a retrieval head",
     {.kind = ZB_SLIDING_WINDOW, .window = 9, .sinks = 3, .retrieval = 2},
     true,
     false},
    {"window with a narrow retrieval head",
     {.kind = ZB_SLIDING_WINDOW, .window = 9, .sinks = 3, .retrieval = 2, .far_k = 6, .far_v = 5},
     true,
     false},
    {"windowed mamba2 with a retrieval head",
     {.kind = ZB_WINDOWED_MAMBA2, .window = 9, .sinks = 3, .retrieval = 1},
     false,
     false},
    {"gated deltanet", {.kind = ZB_GATED_DELTANET}, false, false},
    {"gated deltanet, no silu behind the convolution, gate with a bias",
     {.kind = ZB_GATED_DELTANET, .conv_identity = true, .gate_bias = true},
     false,
     false},
    {"windowed deltanet", {.kind = ZB_WINDOWED_DELTANET, .window = 9, .sinks = 3}, false, false},
};
enum { GRAD_CASES = sizeof grad_cases / sizeof grad_cases[0] };

static inline zb_config grad_config(int L, int D, const zb_layer_config *layers) {
    zb_config c = {.model_type = "llama",
                   .D = D,
                   .L = L,
                   .H = 4,
                   .G = 2,
                   .dh = 8,
                   .F = 20,
                   .V = 43,
                   .context_max = 128,
                   .eps = 1e-5,
                   .tied = true,
                   .bos = -1,
                   .hybrid = true};
    c.rope = (zb_rope){.theta = 10000, .factor = 1, .beta_fast = 32, .beta_slow = 1, .mscale = 1};
    c.mla_rope = c.rope;
    for (int l = 0; l < L; l++) c.layer[l] = layers[l];
    return c;
}

static inline zb_config case_config(const grad_case *g) {
    zb_config c = grad_config(1, 12, &g->layer);
    c.qkv_bias = c.o_bias = c.mlp_bias = g->bias;
    if (g->yarn) {
        c.mla_rope.type = ZB_ROPE_YARN;
        c.mla_rope.factor = 8;
        c.mla_rope.old_context = 16;
        c.mla_rope.mscale_all_dim = 1;
    }
    return c;
}

/* Documents of a batch: one longer than a chunk of the scan and a block of queries, one just
 * longer, one token, a few. */
enum { GRAD_SPANS = 4, GRAD_TOKENS = 70 + 1 + 65 + 5 };
static const zb_span grad_spans[GRAD_SPANS] = {
    {0, 70, NULL}, {70, 1, NULL}, {71, 65, NULL}, {136, 5, NULL}};

#endif
