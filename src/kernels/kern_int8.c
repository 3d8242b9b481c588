/* kern_int8.c - activations in 8 bits (formulas in kern_ref_quant.c). */
#include "kernels/simd.h"

enum { BLOCK_VECTORS = KERN_BLOCK / VW };

static void quantize_q8(int k, const float *x, int8_t *q, float *d, float *sum) {
    for (int b = 0; b < k / KERN_BLOCK; b++, x += KERN_BLOCK, q += KERN_BLOCK) {
        vf v[BLOCK_VECTORS];
        vu most = {0};
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            v[i] = vf_load(x + i * VW);
            most = vu_max(most, (vu)v[i] & 0x7fffffffu);
        }
        kern_q8_scale s = kern_q8_scale_of(vu_hmax(most));
        vi n[BLOCK_VECTORS], total = {0};
        for (int i = 0; i < BLOCK_VECTORS; i++) {
            n[i] = s.inverse == 0 ? (vi){0} : vi_nearest(v[i] * s.inverse);
            total += n[i];
        }
        store_i8(q, n);
        d[b] = s.d;
        sum[b] = s.d * (float)vi_sum(total);
    }
}

void KERN_SYMBOL(kern_int8_fill_)(zb_kernels *k) { k->quantize_q8 = quantize_q8; }
