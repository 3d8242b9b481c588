/* Losses, the optimiser and the schedule against tests/golden/losses.safetensors: values and
 * gradients over masked tokens.
 *
 * The reference is f64 from f32 inputs. A row of 301 logits goes through exponentials and one sum,
 * so values and gradients may differ by the rounding of a sum of that length (golden.h, one layer).
 */
#include "golden.h"

#include "model/loss.h"
#include "model/optim.h"

enum { ROWS = 10, V = 301, D = 24 };

typedef struct losses {
    zb_safetensors *file;
    const float *student, *teacher;
    int32_t labels[ROWS]; /* -1 where the mask is 0 */
    uint8_t mask[ROWS];
    int counted;
    float scale; /* 1 / counted */
    zb_arena arena;
} losses;

static void open_losses(losses *l) {
    memset(l, 0, sizeof *l);
    CHECK(zb_safetensors_open(&l->file, "tests/golden/losses.safetensors", &err));
    l->student = golden_f32(l->file, "student", ROWS * V);
    l->teacher = golden_f32(l->file, "teacher", ROWS * V);
    const int32_t *mask = golden_i32(l->file, "mask", ROWS),
                  *labels = golden_i32(l->file, "labels", ROWS);
    for (int i = 0; i < ROWS; i++) {
        l->mask[i] = (uint8_t)mask[i];
        l->labels[i] = mask[i] ? labels[i] : -1;
        l->counted += mask[i];
    }
    assert_in_range(l->counted, 1, ROWS - 1);
    l->scale = 1.0f / (float)l->counted;
}

static void close_losses(losses *l) {
    zb_safetensors_close(l->file);
    zb_arena_free(&l->arena);
}

/* Sums of one tile over all rows; `grad` [ROWS, V] receives the gradient of the weighted mean. */
static zb_vocab_sums run_tile(losses *l, zb_vocab_weights w, bool teacher, bool labels,
                              float *grad) {
    float *s = ZB_NEW_ARRAY(&l->arena, float, ROWS *V),
          *t = ZB_NEW_ARRAY(&l->arena, float, ROWS *V);
    memcpy(s, l->student, ROWS * V * sizeof *s);
    memcpy(t, l->teacher, ROWS * V * sizeof *t);
    zb_vocab_tile tile = {.n = ROWS,
                          .V = V,
                          .student = s,
                          .teacher = teacher ? t : NULL,
                          .labels = labels ? l->labels : NULL,
                          .mask = l->mask,
                          .weights = w,
                          .scale = l->scale,
                          .grad = grad != NULL};
    zb_vocab_sums sums = {0};
    zb_vocab_tile_run(&tile, &sums, &l->arena);
    assert_memory_equal(t, l->teacher, ROWS * V * sizeof *t);
    if (grad) memcpy(grad, s, ROWS * V * sizeof *s);
    return sums;
}

static void compare_value(const losses *l, const char *name, double got, double tol) {
    float v = (float)got;
    compare(name, &v, golden_f32(l->file, name, 1), 1, tol);
}

static void test_vocabulary_losses(void **state) {
    (void)state;
    losses l;
    open_losses(&l);
    double tol = f32_tolerance(1, V);
    float *grad = ZB_NEW_ARRAY(&l.arena, float, ROWS *V);

    zb_vocab_sums s = run_tile(&l, (zb_vocab_weights){.kl = 1}, true, false, grad);
    assert_int_equal(s.tokens, l.counted);
    assert_int_equal(s.predicted, 0);
    compare_value(&l, "kl", s.kl / l.counted, tol);
    compare("kl_grad", grad, golden_f32(l.file, "kl_grad", ROWS * V), ROWS * V, tol);

    s = run_tile(&l, (zb_vocab_weights){.reverse_kl = 1}, true, false, grad);
    compare_value(&l, "reverse_kl", s.reverse_kl / l.counted, tol);
    compare_value(&l, "kl", s.kl / l.counted, tol); /* reported even where it does not train */
    compare("reverse_kl_grad", grad, golden_f32(l.file, "reverse_kl_grad", ROWS * V), ROWS * V,
            tol);

    s = run_tile(&l, (zb_vocab_weights){.ce = 1}, false, true, grad);
    assert_int_equal(s.tokens, 0);
    assert_int_equal(s.predicted, l.counted);
    compare_value(&l, "ce", s.ce / l.counted, tol);
    compare("ce_grad", grad, golden_f32(l.file, "ce_grad", ROWS * V), ROWS * V, tol);
    close_losses(&l);
}

