/* test_file.c - mappings, atomic writing, folders, lines (plain and .gz), what files hold. */
#include "base/contents.h"
#include "base/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>

static zb_arena arena;
static char *dir;

static int make_dir(void **state) {
    (void)state;
    dir = zb_strdup(&arena, "/tmp/zb_file_XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
    (void)state;
    zb_status s = zb_dir_remove(dir, NULL);
    zb_arena_free(&arena);
    return s == ZB_OK ? 0 : -1;
}

static char *in_dir(const char *name) { return zb_path_join(&arena, dir, name); }

static size_t files_in(const char *path) {
    char **names;
    size_t n;
    assert_int_equal(zb_dir_list(path, "", &arena, &names, &n, NULL), ZB_OK);
    return n;
}

static void write_and_read(void **state) {
    (void)state;
    zb_err err;
    zb_str s;
    zb_map m;
    char *path = in_dir("x");
    assert_int_equal(zb_file_write(path, "old", 3, &err), ZB_OK);
    assert_int_equal(zb_file_write(path, "a\0b", 3, &err), ZB_OK);
    assert_int_equal(zb_file_read(path, 3, &arena, &s, &err), ZB_OK);
    assert_true(s.n == 3 && !memcmp(s.p, "a\0b", 4)); /* and a NUL behind */
    assert_int_equal(zb_file_read(path, 2, &arena, &s, &err), ZB_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "expected at most 2 bytes, found 3"));
    assert_int_equal(zb_map_open(&m, path, &err), ZB_OK);
    assert_int_equal(m.size, 3);
    zb_map_close(&m);
    zb_map_close(&m);
    assert_int_equal(zb_file_write(path, NULL, 0, &err), ZB_OK);
    assert_int_equal(zb_map_open(&m, path, &err), ZB_OK);
    assert_true(m.size == 0 && !m.data);
    zb_map_close(&m);
    assert_int_equal(zb_file_read(path, 0, &arena, &s, &err), ZB_OK);
    assert_int_equal(s.n, 0);
    assert_int_equal(files_in(dir), 1);
}

static void errors_name_the_path(void **state) {
    (void)state;
    zb_err err;
    zb_map m;
    assert_int_equal(zb_map_open(&m, "/nonexistent/x", &err), ZB_ERR_IO);
    assert_string_equal(err.msg, "/nonexistent/x: cannot open: No such file or directory");
    assert_int_equal(zb_map_open(&m, dir, &err), ZB_ERR_IO);
    assert_non_null(strstr(err.msg, "expected a regular file"));
    assert_int_equal(zb_file_write("/nonexistent/x", "", 0, &err), ZB_ERR_IO);
    assert_int_equal(zb_file_copy("/nonexistent/x", in_dir("y"), &err), ZB_ERR_IO);
    char **names;
    size_t n;
    assert_int_equal(zb_dir_list("/nonexistent", "", &arena, &names, &n, &err), ZB_ERR_IO);
    assert_int_equal(n, 0);
    zb_lines *l;
    assert_int_equal(zb_lines_open(&l, dir, 10, &err), ZB_ERR_IO);
    assert_null(l);
    assert_int_equal(zb_lines_open(&l, "/nonexistent/x", 10, &err), ZB_ERR_IO);
    zb_lines_close(NULL);
}

static void writer_is_atomic(void **state) {
    (void)state;
    zb_err err;
    zb_writer w;
    zb_str s;
    char *path = in_dir("w");
    assert_int_equal(zb_file_write(path, "old", 3, &err), ZB_OK);
    size_t before = files_in(dir);
    assert_int_equal(zb_writer_open(&w, path, &arena, &err), ZB_OK);
    assert_int_equal(zb_writer_add(&w, "new and", 7, &err), ZB_OK);
    assert_int_equal(zb_file_read(path, 100, &arena, &s, &err), ZB_OK);
    assert_true(zb_str_is(s, "old"));
    zb_writer_abort(&w);
    zb_writer_abort(&w);
    assert_int_equal(files_in(dir), before);
    assert_int_equal(zb_writer_open(&w, path, &arena, &err), ZB_OK);
    assert_int_equal(zb_writer_add(&w, "new", 3, &err), ZB_OK);
    assert_int_equal(zb_writer_add(&w, NULL, 0, &err), ZB_OK);
    assert_int_equal(w.written, 3);
    assert_int_equal(zb_writer_close(&w, &err), ZB_OK);
    zb_writer_abort(&w);
    assert_int_equal(zb_file_read(path, 100, &arena, &s, &err), ZB_OK);
    assert_true(zb_str_is(s, "new"));
}

