/* python_random.h - CPython's random.Random, number for number.
 *
 * The LM Evaluation Harness draws its few-shot examples and its bootstrap samples with it, so the
 * same prompts need the same generator: the Mersenne Twister MT19937 behind CPython's seeding and
 * its ways from words to integers, reals and samples. A generator is a plain value of 2.5 KiB and
 * belongs to one thread. */
#ifndef ZB_EVAL_PYTHON_RANDOM_H
#define ZB_EVAL_PYTHON_RANDOM_H

#include "base/arena.h"

#include <stdint.h>

typedef struct zb_python_random {
    uint32_t word[624];
    int at; /* words already used of the 624 */
} zb_python_random;

void zb_python_random_seed(zb_python_random *r, uint64_t seed);   /* Random(seed) */
uint32_t zb_python_random_bits(zb_python_random *r, int k);       /* getrandbits(k), 1 <= k <= 32 */
double zb_python_random_real(zb_python_random *r);                /* random(): [0, 1), 53 bits */
uint32_t zb_python_random_below(zb_python_random *r, uint32_t n); /* randrange(n), n >= 1 */

/* sample(range(n), k): k different numbers below n into out; 0 <= k <= n. */
void zb_python_random_sample(zb_python_random *r, int n, int k, zb_arena *scratch, int *out);
void zb_python_random_shuffle(zb_python_random *r, int *list, int n); /* shuffle(list) */
int zb_python_random_choice(zb_python_random *r, int n);              /* choice(range(n)) */
void zb_python_random_choices(zb_python_random *r, int n, int k,
                              int *out); /* choices(range(n), k) */

#endif
