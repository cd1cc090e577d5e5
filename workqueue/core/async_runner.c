/* async_runner.c - sends jobs out to an asynchronous runner, and takes in what becomes of them.
 *
 * One thread makes all calls of `start` and `cancel`, so a run is never cancelled before it is
 * started. A job that was sent keeps its place in the queue order until its program runs. What is
 * out is a remote run: it lives until the runner has called `ended` for it and nobody calls the
 * runner about it any more, also if its job has ended before, because it was cancelled while it
 * waited or because the queue stops: then it is detached. */
#include "workqueue/core/async_runner.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/core/run.h"
#include "workqueue/core/wishes.h"
#include "workqueue/util/threads.h"

enum { INTEREST_MS = 1000 };

typedef struct remote_run {
    wq_run_state state; /* first */
    wq_run run;
    wq_async_runner *async;
    wq_job *job; /* counted */
    /* under the core's lock */
    unsigned refs;   /* the runner's until `ended`, and one for each call about it */
    int has_ended;   /* `ended` has been called */
    char *temp_path; /* owned; NULL: none was asked for, or it has been handed on */
    TAILQ_ENTRY(remote_run) link;
    STAILQ_ENTRY(remote_run) to_cancel;
} remote_run;

struct wq_async_runner {
    wq_queue *queue;
    wq_runner *runner;
    pthread_t thread;
    /* under the core's lock */
    TAILQ_HEAD(, remote_run) out;
    size_t n_out;
    STAILQ_HEAD(, remote_run) to_cancel; /* counted */
    size_t n_interests;                  /* calls of the runner that are under way */
    int closing;
};

/* ---- what is out ----------------------------------------------------------------------------- */

static void free_remote_run(remote_run *r)
{
    wq_store *store = r->async->queue->store;
    if (r->temp_path != NULL)
        store->discard(store->self, r->temp_path);
    free(r->temp_path);
    wq_job_unref(r->job);
    free(r);
}

static void unref_remote_run(remote_run *r)
{
    pthread_mutex_t *lock = &r->async->queue->lock;
    pthread_mutex_lock(lock);
    unsigned refs = --r->refs;
    pthread_mutex_unlock(lock);
    if (refs == 0)
        free_remote_run(r);
}

/* The thread is told, which tells the runner: whoever asks holds the lock. */
static void request_stop_of_remote_run(wq_run_state *run)
{
    remote_run *r = (remote_run *)run;
    r->refs++;
    STAILQ_INSERT_TAIL(&r->async->to_cancel, r, to_cancel);
    pthread_cond_broadcast(&r->async->queue->work);
}

/* The runner's reference goes. Once it does not count as out any more, the queue may be closed. */
static void leave_out(remote_run *r)
{
    wq_async_runner *a = r->async;
    wq_queue *queue = a->queue;
    pthread_mutex_lock(&queue->lock);
    TAILQ_REMOVE(&a->out, r, link);
    pthread_mutex_unlock(&queue->lock);
    unref_remote_run(r);
    pthread_mutex_lock(&queue->lock);
    a->n_out--;
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->lock);
}

/* ---- what the runner says -------------------------------------------------------------------- */

static void on_begun(void *user, uint64_t estimate_ms)
{
    remote_run *r = user;
    wq_life_begin(r->async->queue, &r->state, estimate_ms);
}

static int is_attached(remote_run *r)
{
    pthread_mutex_lock(&r->async->queue->lock);
    int is = r->state.job != NULL;
    pthread_mutex_unlock(&r->async->queue->lock);
    return is;
}

static void on_report(void *user, const char *line, size_t len)
{
    remote_run *r = user;
    on_begun(r, 0);
    if (is_attached(r))
        wq_run_report(r->job, line, len);
}

