/* handshake.h - the request that becomes a WebSocket (RFC 6455, 4). */
#ifndef WQ_HTTP_FACES_HANDSHAKE_H
#define WQ_HTTP_FACES_HANDSHAKE_H

#include <h2o.h>

/* Does the request ask for an upgrade to WebSocket (whether or not it does so properly)? */
int wq_handshake_wanted(h2o_req_t *req);

/* Whether the request is a handshake as it should be; else it has been answered. */
int wq_handshake_check(h2o_req_t *req);

/* Sets the status and headers of the answer that switches protocols. */
void wq_handshake_accept(h2o_req_t *req);

#endif
