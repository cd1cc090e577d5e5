/* problem.h - answers that are not streams: problem documents, small bodies, CORS, methods. */
#ifndef WQ_HTTP_REQUEST_PROBLEM_H
#define WQ_HTTP_REQUEST_PROBLEM_H

#include <h2o.h>
#include <workqueue/http.h>

/* The reason phrase of a status, for req->res.reason; static, "Other" for those we never use. */
const char *wq_reason(int status);

/* Adds the CORS headers that every answer carries; once, however often it is called. The functions
 * below call it themselves: it is for streams. */
void wq_cors(h2o_req_t *req);

/* No other origin may read the answer, nor ask by a preflight: before anything is answered. */
void wq_own_origin_only(h2o_req_t *req);

/* Sends `body` and `content_type` (copied; NULL: none) with Content-Length and CORS headers. HEAD
 * gets the length but not the body, 204 and 304 neither. `req` is dead afterwards. Returns 0. */
int wq_send_bytes(h2o_req_t *req, int status, const char *content_type, const char *body,
                  size_t len);

/* A problem document. Extra response headers (Allow, Retry-After, WWW-Authenticate) are the
 * caller's to add to req->res.headers before. `format` makes the detail, cut at 1023 bytes. `req`
 * is dead afterwards. Returns 0. */
int wq_problem(h2o_req_t *req, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Writes text as the inside of a JSON string, in ASCII, without NUL; at most 6 bytes for each of
 * the text. Returns the end. */
char *wq_put_escaped(char *out, const char *text);

/* For an answer that libh2o has begun itself (req->res has a status): sets the headers of a problem
 * document and returns its body, in the request's pool. */
h2o_iovec_t wq_problem_instead(h2o_req_t *req);

/* Answers OPTIONS and methods that are not in `allow`; 1 if it has answered. */
int wq_method(h2o_req_t *req, const char *allow);

/* Is this a failure that time cures? FULL, USER_FULL, CLOSING. */
int wq_is_for_later(int result);

/* Seconds until a server that stops should be back. */
enum { WQ_RESTART_S = 2 };

/* A failed call of the queue as an answer: FULL and CLOSING to 503 and USER_FULL to 429, with
 * Retry-After (`retry_after_s`; of CLOSING always WQ_RESTART_S), INVALID_ARGUMENT to 400, the rest
 * to 500. Returns 0. */
int wq_problem_result(h2o_req_t *req, int result, const wq_error *error, unsigned retry_after_s);

#endif
