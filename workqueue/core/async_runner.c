/* dispatch.c - the dispatcher of an asynchronous runner.
 *
 * One thread makes all calls of `start` and `cancel`, so a run is never cancelled before it is
 * started. A job that was started keeps its place in the row until its program runs. What is out is
 * a `sent`: it lives until the runner has called `ended` for it and nobody calls the runner about
 * it any more, also if its job has ended before, because it was cancelled while it waited or
 * because the queue stops.
 *
 * Whoever takes the job from a `sent`, under the queue's lock, has to end it: `ended`, a cancel of
 * a queued job, or the stop. */
#include "workqueue/core/async_runner.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/core/run.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

enum { INTEREST_MS = 1000 };

typedef struct sent {
    wq_flight flight; /* first */
    wq_run run;
    wq_dispatch *dispatch;
    wq_job *job; /* counted */
    /* under the queue's lock */
    unsigned refs;   /* the runner's until `ended`, and one for each call about it */
    int has_ended;   /* `ended` has been called */
    char *temp_path; /* owned; NULL: none was asked for, or it is the job's */
    TAILQ_ENTRY(sent) link;
    STAILQ_ENTRY(sent) to_cancel;
} sent;

struct wq_dispatch {
    wq_queue *queue;
    wq_runner *runner;
    wq_publisher *publisher;
    pthread_t thread;
    /* under the queue's lock */
    TAILQ_HEAD(, sent) out;
    size_t n_out;
    STAILQ_HEAD(, sent) to_cancel; /* counted */
    size_t n_interests;            /* calls of the runner that are under way */
    int closing;
};

/* ---- what is out ----------------------------------------------------------------------------- */

static void free_sent(sent *s)
{
    wq_store *store = s->dispatch->queue->store;
    if (s->temp_path != NULL)
        store->discard(store->self, s->temp_path);
    free(s->temp_path);
    wq_job_unref(s->job);
    free(s);
}

static void let_go(sent *s)
{
    pthread_mutex_t *lock = &s->dispatch->queue->lock;
    pthread_mutex_lock(lock);
    unsigned refs = --s->refs;
    pthread_mutex_unlock(lock);
    if (refs == 0)
        free_sent(s);
}

/* The thread is told, which tells the runner: whoever asks holds the lock. */
static int ask_to_end(wq_flight *flight)
{
    sent *s = (sent *)flight;
    s->refs++;
    STAILQ_INSERT_TAIL(&s->dispatch->to_cancel, s, to_cancel);
    pthread_cond_broadcast(&s->dispatch->queue->work);
    return 1;
}

/* The runner's reference goes. Once it does not count as out any more, the queue may be closed. */
static void leave(sent *s)
{
    wq_dispatch *d = s->dispatch;
    wq_queue *queue = d->queue;
    pthread_mutex_lock(&queue->lock);
    TAILQ_REMOVE(&d->out, s, link);
    pthread_mutex_unlock(&queue->lock);
    let_go(s);
    pthread_mutex_lock(&queue->lock);
    d->n_out--;
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->lock);
}

/* ---- what the runner says -------------------------------------------------------------------- */

/* Nonzero if the job's program has begun with this. */
static int begin_locked(sent *s)
{
    wq_job *job = s->flight.job;
    if (job == NULL || job->state != WQ_STATE_QUEUED)
        return 0;
    wq_queue_start_locked(s->dispatch->queue, job);
    s->flight.begun = job->started_mono;
    return 1;
}

static void begun(void *user, uint64_t estimate_ms)
{
    sent *s = user;
    wq_queue *queue = s->dispatch->queue;
    pthread_mutex_lock(&queue->lock);
    int begins = begin_locked(s);
    if (estimate_ms > 0)
        s->job->estimate_ms = estimate_ms;
    size_t waiting = queue->queued;
    pthread_mutex_unlock(&queue->lock);
    if (begins)
        wq_watchers_tell(&s->job->watchers);
    if (begins && waiting > 0) /* those in front of it have one more who runs */
        wq_watchers_tell(&queue->watchers);
}

/* Has the job's end not been decided here? */
static int is_wanted(sent *s)
{
    pthread_mutex_lock(&s->dispatch->queue->lock);
    int wanted = s->flight.job != NULL;
    pthread_mutex_unlock(&s->dispatch->queue->lock);
    return wanted;
}

