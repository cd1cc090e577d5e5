/* parse.h - reads a query as people write it in Overview.
 *
 *     harbour budget          both words, anywhere
 *     "harbour budget"        as a phrase, in any quotes: “ ” „ « » 「 」 ‘ ’ '
 *     minist*                 how a word begins
 *     cat AND dog, and, OR, or, NOT, not, -cat, (...)
 *     title:minutes           in titles; text: not in titles
 *
 * AND and OR have the same rank, from left to right, as in Overview; words side by side belong
 * together more closely. Words that a script runs together, or that are joined by hyphens and such,
 * are a phrase. */
#ifndef PARSE_H
#define PARSE_H

#include <stddef.h>

#include "text.h"
#include "words.h"

enum { PARSE_MAX_LEAVES = 32, PARSE_MAX_TOKENS = 256, PARSE_MAX_NODES = 4 * PARSE_MAX_LEAVES };

enum parse_column { PARSE_ANYWHERE, PARSE_TITLE, PARSE_TEXT };

/* A piece of parse.arena. */
struct parse_piece {
    size_t at, len;
};

struct parse_token {
    struct parse_piece folded;
    struct parse_piece
        exact;         /* as it is in the index, folded form and mark included; len 0: none */
    int is_hyphenated; /* nothing but a hyphen is between it and the one before */
};

/* A word, a phrase, or how a word begins. */
struct parse_leaf {
    struct parse_piece shown; /* as it was written, of the query itself */
    enum parse_column column;
    int is_prefix;   /* the last token may go on */
    size_t first, n; /* of parse.tokens */
};

enum parse_kind { PARSE_LEAF, PARSE_AND, PARSE_OR, PARSE_NOT };

struct parse_node {
    enum parse_kind kind;
    int left, right; /* nodes; of a leaf `left` is its number, PARSE_NOT has no right */
};

struct parse {
    const char *query; /* borrowed */
    struct text arena;
    struct parse_token tokens[PARSE_MAX_TOKENS];
    struct parse_leaf leaves[PARSE_MAX_LEAVES];
    struct parse_node nodes[PARSE_MAX_NODES];
    size_t n_tokens, n_leaves, n_nodes;
    int root;          /* a node */
    char problem[256]; /* why it cannot be searched for, a sentence; "" if there is nothing wrong */
};

/* 0, or -1: see problem. Either way parse_dispose(). */
int parse_query(struct parse *parse, struct words *words, const char *query);
void parse_dispose(struct parse *parse);

#endif
