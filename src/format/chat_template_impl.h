/* chat_template_impl.h - private to the template's files: syntax tree, values, evaluation state.
 *
 * chat_template_lex.c cuts the source into text and tokens, chat_template_parse.c makes the tree,
 * chat_template_eval.c walks it, chat_template_value.c, chat_template_filter.c and
 * chat_template_order.c know the values.
 * The tree lives in the caller's arena and is read-only; all values of one rendering live in its
 * own. */
#ifndef ZB_FORMAT_CHAT_TEMPLATE_IMPL_H
#define ZB_FORMAT_CHAT_TEMPLATE_IMPL_H

#include "format/chat_template.h"

#include "format/unicode.h"

enum { ZB_JINJA_DEPTH = 64 }; /* of nested blocks, expressions and values */

/* Values. Strings are UTF-8; indices and lengths count code points, as in Python. */
typedef enum zb_jinja_type {
    ZB_JINJA_UNDEFINED,
    ZB_JINJA_NONE,
    ZB_JINJA_BOOL,
    ZB_JINJA_INT,
    ZB_JINJA_FLOAT,
    ZB_JINJA_STR,
    ZB_JINJA_LIST,
    ZB_JINJA_DICT,
    ZB_JINJA_NAMESPACE,
    ZB_JINJA_LOOP,
    ZB_JINJA_FUNCTION,
    ZB_JINJA_MACRO
} zb_jinja_type;

typedef struct zb_jinja_list zb_jinja_list;
typedef struct zb_jinja_dict zb_jinja_dict;
typedef struct zb_jinja_macro zb_jinja_macro;

typedef struct zb_jinja_loop {
    size_t index0, n;
    const zb_jinja_list *items;
} zb_jinja_loop;

typedef struct zb_jinja_value {
    zb_jinja_type type;
    union {
        bool b;
        int64_t i;
        double f;
        zb_str s; /* also the name of an undefined value or a function */
        zb_jinja_list *list;
        zb_jinja_dict *dict; /* also of a namespace */
        const zb_jinja_loop *loop;
        const zb_jinja_macro *macro;
    };
} zb_jinja_value;

struct zb_jinja_list {
    zb_jinja_value *item;
    size_t n, cap;
    bool tuple; /* printed in parentheses; equal to no list */
};

struct zb_jinja_dict { /* in order of insertion; looked up linearly, they are small */
    zb_str *key;
    zb_jinja_value *value;
    size_t n, cap_key, cap_value;
};

/* Syntax tree. */
typedef enum zb_jinja_kind {
    /* statements */
    ZB_NODE_BLOCK,
    ZB_NODE_TEXT,
    ZB_NODE_OUTPUT,
    ZB_NODE_IF,
    ZB_NODE_FOR,
    ZB_NODE_SET,
    ZB_NODE_SET_BLOCK,
    ZB_NODE_MACRO,
    ZB_NODE_BREAK,
    ZB_NODE_CONTINUE,
    /* expressions */
    ZB_NODE_CONST,
    ZB_NODE_NAME,
    ZB_NODE_ATTRIBUTE,
    ZB_NODE_INDEX,
    ZB_NODE_SLICE,
    ZB_NODE_CALL,
    ZB_NODE_FILTER,
    ZB_NODE_TEST,
    ZB_NODE_NOT,
    ZB_NODE_NEGATE,
    ZB_NODE_AND,
    ZB_NODE_OR,
    ZB_NODE_BINARY,
    ZB_NODE_COMPARE,
    ZB_NODE_CONDITIONAL,
    ZB_NODE_LIST,
    ZB_NODE_DICT
} zb_jinja_kind;

typedef struct zb_jinja_node zb_jinja_node;
struct zb_jinja_node {
    zb_jinja_kind kind;
    int line;
    zb_str name;             /* name, attribute, filter, test, operator, text */
    zb_jinja_value constant; /* CONST */
    zb_jinja_node *a, *b, *c, *d;
    /* BLOCK: statements; CALL, FILTER, TEST: arguments; LIST, DICT (key, value, ...): members;
     * COMPARE: operands after the first; FOR: targets; MACRO: defaults of parameters, or NULL */
    zb_jinja_node **item;
    zb_str *label; /* by item: keyword of an argument (p = NULL: none; or *), operator of a
                      comparison, target, parameter */
    size_t n, cap_item, cap_label;
};

