/* queue.h - what a queue is put together of, and what its core keeps under its lock. */
#ifndef WQ_CORE_QUEUE_H
#define WQ_CORE_QUEUE_H

#include <workqueue/extend.h>

#include "workqueue/core/job.h"
#include "workqueue/core/known.h"
#include "workqueue/core/news.h"
#include "workqueue/core/owner.h"
#include "workqueue/core/stats.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/tables.h"

enum { WQ_GENERATIONS = 256 };

/* Where entries are written; the journal's functions, or a test's. */
typedef struct wq_recorder {
    struct wq_journal *self; /* NULL: there is no journal */
    int (*write)(struct wq_journal *self, wq_entry *entry, wq_want want, int rebuild,
                 const wq_entry_end *end, wq_company company);
    void (*flush_soon)(struct wq_journal *self);
} wq_recorder;

/* A run that is under way: in a worker, or with an asynchronous runner. */
typedef struct wq_run_state {
    wq_job *job;   /* borrowed: who runs it has a reference; NULL: detached */
    int64_t begun; /* when the program began, monotonic; 0: not yet */
    int stop_requested;
    /* Asks the program to end; under the core's lock. */
    void (*request_stop)(struct wq_run_state *run);
} wq_run_state;

struct wq_queue {
    wq_owner owner; /* first */
    wq_logger logger;
    size_t max_queue, max_per_user, max_per_server, max_per_peer; /* 0: any number */
    int counts_local; /* peers on this machine are held to max_per_peer, too */
    int fair;
    unsigned workers;
    int asynchronous;                                               /* the runner is */
    unsigned run_timeout_ms, progress_timeout_ms, queue_timeout_ms; /* 0: none */
    unsigned max_attempts;
    uint64_t max_output_bytes; /* 0: any */
    size_t stderr_bytes;       /* of each job, that are kept for those who follow it */

    /* what it is put together of; see workqueue.c */
    wq_runner *runner; /* to be told of deletions; closed by its workers or async_runner */
    wq_store *store;
    struct wq_lookups *lookups; /* NULL: the store does not block */
    struct wq_publisher *publisher;
    struct wq_pool *pool;          /* of workers; NULL: the runner is asynchronous */
    struct wq_async_runner *async; /* NULL: there are workers */
    struct wq_watchdog *watchdog;  /* NULL: there are no limits */
    void (*interest)(wq_job *job); /* somebody looks at it; NULL: nobody wants to know */
    wq_recorder recorder;
    wq_watchers watchers; /* of positions */
    wq_job_news news;     /* of jobs */
    atomic_ullong store_errors;
    atomic_int store_fails; /* it did when it was last asked */
    char *folders[2];       /* of the storage and of the journal; NULL: there is none */
    atomic_size_t n_ready; /* jobs that could be taken; written under the lock */

    pthread_mutex_t lock; /* the core's */
    /* under the lock */
    pthread_cond_t work;       /* a job waits, or it is time to stop */
    pthread_cond_t stopped;    /* the queue stops; on CLOCK_MONOTONIC */
    pthread_cond_t unused;     /* nobody uses the store, or the runner, any more */
    size_t store_users;        /* calls about jobs that are in the store now */
    size_t runner_users;       /* calls about jobs elsewhere that are in the runner now */
    wq_order order;            /* BLOCKED, WAITING and SENT jobs */
    struct wq_job_list by_age; /* the same, those that came first in front */
    int64_t next_seq;
    wq_users users;   /* where they are counted: max_per_user, fair */
    wq_users servers; /* likewise: max_per_server */
    wq_users peers;   /* likewise: max_per_peer, fair; of jobs whose peer is known */
    wq_table by_key;  /* heads of lines; the queue's reference to a job is until it is forgotten */
    wq_known known;
    size_t n[WQ_PHASES]; /* of the phases from ADMITTING to SETTLING, and ENDED */
    wq_counters counters;
    uint64_t generations[WQ_GENERATIONS]; /* by keys; see wq_life_generation_locked() */
    int stopping, closed;
};

/* Who is to be told, answered and forgotten. */
typedef struct wq_effects {
    wq_job *job;                 /* counted: its watchers */
    struct wq_jobs_to_tell more; /* counted: ended with it */
    struct wq_asks asks;         /* each has its job, or there is an error */
    wq_error error;
    wq_job *evicted;                /* counted; a list by `behind` */
    int positions;                  /* of those who wait */
    char warning[WQ_ID_SIZE + 104]; /* to be logged, unless empty */
} wq_effects;

/* BLOCKED, WAITING and SENT. */
static inline size_t wq_n_in_order(const wq_queue *q)
{
    return q->n[WQ_PHASE_BLOCKED] + q->n[WQ_PHASE_WAITING] + q->n[WQ_PHASE_SENT];
}

#endif
