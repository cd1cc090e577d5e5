/* job.h - one job: its states, its latest progress, and who watches it.
 *
 * Locks, in this order: watchers, queue, job. The watchers' lock is held while callbacks run, so
 * that wq_watch_cancel() can promise silence; a callback may take snapshots, which needs the other
 * two. `state` is written under both the queue's and the job's lock and read under either. */
#ifndef WQ_JOB_H
#define WQ_JOB_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <workqueue/workqueue.h>

#include "workqueue/core/order.h"
#include "workqueue/core/progress.h"
#include "workqueue/util/text.h"

typedef struct wq_watchers {
    pthread_mutex_t lock;
    LIST_HEAD(, wq_watch) list;
} wq_watchers;

void wq_watchers_init(wq_watchers *watchers);
void wq_watchers_dispose(wq_watchers *watchers);

/* Calls every watcher. The caller holds neither queue nor job lock. */
void wq_watchers_tell(wq_watchers *watchers);

/* Somebody who waits for the journal, to be told of his job; see wq_ensure_run_async(). */
typedef struct wq_await {
    STAILQ_ENTRY(wq_await) link;
    wq_accepted_cb cb;
    void *user;
    int result;         /* if the job is accepted */
    int64_t made_at_ms; /* with WQ_DONE */
} wq_await;

STAILQ_HEAD(wq_awaits, wq_await);

/* What the journal knows of a job. */
typedef struct wq_note {
    int64_t seq; /* its place in the order, for ever; set on admission */
    /* the journal's thread's */
    enum { WQ_UNWRITTEN, WQ_WRITTEN, WQ_WRITTEN_STARTED, WQ_WRITTEN_END } written;
    int64_t slot; /* where its token is; 0: nowhere */
    /* under the journal's lock */
    TAILQ_ENTRY(wq_job) link;
    enum { WQ_UNLISTED, WQ_LISTED_SOON, WQ_LISTED_LATER } listed;
    int in_batch;
    int64_t since;
} wq_note;

TAILQ_HEAD(wq_job_notes, wq_job);

/* How a job ends. */
typedef struct wq_end {
    int state, returncode;
    wq_text *error;      /* owned, unless NULL */
    int64_t at_ms, mono; /* Unix time, and by the clock that does not jump */
} wq_end;

/* The end of a job that ends now. `error` is copied; NULL: none. */
wq_end wq_end_now(int state, int returncode, const char *error);

/* A job among those of one user, or of one server; see users.h. */
typedef struct wq_member {
    struct wq_user *user; /* NULL: it is not counted, or has ended */
    TAILQ_ENTRY(wq_member) link;
    struct wq_job *job;
} wq_member;

TAILQ_HEAD(wq_member_list, wq_member);

struct wq_job {
    char key[WQ_KEY_SIZE]; /* first: the key table compares pointers to it */
    char id[WQ_ID_SIZE];
    wq_params params; /* in the same allocation, behind the structure */
    atomic_uint refs;
    wq_queue *queue; /* counted */
    wq_watchers watchers;
    wq_note note;
    int was_journalled; /* it has come from the journal */

    /* under the queue's lock */
    int pending;               /* the journal does not have it yet: nobody may know of it */
    struct wq_awaits awaits;   /* while it is pending */
    int kept;                  /* it has ended here, but runs after the restart */
    int decided;               /* its end is known, but the journal does not have it yet: nobody is
                                  told, and its state is the old one */
    wq_end end;                /* while it is decided */
    wq_order_node order;       /* while QUEUED */
    TAILQ_ENTRY(wq_job) ended; /* once ended; before, while QUEUED: in the row by age */
    struct wq_flight *flight;  /* its run, while one is under way */
    uint64_t estimate_ms;      /* what its runner expects it to take; 0: nothing */
    char *temp_path;           /* owned; between begin and publish */
    wq_member members[2];      /* of its user and of its server, where these are counted */
    wq_job *follower;          /* the rebuild that waits for this one to end; by_key has this one */
    int rebuild;               /* replaces the output */
    int blocked;               /* it is a follower: not to be taken yet */
    int tentative;             /* nobody who asked for it insists */
    int ending;                /* its run is being cancelled: who asks now needs another */
    int ran;                   /* its run is over: too late to cancel */

    atomic_uint ignored_lines;  /* of stdout, that were no progress */
    atomic_uint n_watching;     /* watches and waits; for asynchronous runners */
    atomic_llong interest_mono; /* when its runner was last told that somebody looks; 0: never */

    /* under the publisher's lock */
    TAILQ_ENTRY(wq_job) hand; /* on its way to the publisher */
    int64_t try_at;           /* while the store is away, monotonic */
    unsigned retry_ms;

    pthread_mutex_t lock;
    /* under the job's lock */
    pthread_cond_t has_ended;
    int state;
    uint64_t version;
    double fraction;
    int has_items, returncode;
    int resumes; /* it has ended in this process only */
    uint64_t items_done, items_total;
    wq_text *message, *error;
    int64_t queued_at_ms, started_at_ms, ended_at_ms; /* Unix time */
    int64_t queued_mono, started_mono, ended_mono;
    int64_t first_mono, moved_mono; /* when the fraction first and last grew; 0: never */
    double first_fraction;
    int64_t heard_mono; /* when the program last reported; 0: never */
};

TAILQ_HEAD(wq_job_list, wq_job);
TAILQ_HEAD(wq_job_hand, wq_job);

/* A new queued job with one reference; NULL if memory or randomness ran out. */
wq_job *wq_job_new(wq_queue *queue, const wq_params *params, const char *key);

/* Takes in a line of progress and tells the watchers. 0, or -1 if the line is malformed. No lock is
 * held by the caller. */
int wq_job_report(wq_job *job, const char *line, size_t len);

/* Tells its runner that somebody looks; for one that wants to know. Takes the queue's lock. */
void wq_dispatch_interest(wq_job *job);

/* Moves to a state that is no end. The caller holds the queue's lock. */
void wq_job_set_state(wq_job *job, int state);

/* How long a running job will go on; `mean_ms` is what such jobs take, 0 if nobody knows. */
double wq_job_remaining_ms(wq_job *job, double mean_ms);

/* The end, whose error is the job's from now on. The caller holds the queue's lock and tells the
 * watchers once it has let go of it. */
void wq_job_end_locked(wq_job *job, wq_end end);

#endif
