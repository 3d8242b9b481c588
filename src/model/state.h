/* state.h - what a sequence remembers.
 *
 * One zb_state holds the memory of every layer for one sequence: keys and values (attention),
 * latents and rotated keys (MLA), convolution tail and SSM matrix (Mamba2). It is one block of
 * zb_state_size() bytes without pointers, so a snapshot is a copy and saving is a write. The
 * recurrent parts come first and have a fixed size; the caches follow, one row per token and layer.
 * A state belongs to one thread at a time. */
#ifndef ZB_MODEL_STATE_H
#define ZB_MODEL_STATE_H

#include "model/config.h"

#include <stddef.h>

typedef struct zb_state {
    uint64_t magic;
    int32_t tokens_max, len; /* capacity and tokens seen */
    uint64_t bytes;
    uint8_t pad[40];
    float data[];
} zb_state;

size_t zb_state_size(const zb_config *c, int tokens_max); /* bytes, a multiple of 64; pure */
zb_state *zb_state_init(void *mem, const zb_config *c,
                        int tokens_max); /* mem: that many bytes, 64-aligned; emptied */
void zb_state_reset(zb_state *s);        /* length 0, recurrent parts zero */

/* Copies src into dst, which may have another capacity of at least src->len tokens. */
void zb_state_copy(zb_state *dst, const zb_state *src, const zb_config *c);

/* Layer l: recurrent values (mamba2: convolution tail [k-1, C], then SSM [H, dh, dh]), or cache
 * rows [tokens_max, width] (attention: keys [T, G·dh] then values [T, G·dh]; mla: [T, r_kv +
 * d_rope]). */
float *zb_state_layer(zb_state *s, const zb_config *c, int l);

#endif
