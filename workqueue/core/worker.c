/* worker.c - a pool of threads: each takes a job, has the runner run it, and hands on the outcome.
 *
 * A worker comes back from the runner when the program has ended. The publisher makes the output
 * durable, so that the next program runs meanwhile. */
#include "workqueue/core/worker.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "workqueue/core/run.h"
#include "workqueue/core/wishes.h"
#include "workqueue/util/threads.h"

typedef struct worker {
    wq_run_state run; /* first */
    struct wq_pool *pool;
    pthread_t thread;
    unsigned slot;
    int cancel_fd; /* an eventfd; readable: end the run. Written under the core's lock. */
} worker;

struct wq_pool {
    wq_queue *queue;
    wq_runner *runner;
    worker *workers;
    unsigned started; /* threads that run */
};

/* ---- running --------------------------------------------------------------------------------- */

static void report_line(void *user, const char *line, size_t len)
{
    wq_run_report(user, line, len);
}

static void told_stderr(void *user, const char *bytes, size_t len)
{
    wq_run_told_stderr(user, bytes, len);
}

static void told_memory(void *user, uint64_t bytes)
{
    wq_job *job = user;
    wq_job_told_memory(job, bytes);
    wq_job_news_tell(&job->queue->news, job); /* for lists; its record is the same */
}

static void request_stop_of_worker(wq_run_state *run)
{
    eventfd_write(((worker *)run)->cancel_fd, 1);
}

/* A job of an earlier process: the server may have died because of it, so its start is in the
 * journal before it runs; or just before its end was written, so its output may be there. So may
 * that of a job that stood behind another. Nonzero: it is, and the job has ended. */
static int is_done_already(wq_queue *queue, wq_job *job)
{
    if (job->was_journalled)
        wq_journal_wait_started(queue->recorder.self, &job->entry);
    if ((!job->was_journalled && !job->was_behind) || job->rebuild ||
        !wq_life_is_in_place(queue, job))
        return 0;
    wq_life_end(queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
    return 1;
}

/* Makes the output file and runs the program, unless somebody wants the job to end before. */
static void run_program(worker *w, wq_job *job, wq_outcome *outcome, char **temp_path)
{
    wq_queue *queue = w->pool->queue;
    wq_store *store = queue->store;
    wq_error error = {0};
    int begun = store->begin(store->self, job->key, temp_path, &error);
    if (wq_life_count_store_result(queue, begun) < 0) {
        outcome->error = strdup(error.message);
        return;
    }
    outcome->cancelled = !wq_life_begin(queue, &w->run, 0);
    if (outcome->cancelled)
        return;
    wq_run request = {
        .params = &job->params,
        .key = job->key,
        .id = job->id,
        .rebuild = job->rebuild,
        .resumed = job->was_journalled,
        .output_path = *temp_path,
        .slot = w->slot,
        .cancel_fd = w->cancel_fd,
        .traceparent = *job->trace != '\0' ? job->trace : NULL,
        .report = report_line,
        .told_stderr = told_stderr,
        .told_memory = told_memory,
        .user = job,
    };
    w->pool->runner->run(w->pool->runner->self, &request, outcome);
}

static void run_job(worker *w, wq_job *job)
{
    wq_queue *queue = w->pool->queue;
    wq_outcome outcome = {.returncode = WQ_RETURNCODE_OWN};
    char *temp_path = NULL;
    uint64_t count;
    if (!is_done_already(queue, job)) {
        run_program(w, job, &outcome, &temp_path);
        wq_run_over(queue, job, &outcome, temp_path);
    }
    /* nobody asks this run to stop any more: it is detached */
    if (w->run.stop_requested && read(w->cancel_fd, &count, sizeof count) > 0)
        w->run.stop_requested = 0;
    wq_job_unref(job);
}

static wq_job *take_job(worker *w)
{
    wq_queue *queue = w->pool->queue;
    wq_job *job = wq_life_take(queue, &w->run, 0);
    if (wq_life_has_idle_worker(queue))
        wq_publisher_flush_soon(queue->publisher);
    return job != NULL ? job : wq_life_take(queue, &w->run, 1);
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    wq_job *job;
    while ((job = take_job(w)) != NULL)
        run_job(w, job);
    return NULL;
}

void wq_pool_check_limits_locked(wq_pool *pool, int64_t now, int64_t *next, wq_effects *effects)
{
    for (unsigned i = 0; i < pool->started; i++)
        wq_run_check_limits_locked(pool->queue, &pool->workers[i].run, now, next, effects);
}

/* ---- open, stop and close -------------------------------------------------------------------- */

static int start_workers(wq_pool *pool, wq_error *error)
{
    unsigned n = pool->queue->workers;
    pool->workers = calloc(n, sizeof *pool->workers);
    if (pool->workers == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    for (unsigned i = 0; i < n; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.run.request_stop = request_stop_of_worker, .pool = pool, .slot = i};
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

int wq_pool_open(wq_pool **out, wq_queue *queue, wq_runner *runner, wq_error *error)
{
    wq_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        runner->close(runner);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    pool->queue = queue;
    pool->runner = runner;
    int result = start_workers(pool, error);
    if (result == WQ_OK) {
        *out = pool;
        return WQ_OK;
    }
    wq_life_stop(queue);
    wq_pool_stop(pool);
    wq_pool_close(pool);
    return result;
}

void wq_pool_stop(wq_pool *pool)
{
    pthread_mutex_lock(&pool->queue->lock);
    for (unsigned i = 0; i < pool->started; i++)
        wq_life_stop_run_locked(&pool->workers[i].run);
    pthread_mutex_unlock(&pool->queue->lock);
}

void wq_pool_close(wq_pool *pool)
{
    assert(pool->workers != NULL || pool->started == 0);
    for (unsigned i = 0; i < pool->started; i++) {
        pthread_join(pool->workers[i].thread, NULL);
        close(pool->workers[i].cancel_fd);
    }
    pool->runner->close(pool->runner);
    free(pool->workers);
    free(pool);
}