static void report(void *user, const char *line, size_t len)
{
    sent *s = user;
    begun(s, 0);
    if (is_wanted(s))
        wq_flight_report(s->job, line, len);
}

static int output(void *user, const char **path, wq_error *error)
{
    sent *s = user;
    wq_queue *queue = s->dispatch->queue;
    char *made = NULL;
    pthread_mutex_lock(&queue->lock);
    char *have = s->temp_path;
    pthread_mutex_unlock(&queue->lock);
    if (have == NULL) {
        int result = queue->store->begin(queue->store->self, s->job->key, &made, error);
        if (wq_queue_store_said(queue, result) < 0)
            return result;
        pthread_mutex_lock(&queue->lock);
        if (s->temp_path == NULL) {
            s->temp_path = made;
            made = NULL;
        }
        have = s->temp_path;
        pthread_mutex_unlock(&queue->lock);
    }
    if (made != NULL) /* another thread was faster */
        queue->store->discard(queue->store->self, made);
    free(made);
    *path = have;
    return WQ_OK;
}

static int watched(void *user)
{
    const sent *s = user;
    return atomic_load(&s->job->n_watching) > 0;
}

/* The job is ours to end, or NULL if somebody else has ended it. */
static wq_job *take_job_locked(sent *s)
{
    wq_job *job = s->flight.job;
    assert(!s->has_ended);
    s->has_ended = 1;
    if (job == NULL)
        return NULL;
    begin_locked(s);
    job->ran = 1;
    job->temp_path = s->temp_path;
    s->temp_path = NULL;
    wq_flight_part_locked(&s->flight);
    return job;
}

static void ended(void *user, const wq_outcome *outcome)
{
    sent *s = user;
    wq_queue *queue = s->dispatch->queue;
    pthread_mutex_lock(&queue->lock);
    wq_job *job = take_job_locked(s);
    pthread_mutex_unlock(&queue->lock);
    if (job != NULL)
        wq_flight_end(&s->flight, job, outcome, s->dispatch->publisher);
    else
        free(outcome->error);
    leave(s);
}

