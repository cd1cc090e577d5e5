/* packager.c - takes jobs from a broker, runs them in a queue of its own, and answers.
 *
 * There is a subscription for each worker, and the broker holds each job that it has delivered as
 * long as it runs: no more are delivered than can run, and if this process dies the broker delivers
 * them to others at once. See packaging.h for the parts.
 *
 * All this is done by one thread. Others - the broker's, those of the queue - put something in its
 * lists, under the lock, under which nothing is called. What may take long is done by a second
 * thread, the clerk.
 */
#include "workqueue/remote/packager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/remote/packaging.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

enum {
    CLAIM_TICK_MS = 10, /* while something is claimed */
    IDLE_TICK_MS = 250, /* else, while something runs */
    PROGRESS_MS = 20,   /* progress is told at most so often, the latest */
    STOP_MS = 3000,     /* how long ends are waited for to be confirmed when we stop */
    MAX_NOTICES = 4096, /* that wait for the thread; more are dropped, as if not heard */
    FRAME_BYTES = 2 * WQ_MESSAGE_BYTES,
};

/* ---- what comes ------------------------------------------------------------------------------ */

static int copy_frame(event *e, const wq_broker_message *message)
{
    const wq_stomp_frame *frame = message->frame;
    const char *reply_to = wq_stomp_get(frame, "reply-to");
    const char *redelivered = wq_stomp_get(frame, "redelivered");
    if (reply_to != NULL && strlen(reply_to) < sizeof e->reply_to)
        memcpy(e->reply_to, reply_to, strlen(reply_to) + 1);
    e->is_redelivered = redelivered != NULL && strcmp(redelivered, "true") == 0;
    e->is_cut = frame->dropped_bytes > 0;
    e->len = frame->body_len;
    memcpy(e->body, frame->body, e->len);
    if (message->delivery != NULL)
        e->delivery = wq_delivery_copy(message->delivery);
    return message->delivery == NULL || e->delivery != NULL ? 0 : -1;
}

event *wq_event_new(wq_packager *p, event_kind kind, const wq_broker_message *message)
{
    event *e = calloc(1, sizeof *e + (message != NULL ? message->frame->body_len : 0) + 1);
    if (e == NULL)
        return NULL;
    e->packager = p;
    e->kind = kind;
    if (message != NULL && copy_frame(e, message) != 0) {
        free(e);
        return NULL;
    }
    return e;
}

void wq_event_free(event *e)
{
    free(e->delivery);
    free(e);
}

/* Without memory it is as if it had not come: what has a delivery comes again with the next
 * connection, the rest is asked for again. */
void wq_event_put(event *e)
{
    if (e == NULL)
        return;
    wq_packager *p = e->packager;
    pthread_mutex_lock(&p->lock);
    int is_too_much = e->kind == EVENT_NOTICE && p->n_notices >= MAX_NOTICES;
    if (!is_too_much) {
        STAILQ_INSERT_TAIL(&p->events, e, link);
        p->n_notices += e->kind == EVENT_NOTICE;
        pthread_cond_signal(&p->news);
    }
    pthread_mutex_unlock(&p->lock);
    if (is_too_much)
        wq_event_free(e);
}

static void on_job_message(void *user, const wq_broker_message *message)
{
    const slot *s = user;
    event *e = wq_event_new(s->packager, EVENT_JOB, message);
    if (e != NULL)
        e->slot = s->i;
    wq_event_put(e);
}

static void on_notice(void *user, const wq_broker_message *message)
{
    if (message->frame->dropped_bytes == 0)
        wq_event_put(wq_event_new(user, EVENT_NOTICE, message));
}

static void on_delete(void *user, const wq_broker_message *message)
{
    wq_event_put(wq_event_new(user, EVENT_DELETE, message));
}

static void on_connected(void *user, uint64_t generation, const char *server)
{
    event *e = wq_event_new(user, EVENT_CONNECTED, NULL);
    (void)server;
    if (e != NULL)
        e->generation = generation;
    wq_event_put(e);
}

static void on_disconnected(void *user, const char *why)
{
    (void)why;
    wq_event_put(wq_event_new(user, EVENT_DISCONNECTED, NULL));
}

