/* check.h - what the kernel checks share: random numbers and guarded buffers. */
#ifndef ZB_TESTS_KERNELS_CHECK_H
#define ZB_TESTS_KERNELS_CHECK_H

#include "kernels/kernels.h"

/* Buffer `slot` (0..SLOTS-1) of `bytes` bytes: by chance it begins or ends at a page that traps
 * every access, so that reading or writing beyond kills the program; on its other side stands a
 * margin whose bytes guard_ok compares. Where it ends there, alignment follows from the size. */
enum { SLOTS = 8 };
void *guard_take(int slot, size_t bytes);
bool guard_ok(void); /* margins of all slots untouched */

double draw(void);     /* uniform in [-1, 1) */
int draw_below(int n); /* 0..n-1 */
void draw_floats(float *x, int64_t n, double scale);
void draw_packed(uint8_t *w, size_t blocks, int block_bytes,
                 int halves); /* random bytes, `halves` sane f16 in front */

/* Guarded buffers of n floats; the second filled with numbers in [-scale, scale). An ordinary copy
 * of n floats, for inputs that a kernel overwrites (the caller frees it). */
float *take(int slot, int64_t n);
float *take_random(int slot, int64_t n, double scale);
float *copy_of(const float *x, int64_t n);

/* One comparison, counted. Infinities must agree in kind and sign; NaN only with NaN. */
#define EPS 0x1p-24
void name_kernel(const char *name); /* in messages from here on */
void near(int n, int64_t at, double got, double want, double tolerance);
void guards(int n);
double sum_tolerance(int64_t n, double magnitude); /* of n terms with that sum of magnitudes */
double half_value(uint16_t h);                     /* a half by the definition of IEEE 754 */

/* 0, 1, all tails and the blocks of the long rows, ascending. */
enum { N_SIZES = 33 };
extern const int row_sizes[N_SIZES];

/* check_gemm.c */
void check_gemm(const zb_kernels *k);
void check_gemm_bt(const zb_kernels *k);

/* check_attend.c */
void check_softmax_step(const zb_kernels *k);
void check_f16(const zb_kernels *k);
void check_q8_0(const zb_kernels *k);

/* check_cells.c */
void check_cells(const zb_kernels *k);

/* check_igemm.c */
void check_igemm(const zb_kernels *k);

/* check_packed.c */
void check_gemv(const zb_kernels *k);
void check_gemv8(const zb_kernels *k);
void check_quantize_q8(const zb_kernels *k);
void check_halves(const zb_kernels *k);

/* check_tile.c */
void check_tile(const zb_kernels *k);

#endif
