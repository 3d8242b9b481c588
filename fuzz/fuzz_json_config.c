/* fuzz_json_config.c - any bytes as config.json and, behind a zero byte, hybrid_config.json. A
 * configuration that is accepted must also pass the check for models made by hand. */
#include "base/json.h"
#include "model/config.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *cut = size ? memchr(data, 0, size) : NULL;
    size_t first = cut ? (size_t)(cut - data) : size;
    json_t *base = NULL, *hybrid = NULL;
    zb_err err = {0};
    zb_status s = zb_json_parse((const char *)data, first, "base", &base, &err);
    if (s == ZB_OK && cut)
        s = zb_json_parse((const char *)cut + 1, size - first - 1, "hybrid", &hybrid, &err);
    static zb_config c; /* large; the target runs in one thread */
    memset(&c, 0, sizeof c);
    if (s == ZB_OK) s = zb_config_parse(&c, base, hybrid, "fuzz", &err);
    if (s == ZB_OK)
        ZB_ASSERT(zb_config_check(&c, "fuzz", &err) == ZB_OK);
    else
        ZB_ASSERT(err.code == s && err.msg[0] && !strchr(err.msg, '\n'));
    json_decref(base);
    json_decref(hybrid);
    return 0;
}
