/* worker.c - the pool: take a job, run it, publish, finish.
 *
 * A worker takes a job and hands it to the runner, which comes back when the program has ended. If
 * the store waits for the disk, the worker passes the job on to the publisher, so that the next
 * program runs meanwhile; the publisher takes all that have gathered and publishes them together,
 * which costs the disk little more than one alone. While every worker has a job, a batch begins at
 * least PAUSE_NS after the one before, so that batches grow; once a worker has nothing to do,
 * nobody waits. At most MAX_HAND jobs gather, then workers wait.
 *
 * Where there are time limits, a watchdog ends what exceeds one. It sleeps until the first of the
 * present deadlines, but no longer than the shortest limit: what begins after it has looked cannot
 * be due before. So nobody has to wake it, and a job costs it nothing.
 *
 * The pool's lock guards the publisher's row only and is taken last.
 */
#include "workqueue/worker.h"

#include "workqueue/journal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_HAND = 256, OWN_FAILURE = -999, PAUSE_NS = 5000000 };

typedef struct worker {
    struct wq_pool *pool;
    pthread_t thread;
    unsigned slot;
    int cancel_fd; /* an eventfd; readable: end the run. Written under the queue's lock. */
    wq_job *job;   /* what it runs; under the queue's lock */
    int told;      /* cancel_fd has been written for this job; under the queue's lock */
    int overdue;   /* that was for a time limit: the job has failed; under the queue's lock */
    char why[80];  /* the sentence for it; under the queue's lock, ours once the job has run */
    int stops;     /* it is because the queue stops; likewise */
    int64_t begun; /* when the run began, monotonic; under the queue's lock */
} worker;

struct wq_pool {
    wq_queue *queue;
    wq_runner *runner;
    worker *workers;
    unsigned started; /* threads that run */
    int has_publisher, has_watchdog;
    pthread_t publisher, watchdog;
    pthread_cond_t released; /* of the watchdog, with the queue's lock; on CLOCK_MONOTONIC */
    int release;             /* under the queue's lock */

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t ready, room;
    pthread_cond_t idle; /* a worker has nothing to do; on CLOCK_MONOTONIC */
    unsigned n_idle;
    struct wq_job_hand hand;
    size_t n_hand;
    int closing;
};

/* ---- the end of a job ------------------------------------------------------------------------ */

/* A program may print the token it was given; what we keep and log of that must not show it. Short
 * ones are words that could stand anywhere, and no secrets. */
enum { SECRET_BYTES = 8 };

static void hide_token(char *text, size_t len, const char *token)
{
    size_t n = strlen(token);
    if (n < SECRET_BYTES)
        return;
    char *end = text + len;
    for (char *p = text; (p = memmem(p, (size_t)(end - p), token, n)) != NULL; p += n)
        memset(p, '*', n);
}

/* The end of stderr may begin in the middle of a token. */
static void hide_token_in_error(char *error, const char *token)
{
    static const char head[] = "\nstderr:\n";
    size_t n = strlen(token);
    hide_token(error, strlen(error), token);
    char *tail = strstr(error, head);
    if (n < SECRET_BYTES || tail == NULL)
        return;
    tail += sizeof head - 1;
    for (size_t k = n - 1; k >= SECRET_BYTES / 2; k--)
        if (strncmp(tail, token + n - k, k) == 0) {
            memset(tail, '*', k);
            return;
        }
}

static void fail(wq_queue *queue, wq_job *job, int returncode, const char *error)
{
    wq_log(&queue->logger, WQ_LOG_WARNING, "job %s: %.*s", job->id, (int)strcspn(error, "\n"),
           error);
    wq_queue_finish(queue, job, WQ_STATE_FAILED, returncode, error);
}

