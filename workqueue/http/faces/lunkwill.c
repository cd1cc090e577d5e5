/* lunkwill.c - POST /run, held until its job ends; and the lunkwill conversation about it, for
 * clients that would rather ask now and then.
 *
 * Such a client is told when to ask next, and one that stops asking has its request cancelled. So
 * each request is known here by an id of its own, with the time of the last question. What becomes
 * of it is read from the job each time; nothing of that is kept.
 *
 * While its client asks, a request watches its job, only to be seen: wq_job_abandon() leaves a job
 * alone that somebody watches, so several lunkwill clients of one job, and those of other faces,
 * need not know of each other. A request that is cancelled but whose job goes on, for others' sake,
 * comes back to life when its client asks again.
 */
#include <search.h>
#include <sys/random.h>

#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/result.h"
#include "workqueue/http/hold/held.h"
#include "workqueue/http/request/client.h"
#include "workqueue/http/request/problem.h"

enum {
    FIRST_DELAY_MS = 50,
    LAST_DELAY_MS = 4000,
    GROWTH = 10, /* a delay is that part of the request's age: a late answer is late by a tenth */
    RETRY_MS = 2000,
    DELAYS = 3,        /* so many fit into the time that a client may be silent, at least */
    KEEP_MS = 3600000, /* what nobody asks for any more */
};

typedef struct wq_lunkwill wq_lunkwill;

/* An intercepted request. */
typedef struct request {
    char id[WQ_ID_SIZE]; /* first: the table compares pointers to it */
    char job_id[WQ_ID_SIZE];
    int how;                /* what wq_begin() returned */
    int64_t created, asked; /* by wq_loop_now() */
    int64_t delay_ms;       /* what the client was told last */
    wq_watch *watch;        /* NULL: the job has ended, or the client is silent */
    wq_peer *peer;          /* whose share it is of, until then; NULL: nobody's */
    TAILQ_ENTRY(request) link;
} request;

TAILQ_HEAD(request_list, request);

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

/* ---- the plain form -------------------------------------------------------------------------- */

static void answer_held(wq_held *held)
{
    wq_http *http = held->http;
    h2o_req_t *req = held->req;
    int ended = wq_told_state(&held->job->snapshot) >= WQ_STATE_SUCCEEDED;
    int stopping = held->job->snapshot.resumes || atomic_load(&http->stopping);
    if (!ended && !stopping)
        return;
    wq_job *job = wq_job_ref(held->job->job);
    wq_release(held);
    if (stopping)
        req->http1_is_persistent = 0;
    if (ended) {
        wq_answer_result(http, req, job);
    } else {
        wq_job_unref(job);
        wq_problem_result(req, WQ_ERROR_CLOSING, NULL, wq_retry_after_s(http->queue));
    }
}

static void on_run_timeout(wq_held *held)
{
    (void)held; /* there is no deadline */
}

static void on_run_gone(wq_held *held)
{
    h2o_req_t *req = held->req;
    wq_release(held);
    req->http1_is_persistent = 0;
    wq_problem(req, 408, "The client has closed its side of the connection; the job goes on.");
}

static int hold(wq_http *http, h2o_req_t *req, wq_job *job)
{
    wq_held *held = h2o_mem_alloc_pool(&req->pool, sizeof *held);
    *held = (wq_held){.http = http,
                      .face = WQ_FACE_RUN,
                      .req = req,
                      .news = answer_held,
                      .timeout = on_run_timeout,
                      .gone = on_run_gone};
    if (wq_hold(held, job) == 0)
        answer_held(held); /* it may have ended before it was watched */
    return 0;
}

/* ---- the requests ---------------------------------------------------------------------------- */

static int compare_requests(const void *a, const void *b)
{
    return strcmp(a, b); /* a request begins with its id; who looks for one has no more than that */
}

