/* config_ecomla.c - two files become one (contract in config_ecomla.h).
 *
 * X-EcoMLA (arXiv 2503.11132) keeps the attention of the layers in attn_layers; all others are MLA,
 * with sizes and a layer_rank_list under the names that Zebra-Llama took over. Three things are
 * said otherwise there: MLA layers are those not listed, kv_b always has a head per query head, and
 * the type beside rope_scaling (yarn where absent) goes before the one inside, which is a copy of
 * the teacher's. */
#include "model/config_ecomla.h"

#include "base/json.h"
#include "model/config.h"

static bool holds(const json_t *list, int64_t l) {
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) {
        if (json_is_integer(v) && json_integer_value(v) == l) return true;
    }
    return false;
}

zb_status zb_config_from_ecomla(json_t **out, const json_t *model, const json_t *layer,
                                const char *where, zb_err *err) {
    int64_t layers = 0;
    json_t *kept = NULL, *scaling = NULL;
    const char *type = "yarn";
    if (!json_is_object(model) || !json_is_object(layer))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected an object, found %s", where,
                       zb_json_type(json_is_object(model) ? layer : model));
    ZB_TRY(zb_json_int(model, where, "n_layer", true, 1, ZB_LAYERS_MAX, &layers, err));
    ZB_TRY(zb_json_array(model, where, "attn_layers", false, &kept, err));
    ZB_TRY(zb_json_object(layer, where, "rope_scaling", false, &scaling, err));
    ZB_TRY(zb_json_str(layer, where, "rope_type", false, &type, err));
    json_t *o = json_deep_copy(layer), *mla = json_array();
    for (int64_t l = 0; l < layers; l++)
        if (!holds(kept, l)) json_array_append_new(mla, json_integer(l));
    json_object_set_new(o, "n_layer", json_integer(layers));
    json_object_set_new(o, "mla_layers", mla);
    if (kept) json_object_set(o, "attn_layers", kept);
    json_object_set_new(o, "use_full_kv_head", json_true());
    if (scaling) {
        json_t *own = json_object_get(o, "rope_scaling");
        json_object_set_new(own, "rope_type", json_string(type));
        json_object_del(own, "type");
        json_object_del(own, "attention_factor"); /* not read there */
    }
    *out = o;
    return ZB_OK;
}
