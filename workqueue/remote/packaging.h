/* packaging.h - what the parts of the packager share.
 *
 *   packager.c   opening, closing, the thread, and the jobs of the queue
 *   deliveries.c messages that come: jobs and deletions
 *   claims.c     who runs a key: what packagers tell each other on the topic
 *   answers.c    who is told what, until the broker has it; what became of earlier requests
 *   keeping.c    jobs that the broker has been relieved of, in files
 *   clerk.c      the second thread: sizes and deletions, which may wait for a store
 *
 * Everything here is the packager's thread's, unless it says "under the lock". Nothing is called
 * under the lock.
 */
#ifndef WQ_PACKAGING_H
#define WQ_PACKAGING_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "workqueue/stomp/broker.h"
#include "workqueue/remote/messages.h"
#include "workqueue/remote/packager.h"
#include "workqueue/util/log.h"

enum {
    REMEMBERED = 1024,  /* requests that have ended, and cancelled ones */
    HEARD_CLAIMS = 256, /* of other packagers, the latest */
};

/* Somebody who is told. */
typedef struct requester {
    LIST_ENTRY(requester) link;
    char id[WQ_REQUEST_ID_SIZE];
    char reply_to[WQ_DESTINATION_SIZE];
    enum { UNTOLD, BEING_TOLD, TOLD, DEAF } hears; /* of being accepted; DEAF: the broker refuses */
    int end_sent;
} requester;

typedef enum phase {
    CLAIMING,  /* until nobody has objected */
    WAITING,   /* somebody else runs it, or the store is away: claims again later */
    ASKING,    /* the queue is asked */
    RUNNING,   /* there is a job */
    FINISHING, /* the clerk looks how large the output is */
    ENDING     /* until the broker has the last messages */
} phase;

/* A delivery of a job, and what became of it. */
typedef struct work {
    struct wq_packager *packager;
    LIST_ENTRY(work) link;
    STAILQ_ENTRY(work) clerk; /* under the lock */
    phase phase;
    wq_job_message message;
    char key[WQ_KEY_SIZE];
    LIST_HEAD(, requester) requesters;
    size_t n_requesters;
    unsigned slot;
    wq_delivery *delivery; /* what holds the job at the broker; NULL: a file, or it is settled */
    int is_redelivered;
    char *body; /* as it came, for the file */
    size_t body_len;
    char reply_to[WQ_DESTINATION_SIZE]; /* the header, or empty */
    char *file;                         /* NULL: there is none */

    uint64_t nonce;
    unsigned tries;
    int64_t claimed_at, echoed_at; /* echoed: 0: not */
    int64_t since;                 /* when it was last claimed, or began to wait */

    wq_job *job;
    wq_watch *watch;
    int64_t began_at, told_at;
    char line[WQ_REPLY_LINE_BYTES]; /* the latest */
    size_t line_len;
    int has_line; /* that is yet to be told */
    int is_cancelled;
    char *end_text; /* owned */
    int returncode;

    /* under the lock */
    int has_news, has_size, asked_result, has_asked;
    int64_t size_bytes; /* negative: a wq_result */
    wq_job *asked_job;
    wq_error asked_error;
} work;

/* A request that has ended, or was cancelled before it came. */
typedef struct memory {
    char id[WQ_REQUEST_ID_SIZE];
    int64_t at; /* 0: none */
    int returncode;
    char *text; /* owned; the last message; NULL: it was cancelled before it came */
} memory;

typedef enum event_kind {
    EVENT_JOB,
    EVENT_NOTICE,
    EVENT_DELETE,
    EVENT_CONNECTED,
    EVENT_DISCONNECTED,
    EVENT_SENT /* something that we sent has been confirmed, or not */
} event_kind;

/* Something that has come; owned by the list. */
typedef struct event {
    STAILQ_ENTRY(event) link;
    event_kind kind;
    struct wq_packager *packager;
    unsigned slot;
    wq_delivery *delivery;
    char reply_to[WQ_DESTINATION_SIZE];
    int is_cut, is_redelivered;
    uint64_t generation;   /* CONNECTED */
    int result, is_end;    /* SENT */
    char key[WQ_KEY_SIZE]; /* SENT; and the requester: */
    char id[WQ_REQUEST_ID_SIZE];
    size_t len;
    char body[];
} event;

typedef struct deletion {
    STAILQ_ENTRY(deletion) link;
    wq_job_message message;
    wq_delivery *delivery;
} deletion;

/* A place for a job. */
typedef struct slot {
    struct wq_packager *packager;
    unsigned i;
    wq_subscription *subscription;
    work *holder; /* a job that was taken off the broker is in it, and so it takes no other */
} slot;

