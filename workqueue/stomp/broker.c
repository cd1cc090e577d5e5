/* broker.c - a connection to a STOMP broker that comes back by itself.
 *
 * Frames wait in `queue`, in order; those that ask for a receipt move to `waiting` when they have
 * been written. When a connection ends, what is kept goes back to the front of the queue, the rest
 * is dropped. One lock guards both lists and the subscriptions; only the broker's thread takes
 * frames off, so it writes the first one without holding the lock.
 *
 * A broker that does not like a frame says ERROR or just hangs up, often without saying which it
 * was. So after that one frame is sent at a time until all that were kept are confirmed: then it is
 * known which one it was, and one that goes on like that is given up instead of keeping all others
 * from getting through.
 */
#include "workqueue/stomp/broker.h"

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

#include "workqueue/stomp/session.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/threads.h"

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

/* ---- frames to be sent ----------------------------------------------------------------------- */

static void free_out(out *frame)
{
    free(frame->bytes);
    free(frame);
}

static int encode(out **result, const wq_stomp_frame *frame, wq_error *error)
{
    const char *why;
    out *made = calloc(1, sizeof *made);
    if (made == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (wq_stomp_write(&made->bytes, &made->len, frame, &why) != 0) {
        free(made);
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "a frame for the broker: %s", why);
    }
    *result = made;
    return WQ_OK;
}

static void wake(int fd)
{
    if (eventfd_write(fd, 1) != 0)
        return; /* it is readable already */
}

/* Puts a frame into the queue; the lock is held. */
static void append(wq_broker *broker, out *frame)
{
    const int was_empty = TAILQ_EMPTY(&broker->queue);
    TAILQ_INSERT_TAIL(&broker->queue, frame, link);
    broker->n_frames++;
    broker->n_bytes += frame->len;
    /* Where there were frames, the thread has not gone to sleep without them. */
    if (was_empty)
        wake(broker->wake_fd);
}

/* Takes a frame off `list`; the lock is held. */
static void take_off(wq_broker *broker, struct outs *list, out *frame)
{
    TAILQ_REMOVE(list, frame, link);
    broker->n_frames--;
    broker->n_bytes -= frame->len;
}

/* Whether `bytes` more may wait; `times` is 2 for what settles things, which must get through. */
static int check_room(wq_broker *broker, size_t bytes, size_t times, wq_error *error)
{
    const wq_broker_options *o = &broker->options;
    if (broker->closing)
        return wq_fail(error, WQ_ERROR_CLOSING, "the connection to the broker is being closed");
    if (broker->n_frames < o->max_outgoing_frames * times &&
        bytes <= o->max_outgoing_bytes * times &&
        broker->n_bytes <= o->max_outgoing_bytes * times - bytes)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_FULL, "%zu frames for the broker, %zu bytes, wait already",
                   broker->n_frames, broker->n_bytes);
}

/* Names that a frame has from us; of two headers the first would count, and not for all readers. */
static int is_reserved(const char *name, int subscribes)
{
    static const char *const names[] = {"destination", "receipt", "transaction", "id", "ack"};
    const size_t n = subscribes ? 5 : 3;
    for (size_t i = 0; i < n; i++)
        if (name != NULL && strcmp(names[i], name) == 0)
            return 1;
    return 0;
}

/* The caller's headers behind `n` of ours, into `all`. */
static int add_headers(wq_stomp_header *all, size_t *n, const wq_stomp_header *headers,
                       size_t n_headers, int subscribes, wq_error *error)
{
    if (n_headers > CALLERS_HEADERS)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "a frame for the broker: %zu headers",
                       n_headers);
    for (size_t i = 0; i < n_headers; i++) {
        if (is_reserved(headers[i].name, subscribes))
            return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                           "a frame for the broker: the header %s is not for the caller to say",
                           headers[i].name);
        all[(*n)++] = headers[i];
    }
    return WQ_OK;
}

static uint64_t next_id(wq_broker *broker)
{
    return __atomic_add_fetch(&broker->last_id, 1, __ATOMIC_RELAXED);
}

int wq_broker_send(wq_broker *broker, const char *destination, const wq_stomp_header *headers,
                   size_t n_headers, const char *body, size_t body_len, wq_sent_cb done, void *user,
                   wq_error *error)
{
    wq_stomp_header all[OWN_HEADERS + CALLERS_HEADERS] = {{"destination", destination}};
    char receipt[24];
    size_t n = 1;
    out *made = NULL;
    const uint64_t id = done != NULL ? next_id(broker) : 0;
    snprintf(receipt, sizeof receipt, "%" PRIu64, id);
    if (done != NULL)
        all[n++] = (wq_stomp_header){"receipt", receipt};
    if (destination == NULL || *destination == '\0')
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "a frame for the broker: no destination");
    if (body_len > broker->options.max_frame_bytes)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "a frame for the broker: a body of %zu bytes is too long", body_len);
    int r = add_headers(all, &n, headers, n_headers, 0, error);
    if (r == WQ_OK)
        r = encode(&made, &(wq_stomp_frame){"SEND", all, n, body, body_len, 0}, error);
    if (r != WQ_OK)
        return r;
    made->receipt = id, made->kept = done != NULL, made->done = done, made->user = user;
    pthread_mutex_lock(&broker->lock);
    r = check_room(broker, made->len, 1, error);
    const int wanted = r == WQ_OK && (broker->connected || done != NULL);
    if (wanted)
        append(broker, made);
    pthread_mutex_unlock(&broker->lock);
    if (!wanted)
        free_out(made);
    return r;
}

