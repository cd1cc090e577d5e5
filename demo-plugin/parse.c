/* parse.c - a parser by recursive descent; each of its functions reads from parse->at on. */
#include "parse.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

enum { MAX_DEPTH = 32, NO_NODE = -1, MAX_FIELD_BYTES = 32 };

struct parser {
    struct parse *parse;
    struct words *words;
    const char *query;
    size_t at, len;
    int depth;
    struct parse_leaf *leaf;     /* to which the tokens go that are found */
    struct parse_piece compound; /* the dictionary word that the leaf begins with; len 0: none */
    size_t compound_end;
    int has_more;    /* the leaf goes on behind it */
    size_t last_end; /* of the last token, in the leaf */
};

static int __attribute__((format(printf, 2, 3)))
complain(struct parser *parser, const char *format, ...)
{
    va_list args;
    if (parser->parse->problem[0] != '\0')
        return NO_NODE;
    va_start(args, format);
    vsnprintf(parser->parse->problem, sizeof parser->parse->problem, format, args);
    va_end(args);
    return NO_NODE;
}

/* ---- characters ---- */

/* The character at `at`, 0 at the end; *size is its length. */
static UChar32 char_at(const struct parser *parser, size_t at, size_t *size)
{
    const uint8_t *text = (const uint8_t *)parser->query + at;
    int32_t used = 0, n = parser->len - at > 4 ? 4 : (int32_t)(parser->len - at);
    UChar32 c = 0;
    if (n > 0)
        U8_NEXT(text, used, n, c);
    *size = (size_t)used;
    return c;
}

static UChar32 char_before(const struct parser *parser, size_t at)
{
    size_t size;
    if (at == 0)
        return 0;
    do
        at--;
    while (at > 0 && ((unsigned char)parser->query[at] & 0xc0) == 0x80);
    return char_at(parser, at, &size);
}

static int is_space(UChar32 c)
{
    return c == 0 || u_isUWhiteSpace(c);
}

static int is_double_quote(UChar32 c)
{
    return c == '"' || (c >= 0x201c && c <= 0x201f) || c == 0xab || c == 0xbb ||
           (c >= 0x300a && c <= 0x300f) || (c >= 0x301d && c <= 0x301f) || c == 0xff02;
}

static int is_single_quote(UChar32 c)
{
    return c == '\'' || (c >= 0x2018 && c <= 0x201b) || c == 0x2039 || c == 0x203a;
}

/* The quotation mark of Hebrew acronyms stands between letters: צה"ל. */
static int is_inside_hebrew(const struct parser *parser, size_t at, size_t size)
{
    UChar32 before = char_before(parser, at), after = char_at(parser, at + size, &size);
    return before >= 0x5d0 && before <= 0x5ea && after >= 0x5d0 && after <= 0x5ea;
}

/* What telephones and word processors make of a hyphen counts as one. */
static int is_minus(UChar32 c)
{
    return c == '-' || c == 0x2212 || c == 0x2010 || c == 0x2013;
}

static void skip_space(struct parser *parser)
{
    size_t size;
    while (parser->at < parser->len && is_space(char_at(parser, parser->at, &size)))
        parser->at += size;
}

/* ---- words ---- */

static int is_hyphen(const struct parser *parser, size_t at, size_t end)
{
    size_t size;
    UChar32 c = char_at(parser, at, &size);
    return (c == '-' || c == 0x2010 || c == 0x2011) && at + size == end;
}

static struct parse_piece keep_token(struct parser *parser, const char *token, size_t len)
{
    struct parse_piece piece = {parser->parse->arena.len, len};
    text_add(&parser->parse->arena, token, len);
    return piece;
}

static int on_token(void *user, enum words_kind kind, const char *token, size_t len, size_t start,
                    size_t end)
{
    struct parser *parser = user;
    struct parse *parse = parser->parse;
    struct parse_leaf *leaf = parser->leaf;
    if (kind == WORDS_COMPOUND && leaf->n == 1) {
        parser->compound = keep_token(parser, token, len);
        parser->compound_end = end;
    } else if (kind == WORDS_EXACT && parse->tokens[parse->n_tokens - 1].exact.len == 0) {
        parse->tokens[parse->n_tokens - 1].exact = keep_token(parser, token, len);
    }
    if (kind != WORDS_MAIN)
        return 0;
    if (parse->n_tokens == PARSE_MAX_TOKENS)
        return 1;
    parser->has_more |= start >= parser->compound_end;
    parse->tokens[parse->n_tokens++] = (struct parse_token){
        .folded = keep_token(parser, token, len),
        .is_hyphenated = leaf->n > 0 && is_hyphen(parser, leaf->shown.at + parser->last_end,
                                                  leaf->shown.at + start)};
    parser->last_end = end;
    leaf->n++;
    return 0;
}

/* A word of Chinese or Japanese that is all of the leaf is looked for as a word, or 京都 would be
 * found in 東京都; more words are, character by character, a phrase. */
