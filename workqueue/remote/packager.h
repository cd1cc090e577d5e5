/* packager.h - takes jobs from a broker, runs them in a queue of its own, and answers. */
#ifndef WQ_PACKAGER_H
#define WQ_PACKAGER_H

#include <workqueue/workqueue.h>

typedef struct wq_packager wq_packager;

typedef struct wq_packager_options {
    const char *urls;    /* of the brokers, as in wq_stomp_options */
    const char *ca_file; /* NULL: the system's */
    const char *queue_package, *queue_reply, *queue_delete, *topic; /* as in wq_stomp_options */
    unsigned heartbeat_ms;
    const char *name;      /* tells packagers apart; NULL: the host's, and something random */
    const char *state_dir; /* existing folder: jobs that the broker has been relieved of */
    const char *url_base;  /* where outputs are, "URL/KEY" in what is told; NULL: "workqueue:" */
    unsigned workers;      /* as many jobs are taken at a time; those of the queue */
    unsigned alive_ms;     /* a sign of life for each job at least so often */
    unsigned claim_ms;     /* how long others may object to a claim */
    unsigned ack_after_ms; /* a job that takes longer is taken off the broker, which may hold
                              deliveries for so long only; 0: never */
    wq_log_cb log;
    void *log_user;
} wq_packager_options;

void wq_packager_options_init(wq_packager_options *options);

/* Starts to take jobs; `queue` stays the caller's and must outlive the packager. Options are
 * copied. */
int wq_packager_open(wq_packager **out, wq_queue *queue, const wq_packager_options *options,
                     wq_error *error);

/* Takes no more, and leaves what has not ended to other packagers; then wq_close() the queue. NULL
 * is allowed. */
void wq_packager_close(wq_packager *packager);

#endif
