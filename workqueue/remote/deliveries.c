/* deliveries.c - messages that come: jobs and deletions, new ones, repeated ones, and what is none.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/remote/packaging.h"
#include "workqueue/util/log.h"

/* A stranger may name any destination to be answered at, but not make us talk to ourselves. */
static int is_good_reply_to(const wq_packager *p, const char *to)
{
    const char *const ours[] = {p->o.queue_package, p->o.queue_delete, p->o.topic};
    const char *plain = strncmp(to, "/amq/", 5) == 0 ? to + 4 : to;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcmp(plain, ours[i]) == 0)
            return 0;
    return *to == '/';
}

static int choose_reply_to(const wq_packager *p, const event *e, const char *id, char *buf,
                           size_t size)
{
    if (is_good_reply_to(p, e->reply_to))
        return snprintf(buf, size, "%s", e->reply_to) < (int)size ? 0 : -1;
    return *id != '\0' && wq_destination(buf, size, p->o.queue_reply, id) == WQ_OK ? 0 : -1;
}

/* Settled first: if the broker refuses the answer, it does so by ending the connection. */
static void refuse(wq_packager *p, const event *e, const char *id, const char *why)
{
    char text[600], reply_to[WQ_DESTINATION_SIZE];
    wq_log(&p->logger, WQ_LOG_WARNING, "a message is no job: %s", why);
    wq_broker_ack(p->broker, e->delivery, NULL);
    if (choose_reply_to(p, e, id, reply_to, sizeof reply_to) != 0)
        return;
    wq_reply_failed(text, sizeof text, why);
    wq_tell_stranger(p, *id ? id : "-", reply_to, text, -999);
}

/* Reads a job or a deletion; -1: it was refused. */
static int read_message(wq_packager *p, const event *e, wq_job_message *message)
{
    wq_error error = {.message = "it is too long"};
    memset(message, 0, sizeof *message);
    if (!e->is_cut && wq_job_message_read(message, e->body, e->len, &error) == WQ_OK)
        return 0;
    refuse(p, e, message->id, error.message);
    return -1;
}

/* NULL: no memory; the broker delivers it again with the next connection. Takes over the message
 * and the delivery. */
static work *new_work(wq_packager *p, event *e, const wq_job_message *message, const char *key,
                      const char *reply_to)
{
    work *w = calloc(1, sizeof *w);
    if (w == NULL)
        return NULL;
    LIST_INIT(&w->requesters);
    w->packager = p;
    w->slot = e->slot;
    w->is_redelivered = e->is_redelivered;
    w->body = malloc(e->len + 1);
    w->body_len = e->len;
    if (w->body == NULL || wq_requester_add(w, message->id, reply_to) == NULL) {
        wq_work_free(w);
        return NULL;
    }
    memcpy(w->body, e->body, e->len);
    memcpy(w->reply_to, e->reply_to, sizeof w->reply_to);
    memcpy(w->key, key, sizeof w->key);
    w->message = *message;
    w->delivery = e->delivery;
    e->delivery = NULL;
    return w;
}

/* One that has ended, or was cancelled: it is answered as it was, and settled. What is known of the
 * id of a plain message may be of another one with the same id. */
static int is_over(wq_packager *p, const event *e, const wq_job_message *message,
                   const char *reply_to)
{
    const memory *m = message->plain ? NULL : wq_recall(p, message->id);
    if (m == NULL)
        return 0;
    wq_broker_ack(p->broker, e->delivery, NULL);
    wq_tell_stranger(p, message->id, reply_to, m->text ? m->text : "Cancelled\n", m->returncode);
    return 1;
}

/* One that we are at. If its own delivery has ended with its connection this one takes its place;
 * else this one is settled. */
static int is_under_way(wq_packager *p, event *e, const char *id, const char *key)
{
    requester *r;
    work *w = wq_work_by_id(p, id, key, &r);
    if (w == NULL)
        return 0;
    if (strcmp(w->message.id, id) == 0 && !wq_work_is_held(p, w)) {
        free(w->delivery);
        w->delivery = e->delivery;
        e->delivery = NULL;
        w->slot = e->slot;
    } else {
        wq_broker_ack(p->broker, e->delivery, NULL);
    }
    if (w->phase == RUNNING || w->phase == FINISHING)
        wq_tell_accepted(p, w, r);
    return 1;
}

/* Somebody else asks for what we are at. A run that has begun is not what a rebuild asks for. */
static int take_along(wq_packager *p, const event *e, const wq_job_message *message,
                      const char *key, const char *reply_to)
{
    requester *r;
    work *w = wq_work_by_key(p, key);
    if (w == NULL || w->phase == ENDING || w->is_cancelled ||
        (message->rebuild && !(w->message.rebuild && w->phase == CLAIMING)) ||
        (r = wq_requester_add(w, message->id, reply_to)) == NULL)
        return 0;
    /* Before it is settled: one that was promised signs of life misses them if we die. */
    wq_tell_accepted(p, w, r);
    wq_broker_ack(p->broker, e->delivery, NULL);
    return 1;
}

/* 0: `message` has been taken over. */
static int begin_work(wq_packager *p, event *e, const wq_job_message *message, const char *key,
                      const char *reply_to)
{
    int is_ours = wq_work_by_key(p, key) != NULL;
    work *w = new_work(p, e, message, key, reply_to);
    if (w == NULL)
        return -1;
    LIST_INSERT_HEAD(&p->works, w, link);
    if (is_ours)
        wq_work_ask(p, w); /* the queue keeps them apart */
    else
        wq_claim_first(p, w);
    return 0;
}

void wq_take_job(wq_packager *p, event *e)
{
    wq_job_message message;
    char key[WQ_KEY_SIZE], reply_to[WQ_DESTINATION_SIZE];
    if (p->closing || read_message(p, e, &message) != 0)
        return;
    if (choose_reply_to(p, e, message.id, reply_to, sizeof reply_to) != 0)
        refuse(p, e, "", "its id is too long to be answered at");
    else if (wq_params_key(&message.params, key) == WQ_OK && !is_under_way(p, e, message.id, key) &&
             !is_over(p, e, &message, reply_to) && !take_along(p, e, &message, key, reply_to) &&
             begin_work(p, e, &message, key, reply_to) == 0)
        return;
    wq_job_message_clear(&message);
}

void wq_take_delete(wq_packager *p, event *e)
{
    wq_job_message message;
    if (p->closing || read_message(p, e, &message) != 0)
        return;
    deletion *d = calloc(1, sizeof *d);
    if (d == NULL) {
        wq_job_message_clear(&message);
        return;
    }
    d->message = message;
    d->delivery = e->delivery;
    e->delivery = NULL;
    wq_clerk_delete(p, d);
}
