/* gguf.c - reading GGUF (contract in gguf.h).
 *
 * Layout, all numbers little-endian (ggml docs/gguf.md):
 *   "GGUF" · u32 version · u64 tensors · u64 keys
 *   keys × { str name; u32 type; value }
 *   tensors × { str name; u32 dims; u64 ne[dims]; u32 type; u64 offset }
 *   padding to general.alignment · data; offsets count from the start of the data
 * with str = u64 length, bytes; array = u32 type, u64 count, items; ne[0] is the fastest axis.
 * Versions 2 and 3 share this layout. One cursor walks the file front to back and never reads past
 * what is left; counts are compared with the bytes that they would need at least before memory is
 * taken for them. Values stay in the file and are decoded at access. */
#include "format/gguf.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT_USUAL = 32, NAME_MAX_BYTES = 64, KEY_MAX_BYTES = 65535, NESTING_MAX = 4 };
enum { KEY_MIN_BYTES = 8 + 4 + 1, TENSOR_MIN_BYTES = 8 + 4 + 4 + 8 };

/* clang-format off */
typedef enum value_type {
    V_U8, V_I8, V_U16, V_I16, V_U32, V_I32, V_F32, V_BOOL, V_STRING, V_ARRAY, V_U64, V_I64, V_F64,
    V_COUNT
} value_type;
/* clang-format on */

/* Bytes of a value of fixed size; 0: string, array. */
static const struct {
    const char *name;
    uint8_t bytes;
} value_types[V_COUNT] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8},
};

/* Tensor types by number. Those without a row of our own are known by name only. */
static const struct {
    int id;
    int dtype; /* zb_dtype, -1: not supported */
    const char *name;
} tensor_types[] = {
    {0, ZB_F32, "F32"},        {1, ZB_F16, "F16"},    {2, ZB_Q4_0, "Q4_0"},
    {3, ZB_Q4_1, "Q4_1"},      {6, ZB_Q5_0, "Q5_0"},  {7, ZB_Q5_1, "Q5_1"},
    {8, ZB_Q8_0, "Q8_0"},      {9, -1, "Q8_1"},       {10, ZB_Q2_K, "Q2_K"},
    {11, ZB_Q3_K, "Q3_K"},     {12, ZB_Q4_K, "Q4_K"}, {13, ZB_Q5_K, "Q5_K"},
    {14, ZB_Q6_K, "Q6_K"},     {15, -1, "Q8_K"},      {16, -1, "IQ2_XXS"},
    {17, -1, "IQ2_XS"},        {18, -1, "IQ3_XXS"},   {19, -1, "IQ1_S"},
    {20, ZB_IQ4_NL, "IQ4_NL"}, {21, -1, "IQ3_S"},     {22, -1, "IQ2_S"},
    {23, ZB_IQ4_XS, "IQ4_XS"}, {24, ZB_I8, "I8"},     {25, -1, "I16"},
    {26, ZB_I32, "I32"},       {27, ZB_I64, "I64"},   {28, ZB_F64, "F64"},
    {29, -1, "IQ1_M"},         {30, ZB_BF16, "BF16"}, {34, ZB_TQ1_0, "TQ1_0"},
    {35, ZB_TQ2_0, "TQ2_0"},   {39, -1, "MXFP4"},     {40, -1, "NVFP4"},
    {41, -1, "Q1_0"},
};

int zb_gguf_type(zb_dtype t) {
    for (size_t i = 0; i < sizeof tensor_types / sizeof *tensor_types; i++)
        if (tensor_types[i].dtype == (int)t) return tensor_types[i].id;
    return -1;
}

typedef struct entry {
    zb_str key;
    value_type type, item; /* item: of an array */
    uint64_t count;        /* of an array */
    const uint8_t *value;  /* first byte; of an array: of its items */
} entry;

struct zb_gguf {
    zb_arena arena;
    zb_map map; /* empty when parsed from memory */
    const char *path;
    entry *entries; /* sorted by key */
    size_t n_entries;
    zb_tensor *tensors; /* sorted by name */
    size_t n;
};

/* What is left of the file. */
typedef struct cursor {
    const uint8_t *p;
    size_t left, size;
    const char *where;
    zb_err *err;
} cursor;

