/* What all stages of training share, on one parameter of a few numbers: when a run ends, what it
 * leaves, what it takes up again. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "train/stage.h"

enum { N = 3, STEPS = 6 };

static char folder[64];
static zb_arena arena;

static int set_up(void **state) {
    (void)state;
    zb_log_set(ZB_LOG_QUIET);
    snprintf(folder, sizeof folder, "/tmp/zb_stage.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    zb_arena_free(&arena);
    return zb_dir_remove(folder, NULL) == ZB_OK ? 0 : -1;
}

/* A run in the folder: what it trains, and the stage. */
typedef struct run {
    float w[N], grad[N];
    zb_param p;
    zb_optim optim, *list[1];
    zb_stage_opts o;
    zb_stage s;
    zb_err err;
} run;

static run *new_run(void) {
    run *r = ZB_NEW(&arena, run);
    zb_opt_group g[] = {{"", zb_stage_opt_table, &r->o}, {"", zb_loop_opt_table, &r->o}, {0}};
    zb_opts_defaults(g);
    r->o.save_every = 2;
    for (int i = 0; i < N; i++) r->w[i] = (float)(i + 1);
    r->p =
        (zb_param){.name = "p", .dtype = ZB_F32, .n_dims = 1, .shape = {N}, .rows = 1, .cols = N};
    r->p.w = r->w;
    r->p.grad = r->grad;
    r->p.data = r->w;
    zb_optim_init(&r->optim, 0.9, 0.99, 1e-8);
    zb_optim_add(&r->optim, &r->p, 1, 0);
    r->list[0] = &r->optim;
    return r;
}

static zb_status begin(run *r) {
    zb_opt_group g[] = {{"", zb_stage_opt_table, &r->o}, {"", zb_loop_opt_table, &r->o}, {0}};
    zb_stage_run what = {
        .name = "test", .dir = folder, .options = g, .optim = r->list, .n_optims = 1};
    zb_stage_work work = {.unit = "tokens", .per_step = 10, .total = 10 * STEPS, .validates = true};
    return zb_stage_start(&r->s, &r->o, &what, &work, &r->err);
}

static void end(run *r) {
    zb_stage_free(&r->s);
    zb_optim_free(&r->optim);
}

static zb_status step(run *r, double loss) {
    for (int i = 0; i < N; i++) r->grad[i] = 0.1f * r->w[i];
    zb_optim_step(&r->optim, zb_stage_lr(&r->s), 1);
    return zb_stage_step_done(&r->s, json_object(), loss, 1, &r->err);
}

static void steps(run *r, int n) {
    for (int i = 0; i < n; i++)
        if (step(r, 1) != ZB_OK) fail_msg("%s", r->err.msg);
}

static char *in_folder(const char *name) { return zb_path_join(&arena, folder, name); }

static bool has(const char *name) {
    return zb_dir_exists(in_folder(name)) || zb_file_exists(in_folder(name));
}

static void check_said(const run *r, const char *said) {
    if (!strstr(r->err.msg, said)) fail_msg("expected \"%s\", found \"%s\"", said, r->err.msg);
}

/* The run goes on from step `at` with weights w. */
static void check_resumes(int64_t at, const float *w) {
    run *r = new_run();
    if (begin(r) != ZB_OK) fail_msg("%s", r->err.msg);
    assert_int_equal(r->s.step, at);
    assert_memory_equal(r->w, w, sizeof r->w);
    end(r);
}

