/* contexts.c - see contexts.h; and wq_http_stop(), which tells all loops. */
#include "workqueue/http/hold/contexts.h"

#include "workqueue/http/hold/held.h"

static void on_context_stop(wq_post *post)
{
    wq_held_stop_all(H2O_STRUCT_FROM_MEMBER(wq_loop, stop, post));
}

static void on_context_init(h2o_handler_t *anchor, h2o_context_t *ctx)
{
    wq_http *http = ((wq_route *)anchor)->http;
    h2o_context_set_handler_context(ctx, anchor, wq_loop_new(http, ctx, on_context_stop));
}

static void on_context_dispose(h2o_handler_t *anchor, h2o_context_t *ctx)
{
    wq_loop *loop = wq_loop_of_context(((wq_route *)anchor)->http, ctx);
    wq_held_end_detached(loop); /* before: a post that is lost must find nobody who refers to it */
    wq_loop_free(loop);
}

void wq_contexts_attach(wq_http *http, wq_route *anchor)
{
    anchor->super.on_context_init = on_context_init;
    anchor->super.on_context_dispose = on_context_dispose;
    http->anchor = &anchor->super;
}

void wq_context_stop(wq_http *http, h2o_context_t *ctx)
{
    wq_held_stop_detached(wq_loop_of_context(http, ctx));
}

void wq_context_cut(wq_http *http, h2o_context_t *ctx)
{
    wq_held_cut_detached(wq_loop_of_context(http, ctx));
}

void wq_http_stop(wq_http *http)
{
    wq_loop *loop;
    if (atomic_exchange(&http->stopping, 1))
        return;
    pthread_mutex_lock(&http->lock);
    LIST_FOREACH(loop, &http->loops, link)
    wq_post_send(&http->inboxes, &loop->stop);
    pthread_mutex_unlock(&http->lock);
}
