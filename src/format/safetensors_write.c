/* safetensors_write.c - writing files and shards (contract in safetensors.h).
 *
 * Tensors are laid out by type, widest first, then by name, and the header is padded with spaces to
 * a multiple of 8 bytes: every tensor is aligned to its element. For one set of tensors the file is
 * the same byte for byte, whatever order they come in, and the same as the reference library
 * writes. */
#include "format/safetensors.h"

#include "base/file.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_ELEMENTS = 1 << 22 }; /* of a tensor that is made as it is written */

/* Order of types in the file: the reference library's, which is by width. Packed types have no
 * row. */
static const int rank_of[ZB_DTYPE_COUNT] = {
    [ZB_I64] = 9, [ZB_F64] = 8, [ZB_F32] = 7, [ZB_I32] = 6,  [ZB_BF16] = 5,
    [ZB_F16] = 4, [ZB_I8] = 3,  [ZB_U8] = 2,  [ZB_BOOL] = 1,
};

static int by_layout(const void *a, const void *b) {
    const zb_tensor *x = *(const zb_tensor *const *)a, *y = *(const zb_tensor *const *)b;
    int d = rank_of[y->dtype] - rank_of[x->dtype];
    return d ? d : strcmp(x->name, y->name);
}

static int dump_to_buf(const char *text, size_t n, void *buf) {
    zb_buf_add(buf, text, n);
    return 0;
}

/* A JSON string with its quotes; false when s is not UTF-8. */
static bool add_string(zb_buf *b, const char *s) {
    json_t *v = json_string(s);
    if (!v) return false;
    json_dump_callback(v, dump_to_buf, b, JSON_ENCODE_ANY | JSON_COMPACT);
    json_decref(v);
    return true;
}

static bool add_metadata(zb_buf *b, const char *const *pairs) {
    static const char *const usual[] = {"format", "pt", NULL};
    if (!pairs) pairs = usual;
    zb_buf_adds(b, "{\"__metadata__\":{");
    for (size_t i = 0; pairs[i]; i += 2) {
        if (i) zb_buf_addc(b, ',');
        if (!add_string(b, pairs[i])) return false;
        zb_buf_addc(b, ':');
        if (!add_string(b, pairs[i + 1])) return false;
    }
    zb_buf_addc(b, '}');
    return true;
}

static void add_entry(zb_buf *b, const zb_tensor *t, size_t offset) {
    zb_buf_addf(b, ":{\"dtype\":\"%s\",\"shape\":[", zb_dtype_get(t->dtype)->name);
    for (int i = 0; i < t->n_dims; i++)
        zb_buf_addf(b, "%s%lld", i ? "," : "", (long long)t->shape[i]);
    zb_buf_addf(b, "],\"data_offsets\":[%zu,%zu]}", offset, offset + t->bytes);
}

/* The header text, padded. `order` is sorted by layout. */
static zb_status make_header(zb_buf *b, const zb_tensor *const *order, size_t n,
                             const char *const *metadata, const char *path, zb_err *err) {
    if (!add_metadata(b, metadata))
        return zb_fail(err, ZB_ERR_INTERNAL, "%s: metadata is not UTF-8", path);
    size_t offset = 0;
    for (size_t i = 0; i < n; i++) {
        const zb_tensor *t = order[i];
        size_t bytes;
        ZB_ASSERT(rank_of[t->dtype] && zb_dtype_size(t->dtype, zb_tensor_count(t), &bytes) &&
                  bytes == t->bytes);
        if (!strcmp(t->name, "__metadata__") || (i && !by_layout(&order[i - 1], &order[i])))
            return zb_fail(err, ZB_ERR_INTERNAL,
                           "%s: tensor \"%.120s\" cannot be written under this name "
                           "(reserved, or given twice)",
                           path, t->name);
        zb_buf_addc(b, ',');
        if (!add_string(b, t->name))
            return zb_fail(err, ZB_ERR_INTERNAL, "%s: tensor \"%.120s\": the name is not UTF-8",
                           path, t->name);
        add_entry(b, t, offset);
        offset += t->bytes;
    }
    zb_buf_addc(b, '}');
    while (b->n % 8) zb_buf_addc(b, ' ');
    if (b->overflow)
        return zb_fail(err, ZB_ERR_INTERNAL, "%s: the header exceeds %zu bytes", path, b->limit);
    return ZB_OK;
}

/* A tensor that is made piece by piece. */
static zb_status write_made(zb_writer *w, const zb_tensor *t, const zb_tensor_source *source,
                            zb_err *err) {
    int64_t total = zb_tensor_count(t), row = t->n_dims ? t->shape[t->n_dims - 1] : 1;
    if (total == 0) return ZB_OK;
    ZB_ASSERT(source);
    int64_t piece = row * (PIECE_ELEMENTS / row > 1 ? PIECE_ELEMENTS / row : 1);
    zb_arena a = {0};
    zb_status s = ZB_OK;
    void *out =
        zb_alloc_array(&a, (size_t)(piece < total ? piece : total), t->bytes / (size_t)total);
    for (int64_t first = 0; s == ZB_OK && first < total; first += piece) {
        int64_t n = total - first < piece ? total - first : piece;
        source->fill(source->context, t, first, n, out);
        s = zb_writer_add(w, out, (size_t)n * (t->bytes / (size_t)total), err);
    }
    zb_arena_free(&a);
    return s;
}

