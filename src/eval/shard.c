/* shard.c - processes by MPI, or one (contract in shard.h).
 *
 * MPI is started only under a launcher, known by the variables that Open MPI, MPICH and Slurm's
 * PMI set, so that a plain `zebra eval` needs no MPI daemon and loses no time. */
#include "eval/shard.h"

#include "base/text.h"

#include <limits.h>
#include <stdlib.h>

#ifdef ZB_MPI
#include <mpi.h>
#endif

static bool launched(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (getenv(names[i])) return true;
    return false;
}

zb_status zb_shard_begin(zb_shard *out, zb_err *err) {
    *out = (zb_shard){.rank = 0, .size = 1};
    if (!launched()) return ZB_OK;
#ifdef ZB_MPI
    int started = 0;
    MPI_Initialized(&started);
    if (!started && MPI_Init(NULL, NULL) != MPI_SUCCESS)
        return zb_fail(err, ZB_ERR_INTERNAL, "MPI does not start");
    MPI_Comm_rank(MPI_COMM_WORLD, &out->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &out->size);
    return ZB_OK;
#else
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    if (!size) size = getenv("PMI_SIZE");
    int64_t n;
    if (size && zb_parse_i64(size, &n) && n <= 1) return ZB_OK;
    return zb_fail(err, ZB_ERR_UNSUPPORTED,
                   "started by an MPI launcher, but built without MPI (libopenmpi-dev was absent)");
#endif
}

#ifdef ZB_MPI

void zb_shard_end(const zb_shard *s, bool failed) {
    int started = 0, ended = 0;
    MPI_Initialized(&started);
    if (!started) return;
    MPI_Finalized(&ended);
    if (ended) return;
    if (failed && s->size > 1) MPI_Abort(MPI_COMM_WORLD, 1);
    MPI_Finalize();
}

void zb_shard_share(const zb_shard *s, int owner, void *bytes, size_t n) {
    if (s->size == 1) return;
    for (size_t at = 0; at < n; at += INT_MAX / 2) {
        size_t piece = n - at < INT_MAX / 2 ? n - at : INT_MAX / 2;
        MPI_Bcast((char *)bytes + at, (int)piece, MPI_BYTE, owner, MPI_COMM_WORLD);
    }
}

zb_status zb_shard_agree(const zb_shard *s, zb_status own, zb_err *err) {
    if (s->size == 1) return own;
    int worst = 0, mine = own != ZB_OK;
    MPI_Allreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (own == ZB_OK && worst)
        return zb_fail(err, ZB_ERR_INTERNAL, "process %d: another process failed", s->rank);
    return own;
}

#else

void zb_shard_end(const zb_shard *s, bool failed) { (void)s, (void)failed; }

void zb_shard_share(const zb_shard *s, int owner, void *bytes, size_t n) {
    (void)s, (void)owner, (void)bytes, (void)n;
}

zb_status zb_shard_agree(const zb_shard *s, zb_status own, zb_err *err) {
    (void)s, (void)err;
    return own;
}

#endif
