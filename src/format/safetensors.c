/* safetensors.c - reading (contract in safetensors.h; writing is in safetensors_write.c).
 *
 * A file is: u64 N · N bytes of JSON, starting with '{' · the data buffer. An entry is
 *   "name": {"dtype": "F32", "shape": [2,3], "data_offsets": [begin, end]}
 * with offsets counted from the start of the buffer; "__metadata__" maps strings to strings. The
 * ranges must cover the buffer without gap or overlap up to the end of the file, so a truncated or
 * spliced file cannot pass. Nothing of the buffer is touched here. Several files (shards) share one
 * sorted table. Format: github.com/huggingface/safetensors. */
#include "format/safetensors.h"

#include "base/file.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_MAX ((size_t)100000000)
#define INDEX_MAX ((size_t)64 << 20)
enum { SHARDS_MAX = 10000 };

struct zb_safetensors {
    zb_arena arena;
    zb_map *maps;
    size_t n_maps, maps_cap;
    zb_tensor *tensors; /* sorted by name once open */
    size_t n, cap;
    json_t *metadata; /* of the first file; NULL: none */
};

/* The place of an entry in messages. Names are cut so that what follows them stays readable. */
typedef struct place {
    const char *where, *name;
} place;

#define FAIL(p, err, fmt, ...)                                                                     \
    zb_fail(err, ZB_ERR_FORMAT, "%s: tensor \"%.120s\": " fmt, (p).where, (p).name, __VA_ARGS__)

static zb_status read_dtype(place p, const json_t *entry, zb_dtype *out, zb_err *err) {
    const json_t *v = json_object_get(entry, "dtype");
    if (!json_is_string(v))
        return FAIL(p, err, "dtype: expected a string, found %s", zb_json_type(v));
    const char *name = json_string_value(v);
    if (!zb_dtype_find(name, out) || zb_dtype_get(*out)->block != 1)
        return zb_fail(
            err, ZB_ERR_UNSUPPORTED,
            "%s: tensor \"%.120s\": dtype \"%.20s\" is not supported (known: F64 F32 F16 BF16 "
            "I64 I32 I8 U8 BOOL)",
            p.where, p.name, name);
    return ZB_OK;
}

/* Reads a list of at most `max` integers >= 0. */
static zb_status read_list(place p, const json_t *entry, const char *key, int64_t *out, size_t max,
                           size_t *n, zb_err *err) {
    const json_t *v = json_object_get(entry, key);
    if (!json_is_array(v))
        return FAIL(p, err, "%s: expected an array, found %s", key, zb_json_type(v));
    *n = json_array_size(v);
    if (*n > max) return FAIL(p, err, "%s: expected at most %zu numbers, found %zu", key, max, *n);
    for (size_t i = 0; i < *n; i++) {
        const json_t *x = json_array_get(v, i);
        if (!json_is_integer(x))
            return FAIL(p, err, "%s: expected integers, found %s", key, zb_json_type(x));
        out[i] = json_integer_value(x);
        if (out[i] < 0)
            return FAIL(p, err, "%s: expected no negative number, found %lld", key,
                        (long long)out[i]);
    }
    return ZB_OK;
}

/* Bytes a shape takes; false when that exceeds 63 bits. */
static bool shape_bytes(const zb_tensor *t, size_t *bytes) {
    int64_t count = 1;
    bool empty = false;
    for (int i = 0; i < t->n_dims; i++) empty |= t->shape[i] == 0;
    for (int i = 0; i < t->n_dims && !empty; i++)
        if (__builtin_mul_overflow(count, t->shape[i], &count)) return false;
    return zb_dtype_size(t->dtype, empty ? 0 : count, bytes) && *bytes <= INT64_MAX;
}

/* One entry into *t; its range must lie in the buffer and fit its shape. */
static zb_status read_entry(place p, const json_t *entry, const uint8_t *buffer, size_t size,
                            zb_tensor *t, zb_err *err) {
    if (!json_is_object(entry))
        return FAIL(p, err, "expected an object, found %s", zb_json_type(entry));
    ZB_TRY(read_dtype(p, entry, &t->dtype, err));
    size_t n;
    ZB_TRY(read_list(p, entry, "shape", t->shape, ZB_DIMS_MAX, &n, err));
    t->n_dims = (int)n;
    int64_t range[2];
    ZB_TRY(read_list(p, entry, "data_offsets", range, 2, &n, err));
    if (n != 2) return FAIL(p, err, "data_offsets: expected 2 numbers, found %zu", n);
    if (range[0] > range[1] || (uint64_t)range[1] > size)
        return FAIL(
            p, err,
            "data_offsets: expected a range within the %zu bytes of data, found %lld to %lld", size,
            (long long)range[0], (long long)range[1]);
    char shape[96];
    t->data = buffer + range[0];
    if (!shape_bytes(t, &t->bytes))
        return FAIL(p, err, "shape %s is too large", zb_tensor_shape_text(t, shape));
    if (t->bytes != (size_t)(range[1] - range[0]))
        return FAIL(p, err, "%s needs %zu bytes, found %lld in data_offsets",
                    zb_tensor_shape_text(t, shape), t->bytes, (long long)(range[1] - range[0]));
    return ZB_OK;
}

