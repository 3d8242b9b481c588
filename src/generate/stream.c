/* stream.c - incremental decoding (contract in stream.h).
 *
 * A token of byte-level BPE may end inside a character. Bytes are kept until the last character is
 * whole; bytes that can never become one are passed on at once by zb_utf8_complete, so that at most
 * three wait. */
#include "generate/stream.h"

#include <string.h>

enum { STREAM_MAX = 1 << 20 };

void zb_stream_init(zb_stream *s, const zb_tokenizer *t, bool special) {
    *s = (zb_stream){.tokenizer = t, .special = special};
    zb_buf_init(&s->buf, STREAM_MAX);
}

void zb_stream_free(zb_stream *s) { zb_buf_free(&s->buf); }

static void drop_given(zb_stream *s) {
    if (s->given == 0) return;
    memmove(s->buf.p, s->buf.p + s->given, s->buf.n - s->given);
    s->buf.n -= s->given;
    s->given = 0;
}

zb_status zb_stream_push(zb_stream *s, int32_t id, zb_str *text, zb_err *err) {
    drop_given(s);
    *text = (zb_str){"", 0};
    if (id >= zb_tokenizer_vocab(s->tokenizer))
        return ZB_OK; /* a row that only pads the embedding */
    ZB_TRY(zb_tokenizer_decode(s->tokenizer, &id, 1, s->special, &s->buf, err));
    if (s->buf.overflow)
        return zb_fail(err, ZB_ERR_FORMAT, "token %d: its text is longer than %d bytes", id,
                       STREAM_MAX);
    s->given = s->buf.n ? zb_utf8_complete(s->buf.p, s->buf.n) : 0;
    *text = (zb_str){s->buf.p ? s->buf.p : "", s->given};
    return ZB_OK;
}

zb_str zb_stream_end(zb_stream *s) {
    drop_given(s);
    size_t waiting = s->buf.n;
    zb_buf_clear(&s->buf);
    for (size_t i = 0; i < waiting; i++) zb_buf_adds(&s->buf, "\xef\xbf\xbd");
    s->given = s->buf.n;
    return (zb_str){s->buf.p ? s->buf.p : "", s->given};
}
