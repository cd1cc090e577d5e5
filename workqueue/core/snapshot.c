/* snapshot.c - looking at jobs and at the queue: snapshots, watches, waits, estimates, numbers. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "workqueue/core/life.h"

/* ---- watches --------------------------------------------------------------------------------- */

/* An asynchronous runner may like to know. */
static void be_interested(wq_job *job)
{
    if (job->queue->interest != NULL)
        job->queue->interest(job);
}

static int add_watch(wq_queue *queue, wq_job *job, wq_watchers *watchers, wq_watch_cb cb,
                     void *user, wq_watch **out)
{
    if (wq_owner_is_forked(queue))
        return WQ_ERROR_CLOSING;
    wq_watch *watch = malloc(sizeof *watch);
    if (watch == NULL)
        return WQ_ERROR_NO_MEMORY;
    *watch = (wq_watch){
        .watchers = watchers, .job = wq_job_ref(job), .queue = queue, .cb = cb, .user = user};
    if (job != NULL)
        atomic_fetch_add(&job->n_watching, 1);
    wq_watchers_add(watch->watchers, watch);
    *out = watch;
    return WQ_OK;
}

int wq_job_watch(wq_job *job, wq_watch_cb cb, void *user, wq_watch **out)
{
    if (job == NULL || cb == NULL || out == NULL)
        return WQ_ERROR_INVALID_ARGUMENT;
    int result = add_watch(job->queue, job, &job->watchers, cb, user, out);
    if (result == WQ_OK)
        be_interested(job);
    return result;
}

int wq_queue_watch(wq_queue *queue, wq_watch_cb cb, void *user, wq_watch **out)
{
    if (queue == NULL || cb == NULL || out == NULL)
        return WQ_ERROR_INVALID_ARGUMENT;
    return add_watch(queue, NULL, &queue->watchers, cb, user, out);
}

int wq_job_watch_stderr(wq_job *job, wq_watch_cb cb, void *user, wq_watch **out)
{
    if (job == NULL || cb == NULL || out == NULL)
        return WQ_ERROR_INVALID_ARGUMENT;
    return add_watch(job->queue, job, &job->stderr_watchers, cb, user, out);
}

void wq_watch_cancel(wq_watch *watch)
{
    if (watch == NULL || wq_owner_is_forked(watch->queue))
        return;
    wq_watchers_remove(watch->watchers, watch);
    if (watch->job != NULL)
        atomic_fetch_sub(&watch->job->n_watching, 1);
    wq_job_unref(watch->job);
    free(watch);
}

/* ---- snapshots ------------------------------------------------------------------------------- */

/* Why it has ended badly, if there was no memory for the sentence. */
static const char *without_words(int state)
{
    return state == WQ_STATE_FAILED      ? "out of memory"
           : state == WQ_STATE_CANCELLED ? "cancelled"
                                         : NULL;
}

/* Those of an ended job from the journal are by the wall clock, which may have been set back. */
static uint64_t between(int64_t from, int64_t to)
{
    return to > from ? (uint64_t)(to - from) : 0;
}

static void read_job_locked(wq_job *job, wq_snapshot *out)
{
    int64_t now = wq_monotonic_ms();
    int64_t end = job->ended_mono ? job->ended_mono : now;
    int64_t start = job->started_mono ? job->started_mono : end;
    wq_text *message = wq_text_ref(job->message), *error = wq_text_ref(job->error);
    *out = (wq_snapshot){
        .state = job->state,
        .version = job->version,
        .fraction = job->state >= WQ_STATE_SUCCEEDED ? 1 : job->fraction,
        .reached = job->fraction,
        .has_items = job->has_items,
        .items_done = job->items_done,
        .items_total = job->items_total,
        .has_returncode = job->state >= WQ_STATE_SUCCEEDED,
        .returncode = job->returncode,
        .message = message ? message->bytes : NULL,
        .error = error ? error->bytes : without_words(job->state),
        .queued_at_ms = job->queued_at_ms,
        .heard_at_ms = job->heard_at_ms,
        .watching = atomic_load(&job->n_watching),
        .started_at_ms = job->started_at_ms,
        .ended_at_ms = job->ended_at_ms,
        .resumes = job->resumes,
        .waits_for = job->waits_for,
        .attempt = (unsigned)job->attempts + 1,
        .waited_ms = between(job->queued_mono, start),
        .ran_ms = job->started_mono ? between(job->started_mono, end) : 0,
        .memory_bytes =
            job->state < WQ_STATE_SUCCEEDED ? job->memory_bytes : job->most_memory_bytes,
        .held = {message, error},
    };
}

