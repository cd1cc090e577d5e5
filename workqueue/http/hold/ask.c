/* ask.c - pending asks: see ask.h.
 *
 * A request may end while its ask is pending; a guard in its memory tells. Nothing here outlives
 * the mounted faces: freeing them waits for the queue's answers. */
#include "workqueue/http/hold/ask.h"

#include <stdlib.h>

#include "workqueue/http/hold/loop.h"
#include "workqueue/http/request/client.h"

struct wq_asks {
    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t none;
    size_t n; /* answers that are to come */
};

/* In the memory of the request. */
typedef struct ask_guard {
    wq_request_ask *ask; /* NULL: there is none any more */
} ask_guard;

struct wq_request_ask {
    wq_pending_ask pending;
    wq_request_ask *next; /* of those that wait for the same */
    void (*observe)(wq_http *http, void *context, wq_job *job);
    /* the loop's */
    wq_then then;
    h2o_req_t *req; /* NULL: it has ended */
    ask_guard *guard;
};

struct wq_asks *wq_asks_new(void)
{
    struct wq_asks *asks = calloc(1, sizeof *asks);
    if (asks == NULL)
        return NULL;
    pthread_mutex_init(&asks->lock, NULL);
    pthread_cond_init(&asks->none, NULL);
    return asks;
}

void wq_asks_free(struct wq_asks *asks)
{
    if (asks == NULL)
        return;
    pthread_mutex_lock(&asks->lock);
    while (asks->n > 0)
        pthread_cond_wait(&asks->none, &asks->lock);
    pthread_mutex_unlock(&asks->lock);
    pthread_cond_destroy(&asks->none);
    pthread_mutex_destroy(&asks->lock);
    free(asks);
}

static void count_asks(struct wq_asks *asks, int n)
{
    pthread_mutex_lock(&asks->lock);
    asks->n += (size_t)n;
    if (asks->n == 0)
        pthread_cond_signal(&asks->none);
    pthread_mutex_unlock(&asks->lock);
}

/* ---- the queue's answer ---------------------------------------------------------------------- */

/* From a thread of the queue's. */
static void on_queue_answer(void *user, int result, wq_job *job, int64_t made_at_ms,
                            const wq_error *error)
{
    wq_pending_ask *ask = user;
    wq_http *http = ask->http;
    ask->answer.result = result;
    ask->answer.job = job;
    ask->answer.made_at_ms = made_at_ms;
    if (error != NULL)
        ask->answer.error = *error;
    if (ask->observe != NULL)
        ask->observe(ask);
    if (wq_post_send(&http->inboxes, &ask->post) != 0)
        ask->lost(ask);
    count_asks(http->asks, -1);
}

int wq_pending_ask_start(wq_pending_ask *ask, const wq_params *params, unsigned flags)
{
    wq_http *http = ask->http;
    wq_answer *answer = &ask->answer;
    const wq_asker from = {ask->from.peer, ask->from.trace};
    count_asks(http->asks, 1);
    int result = wq_ensure_run_from(http->queue, &from, params, flags, &answer->job,
                                    &answer->made_at_ms, on_queue_answer, ask, &answer->error);
    if (result == WQ_PENDING)
        return result;
    count_asks(http->asks, -1);
    return answer->result = result;
}

/* ---- requests -------------------------------------------------------------------------------- */

static void free_ask(wq_request_ask *ask)
{
    wq_job_unref(ask->pending.answer.job);
    free(ask);
}

static void on_asker_gone(void *arg)
{
    ask_guard *g = arg;
    if (g->ask != NULL)
        g->ask->req = NULL;
}

static int call_then(wq_request_ask *ask)
{
    h2o_req_t *req = ask->req;
    ask->guard->ask = NULL;
    int result = ask->then(ask->pending.http, req, &ask->pending.answer);
    ask->pending.answer.job = NULL;
    free_ask(ask);
    return result;
}

static void arrive(wq_post *post)
{
    wq_request_ask *ask = H2O_STRUCT_FROM_MEMBER(wq_request_ask, pending.post, post);
    if (ask->req != NULL)
        call_then(ask);
    else
        free_ask(ask);
}

static void on_ask_lost(wq_pending_ask *ask)
{
    free_ask(H2O_STRUCT_FROM_MEMBER(wq_request_ask, pending, ask));
}

