/* job_events.c - GET /jobs as an event stream: the news of every job.
 *
 *   a thread of the queue's             the loop of the stream
 *   on_job_news(job):                   go_on_with_jobs(): a send, unless one was shortly before;
 *     lock; note the job, once;           then the deadline brings it
 *     unlock                            send_changed(): takes some of the noted jobs and sends each
 *     nobody posted yet: post             as it is now: latest-only, however many changes there
 * were
 *
 * What is noted is bounded by the number of jobs that are known; if a table of that size has no
 * room the stream says "event: reload", and the page lists all anew. */
#include <pthread.h>
#include <stdlib.h>

#include "workqueue/http/faces/elsewhere.h"
#include "workqueue/http/faces/event_stream.h"
#include "workqueue/http/faces/faces.h"
#include "workqueue/http/faces/job_list.h"
#include "workqueue/http/faces/job_record.h"
#include "workqueue/http/hold/work.h"
#include "workqueue/http/request/problem.h"

enum {
    SLOTS = 1 << 15, /* twice as many as jobs that may be noted */
    MOST_NOTED = SLOTS / 2,
    JOBS_PER_SEND = 200,
    SEND_EVERY_MS = 250,
    LOOK_EVERY_MS = 1000, /* whether the server stops */
    FAR_EVERY_MS = 5000,  /* what other machines run */
};

typedef struct job_stream {
    wq_event_stream base; /* first */
    wq_jobs_watch *watch;
    /* the loop's */
    int is_looking;
    int64_t beat_at, far_at; /* far_at: of the next look at the other machines */
    wq_far_jobs far;         /* as they were told last */
    char *far_text;          /* their news, to be sent next; or NULL */
    size_t far_size;
    /* under the lock */
    pthread_mutex_t lock;
    int is_told;    /* the loop will look: nobody needs to post */
    int in_transit; /* the post is on its way */
    int overflowed;
    size_t n;
    wq_job *noted[SLOTS];     /* counted; a table by their addresses */
    wq_job *left[MOST_NOTED]; /* while gaps are closed */
} job_stream;

static void dispose_job_stream(wq_event_stream *base)
{
    job_stream *s = (job_stream *)base;
    for (size_t i = 0; i < SLOTS; i++)
        wq_job_unref(s->noted[i]);
    pthread_mutex_destroy(&s->lock);
    wq_far_jobs_free(&s->far);
    free(s->far_text);
    free(s);
}

/* ---- from any thread ------------------------------------------------------------------------- */

static void note_job_locked(job_stream *s, wq_job *job)
{
    size_t at = ((uintptr_t)job >> 4) * 0x9e3779b97f4a7c15U >> (64 - 15);
    while (s->noted[at] != NULL && s->noted[at] != job)
        at = (at + 1) % SLOTS;
    if (s->noted[at] == job)
        return;
    if (s->n == MOST_NOTED) {
        s->overflowed = 1;
        return;
    }
    s->noted[at] = wq_job_ref(job);
    s->n++;
}

static void on_job_news(void *user, wq_job *job)
{
    job_stream *s = user;
    pthread_mutex_lock(&s->lock);
    note_job_locked(s, job);
    int posts = !s->is_told;
    s->is_told = 1;
    s->in_transit |= posts;
    pthread_mutex_unlock(&s->lock);
    if (posts)
        wq_event_stream_post(&s->base);
}

/* ---- sending --------------------------------------------------------------------------------- */

/* What is left is put in anew: a gap would hide one behind it. */
static void close_gaps_locked(job_stream *s)
{
    size_t n = 0;
    for (size_t i = 0; i < SLOTS; i++)
        if (s->noted[i] != NULL) {
            s->left[n++] = s->noted[i];
            s->noted[i] = NULL;
        }
    s->n = 0;
    for (size_t i = 0; i < n; i++) {
        note_job_locked(s, s->left[i]);
        wq_job_unref(s->left[i]);
    }
}

/* Takes some of what is noted. */
static size_t take_noted(job_stream *s, wq_job **out, size_t most, int *overflowed)
{
    size_t n = 0;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < SLOTS && s->n > 0; i++)
        if (s->noted[i] != NULL) {
            out[n++] = s->noted[i];
            s->noted[i] = NULL;
            s->n--;
            if (n == most)
                break;
        }
    *overflowed = s->overflowed;
    s->overflowed = 0;
    if (s->n > 0)
        close_gaps_locked(s);
    pthread_mutex_unlock(&s->lock);
    return n;
}

/* Nonzero if there was something to send. */
static int send_changed(job_stream *s)
{
    wq_job *jobs[JOBS_PER_SEND];
    size_t size;
    int overflowed;
    size_t n = take_noted(s, jobs, JOBS_PER_SEND, &overflowed);
    if (n == 0 && !overflowed)
        return 0;
    wq_http *http = s->base.held.http;
    const h2o_iovec_t prefix = wq_prefix(http, s->base.held.req);
    FILE *out = open_memstream(&s->base.text, &size);
    for (size_t i = 0; i < n; i++) {
        h2o_iovec_t record = wq_job_record_now(http, prefix, jobs[i]);
        if (out != NULL)
            fprintf(out, "data: %.*s\n\n", (int)record.len, record.base);
        h2o_mem_release_shared(record.base);
        wq_job_unref(jobs[i]);
    }
    if (out != NULL && overflowed)
        fputs("event: reload\ndata: {}\n\n", out);
    if (out == NULL || fclose(out) != 0)
        return 0;
    wq_event_stream_send(&s->base, s->base.text, size);
    return 1;
}