static zb_status read_metadata(zb_safetensors *s, const char *where, json_t *meta, zb_err *err) {
    if (!json_is_object(meta))
        return zb_fail(err, ZB_ERR_FORMAT, "%s: __metadata__: expected an object, found %s", where,
                       zb_json_type(meta));
    const char *key;
    json_t *v;
    json_object_foreach(meta, key, v) {
        if (!json_is_string(v))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: __metadata__: \"%.100s\": expected a string, found %s", where, key,
                           zb_json_type(v));
    }
    if (!s->metadata && s->n_maps <= 1) s->metadata = json_incref(meta);
    return ZB_OK;
}

static int by_offset(const void *a, const void *b) {
    const zb_tensor *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q) return p < q ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The n tensors of one file cover its buffer exactly. Sorts them by offset. */
static zb_status check_cover(zb_tensor *t, size_t n, const uint8_t *buffer, size_t size,
                             const char *where, zb_err *err) {
    if (n) qsort(t, n, sizeof *t, by_offset);
    size_t end = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)((const uint8_t *)t[i].data - buffer);
        if (begin != end)
            return zb_fail(
                err, ZB_ERR_FORMAT,
                "%s: tensor \"%.120s\" begins at byte %zu of the data, expected %zu (%s)", where,
                t[i].name, begin, end, begin < end ? "overlap" : "gap");
        end = begin + t[i].bytes;
    }
    if (end != size)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: the tensors take %zu bytes of data, found %zu",
                       where, end, size);
    return ZB_OK;
}

static zb_status add_entries(zb_safetensors *s, json_t *root, const uint8_t *buffer, size_t size,
                             const char *where, zb_err *err) {
    size_t first = s->n;
    s->tensors =
        zb_grow(&s->arena, s->tensors, &s->cap, s->n + json_object_size(root), sizeof *s->tensors);
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry) {
        if (!strcmp(name, "__metadata__")) {
            ZB_TRY(read_metadata(s, where, entry, err));
            continue;
        }
        zb_tensor *t = &s->tensors[first];
        t[s->n - first] = (zb_tensor){.name = zb_strdup(&s->arena, name)};
        ZB_TRY(read_entry((place){where, name}, entry, buffer, size, &t[s->n - first], err));
        s->n++;
    }
    zb_tensor *own = s->tensors ? s->tensors + first : NULL; /* none in the whole set */
    return check_cover(own, s->n - first, buffer, size, where, err);
}

/* Adds one file's tensors. */
static zb_status add_file(zb_safetensors *s, const uint8_t *bytes, size_t size, const char *where,
                          zb_err *err) {
    if (size < 8)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected a safetensors file, found only %zu bytes",
                       where, size);
    uint64_t header;
    memcpy(&header, bytes, 8);
    if (header > HEADER_MAX || header > size - 8)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: expected a header of at most %zu bytes, found %llu (cut short, "
                       "or no safetensors file)",
                       where, size - 8 < HEADER_MAX ? size - 8 : HEADER_MAX,
                       (unsigned long long)header);
    if (header == 0 || bytes[8] != '{')
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected a header that starts with '{'", where);
    json_t *root;
    ZB_TRY(zb_json_parse((const char *)bytes + 8, (size_t)header, where, &root, err));
    zb_status st = add_entries(s, root, bytes + 8 + header, size - 8 - (size_t)header, where, err);
    json_decref(root);
    return st;
}

static zb_status add_path(zb_safetensors *s, const char *path, zb_err *err) {
    s->maps = zb_grow(&s->arena, s->maps, &s->maps_cap, s->n_maps + 1, sizeof *s->maps);
    zb_map *m = &s->maps[s->n_maps];
    ZB_TRY(zb_map_open(m, path, err));
    s->n_maps++;
    return add_file(s, m->data, m->size, path, err);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const zb_tensor *)a)->name, ((const zb_tensor *)b)->name);
}

/* Sorts the table; a name may stand in one file only. */
static zb_status finish(zb_safetensors *s, const char *where, zb_err *err) {
    if (s->n) qsort(s->tensors, s->n, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < s->n; i++)
        if (!strcmp(s->tensors[i - 1].name, s->tensors[i].name))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor \"%.120s\" stands in two files", where,
                           s->tensors[i].name);
    return ZB_OK;
}

static zb_safetensors *table_new(void) {
    zb_arena a = {0};
    zb_safetensors *s = ZB_NEW(&a, zb_safetensors);
    s->arena = a;
    return s;
}

static zb_status hand_over(zb_safetensors **out, zb_safetensors *s, zb_status st) {
    if (st != ZB_OK) {
        zb_safetensors_close(s);
        s = NULL;
    }
    *out = s;
    return st;
}

zb_status zb_safetensors_parse(zb_safetensors **out, const void *bytes, size_t n, const char *where,
                               zb_err *err) {
    zb_safetensors *s = table_new();
    zb_status st = add_file(s, bytes, n, where, err);
    if (st == ZB_OK) st = finish(s, where, err);
    return hand_over(out, s, st);
}

