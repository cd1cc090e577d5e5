/* match.h - a parsed query as an expression of FTS5.
 *
 * FTS5 knows no NOT without something before it, so the expression is of documents that match, or
 * of those that do not: `cat OR NOT dog` is all but `dog NOT cat`.
 *
 * Each leaf becomes one or more of FTS5's phrases, which tell how it matched: */
#ifndef MATCH_H
#define MATCH_H

#include "parse.h"

enum match_role {
    MATCH_ANY,     /* as the words fold: decides which documents match */
    MATCH_EXACT,   /* as the query spells it */
    MATCH_ACCENTED /* spelt otherwise than the query, which has no accents */
};

enum { MATCH_MAX_PHRASES = 256 };

struct match {
    struct text expression; /* NUL-terminated */
    int is_complement;      /* what does not match is wanted */
    struct {
        unsigned char leaf, role;
    } phrases[MATCH_MAX_PHRASES];
    size_t n_phrases;
    int too_long;
};

/* Writes the expression of a whole query. */
void match_write(struct match *match, const struct parse *parse);

/* Writes the expression of one leaf. */
void match_write_leaf(struct match *match, const struct parse *parse, size_t leaf);

void match_dispose(struct match *match);

#endif
