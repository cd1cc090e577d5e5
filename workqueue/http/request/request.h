/* request.h - from an h2o request to parameters, within limits. */
#ifndef WQ_HTTP_REQUEST_REQUEST_H
#define WQ_HTTP_REQUEST_REQUEST_H

#include <h2o.h>
#include <workqueue/http.h>

#include "workqueue/http/request/headers.h"

/* What of the options a request is held against. */
typedef struct wq_request_limits {
    size_t max_body_bytes;
    struct wq_allow *allow; /* the servers that may be asked for */
    int any_server;         /* `server` may be any text, and is taken as it is */
} wq_request_limits;

/* What is wrong with a request. Texts are static or in the request's pool. */
typedef struct wq_request_fault {
    int status;            /* 400, 401, 403, 413 or 415 */
    int is_missing;        /* the fields are not there; else they are there and wrong */
    const char *fields[4]; /* those at fault, as clients name them, up to a NULL; may be none */
    const char *detail;    /* a sentence */
} wq_request_fault;

/* Reads server, document set id and token. 0 and *out in the request's pool; or -1 and *fault.
 * Nothing is answered, but a 401's WWW-Authenticate is in the response's headers already.
 * Precedence: the body over the query; for the token, these over the Authorization header over a
 * WebSocket's subprotocol token.TOKEN. `out->server` is in canonical form (url.h). `*rebuild`,
 * unless NULL: whether the field of that name asks for it. */
int wq_request_read(const wq_request_limits *limits, h2o_req_t *req, wq_params *out, int *rebuild,
                    wq_request_fault *fault);

/* The same, but -1 is that a problem has been answered. */
int wq_request_params(const wq_request_limits *limits, h2o_req_t *req, wq_params *out,
                      int *rebuild);

/* The same for a client that may bring its token later: out->api_token may be NULL. */
int wq_request_target(const wq_request_limits *limits, h2o_req_t *req, wq_params *out,
                      int *rebuild);

/* The fields of body and query as they are, there or not, for a face whose Authorization carries
 * something else. 0, or -1 and a problem has been answered. */
struct wq_fields;
int wq_request_fields(const wq_request_limits *limits, h2o_req_t *req, struct wq_fields *out);

/* The subprotocol `name` among those that a WebSocket's handshake offers; if `name` ends in '.',
 * the first that begins so. {NULL, 0} if there is none. */
h2o_iovec_t wq_request_subprotocol(h2o_req_t *req, const char *name);

/* Does an HTTP/1 request tell the length of its body more than once (two Content-Length, or one and
 * Transfer-Encoding)? To be asked while it is handled first. */
int wq_request_is_ambiguous(h2o_req_t *req);

/* What an event source has seen: the header Last-Event-ID, or the field lastEventId of the query,
 * which those send that cannot set headers. */
h2o_iovec_t wq_request_last_event_id(h2o_req_t *req);

#endif
