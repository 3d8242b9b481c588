/* text.h - string views and one growable buffer.
 *
 * A zb_str is borrowed bytes with a length, not NUL-terminated. A zb_buf owns its bytes, always
 * keeps a NUL behind them and refuses to grow past the limit given at init: appending beyond it
 * sets `overflow`, which the owner checks once at the end. */
#ifndef ZB_BASE_TEXT_H
#define ZB_BASE_TEXT_H

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct zb_str {
    const char *p;
    size_t n;
} zb_str;

#define ZB_STR(literal) ((zb_str){(literal), sizeof(literal) - 1})
zb_str zb_str_from(const char *s);
bool zb_str_eq(zb_str a, zb_str b);
bool zb_str_is(zb_str a, const char *s);
bool zb_str_starts(zb_str a, zb_str prefix);
bool zb_str_ends(zb_str a, zb_str suffix);
zb_str zb_str_trim(zb_str a); /* ASCII white space at both ends */

typedef struct zb_buf {
    char *p;
    size_t n, cap, limit;
    bool overflow;
} zb_buf;

void zb_buf_init(zb_buf *b, size_t limit); /* limit in bytes; takes no memory yet */
void zb_buf_free(zb_buf *b);
void zb_buf_clear(zb_buf *b); /* keeps the memory */
void zb_buf_add(zb_buf *b, const void *bytes, size_t n);
void zb_buf_adds(zb_buf *b, const char *s);
void zb_buf_addc(zb_buf *b, char c);
void zb_buf_addf(zb_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
zb_str zb_buf_str(const zb_buf *b);

/* Decodes one UTF-8 code point of s[0..n); returns its length, or 0 when the bytes are not valid
 * UTF-8 (overlong forms and surrogates included). */
size_t zb_utf8_decode(const char *s, size_t n, uint32_t *cp);
size_t zb_utf8_encode(uint32_t cp, char out[4]); /* bytes written */
size_t zb_utf8_length(const char *s, size_t n);  /* code points; an invalid byte counts as one */
size_t zb_utf8_complete(const char *s,
                        size_t n); /* longest prefix that does not cut a code point */

/* Appends the text with U+FFFD in place of what is no UTF-8: one for each longest piece that could
 * have begun a code point, else one for each byte, as the decoders of Python and Rust do. */
void zb_utf8_lossy(zb_buf *out, const char *s, size_t n);

/* Strict decimal numbers: the whole string must be the number, and finite. */
bool zb_parse_i64(const char *s, int64_t *out);
bool zb_parse_f64(const char *s, double *out);
/* "512M", "1.5G", "4096": bytes, with K, M, G, T for powers of 1024 ("B", "iB" may follow). */
bool zb_parse_bytes(const char *s, uint64_t *out);

/* Edit distance of two short names, to suggest what was meant; 99 if one is longer than 60 bytes.
 */
int zb_edit_distance(const char *a, const char *b);

/* FNV-1a over text, as 16 hex digits in the arena. */
char *zb_digest(zb_arena *a, const char *text);

#endif
