/* news.c - see news.h. A message is on its way at most once for a job; a job that nobody listens to
 * any more is freed when its message has arrived. */
#include "workqueue/http/hold/news.h"

#include <assert.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

enum {
    POSITIONS_MS = 100,    /* positions are news at most so often, */
    POSITIONS_PER_MS = 10, /* and a loop tells at most so many in a millisecond */
};

/* ---- one job --------------------------------------------------------------------------------- */

static void set_queued(wq_loop_job *lj, int is_queued)
{
    wq_news *news = lj->news;
    if (atomic_exchange(&lj->is_queued, is_queued) == is_queued)
        return;
    if (is_queued) {
        LIST_INSERT_HEAD(&news->queued, lj, queued_link);
        news->n_queued++;
    } else {
        LIST_REMOVE(lj, queued_link);
        news->n_queued--;
    }
}

/* Takes a snapshot and renders it; 1 if that gave another record, or another state: the first in
 * the queue that begins to run has the same record as before. */
static int refresh_job(wq_loop_job *lj)
{
    char small[512];
    const int before = lj->snapshot.state;
    const int resumed = lj->snapshot.resumes;
    wq_snapshot_clear(&lj->snapshot);
    wq_job_snapshot(lj->job, &lj->snapshot);
    set_queued(lj, lj->snapshot.state == WQ_STATE_QUEUED);
    if (lj->snapshot.resumes && lj->serial != 0)
        return !resumed; /* that is no end, and no record tells it */
    size_t n = wq_snapshot_json(&lj->snapshot, small, sizeof small);
    if (n < sizeof small && n == lj->record.len && memcmp(small, lj->record.base, n) == 0)
        return lj->snapshot.state != before;
    if (lj->record.base != NULL)
        h2o_mem_release_shared(lj->record.base);
    lj->record = h2o_iovec_init(h2o_mem_alloc_shared(NULL, n + 1, NULL), n);
    if (n < sizeof small)
        memcpy(lj->record.base, small, n);
    else
        wq_snapshot_json(&lj->snapshot, lj->record.base, n + 1);
    lj->serial++;
    return 1;
}

static void free_job(wq_loop_job *lj)
{
    if (lj->record.base != NULL)
        h2o_mem_release_shared(lj->record.base);
    wq_snapshot_clear(&lj->snapshot);
    wq_job_unref(lj->job);
    free(lj);
}

static int compare_jobs(const void *a, const void *b)
{
    const wq_job *x = ((const wq_loop_job *)a)->job, *y = ((const wq_loop_job *)b)->job;
    return x < y ? -1 : x > y;
}

/* The last listener has left. A message under way still points here: then its arrival frees. */
static void drop_job(wq_loop_job *lj)
{
    wq_watch_cancel(lj->watch);
    lj->watch = NULL;
    tdelete(lj, &lj->news->by_job, compare_jobs);
    LIST_REMOVE(lj, link);
    set_queued(lj, 0);
    if (!atomic_load(&lj->is_marked))
        free_job(lj);
}

static void tell_listeners(wq_loop_job *lj)
{
    /* A listener may leave, and with it the job may go, in its callback. */
    wq_listener *listener = LIST_FIRST(&lj->listeners), *next;
    for (; listener != NULL; listener = next) {
        next = LIST_NEXT(listener, link);
        listener->hear(listener);
    }
}

static void on_job_message(wq_loop_job *lj)
{
    /* Cleared before the snapshot: news after it sends another message. */
    atomic_store(&lj->is_marked, 0);
    if (LIST_EMPTY(&lj->listeners))
        free_job(lj);
    else if (refresh_job(lj))
        tell_listeners(lj);
}

/* ---- positions ------------------------------------------------------------------------------- */

/* Every start or end of a job moves all that wait behind it, so this news is told at a bounded
 * rate: at once after a quiet time, then as often as the loop can bear. The mark stays set between,
 * so that nobody sends messages meanwhile. */

/* From any thread of the queue's. */
static void on_positions_changed(void *user)
{
    wq_news *news = user;
    if (!atomic_exchange(&news->is_marked, 1))
        h2o_multithread_send_message(&news->receiver, &news->message);
}

static void tell_positions(wq_timer *timer)
{
    wq_news *news = H2O_STRUCT_FROM_MEMBER(wq_news, timer, timer);
    wq_loop_job *lj = LIST_FIRST(&news->queued), *next;
    news->told_at = wq_monotonic_ms();
    atomic_store(&news->is_marked, 0);
    for (; lj != NULL; lj = next) {
        next = LIST_NEXT(lj, queued_link);
        if (refresh_job(lj))
            tell_listeners(lj);
    }
}