void wq_broker_stat(wq_broker *broker, wq_broker_stats *stats)
{
    pthread_mutex_lock(&broker->lock);
    *stats =
        (wq_broker_stats){broker->connected, broker->generation, broker->n_frames, broker->n_bytes};
    pthread_mutex_unlock(&broker->lock);
}

/* ---- subscriptions --------------------------------------------------------------------------- */

static void free_subscription(wq_subscription *subscription)
{
    free(subscription->bytes);
    free(subscription);
}

/* The lock is held. */
static wq_subscription *find_subscription(wq_broker *broker, uint64_t id)
{
    wq_subscription *s;
    LIST_FOREACH(s, &broker->subscriptions[id % BUCKETS], link)
    if (s->id == id)
        return s;
    return NULL;
}

/* The frame that asks for it, as it goes out on each connection; NULL: no memory. */
static out *ask_for(const wq_subscription *subscription)
{
    out *made = calloc(1, sizeof *made);
    if (made == NULL)
        return NULL;
    made->bytes = malloc(subscription->len);
    if (made->bytes == NULL) {
        free(made);
        return NULL;
    }
    memcpy(made->bytes, subscription->bytes, subscription->len);
    made->len = subscription->len;
    made->receipt = made->subscription = subscription->id;
    return made;
}

static int encode_subscribe(wq_subscription *subscription, const wq_subscribe *options,
                            wq_error *error)
{
    static const char *const modes[] = {"auto", "client", "client-individual"};
    char id[24], prefetch[16];
    out *made = NULL;
    snprintf(id, sizeof id, "%" PRIu64, subscription->id);
    snprintf(prefetch, sizeof prefetch, "%u", options->prefetch);
    wq_stomp_header all[OWN_HEADERS + CALLERS_HEADERS] = {{"destination", options->destination},
                                                          {"id", id},
                                                          {"receipt", id},
                                                          {"ack", modes[options->ack]}};
    size_t n = 4;
    if (options->prefetch > 0) { /* RabbitMQ's and ActiveMQ's name for it */
        all[n++] = (wq_stomp_header){"prefetch-count", prefetch};
        all[n++] = (wq_stomp_header){"activemq.prefetchSize", prefetch};
    }
    int r = add_headers(all, &n, options->headers, options->n_headers, 1, error);
    if (r == WQ_OK)
        r = encode(&made, &(wq_stomp_frame){"SUBSCRIBE", all, n, "", 0, 0}, error);
    if (r != WQ_OK)
        return r;
    subscription->bytes = made->bytes;
    subscription->len = made->len;
    free(made);
    return WQ_OK;
}

int wq_broker_subscribe(wq_subscription **result, wq_broker *broker, const wq_subscribe *options,
                        wq_error *error)
{
    wq_subscription *s = calloc(1, sizeof *s);
    out *first = NULL;
    int r = s == NULL ? wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory") : WQ_OK;
    if (r != WQ_OK)
        return r; /* cppcheck-suppress memleak - there is none */
    s->broker = broker, s->id = next_id(broker), s->settles = options->ack != WQ_ACK_AUTO;
    s->on_message = options->message, s->on_refused = options->refused, s->user = options->user;
    r = encode_subscribe(s, options, error);
    if (r == WQ_OK && (first = ask_for(s)) == NULL)
        r = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (r != WQ_OK) {
        free_subscription(s);
        return r;
    }
    pthread_mutex_lock(&broker->lock);
    r = check_room(broker, s->len, 2, error);
    const int asked = r == WQ_OK && broker->connected;
    if (asked)
        append(broker, first);
    if (r == WQ_OK) {
        *result = s; /* before its first message */
        LIST_INSERT_HEAD(&broker->subscriptions[s->id % BUCKETS], s, link);
    }
    pthread_mutex_unlock(&broker->lock);
    if (!asked)
        free_out(first);
    if (r != WQ_OK)
        free_subscription(s);
    return r;
}

/* Takes it off the list, waits for its callback, and frees it; the lock is held. */
static void end_subscription(wq_subscription *subscription)
{
    wq_broker *broker = subscription->broker;
    LIST_REMOVE(subscription, link);
    if (broker->running == subscription && pthread_equal(pthread_self(), broker->self)) {
        subscription->ended = 1;
        return;
    }
    while (broker->running == subscription)
        pthread_cond_wait(&broker->idle, &broker->lock);
    free_subscription(subscription);
}

