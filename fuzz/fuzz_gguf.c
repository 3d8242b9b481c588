/* fuzz_gguf.c - any bytes as a GGUF file: opened, every tensor touched at both ends, every kind of
 * key access, and the configuration of a model read from it. */
#include "format/gguf.h"
#include "model/config.h"

#include <string.h>

static void touch(const zb_tensor *t) {
    const zb_dtype_info *d = zb_dtype_get(t->dtype);
    float f[256];
    if (t->bytes == 0 || !d->real) return;
    zb_dtype_to_f32(t->dtype, t->data, f, d->block);
    zb_dtype_to_f32(t->dtype, (const uint8_t *)t->data + t->bytes - d->bytes, f, d->block);
}

static void read_arrays(const zb_gguf *g, const char *key) {
    zb_err err;
    zb_arena a = {0};
    size_t n;
    if (zb_gguf_array(g, key, false, &n, &err) == ZB_OK) {
        zb_str *text = ZB_NEW_ARRAY(&a, zb_str, n);
        size_t bytes = 0;
        if (zb_gguf_array_str(g, key, text, n, &err) == ZB_OK)
            for (size_t i = 0; i < n; i++)
                bytes += text[i].n ? (size_t)(text[i].p[text[i].n - 1] != 0) : 1;
        ZB_ASSERT(bytes <= n);
        zb_gguf_array_int(g, key, ZB_NEW_ARRAY(&a, int64_t, n), n, &err);
    }
    zb_arena_free(&a);
}

static void read_key(const zb_gguf *g, const char *key) {
    zb_err err;
    int64_t i;
    double d;
    bool b;
    zb_str s;
    zb_gguf_int(g, key, true, &i, &err);
    zb_gguf_f64(g, key, true, &d, &err);
    zb_gguf_bool(g, key, true, &b, &err);
    if (zb_gguf_str(g, key, true, &s, &err) == ZB_OK && s.n)
        ZB_ASSERT(memchr(s.p, s.p[s.n - 1], s.n));
    read_arrays(g, key);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zb_gguf *g;
    zb_err err = {0};
    if (zb_gguf_parse(&g, data, size, "fuzz", &err) != ZB_OK) {
        ZB_ASSERT(!g && err.code != ZB_OK && err.msg[0]);
        return 0;
    }
    for (size_t i = 0; i < zb_gguf_count(g); i++) {
        const zb_tensor *t = zb_gguf_at(g, i);
        ZB_ASSERT(zb_gguf_find(g, t->name) == t);
        touch(t);
    }
    const char *const keys[] = {"general.architecture",  "general.alignment",  "k", "list.text",
                                "tokenizer.ggml.tokens", "zebra.eos_token_ids"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) read_key(g, keys[i]);
    static zb_config c; /* large; the target runs in one thread */
    zb_config_from_gguf(&c, g, &err);
    zb_gguf_close(g);
    return 0;
}
