/* memory.c - asking the system (contract in memory.h). */
#include "base/memory.h"

#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

/* A limit file of a control group holds one number, or "max". 0: no limit found. */
static size_t group_limit(const char *path) {
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    unsigned long long v = 0;
    if (fscanf(f, "%20llu", &v) != 1) v = 0;
    fclose(f);
    return (size_t)v;
}

size_t zb_memory_total(void) {
    static const char *const groups[] = {"/sys/fs/cgroup/memory.max",
                                         "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t total = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : 0;
    for (int i = 0; i < 2; i++) {
        size_t limit = group_limit(groups[i]);
        if (limit > 0 && (total == 0 || limit < total)) total = limit;
    }
    return total;
}

/* ru_maxrss counts what the process held before this program began in it, such as a large parent's
 * copy, so it is only asked where the kernel does not tell the program's own. */
size_t zb_memory_peak(void) {
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    unsigned long long kib = 0;
    while (f && kib == 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %20llu kB", &kib) != 1) kib = 0;
    if (f) fclose(f);
    struct rusage u;
    if (kib == 0 && getrusage(RUSAGE_SELF, &u) == 0) kib = (unsigned long long)u.ru_maxrss;
    return (size_t)kib * 1024;
}
