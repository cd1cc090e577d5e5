/* remote.c - the server's side of a broker: a runner that sends jobs to packagers.
 *
 * A job goes to the permanent queue with the name of a transient one, which has been subscribed to
 * before, so that it exists. What a packager answers there becomes begun, report and ended of the
 * run. The transient queue is read only while somebody looks at the job, and now and then for a
 * moment, so that an end does not stay unknown; when nobody reads it for long the broker collects
 * it. Whatever is lost, by that, by a broker or by a packager that dies, shows as silence, and
 * after a silence the job is sent again: packagers answer for an id that they know instead of
 * running it twice.
 *
 * Answers are acknowledged as they are put into the mail, but an end only when the run has ended,
 * so that a server that dies meanwhile finds it again. A job that comes from the journal was
 * probably sent before: its transient queue is read first, and it is sent again only if that is
 * silent.
 *
 * One thread does all this. Everybody else - the broker's thread, the queue's, those who look -
 * only puts something into a job's mail. Of progress the mail keeps the latest line, so it is
 * bounded however fast a packager talks. Outputs that are elsewhere (of packagers that are not
 * ours) are downloaded by threads of fetch.c.
 *
 * The lock guards the table, the mail, and the lists; no other is taken under it and nothing is
 * called. What is in a job besides is the thread's.
 */
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

#include "workqueue/stomp/broker.h"
#include "workqueue/remote/fetch.h"
#include "workqueue/remote/look.h"
#include "workqueue/remote/messages.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

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
    uint64_t epoch;              /* of the run that it was accepted in; 0: it does not say */
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
    uint64_t epoch;              /* see mail */
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

static int compare(const void *a, const void *b)
{
    return strcmp(a, b); /* a job begins with its id */
}

static void free_mail(mail *m)
{
    free(m->line);
    free(m->text);
    free(m->delivery);
}

static void unref(remote_job *job)
{
    if (atomic_fetch_sub(&job->refs, 1) != 1)
        return;
    free_mail(&job->mail);
    free((char *)job->fetch.url);
    free(job->look.why);
    free(job->delivery);
    free(job);
}

/* ---- mail ------------------------------------------------------------------------------------ */

static void post_locked(remote *r, remote_job *job, unsigned what)
{
    job->mail.what |= what;
    if (job->has_mail || job->is_over)
        return;
    job->has_mail = 1;
    TAILQ_INSERT_TAIL(&r->mailed, job, link);
    pthread_cond_signal(&r->news);
}

static void post_by_id(remote *r, const char *id, unsigned what)
{
    pthread_mutex_lock(&r->lock);
    remote_job **found = tfind(id, &r->by_id, compare);
    if (found != NULL)
        post_locked(r, *found, what);
    pthread_mutex_unlock(&r->lock);
}

static unsigned header_number(const wq_stomp_frame *frame, const char *name)
{
    const char *value = wq_stomp_get(frame, name);
    return value != NULL && strlen(value) < 8 ? (unsigned)strtoul(value, NULL, 10) : 0;
}

static char *copy_bytes(const char *bytes, size_t n)
{
    char *copy = malloc(n + 1);
    if (copy == NULL)
        return NULL;
    for (size_t i = 0; i < n; i++)
        copy[i] = bytes[i] != '\0' ? bytes[i] : '?';
    copy[n] = '\0';
    return copy;
}

/* Acknowledges an answer whose delivery was kept, and frees that. */
static void settle(remote *r, wq_delivery *delivery)
{
    if (delivery != NULL)
        wq_broker_ack(r->broker, delivery, NULL);
    free(delivery);
}

/* The first end counts. */
static void put_end_locked(mail *m, const wq_stomp_frame *frame, const wq_reply *reply)
{
    const char *code = wq_stomp_get(frame, "workqueue-returncode");
    if (m->what & MAIL_END)
        return;
    m->what |= MAIL_END;
    m->end = reply->kind;
    m->is_ours = wq_stomp_get(frame, "workqueue-packager") != NULL;
    m->has_size = reply->has_size;
    m->size_bytes = reply->size_bytes;
    m->returncode = code != NULL ? (int)strtol(code, NULL, 10) : WQ_RETURNCODE_OURS;
    if (reply->kind == WQ_REPLY_COMPLETE)
        m->text = copy_bytes(reply->url, reply->url_len);
    else if (reply->kind == WQ_REPLY_FAILED)
        m->text = copy_bytes(reply->reason, reply->reason_len);
}

