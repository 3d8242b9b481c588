/* chat_template_parse.c - template text to a syntax tree (contract in chat_template.h).
 *
 * Recursive descent with Jinja's own precedence, lowest first:
 *
 *     conditional  = or [ "if" or [ "else" conditional ] ]
 *     or           = and { "or" and }          and = not { "and" not }        not = "not" not |
 * compare compare      = sum { ( == != < <= > >= | [not] in ) sum } sum          = concat { (+ | -)
 * concat }         concat  = product { "~" product } product      = unary { (* | / | // | %) unary
 * } unary        = (- | +) unary-without-filters filters | primary postfix filters postfix      = {
 * .name | [index] | [from:to:step] | (arguments) } filters      = { "|" name [(arguments)] | "is"
 * ["not"] name [argument] | (arguments) }
 *
 * Depth is limited and every rule consumes input, so a hostile template ends in an error or a tree
 * of its own size. */
#include "format/chat_template_impl.h"

#include <string.h>

typedef struct parser {
    zb_jinja_lexer lex;
    zb_jinja_token now; /* the token to be read next, inside a tag */
    int depth, loops;
    bool macro; /* inside one */
    zb_arena *arena;
    zb_err *err;
} parser;

static zb_status parse_expression(parser *p, zb_jinja_node **out);
static zb_status parse_unary(parser *p, bool filters, zb_jinja_node **out);

static zb_status fail(parser *p, const char *expected) {
    if (p->now.kind == ZB_TOKEN_END_OF_TAG)
        return zb_fail(p->err, ZB_ERR_FORMAT,
                       "chat template:%d: expected %s, found the end of the tag",
                       zb_jinja_line(&p->lex), expected);
    int n = p->now.text.n > 40 ? (int)zb_utf8_complete(p->now.text.p, 40) : (int)p->now.text.n;
    return zb_fail(p->err, ZB_ERR_FORMAT, "chat template:%d: expected %s, found \"%.*s\"",
                   zb_jinja_line(&p->lex), expected, n, p->now.text.p);
}

static zb_status advance(parser *p) { return zb_jinja_lex_token(&p->lex, &p->now); }

static bool is_operator(const parser *p, const char *op) {
    return p->now.kind == ZB_TOKEN_OPERATOR && zb_str_is(p->now.text, op);
}

static bool is_word(const parser *p, const char *word) {
    return p->now.kind == ZB_TOKEN_NAME && zb_str_is(p->now.text, word);
}

static zb_status expect_operator(parser *p, const char *op) {
    char text[8] = {'"', op[0], op[1] ? op[1] : '"', op[1] ? '"' : 0, 0};
    return is_operator(p, op) ? advance(p) : fail(p, text);
}

static zb_status expect_name(parser *p, const char *what, zb_str *name) {
    if (p->now.kind != ZB_TOKEN_NAME) return fail(p, what);
    *name = p->now.text;
    return advance(p);
}

static zb_status enter(parser *p) {
    if (++p->depth > ZB_JINJA_DEPTH)
        return zb_fail(p->err, ZB_ERR_UNSUPPORTED, "chat template:%d: nested more than %d deep",
                       zb_jinja_line(&p->lex), (int)ZB_JINJA_DEPTH);
    return ZB_OK;
}

static zb_jinja_node *new_node(parser *p, zb_jinja_kind kind) {
    zb_jinja_node *n = ZB_NEW(p->arena, zb_jinja_node);
    n->kind = kind;
    n->line = zb_jinja_line(&p->lex);
    return n;
}

static void add_item(parser *p, zb_jinja_node *to, zb_jinja_node *item, zb_str label) {
    to->item = zb_grow(p->arena, to->item, &to->cap_item, to->n + 1, sizeof(zb_jinja_node *));
    to->label = zb_grow(p->arena, to->label, &to->cap_label, to->n + 1, sizeof(zb_str));
    to->item[to->n] = item;
    to->label[to->n++] = label;
}

/* What an argument begins with: "name =", or "*", whose members are arguments; p = NULL: neither.
 */
