/* fit.h - a mixer of the entered layer fitted to the teacher's output, on calibration text.
 *
 * First the output map alone, in closed form. Then what no closed form reaches together (values,
 * keys, queries, taps, steps, decays, gates) moves by descent on the layer's own weighted squared
 * error, a few rows of text at a time; last the output map once more. Works for every mixer kind:
 * its own forward and backward. An eighth of a text of some thousand tokens is held out from the
 * descent, which ends with the weights of the pass whose error there was least. */
#ifndef ZB_COMPOSE_FIT_H
#define ZB_COMPOSE_FIT_H

#include "compose/calibrate.h"

typedef struct zb_fit_opts {
    int64_t passes; /* of descent over the calibration's tokens; 0: closed form alone */
    double rate;    /* first step of a weight, as a share of its tensor's root mean square */
    double ridge;   /* of the output map; 0: chosen */
    int block;      /* columns of `out` scaled together in the first solution (heads); 0: none */
    zb_precision precision; /* of descent's products; the solutions are of f32 in any case */
} zb_fit_opts;

/* `out`: the mixer's output map; its present weights are what the first solution is drawn to. */
zb_status zb_fit_mixer(zb_calibration *c, zb_param *out, const zb_fit_opts *o, zb_err *err);

#endif