/* Numbers that are not finite end the run at that step, and the last checkpoint is still good. */
static void test_diverged(void **state) {
    (void)state;
    float good[N];
    run *r = new_run();
    assert_int_equal(begin(r), ZB_OK);
    steps(r, 2);
    memcpy(good, r->w, sizeof good);
    assert_int_equal(step(r, (double)NAN), ZB_ERR_CONFIG);
    check_said(r, "test: the loss is not finite at step 3 of 6: lower lr (0.0002)");
    end(r);
    check_resumes(2, good);
    r = new_run();
    assert_int_equal(begin(r), ZB_OK);
    assert_int_equal(zb_stage_step_done(&r->s, json_object(), 1, (double)INFINITY, &r->err),
                     ZB_ERR_CONFIG);
    check_said(r, "test: the gradient's norm is not finite at step 3 of 6: lower lr");
    bool best;
    assert_int_equal(zb_stage_log_eval(&r->s, json_object(), (double)NAN, &best, &r->err),
                     ZB_ERR_CONFIG);
    check_said(r, "test: the held-out loss is not finite");
    end(r);
    r = new_run();
    assert_int_equal(begin(r), ZB_OK);
    steps(r, 1);
    r->w[1] = INFINITY;
    assert_int_equal(step(r, 1), ZB_ERR_CONFIG); /* a checkpoint is due */
    check_said(r, "test: p is not finite at step 4 of 6: lower lr");
    end(r);
    check_resumes(2, good);
}

/* What comes behind the last step may fail, and the steps are not lost. */
static void test_last_step(void **state) {
    (void)state;
    run *r = new_run();
    r->o.save_every = 4;
    assert_int_equal(begin(r), ZB_OK);
    steps(r, STEPS);
    float last[N];
    memcpy(last, r->w, sizeof last);
    end(r);
    r = new_run();
    r->o.save_every = 4;
    assert_int_equal(begin(r), ZB_OK);
    assert_int_equal(r->s.step, STEPS);
    assert_memory_equal(r->w, last, sizeof last);
    assert_int_equal(zb_stage_finish(&r->s, &r->err), ZB_OK);
    end(r);
    assert_false(has("checkpoint-6"));
}

/* What was best so far is known to the last bit, so that a resumed run judges as it would have. */
static void test_best_is_exact(void **state) {
    (void)state;
    const double value = 0.1 + 1.0 / 3 * 1e-9, least = 1.0 / 7;
    bool best;
    run *r = new_run();
    zb_optim_watch(&r->optim);
    assert_int_equal(begin(r), ZB_OK);
    steps(r, 1);
    assert_int_equal(zb_stage_log_eval(&r->s, json_object(), value, &best, &r->err), ZB_OK);
    zb_optim_judge(&r->optim, least, 3);
    steps(r, 1);
    end(r);
    r = new_run();
    zb_optim_watch(&r->optim);
    assert_int_equal(begin(r), ZB_OK);
    assert_true(r->optim.least == least);
    assert_int_equal(zb_stage_log_eval(&r->s, json_object(), value, &best, &r->err), ZB_OK);
    assert_false(best); /* the same is no better */
    end(r);
}

/* A checkpoint whose state has another `key`, or another name. */
static void check_refused(const char *name, const char *key, json_t *value, const char *said) {
    char *path = zb_asprintf(&arena, "%s/%s/trainer_state.json", folder, name);
    json_t *was = NULL, *now;
    run *r = new_run();
    zb_optim_watch(&r->optim);
    assert_int_equal(zb_json_read(path, 1 << 20, &was, &r->err), ZB_OK);
    now = json_copy(was);
    if (key) json_object_set_new(now, key, value);
    assert_int_equal(zb_json_write_exact(path, now, &r->err), ZB_OK);
    assert_int_equal(begin(r), ZB_ERR_FORMAT);
    check_said(r, name);
    check_said(r, said);
    assert_int_equal(zb_json_write_exact(path, was, &r->err), ZB_OK);
    json_decref(was);
    json_decref(now);
    end(r);
}

