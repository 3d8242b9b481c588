/* bench.h - speed of prompts and of generation, as a share of what the machine can do.
 *
 * A case is `prompt` tokens in pieces, then `tokens` steps of one token for `batch` sequences
 * side by side (zb_step), all behind `depth` other tokens; either count may be 0. Tokenising and
 * sampling are left out. A zb_bench holds the state of the greatest depth so far, so that cases of
 * ascending depth compute their context once, and copies of it are what is measured. Never measure
 * beside other work: two programs that spin on barriers slow each other many times over. */
#ifndef ZB_GENERATE_BENCH_H
#define ZB_GENERATE_BENCH_H

#include "generate/engine.h"

typedef struct zb_bench_machine {
    int threads;
    const char *kernels; /* instruction set of our kernels */
    double read_rate;    /* bytes/s, all threads reading a buffer larger than the caches */
    double f32_rate;     /* flop/s of the largest f32 product (a multiply and an add are two) */
    double bf16_rate;    /* the same in bf16; 0 where the processor has none */
    double int8_rate;    /* the same in 8-bit integers: Q4_0 weights times tokens of 8 bits */
} zb_bench_machine;

/* Best of several runs; takes about two seconds. Uses the caller's number of OpenMP threads. */
zb_status zb_bench_machine_measure(zb_bench_machine *m, zb_err *err);

typedef struct zb_bench_case {
    int prompt, tokens, depth; /* given */
    int batch;                 /* given; 0 is 1 */
    int runs;
    double mean, sd; /* tokens/s of all sequences over the runs; sd with n - 1, 0 for one run */
    /* Bytes moved per decoded token: all weights (of an untied embedding one row) divided by the
     * batch, cache rows of the average context, states read and written. */
    double weight_bytes, cache_bytes, state_bytes;
    double
        share; /* time the machine's limits allow / time taken: products at the rate of the
                  largest one, decoding at the read rate or, where that is slower, its products */
} zb_bench_case;

typedef struct zb_bench_opts {
    int runs;         /* counted, after a shorter one that is not */
    bool random_fill; /* contexts of random values instead of computed ones: same speed, no wait */
} zb_bench_opts;

typedef struct zb_bench zb_bench;

/* The machine's figures are copied, the engine is borrowed. */
zb_status zb_bench_new(zb_bench **out, zb_engine *e, const zb_bench_machine *m,
                       const zb_bench_opts *o, zb_err *err);
void zb_bench_free(zb_bench *b); /* NULL is legal */

/* Fills in the measured part of the case. ZB_ERR_CONFIG beyond the engine's context, ZB_ERR_MEMORY
 * where the states of all sequences exceed the machine's memory. */
zb_status zb_bench_run(zb_bench *b, zb_bench_case *c, zb_err *err);

/* Most sequences of `tokens` tokens whose caches and states fit into `budget` bytes beside the
 * weights; 0: not one. */
int64_t zb_bench_batch(const zb_engine *e, uint64_t budget, int tokens);

#endif