/* Bytes of a key that messages show ("%.*s"). */
static int shown(zb_str key) { return (int)(key.n < 100 ? key.n : 100); }

static zb_status take(cursor *c, size_t n, const uint8_t **out) {
    *out = c->p;
    if (n > c->left)
        return zb_fail(c->err, ZB_ERR_FORMAT,
                       "%s: cut short: expected %zu bytes at byte %zu, found %zu", c->where, n,
                       c->size - c->left, c->left);
    c->p += n;
    c->left -= n;
    return ZB_OK;
}

static zb_status take_u32(cursor *c, uint32_t *out) {
    const uint8_t *p;
    ZB_TRY(take(c, 4, &p));
    memcpy(out, p, 4);
    return ZB_OK;
}

static zb_status take_u64(cursor *c, uint64_t *out) {
    const uint8_t *p;
    ZB_TRY(take(c, 8, &p));
    memcpy(out, p, 8);
    return ZB_OK;
}

static zb_status take_str(cursor *c, zb_str *out) {
    uint64_t n;
    const uint8_t *p;
    ZB_TRY(take_u64(c, &n));
    ZB_TRY(take(c, n, &p));
    *out = (zb_str){(const char *)p, n};
    return ZB_OK;
}

/* A name: not empty, limited, without NUL bytes. */
static zb_status take_name(cursor *c, const char *what, size_t max, zb_str *out) {
    size_t at = c->size - c->left;
    ZB_TRY(take_str(c, out));
    if (out->n == 0 || out->n > max || memchr(out->p, 0, out->n))
        return zb_fail(c->err, ZB_ERR_FORMAT,
                       "%s: %s at byte %zu: expected 1 to %zu bytes without NUL, found %zu",
                       c->where, what, at, max, out->n);
    return ZB_OK;
}

static zb_status take_type(cursor *c, zb_str key, value_type *out) {
    uint32_t t;
    ZB_TRY(take_u32(c, &t));
    if (t >= V_COUNT)
        return zb_fail(c->err, ZB_ERR_FORMAT,
                       "%s: key \"%.*s\": expected a value type below %d, found %u", c->where,
                       shown(key), key.p, V_COUNT, t);
    *out = (value_type)t;
    return ZB_OK;
}

static zb_status skip_array(cursor *c, zb_str key, value_type item, uint64_t count, int depth);

static zb_status skip_value(cursor *c, zb_str key, value_type type, int depth) {
    const uint8_t *p;
    zb_str s;
    if (type == V_STRING) return take_str(c, &s);
    if (type != V_ARRAY) return take(c, value_types[type].bytes, &p);
    value_type item = V_U8;
    uint64_t count = 0;
    ZB_TRY(take_type(c, key, &item));
    ZB_TRY(take_u64(c, &count));
    return skip_array(c, key, item, count, depth + 1);
}

static zb_status skip_array(cursor *c, zb_str key, value_type item, uint64_t count, int depth) {
    if (depth > NESTING_MAX)
        return zb_fail(c->err, ZB_ERR_FORMAT, "%s: key \"%.*s\": expected at most %d nested arrays",
                       c->where, shown(key), key.p, NESTING_MAX);
    size_t each = value_types[item].bytes, least = each; /* bytes an item takes at least */
    if (item == V_STRING) least = 8;
    if (item == V_ARRAY) least = 4 + 8;
    if (count > c->left / least)
        return zb_fail(c->err, ZB_ERR_FORMAT,
                       "%s: key \"%.*s\": cut short: expected %llu items, found %zu bytes",
                       c->where, shown(key), key.p, (unsigned long long)count, c->left);
    const uint8_t *p;
    if (each) return take(c, (size_t)count * each, &p);
    for (uint64_t i = 0; i < count; i++) ZB_TRY(skip_value(c, key, item, depth));
    return ZB_OK;
}

static zb_status read_entry(cursor *c, entry *e) {
    ZB_TRY(take_name(c, "a key", KEY_MAX_BYTES, &e->key));
    ZB_TRY(take_type(c, e->key, &e->type));
    if (e->type == V_ARRAY) {
        ZB_TRY(take_type(c, e->key, &e->item));
        ZB_TRY(take_u64(c, &e->count));
        e->value = c->p;
        return skip_array(c, e->key, e->item, e->count, 1);
    }
    e->value = c->p;
    return skip_value(c, e->key, e->type, 0);
}

