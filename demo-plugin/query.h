/* query.h - one search in the database that process-docset has made; knows no HTTP.
 *
 * A search has a bounded time: matches are ranked one by one until it is used up, and the answer
 * then says, by "complete": false, that it is the best of what was looked at. */
#ifndef QUERY_H
#define QUERY_H

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdint.h>

#include "text.h"

enum {
    QUERY_MAX_BYTES = 1000,
    QUERY_MAX_WORDS = 32,
    QUERY_MAX_RESULTS = 100,
    QUERY_MAX_MARK_BYTES = 16,
    QUERY_PATH_BYTES = 4096
};

struct query_hit {
    sqlite3_int64 id;
    double rank; /* bm25: the lower, the better */
};

struct query {
    /* In. */
    char path[QUERY_PATH_BYTES]; /* of the database */
    char words[QUERY_MAX_BYTES + 1];
    char open[QUERY_MAX_MARK_BYTES + 1], close[QUERY_MAX_MARK_BYTES + 1]; /* around a match */
    size_t limit;           /* at most QUERY_MAX_RESULTS */
    const atomic_int *stop; /* becomes nonzero when there is no time any more */

    /* Out. */
    int status;          /* 200, or that of the problem */
    const char *problem; /* static, NULL if there is none */
    struct text body;    /* JSON, if there is no problem */

    /* The rest is query.c's. */
    sqlite3 *db;
    char *match; /* the words as FTS5 wants them */
    int64_t deadline_ms;
    size_t n_hits, total;
    int complete;
    struct query_hit hits[QUERY_MAX_RESULTS]; /* ascending by rank */
};

/* Does it. Takes two or three seconds at worst, so not on an event loop. */
void query_run(struct query *query);

void query_dispose(struct query *query);

#endif