/* A write that fails half-way (here: the limit on file size) never replaces the old file, even when
 * the caller overlooks the error and closes. */
static void failed_write_keeps_the_old_file(void **state) {
    (void)state;
    zb_err err;
    zb_writer w;
    zb_str s;
    char *path = in_dir("full"), *big = zb_alloc(&arena, 1 << 20);
    assert_int_equal(zb_file_write(path, "old", 3, &err), ZB_OK);
    size_t before = files_in(dir);
    struct rlimit keep, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &keep), 0);
    small = keep;
    small.rlim_cur = 1 << 16;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(zb_writer_open(&w, path, &arena, &err), ZB_OK);
    setrlimit(RLIMIT_FSIZE, &small);
    zb_status added = zb_writer_add(&w, big, 1 << 20, &err);
    zb_status closed = zb_writer_close(&w, &err);
    zb_status whole = zb_file_write(path, big, 1 << 20, &err);
    setrlimit(RLIMIT_FSIZE, &keep);
    signal(SIGXFSZ, handler);
    assert_int_equal(added, ZB_ERR_IO);
    assert_int_equal(closed, ZB_ERR_IO);
    assert_int_equal(whole, ZB_ERR_IO);
    assert_int_equal(zb_file_read(path, 100, &arena, &s, &err), ZB_OK);
    assert_true(zb_str_is(s, "old"));
    assert_int_equal(files_in(dir), before);
}