/* Who it is. */
static void put_packager_locked(mail *m, const wq_stomp_frame *frame)
{
    const char *inbox = wq_stomp_get(frame, "workqueue-inbox");
    const char *epoch = wq_stomp_get(frame, "workqueue-epoch");
    if (inbox != NULL && strlen(inbox) < sizeof m->inbox)
        memcpy(m->inbox, inbox, strlen(inbox) + 1);
    if (epoch != NULL)
        m->epoch = strtoull(epoch, NULL, 10);
}

static void put_reply_locked(mail *m, const wq_stomp_frame *frame, const wq_reply *reply)
{
    switch (reply->kind) {
    case WQ_REPLY_ACCEPTED:
        m->estimate_ms = reply->estimate_ms;
        m->what |= MAIL_ACCEPTED;
        break;
    case WQ_REPLY_PROGRESS:
        free(m->line);
        m->line = copy_bytes(reply->line, reply->line_len);
        m->line_len = m->line != NULL ? reply->line_len : 0;
        break;
    case WQ_REPLY_COMPLETE:
    case WQ_REPLY_FAILED:
    case WQ_REPLY_CANCELLED:
        put_end_locked(m, frame, reply);
        break;
    case WQ_REPLY_OTHER:
        m->what |= MAIL_OTHER;
        break;
    }
}

static int is_end(wq_reply_kind kind)
{
    return kind == WQ_REPLY_COMPLETE || kind == WQ_REPLY_FAILED || kind == WQ_REPLY_CANCELLED;
}

/* On the broker's thread. */
static void on_reply(void *user, const wq_broker_message *message)
{
    remote_job *job = user;
    remote *r = job->remote;
    wq_reply reply;
    wq_reply_read(&reply, message->frame->body, message->frame->body_len);
    wq_delivery *old = is_end(reply.kind) && message->delivery != NULL
                           ? wq_delivery_copy(message->delivery)
                           : NULL;
    if (old == NULL && message->delivery != NULL)
        wq_broker_ack(r->broker, message->delivery, NULL);
    pthread_mutex_lock(&r->lock);
    put_reply_locked(&job->mail, message->frame, &reply);
    job->mail.alive_ms = header_number(message->frame, "workqueue-alive-ms");
    put_packager_locked(&job->mail, message->frame);
    if (old != NULL) { /* the latest is kept */
        wq_delivery *delivery = old;
        old = job->mail.delivery;
        job->mail.delivery = delivery;
    }
    post_locked(r, job, MAIL_HEARD);
    pthread_mutex_unlock(&r->lock);
    settle(r, old);
}

static void on_refused(void *user, const char *why)
{
    remote_job *job = user;
    remote *r = job->remote;
    pthread_mutex_lock(&r->lock);
    wq_fail(&job->mail.error, WQ_ERROR_INVALID_ARGUMENT, "the broker refuses: %s", why);
    post_locked(r, job, MAIL_REFUSED);
    pthread_mutex_unlock(&r->lock);
}

/* A job has been confirmed by the broker, or refused. */
static void on_sent(void *user, int result, const char *why)
{
    remote_job *job = user;
    if (result == WQ_ERROR_INVALID_ARGUMENT)
        on_refused(job, why);
    unref(job);
}

static void on_connected(void *user, uint64_t generation, const char *server)
{
    remote *r = user;
    (void)generation;
    pthread_mutex_lock(&r->lock);
    r->is_connected = r->has_connected = 1;
    r->met_rabbitmq = server != NULL && strncmp(server, "RabbitMQ", 8) == 0;
    pthread_cond_signal(&r->news);
    pthread_mutex_unlock(&r->lock);
}

static void on_disconnected(void *user, const char *why)
{
    remote *r = user;
    (void)why;
    pthread_mutex_lock(&r->lock);
    r->is_connected = 0;
    pthread_mutex_unlock(&r->lock);
}

/* ---- listening ---------------------------------------------------------------------------------
 */

static int subscribe(remote *r, remote_job *job)
{
    char destination[WQ_DESTINATION_SIZE], expires[24];
    snprintf(expires, sizeof expires, "%u", r->o.reply_expires_ms);
    /* What the store knows needs no queue that outlives its reader. */
    const wq_stomp_header durable[] = {{"x-expires", expires}};
    const wq_stomp_header transient[] = {
        {"durable", "false"}, {"auto-delete", "true"}, {"exclusive", "false"}};
    const wq_subscribe subscribe = {
        .destination = destination,
        .headers = r->looker != NULL ? transient : durable,
        .n_headers = !r->is_rabbitmq ? 0 : r->looker != NULL ? 3 : 1, /* others do not know them */
        .ack = WQ_ACK_INDIVIDUAL,            /* else what crosses with the end of this was lost */
        .message = on_reply,
        .refused = on_refused,
        .user = job,
    };
    if (job->subscription != NULL ||
        wq_destination(destination, sizeof destination, r->o.queue_reply, job->id) != WQ_OK ||
        wq_broker_subscribe(&job->subscription, r->broker, &subscribe, NULL) != WQ_OK)
        return job->subscription != NULL ? 0 : -1;
    job->looked_at = wq_monotonic_ms();
    job->has_heard = 0;
    return 0;
}

