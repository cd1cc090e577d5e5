/* job.c - one job: what names it, its latest progress, and who watches it. */
#include "workqueue/core/job.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "workqueue/core/owner.h"
#include "workqueue/core/params.h"
#include "workqueue/util/clocks.h"

enum {
    SAID_BYTES = sizeof((wq_message *)0)->text - 1, /* of a message that is kept */
    ENDED_STDERR_BYTES = 4096 /* of a job that has ended; what failed has its error besides */
};

/* ---- watchers -------------------------------------------------------------------------------- */

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

void wq_watchers_add(wq_watchers *watchers, wq_watch *watch)
{
    pthread_mutex_lock(&watchers->lock);
    LIST_INSERT_HEAD(&watchers->list, watch, link);
    pthread_mutex_unlock(&watchers->lock);
}

void wq_watchers_remove(wq_watchers *watchers, wq_watch *watch)
{
    pthread_mutex_lock(&watchers->lock);
    LIST_REMOVE(watch, link);
    pthread_mutex_unlock(&watchers->lock);
}

void wq_watchers_tell(wq_watchers *watchers)
{
    wq_watch *watch;
    pthread_mutex_lock(&watchers->lock);
    LIST_FOREACH(watch, &watchers->list, link)
    watch->cb(watch->user);
    pthread_mutex_unlock(&watchers->lock);
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
    job->queue = queue;
    wq_owner_ref(queue);
    wq_watchers_init(&job->watchers);
    wq_watchers_init(&job->stderr_watchers);
    STAILQ_INIT(&job->asks);
    pthread_mutex_init(&job->lock, NULL);
    wq_cond_init(&job->has_ended);
    job->queued_at_ms = wq_unix_ms();
    job->queued_mono = wq_monotonic_ms();
    job->entry.id = job->id;
    job->entry.key = job->key;
    job->entry.params = &job->params;
    return job;
}

wq_job *wq_job_ref(wq_job *job)
{
    if (job != NULL)
        atomic_fetch_add_explicit(&job->refs, 1, memory_order_relaxed);
    return job;
}

void wq_job_unref(wq_job *job)
{
    if (job == NULL || wq_owner_is_forked(job->queue) ||
        atomic_fetch_sub_explicit(&job->refs, 1, memory_order_acq_rel) != 1)
        return;
    wq_queue *queue = job->queue;
    wq_text_unref(job->message);
    wq_text_unref(job->error);
    wq_text_unref(job->end.error);
    pthread_cond_destroy(&job->has_ended);
    pthread_mutex_destroy(&job->lock);
    wq_watchers_dispose(&job->watchers);
    wq_watchers_dispose(&job->stderr_watchers);
    wq_stderr_log_dispose(&job->stderr_log);
    for (size_t i = 0; i < WQ_MESSAGES && i < job->n_said; i++)
        wq_text_unref(job->said[i].message);
    free(job->said);
    free(job);
    wq_owner_unref(queue);
}

const char *wq_job_id(const wq_job *job)
{
    return job != NULL ? job->id : "";
}

const char *wq_job_key(const wq_job *job)
{
    return job != NULL ? job->key : "";
}

const wq_params *wq_job_params(const wq_job *job)
{
    return job != NULL ? &job->params : NULL;
}

/* ---- progress -------------------------------------------------------------------------------- */

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

/* A runner that is far away may tell it again, or have begun again. */
static void take_progress_locked(wq_job *job, const wq_progress *progress, int far)
{
    job->heard_mono = wq_monotonic_ms();
    job->heard_at_ms = wq_unix_ms();
    if (far && progress->fraction < job->fraction)
        return;
    note_growth_locked(job, progress->fraction);
    job->fraction = progress->fraction;
    job->has_items = progress->has_items;
    job->items_done = progress->items_done;
    job->items_total = progress->items_total;
}

/* As much of a message as is kept: all but a character that would be cut. */
static size_t kept_length(const char *message)
{
    size_t n = strnlen(message, SAID_BYTES + 1);
    for (n = n > SAID_BYTES ? SAID_BYTES : n; n == SAID_BYTES && (message[n] & 0xc0) == 0x80;)
        while (n > 0 && (message[--n] & 0xc0) == 0x80)
            ;
    return n;
}

