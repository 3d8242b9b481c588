/* Gradients of every mixer kind and of the decoder layer against finite differences (grad.h). The
 * loss is a fixed random projection of the outputs, L = Σ R ∘ y; its rounding noise is that of the
 * outputs, 8 · 2^-24 each and independent (a handful of short f32 sums), hence 8 · 2^-24 · |R ∘ y|.
 */
#include "grad.h"

typedef struct probe {
    zb_model *model;
    zb_runner *runner;
    bool layer; /* the whole layer, else the mixer alone */
    int n, D;
    float *x;      /* [n, D] */
    float *r, *rm; /* projections of y and of the mixer's output; NULL: not part of the loss */
    int32_t ids[GRAD_TOKENS];
    zb_batch batch;
    zb_arena arena;
} probe;

static void open_probe_at(probe *p, const grad_case *g, bool layer, zb_precision precision) {
    memset(p, 0, sizeof *p);
    zb_config c = case_config(g);
    CHECK(zb_model_new(&p->model, &c, &err));
    randomise(p->model, 3);
    zb_model_add_grads(p->model);
    CHECK(zb_runner_new(&p->runner, p->model, precision, &err));
    p->layer = layer;
    p->n = GRAD_TOKENS;
    p->D = c.D;
    p->batch = (zb_batch){p->ids, p->n, grad_spans, GRAD_SPANS};
    p->x = ZB_NEW_ARRAY(&p->arena, float, p->n * p->D);
    p->r = ZB_NEW_ARRAY(&p->arena, float, p->n * p->D);
    fill(p->x, p->n * p->D, 1, 0, 11);
    fill(p->r, p->n * p->D, 1, 0, 12);
    CHECK(zb_runner_begin(p->runner, &p->batch, &err));
}

static void open_probe(probe *p, const grad_case *g, bool layer) {
    open_probe_at(p, g, layer, ZB_PREC_F32);
}

static void close_probe(probe *p) {
    zb_runner_free(p->runner);
    zb_model_free(p->model);
    zb_arena_free(&p->arena);
}

static void project(const float *r, const float *y, int n, double *value, double *square) {
    for (int i = 0; r && i < n; i++) {
        double v = (double)r[i] * (double)y[i];
        *value += v;
        *square += v * v;
    }
}

static double probe_value(void *arg, double *noise) {
    probe *p = arg;
    zb_run *run = zb_runner_run(p->runner);
    zb_mark mark = zb_arena_mark(run->arena);
    int n = p->n * p->D;
    float *y = ZB_NEW_ARRAY(run->arena, float, n), *mix = ZB_NEW_ARRAY(run->arena, float, n);
    if (p->layer)
        zb_layer_forward(run, 0, p->x, p->r ? y : NULL, mix, NULL);
    else
        zb_mixer_of(run->config->layer[0].kind)->forward(run, 0, p->x, y, NULL);
    double value = 0, square = 0;
    project(p->r, y, n, &value, &square);
    project(p->rm, mix, n, &value, &square);
    *noise = 8 * 0x1p-24 * sqrt(square);
    zb_arena_pop(run->arena, mark);
    return value;
}

/* Fills the parameters' gradients and dx [n, D]. */
static void probe_backward(probe *p, float *dx) {
    zb_run *run = zb_runner_run(p->runner);
    zb_mark mark = zb_arena_mark(run->arena);
    int n = p->n * p->D;
    float *y = ZB_NEW_ARRAY(run->arena, float, n);
    zb_model_zero_grads(p->model);
    if (p->layer) {
        zb_layer_tape *tape;
        zb_layer_forward(run, 0, p->x, p->r ? y : NULL, NULL, &tape);
        zb_layer_backward(run, 0, p->r, p->rm, dx, tape);
    } else {
        const zb_mixer *m = zb_mixer_of(run->config->layer[0].kind);
        void *tape;
        m->forward(run, 0, p->x, y, &tape);
        m->backward(run, 0, p->x, p->r, dx, tape);
    }
    zb_arena_pop(run->arena, mark);
}

/* Every parameter that takes part, and the input. Returns how many parameters had a gradient. */
static int check_all(probe *p, const char *name) {
    float *dx = ZB_NEW_ARRAY(&p->arena, float, p->n * p->D);
    probe_backward(p, dx);
    grad_loss loss = {probe_value, p, 0x1p-7};
    char what[192];
    snprintf(what, sizeof what, "%s: input", name);
    check_gradient(what, &loss, p->x, dx, p->n * p->D);
    zb_param_table *t = zb_model_params(p->model);
    int checked = 0;
    for (int i = 0; i < t->n; i++) {
        zb_param *q = &t->item[i];
        double size = 0;
        for (int64_t k = 0; k < zb_param_count(q); k++) size += fabs((double)q->grad[k]);
        bool mlp = q->role == ZB_ROLE_MLP || strstr(q->name, "post_attention");
        bool outside = q->layer < 0 || (!p->layer && (mlp || strstr(q->name, "input_layernorm"))) ||
                       (p->layer && !p->r && mlp);
        if (outside) {
            assert_true(size == 0);
            continue;
        }
        snprintf(what, sizeof what, "%s: %s", name, q->name);
        check_gradient(what, &loss, q->w, q->grad, zb_param_count(q));
        checked++;
    }
    return checked;
}

