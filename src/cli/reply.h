/* reply.h - what generate and chat share: sampling options, and an answer that streams to stdout.
 *
 * A reply owns its memory; free it. */
#ifndef ZB_CLI_REPLY_H
#define ZB_CLI_REPLY_H

#include "cli/cli.h"

typedef struct zb_cli_sampling {
    double temp, top_p, min_p, repeat_penalty;
    int64_t top_k, repeat_window, seed;
} zb_cli_sampling;

extern const zb_opt zb_cli_sampling_table[];

zb_sampling zb_cli_sampling_settings(const zb_cli_sampling *o);
zb_status zb_cli_sampler(zb_cli *cli, const zb_cli_sampling *o, const zb_engine *e,
                         zb_sampler **out);

/* What goes to stdout while tokens are chosen. Without a tokenizer text means ids. */
typedef enum zb_show { ZB_SHOW_NOTHING, ZB_SHOW_TEXT, ZB_SHOW_IDS } zb_show;

typedef struct zb_reply {
    zb_buf text; /* empty without a tokenizer */
    json_t *ids; /* array */
    zb_generation g;
} zb_reply;

/* zb_generate as `r` says (on_token and user are set here). *out is to be freed whatever the
 * status. */
zb_status zb_cli_reply(zb_cli *cli, zb_session *s, zb_sampler *sampler, zb_generate_request *r,
                       zb_show show, zb_reply *out);
void zb_reply_free(zb_reply *r);

/* "prompt: 12 tokens, 34.5 tokens/s; ...". */
void zb_cli_timings(const zb_generation *g, char out[160]);

#endif