/* From the queue's threads. */
static void on_job_news(void *user)
{
    work *w = user;
    wq_packager *p = w->packager;
    pthread_mutex_lock(&p->lock);
    w->has_news = p->work_news = 1;
    pthread_cond_signal(&p->news);
    pthread_mutex_unlock(&p->lock);
}

static void on_asked(void *user, int result, wq_job *job, int64_t made_at_ms, const wq_error *error)
{
    work *w = user;
    wq_packager *p = w->packager;
    (void)made_at_ms;
    pthread_mutex_lock(&p->lock);
    w->has_asked = w->has_news = p->work_news = 1;
    w->asked_result = result;
    w->asked_job = job;
    if (result < 0 && error != NULL)
        w->asked_error = *error;
    pthread_cond_signal(&p->news);
    pthread_mutex_unlock(&p->lock);
}

/* ---- works ----------------------------------------------------------------------------------- */

work *wq_work_by_id(wq_packager *p, const char *id, const char *key, requester **found)
{
    work *w;
    LIST_FOREACH(w, &p->works, link)
    if ((key == NULL || strcmp(w->key, key) == 0) && (*found = wq_requester_find(w, id)) != NULL)
        return w;
    return NULL;
}

work *wq_work_by_key(wq_packager *p, const char *key)
{
    work *w;
    LIST_FOREACH(w, &p->works, link)
    if (strcmp(w->key, key) == 0 && w->phase != WAITING)
        return w;
    return NULL;
}

int wq_work_is_held(const wq_packager *p, const work *w)
{
    return w->file != NULL || (w->delivery != NULL && w->delivery->generation == p->generation);
}

/* One that is in no list any more. */
void wq_work_free(work *w)
{
    while (!LIST_EMPTY(&w->requesters))
        wq_requester_drop(w, LIST_FIRST(&w->requesters));
    wq_watch_cancel(w->watch);
    wq_job_unref(w->job);
    wq_job_message_clear(&w->message);
    free(w->delivery);
    free(w->body);
    free(w->file);
    free(w->end_text);
    free(w);
}

static int subscribe_slot(wq_packager *p, slot *s, wq_error *error);

void wq_work_forget(wq_packager *p, work *w)
{
    LIST_REMOVE(w, link);
    for (unsigned i = 0; i < p->o.workers; i++)
        if (p->slots[i].holder == w)
            p->slots[i].holder = NULL;
    wq_work_free(w);
}

void wq_work_end(wq_packager *p, work *w)
{
    if (w->delivery != NULL)
        wq_broker_ack(p->broker, w->delivery, NULL);
    wq_unkeep(w);
    wq_work_forget(p, w);
}

/* ---- a job of the queue ---------------------------------------------------------------------- */

static void leave_job(work *w)
{
    wq_watch_cancel(w->watch);
    wq_job_unref(w->job);
    w->watch = NULL;
    w->job = NULL;
}

void wq_work_ask(wq_packager *p, work *w)
{
    unsigned flags = WQ_ENSURE_JOB | (w->message.rebuild ? WQ_ENSURE_REBUILD : 0);
    wq_job *job = NULL;
    wq_error error = {0};
    leave_job(w);
    w->phase = ASKING;
    w->began_at = wq_monotonic_ms();
    int result =
        wq_ensure_run_async(p->queue, &w->message.params, flags, &job, NULL, on_asked, w, &error);
    if (result != WQ_PENDING)
        on_asked(w, result, job, 0, &error);
}

/* The line as the program would write it, from what the queue has made of it. */
static size_t make_line(char line[WQ_REPLY_LINE_BYTES], const wq_snapshot *s)
{
    char head[64];
    unsigned long n = (unsigned long)(s->reached * 1e9 + 0.5);
    if (s->has_items)
        snprintf(head, sizeof head, "%" PRIu64 "/%" PRIu64, s->items_done, s->items_total);
    else
        snprintf(head, sizeof head, "%lu.%09lu", n / 1000000000, n % 1000000000);
    int len = snprintf(line, WQ_REPLY_LINE_BYTES, "%s%s%s", head, s->message ? "\t" : "",
                       s->message ? s->message : "");
    return len < WQ_REPLY_LINE_BYTES ? (size_t)len : WQ_REPLY_LINE_BYTES - 1;
}

