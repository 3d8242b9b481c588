/* text_rule.h - the named text functions that task files may apply to a field: {question|strip}.
 *
 * Each follows the Python function of the LM Evaluation Harness that it stands for, code point by
 * code point. Results live in the arena or point into the input. Pure functions: any thread. */
#ifndef ZB_EVAL_TEXT_RULE_H
#define ZB_EVAL_TEXT_RULE_H

#include "base/arena.h"
#include "base/text.h"

typedef struct zb_text_rule {
    const char *name;
    bool takes_arg; /* {field|name:arg} */
    /* false: the rule does not apply to this text (the argument does not occur in it). */
    bool (*apply)(zb_str in, zb_str arg, zb_arena *a, zb_str *out);
} zb_text_rule;

const zb_text_rule *zb_text_rule_find(zb_str name); /* NULL: unknown */
const char *zb_text_rule_names(void);               /* for messages */

/* White space as Python's str.isspace() and the \s of its re see it. */
bool zb_text_is_space(uint32_t c);

/* Bytes of white space, as Python's str.isspace() sees it, at the end of s. */
size_t zb_text_trailing_space(zb_str s);

#endif
