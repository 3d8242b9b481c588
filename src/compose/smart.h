/* smart.h - which layers stay MLA: SMART's choice and the uniform one.
 *
 * Pure functions on a table of sensitivities (Zebra-Llama, arXiv 2505.17272, section on SMART):
 * how much the divergence from the teacher falls when this layer alone becomes MLA. Layers are
 * numbered from 0, choices are ascending. */
#ifndef ZB_COMPOSE_SMART_H
#define ZB_COMPOSE_SMART_H

#include "base/arena.h"
#include "base/err.h"

/* layers[count] out of sensitivity[total]:
 * (a) the first is the most sensitive of the first ⌊total/count⌋ layers, the last that of the
 * last ⌊total/count⌋;
 * (b) the number of other layers between neighbours lies between ⌊g⌋ and ⌈g⌉, g = (last - first -
 * count + 1) / (count - 1);
 * (c) of all such choices the one with the largest sum. Of equal layers or sums the earlier wins,
 * so the answer is unique. Such a choice always exists (smart.c says why). count = 1: the most
 * sensitive of all; count = 0: none; count = total: all. Errors: ZB_ERR_CONFIG for a count
 * outside 0..total, ZB_ERR_FORMAT for a sensitivity that is not finite. */
zb_status zb_smart_select(const double *sensitivity, int total, int count, int *layers,
                          zb_arena *arena, zb_err *err);

/* layers[i] = ⌊i (total - 1) / (count - 1)⌋, from the first layer to the last; count = 1: the
 * middle one. */
zb_status zb_smart_uniform(int total, int count, int *layers, zb_err *err);

#endif
