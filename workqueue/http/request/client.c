/* client.c - see client.h. */
#include "workqueue/http/request/client.h"

#include "workqueue/http/request/headers.h"

/* Forwarded only where there is no X-Forwarded-For: a proxy sets one of them, and must remove the
 * other. */
wq_address wq_request_client(const wq_proxies *proxies, h2o_req_t *req)
{
    struct sockaddr_storage from = {.ss_family = AF_UNSPEC};
    wq_address nobody = {{0}}, client;
    req->conn->callbacks->get_peername(req->conn, (struct sockaddr *)&from);
    wq_address address = wq_address_of((struct sockaddr *)&from);
    if (!wq_proxies_have(proxies, &address))
        return address;
    h2o_iovec_t value = wq_request_header_list(req, "x-forwarded-for");
    const int is_forwarded = value.base == NULL;
    if (is_forwarded)
        value = wq_request_header_list(req, "forwarded");
    return wq_proxies_client(proxies, value.base, value.len, is_forwarded, &client) == 0 ? client
                                                                                         : nobody;
}

void wq_request_from(wq_from *out, const wq_proxies *proxies, h2o_req_t *req)
{
    wq_address peer = wq_address_of_peer(wq_request_client(proxies, req));
    h2o_iovec_t trace = wq_request_header(req, "traceparent");
    wq_address_write(out->peer, &peer);
    if (trace.len >= sizeof out->trace)
        trace.len = 0;
    if (trace.len > 0)
        memcpy(out->trace, trace.base, trace.len);
    out->trace[trace.len] = '\0';
}
