/* query.h - one search in the database that process-docset has made; knows no HTTP.
 *
 * A search has a bounded time. If it is used up, the answer says so by "complete": false: "total"
 * is then a number of documents that match at least, and the results are the best of these. */
#ifndef QUERY_H
#define QUERY_H

#include "query_state.h"

/* Does it, in less than two seconds whatever is asked; not on an event loop. */
void query_run(struct query *query);

void query_dispose(struct query *query);

#endif
