/* news.h - what is new of a job, for those who watch it, those who watch all, and the log. */
#ifndef WQ_CORE_NEWS_H
#define WQ_CORE_NEWS_H

#include <workqueue/extend.h>

#include "workqueue/core/job.h"
#include "workqueue/util/log.h"

/* Of a queue; made once, before there are jobs. */
typedef struct wq_job_news {
    const wq_logger *logger;
    atomic_size_t n; /* who watches all; so that nobody pays where there is none */
    pthread_mutex_t lock;
    LIST_HEAD(, wq_jobs_watch) all; /* under the lock */
} wq_job_news;

void wq_job_news_init(wq_job_news *news, const wq_logger *logger);
void wq_job_news_dispose(wq_job_news *news);

/* Tells everybody of a change of the job, and the log of its begin and its end, each once. The
 * caller holds no lock. */
void wq_job_news_tell(wq_job_news *news, wq_job *job);

/* For wq_jobs_watch_all(). */
int wq_job_news_watch(wq_queue *queue, wq_job_news *news, wq_job_news_cb cb, void *user,
                      wq_jobs_watch **out);

#endif
