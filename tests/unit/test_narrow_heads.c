/* test_narrow_heads.c - retrieval heads that keep a part of their keys and values beyond a window:
 * one softmax over both, by a scalar reference; turning values changes nothing, what is dropped
 * costs what the weights say, and no other choice costs less. */
#include "../golden/golden.h"

#include "base/rng.h"
#include "compose/init.h"
#include "model/rope.h"

enum { L = 4, D = 48, H = 6, G = 2, DH = 16, LAYER = 1, TOKENS = 60, WINDOW = 4, SINKS = 1 };

typedef struct fixture {
    zb_model *teacher, *m;
    zb_runner *r;
    zb_arena arena;
    int32_t ids[TOKENS];
    zb_span span;
    zb_batch batch;
} fixture;

static void copy_rows(fixture *f) {
    zb_param_table *t = zb_model_params(f->m);
    for (int i = 0; i < t->n; i++) {
        const zb_param *q = zb_params_find(zb_model_params(f->teacher), t->item[i].name);
        zb_param_to_f32(q, 0, q->rows, t->item[i].w);
    }
}

/* All heads of the layer see all: the model is the teacher as long as nothing is dropped. */
static void open_heads(fixture *f, uint64_t heads, int far_k, int far_v) {
    memset(f, 0, sizeof *f);
    CHECK(zb_model_open(&f->teacher, "tests/golden/llama", ZB_MODEL_RUN, &err));
    zb_config c = *zb_model_config(f->teacher);
    assert_true(c.D == D && c.H == H && c.G == G && c.dh == DH && c.L == L);
    c.hybrid = true;
    c.layer[LAYER] = (zb_layer_config){.kind = ZB_SLIDING_WINDOW,
                                       .window = WINDOW,
                                       .sinks = SINKS,
                                       .retrieval = heads,
                                       .far_k = far_k,
                                       .far_v = far_v};
    CHECK(zb_config_check(&c, "test", &err));
    CHECK(zb_model_new(&f->m, &c, &err));
    copy_rows(f);
    CHECK(zb_runner_new(&f->r, f->m, ZB_PREC_F32, &err));
    for (int i = 0; i < TOKENS; i++) f->ids[i] = 3 + i * i * 5 % 94;
    f->span = (zb_span){.n = TOKENS};
    f->batch = (zb_batch){f->ids, TOKENS, &f->span, 1};
}

static void open_fixture(fixture *f, int far_k, int far_v) { open_heads(f, 3, far_k, far_v); }

static void close_fixture(fixture *f) {
    zb_runner_free(f->r);
    zb_model_free(f->m);
    zb_model_free(f->teacher);
    zb_arena_free(&f->arena);
}

static void turn(fixture *f) {
    zb_init_job j = {
        .config = zb_model_config(f->m), .layer = LAYER, .params = zb_model_params(f->m)};
    CHECK(zb_init_retrieval(&j, &f->arena, &err));
}

static float *pass(fixture *f) {
    float *out = ZB_NEW_ARRAY(&f->arena, float, TOKENS *D);
    CHECK(zb_runner_begin(f->r, &f->batch, &err));
    zb_runner_forward(f->r, out, NULL);
    return out;
}