static void go_on_with_jobs(wq_event_stream *base);

/* ---- other machines -------------------------------------------------------------------------- */

/* A look at the store, by a thread. */
typedef struct far_look {
    job_stream *stream; /* there, as long as its request is */
    wq_http *http;
    wq_far_jobs before, now;
    int is_known;
    char *text;
    size_t size;
} far_look;

static void look_far(void *user, wq_http_task *task)
{
    far_look *look = user;
    (void)task;
    look->is_known = wq_far_jobs_get(look->http, &look->now, NULL) == WQ_OK;
    FILE *out = look->is_known ? open_memstream(&look->text, &look->size) : NULL;
    if (out == NULL)
        return;
    wq_far_jobs_write_news(out, &look->before, &look->now);
    (void)fclose(out);
}

static void on_looked_far(void *user, h2o_req_t *req)
{
    far_look *look = user;
    job_stream *s = look->stream;
    wq_far_jobs *rest = look->is_known ? &look->before : &look->now;
    if (req != NULL && !s->base.over) {
        s->is_looking = 0;
        s->far_at = wq_loop_now() + FAR_EVERY_MS;
        s->far = look->is_known ? look->now : look->before;
        s->far_text = look->text;
        s->far_size = look->size;
    } else {
        rest = &look->now;
        wq_far_jobs_free(&look->before);
        free(look->text);
    }
    wq_far_jobs_free(rest);
    free(look);
    if (req != NULL && !s->base.over && !s->base.in_flight)
        go_on_with_jobs(&s->base);
}

static void begin_far_look(job_stream *s)
{
    wq_http *http = s->base.held.http;
    far_look *look = calloc(1, sizeof *look);
    if (look == NULL)
        return;
    *look = (far_look){.stream = s, .http = http, .before = s->far};
    if (wq_work_start(http, s->base.held.req, look_far, on_looked_far, look) != WQ_OK) {
        free(look);
        return;
    }
    s->is_looking = 1;
    s->far = (wq_far_jobs){0};
}

/* Nonzero if there was something to send. */
static int send_far(job_stream *s, int64_t now)
{
    if (!s->is_looking && now >= s->far_at && wq_has_elsewhere(s->base.held.http->queue)) {
        s->far_at = now + FAR_EVERY_MS;
        begin_far_look(s);
    }
    char *text = s->far_text;
    s->far_text = NULL;
    if (text == NULL || s->far_size == 0) {
        free(text);
        return 0;
    }
    s->base.text = text;
    wq_event_stream_send(&s->base, text, s->far_size);
    return 1;
}

static void go_on_with_jobs(wq_event_stream *base)
{
    job_stream *s = (job_stream *)base;
    int64_t now = wq_loop_now(), due = base->sent_at + SEND_EVERY_MS;
    unsigned beat_ms = base->held.http->options.heartbeat_ms;
    if (wq_event_stream_must_stop(base)) {
        base->held.req->http1_is_persistent = 0;
        wq_event_stream_end(base, H2O_SEND_STATE_FINAL, NULL, 0);
        return;
    }
    if (now >= due) {
        pthread_mutex_lock(&s->lock);
        s->is_told = s->in_transit;
        pthread_mutex_unlock(&s->lock);
        if (send_changed(s)) {
            s->beat_at = now + beat_ms;
            return;
        }
        due = now + LOOK_EVERY_MS;
    }
    if (send_far(s, now))
        return;
    if (beat_ms != 0 && now >= s->beat_at) {
        s->beat_at = now + beat_ms;
        wq_event_stream_send(base, ":\n\n", 3);
        return;
    }
    wq_held_deadline(&base->held, due < now + LOOK_EVERY_MS ? due : now + LOOK_EVERY_MS);
}

/* ---- opening --------------------------------------------------------------------------------- */

static void on_news_arrived(wq_event_stream *base)
{
    job_stream *s = (job_stream *)base;
    pthread_mutex_lock(&s->lock);
    s->in_transit = 0;
    pthread_mutex_unlock(&s->lock);
}

static void end_watching_jobs(wq_event_stream *base)
{
    wq_jobs_watch_cancel(((job_stream *)base)->watch);
}

int wq_answer_job_events(wq_http *http, h2o_req_t *req)
{
    job_stream *s = calloc(1, sizeof *s);
    if (s == NULL)
        return wq_problem(req, 500, "There is no memory for a stream.");
    s->base.go_on = go_on_with_jobs;
    s->base.arrived = on_news_arrived;
    s->base.ending = end_watching_jobs;
    s->base.dispose = dispose_job_stream;
    pthread_mutex_init(&s->lock, NULL);
    if (wq_event_stream_open(&s->base, http, req) != 0)
        return 0;
    if (wq_jobs_watch_all(http->queue, on_job_news, s, &s->watch) != WQ_OK)
        return wq_event_stream_refuse(&s->base);
    s->beat_at = wq_loop_now() + http->options.heartbeat_ms;
    wq_event_stream_start(&s->base);
    return 0;
}