static zb_status parse_keyword(parser *p, zb_str *keyword) {
    *keyword = (zb_str){0};
    if (is_operator(p, "*")) {
        *keyword = p->now.text;
        return advance(p);
    }
    if (p->now.kind != ZB_TOKEN_NAME) return ZB_OK;
    zb_jinja_lexer lex = p->lex; /* looks one token ahead on a copy */
    zb_jinja_token next;
    ZB_TRY(zb_jinja_lex_token(&lex, &next));
    if (next.kind != ZB_TOKEN_OPERATOR || !zb_str_is(next.text, "=")) return ZB_OK;
    *keyword = p->now.text;
    p->lex = lex;
    return advance(p);
}

/* Behind "(": arguments, positional, then * at most once, then keyword = value, to the closing
 * bracket. */
static zb_status parse_arguments(parser *p, zb_jinja_node *to) {
    while (!is_operator(p, ")")) {
        zb_str keyword;
        zb_jinja_node *value = NULL;
        ZB_TRY(parse_keyword(p, &keyword));
        bool named = keyword.p && !zb_str_is(keyword, "*");
        if (to->n >= 32) return fail(p, "at most 32 arguments");
        if (!named && to->n && to->label[to->n - 1].p)
            return fail(p, "an argument of the form name = value, as before it");
        ZB_TRY(parse_expression(p, &value));
        add_item(p, to, value, keyword);
        if (!is_operator(p, ",")) break;
        ZB_TRY(advance(p));
    }
    return expect_operator(p, ")");
}

/* Behind an opening bracket: a list to its closing one. */
static zb_status parse_members(parser *p, zb_jinja_node *to, const char *close) {
    while (!is_operator(p, close)) {
        zb_jinja_node *value = NULL;
        ZB_TRY(parse_expression(p, &value));
        add_item(p, to, value, (zb_str){0});
        if (!is_operator(p, ",")) break;
        ZB_TRY(advance(p));
    }
    return expect_operator(p, close);
}

static zb_status parse_dict(parser *p, zb_jinja_node *to) {
    while (!is_operator(p, "}")) {
        zb_jinja_node *key = NULL, *value = NULL;
        ZB_TRY(parse_expression(p, &key));
        ZB_TRY(expect_operator(p, ":"));
        ZB_TRY(parse_expression(p, &value));
        add_item(p, to, key, (zb_str){0});
        add_item(p, to, value, (zb_str){0});
        if (!is_operator(p, ",")) break;
        ZB_TRY(advance(p));
    }
    return expect_operator(p, "}");
}

/* Behind "(": one expression in brackets, or a tuple. */
static zb_status parse_bracket(parser *p, zb_jinja_node **out) {
    zb_jinja_node *list = new_node(p, ZB_NODE_LIST);
    list->name = ZB_STR("tuple");
    if (!is_operator(p, ")")) {
        ZB_TRY(parse_expression(p, out));
        if (!is_operator(p, ",")) return expect_operator(p, ")");
        ZB_TRY(advance(p));
        add_item(p, list, *out, (zb_str){0});
    }
    *out = list;
    return parse_members(p, list, ")");
}

static bool constant_word(zb_str word, zb_jinja_value *v) {
    bool yes = zb_str_is(word, "true") || zb_str_is(word, "True");
    *v = zb_jinja_bool(yes);
    if (yes || zb_str_is(word, "false") || zb_str_is(word, "False")) return true;
    *v = zb_jinja_none();
    return zb_str_is(word, "none") || zb_str_is(word, "None");
}

/* Literals that stand side by side are one string. */
static zb_status parse_string(parser *p, zb_jinja_node **out) {
    zb_jinja_node *node = *out = new_node(p, ZB_NODE_CONST);
    zb_str all = {"", 0};
    while (p->now.kind == ZB_TOKEN_STRING) {
        char *both = zb_alloc(p->arena, all.n + p->now.text.n + 1);
        memcpy(both, all.p, all.n);
        if (p->now.text.n) memcpy(both + all.n, p->now.text.p, p->now.text.n);
        all = (zb_str){both, all.n + p->now.text.n};
        ZB_TRY(advance(p));
    }
    node->constant = zb_jinja_str(all);
    return ZB_OK;
}

