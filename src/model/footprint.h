/* footprint.h - the memory of passes and of weights, computed from a configuration before anything
 * is opened. All functions are pure; sizes in bytes. */
#ifndef ZB_MODEL_FOOTPRINT_H
#define ZB_MODEL_FOOTPRINT_H

#include "model/model.h"

/* What zb_runner_forward takes from the runner's arena at most (the output is the caller's), and
 * what weights that are not stored as f32 need: unpacked rows, or n tokens rounded to 8 bits (0:
 * none are). */
size_t zb_forward_room(const zb_config *c, const zb_load *load);
size_t zb_unpack_room(const zb_config *c, int n);

/* zb_runner_forward_train, the vocabulary loss with a teacher and zb_runner_backward, all in one
 * arena: what is kept between the ways, and the most at any time. */
typedef struct zb_train_room {
    size_t kept, peak;
} zb_train_room;
zb_train_room zb_train_room_of(const zb_config *c, const zb_load *load, bool recompute);

/* Weights of a model that would be opened from `path` (folder or .gguf): its configuration, and the
 * bytes of its weights as stored, 0 where a folder holds none. Only headers are read. */
zb_status zb_model_peek(const char *path, zb_config *c, size_t *stored, zb_err *err);

#endif
