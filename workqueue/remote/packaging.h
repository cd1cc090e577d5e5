/* packaging.h - what the parts of the packager share.
 *
 *   slots.c      opening and closing; what comes from the broker; the slots' threads
 *   delivery.c   what becomes of a delivery: looked up, run here, or put off
 *   inbox.c      hints of others
 *   running.c    a job that runs here, from its lease to its end
 *   answers.c    who is told what
 *   lease.c      who runs a key, by the store's own word
 */
#ifndef WQ_REMOTE_PACKAGING_H
#define WQ_REMOTE_PACKAGING_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "workqueue/remote/lease.h"
#include "workqueue/remote/messages.h"
#include "workqueue/remote/packager.h"
#include "workqueue/stomp/broker.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"

enum { MAX_REFUSED = 32 };

/* Somebody who is told how a job goes. */
typedef struct requester {
    LIST_ENTRY(requester) link;
    atomic_uint refs;             /* the list's, and one for each message that is not confirmed */
    struct wq_packager *packager; /* once it has been told something */
    char id[WQ_REQUEST_ID_SIZE];
    char reply_to[WQ_DESTINATION_SIZE]; /* empty: nobody is told */
    int is_told, is_cancelled; /* by the store's word */
} requester;

/* A message that came. */
typedef struct delivery {
    STAILQ_ENTRY(delivery) link;
    wq_delivery *at; /* what the broker knows it by */
    char reply_to[WQ_DESTINATION_SIZE], traceparent[64];
    uint64_t need; /* see wq_claim; of one that was put off */
    int is_cut;
    size_t len;
    char body[];
} delivery;

/* A place for a job: a subscription and a thread. The last one is for deletions. */
typedef struct slot {
    struct wq_packager *packager;
    unsigned i;
    pthread_t thread;
    int has_thread;
    wq_subscription *subscription; /* the thread's */

    /* under the packager's lock */
    pthread_cond_t news;
    STAILQ_HEAD(, delivery) came;
    int has_news;
    char key[WQ_KEY_SIZE];         /* of what runs here; "": nothing does */
    LIST_HEAD(, requester) askers; /* who ask for it; the thread takes them out */
    uint64_t epoch;
} slot;

/* A delivery that a slot is at. */
typedef struct work {
    delivery *came;
    wq_job_message message;
    char key[WQ_KEY_SIZE], reply_to[WQ_DESTINATION_SIZE];
    uint64_t need;
    int is_off; /* put off and settled: a copy of it comes again */
} work;

struct wq_packager {
    wq_packager_options o; /* its strings are owned */
    wq_logger logger;
    wq_queue *queue;
    wq_broker *broker;
    wq_leases *leases;
    wq_subscription *inbox;
    char name[WQ_NAME_SIZE];
    slot *slots; /* workers, and one for deletions */

    pthread_mutex_t lock;
    /* under the lock */
    void (*drained)(void *user);
    void *drained_user;
    atomic_int has_met, is_rabbitmq, is_connected; /* written by the broker's thread */
    struct refused {
        char to[WQ_DESTINATION_SIZE];
        int64_t at;         /* 0: none */
    } refused[MAX_REFUSED]; /* destinations that the broker does not take, the latest */
    unsigned next_refused;
    unsigned n_threads;
    atomic_int closing, draining, is_away; /* written under it */
    atomic_int is_probed;
    atomic_uint running;
    atomic_uint_fast64_t claimed, taken_over, put_off, fenced, succeeded, failed, cancelled,
        dead_letters, connections;
};

/* ---- slots.c --------------------------------------------------------------------------------- */

/* Waits for news of this slot, at most `ms`; nonzero: we stop. */
int wq_slot_wait(slot *s, int64_t ms);
void wq_slot_wake(slot *s);

/* Nothing new is to be begun. */
int wq_packager_is_stopping(const wq_packager *p);

void wq_slot_subscribe(slot *s);

/* ---- inbox.c --------------------------------------------------------------------------------- */

void wq_inbox_subscribe(wq_packager *p); /* once the kind of the broker is known */

/* ---- delivery.c ------------------------------------------------------------------------------ */

void wq_take_job(slot *s, delivery *came);
void wq_take_deletion(slot *s, delivery *came);

/* Has a copy of the request come again later, and settles it: 0, and the slot takes others if it
 * `goes_on`. -1: it is still ours, as this broker cannot do that, or we stop. */
int wq_put_off(slot *s, work *w, int goes_on);

/* Settles it, and takes no other if we stop. */
void wq_work_settle(slot *s, work *w);

/* ---- running.c ------------------------------------------------------------------------------- */

void wq_run_work(slot *s, work *w, wq_lease *lease);

/* Asks the store which of those who ask for what runs in the slot have been marked as cancelled. On
 * the thread that renews. */
void wq_look_for_cancels(void *slot);

/* ---- answers.c ------------------------------------------------------------------------------- */

requester *wq_requester_new(const char *id, const char *reply_to); /* NULL: no memory */
void wq_requester_unref(requester *r);

/* Adds it to those who ask for what runs in the slot, unless it is there. The lock is held. */
void wq_requester_join_locked(slot *s, const char *id, const char *reply_to);

void wq_tell(wq_packager *p, requester *to, const char *text, size_t len, int returncode,
             uint64_t epoch, int is_sure);
void wq_tell_accepted(wq_packager *p, requester *to, uint64_t estimate_ms, const char *owner,
                      uint64_t epoch);
void wq_tell_record(wq_packager *p, requester *to, const char *key, const wq_record *record,
                    const char *why);
void wq_tell_hint(wq_packager *p, const char *owner, const wq_hint *hint);

#endif