static zb_status parse_primary(parser *p, zb_jinja_node **out) {
    zb_jinja_value constant;
    if (p->now.kind == ZB_TOKEN_STRING) return parse_string(p, out);
    if (p->now.kind == ZB_TOKEN_NUMBER ||
        (p->now.kind == ZB_TOKEN_NAME && constant_word(p->now.text, &constant))) {
        *out = new_node(p, ZB_NODE_CONST);
        (*out)->constant = p->now.kind == ZB_TOKEN_NUMBER ? p->now.number : constant;
        return advance(p);
    }
    if (p->now.kind == ZB_TOKEN_NAME) {
        static const char *const words[] = {"if", "else", "and", "or", "not", "in", "is"};
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (is_word(p, words[i])) return fail(p, "an expression");
        static const char *const given[] = {"varargs", "kwargs", "caller"};
        for (size_t i = 0; i < sizeof given / sizeof *given && p->macro; i++)
            if (is_word(p, given[i])) return fail(p, "a macro that takes its parameters only");
        *out = new_node(p, ZB_NODE_NAME);
        return expect_name(p, "a name", &(*out)->name);
    }
    if (is_operator(p, "(")) {
        ZB_TRY(advance(p));
        return parse_bracket(p, out);
    }
    bool list = is_operator(p, "[");
    if (!list && !is_operator(p, "{")) return fail(p, "an expression");
    *out = new_node(p, list ? ZB_NODE_LIST : ZB_NODE_DICT);
    ZB_TRY(advance(p));
    return list ? parse_members(p, *out, "]") : parse_dict(p, *out);
}

/* Behind "[": an index, or from:to:step with any of them absent. */
static zb_status parse_subscript(parser *p, zb_jinja_node *of, zb_jinja_node **out) {
    zb_jinja_node *part[3] = {0};
    int colons = 0;
    while (!is_operator(p, "]")) {
        if (is_operator(p, ":")) {
            if (++colons > 2) return fail(p, "\"]\"");
            ZB_TRY(advance(p));
        } else {
            if (part[colons]) return fail(p, "\"]\"");
            ZB_TRY(parse_expression(p, &part[colons]));
        }
    }
    if (!colons && !part[0]) return fail(p, "an index");
    *out = new_node(p, colons ? ZB_NODE_SLICE : ZB_NODE_INDEX);
    (*out)->a = of, (*out)->b = part[0], (*out)->c = part[1], (*out)->d = part[2];
    return advance(p);
}

static zb_status parse_call(parser *p, zb_jinja_node *of, zb_jinja_node **out) {
    ZB_TRY(advance(p));
    *out = new_node(p, ZB_NODE_CALL);
    (*out)->a = of;
    return parse_arguments(p, *out);
}

static zb_status parse_postfix(parser *p, zb_jinja_node **out) {
    for (int links = 0;; links++) {
        zb_jinja_node *of = *out;
        if (links > ZB_JINJA_DEPTH) return fail(p, "a shorter chain of members");
        if (is_operator(p, ".")) {
            ZB_TRY(advance(p));
            *out = new_node(p, ZB_NODE_ATTRIBUTE);
            (*out)->a = of;
            ZB_TRY(expect_name(p, "the name of a member", &(*out)->name));
        } else if (is_operator(p, "[")) {
            ZB_TRY(advance(p));
            ZB_TRY(parse_subscript(p, of, out));
        } else if (is_operator(p, "(")) {
            ZB_TRY(parse_call(p, of, out));
        } else {
            return ZB_OK;
        }
    }
}

