/* cache.c - append-only files of answers (contract in cache.h).
 *
 * File: the line "zebra eval cache 1\n", then records
 *     u32 bytes of the value, 64 characters of the key, the value, 16 characters of check sum
 * where the check sum is the start of SHA-256 over all before it. Reading stops at a record that
 * the file's end cuts off; the own file, which is locked, is then cut there before anything is
 * appended. In memory a table with linear probing finds the records. */
#include "eval/cache.h"

#include "base/contents.h"
#include "base/file.h"
#include "base/log.h"
#include "eval/digest.h"

#include <errno.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

static const char magic[] = "zebra eval cache 1\n";
enum { MAGIC = sizeof magic - 1, KEY = 64, SUM = 16, VALUE_MAX = 1 << 24 };

typedef struct entry {
    zb_cache_key key;
    zb_str value;
} entry;

struct zb_cache {
    zb_arena arena; /* holds this struct */
    char *path;
    FILE *f;
    entry **slot;
    size_t n_slots, n; /* n_slots is a power of two, at least twice n */
};

static size_t slot_of(const zb_cache *c, const zb_cache_key *key) {
    uint64_t h = 14695981039346656037u;
    for (int i = 0; i < 16; i++) h = (h ^ (unsigned char)key->hex[i]) * 1099511628211u;
    size_t at = (size_t)h & (c->n_slots - 1);
    while (c->slot[at] && strcmp(c->slot[at]->key.hex, key->hex) != 0)
        at = (at + 1) & (c->n_slots - 1);
    return at;
}

static void insert(zb_cache *c, const zb_cache_key *key, zb_str value) {
    if (2 * (c->n + 1) > c->n_slots) {
        entry **old = c->slot;
        size_t n_old = c->n_slots;
        c->n_slots = n_old ? 2 * n_old : 1024;
        c->slot = ZB_NEW_ARRAY(&c->arena, entry *, c->n_slots);
        for (size_t i = 0; i < n_old; i++)
            if (old[i]) c->slot[slot_of(c, &old[i]->key)] = old[i];
    }
    size_t at = slot_of(c, key);
    if (c->slot[at]) return;
    c->slot[at] = ZB_NEW(&c->arena, entry);
    *c->slot[at] = (entry){*key, {zb_strndup(&c->arena, value.p, value.n), value.n}};
    c->n++;
}

static void check_sum(const void *bytes, size_t n, char out[SUM]) {
    char hex[65];
    zb_digest_sha256(bytes, n, hex);
    memcpy(out, hex, SUM);
}

/* Takes over the records of one file; *good is where its last whole record ends. */
static zb_status load(zb_cache *c, const char *path, size_t *good, zb_err *err) {
    zb_map m;
    ZB_TRY(zb_map_open(&m, path, err));
    zb_status s = ZB_OK;
    *good = 0;
    /* A file shorter than its first line was cut off at birth. */
    if (m.size >= MAGIC && memcmp(m.data, magic, MAGIC) != 0)
        s = zb_fail(err, ZB_ERR_FORMAT, "%s: expected an evaluation cache, found another file",
                    path);
    for (size_t at = MAGIC; s == ZB_OK && at <= m.size;) {
        uint32_t n;
        *good = at;
        if (m.size - at < sizeof n) break;
        memcpy(&n, m.data + at, sizeof n);
        size_t body = sizeof n + KEY + (size_t)n;
        char sum[SUM] = {0};
        zb_cache_key key = {{0}};
        if (n <= VALUE_MAX && m.size - at < body + SUM) break;
        if (n <= VALUE_MAX) check_sum(m.data + at, body, sum);
        if (n > VALUE_MAX || memcmp(sum, m.data + at + body, SUM) != 0) {
            s = zb_fail(err, ZB_ERR_FORMAT,
                        "%s: byte %zu: the check sum does not fit the record: delete the file",
                        path, at);
            break;
        }
        memcpy(key.hex, m.data + at + sizeof n, KEY);
        insert(c, &key, (zb_str){(const char *)m.data + at + sizeof n + KEY, n});
        at += body + SUM;
    }
    zb_map_close(&m);
    return s;
}

static zb_status cannot_write(const zb_cache *c, zb_err *err) {
    return zb_fail(err, ZB_ERR_IO, "%s: cannot write: %s", c->path, strerror(errno));
}

/* The first file from the rank's on that no process of another evaluation appends to. Where a disk
 * knows no locks, it is taken to be alone. */
