/* chat_template_lex.c - template text into text and tokens (contract in chat_template_impl.h).
 *
 * White space follows Jinja with trim_blocks and lstrip_blocks on, as chat templates are written
 * for: the first newline behind a block tag or comment vanishes; blanks between the start of a line
 * and a block tag or comment vanish; a minus sign at either end of any tag eats all white space on
 * that side, a plus sign keeps what would vanish. Before all this, line ends become \n and one at
 * the very end of the template is dropped (zb_jinja_parse does that). */
#include "format/chat_template_impl.h"

#include <string.h>

int zb_jinja_line(zb_jinja_lexer *l) {
    for (; l->counted < l->at && l->counted < l->n; l->counted++)
        l->newlines += l->src[l->counted] == '\n';
    return l->newlines + 1;
}

static zb_status lex_fail(zb_jinja_lexer *l, const char *what) {
    return zb_fail(l->err, ZB_ERR_FORMAT, "chat template:%d: %s", zb_jinja_line(l), what);
}

/* Bytes of the white-space character at the start, or at the end, of s; 0 if there is none. */
static size_t space_at(zb_str s) {
    uint32_t cp = 0;
    size_t len = zb_utf8_decode(s.p, s.n, &cp);
    return len && zb_jinja_space(cp) ? len : 0;
}

static size_t space_before(zb_str s) {
    size_t len = 1;
    while (len < s.n && len < 4 && ((unsigned char)s.p[s.n - len] & 0xC0) == 0x80) len++;
    return s.n ? space_at((zb_str){s.p + s.n - len, len}) : 0;
}

static void skip_space(zb_jinja_lexer *l) {
    size_t len;
    while ((len = space_at((zb_str){l->src + l->at, l->n - l->at}))) l->at += len;
}

/* Behind the end of a tag: what its sign and its kind swallow. */
static void leave_tag(zb_jinja_lexer *l, char sign, bool block) {
    size_t start = l->at;
    if (sign == '-') skip_space(l);
    if (sign == 0 && block && l->at < l->n && l->src[l->at] == '\n') l->at++;
    l->line_starting = l->at > start && l->src[l->at - 1] == '\n';
}

/* Text before a tag at src[end]: cut at the right as the tag asks for. */
static zb_str text_before(const zb_jinja_lexer *l, size_t end, char sign, bool block) {
    zb_str text = {l->src + l->at, end - l->at}, line;
    size_t len;
    if (sign == '-') {
        while ((len = space_before(text))) text.n -= len;
        return text;
    }
    if (!block || sign == '+') return text;
    for (line = text; (len = space_before(line)) && line.p[line.n - 1] != '\n';) line.n -= len;
    bool at_line_start = line.n ? line.p[line.n - 1] == '\n' : l->line_starting;
    return at_line_start ? line : text;
}

static zb_status skip_comment(zb_jinja_lexer *l) {
    const char *end = memmem(l->src + l->at, l->n - l->at, "#}", 2);
    if (!end) return lex_fail(l, "a comment {# has no end");
    size_t stop = (size_t)(end - l->src);
    char sign = stop > l->at && (end[-1] == '-' || end[-1] == '+') ? end[-1] : 0;
    l->at = stop + 2;
    leave_tag(l, sign, true);
    return ZB_OK;
}

/* Appends to a text that comments and raw parts may cut into several parts. */
static void join(zb_jinja_lexer *l, zb_str *text, zb_str more) {
    if (!more.n) return;
    if (!text->n) {
        *text = more;
        return;
    }
    char *both = zb_alloc(l->arena, text->n + more.n);
    memcpy(both, text->p, text->n);
    memcpy(both + text->n, more.p, more.n);
    *text = (zb_str){both, text->n + more.n};
}

/* One tag that holds nothing but a word, its sign in front already read, at s[i]: "raw %}", or
 * "endraw -%}". Returns the place behind it, or 0; *sign is the one at its end. */
static size_t word_tag(const zb_jinja_lexer *l, size_t i, const char *word, char *sign) {
    size_t len, n = strlen(word);
    zb_str s = {l->src, l->n};
    while (i < s.n && (len = space_at((zb_str){s.p + i, s.n - i}))) i += len;
    if (s.n - i < n || memcmp(s.p + i, word, n) != 0) return 0;
    for (i += n; i < s.n && (len = space_at((zb_str){s.p + i, s.n - i}));) i += len;
    *sign = i < s.n && (s.p[i] == '-' || s.p[i] == '+') ? s.p[i] : 0;
    i += *sign != 0;
    return s.n - i >= 2 && s.p[i] == '%' && s.p[i + 1] == '}' ? i + 2 : 0;
}

