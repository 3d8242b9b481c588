/* config_ecomla.h - the configuration of an X-EcoMLA checkpoint in the terms of hybrid_config.json.
 */
#ifndef ZB_MODEL_CONFIG_ECOMLA_H
#define ZB_MODEL_CONFIG_ECOMLA_H

#include "base/err.h"

#include <jansson.h>

/* `model` is MLA_config.json, `layer` mla_layer_config.json. On success *out is a new reference. */
zb_status zb_config_from_ecomla(json_t **out, const json_t *model, const json_t *layer,
                                const char *where, zb_err *err);

#endif