/* A link keeps pointing where it does; a pipe is written to, not replaced. */
static void links_and_pipes_stay(void **state) {
    (void)state;
    zb_err err;
    zb_str s;
    struct stat st;
    char *target = in_dir("target"), *link = in_dir("link"), *pipe = in_dir("pipe"), got[8];
    assert_int_equal(zb_file_write(target, "old", 3, &err), ZB_OK);
    assert_int_equal(symlink(target, link), 0);
    assert_int_equal(zb_file_write(link, "new", 3, &err), ZB_OK);
    assert_true(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    assert_int_equal(zb_file_read(target, 100, &arena, &s, &err), ZB_OK);
    assert_true(zb_str_is(s, "new"));
    assert_true(zb_path_same(link, target) && !zb_path_same(link, dir));
    assert_int_equal(mkfifo(pipe, 0600), 0);
    int fd = open(pipe, O_RDONLY | O_NONBLOCK);
    assert_int_equal(zb_file_write(pipe, "12345", 5, &err), ZB_OK);
    assert_int_equal(read(fd, got, sizeof got), 5);
    close(fd);
    assert_true(stat(pipe, &st) == 0 && S_ISFIFO(st.st_mode));
    assert_int_equal(zb_file_write(dir, "x", 1, &err), ZB_ERR_IO);
    assert_non_null(strstr(err.msg, "expected a file, found a folder"));
}

static void folders(void **state) {
    (void)state;
    zb_err err;
    char *deep = in_dir("a/b/c"), **names;
    size_t n;
    assert_int_equal(zb_dir_make(deep, &err), ZB_OK);
    assert_int_equal(zb_dir_make(zb_path_join(&arena, deep, ""), &err),
                     ZB_OK); /* trailing slash, exists */
    assert_true(zb_dir_exists(deep) && !zb_file_exists(deep));
    for (const char *p = "zxy"; *p; p++) {
        char name[] = {'f', *p, 0};
        assert_int_equal(zb_file_write(zb_path_join(&arena, deep, name), p, 1, &err), ZB_OK);
    }
    assert_int_equal(zb_file_write(zb_path_join(&arena, deep, "g"), "", 0, &err), ZB_OK);
    assert_int_equal(zb_dir_list(deep, "f", &arena, &names, &n, &err), ZB_OK);
    assert_int_equal(n, 3);
    assert_string_equal(names[0], "fx");
    assert_string_equal(names[2], "fz");
    assert_int_equal(zb_dir_make(zb_path_join(&arena, deep, "fx/y"), &err), ZB_ERR_IO);
    /* A link to a folder is removed, not what it points to. */
    char *outside = in_dir("outside");
    assert_int_equal(zb_dir_make(outside, &err), ZB_OK);
    assert_int_equal(zb_file_write(zb_path_join(&arena, outside, "keep"), "k", 1, &err), ZB_OK);
    assert_int_equal(symlink(outside, zb_path_join(&arena, deep, "link")), 0);
    assert_int_equal(zb_dir_remove(in_dir("a"), &err), ZB_OK);
    assert_false(zb_dir_exists(in_dir("a")));
    assert_true(zb_file_exists(zb_path_join(&arena, outside, "keep")));
    assert_int_equal(zb_dir_remove(in_dir("a"), &err), ZB_OK);
    assert_int_equal(zb_path_rename(outside, in_dir("moved"), &err), ZB_OK);
    assert_true(zb_dir_exists(in_dir("moved")));
    assert_int_equal(zb_path_rename(outside, in_dir("again"), &err), ZB_ERR_IO);
}

/* Paths hold each other by where they lead, whether or not they exist. */
static void paths_that_hold_others(void **state) {
    (void)state;
    zb_err err;
    char *folder = in_dir("held"), *link = in_dir("to-held"), *below = in_dir("held/below");
    assert_int_equal(zb_dir_make(folder, &err), ZB_OK);
    assert_int_equal(symlink("held", link), 0);
    const struct {
        const char *outer, *inner;
        bool holds;
    } pair[] = {
        {folder, folder, true},
        {folder, link, true},
        {link, below, true},
        {below, folder, false},
        {folder, in_dir("held2"), false},
        {folder, in_dir("to-held/new/deep"), true},
        {in_dir("new"), in_dir("./new//deep/"), true},
        {in_dir("new"), in_dir("none/../new"), true},
        {in_dir("new"), in_dir("newer"), false},
        {folder, in_dir("to-held/../held/x"), true},
        {".", "new", true},
        {"new", "./new/x", true},
        {"new", "new/../x", false},
        {"/", "/zb-none", true},
        {"/zb-none", "/", false},
    };
    for (size_t i = 0; i < sizeof pair / sizeof pair[0]; i++)
        assert_int_equal(zb_path_holds(pair[i].outer, pair[i].inner), pair[i].holds);
}

static void paths(void **state) {
    (void)state;
    assert_string_equal(zb_path_join(&arena, "a", "b"), "a/b");
    assert_string_equal(zb_path_plain(&arena, "a/b//"), "a/b");
    assert_string_equal(zb_path_plain(&arena, "//"), "/");
    assert_string_equal(zb_path_join(&arena, "a/", "b"), "a/b");
    assert_string_equal(zb_path_join(&arena, "", "b"), "b");
    assert_string_equal(zb_path_base("/x/y"), "y");
    assert_string_equal(zb_path_base("y"), "y");
}

/* The lines of a file joined by '|', or "!" and the message. */
static const char *lines_of(const char *path, size_t limit) {
    zb_lines *l;
    zb_err err;
    zb_buf b;
    zb_buf_init(&b, 1 << 20);
    bool more = true;
    zb_str line;
    zb_status s = zb_lines_open(&l, path, limit, &err);
    for (int64_t i = 1; s == ZB_OK; i++) {
        s = zb_lines_next(l, &line, &more, &err);
        if (s != ZB_OK || !more) break;
        assert_int_equal(zb_lines_number(l), i);
        zb_buf_add(&b, line.p, line.n);
        zb_buf_addc(&b, '|');
    }
    if (s != ZB_OK) zb_buf_addf(&b, "!%s", err.msg);
    zb_lines_close(l);
    const char *text = zb_strdup(&arena, b.p ? b.p : "");
    zb_buf_free(&b);
    return text;
}

static const char *lines_in(const char *content, size_t limit) {
    char *path = in_dir("lines");
    assert_int_equal(zb_file_write(path, content, strlen(content), NULL), ZB_OK);
    return lines_of(path, limit);
}

static void lines(void **state) {
    (void)state;
    assert_string_equal(lines_in("", 10), "");
    assert_string_equal(lines_in("a", 10), "a|");
    assert_string_equal(lines_in("a\n", 10), "a|");
    assert_string_equal(lines_in("\n\na\r\nb\rc", 10), "||a|b\rc|");
    assert_non_null(strstr(lines_in("ok\n12345678901\n", 10), "ok|!"));
    assert_non_null(
        strstr(lines_in("ok\n12345678901\n", 10), "lines:2: expected lines of at most 10 bytes"));
    /* A line across many chunks. */
    char *big = zb_alloc(&arena, 300001);
    memset(big, 'x', 300000);
    big[150000] = '\n';
    const char *got = lines_in(big, 200000);
    assert_int_equal(strlen(got), 300001);
    assert_int_equal(got[150000], '|');
}

static void sizes_of_lines(void **state) {
    (void)state;
    char *path = in_dir("sizes.gz");
    for (int lines = 20000; lines <= 400000; lines += 380000) {
        size_t size = 0;
        gzFile f = gzopen(path, "wb");
        for (int i = 0; i < lines; i++)
            size += (size_t)gzprintf(f, "line %d %d\n", i % 10000, i % 10000 * 7919 % 10007);
        gzclose(f);
        double share = (double)zb_lines_size(path) / (double)size;
        assert_true(lines == 20000 ? share == 1 : share > 0.9 && share < 1.1);
    }
    assert_int_equal(zb_lines_size(dir), 0);
    assert_int_equal(zb_lines_size(in_dir("none")), 0);
    assert_int_equal(zb_file_write(path, "", 0, NULL), ZB_OK);
    assert_int_equal(zb_lines_size(path), 0);
    char *plain = zb_alloc(&arena, 3000001);
    memset(plain, 'x', 3000001);
    assert_int_equal(zb_file_write(path, plain, 3000001, NULL), ZB_OK);
    assert_int_equal(zb_lines_size(path), 3000001);
}

static void lines_of_gz(void **state) {
    (void)state;
    char *path = in_dir("x.gz"), *cut = in_dir("cut.gz");
    gzFile f = gzopen(path, "wb");
    for (int i = 0; i < 20000; i++) gzprintf(f, "line %d %d\n", i, i * 7919 % 10007);
    gzclose(f);
    const char *got = lines_of(path, 100);
    assert_memory_equal(got, "line 0 0|line 1 7919|", 21);
    assert_null(strchr(got, '!'));
    zb_str whole;
    assert_int_equal(zb_file_read(path, 1 << 20, &arena, &whole, NULL), ZB_OK);
    /* Cut in the data, and cut in the checksum behind it. */
    const size_t sizes[] = {whole.n / 2, whole.n - 3};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(zb_file_write(cut, whole.p, sizes[i], NULL), ZB_OK);
        assert_non_null(strstr(lines_of(cut, 100), "cut.gz: cannot read: "));
    }
    char *broken = zb_strndup(&arena, whole.p, whole.n);
    for (size_t i = whole.n / 2; i < whole.n / 2 + 40; i++) broken[i] = (char)~broken[i];
    assert_int_equal(zb_file_write(cut, broken, whole.n, NULL), ZB_OK);
    assert_non_null(strstr(lines_of(cut, 1000), "!"));
}

