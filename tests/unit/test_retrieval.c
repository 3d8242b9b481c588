/* test_retrieval.c - the search for heads that must see all, against every choice there is. */
#include "../golden/golden.h"

#include "base/json.h"
#include "compose/pairs.h"
#include "compose/select.h"
#include "model/loss.h"

#include "text_folder.h"

enum { L = 4, G = 2, HEADS = L * G, WINDOW = 6, SINKS = 2, ROWS = 2, TOKENS = 512, SEED = 42 };
static const char teacher[] = "tests/golden/llama";

static int open_folder(void **state) {
    (void)state;
    return text_folder_open("retrieval");
}

static int remove_folder(void **state) {
    (void)state;
    return text_folder_remove();
}

static zb_select_opts options(int count) {
    static char out[160];
    zb_select_opts o = {0};
    zb_opt_group g[] = {{"", zb_select_opt_table, &o}, {0}};
    zb_opts_defaults(g);
    snprintf(out, sizeof out, "%s/heads.json", folder);
    o.teacher = teacher;
    o.text = text;
    o.tokens = TOKENS;
    o.method = "heads";
    o.count = count;
    o.window = WINDOW;
    o.sinks = SINKS;
    o.recall_rows = ROWS;
    o.precision = "f32";
    o.out = out;
    return o;
}

static json_t *found(int count) {
    zb_select_opts o = options(count);
    json_t *result;
    CHECK(zb_select_run(&o, &err));
    CHECK(zb_json_read(o.out, 1 << 24, &result, &err));
    return result;
}

static double number(const json_t *o, const char *key) {
    assert_true(json_is_number(json_object_get(o, key)));
    return json_number_value(json_object_get(o, key));
}

/* Recall of a model of its own with those heads of a mask (bit layer·G + head), by definition. */
static double recall_of(unsigned mask) {
    zb_arena a = {0};
    zb_model *from, *m;
    zb_runner *r;
    zb_corpus c;
    zb_pairs p;
    CHECK(zb_model_open(&from, teacher, ZB_MODEL_RUN, &err));
    zb_config k = *zb_model_config(from);
    k.hybrid = true;
    for (int l = 0; l < L; l++)
        k.layer[l] = (zb_layer_config){.kind = ZB_SLIDING_WINDOW,
                                       .window = WINDOW,
                                       .sinks = SINKS,
                                       .retrieval = mask >> (l * G) & 3};
    CHECK(zb_model_new(&m, &k, &err));
    zb_param_table *t = zb_model_params(m);
    for (int i = 0; i < t->n; i++) {
        const zb_param *q = zb_params_find(zb_model_params(from), t->item[i].name);
        zb_param_to_f32(q, 0, q->rows, t->item[i].w);
    }
    CHECK(zb_corpus_read(&c, text, NULL, 0, TOKENS, &a, &err));
    zb_pairs_make(&p, &c, k.V, &(zb_pairs_form){.without = -1}, ROWS, SEED, &a);
    CHECK(zb_runner_new(&r, m, ZB_PREC_F32, &err));
    CHECK(zb_runner_begin(r, &p.b, &err));
    float *x = ZB_NEW_ARRAY(&a, float, p.b.n *k.D), *logits = ZB_NEW_ARRAY(&a, float, k.V);
    zb_runner_forward(r, x, NULL);
    double ce = 0;
    for (int i = 0; i < p.answers; i++) {
        double sum = 0;
        zb_runner_logits(r, x + (size_t)p.row[i] * (size_t)k.D, 1, logits);
        for (int v = 0; v < k.V; v++) sum += exp((double)logits[v]);
        ce += log(sum) - (double)logits[p.label[i]];
    }
    ce /= p.answers;
    zb_runner_free(r);
    zb_model_free(m);
    zb_model_free(from);
    zb_arena_free(&a);
    return ce;
}

static unsigned mask_of(const json_t *result) {
    unsigned mask = 0;
    const char *list = json_string_value(json_object_get(result, "retrieval_heads"));
    assert_non_null(list);
    for (int l, g, n; sscanf(list, "%d:%d%n", &l, &g, &n) == 2; list += n + (list[n] == ','))
        mask |= 1U << (l * G + g);
    return mask;
}

/* Every answer has stood once before behind its key, in the first half of its row. */
static void check_pairs(const zb_pairs *p, int width, int without) {
    assert_true(p->b.n_spans == 3 && p->answers > 0);
    for (int i = 0; i < p->answers; i++) {
        const zb_span *sp = &p->b.span[p->row[i] / p->b.span[0].n];
        int at = p->row[i], key = p->b.ids[width == 2 ? at : at - 1], times = 0;
        for (int t = sp->start + width / 2 - 1; t < sp->start + sp->n / 2; t += width)
            times += p->b.ids[t] == key && p->b.ids[t + width / 2] == p->label[i];
        assert_int_equal(times, 1);
        assert_int_equal(p->b.ids[at + 1], p->label[i]);
        assert_true(at >= sp->start + sp->n / 2 && key != without && p->label[i] != without);
    }
}

