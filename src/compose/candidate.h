/* candidate.h - what may stand in a layer, as a user writes it.
 *
 *   attention                   the teacher's own layer
 *   mla:51+24                   latent size + rotary size
 *   mamba2                      any kind without sizes of its own
 *   sliding_window:96+4         window + sinks (any kind with a window; sinks may be left out)
 *   KIND=FOLDER                 the layer of a model that has this kind there, norms and MLP with
 * it zero, linear                no mixer at all, the best linear map of each token alone: what the
 *                               others must beat. Measured, but no part of a plan.
 *
 * The same words stand in tables of measurements and in plans, and compose reads them. */
#ifndef ZB_COMPOSE_CANDIDATE_H
#define ZB_COMPOSE_CANDIDATE_H

#include "base/arena.h"
#include "model/config.h"

typedef struct zb_candidate {
    const char *name; /* as written */
    const char *from; /* folder of a donor; NULL: made from the teacher */
    enum zb_candidate_what { ZB_CANDIDATE_KIND, ZB_CANDIDATE_ZERO, ZB_CANDIDATE_LINEAR } what;
    zb_kind kind;
    int size, more; /* kv rank and rotary size; window and sinks; 0 and -1: not given */
} zb_candidate;

/* `where` starts messages. The text is copied. */
zb_status zb_candidate_parse(zb_candidate *c, const char *text, const char *where, zb_arena *a,
                             zb_err *err);

/* Comma-separated, at least one, no two alike. */
zb_status zb_candidates_parse(zb_candidate *list, int max, int *n, const char *text,
                              const char *where, zb_arena *a, zb_err *err);

#endif
