/* stream.h - text of tokens as they come: only whole UTF-8 characters leave, the rest waits for its
 * other bytes.
 *
 * The stream borrows the tokenizer. Text given out is valid until the next call. One thread. */
#ifndef ZB_GENERATE_STREAM_H
#define ZB_GENERATE_STREAM_H

#include "format/tokenizer.h"

typedef struct zb_stream {
    const zb_tokenizer *tokenizer;
    bool special; /* special tokens are shown as text */
    zb_buf buf;
    size_t given; /* bytes of buf handed out by the last call */
} zb_stream;

void zb_stream_init(zb_stream *s, const zb_tokenizer *t, bool special);
void zb_stream_free(zb_stream *s);

/* The text that becomes complete with this token; may be empty. */
zb_status zb_stream_push(zb_stream *s, int32_t id, zb_str *text, zb_err *err);

/* What is left at the end: bytes of a character that never became complete, each replaced by
 * U+FFFD. */
zb_str zb_stream_end(zb_stream *s);

#endif