void wq_job_snapshot(wq_job *job, wq_snapshot *out)
{
    if (out == NULL)
        return;
    memset(out, 0, sizeof *out);
    if (job == NULL || wq_owner_is_forked(job->queue))
        return;
    wq_queue *queue = job->queue;
    pthread_mutex_lock(&job->lock);
    int queued = job->state == WQ_STATE_QUEUED;
    if (!queued)
        read_job_locked(job, out);
    pthread_mutex_unlock(&job->lock);
    if (queued || out->state == WQ_STATE_RUNNING)
        be_interested(job);
    if (!queued)
        return;
    pthread_mutex_lock(&queue->lock); /* comes before the job's, hence the second look */
    pthread_mutex_lock(&job->lock);
    read_job_locked(job, out);
    if (job->state == WQ_STATE_QUEUED)
        out->n_ahead_in_queue = wq_life_ahead_locked(queue, job);
    pthread_mutex_unlock(&job->lock);
    pthread_mutex_unlock(&queue->lock);
}

void wq_snapshot_clear(wq_snapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    wq_text_unref(snapshot->held[0]);
    wq_text_unref(snapshot->held[1]);
    memset(snapshot, 0, sizeof *snapshot);
}

/* ---- what a program says --------------------------------------------------------------------- */

size_t wq_job_stderr(wq_job *job, uint64_t from, char *buf, size_t size, uint64_t *begin)
{
    uint64_t at = from;
    size_t n = 0;
    if (job != NULL && buf != NULL && !wq_owner_is_forked(job->queue)) {
        pthread_mutex_lock(&job->lock);
        n = wq_stderr_log_read(&job->stderr_log, from, buf, size, &at,
                               job->state >= WQ_STATE_SUCCEEDED);
        pthread_mutex_unlock(&job->lock);
    }
    if (begin != NULL)
        *begin = at;
    return n;
}

size_t wq_job_messages(wq_job *job, wq_message out[WQ_MESSAGES])
{
    size_t n = 0;
    if (job == NULL || out == NULL || wq_owner_is_forked(job->queue))
        return 0;
    pthread_mutex_lock(&job->lock);
    size_t first = job->n_said > WQ_MESSAGES ? job->n_said - WQ_MESSAGES : 0;
    for (size_t i = first; i < job->n_said; i++, n++) {
        const wq_said *said = &job->said[i % WQ_MESSAGES];
        out[n] = (wq_message){.at_ms = said->at_ms, .fraction = said->fraction};
        strncpy(out[n].text, said->message->bytes, sizeof out[n].text - 1);
    }
    pthread_mutex_unlock(&job->lock);
    return n;
}

/* ---- waiting --------------------------------------------------------------------------------- */

int wq_job_wait(wq_job *job, int64_t timeout_ms)
{
    struct timespec until;
    if (job == NULL)
        return WQ_ERROR_INVALID_ARGUMENT;
    if (wq_owner_is_forked(job->queue))
        return WQ_ERROR_CLOSING;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_ms > 0) {
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += timeout_ms % 1000 * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
    }
    int r = 0;
    atomic_fetch_add(&job->n_watching, 1);
    be_interested(job);
    pthread_mutex_lock(&job->lock);
    while (job->state < WQ_STATE_SUCCEEDED && r == 0)
        r = timeout_ms < 0 ? pthread_cond_wait(&job->has_ended, &job->lock)
                           : pthread_cond_timedwait(&job->has_ended, &job->lock, &until);
    int ended = job->state >= WQ_STATE_SUCCEEDED;
    pthread_mutex_unlock(&job->lock);
    atomic_fetch_sub(&job->n_watching, 1);
    return ended ? WQ_OK : WQ_ERROR_TIMEOUT;
}

/* ---- estimates ------------------------------------------------------------------------------- */

static size_t n_running_locked(const wq_queue *queue)
{
    return queue->n[WQ_PHASE_STARTING] + queue->n[WQ_PHASE_RUNNING];
}

/* How many run at the same time. Where runs are elsewhere, as many as do so now are all we know. */
static double at_once_locked(const wq_queue *queue)
{
    if (!queue->asynchronous)
        return queue->workers;
    return n_running_locked(queue) > 0 ? (double)n_running_locked(queue) : 1;
}

/* Of a job that waits: as many rounds of the workers as it takes until its turn, and its own run.
 */
static double queued_ms_locked(wq_queue *queue, wq_job *job)
{
    const wq_counters *counters = &queue->counters;
    int64_t since =
        job->queued_mono > counters->taken_mono ? job->queued_mono : counters->taken_mono;
    double still = (double)(wq_monotonic_ms() - since);
    double rounds = (double)wq_life_ahead_locked(queue, job) / at_once_locked(queue) + 1;
    double estimate = rounds * counters->mean_run_ms;
    return estimate < still ? still /* it has stopped moving: the longer, the less we expect */
                            : estimate;
}

