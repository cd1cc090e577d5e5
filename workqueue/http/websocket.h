/* websocket.h - one job's records as WebSocket messages. */
#ifndef WQ_WEBSOCKET_H
#define WQ_WEBSOCKET_H

#include "workqueue/http/loop.h"

/* Does the request ask for an upgrade to WebSocket (whether or not it does so properly)? */
int wq_websocket_wanted(h2o_req_t *req);

/* GET /generate with an upgrade: parameters from the query; the token from Authorization, the
 * query, the subprotocol, or the first message. Returns 0. */
int wq_websocket_generate(wq_http *http, h2o_req_t *req);

/* Upgrades, and sends the job's records to the end; takes over the reference to `job`. Returns 0.
 */
int wq_websocket(wq_http *http, h2o_req_t *req, wq_job *job);

#endif
