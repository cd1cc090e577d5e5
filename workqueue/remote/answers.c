/* answers.c - who is told what, until the broker has it; what became of earlier requests.
 *
 * "Accepted" and the end are sent until the broker confirms them; progress is sent once, and only
 * to who has been sent the former. A broker that refuses a destination - it is the requester's
 * choice - breaks the connection each time, so nothing more is sent to one that it has refused.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/remote/packaging.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"

enum {
    MAX_HEADERS = 6,
    MAX_REQUESTERS = 1000, /* of one run */
    REMEMBERED_MS = 600000,
    REMEMBERED_BYTES = 4096,        /* of the last message */
    REASON_BYTES = WQ_MESSAGE_BYTES /* servers read no longer messages */
};

/* ---- requesters ------------------------------------------------------------------------------ */

void wq_requester_drop(work *w, requester *r)
{
    LIST_REMOVE(r, link);
    w->n_requesters--;
    free(r);
}

requester *wq_requester_add(work *w, const char *id, const char *reply_to)
{
    requester *r = w->n_requesters < MAX_REQUESTERS ? calloc(1, sizeof *r) : NULL;
    if (r == NULL)
        return NULL;
    snprintf(r->id, sizeof r->id, "%s", id);
    snprintf(r->reply_to, sizeof r->reply_to, "%s", reply_to);
    r->hears = *reply_to != '\0' ? UNTOLD : DEAF;
    LIST_INSERT_HEAD(&w->requesters, r, link);
    w->n_requesters++;
    return r;
}

requester *wq_requester_find(const work *w, const char *id)
{
    requester *r;
    LIST_FOREACH(r, &w->requesters, link)
    if (strcmp(r->id, id) == 0)
        return r;
    return NULL;
}

/* ---- saying ---------------------------------------------------------------------------------- */

typedef struct answer {
    const char *id, *to, *text;
    size_t len;
    int returncode;
    wq_sent_cb done; /* NULL: it is sent once */
    void *user;
} answer;

static int say(wq_packager *p, const answer *a)
{
    char alive[16], code[16];
    size_t n = 0;
    wq_stomp_header headers[MAX_HEADERS];
    if (*a->to == '\0')
        return WQ_ERROR_INVALID_ARGUMENT;
    snprintf(alive, sizeof alive, "%u", p->o.alive_ms);
    snprintf(code, sizeof code, "%d", a->returncode);
    headers[n++] = (wq_stomp_header){"content-type", "text/plain"};
    headers[n++] = (wq_stomp_header){"correlation-id", a->id};
    headers[n++] = (wq_stomp_header){"workqueue-packager", p->name};
    headers[n++] = (wq_stomp_header){"workqueue-alive-ms", alive};
    if (a->returncode != 0)
        headers[n++] = (wq_stomp_header){"workqueue-returncode", code};
    if (a->done != NULL)
        headers[n++] = (wq_stomp_header){"persistent", "true"};
    return wq_broker_send(p->broker, a->to, headers, n, a->text, a->len, a->done, a->user, NULL);
}

/* The event was made when it was sent, so that none can be missing now. */
static void on_sent(void *user, int result, const char *why)
{
    event *e = user;
    (void)why;
    e->result = result;
    wq_event_put(e);
}

/* Until the broker has it; then wq_take_sent(). */
static int say_surely(wq_packager *p, const work *w, const requester *to, const char *text,
                      size_t len, int is_end)
{
    event *sent = wq_event_new(p, EVENT_SENT, NULL);
    if (sent == NULL)
        return WQ_ERROR_NO_MEMORY;
    memcpy(sent->key, w->key, sizeof sent->key);
    memcpy(sent->id, to->id, sizeof sent->id);
    sent->is_end = is_end;
    const answer a = {to->id, to->reply_to, text, len, is_end ? w->returncode : 0, on_sent, sent};
    int result = say(p, &a);
    if (result != WQ_OK)
        wq_event_free(sent);
    return result;
}

static void on_nothing(void *user, int result, const char *why)
{
    (void)user, (void)result, (void)why;
}

void wq_tell_stranger(wq_packager *p, const char *id, const char *reply_to, const char *text,
                      int returncode)
{
    const answer a = {id, reply_to, text, strlen(text), returncode, on_nothing, NULL};
    say(p, &a);
}

static size_t make_accepted(char *buf, size_t size, const work *w)
{
    return wq_reply_accepted(buf, size, w->job != NULL ? wq_job_estimate_ms(w->job) : 0);
}

static void say_line(wq_packager *p, const work *w, const requester *to)
{
    char text[64];
    answer a = {to->id, to->reply_to, w->line, w->line_len, 0, NULL, NULL};
    if (w->line_len == 0) {
        a.text = text;
        a.len = make_accepted(text, sizeof text, w);
    }
    say(p, &a);
}

/* What follows it on the same connection is as good as confirmed. */
void wq_tell_accepted(wq_packager *p, work *w, requester *to)
{
    char text[64];
    if (to->hears == UNTOLD) {
        size_t n = make_accepted(text, sizeof text, w);
        if (say_surely(p, w, to, text, n, 0) == WQ_OK)
            to->hears = BEING_TOLD;
        if (w->line_len == 0)
            return;
    }
    if (to->hears == TOLD || to->hears == BEING_TOLD)
        say_line(p, w, to);
}

