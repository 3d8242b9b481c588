/* fuzz_safetensors.c - any bytes as a safetensors file. What opens must hold what it promises:
 * names in order and findable, ranges inside the file, values readable. */
#include "format/safetensors.h"

#include <string.h>

/* Converts the first and the last element (the range is then known to be mapped). */
static void touch(const zb_tensor *t) {
    const zb_dtype_info *d = zb_dtype_get(t->dtype);
    int64_t n = zb_tensor_count(t);
    float f;
    if (t->bytes == 0 || !d->real) return;
    zb_dtype_to_f32(t->dtype, t->data, &f, 1);
    zb_dtype_to_f32(t->dtype, (const uint8_t *)t->data + (size_t)(n - 1) * (size_t)d->bytes, &f, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zb_safetensors *s;
    zb_err err = {0};
    if (zb_safetensors_parse(&s, data, size, "fuzz", &err) != ZB_OK) {
        ZB_ASSERT(!s && err.code != ZB_OK && err.msg[0]);
        return 0;
    }
    size_t total = 0;
    for (size_t i = 0; i < zb_safetensors_count(s); i++) {
        const zb_tensor *t = zb_safetensors_at(s, i);
        ZB_ASSERT(i == 0 || strcmp(zb_safetensors_at(s, i - 1)->name, t->name) < 0);
        ZB_ASSERT(zb_safetensors_find(s, t->name) == t);
        touch(t);
        total += t->bytes;
    }
    ZB_ASSERT(total < size);
    zb_safetensors_metadata(s, "format");
    zb_safetensors_close(s);
    return 0;
}
