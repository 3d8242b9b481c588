/* mamba2_calibrated.c - the calibrated start of a Mamba2 layer (zb_mamba2_calibrated in init.h).
 *
 * Softmax attention is an average of values with weights exp(s_ts), s = q·k/√dh. To first order,
 * and since a constant on a row of scores changes nothing, the weights are 1 + q_t·(k_s - k̄)/√dh:
 * what a scan can hold. So x <- V; B <- K minus its mean over tokens, turned by the mean rotation
 * over the lags the heads look at; C <- Q; the 1 is carried by the first dimension of the fastest
 * rotary pair, which averages out anyway: its rows become 0 and their convolution bias dh^(1/4) in
 * B and C. The convolution passes the current token, with no silu behind it.
 *
 * Decay stands in for what the softmax does over lags: minus the slope of log mean attention
 * against lag 1 .. 64, fitted with weights 1/lag; D adds what lag 0 has beyond that line.
 *
 * Level. The norm behind the scan divides by √(mean square + eps), so it passes amplitudes only
 * where the mean square is below eps: Δ, a factor on everything a head writes, is set so that the
 * mean square equals eps, and A = -decay/Δ.
 *
 * Gate. silu(z + z_bias) of all channels of a head is fitted to the share of its attention that
 * finds something other than the first token, by ridge regression on the student's inputs.
 *
 * Last, out_proj is solved towards the teacher's, and all is fitted to its mixer's output (fit.h).
 */
#include "compose/watch.h"
#include "model/rope.h"
#include "tensor/linalg.h"

#include <math.h>
#include <string.h>

enum { WATCH_TOKENS = 8192 };
static const double AWAKE_MIN = 0.02, GATE_RIDGE = 0.03, DELTA_TRY = 1e-5, DELTA_MIN = 1e-7,
                    DELTA_MAX = 2,
                    NORM_EPS = 1e-5, /* of the norm behind the scan, model/mamba2.c */
    PLAIN_DECAY = 1.0 / 16;          /* of all heads where it is not fitted */

/* z of the positive branch with silu(z) = y, 0 <= y <= 1. */
static double inverse_silu(double y) {
    double z = 2 * y;
    for (int i = 0; i < 30; i++) {
        double s = 1 / (1 + exp(-z));
        z -= (z * s - y) / (s + z * s * (1 - s));
    }
    return z;
}

/* Gate rows of a head: silu(z_bias + w·x) ≈ the share of its attention that finds something, by
 * ridge regression on the student's inputs. in: rows z of in_proj [H·dh, D]; bias [H·dh]. */
static zb_status fit_gates(const zb_init_job *j, const zb_watched *w, float *in, float *bias,
                           zb_arena *scratch, zb_err *err) {
    const zb_config *c = j->config;
    int D = c->D, H = c->H, n = w->n, used = 0;
    const float *x = j->calibration->x;
    double *X = ZB_NEW_ARRAY(scratch, double, (size_t)n *D),
           *Y = ZB_NEW_ARRAY(scratch, double, (size_t)n *H);
    double *mx = ZB_NEW_ARRAY(scratch, double, D), *my = ZB_NEW_ARRAY(scratch, double, H);
    for (int i = 0; i < n; i++) {
        if (w->awake[(size_t)i * H] < 0) continue;
        for (int d = 0; d < D; d++) mx[d] += X[(size_t)used * D + d] = (double)x[(size_t)i * D + d];
        for (int h = 0; h < H; h++)
            my[h] += Y[(size_t)used * H + h] =
                inverse_silu(fmax((double)w->awake[(size_t)i * H + h], AWAKE_MIN));
        used++;
    }
    double power = 0;
    for (int i = 0; i < used; i++) {
        for (int d = 0; d < D; d++) {
            X[(size_t)i * D + d] -= mx[d] / used;
            power += X[(size_t)i * D + d] * X[(size_t)i * D + d] / D;
        }
        for (int h = 0; h < H; h++) Y[(size_t)i * H + h] -= my[h] / used;
    }
    double *W = ZB_NEW_ARRAY(scratch, double, (size_t)D *H);
    zb_ridge_args g = {
        .m = used, .n = D, .r = H, .a = X, .b = Y, .ridge = GATE_RIDGE * power, .x = W};
    ZB_TRY(zb_linalg_ridge(&g, scratch, err));
    for (int h = 0; h < H; h++) {
        double b = my[h] / used;
        for (int d = 0; d < D; d++) b -= W[(size_t)d * H + h] * mx[d] / used;
        for (int r = h * c->dh; r < (h + 1) * c->dh; r++) {
            bias[r] = (float)b;
            for (int d = 0; d < D; d++) in[(size_t)r * D + d] = (float)W[(size_t)d * H + h];
        }
    }
    return ZB_OK;
}

