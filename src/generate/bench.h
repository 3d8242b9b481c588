/* bench.h - speed of prompts and of generation, as a share of what the machine can do.
 *
 * Prefill (pp): one prompt of `tokens` random ids behind `depth` others, logits of the last. Decode
 * (tg): `tokens` steps of one token behind `depth` others, from an empty session where depth is 0.
 * Tokenising and sampling are left out. One run is not counted (warm-up). Never measure beside
 * other work: two programs that spin on barriers slow each other many times over. */
#ifndef ZB_GENERATE_BENCH_H
#define ZB_GENERATE_BENCH_H

#include "generate/engine.h"

typedef struct zb_bench_machine {
    int threads;
    const char *kernels; /* instruction set of our kernels */
    double read_rate;    /* bytes/s, all threads reading a buffer larger than the caches */
    double f32_rate;     /* flop/s of the largest f32 product (a multiply and an add are two) */
    double bf16_rate;    /* the same in bf16; 0 where the processor has none */
} zb_bench_machine;

/* Best of several runs; takes about two seconds. Uses the caller's number of OpenMP threads. */
zb_status zb_bench_machine_measure(zb_bench_machine *m, zb_err *err);

typedef struct zb_bench_case {
    bool decode;
    int tokens, depth; /* given */
    int runs;
    double mean, sd; /* tokens/s over the runs; sd with n - 1, 0 for one run */
    double work; /* per token: flop of the weights' products (prefill), bytes of weights, caches and
                    states moved (decode) */
    double share; /* work · mean / the machine's rate */
} zb_bench_case;

zb_status zb_bench_run(zb_engine *e, const zb_bench_machine *m, int runs, zb_bench_case *c,
                       zb_err *err);

#endif
