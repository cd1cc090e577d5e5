/* packager.c - takes jobs from a broker, runs them in a queue of its own, and answers.
 *
 * There is a subscription for each worker, and the broker holds each job that it has delivered as
 * long as it runs: no more are delivered than can run, and if this process dies the broker delivers
 * them to others at once. A job that runs for so long that the broker would lose patience is kept
 * in a file instead (see relieve()), and is sent back from there if this process dies and starts
 * again.
 *
 * Before a key is run it is claimed on the topic that all packagers hear. Whoever runs the key
 * answers that it is owned; then the request joins that run, and its delivery is settled once the
 * owner knows of it. Of two that claim at the same time the lower nonce wins, and says so. A key is
 * thus run once while broker and packagers are well; if two run it all the same, the store takes
 * one output of them.
 *
 * All this is done by one thread. Others - the broker's, those of the queue - put something in its
 * lists, under the lock, under which nothing is called. What would take long, looking for outputs
 * and deleting them, is done by a second thread, the clerk.
 */
#include "workqueue/remote/packager.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/remote/broker.h"
#include "workqueue/remote/messages.h"
#include "workqueue/util/util.h"

enum {
    TICK_MS = 20,          /* while something is claimed */
    IDLE_TICK_MS = 250,    /* else, while something runs */
    CLAIM_TRIES = 3,       /* without an echo, before it is run all the same */
    CLAIM_WAIT_MS = 2000,  /* for an echo, or for the owner's word */
    YOUNG_MS = 10000,      /* a connection that came back: others may still be on their way, */
    YOUNG_CLAIM_MS = 3000, /* so they get more time to object */
    REMEMBERED = 1024,     /* requests that have ended, and cancelled ones */
    REMEMBERED_MS = 600000,
    MAX_REQUESTERS = 1000, /* of one run */
};

/* ---- what there is --------------------------------------------------------------------------- */

/* Somebody who is told. */
typedef struct requester {
    LIST_ENTRY(requester) link;
    char id[WQ_REQUEST_ID_SIZE];
    char reply_to[WQ_DESTINATION_SIZE];
    int is_accepted; /* and has been told so */
} requester;

typedef enum phase {
    CLAIMING,  /* until nobody has objected */
    JOINING,   /* somebody else runs it */
    ASKING,    /* the queue is asked */
    RUNNING,   /* there is a job */
    FINISHING, /* the clerk looks how large the output is */
    TELLING    /* until the broker has the last message */
} phase;

/* A delivery of a job, and what became of it. */
typedef struct work {
    struct wq_packager *packager;
    LIST_ENTRY(work) link;
    STAILQ_ENTRY(work) clerk; /* under the lock */
    phase phase;
    wq_job_message message;
    char key[WQ_KEY_SIZE];
    LIST_HEAD(, requester) requesters; /* the first is the message's own */
    size_t n_requesters;
    unsigned slot;
    wq_delivery *delivery; /* NULL: settled */
    char *body;            /* as it came, for the file */
    size_t body_len;
    char reply_to[WQ_DESTINATION_SIZE]; /* the header, or empty */
    char *file;                         /* NULL: there is none */

    uint64_t nonce;
    unsigned tries;
    int64_t claimed_at, echoed_at; /* 0: not */
    char owner[WQ_NAME_SIZE];

    wq_job *job;
    wq_watch *watch;
    int64_t began_at, told_at;
    char line[WQ_REPLY_LINE_BYTES]; /* the last that was told */
    size_t line_len;
    int is_cancelled;
    unsigned n_unconfirmed; /* last messages on their way */
    wq_reply_kind end;
    uint64_t size_bytes; /* the clerk's, then ours */

    /* under the lock */
    int has_news, has_size, asked_result, has_asked;
    wq_job *asked_job;
    wq_error asked_error;
} work;

/* A request that has ended, or was cancelled before it came. */
typedef struct memory {
    char id[WQ_REQUEST_ID_SIZE];
    int64_t at; /* 0: none */
    int is_cancelled;
    int returncode;
    char *text; /* owned; the last message; NULL: cancelled */
} memory;

typedef enum event_kind {
    EVENT_JOB,
    EVENT_NOTICE,
    EVENT_DELETE,
    EVENT_CONNECTED,
    EVENT_SENT
} event_kind;

/* Something that has come; owned by the list. */
typedef struct event {
    STAILQ_ENTRY(event) link;
    event_kind kind;
    unsigned slot;
    wq_delivery *delivery;
    char reply_to[WQ_DESTINATION_SIZE];
    int is_cut;
    work *work; /* EVENT_SENT */
    size_t len;
    char body[];
} event;

typedef struct deletion {
    STAILQ_ENTRY(deletion) link;
    wq_job_message message;
    wq_delivery *delivery;
} deletion;

typedef struct slot {
    struct wq_packager *packager;
    unsigned i;
    wq_subscription *subscription; /* NULL: a job that was taken off the broker is in it */
} slot;

struct wq_packager {
    wq_packager_options o; /* its strings are owned */
    wq_logger logger;
    wq_queue *queue;
    wq_broker *broker;
    char name[WQ_NAME_SIZE];
    slot *slots;
    wq_subscription *notices, *deletes;
    pthread_t thread, clerk;
    int has_thread, has_clerk;

    /* the thread's */
    LIST_HEAD(, work) works;
    memory memories[REMEMBERED];
    unsigned next_memory;
    int64_t connected_at;
    unsigned n_connections;

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t news, clerk_news;
    STAILQ_HEAD(, event) events;
    int work_news; /* some work has news */
    STAILQ_HEAD(, work) to_finish;
    STAILQ_HEAD(, deletion) to_delete;
    atomic_int closing;
};

/* ---- what comes ------------------------------------------------------------------------------ */

