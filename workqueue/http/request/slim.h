/* slim.h - a request whose answer is held keeps what is needed yet, not what the client sent. */
#ifndef WQ_HTTP_REQUEST_SLIM_H
#define WQ_HTTP_REQUEST_SLIM_H

#include <h2o.h>

/* Of a request with a body libh2o copies the head to the request's pool; a large one is left behind
 * with that pool, but for what faces read of it. To be called before anything else is in the pool,
 * by the face's route. */
void wq_request_slim_head(h2o_req_t *req);

/* Gives back the memory of its head and its body. Method, path, the headers that answers depend on,
 * and others as far as they are small, are copied before; a query that is long, other headers and
 * the body are gone. To be called when the request has been read. Nothing is done for one whose
 * path alone is long, or that is not HTTP/1. */
void wq_request_slim(h2o_req_t *req);

#endif
