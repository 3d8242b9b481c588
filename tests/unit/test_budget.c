/* test_budget.c - tables of measurements, plans from them, and models from plans. */
#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "compose/budget.h"
#include "compose/measuring.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "text_folder.h"

static zb_arena arena;
static zb_err err;

static const char teacher[] = "tests/golden/llama",
                  words[] = "attention,zero,linear,mamba2,mla:6+6,mla:12+6,mla:9+8,"
                            "sliding_window:8+2,sliding_window:12";

static int open_folder(void **state) {
    (void)state;
    return text_folder_open("budget");
}

static int remove_folder(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return text_folder_remove();
}

static const char *in_folder(const char *name) { return zb_path_join(&arena, folder, name); }

static zb_select_opts options(void) {
    zb_select_opts o = {0};
    zb_opt_group g[] = {{"", zb_select_opt_table, &o}, {0}};
    zb_opts_defaults(g);
    o.teacher = teacher;
    o.text = o.calibration = text;
    o.calibration_tokens = 1024;
    o.tokens = 256;
    o.sequence_length = 64;
    o.batch = 3;
    o.candidates = words;
    o.context = 64;
    o.cache_percent = 60;
    o.out = in_folder("select.json");
    o.measures = in_folder("table.json");
    o.students = in_folder("students");
    o.precision = "f32";
    return o;
}

static json_t *read_json(const char *path) {
    json_t *o;
    assert_int_equal(zb_json_read(path, 1 << 24, &o, &err), ZB_OK);
    return o;
}

static zb_str contents(const char *path) {
    zb_str s;
    assert_int_equal(zb_file_read(path, 1 << 24, &arena, &s, &err), ZB_OK);
    return s;
}

static void select_ok(const zb_select_opts *o) {
    if (zb_select_run(o, &err) != ZB_OK) fail_msg("%s", err.msg);
}

/* A table that lost rows and candidates is completed to the same bytes, and so is the plan. */
static void test_resumed_equals_undisturbed(void **state) {
    (void)state;
    zb_select_opts o = options();
    select_ok(&o);
    zb_str whole = contents(o.measures), plan = contents(o.out);
    json_t *t = read_json(o.measures), *rows = json_object_get(t, "measures");
    assert_int_equal(json_array_size(rows), 4 * 9);
    for (int i = 0; i < 3; i++)
        for (size_t r = (size_t)i; r < json_array_size(rows); r += 3) json_array_remove(rows, r);
    assert_true(json_array_size(rows) < 20);
    assert_int_equal(zb_json_write(o.measures, t, &err), ZB_OK);
    json_decref(t);
    select_ok(&o);
    assert_true(zb_str_eq(contents(o.measures), whole));
    assert_true(zb_str_eq(contents(o.out), plan));
    /* a complete table needs no model */
    o.teacher = NULL;
    o.verify = 0;
    select_ok(&o);
}

/* The figure of a layer alone is that of the whole model with this layer. */
static void test_single_layers_are_whole_models(void **state) {
    (void)state;
    zb_select_opts o = options();
    zb_compose_opts compose;
    zb_opt_group g[] = {{"", zb_compose_opt_table, &compose}, {0}};
    zb_opts_defaults(g);
    compose.init = "calibrated";
    compose.calibration = text;
    compose.calibration_tokens = 1024;
    zb_measuring_opts how = {.teacher = teacher,
                             .text = text,
                             .students = o.students,
                             .precision = "f32",
                             .tokens = 256,
                             .length = 64,
                             .batch = 3,
                             .recall_rows = 2,
                             .seed = 42,
                             .compose = &compose};
    zb_measuring *m;
    zb_measures t;
    assert_int_equal(zb_measures_read(&t, o.measures, &arena, &err), ZB_OK);
    assert_int_equal(zb_measuring_new(&m, &how, &err), ZB_OK);
    for (int c = 0; c < t.n; c++) {
        if (t.candidate[c].what != ZB_CANDIDATE_KIND) continue;
        for (int l = 0; l < 4; l++) {
            int choice[4] = {0};
            double kl, recall;
            choice[l] = c;
            assert_int_equal(zb_measuring_plan(m, &t, choice, &kl, &recall, &err), ZB_OK);
            assert_true(fabs(kl - t.row[c][l].kl) < 1e-6);
            assert_true(fabs(recall - t.row[c][l].recall) < 1e-5);
            assert_true(c == 0 || kl > 1e-4); /* the change is seen */
        }
    }
    zb_measuring_free(m);
    json_decref(t.setup);
}