/* Behind "is": a test; its argument may stand in brackets or bare. */
static zb_status parse_test(parser *p, zb_jinja_node *of, zb_jinja_node **out) {
    ZB_TRY(advance(p));
    bool negated = is_word(p, "not");
    if (negated) ZB_TRY(advance(p));
    zb_jinja_node *test = new_node(p, ZB_NODE_TEST);
    test->a = of;
    ZB_TRY(expect_name(p, "the name of a test", &test->name));
    bool bare = p->now.kind == ZB_TOKEN_STRING || p->now.kind == ZB_TOKEN_NUMBER ||
                is_operator(p, "[") || is_operator(p, "{") ||
                (p->now.kind == ZB_TOKEN_NAME && !is_word(p, "else") && !is_word(p, "or") &&
                 !is_word(p, "and") && !is_word(p, "is") && !is_word(p, "if") &&
                 !is_word(p, "in") && !is_word(p, "not"));
    if (is_operator(p, "(")) {
        ZB_TRY(advance(p));
        ZB_TRY(parse_arguments(p, test));
    } else if (bare) {
        zb_jinja_node *argument = NULL;
        ZB_TRY(parse_primary(p, &argument));
        ZB_TRY(parse_postfix(p, &argument));
        add_item(p, test, argument, (zb_str){0});
    }
    *out = test;
    if (!negated) return ZB_OK;
    *out = new_node(p, ZB_NODE_NOT);
    (*out)->a = test;
    return ZB_OK;
}

static zb_status parse_filters(parser *p, zb_jinja_node **out) {
    for (int links = 0;; links++) {
        zb_jinja_node *of = *out;
        if (links > ZB_JINJA_DEPTH) return fail(p, "a shorter chain of filters");
        if (is_operator(p, "|")) {
            ZB_TRY(advance(p));
            zb_jinja_node *filter = *out = new_node(p, ZB_NODE_FILTER);
            filter->a = of;
            ZB_TRY(expect_name(p, "the name of a filter", &filter->name));
            if (!is_operator(p, "(")) continue;
            ZB_TRY(advance(p));
            ZB_TRY(parse_arguments(p, filter));
        } else if (is_word(p, "is")) {
            ZB_TRY(parse_test(p, of, out));
        } else if (is_operator(p, "(")) {
            ZB_TRY(parse_call(p, of, out));
        } else {
            return ZB_OK;
        }
    }
}

static zb_status parse_unary(parser *p, bool filters, zb_jinja_node **out) {
    ZB_TRY(enter(p));
    bool minus = is_operator(p, "-");
    if (minus || is_operator(p, "+")) {
        zb_jinja_node *of = NULL;
        ZB_TRY(advance(p));
        ZB_TRY(parse_unary(p, false, &of));
        *out = of;
        if (minus) {
            *out = new_node(p, ZB_NODE_NEGATE);
            (*out)->a = of;
        }
    } else {
        ZB_TRY(parse_primary(p, out));
    }
    ZB_TRY(parse_postfix(p, out));
    p->depth--;
    return filters ? parse_filters(p, out) : ZB_OK;
}

/* Binary operators of one level: left to right, however many. */
static const char *const levels[3][5] = {{"+", "-"}, {"~"}, {"*", "/", "//", "%"}};

static zb_status parse_binary(parser *p, int level, zb_jinja_node **out) {
    if (level == 3) return parse_unary(p, true, out);
    ZB_TRY(parse_binary(p, level + 1, out));
    for (int chain = 0;; chain++) {
        const char *op = NULL;
        for (int i = 0; i < 5 && levels[level][i]; i++)
            if (is_operator(p, levels[level][i])) op = levels[level][i];
        if (is_operator(p, "**")) return fail(p, "an operator other than a power");
        if (!op) return ZB_OK;
        if (chain > 8 * ZB_JINJA_DEPTH) return fail(p, "a shorter chain of operators");
        zb_jinja_node *node = new_node(p, ZB_NODE_BINARY);
        node->name = zb_str_from(op);
        node->a = *out;
        ZB_TRY(advance(p));
        ZB_TRY(parse_binary(p, level + 1, &node->b));
        *out = node;
    }
}

/* The comparison at the cursor; read if there is one. */
static zb_status comparison(parser *p, zb_str *op) {
    static const char *const ops[] = {"==", "!=", "<", "<=", ">", ">="};
    *op = (zb_str){0};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (is_operator(p, ops[i])) *op = zb_str_from(ops[i]);
    if (is_word(p, "in")) *op = ZB_STR("in");
    if (is_word(p, "not")) { /* only "not in" can stand here */
        *op = ZB_STR("not in");
        ZB_TRY(advance(p));
        if (!is_word(p, "in")) return fail(p, "\"in\"");
    }
    return op->p ? advance(p) : ZB_OK;
}