static int encode_unsubscribe(out **result, const wq_subscription *subscription, wq_error *error)
{
    char id[24];
    const wq_stomp_header header = {"id", id};
    snprintf(id, sizeof id, "%" PRIu64, subscription->id);
    return encode(result, &(wq_stomp_frame){"UNSUBSCRIBE", &header, 1, "", 0, 0}, error);
}

void wq_broker_unsubscribe(wq_subscription *subscription)
{
    wq_broker *broker = subscription->broker;
    out *made = NULL;
    const int encoded = encode_unsubscribe(&made, subscription, NULL) == WQ_OK;
    pthread_mutex_lock(&broker->lock);
    const int told = broker->connected && encoded && subscription->refused < REFUSALS;
    if (told)
        append(broker, made);
    if (broker->connected && (!encoded || subscription->open > 0))
        broker->anew = 1;
    end_subscription(subscription);
    pthread_mutex_unlock(&broker->lock);
    if (encoded && !told)
        free_out(made);
}

/* ---- settling -------------------------------------------------------------------------------- */

wq_delivery *wq_delivery_copy(const wq_delivery *delivery)
{
    const size_t n = strlen(delivery->ack) + 1;
    wq_delivery *copy = malloc(sizeof *copy + n);
    if (copy == NULL)
        return NULL;
    *copy = *delivery;
    copy->ack = memcpy(copy + 1, delivery->ack, n);
    return copy;
}

static int settle(wq_broker *broker, const wq_delivery *delivery, const char *command,
                  const wq_stomp_header *more, wq_error *error)
{
    wq_stomp_header headers[2] = {{"id", delivery->ack}};
    wq_subscription *s;
    out *made;
    if (more != NULL)
        headers[1] = *more;
    int r = encode(&made, &(wq_stomp_frame){command, headers, more ? 2 : 1, "", 0, 0}, error);
    if (r != WQ_OK)
        return r;
    pthread_mutex_lock(&broker->lock);
    const int current = broker->connected && delivery->generation == broker->generation;
    /* RabbitMQ answers with ERROR once the subscription has ended. */
    s = current ? find_subscription(broker, delivery->subscription) : NULL;
    if (s != NULL && (r = check_room(broker, made->len, 2, error)) == WQ_OK) {
        s->open -= s->open > 0;
        append(broker, made);
        made = NULL;
    }
    pthread_mutex_unlock(&broker->lock);
    if (made != NULL)
        free_out(made);
    return r;
}

int wq_broker_ack(wq_broker *broker, const wq_delivery *delivery, wq_error *error)
{
    return settle(broker, delivery, "ACK", NULL, error);
}

int wq_broker_nack(wq_broker *broker, const wq_delivery *delivery, int requeue, wq_error *error)
{
    const wq_stomp_header header = {"requeue", requeue ? "true" : "false"};
    return settle(broker, delivery, "NACK", &header, error);
}

enum { TAKE_FRAMES = 4 };

static int encode_take(out *frames[TAKE_FRAMES], const wq_subscription *subscription,
                       const wq_delivery *delivery, uint64_t id, wq_error *error)
{
    char text[24];
    const wq_stomp_header headers[] = {
        {"transaction", text}, {"id", delivery->ack}, {"transaction", text}, {"receipt", text}};
    snprintf(text, sizeof text, "%" PRIu64, id);
    int r = encode(&frames[0], &(wq_stomp_frame){"BEGIN", headers, 1, "", 0, 0}, error);
    if (r == WQ_OK)
        r = encode(&frames[1], &(wq_stomp_frame){"ACK", headers + 1, 2, "", 0, 0}, error);
    if (r == WQ_OK)
        r = encode_unsubscribe(&frames[2], subscription, error);
    if (r == WQ_OK)
        r = encode(&frames[3], &(wq_stomp_frame){"COMMIT", headers + 2, 2, "", 0, 0}, error);
    return r;
}

int wq_broker_take_last(wq_subscription *subscription, const wq_delivery *delivery, wq_sent_cb done,
                        void *user, wq_error *error)
{
    wq_broker *broker = subscription->broker;
    out *frames[TAKE_FRAMES] = {NULL};
    const uint64_t id = next_id(broker);
    int r = encode_take(frames, subscription, delivery, id, error);
    pthread_mutex_lock(&broker->lock);
    if (r == WQ_OK && (!broker->connected || delivery->generation != broker->generation ||
                       delivery->subscription != subscription->id))
        r = wq_fail(error, WQ_ERROR_NOT_FOUND, "the connection of the delivery has ended");
    if (r == WQ_OK)
        r = check_room(broker, TAKE_FRAMES * 64 + strlen(delivery->ack) * 2, 2, error);
    if (r == WQ_OK) {
        frames[3]->receipt = id, frames[3]->done = done, frames[3]->user = user;
        for (size_t i = 0; i < TAKE_FRAMES; i++)
            append(broker, frames[i]);
        broker->anew |= subscription->open > 1;
        end_subscription(subscription);
    }
    pthread_mutex_unlock(&broker->lock);
    for (size_t i = 0; i < TAKE_FRAMES && r != WQ_OK; i++)
        if (frames[i] != NULL)
            free_out(frames[i]);
    return r;
}

