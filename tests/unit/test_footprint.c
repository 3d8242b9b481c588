/* Memory of passes as computed beforehand against what they take: a tiny model of each kind of
 * layer, with and without recomputing, with and without a tape. Whole lines of the arena are
 * counted, so the sums may be compared closely: 3 % leaves room for small vectors (labels of spans,
 * sums of rows) that the statements leave out. */
#include "../grad/grad.h"

#include "model/footprint.h"

#include <omp.h>

enum { ROWS = 2, LENGTH = 96, TOKENS = ROWS * LENGTH };

static void assert_close(const char *what, size_t planned, size_t taken) {
    double ratio = (double)planned / (double)taken;
    if (ratio < 0.99 || ratio > 1.03)
        fail_msg("%s: planned %zu bytes, taken %zu", what, planned, taken);
}

typedef struct pass {
    zb_config c;
    zb_model *m;
    zb_runner *r;
    zb_load load;
    int32_t ids[TOKENS];
    zb_span span[ROWS];
    zb_batch batch;
} pass;

static void open_pass_at(pass *p, const zb_layer_config *kind, zb_precision precision) {
    zb_layer_config layers[3] = {*kind, *kind, *kind};
    memset(p, 0, sizeof *p);
    p->c = grad_config(3, 24, layers);
    p->c.F = 40;
    CHECK(zb_model_new(&p->m, &p->c, &err));
    randomise(p->m, 3);
    zb_model_add_grads(p->m);
    CHECK(zb_runner_new(&p->r, p->m, precision, &err));
    for (int i = 0; i < TOKENS; i++) p->ids[i] = i % p->c.V;
    for (int s = 0; s < ROWS; s++) p->span[s] = (zb_span){.start = s * LENGTH, .n = LENGTH};
    p->batch = (zb_batch){p->ids, TOKENS, p->span, ROWS};
    p->load =
        (zb_load){.n = TOKENS, .longest = LENGTH, .spans = ROWS, .threads = omp_get_max_threads()};
    CHECK(zb_runner_begin(p->r, &p->batch, &err));
}

static void open_pass(pass *p, const zb_layer_config *kind) { open_pass_at(p, kind, ZB_PREC_F32); }

static void close_pass(pass *p) {
    zb_runner_free(p->r);
    zb_model_free(p->m);
}

/* The highest mark of the runner's arena since `from`. */
static size_t taken(pass *p, size_t from) { return zb_runner_arena(p->r)->peak - from; }

static void test_forward(void **state) {
    (void)state;
    for (int k = 0; k < 2 * GRAD_CASES; k++) {
        pass p;
        bool bf16 = k >= GRAD_CASES;
        open_pass_at(&p, &grad_cases[k % GRAD_CASES].layer, bf16 ? ZB_PREC_INT8 : ZB_PREC_F32);
        p.load.bf16 = bf16;
        zb_arena *a = zb_runner_arena(p.r);
        float *out = ZB_NEW_ARRAY(a, float, TOKENS *p.c.D);
        size_t from = a->bytes;
        zb_runner_forward(p.r, out, NULL);
        assert_close(grad_cases[k % GRAD_CASES].name, zb_forward_room(&p.c, &p.load),
                     taken(&p, from));
        close_pass(&p);
    }
}

static void check_training(const grad_case *kind, bool recompute) {
    pass p;
    open_pass(&p, &kind->layer);
    zb_arena *a = zb_runner_arena(p.r);
    float *out = ZB_NEW_ARRAY(a, float, TOKENS *p.c.D),
          *dout = ZB_NEW_ARRAY(a, float, TOKENS *p.c.D);
    zb_vocab_sums sums = {0};
    size_t from = a->bytes;
    zb_train_room want = zb_train_room_of(&p.c, &p.load, recompute);
    zb_tape *t = zb_runner_forward_train(p.r, out, recompute);
    assert_close(kind->name, want.kept, a->bytes - from);
    zb_vocab_loss l = {.student = p.r,
                       .teacher = p.r,
                       .hidden = out,
                       .teacher_hidden = out,
                       .dhidden = dout,
                       .n = TOKENS,
                       .weights = {.kl = 1},
                       .scale = 1};
    zb_vocab_loss_run(&l, &sums);
    zb_runner_backward(p.r, t, dout, NULL);
    assert_close(kind->name, want.peak, taken(&p, from));
    close_pass(&p);
}

static void test_training(void **state) {
    (void)state;
    for (int k = 0; k < GRAD_CASES; k++) {
        check_training(&grad_cases[k], false);
        check_training(&grad_cases[k], true);
    }
}

/* One layer as alignment passes it. */
static void test_alignment(void **state) {
    (void)state;
    for (int k = 0; k < GRAD_CASES; k++) {
        pass p;
        open_pass(&p, &grad_cases[k].layer);
        zb_arena *a = zb_runner_arena(p.r);
        size_t n = (size_t)TOKENS * (size_t)p.c.D, alone;
        float *x = ZB_NEW_ARRAY(a, float, n), *y = ZB_NEW_ARRAY(a, float, n),
              *m = ZB_NEW_ARRAY(a, float, n), *d = ZB_NEW_ARRAY(a, float, n);
        zb_runner_embed(p.r, x);
        size_t from = a->bytes;
        zb_layer_tape *t;
        zb_layer_forward(zb_runner_run(p.r), 1, x, y, m, &t);
        zb_room r = zb_layer_room(&p.c, 1, &p.load, true, &alone);
        assert_close(grad_cases[k].name, r.tape, a->bytes - from);
        zb_layer_backward(zb_runner_run(p.r), 1, d, d, NULL, t);
        assert_close(grad_cases[k].name, r.tape + (r.forward > r.backward ? r.forward : r.backward),
                     taken(&p, from));
        close_pass(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_training),
        cmocka_unit_test(test_alignment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
