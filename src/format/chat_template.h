/* chat_template.h - the subset of Jinja that chat templates use.
 *
 * Parse once, render often; a construct outside the subset is a clear error that names it, never a
 * guess. Depth, loop counts and output size are limited, so a hostile template ends. Immutable
 * after parsing. */
#ifndef ZB_FORMAT_CHAT_TEMPLATE_H
#define ZB_FORMAT_CHAT_TEMPLATE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"

#include <jansson.h>

typedef struct zb_chat_template zb_chat_template;

zb_status zb_chat_template_parse(zb_chat_template **out, zb_str text, zb_arena *a, zb_err *err);

/* variables: a JSON object: "messages": [{"role","content"}...], "add_generation_prompt",
 * "bos_token", "eos_token", "tools", "date_string", ... (absent ones are undefined). The result is
 * appended to `out`. */
zb_status zb_chat_template_render(const zb_chat_template *t, const json_t *variables, zb_buf *out,
                                  zb_err *err);

#endif
