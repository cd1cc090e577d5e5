/* publish.h - puts outputs in place, several together, and tries again while the store is away. It
 * knows parcels, and nothing of jobs.
 *
 *     run over ── wq_publisher_add(parcel) ──►  hand-over list ──► store->publish() ──► published()
 *                                               retry list ◄── store away ──┘
 *
 * The publisher's lock is a leaf. */
#ifndef WQ_CORE_PUBLISH_H
#define WQ_CORE_PUBLISH_H

#include <stdatomic.h>
#include <sys/queue.h>
#include <workqueue/extend.h>

#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"

typedef struct wq_publisher wq_publisher;

/* One output to put in place. */
typedef struct wq_parcel {
    void *owner;     /* whoever has sent it */
    const char *key; /* borrowed from the owner, like the parameters */
    const wq_params *params;
    char *temp_path; /* owned; NULL: the output is in the store already, and is only looked for */
    const char *job_id; /* borrowed: whose output it is, and how long its program ran */
    uint64_t ran_ms;
    uint64_t size_bytes; /* that the store has published; 0: it does not tell */
    int replace;
    int is_put_off; /* the store was away when it was last tried */
    /* the publisher's */
    int64_t try_at; /* monotonic */
    unsigned retry_ms;
    TAILQ_ENTRY(wq_parcel) link;
} wq_parcel;

typedef struct wq_publisher_options {
    wq_store *store;
    int asynchronous;             /* adding must not wait */
    const atomic_size_t *n_ready; /* jobs that wait for a worker */
    unsigned workers;
    wq_logger logger;
    void *user;
    /* From a thread of the publisher's or, if it has none, from wq_publisher_add(). The parcel is
     * in place, or has failed: it is the owner's again; or the store is away (WQ_ERROR_AWAY): it is
     * tried again later, unless the publisher stops, which `parcel->is_put_off` of 0 tells. */
    void (*published)(void *user, wq_parcel *parcel, int result, const wq_error *error);
} wq_publisher_options;

/* Starts a thread, or some, if the store waits or blocks, or adding must not wait. */
int wq_publisher_open(wq_publisher **out, const wq_publisher_options *options, wq_error *error);

/* May wait for others to be done, unless adding must not. */
void wq_publisher_add(wq_publisher *publisher, wq_parcel *parcel);

/* A worker has nothing to do: what has gathered is published now. */
void wq_publisher_flush_soon(wq_publisher *publisher);

/* Nothing is tried again: what waits for the store is given back. */
void wq_publisher_stop(wq_publisher *publisher);

/* Nothing is added any more: does what there is to do, and frees everything. NULL is allowed. */
void wq_publisher_close(wq_publisher *publisher);

#endif
