/* publish.c - puts the outputs of jobs in place and ends the jobs.
 *
 * The publisher takes all jobs that have gathered and publishes them together, which costs the disk
 * little more than one alone. It begins when as many have gathered as there still wait for a
 * worker, so that batches are large and the workers have something to do meanwhile; or PAUSE_NS
 * after the batch before began; or when the queue is hungry. At most MAX_HAND jobs gather, then
 * workers wait. A store that blocks is across a network: there some threads publish one output
 * each.
 *
 * What finds the store away is put off, each job by its own clock, and others go on. The
 * publisher's lock is taken last. */
#include "workqueue/core/publish.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

enum {
    MAX_HAND = 256,
    MAX_THREADS = 4,
    PAUSE_NS = 20000000,
    FIRST_RETRY_MS = 500,
    LAST_RETRY_MS = 30000
};

struct wq_publisher {
    wq_queue *queue;
    pthread_t threads[MAX_THREADS];
    unsigned n_threads;
    size_t batch;      /* jobs that a thread takes at once */
    wq_publish *items; /* of the one thread, if that is more than one: too much for a small stack */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t ready, room;
    pthread_cond_t hurry; /* the queue is hungry; like `ready` on CLOCK_MONOTONIC */
    struct wq_job_hand hand;
    size_t n_hand;
    struct wq_job_hand later; /* by the time of the next try */
    int stopping, closing;
};

/* ---- while the store is away ----------------------------------------------------------------- */

/* With a journal the job runs again after the restart. */
static void give_up(wq_publisher *p, wq_job *job)
{
    wq_store *store = p->queue->store;
    if (job->temp_path != NULL)
        store->discard(store->self, job->temp_path);
    pthread_mutex_lock(&p->queue->lock);
    job->kept = 1;
    pthread_mutex_unlock(&p->queue->lock);
    wq_queue_finish(p->queue, job, WQ_STATE_CANCELLED, WQ_OWN_FAILURE,
                    wq_queue_why_stopping(p->queue));
}

/* They count as jobs that wait, which are bounded. */
static void count_put_off(wq_queue *queue, int n)
{
    pthread_mutex_lock(&queue->lock);
    queue->put_off += (size_t)n;
    pthread_mutex_unlock(&queue->lock);
}

static void insert_later_locked(wq_publisher *p, wq_job *job)
{
    wq_job *before = TAILQ_LAST(&p->later, wq_job_hand);
    while (before != NULL && before->try_at > job->try_at)
        before = TAILQ_PREV(before, wq_job_hand, hand);
    if (before != NULL)
        TAILQ_INSERT_AFTER(&p->later, before, job, hand);
    else
        TAILQ_INSERT_HEAD(&p->later, job, hand);
}

static void put_off(wq_publisher *p, wq_job *job, const wq_error *error)
{
    unsigned after_ms = job->retry_ms ? 2 * job->retry_ms : FIRST_RETRY_MS;
    count_put_off(p->queue, 1);
    pthread_mutex_lock(&p->lock);
    int stopping = p->stopping, is_first = TAILQ_EMPTY(&p->later);
    job->retry_ms = after_ms < LAST_RETRY_MS ? after_ms : LAST_RETRY_MS;
    job->try_at = wq_monotonic_ms() + job->retry_ms;
    if (!stopping) {
        insert_later_locked(p, job);
        pthread_cond_signal(&p->ready);
    }
    pthread_mutex_unlock(&p->lock);
    if (is_first && !stopping)
        wq_log(&p->queue->logger, WQ_LOG_WARNING,
               "the store is away, outputs are kept until it is back: %s", error->message);
    if (stopping) {
        count_put_off(p->queue, -1);
        give_up(p, job);
    }
}

static wq_job *take_later_locked(wq_publisher *p, int64_t until)
{
    wq_job *job = TAILQ_FIRST(&p->later);
    if (job == NULL || job->try_at > until)
        return NULL;
    TAILQ_REMOVE(&p->later, job, hand);
    return job;
}

/* ---- publishing ------------------------------------------------------------------------------ */