static zb_status open_own(zb_cache *c, const char *dir, const char *stem, int rank, zb_err *err) {
    for (int number = rank;; number++) {
        c->path = zb_path_join(&c->arena, dir, zb_asprintf(&c->arena, "%s.%d.cache", stem, number));
        c->f = fopen(c->path, "ab");
        if (!c->f) return cannot_write(c, err);
        if (flock(fileno(c->f), LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return ZB_OK;
        zb_info("%s: another evaluation writes to it: answers go to a file of their own", c->path);
        fclose(c->f);
    }
}

/* This process's own file is opened for appending, then those of all are read. */
static zb_status open_files(zb_cache *c, const char *dir, const char *stem, int rank, zb_err *err) {
    char **name;
    size_t n, own = 0;
    ZB_TRY(zb_dir_make(dir, err));
    ZB_TRY(open_own(c, dir, stem, rank, err));
    ZB_TRY(zb_dir_list(dir, zb_asprintf(&c->arena, "%s.", stem), &c->arena, &name, &n, err));
    for (size_t i = 0; i < n; i++) {
        size_t good;
        const char *path = zb_path_join(&c->arena, dir, name[i]);
        if (!zb_str_ends(zb_str_from(name[i]), ZB_STR(".cache"))) continue;
        ZB_TRY(load(c, path, &good, err));
        if (!strcmp(path, c->path)) own = good;
    }
    if (ftruncate(fileno(c->f), (off_t)own) != 0 ||
        (own == 0 && fwrite(magic, 1, MAGIC, c->f) != MAGIC))
        return cannot_write(c, err);
    return zb_cache_flush(c, err);
}

zb_status zb_cache_open(zb_cache **out, const char *dir, const char *model, const char *task,
                        int rank, zb_err *err) {
    zb_arena first = {0};
    zb_cache *c = ZB_NEW(&first, zb_cache);
    c->arena = first;
    zb_status s = open_files(c, dir, zb_asprintf(&c->arena, "%.16s-%s", model, task), rank, err);
    *out = c;
    if (s == ZB_OK) return ZB_OK;
    zb_cache_close(c);
    *out = NULL;
    return s;
}

void zb_cache_close(zb_cache *c) {
    if (!c) return;
    if (c->f) fclose(c->f);
    zb_arena a = c->arena;
    zb_arena_free(&a);
}

bool zb_cache_find(const zb_cache *c, const zb_cache_key *key, zb_str *value) {
    if (c->n_slots == 0) return false;
    const entry *e = c->slot[slot_of(c, key)];
    if (!e) return false;
    *value = e->value;
    return true;
}

zb_status zb_cache_add(zb_cache *c, const zb_cache_key *key, zb_str value, zb_err *err) {
    ZB_ASSERT(value.n <= VALUE_MAX);
    zb_buf record;
    uint32_t n = (uint32_t)value.n;
    char sum[SUM];
    zb_buf_init(&record, VALUE_MAX + 256);
    zb_buf_add(&record, &n, sizeof n);
    zb_buf_add(&record, key->hex, KEY);
    zb_buf_add(&record, value.p, value.n);
    check_sum(record.p, record.n, sum);
    zb_buf_add(&record, sum, SUM);
    bool written = fwrite(record.p, 1, record.n, c->f) == record.n;
    zb_buf_free(&record);
    if (!written) return cannot_write(c, err);
    insert(c, key, value);
    return ZB_OK;
}

zb_status zb_cache_flush(zb_cache *c, zb_err *err) {
    return fflush(c->f) == 0 ? ZB_OK : cannot_write(c, err);
}

static zb_status add_file(zb_buf *list, const char *path, zb_err *err) {
    zb_map m;
    char hex[65];
    ZB_TRY(zb_map_open(&m, path, err));
    zb_digest_sha256(m.data, m.size, hex);
    zb_map_close(&m);
    zb_buf_addf(list, "%s %s\n", zb_path_base(path), hex);
    return ZB_OK;
}

zb_status zb_cache_model_digest(const char *path, const char *precision, const char *cache_type,
                                char hex[65], zb_err *err) {
    zb_arena a = {0};
    zb_buf list;
    zb_buf_init(&list, 1 << 20);
    bool rounds = cache_type && strcmp(cache_type, "f32") != 0;
    zb_buf_addf(&list, "precision %s%s%s\n", precision, rounds ? " cache " : "",
                rounds ? cache_type : "");
    zb_status s = ZB_OK;
    if (zb_dir_exists(path)) {
        char **name;
        size_t n = 0;
        s = zb_dir_list(path, "", &a, &name, &n, err);
        for (size_t i = 0; i < n && s == ZB_OK; i++)
            if (zb_contents_counts(name[i]))
                s = add_file(&list, zb_path_join(&a, path, name[i]), err);
    } else {
        s = add_file(&list, path, err);
    }
    if (s == ZB_OK) zb_digest_sha256(list.p, list.n, hex);
    zb_buf_free(&list);
    zb_arena_free(&a);
    return s;
}
