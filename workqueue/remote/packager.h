/* packager.h - takes jobs from a broker, runs them in a queue of its own, and answers. */
#ifndef WQ_REMOTE_PACKAGER_H
#define WQ_REMOTE_PACKAGER_H

#include <workqueue/extend.h>

typedef struct wq_packager wq_packager;

typedef struct wq_packager_options {
    const char *urls;                           /* of the brokers, as in wq_stomp_options */
    const char *ca_file, *cert_file, *key_file; /* as in wq_stomp_options */
    const char *queue_package, *queue_reply, *queue_delete; /* as in wq_stomp_options */
    unsigned heartbeat_ms;
    const char *name;      /* tells packagers apart; NULL: the host's, and something random */
    const char *url_base;  /* where outputs are, "URL/KEY" in what is told; NULL: "workqueue:" */
    const wq_store *store; /* the queue's, with `shared`; borrowed */
    unsigned workers;      /* as many jobs are taken at a time; those of the queue */
    unsigned alive_ms;     /* a sign of life for each job at least so often */
    unsigned renew_ms, takeover_ms; /* see lease.h */
    unsigned max_attempts;          /* see lease.h */
    int strict;                     /* see lease.h */
    unsigned put_off_ms;   /* a request whose key runs elsewhere comes again after so long */
    unsigned ack_after_ms; /* a job that takes longer is put off as well, as the broker may hold
                              deliveries for so long only; 0: never */
    wq_log_cb log;
    void *log_user;
} wq_packager_options;

/* What it has done so far, and does. */
typedef struct wq_packager_stats {
    int is_connected, is_away; /* the broker; the store */
    unsigned running;
    uint64_t claimed, taken_over, put_off, fenced, succeeded, failed, cancelled, dead_letters;
    uint64_t connections, renewal_age_ms;
} wq_packager_stats;

void wq_packager_options_init(wq_packager_options *options);

/* Starts to take jobs; `queue` stays the caller's and must outlive the packager. Options are
 * copied. Fails where the store ignores conditions. */
int wq_packager_open(wq_packager **out, wq_queue *queue, const wq_packager_options *options,
                     wq_error *error);

void wq_packager_stat(wq_packager *packager, wq_packager_stats *out);

/* Takes no more jobs, and returns at once; `drained` is called when those that run have ended, from
 * a thread that goes with it: it must not close the packager itself. */
void wq_packager_drain(wq_packager *packager, void (*drained)(void *user), void *user);

/* Takes no more, ends what runs and leaves it to other packagers; then wq_close() the queue. NULL
 * is allowed. */
void wq_packager_close(wq_packager *packager);

#endif
