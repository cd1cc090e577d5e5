/* loop.c - the parts of an event loop, made and freed together. */
#include "workqueue/http/hold/loop.h"

#include <stdlib.h>

wq_loop *wq_loop_of_context(wq_http *http, h2o_context_t *ctx)
{
    return h2o_context_get_handler_context(ctx, http->anchor);
}

wq_loop *wq_loop_of(wq_http *http, h2o_req_t *req)
{
    return wq_loop_of_context(http, req->conn->ctx);
}

/* libh2o lets a context's start not fail; it aborts without memory or descriptors, and so do we. */
wq_loop *wq_loop_new(wq_http *http, h2o_context_t *ctx, void (*on_stop)(wq_post *post))
{
    wq_loop *loop = h2o_mem_alloc(sizeof *loop);
    memset(loop, 0, sizeof *loop);
    loop->http = http;
    loop->ctx = ctx;
    LIST_INIT(&loop->detached);
    wq_timers_open(&loop->timers, ctx->loop);
    wq_clients_open(&loop->clients, &loop->timers, ctx->loop);
    wq_news_open(&loop->news, http->queue, &loop->timers, ctx->queue);
    wq_inbox_open(&http->inboxes, &loop->inbox, ctx->queue);
    loop->stop = (wq_post){.inbox = &loop->inbox, .arrive = on_stop};
    pthread_mutex_lock(&http->lock);
    LIST_INSERT_HEAD(&http->loops, loop, link);
    pthread_mutex_unlock(&http->lock);
    return loop;
}

void wq_loop_free(wq_loop *loop)
{
    wq_http *http = loop->http;
    pthread_mutex_lock(&http->lock);
    LIST_REMOVE(loop, link);
    pthread_mutex_unlock(&http->lock);
    wq_inbox_close(&http->inboxes, &loop->inbox, loop->ctx->queue);
    wq_news_close(&loop->news);
    wq_clients_close(&loop->clients);
    wq_timers_close(&loop->timers);
    free(loop);
}
