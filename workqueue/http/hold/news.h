/* news.h - news of jobs, on their way from a worker to the responses of one event loop.
 *
 *     worker: on_job_changed() ─► message ─► loop: refresh_job() ─► every listener of the job
 *
 * A worker marks the job once per loop, however many listen there; the loop takes one snapshot,
 * renders the record once and hands it to all. Positions in the queue are news of their own: see
 * news.c. All functions are for the loop's own thread. */
#ifndef WQ_HTTP_HOLD_NEWS_H
#define WQ_HTTP_HOLD_NEWS_H

#include <h2o.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <workqueue/workqueue.h>

#include "workqueue/http/hold/timers.h"

typedef struct wq_loop_job wq_loop_job;

typedef struct wq_news {
    wq_timers *timers;
    h2o_multithread_queue_t *messages;
    h2o_multithread_receiver_t receiver;
    void *by_job; /* tsearch: wq_loop_job by wq_job */
    LIST_HEAD(, wq_loop_job) jobs;
    /* positions */
    wq_watch *watch;
    h2o_multithread_message_t message;
    atomic_int is_marked;
    wq_timer timer;
    int64_t told_at;
    LIST_HEAD(, wq_loop_job) queued;
    size_t n_queued;
} wq_news;

typedef struct wq_listener {
    wq_loop_job *job;
    LIST_ENTRY(wq_listener) link;
    void (*hear)(struct wq_listener *listener); /* job->record or its state has changed, or the
                                                   loop stops; may leave, this one only */
} wq_listener;

/* One job on one loop, shared by its listeners. */
struct wq_loop_job {
    h2o_multithread_message_t message;
    atomic_int is_marked; /* the message is on its way */
    wq_news *news;
    wq_job *job;     /* counted */
    wq_watch *watch; /* NULL: nobody listens */
    LIST_HEAD(, wq_listener) listeners;
    LIST_ENTRY(wq_loop_job) link;
    LIST_ENTRY(wq_loop_job) queued_link; /* while queued: positions are news */
    atomic_int is_queued;
    wq_snapshot snapshot; /* the present one; one that `resumes` is told by no record */
    h2o_iovec_t record;   /* it in JSON; h2o's shared memory, counted */
    uint64_t serial;      /* grows whenever the record changes */
};

/* Ends the process without memory, as libh2o does when it makes a context. */
void wq_news_open(wq_news *news, wq_queue *queue, wq_timers *timers,
                  h2o_multithread_queue_t *messages);

/* Nobody listens any more. */
void wq_news_close(wq_news *news);

/* Listens to the job; takes over the reference. 0, and listener->job is there with its snapshot and
 * record; or -1 if memory ran out. */
int wq_news_join(wq_news *news, wq_job *job, wq_listener *listener);

/* Once for each that has joined. */
void wq_news_leave(wq_listener *listener);

/* All hear, as something other than their job has changed. */
void wq_news_tell_all(wq_news *news);

#endif