static event *new_event(event_kind kind, const wq_broker_message *message)
{
    const wq_stomp_frame *frame = message != NULL ? message->frame : NULL;
    size_t len = frame != NULL ? frame->body_len : 0;
    event *e = calloc(1, sizeof *e + len + 1);
    if (e == NULL)
        return NULL;
    e->kind = kind;
    if (frame == NULL)
        return e;
    const char *reply_to = wq_stomp_get(frame, "reply-to");
    if (reply_to != NULL && strlen(reply_to) < sizeof e->reply_to)
        memcpy(e->reply_to, reply_to, strlen(reply_to) + 1);
    e->len = len;
    e->is_cut = frame->dropped_bytes > 0;
    memcpy(e->body, frame->body, len);
    if (message->delivery != NULL && (e->delivery = wq_delivery_copy(message->delivery)) == NULL) {
        free(e);
        return NULL;
    }
    return e;
}

static void free_event(event *e)
{
    free(e->delivery);
    free(e);
}

/* Without memory it is as if it had not come: what has a delivery comes again with the next
 * connection, the rest is asked for again. */
static void put_event(wq_packager *p, event *e)
{
    if (e == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    STAILQ_INSERT_TAIL(&p->events, e, link);
    pthread_cond_signal(&p->news);
    pthread_mutex_unlock(&p->lock);
}

static void on_job_message(void *user, const wq_broker_message *message)
{
    slot *s = user;
    event *e = new_event(EVENT_JOB, message);
    if (e != NULL)
        e->slot = s->i;
    put_event(s->packager, e);
}

static void on_notice(void *user, const wq_broker_message *message)
{
    put_event(user, new_event(EVENT_NOTICE, message));
}

static void on_delete(void *user, const wq_broker_message *message)
{
    put_event(user, new_event(EVENT_DELETE, message));
}

static void on_connected(void *user, uint64_t generation, const char *server)
{
    (void)generation, (void)server;
    put_event(user, new_event(EVENT_CONNECTED, NULL));
}

static void on_sent(void *user, int result, const char *why)
{
    work *w = user;
    event *e = new_event(EVENT_SENT, NULL);
    (void)result, (void)why;
    if (e != NULL)
        e->work = w;
    put_event(w->packager, e);
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

/* ---- saying ---------------------------------------------------------------------------------- */

enum { MAX_HEADERS = 6 };

/* `confirm` NULL: once, and if it is lost it is lost; else it is the work that waits. */
static int say(wq_packager *p, const requester *to, const char *body, size_t len, int returncode,
               work *confirm)
{
    char alive[16], code[16];
    size_t n = 0;
    wq_stomp_header headers[MAX_HEADERS];
    snprintf(alive, sizeof alive, "%u", p->o.alive_ms);
    snprintf(code, sizeof code, "%d", returncode);
    headers[n++] = (wq_stomp_header){"content-type", "text/plain"};
    headers[n++] = (wq_stomp_header){"correlation-id", to->id};
    headers[n++] = (wq_stomp_header){"workqueue-packager", p->name};
    headers[n++] = (wq_stomp_header){"workqueue-alive-ms", alive};
    if (returncode != 0)
        headers[n++] = (wq_stomp_header){"workqueue-returncode", code};
    if (confirm != NULL)
        headers[n++] = (wq_stomp_header){"persistent", "true"};
    return wq_broker_send(p->broker, to->reply_to, headers, n, body, len,
                          confirm != NULL ? on_sent : NULL, confirm, NULL);
}

static void publish_notice(wq_packager *p, const wq_notice *notice)
{
    static const wq_stomp_header headers[] = {{"content-type", "text/plain"}};
    char text[4096];
    size_t n = wq_notice_text(text, sizeof text, notice);
    if (n < sizeof text)
        wq_broker_send(p->broker, p->o.topic, headers, 1, text, n, NULL, NULL, NULL);
}

static void say_owned(wq_packager *p, const char *key)
{
    wq_notice notice = {.kind = WQ_NOTICE_OWNED};
    memcpy(notice.key, key, sizeof notice.key);
    memcpy(notice.packager, p->name, sizeof notice.packager);
    publish_notice(p, &notice);
}

static void say_accepted(wq_packager *p, work *w, requester *to)
{
    char text[64];
    if (to->is_accepted)
        return;
    uint64_t ms = w->job != NULL ? wq_job_estimate_ms(w->job) : 0;
    size_t n = wq_reply_accepted(text, sizeof text, ms);
    to->is_accepted = say(p, to, text, n, 0, NULL) == WQ_OK;
    if (w->line_len > 0)
        say(p, to, w->line, w->line_len, 0, NULL);
}

static void say_line(wq_packager *p, work *w)
{
    requester *to;
    w->told_at = wq_monotonic_ms();
    LIST_FOREACH(to, &w->requesters, link)
    if (!to->is_accepted)
        say_accepted(p, w, to);
    else if (w->line_len > 0)
        say(p, to, w->line, w->line_len, 0, NULL);
}

/* ---- memories -------------------------------------------------------------------------------- */

static memory *recall(wq_packager *p, const char *id)
{
    int64_t now = wq_monotonic_ms();
    for (unsigned i = 0; i < REMEMBERED; i++) {
        memory *m = &p->memories[i];
        if (m->at != 0 && now - m->at < REMEMBERED_MS && strcmp(m->id, id) == 0)
            return m;
    }
    return NULL;
}

/* Takes over `text`. */
static void remember(wq_packager *p, const char *id, int is_cancelled, char *text, int returncode)
{
    memory *m = recall(p, id);
    if (m == NULL) {
        m = &p->memories[p->next_memory];
        p->next_memory = (p->next_memory + 1) % REMEMBERED;
    }
    free(m->text);
    *m = (memory){.at = wq_monotonic_ms(),
                  .is_cancelled = is_cancelled,
                  .returncode = returncode,
                  .text = text};
    snprintf(m->id, sizeof m->id, "%s", id);
}

/* ---- works ----------------------------------------------------------------------------------- */

static void settle(wq_packager *p, work *w)
{
    if (w->delivery == NULL)
        return;
    wq_broker_ack(p->broker, w->delivery, NULL);
    free(w->delivery);
    w->delivery = NULL;
}

static void drop_requester(work *w, requester *r)
{
    LIST_REMOVE(r, link);
    w->n_requesters--;
    free(r);
}

static requester *add_requester(work *w, const char *id, const char *reply_to)
{
    requester *r = w->n_requesters < MAX_REQUESTERS ? calloc(1, sizeof *r) : NULL;
    if (r == NULL)
        return NULL;
    snprintf(r->id, sizeof r->id, "%s", id);
    snprintf(r->reply_to, sizeof r->reply_to, "%s", reply_to);
    LIST_INSERT_HEAD(&w->requesters, r, link);
    w->n_requesters++;
    return r;
}

static requester *find_requester(const work *w, const char *id)
{
    requester *r;
    LIST_FOREACH(r, &w->requesters, link)
    if (strcmp(r->id, id) == 0)
        return r;
    return NULL;
}

static work *find_by_id(wq_packager *p, const char *id, requester **found)
{
    work *w;
    LIST_FOREACH(w, &p->works, link)
    if ((*found = find_requester(w, id)) != NULL)
        return w;
    return NULL;
}

/* The one that runs this key, or means to. */
static work *find_by_key(wq_packager *p, const char *key)
{
    work *w;
    LIST_FOREACH(w, &p->works, link)
    if (strcmp(w->key, key) == 0 && w->phase != JOINING)
        return w;
    return NULL;
}

static int subscribe_slot(wq_packager *p, slot *s);

static void free_work(work *w)
{
    while (!LIST_EMPTY(&w->requesters))
        drop_requester(w, LIST_FIRST(&w->requesters));
    wq_watch_cancel(w->watch);
    wq_job_unref(w->job);
    wq_job_message_clear(&w->message);
    free(w->delivery);
    free(w->body);
    free(w->file);
    free(w);
}

/* Nothing is to be said any more. */
static void end_work(wq_packager *p, work *w)
{
    settle(p, w);
    if (w->file != NULL)
        unlink(w->file);
    LIST_REMOVE(w, link);
    slot *s = &p->slots[w->slot];
    if (w->file != NULL && s->subscription == NULL)
        subscribe_slot(p, s);
    free_work(w);
}

/* ---- claims ---------------------------------------------------------------------------------- */

static void claim(wq_packager *p, work *w)
{
    wq_notice notice = {.kind = WQ_NOTICE_CLAIM};
    w->phase = CLAIMING;
    w->claimed_at = wq_monotonic_ms();
    w->echoed_at = 0;
    w->tries++;
    if (getrandom(&w->nonce, sizeof w->nonce, 0) < 0)
        w->nonce = (uint64_t)w->claimed_at;
    w->nonce %= 1000000000000000; /* what the text can carry */
    memcpy(notice.key, w->key, sizeof notice.key);
    memcpy(notice.packager, p->name, sizeof notice.packager);
    notice.nonce = w->nonce;
    publish_notice(p, &notice);
}

static void join(wq_packager *p, work *w, const char *owner)
{
    requester *own = LIST_FIRST(&w->requesters);
    wq_notice notice = {.kind = WQ_NOTICE_JOIN};
    w->phase = JOINING;
    w->claimed_at = wq_monotonic_ms();
    if (own == NULL || w->message.rebuild) /* that needs a run of its own, after the owner's */
        return;
    snprintf(w->owner, sizeof w->owner, "%s", owner);
    memcpy(notice.key, w->key, sizeof notice.key);
    snprintf(notice.to, sizeof notice.to, "%s", owner);
    memcpy(notice.id, own->id, sizeof notice.id);
    memcpy(notice.reply_to, own->reply_to, sizeof notice.reply_to);
    publish_notice(p, &notice);
}

static int64_t claim_ms(const wq_packager *p)
{
    int is_young = p->n_connections > 1 && wq_monotonic_ms() - p->connected_at < YOUNG_MS;
    return is_young ? YOUNG_CLAIM_MS : p->o.claim_ms;
}

static void ask(wq_packager *p, work *w)
{
    unsigned flags = WQ_ENSURE_JOB | (w->message.rebuild ? WQ_ENSURE_REBUILD : 0);
    wq_job *job = NULL;
    wq_error error = {0};
    w->phase = ASKING;
    w->began_at = wq_monotonic_ms();
    int result =
        wq_ensure_run_async(p->queue, &w->message.params, flags, &job, NULL, on_asked, w, &error);
    if (result != WQ_PENDING)
        on_asked(w, result, job, 0, &error);
}

static void tick_claim(wq_packager *p, work *w, int64_t now)
{
    if (w->phase == JOINING) {
        if (now - w->claimed_at >= CLAIM_WAIT_MS)
            claim(p, w); /* the owner is silent */
    } else if (w->echoed_at != 0) {
        if (now - w->echoed_at >= claim_ms(p))
            ask(p, w);
    } else if (now - w->claimed_at >= CLAIM_WAIT_MS) {
        if (w->tries < CLAIM_TRIES)
            claim(p, w);
        else
            ask(p, w); /* nobody hears us, so nobody can object; better twice than never */
    }
}

static void heard_own_claim(wq_packager *p, const wq_notice *notice)
{
    work *w;
    LIST_FOREACH(w, &p->works, link)
    if (w->phase == CLAIMING && w->nonce == notice->nonce) {
        w->echoed_at = wq_monotonic_ms();
        w->tries = 0;
    }
}

static void heard_claim(wq_packager *p, const wq_notice *notice)
{
    work *w = find_by_key(p, notice->key);
    if (strcmp(notice->packager, p->name) == 0) {
        heard_own_claim(p, notice);
        return;
    }
    if (w == NULL)
        return;
    if (w->phase != CLAIMING || w->nonce < notice->nonce ||
        (w->nonce == notice->nonce && strcmp(p->name, notice->packager) < 0))
        say_owned(p, notice->key);
    else
        join(p, w, notice->packager);
}

static void heard_owned(wq_packager *p, const wq_notice *notice)
{
    work *w = find_by_key(p, notice->key);
    if (w != NULL && w->phase == CLAIMING && strcmp(notice->packager, p->name) != 0)
        join(p, w, notice->packager);
}

/* It is settled by its packager when it hears that it is joined. */
static void heard_join(wq_packager *p, const wq_notice *notice)
{
    work *w = find_by_key(p, notice->key);
    requester *r;
    if (strcmp(notice->to, p->name) != 0 || w == NULL || w->phase == TELLING)
        return;
    r = find_requester(w, notice->id);
    if (r == NULL)
        r = add_requester(w, notice->id, notice->reply_to);
    if (r == NULL)
        return;
    wq_notice joined = {.kind = WQ_NOTICE_JOINED};
    memcpy(joined.id, notice->id, sizeof joined.id);
    publish_notice(p, &joined);
    r->is_accepted = 0; /* it may have asked again because it heard nothing */
    if (w->phase == RUNNING || w->phase == FINISHING)
        say_accepted(p, w, r);
}

static void heard_joined(wq_packager *p, const wq_notice *notice)
{
    requester *r;
    work *w = find_by_id(p, notice->id, &r);
    if (w != NULL && w->phase == JOINING)
        end_work(p, w);
}

static void say_cancelled(wq_packager *p, const requester *to)
{
    static const char text[] = "Cancelled\n";
    say(p, to, text, sizeof text - 1, 0, NULL);
}

static void heard_cancel(wq_packager *p, const wq_notice *notice)
{
    requester *r;
    work *w = find_by_id(p, notice->id, &r);
    if (recall(p, notice->id) == NULL)
        remember(p, notice->id, 1, NULL, 0);
    if (w == NULL || w->phase == TELLING)
        return;
    say_cancelled(p, r);
    if (w->n_requesters > 1) {
        drop_requester(w, r);
    } else if (w->phase == CLAIMING || w->phase == JOINING) {
        end_work(p, w);
    } else {
        w->is_cancelled = 1; /* the requester stays, to be told the end */
        if (w->job != NULL)
            wq_job_cancel(w->job);
    }
}

static void take_notice(wq_packager *p, const event *e)
{
    wq_notice notice;
    wq_notice_read(&notice, e->body, e->len);
    switch (notice.kind) {
    case WQ_NOTICE_CLAIM:
        heard_claim(p, &notice);
        break;
    case WQ_NOTICE_OWNED:
        heard_owned(p, &notice);
        break;
    case WQ_NOTICE_JOIN:
        heard_join(p, &notice);
        break;
    case WQ_NOTICE_JOINED:
        heard_joined(p, &notice);
        break;
    case WQ_NOTICE_CANCEL:
        heard_cancel(p, &notice);
        break;
    case WQ_NOTICE_OTHER:
        break;
    }
}

/* ---- the end of a job ------------------------------------------------------------------------ */

/* Tells everybody how it ended; the work ends when the broker has it all. Takes over `text`. */
static void tell_end(wq_packager *p, work *w, char *text, int returncode)
{
    requester *to;
    w->phase = TELLING;
    if (text == NULL)
        text = strdup("Failed: out of memory");
    size_t len = text != NULL ? strlen(text) : 0;
    LIST_FOREACH(to, &w->requesters, link)
    {
        if (say(p, to, text, len, returncode, w) == WQ_OK)
            w->n_unconfirmed++;
        remember(p, to->id, 0, text != NULL ? strdup(text) : NULL, returncode);
    }
    free(text);
    if (w->n_unconfirmed == 0)
        end_work(p, w);
}

static void tell_complete(wq_packager *p, work *w)
{
    char *text = NULL, url[4096];
    snprintf(url, sizeof url, "%s%s", p->o.url_base, w->key);
    size_t n = wq_reply_complete(NULL, 0, url, w->size_bytes);
    if ((text = malloc(n + 1)) != NULL)
        wq_reply_complete(text, n + 1, url, w->size_bytes);
    tell_end(p, w, text, 0);
}

static void tell_failed(wq_packager *p, work *w, const char *reason, int returncode)
{
    size_t n = wq_reply_failed(NULL, 0, reason);
    char *text = malloc(n + 1);
    if (text != NULL)
        wq_reply_failed(text, n + 1, reason);
    tell_end(p, w, text, returncode);
}

/* How large it is may have to be asked across a network. */
static void finish(wq_packager *p, work *w)
{
    w->phase = FINISHING;
    pthread_mutex_lock(&p->lock);
    STAILQ_INSERT_TAIL(&p->to_finish, w, clerk);
    pthread_cond_signal(&p->clerk_news);
    pthread_mutex_unlock(&p->lock);
}

static void take_end(wq_packager *p, work *w, const wq_snapshot *snapshot)
{
    wq_watch_cancel(w->watch);
    w->watch = NULL;
    if (snapshot->state == WQ_STATE_SUCCEEDED)
        finish(p, w);
    else if (snapshot->state == WQ_STATE_CANCELLED && w->is_cancelled)
        tell_end(p, w, strdup("Cancelled\n"), 0);
    else if (snapshot->state == WQ_STATE_CANCELLED) { /* we stop: somebody else will run it */
        LIST_REMOVE(w, link);
        free_work(w);
    } else {
        tell_failed(p, w, snapshot->error ? snapshot->error : "failed", snapshot->returncode);
    }
}

/* The line as the program would write it, from what the queue has made of it. */
static void make_line(work *w, const wq_snapshot *s)
{
    char head[64];
    unsigned long n = (unsigned long)(s->reached * 1e9 + 0.5);
    if (s->has_items)
        snprintf(head, sizeof head, "%" PRIu64 "/%" PRIu64, s->items_done, s->items_total);
    else
        snprintf(head, sizeof head, "%lu.%09lu", n / 1000000000, n % 1000000000);
    int len = snprintf(w->line, sizeof w->line, "%s%s%s", head, s->message ? "\t" : "",
                       s->message ? s->message : "");
    w->line_len = len < (int)sizeof w->line ? (size_t)len : sizeof w->line - 1;
}

static void take_news(wq_packager *p, work *w)
{
    wq_snapshot snapshot;
    wq_job_snapshot(w->job, &snapshot);
    if (snapshot.has_returncode) {
        take_end(p, w, &snapshot);
    } else if (snapshot.state == WQ_STATE_RUNNING) {
        make_line(w, &snapshot);
        say_line(p, w);
    }
    wq_snapshot_clear(&snapshot);
}

static void take_asked(wq_packager *p, work *w)
{
    requester *to, *next;
    w->job = w->asked_job;
    if (w->asked_result == WQ_ERROR_CLOSING)
        return; /* another packager will run it */
    if (w->asked_result < 0) {
        if (w->asked_result == WQ_ERROR_AWAY || w->asked_result == WQ_ERROR_FULL)
            claim(p, w); /* later */
        else
            tell_failed(p, w, w->asked_error.message, -999);
        return;
    }
    w->phase = RUNNING;
    if (w->is_cancelled)
        wq_job_cancel(w->job);
    for (to = LIST_FIRST(&w->requesters); to != NULL; to = next) {
        next = LIST_NEXT(to, link);
        say_accepted(p, w, to);
    }
    w->told_at = wq_monotonic_ms();
    if (wq_job_watch(w->job, on_job_news, w, &w->watch) != WQ_OK)
        tell_failed(p, w, "out of memory", -999);
    else
        take_news(p, w);
}

static void take_work_news(wq_packager *p, work *w, int has_asked, int has_size)
{
    if (w->phase == ASKING && has_asked)
        take_asked(p, w);
    else if (w->phase == RUNNING)
        take_news(p, w);
    else if (w->phase == FINISHING && has_size)
        tell_complete(p, w);
}

/* ---- the broker's patience ------------------------------------------------------------------- */

/* Keeps a job in a file, as the broker is about to be relieved of it. */
static int keep_in_file(const wq_packager *p, work *w)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s-%" PRIu64 ".job", p->o.state_dir, w->key, w->nonce) < 0)
        return -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600), ok = 0;
    int folder = open(p->o.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && folder >= 0)
        ok = dprintf(fd, "%s\n", w->reply_to) >= 0 &&
             write(fd, w->body, w->body_len) == (ssize_t)w->body_len && fsync(fd) == 0 &&
             fsync(folder) == 0;
    if (fd >= 0)
        ok = close(fd) == 0 && ok;
    if (folder >= 0)
        close(folder);
    if (ok) {
        w->file = path;
        return 0;
    }
    wq_log(&p->logger, WQ_LOG_ERROR, "cannot keep a job in %s: %s", p->o.state_dir,
           strerror(errno));
    if (fd >= 0)
        unlink(path);
    free(path);
    return -1;
}

