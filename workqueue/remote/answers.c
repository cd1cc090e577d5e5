/* answers.c - who is told what.
 *
 * "Accepted" and the end are sent until the broker confirms them; progress is sent once. What gets
 * lost all the same the store knows. A broker that refuses a destination - it is the requester's
 * choice - breaks the connection each time, so nothing more is sent to one that it has refused.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/remote/packaging.h"

enum {
    MAX_HEADERS = 8,
    REFUSED_MS = 600000,            /* so long nothing is sent to what was refused */
    MAX_ASKERS = 1000,              /* of one run */
    REASON_BYTES = WQ_MESSAGE_BYTES /* servers read no longer messages */
};

requester *wq_requester_new(const char *id, const char *reply_to)
{
    requester *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    atomic_init(&r->refs, 1);
    snprintf(r->id, sizeof r->id, "%s", id);
    snprintf(r->reply_to, sizeof r->reply_to, "%s", reply_to);
    return r;
}

void wq_requester_unref(requester *r)
{
    if (r != NULL && atomic_fetch_sub(&r->refs, 1) == 1)
        free(r);
}

void wq_requester_join_locked(slot *s, const char *id, const char *reply_to)
{
    requester *r;
    unsigned n = 0;
    LIST_FOREACH(r, &s->askers, link)
    {
        if (strcmp(r->id, id) == 0 && strcmp(r->reply_to, reply_to) == 0) {
            r->is_told = 0; /* it asks again, so it has not heard */
            return;
        }
        n++;
    }
    if (n < MAX_ASKERS && (r = wq_requester_new(id, reply_to)) != NULL)
        LIST_INSERT_HEAD(&s->askers, r, link);
}

/* ---- saying ---------------------------------------------------------------------------------- */

static int is_refused(wq_packager *p, const char *to)
{
    int found = 0;
    int64_t since = wq_monotonic_ms() - REFUSED_MS;
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < MAX_REFUSED; i++)
        found |= p->refused[i].at > since && strcmp(p->refused[i].to, to) == 0;
    pthread_mutex_unlock(&p->lock);
    return found;
}

/* For all requests that name it, which may come again and again as what settles them is lost with
 * the connection. */
static void note_refused(wq_packager *p, const requester *r)
{
    wq_log(&p->logger, WQ_LOG_WARNING, "the broker refuses answers to %s", r->id);
    pthread_mutex_lock(&p->lock);
    struct refused *refused = &p->refused[p->next_refused++ % MAX_REFUSED];
    snprintf(refused->to, sizeof refused->to, "%s", r->reply_to);
    refused->at = wq_monotonic_ms();
    pthread_mutex_unlock(&p->lock);
}

static void on_told(void *user, int result, const char *why)
{
    requester *r = user;
    (void)why;
    if (result == WQ_ERROR_INVALID_ARGUMENT && !is_refused(r->packager, r->reply_to))
        note_refused(r->packager, r);
    wq_requester_unref(r);
}

static void tell_as(wq_packager *p, requester *to, const char *text, size_t len, int returncode,
                    const char *owner, uint64_t epoch, int is_sure)
{
    char alive[16], code[16], number[24], plain[WQ_DESTINATION_SIZE], inbox[WQ_DESTINATION_SIZE];
    size_t n = 0;
    wq_stomp_header headers[MAX_HEADERS];
    if (*to->reply_to == '\0' || is_refused(p, to->reply_to))
        return;
    snprintf(alive, sizeof alive, "%u", p->o.alive_ms);
    snprintf(code, sizeof code, "%d", returncode);
    snprintf(number, sizeof number, "%" PRIu64, epoch);
    headers[n++] = (wq_stomp_header){"content-type", "text/plain"};
    headers[n++] = (wq_stomp_header){"correlation-id", to->id};
    headers[n++] = (wq_stomp_header){"workqueue-packager", owner};
    headers[n++] = (wq_stomp_header){"workqueue-alive-ms", alive};
    if (wq_inbox(plain, sizeof plain, p->o.queue_reply, owner) == 0 &&
        wq_destination_for_others(inbox, sizeof inbox, plain, p->is_rabbitmq) == 0)
        headers[n++] = (wq_stomp_header){"workqueue-inbox", inbox};
    if (epoch != 0)
        headers[n++] = (wq_stomp_header){"workqueue-epoch", number};
    if (returncode != 0)
        headers[n++] = (wq_stomp_header){"workqueue-returncode", code};
    if (is_sure)
        headers[n++] = (wq_stomp_header){"persistent", "true"};
    if (is_sure) {
        to->packager = p;
        atomic_fetch_add(&to->refs, 1);
    }
    if (wq_broker_send(p->broker, to->reply_to, headers, n, text, len, is_sure ? on_told : NULL, to,
                       NULL) != WQ_OK &&
        is_sure)
        wq_requester_unref(to);
}

void wq_tell(wq_packager *p, requester *to, const char *text, size_t len, int returncode,
             uint64_t epoch, int is_sure)
{
    tell_as(p, to, text, len, returncode, p->name, epoch, is_sure);
}

void wq_tell_accepted(wq_packager *p, requester *to, uint64_t estimate_ms, const char *owner,
                      uint64_t epoch)
{
    char text[64];
    size_t n = wq_reply_accepted(text, sizeof text, estimate_ms);
    tell_as(p, to, text, n, 0, owner, epoch, 1);
}

void wq_tell_record(wq_packager *p, requester *to, const char *key, const wq_record *record,
                    const char *why)
{
    char url[4096];
    if (record->state == WQ_DONE_WELL) {
        char text[4200];
        snprintf(url, sizeof url, "%s%s", p->o.url_base, key);
        size_t n = wq_reply_complete(text, sizeof text, url, record->size_bytes);
        wq_tell(p, to, text, n < sizeof text ? n : sizeof text - 1, 0, record->epoch, 1);
        return;
    }
    size_t n = wq_reply_failed(NULL, 0, why);
    size_t size = n < REASON_BYTES ? n + 1 : REASON_BYTES;
    char *text = malloc(size);
    if (text == NULL)
        return; /* whoever asks again is told then */
    wq_reply_failed(text, size, why);
    wq_tell(p, to, text, strlen(text), record->returncode, record->epoch, 1);
    free(text);
}

void wq_tell_hint(wq_packager *p, const char *owner, const wq_hint *hint)
{
    static const wq_stomp_header headers[] = {{"content-type", "text/plain"}};
    char text[4096], plain[WQ_DESTINATION_SIZE], to[WQ_DESTINATION_SIZE];
    size_t n = wq_hint_text(text, sizeof text, hint);
    if (n < sizeof text && wq_inbox(plain, sizeof plain, p->o.queue_reply, owner) == 0 &&
        wq_destination_for_others(to, sizeof to, plain, p->is_rabbitmq) == 0)
        wq_broker_send(p->broker, to, headers, 1, text, n, NULL, NULL, NULL);
}
