/* claims.c - who runs a key: what packagers tell each other on the topic that all of them hear.
 *
 * Before a key is run it is claimed. Whoever runs it already answers that it is owned; then the
 * request joins that run, and its delivery is settled once the owner knows of it. Of two that claim
 * at the same time the lower nonce wins, and says so. A key is thus run once while broker and
 * packagers are well; if two run it all the same, the store takes one output of them.
 *
 * A claim that nobody objects to within claim_ms, counted from when it came back to the claimer, is
 * granted: by then all others have had it too. They get more time where all is slow, as the echo
 * shows, and where one may be about to come back: after a connection broke, and when the broker
 * says that it has delivered the job before.
 */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "workqueue/remote/packaging.h"
#include "workqueue/util/clocks.h"

enum {
    CLAIM_TRIES = 3,       /* without an echo, before it is run all the same */
    CLAIM_WAIT_MS = 2000,  /* for an echo, for the owner's word, for a store */
    ECHOES = 4,            /* a claim takes at least as long as so many echoes */
    REPEAT_MS = 250,       /* for those who come later, and when a join may have come too late */
    YOUNG_MS = 3000,       /* after a connection broke others may still be on their way, so they
                              get this long to object */
    REDELIVERED_MS = 1000, /* likewise whoever had the job before, if only its connection broke */
    NONCES = 1000000000    /* squared: what the text can carry */
};

/* ---- saying ---------------------------------------------------------------------------------- */

static void publish(wq_packager *p, const wq_notice *notice)
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
    publish(p, &notice);
}

static void say_joined(wq_packager *p, const char *id, const char *key)
{
    wq_notice notice = {.kind = WQ_NOTICE_JOINED};
    memcpy(notice.key, key, sizeof notice.key);
    memcpy(notice.packager, p->name, sizeof notice.packager);
    memcpy(notice.id, id, sizeof notice.id);
    publish(p, &notice);
}

static uint64_t make_nonce(void)
{
    uint64_t nonce;
    if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
        nonce = (uint64_t)wq_monotonic_ms();
    return nonce % ((uint64_t)NONCES * NONCES);
}

static void say_claim(wq_packager *p, work *w)
{
    wq_notice notice = {.kind = WQ_NOTICE_CLAIM, .nonce = w->nonce};
    w->since = wq_monotonic_ms();
    memcpy(notice.key, w->key, sizeof notice.key);
    memcpy(notice.packager, p->name, sizeof notice.packager);
    if (!w->message.plain)
        memcpy(notice.id, w->message.id, sizeof notice.id);
    publish(p, &notice);
}

void wq_claim(wq_packager *p, work *w)
{
    w->phase = CLAIMING;
    w->echoed_at = 0;
    w->tries++;
    w->nonce = make_nonce();
    say_claim(p, w);
    w->claimed_at = w->since;
}

void wq_claim_later(work *w)
{
    w->phase = WAITING;
    w->since = wq_monotonic_ms();
}

void wq_claim_all_again(wq_packager *p)
{
    work *w;
    LIST_FOREACH(w, &p->works, link)
    if (w->phase == CLAIMING || w->phase == WAITING) {
        w->tries = 0;
        wq_claim(p, w);
    }
}

/* The owner is to know of all who ask here. */
static void join(wq_packager *p, work *w, const char *owner)
{
    const requester *r;
    wq_claim_later(w);
    LIST_FOREACH(r, &w->requesters, link)
    {
        wq_notice notice = {.kind = WQ_NOTICE_JOIN, .rebuild = w->message.rebuild};
        memcpy(notice.key, w->key, sizeof notice.key);
        snprintf(notice.to, sizeof notice.to, "%s", owner);
        memcpy(notice.id, r->id, sizeof notice.id);
        memcpy(notice.reply_to, r->reply_to, sizeof notice.reply_to);
        publish(p, &notice);
    }
}

/* Somebody else has claimed it so recently that our claim may reach them too late. */
static const char *recent_claimer(const wq_packager *p, const char *key)
{
    int64_t since = wq_monotonic_ms() - 2 * (int64_t)p->o.claim_ms;
    for (unsigned i = 0; i < HEARD_CLAIMS; i++)
        if (p->heard[i].at >= since && strcmp(p->heard[i].key, key) == 0)
            return p->heard[i].packager;
    return NULL;
}

void wq_claim_first(wq_packager *p, work *w)
{
    const char *other = recent_claimer(p, w->key);
    if (other == NULL) {
        wq_claim(p, w);
        return;
    }
    join(p, w, other);
    w->since -= CLAIM_WAIT_MS - REPEAT_MS; /* they may be done with it already */
}

static void note_claim(wq_packager *p, const wq_notice *claim)
{
    struct heard_claim *h = &p->heard[p->next_heard++ % HEARD_CLAIMS];
    h->at = wq_monotonic_ms();
    memcpy(h->key, claim->key, sizeof h->key);
    memcpy(h->packager, claim->packager, sizeof h->packager);
}

/* ---- time ------------------------------------------------------------------------------------ */

/* When it is granted, if nobody objects until then. */
static int64_t granted_at(const wq_packager *p, const work *w)
{
    int64_t ms = p->o.claim_ms, slow = (w->echoed_at - w->claimed_at) * ECHOES;
    if (ms < slow)
        ms = slow;
    if (w->is_redelivered && ms < REDELIVERED_MS)
        ms = REDELIVERED_MS;
    int64_t at = w->echoed_at + ms, young = p->connected_at + YOUNG_MS;
    return p->n_connections > 1 && at < young ? young : at;
}

