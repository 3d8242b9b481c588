/* prompt.h - how a description, examples and a question become one text.
 *
 * The turns are those of a conversation: system, then user and assistant in turn, the question
 * last. Plain, they are joined with the delimiters of the LM Evaluation Harness; with a chat
 * template the model's own form is used, as turns or as one message of the user. */
#ifndef ZB_EVAL_PROMPT_H
#define ZB_EVAL_PROMPT_H

#include "format/conversation.h"

typedef struct zb_turn {
    const char *role; /* "system", "user", "assistant" */
    zb_str text;
    const char *delimiter; /* behind the text where turns are joined */
} zb_turn;

typedef struct zb_prompt_style {
    zb_conversation chat; /* its template NULL: plain */
    bool one_turn;        /* chat: examples and question in one message */
} zb_prompt_style;

/* The style of a model's own template; an error without one. Lives in the arena. */
zb_status zb_prompt_style_chat(const zb_tokenizer *t, bool one_turn, zb_arena *a,
                               zb_prompt_style *out, zb_err *err);

zb_status zb_prompt_write(const zb_prompt_style *p, const zb_turn *turn, int n, zb_arena *a,
                          zb_str *out, zb_err *err);

#endif