struct zb_chat_template {
    const zb_jinja_node *root;
};

/* Lexer. */
typedef enum zb_jinja_token_kind {
    ZB_TOKEN_END_OF_TAG,
    ZB_TOKEN_NAME,
    ZB_TOKEN_STRING,
    ZB_TOKEN_NUMBER,
    ZB_TOKEN_OPERATOR
} zb_jinja_token_kind;

typedef struct zb_jinja_token {
    zb_jinja_token_kind kind;
    zb_str text; /* STRING: unescaped */
    zb_jinja_value number;
} zb_jinja_token;

typedef struct zb_jinja_lexer {
    const char *src;
    size_t n, at;
    char tag;           /* inside a tag: '%' or '{', else 0 */
    int brackets;       /* open in the tag: a tag does not end within them */
    bool line_starting; /* the text at `at` begins a line */
    size_t counted;     /* newlines before this place have been counted */
    int newlines;
    zb_arena *arena;
    zb_err *err;
} zb_jinja_lexer;

/* White space as Python's str.isspace and \s see it: White_Space and the four separators of ASCII.
 */
static inline bool zb_jinja_space(uint32_t cp) {
    return zb_char_is_space(cp) || (cp >= 0x1C && cp <= 0x1F);
}

/* Text up to the next tag (white-space control applied, raw parts as they are), then enters it.
 * lexer->tag = 0: the end. */
zb_status zb_jinja_lex_text(zb_jinja_lexer *l, zb_str *text);
/* The next token of the tag; END_OF_TAG leaves it. */
zb_status zb_jinja_lex_token(zb_jinja_lexer *l, zb_jinja_token *token);
int zb_jinja_line(zb_jinja_lexer *l); /* of the place reached, from 1 */
zb_status zb_jinja_parse(zb_str source, zb_arena *a, const zb_jinja_node **root, zb_err *err);

/* Evaluation. */
typedef struct zb_jinja_variable {
    zb_str name;
    zb_jinja_value value;
} zb_jinja_variable;

typedef struct zb_jinja_scope zb_jinja_scope;
struct zb_jinja_scope {
    zb_jinja_variable *variable;
    size_t n, cap;
    zb_jinja_scope *outer; /* around it in the template, not in time: a macro's is its home */
};

struct zb_jinja_macro {
    const zb_jinja_node *node;
    zb_jinja_scope *home; /* where it was defined: what it sees beside its parameters */
};

typedef struct zb_jinja_eval {
    zb_arena arena;
    zb_jinja_scope *scope; /* the innermost */
    const zb_jinja_dict *given;
    zb_buf *out;
    enum { ZB_FLOW_ON, ZB_FLOW_BREAK, ZB_FLOW_CONTINUE } flow;
    uint64_t steps;
    int depth, line; /* line: of the node being evaluated, for messages */
    zb_err *err;
} zb_jinja_eval;

typedef struct zb_jinja_args {
    zb_jinja_value *value;
    zb_str *keyword; /* p = NULL: positional */
    size_t n;
} zb_jinja_args;

zb_status zb_jinja_fail(zb_jinja_eval *e, const char *fmt, ...) ZB_PRINTF(2, 3);
#ifdef __clang_analyzer__ /* as in base/err.h: a failure is never ZB_OK */
static inline zb_status zb_jinja_fail_seen(zb_jinja_eval *e, const char *fmt, ...) {
    (void)e;
    (void)fmt;
    return ZB_ERR_FORMAT;
}
#define zb_jinja_fail zb_jinja_fail_seen
#endif
/* Accounts for work on n bytes or items; an error once time or memory is used up. */
zb_status zb_jinja_charge(zb_jinja_eval *e, size_t n);

static inline zb_jinja_value zb_jinja_bool(bool b) {
    return (zb_jinja_value){ZB_JINJA_BOOL, {.b = b}};
}
static inline zb_jinja_value zb_jinja_int(int64_t i) {
    return (zb_jinja_value){ZB_JINJA_INT, {.i = i}};
}
static inline zb_jinja_value zb_jinja_str(zb_str s) {
    return (zb_jinja_value){ZB_JINJA_STR, {.s = s}};
}
static inline zb_jinja_value zb_jinja_undefined(zb_str name) {
    return (zb_jinja_value){ZB_JINJA_UNDEFINED, {.s = name}};
}
static inline zb_jinja_value zb_jinja_none(void) {
    return (zb_jinja_value){ZB_JINJA_NONE, {.i = 0}};
}