static int compare_str(zb_str a, zb_str b) {
    int d = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);
    return d ? d : (a.n > b.n) - (a.n < b.n);
}

static int by_key(const void *a, const void *b) {
    return compare_str(((const entry *)a)->key, ((const entry *)b)->key);
}

static zb_status read_entries(zb_gguf *g, cursor *c, uint64_t count) {
    if (count > c->left / KEY_MIN_BYTES)
        return zb_fail(c->err, ZB_ERR_FORMAT, "%s: cut short: expected %llu keys, found %zu bytes",
                       c->where, (unsigned long long)count, c->left);
    g->entries = ZB_NEW_ARRAY(&g->arena, entry, count);
    for (; g->n_entries < count; g->n_entries++) ZB_TRY(read_entry(c, &g->entries[g->n_entries]));
    if (count) qsort(g->entries, count, sizeof *g->entries, by_key);
    for (size_t i = 1; i < count; i++)
        if (by_key(&g->entries[i - 1], &g->entries[i]) == 0)
            return zb_fail(c->err, ZB_ERR_FORMAT, "%s: key \"%.*s\" is given twice", c->where,
                           shown(g->entries[i].key), g->entries[i].key.p);
    return ZB_OK;
}

static zb_status refuse_type(const cursor *c, const char *tensor, uint32_t id, const char *type) {
    char known[160] = "";
    for (size_t i = 0, n = 0; i < sizeof tensor_types / sizeof *tensor_types; i++)
        if (tensor_types[i].dtype >= 0 && n < sizeof known)
            n += (size_t)snprintf(known + n, sizeof known - n, " %s", tensor_types[i].name);
    return zb_fail(c->err, ZB_ERR_UNSUPPORTED,
                   "%s: tensor \"%s\": type %u (%s) is not supported (known:%s)", c->where, tensor,
                   id, type, known);
}

static zb_status read_tensor_type(cursor *c, const char *name, zb_dtype *out) {
    uint32_t id;
    ZB_TRY(take_u32(c, &id));
    const char *type = "unknown";
    for (size_t i = 0; i < sizeof tensor_types / sizeof *tensor_types; i++) {
        if ((uint32_t)tensor_types[i].id != id) continue;
        type = tensor_types[i].name;
        if (tensor_types[i].dtype < 0) break;
        *out = (zb_dtype)tensor_types[i].dtype;
        return ZB_OK;
    }
    return refuse_type(c, name, id, type);
}

/* Dimensions, last first; their product must stay a number of bytes below 2^63. */
static zb_status read_shape(cursor *c, zb_tensor *t) {
    uint32_t n;
    ZB_TRY(take_u32(c, &n));
    if (n > ZB_DIMS_MAX)
        return zb_fail(c->err, ZB_ERR_FORMAT,
                       "%s: tensor \"%s\": expected at most %d dimensions, found %u", c->where,
                       t->name, ZB_DIMS_MAX, n);
    t->n_dims = (int)n;
    int64_t count = 1;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        uint64_t ne;
        ZB_TRY(take_u64(c, &ne));
        if (ne > INT64_MAX || __builtin_mul_overflow(count, (int64_t)ne, &count))
            return zb_fail(c->err, ZB_ERR_FORMAT, "%s: tensor \"%s\": the shape is too large",
                           c->where, t->name);
        t->shape[i] = (int64_t)ne;
    }
    return ZB_OK;
}

/* One tensor; its offset is left in *offset until the start of the data is known. */
static zb_status read_tensor(zb_gguf *g, cursor *c, zb_tensor *t, uint64_t *offset) {
    zb_str name;
    ZB_TRY(take_name(c, "a tensor name", NAME_MAX_BYTES, &name));
    t->name = zb_strndup(&g->arena, name.p, name.n);
    ZB_TRY(read_shape(c, t));
    ZB_TRY(read_tensor_type(c, t->name, &t->dtype));
    ZB_TRY(take_u64(c, offset));
    char shape[96];
    int block = zb_dtype_get(t->dtype)->block;
    if (block > 1 && (t->n_dims == 0 || t->shape[t->n_dims - 1] % block != 0))
        return zb_fail(c->err, ZB_ERR_FORMAT,
                       "%s: tensor \"%s\": %s: expected rows of a multiple of %d elements",
                       c->where, t->name, zb_tensor_shape_text(t, shape), block);
    if (!zb_dtype_size(t->dtype, zb_tensor_count(t), &t->bytes))
        return zb_fail(c->err, ZB_ERR_FORMAT, "%s: tensor \"%s\": the shape is too large", c->where,
                       t->name);
    return ZB_OK;
}

