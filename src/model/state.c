/* state.c - layout of a sequence's memory (contract in state.h).
 *
 *   header | recurrent parts of layers 0..L-1 | cache rows of layer 0 | cache rows of layer 1 | ...
 *
 * A layer's cache holds tokens_max rows, so its offset depends on the capacity: copying between
 * capacities moves each layer on its own. */
#include "model/state.h"

#include <string.h>

static const uint64_t state_magic = 0x3165746174735a42; /* "BZstate1" */

static int64_t recurrent_total(const zb_config *c) {
    int64_t n = 0;
    for (int l = 0; l < c->L; l++) n += zb_config_state(c, l);
    return n;
}

static int64_t offset_of(const zb_config *c, int layer, int tokens_max) {
    int64_t at = 0;
    if (c->layer[layer].kind == ZB_MAMBA2) {
        for (int l = 0; l < layer; l++) at += zb_config_state(c, l);
        return at;
    }
    at = recurrent_total(c);
    for (int l = 0; l < layer; l++) at += (int64_t)zb_config_cache(c, l) * tokens_max;
    return at;
}

size_t zb_state_size(const zb_config *c, int tokens_max) {
    int64_t floats = recurrent_total(c);
    for (int l = 0; l < c->L; l++) floats += (int64_t)zb_config_cache(c, l) * tokens_max;
    return (sizeof(zb_state) + (size_t)floats * sizeof(float) + 63) / 64 * 64;
}

zb_state *zb_state_init(void *mem, const zb_config *c, int tokens_max) {
    zb_state *s = mem;
    memset(s, 0, sizeof *s + (size_t)recurrent_total(c) * sizeof(float));
    s->magic = state_magic;
    s->tokens_max = tokens_max;
    s->bytes = (uint64_t)recurrent_total(c) * sizeof(float);
    return s;
}

void zb_state_reset(zb_state *s) {
    s->len = 0;
    memset(s->data, 0, s->bytes);
}

float *zb_state_layer(zb_state *s, const zb_config *c, int l) {
    return s->data + offset_of(c, l, s->tokens_max);
}

static void copy_rows(float *dst, const float *src, int64_t rows, int64_t width) {
    memcpy(dst, src, (size_t)(rows * width) * sizeof(float));
}

void zb_state_copy(zb_state *dst, const zb_state *src, const zb_config *c) {
    ZB_ASSERT(dst->tokens_max >= src->len && dst->bytes == src->bytes);
    dst->len = src->len;
    memcpy(dst->data, src->data, src->bytes);
    for (int l = 0; l < c->L; l++) {
        int width = zb_config_cache(c, l);
        if (width == 0) continue;
        float *to = dst->data + offset_of(c, l, dst->tokens_max);
        const float *from = src->data + offset_of(c, l, src->tokens_max);
        if (c->layer[l].kind != ZB_ATTENTION) {
            copy_rows(to, from, src->len, width);
        } else { /* keys and values are two blocks */
            int64_t half = width / 2;
            copy_rows(to, from, src->len, half);
            copy_rows(to + half * dst->tokens_max, from + half * src->tokens_max, src->len, half);
        }
    }
}
