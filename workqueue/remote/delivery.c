/* delivery.c - what becomes of a delivery, on its slot's thread, from top to bottom.
 *
 *     cancelled?                      told so, settled
 *     the store knows an end of it    told that, settled
 *     nobody runs its key             this slot does: running.c
 *     it runs, here or elsewhere      its owner hears who asks; then it is put off: a copy goes to
 *                                     a queue that gives it back after a while, and it is settled
 *     the store is away               put off, and the slot takes nothing until the store is back
 *
 * So no delivery is held for another's run, and none is lost: a copy is confirmed before its
 * original is settled. Where a broker cannot give back later what it was sent, the slot holds the
 * delivery.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/remote/packaging.h"

enum {
    AWAY_MS = 1000, /* between two looks whether the store is back */
    COPY_MS = 3000, /* until a copy is confirmed; one that is confirmed later is one too many */
};

/* ---- putting off ----------------------------------------------------------------------------- */

/* A copy that is on its way to the broker. */
typedef struct copy {
    slot *slot;
    atomic_uint refs;
    atomic_int result, is_known;
} copy;

static void unref_copy(copy *c)
{
    if (atomic_fetch_sub(&c->refs, 1) == 1)
        free(c);
}

static void on_copied(void *user, int result, const char *why)
{
    copy *c = user;
    (void)why;
    c->result = result;
    c->is_known = 1;
    if (atomic_load(&c->refs) > 1)
        wq_slot_wake(c->slot);
    unref_copy(c);
}

/* The queue that gives back, and the name of the one that it gives back to, without "/queue/" and
 * decoded. -1: the package queue has no plain name. */
static int name_wait_queue(const wq_packager *p, char *wait, char *back, size_t size)
{
    const char *name = p->o.queue_package;
    if (strncmp(name, "/amq/queue/", 11) == 0)
        name += 11;
    else if (strncmp(name, "/queue/", 7) == 0)
        name += 7;
    else
        return -1;
    if (snprintf(wait, size, "/queue/%s.wait-%u", name, p->o.put_off_ms) >= (int)size)
        return -1;
    size_t n = 0;
    for (; *name != '\0' && n + 1 < size; name++) {
        unsigned byte;
        if (*name == '%' && sscanf(name + 1, "%2x", &byte) == 1) {
            back[n++] = (char)byte;
            name += 2;
        } else {
            back[n++] = *name;
        }
    }
    back[n] = '\0';
    return *name == '\0' ? 0 : -1;
}

static int send_copy(wq_packager *p, const work *w, copy *c)
{
    char wait[WQ_DESTINATION_SIZE], back[WQ_DESTINATION_SIZE], ttl[16], need[24];
    wq_stomp_header headers[10];
    size_t n = 0;
    if (name_wait_queue(p, wait, back, sizeof wait) != 0)
        return -1;
    snprintf(ttl, sizeof ttl, "%u", p->o.put_off_ms);
    snprintf(need, sizeof need, "%" PRIu64, w->need);
    headers[n++] = (wq_stomp_header){"content-type", "text/plain"};
    headers[n++] = (wq_stomp_header){"persistent", "true"};
    headers[n++] = (wq_stomp_header){"x-message-ttl", ttl};
    headers[n++] = (wq_stomp_header){"x-dead-letter-exchange", ""};
    headers[n++] = (wq_stomp_header){"x-dead-letter-routing-key", back};
    headers[n++] = (wq_stomp_header){"workqueue-need", need};
    if (*w->came->reply_to != '\0')
        headers[n++] = (wq_stomp_header){"reply-to", w->came->reply_to};
    if (*w->came->traceparent != '\0')
        headers[n++] = (wq_stomp_header){"traceparent", w->came->traceparent};
    atomic_fetch_add(&c->refs, 1);
    if (wq_broker_send(p->broker, wait, headers, n, w->came->body, w->came->len, on_copied, c,
                       NULL) == WQ_OK)
        return 0;
    atomic_fetch_sub(&c->refs, 1);
    return -1;
}

/* Settles the delivery, and the subscription takes no other. */
static void take_last(slot *s, work *w)
{
    wq_packager *p = s->packager;
    if (s->subscription == NULL ||
        wq_broker_take_last(s->subscription, w->came->at, NULL, NULL, NULL) == WQ_OK) {
        s->subscription = NULL;
        return;
    }
    wq_broker_ack(p->broker, w->came->at, NULL);
    wq_broker_unsubscribe(s->subscription);
    s->subscription = NULL;
}

