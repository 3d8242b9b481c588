/* watch.h - what the heads of a teacher's attention layer do with their attention.
 *
 * Statistics for starts that replace attention: how much falls on which lag, and how much finds
 * nothing and falls on the first token. From the calibration's own tokens; memory in the caller's
 * arena. */
#ifndef ZB_COMPOSE_WATCH_H
#define ZB_COMPOSE_WATCH_H

#include "compose/init.h"

enum { ZB_LAGS = 64 };

typedef struct zb_watched {
    double *profile; /* [H, ZB_LAGS+1] mean attention by lag, without token 0 */
    int n;           /* tokens watched: the first of the calibration */
    float *awake;    /* [n, H] share of attention that does not go to token 0; -1: unknown */
} zb_watched;

/* The first tokens_max calibration tokens or so. ZB_ERR_CONFIG where no row holds more than
 * ZB_LAGS + 1 tokens of one document. */
zb_status zb_watch(zb_watched *w, const zb_init_job *j, int tokens_max, zb_arena *a, zb_err *err);

/* log(mean attention) ≈ level - decay·lag over lags 1 .. ZB_LAGS of one head's profile, weights
 * 1/lag; self: attention at lag 0 beyond e^level, as a multiple of it. */
typedef struct zb_lag_fit {
    double decay, self;
} zb_lag_fit;
zb_lag_fit zb_lag_fit_of(const double *profile);

#endif
