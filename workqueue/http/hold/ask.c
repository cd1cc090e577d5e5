/* parking.c - requests that wait, without keeping their loop from others: for the journal, for a
 * store across a network, or for another request.
 *
 * A face asks for a job by wq_begin() or wq_ask(). If the journal does not have the job yet, nobody
 * may be told of it, so the request is parked: wq_begin() says that it has been answered, the face
 * returns, and once the queue has answered, the face is called again, for the same request. This
 * time wq_begin() finds the answer waiting, and all goes on as if nothing had been in between. A
 * face therefore must not do anything lasting before it calls wq_begin(), or has to ask
 * wq_is_resumed().
 *
 * A request may end while it is parked; a note in its memory tells. Nothing here outlives the
 * mounted faces: freeing them waits for the queue's answers. */
#include "workqueue/http/faces/faces.h"

#include <stdatomic.h>
#include <stdlib.h>

/* In the memory of the request. */
typedef struct note {
    wq_parked *parked; /* NULL: it does not wait any more */
} note;

struct wq_parked {
    wq_question question;       /* of one that waits for the queue; the post is everybody's */
    wq_told told;               /* likewise */
    LIST_ENTRY(wq_parked) link; /* while resumed; under the parking's lock */
    wq_parked *next;            /* of those that wait for the same */
    /* the loop's */
    h2o_req_t *req; /* NULL: it has ended */
    note *note;
};

struct wq_parking {
    atomic_size_t n_resumed;
    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t none;
    size_t n;                       /* answers that are to come */
    LIST_HEAD(, wq_parked) resumed; /* one a loop at most: the request whose face is called again */
};

struct wq_parking *wq_parking_new(void)
{
    struct wq_parking *parking = calloc(1, sizeof *parking);
    if (parking == NULL)
        return NULL;
    pthread_mutex_init(&parking->lock, NULL);
    pthread_cond_init(&parking->none, NULL);
    LIST_INIT(&parking->resumed);
    return parking;
}

void wq_parking_free(struct wq_parking *parking)
{
    if (parking == NULL)
        return;
    pthread_mutex_lock(&parking->lock);
    while (parking->n > 0)
        pthread_cond_wait(&parking->none, &parking->lock);
    pthread_mutex_unlock(&parking->lock);
    pthread_cond_destroy(&parking->none);
    pthread_mutex_destroy(&parking->lock);
    free(parking);
}

static void count(struct wq_parking *parking, int n)
{
    pthread_mutex_lock(&parking->lock);
    parking->n += (size_t)n;
    if (parking->n == 0)
        pthread_cond_signal(&parking->none);
    pthread_mutex_unlock(&parking->lock);
}

/* ---- questions ------------------------------------------------------------------------------- */

/* From a thread of the queue's. */
static void on_answer(void *user, int result, wq_job *job, int64_t made_at_ms,
                      const wq_error *error)
{
    wq_question *q = user;
    wq_http *http = q->http;
    q->result = result;
    q->job = job;
    q->made_at_ms = made_at_ms;
    if (error != NULL)
        q->error = *error;
    if (q->told != NULL)
        q->told(q);
    if (wq_post_send(http, &q->post) != 0)
        q->lost(q);
    count(http->parking, -1);
}

int wq_question_ask(wq_question *q, unsigned flags, const wq_params *params)
{
    wq_http *http = q->http;
    count(http->parking, 1);
    int result = wq_ensure_run_async(http->queue, params, flags, &q->job, &q->made_at_ms, on_answer,
                                     q, &q->error);
    if (result == WQ_PENDING)
        return result;
    count(http->parking, -1);
    return q->result = result;
}

/* ---- there and back -------------------------------------------------------------------------- */

static void free_parked(wq_parked *p)
{
    wq_job_unref(p->question.job);
    free(p);
}

static void on_request_end(void *arg)
{
    note *n = arg;
    if (n->parked != NULL)
        n->parked->req = NULL;
}

/* All our routes are alike; others may have handlers of theirs at the same path. */
static void call_again(wq_http *http, h2o_req_t *req)
{
    for (size_t i = 0; i < req->pathconf->handlers.size; i++) {
        h2o_handler_t *handler = req->pathconf->handlers.entries[i];
        if (handler->on_req == http->anchor->on_req) {
            handler->on_req(handler, req);
            return;
        }
    }
}

static wq_parked *find_resumed_locked(struct wq_parking *parking, const h2o_req_t *req)
{
    wq_parked *p;
    LIST_FOREACH(p, &parking->resumed, link)
    if (p->req == req)
        break;
    return p;
}