static void test_pairs(void **unused) {
    (void)unused;
    zb_arena a = {0};
    zb_corpus c;
    zb_pairs p;
    zb_pairs_form form = {.without = 7};
    CHECK(zb_corpus_read(&c, text, NULL, 0, TOKENS, &a, &err));
    zb_pairs_make(&p, &c, 100, &form, 3, SEED, &a);
    check_pairs(&p, 2, 7);
    form = (zb_pairs_form){.without = 7, .marks = true, .begin = 50, .middle = 51};
    zb_pairs_make(&p, &c, 100, &form, 3, SEED, &a);
    check_pairs(&p, 4, 7);
    for (int t = 0; t < p.b.n; t++) {
        assert_true((p.b.ids[t] == 50) == (t % 4 == 0));
        assert_true((p.b.ids[t] == 51) == (t % 4 == 2));
    }
    form = (zb_pairs_form){.without = -1};
    zb_pairs_make(&p, &c, 100, &form, 0, SEED, &a);
    assert_int_equal(p.answers, 0);
    zb_pairs_make(&p, &c, 3, &form, 2, SEED, &a); /* no ids below 3 in the text */
    assert_int_equal(p.answers, 0);
    zb_arena_free(&a);
}

/* The figures are those of models that are built, and each step is the best of all its choices. */
static void test_search(void **unused) {
    (void)unused;
    json_t *r = found(3), *row;
    size_t i;
    assert_true(fabs(number(r, "teacher_recall") - recall_of((1U << HEADS) - 1)) < 1e-5);
    assert_true(fabs(number(r, "window_recall") - recall_of(0)) < 1e-5);
    assert_true(fabs(number(r, "kv_percent") - 100.0 * 3 / HEADS) < 1e-9);
    json_array_foreach(json_object_get(r, "without_head"), i, row) {
        unsigned bit = 1U << ((int)number(row, "layer") * G + (int)number(row, "head"));
        assert_true(fabs(number(row, "recall") - recall_of(((1U << HEADS) - 1) & ~bit)) < 1e-5);
    }
    assert_int_equal(i, HEADS);
    unsigned mask = (1U << HEADS) - 1;
    json_array_foreach(json_object_get(r, "steps"), i, row) {
        assert_int_equal((int)number(row, "heads"), HEADS - (int)i);
        if (i == 0) continue;
        double best = 1e9;
        for (int h = 0; h < HEADS; h++)
            if (mask >> h & 1) best = fmin(best, recall_of(mask & ~(1U << h)));
        mask &= ~(1U << ((int)number(row, "without_layer") * G + (int)number(row, "without_head")));
        assert_true(fabs(number(row, "recall") - best) < 1e-5);
        assert_true(fabs(number(row, "recall") - recall_of(mask)) < 1e-5);
    }
    assert_int_equal(i, HEADS - 3 + 1);
    assert_int_equal(mask, mask_of(r));
    assert_true(fabs(number(r, "recall") - recall_of(mask)) < 1e-5);
    json_decref(r);
}

static void test_ends(void **unused) {
    (void)unused;
    json_t *none = found(0), *all = found(HEADS);
    assert_int_equal(mask_of(none), 0);
    assert_true(fabs(number(none, "recall") - number(none, "window_recall")) < 1e-5);
    assert_int_equal(mask_of(all), (1U << HEADS) - 1);
    assert_true(fabs(number(all, "recall") - number(all, "teacher_recall")) < 1e-5);
    json_decref(none);
    json_decref(all);
}

static void refuse(const zb_select_opts *o, const char *said) {
    zb_err e = {0};
    assert_true(zb_select_run(o, &e) != ZB_OK);
    if (!strstr(e.msg, said)) fail_msg("expected \"%s\", found \"%s\"", said, e.msg);
}

static void test_refused(void **unused) {
    (void)unused;
    zb_select_opts o = options(HEADS + 1);
    refuse(&o, "at most 8 heads, found 9");
    o = options(2);
    o.recall_rows = 0;
    refuse(&o, "at least one row");
    o = options(2);
    o.teacher = "tests/golden/hybrid";
    refuse(&o, "expected a Transformer as the teacher");
    o = options(2);
    o.out = NULL;
    refuse(&o, "teacher and out are needed");
    /* a recipe's limit holds for any two of the eight heads: 25 % */
    zb_compose_opts c = {0};
    zb_opt_group g[] = {{"", zb_compose_opt_table, &c}, {0}};
    zb_opts_defaults(g);
    c.teacher = teacher;
    c.default_kind = "sliding_window";
    c.kv_percent_max = 24;
    o = options(2);
    o.compose = &c;
    refuse(&o, "2 heads: the plan caches 25.00 %");
    c.kv_percent_max = 25;
    CHECK(zb_select_run(&o, &err));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pairs), cmocka_unit_test(test_search),
                                       cmocka_unit_test(test_ends), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, open_folder, remove_folder);
}