/* A mixture's gradient is the weighted sum of the three, and its sums stay unweighted. */
static void test_mixture(void **state) {
    (void)state;
    losses l;
    open_losses(&l);
    double tol = f32_tolerance(1, V);
    zb_vocab_weights w = {.kl = 0.5, .reverse_kl = 0.25, .ce = 2};
    float *grad = ZB_NEW_ARRAY(&l.arena, float, ROWS *V),
          *want = ZB_NEW_ARRAY(&l.arena, float, ROWS *V);
    const float *kl = golden_f32(l.file, "kl_grad", ROWS * V),
                *rkl = golden_f32(l.file, "reverse_kl_grad", ROWS * V),
                *ce = golden_f32(l.file, "ce_grad", ROWS * V);
    for (int i = 0; i < ROWS * V; i++)
        want[i] =
            (float)(w.kl * (double)kl[i] + w.reverse_kl * (double)rkl[i] + w.ce * (double)ce[i]);
    zb_vocab_sums s = run_tile(&l, w, true, true, grad);
    compare("gradient of the mixture", grad, want, ROWS * V, tol);
    compare_value(&l, "kl", s.kl / l.counted, tol);
    compare_value(&l, "reverse_kl", s.reverse_kl / l.counted, tol);
    compare_value(&l, "ce", s.ce / l.counted, tol);
    int agree = 0;
    for (int i = 0; i < ROWS; i++) {
        int a = 0, b = 0;
        for (int j = 1; j < V; j++) {
            if (l.student[i * V + j] > l.student[i * V + a]) a = j;
            if (l.teacher[i * V + j] > l.teacher[i * V + b]) b = j;
        }
        agree += l.mask[i] && a == b;
    }
    assert_int_equal(s.agree, agree);
    /* evaluation gives the same sums */
    zb_vocab_sums e = run_tile(&l, w, true, true, NULL);
    assert_true(e.kl == s.kl && e.reverse_kl == s.reverse_kl && e.ce == s.ce && e.agree == s.agree);
    /* rows that do not count have no gradient at all */
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; !l.mask[i] && j < V; j++) assert_true(grad[i * V + j] == 0);
    close_losses(&l);
}

/* A teacher equal to the student: no loss, no gradient, full agreement. */
static void test_equal_teacher(void **state) {
    (void)state;
    losses l;
    open_losses(&l);
    l.teacher = l.student;
    float *grad = ZB_NEW_ARRAY(&l.arena, float, ROWS *V);
    zb_vocab_sums s = run_tile(&l, (zb_vocab_weights){.kl = 1, .reverse_kl = 1}, true, false, grad);
    assert_true(fabs(s.kl) < 1e-6 * l.counted && fabs(s.reverse_kl) < 1e-6 * l.counted);
    assert_int_equal(s.agree, l.counted);
    for (int i = 0; i < ROWS * V; i++) assert_true(fabsf(grad[i]) < 1e-7f);
    close_losses(&l);
}

static void test_layer_distillation(void **state) {
    (void)state;
    losses l;
    open_losses(&l);
    const float *a = golden_f32(l.file, "ild_student", ROWS * D),
                *b = golden_f32(l.file, "ild_teacher", ROWS * D);
    double tol = f32_tolerance(1, D);
    for (int squared = 0; squared < 2; squared++) {
        float da[ROWS * D] = {0};
        double sum = zb_ild_loss(ROWS, D, a, b, squared, l.mask, l.scale, da);
        compare_value(&l, squared ? "ild_mse" : "ild_norm", sum / l.counted, tol);
        compare("gradient", da,
                golden_f32(l.file, squared ? "ild_mse_grad" : "ild_norm_grad", ROWS * D), ROWS * D,
                tol);
        /* accumulates, and without a gradient gives the same value */
        zb_ild_loss(ROWS, D, a, b, squared, l.mask, l.scale, da);
        float half[ROWS * D];
        for (int i = 0; i < ROWS * D; i++) half[i] = da[i] / 2;
        compare("accumulated gradient", half,
                golden_f32(l.file, squared ? "ild_mse_grad" : "ild_norm_grad", ROWS * D), ROWS * D,
                tol);
        assert_true(zb_ild_loss(ROWS, D, a, b, squared, l.mask, l.scale, NULL) == sum);
        /* equal rows: the norm has no gradient there, and no NaN */
        float same[ROWS * D] = {0};
        assert_true(zb_ild_loss(ROWS, D, a, a, squared, NULL, 1, same) == 0);
        for (int i = 0; i < ROWS * D; i++) assert_true(same[i] == 0);
    }
    close_losses(&l);
}