static wq_parked *take_resumed(struct wq_parking *parking, const h2o_req_t *req)
{
    if (atomic_load(&parking->n_resumed) == 0)
        return NULL;
    pthread_mutex_lock(&parking->lock);
    wq_parked *p = find_resumed_locked(parking, req);
    if (p != NULL)
        LIST_REMOVE(p, link);
    pthread_mutex_unlock(&parking->lock);
    if (p != NULL)
        atomic_fetch_sub(&parking->n_resumed, 1);
    return p;
}

int wq_is_resumed(wq_http *http, const h2o_req_t *req)
{
    struct wq_parking *parking = http->parking;
    if (atomic_load(&parking->n_resumed) == 0)
        return 0;
    pthread_mutex_lock(&parking->lock);
    int is = find_resumed_locked(parking, req) != NULL;
    pthread_mutex_unlock(&parking->lock);
    return is;
}

/* An answer that its face has not asked for again is forgotten. */
static void arrive_with_answer(wq_post *post)
{
    wq_parked *p = H2O_STRUCT_FROM_MEMBER(wq_parked, question.post, post);
    struct wq_parking *parking = p->question.http->parking;
    h2o_req_t *req = p->req;
    if (req == NULL) {
        free_parked(p);
        return;
    }
    p->note->parked = NULL;
    pthread_mutex_lock(&parking->lock);
    LIST_INSERT_HEAD(&parking->resumed, p, link);
    pthread_mutex_unlock(&parking->lock);
    atomic_fetch_add(&parking->n_resumed, 1);
    call_again(p->question.http, req);
    if ((p = take_resumed(parking, req)) != NULL)
        free_parked(p);
}

static void arrive(wq_post *post)
{
    wq_parked *p = H2O_STRUCT_FROM_MEMBER(wq_parked, question.post, post);
    wq_http *http = p->question.http;
    h2o_req_t *req = p->req;
    if (req != NULL)
        p->note->parked = NULL;
    free_parked(p);
    if (req != NULL)
        call_again(http, req);
}

static void on_lost(wq_question *q)
{
    free_parked(H2O_STRUCT_FROM_MEMBER(wq_parked, question, q));
}

static void on_told(wq_question *q)
{
    const wq_parked *p = H2O_STRUCT_FROM_MEMBER(wq_parked, question, q);
    if (p->told.tell != NULL)
        p->told.tell(q->http, p->told.user, q->job);
}

static wq_parked *park(wq_http *http, h2o_req_t *req)
{
    wq_parked *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->question = (wq_question){.post = {.loop = wq_loop_of(http, req), .arrive = arrive},
                                .lost = on_lost,
                                .told = on_told,
                                .http = http};
    p->req = req;
    p->note = h2o_mem_alloc_shared(&req->pool, sizeof *p->note, on_request_end);
    p->note->parked = p;
    return p;
}

/* ---- for faces ------------------------------------------------------------------------------- */

wq_parked *wq_park(wq_http *http, h2o_req_t *req, wq_parked *next)
{
    wq_parked *p = park(http, req);
    if (p != NULL)
        p->next = next;
    return p;
}

void wq_unpark(wq_parked *chain)
{
    while (chain != NULL) {
        wq_parked *p = chain;
        chain = p->next; /* it is the loop's once it is sent */
        if (wq_post_send(p->question.http, &p->question.post) != 0)
            free_parked(p);
    }
}

int wq_park_for(wq_http *http, h2o_req_t *req, unsigned flags, const wq_params *params,
                const wq_told *told, wq_job **job, int64_t *made_at_ms, wq_error *error)
{
    wq_parked *p = take_resumed(http->parking, req);
    if (p == NULL) {
        if ((p = park(http, req)) == NULL) {
            snprintf(error->message, sizeof error->message, "%s", wq_strerror(WQ_ERROR_NO_MEMORY));
            return WQ_ERROR_NO_MEMORY;
        }
        if (told != NULL)
            p->told = *told;
        p->question.post.arrive = arrive_with_answer;
        if (wq_question_ask(&p->question, flags, params) == WQ_PENDING)
            return WQ_PENDING;
        p->note->parked = NULL;
    }
    int result = p->question.result;
    *made_at_ms = p->question.made_at_ms;
    *error = p->question.error;
    if (result >= 0) {
        *job = p->question.job;
        p->question.job = NULL;
    }
    free_parked(p);
    return result;
}
