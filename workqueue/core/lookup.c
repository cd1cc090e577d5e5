/* lookup.c - a few threads that ask a store which blocks, for callers that must not wait. */
#include "workqueue/core/lookup.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "workqueue/util/log.h"
#include "workqueue/util/threads.h"

enum { THREADS = 4 };

struct wq_lookups {
    pthread_t threads[THREADS];
    unsigned started;
    size_t max;

    pthread_mutex_t lock;
    /* under the lock */
    pthread_cond_t ready;
    STAILQ_HEAD(, wq_lookup) waiting;
    size_t n;
    int closing;
};

static void *lookup_main(void *arg)
{
    wq_lookups *l = arg;
    wq_lookup *lookup;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while ((lookup = STAILQ_FIRST(&l->waiting)) == NULL && !l->closing)
            pthread_cond_wait(&l->ready, &l->lock);
        if (lookup == NULL)
            break;
        STAILQ_REMOVE_HEAD(&l->waiting, link);
        l->n--;
        int closing = l->closing;
        pthread_mutex_unlock(&l->lock);
        lookup->ask(lookup, closing);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

int wq_lookups_add(wq_lookups *l, wq_lookup *lookup, wq_error *error)
{
    pthread_mutex_lock(&l->lock);
    int full = l->n >= l->max;
    if (!full) {
        STAILQ_INSERT_TAIL(&l->waiting, lookup, link);
        l->n++;
        pthread_cond_signal(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    return full ? wq_fail(error, WQ_ERROR_FULL,
                          "%zu questions to the store are waiting, as many as may; try again later",
                          l->max)
                : WQ_OK;
}

int wq_lookups_open(wq_lookups **out, size_t max, wq_error *error)
{
    wq_lookups *l = calloc(1, sizeof *l);
    if (l == NULL)
        return wq_fail(error, WQ_ERROR_NO_MEMORY, "out of memory");
    l->max = max;
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->ready, NULL);
    STAILQ_INIT(&l->waiting);
    for (; l->started < THREADS; l->started++) {
        int r = wq_thread_start(&l->threads[l->started], "wq-lookup", lookup_main, l);
        if (r != 0) {
            wq_lookups_close(l);
            return wq_fail(error, WQ_ERROR_SYSTEM, "pthread_create: %s", strerror(r));
        }
    }
    *out = l;
    return WQ_OK;
}

void wq_lookups_close(wq_lookups *l)
{
    if (l == NULL)
        return;
    pthread_mutex_lock(&l->lock);
    l->closing = 1;
    pthread_cond_broadcast(&l->ready);
    pthread_mutex_unlock(&l->lock);
    for (unsigned i = 0; i < l->started; i++)
        pthread_join(l->threads[i], NULL);
    pthread_cond_destroy(&l->ready);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