static zb_status parse_compare(parser *p, zb_jinja_node **out) {
    zb_str op;
    ZB_TRY(parse_binary(p, 0, out));
    ZB_TRY(comparison(p, &op));
    if (!op.p) return ZB_OK;
    zb_jinja_node *node = new_node(p, ZB_NODE_COMPARE), *operand;
    node->a = *out;
    while (op.p) {
        ZB_TRY(parse_binary(p, 0, &operand));
        add_item(p, node, operand, op);
        ZB_TRY(comparison(p, &op));
    }
    *out = node;
    return ZB_OK;
}

static zb_status parse_not(parser *p, zb_jinja_node **out) {
    if (!is_word(p, "not")) return parse_compare(p, out);
    ZB_TRY(enter(p));
    ZB_TRY(advance(p));
    zb_jinja_node *node = new_node(p, ZB_NODE_NOT);
    ZB_TRY(parse_not(p, &node->a));
    *out = node;
    p->depth--;
    return ZB_OK;
}

static zb_status parse_logic(parser *p, bool or, zb_jinja_node **out) {
    ZB_TRY(or ? parse_logic(p, false, out) : parse_not(p, out));
    for (int chain = 0; is_word(p, or ? "or" : "and"); chain++) {
        if (chain > 8 * ZB_JINJA_DEPTH) return fail(p, "a shorter chain of conditions");
        zb_jinja_node *node = new_node(p, or ? ZB_NODE_OR : ZB_NODE_AND);
        node->a = *out;
        ZB_TRY(advance(p));
        ZB_TRY(or ? parse_logic(p, false, &node->b) : parse_not(p, &node->b));
        *out = node;
    }
    return ZB_OK;
}

static zb_status parse_expression(parser *p, zb_jinja_node **out) {
    ZB_TRY(enter(p));
    ZB_TRY(parse_logic(p, true, out));
    if (is_word(p, "if")) {
        zb_jinja_node *node = new_node(p, ZB_NODE_CONDITIONAL);
        node->b = *out;
        ZB_TRY(advance(p));
        ZB_TRY(parse_logic(p, true, &node->a));
        if (is_word(p, "else")) {
            ZB_TRY(advance(p));
            ZB_TRY(parse_expression(p, &node->c));
        }
        *out = node;
    }
    p->depth--;
    return ZB_OK;
}

/* An expression that may be a tuple without brackets, as "set" and "for" allow. */
static zb_status parse_tuple(parser *p, zb_jinja_node **out) {
    ZB_TRY(parse_expression(p, out));
    if (!is_operator(p, ",")) return ZB_OK;
    zb_jinja_node *list = new_node(p, ZB_NODE_LIST);
    list->name = ZB_STR("tuple");
    add_item(p, list, *out, (zb_str){0});
    while (is_operator(p, ",")) {
        zb_jinja_node *value = NULL;
        ZB_TRY(advance(p));
        if (p->now.kind == ZB_TOKEN_END_OF_TAG) break;
        ZB_TRY(parse_expression(p, &value));
        add_item(p, list, value, (zb_str){0});
    }
    *out = list;
    return ZB_OK;
}

static zb_status end_tag(parser *p) {
    return p->now.kind == ZB_TOKEN_END_OF_TAG ? ZB_OK : fail(p, "the end of the tag");
}

static zb_status parse_block(parser *p, const char *const *ends, zb_jinja_node **out);

static zb_status parse_if(parser *p, zb_jinja_node **out) {
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif",
                                                                                        NULL};
    zb_jinja_node *first = NULL, **place = &first;
    while (is_word(p, "if") || is_word(p, "elif")) {
        zb_jinja_node *node = *place = new_node(p, ZB_NODE_IF);
        ZB_TRY(advance(p));
        ZB_TRY(parse_tuple(p, &node->a));
        ZB_TRY(end_tag(p));
        ZB_TRY(parse_block(p, ends, &node->b));
        place = &node->c;
    }
    if (is_word(p, "else")) {
        ZB_TRY(advance(p));
        ZB_TRY(end_tag(p));
        ZB_TRY(parse_block(p, last, place));
    }
    *out = first;
    ZB_TRY(advance(p));
    return end_tag(p);
}

