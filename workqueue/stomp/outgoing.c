/* outgoing.c - what callers ask of a broker, from any thread: frames to be sent, subscriptions, and
 * deliveries to be settled. All of it only goes into the queue. */
#include "workqueue/stomp/frames.h"

/* ---- frames to be sent ----------------------------------------------------------------------- */

void wq_out_free(out *frame)
{
    free(frame->bytes);
    free(frame);
}

int wq_out_encode(out **result, const wq_stomp_frame *frame, wq_error *error)
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

void wq_broker_wake(int fd)
{
    if (eventfd_write(fd, 1) != 0)
        return; /* it is readable already */
}

/* Puts a frame into the queue; the lock is held. */
void wq_out_append(wq_broker *broker, out *frame)
{
    const int was_empty = TAILQ_EMPTY(&broker->queue);
    TAILQ_INSERT_TAIL(&broker->queue, frame, link);
    broker->n_frames++;
    broker->n_bytes += frame->len;
    /* Where there were frames, the thread has not gone to sleep without them. */
    if (was_empty)
        wq_broker_wake(broker->wake_fd);
}

/* Takes a frame off `list`; the lock is held. */
void wq_out_take_off(wq_broker *broker, struct outs *list, out *frame)
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

uint64_t wq_broker_next_id(wq_broker *broker)
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
    const uint64_t id = done != NULL ? wq_broker_next_id(broker) : 0;
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
        r = wq_out_encode(&made, &(wq_stomp_frame){"SEND", all, n, body, body_len, 0}, error);
    if (r != WQ_OK)
        return r;
    made->receipt = id, made->kept = done != NULL, made->done = done, made->user = user;
    pthread_mutex_lock(&broker->lock);
    r = check_room(broker, made->len, 1, error);
    const int wanted = r == WQ_OK && (broker->connected || done != NULL);
    if (wanted)
        wq_out_append(broker, made);
    pthread_mutex_unlock(&broker->lock);
    if (!wanted)
        wq_out_free(made);
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

void wq_subscription_free(wq_subscription *subscription)
{
    free(subscription->bytes);
    free(subscription);
}

/* The lock is held. */
wq_subscription *wq_subscription_find(wq_broker *broker, uint64_t id)
{
    wq_subscription *s;
    LIST_FOREACH(s, &broker->subscriptions[id % BUCKETS], link)
    if (s->id == id)
        return s;
    return NULL;
}

/* The frame that asks for it, as it goes out on each connection; NULL: no memory. */
out *wq_subscription_ask(const wq_subscription *subscription)
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
        r = wq_out_encode(&made, &(wq_stomp_frame){"SUBSCRIBE", all, n, "", 0, 0}, error);
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
    s->broker = broker, s->id = wq_broker_next_id(broker), s->settles = options->ack != WQ_ACK_AUTO;
    s->on_message = options->message, s->on_refused = options->refused, s->user = options->user;
    r = encode_subscribe(s, options, error);
    if (r == WQ_OK && (first = wq_subscription_ask(s)) == NULL)
        r = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (r != WQ_OK) {
        wq_subscription_free(s);
        return r;
    }
    pthread_mutex_lock(&broker->lock);
    r = check_room(broker, s->len, 2, error);
    const int asked = r == WQ_OK && broker->connected;
    if (asked)
        wq_out_append(broker, first);
    if (r == WQ_OK) {
        *result = s; /* before its first message */
        LIST_INSERT_HEAD(&broker->subscriptions[s->id % BUCKETS], s, link);
    }
    pthread_mutex_unlock(&broker->lock);
    if (!asked)
        wq_out_free(first);
    if (r != WQ_OK)
        wq_subscription_free(s);
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
    wq_subscription_free(subscription);
}

static int encode_unsubscribe(out **result, const wq_subscription *subscription, wq_error *error)
{
    char id[24];
    const wq_stomp_header header = {"id", id};
    snprintf(id, sizeof id, "%" PRIu64, subscription->id);
    return wq_out_encode(result, &(wq_stomp_frame){"UNSUBSCRIBE", &header, 1, "", 0, 0}, error);
}

void wq_broker_unsubscribe(wq_subscription *subscription)
{
    wq_broker *broker = subscription->broker;
    out *made = NULL;
    const int encoded = encode_unsubscribe(&made, subscription, NULL) == WQ_OK;
    pthread_mutex_lock(&broker->lock);
    const int told = broker->connected && encoded && subscription->refused < REFUSALS;
    if (told)
        wq_out_append(broker, made);
    if (broker->connected && (!encoded || subscription->open > 0))
        broker->anew = 1;
    end_subscription(subscription);
    pthread_mutex_unlock(&broker->lock);
    if (encoded && !told)
        wq_out_free(made);
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
    int r =
        wq_out_encode(&made, &(wq_stomp_frame){command, headers, more ? 2 : 1, "", 0, 0}, error);
    if (r != WQ_OK)
        return r;
    pthread_mutex_lock(&broker->lock);
    const int current = broker->connected && delivery->generation == broker->generation;
    /* RabbitMQ answers with ERROR once the subscription has ended. */
    s = current ? wq_subscription_find(broker, delivery->subscription) : NULL;
    if (s != NULL && (r = check_room(broker, made->len, 2, error)) == WQ_OK) {
        s->open -= s->open > 0;
        wq_out_append(broker, made);
        made = NULL;
    }
    pthread_mutex_unlock(&broker->lock);
    if (made != NULL)
        wq_out_free(made);
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
    int r = wq_out_encode(&frames[0], &(wq_stomp_frame){"BEGIN", headers, 1, "", 0, 0}, error);
    if (r == WQ_OK)
        r = wq_out_encode(&frames[1], &(wq_stomp_frame){"ACK", headers + 1, 2, "", 0, 0}, error);
    if (r == WQ_OK)
        r = encode_unsubscribe(&frames[2], subscription, error);
    if (r == WQ_OK)
        r = wq_out_encode(&frames[3], &(wq_stomp_frame){"COMMIT", headers + 2, 2, "", 0, 0}, error);
    return r;
}

int wq_broker_take_last(wq_subscription *subscription, const wq_delivery *delivery, wq_sent_cb done,
                        void *user, wq_error *error)
{
    wq_broker *broker = subscription->broker;
    out *frames[TAKE_FRAMES] = {NULL};
    const uint64_t id = wq_broker_next_id(broker);
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
            wq_out_append(broker, frames[i]);
        broker->anew |= subscription->open > 1;
        end_subscription(subscription);
    }
    pthread_mutex_unlock(&broker->lock);
    for (size_t i = 0; i < TAKE_FRAMES && r != WQ_OK; i++)
        if (frames[i] != NULL)
            wq_out_free(frames[i]);
    return r;
}
