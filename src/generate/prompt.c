/* prompt.c - conversation to ids (contract in prompt.h).
 *
 * The template is parsed anew each time: it is a page of text, and what it costs is nothing beside
 * one token of the model. */
#include "generate/prompt.h"

#include "format/conversation.h"

zb_status zb_prompt_chat(const zb_engine *e, json_t *messages, bool reply, zb_arena *a, zb_ids *out,
                         zb_err *err) {
    ZB_TRY(zb_engine_need_tokenizer(e, err));
    const zb_tokenizer *t = zb_engine_tokenizer(e);
    const char *path = zb_model_path(zb_engine_model(e));
    zb_conversation c;
    zb_str text;
    zb_status s = zb_conversation_open(&c, t, a, err);
    if (s == ZB_OK && !c.template)
        return zb_fail(
            err, ZB_ERR_CONFIG,
            "%s: expected a chat template, found none: this model completes text, leave --chat out",
            path);
    if (s == ZB_OK) s = zb_conversation_write(&c, messages, reply, a, &text, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s", path);
    return zb_tokenizer_encode(t, text, false, true, a, out, err);
}

zb_status zb_prompt_message(const zb_engine *e, const char *system, zb_str user, zb_arena *a,
                            zb_ids *out, zb_err *err) {
    json_t *content = json_stringn(user.p, user.n), *messages = json_array();
    zb_status s = ZB_OK;
    if (system && json_array_append_new(
                      messages, json_pack("{s:s, s:s}", "role", "system", "content", system)) != 0)
        s = zb_fail(err, ZB_ERR_CONFIG, "the system message is not valid UTF-8");
    if (!content) s = zb_fail(err, ZB_ERR_CONFIG, "the message is not valid UTF-8");
    json_array_append_new(messages, json_pack("{s:s, s:O*}", "role", "user", "content", content));
    if (s == ZB_OK) s = zb_prompt_chat(e, messages, true, a, out, err);
    json_decref(content);
    json_decref(messages);
    return s;
}