static void unsubscribe(remote_job *job)
{
    if (job->subscription == NULL)
        return;
    wq_broker_unsubscribe(job->subscription);
    job->subscription = NULL;
    job->looked_at = wq_monotonic_ms();
}

/* ---- the end of a job ------------------------------------------------------------------------ */

/* The run is the queue's again; late messages find nobody. */
static void end(remote *r, remote_job *job, const wq_outcome *outcome)
{
    const wq_run *run = job->run;
    settle(r, job->delivery);
    job->delivery = NULL;
    unsubscribe(job);
    TAILQ_REMOVE(&r->jobs, job, all);
    pthread_mutex_lock(&r->lock);
    tdelete(job->id, &r->by_id, compare);
    r->n--;
    if (job->has_mail)
        TAILQ_REMOVE(&r->mailed, job, link);
    job->has_mail = 0;
    job->is_over = 1;
    pthread_mutex_unlock(&r->lock);
    unref(job);
    run->ended(run->user, outcome);
}

static void end_badly(remote *r, remote_job *job, int returncode, const char *why)
{
    const wq_outcome outcome = {.returncode = returncode == 0 ? WQ_RETURNCODE_OURS : returncode,
                                .error = strdup(why != NULL ? why : "out of memory")};
    end(r, job, &outcome);
}

static void end_cancelled(remote *r, remote_job *job)
{
    const wq_outcome outcome = {
        .returncode = WQ_RETURNCODE_OURS, .cancelled = 1, .error = strdup("cancelled")};
    end(r, job, &outcome);
}

static void end_well(remote *r, remote_job *job)
{
    const wq_outcome outcome = {.returncode = 0};
    end(r, job, &outcome);
}

/* ---- sending --------------------------------------------------------------------------------- */

static int reply_to(const remote *r, const char *id, char *buf, size_t size)
{
    char plain[WQ_DESTINATION_SIZE];
    if (wq_destination(plain, sizeof plain, r->o.queue_reply, id) != WQ_OK)
        return -1;
    return wq_destination_for_others(buf, size, plain, r->is_rabbitmq);
}

