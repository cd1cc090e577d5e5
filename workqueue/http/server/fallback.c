/* fallback.c - see fallback.h. */
#include "workqueue/http/server/fallback.h"

#include <string.h>

#include "workqueue/http/request/problem.h"
#include "workqueue/http/server/routes.h"

typedef struct error_stream {
    h2o_ostream_t super;
    h2o_iovec_t body;
} error_stream;

static void send_error_body(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *bufs, size_t n,
                            h2o_send_state_t state)
{
    error_stream *stream = (error_stream *)self;
    (void)bufs;
    (void)n;
    h2o_ostream_send_next(&stream->super, req, &stream->body, stream->body.len != 0, state);
}

/* libh2o's own errors (no such path, body too large, ...) are plain text; ours are problems. */
static void on_setup_ostream(h2o_filter_t *filter, h2o_req_t *req, h2o_ostream_t **slot)
{
    static const char text[] = "text/plain";
    ssize_t i = h2o_find_header(&req->res.headers, H2O_TOKEN_CONTENT_TYPE, -1);
    (void)filter;
    if (req->res.status >= 400 && i >= 0 &&
        strncmp(req->res.headers.entries[i].value.base, text, sizeof text - 1) == 0) {
        error_stream *stream = (error_stream *)h2o_add_ostream(req, sizeof *stream, slot);
        stream->super.do_send = send_error_body;
        stream->body = wq_problem_instead(req);
        slot = &stream->super.next;
    }
    h2o_setup_next_ostream(req, slot);
}

static int no_route(h2o_handler_t *handler, h2o_req_t *req)
{
    (void)handler;
    if (wq_route_anyway(req) == 0)
        return 0;
    if (h2o_memis(req->method.base, req->method.len, H2O_STRLIT("OPTIONS")))
        return wq_method(req, "OPTIONS"), 0;
    return wq_problem(req, 404, "There is nothing at this path.");
}

void wq_fallback_add(h2o_hostconf_t *host)
{
    h2o_create_handler(&host->fallback_path, sizeof(h2o_handler_t))->on_req = no_route;
    h2o_create_filter(&host->fallback_path, sizeof(h2o_filter_t))->on_setup_ostream =
        on_setup_ostream;
}