/* name {, name}: targets of "for" and "set". */
static zb_status parse_targets(parser *p, zb_jinja_node *to) {
    bool bracket = is_operator(p, "(");
    if (bracket) ZB_TRY(advance(p));
    for (;;) {
        zb_str name;
        ZB_TRY(expect_name(p, "a name", &name));
        add_item(p, to, NULL, name);
        if (!is_operator(p, ",")) break;
        ZB_TRY(advance(p));
    }
    return bracket ? expect_operator(p, ")") : ZB_OK;
}

static zb_status parse_for(parser *p, zb_jinja_node **out) {
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    zb_jinja_node *node = *out = new_node(p, ZB_NODE_FOR);
    ZB_TRY(advance(p));
    ZB_TRY(parse_targets(p, node));
    if (!is_word(p, "in")) return fail(p, "\"in\"");
    ZB_TRY(advance(p));
    ZB_TRY(parse_logic(p, true, &node->a)); /* no conditional: "if" begins the loop's filter */
    if (is_word(p, "if")) {
        ZB_TRY(advance(p));
        ZB_TRY(parse_expression(p, &node->d));
    }
    if (is_word(p, "recursive")) return fail(p, "a loop that is not recursive");
    ZB_TRY(end_tag(p));
    p->loops++;
    ZB_TRY(parse_block(p, ends, &node->b));
    p->loops--;
    if (is_word(p, "else")) {
        ZB_TRY(advance(p));
        ZB_TRY(end_tag(p));
        ZB_TRY(parse_block(p, last, &node->c));
    }
    ZB_TRY(advance(p));
    return end_tag(p);
}

/* set name[, name] = value; set name.member = value; set name ... endset. */
static zb_status parse_set(parser *p, zb_jinja_node **out) {
    static const char *const ends[] = {"endset", NULL};
    zb_jinja_node *node = *out = new_node(p, ZB_NODE_SET);
    ZB_TRY(advance(p));
    ZB_TRY(parse_targets(p, node));
    if (node->n == 1 && is_operator(p, ".")) {
        ZB_TRY(advance(p));
        ZB_TRY(expect_name(p, "the name of a member", &node->name));
    }
    if (is_operator(p, "=")) {
        ZB_TRY(advance(p));
        ZB_TRY(parse_tuple(p, &node->a));
        return end_tag(p);
    }
    if (node->n != 1 || node->name.p) return fail(p, "\"=\"");
    node->kind = ZB_NODE_SET_BLOCK;
    ZB_TRY(end_tag(p));
    ZB_TRY(parse_block(p, ends, &node->b));
    ZB_TRY(advance(p));
    return end_tag(p);
}

/* Behind "(": name or name = default, ..., to the closing bracket. */
static zb_status parse_parameters(parser *p, zb_jinja_node *macro) {
    while (!is_operator(p, ")")) {
        zb_str name;
        zb_jinja_node *value = NULL;
        if (macro->n >= 32) return fail(p, "at most 32 parameters");
        ZB_TRY(expect_name(p, "the name of a parameter", &name));
        for (size_t i = 0; i < macro->n; i++)
            if (zb_str_eq(macro->label[i], name)) return fail(p, "parameters of different names");
        if (is_operator(p, "=")) {
            ZB_TRY(advance(p));
            ZB_TRY(parse_expression(p, &value));
        } else if (macro->n && macro->item[macro->n - 1]) {
            return fail(p, "a default, as the parameter before has one");
        }
        add_item(p, macro, value, name);
        if (!is_operator(p, ",")) break;
        ZB_TRY(advance(p));
    }
    return expect_operator(p, ")");
}

static zb_status parse_macro(parser *p, zb_jinja_node **out) {
    static const char *const ends[] = {"endmacro", NULL};
    zb_jinja_node *node = *out = new_node(p, ZB_NODE_MACRO);
    int loops = p->loops; /* that are not the macro's to break */
    bool outer = p->macro;
    ZB_TRY(advance(p));
    ZB_TRY(expect_name(p, "the name of a macro", &node->name));
    ZB_TRY(expect_operator(p, "("));
    p->loops = 0;
    p->macro = true;
    ZB_TRY(parse_parameters(p, node));
    ZB_TRY(end_tag(p));
    ZB_TRY(parse_block(p, ends, &node->b));
    p->loops = loops;
    p->macro = outer;
    ZB_TRY(advance(p));
    return end_tag(p);
}