static zb_status read_alignment(const zb_gguf *g, zb_err *err, size_t *out) {
    int64_t a = ALIGNMENT_USUAL;
    ZB_TRY(zb_gguf_int(g, "general.alignment", false, &a, err));
    if (a <= 0 || a > 1 << 30 || (a & (a - 1)) != 0)
        return zb_fail(err, ZB_ERR_FORMAT,
                       "%s: general.alignment: expected a power of two, found %lld", g->path,
                       (long long)a);
    *out = (size_t)a;
    return ZB_OK;
}

static int by_place(const void *a, const void *b) {
    const zb_tensor *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->data, q = (uintptr_t)y->data;
    if (p != q) return p < q ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const zb_tensor *)a)->name, ((const zb_tensor *)b)->name);
}

/* Tensors do not share bytes or names; leaves them sorted by name. */
static zb_status check_tensors(zb_gguf *g, zb_err *err) {
    zb_tensor *t = g->tensors;
    if (g->n) qsort(t, g->n, sizeof *t, by_place);
    for (size_t i = 1; i < g->n; i++)
        if ((const uint8_t *)t[i - 1].data + t[i - 1].bytes > (const uint8_t *)t[i].data)
            return zb_fail(err, ZB_ERR_FORMAT, "%s: tensors \"%s\" and \"%s\" overlap", g->path,
                           t[i - 1].name, t[i].name);
    if (g->n) qsort(t, g->n, sizeof *t, by_name);
    for (size_t i = 1; i < g->n; i++)
        if (!by_name(&t[i - 1], &t[i]))
            return zb_fail(err, ZB_ERR_FORMAT, "%s: tensor \"%s\" is given twice", g->path,
                           t[i].name);
    return ZB_OK;
}

static zb_status place_tensors(zb_gguf *g, cursor *c, const uint64_t *offsets) {
    size_t alignment = ALIGNMENT_USUAL, at = c->size - c->left;
    ZB_TRY(read_alignment(g, c->err, &alignment));
    size_t pad = (alignment - at % alignment) % alignment;
    const uint8_t *start = c->p;
    if (g->n) ZB_TRY(take(c, pad, &start));
    start += g->n ? pad : 0;
    for (size_t i = 0; i < g->n; i++) {
        zb_tensor *t = &g->tensors[i];
        if (offsets[i] % alignment != 0)
            return zb_fail(c->err, ZB_ERR_FORMAT,
                           "%s: tensor \"%s\": expected an offset that is a multiple of %zu, "
                           "found %llu",
                           c->where, t->name, alignment, (unsigned long long)offsets[i]);
        if (offsets[i] > c->left || t->bytes > c->left - offsets[i])
            return zb_fail(c->err, ZB_ERR_FORMAT,
                           "%s: tensor \"%s\": %zu bytes at offset %llu reach beyond the %zu "
                           "bytes of data (cut short?)",
                           c->where, t->name, t->bytes, (unsigned long long)offsets[i], c->left);
        t->data = start + offsets[i];
    }
    return check_tensors(g, c->err);
}

static zb_status read_tensors(zb_gguf *g, cursor *c, uint64_t count) {
    if (count > c->left / TENSOR_MIN_BYTES)
        return zb_fail(c->err, ZB_ERR_FORMAT,
                       "%s: cut short: expected %llu tensors, found %zu bytes", c->where,
                       (unsigned long long)count, c->left);
    g->tensors = ZB_NEW_ARRAY(&g->arena, zb_tensor, count);
    uint64_t *offsets = ZB_NEW_ARRAY(&g->arena, uint64_t, count);
    for (; g->n < count; g->n++) ZB_TRY(read_tensor(g, c, &g->tensors[g->n], &offsets[g->n]));
    return place_tensors(g, c, offsets);
}

