/* lunkwill_requests.c - see lunkwill_requests.h.
 *
 * While its client asks, a request watches its job, only to be seen: wq_job_abandon() leaves a job
 * alone that somebody watches, so several lunkwill clients of one job, and those of other faces,
 * need not know of each other. A request that is cancelled but whose job goes on, for others' sake,
 * comes back to life when its client asks again. */
#include "workqueue/http/faces/lunkwill_requests.h"

#include <search.h>
#include <sys/random.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/request/client.h"

enum {
    FIRST_DELAY_MS = 50,
    LAST_DELAY_MS = 4000,
    GROWTH = 10, /* a delay is that part of the request's age: a late answer is late by a tenth */
    DELAYS = 3,  /* so many fit into the time that a client may be silent, at least */
    KEEP_MS = 3600000, /* what nobody asks for any more */
};

TAILQ_HEAD(request_list, lunkwill_request);

/* A loop's timer for clients that stop asking. */
typedef struct sweeper {
    wq_timer timer;
    wq_lunkwill *lunkwill;
    wq_loop *loop;
    LIST_ENTRY(sweeper) link;
} sweeper;

struct wq_lunkwill {
    wq_http *http;
    pthread_mutex_t lock;
    /* under the lock; the longest unasked first */
    struct request_list asking, idle; /* with and without a watch */
    void *by_id;                      /* tsearch */
    size_t n;
    LIST_HEAD(, sweeper) sweepers;
    wq_peers *peers; /* how many requests are under way for each client; has its own lock */
};

/* How long a client may go without asking before its request is cancelled. */
static int64_t patience_ms(const wq_lunkwill *l)
{
    return l->http->options.lunkwill_patience_ms;
}

/* ---- the requests ---------------------------------------------------------------------------- */

static int compare_requests(const void *a, const void *b)
{
    return strcmp(a, b); /* a request begins with its id; who looks for one has no more than that */
}

static lunkwill_request *find_locked(wq_lunkwill *l, const char *id)
{
    lunkwill_request **found = tfind(id, &l->by_id, compare_requests);
    return found ? *found : NULL;
}

static struct request_list *list_of(wq_lunkwill *l, const lunkwill_request *r)
{
    return r->watch ? &l->asking : &l->idle;
}

static void drop_locked(wq_lunkwill *l, lunkwill_request *r)
{
    TAILQ_REMOVE(list_of(l, r), r, link);
    tdelete(r, &l->by_id, compare_requests);
    wq_peer_give_back(l->peers, r->peer);
    l->n--;
    free(r);
}

int wq_lunkwill_make_room(wq_lunkwill *l, int64_t now)
{
    lunkwill_request *r;
    pthread_mutex_lock(&l->lock);
    while ((r = TAILQ_FIRST(&l->idle)) != NULL && r->asked + KEEP_MS <= now)
        drop_locked(l, r);
    if (r != NULL && l->n >= l->http->options.max_streams)
        drop_locked(l, r);
    int room = l->n < l->http->options.max_streams;
    pthread_mutex_unlock(&l->lock);
    return room;
}

