/* rng.c - Philox4x32-10 (contract in rng.h). */
#include "base/rng.h"

#include <math.h>
#include <sys/random.h>
#include <time.h>

static void philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[1] = (uint32_t)p1;
        c[3] = (uint32_t)p0;
        c[0] = n0;
        c[2] = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

static void block(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    out[0] = (uint32_t)index;
    out[1] = (uint32_t)(index >> 32);
    out[2] = (uint32_t)stream;
    out[3] = (uint32_t)(stream >> 32);
    philox(out, (uint32_t)seed, (uint32_t)(seed >> 32));
}

uint32_t zb_rng_u32(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t b[4];
    block(seed, stream, index, b);
    return b[0];
}

double zb_rng_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return zb_rng_u32(seed, stream, index) * 0x1p-32;
}

double zb_rng_normal(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t b[4];
    block(seed, stream, index, b);
    double u = (b[0] + 0.5) * 0x1p-32, v = b[1] * 0x1p-32;
    return sqrt(-2 * log(u)) * cos(2 * 3.14159265358979323846 * v);
}

uint32_t zb_rng_below(uint64_t seed, uint64_t stream, uint64_t index, uint32_t n) {
    uint32_t b[4];
    block(seed, stream, index, b);
    uint64_t x = (uint64_t)b[0] << 32 | b[1]; /* 64 bits scaled down: bias below n / 2^64 */
    return (uint32_t)((unsigned __int128)x * n >> 64);
}

void zb_rng_permute(uint64_t seed, uint64_t stream, uint64_t epoch, int64_t n, int64_t *out) {
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = zb_rng_below(seed, stream, epoch << 40 | (uint64_t)i, (uint32_t)(i + 1));
        int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

uint64_t zb_rng_secret(void) {
    uint64_t secret = 0;
    if (getrandom(&secret, sizeof secret, GRND_NONBLOCK) == (ssize_t)sizeof secret) return secret;
    struct timespec now; /* a system that has none to give yet */
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
