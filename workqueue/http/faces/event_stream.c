/* event_stream.c - a held response of text/event-stream: sends, waits, stalls and ends. */
#include "workqueue/http/faces/event_stream.h"

#include <stdlib.h>
#include <sys/socket.h>

#include "workqueue/http/request/problem.h"

static void unref_event_stream(wq_event_stream *s)
{
    if (atomic_fetch_sub(&s->refs, 1) > 1)
        return;
    free(s->text);
    s->dispose(s);
}

void wq_event_stream_post(wq_event_stream *s)
{
    atomic_fetch_add(&s->refs, 1);
    if (wq_post_send(&s->held.http->inboxes, &s->post) != 0)
        unref_event_stream(s);
}

void wq_event_stream_send(wq_event_stream *s, const char *text, size_t n)
{
    h2o_iovec_t buf = h2o_iovec_init(text, n);
    s->in_flight = 1;
    s->sent_at = wq_loop_now();
    atomic_fetch_add(&s->held.http->bytes_sent, n);
    wq_held_deadline(&s->held, s->sent_at + s->held.http->options.stall_timeout_ms);
    h2o_send(s->held.req, &buf, 1, H2O_SEND_STATE_IN_PROGRESS);
}

void wq_event_stream_end(wq_event_stream *s, h2o_send_state_t how, const char *text, size_t n)
{
    h2o_iovec_t buf = h2o_iovec_init(text, n);
    if (s->over)
        return;
    s->over = 1;
    s->ending(s);
    wq_release(&s->held);
    if (how != H2O_SEND_STATE_IN_PROGRESS)
        h2o_send(s->held.req, &buf, n > 0, how);
}

int wq_event_stream_must_stop(const wq_event_stream *s)
{
    return atomic_load(&s->held.http->stopping) || s->held.req->conn->ctx->shutdown_requested;
}

/* ---- what happens to it ---------------------------------------------------------------------- */

static void on_event_stream_post(wq_post *post)
{
    wq_event_stream *s = H2O_STRUCT_FROM_MEMBER(wq_event_stream, post, post);
    if (s->arrived != NULL)
        s->arrived(s);
    if (!s->over && !s->in_flight)
        s->go_on(s);
    unref_event_stream(s);
}

static void on_event_stream_timeout(wq_held *held)
{
    wq_event_stream *s = H2O_STRUCT_FROM_MEMBER(wq_event_stream, held, held);
    if (!s->in_flight) {
        s->go_on(s);
        return;
    }
    atomic_fetch_add(&held->http->clients_stalled, 1);
    shutdown(held->fd, SHUT_RDWR); /* it takes nothing: the send fails, `stop` follows */
}

static void on_event_stream_gone(wq_held *held)
{
    wq_event_stream *s = H2O_STRUCT_FROM_MEMBER(wq_event_stream, held, held);
    if (s->in_flight)
        shutdown(held->fd, SHUT_RDWR);
    else
        wq_event_stream_end(s, H2O_SEND_STATE_ERROR, NULL, 0);
}

static void on_event_stream_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    wq_event_stream *s = (wq_event_stream *)generator;
    (void)req;
    s->in_flight = 0;
    free(s->text);
    s->text = NULL;
    s->go_on(s);
}

static void on_event_stream_stop(h2o_generator_t *generator, h2o_req_t *req)
{
    (void)req;
    wq_event_stream_end((wq_event_stream *)generator, H2O_SEND_STATE_IN_PROGRESS, NULL, 0);
}

static void on_event_stream_request_end(void *arg)
{
    unref_event_stream(*(wq_event_stream **)arg);
}

/* ---- opening --------------------------------------------------------------------------------- */

int wq_event_stream_open(wq_event_stream *s, wq_http *http, h2o_req_t *req)
{
    s->generator = (h2o_generator_t){on_event_stream_proceed, on_event_stream_stop};
    s->held = (wq_held){.http = http,
                        .face = WQ_FACE_LIST,
                        .req = req,
                        .timeout = on_event_stream_timeout,
                        .gone = on_event_stream_gone};
    s->post = (wq_post){.inbox = &wq_loop_of(http, req)->inbox, .arrive = on_event_stream_post};
    atomic_store(&s->refs, 1);
    *(wq_event_stream **)h2o_mem_alloc_shared(&req->pool, sizeof s, on_event_stream_request_end) =
        s;
    return wq_hold(&s->held, NULL);
}

int wq_event_stream_refuse(wq_event_stream *s)
{
    wq_release(&s->held);
    return wq_problem(s->held.req, 500, "There is no memory for a stream.");
}

void wq_event_stream_start(wq_event_stream *s)
{
    h2o_req_t *req = s->held.req;
    req->res.status = 200;
    req->res.reason = "OK";
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("text/event-stream"));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store, no-transform"));
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("x-accel-buffering"), 0,
                          "X-Accel-Buffering", H2O_STRLIT("no"));
    if (req->version < 0x101)
        req->http1_is_persistent = 0; /* without chunks, only the close tells the end */
    h2o_start_response(req, &s->generator);
    wq_event_stream_send(s, ":\n\n", 3);
}