/* A UUIDv4. */
static int make_id(char id[WQ_ID_SIZE])
{
    unsigned char b[16];
    if (getrandom(b, sizeof b, 0) != (ssize_t)sizeof b)
        return -1;
    b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
    b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
    for (int i = 0, at = 0; i < 16; i++)
        at += sprintf(id + at, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
    return 0;
}

int wq_lunkwill_enter(wq_lunkwill *l, const wq_job *job, int how, int64_t now, wq_peer *peer,
                      lunkwill_request *copy)
{
    lunkwill_request *r = calloc(1, sizeof *r);
    if (r == NULL || make_id(r->id) != 0) {
        free(r);
        wq_peer_give_back(l->peers, peer);
        return -1;
    }
    r->peer = peer;
    memcpy(r->job_id, wq_job_id(job), WQ_ID_SIZE);
    r->how = how;
    r->created = r->asked = now;
    r->delay_ms = FIRST_DELAY_MS;
    pthread_mutex_lock(&l->lock);
    if (find_locked(l, r->job_id) == NULL)
        memcpy(r->id, r->job_id, WQ_ID_SIZE);
    int entered = tsearch(r, &l->by_id, compare_requests) != NULL;
    if (entered) {
        TAILQ_INSERT_TAIL(&l->idle, r, link);
        l->n++;
        *copy = *r;
    }
    pthread_mutex_unlock(&l->lock);
    if (!entered) {
        wq_peer_give_back(l->peers, peer);
        free(r);
    }
    return entered ? 0 : -1;
}

/* How long to wait before asking again, at this age of a request. */
static int64_t delay_at(const wq_lunkwill *l, int64_t age)
{
    int64_t delay = FIRST_DELAY_MS + age / GROWTH;
    int64_t most = patience_ms(l) / DELAYS;
    most = most < LAST_DELAY_MS ? most : LAST_DELAY_MS;
    return delay < most ? delay : most;
}

int wq_lunkwill_note(wq_lunkwill *l, const char *id, int64_t now, lunkwill_request *copy)
{
    pthread_mutex_lock(&l->lock);
    lunkwill_request *r = find_locked(l, id);
    if (r != NULL) {
        r->delay_ms = delay_at(l, now - r->created);
        r->asked = now;
        TAILQ_REMOVE(list_of(l, r), r, link);
        TAILQ_INSERT_TAIL(list_of(l, r), r, link);
        *copy = *r;
    }
    pthread_mutex_unlock(&l->lock);
    return r != NULL;
}

/* Gives the request another watch, or none; returns what is to be cancelled, without the lock. */
static wq_watch *exchange_locked(wq_lunkwill *l, lunkwill_request *r, wq_watch *watch)
{
    wq_watch *old = r->watch;
    TAILQ_REMOVE(list_of(l, r), r, link);
    r->watch = watch;
    if (watch == NULL) {
        wq_peer_give_back(l->peers, r->peer);
        r->peer = NULL;
    }
    TAILQ_INSERT_TAIL(list_of(l, r), r, link);
    return old;
}

static void exchange(wq_lunkwill *l, const char *id, wq_watch *watch)
{
    pthread_mutex_lock(&l->lock);
    lunkwill_request *r = find_locked(l, id);
    wq_watch *old = r ? exchange_locked(l, r, watch) : watch;
    pthread_mutex_unlock(&l->lock);
    wq_watch_cancel(old);
}

static void ignore_news(void *user)
{
    (void)user;
}

/* ---- clients that stop asking ---------------------------------------------------------------- */

int wq_lunkwill_abandon(wq_lunkwill *l, const char *job_id)
{
    wq_job *job;
    if (wq_job_by_id(l->http->queue, job_id, &job) != WQ_OK)
        return WQ_DONE;
    int result = wq_job_abandon(job);
    wq_job_unref(job);
    return result;
}

/* The request whose client has been silent longest, if that is too long: its watch, to be
 * cancelled, and the id of its job. NULL if there is none, and when to look again: 0, not before
 * one asks. */
static wq_watch *take_silent(wq_lunkwill *l, int64_t now, char job_id[WQ_ID_SIZE], int64_t *next)
{
    wq_watch *watch = NULL;
    pthread_mutex_lock(&l->lock);
    lunkwill_request *r = TAILQ_FIRST(&l->asking);
    *next = r != NULL ? r->asked + patience_ms(l) : 0;
    if (r != NULL && *next <= now) {
        memcpy(job_id, r->job_id, WQ_ID_SIZE);
        watch = exchange_locked(l, r, NULL);
    }
    pthread_mutex_unlock(&l->lock);
    return watch;
}

static void sweep(wq_timer *timer)
{
    sweeper *s = H2O_STRUCT_FROM_MEMBER(sweeper, timer, timer);
    char job_id[WQ_ID_SIZE];
    wq_watch *watch;
    int64_t next, now = wq_loop_now();
    while ((watch = take_silent(s->lunkwill, now, job_id, &next)) != NULL) {
        wq_watch_cancel(watch);
        wq_lunkwill_abandon(s->lunkwill, job_id);
    }
    if (next != 0)
        wq_timer_set(&s->loop->timers, timer, next);
}

static sweeper *sweeper_of(wq_lunkwill *l, wq_loop *loop)
{
    sweeper *s;
    pthread_mutex_lock(&l->lock);
    LIST_FOREACH(s, &l->sweepers, link)
    if (s->loop == loop)
        break;
    if (s == NULL && (s = calloc(1, sizeof *s)) != NULL) {
        *s = (sweeper){.timer = {.fire = sweep}, .lunkwill = l, .loop = loop};
        LIST_INSERT_HEAD(&l->sweepers, s, link);
    }
    pthread_mutex_unlock(&l->lock);
    return s;
}

/* Any loop sweeps for all. Without memory another one does, or a later question's. */
static void sweep_later(wq_lunkwill *l, h2o_req_t *req)
{
    wq_loop *loop = wq_loop_of(l->http, req);
    sweeper *s = sweeper_of(l, loop);
    if (s != NULL && !s->timer.is_set)
        wq_timer_set(&loop->timers, &s->timer, wq_loop_now() + patience_ms(l));
}

void wq_lunkwill_follow(wq_lunkwill *l, h2o_req_t *req, const lunkwill_request *r, wq_job *job)
{
    wq_watch *watch = NULL;
    int ended = job == NULL || wq_state_of(job) >= WQ_STATE_SUCCEEDED;
    if (!ended)
        sweep_later(l, req);
    if (ended == (r->watch == NULL) && !(ended && r->peer != NULL))
        return;
    if (ended || wq_job_watch(job, ignore_news, NULL, &watch) == WQ_OK)
        exchange(l, r->id, watch);
}

void wq_lunkwill_leave(wq_lunkwill *l, const char *id)
{
    exchange(l, id, NULL);
}

wq_peers *wq_lunkwill_peers(wq_lunkwill *l)
{
    return l->peers;
}

/* ---- its life -------------------------------------------------------------------------------- */

wq_lunkwill *wq_lunkwill_new(wq_http *http)
{
    wq_lunkwill *l = calloc(1, sizeof *l);
    if (l == NULL)
        return NULL;
    l->http = http;
    l->peers = wq_peers_new(http->options.max_streams_per_peer, http->options.max_streams);
    if (l->peers == NULL) {
        free(l);
        return NULL;
    }
    pthread_mutex_init(&l->lock, NULL);
    TAILQ_INIT(&l->asking);
    TAILQ_INIT(&l->idle);
    LIST_INIT(&l->sweepers);
    return l;
}

/* No loop is left, so nobody asks: no lock is needed. */
void wq_lunkwill_free(wq_lunkwill *l)
{
    lunkwill_request *r;
    sweeper *s;
    if (l == NULL)
        return;
    while ((s = LIST_FIRST(&l->sweepers)) != NULL) {
        LIST_REMOVE(s, link);
        free(s);
    }
    while ((r = TAILQ_FIRST(&l->asking)) != NULL)
        wq_watch_cancel(exchange_locked(l, r, NULL));
    while ((r = TAILQ_FIRST(&l->idle)) != NULL)
        drop_locked(l, r);
    wq_peers_free(l->peers);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