void wq_tell_alive(wq_packager *p, work *w)
{
    requester *to;
    w->told_at = wq_monotonic_ms();
    LIST_FOREACH(to, &w->requesters, link)
    if (to->hears == TOLD || to->hears == BEING_TOLD)
        say_line(p, w, to);
}

void wq_tell_line(wq_packager *p, work *w)
{
    requester *to;
    w->told_at = wq_monotonic_ms();
    w->has_line = 0;
    LIST_FOREACH(to, &w->requesters, link)
    wq_tell_accepted(p, w, to);
}

/* What it tells is known to be on its way when this returns, so the requester is forgotten. */
void wq_tell_cancelled(wq_packager *p, work *w, requester *to)
{
    wq_remember(p, to->id, "Cancelled\n", 0);
    if (to->hears != DEAF)
        wq_tell_stranger(p, to->id, to->reply_to, "Cancelled\n", 0);
    wq_requester_drop(w, to);
}

/* ---- the end --------------------------------------------------------------------------------- */

void wq_tell_rest(wq_packager *p, work *w)
{
    size_t len = strlen(w->end_text);
    requester *to = LIST_FIRST(&w->requesters), *next;
    w->told_at = wq_monotonic_ms();
    for (; to != NULL; to = next) {
        next = LIST_NEXT(to, link);
        if (to->end_sent)
            continue;
        int result = to->hears != DEAF ? say_surely(p, w, to, w->end_text, len, 1)
                                       : WQ_ERROR_INVALID_ARGUMENT;
        if (result == WQ_ERROR_INVALID_ARGUMENT)
            wq_requester_drop(w, to);
        else
            to->end_sent = result == WQ_OK;
    }
    if (w->n_requesters == 0)
        wq_work_end(p, w);
}

/* Takes over `text`; NULL: no memory, and then there is nothing to be told, and the broker delivers
 * the job again with its next connection. */
static void tell_end(wq_packager *p, work *w, char *text, int returncode)
{
    const requester *to;
    if (text == NULL) {
        wq_claim_later(w);
        return;
    }
    w->phase = ENDING;
    w->end_text = text;
    w->returncode = returncode;
    LIST_FOREACH(to, &w->requesters, link)
    if (!w->message.plain)
        wq_remember(p, to->id, text, returncode);
    wq_tell_rest(p, w);
}

void wq_tell_complete(wq_packager *p, work *w, uint64_t size_bytes)
{
    char url[4096];
    snprintf(url, sizeof url, "%s%s", p->o.url_base, w->key);
    size_t n = wq_reply_complete(NULL, 0, url, size_bytes);
    char *text = malloc(n + 1);
    if (text != NULL)
        wq_reply_complete(text, n + 1, url, size_bytes);
    tell_end(p, w, text, 0);
}

void wq_tell_failed(wq_packager *p, work *w, const char *reason, int returncode)
{
    size_t n = wq_reply_failed(NULL, 0, reason);
    size_t size = n < REASON_BYTES ? n + 1 : REASON_BYTES;
    char *text = malloc(size);
    if (text != NULL)
        wq_reply_failed(text, size, reason);
    tell_end(p, w, text, returncode);
}

static void take_sent_end(wq_packager *p, work *w, requester *r)
{
    wq_requester_drop(w, r);
    if (w->phase == ENDING && w->n_requesters == 0)
        wq_work_end(p, w);
}

void wq_take_sent(wq_packager *p, const event *e)
{
    requester *r;
    work *w = wq_work_by_id(p, e->id, e->key, &r);
    if (e->result == WQ_ERROR_INVALID_ARGUMENT)
        wq_log(&p->logger, WQ_LOG_WARNING, "the broker refuses answers to %s", e->id);
    if (w == NULL || e->result == WQ_ERROR_CLOSING)
        return;
    if (e->is_end) {
        take_sent_end(p, w, r);
    } else if (r->hears == BEING_TOLD) {
        r->hears = e->result == WQ_OK ? TOLD : DEAF;
    }
}

/* ---- memories -------------------------------------------------------------------------------- */

const memory *wq_recall(wq_packager *p, const char *id)
{
    int64_t now = wq_monotonic_ms();
    for (unsigned i = 0; i < REMEMBERED; i++) {
        const memory *m = &p->memories[i];
        if (m->at != 0 && now - m->at < REMEMBERED_MS && strcmp(m->id, id) == 0)
            return m;
    }
    return NULL;
}

void wq_remember(wq_packager *p, const char *id, const char *text, int returncode)
{
    const memory *known = wq_recall(p, id);
    unsigned i = known != NULL ? (unsigned)(known - p->memories) : p->next_memory;
    memory *m = &p->memories[i];
    if (known == NULL)
        p->next_memory = (p->next_memory + 1) % REMEMBERED;
    free(m->text);
    *m = (memory){.at = wq_monotonic_ms(),
                  .returncode = returncode,
                  .text = text != NULL ? strndup(text, REMEMBERED_BYTES) : NULL};
    snprintf(m->id, sizeof m->id, "%s", id);
}