static void test_preference(void **state) {
    (void)state;
    losses l;
    open_losses(&l);
    enum { N = 6 };
    static const char *const names[] = {"dpo_policy_chosen", "dpo_policy_rejected",
                                        "dpo_reference_chosen", "dpo_reference_rejected"};
    double v[4][N], d_chosen[N], d_rejected[N];
    for (int k = 0; k < 4; k++) {
        const float *from = golden_f32(l.file, names[k], N);
        for (int i = 0; i < N; i++) v[k][i] = (double)from[i];
    }
    double beta = (double)*golden_f32(l.file, "dpo_beta", 1),
           tol = 0x1p-22; /* f64 inside; the reference is stored in f32 */
    compare_value(&l, "dpo", zb_dpo_loss(N, 0.1, v[0], v[1], v[2], v[3], d_chosen, d_rejected),
                  tol);
    assert_true(fabs(beta - 0.1) < 1e-8);
    float g[N];
    for (int i = 0; i < N; i++) g[i] = (float)d_chosen[i];
    compare("dpo_grad_chosen", g, golden_f32(l.file, "dpo_grad_chosen", N), N, tol);
    for (int i = 0; i < N; i++) g[i] = (float)d_rejected[i];
    compare("dpo_grad_rejected", g, golden_f32(l.file, "dpo_grad_rejected", N), N, tol);
    /* far apart: -log sigmoid(x) is 0 or -x, its slope 0 or -1 */
    double zero[1] = {0}, far[1] = {1e6}, dc[1], dr[1];
    assert_true(zb_dpo_loss(1, 1, far, zero, zero, zero, dc, dr) == 0 && dc[0] == 0);
    assert_true(zb_dpo_loss(1, 1, zero, far, zero, zero, dc, dr) == 1e6 && dc[0] == -1 &&
                dr[0] == 1);
    close_losses(&l);
}

/* Five steps: each rounds the weight about twice (decay, update), the moments' own rounding enters
 * times the rate 1e-2. */
static void test_adamw(void **state) {
    (void)state;
    losses l;
    open_losses(&l);
    enum { N = 17, STEPS = 5 };
    float w[N], g[N];
    memcpy(w, golden_f32(l.file, "adamw_start", N), sizeof w);
    zb_param p = {.name = "w",
                  .dtype = ZB_F32,
                  .data = w,
                  .w = w,
                  .grad = g,
                  .n_dims = 1,
                  .shape = {N},
                  .rows = 1,
                  .cols = N};
    zb_optim o;
    zb_optim_init(&o, 0.9, 0.95, 1e-8);
    zb_optim_add(&o, &p, 1, 0.1);
    for (int i = 0; i < STEPS; i++) {
        memcpy(g, golden_f32(l.file, "adamw_grads", STEPS * N) + i * N, sizeof g);
        zb_optim_step(&o, 1e-2, 1);
    }
    assert_int_equal(o.step, STEPS);
    compare("adamw_end", w, golden_f32(l.file, "adamw_end", N), N, 2 * STEPS * 0x1p-24);
    zb_optim_free(&o);
    close_losses(&l);
}

static void test_schedule(void **state) {
    (void)state;
    losses l;
    open_losses(&l);
    const float *want = golden_f32(l.file, "cosine_warmup10_total100", 101);
    for (int i = 0; i <= 100; i++) {
        double got = zb_schedule_cosine(i, 10, 100, 0);
        if (!(fabs(got - (double)want[i]) <= 0x1p-24))
            fail_msg("step %d: got %.9g, want %.9g", i, got, (double)want[i]);
    }
    close_losses(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vocabulary_losses), cmocka_unit_test(test_mixture),
        cmocka_unit_test(test_equal_teacher),     cmocka_unit_test(test_layer_distillation),
        cmocka_unit_test(test_preference),        cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
