/* prompt.c - conversation to ids (contract in prompt.h).
 *
 * The template is parsed anew each time: it is a page of text, and what it costs is nothing beside
 * one token of the model. */
#include "generate/prompt.h"

#include "format/chat_template.h"

enum { PROMPT_MAX = 1 << 28 };

static json_t *token_text(const zb_tokenizer *t, int32_t id) {
    zb_str s = id >= 0 ? zb_tokenizer_piece(t, id) : ZB_STR("");
    return json_stringn(s.p ? s.p : "", s.n);
}

zb_status zb_prompt_chat(const zb_engine *e, json_t *messages, bool reply, zb_arena *a, zb_ids *out,
                         zb_err *err) {
    ZB_TRY(zb_engine_need_tokenizer(e, err));
    const zb_tokenizer *t = zb_engine_tokenizer(e);
    const char *text = zb_tokenizer_chat_template(t), *path = zb_model_path(zb_engine_model(e));
    if (!text)
        return zb_fail(
            err, ZB_ERR_CONFIG,
            "%s: expected a chat template, found none: this model completes text, leave --chat out",
            path);
    zb_chat_template *template;
    zb_status s = zb_chat_template_parse(&template, zb_str_from(text), a, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s: chat template", path);
    json_t *variables = json_pack(
        "{s:O, s:b, s:o*, s:o*}", "messages", messages, "add_generation_prompt", reply, "bos_token",
        token_text(t, zb_tokenizer_bos(t)), "eos_token", token_text(t, zb_tokenizer_eos(t)));
    zb_buf prompt;
    zb_buf_init(&prompt, PROMPT_MAX);
    s = zb_chat_template_render(template, variables, &prompt, err);
    json_decref(variables);
    if (s != ZB_OK)
        s = zb_err_wrap(err, s, "%s: chat template", path);
    else if (prompt.overflow)
        s = zb_fail(err, ZB_ERR_CONFIG, "conversation: expected at most %d bytes", PROMPT_MAX);
    else
        s = zb_tokenizer_encode(t, zb_buf_str(&prompt), false, true, a, out, err);
    zb_buf_free(&prompt);
    return s;
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