static int on_output(void *user, const char **path, wq_error *error)
{
    remote_run *r = user;
    wq_queue *queue = r->async->queue;
    char *made = NULL;
    pthread_mutex_lock(&queue->lock);
    char *have = r->temp_path;
    pthread_mutex_unlock(&queue->lock);
    if (have == NULL) {
        int result = queue->store->begin(queue->store->self, r->job->key, &made, error);
        if (wq_life_count_store_result(queue, result) < 0)
            return result;
        pthread_mutex_lock(&queue->lock);
        if (r->temp_path == NULL) {
            r->temp_path = made;
            made = NULL;
        }
        have = r->temp_path;
        pthread_mutex_unlock(&queue->lock);
    }
    if (made != NULL) /* another thread was faster */
        queue->store->discard(queue->store->self, made);
    free(made);
    *path = have;
    return WQ_OK;
}

static int is_watched(void *user)
{
    const remote_run *r = user;
    return atomic_load(&r->job->n_watching) > 0;
}

static void on_ended(void *user, const wq_outcome *outcome)
{
    remote_run *r = user;
    wq_queue *queue = r->async->queue;
    wq_outcome taken = *outcome;
    char *temp_path = NULL;
    wq_life_begin(queue, &r->state, 0);
    pthread_mutex_lock(&queue->lock);
    assert(!r->has_ended);
    r->has_ended = 1;
    pthread_mutex_unlock(&queue->lock);
    wq_job *job = wq_life_detach(queue, &r->state);
    if (job != NULL) {
        pthread_mutex_lock(&queue->lock);
        temp_path = r->temp_path;
        r->temp_path = NULL;
        pthread_mutex_unlock(&queue->lock);
        wq_run_over(queue, job, &taken, temp_path);
    } else {
        free(taken.error);
    }
    leave_out(r);
}

void wq_async_runner_interest(wq_job *job)
{
    wq_queue *queue = job->queue;
    int64_t now = wq_monotonic_ms(), last = atomic_load(&job->interest_mono);
    if (last != 0 && now - last < INTEREST_MS)
        return;
    pthread_mutex_lock(&queue->lock);
    remote_run *r = (remote_run *)job->run;
    if (r != NULL) {
        atomic_store(&job->interest_mono, now);
        r->refs++;
        r->async->n_interests++;
    }
    pthread_mutex_unlock(&queue->lock);
    if (r == NULL)
        return;
    wq_async_runner *a = r->async;
    a->runner->interest(a->runner->self, &r->run);
    unref_remote_run(r);
    pthread_mutex_lock(&queue->lock);
    a->n_interests--;
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->lock);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static remote_run *new_remote_run(wq_async_runner *a)
{
    remote_run *r = calloc(1, sizeof *r);
    if (r == NULL)
        return NULL;
    r->async = a;
    r->state.request_stop = request_stop_of_remote_run;
    r->refs = 2; /* the runner's, and that of the call of `start` */
    return r;
}

static void describe_run(remote_run *r, wq_job *job)
{
    r->run = (wq_run){.params = &job->params,
                      .key = job->key,
                      .id = job->id,
                      .rebuild = job->rebuild,
                      .resumed = job->was_journalled,
                      .cancel_fd = -1,
                      .traceparent = *job->trace != '\0' ? job->trace : NULL,
                      .user = r,
                      .report = on_report,
                      .begun = on_begun,
                      .output = on_output,
                      .watched = is_watched,
                      .ended = on_ended};
}

/* Lets go of the lock meanwhile. Without memory nothing is sent, until something has ended. */
static void send_first_locked(wq_async_runner *a)
{
    wq_queue *queue = a->queue;
    wq_error error = {0};
    remote_run *r = new_remote_run(a);
    if (r == NULL) {
        pthread_cond_wait(&queue->work, &queue->lock);
        return;
    }
    r->job = wq_life_send_locked(queue, &r->state);
    describe_run(r, r->job);
    TAILQ_INSERT_TAIL(&a->out, r, link);
    a->n_out++;
    pthread_mutex_unlock(&queue->lock);
    if (a->runner->start(a->runner->self, &r->run, &error) < 0)
        on_ended(r, &(wq_outcome){.returncode = WQ_RETURNCODE_OWN, .error = strdup(error.message)});
    unref_remote_run(r);
    pthread_mutex_lock(&queue->lock);
}

