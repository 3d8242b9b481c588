/* How a stage retreats when its memory does not fit: recompute first, then fewer rows per pass,
 * then a refusal that names sum, limit and the largest parts. */
#include "../golden/golden.h"

#include "train/memory.h"

/* A stage of 1000 units of weights whose rows take 400 each, 100 when layers are recomputed. */
static size_t unit = (size_t)1 << 20;

static void parts(const void *arg, zb_memory_plan *p) {
    (void)arg;
    zb_memory_add(p, "weights", 1000 * unit);
    zb_memory_add(p, "nothing", 0);
    zb_memory_add(p, "rows", (size_t)p->rows * (p->recompute ? 100 : 400) * unit);
}

static zb_status choose(const char *limit, bool may, int64_t micro, zb_memory_plan *p,
                        zb_err *err) {
    zb_stage_opts o = {
        .batch = 6, .micro_batch = micro, .sequence_length = 16, .memory_limit = limit};
    zb_memory_ask ask = {
        .stage = "test", .less = "do less", .o = &o, .may_recompute = may, .parts = parts};
    *err = (zb_err){0};
    return zb_memory_choose(&ask, p, err);
}

static void assert_chosen(const char *limit, bool may, int64_t micro, int rows, bool recompute) {
    zb_memory_plan p;
    zb_err err;
    assert_int_equal(choose(limit, may, micro, &p, &err), ZB_OK);
    assert_int_equal(p.rows, rows);
    assert_int_equal(p.recompute, recompute);
    size_t sum = 0;
    for (int i = 0; i < p.n; i++) sum += p.part[i].bytes;
    assert_int_equal(sum, p.total);
    assert_true(p.total <= p.limit);
}

static void test_retreat(void **state) {
    (void)state;
    assert_chosen("8G", true, 0, 6, false);
    assert_chosen("8G", true, 3, 3, false); /* what is asked for is the most */
    assert_chosen("2000M", true, 0, 6, true);
    assert_chosen("1500M", true, 0, 3, true); /* divisors of 6 only: 4 would fit */
    assert_chosen("1200M", true, 0, 1, true);
    assert_chosen("2000M", false, 0, 2, false); /* nothing to recompute: fewer rows at once */
}

static void test_refusal(void **state) {
    (void)state;
    zb_memory_plan p;
    zb_err err;
    assert_int_equal(choose("1100M", true, 0, &p, &err), ZB_ERR_MEMORY);
    /* 1000 of weights, 100 of the row, 96 of the program */
    assert_non_null(strstr(err.msg, "needs 1.17 GiB even with one row per pass and layers"));
    assert_non_null(strstr(err.msg, "the limit is 1.07 GiB"));
    assert_non_null(strstr(err.msg, "weights (0.98 GiB) and rows (0.10 GiB): do less, or raise"));
    assert_int_equal(choose("many", true, 0, &p, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "memory_limit: expected auto or bytes such as 24G"));
    assert_int_equal(choose("0", true, 0, &p, &err), ZB_ERR_CONFIG);
    assert_int_equal(choose("8G", true, 4, &p, &err), ZB_ERR_CONFIG);
    assert_non_null(strstr(err.msg, "micro_batch: expected a divisor of batch 6, found 4"));
}

/* The machine's own limit is a plausible number, and a small stage fits it. */
static void test_machine(void **state) {
    (void)state;
    zb_memory_plan p;
    zb_err err;
    unit = 1 << 10;
    assert_int_equal(choose("auto", true, 6, &p, &err), ZB_OK);
    assert_true(p.limit >= (size_t)64 << 20);
    assert_true(p.rows == 6 && !p.recompute);
    unit = (size_t)1 << 20;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_retreat),
        cmocka_unit_test(test_refusal),
        cmocka_unit_test(test_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
