/* Layers with a window and a memory as they start: whatever the initialisation, the model is bit by
 * bit the one with plain windows; the memory of a calibrated start, let in, brings the layer closer
 * to the teacher's; and the gate is where training can begin. */
#include "../golden/golden.h"

#include "compose/init.h"

enum { L = 4, TOKENS = 1024, LENGTH = 64, WINDOW = 6, SINKS = 2 };

typedef struct models {
    zb_model *teacher, *student, *windows;
    zb_calibration *calibration;
    zb_arena arena;
} models;

/* Every parameter that the teacher has, too. */
static void copy_rows(zb_model *from, zb_model *to) {
    zb_param_table *t = zb_model_params(to);
    for (int i = 0; i < t->n; i++) {
        const zb_param *q = zb_params_find(zb_model_params(from), t->item[i].name);
        if (q) zb_param_to_f32(q, 0, q->rows, t->item[i].w);
    }
}

static zb_model *new_model(const models *m, zb_kind kind, bool calibrated) {
    zb_config c = *zb_model_config(m->teacher);
    zb_model *out;
    c.hybrid = true;
    for (int l = 1; l < L; l += 2)
        c.layer[l] = (zb_layer_config){.kind = kind, .window = WINDOW, .sinks = SINKS};
    for (int l = 1; l < L && kind != ZB_SLIDING_WINDOW; l += 2)
        c.layer[l].conv_identity = c.layer[l].gate_bias = calibrated;
    CHECK(zb_config_check(&c, "test", &err));
    CHECK(zb_model_new(&out, &c, &err));
    copy_rows(m->teacher, out);
    return out;
}

static void write_text(const char *path) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int d = 0; d < 40; d++) {
        fputs("{\"input_ids\":[", f);
        for (int i = 0; i < 100; i++)
            fprintf(f, "%s%d", i ? "," : "", 3 + (d * 31 + i * i * 7 + i * d) % 94);
        fputs("]}\n", f);
    }
    fclose(f);
}

static zb_init_job job_of(models *m, const zb_init *init, int layer) {
    static const char *const names[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    const float *w[4];
    for (int i = 0; i < 4; i++) {
        char name[96];
        snprintf(name, sizeof name, "model.layers.%d.self_attn.%s.weight", layer, names[i]);
        w[i] = zb_params_find(zb_model_params(m->teacher), name)->data;
    }
    return (zb_init_job){.config = zb_model_config(m->student),
                         .layer = layer,
                         .q = w[0],
                         .k = w[1],
                         .v = w[2],
                         .o = w[3],
                         .params = zb_model_params(m->student),
                         .seed = 5,
                         .calibration = init->calibrated ? m->calibration : NULL,
                         .key_weight = 2,
                         .fit = {.ridge = 1e-2}};
}

static void open_models(models *m, zb_kind kind, const zb_init *init) {
    memset(m, 0, sizeof *m);
    CHECK(zb_model_open(&m->teacher, "tests/golden/llama", ZB_MODEL_RUN, &err));
    m->student = new_model(m, kind, init->calibrated);
    m->windows = new_model(m, ZB_SLIDING_WINDOW, false);
    const char *path = TEST_OUT "/test-windowed-start.jsonl";
    write_text(path);
    zb_calibration_opts o = {
        .text = path, .tokens = TOKENS, .length = LENGTH * 2, .own_inputs = true, .seed = 3};
    CHECK(zb_calibration_new(&m->calibration, m->teacher, m->student, NULL, &o, &err));
    remove(path);
}

static void close_models(models *m) {
    zb_calibration_free(m->calibration);
    zb_model_free(m->student);
    zb_model_free(m->windows);
    zb_model_free(m->teacher);
    zb_arena_free(&m->arena);
}

/* Σ w ‖target - layer(x)‖² over the calibration, with the gate of the layer entered set to g. */
static double miss(models *m, int layer, float g) {
    const zb_calibration *c = m->calibration;
    zb_run *run = zb_runner_run(c->student);
    char name[64];
    snprintf(name, sizeof name, "model.layers.%d.memory_gate", layer);
    zb_init_fill(zb_params_find(zb_model_params(m->student), name)->w, c->D, g);
    double sum = 0;
    for (int p = 0; p < c->pieces; p++) {
        zb_mark mark = zb_arena_mark(&m->arena);
        int n = c->piece[p].n;
        size_t at = (size_t)c->first[p] * (size_t)c->D;
        float *y = ZB_NEW_ARRAY(&m->arena, float, n * c->D);
        CHECK(zb_runner_begin(c->student, &c->piece[p], &err));
        zb_mixer_of(run->config->layer[layer].kind)->forward(run, layer, c->x + at, y, NULL);
        for (int i = 0; i < n * c->D; i++) {
            double e = (double)c->target[at + (size_t)i] - (double)y[i];
            sum += e * e * (double)c->weight[c->first[p] + i / c->D];
        }
        zb_arena_pop(&m->arena, mark);
    }
    zb_init_fill(zb_params_find(zb_model_params(m->student), name)->w, c->D, 0);
    return sum;
}

static void start_layers(models *m, const zb_init *init, zb_init_mixer *memory) {
    for (int l = 0; l < L; l++) {
        CHECK(zb_calibration_enter(m->calibration, l, &err));
        if (l % 2) {
            zb_init_job j = job_of(m, init, l);
            CHECK(zb_init_windowed(&j, memory, &m->arena, &err));
            if (init->calibrated) {
                double closed = miss(m, l, 0), open = miss(m, l, 1);
                if (!(open < 0.98 * closed))
                    fail_msg("layer %d: error %.4g with the memory, %.4g without", l, open, closed);
            }
        }
        CHECK(zb_calibration_leave(m->calibration, false, &err));
    }
}

static void hidden_of(zb_model *m, float *out) {
    static int32_t ids[2 * LENGTH];
    zb_runner *r;
    zb_span span[2] = {{.n = LENGTH}, {.start = LENGTH, .n = LENGTH}};
    for (int i = 0; i < 2 * LENGTH; i++) ids[i] = 3 + i * 13 % 94;
    zb_batch batch = {ids, 2 * LENGTH, span, 2};
    CHECK(zb_runner_new(&r, m, ZB_PREC_F32, &err));
    CHECK(zb_runner_begin(r, &batch, &err));
    zb_runner_forward(r, out, NULL);
    zb_runner_free(r);
}

static void check_start(zb_kind kind, const zb_init *init, zb_init_mixer *memory) {
    models m;
    open_models(&m, kind, init);
    start_layers(&m, init, memory);
    size_t n = (size_t)2 * LENGTH * (size_t)zb_model_config(m.teacher)->D;
    float *got = ZB_NEW_ARRAY(&m.arena, float, n), *want = ZB_NEW_ARRAY(&m.arena, float, n);
    hidden_of(m.student, got);
    hidden_of(m.windows, want);
    assert_memory_equal(got, want, n * sizeof(float));
    close_models(&m);
}

static void test_mamba2(void **state) {
    (void)state;
    check_start(ZB_WINDOWED_MAMBA2, &zb_init_paper, zb_init_paper.mamba2);
    check_start(ZB_WINDOWED_MAMBA2, &zb_init_calibrated, zb_init_calibrated.mamba2);
}

static void test_deltanet(void **state) {
    (void)state;
    check_start(ZB_WINDOWED_DELTANET, &zb_init_paper, zb_init_paper.deltanet);
    check_start(ZB_WINDOWED_DELTANET, &zb_init_calibrated, zb_init_calibrated.deltanet);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mamba2),
                                       cmocka_unit_test(test_deltanet)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
