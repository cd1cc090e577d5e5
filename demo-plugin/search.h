/* search.h - GET /search?server=...&documentSetId=...&q=... [&limit=20] [&open=%5B] [&close=%5D]
 *
 * The token by Authorization. JSON: {"query", "total", "complete", "results": [{"id", "title",
 * "url", "snippet", "rank"}]}, the best first, a match in a snippet between `open` and `close`. All
 * words must be there; "a phrase" and begin* are understood. */
#ifndef SEARCH_H
#define SEARCH_H

#include "plugin.h"

#define SEARCH_PATH "/search"

struct search;

/* Starts its threads; NULL: there is no room for them. */
struct search *search_open(struct plugin *plugin);

/* Adds the route. */
void search_route(struct search *search, h2o_hostconf_t *host);

/* Ends the searches that wait or run, so that their answers can leave before the server stops. */
void search_stop(struct search *search);

/* After the server has stopped. NULL is allowed. */
void search_close(struct search *search);

#endif
