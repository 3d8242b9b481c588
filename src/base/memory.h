/* memory.h - how much memory there is, and was taken. */
#ifndef ZB_BASE_MEMORY_H
#define ZB_BASE_MEMORY_H

#include <stddef.h>

/* Bytes this process may use: the machine's memory, or the limit of its control group where that is
 * lower. A property of the machine, not of the moment, so that what is decided by it can be
 * repeated. 0 where it cannot be found out. */
size_t zb_memory_total(void);

/* Bytes of the most memory this program has held at a time so far. */
size_t zb_memory_peak(void);

#endif
