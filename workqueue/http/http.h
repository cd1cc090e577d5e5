/* http.h - the mounted faces, as the rooms of http/ see them. */
#ifndef WQ_HTTP_HTTP_H
#define WQ_HTTP_HTTP_H

#include <h2o.h>
#include <stdatomic.h>
#include <workqueue/http.h>

#include "workqueue/http/hold/peers.h"
#include "workqueue/http/hold/posts.h"
#include "workqueue/http/request/request.h"

/* What holds a response, for the operator. */
typedef enum wq_face {
    WQ_FACE_STREAM, /* /generate and the like */
    WQ_FACE_WEBSOCKET,
    WQ_FACE_POLL,   /* /work/{id} */
    WQ_FACE_RUN,    /* /run */
    WQ_FACE_RESULT, /* an output on its way to a client */
    WQ_FACE_DELETION,
    WQ_FACE_WORK, /* what a thread does for a request */
    WQ_FACE_LIST, /* the news of all jobs */
    WQ_FACES
} wq_face;

struct wq_http {
    wq_queue *queue;
    wq_http_options options; /* but for allow_servers, which is in limits */
    wq_request_limits limits;
    wq_proxies *proxies; /* that are trusted to say whom they speak for */
    wq_peers *holders;   /* how many responses are held for each client */
    int64_t mounted_s; /* CLOCK_MONOTONIC */
    size_t mount_len; /* of options.mount_path */
    h2o_handler_t *anchor; /* a wq_route; its context is the wq_loop of that context */
    int has_journal;
    int asks_block; /* the queue has a journal, or a store that blocks: its answer is waited for */
    atomic_size_t n_held;
    atomic_size_t held[WQ_FACES];
    atomic_ullong requests[WQ_FACES], bytes_sent; /* begun to hold; of bodies that were held */
    atomic_ullong clients_left, clients_stalled;  /* before the end; dropped by us */
    struct wq_lunkwill *lunkwill;
    struct wq_tasks *tasks;
    struct wq_threads *threads;
    struct wq_asks *asks;
    atomic_int is_deleting; /* all outputs of somebody */
    atomic_int stopping;
    wq_inboxes inboxes; /* a thread's way to the loops */
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

#endif
