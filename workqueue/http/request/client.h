/* client.h - who has sent a request: the other side of its connection, or whom that speaks for. */
#ifndef WQ_HTTP_REQUEST_CLIENT_H
#define WQ_HTTP_REQUEST_CLIENT_H

#include <h2o.h>

#include "workqueue/http/request/address.h"

/* All zero if nobody knows: it came by a Unix socket, or by a proxy of ours that says nothing. */
wq_address wq_request_client(const wq_proxies *proxies, h2o_req_t *req);

/* The same as a text, as wq_asker has it: an IPv6 address by its first 64 bits. And the
 * traceparent;
 * "" if there is none, or it is too long. */
typedef struct wq_from {
    char peer[WQ_ADDRESS_SIZE], trace[64];
} wq_from;

void wq_request_from(wq_from *out, const wq_proxies *proxies, h2o_req_t *req);

#endif