/* A step decides where in the data a run goes on, and whether it is over. */
static void test_impossible_states(void **state) {
    (void)state;
    run *r = new_run();
    bool best;
    zb_optim_watch(&r->optim);
    assert_int_equal(begin(r), ZB_OK);
    steps(r, 1);
    assert_int_equal(zb_stage_log_eval(&r->s, json_object(), 1, &best, &r->err), ZB_OK);
    steps(r, 1);
    end(r);
    const char *name = "checkpoint-2";
    check_refused(name, "step", json_integer(3), "step: expected 2 as in the folder's name");
    check_refused(name, "step", json_string("2"), "key \"step\": expected");
    check_refused(name, "step", json_integer(-1), "key \"step\": expected");
    check_refused(name, "optimizer_steps", json_array(), "optimizer_steps: expected 1 counts");
    check_refused(name, "optimizer_steps", json_pack("[i]", 3), "counts up to 2");
    check_refused(name, "optimizer_steps", json_pack("[f]", 2.0), "counts up to 2");
    check_refused(name, "early_stopping", json_pack("[[f,i,b]]", 1.0, -1, 0), "early_stopping");
    check_refused(name, "extra", json_integer(1), "key \"extra\": expected");
    check_refused(name, "extra", json_pack("{s:i}", "best", 1), "key \"best\": expected");
    check_refused(name, "extra", json_pack("{s:{s:i,s:f}}", "best", "step", 3, "value", 1.0),
                  "key \"step\": expected");
    check_refused(name, "extra", json_pack("{s:{s:i,s:s}}", "best", "step", 1, "value", "low"),
                  "key \"value\": expected");
    zb_err err;
    assert_int_equal(zb_path_rename(in_folder(name), in_folder("checkpoint-999999"), &err), ZB_OK);
    check_refused("checkpoint-999999", NULL, NULL, "step: expected 999999 as in the folder's");
    check_refused("checkpoint-999999", "step", json_integer(999999), "key \"step\": expected");
}

static void make(const char *name) {
    char *file = zb_path_join(&arena, in_folder(name), "x");
    assert_int_equal(zb_dir_make(in_folder(name), NULL), ZB_OK);
    assert_int_equal(zb_file_write(file, "x", 1, NULL), ZB_OK);
}

/* Of runs before stays what this one takes up, and what is not ours. */
static void test_left_overs(void **state) {
    (void)state;
    const char *gone[] = {"best", "best.tmp12", "best.old12", "checkpoint-4.tmp34"},
               *kept[] = {"bestow.tmp12", "best.tmpl", "checkpoint-notes", "mine.tmp12"};
    for (int i = 0; i < 4; i++) make(gone[i]), make(kept[i]);
    run *r = new_run();
    bool best;
    assert_int_equal(begin(r), ZB_OK);
    for (int i = 0; i < 4; i++) assert_true(!has(gone[i]) && has(kept[i]));
    steps(r, 1);
    assert_int_equal(zb_stage_log_eval(&r->s, json_object(), 1, &best, &r->err), ZB_OK);
    make("best");
    steps(r, 1);
    end(r);
    for (int i = 1; i < 4; i++) make(gone[i]);
    r = new_run();
    assert_int_equal(begin(r), ZB_OK);
    assert_int_equal(r->s.step, 2);
    assert_true(has("best") && has("checkpoint-2")); /* its own */
    for (int i = 1; i < 4; i++) assert_false(has(gone[i]));
    end(r);
    r = new_run();
    r->o.resume = "never";
    assert_int_equal(begin(r), ZB_OK);
    assert_false(has("best"));
    end(r);
}

/* A run goes on where only where and how often something is written has changed. */
static void test_writing_is_free(void **state) {
    (void)state;
    run *r = new_run();
    assert_int_equal(begin(r), ZB_OK);
    steps(r, 2);
    float w[N];
    memcpy(w, r->w, sizeof w);
    end(r);
    r = new_run();
    r->o.save_every = 3;
    r->o.log_every = 7;
    r->o.keep_last = 4;
    assert_int_equal(begin(r), ZB_OK);
    assert_int_equal(r->s.step, 2);
    assert_memory_equal(r->w, w, sizeof w);
    end(r);
    r = new_run();
    r->o.beta2 = 0.5;
    assert_int_equal(begin(r), ZB_OK);
    assert_int_equal(r->s.step, 0);
    end(r);
}

