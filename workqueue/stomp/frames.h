/* frames.h - what the parts of a broker's connection share.
 *
 *   live.c       the thread: one connection after the other, what is written; open and close
 *   outgoing.c   what callers ask for: frames to be sent, subscriptions, settling
 *   incoming.c   what the broker says
 */
#ifndef WQ_STOMP_FRAMES_H
#define WQ_STOMP_FRAMES_H

#include "workqueue/stomp/broker.h"
#include "workqueue/stomp/session.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/threads.h"
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    RETRY_MS = 100, /* the first pause, doubled from then on */
    GOOD_MS = 5000, /* a connection that lasted so long was a good one */
    REFUSALS = 12,  /* points until a frame is given up: */
    BY_ERROR = 4,
    BY_HANGING_UP = 1, /* which may have other reasons */
    BUCKETS = 256,
    OWN_HEADERS = 8, /* beside the caller's */
    CALLERS_HEADERS = 64,
};

/* A frame on its way. */
typedef struct out {
    TAILQ_ENTRY(out) link;
    char *bytes;
    size_t len;
    uint64_t receipt;      /* 0: none */
    uint64_t subscription; /* what it asks for; 0: nothing */
    int kept;              /* sent again on a new connection */
    int refused;           /* points for connections that ended at it */
    wq_sent_cb done;
    void *user;
} out;

TAILQ_HEAD(outs, out);

struct wq_subscription {
    LIST_ENTRY(wq_subscription) link;
    wq_broker *broker;
    uint64_t id; /* of its receipt, too */
    char *bytes; /* its SUBSCRIBE */
    size_t len;
    int settles; /* its deliveries are acknowledged */
    size_t open; /* deliveries of this connection that are not settled */
    int refused; /* points; from REFUSALS on it is not asked for any more */
    int ended;   /* unsubscribed from within its own callback: freed afterwards */
    void (*on_message)(void *user, const wq_broker_message *message);
    void (*on_refused)(void *user, const char *why);
    void *user;
};

struct wq_broker {
    wq_broker_options options;
    wq_broker_url *urls;
    size_t n_urls;
    SSL_CTX *tls;
    int wake_fd, stop_fd; /* there is something to send; wq_broker_close() was called */
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t idle; /* no callback of a subscription is running any more */
    struct outs queue, waiting;
    size_t n_frames, n_bytes;
    LIST_HEAD(, wq_subscription) subscriptions[BUCKETS]; /* by id */
    wq_subscription *running;                            /* whose callback runs */
    uint64_t last_id, generation;
    int connected, closing;
    int64_t close_by;
    int anew; /* deliveries are stuck with this connection: make another one */

    /* The thread's own. */
    pthread_t self; /* thread, which may not be set yet */
    wq_session session;
    size_t written;    /* of the first frame of the queue */
    uint64_t farewell; /* the receipt of DISCONNECT, once that is queued */
    int64_t farewell_by;
    int said_farewell; /* DISCONNECT is written */
    int left;          /* and confirmed */
    int blamed;        /* ERROR has come */
    int gives_back;    /* unsubscribing settles what is not: ActiveMQ */
    int was_refused;   /* the last connection may have ended because of a frame */
    size_t at;         /* the URL whose turn it is */
    size_t careful;    /* frames that are yet to be confirmed one at a time */
};

/* ---- outgoing.c ---- */

void wq_out_free(out *frame);
int wq_out_encode(out **result, const wq_stomp_frame *frame, wq_error *error);
void wq_broker_wake(int fd);
void wq_out_append(wq_broker *broker, out *frame);
void wq_out_take_off(wq_broker *broker, struct outs *list, out *frame);
uint64_t wq_broker_next_id(wq_broker *broker);
void wq_subscription_free(wq_subscription *subscription);
wq_subscription *wq_subscription_find(wq_broker *broker, uint64_t id);
out *wq_subscription_ask(const wq_subscription *subscription);

/* ---- incoming.c ---- */

void wq_out_done(out *frame, int result, const char *why);
void wq_broker_blame(wq_broker *broker, const wq_stomp_frame *error, const char *why);
int wq_broker_on_frame(void *user, const wq_stomp_frame *frame, wq_error *error);

#endif