int wq_put_off(slot *s, work *w, int goes_on)
{
    wq_packager *p = s->packager;
    copy *c = p->is_rabbitmq && !w->is_off ? calloc(1, sizeof *c) : NULL;
    if (c == NULL)
        return w->is_off ? 0 : -1;
    c->slot = s;
    atomic_init(&c->refs, 1);
    int64_t until = wq_monotonic_ms() + COPY_MS;
    int sent = send_copy(p, w, c);
    while (sent == 0 && !c->is_known && !p->closing && wq_monotonic_ms() < until)
        wq_slot_wait(s, AWAY_MS);
    int ok = sent == 0 && c->is_known && c->result == WQ_OK;
    unref_copy(c);
    if (!ok)
        return -1;
    p->put_off++;
    w->is_off = 1;
    if (goes_on && !wq_packager_is_stopping(p))
        wq_broker_ack(p->broker, w->came->at, NULL);
    else
        take_last(s, w);
    return 0;
}

void wq_work_settle(slot *s, work *w)
{
    if (w->is_off)
        return;
    w->is_off = 1;
    if (wq_packager_is_stopping(s->packager))
        take_last(s, w);
    else
        wq_broker_ack(s->packager->broker, w->came->at, NULL);
}

/* ---- what is no job -------------------------------------------------------------------------- */

/* A stranger may name any destination to be answered at, but not make us talk to ourselves. */
static int is_good_reply_to(const wq_packager *p, const char *to)
{
    const char *const ours[] = {p->o.queue_package, p->o.queue_delete};
    const char *plain = strncmp(to, "/amq/", 5) == 0 ? to + 4 : to;
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++)
        if (strcmp(plain, ours[i]) == 0)
            return 0;
    return *to == '/';
}

static int choose_reply_to(const wq_packager *p, const delivery *came, const char *id, char *buf,
                           size_t size)
{
    if (is_good_reply_to(p, came->reply_to))
        return snprintf(buf, size, "%s", came->reply_to) < (int)size ? 0 : -1;
    return *id != '\0' && wq_destination(buf, size, p->o.queue_reply, id) == WQ_OK ? 0 : -1;
}

/* To the dead letters, where the broker has such; settled before the answer: if the broker refuses
 * that, it does so by ending the connection. */
static void refuse_message(wq_packager *p, const delivery *came, const char *id, const char *why)
{
    char text[600], reply_to[WQ_DESTINATION_SIZE];
    wq_log(&p->logger, WQ_LOG_WARNING, "a message is no job, and goes to the dead letters: %s",
           why);
    p->dead_letters++;
    wq_broker_nack(p->broker, came->at, 0, NULL);
    if (choose_reply_to(p, came, id, reply_to, sizeof reply_to) != 0)
        return;
    requester *to = wq_requester_new(*id ? id : "-", reply_to);
    if (to == NULL)
        return;
    wq_reply_failed(text, sizeof text, why);
    wq_tell(p, to, text, strlen(text), WQ_RETURNCODE_OURS, 0, 1);
    wq_requester_unref(to);
}

/* Reads a job or a deletion; -1: it was refused. */
static int read_message(wq_packager *p, const delivery *came, wq_job_message *message)
{
    wq_error error = {.message = "it is too long"};
    memset(message, 0, sizeof *message);
    if (!came->is_cut && wq_job_message_read(message, came->body, came->len, &error) == WQ_OK)
        return 0;
    refuse_message(p, came, message->id, error.message);
    return -1;
}

/* ---- a job ----------------------------------------------------------------------------------- */

static void tell_cancelled(wq_packager *p, const work *w)
{
    requester *to = wq_requester_new(w->message.id, w->reply_to);
    if (to == NULL)
        return;
    wq_tell(p, to, "Cancelled\n", strlen("Cancelled\n"), 0, 0, 1);
    wq_requester_unref(to);
    p->cancelled++;
}

static void tell_end(wq_packager *p, const work *w, const wq_record *record, const char *why)
{
    requester *to = wq_requester_new(w->message.id, w->reply_to);
    if (to != NULL)
        wq_tell_record(p, to, w->key, record, why != NULL ? why : "failed");
    wq_requester_unref(to);
}

/* Its owner hears who asks; one that does not listen any more hears nothing, and that is all. */
static void tell_owner(slot *s, const work *w, const wq_record *record)
{
    wq_packager *p = s->packager;
    wq_hint hint = {.kind = WQ_HINT_JOIN};
    requester *to = wq_requester_new(w->message.id, w->reply_to);
    if (to != NULL)
        wq_tell_accepted(p, to, 0, record->owner, record->epoch);
    wq_requester_unref(to);
    memcpy(hint.key, w->key, sizeof hint.key);
    snprintf(hint.id, sizeof hint.id, "%s", w->message.id);
    snprintf(hint.reply_to, sizeof hint.reply_to, "%s", w->reply_to);
    if (strcmp(record->owner, p->name) != 0) {
        wq_tell_hint(p, record->owner, &hint);
        return;
    }
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < p->o.workers; i++)
        if (strcmp(p->slots[i].key, w->key) == 0) {
            wq_requester_join_locked(&p->slots[i], hint.id, hint.reply_to);
            p->slots[i].has_news = 1;
            pthread_cond_signal(&p->slots[i].news);
        }
    pthread_mutex_unlock(&p->lock);
}

