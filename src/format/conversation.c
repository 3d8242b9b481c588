/* conversation.c - see conversation.h. */
#include "format/conversation.h"

enum { TEXT_MAX = 1 << 28 };

static const char *token_text(const zb_tokenizer *t, int32_t id, zb_arena *a) {
    if (id < 0) return "";
    zb_str s = zb_tokenizer_piece(t, id);
    return zb_strndup(a, s.n ? s.p : "", s.n);
}

zb_status zb_conversation_open(zb_conversation *out, const zb_tokenizer *t, zb_arena *a,
                               zb_err *err) {
    const char *text = zb_tokenizer_chat_template(t);
    zb_chat_template *chat = NULL;
    if (text) {
        zb_status s = zb_chat_template_parse(&chat, zb_str_from(text), a, err);
        if (s != ZB_OK) return zb_err_wrap(err, s, "chat template");
    }
    *out = (zb_conversation){chat, token_text(t, zb_tokenizer_bos(t), a),
                             token_text(t, zb_tokenizer_eos(t), a)};
    return ZB_OK;
}

zb_status zb_conversation_write(const zb_conversation *c, json_t *messages, bool reply, zb_arena *a,
                                zb_str *out, zb_err *err) {
    ZB_ASSERT(c->template);
    json_t *bos = json_string(c->bos), *eos = json_string(c->eos); /* NULL: not valid UTF-8 */
    /* transformers always gives tools and documents: templates ask whether they are none */
    json_t *variables =
        json_pack("{s:O, s:n, s:n, s:b, s:o*, s:o*}", "messages", messages, "tools", "documents",
                  "add_generation_prompt", reply, "bos_token", bos, "eos_token", eos);
    zb_buf text;
    zb_buf_init(&text, TEXT_MAX);
    zb_status s = zb_chat_template_render(c->template, variables, &text, err);
    if (s != ZB_OK)
        s = zb_err_wrap(err, s, "chat template");
    else if (text.overflow)
        s = zb_fail(err, ZB_ERR_CONFIG, "conversation: expected at most %d bytes", TEXT_MAX);
    else
        *out = (zb_str){zb_strndup(a, text.n ? text.p : "", text.n), text.n};
    zb_buf_free(&text);
    json_decref(variables);
    return s;
}
