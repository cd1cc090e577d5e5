/* elsewhere.c - jobs that other machines run, for requests of other servers: the runner knows of
 * them. It is in use while it is asked, and is not closed meanwhile. */
#include "workqueue/core/life.h"

/* NULL and an error if the queue stops, or there is no such runner (WQ_OK). */
static wq_runner *enter_runner(wq_queue *queue, int *result, wq_error *error)
{
    *result = WQ_OK;
    if (queue == NULL) {
        *result = wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the queue is NULL");
        return NULL;
    }
    if (!wq_has_elsewhere(queue))
        return NULL;
    pthread_mutex_lock(&queue->lock);
    int stops = queue->stopping;
    queue->runner_users += !stops;
    pthread_mutex_unlock(&queue->lock);
    if (stops)
        *result = wq_fail(error, WQ_ERROR_CLOSING, "the queue is stopping");
    return stops ? NULL : queue->runner;
}

static void leave_runner(wq_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    if (--queue->runner_users == 0)
        pthread_cond_broadcast(&queue->unused);
    pthread_mutex_unlock(&queue->lock);
}

int wq_has_elsewhere(const wq_queue *queue)
{
    return queue != NULL && !wq_owner_is_forked(queue) && queue->runner->list != NULL;
}

typedef struct listing {
    wq_queue *queue;
    int (*each)(void *user, const wq_elsewhere *job);
    void *user;
} listing;

static int pass_on(void *user, const wq_elsewhere *job)
{
    const listing *l = user;
    pthread_mutex_lock(&l->queue->lock);
    int is_ours = wq_table_find(&l->queue->by_key, job->key) != NULL;
    pthread_mutex_unlock(&l->queue->lock);
    return is_ours ? 0 : l->each(l->user, job);
}

int wq_jobs_elsewhere(wq_queue *queue, int (*each)(void *user, const wq_elsewhere *job), void *user,
                      wq_error *error)
{
    int result;
    listing l = {queue, each, user};
    if (each == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "each is NULL");
    wq_runner *runner = enter_runner(queue, &result, error);
    if (runner == NULL)
        return result;
    result = runner->list(runner->self, pass_on, &l, error);
    leave_runner(queue);
    return result;
}

int wq_cancel_elsewhere(wq_queue *queue, const wq_elsewhere *job, wq_error *error)
{
    int result;
    if (job == NULL || job->id == NULL)
        return wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "the job, or its id, is NULL");
    wq_runner *runner = enter_runner(queue, &result, error);
    if (runner == NULL)
        return result;
    result = runner->cancel_elsewhere != NULL
                 ? runner->cancel_elsewhere(runner->self, job, error)
                 : wq_fail(error, WQ_ERROR_INVALID_ARGUMENT, "cancel it where it runs");
    leave_runner(queue);
    return result;
}