struct wq_packager {
    wq_packager_options o; /* its strings are owned */
    wq_logger logger;
    wq_queue *queue;
    wq_broker *broker;
    char name[WQ_NAME_SIZE];
    int state_fd; /* locked */
    slot *slots;
    wq_subscription *notices, *deletes;
    pthread_t thread, clerk;
    int has_thread, has_clerk;

    LIST_HEAD(, work) works;
    memory memories[REMEMBERED];
    unsigned next_memory;
    struct heard_claim {
        char key[WQ_KEY_SIZE], packager[WQ_NAME_SIZE];
        int64_t at;
    } heard[HEARD_CLAIMS];
    unsigned next_heard;
    int is_connected;
    int64_t connected_at;
    uint64_t generation, n_connections;
    int64_t stop_by; /* 0: not yet */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t news, clerk_news;
    STAILQ_HEAD(, event) events;
    size_t n_notices; /* of them */
    int work_news;    /* some work has news */
    STAILQ_HEAD(, work) to_finish;
    STAILQ_HEAD(, deletion) to_delete;
    atomic_int closing; /* written under it */
    int clerk_closing;
};

/* ---- packager.c ------------------------------------------------------------------------------ */

/* What is to be put into the events; NULL: no memory. */
event *wq_event_new(wq_packager *p, event_kind kind, const wq_broker_message *message);
void wq_event_put(event *e); /* NULL: nothing */
void wq_event_free(event *e);

/* Of those of this key the one that others may join: not one that waits itself. */
work *wq_work_by_key(wq_packager *p, const char *key);

/* By a requester; `key` may be NULL. Ids of plain messages are not unique. */
work *wq_work_by_id(wq_packager *p, const char *id, const char *key, requester **found);

/* The queue is asked for a job. */
void wq_work_ask(wq_packager *p, work *w);

void wq_work_free(work *w); /* one that is in no list */

/* Nothing is to be said any more: settles and frees it. */
void wq_work_end(wq_packager *p, work *w);

/* Frees it only: its delivery goes to others with the connection. */
void wq_work_forget(wq_packager *p, work *w);

/* Nonzero if it would come again, from the broker or a file of ours, should we die now. */
int wq_work_is_held(const wq_packager *p, const work *w);

/* ---- deliveries.c ---------------------------------------------------------------------------- */

void wq_take_job(wq_packager *p, event *e);
void wq_take_delete(wq_packager *p, event *e);

/* ---- claims.c -------------------------------------------------------------------------------- */

void wq_claim_first(wq_packager *p, work *w); /* one that has just come */
void wq_claim(wq_packager *p, work *w);
void wq_claim_later(work *w);
void wq_claim_all_again(wq_packager *p); /* on a new connection */
void wq_claim_tick(wq_packager *p, work *w, int64_t now);
void wq_notice_take(wq_packager *p, const event *e);

/* ---- answers.c ------------------------------------------------------------------------------- */

requester *wq_requester_add(work *w, const char *id, const char *reply_to);
requester *wq_requester_find(const work *w, const char *id);
void wq_requester_drop(work *w, requester *r);

/* To somebody whose request is not among the works. */
void wq_tell_stranger(wq_packager *p, const char *id, const char *reply_to, const char *text,
                      int returncode);
void wq_tell_accepted(wq_packager *p, work *w, requester *to);
void wq_tell_line(wq_packager *p, work *w);  /* the latest, or a sign of life */
void wq_tell_alive(wq_packager *p, work *w); /* the latter, to those who have been accepted */
void wq_tell_cancelled(wq_packager *p, work *w, requester *to);

/* How it ended, to all; then the work ends. */
void wq_tell_complete(wq_packager *p, work *w, uint64_t size_bytes);
void wq_tell_failed(wq_packager *p, work *w, const char *reason, int returncode);
void wq_tell_rest(wq_packager *p, work *w); /* those who could not be told */
void wq_take_sent(wq_packager *p, const event *e);

/* NULL: nothing is known of it. */
const memory *wq_recall(wq_packager *p, const char *id);
void wq_remember(wq_packager *p, const char *id, const char *text, int returncode);

/* ---- keeping.c ------------------------------------------------------------------------------- */

/* Keeps the job in a file, and its delivery is no longer needed. 0, or -1. */
int wq_keep(wq_packager *p, work *w);
void wq_unkeep(work *w); /* removes the file, if there is one */

/* Keeps it, settles it, and takes no other in its place. */
void wq_relieve(wq_packager *p, work *w);

/* Sends what an earlier process has left to the broker again. */
void wq_keeping_recover(wq_packager *p);

/* Sends the requests that the broker does not hold to it again, and frees the work: we stop. */
void wq_hand_back(wq_packager *p, work *w);

/* ---- clerk.c --------------------------------------------------------------------------------- */

void *wq_clerk_main(void *packager);
void wq_clerk_finish(wq_packager *p, work *w);
void wq_clerk_delete(wq_packager *p, deletion *d);
void wq_deletion_free(deletion *d);

#endif
