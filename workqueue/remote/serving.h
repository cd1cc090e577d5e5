/* serving.h - what the parts of the server's side share.
 *
 *   server.c   opening and closing, the runner's table, the thread
 *   mail.c     what comes for a job from other threads
 *   sending.c  what is said for a job: to the broker, the store, the fetcher, the queue
 *   job.c      what becomes of a job, by its mail and by time
 *
 * The lock guards the table, the mail, and the lists; no other is taken under it and nothing is
 * called. What is in a job besides is the thread's.
 */
#ifndef WQ_REMOTE_SERVING_H
#define WQ_REMOTE_SERVING_H

#include "workqueue/remote/fetch.h"
#include "workqueue/remote/look.h"
#include "workqueue/remote/messages.h"
#include "workqueue/stomp/broker.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <search.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>
#include <workqueue/remote.h>

enum {
    TICK_MS = 250,
    SILENT_ALIVES = 3,     /* so many promised signs of life missed are a death */
    SILENT_ESTIMATES = 4,  /* of packagers that promise none: so many times as long as they said */
    LOOK_MS = 1000,        /* until what has gathered in a queue has come, if nothing says so */
    SILENT_LOOK_MS = 3000, /* the same, before a job is sent again */
    AWAY_LOOK_MS = 2000,   /* at the store, while the broker is away */
    FETCHERS = 4
};

/* What has come for a job; bits of mail.what. */
enum {
    MAIL_NEW = 1,
    MAIL_CANCEL = 2,
    MAIL_INTEREST = 4,
    MAIL_REFUSED = 8, /* the broker takes no such message */
    MAIL_HEARD = 16,
    MAIL_ACCEPTED = 32,
    MAIL_END = 64,
    MAIL_FETCHED = 128,
    MAIL_OTHER = 256,  /* a message that is no answer */
    MAIL_LOOKED = 512, /* the store was asked */
    MAIL_MARKED = 1024,
};

typedef struct mail {
    unsigned what;
    char *line; /* owned; the latest progress */
    size_t line_len;
    uint64_t estimate_ms;
    unsigned alive_ms; /* how often it promises a sign of life; 0: it does not */
    wq_reply_kind end;
    char *text; /* owned; the reason, or the URL */
    int returncode, has_size, is_ours;
    char inbox[WQ_DESTINATION_SIZE]; /* of who answers; or empty */
    uint64_t epoch;                  /* of the run that it was accepted in; 0: it does not say */
    uint64_t size_bytes;
    wq_delivery *delivery; /* owned; of the end */
    int fetched;           /* a wq_result */
    wq_error error;
} mail;

typedef struct remote remote;

typedef struct remote_job {
    char id[WQ_ID_SIZE]; /* first: the table compares pointers to it */
    atomic_uint refs;    /* the table's, and one for each message that is not confirmed */
    remote *remote;
    const wq_run *run;

    /* under the lock */
    mail mail;
    int has_mail;
    TAILQ_ENTRY(remote_job) link; /* in mailed */
    int is_over;                  /* nothing is posted any more */

    /* the thread's */
    TAILQ_ENTRY(remote_job) all;
    wq_subscription *subscription;
    int is_sent, is_accepted, is_fetching, has_heard; /* heard: since looked_at */
    unsigned alive_ms, n_sent, warned;
    uint64_t estimate_ms;
    int64_t sent_at, heard_at, looked_at; /* monotonic; looked: subscribed or unsubscribed */
    int64_t interest_at, cancel_at;       /* 0: never */
    wq_delivery *delivery;                /* of its end; NULL: acknowledged */
    wq_fetch fetch;
    char inbox[WQ_DESTINATION_SIZE]; /* of who has it, if it says so; or empty */
    int is_with_ours;
    uint64_t epoch; /* see mail */
    wq_look look, mark;
    int is_looking, is_marking, is_marked;
    int64_t asked_at; /* the store */
} remote_job;

struct remote {
    wq_runner runner;
    wq_logger logger;
    wq_stomp_options o; /* its strings are owned */
    wq_broker *broker;
    wq_fetcher *fetcher;
    wq_looker *looker; /* NULL: the store is not one that machines share */
    pthread_t thread;
    int has_thread;
    /* the thread's */
    TAILQ_HEAD(, remote_job) jobs; /* in the order of their start */
    int has_met, is_rabbitmq;      /* met a broker, so that its kind is known */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t news;
    void *by_id; /* tsearch */
    size_t n;
    TAILQ_HEAD(, remote_job) mailed;
    int closing, is_connected, has_connected; /* has: since the thread last looked */
    int met_rabbitmq;
};

/* ---- mail.c ---- */

int wq_remote_compare(const void *a, const void *b);
void wq_remote_free_mail(mail *m);
void wq_remote_unref(remote_job *job);
void wq_remote_post_locked(remote *r, remote_job *job, unsigned what);
void wq_remote_post_by_id(remote *r, const char *id, unsigned what);
void wq_remote_settle(remote *r, wq_delivery *delivery);
void wq_remote_on_reply(void *user, const wq_broker_message *message);
void wq_remote_on_refused(void *user, const char *why);
void wq_remote_on_sent(void *user, int result, const char *why);
void wq_remote_on_connected(void *user, uint64_t generation, const char *server);
void wq_remote_on_disconnected(void *user, const char *why);

/* ---- sending.c ---- */

int wq_remote_subscribe(remote *r, remote_job *job);
void wq_remote_unsubscribe(remote_job *job);
void wq_remote_end(remote *r, remote_job *job, const wq_outcome *outcome);
void wq_remote_end_badly(remote *r, remote_job *job, int returncode, const char *why);
void wq_remote_end_cancelled(remote *r, remote_job *job);
void wq_remote_end_well(remote *r, remote_job *job);
void wq_remote_send_job(remote *r, remote_job *job);
void wq_remote_on_told(void *user, int result, const char *why);
void wq_remote_send_cancel(remote *r, const remote_job *job);
void wq_remote_send_hint(remote *r, const wq_elsewhere *job);
void wq_remote_ask_store(remote *r, remote_job *job);
void wq_remote_mark_cancelled(remote *r, remote_job *job);
void wq_remote_start_fetch(remote *r, remote_job *job, mail *m);

/* ---- job.c ---- */

void wq_remote_take_mail(remote *r, remote_job *job, mail *m);
void wq_remote_forgive(remote *r, int anew, int64_t now);
void wq_remote_tick(remote *r, int64_t now);

#endif
