/* queue.h - admission, one job per key, order and exact position. It has no threads: callers put
 * jobs in, workers take them out and say how they ended. */
#ifndef WQ_QUEUE_H
#define WQ_QUEUE_H

#include <pthread.h>
#include <workqueue/extend.h>

#include "workqueue/core/job.h"
#include "workqueue/core/fairness.h"
#include "workqueue/util/log.h"
#include "workqueue/util/tables.h"

struct wq_pool;
struct wq_journal;
struct wq_lookups;

enum { WQ_GENERATIONS = 256 };
enum { WQ_OWN_FAILURE = -999 }; /* the returncode where the program is not to blame */

struct wq_queue {
    atomic_uint refs; /* the handle's, and one for each job */
    wq_logger logger;
    size_t max_queue, max_ended, max_per_user, max_per_server;
    int fair;
    unsigned workers;
    int asynchronous, wants_interest; /* the runner is, and does */
    wq_runner *runner;                /* to be told of deletions; the pool's or the dispatcher's */
    int64_t retain_ended_ms;
    unsigned run_timeout_ms, progress_timeout_ms, queue_timeout_ms; /* 0: none */
    uint64_t max_output_bytes;                                      /* likewise */
    wq_store *store;
    struct wq_pool *pool;
    struct wq_journal *journal; /* NULL: there is none */
    struct wq_lookups *lookups; /* NULL: the store does not block */
    wq_watchers watchers;       /* of positions */
    atomic_ullong store_errors, journal_errors;
    atomic_size_t n_ready; /* jobs that could be taken; set under the lock */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t work;       /* a job waits, or it is time to stop */
    pthread_cond_t stops;      /* `stopping` is set; on CLOCK_MONOTONIC */
    wq_order order;            /* queued jobs */
    uint64_t next_rank;        /* unless fair */
    wq_users users;            /* where they are counted: max_per_user, fair */
    wq_users servers;          /* likewise: max_per_server */
    wq_table by_key;           /* jobs that have not ended; counted */
    wq_table by_id;            /* those and the ended ones that are still known */
    wq_table by_done_key;      /* of those, the latest for each key that succeeded */
    struct wq_job_list by_age; /* queued jobs, those that came first in front */
    struct wq_job_list ended;  /* oldest first; counted */
    size_t queued, running, publishing, n_ended;
    size_t put_off; /* publishing ones that wait until the store is back */
    size_t pending; /* admitted, but not in the journal yet */
    size_t decided; /* ends that the journal does not have yet */
    uint64_t succeeded, failed, cancelled;
    uint64_t generations[WQ_GENERATIONS]; /* by keys; see wq_queue_generation_locked() */
    int64_t taken_mono;                   /* when a worker last took a job; 0: never */
    double mean_run_ms;
    wq_histogram ran, waited;
    int stopping;
};

/* Sets up the parts above but for store and pool. */
int wq_queue_init(wq_queue *queue, const wq_options *options);
wq_queue *wq_queue_ref(wq_queue *queue);
void wq_queue_unref(wq_queue *queue);

/* Forgets every ended job. Nothing else refers to the queue any more but references to jobs. */
void wq_queue_forget(wq_queue *queue);

/* Counts what the store answered, if it is a failure of its own; returns it. */
int wq_queue_store_said(wq_queue *queue, int result);

/* How many run or wait in front of a queued job. */
size_t wq_queue_ahead_locked(wq_queue *queue, const wq_job *job);

/* The job that has not ended for this key, with a new reference, or NULL. */
wq_job *wq_queue_by_key_locked(wq_queue *queue, const char *key);

/* Counts ends of jobs with this key, and of some others: a key that was looked up before an end
 * must be looked up again. Not all ends together, as a slow store would then never be done. */
uint64_t *wq_queue_generation_locked(wq_queue *queue, const char *key);

/* Lets a new job in; the queue takes a reference of its own. If `before` is not NULL, the job waits
 * for that one of the same key to end. With a journal it is pending until that has it. */
int wq_queue_admit_locked(wq_queue *queue, wq_job *job, wq_job *before, wq_error *error);

