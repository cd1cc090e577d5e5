/* slots.c - takes jobs from a broker, runs them in a queue of its own, and answers.
 *
 * There is a slot for each worker: a subscription that has at most one delivery, and a thread that
 * deals with it from top to bottom and may wait for the store. The broker's thread only puts what
 * comes into a slot's list and wakes it. See packaging.h for the parts.
 */
#include "workqueue/remote/packager.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "workqueue/remote/packaging.h"
#include "workqueue/util/threads.h"

enum {
    FRAME_BYTES = 2 * WQ_MESSAGE_BYTES,
    PROBE_MS = 2000, /* between two probes of a store that is away */
    IDLE_SLOT_MS = 60000,
};

/* ---- what comes ------------------------------------------------------------------------------ */

static void free_delivery(delivery *came)
{
    free(came->at);
    free(came);
}

static void copy_header(char *out, size_t size, const wq_stomp_frame *frame, const char *name)
{
    const char *value = wq_stomp_get(frame, name);
    if (value != NULL && strlen(value) < size)
        memcpy(out, value, strlen(value) + 1);
}

/* Without memory it is as if it had not come: it comes again with the next connection. */
static void on_job_message(void *user, const wq_broker_message *message)
{
    slot *s = user;
    const wq_stomp_frame *frame = message->frame;
    const char *need = wq_stomp_get(frame, "workqueue-need");
    delivery *came = calloc(1, sizeof *came + frame->body_len + 1);
    if (came == NULL || (came->at = wq_delivery_copy(message->delivery)) == NULL) {
        free(came);
        return;
    }
    copy_header(came->reply_to, sizeof came->reply_to, frame, "reply-to");
    copy_header(came->traceparent, sizeof came->traceparent, frame, "traceparent");
    came->need = need != NULL ? strtoull(need, NULL, 10) : 0;
    came->is_cut = frame->dropped_bytes > 0;
    came->len = frame->body_len;
    memcpy(came->body, frame->body, came->len);
    pthread_mutex_lock(&s->packager->lock);
    STAILQ_INSERT_TAIL(&s->came, came, link);
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->packager->lock);
}

static void on_refused(void *user, const char *why)
{
    const slot *s = user;
    wq_log(&s->packager->logger, WQ_LOG_ERROR, "the broker refuses a subscription: %s", why);
}

/* ---- slots ----------------------------------------------------------------------------------- */

int wq_packager_is_stopping(const wq_packager *p)
{
    return p->closing || p->draining;
}

void wq_slot_wake(slot *s)
{
    pthread_mutex_lock(&s->packager->lock);
    s->has_news = 1;
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->packager->lock);
}

int wq_slot_wait(slot *s, int64_t ms)
{
    wq_packager *p = s->packager;
    pthread_mutex_lock(&p->lock);
    if (!s->has_news && !p->closing)
        wq_cond_wait_ms(&s->news, &p->lock, ms);
    s->has_news = 0;
    pthread_mutex_unlock(&p->lock);
    return p->closing;
}

static int is_for_deletions(const slot *s)
{
    return s->i == s->packager->o.workers;
}

void wq_slot_subscribe(slot *s)
{
    wq_packager *p = s->packager;
    const wq_subscribe options = {.destination =
                                      is_for_deletions(s) ? p->o.queue_delete : p->o.queue_package,
                                  .ack = WQ_ACK_INDIVIDUAL,
                                  .prefetch = 1,
                                  .message = on_job_message,
                                  .refused = on_refused,
                                  .user = s};
    wq_error error;
    if (s->subscription == NULL &&
        wq_broker_subscribe(&s->subscription, p->broker, &options, &error) != WQ_OK)
        wq_log(&p->logger, WQ_LOG_ERROR, "cannot subscribe: %s", error.message);
}

