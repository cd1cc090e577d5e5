/* threads.c - threads for what would hold up a loop.
 *
 * They start one by one, when there is something to do and none is idle, and stay. What they have
 * done goes back to its loop as a post. */
#include "workqueue/http/hold/work.h"

#include <signal.h>
#include <stdlib.h>

enum { MAX_THREADS = 16, MAX_WAITING = 4096 };

struct wq_threads {
    wq_http *http;
    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t work;
    STAILQ_HEAD(, wq_task) row;
    size_t n_waiting;
    unsigned n_idle, n;
    pthread_t threads[MAX_THREADS];

    int closing;
};

struct wq_threads *wq_threads_new(wq_http *http)
{
    struct wq_threads *threads = calloc(1, sizeof *threads);
    if (threads == NULL)
        return NULL;
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->work, NULL);
    threads->http = http;
    STAILQ_INIT(&threads->row);
    return threads;
}

static wq_task *take_locked(struct wq_threads *threads)
{
    wq_task *task = STAILQ_FIRST(&threads->row);
    if (task == NULL)
        return NULL;
    STAILQ_REMOVE_HEAD(&threads->row, link);
    threads->n_waiting--;
    return task;
}

static void *thread_main(void *arg)
{
    struct wq_threads *threads = arg;
    wq_task *task;
    pthread_mutex_lock(&threads->lock);
    while (!threads->closing) {
        if ((task = take_locked(threads)) == NULL) {
            threads->n_idle++;
            pthread_cond_wait(&threads->work, &threads->lock);
            threads->n_idle--;
            continue;
        }
        pthread_mutex_unlock(&threads->lock);
        task->work(task);
        if (wq_post_send(threads->http, &task->post) != 0)
            task->lost(task);
        pthread_mutex_lock(&threads->lock);
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

/* The host's signals are not for these threads. */
static int add_thread_locked(struct wq_threads *threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = pthread_create(&threads->threads[threads->n], NULL, thread_main, threads);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r != 0)
        return threads->n > 0 ? WQ_OK : WQ_ERROR_NO_MEMORY; /* the others will get to it */
    pthread_setname_np(threads->threads[threads->n++], "wq-http");
    return WQ_OK;
}

static int put_locked(struct wq_threads *threads, wq_task *task)
{
    int result = WQ_OK;
    if (threads->closing || threads->n_waiting == MAX_WAITING)
        return WQ_ERROR_FULL;
    if (threads->n_idle <= threads->n_waiting && threads->n < MAX_THREADS)
        result = add_thread_locked(threads);
    if (result != WQ_OK)
        return result;
    STAILQ_INSERT_TAIL(&threads->row, task, link);
    threads->n_waiting++;
    pthread_cond_signal(&threads->work);
    return WQ_OK;
}

int wq_task_start(wq_http *http, h2o_req_t *req, wq_task *task)
{
    struct wq_threads *threads = http->threads;
    task->post.loop = wq_loop_of(http, req);
    pthread_mutex_lock(&threads->lock);
    int result = put_locked(threads, task);
    pthread_mutex_unlock(&threads->lock);
    return result;
}

void wq_threads_free(struct wq_threads *threads)
{
    wq_task *task;
    if (threads == NULL)
        return;
    pthread_mutex_lock(&threads->lock);
    threads->closing = 1;
    pthread_cond_broadcast(&threads->work);
    pthread_mutex_unlock(&threads->lock);
    for (unsigned i = 0; i < threads->n; i++)
        pthread_join(threads->threads[i], NULL);
    while ((task = take_locked(threads)) != NULL)
        task->lost(task);
    pthread_cond_destroy(&threads->work);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}
