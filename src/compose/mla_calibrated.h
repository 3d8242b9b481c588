/* mla_calibrated.h - an MLA layer from attention and the second moment of its inputs.
 *
 * A function on matrices, as mla_paper.h. The fastest d_rope/2 rotary pairs of the teacher keep
 * their rotation, through one shared key each; the slower ones take their mean rotation over short
 * lags; what remains of the keys, and the values, share r_kv latents chosen in the metric of
 * inputs, queries and output map. The student's rotary base must give its pairs the teacher's
 * fastest frequencies: theta^(d_rope/dh). Weights are f32, row-major [out, in], buffers the
 * caller's; f64 inside, in the arena, popped before return. */
#ifndef ZB_COMPOSE_MLA_CALIBRATED_H
#define ZB_COMPOSE_MLA_CALIBRATED_H

#include "compose/mla_paper.h"

typedef struct zb_mla_calibrated_in {
    zb_mla_paper_in weights;
    const double *moment;    /* [D, D] mean of x xᵀ over calibration tokens */
    const double *frequency; /* [dh/2] angle per token of the teacher's pairs, fastest first */
    double scale;            /* softmax scale of the student's layer */
    double key_weight;       /* of keys against values in the shared decomposition */
} zb_mla_calibrated_in;

/* ZB_ERR_CONFIG for dimensions that do not fit (d_nope + d_rope >= dh, d_nope <= dh, even d_rope);
 * asked by zb_mla_calibrated_init, too. */
zb_status zb_mla_calibrated_check(const zb_mla_paper_dims *d, zb_err *err);

/* ZB_ERR_CONFIG for dimensions that do not fit, ZB_ERR_FORMAT for numbers that are not finite.
 * *lost (may be NULL): the share of the weighted energy of unrotated keys and values that the
 * latents do not carry. */
zb_status zb_mla_calibrated_init(const zb_mla_paper_dims *d, const zb_mla_calibrated_in *in,
                                 const zb_mla_paper_out *out, double *lost, zb_arena *arena,
                                 zb_err *err);

#endif
