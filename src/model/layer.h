/* layer.h - one decoder layer: norm, mixer, norm, MLP, with residuals; forward and backward.
 *
 *   m = mixer(rmsnorm(x)),  x' = x + m,  y = x' + down(silu(gate u)·(up u)),  u = rmsnorm(x')
 *
 * The layers of a model and the layer-wise stages (alignment, layer choice) use these same two
 * functions. */
#ifndef ZB_MODEL_LAYER_H
#define ZB_MODEL_LAYER_H

#include "model/mixer.h"

typedef struct zb_layer_tape zb_layer_tape;

/* y [N, D] from x [N, D] (y == x is allowed without a tape). mix (may be NULL) receives the mixer's
 * output. With `tape` everything backward needs stays in the run's arena, x included by reference.
 * Without an MLP pass (y NULL) only mix is computed. */
void zb_layer_forward(zb_run *run, int layer, const float *x, float *y, float *mix,
                      zb_layer_tape **tape);

/* The second half alone, for a mixer output m that comes from elsewhere: y from x and m. */
void zb_layer_finish(zb_run *run, int layer, const float *x, const float *m, float *y);

/* dy [N, D]: gradient of y (NULL: none); dmix: further gradient of the mixer's output (NULL: none).
 * dx [N, D] is assigned (NULL: not wanted); parameter gradients accumulate where parameters have
 * them. */
void zb_layer_backward(zb_run *run, int layer, const float *dy, const float *dmix, float *dx,
                       zb_layer_tape *tape);

/* With an MLP pass. `aligned`: mix is given, the way back has dmix and no dx (alignment); else as
 * whole models pass. *alone: a pass without a tape. */
zb_room zb_layer_room(const zb_config *c, int layer, const zb_load *load, bool aligned,
                      size_t *alone);

#endif