/* Gives the request to others and takes nothing until the store is back. */
static void stand_aside(slot *s, work *w, const wq_error *error)
{
    wq_packager *p = s->packager;
    char text[WQ_SHARED_TEXT_SIZE], tag[WQ_TAG_SIZE];
    wq_error ignored;
    if (!atomic_exchange(&p->is_away, 1))
        wq_log(&p->logger, WQ_LOG_WARNING, "no jobs are taken until the store can be used: %s",
               error->message);
    wq_put_off(s, w, 0);
    int result = WQ_ERROR_AWAY;
    while (!wq_packager_is_stopping(p) && result != WQ_OK && result != WQ_ERROR_NOT_FOUND) {
        wq_slot_wait(s, AWAY_MS);
        result = p->o.store->shared->get(p->o.store->self, ".probe/none", text, tag, &ignored);
    }
    if (!wq_packager_is_stopping(p) && atomic_exchange(&p->is_away, 0))
        wq_log(&p->logger, WQ_LOG_INFO, "the store can be used again");
}

static void lost_lease_of(void *user)
{
    wq_slot_wake(user);
}

/* One look; nonzero if there is to be another. */
static int consider(slot *s, work *w)
{
    wq_packager *p = s->packager;
    wq_lease *lease;
    wq_record record;
    wq_error error = {0};
    char *why;
    if (!w->message.plain && wq_cancel_is_marked(p->o.store, w->message.id)) {
        tell_cancelled(p, w);
        wq_work_settle(s, w);
        return 0;
    }
    wq_claim claim = {.key = w->key,
                      .id = w->message.id,
                      .params = &w->message.params,
                      .rebuild = w->message.rebuild,
                      .need = w->need,
                      .renewed = wq_look_for_cancels,
                      .lost = lost_lease_of,
                      .user = s};
    wq_claimed claimed = wq_lease_take(p->leases, &claim, &lease, &record, &why, &error);
    w->need = claim.need;
    switch (claimed) {
    case WQ_CLAIMED:
        wq_run_work(s, w, lease);
        break;
    case WQ_CLAIM_ANSWERED:
        tell_end(p, w, &record, why);
        wq_work_settle(s, w);
        break;
    case WQ_CLAIM_ELSEWHERE:
        if (*record.owner != '\0')
            tell_owner(s, w, &record);
        if (wq_put_off(s, w, 1) != 0)
            wq_slot_wait(s, p->o.put_off_ms);
        break;
    case WQ_CLAIM_AWAY:
        stand_aside(s, w, &error);
        break;
    }
    free(why);
    return !w->is_off;
}

void wq_take_job(slot *s, delivery *came)
{
    wq_packager *p = s->packager;
    work w = {.came = came, .need = came->need};
    if (read_message(p, came, &w.message) != 0)
        return;
    if (choose_reply_to(p, came, w.message.id, w.reply_to, sizeof w.reply_to) != 0)
        refuse_message(p, came, "", "its id is too long to be answered at");
    else if (wq_params_key(&w.message.params, w.key) == WQ_OK)
        while (!wq_packager_is_stopping(p) && consider(s, &w))
            continue;
    wq_job_message_clear(&w.message);
}

/* ---- a deletion ------------------------------------------------------------------------------ */

/* What is not there is deleted too. What could not be deleted as the store is away, and we stop, is
 * not settled, so that others do it. */
void wq_take_deletion(slot *s, delivery *came)
{
    wq_packager *p = s->packager;
    wq_job_message message;
    wq_error error;
    int result;
    if (read_message(p, came, &message) != 0)
        return;
    while ((result = wq_output_delete(p->queue, &message.params, &error)) == WQ_ERROR_AWAY &&
           !wq_packager_is_stopping(p))
        wq_slot_wait(s, AWAY_MS);
    if (result != WQ_OK && result != WQ_ERROR_NOT_FOUND)
        wq_log(&p->logger, WQ_LOG_WARNING, "an output could not be deleted: %s", error.message);
    if (result != WQ_ERROR_AWAY)
        wq_broker_ack(p->broker, came->at, NULL);
    wq_job_message_clear(&message);
}
