/* job.c - one job: its states, its latest progress, and who watches it. */
#include "workqueue/core/job.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "workqueue/core/params.h"
#include "workqueue/core/queue.h"
#include "workqueue/util/clocks.h"

/* ---- watchers -------------------------------------------------------------------------------- */

struct wq_watch {
    LIST_ENTRY(wq_watch) link;
    wq_watchers *watchers;
    wq_job *job; /* counted; NULL: watches the queue */
    wq_watch_cb cb;
    void *user;
};

void wq_watchers_init(wq_watchers *watchers)
{
    pthread_mutex_init(&watchers->lock, NULL);
    LIST_INIT(&watchers->list);
}

void wq_watchers_dispose(wq_watchers *watchers)
{
    assert(LIST_EMPTY(&watchers->list));
    pthread_mutex_destroy(&watchers->lock);
}

void wq_watchers_tell(wq_watchers *watchers)
{
    wq_watch *watch;
    pthread_mutex_lock(&watchers->lock);
    LIST_FOREACH(watch, &watchers->list, link)
    watch->cb(watch->user);
    pthread_mutex_unlock(&watchers->lock);
}

/* An asynchronous runner may like to know. */
static void be_interested(wq_job *job)
{
    if (job->queue->wants_interest)
        wq_dispatch_interest(job);
}

static int add_watch(wq_watchers *watchers, wq_job *job, wq_watch_cb cb, void *user, wq_watch **out)
{
    wq_watch *watch = malloc(sizeof *watch);
    if (watch == NULL)
        return WQ_ERROR_NO_MEMORY;
    *watch = (wq_watch){.watchers = watchers, .job = job, .cb = cb, .user = user};
    if (job != NULL) {
        wq_job_ref(job);
        atomic_fetch_add(&job->n_watching, 1);
    }
    pthread_mutex_lock(&watchers->lock);
    LIST_INSERT_HEAD(&watchers->list, watch, link);
    pthread_mutex_unlock(&watchers->lock);
    *out = watch;
    return WQ_OK;
}

int wq_job_watch(wq_job *job, wq_watch_cb cb, void *user, wq_watch **out)
{
    assert(job != NULL);
    int result = add_watch(&job->watchers, job, cb, user, out);
    be_interested(job);
    return result;
}

int wq_queue_watch(wq_queue *queue, wq_watch_cb cb, void *user, wq_watch **out)
{
    return add_watch(&queue->watchers, NULL, cb, user, out);
}

void wq_watch_cancel(wq_watch *watch)
{
    if (watch == NULL)
        return;
    pthread_mutex_lock(&watch->watchers->lock);
    LIST_REMOVE(watch, link);
    pthread_mutex_unlock(&watch->watchers->lock);
    if (watch->job != NULL)
        atomic_fetch_sub(&watch->job->n_watching, 1);
    wq_job_unref(watch->job);
    free(watch);
}

/* ---- birth and death ------------------------------------------------------------------------- */

/* An RFC 4122 version 4 UUID. It is a capability, so the kernel's generator and no other. */
static int new_id(char id[WQ_ID_SIZE])
{
    static const char hex[] = "0123456789abcdef";
    unsigned char r[16];
    ssize_t got;
    do
        got = getrandom(r, sizeof r, 0);
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof r)
        return -1;
    r[6] = (unsigned char)(0x40 | (r[6] & 0x0f));
    r[8] = (unsigned char)(0x80 | (r[8] & 0x3f));
    char *p = id;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *p++ = '-';
        *p++ = hex[r[i] >> 4];
        *p++ = hex[r[i] & 15];
    }
    *p = '\0';
    return 0;
}

wq_job *wq_job_new(wq_queue *queue, const wq_params *params, const char *key)
{
    wq_job *job = calloc(1, sizeof *job + wq_params_bytes(params));
    if (job == NULL)
        return NULL;
    if (new_id(job->id) != 0) {
        free(job);
        return NULL;
    }
    memcpy(job->key, key, WQ_KEY_SIZE);
    wq_params_copy(&job->params, (char *)(job + 1), params);
    atomic_init(&job->refs, 1);
    job->queue = wq_queue_ref(queue);
    wq_watchers_init(&job->watchers);
    STAILQ_INIT(&job->awaits);
    pthread_mutex_init(&job->lock, NULL);
    wq_cond_init(&job->has_ended);
    job->queued_at_ms = wq_unix_ms();
    job->queued_mono = wq_monotonic_ms();
    return job;
}

wq_job *wq_job_ref(wq_job *job)
{
    atomic_fetch_add_explicit(&job->refs, 1, memory_order_relaxed);
    return job;
}

void wq_job_unref(wq_job *job)
{
    if (job == NULL || atomic_fetch_sub_explicit(&job->refs, 1, memory_order_acq_rel) != 1)
        return;
    wq_queue *queue = job->queue;
    wq_text_unref(job->message);
    wq_text_unref(job->error);
    free(job->temp_path);
    pthread_cond_destroy(&job->has_ended);
    pthread_mutex_destroy(&job->lock);
    wq_watchers_dispose(&job->watchers);
    free(job);
    wq_queue_unref(queue);
}

