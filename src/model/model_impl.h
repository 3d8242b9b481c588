/* model_impl.h - the inside of a model, for the files that open, make and save one. */
#ifndef ZB_MODEL_MODEL_IMPL_H
#define ZB_MODEL_MODEL_IMPL_H

#include "format/gguf.h"
#include "format/safetensors.h"
#include "model/model.h"

struct zb_model {
    zb_arena arena; /* everything of the model, this struct included */
    zb_config config;
    zb_param_table params;
    const char *path;
    zb_safetensors *file; /* mapped weights; NULL of a model that is made */
    zb_gguf *gguf;
};

zb_model *zb_model_alloc(void);
/* Whether a folder's head is another matrix than its embedding. The original code trains that of a
 * hybrid apart though its configuration goes on to say that they are tied; a tied base's copy is
 * not read. */
bool zb_head_is_own(const zb_config *c, const zb_safetensors *file);

void zb_param_own(zb_model *m, zb_param *p); /* f32 memory in the arena, zeroed */

/* A stored tensor has the parameter's shape and real values. */
zb_status zb_param_check(const zb_param *p, const zb_tensor *t, const char *path, zb_err *err);
/* Takes its value, checked before; `source` gives the stored row of each row, NULL: the same.
 * wide: as f32, not as stored. */
void zb_param_take(zb_model *m, zb_param *p, const zb_tensor *t, const int *source, bool wide);

/* Which parameters become f32 that may be written. */
typedef struct zb_wide {
    zb_param_test test;
    const void *arg;
} zb_wide;
bool zb_param_every(const void *unused, const zb_param *p); /* all of them */

zb_status zb_model_load_gguf(zb_model *m, const char *path, const zb_wide *wide, zb_err *err);

#endif