/* Keys of kv head g turned by their mean rotation over the group's lags: [dh, D]. */
static void turn_keys(const zb_init_job *j, int g, const double *profile, const double *frequency,
                      float *to) {
    const zb_config *c = j->config;
    int R = c->H / c->G, half = c->dh / 2, D = c->D;
    const float *from = j->k + (size_t)g * c->dh * D;
    for (int i = 0; i < half; i++) {
        double re = 0, im = 0, total = 0;
        for (int h = g * R; h < (g + 1) * R; h++)
            for (int lag = 0; lag <= ZB_LAGS; lag++) {
                double w = profile[(size_t)h * (ZB_LAGS + 1) + lag];
                total += w;
                re += w * cos(lag * frequency[i]);
                im -= w * sin(lag * frequency[i]);
            }
        re /= total;
        im /= total;
        const float *a = from + (size_t)i * D, *b = a + (size_t)half * D;
        for (int d = 0; d < D; d++) {
            to[(size_t)i * D + d] = (float)(re * (double)a[d] - im * (double)b[d]);
            to[(size_t)(i + half) * D + d] = (float)(re * (double)b[d] + im * (double)a[d]);
        }
    }
}

/* Where the parts of in_proj [.., D] and of the convolution's channels stand. */
typedef struct parts {
    float *z, *x, *B, *C, *dt; /* rows of in_proj */
    int64_t di, dx, nx;        /* H·dh, G·dh, channels of x (and of B) */
    float *bias;               /* of the convolution, [x nx | B nx | C di] */
} parts;

static parts parts_of(const zb_init_job *j) {
    const zb_config *c = j->config;
    parts p = {.di = (int64_t)c->H * c->dh, .dx = (int64_t)c->G * c->dh};
    p.nx = c->layer[j->layer].repeat_before_conv ? p.di : p.dx;
    p.z = zb_init_weights(j, "mamba.in_proj.weight");
    p.x = p.z + p.di * c->D;
    p.B = p.x + p.dx * c->D;
    p.C = p.B + p.dx * c->D;
    p.dt = p.C + p.di * c->D;
    p.bias = zb_init_weights(j, "mamba.conv1d.bias");
    return p;
}

/* silu(z_bias) = 1 for every input. */
static void open_gates(const parts *p, int D, float *bias) {
    zb_init_fill(p->z, p->di * D, 0);
    zb_init_fill(bias, p->di, (float)inverse_silu(1));
}

/* x, B, C and the convolution, which passes the current token. */
static void copy_attention(const zb_init_job *j, const parts *p, const double *profile,
                           zb_arena *scratch) {
    const zb_config *c = j->config;
    int64_t channels = zb_mamba2_channels(c, j->layer);
    float *taps = zb_init_weights(j, "mamba.conv1d.weight");
    zb_init_fill(taps, channels * ZB_CONV_K, 0);
    for (int64_t i = 0; i < channels; i++) taps[i * ZB_CONV_K + ZB_CONV_K - 1] = 1;
    zb_init_fill(p->bias, channels, 0);
    memcpy(p->x, j->v, (size_t)(p->dx * c->D) * sizeof(float));
    memcpy(p->C, j->q, (size_t)(p->di * c->D) * sizeof(float));
    double *frequency = ZB_NEW_ARRAY(scratch, double, c->dh / 2 + 1);
    zb_rope_frequencies(&c->rope, c->dh, frequency);
    for (int g = 0; g < c->G; g++)
        turn_keys(j, g, profile, frequency, p->B + (int64_t)g * c->dh * c->D);
}

