/* request.c - tokens of a question (contract in request.h).
 *
 * Boundary. Trailing white space of the context moves to the front of the continuation. Then
 *
 *     ids_c = ids(context),   ids_w = ids(context + continuation)
 *     continuation = ids_w[len(ids_c):]
 *
 * and the model reads ids_c + continuation. (A merge across the boundary makes ids_w no extension
 * of ids_c; the harness scores it in this way all the same, and so do we.) An empty context becomes
 * the prefix token; if the continuation itself starts with that token, this one is the context and
 * is not scored.
 *
 * Length. The input is the last max_length + 1 ids without the last one: cut on the left, the
 * continuation is never cut.
 *
 * BOS. Put before the text unless the text begins with it already. */
#include "eval/request.h"

#include "eval/text_rule.h"

#include <string.h>

/* Text inside a document that spells a special token becomes that token, as in the harness. */
static zb_status encode(const zb_request_maker *m, zb_str text, bool with_bos, zb_ids *out,
                        zb_err *err) {
    zb_ids ids;
    ZB_TRY(zb_tokenizer_encode(m->tokenizer, text, false, true, m->arena, &ids, err));
    *out = ids;
    if (!with_bos || m->bos < 0) return ZB_OK;
    zb_str bos = zb_tokenizer_piece(m->tokenizer, m->bos);
    if (bos.n > 0 && zb_str_starts(text, bos)) return ZB_OK;
    out->n = ids.n + 1;
    out->id = ZB_NEW_ARRAY(m->arena, int32_t, out->n);
    out->id[0] = m->bos;
    if (ids.n) memcpy(out->id + 1, ids.id, ids.n * sizeof *ids.id);
    return ZB_OK;
}

static zb_str concat(zb_arena *a, zb_str head, zb_str tail) {
    char *p = zb_alloc(a, head.n + tail.n + 1);
    if (head.n) memcpy(p, head.p, head.n);
    if (tail.n) memcpy(p + head.n, tail.p, tail.n);
    return (zb_str){p, head.n + tail.n};
}

/* An empty context: m->ids becomes the prefix token, *tail the continuation. */
static zb_status split_prefix(zb_request_maker *m, zb_str continuation, zb_ids *tail, zb_err *err) {
    if (m->prefix < 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "the context is empty and the tokenizer has neither BOS nor EOS");
    ZB_TRY(encode(m, continuation, false, tail, err));
    if (m->context.n > 0 || !m->ids.id) {
        m->ids = (zb_ids){.id = ZB_NEW(m->arena, int32_t), .n = 1};
        m->ids.id[0] = m->prefix;
        m->context = (zb_str){NULL, 0};
    }
    if (tail->n && tail->id[0] == m->prefix) *tail = (zb_ids){tail->id + 1, tail->n - 1};
    return ZB_OK;
}

/* The ids before truncation: m->ids those of the context, *tail those of the continuation. */
static zb_status split(zb_request_maker *m, zb_str context, zb_str continuation, zb_ids *tail,
                       zb_err *err) {
    if (context.n == 0) return split_prefix(m, continuation, tail, err);
    zb_ids whole;
    ZB_TRY(encode(m, concat(m->arena, context, continuation), true, &whole, err));
    if (m->context.p != context.p || m->context.n != context.n) {
        ZB_TRY(encode(m, context, true, &m->ids, err));
        m->context = context;
    }
    size_t skip = m->ids.n < whole.n ? m->ids.n : whole.n;
    *tail = (zb_ids){whole.id + skip, whole.n - skip};
    return ZB_OK;
}

zb_status zb_request_make(zb_request_maker *m, zb_str context, zb_str continuation,
                          const char *where, zb_loglik_request *out, zb_err *err) {
    size_t spaces = zb_text_trailing_space(context);
    if (spaces) {
        context.n -= spaces;
        continuation = concat(m->arena, (zb_str){context.p + context.n, spaces}, continuation);
    }
    zb_ids tail = {0};
    zb_status s = split(m, context, continuation, &tail, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s", where);
    if (tail.n == 0)
        return zb_fail(err, ZB_ERR_FORMAT, "%s: a choice adds no token to its context", where);
    if (tail.n > (size_t)m->max_length)
        return zb_fail(err, ZB_ERR_UNSUPPORTED,
                       "%s: a choice has %zu tokens, expected at most %d (max_length)", where,
                       tail.n, m->max_length);
    size_t room = (size_t)m->max_length + 1 - tail.n;
    size_t kept = m->ids.n < room ? m->ids.n : room;
    *out = (zb_loglik_request){
        .context = m->ids.id + (m->ids.n - kept),
        .n_context = (int)kept,
        .continuation = tail.id,
        .n_continuation = (int)tail.n,
    };
    return ZB_OK;
}

zb_status zb_request_windows(zb_request_maker *m, zb_str text, const char *where,
                             zb_loglik_request **out, int *n, zb_err *err) {
    zb_ids ids;
    *n = 0;
    if (m->prefix < 0)
        return zb_fail(err, ZB_ERR_UNSUPPORTED, "%s: the tokenizer has neither BOS nor EOS", where);
    zb_status s = encode(m, text, true, &ids, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s", where);
    size_t max = (size_t)m->max_length;
    *out = ZB_NEW_ARRAY(m->arena, zb_loglik_request, ids.n / max + 1);
    int32_t *prefix = ZB_NEW(m->arena, int32_t);
    *prefix = m->prefix;
    for (size_t done = 0; done < ids.n;) {
        size_t count = ids.n - done < max ? ids.n - done : max, end = done + count;
        /* A last window that is not full is filled with context from the left. */
        size_t from = done == 0 ? 0 : end - max - 1;
        (*out)[(*n)++] = (zb_loglik_request){
            .context = done == 0 ? prefix : ids.id + from,
            .n_context = done == 0 ? 1 : (int)(done - from),
            .continuation = ids.id + done,
            .n_continuation = (int)count,
        };
        done = end;
    }
    return *n ? ZB_OK : zb_fail(err, ZB_ERR_FORMAT, "%s: the text has no tokens", where);
}

zb_status zb_request_context(zb_request_maker *m, zb_str context, int max, const char *where,
                             zb_ids *out, zb_err *err) {
    if (max >= m->max_length)
        return zb_fail(err, ZB_ERR_CONFIG,
                       "%s: expected room for a text of %d tokens, found a max_length of %d", where,
                       max, m->max_length);
    zb_status s = encode(m, context, true, out, err);
    if (s != ZB_OK) return zb_err_wrap(err, s, "%s", where);
    size_t room = (size_t)(m->max_length - max);
    if (out->n > room) *out = (zb_ids){out->id + (out->n - room), room};
    return out->n ? ZB_OK : zb_fail(err, ZB_ERR_FORMAT, "%s: the prompt has no tokens", where);
}
