/* worker.c - the pool: take a job, run it, publish, finish.
 *
 * A worker takes a job and hands it to the runner, which comes back when the program has ended. The
 * publisher makes its output durable, so that the next program runs meanwhile. An asynchronous
 * runner needs no workers: there is a dispatcher instead.
 *
 * Where there are time limits, a watchdog ends what exceeds one. It sleeps until the first of the
 * present deadlines, but no longer than the shortest limit: what begins after it has looked cannot
 * be due before. So nobody has to wake it, and a job costs it nothing.
 */
#include "workqueue/core/worker.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/core/async_runner.h"
#include "workqueue/core/run.h"
#include "workqueue/journal/journal.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

typedef struct worker {
    wq_flight flight; /* first */
    struct wq_pool *pool;
    pthread_t thread;
    unsigned slot;
    int cancel_fd; /* an eventfd; readable: end the run. Written under the queue's lock. */
} worker;

struct wq_pool {
    wq_queue *queue;
    wq_runner *runner;
    wq_publisher *publisher;
    wq_dispatch *dispatch; /* NULL: there are workers */
    worker *workers;
    unsigned started; /* threads that run */
    int has_watchdog;
    pthread_t watchdog;
    pthread_cond_t released; /* of the watchdog, with the queue's lock; on CLOCK_MONOTONIC */
    int release;             /* under the queue's lock */
};

/* ---- running --------------------------------------------------------------------------------- */

static void report(void *user, const char *line, size_t len)
{
    wq_flight_report(user, line, len);
}

static int ask_to_end(wq_flight *flight)
{
    return eventfd_write(((worker *)flight)->cancel_fd, 1) == 0;
}

static void begin_run(worker *w, wq_job *job)
{
    wq_queue *queue = w->pool->queue;
    uint64_t count;
    pthread_mutex_lock(&queue->lock);
    wq_flight_begin_locked(&w->flight, job);
    if (w->flight.told && read(w->cancel_fd, &count, sizeof count) > 0)
        w->flight.told = 0;
    w->flight.begun = wq_monotonic_ms();
    if (queue->stopping)
        wq_flight_tell_locked(&w->flight, wq_queue_why_stopping(queue));
    else if (job->ending) /* cancelled before we got here */
        wq_flight_tell_locked(&w->flight, "cancelled");
    pthread_mutex_unlock(&queue->lock);
}

static void end_run(worker *w)
{
    pthread_mutex_lock(&w->pool->queue->lock);
    w->flight.job->ran = 1;
    wq_flight_part_locked(&w->flight);
    pthread_mutex_unlock(&w->pool->queue->lock);
}

/* Runs the program; the outcome's error is the caller's to free. */
static void run(worker *w, wq_job *job, wq_outcome *outcome)
{
    wq_runner *runner = w->pool->runner;
    wq_run request = {
        .params = &job->params,
        .key = job->key,
        .id = job->id,
        .rebuild = job->rebuild,
        .resumed = job->was_journalled,
        .output_path = job->temp_path,
        .slot = w->slot,
        .cancel_fd = w->cancel_fd,
        .report = report,
        .user = job,
    };
    begin_run(w, job);
    runner->run(runner->self, &request, outcome);
    end_run(w);
}

/* A job of an earlier process: the server may have died because of it, so its start is noted before
 * it runs; or just before its end was noted, so its output may be there. Nonzero: it is. */
