/* bench.h - the speed of training: steps of the real stages on random tokens (`zebra bench
 * --train`). Nothing is written. */
#ifndef ZB_TRAIN_BENCH_H
#define ZB_TRAIN_BENCH_H

#include "train/stage.h"

typedef struct zb_train_bench {
    const char *train;             /* none | distill | align */
    const char *teacher, *student; /* align: students, comma-separated */
    const char *trainable;         /* align: mixer | layer */
    int64_t rows, micro_rows, length, steps;
    bool recompute;
    const char *teacher_precision;
    const char *memory_limit;
} zb_train_bench;

extern const zb_opt zb_train_bench_table[];

/* `precision` as in the stages; `peak`: operations per second of the machine (0: unknown). *out is
 * {"train","tokens_per_second","seconds","times",...}. */
zb_status zb_train_bench_run(const zb_train_bench *b, const char *precision, double peak,
                             json_t **out, zb_err *err);

#endif
