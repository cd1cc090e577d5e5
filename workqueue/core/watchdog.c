/* watchdog.c - a thread that ends what exceeds its time.
 *
 * It sleeps until the first of the present deadlines, but no longer than the shortest limit: what
 * begins after it has looked cannot be due before. So nobody has to wake it, and a job costs it
 * nothing. */
#include "workqueue/core/watchdog.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workqueue/core/async_runner.h"
#include "workqueue/core/wishes.h"
#include "workqueue/core/worker.h"
#include "workqueue/util/threads.h"

struct wq_watchdog {
    wq_queue *queue;
    pthread_t thread;
    pthread_cond_t released; /* with the core's lock; on CLOCK_MONOTONIC */
    int release;             /* under the core's lock */
};

/* How long until any limit of a job that begins now. */
static int64_t shortest_limit(const wq_queue *queue)
{
    const unsigned limits[] = {queue->run_timeout_ms, queue->progress_timeout_ms,
                               queue->queue_timeout_ms};
    int64_t shortest = INT64_MAX;
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (limits[i] > 0 && limits[i] < shortest)
            shortest = limits[i];
    return shortest;
}

/* Fails the job that has waited longest, if that is too long; else 0, and `*next` is the time when
 * it will be. */
static int fail_overdue_locked(wq_queue *queue, int64_t now, int64_t *next, wq_effects *effects)
{
    char why[80];
    wq_job *oldest = queue->queue_timeout_ms > 0 ? TAILQ_FIRST(&queue->by_age) : NULL;
    if (oldest == NULL)
        return 0;
    int64_t due = oldest->queued_mono + queue->queue_timeout_ms;
    if (due > now) {
        *next = due < *next ? due : *next;
        return 0;
    }
    snprintf(why, sizeof why, "waited longer than %u ms in the queue", queue->queue_timeout_ms);
    wq_life_limit_locked(queue, oldest, why, effects);
    return 1;
}

/* Ends everything that is due; the time of the next look. */
static int64_t look_locked(wq_queue *queue)
{
    int64_t now = wq_monotonic_ms(), next = now + shortest_limit(queue);
    int more;
    do {
        wq_effects effects;
        wq_effects_init(&effects);
        more = fail_overdue_locked(queue, now, &next, &effects);
        if (!more && queue->pool != NULL)
            wq_pool_check_limits_locked(queue->pool, now, &next, &effects);
        if (!more && queue->async != NULL)
            wq_async_runner_check_limits_locked(queue->async, now, &next, &effects);
        pthread_mutex_unlock(&queue->lock);
        wq_effects_carry_out(queue, &effects);
        pthread_mutex_lock(&queue->lock);
    } while (more);
    return next;
}

static void *watchdog_main(void *arg)
{
    wq_watchdog *watchdog = arg;
    wq_queue *queue = watchdog->queue;
    pthread_mutex_lock(&queue->lock);
    while (!watchdog->release) {
        int64_t next = look_locked(queue);
        struct timespec until = {.tv_sec = next / 1000, .tv_nsec = next % 1000 * 1000000};
        int r = 0;
        while (!watchdog->release && r == 0)
            r = pthread_cond_timedwait(&watchdog->released, &queue->lock, &until);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

int wq_watchdog_open(wq_watchdog **out, wq_queue *queue, wq_error *error)
{
    *out = NULL;
    if (shortest_limit(queue) == INT64_MAX)
        return WQ_OK;
    wq_watchdog *watchdog = calloc(1, sizeof *watchdog);
    if (watchdog == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    watchdog->queue = queue;
    wq_cond_init(&watchdog->released);
    int r = wq_thread_start(&watchdog->thread, "wq-watchdog", watchdog_main, watchdog);
    if (r != 0) {
        free(watchdog);
        return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create for the watchdog: %s", strerror(r));
    }
    *out = watchdog;
    return WQ_OK;
}

void wq_watchdog_close(wq_watchdog *watchdog)
{
    if (watchdog == NULL)
        return;
    pthread_mutex_lock(&watchdog->queue->lock);
    watchdog->release = 1;
    pthread_cond_signal(&watchdog->released);
    pthread_mutex_unlock(&watchdog->queue->lock);
    pthread_join(watchdog->thread, NULL);
    pthread_cond_destroy(&watchdog->released);
    free(watchdog);
}