const char *zb_jinja_type_name(zb_jinja_value v);
bool zb_jinja_true(zb_jinja_value v);
zb_jinja_value zb_jinja_list_new(zb_jinja_eval *e);
void zb_jinja_list_add(zb_jinja_eval *e, zb_jinja_value list, zb_jinja_value item);
zb_jinja_value zb_jinja_dict_new(zb_jinja_eval *e);
void zb_jinja_dict_set(zb_jinja_eval *e, zb_jinja_dict *d, zb_str key, zb_jinja_value v);
bool zb_jinja_dict_get(const zb_jinja_dict *d, zb_str key, zb_jinja_value *v);

zb_status zb_jinja_from_json(zb_jinja_eval *e, const json_t *j, int depth, zb_jinja_value *out);
zb_status zb_jinja_equal(zb_jinja_eval *e, zb_jinja_value a, zb_jinja_value b, int depth,
                         bool *out);
zb_status zb_jinja_less(zb_jinja_eval *e, zb_jinja_value a, zb_jinja_value b, bool *out);
zb_status zb_jinja_contains(zb_jinja_eval *e, zb_jinja_value box, zb_jinja_value v, bool *out);
/* Members of a list, code points of a string, keys of a dict; nothing for undefined. */
zb_status zb_jinja_iterate(zb_jinja_eval *e, zb_jinja_value v, zb_jinja_value *list);
/* Python's str(); a string is itself. */
zb_status zb_jinja_text(zb_jinja_eval *e, zb_jinja_value v, zb_str *out);
/* indent < 0: on one line. */
zb_status zb_jinja_to_json(zb_jinja_eval *e, zb_jinja_value v, int indent, zb_str *out);
/* Copies the buffer's text into the rendering's arena and frees it; fails if it overflowed. */
zb_status zb_jinja_take(zb_jinja_eval *e, zb_buf *b, zb_str *out);
/* Byte offset of code point i of s (its end if i is beyond). */
size_t zb_jinja_offset(zb_str s, size_t i);

zb_status zb_jinja_filter(zb_jinja_eval *e, zb_str name, zb_jinja_value v,
                          const zb_jinja_args *args, zb_jinja_value *out);
zb_status zb_jinja_test(zb_jinja_eval *e, zb_str name, zb_jinja_value v, const zb_jinja_args *args,
                        bool *out);
zb_status zb_jinja_method(zb_jinja_eval *e, zb_jinja_value v, zb_str name,
                          const zb_jinja_args *args, zb_jinja_value *out);
zb_status zb_jinja_function(zb_jinja_eval *e, zb_str name, const zb_jinja_args *args,
                            zb_jinja_value *out);
bool zb_jinja_is_function(zb_str name);
/* A binary operator: + - ~ * / // %. */
zb_status zb_jinja_binary(zb_jinja_eval *e, zb_str op, zb_jinja_value a, zb_jinja_value b,
                          zb_jinja_value *out);
/* Element by position, or member by name. */
zb_status zb_jinja_index(zb_jinja_eval *e, zb_jinja_value v, zb_jinja_value at,
                         zb_jinja_value *out);
/* Attribute or key; undefined if there is none. */
zb_status zb_jinja_member(zb_jinja_eval *e, zb_jinja_value v, zb_str name, zb_jinja_value *out);

/* The member that a path like "function.name" or "0.role" leads to. */
zb_status zb_jinja_attribute(zb_jinja_eval *e, zb_jinja_value v, zb_str path, zb_jinja_value *out);
/* (key, value) of a mapping's members. */
zb_status zb_jinja_pairs(zb_jinja_eval *e, zb_jinja_value v, zb_jinja_value *list);
/* sort, dictsort, unique, min, max and sum; anything else is an error. */
zb_status zb_jinja_order_filter(zb_jinja_eval *e, zb_str name, zb_jinja_value v,
                                const zb_jinja_args *args, zb_jinja_value *out);

/* The argument at a position or with a keyword; undefined if it is not given. */
zb_jinja_value zb_jinja_arg(const zb_jinja_args *args, size_t at, const char *keyword);

#endif