/* ---- writing --------------------------------------------------------------------------------- */

/* The frame to write next, or NULL. */
static out *next_out(wq_broker *broker)
{
    pthread_mutex_lock(&broker->lock);
    out *frame = TAILQ_FIRST(&broker->queue);
    if (broker->said_farewell || (broker->careful > 0 && !TAILQ_EMPTY(&broker->waiting)))
        frame = NULL;
    pthread_mutex_unlock(&broker->lock);
    return frame;
}

/* The frame is written: it waits for its receipt, or is done with. */
static void was_written(wq_broker *broker, out *frame)
{
    broker->written = 0;
    broker->said_farewell = broker->farewell != 0 && frame->receipt == broker->farewell;
    pthread_mutex_lock(&broker->lock);
    if (frame->receipt != 0) {
        TAILQ_REMOVE(&broker->queue, frame, link);
        TAILQ_INSERT_TAIL(&broker->waiting, frame, link);
        frame = NULL;
    } else {
        take_off(broker, &broker->queue, frame);
    }
    pthread_mutex_unlock(&broker->lock);
    if (frame != NULL)
        free_out(frame);
}

/* Writes what can be written. -1: the connection has ended. */
static int flush(wq_broker *broker, wq_error *error)
{
    out *frame;
    broker->session.link.events = 0;
    while ((frame = next_out(broker)) != NULL) {
        const long r = wq_session_write(&broker->session, frame->bytes + broker->written,
                                        frame->len - broker->written, error);
        if (r <= 0)
            return (int)r;
        broker->written += (size_t)r;
        if (broker->written == frame->len)
            was_written(broker, frame);
    }
    return 0;
}

/* By way of the queue, as TLS must be given again what it could not write. Where frames wait there,
 * they are the sign of life. */
static int beat(wq_broker *broker, int64_t now, wq_error *error)
{
    wq_session *session = &broker->session;
    if (session->beat_ms == 0 || now - session->written_at < session->beat_ms)
        return 0;
    session->written_at = now;
    out *frame = calloc(1, sizeof *frame);
    if (frame == NULL || (frame->bytes = strdup("\n")) == NULL) {
        free(frame);
        return wq_fail(error, -1, "out of memory");
    }
    frame->len = 1;
    pthread_mutex_lock(&broker->lock);
    const int wanted = TAILQ_EMPTY(&broker->queue);
    if (wanted)
        append(broker, frame);
    pthread_mutex_unlock(&broker->lock);
    if (!wanted)
        free_out(frame);
    return 0;
}

/* ---- what the broker says -------------------------------------------------------------------- */

/* A number as we wrote it; 0: it is none. */
static uint64_t parse_id(const char *text)
{
    const size_t n = text != NULL ? strspn(text, "0123456789") : 0;
    return n > 0 && n < 20 && text[n] == '\0' ? strtoull(text, NULL, 10) : 0;
}

static void call_done(out *frame, int result, const char *why)
{
    if (frame->done != NULL)
        frame->done(frame->user, result, why);
    free_out(frame);
}

static void on_receipt(wq_broker *broker, const wq_stomp_frame *frame)
{
    const uint64_t id = parse_id(wq_stomp_get(frame, "receipt-id"));
    wq_subscription *s;
    out *waiting;
    pthread_mutex_lock(&broker->lock);
    TAILQ_FOREACH(waiting, &broker->waiting, link)
    if (waiting->receipt == id)
        break;
    if (waiting != NULL) {
        take_off(broker, &broker->waiting, waiting);
        s = waiting->subscription ? find_subscription(broker, waiting->subscription) : NULL;
        if (s != NULL)
            s->refused = 0;
        broker->careful -= broker->careful > 0;
        broker->left |= id == broker->farewell;
    }
    pthread_mutex_unlock(&broker->lock);
    if (waiting != NULL)
        call_done(waiting, WQ_OK, NULL);
}

/* For a subscription that has ended, but the broker did not know yet. */
static void on_stray(wq_broker *broker, const wq_stomp_frame *frame)
{
    if (wq_stomp_get(frame, "ack") != NULL)
        broker->anew = 1; /* else it would be stuck */
}

