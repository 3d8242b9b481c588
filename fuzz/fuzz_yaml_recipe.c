/* fuzz_yaml_recipe.c - any bytes as a recipe: read as a tree, its stages applied to an option table
 * that has every type of option, and the result written as JSON. */
#include "base/opts.h"

#include <string.h>

typedef struct settings {
    bool flag;
    int64_t count;
    double rate;
    const char *name, *mode;
} settings;

static const zb_opt table[] = {
    {ZB_OPT_BOOL, "flag", 'f', offsetof(settings, flag), "true", 0, 0, NULL, "a switch"},
    {ZB_OPT_INT, "count", 'n', offsetof(settings, count), "3", 0, 1000, NULL, "how many"},
    {ZB_OPT_F64, "rate", 0, offsetof(settings, rate), "1e-3", 0, 1, NULL, "how fast"},
    {ZB_OPT_STR, "layers", 0, offsetof(settings, name), NULL, 0, 0, NULL, "which"},
    {ZB_OPT_CHOICE, "mode", 0, offsetof(settings, mode), "a", 0, 0, "a|b", "a or b"},
    {0},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zb_arena a = {0};
    zb_err err = {0};
    zb_yaml *root = NULL;
    zb_status s = zb_yaml_parse((const char *)data, size, "fuzz.yaml", &a, &root, &err);
    if (s == ZB_OK) {
        settings v;
        zb_opt_group g[] = {{"Test", table, &v}, {0}};
        zb_opts_defaults(g);
        zb_opts_yaml(g, root, "fuzz.yaml", &a, &err);
        for (const zb_yaml *c = root->child; c; c = c->next)
            if (root->kind == ZB_YAML_MAP) zb_opts_yaml(g, c, "fuzz.yaml", &a, &err);
        ZB_ASSERT(v.count >= 0 && v.count <= 1000 && v.rate >= 0 && v.rate <= 1);
        ZB_ASSERT(!strcmp(v.mode, "a") || !strcmp(v.mode, "b"));
        int ints[8], n;
        if (v.name) zb_list_ints(v.name, "layers", 0, 99, ints, 8, &n, &err);
        json_decref(zb_opts_json(g));
    } else {
        ZB_ASSERT(err.code == s && err.msg[0]);
    }
    zb_arena_free(&a);
    return 0;
}
