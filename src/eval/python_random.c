/* python_random.c - MT19937 as CPython drives it (contract in python_random.h).
 *
 * Source: Matsumoto and Nishimura 1998 for the generator; CPython's Modules/_randommodule.c and
 * Lib/random.py (3.11 and later) for the rest:
 *   Random(seed)     init_by_array with the seed's 32-bit words, low word first
 *   getrandbits(k)   the upper k bits of one word
 *   random()         (a >> 5, b >> 6) of two words: (a 2^26 + b) / 2^53
 *   randrange(n)     k = bits of n; getrandbits(k) until it is below n
 *   sample(n, k)     with m = 21, plus 4^ceil(log4(3k)) for k > 5: up to n = m a pool whose drawn
 *                    place is filled by its last member, above it draws until k differ
 *   choices(n, k)    floor(random() n)
 * Check vectors: tests/unit/test_eval_rules.c. */
#include "eval/python_random.h"

#include "base/err.h"

#include <math.h>
#include <stdbool.h>

enum { N = 624, M = 397 };

static void init(zb_python_random *r, uint32_t seed) {
    r->word[0] = seed;
    for (uint32_t i = 1; i < N; i++)
        r->word[i] = 1812433253u * (r->word[i - 1] ^ r->word[i - 1] >> 30) + i;
    r->at = N;
}

void zb_python_random_seed(zb_python_random *r, uint64_t seed) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t n = key[1] ? 2 : 1, i = 1, j = 0;
    init(r, 19650218u);
    for (int k = N; k > 0; k--) {
        r->word[i] = (r->word[i] ^ (r->word[i - 1] ^ r->word[i - 1] >> 30) * 1664525u) + key[j] + j;
        if (++i == N) {
            r->word[0] = r->word[N - 1];
            i = 1;
        }
        if (++j == n) j = 0;
    }
    for (int k = N - 1; k > 0; k--) {
        r->word[i] = (r->word[i] ^ (r->word[i - 1] ^ r->word[i - 1] >> 30) * 1566083941u) - i;
        if (++i == N) {
            r->word[0] = r->word[N - 1];
            i = 1;
        }
    }
    r->word[0] = 0x80000000u;
}

static void refill(zb_python_random *r) {
    for (int i = 0; i < N; i++) {
        uint32_t y = (r->word[i] & 0x80000000u) | (r->word[(i + 1) % N] & 0x7fffffffu);
        r->word[i] = r->word[(i + M) % N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    r->at = 0;
}

static uint32_t next(zb_python_random *r) {
    if (r->at == N) refill(r);
    uint32_t y = r->word[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

uint32_t zb_python_random_bits(zb_python_random *r, int k) {
    ZB_ASSERT(k >= 1 && k <= 32);
    return next(r) >> (32 - k);
}

double zb_python_random_real(zb_python_random *r) {
    uint32_t a = next(r) >> 5, b = next(r) >> 6;
    return ((double)a * 67108864.0 + (double)b) * (1.0 / 9007199254740992.0);
}

uint32_t zb_python_random_below(zb_python_random *r, uint32_t n) {
    ZB_ASSERT(n >= 1);
    int bits = 32 - __builtin_clz(n);
    uint32_t x;
    do x = zb_python_random_bits(r, bits);
    while (x >= n);
    return x;
}

void zb_python_random_sample(zb_python_random *r, int n, int k, zb_arena *scratch, int *out) {
    ZB_ASSERT(k >= 0 && k <= n);
    double limit = 21; /* above it CPython finds a set of seen numbers cheaper than the pool */
    if (k > 5) limit += pow(4, ceil(log(3.0 * k) / log(4)));
    zb_mark mark = zb_arena_mark(scratch);
    if (n <= limit) {
        int *pool = ZB_NEW_ARRAY(scratch, int, n);
        for (int i = 0; i < n; i++) pool[i] = i;
        for (int i = 0; i < k; i++) {
            int j = (int)zb_python_random_below(r, (uint32_t)(n - i));
            out[i] = pool[j];
            pool[j] = pool[n - i - 1];
        }
    } else {
        bool *seen = ZB_NEW_ARRAY(scratch, bool, n);
        for (int i = 0; i < k; i++) {
            int j;
            do j = (int)zb_python_random_below(r, (uint32_t)n);
            while (seen[j]);
            seen[j] = true;
            out[i] = j;
        }
    }
    zb_arena_pop(scratch, mark);
}

void zb_python_random_shuffle(zb_python_random *r, int *list, int n) {
    for (int i = n - 1; i > 0; i--) {
        int j = (int)zb_python_random_below(r, (uint32_t)i + 1), x = list[i];
        list[i] = list[j];
        list[j] = x;
    }
}

int zb_python_random_choice(zb_python_random *r, int n) {
    return (int)zb_python_random_below(r, (uint32_t)n);
}

void zb_python_random_choices(zb_python_random *r, int n, int k, int *out) {
    for (int i = 0; i < k; i++) out[i] = (int)floor(zb_python_random_real(r) * n);
}