/* Brokers hold a delivery for so long only (RabbitMQ half an hour). */
static void relieve(wq_packager *p, work *w)
{
    slot *s = &p->slots[w->slot];
    if (s->subscription == NULL || keep_in_file(p, w) != 0)
        return;
    if (wq_broker_take_last(s->subscription, w->delivery, NULL, NULL, NULL) == WQ_OK) {
        s->subscription = NULL;
    } else { /* the broker has taken it back with the connection */
        unlink(w->file);
        free(w->file);
        w->file = NULL;
    }
    free(w->delivery);
    w->delivery = NULL;
}

static void tick_work(wq_packager *p, work *w, int64_t now)
{
    if (w->phase == CLAIMING || w->phase == JOINING) {
        tick_claim(p, w, now);
        return;
    }
    if ((w->phase == RUNNING || w->phase == FINISHING) && now - w->told_at >= p->o.alive_ms)
        say_line(p, w);
    if (w->phase == RUNNING && p->o.ack_after_ms > 0 && w->delivery != NULL &&
        now - w->began_at >= p->o.ack_after_ms)
        relieve(p, w);
}

/* ---- jobs that come -------------------------------------------------------------------------- */

static void refuse(wq_packager *p, const event *e, const wq_error *why)
{
    requester to = {.id = "-"};
    char text[600];
    wq_log(&p->logger, WQ_LOG_WARNING, "a message is no job: %s", why->message);
    if (e->reply_to[0] != '\0') {
        memcpy(to.reply_to, e->reply_to, sizeof to.reply_to);
        size_t n = wq_reply_failed(text, sizeof text, why->message);
        say(p, &to, text, n < sizeof text ? n : sizeof text - 1, -999, NULL);
    }
    wq_broker_ack(p->broker, e->delivery, NULL);
}

