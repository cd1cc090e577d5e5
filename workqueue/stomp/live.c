/* live.c - a connection to a STOMP broker that comes back by itself.
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
#include "workqueue/stomp/frames.h"

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
        wq_out_take_off(broker, &broker->queue, frame);
    }
    pthread_mutex_unlock(&broker->lock);
    if (frame != NULL)
        wq_out_free(frame);
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
        wq_out_append(broker, frame);
    pthread_mutex_unlock(&broker->lock);
    if (!wanted)
        wq_out_free(frame);
    return 0;
}

/* ---- a connection begins --------------------------------------------------------------------- */

/* Puts what asks for a subscription before the frames that are kept; the lock is held. */
static int ask_again(wq_broker *broker, wq_subscription *subscription)
{
    subscription->open = 0;
    if (subscription->refused >= REFUSALS)
        return 0;
    out *frame = wq_subscription_ask(subscription);
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
            wq_out_take_off(broker, &broker->waiting, frame);
            TAILQ_INSERT_TAIL(&dropped, frame, link);
        }
    }
    TAILQ_CONCAT(&broker->queue, &kept, link);
    pthread_mutex_unlock(&broker->lock);
    while ((frame = TAILQ_FIRST(&dropped)) != NULL) {
        TAILQ_REMOVE(&dropped, frame, link);
        wq_out_done(frame, WQ_ERROR_CLOSING, why);
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
    broker->farewell = wq_broker_next_id(broker);
    snprintf(id, sizeof id, "%" PRIu64, broker->farewell);
    if (wq_out_encode(&frame, &(wq_stomp_frame){"DISCONNECT", &header, 1, "", 0, 0}, error) !=
        WQ_OK)
        return -1;
    frame->receipt = broker->farewell;
    pthread_mutex_lock(&broker->lock);
    wq_out_append(broker, frame);
    pthread_mutex_unlock(&broker->lock);
    return 0;
}

static int look_at_heartbeat(wq_broker *broker, int64_t now, wq_error *error)
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
    const int r = wq_session_read(&broker->session, wq_broker_on_frame, broker, error);
    const int64_t now = wq_monotonic_ms();
    if (r >= 0 && (beat(broker, now, error) != 0 || say_farewell(broker, now, error) != 0))
        return -1;
    if (r >= 0 && flush(broker, error) == 0)
        return r;
    if (!broker->blamed)
        wq_broker_blame(broker, NULL, error->message);
    return -1;
}

/* Until the connection ends, and why. */
static void live(wq_broker *broker, wq_error *error)
{
    int more = 1;
    while (!broker->left) {
        const int timeout_ms = more ? 0 : idle_ms(broker, wq_monotonic_ms());
        if (wait_for_news(broker, timeout_ms, error) != 0 || (more = exchange(broker, error)) < 0 ||
            look_at_heartbeat(broker, wq_monotonic_ms(), error) != 0)
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

static void reset_broker(wq_broker *broker)
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
    reset_broker(broker);
    if (wq_session_open(&broker->session, url, error) != 0)
        return -1;
    const int64_t begun = wq_monotonic_ms();
    wq_log(&broker->options.log, WQ_LOG_INFO, "broker %s: connected", url->shown);
    if (enter(broker, error) == 0)
        live(broker, error);
    leave(broker, error->message);
    return wq_monotonic_ms() - begun;
}

static void *run_broker(void *arg)
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

static int check_broker_options(const wq_broker_options *o, wq_error *error)
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
    int r = check_broker_options(options, error);
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
        errno = wq_thread_start(&broker->thread, "wq-broker", run_broker, broker);
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
    wq_broker_wake(broker->stop_fd);
    wq_broker_wake(broker->wake_fd);
    pthread_join(broker->thread, NULL);
    while ((frame = TAILQ_FIRST(&broker->queue)) != NULL) {
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the first was taken off, another is now */
        wq_out_take_off(broker, &broker->queue, frame);
        wq_out_done(frame, WQ_ERROR_CLOSING, "the connection to the broker was closed first");
    }
    for (size_t i = 0; i < BUCKETS; i++)
        while ((s = LIST_FIRST(&broker->subscriptions[i])) != NULL) {
            LIST_REMOVE(s, link);
            wq_subscription_free(s);
        }
    free_broker(broker);
}
