/* test_arena.c - alignment, zeroing, marks, growth and the count of system blocks. */
#include "base/arena.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void memory_is_aligned_and_zero(void **state) {
    (void)state;
    zb_arena a = {0};
    for (size_t n = 0; n < 300; n++) {
        uint8_t *p = zb_alloc(&a, n);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < n; i++) assert_int_equal(p[i], 0);
        memset(p, 0xAA, n);
    }
    zb_arena_free(&a);
    assert_null(a.last);
    assert_int_equal(a.bytes, 0);
}

/* Memory handed out again after a pop is zero again, and values below the mark survive. */
static void marks_nest(void **state) {
    (void)state;
    zb_arena a = {0};
    char *kept = zb_strdup(&a, "kept");
    size_t bytes = a.bytes;
    for (int round = 0; round < 3; round++) {
        zb_mark outer = zb_arena_mark(&a);
        uint8_t *p = zb_alloc(&a, 1000);
        zb_mark inner = zb_arena_mark(&a);
        for (int i = 0; i < 5; i++) {
            uint8_t *q = zb_alloc(&a, (size_t)3 << 20); /* more than a block */
            assert_int_equal(q[0] | q[((size_t)3 << 20) - 1], 0);
            memset(q, 0xFF, (size_t)3 << 20);
        }
        zb_arena_pop(&a, inner);
        for (int i = 0; i < 1000; i++) assert_int_equal(p[i], 0);
        memset(p, 0xFF, 1000);
        zb_arena_pop(&a, outer);
        assert_int_equal(a.bytes, bytes);
    }
    assert_string_equal(kept, "kept");
    assert_true(a.peak >= (size_t)15 << 20);
    zb_arena_free(&a);
}

static void pop_to_empty(void **state) {
    (void)state;
    zb_arena a = {0};
    zb_mark m = zb_arena_mark(&a);
    zb_alloc(&a, (size_t)5 << 20);
    zb_alloc(&a, 10);
    zb_arena_pop(&a, m);
    assert_null(a.last);
    assert_int_equal(a.bytes, 0);
    zb_arena_free(&a);
}

/* A steady loop takes nothing from the system, even where it needs a second block. */
static void loops_settle(void **state) {
    (void)state;
    zb_arena a = {0};
    zb_alloc(&a, 100);
    uint64_t before = 0;
    for (int i = 0; i < 20; i++) {
        zb_mark m = zb_arena_mark(&a);
        zb_alloc(&a, 1000);
        zb_alloc(&a, (size_t)2 << 20);
        zb_arena_pop(&a, m);
        if (i == 1) before = zb_heap_count();
    }
    assert_int_equal(zb_heap_count(), before);
    zb_arena_free(&a);
}

static void grow_keeps_content(void **state) {
    (void)state;
    zb_arena a = {0};
    size_t cap = 0;
    int *v = NULL;
    for (int i = 0; i < 10000; i++) {
        v = zb_grow(&a, v, &cap, (size_t)i + 1, sizeof *v);
        v[i] = i;
    }
    assert_true(cap >= 10000 && cap < 40000);
    for (int i = 0; i < 10000; i++) assert_int_equal(v[i], i);
    zb_arena_free(&a);
}

static void strings(void **state) {
    (void)state;
    zb_arena a = {0};
    assert_string_equal(zb_strndup(&a, "abcdef", 3), "abc");
    assert_string_equal(zb_strndup(&a, "", 0), "");
    char *s = zb_asprintf(&a, "%0100d|%s", 7, "x");
    assert_int_equal(strlen(s), 102);
    assert_string_equal(s + 99, "7|x");
    zb_arena_free(&a);
}

static void products_do_not_overflow(void **state) {
    (void)state;
    size_t n = 5;
    assert_true(zb_size_mul(1u << 20, 3, &n) && n == 3u << 20);
    assert_true(zb_size_mul(0, SIZE_MAX, &n) && n == 0);
    assert_false(zb_size_mul(SIZE_MAX / 2, 3, &n));
    assert_false(zb_size_mul((size_t)1 << 32, (size_t)1 << 32, &n));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_aligned_and_zero),
        cmocka_unit_test(marks_nest),
        cmocka_unit_test(pop_to_empty),
        cmocka_unit_test(loops_settle),
        cmocka_unit_test(grow_keeps_content),
        cmocka_unit_test(strings),
        cmocka_unit_test(products_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