const char *wq_job_id(const wq_job *job)
{
    return job->id;
}

const char *wq_job_key(const wq_job *job)
{
    return job->key;
}

const wq_params *wq_job_params(const wq_job *job)
{
    return &job->params;
}

/* ---- changes --------------------------------------------------------------------------------- */

/* The rate counts from the first report on: many programs say at once that the first step is done.
 */
static void note_growth_locked(wq_job *job, double fraction)
{
    if (fraction <= job->fraction)
        return;
    job->moved_mono = job->heard_mono;
    if (job->first_mono == 0) {
        job->first_mono = job->moved_mono;
        job->first_fraction = fraction;
    }
}

static double rate_per_ms_locked(const wq_job *job)
{
    int64_t ms = job->moved_mono - job->first_mono;
    return ms > 0 ? (job->fraction - job->first_fraction) / (double)ms : 0;
}

/* Who tells it from far away may tell it again, or have begun again. */
static void take_progress_locked(wq_job *job, const wq_progress *progress)
{
    job->heard_mono = wq_monotonic_ms();
    if (job->queue->asynchronous && progress->fraction < job->fraction)
        return;
    note_growth_locked(job, progress->fraction);
    job->fraction = progress->fraction;
    job->has_items = progress->has_items;
    job->items_done = progress->items_done;
    job->items_total = progress->items_total;
}

int wq_job_report(wq_job *job, const char *line, size_t len)
{
    wq_progress progress;
    if (wq_progress_parse(&progress, line, len) != 0)
        return -1;
    wq_text *message = NULL, *old;
    if (progress.message != NULL)
        message = wq_text_new(progress.message, progress.message_len);
    pthread_mutex_lock(&job->lock);
    int ended = job->state >= WQ_STATE_SUCCEEDED; /* here; a runner far away goes on meanwhile */
    old = ended ? message : job->message;
    if (!ended) {
        take_progress_locked(job, &progress);
        job->message = message;
        job->version++;
    }
    pthread_mutex_unlock(&job->lock);
    wq_text_unref(old);
    if (!ended)
        wq_watchers_tell(&job->watchers);
    return 0;
}

void wq_job_set_state(wq_job *job, int state)
{
    pthread_mutex_lock(&job->lock);
    job->state = state;
    if (state == WQ_STATE_RUNNING) { /* PUBLISHING changes nothing that watchers see */
        job->version++;
        job->started_at_ms = wq_unix_ms();
        job->started_mono = wq_monotonic_ms();
    }
    pthread_mutex_unlock(&job->lock);
}

wq_end wq_end_now(int state, int returncode, const char *error)
{
    return (wq_end){
        .state = state,
        .returncode = returncode,
        .error = error ? wq_text_new(error, strlen(error)) : NULL,
        .at_ms = wq_unix_ms(),
        .mono = wq_monotonic_ms(),
    };
}

void wq_job_end_locked(wq_job *job, wq_end end)
{
    pthread_mutex_lock(&job->lock);
    job->state = end.state;
    job->version++;
    job->returncode = end.returncode;
    job->error = end.error;
    job->resumes = job->kept && job->queue->journal != NULL;
    job->ended_at_ms = end.at_ms;
    job->ended_mono = end.mono;
    pthread_cond_broadcast(&job->has_ended);
    pthread_mutex_unlock(&job->lock);
}

/* ---- reading --------------------------------------------------------------------------------- */

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
        .started_at_ms = job->started_at_ms,
        .ended_at_ms = job->ended_at_ms,
        .resumes = job->resumes,
        .waited_ms = between(job->queued_mono, start),
        .ran_ms = job->started_mono ? between(job->started_mono, end) : 0,
        .held = {message, error},
    };
}

void wq_job_snapshot(wq_job *job, wq_snapshot *out)
{
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
        out->n_ahead_in_queue = wq_queue_ahead_locked(queue, job);
    pthread_mutex_unlock(&job->lock);
    pthread_mutex_unlock(&queue->lock);
}

void wq_snapshot_clear(wq_snapshot *snapshot)
{
    wq_text_unref(snapshot->held[0]);
    wq_text_unref(snapshot->held[1]);
    memset(snapshot, 0, sizeof *snapshot);
}

double wq_job_remaining_ms(wq_job *job, double mean_ms)
{
    pthread_mutex_lock(&job->lock);
    int64_t now = wq_monotonic_ms();
    double ran = (double)(now - job->started_mono), remaining;
    double rate = rate_per_ms_locked(job);
    if (rate > 0) {
        double still = (double)(now - job->moved_mono);
        remaining = (1 - job->fraction) / rate - still;
        if (remaining < still) /* it has stopped moving: the longer, the less we expect of it */
            remaining = still;
    } else {
        remaining = mean_ms > ran ? mean_ms - ran : ran;
    }
    pthread_mutex_unlock(&job->lock);
    return remaining;
}

int wq_job_wait(wq_job *job, int64_t timeout_ms)
{
    struct timespec until;
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
