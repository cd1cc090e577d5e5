/* headers.h - a request's headers by name. */
#ifndef WQ_HTTP_REQUEST_HEADERS_H
#define WQ_HTTP_REQUEST_HEADERS_H

#include <h2o.h>

/* A request header by lower-case name; {NULL, 0} if there is none. */
h2o_iovec_t wq_request_header(h2o_req_t *req, const char *name);

/* A header that is a list, as one value, however many lines it came in (RFC 9110, 5.3); of many or long
 * ones the last. */
h2o_iovec_t wq_request_header_list(h2o_req_t *req, const char *name);

#endif
