/* held.c - what is held, and within which limits. */
#include "workqueue/http/hold/held.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>

#include "workqueue/http/request/client.h"
#include "workqueue/http/request/problem.h"
#include "workqueue/http/request/slim.h"

enum {
    END_ROUNDS = 100,     /* of 10 ms, for connections that have been cut */
    RETRY_S = 5,          /* for who finds no room */
    UNSENT_BYTES = 16384, /* what the kernel may queue for a client: it should get the latest */
};

/* ---- callbacks of its parts ------------------------------------------------------------------ */

static void on_news(wq_listener *listener)
{
    wq_held *held = H2O_STRUCT_FROM_MEMBER(wq_held, listener, listener);
    held->news(held);
}

static void on_timer(wq_timer *timer)
{
    wq_held *held = H2O_STRUCT_FROM_MEMBER(wq_held, timer, timer);
    held->timeout(held);
}

static void on_held_client_gone(wq_client *client)
{
    wq_held *held = H2O_STRUCT_FROM_MEMBER(wq_held, client, client);
    atomic_fetch_add(&held->http->clients_left, 1);
    held->gone(held);
}

void wq_held_deadline(wq_held *held, int64_t at)
{
    wq_timer_set(&held->loop->timers, &held->timer, at);
}

/* ---- hold and release ------------------------------------------------------------------------ */

static void attend_to_client(wq_loop *loop, wq_held *held)
{
    int unsent = UNSENT_BYTES;
    held->fd = h2o_socket_get_fd(held->req->conn->callbacks->get_socket(held->req->conn));
    if (held->is_detached) {
        LIST_INSERT_HEAD(&loop->detached, held, detached);
        wq_client_limit_stall(held->fd, held->http->options.stall_timeout_ms);
    } else {
        held->client = (wq_client){.fd = held->fd,
                                   .stall_timeout_ms = held->http->options.stall_timeout_ms,
                                   .gone = on_held_client_gone};
        wq_clients_add(&loop->clients, &held->client);
    }
    /* Not put off: a client that reads nothing would have the kernel queue as much as it likes
     * meanwhile. Harmless where it is no TCP socket. */
    setsockopt(held->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

static void give_back_room(wq_http *http, wq_held *held)
{
    atomic_fetch_sub(&http->n_held, 1);
    wq_peer_give_back(http->holders, held->peer);
    held->peer = NULL;
}

static int refuse_held(const wq_held *held, int result, size_t most, const char *whose)
{
    wq_error full = {0};
    snprintf(full.message, sizeof full.message,
             "%zu responses are being held%s, as many as may; try again later", most, whose);
    wq_problem_result(held->req, result, result == WQ_ERROR_NO_MEMORY ? NULL : &full, RETRY_S);
    return 0;
}

/* Of all responses, and of those of its client. */
static int has_room(wq_http *http, wq_held *held)
{
    wq_address client = wq_request_client(http->proxies, held->req);
    int result = wq_peer_take(http->holders, client, &held->peer);
    if (result != WQ_OK)
        return refuse_held(held, result == WQ_ERROR_FULL ? WQ_ERROR_USER_FULL : result,
                           wq_peers_share(http->holders), " for this address");
    if (atomic_fetch_add(&http->n_held, 1) < http->options.max_streams)
        return 1;
    give_back_room(http, held);
    return refuse_held(held, WQ_ERROR_FULL, http->options.max_streams, "");
}

int wq_hold(wq_held *held, wq_job *job)
{
    wq_http *http = held->http;
    held->loop = wq_loop_of(http, held->req);
    held->job = NULL;
    held->listener = (wq_listener){.hear = on_news};
    held->timer = (wq_timer){.fire = on_timer};
    held->fd = -1;
    if (!has_room(http, held)) {
        wq_job_unref(job);
        return -1;
    }
    if (job != NULL && wq_hold_join(held, job) != 0) {
        give_back_room(http, held);
        wq_problem_result(held->req, WQ_ERROR_NO_MEMORY, NULL, RETRY_S);
        return -1;
    }
    attend_to_client(held->loop, held);
    if (!held->is_detached) /* its handshake ends the request */
        wq_request_slim(held->req);
    atomic_fetch_add(&http->held[held->face], 1);
    atomic_fetch_add(&http->requests[held->face], 1);
    return 0;
}

int wq_hold_join(wq_held *held, wq_job *job)
{
    if (wq_news_join(&held->loop->news, job, &held->listener) != 0)
        return -1;
    held->job = held->listener.job;
    return 0;
}

void wq_hold_leave(wq_held *held)
{
    if (held->job == NULL)
        return;
    held->job = NULL;
    wq_news_leave(&held->listener);
}

void wq_release(wq_held *held)
{
    if (held->fd < 0)
        return;
    wq_timer_clear(&held->loop->timers, &held->timer);
    if (held->is_detached)
        LIST_REMOVE(held, detached);
    else
        wq_clients_remove(&held->loop->clients, &held->client);
    held->fd = -1;
    give_back_room(held->http, held);
    atomic_fetch_sub(&held->http->held[held->face], 1);
    wq_hold_leave(held);
}

/* ---- the end of a loop ----------------------------------------------------------------------- */

void wq_held_stop_detached(wq_loop *loop)
{
    wq_held *held = LIST_FIRST(&loop->detached), *next;
    for (; held != NULL; held = next) {
        next = LIST_NEXT(held, detached);
        if (held->job == NULL)
            held->news(held);
    }
}

void wq_held_stop_all(wq_loop *loop)
{
    wq_news_tell_all(&loop->news);
    wq_held_stop_detached(loop);
}

void wq_held_cut_detached(wq_loop *loop)
{
    wq_held *held;
    LIST_FOREACH(held, &loop->detached, detached)
    held->gone(held);
}

void wq_held_end_detached(wq_loop *loop)
{
    wq_held_cut_detached(loop);
    for (int i = 0; i < END_ROUNDS && !LIST_EMPTY(&loop->detached); i++)
        h2o_evloop_run(loop->ctx->loop, 10);
    while (!LIST_EMPTY(&loop->detached)) /* lost, but let go of the jobs */
        wq_release(LIST_FIRST(&loop->detached));
}
