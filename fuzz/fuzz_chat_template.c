/* fuzz_chat_template.c - any template, with any variables.
 *
 * Input: the template; behind a zero byte optionally a JSON object of variables (else a short
 * conversation). It parses and renders or says why not; rendering twice gives the same, and a
 * failure leaves the output untouched. */
#include "base/json.h"
#include "format/chat_template.h"

#include <string.h>

static json_t *default_variables(void) {
    return json_pack("{s:[{s:s, s:s}, {s:s, s:s}], s:b, s:s, s:[{s:s, s:[i, n, f]}]}", "messages",
                     "role", "system", "content", " Be kind. ", "role", "user", "content",
                     "h\xc3\xa9llo {{ x }}\n", "add_generation_prompt", 1, "bos_token", "<s>",
                     "tools", "name", "f", "list", 1, 2.5);
}

static void check(const zb_chat_template *t, const json_t *variables) {
    zb_err err;
    zb_buf first, second;
    zb_buf_init(&first, (size_t)1 << 20);
    zb_buf_init(&second, (size_t)1 << 20);
    zb_status s = zb_chat_template_render(t, variables, &first, &err);
    if (s == ZB_OK) {
        ZB_ASSERT(zb_chat_template_render(t, variables, &second, &err) == ZB_OK);
        ZB_ASSERT(zb_str_eq(zb_buf_str(&first), zb_buf_str(&second)));
    } else {
        ZB_ASSERT(first.n == 0 && err.msg[0] != 0 && !strchr(err.msg, '\n'));
    }
    zb_buf_free(&first);
    zb_buf_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = size ? (const char *)data : "";
    const char *cut = memchr(text, 0, size);
    size_t n = cut ? (size_t)(cut - text) : size;
    json_t *variables = NULL;
    if (cut && (zb_json_parse(cut + 1, size - n - 1, "variables", &variables, NULL) != ZB_OK))
        return 0;
    if (!variables) variables = default_variables();
    zb_arena a = {0};
    zb_chat_template *t;
    zb_err err = {0};
    if (zb_chat_template_parse(&t, (zb_str){text, n}, &a, &err) == ZB_OK) {
        check(t, variables);
    } else {
        ZB_ASSERT(err.msg[0] != 0 && !strchr(err.msg, '\n'));
    }
    json_decref(variables);
    zb_arena_free(&a);
    return 0;
}
