/* handshake.c - see handshake.h. */
#include "workqueue/http/faces/handshake.h"

#include <openssl/sha.h>
#include <string.h>

#include "workqueue/http/request/problem.h"
#include "workqueue/http/request/request.h"

static int asks_for_upgrade(h2o_req_t *req)
{
    return req->upgrade.base != NULL &&
           h2o_contains_token(req->upgrade.base, req->upgrade.len, H2O_STRLIT("websocket"), ',');
}

int wq_handshake_wanted(h2o_req_t *req)
{
    return h2o_memis(req->method.base, req->method.len, H2O_STRLIT("GET")) &&
           (asks_for_upgrade(req) || wq_request_header(req, "sec-websocket-key").base != NULL);
}

static int is_handshake_key(h2o_iovec_t key)
{
    if (key.len != 24 || memcmp(key.base + 22, "==", 2) != 0)
        return 0;
    for (size_t i = 0; i < 22; i++) {
        const char c = key.base[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '+' || c == '/'))
            return 0;
    }
    return 1;
}

static void add_header(h2o_req_t *req, const char *name, const char *as_written, const char *value)
{
    h2o_add_header_by_str(&req->pool, &req->res.headers, name, strlen(name), 0, as_written, value,
                          strlen(value));
}

static int needs_upgrade(h2o_req_t *req, const char *detail)
{
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_UPGRADE, NULL, H2O_STRLIT("websocket"));
    return wq_problem(req, 426, "%s", detail);
}

int wq_handshake_check(h2o_req_t *req)
{
    const h2o_iovec_t version = wq_request_header(req, "sec-websocket-version");
    const char *wrong = NULL;
    if (!asks_for_upgrade(req) || req->version != 0x101)
        wrong = "A WebSocket begins with a GET by HTTP/1.1 with \"Connection: Upgrade\" and "
                "\"Upgrade: websocket\", which a proxy on the way may have removed.";
    else if (!h2o_memis(version.base, version.len, H2O_STRLIT("13")))
        wrong = "WebSockets are spoken here in version 13: \"Sec-WebSocket-Version: 13\".";
    if (wrong == NULL && is_handshake_key(wq_request_header(req, "sec-websocket-key"))) {
        if (wq_request_subprotocol(req, "token.").base == NULL ||
            wq_request_subprotocol(req, "workqueue").base != NULL)
            return 1;
        wq_problem(req, 400,
                   "Offer the subprotocol workqueue beside the one with the token: the answer has "
                   "to select one, and does not repeat the token.");
        return 0;
    }
    add_header(req, "sec-websocket-version", "Sec-WebSocket-Version", "13");
    if (wrong != NULL)
        needs_upgrade(req, wrong);
    else
        wq_problem(req, 400, "Sec-WebSocket-Key must be 16 bytes in base64.");
    return 0;
}

static const char *accept_of(h2o_req_t *req)
{
    static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    const h2o_iovec_t key = wq_request_header(req, "sec-websocket-key");
    unsigned char text[24 + sizeof magic - 1], hash[SHA_DIGEST_LENGTH];
    char *out = h2o_mem_alloc_pool(&req->pool, 32);
    memcpy(text, key.base, 24);
    memcpy(text + 24, magic, sizeof magic - 1);
    SHA1(text, sizeof text, hash);
    h2o_base64_encode(out, hash, sizeof hash, 0);
    out[28] = '\0';
    return out;
}

void wq_handshake_accept(h2o_req_t *req)
{
    req->res.status = 101;
    req->res.reason = "Switching Protocols";
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_UPGRADE, NULL, H2O_STRLIT("websocket"));
    add_header(req, "sec-websocket-accept", "Sec-WebSocket-Accept", accept_of(req));
    if (wq_request_subprotocol(req, "workqueue").base != NULL)
        add_header(req, "sec-websocket-protocol", "Sec-WebSocket-Protocol", "workqueue");
}
