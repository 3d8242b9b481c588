/* rng.h - counter-based random numbers: (seed, stream, index) -> value.
 *
 * Nothing has to be saved to resume: the caller knows its index. Philox4x32-10 (Salmon et al.
 * 2011), so any two (seed, stream) pairs are independent. Streams are named by the enum; per-layer
 * streams add the layer number in the upper bits. Pure functions but for zb_rng_secret; any
 * thread. */
#ifndef ZB_BASE_RNG_H
#define ZB_BASE_RNG_H

#include <stdint.h>

enum zb_rng_stream { ZB_RNG_INIT = 1, ZB_RNG_DATA = 2, ZB_RNG_SAMPLE = 3, ZB_RNG_TEST = 4 };

/* Stream of one tensor of one layer. */
static inline uint64_t zb_rng_substream(uint64_t stream, uint64_t layer, uint64_t what) {
    return stream | layer << 8 | what << 40;
}

uint32_t zb_rng_u32(uint64_t seed, uint64_t stream, uint64_t index);
double zb_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1), 32 bits */
double zb_rng_normal(uint64_t seed, uint64_t stream, uint64_t index);
uint32_t zb_rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint32_t n); /* [0, n) */

/* Another number each time, which nobody can know before: for the order within hash tables that
 * take keys from files, and for nothing that a result depends on. */
uint64_t zb_rng_secret(void);

/* Permutation of 0..n-1, Fisher-Yates; `epoch` separates passes over the same data. */
void zb_rng_permute(uint64_t seed, uint64_t stream, uint64_t epoch, int64_t n, int64_t *out);

#endif