static void on_message(wq_broker *broker, const wq_stomp_frame *frame)
{
    const char *ack = wq_stomp_get(frame, "ack");
    pthread_mutex_lock(&broker->lock);
    wq_subscription *s = find_subscription(broker, parse_id(wq_stomp_get(frame, "subscription")));
    const wq_delivery delivery = {broker->generation, s != NULL ? s->id : 0, ack};
    const int settles = s != NULL && s->settles && ack != NULL;
    if (s == NULL)
        on_stray(broker, frame);
    else
        s->open += (size_t)settles;
    broker->running = s;
    pthread_mutex_unlock(&broker->lock);
    if (s == NULL)
        return;
    s->on_message(s->user, &(wq_broker_message){frame, settles ? &delivery : NULL});
    pthread_mutex_lock(&broker->lock);
    broker->running = NULL;
    const int ended = s->ended;
    pthread_cond_broadcast(&broker->idle);
    pthread_mutex_unlock(&broker->lock);
    if (ended)
        free_subscription(s);
}

/* The frame that an ERROR (NULL: there was none) is about: the one it names, or the only one under
 * way. The lock is held. */
static out *find_culprit(wq_broker *broker, const wq_stomp_frame *error)
{
    const uint64_t id = error != NULL ? parse_id(wq_stomp_get(error, "receipt-id")) : 0;
    out *frame, *only = TAILQ_FIRST(&broker->waiting);
    TAILQ_FOREACH(frame, &broker->waiting, link)
    if (id != 0 && frame->receipt == id)
        return frame;
    return broker->careful > 0 && only != NULL && TAILQ_NEXT(only, link) == NULL ? only : NULL;
}

/* Tells the subscription's owner if it is not to be had; the lock is held, and released for that.
 */
static void blame_subscription(wq_broker *broker, uint64_t id, int points, const char *why)
{
    wq_subscription *s = find_subscription(broker, id);
    if (s == NULL || s->refused >= REFUSALS || (s->refused += points) < REFUSALS ||
        s->on_refused == NULL)
        return;
    broker->running = s;
    pthread_mutex_unlock(&broker->lock);
    s->on_refused(s->user, why);
    pthread_mutex_lock(&broker->lock);
    broker->running = NULL;
    const int ended = s->ended;
    pthread_cond_broadcast(&broker->idle);
    if (ended)
        free_subscription(s);
}

static void blame(wq_broker *broker, const wq_stomp_frame *error, const char *why)
{
    const int points = error != NULL ? BY_ERROR : BY_HANGING_UP;
    pthread_mutex_lock(&broker->lock);
    out *culprit = find_culprit(broker, error);
    if (culprit != NULL && culprit->subscription != 0)
        blame_subscription(broker, culprit->subscription, points, why);
    const int given_up =
        culprit != NULL && culprit->kept && (culprit->refused += points) >= REFUSALS;
    if (given_up)
        take_off(broker, &broker->waiting, culprit);
    broker->was_refused |= error != NULL || !TAILQ_EMPTY(&broker->waiting);
    pthread_mutex_unlock(&broker->lock);
    if (given_up)
        call_done(culprit, WQ_ERROR_INVALID_ARGUMENT, why);
}

/* Its `message`; the body may repeat what we sent, tokens and all, so that stays out of the log. */
static int on_error(wq_broker *broker, const wq_stomp_frame *frame, wq_error *error)
{
    const char *said = wq_stomp_get(frame, "message");
    wq_fail(error, -1, "the broker says ERROR: %.200s", said != NULL ? said : "without a reason");
    blame(broker, frame, error->message);
    broker->blamed = 1;
    return -1;
}

static int on_frame(void *user, const wq_stomp_frame *frame, wq_error *error)
{
    wq_broker *broker = user;
    if (strcmp(frame->command, "MESSAGE") == 0)
        on_message(broker, frame);
    else if (strcmp(frame->command, "RECEIPT") == 0)
        on_receipt(broker, frame);
    else if (strcmp(frame->command, "ERROR") == 0)
        return on_error(broker, frame, error);
    else
        return wq_fail(error, -1, "the broker sent a %s out of turn", frame->command);
    return 0;
}

/* ---- a connection begins --------------------------------------------------------------------- */

/* Puts what asks for a subscription before the frames that are kept; the lock is held. */
static int ask_again(wq_broker *broker, wq_subscription *subscription)
{
    subscription->open = 0;
    if (subscription->refused >= REFUSALS)
        return 0;
    out *frame = ask_for(subscription);
    if (frame == NULL)
        return -1;
    TAILQ_INSERT_HEAD(&broker->queue, frame, link);
    broker->n_frames++;
    broker->n_bytes += frame->len;
    return 0;
}

/* The lock is held. */
static int ask_for_all(wq_broker *broker)
{
    wq_subscription *s;
    int r = 0;
    for (size_t i = 0; i < BUCKETS; i++)
        LIST_FOREACH(s, &broker->subscriptions[i], link)
    r |= ask_again(broker, s);
    return r;
}