/* NULL: no memory; the broker delivers it again with the next connection. */
static work *new_work(wq_packager *p, event *e, const wq_job_message *message, const char *reply_to)
{
    work *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    LIST_INIT(&w->requesters);
    w->packager = p;
    w->slot = e->slot;
    w->body = malloc(e->len + 1);
    w->body_len = e->len;
    if (w->body == NULL || add_requester(w, message->id, reply_to) == NULL) {
        free_work(w);
        return NULL;
    }
    memcpy(w->body, e->body, e->len);
    memcpy(w->reply_to, e->reply_to, sizeof w->reply_to);
    w->message = *message;
    w->delivery = e->delivery;
    e->delivery = NULL;
    wq_params_key(&w->message.params, w->key);
    return w;
}

/* One that has ended, or was cancelled: it is answered as it was, and settled. */
static int is_over(wq_packager *p, const event *e, const wq_job_message *message,
                   const char *reply_to)
{
    requester to = {0};
    const memory *m = recall(p, message->id);
    snprintf(to.id, sizeof to.id, "%s", message->id);
    snprintf(to.reply_to, sizeof to.reply_to, "%s", reply_to);
    if (m != NULL && m->is_cancelled)
        say_cancelled(p, &to);
    else if (m != NULL && m->text != NULL && !message->plain)
        say(p, &to, m->text, strlen(m->text), m->returncode, NULL);
    else
        return 0;
    wq_broker_ack(p->broker, e->delivery, NULL);
    return 1;
}