/* The next delivery; NULL: we stop. */
static delivery *next_delivery(slot *s)
{
    wq_packager *p = s->packager;
    pthread_mutex_lock(&p->lock);
    while (STAILQ_EMPTY(&s->came) && !wq_packager_is_stopping(p))
        wq_cond_wait_ms(&s->news, &p->lock, IDLE_SLOT_MS);
    delivery *came = wq_packager_is_stopping(p) ? NULL : STAILQ_FIRST(&s->came);
    if (came != NULL)
        STAILQ_REMOVE_HEAD(&s->came, link);
    pthread_mutex_unlock(&p->lock);
    return came;
}

/* Until there has been a connection, which tells what kind of broker it is, and the store is known
 * to keep to conditions. */
static void wait_for_services(slot *s)
{
    wq_packager *p = s->packager;
    const wq_store *store = p->o.store;
    wq_error error;
    while (!p->has_met && !wq_packager_is_stopping(p))
        wq_slot_wait(s, IDLE_SLOT_MS);
    while (!p->is_probed && !wq_packager_is_stopping(p)) {
        int result = s->i == 0 ? store->shared->probe(store->self, &error) : WQ_ERROR_AWAY;
        if (result == WQ_OK) {
            pthread_mutex_lock(&p->lock);
            p->is_probed = 1;
            for (unsigned i = 0; i <= p->o.workers; i++)
                pthread_cond_signal(&p->slots[i].news);
            pthread_mutex_unlock(&p->lock);
            p->is_away = 0;
        } else {
            if (result != WQ_ERROR_AWAY)
                wq_log(&p->logger, WQ_LOG_ERROR, "no jobs are taken: %s", error.message);
            wq_slot_wait(s, PROBE_MS);
        }
    }
}

static void *slot_main(void *arg)
{
    slot *s = arg;
    wq_packager *p = s->packager;
    delivery *came;
    wait_for_services(s);
    if (!wq_packager_is_stopping(p))
        wq_slot_subscribe(s);
    while ((came = next_delivery(s)) != NULL) {
        if (is_for_deletions(s))
            wq_take_deletion(s, came);
        else
            wq_take_job(s, came);
        free_delivery(came);
        if (!wq_packager_is_stopping(p))
            wq_slot_subscribe(s);
    }
    if (p->draining && s->subscription != NULL) {
        wq_broker_unsubscribe(s->subscription);
        s->subscription = NULL;
    }
    pthread_mutex_lock(&p->lock);
    p->n_threads--;
    int is_last = p->n_threads == 0 && p->draining;
    pthread_mutex_unlock(&p->lock);
    if (is_last && p->drained != NULL)
        p->drained(p->drained_user);
    return NULL;
}

/* ---- connections ----------------------------------------------------------------------------- */

/* What is not RabbitMQ takes slashes within names as they are. */
static void spell_default(const char **destination, const char *here)
{
    char *copy = strdup(here);
    if (copy == NULL)
        return;
    free((char *)*destination);
    *destination = copy;
}

static void spell_defaults(wq_packager *p)
{
    wq_packager_options d;
    wq_packager_options_init(&d);
    if (strcmp(p->o.queue_package, d.queue_package) == 0)
        spell_default(&p->o.queue_package, "/queue/docsets/package");
    if (strcmp(p->o.queue_reply, d.queue_reply) == 0)
        spell_default(&p->o.queue_reply, "/queue/package/{id}");
    if (strcmp(p->o.queue_delete, d.queue_delete) == 0)
        spell_default(&p->o.queue_delete, "/queue/docsets/delete");
}

static void on_connected(void *user, uint64_t generation, const char *server)
{
    wq_packager *p = user;
    (void)generation;
    int is_rabbitmq = server != NULL && strncmp(server, "RabbitMQ", 8) == 0, is_first = !p->has_met;
    p->connections++;
    if (is_first) {
        p->is_rabbitmq = is_rabbitmq;
        if (!is_rabbitmq)
            spell_defaults(p);
        wq_log(&p->logger, WQ_LOG_INFO,
               "jobs come from %s, answers go to %s%s unless a job says where", p->o.queue_package,
               p->o.queue_reply,
               is_rabbitmq ? " (RabbitMQ takes no slash within a name: have servers subscribe to "
                             "%2F)"
                           : "");
        wq_inbox_subscribe(p);
    }
    pthread_mutex_lock(&p->lock);
    p->has_met = p->is_connected = 1;
    for (unsigned i = 0; i <= p->o.workers; i++) {
        p->slots[i].has_news = 1;
        pthread_cond_signal(&p->slots[i].news);
    }
    pthread_mutex_unlock(&p->lock);
}