/* The connection can be used from now on. */
static int enter(wq_broker *broker, wq_error *error)
{
    broker->gives_back = strncmp(broker->session.server, "ActiveMQ", 8) == 0;
    pthread_mutex_lock(&broker->lock);
    const int r = ask_for_all(broker);
    broker->connected = 1;
    broker->anew = 0;
    const uint64_t generation = ++broker->generation;
    if (broker->was_refused)
        broker->careful = broker->n_frames;
    broker->was_refused = 0;
    pthread_mutex_unlock(&broker->lock);
    if (r != 0)
        return wq_fail(error, -1, "out of memory");
    if (broker->options.connected != NULL)
        broker->options.connected(broker->options.user, generation, broker->session.server);
    return 0;
}

/* The connection is gone: what is kept goes back into the queue, in order. */
static void leave(wq_broker *broker, const char *why)
{
    struct outs dropped = TAILQ_HEAD_INITIALIZER(dropped), kept = TAILQ_HEAD_INITIALIZER(kept);
    out *frame;
    wq_session_close(&broker->session);
    pthread_mutex_lock(&broker->lock);
    broker->connected = 0;
    TAILQ_CONCAT(&broker->waiting, &broker->queue, link);
    while ((frame = TAILQ_FIRST(&broker->waiting)) != NULL) {
        if (frame->kept) {
            TAILQ_REMOVE(&broker->waiting, frame, link);
            TAILQ_INSERT_TAIL(&kept, frame, link);
        } else {
            take_off(broker, &broker->waiting, frame);
            TAILQ_INSERT_TAIL(&dropped, frame, link);
        }
    }
    TAILQ_CONCAT(&broker->queue, &kept, link);
    pthread_mutex_unlock(&broker->lock);
    while ((frame = TAILQ_FIRST(&dropped)) != NULL) {
        TAILQ_REMOVE(&dropped, frame, link);
        call_done(frame, WQ_ERROR_CLOSING, why);
    }
    if (broker->options.disconnected != NULL)
        broker->options.disconnected(broker->options.user, why);
}

/* ---- a connection lives ---------------------------------------------------------------------- */

/* Whether to disconnect: to be made anew at once, to be closed when all is confirmed, or when half
 * of the time for it has passed. The lock is held. */
static int is_to_end(const wq_broker *broker, int64_t now)
{
    if (!broker->closing)
        return broker->anew && !broker->gives_back;
    return (TAILQ_EMPTY(&broker->queue) && TAILQ_EMPTY(&broker->waiting)) ||
           now >= broker->close_by - broker->options.close_ms / 2;
}

/* Queues DISCONNECT, once, if the connection is to end. */
static int say_farewell(wq_broker *broker, int64_t now, wq_error *error)
{
    char id[24];
    const wq_stomp_header header = {"receipt", id};
    out *frame = NULL;
    pthread_mutex_lock(&broker->lock);
    const int wanted = broker->farewell == 0 && is_to_end(broker, now);
    broker->farewell_by = broker->closing ? broker->close_by
                          : wanted        ? now + broker->options.close_ms
                                          : broker->farewell_by;
    pthread_mutex_unlock(&broker->lock);
    if (!wanted)
        return 0;
    broker->farewell = next_id(broker);
    snprintf(id, sizeof id, "%" PRIu64, broker->farewell);
    if (encode(&frame, &(wq_stomp_frame){"DISCONNECT", &header, 1, "", 0, 0}, error) != WQ_OK)
        return -1;
    frame->receipt = broker->farewell;
    pthread_mutex_lock(&broker->lock);
    append(broker, frame);
    pthread_mutex_unlock(&broker->lock);
    return 0;
}

static int look_at_clock(wq_broker *broker, int64_t now, wq_error *error)
{
    const wq_session *session = &broker->session;
    if (session->silence_ms > 0 && now - session->read_at > session->silence_ms)
        return wq_fail(error, -1, "nothing was heard from the broker for %" PRId64 " ms",
                       now - session->read_at);
    if (broker->farewell != 0 && now >= broker->farewell_by)
        return wq_fail(error, -1, "the broker did not confirm the end of the connection in time");
    return 0;
}

static int sooner(int timeout_ms, int64_t left_ms)
{
    const int left = left_ms < 0 ? 0 : left_ms < INT32_MAX ? (int)left_ms : INT32_MAX;
    return timeout_ms < 0 || left < timeout_ms ? left : timeout_ms;
}

/* How long nothing will have to be done, in ms; -1: for ever. */
static int idle_ms(wq_broker *broker, int64_t now)
{
    const wq_session *session = &broker->session;
    int timeout = -1;
    if (session->beat_ms > 0)
        timeout = sooner(timeout, session->written_at + session->beat_ms - now);
    if (session->silence_ms > 0)
        timeout = sooner(timeout, session->read_at + session->silence_ms + 1 - now);
    if (broker->farewell != 0)
        timeout = sooner(timeout, broker->farewell_by - now);
    pthread_mutex_lock(&broker->lock);
    if (broker->closing && broker->farewell == 0)
        timeout = sooner(timeout, broker->close_by - broker->options.close_ms / 2 - now);
    pthread_mutex_unlock(&broker->lock);
    return timeout;
}