static request *find_locked(wq_lunkwill *l, const char *id)
{
    request **found = tfind(id, &l->by_id, compare_requests);
    return found ? *found : NULL;
}

static struct request_list *list_of(wq_lunkwill *l, const request *r)
{
    return r->watch ? &l->asking : &l->idle;
}

static void drop_locked(wq_lunkwill *l, request *r)
{
    TAILQ_REMOVE(list_of(l, r), r, link);
    tdelete(r, &l->by_id, compare_requests);
    wq_peer_give_back(l->peers, r->peer);
    l->n--;
    free(r);
}

/* Drops what nobody asks for any more; and if as many requests are known as may be, one that is
 * idle. 0 if there is none: all are being asked for. */
static int make_room(wq_lunkwill *l, int64_t now)
{
    request *r;
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

/* Makes a new request known, and copies it. The first of a job goes by the job's own id, by which
 * it is found again when the server has been restarted: see adopt(). Takes over `peer`. */
static int enter(wq_lunkwill *l, const wq_job *job, int how, int64_t now, wq_peer *peer,
                 request *copy)
{
    request *r = calloc(1, sizeof *r);
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

/* Notes that the client has asked, and copies the request; 0 if there is none with this id. */
static int note(wq_lunkwill *l, const char *id, int64_t now, request *copy)
{
    pthread_mutex_lock(&l->lock);
    request *r = find_locked(l, id);
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
static wq_watch *exchange_locked(wq_lunkwill *l, request *r, wq_watch *watch)
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
    request *r = find_locked(l, id);
    wq_watch *old = r ? exchange_locked(l, r, watch) : watch;
    pthread_mutex_unlock(&l->lock);
    wq_watch_cancel(old);
}

static int has_ended(wq_job *job)
{
    return wq_state_of(job) >= WQ_STATE_SUCCEEDED;
}

static void ignore(void *user)
{
    (void)user;
}

/* ---- clients that stop asking ---------------------------------------------------------------- */

/* Not under the lock: it calls those who watch the job. */
static int abandon(wq_lunkwill *l, const char *job_id)
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
    request *r = TAILQ_FIRST(&l->asking);
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
        abandon(s->lunkwill, job_id);
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

/* Its client has asked: it watches, unless the job has ended (NULL: and is forgotten). Without
 * memory it does not, and is not cancelled for its silence. */
static void follow(wq_lunkwill *l, h2o_req_t *req, const request *r, wq_job *job)
{
    wq_watch *watch = NULL;
    int ended = job == NULL || has_ended(job);
    if (!ended)
        sweep_later(l, req);
    if (ended == (r->watch == NULL) && !(ended && r->peer != NULL))
        return;
    if (ended || wq_job_watch(job, ignore, NULL, &watch) == WQ_OK)
        exchange(l, r->id, watch);
}

/* ---- the conversation ------------------------------------------------------------------------ */

/* With nothing in front of it a job is about to run: clients that know only "processing" are not to
 * be told anything else by an idle server. */
static int state_of(wq_job *job)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    int state = wq_told_state(&now);
    if (state == WQ_STATE_QUEUED && now.n_ahead_in_queue == 0)
        state = WQ_STATE_RUNNING;
    wq_snapshot_clear(&now);
    return state;
}

/* What the protocol calls it. A failed program has an answer too; only an output that has been
 * deleted since, or a job that has been forgotten, has none. A store across a network is not asked
 * about each summary: there, the response tells. */
static const char *summary_status(wq_queue *queue, wq_job *job)
{
    static const char *const words[] = {"spooled", "processing", "buffering",
                                        "ready",   "ready",      "cancelled"};
    int state = job ? state_of(job) : WQ_STATE_SUCCEEDED;
    if (job == NULL || (state == WQ_STATE_SUCCEEDED && !wq_outputs_block(queue) &&
                        wq_output_find(queue, wq_job_params(job), NULL) == WQ_ERROR_NOT_FOUND))
        return "failed";
    return words[state];
}

enum { PLAIN, SUGGEST, REQUIRE, UNKNOWN };

static int form_of(h2o_req_t *req)
{
    h2o_iovec_t value = wq_request_header(req, "x-lunkwill");
    if (value.base == NULL)
        return PLAIN;
    for (; value.len > 0 && strchr(" \t", value.base[0]) != NULL; value.base++, value.len--)
        ;
    for (; value.len > 0 && strchr(" \t", value.base[value.len - 1]) != NULL; value.len--)
        ;
    if (h2o_lcstris(value.base, value.len, H2O_STRLIT("suggest")))
        return SUGGEST;
    return h2o_lcstris(value.base, value.len, H2O_STRLIT("require")) ? REQUIRE : UNKNOWN;
}

/* Takes over the reference to `job`. */
static int send_summary(wq_http *http, h2o_req_t *req, int status, const request *r, wq_job *job)
{
    char text[256];
    int n = snprintf(text, sizeof text,
                     "{\"id\": \"%s\", \"status\": \"%s\", \"delay_ms\": %d, \"retry_ms\": %d}\n",
                     r->id, summary_status(http->queue, job), (int)r->delay_ms, RETRY_MS);
    follow(http->lunkwill, req, r, job);
    wq_job_unref(job);
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CACHE_CONTROL, NULL,
                   H2O_STRLIT("no-store"));
    return wq_send_bytes(req, status,
                         "application/vnd.lunkwill.request-summary+json; charset=utf-8", text,
                         (size_t)n);
}

