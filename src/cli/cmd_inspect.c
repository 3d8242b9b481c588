/* cmd_inspect.c - `zebra inspect`: what a model is made of and what it costs to run. */
#include "cli/cli.h"

#include "model/describe.h"

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

static json_t *tensors_json(const zb_param_table *t) {
    json_t *list = json_array();
    for (int i = 0; i < t->n; i++) {
        const zb_param *p = &t->item[i];
        json_t *shape = json_array();
        for (int d = 0; d < p->n_dims; d++) json_array_append_new(shape, json_integer(p->shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o}", "name", p->name, "dtype",
                                              zb_dtype_get(p->dtype)->name, "shape", shape));
    }
    return list;
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
    if (o->model && cli->n_pos)
        return zb_fail(&cli->err, ZB_ERR_USAGE, "expected one model, found -m %s and %s", o->model,
                       cli->pos[0]);
    ZB_TRY(zb_model_open(&m, path, ZB_MODEL_RUN, &cli->err));
    json_t *all = zb_model_describe(m);
    if (o->tensors) json_object_set_new(all, "tensors", tensors_json(zb_model_params(m)));
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
