/* init.c - the table of initialisations, and what they share (contract in init.h). */
#include "compose/init.h"

#include "base/opts.h"
#include "base/rng.h"

#include <string.h>

const zb_init *zb_init_find(const char *name) {
    static const zb_init *const table[] = {&zb_init_paper, &zb_init_calibrated};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (!strcmp(table[i]->name, name)) return table[i];
    return NULL;
}

zb_status zb_init_without_read(const char *list, zb_init_without *out, zb_err *err) {
    const struct {
        const char *name;
        bool *flag;
    } step[] = {{"identity", &out->identity},
                {"constant", &out->constant},
                {"decay", &out->decay},
                {"gates", &out->gates}};
    enum { STEPS = sizeof step / sizeof step[0] };
    zb_arena a = {0};
    zb_status s = ZB_OK;
    int n;
    char **name = zb_list_split(list, &a, &n);
    *out = (zb_init_without){0};
    for (int i = 0; i < n && s == ZB_OK; i++) {
        int k = 0;
        while (k < STEPS && strcmp(step[k].name, name[i]) != 0) k++;
        if (k < STEPS)
            *step[k].flag = true;
        else
            s = zb_fail(err, ZB_ERR_CONFIG,
                        "calibration_without: expected some of " ZB_INIT_STEPS ", found \"%.64s\"",
                        name[i]);
    }
    zb_arena_free(&a);
    return s;
}

zb_param *zb_init_param(const zb_init_job *j, const char *name) {
    char full[128];
    snprintf(full, sizeof full, "model.layers.%d.%s", j->layer, name);
    return zb_params_find(j->params, full);
}

float *zb_init_weights(const zb_init_job *j, const char *name) {
    zb_param *p = zb_init_param(j, name);
    return p ? p->w : NULL;
}

zb_param *zb_init_output(const zb_init_job *j) {
    static const char *const name[] = {"mla.out_proj.weight", "mamba.out_proj.weight",
                                       "linear_attn.o_proj.weight"};
    for (size_t i = 0; i < sizeof name / sizeof name[0]; i++) {
        zb_param *p = zb_init_param(j, name[i]);
        if (p) return p;
    }
    return NULL;
}

void zb_init_fill(float *w, int64_t n, float value) {
    for (int64_t i = 0; i < n; i++) w[i] = value;
}

void zb_init_uniform(const zb_init_job *j, int what, float *w, int64_t n, double bound) {
    uint64_t stream = zb_rng_substream(ZB_RNG_INIT, (uint64_t)j->layer, (uint64_t)what);
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)((2 * zb_rng_uniform(j->seed, stream, (uint64_t)i) - 1) * bound);
}

zb_mla_paper_dims zb_init_mla_dims(const zb_init_job *j) {
    const zb_config *c = j->config;
    const zb_layer_config *m = &c->layer[j->layer];
    return (zb_mla_paper_dims){.hidden = c->D,
                               .heads = c->H,
                               .kv_heads = c->G,
                               .head_dim = c->dh,
                               .q_rank = m->r_q,
                               .kv_rank = m->r_kv,
                               .nope_dim = m->d_nope,
                               .rope_dim = m->d_rope,
                               .v_dim = m->d_v,
                               .full_kv_head = m->full_kv_head};
}

zb_mla_paper_out zb_init_mla_out(const zb_init_job *j) {
    return (zb_mla_paper_out){.q_a = zb_init_weights(j, "mla.q_a_proj.weight"),
                              .q_b = zb_init_weights(j, "mla.q_b_proj.weight"),
                              .q = zb_init_weights(j, "mla.q_proj.weight"),
                              .kv_a = zb_init_weights(j, "mla.kv_a_proj_with_mqa.weight"),
                              .kv_b = zb_init_weights(j, "mla.kv_b_proj.weight"),
                              .out = zb_init_weights(j, "mla.out_proj.weight")};
}