static int refuse_peer(wq_http *http, h2o_req_t *req)
{
    wq_error full = {0};
    snprintf(full.message, sizeof full.message,
             "%zu requests of this address are under way, as many as may; try again later",
             wq_peers_share(http->lunkwill->peers));
    return wq_problem_result(req, WQ_ERROR_USER_FULL, &full, wq_retry_after_s(http->queue));
}

static int on_intercepted(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    request r;
    wq_peer *peer;
    wq_job *job = answer->job;
    if (answer->result == WQ_DONE && form_of(req) != REQUIRE)
        return wq_answer_result(http, req, job);
    int result = wq_peer_take(http->lunkwill->peers, wq_request_client(http->proxies, req), &peer);
    if (result == WQ_ERROR_FULL) {
        wq_job_abandon(job);
        wq_job_unref(job);
        return refuse_peer(http, req);
    }
    if (result != WQ_OK ||
        enter(http->lunkwill, job, answer->result, wq_loop_now(), peer, &r) != 0) {
        wq_job_abandon(job);
        wq_job_unref(job);
        return wq_problem_result(req, WQ_ERROR_NO_MEMORY, NULL, 0);
    }
    return send_summary(http, req, 201, &r, job);
}

/* The job is asked for tentatively: only we may give it up again. */
static int intercept(wq_http *http, h2o_req_t *req)
{
    if (!make_room(http->lunkwill, wq_loop_now())) {
        wq_error full = {.message = "as many requests are under way as may; try again later"};
        return wq_problem_result(req, WQ_ERROR_FULL, &full, wq_retry_after_s(http->queue));
    }
    if (!wq_peer_has_room(http->lunkwill->peers, wq_request_client(http->proxies, req)))
        return refuse_peer(http, req); /* before a job begins */
    return wq_begin(http, req, WQ_ENSURE_JOB | WQ_ENSURE_TENTATIVE, on_intercepted);
}

/* A request of before a restart, of which only the job is left. */
static int adopt(wq_http *http, const char *id, request *r, wq_job **job)
{
    int64_t now = wq_loop_now();
    if (wq_job_by_id(http->queue, id, job) != WQ_OK)
        return 0;
    if (make_room(http->lunkwill, now) &&
        enter(http->lunkwill, *job, WQ_ATTACHED, now, NULL, r) == 0)
        return 1;
    wq_job_unref(*job);
    *job = NULL;
    return 0;
}

