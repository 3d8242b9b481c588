/* init_paper.c - the published start of MLA and Mamba2 layers (method.md 3; MambaInLlama section
 * 2).
 *
 * MLA: truncated SVDs, see mla_paper.h. Mamba2: x <- V, B <- K, C <- Q, out <- O row by row; z and
 * dt rows and the convolution uniform in ±1/sqrt(fan_in); dt_bias the inverse softplus of a step
 * drawn log-uniformly from [0.001, 0.1] and floored at 1e-4; A_log = ln U(1, 16); D = 1; norm = 1.
 */
#include "base/rng.h"
#include "compose/init.h"
#include "compose/mla_paper.h"

#include <math.h>
#include <string.h>

static zb_param *get(const zb_init_job *j, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s", j->layer, name);
    return zb_params_find(j->params, full);
}

static float *weights(const zb_init_job *j, const char *name) {
    zb_param *p = get(j, name);
    return p ? p->w : NULL;
}

static void fill(float *w, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++) w[i] = value;
}

static zb_status paper_mla(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    const zb_config *c = j->config;
    const zb_layer_config *m = &c->layer[j->layer];
    zb_mla_paper_dims d = {.hidden = c->D,
                           .heads = c->H,
                           .kv_heads = c->G,
                           .head_dim = c->dh,
                           .q_rank = m->r_q,
                           .kv_rank = m->r_kv,
                           .nope_dim = m->d_nope,
                           .rope_dim = m->d_rope,
                           .v_dim = m->d_v,
                           .full_kv_head = m->full_kv_head};
    zb_mla_paper_in in = {j->q, j->k, j->v, j->o};
    zb_mla_paper_out out = {.q_a = weights(j, "mla.q_a_proj.weight"),
                            .q_b = weights(j, "mla.q_b_proj.weight"),
                            .q = weights(j, "mla.q_proj.weight"),
                            .kv_a = weights(j, "mla.kv_a_proj_with_mqa.weight"),
                            .kv_b = weights(j, "mla.kv_b_proj.weight"),
                            .out = weights(j, "mla.out_proj.weight")};
    if (m->lora_norm) {
        if (m->r_q) fill(weights(j, "mla.q_a_layernorm.weight"), m->r_q, 1);
        fill(weights(j, "mla.kv_a_layernorm.weight"), m->r_kv, 1);
    }
    return zb_mla_paper_init(&d, &in, &out, scratch, err);
}

/* n values uniform in ±bound, from a stream of their own. */
static void uniform(const zb_init_job *j, int what, float *w, int64_t n, double bound) {
    uint64_t stream = zb_rng_substream(ZB_RNG_INIT, (uint64_t)j->layer, (uint64_t)what);
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)((2 * zb_rng_uniform(j->seed, stream, (uint64_t)i) - 1) * bound);
}

static zb_status paper_mamba2(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    (void)scratch;
    (void)err;
    const zb_config *c = j->config;
    int64_t di = (int64_t)c->H * c->dh, dx = (int64_t)c->G * c->dh, D = c->D;
    float *in = weights(j, "mamba.in_proj.weight"); /* rows z, x, B, C, dt */
    uniform(j, 0, in, di * D, 1 / sqrt((double)D));
    memcpy(in + di * D, j->v, (size_t)(dx * D) * sizeof(float));
    memcpy(in + (di + dx) * D, j->k, (size_t)(dx * D) * sizeof(float));
    memcpy(in + (di + 2 * dx) * D, j->q, (size_t)(di * D) * sizeof(float));
    uniform(j, 1, in + (2 * di + 2 * dx) * D, c->H * D, 1 / sqrt((double)D));
    memcpy(weights(j, "mamba.out_proj.weight"), j->o, (size_t)(di * D) * sizeof(float));
    int64_t channels = zb_mamba2_channels(c, j->layer);
    uniform(j, 2, weights(j, "mamba.conv1d.weight"), channels * ZB_CONV_K,
            1 / sqrt((double)ZB_CONV_K));
    uniform(j, 3, weights(j, "mamba.conv1d.bias"), channels, 1 / sqrt((double)ZB_CONV_K));
    float *bias = weights(j, "mamba.dt_bias"), *a_log = weights(j, "mamba.A_log");
    for (int h = 0; h < c->H; h++) {
        double u = zb_rng_uniform(j->seed, zb_rng_substream(ZB_RNG_INIT, (uint64_t)j->layer, 4),
                                  (uint64_t)h);
        double dt = fmax(exp(log(0.001) + u * (log(0.1) - log(0.001))), 1e-4);
        bias[h] = (float)(dt + log(-expm1(-dt)));
        a_log[h] = (float)log(
            1 + 15 * zb_rng_uniform(j->seed, zb_rng_substream(ZB_RNG_INIT, (uint64_t)j->layer, 5),
                                    (uint64_t)h));
    }
    fill(weights(j, "mamba.D"), c->H, 1);
    fill(weights(j, "mamba.norm.weight"), di, 1);
    return ZB_OK;
}

const zb_init *zb_init_find(const char *name) {
    static const zb_init table[] = {{"paper", paper_mla, paper_mamba2}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (!strcmp(table[i].name, name)) return &table[i];
    return NULL;
}
