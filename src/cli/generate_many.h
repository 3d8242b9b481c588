/* generate_many.h - answers to a file of prompts, several at a time (`generate --prompts`). */
#ifndef ZB_CLI_GENERATE_MANY_H
#define ZB_CLI_GENERATE_MANY_H

#include "cli/reply.h"

typedef struct zb_many {
    const char *path; /* JSON Lines, .gz included */
    int parallel, tokens;
    bool ignore_end;
    const zb_cli_sampling *sampling; /* the seed of prompt i is seed + i */
} zb_many;

/* One JSON object per prompt on stdout, in the order of the file. All lines are read and checked
 * before the first is answered. */
zb_status zb_generate_many(zb_cli *cli, const zb_many *m, zb_engine *e);

#endif
