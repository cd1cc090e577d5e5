/* held.h - a held response: one that waits for news of a job, for a thread, or for its client.
 *
 * All of this runs on the loop's own thread. */
#ifndef WQ_HTTP_HOLD_HELD_H
#define WQ_HTTP_HOLD_HELD_H

#include "workqueue/http/hold/loop.h"

typedef struct wq_held wq_held;

/* The face embeds it, in the request's pool, or, if it is detached, in memory of its own. */
struct wq_held {
    wq_http *http;
    wq_face face;
    wq_loop *loop;
    h2o_req_t *req;   /* of a detached one only until wq_hold() returns */
    wq_loop_job *job; /* NULL: it waits for its client only, or has been released */
    wq_listener listener;
    int is_detached; /* the connection will be no HTTP one: the face reads it and sees its client
                        leave; `gone` is then the loop without more time: shut it down */
    LIST_ENTRY(wq_held) detached;
    wq_client client;
    wq_peer *peer; /* whose share it is of */
    int fd; /* the client's; -1 once released */
    wq_timer timer;
    void (*news)(wq_held *held);    /* job->record or its state has changed, or it is time to end (a
                                       detached one without a job is called for that only) */
    void (*timeout)(wq_held *held); /* the deadline has passed; sets a new one or releases */
    void (*gone)(wq_held *held);    /* the client has left */
};

/* Begins to hold: `held` has http, face, req and callbacks set; takes over the reference to `job`,
 * which may be NULL for a response that waits for something else. 0, or -1 and a problem has been
 * answered (too many are held, or memory ran out). job->snapshot and record are there on return. A
 * response that has not been started has no `stop`: wq_release() it before it is answered, and
 * answer it in any case, when its client has gone too. */
int wq_hold(wq_held *held, wq_job *job);

/* Ends to hold: before the response's last send, or in `stop`. Once, at any time. */
void wq_release(wq_held *held);

/* Gives a held response without a job one; takes over the reference. 0, or -1 if memory ran out. */
int wq_hold_join(wq_held *held, wq_job *job);

/* Lets go of the job, if there is one, and goes on to hold. */
void wq_hold_leave(wq_held *held);

/* Sets the deadline, to any time. */
void wq_held_deadline(wq_held *held, int64_t at);

/* The loop stops: all that wait are told. Detached ones that have no job wait for nothing that ends
 * by itself, so they can be told alone. */
void wq_held_stop_all(wq_loop *loop);
void wq_held_stop_detached(wq_loop *loop);

/* The loop has no more time: shuts the detached ones down; it must run on a little for them to end.
 */
void wq_held_cut_detached(wq_loop *loop);

/* The same, and runs the loop until they have ended. */
void wq_held_end_detached(wq_loop *loop);

#endif
