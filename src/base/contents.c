/* contents.c - see contents.h. */
#include "base/contents.h"

#include "base/file.h"

#include <inttypes.h>
#include <string.h>

enum { WHOLE_MAX = 16 << 20, PIECES = 256, PIECE = WHOLE_MAX / PIECES };
#define SUFFIX " (contents)"

/* FNV-1a over words: bytes one by one would take a second of a gigabyte. */
static uint64_t add(uint64_t h, const uint8_t *p, size_t n) {
    const uint64_t prime = 0x100000001b3u;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * prime;
        h ^= h >> 32; /* high bytes of a word would reach high bits alone */
    }
    for (; n > 0; p++, n--) h = (h ^ *p) * prime;
    return h;
}

static bool add_file(uint64_t *h, uint64_t *length, const char *path) {
    zb_map m;
    if (!zb_file_exists(path) || zb_map_open(&m, path, NULL) != ZB_OK) return false;
    if (m.size <= WHOLE_MAX) {
        *h = add(*h, m.data, m.size);
    } else {
        for (uint64_t i = 0; i < PIECES; i++)
            *h = add(*h, m.data + (m.size - PIECE) / (PIECES - 1) * i, PIECE);
        *h = add(*h, m.data + m.size - PIECE, PIECE);
    }
    *length += m.size;
    *h = add(*h, (const uint8_t *)&(uint64_t){m.size}, 8);
    zb_map_close(&m);
    return true;
}

bool zb_contents_counts(const char *name) {
    zb_str s = zb_str_from(name);
    return zb_str_ends(s, ZB_STR(".safetensors")) || zb_str_ends(s, ZB_STR("config.json"));
}

const char *zb_contents_of(const char *path, zb_arena *a) {
    uint64_t h = 0xcbf29ce484222325u, length = 0;
    bool any = false;
    if (zb_dir_exists(path)) {
        char **name;
        size_t n;
        if (zb_dir_list(path, "", a, &name, &n, NULL) != ZB_OK) return NULL;
        for (size_t i = 0; i < n; i++) {
            if (!zb_contents_counts(name[i])) continue;
            h = add(h, (const uint8_t *)name[i], strlen(name[i]));
            any |= add_file(&h, &length, zb_path_join(a, path, name[i]));
        }
    } else {
        any = add_file(&h, &length, path);
    }
    return any ? zb_asprintf(a, "%" PRIu64 " bytes, %016" PRIx64, length, h) : NULL;
}

bool zb_contents_is(const char *name) { return zb_str_ends(zb_str_from(name), ZB_STR(SUFFIX)); }

void zb_contents_add(json_t *options, const json_t *before) {
    zb_arena a = {0};
    const char *key;
    json_t *v, *found = json_object();
    json_object_foreach(options, key, v) {
        const char *path = json_string_value(v);
        if (!path || !*path || zb_contents_is(key)) continue;
        const char *name = zb_asprintf(&a, "%s" SUFFIX, key), *is = zb_contents_of(path, &a);
        if (is)
            json_object_set_new(found, name, json_string(is));
        else if (json_object_get(before, name))
            json_object_set(found, name, json_object_get(before, name));
    }
    json_object_update(options, found);
    json_decref(found);
    zb_arena_free(&a);
}

void zb_contents_assume(json_t *defaults, const json_t *options) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)options, key, v) {
        if (zb_contents_is(key)) json_object_set(defaults, key, v);
    }
}
