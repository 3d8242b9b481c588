/* shard.h - one evaluation in several processes: who computes what, and how answers are shared.
 *
 * Every process reads the same tasks and makes the same calls of its scorer in its mind; call k is
 * computed by process k mod size, and its answers go to all. So the result does not depend on the
 * number of processes. Processes are started by `mpirun -n N zebra eval ...`; without a launcher
 * there is one, and no message is sent. One thread. */
#ifndef ZB_EVAL_SHARD_H
#define ZB_EVAL_SHARD_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct zb_shard {
    int rank, size;
} zb_shard;

/* ZB_ERR_UNSUPPORTED if a launcher started this program and it was built without MPI. */
zb_status zb_shard_begin(zb_shard *out, zb_err *err);
/* `failed`: ends the other processes, too, which may be waiting for this one. */
void zb_shard_end(const zb_shard *s, bool failed);

/* n bytes of process `owner` to all others. */
void zb_shard_share(const zb_shard *s, int owner, void *bytes, size_t n);

/* Whether all processes came here with ZB_OK; else their own status, or that another one failed. */
zb_status zb_shard_agree(const zb_shard *s, zb_status own, zb_err *err);

#endif