static zb_status read_all(zb_gguf *g, const uint8_t *bytes, size_t n, zb_err *err) {
    cursor c = {bytes, n, n, g->path, err};
    if (n < 4 || memcmp(bytes, "GGUF", 4) != 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: expected a GGUF file (first bytes \"GGUF\")",
                       g->path);
    uint32_t version;
    uint64_t tensors, keys;
    const uint8_t *magic;
    ZB_TRY(take(&c, 4, &magic));
    ZB_TRY(take_u32(&c, &version));
    if (version != 2 && version != 3)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: expected GGUF version 2 or 3, found %u%s",
                       g->path, version,
                       (version & 0xFFFFFFu) == 0 && version ? " (a big-endian file)" : "");
    ZB_TRY(take_u64(&c, &tensors));
    ZB_TRY(take_u64(&c, &keys));
    ZB_TRY(read_entries(g, &c, keys));
    return read_tensors(g, &c, tensors);
}

static zb_gguf *file_new(const char *path) {
    zb_arena a = {0};
    zb_gguf *g = ZB_NEW(&a, zb_gguf);
    g->path = zb_strdup(&a, path);
    g->arena = a;
    return g;
}

static zb_status hand_over(zb_gguf **out, zb_gguf *g, zb_status s) {
    if (s != ZB_OK) {
        zb_gguf_close(g);
        g = NULL;
    }
    *out = g;
    return s;
}

zb_status zb_gguf_open(zb_gguf **out, const char *path, zb_err *err) {
    zb_gguf *g = file_new(path);
    zb_status s = zb_map_open(&g->map, path, err);
    if (s == ZB_OK) s = read_all(g, g->map.data, g->map.size, err);
    return hand_over(out, g, s);
}

zb_status zb_gguf_parse(zb_gguf **out, const void *bytes, size_t n, const char *where,
                        zb_err *err) {
    zb_gguf *g = file_new(where);
    return hand_over(out, g, read_all(g, bytes, n, err));
}

void zb_gguf_close(zb_gguf *g) {
    if (!g) return;
    zb_map_close(&g->map);
    zb_arena a = g->arena; /* the arena holds its own owner */
    zb_arena_free(&a);
}

void zb_gguf_forget(const zb_gguf *g) {
    if (g) zb_map_forget(&g->map);
}

const char *zb_gguf_path(const zb_gguf *g) { return g->path; }
size_t zb_gguf_count(const zb_gguf *g) { return g->n; }

const zb_tensor *zb_gguf_at(const zb_gguf *g, size_t i) {
    ZB_ASSERT(i < g->n);
    return &g->tensors[i];
}

const zb_tensor *zb_gguf_find(const zb_gguf *g, const char *name) {
    zb_tensor key = {.name = name};
    return g->n ? bsearch(&key, g->tensors, g->n, sizeof key, by_name) : NULL;
}

/* The entry, or NULL when it is absent and that is allowed. */
static zb_status find_key(const zb_gguf *g, const char *key, bool required, const entry **out,
                          zb_err *err) {
    entry e = {.key = zb_str_from(key)};
    *out = g->n_entries ? bsearch(&e, g->entries, g->n_entries, sizeof e, by_key) : NULL;
    if (!*out && required)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\" is missing", g->path, key);
    return ZB_OK;
}

static zb_status wrong_type(const zb_gguf *g, const char *key, const char *expected,
                            const char *found, zb_err *err) {
    return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected %s, found %s", g->path, key,
                   expected, found);
}

/* Reads a value of fixed size as an integer; false when its type or value does not allow it. */
static bool to_int(value_type type, const uint8_t *p, int64_t *out) {
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v = {0};
    memcpy(&v, p, value_types[type].bytes);
    switch (type) {
    case V_U8: *out = v.u8; return true;
    case V_I8: *out = v.i8; return true;
    case V_U16: *out = v.u16; return true;
    case V_I16: *out = v.i16; return true;
    case V_U32: *out = v.u32; return true;
    case V_I32: *out = v.i32; return true;
    case V_U64: *out = v.i64; return v.u64 <= INT64_MAX;
    case V_I64: *out = v.i64; return true;
    default: return false;
    }
}