static char sign_at(const zb_jinja_lexer *l, size_t i) {
    return i < l->n && (l->src[i] == '-' || l->src[i] == '+') ? l->src[i] : 0;
}

/* Behind "{% raw %}", which ends at `start` with `sign`: text to "{% endraw %}", whatever it is. */
static zb_status lex_raw(zb_jinja_lexer *l, size_t start, char sign, zb_str *text) {
    l->at = start;
    leave_tag(l, sign, false);
    for (size_t i = l->at; i + 1 < l->n; i++) {
        if (l->src[i] != '{' || l->src[i + 1] != '%') continue;
        char before = sign_at(l, i + 2), after = 0;
        size_t end = word_tag(l, i + 2 + (before != 0), "endraw", &after);
        if (!end) continue;
        join(l, text, text_before(l, i, before, true));
        l->at = end;
        leave_tag(l, after, true);
        return ZB_OK;
    }
    return lex_fail(l, "a block has no end: expected {% endraw %}");
}

zb_status zb_jinja_lex_text(zb_jinja_lexer *l, zb_str *text) {
    *text = (zb_str){l->src + l->at, 0};
    for (size_t i = l->at; i + 1 < l->n; i++) {
        char kind = l->src[i + 1];
        if (l->src[i] != '{' || (kind != '{' && kind != '%' && kind != '#')) continue;
        char sign = sign_at(l, i + 2), after = 0;
        join(l, text, text_before(l, i, sign, kind != '{'));
        l->at = i + 2 + (sign != 0);
        l->line_starting = false;
        size_t raw = kind == '%' ? word_tag(l, l->at, "raw", &after) : 0;
        if (raw && after != '+') { /* Jinja knows no plus sign here */
            ZB_TRY(lex_raw(l, raw, after, text));
        } else if (kind == '#') {
            ZB_TRY(skip_comment(l));
        } else {
            l->tag = kind;
            l->brackets = 0;
            return ZB_OK;
        }
        i = l->at - 1;
    }
    join(l, text, (zb_str){l->src + l->at, l->n - l->at});
    l->at = l->n;
    l->tag = 0;
    return ZB_OK;
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Behind a backslash at s[i]: one of Python's escapes; returns bytes read, writes to out. */
static size_t unescape(const char *s, size_t n, char *out, size_t *len) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *known = n && s[0] ? strchr(from, s[0]) : NULL;
    *len = 1;
    if (known) {
        out[0] = to[known - from];
        return 1;
    }
    size_t digits = n && s[0] == 'x' ? 2 : n && s[0] == 'u' ? 4 : n && s[0] == 'U' ? 8 : 0;
    uint32_t cp = 0;
    bool valid = digits && digits < n;
    for (size_t k = 1; valid && k <= digits; k++) {
        valid = hex_value(s[k]) >= 0;
        cp = cp << 4 | (uint32_t)(hex_value(s[k]) & 15);
    }
    if (valid && cp && cp <= 0x10FFFF && !(cp >= 0xD800 && cp <= 0xDFFF)) {
        *len = zb_utf8_encode(cp, out);
        return 1 + digits;
    }
    out[0] = '\\'; /* an unknown escape stays as it is */
    return 0;
}