/* Likewise. */
static void cancel_first_locked(wq_async_runner *a)
{
    remote_run *r = STAILQ_FIRST(&a->to_cancel);
    STAILQ_REMOVE_HEAD(&a->to_cancel, to_cancel);
    int has_ended = r->has_ended;
    pthread_mutex_unlock(&a->queue->lock);
    if (!has_ended)
        a->runner->cancel(a->runner->self, &r->run);
    unref_remote_run(r);
    pthread_mutex_lock(&a->queue->lock);
}

/* With a journal nobody waits for what is out. */
static int is_done_locked(const wq_async_runner *a)
{
    return a->closing && a->n_interests == 0 && (a->queue->recorder.self != NULL || a->n_out == 0);
}

static void *async_runner_main(void *arg)
{
    wq_async_runner *a = arg;
    wq_queue *queue = a->queue;
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        if (!STAILQ_EMPTY(&a->to_cancel))
            cancel_first_locked(a);
        else if (!queue->stopping && a->n_out < queue->workers && wq_life_has_ready_locked(queue))
            send_first_locked(a);
        else if (is_done_locked(a))
            break;
        else
            pthread_cond_wait(&queue->work, &queue->lock);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

void wq_async_runner_check_limits_locked(wq_async_runner *a, int64_t now, int64_t *next,
                                         wq_effects *effects)
{
    remote_run *r;
    TAILQ_FOREACH(r, &a->out, link)
    wq_run_check_limits_locked(a->queue, &r->state, now, next, effects);
}

/* ---- open, stop and close -------------------------------------------------------------------- */

int wq_async_runner_open(wq_async_runner **out, wq_queue *queue, wq_runner *runner, wq_error *error)
{
    wq_async_runner *a = calloc(1, sizeof *a);
    if (a == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    a->queue = queue;
    a->runner = runner;
    TAILQ_INIT(&a->out);
    STAILQ_INIT(&a->to_cancel);
    *out = a; /* the thread's first job may end before we return */
    int r = wq_thread_start(&a->thread, "wq-async-runner", async_runner_main, a);
    if (r == 0)
        return WQ_OK;
    *out = NULL;
    free(a);
    return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create for the runner: %s", strerror(r));
}

/* One whose program runs; NULL if there is none. */
static wq_job *first_running_locked(wq_async_runner *a)
{
    remote_run *r;
    TAILQ_FOREACH(r, &a->out, link)
    if (r->state.job != NULL)
        return r->state.job;
    return NULL;
}

/* They go on where they are. One by one, as watchers are told in between; but each is found and
 * ended without letting go of the lock, as its run may be over at any time and then has the job. */
static void interrupt_all(wq_async_runner *a)
{
    wq_queue *queue = a->queue;
    wq_job *job;
    do {
        wq_effects effects;
        wq_effects_init(&effects);
        pthread_mutex_lock(&queue->lock);
        job = first_running_locked(a);
        if (job != NULL)
            wq_life_interrupt_locked(queue, job, &effects);
        pthread_mutex_unlock(&queue->lock);
        wq_effects_carry_out(queue, &effects);
    } while (job != NULL);
}

static void cancel_all(wq_async_runner *a)
{
    remote_run *r;
    pthread_mutex_lock(&a->queue->lock);
    TAILQ_FOREACH(r, &a->out, link)
    wq_life_stop_run_locked(&r->state);
    pthread_mutex_unlock(&a->queue->lock);
}

void wq_async_runner_stop(wq_async_runner *a)
{
    if (a->queue->recorder.self != NULL)
        interrupt_all(a);
    else
        cancel_all(a);
}

void wq_async_runner_close(wq_async_runner *a)
{
    remote_run *r;
    pthread_mutex_lock(&a->queue->lock);
    a->closing = 1;
    pthread_cond_broadcast(&a->queue->work);
    pthread_mutex_unlock(&a->queue->lock);
    pthread_join(a->thread, NULL);
    a->runner->close(a->runner);
    while ((r = TAILQ_FIRST(&a->out)) != NULL) { /* they go on where they are */
        TAILQ_REMOVE(&a->out, r, link);
        free_remote_run(r);
    }
    free(a);
}
