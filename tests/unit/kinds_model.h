/* kinds_model.h - a model folder with a layer of each kind that tests/golden has none of, and one
 * of attention and MLA beside them: windows, heads that see all, memories, gated DeltaNet. Who
 * includes it has defined KINDS, the folder, one of its own: tests run beside one another. */
#ifndef ZB_TESTS_UNIT_KINDS_MODEL_H
#define ZB_TESTS_UNIT_KINDS_MODEL_H

#include "../grad/grad.h"

#include "base/file.h"

enum { KINDS_LAYERS = 7, KINDS_CONTEXT = 2048 };

static const zb_layer_config kinds_layers[KINDS_LAYERS] = {
    {.kind = ZB_WINDOWED_DELTANET, .window = 7, .sinks = 3},
    {.kind = ZB_SLIDING_WINDOW, .window = 7, .sinks = 3, .retrieval = 2},
    {.kind = ZB_MLA, .r_kv = 8, .d_nope = 4, .d_rope = 4, .d_v = 8, .full_kv_head = true},
    {.kind = ZB_WINDOWED_MAMBA2, .window = 7, .sinks = 3},
    {.kind = ZB_ATTENTION},
    {.kind = ZB_GATED_DELTANET},
    {.kind = ZB_SLIDING_WINDOW, .window = 7, .sinks = 3},
};

/* A model of n of these layers, from `first` on. */
static inline void save_kinds(const char *dir, int first, int n) {
    zb_config c = grad_config(n, 12, kinds_layers + first);
    c.context_max = KINDS_CONTEXT;
    zb_model *m;
    CHECK(zb_config_check(&c, "kinds", &err));
    CHECK(zb_model_new(&m, &c, &err));
    randomise(m, 9);
    CHECK(zb_model_save(m, dir, ZB_F32, NULL, NULL, &err));
    zb_model_free(m);
    CHECK(zb_model_open(&m, dir, ZB_MODEL_RUN, &err));
    for (int l = 0; l < n; l++) {
        const zb_layer_config *got = &zb_model_config(m)->layer[l],
                              *want = &kinds_layers[first + l];
        assert_int_equal(got->kind, want->kind);
        assert_int_equal(got->window, want->window);
        assert_int_equal(got->retrieval, want->retrieval);
    }
    zb_model_free(m);
}

/* Setup and teardown of a group of tests. */
static inline int make_kinds(void **state) {
    (void)state;
    save_kinds(KINDS, 0, KINDS_LAYERS);
    return 0;
}

static inline int remove_kinds(void **state) {
    (void)state;
    return zb_dir_remove(KINDS, NULL) == ZB_OK ? 0 : -1;
}

#endif