static int wait_for_news(wq_broker *broker, int timeout_ms, wq_error *error)
{
    uint64_t count;
    const wq_link *link = &broker->session.link;
    struct pollfd fds[] = {{.fd = link->fd, .events = POLLIN | link->events},
                           {.fd = broker->wake_fd, .events = POLLIN}};
    if (poll(fds, 2, timeout_ms) < 0 && errno != EINTR)
        return wq_fail(error, -1, "poll: %s", strerror(errno));
    if (fds[1].revents != 0 && read(broker->wake_fd, &count, sizeof count) < 0)
        return errno == EAGAIN ? 0 : wq_fail(error, -1, "eventfd: %s", strerror(errno));
    return 0;
}

/* Reads, then writes what that has made possible. -1: the connection has ended; 1: there may be
 * more to read. */
static int exchange(wq_broker *broker, wq_error *error)
{
    const int r = wq_session_read(&broker->session, on_frame, broker, error);
    const int64_t now = wq_monotonic_ms();
    if (r >= 0 && (beat(broker, now, error) != 0 || say_farewell(broker, now, error) != 0))
        return -1;
    if (r >= 0 && flush(broker, error) == 0)
        return r;
    if (!broker->blamed)
        blame(broker, NULL, error->message);
    return -1;
}

/* Until the connection ends, and why. */
static void live(wq_broker *broker, wq_error *error)
{
    int more = 1;
    while (!broker->left) {
        const int timeout_ms = more ? 0 : idle_ms(broker, wq_monotonic_ms());
        if (wait_for_news(broker, timeout_ms, error) != 0 || (more = exchange(broker, error)) < 0 ||
            look_at_clock(broker, wq_monotonic_ms(), error) != 0)
            return;
    }
    wq_fail(error, 0, "the connection was ended in good order");
}

/* ---- the thread ------------------------------------------------------------------------------ */

static int is_closing(wq_broker *broker)
{
    pthread_mutex_lock(&broker->lock);
    const int closing = broker->closing;
    pthread_mutex_unlock(&broker->lock);
    return closing;
}

/* Between half of it and all of it, so that not all clients of a broker come at once. */
static int pause_ms(const wq_broker *broker, unsigned failures)
{
    const unsigned most = broker->options.reconnect_max_ms;
    unsigned ms = failures == 0 ? 0 : RETRY_MS, random = 0;
    for (unsigned i = 1; i < failures && ms < most; i++)
        ms *= 2;
    ms = ms < most ? ms : most;
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) < 0)
        random = (unsigned)wq_monotonic_ms();
    return (int)(ms - random % (ms / 2 + 1));
}

static void pause_for(wq_broker *broker, int ms)
{
    struct pollfd stop = {.fd = broker->stop_fd, .events = POLLIN};
    const int64_t end = wq_monotonic_ms() + ms;
    for (int64_t left = ms; left > 0; left = end - wq_monotonic_ms())
        if (poll(&stop, 1, (int)left) > 0)
            return;
}

static void reset(wq_broker *broker)
{
    broker->said_farewell = broker->left = broker->blamed = 0;
    broker->written = 0;
    broker->farewell = 0;
    broker->careful = 0;
}

/* One connection to the URL whose turn it is, from its beginning to its end. Returns how long it
 * lasted in ms; -1: there was none. */
static int64_t try_once(wq_broker *broker, wq_error *error)
{
    const wq_broker_url *url = &broker->urls[broker->at];
    reset(broker);
    if (wq_session_open(&broker->session, url, error) != 0)
        return -1;
    const int64_t begun = wq_monotonic_ms();
    wq_log(&broker->options.log, WQ_LOG_INFO, "broker %s: connected", url->shown);
    if (enter(broker, error) == 0)
        live(broker, error);
    leave(broker, error->message);
    return wq_monotonic_ms() - begun;
}

static void *run(void *arg)
{
    wq_broker *broker = arg;
    broker->self = pthread_self();
    unsigned failures = 0, tried = 0;
    while (!is_closing(broker)) {
        wq_error error = {0};
        const char *shown = broker->urls[broker->at].shown;
        const int64_t lasted = try_once(broker, &error);
        failures = lasted >= GOOD_MS ? 0 : broker->left ? 1 : failures + (failures < 30);
        tried = lasted >= 0 ? 0 : tried + 1;
        if (lasted < 0)
            broker->at = (broker->at + 1) % broker->n_urls;
        /* All URLs are tried before the first pause. */
        const int ms = tried % broker->n_urls == 0 ? pause_ms(broker, failures) : 0;
        if (is_closing(broker))
            break;
        wq_log(&broker->options.log, broker->left ? WQ_LOG_INFO : WQ_LOG_WARNING,
               "broker %s: %s; trying again in %d ms", shown, error.message, ms);
        pause_for(broker, ms);
    }
    return NULL;
}

