/* check.h - what the kernel checks share: random numbers and guarded buffers. */
#ifndef ZB_TESTS_KERNELS_CHECK_H
#define ZB_TESTS_KERNELS_CHECK_H

#include "kernels/kernels.h"

/* Buffer `slot` (0..SLOTS-1) of `bytes` bytes: it ends at a page that traps every access, so that
 * reading or writing past the end kills the program, and begins after a margin whose bytes
 * guard_ok compares. Alignment follows from the size. */
enum { SLOTS = 8 };
void *guard_take(int slot, size_t bytes);
bool guard_ok(void); /* margins of all slots untouched */

double draw(void);     /* uniform in [-1, 1) */
int draw_below(int n); /* 0..n-1 */
void draw_floats(float *x, int64_t n, double scale);
void draw_packed(uint8_t *w, size_t blocks, int block_bytes,
                 int halves); /* random bytes, `halves` sane f16 in front */

#endif
