/* describe.c - see describe.h. */
#include "model/describe.h"

static json_t *describe_layer(zb_model *m, int l) {
    const zb_config *c = zb_model_config(m);
    const zb_layer_config *k = &c->layer[l];
    const zb_param_table *t = zb_model_params(m);
    int64_t parameters = 0;
    for (int i = 0; i < t->n; i++)
        if (t->item[i].layer == l) parameters += zb_param_count(&t->item[i]);
    json_t *o = json_pack("{s:i,s:s,s:i,s:I,s:I}", "layer", l, "kind", zb_kind_name(k->kind),
                          "kv_values", zb_config_cache(c, l), "state_values",
                          (json_int_t)(zb_config_state(c, l) + zb_config_window(c, l)),
                          "parameters", (json_int_t)parameters);
    if (k->kind == ZB_MLA) {
        json_object_set_new(o, "q_rank", json_integer(k->r_q));
        json_object_set_new(o, "kv_rank", json_integer(k->r_kv));
        json_object_set_new(o, "nope_dim", json_integer(k->d_nope));
        json_object_set_new(o, "rope_dim", json_integer(k->d_rope));
        json_object_set_new(o, "v_dim", json_integer(k->d_v));
    }
    if (k->window) {
        json_object_set_new(o, "window", json_integer(k->window));
        json_object_set_new(o, "sinks", json_integer(k->sinks));
        json_object_set_new(o, "retrieval_heads", zb_config_retrieval_json(c, l));
        json_object_set_new(o, "retrieval_key_dim", json_integer(zb_config_far_key(c, l)));
        json_object_set_new(o, "retrieval_value_dim", json_integer(zb_config_far_value(c, l)));
    }
    return o;
}

json_t *zb_model_describe(zb_model *m) {
    const zb_config *c = zb_model_config(m);
    int64_t cache = 0, state = 0;
    json_t *layers = json_array();
    for (int l = 0; l < c->L; l++) {
        cache += zb_config_cache(c, l);
        state += zb_config_state(c, l) + zb_config_window(c, l);
        json_array_append_new(layers, describe_layer(m, l));
    }
    json_t *o = json_object();
    json_object_set_new(o, "model_type", json_string(c->model_type));
    json_object_set_new(o, "parameters", json_integer(zb_params_total(zb_model_params(m))));
    json_object_set_new(o, "weight_bytes", json_integer((json_int_t)zb_model_bytes(m)));
    json_object_set_new(o, "kv_percent", json_real(zb_config_kv_percent(c)));
    json_object_set_new(o, "kv_bytes_per_token", json_integer(cache * (int64_t)sizeof(float)));
    json_object_set_new(o, "state_bytes", json_integer(state * (int64_t)sizeof(float)));
    json_object_set_new(o, "hidden_size", json_integer(c->D));
    json_object_set_new(o, "heads", json_integer(c->H));
    json_object_set_new(o, "kv_heads", json_integer(c->G));
    json_object_set_new(o, "head_dim", json_integer(c->dh));
    json_object_set_new(o, "intermediate_size", json_integer(c->F));
    json_object_set_new(o, "vocabulary", json_integer(c->V));
    json_object_set_new(o, "context", json_integer(c->context_max));
    json_object_set_new(o, "tied_head", json_boolean(c->tied));
    json_object_set_new(o, "layers", layers);
    return o;
}
