/* kernels.c - builds the tables and chooses one (contract in kernels.h).
 *
 * A table starts as a copy of the scalar reference; each level then replaces the entries it has.
 * So a missing vector version is not an error but a slow entry, and a new entry needs only its
 * reference to exist everywhere. All tables are built at the first call, under pthread_once, and
 * are constant from then on. */
#include "kernels/kernels.h"

#include "base/log.h"
#include "kernels/cpu.h"
#include "kernels/kernels_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FILL(isa)                                                                                  \
    static void fill_##isa(zb_kernels *k) {                                                        \
        kern_vec_fill_##isa(k);                                                                    \
        kern_rows_fill_##isa(k);                                                                   \
        kern_gemm_fill_##isa(k);                                                                   \
        kern_quant_fill_##isa(k);                                                                  \
        kern_scan_fill_##isa(k);                                                                   \
        kern_int8_fill_##isa(k);                                                                   \
        kern_attend_fill_##isa(k);                                                                 \
        kern_cells_fill_##isa(k);                                                                  \
        kern_igemm_fill_##isa(k);                                                                  \
    }
#if defined(ZB_KERN_AVX2)
FILL(avx2)
#else
#define fill_avx2 NULL
#endif
#if defined(ZB_KERN_AVX512)
FILL(avx512)
#else
#define fill_avx512 NULL
#endif
#if defined(ZB_KERN_NEON)
FILL(neon)
#else
#define fill_neon NULL
#endif

static void fill_extras(zb_cpu_level level, zb_kernels *k) {
#if defined(ZB_KERN_AVX2VNNI)
    if (level == ZB_CPU_AVX2 && zb_cpu_has_vnni(level)) {
        kern_igemm_fill_avx2vnni(k);
        kern_int8_fill_avx2vnni(k);
    }
#endif
#if defined(ZB_KERN_AVX512VNNI)
    if (level == ZB_CPU_AVX512 && zb_cpu_has_vnni(level)) {
        kern_igemm_fill_avx512vnni(k);
        kern_int8_fill_avx512vnni(k);
    }
#endif
#if defined(ZB_KERN_AMX)
    if (level == ZB_CPU_AVX512 && zb_cpu_has_bf16_tiles()) kern_tile_fill_amx(k);
#endif
    (void)level;
    (void)k;
}

static void (*const fills[ZB_CPU_LEVELS])(zb_kernels *) = {kern_ref_fill, fill_avx2, fill_avx512,
                                                           fill_neon};

static zb_kernels tables[ZB_CPU_LEVELS];
static bool present[ZB_CPU_LEVELS];
static const zb_kernels *chosen;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int level_find(const char *name) {
    for (int l = 0; l < ZB_CPU_LEVELS; l++)
        if (!strcmp(name, zb_cpu_level_name((zb_cpu_level)l))) return l;
    return -1;
}

/* The best level present; ZB_CPU lowers it. A wish that cannot be met is told, since a
 * measurement under the wrong kernels would be worthless. */
static void build(void) {
    int best = ZB_CPU_REF;
    for (int l = 0; l < ZB_CPU_LEVELS; l++) {
        if (!fills[l] || !zb_cpu_has((zb_cpu_level)l)) continue;
        kern_ref_fill(&tables[l]);
        fills[l](&tables[l]);
        fill_extras((zb_cpu_level)l, &tables[l]);
        tables[l].name = zb_cpu_level_name((zb_cpu_level)l);
        present[l] = true;
        best = l;
    }
    const char *wish = getenv("ZB_CPU");
    if (wish && *wish) {
        int l = level_find(wish);
        if (l < 0)
            zb_warn("ZB_CPU: expected ref, avx2, avx512 or neon, found '%.20s'; using %s", wish,
                    tables[best].name);
        else if (!present[l])
            zb_warn("ZB_CPU=%s: this processor or build lacks it; using %s", wish,
                    tables[best].name);
        else
            best = l;
    }
    chosen = &tables[best];
}

const zb_kernels *zb_kernels_get(void) {
    pthread_once(&once, build);
    return chosen;
}

const zb_kernels *zb_kernels_find(const char *name) {
    pthread_once(&once, build);
    int l = level_find(name);
    return l >= 0 && present[l] ? &tables[l] : NULL;
}
