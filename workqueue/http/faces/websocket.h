/* websocket.h - one job's records as WebSocket messages (RFC 6455).
 *
 * Each text message is one progress record; the first comes at once, the last before the close. A
 * client may give its token as every request does, in Authorization or the query, and, for browsers
 * can set no header here, in one of two more ways:
 * - as a subprotocol, percent-encoded: new WebSocket(url, ['workqueue', 'token.' + token]). The
 *   answer selects "workqueue", never the one with the token, which would put it into a header that
 *   others log; and since browsers want one of those that they offered selected, a client that
 *   offers only the one with the token is refused with 400.
 * - as its first message, {"apiToken": "..."} or the bare token, in time.
 * Other messages are ignored; none may be longer than 64 KiB.
 *
 * Close codes: 1000 after the last record, or at once if the output is there already; 1001 the
 * server stops, 1012 with a journal: the job goes on when it is there again; 1002 against the
 * protocol; 1003 a binary message; 1007 text that is no UTF-8; 1008 the token is refused, or did
 * not come in time; 1009 a message too long; 1011 a failure of ours; 1013 the queue is full, try
 * again later. */
#ifndef WQ_HTTP_FACES_WEBSOCKET_H
#define WQ_HTTP_FACES_WEBSOCKET_H

#include "workqueue/http/http.h"

/* GET /generate with an upgrade: parameters from the query; the token from Authorization, the
 * subprotocol, the query, or the first message. Returns 0. */
int wq_websocket_generate(wq_http *http, h2o_req_t *req);

/* Upgrades, and sends the job's records to the end; takes over the reference to `job`. Returns 0.
 */
int wq_websocket(wq_http *http, h2o_req_t *req, wq_job *job);

/* Likewise, with records as GET /jobs/{id} has them. */
int wq_websocket_resource(wq_http *http, h2o_req_t *req, wq_job *job);

#endif