/* One that we are at. Its own delivery, if the connection of that has ended, is replaced; any other
 * one is settled. */
static int is_under_way(wq_packager *p, event *e, const char *id)
{
    requester *r;
    work *w = find_by_id(p, id, &r);
    if (w == NULL)
        return 0;
    if (strcmp(w->message.id, id) == 0 && w->delivery != NULL &&
        w->delivery->generation != e->delivery->generation) {
        free(w->delivery);
        w->delivery = e->delivery;
        e->delivery = NULL;
        w->slot = e->slot;
    } else {
        wq_broker_ack(p->broker, e->delivery, NULL);
    }
    r->is_accepted = 0;
    if (w->phase == RUNNING || w->phase == FINISHING)
        say_accepted(p, w, r);
    return 1;
}

/* Somebody else asks for what we are at. */
static int take_along(wq_packager *p, const event *e, const wq_job_message *message,
                      const char *reply_to)
{
    char key[WQ_KEY_SIZE];
    requester *r;
    wq_params_key(&message->params, key);
    work *w = find_by_key(p, key);
    if (w == NULL || w->phase == TELLING || w->is_cancelled || message->rebuild ||
        (r = add_requester(w, message->id, reply_to)) == NULL)
        return 0;
    if (w->phase == RUNNING)
        say_accepted(p, w, r);
    wq_broker_ack(p->broker, e->delivery, NULL);
    return 1;
}

