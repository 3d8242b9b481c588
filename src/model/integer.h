/* integer.h - linear maps of many tokens in 8-bit integers; private to src/model.
 *
 * Where many tokens meet a quantised matrix the product is bound by arithmetic, and processors
 * multiply small integers two to four times as fast as floats. The weights stay as they are stored;
 * a tile of rows at a time is rearranged on the stack of the thread that multiplies it. Types that
 * have no stream in 8 bits (Q5_0, Q5_1) come here with one token, too. */
#ifndef ZB_MODEL_INTEGER_H
#define ZB_MODEL_INTEGER_H

#include "model/mixer.h"

/* Whether this matrix is multiplied with n tokens in integers at the precision of the run. */
bool zb_integer_wants(const zb_run *run, const zb_param *w, int n);

/* Like zb_linear_many; every map must be wanted. Takes scratch from the run's arena and gives it
 * back. */
void zb_integer_maps(zb_run *run, const zb_linear_map *maps, int n_maps, const float *x, int n);

#endif
