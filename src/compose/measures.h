/* measures.h - what each candidate costs and gives in each layer: a table in a JSON file.
 *
 * One row per (layer, candidate), all other layers the teacher's. The file is rewritten whole after
 * each row, so an interrupted measurement loses one row at most; `setup` says how everything was
 * measured, and tables of different setups do not mix. Everything lives in the arena. */
#ifndef ZB_COMPOSE_MEASURES_H
#define ZB_COMPOSE_MEASURES_H

#include "compose/candidate.h"
#include "compose/knapsack.h"

typedef struct zb_measure {
    bool done;
    double kl; /* KL(teacher‖model with this layer), nats per token of held-out text */
    double error; /* Σ‖mixer - teacher's mixer‖² / Σ‖teacher's mixer‖², the teacher's inputs */
    double recall; /* cross-entropy of the answers of associative recall; 0 where not measured */
    int64_t cache_bytes, state_bytes; /* f32: per token; of a fixed size */
} zb_measure;

typedef struct zb_measures {
    const char *path;
    json_t *setup; /* borrowed from who measures, or owned where read from a file */
    int layers, n; /* candidates */
    zb_candidate candidate[ZB_CHOICES_MAX];
    int64_t common[ZB_CHOICES_MAX][2]; /* rotary sizes; window and sinks: as knapsack.h */
    double weights[ZB_CHOICES_MAX];    /* sum of a donor's weights: is it still the same? */
    zb_measure *row[ZB_CHOICES_MAX];   /* [layers] each */
    int64_t teacher_cache_bytes;       /* per token, all layers */
    double teacher_recall, teacher_ce; /* cross-entropies of the answers, and of the text */
} zb_measures;

/* A broken or hostile file is refused with the place. The caller frees m->setup (json_decref). */
zb_status zb_measures_read(zb_measures *m, const char *path, zb_arena *a, zb_err *err);
zb_status zb_measures_write(const zb_measures *m, zb_err *err); /* atomic */

/* Whether what stands in `path` was made as is asked for now: the first difference is the message.
 */
zb_status zb_setup_match(const char *path, const json_t *was, const json_t *now, zb_err *err);

/* Of something that was made otherwise, by the error that says how: ZB_OK, where the caller is to
 * make it anew, else an error that says what to do. Errors of other kinds are passed on. */
zb_status zb_setup_stale(const zb_err *why, bool renew, zb_err *err);

/* The candidate's index, -1: not in the table. Adding one gives it empty rows. */
int zb_measures_find(const zb_measures *m, const char *name);
zb_status zb_measures_add(zb_measures *m, const zb_candidate *c, int *index, zb_arena *a,
                          zb_err *err);

#endif