zb_status zb_safetensors_open(zb_safetensors **out, const char *path, zb_err *err) {
    zb_safetensors *s = table_new();
    zb_status st = add_path(s, path, err);
    if (st == ZB_OK) st = finish(s, path, err);
    return hand_over(out, s, st);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The distinct file names of a weight map, sorted. They are names in the same folder, never
 * paths. */
static zb_status shard_names(zb_arena *a, json_t *weight_map, const char *index,
                             const char ***names, size_t *n, zb_err *err) {
    *names = ZB_NEW_ARRAY(a, const char *, json_object_size(weight_map));
    size_t all = 0;
    const char *key;
    json_t *v;
    json_object_foreach(weight_map, key, v) {
        const char *file = json_string_value(v);
        if (!file || !*file || strchr(file, '/') || !strcmp(file, ".."))
            return zb_fail(err, ZB_ERR_FORMAT,
                           "%s: weight_map: \"%.100s\": expected a file name, found %s%.60s", index,
                           key, file ? "the path " : zb_json_type(v), file ? file : "");
        (*names)[all++] = file;
    }
    if (all) qsort(*names, all, sizeof **names, by_text);
    *n = 0;
    for (size_t i = 0; i < all; i++)
        if (*n == 0 || strcmp((*names)[*n - 1], (*names)[i]) != 0) (*names)[(*n)++] = (*names)[i];
    if (*n > SHARDS_MAX)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected at most %d files, found %zu", index,
                       SHARDS_MAX, *n);
    return ZB_OK;
}

/* Every tensor of the index exists (in whichever shard). */
static zb_status check_index(const zb_safetensors *s, json_t *weight_map, const char *index,
                             zb_err *err) {
    const char *key;
    json_t *v;
    json_object_foreach(weight_map, key, v) {
        if (!zb_safetensors_find(s, key))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor \"%.120s\" is missing in %.100s", index,
                           key, json_string_value(v));
    }
    return ZB_OK;
}

static zb_status add_shards(zb_safetensors *s, const char *dir, json_t *root, const char *index,
                            zb_err *err) {
    json_t *weight_map;
    ZB_TRY(zb_json_object(root, index, "weight_map", true, &weight_map, err));
    const char **names;
    size_t n = 0;
    ZB_TRY(shard_names(&s->arena, weight_map, index, &names, &n, err));
    for (size_t i = 0; i < n; i++) ZB_TRY(add_path(s, zb_path_join(&s->arena, dir, names[i]), err));
    ZB_TRY(finish(s, dir, err));
    return check_index(s, weight_map, index, err);
}

zb_status zb_safetensors_open_dir(zb_safetensors **out, const char *dir, zb_err *err) {
    zb_safetensors *s = table_new();
    const char *single = zb_path_join(&s->arena, dir, "model.safetensors");
    const char *index = zb_path_join(&s->arena, dir, "model.safetensors.index.json");
    zb_status st;
    if (zb_file_exists(single)) {
        st = add_path(s, single, err);
        if (st == ZB_OK) st = finish(s, single, err);
    } else if (zb_file_exists(index)) {
        json_t *root;
        st = zb_json_read(index, INDEX_MAX, &root, err);
        if (st == ZB_OK) st = add_shards(s, dir, root, index, err);
        json_decref(root);
    } else if (zb_file_exists(zb_path_join(&s->arena, dir, "pytorch_model.bin")) ||
               zb_file_exists(zb_path_join(&s->arena, dir, "pytorch_model.bin.index.json"))) {
        st = zb_fail(err, ZB_ERR_UNSUPPORTED,
                     "%s: expected model.safetensors, found pytorch_model.bin: Python objects are "
                     "not read; save the model's tensors as safetensors first",
                     dir);
    } else {
        st = zb_fail(err, ZB_ERR_IO,
                     "%s: expected a folder with model.safetensors or "
                     "model.safetensors.index.json",
                     dir);
    }
    return hand_over(out, s, st);
}

void zb_safetensors_close(zb_safetensors *s) {
    if (!s) return;
    for (size_t i = 0; i < s->n_maps; i++) zb_map_close(&s->maps[i]);
    json_decref(s->metadata);
    zb_arena a = s->arena; /* the arena holds its own owner */
    zb_arena_free(&a);
}

void zb_safetensors_forget(const zb_safetensors *s) {
    for (size_t i = 0; s && i < s->n_maps; i++) zb_map_forget(&s->maps[i]);
}

size_t zb_safetensors_count(const zb_safetensors *s) { return s->n; }

const zb_tensor *zb_safetensors_at(const zb_safetensors *s, size_t i) {
    ZB_ASSERT(i < s->n);
    return &s->tensors[i];
}

const zb_tensor *zb_safetensors_find(const zb_safetensors *s, const char *name) {
    zb_tensor key = {.name = name};
    return s->n ? bsearch(&key, s->tensors, s->n, sizeof key, by_name) : NULL;
}

const char *zb_safetensors_metadata(const zb_safetensors *s, const char *key) {
    return json_string_value(json_object_get(s->metadata, key));
}