static int hand_to_broker(remote *r, remote_job *job, const char *reply, wq_error *error)
{
    const wq_stomp_header headers[] = {
        {"content-type", "text/plain"},
        {"persistent", "true"},
        {"reply-to", reply},
        {"correlation-id", job->id},
    };
    char *text = wq_job_message_text(job->id, job->run->params, job->run->rebuild);
    if (text == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    atomic_fetch_add(&job->refs, 1);
    int result = wq_broker_send(r->broker, r->o.queue_package, headers, 4, text, strlen(text),
                                on_sent, job, error);
    if (result != WQ_OK) /* never the last one: the table has it, too */
        atomic_fetch_sub(&job->refs, 1);
    free(text);
    return result;
}

/* Sends the job, for the first time or again; later, if too much is on its way. */
static void send_job(remote *r, remote_job *job)
{
    char reply[WQ_DESTINATION_SIZE];
    wq_error error = {0};
    if (subscribe(r, job) != 0)
        return;
    int result = reply_to(r, job->id, reply, sizeof reply) == 0
                     ? hand_to_broker(r, job, reply, &error)
                     : wq_fail(&error, WQ_ERROR_INVALID_ARGUMENT, "its name is too long");
    if (result == WQ_ERROR_INVALID_ARGUMENT)
        end_badly(r, job, WQ_RETURNCODE_OURS, error.message);
    if (result != WQ_OK)
        return;
    job->is_sent = 1;
    job->n_sent++;
    job->is_accepted = 0;
    job->sent_at = job->heard_at = wq_monotonic_ms();
}

/* It is kept until the broker has it, and that is all. */
static void on_told(void *user, int result, const char *why)
{
    (void)user, (void)result, (void)why;
}

/* A hint to who has it, if that is known: it looks at the mark. */
static void send_cancel(remote *r, const remote_job *job)
{
    wq_hint hint = {.kind = WQ_HINT_CANCEL};
    char text[512];
    const wq_stomp_header headers[] = {{"content-type", "text/plain"}};
    if (*job->inbox == '\0')
        return;
    snprintf(hint.id, sizeof hint.id, "%s", job->id);
    size_t n = wq_hint_text(text, sizeof text, &hint);
    wq_broker_send(r->broker, job->inbox, headers, 1, text, n, NULL, NULL, NULL);
}

/* ---- the store's word ------------------------------------------------------------------------ */

static void post_look(remote_job *job, unsigned what)
{
    remote *r = job->remote;
    pthread_mutex_lock(&r->lock);
    post_locked(r, job, what);
    pthread_mutex_unlock(&r->lock);
    unref(job);
}

/* On the looker's thread. */
static void on_looked(void *user)
{
    post_look(user, MAIL_LOOKED);
}

static void on_marked(void *user)
{
    post_look(user, MAIL_MARKED);
}

static void ask_store(remote *r, remote_job *job)
{
    wq_look *look = &job->look;
    if (r->looker == NULL || job->is_looking)
        return;
    job->is_looking = 1;
    job->asked_at = wq_monotonic_ms();
    look->key = job->run->key;
    look->id = job->id;
    look->rebuild = job->run->rebuild;
    look->epoch = job->epoch;
    look->done = on_looked;
    look->user = job;
    atomic_fetch_add(&job->refs, 1);
    wq_looker_add(r->looker, look);
}

static void mark_cancelled(remote *r, remote_job *job)
{
    wq_look *mark = &job->mark;
    if (r->looker == NULL || job->is_marking || job->is_marked)
        return;
    job->is_marking = 1;
    mark->marks = 1;
    mark->id = job->id;
    mark->done = on_marked;
    mark->user = job;
    atomic_fetch_add(&job->refs, 1);
    wq_looker_add(r->looker, mark);
}

/* ---- outputs that are elsewhere -------------------------------------------------------------- */

/* On a thread of the fetcher's. */
static int fetch_path(void *user, const char **path, wq_error *error)
{
    const remote_job *job = user;
    return job->run->output(job->run->user, path, error);
}

static void on_fetched(void *user, int result, const wq_error *error)
{
    remote_job *job = user;
    remote *r = job->remote;
    pthread_mutex_lock(&r->lock);
    job->mail.fetched = result;
    job->mail.error = *error;
    post_locked(r, job, MAIL_FETCHED);
    pthread_mutex_unlock(&r->lock);
}

static void start_fetch(remote *r, remote_job *job, mail *m)
{
    wq_error error = {0};
    job->fetch.url = m->text;
    job->fetch.size_bytes = m->has_size ? m->size_bytes : UINT64_MAX;
    job->fetch.path = fetch_path;
    job->fetch.done = on_fetched;
    job->fetch.user = job;
    m->text = NULL;
    job->is_fetching = 1;
    if (wq_fetcher_add(r->fetcher, &job->fetch, &error) != WQ_OK)
        on_fetched(job, error.code, &error);
}

/* ---- answers --------------------------------------------------------------------------------- */

/* A job that is cancelled is not run again by those who did not hear of it. */
static void take_accepted(remote *r, remote_job *job, const mail *m)
{
    job->is_accepted = job->is_sent = 1;
    job->alive_ms = m->alive_ms;
    job->estimate_ms = m->estimate_ms;
    if (job->cancel_at != 0)
        send_cancel(r, job);
    else
        job->run->begun(job->run->user, m->estimate_ms);
}

/* Ours put the output where the queue looks for it; others tell where it is. */
static void take_complete(remote *r, remote_job *job, mail *m)
{
    const char *url = m->text;
    if (m->is_ours || url == NULL || strncmp(url, "http", 4) != 0) {
        end_well(r, job);
        return;
    }
    start_fetch(r, job, m);
}

static void take_end(remote *r, remote_job *job, mail *m)
{
    if (m->end == WQ_REPLY_COMPLETE)
        take_complete(r, job, m);
    else if (m->end == WQ_REPLY_CANCELLED || job->cancel_at != 0)
        end_cancelled(r, job);
    else
        end_badly(r, job, m->returncode,
                  m->text != NULL && *m->text ? m->text : "the packager failed without a reason");
}

static void take_fetched(remote *r, remote_job *job, const mail *m)
{
    job->is_fetching = 0;
    if (job->cancel_at != 0)
        end_cancelled(r, job);
    else if (m->fetched >= 0)
        end_well(r, job);
    else
        end_badly(r, job, WQ_RETURNCODE_OURS, m->error.message);
}

/* What the store has said. One that runs and is renewed is heard of. */
static void take_look(remote *r, remote_job *job)
{
    wq_look *look = &job->look;
    job->is_looking = 0;
    if (look->seen == WQ_SEEN_DONE)
        end_well(r, job);
    else if (look->seen == WQ_SEEN_FAILED && job->cancel_at == 0)
        end_badly(r, job, look->returncode, look->why);
    else if (look->seen == WQ_SEEN_RUNNING && look->has_changed && job->is_accepted)
        job->heard_at = wq_monotonic_ms();
    if (!job->is_over) {
        free(look->why);
        look->why = NULL;
    }
}

/* Whoever gets it from now on finds the mark. */
static void take_mark(remote *r, remote_job *job)
{
    job->is_marking = 0;
    job->is_marked = job->mark.seen == WQ_SEEN_MARKED;
    if (!job->is_marked)
        return; /* again at the next tick */
    send_cancel(r, job);
    if (!job->is_accepted)
        end_cancelled(r, job);
}

static void take_cancel(remote *r, remote_job *job)
{
    if (job->cancel_at != 0)
        return;
    job->cancel_at = wq_monotonic_ms();
    atomic_store(&job->fetch.stop, 1);
    if (!job->is_sent && !job->run->resumed)
        end_cancelled(r, job);
    else if (r->looker != NULL)
        mark_cancelled(r, job);
    else
        send_cancel(r, job);
}

/* A job of the journal that is heard of is out already. */
static void take_line(remote_job *job, const mail *m)
{
    job->is_accepted = job->is_sent = 1;
    if (job->cancel_at == 0)
        job->run->report(job->run->user, m->line, m->line_len);
}

static void take_news(remote *r, remote_job *job, mail *m)
{
    int64_t now = wq_monotonic_ms();
    if (m->what & MAIL_NEW)
        TAILQ_INSERT_TAIL(&r->jobs, job, all);
    if (m->what & MAIL_INTEREST)
        job->interest_at = now;
    if (m->what & MAIL_HEARD) {
        job->heard_at = now;
        job->has_heard = 1;
    }
    if (m->alive_ms > 0)
        job->alive_ms = m->alive_ms;
    if (*m->inbox != '\0')
        memcpy(job->inbox, m->inbox, sizeof job->inbox);
    if (m->epoch > job->epoch)
        job->epoch = m->epoch;
    job->is_with_ours |= m->epoch != 0;
    if ((m->what & MAIL_OTHER) && !job->warned++)
        wq_log(&r->logger, WQ_LOG_WARNING, "job %s: a message that is no answer was passed over",
               job->id);
    if (m->what & MAIL_ACCEPTED)
        take_accepted(r, job, m);
    if (m->line != NULL)
        take_line(job, m);
    if (m->delivery == NULL)
        return;
    settle(r, job->delivery); /* it has come again */
    job->delivery = m->delivery;
    m->delivery = NULL;
}

/* Nothing is sent before the first connection, which tells what kind of broker it is. */
static void begin(remote *r, remote_job *job)
{
    if (!job->run->resumed)
        send_job(r, job);
    else
        subscribe(r, job);
    if (job->run->resumed)
        ask_store(r, job);
}

/* What came together is taken in its natural order. While an output is being fetched, nothing but
 * that ends the job. */
static void take_mail(remote *r, remote_job *job, mail *m)
{
    take_news(r, job, m);
    if (m->what & MAIL_FETCHED)
        take_fetched(r, job, m);
    else if (m->what & MAIL_CANCEL)
        take_cancel(r, job);
    if (!job->is_over && (m->what & MAIL_LOOKED) && !(m->what & MAIL_END))
        take_look(r, job);
    if (!job->is_over && (m->what & MAIL_MARKED))
        take_mark(r, job);
    if (m->what & MAIL_LOOKED)
        job->is_looking = 0;
    if (job->is_over || job->is_fetching)
        return;
    if (m->what & MAIL_END)
        take_end(r, job, m);
    else if (m->what & MAIL_REFUSED)
        end_badly(r, job, WQ_RETURNCODE_OURS, m->error.message);
    else if ((m->what & MAIL_NEW) && r->has_met)
        begin(r, job);
    else if ((m->what & MAIL_INTEREST) && job->is_sent && job->subscription == NULL) {
        subscribe(r, job);
        ask_store(r, job); /* it may have ended while nobody listened */
    }
}

/* ---- time ------------------------------------------------------------------------------------ */

/* Doubling with each time that it was sent, where nobody has promised to speak. */
static int64_t doubled(int64_t ms, unsigned n_sent)
{
    return ms << (n_sent > 8 ? 7 : n_sent > 0 ? n_sent - 1 : 0);
}

/* How long a silence is taken for work. */
static int64_t patience_ms(const remote *r, const remote_job *job)
{
    int64_t estimate = (int64_t)job->estimate_ms * SILENT_ESTIMATES;
    if (!job->is_accepted) /* it waits in the broker's queue */
        return doubled(r->o.resend_ms, job->n_sent);
    if (job->alive_ms > 0)
        return (int64_t)job->alive_ms * SILENT_ALIVES + 1000;
    return doubled(estimate > r->o.quiet_ms ? estimate : r->o.quiet_ms, job->n_sent);
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* What promises signs of life is silent only while we listen. Of others all that they have said
 * comes when we listen, and they are as silent while we do not. */
static int is_silent(const remote *r, const remote_job *job, int64_t now)
{
    int64_t since = !job->is_accepted    ? job->sent_at
                    : job->alive_ms == 0 ? job->heard_at
                                         : later(job->heard_at, job->looked_at);
    return now - since >= patience_ms(r, job);
}

static int is_watched(const remote *r, const remote_job *job, int64_t now)
{
    return job->run->watched(job->run->user) || job->cancel_at != 0 ||
           (job->interest_at != 0 && now - job->interest_at < r->o.linger_ms);
}

/* Nobody looks: after all that has gathered has come, and a sign of life if one was promised. */
static int has_looked(const remote *r, const remote_job *job, int64_t now)
{
    if (now - job->looked_at < (job->n_sent <= 1 && !job->is_accepted ? r->o.linger_ms : LOOK_MS))
        return 0;
    return !job->is_accepted || job->alive_ms == 0
               ? now - later(job->heard_at, job->looked_at) >= LOOK_MS
               : job->has_heard;
}

/* One of the journal that nothing was heard of, or one that did not fit. */
static void tick_unsent(remote *r, remote_job *job, int64_t now)
{
    if (!job->run->resumed || job->subscription == NULL)
        begin(r, job);
    else if (now - job->looked_at >= LOOK_MS)
        send_job(r, job);
}

/* Where the store knows the ends nothing gathers in a queue: it is read while somebody looks, until
 * one of ours has the job, and of one that is not ours to the end. */
static int may_stop_listening(const remote *r, const remote_job *job, int64_t now)
{
    if (is_watched(r, job, now))
        return 0;
    if (r->looker == NULL)
        return has_looked(r, job, now);
    return job->is_accepted && job->is_with_ours && now - job->looked_at >= LOOK_MS;
}

static void tick_sent(remote *r, remote_job *job, int64_t now)
{
    if (r->looker != NULL && now - job->asked_at >= r->o.check_ms)
        ask_store(r, job);
    if (job->subscription == NULL) {
        if (is_watched(r, job, now)) {
            subscribe(r, job);
            ask_store(r, job);
        } else if (r->looker == NULL && now - job->looked_at >= r->o.check_ms) {
            subscribe(r, job);
        } else if (r->looker != NULL && now - job->heard_at >= r->o.check_ms + patience_ms(r, job)) {
            subscribe(r, job); /* and is_silent() decides */
        }
    } else if (is_silent(r, job, now)) {
        if (now - job->looked_at < SILENT_LOOK_MS)
            return;
        if (r->looker != NULL && (job->is_looking || now - job->asked_at >= SILENT_LOOK_MS)) {
            ask_store(r, job); /* before it is sent again */
            return;
        }
        wq_log(&r->logger, WQ_LOG_WARNING, "job %s: nothing was heard of it; it is sent again",
               job->id);
        send_job(r, job);
    } else if (may_stop_listening(r, job, now)) {
        unsubscribe(job);
    }
}

static void tick_job(remote *r, remote_job *job, int64_t now)
{
    if (job->is_fetching)
        return;
    if (job->cancel_at != 0 && now - job->cancel_at >= r->o.cancel_wait_ms)
        end_cancelled(r, job);
    else if (job->cancel_at != 0) {
        subscribe(r, job);
        mark_cancelled(r, job);
    } else if (job->is_sent)
        tick_sent(r, job, now);
    else
        tick_unsent(r, job, now);
}

/* What was not heard while there was no broker is no silence. The store may know ends meanwhile. */
static void forgive(remote *r, int anew, int64_t now)
{
    remote_job *job;
    TAILQ_FOREACH(job, &r->jobs, all)
    {
        if (job->is_sent && (anew || now - job->asked_at >= AWAY_LOOK_MS))
            ask_store(r, job);
        job->heard_at = job->sent_at = job->looked_at = now;
        job->has_heard = 0;
    }
}

static void tick(remote *r, int64_t now)
{
    remote_job *job = TAILQ_FIRST(&r->jobs), *next;
    for (; job != NULL; job = next) {
        next = TAILQ_NEXT(job, all);
        tick_job(r, job, now);
    }
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* Moves a job's mail out. */
static remote_job *next_mail_locked(remote *r, mail *m)
{
    remote_job *job = TAILQ_FIRST(&r->mailed);
    if (job == NULL)
        return NULL;
    TAILQ_REMOVE(&r->mailed, job, link);
    job->has_mail = 0;
    *m = job->mail;
    memset(&job->mail, 0, sizeof job->mail);
    return job;
}

static void wait_locked(remote *r)
{
    struct timespec until;
    if (r->n == 0) {
        pthread_cond_wait(&r->news, &r->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += TICK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&r->news, &r->lock, &until);
}

static void process_mail_locked(remote *r)
{
    remote_job *job;
    mail m;
    while ((job = next_mail_locked(r, &m)) != NULL) {
        pthread_mutex_unlock(&r->lock);
        atomic_fetch_add(&job->refs, 1);
        take_mail(r, job, &m);
        unref(job);
        free_mail(&m);
        pthread_mutex_lock(&r->lock);
    }
}

/* `anew`: there is another connection than last time. */
static void look_at_clock(remote *r, int connected, int anew, int64_t *ticked)
{
    int64_t now = wq_monotonic_ms();
    r->has_met |= connected;
    if (!anew && now - *ticked < TICK_MS)
        return;
    *ticked = now;
    if (anew || !connected)
        forgive(r, anew, now);
    if (r->has_met)
        tick(r, now);
}

static void *thread_main(void *arg)
{
    remote *r = arg;
    int64_t ticked = 0;
    pthread_mutex_lock(&r->lock);
    while (!r->closing) {
        if (TAILQ_EMPTY(&r->mailed) && !r->has_connected)
            wait_locked(r);
        int connected = r->is_connected, anew = r->has_connected;
        r->is_rabbitmq = r->met_rabbitmq;
        r->has_connected = 0;
        process_mail_locked(r);
        pthread_mutex_unlock(&r->lock);
        look_at_clock(r, connected, anew, &ticked);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ---- the runner ------------------------------------------------------------------------------ */

static int remote_start(void *self, const wq_run *run, wq_error *error)
{
    remote *r = self;
    remote_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    snprintf(job->id, sizeof job->id, "%s", run->id);
    atomic_init(&job->refs, 1);
    atomic_init(&job->fetch.stop, 0);
    job->remote = r;
    job->run = run;
    pthread_mutex_lock(&r->lock);
    int entered = tsearch(job, &r->by_id, compare) != NULL;
    if (entered) {
        r->n++;
        post_locked(r, job, MAIL_NEW);
    }
    pthread_mutex_unlock(&r->lock);
    if (entered)
        return WQ_OK;
    free(job);
    return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
}

static void remote_cancel(void *self, const wq_run *run)
{
    post_by_id(self, run->id, MAIL_CANCEL);
}

static void remote_interest(void *self, const wq_run *run)
{
    post_by_id(self, run->id, MAIL_INTEREST);
}

/* It stays at packagers that keep outputs where we do not see them. */
static void remote_removed(void *self, const wq_params *params, const char *key)
{
    remote *r = self;
    static const wq_stomp_header headers[] = {{"content-type", "text/plain"},
                                              {"persistent", "true"}};
    wq_error error;
    char *text = wq_job_message_text(key, params, 0);
    int result = WQ_ERROR_NO_MEMORY;
    if (text != NULL)
        result = wq_broker_send(r->broker, r->o.queue_delete, headers, 2, text, strlen(text),
                                on_told, NULL, &error);
    if (result != WQ_OK)
        wq_log(&r->logger, WQ_LOG_WARNING, "packagers are not told that an output was deleted: %s",
               text != NULL ? error.message : "out of memory");
    free(text);
}

static void free_strings(wq_stomp_options *o)
{
    free((char *)o->queue_package);
    free((char *)o->queue_reply);
    free((char *)o->queue_delete);
}

static void free_jobs(remote *r)
{
    remote_job *job;
    TAILQ_FOREACH(job, &r->mailed, link)
    if (job->mail.what & MAIL_NEW) /* the thread has not seen it */
        TAILQ_INSERT_TAIL(&r->jobs, job, all);
    while ((job = TAILQ_FIRST(&r->jobs)) != NULL) {
        TAILQ_REMOVE(&r->jobs, job, all);
        tdelete(job->id, &r->by_id, compare);
        unref(job);
    }
}

static void free_remote(remote *r)
{
    free_jobs(r);
    pthread_cond_destroy(&r->news);
    pthread_mutex_destroy(&r->lock);
    free_strings(&r->o);
    free(r);
}

static void remote_close(wq_runner *runner)
{
    remote *r = runner->self;
    pthread_mutex_lock(&r->lock);
    r->closing = 1;
    pthread_cond_broadcast(&r->news);
    pthread_mutex_unlock(&r->lock);
    if (r->has_thread)
        pthread_join(r->thread, NULL);
    if (r->fetcher != NULL)
        wq_fetcher_close(r->fetcher);
    wq_looker_close(r->looker);
    if (r->broker != NULL)
        wq_broker_close(r->broker);
    free_remote(r);
}

/* ---- opening --------------------------------------------------------------------------------- */

void wq_stomp_options_init(wq_stomp_options *options, size_t size)
{
    if (size != sizeof *options) {
        memset(options, 0, size);
        return;
    }
    *options = (wq_stomp_options){
        .size = size,
        .queue_package = "/queue/docsets%2Fpackage",
        .queue_reply = "/queue/package%2F{id}",
        .queue_delete = "/queue/docsets%2Fdelete",
        .heartbeat_ms = 10000,
        .reply_expires_ms = 1800000,
        .linger_ms = 10000,
        .check_ms = 60000,
        .resend_ms = 600000,
        .quiet_ms = 60000,
        .cancel_wait_ms = 10000,
        .max_in_flight = 1000,
    };
}

static int check_options(const wq_stomp_options *o, wq_error *error)
{
    const char *wrong = NULL;
    if (o->size != sizeof *o)
        wrong = "options are not initialised by wq_stomp_options_init()";
    else if (o->urls == NULL || *o->urls == '\0')
        wrong = "options: urls is missing";
    else if (!o->queue_package || !o->queue_reply || !o->queue_delete)
        wrong = "options: a destination is missing";
    else if (o->max_in_flight == 0 || o->max_in_flight > 100000)
        wrong = "options: max_in_flight must be from 1 to 100000";
    else if (o->reply_expires_ms < 1000 || o->check_ms >= o->reply_expires_ms)
        wrong = "options: reply_expires_ms must be at least 1000, and more than check_ms";
    if (wrong != NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "%s", wrong);
    return WQ_OK;
}

static int copy_options(remote *r, const wq_stomp_options *options)
{
    wq_stomp_options *o = &r->o;
    *o = *options;
    o->queue_package = strdup(options->queue_package);
    o->queue_reply = strdup(options->queue_reply);
    o->queue_delete = strdup(options->queue_delete);
    return o->queue_package && o->queue_reply && o->queue_delete ? 0 : -1;
}

static int open_broker(remote *r, const wq_stomp_options *options, wq_error *error)
{
    wq_broker_options o;
    wq_broker_options_init(&o);
    o.urls = options->urls;
    o.ca_file = options->ca_file;
    o.cert_file = options->cert_file;
    o.key_file = options->key_file;
    o.heartbeat_ms = options->heartbeat_ms;
    o.log = r->logger;
    o.connected = on_connected;
    o.disconnected = on_disconnected;
    o.user = r;
    return wq_broker_open(&r->broker, &o, error);
}

static void init(remote *r, const wq_stomp_options *options)
{
    pthread_mutex_init(&r->lock, NULL);
    wq_cond_init(&r->news);
    TAILQ_INIT(&r->mailed);
    TAILQ_INIT(&r->jobs);
    r->logger = (wq_logger){options->log, options->log_user};
    r->runner = (wq_runner){
        .self = r,
        .close = remote_close,
        .start = remote_start,
        .cancel = remote_cancel,
        .interest = remote_interest,
        .removed = remote_removed,
        .max_in_flight = options->max_in_flight,
    };
}

int wq_stomp_runner_open(wq_runner **out, const wq_stomp_options *options, wq_error *error)
{
    int result = check_options(options, error);
    if (result != WQ_OK)
        return result;
    remote *r = calloc(1, sizeof *r);
    if (r == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    init(r, options);
    if (copy_options(r, options) != 0)
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    else if ((result = wq_fetcher_open(&r->fetcher, FETCHERS, r->o.max_fetch_bytes, error)) ==
             WQ_OK) {
        if (r->o.store != NULL && r->o.store->shared != NULL)
            result = wq_looker_open(&r->looker, r->o.store, error);
        if (result == WQ_OK)
            result = open_broker(r, options, error);
    }
    if (result == WQ_OK) {
        r->has_thread = wq_thread_start(&r->thread, "wq-remote", thread_main, r) == 0;
        if (!r->has_thread)
            result = wq_fail(error, WQ_ERROR_NO_MEMORY, "cannot start a thread");
    }
    if (result == WQ_OK)
        *out = &r->runner;
    else
        remote_close(&r->runner);
    return result;
}
