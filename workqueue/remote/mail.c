/* mail.c - what comes for a job, from the broker's thread, the queue's, and those who look: put
 * into the job's mail for the server's thread. Of progress the mail keeps the latest line, so it is
 * bounded however fast a packager talks. */
#include "workqueue/remote/serving.h"

int wq_remote_compare(const void *a, const void *b)
{
    return strcmp(a, b); /* a job begins with its id */
}

void wq_remote_free_mail(mail *m)
{
    free(m->line);
    free(m->text);
    free(m->delivery);
}

void wq_remote_unref(remote_job *job)
{
    if (atomic_fetch_sub(&job->refs, 1) != 1)
        return;
    wq_remote_free_mail(&job->mail);
    free((char *)job->fetch.url);
    free(job->look.why);
    free(job->delivery);
    free(job);
}

/* ---- mail ------------------------------------------------------------------------------------ */

void wq_remote_post_locked(remote *r, remote_job *job, unsigned what)
{
    job->mail.what |= what;
    if (job->has_mail || job->is_over)
        return;
    job->has_mail = 1;
    TAILQ_INSERT_TAIL(&r->mailed, job, link);
    pthread_cond_signal(&r->news);
}

void wq_remote_post_by_id(remote *r, const char *id, unsigned what)
{
    pthread_mutex_lock(&r->lock);
    remote_job **found = tfind(id, &r->by_id, wq_remote_compare);
    if (found != NULL)
        wq_remote_post_locked(r, *found, what);
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
void wq_remote_settle(remote *r, wq_delivery *delivery)
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
void wq_remote_on_reply(void *user, const wq_broker_message *message)
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
    wq_remote_post_locked(r, job, MAIL_HEARD);
    pthread_mutex_unlock(&r->lock);
    wq_remote_settle(r, old);
}

void wq_remote_on_refused(void *user, const char *why)
{
    remote_job *job = user;
    remote *r = job->remote;
    pthread_mutex_lock(&r->lock);
    wq_fail(&job->mail.error, WQ_ERROR_INVALID_ARGUMENT, "the broker refuses: %s", why);
    wq_remote_post_locked(r, job, MAIL_REFUSED);
    pthread_mutex_unlock(&r->lock);
}

/* A job has been confirmed by the broker, or refused. */
void wq_remote_on_sent(void *user, int result, const char *why)
{
    remote_job *job = user;
    if (result == WQ_ERROR_INVALID_ARGUMENT)
        wq_remote_on_refused(job, why);
    wq_remote_unref(job);
}

void wq_remote_on_connected(void *user, uint64_t generation, const char *server)
{
    remote *r = user;
    (void)generation;
    pthread_mutex_lock(&r->lock);
    r->is_connected = r->has_connected = 1;
    r->met_rabbitmq = server != NULL && strncmp(server, "RabbitMQ", 8) == 0;
    pthread_cond_signal(&r->news);
    pthread_mutex_unlock(&r->lock);
}

void wq_remote_on_disconnected(void *user, const char *why)
{
    remote *r = user;
    (void)why;
    pthread_mutex_lock(&r->lock);
    r->is_connected = 0;
    pthread_mutex_unlock(&r->lock);
}
