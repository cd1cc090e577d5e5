/* query_state.h - one search: what is asked, and what query.c and answer.c have found so far. */
#ifndef QUERY_STATE_H
#define QUERY_STATE_H

#include <sqlite3.h>
#include <stdatomic.h>
#include <stdint.h>

#include "rank.h"
#include "text.h"
#include "watch.h"

enum {
    QUERY_MAX_CHARS = 1000,
    QUERY_MAX_BYTES = 3 * QUERY_MAX_CHARS, /* as a browser counts characters, none has more */
    QUERY_MAX_RESULTS = 100,
    QUERY_MAX_MARK_BYTES = 16,
    QUERY_PATH_BYTES = 4096
};

struct query_hit {
    sqlite3_int64 id;
    double rank; /* the lower, the better */
};

struct query {
    /* In. */
    char path[QUERY_PATH_BYTES]; /* of the database */
    char text[QUERY_MAX_BYTES + 1];
    char open[QUERY_MAX_MARK_BYTES + 1], close[QUERY_MAX_MARK_BYTES + 1]; /* around a match */
    size_t offset, limit; /* which of the results; at most QUERY_MAX_RESULTS */
    int wants_bits;       /* "documentIdsBitSetBase64": all documents that were found */
    atomic_int *stop; /* nonzero when nobody waits for the answer any more; set also by the watch */
    int (*is_gone)(void *user); /* asked now and then, on another thread: whether it is so */
    void *user;
    struct watch *watch;

    /* Out. */
    int status;          /* 200, or that of the problem */
    const char *problem; /* lives as long as the query; NULL if there is none */
    struct text body;    /* JSON, if there is no problem */

    /* The rest is query.c's. */
    sqlite3 *db;
    struct watched watched;
    struct words *words;
    struct parse parse;
    struct match match;
    struct rank rank;
    int64_t begin_ms;
    int complete;
    struct query_hit *hits;
    size_t n_hits, capacity;
};

#endif
