/* prompt.c - turns to text (contract in prompt.h; source: Message and multiturn_to_singleturn of
 * lm_eval/api/utils.py). */
#include "eval/prompt.h"

#include <jansson.h>
#include <string.h>

zb_status zb_prompt_style_chat(const zb_tokenizer *t, bool one_turn, zb_arena *a,
                               zb_prompt_style *out, zb_err *err) {
    *out = (zb_prompt_style){.one_turn = one_turn};
    ZB_TRY(zb_conversation_open(&out->chat, t, a, err));
    if (out->chat.template) return ZB_OK;
    return zb_fail(err, ZB_ERR_CONFIG,
                   "apply_chat_template: the model has no chat template: leave the option out");
}

/* Turns [from, to), each but the last with its delimiter where `open`, else all with theirs. */
static zb_str joined(const zb_turn *turn, int from, int to, bool open, zb_arena *a) {
    size_t n = 0;
    for (int i = from; i < to; i++) n += turn[i].text.n + strlen(turn[i].delimiter);
    char *p = zb_alloc(a, n + 1);
    n = 0;
    for (int i = from; i < to; i++) {
        size_t d = open && i == to - 1 ? 0 : strlen(turn[i].delimiter);
        if (turn[i].text.n) memcpy(p + n, turn[i].text.p, turn[i].text.n);
        n += turn[i].text.n;
        memcpy(p + n, turn[i].delimiter, d);
        n += d;
    }
    return (zb_str){p, n};
}

static zb_status add_message(json_t *list, const char *role, zb_str text, zb_err *err) {
    json_t *content = json_stringn(text.n ? text.p : "", text.n);
    if (!content) return zb_fail(err, ZB_ERR_FORMAT, "a message is not valid UTF-8");
    json_array_append_new(list, json_pack("{s:s, s:o}", "role", role, "content", content));
    return ZB_OK;
}

zb_status zb_prompt_write(const zb_prompt_style *p, const zb_turn *turn, int n, zb_arena *a,
                          zb_str *out, zb_err *err) {
    ZB_ASSERT(n >= 1);
    if (!p->chat.template) {
        *out = joined(turn, 0, n, false, a);
        return ZB_OK;
    }
    json_t *messages = json_array();
    zb_status s = ZB_OK;
    int from = !strcmp(turn[0].role, "system") ? 1 : 0;
    if (from) s = add_message(messages, "system", turn[0].text, err);
    if (p->one_turn && s == ZB_OK)
        s = add_message(messages, "user", joined(turn, from, n, true, a), err);
    for (int i = from; !p->one_turn && i < n && s == ZB_OK; i++)
        s = add_message(messages, turn[i].role, turn[i].text, err);
    if (s == ZB_OK) s = zb_conversation_write(&p->chat, messages, true, a, out, err);
    json_decref(messages);
    return s;
}