/* "…contents" of the file that the option x names. */
static const char *contents_by_option(const char *path, const json_t *before) {
    json_t *o = json_pack("{s:s,s:s,s:i}", "x", path, "other", "f32", "n", 3);
    zb_contents_add(o, before);
    const char *found = json_string_value(json_object_get(o, "x (contents)"));
    found = found ? zb_strdup(&arena, found) : NULL;
    assert_int_equal(json_object_size(o), found ? 4 : 3);
    json_decref(o);
    return found;
}

static void contents(void **state) {
    (void)state;
    enum { LARGE = 40 << 20 };
    char *path = in_dir("text"), *large = zb_alloc_raw(&arena, LARGE);
    assert_null(zb_contents_of(path, &arena));
    assert_int_equal(zb_file_write(path, "one two three", 13, NULL), ZB_OK);
    const char *was = contents_by_option(path, NULL);
    assert_non_null(strstr(was, "13 bytes, "));
    assert_int_equal(zb_file_write(path, "one two thrue", 13, NULL), ZB_OK);
    const char *other = contents_by_option(path, NULL);
    assert_string_not_equal(other, was);
    assert_int_equal(zb_file_write(path, "one two three", 13, NULL), ZB_OK);
    assert_string_equal(contents_by_option(path, NULL), was);
    /* a file that is gone is taken to be as it was */
    json_t *before = json_pack("{s:s,s:s}", "x", path, "x (contents)", was);
    assert_int_equal(unlink(path), 0);
    assert_string_equal(contents_by_option(path, before), was);
    assert_null(contents_by_option(path, NULL));
    json_decref(before);
    /* of a large one its length, ends and pieces between */
    memset(large, 'a', LARGE);
    const size_t at[] = {0, LARGE - 1, LARGE / 2};
    assert_int_equal(zb_file_write(path, large, LARGE, NULL), ZB_OK);
    was = zb_contents_of(path, &arena);
    assert_int_equal(zb_file_write(path, large, LARGE - 1, NULL), ZB_OK);
    assert_string_not_equal(zb_contents_of(path, &arena), was);
    for (int i = 0; i < 3; i++) {
        memset(large + at[i] - (at[i] ? 1 << 17 : 0), 'b', 1 << 17);
        assert_int_equal(zb_file_write(path, large, LARGE, NULL), ZB_OK);
        other = zb_contents_of(path, &arena);
        assert_string_not_equal(other, was);
        was = other;
    }
    /* of a model's folder its weights and configuration */
    char *model = in_dir("model");
    assert_int_equal(zb_dir_make(model, NULL), ZB_OK);
    assert_null(zb_contents_of(model, &arena));
    assert_int_equal(zb_file_write(zb_path_join(&arena, model, "config.json"), "{}", 2, NULL),
                     ZB_OK);
    was = zb_contents_of(model, &arena);
    assert_int_equal(zb_file_write(zb_path_join(&arena, model, "README.md"), "x", 1, NULL), ZB_OK);
    assert_string_equal(zb_contents_of(model, &arena), was);
    static const char *const counted[] = {"model.safetensors", "hybrid_config.json"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(zb_file_write(zb_path_join(&arena, model, counted[i]), "x", 1, NULL),
                         ZB_OK);
        other = zb_contents_of(model, &arena);
        assert_string_not_equal(other, was);
        was = other;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write_and_read),
        cmocka_unit_test(errors_name_the_path),
        cmocka_unit_test(writer_is_atomic),
        cmocka_unit_test(failed_write_keeps_the_old_file),
        cmocka_unit_test(links_and_pipes_stay),
        cmocka_unit_test(folders),
        cmocka_unit_test(paths),
        cmocka_unit_test(paths_that_hold_others),
        cmocka_unit_test(lines),
        cmocka_unit_test(lines_of_gz),
        cmocka_unit_test(sizes_of_lines),
        cmocka_unit_test(contents),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