static void prefer_compound(struct parser *parser)
{
    struct parse_leaf *leaf = parser->leaf;
    if (parser->compound.len == 0 || parser->has_more)
        return;
    parser->parse->n_tokens = leaf->first + 1;
    parser->parse->tokens[leaf->first] = (struct parse_token){.folded = parser->compound};
    leaf->n = 1;
}

/* Makes a leaf of query bytes. NO_NODE if there is no word in it. */
static int add_leaf(struct parser *parser, size_t start, size_t end, enum parse_column column,
                    int is_prefix)
{
    struct parse *parse = parser->parse;
    const char *text = parser->query + start;
    if (parse->n_leaves == PARSE_MAX_LEAVES)
        return complain(parser, "More than %d words cannot be searched for at a time.",
                        PARSE_MAX_LEAVES);
    struct parse_leaf *leaf = &parse->leaves[parse->n_leaves];
    *leaf = (struct parse_leaf){{start, end - start}, column, is_prefix, parse->n_tokens, 0};
    parser->leaf = leaf;
    parser->compound = (struct parse_piece){0, 0};
    parser->compound_end = SIZE_MAX;
    parser->has_more = 0;
    if (words_scan(parser->words, text, end - start, on_token, parser) != 0)
        return complain(parser, "A query of more than %d words is too long.", PARSE_MAX_TOKENS);
    if (leaf->n == 0)
        return NO_NODE;
    prefer_compound(parser);
    parse->nodes[parse->n_nodes] = (struct parse_node){PARSE_LEAF, (int)parse->n_leaves++, NO_NODE};
    return (int)parse->n_nodes++;
}

/* ---- the grammar ---- */

static int join_nodes(struct parser *parser, enum parse_kind kind, int left, int right)
{
    struct parse *parse = parser->parse;
    if (left == NO_NODE || (right == NO_NODE && kind != PARSE_NOT))
        return left == NO_NODE ? right : left;
    if (parse->n_nodes == PARSE_MAX_NODES)
        return complain(parser, "This query has too many parts.");
    parse->nodes[parse->n_nodes] = (struct parse_node){kind, left, right};
    return (int)parse->n_nodes++;
}

/* The bare word at hand ends at a space, a parenthesis or a quote. */
static size_t word_end(const struct parser *parser, size_t at)
{
    size_t size;
    for (; at < parser->len; at += size) {
        UChar32 c = char_at(parser, at, &size);
        if (is_space(c) || c == '(' || c == ')' ||
            (is_double_quote(c) && !is_inside_hebrew(parser, at, size)))
            break;
    }
    return at;
}

/* Whether the operator `name` is next, and if so goes behind it. */
static int take_operator(struct parser *parser, const char *upper, const char *lower)
{
    skip_space(parser);
    size_t end = word_end(parser, parser->at), len = end - parser->at;
    const char *word = parser->query + parser->at;
    if (len != strlen(upper) || (memcmp(word, upper, len) != 0 && memcmp(word, lower, len) != 0))
        return 0;
    parser->at = end;
    return 1;
}

static int peek_operator(struct parser *parser)
{
    size_t at = parser->at;
    int found = take_operator(parser, "AND", "and") || take_operator(parser, "OR", "or");
    parser->at = at;
    return found;
}

/* Where the closing quote of the one that begins at `at` is; the length if there is none. */
static size_t closing_quote(const struct parser *parser, size_t at, int single)
{
    size_t size, after;
    for (; at < parser->len; at += size) {
        UChar32 c = char_at(parser, at, &size);
        if (c == '\\' && at + 1 < parser->len)
            size++;
        else if (!single && is_double_quote(c))
            break;
        else if (single && is_single_quote(c)) {
            UChar32 next = char_at(parser, at + size, &after);
            if (is_space(next) || next == ')' || next == '*' || next == '~')
                break;
        }
    }
    return at;
}

/* After a word: ~ asks for similar words in Overview, which an index of whole words does not give.
 */
static int refuse_similar(struct parser *parser)
{
    return complain(parser, "Similar or nearby words (~) cannot be searched for here. How a word "
                            "begins can: minist*");
}

static int parse_quoted(struct parser *parser, enum parse_column column, int single)
{
    size_t size, start;
    char_at(parser, parser->at, &size);
    start = parser->at + size;
    size_t end = closing_quote(parser, start, single);
    char_at(parser, end, &size);
    parser->at = end + size;
    int is_prefix = parser->at < parser->len && parser->query[parser->at] == '*';
    parser->at += (size_t)is_prefix;
    if (parser->at < parser->len && parser->query[parser->at] == '~')
        return refuse_similar(parser);
    return add_leaf(parser, start, end, column, is_prefix);
}

static int parse_bare(struct parser *parser, enum parse_column column)
{
    size_t start = parser->at, end = word_end(parser, start), len = end - start;
    const char *word = parser->query + start;
    parser->at = end;
    size_t tail = len;
    while (tail > 0 && word[tail - 1] >= '0' && word[tail - 1] <= '9')
        tail--;
    if (tail > 1 && word[tail - 1] == '~')
        return refuse_similar(parser);
    if (len > 2 && word[0] == '/' && word[len - 1] == '/')
        return complain(parser, "Patterns between slashes cannot be searched for here.");
    const char *star = memchr(word, '*', len);
    if (star != NULL && len > 1 && star != word + len - 1)
        return complain(parser, "A star can only stand at a word's end: minist* finds ministry and "
                                "ministers.");
    return add_leaf(parser, start, end - (star != NULL), column, star != NULL && len > 1);
}

