/* state.c - layout of a sequence's memory (contract in state.h).
 *
 *   header | recurrent parts of layers 0..L-1 | rings of layers 0..L-1 | planes of layer 0 | ...
 *
 * What comes before the planes has a size of its own and is what a snapshot copies: recurrent parts
 * and rings forget, so going back to an earlier token needs them as they were.
 *
 * A plane holds tokens_max rows side by side and begins at a multiple of 64 bytes: whoever attends
 * to it reads one run of memory. Its place depends on the capacity, so copying between capacities
 * moves each plane on its own.
 *
 * In a q8_0 cache the rotary keys of MLA stay bf16: they are a small part of a row, and a shared
 * scale would round their slow pairs, which carry distance, by their fast ones. */
#include "model/state.h"

#include <string.h>

static const uint64_t state_magic = 0x3365746174735a42; /* "BZstate3" */

static int64_t recurrent_total(const zb_config *c) {
    int64_t n = 0;
    for (int l = 0; l < c->L; l++) n += zb_config_state(c, l);
    return n;
}

static size_t rounded(size_t bytes) { return (bytes + 63) / 64 * 64; }

int zb_state_rings(const zb_config *c, int l) { return 2 * zb_config_ring_heads(c, l); }

static size_t ring_bytes(const zb_config *c, int l) {
    const zb_layer_config *m = &c->layer[l];
    return rounded(zb_cells_row(c->cache, c->dh) * (size_t)(m->window + m->sinks));
}

static size_t rings_bytes(const zb_config *c, int l) {
    return (size_t)zb_state_rings(c, l) * ring_bytes(c, l);
}

/* Of all parts that do not grow; rings begin at a multiple of 64. */
static size_t fixed_total(const zb_config *c) {
    size_t recurrent = (size_t)recurrent_total(c) * sizeof(float), rings = 0;
    for (int l = 0; l < c->L; l++) rings += rings_bytes(c, l);
    return rings ? rounded(recurrent) + rings : recurrent;
}

int zb_state_planes(const zb_config *c, int l) {
    return c->layer[l].kind == ZB_MLA ? 2 : 2 * zb_config_far_heads(c, l);
}

/* Type and width of a plane, without its place. */
static zb_cells shape_of(const zb_config *c, int l, int plane) {
    zb_cells p = {.type = c->cache};
    if (c->layer[l].kind == ZB_MLA) {
        p.width = plane == 0 ? c->layer[l].r_kv : c->layer[l].d_rope;
        if (plane == 1 && c->cache == ZB_Q8_0) p.type = ZB_BF16;
    } else {
        bool key = plane < zb_config_far_heads(c, l);
        p.width = key ? zb_config_far_key(c, l) : zb_config_far_value(c, l);
    }
    p.row = zb_cells_row(p.type, p.width);
    return p;
}

static size_t plane_bytes(const zb_config *c, int l, int plane, int tokens_max) {
    return rounded(shape_of(c, l, plane).row * (size_t)tokens_max);
}

/* Of the first n planes; those of kv heads are alike, the keys' and the values'. */
static size_t planes_bytes(const zb_config *c, int l, int n, int tokens_max) {
    if (n == 0) return 0;
    int first = c->layer[l].kind == ZB_MLA ? 1 : zb_config_far_heads(c, l),
        one = n < first ? n : first;
    size_t bytes = (size_t)one * plane_bytes(c, l, 0, tokens_max);
    if (n > first) bytes += (size_t)(n - first) * plane_bytes(c, l, first, tokens_max);
    return bytes;
}

static size_t layer_bytes(const zb_config *c, int l, int tokens_max) {
    return planes_bytes(c, l, zb_state_planes(c, l), tokens_max);
}

size_t zb_state_size(const zb_config *c, int tokens_max) {
    size_t bytes = sizeof(zb_state) + rounded(fixed_total(c));
    for (int l = 0; l < c->L; l++) bytes += layer_bytes(c, l, tokens_max);
    return bytes;
}

