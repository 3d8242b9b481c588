/* init_calibrated.c - starts that look at data as well as weights: the row of the table, and MLA.
 *
 * MLA: see mla_calibrated.h; then it is fitted to the teacher's mixer output (fit.h). Mamba2: see
 * mamba2_calibrated.c. */
#include "compose/init.h"
#include "compose/mla_calibrated.h"
#include "model/rope.h"

#include "base/log.h"

static zb_status calibrated_mla(const zb_init_job *j, zb_arena *scratch, zb_err *err) {
    const zb_config *c = j->config;
    zb_mark mark = zb_arena_mark(scratch);
    zb_mla_paper_dims d = zb_init_mla_dims(j);
    double *moment = ZB_NEW_ARRAY(scratch, double, (size_t)c->D * c->D),
           *frequency = ZB_NEW_ARRAY(scratch, double, c->dh / 2 + 1);
    zb_calibration_moment(j->calibration, j->calibration->x, moment, scratch);
    zb_rope_frequencies(&c->rope, c->dh, frequency);
    zb_mla_calibrated_in in = {.weights = {j->q, j->k, j->v, j->o},
                               .moment = moment,
                               .frequency = frequency,
                               .scale = zb_mla_scale(&c->mla_rope, d.nope_dim, d.rope_dim),
                               .key_weight = j->key_weight};
    zb_mla_paper_out out = zb_init_mla_out(j);
    double lost = 0;
    zb_status s = zb_mla_calibrated_init(&d, &in, &out, &lost, scratch, err);
    zb_arena_pop(scratch, mark);
    if (s != ZB_OK) return s;
    zb_debug("compose: layer %d: latents lose %.4f", j->layer, lost);
    return zb_fit_mixer(j->calibration, zb_init_output(j), &j->fit, err);
}

const zb_init zb_init_calibrated = {"calibrated", true, calibrated_mla, zb_mamba2_calibrated,
                                    zb_deltanet_calibrated};