static void on_disconnected(void *user, const char *why)
{
    wq_packager *p = user;
    (void)why;
    p->is_connected = 0;
}

/* ---- opening and closing --------------------------------------------------------------------- */

void wq_packager_options_init(wq_packager_options *options)
{
    *options = (wq_packager_options){
        .queue_package = "/queue/docsets%2Fpackage",
        .queue_reply = "/queue/package%2F{id}",
        .queue_delete = "/queue/docsets%2Fdelete",
        .heartbeat_ms = 10000,
        .url_base = "workqueue:",
        .workers = 2,
        .alive_ms = 5000,
        .renew_ms = 5000,
        .takeover_ms = 20000,
        .max_attempts = 5,
        .put_off_ms = 5000,
        .ack_after_ms = 600000,
    };
}

void wq_packager_stat(wq_packager *p, wq_packager_stats *out)
{
    *out = (wq_packager_stats){.is_connected = p->is_connected,
                               .is_away = p->is_away,
                               .running = p->running,
                               .claimed = p->claimed,
                               .taken_over = p->taken_over,
                               .put_off = p->put_off,
                               .fenced = p->fenced,
                               .succeeded = p->succeeded,
                               .failed = p->failed,
                               .cancelled = p->cancelled,
                               .dead_letters = p->dead_letters,
                               .connections = p->connections,
                               .renewal_age_ms = (uint64_t)wq_leases_age_ms(p->leases)};
}

static void wake_all(wq_packager *p, atomic_int *why)
{
    pthread_mutex_lock(&p->lock);
    *why = 1;
    for (unsigned i = 0; p->slots != NULL && i <= p->o.workers; i++)
        pthread_cond_broadcast(&p->slots[i].news);
    pthread_mutex_unlock(&p->lock);
}

void wq_packager_drain(wq_packager *p, void (*drained)(void *user), void *user)
{
    pthread_mutex_lock(&p->lock);
    p->drained = drained;
    p->drained_user = user;
    pthread_mutex_unlock(&p->lock);
    wake_all(p, &p->draining);
}

static void free_options(wq_packager_options *o)
{
    free((char *)o->queue_package);
    free((char *)o->queue_reply);
    free((char *)o->queue_delete);
    free((char *)o->url_base);
}

static void free_packager(wq_packager *p)
{
    for (unsigned i = 0; p->slots != NULL && i <= p->o.workers; i++) {
        delivery *came;
        while ((came = STAILQ_FIRST(&p->slots[i].came)) != NULL) {
            STAILQ_REMOVE_HEAD(&p->slots[i].came, link);
            free_delivery(came);
        }
        pthread_cond_destroy(&p->slots[i].news);
    }
    pthread_mutex_destroy(&p->lock);
    free_options(&p->o);
    free(p->slots);
    free(p);
}

/* The programs have ended when their jobs go to others: with the connection. */
void wq_packager_close(wq_packager *p)
{
    if (p == NULL)
        return;
    wake_all(p, &p->closing);
    for (unsigned i = 0; p->slots != NULL && i <= p->o.workers; i++)
        if (p->slots[i].has_thread)
            pthread_join(p->slots[i].thread, NULL);
    if (p->broker != NULL)
        wq_broker_close(p->broker);
    wq_leases_close(p->leases);
    free_packager(p);
}