/* Found once: a step asks for every plane of every layer. */
static void find_places(zb_state *s, const zb_config *c) {
    size_t recurrent = 0, rings = rounded((size_t)recurrent_total(c) * sizeof(float)),
           planes = rounded(s->bytes);
    for (int l = 0; l < c->L; l++) {
        s->place[l] = (zb_state_place){recurrent, rings, planes};
        recurrent += (size_t)zb_config_state(c, l) * sizeof(float);
        rings += rings_bytes(c, l);
        planes += layer_bytes(c, l, s->tokens_max);
    }
}

zb_state *zb_state_init(void *mem, const zb_config *c, int tokens_max) {
    zb_state *s = mem;
    memset(s, 0, sizeof *s + fixed_total(c));
    s->magic = state_magic;
    s->tokens_max = tokens_max;
    s->cache = (int32_t)c->cache;
    s->bytes = fixed_total(c);
    find_places(s, c);
    return s;
}

void zb_state_reset(zb_state *s) {
    s->len = 0;
    memset(s->data, 0, s->bytes);
}

float *zb_state_layer(zb_state *s, const zb_config *c, int l) {
    ZB_ASSERT(zb_config_state(c, l) > 0);
    return s->data + s->place[l].recurrent / sizeof(float);
}

zb_cells zb_state_ring(const zb_state *s, const zb_config *c, int l, int ring) {
    ZB_ASSERT(s->cache == (int32_t)c->cache && ring < zb_state_rings(c, l));
    size_t at = s->place[l].rings + (size_t)ring * ring_bytes(c, l);
    return (zb_cells){.type = c->cache,
                      .width = c->dh,
                      .row = zb_cells_row(c->cache, c->dh),
                      .p = (const uint8_t *)s->data + at};
}

int zb_state_ring_row(const zb_config *c, int l, int position) {
    const zb_layer_config *m = &c->layer[l];
    return position < m->sinks ? position : m->sinks + (position - m->sinks) % m->window;
}

zb_cells zb_state_plane(const zb_state *s, const zb_config *c, int l, int plane) {
    ZB_ASSERT(s->cache == (int32_t)c->cache);
    size_t at = s->place[l].planes + planes_bytes(c, l, plane, s->tokens_max);
    zb_cells cells = shape_of(c, l, plane);
    cells.p = (const uint8_t *)s->data + at;
    return cells;
}

void zb_state_put(zb_state *s, const zb_cells *plane, int at, const float *x) {
    size_t from = (size_t)((const uint8_t *)plane->p - (const uint8_t *)s->data);
    zb_cells_write(plane->type, plane->width, x,
                   (uint8_t *)s->data + from + (size_t)at * plane->row);
}

size_t zb_state_token_bytes(const zb_config *c, int l) {
    size_t bytes = 0;
    for (int p = 0; p < zb_state_planes(c, l); p++) bytes += shape_of(c, l, p).row;
    return bytes;
}

size_t zb_state_fixed_bytes(const zb_config *c, int l) {
    const zb_layer_config *m = &c->layer[l];
    size_t rows = (size_t)zb_state_rings(c, l) * (size_t)(m->window + m->sinks);
    return (size_t)zb_config_state(c, l) * sizeof(float) + rows * zb_cells_row(c->cache, c->dh);
}

void zb_state_copy(zb_state *dst, const zb_state *src, const zb_config *c) {
    ZB_ASSERT(dst->tokens_max >= src->len && dst->bytes == src->bytes && dst->cache == src->cache);
    dst->len = src->len;
    memcpy(dst->data, src->data, src->bytes);
    for (int l = 0; l < c->L; l++)
        for (int p = 0; p < zb_state_planes(c, l); p++) {
            zb_cells to = zb_state_plane(dst, c, l, p), from = zb_state_plane(src, c, l, p);
            size_t at = (size_t)((const uint8_t *)to.p - (const uint8_t *)dst->data);
            memcpy((uint8_t *)dst->data + at, from.p, (size_t)src->len * from.row);
        }
}