/* {% generation %} marks what the assistant wrote, for training; the text is the same without it.
 */
static zb_status parse_generation(parser *p, zb_jinja_node **out) {
    static const char *const ends[] = {"endgeneration", NULL};
    ZB_TRY(advance(p));
    ZB_TRY(end_tag(p));
    ZB_TRY(parse_block(p, ends, out));
    ZB_TRY(advance(p));
    return end_tag(p);
}

static zb_status parse_statement(parser *p, zb_jinja_node **out) {
    if (is_word(p, "if")) return parse_if(p, out);
    if (is_word(p, "for")) return parse_for(p, out);
    if (is_word(p, "set")) return parse_set(p, out);
    if (is_word(p, "macro")) return parse_macro(p, out);
    if (is_word(p, "generation")) return parse_generation(p, out);
    bool stop = is_word(p, "break");
    if ((stop || is_word(p, "continue")) && p->loops > 0) {
        *out = new_node(p, stop ? ZB_NODE_BREAK : ZB_NODE_CONTINUE);
        ZB_TRY(advance(p));
        return end_tag(p);
    }
    return fail(p, "if, for, set, macro, generation, or break and continue inside a loop");
}

/* Statements up to a tag that begins with one of `ends` (NULL: up to the end of the text); that
 * word is then the token to be read. */
static zb_status parse_block(parser *p, const char *const *ends, zb_jinja_node **out) {
    ZB_TRY(enter(p));
    zb_jinja_node *block = *out = new_node(p, ZB_NODE_BLOCK);
    for (;;) {
        zb_str text;
        ZB_TRY(zb_jinja_lex_text(&p->lex, &text));
        if (text.n) {
            zb_jinja_node *node = new_node(p, ZB_NODE_TEXT);
            node->name = text;
            add_item(p, block, node, (zb_str){0});
        }
        if (!p->lex.tag) break;
        bool output = p->lex.tag == '{';
        zb_jinja_node *node = NULL;
        ZB_TRY(advance(p));
        if (output) {
            node = new_node(p, ZB_NODE_OUTPUT);
            ZB_TRY(parse_tuple(p, &node->a));
            ZB_TRY(end_tag(p));
        } else {
            for (int i = 0; ends && ends[i]; i++)
                if (is_word(p, ends[i])) {
                    p->depth--;
                    return ZB_OK;
                }
            ZB_TRY(parse_statement(p, &node));
        }
        add_item(p, block, node, (zb_str){0});
    }
    if (ends)
        return zb_fail(p->err, ZB_ERR_FORMAT,
                       "chat template:%d: a block has no end: expected {%% %s %%}", block->line,
                       ends[0][0] == 'e' && ends[1] ? "endif or endfor" : ends[0]);
    p->depth--;
    return ZB_OK;
}

/* Line ends to \n; one at the very end is dropped. */
static zb_str normal_lines(zb_str source, zb_arena *a) {
    char *out = zb_alloc(a, source.n + 1);
    size_t n = 0;
    for (size_t i = 0; i < source.n; i++) {
        if (source.p[i] == '\r' && i + 1 < source.n && source.p[i + 1] == '\n') continue;
        out[n++] = source.p[i] == '\r' ? '\n' : source.p[i];
    }
    if (n && out[n - 1] == '\n') n--;
    return (zb_str){out, n};
}

zb_status zb_jinja_parse(zb_str source, zb_arena *a, const zb_jinja_node **root, zb_err *err) {
    zb_str text = normal_lines(source, a);
    parser p = {.arena = a, .err = err};
    p.lex =
        (zb_jinja_lexer){.src = text.p, .n = text.n, .line_starting = true, .arena = a, .err = err};
    zb_jinja_node *block = NULL;
    ZB_TRY(parse_block(&p, NULL, &block));
    *root = block;
    return ZB_OK;
}
