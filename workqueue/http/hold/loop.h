/* loop.h - what a face needs of an event loop: news of jobs, deadlines, and clients that leave.
 *
 * A worker that has news marks the job once per loop; the loop renders the record once and hands it
 * to every held response of that job. Everything below runs on the loop's own thread, but for
 * wq_http_stop(). */
#ifndef WQ_LOOP_H
#define WQ_LOOP_H

#include <h2o.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <workqueue/http.h>

#include "workqueue/http/request/request.h"

typedef struct wq_loop wq_loop;
typedef struct wq_loop_job wq_loop_job;
typedef struct wq_held wq_held;

/* What holds a response, for the operator. */
typedef enum wq_face {
    WQ_FACE_STREAM, /* /generate and the like */
    WQ_FACE_WEBSOCKET,
    WQ_FACE_POLL,   /* /work/{id} */
    WQ_FACE_RUN,    /* /run */
    WQ_FACE_RESULT, /* an output on its way to a client */
    WQ_FACE_DELETION,
    WQ_FACE_LIST, /* jobs, outputs and numbers for the operator */
    WQ_FACES
} wq_face;

struct wq_http {
    wq_queue *queue;
    wq_http_options options; /* but for allow_servers, which is in limits */
    wq_request_limits limits;
    h2o_handler_t *anchor; /* a wq_route; its context is the wq_loop of that context */
    atomic_size_t n_held;
    atomic_size_t held[WQ_FACES];
    atomic_ullong requests[WQ_FACES], bytes_sent; /* begun to hold; of bodies that were held */
    atomic_ullong clients_left, clients_stalled;  /* before the end; dropped by us */
    struct wq_lunkwill *lunkwill;
    struct wq_tasks *tasks;
    struct wq_threads *threads;
    struct wq_parking *parking;
    int parks; /* the queue has a journal, or a store that blocks: requests wait for its answer */
    atomic_int is_deleting; /* all outputs of somebody */
    atomic_int stopping;
    pthread_mutex_t lock;
    LIST_HEAD(, wq_loop) loops; /* under the lock */
};

/* A path and what answers it. */
typedef struct wq_route {
    h2o_handler_t super;
    wq_http *http;
    const char *path;
    int (*answer)(wq_http *http, h2o_req_t *req, h2o_iovec_t rest);
} wq_route;

/* A response that waits for news of a job. The face embeds it, in the request's pool, or, if it is
 * detached, in memory of its own. */
struct wq_held {
    wq_http *http;
    wq_face face;
    wq_loop *loop;
    h2o_req_t *req;   /* of a detached one only until wq_hold() returns */
    wq_loop_job *job; /* NULL: it waits for its client only, or has been released */
    LIST_ENTRY(wq_held) link;
    int is_detached; /* the connection will be no HTTP one: the face reads it and sees its client
                        leave; `gone` is then the loop without more time: shut it down */
    int is_watched;  /* one that is not detached, for its client leaving */
    LIST_ENTRY(wq_held) apart; /* with the detached, or with those that are not watched yet */
    int fd;                    /* the client's; -1 once released */
    int64_t
        deadline; /* CLOCK_MONOTONIC ms; may be moved later freely, earlier by wq_held_deadline */
    size_t heap;  /* where in the loop's heap, from 1; 0: no deadline */
    void (*news)(wq_held *held);    /* job->record or its state has changed, or it is time to end (a
                                       detached one without a job is called for that only) */
    void (*timeout)(wq_held *held); /* the deadline has passed; sets a new one or releases */
    void (*gone)(wq_held *held);    /* the client has left */
};

/* One job on one loop, shared by its held responses. */
struct wq_loop_job {
    h2o_multithread_message_t message;
    atomic_int marked; /* the message is on its way */
    wq_loop *loop;
    wq_job *job;     /* counted */
    wq_watch *watch; /* NULL: the job has ended, or nobody holds */
    LIST_HEAD(, wq_held) held;
    LIST_ENTRY(wq_loop_job) link;
    LIST_ENTRY(wq_loop_job) waiting; /* while queued: positions are news */
    atomic_int is_waiting;
    wq_snapshot snapshot; /* the present one */
    h2o_iovec_t record;   /* it in JSON; h2o's shared memory, counted */
    uint64_t serial;      /* grows whenever the record changes */
};

/* Begins to hold: `held` has http, face, req and callbacks set; takes over the reference to `job`,
 * which may be NULL for a response that only takes long to send. 0, or -1 and a problem has been
 * answered (too many are held, or memory ran out). job->snapshot and record are there on return. A
 * response that has not been started has no `stop`: wq_release() it before it is answered, and
 * answer it in any case, when its client has gone too. */
int wq_hold(wq_held *held, wq_job *job);

/* Ends to hold: before the response's last send, or in `stop`. Once, at any time. */
void wq_release(wq_held *held);

/* Gives a hold without a job one; takes over the reference. 0, or -1 if memory ran out. */
int wq_hold_join(wq_held *held, wq_job *job);

/* Lets go of the job, if there is one, and goes on to hold. */
void wq_hold_leave(wq_held *held);

/* The loop of `ctx` stops: tells the detached ones that wait for no job, so for nothing that ends
 * by itself. And when it has no more time: shuts all down that are left, and the loop must run on a
 * little for them to end. For who runs the loop, on its thread. */
void wq_loop_stop(wq_http *http, h2o_context_t *ctx);
void wq_loop_cut(wq_http *http, h2o_context_t *ctx);

/* Sets the deadline, to any time. */
void wq_held_deadline(wq_held *held, int64_t at);

/* What a thread that is no loop's has done for a request, on its way back. The request may end
 * before, so it is not the thread's to look at: whoever embeds this holds it, or notes its end by
 * h2o_mem_alloc_shared(), on the loop. */
typedef struct wq_post {
    h2o_multithread_message_t message;
    wq_loop *loop;
    void (*arrive)(struct wq_post *post); /* called on the loop; the memory is its own again */
} wq_post;

/* The loop of a request, for its posts. */
wq_loop *wq_loop_of(wq_http *http, h2o_req_t *req);

/* From any thread, before wq_http_free(): 0, and post->arrive will be called; or -1, the loop has
 * ended, and the request with it. */
int wq_post_send(wq_http *http, wq_post *post);

/* Has the loop of this request call wq_lunkwill_sweep() at that time, or before. */
void wq_loop_sweep(wq_http *http, h2o_req_t *req, int64_t at);

/* Milliseconds by CLOCK_MONOTONIC. */
int64_t wq_loop_now(void);

/* Makes a wq_loop of every context to come; called by mount, once, with any route. */
void wq_loops_attach(wq_http *http, wq_route *anchor);

#endif
