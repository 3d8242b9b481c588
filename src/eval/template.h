/* template.h - "Question: {question}\nAnswer:": text with places for the fields of a JSON row.
 *
 * {a.b.0} walks keys and list positions; {field|rule|rule:arg} applies text rules (text_rule.h)
 * from left to right; {{ and }} are braces. A template is compiled once, with its mistakes reported
 * at the place in the task file, and rendered for each row; strings, integers and booleans (as
 * true, false) have a text, other values are an error. Compiled templates and rendered text live in
 * arenas; immutable after compiling. */
#ifndef ZB_EVAL_TEMPLATE_H
#define ZB_EVAL_TEMPLATE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/text.h"
#include "eval/text_rule.h"

#include <jansson.h>

enum { ZB_TEMPLATE_RULES = 4, ZB_TEMPLATE_PIECES = 64 };

typedef struct zb_template_piece {
    const char *literal; /* else NULL and: */
    const char *path;    /* "choices.text.0" */
    int n_rules;
    const zb_text_rule *rule[ZB_TEMPLATE_RULES];
    const char *arg[ZB_TEMPLATE_RULES];
} zb_template_piece;

typedef struct zb_template {
    const char *source; /* NULL: no template */
    zb_template_piece *piece;
    int n;
} zb_template;

/* `where` ("tasks/piqa.yaml:5") starts the message of an error. */
zb_status zb_template_compile(const char *source, const char *where, zb_arena *a, zb_template *out,
                              zb_err *err);

/* The row is a JSON object; `where` ("piqa.jsonl:12") starts the message of an error. */
zb_status zb_template_render(const zb_template *t, const json_t *row, const char *where,
                             zb_arena *a, zb_str *out, zb_err *err);

/* The value at a dotted path; an error if any part is missing. Borrowed from the row. */
zb_status zb_template_lookup(const json_t *row, const char *path, const char *where,
                             const json_t **out, zb_err *err);

#endif
