/* sampling.c - the sampling options of generate and chat (contract in sampling.h). */
#include "cli/sampling.h"

#include "base/log.h"

#define ROW(type, name, letter, field, def, lo, hi, help) {type, name, letter, offsetof(zb_cli_sampling, field), def, lo, hi, NULL, help}

const zb_opt zb_cli_sampling_table[] = {
    ROW(ZB_OPT_F64, "temp", 'T', temp, "0.8", 0, 100, "temperature; 0: always the most probable token"),
    ROW(ZB_OPT_INT, "top_k", 'k', top_k, "40", 0, 1e9, "only the k most probable tokens; 0: all"),
    ROW(ZB_OPT_F64, "top_p", 0, top_p, "0.95", 0, 1, "only the fewest tokens that reach this probability; 1: all"),
    ROW(ZB_OPT_F64, "min_p", 0, min_p, "0.05", 0, 1, "only tokens at least this fraction as probable as the best; 0: all"),
    ROW(ZB_OPT_F64, "repeat_penalty", 0, repeat_penalty, "1", 0, 100, "weakens tokens that have just occurred; 1: none"),
    ROW(ZB_OPT_INT, "repeat_window", 0, repeat_window, "64", -1, 1e9, "recent tokens it looks at; -1: all"),
    ROW(ZB_OPT_INT, "seed", 's', seed, "0", 0, 9e15, "the same seed gives the same text"),
    {0},
};

zb_status zb_cli_sampler(zb_cli *cli, const zb_cli_sampling *o, const zb_engine *e, zb_sampler **out) {
    zb_sampling s = {.temperature = o->temp, .top_k = (int)o->top_k, .top_p = o->top_p, .min_p = o->min_p,
                     .repeat_penalty = o->repeat_penalty, .repeat_window = (int)o->repeat_window, .seed = (uint64_t)o->seed};
    if (o->repeat_window == 0) s.repeat_penalty = 0; /* a window of nothing; the library's 0 means its default */
    return zb_sampler_new(out, &s, zb_engine_vocab(e), &cli->err);
}

static double rate(int tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

void zb_cli_timings(const zb_generation *g) {
    zb_info("prompt: %d tokens (%d computed), %.1f tokens/s; generated: %d tokens, %.1f tokens/s", g->prompt_tokens, g->computed,
            rate(g->computed, g->prompt_seconds), g->tokens, rate(g->steps, g->seconds));
}
