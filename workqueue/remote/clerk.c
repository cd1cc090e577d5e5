/* clerk.c - the packager's second thread: asks for sizes of outputs and deletes outputs, which may
 * have to wait until a store is back. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "workqueue/remote/packaging.h"
#include "workqueue/util/log.h"

enum { RETRY_MS = 250 };

static void pause_briefly(void)
{
    const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000L};
    nanosleep(&pause, NULL);
}

/* A size, or a negative wq_result. */
static int64_t ask_size(wq_packager *p, work *w)
{
    wq_output output;
    int result;
    while ((result = wq_job_output(w->job, &output, NULL)) == WQ_ERROR_AWAY && !p->closing)
        pause_briefly();
    if (result != WQ_OK)
        return result;
    if (output.fd >= 0)
        close(output.fd);
    return (int64_t)output.size_bytes;
}

static void finish(wq_packager *p, work *w)
{
    int64_t size = ask_size(p, w);
    pthread_mutex_lock(&p->lock);
    w->size_bytes = size;
    w->has_size = w->has_news = p->work_news = 1;
    pthread_cond_signal(&p->news);
    pthread_mutex_unlock(&p->lock);
}

/* What is not there is deleted too. What could not be deleted because the store is away, and we
 * stop, is not settled, so that others do it. */
static void delete_output(wq_packager *p, deletion *d)
{
    wq_error error;
    int result;
    while ((result = wq_output_delete(p->queue, &d->message.params, &error)) == WQ_ERROR_AWAY &&
           !p->closing)
        pause_briefly();
    if (result != WQ_OK && result != WQ_ERROR_NOT_FOUND)
        wq_log(&p->logger, WQ_LOG_WARNING, "an output could not be deleted: %s", error.message);
    if (result != WQ_ERROR_AWAY)
        wq_broker_ack(p->broker, d->delivery, NULL);
    wq_deletion_free(d);
}

void wq_deletion_free(deletion *d)
{
    wq_job_message_clear(&d->message);
    free(d->delivery);
    free(d);
}

void wq_clerk_finish(wq_packager *p, work *w)
{
    w->phase = FINISHING;
    pthread_mutex_lock(&p->lock);
    STAILQ_INSERT_TAIL(&p->to_finish, w, clerk);
    pthread_cond_signal(&p->clerk_news);
    pthread_mutex_unlock(&p->lock);
}

void wq_clerk_delete(wq_packager *p, deletion *d)
{
    pthread_mutex_lock(&p->lock);
    STAILQ_INSERT_TAIL(&p->to_delete, d, link);
    pthread_cond_signal(&p->clerk_news);
    pthread_mutex_unlock(&p->lock);
}

/* The thread waits for all that is to finish, so it ends before us. */
void *wq_clerk_main(void *packager)
{
    wq_packager *p = packager;
    pthread_mutex_lock(&p->lock);
    while (!p->clerk_closing) {
        work *w = STAILQ_FIRST(&p->to_finish);
        deletion *d = w == NULL ? STAILQ_FIRST(&p->to_delete) : NULL;
        if (w != NULL)
            STAILQ_REMOVE_HEAD(&p->to_finish, clerk);
        else if (d != NULL)
            STAILQ_REMOVE_HEAD(&p->to_delete, link);
        else
            pthread_cond_wait(&p->clerk_news, &p->lock);
        pthread_mutex_unlock(&p->lock);
        if (w != NULL)
            finish(p, w);
        else if (d != NULL)
            delete_output(p, d);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}
