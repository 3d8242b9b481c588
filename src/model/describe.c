/* describe.c - see describe.h. */
#include "model/describe.h"

#include "tensor/dtype.h"

enum { VALUE_BYTES = sizeof(float) };

static int64_t cache_bytes(const zb_config *c, int l) {
    return (int64_t)zb_config_cache(c, l) * VALUE_BYTES;
}

static int64_t state_bytes(const zb_config *c, int l) {
    return (zb_config_state(c, l) + zb_config_window(c, l)) * VALUE_BYTES;
}

static void set(json_t *o, const char *key, int64_t n) {
    json_object_set_new(o, key, json_integer((json_int_t)n));
}

static void add_to(json_t *o, const char *key, int64_t n) {
    set(o, key, json_integer_value(json_object_get(o, key)) + n);
}

/* Sizes that the layer's kind has. */
static void add_sizes(json_t *o, const zb_config *c, int l) {
    const zb_layer_config *k = &c->layer[l];
    set(o, "heads", c->H);
    if (k->kind == ZB_MLA) {
        set(o, "r_q", k->r_q);
        set(o, "r_kv", k->r_kv);
        set(o, "d_nope", k->d_nope);
        set(o, "d_rope", k->d_rope);
        set(o, "d_v", k->d_v);
        return;
    }
    if (k->kind == ZB_ATTENTION || k->window) set(o, "kv_heads", c->G);
    set(o, "head_size", c->dh);
    if (zb_kind_has_mamba2(k->kind)) set(o, "convolution_channels", zb_mamba2_channels(c, l));
    if (!k->window) return;
    set(o, "window", k->window);
    set(o, "sinks", k->sinks);
    json_object_set_new(o, "retrieval_heads", zb_config_retrieval_json(c, l));
    set(o, "retrieval_key_dim", zb_config_far_key(c, l));
    set(o, "retrieval_value_dim", zb_config_far_value(c, l));
}

static json_t *describe_layer(zb_model *m, int l) {
    const zb_config *c = zb_model_config(m);
    const zb_param_table *t = zb_model_params(m);
    json_t *o = json_pack("{s:i, s:s}", "layer", l, "kind", zb_kind_name(c->layer[l].kind));
    add_sizes(o, c, l);
    for (int i = 0; i < t->n; i++)
        if (t->item[i].layer == l) add_to(o, "parameters", zb_param_count(&t->item[i]));
    set(o, "cache_bytes_per_token", cache_bytes(c, l));
    set(o, "state_bytes", state_bytes(c, l));
    return o;
}

static json_t *bytes_by_dtype(const zb_param_table *t) {
    json_t *o = json_object();
    for (int i = 0; i < t->n; i++) {
        const zb_param *p = &t->item[i];
        size_t size = 0;
        if (zb_dtype_size(p->dtype, zb_param_count(p), &size))
            add_to(o, zb_dtype_get(p->dtype)->name, (int64_t)size);
    }
    return o;
}

json_t *zb_model_describe(zb_model *m) {
    const zb_config *c = zb_model_config(m);
    const zb_param_table *t = zb_model_params(m);
    int64_t cache = 0, state = 0;
    json_t *layers = json_array(), *kinds = json_object();
    for (int l = 0; l < c->L; l++) {
        json_array_append_new(layers, describe_layer(m, l));
        add_to(kinds, zb_kind_name(c->layer[l].kind), 1);
        cache += cache_bytes(c, l);
        state += state_bytes(c, l);
    }
    json_t *o = json_pack("{s:s, s:s}", "model", zb_model_path(m), "model_type", c->model_type);
    set(o, "hidden", c->D);
    set(o, "n_layers", c->L);
    set(o, "heads", c->H);
    set(o, "kv_heads", c->G);
    set(o, "head_size", c->dh);
    set(o, "mlp", c->F);
    set(o, "vocabulary", c->V);
    set(o, "context", c->context_max);
    json_object_set_new(o, "tied", json_boolean(c->tied));
    set(o, "parameters", zb_params_total(t));
    json_object_set_new(o, "kv_percent", json_real(zb_config_kv_percent(c)));
    set(o, "kv_bytes_per_token", cache);
    set(o, "state_bytes", state);
    set(o, "weight_bytes", (int64_t)zb_model_bytes(m));
    json_object_set_new(o, "weight_bytes_by_dtype", bytes_by_dtype(t));
    json_object_set_new(o, "layer_kinds", kinds);
    json_object_set_new(o, "layers", layers);
    return o;
}