static zb_status write_parts(zb_writer *w, const zb_buf *header, const zb_tensor *const *order,
                             size_t n, const zb_tensor_source *source, zb_err *err) {
    uint64_t length = header->n;
    ZB_TRY(zb_writer_add(w, &length, sizeof length, err));
    ZB_TRY(zb_writer_add(w, header->p, header->n, err));
    for (size_t i = 0; i < n; i++)
        if (order[i]->data)
            ZB_TRY(zb_writer_add(w, order[i]->data, order[i]->bytes, err));
        else
            ZB_TRY(write_made(w, order[i], source, err));
    return zb_writer_close(w, err);
}

static zb_status write_file(const char *path, const zb_tensor *tensors, size_t n,
                            const char *const *metadata, const zb_tensor_source *source,
                            zb_err *err) {
    zb_arena a = {0};
    const zb_tensor **order = ZB_NEW_ARRAY(&a, const zb_tensor *, n);
    for (size_t i = 0; i < n; i++) order[i] = &tensors[i];
    if (n) qsort(order, n, sizeof *order, by_layout);
    zb_buf header;
    zb_buf_init(&header, 100000000); /* what readers accept */
    zb_writer w = {0};
    zb_status s = make_header(&header, order, n, metadata, path, err);
    if (s == ZB_OK) s = zb_writer_open(&w, path, &a, err);
    if (s == ZB_OK) s = write_parts(&w, &header, order, n, source, err);
    zb_writer_abort(&w);
    zb_buf_free(&header);
    zb_arena_free(&a);
    return s;
}

zb_status zb_safetensors_write(const char *path, const zb_tensor *tensors, size_t n,
                               const char *const *metadata, zb_err *err) {
    return write_file(path, tensors, n, metadata, NULL, err);
}

/* Where each shard ends: tensors first..ends[i]-1. A tensor above the limit gets a shard of its
 * own. */
static size_t plan_shards(const zb_tensor *t, size_t n, size_t limit, size_t *ends) {
    size_t shards = 0, bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (bytes && (t[i].bytes > limit || bytes > limit - t[i].bytes)) {
            ends[shards++] = i;
            bytes = 0;
        }
        bytes += t[i].bytes;
    }
    ends[shards++] = n;
    return shards;
}

static char *shard_name(zb_arena *a, size_t i, size_t count) {
    return count == 1 ? zb_strdup(a, "model.safetensors")
                      : zb_asprintf(a, "model-%05zu-of-%05zu.safetensors", i + 1, count);
}

static zb_status write_index(const char *dir, const zb_tensor *t, const size_t *ends, size_t shards,
                             zb_arena *a, zb_err *err) {
    json_t *map = json_object();
    size_t total = 0, at = 0;
    for (size_t k = 0; k < shards; k++)
        for (const char *file = shard_name(a, k, shards); at < ends[k]; at++) {
            total += t[at].bytes;
            json_object_set_new(map, t[at].name, json_string(file));
        }
    json_t *root =
        json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    zb_status s = zb_json_write(zb_path_join(a, dir, "model.safetensors.index.json"), root, err);
    json_decref(root);
    return s;
}

/* Weights of an earlier write under other names would be read instead of, or beside, the new
 * ones. */
static zb_status remove_stale(const char *dir, size_t shards, zb_arena *a, zb_err *err) {
    char **names;
    size_t n;
    ZB_TRY(zb_dir_list(dir, "model", a, &names, &n, err));
    for (size_t i = 0; i < n; i++) {
        bool ours = shards > 1 && !strcmp(names[i], "model.safetensors.index.json");
        for (size_t k = 0; k < shards && !ours; k++)
            ours = !strcmp(names[i], shard_name(a, k, shards));
        zb_str name = zb_str_from(names[i]);
        bool weights =
            !strcmp(names[i], "model.safetensors.index.json") ||
            !strcmp(names[i], "model.safetensors") ||
            (zb_str_starts(name, ZB_STR("model-")) && zb_str_ends(name, ZB_STR(".safetensors")));
        const char *path = zb_path_join(a, dir, names[i]);
        if (weights && !ours && remove(path) != 0)
            return zb_fail(err, ZB_ERR_IO, "%s: cannot remove the earlier weights", path);
    }
    return ZB_OK;
}

zb_status zb_safetensors_write_dir(const char *dir, const zb_tensor *tensors, size_t n,
                                   size_t shard_bytes, const zb_tensor_source *source,
                                   zb_err *err) {
    zb_arena a = {0};
    size_t *ends = ZB_NEW_ARRAY(&a, size_t, n + 1), at = 0;
    size_t shards = plan_shards(tensors, n, shard_bytes, ends);
    zb_status s = zb_dir_make(dir, err);
    for (size_t k = 0; k < shards && s == ZB_OK; at = ends[k++]) {
        const char *path = zb_path_join(&a, dir, shard_name(&a, k, shards));
        s = write_file(path, tensors + at, ends[k] - at, NULL, source, err);
    }
    if (s == ZB_OK && shards > 1) s = write_index(dir, tensors, ends, shards, &a, err);
    if (s == ZB_OK) s = remove_stale(dir, shards, &a, err);
    zb_arena_free(&a);
    return s;
}
