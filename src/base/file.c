/* file.c - mappings, atomic writing, folders, line reader (contract in file.h). */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static zb_status io_fail(zb_err *err, const char *what, const char *path) {
    return zb_fail(err, ZB_ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

zb_status zb_map_open(zb_map *m, const char *path, zb_err *err) {
    *m = (zb_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return io_fail(err, "open", path);
    struct stat st;
    zb_status s = ZB_OK;
    if (fstat(fd, &st) != 0) {
        s = io_fail(err, "read", path);
    } else if (!S_ISREG(st.st_mode)) {
        s = zb_fail(err, ZB_ERR_IO, "%s: expected a regular file", path);
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            s = io_fail(err, "map", path);
        else
            *m = (zb_map){p, (size_t)st.st_size};
    }
    close(fd);
    return s;
}

void zb_map_close(zb_map *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (zb_map){0};
}

void zb_map_forget(const zb_map *m) {
    if (m->data) (void)madvise((void *)(uintptr_t)m->data, m->size, MADV_DONTNEED);
}

zb_status zb_file_read(const char *path, size_t limit, zb_arena *a, zb_str *out, zb_err *err) {
    zb_map m;
    ZB_TRY(zb_map_open(&m, path, err));
    if (m.size > limit) {
        size_t size = m.size;
        zb_map_close(&m);
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected at most %zu bytes, found %zu", path, limit,
                       size);
    }
    char *p = zb_alloc(a, m.size + 1);
    if (m.size) memcpy(p, m.data, m.size);
    *out = (zb_str){p, m.size};
    zb_map_close(&m);
    return ZB_OK;
}

bool zb_file_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool zb_dir_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

zb_status zb_dir_make(const char *path, zb_err *err) {
    zb_arena a = {0};
    char *p = zb_strdup(&a, path);
    zb_status s = ZB_OK;
    for (char *q = p + 1;; q++) {
        if (*q != '/' && *q != 0) continue;
        char c = *q;
        *q = 0;
        if (p[0] && mkdir(p, 0777) != 0 && (errno != EEXIST || !zb_dir_exists(p))) {
            s = io_fail(err, "create folder", p);
            break;
        }
        *q = c;
        if (c == 0) break;
    }
    zb_arena_free(&a);
    return s;
}

zb_status zb_dir_remove(const char *path, zb_err *err) {
    if (!zb_dir_exists(path)) return ZB_OK;
    zb_arena a = {0};
    char **names;
    size_t n;
    zb_status s = zb_dir_list(path, "", &a, &names, &n, err);
    for (size_t i = 0; i < n && s == ZB_OK; i++) {
        char *child = zb_path_join(&a, path, names[i]);
        struct stat st;
        if (lstat(child, &st) == 0 && S_ISDIR(st.st_mode))
            s = zb_dir_remove(child, err);
        else if (unlink(child) != 0)
            s = io_fail(err, "remove", child);
    }
    if (s == ZB_OK && rmdir(path) != 0) s = io_fail(err, "remove", path);
    zb_arena_free(&a);
    return s;
}

char *zb_path_join(zb_arena *a, const char *dir, const char *name) {
    size_t n = strlen(dir);
    return zb_asprintf(a, "%s%s%s", dir, n == 0 || dir[n - 1] == '/' ? "" : "/", name);
}

char *zb_path_plain(zb_arena *a, const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    return zb_strndup(a, path, n);
}

const char *zb_path_base(const char *path) {
    const char *s = strrchr(path, '/');
    return s ? s + 1 : path;
}

static int by_name(const void *x, const void *y) {
    return strcmp(*(char *const *)x, *(char *const *)y);
}

zb_status zb_dir_list(const char *path, const char *prefix, zb_arena *a, char ***names, size_t *n,
                      zb_err *err) {
    *names = NULL;
    *n = 0;
    DIR *d = opendir(path);
    if (!d) return io_fail(err, "list folder", path);
    size_t cap = 0;
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (strncmp(e->d_name, prefix, strlen(prefix)) != 0) continue;
        *names = zb_grow(a, *names, &cap, *n + 1, sizeof **names);
        (*names)[(*n)++] = zb_strdup(a, e->d_name);
    }
    closedir(d);
    if (*n) qsort(*names, *n, sizeof **names, by_name);
    return ZB_OK;
}

static void sync_folder_of(const char *path) {
    zb_arena a = {0};
    char *dir = zb_strdup(&a, path);
    char *slash = strrchr(dir, '/');
    if (slash) *(slash == dir ? slash + 1 : slash) = 0;
    int fd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    zb_arena_free(&a);
}

zb_status zb_path_rename(const char *from, const char *to, zb_err *err) {
    if (rename(from, to) != 0) return io_fail(err, "rename to its final name", to);
    sync_folder_of(to);
    return ZB_OK;
}

/* Devices, pipes and what the process has open already are written to as they are: a rename would
 * put a plain file in their place. A link stays, what it points to is replaced. */
static bool is_special(const char *path) {
    struct stat st;
    return !strncmp(path, "/dev/", 5) || !strncmp(path, "/proc/", 6) ||
           (stat(path, &st) == 0 && !S_ISREG(st.st_mode));
}

char *zb_path_target(zb_arena *a, const char *path) {
    char target[PATH_MAX];
    struct stat st;
    bool is_link = lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
    return zb_strdup(a, is_link && realpath(path, target) ? target : path);
}

bool zb_path_same(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The path without links and dots; what does not exist yet is taken as it is written. */
static char *resolved(zb_arena *a, const char *path) {
    char real[PATH_MAX], *head = zb_strdup(a, path);
    size_t n = strlen(path);
    while (n > 0 && !realpath(head, real)) {
        while (n > 0 && head[n - 1] == '/') n--;
        while (n > 0 && head[n - 1] != '/') n--;
        head[n] = 0;
    }
    char *out = zb_strdup(a, n > 0 || realpath(".", real) ? real : ".");
    for (const char *at = path + n; *at;) {
        size_t length = strcspn(at, "/");
        char *name = zb_strndup(a, at, length), *slash = strrchr(out, '/');
        if (!strcmp(name, "..") && slash)
            slash[slash == out] = 0;
        else if (length && strcmp(name, "."))
            out = zb_path_join(a, out, name);
        at += length + (at[length] == '/');
    }
    return out;
}

bool zb_path_holds(const char *outer, const char *inner) {
    zb_arena a = {0};
    const char *out = resolved(&a, outer), *in = resolved(&a, inner);
    size_t n = strlen(out);
    bool holds = !strncmp(out, in, n) && (in[n] == 0 || in[n] == '/' || out[n - 1] == '/');
    zb_arena_free(&a);
    return holds;
}

zb_status zb_writer_open(zb_writer *w, const char *path, zb_arena *a, zb_err *err) {
    *w = (zb_writer){0};
    if (zb_dir_exists(path))
        return zb_fail(err, ZB_ERR_IO, "%s: expected a file, found a folder", path);
    w->in_place = is_special(path);
    w->path = w->in_place ? zb_strdup(a, path) : zb_path_target(a, path);
    w->tmp = w->in_place ? w->path : zb_asprintf(a, "%s.tmp%d", w->path, (int)getpid());
    w->f = fopen(w->tmp, "wb");
    if (!w->f) return io_fail(err, "create", w->tmp);
    return ZB_OK;
}

zb_status zb_writer_add(zb_writer *w, const void *bytes, size_t n, zb_err *err) {
    if (n && fwrite(bytes, 1, n, w->f) != n) return io_fail(err, "write", w->tmp);
    w->written += n;
    return ZB_OK;
}

zb_status zb_writer_close(zb_writer *w, zb_err *err) {
    bool ok = !ferror(w->f) && fflush(w->f) == 0;
    if (ok && !w->in_place) ok = fsync(fileno(w->f)) == 0; /* pipes cannot be synced */
    zb_status s = ok ? ZB_OK : io_fail(err, "write", w->tmp);
    if (fclose(w->f) != 0 && s == ZB_OK) s = io_fail(err, "write", w->tmp);
    w->f = NULL;
    if (w->in_place) return s;
    if (s == ZB_OK) s = zb_path_rename(w->tmp, w->path, err);
    if (s != ZB_OK) unlink(w->tmp);
    return s;
}

void zb_writer_abort(zb_writer *w) {
    if (!w->f) return;
    fclose(w->f);
    w->f = NULL;
    if (!w->in_place) unlink(w->tmp);
}

zb_status zb_file_write(const char *path, const void *bytes, size_t n, zb_err *err) {
    zb_arena a = {0};
    zb_writer w;
    zb_status s = zb_writer_open(&w, path, &a, err);
    if (s == ZB_OK) s = zb_writer_add(&w, bytes, n, err);
    if (s == ZB_OK) s = zb_writer_close(&w, err);
    zb_writer_abort(&w);
    zb_arena_free(&a);
    return s;
}

zb_status zb_file_copy(const char *from, const char *to, zb_err *err) {
    zb_map m;
    ZB_TRY(zb_map_open(&m, from, err));
    zb_status s = zb_file_write(to, m.data, m.size, err);
    zb_map_close(&m);
    return s;
}

/* ---- lines; zlib reads plain files too ---- */

struct zb_lines {
    gzFile f;
    zb_buf line;
    char *path, chunk[1 << 16];
    size_t at, have, limit;
    int64_t number;
};

zb_status zb_lines_open(zb_lines **out, const char *path, size_t line_limit, zb_err *err) {
    *out = NULL;
    if (zb_dir_exists(path))
        return zb_fail(err, ZB_ERR_IO, "%s: expected a file, found a folder", path);
    gzFile f = gzopen(path, "rb");
    if (!f) return io_fail(err, "open", path);
    zb_lines *l = zb_heap_resize(NULL, sizeof *l);
    memset(l, 0, sizeof *l);
    l->f = f;
    l->limit = line_limit;
    zb_buf_init(&l->line, line_limit);
    l->path = zb_heap_resize(NULL, strlen(path) + 1);
    memcpy(l->path, path, strlen(path) + 1);
    *out = l;
    return ZB_OK;
}

/* Refills the chunk; have = 0 at the end of the file. */
static zb_status refill(zb_lines *l, zb_err *err) {
    int got = gzread(l->f, l->chunk, sizeof l->chunk);
    int code = Z_OK; /* a .gz that is cut short ends without an error of gzread */
    const char *what = got <= 0 ? gzerror(l->f, &code) : "";
    if (got < 0 || code == Z_BUF_ERROR)
        return zb_fail(err, ZB_ERR_IO, "%s: cannot read: %s", l->path,
                       got < 0 ? what : "the file is cut short");
    l->at = 0;
    l->have = (size_t)got;
    return ZB_OK;
}

zb_status zb_lines_next(zb_lines *l, zb_str *line, bool *more, zb_err *err) {
    zb_buf_clear(&l->line);
    bool any = false;
    *more = false;
    for (;;) {
        if (l->at == l->have) ZB_TRY(refill(l, err));
        if (l->have == 0) break;
        any = true;
        char *from = l->chunk + l->at, *nl = memchr(from, '\n', l->have - l->at);
        size_t n = nl ? (size_t)(nl - from) : l->have - l->at;
        zb_buf_add(&l->line, from, n);
        l->at += n + (nl != NULL);
        if (l->line.overflow)
            return zb_fail(err, ZB_ERR_FORMAT, "%s:%lld: expected lines of at most %zu bytes",
                           l->path, (long long)l->number + 1, l->limit);
        if (nl) break;
    }
    if (!any) return ZB_OK;
    l->number++;
    *line = zb_buf_str(&l->line);
    if (line->n && line->p[line->n - 1] == '\r') line->n--;
    *more = true;
    return ZB_OK;
}

int64_t zb_lines_number(const zb_lines *l) { return l->number; }

void zb_lines_close(zb_lines *l) {
    if (!l) return;
    gzclose(l->f);
    zb_buf_free(&l->line);
    zb_heap_resize(l->path, 0);
    zb_heap_resize(l, 0);
}

size_t zb_lines_size(const char *path) {
    enum { BEGINNING = 1 << 20 };
    char chunk[1 << 16];
    struct stat st;
    gzFile f = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? gzopen(path, "rb") : NULL;
    if (!f) return 0;
    size_t size = 0;
    int got = 1;
    while (size < BEGINNING && (got = gzread(f, chunk, sizeof chunk)) > 0) size += (size_t)got;
    double packed = (double)gzoffset(f);
    if (got > 0 && packed > 0) size = (size_t)((double)size * (double)st.st_size / packed);
    gzclose(f);
    return size;
}
