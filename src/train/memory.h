/* memory.h - the memory of a training stage, planned before anything large is opened.
 *
 * A plan is a list of parts whose sum must not exceed a limit: weights, gradients, moments, the
 * teacher, activations, scratch. All of it follows from configurations and batch. Where the sum is
 * too large, layers are recomputed, then rows go through in smaller pieces; where nothing helps the
 * stage is refused with the sum and what would help. */
#ifndef ZB_TRAIN_MEMORY_H
#define ZB_TRAIN_MEMORY_H

#include "model/footprint.h"
#include "train/stage.h"

typedef struct zb_memory_part {
    const char *what;
    size_t bytes;
} zb_memory_part;

enum { ZB_MEMORY_PARTS = 12 };

typedef struct zb_memory_plan {
    zb_memory_part part[ZB_MEMORY_PARTS];
    int n;
    size_t total, limit; /* limit 0: unknown, nothing is refused */
    int rows;            /* per pass */
    bool recompute;
} zb_memory_plan;

void zb_memory_add(zb_memory_plan *p, const char *what, size_t bytes);

/* What all stages have in common. */
typedef struct zb_memory_ask {
    const char *stage; /* for messages */
    const char *less;  /* what of this stage takes less: "shorten sequence_length" */
    const zb_stage_opts *o;
    bool recompute, may_recompute; /* wanted from the start; possible at all */
    /* Fills the parts for p->rows and p->recompute. */
    void (*parts)(const void *arg, zb_memory_plan *p);
    const void *arg;
} zb_memory_ask;

/* Chooses rows and recompute by o->memory_limit and tells the plan (log). ZB_ERR_MEMORY where it
 * cannot fit, ZB_ERR_CONFIG where limit or micro_batch make no sense. */
zb_status zb_memory_choose(const zb_memory_ask *ask, zb_memory_plan *p, zb_err *err);

/* Weights of a model in training: how many, how many of them are held as f32, and how many are
 * trained. untie: the head gets a matrix of its own. */
typedef struct zb_memory_weights {
    int64_t all, wide, trained;
} zb_memory_weights;
zb_memory_weights zb_memory_count(const zb_config *c, bool untie, zb_param_test trained,
                                  const void *arg);
/* Bytes of those that stay as their file has them, of whose `stored` bytes (0: unknown, bf16) they
 * take their share. */
size_t zb_memory_frozen(const zb_config *c, size_t stored, const zb_memory_weights *w);

/* Operands that a runner's products round to bf16: 0 for f32 (the rest belongs to oneDNN). Packed
 * weights are rounded by tiles, f32 weights whole, and the vocabulary loss holds the head and the
 * gradient of its logits besides. */
typedef enum zb_memory_use { ZB_USE_PACKED, ZB_USE_WIDE, ZB_USE_LOSS } zb_memory_use;
size_t zb_memory_operands(const zb_config *c, int n, zb_memory_use use, zb_precision p);
/* Bytes of the teacher's weights where its folder holds none: as bf16. And whether `stored` bytes
 * are fewer than f32 takes. */
size_t zb_memory_stored(const zb_config *c, size_t stored);
zb_memory_use zb_memory_teacher_use(const zb_config *c, size_t stored);
/* A load of `rows` rows of the stage's length. */
zb_load zb_memory_load(const zb_stage_opts *o, int rows);
/* Tokens of the stage's text and what reading it takes. */
size_t zb_memory_text(const zb_stage_opts *o);

#endif
