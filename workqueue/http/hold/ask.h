/* ask.h - asking the queue for a job without keeping the loop from others.
 *
 * Where the queue has a journal, or its store is across a network, its answer takes a while: that is
 * a pending ask. What is to be done with the answer is a continuation:
 *
 *     face: wq_ask_queue(…, then) ──► queue ──► thread of the queue: observe()
 *                                                  └─ post ─► loop: then(answer), if the request lives
 *
 * Without journal and such a store all of it happens at once, before wq_ask_queue() returns. */
#ifndef WQ_HTTP_HOLD_ASK_H
#define WQ_HTTP_HOLD_ASK_H

#include "workqueue/http/http.h"
#include "workqueue/http/request/client.h"

/* What the queue has answered, as of wq_ensure_run_aged(). */
typedef struct wq_answer {
    int result;
    wq_job *job; /* counted, and the continuation's; NULL: there is none */
    int64_t made_at_ms;
    wq_error error;
    const wq_params *params; /* of the ask, NULL for those of wq_pending_ask_start() */
    void *context;
} wq_answer;

/* Goes on with a request, on its loop; answers it, or holds it. Returns 0, as handlers do. */
typedef int (*wq_then)(wq_http *http, h2o_req_t *req, const wq_answer *answer);

struct wq_asks *wq_asks_new(void);         /* NULL: no memory */
void wq_asks_free(struct wq_asks *asks);   /* waits for the queue's answers; NULL is allowed */

/* ---- for requests ---- */

/* Asks for the job of `params`, which live as long as the request does. `then` is called once, unless
 * the request ends before; also if memory runs out. Returns 0. */
int wq_ask_queue(wq_http *http, h2o_req_t *req, const wq_params *params, unsigned flags, wq_then then,
                 void *context);

/* The same, and `observe` is called once in any case, before `then`, and by any thread. `context` is
 * not in the request's memory, which may be gone by then; `job` is borrowed. */
int wq_ask_queue_observed(wq_http *http, h2o_req_t *req, const wq_params *params, unsigned flags,
                          void (*observe)(wq_http *http, void *context, wq_job *job), wq_then then,
                          void *context);

/* A request that waits for what another one has asked, in front of others that do. Its answer says
 * nothing but WQ_OK. NULL: no memory. */
typedef struct wq_request_ask wq_request_ask;
wq_request_ask *wq_ask_wait(wq_http *http, h2o_req_t *req, wq_request_ask *next, wq_then then,
                            const wq_params *params, void *context);

/* All of these go on; whoever kept them forgets them. Any thread, and no lock is held. NULL is
 * allowed. */
void wq_ask_resume(wq_request_ask *chain);

/* ---- for who is no request any more ---- */

typedef struct wq_pending_ask {
    wq_post post; /* inbox and arrive are set; called with the answer */
    void (*lost)(struct wq_pending_ask *ask);    /* instead: the loop has ended; on any thread */
    void (*observe)(struct wq_pending_ask *ask); /* before; on any thread; may be NULL */
    wq_http *http;
    wq_from from; /* who asks */
    wq_answer answer;
} wq_pending_ask;

/* On the loop. WQ_PENDING: it will arrive. Else the answer is there, and neither is called. */
int wq_pending_ask_start(wq_pending_ask *ask, const wq_params *params, unsigned flags);

#endif
