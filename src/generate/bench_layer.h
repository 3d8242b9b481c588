/* bench_layer.h - speed of the two forms of the Mamba2 layer, and of attention over a cache, at the
 * sizes of known models.
 *
 * One layer's mixer (projections, convolution, scan, gate and norm) with random f32 weights over
 * one sequence. Three ways: one pass with the chunked scan, one pass with the step scan, and one
 * pass per token on a state, as decoding does. The scans are also timed alone. Owns nothing after
 * the call. */
#ifndef ZB_GENERATE_BENCH_LAYER_H
#define ZB_GENERATE_BENCH_LAYER_H

#include "base/err.h"

typedef struct zb_bench_layer {
    const char *name; /* given: "135M", "1B"; see zb_bench_layer_sizes */
    int D, H, G, dh;  /* given */
    int tokens, runs; /* given: length of the sequence; best of `runs` */
    double chunked;   /* seconds of one pass, chunked scan */
    double steps;     /* seconds of one pass, step scan */
    double decode;    /* seconds of `tokens` passes of one token */
    double backward;  /* seconds of the backward pass of `tokens` tokens */
    double scan[3];   /* seconds inside the scan alone: chunked, steps, backward; one thread */
} zb_bench_layer;

/* One token's attention over a cache, all heads, all threads: the products of a decoded token that
 * grow with the context, without the layer's matrices. */
typedef struct zb_bench_attend {
    const char *name;   /* given, see zb_bench_attend_sizes */
    int heads, groups;  /* given: query heads; key/value heads (absorbed MLA: 1) */
    int dk, dv, tail;   /* given: tail > 0: absorbed MLA, values are the first dv of the keys */
    int depth, runs;    /* given: keys; best of `runs` */
    const char *cache;  /* given: "f32", "bf16", "f16" or "q8_0" */
    double seconds;     /* of one token */
    double flop, bytes; /* of its products; of the cache that it reads */
} zb_bench_attend;

/* Attention of SmolLM2-135M and Llama-3.2-1B, absorbed MLA of their hybrids of 4 % and of Zebra 8B;
 * returns how many there are. */
int zb_bench_attend_sizes(zb_bench_attend *out, int cap);
zb_status zb_bench_attend_run(zb_bench_attend *b, zb_err *err);

/* SmolLM2-135M and Llama-3.2-1B; returns how many there are. */
int zb_bench_layer_sizes(zb_bench_layer *out, int cap);

zb_status zb_bench_layer_run(zb_bench_layer *b, zb_err *err);

#endif