static int begin_again(wq_queue *queue, wq_job *job)
{
    wq_journal_started(queue->journal, job);
    if (!wq_queue_is_in_place(queue, job))
        return 0;
    wq_queue_finish(queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
    return 1;
}

static void run_job(worker *w, wq_job *job)
{
    wq_queue *queue = w->pool->queue;
    wq_store *store = queue->store;
    wq_outcome outcome = {.returncode = WQ_OWN_FAILURE};
    wq_error error = {0};
    if (job->was_journalled && begin_again(queue, job))
        return;
    int begun = store->begin(store->self, job->key, &job->temp_path, &error);
    if (wq_queue_store_said(queue, begun) < 0) {
        wq_queue_fail(queue, job, WQ_OWN_FAILURE, error.message);
        return;
    }
    run(w, job, &outcome);
    wq_flight_end(&w->flight, job, &outcome, w->pool->publisher);
}

static wq_job *take(worker *w)
{
    wq_queue *queue = w->pool->queue;
    wq_job *job = wq_queue_take(queue, 0);
    if (wq_queue_is_hungry(queue))
        wq_publisher_hurry(w->pool->publisher);
    return job != NULL ? job : wq_queue_take(queue, 1);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    wq_job *job;
    while ((job = take(w)) != NULL)
        run_job(w, job);
    return NULL;
}

/* ---- cancel and stop ------------------------------------------------------------------------- */

int wq_pool_cancel(wq_pool *pool, wq_job *job)
{
    pthread_mutex_lock(&pool->queue->lock);
    int running = job->state == WQ_STATE_RUNNING && !job->ran &&
                  (job->flight == NULL || wq_flight_cancel_locked(job->flight));
    if (running) /* without a flight the worker has not got so far yet */
        job->ending = 1;
    pthread_mutex_unlock(&pool->queue->lock);
    return running;
}

void wq_pool_stop(wq_pool *pool)
{
    pthread_mutex_lock(&pool->queue->lock);
    for (unsigned i = 0; i < pool->started; i++)
        wq_flight_tell_locked(&pool->workers[i].flight, wq_queue_why_stopping(pool->queue));
    pthread_cond_broadcast(&pool->queue->work);
    pthread_mutex_unlock(&pool->queue->lock);
    if (pool->dispatch != NULL)
        wq_dispatch_stop(pool->dispatch);
    wq_publisher_stop(pool->publisher);
}

/* ---- the watchdog ---------------------------------------------------------------------------- */

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* How long until any limit of a job that begins now. */
static int64_t shortest_limit(const wq_queue *queue)
{
    const unsigned limits[] = {queue->run_timeout_ms, queue->progress_timeout_ms,
                               queue->queue_timeout_ms};
    int64_t shortest = INT64_MAX;
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (limits[i] > 0)
            shortest = earlier(shortest, limits[i]);
    return shortest;
}

/* The job that has waited too long, with a reference; NULL if there is none, and then `*next` is
 * the time when there may be. */
static wq_job *overdue_locked(wq_queue *queue, int64_t now, int64_t *next)
{
    wq_job *oldest = queue->queue_timeout_ms > 0 ? TAILQ_FIRST(&queue->by_age) : NULL;
    if (oldest == NULL)
        return NULL;
    int64_t due = oldest->queued_mono + queue->queue_timeout_ms;
    if (due <= now)
        return wq_job_ref(oldest);
    *next = earlier(*next, due);
    return NULL;
}

/* Ends everything that is due; the time of the next look. */
static int64_t look_locked(wq_pool *pool)
{
    wq_queue *queue = pool->queue;
    wq_job *job;
    char why[80];
    int64_t now = wq_monotonic_ms(), next = now + shortest_limit(queue);
    snprintf(why, sizeof why, "waited longer than %u ms in the queue", queue->queue_timeout_ms);
    while ((job = overdue_locked(queue, now, &next)) != NULL) {
        pthread_mutex_unlock(&queue->lock); /* those who watch it are told */
        if (wq_queue_fail_queued(queue, job, why))
            wq_log(&queue->logger, WQ_LOG_WARNING, "job %s: %s", job->id, why);
        wq_job_unref(job);
        pthread_mutex_lock(&queue->lock);
    }
    for (unsigned i = 0; i < pool->started; i++)
        wq_flight_check_locked(&pool->workers[i].flight, now, &next);
    if (pool->dispatch != NULL)
        wq_dispatch_check_locked(pool->dispatch, now, &next);
    return next;
}

static void *watchdog_main(void *arg)
{
    wq_pool *pool = arg;
    pthread_mutex_lock(&pool->queue->lock);
    while (!pool->release) {
        int64_t next = look_locked(pool);
        struct timespec until = {.tv_sec = next / 1000, .tv_nsec = next % 1000 * 1000000};
        int r = 0;
        while (!pool->release && r == 0)
            r = pthread_cond_timedwait(&pool->released, &pool->queue->lock, &until);
    }
    pthread_mutex_unlock(&pool->queue->lock);
    return NULL;
}

static void release_watchdog(wq_pool *pool)
{
    if (!pool->has_watchdog)
        return;
    pthread_mutex_lock(&pool->queue->lock);
    pool->release = 1;
    pthread_cond_signal(&pool->released);
    pthread_mutex_unlock(&pool->queue->lock);
    pthread_join(pool->watchdog, NULL);
}

/* ---- open and close -------------------------------------------------------------------------- */

static int start_workers(wq_pool *pool, wq_error *error)
{
    unsigned n = pool->queue->workers;
    pool->workers = calloc(n, sizeof *pool->workers);
    if (pool->workers == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    for (unsigned i = 0; i < n; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.flight.tell = ask_to_end, .pool = pool, .slot = i};
        w->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (w->cancel_fd < 0)
            return wq_fail(error, WQ_ERROR_SYSTEM, "eventfd for a worker: %s", strerror(errno));
        int r = wq_thread_start(&w->thread, "wq-worker", worker_main, w);
        if (r != 0) {
            close(w->cancel_fd);
            return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create for worker %u of %u: %s", i + 1,
                           n, strerror(r));
        }
        pool->started++;
    }
    return WQ_OK;
}

