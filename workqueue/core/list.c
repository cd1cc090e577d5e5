/* list.c - all jobs at once, for an operator: a list in pieces, and the news of each. */
#include <stdlib.h>
#include <string.h>

#include "workqueue/core/life.h"

enum { MOST_JOBS = 1000 };

/* ---- the list -------------------------------------------------------------------------------- */

/* The smallest ids that were met so far: a heap with the largest in front. */
typedef struct smallest {
    wq_job **jobs;
    size_t n, most;
} smallest;

static void sift_down(smallest *s, size_t i, wq_job *job)
{
    for (size_t child; (child = 2 * i + 1) < s->n; i = child) {
        if (child + 1 < s->n && strcmp(s->jobs[child + 1]->id, s->jobs[child]->id) > 0)
            child++;
        if (strcmp(s->jobs[child]->id, job->id) <= 0)
            break;
        s->jobs[i] = s->jobs[child];
    }
    s->jobs[i] = job;
}

static void sift_up(smallest *s, size_t i, wq_job *job)
{
    for (; i > 0 && strcmp(s->jobs[(i - 1) / 2]->id, job->id) < 0; i = (i - 1) / 2)
        s->jobs[i] = s->jobs[(i - 1) / 2];
    s->jobs[i] = job;
}

static void keep_smallest(smallest *s, wq_job *job)
{
    if (s->n < s->most)
        sift_up(s, s->n++, job);
    else if (strcmp(job->id, s->jobs[0]->id) < 0)
        sift_down(s, 0, job);
}

/* Under the queue's lock. */
static int is_listed_locked(const wq_job *job, const wq_jobs_filter *filter, const char *after)
{
    if (job->phase == WQ_PHASE_ADMITTING || (after != NULL && strcmp(job->id, after) <= 0))
        return 0;
    if (filter == NULL)
        return 1;
    if (filter->states != 0 && !(filter->states & 1u << job->state))
        return 0;
    if (filter->server != NULL && strcmp(filter->server, job->params.server) != 0)
        return 0;
    return filter->document_set_id == NULL ||
           strcmp(filter->document_set_id, job->params.document_set_id) == 0;
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp((*(wq_job *const *)a)->id, (*(wq_job *const *)b)->id);
}

int wq_jobs(wq_queue *queue, const wq_jobs_filter *filter, const char *after, wq_job **out,
            size_t most, size_t *n)
{
    if (queue == NULL || out == NULL || n == NULL || most == 0)
        return WQ_ERROR_INVALID_ARGUMENT;
    if (wq_owner_is_forked(queue))
        return WQ_ERROR_CLOSING;
    smallest found = {.jobs = out, .most = most < MOST_JOBS ? most : MOST_JOBS};
    pthread_mutex_lock(&queue->lock);
    size_t at = 0;
    for (const char *id; (id = wq_table_next(&queue->known.by_id, &at)) != NULL;) {
        wq_job *job = (wq_job *)(id - offsetof(wq_job, id));
        if (is_listed_locked(job, filter, after))
            keep_smallest(&found, job);
    }
    for (size_t i = 0; i < found.n; i++)
        wq_job_ref(out[i]);
    pthread_mutex_unlock(&queue->lock);
    qsort(out, found.n, sizeof *out, compare_ids);
    *n = found.n;
    return WQ_OK;
}

/* ---- the news -------------------------------------------------------------------------------- */

int wq_jobs_watch_all(wq_queue *queue, wq_job_news_cb cb, void *user, wq_jobs_watch **out)
{
    if (queue == NULL || cb == NULL || out == NULL)
        return WQ_ERROR_INVALID_ARGUMENT;
    if (wq_owner_is_forked(queue))
        return WQ_ERROR_CLOSING;
    return wq_job_news_watch(queue, &queue->news, cb, user, out);
}
