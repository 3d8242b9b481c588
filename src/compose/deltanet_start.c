/* deltanet_start.c - the starts of a gated DeltaNet layer (zb_deltanet_* in init.h).
 *
 * Both copy the attention: q, k, v and the output map, key and value heads repeated to all query
 * heads by whole heads.
 *
 * Paper: the rest as flash-linear-attention makes new layers: gate, a and b rows uniform in
 * ±1/√D, taps in ±1/√4, dt_bias the inverse softplus of a step drawn log-uniformly from [0.001,
 * 0.1], A_log = ln U(0, 16), norm 1.
 *
 * Calibrated: the convolutions pass the current token and have no silu behind them, which would
 * bend the copied maps; the gate is 1 (no weights, bias silu⁻¹(1)); β is 1/2; the decay is minus
 * the slope of log mean attention against lag, the same at every token (no weights,
 * softplus(dt_bias) = 1, A_log its logarithm). Last all is fitted to the teacher's mixer output
 * (fit.h). */
#include "base/rng.h"
#include "compose/watch.h"

#include <math.h>
#include <string.h>

enum { WATCH_TOKENS = 8192 };
static const double OPEN = 1.2784645427610738, /* silu of it is 1 */
    ONE = 0.5413248546129181;                  /* softplus of it is 1 */

static float *weights(const zb_init_job *j, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "linear_attn.%s", name);
    return zb_init_weights(j, full);
}

static void copy_attention(const zb_init_job *j) {
    const zb_config *c = j->config;
    size_t head = (size_t)c->dh * (size_t)c->D, all = (size_t)c->H * head * sizeof(float);
    float *k = weights(j, "k_proj.weight"), *v = weights(j, "v_proj.weight");
    memcpy(weights(j, "q_proj.weight"), j->q, all);
    memcpy(weights(j, "o_proj.weight"), j->o, all);
    for (int h = 0; h < c->H; h++) {
        size_t from = (size_t)(h / (c->H / c->G)) * head;
        memcpy(k + (size_t)h * head, j->k + from, head * sizeof(float));
        memcpy(v + (size_t)h * head, j->v + from, head * sizeof(float));
    }
    zb_init_fill(weights(j, "o_norm.weight"), c->dh, 1);
}

static float *taps_of(const zb_init_job *j, int i) {
    static const char *const names[] = {"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"};
    return weights(j, names[i]);
}

zb_status zb_deltanet_paper(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    (void)scratch;
    (void)err;
    const zb_config *c = j->config;
    int64_t di = (int64_t)c->H * c->dh, narrow = (int64_t)c->H * c->D;
    double bound = 1 / sqrt((double)c->D);
    copy_attention(j);
    zb_init_uniform(j, 0, weights(j, "g_proj.weight"), di * c->D, bound);
    zb_init_uniform(j, 1, weights(j, "a_proj.weight"), narrow, bound);
    zb_init_uniform(j, 2, weights(j, "b_proj.weight"), narrow, bound);
    for (int i = 0; i < 3; i++)
        zb_init_uniform(j, 3 + i, taps_of(j, i), di * ZB_CONV_K, 1 / sqrt((double)ZB_CONV_K));
    float *dt = weights(j, "dt_bias"), *a_log = weights(j, "A_log");
    for (int h = 0; h < c->H; h++) {
        uint64_t step = zb_rng_substream(ZB_RNG_INIT, (uint64_t)j->layer, 6),
                 decay = zb_rng_substream(ZB_RNG_INIT, (uint64_t)j->layer, 7);
        double s = exp(log(0.001) + zb_rng_uniform(j->seed, step, (uint64_t)h) * log(100));
        dt[h] = (float)(s + log(-expm1(-s)));
        a_log[h] = (float)log(fmax(16 * zb_rng_uniform(j->seed, decay, (uint64_t)h), 1e-4));
    }
    return ZB_OK;
}

zb_status zb_deltanet_calibrated(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    const zb_config *c = j->config;
    int64_t di = (int64_t)c->H * c->dh, narrow = (int64_t)c->H * c->D;
    zb_watched w;
    ZB_TRY(zb_watch(&w, j, WATCH_TOKENS, scratch, err));
    copy_attention(j);
    for (int i = 0; i < 3; i++) {
        float *taps = taps_of(j, i);
        zb_init_fill(taps, di * ZB_CONV_K, 0);
        for (int64_t k = 0; k < di; k++) taps[k * ZB_CONV_K + ZB_CONV_K - 1] = 1;
    }
    zb_init_fill(weights(j, "g_proj.weight"), di * c->D, 0);
    zb_init_fill(weights(j, "g_bias"), di, (float)OPEN);
    zb_init_fill(weights(j, "a_proj.weight"), narrow, 0);
    zb_init_fill(weights(j, "b_proj.weight"), narrow, 0);
    zb_init_fill(weights(j, "dt_bias"), c->H, (float)ONE);
    for (int h = 0; h < c->H; h++) {
        double decay = zb_lag_fit_of(w.profile + (size_t)h * (ZB_LAGS + 1)).decay;
        if (j->decay_max > 0) decay = fmin(decay, j->decay_max);
        weights(j, "A_log")[h] = (float)log(decay);
    }
    zb_param *out = zb_init_output(j);
    memcpy(out->w, j->o, (size_t)(c->D * di) * sizeof(float));
    return zb_fit_mixer(j->calibration, out, &j->fit, err);
}
