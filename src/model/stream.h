/* stream.h - linear maps of few tokens: a stream over the weights as they are stored; private to
 * src/model.
 *
 * Where few tokens meet a matrix the product takes as long as its bytes take from memory, so the
 * weights are read once, packed, for all tokens and by all threads in one parallel region. */
#ifndef ZB_MODEL_STREAM_H
#define ZB_MODEL_STREAM_H

#include "model/mixer.h"

/* Whether n tokens are few for this matrix at the run's precision. */
bool zb_stream_wants(const zb_run *run, const zb_param *w, int n);

/* Like zb_linear_many; every map must be wanted. Takes scratch from the run's arena and gives it
 * back. */
void zb_stream_maps(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x, int n);

#endif