/* Not one that is the same as before. Without memory for it there is none. */
static void keep_message_locked(wq_job *job, double fraction)
{
    wq_said *last = job->n_said > 0 ? &job->said[(job->n_said - 1) % WQ_MESSAGES] : NULL;
    size_t n = job->message != NULL ? kept_length(job->message->bytes) : 0;
    if (job->message == NULL ||
        (last != NULL && strncmp(last->message->bytes, job->message->bytes, n) == 0 &&
         last->message->bytes[n] == '\0'))
        return;
    if (job->said == NULL && (job->said = calloc(WQ_MESSAGES, sizeof *job->said)) == NULL)
        return;
    wq_text *kept = job->message->bytes[n] == '\0' ? wq_text_ref(job->message)
                                                   : wq_text_new(job->message->bytes, n);
    if (kept == NULL)
        return;
    wq_said *said = &job->said[job->n_said++ % WQ_MESSAGES];
    wq_text_unref(said->message);
    *said = (wq_said){job->heard_at_ms, fraction, kept};
}

int wq_job_report(wq_job *job, const char *line, size_t len, int far)
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
        take_progress_locked(job, &progress, far);
        job->message = message;
        keep_message_locked(job, progress.fraction);
        job->version++;
    }
    pthread_mutex_unlock(&job->lock);
    wq_text_unref(old);
    return 0;
}

int64_t wq_job_heard_mono(wq_job *job)
{
    pthread_mutex_lock(&job->lock);
    int64_t at = job->heard_mono;
    pthread_mutex_unlock(&job->lock);
    return at;
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

/* ---- states ---------------------------------------------------------------------------------- */

void wq_job_told_stderr(wq_job *job, size_t max, const char *bytes, size_t len)
{
    pthread_mutex_lock(&job->lock);
    wq_stderr_log_add(&job->stderr_log, max, job->params.api_token, bytes, len);
    pthread_mutex_unlock(&job->lock);
    wq_watchers_tell(&job->stderr_watchers);
}

void wq_job_told_memory(wq_job *job, uint64_t bytes)
{
    pthread_mutex_lock(&job->lock);
    job->memory_bytes = bytes;
    if (bytes > job->most_memory_bytes)
        job->most_memory_bytes = bytes;
    pthread_mutex_unlock(&job->lock);
}

void wq_job_set_state(wq_job *job, int state, int waits_for)
{
    pthread_mutex_lock(&job->lock);
    job->waits_for = waits_for;
    if (state == WQ_STATE_RUNNING && job->started_mono == 0) {
        job->started_at_ms = wq_unix_ms();
        job->started_mono = wq_monotonic_ms();
    }
    if (state != job->state && state != WQ_STATE_PUBLISHING)
        job->version++; /* PUBLISHING changes nothing that watchers see */
    job->state = state;
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

void wq_job_set_end(wq_job *job, const wq_end *end)
{
    pthread_mutex_lock(&job->lock);
    job->state = end->state;
    job->version++;
    job->returncode = end->returncode;
    job->error = end->error;
    job->resumes = end->resumes;
    job->waits_for = WQ_WAITS_FOR_NOTHING;
    wq_stderr_log_shrink(&job->stderr_log, ENDED_STDERR_BYTES);
    job->ended_at_ms = end->at_ms;
    job->ended_mono = end->mono;
    pthread_cond_broadcast(&job->has_ended);
    pthread_mutex_unlock(&job->lock);
}

size_t wq_job_error_bytes(wq_job *job)
{
    pthread_mutex_lock(&job->lock);
    size_t n = job->error != NULL ? strlen(job->error->bytes) : 0;
    pthread_mutex_unlock(&job->lock);
    return n;
}

size_t wq_job_shorten_error(wq_job *job)
{
    enum { KEPT = WQ_SHORT_ERROR_BYTES };
    wq_text *old = NULL;
    size_t freed = 0;
    pthread_mutex_lock(&job->lock);
    size_t n = job->error != NULL ? strlen(job->error->bytes) : 0;
    wq_text *shorter = n > KEPT ? wq_text_new(job->error->bytes, KEPT) : NULL;
    if (shorter != NULL) {
        old = job->error;
        job->error = shorter;
        freed = n - strlen(shorter->bytes);
    }
    pthread_mutex_unlock(&job->lock);
    wq_text_unref(old);
    return freed;
}
