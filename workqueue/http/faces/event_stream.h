/* event_stream.h - a held response of text/event-stream that one request has for itself: what it is
 * of says when it goes on. Latest-only: nothing is made while something is in flight. */
#ifndef WQ_HTTP_FACES_EVENT_STREAM_H
#define WQ_HTTP_FACES_EVENT_STREAM_H

#include "workqueue/http/hold/held.h"

typedef struct wq_event_stream {
    h2o_generator_t generator; /* first: h2o hands it back */
    wq_held held;
    wq_post post;
    atomic_int refs; /* the request's, and that of a post on its way */
    /* the loop's */
    int in_flight, over;
    int64_t sent_at;
    char *text; /* in flight, from malloc; NULL: what is in flight is not ours to free */

    /* Set by who opens it; all but `dispose`, which frees it, are called on the loop. */
    void (*go_on)(
        struct wq_event_stream *s); /* nothing is in flight: send, end, or set a deadline */
    void (*arrived)(struct wq_event_stream *s); /* a post has, before go_on; NULL: nothing to do */
    void (*ending)(struct wq_event_stream *s);  /* it is over: no news is wanted any more */
    void (*dispose)(struct wq_event_stream *s);
} wq_event_stream;

/* Holds the response; `s` is zeroed but for its functions, and belongs to the request from now on.
 * 0, or -1 and it has been answered. */
int wq_event_stream_open(wq_event_stream *s, wq_http *http, h2o_req_t *req);

/* It was opened, but there is no memory for its news: answers that. */
int wq_event_stream_refuse(wq_event_stream *s);

/* Sends the headers, and a comment, which carries them. */
void wq_event_stream_start(wq_event_stream *s);

/* Sends; `text` stays as it is until go_on is called again. */
void wq_event_stream_send(wq_event_stream *s, const char *text, size_t n);

/* Ends it, with a last text if n > 0. */
void wq_event_stream_end(wq_event_stream *s, h2o_send_state_t how, const char *text, size_t n);

/* From any thread, while it has not been told that it is ending: go_on is to be called soon. */
void wq_event_stream_post(wq_event_stream *s);

/* Nonzero if the server stops, and the stream is to end without an end. */
int wq_event_stream_must_stop(const wq_event_stream *s);

#endif