/* After the workers, at whom it looks. */
static int start_watchdog(wq_pool *pool, wq_error *error)
{
    if (shortest_limit(pool->queue) == INT64_MAX)
        return WQ_OK;
    int r = wq_thread_start(&pool->watchdog, "wq-watchdog", watchdog_main, pool);
    if (r != 0)
        return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create for the watchdog: %s", strerror(r));
    pool->has_watchdog = 1;
    return WQ_OK;
}

int wq_pool_open(wq_pool **out, wq_queue *queue, wq_runner *runner, wq_error *error)
{
    wq_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        runner->close(runner);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    pool->queue = queue;
    pool->runner = runner;
    wq_cond_init(&pool->released);
    int result = wq_publisher_open(&pool->publisher, queue, error);
    if (result == WQ_OK && queue->asynchronous)
        result = wq_dispatch_open(&pool->dispatch, queue, runner, pool->publisher, error);
    else if (result == WQ_OK)
        result = start_workers(pool, error);
    if (result == WQ_OK)
        result = start_watchdog(pool, error);
    if (result == WQ_OK) {
        *out = pool;
        return WQ_OK;
    }
    pthread_mutex_lock(&queue->lock);
    queue->stopping = 1;
    pthread_mutex_unlock(&queue->lock);
    wq_queue_put_down(queue);
    if (pool->publisher != NULL)
        wq_pool_stop(pool);
    wq_pool_close(pool);
    return result;
}

void wq_pool_close(wq_pool *pool)
{
    if (pool == NULL)
        return;
    assert(pool->workers != NULL || pool->started == 0);
    for (unsigned i = 0; i < pool->started; i++) {
        pthread_join(pool->workers[i].thread, NULL);
        close(pool->workers[i].cancel_fd);
    }
    release_watchdog(pool);
    if (pool->dispatch != NULL)
        wq_dispatch_close(pool->dispatch);
    wq_publisher_close(pool->publisher);
    if (pool->dispatch == NULL)
        pool->runner->close(pool->runner);
    pthread_cond_destroy(&pool->released);
    free(pool->workers);
    free(pool);
}
