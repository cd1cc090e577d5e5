/* news.c - tells of changes; the log's share of them is in event_log.c. */
#include "workqueue/core/news.h"

#include <assert.h>
#include <stdlib.h>

#include "workqueue/core/event_log.h"
#include "workqueue/core/owner.h"

struct wq_jobs_watch {
    LIST_ENTRY(wq_jobs_watch) link;
    wq_job_news *news;
    wq_queue *queue;
    wq_job_news_cb cb;
    void *user;
};

void wq_job_news_init(wq_job_news *news, const wq_logger *logger)
{
    news->logger = logger;
    pthread_mutex_init(&news->lock, NULL);
    LIST_INIT(&news->all);
}

void wq_job_news_dispose(wq_job_news *news)
{
    assert(LIST_EMPTY(&news->all));
    pthread_mutex_destroy(&news->lock);
}

static int state_of(wq_job *job)
{
    pthread_mutex_lock(&job->lock);
    int state = job->state;
    pthread_mutex_unlock(&job->lock);
    return state;
}

/* Who comes first with a state logs it; a job that is quick may have passed one unseen. */
static void log_change(wq_job_news *news, wq_job *job)
{
    wq_snapshot now;
    wq_job_snapshot(job, &now);
    int before = atomic_exchange(&job->logged, now.state + 1) - 1;
    if (before < WQ_STATE_QUEUED)
        wq_event_accepted(news->logger, job);
    if (before < WQ_STATE_RUNNING && now.state == WQ_STATE_RUNNING)
        wq_event_started(news->logger, job, &now);
    if (before < WQ_STATE_SUCCEEDED && now.state >= WQ_STATE_SUCCEEDED)
        wq_event_ended(news->logger, job, &now);
    wq_snapshot_clear(&now);
}

void wq_job_news_tell(wq_job_news *news, wq_job *job)
{
    wq_jobs_watch *watch;
    /* progress is no event: only a state that the log has not */
    if (news->logger->cb != NULL && atomic_load(&job->logged) != state_of(job) + 1)
        log_change(news, job);
    wq_watchers_tell(&job->watchers);
    if (atomic_load_explicit(&news->n, memory_order_relaxed) == 0)
        return;
    pthread_mutex_lock(&news->lock);
    LIST_FOREACH(watch, &news->all, link)
    watch->cb(watch->user, job);
    pthread_mutex_unlock(&news->lock);
}

int wq_job_news_watch(wq_queue *queue, wq_job_news *news, wq_job_news_cb cb, void *user,
                      wq_jobs_watch **out)
{
    wq_jobs_watch *watch = malloc(sizeof *watch);
    if (watch == NULL)
        return WQ_ERROR_NO_MEMORY;
    *watch = (wq_jobs_watch){.news = news, .queue = queue, .cb = cb, .user = user};
    pthread_mutex_lock(&news->lock);
    LIST_INSERT_HEAD(&news->all, watch, link);
    pthread_mutex_unlock(&news->lock);
    atomic_fetch_add(&news->n, 1);
    *out = watch;
    return WQ_OK;
}

void wq_jobs_watch_cancel(wq_jobs_watch *watch)
{
    if (watch == NULL || wq_owner_is_forked(watch->queue))
        return;
    atomic_fetch_sub(&watch->news->n, 1);
    pthread_mutex_lock(&watch->news->lock);
    LIST_REMOVE(watch, link);
    pthread_mutex_unlock(&watch->news->lock);
    free(watch);
}