/* The path of a text says nothing of what stands in it. */
static void test_another_text_is_another_run(void **state) {
    (void)state;
    char *text = in_folder("text.txt");
    const struct {
        const char *text;
        int64_t at;
    } runs[] = {{"one", 0}, {"one", 2}, {"two", 0}};
    for (int i = 0; i < 3; i++) {
        run *r = new_run();
        r->o.train = text;
        assert_int_equal(zb_file_write(text, runs[i].text, 3, NULL), ZB_OK);
        assert_int_equal(begin(r), ZB_OK);
        assert_int_equal(r->s.step, runs[i].at);
        if (i == 0) steps(r, 2);
        end(r);
    }
}

/* The options that the checkpoint at step 2 names. */
static void rewrite_options(const char *gone, const char *key, json_t *value) {
    char *path = zb_path_join(&arena, in_folder("checkpoint-2"), "trainer_state.json");
    json_t *state = NULL, *options;
    assert_int_equal(zb_json_read(path, 1 << 20, &state, NULL), ZB_OK);
    options = json_object_get(state, "options");
    assert_non_null(json_object_get(options, gone ? gone : "lr"));
    if (gone) json_object_del(options, gone);
    if (key) json_object_set_new(options, key, value);
    assert_int_equal(zb_json_write_exact(path, state, NULL), ZB_OK);
    json_decref(state);
}

/* An option that a checkpoint does not know had its default; one that is gone is another run. */
static void test_options_of_other_versions(void **state) {
    (void)state;
    run *r = new_run();
    r->o.lr = 0.25;
    assert_int_equal(begin(r), ZB_OK);
    steps(r, 2);
    float w[N];
    memcpy(w, r->w, sizeof w);
    end(r);
    const struct {
        const char *gone, *key;
        int64_t at;
    } cases[] = {{"clip", NULL, 2}, {NULL, "of_old", 0}, {"lr", NULL, 0}};
    for (int i = 0; i < 3; i++) {
        rewrite_options(cases[i].gone, cases[i].key, json_integer(3));
        r = new_run();
        r->o.lr = 0.25;
        assert_int_equal(begin(r), ZB_OK);
        assert_int_equal(r->s.step, cases[i].at);
        if (cases[i].at) assert_memory_equal(r->w, w, sizeof w);
        end(r);
        if (cases[i].key) rewrite_options(cases[i].key, NULL, NULL);
    }
    r = new_run();
    r->o.lr = 0.25;
    zb_opt_group g[] = {{"", zb_stage_opt_table, &r->o}, {"", zb_loop_opt_table, &r->o}, {0}};
    json_t *was = zb_opts_json(g), *defaults = zb_opts_default_json(g);
    r->o.lr = 0.5;
    json_t *now = zb_opts_json(g);
    assert_string_equal(zb_opts_change(was, now, defaults, &arena), "lr was 0.25, is 0.5");
    json_object_del(was, "lr"); /* the default's */
    assert_non_null(strstr(zb_opts_change(was, now, defaults, &arena), "lr was "));
    json_object_set_new(was, "x", json_true());
    json_object_set(now, "lr", json_object_get(defaults, "lr"));
    assert_string_equal(zb_opts_change(was, now, defaults, &arena), "x was true, is not given");
    json_object_del(was, "x");
    assert_null(zb_opts_change(was, now, defaults, &arena));
    json_decref(was);
    json_decref(now);
    json_decref(defaults);
    zb_optim_free(&r->optim);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_diverged, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_last_step, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_best_is_exact, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_impossible_states, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_left_overs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_writing_is_free, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_another_text_is_another_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_options_of_other_versions, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