static int make_name(wq_packager *p, const char *name, wq_error *error)
{
    for (const char *c = name != NULL ? name : ""; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the name holds a control character");
    if (wq_owner_name(p->name, name) == 0)
        return WQ_OK;
    return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the name is too long");
}

static int copy_packager_options(wq_packager *p, const wq_packager_options *o, wq_error *error)
{
    p->o = *o;
    p->o.queue_package = strdup(o->queue_package);
    p->o.queue_reply = strdup(o->queue_reply);
    p->o.queue_delete = strdup(o->queue_delete);
    p->o.url_base = strdup(o->url_base != NULL ? o->url_base : "workqueue:");
    p->slots = calloc((size_t)o->workers + 1, sizeof *p->slots);
    for (unsigned i = 0; p->slots != NULL && i <= o->workers; i++) {
        p->slots[i].packager = p;
        p->slots[i].i = i;
        STAILQ_INIT(&p->slots[i].came);
        LIST_INIT(&p->slots[i].askers);
        wq_cond_init(&p->slots[i].news);
    }
    if (!p->o.queue_package || !p->o.queue_reply || !p->o.queue_delete || !p->o.url_base ||
        !p->slots)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    return make_name(p, o->name, error);
}

static int open_leases(wq_packager *p, wq_error *error)
{
    const wq_leases_options o = {.store = p->o.store,
                                 .owner = p->name,
                                 .renew_ms = p->o.renew_ms,
                                 .takeover_ms = p->o.takeover_ms,
                                 .max_attempts = p->o.max_attempts,
                                 .strict = p->o.strict,
                                 .logger = p->logger};
    if (p->o.takeover_ms < 2 * p->o.renew_ms)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT,
                       "the time to take over must be at least twice that between renewals");
    int result = p->o.store->shared->probe(p->o.store->self, error);
    p->is_probed = result == WQ_OK;
    p->is_away = result == WQ_ERROR_AWAY;
    if (result == WQ_ERROR_AWAY)
        wq_log(&p->logger, WQ_LOG_WARNING, "no jobs are taken until the store can be used: %s",
               error->message);
    else if (result != WQ_OK)
        return result;
    return wq_leases_open(&p->leases, &o, error);
}

static int open_packager_broker(wq_packager *p, wq_error *error)
{
    wq_broker_options o;
    wq_broker_options_init(&o);
    o.urls = p->o.urls;
    o.ca_file = p->o.ca_file;
    o.cert_file = p->o.cert_file;
    o.key_file = p->o.key_file;
    o.heartbeat_ms = p->o.heartbeat_ms;
    o.max_frame_bytes = FRAME_BYTES;
    o.log = p->logger;
    o.connected = on_connected;
    o.disconnected = on_disconnected;
    o.user = p;
    int result = wq_broker_open(&p->broker, &o, error);
    p->o.urls = p->o.ca_file = p->o.cert_file = p->o.key_file = p->o.name = NULL; /* borrowed */
    return result;
}

static int start_slots(wq_packager *p, wq_error *error)
{
    for (unsigned i = 0; i <= p->o.workers; i++) {
        slot *s = &p->slots[i];
        pthread_mutex_lock(&p->lock);
        p->n_threads++;
        pthread_mutex_unlock(&p->lock);
        s->has_thread = wq_thread_start(&s->thread, "wq-slot", slot_main, s) == 0;
        if (!s->has_thread)
            return wq_fail(error, WQ_ERROR_SYSTEM, "cannot start a thread");
    }
    return WQ_OK;
}

int wq_packager_open(wq_packager **out, wq_queue *queue, const wq_packager_options *options,
                     wq_error *error)
{
    wq_packager *p = calloc(1, sizeof *p);
    if (p == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    pthread_mutex_init(&p->lock, NULL);
    p->queue = queue;
    p->logger = (wq_logger){options->log, options->log_user};
    int result = copy_packager_options(p, options, error);
    if (result == WQ_OK)
        result = open_leases(p, error);
    if (result == WQ_OK)
        result = open_packager_broker(p, error);
    if (result == WQ_OK)
        result = start_slots(p, error);
    if (result == WQ_OK)
        *out = p;
    else
        wq_packager_close(p);
    return result;
}