/* ---- open and close -------------------------------------------------------------------------- */

void wq_broker_options_init(wq_broker_options *options)
{
    *options = (wq_broker_options){.heartbeat_ms = 10000,
                                   .connect_ms = 10000,
                                   .reconnect_max_ms = 10000,
                                   .close_ms = 3000,
                                   .max_frame_bytes = 1 << 20,
                                   .max_outgoing_bytes = 16 << 20,
                                   .max_outgoing_frames = 100000};
}

static void free_broker(wq_broker *broker)
{
    wq_broker_urls_free(broker->urls, broker->n_urls);
    SSL_CTX_free(broker->tls);
    if (broker->wake_fd >= 0)
        close(broker->wake_fd);
    if (broker->stop_fd >= 0)
        close(broker->stop_fd);
    wq_session_dispose(&broker->session);
    pthread_cond_destroy(&broker->idle);
    pthread_mutex_destroy(&broker->lock);
    free(broker);
}

static int check_options(const wq_broker_options *o, wq_error *error)
{
    const unsigned most = 3600 * 1000;
    if (o->urls == NULL || o->max_frame_bytes == 0 || o->max_outgoing_frames == 0 ||
        o->max_outgoing_bytes == 0 || o->max_outgoing_bytes > SIZE_MAX / 4 ||
        o->max_outgoing_frames > SIZE_MAX / 4)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "broker: no URL, or a size that cannot be");
    if (o->connect_ms == 0 || o->connect_ms > most || o->heartbeat_ms > most ||
        o->reconnect_max_ms == 0 || o->reconnect_max_ms > most || o->close_ms > most)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "broker: a duration that cannot be");
    return WQ_OK;
}

static int prepare(wq_broker *broker, wq_error *error)
{
    int tls = 0;
    int r = wq_broker_urls_parse(&broker->urls, &broker->n_urls, broker->options.urls, error);
    if (r != WQ_OK)
        return r;
    for (size_t i = 0; i < broker->n_urls; i++)
        tls |= broker->urls[i].tls;
    if (tls && (r = wq_link_tls(&broker->tls, broker->options.ca_file, broker->options.cert_file,
                                 broker->options.key_file, error)) != WQ_OK)
        return r;
    broker->options.urls = broker->options.ca_file = NULL; /* were the caller's, as these: */
    broker->options.cert_file = broker->options.key_file = NULL;
    broker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    broker->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const wq_session_options o = {.tls = broker->tls,
                                  .stop_fd = broker->stop_fd,
                                  .connect_ms = broker->options.connect_ms,
                                  .heartbeat_ms = broker->options.heartbeat_ms,
                                  .max_frame_bytes = broker->options.max_frame_bytes};
    if (broker->wake_fd < 0 || broker->stop_fd < 0 || wq_session_init(&broker->session, &o) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "broker: %s", strerror(errno));
    return WQ_OK;
}

int wq_broker_open(wq_broker **result, const wq_broker_options *options, wq_error *error)
{
    int r = check_options(options, error);
    wq_broker *broker = r == WQ_OK ? calloc(1, sizeof *broker) : NULL;
    if (broker == NULL)
        return r != WQ_OK ? r : wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    broker->options = *options;
    broker->wake_fd = broker->stop_fd = -1;
    pthread_mutex_init(&broker->lock, NULL);
    pthread_cond_init(&broker->idle, NULL);
    TAILQ_INIT(&broker->queue);
    TAILQ_INIT(&broker->waiting);
    for (size_t i = 0; i < BUCKETS; i++)
        LIST_INIT(&broker->subscriptions[i]);
    r = prepare(broker, error);
    if (r == WQ_OK) {
        *result = broker; /* for the first callback */
        errno = wq_thread_start(&broker->thread, "wq-broker", run, broker);
        r = errno == 0 ? WQ_OK : wq_fail(error, WQ_ERROR_SYSTEM, "thread: %s", strerror(errno));
    }
    if (r != WQ_OK)
        free_broker(broker);
    return r;
}

void wq_broker_close(wq_broker *broker)
{
    out *frame;
    wq_subscription *s;
    pthread_mutex_lock(&broker->lock);
    broker->close_by = wq_monotonic_ms() + broker->options.close_ms;
    broker->closing = 1;
    pthread_mutex_unlock(&broker->lock);
    wake(broker->stop_fd);
    wake(broker->wake_fd);
    pthread_join(broker->thread, NULL);
    while ((frame = TAILQ_FIRST(&broker->queue)) != NULL) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the first was taken off, another is now */
        take_off(broker, &broker->queue, frame);
        call_done(frame, WQ_ERROR_CLOSING, "the connection to the broker was closed first");
    }
    for (size_t i = 0; i < BUCKETS; i++)
        while ((s = LIST_FIRST(&broker->subscriptions[i])) != NULL) {
            LIST_REMOVE(s, link);
            free_subscription(s);
        }
    free_broker(broker);
}