static void take_job(wq_packager *p, event *e)
{
    wq_job_message message;
    wq_error error;
    char reply_to[WQ_DESTINATION_SIZE];
    int result = e->is_cut ? wq_fail(&error, WQ_ERROR_INVALID_ARGUMENT, "it is too long")
                           : wq_job_message_read(&message, e->body, e->len, &error);
    if (result != WQ_OK) {
        refuse(p, e, &error);
        return;
    }
    snprintf(reply_to, sizeof reply_to, "%s", e->reply_to);
    if (*reply_to == '\0' &&
        wq_destination(reply_to, sizeof reply_to, p->o.queue_reply, message.id) != WQ_OK)
        *reply_to = '\0';
    if (is_under_way(p, e, message.id) || is_over(p, e, &message, reply_to) ||
        take_along(p, e, &message, reply_to)) {
        wq_job_message_clear(&message);
        return;
    }
    work *w = new_work(p, e, &message, reply_to);
    if (w == NULL) {
        wq_job_message_clear(&message);
        return;
    }
    int is_ours = find_by_key(p, w->key) != NULL;
    LIST_INSERT_HEAD(&p->works, w, link);
    if (is_ours)
        ask(p, w); /* one more run follows ours */
    else
        claim(p, w);
}

static void take_delete(wq_packager *p, event *e)
{
    wq_error error;
    deletion *d = calloc(1, sizeof *d);
    if (d == NULL)
        return;
    if (wq_job_message_read(&d->message, e->body, e->len, &error) != WQ_OK) {
        refuse(p, e, &error);
        free(d);
        return;
    }
    d->delivery = e->delivery;
    e->delivery = NULL;
    pthread_mutex_lock(&p->lock);
    STAILQ_INSERT_TAIL(&p->to_delete, d, link);
    pthread_cond_signal(&p->clerk_news);
    pthread_mutex_unlock(&p->lock);
}

static void take_sent(wq_packager *p, work *w)
{
    if (--w->n_unconfirmed == 0)
        end_work(p, w);
}

/* What was left by a packager that died: to the broker again, and then away. */
static void on_given_back(void *user, int result, const char *why)
{
    char *path = user;
    (void)why;
    if (result == WQ_OK)
        unlink(path);
    free(path);
}

static void give_back(wq_packager *p, const char *path)
{
    const size_t size = WQ_MESSAGE_BYTES + WQ_DESTINATION_SIZE;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    char *text = malloc(size), *own = strdup(path), *newline = NULL;
    ssize_t n = fd >= 0 && text != NULL ? read(fd, text, size) : -1;
    if (n > 0)
        newline = memchr(text, '\n', (size_t)n);
    if (newline == NULL || own == NULL)
        goto out;
    *newline = '\0';
    const wq_stomp_header headers[] = {
        {"content-type", "text/plain"}, {"persistent", "true"}, {"reply-to", text}};
    const char *body = newline + 1;
    if (wq_broker_send(p->broker, p->o.queue_package, headers, *text != '\0' ? 3 : 2, body,
                       (size_t)(text + n - body), on_given_back, own, NULL) == WQ_OK)
        own = NULL;
out:
    if (fd >= 0)
        close(fd);
    free(text);
    free(own);
}