/* The journal has a pending job: it joins the row, and who waits for it is told. */
void wq_queue_accepted(wq_queue *queue, wq_job *job);

/* The journal could not take a pending job, which never was: who waits for it is told why. */
void wq_queue_refused(wq_queue *queue, wq_job *job, const wq_error *error);

/* The journal has a job that had succeeded already, or cannot have it now: its askers are told. */
void wq_queue_known(wq_queue *queue, wq_job *job);

/* The journal has the end of a job that was decided, or cannot have it now: everybody is told. The
 * caller has a reference of his own. */
void wq_queue_ended(wq_queue *queue, wq_job *job);

/* Puts back a job of an earlier process that has not ended, or one that has. */
int wq_queue_put_back(wq_queue *queue, wq_job *job, wq_error *error);
int wq_queue_put_back_ended(wq_queue *queue, wq_job *job);

/* Whether a job need not run, because its output is there. Calls the store. */
/* A program has died as of a signal that also a stop of the service would send it: waits shortly for
 * wq_stop(). Nonzero if the queue stops. */
int wq_queue_wait_for_stop(wq_queue *queue, int may_come);

int wq_queue_is_in_place(wq_queue *queue, const wq_job *job);

/* What is said to those whose jobs end because the queue stops; always the same pointer. */
const char *wq_queue_why_stopping(const wq_queue *queue);

/* Remembers a new job as one that has succeeded already. With a journal it is pending until that
 * has it, so that its id is known after a restart, too. */
int wq_queue_remember(wq_queue *queue, wq_job *job);

/* The job for this key that succeeded and stays known for a while, with a new reference, or NULL.
 */
wq_job *wq_queue_done_locked(wq_queue *queue, const char *key);

/* Takes a job and makes it RUNNING; its reference is the caller's until wq_queue_finish(). If there
 * is none: NULL at once, or with `wait` only when the queue is stopping. */
wq_job *wq_queue_take(wq_queue *queue, int wait);

/* Is there a job that is ready? Not while the journal is so far behind: what has ended must not
 * gather without bound. */
int wq_queue_may_take_locked(const wq_queue *queue);

/* For an asynchronous runner: the first job that is ready, with a new reference. It stays QUEUED,
 * where it is in the row, but is ready no more. There is one. */
wq_job *wq_queue_send_locked(wq_queue *queue);

/* Fewer jobs are ready than there are workers, so one may soon have nothing to do: then neither the
 * journal nor the publisher lets anybody wait for company. With or without the lock. */
int wq_queue_is_hungry(const wq_queue *queue);

/* QUEUED to RUNNING; watchers are the caller's to tell. */
void wq_queue_start_locked(wq_queue *queue, wq_job *job);

/* RUNNING to PUBLISHING: frees the place in the row. */
void wq_queue_publishing(wq_queue *queue, wq_job *job);

/* The end of a job, whatever its state; tells everybody, or with a journal has everybody told once
 * that has it. */
void wq_queue_finish(wq_queue *queue, wq_job *job, int state, int returncode, const char *error);

/* Likewise, as FAILED, which is logged. */
void wq_queue_fail(wq_queue *queue, wq_job *job, int returncode, const char *error);

/* Takes a queued job out of the row and ends it as cancelled; 0 if it was not queued any more,
 * unless it ends so already. */
int wq_queue_cancel_queued(wq_queue *queue, wq_job *job, const char *why);

/* Likewise, but the job has failed. */
int wq_queue_fail_queued(wq_queue *queue, wq_job *job, const char *why);

/* Nonzero if nobody insists on this job or watches it: then nobody joins it any more, and it is to
 * be cancelled. */
int wq_queue_abandon(wq_queue *queue, wq_job *job);

/* Ends a RUNNING job that an asynchronous runner has, because the queue stops; nothing if it has
 * none any more. The journal keeps it, unless it was being cancelled. */
void wq_queue_put_down_running(wq_queue *queue, wq_job *job);

/* Takes all queued jobs out of the row, because the queue stops. The journal keeps them. */
void wq_queue_put_down(wq_queue *queue);

#endif
