/* fuzz_json_config.c - any bytes as config.json and, behind a zero byte, hybrid_config.json; behind
 * a second one as the two files of X-EcoMLA. A configuration that is accepted must also pass the
 * check for models made by hand, and be read back as it was where it is written. */
#include "base/json.h"
#include "model/config.h"
#include "model/config_ecomla.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Up to three parts with zero bytes between them. */
static zb_status parse_parts(const uint8_t *data, size_t size, json_t *part[3], int *n,
                             zb_err *err) {
    for (*n = 0; *n < 3;) {
        const uint8_t *cut = *n < 2 && size ? memchr(data, 0, size) : NULL;
        size_t length = cut ? (size_t)(cut - data) : size;
        ZB_TRY(zb_json_parse((const char *)data, length, "part", &part[(*n)++], err));
        if (!cut) break;
        data += length + 1;
        size -= length + 1;
    }
    return ZB_OK;
}

/* What is written is read, and says the same again. */
static void check_round_trip(const zb_config *c) {
    static zb_config again;
    zb_err err = {0};
    json_t *base = zb_config_base_json(c), *hybrid = c->hybrid ? zb_config_hybrid_json(c) : NULL;
    memset(&again, 0, sizeof again);
    ZB_ASSERT(zb_config_parse(&again, base, hybrid, "written", &err) == ZB_OK);
    json_t *base_again = zb_config_base_json(&again),
           *hybrid_again = again.hybrid ? zb_config_hybrid_json(&again) : NULL;
    ZB_ASSERT(json_equal(base, base_again));
    ZB_ASSERT(c->hybrid == again.hybrid && (!hybrid || json_equal(hybrid, hybrid_again)));
    json_decref(base);
    json_decref(hybrid);
    json_decref(base_again);
    json_decref(hybrid_again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *part[3] = {NULL}, *hybrid = NULL;
    int n;
    zb_err err = {0};
    zb_status s = parse_parts(data, size, part, &n, &err);
    if (s == ZB_OK && n == 3)
        s = zb_config_from_ecomla(&hybrid, part[1], part[2], "fuzz", &err);
    else if (s == ZB_OK && n == 2)
        hybrid = json_incref(part[1]);
    static zb_config c; /* large; the target runs in one thread */
    memset(&c, 0, sizeof c);
    if (s == ZB_OK) s = zb_config_parse(&c, part[0], hybrid, "fuzz", &err);
    if (s == ZB_OK) {
        ZB_ASSERT(zb_config_check(&c, "fuzz", &err) == ZB_OK);
        check_round_trip(&c);
    } else {
        ZB_ASSERT(err.code == s && err.msg[0] && !strchr(err.msg, '\n'));
    }
    for (int i = 0; i < 3; i++) json_decref(part[i]);
    json_decref(hybrid);
    return 0;
}
