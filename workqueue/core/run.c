/* run.c - a run that is under way: what it reports, when it has lasted too long, and what becomes
 * of its outcome. */
#include "workqueue/core/run.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "workqueue/core/progress.h"
#include "workqueue/core/secret.h"
#include "workqueue/core/wishes.h"
#include "workqueue/util/clocks.h"
#include "workqueue/util/log.h"

/* ---- on its way ------------------------------------------------------------------------------ */

void wq_run_report(wq_job *job, const char *line, size_t len)
{
    char complaint[WQ_COMPLAINT_BYTES];
    if (wq_job_report(job, line, len, job->queue->asynchronous) == 0) {
        wq_job_news_tell(&job->queue->news, job);
        return;
    }
    if (wq_progress_is_blank(line, len) || atomic_fetch_add(&job->n_ignored, 1) > 0)
        return;
    char *text = malloc(len + 1); /* hidden before it is cut, lest half a token shows */
    if (text == NULL)
        return;
    memcpy(text, line, len);
    wq_hide_secret(text, len, job->params.api_token);
    wq_progress_complain(complaint, text, len);
    wq_log(&job->queue->logger, WQ_LOG_WARNING, "job %s: invalid program: %s", job->id, complaint);
    free(text);
}

void wq_run_told_stderr(wq_job *job, const char *bytes, size_t len)
{
    wq_job_told_stderr(job, job->queue->stderr_bytes, bytes, len);
}

static void log_ignored_lines(wq_job *job)
{
    int n = atomic_load(&job->n_ignored);
    if (n > 0)
        wq_log(&job->queue->logger, WQ_LOG_WARNING,
               "job %s: %d line%s of stdout %s no progress and ignored", job->id, n,
               n == 1 ? "" : "s", n == 1 ? "was" : "were");
}

static void check_limit_locked(wq_queue *queue, wq_run_state *run, int64_t since, unsigned limit_ms,
                               const char *format, int64_t now, int64_t *next, wq_effects *effects)
{
    char why[80];
    if (limit_ms == 0)
        return;
    if (since + limit_ms > now) {
        *next = since + limit_ms < *next ? since + limit_ms : *next;
        return;
    }
    snprintf(why, sizeof why, format, limit_ms);
    wq_life_limit_locked(queue, run->job, why, effects);
}

void wq_run_check_limits_locked(wq_queue *queue, wq_run_state *run, int64_t now, int64_t *next,
                                wq_effects *effects)
{
    if (run->job == NULL || run->begun == 0 || run->job->wish != WQ_WISH_NONE)
        return;
    int64_t heard = queue->progress_timeout_ms > 0 ? wq_job_heard_mono(run->job) : 0;
    check_limit_locked(queue, run, run->begun, queue->run_timeout_ms, "timed out after %u ms", now,
                       next, effects);
    check_limit_locked(queue, run, heard > run->begun ? heard : run->begun,
                       queue->progress_timeout_ms, "no progress for %u ms", now, next, effects);
}

/* ---- a stop of the service ------------------------------------------------------------------- */

/* A service manager that stops a service sends the signal to the programs, too, and they may be
 * faster than we. Shells and programs that trap it exit with 128 and its number. */
static int is_as_of_a_stop(const wq_outcome *outcome)
{
    static const int signals[] = {SIGTERM, SIGINT, SIGHUP};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (outcome->returncode == -signals[i] || outcome->returncode == 128 + signals[i])
            return 1;
    return 0;
}

/* Nonzero if the queue stops, also if it does so soon. */
static int wait_for_stop(wq_queue *queue, int may_come)
{
    enum { STOP_FOLLOWS_MS = 1000 };
    int64_t at = wq_monotonic_ms() + STOP_FOLLOWS_MS;
    struct timespec until = {at / 1000, at % 1000 * 1000000};
    int r = 0;
    pthread_mutex_lock(&queue->lock);
    while (may_come && !queue->stopping && r == 0)
        r = pthread_cond_timedwait(&queue->stopped, &queue->lock, &until);
    int stops = queue->stopping;
    pthread_mutex_unlock(&queue->lock);
    return stops;
}

/* It has failed because the queue stops: it runs again after the restart. Runs elsewhere do not end
 * with this service. */
static int is_because_of_a_stop(wq_queue *queue, const wq_outcome *outcome)
{
    return queue->recorder.self != NULL && !queue->asynchronous && outcome->returncode != 0 &&
           !outcome->cancelled && wait_for_stop(queue, is_as_of_a_stop(outcome));
}

/* ---- the end --------------------------------------------------------------------------------- */

