/* look.h - looks for the leaves of a query in a text itself, without an index. */
#ifndef LOOK_H
#define LOOK_H

#include <stdint.h>

#include "parse.h"

enum {
    LOOK_MAX_HITS = 512,     /* that are kept, */
    LOOK_HITS_PER_LEAF = 64, /* and of these of one leaf */
    LOOK_PHRASE_TOKENS = 64  /* longer phrases are not found */
};

struct look_span {
    size_t start, end; /* bytes of the text */
};

struct look_hit {
    struct look_span span;
    int leaf;
};

/* A phrase is followed by a set of bits: bit i is set if its tokens 0 to i are the last i + 1
 * positions of the text. */
struct look {
    const struct parse *parse;
    unsigned char wanted[PARSE_MAX_LEAVES];     /* this leaf is looked for */
    size_t n_of_leaf[PARSE_MAX_LEAVES], n_hits; /* found in the last text */
    struct look_hit hits[LOOK_MAX_HITS];

    /* The rest is look.c's. */
    unsigned char first_bytes[256];
    uint64_t so_far[PARSE_MAX_LEAVES]; /* up to the position before the last */
    uint64_t here[PARSE_MAX_LEAVES];   /* which tokens of it the last position is */
    struct look_span spans[PARSE_MAX_LEAVES][LOOK_PHRASE_TOKENS]; /* of the last positions */
    size_t position; /* the last one's number, from 1 on */
    int keeps_hits;
    int64_t deadline_ms;
};

/* Prepares for looking, for leaf i if wanted[i]. */
void look_begin(struct look *look, const struct parse *parse, const unsigned char *wanted);

/* Looks through a text, at most until `deadline_ms` (CLOCK_MONOTONIC); with `keeps_hits` also until
 * there is no room for more. 0, or -1: it was late. */
int look_through(struct look *look, struct words *words, const char *text, size_t len,
                 int keeps_hits, int64_t deadline_ms);

#endif
