/* rope.h - rotary embedding: frequencies of every supported scaling, and tables of cos and sin. */
#ifndef ZB_MODEL_ROPE_H
#define ZB_MODEL_ROPE_H

#include "base/arena.h"
#include "model/config.h"
#include "model/mixer.h"

/* YaRN's m(s) = 0.1·s·ln(factor)+1 (rope.c); 1 where the factor does not stretch. */
double zb_yarn_m(double factor, double s);

/* dim/2 angles per position for heads of `dim` values, in f64; returns the factor on cos and sin
 * (YaRN: 0.1·ln(factor)+1). */
double zb_rope_frequencies(const zb_rope *r, int dim, double *out);

/* Grows the table to at least `rows` positions (doubling); memory from the arena. */
void zb_rope_reserve(zb_rope_table *t, const zb_rope *r, int dim, int rows, zb_arena *a);

/* The position of every token of the run's batch [n]; from the run's arena. */
const int *zb_rope_positions(const zb_run *run);

/* Turns every head of rows x [n, heads·dh] of the batch by its token's position, in the half layout
 * (back when inverse). */
void zb_rope_turn(zb_run *run, float *x, int heads, bool inverse);

/* Softmax scale of an MLA layer: (d_nope+d_rope)^-1/2, times mscale² where YaRN's mscale_all_dim is
 * set. */
double zb_mla_scale(const zb_rope *r, int d_nope, int d_rope);

#endif
