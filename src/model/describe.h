/* describe.h - what a model is and costs, as JSON: for `zebra inspect`, reports and provenance. */
#ifndef ZB_MODEL_DESCRIBE_H
#define ZB_MODEL_DESCRIBE_H

#include "model/model.h"

/* {"model", "model_type", "hidden", ..., "parameters", "kv_percent", "kv_bytes_per_token",
 * "state_bytes", "weight_bytes", "weight_bytes_by_dtype": {"F32": bytes},
 * "layer_kinds": {kind: layers}, "layers": [{"layer", "kind", sizes, "parameters",
 * "cache_bytes_per_token", "state_bytes"}]}; bytes of caches and states are those in f32.
 * New reference. */
json_t *zb_model_describe(zb_model *m);

#endif