zb_status zb_gguf_int(const zb_gguf *g, const char *key, bool required, int64_t *out, zb_err *err) {
    const entry *e;
    ZB_TRY(find_key(g, key, required, &e, err));
    if (!e) return ZB_OK;
    int64_t v;
    if (!to_int(e->type, e->value, &v))
        return wrong_type(g, key, "an integer", value_types[e->type].name, err);
    *out = v;
    return ZB_OK;
}

zb_status zb_gguf_f64(const zb_gguf *g, const char *key, bool required, double *out, zb_err *err) {
    const entry *e;
    ZB_TRY(find_key(g, key, required, &e, err));
    if (!e) return ZB_OK;
    int64_t i;
    float f;
    if (e->type == V_F64) {
        memcpy(out, e->value, 8);
    } else if (e->type == V_F32) {
        memcpy(&f, e->value, 4);
        *out = (double)f;
    } else if (to_int(e->type, e->value, &i)) {
        *out = (double)i;
    } else {
        return wrong_type(g, key, "a number", value_types[e->type].name, err);
    }
    return ZB_OK;
}

zb_status zb_gguf_bool(const zb_gguf *g, const char *key, bool required, bool *out, zb_err *err) {
    const entry *e;
    ZB_TRY(find_key(g, key, required, &e, err));
    if (!e) return ZB_OK;
    if (e->type != V_BOOL) return wrong_type(g, key, "a bool", value_types[e->type].name, err);
    if (e->value[0] > 1) return wrong_type(g, key, "0 or 1 as a bool", "another byte", err);
    *out = e->value[0] == 1;
    return ZB_OK;
}

/* A string at p, whose bounds were checked at open; the next value follows it. */
static zb_str string_at(const uint8_t *p) {
    uint64_t n;
    memcpy(&n, p, 8);
    return (zb_str){(const char *)p + 8, n};
}

zb_status zb_gguf_str(const zb_gguf *g, const char *key, bool required, zb_str *out, zb_err *err) {
    const entry *e;
    ZB_TRY(find_key(g, key, required, &e, err));
    if (!e) return ZB_OK;
    if (e->type != V_STRING) return wrong_type(g, key, "a string", value_types[e->type].name, err);
    *out = string_at(e->value);
    return ZB_OK;
}

zb_status zb_gguf_array(const zb_gguf *g, const char *key, bool required, size_t *n, zb_err *err) {
    const entry *e;
    *n = 0;
    ZB_TRY(find_key(g, key, required, &e, err));
    if (!e) return ZB_OK;
    if (e->type != V_ARRAY) return wrong_type(g, key, "an array", value_types[e->type].name, err);
    *n = (size_t)e->count;
    return ZB_OK;
}

/* The array of exactly n items. */
static zb_status find_array(const zb_gguf *g, const char *key, size_t n, const entry **out,
                            zb_err *err) {
    size_t count;
    ZB_TRY(zb_gguf_array(g, key, true, &count, err));
    ZB_TRY(find_key(g, key, true, out, err));
    if (count != n)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: key \"%s\": expected %zu items, found %zu", g->path,
                       key, n, count);
    return ZB_OK;
}

zb_status zb_gguf_array_str(const zb_gguf *g, const char *key, zb_str *out, size_t n, zb_err *err) {
    const entry *e = NULL;
    ZB_TRY(find_array(g, key, n, &e, err));
    ZB_ASSERT(e);
    if (e->item != V_STRING && n)
        return wrong_type(g, key, "an array of string", value_types[e->item].name, err);
    const uint8_t *p = e->value;
    for (size_t i = 0; i < n; i++) {
        out[i] = string_at(p);
        p += 8 + out[i].n;
    }
    return ZB_OK;
}

zb_status zb_gguf_array_int(const zb_gguf *g, const char *key, int64_t *out, size_t n,
                            zb_err *err) {
    const entry *e = NULL;
    ZB_TRY(find_array(g, key, n, &e, err));
    ZB_ASSERT(e);
    value_type item = e->item == V_BOOL ? V_U8 : e->item;
    for (size_t i = 0; i < n; i++)
        if (!to_int(item, e->value + i * value_types[item].bytes, &out[i]))
            return wrong_type(g, key, "an array of integers below 2^63", value_types[e->item].name,
                              err);
    return ZB_OK;
}