static void on_observe(wq_pending_ask *pending)
{
    const wq_request_ask *ask = H2O_STRUCT_FROM_MEMBER(wq_request_ask, pending, pending);
    if (ask->observe != NULL)
        ask->observe(pending->http, pending->answer.context, pending->answer.job);
}

static wq_request_ask *new_ask(wq_http *http, h2o_req_t *req, wq_then then, const wq_params *params,
                               void *context)
{
    wq_request_ask *ask = calloc(1, sizeof *ask);
    if (ask == NULL)
        return NULL;
    ask->pending = (wq_pending_ask){
        .post = {.inbox = &wq_loop_of(http, req)->inbox, .arrive = arrive},
        .lost = on_ask_lost,
        .observe = on_observe,
        .http = http,
        .answer = {.params = params, .context = context},
    };
    wq_request_from(&ask->pending.from, http->proxies, req);
    ask->then = then;
    ask->req = req;
    ask->guard = h2o_mem_alloc_shared(&req->pool, sizeof *ask->guard, on_asker_gone);
    ask->guard->ask = ask;
    return ask;
}

wq_request_ask *wq_ask_wait(wq_http *http, h2o_req_t *req, wq_request_ask *next, wq_then then,
                            const wq_params *params, void *context)
{
    wq_request_ask *ask = new_ask(http, req, then, params, context);
    if (ask != NULL)
        ask->next = next;
    return ask;
}

void wq_ask_resume(wq_request_ask *chain)
{
    while (chain != NULL) {
        wq_request_ask *ask = chain;
        chain = ask->next; /* it is the loop's once it is sent */
        if (wq_post_send(&ask->pending.http->inboxes, &ask->pending.post) != 0)
            free_ask(ask);
    }
}

/* A queue without journal and such a store answers at once. */
static void never_later(void *user, int result, wq_job *job, int64_t made_at_ms,
                        const wq_error *error)
{
    (void)user;
    (void)result;
    (void)job;
    (void)made_at_ms;
    (void)error;
}

/* No thread but this one has a part in it. */
static int ask_at_once(wq_http *http, h2o_req_t *req, const wq_params *params, unsigned flags,
                       void (*observe)(wq_http *http, void *context, wq_job *job), wq_then then,
                       void *context)
{
    wq_from from;
    wq_answer answer = {.params = params, .context = context};
    wq_request_from(&from, http->proxies, req);
    const wq_asker asker = {from.peer, from.trace};
    answer.result = wq_ensure_run_from(http->queue, &asker, params, flags, &answer.job,
                                       &answer.made_at_ms, never_later, NULL, &answer.error);
    if (observe != NULL)
        observe(http, context, answer.job);
    return then(http, req, &answer);
}

static int fail_ask(wq_http *http, h2o_req_t *req, const wq_params *params,
                    void (*observe)(wq_http *http, void *context, wq_job *job), wq_then then,
                    void *context)
{
    wq_answer answer = {.result = WQ_ERROR_NO_MEMORY, .params = params, .context = context};
    answer.error.code = WQ_ERROR_NO_MEMORY;
    snprintf(answer.error.message, sizeof answer.error.message, "%s",
             wq_strerror(WQ_ERROR_NO_MEMORY));
    if (observe != NULL)
        observe(http, context, NULL);
    return then(http, req, &answer);
}

int wq_ask_queue_observed(wq_http *http, h2o_req_t *req, const wq_params *params, unsigned flags,
                          void (*observe)(wq_http *http, void *context, wq_job *job), wq_then then,
                          void *context)
{
    if (!http->asks_block)
        return ask_at_once(http, req, params, flags, observe, then, context);
    wq_request_ask *ask = new_ask(http, req, then, params, context);
    if (ask == NULL)
        return fail_ask(http, req, params, observe, then, context);
    ask->observe = observe;
    if (wq_pending_ask_start(&ask->pending, params, flags) == WQ_PENDING)
        return 0;
    on_observe(&ask->pending);
    return call_then(ask);
}

int wq_ask_queue(wq_http *http, h2o_req_t *req, const wq_params *params, unsigned flags,
                 wq_then then, void *context)
{
    return wq_ask_queue_observed(http, req, params, flags, NULL, then, context);
}
