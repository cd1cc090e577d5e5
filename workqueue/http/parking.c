/* parking.c - requests that wait for the journal, without keeping their loop from others.
 *
 * A face asks for a job by wq_begin(). If the journal does not have the job yet, nobody may be told
 * of it, so the request is parked: wq_begin() says that it has been answered, the face returns, and
 * once the journal has answered, the face is called again, for the same request. This time
 * wq_begin() finds the answer waiting, and all goes on as if nothing had been in between. A face
 * therefore must not do anything lasting before it calls wq_begin().
 *
 * A request may end while it is parked; a note in its memory tells. Nothing here outlives the
 * mounted faces: freeing them waits for the journal's answers. */
#include "workqueue/http/faces.h"

#include <stdatomic.h>
#include <stdlib.h>

typedef struct parked parked;

/* In the memory of the request. */
typedef struct note {
    parked *parked; /* NULL: it does not wait any more */
} note;

struct parked {
    wq_post post;
    wq_http *http;
    LIST_ENTRY(parked) link; /* while resumed; under the parking's lock */
    /* the loop's */
    h2o_req_t *req; /* NULL: it has ended */
    note *note;
    wq_job *job; /* counted */
    /* the queue's, until it is posted */
    int result;
    int64_t made_at_ms;
    wq_error error;
};

struct wq_parking {
    atomic_size_t n_resumed;
    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t none;
    size_t n;                    /* answers that are to come */
    LIST_HEAD(, parked) resumed; /* one a loop at most: the request whose face is called again */
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

static void free_parked(parked *p)
{
    wq_job_unref(p->job);
    free(p);
}

/* ---- there and back -------------------------------------------------------------------------- */

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

static void arrive(wq_post *post)
{
    parked *p = H2O_STRUCT_FROM_MEMBER(parked, post, post);
    struct wq_parking *parking = p->http->parking;
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
    call_again(p->http, req);
}

/* From a thread of the queue's. */
static void on_accepted(void *user, int result, wq_job *job, int64_t made_at_ms,
                        const wq_error *error)
{
    parked *p = user;
    struct wq_parking *parking = p->http->parking;
    p->result = result;
    p->job = job;
    p->made_at_ms = made_at_ms;
    if (error != NULL)
        p->error = *error;
    if (wq_post_send(p->http, &p->post) != 0)
        free_parked(p);
    count(parking, -1);
}

static parked *take_resumed(struct wq_parking *parking, const h2o_req_t *req)
{
    parked *p;
    if (atomic_load(&parking->n_resumed) == 0)
        return NULL;
    pthread_mutex_lock(&parking->lock);
    LIST_FOREACH(p, &parking->resumed, link)
    if (p->req == req)
        break;
    if (p != NULL)
        LIST_REMOVE(p, link);
    pthread_mutex_unlock(&parking->lock);
    if (p != NULL)
        atomic_fetch_sub(&parking->n_resumed, 1);
    return p;
}

static parked *park(wq_http *http, h2o_req_t *req)
{
    parked *p = calloc(1, sizeof *p);
    if (p == NULL)
        return NULL;
    p->post = (wq_post){.loop = wq_loop_of(http, req), .arrive = arrive};
    p->http = http;
    p->req = req;
    p->note = h2o_mem_alloc_shared(&req->pool, sizeof *p->note, on_request_end);
    p->note->parked = p;
    count(http->parking, 1);
    return p;
}

int wq_park(wq_http *http, h2o_req_t *req, unsigned flags, const wq_params *params, wq_job **job,
            int64_t *made_at_ms, wq_error *error)
{
    if (http->parking == NULL)
        return wq_ensure_run_aged(http->queue, params, flags, job, made_at_ms, error);
    parked *p = take_resumed(http->parking, req);
    int result;
    if (p != NULL) {
        result = p->result;
        *made_at_ms = p->made_at_ms;
        *error = p->error;
    } else if ((p = park(http, req)) == NULL) {
        snprintf(error->message, sizeof error->message, "%s", wq_strerror(WQ_ERROR_NO_MEMORY));
        return WQ_ERROR_NO_MEMORY;
    } else {
        result = wq_ensure_run_async(http->queue, params, flags, &p->job, made_at_ms, on_accepted,
                                     p, error);
        if (result == WQ_PENDING)
            return WQ_PENDING;
        p->note->parked = NULL;
        count(http->parking, -1);
    }
    if (result >= 0) {
        *job = p->job;
        p->job = NULL;
    }
    free_parked(p);
    return result;
}
