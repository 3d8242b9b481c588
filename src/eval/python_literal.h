/* python_literal.h - lists, dictionaries, strings and numbers as Python's repr() writes them.
 *
 * Some data sets hold such text in a field (RACE's problems). */
#ifndef ZB_EVAL_PYTHON_LITERAL_H
#define ZB_EVAL_PYTHON_LITERAL_H

#include "base/err.h"
#include "base/text.h"

#include <jansson.h>

/* New reference; None becomes null. `where` starts the message of an error. */
zb_status zb_python_literal_parse(zb_str text, const char *where, json_t **out, zb_err *err);

#endif
