/* flight.c - a run that is under way: what it reports, how it is ended early, and how it ends. */
#include "workqueue/core/run.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "workqueue/core/progress.h"
#include "workqueue/util/log.h"

/* ---- tokens ---------------------------------------------------------------------------------- */

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

/* ---- on its way ------------------------------------------------------------------------------ */

void wq_flight_report(wq_job *job, const char *line, size_t len)
{
    char complaint[WQ_COMPLAINT_BYTES];
    if (wq_job_report(job, line, len) == 0 || wq_progress_is_blank(line, len) ||
        atomic_fetch_add(&job->ignored_lines, 1) > 0)
        return;
    char *text = malloc(len + 1); /* hidden before it is cut, lest half a token shows */
    if (text == NULL)
        return;
    memcpy(text, line, len);
    hide_token(text, len, job->params.api_token);
    wq_progress_complain(complaint, text, len);
    wq_log(&job->queue->logger, WQ_LOG_WARNING, "job %s: invalid program: %s", job->id, complaint);
    free(text);
}

static void log_ignored_lines(wq_job *job)
{
    unsigned n = atomic_load(&job->ignored_lines);
    if (n > 0)
        wq_log(&job->queue->logger, WQ_LOG_WARNING,
               "job %s: %u line%s of stdout %s no progress and ignored", job->id, n,
               n == 1 ? "" : "s", n == 1 ? "was" : "were");
}

void wq_flight_begin_locked(wq_flight *flight, wq_job *job)
{
    flight->job = job;
    flight->overdue = flight->stops = 0;
    flight->why[0] = '\0';
    job->flight = flight;
}

void wq_flight_part_locked(wq_flight *flight)
{
    flight->job->flight = NULL;
    flight->job = NULL;
}

void wq_flight_tell_locked(wq_flight *flight, const char *why)
{
    if (flight->job == NULL || flight->told)
        return;
    snprintf(flight->why, sizeof flight->why, "%s", why);
    flight->stops = why == wq_queue_why_stopping(flight->job->queue);
    flight->told = flight->tell(flight);
}

int wq_flight_cancel_locked(wq_flight *flight)
{
    static const char why[] = "cancelled";
    if (flight->overdue)
        return 0;
    wq_flight_tell_locked(flight, why);
    if (flight->stops)
        memcpy(flight->why, why, sizeof why);
    flight->stops = 0;
    return 1;
}

/* ---- time limits ----------------------------------------------------------------------------- */

static void check_limit_locked(wq_flight *flight, int64_t since, unsigned limit_ms,
                               const char *format, int64_t now, int64_t *next)
{
    char why[sizeof flight->why];
    if (limit_ms == 0 || flight->told)
        return;
    if (since + limit_ms > now) {
        *next = since + limit_ms < *next ? since + limit_ms : *next;
        return;
    }
    snprintf(why, sizeof why, format, limit_ms);
    wq_flight_tell_locked(flight, why);
    flight->overdue = flight->told;
    flight->job->ending = flight->told;
}

static int64_t heard(wq_job *job)
{
    pthread_mutex_lock(&job->lock);
    int64_t at = job->heard_mono;
    pthread_mutex_unlock(&job->lock);
    return at;
}