/* Takes "title:" or "text:". Another name before a colon may be a field of Overview's; times,
 * addresses and the like are none. -1: there is a problem. */
static int take_field(struct parser *parser, enum parse_column *column)
{
    const char *name = parser->query + parser->at;
    size_t len = 0, size;
    while (len < MAX_FIELD_BYTES && ((name[len] >= 'a' && name[len] <= 'z') ||
                                     (name[len] >= 'A' && name[len] <= 'Z') || name[len] == '_'))
        len++;
    if (len == 0 || name[len] != ':')
        return 0;
    UChar32 next = char_at(parser, parser->at + len + 1, &size);
    if (is_space(next) || next == '/' || next == ':')
        return 0;
    if (len == 5 && strncasecmp(name, "title", len) == 0)
        *column = PARSE_TITLE;
    else if (len == 4 && strncasecmp(name, "text", len) == 0)
        *column = PARSE_TEXT;
    else
        return complain(parser,
                        "There is no field %.*s here, only title: and text:. In quotes it is "
                        "searched for as words.",
                        (int)len, name);
    parser->at += len + 1;
    return 0;
}

static int parse_expression(struct parser *parser, enum parse_column column);

static int parse_group(struct parser *parser, enum parse_column column)
{
    parser->at++;
    if (++parser->depth > MAX_DEPTH)
        return complain(parser, "There are too many parentheses in each other.");
    int node = parse_expression(parser, column);
    skip_space(parser);
    if (parser->at < parser->len)
        parser->at++; /* its closing parenthesis */
    parser->depth--;
    return node;
}

/* A word, a phrase, a group, and what is to be left out. */
static int parse_unit(struct parser *parser, enum parse_column column)
{
    size_t size, after;
    skip_space(parser);
    UChar32 c = char_at(parser, parser->at, &size);
    int is_not = take_operator(parser, "NOT", "not");
    if (is_not || (is_minus(c) && !is_space(char_at(parser, parser->at + size, &after)))) {
        parser->at += is_not ? 0 : size;
        if (++parser->depth > MAX_DEPTH)
            return complain(parser, "There are too many signs in a row.");
        int node = parse_unit(parser, column);
        parser->depth--;
        if (node == NO_NODE && is_not)
            return complain(parser, "After NOT a word is missing.");
        return join_nodes(parser, PARSE_NOT, node, NO_NODE);
    }
    if (take_field(parser, &column) != 0)
        return NO_NODE;
    c = char_at(parser, parser->at, &size);
    if (c == '(')
        return parse_group(parser, column);
    if (is_double_quote(c))
        return parse_quoted(parser, column, 0);
    if (is_single_quote(c) && closing_quote(parser, parser->at + size, 1) < parser->len)
        return parse_quoted(parser, column, 1);
    return parse_bare(parser, column);
}

static int is_at_end(struct parser *parser)
{
    skip_space(parser);
    return parser->at >= parser->len || parser->parse->problem[0] != '\0' ||
           (parser->query[parser->at] == ')' && parser->depth > 0);
}

/* Units side by side. */
static int parse_units(struct parser *parser, enum parse_column column)
{
    int node = NO_NODE;
    while (!is_at_end(parser) && !peek_operator(parser)) {
        if (parser->query[parser->at] == ')') { /* of nothing */
            parser->at++;
            continue;
        }
        node = join_nodes(parser, PARSE_AND, node, parse_unit(parser, column));
    }
    return node;
}

static int parse_expression(struct parser *parser, enum parse_column column)
{
    int node = parse_units(parser, column);
    while (!is_at_end(parser)) {
        int is_and = take_operator(parser, "AND", "and");
        if (!is_and)
            take_operator(parser, "OR", "or");
        const char *name = is_and ? "AND" : "OR";
        if (node == NO_NODE)
            return complain(parser, "Before %s a word is missing.", name);
        int right = parse_units(parser, column);
        if (right == NO_NODE)
            return complain(parser, "After %s a word is missing.", name);
        node = join_nodes(parser, is_and ? PARSE_AND : PARSE_OR, node, right);
    }
    return node;
}

int parse_query(struct parse *parse, struct words *words, const char *query)
{
    struct parser parser = {.parse = parse, .words = words, .query = query, .len = strlen(query)};
    memset(parse, 0, sizeof *parse);
    parse->query = query;
    parse->root = parse_expression(&parser, PARSE_ANYWHERE);
    if (parse->root == NO_NODE)
        complain(&parser, "There is no word in it that could be searched for.");
    if (parse->arena.failed)
        complain(&parser, "There is no memory for a search.");
    return parse->problem[0] == '\0' ? 0 : -1;
}

void parse_dispose(struct parse *parse)
{
    text_dispose(&parse->arena);
}