static void tick_echoed(wq_packager *p, work *w, int64_t now)
{
    if (now >= granted_at(p, w))
        wq_work_ask(p, w);
    else if (now - w->since >= REPEAT_MS)
        say_claim(p, w);
}

/* Nobody hears us, so nobody can object; better twice than never. */
static void tick_unheard(wq_packager *p, work *w)
{
    if (w->tries < CLAIM_TRIES)
        wq_claim(p, w);
    else
        wq_work_ask(p, w);
}

/* Without a connection nothing can be heard; the next one begins with claiming again. */
void wq_claim_tick(wq_packager *p, work *w, int64_t now)
{
    if (!p->is_connected)
        return;
    if (w->phase == CLAIMING && w->echoed_at != 0)
        tick_echoed(p, w, now);
    else if (now - w->since < CLAIM_WAIT_MS)
        return;
    else if (w->phase == WAITING)
        wq_claim(p, w);
    else
        tick_unheard(p, w);
}

/* ---- hearing --------------------------------------------------------------------------------- */

static void heard_own_claim(wq_packager *p, const wq_notice *notice)
{
    work *w;
    LIST_FOREACH(w, &p->works, link)
    if (w->phase == CLAIMING && w->nonce == notice->nonce && w->echoed_at == 0) {
        w->echoed_at = wq_monotonic_ms();
        w->tries = 0;
    }
}

/* A request that we have answered for good. */
static int has_ended_here(wq_packager *p, const char *id)
{
    const memory *m = *id != '\0' ? wq_recall(p, id) : NULL;
    return m != NULL && m->text != NULL;
}

static int is_weaker(const wq_packager *p, const work *w, const wq_notice *claim)
{
    return w->nonce > claim->nonce ||
           (w->nonce == claim->nonce && strcmp(p->name, claim->packager) > 0);
}

static void heard_claim(wq_packager *p, const wq_notice *notice)
{
    work *w = wq_work_by_key(p, notice->key);
    if (strcmp(notice->packager, p->name) == 0) {
        heard_own_claim(p, notice);
        return;
    }
    note_claim(p, notice);
    if (has_ended_here(p, notice->id))
        say_joined(p, notice->id, notice->key);
    else if (w != NULL && w->phase == CLAIMING && is_weaker(p, w, notice))
        join(p, w, notice->packager);
    else if (w != NULL)
        say_owned(p, notice->key);
}

static void heard_owned(wq_packager *p, const wq_notice *notice)
{
    work *w = wq_work_by_key(p, notice->key);
    if (w != NULL && w->phase == CLAIMING && strcmp(notice->packager, p->name) != 0)
        join(p, w, notice->packager);
}

/* A run that has begun is not what a rebuild asks for, nor is one that is being ended. */
static int may_join(const work *w, const wq_notice *notice)
{
    if (w->is_cancelled)
        return 0;
    return !notice->rebuild || (w->message.rebuild && w->phase == CLAIMING);
}

/* Its packager settles the request when it hears that it is joined; so if it is our own, which the
 * broker has delivered there again, we keep it. */
static requester *take_in(wq_packager *p, work *w, const wq_notice *notice)
{
    requester *r = wq_requester_find(w, notice->id);
    if (r == NULL)
        return may_join(w, notice) ? wq_requester_add(w, notice->id, notice->reply_to) : NULL;
    if (strcmp(w->message.id, notice->id) == 0 && !wq_work_is_held(p, w) && wq_keep(p, w) != 0)
        return NULL;
    return r;
}

static void heard_join(wq_packager *p, const wq_notice *notice)
{
    work *w = wq_work_by_key(p, notice->key);
    if (strcmp(notice->to, p->name) != 0)
        return;
    requester *r = w != NULL ? take_in(p, w, notice) : NULL;
    if (r == NULL && !has_ended_here(p, notice->id))
        return; /* it will claim again */
    /* Before its delivery is settled: one that was promised signs of life misses them if we die. */
    if (r != NULL && w->phase != ENDING)
        wq_tell_accepted(p, w, r);
    say_joined(p, notice->id, notice->key);
    if (r != NULL && w->phase == ENDING)
        wq_tell_rest(p, w);
}

static void heard_joined(wq_packager *p, const wq_notice *notice)
{
    requester *r;
    work *w = wq_work_by_id(p, notice->id, notice->key, &r);
    if (w == NULL || (w->phase != CLAIMING && w->phase != WAITING) ||
        strcmp(notice->packager, p->name) == 0)
        return;
    wq_requester_drop(w, r);
    if (w->n_requesters == 0)
        wq_work_end(p, w);
}

/* The run goes on while others want it. One that is to end holds its delivery until it has. */
static void heard_cancel(wq_packager *p, const wq_notice *notice)
{
    requester *r;
    work *w = wq_work_by_id(p, notice->id, NULL, &r);
    if (w == NULL) {
        if (wq_recall(p, notice->id) == NULL)
            wq_remember(p, notice->id, NULL, 0);
        return;
    }
    if (w->phase == FINISHING || w->phase == ENDING)
        return; /* too late */
    wq_tell_cancelled(p, w, r);
    if (w->n_requesters > 0)
        return;
    if (w->phase == CLAIMING || w->phase == WAITING) {
        wq_work_end(p, w);
        return;
    }
    w->is_cancelled = 1;
    if (w->job != NULL)
        wq_job_cancel(w->job);
}

void wq_notice_take(wq_packager *p, const event *e)
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
