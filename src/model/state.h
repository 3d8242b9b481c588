/* state.h - what a sequence remembers.
 *
 * One zb_state holds the memory of every layer for one sequence: keys and values (attention),
 * latents and rotated keys (MLA), convolution tail and SSM matrix (Mamba2). It is one block of
 * zb_state_size() bytes without pointers, so a snapshot is a copy and saving is a write. The
 * parts of a fixed size come first: recurrent ones in f32, then the rings of windowed layers. The
 * caches follow, rows in the config's cache type, one per token and plane. A plane is what one kv
 * head reads of a layer: attention has 2·G (the keys of each head, then the values of each), MLA
 * two (the latents, the shared rotary keys), a layer with a window those of its retrieval heads. A
 * ring is a plane of sinks + window rows, used over and over, of each of its other heads. A state
 * belongs to one thread at a time. */
#ifndef ZB_MODEL_STATE_H
#define ZB_MODEL_STATE_H

#include "model/cells.h"
#include "model/config.h"

#include <stddef.h>

/* Where the parts of a layer begin, in bytes behind `data`. */
typedef struct zb_state_place {
    uint64_t recurrent, rings, planes;
} zb_state_place;

typedef struct zb_state {
    uint64_t magic;
    int32_t tokens_max, len; /* capacity and tokens seen */
    uint64_t bytes;          /* of the parts of a fixed size: what going back cannot rebuild */
    int32_t cache;           /* zb_dtype of the caches */
    uint8_t pad[36];
    zb_state_place place[ZB_LAYERS_MAX];
    float data[];
} zb_state;

size_t zb_state_size(const zb_config *c, int tokens_max); /* bytes, a multiple of 64; pure */
zb_state *zb_state_init(void *mem, const zb_config *c,
                        int tokens_max); /* mem: that many bytes, 64-aligned; emptied */
void zb_state_reset(zb_state *s);        /* length 0, fixed parts zero */

/* Copies src into dst, which may have another capacity of at least src->len tokens. Both are of c,
 * with its cache type. */
void zb_state_copy(zb_state *dst, const zb_state *src, const zb_config *c);

/* Recurrent part of layer l, laid out as its mixer says: zb_config_state() values. */
float *zb_state_layer(zb_state *s, const zb_config *c, int l);

/* Rings of layer l (keys, then values of the heads with a window), and one of them; the row in
 * which the token at a position stands, the first `sinks` rows for good. */
int zb_state_rings(const zb_config *c, int l);
zb_cells zb_state_ring(const zb_state *s, const zb_config *c, int l, int ring);
int zb_state_ring_row(const zb_config *c, int l, int position);

/* Planes of layer l (0: none), and one of them: tokens_max rows. */
int zb_state_planes(const zb_config *c, int l);
zb_cells zb_state_plane(const zb_state *s, const zb_config *c, int l, int plane);

/* Rounds x (f32, as wide as the plane) into row `at` of a plane or ring of s. */
void zb_state_put(zb_state *s, const zb_cells *plane, int at, const float *x);

/* Bytes of cache that a token adds to layer l. */
size_t zb_state_token_bytes(const zb_config *c, int l);

/* Bytes of layer l that do not grow: its recurrent part and its rings. */
size_t zb_state_fixed_bytes(const zb_config *c, int l);

#endif
