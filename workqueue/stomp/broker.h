/* broker.h - a connection to a STOMP broker that comes back by itself.
 *
 * One thread runs it: connects (to one URL after the other, with backoff), subscribes, sends, and
 * calls back. Callbacks run on that thread with no lock held and must not block; they may call
 * everything here but wq_broker_close(). All calls may be made from any thread.
 *
 * What is sent with a `done` callback is sent again after a broken connection until the broker has
 * confirmed it: at least once. Everything else belongs to the connection of the moment.
 */
#ifndef WQ_BROKER_H
#define WQ_BROKER_H

#include "workqueue/stomp/codec.h"
#include "workqueue/util/log.h"

typedef struct wq_broker wq_broker;
typedef struct wq_subscription wq_subscription;

typedef struct wq_broker_options {
    const char *urls;    /* stomp[s]://[user:password@]host[:port][/vhost],...; percent-encoded */
    const char *ca_file; /* PEM, for stomps; NULL: the system's authorities */
    const char *cert_file, *key_file; /* PEM, who we are for stomps; NULL: nobody */
    unsigned heartbeat_ms;            /* asked for both ways; 0: none; default 10 s */
    unsigned connect_ms;              /* until CONNECTED, per URL; default 10 s */
    unsigned reconnect_max_ms;        /* longest pause between tries; default 10 s */
    unsigned close_ms;          /* how long wq_broker_close() waits for receipts; default 3 s */
    size_t max_frame_bytes;     /* of a body, either way; one that comes longer is cut; 1 MiB */
    size_t max_outgoing_bytes;  /* sent and not yet confirmed, or not yet sent; 16 MiB */
    size_t max_outgoing_frames; /* the same in frames; 100,000 */
    wq_logger log;
    /* A new connection: subscriptions and kept frames are on their way. `server` is what the broker
     * calls itself, such as "RabbitMQ/3.10.8". NULL: not told. */
    void (*connected)(void *user, uint64_t generation, const char *server);
    void (*disconnected)(void *user, const char *why);
    void *user;
} wq_broker_options;

void wq_broker_options_init(wq_broker_options *options);

/* Starts the thread; returns at once, whether or not the broker is there. Options are copied. */
int wq_broker_open(wq_broker **out, const wq_broker_options *options, wq_error *error);

/* Waits for confirmations, disconnects in good order, at most close_ms, and frees it with all its
 * subscriptions. What is not confirmed by then is told to have failed. (A name lookup that is under
 * way is waited for.) Not from a callback. */
void wq_broker_close(wq_broker *broker);

typedef struct wq_broker_stats {
    int connected;
    uint64_t generation; /* connections so far */
    size_t outgoing_frames, outgoing_bytes;
} wq_broker_stats;

void wq_broker_stat(wq_broker *broker, wq_broker_stats *out);

/* ---- sending --------------------------------------------------------------------------------- */

/* WQ_OK: the broker has it. WQ_ERROR_CLOSING: it may or may not have it, and will not be asked
 * again. WQ_ERROR_INVALID_ARGUMENT: it has answered with ERROR, or hung up, again and again. */
typedef void (*wq_sent_cb)(void *user, int result, const char *why);

/* Sends `body` to `destination`. With `done` until it is confirmed; without, once, and not at all
 * while there is no connection (still WQ_OK). `destination`, `receipt`, `transaction` and
 * `content-length` are not for the caller to add.
 * WQ_ERROR_FULL: too much waits already. WQ_ERROR_CLOSING, WQ_ERROR_INVALID_ARGUMENT. */
int wq_broker_send(wq_broker *broker, const char *destination, const wq_stomp_header *headers,
                   size_t n_headers, const char *body, size_t body_len, wq_sent_cb done, void *user,
                   wq_error *error);

/* ---- receiving ------------------------------------------------------------------------------- */

/* What names a delivery, good for the connection that it came by. */
typedef struct wq_delivery {
    uint64_t generation, subscription;
    const char *ack;
} wq_delivery;

typedef struct wq_broker_message {
    const wq_stomp_frame
        *frame; /* headers are the sender's: trust none; dropped_bytes: it was cut */
    const wq_delivery *delivery; /* to be settled; NULL if that is not to be */
} wq_broker_message;

typedef enum wq_ack_mode { WQ_ACK_AUTO, WQ_ACK_CLIENT, WQ_ACK_INDIVIDUAL } wq_ack_mode;

typedef struct wq_subscribe {
    const char *destination;
    const wq_stomp_header *headers; /* beside those below */
    size_t n_headers;
    wq_ack_mode ack;
    unsigned prefetch; /* deliveries that are not settled, at most; 0: the broker's default */
    void (*message)(void *user, const wq_broker_message *message);
    /* The broker has answered it with ERROR again and again: it is not asked any more. May be NULL.
     */
    void (*refused)(void *user, const char *why);
    void *user;
} wq_subscribe;

/* Subscribes now and on each later connection. Everything is copied. */
int wq_broker_subscribe(wq_subscription **out, wq_broker *broker, const wq_subscribe *options,
                        wq_error *error);

/* Ends a subscription and frees it. When it returns no callback of it is running, nor will one
 * (unless it is called from one): hold no lock that the callback takes. Deliveries that are not
 * settled go to others, also those that cross with this: ActiveMQ takes them back; RabbitMQ only
 * with the connection, which is ended in good order then and made anew. */
void wq_broker_unsubscribe(wq_subscription *subscription);

/* A copy, for later; free(). */
wq_delivery *wq_delivery_copy(const wq_delivery *delivery);

/* Settles a delivery. If its connection has ended meanwhile nothing happens, with WQ_OK: the broker
 * has delivered it again. `requeue` is RabbitMQ's: 0: to the dead letters; ActiveMQ always does so.
 */
int wq_broker_ack(wq_broker *broker, const wq_delivery *delivery, wq_error *error);
int wq_broker_nack(wq_broker *broker, const wq_delivery *delivery, int requeue, wq_error *error);

/* Acknowledges the delivery and unsubscribes in one transaction, as it takes no more: with prefetch
 * 1 RabbitMQ delivers nothing in between; ActiveMQ may, takes it back at once and delivers it to
 * others (as redelivered). Frees the subscription as wq_broker_unsubscribe() does.
 * `done` (may be NULL) tells whether it was committed, or WQ_ERROR_CLOSING if the connection broke.
 * WQ_ERROR_NOT_FOUND: the delivery's connection has ended; the subscription stays as it is. */
int wq_broker_take_last(wq_subscription *subscription, const wq_delivery *delivery, wq_sent_cb done,
                        void *user, wq_error *error);

#endif