/* The last one is told before the end, the others not too often. */
static void take_line(wq_packager *p, work *w, const wq_snapshot *s)
{
    char line[WQ_REPLY_LINE_BYTES];
    size_t len = make_line(line, s);
    if (len != w->line_len || memcmp(line, w->line, len) != 0) {
        memcpy(w->line, line, len);
        w->line_len = len;
        w->has_line = 1;
    }
    if (w->has_line && (s->has_returncode || wq_monotonic_ms() - w->told_at >= PROGRESS_MS))
        wq_tell_line(p, w);
}

/* The run did not end by our will: the queue stops, or somebody else cancelled a job we share. */
static void run_again(wq_packager *p, work *w)
{
    if (p->closing)
        wq_hand_back(p, w);
    else
        wq_claim_later(w);
}

static void take_end(wq_packager *p, work *w, const wq_snapshot *snapshot)
{
    if (p->closing)
        p->stop_by = wq_monotonic_ms() + STOP_MS;
    if (w->n_requesters == 0) /* cancelled, and told so */
        wq_work_end(p, w);
    else if (snapshot->state == WQ_STATE_SUCCEEDED)
        wq_clerk_finish(p, w);
    else if (snapshot->state == WQ_STATE_CANCELLED)
        run_again(p, w);
    else
        wq_tell_failed(p, w, snapshot->error ? snapshot->error : "failed", snapshot->returncode);
}

static void take_news(wq_packager *p, work *w)
{
    wq_snapshot snapshot;
    wq_job_snapshot(w->job, &snapshot);
    if (snapshot.started_at_ms != 0)
        take_line(p, w, &snapshot);
    if (snapshot.has_returncode)
        take_end(p, w, &snapshot);
    wq_snapshot_clear(&snapshot);
}

static void take_refusal(wq_packager *p, work *w)
{
    if (w->n_requesters == 0)
        wq_work_end(p, w);
    else if (w->asked_result == WQ_ERROR_CLOSING)
        run_again(p, w);
    else if (w->asked_result == WQ_ERROR_AWAY || w->asked_result == WQ_ERROR_FULL)
        wq_claim_later(w);
    else
        wq_tell_failed(p, w, w->asked_error.message, -999);
}

static void take_asked(wq_packager *p, work *w)
{
    if (w->asked_result < 0) {
        take_refusal(p, w);
        return;
    }
    w->job = w->asked_job;
    w->phase = RUNNING;
    if (wq_job_watch(w->job, on_job_news, w, &w->watch) != WQ_OK) {
        wq_tell_failed(p, w, "out of memory", -999);
        return;
    }
    if (w->is_cancelled)
        wq_job_cancel(w->job);
    wq_tell_line(p, w);
    take_news(p, w);
}

static void take_size(wq_packager *p, work *w)
{
    if (w->size_bytes >= 0)
        wq_tell_complete(p, w, (uint64_t)w->size_bytes);
    else if (w->size_bytes == WQ_ERROR_AWAY)
        run_again(p, w); /* whoever asks finds the output there */
    else
        wq_tell_failed(p, w, "the output has been deleted meanwhile", -999);
}

static void take_work_news(wq_packager *p, work *w, int has_asked, int has_size)
{
    if (w->phase == ASKING && has_asked)
        take_asked(p, w);
    else if (w->phase == RUNNING)
        take_news(p, w);
    else if (w->phase == FINISHING && has_size)
        take_size(p, w);
}

/* ---- slots ----------------------------------------------------------------------------------- */

static void on_refused(void *user, const char *why)
{
    const wq_packager *p = user;
    wq_log(&p->logger, WQ_LOG_ERROR, "the broker refuses a subscription: %s", why);
}

static void on_slot_refused(void *user, const char *why)
{
    on_refused(((const slot *)user)->packager, why);
}

static int subscribe_slot(wq_packager *p, slot *s, wq_error *error)
{
    const wq_subscribe options = {.destination = p->o.queue_package,
                                  .ack = WQ_ACK_INDIVIDUAL,
                                  .prefetch = 1,
                                  .message = on_job_message,
                                  .refused = on_slot_refused,
                                  .user = s};
    return wq_broker_subscribe(&s->subscription, p->broker, &options, error);
}

