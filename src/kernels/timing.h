/* timing.h - the speed of each kernel beside what one core can do.
 *
 * Measures the table in use (ZB_CPU chooses it) on one thread: first the two ceilings of the core,
 * then each kernel at sizes that attention, scans, decoding and losses of small models have. Needs
 * 150 MB and under a minute; let nothing else run beside it. */
#ifndef ZB_KERNELS_TIMING_H
#define ZB_KERNELS_TIMING_H

typedef struct zb_kernel_timing {
    char kernel[24]; /* "gemm", "gemv q8_0", "softmax"; the ceilings: "multiply-add", "read" */
    char size[40];   /* "64 x 512 x 64" */
    double rate;     /* flop/s (gemm, multiply-add), else bytes/s of what is read and written */
    double share;    /* of multiply-add (gemm) or read (gemv); 0: a kernel that works in the caches,
                        where neither is the limit */
    const char *unit; /* "flop/s" or "B/s" */
    double ns;        /* per element (rows) or per call (gemm, gemv) */
} zb_kernel_timing;

/* Calls `row` once per measurement, ceilings first; soon ends where the user interrupts. */
typedef void (*zb_kernel_timing_fn)(void *ctx, const zb_kernel_timing *t);
void zb_kernels_time(zb_kernel_timing_fn row, void *ctx);

#endif