/* Bytes, kinds and sizes of the composed model are those of the plan. */
static void test_plan_is_composed(void **state) {
    (void)state;
    static const double percent[] = {25, 40, 60, 90, 200};
    for (int i = 0; i < 5; i++) {
        zb_select_opts o = options();
        o.cache_percent = percent[i];
        o.verify = i == 1 ? 3 : 0;
        o.context = i == 4 ? 4 : 256;
        select_ok(&o);
        json_t *plan = read_json(o.out), *rows = json_object_get(plan, "plan");
        zb_compose_opts c;
        zb_opt_group g[] = {{"", zb_compose_opt_table, &c}, {0}};
        zb_opts_defaults(g);
        c.teacher = teacher;
        c.selection = o.out;
        c.out = in_folder("hybrid");
        c.init = "calibrated";
        c.calibration = text;
        c.calibration_tokens = 1024;
        if (zb_compose_run(&c, &err) != ZB_OK) fail_msg("%s", err.msg);
        zb_config k;
        assert_int_equal(zb_config_read(&k, c.out, &err), ZB_OK);
        int64_t bytes = 0, limit = json_integer_value(json_object_get(plan, "budget_bytes"));
        for (int l = 0; l < k.L; l++) {
            const char *name =
                json_string_value(json_object_get(json_array_get(rows, (size_t)l), "candidate"));
            zb_candidate want;
            assert_int_equal(zb_candidate_parse(&want, name, "", &arena, &err), ZB_OK);
            assert_int_equal(k.layer[l].kind, want.kind);
            if (want.kind == ZB_MLA) {
                assert_int_equal(k.layer[l].r_kv, want.size);
                assert_int_equal(k.layer[l].d_rope, want.more);
            }
            if (want.size && zb_kind_has_window(want.kind))
                assert_int_equal(k.layer[l].window, want.size);
            bytes += 4 * (zb_config_state(&k, l) + zb_config_window(&k, l) +
                          (int64_t)zb_config_cache(&k, l) * o.context);
        }
        assert_int_equal(bytes, json_integer_value(json_object_get(plan, "bytes")));
        assert_true(bytes <= limit);
        json_decref(plan);
    }
}

/* Layers of given models are taken as they are, and remembered by their weights. */
static void test_donors(void **state) {
    (void)state;
    zb_select_opts o = options();
    const char *mla = in_folder("students/mla-12+6"), *donor = in_folder("donor");
    zb_model *m, *h;
    assert_int_equal(zb_model_open(&m, mla, ZB_MODEL_TRAIN, &err), ZB_OK);
    for (int l = 0; l < 4; l++) zb_model_params(m)->layer[l][ZB_P_UP]->w[0] += 1;
    assert_int_equal(zb_model_save(m, donor, ZB_F32, teacher, NULL, &err), ZB_OK);
    o.candidates = "mla,mamba2";
    o.mla = donor;
    o.measures = in_folder("donors.json");
    o.budget = "26K";
    o.cache_percent = 0;
    select_ok(&o);
    zb_compose_opts c;
    zb_opt_group g[] = {{"", zb_compose_opt_table, &c}, {0}};
    zb_opts_defaults(g);
    c.teacher = teacher;
    c.selection = o.out;
    c.out = in_folder("of-donors");
    if (zb_compose_run(&c, &err) != ZB_OK) fail_msg("%s", err.msg);
    assert_int_equal(zb_model_open(&h, c.out, ZB_MODEL_TRAIN, &err), ZB_OK);
    int taken = 0;
    for (int l = 0; l < 4; l++) {
        if (zb_model_config(h)->layer[l].kind != ZB_MLA) continue;
        const zb_param *a = zb_model_params(h)->layer[l][ZB_P_UP],
                       *b = zb_model_params(m)->layer[l][ZB_P_UP];
        assert_memory_equal(a->w, b->w, sizeof(float) * (size_t)zb_param_count(a));
        taken++;
    }
    assert_true(taken > 0);
    zb_model_free(h);
    /* lists beside a plan would contradict it */
    c.mla_layers = "1";
    assert_int_equal(zb_compose_run(&c, &err), ZB_ERR_CONFIG);
    /* trained on, with all of the table there, and with half of it */
    zb_params_find(zb_model_params(m), "model.layers.2.mla.out_proj.weight")->w[0] += 1;
    assert_int_equal(zb_model_save(m, donor, ZB_F32, teacher, NULL, &err), ZB_OK);
    zb_model_free(m);
    assert_int_equal(zb_select_run(&o, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "other weights"));
    json_t *t = read_json(o.measures);
    json_array_remove(json_object_get(t, "measures"), 7);
    json_array_remove(json_object_get(t, "measures"), 6);
    assert_int_equal(zb_json_write(o.measures, t, &err), ZB_OK);
    json_decref(t);
    assert_int_equal(zb_select_run(&o, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "other weights than when its layers were measured: remove it"));
}

