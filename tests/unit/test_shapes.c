/* test_shapes.c - the configurations of bench/shapes against the published figures.
 *
 * Cache shares and parameter counts are those of the papers' tables, to the digits given there;
 * these are cut in some rows and rounded in others. */
#include "model/config.h"
#include "model/model.h"
#include "model/params.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

typedef struct shape {
    const char *name;
    int layers[ZB_KIND_COUNT];
    double kv_percent, billions; /* billions 0: not published */
} shape;

static const shape shapes[] = {
    {"teacher-1b", {16, 0, 0}, 100, 1.24},     {"teacher-3b", {28, 0, 0}, 100, 3.21},
    {"teacher-8b", {32, 0, 0}, 100, 8.03},     {"zebra-1b", {0, 4, 12}, 3.91, 1.28},
    {"zebra-3b", {0, 6, 22}, 2.01, 3.39},      {"zebra-8b", {0, 8, 24}, 2.73, 8.38},
    {"x-ecomla-1b", {0, 16, 0}, 9.37, 0},      {"x-ecomla-3b", {0, 28, 0}, 9.37, 0},
    {"x-ecomla-8b", {0, 32, 0}, 9.37, 0},      {"mamba-in-llama-1b", {8, 0, 8}, 50, 0},
    {"mamba-in-llama-3b", {14, 0, 14}, 50, 0}, {"mamba-in-llama-8b", {16, 0, 16}, 50, 0},
};

static void published_figures(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        char path[128];
        zb_config c;
        zb_err err = {0};
        zb_arena a = {0};
        zb_param_table t;
        int layers[ZB_KIND_COUNT] = {0};
        snprintf(path, sizeof path, "bench/shapes/%s", shapes[i].name);
        if (zb_config_read(&c, path, &err) != ZB_OK) fail_msg("%s", err.msg);
        for (int l = 0; l < c.L; l++) layers[c.layer[l].kind]++;
        for (int k = 0; k < ZB_KIND_COUNT; k++)
            if (layers[k] != shapes[i].layers[k]) fail_msg("%s: kind %d", path, k);
        double percent = zb_config_kv_percent(&c);
        if (fabs(percent - shapes[i].kv_percent) >= 0.01) fail_msg("%s: %.3f %%", path, percent);
        zb_params_declare(&t, &c, &a);
        double billions = (double)zb_params_total(&t) * 1e-9;
        if (shapes[i].billions > 0 && fabs(billions - shapes[i].billions) >= 0.01)
            fail_msg("%s: %.3f billion parameters", path, billions);
        zb_arena_free(&a);
    }
}

/* 17 TB of embedding. */
static void more_than_any_machine_has(void **state) {
    (void)state;
    zb_config c;
    zb_err err = {0};
    zb_model *m;
    assert_int_equal(zb_config_read(&c, "bench/shapes/teacher-8b", &err), ZB_OK);
    c.D = 1 << 20;
    c.V = 1 << 22;
    assert_int_equal(zb_model_new(&m, &c, &err), ZB_ERR_MEMORY);
    assert_null(m);
    assert_non_null(strstr(err.msg, "GiB in f32, the machine has"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(published_figures),
                                       cmocka_unit_test(more_than_any_machine_has)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