/* Of one that has not ended; never 0, and nothing that does not fit, whatever its progress was. */
static uint64_t estimate_ms_locked(wq_queue *queue, wq_job *job)
{
    static const double most_ms = 10.0 * 365 * 86400 * 1000;
    double mean = queue->counters.mean_run_ms, estimate = 1;
    if (job->phase <= WQ_PHASE_SENT)
        estimate = queued_ms_locked(queue, job);
    else if (job->phase <= WQ_PHASE_RUNNING)
        estimate = wq_job_remaining_ms(job, job->estimate_ms ? (double)job->estimate_ms : mean);
    if (!(estimate >= 1))
        return 1;
    return (uint64_t)(estimate < most_ms ? estimate : most_ms);
}

uint64_t wq_job_estimate_ms(wq_job *job)
{
    if (job == NULL || wq_owner_is_forked(job->queue))
        return 0;
    wq_queue *queue = job->queue;
    pthread_mutex_lock(&queue->lock);
    uint64_t ms = job->phase < WQ_PHASE_ENDED ? estimate_ms_locked(queue, job) : 0;
    pthread_mutex_unlock(&queue->lock);
    return ms;
}

/* How long until one of these ends. */
static uint64_t first_end_ms_locked(wq_queue *queue, const wq_user *user)
{
    uint64_t least = UINT64_MAX;
    const wq_member *member;
    TAILQ_FOREACH(member, &user->jobs, link)
    {
        uint64_t ms = estimate_ms_locked(queue, member->job);
        least = ms < least ? ms : least;
        if (member->job->phase == WQ_PHASE_WAITING || member->job->phase == WQ_PHASE_SENT)
            break; /* those behind it take longer */
    }
    return least;
}

uint64_t wq_user_estimate_ms(wq_queue *queue, const wq_params *params)
{
    uint64_t ms = 0;
    if (queue == NULL || wq_owner_is_forked(queue) || wq_params_check(params, NULL) != WQ_OK)
        return 0;
    pthread_mutex_lock(&queue->lock);
    const wq_user *user = wq_users_find(&queue->users, params->api_token);
    const wq_user *server =
        queue->max_per_server > 0 ? wq_users_find(&queue->servers, params->server) : NULL;
    if (server != NULL && server->n_jobs >= queue->max_per_server)
        ms = first_end_ms_locked(queue, server);
    if (user != NULL &&
        (ms == 0 || (queue->max_per_user > 0 && user->n_jobs >= queue->max_per_user))) {
        uint64_t own = first_end_ms_locked(queue, user);
        ms = own > ms ? own : ms; /* both must have room */
    }
    pthread_mutex_unlock(&queue->lock);
    return ms;
}

/* ---- numbers --------------------------------------------------------------------------------- */

void wq_queue_stats(wq_queue *queue, wq_stats *out)
{
    if (out == NULL)
        return;
    memset(out, 0, sizeof *out);
    if (queue == NULL || wq_owner_is_forked(queue))
        return;
    pthread_mutex_lock(&queue->lock);
    const size_t *n = queue->n;
    const wq_counters *counters = &queue->counters;
    *out = (wq_stats){
        .queued =
            n[WQ_PHASE_ADMITTING] + n[WQ_PHASE_BLOCKED] + n[WQ_PHASE_WAITING] + n[WQ_PHASE_SENT],
        .running = n_running_locked(queue),
        .publishing = n[WQ_PHASE_HANDED] + n[WQ_PHASE_PUT_OFF],
        .ended = queue->known.n_ended,
        .workers = queue->workers,
        .max_queue = queue->max_queue,
        .succeeded = counters->succeeded,
        .failed = counters->failed,
        .cancelled = counters->cancelled,
        .store_errors = atomic_load(&queue->store_errors),
        .journal_errors =
            queue->recorder.self != NULL ? wq_journal_errors(queue->recorder.self) : 0,
        .stopping = queue->stopping,
        .mean_run_ms = (uint64_t)counters->mean_run_ms,
        .ran = counters->ran,
        .waited = counters->waited,
        .has_journal = queue->recorder.self != NULL,
        .ending = n[WQ_PHASE_SETTLING],
    };
    pthread_mutex_unlock(&queue->lock);
}

void wq_queue_minutes(wq_queue *queue, wq_minute out[WQ_MINUTES])
{
    if (out == NULL)
        return;
    memset(out, 0, WQ_MINUTES * sizeof *out);
    if (queue == NULL || wq_owner_is_forked(queue))
        return;
    pthread_mutex_lock(&queue->lock);
    wq_minutes_read(&queue->counters.minutes, wq_monotonic_ms(), wq_unix_ms(), out);
    pthread_mutex_unlock(&queue->lock);
}
