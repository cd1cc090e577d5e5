/* search.h - GET /search?server=...&documentSetId=...&q=... [&offset=0] [&limit=20] [&open=%5B]
 * [&close=%5D] [&bits=1]
 *
 * The token by Authorization. JSON: {"query", "total", "complete", "offset", "results": [{"id",
 * "title", "pageNumber", "url", "snippet", "rank"}], "index": {"madeAtMs", "documents", "nLeftOut",
 * "leftOut": [{"name", "why"}]}}, the best first, a match in a snippet between `open` and `close`.
 * With "complete": false "total" is a number that match at least. If nothing was found, "words"
 * says how many documents each word is in; with bits=1 "documentIdsBitSetBase64" are all that were
 * found, as Overview's setDocumentListParams takes them. How a query is written: parse.h. */
#ifndef SEARCH_H
#define SEARCH_H

#include "plugin.h"

#define SEARCH_PATH "/search"
#define INDEX_PATH "/index"

struct search;

/* NULL: there is no room for it. */
struct search *search_open(struct plugin *plugin);

/* Adds the routes. */
void search_routes(struct search *search, h2o_hostconf_t *host);

/* After the server has stopped. NULL is allowed. */
void search_close(struct search *search);

#endif