/* The topic first: a claim must be heard by its claimer. */
static int subscribe_all(wq_packager *p, wq_error *error)
{
    const wq_subscribe notices = {.destination = p->o.topic,
                                  .ack = WQ_ACK_AUTO,
                                  .message = on_notice,
                                  .refused = on_refused,
                                  .user = p};
    const wq_subscribe deletes = {.destination = p->o.queue_delete,
                                  .ack = WQ_ACK_INDIVIDUAL,
                                  .prefetch = 1,
                                  .message = on_delete,
                                  .refused = on_refused,
                                  .user = p};
    int result = wq_broker_subscribe(&p->notices, p->broker, &notices, error);
    if (result == WQ_OK)
        result = wq_broker_subscribe(&p->deletes, p->broker, &deletes, error);
    for (unsigned i = 0; result == WQ_OK && i < p->o.workers; i++)
        result = subscribe_slot(p, &p->slots[i], error);
    return result;
}

static void tend_slots(wq_packager *p)
{
    for (unsigned i = 0; i < p->o.workers; i++)
        if (p->slots[i].subscription == NULL && p->slots[i].holder == NULL)
            subscribe_slot(p, &p->slots[i], NULL);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void take_connected(wq_packager *p, const event *e)
{
    p->connected_at = wq_monotonic_ms();
    p->is_connected = 1;
    p->generation = e->generation;
    if (p->n_connections++ == 0)
        wq_keeping_recover(p);
    else
        wq_claim_all_again(p);
}

static void take_event(wq_packager *p, event *e)
{
    switch (e->kind) {
    case EVENT_JOB:
        wq_take_job(p, e);
        break;
    case EVENT_NOTICE:
        wq_notice_take(p, e);
        break;
    case EVENT_DELETE:
        wq_take_delete(p, e);
        break;
    case EVENT_CONNECTED:
        take_connected(p, e);
        break;
    case EVENT_DISCONNECTED:
        p->is_connected = 0;
        p->generation = 0; /* no delivery is of this one */
        break;
    case EVENT_SENT:
        wq_take_sent(p, e);
        break;
    }
}

static void take_all_work_news(wq_packager *p)
{
    work *w = LIST_FIRST(&p->works), *next;
    for (; w != NULL; w = next) {
        next = LIST_NEXT(w, link);
        pthread_mutex_lock(&p->lock);
        int has_news = w->has_news, has_asked = w->has_asked, has_size = w->has_size;
        w->has_news = w->has_asked = w->has_size = 0;
        pthread_mutex_unlock(&p->lock);
        if (has_news)
            take_work_news(p, w, has_asked, has_size);
    }
}

static void tick_run(wq_packager *p, work *w, int64_t now)
{
    if (now - w->told_at >= (w->has_line ? PROGRESS_MS : p->o.alive_ms))
        wq_tell_line(p, w);
    if (p->o.ack_after_ms > 0 && now - w->began_at >= p->o.ack_after_ms)
        wq_relieve(p, w);
}

static void tick_work(wq_packager *p, work *w, int64_t now)
{
    int is_claimed = w->phase != CLAIMING && w->phase != WAITING;
    int is_due = now - w->told_at >= p->o.alive_ms;
    if (!is_claimed && p->closing) {
        wq_hand_back(p, w);
    } else if (!is_claimed || w->phase == ASKING) {
        if (is_due)
            wq_tell_alive(p, w);
        if (!is_claimed)
            wq_claim_tick(p, w, now);
    } else if (w->phase == ENDING) {
        if (is_due)
            wq_tell_rest(p, w);
    } else {
        tick_run(p, w, now);
    }
}

static void tick(wq_packager *p)
{
    int64_t now = wq_monotonic_ms();
    work *w = LIST_FIRST(&p->works), *next;
    for (; w != NULL; w = next) {
        next = LIST_NEXT(w, link);
        tick_work(p, w, now);
    }
    if (!p->closing)
        tend_slots(p);
}

/* How long there will be nothing to do; -1: for ever. */
static long tick_ms(const wq_packager *p)
{
    const work *w;
    long ms = LIST_EMPTY(&p->works) ? -1 : IDLE_TICK_MS;
    LIST_FOREACH(w, &p->works, link)
    {
        if (w->phase == CLAIMING)
            ms = CLAIM_TICK_MS;
        else if (w->has_line && ms > PROGRESS_MS)
            ms = PROGRESS_MS;
    }
    return ms;
}

static void wait_locked(wq_packager *p)
{
    struct timespec until;
    long ms = tick_ms(p);
    if (ms < 0) {
        pthread_cond_wait(&p->news, &p->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&p->news, &p->lock, &until);
}

/* Nonzero when we may stop: nothing runs, and the ends have been told, or cannot be. */
static int has_ended(const wq_packager *p)
{
    const work *w;
    int is_late = !p->is_connected || wq_monotonic_ms() >= p->stop_by;
    LIST_FOREACH(w, &p->works, link)
    if (w->phase != ENDING || !is_late)
        return 0;
    return 1;
}

/* One round; nonzero if it was the last. */
static int turn(wq_packager *p)
{
    pthread_mutex_lock(&p->lock);
    if (STAILQ_EMPTY(&p->events) && !p->work_news && (!p->closing || p->stop_by != 0))
        wait_locked(p);
    event *e = STAILQ_FIRST(&p->events);
    if (e != NULL) {
        STAILQ_REMOVE_HEAD(&p->events, link);
        p->n_notices -= e->kind == EVENT_NOTICE;
    }
    int has_news = p->work_news;
    p->work_news = 0;
    pthread_mutex_unlock(&p->lock);
    if (e != NULL) {
        take_event(p, e);
        wq_event_free(e);
    }
    if (has_news)
        take_all_work_news(p);
    tick(p);
    if (p->closing && p->stop_by == 0) {
        p->stop_by = wq_monotonic_ms() + STOP_MS;
        wq_stop(p->queue);
    }
    return p->closing && has_ended(p);
}

static void *thread_main(void *arg)
{
    while (!turn(arg))
        continue;
    return NULL;
}

/* ---- opening and closing --------------------------------------------------------------------- */

void wq_packager_options_init(wq_packager_options *options)
{
    *options = (wq_packager_options){
        .queue_package = "/queue/docsets%2Fpackage",
        .queue_reply = "/queue/package%2F{id}",
        .queue_delete = "/queue/docsets%2Fdelete",
        .topic = "/topic/workqueue",
        .heartbeat_ms = 10000,
        .url_base = "workqueue:",
        .workers = 2,
        .alive_ms = 5000,
        .claim_ms = 100,
        .ack_after_ms = 600000,
    };
}

static void free_options(wq_packager_options *o)
{
    free((char *)o->queue_package);
    free((char *)o->queue_reply);
    free((char *)o->queue_delete);
    free((char *)o->topic);
    free((char *)o->url_base);
    free((char *)o->state_dir);
}

static void free_packager(wq_packager *p)
{
    event *e;
    work *w;
    deletion *d;
    while ((e = STAILQ_FIRST(&p->events)) != NULL) {
        STAILQ_REMOVE_HEAD(&p->events, link);
        wq_event_free(e);
    }
    while ((w = LIST_FIRST(&p->works)) != NULL)
        /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): another one is the first then */
        wq_work_forget(p, w);
    while ((d = STAILQ_FIRST(&p->to_delete)) != NULL) {
        STAILQ_REMOVE_HEAD(&p->to_delete, link);
        wq_deletion_free(d);
    }
    for (unsigned i = 0; i < REMEMBERED; i++)
        free(p->memories[i].text);
    pthread_cond_destroy(&p->news);
    pthread_cond_destroy(&p->clerk_news);
    pthread_mutex_destroy(&p->lock);
    if (p->state_fd >= 0)
        close(p->state_fd);
    free_options(&p->o);
    free(p->slots);
    free(p);
}

/* The programs have ended when their jobs go to others: with the connection. */
void wq_packager_close(wq_packager *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->closing = 1;
    pthread_cond_broadcast(&p->news);
    pthread_mutex_unlock(&p->lock);
    if (p->has_thread)
        pthread_join(p->thread, NULL);
    pthread_mutex_lock(&p->lock);
    p->clerk_closing = 1;
    pthread_cond_broadcast(&p->clerk_news);
    pthread_mutex_unlock(&p->lock);
    if (p->has_clerk)
        pthread_join(p->clerk, NULL);
    if (p->broker != NULL)
        wq_broker_close(p->broker);
    free_packager(p);
}

/* The random end keeps apart those that were given the same name. */
static int make_name(wq_packager *p, const char *name, wq_error *error)
{
    char host[64] = "packager";
    uint32_t random = 0;
    gethostname(host, sizeof host - 1);
    name = name != NULL ? name : host;
    for (const char *c = name; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the name holds a control character");
    if (strlen(name) + 10 > sizeof p->name)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the name is too long");
    if (getrandom(&random, sizeof random, 0) < 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "getrandom: %s", strerror(errno));
    snprintf(p->name, sizeof p->name, "%s-%08" PRIx32, name, random);
    return WQ_OK;
}

static int copy_options(wq_packager *p, const wq_packager_options *o, wq_error *error)
{
    p->o = *o;
    p->o.queue_package = strdup(o->queue_package);
    p->o.queue_reply = strdup(o->queue_reply);
    p->o.queue_delete = strdup(o->queue_delete);
    p->o.topic = strdup(o->topic);
    p->o.url_base = strdup(o->url_base != NULL ? o->url_base : "workqueue:");
    p->o.state_dir = strdup(o->state_dir);
    p->slots = calloc(o->workers, sizeof *p->slots);
    if (!p->o.queue_package || !p->o.queue_reply || !p->o.queue_delete || !p->o.topic ||
        !p->o.url_base || !p->o.state_dir || !p->slots)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    for (unsigned i = 0; i < o->workers; i++)
        p->slots[i] = (slot){.packager = p, .i = i};
    return make_name(p, o->name, error);
}

/* Two that share a folder would run each other's jobs again. */
static int lock_state(wq_packager *p, wq_error *error)
{
    const char *path = p->o.state_dir;
    p->state_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (p->state_fd < 0 || access(path, W_OK | X_OK) != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "the folder %s cannot be used: %s", path,
                       strerror(errno));
    if (flock(p->state_fd, LOCK_EX | LOCK_NB) != 0)
        return wq_fail(error, WQ_ERROR_LOCKED, "another packager uses the folder %s", path);
    return WQ_OK;
}

static void init(wq_packager *p, wq_queue *queue, const wq_packager_options *o)
{
    pthread_mutex_init(&p->lock, NULL);
    wq_cond_init(&p->news);
    pthread_cond_init(&p->clerk_news, NULL);
    STAILQ_INIT(&p->events);
    STAILQ_INIT(&p->to_finish);
    STAILQ_INIT(&p->to_delete);
    LIST_INIT(&p->works);
    p->queue = queue;
    p->state_fd = -1;
    p->logger = (wq_logger){o->log, o->log_user};
}

static int open_broker(wq_packager *p, wq_error *error)
{
    wq_broker_options o;
    wq_broker_options_init(&o);
    o.urls = p->o.urls;
    o.ca_file = p->o.ca_file;
    o.heartbeat_ms = p->o.heartbeat_ms;
    o.reconnect_max_ms = 2000; /* others wait so long for our objections, see claims.c */
    o.max_frame_bytes = FRAME_BYTES;
    o.log = p->logger;
    o.connected = on_connected;
    o.disconnected = on_disconnected;
    o.user = p;
    int result = wq_broker_open(&p->broker, &o, error);
    p->o.urls = p->o.ca_file = p->o.name = NULL; /* borrowed until here */
    return result;
}

static int start(wq_packager *p, const wq_packager_options *options, wq_error *error)
{
    int result = copy_options(p, options, error);
    if (result == WQ_OK)
        result = lock_state(p, error);
    if (result == WQ_OK)
        result = open_broker(p, error);
    if (result == WQ_OK)
        result = subscribe_all(p, error);
    if (result != WQ_OK)
        return result;
    p->has_clerk = wq_thread_start(&p->clerk, "wq-clerk", wq_clerk_main, p) == 0;
    p->has_thread = p->has_clerk && wq_thread_start(&p->thread, "wq-packager", thread_main, p) == 0;
    return p->has_thread ? WQ_OK : wq_fail(error, WQ_ERROR_SYSTEM, "cannot start a thread");
}

int wq_packager_open(wq_packager **out, wq_queue *queue, const wq_packager_options *options,
                     wq_error *error)
{
    wq_packager *p = calloc(1, sizeof *p);
    if (p == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    init(p, queue, options);
    int result = start(p, options, error);
    if (result == WQ_OK)
        *out = p;
    else
        wq_packager_close(p);
    return result;
}
