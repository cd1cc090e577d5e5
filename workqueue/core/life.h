/* life.h - the life of a job: its phases, and the one place where they change.
 *
 *     NEW ─admit─► ADMITTING ─journalled─► BLOCKED ─head of its line─► WAITING ─taken─► STARTING
 *                    │ refused                                          │ sent            │ begins
 *                   GONE                                               SENT ─────────► RUNNING
 *                                                                                         │ over
 *     any before SETTLING ─end─► SETTLING ─written─► ENDED ◄── PUT_OFF ◄─store away─ HANDED
 *
 * Without a journal ADMITTING and SETTLING are passed over. An end that is for this process only is
 * not written either.
 *
 * A job's wish is what somebody wants of it before its end; every end passes decide_end(), which
 * reads it. So a cancel that was answered with yes never ends as a success, and what a stop of the
 * queue interrupts goes on after the restart if there is a journal.
 *
 * The jobs of one key stand in line: `by_key` has its head, `behind` leads to the next. Only the
 * head may wait or run. A head that has succeeded ends those behind it that ask for no rebuild.
 *
 * What a change means for others (who is to be told, answered, forgotten) gathers in `effects` and
 * is carried out when the lock is free, by who has made the change. No store, runner or watcher is
 * called with the lock held. */
#ifndef WQ_CORE_LIFE_H
#define WQ_CORE_LIFE_H

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
    wq_job_news news;         /* of jobs */
    atomic_ullong store_errors;
    atomic_size_t n_ready; /* jobs that could be taken; written under the lock */

    pthread_mutex_t lock; /* the core's */
    /* under the lock */
    pthread_cond_t work;       /* a job waits, or it is time to stop */
    pthread_cond_t stopped;    /* the queue stops; on CLOCK_MONOTONIC */
    pthread_cond_t unused;     /* nobody uses the store any more */
    size_t store_users;        /* calls about jobs that are in the store now */
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

int wq_life_init(wq_queue *queue, const wq_options *options);
void wq_life_dispose(wq_queue *queue);

/* ---- in -------------------------------------------------------------------------------------- */

/* Lets a new job in, at the end of its line; the queue takes a reference. `ask` (not NULL with a
 * journal) is answered when that has it: WQ_PENDING. WQ_OK without a journal, or an error. */
int wq_life_admit_locked(wq_queue *queue, wq_job *job, wq_ask *ask, wq_effects *effects,
                         wq_error *error);

/* The job that a question joins, borrowed, or NULL if it has to begin a new one. */
wq_job *wq_life_joinable_locked(wq_queue *queue, const char *key, unsigned flags);

/* The question joins this job; its reference is the caller's, or with WQ_PENDING the ask's. */
int wq_life_join_locked(wq_queue *queue, wq_job *job, unsigned flags, wq_ask *ask, int result,
                        wq_job **out);

/* A new job that is remembered as one that has succeeded already. */
int wq_life_remember_locked(wq_queue *queue, wq_job *job, wq_ask *ask, wq_effects *effects,
                            wq_job **out);

/* A job of an earlier process. */
int wq_life_restore(wq_queue *queue, wq_job *job, const wq_journal_row *row, wq_error *error);

/* Counts ends of jobs with this key, and of some others: a key that was looked up before an end
 * must be looked up again. Not all ends together, as a slow store would then never be done. */
uint64_t *wq_life_generation_locked(wq_queue *queue, const char *key);

/* ---- through --------------------------------------------------------------------------------- */

/* WAITING to STARTING, and the job is the run's; a reference is the caller's. If there is none:
 * NULL at once, or with `wait` only when the queue stops. */
wq_job *wq_life_take(wq_queue *queue, wq_run_state *run, int wait);

/* Could a job be taken? Not while the journal is so far behind: what has ended must not gather
 * without bound. */
int wq_life_has_ready_locked(const wq_queue *queue);

/* WAITING to SENT, likewise. There is one. */
wq_job *wq_life_send_locked(wq_queue *queue, wq_run_state *run);

/* STARTING or SENT to RUNNING. Zero, and nothing has changed, if the run is detached, if its
 * program ran already, or if it need not begin, as it is to end: wq_life_over() is next. */
int wq_life_begin(wq_queue *queue, wq_run_state *run, uint64_t estimate_ms);

/* The run's job, if it is its own to end; a run that is detached has none. */
wq_job *wq_life_detach(wq_queue *queue, wq_run_state *run);

/* RUNNING to HANDED: the program has succeeded. Zero if its wish was stronger, and then it has
 * ended: nothing is to be published. */
int wq_life_hand(wq_queue *queue, wq_job *job);

/* HANDED to PUT_OFF: the store is away. */
void wq_life_put_off(wq_queue *queue, wq_job *job);

/* The end of a job, whatever its phase; as its wish would have it. `error` is copied. */
void wq_life_end(wq_queue *queue, wq_job *job, int state, int returncode, const char *error);

/* Likewise, as FAILED, which is logged. */
void wq_life_fail(wq_queue *queue, wq_job *job, int returncode, const char *error);

/* What the journal has come to; its callback. */
void wq_life_written(void *queue, wq_entry *entry, const wq_written *written);

/* ---- wishes ---------------------------------------------------------------------------------- */

/* WQ_OK: the job ends as cancelled, at once or soon. WQ_DONE: it is too late. */
int wq_life_cancel(wq_queue *queue, wq_job *job);

/* Likewise, if nobody insists on the job or watches it. */
int wq_life_abandon(wq_queue *queue, wq_job *job);

/* It is to fail, as a limit was reached, which is logged: nothing if somebody has wished something
 * before. */
void wq_life_limit_locked(wq_queue *queue, wq_job *job, const char *why, wq_effects *effects);

/* What is wished of a job; with LIMIT its sentence stays as it is. */
wq_wish wq_life_wish(wq_queue *queue, const wq_job *job);

/* The queue stops: what waits ends at once, what runs is asked to. */
void wq_life_stop(wq_queue *queue);

/* The queue stops: the run is asked to end. */
void wq_life_stop_run_locked(wq_run_state *run);

/* The queue stops, and nobody waits for what the job is at: it ends here, and with a journal it
 * runs again after the restart. Nothing if it has ended, or is settling. */
void wq_life_interrupt(wq_queue *queue, wq_job *job);

/* Forgets every ended job. Nothing refers to the queue any more but references to jobs. */
void wq_life_forget_all(wq_queue *queue);

/* ---- looking --------------------------------------------------------------------------------- */

/* How many run or wait in front of a job that waits; 0 for others. */
size_t wq_life_ahead_locked(wq_queue *queue, const wq_job *job);

/* Fewer jobs are ready than there are workers, so that one may soon have nothing to do: then
 * neither the journal nor the publisher has anybody wait for company. */
int wq_life_has_idle_worker(const wq_queue *queue);

/* Whether the output of a job is in place already, so that it need not run. Calls the store. */
int wq_life_is_in_place(wq_queue *queue, const wq_job *job);

/* Counts what the store answered, if it is a failure of its own; returns it. */
int wq_life_count_store_result(wq_queue *queue, int result);

void wq_effects_init(wq_effects *effects);

/* Without the lock. */
void wq_effects_carry_out(wq_queue *queue, wq_effects *effects);

#endif
