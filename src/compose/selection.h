/* selection.h - what `zebra select` found, as its file says it to compose.
 *
 * Either a plan (one candidate per layer), or only the layers that become MLA, or the retrieval
 * heads of layers with a window. */
#ifndef ZB_COMPOSE_SELECTION_H
#define ZB_COMPOSE_SELECTION_H

#include "compose/candidate.h"

typedef struct zb_selection {
    zb_candidate *plan; /* [layers]; NULL: the file has none */
    const char *layers; /* "0,5,11": those that become MLA; NULL: the file has none */
    const char *heads;  /* "8:0,18:2": layer:kv head; NULL: the file has none */
} zb_selection;

/* Of a model with that many layers; a broken or hostile file is refused with the place. */
zb_status zb_selection_read(zb_selection *s, const char *path, int layers, zb_arena *a,
                            zb_err *err);

#endif
