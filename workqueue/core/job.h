/* job.h - one job: what names it, its latest progress, and who watches it. Where it is in its life
 * is written by life.c and nobody else.
 *
 * Locks, in this order: watchers, core (life.h), then journal or publisher, and the job's last. The
 * watchers' lock is held while callbacks run, so that wq_watch_cancel() can promise silence; a
 * callback may take snapshots, which needs core and job. */
#ifndef WQ_CORE_JOB_H
#define WQ_CORE_JOB_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <workqueue/workqueue.h>

#include "workqueue/core/fairness.h"
#include "workqueue/core/order.h"
#include "workqueue/core/progress.h"
#include "workqueue/core/stderr_log.h"
#include "workqueue/journal/journal.h"
#include "workqueue/util/text.h"

/* ---- watchers -------------------------------------------------------------------------------- */

typedef struct wq_watchers {
    pthread_mutex_t lock;
    LIST_HEAD(, wq_watch) list;
} wq_watchers;

struct wq_watch {
    LIST_ENTRY(wq_watch) link;
    wq_watchers *watchers;
    wq_job *job; /* counted; NULL: watches the queue */
    wq_queue *queue;
    wq_watch_cb cb;
    void *user;
};

void wq_watchers_init(wq_watchers *watchers);
void wq_watchers_dispose(wq_watchers *watchers);
void wq_watchers_add(wq_watchers *watchers, wq_watch *watch);
void wq_watchers_remove(wq_watchers *watchers, wq_watch *watch);

/* Calls every watcher. The caller holds neither the core's lock nor a job's. */
void wq_watchers_tell(wq_watchers *watchers);

/* ---- its life; see life.h for what leads from one phase to another --------------------------- */

typedef enum wq_phase {
    WQ_PHASE_NEW,       /* not in the queue */
    WQ_PHASE_ADMITTING, /* the journal does not have it yet; nobody is told of it */
    WQ_PHASE_BLOCKED,   /* another job of its key is in front of it */
    WQ_PHASE_WAITING,   /* for its turn */
    WQ_PHASE_SENT,      /* an asynchronous runner has it; its program does not run yet */
    WQ_PHASE_STARTING,  /* a worker has it; its program does not run yet */
    WQ_PHASE_RUNNING,
    WQ_PHASE_HANDED,   /* its output is with the publisher */
    WQ_PHASE_PUT_OFF,  /* likewise, and the store is away */
    WQ_PHASE_SETTLING, /* its end is known, and with the journal; nobody is told of it yet */
    WQ_PHASE_ENDED,
    WQ_PHASE_GONE, /* refused, or forgotten: not found by anything */
    WQ_PHASES
} wq_phase;

/* What somebody wants of a job that has not ended. It only ever grows; LIMIT comes only to NONE. */
typedef enum wq_wish { WQ_WISH_NONE, WQ_WISH_STOP, WQ_WISH_CANCEL, WQ_WISH_LIMIT } wq_wish;

/* How a job ends. */
typedef struct wq_end {
    int state, returncode;
    wq_text *error; /* owned, unless NULL */
    int resumes;    /* in this process only: the journal has the job run again after the restart */
    int64_t at_ms, mono; /* Unix time, and by the clock that does not jump */
} wq_end;

/* Somebody who waits until the queue can say what has become of his question; wq_ensure_run(). */
typedef struct wq_ask {
    STAILQ_ENTRY(wq_ask) link;
    wq_accepted_cb cb;
    void *user;
    int result;         /* if the job is accepted */
    int64_t made_at_ms; /* with WQ_DONE */
    int needs_rebuild;  /* not before the journal has that it is one */
    wq_job *job;        /* counted, once there is an answer; NULL: refused */
} wq_ask;

STAILQ_HEAD(wq_asks, wq_ask);

/* A message that is kept. */
typedef struct wq_said {
    int64_t at_ms;
    double fraction;
    wq_text *message; /* counted */
} wq_said;

struct wq_job {
    char key[WQ_KEY_SIZE]; /* first: the key table compares pointers to it */
    char id[WQ_ID_SIZE];
    wq_params params; /* in the same allocation, behind the structure */
    atomic_uint refs;
    wq_queue *queue; /* counted */
    wq_watchers watchers;
    wq_watchers stderr_watchers; /* of what its program writes there */
    wq_entry entry;              /* what the journal has of it */
    int was_journalled;          /* it has come from the journal */
    int attempts;                /* so often it was running when a server died */