static zb_status lex_string(zb_jinja_lexer *l, zb_jinja_token *token) {
    char quote = l->src[l->at];
    size_t start = l->at + 1, end = start;
    while (end < l->n && l->src[end] != quote) end += l->src[end] == '\\' ? 2 : 1;
    if (end >= l->n) return lex_fail(l, "a string has no end");
    char *out = zb_alloc(l->arena, end - start + 1);
    size_t n = 0;
    for (size_t i = start; i < end;) {
        if (l->src[i] != '\\') {
            out[n++] = l->src[i++];
            continue;
        }
        size_t len; /* an escape never writes more bytes than it takes */
        char text[4];
        i += 1 + unescape(l->src + i + 1, end - i - 1, text, &len);
        memcpy(out + n, text, len);
        n += len;
    }
    token->kind = ZB_TOKEN_STRING;
    token->text = (zb_str){out, n};
    l->at = end + 1;
    return ZB_OK;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_name_start(char c) { return c == '_' || ((c | 32) >= 'a' && (c | 32) <= 'z'); }

static zb_status lex_number(zb_jinja_lexer *l, zb_jinja_token *token) {
    size_t start = l->at;
    bool real = false;
    while (l->at < l->n && is_digit(l->src[l->at])) l->at++;
    if (l->at + 1 < l->n && l->src[l->at] == '.' && is_digit(l->src[l->at + 1])) {
        real = true;
        for (l->at++; l->at < l->n && is_digit(l->src[l->at]);) l->at++;
    }
    size_t power = l->at + 1; /* behind "e", and its sign */
    if (power < l->n && (l->src[power] == '+' || l->src[power] == '-')) power++;
    if (l->at < l->n && (l->src[l->at] | 32) == 'e' && power < l->n && is_digit(l->src[power])) {
        real = true;
        for (l->at = power; l->at < l->n && is_digit(l->src[l->at]);) l->at++;
    }
    char text[40];
    if (l->at - start >= sizeof text || (l->at < l->n && (is_name_start(l->src[l->at]))))
        return lex_fail(l, "expected a number in decimal digits");
    memcpy(text, l->src + start, l->at - start);
    text[l->at - start] = 0;
    token->kind = ZB_TOKEN_NUMBER;
    token->text = (zb_str){l->src + start, l->at - start};
    token->number.type = real ? ZB_JINJA_FLOAT : ZB_JINJA_INT;
    bool valid = real ? zb_parse_f64(text, &token->number.f) : zb_parse_i64(text, &token->number.i);
    return valid ? ZB_OK : lex_fail(l, "a number is too large");
}

/* At the end of the tag? Moves behind it. */
static bool lex_end(zb_jinja_lexer *l) {
    const char *p = l->src + l->at;
    size_t left = l->n - l->at;
    char close = l->tag == '%' ? '%' : '}';
    if (l->brackets) return false;
    char sign =
        left >= 3 && (p[0] == '-' || (p[0] == '+' && l->tag == '%')) && p[1] == close && p[2] == '}'
            ? p[0]
            : 0;
    if (!sign && !(left >= 2 && p[0] == close && p[1] == '}')) return false;
    l->at += sign ? 3 : 2;
    leave_tag(l, sign, l->tag == '%');
    l->tag = 0;
    return true;
}

static zb_status lex_operator(zb_jinja_lexer *l, zb_jinja_token *token) {
    static const char *const two[] = {"==", "!=", "<=", ">=", "//", "**"};
    const char *p = l->src + l->at;
    size_t n = 0;
    for (size_t i = 0; i < sizeof two / sizeof *two && l->n - l->at >= 2; i++)
        if (p[0] == two[i][0] && p[1] == two[i][1]) n = 2;
    if (!n && *p && strchr("+-*/%~<>=.,:|()[]{}", *p)) n = 1;
    if (!n)
        return lex_fail(l, "expected an expression, found a character that cannot be part of one");
    if (strchr("([{", *p)) l->brackets++;
    if (strchr(")]}", *p) && l->brackets > 0) l->brackets--;
    token->kind = ZB_TOKEN_OPERATOR;
    token->text = (zb_str){p, n};
    l->at += n;
    return ZB_OK;
}

zb_status zb_jinja_lex_token(zb_jinja_lexer *l, zb_jinja_token *token) {
    *token = (zb_jinja_token){0};
    skip_space(l);
    if (lex_end(l)) return ZB_OK;
    if (l->at >= l->n)
        return lex_fail(l, l->tag == '%' ? "a tag {% has no end" : "a tag {{ has no end");
    char c = l->src[l->at];
    if (c == '\'' || c == '"') return lex_string(l, token);
    if (is_digit(c)) return lex_number(l, token);
    if (!is_name_start(c)) return lex_operator(l, token);
    size_t start = l->at;
    while (l->at < l->n && (is_name_start(l->src[l->at]) || is_digit(l->src[l->at]))) l->at++;
    token->kind = ZB_TOKEN_NAME;
    token->text = (zb_str){l->src + start, l->at - start};
    return ZB_OK;
}
