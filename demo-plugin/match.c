/* match.c - writes FTS5 expressions, see match.h. */
#include "match.h"

#include <string.h>

static const char *piece_text(const struct parse *parse, struct parse_piece piece)
{
    return parse->arena.data + piece.at;
}

static void add(struct match *match, const char *text)
{
    text_add(&match->expression, text, strlen(text));
}

static int begin_phrase(struct match *match, size_t leaf, enum match_role role)
{
    if (match->n_phrases == MATCH_MAX_PHRASES) {
        match->too_long = 1;
        return -1;
    }
    match->phrases[match->n_phrases].leaf = (unsigned char)leaf;
    match->phrases[match->n_phrases].role = (unsigned char)role;
    if (match->n_phrases++ > 0 && match->expression.data[match->expression.len - 1] != '(')
        add(match, " OR ");
    return 0;
}

/* The tokens of a leaf as a phrase. If it is `joined`, those with a hyphen between them as one. */
static void add_phrase(struct match *match, const struct parse *parse, size_t number,
                       enum match_role role, int joined)
{
    const struct parse_leaf *leaf = &parse->leaves[number];
    const char mark = WORDS_EXACT_MARK;
    if (begin_phrase(match, number, role) != 0)
        return;
    for (size_t i = 0; i < leaf->n; i++) {
        const struct parse_token *token = &parse->tokens[leaf->first + i];
        struct parse_piece piece =
            role == MATCH_EXACT && token->exact.len > 0 ? token->exact : token->folded;
        if (!joined || !token->is_hyphenated) {
            add(match, i == 0 ? "\"" : "\" + \"");
            text_add(&match->expression, &mark, 1);
        }
        text_add(&match->expression, piece_text(parse, piece), piece.len);
    }
    add(match, leaf->is_prefix ? "\" *" : "\"");
}

/* All spellings of a word with other accents than the query's, which has none. */
static void add_accented(struct match *match, const struct parse *parse, size_t number)
{
    const struct parse_token *token = &parse->tokens[parse->leaves[number].first];
    const char mark = WORDS_EXACT_MARK;
    if (begin_phrase(match, number, MATCH_ACCENTED) != 0)
        return;
    add(match, "\"");
    text_add(&match->expression, &mark, 1);
    text_add(&match->expression, piece_text(parse, token->folded), token->folded.len);
    text_add(&match->expression, &mark, 1);
    add(match, "\" *");
}

static int has_exact(const struct parse *parse, const struct parse_leaf *leaf)
{
    for (size_t i = 0; i < leaf->n; i++)
        if (parse->tokens[leaf->first + i].exact.len > 0)
            return 1;
    return 0;
}

static int has_hyphen(const struct parse *parse, const struct parse_leaf *leaf)
{
    for (size_t i = 0; i < leaf->n; i++)
        if (parse->tokens[leaf->first + i].is_hyphenated)
            return 1;
    return 0;
}

static void add_leaf(struct match *match, const struct parse *parse, size_t number)
{
    const struct parse_leaf *leaf = &parse->leaves[number];
    add(match, leaf->column == PARSE_TITLE  ? "{title} : ("
               : leaf->column == PARSE_TEXT ? "{text} : ("
                                            : "(");
    add_phrase(match, parse, number, MATCH_ANY, 0);
    if (has_hyphen(parse, leaf)) /* a line may end there */
        add_phrase(match, parse, number, MATCH_ANY, 1);
    if (has_exact(parse, leaf))
        add_phrase(match, parse, number, MATCH_EXACT, 0);
    else if (leaf->n == 1 && !leaf->is_prefix)
        add_accented(match, parse, number);
    add(match, ")");
}

static int add_node(struct match *match, const struct parse *parse, int number);

/* (left operator right), the other way round if `swapped`. */
static void add_both(struct match *match, const struct parse *parse, const struct parse_node *node,
                     const char *operator, int swapped)
{
    add(match, "(");
    add_node(match, parse, swapped ? node->right : node->left);
    add(match, operator);
    add_node(match, parse, swapped ? node->left : node->right);
    add(match, ")");
}

/* Whether the node is written as what does not match. */
static int is_complement(const struct parse *parse, int number)
{
    const struct parse_node *node = &parse->nodes[number];
    switch (node->kind) {
    case PARSE_LEAF:
        return 0;
    case PARSE_NOT:
        return !is_complement(parse, node->left);
    case PARSE_AND:
        return is_complement(parse, node->left) && is_complement(parse, node->right);
    default:
        return is_complement(parse, node->left) || is_complement(parse, node->right);
    }
}

/* Returns what is_complement() does. */
static int add_node(struct match *match, const struct parse *parse, int number)
{
    const struct parse_node *node = &parse->nodes[number];
    if (node->kind == PARSE_LEAF) {
        add_leaf(match, parse, (size_t)node->left);
        return 0;
    }
    if (node->kind == PARSE_NOT)
        return !add_node(match, parse, node->left);
    int left = is_complement(parse, node->left), right = is_complement(parse, node->right);
    if (left == right) /* not a and not b: all but a or b */
        add_both(match, parse, node, (node->kind == PARSE_AND) == !left ? " AND " : " OR ", 0);
    else /* a and not b; a or not b: all but b without a */
        add_both(match, parse, node, " NOT ", node->kind == PARSE_AND ? left : right == 1);
    return is_complement(parse, number);
}

void match_write(struct match *match, const struct parse *parse)
{
    memset(match, 0, sizeof *match);
    match->is_complement = add_node(match, parse, parse->root);
    text_add(&match->expression, "", 1);
}

void match_write_leaf(struct match *match, const struct parse *parse, size_t leaf)
{
    memset(match, 0, sizeof *match);
    add_leaf(match, parse, leaf);
    text_add(&match->expression, "", 1);
}

void match_dispose(struct match *match)
{
    text_dispose(&match->expression);
}
