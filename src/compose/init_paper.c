/* init_paper.c - the published start of MLA and Mamba2 layers (method.md 3; MambaInLlama section
 * 2).
 *
 * MLA: truncated SVDs, see mla_paper.h. Mamba2: x <- V, B <- K, C <- Q, out <- O row by row; z and
 * dt rows and the convolution uniform in ±1/sqrt(fan_in); dt_bias the inverse softplus of a step
 * drawn log-uniformly from [0.001, 0.1] and floored at 1e-4; A_log = ln U(1, 16); D = 1; norm = 1.
 */
#include "base/rng.h"
#include "compose/init.h"

#include <math.h>
#include <string.h>

static zb_status paper_mla(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    const zb_layer_config *m = &j->config->layer[j->layer];
    zb_mla_paper_dims d = zb_init_mla_dims(j);
    zb_mla_paper_in in = {j->q, j->k, j->v, j->o};
    zb_mla_paper_out out = zb_init_mla_out(j);
    if (m->lora_norm) {
        if (m->r_q) zb_init_fill(zb_init_weights(j, "mla.q_a_layernorm.weight"), m->r_q, 1);
        zb_init_fill(zb_init_weights(j, "mla.kv_a_layernorm.weight"), m->r_kv, 1);
    }
    return zb_mla_paper_init(&d, &in, &out, scratch, err);
}

static zb_status paper_mamba2(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    (void)scratch;
    (void)err;
    const zb_config *c = j->config;
    int64_t di = (int64_t)c->H * c->dh, dx = (int64_t)c->G * c->dh, D = c->D;
    float *in = zb_init_weights(j, "mamba.in_proj.weight"); /* rows z, x, B, C, dt */
    zb_init_uniform(j, 0, in, di * D, 1 / sqrt((double)D));
    memcpy(in + di * D, j->v, (size_t)(dx * D) * sizeof(float));
    memcpy(in + (di + dx) * D, j->k, (size_t)(dx * D) * sizeof(float));
    memcpy(in + (di + 2 * dx) * D, j->q, (size_t)(di * D) * sizeof(float));
    zb_init_uniform(j, 1, in + (2 * di + 2 * dx) * D, c->H * D, 1 / sqrt((double)D));
    memcpy(zb_init_weights(j, "mamba.out_proj.weight"), j->o, (size_t)(di * D) * sizeof(float));
    int64_t channels = zb_mamba2_channels(c, j->layer);
    zb_init_uniform(j, 2, zb_init_weights(j, "mamba.conv1d.weight"), channels * ZB_CONV_K,
                    1 / sqrt((double)ZB_CONV_K));
    zb_init_uniform(j, 3, zb_init_weights(j, "mamba.conv1d.bias"), channels,
                    1 / sqrt((double)ZB_CONV_K));
    float *bias = zb_init_weights(j, "mamba.dt_bias"), *a_log = zb_init_weights(j, "mamba.A_log");
    for (int h = 0; h < c->H; h++) {
        double u = zb_rng_uniform(j->seed, zb_rng_substream(ZB_RNG_INIT, (uint64_t)j->layer, 4),
                                  (uint64_t)h);
        double dt = fmax(exp(log(0.001) + u * (log(0.1) - log(0.001))), 1e-4);
        bias[h] = (float)(dt + log(-expm1(-dt)));
        a_log[h] = (float)log(
            1 + 15 * zb_rng_uniform(j->seed, zb_rng_substream(ZB_RNG_INIT, (uint64_t)j->layer, 5),
                                    (uint64_t)h));
    }
    zb_init_fill(zb_init_weights(j, "mamba.D"), c->H, 1);
    zb_init_fill(zb_init_weights(j, "mamba.norm.weight"), di, 1);
    return ZB_OK;
}

const zb_init zb_init_paper = {"paper", false, paper_mla, paper_mamba2, zb_deltanet_paper};
