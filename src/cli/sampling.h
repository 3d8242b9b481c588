/* sampling.h - the sampling options of generate and chat. */
#ifndef ZB_CLI_SAMPLING_H
#define ZB_CLI_SAMPLING_H

#include "cli/cli.h"

typedef struct zb_cli_sampling {
    double temp, top_p, min_p, repeat_penalty;
    int64_t top_k, repeat_window, seed;
} zb_cli_sampling;

extern const zb_opt zb_cli_sampling_table[];

zb_status zb_cli_sampler(zb_cli *cli, const zb_cli_sampling *o, const zb_engine *e, zb_sampler **out);

/* "name: 12 tokens, 34.5 tokens/s" of prompt and answer as a note. */
void zb_cli_timings(const zb_generation *g);

#endif
