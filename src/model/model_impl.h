/* model_impl.h - the inside of a model, for model.c, load.c and save.c only. */
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
    zb_safetensors *file; /* mapped weights; NULL after a copy into f32 */
    zb_gguf *gguf;
};

zb_model *zb_model_alloc(void);
void zb_param_own(zb_model *m, zb_param *p); /* f32 memory in the arena, zeroed */

#endif