/* However the program ended: what is too long may have been cut. */
static int is_too_long(const wq_queue *queue, const char *temp_path)
{
    struct stat st;
    return queue->max_output_bytes > 0 && temp_path != NULL && lstat(temp_path, &st) == 0 &&
           S_ISREG(st.st_mode) && (uint64_t)st.st_size > queue->max_output_bytes;
}

static void discard_output(wq_queue *queue, char *temp_path)
{
    if (temp_path != NULL)
        queue->store->discard(queue->store->self, temp_path);
    free(temp_path);
}

/* A result that was printed instead of written: the error with a hint, from malloc; NULL: it looks
 * like nothing of the kind. */
static char *hint_at_stdout(wq_job *job, const char *error)
{
    static const char nothing[] = "invalid program: it should have written to its output file";
    int n = atomic_load(&job->n_ignored);
    char *hint;
    if (n == 0 || error == NULL || strcmp(error, nothing) != 0 ||
        asprintf(&hint,
                 "%s; %d line%s of its stdout %s no progress: if %s the result, %s in the file "
                 "\"$4\"",
                 nothing, n, n == 1 ? "" : "s", n == 1 ? "was" : "were",
                 n == 1 ? "it is" : "they are", n == 1 ? "it belongs" : "they belong") < 0)
        return NULL;
    return hint;
}

static void end_badly(wq_queue *queue, wq_job *job, const wq_outcome *outcome, int too_long)
{
    char text[80];
    const wq_wish wish = wq_life_wish(queue, job);
    if (wish == WQ_WISH_LIMIT) {
        wq_life_fail(queue, job, WQ_RETURNCODE_OWN, job->why);
    } else if (outcome->cancelled || wish != WQ_WISH_NONE) {
        wq_life_end(queue, job, WQ_STATE_CANCELLED, WQ_RETURNCODE_OWN,
                    outcome->error ? outcome->error : "cancelled");
    } else if (too_long) {
        snprintf(text, sizeof text, "wrote more than %llu bytes to its output file",
                 (unsigned long long)queue->max_output_bytes);
        wq_life_fail(queue, job, WQ_RETURNCODE_OWN, text);
    } else {
        char *hint = hint_at_stdout(job, outcome->error);
        const char *error = outcome->error != NULL ? outcome->error : "out of memory";
        wq_life_fail(queue, job, outcome->returncode, hint != NULL ? hint : error);
        free(hint);
    }
}

static wq_parcel *new_parcel(wq_job *job, char *temp_path)
{
    wq_parcel *parcel = calloc(1, sizeof *parcel);
    if (parcel != NULL)
        *parcel = (wq_parcel){
            .owner = wq_job_ref(job),
            .key = job->key,
            .params = &job->params,
            .temp_path = temp_path,
            .job_id = job->id,
            .ran_ms = job->started_mono > 0 ? (uint64_t)(wq_monotonic_ms() - job->started_mono) : 0,
            .replace = job->rebuild};
    return parcel;
}

void wq_run_over(wq_queue *queue, wq_job *job, wq_outcome *outcome, char *temp_path)
{
    const int too_long = is_too_long(queue, temp_path);
    const int succeeded = outcome->returncode == 0 && !outcome->cancelled && !too_long;
    wq_parcel *parcel = succeeded ? new_parcel(job, temp_path) : NULL;
    log_ignored_lines(job);
    if (outcome->error != NULL)
        wq_hide_secret_in_error(outcome->error, job->params.api_token);
    if (parcel != NULL && wq_life_hand(queue, job)) {
        wq_publisher_add(queue->publisher, parcel);
    } else {
        discard_output(queue, temp_path);
        if (parcel != NULL)
            wq_job_unref(parcel->owner);
        else if (!too_long && is_because_of_a_stop(queue, outcome))
            wq_life_interrupt(queue, job);
        else
            end_badly(queue, job, outcome, too_long);
        free(parcel);
    }
    free(outcome->error);
}

void wq_run_published(void *user, wq_parcel *parcel, int result, const wq_error *error)
{
    wq_queue *queue = user;
    wq_job *job = parcel->owner;
    wq_life_count_store_result(queue, result);
    if (result == WQ_ERROR_AWAY && parcel->is_put_off) {
        wq_life_put_off(queue, job);
        return;
    }
    if (result >= 0) {
        job->output_bytes = parcel->size_bytes;
        wq_life_end(queue, job, WQ_STATE_SUCCEEDED, 0, NULL);
    } else if (result == WQ_ERROR_AWAY && wait_for_stop(queue, 0)) {
        wq_life_interrupt(queue, job);
    } else {
        wq_life_fail(queue, job, WQ_RETURNCODE_OWN, error->message);
    }
    free(parcel->temp_path);
    free(parcel);
    wq_job_unref(job);
}
