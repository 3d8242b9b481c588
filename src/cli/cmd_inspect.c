/* cmd_inspect.c - `zebra inspect`: what a model is made of and what it costs to run. */
#include "cli/cli.h"

#include "model/model.h"

#include <stdio.h>

typedef struct options {
    const char *model;
    bool tensors, json;
} options;

static const zb_opt table[] = {
    {ZB_OPT_STR, "model", 'm', offsetof(options, model), NULL, 0, 0, NULL,
     "model folder or .gguf file (or as the only argument)"},
    {ZB_OPT_BOOL, "tensors", 0, offsetof(options, tensors), NULL, 0, 0, NULL,
     "list every tensor: name, type, shape"},
    {ZB_OPT_BOOL, "json", 'j', offsetof(options, json), NULL, 0, 0, NULL, "JSON instead of text"},
    {0},
};

static const zb_cli_about about = {
    "MODEL [options]",
    "Prints layers, parameters, cache per token, state per sequence and weights of a model.",
    "kv_percent compares the cached values per token with those of the same model with attention "
    "in every layer.\n"
    "Bytes of caches and states are those in f32; --cache-type of other commands holds caches in "
    "less.",
};

enum { VALUE_BYTES = 4 };

static json_t *layer_json(const zb_config *c, int l) {
    const zb_layer_config *k = &c->layer[l];
    json_t *o = json_pack("{s:i, s:s}", "layer", l, "kind", zb_kind_name(k->kind));
    if (k->kind == ZB_ATTENTION || k->window)
        json_object_update_new(
            o, json_pack("{s:i, s:i, s:i}", "heads", c->H, "kv_heads", c->G, "head_size", c->dh));
    if (k->kind == ZB_MLA)
        json_object_update_new(o, json_pack("{s:i, s:i, s:i, s:i, s:i, s:i}", "heads", c->H, "r_q",
                                            k->r_q, "r_kv", k->r_kv, "d_nope", k->d_nope, "d_rope",
                                            k->d_rope, "d_v", k->d_v));
    if (zb_kind_has_mamba2(k->kind))
        json_object_update_new(o, json_pack("{s:i, s:i, s:i}", "heads", c->H, "head_size", c->dh,
                                            "convolution_channels", zb_mamba2_channels(c, l)));
    if (k->window)
        json_object_update_new(o, json_pack("{s:i, s:i, s:o, s:i, s:i}", "window", k->window,
                                            "sinks", k->sinks, "retrieval_heads",
                                            zb_config_retrieval_json(c, l), "retrieval_key_dim",
                                            zb_config_far_key(c, l), "retrieval_value_dim",
                                            zb_config_far_value(c, l)));
    json_object_set_new(o, "cache_bytes_per_token",
                        json_integer((json_int_t)zb_config_cache(c, l) * VALUE_BYTES));
    json_object_set_new(o, "state_bytes", json_integer((json_int_t)zb_state_fixed_bytes(c, l)));
    return o;
}

static void add_to(json_t *o, const char *key, json_int_t n) {
    json_object_set_new(o, key, json_integer(json_integer_value(json_object_get(o, key)) + n));
}

static json_t *model_json(zb_model *m, bool tensors) {
    const zb_config *c = zb_model_config(m);
    const zb_param_table *t = zb_model_params(m);
    json_t *layers = json_array(), *kinds = json_object(), *bytes = json_object(),
           *list = json_array();
    json_int_t cache = 0, state = 0;
    for (int l = 0; l < c->L; l++) {
        json_array_append_new(layers, layer_json(c, l));
        add_to(kinds, zb_kind_name(c->layer[l].kind), 1);
        cache += (json_int_t)zb_config_cache(c, l) * VALUE_BYTES;
        state += (json_int_t)zb_state_fixed_bytes(c, l);
    }
    for (int i = 0; i < t->n; i++) {
        const zb_param *p = &t->item[i];
        size_t size = 0;
        const char *type = zb_dtype_get(p->dtype)->name;
        if (zb_dtype_size(p->dtype, zb_param_count(p), &size))
            add_to(bytes, type, (json_int_t)size);
        json_t *shape = json_array();
        for (int d = 0; d < p->n_dims; d++) json_array_append_new(shape, json_integer(p->shape[d]));
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:o}", "name", p->name, "dtype", type, "shape", shape));
    }
    json_t *o = json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:b}", "model",
                          zb_model_path(m), "model_type", c->model_type, "hidden", c->D, "n_layers",
                          c->L, "heads", c->H, "kv_heads", c->G, "head_size", c->dh, "mlp", c->F,
                          "vocabulary", c->V, "context", c->context_max, "tied", c->tied);
    json_object_update_new(o, json_pack("{s:I, s:f, s:I, s:I, s:I, s:o, s:o, s:o}", "parameters",
                                        (json_int_t)zb_params_total(t), "kv_percent",
                                        zb_config_kv_percent(c), "kv_bytes_per_token", cache,
                                        "state_bytes", state, "weight_bytes",
                                        (json_int_t)zb_model_bytes(m), "weight_bytes_by_dtype",
                                        bytes, "layer_kinds", kinds, "layers", layers));
    if (tensors)
        json_object_set_new(o, "tensors", list);
    else
        json_decref(list);
    return o;
}

/* Rows "key value" of an object's simple values, nested objects on one line. */
static void print_object(json_t *o, int width) {
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v) {
        if (json_is_array(v) && width) continue;
        printf(width ? "%-*s  " : "%*s%s ", width, width ? key : "", key);
        if (json_is_object(v))
            print_object(v, 0);
        else
            json_dumpf(v, stdout, JSON_ENCODE_ANY | JSON_REAL_PRECISION(5));
        fputs(width ? "\n" : "  ", stdout);
    }
}

static zb_status run(zb_cli *cli, const options *o) {
    const char *path = o->model ? o->model : cli->n_pos ? cli->pos[0] : NULL;
    zb_model *m;
    ZB_TRY(zb_cli_need(cli, path, "a model folder or .gguf file"));
    ZB_TRY(zb_model_open(&m, path, ZB_MODEL_RUN, &cli->err));
    json_t *all = model_json(m, o->tensors);
    zb_model_free(m);
    if (o->json) return zb_cli_print_json(cli, all, true);
    print_object(all, 22);
    size_t i;
    json_t *row;
    putchar('\n');
    json_array_foreach(json_object_get(all, "layers"), i, row) {
        print_object(row, 0);
        putchar('\n');
    }
    json_array_foreach(json_object_get(all, "tensors"), i, row) {
        printf("%-60s %-5s ", json_string_value(json_object_get(row, "name")),
               json_string_value(json_object_get(row, "dtype")));
        json_dumpf(json_object_get(row, "shape"), stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(all);
    return ZB_OK;
}

int zb_cmd_inspect(int argc, char **argv) {
    options o;
    zb_cli cli;
    int status;
    const zb_opt_group groups[] = {{"options", table, &o}, {0}};
    if (!zb_cli_begin(&cli, argc, argv, groups, 1, &about, &status)) return status;
    return zb_cli_end(&cli, run(&cli, &o));
}