static void settle(wq_publisher *p, wq_job *job, const wq_publish *item)
{
    if (wq_queue_store_said(p->queue, item->result) >= 0)
        wq_queue_finish(p->queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
    else if (item->result == WQ_ERROR_AWAY && p->n_threads > 0)
        put_off(p, job, &item->error);
    else
        wq_queue_fail(p->queue, job, WQ_OWN_FAILURE, item->error.message);
}

/* Somebody else has published it. */
static void look_for(wq_publisher *p, wq_job *job)
{
    wq_store *store = p->queue->store;
    wq_publish item = {.key = job->key};
    item.result = store->find(store->self, job->key, NULL, &item.error);
    if (item.result == WQ_ERROR_NOT_FOUND)
        wq_fail(&item.error, item.result,
                "the run is said to have succeeded, but its output is not in the store");
    settle(p, job, &item);
}

static void publish(wq_publisher *p, wq_publish *items, wq_job **jobs, size_t n)
{
    size_t with_file = 0;
    for (size_t i = 0; i < n; i++) {
        wq_job *job = jobs[i];
        if (job->temp_path == NULL) {
            look_for(p, job);
            continue;
        }
        items[with_file] = (wq_publish){.key = job->key,
                                        .params = &job->params,
                                        .replace = job->rebuild,
                                        .temp_path = job->temp_path};
        jobs[with_file++] = job;
    }
    if (with_file > 0)
        p->queue->store->publish(p->queue->store->self, items, with_file);
    for (size_t i = 0; i < with_file; i++)
        settle(p, jobs[i], &items[i]);
}

/* ---- the threads ----------------------------------------------------------------------------- */

static void add_ns(struct timespec *t, long ns)
{
    t->tv_nsec += ns;
    t->tv_sec += t->tv_nsec / 1000000000;
    t->tv_nsec %= 1000000000;
}

/* Waits until there is something to do; 0: never again. */
static int wait_locked(wq_publisher *p)
{
    for (;;) {
        wq_job *later = TAILQ_FIRST(&p->later);
        if (p->n_hand > 0 || (later != NULL && later->try_at <= wq_monotonic_ms()))
            return 1;
        if (p->closing)
            return 0;
        if (later == NULL) {
            pthread_cond_wait(&p->ready, &p->lock);
            continue;
        }
        struct timespec until = {later->try_at / 1000, later->try_at % 1000 * 1000000};
        pthread_cond_timedwait(&p->ready, &p->lock, &until);
    }
}

/* New ones first: those that wait already may wait a little longer. */
static size_t take_locked(wq_publisher *p, wq_job **jobs, size_t *n_later)
{
    size_t n = 0;
    wq_job *job;
    for (; n < p->batch && (job = TAILQ_FIRST(&p->hand)) != NULL; p->n_hand--) {
        TAILQ_REMOVE(&p->hand, job, hand);
        jobs[n++] = job;
    }
    *n_later = n;
    while (n < p->batch && (job = take_later_locked(p, wq_monotonic_ms())) != NULL)
        jobs[n++] = job;
    *n_later = n - *n_later;
    return n;
}

static int are_enough_locked(wq_publisher *p)
{
    return p->n_hand >= MAX_HAND || p->n_hand >= atomic_load(&p->queue->n_ready);
}

static int may_wait_locked(wq_publisher *p)
{
    return p->batch > 1 && p->n_hand > 0 && !wq_queue_is_hungry(p->queue) && !are_enough_locked(p);
}

static void *publisher_main(void *arg)
{
    wq_publisher *p = arg;
    wq_job *jobs[MAX_HAND];
    wq_publish one = {0}, *items = p->batch > 1 ? p->items : &one;
    struct timespec next = {0};
    size_t n_later;
    pthread_mutex_lock(&p->lock);
    while (wait_locked(p)) {
        while (may_wait_locked(p) && pthread_cond_timedwait(&p->hurry, &p->lock, &next) == 0)
            ;
        clock_gettime(CLOCK_MONOTONIC, &next);
        add_ns(&next, PAUSE_NS);
        size_t n = take_locked(p, jobs, &n_later);
        pthread_cond_broadcast(&p->room);
        pthread_mutex_unlock(&p->lock);
        if (n_later > 0)
            count_put_off(p->queue, -(int)n_later);
        publish(p, items, jobs, n);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void wq_publisher_add(wq_publisher *p, wq_job *job)
{
    if (p->n_threads == 0) {
        wq_publish item;
        publish(p, &item, &job, 1);
        return;
    }
    pthread_mutex_lock(&p->lock);
    while (p->n_hand >= MAX_HAND && !p->queue->asynchronous)
        pthread_cond_wait(&p->room, &p->lock);
    TAILQ_INSERT_TAIL(&p->hand, job, hand);
    if (p->n_hand++ == 0 || p->n_threads > 1)
        pthread_cond_signal(&p->ready);
    else if (are_enough_locked(p))
        pthread_cond_signal(&p->hurry);
    pthread_mutex_unlock(&p->lock);
}

void wq_publisher_hurry(wq_publisher *p)
{
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->hurry);
    pthread_mutex_unlock(&p->lock);
}

/* ---- open and close -------------------------------------------------------------------------- */

int wq_publisher_open(wq_publisher **out, wq_queue *queue, wq_error *error)
{
    wq_publisher *p = calloc(1, sizeof *p);
    if (p == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    int blocks = queue->store->blocks;
    unsigned n = blocks ? MAX_THREADS : queue->store->waits || queue->asynchronous;
    p->queue = queue;
    p->batch = blocks ? 1 : MAX_HAND;
    p->items = calloc(p->batch, sizeof *p->items);
    if (p->items == NULL) {
        free(p);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    TAILQ_INIT(&p->hand);
    TAILQ_INIT(&p->later);
    pthread_mutex_init(&p->lock, NULL);
    wq_cond_init(&p->ready);
    wq_cond_init(&p->hurry);
    pthread_cond_init(&p->room, NULL);
    while (p->n_threads < n) {
        int r = wq_thread_start(&p->threads[p->n_threads], "wq-publisher", publisher_main, p);
        if (r != 0) {
            wq_publisher_close(p);
            return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create: %s", strerror(r));
        }
        p->n_threads++;
    }
    *out = p;
    return WQ_OK;
}

void wq_publisher_stop(wq_publisher *p)
{
    wq_job *job;
    pthread_mutex_lock(&p->lock);
    p->stopping = 1;
    while ((job = take_later_locked(p, INT64_MAX)) != NULL) {
        pthread_mutex_unlock(&p->lock);
        count_put_off(p->queue, -1);
        give_up(p, job);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
}

void wq_publisher_close(wq_publisher *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = p->closing = 1;
    pthread_cond_broadcast(&p->ready);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->ready);
    pthread_cond_destroy(&p->hurry);
    pthread_cond_destroy(&p->room);
    pthread_mutex_destroy(&p->lock);
    free(p->items);
    free(p);
}
