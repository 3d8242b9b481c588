/* cpu.h - which instruction sets this processor and its operating system offer.
 *
 * Levels are cumulative within one architecture and named by what their kernels are compiled for:
 * ref (any CPU), avx2 (x86-64-v3: AVX2, FMA, F16C), avx512 (x86-64-v4: F, BW, CD, DQ, VL), neon
 * (every aarch64). Any thread. */
#ifndef ZB_KERNELS_CPU_H
#define ZB_KERNELS_CPU_H

#include <stdbool.h>

typedef enum zb_cpu_level {
    ZB_CPU_REF,
    ZB_CPU_AVX2,
    ZB_CPU_AVX512,
    ZB_CPU_NEON,
    ZB_CPU_LEVELS
} zb_cpu_level;

bool zb_cpu_has(zb_cpu_level level);
bool zb_cpu_has_vnni(zb_cpu_level level); /* AVX-VNNI beside avx2, AVX512-VNNI beside avx512 */
/* AMX-BF16 and AVX512-BF16; asks the system to save their registers for this process. */
bool zb_cpu_has_bf16_tiles(void);
const char *zb_cpu_level_name(zb_cpu_level level); /* "ref", "avx2", "avx512", "neon" */

#endif