static void give_all_back(wq_packager *p)
{
    DIR *folder = opendir(p->o.state_dir);
    const struct dirent *entry;
    if (folder == NULL)
        return;
    while ((entry = readdir(folder)) != NULL) {
        const char *dot = strrchr(entry->d_name, '.');
        char *path = NULL;
        if (dot == NULL || strcmp(dot, ".job") != 0 ||
            asprintf(&path, "%s/%s", p->o.state_dir, entry->d_name) < 0)
            continue;
        give_back(p, path);
        free(path);
    }
    closedir(folder);
}

/* ---- the clerk ------------------------------------------------------------------------------- */

static uint64_t ask_size(wq_packager *p, work *w)
{
    wq_output output;
    int result;
    while ((result = wq_job_output(w->job, &output, NULL)) == WQ_ERROR_AWAY && !p->closing)
        usleep(IDLE_TICK_MS * 1000);
    if (result != WQ_OK)
        return 0;
    if (output.fd >= 0)
        close(output.fd);
    return output.size_bytes;
}

static void clerk_finish(wq_packager *p, work *w)
{
    pthread_mutex_unlock(&p->lock);
    uint64_t size = ask_size(p, w);
    pthread_mutex_lock(&p->lock);
    w->size_bytes = size;
    w->has_size = w->has_news = p->work_news = 1;
    pthread_cond_signal(&p->news);
}

/* What is not there is deleted too. */
static void clerk_delete(wq_packager *p, deletion *d)
{
    wq_error error;
    pthread_mutex_unlock(&p->lock);
    int result = wq_output_delete(p->queue, &d->message.params, &error);
    if (result != WQ_OK && result != WQ_ERROR_NOT_FOUND)
        wq_log(&p->logger, WQ_LOG_WARNING, "an output could not be deleted: %s", error.message);
    wq_broker_ack(p->broker, d->delivery, NULL);
    wq_job_message_clear(&d->message);
    free(d->delivery);
    free(d);
    pthread_mutex_lock(&p->lock);
}

