/* rank.h - how well a document matches: the FTS5 function relevance(fts).
 *
 * Documents that spell a word as the query does come before those that have it with other accents
 * only; within these, those that have more of the rarer words, and in the title, come first. */
#ifndef RANK_H
#define RANK_H

#include <sqlite3.h>

#include "match.h"

enum { RANK_TITLE_WEIGHT = 4 /* a word in the title counts so often */ };

struct rank {
    const struct parse *parse;
    const struct match *match; /* what is being matched */

    /* The rest is rank.c's; zero it for another match. */
    int is_ready;
    double weight[PARSE_MAX_LEAVES]; /* the rarer, the heavier */
    double average_size;
};

/* Adds the function to a connection that `rank` outlives. The lower its value, the better. A SQLite
 * result code. */
int rank_register(sqlite3 *db, struct rank *rank);

#endif