void wq_dispatch_interest(wq_job *job)
{
    wq_queue *queue = job->queue;
    int64_t now = wq_monotonic_ms(), last = atomic_load(&job->interest_mono);
    if (last != 0 && now - last < INTEREST_MS)
        return;
    pthread_mutex_lock(&queue->lock);
    sent *s = (sent *)job->flight;
    if (s != NULL) {
        atomic_store(&job->interest_mono, now);
        s->refs++;
        s->dispatch->n_interests++;
    }
    pthread_mutex_unlock(&queue->lock);
    if (s == NULL)
        return;
    wq_dispatch *d = s->dispatch;
    d->runner->interest(d->runner->self, &s->run);
    let_go(s);
    pthread_mutex_lock(&queue->lock);
    d->n_interests--;
    pthread_cond_broadcast(&queue->work);
    pthread_mutex_unlock(&queue->lock);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static sent *new_sent(wq_dispatch *d, wq_job *job)
{
    sent *s = calloc(1, sizeof *s);
    if (s == NULL)
        return NULL;
    s->dispatch = d;
    s->job = wq_job_ref(job);
    s->flight.tell = ask_to_end;
    s->refs = 2; /* the runner's, and that of the call of `start` */
    s->run = (wq_run){.params = &job->params,
                      .key = job->key,
                      .id = job->id,
                      .rebuild = job->rebuild,
                      .resumed = job->was_journalled,
                      .cancel_fd = -1,
                      .user = s,
                      .report = report,
                      .begun = begun,
                      .output = output,
                      .watched = watched,
                      .ended = ended};
    return s;
}

/* Lets go of the lock meanwhile. */
static void send_locked(wq_dispatch *d)
{
    wq_queue *queue = d->queue;
    wq_error error = {0};
    wq_job *job = wq_queue_send_locked(queue);
    sent *s = new_sent(d, job);
    if (s != NULL) {
        TAILQ_INSERT_TAIL(&d->out, s, link);
        d->n_out++;
        wq_flight_begin_locked(&s->flight, job);
    }
    pthread_mutex_unlock(&queue->lock);
    if (s == NULL)
        wq_queue_fail_queued(queue, job, "out of memory");
    else if (d->runner->start(d->runner->self, &s->run, &error) < 0)
        ended(s, &(wq_outcome){.returncode = WQ_OWN_FAILURE, .error = strdup(error.message)});
    if (s != NULL)
        let_go(s);
    wq_job_unref(job);
    pthread_mutex_lock(&queue->lock);
}

/* Likewise. */
static void cancel_locked(wq_dispatch *d, sent *s)
{
    STAILQ_REMOVE_HEAD(&d->to_cancel, to_cancel);
    int has_ended = s->has_ended;
    pthread_mutex_unlock(&d->queue->lock);
    if (!has_ended)
        d->runner->cancel(d->runner->self, &s->run);
    let_go(s);
    pthread_mutex_lock(&d->queue->lock);
}

/* With a journal nobody waits for what is out. */
static int is_done_locked(const wq_dispatch *d)
{
    return d->closing && d->n_interests == 0 && (d->queue->journal != NULL || d->n_out == 0);
}

static void *dispatch_main(void *arg)
{
    wq_dispatch *d = arg;
    wq_queue *queue = d->queue;
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        if (!STAILQ_EMPTY(&d->to_cancel)) {
            cancel_locked(d, STAILQ_FIRST(&d->to_cancel));
        } else if (!queue->stopping && d->n_out < queue->workers &&
                   wq_queue_may_take_locked(queue)) {
            send_locked(d);
        } else if (is_done_locked(d)) {
            break;
        } else {
            pthread_cond_wait(&queue->work, &queue->lock);
        }
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

void wq_dispatch_check_locked(wq_dispatch *d, int64_t now, int64_t *next)
{
    sent *s;
    TAILQ_FOREACH(s, &d->out, link)
    wq_flight_check_locked(&s->flight, now, next);
}

/* ---- open, stop and close -------------------------------------------------------------------- */

int wq_dispatch_open(wq_dispatch **out, wq_queue *queue, wq_runner *runner, wq_publisher *publisher,
                     wq_error *error)
{
    wq_dispatch *d = calloc(1, sizeof *d);
    if (d == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    d->queue = queue;
    d->runner = runner;
    d->publisher = publisher;
    TAILQ_INIT(&d->out);
    STAILQ_INIT(&d->to_cancel);
    *out = d; /* the thread's first job may end before we return */
    int r = wq_thread_start(&d->thread, "wq-dispatch", dispatch_main, d);
    if (r == 0)
        return WQ_OK;
    *out = NULL;
    free(d);
    return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create for the dispatcher: %s", strerror(r));
}

/* One whose program runs, with a reference to its job; NULL if there is none. */
static wq_job *running_locked(wq_dispatch *d)
{
    sent *s;
    TAILQ_FOREACH(s, &d->out, link)
    if (s->flight.job != NULL && s->flight.job->state == WQ_STATE_RUNNING)
        return wq_job_ref(s->flight.job);
    return NULL;
}

static void cancel_all_locked(wq_dispatch *d)
{
    sent *s;
    TAILQ_FOREACH(s, &d->out, link)
    wq_flight_tell_locked(&s->flight, wq_queue_why_stopping(d->queue));
}

void wq_dispatch_stop(wq_dispatch *d)
{
    wq_job *job;
    pthread_mutex_lock(&d->queue->lock);
    if (d->queue->journal == NULL)
        cancel_all_locked(d);
    while (d->queue->journal != NULL && (job = running_locked(d)) != NULL) {
        pthread_mutex_unlock(&d->queue->lock);
        wq_queue_put_down_running(d->queue, job);
        wq_job_unref(job);
        pthread_mutex_lock(&d->queue->lock);
    }
    pthread_mutex_unlock(&d->queue->lock);
}

void wq_dispatch_close(wq_dispatch *d)
{
    sent *s;
    if (d == NULL)
        return;
    pthread_mutex_lock(&d->queue->lock);
    d->closing = 1;
    pthread_cond_broadcast(&d->queue->work);
    pthread_mutex_unlock(&d->queue->lock);
    pthread_join(d->thread, NULL);
    d->runner->close(d->runner);
    while ((s = TAILQ_FIRST(&d->out)) != NULL) { /* they are kept */
        TAILQ_REMOVE(&d->out, s, link);
        free_sent(s);
    }
    free(d);
}
