/* unicode.h - what the tokenizer and chat templates need to know about characters.
 *
 * Thin layer over utf8proc: white space and word characters as regular-expression engines
 * define them (Unicode TR18), normalisation in linear time. Pure functions. */
#ifndef ZB_FORMAT_UNICODE_H
#define ZB_FORMAT_UNICODE_H

#include "base/arena.h"
#include "base/text.h"

bool zb_char_is_space(uint32_t cp); /* the property White_Space */
bool zb_char_is_word(uint32_t cp);  /* \w: letters, marks, digits, connectors, joiners */
bool zb_char_is_letter(uint32_t cp);
bool zb_char_is_printable(
    uint32_t cp); /* Python's str.isprintable: no separators but the blank, no controls */
uint32_t zb_char_upper(uint32_t cp); /* simple case mappings */
uint32_t zb_char_lower(uint32_t cp);
uint32_t zb_char_title(uint32_t cp);

typedef enum zb_normal_form { ZB_NFC, ZB_NFD, ZB_NFKC, ZB_NFKD } zb_normal_form;

/* Valid UTF-8 to a normal form; the result may be the input itself, else it is in the arena. */
zb_str zb_normalize(zb_str text, zb_normal_form form, zb_arena *a);

#endif
