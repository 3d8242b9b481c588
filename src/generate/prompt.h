/* prompt.h - the ids of a conversation, by the model's own chat template. */
#ifndef ZB_GENERATE_PROMPT_H
#define ZB_GENERATE_PROMPT_H

#include "generate/engine.h"

#include <jansson.h>

/* messages: [{"role": "system"|"user"|"assistant", "content": text}, ...] (borrowed). With `reply`
 * the opening of the assistant's answer follows. The template writes BOS itself where it wants one.
 * ZB_ERR_CONFIG if the model has no template. */
zb_status zb_prompt_chat(const zb_engine *e, json_t *messages, bool reply, zb_arena *a, zb_ids *out,
                         zb_err *err);

/* A conversation of one user's message behind a system message (NULL: none), and the opening of the
 * answer. */
zb_status zb_prompt_message(const zb_engine *e, const char *system, zb_str user, zb_arena *a,
                            zb_ids *out, zb_err *err);

#endif
