/* loop.h - what an event loop has for responses that wait: timers, news, clients, an inbox. */
#ifndef WQ_HTTP_HOLD_LOOP_H
#define WQ_HTTP_HOLD_LOOP_H

#include "workqueue/http/hold/clients.h"
#include "workqueue/http/hold/news.h"
#include "workqueue/http/hold/posts.h"
#include "workqueue/http/hold/timers.h"
#include "workqueue/http/http.h"

typedef struct wq_loop {
    wq_http *http;
    h2o_context_t *ctx;
    LIST_ENTRY(wq_loop) link;
    wq_timers timers;
    wq_news news;
    wq_clients clients;
    wq_inbox inbox;
    wq_post stop;
    LIST_HEAD(, wq_held) detached; /* held responses whose connection is no HTTP one any more */
} wq_loop;

/* The loop of a context, or of a request. */
wq_loop *wq_loop_of_context(wq_http *http, h2o_context_t *ctx);
wq_loop *wq_loop_of(wq_http *http, h2o_req_t *req);

/* For a context, on its thread; `on_stop` arrives when wq_http_stop() is called. */
wq_loop *wq_loop_new(wq_http *http, h2o_context_t *ctx, void (*on_stop)(wq_post *post));

/* Nothing is held any more. */
void wq_loop_free(wq_loop *loop);

#endif