static double distance(const float *a, const float *b, int n) {
    double sum = 0, size = 0;
    for (int i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        sum += d * d;
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(sum / size);
}

/* Turned and whole, the model gives what it gave; so it does with sizes that drop nothing. */
static void test_turning_keeps_the_layer(void **unused) {
    (void)unused;
    fixture f, g;
    open_fixture(&f, 0, 0);
    open_fixture(&g, DH, DH);
    const float *want = pass(&f), *same = pass(&g);
    assert_memory_equal(want, same, TOKENS * D * sizeof *want);
    const zb_param *v =
        zb_params_find(zb_model_params(f.m), "model.layers.1.self_attn.v_proj.weight");
    float before = v->w[0];
    turn(&f);
    assert_true(v->w[0] != before);
    double d = distance(pass(&f), want, TOKENS * D);
    if (!(d < 1e-5)) fail_msg("turned: relative distance %.3g", d);
    close_fixture(&f);
    close_fixture(&g);
}

/* Σ over the query heads of ‖Wo_h (v - v')‖² where v' keeps the first r values, in the mean over
 * inputs of independent values with the sizes of the norm's weights, by the weights themselves. */
static double dropped(fixture *f, int r) {
    zb_param_table *t = zb_model_params(f->m);
    const float *v = zb_params_find(t, "model.layers.1.self_attn.v_proj.weight")->w,
                *o = zb_params_find(t, "model.layers.1.self_attn.o_proj.weight")->w,
                *norm = zb_params_find(t, "model.layers.1.input_layernorm.weight")->w;
    double sum = 0;
    for (int h = 0; h < H; h++)
        for (int d = 0; d < D; d++)
            for (int x = 0; x < D; x++) {
                double w = 0;
                for (int i = r; i < DH; i++)
                    w += (double)o[(d * H + h) * DH + i] *
                         (double)v[(h / (H / G) * DH + i) * D + x] * (double)norm[x];
                sum += w * w;
            }
    return sum;
}

/* The first values carry the most: each carries no more than the one before it, and what the others
 * carry together is less than in the teacher's order. */
static void test_first_values_carry_the_most(void **unused) {
    (void)unused;
    fixture f;
    open_fixture(&f, 0, 0);
    double plain[DH], whole = dropped(&f, 0);
    for (int r = 0; r < DH; r++) plain[r] = dropped(&f, r);
    turn(&f);
    assert_true(fabs(dropped(&f, 0) - whole) < 1e-5 * whole);
    double last = whole, before = whole;
    for (int r = 1; r < DH; r++) {
        double rest = dropped(&f, r);
        assert_true(rest < last && rest < plain[r]);
        assert_true(last - rest <= before * 1.001);
        before = last - rest;
        last = rest;
    }
    assert_true(dropped(&f, 12) < 0.5 * plain[12]);
    close_fixture(&f);
}

enum { KEPT_K = 10, KEPT_V = 12 };

static float *map(fixture *f, const char *name, const float *x, int n) {
    const zb_param *p = zb_params_find(zb_model_params(f->m), name);
    float *y = ZB_NEW_ARRAY(&f->arena, float, n * p->rows);
    for (int i = 0; i < n; i++)
        for (int r = 0; r < p->rows; r++) {
            double sum = 0;
            for (int k = 0; k < p->cols; k++)
                sum += (double)p->w[r * p->cols + k] * (double)x[i * p->cols + k];
            y[i * p->rows + r] = (float)sum;
        }
    return y;
}

/* What the token at position p sees of the one at j: 0 nothing, 1 the kept part, 2 all. */
static int seen(const zb_layer_config *m, int g, int p, int j) {
    if (j > p) return 0;
    if (p - j < m->window || j < m->sinks) return 2;
    return (m->retrieval >> g & 1) != 0;
}

/* Output of query head h at position t, from the definition. */
static void head_output(const zb_layer_config *m, int h, int t, const float *q, const float *k,
                        const float *v, float *out) {
    int g = h / (H / G);
    double weight[TOKENS], total = 0, sum[DH] = {0};
    for (int j = 0; j <= t; j++) {
        int part = seen(m, g, t, j);
        double s = 0;
        for (int i = 0; i < DH; i++) { /* pairs i, i + DH/2; the last of each half are slow */
            bool kept = i % (DH / 2) >= DH / 2 - KEPT_K / 2;
            if (part == 2 || kept)
                s += (double)q[(t * H + h) * DH + i] * (double)k[(j * G + g) * DH + i];
        }
        weight[j] = part ? exp(s / sqrt(DH)) : 0;
        total += weight[j];
    }
    for (int j = 0; j <= t; j++)
        for (int i = 0; i < DH; i++)
            if (seen(m, g, t, j) == 2 || i < KEPT_V)
                sum[i] += weight[j] * (double)v[(j * G + g) * DH + i];
    for (int i = 0; i < DH; i++) out[(t * H + h) * DH + i] = (float)(sum[i] / total);
}

static void test_one_softmax_over_both(void **unused) {
    (void)unused;
    for (uint64_t heads = 1; heads <= 3; heads++) {
        fixture f;
        open_heads(&f, heads, KEPT_K, KEPT_V);
        float x[TOKENS * D], y[TOKENS * D], *o = ZB_NEW_ARRAY(&f.arena, float, TOKENS *H *DH);
        for (int i = 0; i < TOKENS * D; i++)
            x[i] = (float)(2 * zb_rng_normal(3, ZB_RNG_TEST, (uint64_t)i));
        float *q = map(&f, "model.layers.1.self_attn.q_proj.weight", x, TOKENS),
              *k = map(&f, "model.layers.1.self_attn.k_proj.weight", x, TOKENS),
              *v = map(&f, "model.layers.1.self_attn.v_proj.weight", x, TOKENS);
        CHECK(zb_runner_begin(f.r, &f.batch, &err));
        zb_run *run = zb_runner_run(f.r);
        zb_rope_turn(run, q, H, false);
        zb_rope_turn(run, k, G, false);
        for (int t = 0; t < TOKENS; t++)
            for (int h = 0; h < H; h++) head_output(&run->config->layer[LAYER], h, t, q, k, v, o);
        const float *want = map(&f, "model.layers.1.self_attn.o_proj.weight", o, TOKENS);
        zb_mixer_of(ZB_SLIDING_WINDOW)->forward(run, LAYER, x, y, NULL);
        double d = distance(y, want, TOKENS * D);
        if (!(d < 2e-6)) fail_msg("heads %d: relative distance %.3g", (int)heads, d);
        close_fixture(&f);
    }
}

/* Turned first, a narrow model is nearer to the one that keeps all values. */
static void test_turned_is_nearer(void **unused) {
    (void)unused;
    fixture narrow, whole, unturned;
    open_fixture(&narrow, KEPT_K, KEPT_V);
    open_fixture(&whole, KEPT_K, 0);
    open_fixture(&unturned, KEPT_K, KEPT_V);
    turn(&narrow);
    const float *near = pass(&whole);
    double turned = distance(pass(&narrow), near, TOKENS * D),
           plain = distance(pass(&unturned), near, TOKENS * D);
    if (!(turned < plain && turned > 1e-4)) fail_msg("turned %.3g, as it was %.3g", turned, plain);
    close_fixture(&narrow);
    close_fixture(&whole);
    close_fixture(&unturned);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_turning_keeps_the_layer),
                                       cmocka_unit_test(test_first_values_carry_the_most),
                                       cmocka_unit_test(test_one_softmax_over_both),
                                       cmocka_unit_test(test_turned_is_nearer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
