/* batcher.h - many generations at once: continuous batching over one engine.
 *
 * Requests wait in order of arrival; up to `slots` of them run together, each in a session of its
 * own. A round is one zb_step: every running answer gets its next token, and what is left of
 * ZB_CHUNK tokens goes to prompts that are not computed yet, the oldest first. An answer that ends
 * frees its slot for the next in line. In a deterministic engine answers do not depend on the
 * company. The batcher owns its sessions and samplers and copies prompts; one thread. */
#ifndef ZB_GENERATE_BATCHER_H
#define ZB_GENERATE_BATCHER_H

#include "generate/session.h"

enum { ZB_BATCHER_SLOTS = 4096 }; /* most sequences at once */

typedef struct zb_batcher zb_batcher;

typedef struct zb_batch_request {
    const int32_t *prompt; /* [n], copied; n >= 1 */
    int n;
    int max;         /* most tokens to choose; negative: as many as the context holds */
    bool ignore_end; /* as in zb_generate_request */
    zb_sampling sampling;
    /* Each chosen token; false ends the answer (ZB_FINISH_CALLER). NULL: none. */
    bool (*on_token)(void *user, int32_t id);
    /* The end of this answer; seconds count from the request's first round. NULL: none. */
    void (*on_end)(void *user, const zb_generation *g);
    void *user;
} zb_batch_request;

/* slots: 1 or more. */
zb_status zb_batcher_new(zb_batcher **out, zb_engine *e, int slots, zb_err *err);
void zb_batcher_free(zb_batcher *b); /* unfinished requests end without a call; NULL is legal */

/* Refuses prompts that no session could hold. */
zb_status zb_batcher_add(zb_batcher *b, const zb_batch_request *r, zb_err *err);

/* One round; *left receives how many requests are running or waiting. After an error the batcher
 * can only be freed. */
zb_status zb_batcher_round(zb_batcher *b, int *left, zb_err *err);

#endif
