/* contexts.h - a wq_loop for each context of libh2o, and how they stop. */
#ifndef WQ_HTTP_HOLD_CONTEXTS_H
#define WQ_HTTP_HOLD_CONTEXTS_H

#include "workqueue/http/http.h"

/* Makes a wq_loop of every context to come; called by mount, once, with any route. */
void wq_contexts_attach(wq_http *http, wq_route *anchor);

/* The loop of `ctx` stops: tells the detached responses that wait for no job. And when it has no more
 * time: shuts all of them down, and the loop must run on a little for them to end. For who runs the
 * loop, on its thread. */
void wq_context_stop(wq_http *http, h2o_context_t *ctx);
void wq_context_cut(wq_http *http, h2o_context_t *ctx);

#endif