static void end_published(wq_queue *queue, wq_job *job, const wq_publish *done)
{
    if (wq_queue_store_said(queue, done->result) >= 0)
        wq_queue_finish(queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
    else
        fail(queue, job, OWN_FAILURE, done->error.message);
}

/* ---- publishing ------------------------------------------------------------------------------ */

static void publish(wq_queue *queue, wq_job **jobs, size_t n)
{
    wq_publish items[MAX_HAND];
    for (size_t i = 0; i < n; i++)
        items[i] = (wq_publish){.key = jobs[i]->key,
                                .params = &jobs[i]->params,
                                .replace = jobs[i]->rebuild,
                                .temp_path = jobs[i]->temp_path};
    queue->store->publish(queue->store->self, items, n);
    for (size_t i = 0; i < n; i++)
        end_published(queue, jobs[i], &items[i]);
}

static void add_ns(struct timespec *t, long ns)
{
    t->tv_nsec += ns;
    t->tv_sec += t->tv_nsec / 1000000000;
    t->tv_nsec %= 1000000000;
}

static void *publisher_main(void *arg)
{
    wq_pool *pool = arg;
    wq_job *jobs[MAX_HAND];
    struct timespec next = {0};
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->n_hand == 0 && !pool->closing)
            pthread_cond_wait(&pool->ready, &pool->lock);
        if (pool->n_hand == 0)
            break;
        while (pool->n_idle == 0 && pool->n_hand < MAX_HAND &&
               pthread_cond_timedwait(&pool->idle, &pool->lock, &next) == 0)
            ;
        clock_gettime(CLOCK_MONOTONIC, &next);
        add_ns(&next, PAUSE_NS);
        size_t n = 0;
        for (; pool->n_hand > 0; pool->n_hand--) {
            jobs[n++] = STAILQ_FIRST(&pool->hand);
            STAILQ_REMOVE_HEAD(&pool->hand, hand);
        }
        pthread_cond_broadcast(&pool->room);
        pthread_mutex_unlock(&pool->lock);
        publish(pool->queue, jobs, n);
        pthread_mutex_lock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

static void hand_over(wq_pool *pool, wq_job *job)
{
    pthread_mutex_lock(&pool->lock);
    while (pool->n_hand == MAX_HAND)
        pthread_cond_wait(&pool->room, &pool->lock);
    STAILQ_INSERT_TAIL(&pool->hand, job, hand);
    if (pool->n_hand++ == 0)
        pthread_cond_signal(&pool->ready);
    pthread_mutex_unlock(&pool->lock);
}

/* ---- running --------------------------------------------------------------------------------- */

static void report(void *user, const char *line, size_t len)
{
    wq_job *job = user;
    if (wq_job_report(job, line, len) == 0 || job->warned)
        return;
    job->warned = 1; /* only this worker touches it */
    char *text =
        malloc(len + 1); /* the log cuts it; hidden before, lest a cut shows half a token */
    if (text == NULL)
        return;
    for (size_t i = 0; i < len; i++)
        text[i] = line[i] ? line[i] : '?';
    text[len] = '\0';
    hide_token(text, len, job->params.api_token);
    wq_log(&job->queue->logger, WQ_LOG_WARNING,
           "job %s: invalid program: stdout must look like '0.25\\tmessage'; got '%.400s'", job->id,
           text);
    free(text);
}

static void tell_worker_locked(worker *w, const char *why)
{
    if (w->job == NULL || w->told)
        return;
    snprintf(w->why, sizeof w->why, "%s", why);
    w->stops = why == wq_queue_why_stopping(w->pool->queue);
    w->told = eventfd_write(w->cancel_fd, 1) == 0;
}

static void begin_run(worker *w, wq_job *job)
{
    wq_queue *queue = w->pool->queue;
    uint64_t count;
    pthread_mutex_lock(&queue->lock);
    w->job = job;
    if (w->told && read(w->cancel_fd, &count, sizeof count) > 0)
        w->told = 0;
    w->overdue = 0;
    w->begun = wq_monotonic_ms();
    if (queue->stopping)
        tell_worker_locked(w, wq_queue_why_stopping(queue));
    else if (job->ending) /* cancelled before we got here */
        tell_worker_locked(w, "cancelled");
    pthread_mutex_unlock(&queue->lock);
}

static void end_run(worker *w)
{
    pthread_mutex_lock(&w->pool->queue->lock);
    w->job->ran = 1;
    w->job = NULL;
    pthread_mutex_unlock(&w->pool->queue->lock);
}

/* Runs the program; the outcome's error is the caller's to free. */
static void run(worker *w, wq_job *job, wq_outcome *outcome)
{
    wq_runner *runner = w->pool->runner;
    wq_run request = {
        .params = &job->params,
        .key = job->key,
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

/* However the program ended: what is too long may have been cut. */
static int is_output_too_long(const wq_queue *queue, const wq_job *job)
{
    struct stat st;
    return queue->max_output_bytes > 0 && lstat(job->temp_path, &st) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size > queue->max_output_bytes;
}

static void fail_too_long(wq_queue *queue, wq_job *job)
{
    char text[80];
    snprintf(text, sizeof text, "wrote more than %llu bytes to its output file",
             (unsigned long long)queue->max_output_bytes);
    fail(queue, job, OWN_FAILURE, text);
}

/* The end of a job that has nothing to publish. */
static void end_unpublished(worker *w, wq_job *job, const wq_outcome *outcome, int too_long)
{
    wq_queue *queue = w->pool->queue;
    if (outcome->cancelled && w->overdue)
        fail(queue, job, OWN_FAILURE, w->why);
    else if (outcome->cancelled)
        wq_queue_finish(queue, job, WQ_STATE_CANCELLED, OWN_FAILURE, w->why);
    else if (too_long)
        fail_too_long(queue, job);
    else
        fail(queue, job, outcome->returncode, outcome->error ? outcome->error : "out of memory");
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
    wq_outcome outcome = {.returncode = OWN_FAILURE};
    wq_error error = {0};
    if (job->was_journalled && begin_again(queue, job))
        return;
    int begun = store->begin(store->self, job->key, &job->temp_path, &error);
    if (wq_queue_store_said(queue, begun) < 0) {
        fail(queue, job, OWN_FAILURE, error.message);
        return;
    }
    run(w, job, &outcome);
    if (outcome.error != NULL)
        hide_token_in_error(outcome.error, job->params.api_token);
    int too_long = is_output_too_long(queue, job);
    if (outcome.returncode == 0 && !outcome.cancelled && !too_long) {
        wq_queue_publishing(queue, job);
        if (w->pool->has_publisher)
            hand_over(w->pool, job);
        else
            publish(queue, &job, 1);
    } else {
        store->discard(store->self, job->temp_path);
        job->kept = outcome.cancelled && w->stops;
        end_unpublished(w, job, &outcome, too_long);
    }
    free(outcome.error);
}

static void add_idle(wq_pool *pool, int n)
{
    pthread_mutex_lock(&pool->lock);
    pool->n_idle += (unsigned)n;
    if (n > 0)
        pthread_cond_signal(&pool->idle);
    pthread_mutex_unlock(&pool->lock);
}

static wq_job *take(worker *w)
{
    wq_job *job = wq_queue_take(w->pool->queue, w->slot, 0);
    if (job != NULL)
        return job;
    add_idle(w->pool, 1);
    job = wq_queue_take(w->pool->queue, w->slot, 1);
    if (job != NULL)
        add_idle(w->pool, -1);
    return job;
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
    int running = job->state == WQ_STATE_RUNNING && !job->ran;
    if (running) {
        job->ending = 1;
        if (pool->workers[job->slot].job == job)
            tell_worker_locked(&pool->workers[job->slot], "cancelled");
    }
    pthread_mutex_unlock(&pool->queue->lock);
    return running;
}

void wq_pool_stop(wq_pool *pool)
{
    pthread_mutex_lock(&pool->queue->lock);
    for (unsigned i = 0; i < pool->started; i++)
        tell_worker_locked(&pool->workers[i], wq_queue_why_stopping(pool->queue));
    pthread_cond_broadcast(&pool->queue->work);
    pthread_mutex_unlock(&pool->queue->lock);
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

/* Whose time is up is told so; else `*next` becomes the time when it will be. */
static void check_limit_locked(worker *w, int64_t since, unsigned limit_ms, const char *format,
                               int64_t now, int64_t *next)
{
    char why[sizeof w->why];
    if (limit_ms == 0 || w->job == NULL || w->told)
        return;
    if (since + limit_ms > now) {
        *next = earlier(*next, since + limit_ms);
        return;
    }
    snprintf(why, sizeof why, format, limit_ms);
    tell_worker_locked(w, why);
    w->overdue = w->told;
    w->job->ending = w->told;
}

static int64_t heard(wq_job *job)
{
    pthread_mutex_lock(&job->lock);
    int64_t at = job->heard_mono;
    pthread_mutex_unlock(&job->lock);
    return at;
}

static void check_worker_locked(worker *w, int64_t now, int64_t *next)
{
    const wq_queue *queue = w->pool->queue;
    if (w->job == NULL || w->told)
        return;
    int64_t at = queue->progress_timeout_ms > 0 ? heard(w->job) : 0;
    check_limit_locked(w, w->begun, queue->run_timeout_ms, "timed out after %u ms", now, next);
    check_limit_locked(w, at > w->begun ? at : w->begun, queue->progress_timeout_ms,
                       "no progress for %u ms", now, next);
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
    for (unsigned i = 0; i < queue->workers; i++)
        check_worker_locked(&pool->workers[i], now, &next);
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
    for (unsigned i = 0; i < n; i++) {
        worker *w = &pool->workers[i];
        *w = (worker){.pool = pool, .slot = i};
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
    int result;
    wq_pool *pool = calloc(1, sizeof *pool);
    if (pool == NULL) {
        runner->close(runner);
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    }
    pool->queue = queue;
    pool->runner = runner;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->ready, NULL);
    pthread_cond_init(&pool->room, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&pool->idle, &attr);
    pthread_cond_init(&pool->released, &attr);
    pthread_condattr_destroy(&attr);
    STAILQ_INIT(&pool->hand);
    pool->workers = calloc(queue->workers, sizeof *pool->workers);
    if (pool->workers == NULL) {
        result = wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
        goto failed;
    }
    if (queue->store->waits) {
        int r = wq_thread_start(&pool->publisher, "wq-publisher", publisher_main, pool);
        if (r != 0) {
            result = wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create: %s", strerror(r));
            goto failed;
        }
        pool->has_publisher = 1;
    }
    if ((result = start_workers(pool, error)) == WQ_OK)
        result = start_watchdog(pool, error);
    if (result != WQ_OK)
        goto failed;
    *out = pool;
    return WQ_OK;
failed:
    pthread_mutex_lock(&queue->lock);
    queue->stopping = 1;
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->lock);
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
    if (pool->has_publisher) {
        pthread_mutex_lock(&pool->lock);
        pool->closing = 1;
        pthread_cond_signal(&pool->ready);
        pthread_mutex_unlock(&pool->lock);
        pthread_join(pool->publisher, NULL);
    }
    pool->runner->close(pool->runner);
    pthread_cond_destroy(&pool->ready);
    pthread_cond_destroy(&pool->room);
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->released);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}
