/* conversation.h - messages written by a model's own chat template. */
#ifndef ZB_FORMAT_CONVERSATION_H
#define ZB_FORMAT_CONVERSATION_H

#include "format/chat_template.h"
#include "format/tokenizer.h"

typedef struct zb_conversation {
    const zb_chat_template *template;
    const char *bos, *eos; /* texts of these tokens, "" without */
} zb_conversation;

/* The tokenizer's template, parsed into the arena; template NULL where it has none. A template
 * outside the subset is an error. */
zb_status zb_conversation_open(zb_conversation *out, const zb_tokenizer *t, zb_arena *a,
                               zb_err *err);

/* messages: [{"role": "system"|"user"|"assistant", "content": text}, ...] (borrowed). With `reply`
 * the opening of the assistant's answer follows. The template writes BOS itself where it wants one.
 * The text lives in the arena; one that is too long is an error. Needs a template. */
zb_status zb_conversation_write(const zb_conversation *c, json_t *messages, bool reply, zb_arena *a,
                                zb_str *out, zb_err *err);

#endif