static void test_mixers(void **state) {
    (void)state;
    static const int parameters[GRAD_CASES] = {4, 8,  5, 7, 5,  8,  8,  9, 4,
                                               8, 18, 8, 8, 13, 13, 14, 18};
    for (int i = 0; i < GRAD_CASES; i++) {
        probe p;
        open_probe(&p, &grad_cases[i], false);
        assert_int_equal(check_all(&p, grad_cases[i].name), parameters[i]);
        close_probe(&p);
    }
}

/* The layer with a gradient of its output, one more of the mixer's output, and the latter alone (no
 * MLP pass). */
static void test_layer(void **state) {
    (void)state;
    static const int cases[] = {1, 3, 5};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int form = 0; form < 3; form++) {
            probe p;
            char name[96];
            open_probe(&p, &grad_cases[cases[i]], true);
            if (form > 0) {
                p.rm = ZB_NEW_ARRAY(&p.arena, float, p.n *p.D);
                fill(p.rm, p.n * p.D, 0.7, 0, 13);
            }
            if (form == 2) p.r = NULL;
            snprintf(name, sizeof name, "layer of %s, form %d", grad_cases[cases[i]].name, form);
            assert_true(check_all(&p, name) >= 5);
            close_probe(&p);
        }
}

/* Without a wish for dx the parameters' gradients are the same bits, and backward adds to what is
 * there. */
static void test_accumulation(void **state) {
    (void)state;
    for (int i = 0; i < GRAD_CASES; i++) {
        probe p;
        open_probe(&p, &grad_cases[i], true);
        zb_param_table *t = zb_model_params(p.model);
        float *dx = ZB_NEW_ARRAY(&p.arena, float, p.n *p.D);
        probe_backward(&p, dx);
        float **first = ZB_NEW_ARRAY(&p.arena, float *, t->n);
        for (int k = 0; k < t->n; k++) {
            size_t bytes = (size_t)zb_param_count(&t->item[k]) * sizeof(float);
            first[k] = zb_alloc(&p.arena, bytes);
            memcpy(first[k], t->item[k].grad, bytes);
        }
        probe_backward(&p, NULL);
        for (int k = 0; k < t->n; k++)
            assert_memory_equal(t->item[k].grad, first[k],
                                (size_t)zb_param_count(&t->item[k]) * sizeof(float));
        zb_run *run = zb_runner_run(p.runner);
        zb_mark mark = zb_arena_mark(run->arena);
        zb_layer_tape *tape;
        float *y = ZB_NEW_ARRAY(run->arena, float, p.n *p.D);
        zb_layer_forward(run, 0, p.x, y, NULL, &tape);
        zb_layer_backward(run, 0, p.r, NULL, NULL, tape);
        zb_arena_pop(run->arena, mark);
        for (int k = 0; k < t->n; k++) {
            int64_t n = zb_param_count(&t->item[k]);
            for (int64_t j = 0; j < n; j++) first[k][j] *= 2;
            compare(t->item[k].name, t->item[k].grad, first[k], n, f32_tolerance(1, GRAD_TOKENS));
        }
        close_probe(&p);
    }
}

/* Operands of attention and scans rounded to bf16, as training does on matrix registers: each is
 * off by 2^-9 of itself at random, and a gradient is a sum of products of up to four of them (dS K,
 * with dS from P, dO and V), each of which softmax and norms pass on. Four times 2 · 2^-9 allowed
 * of an array's size; where there are no such registers, nothing may change. */
static void test_rounding(void **state) {
    (void)state;
    int changed = 0;
    for (int i = 0; i < GRAD_CASES; i++) {
        probe p;
        open_probe_at(&p, &grad_cases[i], false, ZB_PREC_BF16);
        zb_run *run = zb_runner_run(p.runner);
        zb_param_table *t = zb_model_params(p.model);
        float *dx = ZB_NEW_ARRAY(&p.arena, float, p.n *p.D),
              *dx_exact = ZB_NEW_ARRAY(&p.arena, float, p.n *p.D),
              **exact = ZB_NEW_ARRAY(&p.arena, float *, t->n);
        probe_backward(&p, dx_exact);
        for (int k = 0; k < t->n; k++) {
            size_t bytes = (size_t)zb_param_count(&t->item[k]) * sizeof(float);
            exact[k] = memcpy(zb_alloc(&p.arena, bytes), t->item[k].grad, bytes);
        }
        run->rounds = true;
        probe_backward(&p, dx);
        compare_rms("input", dx, dx_exact, p.n * p.D, 0x1p-6);
        for (int k = 0; k < t->n; k++) {
            int64_t n = zb_param_count(&t->item[k]);
            changed += memcmp(exact[k], t->item[k].grad, (size_t)n * sizeof(float)) != 0;
            compare_rms(t->item[k].name, t->item[k].grad, exact[k], n, 0x1p-6);
        }
        close_probe(&p);
    }
    zb_matmul *probe_of;
    CHECK(zb_matmul_new(&probe_of, ZB_PREC_BF16, &err));
    assert_true((changed > 0) == zb_matmul_on_tiles(probe_of));
    zb_matmul_free(probe_of);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mixers), cmocka_unit_test(test_layer),
                                       cmocka_unit_test(test_accumulation),
                                       cmocka_unit_test(test_rounding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