static void *clerk_main(void *arg)
{
    wq_packager *p = arg;
    work *w;
    deletion *d;
    pthread_mutex_lock(&p->lock);
    while (!p->closing) {
        if ((w = STAILQ_FIRST(&p->to_finish)) != NULL) {
            STAILQ_REMOVE_HEAD(&p->to_finish, clerk);
            clerk_finish(p, w);
        } else if ((d = STAILQ_FIRST(&p->to_delete)) != NULL) {
            STAILQ_REMOVE_HEAD(&p->to_delete, link);
            clerk_delete(p, d);
        } else {
            pthread_cond_wait(&p->clerk_news, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void take_event(wq_packager *p, event *e)
{
    switch (e->kind) {
    case EVENT_JOB:
        take_job(p, e);
        break;
    case EVENT_NOTICE:
        take_notice(p, e);
        break;
    case EVENT_DELETE:
        take_delete(p, e);
        break;
    case EVENT_CONNECTED:
        p->connected_at = wq_monotonic_ms();
        if (p->n_connections++ == 0)
            give_all_back(p);
        break;
    case EVENT_SENT:
        take_sent(p, e->work);
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

static void tick(wq_packager *p)
{
    int64_t now = wq_monotonic_ms();
    work *w = LIST_FIRST(&p->works), *next;
    for (; w != NULL; w = next) {
        next = LIST_NEXT(w, link);
        tick_work(p, w, now);
    }
}

/* Until something comes, or it is time to look. */
static void wait_locked(wq_packager *p, long ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += ms * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (ms < 0)
        pthread_cond_wait(&p->news, &p->lock);
    else
        pthread_cond_timedwait(&p->news, &p->lock, &until);
}

static long tick_ms(const wq_packager *p)
{
    const work *w;
    long ms = LIST_EMPTY(&p->works) ? -1 : IDLE_TICK_MS;
    LIST_FOREACH(w, &p->works, link)
    if (w->phase == CLAIMING)
        ms = TICK_MS;
    return ms;
}

static void *thread_main(void *arg)
{
    wq_packager *p = arg;
    event *e;
    pthread_mutex_lock(&p->lock);
    while (!p->closing) {
        if (STAILQ_EMPTY(&p->events) && !p->work_news)
            wait_locked(p, tick_ms(p));
        e = STAILQ_FIRST(&p->events);
        if (e != NULL)
            STAILQ_REMOVE_HEAD(&p->events, link);
        int news = p->work_news;
        p->work_news = 0;
        pthread_mutex_unlock(&p->lock);
        if (e != NULL) {
            take_event(p, e);
            free_event(e);
        }
        if (news)
            take_all_work_news(p);
        tick(p);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- opening and closing --------------------------------------------------------------------- */

static int subscribe(wq_packager *p, const char *destination, wq_ack_mode ack,
                     void (*message)(void *, const wq_broker_message *), void *user,
                     wq_subscription **out, wq_error *error)
{
    const wq_subscribe options = {.destination = destination,
                                  .ack = ack,
                                  .prefetch = ack == WQ_ACK_INDIVIDUAL ? 1 : 0,
                                  .message = message,
                                  .user = user};
    return wq_broker_subscribe(out, p->broker, &options, error);
}

static int subscribe_slot(wq_packager *p, slot *s)
{
    return subscribe(p, p->o.queue_package, WQ_ACK_INDIVIDUAL, on_job_message, s, &s->subscription,
                     NULL);
}

/* The topic first: a claim must be heard by its claimer. */
static int subscribe_all(wq_packager *p, wq_error *error)
{
    int result = subscribe(p, p->o.topic, WQ_ACK_AUTO, on_notice, p, &p->notices, error);
    if (result == WQ_OK)
        result =
            subscribe(p, p->o.queue_delete, WQ_ACK_INDIVIDUAL, on_delete, p, &p->deletes, error);
    for (unsigned i = 0; result == WQ_OK && i < p->o.workers; i++) {
        p->slots[i] = (slot){.packager = p, .i = i};
        result = subscribe(p, p->o.queue_package, WQ_ACK_INDIVIDUAL, on_job_message, &p->slots[i],
                           &p->slots[i].subscription, error);
    }
    return result;
}

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
        .claim_ms = 30,
        .ack_after_ms = 600000,
    };
}

static void free_packager(wq_packager *p)
{
    event *e;
    work *w;
    deletion *d;
    while ((e = STAILQ_FIRST(&p->events)) != NULL) {
        STAILQ_REMOVE_HEAD(&p->events, link);
        free_event(e);
    }
    while ((w = LIST_FIRST(&p->works)) != NULL) {
        LIST_REMOVE(w, link);
        free_work(w);
    }
    while ((d = STAILQ_FIRST(&p->to_delete)) != NULL) {
        STAILQ_REMOVE_HEAD(&p->to_delete, link);
        wq_job_message_clear(&d->message);
        free(d->delivery);
        free(d);
    }
    for (unsigned i = 0; i < REMEMBERED; i++)
        free(p->memories[i].text);
    pthread_cond_destroy(&p->news);
    pthread_cond_destroy(&p->clerk_news);
    pthread_mutex_destroy(&p->lock);
    free((char *)p->o.queue_package);
    free((char *)p->o.queue_reply);
    free((char *)p->o.queue_delete);
    free((char *)p->o.topic);
    free((char *)p->o.url_base);
    free((char *)p->o.state_dir);
    free(p->slots);
    free(p);
}

/* What the queue has been asked is answered, also when it stops. */
static void await_answers_locked(wq_packager *p)
{
    work *w;
    LIST_FOREACH(w, &p->works, link)
    while (w->phase == ASKING && !w->has_asked)
        pthread_cond_wait(&p->news, &p->lock);
}

void wq_packager_close(wq_packager *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->closing = 1;
    pthread_cond_broadcast(&p->news);
    pthread_cond_broadcast(&p->clerk_news);
    pthread_mutex_unlock(&p->lock);
    if (p->has_thread)
        pthread_join(p->thread, NULL);
    if (p->has_clerk)
        pthread_join(p->clerk, NULL);
    if (p->broker != NULL)
        wq_broker_close(p->broker);
    wq_stop(p->queue);
    pthread_mutex_lock(&p->lock);
    await_answers_locked(p);
    pthread_mutex_unlock(&p->lock);
    free_packager(p);
}

static int copy_options(wq_packager *p, const wq_packager_options *o)
{
    char host[64] = "packager";
    uint32_t random = 0;
    p->o = *o;
    p->o.queue_package = strdup(o->queue_package);
    p->o.queue_reply = strdup(o->queue_reply);
    p->o.queue_delete = strdup(o->queue_delete);
    p->o.topic = strdup(o->topic);
    p->o.url_base = strdup(o->url_base != NULL ? o->url_base : "workqueue:");
    p->o.state_dir = strdup(o->state_dir);
    p->slots = calloc(o->workers, sizeof *p->slots);
    gethostname(host, sizeof host - 1);
    if (getrandom(&random, sizeof random, 0) < 0)
        return -1;
    if (o->name != NULL)
        snprintf(p->name, sizeof p->name, "%s", o->name);
    else
        snprintf(p->name, sizeof p->name, "%s-%08" PRIx32, host, random);
    return p->o.queue_package && p->o.queue_reply && p->o.queue_delete && p->o.topic &&
                   p->o.url_base && p->o.state_dir && p->slots
               ? 0
               : -1;
}

static void init(wq_packager *p, wq_queue *queue, const wq_packager_options *o)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->news, &attr);
    pthread_cond_init(&p->clerk_news, NULL);
    pthread_condattr_destroy(&attr);
    STAILQ_INIT(&p->events);
    STAILQ_INIT(&p->to_finish);
    STAILQ_INIT(&p->to_delete);
    LIST_INIT(&p->works);
    p->queue = queue;
    p->logger = (wq_logger){o->log, o->log_user};
}

static int start(wq_packager *p, wq_error *error)
{
    wq_broker_options o;
    wq_broker_options_init(&o);
    o.urls = p->o.urls;
    o.ca_file = p->o.ca_file;
    o.heartbeat_ms = p->o.heartbeat_ms;
    o.reconnect_max_ms = 2000; /* others wait so long for our objections, see claim_ms() */
    o.log = p->logger;
    o.connected = on_connected;
    o.user = p;
    int result = wq_broker_open(&p->broker, &o, error);
    p->o.urls = p->o.ca_file = NULL; /* borrowed until here */
    if (result == WQ_OK)
        result = subscribe_all(p, error);
    if (result != WQ_OK)
        return result;
    p->has_thread = wq_thread_start(&p->thread, "wq-packager", thread_main, p) == 0;
    p->has_clerk = wq_thread_start(&p->clerk, "wq-clerk", clerk_main, p) == 0;
    if (!p->has_thread || !p->has_clerk)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "cannot start a thread");
    return WQ_OK;
}

int wq_packager_open(wq_packager **out, wq_queue *queue, const wq_packager_options *options,
                     wq_error *error)
{
    wq_packager *p = calloc(1, sizeof *p);
    if (p == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    init(p, queue, options);
    int result = copy_options(p, options) == 0
                     ? start(p, error)
                     : wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    if (result == WQ_OK)
        *out = p;
    else
        wq_packager_close(p);
    return result;
}