static void refused(const zb_select_opts *o, zb_status code, const char *says) {
    zb_err why = {0};
    assert_int_equal(zb_select_run(o, &why), code);
    if (!strstr(why.msg, says)) fail_msg("expected \"%s\" in: %s", says, why.msg);
}

/* Sizes are known from configurations: what cannot fit, or be composed, costs no measurement. */
static void test_refused_before_measuring(void **state) {
    (void)state;
    zb_select_opts o = options();
    o.measures = in_folder("early.json");
    o.students = in_folder("early");
    o.cache_percent = 1;
    refused(&o, ZB_ERR_CONFIG, "expected at least 10240 bytes");
    o.cache_percent = 60;
    o.candidates = "attention,mamba2,mla:6+66";
    refused(&o, ZB_ERR_CONFIG, "candidate mla:6+66");
    o.candidates = "attention,mamba2";
    o.recall_rows = 0;
    o.method = "recall";
    refused(&o, ZB_ERR_CONFIG, "holds no recall");
    assert_false(zb_file_exists(o.measures) || zb_dir_exists(o.students));
}

static void test_wrong_options(void **state) {
    (void)state;
    zb_select_opts o = options();
    o.cache_percent = 1;
    refused(&o, ZB_ERR_CONFIG, "expected at least 10240 bytes");
    o.candidates = "zero,linear";
    refused(&o, ZB_ERR_CONFIG, "no candidate to choose");
    o = options();
    o.seed = 7;
    refused(&o, ZB_ERR_CONFIG, "made with seed 42, found 7");
    o = options();
    o.budget = "1M";
    refused(&o, ZB_ERR_CONFIG, "one of budget and cache_percent");
    o.cache_percent = 0;
    o.budget = "many";
    refused(&o, ZB_ERR_CONFIG, "bytes like 60M");
    static const char *const bad[] = {"mla",
                                      "mla:0+4",
                                      "mla:4",
                                      "mla:4+3",
                                      "mamba2:4",
                                      "zero=folder",
                                      "mla=",
                                      "attention:3",
                                      "sliding_window:0",
                                      "mla:4+6,mla:4+6",
                                      "mla:9999999999+4",
                                      "what"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        o = options();
        o.candidates = bad[i];
        refused(&o, ZB_ERR_CONFIG, "candidates: ");
    }
    o = options();
    o.method = "recall";
    o.cache_percent = 0;
    refused(&o, ZB_ERR_CONFIG, "expected budget, cache_percent or compare");
    o.compare = "4,x";
    refused(&o, ZB_ERR_CONFIG, "compare: expected shares");
}

/* A value of the table, set to something it must not be. */
static void test_hostile_tables(void **state) {
    (void)state;
    static const struct {
        const char *list; /* array whose first entry is changed; NULL: the whole */
        const char *key, *value, *says;
    } broken[] = {
        {NULL, "format", "\"other\"", "format: expected"},
        {NULL, "layers", "0", "layers"},
        {NULL, "layers", "1000000000", "layers"},
        {NULL, "layers", "2", "measures["},
        {NULL, "teacher", "[]", "teacher"},
        {NULL, "teacher", "{\"cache_bytes_per_token\": -4}", "cache_bytes_per_token"},
        {NULL, "setup", "3", "setup"},
        {NULL, "candidates", "[3]", "candidates[0]"},
        {NULL, "candidates", "[]", "expected a candidate of the table"},
        {NULL, "measures", "{}", "measures"},
        {"candidates", "name", "\"nonsense\"", "expected a kind of layer"},
        {"candidates", "name", "\"mamba2\"", "twice"},
        {"candidates", "rotary", "-1", "rotary"},
        {"measures", "layer", "4", "layer"},
        {"measures", "layer", "-1", "layer"},
        {"measures", "layer", "1", "twice"},
        {"measures", "candidate", "\"mla:1+2\"", "expected a candidate of the table"},
        {"measures", "kl", "-5", "kl"},
        {"measures", "kl", "\"a\"", "kl"},
        {"measures", "error", "null", "error"},
        {"measures", "cache_bytes_per_token", "9223372036854775807", "cache_bytes_per_token"},
        {"measures", "state_bytes", "-1", "state_bytes"},
    };
    zb_select_opts o = options();
    const char *good = o.measures;
    o.measures = in_folder("hostile.json");
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        json_t *t = read_json(good), *at = t, *v;
        if (broken[i].list) at = json_array_get(json_object_get(t, broken[i].list), 0);
        v = json_loads(broken[i].value, JSON_DECODE_ANY, NULL);
        assert_non_null(v);
        json_object_set_new(at, broken[i].key, v);
        assert_int_equal(zb_json_write(o.measures, t, &err), ZB_OK);
        json_decref(t);
        zb_err why = {0};
        zb_measures m;
        assert_int_equal(zb_measures_read(&m, o.measures, &arena, &why), ZB_ERR_FORMAT);
        if (!strstr(why.msg, broken[i].says) || !strstr(why.msg, "hostile.json"))
            fail_msg("expected \"%s\" in: %s", broken[i].says, why.msg);
    }
}

