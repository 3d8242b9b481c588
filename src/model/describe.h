/* describe.h - what a model is and costs, as JSON: for `zebra inspect`, reports and provenance. */
#ifndef ZB_MODEL_DESCRIBE_H
#define ZB_MODEL_DESCRIBE_H

#include "model/model.h"

/* {"parameters", "weight_bytes", "kv_percent", "kv_bytes_per_token", "state_bytes", "hidden_size",
 * ..., "layers": [{"kind", "kv_values", "state_values", "parameters", sizes of MLA}]}; bytes of
 * cache and state as held here, in f32. New reference. */
json_t *zb_model_describe(zb_model *m);

#endif