static void on_positions_message(wq_news *news)
{
    int64_t at = news->told_at + POSITIONS_MS + (int64_t)news->n_queued / POSITIONS_PER_MS;
    if (at <= wq_monotonic_ms())
        tell_positions(&news->timer);
    else
        wq_timer_set(news->timers, &news->timer, at);
}

/* ---- from workers ---------------------------------------------------------------------------- */

/* That a job has left the queue is news of its position, no more: told with those of the others, or
 * with the program's first line, whichever comes first. Saves waking the loop, and a send, for each
 * short job. */
static int has_only_started(wq_loop_job *lj)
{
    wq_snapshot now;
    if (!atomic_load(&lj->is_queued))
        return 0;
    wq_job_snapshot(lj->job, &now);
    int only = now.state == WQ_STATE_RUNNING && now.message == NULL && now.reached == 0;
    wq_snapshot_clear(&now);
    return only;
}

/* From a worker: never blocks, and costs little when the loop has not caught up. */
static void on_job_changed(void *user)
{
    wq_loop_job *lj = user;
    if (has_only_started(lj))
        on_positions_changed(lj->news);
    else if (!atomic_exchange(&lj->is_marked, 1))
        h2o_multithread_send_message(&lj->news->receiver, &lj->message);
}

static void on_messages(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    wq_news *news = H2O_STRUCT_FROM_MEMBER(wq_news, receiver, receiver);
    while (!h2o_linklist_is_empty(messages)) {
        h2o_multithread_message_t *m =
            H2O_STRUCT_FROM_MEMBER(h2o_multithread_message_t, link, messages->next);
        h2o_linklist_unlink(&m->link);
        assert(messages->next != &m->link);
        if (m == &news->message)
            on_positions_message(news);
        else
            on_job_message(H2O_STRUCT_FROM_MEMBER(wq_loop_job, message, m));
    }
}

/* ---- listeners ------------------------------------------------------------------------------- */

/* Takes over the reference to `job`. */
static wq_loop_job *new_job(wq_news *news, wq_job *job)
{
    wq_loop_job *lj = calloc(1, sizeof *lj);
    if (lj == NULL)
        goto failed;
    lj->news = news;
    lj->job = job;
    LIST_INIT(&lj->listeners);
    if (tsearch(lj, &news->by_job, compare_jobs) == NULL)
        goto failed;
    if (wq_job_watch(job, on_job_changed, lj, &lj->watch) != WQ_OK) {
        tdelete(lj, &news->by_job, compare_jobs);
        goto failed;
    }
    LIST_INSERT_HEAD(&news->jobs, lj, link);
    refresh_job(lj);
    return lj;
failed:
    wq_job_unref(job);
    free(lj);
    return NULL;
}

int wq_news_join(wq_news *news, wq_job *job, wq_listener *listener)
{
    wq_loop_job probe = {.job = job};
    wq_loop_job **found = tfind(&probe, &news->by_job, compare_jobs), *lj;
    if (found != NULL) {
        wq_job_unref(job);
        lj = *found;
    } else if ((lj = new_job(news, job)) == NULL) {
        return -1;
    }
    listener->job = lj;
    LIST_INSERT_HEAD(&lj->listeners, listener, link);
    return 0;
}

void wq_news_leave(wq_listener *listener)
{
    wq_loop_job *lj = listener->job;
    listener->job = NULL;
    LIST_REMOVE(listener, link);
    if (LIST_EMPTY(&lj->listeners))
        drop_job(lj);
}

void wq_news_tell_all(wq_news *news)
{
    wq_loop_job *lj = LIST_FIRST(&news->jobs), *next;
    for (; lj != NULL; lj = next) {
        next = LIST_NEXT(lj, link);
        tell_listeners(lj);
    }
}

void wq_news_open(wq_news *news, wq_queue *queue, wq_timers *timers,
                  h2o_multithread_queue_t *messages)
{
    *news = (wq_news){.timers = timers, .messages = messages, .timer = {.fire = tell_positions}};
    LIST_INIT(&news->jobs);
    LIST_INIT(&news->queued);
    h2o_multithread_register_receiver(messages, &news->receiver, on_messages);
    if (wq_queue_watch(queue, on_positions_changed, news, &news->watch) != WQ_OK)
        h2o_fatal("workqueue: out of memory");
}

void wq_news_close(wq_news *news)
{
    wq_watch_cancel(news->watch);
    /* Nobody sends any more; what has been sent is taken in and let go. */
    on_messages(&news->receiver, &news->receiver._messages);
    wq_timer_clear(news->timers, &news->timer);
    h2o_multithread_unregister_receiver(news->messages, &news->receiver);
}