void wq_flight_check_locked(wq_flight *flight, int64_t now, int64_t *next)
{
    if (flight->job == NULL || flight->told || flight->begun == 0)
        return;
    const wq_queue *queue = flight->job->queue;
    int64_t at = queue->progress_timeout_ms > 0 ? heard(flight->job) : 0;
    check_limit_locked(flight, flight->begun, queue->run_timeout_ms, "timed out after %u ms", now,
                       next);
    check_limit_locked(flight, at > flight->begun ? at : flight->begun, queue->progress_timeout_ms,
                       "no progress for %u ms", now, next);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* However the program ended: what is too long may have been cut. */
static int is_output_too_long(const wq_queue *queue, const wq_job *job)
{
    struct stat st;
    return queue->max_output_bytes > 0 && job->temp_path != NULL &&
           lstat(job->temp_path, &st) == 0 && S_ISREG(st.st_mode) &&
           (uint64_t)st.st_size > queue->max_output_bytes;
}

static void fail_too_long(wq_queue *queue, wq_job *job)
{
    char text[80];
    snprintf(text, sizeof text, "wrote more than %llu bytes to its output file",
             (unsigned long long)queue->max_output_bytes);
    wq_queue_fail(queue, job, WQ_OWN_FAILURE, text);
}

/* Who ends it unasked says why. */
static const char *why_cancelled(const wq_flight *flight, const wq_outcome *outcome)
{
    return flight->told ? flight->why : outcome->error ? outcome->error : "cancelled";
}

/* A result that was printed instead of written: the error with a hint, from malloc; NULL: it looks
 * like nothing of the kind. */
static char *hint_at_stdout(wq_job *job, const char *error)
{
    static const char nothing[] = "invalid program: it should have written to its output file";
    unsigned n = atomic_load(&job->ignored_lines);
    char *hint;
    if (n == 0 || error == NULL || strcmp(error, nothing) != 0 ||
        asprintf(&hint,
                 "%s; %u line%s of its stdout %s no progress: if %s the result, %s in the file "
                 "\"$4\"",
                 nothing, n, n == 1 ? "" : "s", n == 1 ? "was" : "were",
                 n == 1 ? "it is" : "they are", n == 1 ? "it belongs" : "they belong") < 0)
        return NULL;
    return hint;
}

static void end_unpublished(wq_flight *flight, wq_job *job, const wq_outcome *outcome,
                            int cancelled, int too_long)
{
    wq_queue *queue = job->queue;
    if (cancelled && flight->overdue)
        wq_queue_fail(queue, job, WQ_OWN_FAILURE, flight->why);
    else if (cancelled)
        wq_queue_finish(queue, job, WQ_STATE_CANCELLED, WQ_OWN_FAILURE,
                        why_cancelled(flight, outcome));
    else if (too_long)
        fail_too_long(queue, job);
    else {
        char *hint = hint_at_stdout(job, outcome->error);
        const char *error = outcome->error != NULL ? outcome->error : "out of memory";
        wq_queue_fail(queue, job, outcome->returncode, hint != NULL ? hint : error);
        free(hint);
    }
}

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

/* It has failed because the queue stops: it runs again after the restart. Runs elsewhere do not end
 * with this service. */
static int is_for_the_stop(wq_queue *queue, const wq_outcome *outcome)
{
    return queue->journal != NULL && !queue->asynchronous && outcome->returncode != 0 &&
           wq_queue_wait_for_stop(queue, is_as_of_a_stop(outcome));
}

static void set_kept(wq_job *job, int kept)
{
    pthread_mutex_lock(&job->queue->lock);
    job->kept = kept;
    pthread_mutex_unlock(&job->queue->lock);
}

void wq_flight_end(wq_flight *flight, wq_job *job, const wq_outcome *outcome,
                   wq_publisher *publisher)
{
    wq_store *store = job->queue->store;
    log_ignored_lines(job);
    int too_long = is_output_too_long(job->queue, job);
    /* who cancelled it has been told so, also if it has ended by itself meanwhile */
    int cancelled = outcome->cancelled || (flight->told && !flight->overdue && !flight->stops);
    if (outcome->error != NULL)
        hide_token_in_error(outcome->error, job->params.api_token);
    if (outcome->returncode == 0 && !cancelled && !too_long) {
        wq_queue_publishing(job->queue, job);
        wq_publisher_add(publisher, job);
    } else {
        if (job->temp_path != NULL)
            store->discard(store->self, job->temp_path);
        if (cancelled ? flight->stops : !too_long && is_for_the_stop(job->queue, outcome)) {
            set_kept(job, 1);
            wq_queue_finish(job->queue, job, WQ_STATE_CANCELLED, WQ_OWN_FAILURE,
                            wq_queue_why_stopping(job->queue));
        } else {
            end_unpublished(flight, job, outcome, cancelled, too_long);
        }
    }
    free(outcome->error);
}
