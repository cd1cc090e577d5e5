/* routes.h - which path is which face. */
#ifndef WQ_HTTP_SERVER_ROUTES_H
#define WQ_HTTP_SERVER_ROUTES_H

#include <h2o.h>

/* For a request that libh2o has found no route for: 0 if a route is meant all the same, in which a
 * slash is doubled, and it has answered; else -1. */
int wq_route_anyway(h2o_req_t *req);

#endif
