/* guard.h - rules for every request of every connection, whatever path it asks for: framing, the
 * size of its head, how long it may take to arrive, how fast its answer must be taken, and turns.
 * Faces, and a host's own routes, contain no such rule. */
#ifndef WQ_HTTP_SERVER_GUARD_H
#define WQ_HTTP_SERVER_GUARD_H

#include "workqueue/http/hold/timers.h"
#include "workqueue/http/http.h"

typedef struct wq_guarded wq_guarded;

/* What the connections of one loop have in common. */
typedef struct wq_guards {
    wq_http *http;
    wq_timers *timers;
    unsigned request_timeout_ms, idle_timeout_ms;
    wq_timer turn;
    /* For their next turn: those that go on behind an answer, and those with a first request, which
     * take turns, so that newcomers do not wait for all that others have sent in advance. */
    TAILQ_HEAD(, wq_guarded) waiting[2];
    uint64_t turn_at;                 /* the loop's time, in which requests have been begun, */
    int64_t turn_began_us;            /* and when the first of them was */
} wq_guards;

void wq_guards_init(wq_guards *guards, wq_http *http, wq_timers *timers,
                    unsigned request_timeout_ms, unsigned idle_timeout_ms);

/* Takes over a connection that libh2o has begun to read; `on_close` is called when it is closed. 0,
 * or -1: no memory, and nothing has been done. */
int wq_guard(wq_guards *guards, h2o_socket_t *sock, void (*on_close)(void *data), void *data);

/* Every path of the host tells the guard when a request's answer is sent. For those that are there:
 * to be called last. */
void wq_guard_host(h2o_hostconf_t *host);

#endif