    /* under the core's lock; phase and wish are life.c's to write */
    wq_phase phase;
    wq_phase settled; /* of SETTLING: the phase before */
    wq_wish wish;
    char why[96]; /* the sentence of the wish LIMIT */
    wq_end end;   /* while SETTLING */
    struct wq_asks asks;
    int rebuild;           /* replaces the output */
    int was_behind;        /* another job of its key was in front of it */
    int output_deleted;    /* since its program was over: nobody joins it any more */
    uint64_t output_bytes; /* that were published; 0: not known. Written before the end. */
    int tentative;         /* nobody who asked for it insists */
    wq_job *behind;        /* the next job of its key */
    wq_order_node order;
    TAILQ_ENTRY(wq_job) by_age; /* while in the queue order: those that came first in front */
    TAILQ_ENTRY(wq_job) ended;  /* while ENDED: oldest first */
    STAILQ_ENTRY(wq_job) to_tell;
    char peer[WQ_PEER_SIZE];   /* who asked first; "": nobody knows */
    char trace[WQ_TRACE_SIZE]; /* the traceparent of that; "": there is none */
    wq_member members[3];      /* of its user, server and peer, where these are counted */
    struct wq_run_state *run;  /* the run that is under way */
    uint64_t estimate_ms;      /* what its runner expects it to take; 0: nothing */

    atomic_int logged;          /* 1 and the state that the log has of it; 0: nothing yet */
    atomic_int n_ignored;       /* lines of stdout that make no sense */
    atomic_uint n_watching;     /* watches and waits; for asynchronous runners */
    atomic_llong interest_mono; /* when its runner was last told that somebody looks; 0: never */

    pthread_mutex_t lock;
    /* under the job's lock */
    pthread_cond_t has_ended;
    int state;     /* a wq_state; life.c's to write */
    int waits_for; /* likewise, a wq_waits_for */
    int resumes;
    char cancelled_by[64]; /* who has asked for that; "": nobody has said */
    wq_stderr_log stderr_log;
    struct wq_said *said; /* its last messages, a ring of WQ_MESSAGES; NULL: none yet */
    size_t n_said;        /* how many there ever were */
    uint64_t version;
    double fraction;
    int has_items, returncode;
    uint64_t items_done, items_total;
    wq_text *message, *error;
    uint64_t memory_bytes, most_memory_bytes; /* of the program; 0: not known */
    int64_t queued_at_ms, started_at_ms, published_at_ms, ended_at_ms; /* Unix time; 0: not yet */
    int64_t heard_at_ms;
    int64_t queued_mono, started_mono, ended_mono;
    int64_t first_mono, moved_mono; /* when the fraction first and last grew; 0: never */
    double first_fraction;
    int64_t heard_mono; /* when the program last reported; 0: never */
};

TAILQ_HEAD(wq_job_list, wq_job);
STAILQ_HEAD(wq_jobs_to_tell, wq_job);

/* A new job with one reference; NULL if memory or randomness ran out. It takes a reference to the
 * queue, which the last wq_job_unref() gives back by `queue_unref`. */
wq_job *wq_job_new(wq_queue *queue, const wq_params *params, const char *key);

/* Takes in a line of progress, which is the caller's to tell; a fraction never goes back if the
 * runner is `far`. 0, or -1 if the line is malformed. No lock is held by the caller. */
int wq_job_report(wq_job *job, const char *line, size_t len, int far);

/* Takes in what the program has written to stderr, and tells those who follow it. At most `max`
 * bytes are kept. No lock is held by the caller. */
void wq_job_told_stderr(wq_job *job, size_t max, const char *bytes, size_t len);

/* How much memory the program has now. */
void wq_job_told_memory(wq_job *job, uint64_t bytes);

/* When the program last reported; 0: never. */
int64_t wq_job_heard_mono(wq_job *job);

/* How long a running job will go on; `mean_ms` is what such jobs take, 0 if nobody knows. */
double wq_job_remaining_ms(wq_job *job, double mean_ms);

/* For life.c. The state, which is no end; and the end, whose error is the job's from now on. */
void wq_job_set_state(wq_job *job, int state, int waits_for);
void wq_job_set_end(wq_job *job, const wq_end *end);

/* An end that is now. `error` is copied; NULL: none. */
wq_end wq_end_now(int state, int returncode, const char *error);

/* Takes out what is long of an old error; its first line stays. How many bytes that freed. */
size_t wq_job_shorten_error(wq_job *job);
size_t wq_job_error_bytes(wq_job *job);

#endif
