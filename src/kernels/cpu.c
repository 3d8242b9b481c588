/* cpu.c - detection of instruction sets (contract in cpu.h).
 *
 * Compiled for the baseline, so that asking never executes what is asked about. The compiler's
 * own run-time support reads CPUID and, through XGETBV, whether the operating system saves the
 * wide registers: a flag without that counts as absent. */
#include "kernels/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const char *const names[ZB_CPU_LEVELS] = {"ref", "avx2", "avx512", "neon"};

const char *zb_cpu_level_name(zb_cpu_level level) { return names[level]; }

#if defined(__x86_64__)
/* Everything -march=x86-64-v3 lets the compiler use, not only what we name. gcc before 11 and
 * clang before 12 know no "lzcnt"/"movbe" here; both came with the same processors as AVX2 and
 * BMI2. */
static bool has_v3(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt");
}

static bool has_v4(void) {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

bool zb_cpu_has(zb_cpu_level level) {
    switch (level) {
    case ZB_CPU_REF: return true;
#if defined(__x86_64__)
    case ZB_CPU_AVX2: return has_v3();
    case ZB_CPU_AVX512: return has_v4();
#elif defined(__aarch64__)
    case ZB_CPU_NEON: return true;
#endif
    default: return false;
    }
}

bool zb_cpu_has_vnni(zb_cpu_level level) {
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (level == ZB_CPU_AVX512) return has_v4() && __builtin_cpu_supports("avx512vnni");
    /* Leaf 7, part 1, bit 4; it works on AVX's registers, so nothing more is asked of the system.
     */
    if (level == ZB_CPU_AVX2 && has_v3() && __get_cpuid_count(7, 1, &a, &b, &c, &d))
        return (a & 1u << 4) != 0;
#endif
    (void)level;
    return false;
}

#if defined(__x86_64__)
/* Linux gives a process the tiles' state only on request; threads started later have it, too. */
static bool is_tile_state_granted(void) {
#if defined(__linux__)
    enum { ARCH_GET_PERMISSION = 0x1022, ARCH_ASK_PERMISSION = 0x1023, TILE_STATE = 18 };
    unsigned long granted = 0;
    return !syscall(SYS_arch_prctl, ARCH_ASK_PERMISSION, TILE_STATE) &&
           !syscall(SYS_arch_prctl, ARCH_GET_PERMISSION, &granted) && granted >> TILE_STATE & 1;
#else
    return false;
#endif
}
#endif

bool zb_cpu_has_bf16_tiles(void) {
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!has_v4() || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5)) return false;
    bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & 1u << 22 && d & 1u << 24;
    return tiles && is_tile_state_granted();
#else
    return false;
#endif
}