/* The request that is asked for, and its job, NULL if that is forgotten; 0 and a 404 if there is no
 * such request. */
static int find(wq_http *http, h2o_req_t *req, const char *id, request *r, wq_job **job)
{
    *job = NULL;
    if (!note(http->lunkwill, id, wq_loop_now(), r)) {
        if (adopt(http, id, r, job))
            return 1;
        wq_problem(req, 404, "There is no request with this id, or it was long ago.");
        return 0;
    }
    wq_job_by_id(http->queue, r->job_id, job);
    return 1;
}

static int answer_summary(wq_http *http, h2o_req_t *req, const char *id)
{
    request r;
    wq_job *job;
    if (wq_method(req, "GET, HEAD, OPTIONS") || !find(http, req, id, &r, &job))
        return 0;
    return send_summary(http, req, 200, &r, job);
}

/* As the plain form would have answered, down to what it says of where the answer comes from. */
static int answer_response(wq_http *http, h2o_req_t *req, const char *id)
{
    request r;
    wq_job *job;
    if (wq_method(req, "GET, HEAD, OPTIONS") || !find(http, req, id, &r, &job))
        return 0;
    follow(http->lunkwill, req, &r, job);
    if (job == NULL)
        return wq_problem(req, 410, "The response is not kept any more; ask for it again.");
    if (!has_ended(job)) {
        wq_job_unref(job);
        return wq_problem(req, 409,
                          "There is no response yet. Ask for the summary until its status is "
                          "\"ready\".");
    }
    wq_tell_how(req, r.how); /* an output tells its age itself */
    return wq_answer_result(http, req, job);
}

/* The client says that it will not ask again. */
static int answer_delete(wq_http *http, h2o_req_t *req, const char *id)
{
    request r;
    wq_job *job;
    if (wq_method(req, "DELETE, OPTIONS") || !find(http, req, id, &r, &job))
        return 0;
    exchange(http->lunkwill, id, NULL);
    if (abandon(http->lunkwill, r.job_id) == WQ_OK && job != NULL)
        return wq_answer_cancelled(http, req, job);
    wq_job_unref(job);
    return wq_send_bytes(req, 204, NULL, NULL, 0);
}

int wq_face_lunkwill(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    static const struct {
        const char *path;
        int (*answer)(wq_http *http, h2o_req_t *req, const char *id);
    } parts[] = {{"/summary", answer_summary}, {"/response", answer_response}, {"", answer_delete}};
    const size_t n = WQ_ID_SIZE - 1;
    char id[WQ_ID_SIZE] = "";
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && rest.len >= n; i++) {
        if (h2o_memis(rest.base + n, rest.len - n, parts[i].path, strlen(parts[i].path))) {
            memcpy(id, rest.base, n);
            return parts[i].answer(http, req, id);
        }
    }
    if (wq_is_method(req, "OPTIONS"))
        return wq_method(req, "OPTIONS"), 0;
    return wq_problem(req, 404, "There is nothing at this path.");
}

/* ---- POST /run ------------------------------------------------------------------------------- */

static int on_plain(wq_http *http, h2o_req_t *req, const wq_answer *answer)
{
    return answer->result == WQ_DONE ? wq_answer_result(http, req, answer->job)
                                     : hold(http, req, answer->job);
}

int wq_face_run(wq_http *http, h2o_req_t *req, h2o_iovec_t rest)
{
    (void)rest;
    if (wq_method(req, "POST, OPTIONS"))
        return 0;
    int form = form_of(req);
    if (form == UNKNOWN)
        return wq_problem(req, 400, "The header X-Lunkwill takes \"suggest\" or \"require\".");
    if (form != PLAIN)
        return intercept(http, req);
    return wq_begin(http, req, WQ_ENSURE_JOB, on_plain);
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
    request *r;
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