/* Keys lose their mean over tokens, and the first dimension of each head carries the 1. */
static void add_constant(const zb_init_job *j, const parts *p, zb_arena *scratch) {
    const zb_config *c = j->config;
    int D = c->D, dh = c->dh, n = j->calibration->n;
    double *mean = ZB_NEW_ARRAY(scratch, double, D);
    for (int i = 0; i < n; i++)
        for (int d = 0; d < D; d++) mean[d] += (double)j->calibration->x[(size_t)i * D + d] / n;
    float root = (float)sqrt(sqrt((double)dh)), *in_b = p->bias + p->nx, *in_c = in_b + p->nx;
    for (int64_t r = 0; r < p->nx; r++) { /* row of B that feeds channel r */
        int64_t row = p->nx == p->dx ? r : r / dh / (c->H / c->G) * dh + r % dh;
        double m = 0;
        for (int d = 0; d < D; d++) m += mean[d] * (double)p->B[row * D + d];
        in_b[r] = r % dh ? (float)-m : root;
    }
    for (int64_t h = 0; h < c->H; h++) in_c[h * dh] = root;
    for (int64_t g = 0; g < c->G; g++) zb_init_fill(p->B + g * dh * D, D, 0);
    for (int64_t h = 0; h < c->H; h++) zb_init_fill(p->C + h * dh * D, D, 0);
}

/* dt_bias, A_log and D for the given Δ per head. */
static void write_scan(const zb_init_job *j, const zb_lag_fit *fit, const double *delta) {
    float *dt_bias = zb_init_weights(j, "mamba.dt_bias"), *D = zb_init_weights(j, "mamba.D"),
          *a_log = zb_init_weights(j, "mamba.A_log");
    for (int h = 0; h < j->config->H; h++) {
        dt_bias[h] = (float)(delta[h] + log(-expm1(-delta[h]))); /* inverse of softplus */
        a_log[h] = (float)log(fit[h].decay / delta[h]);
        D[h] = (float)(delta[h] * fit[h].self);
    }
}

static zb_status set_scan(const zb_init_job *j, const double *profile, zb_arena *scratch,
                          zb_err *err) {
    int H = j->config->H;
    zb_lag_fit *fit = zb_alloc_array(scratch, (size_t)H, sizeof *fit);
    double *delta = ZB_NEW_ARRAY(scratch, double, H), *power = ZB_NEW_ARRAY(scratch, double, H);
    for (int h = 0; h < H; h++) {
        fit[h] = zb_lag_fit_of(profile + (size_t)h * (ZB_LAGS + 1));
        if (j->without.decay) fit[h] = (zb_lag_fit){.decay = PLAIN_DECAY};
        fit[h].self *= sqrt((double)j->config->dh); /* the constant of B·C */
        if (j->decay_max > 0) fit[h].decay = fmin(fit[h].decay, j->decay_max);
        delta[h] = DELTA_TRY;
    }
    write_scan(j, fit, delta);
    ZB_TRY(zb_calibration_head_power(j->calibration, zb_init_output(j), j->config->dh, NORM_EPS,
                                     power, err));
    for (int h = 0; h < H; h++) {
        double d = DELTA_TRY * sqrt(NORM_EPS / fmax(power[h], 1e-300));
        delta[h] = fmin(fmax(d, DELTA_MIN), DELTA_MAX);
    }
    write_scan(j, fit, delta);
    return ZB_OK;
}

zb_status zb_mamba2_calibrated(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    const zb_config *c = j->config;
    parts p = parts_of(j);
    zb_watched w;
    ZB_TRY(zb_watch(&w, j, WATCH_TOKENS, scratch, err));
    copy_attention(j, &p, w.profile, scratch);
    if (!j->without.constant) add_constant(j, &p, scratch);
    zb_init_fill(p.dt, (int64_t)c->H * c->D, 0);
    float *z_bias = zb_init_weights(j, "mamba.z_bias");
    if (j->without.gates)
        open_gates(&p, c->D, z_bias);
    else
        ZB_TRY(fit_gates(j, &w, p.z, z_bias, scratch, err));
    zb_init_fill(zb_init_weights(j, "mamba.norm.weight"), p.di, 1);
    ZB_TRY(set_scan(j, w.profile, scratch, err));
    zb_param *out = zb_init_output(j);
    memcpy(out->w, j->o, (size_t)(p.di * c->D) * sizeof(float));
    return zb_fit_mixer(j->calibration, out, &j->fit, err);
}