static void test_hostile_plans(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } broken[] = {
        {"[]", "expected an object"},
        {"{\"plan\": 3}", "plan"},
        {"{\"plan\": []}", "expected 4 layers, found 0"},
        {"{\"plan\": [1, 2, 3, 4]}", "plan[0]"},
        {"{\"plan\": [{}, {}, {}, {}]}", "candidate"},
        {"{\"plan\": [{\"candidate\": \"zero\"}, {}, {}, {}]}", "no kind of layer"},
        {"{\"plan\": [{\"candidate\": \"mla:4+4\"}, {\"candidate\": \"mla:4+6\"}, {}, {}]}",
         "rotary size 4"},
        {"{\"layers\": [-3]}", "0 to 3"},
        {"{\"layers\": [\"a\"]}", "0 to 3"},
        {"{}", "layers"},
    };
    zb_compose_opts c;
    zb_opt_group g[] = {{"", zb_compose_opt_table, &c}, {0}};
    zb_opts_defaults(g);
    c.teacher = teacher;
    c.selection = in_folder("hostile-plan.json");
    c.out = in_folder("never");
    c.kv_rank = 8;
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        zb_err why = {0};
        assert_int_equal(zb_file_write(c.selection, broken[i].text, strlen(broken[i].text), &err),
                         ZB_OK);
        assert_int_not_equal(zb_compose_run(&c, &why), ZB_OK);
        if (!strstr(why.msg, broken[i].says))
            fail_msg("expected \"%s\" in: %s", broken[i].says, why.msg);
        assert_false(zb_dir_exists(c.out));
    }
}

/* Exact methods are best by what they minimise; all stay within the budget. */
static void test_comparison(void **state) {
    (void)state;
    zb_select_opts o = options();
    o.cache_percent = 0;
    o.compare = "1,30,60";
    o.contexts = "64,512";
    o.verify = 1;
    select_ok(&o);
    json_t *out = read_json(o.out), *rows = json_object_get(out, "compare"), *r;
    size_t i;
    int refusals = 0;
    double best = 0;
    assert_int_equal(json_array_size(rows), 2 * 3 * 6);
    json_array_foreach(rows, i, r) {
        const char *method = json_string_value(json_object_get(r, "method"));
        if (json_object_get(r, "refused")) {
            refusals++;
            continue;
        }
        double predicted = json_number_value(json_object_get(r, "predicted_kl"));
        assert_true(json_integer_value(json_object_get(r, "bytes")) <=
                    json_integer_value(json_object_get(r, "budget_bytes")));
        assert_true(json_is_real(json_object_get(r, "kl")));
        if (!strcmp(method, "plan")) best = predicted;
        assert_true(predicted >= best - 1e-9);
    }
    assert_true(refusals >= 6 && refusals < 18); /* 1 % of 64 tokens is too little for all */
    json_decref(out);
}

/* With all weight on recall the plan is that of method recall. */
static void test_recall_weight(void **state) {
    (void)state;
    zb_select_opts o = options();
    o.cache_percent = 0;
    o.compare = "30,60";
    o.contexts = "64";
    o.verify = 0;
    o.recall_weight = 1e6;
    select_ok(&o);
    json_t *out = read_json(o.out), *rows = json_object_get(out, "compare");
    for (size_t i = 0; i < 12; i += 6) { /* plan, kl, recall, ... */
        json_t *plan = json_array_get(rows, i), *recall = json_array_get(rows, i + 2);
        assert_string_equal(json_string_value(json_object_get(recall, "method")), "recall");
        assert_true(
            json_equal(json_object_get(plan, "candidates"), json_object_get(recall, "candidates")));
        assert_true(json_is_null(json_object_get(plan, "kl")));
    }
    json_decref(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resumed_equals_undisturbed),
        cmocka_unit_test(test_single_layers_are_whole_models),
        cmocka_unit_test(test_plan_is_composed),
        cmocka_unit_test(test_donors),
        cmocka_unit_test(test_refused_before_measuring),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_hostile_tables),
        cmocka_unit_test(test_hostile_plans),
        cmocka_unit_test(test_comparison),
        cmocka_unit_test(test_recall_weight),
    };
    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
